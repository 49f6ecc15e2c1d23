//! What happens to segments behind the writer's back: sealing, retention, cleaning, erasing.
//!
//! - **Sealing** writes the index file of a segment that is complete and synced, and lets go of its entries in
//!   memory.
//! - **Retention** decides what streams give up by age, bytes and count, and says so in the log (a trim).
//! - **Cleaning** replaces neighbouring segments, much of which is dead or which are small, by one file with the
//!   live chunks, unchanged. A segment at the log's beginning of which nothing lives is just removed.
//! - **Erasing** is cleaning that leaves out the data of single events.
//!
//! A replacement is written under a name that does not count, synced, renamed to the same number with a higher
//! generation, the directory is synced, and only then the old files go. A crash in between leaves either the old
//! files, or the new one beside old ones that are removed at the next start. What is alive: runs and skips not
//! below the stream's first position, its last trim, and its last chunk, which carries its history and position
//! even when no event is left. The newest segment is never touched: its end is what recovery starts from.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use weir_event::flow::{History, Position, Time};

use crate::api::{Error, Kind, SkipReason, StreamId};
use crate::counters::Counters;
use crate::disk::Why;
use crate::engine::Inner;
use crate::events;
use crate::format::{Chunk, ChunkKind, GroupHeader, GroupKind, Mark, SegmentHeader, reason_code};
use crate::index::{self, Gathered};
use crate::read;
use crate::recover;
use crate::segment::{self, Entries, Range, Segment};
use crate::shard::{Core, Shard, Work, disk_error, is_read, lock};
use crate::stream::{Shared, Stream};

/// A segment with dead chunks is rewritten after so long, however few they are.
const STALE: Duration = Duration::from_hours(18);

/// Events to leave out, by stream.
pub(crate) type Erase = HashMap<StreamId, HashSet<Position>>;

/// Positions that damage took from streams, to be told as skipped where they were.
#[derive(Default)]
pub(crate) struct Mend {
    /// By stream, first and last position of each hole, rising.
    pub(crate) holes: HashMap<StreamId, Vec<(Position, Position)>>,
    /// The next position of each stream so far.
    pub(crate) next: HashMap<StreamId, Position>,
}

impl Mend {
    /// Takes note of a chunk; the hole to tell before it.
    fn before(&mut self, chunk: &Chunk) -> Option<Chunk> {
        let skip = self.holes.get_mut(&chunk.stream).and_then(|holes| {
            let (first, last) = holes.first().copied().filter(|(_, last)| last.next() <= chunk.first)?;
            holes.remove(0);
            Some(skip(chunk.stream, chunk, first, last))
        });
        self.note(chunk);
        skip
    }

    /// Takes note of a chunk that stays as it is.
    pub(crate) fn note(&mut self, chunk: &Chunk) {
        let next = self.next.entry(chunk.stream).or_default();
        *next = (*next).max(chunk.last().next()).max(chunk.first);
    }

    /// Holes that begin where their stream stands now.
    fn after(&mut self) -> Vec<Chunk> {
        let mut skips = Vec::new();
        for (stream, holes) in &mut self.holes {
            let next = self.next.entry(*stream).or_insert(Position::FIRST);
            if let Some((first, last)) = holes.first().copied().filter(|(first, _)| *first <= *next) {
                holes.remove(0);
                let like = Chunk::bare(ChunkKind::Skip, *stream, History(0), first);
                skips.push(skip(*stream, &like, first, last));
                *next = last.next();
            }
        }
        skips
    }
}

/// A chunk that tells of positions repaired away.
fn skip(stream: StreamId, like: &Chunk, first: Position, last: Position) -> Chunk {
    Chunk {
        time: like.time,
        taking: like.taking,
        encoding: reason_code(SkipReason::Repair),
        sequence: last.0,
        ..Chunk::bare(ChunkKind::Skip, stream, like.history, first)
    }
}

