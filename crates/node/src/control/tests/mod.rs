//! Control against a log in memory whose appends can be made to fail: before anything was stored, or after.

mod folding;
mod streams;
mod subscriptions;
mod table;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::watch;
use weir_event::flow::{History, Position, Time};
use weir_event::{Event, proto};
use weir_log::{
    Answer, Appended, At, Batch, Encoding, Head, Kind as LogKind, Log, Read, Run, Settings,
    Status as LogStatus, StreamId,
};

use super::*;
use crate::clock::{SeededEntropy, SetClock};

/// How the next append goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Nothing is stored, and the outcome is reported as unknown.
    Lost,
    /// It is stored, and the outcome is reported as unknown.
    Done,
}

#[derive(Default)]
pub(super) struct MemoryLog {
    streams: Mutex<BTreeMap<StreamId, Kept>>,
    fault: Mutex<Option<(StreamId, Fault)>>,
}

struct Kept {
    history: History,
    events: Vec<Bytes>,
    declared: bool,
    head: watch::Sender<Head>,
}

impl MemoryLog {
    pub(super) fn fail_next(&self, stream: StreamId, fault: Fault) {
        *self.fault.lock().unwrap() = Some((stream, fault));
    }

    /// What a restart leaves: everything stored, nothing declared.
    pub(super) fn restart(&self) {
        self.streams.lock().unwrap().values_mut().for_each(|kept| kept.declared = false);
        self.restart_faults();
    }

    pub(super) fn restart_faults(&self) {
        *self.fault.lock().unwrap() = None;
    }

    fn with<T>(&self, stream: StreamId, look: impl FnOnce(&mut Kept) -> T) -> Result<T, weir_log::Error> {
        let mut streams = self.streams.lock().unwrap();
        match streams.get_mut(&stream).filter(|kept| kept.declared) {
            Some(kept) => Ok(look(kept)),
            None => Err(weir_log::Error::new(LogKind::NotFound, format!("no stream {}", stream.0))),
        }
    }

    pub(super) fn events(&self, stream: StreamId) -> Vec<Event<'static>> {
        let events = self.with(stream, |kept| kept.events.clone()).unwrap();
        events.iter().map(|bytes| proto::decode(bytes).unwrap().into_owned()).collect()
    }
}

impl Log for MemoryLog {
    fn declare(&self, stream: StreamId, _: Settings, history: History) -> Result<(), weir_log::Error> {
        let mut streams = self.streams.lock().unwrap();
        let kept = streams.entry(stream).or_insert_with(|| Kept {
            history,
            events: Vec::new(),
            declared: false,
            head: watch::Sender::new(Head { last: Position::NONE, history }),
        });
        kept.declared = true;
        Ok(())
    }

    fn remove(&self, stream: StreamId) -> Result<(), weir_log::Error> {
        self.streams.lock().unwrap().remove(&stream);
        Ok(())
    }

    fn append(&self, stream: StreamId, batch: Batch) -> Answer<'static, Appended> {
        let mut faulty = self.fault.lock().unwrap();
        let fault = faulty.filter(|(of, _)| *of == stream).map(|(_, fault)| fault);
        if fault.is_some() {
            *faulty = None;
        }
        drop(faulty);
        let unknown = || Err(weir_log::Error::new(LogKind::Unavailable, "the disk failed"));
        let answer = self.with(stream, |kept| {
            let last = Position(kept.events.len() as u64);
            if batch.expect.is_some_and(|expect| expect != last) {
                return Err(weir_log::Error::new(LogKind::Conflict, "not expected").head(last));
            }
            if fault == Some(Fault::Lost) {
                return unknown();
            }
            let events = proto::batch(&batch.body).map(|event| Bytes::copy_from_slice(event.unwrap()));
            kept.events.extend(events);
            let head = Head { last: Position(kept.events.len() as u64), history: kept.history };
            kept.head.send_replace(head);
            if fault == Some(Fault::Done) {
                return unknown();
            }
            Ok(Appended {
                first: last.next(),
                last: head.last,
                count: head.last.0 - last.0,
                duplicates: 0,
                conflicts: 0,
                history: kept.history,
                durability: Durability::Fsync,
                positions: Vec::new(),
            })
        });
        Box::pin(async move { answer? })
    }

    fn append_at(&self, _: StreamId, _: At, _: Batch) -> Answer<'static, Appended> {
        unimplemented!("control does not mirror")
    }

    fn skip(&self, _: StreamId, _: Position) -> Answer<'static, ()> {
        unimplemented!("control does not skip")
    }

    fn read(&self, stream: StreamId, from: Position, bytes_max: usize) -> Answer<'_, Read> {
        let read = self.with(stream, |kept| {
            let mut read = Read { next: from, ..Read::default() };
            let mut bytes = 0;
            for (index, event) in kept.events.iter().enumerate().skip(from.0.max(1) as usize - 1) {
                if bytes > bytes_max {
                    break;
                }
                bytes += event.len();
                let mut body = Vec::new();
                proto::push_encoded(event, &mut body);
                let first = Position(index as u64 + 1);
                read.runs.push(Run {
                    first,
                    count: 1,
                    time: Time(1),
                    history: kept.history,
                    encoding: Encoding::Events,
                    body: body.into(),
                });
                read.next = first.next();
            }
            read
        });
        Box::pin(async move { read })
    }

    fn tail(&self, stream: StreamId) -> Result<watch::Receiver<Head>, weir_log::Error> {
        self.with(stream, |kept| kept.head.subscribe())
    }

    fn find(&self, stream: StreamId, _: Time) -> Answer<'_, Position> {
        let next = self.with(stream, |kept| Position(kept.events.len() as u64 + 1));
        Box::pin(async move { next })
    }

    fn trim(&self, _: StreamId, _: Position) -> Answer<'static, ()> {
        unimplemented!("control does not trim")
    }

    fn erase(&self, _: StreamId, _: Vec<Position>) -> Answer<'static, ()> {
        unimplemented!("control does not erase")
    }

    fn status(&self, stream: StreamId) -> Result<LogStatus, weir_log::Error> {
        self.with(stream, |kept| {
            let last = Position(kept.events.len() as u64);
            LogStatus {
                history: kept.history,
                first: if last.is_none() { Position::NONE } else { Position::FIRST },
                last,
                next: last.next(),
                bytes: 0,
                time: Time(1),
            }
        })
    }
}

