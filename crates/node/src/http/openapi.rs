//! `GET /openapi.json`: the description of every call, for programs and for people who generate clients.
//!
//! The description is written once, in `openapi.json` beside this file; what the program itself knows better is
//! put in here: the version, the URL under which the node was reached, the names of all errors. A test holds it
//! against the router: every call is described, and nothing is described that is not there; every parameter that
//! a call takes is listed.

use std::sync::{Arc, LazyLock};

use axum::extract::State;
use axum::response::Response;
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::Node;
use crate::error::{Code, Error};

use super::Routes;
use super::asked::Asked;
use super::body::answer;

/// The description as it is written. A test parses it, so it can be read.
static WRITTEN: LazyLock<Value> =
    LazyLock::new(|| serde_json::from_str(include_str!("openapi.json")).unwrap_or_default());

pub(super) fn routes(routes: Routes) -> Routes {
    routes.on(Method::GET, "/openapi.json", openapi)
}

async fn openapi(State(_): State<Arc<Node>>, asked: Asked) -> Result<Response, Error> {
    asked.query(&[])?;
    Ok(answer(StatusCode::OK, &document(&asked.base.url())))
}

/// The whole description, for a node reached at `url`.
pub(super) fn document(url: &str) -> Value {
    let mut document = WRITTEN.clone();
    document["info"]["version"] = env!("CARGO_PKG_VERSION").into();
    document["servers"] = json!([{"url": url}]);
    let types: Vec<String> = Code::ALL.iter().map(|code| format!("urn:weir:error:{code}")).collect();
    document["components"]["schemas"]["Problem"]["properties"]["type"]["examples"] = json!(types);
    document
}
