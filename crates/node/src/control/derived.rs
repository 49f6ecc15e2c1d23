//! The node's own streams, derived from what happens: `_weir.audit`, `_weir.ops` and `_weir.usage`.
//!
//! **Audit** says what was decided and what was refused. Every decision becomes exactly one event there, plus one
//! for each subscription that it closed, in the order of decisions. Each event carries the position of the last
//! decision that the audit covers (attribute `decision`), so the end of the audit itself tells where to go on: a
//! crash at any point neither loses an event nor repeats one. A refusal is written when its kind (who, what,
//! which stream, which error) first occurs; repeats are counted and written once a minute.
//!
//! **Ops** says what happened to the node itself, as told by [`Control::note`]. **Usage** says once a minute what
//! was handed out, from the meters that deliveries count on. Both are told from memory, so a crash may lose the
//! last minute of them; a publisher's or consumer's event is never lost that way.
//!
//! Events name the stream they are about (`stream`) and the organization (`consumer`), by which
//! [`super::filters::Scope`] gives each reader what concerns it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Map, Value, json};
use std::collections::HashMap;
use tokio::sync::Notify;
use weir_event::flow::{Position, StreamName, Time};
use weir_event::{Event, proto};
use weir_log::{Batch, Log, StreamId};

use super::access::Caller;
use super::decision::{self, Change, Decision};
use super::filters::{CONSUMER, STREAM};
use super::reading::Reader;
use super::state::{State, own};
use super::subscription::{SubscriptionId, Why};
use super::{Control, Inner};
use crate::clock::Clock;
use crate::error::{Code, Error, Kind};

/// How many kinds of refusal are told apart at a time; the rest is counted together.
const REFUSALS_MAX: usize = 1000;
/// How many notes wait to be written; the rest is counted.
const NOTES_MAX: usize = 1000;
/// How many decisions become one batch of the audit.
const BATCH_MAX: usize = 512;
/// The attribute that holds the last decision that the audit covers.
const DECISION: &str = "decision";

