//! `POST /streams/{name}/events`: publishing over HTTP.
//!
//! The body is one event or a batch in any of the CloudEvents forms: binary (`ce-` headers), structured JSON or
//! protobuf, JSON batch, protobuf batch; or, where the stream's descriptor has `plain`, any body that it says how
//! to make an event of. It is stored whole or not at all. The answer comes once the events are as durable as the
//! stream promises:
//!
//! ```json
//! {"first":41,"last":43,"count":3,"duplicates":0,"history":"…","durability":"fsync"}
//! ```
//!
//! `first` and `last` are null if everything was stored before. `conflicts` is added if duplicates had other
//! content than what is stored. `?positions=1` adds every event's position, `?expect=41` appends only if 41 is the
//! last position. `Weir-Producer: id;epoch;sequence` makes retries safe however late they come: `id` 16 hex digits
//! chosen at random by the producer, `epoch` fences earlier ones, `sequence` the number of the batch's first event
//! within the producer's own counting; the next batch continues where this one ends.
//!
//! The call is on the hot path: it does not pass the router, and an event in protobuf or a batch of them is stored
//! as the bytes that came.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::IntoResponse;
use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response};
use http_body_util::BodyExt;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use serde_json::Value as Json;
use weir_event::flow::Position;
use weir_event::http::{Format, Mode};
use weir_event::{Event, http as binding, json};
use weir_log::{Appended, Producer};

use super::query::Query;
use super::{Peer, Routes, auth, rest};
use crate::Node;
use crate::admit::{self, Incoming, Terms};
use crate::control::descriptor::{Member, Plain, durability_name};
use crate::control::{Action, Stream};
use crate::error::{Code, Error};
use crate::server::{Body, Connection};

/// The header of an idempotent producer.
const PRODUCER: HeaderName = HeaderName::from_static("weir-producer");

/// The headers that make a body an event.
const REQUIRED: [&str; 4] = ["ce-specversion", "ce-id", "ce-source", "ce-type"];

/// The call, for OPTIONS and the description; served by [`answer`] before the router.
pub(super) fn routes(routes: Routes) -> Routes {
    routes.on(Method::POST, "/streams/{name}/events", routed)
}

async fn routed(State(node): State<Arc<Node>>, request: axum::extract::Request) -> Response<Body> {
    let connection = request.extensions().get::<Arc<Connection>>().cloned();
    answer(&node, connection.as_deref(), request).await
}

/// Answers a publish.
pub(crate) async fn answer<B>(
    node: &Node,
    connection: Option<&Connection>,
    request: Request<B>,
) -> Response<Body>
where
    B: http_body::Body<Data = Bytes, Error: std::fmt::Display> + Unpin,
{
    let (head, mut body) = request.into_parts();
    let mut response = match publish(node, connection, &head, &mut body).await {
        Ok(appended) => {
            let mut response = Response::new(Body::from(Bytes::from(to_json(&appended))));
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            response
        }
        Err(error) => {
            let mut response = error.into_response().map(Body::Router);
            rest::settle(&mut body, head.version, &head.headers, response.headers_mut()).await;
            response
        }
    };
    super::protect(response.headers_mut());
    response
}

