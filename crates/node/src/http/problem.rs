//! Errors over HTTP: RFC 9457 problem details.
//!
//! [`status`] is the one place that gives a [`Code`] its HTTP status; it has no wildcard arm, so a new code does
//! not compile until somebody has decided. `type` is `urn:weir:error:NAME`, `title` is the same for every
//! occurrence, `detail` is this occurrence's safe message, and the error's own members stand beside them (RFC
//! 9457 section 3.2). A cause is logged here, once, and never sent.
//!
//! [`errors_markdown`] makes `docs/errors.md` of the same table; a test holds the two together.

use std::fmt::Write as _;
use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, StatusCode};
use serde_json::{Map, Value};

use crate::error::{Code, Error, Kind};

/// The media type of every error.
pub(crate) const PROBLEM_JSON: &str = "application/problem+json";

/// What a code's `type` begins with.
const TYPE_PREFIX: &str = "urn:weir:error:";

/// The HTTP status of a code.
#[must_use]
pub(crate) fn status(code: Code) -> StatusCode {
    match code {
        Code::MalformedRequest
        | Code::MalformedJson
        | Code::MalformedEvent
        | Code::MissingAttributes
        | Code::UnknownMember
        | Code::UnknownParameter
        | Code::BadMember
        | Code::BadParameter
        | Code::BadPosition
        | Code::BadFilter
        | Code::UnsupportedDialect
        | Code::UnsupportedProtocol
        | Code::BadName
        | Code::ReservedName
        | Code::ContactRequired => StatusCode::BAD_REQUEST,
        Code::CredentialRequired | Code::BadCredential => StatusCode::UNAUTHORIZED,
        Code::NotAllowed | Code::NotDecided | Code::Suspended | Code::ForeignHost | Code::ForeignOrigin => {
            StatusCode::FORBIDDEN
        }
        Code::NotFound | Code::UnknownStream | Code::UnknownSubscription | Code::UnknownToken => {
            StatusCode::NOT_FOUND
        }
        Code::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
        Code::NotAcceptable => StatusCode::NOT_ACCEPTABLE,
        Code::RequestTimeout => StatusCode::REQUEST_TIMEOUT,
        Code::ConfirmationRequired
        | Code::WrongState
        | Code::HistoryChanged
        | Code::SequenceGap
        | Code::LimitReached => StatusCode::CONFLICT,
        Code::Retired | Code::SubscriptionClosed => StatusCode::GONE,
        Code::PreconditionFailed | Code::HeadMoved => StatusCode::PRECONDITION_FAILED,
        Code::BodyTooLarge
        | Code::EventTooLarge
        | Code::AttributesTooLarge
        | Code::BatchTooLarge
        | Code::TooManyEvents => StatusCode::PAYLOAD_TOO_LARGE,
        Code::UnsupportedMediaType | Code::UnsupportedEncoding => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        Code::IfMatchRequired => StatusCode::PRECONDITION_REQUIRED,
        Code::OverBudget | Code::TooManyRequests => StatusCode::TOO_MANY_REQUESTS,
        Code::Corrupt | Code::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        Code::TooManyConnections | Code::QueueFull | Code::OutcomeUnknown | Code::NotReady => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        Code::DiskFull => StatusCode::INSUFFICIENT_STORAGE,
    }
}

/// The problem as JSON, for the answers that carry it elsewhere than in a body of its own.
#[must_use]
pub(crate) fn to_json(error: &Error) -> Map<String, Value> {
    let code = error.code();
    let mut problem = Map::new();
    problem.insert("type".into(), format!("{TYPE_PREFIX}{}", code.name()).into());
    problem.insert("title".into(), code.title().into());
    problem.insert("status".into(), status(code).as_u16().into());
    problem.insert("detail".into(), error.message().into());
    for (name, value) in error.members() {
        problem.insert(name.clone(), value.clone());
    }
    problem
}

/// `Retry-After` in whole seconds, rounded up: a client that obeys must not come too early.
fn retry_seconds(after: Duration) -> u64 {
    after.as_millis().div_ceil(1000).try_into().unwrap_or(u64::MAX).max(1)
}

