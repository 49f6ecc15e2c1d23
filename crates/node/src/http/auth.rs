//! Who asks: the credential in a request's headers.
//!
//! There is one kind, `Authorization: Bearer SECRET` (RFC 6750 section 2.1), for tokens, grants and the secrets
//! of requests alike. What it stands for is control's to say, as is what a request without one may do.

use std::net::IpAddr;

use http::HeaderMap;
use http::header::AUTHORIZATION;

use crate::Node;
use crate::control::Caller;
use crate::error::{Code, Error};

use super::Peer;

/// The longest credential that is looked at. Ours are far shorter.
const BEARER_BYTES_MAX: usize = 1024;

/// The caller that a request's headers prove; `ticket` is what a URL carries in place of a header, where a call
/// takes one.
///
/// Errors: `bad-credential` for one that is not known, has ended, or is of another scheme; a request that sends
/// a credential is never taken for one without.
pub(crate) fn caller(
    node: &Node,
    headers: &HeaderMap,
    ticket: Option<&str>,
    peer: Option<Peer>,
) -> Result<Caller, Error> {
    let address: Option<IpAddr> = peer.map(|Peer(address)| address.ip().to_canonical());
    let bearer = bearer(headers)?;
    let caller = node.control().authenticate(bearer.or(ticket), address)?;
    // URLs end up in histories and logs: what lives longer than a ticket is not taken from one.
    if bearer.is_none() && ticket.is_some() && !matches!(caller, Caller::Ticket { .. }) {
        return Err(Error::new(Code::BadCredential, "only a ticket may be sent in a URL"));
    }
    Ok(caller)
}

/// The secret in `Authorization`, if there is the header.
fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Error> {
    let mut found = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = found.next() else { return Ok(None) };
    if found.next().is_some() {
        return Err(Error::new(Code::MalformedRequest, "the request has more than one Authorization"));
    }
    let secret = value.to_str().ok().filter(|text| text.len() <= BEARER_BYTES_MAX).and_then(|text| {
        let (scheme, secret) = text.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| secret.trim()).filter(|secret| !secret.is_empty())
    });
    match secret {
        Some(secret) => Ok(Some(secret)),
        None => Err(Error::new(Code::BadCredential, "send the credential as Authorization: Bearer TOKEN")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bearer_or_none() {
        let mut headers = HeaderMap::new();
        assert_eq!(bearer(&headers), Ok(None));
        for (value, wanted) in [
            ("Bearer abc", Some("abc")),
            ("bearer  abc", Some("abc")),
            ("Bearer ", None),
            ("Bearer", None),
            ("Basic YTpi", None),
            ("", None),
        ] {
            headers.insert(AUTHORIZATION, value.parse().unwrap());
            let code = bearer(&headers).map_err(|error| error.code());
            assert_eq!(code, wanted.map(Some).ok_or(Code::BadCredential), "{value:?}");
        }
        headers.insert(AUTHORIZATION, format!("Bearer {}", "x".repeat(2000)).parse().unwrap());
        assert_eq!(bearer(&headers).unwrap_err().code(), Code::BadCredential);
        headers.append(AUTHORIZATION, "Bearer b".parse().unwrap());
        assert_eq!(bearer(&headers).unwrap_err().code(), Code::MalformedRequest);
    }
}
