//! Every error of the interface is shown to happen: a code that nothing can produce would be a promise that
//! nothing keeps.

use std::collections::BTreeSet;

use axum::body::Body;
use http::{Method, Request};
use serde_json::{Value, json};

use super::app::{App, Reply};
use crate::Code;
use crate::http::body::BODY_BYTES_MAX;

/// Codes that other tests produce, because they need sockets, other protocols, or time.
const ELSEWHERE: &[(Code, &str)] = &[
    (Code::HistoryChanged, "events: an acknowledgement under another history"),
    (Code::SequenceGap, "log: an idempotent producer's sequence"),
    (Code::TooManyConnections, "events: the limit of deliveries"),
    (Code::TooManyRequests, "control: open requests per address and stream"),
    (Code::LimitReached, "control: the limit of streams"),
    (Code::OverBudget, "publish: a publisher's budget"),
    (Code::RequestTimeout, "body: a body that trickles"),
];

/// A stream that anyone may read, with a subscription to it, and one that is asked for; both empty.
struct Stage {
    app: App,
    owner: String,
    active: String,
}

impl Stage {
    async fn set() -> Self {
        let (app, owner) = App::closed().await;
        app.put("/streams/open", &owner, &json!({"access": "open"})).await.ok(201);
        app.put("/streams/asked", &owner, &json!({"access": "approval"})).await.ok(201);
        let active = app.post("/subscriptions", &owner, &json!({"config": {"stream": "open"}})).await;
        let active = format!("/subscriptions/{}", active.ok(201).text("id"));
        Self { app, owner, active }
    }

    /// A call by the owner, with a body of any kind.
    async fn raw(&self, method: Method, path: &str, content_type: &str, body: impl Into<Body>) -> Reply {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "127.0.0.1")
            .header("authorization", format!("Bearer {}", self.owner))
            .header("content-type", content_type);
        self.app.send(request.body(body.into()).unwrap()).await
    }

    async fn publish(&self, content_type: &str, body: impl Into<Body>) -> Reply {
        self.raw(Method::POST, "/streams/open/events", content_type, body).await
    }

    async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Reply {
        let bearer = format!("Bearer {}", self.owner);
        let mut all = vec![("authorization", bearer.as_str())];
        all.extend(headers);
        self.app.call(Method::GET, path, &all, &Value::Null).await
    }
}

const EVENT: &str = "application/cloudevents+json";
const BATCH: &str = "application/cloudevents-batch+json";

fn event(id: usize) -> Value {
    json!({"specversion": "1.0", "id": id.to_string(), "source": "/s", "type": "t", "data": {}})
}

