//! `POST /subscriptions/{id}/ack`: what a consumer has dealt with.
//!
//! `{"ack": 41}` acknowledges everything up to a position, `{"acks": [43, 44]}` single ones above it. The answer
//! says where the cursor stands then. Cursors are saved together within a second, not one by one: a crash of the
//! node delivers at most that second's events again.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use http::{Method, StatusCode};
use serde_json::{Value, json};
use weir_event::flow::{History, Position};

use crate::Node;
use crate::control::members::{Members, bad};
use crate::error::Error;

use super::Routes;
use super::asked::Asked;
use super::body::{Json, answer};
use super::subscriptions::id;

/// The most single positions in one call: as many as may be open above the floor.
const ACKS_MAX: usize = 10_000;

pub(super) fn routes(routes: Routes) -> Routes {
    routes.on(Method::POST, "/subscriptions/{id}/ack", ack)
}

async fn ack(State(node): State<Arc<Node>>, asked: Asked, Json(body): Json) -> Result<Response, Error> {
    asked.query(&[])?;
    let id = id(&asked)?;
    let subscription = node.control().consumed(&asked.caller, id)?;
    let members = Members::of(&body, "", &["ack", "acks", "history"])?;
    let upto = members.parsed("ack", position)?;
    let single = members.parsed("acks", positions)?.unwrap_or_default();
    if upto.is_none() && single.is_empty() {
        return Err(bad("ack", "must be a position; or acks a list of them"));
    }
    let history = members.parsed("history", |value| {
        let text = value.as_str().ok_or("must be a string")?;
        text.parse::<History>().map_err(|error| error.to_string())
    })?;
    let current = node.log().status(subscription.stream)?.history;
    let history = history.unwrap_or(current);
    // One call: all of it holds or none.
    let ranges: Vec<(Position, Position)> = upto
        .map(|upto| (Position::FIRST, upto))
        .into_iter()
        .chain(single.into_iter().map(|position| (position, position)))
        .collect();
    let floor = node.control().acks(id, history, &ranges)?;
    Ok(answer(StatusCode::OK, &json!({"cursor": floor.0, "history": history.to_string()})))
}

fn position(value: &Value) -> Result<Position, String> {
    value.as_u64().map(Position).ok_or_else(|| "must be a position".to_owned())
}

fn positions(value: &Value) -> Result<Vec<Position>, String> {
    let list = value.as_array().ok_or("must be a list of positions")?;
    if list.len() > ACKS_MAX {
        return Err(format!("has at most {ACKS_MAX} positions"));
    }
    list.iter().map(position).collect()
}
