//! Reading: where a stream's chunks lie, and getting them.
//!
//! A read is planned under the stream's lock (no I/O), up to the visible position and no further, and then
//! fetched: from the tail cache if all of it is there, else on the reader threads, one turn of bounded size
//! each. Chunks that lie side by side in a file are fetched with one call. Every header and body that comes
//! from disk is checked; damage ends the read before it, or is the answer if nothing came before.
//!
//! The same ways of finding chunks serve to confirm duplicates and to rebuild the windows of ids.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::oneshot;
use weir_event::flow::{Position, Time};

use crate::api::{Dedupe, Encoding, Error, Kind, Producer, Read, Run, SkipReason, Skipped};
use crate::counters::Counters;
use crate::dedupe::{Producers, Window};
use crate::events;
use crate::format::{Chunk, ChunkKind, FLAG_POSITIONS, Get, Mark, reason_of};
use crate::index;
use crate::segment::{Entries, Entry, Segment};
use crate::shard::{Core, Shard, disk_error, is_read, lock};
use crate::stream::Stream;

/// Chunks of other streams up to so many bytes between two of ours are read along and thrown away.
const GAP_BYTES: u64 = 16 << 10;

/// Chunks to fetch, and what to say beside them.
pub(crate) struct Plan {
    pieces: Vec<(Arc<Segment>, Entry)>,
    /// What lies below `first` was given up.
    skipped: Option<Skipped>,
    /// Where reading begins.
    from: Position,
    /// Nothing at or above is shown.
    visible: Position,
    /// Entries of this range have to be loaded first; then plan again.
    load: Option<(Arc<Segment>, u64, u32)>,
}

/// What a read shall get: at most about `bytes_max` of bodies, and at least one chunk.
pub(crate) fn plan(core: &Core, stream: &Stream, from: Position, bytes_max: usize) -> Result<Plan, Error> {
    let shared = lock(&stream.shared);
    if shared.removed || !shared.declared {
        return Err(Error::new(Kind::NotFound, "read: there is no such stream"));
    }
    let asked = from.max(Position::FIRST);
    let from = asked.max(shared.first);
    let skipped =
        (asked < from).then(|| Skipped { from: asked, to: from.previous(), reason: SkipReason::Retention });
    let mut plan = Plan { pieces: Vec::new(), skipped, from, visible: shared.visible, load: None };
    let mut bytes = 0;
    let start = shared.ranges.partition_point(|range| range.last < from);
    for range in &shared.ranges[start..] {
        if range.first >= plan.visible || bytes >= bytes_max {
            break;
        }
        let loaded;
        let entries: &[Entry] = match &range.entries {
            Entries::Here(entries) => entries,
            Entries::Stored { offset, count } => match index::cached(core, &range.segment, *offset) {
                Some(entries) => {
                    loaded = entries;
                    &loaded
                }
                None => {
                    if plan.pieces.is_empty() {
                        plan.load = Some((range.segment.clone(), *offset, *count));
                    }
                    break;
                }
            },
        };
        let start = entries.partition_point(|entry| entry.last < from);
        for entry in entries[start..].iter().filter(|entry| is_read(entry.kind)) {
            if entry.first >= plan.visible || (bytes > 0 && bytes + entry.body_len as usize > bytes_max) {
                return Ok(plan);
            }
            bytes += entry.body_len as usize;
            plan.pieces.push((range.segment.clone(), *entry));
            if bytes >= bytes_max {
                return Ok(plan);
            }
        }
    }
    Ok(plan)
}

impl Plan {
    /// Whether entries have to be read from an index file before this plan is one.
    pub(crate) fn is_unknown(&self) -> bool {
        self.load.is_some()
    }

