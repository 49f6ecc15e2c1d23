//! Admission: the one door in.
//!
//! Every way in, HTTP today and other protocols later, brings events here as [`Incoming`] and gets an
//! acknowledgement, or an error and then nothing was stored. Who may publish was asked of control before; here an
//! event is measured, checked, completed and appended:
//!
//! 1. **Memory**: [`Admit::hold`] reserves the bytes of a body before it is read. The sum over all publishes is
//!    bounded for the node; beyond it publishers are asked to come again (invariant 4).
//! 2. **Limits**: one event, its attributes, the batch's bytes and its number of events, each with its own error.
//! 3. **Events**: checked strictly by `weir-event` and brought into the stored form, a CloudEvents protobuf batch.
//!    A protobuf batch that needs no change is stored as the bytes that came.
//! 4. **Lift**: attributes that the stream's descriptor copies from JSON data, never over the creator's.
//! 5. **Budget**: events per second and publisher.
//! 6. **Append**: whole or not at all; ready when as durable as the stream promises.
//!
//! A position or time that an event brings (`flowposition`, `flowtime`: it was read from a node) is not its place
//! here and is left out.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::Value as Json;
use tokio::sync::{Semaphore, SemaphorePermit};
use weir_event::flow::Position;
use weir_event::{Event, Value, json, proto};
use weir_log::{Appended, Batch, Log, Producer};

use crate::control::Stream;
use crate::control::descriptor::Lift;
use crate::error::{Code, Error};
use crate::metrics::{ByOutcome, Metrics, Outcome};
use crate::settings::Settings;

/// How long a publish waits for memory before it is refused.
const HOLD_WAIT: Duration = Duration::from_secs(2);

/// For how many publishers rates are kept; the map is cleared of idle ones when it is full.
const PACES_MAX: usize = 10_000;

/// The door.
pub(crate) struct Admit {
    limits: Limits,
    memory: Semaphore,
    memory_max: usize,
    rate: u64,
    paces: Mutex<HashMap<u64, Pace>>,
    metrics: Arc<Metrics>,
    outcomes: Outcomes,
}

/// What one publish may hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// One event as stored.
    pub(crate) event_bytes: usize,
    /// The attributes of one event.
    pub(crate) attributes_bytes: usize,
    /// The body.
    pub(crate) batch_bytes: usize,
    /// Events.
    pub(crate) batch_events: usize,
}

/// Counters that every publish bumps, found once.
struct Outcomes {
    stored: prometheus_client::metrics::counter::Counter,
    refused: prometheus_client::metrics::counter::Counter,
    failed: prometheus_client::metrics::counter::Counter,
}

/// Memory held for one publish, given back when dropped.
pub(crate) struct Held<'a> {
    permit: SemaphorePermit<'a>,
    metrics: &'a Metrics,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.metrics.publish_in_flight.dec_by(i64::try_from(self.permit.num_permits()).unwrap_or(i64::MAX));
    }
}

