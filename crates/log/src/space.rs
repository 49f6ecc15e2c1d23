//! Room on the disk: warns, refuses events before the disk is full, and keeps a reserve for control streams.
//!
//! The disk is asked at most once a second, and sooner only if what was written since could have used up a
//! quarter of what was left. Data shards are refused from [`Options::stop_at`] on; the control shard goes on
//! until the disk itself says no, then the reserve file is given back to the disk and it tries again. Both pass
//! by themselves once there is room: the next append after a second asks the disk anew, and tidying makes the
//! reserve again.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::api::{Error, Kind};
use crate::options::Options;
use crate::shard::{Core, lock};

/// The file that keeps room for control streams.
const RESERVE: &str = "reserve";

/// What is known of the room on the disk.
#[derive(Default)]
pub(crate) struct Room {
    seen: Mutex<Seen>,
    full: AtomicBool,
    /// Microseconds in which events were refused, before now.
    refused_micros: AtomicU64,
}

#[derive(Default)]
struct Seen {
    at: Option<Duration>,
    /// Bytes until events are refused.
    left: u64,
    /// Bytes written since.
    since: u64,
    warned: bool,
    full_from: Option<Duration>,
}

impl Room {
    /// Whether events are refused now.
    pub(crate) fn is_full(&self) -> bool {
        self.full.load(Relaxed)
    }

    /// For how long this run has refused events, without the present time of doing so.
    pub(crate) fn refused(&self) -> Duration {
        Duration::from_micros(self.refused_micros.load(Relaxed))
    }

    /// Takes note of an error for want of room: events are refused until the disk has been asked anew.
    pub(crate) fn hit(&self, core: &Core) {
        let mut seen = lock(&self.seen);
        seen.at = Some(core.clock.elapsed());
        seen.left = 0;
        self.turn(core, &mut seen, true);
    }

    fn turn(&self, core: &Core, seen: &mut Seen, full: bool) {
        core.counters.full.store(u64::from(full), Relaxed);
        if self.full.swap(full, Relaxed) == full {
            return;
        }
        let now = core.clock.elapsed();
        if full {
            seen.full_from = Some(now);
            tracing::error!(left = seen.left, "the disk is full: events are refused until there is room");
        } else {
            let from = seen.full_from.take().unwrap_or(now);
            let refused = u64::try_from(now.saturating_sub(from).as_micros()).unwrap_or(u64::MAX);
            self.refused_micros.fetch_add(refused, Relaxed);
            tracing::info!("the disk has room again: events are taken");
        }
    }

    /// Whether a data shard may write `bytes` more.
    ///
    /// Errors: `Exhausted` with a hint when to try again.
    pub(crate) fn admit(&self, core: &Core, bytes: u64) -> Result<(), Error> {
        let now = core.clock.elapsed();
        let mut seen = lock(&self.seen);
        seen.since = seen.since.saturating_add(bytes);
        let due = seen.at.is_none_or(|at| now.saturating_sub(at) >= Duration::from_secs(1));
        if due || (seen.since > seen.left / 4 && !self.is_full()) {
            self.look(core, &mut seen, now);
        }
        drop(seen);
        if self.is_full() {
            let text = "append: the disk is full or nearly so";
            return Err(Error::new(Kind::Exhausted, text).retry_after(Duration::from_secs(5)));
        }
        Ok(())
    }

    fn look(&self, core: &Core, seen: &mut Seen, now: Duration) {
        let Options { warn_at, stop_at, .. } = core.options;
        let space = match core.disk.space() {
            Ok(space) => space,
            Err(error) => {
                tracing::warn!(%error, "the room on the disk is not known");
                (seen.at, seen.left, seen.since) = (Some(now), u64::MAX, 0);
                return;
            }
        };
        let used = space.total.saturating_sub(space.free);
        let stop = (space.total as f64 * stop_at) as u64;
        (seen.at, seen.left, seen.since) = (Some(now), stop.saturating_sub(used), 0);
        core.counters.free_bytes.store(space.free, Relaxed);
        let warn = used as f64 >= space.total as f64 * warn_at;
        if warn && !seen.warned {
            tracing::warn!(free = space.free, total = space.total, "the disk is filling up");
        }
        seen.warned = warn;
        self.turn(core, seen, used >= stop);
    }

    /// Gives the reserve back to the disk; whether there was one.
    pub(crate) fn release(&self, core: &Core) -> bool {
        let released = core.options.reserve_bytes > 0 && core.disk.remove(RESERVE).is_ok();
        if released {
            tracing::warn!("the disk is full: the reserve was released for control streams");
        }
        released
    }

    /// Makes the reserve if it is not there and the disk is far from full. Nothing depends on it: no sync.
    pub(crate) fn keep_reserve(&self, core: &Core) {
        let want = core.options.reserve_bytes;
        if want == 0 {
            return;
        }
        {
            let mut seen = lock(&self.seen);
            self.look(core, &mut seen, core.clock.elapsed());
            if self.is_full() || seen.left < want * 2 {
                return;
            }
        }
        let file = core.disk.open(RESERVE).or_else(|_| core.disk.create(RESERVE));
        if let Err(error) = file.and_then(|file| file.allocate(want)) {
            tracing::warn!(%error, "the reserve could not be made");
        }
    }
}
