//! What the node says of itself, the guard in place, and tokens.

use http::Method;
use serde_json::{Value, json};

use super::app::App;
use crate::settings::{Percent, Settings};
use crate::{Code, Node};

#[tokio::test]
async fn anyone_learns_what_the_node_is_and_whether_it_is_ready() {
    let (app, _) = App::closed().await;
    let flow = app.get("/.well-known/flow", "").await;
    flow.ok(200);
    assert_eq!(flow.json["organization"], "node.example");
    assert_eq!(flow.json["spec"], "1.0");
    assert_eq!(flow.json["endpoints"]["http"], "http://127.0.0.1:8080");
    assert_eq!(flow.json["protocols"], json!(["HTTP", "SSE", "STREAM"]));
    assert_eq!(flow.json["keys"], json!([]));
    let features: Vec<&str> =
        flow.json["features"].as_array().unwrap().iter().flat_map(Value::as_str).collect();
    assert!(features.is_sorted(), "{features:?}");
    assert_eq!(app.get("/healthz", "").await.ok(200).json["healthy"], true);
    assert_eq!(app.get("/readyz", "").await.ok(200).json["ready"], true);
    let openapi = app.get("/openapi.json", "").await;
    assert_eq!(openapi.ok(200).json["servers"][0]["url"], "http://127.0.0.1:8080");
    app.node.closing().cancel();
    let stopping = app.get("/readyz", "").await;
    stopping.is(Code::NotReady);
    assert_eq!(stopping.json["missing"], json!(["the node is stopping"]));
    assert!(stopping.headers.contains_key("retry-after"));
    app.get("/healthz", "").await.ok(200);
}