/// Events as an adapter brings them.
pub(crate) enum Incoming<'a> {
    /// One event.
    One(Event<'a>),
    /// One event in protobuf.
    Protobuf(&'a [u8]),
    /// A JSON batch.
    JsonBatch(&'a [u8]),
    /// A protobuf batch.
    ProtobufBatch(&'a Bytes),
}

/// What goes with the events of one publish.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Terms {
    /// Who publishes, for duplicates and budgets.
    pub(crate) publisher: u64,
    /// The idempotent producer's place in its sequence.
    pub(crate) producer: Option<Producer>,
    /// Append only if this is the last position.
    pub(crate) expect: Option<Position>,
    /// Whether the answer holds each event's position.
    pub(crate) positions: bool,
}

impl Admit {
    /// A door with the limits of these settings.
    pub(crate) fn new(settings: &Settings, metrics: Arc<Metrics>) -> Self {
        let outcome = |outcome| metrics.publish_requests.get_or_create(&ByOutcome { outcome }).clone();
        let memory_max = settings.in_flight_bytes_max.get().clamp(1 << 20, Semaphore::MAX_PERMITS);
        Self {
            limits: Limits {
                event_bytes: settings.event_bytes_max.get(),
                attributes_bytes: settings.attributes_bytes_max.get(),
                batch_bytes: settings.batch_bytes_max.get(),
                batch_events: usize::try_from(settings.batch_events_max).unwrap_or(usize::MAX),
            },
            memory: Semaphore::new(memory_max),
            memory_max,
            rate: settings.publish_rate_max,
            paces: Mutex::default(),
            outcomes: Outcomes {
                stored: outcome(Outcome::stored),
                refused: outcome(Outcome::refused),
                failed: outcome(Outcome::failed),
            },
            metrics,
        }
    }

    /// What one publish may hold.
    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Reserves memory; waits a moment for it.
    ///
    /// Errors: `queue-full`.
    pub(crate) async fn hold(&self, bytes: usize) -> Result<Held<'_>, Error> {
        let count = u32::try_from(bytes.min(self.memory_max)).unwrap_or(u32::MAX);
        let permit = match self.memory.try_acquire_many(count) {
            Ok(permit) => permit,
            Err(_) => match tokio::time::timeout(HOLD_WAIT, self.memory.acquire_many(count)).await {
                Ok(Ok(permit)) => permit,
                Ok(Err(_)) | Err(_) => {
                    return Err(Error::new(
                        Code::QueueFull,
                        "more is being published than the node holds in memory",
                    )
                    .retry_after(Duration::from_secs(1)));
                }
            },
        };
        self.metrics.publish_in_flight.inc_by(i64::from(count));
        Ok(Held { permit, metrics: &self.metrics })
    }

    /// Checks the events, completes them and appends them to `stream`: all of them, or none and an error.
    ///
    /// Errors: `malformed-event`, `event-too-large`, `attributes-too-large`, `batch-too-large`, `too-many-events`,
    /// `over-budget`, and those of [`Log::append`].
    pub(crate) async fn publish(
        &self,
        log: &Arc<dyn Log>,
        stream: &Stream,
        incoming: Incoming<'_>,
        terms: Terms,
    ) -> Result<Appended, Error> {
        let began = Instant::now();
        let appended = match self.batch(stream, incoming, terms) {
            Ok(batch) if batch.ends.is_empty() => nothing(log, stream, terms),
            Ok(batch) => match self.spend(terms.publisher, batch.ends.len()) {
                Ok(()) => {
                    self.metrics.publish_bytes.inc_by(batch.body.len() as u64);
                    log.append(stream.id, batch).await.map_err(Error::from)
                }
                Err(error) => Err(error),
            },
            Err(error) => Err(error),
        };
        match &appended {
            Ok(appended) => {
                self.outcomes.stored.inc();
                self.metrics.publish_events.inc_by(appended.count);
                if appended.duplicates > 0 {
                    self.metrics.publish_duplicates.inc_by(appended.duplicates);
                    self.metrics.publish_conflicts.inc_by(appended.conflicts);
                }
                self.metrics.publish_duration.observe(began.elapsed().as_secs_f64());
            }
            Err(error) => self.count_refused(error),
        }
        appended
    }

    /// Counts a publish that did not come so far.
    pub(crate) fn count_refused(&self, error: &Error) {
        use crate::error::Kind;
        let outcome = match error.kind() {
            Kind::Invalid | Kind::NotFound | Kind::Denied | Kind::Conflict | Kind::Closed => {
                &self.outcomes.refused
            }
            Kind::Exhausted | Kind::Unavailable | Kind::Corrupt | Kind::Internal => &self.outcomes.failed,
        };
        outcome.inc();
    }

    fn batch(&self, stream: &Stream, incoming: Incoming<'_>, terms: Terms) -> Result<Batch, Error> {
        let mut writer = Writer::new(&self.limits, &stream.descriptor.lift);
        match incoming {
            Incoming::One(event) => writer.push(event)?,
            Incoming::Protobuf(bytes) => writer.push_stored(bytes)?,
            Incoming::JsonBatch(bytes) => {
                writer.body.reserve(bytes.len());
                for event in json::batch(bytes) {
                    writer.push(event.map_err(|error| malformed(&error))?)?;
                }
            }
            Incoming::ProtobufBatch(bytes) => {
                if let Some(ends) = writer.as_it_came(bytes)? {
                    return Ok(batch(bytes.clone(), ends, terms));
                }
                for event in proto::batch(bytes) {
                    writer.push_stored(event.map_err(|error| malformed(&error))?)?;
                }
            }
        }
        Ok(batch(writer.body.into(), writer.ends, terms))
    }

    /// Takes `count` events from a publisher's budget.
    fn spend(&self, publisher: u64, count: usize) -> Result<(), Error> {
        if self.rate == 0 {
            return Ok(());
        }
        let mut paces = self.paces.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if paces.len() >= PACES_MAX {
            paces.retain(|_, pace| now.duration_since(pace.at) < Duration::from_secs(1));
        }
        let pace = paces.entry(publisher).or_insert(Pace { debt: 0.0, at: now });
        pace.spend(self.rate, count, now).map_err(|after| {
            Error::new(Code::OverBudget, format!("you may publish {} events per second", self.rate))
                .with("limit", self.rate)
                .retry_after(after)
        })
    }
}

/// What an empty batch comes to: valid (CloudEvents JSON format, section 4.1), and nothing to store.
fn nothing(log: &Arc<dyn Log>, stream: &Stream, terms: Terms) -> Result<Appended, Error> {
    let status = log.status(stream.id)?;
    if terms.expect.is_some_and(|expected| expected != status.last) {
        let error = Error::new(Code::HeadMoved, "the last position is not the expected one");
        return Err(error.with("head", status.last.0));
    }
    Ok(Appended {
        first: Position::NONE,
        last: Position::NONE,
        count: 0,
        duplicates: 0,
        conflicts: 0,
        history: status.history,
        durability: stream.descriptor.durability,
        positions: Vec::new(),
    })
}

fn batch(body: Bytes, ends: Vec<u32>, terms: Terms) -> Batch {
    Batch {
        body,
        ends,
        publisher: terms.publisher,
        producer: terms.producer,
        expect: terms.expect,
        want_positions: terms.positions,
    }
}

/// What a publisher has used of its budget: a batch is let through while less than a second's worth is owed.
struct Pace {
    debt: f64,
    at: Instant,
}

impl Pace {
    #[allow(clippy::cast_precision_loss, reason = "rates and counts are far below 2^52")]
    fn spend(&mut self, rate: u64, count: usize, now: Instant) -> Result<(), Duration> {
        let rate = rate as f64;
        self.debt = (self.debt - now.duration_since(self.at).as_secs_f64() * rate).max(0.0);
        self.at = now;
        if self.debt >= rate {
            let wait = (self.debt - rate) / rate;
            return Err(Duration::try_from_secs_f64(wait).unwrap_or_default() + Duration::from_millis(1));
        }
        self.debt += count as f64;
        Ok(())
    }
}

/// Brings events into the stored form.
struct Writer<'a> {
    limits: &'a Limits,
    lift: &'a [Lift],
    body: Vec<u8>,
    ends: Vec<u32>,
}

