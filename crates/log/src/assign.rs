//! Gives positions: the one place where a batch becomes part of a stream.
//!
//! Within one group, request by request: an idempotent producer's retry is recognized, duplicates are found and
//! confirmed against the stored event, the expectation is checked, and what is new gets the next positions and is
//! copied into the group's buffer. A request that is refused leaves nothing behind, not even in the window of ids.
//!
//! What an answer waits for is decided here: what it says must be as durable as it sounds. That holds for
//! duplicates (the original's group), for refusals that tell the head, and for a producer's retry alike.

use std::collections::HashMap;
use std::sync::Arc;

use weir_event::flow::{Position, Time};

use crate::api::{Appended, At, Batch, Dedupe, Durability, Error, Kind, Producer, SkipReason, StreamId};
use crate::counters::Counters;
use crate::dedupe::Verdict;
use crate::events;
use crate::format::{Chunk, ChunkKind, FLAG_WRITTEN, reason_code};
use crate::group::Group;
use crate::read::{self, Recent};
use crate::shard::{Request, Shard, Work, lock};
use crate::stream::{Intake, Stream, Update};

/// One group's assigning.
pub(crate) struct Assign<'a> {
    pub(crate) shard: &'a Shard,
    pub(crate) group: Group,
    /// Streams whose ids are in memory.
    pub(crate) windows: &'a mut HashMap<StreamId, Arc<Stream>>,
    pub(crate) now: Time,
    pub(crate) taking: u64,
}

/// An answer and what it waits for.
enum Outcome {
    /// Its group to be as durable as the stream promises.
    Stored(Appended),
    /// Its group, or those before it, to be synced.
    Synced(Result<Appended, Error>),
    /// Nothing.
    Now(Appended),
}

/// What a look at the window of ids found.
#[derive(Default)]
struct Sorted {
    /// Events that are new, by index.
    kept: Vec<u32>,
    /// Where all of them are.
    positions: Vec<Position>,
    duplicates: u64,
    conflicts: u64,
    /// The greatest position of a duplicate.
    original: Position,
}

