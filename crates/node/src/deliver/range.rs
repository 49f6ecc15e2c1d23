//! A range: some events as one answer.
//!
//! The same reader, rules and start as every delivery, but pulled: it ends at the durable head of the moment, at
//! what was asked for, or at a bound, and then says where to go on. Bounds: [`EVENTS_MAX`] events,
//! [`ANSWER_BYTES_MAX`] of answer, and so much looked at ([`super::Bounds::scan_bytes`],
//! [`super::Bounds::scan_time`]) that a filter which matches nothing answers soon. The memory of the answer counts
//! among the node's bytes in flight.

use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Instant;
use weir_event::flow::Position;
use weir_event::http::media;
use weir_event::{json, proto};
use weir_log::{Head, Skipped};

use super::Deliveries;
use super::block::{self, Block};
use super::delivery::{Ask, cursor};
use super::rules::Rules;
use super::start::{self, Begin};
use crate::control::{Standing, Target, subscription::Ack};
use crate::error::{Code, Error};
use crate::metrics::{ByWay, Way};

/// The most events in one answer.
pub(crate) const EVENTS_MAX: u64 = 10_000;

/// How many there are if nobody says.
const EVENTS: u64 = 1000;

/// About the most bytes in one answer.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// How many skipped ranges one answer names; more can't lie within its events.
pub(crate) const SKIPPED_MAX: usize = 100;

/// How a range is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// A JSON batch.
    JsonBatch,
    /// Events in JSON, a line each.
    Lines,
    /// A protobuf batch.
    ProtobufBatch,
}

impl Form {
    /// The form of a media type; JSON unless it is another.
    pub(crate) fn of(media_type: &str) -> Self {
        match media_type {
            media::NDJSON => Form::Lines,
            media::PROTO_BATCH => Form::ProtobufBatch,
            _ => Form::JsonBatch,
        }
    }
}

/// A range.
#[derive(Debug)]
pub(crate) struct Range {
    /// The events.
    pub(crate) body: Bytes,
    /// The durable head when it was read.
    pub(crate) head: Head,
    /// What was passed over, and why.
    pub(crate) skipped: Vec<Skipped>,
    /// Where to go on, if what was asked for is not exhausted.
    pub(crate) next: Option<Position>,
}

impl Deliveries {
    /// Reads a range.
    ///
    /// Errors: those of opening a delivery; `not-decided` and `suspended`, since a range can't wait;
    /// `history-changed`.
    pub(crate) async fn range(&self, ask: Ask, form: Form) -> Result<Range, Error> {
        let preview = matches!(ask.target, Target::Preview(_));
        let reader = Arc::new(self.control.reader(&ask.caller, ask.target.clone())?);
        may_read(&self.control.standing(&reader))?;
        let (log, stream) = (&self.shared.log, reader.stream.id);
        let cursor = cursor(&self.control, &reader);
        let (from, history) = match start::begin(log, &reader, ask.resume, ask.history, cursor).await? {
            Begin::At(position, history) => (position, history),
            Begin::OtherHistory { was, head } => {
                let mut error = Error::new(Code::HistoryChanged, "the stream has another history by now")
                    .with("history", head.history.to_string())
                    .with("head", head.last.0);
                if let Some(was) = was {
                    error = error.with("was", was.to_string());
                }
                return Err(error);
            }
        };
        let status = log.status(stream)?;
        let head = Head { last: status.last, history: status.history };
        let until = match ask.to {
            Some(to) => start::until(log, stream, to, head).await?.min(head.last),
            None => head.last,
        };
        let rules = Rules::of(&reader, ask.filter.as_ref());
        let mut pages =
            Pages { form, rules, out: Vec::new(), left: ask.limit.unwrap_or(EVENTS), skipped: Vec::new() };
        pages.begin();
        let began = Instant::now();
        let mut next = from;
        let mut scanned = 0;
        while next <= until && pages.has_room() {
            if scanned >= self.bounds.scan_bytes || (scanned > 0 && began.elapsed() >= self.bounds.scan_time)
            {
                break;
            }
            let blocks = {
                let _turn = self.shared.turns.acquire().await;
                let read = log.read(stream, next, block::BYTES_MAX).await?;
                Block::cut(read, history, next, until)
            };
            if log.status(stream)?.history != history {
                return Err(Error::new(Code::HistoryChanged, "the stream got another history meanwhile"));
            }
            may_read(&self.control.standing(&reader))?;
            if blocks.is_empty() {
                // Nothing durable between here and the head: it was trimmed meanwhile.
                next = until.next();
            }
            for block in &blocks {
                scanned += block.bytes() as u64;
                next = pages.add(block, next);
                if !pages.has_room() {
                    break;
                }
            }
        }
        let by_way = ByWay { way: Way::range };
        let events = ask.limit.unwrap_or(EVENTS) - pages.left;
        self.shared.metrics.deliver_events.get_or_create(&by_way).inc_by(events);
        self.shared.metrics.deliver_bytes.get_or_create(&by_way).inc_by(pages.out.len() as u64);
        // Whoever decides looks; the consumer has neither got nor seen anything by it.
        if !preview {
            let meter = self.control.meter(&reader);
            meter.events.fetch_add(events, std::sync::atomic::Ordering::Relaxed);
            meter.bytes.fetch_add(pages.out.len() as u64, std::sync::atomic::Ordering::Relaxed);
            if let (Some(id), Ack::Sent) = (reader.subscription, reader.ack)
                && next > from
            {
                let upto = crate::control::Origin { history, after: next.previous() };
                self.control.ack(id, upto)?;
            }
        }
        let skipped = std::mem::take(&mut pages.skipped);
        Ok(Range { body: pages.end(), head, skipped, next: (next <= until).then_some(next) })
    }
}

