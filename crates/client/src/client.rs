//! The client of one node: how requests are made, authorized and answered; streams and their catalog.

use std::sync::Arc;
use std::time::Duration;

use reqwest::{Method, RequestBuilder, Response, StatusCode, header};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use tokio::sync::OnceCell;
use weir_event::flow::StreamName;

use crate::address::{Address, Place};
use crate::model::{Page, Stream, WellKnown};
use crate::{Error, Kind};

/// A client of one node, for one credential. Cheap to clone; clones share connections.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    http: reqwest::Client,
    /// Base of all paths, without a slash at the end.
    base: String,
    token: Option<String>,
    known: OnceCell<WellKnown>,
}

impl std::fmt::Debug for Client {
    /// Without the token: what is printed for debugging ends in logs.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("node", &self.inner.base).finish_non_exhaustive()
    }
}

/// A question that is not answered within this is an outage. Deliveries and waits have their own times.
const ANSWER_MAX: Duration = Duration::from_secs(30);
/// A JSON answer larger than this is not a node's.
const ANSWER_BYTES_MAX: usize = 64 << 20;

impl Client {
    /// A client of the node at this base URL, such as `http://127.0.0.1:8080`. Opens no connection yet.
    ///
    /// # Errors
    /// `Invalid`: not an `http://` URL with a host. (TLS is not built in yet: `https://` is refused in words.)
    pub fn new(node: &str, token: Option<&str>) -> Result<Self, Error> {
        let base = node.trim_end_matches('/');
        let url = reqwest::Url::parse(base).ok().filter(|url| url.has_host()).ok_or_else(|| {
            Error::new(Kind::Invalid, format!("{node} is not the URL of a node, as http://127.0.0.1:8080"))
        })?;
        match url.scheme() {
            "http" => {}
            "https" => {
                return Err(Error::new(
                    Kind::Invalid,
                    format!(
                        "{node} needs TLS, which this version does not speak yet; use http:// or flow+http://"
                    ),
                ));
            }
            other => {
                return Err(Error::new(
                    Kind::Invalid,
                    format!("{node}: a node is reached by http://, not {other}://"),
                ));
            }
        }
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("weir/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(Duration::from_secs(10))
            .tcp_keepalive(Duration::from_secs(30));
        if url.host_str().is_some_and(is_loopback) {
            // A proxy configured for the outside world would ask its own loopback.
            builder = builder.no_proxy();
        }
        let http = builder
            .build()
            .map_err(|error| Error::new(Kind::Internal, format!("make an HTTP client: {error}")))?;
        Ok(Self {
            inner: Arc::new(Inner {
                http,
                base: base.to_owned(),
                token: token.filter(|token| !token.is_empty()).map(str::to_owned),
                known: OnceCell::new(),
            }),
        })
    }

    /// The node's base URL.
    #[must_use]
    pub fn node(&self) -> &str {
        &self.inner.base
    }

    /// Whether requests carry a credential.
    #[must_use]
    pub fn has_token(&self) -> bool {
        self.inner.token.is_some()
    }

    /// The same node with another credential, or none.
    #[must_use]
    pub fn with_token(&self, token: Option<&str>) -> Self {
        let inner = Inner {
            http: self.inner.http.clone(),
            base: self.inner.base.clone(),
            token: token.map(str::to_owned),
            known: OnceCell::new(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// What the node says of itself. Asked once per client.
    pub async fn well_known(&self) -> Result<&WellKnown, Error> {
        self.inner
            .known
            .get_or_try_init(|| async {
                let request = self.request(Method::GET, "/.well-known/flow");
                self.json("ask the node what it is", request).await
            })
            .await
    }

    /// The same, if it was asked before.
    pub(crate) fn known(&self) -> Option<&WellKnown> {
        self.inner.known.get()
    }

    /// The client of the node a stream is on, and the stream's name there. This client's token goes along only
    /// to its own node: it is no one else's to see.
    pub async fn resolve(&self, address: &Address) -> Result<(Client, StreamName), Error> {
        let node = match &address.place {
            Place::Here => return Ok((self.clone(), address.stream.clone())),
            Place::Node(node) => node.clone(),
            Place::Resolved(origin) => {
                let there = Client::new(origin, None)?;
                let known =
                    there.well_known().await.map_err(|error| error.context(&format!("resolve {address}")))?;
                match known.endpoints.get("http").and_then(Value::as_str) {
                    Some(url) => url.trim_end_matches('/').to_owned(),
                    None => origin.clone(),
                }
            }
        };
        let client = if node == self.inner.base { self.clone() } else { Client::new(&node, None)? };
        Ok((client, address.stream.clone()))
    }

    /// One page of the streams that match all words of `query` (all streams if empty).
    pub async fn find(
        &self,
        query: &str,
        limit: Option<u32>,
        after: Option<&str>,
    ) -> Result<Page<Stream>, Error> {
        let mut request = self.request(Method::GET, "/streams");
        if !query.is_empty() {
            request = request.query(&[("q", query)]);
        }
        self.page("find streams", "streams", request, limit, after).await
    }

    /// A stream's descriptor and what the node adds.
    pub async fn stream(&self, name: &StreamName) -> Result<Stream, Error> {
        self.json(&format!("read stream {name}"), self.request(Method::GET, &format!("/streams/{name}")))
            .await
    }

    /// Creates a stream that must not exist yet.
    ///
    /// # Errors
    /// `Conflict` if it exists.
    pub async fn create_stream(
        &self,
        name: &StreamName,
        descriptor: &Map<String, Value>,
    ) -> Result<Stream, Error> {
        let request = self
            .request(Method::PUT, &format!("/streams/{name}"))
            .header(header::IF_NONE_MATCH, "*")
            .json(descriptor);
        self.json(&format!("create stream {name}"), request).await
    }

    /// Changes single members of a descriptor (RFC 7396: null removes). `confirm` repeats the token of an
    /// earlier `Conflict` that said what the change would delete or end.
    pub async fn patch_stream(
        &self,
        name: &StreamName,
        changes: &Map<String, Value>,
        confirm: Option<&str>,
    ) -> Result<Stream, Error> {
        let body = serde_json::to_vec(changes)
            .map_err(|error| Error::new(Kind::Internal, format!("write JSON: {error}")))?;
        let request = self
            .request(Method::PATCH, &format!("/streams/{name}"))
            .header(header::CONTENT_TYPE, "application/merge-patch+json")
            .header(header::IF_MATCH, "*")
            .query(&confirm.map(|token| [("confirm", token)]))
            .body(body);
        self.json(&format!("change stream {name}"), request).await
    }

    /// Retires a stream: its data is deleted and its subscriptions end. `confirm` as in
    /// [`Client::patch_stream`].
    pub async fn retire_stream(&self, name: &StreamName, confirm: Option<&str>) -> Result<(), Error> {
        let request = self
            .request(Method::DELETE, &format!("/streams/{name}"))
            .header(header::IF_MATCH, "*")
            .query(&confirm.map(|token| [("confirm", token)]));
        self.call(&format!("retire stream {name}"), request.timeout(ANSWER_MAX)).await.map(drop)
    }

    /// A GET of any JSON of the node: what has no method here.
    pub async fn get(&self, path: &str, query: &[(&str, &str)]) -> Result<Value, Error> {
        self.json(&format!("read {path}"), self.request(Method::GET, path).query(query)).await
    }

    /// A POST of JSON to any path of the node: what has no method here.
    pub async fn post(&self, path: &str, body: &Value) -> Result<Value, Error> {
        self.json(&format!("post to {path}"), self.request(Method::POST, path).json(body)).await
    }

    /// A DELETE of any path of the node.
    pub async fn delete(&self, path: &str) -> Result<(), Error> {
        let request = self.request(Method::DELETE, path).timeout(ANSWER_MAX);
        self.call(&format!("delete {path}"), request).await.map(drop)
    }

    /// A request to a path of the node, or to a whole URL of the same node, with the credential.
    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let url = if path.starts_with('/') { format!("{}{path}", self.inner.base) } else { path.to_owned() };
        let request = self.inner.http.request(method, url);
        match &self.inner.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    /// Sends; any status but 2xx is an error.
    pub(crate) async fn call(&self, what: &str, request: RequestBuilder) -> Result<Response, Error> {
        let response =
            request.send().await.map_err(|error| Error::from_transport(what, &self.inner.base, &error))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let retry_after = retry_after(&response);
        let body = self.body(what, response, 1 << 20).await.unwrap_or_default();
        Err(Error::from_answer(what, status.as_u16(), retry_after, &body))
    }

    /// Sends and reads a JSON answer.
    pub(crate) async fn json<T: DeserializeOwned>(
        &self,
        what: &str,
        request: RequestBuilder,
    ) -> Result<T, Error> {
        let response = self.call(what, request.timeout(ANSWER_MAX)).await?;
        self.read_json(what, response).await
    }

    /// Reads a JSON answer. An empty one (204) reads as `null`.
    pub(crate) async fn read_json<T: DeserializeOwned>(
        &self,
        what: &str,
        response: Response,
    ) -> Result<T, Error> {
        let empty = response.status() == StatusCode::NO_CONTENT;
        let body = self.body(what, response, ANSWER_BYTES_MAX).await?;
        let body: &[u8] = if empty && body.is_empty() { b"null" } else { &body };
        serde_json::from_slice(body).map_err(|error| {
            Error::new(
                Kind::Internal,
                format!("{what}: {} did not answer as a Weir node: {error}", self.inner.base),
            )
        })
    }

    /// Reads an answer's whole body, at most so many bytes.
    pub(crate) async fn body(
        &self,
        what: &str,
        mut response: Response,
        max: usize,
    ) -> Result<Vec<u8>, Error> {
        let mut body = Vec::new();
        loop {
            match response.chunk().await {
                Ok(Some(chunk)) if body.len() + chunk.len() > max => {
                    return Err(Error::new(
                        Kind::Internal,
                        format!("{what}: the answer exceeds {max} bytes"),
                    ));
                }
                Ok(Some(chunk)) => body.extend_from_slice(&chunk),
                Ok(None) => return Ok(body),
                Err(error) => return Err(Error::from_transport(what, &self.inner.base, &error)),
            }
        }
    }

    /// One page of a list, whose items stand under `member` (or `items`).
    pub(crate) async fn page<T: DeserializeOwned>(
        &self,
        what: &str,
        member: &str,
        request: RequestBuilder,
        limit: Option<u32>,
        after: Option<&str>,
    ) -> Result<Page<T>, Error> {
        let limit = limit.map(|limit| limit.to_string());
        let mut query = Vec::new();
        query.extend(limit.as_deref().map(|limit| ("limit", limit)));
        query.extend(after.map(|after| ("after", after)));
        let mut answer: Value = self.json(what, request.query(&query)).await?;
        let after = ["after", "next"].iter().find_map(|name| answer.get(name).and_then(Value::as_str));
        let after = after.map(str::to_owned);
        let items = match answer.get_mut(member) {
            Some(items) => items.take(),
            None => match answer.get_mut("items") {
                Some(items) => items.take(),
                None => answer,
            },
        };
        let items = serde_json::from_value(items).map_err(|error| {
            Error::new(
                Kind::Internal,
                format!("{what}: {} did not answer as a Weir node: {error}", self.inner.base),
            )
        })?;
        Ok(Page { items, after })
    }
}

/// The wait that an answer names, in seconds. The date form is not used between nodes and not read.
fn retry_after(response: &Response) -> Option<Duration> {
    let text = response.headers().get(header::RETRY_AFTER)?.to_str().ok()?;
    text.trim().parse().ok().map(Duration::from_secs)
}

fn is_loopback(host: &str) -> bool {
    host == "localhost"
        || host
            .trim_matches(['[', ']'])
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_an_http_url_and_tls_is_refused_in_words() {
        assert_eq!(Client::new("http://127.0.0.1:8080/", None).unwrap().node(), "http://127.0.0.1:8080");
        for (url, says) in
            [("127.0.0.1:8080", "not the URL"), ("https://a.example", "TLS"), ("ftp://a.example", "ftp")]
        {
            let error = Client::new(url, None).unwrap_err();
            assert_eq!(error.kind(), Kind::Invalid);
            assert!(error.to_string().contains(says), "{error}");
        }
    }

    #[tokio::test]
    async fn a_token_goes_to_its_own_node_only() {
        let client = Client::new("http://a.example:1", Some("secret")).unwrap();
        let (same, _) = client.resolve(&"http://a.example:1/streams/x".parse().unwrap()).await.unwrap();
        assert!(same.has_token());
        let (other, _) = client.resolve(&"http://b.example:1/streams/x".parse().unwrap()).await.unwrap();
        assert!(!other.has_token());
        assert!(!format!("{client:?}").contains("secret"));
    }
}
