//! What push channels carry, and how a consumer goes on.

use std::time::Duration;

use serde_json::json;
use tokio::io::AsyncReadExt;
use weir_event::flow::Position;
use weir_event::frame::{Decoder, Frame};
use weir_event::proto;
use weir_node::control::Caller;
use weir_node::settings::Settings;

use crate::harness::{Push, SOON, TestNode, until};
use crate::subscriptions::{accept, active, bearer, subscribe};

const PATH: &str = "/streams/s/events";

async fn started() -> TestNode {
    let node = TestNode::start().await;
    node.written("s").await;
    node
}

#[tokio::test(flavor = "multi_thread")]
async fn a_direct_read_begins_at_the_latest_and_is_pushed_what_comes() {
    let node = started().await;
    node.publish("s", 1..=3).await.ok();
    let mut sse = node.sse(PATH, &[]).await;
    let first = sse.message().await.unwrap();
    assert_eq!((first.event.as_str(), first.id), ("heartbeat", Some(3)));
    assert_eq!((&first.data["head"], &first.data["at"]), (&json!(3), &json!(3)));
    assert_eq!(first.data["history"].as_str().unwrap().len(), 16);
    for id in 4..=9 {
        node.publish("s", [id]).await.ok();
    }
    assert_eq!(sse.ids(6).await, [4, 5, 6, 7, 8, 9]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_goes_on_after_the_last_event_it_got() {
    let node = started().await;
    node.publish("s", 1..=6).await.ok();
    let mut all = node.sse(&format!("{PATH}?from=earliest"), &[]).await;
    assert_eq!(all.ids(6).await, [1, 2, 3, 4, 5, 6]);
    // The header wins over the URL that a client repeats.
    let mut header = node.sse(&format!("{PATH}?from=earliest"), &[("last-event-id", "4")]).await;
    assert_eq!(header.ids(2).await, [5, 6]);
    let mut query = node.sse(&format!("{PATH}?last-event-id=5"), &[]).await;
    assert_eq!(query.ids(1).await, [6]);
    let mut bounded = node.sse(&format!("{PATH}?from=2&to=4"), &[]).await;
    assert_eq!(bounded.ids(3).await, [2, 3, 4]);
    assert_eq!(bounded.next().await, None, "it ends where it was asked to");
    let mut limited = node.sse(&format!("{PATH}?from=2&limit=2"), &[]).await;
    assert_eq!(limited.ids(2).await, [2, 3]);
    assert_eq!(limited.next().await, None);
    let mut filtered = node.sse(&format!("{PATH}?from=1&filter=subject%20%3D%20%27even%27"), &[]).await;
    assert_eq!(filtered.ids(3).await, [2, 4, 6]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_that_matches_nothing_makes_progress_by_heartbeats() {
    let settings = Settings { heartbeat: Duration::from_millis(100), ..Settings::default() };
    let node = TestNode::start_with(settings).await;
    node.written("s").await;
    node.publish("s", 1..=50).await.ok();
    let mut sse = node.sse(&format!("{PATH}?from=earliest&filter=subject%20%3D%20%27none%27"), &[]).await;
    loop {
        let message = sse.message().await.unwrap();
        assert_eq!(message.event, "heartbeat");
        if message.id == Some(50) {
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_history_is_a_notice_and_the_consumer_chooses() {
    let node = started().await;
    node.publish("s", 1..=3).await.ok();
    let mut sse = node.sse(&format!("{PATH}?from=2&history=00000000000000ff"), &[]).await;
    let notice = sse.next().await.unwrap();
    assert_eq!(notice.event, "notice");
    assert_eq!(notice.data["history"]["was"], "00000000000000ff");
    assert_eq!(notice.data["head"], 3);
    assert_eq!(sse.next().await, None);
    let now = notice.data["history"]["now"].as_str().unwrap();
    let mut sse = node.sse(&format!("{PATH}?from=2&history={now}"), &[]).await;
    assert_eq!(sse.ids(2).await, [2, 3]);
    // A position that the stream does not have is from another history too.
    let mut sse = node.sse(PATH, &[("last-event-id", "77")]).await;
    assert_eq!(sse.next().await.unwrap().event, "notice");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_retention_took_is_announced() {
    let node = started().await;
    node.publish("s", 1..=20).await.ok();
    let stream = node.node.control().stream("s").unwrap().id;
    node.node.log().trim(stream, Position(11)).await.unwrap();
    let first = node.node.log().status(stream).unwrap().first;
    assert!(first > Position(1));
    let mut sse = node.sse(&format!("{PATH}?from=1"), &[]).await;
    let notice = sse.next().await.unwrap();
    assert_eq!(notice.event, "notice");
    assert_eq!(notice.data, json!({"skipped": {"from": 1, "to": first.0 - 1}, "reason": "retention"}));
    assert_eq!(sse.ids(1).await, [first.0]);
    let range = node.get(&format!("{PATH}?from=1&limit=1"), &[]).await;
    assert_eq!(range.header("weir-skipped"), Some(&*format!("1-{}; reason=retention", first.0 - 1)));
    let mut earliest = node.sse(&format!("{PATH}?from=earliest"), &[]).await;
    assert_eq!(earliest.ids(1).await, [first.0], "who asks for what is kept misses nothing");
}

async fn frame(push: &mut Push, decoder: &mut Decoder) -> Frame {
    loop {
        if let Some(frame) = decoder.next().unwrap() {
            return frame;
        }
        decoder.push(&std::mem::take(&mut push.buffer));
        if let Some(frame) = decoder.next().unwrap() {
            return frame;
        }
        assert!(push.more().await.unwrap() > 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stream_carries_stored_runs_from_any_position() {
    let node = started().await;
    node.publish("s", 1..=10).await.ok();
    let accept_stream = [("accept", "application/vnd.weir.stream")];
    for (query, expected) in [
        ("from=1&to=10", (1..=10).collect::<Vec<u64>>()),
        ("from=4&to=latest", (4..=10).collect()),
        ("from=1&to=10&filter=subject%20%3D%20%27odd%27", vec![1, 3, 5, 7, 9]),
    ] {
        let mut push = node.open(&format!("{PATH}?{query}"), &accept_stream).await;
        let mut decoder = Decoder::new();
        let mut ids = Vec::new();
        let Frame::Heartbeat(_) = frame(&mut push, &mut decoder).await else { panic!("a heartbeat opens") };
        loop {
            match frame(&mut push, &mut decoder).await {
                Frame::Run(run) => {
                    assert_eq!(run.stream.as_str(), "s");
                    for (position, event) in (run.first.0..).zip(proto::batch(&run.body)) {
                        let id: u64 = proto::decode(event.unwrap()).unwrap().id().parse().unwrap();
                        assert_eq!(id, position);
                        ids.push(id);
                    }
                }
                Frame::End(end) => {
                    assert_eq!(
                        serde_json::from_slice::<serde_json::Value>(&end).unwrap()["reason"],
                        "complete"
                    );
                    break;
                }
                Frame::Heartbeat(_) => {}
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(ids, expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_is_kept_moves_by_coming_back_and_survives_a_restart() {
    let node = started().await;
    let (id, grant) = active(&node, "s", json!({"from": "earliest"})).await;
    node.publish("s", 1..=9).await.ok();
    let path = format!("/subscriptions/{id}/events");
    let authorization = bearer(&grant);
    let headers = [("authorization", authorization.as_str())];
    let mut sse = node.sse(&path, &headers).await;
    assert_eq!(sse.ids(9).await, (1..=9).collect::<Vec<_>>());
    drop(sse);
    let mut again = node.sse(&path, &headers).await;
    assert_eq!(again.ids(9).await, (1..=9).collect::<Vec<_>>(), "nothing was acknowledged");
    let mut resumed = node.sse(&path, &[headers[0], ("last-event-id", "4")]).await;
    assert_eq!(resumed.ids(1).await, [5]);
    let floor = |node: &TestNode| node.node.control().cursor(id).unwrap().floor.after;
    assert_eq!(floor(&node), Position(4));
    drop((again, resumed));
    let node = node.restart().await;
    assert_eq!(floor(&node), Position(4));
    let mut sse = node.sse(&path, &headers).await;
    assert_eq!(sse.ids(1).await, [5]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_that_follows_what_is_sent() {
    let node = started().await;
    let (id, grant) = active(&node, "s", json!({"from": "earliest", "ack": "sent"})).await;
    node.publish("s", 1..=30).await.ok();
    let authorization = bearer(&grant);
    let mut sse =
        node.sse(&format!("/subscriptions/{id}/events"), &[("authorization", &authorization)]).await;
    sse.ids(30).await;
    until("the cursor follows", async || node.node.control().cursor(id).unwrap().floor.after == Position(30))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_is_sent_than_may_stay_unacknowledged() {
    let node = started().await;
    let (id, grant) = active(&node, "s", json!({"from": "earliest"})).await;
    for batch in 0..12 {
        node.publish("s", batch * 1000 + 1..=batch * 1000 + 1000).await.ok();
    }
    let authorization = bearer(&grant);
    let mut sse =
        node.sse(&format!("/subscriptions/{id}/events"), &[("authorization", &authorization)]).await;
    assert_eq!(sse.ids(10_000).await.last(), Some(&10_000));
    sse.quiet(Duration::from_millis(300)).await;
    let cursor = node.node.control().cursor(id).unwrap();
    let upto = weir_node::control::Origin { history: cursor.floor.history, after: Position(1500) };
    node.node.control().ack(id, upto).unwrap();
    assert_eq!(sse.ids(1500).await.last(), Some(&11_500));
    sse.quiet(Duration::from_millis(300)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_imposed_narrows_what_is_asked_for() {
    let node = TestNode::start().await;
    node.stream("s", json!({"durability": "written", "access": "approval"})).await;
    node.publish("s", 1..=10).await.ok();
    let request = json!({
        "protocol": "SSE", "config": {"stream": "s", "from": "earliest", "contact": "a@b.example"},
        "filters": [{"sql": "id < 9"}],
    });
    let anonymous = Caller::anonymous(None);
    let (subscription, secret) = subscribe(&node, &anonymous, request).await;
    let id = subscription.id;
    assert_eq!(subscription.status.name(), "requested");
    let path = format!("/subscriptions/{id}/events");
    let authorization = bearer(&secret);
    let mut sse = node.sse(&path, &[("authorization", &authorization)]).await;
    let state = sse.message().await.unwrap();
    assert_eq!((state.event.as_str(), &state.data["state"]), ("state", &json!("requested")));
    let range = node.get(&path, &[("authorization", &authorization)]).await;
    assert_eq!(range.problem(403), "not-decided");
    accept(
        &node,
        id,
        json!({"filters": [{"exact": {"subject": "even"}}], "form": {"keep": ["/m"]}, "rate": "20/s"}),
    )
    .await;
    // The decision reaches the delivery that waited for it.
    loop {
        let message = sse.next().await.unwrap();
        if message.event == "state" {
            continue;
        }
        assert_eq!((message.id, &message.data["data"]), (Some(2), &json!({})));
        break;
    }
    assert_eq!(sse.ids(3).await, [4, 6, 8]);
    sse.quiet(Duration::from_millis(200)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_is_kept() {
    let node = TestNode::start().await;
    node.stream("s", json!({"durability": "written", "access": "approval"})).await;
    node.publish("s", 1..=100).await.ok();
    let request =
        json!({"protocol": "SSE", "config": {"stream": "s", "from": "earliest", "contact": "a@b.example"}});
    let (subscription, secret) = subscribe(&node, &Caller::anonymous(None), request).await;
    accept(&node, subscription.id, json!({"rate": "40/s"})).await;
    let authorization = bearer(&secret);
    let mut sse = node
        .sse(&format!("/subscriptions/{}/events", subscription.id), &[("authorization", &authorization)])
        .await;
    let began = std::time::Instant::now();
    sse.ids(44).await;
    assert!(began.elapsed() > Duration::from_millis(900), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_ends_deliveries_and_says_so() {
    let mut node = started().await;
    node.publish("s", 1..=3).await.ok();
    let mut push = node.open(&format!("{PATH}?from=1"), &[("accept", "application/vnd.weir.stream")]).await;
    let mut decoder = Decoder::new();
    while !matches!(frame(&mut push, &mut decoder).await, Frame::Run(_)) {}
    node.stop().await;
    let Frame::End(end) = frame(&mut push, &mut decoder).await else { panic!("an end") };
    assert_eq!(serde_json::from_slice::<serde_json::Value>(&end).unwrap()["reason"], "stopping");
    let mut rest = [0; 16];
    let closed = tokio::time::timeout(SOON, push.stream.read(&mut rest)).await.unwrap();
    assert_eq!(closed.unwrap(), 0, "closed in order, not reset");
}
