//! Subscriptions, from the consumer's side: ask, look, wait, change, cancel; and how an answer shows one.
//!
//! The interface is that of the CloudEvents Subscriptions API, extended by decision and terms. What is shown once
//! (a grant, the secret of a request without a name) is in the answer to the call that made it and never again.
//!
//! `Prefer: wait=60` (RFC 7240) holds the answer back until the request is decided, so that a consumer learns of
//! a decision the moment it is made without asking again and again. It costs a watch on control's changes and
//! nothing else.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use http::header::ETAG;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use serde_json::{Map, Value, json};

use crate::Node;
use crate::control::command::Grant;
use crate::control::{
    Caller, Command, Outcome, Request, Secret, Status, Subscription, SubscriptionId, Wanted,
};
use crate::error::{Code, Error};

use super::Routes;
use super::asked::{Asked, Base, etag};
use super::body::{Json, answer};
use super::streams::{paged, unexpected};

/// The longest that `Prefer: wait` holds an answer back.
pub(super) const WAIT_MAX: Duration = Duration::from_secs(60);

/// The version of the flow protocol that profiles are written in.
const FLOW: &str = "1.0";

pub(super) fn routes(routes: Routes) -> Routes {
    routes
        .on(Method::POST, "/subscriptions", ask)
        .on(Method::GET, "/subscriptions", list)
        .on(Method::GET, "/subscriptions/{id}", get)
        .on(Method::PUT, "/subscriptions/{id}", change)
        .on(Method::DELETE, "/subscriptions/{id}", cancel)
}

/// The subscription in the path. Anything that is not an id is the id of no subscription.
pub(super) fn id(asked: &Asked) -> Result<SubscriptionId, Error> {
    let id = asked.segment("id").parse();
    id.map_err(|_| Error::new(Code::UnknownSubscription, "there is no such subscription"))
}

async fn ask(State(node): State<Arc<Node>>, asked: Asked, Json(body): Json) -> Result<Response, Error> {
    asked.query(&[])?;
    let request = Box::new(Request::parse(&body)?);
    let outcome = node.control().decide(&asked.caller, Command::Subscribe { request }).await?;
    let (subscription, once) = Once::of(outcome)?;
    let undecided = matches!(subscription.status, Status::Requested);
    let status = if undecided { StatusCode::ACCEPTED } else { StatusCode::CREATED };
    let mut response = shown(&node, &asked.base, status, &subscription, &once);
    let location = asked.base.location(&format!("/subscriptions/{}", subscription.id));
    response.headers_mut().extend([location]);
    Ok(response)
}

async fn list(State(node): State<Arc<Node>>, asked: Asked) -> Result<Response, Error> {
    let query = asked.query(&["stream", "state", "limit", "after"])?;
    let limit = query.page()?;
    let state = query.get("state");
    const STATES: [&str; 5] = ["requested", "accepted", "active", "suspended", "closed"];
    if state.is_some_and(|state| !STATES.contains(&state)) {
        return Err(super::query::bad("state", &format!("is one of {}", STATES.join(", "))));
    }
    let wanted = Wanted { stream: query.parse("stream")?, state: state.map(Into::into) };
    let page = node.control().subscriptions(&asked.caller, &wanted, query.get("after"), limit);
    let show = |subscription: &Arc<Subscription>| {
        Value::Object(to_json(&node, &asked.base, subscription, &Once::default()))
    };
    let entries = page.items.iter().map(show).collect();
    let filter = [("stream", query.get("stream").unwrap_or_default()), ("state", state.unwrap_or_default())];
    Ok(paged(&asked.base, "/subscriptions", "subscriptions", entries, page.next, &filter, limit))
}

async fn get(State(node): State<Arc<Node>>, method: Method, asked: Asked) -> Result<Response, Error> {
    asked.query(&[])?;
    let id = id(&asked)?;
    let wait = wait(&asked.headers);
    let mut subscription = match wait {
        Some(wait) => decided(&node, &asked.caller, id, wait).await?,
        None => node.control().subscription(&asked.caller, id)?,
    };
    let mut once = Once::default();
    // Whoever holds nothing but the request's secret is here to collect the grant. HEAD would throw it away.
    let collects = matches!(asked.caller, Caller::Requester { .. }) && method == Method::GET;
    if collects && matches!(subscription.status, Status::Accepted) {
        (subscription, once) = Once::of(node.control().decide(&asked.caller, Command::Grant { id }).await?)?;
    }
    let mut response = shown(&node, &asked.base, StatusCode::OK, &subscription, &once);
    if wait.is_some() {
        const APPLIED: HeaderName = HeaderName::from_static("preference-applied");
        response.headers_mut().insert(APPLIED, HeaderValue::from_static("wait"));
    }
    Ok(response)
}

async fn change(State(node): State<Arc<Node>>, asked: Asked, Json(body): Json) -> Result<Response, Error> {
    asked.query(&[])?;
    let command = Command::ChangeSubscription { id: id(&asked)?, request: Box::new(Request::parse(&body)?) };
    let (subscription, once) = Once::of(node.control().decide(&asked.caller, command).await?)?;
    // What asks for more waits for the producer, while what was accepted stays in force.
    let waits = subscription.wanted.is_some() || matches!(subscription.status, Status::Requested);
    let status = if waits { StatusCode::ACCEPTED } else { StatusCode::OK };
    Ok(shown(&node, &asked.base, status, &subscription, &once))
}

async fn cancel(State(node): State<Arc<Node>>, asked: Asked) -> Result<Response, Error> {
    let query = asked.query(&["reason"])?;
    let command = Command::Cancel { id: id(&asked)?, reason: query.reason()? };
    let (subscription, once) = Once::of(node.control().decide(&asked.caller, command).await?)?;
    Ok(shown(&node, &asked.base, StatusCode::OK, &subscription, &once))
}

