//! The writer: makes groups of what waits and writes them.
//!
//! One thread per shard. It takes what waits, orders it by stream (stable, so that every stream's own order
//! stays), has positions given to it (`assign`), writes the group in one write and hands it to the sync thread. Room in the file is taken before positions are given, so that a full disk
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

use crate::api::{Batch, Durability, Error, StreamId};
use crate::assign::Assign;
use crate::counters::Counters;
use crate::disk::{Why, is_full};
use crate::format::{Chunk, GroupHeader, GroupKind, Mark, SegmentHeader};
use crate::group::Group;
use crate::segment::{self, Segment};
use crate::shard::{Core, Guard, Record, Request, Shard, Work, disk_error, lock, unknown};
use crate::stream::Stream;
use crate::sync;

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
    /// Files that never counted, to be removed once another is synced.
    pub(crate) void: Vec<String>,
    /// Closing has tried to write the histories that wait.
    pub(crate) told: bool,
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
        let _guard = Guard(self.shard.clone());
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
            if let Some(mut records) = gate.failed.take() {
                // All in one step: the sync thread must not get hold of a group of a file it failed on.
                records.extend(gate.records.drain(..));
                (gate.awaited, gate.hurry, gate.unsynced_bytes, gate.dirty_since) = (false, false, 0, None);
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
                if settled && !self.histories.is_empty() && !self.told {
                    // Readers may know of them: they go into the log before it says that it was closed.
                    self.told = true;
                    return Next::Requests(Vec::new());
                }
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
        if requests.iter().any(is_data)
            && !self.shard.is_control()
            && let Err(error) = core.room.admit(&core, most as u64)
        {
            // What is internal (retention above all) goes on: it is what makes room again.
            let (refused, rest) = requests.into_iter().partition(is_data);
            Counters::add(&core.counters.full_total, Vec::len(&refused) as u64);
            refuse(refused, &error);
            requests = rest;
        }
        if requests.is_empty() && self.histories.is_empty() {
            return;
        }
        // The reserve is for what makes room or is decided: not for events, but for those of control streams.
        let reserved = self.shard.is_control() || !requests.iter().any(is_data);
        if let Err(error) = self.prepare(most as u64, reserved) {
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
        let (now, taking) = (core.clock.now(), core.taking());
        let group = Group::new(core.salt, most);
        let histories = std::mem::take(&mut self.histories);
        let mut assign = Assign { shard: &self.shard, group, windows: &mut self.windows, now, taking };
        assign.begin_histories(histories);
        for request in requests {
            assign.take(request);
        }
        let mut group = assign.group;
        group.close();
        self.write(group, now, taking);
        self.sweep(taking);
        if !self.void.is_empty() && lock(&self.shard.gate).synced.segment == self.end.segment {
            for path in self.void.drain(..) {
                // Left behind it is removed at the next start.
                let _ = core.disk.remove(&path);
            }
        }
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
                replies.extend(group.written.drain(..).map(|(reply, appended)| (reply, Ok(appended))));
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
            // What readers are told is gone is gone only once that is synced.
            if quick && touched.update.first.is_none() && !touched.update.removed {
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
            for (reply, answer) in record.replies {
                let _ = reply.send(answer);
            }
            return;
        }
        gate.awaited |= record.segment.is_some() && !record.replies.is_empty()
            || record.touched.iter().any(|touched| !touched.shown);
        gate.hurry |= record.segment.is_none();
        gate.unsynced_bytes += bytes;
        gate.dirty_since.get_or_insert(self.wrote);
        gate.records.push_back(record);
        // Groups that nobody waits for wake the sync thread once, to begin its wait, and then when it is due: a wake
        // for each would cost as much as writing it.
        let wake = gate.awaited || gate.hurry || gate.records.len() == 1 || sync::is_much(&gate);
        drop(gate);
        if wake {
            self.shard.sync_wake.notify_one();
        }
    }

    fn header(&self, kind: GroupKind, time: Time, taking: u64) -> GroupHeader {
        let core = &self.shard.core;
        let synced = lock(&self.shard.gate).synced;
        let (session, boot) = (core.session, core.boot);
        GroupHeader { kind, number: self.group, length: 0, chunks: 0, synced, time, taking, session, boot }
    }

    /// Makes sure of a file with room for `bytes` more.
    fn prepare(&mut self, bytes: u64, reserved: bool) -> std::io::Result<()> {
        let core = self.core();
        if self.segment.is_some() && self.end.offset + bytes > u64::from(core.options.segment_bytes) {
            self.roll();
        }
        let result = self.take_room(bytes);
        if let Err(error) = &result
            && is_full(error)
            && reserved
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
        // A file without a group is not known to be synced, not even its header: no other may rest on it.
        if let Some(segment) = self.segment.take_if(|_| self.end.offset > SegmentHeader::LEN as u64) {
            segment.sealed.store(true, Relaxed);
            self.shard.core.duty.nudge();
        }
    }

    /// Leaves the file being written where it was last good.
    fn abandon(&mut self) {
        self.roll();
        if let Some(empty) = self.segment.take() {
            self.end = empty.header.previous;
            lock(&self.shard.segments).remove(&empty.number());
            let _ = self.shard.core.disk.remove(empty.file.path());
            Counters::sub(&self.shard.core.counters.segments, 1);
        }
    }

    /// Writes a group without chunks.
    fn mark(&mut self, kind: GroupKind) {
        let core = self.core();
        self.marked = self.end;
        if kind == GroupKind::Close && self.segment.is_none() && self.end.segment == 0 {
            return;
        }
        if self.prepare(GroupHeader::LEN as u64, true).is_err() {
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
            // Room not used goes back: after this group nothing follows, and opening need not look for more.
            if let Err(error) = segment.file.truncate(self.end.offset) {
                tracing::warn!(%error, "room taken in advance could not be given back");
            }
            self.room = self.end.offset;
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
        let replies = group.synced.drain(..).map(|(reply, _)| reply);
        for reply in replies.chain(group.written.drain(..).map(|(reply, _)| reply)) {
            let _ = reply.send(Err(cause.clone()));
        }
        let to = self.end;
        for touched in &group.touched {
            let next = lock(&touched.stream.shared).written;
            self.roll_back(&touched.stream, to, next);
        }
        self.abandon();
    }

    /// A sync failed: what was not known to be synced is gone.
    fn recover(&mut self, failed: Vec<Record>) {
        let core = self.core();
        let (records, to) = (failed, lock(&self.shard.gate).synced);
        let cause = unknown("a sync failed");
        self.shard.cache.forget(to, u64::MAX);
        for record in &records {
            for touched in &record.touched {
                let next = lock(&touched.stream.shared).synced;
                self.roll_back(&touched.stream, to, next);
                if touched.update.removed {
                    // Nobody waits for it, and the stream is gone for its readers: it has to be said again.
                    let request = Request { stream: touched.stream.clone(), work: Work::Remove, reply: None };
                    lock(&self.shard.gate).durable.push_back(request);
                }
            }
        }
        for (reply, _) in records.into_iter().flat_map(|record| record.replies) {
            let _ = reply.send(Err(cause.clone()));
        }
        // Files after the one that is cut are void once another says where the log goes on. Until then a process that
        // is killed finds them as they are, and readers what they saw under `written`.
        let mut segments = lock(&self.shard.segments);
        let void = segments.split_off(&(to.segment + 1));
        drop(segments);
        Counters::sub(&core.counters.segments, void.len() as u64);
        self.void.extend(void.into_values().map(|segment| segment.file.path().to_owned()));
        let last = lock(&self.shard.segments).get(&to.segment).cloned();
        if let Some(last) = last.filter(|last| last.header.end == 0) {
            last.end.store(to.offset, Relaxed);
        }
        self.end = to;
        if let Some(segment) = self.segment.take() {
            segment.sealed.store(true, Relaxed);
        }
    }

    /// Takes a stream back to where the log is believed.
    fn roll_back(&mut self, stream: &Arc<Stream>, to: Mark, next: Position) {
        let core = self.core();
        let mut intake = lock(&stream.intake);
        let mut shared = lock(&stream.shared);
        let shown = shared.roll_back(to, next);
        (intake.next, intake.first, intake.removed) = (next, shared.first, shared.gone);
        if let Some(window) = intake.window.take() {
            self.shard.account(window.bytes(), 0);
        }
        self.windows.remove(&stream.id);
        intake.producers = None;
        intake.anchored = false;
        if shown {
            intake.history = History(core.clock.random());
            tracing::warn!(stream = stream.id.0, %next, "events shown were lost: the stream has a new history");
        }
        if intake.history != shared.history || shown || intake.new_history {
            shared.history = intake.history;
            intake.new_history = true;
            self.histories.push(stream.clone());
            shared.notify();
        }
    }

    /// Keeps the memory that remembers ids within this shard's share, and forgets what is past its window.
    fn sweep(&mut self, taking: u64) {
        let shard = self.shard.clone();
        let core = &shard.core;
        let limit = shard.dedupe_share as u64;
        let now = core.clock.elapsed();
        let over = shard.remembered.load(Relaxed) > limit;
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
                if over {
                    window.shrink();
                }
                oldest = oldest.min(window.oldest().unwrap_or(taking));
                shard.account(before, window.bytes());
                true
            });
            if shard.remembered.load(Relaxed) <= limit || since > taking {
                return;
            }
            // An eighth of the time remembered at once, so that a full memory is not swept for every batch.
            since = oldest + (taking - oldest) / 8 + 1;
        }
    }
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

/// Whether a request brings events; all others are the log's own and may use the reserve.
fn is_data(request: &Request) -> bool {
    matches!(request.work, Work::Append { .. } | Work::At { .. })
}