impl Assign<'_> {
    /// Streams that got a new history say so before anything else of them.
    pub(crate) fn begin_histories(&mut self, mut streams: Vec<Arc<Stream>>) {
        streams.sort_by_key(|stream| stream.id);
        streams.dedup_by_key(|stream| stream.id);
        for stream in streams {
            let mut intake = lock(&stream.intake);
            if intake.new_history && !intake.removed {
                intake.time = intake.time.max(self.now);
                self.bare(&stream, &intake, ChunkKind::History, 0);
            }
        }
    }

    /// Does what one request asks.
    pub(crate) fn take(&mut self, request: Request) {
        let Request { stream, work, reply } = request;
        let mut intake = lock(&stream.intake);
        let outcome = if intake.removed && !matches!(work, Work::Roll) {
            Err(Error::new(Kind::NotFound, "append: the stream is gone"))
        } else {
            self.work(&stream, &mut intake, work)
        };
        let quick = intake.settings.durability == Durability::Written && intake.anchored;
        drop(intake);
        let Some(reply) = reply else { return };
        match outcome {
            Ok(Outcome::Stored(appended)) if quick => self.group.written.push((reply, appended)),
            Ok(Outcome::Stored(appended)) => self.group.synced.push((reply, Ok(appended))),
            Ok(Outcome::Synced(answer)) => self.group.synced.push((reply, answer)),
            Ok(Outcome::Now(appended)) => self.group.refused.push((reply, Ok(appended))),
            Err(error) => self.group.refused.push((reply, Err(error))),
        }
    }

    fn work(&mut self, stream: &Arc<Stream>, intake: &mut Intake, work: Work) -> Result<Outcome, Error> {
        if !matches!(work, Work::At { .. }) {
            intake.time = intake.time.max(self.now);
        }
        match work {
            Work::Append { batch, ids } => self.append(stream, intake, &batch, ids),
            Work::At { at, batch } => self.append_at(stream, intake, at, &batch),
            Work::Skip { to } => self.skip(stream, intake, to),
            Work::Trim { first } => {
                // The last trim in the log is the one that counts.
                let first = first.min(intake.next).max(intake.first);
                intake.first = first;
                self.bare(stream, intake, ChunkKind::Trim, first.0);
                if let Some(touched) = self.group.touched.last_mut() {
                    touched.update.first = Some(first);
                }
                Ok(Outcome::Synced(Ok(nothing(intake))))
            }
            Work::History(history) => {
                intake.history = history;
                self.bare(stream, intake, ChunkKind::History, 0);
                Ok(Outcome::Synced(Ok(nothing(intake))))
            }
            Work::Remove => {
                intake.removed = true;
                intake.producers = None;
                if let Some(window) = intake.window.take() {
                    self.shard.account(window.bytes(), 0);
                }
                self.windows.remove(&stream.id);
                self.bare(stream, intake, ChunkKind::Remove, 0);
                if let Some(touched) = self.group.touched.last_mut() {
                    touched.update.removed = true;
                }
                Ok(Outcome::Synced(Ok(nothing(intake))))
            }
            Work::Roll => Ok(Outcome::Synced(Ok(nothing(intake)))),
        }
    }

    /// Gives positions to a batch.
    fn append(
        &mut self,
        stream: &Arc<Stream>,
        intake: &mut Intake,
        batch: &Batch,
        ids: Vec<u64>,
    ) -> Result<Outcome, Error> {
        let shard = self.shard;
        let core = &shard.core;
        let counters = &core.counters;
        let count = batch.ends.len();
        if let Some(repeat) = self.retry(stream, intake, batch)? {
            return Ok(repeat);
        }
        let dedupe = intake.settings.dedupe;
        let first = intake.next;
        let mut ids = ids;
        let sorted = match dedupe {
            Some(dedupe) => {
                if ids.len() != count {
                    ids = (0..count)
                        .map(|i| events::hash(&core.key, batch.publisher, inner(batch, i)))
                        .collect();
                }
                self.sort(stream, intake, batch, &ids, dedupe)
            }
            None => Ok(Sorted { kept: (0..count as u32).collect(), ..Sorted::default() }),
        };
        let sorted = sorted.and_then(|sorted| {
            let head = first.previous();
            match batch.expect.filter(|expected| *expected != head && !(sorted.kept.is_empty() && count > 0))
            {
                Some(expected) => {
                    let text = format!("append: the last position is {head}, not {expected}");
                    Err(Error::new(Kind::Conflict, text).head(head))
                }
                None => Ok(sorted),
            }
        });
        let sorted = match sorted {
            Ok(sorted) => sorted,
            Err(error) => {
                // Nothing of it is stored, so nothing of it may be remembered.
                if let Some(window) = intake.window.as_mut() {
                    let before = window.bytes();
                    window.truncate(first);
                    shard.account(before, window.bytes());
                }
                return refusal(stream, intake, error);
            }
        };
        Counters::add(&counters.duplicates_total, sorted.duplicates);
        Counters::add(&counters.conflicts_total, sorted.conflicts);
        if count == 0 {
            return Ok(Outcome::Now(nothing(intake)));
        }
        if sorted.kept.is_empty() {
            return Ok(self.nothing_new(stream, intake, batch, sorted));
        }
        let cut = sorted.kept.len() < count;
        let producer = batch.producer;
        let chunk = Chunk {
            flags: flags(intake),
            encoding: 1,
            time: intake.time,
            taking: self.taking,
            publisher: batch.publisher,
            producer: producer.map_or(0, |p| p.id),
            epoch: producer.map_or(0, |p| p.epoch),
            sequence: producer.map_or(0, |p| p.sequence),
            sequences: if producer.is_some() && !cut { count as u32 } else { 0 },
            // Only says whether hashes come with it; the length is known when the chunk is closed.
            extra_len: u32::from(dedupe.is_some()),
            ..Chunk::bare(ChunkKind::Run, stream.id, intake.history, first)
        };
        self.group.touch(stream, || update(intake));
        self.group.begin(chunk, batch.body.len());
        self.store(batch, &sorted.kept, if dedupe.is_some() { &ids } else { &[] });
        if let Some(producer) = producer {
            let each = if cut { &sorted.positions[..] } else { &[] };
            self.group.close_with(each);
            self.remember(intake, producer, count, first, each);
        }
        intake.next = first.plus(sorted.kept.len() as u64);
        self.updated(intake);
        Counters::add(&counters.appends_total, 1);
        Counters::add(&counters.events_total, sorted.kept.len() as u64);
        Counters::add(&counters.event_bytes_total, batch.body.len() as u64);
        let positions = match batch.want_positions {
            true if dedupe.is_none() => (0..count as u64).map(|i| first.plus(i)).collect(),
            true => sorted.positions,
            false => Vec::new(),
        };
        Ok(Outcome::Stored(Appended {
            first,
            last: intake.next.previous(),
            count: sorted.kept.len() as u64,
            duplicates: sorted.duplicates,
            conflicts: sorted.conflicts,
            positions,
            ..nothing(intake)
        }))
    }

    /// The answer to an idempotent producer's retry; `None` if it is none.
    fn retry(
        &mut self,
        stream: &Arc<Stream>,
        intake: &mut Intake,
        batch: &Batch,
    ) -> Result<Option<Outcome>, Error> {
        let Some(producer) = batch.producer else { return Ok(None) };
        let core = &self.shard.core;
        let count = batch.ends.len() as u64;
        if intake.producers.is_none() {
            intake.producers = Some(Box::new(read::load_producers(core, stream)?));
        }
        let verdict = intake.producers.as_ref().map_or(Ok(Verdict::New), |p| p.judge(producer, count));
        match verdict {
            Err(error) => refusal(stream, intake, error).map(Some),
            Ok(Verdict::New) => Ok(None),
            Ok(Verdict::Repeat(positions)) => {
                Counters::add(&core.counters.duplicates_total, count);
                // Where a position is no longer known, its batch may be the newest there is.
                let newest = intake.next.previous();
                let unknown = positions.iter().any(|position| position.is_none());
                let last = if unknown { newest } else { positions.iter().copied().max().unwrap_or(newest) };
                let positions = if batch.want_positions { positions } else { Vec::new() };
                let answer = Appended { duplicates: count, positions, ..nothing(intake) };
                Ok(Some(wait_for(stream, intake, last, Ok(answer))))
            }
        }
    }

    /// Finds out which events of a batch are new. They are remembered from here on.
    fn sort(
        &mut self,
        stream: &Arc<Stream>,
        intake: &mut Intake,
        batch: &Batch,
        ids: &[u64],
        dedupe: Dedupe,
    ) -> Result<Sorted, Error> {
        let shard = self.shard;
        if intake.window.is_none() {
            let window = read::load_window(&shard.core, stream, dedupe, self.taking)?;
            shard.account(0, window.bytes());
            intake.window = Some(Box::new(window));
            self.windows.insert(stream.id, stream.clone());
        }
        let first = intake.next;
        let Some(window) = intake.window.as_mut() else {
            return Err(Error::new(Kind::Internal, "append: the stream's window is not there"));
        };
        let before = window.bytes();
        let age = u64::try_from(dedupe.age.as_millis()).unwrap_or(u64::MAX);
        window.expire(self.taking.saturating_sub(age), dedupe.count);
        let mut sorted = Sorted::default();
        sorted.positions.reserve_exact(ids.len());
        sorted.kept.reserve_exact(ids.len());
        let (mut hits, mut recent) = (Vec::new(), Recent::default());
        let mut outcome = Ok(());
        'events: for (i, &hash) in ids.iter().enumerate() {
            hits.clear();
            hits.extend(window.find(hash));
            for &hit in &hits {
                let same = if hit >= first {
                    // Earlier in this very batch.
                    let index = usize::try_from(hit.0 - first.0).ok().and_then(|at| sorted.kept.get(at));
                    Ok(index.and_then(|&index| compare(inner(batch, i), inner(batch, index as usize))))
                } else if let Some((publisher, event)) = self.group.find(stream, hit) {
                    let ours = publisher == batch.publisher;
                    Ok(if ours { compare(inner(batch, i), event) } else { None })
                } else {
                    recent.compare(shard, stream, hit, batch.publisher, inner(batch, i))
                };
                match same {
                    Ok(Some(same)) => {
                        sorted.duplicates += 1;
                        sorted.conflicts += u64::from(!same);
                        sorted.original = sorted.original.max(hit);
                        sorted.positions.push(hit);
                        continue 'events;
                    }
                    Ok(None) => {}
                    Err(error) => {
                        outcome = Err(error);
                        break 'events;
                    }
                }
            }
            let position = first.plus(sorted.kept.len() as u64);
            window.push(hash, position, self.taking);
            sorted.kept.push(i as u32);
            sorted.positions.push(position);
        }
        shard.account(before, window.bytes());
        outcome.map(|()| sorted)
    }

    /// The answer to a batch of which nothing is new.
    fn nothing_new(
        &mut self,
        stream: &Arc<Stream>,
        intake: &mut Intake,
        batch: &Batch,
        sorted: Sorted,
    ) -> Outcome {
        let (duplicates, conflicts) = (sorted.duplicates, sorted.conflicts);
        let positions = if batch.want_positions { sorted.positions.clone() } else { Vec::new() };
        let answer = Appended { duplicates, conflicts, positions, ..nothing(intake) };
        let Some(producer) = batch.producer else {
            return wait_for(stream, intake, sorted.original, Ok(answer));
        };
        // Its sequence went on all the same, and that must outlive a restart.
        let chunk = Chunk {
            flags: flags(intake),
            publisher: batch.publisher,
            producer: producer.id,
            epoch: producer.epoch,
            sequence: producer.sequence,
            taking: self.taking,
            time: intake.time,
            ..Chunk::bare(ChunkKind::Producer, stream.id, intake.history, intake.next)
        };
        self.group.touch(stream, || update(intake));
        self.group.bare_with(chunk, &sorted.positions);
        self.remember(intake, producer, batch.ends.len(), Position::NONE, &sorted.positions);
        Outcome::Stored(answer)
    }

    fn remember(
        &self,
        intake: &mut Intake,
        producer: Producer,
        count: usize,
        first: Position,
        each: &[Position],
    ) {
        if let Some(producers) = intake.producers.as_mut() {
            let limit = self.shard.core.options.producers;
            producers.push(producer, count as u64, first, each, self.taking, limit);
        }
    }

    /// Puts the kept events of a batch into the open run; what lies together is copied at once.
    fn store(&mut self, batch: &Batch, kept: &[u32], ids: &[u64]) {
        let start = |i: usize| if i == 0 { 0 } else { batch.ends[i - 1] as usize };
        let end_of = |at: usize| batch.ends[kept[at] as usize] as usize;
        let mut at = 0;
        while at < kept.len() {
            let from = kept[at] as usize;
            let mut end = at + 1;
            // To the end of what lies together, or of what a chunk shall hold.
            let enough = start(from) + crate::group::CHUNK_BYTES;
            while end < kept.len() && kept[end] as usize == from + (end - at) && end_of(end) <= enough {
                end += 1;
            }
            let last = kept[end - 1] as usize;
            let body = &batch.body[start(from)..end_of(end - 1)];
            let hashes = if ids.is_empty() { &[][..] } else { &ids[from..=last] };
            if self.group.is_long() {
                self.group.split();
            }
            self.group.push(body, (end - at) as u32, hashes);
            at = end;
        }
    }

    /// A run from elsewhere, at its own positions.
    fn append_at(
        &mut self,
        stream: &Arc<Stream>,
        intake: &mut Intake,
        at: At,
        batch: &Batch,
    ) -> Result<Outcome, Error> {
        let count = batch.ends.len();
        if at.first < intake.next || at.first.is_none() {
            let head = intake.next.previous();
            let text = format!("append: position {} is taken, the last is {head}", at.first);
            return refusal(stream, intake, Error::new(Kind::Conflict, text).head(head));
        }
        if at.first.0.checked_add(count as u64).is_none_or(|next| next == u64::MAX) {
            return Err(Error::new(Kind::Invalid, "append: positions beyond the last there can be"));
        }
        if count == 0 {
            return Ok(Outcome::Now(nothing(intake)));
        }
        if at.first > intake.next {
            self.skip(stream, intake, at.first.previous())?;
        }
        intake.history = at.history;
        // The origin's time stands, but a stream's time never goes back.
        intake.time = intake.time.max(at.time);
        let chunk = Chunk {
            flags: flags(intake),
            encoding: 1,
            time: intake.time,
            taking: self.taking,
            publisher: batch.publisher,
            ..Chunk::bare(ChunkKind::Run, stream.id, at.history, at.first)
        };
        self.group.touch(stream, || update(intake));
        self.group.begin(chunk, batch.body.len());
        let kept: Vec<u32> = (0..count as u32).collect();
        self.store(batch, &kept, &[]);
        intake.next = at.first.plus(count as u64);
        self.updated(intake);
        let (first, last) = (at.first, intake.next.previous());
        Ok(Outcome::Stored(Appended { first, last, count: count as u64, ..nothing(intake) }))
    }

    fn skip(&mut self, stream: &Arc<Stream>, intake: &mut Intake, to: Position) -> Result<Outcome, Error> {
        if to < intake.next {
            return Ok(wait_for(stream, intake, intake.next.previous(), Ok(nothing(intake))));
        }
        if to.0 == u64::MAX {
            return Err(Error::new(Kind::Invalid, "skip: no position comes after the last there can be"));
        }
        let chunk = Chunk {
            flags: flags(intake),
            time: intake.time,
            taking: self.taking,
            sequence: to.0,
            encoding: reason_code(SkipReason::Gap),
            ..Chunk::bare(ChunkKind::Skip, stream.id, intake.history, intake.next)
        };
        intake.next = to.next();
        self.group.touch(stream, || update(intake));
        self.updated(intake);
        self.group.bare(chunk);
        Ok(Outcome::Stored(nothing(intake)))
    }

    /// Adds a chunk that only says something.
    fn bare(&mut self, stream: &Arc<Stream>, intake: &Intake, kind: ChunkKind, sequence: u64) {
        let chunk = Chunk {
            flags: flags(intake),
            time: intake.time,
            taking: self.taking,
            sequence,
            ..Chunk::bare(kind, stream.id, intake.history, intake.next)
        };
        self.group.touch(stream, || update(intake));
        self.updated(intake);
        self.group.bare(chunk);
    }

    /// Brings what readers will see of the stream touched last up to date.
    fn updated(&mut self, intake: &Intake) {
        if let Some(touched) = self.group.touched.last_mut() {
            let Update { first, removed, .. } = touched.update;
            touched.update = Update { first, removed, ..update(intake) };
        }
    }
}

