//! Opening a shard: which files count, where the log ends, and what it says of every stream.
//!
//! Every group says up to where the log was synced before it ([`Mark`]); the highest such mark found is the line.
//! Damage above it is an unfinished write: the log is cut there, loudly, and whatever lies after is void, for
//! nobody was told of it. Damage below it is corruption: it is reported, the groups after it are found again, and
//! only the positions hit are lost. Streams of which nothing is found after such a place may have lost their
//! newest positions and go on under a new history.
//!
//! After an unclean stop the part above the line is written again, byte for byte, and synced before anything of it
//! is believed: it may only have been in a page cache that survived a failed sync. The shard then goes on in a new
//! file whose header says where the old one ends, so that no leftover of the old tail can ever be taken for part
//! of the log. If the machine had stopped, too, streams that showed events before they were synced go on under a
//! new history.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use weir_event::flow::{History, Position, Time};

use crate::api::{Durability, Error, Retention, Settings, StreamId};
use crate::counters::Counters;
use crate::disk::{File, Why};
use crate::format::{Chunk, GroupHeader, GroupKind, Mark, SegmentHeader};
use crate::index::{self, Gathered, Summary};
use crate::segment::{self, Entries, Range, Segment};
use crate::shard::{Core, disk_error};
use crate::stream::Stream;

/// A shard as found.
pub(crate) struct Found {
    pub(crate) streams: HashMap<StreamId, Arc<Stream>>,
    pub(crate) segments: BTreeMap<u64, Arc<Segment>>,
    /// Streams that begin a new history.
    pub(crate) histories: Vec<Arc<Stream>>,
    /// The segment to go on in, after a clean stop.
    pub(crate) current: Option<Arc<Segment>>,
    /// Where the log ends.
    pub(crate) end: Mark,
    /// Up to where it is synced: all but perhaps the group that says that it was closed.
    pub(crate) synced: Mark,
    pub(crate) next_segment: u64,
    pub(crate) next_group: u64,
    pub(crate) taking: u64,
}

/// What scanning one segment found.
#[derive(Default)]
pub(crate) struct Scan {
    pub(crate) groups: Vec<(u64, GroupHeader)>,
    /// Chunks with a whole header, by group.
    pub(crate) chunks: Vec<(usize, u64, Chunk)>,
    /// Places, from and to, where there is neither a group nor its header.
    pub(crate) damage: Vec<(u64, u64)>,
    /// Where the last whole group ends.
    pub(crate) end: u64,
}

/// Reads a file in blocks.
struct Blocks<'a> {
    file: &'a dyn File,
    limit: u64,
    at: u64,
    block: Vec<u8>,
}

impl Blocks<'_> {
    /// `count` bytes at `offset`; fewer at the end.
    fn get(&mut self, offset: u64, count: usize) -> io::Result<&[u8]> {
        let count = count.min(self.limit.saturating_sub(offset) as usize);
        if offset < self.at || offset + count as u64 > self.at + self.block.len() as u64 {
            self.block.clear();
            self.at = offset;
            let want = count.max(64 << 10).min(self.limit.saturating_sub(offset) as usize);
            self.file.read_at(&mut self.block, want, offset)?;
        }
        let start = (offset - self.at) as usize;
        Ok(&self.block[start.min(self.block.len())..(start + count).min(self.block.len())])
    }
}