    /// The answer, if all chunks are in memory.
    pub(crate) fn in_memory(&self, shard: &Shard) -> Option<Result<Read, Error>> {
        let mut found = Vec::with_capacity(self.pieces.len());
        for (segment, entry) in &self.pieces {
            let at = Mark { segment: segment.number(), offset: u64::from(entry.offset) };
            let bytes = shard.cache.get(at, Chunk::LEN + entry.body_len as usize)?;
            found.push((segment, entry, bytes));
        }
        let mut answer = Answer::new(self);
        if self.pieces.is_empty() && self.from < self.visible {
            return Some(answer.end(Some(hole(&shard.core, self.from, self.visible.previous()))));
        }
        for (segment, entry, bytes) in found {
            if let Err(error) = answer.push(&shard.core, segment, entry, &bytes, false) {
                return Some(answer.end(Some(error)));
            }
        }
        Some(answer.end(None))
    }

    /// The answer, read from disk.
    pub(crate) fn on_disk(&self, core: &Core) -> Result<Read, Error> {
        let mut answer = Answer::new(self);
        let mut rest = &self.pieces[..];
        while let Some((segment, first)) = rest.first() {
            // What lies side by side is fetched at once, as long as most of it is ours.
            let start = u64::from(first.offset);
            let (mut ours, mut together) = (first.len(), 1);
            for pair in rest.windows(2) {
                let ((a, before), (b, after)) = (&pair[0], &pair[1]);
                let gap = u64::from(after.offset).checked_sub(before.end());
                let whole = after.end().saturating_sub(start);
                if !Arc::ptr_eq(a, b)
                    || gap.is_none_or(|gap| gap > GAP_BYTES)
                    || whole > (ours + after.len()) * 2
                {
                    break;
                }
                ours += after.len();
                together += 1;
            }
            let (these, others) = rest.split_at(together);
            rest = others;
            let end = these.last().map_or(start, |(_, e)| e.end() - u64::from(e.extra_len));
            let mut bytes = Vec::new();
            if let Err(error) = segment.file.read_at(&mut bytes, (end - start) as usize, start) {
                return answer.end(Some(disk_error(&error)));
            }
            Counters::add(&core.counters.disk_read_bytes_total, bytes.len() as u64);
            let bytes = Bytes::from(bytes);
            for (segment, entry) in these {
                let at = (u64::from(entry.offset) - start) as usize;
                let piece = bytes.slice(at.min(bytes.len())..);
                if let Err(error) = answer.push(core, segment, entry, &piece, true) {
                    return answer.end(Some(error));
                }
            }
        }
        answer.end(None)
    }
}

/// An answer being put together.
struct Answer {
    read: Read,
}

impl Answer {
    fn new(plan: &Plan) -> Self {
        let skipped = plan.skipped.into_iter().collect();
        Self { read: Read { runs: Vec::new(), skipped, next: plan.from } }
    }

    /// Adds a chunk, of which `bytes` begin with the header.
    fn push(
        &mut self,
        core: &Core,
        segment: &Segment,
        entry: &Entry,
        bytes: &Bytes,
        check: bool,
    ) -> Result<(), Error> {
        let Some((chunk, body)) = open(core, entry, bytes, check) else {
            return Err(damaged(core, segment, entry));
        };
        let next = self.read.next;
        if entry.first > next {
            return Err(hole(core, next, entry.first.previous()));
        }
        match chunk.kind {
            ChunkKind::Run => {
                let (mut first, mut body) = (chunk.first, body);
                if entry.first < next {
                    // What lies before was given up or not asked for.
                    let skip = usize::try_from(next.0 - first.0).unwrap_or(usize::MAX);
                    let Some(at) = events::offset_of(&body, skip) else {
                        return Err(damaged(core, segment, entry));
                    };
                    (first, body) = (next, body.slice(at..));
                }
                self.read.runs.push(Run {
                    first,
                    count: (entry.last.0 + 1 - first.0) as u32,
                    time: chunk.time,
                    history: chunk.history,
                    encoding: if chunk.encoding == 2 { Encoding::Kafka } else { Encoding::Events },
                    body,
                });
            }
            ChunkKind::Skip => {
                let reason = reason_of(chunk.encoding);
                self.read.skipped.push(Skipped { from: entry.first.max(next), to: entry.last, reason });
            }
            _ => {}
        }
        self.read.next = entry.last.next();
        Ok(())
    }

