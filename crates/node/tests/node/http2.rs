//! The same calls over HTTP/2, with prior knowledge.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tokio::net::TcpStream;
use weir_node::control::Command;

use crate::harness::{SOON, TestNode, event};
use crate::subscriptions::{active, bearer, decide};

struct Client {
    send: SendRequest<Full<Bytes>>,
    authority: String,
    ended: tokio::task::JoinHandle<bool>,
}

impl Client {
    async fn open(node: &TestNode) -> Self {
        let stream = TcpStream::connect(node.address).await.unwrap();
        let (send, connection) =
            http2::Builder::new(TokioExecutor::new()).handshake(TokioIo::new(stream)).await.unwrap();
        let ended = tokio::spawn(async move { connection.await.is_err() });
        Self { send, authority: node.address.to_string(), ended }
    }

    async fn call(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: String,
    ) -> Response<Incoming> {
        let mut request = Request::builder().method(method).uri(format!("http://{}{path}", self.authority));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send.send_request(request.body(Full::from(body)).unwrap()).await.unwrap()
    }
}

/// Reads until `count` events have come.
async fn events(body: &mut Incoming, text: &mut String, count: usize) {
    while text.matches("\"test.counted\"").count() < count {
        let frame = tokio::time::timeout(SOON, body.frame()).await.unwrap().unwrap().unwrap();
        *text += std::str::from_utf8(frame.data_ref().unwrap()).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn publish_push_and_range_share_one_connection() {
    let node = TestNode::start().await;
    node.written("s").await;
    let mut client = Client::open(&node).await;
    let mut sse =
        client.call("GET", "/streams/s/events", &[("accept", "text/event-stream")], String::new()).await;
    assert_eq!(sse.status(), 200);
    assert_eq!(sse.headers()["content-type"], "text/event-stream");
    for id in 1..=3 {
        let body = event(id, json!({"n": id})).to_string();
        let headers = [("content-type", "application/cloudevents+json")];
        assert_eq!(client.call("POST", "/streams/s/events", &headers, body).await.status(), 200);
    }
    let mut text = String::new();
    events(sse.body_mut(), &mut text, 3).await;
    assert!(text.starts_with("event: heartbeat\n"), "{text}");
    let range = client.call("GET", "/streams/s/events", &[], String::new()).await;
    let range = range.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(serde_json::from_slice::<serde_json::Value>(&range).unwrap().as_array().unwrap().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_delivery_is_reset_even_if_the_peer_takes_nothing() {
    let node = TestNode::start().await;
    node.written("s").await;
    let data = "x".repeat(60_000);
    for batch in 0..4_u64 {
        let some: Vec<_> = (batch * 100..batch * 100 + 100).map(|id| event(id + 1, json!(data))).collect();
        node.publish_all("s", &some).await.ok();
    }
    let (id, grant) = active(&node, "s", json!({"from": "earliest"})).await;
    let mut client = Client::open(&node).await;
    let headers = [("accept", "text/event-stream"), ("authorization", &bearer(&grant)[..])];
    let mut sse = client.call("GET", &format!("/subscriptions/{id}/events"), &headers, String::new()).await;
    let mut text = String::new();
    events(sse.body_mut(), &mut text, 1).await;
    // Not read any further: flow control holds the delivery.
    tokio::time::sleep(Duration::from_millis(300)).await;
    decide(&node, Command::Revoke { id, reason: None }).await;
    let began = Instant::now();
    let ended = tokio::time::timeout(Duration::from_secs(1), &mut client.ended).await;
    assert!(ended.unwrap().unwrap(), "the connection broke");
    assert!(began.elapsed() < Duration::from_secs(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_consumer_gets_everything() {
    let node = TestNode::start().await;
    node.written("s").await;
    let data = "x".repeat(20_000);
    let some: Vec<_> = (1..=300).map(|id| event(id, json!(data))).collect();
    node.publish_all("s", &some).await.ok();
    let mut client = Client::open(&node).await;
    let path = "/streams/s/events?from=earliest&to=300";
    let sse = client.call("GET", path, &[("accept", "text/event-stream")], String::new()).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let text = sse.into_body().collect().await.unwrap().to_bytes();
    let text = std::str::from_utf8(&text).unwrap();
    let ids: Vec<u64> = text
        .lines()
        .filter_map(|line| line.strip_prefix("data: {\"specversion\""))
        .map(|event| {
            event.split("\"flowposition\":\"").nth(1).unwrap().split('"').next().unwrap().parse().unwrap()
        })
        .collect();
    assert_eq!(ids, (1..=300).collect::<Vec<_>>());
}
