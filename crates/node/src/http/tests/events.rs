//! What a consumer gets through its subscription: acknowledging, and previews for whoever decides.

use http::Method;
use serde_json::{Value, json};

use super::app::{App, Reply};
use crate::Code;

async fn publish(app: &App, bearer: &str, ids: std::ops::Range<u32>) {
    let event = |id: u32| {
        json!({"specversion": "1.0", "id": id.to_string(), "source": if id.is_multiple_of(2) { "/even" } else { "/odd" },
               "type": "t", "data": {"id": id, "secret": "s"}})
    };
    let batch: Vec<Value> = ids.map(event).collect();
    let authorization = format!("Bearer {bearer}");
    let headers =
        [("content-type", "application/cloudevents-batch+json"), ("authorization", authorization.as_str())];
    app.call(Method::POST, "/streams/s/events", &headers, &Value::from(batch)).await.ok(200);
}

fn ids(reply: &Reply) -> Vec<String> {
    let events = reply.ok(200).json.as_array().unwrap();
    events.iter().map(|event| event["id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_preview_shows_what_the_consumer_would_get() {
    let (app, owner) = App::closed().await;
    app.put("/streams/s", &owner, &json!({"access": "approval"})).await.ok(201);
    publish(&app, &owner, 1..101).await;
    let consumer = app.token("consumer", Some("acme.example")).await;
    let ask = async |from: &str| {
        let body = json!({"config": {"stream": "s", "from": from}, "source": "/even"});
        let asked = app.post("/subscriptions", &consumer, &body).await;
        format!("/subscriptions/{}", asked.ok(202).text("id"))
    };

    let earliest = ask("earliest").await;
    assert_eq!(ids(&app.get(&format!("{earliest}/preview?limit=3"), &owner).await), ["2", "4", "6"]);
    // One that begins with the next event is shown the newest there are.
    let latest = ask("latest").await;
    let shown = ids(&app.get(&format!("{latest}/preview?limit=3"), &owner).await);
    assert_eq!(shown.len(), 3);
    assert!(shown.iter().all(|id| id.parse::<u32>().unwrap().is_multiple_of(2)), "{shown:?}");
    let later = ask("90").await;
    assert_eq!(
        ids(&app.get(&format!("{later}/preview"), &owner).await),
        ["90", "92", "94", "96", "98", "100"]
    );

    // The consumer may not look before the decision, not even at a preview of its own.
    app.get(&format!("{earliest}/preview"), &consumer).await.is(Code::NotAllowed);
    app.get(&format!("{earliest}/events?limit=1"), &consumer).await.is(Code::NotDecided);

    // What is imposed holds for the preview as it will for the consumer.
    let imposed = json!({"filters": [{"suffix": {"id": "0"}}], "form": {"remove": ["/secret"]}});
    app.post(&format!("{earliest}/accept"), &owner, &imposed).await.ok(200);
    let (preview, delivered) = (
        app.get(&format!("{earliest}/preview?limit=5"), &owner).await,
        app.get(&format!("{earliest}/events?limit=5"), &consumer).await,
    );
    assert_eq!(ids(&preview), ["10", "20", "30", "40", "50"]);
    assert_eq!(preview.json, delivered.json);
    assert_eq!(preview.json[0]["data"], json!({"id": 10}));
    app.get(&format!("{earliest}/preview?limit=101"), &owner).await.is(Code::BadParameter);
}

#[tokio::test]
async fn a_cursor_moves_by_acknowledgement_and_only_by_its_consumers() {
    let (app, owner) = App::closed().await;
    app.put("/streams/s", &owner, &json!({"access": "open"})).await.ok(201);
    publish(&app, &owner, 1..11).await;
    let consumer = app.token("consumer", Some("acme.example")).await;
    let body = json!({"config": {"stream": "s", "from": "earliest"}});
    let asked = app.post("/subscriptions", &consumer, &body).await;
    let path = format!("/subscriptions/{}", asked.ok(201).text("id"));
    assert_eq!((&asked.json["cursor"], &asked.json["lag"]), (&json!(0), &json!(10)));
    let ack = async |bearer: &str, body: Value| app.post(&format!("{path}/ack"), bearer, &body).await;

    assert_eq!(ack(&consumer, json!({"ack": 4})).await.ok(200).json["cursor"], 4);
    // Single ones wait above the floor until it reaches them.
    assert_eq!(ack(&consumer, json!({"acks": [6, 7]})).await.ok(200).json["cursor"], 4);
    assert_eq!(ack(&consumer, json!({"acks": [5]})).await.ok(200).json["cursor"], 7);
    let read = app.get(&path, &consumer).await;
    assert_eq!((&read.json["cursor"], &read.json["lag"]), (&json!(7), &json!(3)));
    assert_eq!(ids(&app.get(&format!("{path}/events"), &consumer).await), ["8", "9", "10"]);
    // The owner's look at it moves nothing.
    app.get(&format!("{path}/preview"), &owner).await.ok(200);
    assert_eq!(app.get(&path, &owner).await.json["cursor"], 7);

    ack(&owner, json!({"ack": 9})).await.is(Code::NotAllowed);
    ack(&consumer, json!({"ack": 11})).await.is(Code::BadPosition);
    ack(&consumer, json!({"ack": 8, "history": "00000000000000aa"})).await.is(Code::HistoryChanged);
    ack(&consumer, json!({"ack": -1})).await.is(Code::BadMember);
    ack(&consumer, json!({})).await.is(Code::BadMember);
    assert_eq!(ack(&consumer, json!({"ak": 8})).await.is(Code::UnknownMember).json["nearest"], "ack");
    assert_eq!(app.get(&path, &consumer).await.json["cursor"], 7);
}

#[tokio::test]
async fn a_cursor_that_follows_what_was_sent_is_not_moved_by_a_preview() {
    let (app, owner) = App::closed().await;
    app.put("/streams/s", &owner, &json!({"access": "open"})).await.ok(201);
    publish(&app, &owner, 1..11).await;
    let consumer = app.token("consumer", Some("acme.example")).await;
    let body = json!({"config": {"stream": "s", "from": "earliest", "ack": "sent"}});
    let asked = app.post("/subscriptions", &consumer, &body).await;
    let path = format!("/subscriptions/{}", asked.ok(201).text("id"));
    assert_eq!(ids(&app.get(&format!("{path}/preview?limit=4"), &owner).await).len(), 4);
    assert_eq!(app.get(&path, &owner).await.json["cursor"], 0);
    assert_eq!(ids(&app.get(&format!("{path}/events?limit=4"), &consumer).await), ["1", "2", "3", "4"]);
    assert_eq!(app.get(&path, &owner).await.json["cursor"], 4);
    assert_eq!(ids(&app.get(&format!("{path}/events?limit=1"), &consumer).await), ["5"]);
}

#[tokio::test]
async fn a_ticket_opens_one_reading_and_nothing_else_goes_into_a_url() {
    let (app, owner) = App::closed().await;
    app.put("/streams/s", &owner, &json!({"access": "open"})).await.ok(201);
    publish(&app, &owner, 1..3).await;
    let consumer = app.token("consumer", Some("acme.example")).await;
    let body = json!({"config": {"stream": "s", "from": "earliest"}});
    let asked = app.post("/subscriptions", &consumer, &body).await;
    let path = format!("/subscriptions/{}", asked.ok(201).text("id"));
    let ticket = app.post(&format!("{path}/ticket"), &consumer, &json!({})).await;
    let url = ticket.ok(201).text("url");
    let url = url.strip_prefix("http://127.0.0.1:8080").unwrap();
    assert_eq!(ids(&app.get(url, "").await), ["1", "2"]);
    app.get(url, "").await.is(Code::BadCredential);

    app.get(&format!("{path}/events?ticket={consumer}"), "").await.is(Code::BadCredential);
    app.get(&format!("{path}/events?ticket="), "").await.is(Code::BadCredential);
    app.get(&format!("/streams/s/events?ticket={consumer}"), "").await.is(Code::UnknownParameter);
    let ticket = app.post(&format!("{path}/ticket"), &consumer, &json!({})).await.text("ticket");
    app.post(&format!("{path}/ack"), &ticket, &json!({"ack": 1})).await.is(Code::UnknownSubscription);
    app.post(&format!("{path}/ticket"), &owner, &json!({})).await.is(Code::NotAllowed);
}