/// What was handed out under one subscription, or to one kind of unnamed caller of one stream, since it was last
/// written.
#[derive(Debug, Default)]
pub struct Meter {
    /// Events.
    pub events: AtomicU64,
    /// Bytes on the wire.
    pub bytes: AtomicU64,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Metered {
    stream: StreamId,
    name: StreamName,
    subscription: Option<SubscriptionId>,
    consumer: Option<Box<str>>,
    who: Option<Box<str>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Refusal {
    who: Box<str>,
    consumer: Option<Box<str>>,
    action: &'static str,
    stream: Option<StreamName>,
    code: Code,
}

#[derive(Clone, Copy, Debug, Default)]
struct Repeats {
    /// Whether its first occurrence was written.
    told: bool,
    since: u64,
}

#[derive(Debug)]
struct Note {
    kind: &'static str,
    subject: Box<str>,
    time: Time,
    data: Value,
}

/// What waits to be written to the derived streams.
pub(super) struct Derived {
    clock: Arc<dyn Clock>,
    refusals: Mutex<HashMap<Refusal, Repeats>>,
    notes: Mutex<VecDeque<Note>>,
    lost: AtomicU64,
    meters: Mutex<HashMap<Metered, Arc<Meter>>>,
    /// Wakes the duty that writes.
    pub(super) wake: Notify,
    /// Held by whoever writes.
    writing: tokio::sync::Mutex<()>,
}

impl Control {
    /// The meter of a reader: counts what it was given, written to `_weir.usage` once a minute.
    #[must_use]
    pub fn meter(&self, reader: &Reader) -> Arc<Meter> {
        let consumer = match reader.subscription {
            Some(id) => self.0.state().subscription(id).and_then(|found| found.consumer.organization.clone()),
            None => reader.caller().organization().map(Box::from),
        };
        let key = Metered {
            stream: reader.stream.id,
            name: reader.stream.name.clone(),
            subscription: reader.subscription,
            consumer,
            who: reader.subscription.is_none().then(|| reader.caller().name().into()),
        };
        let mut meters = self.0.derived.meters.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(meters.entry(key).or_default())
    }

    /// Notes a refusal for the audit: a new kind is written at once, repeats are counted and written once a
    /// minute. Control notes its own refusals; this is for whoever else refuses, such as admission.
    pub fn refused(&self, caller: &Caller, action: &'static str, stream: Option<&StreamName>, error: &Error) {
        self.0.derived.refused(caller, action, stream, error);
    }

    /// Tells `_weir.ops` that something happened to the node, e.g. `weir.disk.full`. Never waits; what is beyond
    /// 1,000 waiting ones is counted instead.
    pub fn note(&self, kind: &'static str, subject: &str, data: Value) {
        self.0.derived.note(kind, subject, data);
    }
}

impl Derived {
    pub(super) fn new(clock: &Arc<dyn Clock>) -> Self {
        Self {
            clock: Arc::clone(clock),
            refusals: Mutex::default(),
            notes: Mutex::default(),
            lost: AtomicU64::new(0),
            meters: Mutex::default(),
            wake: Notify::new(),
            writing: tokio::sync::Mutex::new(()),
        }
    }

    /// Counts a refusal. Mistakes in a request are none, and neither is what is not there.
    pub(super) fn refused(
        &self,
        caller: &Caller,
        action: &'static str,
        stream: Option<&StreamName>,
        error: &Error,
    ) {
        let refusal = match error.kind() {
            Kind::Denied => true,
            Kind::NotFound => stream.is_some(),
            Kind::Exhausted => matches!(error.code(), Code::TooManyRequests | Code::OverBudget),
            Kind::Invalid
            | Kind::Conflict
            | Kind::Unavailable
            | Kind::Closed
            | Kind::Corrupt
            | Kind::Internal => false,
        };
        if !refusal {
            return;
        }
        let mut key = Refusal {
            who: caller.name().into(),
            consumer: caller.organization().map(Box::from),
            action,
            stream: stream.cloned(),
            code: error.code(),
        };
        let mut refusals = lock(&self.refusals);
        if refusals.len() >= REFUSALS_MAX && !refusals.contains_key(&key) {
            key = Refusal { who: "others".into(), consumer: None, action, stream: None, code: error.code() };
        }
        let repeats = refusals.entry(key).or_default();
        repeats.since += 1;
        if !repeats.told {
            self.wake.notify_one();
        }
    }

    pub(super) fn note(&self, kind: &'static str, subject: &str, data: Value) {
        let mut notes = lock(&self.notes);
        if notes.len() >= NOTES_MAX {
            self.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        notes.push_back(Note { kind, subject: subject.into(), time: self.clock.now(), data });
        self.wake.notify_one();
    }
}

impl Inner {
    /// Writes what waits: decisions and new refusals to the audit, notes to ops; at the turn of a `minute` also
    /// counted refusals and usage.
    pub(super) async fn derive(&self, minute: bool) -> Result<(), Error> {
        let _writing = self.derived.writing.lock().await;
        let covered = self.audit_decisions().await?;
        self.audit_refusals(covered, minute).await?;
        self.write_notes().await?;
        if minute {
            self.write_usage().await?;
        }
        Ok(())
    }

    /// Brings the audit up to the last decision; answers which one that is.
    async fn audit_decisions(&self) -> Result<Position, Error> {
        let mut covered = covered(self.log.as_ref()).await?.unwrap_or_else(|| self.state().position());
        while covered < self.state().position() {
            let read = self.log.read(own::STATE, covered.next(), 1 << 20).await?;
            if read.runs.is_empty() {
                break;
            }
            let mut events = Vec::new();
            for run in read.runs {
                let mut position = run.first;
                for bytes in proto::batch(&run.body) {
                    let decision = Decision::decode(bytes.map_err(Error::internal)?)?;
                    if position > covered && events.len() < BATCH_MAX {
                        let id = format!("{}-{position}", run.history);
                        told(&self.state(), &id, position, &decision, &mut events)?;
                        covered = position;
                    }
                    position = position.next();
                }
            }
            self.write(own::AUDIT, events).await?;
        }
        Ok(covered)
    }

    async fn audit_refusals(&self, covered: Position, minute: bool) -> Result<(), Error> {
        let counted: Vec<(Refusal, u64)> = {
            let mut refusals = lock(&self.derived.refusals);
            if minute {
                // What was quiet for a minute is new when it comes back.
                refusals.retain(|_, repeats| repeats.since > 0);
            }
            let due =
                refusals.iter_mut().filter(|(_, repeats)| repeats.since > 0 && (minute || !repeats.told));
            due.map(|(refusal, repeats)| {
                repeats.told = true;
                (refusal.clone(), std::mem::take(&mut repeats.since))
            })
            .collect()
        };
        let now = self.now();
        let mut events = Vec::with_capacity(counted.len());
        for (refusal, count) in counted {
            let data = json!({
                "who": refusal.who,
                "action": refusal.action,
                "stream": refusal.stream.as_ref().map(StreamName::as_str),
                "error": refusal.code.name(),
                "count": count,
            });
            let name = refusal.stream.as_ref().map(StreamName::as_str);
            let id = format!("{:016x}{:016x}", self.random()?, self.random()?);
            let mut event = made(&id, "weir.access.refused", now, name.unwrap_or_default(), &data)?;
            concerns(&mut event, name, refusal.consumer.as_deref())?;
            event.set(DECISION, covered.to_string()).map_err(Error::internal)?;
            events.push(event);
        }
        self.write(own::AUDIT, events).await
    }

    async fn write_notes(&self) -> Result<(), Error> {
        let notes: Vec<Note> = lock(&self.derived.notes).drain(..).collect();
        let lost = self.derived.lost.swap(0, Ordering::Relaxed);
        let mut events = Vec::with_capacity(notes.len());
        for note in notes {
            let id = format!("{:016x}{:016x}", self.random()?, self.random()?);
            events.push(made(&id, note.kind, note.time, &note.subject, &note.data)?);
        }
        if lost > 0 {
            let id = format!("{:016x}{:016x}", self.random()?, self.random()?);
            events.push(made(&id, "weir.ops.lost", self.now(), "", &json!({"count": lost}))?);
        }
        self.write(own::OPS, events).await
    }

    async fn write_usage(&self) -> Result<(), Error> {
        let counted: Vec<(Metered, u64, u64)> = {
            let mut meters = lock(&self.derived.meters);
            let take = |meter: &Meter| {
                (meter.events.swap(0, Ordering::Relaxed), meter.bytes.swap(0, Ordering::Relaxed))
            };
            let mut counted = Vec::new();
            meters.retain(|key, meter| {
                // Alone here: whoever counted on it has gone, and nothing can be added any more.
                let gone = Arc::strong_count(meter) == 1;
                let (events, bytes) = take(meter);
                if events > 0 || bytes > 0 {
                    counted.push((key.clone(), events, bytes));
                }
                !gone
            });
            counted
        };
        let now = self.now();
        let mut events = Vec::with_capacity(counted.len());
        for (metered, count, bytes) in counted {
            let subscription = metered.subscription.map(|id| id.to_string());
            let data = json!({
                "stream": metered.name.as_str(),
                "subscription": subscription,
                "consumer": metered.consumer,
                "who": metered.who,
                "events": count,
                "bytes": bytes,
                "until": now,
            });
            let id = format!("{:016x}{:016x}", self.random()?, self.random()?);
            let subject = subscription.unwrap_or_else(|| metered.name.to_string());
            let mut event = made(&id, "weir.usage.counted", now, &subject, &data)?;
            concerns(&mut event, Some(metered.name.as_str()), metered.consumer.as_deref())?;
            events.push(event);
        }
        self.write(own::USAGE, events).await
    }

    async fn write(&self, stream: StreamId, events: Vec<Event<'_>>) -> Result<(), Error> {
        // A batch of the log has a limit of its own; usage of very many readers takes several.
        for events in events.chunks(1000) {
            let (mut body, mut ends) = (Vec::new(), Vec::with_capacity(events.len()));
            for event in events {
                proto::push(event, &mut body);
                ends.push(u32::try_from(body.len()).map_err(Error::internal)?);
            }
            // Conditional on nothing having come between: only the node writes here, one at a time.
            let expect = Some(self.log.status(stream)?.last);
            self.log.append(stream, Batch { body: body.into(), ends, expect, ..Batch::default() }).await?;
        }
        Ok(())
    }
}

/// The last decision that the audit covers; `None` if that can not be told because all of it has been given up to
/// retention.
async fn covered(log: &dyn Log) -> Result<Option<Position>, Error> {
    let status = log.status(own::AUDIT)?;
    if status.last.is_none() {
        return Ok((status.next <= Position::FIRST).then_some(Position::NONE));
    }
    let read = log.read(own::AUDIT, status.last, 1).await?;
    let Some(run) = read.runs.last() else { return Ok(None) };
    let Some(Ok(bytes)) = proto::batch(&run.body).last() else { return Ok(None) };
    let event = proto::decode(bytes).map_err(Error::internal)?;
    Ok(event.get(DECISION).and_then(|value| value.text().parse().ok()))
}

/// The events that a decision becomes.
fn told(
    state: &State,
    id: &str,
    position: Position,
    decision: &Decision,
    events: &mut Vec<Event<'static>>,
) -> Result<(), Error> {
    let mut data = Map::new();
    data.insert("who".into(), decision.who.as_ref().into());
    data.insert("why".into(), decision.why.as_deref().map_or(Value::Null, Value::from));
    let (mut stream, mut consumer, mut closes) = (None, None, &[][..]);
    match &decision.change {
        Change::Stream { stream: changed, closes: ends } => {
            data.insert("stream".into(), changed.name.as_str().into());
            data.insert("descriptor".into(), changed.descriptor.to_json());
            (stream, closes) = (Some(changed.name.as_str()), &ends.subscriptions);
        }
        Change::Retired { stream: name, closes: ends } => {
            data.insert("stream".into(), name.as_str().into());
            (stream, closes) = (Some(name.as_str()), &ends.subscriptions);
        }
        Change::Subscription(subscription) => {
            data.insert("subscription".into(), Value::Object(subscription.to_json()));
            stream = Some(subscription.request.stream.as_str());
            consumer = subscription.consumer.organization.as_deref();
        }
        Change::Token(token) => {
            data.insert("token".into(), token.to_record());
            consumer = token.organization.as_deref();
        }
        Change::TokenEnded(token) => {
            data.insert("token".into(), token.to_string().into());
        }
    }
    let subject = decision.change.subject();
    let mut event = made(id, decision.kind.name(), decision.when, &subject, &Value::Object(data))?;
    concerns(&mut event, stream, consumer)?;
    event.set(DECISION, position.to_string()).map_err(Error::internal)?;
    events.push(event);
    let ty = match decision.change.closes_why() {
        Why::Retired => "weir.subscription.retired",
        _ => decision::Kind::Revoked.name(),
    };
    for closed in closes {
        let data = json!({
            "who": decision.who, "why": decision.why, "stream": stream, "subscription": {"id": closed.to_string()},
        });
        let mut event = made(&format!("{id}-{closed}"), ty, decision.when, &closed.to_string(), &data)?;
        let found = state.subscription(*closed);
        concerns(&mut event, stream, found.and_then(|found| found.consumer.organization.as_deref()))?;
        event.set(DECISION, position.to_string()).map_err(Error::internal)?;
        events.push(event);
    }
    Ok(())
}

fn made(
    id: &str,
    ty: &'static str,
    time: Time,
    subject: &str,
    data: &Value,
) -> Result<Event<'static>, Error> {
    decision::event(id, ty, time, subject, data).map_err(Error::internal)
}

fn concerns(event: &mut Event<'static>, stream: Option<&str>, consumer: Option<&str>) -> Result<(), Error> {
    for (name, value) in [(STREAM, stream), (CONSUMER, consumer)] {
        if let Some(value) = value {
            event.set(name, value.to_owned()).map_err(Error::internal)?;
        }
    }
    Ok(())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
