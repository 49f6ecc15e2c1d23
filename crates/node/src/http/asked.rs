//! What every control call begins with: who asks, on which path, under which name the node was reached.
//!
//! [`Asked`] is taken from a request's head before its body is read, so that nobody without a good credential
//! makes the node read one.

use std::sync::Arc;

use axum::extract::{FromRequestParts, RawPathParams};
use http::header::{HOST, IF_MATCH, IF_NONE_MATCH, LINK, LOCATION};
use http::request::Parts;
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Uri};
use weir_event::flow::{Position, StreamName};

use crate::Node;
use crate::control::{Caller, Seen};
use crate::error::{Code, Error};

use super::query::Query;
use super::{Peer, auth};

/// The head of a request, judged.
pub(crate) struct Asked {
    /// Who asks.
    pub(crate) caller: Caller,
    /// Under which URL the node was reached, for the links in answers.
    pub(crate) base: Base,
    /// The request's headers.
    pub(crate) headers: HeaderMap,
    uri: Uri,
    path: Vec<(Box<str>, Box<str>)>,
}

impl FromRequestParts<Arc<Node>> for Asked {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, node: &Arc<Node>) -> Result<Self, Error> {
        let caller = auth::caller(node, &parts.headers, None, parts.extensions.get::<Peer>().copied())?;
        let params = RawPathParams::from_request_parts(parts, node)
            .await
            .map_err(|_| Error::new(Code::MalformedRequest, "the path is not UTF-8"))?;
        let path = params.iter().map(|(name, value)| (name.into(), value.into())).collect();
        let base = Base::of(node.url(), &parts.uri, &parts.headers);
        Ok(Self { caller, base, headers: parts.headers.clone(), uri: parts.uri.clone(), path })
    }
}

impl Asked {
    /// The query, which may have these parameters and no others.
    pub(crate) fn query(&self, known: &[&'static str]) -> Result<Query, Error> {
        Query::of(&self.uri, known)
    }

    /// The stream's name in the path.
    pub(crate) fn stream(&self) -> Result<StreamName, Error> {
        let text = self.segment("name");
        text.parse().map_err(|error| Error::new(Code::BadName, format!("{error}")))
    }

    /// A segment of the path; empty if the path has none of that name.
    pub(crate) fn segment(&self, name: &str) -> &str {
        self.path.iter().find(|(found, _)| **found == *name).map_or("", |(_, value)| value)
    }

    /// Which version of what the path names the caller has seen (RFC 9110 section 13.1).
    ///
    /// One entity tag or `*`: a list of versions any of which may be replaced has no use here.
    pub(crate) fn seen(&self) -> Result<Seen, Error> {
        let header =
            |name: &http::HeaderName| self.headers.get(name).map(|value| value.to_str().unwrap_or_default());
        match (header(&IF_MATCH).map(str::trim), header(&IF_NONE_MATCH).map(str::trim)) {
            (None, None) => Ok(Seen::Unsaid),
            (Some("*"), None) => Ok(Seen::Any),
            (None, Some("*")) => Ok(Seen::Nothing),
            (Some(tag), None) if tag.starts_with('"') && !tag.contains(',') => {
                let version = tag.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')?.parse().ok());
                // A tag that this node never gave matches nothing; no version is `NONE`.
                Ok(Seen::Version(version.unwrap_or(Position::NONE)))
            }
            // RFC 9110 section 13.1.1: a weak tag never matches.
            (Some(tag), None) if tag.starts_with("W/\"") && !tag.contains(',') => {
                Ok(Seen::Version(Position::NONE))
            }
            _ => Err(Error::new(
                Code::MalformedRequest,
                "send If-Match with one quoted entity tag or *, or If-None-Match: *",
            )),
        }
    }
}

/// The entity tag of a version.
pub(crate) fn etag(version: Position) -> HeaderValue {
    // A quoted number is a valid header value.
    HeaderValue::from_str(&format!("\"{version}\"")).unwrap_or(HeaderValue::from_static("\"0\""))
}

/// The URL under which the node was reached: the configured one, else the one that the request names.
#[derive(Clone, Debug)]
pub(crate) struct Base {
    secure: bool,
    /// Host, port, and the path of a configured URL without its last slash.
    rest: String,
}

impl Base {
    fn of(configured: Option<&Uri>, uri: &Uri, headers: &HeaderMap) -> Self {
        if let Some((url, authority)) = configured.and_then(|url| Some((url, url.authority()?))) {
            let secure = url.scheme_str() == Some("https");
            return Self { secure, rest: format!("{authority}{}", url.path().trim_end_matches('/')) };
        }
        let named = || Authority::try_from(headers.get(HOST)?.as_bytes()).ok();
        let authority = uri.authority().cloned().or_else(named);
        Self {
            secure: false,
            rest: authority.map_or_else(|| "localhost".to_owned(), |host| host.to_string()),
        }
    }

    /// The URL itself, without a slash at its end.
    pub(crate) fn url(&self) -> String {
        format!("{}://{}", if self.secure { "https" } else { "http" }, self.rest)
    }

    /// A URL below it; `path` begins with a slash.
    pub(crate) fn join(&self, path: &str) -> String {
        self.url() + path
    }

    /// The flow URI of a stream: `flow://`, or `flow+http://` where the node is reached without TLS.
    pub(crate) fn flow(&self, name: &StreamName) -> String {
        format!("{}://{}/{name}", if self.secure { "flow" } else { "flow+http" }, self.rest)
    }

    /// `Location` of something below the base, as a path: right behind any proxy that does not rewrite paths.
    pub(crate) fn location(&self, path: &str) -> (http::HeaderName, HeaderValue) {
        let fallback = HeaderValue::from_static("/");
        (LOCATION, HeaderValue::from_str(&self.join(path)).unwrap_or(fallback))
    }

    /// `Link` to a list's next page (RFC 8288).
    pub(crate) fn next(&self, path: &str, query: &[(&str, &str)]) -> Option<(http::HeaderName, HeaderValue)> {
        let encode = |text: &str| {
            percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
        };
        let query: Vec<String> =
            query.iter().map(|(name, value)| format!("{name}={}", encode(value))).collect();
        let link = format!("<{}?{}>; rel=\"next\"", self.join(path), query.join("&"));
        HeaderValue::from_str(&link).ok().map(|link| (LINK, link))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_is_the_configured_url_or_what_was_asked() {
        let name: StreamName = "a.b".parse().unwrap();
        let mut headers = HeaderMap::new();
        headers.insert(HOST, HeaderValue::from_static("127.0.0.1:8080"));
        let asked = Base::of(None, &"/x".parse().unwrap(), &headers);
        assert_eq!(asked.flow(&name), "flow+http://127.0.0.1:8080/a.b");
        assert_eq!(asked.join("/streams"), "http://127.0.0.1:8080/streams");
        let url = "https://node.example/".parse().unwrap();
        let configured = Base::of(Some(&url), &"/x".parse().unwrap(), &headers);
        assert_eq!(configured.flow(&name), "flow://node.example/a.b");
        let (_, link) = configured.next("/streams", &[("q", "a b"), ("after", "x")]).unwrap();
        assert_eq!(link, "<https://node.example/streams?q=a%20b&after=x>; rel=\"next\"");
    }
}
