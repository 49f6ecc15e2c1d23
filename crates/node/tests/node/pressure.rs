//! A slow consumer costs little and disturbs nobody.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::{TestNode, event, resident};

const PATH: &str = "/streams/s/events?from=earliest";

#[tokio::test(flavor = "multi_thread")]
async fn consumers_that_take_nothing_hold_neither_memory_nor_others_back() {
    let node = TestNode::start().await;
    node.written("s").await;
    let data = "x".repeat(50_000);
    let publish = async |batch: u64| {
        let events: Vec<_> = (batch * 50..batch * 50 + 50).map(|id| event(id + 1, json!(data))).collect();
        node.publish_all("s", &events).await.ok();
    };
    publish(0).await;
    let mut slow = Vec::new();
    for _ in 0..50 {
        slow.push(node.sse(PATH, &[]).await);
    }
    let mut fast = node.sse(PATH, &[]).await;
    for batch in 1..20 {
        publish(batch).await;
    }
    let began = Instant::now();
    assert_eq!(fast.ids(1000).await.last(), Some(&1000));
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    // The slow ones have given back what waited for them. They are at different places of 50 MB: what they hold
    // together is far less than a turn for each.
    tokio::time::sleep(Duration::from_millis(2500)).await;
    let stalls = node.node.metrics().deliver_stalls.get();
    assert!(stalls >= 50, "{stalls} stalls");
    let memory = resident();
    assert!(memory < 600 << 20, "{} MiB", memory >> 20);
    // And they get everything once they read.
    for consumer in &mut slow[..3] {
        assert_eq!(consumer.ids(1000).await, (1..=1000).collect::<Vec<_>>());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_consumers_share_what_is_read_and_encoded() {
    let node = TestNode::start().await;
    node.written("s").await;
    let mut consumers = Vec::new();
    for _ in 0..100 {
        consumers.push(node.sse("/streams/s/events", &[]).await);
    }
    for id in 1..=200 {
        node.publish("s", [id]).await.ok();
    }
    for consumer in &mut consumers {
        assert_eq!(consumer.ids(200).await, (1..=200).collect::<Vec<_>>());
    }
    let text = node.node.metrics().render();
    let turns = |origin: &str| -> u64 {
        let line = format!("weir_deliver_turns_total{{origin=\"{origin}\"}} ");
        text.lines().find_map(|found| found.strip_prefix(&line)).map_or(0, |count| count.parse().unwrap())
    };
    assert!(turns("tail") <= 200, "each event is read once: {text}");
    assert!(turns("log") < 400, "{}", turns("log"));
}