/// Does all there is to do, once. Blocks; errors are logged and the next time tries again.
pub(crate) fn tidy(inner: &Inner) {
    inner.core.room.keep_reserve(&inner.core);
    let mut bytes = 0;
    for shard in &inner.shards {
        let _cleaning = lock(&shard.cleaning);
        // Before the streams are looked up: one declared since has nothing in these segments.
        let candidates = complete(shard);
        let streams = streams_of(inner, shard);
        // Each for itself: what keeps one from ending must not keep the others from making room.
        let sealed = seal(shard, &streams, &candidates);
        let retained = retain(shard, &streams).map_err(io::Error::other);
        for error in
            [sealed, retained, clean(shard, &streams, &candidates)].into_iter().filter_map(Result::err)
        {
            tracing::warn!(shard = shard.number, %error, "tidying a shard has to be tried again");
        }
        bytes += lock(&shard.segments).values().map(|segment| segment.end()).sum::<u64>();
    }
    inner.core.counters.segment_bytes.store(bytes, Relaxed);
}

fn streams_of(inner: &Inner, shard: &Shard) -> Vec<Arc<Stream>> {
    inner.read_streams().values().filter(|stream| stream.shard == shard.number).cloned().collect()
}

/// Segments that are complete and synced, but for the newest.
fn complete(shard: &Shard) -> Vec<Arc<Segment>> {
    let synced = lock(&shard.gate).synced;
    let segments = lock(&shard.segments);
    let newest = segments.keys().next_back().copied().unwrap_or_default();
    let complete = segments.values().filter(|segment| {
        segment.sealed.load(Relaxed) && segment.number() < newest && segment.mark() <= synced
    });
    complete.cloned().collect()
}

/// Writes the index of every segment that is complete.
fn seal(shard: &Shard, streams: &[Arc<Stream>], candidates: &[Arc<Segment>]) -> io::Result<()> {
    let todo: Vec<_> = candidates.iter().filter(|segment| !segment.indexed.load(Relaxed)).collect();
    if todo.is_empty() {
        return Ok(());
    }
    let by_id: HashMap<StreamId, &Arc<Stream>> = streams.iter().map(|stream| (stream.id, stream)).collect();
    for segment in todo {
        // Without an index, which a damaged one never gets, every start finds the damage again, and says so.
        let Ok(mut gathered) = index::gather(&shard.core, segment) else { continue };
        index::write(&shard.core, segment, &mut gathered)?;
        segment.indexed.store(true, Relaxed);
        // Room taken in advance and not used goes back. Nothing depends on it.
        let _ = segment.file.truncate(segment.end());
        for (id, (summary, _)) in gathered.streams {
            let Some(stream) = by_id.get(&id) else { continue };
            let mut shared = lock(&stream.shared);
            let range = shared.ranges.iter_mut().find(|range| Arc::ptr_eq(&range.segment, segment));
            if let Some(range) = range {
                range.entries = Entries::Stored { offset: summary.offset, count: summary.count };
            }
            shared.ranges.shrink_to_fit();
        }
    }
    Ok(())
}

/// Lets streams give up what they need not keep.
fn retain(shard: &Arc<Shard>, streams: &[Arc<Stream>]) -> Result<(), Error> {
    let core = &shard.core;
    let mut trims = Vec::new();
    for stream in streams {
        if let Some(first) = first_kept(core, stream)? {
            trims.push((stream, first));
        }
    }
    if trims.is_empty() {
        return Ok(());
    }
    let newest = lock(&shard.segments).values().next_back().cloned();
    if let Some(newest) = newest {
        let age = core.clock.now().0.saturating_sub(newest.header.time.0);
        let old = u128::from(age) > STALE.as_millis();
        let inside = |(stream, first): &(&Arc<Stream>, Position)| {
            lock(&stream.shared).ranges.last().is_some_and(|range| {
                Arc::ptr_eq(&range.segment, &newest) && range.first < *first && range.size > 0
            })
        };
        if old && trims.iter().any(inside) {
            // The trims then begin another segment, so that this one can be cleaned.
            drop(shard.ask(trims[0].0, Work::Roll)?);
        }
    }
    // In slices, so that publishers find room in the queue.
    for trims in trims.chunks(1024) {
        let ask =
            |(stream, first): &(&Arc<Stream>, Position)| shard.ask(stream, Work::Trim { first: *first });
        let answers: Vec<_> = trims.iter().map(ask).collect();
        for answer in answers {
            if let Ok(Err(error)) = answer?.blocking_recv() {
                return Err(error);
            }
        }
    }
    Ok(())
}

