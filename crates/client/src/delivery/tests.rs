use std::sync::{Arc, Mutex};

use super::*;
use crate::testing::{Answer, node};

const OURS: History = History(0xab);

fn run(first: u64, count: u32) -> Vec<u8> {
    run_of(OURS, first, count)
}

fn run_of(history: History, first: u64, count: u32) -> Vec<u8> {
    let mut body = Vec::new();
    for position in first..first + u64::from(count) {
        proto::push(&Event::new(position.to_string(), "/s", "t").unwrap(), &mut body);
    }
    let head = frame::Head {
        stream: "x",
        history,
        first: Position(first),
        count,
        time: Time(1000),
        encoding: frame::EVENTS,
    };
    let mut out = Vec::new();
    frame::push_run(&head, &body, &mut out).unwrap();
    out
}

fn json(kind: u8, text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    frame::push(kind, text.as_bytes(), &mut out).unwrap();
    out
}

fn heartbeat(head: u64, at: u64) -> Vec<u8> {
    json(frame::HEARTBEAT, &format!(r#"{{"head":{head},"history":"{OURS}","at":{at}}}"#))
}

/// A delivery from a node that sends these connections, one after another, and cuts each. What was asked is kept.
async fn deliver(connections: Vec<Vec<Vec<u8>>>) -> (Delivery, Arc<Mutex<Vec<String>>>) {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let lines = asked.clone();
    let mut connections = connections.into_iter();
    let url = node(move |asked| {
        lines.lock().unwrap().push(asked.line);
        match connections.next() {
            Some(frames) => Answer::Bytes(STREAM, frames.concat(), true),
            None => Answer::Json(410, r#"{"type":"urn:weir:error:subscription-closed","detail":"over"}"#),
        }
    })
    .await;
    let client = Client::new(&url, None).unwrap();
    (client.deliver(&"x".parse().unwrap(), Some("earliest".into()), None, Duration::from_secs(60)), asked)
}

/// Everything until the end: ids of events, and words for all else.
async fn all(delivery: &mut Delivery) -> (Vec<String>, Error) {
    let mut seen = Vec::new();
    loop {
        match delivery.next().await {
            Ok(Item::Run(run)) => {
                for event in run.events() {
                    let (position, event) = event.unwrap();
                    assert_eq!(event.id(), position.to_string());
                    seen.push(event.id().to_owned());
                }
            }
            Ok(Item::Heartbeat(_)) => {}
            Ok(Item::Skipped(skipped)) => seen.push(format!("skipped {} to {}", skipped.from, skipped.to)),
            Ok(Item::Renumbered { .. }) => seen.push("renumbered".into()),
            Ok(Item::State(state)) => seen.push(state["state"].as_str().unwrap().to_owned()),
            Ok(Item::Cut(_)) => seen.push("cut".into()),
            Ok(Item::Resumed) => seen.push("resumed".into()),
            Err(error) => return (seen, error),
        }
    }
}

#[tokio::test]
async fn a_cut_resumes_behind_the_last_event_and_repeats_none() {
    let half = {
        let whole = run(3, 2);
        whole[..whole.len() - 3].to_vec()
    };
    let (mut delivery, asked) = deliver(vec![
        vec![heartbeat(4, 0), run(1, 2), half],
        // A stored run may begin before what was asked for.
        vec![heartbeat(5, 2), run(1, 4), run(5, 1)],
    ])
    .await;
    let (seen, error) = all(&mut delivery).await;
    assert_eq!(seen, ["1", "2", "cut", "resumed", "3", "4", "5", "cut"]);
    assert_eq!(error.kind(), Kind::Closed);
    let asked = asked.lock().unwrap();
    assert_eq!(asked[0], "GET /streams/x/events?from=earliest");
    assert_eq!(asked[1], format!("GET /streams/x/events?from=3&history={OURS}"));
}

#[tokio::test]
async fn what_was_looked_at_or_skipped_is_not_asked_for_again() {
    let (mut delivery, asked) = deliver(vec![
        vec![heartbeat(9, 0), json(frame::NOTICE, r#"{"skipped":{"from":1,"to":4},"reason":"retention"}"#)],
        vec![heartbeat(9, 8)],
    ])
    .await;
    let (seen, _) = all(&mut delivery).await;
    assert_eq!(seen, ["skipped 1 to 4", "cut", "resumed", "cut"]);
    let asked = asked.lock().unwrap();
    assert_eq!(asked[1], format!("GET /streams/x/events?from=5&history={OURS}"));
    assert_eq!(asked[2], format!("GET /streams/x/events?from=9&history={OURS}"));
}

#[tokio::test]
async fn a_new_history_waits_for_the_caller_to_choose() {
    let notice = format!(r#"{{"history":{{"was":"{OURS}","now":"00000000000000cd"}},"head":7}}"#);
    let (mut delivery, asked) = deliver(vec![
        vec![heartbeat(2, 0), run(1, 2), json(frame::NOTICE, &notice)],
        vec![run_of(History(0xcd), 1, 1)],
    ])
    .await;
    let (seen, error) = all(&mut delivery).await;
    assert_eq!(seen, ["1", "2", "renumbered"]);
    assert_eq!(error.kind(), Kind::Conflict);
    delivery.go_on("earliest");
    let (seen, _) = all(&mut delivery).await;
    assert_eq!(seen, ["1", "cut"]);
    assert_eq!(asked.lock().unwrap()[1], "GET /streams/x/events?from=earliest");
}

#[tokio::test]
async fn a_heartbeat_of_another_history_stops_before_anything_is_handed_out() {
    let other = json(frame::HEARTBEAT, r#"{"head":9,"history":"00000000000000cd","at":0}"#);
    let (mut delivery, _) =
        deliver(vec![vec![heartbeat(2, 0), run(1, 2)], vec![other, run_of(History(0xcd), 1, 9)]]).await;
    let (seen, error) = all(&mut delivery).await;
    assert_eq!(seen, ["1", "2", "cut", "resumed", "renumbered"]);
    assert_eq!(error.kind(), Kind::Conflict);
}

#[tokio::test]
async fn what_was_written_in_an_earlier_history_counts_in_the_one_of_today() {
    let (mut delivery, asked) =
        deliver(vec![vec![heartbeat(4, 0), run_of(History(0x1), 1, 2), run(3, 1)]]).await;
    let (seen, _) = all(&mut delivery).await;
    assert_eq!(seen, ["1", "2", "3", "cut"]);
    assert_eq!(asked.lock().unwrap()[1], format!("GET /streams/x/events?from=4&history={OURS}"));
}

#[tokio::test]
async fn a_final_end_is_an_error_with_its_reason_and_any_other_a_cut() {
    let (mut delivery, _) = deliver(vec![
        vec![heartbeat(0, 0), json(frame::END, r#"{"reason":"stopping"}"#)],
        vec![json(9, "of a later version"), json(frame::STATE, r#"{"state":"suspended","by":"producer"}"#)],
        vec![json(frame::END, r#"{"reason":"revoked","detail":"contract over"}"#)],
    ])
    .await;
    let (seen, error) = all(&mut delivery).await;
    assert_eq!(seen, ["cut", "resumed", "suspended", "cut", "resumed"]);
    assert_eq!(error.kind(), Kind::Closed);
    assert!(error.to_string().ends_with("revoked: contract over"), "{error}");
}

#[tokio::test]
async fn before_the_first_answer_an_outage_is_told_at_once() {
    let client = Client::new("http://127.0.0.1:9", None).unwrap();
    let mut delivery = client.deliver(&"x".parse().unwrap(), None, None, Duration::from_secs(60));
    assert_eq!(delivery.next().await.unwrap_err().kind(), Kind::Unavailable);
}
