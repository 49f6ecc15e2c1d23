//! A shard: one sequence of segment files with one writer thread and one sync thread.
//!
//! Appends enter the [`Gate`]'s queues. The writer takes all that waits, makes a group of it and writes it at
//! once; the sync thread makes it durable and answers. The next group is written while the last is synced, and
//! then waits, growing, until that sync has ended: so every group is flushed by exactly one sync, and no timer
//! holds anything back. Streams that promise only `written` have a queue of their own and never wait for a sync.
//!
//! After a failed sync nothing of that file is believed: [`Gate::failed`] stops the writer at its next step, all
//! that waits for durability is told that the outcome is unknown, and the writer goes on in a new file.
//!
//! Lock order: cleaning, a stream's intake, a stream's shared half, a shard's segments; the gate and the cache are leaves
//! taken alone.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use weir_event::flow::{History, Position};

use crate::api::{Appended, At, Batch, Error, Kind};
use crate::cache::TailCache;
use crate::counters::Counters;
use crate::directory::Format;
use crate::disk::{Disk, is_full};
use crate::events::HashKey;
use crate::format::{ChunkKind, Mark};
use crate::options::{Clock, Options};
use crate::segment::Segment;
use crate::space::Room;
use crate::stream::{Stream, Update};

/// Locks; a thread that panicked while it held the lock left data that is whole between statements.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What all parts of an engine share.
pub(crate) struct Core {
    pub(crate) options: Options,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) key: HashKey,
    /// What header checks start from.
    pub(crate) salt: u32,
    /// Random number of this run of the program.
    pub(crate) session: u64,
    pub(crate) boot: u128,
    pub(crate) room: Room,
    pub(crate) index: crate::index::Cache,
    /// Where sealing, retention, cleaning and erasing are done.
    pub(crate) duty: Arc<crate::read::Pool>,
    /// When this run began, on the clock that only goes forward.
    pub(crate) opened: std::time::Duration,
    /// Milliseconds of taking publishes before this run.
    pub(crate) taken: AtomicU64,
}

impl Core {
    pub(crate) fn new(disk: Arc<dyn Disk>, clock: Arc<dyn Clock>, options: Options, format: Format) -> Self {
        Self {
            options,
            salt: crc32c::crc32c(&format.key),
            key: format.key,
            session: clock.random(),
            boot: disk.boot_id(),
            opened: clock.elapsed(),
            disk,
            clock,
            counters: Arc::default(),
            room: Room::default(),
            index: crate::index::Cache::default(),
            duty: crate::read::Pool::new(),
            taken: AtomicU64::new(0),
        }
    }

    /// The clock of taking publishes, in milliseconds: it stands still while the log is closed or full.
    pub(crate) fn taking(&self) -> u64 {
        let run = self.clock.elapsed().saturating_sub(self.opened + self.room.refused());
        self.taken.load(Relaxed).saturating_add(u64::try_from(run.as_millis()).unwrap_or(u64::MAX))
    }
}

/// One shard.
pub(crate) struct Shard {
    pub(crate) number: u32,
    pub(crate) core: Arc<Core>,
    pub(crate) gate: Mutex<Gate>,
    pub(crate) writer_wake: Condvar,
    pub(crate) sync_wake: Condvar,
    pub(crate) cache: TailCache,
    pub(crate) segments: Mutex<BTreeMap<u64, Arc<Segment>>>,
    /// Held by whoever replaces segments.
    pub(crate) cleaning: Mutex<()>,
    /// Bytes of memory that remember this shard's ids, and how many there may be.
    pub(crate) remembered: AtomicU64,
    pub(crate) dedupe_share: usize,
}

/// What waits between publishers, the writer and the sync thread.
#[derive(Default)]
pub(crate) struct Gate {
    /// For streams that promise `fsync`, and everything internal.
    pub(crate) durable: VecDeque<Request>,
    /// For streams that promise `written`.
    pub(crate) written: VecDeque<Request>,
    pub(crate) queued_bytes: usize,
    /// Groups written and not yet taken by the sync thread.
    pub(crate) records: VecDeque<Record>,
    /// One of them has somebody waiting for its sync.
    pub(crate) awaited: bool,
    /// Bytes written since the sync thread last took records.
    pub(crate) unsynced_bytes: u64,
    /// When the oldest of them was written.
    pub(crate) dirty_since: Option<Duration>,
    /// Records that the sync thread is at work on.
    pub(crate) in_flight: bool,
    /// The sync thread failed on these; the writer has to deal with it.
    pub(crate) failed: Option<Vec<Record>>,
    /// Up to where the log is synced.
    pub(crate) synced: Mark,
    /// Somebody waits for an empty pipeline (rolling to a new segment).
    pub(crate) hurry: bool,
    pub(crate) closing: bool,
    /// The writer has ended; the sync thread ends once nothing is left.
    pub(crate) writer_done: bool,
}

/// The way back to whoever asked.
pub(crate) type Reply = oneshot::Sender<Result<Appended, Error>>;

/// Something for the writer to do.
pub(crate) struct Request {
    pub(crate) stream: Arc<Stream>,
    pub(crate) work: Work,
    pub(crate) reply: Option<Reply>,
}

/// What to do.
pub(crate) enum Work {
    Append {
        batch: Batch,
        ids: Vec<u64>,
    },
    At {
        at: At,
        batch: Batch,
    },
    Skip {
        to: Position,
    },
    Trim {
        first: Position,
    },
    History(History),
    Remove,
    /// Seal the segment being written, if it holds anything, and go on in a new one.
    Roll,
}