/// Finds every group and chunk of a segment, damaged places included.
pub(crate) fn scan(core: &Core, segment: &Segment) -> io::Result<Scan> {
    let (file, limit) = (&*segment.file, segment.end());
    // Cleaning puts groups of several runs of the program into one file and leaves out marks.
    let rewritten = segment.header.end != 0;
    let mut blocks = Blocks { file, limit, at: 0, block: Vec::new() };
    let mut scan = Scan { end: SegmentHeader::LEN as u64, ..Scan::default() };
    let mut at = SegmentHeader::LEN as u64;
    let mut number = None;
    let mut after_damage = false;
    while at + GroupHeader::LEN as u64 <= limit {
        let header = GroupHeader::decode(blocks.get(at, GroupHeader::LEN)?, core.salt);
        let whole = header.filter(|header| {
            // Another run of the program goes on in a file only after the last has closed it. What else is found
            // there is a leftover of a write that was cut off.
            let follows = scan.groups.last().is_none_or(|(_, last)| {
                rewritten || last.session == header.session || last.kind == GroupKind::Close || after_damage
            });
            follows
                && (rewritten || number.is_none_or(|number| header.number >= number))
                && at + GroupHeader::LEN as u64 + u64::from(header.length) <= limit
        });
        let Some(header) = whole else {
            let Some(next) = search(core, &mut blocks, at + 1, number)? else { break };
            scan.damage.push((at, next));
            at = next;
            after_damage = true;
            continue;
        };
        after_damage = false;
        let end = at + GroupHeader::LEN as u64 + u64::from(header.length);
        let group = scan.groups.len();
        scan.groups.push((at, header));
        let mut inner = at + GroupHeader::LEN as u64;
        while inner < end {
            let chunk = Chunk::decode(blocks.get(inner, Chunk::LEN)?, core.salt);
            let Some(chunk) = chunk.filter(|chunk| inner + chunk.len() as u64 <= end) else {
                scan.damage.push((inner, end));
                break;
            };
            scan.chunks.push((group, inner, chunk));
            inner += chunk.len() as u64;
        }
        number = Some(header.number + 1);
        at = end;
        scan.end = end;
    }
    Ok(scan)
}

/// The next whole group header.
fn search(core: &Core, blocks: &mut Blocks<'_>, from: u64, number: Option<u64>) -> io::Result<Option<u64>> {
    let mut at = from;
    while at + GroupHeader::LEN as u64 <= blocks.limit {
        let window = blocks.get(at, 64 << 10)?;
        if window.len() < GroupHeader::LEN {
            return Ok(None);
        }
        let steps = window.len() - GroupHeader::LEN + 1;
        if window.iter().all(|&byte| byte == 0) {
            at += steps as u64;
            continue;
        }
        let found = (0..steps).find(|&i| {
            window[i] == b'w'
                && GroupHeader::decode(&window[i..], core.salt)
                    .is_some_and(|header| number.is_none_or(|number| header.number >= number))
        });
        if let Some(found) = found {
            return Ok(Some(at + found as u64));
        }
        at += steps as u64;
    }
    Ok(None)
}

/// Opens a shard's log.
pub(crate) fn open(core: &Arc<Core>, shard: u32) -> Result<Found, Error> {
    let (files, leftovers) = files(core, shard).map_err(|e| disk_error(&e))?;
    if !leftovers.is_empty() {
        // The name of what replaces them may not be synced: the process may have ended just after giving it.
        let directory = segment::directory(shard);
        core.disk.sync_dir(&directory, Why::Replace).map_err(|e| disk_error(&e))?;
        Counters::add(&core.counters.dir_flushes_total, 1);
    }
    let highest = leftovers.iter().filter_map(|path| segment::parse_name(path.rsplit('/').next()?)).max();
    for path in leftovers {
        tracing::info!(file = path, "a leftover is removed");
        core.disk.remove(&path).map_err(|e| disk_error(&e))?;
    }
    let last = files.last().map_or(0, |file| file.header.upto.max(file.header.number));
    let next_segment = last.max(highest.map_or(0, |(number, _)| number)) + 1;
    let mut opening = Opening { core: core.clone(), shard, streams: BTreeMap::new(), damage: Vec::new() };
    opening.run(files, next_segment).map_err(|e| disk_error(&e))
}

