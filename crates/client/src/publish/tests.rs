use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use super::*;
use crate::testing::{Answer, Asked, node};

/// What a log that keeps a producer's sequence would hold.
#[derive(Default)]
struct Stored {
    ids: Vec<String>,
    /// Sequences seen, with how many events each has.
    batches: BTreeMap<u64, u64>,
    producer: Option<String>,
}

impl Stored {
    /// Takes a batch as a node does.
    fn take(&mut self, asked: &Asked) -> Answer {
        let header: Vec<&str> = asked.headers["weir-producer"].split(';').collect();
        let sequence: u64 = header[2].parse().unwrap();
        assert_eq!(self.producer.get_or_insert_with(|| header[0].to_owned()), header[0]);
        let ids: Vec<String> = proto::batch(&asked.body)
            .map(|event| proto::decode(event.unwrap()).unwrap().id().to_owned())
            .collect();
        let count = ids.len() as u64;
        if self.batches.get(&sequence) == Some(&count) {
            return Answer::Json(200, DUPLICATE);
        }
        if sequence != self.ids.len() as u64 {
            assert!(!self.ids.is_empty(), "the first batch was overtaken: a node would have taken it");
            return Answer::Json(409, r#"{"type":"urn:weir:error:sequence-gap","detail":"too early"}"#);
        }
        self.batches.insert(sequence, count);
        self.ids.extend(ids);
        Answer::Json(200, STORED)
    }
}

// The answers' counts say which it was; the positions do not matter here.
const STORED: &str =
    r#"{"first":1,"last":1,"count":10,"duplicates":0,"history":"00000000000000ab","durability":"fsync"}"#;
const DUPLICATE: &str = r#"{"first":null,"last":null,"count":0,"duplicates":10,"history":"00000000000000ab","durability":"fsync"}"#;

fn event(index: u64) -> Event<'static> {
    Event::new(format!("e{index}"), "/s", "t").unwrap()
}

fn options() -> Options {
    Options { batch_events_max: 10, ..Options::default() }
}

/// Publishes `count` events to a node that answers like a log, but as `trouble` says instead where it says
/// something (before or after the batch is stored).
async fn publish(
    count: u64,
    mut trouble: impl FnMut(u64, &mut dyn FnMut() -> Answer) -> Answer + Send + 'static,
) -> (Result<Totals, Error>, Arc<Mutex<Stored>>) {
    let stored = Arc::new(Mutex::new(Stored::default()));
    let shared = stored.clone();
    let mut requests = 0;
    let url = node(move |asked| {
        requests += 1;
        trouble(requests, &mut || shared.lock().unwrap().take(&asked))
    })
    .await;
    let client = Client::new(&url, None).unwrap();
    let mut publisher = client.publisher(&"x".parse().unwrap(), options()).unwrap();
    let mut result = Ok(());
    for index in 0..count {
        result = publisher.send(&event(index)).await;
        if result.is_err() {
            break;
        }
    }
    let result = match result {
        Ok(()) => publisher.flush().await,
        Err(error) => Err(error),
    };
    (result, stored)
}

fn in_order(stored: &Mutex<Stored>, count: u64) {
    let stored = stored.lock().unwrap();
    assert_eq!(stored.ids, (0..count).map(|index| format!("e{index}")).collect::<Vec<_>>());
}

#[tokio::test]
async fn events_are_stored_in_order_whatever_overtakes_what() {
    let (totals, stored) = publish(1000, |_, take| take()).await;
    in_order(&stored, 1000);
    assert_eq!(totals.unwrap().acknowledged(), 1000);
}

#[tokio::test]
async fn lost_answers_and_outages_store_nothing_twice() {
    let (totals, stored) = publish(150, |request, take| match request % 7 {
        1 => Answer::Cut,
        3 => {
            take();
            Answer::Cut
        }
        5 => Answer::Json(503, r#"{"type":"urn:weir:error:outcome-unknown"}"#),
        6 => Answer::Json(507, r#"{"type":"urn:weir:error:disk-full"}"#),
        _ => take(),
    })
    .await;
    in_order(&stored, 150);
    let totals = totals.unwrap();
    assert_eq!(totals.acknowledged(), 150);
    assert!(totals.retries > 0);
}

#[tokio::test]
async fn a_final_refusal_ends_the_publisher_with_its_cause() {
    let (result, stored) = publish(500, |request, take| match request {
        1..=5 => take(),
        _ => Answer::Json(
            403,
            r#"{"type":"urn:weir:error:not-allowed","detail":"a publisher's token is needed"}"#,
        ),
    })
    .await;
    let error = result.unwrap_err();
    assert_eq!(error.kind(), Kind::Denied);
    assert_eq!(error.code(), "not-allowed");
    let count = stored.lock().unwrap().ids.len() as u64;
    in_order(&stored, count);
}

#[tokio::test]
async fn a_conflict_that_waiting_does_not_solve_is_final() {
    let (result, _) = publish(500, |request, take| match request {
        1..=5 => take(),
        _ => Answer::Json(409, r#"{"type":"urn:weir:error:sequence-gap"}"#),
    })
    .await;
    assert_eq!(result.unwrap_err().kind(), Kind::Conflict);
}
