//! Plans about API tokens.

use std::sync::Arc;

use weir_event::flow::Time;

use super::streams::may_run_node;
use super::{Answer, Desk, Plan};
use crate::control::access::Role;
use crate::control::decision::{Change, Kind};
use crate::control::descriptor::organization;
use crate::control::limits::TOKENS_MAX;
use crate::control::members::bad;
use crate::control::record::{Pattern, Token, TokenId};
use crate::control::secrets::Holder;
use crate::error::{Code, Error};

/// Create a token.
pub(in crate::control) fn create(
    desk: &Desk<'_>,
    role: Role,
    streams: Pattern,
    holder: Option<Box<str>>,
    expires: Option<Time>,
) -> Result<Plan, Error> {
    may_run_node(desk.caller)?;
    if let Some(name) = holder.as_deref() {
        organization(name).map_err(|what| bad("for", &what))?;
    }
    if expires.is_some_and(|expires| expires <= desk.now) {
        return Err(bad("expires", "lies in the past"));
    }
    if desk.state.tokens().len() >= TOKENS_MAX {
        let what = format!("the node holds {TOKENS_MAX} tokens, revoke some first");
        return Err(Error::new(Code::LimitReached, what).with("limit", TOKENS_MAX));
    }
    let mut id = TokenId(desk.random()?);
    while desk.state.token(id).is_some() {
        id = TokenId(desk.random()?);
    }
    let token = Token { id, role, streams, organization: holder, created: desk.now, expires };
    let drawn = desk.secrets.draw(Holder::Token(id), desk.entropy).map_err(Error::internal)?;
    let bearer = drawn.secret.clone();
    let decision = desk.decision(Kind::TokenCreated, None, Change::Token(Arc::new(token)));
    Ok(Plan { decision: Some(decision), drawn: vec![drawn], answer: Answer::Token { id, bearer } })
}

/// Revoke a token.
pub(in crate::control) fn revoke(desk: &Desk<'_>, id: TokenId) -> Result<Plan, Error> {
    may_run_node(desk.caller)?;
    if desk.state.token(id).is_none() {
        return Err(Error::new(Code::UnknownToken, format!("there is no token {id}")));
    }
    Ok(ended(desk, Kind::TokenRevoked, id))
}

/// A token whose time is up.
pub(in crate::control) fn expire(desk: &Desk<'_>, id: TokenId) -> Option<Plan> {
    let expires = desk.state.token(id)?.expires?;
    (expires <= desk.now).then(|| ended(desk, Kind::TokenExpired, id))
}

fn ended(desk: &Desk<'_>, kind: Kind, id: TokenId) -> Plan {
    let decision = desk.decision(kind, None, Change::TokenEnded(id));
    Plan { decision: Some(decision), drawn: Vec::new(), answer: Answer::TokenRevoked }
}
