//! One second after a revocation nothing more is handed out, whatever the socket does.

use std::time::{Duration, Instant};

use serde_json::json;
use weir_node::control::Command;

use crate::harness::{Push, TestNode};
use crate::subscriptions::{active, bearer, decide};

/// A stream with more events than sockets buffer.
async fn full(node: &TestNode, stream: &str) {
    node.written(stream).await;
    let data = "x".repeat(60_000);
    for batch in 0..8_u64 {
        let events: Vec<_> =
            (batch * 100..batch * 100 + 100).map(|id| crate::harness::event(id + 1, json!(data))).collect();
        node.publish_all(stream, &events).await.ok();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_delivery_is_told_and_reset() {
    let node = TestNode::start().await;
    node.written("s").await;
    let (id, grant) = active(&node, "s", json!({})).await;
    let authorization = bearer(&grant);
    let mut sse =
        node.sse(&format!("/subscriptions/{id}/events"), &[("authorization", &authorization)]).await;
    sse.message().await.unwrap();
    let began = Instant::now();
    decide(&node, Command::Revoke { id, reason: Some("no longer".into()) }).await;
    let state = sse.next().await.unwrap();
    assert_eq!(
        (state.event.as_str(), &state.data),
        ("state", &json!({"state": "closed", "reason": "revoked"}))
    );
    assert_eq!(sse.next().await, None);
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    node.publish("s", [1]).await.ok();
    let again = node.get(&format!("/subscriptions/{id}/events"), &[("authorization", &authorization)]).await;
    assert!(matches!(again.status, 401 | 403 | 410), "{again:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_whose_write_blocks_is_reset_and_nothing_more_arrives() {
    let node = TestNode::start().await;
    full(&node, "s").await;
    let (id, grant) = active(&node, "s", json!({"from": "earliest", "ack": "sent"})).await;
    let authorization = bearer(&grant);
    let mut sse =
        node.sse(&format!("/subscriptions/{id}/events"), &[("authorization", &authorization)]).await;
    assert_eq!(sse.ids(1).await, [1]);
    // The consumer stops reading; both sockets fill up.
    tokio::time::sleep(Duration::from_millis(500)).await;
    decide(&node, Command::Revoke { id, reason: None }).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(ends_by_reset(&mut sse).await, "a reset, not an orderly end");
}

/// Reads to the end; what the kernel on this side already had may still come.
async fn ends_by_reset(push: &mut Push) -> bool {
    let mut total = 0;
    loop {
        push.buffer.clear();
        match push.more().await {
            None => return true,
            Some(0) => return false,
            Some(count) => total += count,
        }
        assert!(total < 40 << 20, "it goes on and on");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_delivery_waits_and_goes_on_where_it_was() {
    let node = TestNode::start().await;
    node.written("s").await;
    let (id, grant) = active(&node, "s", json!({"from": "earliest"})).await;
    let authorization = bearer(&grant);
    node.publish("s", 1..=3).await.ok();
    let mut sse =
        node.sse(&format!("/subscriptions/{id}/events"), &[("authorization", &authorization)]).await;
    assert_eq!(sse.ids(3).await, [1, 2, 3]);
    decide(&node, Command::Suspend { id, reason: Some("too busy".into()) }).await;
    let state = sse.next().await.unwrap();
    assert_eq!((state.event.as_str(), &state.data["state"]), ("state", &json!("suspended")));
    node.publish("s", 4..=5).await.ok();
    sse.quiet(Duration::from_millis(300)).await;
    let range = node.get(&format!("/subscriptions/{id}/events"), &[("authorization", &authorization)]).await;
    assert_eq!(range.problem(403), "suspended");
    decide(&node, Command::Resume { id, reason: None }).await;
    assert_eq!(sse.next().await.unwrap().data["state"], "active");
    assert_eq!(sse.ids(2).await, [4, 5]);
}
