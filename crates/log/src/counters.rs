//! What the log counts: plain atomics that a node exports as metrics, declared once, here.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident: $kind:ident,)+) => {
        /// Everything the log counts. Counters only rise; gauges are what is true now.
        #[derive(Debug, Default)]
        pub struct Counters {
            $($(#[doc = $doc])+ pub $name: AtomicU64,)+
        }

        impl Counters {
            /// Name, whether it is a gauge, what it means, and its value.
            #[must_use]
            pub fn all(&self) -> Vec<Counted> {
                vec![$(Counted {
                    name: concat!("log_", stringify!($name)),
                    gauge: counters!(@gauge $kind),
                    help: concat!($($doc),+).trim_ascii(),
                    value: self.$name.load(Relaxed),
                },)+]
            }
        }
    };
    (@gauge counter) => { false };
    (@gauge gauge) => { true };
}

/// A counter as it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counted {
    /// As `log_thing_unit`.
    pub name: &'static str,
    /// Whether it may fall.
    pub gauge: bool,
    /// What it means.
    pub help: &'static str,
    /// Its value.
    pub value: u64,
}

counters! {
    /// Batches taken.
    appends_total: counter,
    /// Events stored.
    events_total: counter,
    /// Bytes of events stored.
    event_bytes_total: counter,
    /// Events recognized as stored before.
    duplicates_total: counter,
    /// Duplicates whose content differed from what is stored.
    conflicts_total: counter,
    /// Groups written.
    groups_total: counter,
    /// Bytes written to segment files.
    written_bytes_total: counter,
    /// Times a file was synced.
    flushes_total: counter,
    /// Times a directory was synced.
    dir_flushes_total: counter,
    /// Microseconds spent in syncing files.
    flush_micros_total: counter,
    /// Syncs that failed.
    failed_flushes_total: counter,
    /// Appends refused for want of room on the disk.
    full_total: counter,
    /// Appends refused because too much was waiting.
    busy_total: counter,
    /// Reads answered from memory.
    tail_reads_total: counter,
    /// Reads answered from disk.
    disk_reads_total: counter,
    /// Bytes read from disk.
    disk_read_bytes_total: counter,
    /// Reads that met damaged data.
    corrupt_reads_total: counter,
    /// Bytes of unfinished writes cut off when opening.
    cut_bytes_total: counter,
    /// Segment files removed.
    removed_segments_total: counter,
    /// Segment files rewritten by cleaning.
    cleaned_segments_total: counter,
    /// Segment files.
    segments: gauge,
    /// Bytes of segment files.
    segment_bytes: gauge,
    /// Streams known.
    streams: gauge,
    /// Bytes of memory that remember ids.
    dedupe_bytes: gauge,
    /// Bytes waiting for the writers.
    queued_bytes: gauge,
    /// Room left on the disk, in bytes.
    free_bytes: gauge,
    /// 1 while events are refused for want of room.
    full: gauge,
}

impl Counters {
    pub(crate) fn add(counter: &AtomicU64, by: u64) {
        counter.fetch_add(by, Relaxed);
    }

    pub(crate) fn sub(counter: &AtomicU64, by: u64) {
        counter.fetch_sub(by, Relaxed);
    }
}
