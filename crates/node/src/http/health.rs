//! Whether the node lives, whether it is ready, and how it is.
//!
//! `/healthz` answers as long as the process turns requests around: an orchestrator restarts a node that does not.
//! `/readyz` answers 200 only while the node can do all of its work, and otherwise says what it can't: a load
//! balancer sends publishers elsewhere. Both tell a stranger nothing else. `/metrics` and `/status` are for the
//! node's owner.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Method, StatusCode};
use serde_json::{Map, Value, json};

use crate::Node;
use crate::control::{Caller, Wanted};
use crate::error::{Code, Error};

use super::Routes;
use super::asked::Asked;
use super::body::answer;
use super::query::PAGE_MAX;
use super::streams::rate;

/// When to look again at a node that is not ready.
const RETRY: Duration = Duration::from_secs(2);

pub(super) fn routes(routes: Routes) -> Routes {
    routes
        .on(Method::GET, "/healthz", healthz)
        .on(Method::GET, "/readyz", readyz)
        .on(Method::GET, "/metrics", metrics)
        .on(Method::GET, "/status", status)
}

async fn healthz() -> Response {
    answer(StatusCode::OK, &json!({"healthy": true}))
}

async fn readyz(State(node): State<Arc<Node>>) -> Result<Response, Error> {
    let mut missing: Vec<&str> = Vec::new();
    if node.closing().is_cancelled() {
        missing.push("the node is stopping");
    }
    // The log is open and control has caught up before there is a node at all; what can be lacking later is room.
    if let Some(disk) = disk(&node).await
        && disk["full"] == true
    {
        missing.push("the disk is too full to take events");
    }
    if missing.is_empty() {
        return Ok(answer(StatusCode::OK, &json!({"ready": true})));
    }
    Err(Error::new(Code::NotReady, missing.join(", ")).with("missing", missing).retry_after(RETRY))
}

/// The same text under either name: OpenMetrics for who asks for it, else the older Prometheus text format, whose
/// readers take it as well.
async fn metrics(State(node): State<Arc<Node>>, asked: Asked) -> Result<Response, Error> {
    asked.query(&[])?;
    node.control().authorize_node(&asked.caller)?;
    let accepts = |value: &HeaderValue| value.to_str().is_ok_and(|text| text.contains("openmetrics-text"));
    let open = asked.headers.get_all(ACCEPT).iter().any(accepts);
    let content_type =
        if open { crate::metrics::CONTENT_TYPE } else { "text/plain; version=0.0.4; charset=utf-8" };
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static(content_type)),
        (CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    Ok((headers, node.metrics().render()).into_response())
}

async fn status(State(node): State<Arc<Node>>, asked: Asked) -> Result<Response, Error> {
    asked.query(&[])?;
    node.control().authorize_node(&asked.caller)?;
    let now = node.clock().now();
    let shown = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "organization": node.organization(),
        "url": asked.base.url(),
        "started": node.started().to_string(),
        "uptime": now.0.saturating_sub(node.started().0) / 1000,
        "open": node.control().is_open(),
        "streams": streams(&node, &asked.caller).await,
        "subscriptions": subscriptions(&node, &asked.caller),
        "disk": disk(&node).await,
    });
    Ok(answer(StatusCode::OK, &shown))
}

/// Room on the log's disk; nothing if the log is not on a disk of this machine.
async fn disk(node: &Node) -> Option<Value> {
    let engine = Arc::clone(node.engine()?);
    let counters = Arc::clone(engine.counters());
    // A file system may take its time; requests on this thread should not wait for it.
    let room = tokio::task::spawn_blocking(move || engine.room()).await.ok()?.ok()?;
    let taken = room.total.saturating_sub(room.free);
    #[allow(clippy::cast_precision_loss, reason = "a share is for people")]
    let used = if room.total == 0 { 0.0 } else { taken as f64 / room.total as f64 };
    let (warn, stop) = (node.settings().disk_warn.share(), node.settings().disk_stop.share());
    Some(json!({
        "total": room.total,
        "free": room.free,
        "used": (used * 1e4).round() / 1e4,
        "warn": warn,
        "stop": stop,
        "full": used >= stop || counters.full.load(Relaxed) == 1,
        "log": counters.segment_bytes.load(Relaxed),
    }))
}

/// How many streams there are, and what they hold and take together.
async fn streams(node: &Node, caller: &Caller) -> Value {
    let (mut count, mut events, mut bytes, mut together) = (0_u64, 0_u64, 0_u64, 0.0);
    let mut after = None;
    loop {
        let page = node.control().search(caller, "", after.as_deref(), PAGE_MAX);
        // The node's own streams are no news; what they take is in what the log takes.
        for stream in page.items.iter().filter(|stream| !stream.name.is_reserved()) {
            // Retired since it was found.
            let Ok(status) = node.log().status(stream.id) else { continue };
            count += 1;
            if !status.last.is_none() {
                events += status.last.0.saturating_sub(status.first.0).saturating_add(1);
            }
            bytes += status.bytes;
            together += rate(node, stream, &status).await;
        }
        after = page.next;
        if after.is_none() {
            return json!({"count": count, "events": events, "bytes": bytes, "rate": together});
        }
    }
}

/// How many subscriptions there are in each state.
fn subscriptions(node: &Node, caller: &Caller) -> Value {
    let mut counts = Map::new();
    for state in ["requested", "accepted", "active", "suspended", "closed"] {
        counts.insert(state.to_owned(), 0.into());
    }
    let mut after = None;
    loop {
        let page = node.control().subscriptions(caller, &Wanted::default(), after.as_deref(), PAGE_MAX);
        for subscription in &page.items {
            let count = &mut counts[subscription.status.name()];
            *count = (count.as_u64().unwrap_or_default() + 1).into();
        }
        after = page.next;
        if after.is_none() {
            return Value::Object(counts);
        }
    }
}
