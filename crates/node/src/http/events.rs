//! `GET /streams/{name}/events` and `GET /subscriptions/{id}/events`: reading over HTTP.
//!
//! What is asked for, by `Accept`: a range as one answer (JSON batch, NDJSON, protobuf batch), or a delivery that
//! goes on (server-sent events, STREAM). The query says from where (`from`, `history`), up to where (`to`,
//! `limit`) and which (`filter`, a CESQL expression). `Last-Event-ID`, as header or as the parameter
//! `last-event-id` for clients that can't send headers, says what the consumer got last; it wins over `from`,
//! because a client that reconnects repeats the URL it began with.
//!
//! A stream is read under an unnamed subscription that lives as long as the connection, a subscription under its
//! own terms and, unless the query says otherwise, from its cursor.

use std::sync::Arc;

use axum::extract::State;
use axum::response::IntoResponse;
use bytes::Bytes;
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, LINK};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Version};
use percent_encoding::percent_decode_str;
use weir_event::flow::{History, Position, StreamName};
use weir_event::http::{media, negotiate};

use super::query::Query;
use super::{Peer, Routes, auth, publish};
use crate::Node;
use crate::control::{Filters, Start, SubscriptionId, Target};
use crate::deliver::outlet::{self, Outlet};
use crate::deliver::range::{self, Range};
use crate::deliver::{Ask, Resume};
use crate::error::{Code, Error};
use crate::metrics::Way;
use crate::server::{Body, Connection};

/// What the calls know of parameters.
const PARAMETERS: [&str; 7] = [TICKET, "from", "to", "limit", "filter", "history", LAST_EVENT_ID];
/// Opens one delivery of a subscription, for clients that can't send headers.
const TICKET: &str = "ticket";
const LAST_EVENT_ID: &str = "last-event-id";

/// What can be asked for, in our order of preference. Plain JSON is what a program gets that asks for JSON.
const OFFERS: [&str; 6] = [
    media::JSON_BATCH,
    media::NDJSON,
    media::PROTO_BATCH,
    media::EVENT_STREAM,
    media::STREAM,
    "application/json",
];

/// Where a range stands in its stream.
const HISTORY: HeaderName = HeaderName::from_static("weir-history");
const HEAD: HeaderName = HeaderName::from_static("weir-head");
const SKIPPED: HeaderName = HeaderName::from_static("weir-skipped");

/// The calls, for OPTIONS, HEAD and the description; served by [`answer`] before the router.
pub(super) fn routes(routes: Routes) -> Routes {
    routes.on(Method::GET, "/streams/{name}/events", routed).on(
        Method::GET,
        "/subscriptions/{id}/events",
        routed,
    )
}

async fn routed(State(node): State<Arc<Node>>, request: axum::extract::Request) -> Response<Body> {
    let connection = request.extensions().get::<Arc<Connection>>().cloned();
    // Not what takes over its connection: the router's answers are bodies.
    let connection = connection.filter(|connection| connection.is_shared());
    answer(&node, connection.as_ref(), request).await
}

/// Answers a read. A delivery on a connection of its own takes it over, and the future stays pending.
pub(crate) async fn answer<B>(
    node: &Arc<Node>,
    connection: Option<&Arc<Connection>>,
    request: Request<B>,
) -> Response<Body> {
    let (head, _) = request.into_parts();
    let mut response = match read(node, connection, &head).await {
        Ok(response) => response,
        Err(error) => error.into_response().map(Body::Router),
    };
    super::protect(response.headers_mut());
    response
}

async fn read(
    node: &Arc<Node>,
    connection: Option<&Arc<Connection>>,
    head: &Parts,
) -> Result<Response<Body>, Error> {
    super::check(node, &head.uri, &head.headers)?;
    let peer = connection.map(|connection| Peer(connection.peer()));
    let target = target(head.uri.path())?;
    let known = if matches!(target, Target::Subscription(_)) { &PARAMETERS[..] } else { &PARAMETERS[1..] };
    let query = Query::of(&head.uri, known)?;
    let caller = auth::caller(node, &head.headers, query.get(TICKET), peer)?;
    let accept = accept(&head.headers);
    let Some(media) = negotiate(accept.as_deref(), &OFFERS) else {
        return Err(Error::new(Code::NotAcceptable, "events can be had in the media types in `supported`")
            .with("supported", OFFERS.to_vec()));
    };
    let way = match media {
        media::EVENT_STREAM => Way::sse,
        media::STREAM => Way::stream,
        _ => Way::range,
    };
    let filter = query.get("filter").map(Filters::sql).transpose()?.map(Arc::new);
    let ask = Ask {
        resume: resume(&query, &head.headers, &target, way)?,
        history: history(&query)?,
        to: position(&query, "to")?,
        limit: query.number("limit", limits(way))?,
        caller,
        target,
        filter,
        way,
    };
    if way == Way::range {
        let wanted = range::Form::of(media);
        let range = node.deliveries().range(ask, wanted).await?;
        return Ok(ranged(head, media, range));
    }
    let delivery = node.deliveries().open(ask).await?;
    match connection {
        Some(connection) if !connection.is_shared() => {
            let framed = head.version > Version::HTTP_10;
            connection.take_over(Outlet::new(head_of(way, framed), framed, delivery));
            // HTTP on this connection ends here; the connection drops this future.
            std::future::pending().await
        }
        connection => {
            let body = outlet::Body::new(delivery, connection);
            let mut response = Response::new(Body::Delivery(Box::new(body)));
            let headers = response.headers_mut();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type(way)));
            headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
            Ok(response)
        }
    }
}