    fn end(self, error: Option<Error>) -> Result<Read, Error> {
        match error {
            Some(error) if self.read.runs.is_empty() && self.read.skipped.is_empty() => Err(error),
            _ => Ok(self.read),
        }
    }
}

/// Header and body of a chunk; `None` if they are not what the index says.
fn open(core: &Core, entry: &Entry, bytes: &Bytes, check: bool) -> Option<(Chunk, Bytes)> {
    let chunk = Chunk::decode(bytes, core.salt)?;
    let end = Chunk::LEN + chunk.body_len as usize;
    if chunk.first != entry.first || chunk.body_len != entry.body_len || bytes.len() < end {
        return None;
    }
    let body = bytes.slice(Chunk::LEN..end);
    (!check || crc32c::crc32c(&body) == chunk.body_crc).then_some((chunk, body))
}

/// The error for a chunk that is not what was written.
pub(crate) fn damaged(core: &Core, segment: &Segment, entry: &Entry) -> Error {
    Counters::add(&core.counters.corrupt_reads_total, 1);
    let (file, offset) = (segment.file.path(), entry.offset);
    let (first, last) = (entry.first, entry.last);
    tracing::error!(file, offset, %first, %last, "stored data is damaged");
    let text = format!("read {file}: damaged at offset {offset}, positions {first} to {last}");
    Error::new(Kind::Corrupt, text).positions(first, last)
}

/// The error for positions of which nothing is left, not even a header.
fn hole(core: &Core, first: Position, last: Position) -> Error {
    Counters::add(&core.counters.corrupt_reads_total, 1);
    tracing::error!(%first, %last, "stored data is missing");
    let text = format!("read: positions {first} to {last} are lost to damage; `weir log check` says where");
    Error::new(Kind::Corrupt, text).positions(first, last)
}

/// A range's segment, its entries if they are in memory, and else where they are stored and how many.
type Listed = (Arc<Segment>, Option<Vec<Entry>>, u64, u32);

/// A stream's ranges, newest first.
fn ranges(stream: &Stream) -> Vec<Listed> {
    let shared = lock(&stream.shared);
    let ranges = shared.ranges.iter().rev().map(|range| match &range.entries {
        Entries::Here(entries) => (range.segment.clone(), Some(entries.clone()), 0, 0),
        Entries::Stored { offset, count } => (range.segment.clone(), None, *offset, *count),
    });
    ranges.collect()
}

/// The chunk that holds a position.
pub(crate) fn locate(
    core: &Core,
    stream: &Stream,
    position: Position,
) -> Result<Option<(Arc<Segment>, Entry)>, Error> {
    let find = |entries: &[Entry]| {
        let at = entries.partition_point(|entry| entry.last < position);
        entries[at..].iter().find(|entry| is_read(entry.kind) && entry.first <= position).copied()
    };
    let (segment, offset, count) = {
        let shared = lock(&stream.shared);
        let at = shared.ranges.partition_point(|range| range.last < position);
        let Some(range) = shared.ranges.get(at) else { return Ok(None) };
        match &range.entries {
            Entries::Here(entries) => return Ok(find(entries).map(|entry| (range.segment.clone(), entry))),
            Entries::Stored { offset, count } => (range.segment.clone(), *offset, *count),
        }
    };
    let entries = index::load(core, &segment, stream.id, offset, count).map_err(|e| disk_error(&e))?;
    Ok(find(&entries).map(|entry| (segment, entry)))
}

