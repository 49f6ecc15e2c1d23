//! What every log engine promises: the [`Log`] trait and the plain data that crosses it.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use weir_event::flow::{History, Position, Time};

/// A stream as the log knows it: a number, never reused, given by whoever owns the catalog.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u64);

/// A boxed future, so that the trait can be used as `dyn Log`.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send + 'a>>;

/// A log engine. All methods may be called from any thread; none but [`Log::read`] waits for a disk before its
/// future is polled, and none blocks the caller's thread.
pub trait Log: Send + Sync + 'static {
    /// Makes a stream known, or changes its settings. `history` is what the stream starts with if the log
    /// holds nothing newer for it. Writes nothing. Streams found on disk but not declared are kept and can
    /// not be read.
    fn declare(&self, stream: StreamId, settings: Settings, history: History) -> Result<(), Error>;

    /// Retires a stream: its readers end with [`Kind::NotFound`], its space is given back by cleaning.
    fn remove(&self, stream: StreamId) -> Result<(), Error>;

    /// Appends a batch: whole or not at all, in order, at positions given here. Ready once the batch, and
    /// every stored event that it repeats, is as durable as the stream promises.
    ///
    /// Errors: `NotFound`; `Conflict` (expectation, producer sequence or epoch); `Exhausted` (disk full, above the
    /// watermark, queue full; carries a retry hint); `Unavailable` (a sync failed: the outcome is unknown,
    /// send the same ids again).
    fn append(&self, stream: StreamId, batch: Batch) -> Answer<'static, Appended>;

    /// Appends a run that already has its positions and time (a mirror): `at.first` must not be below the
    /// next position. No duplicate detection; a gap is remembered as skipped.
    fn append_at(&self, stream: StreamId, at: At, batch: Batch) -> Answer<'static, Appended>;

    /// Declares that positions up to `to`, inclusive, will never be filled.
    fn skip(&self, stream: StreamId, to: Position) -> Answer<'static, ()>;

    /// Reads durable runs from `from` on, at most about `bytes_max` of bodies and at least one run if there is
    /// one. The first run may begin before `from`: runs are returned whole.
    fn read(&self, stream: StreamId, from: Position, bytes_max: usize) -> Answer<'_, Read>;

    /// The durable head, watched: changes whenever events became readable, and when the history changed.
    /// The sender is dropped when the stream is removed or the log closed.
    fn tail(&self, stream: StreamId) -> Result<watch::Receiver<Head>, Error>;

    /// The first position whose event was appended at or after `time`; the next position if none was.
    fn find(&self, stream: StreamId, time: Time) -> Answer<'_, Position>;

    /// Gives up everything below `first` (retention by command).
    fn trim(&self, stream: StreamId, first: Position) -> Answer<'static, ()>;

    /// Removes data of single events; place and count stay. Physically gone once the answer is ready.
    fn erase(&self, stream: StreamId, positions: Vec<Position>) -> Answer<'static, ()>;

    /// What the log holds of a stream now.
    fn status(&self, stream: StreamId) -> Result<Status, Error>;
}

/// How a stream is kept.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Whether acknowledged means synced.
    pub durability: Durability,
    /// How long and how many ids are remembered; `None` turns duplicate detection off.
    pub dedupe: Option<Dedupe>,
    /// When events go.
    pub retention: Retention,
    /// Node's own control streams live in a shard of their own and may use the space kept in reserve.
    pub control: bool,
}

/// When an append is acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// Once it is synced: survives a power cut.
    #[default]
    Fsync,
    /// Once the operating system has it: survives a killed process, not a power cut. Only the first batch after
    /// each opening of the log waits for a sync: it is what tells, after a power cut, that more may have been shown.
    Written,
}

/// The window of duplicate detection. Age counts only time in which the node took publishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dedupe {
    /// Ids older than this are forgotten.
    pub age: Duration,
    /// At most so many of the newest ids are remembered.
    pub count: u64,
}

/// When events go; the strictest member decides. `None` means never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// Keep an event at least so long.
    pub age: Option<Duration>,
    /// Keep at most about so many stored bytes.
    pub bytes: Option<u64>,
    /// Keep at most so many events.
    pub count: Option<u64>,
}

/// A batch of events on its way into one stream.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// The events as one CloudEvents protobuf batch: for each, tag 0x0A, length, event.
    pub body: Bytes,
    /// Where each event ends in `body` (exclusive); as many as there are events.
    pub ends: Vec<u32>,
    /// Who publishes, as a number stable over restarts: part of what makes an event a duplicate.
    pub publisher: u64,
    /// An idempotent producer's place in its own sequence.
    pub producer: Option<Producer>,
    /// Append only if this is the last position.
    pub expect: Option<Position>,
    /// Whether the answer shall hold every event's position.
    pub want_positions: bool,
}

/// An idempotent producer: a retry with the same id, epoch and first sequence is stored once, however late.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Producer {
    /// Random, chosen by the producer.
    pub id: u64,
    /// A higher epoch fences lower ones.
    pub epoch: u32,
    /// The sequence number of the batch's first event; the next batch begins where this ends.
    pub sequence: u64,
}

