//! A segment file and the index of what it holds.
//!
//! A shard's log is its segments in the order of their numbers. All but the last are sealed: nothing is added to
//! them, and cleaning replaces them whole by a file of a higher generation. Files are named
//! `log/<shard>/<number>-<generation>.seg`.
//!
//! An [`Entry`] says where a chunk lies; a [`Range`] is one stream's entries in one segment. A range of the
//! newest segments keeps its entries in memory, one of a sealed segment knows where they lie in the segment's
//! index file.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use weir_event::flow::{Position, Time};

use crate::disk::File;
use crate::format::{Chunk, ChunkKind, Mark, SegmentHeader};

/// An open segment file.
pub(crate) struct Segment {
    pub(crate) header: SegmentHeader,
    pub(crate) file: Arc<dyn File>,
    /// Where its groups end.
    pub(crate) end: AtomicU64,
    /// Nothing more will be written to it.
    pub(crate) sealed: AtomicBool,
    /// Its index file is whole, and ranges of it are stored there.
    pub(crate) indexed: AtomicBool,
}

impl Segment {
    pub(crate) fn new(header: SegmentHeader, file: Arc<dyn File>, end: u64, sealed: bool) -> Arc<Self> {
        Arc::new(Self {
            header,
            file,
            end: AtomicU64::new(end),
            sealed: AtomicBool::new(sealed),
            indexed: AtomicBool::new(false),
        })
    }

    pub(crate) fn number(&self) -> u64 {
        self.header.number
    }

    pub(crate) fn end(&self) -> u64 {
        self.end.load(Relaxed)
    }

    pub(crate) fn mark(&self) -> Mark {
        Mark { segment: self.number(), offset: self.end() }
    }

    /// Reads `count` bytes; an error if the file ends before.
    pub(crate) fn read(&self, count: usize, offset: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.file.read_at(&mut bytes, count, offset)?;
        if bytes.len() < count {
            let text = format!("read {}: the file ends at {}", self.file.path(), offset + bytes.len() as u64);
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
        }
        Ok(bytes)
    }
}

/// The path of a shard's directory.
pub(crate) fn directory(shard: u32) -> String {
    format!("log/{shard}")
}

/// The path of a segment file.
pub(crate) fn path(shard: u32, number: u64, generation: u32) -> String {
    format!("log/{shard}/{number:010}-{generation}.seg")
}

/// The number and generation that a file name stands for.
pub(crate) fn parse_name(name: &str) -> Option<(u64, u32)> {
    let (number, generation) = name.strip_suffix(".seg")?.split_once('-')?;
    Some((number.parse().ok()?, generation.parse().ok()?))
}

/// Where a chunk lies and what it spans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// First position; without events the position that came next.
    pub(crate) first: Position,
    /// Last position, events or skipped; before `first` if there is neither.
    pub(crate) last: Position,
    pub(crate) time: Time,
    /// The clock of taking publishes.
    pub(crate) taking: u64,
    /// Where its header begins in the file.
    pub(crate) offset: u32,
    pub(crate) body_len: u32,
    pub(crate) extra_len: u32,
    pub(crate) kind: ChunkKind,
    pub(crate) flags: u8,
    /// Whether an idempotent producer wrote it.
    pub(crate) producer: bool,
}

impl Entry {
    pub(crate) fn of(chunk: &Chunk, offset: u64) -> Self {
        Self {
            first: chunk.first,
            last: chunk.last(),
            time: chunk.time,
            taking: chunk.taking,
            offset: offset as u32,
            body_len: chunk.body_len,
            extra_len: chunk.extra_len,
            kind: chunk.kind,
            flags: chunk.flags,
            producer: chunk.producer != 0,
        }
    }

    /// Length of header, body and extra section.
    pub(crate) fn len(&self) -> u64 {
        Chunk::LEN as u64 + u64::from(self.body_len) + u64::from(self.extra_len)
    }

    pub(crate) fn end(&self) -> u64 {
        u64::from(self.offset) + self.len()
    }

    /// How many events it holds.
    pub(crate) fn count(&self) -> u64 {
        if self.kind == ChunkKind::Run { self.last.0 + 1 - self.first.0 } else { 0 }
    }
}

/// One stream's chunks in one segment.
pub(crate) struct Range {
    pub(crate) segment: Arc<Segment>,
    /// First position in it; where it holds none, the position that came next.
    pub(crate) first: Position,
    /// Last position in it.
    pub(crate) last: Position,
    /// Time of its last chunk.
    pub(crate) time: Time,
    /// Bytes of bodies of its events.
    pub(crate) bytes: u64,
    /// Bytes of its chunks.
    pub(crate) size: u64,
    /// There are chunks that only say how far an idempotent producer has come.
    pub(crate) producers: bool,
    pub(crate) entries: Entries,
}

/// Where a range's entries are.
pub(crate) enum Entries {
    /// In memory.
    Here(Vec<Entry>),
    /// In the segment's index file: where from, and how many.
    Stored { offset: u64, count: u32 },
}

impl Range {
    pub(crate) fn new(segment: Arc<Segment>, first: Position) -> Self {
        let entries = Entries::Here(Vec::new());
        Self {
            segment,
            first,
            last: first.previous(),
            time: Time(0),
            bytes: 0,
            size: 0,
            producers: false,
            entries,
        }
    }

    /// Adds an entry to a range in memory.
    pub(crate) fn push(&mut self, entry: Entry) {
        if let Entries::Here(entries) = &mut self.entries {
            self.last = self.last.max(entry.last);
            self.time = self.time.max(entry.time);
            self.size += entry.len();
            self.producers |= entry.kind == ChunkKind::Producer;
            if entry.kind == ChunkKind::Run {
                self.bytes += u64::from(entry.body_len);
            }
            entries.push(entry);
        }
    }

    /// Drops entries at and above an offset of the file; whether anything is left.
    pub(crate) fn cut(&mut self, offset: u64) -> bool {
        if let Entries::Here(entries) = &mut self.entries {
            entries.retain(|entry| u64::from(entry.offset) < offset);
            self.last = entries.iter().map(|e| e.last).max().unwrap_or(self.first.previous());
            self.size = entries.iter().map(Entry::len).sum();
            let runs = entries.iter().filter(|e| e.kind == ChunkKind::Run);
            self.bytes = runs.map(|e| u64::from(e.body_len)).sum();
            return !entries.is_empty();
        }
        true
    }
}
