//! The writer: the one place where positions are given.
//!
//! One thread per shard. It takes what waits, orders it by stream (stable, so that every stream's own order
//! stays), gives positions, drops duplicates, checks expectations and sequences, writes the group in one write
//! and hands it to the sync thread. Room in the file is taken before positions are given, so that a full disk
//! refuses before anything has happened.
//!
//! What a failure leaves: a write that failed, like a sync that failed, makes the file unusable from its last
//! known good place on. The streams touched forget what was not known to be good, their remembered ids are read
//! anew from the log, and the next group begins a new file whose header says where the old one ends. Streams
//! whose readers had seen what is now cut (under `written`) go on under a new history.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use weir_event::flow::{History, Position, Time};

use crate::api::{Appended, At, Batch, Durability, Error, Kind, SkipReason, StreamId};
use crate::counters::Counters;
use crate::dedupe::Verdict;
use crate::disk::{Why, is_full};
use crate::events;
use crate::format::{
    Chunk, ChunkKind, FLAG_WRITTEN, GroupHeader, GroupKind, Mark, SegmentHeader, reason_code,
};
use crate::group::Group;
use crate::read;
use crate::segment::{self, Segment};
use crate::shard::{Core, Record, Request, Shard, Work, disk_error, lock, unknown};
use crate::stream::{Intake, Stream, Update};

/// Room is taken in steps that double from the first to the second, so that a small log stays small.
const ROOM_STEPS: (u64, u64) = (1 << 20, 32 << 20);
/// Written groups that may wait for a sync nobody waits for.
const RECORDS_MAX: usize = 1024;

/// The thread's own state.
pub(crate) struct Writer {
    pub(crate) shard: Arc<Shard>,
    /// The file being written; `None` until there is something to write.
    pub(crate) segment: Option<Arc<Segment>>,
    /// Up to where it has room.
    pub(crate) room: u64,
    /// How much room is taken next.
    pub(crate) step: u64,
    /// Number of the next group.
    pub(crate) group: u64,
    /// Number of the next segment.
    pub(crate) next_segment: u64,
    /// Where the log ends.
    pub(crate) end: Mark,
    /// Streams that begin a history with the next group.
    pub(crate) histories: Vec<Arc<Stream>>,
    /// Streams whose ids are in memory.
    pub(crate) windows: HashMap<StreamId, Arc<Stream>>,
    /// The last place that an idle mark spoke of.
    pub(crate) marked: Mark,
    /// When the log was last written.
    pub(crate) wrote: Duration,
    /// When windows were last looked over.
    pub(crate) swept: Duration,
}

enum Next {
    Requests(Vec<Request>),
    Failed(Vec<Record>),
    Idle,
    Close,
}

impl Writer {
    /// Runs until the log is closed.
    pub(crate) fn run(mut self) {
        loop {
            match self.next() {
                Next::Requests(requests) => self.commit(requests),
                Next::Failed(records) => self.recover(records),
                Next::Idle => self.mark(GroupKind::Idle),
                Next::Close => {
                    self.mark(GroupKind::Close);
                    let mut gate = lock(&self.shard.gate);
                    gate.writer_done = true;
                    // What came in after the last look is told that the log is closed, by dropping its reply.
                    gate.durable.clear();
                    gate.written.clear();
                    drop(gate);
                    self.shard.sync_wake.notify_all();
                    return;
                }
            }
        }
    }

    /// Waits for something to do.
    fn next(&mut self) -> Next {
        let shard = self.shard.clone();
        let idle = shard.core.options.idle;
        let mut gate = lock(&shard.gate);
        loop {
            if let Some(records) = gate.failed.take() {
                return Next::Failed(records);
            }
            // One group that somebody waits for may be ahead of the one being synced, not more: then every group
            // is as large as the disk's own pace lets it grow.
            let room = !gate.awaited && gate.records.len() < RECORDS_MAX;
            if (room && !gate.durable.is_empty())
                || (!gate.written.is_empty() && gate.records.len() < RECORDS_MAX)
            {
                let mut requests = Vec::with_capacity(gate.durable.len() + gate.written.len());
                let mut bytes = 0;
                let limit = shard.core.options.group_bytes;
                while room
                    && bytes < limit
                    && let Some(request) = gate.durable.pop_front()
                {
                    bytes += request.bytes();
                    requests.push(request);
                }
                while bytes < limit
                    && let Some(request) = gate.written.pop_front()
                {
                    bytes += request.bytes();
                    requests.push(request);
                }
                gate.queued_bytes -= bytes;
                Counters::sub(&shard.core.counters.queued_bytes, bytes as u64);
                return Next::Requests(requests);
            }
            let settled = gate.records.is_empty() && !gate.in_flight;
            if gate.closing && gate.durable.is_empty() && gate.written.is_empty() {
                if settled {
                    return Next::Close;
                }
                gate.hurry = true;
                shard.sync_wake.notify_one();
            }
            let mut wait = None;
            if settled && gate.synced == self.end && self.marked != self.end && self.segment.is_some() {
                let since = shard.core.clock.elapsed().saturating_sub(self.wrote);
                match idle.checked_sub(since).filter(|left| !left.is_zero()) {
                    None => return Next::Idle,
                    left => wait = left,
                }
            }
            gate = match wait {
                None => shard.writer_wake.wait(gate).unwrap_or_else(std::sync::PoisonError::into_inner),
                Some(wait) => {
                    let waited = shard.writer_wake.wait_timeout(gate, wait);
                    waited.unwrap_or_else(std::sync::PoisonError::into_inner).0
                }
            };
        }
    }

