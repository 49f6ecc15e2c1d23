//! The index file of a sealed segment: `log/<shard>/<number>-<generation>.idx`.
//!
//! A directory (for each stream in the segment what opening the log has to know of it) followed by every
//! stream's chunk entries. Opening reads directories only; entries are loaded when a stream is read, and kept in
//! a cache of bounded size.
//!
//! An index is written once, after its segment is sealed and synced, and is never synced itself: it says nothing
//! that the segment does not say, and its checks tell a torn one, which is then made again from the segment.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex};

use weir_event::flow::{History, Position, Time};

use crate::api::StreamId;
use crate::format::{Chunk, ChunkKind, FLAG_WRITTEN, Get, GroupHeader, VERSION};
use crate::segment::{Entry, Segment};
use crate::shard::{Core, lock};

const MAGIC: u64 = u64::from_le_bytes(*b"weir.idx");
const HEADER: usize = 96;
const SUMMARY: usize = 96;
const ENTRY: usize = 48;

/// What one segment says of one stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) stream: StreamId,
    /// History after the last chunk.
    pub(crate) history: History,
    /// First and last position in the segment.
    pub(crate) first: Position,
    pub(crate) last: Position,
    /// Next position after the last chunk.
    pub(crate) next: Position,
    /// Time of the last chunk.
    pub(crate) time: Time,
    /// Bytes of bodies, and of whole chunks.
    pub(crate) bytes: u64,
    pub(crate) size: u64,
    /// The last trim: first position kept; none if there was none.
    pub(crate) trim: Position,
    /// Session of the last chunk.
    pub(crate) session: u64,
    /// Chunks of that session may have been shown before they were synced.
    pub(crate) written: bool,
    pub(crate) removed: bool,
    /// There are chunks that only say how far an idempotent producer has come.
    pub(crate) producers: bool,
    /// Where the entries lie in the index file, and how many.
    pub(crate) offset: u64,
    pub(crate) count: u32,
}

/// A segment's index while it is gathered.
#[derive(Default)]
pub(crate) struct Gathered {
    pub(crate) streams: HashMap<StreamId, (Summary, Vec<Entry>)>,
    /// The segment's last group, whatever is left of its chunks.
    pub(crate) last: Option<GroupHeader>,
}

/// What an index file says: what opening the log has to know of a segment.
pub(crate) struct Directory {
    pub(crate) summaries: Vec<Summary>,
    /// The segment's last group: number, clock of taking publishes, session, boot id.
    pub(crate) last: (u64, u64, u64, u128),
}

impl Gathered {
    /// Takes note of a chunk, in the order of the log.
    pub(crate) fn push(&mut self, group: &GroupHeader, chunk: &Chunk, offset: u64) {
        let entry = Entry::of(chunk, offset);
        let (summary, entries) = self.streams.entry(chunk.stream).or_insert_with(|| {
            let summary = Summary {
                stream: chunk.stream,
                history: chunk.history,
                first: chunk.first,
                last: chunk.first.previous(),
                next: chunk.first,
                time: Time(0),
                bytes: 0,
                size: 0,
                trim: Position::NONE,
                session: 0,
                written: false,
                removed: false,
                producers: false,
                offset: 0,
                count: 0,
            };
            (summary, Vec::new())
        });
        summary.history = chunk.history;
        summary.last = summary.last.max(entry.last);
        summary.next = summary.next.max(entry.last.next()).max(chunk.first);
        summary.time = summary.time.max(chunk.time);
        summary.size += entry.len();
        summary.written =
            (summary.written && summary.session == group.session) || chunk.flags & FLAG_WRITTEN != 0;
        summary.session = group.session;
        match chunk.kind {
            ChunkKind::Run => summary.bytes += u64::from(chunk.body_len),
            ChunkKind::Trim => summary.trim = summary.trim.max(Position(chunk.sequence)),
            ChunkKind::Remove => summary.removed = true,
            ChunkKind::Producer => summary.producers = true,
            _ => {}
        }
        entries.push(entry);
    }
}

/// The path of a segment's index.
pub(crate) fn path(segment: &Segment) -> String {
    format!("{}idx", segment.file.path().trim_end_matches("seg"))
}

fn put_entry(entry: &Entry, out: &mut Vec<u8>) {
    for number in [entry.first.0, entry.last.0, entry.time.0, entry.taking] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    for number in [entry.offset, entry.body_len, entry.extra_len] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    out.extend_from_slice(&[entry.kind as u8, entry.flags, u8::from(entry.producer), 0]);
}