impl<'a> Writer<'a> {
    fn new(limits: &'a Limits, lift: &'a [Lift]) -> Self {
        Self { limits, lift, body: Vec::new(), ends: Vec::new() }
    }

    /// Where the events of a protobuf batch end, if it can be stored as it came. `None` if an event must be changed.
    fn as_it_came(&self, bytes: &Bytes) -> Result<Option<Vec<u32>>, Error> {
        if !self.lift.is_empty() {
            return Ok(None);
        }
        let mut ends = Vec::with_capacity(bytes.len() / 128);
        let mut events = proto::batch(bytes);
        while let Some(event) = events.next() {
            let event = event.map_err(|error| malformed(&error))?;
            let index = ends.len();
            self.check_count(index + 1)?;
            let summary = proto::validate(event).map_err(|error| malformed(&error.at_index(index)))?;
            self.check(event.len(), summary.attributes_bytes, index)?;
            if summary.stamped {
                return Ok(None);
            }
            ends.push(u32::try_from(events.end()).map_err(|_| self.batch_too_large())?);
        }
        Ok(Some(ends))
    }

    /// Adds an event that is in the stored form but for what may have to be changed.
    fn push_stored(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let index = self.ends.len();
        if self.lift.is_empty() {
            let summary = proto::validate(bytes).map_err(|error| malformed(&error.at_index(index)))?;
            if !summary.stamped {
                self.check(bytes.len(), summary.attributes_bytes, index)?;
                proto::push_encoded(bytes, &mut self.body);
                return self.end();
            }
        }
        self.push(proto::decode(bytes).map_err(|error| malformed(&error.at_index(index)))?)
    }