    fn core(&self) -> Arc<Core> {
        self.shard.core.clone()
    }

    /// Makes one group of what waits, writes it and hands it on.
    fn commit(&mut self, mut requests: Vec<Request>) {
        let core = self.core();
        requests.sort_by_key(|request| request.stream.id);
        let most: usize = requests.iter().map(most_bytes).sum();
        let most = most + GroupHeader::LEN + self.histories.len() * Chunk::LEN;
        if requests.iter().any(|request| matches!(request.work, Work::Roll)) {
            self.roll();
        }
        let data = requests.iter().any(|r| matches!(r.work, Work::Append { .. } | Work::At { .. }));
        if data
            && !self.shard.is_control()
            && let Err(error) = core.room.admit(&core, most as u64)
        {
            // What is internal (retention above all) goes on: it is what makes room again.
            let (refused, rest) =
                requests.into_iter().partition(|r| matches!(r.work, Work::Append { .. } | Work::At { .. }));
            Counters::add(&core.counters.full_total, Vec::len(&refused) as u64);
            refuse(refused, &error);
            requests = rest;
        }
        if requests.is_empty() {
            return;
        }
        if let Err(error) = self.prepare(most as u64) {
            let error = if is_full(&error) {
                core.room.hit(&core);
                Counters::add(&core.counters.full_total, requests.len() as u64);
                disk_error(&error)
            } else {
                tracing::error!(%error, "a segment could not be made ready: appends are refused");
                disk_error(&error)
            };
            refuse(requests, &error);
            return;
        }
        let mut group = Group::new(core.salt, most);
        let now = core.clock.now();
        let taking = core.taking();
        self.begin_histories(&mut group, now, taking);
        for request in requests {
            self.take(&mut group, request, now, taking);
        }
        group.close();
        self.write(group, now, taking);
        self.sweep(taking);
    }

    /// Streams that got a new history say so before anything else of them.
    fn begin_histories(&mut self, group: &mut Group, now: Time, taking: u64) {
        let mut streams = std::mem::take(&mut self.histories);
        streams.sort_by_key(|stream| stream.id);
        for stream in streams {
            let mut intake = lock(&stream.intake);
            if std::mem::take(&mut intake.new_history) && !intake.removed {
                let chunk = Chunk {
                    flags: flags(&intake),
                    time: now.max(intake.time),
                    taking,
                    ..Chunk::bare(ChunkKind::History, stream.id, intake.history, intake.next)
                };
                group.touch(&stream, || update(&intake));
                group.bare(chunk);
            }
        }
    }

