//! A subscription's whole life over HTTP, from both sides, and what strangers get to see of it: nothing.

use std::sync::Arc;
use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use super::app::{App, Reply};
use crate::Code;

/// A closed node with one stream of this access.
async fn with_stream(access: &str) -> (Arc<App>, String) {
    let (app, owner) = App::closed().await;
    app.put("/streams/weather.us.ny", &owner, &json!({"access": access})).await.ok(201);
    (Arc::new(app), owner)
}

fn request() -> Value {
    json!({
        "config": {"stream": "weather.us.ny", "from": "earliest", "contact": "data@acme.example"},
        "types": ["us.weather.observation.v1"],
    })
}

#[tokio::test]
async fn a_request_without_a_name_is_decided_collected_renewed_and_revoked() {
    let (app, owner) = with_stream("approval").await;
    let silent = json!({"config": {"stream": "weather.us.ny"}});
    app.post("/subscriptions", "", &silent).await.is(Code::ContactRequired);

    let asked = app.post("/subscriptions", "", &request()).await;
    asked.ok(202);
    let (id, secret) = (asked.text("id"), asked.text("secret"));
    let path = format!("/subscriptions/{id}");
    assert!(asked.header("location").ends_with(&path));
    assert_eq!((&asked.json["state"], &asked.json["by"]), (&json!("requested"), &json!("consumer")));
    assert_eq!((asked.json.get("grant"), asked.json.get("profile")), (None, None));
    assert_eq!(asked.json["proof"], "none");

    // The secret alone reads it; the id opens nothing.
    let read = app.get(&path, &secret).await;
    assert_eq!(read.ok(200).json["state"], "requested");
    assert_eq!(read.json.get("secret"), None, "a secret is shown once");
    for bearer in ["", &app.token("consumer", Some("other.example")).await] {
        let stranger = app.get(&path, bearer).await;
        let unknown = app.get("/subscriptions/0123456789abcdef", bearer).await;
        assert_eq!(stranger.status, unknown.status, "{}", stranger.text);
        assert_eq!(stranger.json["type"], unknown.json["type"]);
    }
    app.post(&format!("{path}/accept"), &secret, &json!({})).await.is(Code::NotAllowed);
    app.post(&format!("{path}/grant"), &secret, &json!({})).await.is(Code::NotDecided);

    // The owner finds it, and accepts it on narrower terms; whoever waits learns of it at once.
    let waiting = async {
        let bearer = format!("Bearer {secret}");
        let headers = [("authorization", bearer.as_str()), ("prefer", "wait=60")];
        app.call(Method::GET, &path, &headers, &Value::Null).await
    };
    let deciding = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let found = app.get("/subscriptions?state=requested&stream=weather.us.ny", &owner).await;
        let found = found.ok(200).json["subscriptions"].as_array().unwrap().clone();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0]["config"]["contact"], "data@acme.example");
        let imposed = json!({"reason": "agreed", "rate": "50/s", "expires": "90d",
                             "filters": [{"exact": {"source": "/jfk"}}]});
        app.post(&format!("{path}/accept"), &owner, &imposed).await
    };
    let (waited, accepted) = tokio::join!(waiting, deciding);
    assert_eq!(accepted.ok(200).json["imposed"]["rate"], "50/s");
    assert_eq!(accepted.json["detail"], "agreed");
    assert_eq!(accepted.json.get("grant"), None, "the grant is the consumer's alone");
    assert_eq!(waited.ok(200).json["state"], "active");
    assert_eq!(waited.header("preference-applied"), "wait");
    let grant = waited.text("grant");
    let profile = &waited.json["profile"];
    assert_eq!(profile["flow"], "1.0");
    assert_eq!(profile["uri"], "flow+http://127.0.0.1:8080/weather.us.ny");
    assert_eq!(profile["subscription"], id.as_str());
    assert_eq!(profile["grant"], grant.as_str());
    let events = format!("http://127.0.0.1:8080{path}/events");
    assert_eq!(profile["endpoints"], json!({"SSE": events, "STREAM": events}));
    assert!(profile["renew"].as_str() < profile["expires"].as_str());

    // Once means once, and the grant speaks for the subscription from now on.
    let again = app.get(&path, &grant).await;
    assert_eq!(again.ok(200).json["state"], "active");
    assert!(!again.text.contains(&grant) && again.json.get("grant").is_none());
    assert_eq!((&again.json["cursor"], &again.json["lag"]), (&json!(0), &json!(0)));
    app.post(&format!("{path}/accept"), &owner, &json!({})).await.is(Code::WrongState);

    let renewed = app.post(&format!("{path}/grant"), &grant, &json!({})).await;
    let newer = renewed.ok(200).json["grant"].as_str().unwrap().to_owned();
    assert_ne!(newer, grant);
    for bearer in [&grant, &newer] {
        app.get(&path, bearer).await.ok(200);
    }
    let ticket = app.post(&format!("{path}/ticket"), &newer, &json!({})).await;
    assert!(ticket.ok(201).text("url").starts_with(&format!("{events}?ticket=")));

    let revoked = app.post(&format!("{path}/revoke"), &owner, &json!({"reason": "terms broken"})).await;
    assert_eq!(
        (&revoked.ok(200).json["state"], &revoked.json["reason"]),
        (&json!("closed"), &json!("revoked"))
    );
    assert_eq!((&revoked.json["by"], &revoked.json["detail"]), (&json!("producer"), &json!("terms broken")));
    assert_eq!(revoked.json.get("profile"), None);
    app.post(&format!("{path}/resume"), &owner, &json!({})).await.is(Code::WrongState);
    let after = app.post(&format!("{path}/grant"), &newer, &json!({})).await;
    assert!(after.status.is_client_error(), "{}", after.text);
}

