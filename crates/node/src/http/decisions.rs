//! The producer's decisions about a subscription, what helps to make them, and the credentials that follow.
//!
//! `accept`, `reject`, `suspend`, `resume` and `revoke` are one decision each, made by control or refused there;
//! suspend and resume are open to either side, which lifts only its own. `preview` shows exactly what the consumer
//! would get, made by the module that delivers. `grant` collects or renews a credential, `ticket` gives one that
//! a browser can put into a URL.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Method, StatusCode};
use serde_json::{Value, json};
use weir_event::flow::Position;

use crate::Node;
use crate::control::members::Members;
use crate::control::{Command, Imposed, Start, SubscriptionId, Target};
use crate::deliver::{Ask, Resume, range};
use crate::error::Error;
use crate::metrics::Way;

use super::Routes;
use super::asked::Asked;
use super::body::{Json, answer};
use super::query::REASON_BYTES_MAX;
use super::subscriptions::{Once, id, profile, shown};

/// How many events a preview shows unless said, and at most.
const PREVIEW: u64 = 20;
const PREVIEW_MAX: u64 = 100;

/// How far back a preview looks for events that fit, in positions.
const BACK_MAX: u64 = 1_000_000;

pub(super) fn routes(routes: Routes) -> Routes {
    routes
        .on(Method::POST, "/subscriptions/{id}/accept", accept)
        .on(Method::POST, "/subscriptions/{id}/reject", reject)
        .on(Method::POST, "/subscriptions/{id}/suspend", suspend)
        .on(Method::POST, "/subscriptions/{id}/resume", resume)
        .on(Method::POST, "/subscriptions/{id}/revoke", revoke)
        .on(Method::GET, "/subscriptions/{id}/preview", preview)
        .on(Method::POST, "/subscriptions/{id}/grant", grant)
        .on(Method::POST, "/subscriptions/{id}/ticket", ticket)
}

async fn decide(node: &Node, asked: &Asked, command: Command) -> Result<Response, Error> {
    let (subscription, once) = Once::of(node.control().decide(&asked.caller, command).await?)?;
    Ok(shown(node, &asked.base, StatusCode::OK, &subscription, &once))
}

async fn accept(
    State(node): State<Arc<Node>>,
    asked: Asked,
    Json(mut body): Json,
) -> Result<Response, Error> {
    asked.query(&[])?;
    let known = ["reason", "expires", "rate", "filters", "form", "from"];
    let reason = Members::of(&body, "", &known)?.text("reason", REASON_BYTES_MAX)?;
    if let Value::Object(members) = &mut body {
        members.shift_remove("reason");
    }
    let imposed = Box::new(Imposed::parse(&body, node.clock().now())?);
    decide(&node, &asked, Command::Accept { id: id(&asked)?, reason, imposed }).await
}

/// A decision that says nothing but why.
async fn simple(
    node: &Node,
    asked: &Asked,
    body: &Value,
    command: impl FnOnce(SubscriptionId, Option<Box<str>>) -> Command,
) -> Result<Response, Error> {
    asked.query(&[])?;
    let reason = Members::of(body, "", &["reason"])?.text("reason", REASON_BYTES_MAX)?;
    decide(node, asked, command(id(asked)?, reason)).await
}

async fn reject(State(node): State<Arc<Node>>, asked: Asked, Json(body): Json) -> Result<Response, Error> {
    simple(&node, &asked, &body, |id, reason| Command::Reject { id, reason }).await
}

async fn suspend(State(node): State<Arc<Node>>, asked: Asked, Json(body): Json) -> Result<Response, Error> {
    simple(&node, &asked, &body, |id, reason| Command::Suspend { id, reason }).await
}

async fn resume(State(node): State<Arc<Node>>, asked: Asked, Json(body): Json) -> Result<Response, Error> {
    simple(&node, &asked, &body, |id, reason| Command::Resume { id, reason }).await
}

async fn revoke(State(node): State<Arc<Node>>, asked: Asked, Json(body): Json) -> Result<Response, Error> {
    simple(&node, &asked, &body, |id, reason| Command::Revoke { id, reason }).await
}

/// Begins where the subscription would. One that would begin with the next event is shown the newest there are:
/// going back until there are enough, or no more.
async fn preview(State(node): State<Arc<Node>>, asked: Asked) -> Result<Response, Error> {
    let limit = asked.query(&["limit"])?.number("limit", 1..=PREVIEW_MAX)?.unwrap_or(PREVIEW);
    let id = id(&asked)?;
    let subscription = node.control().subscription(&asked.caller, id)?;
    let request = subscription.wanted.as_ref().unwrap_or(&subscription.request);
    // Nothing is read before control has said yes; a preview is a reader like any other.
    let status = node.log().status(subscription.stream)?;
    let mut back = limit;
    let range = loop {
        let newest = Position(status.next.0.saturating_sub(back)).max(status.first);
        let from = match request.from {
            Start::Latest => Start::Position(newest),
            Start::Position(position) => Start::Position(position.min(status.next)),
            Start::Earliest | Start::Time(_) => request.from,
        };
        let ask = Ask {
            caller: asked.caller.clone(),
            target: Target::Preview(id),
            resume: Resume::From(from),
            history: None,
            to: None,
            limit: Some(limit),
            filter: None,
            way: Way::range,
        };
        let range = node.deliveries().range(ask, range::Form::JsonBatch).await?;
        let enough = range.next.is_some() || newest <= status.first;
        if enough || request.from != Start::Latest || back >= BACK_MAX {
            break range;
        }
        back *= 32;
    };
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("application/cloudevents-batch+json; charset=UTF-8")),
        (CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    Ok((StatusCode::OK, headers, range.body).into_response())
}

async fn grant(State(node): State<Arc<Node>>, asked: Asked, Json(body): Json) -> Result<Response, Error> {
    asked.query(&[])?;
    Members::of(&body, "", &[])?;
    let outcome = node.control().decide(&asked.caller, Command::Grant { id: id(&asked)? }).await?;
    let (subscription, once) = Once::of(outcome)?;
    Ok(answer(StatusCode::OK, &profile(&node, &asked.base, &subscription, once.grant())))
}

async fn ticket(State(node): State<Arc<Node>>, asked: Asked, Json(body): Json) -> Result<Response, Error> {
    asked.query(&[])?;
    Members::of(&body, "", &[])?;
    let id = id(&asked)?;
    let ticket = node.control().ticket(&asked.caller, id)?;
    let secret = ticket.bearer.reveal();
    let shown = json!({
        "ticket": secret,
        "expires": ticket.expires.to_string(),
        "url": asked.base.join(&format!("/subscriptions/{id}/events?ticket={secret}")),
    });
    Ok(answer(StatusCode::CREATED, &shown))
}