/// The first position that a stream has to keep, if that is more than it keeps now.
fn first_kept(core: &Core, stream: &Stream) -> Result<Option<Position>, Error> {
    let now = core.clock.now();
    let (retention, first, visible, boundary, over) = {
        let shared = lock(&stream.shared);
        if !shared.declared || shared.removed || shared.first >= shared.visible {
            return Ok(None);
        }
        // Newest first, until the bytes to keep are reached.
        let limit = shared.retention.bytes.unwrap_or(u64::MAX);
        let (mut bytes, mut boundary, mut over) = (0_u64, None, 0);
        for range in shared.ranges.iter().rev() {
            bytes = bytes.saturating_add(range.bytes);
            if bytes > limit {
                (boundary, over) = (Some(range.first.max(Position::FIRST)), bytes - limit);
                break;
            }
        }
        (shared.retention, shared.first, shared.visible, boundary, over)
    };
    let mut keep = first;
    if let Some(count) = retention.count {
        keep = keep.max(Position(visible.0.saturating_sub(count)));
    }
    if let Some(age) = retention.age {
        let since = Time(now.0.saturating_sub(u64::try_from(age.as_millis()).unwrap_or(u64::MAX)));
        keep = keep.max(read::find_time(core, stream, since)?);
    }
    if let Some(boundary) = boundary {
        keep = keep.max(boundary);
        let mut over = over;
        for entry in read::entries_from(core, stream, boundary)? {
            if over == 0 {
                break;
            }
            over = over.saturating_sub(u64::from(entry.body_len));
            keep = keep.max(entry.last.next());
        }
    }
    let keep = keep.min(visible);
    Ok((keep > first).then_some(keep))
}

/// Whether all of a range is synced.
fn is_synced(range: &Range, synced: Mark) -> bool {
    let number = range.segment.number();
    number < synced.segment
        || match &range.entries {
            Entries::Here(entries) => {
                let end = entries.first().map_or(u64::MAX, crate::segment::Entry::end);
                Mark { segment: number, offset: end } <= synced
            }
            Entries::Stored { .. } => true,
        }
}

/// How much of a range is alive and how much dead. What follows it counts only once it is synced.
fn share(shared: &Shared, at: usize, synced: Mark) -> (u64, u64) {
    let range = &shared.ranges[at];
    let last = !shared.ranges[at + 1..].iter().any(|later| is_synced(later, synced));
    let word = last || range.producers || shared.trim_at == range.segment.number();
    let few = (Chunk::LEN as u64 * 2).min(range.size);
    if shared.gone {
        return if last && at > 0 { (few, range.size - few) } else { (0, range.size) };
    }
    if range.last < shared.first || range.last < range.first {
        let kept = if word { few } else { 0 };
        return (kept, range.size - kept);
    }
    (range.size, 0)
}

/// Replaces and removes what is mostly dead.
fn clean(shard: &Shard, streams: &[Arc<Stream>], candidates: &[Arc<Segment>]) -> io::Result<()> {
    let core = &shard.core;
    let synced = lock(&shard.gate).synced;
    let mut shares: BTreeMap<u64, (u64, u64, bool)> = BTreeMap::new();
    for stream in streams {
        let shared = lock(&stream.shared);
        for (at, range) in shared.ranges.iter().enumerate() {
            let (live, dead) = share(&shared, at, synced);
            let partly = range.first < shared.first && range.last >= shared.first;
            let sum = shares.entry(range.segment.number()).or_default();
            *sum = (sum.0 + live, sum.1 + dead, sum.2 || partly || dead > 0);
        }
    }
    let small = u64::from(core.options.segment_bytes) / 4;
    let now = core.clock.now();
    // Neighbours that are worth rewriting together.
    let mut run: Vec<Arc<Segment>> = Vec::new();
    let (mut run_live, mut run_worth) = (0, false);
    let oldest = lock(&shard.segments).keys().next().copied();
    let mut front = oldest;
    for segment in candidates.iter().filter(|segment| segment.indexed.load(Relaxed)) {
        let number = segment.number();
        let (live, dead, any) = shares.get(&number).copied().unwrap_or_default();
        if live == 0 && front == Some(number) {
            remove(shard, streams, segment)?;
            front = lock(&shard.segments).keys().next().copied();
            continue;
        }
        let age = now.0.saturating_sub(segment.header.time.0);
        let stale = any && u128::from(age) > STALE.as_millis();
        let empty = live == 0 && segment.end() > SegmentHeader::LEN as u64;
        let mostly = dead > 0 && (live as f64) < (live + dead) as f64 * core.options.clean_below;
        let worth = stale || empty || mostly;
        let is_small = live < small && segment.end() < small;
        let neighbour = run.last().is_none_or(|last| last.header.upto + 1 == number);
        let fits = run_live + live <= u64::from(core.options.segment_bytes);
        if !run.is_empty() && !((worth || is_small) && neighbour && fits) {
            flush(shard, streams, &mut run, run_worth)?;
            (run_live, run_worth) = (0, false);
        }
        if worth || is_small {
            run.push(segment.clone());
            run_live += live;
            run_worth |= worth;
        }
    }
    flush(shard, streams, &mut run, run_worth)
}