    /// Does what one request asks within the group.
    fn take(&mut self, group: &mut Group, request: Request, now: Time, taking: u64) {
        let Request { stream, work, reply } = request;
        let mut intake = lock(&stream.intake);
        let mut outcome = if intake.removed && !matches!(work, Work::Roll) {
            Err(Error::new(Kind::NotFound, "append: the stream is gone"))
        } else {
            if !matches!(work, Work::At { .. }) {
                intake.time = intake.time.max(now);
            }
            match work {
                Work::Append { batch, ids } => self.append(group, &stream, &mut intake, &batch, ids, taking),
                Work::At { at, batch } => append_at(group, &stream, &mut intake, at, &batch, taking),
                Work::Skip { to, repair } => {
                    let reason = if repair { SkipReason::Repair } else { SkipReason::Gap };
                    skip(group, &stream, &mut intake, to, reason, taking)
                }
                Work::Trim { first } => trim(group, &stream, &mut intake, first, taking),
                Work::History(history) => {
                    intake.history = history;
                    bare(group, &stream, &mut intake, ChunkKind::History, 0, taking);
                    Ok(Wait::Synced(nothing(&intake)))
                }
                Work::Remove => {
                    intake.removed = true;
                    intake.window = None;
                    intake.producers = None;
                    bare(group, &stream, &mut intake, ChunkKind::Remove, 0, taking);
                    if let Some(touched) = group.touched.last_mut() {
                        touched.update.removed = true;
                    }
                    Ok(Wait::Synced(nothing(&intake)))
                }
                Work::Roll => Ok(Wait::Synced(nothing(&intake))),
            }
        };
        let quick = intake.settings.durability == Durability::Written && intake.anchored;
        drop(intake);
        let Some(reply) = reply else { return };
        if quick && let Ok(Wait::Stored(appended)) = outcome {
            outcome = Ok(Wait::Written(appended));
        }
        match outcome {
            Ok(Wait::Stored(appended) | Wait::Synced(appended)) => group.synced.push((reply, appended)),
            Ok(Wait::Written(appended)) => group.written.push((reply, appended)),
            Ok(Wait::Nothing(appended)) => group.refused.push((reply, Ok(appended))),
            Err(error) => group.refused.push((reply, Err(error))),
        }
    }

