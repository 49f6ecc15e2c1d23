//! Streams: create, replace, change, read, retire, search.
//!
//! A stream's answer is its descriptor with what the node adds: `name`, `uri`, `owner`, `history`, `first`,
//! `last`, `bytes`, `created`, `rate`. Its `ETag` is the decision that last changed it, so it holds while events
//! come in. What exists is replaced only by someone who says which version they saw, and what would delete data
//! or end subscriptions is answered with what it would do, until it is confirmed; both are control's rules.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header::ETAG;
use http::{Method, StatusCode};
use serde_json::{Map, Value, json};
use weir_event::flow::Time;

use crate::Node;
use crate::control::{Action, Command, Descriptor, Outcome, Stream};
use crate::error::{Code, Error};

use super::Routes;
use super::asked::{Asked, Base, etag};
use super::body::{Json, answer};

/// How long back a stream's rate looks.
const RATE_WINDOW: Duration = Duration::from_secs(60);

/// The most bytes of a search.
const SEARCH_BYTES_MAX: usize = 256;

pub(super) fn routes(routes: Routes) -> Routes {
    routes
        .on(Method::GET, "/streams", list)
        .on(Method::PUT, "/streams/{name}", put)
        .on(Method::PATCH, "/streams/{name}", patch)
        .on(Method::GET, "/streams/{name}", get)
        .on(Method::DELETE, "/streams/{name}", retire)
}

async fn put(State(node): State<Arc<Node>>, asked: Asked, Json(body): Json) -> Result<Response, Error> {
    let confirm = asked.query(&["confirm"])?.get("confirm").map(str::to_owned);
    let descriptor = Box::new(Descriptor::parse(&body)?);
    let command = Command::PutStream { name: asked.stream()?, descriptor, seen: asked.seen()?, confirm };
    decide(&node, &asked, command).await
}

async fn patch(State(node): State<Arc<Node>>, asked: Asked, Json(patch): Json) -> Result<Response, Error> {
    let confirm = asked.query(&["confirm"])?.get("confirm").map(str::to_owned);
    let command = Command::PatchStream { name: asked.stream()?, patch, seen: asked.seen()?, confirm };
    decide(&node, &asked, command).await
}

async fn retire(State(node): State<Arc<Node>>, asked: Asked) -> Result<Response, Error> {
    let query = asked.query(&["confirm", "reason"])?;
    let command = Command::RetireStream {
        name: asked.stream()?,
        seen: asked.seen()?,
        confirm: query.get("confirm").map(str::to_owned),
        reason: query.reason()?,
    };
    decide(&node, &asked, command).await
}

async fn decide(node: &Node, asked: &Asked, command: Command) -> Result<Response, Error> {
    match node.control().decide(&asked.caller, command).await? {
        Outcome::Stream { stream, created } => {
            let status = if created { StatusCode::CREATED } else { StatusCode::OK };
            let mut response = shown(node, &asked.base, status, &stream).await?;
            if created {
                response.headers_mut().extend([asked.base.location(&format!("/streams/{}", stream.name))]);
            }
            Ok(response)
        }
        Outcome::Retired => Ok(StatusCode::NO_CONTENT.into_response()),
        other => Err(unexpected(&other)),
    }
}

/// The error of an outcome that the command can't have: ours.
pub(super) fn unexpected(outcome: &Outcome) -> Error {
    Error::internal(format!("a decision had an outcome of another kind: {outcome:?}"))
}

async fn get(State(node): State<Arc<Node>>, asked: Asked) -> Result<Response, Error> {
    asked.query(&[])?;
    let stream = node.control().authorize(&asked.caller, Action::Find, asked.stream()?.as_str())?;
    shown(&node, &asked.base, StatusCode::OK, &stream).await
}

async fn shown(node: &Node, base: &Base, status: StatusCode, stream: &Stream) -> Result<Response, Error> {
    let mut response = answer(status, &to_json(node, base, stream).await?);
    response.headers_mut().insert(ETAG, etag(stream.revision));
    Ok(response)
}

async fn list(State(node): State<Arc<Node>>, asked: Asked) -> Result<Response, Error> {
    let query = asked.query(&["q", "limit", "after"])?;
    let (q, limit) = (query.get("q").unwrap_or_default(), query.page()?);
    if q.len() > SEARCH_BYTES_MAX {
        return Err(super::query::bad("q", &format!("has at most {SEARCH_BYTES_MAX} bytes")));
    }
    let page = node.control().search(&asked.caller, q, query.get("after"), limit);
    let mut streams = Vec::with_capacity(page.items.len());
    for stream in &page.items {
        match to_json(&node, &asked.base, stream).await {
            Ok(stream) => streams.push(stream),
            // Retired since it was found.
            Err(error) if error.code() == Code::UnknownStream => {}
            Err(error) => return Err(error),
        }
    }
    Ok(paged(&asked.base, "/streams", "streams", streams, page.next, &[("q", q)], limit))
}

/// A page of a list: the entries under their name, and the way to the next page both as a member and as a link.
pub(super) fn paged(
    base: &Base,
    path: &str,
    name: &str,
    entries: Vec<Value>,
    next: Option<String>,
    filter: &[(&str, &str)],
    limit: usize,
) -> Response {
    let mut body = Map::new();
    body.insert(name.to_owned(), Value::Array(entries));
    let mut link = None;
    if let Some(next) = next {
        let limit = limit.to_string();
        let mut query: Vec<(&str, &str)> =
            filter.iter().copied().filter(|(_, value)| !value.is_empty()).collect();
        query.extend([("limit", limit.as_str()), ("after", next.as_str())]);
        link = base.next(path, &query);
        body.insert("next".to_owned(), next.into());
    }
    let mut response = answer(StatusCode::OK, &Value::Object(body));
    response.headers_mut().extend(link);
    response
}

/// A stream as answers show it.
pub(super) async fn to_json(node: &Node, base: &Base, stream: &Stream) -> Result<Value, Error> {
    let status = node.log().status(stream.id)?;
    let mut shown = Map::new();
    shown.insert("name".into(), stream.name.as_str().into());
    shown.insert("uri".into(), base.flow(&stream.name).into());
    shown.insert("owner".into(), node.organization().into());
    if let Value::Object(descriptor) = stream.descriptor.to_json() {
        shown.extend(descriptor);
    }
    shown.insert("history".into(), status.history.to_string().into());
    shown.insert("first".into(), status.first.0.into());
    shown.insert("last".into(), status.last.0.into());
    shown.insert("bytes".into(), status.bytes.into());
    shown.insert("created".into(), stream.created.to_string().into());
    shown.insert("rate".into(), json!(rate(node, stream, &status).await));
    Ok(Value::Object(shown))
}

/// Events per second over the last minute, counted by their append times in the log: true from the first moment
/// after a restart, and nothing to keep per stream. Zero where the log can't say.
pub(super) async fn rate(node: &Node, stream: &Stream, status: &weir_log::Status) -> f64 {
    let window = u64::try_from(RATE_WINDOW.as_millis()).unwrap_or(u64::MAX);
    let since = Time(node.clock().now().0.saturating_sub(window));
    if status.last.is_none() || status.time < since {
        return 0.0;
    }
    let Ok(first) = node.log().find(stream.id, since).await else { return 0.0 };
    let events = status.next.0.saturating_sub(first.0);
    // Three digits: finer than a minute's count can tell. Exact below 2^53 events.
    #[allow(clippy::cast_precision_loss, reason = "a rate is for people")]
    let rate = events as f64 / RATE_WINDOW.as_secs_f64();
    (rate * 1000.0).round() / 1000.0
}
