//! The bytes on disk: what a segment file is made of. Pure: no I/O, no clock.
//!
//! A segment is a [`SegmentHeader`], then groups until the end. A group is a [`GroupHeader`] and the chunks that
//! were written with it in one write. A chunk is a [`Chunk`] header, its body (events, as published) and its
//! extra section (for each event the eight-byte hash that finds duplicates; see [`Chunk::extra_len`]). All
//! numbers are little-endian, all headers of fixed length, all lengths known before what they measure.
//!
//! Three checks (CRC-32C) per chunk: header, body and extra section apart, so that an index or a duplicate
//! window is rebuilt without reading events. Header checks start from a number that is random for each data
//! directory: bodies are what publishers send, and without it one could send bytes that look like a group.
//!
//! Every group says up to where the log was synced before it was written ([`Mark`]). That is what tells a torn
//! write from damage: above the highest mark found a broken group is an unfinished write, below it is corruption.
//! Nothing here is ever rewritten in place. Format changes raise [`VERSION`].

use weir_event::flow::{History, Position, Time};

use crate::api::{SkipReason, StreamId};

/// Version of everything in this module, in the name of the data directory's format and in each header.
pub(crate) const VERSION: u8 = 1;

const SEGMENT_MAGIC: u64 = u64::from_le_bytes(*b"weir.seg");
const GROUP_MAGIC: u32 = u32::from_le_bytes(*b"wgrp");

/// A place in a shard's log: all before it. Ordered as the log is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Mark {
    /// Number of the segment.
    pub(crate) segment: u64,
    /// Offset in its file.
    pub(crate) offset: u64,
}

/// The first bytes of a segment file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    /// The shard it belongs to.
    pub(crate) shard: u32,
    /// Its place in the shard's order.
    pub(crate) number: u64,
    /// Last number it stands for: greater than `number` where cleaning put several into one.
    pub(crate) upto: u64,
    /// How often cleaning has rewritten it; replaces every file of a lower generation in its numbers.
    pub(crate) generation: u32,
    /// Where the log ended before it: the file of that number ends at that offset, files between are void.
    pub(crate) previous: Mark,
    /// Up to where the log was synced when this was written.
    pub(crate) synced: Mark,
    /// When it was begun.
    pub(crate) time: Time,
    /// The whole length, known for rewritten segments; zero where groups are still to come.
    pub(crate) end: u64,
}

impl SegmentHeader {
    pub(crate) const LEN: usize = 128;

    pub(crate) fn encode(&self, salt: u32) -> [u8; Self::LEN] {
        let mut out = Put::<{ Self::LEN }>::new();
        out.u64(SEGMENT_MAGIC).u32(u32::from(VERSION)).u32(self.shard).u64(self.number).u64(self.upto);
        out.u32(self.generation).u32(0).u64(self.previous.segment).u64(self.previous.offset);
        out.u64(self.synced.segment).u64(self.synced.offset).u64(self.time.0).u64(self.end);
        out.sealed(salt)
    }

    /// `None` if these bytes are not a whole segment header.
    pub(crate) fn decode(bytes: &[u8], salt: u32) -> Option<Self> {
        let mut get = Get::checked::<{ Self::LEN }>(bytes, salt)?;
        if get.u64() != SEGMENT_MAGIC || get.u32() != u32::from(VERSION) {
            return None;
        }
        let (shard, number, upto, generation) = (get.u32(), get.u64(), get.u64(), get.u32());
        get.u32();
        let previous = Mark { segment: get.u64(), offset: get.u64() };
        let synced = Mark { segment: get.u64(), offset: get.u64() };
        Some(Self {
            shard,
            number,
            upto,
            generation,
            previous,
            synced,
            time: Time(get.u64()),
            end: get.u64(),
        })
    }
}

/// Why a group was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum GroupKind {
    /// It carries chunks.
    Chunks = 0,
    /// Only to say up to where the log is synced, after an idle second.
    Idle = 1,
    /// The log was closed after syncing everything before it.
    Close = 2,
}