#[tokio::test]
async fn a_consumer_with_a_token_is_admitted_by_the_streams_access() {
    let (app, owner) = with_stream("open").await;
    let consumer = app.token("consumer", Some("acme.example")).await;
    let asked = app.post("/subscriptions", &consumer, &request()).await;
    asked.ok(201);
    assert_eq!((&asked.json["state"], &asked.json["by"]), (&json!("active"), &json!("policy")));
    assert_eq!((&asked.json["consumer"], &asked.json["proof"]), (&json!("acme.example"), &json!("key")));
    let path = format!("/subscriptions/{}", asked.text("id"));

    // Each sees its own, the owner all.
    let other = app.token("consumer", Some("other.example")).await;
    let count = async |bearer: &str| {
        let listed = app.get("/subscriptions", bearer).await;
        listed.ok(200).json["subscriptions"].as_array().unwrap().len()
    };
    assert_eq!((count(&consumer).await, count(&other).await, count(&owner).await), (1, 0, 1));
    app.get(&path, &other).await.is(Code::UnknownSubscription);
    for decision in ["accept", "reject", "suspend", "resume", "revoke", "grant", "ticket"] {
        app.post(&format!("{path}/{decision}"), &other, &json!({})).await.is(Code::UnknownSubscription);
    }
    app.with(Method::DELETE, &path, &other, &Value::Null).await.is(Code::UnknownSubscription);
    app.post(&format!("{path}/revoke"), &consumer, &json!({})).await.is(Code::NotAllowed);

    // Each side lifts only its own suspension.
    let post = async |what: &str, bearer: &str| app.post(&format!("{path}/{what}"), bearer, &json!({})).await;
    let by = |reply: &Reply| (reply.text("state"), reply.text("by"));
    let suspended = post("suspend", &owner).await;
    assert_eq!(by(suspended.ok(200)), ("suspended".into(), "producer".into()));
    post("suspend", &consumer).await.ok(200);
    let half = post("resume", &owner).await;
    assert_eq!(by(half.ok(200)), ("suspended".into(), "consumer".into()));
    let whole = post("resume", &consumer).await;
    assert_eq!(whole.ok(200).json["state"], "active");
    post("resume", &consumer).await.is(Code::WrongState);

    let cancelled = app.with(Method::DELETE, &format!("{path}?reason=done"), &consumer, &Value::Null).await;
    let closed = (&cancelled.ok(200).json["state"], &cancelled.json["reason"], &cancelled.json["detail"]);
    assert_eq!(closed, (&json!("closed"), &json!("cancelled"), &json!("done")));
}

#[tokio::test]
async fn a_change_that_asks_for_more_waits_while_the_old_acceptance_stays() {
    let (app, owner) = with_stream("approval").await;
    let consumer = app.token("consumer", Some("acme.example")).await;
    let asked = app.post("/subscriptions", &consumer, &request()).await;
    let path = format!("/subscriptions/{}", asked.ok(202).text("id"));
    app.post(&format!("{path}/accept"), &owner, &json!({})).await.ok(200);

    let mut wider = request();
    wider["types"] = json!(["us.weather.observation.v1", "us.weather.alert.v1"]);
    let changed = app.put(&path, &consumer, &wider).await;
    assert_eq!(changed.ok(202).json["state"], "active");
    assert_eq!(changed.json["types"], json!(["us.weather.observation.v1"]));
    assert_eq!(changed.json["wanted"]["types"], wider["types"]);
    let rejected = app.post(&format!("{path}/reject"), &owner, &json!({"reason": "no alerts"})).await;
    assert_eq!(rejected.ok(200).json["state"], "active");
    assert_eq!(rejected.json.get("wanted"), None);

    app.put(&path, &consumer, &wider).await.ok(202);
    let accepted = app.post(&format!("{path}/accept"), &owner, &json!({})).await;
    assert_eq!(accepted.ok(200).json["types"], wider["types"]);
    let narrower = app.put(&path, &consumer, &request()).await;
    assert_eq!(narrower.ok(200).json["types"], request()["types"]);
}

