//! Builds one group: chunks in one buffer, headers filled in once their lengths are known.
//!
//! Events that follow each other in the same stream, from the same publisher, in the same group share a chunk:
//! what came one by one is replayed in runs. A batch longer than [`CHUNK_BYTES`] is split into several chunks at
//! event boundaries; it stays whole because a group is whole or not there.

use std::sync::Arc;

use bytes::Bytes;
use weir_event::flow::{Position, Time};

use crate::api::{Appended, Error};
use crate::events::Cursor;
use crate::format::{Chunk, ChunkKind, FLAG_CONTINUED, FLAG_POSITIONS, GroupHeader};
use crate::segment::Entry;
use crate::shard::{Reply, Touched};
use crate::stream::{Stream, Update};

/// A chunk's body is closed at about so many bytes.
pub(crate) const CHUNK_BYTES: usize = 1 << 20;
/// Single events are put together up to so many bytes.
const SHARED_BYTES: usize = 256 << 10;

/// A group being built.
pub(crate) struct Group {
    salt: u32,
    /// Room for the group's header, then chunks; the last may still be open.
    buffer: Vec<u8>,
    open: Option<Open>,
    chunks: u32,
    /// Chunks in order with the index in `touched` of their stream; offsets are within the buffer.
    pub(crate) entries: Vec<(usize, Entry)>,
    pub(crate) touched: Vec<Touched>,
    /// Where an event was found last.
    cursor: Cursor,
    /// Answers for when the group is synced.
    pub(crate) synced: Vec<(Reply, Result<Appended, Error>)>,
    /// Answers for when the group is written.
    pub(crate) written: Vec<(Reply, Appended)>,
    /// Answers that wait for nothing.
    pub(crate) refused: Vec<(Reply, Result<Appended, Error>)>,
}

struct Open {
    at: usize,
    chunk: Chunk,
    hashes: Vec<u64>,
}