/// Stands before the chunks that were written together: whole or, if the write was torn, not at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GroupHeader {
    /// Why it was written.
    pub(crate) kind: GroupKind,
    /// Counts groups through the shard, without gaps within a segment.
    pub(crate) number: u64,
    /// Bytes of the chunks that follow.
    pub(crate) length: u32,
    /// How many chunks.
    pub(crate) chunks: u32,
    /// Up to where the log was synced before this was written.
    pub(crate) synced: Mark,
    /// The wall clock.
    pub(crate) time: Time,
    /// Milliseconds in which this log took publishes, ever.
    pub(crate) taking: u64,
    /// Random number of the run of the program.
    pub(crate) session: u64,
    /// The machine's boot id.
    pub(crate) boot: u128,
}

impl GroupHeader {
    pub(crate) const LEN: usize = 96;

    pub(crate) fn encode(&self, salt: u32) -> [u8; Self::LEN] {
        let mut out = Put::<{ Self::LEN }>::new();
        out.u32(GROUP_MAGIC).u8(VERSION).u8(self.kind as u8).u8(0).u8(0);
        out.u64(self.number)
            .u32(self.length)
            .u32(self.chunks)
            .u64(self.synced.segment)
            .u64(self.synced.offset);
        out.u64(self.time.0).u64(self.taking).u64(self.session);
        out.u64(self.boot as u64).u64((self.boot >> 64) as u64);
        out.sealed(salt)
    }

    /// `None` if these bytes are not a whole group header.
    pub(crate) fn decode(bytes: &[u8], salt: u32) -> Option<Self> {
        if bytes.len() < 4 || bytes[..4] != GROUP_MAGIC.to_le_bytes() {
            return None;
        }
        let mut get = Get::checked::<{ Self::LEN }>(bytes, salt)?;
        if get.u32() != GROUP_MAGIC || get.u8() != VERSION {
            return None;
        }
        let kind = match get.u8() {
            0 => GroupKind::Chunks,
            1 => GroupKind::Idle,
            2 => GroupKind::Close,
            _ => return None,
        };
        get.u8();
        get.u8();
        let (number, length, chunks) = (get.u64(), get.u32(), get.u32());
        let synced = Mark { segment: get.u64(), offset: get.u64() };
        let (time, taking, session) = (Time(get.u64()), get.u64(), get.u64());
        let boot = u128::from(get.u64()) | u128::from(get.u64()) << 64;
        Some(Self { kind, number, length, chunks, synced, time, taking, session, boot })
    }
}

/// What a chunk says of its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum ChunkKind {
    /// Events.
    Run = 1,
    /// Positions that will never be filled: `first` to `sequence`, why in `encoding`.
    Skip = 2,
    /// The stream goes on at `first` under `history`.
    History = 3,
    /// Everything below `sequence` was given up; the next position is `first`.
    Trim = 4,
    /// An idempotent producer's batch of which nothing was new.
    Producer = 5,
    /// The stream is gone.
    Remove = 6,
}

/// Set on chunks that were acknowledged, or could have been, before they were synced.
pub(crate) const FLAG_WRITTEN: u8 = 1;
/// The extra section goes on, after the hashes, with the position of each event of the producer's batch.
pub(crate) const FLAG_POSITIONS: u8 = 2;
/// The chunk is not the first of the batch it belongs to.
pub(crate) const FLAG_CONTINUED: u8 = 4;

/// A chunk's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Chunk {
    pub(crate) kind: ChunkKind,
    /// `FLAG_…`.
    pub(crate) flags: u8,
    /// How the body is encoded, as `Encoding`; of a skip, why.
    pub(crate) encoding: u8,
    /// How the body is compressed: 0, not at all.
    pub(crate) compression: u8,
    /// How many events.
    pub(crate) count: u32,
    pub(crate) stream: StreamId,
    pub(crate) history: History,
    /// Position of the first event; without events the position that comes next.
    pub(crate) first: Position,
    /// When it was appended.
    pub(crate) time: Time,
    /// The group's clock of taking publishes.
    pub(crate) taking: u64,
    /// Who published.
    pub(crate) publisher: u64,
    /// The idempotent producer; 0 if there is none.
    pub(crate) producer: u64,
    /// Its first sequence number here; of a skip the last position, of a trim the first one kept.
    pub(crate) sequence: u64,
    pub(crate) epoch: u32,
    /// How many of its sequence numbers this takes: more than `count` where duplicates were cut out.
    pub(crate) sequences: u32,
    pub(crate) body_len: u32,
    /// Bytes after the body: `count` hashes, then, if flagged, `sequences` positions.
    pub(crate) extra_len: u32,
    pub(crate) body_crc: u32,
    pub(crate) extra_crc: u32,
}