/// The `wait` of a `Prefer` header, at most [`WAIT_MAX`]. A preference that is not understood is no error
/// (RFC 7240 section 2).
fn wait(headers: &HeaderMap) -> Option<Duration> {
    let preferences = headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok());
    let wait = preferences.flat_map(|text| text.split(',')).find_map(|preference| {
        let (name, value) = preference.split(';').next()?.split_once('=')?;
        name.trim()
            .eq_ignore_ascii_case("wait")
            .then(|| value.trim().trim_matches('"').parse().ok())
            .flatten()
    });
    wait.map(|seconds| Duration::from_secs(seconds).min(WAIT_MAX))
}

/// The subscription once nothing about it waits for a decision, or as it is after `wait` or when the node stops.
async fn decided(
    node: &Node,
    caller: &Caller,
    id: SubscriptionId,
    wait: Duration,
) -> Result<Arc<Subscription>, Error> {
    // Watched before it is looked at, so that no decision falls between the two.
    let mut changes = node.control().changes();
    let deadline = tokio::time::Instant::now() + wait;
    loop {
        changes.mark_unchanged();
        let subscription = node.control().subscription(caller, id)?;
        let waits = matches!(subscription.status, Status::Requested) || subscription.wanted.is_some();
        if !waits {
            return Ok(subscription);
        }
        tokio::select! {
            changed = tokio::time::timeout_at(deadline, changes.changed()) => {
                if !matches!(changed, Ok(Ok(()))) {
                    return Ok(subscription);
                }
            }
            () = node.closing().cancelled() => return Ok(subscription),
        }
    }
}

/// What only one answer holds.
#[derive(Debug, Default)]
pub(super) struct Once {
    grant: Option<Grant>,
    secret: Option<Secret>,
}

impl Once {
    /// The subscription that a decision left, and what is shown of it only now.
    pub(super) fn of(outcome: Outcome) -> Result<(Arc<Subscription>, Self), Error> {
        match outcome {
            Outcome::Subscription { subscription, grant, secret } => {
                Ok((subscription, Self { grant, secret }))
            }
            other => Err(unexpected(&other)),
        }
    }

    /// The grant, if the decision gave one.
    pub(super) fn grant(&self) -> Option<&Grant> {
        self.grant.as_ref()
    }
}

/// A subscription as an answer.
pub(super) fn shown(
    node: &Node,
    base: &Base,
    status: StatusCode,
    subscription: &Subscription,
    once: &Once,
) -> Response {
    let body = Value::Object(to_json(node, base, subscription, once));
    let mut response = answer(status, &body);
    response.headers_mut().insert(ETAG, etag(subscription.revision));
    response
}

/// A subscription as answers show it: what was decided, where it stands, and, once it may be read, its profile.
fn to_json(node: &Node, base: &Base, subscription: &Subscription, once: &Once) -> Map<String, Value> {
    let mut shown = subscription.to_json();
    shown.insert("uri".into(), base.flow(&subscription.request.stream).into());
    if let Some(cursor) = node.control().cursor(subscription.id) {
        shown.insert("cursor".into(), cursor.floor.after.0.into());
        // A retired stream has no head to lag behind.
        if let Ok(status) = node.log().status(subscription.stream) {
            let lag = if status.history == cursor.floor.history {
                status.last.0.saturating_sub(cursor.floor.after.0)
            } else {
                status.last.0
            };
            shown.insert("history".into(), status.history.to_string().into());
            shown.insert("lag".into(), lag.into());
        }
    }
    if let Some(secret) = &once.secret {
        shown.insert("secret".into(), secret.reveal().into());
    }
    if let Some(grant) = &once.grant {
        shown.insert("grant".into(), grant.bearer.reveal().into());
    }
    let readable =
        matches!(subscription.status, Status::Accepted | Status::Active | Status::Suspended { .. });
    if readable {
        shown.insert("profile".into(), profile(node, base, subscription, once.grant.as_ref()));
    }
    shown
}

/// All that a client without a node needs to receive: where, with what, until when.
pub(super) fn profile(node: &Node, base: &Base, subscription: &Subscription, grant: Option<&Grant>) -> Value {
    let events = base.join(&format!("/subscriptions/{}/events", subscription.id));
    let mut profile = json!({
        "flow": FLOW,
        "uri": base.flow(&subscription.request.stream),
        "subscription": subscription.id.to_string(),
    });
    if let Some(grant) = grant {
        profile["grant"] = grant.bearer.reveal().into();
        profile["expires"] = grant.expires.to_string().into();
        profile["renew"] = grant.renew.to_string().into();
    }
    if let Ok(status) = node.log().status(subscription.stream) {
        profile["history"] = status.history.to_string().into();
    }
    let endpoints: Map<String, Value> = crate::control::subscription::Protocol::SUPPORTED
        .iter()
        .map(|protocol| ((*protocol).to_owned(), Value::from(events.as_str())))
        .collect();
    profile["endpoints"] = Value::Object(endpoints);
    profile["keys"] = json!([]);
    profile
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_understood_and_bounded() {
        let prefer = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.append("prefer", text.parse().unwrap());
            wait(&headers)
        };
        assert_eq!(prefer("wait=5"), Some(Duration::from_secs(5)));
        assert_eq!(prefer("respond-async, Wait = \"7\"; x=y"), Some(Duration::from_secs(7)));
        assert_eq!(prefer("wait=86400"), Some(WAIT_MAX));
        assert_eq!(prefer("wait=soon"), None);
        assert_eq!(prefer("respond-async"), None);
    }
}
