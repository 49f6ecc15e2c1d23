//! `GET /.well-known/flow`: what others need to know of a node before anything else.
//!
//! A client resolves `flow://authority/stream` here. The document names the organization, its keys, where each
//! interface lives and what this node can do; it holds nothing about streams, and anyone may read it, also a page
//! of another origin. `spec` and `features` are what lets both sides be upgraded apart: a client sends only
//! members that `features` names.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use http::header::{ACCESS_CONTROL_ALLOW_ORIGIN, CACHE_CONTROL};
use http::{HeaderValue, Method, StatusCode};
use serde_json::{Value, json};

use crate::Node;
use crate::control::subscription::Protocol;
use crate::error::Error;

use super::Routes;
use super::asked::Asked;
use super::body::answer;

/// The version of the flow protocol that this node speaks; a minor version only adds.
pub(super) const SPEC: &str = "1.0";

/// What this node can do beyond the first edition of the protocol's interface, by stable names.
const FEATURES: [&str; 10] = [
    "expect",
    "filters-cesql",
    "history",
    "lift",
    "plain",
    "positions",
    "prefer-wait",
    "producer",
    "stream",
    "tickets",
];

pub(super) fn routes(routes: Routes) -> Routes {
    routes.on(Method::GET, "/.well-known/flow", flow)
}

async fn flow(State(node): State<Arc<Node>>, asked: Asked) -> Result<Response, Error> {
    asked.query(&[])?;
    let mut protocols: Vec<Value> = vec!["HTTP".into()];
    protocols.extend(Protocol::SUPPORTED.map(Value::from));
    let document = json!({
        "organization": node.organization(),
        "spec": SPEC,
        "features": FEATURES,
        "endpoints": {"http": asked.base.url()},
        "protocols": protocols,
        "keys": [],
    });
    let mut response = answer(StatusCode::OK, &document);
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("max-age=60"));
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    Ok(response)
}
