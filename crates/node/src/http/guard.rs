//! What is refused before any call looks at a request.
//!
//! **An open node.** Without a token a node serves its own machine only, and then every program on the machine
//! may drive it; but so could a web page that the machine's browser shows, unless it is told apart. Two marks do
//! that, and both are checked on every request of an open node:
//! - `Host` (or `:authority`) must be a loopback name or address, or the host of the configured URL. A page that
//!   had its own name resolve to 127.0.0.1 (DNS rebinding) still sends its own name.
//! - `Origin`, which browsers add to whatever could change something, must be the node's own. Browsers that send
//!   `Sec-Fetch-Site` are held to it for plain reads as well, except when a person follows a link.
//!
//! A node with tokens needs neither: a page cannot send a token that it does not have.
//!
//! **Paths.** No path of ours needs dot segments, empty segments or escaped slashes, dots or control characters.
//! They are refused rather than tidied up, because a proxy in front may have judged the untidy form.

use std::net::IpAddr;

use http::header::{HOST, ORIGIN};
use http::uri::Authority;
use http::{HeaderMap, Uri};

use crate::error::{Code, Error};

/// The longest path that is looked at: two names, an id and the words between fit many times.
const PATH_BYTES_MAX: usize = 2048;

/// Judges a request by its head. `open` says whether the node takes calls without a credential now; `url` is its
/// configured public URL.
pub(crate) fn check(open: bool, url: Option<&Uri>, uri: &Uri, headers: &HeaderMap) -> Result<(), Error> {
    path(uri.path())?;
    if !open {
        return Ok(());
    }
    let host = host(uri, headers)?;
    let own = url.and_then(Uri::authority);
    if !is_loopback(host.host()) && own.is_none_or(|own| !own.host().eq_ignore_ascii_case(host.host())) {
        return Err(Error::new(
            Code::ForeignHost,
            "this node takes calls without a token, so it answers to loopback names and its configured url only",
        ));
    }
    origin(&host, url, headers)
}

/// The host that the request is for.
fn host(uri: &Uri, headers: &HeaderMap) -> Result<Authority, Error> {
    let malformed = || Error::new(Code::MalformedRequest, "the request needs exactly one Host");
    let mut named = headers.get_all(HOST).iter();
    let header = match (named.next(), named.next()) {
        (Some(_), Some(_)) => return Err(malformed()),
        (Some(host), None) => Some(Authority::try_from(host.as_bytes()).map_err(|_| malformed())?),
        (None, _) => None,
    };
    match (uri.authority(), header) {
        // RFC 9112 section 3.2.2: both may be there, but must not point to different places.
        (Some(target), Some(header)) if *target != header => Err(malformed()),
        (Some(target), _) => Ok(target.clone()),
        (None, Some(header)) => Ok(header),
        (None, None) => Err(malformed()),
    }
}