impl Chunk {
    pub(crate) const LEN: usize = 104;

    /// A chunk without body.
    pub(crate) fn bare(kind: ChunkKind, stream: StreamId, history: History, first: Position) -> Self {
        Self {
            kind,
            flags: 0,
            encoding: 0,
            compression: 0,
            count: 0,
            stream,
            history,
            first,
            time: Time(0),
            taking: 0,
            publisher: 0,
            producer: 0,
            sequence: 0,
            epoch: 0,
            sequences: 0,
            body_len: 0,
            extra_len: 0,
            body_crc: 0,
            extra_crc: 0,
        }
    }

    /// Position of the last event or of the last position skipped; before `first` if there is neither.
    pub(crate) fn last(&self) -> Position {
        match self.kind {
            ChunkKind::Run => Position(self.first.0.saturating_add(u64::from(self.count))).previous(),
            ChunkKind::Skip => Position(self.sequence),
            _ => self.first.previous(),
        }
    }

    /// Length of header, body and extra section.
    pub(crate) fn len(&self) -> usize {
        Self::LEN + self.body_len as usize + self.extra_len as usize
    }

    pub(crate) fn encode(&self, salt: u32) -> [u8; Self::LEN] {
        let mut out = Put::<{ Self::LEN }>::new();
        out.u8(VERSION).u8(self.kind as u8).u8(self.flags).u8(self.encoding);
        out.u8(self.compression).u8(0).u8(0).u8(0).u32(self.count);
        out.u64(self.stream.0).u64(self.history.0).u64(self.first.0).u64(self.time.0).u64(self.taking);
        out.u64(self.publisher).u64(self.producer).u64(self.sequence);
        out.u32(self.epoch).u32(self.sequences).u32(self.body_len).u32(self.extra_len);
        out.u32(self.body_crc).u32(self.extra_crc);
        out.sealed(salt)
    }

    /// `None` if these bytes are not a whole chunk header.
    pub(crate) fn decode(bytes: &[u8], salt: u32) -> Option<Self> {
        let mut get = Get::checked::<{ Self::LEN }>(bytes, salt)?;
        if get.u8() != VERSION {
            return None;
        }
        let kind = match get.u8() {
            1 => ChunkKind::Run,
            2 => ChunkKind::Skip,
            3 => ChunkKind::History,
            4 => ChunkKind::Trim,
            5 => ChunkKind::Producer,
            6 => ChunkKind::Remove,
            _ => return None,
        };
        let (flags, encoding, compression) = (get.u8(), get.u8(), get.u8());
        get.u8();
        get.u8();
        get.u8();
        Some(Self {
            kind,
            flags,
            encoding,
            compression,
            count: get.u32(),
            stream: StreamId(get.u64()),
            history: History(get.u64()),
            first: Position(get.u64()),
            time: Time(get.u64()),
            taking: get.u64(),
            publisher: get.u64(),
            producer: get.u64(),
            sequence: get.u64(),
            epoch: get.u32(),
            sequences: get.u32(),
            body_len: get.u32(),
            extra_len: get.u32(),
            body_crc: get.u32(),
            extra_crc: get.u32(),
        })
    }

    /// Whether body and extra section are what was written. `rest` is what follows the header.
    pub(crate) fn verify(&self, rest: &[u8]) -> bool {
        let (body, extra) = (self.body_len as usize, self.extra_len as usize);
        rest.len() >= body + extra
            && crc32c::crc32c(&rest[..body]) == self.body_crc
            && crc32c::crc32c(&rest[body..body + extra]) == self.extra_crc
    }
}

/// A skip's reason as a byte.
pub(crate) fn reason_code(reason: SkipReason) -> u8 {
    match reason {
        SkipReason::Retention => 1,
        SkipReason::Gap => 2,
        SkipReason::Repair => 3,
    }
}

