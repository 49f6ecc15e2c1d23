//! Tests of the engine as a whole.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use weir_event::flow::{History, Position};

use crate::api::*;
use crate::engine::Engine;
use crate::events;
use crate::options::Options;

mod basics;
mod faults;
mod golden;
mod model;

pub(crate) const STREAM: StreamId = StreamId(16);

pub(crate) fn settings(durability: Durability) -> Settings {
    Settings {
        durability,
        dedupe: Some(Dedupe { age: Duration::from_mins(2), count: 100_000 }),
        retention: Retention::default(),
        control: false,
    }
}

/// A batch of events, each an id and data.
pub(crate) fn batch(events: &[(&str, &str)]) -> Batch {
    let mut body = Vec::new();
    let mut ends = Vec::new();
    for (id, data) in events {
        events::push(id, "/test", data.as_bytes(), &mut body);
        ends.push(body.len() as u32);
    }
    Batch { body: Bytes::from(body), ends, want_positions: true, ..Batch::default() }
}

/// Waits for an answer on a runtime of one thread.
pub(crate) fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
}

/// Ids of all events that can be read from a position on, with the positions they stand at.
pub(crate) fn all(log: &Engine, stream: StreamId) -> Vec<(u64, String)> {
    let mut found = Vec::new();
    let mut from = Position::FIRST;
    loop {
        let read = wait(log.read(stream, from, 4096)).unwrap();
        for run in &read.runs {
            let mut rest = &run.body[..];
            for i in 0..u64::from(run.count) {
                let (event, next) = events::split_first(rest).unwrap();
                let id = String::from_utf8(events::identity(event).0.to_vec()).unwrap();
                found.push((run.first.0 + i, id));
                rest = next;
            }
            assert!(rest.is_empty());
        }
        if read.next == from {
            return found;
        }
        from = read.next;
    }
}

pub(crate) fn small() -> Options {
    Options { reserve_bytes: 0, stop_at: 2.0, warn_at: 2.0, ..Options::default() }
}

pub(crate) fn open(directory: &std::path::Path, durability: Durability) -> Arc<Engine> {
    let log = Engine::open(directory, small()).unwrap();
    log.declare(STREAM, settings(durability), History(1)).unwrap();
    Arc::new(log)
}
