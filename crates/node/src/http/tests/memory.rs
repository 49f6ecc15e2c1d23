//! A log in memory: what the tests of the interface need of one, and no more. It promises nothing about disks;
//! [`MemoryLog::fail`] makes it answer as a log with a failing one would.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use weir_event::flow::{History, Position, Time};
use weir_log::{
    Answer, Appended, At, Batch, Encoding, Error, Head, Kind, Log, Read, Run, Settings, Status, StreamId,
};

use crate::clock::Clock;

pub(crate) struct MemoryLog {
    clock: std::sync::Arc<dyn Clock>,
    streams: Mutex<HashMap<StreamId, Kept>>,
    fails: Mutex<Option<Error>>,
}

struct Kept {
    settings: Settings,
    runs: Vec<Run>,
    first: Position,
    next: Position,
    head: watch::Sender<Head>,
}

fn missing() -> Error {
    Error::new(Kind::NotFound, "no such stream in memory")
}

impl MemoryLog {
    pub(crate) fn new(clock: std::sync::Arc<dyn Clock>) -> Self {
        Self { clock, streams: Mutex::default(), fails: Mutex::default() }
    }

    /// From now on appends to streams that are not the node's own fail like this.
    pub(crate) fn fail(&self, kind: Option<Kind>) {
        *self.fails.lock().unwrap() = kind.map(|kind| Error::new(kind, "made to fail"));
    }

    /// From now on too much waits.
    pub(crate) fn fail_busy(&self) {
        *self.fails.lock().unwrap() = Some(Error::new(Kind::Exhausted, "made to wait").busy());
    }

    fn streams(&self) -> MutexGuard<'_, HashMap<StreamId, Kept>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn store(&self, stream: StreamId, batch: Batch) -> Result<Appended, Error> {
        let mut streams = self.streams();
        let kept = streams.get_mut(&stream).ok_or_else(missing)?;
        if let Some(error) = self.fails.lock().unwrap().clone()
            && !kept.settings.control
        {
            return Err(error);
        }
        let last = kept.next.previous();
        if batch.expect.is_some_and(|expected| expected != last) {
            return Err(Error::new(Kind::Conflict, "not the last position").head(last));
        }
        let (history, count) = (kept.head.borrow().history, u32::try_from(batch.ends.len()).unwrap());
        let first = kept.next;
        let run = Run {
            first,
            count,
            time: self.clock.now(),
            history,
            encoding: Encoding::Events,
            body: batch.body,
        };
        let last = run.last();
        kept.next = last.next();
        kept.runs.push(run);
        kept.head.send_replace(Head { last, history });
        let positions =
            if batch.want_positions { (first.0..=last.0).map(Position).collect() } else { Vec::new() };
        let durability = kept.settings.durability;
        let count = u64::from(count);
        Ok(Appended { first, last, count, duplicates: 0, conflicts: 0, history, durability, positions })
    }
}

impl Log for MemoryLog {
    fn declare(&self, stream: StreamId, settings: Settings, history: History) -> Result<(), Error> {
        let mut streams = self.streams();
        let kept = streams.entry(stream).or_insert_with(|| Kept {
            settings: settings.clone(),
            runs: Vec::new(),
            first: Position::FIRST,
            next: Position::FIRST,
            head: watch::Sender::new(Head { last: Position::NONE, history }),
        });
        kept.settings = settings;
        Ok(())
    }

    fn remove(&self, stream: StreamId) -> Result<(), Error> {
        self.streams().remove(&stream).map(drop).ok_or_else(missing)
    }

    fn append(&self, stream: StreamId, batch: Batch) -> Answer<'static, Appended> {
        let stored = self.store(stream, batch);
        Box::pin(async { stored })
    }

    fn append_at(&self, _: StreamId, _: At, _: Batch) -> Answer<'static, Appended> {
        Box::pin(async { Err(Error::new(Kind::Invalid, "no mirrors here")) })
    }

    fn skip(&self, _: StreamId, _: Position) -> Answer<'static, ()> {
        Box::pin(async { Err(Error::new(Kind::Invalid, "no mirrors here")) })
    }

    fn read(&self, stream: StreamId, from: Position, bytes_max: usize) -> Answer<'_, Read> {
        Box::pin(async move {
            let streams = self.streams();
            let kept = streams.get(&stream).ok_or_else(missing)?;
            let mut read = Read { next: from.max(kept.first), ..Read::default() };
            let mut bytes = 0;
            for run in kept.runs.iter().filter(|run| run.last() >= from) {
                if bytes > 0 && bytes + run.body.len() > bytes_max {
                    break;
                }
                bytes += run.body.len();
                read.next = run.last().next();
                read.runs.push(run.clone());
            }
            Ok(read)
        })
    }

    fn tail(&self, stream: StreamId) -> Result<watch::Receiver<Head>, Error> {
        self.streams().get(&stream).map(|kept| kept.head.subscribe()).ok_or_else(missing)
    }

    fn find(&self, stream: StreamId, time: Time) -> Answer<'_, Position> {
        Box::pin(async move {
            let streams = self.streams();
            let kept = streams.get(&stream).ok_or_else(missing)?;
            Ok(kept.runs.iter().find(|run| run.time >= time).map_or(kept.next, |run| run.first))
        })
    }

    fn trim(&self, stream: StreamId, first: Position) -> Answer<'static, ()> {
        let trimmed = self.streams().get_mut(&stream).ok_or_else(missing).map(|kept| {
            kept.runs.retain(|run| run.last() >= first);
            kept.first = first;
        });
        Box::pin(async { trimmed })
    }

    fn erase(&self, _: StreamId, _: Vec<Position>) -> Answer<'static, ()> {
        Box::pin(async { Err(Error::new(Kind::Invalid, "nothing is erased here")) })
    }

    fn status(&self, stream: StreamId) -> Result<Status, Error> {
        let streams = self.streams();
        let kept = streams.get(&stream).ok_or_else(missing)?;
        let head = *kept.head.borrow();
        Ok(Status {
            history: head.history,
            first: kept.runs.first().map_or(Position::NONE, |run| run.first),
            last: if kept.runs.is_empty() { Position::NONE } else { head.last },
            next: kept.next,
            bytes: kept.runs.iter().map(|run| run.body.len() as u64).sum(),
            time: kept.runs.last().map_or(Time(0), |run| run.time),
        })
    }
}