/// What the path names.
fn target(path: &str) -> Result<Target, Error> {
    if let Some(id) = path.strip_prefix("/subscriptions/").and_then(|rest| rest.strip_suffix("/events")) {
        let id: SubscriptionId =
            id.parse().map_err(|_| Error::new(Code::UnknownSubscription, "there is no such subscription"))?;
        return Ok(Target::Subscription(id));
    }
    let name = publish::stream_name(path).unwrap_or_default();
    let name = percent_decode_str(name).decode_utf8_lossy();
    let name: StreamName = name
        .parse()
        .map_err(|error: weir_event::flow::Malformed| Error::new(Code::BadName, error.to_string()))?;
    Ok(Target::Stream { name, filters: None })
}

/// All `Accept` headers as one.
fn accept(headers: &HeaderMap) -> Option<String> {
    let mut values = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let first = values.next()?.to_owned();
    Some(values.fold(first, |all, value| all + "," + value))
}

/// How many events may be asked for: a range is one answer, a delivery may be as long as it likes.
fn limits(way: Way) -> std::ops::RangeInclusive<u64> {
    match way {
        Way::range => 1..=range::EVENTS_MAX,
        Way::sse | Way::stream => 1..=u64::MAX,
    }
}

fn resume(query: &Query, headers: &HeaderMap, target: &Target, way: Way) -> Result<Resume, Error> {
    let last = match headers.get(LAST_EVENT_ID) {
        Some(value) => Some(value.to_str().unwrap_or("?")),
        None => query.get(LAST_EVENT_ID),
    };
    // An EventSource that got nothing yet sends none; some clients send it empty.
    if let Some(last) = last.filter(|last| !last.is_empty()) {
        let position = last.parse::<Position>().map_err(|error| {
            Error::new(Code::BadPosition, format!("Last-Event-ID: {error}")).with("parameter", LAST_EVENT_ID)
        })?;
        return Ok(Resume::After(position));
    }
    if let Some(from) = position(query, "from")? {
        return Ok(Resume::From(from));
    }
    let begin = match (target, way) {
        (Target::Stream { .. }, Way::range) => Start::Earliest,
        (Target::Stream { .. }, Way::sse | Way::stream) => Start::Latest,
        (Target::Subscription(_) | Target::Preview(_), _) => Start::Latest,
    };
    Ok(Resume::Default(begin))
}

fn position(query: &Query, name: &'static str) -> Result<Option<Start>, Error> {
    let parse = |text: &str| {
        text.parse().map_err(|error: weir_event::flow::Malformed| {
            Error::new(Code::BadPosition, format!("{name}: {error}; or earliest, or latest"))
                .with("parameter", name)
        })
    };
    query.get(name).map(parse).transpose()
}

fn history(query: &Query) -> Result<Option<History>, Error> {
    let parse = |text: &str| {
        text.parse().map_err(|error: weir_event::flow::Malformed| {
            Error::new(Code::BadPosition, error.to_string()).with("parameter", "history")
        })
    };
    query.get("history").map(parse).transpose()
}

fn media_type(way: Way) -> &'static str {
    match way {
        Way::sse => media::EVENT_STREAM,
        Way::stream | Way::range => media::STREAM,
    }
}

/// The head of an answer that takes its connection over. A consumer that knows no chunks reads to the end of the
/// connection (RFC 9112, section 6.3).
fn head_of(way: Way, framed: bool) -> Bytes {
    let framing = if framed { "transfer-encoding: chunked\r\n" } else { "" };
    let date = httpdate::fmt_http_date(std::time::SystemTime::now());
    format!(
        "HTTP/1.1 200 OK\r\ncontent-type: {}\r\ncache-control: no-store\r\nx-accel-buffering: no\r\n\
         x-content-type-options: nosniff\r\ncross-origin-resource-policy: same-origin\r\n\
         {framing}connection: close\r\ndate: {date}\r\n\r\n",
        media_type(way)
    )
    .into()
}

/// A range as an answer.
fn ranged(head: &Parts, media: &'static str, range: Range) -> Response<Body> {
    let mut response = Response::new(Body::from(range.body));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    let mut add = |name: HeaderName, text: String| {
        if let Ok(value) = HeaderValue::try_from(text) {
            headers.append(name, value);
        }
    };
    add(HISTORY, range.head.history.to_string());
    add(HEAD, range.head.last.to_string());
    for skipped in range.skipped.iter().take(range::SKIPPED_MAX) {
        let reason = crate::deliver::skip_reason(skipped.reason);
        add(SKIPPED, format!("{}-{}; reason={reason}", skipped.from, skipped.to));
    }
    if let Some(next) = range.next {
        let kept = head.uri.query().unwrap_or_default().split('&').filter(|pair| {
            let name = pair.split('=').next().unwrap_or_default();
            !name.is_empty() && !["from", "history", LAST_EVENT_ID].contains(&name)
        });
        let mut link = format!("<{}?from={next}&history={}", head.uri.path(), range.head.history);
        kept.for_each(|pair| {
            link.push('&');
            link.push_str(pair);
        });
        link.push_str(">; rel=\"next\"");
        add(LINK, link);
    }
    response
}