/// A node's control, its log, its files and its clock.
pub(super) struct Bench {
    pub log: Arc<MemoryLog>,
    pub clock: Arc<SetClock>,
    pub entropy: Arc<SeededEntropy>,
    pub dir: tempfile::TempDir,
    pub control: Control,
}

pub(super) const DAY: Duration = Duration::from_secs(86_400);

impl Bench {
    pub(super) async fn new() -> Self {
        Self::seeded(1).await
    }

    pub(super) async fn seeded(seed: u64) -> Self {
        let log = Arc::new(MemoryLog::default());
        let clock = Arc::new(SetClock::at(Time(1_790_000_000_000)));
        let entropy = Arc::new(SeededEntropy::new(seed));
        let dir = tempfile::tempdir().unwrap();
        let control = open(&log, &clock, &entropy, dir.path()).await;
        Self { log, clock, entropy, dir, control }
    }

    /// What a crash leaves: the log and the files.
    pub(super) async fn crash(&mut self) {
        self.log.restart();
        self.control = open(&self.log, &self.clock, &self.entropy, self.dir.path()).await;
    }

    pub(super) async fn create(&self, name: &str, descriptor: Value) -> Arc<Stream> {
        match self.control.decide(&Caller::Node, put(name, descriptor, Seen::Unsaid)).await {
            Ok(Outcome::Stream { stream, created: true }) => stream,
            other => panic!("{other:?}"),
        }
    }

    pub(super) async fn token(&self, role: Role, streams: &str, organization: Option<&str>) -> Caller {
        let command = Command::CreateToken {
            role,
            streams: streams.parse().unwrap(),
            organization: organization.map(Box::from),
            expires: None,
        };
        match self.control.decide(&Caller::Node, command).await {
            Ok(Outcome::Token { bearer, .. }) => self.caller(&bearer),
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn caller(&self, secret: &Secret) -> Caller {
        self.control.authenticate(Some(secret.reveal()), None).unwrap()
    }

    pub(super) async fn ask(&self, caller: &Caller, request: Value) -> Asked {
        let command = Command::Subscribe { request: Box::new(Request::parse(&request).unwrap()) };
        match self.control.decide(caller, command).await {
            Ok(Outcome::Subscription { subscription, grant, secret }) => {
                Asked { subscription, grant, secret }
            }
            other => panic!("{other:?}"),
        }
    }

    pub(super) async fn decide(&self, caller: &Caller, command: Command) -> Result<Arc<Subscription>, Code> {
        match self.control.decide(caller, command).await {
            Ok(Outcome::Subscription { subscription, .. }) => Ok(subscription),
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err(error.code()),
        }
    }

    pub(super) async fn publish(&self, stream: &Stream, count: usize) {
        for index in 0..count {
            let event = Event::new(format!("{index}"), "/test", "test.event").unwrap();
            let mut body = Vec::new();
            proto::push(&event, &mut body);
            let ends = vec![body.len() as u32];
            self.log.append(stream.id, Batch { body: body.into(), ends, ..Batch::default() }).await.unwrap();
        }
    }
}

pub(super) struct Asked {
    pub subscription: Arc<Subscription>,
    pub grant: Option<Grant>,
    pub secret: Option<Secret>,
}

async fn open(
    log: &Arc<MemoryLog>,
    clock: &Arc<SetClock>,
    entropy: &Arc<SeededEntropy>,
    dir: &Path,
) -> Control {
    let options = Options {
        dir: dir.to_owned(),
        clock: Arc::clone(clock) as Arc<dyn Clock>,
        entropy: Arc::clone(entropy) as Arc<dyn Entropy>,
        open_without_tokens: true,
    };
    Control::open(Arc::clone(log) as Arc<dyn Log>, options).await.unwrap()
}

pub(super) fn put(name: &str, descriptor: Value, seen: Seen) -> Command {
    let descriptor = Box::new(Descriptor::parse(&descriptor).unwrap());
    Command::PutStream { name: name.parse().unwrap(), descriptor, seen, confirm: None }
}

pub(super) fn request(stream: &str) -> Value {
    json!({"config": {"stream": stream, "contact": "ops@acme.example"}, "protocol": "SSE"})
}