#[tokio::test]
async fn a_wait_ends_by_itself_and_with_the_node() {
    let (app, _) = with_stream("approval").await;
    let asked = app.post("/subscriptions", "", &request()).await;
    let (path, bearer) =
        (format!("/subscriptions/{}", asked.text("id")), format!("Bearer {}", asked.text("secret")));
    let wait = |seconds: &'static str| {
        let (app, path, bearer) = (app.clone(), path.clone(), bearer.clone());
        async move {
            let headers = [("authorization", bearer.as_str()), ("prefer", seconds)];
            app.call(Method::GET, &path, &headers, &Value::Null).await
        }
    };
    assert_eq!(wait("wait=1").await.ok(200).json["state"], "requested");
    let waiting = tokio::spawn(wait("wait=60"));
    tokio::time::sleep(Duration::from_millis(50)).await;
    app.node.closing().cancel();
    assert_eq!(waiting.await.unwrap().ok(200).json["state"], "requested");
}

#[tokio::test]
async fn what_a_caller_may_not_know_of_is_not_there() {
    let (app, owner) = with_stream("private").await;
    let consumer = app.token("consumer", Some("acme.example")).await;
    for bearer in ["", consumer.as_str()] {
        for (method, body) in
            [(Method::GET, Value::Null), (Method::DELETE, Value::Null), (Method::PATCH, json!({}))]
        {
            let hidden = app.with(method.clone(), "/streams/weather.us.ny", bearer, &body).await;
            let absent = app.with(method, "/streams/weather.us.zz", bearer, &body).await;
            let same = |reply: &Reply| reply.text.replace("weather.us.ny", "?").replace("weather.us.zz", "?");
            assert_eq!(same(&hidden), same(&absent));
            hidden.is(Code::UnknownStream);
            assert_eq!(
                hidden.json.get("near").and_then(Value::as_array).map_or(0, Vec::len),
                0,
                "{}",
                hidden.text
            );
        }
        app.post("/subscriptions", bearer, &request()).await.is(Code::UnknownStream);
        let listed = app.get("/streams?q=weather", bearer).await;
        assert_eq!(listed.ok(200).json["streams"], json!([]));
    }
    let near = app.get("/streams/weather.us.nj", &owner).await;
    assert_eq!(near.is(Code::UnknownStream).json["near"][0], "weather.us.ny");
}

#[tokio::test]
async fn subscriptions_are_asked_for_strictly() {
    let (app, owner) = with_stream("open").await;
    let ask = async |member: &str, value: Value| {
        let mut body = request();
        body[member] = value;
        app.post("/subscriptions", &owner, &body).await
    };
    ask("filters", json!([{"cesql": "type LIKE 'a%'"}])).await.ok(201);
    let wrong = ask("filters", json!([{"sql": "type = = 'a'"}])).await;
    wrong.is(Code::BadFilter);
    assert!(wrong.json["line"].is_u64() && wrong.json["column"].is_u64(), "{}", wrong.text);
    assert!(!wrong.json["expected"].is_null(), "{}", wrong.text);
    ask("filters", json!([{"regex": {"type": "a"}}])).await.is(Code::UnsupportedDialect);
    ask("protocol", json!("SMTP")).await.is(Code::UnsupportedProtocol);
    assert_eq!(ask("filter", json!([])).await.is(Code::UnknownMember).json["nearest"], "filters");
    ask("config", json!({"stream": "weather.us.ny", "from": "yesterday"})).await.is(Code::BadPosition);
    ask("config", json!({"stream": "No Name"})).await.is(Code::BadName);
    app.get("/subscriptions?state=open", &owner).await.is(Code::BadParameter);
    app.get("/subscriptions?stream=No+Name", &owner).await.is(Code::BadParameter);
    let asked = app.post("/subscriptions", &owner, &request()).await;
    let path = format!("/subscriptions/{}/accept", asked.text("id"));
    assert_eq!(
        app.post(&path, &owner, &json!({"rates": 1})).await.is(Code::UnknownMember).json["nearest"],
        "rate"
    );
    app.get("/subscriptions/nonsense", &owner).await.is(Code::UnknownSubscription);
}