#[tokio::test]
async fn only_the_owner_sees_how_the_node_is() {
    let (app, owner) = App::closed().await;
    app.put("/streams/a", &owner, &json!({"access": "open"})).await.ok(201);
    app.get("/status", "").await.is(Code::CredentialRequired);
    let reader = app.token("reader", None).await;
    let refused = app.get("/status", &reader).await;
    assert!(refused.is(Code::NotAllowed).json["needed"].is_string(), "{}", refused.text);
    let status = app.get("/status", &owner).await;
    status.ok(200);
    assert_eq!(status.json["open"], false);
    assert_eq!(status.json["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(status.json["streams"]["count"], 1);
    assert_eq!(status.json["subscriptions"]["active"], 0);
    assert!(status.json["uptime"].is_u64());
}

#[tokio::test]
async fn a_node_on_a_disk_says_how_much_room_there_is() {
    let dir = tempfile::tempdir().unwrap();
    let on_disk = |disk_stop| Settings { data: dir.path().join("data"), disk_stop, ..Settings::default() };
    let node = Node::open(on_disk(Percent(100))).await.unwrap();
    let app = App::open().await.on(node.clone());
    app.put("/streams/a", "", &json!({})).await.ok(201);
    let status = app.get("/status", "").await;
    let disk = &status.ok(200).json["disk"];
    assert!(disk["total"].as_u64().unwrap() >= disk["free"].as_u64().unwrap(), "{disk}");
    assert_eq!((&disk["full"], &disk["stop"]), (&json!(false), &json!(1.0)));
    app.get("/readyz", "").await.ok(200);
    // Who starts a second one reads what is wrong.
    let second = Node::open(on_disk(Percent(100))).await.err().unwrap();
    assert!(second.to_string().contains("in use"), "{second}");

    let metrics = app.get("/metrics", "").await;
    assert_eq!(metrics.ok(200).header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
    assert!(metrics.text.contains("\nweir_log_flushes_total "), "{}", metrics.text);
    assert!(metrics.text.contains("\nweir_log_free_bytes "), "{}", metrics.text);
    assert!(metrics.text.ends_with("# EOF\n"));
    let accept = [("accept", "application/openmetrics-text; version=1.0.0")];
    let open = app.call(Method::GET, "/metrics", &accept, &Value::Null).await;
    assert_eq!(open.ok(200).header("content-type"), crate::metrics::CONTENT_TYPE);
    node.close().await;
    drop((app, node));

    // Publishers would be refused from the first percent on: a load balancer should know.
    let node = Node::open(on_disk(Percent(1))).await.unwrap();
    let app = App::open().await.on(node.clone());
    let full = app.get("/readyz", "").await;
    if full.status != 200 {
        full.is(Code::NotReady);
        assert_eq!(full.json["missing"], json!(["the disk is too full to take events"]));
    }
    node.close().await;
}

#[tokio::test]
async fn an_open_node_is_not_driven_by_web_pages() {
    let app = App::open().await;
    let put = |headers: &'static [(&'static str, &'static str)]| {
        let app = &app;
        async move { app.call(Method::PUT, "/streams/a", headers, &json!({})).await }
    };
    put(&[("host", "rebound.example")]).await.is(Code::ForeignHost);
    put(&[("origin", "https://evil.example")]).await.is(Code::ForeignOrigin);
    put(&[("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "no-cors")]).await.is(Code::ForeignOrigin);
    app.get("/streams/a", "").await.is(Code::UnknownStream);
    put(&[("origin", "http://127.0.0.1:8080")]).await.ok(201);
    // Its health is as closed to foreign pages as all else.
    app.call(Method::GET, "/healthz", &[("host", "rebound.example")], &Value::Null)
        .await
        .is(Code::ForeignHost);
}

#[tokio::test]
async fn untidy_paths_reach_no_call() {
    let app = App::open().await;
    app.put("/streams/a", "", &json!({})).await.ok(201);
    for path in
        ["/streams/../streams/a", "/streams//a", "//streams/a", "/streams/%2e%2e/tokens", "/streams/x%2fa"]
    {
        app.get(path, "").await.is(Code::MalformedRequest);
    }
}

#[tokio::test]
async fn the_first_token_closes_an_open_node() {
    let app = App::open().await;
    let created = app.post("/tokens", "", &json!({"role": "owner"})).await;
    created.ok(201);
    let (owner, id) = (created.text("token"), created.text("id"));
    assert_eq!(created.json["streams"], ">");
    assert!(created.header("location").ends_with(&format!("/tokens/{id}")));
    app.get("/tokens", "").await.is(Code::CredentialRequired);
    app.get("/tokens", "nonsense").await.is(Code::BadCredential);
    // A page of another origin has no token, so it may try.
    app.call(Method::GET, "/.well-known/flow", &[("host", "node.example")], &Value::Null).await.ok(200);

    let body = json!({"role": "publisher", "streams": "weather.>", "for": "acme.example", "expires": "30d"});
    let publisher = app.post("/tokens", &owner, &body).await;
    publisher.ok(201);
    assert_eq!(publisher.json["for"], "acme.example");
    assert_eq!(publisher.text("expires"), "2026-10-21T14:13:20.000Z");
    let listed = app.get("/tokens", &owner).await;
    let tokens = listed.ok(200).json["tokens"].as_array().unwrap();
    assert_eq!(tokens.len(), 2);
    assert!(tokens.iter().all(|token| token.get("token").is_none()), "{}", listed.text);
    assert!(!listed.text.contains(&owner));

    app.get("/tokens", &publisher.text("token")).await.is(Code::NotAllowed);
    let path = format!("/tokens/{}", publisher.text("id"));
    app.with(Method::DELETE, &path, &owner, &Value::Null).await.ok(204);
    app.with(Method::DELETE, &path, &owner, &Value::Null).await.is(Code::UnknownToken);
    app.with(Method::DELETE, "/tokens/nonsense", &owner, &Value::Null).await.is(Code::UnknownToken);
    app.get("/streams", &publisher.text("token")).await.is(Code::BadCredential);
}

#[tokio::test]
async fn tokens_are_asked_for_strictly() {
    let app = App::open().await;
    let ask = |body: Value| {
        let app = &app;
        async move { app.post("/tokens", "", &body).await }
    };
    ask(json!({})).await.is(Code::BadMember);
    ask(json!({"role": "admin"})).await.is(Code::BadMember);
    ask(json!({"role": "reader", "streams": "a..b"})).await.is(Code::BadMember);
    ask(json!({"role": "reader", "expires": "2020-01-01T00:00:00Z"})).await.is(Code::BadMember);
    ask(json!({"role": "reader", "expires": "soon"})).await.is(Code::BadMember);
    assert_eq!(ask(json!({"rolle": "reader"})).await.is(Code::UnknownMember).json["nearest"], "role");
    ask(json!({"role": "reader", "expires": "2030-01-01T00:00:00Z"})).await.ok(201);
}
