//! The client's one error: a small [`Kind`] chosen by what the caller can do, a message fit for a person, and
//! the node's problem detail (RFC 9457) where it sent one.

use std::fmt;
use std::time::Duration;

use serde_json::{Map, Value};

/// What the caller can do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The request makes no sense; change it.
    Invalid,
    /// There is no such thing, or none that this caller may know of.
    NotFound,
    /// The producer refuses: no or the wrong credential, or not allowed.
    Denied,
    /// The world is not as expected: changed meanwhile, out of sequence, needs confirmation.
    Conflict,
    /// A limit of the other side: rate, budget, disk. Passes.
    Exhausted,
    /// Not reachable, or the outcome is unknown. Try again, with the same ids.
    Unavailable,
    /// What was asked for has ended and will not come back: revoked, expired, retired, gone.
    Closed,
    /// Stored data is damaged.
    Corrupt,
    /// A defect, here or there.
    Internal,
}

/// An RFC 9457 problem detail as a node sent it.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    /// The stable name: what follows `urn:weir:error:` in `type`, or the whole `type` of another origin.
    pub code: String,
    /// The HTTP status.
    pub status: u16,
    /// One sentence for a person: what is wrong and what to do.
    pub detail: String,
    /// All members, those of this type included.
    pub members: Map<String, Value>,
}

/// An error of the client.
#[derive(Clone, Debug)]
pub struct Error {
    kind: Kind,
    message: String,
    problem: Option<Box<Problem>>,
    retry_after: Option<Duration>,
}

impl Error {
    /// An error of this side.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), problem: None, retry_after: None }
    }

    /// The error a node's answer stands for. `what` names the operation and its object.
    pub(crate) fn from_answer(what: &str, status: u16, retry_after: Option<Duration>, body: &[u8]) -> Self {
        let members = match serde_json::from_slice(body) {
            Ok(Value::Object(members)) => members,
            _ => Map::new(),
        };
        let text = |name: &str| members.get(name).and_then(Value::as_str);
        let code = text("type").unwrap_or("about:blank");
        let code = code.strip_prefix("urn:weir:error:").unwrap_or(code).to_owned();
        let detail = match text("detail").or_else(|| text("title")) {
            Some(detail) => detail.to_owned(),
            None => format!("the node answered {status}"),
        };
        Self {
            kind: kind_of(status),
            message: format!("{what}: {detail}"),
            problem: Some(Box::new(Problem { code, status, detail, members })),
            retry_after,
        }
    }

    /// A connection that could not be made or broke.
    pub(crate) fn from_transport(what: &str, node: &str, error: &reqwest::Error) -> Self {
        if error.is_builder() {
            return Self::new(Kind::Invalid, format!("{what}: {}", innermost(error)));
        }
        Self::new(Kind::Unavailable, format!("{what}: {node} is not reachable: {}", innermost(error)))
    }

    /// The same, as a part of a larger operation.
    #[must_use]
    pub fn context(mut self, what: &str) -> Self {
        self.message = format!("{what}: {}", self.message);
        self
    }

    /// What the caller can do about it.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The node's problem detail, if it sent one.
    #[must_use]
    pub fn problem(&self) -> Option<&Problem> {
        self.problem.as_deref()
    }

    /// The stable name of the node's problem, such as `unknown-stream`; empty for errors of this side.
    #[must_use]
    pub fn code(&self) -> &str {
        self.problem.as_ref().map_or("", |problem| &problem.code)
    }

    /// When the node wants to be asked again.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// Whether the same request may succeed later without this side changing anything.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        matches!(self.kind, Kind::Exhausted | Kind::Unavailable)
    }

    /// Whether a delivery waits for a person, or for the node to notice that an earlier connection is gone: worth
    /// another try for however long it takes.
    pub(crate) fn is_waiting(&self) -> bool {
        matches!(self.code(), "suspended" | "not-decided")
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

/// The kind a status stands for. A gateway's 502 and 504 are outages like our own 503.
fn kind_of(status: u16) -> Kind {
    match status {
        401 | 403 => Kind::Denied,
        404 => Kind::NotFound,
        409 | 412 => Kind::Conflict,
        410 => Kind::Closed,
        429 | 507 => Kind::Exhausted,
        408 | 502..=504 => Kind::Unavailable,
        400..=499 => Kind::Invalid,
        _ => Kind::Internal,
    }
}

/// The last cause: what the operating system said, without the layers between.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_detail_becomes_an_error_with_its_code_and_members() {
        let body = br#"{"type":"urn:weir:error:unknown-stream","status":404,"detail":"no stream a; did you mean b?","near":["b"]}"#;
        let error = Error::from_answer("read stream a", 404, None, body);
        assert_eq!(error.kind(), Kind::NotFound);
        assert_eq!(error.code(), "unknown-stream");
        assert_eq!(error.to_string(), "read stream a: no stream a; did you mean b?");
        assert_eq!(error.problem().unwrap().members["near"][0], "b");
    }

    #[test]
    fn an_answer_that_is_no_problem_detail_keeps_its_status() {
        let error = Error::from_answer("find", 502, Some(Duration::from_secs(3)), b"<html>bad gateway");
        assert_eq!(error.kind(), Kind::Unavailable);
        assert!(error.is_passing());
        assert_eq!(error.retry_after(), Some(Duration::from_secs(3)));
        assert_eq!(error.to_string(), "find: the node answered 502");
    }

    #[test]
    fn every_status_has_a_kind_by_what_the_caller_can_do() {
        for (status, kind) in [
            (400, Kind::Invalid),
            (401, Kind::Denied),
            (403, Kind::Denied),
            (404, Kind::NotFound),
            (409, Kind::Conflict),
            (410, Kind::Closed),
            (412, Kind::Conflict),
            (413, Kind::Invalid),
            (415, Kind::Invalid),
            (429, Kind::Exhausted),
            (500, Kind::Internal),
            (503, Kind::Unavailable),
            (507, Kind::Exhausted),
        ] {
            assert_eq!(kind_of(status), kind, "{status}");
        }
    }
}