    /// Gives positions to a batch.
    fn append(
        &mut self,
        group: &mut Group,
        stream: &Arc<Stream>,
        intake: &mut Intake,
        batch: &Batch,
        mut ids: Vec<u64>,
        taking: u64,
    ) -> Result<Wait, Error> {
        let core = self.core();
        let count = batch.ends.len();
        let events = |i: usize| {
            let start = if i == 0 { 0 } else { batch.ends[i - 1] as usize };
            &batch.body[start..batch.ends[i] as usize]
        };
        if let Some(producer) = batch.producer {
            if intake.producers.is_none() {
                intake.producers = Some(Box::new(read::load_producers(&core, stream)?));
            }
            let verdict = intake.producers.as_ref().map(|p| p.judge(producer, count as u64));
            if let Some(Verdict::Repeat(positions)) = verdict.transpose()? {
                let last = positions.iter().copied().max().unwrap_or_default();
                let repeat = Appended {
                    duplicates: count as u64,
                    positions: if batch.want_positions { positions } else { Vec::new() },
                    ..nothing(intake)
                };
                Counters::add(&core.counters.duplicates_total, count as u64);
                return Ok(wait_for(stream, last, repeat));
            }
        }
        let dedupe = intake.settings.dedupe;
        // Which events are new, and where all of them are.
        let mut kept: Vec<u32> = Vec::with_capacity(count);
        let mut positions: Vec<Position> = Vec::new();
        let (mut duplicates, mut conflicts, mut original) = (0_u64, 0_u64, Position::NONE);
        let first = intake.next;
        if let Some(dedupe) = dedupe {
            if intake.window.is_none() {
                intake.window = Some(Box::new(read::load_window(&core, stream, dedupe, taking)?));
                self.windows.insert(stream.id, stream.clone());
            }
            if ids.len() != count {
                ids = (0..count)
                    .map(|i| {
                        let event = events::split_first(events(i)).map_or(&[][..], |(event, _)| event);
                        events::hash(&core.key, batch.publisher, event)
                    })
                    .collect();
            }
            let Some(window) = intake.window.as_mut() else { return Err(internal()) };
            let before = window.bytes();
            let age = u64::try_from(dedupe.age.as_millis()).unwrap_or(u64::MAX);
            window.expire(taking.saturating_sub(age), dedupe.count);
            let mut hits: Vec<Position> = Vec::new();
            let mut known = read::Recent::default();
            for (i, &hash) in ids.iter().enumerate() {
                hits.clear();
                hits.extend(window.find(hash));
                let mut found = None;
                for &hit in &hits {
                    let stored = if hit >= first {
                        // Earlier in this very batch.
                        let index = kept.get((hit.0 - first.0) as usize).map_or(0, |&k| k as usize);
                        Some(same(events(i), events(index)))
                    } else if let Some((publisher, event)) = group.find(stream, hit) {
                        (publisher == batch.publisher).then(|| same_event(events(i), event))
                    } else {
                        known.compare(&core, &self.shard, stream, hit, batch.publisher, events(i))?
                    };
                    if let Some(Some(same_content)) = stored {
                        found = Some((hit, same_content));
                        break;
                    }
                }
                match found {
                    Some((position, same_content)) => {
                        duplicates += 1;
                        conflicts += u64::from(!same_content);
                        original = original.max(position);
                        positions.push(position);
                    }
                    None => {
                        let position = first.plus(kept.len() as u64);
                        window.push(hash, position, taking);
                        kept.push(i as u32);
                        positions.push(position);
                    }
                }
            }
            account(&core, before, window.bytes());
        } else {
            kept.extend(0..count as u32);
        }
        if kept.is_empty() && count > 0 {
            Counters::add(&core.counters.duplicates_total, duplicates);
            Counters::add(&core.counters.conflicts_total, conflicts);
            let answer = Appended {
                duplicates,
                conflicts,
                positions: if batch.want_positions { positions.clone() } else { Vec::new() },
                ..nothing(intake)
            };
            if let Some(producer) = batch.producer {
                // Its sequence went on all the same, and that must outlive a restart.
                let chunk = Chunk {
                    flags: flags(intake),
                    publisher: batch.publisher,
                    producer: producer.id,
                    epoch: producer.epoch,
                    sequence: producer.sequence,
                    taking,
                    time: intake.time,
                    ..Chunk::bare(ChunkKind::Producer, stream.id, intake.history, intake.next)
                };
                group.touch(stream, || update(intake));
                group.bare_with(chunk, &positions);
                remember(&core, intake, producer, count, Position::NONE, &positions, taking);
                return Ok(Wait::Stored(answer));
            }
            return Ok(wait_for(stream, original, answer));
        }
        if let Some(expected) = batch.expect
            && expected != intake.next.previous()
        {
            if let Some(window) = intake.window.as_mut() {
                window.truncate(first);
            }
            let head = intake.next.previous();
            let text = format!("append: the last position is {head}, not {expected}");
            return Err(Error::new(Kind::Conflict, text).head(head));
        }
        if count == 0 {
            return Ok(Wait::Nothing(nothing(intake)));
        }
        let cut = kept.len() < count;
        let chunk = Chunk {
            flags: flags(intake),
            encoding: 1,
            time: intake.time,
            taking,
            publisher: batch.publisher,
            producer: batch.producer.map_or(0, |p| p.id),
            epoch: batch.producer.map_or(0, |p| p.epoch),
            sequence: batch.producer.map_or(0, |p| p.sequence),
            sequences: if batch.producer.is_some() && !cut { count as u32 } else { 0 },
            // Only says whether hashes come with it; the length is known when the chunk is closed.
            extra_len: u32::from(dedupe.is_some()),
            ..Chunk::bare(ChunkKind::Run, stream.id, intake.history, first)
        };
        group.touch(stream, || update(intake));
        group.begin(chunk, batch.body.len());
        store(group, batch, &kept, if dedupe.is_some() { &ids } else { &[] });
        if batch.producer.is_some() {
            group.close_with(if cut { &positions } else { &[] });
        }
        intake.next = first.plus(kept.len() as u64);
        if let Some(touched) = group.touched.last_mut() {
            touched.update = Update { first: touched.update.first, ..update(intake) };
        }
        if let Some(producer) = batch.producer {
            let each = if cut { &positions[..] } else { &[] };
            remember(&core, intake, producer, count, first, each, taking);
        }
        let counters = &core.counters;
        Counters::add(&counters.appends_total, 1);
        Counters::add(&counters.events_total, kept.len() as u64);
        Counters::add(&counters.event_bytes_total, batch.body.len() as u64);
        Counters::add(&counters.duplicates_total, duplicates);
        Counters::add(&counters.conflicts_total, conflicts);
        if batch.want_positions && dedupe.is_none() {
            positions = (0..count as u64).map(|i| first.plus(i)).collect();
        }
        Ok(Wait::Stored(Appended {
            first,
            last: intake.next.previous(),
            count: kept.len() as u64,
            duplicates,
            conflicts,
            positions: if batch.want_positions { positions } else { Vec::new() },
            ..nothing(intake)
        }))
    }

    /// Writes a group, lets readers of `written` streams see it, and hands it to the sync thread.
    fn write(&mut self, mut group: Group, now: Time, taking: u64) {
        let core = self.core();
        for (reply, outcome) in group.refused.drain(..) {
            let _ = reply.send(outcome);
        }
        if group.is_empty() {
            if !group.synced.is_empty() || !group.written.is_empty() {
                let mut replies = std::mem::take(&mut group.synced);
                replies.append(&mut group.written);
                self.hand_on(Record { segment: None, end: self.end, touched: Vec::new(), replies }, 0);
            }
            return;
        }
        let Some(segment) = self.segment.clone() else { return };
        let header = self.header(GroupKind::Chunks, now.max(group.time()), taking);
        let bytes = group.finish(header);
        let at = self.end;
        if let Err(error) = segment.file.write_at(&bytes, at.offset) {
            tracing::error!(%error, "a write failed: the shard goes on in a new file");
            self.fail_write(group, &error);
            return;
        }
        self.group += 1;
        self.end.offset += bytes.len() as u64;
        segment.end.store(self.end.offset, Relaxed);
        self.wrote = core.clock.elapsed();
        Counters::add(&core.counters.groups_total, 1);
        Counters::add(&core.counters.written_bytes_total, bytes.len() as u64);
        Counters::add(&core.counters.segment_bytes, bytes.len() as u64);
        let length = bytes.len() as u64;
        self.shard.cache.push(at, bytes);
        self.index(&mut group, &segment, at.offset);
        for (reply, appended) in group.written.drain(..) {
            let _ = reply.send(Ok(appended));
        }
        let Group { touched, synced, .. } = group;
        self.hand_on(Record { segment: Some(segment), end: self.end, touched, replies: synced }, length);
    }