/// A range is read at once or not at all.
fn may_read(standing: &Standing) -> Result<(), Error> {
    match standing {
        Standing::Active | Standing::Changed => Ok(()),
        Standing::Requested => {
            Err(Error::new(Code::NotDecided, "the request is not decided yet").with("state", "requested"))
        }
        Standing::Suspended { by, reason } => {
            let what = format!("the subscription was suspended by its {}", by.name());
            let error = Error::new(Code::Suspended, what).with("by", by.name());
            Err(match reason {
                Some(reason) => error.with("reason", reason.as_ref()),
                None => error,
            })
        }
        Standing::Closed { why, .. } => {
            Err(Error::new(Code::SubscriptionClosed, "the subscription is closed").with("reason", why.name()))
        }
    }
}

/// The answer under way.
struct Pages {
    form: Form,
    rules: Rules,
    out: Vec<u8>,
    left: u64,
    skipped: Vec<Skipped>,
}

impl Pages {
    fn begin(&mut self) {
        if self.form == Form::JsonBatch {
            json::batch_start(&mut self.out);
        }
    }

    fn has_room(&self) -> bool {
        self.left > 0 && self.out.len() < ANSWER_BYTES_MAX
    }

    /// Adds the events of a block from `from` on, as many as fit; says where to go on.
    fn add(&mut self, block: &Block, from: Position) -> Position {
        let skipped = block.skipped().iter().filter(|skipped| skipped.to >= from);
        self.skipped.extend(skipped.map(|skipped| Skipped { from: skipped.from.max(from), ..*skipped }));
        for index in block.index(from)..block.count() {
            if !self.has_room() {
                return block.position(index);
            }
            let Some(event) = block.event(index).filter(|event| self.rules.take(event)) else { continue };
            let stamp = block.stamp(index);
            match self.form {
                Form::JsonBatch => json::batch_push(&self.rules.shape(event), Some(stamp), &mut self.out),
                Form::Lines => {
                    json::encode(&self.rules.shape(event), Some(stamp), &mut self.out);
                    self.out.push(b'\n');
                }
                Form::ProtobufBatch if self.rules.reshape() => {
                    let mut shaped = Vec::new();
                    proto::encode(&self.rules.shape(event), &mut shaped);
                    proto::push_stamped(&shaped, stamp, &mut self.out);
                }
                Form::ProtobufBatch => {
                    if let Some((stored, _)) = block.stored(index) {
                        proto::push_stamped(stored, stamp, &mut self.out);
                    }
                }
            }
            self.left -= 1;
        }
        block.next()
    }

    fn end(mut self) -> Bytes {
        if self.form == Form::JsonBatch {
            json::batch_end(&mut self.out);
        }
        self.out.into()
    }
}
