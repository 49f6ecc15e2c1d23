//! Streams over HTTP: versions, confirmations, what answers add, search and pages.

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use super::app::App;
use crate::Code;

#[tokio::test]
async fn a_stream_is_created_changed_replaced_and_retired() {
    let app = App::open().await;
    let created = app.put("/streams/weather.us.ny", "", &json!({"title": "Weather", "access": "open"})).await;
    created.ok(201);
    assert_eq!(created.header("location"), "http://127.0.0.1:8080/streams/weather.us.ny");
    assert_eq!(created.json["name"], "weather.us.ny");
    assert_eq!(created.json["uri"], "flow+http://127.0.0.1:8080/weather.us.ny");
    assert_eq!(created.json["owner"], "node.example");
    assert_eq!(created.json["title"], "Weather");
    assert_eq!(created.json["durability"], "fsync");
    assert_eq!(created.text("history").len(), 16);
    for empty in ["first", "last", "bytes"] {
        assert_eq!(created.json[empty], 0);
    }
    assert_eq!(created.json["rate"], 0.0);
    let first = created.header("etag").to_owned();

    let read = app.get("/streams/weather.us.ny", "").await;
    assert_eq!(read.ok(200).json, created.json);
    assert_eq!(read.header("etag"), first);

    // Replacing needs the version; changing a member does not, but may name one.
    app.put("/streams/weather.us.ny", "", &json!({})).await.is(Code::IfMatchRequired);
    let path = "/streams/weather.us.ny";
    let patched = app.call(Method::PATCH, path, &[("if-match", &first)], &json!({"region": "us-east"})).await;
    assert_eq!(patched.ok(200).json["region"], "us-east");
    assert_eq!(patched.json["title"], "Weather");
    let second = patched.header("etag").to_owned();
    assert_ne!(first, second);
    let stale = app.call(Method::PUT, path, &[("if-match", &first)], &json!({"access": "open"})).await;
    stale.is(Code::PreconditionFailed);
    let replaced = app.call(Method::PUT, path, &[("if-match", &second)], &json!({"access": "open"})).await;
    assert_eq!(replaced.ok(200).json.get("title"), None);
    let any =
        app.call(Method::PUT, path, &[("if-match", "*")], &json!({"access": "open", "tags": ["x"]})).await;
    any.ok(200);
    let exists = app.call(Method::PUT, path, &[("if-none-match", "*")], &json!({})).await;
    exists.is(Code::PreconditionFailed);
    for tag in ["W/\"1\"", "\"abc\""] {
        app.call(Method::PATCH, path, &[("if-match", tag)], &json!({})).await.is(Code::PreconditionFailed);
    }
    for tag in ["41", "\"1\", \"2\"", ""] {
        app.call(Method::PATCH, path, &[("if-match", tag)], &json!({})).await.is(Code::MalformedRequest);
    }

    // What is empty can go; what holds events is not deleted by one slip of the finger.
    let stream = app.node.control().stream("weather.us.ny").unwrap();
    let batch = weir_log::Batch { body: "event".into(), ends: vec![5], ..Default::default() };
    app.node.log().append(stream.id, batch).await.unwrap();
    let asked = app.with(Method::DELETE, path, "", &Value::Null).await;
    asked.is(Code::ConfirmationRequired);
    assert!(!asked.json["effects"].is_null());
    let confirm = asked.text("confirm");
    app.with(Method::DELETE, &format!("{path}?confirm=no"), "", &Value::Null)
        .await
        .is(Code::ConfirmationRequired);
    app.with(Method::DELETE, &format!("{path}?confirm={confirm}"), "", &Value::Null).await.ok(204);
    let gone = app.get(path, "").await;
    assert!(gone.status == 410 || gone.status == 404, "{}", gone.text);
}

