//! A block: some consecutive events as one read of the log gave them, with every form of them that was asked for.
//!
//! Blocks are what deliveries share. Each encoding of a block is made once, by the first delivery that wants it,
//! and lent to all others as [`bytes::Bytes`]; events that equal rules let through are chosen once. A block never
//! holds a gap: positions that will never come stand before its first event, so that each delivery can announce
//! them in their place.
//!
//! Bounded: a block holds at most [`BYTES_MAX`] of stored bytes, or one event that is larger.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::Bytes;
use weir_event::flow::{History, Position, Time};
use weir_event::{Event, Stamp, proto};
use weir_log::{Encoding, Read, Run, Skipped};

use super::rules::Rules;
use super::{sse, stream};

/// How many stored bytes one block holds, one larger event apart: a delivery's turn.
pub(crate) const BYTES_MAX: usize = 256 * 1024;

/// For how many rules a block remembers its choice; deliveries under further ones choose for themselves.
const CHOSEN_MAX: usize = 64;

/// Consecutive events, and what is missing before them.
#[derive(Debug)]
pub(crate) struct Block {
    skipped: Vec<Skipped>,
    runs: Vec<Run>,
    /// The history that the positions belong to now; that of the time of writing may be an older one, which a
    /// repair let live on.
    history: History,
    first: Position,
    count: u32,
    bytes: usize,
    whole: Arc<Chosen>,
    chosen: Mutex<HashMap<u128, Arc<Chosen>>>,
    events: OnceLock<Box<[Span]>>,
}

/// Where an event lies.
#[derive(Clone, Copy, Debug)]
struct Span {
    run: u32,
    start: u32,
    end: u32,
}

impl Block {
    /// Cuts what a read in `history` gave into blocks: from `from` on, not beyond `until`.
    ///
    /// A run in another encoding than events would be left out without a word; nothing appends one yet.
    pub(crate) fn cut(read: Read, history: History, from: Position, until: Position) -> Vec<Arc<Self>> {
        let mut cutter = Cutter::new(read.skipped, history, from);
        for run in read.runs {
            if run.encoding == Encoding::Events && run.count > 0 && run.last() >= from && run.first <= until {
                cutter.add(run, until);
            }
        }
        cutter.finish(read.next, until)
    }

    fn new(skipped: Vec<Skipped>, history: History, runs: Vec<Run>, first: Position) -> Self {
        let count = runs.iter().map(|run| run.count).sum();
        let bytes = runs.iter().map(|run| run.body.len()).sum();
        Self {
            skipped,
            runs,
            history,
            first,
            count,
            bytes,
            whole: Arc::new(Chosen::default()),
            chosen: Mutex::default(),
            events: OnceLock::new(),
        }
    }

    /// Ranges that are passed over before the first event, in order.
    pub(crate) fn skipped(&self) -> &[Skipped] {
        &self.skipped
    }

    /// The first position this block speaks of: skipped or an event's.
    pub(crate) fn begin(&self) -> Position {
        self.skipped.first().map_or(self.first, |skipped| skipped.from.min(self.first))
    }

    /// The first event's position.
    pub(crate) fn first(&self) -> Position {
        self.first
    }

    /// The position after the last event, or after what is skipped if there are no events.
    pub(crate) fn next(&self) -> Position {
        self.first.plus(u64::from(self.count))
    }

    /// How many events.
    pub(crate) fn count(&self) -> u32 {
        self.count
    }

    /// Stored bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// What the block costs in memory, its two usual encodings included.
    pub(crate) fn cost(&self) -> usize {
        self.bytes * 3 + 512
    }

