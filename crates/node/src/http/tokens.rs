//! API tokens, for the node's owner: create, list, end.
//!
//! A token's secret is in the answer to its creation and nowhere else; the node keeps a hash.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{Method, StatusCode};
use serde_json::{Map, Value};

use crate::Node;
use crate::control::members::{self, Members};
use crate::control::{Command, Outcome, Pattern, Role, Token, terms};
use crate::error::{Code, Error};

use super::Routes;
use super::asked::Asked;
use super::body::{Json, answer};
use super::streams::{paged, unexpected};

pub(super) fn routes(routes: Routes) -> Routes {
    routes.on(Method::POST, "/tokens", create).on(Method::GET, "/tokens", list).on(
        Method::DELETE,
        "/tokens/{id}",
        end,
    )
}

async fn create(State(node): State<Arc<Node>>, asked: Asked, Json(body): Json) -> Result<Response, Error> {
    asked.query(&[])?;
    let members = Members::of(&body, "", &["role", "streams", "for", "expires"])?;
    let role = members.parsed("role", |value| {
        value.as_str().and_then(Role::named).ok_or_else(|| {
            let names: Vec<&str> = Role::ALL.into_iter().map(Role::name).collect();
            format!("must be one of {}", names.join(", "))
        })
    })?;
    let role = role.ok_or_else(|| members::bad("role", "must be given"))?;
    let streams =
        members.parsed("streams", |value| value.as_str().ok_or("must be a pattern of names")?.parse())?;
    let command = Command::CreateToken {
        role,
        streams: streams.unwrap_or_else(Pattern::all),
        organization: members.text("for", 253)?,
        expires: terms::expires(&members, node.clock().now())?,
    };
    match node.control().decide(&asked.caller, command).await? {
        Outcome::Token { token, bearer } => {
            let mut shown = to_json(&token);
            shown.insert("token".into(), bearer.reveal().into());
            let mut response = answer(StatusCode::CREATED, &Value::Object(shown));
            response.headers_mut().extend([asked.base.location(&format!("/tokens/{}", token.id))]);
            Ok(response)
        }
        other => Err(unexpected(&other)),
    }
}

async fn list(State(node): State<Arc<Node>>, asked: Asked) -> Result<Response, Error> {
    let query = asked.query(&["limit", "after"])?;
    let limit = query.page()?;
    let page = node.control().tokens(&asked.caller, query.get("after"), limit)?;
    let tokens = page.items.iter().map(|token| Value::Object(to_json(token))).collect();
    Ok(paged(&asked.base, "/tokens", "tokens", tokens, page.next, &[], limit))
}

async fn end(State(node): State<Arc<Node>>, asked: Asked) -> Result<Response, Error> {
    asked.query(&[])?;
    let id = asked.segment("id").parse();
    let id = id.map_err(|_| Error::new(Code::UnknownToken, "there is no such token"))?;
    match node.control().decide(&asked.caller, Command::RevokeToken { id }).await? {
        Outcome::TokenRevoked => Ok(StatusCode::NO_CONTENT.into_response()),
        other => Err(unexpected(&other)),
    }
}

fn to_json(token: &Token) -> Map<String, Value> {
    let mut shown = Map::new();
    shown.insert("id".into(), token.id.to_string().into());
    shown.insert("role".into(), token.role.name().into());
    shown.insert("streams".into(), token.streams.as_str().into());
    if let Some(organization) = &token.organization {
        shown.insert("for".into(), organization.as_ref().into());
    }
    shown.insert("created".into(), token.created.to_string().into());
    if let Some(expires) = token.expires {
        shown.insert("expires".into(), expires.to_string().into());
    }
    shown
}
