//! Access × role × call, over HTTP: the one table of who may do what, held against the running interface.

use http::Method;
use serde_json::{Value, json};

use super::app::{App, Reply};
use crate::Code;

/// What each caller gets, call by call: find, read, subscribe, publish, change.
///
/// `y` it is done, `a` it is asked for and waits, `n` not allowed, `c` a credential is needed, `h` there is no such
/// stream.
const TABLE: [(&str, &str, &str); 24] = [
    ("private", "owner", "y y y y y"),
    ("private", "reader", "y y y n n"),
    ("private", "publisher", "y n n y n"),
    ("private", "listed", "h h h h h"),
    ("private", "consumer", "h h h h h"),
    ("private", "anyone", "h h h h h"),
    ("allow", "owner", "y y y y y"),
    ("allow", "reader", "y y y n n"),
    ("allow", "publisher", "y n n y n"),
    ("allow", "listed", "y y y n n"),
    ("allow", "consumer", "h h h h h"),
    ("allow", "anyone", "h h h h h"),
    ("approval", "owner", "y y y y y"),
    ("approval", "reader", "y y y n n"),
    ("approval", "publisher", "y n a y n"),
    ("approval", "listed", "y n a n n"),
    ("approval", "consumer", "y n a n n"),
    ("approval", "anyone", "y c a c c"),
    ("open", "owner", "y y y y y"),
    ("open", "reader", "y y y n n"),
    ("open", "publisher", "y y y y n"),
    ("open", "listed", "y y y n n"),
    ("open", "consumer", "y y y n n"),
    ("open", "anyone", "y y y c c"),
];

#[tokio::test]
async fn every_caller_gets_from_every_call_what_the_table_says() {
    let (app, owner) = App::closed().await;
    for access in ["private", "allow", "approval", "open"] {
        let descriptor = json!({"access": access, "allow": ["listed.example"]});
        app.put(&format!("/streams/{access}"), &owner, &descriptor).await.ok(201);
    }
    let reader = app.token("reader", None).await;
    let publisher = app.token("publisher", None).await;
    let listed = app.token("consumer", Some("listed.example")).await;
    let consumer = app.token("consumer", Some("other.example")).await;
    for (access, who, wanted) in TABLE {
        let bearer = match who {
            "owner" => &owner,
            "reader" => &reader,
            "publisher" => &publisher,
            "listed" => &listed,
            "consumer" => &consumer,
            _ => "",
        };
        let got = calls(&app, access, bearer).await;
        assert_eq!(got, wanted, "{who} on a stream with access {access}");
    }
}

/// Makes every call and says what came of it, as the table does.
async fn calls(app: &App, stream: &str, bearer: &str) -> String {
    let path = format!("/streams/{stream}");
    let event = json!({"specversion": "1.0", "id": "1", "source": "/s", "type": "t"});
    let request = json!({"config": {"stream": stream, "contact": "a@b.example"}});
    let authorization = format!("Bearer {bearer}");
    let mut headers = vec![("content-type", "application/cloudevents+json")];
    if !bearer.is_empty() {
        headers.push(("authorization", &authorization));
    }
    let events = format!("{path}/events");
    let replies = [
        app.get(&path, bearer).await,
        app.get(&format!("{events}?limit=1"), bearer).await,
        app.post("/subscriptions", bearer, &request).await,
        app.call(Method::POST, &events, &headers, &event).await,
        app.with(Method::PATCH, &path, bearer, &json!({"region": "here"})).await,
    ];
    replies.iter().map(letter).collect::<Vec<_>>().join(" ")
}

fn letter(reply: &Reply) -> &'static str {
    match reply.status.as_u16() {
        200 | 201 => "y",
        202 => "a",
        403 => {
            assert!(reply.is(Code::NotAllowed).json["needed"].is_string(), "{}", reply.text);
            "n"
        }
        401 => {
            reply.is(Code::CredentialRequired);
            "c"
        }
        404 => {
            let near = reply.is(Code::UnknownStream).json.get("near").cloned().unwrap_or(json!([]));
            // Near matches come from what the caller may see, so a hidden name is never among them.
            let names = near.as_array().cloned().unwrap_or_default();
            assert!(!names.contains(&Value::from("private")), "{}", reply.text);
            "h"
        }
        _ => panic!("{} {}", reply.status, reply.text),
    }
}