/// The segment files that count, in the order of the log, and the paths of those that do not.
pub(crate) fn files(core: &Core, shard: u32) -> io::Result<(Vec<Arc<Segment>>, Vec<String>)> {
    let directory = segment::directory(shard);
    let (mut found, mut leftovers) = (Vec::new(), Vec::new());
    for name in core.disk.list(&directory)? {
        let path = format!("{directory}/{name}");
        let Some((number, generation)) = segment::parse_name(&name) else {
            if name.ends_with(".new") {
                // Cleaning that had not ended.
                leftovers.push(path);
            }
            continue;
        };
        let file = core.disk.open(&path)?;
        let mut bytes = Vec::new();
        file.read_at(&mut bytes, SegmentHeader::LEN, 0)?;
        let header = SegmentHeader::decode(&bytes, core.salt);
        found.push((number, generation, file, header));
    }
    found.sort_by_key(|(number, generation, ..)| (*number, *generation));
    // Descending: a later file says where the one before it ends, and which files between never counted.
    let mut kept: Vec<Arc<Segment>> = Vec::new();
    let mut previous: Option<Mark> = None;
    let (mut from, mut by) = (u64::MAX, 0);
    for (number, generation, file, header) in found.into_iter().rev() {
        let Some(header) = header else {
            if kept.is_empty() {
                let (mark, time, end) = (Mark::default(), Time(0), 0);
                let (upto, previous, synced) = (number, mark, mark);
                let header = SegmentHeader { shard, number, upto, generation, previous, synced, time, end };
                let length = file.len()?;
                let segment = Segment::new(header, file, length, true);
                let groups = scan(core, &segment)?.groups;
                if groups.iter().any(|(_, group)| group.synced.segment == number) {
                    tracing::error!(file = segment.file.path(), "a segment's header is damaged");
                    kept.push(segment);
                } else {
                    // Made and never synced: nothing in it was ever believed.
                    leftovers.push(segment.file.path().to_owned());
                }
                continue;
            }
            if number > previous.map_or(0, |mark| mark.segment) {
                leftovers.push(file.path().to_owned());
                continue;
            }
            let end = previous.filter(|mark| mark.segment == number).map_or(file.len()?, |mark| mark.offset);
            let (mark, time) = (Mark::default(), Time(0));
            let (upto, synced) = (number, mark);
            // Whether it was ever synced, and so whether this is damage, is known once all marks are.
            let header =
                SegmentHeader { shard, number, upto, generation, previous: mark, synced, time, end: 0 };
            kept.push(Segment::new(header, file, end, true));
            previous = None;
            continue;
        };
        let void = previous.is_some_and(|mark| number > mark.segment && generation == 0);
        let replaced = number >= from && by > generation;
        if void || replaced {
            leftovers.push(file.path().to_owned());
            continue;
        }
        let end = match previous {
            _ if header.end != 0 => header.end,
            Some(mark) if mark.segment == number => mark.offset,
            _ => file.len()?,
        };
        if generation > 0 {
            (from, by) = (header.number, generation);
        }
        previous = Some(header.previous);
        kept.push(Segment::new(header, file, end, true));
    }
    kept.reverse();
    // A rewritten file stands for all numbers up to `upto`.
    let covered: Vec<(u64, u64, u32)> =
        kept.iter().map(|s| (s.header.number, s.header.upto, s.header.generation)).collect();
    let mut result = Vec::with_capacity(kept.len());
    for segment in kept {
        let own = &segment.header;
        let replaced = covered
            .iter()
            .any(|&(from, upto, by)| (from..=upto).contains(&own.number) && by > own.generation);
        if replaced {
            leftovers.push(segment.file.path().to_owned());
        } else {
            result.push(segment);
        }
    }
    // An index without its segment.
    let names = core.disk.list(&directory)?;
    let gone = |name: &&String| {
        let segment = name.strip_suffix(".idx").map(|name| format!("{directory}/{name}.seg"));
        segment.is_some_and(|path| !result.iter().any(|segment: &Arc<Segment>| segment.file.path() == path))
    };
    leftovers.extend(names.iter().filter(gone).map(|name| format!("{directory}/{name}")));
    Ok((result, leftovers))
}

