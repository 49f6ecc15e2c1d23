//! The body of a control call: JSON, bounded in size and in the time it takes to arrive.
//!
//! Only control calls read their body here. Published events go through `publish`, which has limits of its own.
//! What the members mean is judged by whoever reads the value; here it only has to be JSON of the right type.

use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequest, Request};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde_json::{Map, Value};

use crate::error::{Code, Error};

/// The largest body of a control call.
pub(crate) const BODY_BYTES_MAX: usize = 1024 * 1024;

/// How long a control call's body may take to arrive, so that a connection that trickles holds nothing for long.
const BODY_TIME_MAX: Duration = Duration::from_secs(30);

/// The media types of a JSON body, RFC 7396 merge patches included.
const JSON_TYPES: [&str; 2] = ["application/json", "application/merge-patch+json"];

/// A JSON body. A request without one reads as an empty object, which is what a call whose members are all
/// optional means by it.
#[derive(Debug)]
pub(crate) struct Json(pub(crate) Value);

impl<S: Send + Sync> FromRequest<S> for Json {
    type Rejection = Error;

    async fn from_request(request: Request, _: &S) -> Result<Self, Error> {
        let (parts, body) = request.into_parts();
        uncompressed(&parts.headers)?;
        let bytes = collect(&parts.headers, body, BODY_TIME_MAX).await?;
        if bytes.is_empty() {
            return Ok(Self(Value::Object(Map::new())));
        }
        json_type(&parts.headers)?;
        serde_json::from_slice(&bytes).map(Self).map_err(|error| malformed(&error))
    }
}

/// The whole body, within [`BODY_BYTES_MAX`] and `time`.
async fn collect(headers: &HeaderMap, body: Body, time: Duration) -> Result<Bytes, Error> {
    // A length that is too great is refused before a byte of it is read.
    let announced = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > BODY_BYTES_MAX as u64) {
        return Err(too_large());
    }
    match tokio::time::timeout(time, Limited::new(body, BODY_BYTES_MAX).collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(error)) => {
            Err(Error::new(Code::MalformedRequest, "the body ended before it was whole").caused_by(error))
        }
        Err(_) => {
            let message = format!("the body did not arrive within {} s", time.as_secs());
            Err(Error::new(Code::RequestTimeout, message))
        }
    }
}

fn too_large() -> Error {
    Error::new(Code::BodyTooLarge, format!("the body of this call has at most {BODY_BYTES_MAX} bytes"))
        .with("limit", BODY_BYTES_MAX)
}

fn uncompressed(headers: &HeaderMap) -> Result<(), Error> {
    match headers.get(CONTENT_ENCODING) {
        None => Ok(()),
        Some(encoding) if encoding.as_bytes().eq_ignore_ascii_case(b"identity") => Ok(()),
        Some(_) => Err(Error::new(Code::UnsupportedEncoding, "send the body without Content-Encoding")),
    }
}

/// Refuses a body that calls itself something else than JSON. One that says nothing is taken at its word: it
/// cannot come from a form on a web page, which always says something.
fn json_type(headers: &HeaderMap) -> Result<(), Error> {
    let Some(content_type) = headers.get(CONTENT_TYPE) else { return Ok(()) };
    let essence =
        content_type.to_str().ok().and_then(|text| text.split(';').next()).unwrap_or_default().trim();
    let json = |known: &&str| essence.eq_ignore_ascii_case(known);
    if JSON_TYPES.iter().any(json) {
        return Ok(());
    }
    Err(Error::new(Code::UnsupportedMediaType, "send the body as application/json")
        .with("supported", JSON_TYPES.to_vec()))
}

/// The error of bytes that are not JSON, with where they stop being it.
fn malformed(error: &serde_json::Error) -> Error {
    let message = format!("the body is not JSON at line {}, column {}", error.line(), error.column());
    Error::new(Code::MalformedJson, message).with("line", error.line()).with("column", error.column())
}

/// A JSON answer. Answers of control calls depend on the caller and on decisions that may follow at once, so
/// nothing may keep them.
pub(crate) fn answer(status: StatusCode, value: &Value) -> Response {
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("application/json")),
        (http::header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    (status, headers, value.to_string()).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_body_that_trickles_does_not_hold_the_node() {
        let never = Body::from_stream(futures_util::stream::pending::<Result<Bytes, std::io::Error>>());
        let refused = collect(&HeaderMap::new(), never, Duration::from_millis(20)).await;
        assert_eq!(refused.unwrap_err().code(), Code::RequestTimeout);
    }

    #[tokio::test]
    async fn a_body_without_a_length_is_bounded_too() {
        let piece = Bytes::from(vec![b' '; 64 * 1024]);
        let endless = futures_util::stream::repeat_with(move || Ok::<_, std::io::Error>(piece.clone()));
        let refused = collect(&HeaderMap::new(), Body::from_stream(endless), BODY_TIME_MAX).await;
        assert_eq!(refused.unwrap_err().code(), Code::BodyTooLarge);
    }
}