async fn publish<B>(
    node: &Node,
    connection: Option<&Connection>,
    head: &Parts,
    body: &mut B,
) -> Result<Appended, Error>
where
    B: http_body::Body<Data = Bytes, Error: std::fmt::Display> + Unpin,
{
    let asked = (|| {
        super::check(node, &head.uri, &head.headers)?;
        let peer = connection.map(|connection| Peer(connection.peer()));
        let caller = auth::caller(node, &head.headers, None, peer)?;
        let name = stream_name(head.uri.path()).unwrap_or_default();
        let stream = node.control().authorize(&caller, Action::Publish, name)?;
        let query = Query::of(&head.uri, &["positions", "expect"])?;
        let terms = Terms {
            publisher: caller.publisher(),
            producer: producer(&head.headers)?,
            expect: query.parse::<Position>("expect")?,
            positions: query.switch("positions")?,
        };
        if let Some(encoding) = head.headers.get(CONTENT_ENCODING)
            && !encoding.as_bytes().eq_ignore_ascii_case(b"identity")
        {
            return Err(Error::new(Code::UnsupportedEncoding, "send the body without Content-Encoding"));
        }
        let content_type = head.headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
        let mode = Mode::of(content_type).map_err(|error| {
            let supported = [Format::Json, Format::Protobuf]
                .map(|format| [format.structured(), format.batched()])
                .concat();
            Error::new(Code::UnsupportedMediaType, error.to_string()).with("supported", supported)
        })?;
        Ok((stream, terms, mode))
    })();
    let (stream, terms, mode) = asked.inspect_err(|error| node.admit().count_refused(error))?;
    let most = most(node, mode);
    let known = length(&head.headers);
    if known.is_some_and(|length| length > most) {
        let error = too_large(node, mode);
        node.admit().count_refused(&error);
        return Err(error);
    }
    // A body whose length is not said may become as long as is allowed.
    let _held = node.admit().hold(known.unwrap_or(most)).await?;
    let timeout = node.settings().request_timeout;
    let body = read(body, known, most, timeout).await.map_err(|unread| match unread {
        Unread::TooLarge => too_large(node, mode),
        Unread::Slow => Error::new(Code::RequestTimeout, "the body did not arrive in time")
            .retry_after(Duration::from_secs(1)),
        Unread::Broken => Error::new(Code::MalformedRequest, "the body was not sent to its end"),
    })?;
    let content;
    let incoming = match mode {
        Mode::Structured(Format::Json) => {
            Incoming::One(json::decode(&body).map_err(|error| admit::malformed(&error))?)
        }
        Mode::Structured(Format::Protobuf) => Incoming::Protobuf(&body),
        Mode::Batched(Format::Json) => Incoming::JsonBatch(&body),
        Mode::Batched(Format::Protobuf) => Incoming::ProtobufBatch(&body),
        Mode::Binary => {
            content = Content::of(node, &stream, &head.headers, &body)?;
            Incoming::One(content.event(&head.headers, &body)?)
        }
    };
    node.admit().publish(node.log(), &stream, incoming, terms).await
}

/// The stream's name in `/streams/{name}/events`.
pub(super) fn stream_name(path: &str) -> Option<&str> {
    path.strip_prefix("/streams/")?.strip_suffix("/events")
}

/// The most bytes that a body in this mode may have. JSON writes data longer than it is stored: a byte may take
/// six as an escape in a string.
fn most(node: &Node, mode: Mode) -> usize {
    let limits = node.admit().limits();
    match mode {
        Mode::Batched(_) => limits.batch_bytes,
        Mode::Structured(Format::Json) => limits.event_bytes.saturating_mul(2).min(limits.batch_bytes),
        Mode::Structured(Format::Protobuf) | Mode::Binary => limits.event_bytes,
    }
}

fn too_large(node: &Node, mode: Mode) -> Error {
    let limits = node.admit().limits();
    match mode {
        Mode::Batched(_) => admit::batch_too_large(limits.batch_bytes),
        Mode::Structured(_) | Mode::Binary => {
            let limit = limits.event_bytes;
            Error::new(Code::EventTooLarge, format!("an event holds at most {limit} bytes"))
                .with("limit", limit)
        }
    }
}

fn length(headers: &HeaderMap) -> Option<usize> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Why a body was not read.
enum Unread {
    TooLarge,
    Slow,
    Broken,
}

/// Reads a body of at most `most` bytes within `timeout`. One that comes in a single piece is not copied.
async fn read<B>(body: &mut B, known: Option<usize>, most: usize, timeout: Duration) -> Result<Bytes, Unread>
where
    B: http_body::Body<Data = Bytes, Error: std::fmt::Display> + Unpin,
{
    if known == Some(0) {
        return Ok(Bytes::new());
    }
    let all = async {
        let mut first = Bytes::new();
        let mut rest = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| {
                tracing::debug!(%error, "a body broke off");
                Unread::Broken
            })?;
            let Ok(data) = frame.into_data() else { continue };
            if first.len() + rest.len() + data.len() > most {
                return Err(Unread::TooLarge);
            }
            if known == Some(data.len()) {
                return Ok(data);
            }
            if first.is_empty() && rest.is_empty() {
                first = data;
                continue;
            }
            if rest.is_empty() {
                // No more at once than has come so far: a length that is said costs the peer nothing.
                rest.reserve(known.unwrap_or(0).min(1 << 20).max(first.len() + data.len()));
                rest.extend_from_slice(&first);
                first = Bytes::new();
            }
            rest.extend_from_slice(&data);
        }
        Ok(if rest.is_empty() { first } else { rest.freeze() })
    };
    tokio::time::timeout(timeout, all).await.unwrap_or(Err(Unread::Slow))
}