    /// The events that `rules` let through, chosen once for all deliveries under equal rules.
    pub(crate) fn choose(&self, rules: &Rules) -> Arc<Chosen> {
        if rules.is_empty() {
            return Arc::clone(&self.whole);
        }
        let known = |chosen: &HashMap<u128, Arc<Chosen>>| chosen.get(&rules.id()).cloned();
        if let Some(chosen) = known(&self.chosen.lock().unwrap_or_else(PoisonError::into_inner)) {
            return chosen;
        }
        // Not under the lock: other rules of the same block are evaluated meanwhile. Two deliveries that come at
        // the same moment may both do this, the first result counts.
        let matching =
            (0..self.count).filter(|&index| self.event(index).is_some_and(|event| rules.take(&event)));
        let fresh = Arc::new(Chosen { matching: Some(matching.collect()), ..Chosen::default() });
        let mut chosen = self.chosen.lock().unwrap_or_else(PoisonError::into_inner);
        match known(&chosen) {
            Some(earlier) => earlier,
            None => {
                if chosen.len() < CHOSEN_MAX {
                    chosen.insert(rules.id(), Arc::clone(&fresh));
                }
                fresh
            }
        }
    }

    /// The position of an event.
    pub(crate) fn position(&self, index: u32) -> Position {
        self.first.plus(u64::from(index))
    }

    /// The index of the first event at or after a position.
    pub(crate) fn index(&self, position: Position) -> u32 {
        let index = position.0.saturating_sub(self.first.0);
        u32::try_from(index).unwrap_or(u32::MAX).min(self.count)
    }

    /// The stored bytes of an event, and when it was appended.
    pub(crate) fn stored(&self, index: u32) -> Option<(&[u8], Time)> {
        let span = self.spans().get(index as usize)?;
        let run = self.runs.get(span.run as usize)?;
        Some((run.body.get(span.start as usize..span.end as usize)?, run.time))
    }

    /// An event. `None` only if its bytes, whose checksum was right, are no event: a defect, which costs the
    /// reader this event and not the stream.
    pub(crate) fn event(&self, index: u32) -> Option<Event<'_>> {
        let (bytes, _) = self.stored(index)?;
        proto::decode(bytes).ok()
    }

    /// The stamp of an event.
    pub(crate) fn stamp(&self, index: u32) -> Stamp {
        let time = self.stored(index).map_or(Time(0), |(_, time)| time);
        Stamp { position: self.position(index), time }
    }

    /// The history that the positions belong to.
    pub(crate) fn history(&self) -> History {
        self.history
    }

    /// The runs, each with the index of its first event.
    pub(crate) fn runs(&self) -> impl Iterator<Item = (u32, &Run)> {
        self.runs.iter().scan(0, |index, run| {
            let first = *index;
            *index += run.count;
            Some((first, run))
        })
    }

    fn spans(&self) -> &[Span] {
        self.events.get_or_init(|| {
            let mut spans = Vec::with_capacity(self.count as usize);
            for (number, run) in (0u32..).zip(&self.runs) {
                spans.extend(events(&run.body).map(|event| Span {
                    run: number,
                    start: u32::try_from(event.start).unwrap_or(u32::MAX),
                    end: u32::try_from(event.end).unwrap_or(u32::MAX),
                }));
            }
            spans.into_boxed_slice()
        })
    }
}

/// Where the events of a stored batch lie in it.
fn events(body: &[u8]) -> impl Iterator<Item = Range<usize>> {
    let mut batch = proto::batch(body);
    std::iter::from_fn(move || {
        let event = batch.next()?.ok()?;
        Some(batch.end() - event.len()..batch.end())
    })
}

/// The events of a block that some rules let through, and their encodings.
#[derive(Debug, Default)]
pub(crate) struct Chosen {
    /// Indices within the block, rising; `None`: all.
    matching: Option<Box<[u32]>>,
    sse: OnceLock<Arc<Encoded>>,
    stream: OnceLock<Arc<Encoded>>,
}

impl Chosen {
    /// Whether every event of the block is among them.
    pub(crate) fn is_whole(&self) -> bool {
        self.matching.is_none()
    }

    /// How many of `block`'s events are chosen.
    pub(crate) fn len(&self, block: &Block) -> u32 {
        match &self.matching {
            None => block.count,
            Some(matching) => u32::try_from(matching.len()).unwrap_or(u32::MAX),
        }
    }

    /// The index within the block of the `number`th chosen event.
    pub(crate) fn index(&self, number: u32) -> u32 {
        match &self.matching {
            None => number,
            Some(matching) => matching.get(number as usize).copied().unwrap_or(u32::MAX),
        }
    }