/// Entries of the range that a position lies in, from there on.
pub(crate) fn entries_from(core: &Core, stream: &Stream, from: Position) -> Result<Vec<Entry>, Error> {
    let (segment, offset, count) = {
        let shared = lock(&stream.shared);
        let at = shared.ranges.partition_point(|range| range.last < from);
        let Some(range) = shared.ranges.get(at) else { return Ok(Vec::new()) };
        match &range.entries {
            Entries::Here(entries) => {
                return Ok(entries.iter().filter(|entry| entry.last >= from).copied().collect());
            }
            Entries::Stored { offset, count } => (range.segment.clone(), *offset, *count),
        }
    };
    let entries = index::load(core, &segment, stream.id, offset, count).map_err(|e| disk_error(&e))?;
    Ok(entries.iter().filter(|entry| entry.last >= from).copied().collect())
}

/// The first position appended at or after `time`.
pub(crate) fn find_time(core: &Core, stream: &Stream, time: Time) -> Result<Position, Error> {
    let (segment, offset, count, floor, visible) = {
        let shared = lock(&stream.shared);
        if shared.removed || !shared.declared {
            return Err(Error::new(Kind::NotFound, "find: there is no such stream"));
        }
        let (floor, visible) = (shared.first, shared.visible);
        let at = shared.ranges.partition_point(|range| range.time < time);
        let Some(range) = shared.ranges.get(at) else { return Ok(visible) };
        match &range.entries {
            Entries::Here(entries) => return Ok(first_at(entries, time).clamp(floor, visible.max(floor))),
            Entries::Stored { offset, count } => (range.segment.clone(), *offset, *count, floor, visible),
        }
    };
    let entries = index::load(core, &segment, stream.id, offset, count).map_err(|e| disk_error(&e))?;
    Ok(first_at(&entries, time).clamp(floor, visible.max(floor)))
}

fn first_at(entries: &[Entry], time: Time) -> Position {
    let at = entries.partition_point(|entry| entry.time < time);
    let after = entries[at..].iter().find(|entry| entry.kind == ChunkKind::Run);
    after.map_or_else(|| entries.last().map_or(Position::FIRST, |e| e.last.next()), |entry| entry.first)
}

/// The chunks that were compared last, so that a batch sent again is read once.
#[derive(Default)]
pub(crate) struct Recent(VecDeque<Known>);

struct Known {
    entry: Entry,
    body: Bytes,
    publisher: u64,
    cursor: events::Cursor,
}

impl Recent {
    /// Compares an event with the stored one at a position: `None` if there is none or it is another; else
    /// whether they say the same.
    pub(crate) fn compare(
        &mut self,
        shard: &Shard,
        stream: &Stream,
        position: Position,
        publisher: u64,
        event: &[u8],
    ) -> Result<Option<bool>, Error> {
        let holds = |known: &Known| (known.entry.first..=known.entry.last).contains(&position);
        let at = match self.0.iter().position(holds) {
            Some(at) => at,
            None => {
                let Some(known) = fetch(shard, stream, position)? else {
                    // What was given up can't be compared any more; that another id has its hash by chance, under a
                    // key that nobody knows, is out of the question.
                    let given_up = position < lock(&stream.shared).first;
                    return Ok(given_up.then_some(true));
                };
                self.0.push_front(known);
                self.0.truncate(4);
                0
            }
        };
        let known = &mut self.0[at];
        if known.publisher != publisher {
            return Ok(None);
        }
        let first = known.entry.first.0;
        let index = usize::try_from(position.0 - first).unwrap_or(usize::MAX);
        let stored = known.cursor.seek(first, &known.body, index);
        Ok(stored.and_then(|stored| crate::assign::compare(event, stored)))
    }
}