/// Whether a host is this machine, as no name from outside can claim to be (RFC 6761 section 6.3).
fn is_loopback(host: &str) -> bool {
    let name = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    if name == "localhost" || name.ends_with(".localhost") {
        return true;
    }
    let address = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(&name);
    address.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

/// Refuses what a page of another origin sends.
fn origin(host: &Authority, url: Option<&Uri>, headers: &HeaderMap) -> Result<(), Error> {
    let foreign = || {
        Err(Error::new(
            Code::ForeignOrigin,
            "this node takes calls without a token, so pages of other origins may not call it",
        ))
    };
    let mut origins = headers.get_all(ORIGIN).iter();
    if let Some(origin) = origins.next() {
        if origins.next().is_some() {
            return foreign();
        }
        // `null` and whatever else is not scheme, host and port fails to parse or to match.
        let origin = origin.to_str().ok().and_then(|text| text.parse::<Uri>().ok());
        let same = origin.is_some_and(|origin| {
            let own_url = url
                .is_some_and(|url| url.scheme() == origin.scheme() && url.authority() == origin.authority());
            own_url || (origin.scheme_str() == Some("http") && origin.authority() == Some(host))
        });
        return if same { Ok(()) } else { foreign() };
    }
    let fetch = |name| headers.get(name).and_then(|value| value.to_str().ok());
    match fetch("sec-fetch-site") {
        Some("cross-site" | "same-site") if fetch("sec-fetch-mode") != Some("navigate") => foreign(),
        _ => Ok(()),
    }
}

/// Refuses paths that two readers could take for different ones.
fn path(path: &str) -> Result<(), Error> {
    let malformed = |what: &'static str| Err(Error::new(Code::MalformedRequest, what));
    if path.len() > PATH_BYTES_MAX {
        return malformed("the path is too long");
    }
    // `*` is the target of a server-wide OPTIONS (RFC 9112 section 3.2.4).
    if path == "*" || path == "/" {
        return Ok(());
    }
    let Some(segments) = path.strip_prefix('/') else { return malformed("a path begins with a slash") };
    let segments = segments.strip_suffix('/').unwrap_or(segments);
    if segments.split('/').any(|segment| matches!(segment, "" | "." | "..")) {
        return malformed("the path has empty or dot segments");
    }
    let mut escapes = path.split('%').skip(1);
    if escapes.any(|escape| {
        let byte = escape.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        byte.is_none_or(|byte| matches!(byte, b'/' | b'\\' | b'.') || byte.is_ascii_control())
    }) {
        return malformed("the path has escapes that no path here needs");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(open: bool, uri: &str, headers: &[(&'static str, &str)]) -> Option<Code> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        let url = "https://node.example".parse().unwrap();
        check(open, Some(&url), &uri.parse().unwrap(), &map).err().map(|error| error.code())
    }

    #[test]
    fn an_open_node_answers_to_loopback_and_its_url_only() {
        for host in [
            "localhost",
            "localhost:8080",
            "LOCALHOST.",
            "a.localhost",
            "127.0.0.1:8080",
            "127.9.9.9",
            "[::1]:8080",
            "[::ffff:127.0.0.1]",
            "node.example",
            "node.example:444",
        ] {
            assert_eq!(judge(true, "/streams", &[("host", host)]), None, "{host}");
        }
        for host in ["evil.example", "127.0.0.1.evil.example", "10.0.0.1", "[2001:db8::1]", "localhost.evil"]
        {
            assert_eq!(judge(true, "/streams", &[("host", host)]), Some(Code::ForeignHost), "{host}");
            assert_eq!(judge(false, "/streams", &[("host", host)]), None, "{host}");
        }
        assert_eq!(judge(true, "/streams", &[]), Some(Code::MalformedRequest));
        assert_eq!(judge(true, "http://127.0.0.1/streams", &[]), None);
        let both = judge(true, "http://127.0.0.1/streams", &[("host", "evil.example")]);
        assert_eq!(both, Some(Code::MalformedRequest));
        let twice = judge(true, "/", &[("host", "localhost"), ("host", "evil.example")]);
        assert_eq!(twice, Some(Code::MalformedRequest));
    }

    #[test]
    fn a_foreign_page_is_refused_and_our_own_is_not() {
        let origin = |origin| judge(true, "/streams", &[("host", "127.0.0.1:8080"), ("origin", origin)]);
        assert_eq!(origin("http://127.0.0.1:8080"), None);
        assert_eq!(origin("https://node.example"), None);
        for foreign in [
            "null",
            "http://127.0.0.1:3000",
            "http://localhost:8080",
            "https://127.0.0.1:8080",
            "http://node.example",
            "https://evil.example",
            "",
        ] {
            assert_eq!(origin(foreign), Some(Code::ForeignOrigin), "{foreign}");
        }
        let fetch = |site, mode| {
            let headers = [("host", "localhost"), ("sec-fetch-site", site), ("sec-fetch-mode", mode)];
            judge(true, "/streams", &headers)
        };
        assert_eq!(fetch("cross-site", "no-cors"), Some(Code::ForeignOrigin));
        assert_eq!(fetch("same-site", "cors"), Some(Code::ForeignOrigin));
        assert_eq!(fetch("cross-site", "navigate"), None);
        assert_eq!(fetch("same-origin", "cors"), None);
        assert_eq!(fetch("none", "navigate"), None);
    }

    #[test]
    fn untidy_paths_are_refused() {
        for good in
            ["/", "/streams", "/streams/a.b_c-d/events", "/.well-known/flow", "/streams/a%5Fb", "/streams/"]
        {
            assert_eq!(judge(false, good, &[]), None, "{good}");
        }
        for bad in [
            "//",
            "//streams",
            "/streams//a",
            "/streams/../a",
            "/streams/.",
            "/streams/..",
            "/streams/a%2fb",
            "/streams/%2E%2e/a",
            "/streams/a%5cb",
            "/streams/a%00",
            "/streams/a%0a",
            "/streams/a%zz",
            "/streams/a%2",
            &format!("/{}", "a".repeat(PATH_BYTES_MAX)),
        ] {
            assert_eq!(judge(false, bad, &[]), Some(Code::MalformedRequest), "{bad}");
        }
    }
}