#[tokio::test]
async fn lists_are_paged_and_searched() {
    let app = App::open().await;
    for name in ["a.one", "a.two", "b.one", "b.three"] {
        app.put(&format!("/streams/{name}"), "", &json!({"title": format!("about {name}")})).await.ok(201);
    }
    let names = |reply: &super::app::Reply| -> Vec<String> {
        let streams = reply.json["streams"].as_array().unwrap();
        let names = streams.iter().map(|stream| stream["name"].as_str().unwrap().to_owned());
        names.filter(|name| !name.starts_with('_')).collect()
    };
    let found = app.get("/streams?q=one", "").await;
    assert_eq!(names(found.ok(200)), ["a.one", "b.one"]);
    assert_eq!(found.json.get("next"), None);

    let (mut all, mut path) = (Vec::new(), "/streams?limit=1&q=about".to_owned());
    loop {
        let page = app.get(&path, "").await;
        all.extend(names(page.ok(200)));
        let Some(next) = page.json["next"].as_str() else { break };
        let link = page.header("link");
        let target =
            link.strip_prefix("<http://127.0.0.1:8080").and_then(|link| link.split('>').next()).unwrap();
        assert!(link.ends_with("; rel=\"next\""));
        assert!(target.contains("q=about") && target.contains("limit=1"), "{target} {next}");
        path = target.to_owned();
    }
    assert_eq!(all, ["a.one", "a.two", "b.one", "b.three"]);
    app.get(&format!("/streams?q={}", "x".repeat(257)), "").await.is(Code::BadParameter);
}

#[tokio::test]
async fn the_rate_counts_the_last_minute() {
    let app = App::open().await;
    app.put("/streams/a", "", &json!({"access": "open"})).await.ok(201);
    let stream = app.node.control().stream("a").unwrap();
    let append = |count: u32| {
        let (body, ends) = ("e".repeat(count as usize), (1..=count).collect());
        app.node.log().append(stream.id, weir_log::Batch { body: body.into(), ends, ..Default::default() })
    };
    append(600).await.unwrap();
    app.clock.advance(Duration::from_secs(45));
    append(60).await.unwrap();
    let read = app.get("/streams/a", "").await;
    assert_eq!((read.json["rate"].as_f64(), read.json["last"].as_u64()), (Some(11.0), Some(660)));
    app.clock.advance(Duration::from_secs(30));
    assert_eq!(app.get("/streams/a", "").await.json["rate"], 1.0);
    app.clock.advance(Duration::from_secs(60));
    assert_eq!(app.get("/streams/a", "").await.json["rate"], 0.0);
}

#[tokio::test]
async fn a_body_and_a_query_are_read_strictly() {
    let app = App::open().await;
    let wrong = app.put("/streams/a", "", &json!({"acess": "open"})).await;
    assert_eq!(wrong.is(Code::UnknownMember).json["nearest"], "access");
    app.put("/streams/a", "", &json!({"access": "public"})).await.is(Code::BadMember);
    app.put("/streams/a", "", &json!([])).await.is(Code::BadMember);
    app.put("/streams/A%20b", "", &json!({})).await.is(Code::BadName);
    app.put("/streams/_mine", "", &json!({})).await.is(Code::ReservedName);
    let typed = app.call(Method::PUT, "/streams/a", &[("content-type", "text/plain")], &json!({})).await;
    typed.is(Code::UnsupportedMediaType);
    let form = [("content-type", "application/x-www-form-urlencoded")];
    app.call(Method::PUT, "/streams/a", &form, &json!({})).await.is(Code::UnsupportedMediaType);
    let packed = app.call(Method::PUT, "/streams/a", &[("content-encoding", "gzip")], &json!({})).await;
    packed.is(Code::UnsupportedEncoding);
    let long = json!({"title": "x".repeat(crate::http::body::BODY_BYTES_MAX)});
    app.put("/streams/a", "", &long).await.is(Code::BodyTooLarge);
    // Nothing of all that had an effect.
    app.get("/streams/a", "").await.is(Code::UnknownStream);
}