/// An event of a batch, without its tag and length.
fn inner(batch: &Batch, i: usize) -> &[u8] {
    let start = if i == 0 { 0 } else { batch.ends[i - 1] as usize };
    events::split_first(&batch.body[start..batch.ends[i] as usize]).map_or(&[][..], |(event, _)| event)
}

/// `None` if two events are not the same, else whether they say the same.
pub(crate) fn compare(a: &[u8], b: &[u8]) -> Option<bool> {
    (events::identity(a) == events::identity(b)).then(|| events::same_content(a, b))
}

/// An answer that tells of a position waits until that position is as durable as the stream promises.
fn wait_for(stream: &Stream, intake: &Intake, last: Position, answer: Result<Appended, Error>) -> Outcome {
    let shared = lock(&stream.shared);
    let known = match intake.settings.durability {
        Durability::Fsync => shared.synced.min(shared.visible),
        Durability::Written => shared.visible,
    };
    match answer {
        Ok(appended) if last < known => Outcome::Now(appended),
        answer => Outcome::Synced(answer),
    }
}

/// A refusal that tells how the stream stands.
fn refusal(stream: &Stream, intake: &Intake, error: Error) -> Result<Outcome, Error> {
    if error.kind() != Kind::Conflict {
        return Err(error);
    }
    let visible = lock(&stream.shared).visible;
    if intake.next <= visible { Err(error) } else { Ok(Outcome::Synced(Err(error))) }
}

/// Every chunk of a stream under `written` says so: whichever of them survives a stop of the machine tells that
/// more may have been shown.
fn flags(intake: &Intake) -> u8 {
    if intake.settings.durability == Durability::Written { FLAG_WRITTEN } else { 0 }
}

/// An answer of which nothing was stored.
fn nothing(intake: &Intake) -> Appended {
    Appended {
        first: Position::NONE,
        last: Position::NONE,
        count: 0,
        duplicates: 0,
        conflicts: 0,
        history: intake.history,
        durability: intake.settings.durability,
        positions: Vec::new(),
    }
}

/// What readers see of a stream once its group is as durable as it has to be.
fn update(intake: &Intake) -> Update {
    Update {
        next: intake.next,
        time: intake.time,
        history: intake.history,
        first: None,
        removed: false,
        flagged: intake.settings.durability == Durability::Written,
    }
}