#[tokio::test]
async fn every_code_is_produced() {
    let stage = Stage::set().await;
    let (app, owner) = (&stage.app, stage.owner.as_str());
    let mut seen: BTreeSet<&str> = ELSEWHERE.iter().map(|(code, _)| code.name()).collect();
    let mut is = |reply: Reply, code: Code| {
        reply.is(code);
        assert!(seen.insert(code.name()), "{code} is shown twice");
    };

    // The request itself.
    is(stage.get("/streams//open", &[]).await, Code::MalformedRequest);
    is(stage.raw(Method::PUT, "/streams/new", "application/json", "{").await, Code::MalformedJson);
    is(app.put("/streams/new", owner, &json!({"titel": "x"})).await, Code::UnknownMember);
    is(stage.get("/streams?limt=1", &[]).await, Code::UnknownParameter);
    is(app.put("/streams/new", owner, &json!({"title": 1})).await, Code::BadMember);
    is(stage.get("/streams?limit=0", &[]).await, Code::BadParameter);
    is(app.put("/streams/no%20name", owner, &json!({})).await, Code::BadName);
    is(app.put("/streams/_new", owner, &json!({})).await, Code::ReservedName);
    is(app.post("/streams/open", owner, &json!({})).await, Code::MethodNotAllowed);
    is(stage.raw(Method::PUT, "/streams/new", "text/csv", "{}").await, Code::UnsupportedMediaType);
    let packed = [("content-encoding", "gzip"), ("authorization", &format!("Bearer {owner}"))];
    is(app.call(Method::PUT, "/streams/new", &packed, &json!({})).await, Code::UnsupportedEncoding);
    let long = "x".repeat(BODY_BYTES_MAX + 1);
    is(stage.raw(Method::PUT, "/streams/new", "application/json", long).await, Code::BodyTooLarge);

    // Events in and out.
    is(stage.publish(EVENT, r#"{"specversion":"1.0"}"#).await, Code::MalformedEvent);
    is(stage.publish("application/json", "{}").await, Code::MissingAttributes);
    let mut large = event(1);
    large["data"] = "x".repeat(1 << 20).into();
    is(stage.publish(EVENT, large.to_string()).await, Code::EventTooLarge);
    let mut wordy = event(1);
    wordy["note"] = "x".repeat(64 << 10).into();
    is(stage.publish(EVENT, wordy.to_string()).await, Code::AttributesTooLarge);
    is(stage.publish(BATCH, " ".repeat((16 << 20) + 1)).await, Code::BatchTooLarge);
    let many: Vec<Value> = (0..10_001).map(event).collect();
    is(stage.publish(BATCH, Value::from(many).to_string()).await, Code::TooManyEvents);
    let moved = stage.raw(Method::POST, "/streams/open/events?expect=7", EVENT, event(1).to_string()).await;
    assert_eq!(moved.json["head"], 0);
    is(moved, Code::HeadMoved);
    stage.app.log.fail(Some(weir_log::Kind::Exhausted));
    let full = stage.publish(EVENT, event(1).to_string()).await;
    assert!(full.headers.contains_key("retry-after"));
    is(full, Code::DiskFull);
    stage.app.log.fail_busy();
    is(stage.publish(EVENT, event(1).to_string()).await, Code::QueueFull);
    stage.app.log.fail(Some(weir_log::Kind::Unavailable));
    is(stage.publish(EVENT, event(1).to_string()).await, Code::OutcomeUnknown);
    stage.app.log.fail(Some(weir_log::Kind::Corrupt));
    is(stage.publish(EVENT, event(1).to_string()).await, Code::Corrupt);
    stage.app.log.fail(Some(weir_log::Kind::Internal));
    let defect = stage.publish(EVENT, event(1).to_string()).await;
    assert!(!defect.text.contains("made to fail"), "{}", defect.text);
    is(defect, Code::Internal);
    stage.app.log.fail(None);
    is(stage.get("/streams/open/events?from=yesterday", &[]).await, Code::BadPosition);
    is(stage.get("/streams/open/events", &[("accept", "image/png")]).await, Code::NotAcceptable);
    // None of all that stored anything.
    assert_eq!(app.get("/streams/open", "").await.json["last"], 0);

    // Subscriptions.
    let ask = async |config: Value, member: &str, value: Value| {
        let mut body = json!({"config": config});
        body[member] = value;
        app.post("/subscriptions", owner, &body).await
    };
    let open = json!({"stream": "open"});
    is(ask(open.clone(), "filters", json!([{"sql": "="}])).await, Code::BadFilter);
    is(ask(open.clone(), "filters", json!([{"glob": {}}])).await, Code::UnsupportedDialect);
    is(ask(open, "protocol", json!("SMTP")).await, Code::UnsupportedProtocol);
    let silent = app.post("/subscriptions", "", &json!({"config": {"stream": "asked"}})).await;
    is(silent, Code::ContactRequired);
    let nameless = json!({"config": {"stream": "asked", "contact": "a@b.example"}});
    let nameless = app.post("/subscriptions", "", &nameless).await;
    let (id, secret) = (nameless.text("id"), nameless.text("secret"));
    is(app.post(&format!("/subscriptions/{id}/grant"), &secret, &json!({})).await, Code::NotDecided);
    is(app.post(&format!("{}/accept", stage.active), owner, &json!({})).await, Code::WrongState);
    app.post(&format!("{}/suspend", stage.active), owner, &json!({})).await.ok(200);
    is(stage.get(&format!("{}/events?limit=1", stage.active), &[]).await, Code::Suspended);
    app.post(&format!("{}/revoke", stage.active), owner, &json!({})).await.ok(200);
    is(stage.get(&format!("{}/events?limit=1", stage.active), &[]).await, Code::SubscriptionClosed);

    // What is not there, and what may not be done.
    is(stage.get("/nothing", &[]).await, Code::NotFound);
    is(stage.get("/streams/nothing", &[]).await, Code::UnknownStream);
    is(stage.get("/subscriptions/0123456789abcdef", &[]).await, Code::UnknownSubscription);
    let token = app.with(Method::DELETE, "/tokens/0123456789abcdef", owner, &Value::Null).await;
    is(token, Code::UnknownToken);
    is(app.get("/tokens", "").await, Code::CredentialRequired);
    is(app.get("/tokens", "nonsense").await, Code::BadCredential);
    let reader = app.token("reader", None).await;
    is(app.put("/streams/new", &reader, &json!({})).await, Code::NotAllowed);
    let page = App::open().await;
    is(page.call(Method::GET, "/streams", &[("host", "a.example")], &Value::Null).await, Code::ForeignHost);
    is(page.call(Method::GET, "/streams", &[("origin", "null")], &Value::Null).await, Code::ForeignOrigin);

    // What does not fit what is.
    is(app.put("/streams/open", owner, &json!({})).await, Code::IfMatchRequired);
    let bearer = format!("Bearer {owner}");
    let stale = [("authorization", bearer.as_str()), ("if-match", "\"0\"")];
    is(app.call(Method::PUT, "/streams/open", &stale, &json!({})).await, Code::PreconditionFailed);
    stage.publish(EVENT, event(1).to_string()).await.ok(200);
    let retire = app.with(Method::DELETE, "/streams/open", owner, &Value::Null).await;
    let confirm = retire.text("confirm");
    is(retire, Code::ConfirmationRequired);
    app.with(Method::DELETE, &format!("/streams/open?confirm={confirm}"), owner, &Value::Null).await.ok(204);
    is(stage.get("/streams/open", &[]).await, Code::Retired);
    app.node.closing().cancel();
    is(app.get("/readyz", "").await, Code::NotReady);

    let all: BTreeSet<&str> = Code::ALL.iter().map(|code| code.name()).collect();
    let missing: Vec<_> = all.difference(&seen).collect();
    assert!(missing.is_empty(), "nothing produces {missing:?}");
}