    /// Tells the streams of a written group where its chunks lie.
    fn index(&self, group: &mut Group, segment: &Arc<Segment>, base: u64) {
        let mut entries = group.entries.iter().peekable();
        for (i, touched) in group.touched.iter_mut().enumerate() {
            let intake = lock(&touched.stream.intake);
            let quick = intake.settings.durability == Durability::Written && intake.anchored;
            let mut shared = lock(&touched.stream.shared);
            while let Some((_, entry)) = entries.next_if(|(at, _)| *at == i) {
                shared.index(segment, segment::Entry { offset: entry.offset + base as u32, ..*entry });
            }
            shared.written = touched.update.next;
            if quick {
                shared.show(&touched.update);
                touched.shown = true;
            }
        }
    }

    /// Hands a record to the sync thread.
    fn hand_on(&self, record: Record, bytes: u64) {
        let mut gate = lock(&self.shard.gate);
        if record.segment.is_none() && gate.records.is_empty() && !gate.in_flight && gate.failed.is_none() {
            // All before it is synced already.
            drop(gate);
            for (reply, appended) in record.replies {
                let _ = reply.send(Ok(appended));
            }
            return;
        }
        gate.awaited |= record.segment.is_some() && !record.replies.is_empty()
            || record.touched.iter().any(|touched| !touched.shown);
        gate.hurry |= record.segment.is_none();
        gate.unsynced_bytes += bytes;
        gate.dirty_since.get_or_insert(self.wrote);
        gate.records.push_back(record);
        drop(gate);
        self.shard.sync_wake.notify_one();
    }

    fn header(&self, kind: GroupKind, time: Time, taking: u64) -> GroupHeader {
        let core = &self.shard.core;
        let synced = lock(&self.shard.gate).synced;
        let (session, boot) = (core.session, core.boot);
        GroupHeader { kind, number: self.group, length: 0, chunks: 0, synced, time, taking, session, boot }
    }

    /// Makes sure of a file with room for `bytes` more.
    fn prepare(&mut self, bytes: u64) -> std::io::Result<()> {
        let core = self.core();
        if self.segment.is_some() && self.end.offset + bytes > u64::from(core.options.segment_bytes) {
            self.roll();
        }
        let result = self.take_room(bytes);
        if let Err(error) = &result
            && is_full(error)
            && self.shard.is_control()
            && core.room.release(&core)
        {
            return self.take_room(bytes);
        }
        result
    }