    /// The number of the first chosen event at or after an index within the block.
    pub(crate) fn number(&self, index: u32) -> u32 {
        match &self.matching {
            None => index,
            Some(matching) => u32::try_from(matching.partition_point(|&at| at < index)).unwrap_or(u32::MAX),
        }
    }

    /// The chosen events `numbers` of `block` as server-sent events.
    pub(crate) fn sse(&self, block: &Block, rules: &Rules, numbers: Range<u32>) -> Piece {
        let all = self.sse.get_or_init(|| Arc::new(sse::events(block, self, rules, 0..self.len(block))));
        let first = block.position(self.index(numbers.start));
        Piece::of(all, numbers, first)
    }

    /// The chosen events `numbers` of `block` as STREAM frames. A part of a block is encoded for itself, since
    /// a frame holds many events; that happens at most once per turn.
    pub(crate) fn stream(&self, block: &Block, rules: &Rules, name: &str, numbers: Range<u32>) -> Piece {
        let first = block.position(self.index(numbers.start));
        if numbers != (0..self.len(block)) {
            return Piece::whole(Arc::new(stream::runs(block, self, rules, name, numbers)), first);
        }
        let all = self.stream.get_or_init(|| Arc::new(stream::runs(block, self, rules, name, numbers)));
        Piece::whole(Arc::clone(all), first)
    }
}

/// Events in the form in which they leave.
#[derive(Debug, Default)]
pub(crate) struct Encoded {
    /// The form of all of them, one after the other.
    pub(crate) bytes: Bytes,
    /// Where each indivisible part ends, in order.
    pub(crate) parts: Box<[Part]>,
}

/// An indivisible part of what leaves: one server-sent event, one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    /// Where it ends in the bytes.
    pub(crate) end: u32,
    /// How many events there are up to here, this part included.
    pub(crate) events: u32,
    /// The position of its last event.
    pub(crate) last: Position,
}

/// Some parts of an encoding.
#[derive(Clone, Debug)]
pub(crate) struct Piece {
    encoded: Arc<Encoded>,
    parts: Range<usize>,
    /// The position of the first event.
    first: Position,
}

impl Piece {
    /// All parts.
    fn whole(encoded: Arc<Encoded>, first: Position) -> Self {
        let parts = 0..encoded.parts.len();
        Self { encoded, parts, first }
    }

    /// Some parts of an encoding that has one per event.
    fn of(encoded: &Arc<Encoded>, numbers: Range<u32>, first: Position) -> Self {
        let end = (numbers.end as usize).min(encoded.parts.len());
        let start = (numbers.start as usize).min(end);
        Self { encoded: Arc::clone(encoded), parts: start..end, first }
    }

    /// The bytes, owned by the encoding.
    pub(crate) fn as_slice(&self) -> &[u8] {
        self.encoded.bytes.get(self.begin()..self.end()).unwrap_or_default()
    }

    /// How many events.
    pub(crate) fn events(&self) -> u64 {
        let upto = self.parts.end.checked_sub(1).map_or(0, |last| self.encoded.parts[last].events);
        u64::from(upto.saturating_sub(self.events_before()))
    }

    /// The position of the last event; `None` if there is none.
    pub(crate) fn last(&self) -> Option<Position> {
        self.parts.clone().next_back().map(|part| self.encoded.parts[part].last)
    }

    /// The position of the first event.
    pub(crate) fn first(&self) -> Position {
        self.first
    }

    /// Itself in pieces of whole parts, each of about `bytes`, or of one part that is longer.
    pub(crate) fn parts_of(&self, bytes: usize) -> impl Iterator<Item = Self> {
        let (mut from, mut first) = (self.parts.start, self.first);
        std::iter::from_fn(move || {
            let rest = self.encoded.parts.get(from..self.parts.end)?;
            let begin = from.checked_sub(1).map_or(0, |before| self.encoded.parts[before].end as usize);
            let fit = rest.partition_point(|part| part.end as usize <= begin + bytes).max(1);
            let last = rest.get(fit.min(rest.len()).checked_sub(1)?)?.last;
            let parts = from..(from + fit).min(self.parts.end);
            let piece = Self { encoded: Arc::clone(&self.encoded), parts: parts.clone(), first };
            // Where the next one begins at the earliest: filters may have passed over more.
            (from, first) = (parts.end, last.next());
            Some(piece)
        })
    }