/// What RFC 9110 section 11.6.1 and RFC 6750 section 3 want beside a 401.
fn challenge(code: Code) -> Option<&'static str> {
    match code {
        Code::CredentialRequired => Some(r#"Bearer realm="weir""#),
        Code::BadCredential => Some(r#"Bearer realm="weir", error="invalid_token""#),
        _ => None,
    }
}

/// Logs an error where it is handled: a defect or damage asks a person to act, a client's mistake does not.
fn log(error: &Error) {
    let code = error.code().name();
    let cause = chain(error);
    match error.kind() {
        Kind::Internal | Kind::Corrupt => tracing::error!(code, cause, "a request failed"),
        // What asks whether the node is ready is answered; what made it unready was logged when it came.
        Kind::Unavailable if error.code() != Code::NotReady => {
            tracing::warn!(code, cause, "a request could not be answered now")
        }
        Kind::Invalid
        | Kind::NotFound
        | Kind::Denied
        | Kind::Conflict
        | Kind::Exhausted
        | Kind::Unavailable
        | Kind::Closed => {
            tracing::debug!(code, detail = error.message(), cause, "a request was refused")
        }
    }
}

/// The causes below an error, outermost first.
fn chain(error: &Error) -> String {
    let mut text = String::new();
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        if !text.is_empty() {
            text.push_str(": ");
        }
        // Writing to a String cannot fail.
        let _ = write!(text, "{cause}");
        next = cause.source();
    }
    text
}

impl IntoResponse for Error {
    /// The problem as an answer. Errors are never cached: what a caller may know of can change at any moment.
    fn into_response(self) -> Response {
        log(&self);
        let code = self.code();
        let mut response = Response::new(Body::from(Value::Object(to_json(&self)).to_string()));
        *response.status_mut() = status(code);
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(after) = self.retry_hint() {
            headers.insert(RETRY_AFTER, HeaderValue::from(retry_seconds(after)));
        }
        if let Some(challenge) = challenge(code) {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        response
    }
}

/// The reference of all errors, as it is committed in `docs/errors.md`.
#[must_use]
pub fn errors_markdown() -> String {
    let mut text = String::from(concat!(
        "# Errors\n\n",
        "<!-- Generated from crates/node/src/error.rs: UPDATE=1 cargo test -p weir-node errors_markdown -->\n\n",
        "Every error is a problem detail (RFC 9457, `application/problem+json`):\n\n",
        "```json\n",
        "{\"type\": \"urn:weir:error:unknown-stream\", \"title\": \"Unknown stream\", \"status\": 404,\n",
        " \"detail\": \"there is no stream weather.us.nj\", \"near\": [\"weather.us.ny\"]}\n",
        "```\n\n",
        "Decide by `type`: names are added, never changed or reused. `detail` is for people and may change; the\n",
        "members beside it are for programs. Where waiting helps, `Retry-After` says how long. A request that got\n",
        "an error has had no partial effect.\n",
    ));
    for kind in Kind::ALL {
        let _ = write!(text, "\n## {kind:?}\n\n{}\n\n", kind.advice());
        text.push_str("| type `urn:weir:error:…` | status | meaning | what to do |\n|---|---|---|---|\n");
        for code in Code::ALL.iter().filter(|code| code.kind() == kind) {
            let _ = writeln!(
                text,
                "| `{}` | {} | {} | {} |",
                code.name(),
                status(*code).as_u16(),
                code.meaning(),
                code.action()
            );
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_markdown_is_committed() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/errors.md");
        let wanted = errors_markdown();
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(path, &wanted).unwrap();
        }
        let committed = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            committed == wanted,
            "docs/errors.md is not what the table of codes says; update it with\n    \
             UPDATE=1 cargo test -p weir-node errors_markdown"
        );
    }

    #[test]
    fn only_internal_kinds_are_server_errors_that_do_not_pass() {
        for code in Code::ALL {
            let status = status(*code);
            match code.kind() {
                Kind::Internal | Kind::Corrupt => assert_eq!(status.as_u16(), 500, "{code}"),
                Kind::Unavailable => assert_eq!(status.as_u16(), 503, "{code}"),
                Kind::Exhausted => assert!(matches!(status.as_u16(), 409 | 429 | 503 | 507), "{code}"),
                _ => assert!(status.is_client_error(), "{code}"),
            }
        }
    }

    #[test]
    fn a_problem_carries_its_headers() {
        let error = Error::new(Code::OverBudget, "slow down").retry_after(Duration::from_millis(1500));
        let response = error.into_response();
        assert_eq!(response.status(), 429);
        assert_eq!(response.headers()[RETRY_AFTER], "2");
        assert_eq!(response.headers()[CONTENT_TYPE], PROBLEM_JSON);
        let response = Error::new(Code::CredentialRequired, "no").into_response();
        assert_eq!(response.headers()[WWW_AUTHENTICATE], r#"Bearer realm="weir""#);
    }
}
