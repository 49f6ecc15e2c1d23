//! What a stream remembers to store nothing twice: ids seen lately, and idempotent producers' sequences.
//!
//! [`Window`] finds events by the eight-byte keyed hash of publisher, source and id. It holds no ids: a hit is
//! only a hint, and the writer confirms it against the stored event. An entry takes eight bytes in a ring, in
//! the order of positions, and about eight more in a table of places in that ring. The ring's order is what
//! forgetting follows: oldest first, by age (in time that the log took publishes), by count, and by the
//! node-wide limit of memory, which the writer keeps.
//!
//! [`Producers`] answers the retry of an idempotent producer's batch with the positions it got, however late.
//! Batches that follow each other in sequence and position are one entry, so a lone producer's whole past takes
//! one; of others the last 32 are kept.
//!
//! Neither writes anything: both are rebuilt from the chunks when a stream is first appended to after a start.

use std::collections::{HashMap, VecDeque};

use hashbrown::HashTable;
use weir_event::flow::Position;

use crate::api::{Error, Kind, Producer};

/// Ids seen lately.
#[derive(Default)]
pub(crate) struct Window {
    /// Hashes in the order of positions; `hashes[0]` has place `start`.
    hashes: VecDeque<u64>,
    start: u64,
    /// Places (their low 32 bits) by hash.
    table: HashTable<u32>,
    spans: VecDeque<Span>,
}

/// Consecutive positions taken at the same moment.
#[derive(Clone, Copy)]
struct Span {
    place: u64,
    first: Position,
    taking: u64,
}

impl Window {
    fn index(&self, place: u32) -> usize {
        place.wrapping_sub(self.start as u32) as usize
    }

    /// Positions whose events may be the one with this hash, in no order.
    pub(crate) fn find(&self, hash: u64) -> impl Iterator<Item = Position> {
        self.table
            .iter_hash(hash)
            .map(|&place| self.index(place))
            .filter(move |&index| self.hashes.get(index) == Some(&hash))
            .map(|index| self.position(self.start + index as u64))
    }

    fn position(&self, place: u64) -> Position {
        let span = self.spans.partition_point(|span| span.place <= place).saturating_sub(1);
        self.spans.get(span).map_or(Position::NONE, |span| span.first.plus(place - span.place))
    }

    /// Remembers an event. Positions only rise.
    pub(crate) fn push(&mut self, hash: u64, position: Position, taking: u64) {
        let place = self.start + self.hashes.len() as u64;
        let goes_on = self
            .spans
            .back()
            .is_some_and(|span| span.taking == taking && span.first.plus(place - span.place) == position);
        if !goes_on {
            self.spans.push_back(Span { place, first: position, taking });
        }
        self.hashes.push_back(hash);
        let (hashes, start) = (&self.hashes, self.start as u32);
        self.table.insert_unique(hash, place as u32, |&place| hashes[place.wrapping_sub(start) as usize]);
    }

    fn forget(&mut self, hash: u64, place: u64) {
        if let Ok(entry) = self.table.find_entry(hash, |&other| other == place as u32) {
            entry.remove();
        }
    }

    /// Forgets all but the newest `count`, and what was taken before `since`.
    pub(crate) fn expire(&mut self, since: u64, count: u64) {
        while let Some(&hash) = self.hashes.front() {
            if let Some(next) = self.spans.get(1)
                && next.place <= self.start
            {
                self.spans.pop_front();
                continue;
            }
            let old = self.spans.front().is_none_or(|span| span.taking < since);
            if !old && self.hashes.len() as u64 <= count {
                break;
            }
            self.forget(hash, self.start);
            self.hashes.pop_front();
            self.start += 1;
        }
        if self.hashes.is_empty() {
            self.spans.clear();
        }
        if self.hashes.capacity() > 64 && self.hashes.len() < self.hashes.capacity() / 4 {
            let (hashes, start) = (&mut self.hashes, self.start as u32);
            hashes.shrink_to(hashes.len() * 2);
            let hashes = &*hashes;
            self.table.shrink_to(hashes.len() * 2, |&place| hashes[place.wrapping_sub(start) as usize]);
        }
    }

    /// Gives back memory that is not used.
    pub(crate) fn shrink(&mut self) {
        let (hashes, start) = (&mut self.hashes, self.start as u32);
        let room = hashes.len() + hashes.len() / 8;
        hashes.shrink_to(room);
        let hashes = &*hashes;
        self.table.shrink_to(room, |&place| hashes[place.wrapping_sub(start) as usize]);
        self.spans.shrink_to_fit();
    }