    fn take_room(&mut self, bytes: u64) -> std::io::Result<()> {
        let core = self.core();
        if self.segment.is_none() {
            let shard = self.shard.number;
            let synced = lock(&self.shard.gate).synced;
            if self.marked == self.end {
                // The old file ends with an idle mark. Marks are not synced, so nothing may rest on one.
                if let Some(last) = lock(&self.shard.segments).get(&synced.segment) {
                    last.end.store(synced.offset, Relaxed);
                }
                self.end = synced;
            }
            let header = SegmentHeader {
                shard,
                number: self.next_segment,
                upto: self.next_segment,
                generation: 0,
                previous: self.end,
                synced,
                time: core.clock.now(),
                end: 0,
            };
            let path = segment::path(shard, header.number, 0);
            let file = match core.disk.create(&path) {
                // Left by a try that failed halfway: nothing in it was ever believed.
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                    core.disk.remove(&path)?;
                    core.disk.create(&path)?
                }
                result => result?,
            };
            self.step = ROOM_STEPS.0.min(u64::from(core.options.segment_bytes));
            file.allocate(self.step.max(SegmentHeader::LEN as u64 + bytes))?;
            file.write_at(&header.encode(core.salt), 0)?;
            core.disk.sync_dir(&segment::directory(shard), Why::Segment)?;
            Counters::add(&core.counters.dir_flushes_total, 1);
            self.room = self.step.max(SegmentHeader::LEN as u64 + bytes);
            let offset = SegmentHeader::LEN as u64;
            let segment = Segment::new(header, file, offset, false);
            lock(&self.shard.segments).insert(header.number, segment.clone());
            Counters::add(&core.counters.segments, 1);
            self.end = Mark { segment: header.number, offset };
            self.next_segment += 1;
            self.segment = Some(segment);
        }
        let need = self.end.offset + bytes;
        if let Some(segment) = self.segment.as_ref().filter(|_| need > self.room) {
            self.step = (self.step * 2).min(ROOM_STEPS.1);
            let whole = u64::from(core.options.segment_bytes).max(need);
            let want = need.max(self.room + self.step).min(whole);
            segment.file.allocate(want)?;
            self.room = want;
        }
        Ok(())
    }

    /// Ends the file being written; the next group begins another.
    fn roll(&mut self) {
        if let Some(segment) = self.segment.take() {
            segment.sealed.store(true, Relaxed);
            self.shard.core.duty.nudge();
        }
    }

    /// Writes a group without chunks.
    fn mark(&mut self, kind: GroupKind) {
        let core = self.core();
        self.marked = self.end;
        if kind == GroupKind::Close && self.segment.is_none() && self.end.segment == 0 {
            return;
        }
        if self.prepare(GroupHeader::LEN as u64).is_err() {
            return;
        }
        let Some(segment) = self.segment.clone() else { return };
        let bytes = self.header(kind, core.clock.now(), core.taking()).encode(core.salt);
        if let Err(error) = segment.file.write_at(&bytes, self.end.offset) {
            tracing::warn!(%error, "a mark could not be written");
            return;
        }
        self.group += 1;
        self.end.offset += bytes.len() as u64;
        self.marked = self.end;
        segment.end.store(self.end.offset, Relaxed);
        Counters::add(&core.counters.written_bytes_total, bytes.len() as u64);
        if kind == GroupKind::Close {
            let record =
                Record { segment: Some(segment), end: self.end, touched: Vec::new(), replies: Vec::new() };
            let mut gate = lock(&self.shard.gate);
            gate.hurry = true;
            gate.records.push_back(record);
        }
    }

    /// A write failed: nothing of the group counts, and the file is not written again.
    fn fail_write(&mut self, mut group: Group, error: &std::io::Error) {
        let cause = unknown(&error.to_string());
        for (reply, _) in group.synced.drain(..).chain(group.written.drain(..)) {
            let _ = reply.send(Err(cause.clone()));
        }
        let to = self.end;
        for touched in &group.touched {
            let next = lock(&touched.stream.shared).written;
            self.roll_back(&touched.stream, to, next);
        }
        self.roll();
    }

    /// A sync failed: what was not known to be synced is gone.
    fn recover(&mut self, failed: Vec<Record>) {
        let core = self.core();
        let (records, to) = {
            let mut gate = lock(&self.shard.gate);
            let mut records = failed;
            records.extend(gate.records.drain(..));
            (gate.awaited, gate.unsynced_bytes, gate.dirty_since) = (false, 0, None);
            (records, gate.synced)
        };
        let cause = unknown("a sync failed");
        self.shard.cache.forget(to, u64::MAX);
        for record in &records {
            for touched in &record.touched {
                let next = lock(&touched.stream.shared).synced;
                self.roll_back(&touched.stream, to, next);
            }
        }
        for (reply, _) in records.into_iter().flat_map(|record| record.replies) {
            let _ = reply.send(Err(cause.clone()));
        }
        // Files after the one that is cut were never believed.
        let void: Vec<u64> =
            lock(&self.shard.segments).range(to.segment + 1..).map(|(number, _)| *number).collect();
        for number in void {
            lock(&self.shard.segments).remove(&number);
            let _ = core.disk.remove(&segment::path(self.shard.number, number, 0));
            Counters::sub(&core.counters.segments, 1);
        }
        if let Some(last) = lock(&self.shard.segments).get(&to.segment) {
            last.end.store(to.offset, Relaxed);
        }
        self.end = to;
        self.roll();
    }

    /// Takes a stream back to where the log is believed.
    fn roll_back(&mut self, stream: &Arc<Stream>, to: Mark, next: Position) {
        let core = self.core();
        let mut intake = lock(&stream.intake);
        let mut shared = lock(&stream.shared);
        let shown = shared.roll_back(to, next);
        (intake.next, intake.first) = (next, shared.first);
        if let Some(window) = intake.window.take() {
            account(&core, window.bytes(), 0);
        }
        self.windows.remove(&stream.id);
        intake.producers = None;
        intake.anchored = false;
        if shown {
            intake.history = History(core.clock.random());
            tracing::warn!(stream = stream.id.0, %next, "events shown were lost: the stream has a new history");
        }
        if intake.history != shared.history || shown {
            shared.history = intake.history;
            intake.new_history = true;
            self.histories.push(stream.clone());
            shared.notify();
        }
    }

    /// Keeps the memory that remembers ids within its limit, and forgets what is past its window.
    fn sweep(&mut self, taking: u64) {
        let core = self.core();
        let limit = core.options.dedupe_bytes as u64;
        let now = core.clock.elapsed();
        let over = core.counters.dedupe_bytes.load(Relaxed) > limit;
        if !over && now.saturating_sub(self.swept) < Duration::from_secs(30) {
            return;
        }
        self.swept = now;
        let mut since = 0;
        loop {
            let mut oldest = taking;
            self.windows.retain(|_, stream| {
                let mut intake = lock(&stream.intake);
                let (dedupe, Some(window)) = (intake.settings.dedupe, intake.window.as_mut()) else {
                    return false;
                };
                let before = window.bytes();
                let (age, count) = dedupe.map_or((0, 0), |d| (d.age.as_millis() as u64, d.count));
                window.expire(since.max(taking.saturating_sub(age)), count);
                oldest = oldest.min(window.oldest().unwrap_or(taking));
                let after = window.bytes();
                account(&core, before, after);
                true
            });
            if core.counters.dedupe_bytes.load(Relaxed) <= limit || since > taking {
                return;
            }
            // An eighth of the time remembered at once, so that a full memory is not swept for every batch.
            since = oldest + (taking - oldest) / 8 + 1;
        }
    }
}