/// `Weir-Producer: id;epoch;sequence`.
fn producer(headers: &HeaderMap) -> Result<Option<Producer>, Error> {
    let Some(value) = headers.get(PRODUCER) else { return Ok(None) };
    let read = || {
        let mut parts = value.to_str().ok()?.split(';').map(str::trim);
        let id = parts.next().filter(|id| id.len() == 16)?;
        let producer = Producer {
            id: u64::from_str_radix(id, 16).ok()?,
            epoch: parts.next()?.parse().ok()?,
            sequence: parts.next()?.parse().ok()?,
        };
        parts.next().is_none().then_some(producer)
    };
    read().map(Some).ok_or_else(|| {
        let expected = "Weir-Producer is id;epoch;sequence: 16 hexadecimal digits and two decimal numbers";
        Error::new(Code::MalformedRequest, expected)
    })
}

/// A body in binary mode, with what `plain` adds to its headers.
struct Content {
    /// Headers that the request does not have, with values as they would be sent.
    added: Vec<(&'static str, String)>,
}

impl Content {
    fn of(node: &Node, stream: &Stream, headers: &HeaderMap, body: &[u8]) -> Result<Self, Error> {
        let missing: Vec<&'static str> =
            REQUIRED.into_iter().filter(|name| !headers.contains_key(*name)).collect();
        let plain = stream.descriptor.plain.as_deref();
        if missing.is_empty() && plain.is_none() {
            return Ok(Self { added: Vec::new() });
        }
        // What says its version says it is an event: then it has to be a whole one.
        let Some(plain) = plain.filter(|_| missing.contains(&"ce-specversion")) else {
            return if missing.is_empty() {
                Ok(Self { added: Vec::new() })
            } else {
                Err(missing_attributes(&missing))
            };
        };
        let added = made(node, plain, headers, body)?;
        let still: Vec<&str> =
            missing.into_iter().filter(|name| !added.iter().any(|(added, _)| added == name)).collect();
        if still.is_empty() { Ok(Self { added }) } else { Err(missing_attributes(&still)) }
    }

    /// The event.
    fn event<'a>(&'a self, headers: &'a HeaderMap, body: &'a [u8]) -> Result<Event<'a>, Error> {
        let given = headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
        let added = self.added.iter().map(|(name, value)| (*name, value.as_bytes()));
        binding::decode_binary(given.chain(added), body).map_err(|error| admit::malformed(&error))
    }
}

fn missing_attributes(missing: &[&str]) -> Error {
    let list = missing.join(", ");
    Error::new(
        Code::MissingAttributes,
        format!("to make an event of this body the request needs the headers {list}"),
    )
    .with("missing", missing.to_vec())
}

