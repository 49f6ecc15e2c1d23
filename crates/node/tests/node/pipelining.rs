//! A publisher that does not wait for answers before it sends more.

use std::fmt::Write as _;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{SOON, TestNode, event};

const REQUESTS: u64 = 200;

fn publish(id: u64) -> String {
    let body = event(id, json!({"n": id})).to_string();
    let mut request = String::from("POST /streams/s/events HTTP/1.1\r\nhost: localhost\r\n");
    let length = body.len();
    write!(request, "content-type: application/cloudevents+json\r\ncontent-length: {length}\r\n\r\n{body}")
        .unwrap();
    request
}

/// Status and body of every answer until the connection is closed.
async fn answers(stream: &mut TcpStream) -> Vec<(u16, Value)> {
    let mut all = Vec::new();
    tokio::time::timeout(SOON, stream.read_to_end(&mut all)).await.expect("an end").unwrap();
    let text = String::from_utf8(all).unwrap();
    let mut rest = text.as_str();
    let mut answers = Vec::new();
    while let Some((head, after)) = rest.split_once("\r\n\r\n") {
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
        let (body, after) = after.split_at(length.parse().unwrap());
        answers.push((head[9..12].parse().unwrap(), serde_json::from_str(body).unwrap()));
        rest = after;
    }
    answers
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_without_waiting_is_answered_in_order_and_shares_its_syncs() {
    let node = TestNode::start().await;
    node.stream("s", json!({})).await;
    let before = node.syncs.count();
    let mut all: String = (1..=REQUESTS).map(publish).collect();
    // A refusal in between is answered in its place, and what is no publish is served behind all of them.
    all += "POST /streams/nowhere/events HTTP/1.1\r\nhost: localhost\r\ncontent-length: 2\r\n\r\n{}";
    all += &publish(REQUESTS + 1);
    all += "GET /streams/s/events?from=201 HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    let mut stream = TcpStream::connect(node.address).await.unwrap();
    // In pieces that cut requests anywhere.
    for piece in all.as_bytes().chunks(10_007) {
        stream.write_all(piece).await.unwrap();
    }
    let answers = answers(&mut stream).await;
    let expected = (1..=REQUESTS).map(|id| (200, Some(id))).chain([(404, None), (200, Some(REQUESTS + 1))]);
    let published = answers.iter().map(|(status, body)| (*status, body["first"].as_u64()));
    assert!(published.take(REQUESTS as usize + 2).eq(expected), "{answers:?}");
    let (status, range) = answers.last().unwrap();
    assert_eq!((*status, &range[0]["id"]), (200, &json!((REQUESTS + 1).to_string())));
    let syncs = node.syncs.count() - before;
    assert!(syncs < REQUESTS / 2, "{syncs} syncs for {REQUESTS} events");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_closes_its_side_still_gets_every_answer() {
    let node = TestNode::start().await;
    node.stream("s", json!({})).await;
    let mut stream = TcpStream::connect(node.address).await.unwrap();
    let all: String = (1..=10).map(publish).collect();
    stream.write_all(all.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let answers = answers(&mut stream).await;
    assert_eq!(answers.len(), 10);
    assert_eq!(answers[9].1["last"], 10);
}
