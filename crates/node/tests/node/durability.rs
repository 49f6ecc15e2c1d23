//! Nobody sees an event before it is as durable as its stream promises.

use std::time::Duration;

use serde_json::json;

use crate::harness::{TestNode, until};

const PATH: &str = "/streams/s/events";

/// A node with one durable event, whose next events wait for a sync.
async fn held() -> TestNode {
    let node = TestNode::start().await;
    node.stream("s", json!({})).await;
    node.publish("s", [1]).await.ok();
    node
}

#[tokio::test(flavor = "multi_thread")]
async fn while_a_sync_is_held_back_tails_ranges_and_retries_wait() {
    let node = held().await;
    let mut sse = node.sse(&format!("{PATH}?from=1"), &[]).await;
    assert_eq!(sse.ids(1).await, [1]);
    node.syncs.hold();
    let (first, retry) = (node.publish("s", [2]), node.publish("s", [2]));
    tokio::pin!(first, retry);
    let held = Duration::from_millis(400);
    assert!(tokio::time::timeout(held, &mut first).await.is_err(), "not acknowledged");
    until("the sync is under way", async || node.syncs.waiting() > 0).await;
    assert!(tokio::time::timeout(held, &mut retry).await.is_err(), "nor is the same event, sent again");
    sse.quiet(held).await;
    let range = node.get(PATH, &[]).await;
    assert_eq!(range.header("weir-head"), Some("1"));
    assert_eq!(range.ok().as_array().unwrap().len(), 1);
    node.syncs.release(false);
    assert_eq!(first.await.ok()["first"], 2);
    assert_eq!(retry.await.ok()["duplicates"], 1);
    assert_eq!(sse.ids(1).await, [2]);
    assert_eq!(node.get(PATH, &[]).await.ok().as_array().unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn if_that_sync_fails_none_of_them_gets_the_event() {
    let node = held().await;
    let mut sse = node.sse(&format!("{PATH}?from=1"), &[]).await;
    assert_eq!(sse.ids(1).await, [1]);
    node.syncs.hold();
    let publish = node.publish("s", [2]);
    tokio::pin!(publish);
    assert!(tokio::time::timeout(Duration::from_millis(300), &mut publish).await.is_err());
    node.syncs.release(true);
    let answer = publish.await;
    assert_eq!(answer.problem(503), "outcome-unknown");
    assert!(answer.header("retry-after").is_some());
    sse.quiet(Duration::from_millis(300)).await;
    let range = node.get(PATH, &[]).await;
    assert_eq!(range.ok().as_array().unwrap().len(), 1);
}
