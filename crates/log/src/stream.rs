//! What the engine knows of one stream, in two halves with a lock each.
//!
//! [`Intake`] belongs to the shard's writer: the next position, the ids and producers remembered. [`Shared`] is
//! what readers see. Three positions tell how far an event has come: it is *written* (its group is in the file),
//! *synced*, and *visible*, which follows one of the other two by the stream's durability. Readers never get
//! anything at or above `visible`.
//!
//! Locks are held for moments and never across I/O, except that the writer may read an event to confirm a
//! duplicate while it holds the intake. Order: intake before shared.

use std::sync::Mutex;

use tokio::sync::watch;
use weir_event::flow::{History, Position, Time};

use crate::api::{Durability, Head, Retention, Settings, Status, StreamId};
use crate::dedupe::{Producers, Window};
use crate::format::Mark;
use crate::segment::{Entry, Range, Segment};
use crate::shard::lock;

/// A stream.
pub(crate) struct Stream {
    pub(crate) id: StreamId,
    pub(crate) shard: u32,
    pub(crate) intake: Mutex<Intake>,
    pub(crate) shared: Mutex<Shared>,
}

/// The writer's half.
pub(crate) struct Intake {
    pub(crate) settings: Settings,
    /// The position that the next event gets.
    pub(crate) next: Position,
    /// First position kept, as the last trim says.
    pub(crate) first: Position,
    pub(crate) history: History,
    /// Time of the last chunk: flow time never goes back.
    pub(crate) time: Time,
    /// Ids seen lately; `None` until they are read from the log.
    pub(crate) window: Option<Box<Window>>,
    /// Idempotent producers; `None` until they are read from the log.
    pub(crate) producers: Option<Box<Producers>>,
    /// The history above is not in the log yet.
    pub(crate) new_history: bool,
    /// A chunk of this run of the program is synced: under `written`, nothing is shown before that.
    pub(crate) anchored: bool,
    pub(crate) removed: bool,
}

/// The readers' half.
pub(crate) struct Shared {
    pub(crate) declared: bool,
    /// Readers and publishers are told that it is gone.
    pub(crate) removed: bool,
    /// The log says so, too: its chunks may go.
    pub(crate) gone: bool,
    pub(crate) durability: Durability,
    /// Whether duplicates are detected.
    pub(crate) dedupe: bool,
    pub(crate) retention: Retention,
    pub(crate) history: History,
    /// First position kept.
    pub(crate) first: Position,
    /// Next position to be written, synced, shown.
    pub(crate) written: Position,
    pub(crate) synced: Position,
    pub(crate) visible: Position,
    /// Time of the last visible event.
    pub(crate) time: Time,
    /// Chunks in the order of the log.
    pub(crate) ranges: Vec<Range>,
    /// Number of the segment with the last trim.
    pub(crate) trim_at: u64,
    /// Made when somebody first watches.
    pub(crate) tail: Option<watch::Sender<Head>>,
}

/// What a group does to a stream.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Update {
    pub(crate) next: Position,
    pub(crate) time: Time,
    pub(crate) history: History,
    /// Everything below was given up.
    pub(crate) first: Option<Position>,
    pub(crate) removed: bool,
    /// The chunks say that more may have been shown before it was synced.
    pub(crate) flagged: bool,
}

impl Stream {
    pub(crate) fn new(id: StreamId, shard: u32, settings: Settings, history: History) -> Self {
        Self {
            id,
            shard,
            shared: Mutex::new(Shared {
                declared: false,
                removed: false,
                gone: false,
                durability: settings.durability,
                dedupe: settings.dedupe.is_some(),
                retention: settings.retention,
                history,
                first: Position::FIRST,
                written: Position::FIRST,
                synced: Position::FIRST,
                visible: Position::FIRST,
                time: Time(0),
                ranges: Vec::new(),
                trim_at: 0,
                tail: None,
            }),
            intake: Mutex::new(Intake {
                settings,
                next: Position::FIRST,
                first: Position::FIRST,
                history,
                time: Time(0),
                window: None,
                producers: None,
                new_history: false,
                anchored: false,
                removed: false,
            }),
        }
    }

    pub(crate) fn status(&self) -> Status {
        let shared = lock(&self.shared);
        let empty = shared.visible <= shared.first;
        let none = |position| if empty { Position::NONE } else { position };
        Status {
            history: shared.history,
            first: none(shared.first),
            last: none(shared.visible.previous()),
            next: shared.visible,
            bytes: shared.ranges.iter().filter(|r| !empty && r.last >= shared.first).map(|r| r.bytes).sum(),
            time: shared.time,
        }
    }
}

impl Shared {
    pub(crate) fn head(&self) -> Head {
        Head { last: self.visible.previous(), history: self.history }
    }

    /// Takes note of a chunk that was written.
    pub(crate) fn index(&mut self, segment: &std::sync::Arc<Segment>, entry: Entry) {
        if self.ranges.last().is_none_or(|range| !std::sync::Arc::ptr_eq(&range.segment, segment)) {
            self.ranges.push(Range::new(segment.clone(), entry.first));
        }
        if let Some(range) = self.ranges.last_mut() {
            range.push(entry);
        }
    }

    /// Lets readers see what a group did.
    pub(crate) fn show(&mut self, update: &Update) {
        if update.next >= self.visible {
            (self.visible, self.history) = (update.next, update.history);
        }
        self.time = self.time.max(update.time);
        if let Some(first) = update.first {
            self.first = self.first.max(first);
        }
        if update.removed {
            (self.removed, self.gone) = (true, true);
            self.tail = None;
        }
        self.notify();
    }

    /// Tells watchers the head if it changed.
    pub(crate) fn notify(&mut self) {
        let head = self.head();
        if let Some(tail) = &self.tail {
            tail.send_if_modified(|seen| std::mem::replace(seen, head) != head);
        }
    }

    /// Forgets what was written at and above a mark: it never became durable. Whether readers had seen any of it.
    pub(crate) fn roll_back(&mut self, to: Mark, next: Position) -> bool {
        while let Some(range) = self.ranges.last_mut() {
            let segment = range.segment.number();
            if segment < to.segment || (segment == to.segment && range.cut(to.offset)) {
                break;
            }
            self.ranges.pop();
        }
        let shown = self.visible > next;
        (self.written, self.synced, self.visible) = (next, self.synced.min(next), self.visible.min(next));
        shown
    }
}