/// Where a mirrored run stands in its origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At {
    /// Position of the run's first event.
    pub first: Position,
    /// When the origin appended it.
    pub time: Time,
    /// The origin's history.
    pub history: History,
}

/// What an append did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Appended {
    /// First newly stored position; [`Position::NONE`] if all were duplicates.
    pub first: Position,
    /// Last newly stored position.
    pub last: Position,
    /// How many were newly stored.
    pub count: u64,
    /// How many were stored before.
    pub duplicates: u64,
    /// How many of those had the same id but other content.
    pub conflicts: u64,
    /// The stream's history.
    pub history: History,
    /// What the acknowledgement promises.
    pub durability: Durability,
    /// Every event's position in the order given, if asked for.
    pub positions: Vec<Position>,
}

/// Stored events with consecutive positions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Position of the first event.
    pub first: Position,
    /// How many events.
    pub count: u32,
    /// When they were appended.
    pub time: Time,
    /// The history they belong to.
    pub history: History,
    /// How `body` is encoded.
    pub encoding: Encoding,
    /// The events, as stored.
    pub body: Bytes,
}

impl Run {
    /// Position of the last event.
    #[must_use]
    pub fn last(&self) -> Position {
        Position(self.first.0 + u64::from(self.count).saturating_sub(1))
    }
}

/// How a run's bytes are encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Encoding {
    /// One CloudEvents protobuf batch.
    Events = 1,
    /// A Kafka record batch v2.
    Kafka = 2,
}

/// The answer of a read.
#[derive(Clone, Debug, Default)]
pub struct Read {
    /// Runs in order; empty if there is nothing durable at or after the asked position.
    pub runs: Vec<Run>,
    /// Ranges passed over on the way and why, in order.
    pub skipped: Vec<Skipped>,
    /// Where to read on.
    pub next: Position,
}

/// Positions that a reader will never get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// First position passed over.
    pub from: Position,
    /// Last position passed over.
    pub to: Position,
    /// Why.
    pub reason: SkipReason,
}

/// Why positions are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SkipReason {
    /// They were kept as long as promised.
    Retention,
    /// The origin never had them, or a mirror could not get them.
    Gap,
    /// They were repaired away.
    Repair,
}

/// The durable end of a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// Last durable position.
    pub last: Position,
    /// The history it belongs to.
    pub history: History,
}

/// What the log holds of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// The current history.
    pub history: History,
    /// First position kept; [`Position::NONE`] when empty.
    pub first: Position,
    /// Last durable position; [`Position::NONE`] when empty.
    pub last: Position,
    /// The position the next event gets.
    pub next: Position,
    /// Stored bytes of the events kept.
    pub bytes: u64,
    /// Append time of the last event.
    pub time: Time,
}

/// What went wrong, by what the caller can do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The call itself makes no sense; repeating it changes nothing.
    Invalid,
    /// No such stream.
    NotFound,
    /// An expectation or a producer sequence does not hold.
    Conflict,
    /// A limit was reached: disk, watermark, queue. Passes by itself or by an operator's hand.
    Exhausted,
    /// The outcome is not known; send the same ids again.
    Unavailable,
    /// The log is closing.
    Closed,
    /// Stored data is damaged at this place.
    Corrupt,
    /// A defect of ours.
    Internal,
}

/// An error of the log: names the operation and its object; lower case, no full stop.
#[derive(Clone, Debug)]
pub struct Error {
    kind: Kind,
    message: String,
    retry_after: Option<Duration>,
    head: Option<Position>,
    positions: Option<(Position, Position)>,
    busy: bool,
}

impl Error {
    /// An error of a kind.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), retry_after: None, head: None, positions: None, busy: false }
    }

    /// Adds when to try again.
    #[must_use]
    pub fn retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }

    /// Adds the head that an expectation did not meet.
    #[must_use]
    pub fn head(mut self, head: Position) -> Self {
        self.head = Some(head);
        self
    }

    /// Adds the first and last position that are damaged.
    #[must_use]
    pub fn positions(mut self, first: Position, last: Position) -> Self {
        self.positions = Some((first, last));
        self
    }

    /// Says that the limit reached is how much may wait for the disk, not the disk's room.
    #[must_use]
    pub fn busy(mut self) -> Self {
        self.busy = true;
        self
    }

    /// Whether the limit reached is how much may wait for the disk: passes within moments, by itself.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.busy
    }

    /// Which positions are damaged, first and last: a reader may go on after them.
    #[must_use]
    pub fn damaged(&self) -> Option<(Position, Position)> {
        self.positions
    }

    /// What the caller can do about it.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// When to try again, if that helps.
    #[must_use]
    pub fn retry_hint(&self) -> Option<Duration> {
        self.retry_after
    }

    /// The last position, where an expected one was not met.
    #[must_use]
    pub fn actual_head(&self) -> Option<Position> {
        self.head
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}