/// What an answer waits for.
enum Wait {
    /// Its group to be as durable as the stream promises.
    Stored(Appended),
    /// Its group, or those before it, to be synced.
    Synced(Appended),
    /// Its group to be written.
    Written(Appended),
    /// Nothing.
    Nothing(Appended),
}

/// An answer about what was stored before waits until that can be seen.
fn wait_for(stream: &Stream, last: Position, answer: Appended) -> Wait {
    if last < lock(&stream.shared).visible { Wait::Nothing(answer) } else { Wait::Synced(answer) }
}

fn internal() -> Error {
    Error::new(Kind::Internal, "append: the stream's window is not there")
}

/// Every chunk of a stream under `written` says so: whichever of them survives a stop of the machine tells that
/// more may have been shown.
fn flags(intake: &Intake) -> u8 {
    if intake.settings.durability == Durability::Written { FLAG_WRITTEN } else { 0 }
}

/// Keeps count of the memory that remembers ids.
fn account(core: &Core, before: usize, after: usize) {
    Counters::add(&core.counters.dedupe_bytes, after as u64);
    Counters::sub(&core.counters.dedupe_bytes, before as u64);
}

/// Compares two events with their tags: `None` if they are not the same event, else whether they say the same.
fn same(a: &[u8], b: &[u8]) -> Option<bool> {
    same_event(a, events::split_first(b)?.0)
}

/// As [`same`], the second without its tag.
pub(crate) fn same_event(a: &[u8], b: &[u8]) -> Option<bool> {
    let a = events::split_first(a)?.0;
    (events::identity(a) == events::identity(b)).then(|| events::same_content(a, b))
}

/// Most bytes a request can take in a group.
fn most_bytes(request: &Request) -> usize {
    let headers = |batch: &Batch| {
        let count = batch.ends.len();
        batch.body.len() + count * 16 + Chunk::LEN * (3 + batch.body.len() / crate::group::CHUNK_BYTES)
    };
    match &request.work {
        Work::Append { batch, .. } | Work::At { batch, .. } => headers(batch),
        _ => Chunk::LEN * 2,
    }
}

fn refuse(requests: Vec<Request>, error: &Error) {
    for request in requests {
        if let Some(reply) = request.reply {
            let _ = reply.send(Err(error.clone()));
        }
    }
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
    Update { next: intake.next, time: intake.time, history: intake.history, first: None, removed: false }
}

fn remember(
    core: &Core,
    intake: &mut Intake,
    producer: crate::api::Producer,
    count: usize,
    first: Position,
    each: &[Position],
    taking: u64,
) {
    if let Some(producers) = intake.producers.as_mut() {
        producers.push(producer, count as u64, first, each, taking, core.options.producers);
    }
}