fn get_entry(get: &mut Get<'_>) -> Option<Entry> {
    let (first, last) = (Position(get.u64()), Position(get.u64()));
    let (time, taking) = (Time(get.u64()), get.u64());
    let (offset, body_len, extra_len) = (get.u32(), get.u32(), get.u32());
    let kind = match get.u8() {
        1 => ChunkKind::Run,
        2 => ChunkKind::Skip,
        3 => ChunkKind::History,
        4 => ChunkKind::Trim,
        5 => ChunkKind::Producer,
        6 => ChunkKind::Remove,
        _ => return None,
    };
    let (flags, producer) = (get.u8(), get.u8() != 0);
    get.u8();
    Some(Entry { first, last, time, taking, offset, body_len, extra_len, kind, flags, producer })
}

/// Writes a segment's index, and says where every stream's entries lie in it.
pub(crate) fn write(core: &Core, segment: &Segment, gathered: &mut Gathered) -> io::Result<()> {
    let mut streams: Vec<_> = gathered.streams.values_mut().collect();
    streams.sort_by_key(|(summary, _)| summary.stream);
    let mut directory = Vec::with_capacity(streams.len() * SUMMARY);
    let mut body = Vec::new();
    let start = HEADER + streams.len() * SUMMARY;
    for (summary, entries) in &mut streams {
        (summary.offset, summary.count) = ((start + body.len()) as u64, entries.len() as u32);
        let from = body.len();
        for entry in entries.iter() {
            put_entry(entry, &mut body);
        }
        let crc = crc32c::crc32c_append(core.salt, &body[from..]);
        body.extend_from_slice(&crc.to_le_bytes());
        let flags =
            u32::from(summary.written) | u32::from(summary.removed) << 1 | u32::from(summary.producers) << 2;
        for number in [
            summary.stream.0,
            summary.history.0,
            summary.first.0,
            summary.last.0,
            summary.next.0,
            summary.time.0,
            summary.bytes,
            summary.trim.0,
            summary.session,
            summary.offset,
            u64::from(summary.count) | u64::from(flags) << 32,
            summary.size,
        ] {
            directory.extend_from_slice(&number.to_le_bytes());
        }
    }
    let mut header = crate::format::Put::<HEADER>::new();
    header.u64(MAGIC).u32(u32::from(VERSION)).u32(segment.header.generation).u64(segment.number());
    header.u64(segment.end()).u32(streams.len() as u32);
    header.u32(crc32c::crc32c_append(core.salt, &directory)).u64((start + body.len()) as u64);
    if let Some(last) = &gathered.last {
        header.u64(last.number).u64(last.taking).u64(last.session);
        header.u64(last.boot as u64).u64((last.boot >> 64) as u64);
    }
    let mut bytes = header.sealed(core.salt).to_vec();
    bytes.extend_from_slice(&directory);
    bytes.extend_from_slice(&body);
    let path = path(segment);
    match core.disk.remove(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    core.disk.create(&path)?.write_at(&bytes, 0)
}

/// Reads a segment's directory; `None` if there is no whole one.
pub(crate) fn read(core: &Core, segment: &Segment) -> Option<Directory> {
    let file = core.disk.open(&path(segment)).ok()?;
    let mut bytes = Vec::new();
    file.read_at(&mut bytes, HEADER, 0).ok()?;
    let mut get = Get::checked::<HEADER>(&bytes, core.salt)?;
    if get.u64() != MAGIC || get.u32() != u32::from(VERSION) || get.u32() != segment.header.generation {
        return None;
    }
    let (number, end, count, crc, length) = (get.u64(), get.u64(), get.u32() as usize, get.u32(), get.u64());
    let last = (get.u64(), get.u64(), get.u64(), u128::from(get.u64()) | u128::from(get.u64()) << 64);
    if number != segment.number() || file.len().ok()? < length {
        return None;
    }
    segment.end.store(end, std::sync::atomic::Ordering::Relaxed);
    let mut bytes = Vec::new();
    file.read_at(&mut bytes, count * SUMMARY, HEADER as u64).ok()?;
    if bytes.len() < count * SUMMARY || crc32c::crc32c_append(core.salt, &bytes) != crc {
        return None;
    }
    let summaries = bytes.chunks_exact(SUMMARY).map(|bytes| {
        let mut get = Get::new(bytes);
        let stream = StreamId(get.u64());
        let history = History(get.u64());
        let (first, last, next) = (Position(get.u64()), Position(get.u64()), Position(get.u64()));
        let (time, bytes, trim, session) = (Time(get.u64()), get.u64(), Position(get.u64()), get.u64());
        let (offset, count, size) = (get.u64(), get.u64(), get.u64());
        let flag = |bit: u64| count >> (32 + bit) & 1 == 1;
        let (written, removed, producers) = (flag(0), flag(1), flag(2));
        let count = count as u32;
        Summary {
            size,
            stream,
            history,
            first,
            last,
            next,
            time,
            bytes,
            trim,
            session,
            written,
            removed,
            producers,
            offset,
            count,
        }
    });
    Some(Directory { summaries: summaries.collect(), last })
}

/// Entries loaded from index files, the newest kept within a budget.
#[derive(Default)]
pub(crate) struct Cache {
    loaded: Mutex<Loaded>,
}

type Key = (u32, u64, u32, u64);

#[derive(Default)]
struct Loaded {
    entries: HashMap<Key, Arc<Vec<Entry>>>,
    order: VecDeque<Key>,
    bytes: usize,
}

fn key(segment: &Segment, offset: u64) -> Key {
    (segment.header.shard, segment.number(), segment.header.generation, offset)
}

/// Entries already loaded.
pub(crate) fn cached(core: &Core, segment: &Segment, offset: u64) -> Option<Arc<Vec<Entry>>> {
    lock(&core.index.loaded).entries.get(&key(segment, offset)).cloned()
}

/// A stream's entries in a sealed segment; reads them if they are not loaded. An index that is damaged or gone
/// (its segment was replaced a moment ago) is made again from the segment, which this holds open.
pub(crate) fn load(
    core: &Core,
    segment: &Segment,
    stream: StreamId,
    offset: u64,
    count: u32,
) -> io::Result<Arc<Vec<Entry>>> {
    if let Some(entries) = cached(core, segment, offset) {
        return Ok(entries);
    }
    let entries = match fetch(core, segment, offset, count) {
        Ok(Some(entries)) => entries,
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(None) | Err(_) => {
            // Nothing is lost: an index is never synced, and a kill or cleaning may take it away.
            tracing::info!(file = segment.file.path(), "the index of a segment is made again");
            let mut gathered = gather(core, segment)?;
            if core.disk.open(segment.file.path()).is_ok() {
                // If this fails, the next one to ask does it again.
                let _ = write(core, segment, &mut gathered);
            }
            gathered.streams.remove(&stream).map(|(_, entries)| entries).unwrap_or_default()
        }
    };
    let entries = Arc::new(entries);
    let mut loaded = lock(&core.index.loaded);
    let key = key(segment, offset);
    if loaded.entries.insert(key, entries.clone()).is_none() {
        loaded.order.push_back(key);
        loaded.bytes += entries.len() * ENTRY;
    }
    // The newest stays whatever its size: whoever asked plans with it next.
    while loaded.bytes > core.options.index_bytes && loaded.order.len() > 1 {
        let Some(oldest) = loaded.order.pop_front() else { break };
        if let Some(entries) = loaded.entries.remove(&oldest) {
            loaded.bytes -= entries.len() * ENTRY;
        }
    }
    Ok(entries)
}

/// Gathers a segment's index from the segment itself.
pub(crate) fn gather(core: &Core, segment: &Segment) -> io::Result<Gathered> {
    let scan = crate::recover::scan(core, segment)?;
    if !scan.damage.is_empty() || scan.end < segment.end() {
        let text = format!("index {}: the segment is damaged", segment.file.path());
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    let last = scan.groups.last().map(|(_, group)| *group);
    let mut gathered = Gathered { last, ..Gathered::default() };
    for (group, offset, chunk) in &scan.chunks {
        gathered.push(&scan.groups[*group].1, chunk, *offset);
    }
    Ok(gathered)
}

/// Entries from the index file; `None` if they are damaged there.
fn fetch(core: &Core, segment: &Segment, offset: u64, count: u32) -> io::Result<Option<Vec<Entry>>> {
    let file = core.disk.open(&path(segment))?;
    let length = count as usize * ENTRY;
    let mut bytes = Vec::new();
    file.read_at(&mut bytes, length + 4, offset)?;
    if bytes.len() < length + 4
        || crc32c::crc32c_append(core.salt, &bytes[..length]).to_le_bytes() != bytes[length..]
    {
        return Ok(None);
    }
    let mut get = Get::new(&bytes);
    Ok((0..count).map(|_| get_entry(&mut get)).collect())
}