impl Group {
    pub(crate) fn new(salt: u32, capacity: usize) -> Self {
        let mut buffer = Vec::with_capacity(capacity + GroupHeader::LEN);
        buffer.resize(GroupHeader::LEN, 0);
        Self {
            salt,
            buffer,
            open: None,
            chunks: 0,
            entries: Vec::new(),
            touched: Vec::new(),
            cursor: Cursor::default(),
            synced: Vec::new(),
            written: Vec::new(),
            refused: Vec::new(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.buffer.len() == GroupHeader::LEN
    }

    /// The stream's place in `touched`; chunks come ordered by stream, so it is the last one or new.
    pub(crate) fn touch(&mut self, stream: &Arc<Stream>, update: impl FnOnce() -> Update) -> &mut Touched {
        if self.touched.last().is_none_or(|touched| !Arc::ptr_eq(&touched.stream, stream)) {
            self.close();
            self.touched.push(Touched { stream: stream.clone(), update: update(), shown: false });
        }
        let last = self.touched.len() - 1;
        &mut self.touched[last]
    }

    /// Begins a run, or goes on with the open one if `chunk` continues it and nothing of it would be lost.
    pub(crate) fn begin(&mut self, chunk: Chunk, bytes: usize) {
        let mergeable = self.open.as_ref().is_some_and(|open| {
            let had = &open.chunk;
            had.stream == chunk.stream
                && had.history == chunk.history
                && had.last().next() == chunk.first
                && had.publisher == chunk.publisher
                && had.flags == chunk.flags
                && had.encoding == chunk.encoding
                && had.time == chunk.time
                && (had.producer, chunk.producer) == (0, 0)
                && open.hashes.is_empty() == (chunk.extra_len == 0)
                && self.buffer.len() - open.at + bytes <= SHARED_BYTES
        });
        if !mergeable {
            self.close();
            let at = self.buffer.len();
            self.buffer.resize(at + Chunk::LEN, 0);
            self.open = Some(Open { at, chunk: Chunk { count: 0, ..chunk }, hashes: Vec::new() });
        }
    }

    /// Adds events to the open run.
    pub(crate) fn push(&mut self, body: &[u8], count: u32, hashes: &[u64]) {
        if let Some(open) = &mut self.open {
            self.buffer.extend_from_slice(body);
            open.chunk.count += count;
            open.hashes.extend_from_slice(hashes);
        }
    }

    /// Whether the open run has taken as much as one chunk shall.
    pub(crate) fn is_long(&self) -> bool {
        self.open.as_ref().is_some_and(|open| self.buffer.len() - open.at >= CHUNK_BYTES)
    }

    /// Ends the open run and begins another that goes on where it ends.
    pub(crate) fn split(&mut self) {
        let Some(open) = &self.open else { return };
        let had = open.chunk;
        let mut next = Chunk { first: had.last().next(), flags: had.flags | FLAG_CONTINUED, ..had };
        // Where duplicates were cut out of a producer's batch, its last chunk alone tells of the sequence.
        if had.sequences > 0 {
            next.sequence = had.sequence.saturating_add(u64::from(had.count));
            next.sequences = had.sequences.saturating_sub(had.count);
        }
        if let Some(open) = &mut self.open {
            open.chunk.sequences = open.chunk.sequences.min(had.count);
        }
        self.close();
        self.begin(next, 0);
    }

    /// Ends the open run; `positions`, if any, are those of a producer's batch.
    pub(crate) fn close_with(&mut self, positions: &[Position]) {
        let Some(Open { at, mut chunk, hashes }) = self.open.take() else { return };
        let body = at + Chunk::LEN;
        chunk.body_len = (self.buffer.len() - body) as u32;
        chunk.body_crc = crc32c::crc32c(&self.buffer[body..]);
        let extra = self.buffer.len();
        for hash in hashes {
            self.buffer.extend_from_slice(&hash.to_le_bytes());
        }
        for position in positions {
            self.buffer.extend_from_slice(&position.0.to_le_bytes());
        }
        if !positions.is_empty() {
            chunk.sequences = positions.len() as u32;
            chunk.flags |= FLAG_POSITIONS;
        }
        chunk.extra_len = (self.buffer.len() - extra) as u32;
        chunk.extra_crc = crc32c::crc32c(&self.buffer[extra..]);
        self.buffer[at..body].copy_from_slice(&chunk.encode(self.salt));
        self.chunks += 1;
        self.entries.push((self.touched.len().saturating_sub(1), Entry::of(&chunk, at as u64)));
    }

    pub(crate) fn close(&mut self) {
        self.close_with(&[]);
    }

    /// Adds a chunk without body.
    pub(crate) fn bare(&mut self, chunk: Chunk) {
        self.close();
        let at = self.buffer.len();
        self.buffer.resize(at + Chunk::LEN, 0);
        self.open = Some(Open { at, chunk, hashes: Vec::new() });
        self.close();
    }

    /// As [`Group::bare`], with positions of a producer's batch.
    pub(crate) fn bare_with(&mut self, chunk: Chunk, positions: &[Position]) {
        self.close();
        let at = self.buffer.len();
        self.buffer.resize(at + Chunk::LEN, 0);
        self.open = Some(Open { at, chunk, hashes: Vec::new() });
        self.close_with(positions);
    }

    /// The event at a position that this group, not yet written, gives to a stream.
    pub(crate) fn find(&mut self, stream: &Stream, position: Position) -> Option<(u64, &[u8])> {
        let last = self.touched.len().checked_sub(1)?;
        if self.touched[last].stream.id != stream.id {
            return None;
        }
        // Chunks come ordered by stream: those of this one are the last.
        let ours = self.entries.iter().rev().take_while(|(touched, _)| *touched == last);
        let mut runs = ours.filter(|(_, entry)| entry.kind == ChunkKind::Run);
        let stored = runs.find(|(_, entry)| (entry.first..=entry.last).contains(&position));
        let (chunk, body) = match (stored, &self.open) {
            (Some((_, entry)), _) => {
                let at = entry.offset as usize;
                let chunk = Chunk::decode(&self.buffer[at..], self.salt)?;
                (chunk, &self.buffer[at + Chunk::LEN..at + Chunk::LEN + entry.body_len as usize])
            }
            (None, Some(open)) if open.chunk.stream == stream.id => {
                (open.chunk, &self.buffer[open.at + Chunk::LEN..])
            }
            _ => return None,
        };
        let index = usize::try_from(position.0.checked_sub(chunk.first.0)?).ok()?;
        self.cursor.seek(chunk.first.0, body, index).map(|event| (chunk.publisher, event))
    }

    /// Fills in the group's header; the whole group, ready to be written.
    pub(crate) fn finish(&mut self, mut header: GroupHeader) -> Bytes {
        self.close();
        header.length = (self.buffer.len() - GroupHeader::LEN) as u32;
        header.chunks = self.chunks;
        let bytes = header.encode(self.salt);
        self.buffer[..GroupHeader::LEN].copy_from_slice(&bytes);
        // What is kept in memory shall not be larger than what was written.
        self.buffer.shrink_to(self.buffer.len() + self.buffer.len() / 8);
        Bytes::from(std::mem::take(&mut self.buffer))
    }

    /// The greatest time in the group.
    pub(crate) fn time(&self) -> Time {
        self.touched.iter().map(|touched| touched.update.time).max().unwrap_or_default()
    }
}