    /// Adds an event.
    fn push(&mut self, mut event: Event<'_>) -> Result<(), Error> {
        self.check_count(self.ends.len() + 1)?;
        if !self.lift.is_empty() {
            lift(self.lift, &mut event);
        }
        let start = self.body.len();
        proto::push(&event, &mut self.body);
        self.check(self.body.len() - start, event.attributes_bytes(), self.ends.len())?;
        self.end()
    }

    fn end(&mut self) -> Result<(), Error> {
        self.check_count(self.ends.len() + 1)?;
        // JSON escapes and base64 shrink on the way in; what grows, a little, are short events in JSON.
        if self.body.len() > self.limits.batch_bytes.saturating_mul(2) {
            return Err(self.batch_too_large());
        }
        let end = u32::try_from(self.body.len()).map_err(|_| self.batch_too_large())?;
        self.ends.push(end);
        Ok(())
    }

    fn check_count(&self, count: usize) -> Result<(), Error> {
        let limit = self.limits.batch_events;
        if count > limit {
            return Err(Error::new(Code::TooManyEvents, format!("a batch holds at most {limit} events"))
                .with("limit", limit));
        }
        Ok(())
    }

    fn check(&self, event_bytes: usize, attributes_bytes: usize, index: usize) -> Result<(), Error> {
        let limit = self.limits.attributes_bytes;
        if attributes_bytes > limit {
            return Err(Error::new(
                Code::AttributesTooLarge,
                format!("the attributes of event {index} have {attributes_bytes} bytes, {limit} are allowed"),
            )
            .with("limit", limit)
            .with("index", index));
        }
        let limit = self.limits.event_bytes;
        if event_bytes > limit {
            return Err(Error::new(
                Code::EventTooLarge,
                format!("event {index} has {event_bytes} bytes, {limit} are allowed"),
            )
            .with("limit", limit)
            .with("index", index));
        }
        Ok(())
    }

    fn batch_too_large(&self) -> Error {
        batch_too_large(self.limits.batch_bytes)
    }
}

/// The error of a body with more than `limit` bytes.
pub(crate) fn batch_too_large(limit: usize) -> Error {
    Error::new(Code::BatchTooLarge, format!("one publish holds at most {limit} bytes")).with("limit", limit)
}

/// Copies what the descriptor names from JSON data to attributes that the event does not have. Data that is not
/// JSON, or a value that fits no attribute, lifts nothing: the event is the creator's, not the descriptor's.
fn lift(lifts: &[Lift], event: &mut Event<'_>) {
    if lifts.iter().all(|lift| event.get(&lift.attribute).is_some()) || !event.is_json() {
        return;
    }
    let Some(data) = event.data().and_then(|data| serde_json::from_slice::<Json>(&data.bytes).ok()) else {
        return;
    };
    for Lift { attribute, pointer } in lifts {
        if event.get(attribute).is_some() {
            continue;
        }
        let value = match pointer.find(&data) {
            Some(Json::String(text)) if !text.is_empty() => Value::String(Cow::Owned(text.clone())),
            Some(Json::Bool(value)) => Value::Boolean(*value),
            Some(Json::Number(number)) => {
                match number.as_i64().and_then(|number| i32::try_from(number).ok()) {
                    Some(integer) => Value::Integer(integer),
                    None => Value::String(Cow::Owned(number.to_string())),
                }
            }
            Some(Json::String(_) | Json::Null | Json::Array(_) | Json::Object(_)) | None => continue,
        };
        if event.set(attribute.to_string(), value).is_err() {
            tracing::debug!(%attribute, "a lifted value fits no attribute");
        }
    }
}

/// An error of `weir-event` as the publisher sees it.
pub(crate) fn malformed(error: &weir_event::Error) -> Error {
    let code = match error.kind() {
        weir_event::Kind::TooLarge => Code::EventTooLarge,
        weir_event::Kind::TooMany => Code::TooManyEvents,
        weir_event::Kind::Malformed | weir_event::Kind::Attribute | weir_event::Kind::Unsupported => {
            Code::MalformedEvent
        }
    };
    let mut mapped = Error::new(code, error.to_string());
    if let Some(index) = error.index() {
        mapped = mapped.with("index", index);
    }
    if let Some(attribute) = error.attribute() {
        mapped = mapped.with("attribute", attribute);
    }
    if let Some(offset) = error.offset() {
        mapped = mapped.with("offset", offset);
    }
    mapped
}
