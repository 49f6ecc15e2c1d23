//! Every form in, and every refusal.

use serde_json::json;
use weir_event::{Data, Event, proto};
use weir_node::settings::{Bytes, Settings};

use crate::harness::{TestNode, event};

fn encoded(id: u64) -> Event<'static> {
    let mut event = Event::new(id.to_string(), "/test", "test.counted").unwrap();
    event.set_data(Some(Data::text(format!("{{\"n\":{id}}}"))));
    event
}

#[tokio::test(flavor = "multi_thread")]
async fn every_form_is_stored_and_comes_back() {
    let node = TestNode::start().await;
    node.stream("s", json!({})).await;
    let path = "/streams/s/events";
    let mut single = Vec::new();
    proto::encode(&encoded(3), &mut single);
    let mut batch = Vec::new();
    proto::push(&encoded(4), &mut batch);
    proto::push(&encoded(5), &mut batch);
    let binary = [
        ("content-type", "application/json"),
        ("ce-specversion", "1.0"),
        ("ce-id", "1"),
        ("ce-source", "/test"),
        ("ce-type", "test.counted"),
    ];
    let structured = event(2, json!({"n": 2})).to_string();
    type Form<'a> = (&'a [(&'a str, &'a str)], Vec<u8>, u64, u64);
    let forms: [Form<'_>; 5] = [
        (&binary, br#"{"n": 1}"#.to_vec(), 1, 1),
        (&[("content-type", "application/cloudevents+json; charset=utf-8")], structured.into_bytes(), 2, 2),
        (&[("content-type", "application/cloudevents+protobuf")], single, 3, 3),
        (&[("content-type", "application/cloudevents-batch+protobuf")], batch, 4, 5),
        (
            &[("content-type", "application/cloudevents-batch+json")],
            json!([event(6, json!({"n": 6})), event(7, json!({"n": 7}))]).to_string().into_bytes(),
            6,
            7,
        ),
    ];
    for (headers, body, first, last) in forms {
        let answer = node.send("POST", path, headers, body).await.ok();
        assert_eq!(
            (answer["first"].as_u64(), answer["last"].as_u64()),
            (Some(first), Some(last)),
            "{answer}"
        );
        assert_eq!(answer["count"], last - first + 1);
        assert_eq!(answer["durability"], "fsync");
        assert_eq!(answer["history"].as_str().unwrap().len(), 16);
    }
    let events = node.get(path, &[]).await.ok();
    for (n, event) in (1..).zip(events.as_array().unwrap()) {
        assert_eq!(event["id"], n.to_string());
        assert_eq!(event["data"], json!({"n": n}));
        assert_eq!(event["flowposition"], n.to_string());
    }
    assert_eq!(events.as_array().unwrap().len(), 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn duplicates_expectations_and_producers() {
    let node = TestNode::start().await;
    node.written("s").await;
    assert_eq!(node.publish("s", 1..=3).await.ok()["count"], 3);
    let again = node.publish("s", 2..=4).await.ok();
    assert_eq!((&again["first"], &again["count"], &again["duplicates"]), (&json!(4), &json!(1), &json!(2)));
    let all = node.publish("s", 1..=4).await.ok();
    assert_eq!((&all["first"], &all["last"], &all["duplicates"]), (&json!(null), &json!(null), &json!(4)));

    let batch = ("content-type", "application/cloudevents-batch+json");
    let body = |ids: &[u64]| {
        json!(ids.iter().map(|&id| event(id, json!({"n": id}))).collect::<Vec<_>>()).to_string()
    };
    let positions = node.send("POST", "/streams/s/events?positions=1", &[batch], body(&[2, 9])).await.ok();
    assert_eq!(positions["positions"], json!([2, 5]));
    let expected = node.send("POST", "/streams/s/events?expect=5", &[batch], body(&[10])).await.ok();
    assert_eq!(expected["first"], 6);
    let moved = node.send("POST", "/streams/s/events?expect=5", &[batch], body(&[11])).await;
    assert_eq!(moved.problem(412), "head-moved");
    assert_eq!(moved.json()["head"], 6);

    let producer = |sequence: u64| format!("00000000000000aa;1;{sequence}");
    let first = node
        .send("POST", "/streams/s/events", &[batch, ("weir-producer", &producer(0))], body(&[20, 21]))
        .await
        .ok();
    assert_eq!(first["count"], 2);
    let retried = node
        .send("POST", "/streams/s/events", &[batch, ("weir-producer", &producer(0))], body(&[20, 21]))
        .await
        .ok();
    assert_eq!(retried["count"], 0);
    let gap =
        node.send("POST", "/streams/s/events", &[batch, ("weir-producer", &producer(9))], body(&[22])).await;
    assert_eq!(gap.problem(409), "sequence-gap");
    let bad = node.send("POST", "/streams/s/events", &[batch, ("weir-producer", "x")], body(&[22])).await;
    assert_eq!(bad.problem(400), "malformed-request");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_gets_its_own_error_and_nothing_is_stored() {
    let settings = Settings {
        event_bytes_max: Bytes(2048),
        attributes_bytes_max: Bytes(512),
        batch_bytes_max: Bytes(16 * 1024),
        batch_events_max: 5,
        ..Settings::default()
    };
    let node = TestNode::start_with(settings).await;
    node.written("s").await;
    let path = "/streams/s/events";
    let structured = [("content-type", "application/cloudevents+json")];
    let batch = [("content-type", "application/cloudevents-batch+json")];
    let big = |bytes: usize| event(1, json!("x".repeat(bytes)));
    let mut attributes = event(1, json!(1));
    attributes["long"] = "x".repeat(600).into();
    for (headers, body, status, problem) in [
        (&structured, "{".to_owned(), 400, "malformed-event"),
        (
            &structured,
            json!({"specversion": "1.0", "id": "1", "type": "t"}).to_string(),
            400,
            "malformed-event",
        ),
        (&structured, big(2500).to_string(), 413, "event-too-large"),
        (&structured, attributes.to_string(), 413, "attributes-too-large"),
        (&batch, json!([big(100), big(2500)]).to_string(), 413, "event-too-large"),
        (&batch, json!(vec![big(10); 6]).to_string(), 413, "too-many-events"),
        (&batch, json!(vec![big(1900); 9]).to_string(), 413, "batch-too-large"),
        (&batch, json!([event(1, json!(1)), {"id": 1}]).to_string(), 400, "malformed-event"),
    ] {
        let answer = node.send("POST", path, headers, body).await;
        assert_eq!(answer.problem(status), problem);
    }
    let answer = node.send("POST", path, &[("content-type", "application/cloudevents+avro")], "x").await;
    assert_eq!(answer.problem(415), "unsupported-media-type");
    let answer = node.send("POST", path, &[structured[0], ("content-encoding", "gzip")], "x").await;
    assert_eq!(answer.problem(415), "unsupported-encoding");
    let answer = node.send("POST", path, &[("content-type", "application/json")], "{}").await;
    assert_eq!(answer.problem(400), "missing-attributes");
    assert_eq!(answer.json()["missing"], json!(["ce-specversion", "ce-id", "ce-source", "ce-type"]));
    let answer = node.send("POST", "/streams/s/events?expct=1", &structured, "{}").await;
    assert_eq!(answer.problem(400), "unknown-parameter");
    assert_eq!(answer.json()["nearest"], "expect");
    let answer = node.send("POST", "/streams/t/events", &structured, "{}").await;
    assert_eq!(answer.problem(404), "unknown-stream");
    let empty = node.send("POST", path, &batch, "[]").await.ok();
    assert_eq!((&empty["first"], &empty["count"]), (&json!(null), &json!(0)));
    let events = node.get(path, &[]).await.ok();
    assert_eq!(events, json!([]), "nothing was stored");
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_bodies_become_events_and_attributes_are_lifted() {
    let node = TestNode::start().await;
    let descriptor = json!({
        "durability": "written",
        "plain": {"type": "acme.status.v1", "source": "/tms", "id": {"data": "/id"}, "time": {"data": "/ts"}},
        "lift": {"partner": "/partner_id"},
    });
    node.stream("tms", descriptor).await;
    let path = "/streams/tms/events";
    let body = json!({"id": "a 1%", "ts": "2026-01-02T03:04:05Z", "partner_id": "p7", "n": 1}).to_string();
    node.send("POST", path, &[("content-type", "application/json")], body.clone()).await.ok();
    let answer = node.send("POST", path, &[("content-type", "application/json")], body).await.ok();
    assert_eq!(answer["duplicates"], 1);
    let missing = node.send("POST", path, &[("content-type", "application/json")], r#"{"n":1}"#).await;
    assert_eq!(missing.problem(400), "missing-attributes");
    assert_eq!(missing.json()["missing"], json!(["ce-id"]));
    let mut own = event(1, json!({"partner_id": "p8"}));
    own["partner"] = "mine".into();
    node.publish_all("tms", &[own]).await.ok();
    let events = node.get(path, &[]).await.ok();
    assert_eq!(events[0]["id"], "a 1%");
    assert_eq!((&events[0]["type"], &events[0]["source"]), (&json!("acme.status.v1"), &json!("/tms")));
    assert_eq!((&events[0]["time"], &events[0]["partner"]), (&json!("2026-01-02T03:04:05Z"), &json!("p7")));
    assert_eq!(events[0]["data"]["n"], 1);
    assert_eq!(events[1]["partner"], "mine");
}

#[tokio::test(flavor = "multi_thread")]
async fn pipelined_publishes_are_stored_and_answered_in_order() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let node = TestNode::start().await;
    node.stream("s", json!({})).await;
    let mut stream = tokio::net::TcpStream::connect(node.address).await.unwrap();
    let one = |id: u64| {
        let body = event(id, json!({"n": id})).to_string();
        format!(
            "POST /streams/s/events HTTP/1.1\r\nhost: {}\r\ncontent-type: application/cloudevents+json\r\n\
             content-length: {}\r\n\r\n{body}",
            node.address,
            body.len()
        )
    };
    let mut all: String = (1..=500).map(one).collect();
    // What is not a publish is answered after those before it, on the same connection.
    all += &format!("GET /streams/s/events?from=499 HTTP/1.1\r\nhost: {}\r\n\r\n", node.address);
    all += &one(501);
    let (mut read, mut write) = stream.split();
    let (written, text) = tokio::join!(write.write_all(all.as_bytes()), async {
        let mut text = String::new();
        while text.matches("\"first\"").count() < 501 {
            let mut bytes = [0; 4096];
            let count = read.read(&mut bytes).await.unwrap();
            assert!(count > 0, "{text}");
            text += std::str::from_utf8(&bytes[..count]).unwrap();
        }
        text
    });
    written.unwrap();
    let firsts: Vec<u64> = text
        .match_indices("\"first\":")
        .map(|(at, mark)| text[at + mark.len()..].split(',').next().unwrap().parse().unwrap())
        .collect();
    assert_eq!(firsts, (1..=501).collect::<Vec<_>>());
    let range = text.find("\"id\":\"500\"").unwrap();
    assert!(text.find("\"first\":500,").unwrap() < range && range < text.find("\"first\":501,").unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_refused_before_its_body_came_leaves_the_connection_usable() {
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let node = TestNode::start().await;
    let mut stream = tokio::net::TcpStream::connect(node.address).await.unwrap();
    let head = format!(
        "POST /subscriptions/x/accept HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer no\r\ncontent-length: 10\r\n\r\n",
        node.address
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let next =
        format!("{{\"a\":1}}   GET /healthz HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n", node.address);
    stream.write_all(next.as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    assert_eq!(text.matches("HTTP/1.1 ").count(), 2, "{text}");
    assert!(text.contains("HTTP/1.1 200"), "{text}");
    // A rest that does not come is not waited for long, and the answer says that the connection closes.
    let mut stream = tokio::net::TcpStream::connect(node.address).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    assert!(text.to_ascii_lowercase().contains("connection: close"), "{text}");
}