    fn events_before(&self) -> u32 {
        self.parts.start.checked_sub(1).map_or(0, |before| self.encoded.parts[before].events)
    }

    fn begin(&self) -> usize {
        self.parts.start.checked_sub(1).map_or(0, |before| self.encoded.parts[before].end as usize)
    }

    fn end(&self) -> usize {
        self.parts.end.checked_sub(1).map_or(0, |last| self.encoded.parts[last].end as usize)
    }
}

/// Puts runs together to blocks and cuts runs that are too long for one.
struct Cutter {
    skipped: std::collections::VecDeque<Skipped>,
    history: History,
    from: Position,
    runs: Vec<Run>,
    bytes: usize,
    done: Vec<Arc<Block>>,
}

impl Cutter {
    fn new(mut skipped: Vec<Skipped>, history: History, from: Position) -> Self {
        skipped.retain(|skipped| skipped.to >= from);
        Self { skipped: skipped.into(), history, from, runs: Vec::new(), bytes: 0, done: Vec::new() }
    }

    fn add(&mut self, run: Run, until: Position) {
        let skips_first = self.skipped.front().is_some_and(|skipped| skipped.from < run.first);
        let follows = self.runs.last().is_some_and(|last| last.last().next() == run.first);
        if skips_first || !follows {
            self.flush();
        }
        if self.from <= run.first && run.last() <= until && run.body.len() <= BYTES_MAX {
            self.push(run);
        } else {
            self.part(&run, until);
        }
    }

    /// Adds the events of a run that are wanted, in parts of bounded size that share its bytes.
    fn part(&mut self, run: &Run, until: Position) {
        // The part under way: its first event's position, its place in the body, its number of events.
        let (mut first, mut start, mut end, mut count) = (run.first, 0, 0, 0);
        for (position, event) in (run.first.0..).map(Position).zip(events(&run.body)) {
            if position < self.from {
                (first, start, end) = (position.next(), event.end, event.end);
                continue;
            }
            if position > until {
                break;
            }
            if count > 0 && event.end - start > BYTES_MAX {
                self.push(Run { first, count, body: run.body.slice(start..end), ..run.clone() });
                (first, start, count) = (position, end, 0);
            }
            (end, count) = (event.end, count + 1);
        }
        if count > 0 {
            self.push(Run { first, count, body: run.body.slice(start..end), ..run.clone() });
        }
    }

    fn push(&mut self, run: Run) {
        if self.bytes + run.body.len() > BYTES_MAX {
            self.flush();
        }
        self.bytes += run.body.len();
        self.runs.push(run);
    }

    /// Ends the block under way.
    fn flush(&mut self) {
        if self.runs.is_empty() {
            return;
        }
        let runs = std::mem::take(&mut self.runs);
        self.bytes = 0;
        let first = runs.first().map_or(self.from, |run| run.first);
        let skipped = self.skipped_before(first);
        self.done.push(Arc::new(Block::new(skipped, self.history, runs, first)));
    }

    fn skipped_before(&mut self, first: Position) -> Vec<Skipped> {
        let count = self.skipped.iter().take_while(|skipped| skipped.from < first).count();
        self.skipped.drain(..count).collect()
    }

    fn finish(mut self, next: Position, until: Position) -> Vec<Arc<Block>> {
        self.flush();
        // Skipped ranges after the last event: a block without events, so that they are announced now.
        let after = self.skipped_before(next.min(until.next()));
        if let Some(last) = after.last() {
            let first = last.to.next();
            self.done.push(Arc::new(Block::new(after, self.history, Vec::new(), first)));
        }
        self.done
    }
}

#[cfg(test)]
mod tests;