fn flush(shard: &Shard, streams: &[Arc<Stream>], run: &mut Vec<Arc<Segment>>, worth: bool) -> io::Result<()> {
    let run = std::mem::take(run);
    // Small ones are put together once there are several of them.
    if !worth && run.len() < 4 {
        return Ok(());
    }
    match rewrite(shard, streams, &run, &Erase::new(), None) {
        // It stays as it is, for whoever repairs; the others are cleaned all the same.
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Ok(()),
        result => result,
    }
}

/// Removes a segment at the log's beginning of which nothing lives.
fn remove(shard: &Shard, streams: &[Arc<Stream>], segment: &Arc<Segment>) -> io::Result<()> {
    for stream in streams {
        let mut shared = lock(&stream.shared);
        shared.ranges.retain(|range| !Arc::ptr_eq(&range.segment, segment));
    }
    lock(&shard.segments).remove(&segment.number());
    shard.cache.forget(Mark { segment: segment.number(), offset: 0 }, segment.number());
    Counters::add(&shard.core.counters.removed_segments_total, 1);
    Counters::sub(&shard.core.counters.segments, 1);
    drop_files(&shard.core, segment)
}

fn drop_files(core: &Core, segment: &Segment) -> io::Result<()> {
    match core.disk.remove(&index::path(segment)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    core.disk.remove(segment.file.path())
}

/// Which of a stream's chunks in some segments live.
struct Living {
    first: Position,
    removed: bool,
    /// Its last chunk of all is in these segments.
    last_here: bool,
    /// Its last trim is.
    trim_here: bool,
    /// It has chunks elsewhere.
    elsewhere: bool,
}

/// Replaces neighbouring segments by one with what lives of them.
pub(crate) fn rewrite(
    shard: &Shard,
    streams: &[Arc<Stream>],
    run: &[Arc<Segment>],
    erase: &Erase,
    mut mend: Option<&mut Mend>,
) -> io::Result<()> {
    let core = &shard.core;
    let (Some(head), Some(tail)) = (run.first(), run.last()) else { return Ok(()) };
    let inside = |segment: &Arc<Segment>| run.iter().any(|other| Arc::ptr_eq(other, segment));
    let synced = lock(&shard.gate).synced;
    let mut living = HashMap::new();
    for stream in streams {
        let shared = lock(&stream.shared);
        let elsewhere = shared.ranges.iter().any(|range| !inside(&range.segment));
        let last = shared.ranges.iter().rev().find(|range| is_synced(range, synced));
        let last_here = last.is_some_and(|range| inside(&range.segment));
        let trim_here = run.iter().any(|segment| segment.number() == shared.trim_at);
        let (first, removed) = (shared.first, shared.gone);
        living.insert(stream.id, Living { first, removed, last_here, trim_here, elsewhere });
    }
    let mut scans = Vec::new();
    for segment in run {
        let scan = recover::scan(core, segment)?;
        if mend.is_none() && (!scan.damage.is_empty() || scan.end < segment.end()) {
            tracing::error!(file = segment.file.path(), "a damaged segment is not cleaned");
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the segment is damaged"));
        }
        scans.push(scan);
    }
    let keep = kept(&scans, &living);
    let generation = run.iter().map(|segment| segment.header.generation).max().unwrap_or_default() + 1;
    let path = segment::path(shard.number, head.number(), generation);
    let unfinished = format!("{path}.new");
    match core.disk.remove(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = core.disk.create(&unfinished)?;
    let mut gathered = Gathered::default();
    let mut at = SegmentHeader::LEN as u64;
    let mut buffer = Vec::new();
    for (segment, (scan, keep)) in run.iter().zip(scans.iter().zip(&keep)) {
        let mut chunks = scan.chunks.iter().zip(keep).peekable();
        for (i, (_, group)) in scan.groups.iter().enumerate() {
            let start = buffer.len();
            let mut count = 0;
            while let Some(((_, offset, chunk), &keep)) = chunks.next_if(|((group, ..), _)| *group == i) {
                if !keep {
                    continue;
                }
                let bytes = segment.read(chunk.len(), *offset)?;
                if mend.is_some() && !chunk.verify(&bytes[Chunk::LEN..]) {
                    continue;
                }
                if count == 0 {
                    buffer.resize(start + GroupHeader::LEN, 0);
                }
                if let Some(skip) = mend.as_mut().and_then(|mend| mend.before(chunk)) {
                    count += 1;
                    gathered.push(group, &skip, at + buffer.len() as u64);
                    buffer.extend_from_slice(&skip.encode(core.salt));
                }
                count += 1;
                let place = at + buffer.len() as u64;
                let chunk = match erase.get(&chunk.stream) {
                    Some(positions) => erased(core, chunk, bytes, positions, &mut buffer)?,
                    None => {
                        buffer.extend_from_slice(&bytes);
                        *chunk
                    }
                };
                gathered.push(group, &chunk, place);
            }
            if count > 0 {
                let length = (buffer.len() - start - GroupHeader::LEN) as u32;
                let header = GroupHeader { kind: GroupKind::Chunks, length, chunks: count, ..*group };
                buffer[start..start + GroupHeader::LEN].copy_from_slice(&header.encode(core.salt));
            }
            if buffer.len() >= 1 << 20 {
                file.write_at(&buffer, at)?;
                at += buffer.len() as u64;
                buffer.clear();
            }
        }
    }
    let last_group = scans.iter().rev().find_map(|scan| scan.groups.last().map(|(_, group)| *group));
    gathered.last = last_group;
    if let (Some(mend), Some(group)) = (mend.as_mut(), last_group) {
        let skips = mend.after();
        let header = GroupHeader {
            kind: GroupKind::Chunks,
            number: group.number + 1,
            length: (skips.len() * Chunk::LEN) as u32,
            chunks: skips.len() as u32,
            ..group
        };
        buffer.extend_from_slice(&header.encode(core.salt));
        for skip in skips {
            gathered.push(&header, &skip, at + buffer.len() as u64);
            buffer.extend_from_slice(&skip.encode(core.salt));
        }
    }
    file.write_at(&buffer, at)?;
    let end = at + buffer.len() as u64;
    let header = SegmentHeader {
        shard: shard.number,
        number: head.number(),
        upto: tail.header.upto,
        generation,
        previous: head.header.previous,
        synced: tail.mark(),
        time: core.clock.now(),
        end,
    };
    file.write_at(&header.encode(core.salt), 0)?;
    file.sync(Why::Rewrite)?;
    core.disk.rename(&unfinished, &path)?;
    core.disk.sync_dir(&segment::directory(shard.number), Why::Replace)?;
    Counters::add(&core.counters.flushes_total, 1);
    Counters::add(&core.counters.dir_flushes_total, 1);
    Counters::add(&core.counters.cleaned_segments_total, run.len() as u64);
    Counters::add(&core.counters.written_bytes_total, end);
    let file = core.disk.open(&path)?;
    let segment = Segment::new(header, file, end, true);
    // A replacement without index counts all the same: it goes on with its entries in memory.
    match index::write(core, &segment, &mut gathered) {
        Ok(()) => segment.indexed.store(true, Relaxed),
        Err(error) => tracing::warn!(%error, "an index could not be written"),
    }
    swap(shard, streams, run, &segment, gathered);
    for old in run {
        drop_files(core, old)?;
    }
    Ok(())
}

/// For every chunk of some segments, whether it lives.
fn kept(scans: &[recover::Scan], living: &HashMap<StreamId, Living>) -> Vec<Vec<bool>> {
    // The last chunk and the last trim of every stream in these segments.
    let (mut last, mut trim) = (HashMap::new(), HashMap::new());
    for (i, scan) in scans.iter().enumerate() {
        for (j, (_, _, chunk)) in scan.chunks.iter().enumerate() {
            last.insert(chunk.stream, (i, j));
            if chunk.kind == ChunkKind::Trim {
                trim.insert(chunk.stream, (i, j));
            }
        }
    }
    let alive = |i: usize, j: usize, chunk: &Chunk| {
        let Some(stream) = living.get(&chunk.stream) else { return true };
        if stream.removed {
            return chunk.kind == ChunkKind::Remove && stream.elsewhere;
        }
        let here = Some(&(i, j));
        (is_read(chunk.kind) && chunk.last() >= stream.first)
            || (chunk.kind == ChunkKind::Producer && chunk.first >= stream.first)
            || (stream.last_here && last.get(&chunk.stream) == here)
            || (stream.trim_here && trim.get(&chunk.stream) == here)
    };
    let scans = scans.iter().enumerate();
    scans
        .map(|(i, scan)| scan.chunks.iter().enumerate().map(|(j, (_, _, c))| alive(i, j, c)).collect())
        .collect()
}

/// Adds a chunk without the data of some of its events; its header as it then is.
fn erased(
    core: &Core,
    chunk: &Chunk,
    bytes: Vec<u8>,
    positions: &HashSet<Position>,
    out: &mut Vec<u8>,
) -> io::Result<Chunk> {
    let hit = chunk.kind == ChunkKind::Run
        && (0..u64::from(chunk.count)).any(|i| positions.contains(&chunk.first.plus(i)));
    if !hit {
        out.extend_from_slice(&bytes);
        return Ok(*chunk);
    }
    if !chunk.verify(&bytes[Chunk::LEN..]) {
        let text = format!("erase: positions {} to {} are damaged", chunk.first, chunk.last());
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    let (body, extra) = bytes[Chunk::LEN..].split_at(chunk.body_len as usize);
    let mut new = Vec::with_capacity(body.len());
    let mut rest = body;
    for i in 0..u64::from(chunk.count) {
        let Some((event, next)) = events::split_first(rest) else { break };
        if positions.contains(&chunk.first.plus(i)) {
            events::push_erased(event, &mut new);
        } else {
            new.extend_from_slice(&rest[..rest.len() - next.len()]);
        }
        rest = next;
    }
    let header = Chunk { body_len: new.len() as u32, body_crc: crc32c::crc32c(&new), ..*chunk };
    out.extend_from_slice(&header.encode(core.salt));
    out.extend_from_slice(&new);
    out.extend_from_slice(extra);
    Ok(header)
}

/// Puts the new segment where the old ones were.
fn swap(
    shard: &Shard,
    streams: &[Arc<Stream>],
    run: &[Arc<Segment>],
    new: &Arc<Segment>,
    gathered: Gathered,
) {
    let mut gathered = gathered.streams;
    let (from, upto) = (new.number(), new.header.upto);
    // The new file goes by the same number: nobody may find the old one's groups under it.
    shard.cache.forget(Mark { segment: from, offset: 0 }, upto);
    let stored = new.indexed.load(Relaxed);
    for stream in streams {
        let mut shared = lock(&stream.shared);
        let inside = |range: &Range| run.iter().any(|old| Arc::ptr_eq(old, &range.segment));
        let Some(at) = shared.ranges.iter().position(inside) else { continue };
        shared.ranges.retain(|range| !inside(range));
        if let Some((summary, entries)) = gathered.remove(&stream.id) {
            let entries = match stored {
                true => Entries::Stored { offset: summary.offset, count: summary.count },
                false => Entries::Here(entries),
            };
            let index::Summary { first, last, time, bytes, size, producers, .. } = summary;
            let segment = new.clone();
            shared.ranges.insert(at, Range { segment, first, last, time, bytes, size, producers, entries });
        }
        if (from..=upto).contains(&shared.trim_at) {
            shared.trim_at = from;
        }
    }
    {
        let mut segments = lock(&shard.segments);
        for old in run {
            segments.remove(&old.number());
        }
        segments.insert(from, new.clone());
    }
    Counters::sub(&shard.core.counters.segments, run.len() as u64 - 1);
}

/// Takes away what no longer counts but may still hold data: files left by a failed sync, and the ends of files
/// that were cut.
fn scrub(shard: &Shard, directory: &str) -> io::Result<()> {
    let core = &shard.core;
    let segments: Vec<Arc<Segment>> = lock(&shard.segments).values().cloned().collect();
    // Beyond the newest the writer may be making another.
    let newest = segments.last().map_or(0, |segment| segment.number());
    for name in core.disk.list(directory)? {
        let path = format!("{directory}/{name}");
        let old = segment::parse_name(&name).is_some_and(|(number, _)| number < newest);
        if old && !segments.iter().any(|segment| segment.file.path() == path) {
            core.disk.remove(&path)?;
        }
    }
    for segment in segments.iter().filter(|s| s.number() < newest && s.sealed.load(Relaxed)) {
        if segment.file.len()? > segment.end() {
            segment.file.truncate(segment.end())?;
            segment.file.sync(Why::Removal)?;
            Counters::add(&core.counters.flushes_total, 1);
        }
    }
    Ok(())
}

/// Removes the data of single events for good.
pub(crate) fn erase(inner: &Inner, id: StreamId, positions: Vec<Position>) -> Result<(), Error> {
    let stream = inner.stream(id, "erase")?;
    let shard = inner.shard(&stream);
    let (visible, first) = {
        let shared = lock(&stream.shared);
        (shared.visible, shared.first)
    };
    if let Some(beyond) = positions.iter().find(|position| **position >= visible || position.is_none()) {
        return Err(Error::new(Kind::Invalid, format!("erase: there is no position {beyond}")));
    }
    let positions: HashSet<Position> = positions.into_iter().collect();
    let holds = |range: &Range| positions.iter().any(|p| (range.first..=range.last).contains(p));
    let newest = lock(&shard.segments).keys().next_back().copied().unwrap_or_default();
    let in_newest =
        |shared: &Shared| shared.ranges.iter().any(|range| range.segment.number() == newest && holds(range));
    if in_newest(&lock(&stream.shared)) {
        // Another segment is begun, by saying again what the stream keeps: then this one can be replaced.
        drop(shard.ask(&stream, Work::Roll)?);
        let closed = |_| Error::new(Kind::Closed, "erase: the log was closed");
        shard.ask(&stream, Work::Trim { first })?.blocking_recv().map_err(closed)??;
    }
    let _cleaning = lock(&shard.cleaning);
    let candidates = complete(shard);
    let streams = streams_of(inner, shard);
    seal(shard, &streams, &candidates).map_err(|e| disk_error(&e))?;
    let hit: Vec<Arc<Segment>> = {
        let shared = lock(&stream.shared);
        shared.ranges.iter().filter(|range| holds(range)).map(|range| range.segment.clone()).collect()
    };
    let erase = Erase::from([(id, positions)]);
    for segment in &hit {
        if !segment.indexed.load(Relaxed) {
            let text = format!("erase: {} is not complete or damaged", segment.file.path());
            return Err(Error::new(Kind::Unavailable, text).retry_after(Duration::from_secs(1)));
        }
        rewrite(shard, &streams, std::slice::from_ref(segment), &erase, None).map_err(|e| disk_error(&e))?;
    }
    if !hit.is_empty() {
        let directory = segment::directory(shard.number);
        scrub(shard, &directory).map_err(|e| disk_error(&e))?;
        inner.core.disk.sync_dir(&directory, Why::Removal).map_err(|e| disk_error(&e))?;
        Counters::add(&inner.core.counters.dir_flushes_total, 1);
    }
    Ok(())
}