impl Request {
    pub(crate) fn bytes(&self) -> usize {
        match &self.work {
            Work::Append { batch, .. } | Work::At { batch, .. } => batch.body.len(),
            _ => 0,
        }
    }
}

/// A group that was written, and who waits for its sync.
pub(crate) struct Record {
    /// Where it was written; `None` if it only waits for those before it.
    pub(crate) segment: Option<Arc<Segment>>,
    /// The place after it.
    pub(crate) end: Mark,
    pub(crate) touched: Vec<Touched>,
    pub(crate) replies: Vec<(Reply, Result<Appended, Error>)>,
}

/// Closes the shard if the thread that holds this panics.
pub(crate) struct Guard(pub(crate) Arc<Shard>);

impl Drop for Guard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.abandon();
        }
    }
}

/// What a group did to one stream.
pub(crate) struct Touched {
    pub(crate) stream: Arc<Stream>,
    pub(crate) update: Update,
    /// Readers were shown it when it was written.
    pub(crate) shown: bool,
}

impl Shard {
    pub(crate) fn new(number: u32, core: Arc<Core>, shards: u32) -> Arc<Self> {
        // The control shard has a small share of its own.
        let share = |all: usize| if number == 0 { all / 16 } else { all / shards.max(1) as usize };
        let (tail_bytes, dedupe_share) = (share(core.options.tail_bytes), share(core.options.dedupe_bytes));
        Arc::new(Self {
            number,
            core,
            gate: Mutex::default(),
            writer_wake: Condvar::new(),
            sync_wake: Condvar::new(),
            cache: TailCache::new(tail_bytes),
            segments: Mutex::default(),
            cleaning: Mutex::default(),
            remembered: AtomicU64::new(0),
            dedupe_share,
        })
    }

    /// Keeps count of the memory that remembers ids.
    pub(crate) fn account(&self, before: usize, after: usize) {
        for counter in [&self.remembered, &self.core.counters.dedupe_bytes] {
            counter.fetch_add(after as u64, Relaxed);
            counter.fetch_sub(before as u64, Relaxed);
        }
    }

    /// Ends the shard for everybody: one of its threads has panicked, and nothing would ever be answered.
    pub(crate) fn abandon(&self) {
        let mut gate = lock(&self.gate);
        (gate.closing, gate.writer_done, gate.in_flight) = (true, true, false);
        gate.durable.clear();
        gate.written.clear();
        gate.records.clear();
        gate.failed = None;
        drop(gate);
        tracing::error!(shard = self.number, "a thread of the log panicked: the shard is closed");
        self.writer_wake.notify_all();
        self.sync_wake.notify_all();
    }

    /// Whether this is the shard of control streams.
    pub(crate) fn is_control(&self) -> bool {
        self.number == 0
    }

    /// Hands a request to the writer. `durable`: its stream promises `fsync`, or it is internal.
    ///
    /// Errors: `Closed`; `Exhausted` if too much is waiting.
    pub(crate) fn enqueue(&self, request: Request, durable: bool) -> Result<(), Error> {
        let options = &self.core.options;
        let bytes = request.bytes();
        let mut gate = lock(&self.gate);
        if gate.closing {
            return Err(Error::new(Kind::Closed, "append: the log is closing"));
        }
        let waiting = gate.durable.len() + gate.written.len();
        // A single batch always fits: what is limited is what waits behind it.
        if waiting >= options.queue_count || (waiting > 0 && gate.queued_bytes + bytes > options.queue_bytes)
        {
            drop(gate);
            Counters::add(&self.core.counters.busy_total, 1);
            let text = "append: too much is waiting for the disk";
            return Err(Error::new(Kind::Exhausted, text).busy().retry_after(Duration::from_millis(200)));
        }
        gate.queued_bytes += bytes;
        if durable {
            gate.durable.push_back(request)
        } else {
            gate.written.push_back(request)
        }
        drop(gate);
        Counters::add(&self.core.counters.queued_bytes, bytes as u64);
        self.writer_wake.notify_one();
        Ok(())
    }

    /// As [`Shard::enqueue`] for an internal request; the answer comes once it is durable.
    pub(crate) fn ask(
        &self,
        stream: &Arc<Stream>,
        work: Work,
    ) -> Result<oneshot::Receiver<Result<Appended, Error>>, Error> {
        let (reply, answer) = oneshot::channel();
        self.enqueue(Request { stream: stream.clone(), work, reply: Some(reply) }, true)?;
        Ok(answer)
    }
}

/// What a publisher is told when a sync or write failed after which nobody knows what is on the disk.
pub(crate) fn unknown(cause: &str) -> Error {
    let text = format!("append: the outcome is unknown, send the same ids again ({cause})");
    Error::new(Kind::Unavailable, text).retry_after(Duration::from_secs(1))
}

/// An error of the disk as one of the log's.
pub(crate) fn disk_error(error: &std::io::Error) -> Error {
    if is_full(error) {
        return Error::new(Kind::Exhausted, error.to_string()).retry_after(Duration::from_secs(5));
    }
    Error::new(Kind::Unavailable, error.to_string()).retry_after(Duration::from_secs(1))
}

/// Whether chunks of this kind hold something that readers are told.
pub(crate) fn is_read(kind: ChunkKind) -> bool {
    matches!(kind, ChunkKind::Run | ChunkKind::Skip)
}