/// The run that holds a position; `None` if there is none or it is damaged.
fn fetch(shard: &Shard, stream: &Stream, position: Position) -> Result<Option<Known>, Error> {
    let core = &shard.core;
    let Some((segment, entry)) = locate(core, stream, position)? else { return Ok(None) };
    if entry.kind != ChunkKind::Run {
        return Ok(None);
    }
    let mark = Mark { segment: segment.number(), offset: u64::from(entry.offset) };
    let length = Chunk::LEN + entry.body_len as usize;
    let (bytes, check) = match shard.cache.get(mark, length) {
        Some(bytes) => (bytes, false),
        None => {
            let bytes = segment.read(length, u64::from(entry.offset)).map_err(|e| disk_error(&e))?;
            (Bytes::from(bytes), true)
        }
    };
    match open(core, &entry, &bytes, check) {
        Some((chunk, body)) => {
            Ok(Some(Known { entry, body, publisher: chunk.publisher, cursor: events::Cursor::default() }))
        }
        None => {
            // What is lost stays lost; storing it anew gives consumers a second chance.
            let _ = damaged(core, &segment, &entry);
            Ok(None)
        }
    }
}

/// Reads a stream's ids of the window from the log.
pub(crate) fn load_window(
    core: &Core,
    stream: &Stream,
    dedupe: Dedupe,
    taking: u64,
) -> Result<Window, Error> {
    let since = taking.saturating_sub(u64::try_from(dedupe.age.as_millis()).unwrap_or(u64::MAX));
    let mut found: Vec<(Arc<Segment>, Entry)> = Vec::new();
    let mut count = 0;
    'ranges: for (segment, here, offset, stored) in ranges(stream) {
        let entries = match here {
            Some(entries) => Arc::new(entries),
            None => index::load(core, &segment, stream.id, offset, stored).map_err(|e| disk_error(&e))?,
        };
        for entry in entries.iter().rev().filter(|entry| entry.kind == ChunkKind::Run) {
            if entry.taking < since || count >= dedupe.count {
                break 'ranges;
            }
            count += entry.count();
            found.push((segment.clone(), *entry));
        }
    }
    let mut window = Window::default();
    for (segment, entry) in found.iter().rev() {
        let hashes = entry.count() as usize;
        if (entry.extra_len as usize) < hashes * 8 {
            // Stored while duplicate detection was off.
            continue;
        }
        let at = u64::from(entry.offset) + Chunk::LEN as u64 + u64::from(entry.body_len);
        let Ok(bytes) = segment.read(entry.extra_len as usize, at) else { continue };
        let header = segment.read(Chunk::LEN, u64::from(entry.offset)).ok();
        let chunk = header.and_then(|bytes| Chunk::decode(&bytes, core.salt));
        if chunk.is_none_or(|chunk| crc32c::crc32c(&bytes) != chunk.extra_crc) {
            tracing::error!(file = segment.file.path(), offset = at, "remembered ids are damaged");
            continue;
        }
        let mut get = Get::new(&bytes);
        for i in 0..hashes as u64 {
            window.push(get.u64(), entry.first.plus(i), entry.taking);
        }
    }
    window.expire(since, dedupe.count);
    Ok(window)
}

/// Chunks of idempotent producers that are read after a start, newest first. What lies further back is forgotten:
/// a retry of it is found by its ids, if they are still remembered.
const PRODUCER_CHUNKS: usize = 65_536;

/// Reads what is known of a stream's idempotent producers from the log.
pub(crate) fn load_producers(core: &Core, stream: &Stream) -> Result<Producers, Error> {
    let mut found = Vec::new();
    'ranges: for (segment, here, offset, stored) in ranges(stream) {
        let entries = match here {
            Some(entries) => Arc::new(entries),
            None => index::load(core, &segment, stream.id, offset, stored).map_err(|e| disk_error(&e))?,
        };
        for entry in entries.iter().rev().filter(|entry| entry.producer) {
            if found.len() == PRODUCER_CHUNKS {
                break 'ranges;
            }
            found.push((segment.clone(), *entry));
        }
    }
    let mut producers = Producers::default();
    for (segment, entry) in found.into_iter().rev() {
        let header = segment.read(Chunk::LEN, u64::from(entry.offset)).map_err(|e| disk_error(&e))?;
        let Some(chunk) = Chunk::decode(&header, core.salt).filter(|chunk| chunk.sequences > 0) else {
            continue;
        };
        let mut each = Vec::new();
        if chunk.flags & FLAG_POSITIONS != 0 {
            let bytes = chunk.sequences as usize * 8;
            let at = entry.end().saturating_sub(bytes as u64);
            let bytes = segment.read(bytes, at).map_err(|e| disk_error(&e))?;
            let mut get = Get::new(&bytes);
            each.extend((0..chunk.sequences).map(|_| Position(get.u64())));
        }
        let producer = Producer { id: chunk.producer, epoch: chunk.epoch, sequence: chunk.sequence };
        let (count, limit) = (u64::from(chunk.sequences), core.options.producers);
        producers.push(producer, count, chunk.first, &each, chunk.taking, limit);
    }
    Ok(producers)
}