    /// Forgets everything at and above a position: it was not stored after all.
    pub(crate) fn truncate(&mut self, next: Position) {
        while let Some(&hash) = self.hashes.back() {
            let place = self.start + self.hashes.len() as u64 - 1;
            if self.position(place) < next {
                break;
            }
            self.forget(hash, place);
            self.hashes.pop_back();
            if self.spans.back().is_some_and(|span| span.place >= place) {
                self.spans.pop_back();
            }
        }
    }

    /// When the oldest entry was taken.
    pub(crate) fn oldest(&self) -> Option<u64> {
        self.spans.front().map(|span| span.taking)
    }

    /// How many events are remembered.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.hashes.len()
    }

    /// Bytes of memory taken.
    pub(crate) fn bytes(&self) -> usize {
        self.hashes.capacity() * 8 + self.table.allocation_size() + self.spans.capacity() * size_of::<Span>()
    }
}

/// Ranges of sequence numbers remembered per producer.
const RANGES_MAX: usize = 32;
/// Stretches of consecutive positions remembered per producer, in all its ranges.
const STRETCHES_MAX: usize = 1024;

/// Idempotent producers of one stream.
#[derive(Default)]
pub(crate) struct Producers {
    by_id: HashMap<u64, State>,
}

struct State {
    epoch: u32,
    /// The sequence number that comes next.
    next: u64,
    /// When it last published, to forget the longest silent.
    used: u64,
    ranges: VecDeque<Range>,
}

struct Range {
    sequence: u64,
    count: u64,
    places: Places,
}

enum Places {
    /// Consecutive from here on.
    From(Position),
    /// Stretches of consecutive ones, each first position and how many: some were duplicates.
    Stretches(Box<[(Position, u32)]>),
}

/// What a batch of an idempotent producer is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The next one.
    New,
    /// Stored before, at these positions; [`Position::NONE`] where they are no longer known.
    Repeat(Vec<Position>),
}

impl Producers {
    /// Judges a batch of `count` events.
    pub(crate) fn judge(&self, producer: Producer, count: u64) -> Result<Verdict, Error> {
        let Some(state) = self.by_id.get(&producer.id) else { return Ok(Verdict::New) };
        let conflict = |message: String| Err(Error::new(Kind::Conflict, message));
        if producer.epoch < state.epoch {
            return conflict(format!("the producer's epoch {} is fenced by {}", producer.epoch, state.epoch));
        }
        if producer.epoch > state.epoch || producer.sequence == state.next {
            return Ok(Verdict::New);
        }
        if producer.sequence > state.next {
            let text = "the producer's sequence goes on at";
            return conflict(format!("{text} {}, not at {}", state.next, producer.sequence));
        }
        if producer.sequence.saturating_add(count) > state.next {
            let text = "a retry of sequence";
            return conflict(format!("{text} {} is longer than what was stored of it", producer.sequence));
        }
        Ok(Verdict::Repeat((0..count).map(|i| state.place(producer.sequence + i)).collect()))
    }

    /// Remembers a batch: `count` sequence numbers from the producer's on. `each`, if not empty, holds their
    /// positions; else they are consecutive from `first`.
    pub(crate) fn push(
        &mut self,
        producer: Producer,
        count: u64,
        first: Position,
        each: &[Position],
        taking: u64,
        limit: usize,
    ) {
        let fresh =
            || State { epoch: producer.epoch, next: producer.sequence, used: 0, ranges: VecDeque::new() };
        let state = self.by_id.entry(producer.id).or_insert_with(fresh);
        if producer.epoch > state.epoch {
            *state = fresh();
        }
        state.used = taking;
        state.next = producer.sequence.saturating_add(count);
        match state.ranges.back_mut() {
            Some(Range { sequence, count: had, places: Places::From(start) })
                if each.is_empty() && *sequence + *had == producer.sequence && start.plus(*had) == first =>
            {
                *had += count;
            }
            _ => {
                let places =
                    if each.is_empty() { Places::From(first) } else { Places::Stretches(stretches(each)) };
                state.ranges.push_back(Range { sequence: producer.sequence, count, places });
                let many =
                    |state: &State| state.ranges.iter().map(Range::stretches).sum::<usize>() > STRETCHES_MAX;
                while state.ranges.len() > RANGES_MAX || (state.ranges.len() > 1 && many(state)) {
                    state.ranges.pop_front();
                }
            }
        }
        if self.by_id.len() > limit.max(1) {
            let silent = self.by_id.iter().min_by_key(|(_, state)| state.used).map(|(&id, _)| id);
            if let Some(id) = silent.filter(|&id| id != producer.id) {
                self.by_id.remove(&id);
            }
        }
    }
}

