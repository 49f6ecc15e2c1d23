//! Subscriptions as tests make them: straight by control's decisions.

use std::sync::Arc;

use serde_json::{Value, json};
use weir_event::flow::Time;
use weir_node::control::{Caller, Command, Imposed, Outcome, Request, Subscription, SubscriptionId};

use crate::harness::TestNode;

/// Who decides.
fn owner() -> Caller {
    Caller::open()
}

/// Subscribes as `caller`; the answer's bearer, if it gives one, reads it.
pub(crate) async fn subscribe(
    node: &TestNode,
    caller: &Caller,
    request: Value,
) -> (Arc<Subscription>, String) {
    let request = Box::new(Request::parse(&request).unwrap());
    let outcome = node.node.control().decide(caller, Command::Subscribe { request }).await.unwrap();
    let Outcome::Subscription { subscription, grant, secret } = outcome else { panic!("{outcome:?}") };
    let bearer = grant
        .map(|grant| grant.bearer)
        .or(secret)
        .map_or_else(String::new, |secret| secret.reveal().to_owned());
    (subscription, bearer)
}

/// An active subscription of the owner's own, and its grant.
pub(crate) async fn active(node: &TestNode, stream: &str, config: Value) -> (SubscriptionId, String) {
    let mut request = json!({"protocol": "SSE", "config": {"stream": stream}});
    for (name, value) in config.as_object().unwrap() {
        request["config"][name] = value.clone();
    }
    let (subscription, bearer) = subscribe(node, &owner(), request).await;
    assert_eq!(subscription.status.name(), "active");
    (subscription.id, bearer)
}

/// Decides as the owner.
pub(crate) async fn decide(node: &TestNode, command: Command) -> Arc<Subscription> {
    match node.node.control().decide(&owner(), command).await.unwrap() {
        Outcome::Subscription { subscription, .. } => subscription,
        outcome => panic!("{outcome:?}"),
    }
}

/// Accepts, imposing.
pub(crate) async fn accept(node: &TestNode, id: SubscriptionId, imposed: Value) {
    let imposed = Box::new(Imposed::parse(&imposed, Time(0)).unwrap());
    decide(node, Command::Accept { id, reason: None, imposed }).await;
}

/// The header of a bearer.
pub(crate) fn bearer(secret: &str) -> String {
    format!("Bearer {secret}")
}
