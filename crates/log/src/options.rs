//! What an engine can be told, and what it takes from outside besides the disk: time and randomness.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use std::sync::Arc;

use weir_event::flow::Time;

/// How an engine runs. The defaults suit a node with the machine for itself.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    /// Shards for streams other than control streams, fixed when the data directory is made. 0: one on machines
    /// with one or two cores, else half as many as there are cores and at most four.
    pub shards: u32,
    /// A segment file is closed and the next begun at about so many bytes.
    pub segment_bytes: u32,
    /// One group takes at most about so many bytes; the rest waits for the next.
    pub group_bytes: usize,
    /// Bytes of bodies that may wait for a shard's writer; more is refused as exhausted.
    pub queue_bytes: usize,
    /// Appends that may wait for a shard's writer; more is refused as exhausted.
    pub queue_count: usize,
    /// Newest groups kept in memory, all shards together.
    pub tail_bytes: usize,
    /// Memory for remembering ids, all streams together; the oldest ids go first.
    pub dedupe_bytes: usize,
    /// Memory for the chunk index of streams being read, beyond what was written lately.
    pub index_bytes: usize,
    /// Threads that read from disk for those who replay.
    pub read_threads: usize,
    /// Most bytes that one read takes from disk before others have their turn.
    pub read_bytes: usize,
    /// Idempotent producers remembered per stream; the one longest silent goes first.
    pub producers: usize,
    /// Kept back on the disk, so that control streams go on when it is full. 0: none.
    pub reserve_bytes: u64,
    /// Share of the disk from which on a warning is logged.
    pub warn_at: f64,
    /// Share of the disk from which on events are refused.
    pub stop_at: f64,
    /// Streams that promise only `written` are synced at least so often, and an idle shard says how far it is
    /// synced after so long.
    pub idle: Duration,
    /// How often retention and cleaning look for work.
    pub tidy_every: Duration,
    /// A segment is rewritten once so small a share of it is alive.
    pub clean_below: f64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            shards: 0,
            segment_bytes: 128 << 20,
            group_bytes: 4 << 20,
            queue_bytes: 64 << 20,
            queue_count: 65_536,
            tail_bytes: 32 << 20,
            dedupe_bytes: 256 << 20,
            index_bytes: 16 << 20,
            read_threads: 2,
            read_bytes: 1 << 20,
            producers: 1000,
            reserve_bytes: 64 << 20,
            warn_at: 0.80,
            stop_at: 0.95,
            idle: Duration::from_secs(1),
            tidy_every: Duration::from_mins(1),
            clean_below: 0.5,
        }
    }
}

impl Options {
    /// How many data shards a new directory gets.
    pub(crate) fn new_shards(&self) -> u32 {
        let cores = std::thread::available_parallelism().map_or(1, |n| n.get() as u32);
        match self.shards {
            0 if cores <= 2 => 1,
            0 => (cores / 2).min(4),
            n => n.min(256),
        }
    }
}

/// The wall clock and the source of randomness.
pub trait Clock: Send + Sync + 'static {
    /// The wall clock; may jump.
    fn now(&self) -> Time;
    /// Time that only goes forward, from anywhere.
    fn elapsed(&self) -> Duration;
    /// Unpredictable bits.
    fn random(&self) -> u64;
}

/// The machine's clock.
#[derive(Debug)]
pub struct SystemClock(std::time::Instant);

impl SystemClock {
    /// The machine's clock, shared.
    #[must_use]
    pub fn shared() -> Arc<dyn Clock> {
        Arc::new(Self(std::time::Instant::now()))
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Time {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Time(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }

    fn random(&self) -> u64 {
        let mut bytes = [0; 8];
        if getrandom::fill(&mut bytes).is_err() {
            // Never seen on Linux after boot. The map's keys come from the same source, once per thread, and differ
            // by a counter after that.
            use std::hash::{BuildHasher as _, Hasher as _};
            return std::collections::hash_map::RandomState::new().build_hasher().finish();
        }
        u64::from_le_bytes(bytes)
    }
}