struct Opening {
    core: Arc<Core>,
    shard: u32,
    streams: BTreeMap<StreamId, Known>,
    /// Corrupt places.
    damage: Vec<Mark>,
}

/// What is known of a stream so far.
struct Known {
    last: Summary,
    /// Where its newest chunk lies.
    at: Mark,
    first: Position,
    time: Time,
    trim_at: u64,
    ranges: Vec<Range>,
}

impl Opening {
    fn run(&mut self, files: Vec<Arc<Segment>>, next_segment: u64) -> io::Result<Found> {
        let core = self.core.clone();
        let mut scans: Vec<(Arc<Segment>, Scan)> = Vec::new();
        let mut segments = BTreeMap::new();
        let mut line = Mark::default();
        let mut indexed = Vec::new();
        for segment in files {
            line = line.max(segment.header.synced);
            segments.insert(segment.number(), segment.clone());
            match index::read(&core, &segment) {
                Some(summaries) => {
                    // Only what was synced whole has an index.
                    line = line.max(segment.mark());
                    segment.indexed.store(true, Relaxed);
                    indexed.push((segment, Some(summaries)));
                }
                None => {
                    let scan = scan(&core, &segment)?;
                    if segment.header.end != 0 {
                        line = line.max(segment.mark());
                    }
                    line = scan.groups.iter().fold(line, |line, (_, group)| line.max(group.synced));
                    indexed.push((segment.clone(), None));
                    scans.push((segment, scan));
                }
            }
        }
        let mut scans: HashMap<u64, Scan> = scans.into_iter().map(|(s, scan)| (s.number(), scan)).collect();
        let mut end = Mark::default();
        // Number, clock of taking publishes, session and boot id of the last group.
        let mut last = None;
        let (mut closed, mut synced) = (false, Mark::default());
        let mut cut = false;
        let count = indexed.len();
        for (i, (segment, summaries)) in indexed.into_iter().enumerate() {
            let newest = i + 1 == count;
            let headless = segment.header.time == Time(0);
            if headless && segment.number() > line.segment {
                // Not even its header was synced: an unfinished write, and so is all that comes after it.
                cut = true;
            } else if headless && !cut {
                tracing::error!(file = segment.file.path(), "a segment's header is damaged");
            }
            if cut {
                tracing::warn!(file = segment.file.path(), "a file after an unfinished write is removed");
                Counters::add(&core.counters.cut_bytes_total, segment.end());
                core.disk.remove(segment.file.path())?;
                segments.remove(&segment.number());
                continue;
            }
            if let Some(directory) = summaries {
                (last, closed) = (Some(directory.last), false);
                for summary in directory.summaries {
                    let at = segment.mark();
                    let entries = Entries::Stored { offset: summary.offset, count: summary.count };
                    self.note(&segment, summary, at, entries);
                }
                end = segment.mark();
                synced = end;
                continue;
            }
            let Some(scan) = scans.remove(&segment.number()) else { continue };
            let (stop, bad, damaged) = self.tail(&segment, &scan, line, newest)?;
            cut = bad;
            if damaged {
                self.damage.push(Mark { segment: segment.number(), offset: stop });
            }
            let mut gathered = Gathered::default();
            let mut marks: HashMap<StreamId, u64> = HashMap::new();
            for (group, offset, chunk) in scan.chunks.iter().filter(|(_, offset, _)| *offset < stop) {
                gathered.push(&scan.groups[*group].1, chunk, *offset);
                marks.insert(chunk.stream, *offset);
            }
            for (from, to) in scan.damage.iter().filter(|(from, _)| *from < stop) {
                let file = segment.file.path();
                tracing::error!(file, from, to, "stored data is damaged: the positions in it are lost");
                self.damage.push(Mark { segment: segment.number(), offset: *from });
            }
            segment.end.store(stop, Relaxed);
            for (stream, (summary, entries)) in gathered.streams {
                let offset = marks.get(&stream).copied().unwrap_or_default();
                let at = Mark { segment: segment.number(), offset };
                self.note(&segment, summary, at, Entries::Here(entries));
            }
            closed = false;
            if let Some((_, group)) = scan.groups.iter().rev().find(|(offset, _)| *offset < stop) {
                last = Some((group.number, group.taking, group.session, group.boot));
                closed = group.kind == GroupKind::Close;
            }
            synced = Mark { segment: segment.number(), offset: stop };
            if closed {
                // The process may have ended before this last group of all was synced.
                synced.offset -= GroupHeader::LEN as u64;
            }
            end = Mark { segment: segment.number(), offset: stop };
        }
        let newest = segments.values().next_back().cloned();
        if closed && let Some(newest) = &newest {
            // If its sync failed it is only in memory, where nobody would look after it any more. Written again it
            // is synced with the next group.
            let count = (end.offset - synced.offset) as usize;
            newest.file.write_at(&newest.read(count, synced.offset)?, synced.offset)?;
        } else {
            // The part above the line may reach over several files.
            for segment in segments.range(line.segment..).map(|(_, segment)| segment) {
                self.settle(segment, line)?;
            }
        }
        let lost = last.filter(|(.., boot)| !closed && *boot != core.boot).map(|(_, _, session, _)| session);
        let (streams, histories) = self.finish(lost);
        Ok(Found {
            streams,
            current: newest.filter(|s| {
                closed && !cut && s.header.end == 0 && s.header.time != Time(0) && s.mark() == end
            }),
            segments,
            histories,
            end,
            synced,
            next_segment,
            next_group: last.map_or(0, |(number, ..)| number + 1),
            taking: last.map_or(0, |(_, taking, ..)| taking),
        })
    }