/// Puts the kept events of a batch into the open run; what lies together is copied at once.
fn store(group: &mut Group, batch: &Batch, kept: &[u32], ids: &[u64]) {
    let start = |i: usize| if i == 0 { 0 } else { batch.ends[i - 1] as usize };
    let mut at = 0;
    while at < kept.len() {
        let from = kept[at] as usize;
        let mut end = at + 1;
        // To the end of what lies together, or of what a chunk shall hold.
        let enough = start(from) + crate::group::CHUNK_BYTES;
        while end < kept.len()
            && kept[end] as usize == from + (end - at)
            && (batch.ends[kept[end] as usize] as usize) <= enough
        {
            end += 1;
        }
        let last = kept[end - 1] as usize;
        let body: &[u8] = &batch.body[start(from)..batch.ends[last] as usize];
        let hashes = if ids.is_empty() { &[][..] } else { &ids[from..=last] };
        if group.is_long() {
            group.split();
        }
        group.push(body, (end - at) as u32, hashes);
        at = end;
    }
}

/// Adds a chunk that only says something.
fn bare(
    group: &mut Group,
    stream: &Arc<Stream>,
    intake: &mut Intake,
    kind: ChunkKind,
    sequence: u64,
    taking: u64,
) {
    let chunk = Chunk {
        flags: flags(intake),
        time: intake.time,
        taking,
        sequence,
        ..Chunk::bare(kind, stream.id, intake.history, intake.next)
    };
    let touched = group.touch(stream, || update(intake));
    touched.update = Update { first: touched.update.first, ..update(intake) };
    group.bare(chunk);
}

fn skip(
    group: &mut Group,
    stream: &Arc<Stream>,
    intake: &mut Intake,
    to: Position,
    reason: SkipReason,
    taking: u64,
) -> Result<Wait, Error> {
    if to < intake.next {
        return Ok(wait_for(stream, intake.next.previous(), nothing(intake)));
    }
    if to.0 == u64::MAX {
        return Err(Error::new(Kind::Invalid, "skip: no position comes after the last there can be"));
    }
    let chunk = Chunk {
        flags: flags(intake),
        time: intake.time,
        taking,
        sequence: to.0,
        encoding: reason_code(reason),
        ..Chunk::bare(ChunkKind::Skip, stream.id, intake.history, intake.next)
    };
    intake.next = to.next();
    let touched = group.touch(stream, || update(intake));
    touched.update = Update { first: touched.update.first, ..update(intake) };
    group.bare(chunk);
    Ok(Wait::Stored(nothing(intake)))
}

fn trim(
    group: &mut Group,
    stream: &Arc<Stream>,
    intake: &mut Intake,
    first: Position,
    taking: u64,
) -> Result<Wait, Error> {
    // The last trim in the log is the one that counts.
    let first = first.min(intake.next).max(intake.first);
    intake.first = first;
    bare(group, stream, intake, ChunkKind::Trim, first.0, taking);
    if let Some(touched) = group.touched.last_mut() {
        touched.update.first = touched.update.first.max(Some(first));
    }
    Ok(Wait::Synced(nothing(intake)))
}

fn append_at(
    group: &mut Group,
    stream: &Arc<Stream>,
    intake: &mut Intake,
    at: At,
    batch: &Batch,
    taking: u64,
) -> Result<Wait, Error> {
    let count = batch.ends.len();
    if at.first < intake.next || at.first.is_none() {
        let head = intake.next.previous();
        let text = format!("append: position {} is taken, the last is {head}", at.first);
        return Err(Error::new(Kind::Conflict, text).head(head));
    }
    if at.first.0.checked_add(count as u64).is_none_or(|next| next == u64::MAX) {
        return Err(Error::new(Kind::Invalid, "append: positions beyond the last there can be"));
    }
    if count == 0 {
        return Ok(Wait::Nothing(nothing(intake)));
    }
    if at.first > intake.next {
        skip(group, stream, intake, at.first.previous(), SkipReason::Gap, taking)?;
    }
    intake.history = at.history;
    // The origin's time stands, but a stream's time never goes back.
    intake.time = intake.time.max(at.time);
    let chunk = Chunk {
        flags: flags(intake),
        encoding: 1,
        time: intake.time,
        taking,
        publisher: batch.publisher,
        ..Chunk::bare(ChunkKind::Run, stream.id, at.history, at.first)
    };
    group.touch(stream, || update(intake));
    group.begin(chunk, batch.body.len());
    let kept: Vec<u32> = (0..count as u32).collect();
    store(group, batch, &kept, &[]);
    intake.next = at.first.plus(count as u64);
    if let Some(touched) = group.touched.last_mut() {
        touched.update = Update { first: touched.update.first, ..update(intake) };
    }
    Ok(Wait::Stored(Appended {
        first: at.first,
        last: intake.next.previous(),
        count: count as u64,
        ..nothing(intake)
    }))
}
