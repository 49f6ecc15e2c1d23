//! Ranges: what is asked for, in the form asked for, with where to go on.

use serde_json::{Value, json};
use weir_event::proto;

use crate::harness::TestNode;

fn ids(events: &Value) -> Vec<u64> {
    let id = |event: &Value| event["id"].as_str().unwrap().parse().unwrap();
    events.as_array().unwrap().iter().map(id).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn positions_limits_filters_and_pages() {
    let node = TestNode::start().await;
    node.written("s").await;
    node.publish("s", 1..=10).await.ok();
    node.publish("s", 11..=20).await.ok();
    let get = async |query: &str| node.get(&format!("/streams/s/events{query}"), &[]).await;
    assert_eq!(ids(&get("").await.ok()), (1..=20).collect::<Vec<_>>());
    assert_eq!(ids(&get("?from=9&to=12").await.ok()), [9, 10, 11, 12]);
    assert_eq!(ids(&get("?from=19&to=99").await.ok()), [19, 20]);
    assert_eq!(ids(&get("?from=latest").await.ok()), [0; 0]);
    assert_eq!(ids(&get("?from=2000-01-01T00:00:00Z&to=2000-01-02T00:00:00Z").await.ok()), [0; 0]);
    assert_eq!(ids(&get("?from=2000-01-01T00:00:00Z&limit=2").await.ok()), [1, 2]);
    assert_eq!(ids(&get("?filter=subject%20%3D%20%27even%27&to=7").await.ok()), [2, 4, 6]);
    let answer = get("?limit=1&from=20").await;
    assert!(answer.header("link").is_none(), "exhausted");
    assert_eq!(answer.header("weir-head"), Some("20"));

    let mut seen = Vec::new();
    let mut path = "/streams/s/events?limit=7&filter=subject%20%3D%20%27odd%27".to_owned();
    loop {
        let answer = node.get(&path, &[]).await;
        let link = answer.header("link").map(str::to_owned);
        seen.extend(ids(&answer.ok()));
        let Some(link) = link else { break };
        path = link.strip_prefix('<').unwrap().split_once('>').unwrap().0.to_owned();
    }
    assert_eq!(seen, (1..=20).filter(|id| id % 2 == 1).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn forms_by_accept() {
    let node = TestNode::start().await;
    node.written("s").await;
    node.publish("s", 1..=3).await.ok();
    let lines = node.get("/streams/s/events", &[("accept", "application/x-ndjson")]).await;
    assert_eq!(lines.header("content-type"), Some("application/x-ndjson"));
    let text = String::from_utf8(lines.body).unwrap();
    let ids: Vec<Value> =
        text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["id"].clone()).collect();
    assert_eq!(ids, [json!("1"), json!("2"), json!("3")]);
    let batch = node.get("/streams/s/events", &[("accept", "application/cloudevents-batch+protobuf")]).await;
    let stamps: Vec<u64> = proto::batch(&batch.body)
        .map(|event| proto::decode(event.unwrap()).unwrap().stamp().unwrap().position.0)
        .collect();
    assert_eq!(stamps, [1, 2, 3]);
    let browser = node.get("/streams/s/events", &[("accept", "text/html, */*;q=0.8")]).await;
    assert_eq!(browser.header("content-type"), Some("application/cloudevents-batch+json"));
    let image = node.get("/streams/s/events", &[("accept", "image/png")]).await;
    assert_eq!(image.problem(406), "not-acceptable");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_places_are_refused() {
    let node = TestNode::start().await;
    node.written("s").await;
    node.publish("s", 1..=3).await.ok();
    for (query, status, problem) in [
        ("from=x", 400, "bad-position"),
        ("from=-1", 400, "bad-position"),
        ("from=9", 400, "bad-position"),
        ("to=tomorrow", 400, "bad-position"),
        ("history=zz", 400, "bad-position"),
        ("history=0000000000000001", 409, "history-changed"),
        ("limit=0", 400, "bad-parameter"),
        ("limit=x", 400, "bad-parameter"),
        ("filter=subject%20%3D", 400, "bad-filter"),
        ("form=1", 400, "unknown-parameter"),
        ("from=1&from=2", 400, "bad-parameter"),
    ] {
        let answer = node.get(&format!("/streams/s/events?{query}"), &[]).await;
        assert_eq!(answer.problem(status), problem, "{query}");
    }
    let answer = node.get("/subscriptions/0000000000000001/events", &[]).await;
    assert_eq!(answer.problem(404), "unknown-subscription");
}