    /// Where a scanned segment ends for good, whether that is an unfinished write, and whether it is damage.
    fn tail(
        &self,
        segment: &Segment,
        scan: &Scan,
        line: Mark,
        newest: bool,
    ) -> io::Result<(u64, bool, bool)> {
        let number = segment.number();
        let above = |offset: u64| Mark { segment: number, offset } >= line;
        // The group in which the first damage above the line lies, or the place itself.
        let mut stop = scan.end;
        for (from, _) in &scan.damage {
            let group = scan.groups.iter().rev().find(|(at, group)| {
                *at <= *from && *from < *at + GroupHeader::LEN as u64 + u64::from(group.length)
            });
            let place = group.map_or(*from, |(at, _)| *at);
            if above(place) {
                stop = stop.min(place);
            }
        }
        for (group, offset, chunk) in &scan.chunks {
            let (place, _) = scan.groups[*group];
            if !above(place) || place >= stop {
                continue;
            }
            let rest = segment.read(chunk.len() - Chunk::LEN, offset + Chunk::LEN as u64);
            if !rest.is_ok_and(|rest| chunk.verify(&rest)) {
                stop = stop.min(place);
            }
        }
        // What is torn but was never a whole group: anything but zeros.
        let torn = stop < scan.end || self.is_torn(segment, stop)?;
        let limit = segment.end();
        let bad = stop < scan.end || (torn && above(stop)) || (!newest && stop < limit && above(stop));
        if torn && above(stop) {
            let (file, bytes) = (segment.file.path(), limit - stop);
            tracing::warn!(file, offset = stop, bytes, "an unfinished write is cut off");
            Counters::add(&self.core.counters.cut_bytes_total, bytes);
        } else if torn {
            let file = segment.file.path();
            tracing::error!(file, offset = stop, line = line.offset, "the end of a segment is damaged");
        }
        let short = stop < limit && !newest;
        Ok((stop, bad, (torn || short) && !above(stop)))
    }