/// The headers that `plain` makes of a body, except those that the request has.
fn made(
    node: &Node,
    plain: &Plain,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<Vec<(&'static str, String)>, Error> {
    let data: Option<Json> = if reads_data(plain) {
        let read = serde_json::from_slice(body).map_err(|error| {
            Error::new(
                Code::MalformedEvent,
                "the stream makes events of JSON bodies, and this one is not JSON",
            )
            .with("line", error.line())
            .with("column", error.column())
        })?;
        Some(read)
    } else {
        None
    };
    let found = |pointer: &crate::control::descriptor::Pointer| match pointer.find(data.as_ref()?)? {
        Json::String(text) => Some(Cow::Owned(text.clone())),
        Json::Number(number) => Some(Cow::Owned(number.to_string())),
        Json::Bool(value) => Some(Cow::Owned(value.to_string())),
        Json::Null | Json::Array(_) | Json::Object(_) => None,
    };
    let member = |member: &Option<Member>| match member {
        None => None,
        Some(Member::Text(text)) => Some(Cow::Owned(text.to_string())),
        Some(Member::Data(pointer)) => found(pointer),
    };
    let id = match &plain.id {
        Some(pointer) => found(pointer),
        None => Some(Cow::Owned(random_id(node)?)),
    };
    let values: [(&'static str, Option<Cow<'static, str>>); 7] = [
        ("ce-specversion", Some(Cow::Borrowed("1.0"))),
        ("ce-id", id),
        ("ce-source", member(&plain.source)),
        ("ce-type", member(&plain.r#type)),
        ("ce-time", plain.time.as_ref().and_then(found)),
        ("ce-subject", member(&plain.subject)),
        ("ce-partitionkey", member(&plain.partitionkey)),
    ];
    // Percent-coded as the binding asks (CloudEvents HTTP binding, section 3.1.3.2): it is read back by the same
    // code as any header.
    const CODED: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'%');
    Ok(values
        .into_iter()
        .filter(|(name, _)| !headers.contains_key(*name))
        .filter_map(|(name, value)| Some((name, utf8_percent_encode(&value?, CODED).to_string())))
        .collect())
}

fn reads_data(plain: &Plain) -> bool {
    let member = |member: &Option<Member>| matches!(member, Some(Member::Data(_)));
    plain.id.is_some()
        || plain.time.is_some()
        || [&plain.r#type, &plain.source, &plain.subject, &plain.partitionkey].into_iter().any(member)
}

fn random_id(node: &Node) -> Result<String, Error> {
    let mut bytes = [0; 16];
    node.entropy().fill(&mut bytes).map_err(Error::internal)?;
    Ok(format!("{:032x}", u128::from_be_bytes(bytes)))
}

fn to_json(appended: &Appended) -> String {
    let mut json = String::with_capacity(160 + appended.positions.len() * 12);
    let stored = |position: Position| match position {
        Position::NONE => "null".to_owned(),
        position => position.to_string(),
    };
    let (first, last) = (stored(appended.first), stored(appended.last));
    let Appended { count, duplicates, history, .. } = appended;
    let durability = durability_name(appended.durability);
    // Writing to a string does not fail.
    let _ = write!(json, r#"{{"first":{first},"last":{last},"count":{count},"duplicates":{duplicates}"#);
    if appended.conflicts > 0 {
        let _ = write!(json, r#","conflicts":{}"#, appended.conflicts);
    }
    let _ = write!(json, r#","history":"{history}","durability":"{durability}""#);
    if !appended.positions.is_empty() {
        json.push_str(r#","positions":["#);
        for (index, position) in appended.positions.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            let _ = write!(json, "{comma}{position}");
        }
        json.push(']');
    }
    json.push('}');
    json
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_event::flow::History;
    use weir_log::Durability;

    #[test]
    fn the_answer_says_what_was_newly_stored() {
        let mut appended = Appended {
            first: Position(41),
            last: Position(43),
            count: 3,
            duplicates: 0,
            conflicts: 0,
            history: History(0xab),
            durability: Durability::Fsync,
            positions: Vec::new(),
        };
        assert_eq!(
            to_json(&appended),
            r#"{"first":41,"last":43,"count":3,"duplicates":0,"history":"00000000000000ab","durability":"fsync"}"#
        );
        (appended.first, appended.last, appended.count) = (Position::NONE, Position::NONE, 0);
        (appended.duplicates, appended.conflicts) = (2, 1);
        appended.positions = vec![Position(7), Position(9)];
        let json: Json = serde_json::from_str(&to_json(&appended)).unwrap();
        assert_eq!(json["first"], Json::Null);
        assert_eq!(json["conflicts"], 1);
        assert_eq!(json["positions"], serde_json::json!([7, 9]));
    }

    #[test]
    fn a_producer_is_three_parts() {
        let read = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(PRODUCER, text.parse().unwrap());
            producer(&headers)
        };
        let expected = Producer { id: 0x0102_0304_0506_0708, epoch: 1, sequence: 9 };
        assert_eq!(read("0102030405060708;1;9").unwrap(), Some(expected));
        assert_eq!(read("0102030405060708; 1; 9").unwrap(), Some(expected));
        for bad in ["", "1;2;3", "0102030405060708;1", "0102030405060708;1;2;3", "0102030405060708;-1;2"] {
            assert_eq!(read(bad).unwrap_err().code(), Code::MalformedRequest, "{bad}");
        }
        assert_eq!(producer(&HeaderMap::new()).unwrap(), None);
    }
}