/// A byte as a skip's reason; what a later minor version may add reads as a gap.
pub(crate) fn reason_of(code: u8) -> SkipReason {
    match code {
        1 => SkipReason::Retention,
        3 => SkipReason::Repair,
        _ => SkipReason::Gap,
    }
}

/// Writes numbers one after the other into a header of `N` bytes whose last four are its check.
pub(crate) struct Put<const N: usize> {
    bytes: [u8; N],
    at: usize,
}

impl<const N: usize> Put<N> {
    pub(crate) fn new() -> Self {
        Self { bytes: [0; N], at: 0 }
    }

    fn put<const M: usize>(&mut self, bytes: [u8; M]) -> &mut Self {
        self.bytes[self.at..self.at + M].copy_from_slice(&bytes);
        self.at += M;
        self
    }

    pub(crate) fn u8(&mut self, value: u8) -> &mut Self {
        self.put([value])
    }

    pub(crate) fn u32(&mut self, value: u32) -> &mut Self {
        self.put(value.to_le_bytes())
    }

    pub(crate) fn u64(&mut self, value: u64) -> &mut Self {
        self.put(value.to_le_bytes())
    }

    pub(crate) fn sealed(mut self, salt: u32) -> [u8; N] {
        debug_assert!(self.at <= N - 4, "header fields take more than their room");
        let crc = crc32c::crc32c_append(salt, &self.bytes[..N - 4]);
        self.bytes[N - 4..].copy_from_slice(&crc.to_le_bytes());
        self.bytes
    }
}

/// Reads numbers one after the other; past the end they are zero, which no caller reaches with checked headers.
pub(crate) struct Get<'a>(&'a [u8]);

impl<'a> Get<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The first `N` bytes, if their last four are the check of the others.
    pub(crate) fn checked<const N: usize>(bytes: &'a [u8], salt: u32) -> Option<Self> {
        let bytes = bytes.get(..N)?;
        let (fields, check) = bytes.split_at(N - 4);
        (crc32c::crc32c_append(salt, fields).to_le_bytes() == check).then_some(Self(fields))
    }

    fn take<const M: usize>(&mut self) -> [u8; M] {
        match self.0.split_first_chunk::<M>() {
            Some((head, rest)) => {
                self.0 = rest;
                *head
            }
            None => [0; M],
        }
    }

    pub(crate) fn u8(&mut self) -> u8 {
        self.take::<1>()[0]
    }

    pub(crate) fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    pub(crate) fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk() -> Chunk {
        Chunk {
            flags: FLAG_WRITTEN,
            encoding: 1,
            count: 3,
            time: Time(5),
            taking: 6,
            publisher: 7,
            producer: 8,
            sequence: 9,
            epoch: 10,
            sequences: 11,
            body_len: 12,
            extra_len: 24,
            body_crc: 14,
            extra_crc: 15,
            ..Chunk::bare(ChunkKind::Run, StreamId(16), History(17), Position(18))
        }
    }

    #[test]
    fn headers_read_back_as_written() {
        let segment = SegmentHeader {
            shard: 1,
            number: 2,
            upto: 3,
            generation: 4,
            previous: Mark { segment: 5, offset: 6 },
            synced: Mark { segment: 7, offset: 8 },
            time: Time(9),
            end: 10,
        };
        assert_eq!(SegmentHeader::decode(&segment.encode(1), 1), Some(segment));
        let group = GroupHeader {
            kind: GroupKind::Close,
            number: 1,
            length: 2,
            chunks: 3,
            synced: Mark { segment: 4, offset: 5 },
            time: Time(6),
            taking: 7,
            session: 8,
            boot: u128::MAX - 9,
        };
        assert_eq!(GroupHeader::decode(&group.encode(1), 1), Some(group));
        assert_eq!(Chunk::decode(&chunk().encode(1), 1), Some(chunk()));
        assert_eq!(chunk().last(), Position(20));
    }

    #[test]
    fn a_header_with_any_bit_flipped_or_another_salt_is_none() {
        let bytes = chunk().encode(1);
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Chunk::decode(&damaged, 1), None, "bit {bit}");
        }
        assert_eq!(Chunk::decode(&bytes, 2), None);
        assert_eq!(Chunk::decode(&bytes[..Chunk::LEN - 1], 1), None);
    }
}