    /// Whether anything but zeros follows within the next header.
    fn is_torn(&self, segment: &Segment, from: u64) -> io::Result<bool> {
        let mut bytes = Vec::new();
        let count = segment.end().saturating_sub(from).min(GroupHeader::LEN as u64) as usize;
        segment.file.read_at(&mut bytes, count, from)?;
        Ok(bytes.iter().any(|&byte| byte != 0))
    }

    /// Writes what lies above the line again and syncs it.
    fn settle(&self, segment: &Segment, line: Mark) -> io::Result<()> {
        let end = segment.end();
        let mut at = if line.segment == segment.number() { line.offset.min(end) } else { 0 };
        while at < end {
            let count = (end - at).min(1 << 20) as usize;
            let bytes = segment.read(count, at)?;
            segment.file.write_at(&bytes, at)?;
            at += count as u64;
        }
        segment.file.sync(Why::Settle)?;
        Counters::add(&self.core.counters.flushes_total, 1);
        Ok(())
    }

    fn note(&mut self, segment: &Arc<Segment>, summary: Summary, at: Mark, entries: Entries) {
        let range = Range {
            segment: segment.clone(),
            first: summary.first,
            last: summary.last,
            time: summary.time,
            bytes: summary.bytes,
            size: summary.size,
            producers: summary.producers,
            entries,
        };
        let known = self.streams.entry(summary.stream).or_insert_with(|| Known {
            last: summary,
            at,
            first: Position::FIRST,
            time: Time(0),
            trim_at: 0,
            ranges: Vec::new(),
        });
        let next = known.last.next.max(summary.next);
        let written = summary.written || (known.last.written && known.last.session == summary.session);
        known.last = Summary { next, written, removed: known.last.removed || summary.removed, ..summary };
        known.at = at;
        known.first = known.first.max(summary.trim);
        known.time = known.time.max(summary.time);
        if !summary.trim.is_none() {
            known.trim_at = segment.number();
        }
        known.ranges.push(range);
    }

    /// Makes the streams.
    fn finish(&mut self, lost: Option<u64>) -> (HashMap<StreamId, Arc<Stream>>, Vec<Arc<Stream>>) {
        let settings = Settings {
            durability: Durability::Fsync,
            dedupe: None,
            retention: Retention::default(),
            control: self.shard == 0,
        };
        let damage = self.damage.iter().max().copied();
        let mut histories = Vec::new();
        let mut streams = HashMap::new();
        for (id, known) in std::mem::take(&mut self.streams) {
            let stream = Arc::new(Stream::new(id, self.shard, settings.clone(), known.last.history));
            {
                let mut intake = crate::shard::lock(&stream.intake);
                let mut shared = crate::shard::lock(&stream.shared);
                let next = known.last.next;
                (intake.next, intake.first) = (next, known.first);
                intake.time = known.time;
                intake.removed = known.last.removed;
                (shared.removed, shared.gone) = (known.last.removed, known.last.removed);
                (shared.written, shared.synced, shared.visible) = (next, next, next);
                shared.first = known.first;
                shared.time = known.time;
                shared.ranges = known.ranges;
                shared.trim_at = known.trim_at;
                let unsynced = known.last.written && lost == Some(known.last.session);
                let damaged = damage.is_some_and(|place| known.at < place);
                if (unsynced || damaged) && !known.last.removed {
                    intake.history = History(self.core.clock.random());
                    intake.new_history = true;
                    shared.history = intake.history;
                    tracing::warn!(
                        stream = id.0,
                        unsynced,
                        damaged,
                        "positions may be given again: new history"
                    );
                    histories.push(stream.clone());
                }
            }
            streams.insert(id, stream);
        }
        (streams, histories)
    }
}

/// The error of an engine whose shard could not be opened.
pub(crate) fn refused(shard: u32, error: &Error) -> Error {
    Error::new(error.kind(), format!("open log/{shard}: {error}"))
}
