//! The sync thread: makes groups durable and says so.
//!
//! It takes all records that wait, syncs each file they lie in once, in the order of the log, and then, and
//! only then, lets readers of `fsync` streams see them and answers their publishers. While it is at work the
//! writer writes the next group. Groups that nobody waits for (`written` streams) are synced once they have
//! waited for [`Options::idle`](crate::Options::idle) or have grown large.
//!
//! A sync that failed is never tried again: the records go back to the writer, which cuts the log there.

use std::sync::Arc;
use std::sync::PoisonError;
use std::sync::atomic::Ordering::Relaxed;

use crate::api::Durability;
use crate::counters::Counters;
use crate::disk::Why;
use crate::segment::Segment;
use crate::shard::{Gate, Guard, Record, Shard, lock};

/// Unsynced bytes that make a sync due though nobody waits for it.
const UNSYNCED_BYTES: u64 = 32 << 20;
/// Unsynced groups that make one due.
const UNSYNCED_GROUPS: usize = 512;

/// Whether so much is unsynced that a sync is due though nobody waits for it.
pub(crate) fn is_much(gate: &Gate) -> bool {
    gate.unsynced_bytes >= UNSYNCED_BYTES || gate.records.len() >= UNSYNCED_GROUPS
}

/// Runs until the writer has ended and all it wrote is synced.
pub(crate) fn run(shard: &Arc<Shard>) {
    let _guard = Guard(shard.clone());
    while let Some(records) = next(shard) {
        match sync(shard, &records) {
            Ok(()) => done(shard, records),
            Err(error) => {
                tracing::error!(%error, "a sync failed: what waited for it has no known outcome");
                Counters::add(&shard.core.counters.failed_flushes_total, 1);
                let mut gate = lock(&shard.gate);
                gate.in_flight = false;
                if gate.writer_done {
                    return;
                }
                gate.failed = Some(records);
                drop(gate);
                shard.writer_wake.notify_one();
            }
        }
    }
}

/// Waits until something has to be synced, and takes it.
fn next(shard: &Shard) -> Option<Vec<Record>> {
    let idle = shard.core.options.idle;
    let mut gate = lock(&shard.gate);
    loop {
        let ready = gate.failed.is_none() && !gate.records.is_empty();
        let waited = gate.dirty_since.map(|since| shard.core.clock.elapsed().saturating_sub(since));
        let due = gate.awaited
            || gate.hurry
            || gate.writer_done
            || is_much(&gate)
            || waited.is_some_and(|waited| waited >= idle);
        if ready && due {
            gate.in_flight = true;
            (gate.awaited, gate.hurry, gate.unsynced_bytes, gate.dirty_since) = (false, false, 0, None);
            let records = gate.records.drain(..).collect();
            drop(gate);
            shard.writer_wake.notify_one();
            return Some(records);
        }
        if gate.writer_done && gate.records.is_empty() {
            return None;
        }
        gate = match waited.filter(|_| ready) {
            Some(waited) => {
                let left = idle.saturating_sub(waited);
                shard.sync_wake.wait_timeout(gate, left).unwrap_or_else(PoisonError::into_inner).0
            }
            None => shard.sync_wake.wait(gate).unwrap_or_else(PoisonError::into_inner),
        };
    }
}

/// Syncs every file that records lie in, once, in order.
fn sync(shard: &Shard, records: &[Record]) -> std::io::Result<()> {
    let core = &shard.core;
    let mut last: Option<&Arc<Segment>> = None;
    for segment in records.iter().filter_map(|record| record.segment.as_ref()) {
        if last.is_some_and(|last| Arc::ptr_eq(last, segment)) {
            continue;
        }
        last = Some(segment);
        let began = core.clock.elapsed();
        segment.file.sync(Why::Group)?;
        let took = core.clock.elapsed().saturating_sub(began);
        core.counters.flush_micros_total.fetch_add(took.as_micros() as u64, Relaxed);
        Counters::add(&core.counters.flushes_total, 1);
    }
    Ok(())
}

/// Shows what became durable and answers those who waited.
fn done(shard: &Shard, records: Vec<Record>) {
    if let Some(end) = records.iter().filter(|r| r.segment.is_some()).map(|r| r.end).max() {
        // Before anybody learns of it: a group written next may say so.
        lock(&shard.gate).synced = end;
    }
    let mut answers = Vec::new();
    for record in records {
        for touched in &record.touched {
            let mut shared = lock(&touched.stream.shared);
            shared.synced = shared.synced.max(touched.update.next);
            if !touched.shown {
                shared.show(&touched.update);
            }
            if touched.update.first.is_some() {
                shared.trim_at = record.end.segment;
            }
            let renewed = touched.update.history;
            drop(shared);
            let mut intake = lock(&touched.stream.intake);
            // The log knows of the history, and that more than what is synced may have been shown.
            intake.new_history &= intake.history != renewed;
            intake.anchored |= touched.update.flagged && intake.settings.durability == Durability::Written;
        }
        answers.extend(record.replies);
    }
    let mut gate = lock(&shard.gate);
    gate.in_flight = false;
    drop(gate);
    shard.writer_wake.notify_one();
    for (reply, answer) in answers {
        // Whoever asked may be gone; the event is stored all the same.
        let _ = reply.send(answer);
    }
}