type Job = Box<dyn FnOnce() + Send>;

/// Threads that read from disk, one turn at a time, in the order asked.
pub(crate) struct Pool {
    jobs: Mutex<Jobs>,
    wake: Condvar,
}

#[derive(Default)]
struct Jobs {
    waiting: VecDeque<Job>,
    closed: bool,
    nudged: bool,
}

impl Pool {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { jobs: Mutex::default(), wake: Condvar::new() })
    }

    /// Runs jobs until the pool is closed.
    pub(crate) fn run(&self) {
        self.run_and(Duration::MAX, || {});
    }

    /// As [`Pool::run`], and does `duty` whenever `every` has passed or somebody nudges.
    pub(crate) fn run_and(&self, every: Duration, duty: impl Fn()) {
        let mut done = Instant::now();
        loop {
            let mut jobs = lock(&self.jobs);
            let job = loop {
                if let Some(job) = jobs.waiting.pop_front() {
                    break Some(job);
                }
                if jobs.closed {
                    return;
                }
                let left = every.saturating_sub(done.elapsed());
                if jobs.nudged || left.is_zero() {
                    jobs.nudged = false;
                    break None;
                }
                jobs = self.wake.wait_timeout(jobs, left).unwrap_or_else(PoisonError::into_inner).0;
            };
            drop(jobs);
            match job {
                // A job that panics drops its reply; the thread goes on for the others.
                Some(job) => {
                    if std::panic::catch_unwind(std::panic::AssertUnwindSafe(job)).is_err() {
                        tracing::error!("a read or duty of the log panicked");
                    }
                }
                None => {
                    duty();
                    done = Instant::now();
                }
            }
        }
    }

    /// Has the duty done soon.
    pub(crate) fn nudge(&self) {
        lock(&self.jobs).nudged = true;
        self.wake.notify_all();
    }

    /// Has a job done; its answer.
    pub(crate) fn ask<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> oneshot::Receiver<T> {
        let (reply, answer) = oneshot::channel();
        let job: Job = Box::new(move || {
            // A reader that has gone needs no answer.
            if !reply.is_closed() {
                let _ = reply.send(work());
            }
        });
        let mut jobs = lock(&self.jobs);
        if !jobs.closed {
            jobs.waiting.push_back(job);
            drop(jobs);
            self.wake.notify_one();
        }
        answer
    }

    /// Lets the threads end once nothing waits.
    pub(crate) fn close(&self) {
        lock(&self.jobs).closed = true;
        self.wake.notify_all();
    }
}

/// Plans and fetches, loading index entries as needed; may block on the disk.
pub(crate) fn read(
    core: &Core,
    shard: &Shard,
    stream: &Stream,
    from: Position,
    bytes_max: usize,
) -> Result<Read, Error> {
    loop {
        let plan = plan(core, stream, from, bytes_max)?;
        match &plan.load {
            Some((segment, offset, count)) => {
                index::load(core, segment, stream.id, *offset, *count).map_err(|e| disk_error(&e))?;
            }
            None => {
                if let Some(read) = plan.in_memory(shard) {
                    return read;
                }
                Counters::add(&core.counters.disk_reads_total, 1);
                return plan.on_disk(core);
            }
        }
    }
}