impl Range {
    fn stretches(&self) -> usize {
        if let Places::Stretches(stretches) = &self.places { stretches.len() } else { 1 }
    }
}

fn stretches(each: &[Position]) -> Box<[(Position, u32)]> {
    let mut stretches: Vec<(Position, u32)> = Vec::new();
    for &position in each {
        match stretches.last_mut() {
            Some((first, count)) if first.plus(u64::from(*count)) == position => *count += 1,
            _ => stretches.push((position, 1)),
        }
    }
    stretches.into()
}

impl State {
    fn place(&self, sequence: u64) -> Position {
        for range in &self.ranges {
            if let Some(i) = sequence.checked_sub(range.sequence)
                && i < range.count
            {
                return match &range.places {
                    Places::From(first) => first.plus(i),
                    Places::Stretches(stretches) => {
                        let mut left = i;
                        for (first, count) in stretches {
                            if left < u64::from(*count) {
                                return first.plus(left);
                            }
                            left -= u64::from(*count);
                        }
                        Position::NONE
                    }
                };
            }
        }
        Position::NONE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(window: &Window, hash: u64) -> Vec<u64> {
        let mut found: Vec<u64> = window.find(hash).map(|p| p.0).collect();
        found.sort_unstable();
        found
    }

    #[test]
    fn a_window_forgets_by_age_count_and_truncation() {
        let mut window = Window::default();
        for i in 0..1000_u64 {
            window.push(i % 500, Position(10 + i + i / 100 * 7), i / 10);
        }
        assert_eq!(found(&window, 3), [13, 10 + 503 + 35]);
        window.expire(40, 10_000);
        assert_eq!((window.len(), window.oldest()), (600, Some(40)));
        assert_eq!(found(&window, 3), [10 + 503 + 35]);
        window.expire(0, 100);
        assert_eq!(window.len(), 100);
        assert_eq!(found(&window, 399), Vec::<u64>::new());
        assert_eq!(found(&window, 400), [10 + 900 + 63]);
        window.truncate(Position(10 + 950 + 63));
        assert_eq!(window.len(), 50);
        assert_eq!(found(&window, 450), Vec::<u64>::new());
        window.push(450, Position(2000), 100);
        assert_eq!(found(&window, 450), [2000]);
        window.expire(u64::MAX, 0);
        assert_eq!((window.len(), window.oldest()), (0, None));
    }

    #[test]
    fn an_entry_takes_at_most_24_bytes() {
        let mut window = Window::default();
        for i in 0..1_000_000_u64 {
            window.push(i.wrapping_mul(0x9e37_79b9_7f4a_7c15), Position(i + 1), i / 1000);
        }
        assert!(window.bytes() <= 24 << 20, "{}", window.bytes());
    }

    #[test]
    fn a_retry_gets_the_positions_of_the_first_try() {
        let mut producers = Producers::default();
        let at = |epoch, sequence| Producer { id: 7, epoch, sequence };
        assert_eq!(producers.judge(at(0, 5), 3).unwrap(), Verdict::New);
        for i in 0..100 {
            producers.push(at(0, i * 10), 10, Position(1 + i * 10), &[], i, 10);
        }
        assert_eq!(producers.by_id[&7].ranges.len(), 1);
        let repeat = producers.judge(at(0, 995), 5).unwrap();
        assert_eq!(repeat, Verdict::Repeat((996..=1000).map(Position).collect()));
        producers.push(at(0, 1000), 2, Position(5000), &[Position(3), Position(5000)], 100, 10);
        assert_eq!(
            producers.judge(at(0, 999), 3).unwrap(),
            Verdict::Repeat(vec![Position(1000), Position(3), Position(5000)])
        );
        assert_eq!(producers.judge(at(0, 1003), 1).unwrap_err().kind(), Kind::Conflict);
        assert_eq!(producers.judge(at(0, 1001), 2).unwrap_err().kind(), Kind::Conflict);
        assert_eq!(producers.judge(at(1, 0), 2).unwrap(), Verdict::New);
        producers.push(at(1, 0), 2, Position(6000), &[], 101, 10);
        assert_eq!(producers.judge(at(0, 1002), 1).unwrap_err().kind(), Kind::Conflict);
    }

    #[test]
    fn the_longest_silent_producer_is_forgotten() {
        let mut producers = Producers::default();
        for id in 0..5 {
            producers.push(Producer { id, epoch: 0, sequence: 0 }, 1, Position(id + 1), &[], id, 3);
        }
        assert_eq!(producers.by_id.len(), 3);
        assert!(!producers.by_id.contains_key(&0) && producers.by_id.contains_key(&4));
    }
}
