//! The offline tools behind `weir log check` and `weir log repair`.
//!
//! Checking reads every byte of every segment and changes nothing. Repairing opens the log and closes every gap
//! that damage left: the streams hit go on under a new history, and the lost positions are told as skipped, with
//! the reason that they were repaired away. What is still whole stays where it stands. Nothing is repaired unless
//! asked, because a mirror or a backup may still have what is lost here.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

use weir_event::flow::{History, Position};

use crate::api::{Error, Kind, StreamId};
use crate::clean::{self, Erase, Mend};
use crate::directory;
use crate::disk::{Disk, real::Real};
use crate::engine::Engine;
use crate::format::{Chunk, ChunkKind, Mark};
use crate::index;
use crate::options::{Clock, Options, SystemClock};
use crate::recover::{self, Scan};
use crate::segment::Segment;
use crate::shard::{Core, Work, disk_error, lock};

/// What checking found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Segment files.
    pub segments: u64,
    /// Streams of which anything is stored.
    pub streams: u64,
    /// Events that are whole.
    pub events: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Bytes of unfinished writes at the end, which the next start cuts off. Not damage.
    pub unfinished: u64,
    /// Damage, in the order of the log.
    pub places: Vec<Place>,
}

/// A damaged place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file, relative to the data directory.
    pub file: String,
    /// Where the damage begins in it.
    pub offset: u64,
    /// The stream hit, if that can still be told.
    pub stream: Option<StreamId>,
    /// First and last position lost, if that can still be told.
    pub positions: Option<(Position, Position)>,
    /// What is damaged.
    pub what: &'static str,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}: {}", self.file, self.offset, self.what)?;
        if let Some(stream) = self.stream {
            write!(f, ", stream {}", stream.0)?;
        }
        if let Some((first, last)) = self.positions {
            write!(f, ", positions {first} to {last}")?;
        }
        Ok(())
    }
}

/// Checks the log in a directory that no node is using.
///
/// Errors: `NotFound` where there is no log; as [`Engine::open`] else. Damage is no error.
pub fn check(directory: &Path) -> Result<Report, Error> {
    let disk = Real::new(directory).map_err(|e| disk_error(&e))?;
    check_on(Arc::new(disk), SystemClock::shared())
}

/// As [`check`], on a disk of the caller's.
pub fn check_on(disk: Arc<dyn Disk>, clock: Arc<dyn Clock>) -> Result<Report, Error> {
    let _lock = directory::lock(&*disk)?;
    let Some(format) = directory::read(&*disk)? else {
        return Err(Error::new(Kind::NotFound, "check: there is no log in the directory"));
    };
    let core = Core::new(disk, clock, Options::default(), format);
    let mut report = Report::default();
    for shard in 0..=format.shards {
        let survey = survey(&core, shard).map_err(|e| disk_error(&e))?;
        survey.add_to(&mut report);
    }
    Ok(report)
}

/// Closes the gaps that damage left; what was found before.
///
/// Errors: as [`check`], and those of the disk. Can be run again after any of them.
pub fn repair(directory: &Path) -> Result<Report, Error> {
    let disk = Real::new(directory).map_err(|e| disk_error(&e))?;
    repair_on(Arc::new(disk), SystemClock::shared())
}

/// As [`repair`], on a disk of the caller's.
pub fn repair_on(disk: Arc<dyn Disk>, clock: Arc<dyn Clock>) -> Result<Report, Error> {
    let report = check_on(disk.clone(), clock.clone())?;
    if report.places.is_empty() {
        return Ok(report);
    }
    let engine = Engine::open_on(disk, clock, Options::default())?;
    let inner = engine.inner();
    for shard in &inner.shards {
        let core = &inner.core;
        let _cleaning = lock(&shard.cleaning);
        let survey = survey(core, shard.number).map_err(|e| disk_error(&e))?;
        if survey.places.is_empty() {
            continue;
        }
        let streams: Vec<_> =
            inner.read_streams().values().filter(|stream| stream.shard == shard.number).cloned().collect();
        // New histories first, in a segment of their own: then every damaged one can be replaced.
        let hit = streams.iter().filter(|stream| survey.holes.contains_key(&stream.id));
        let mut answers = Vec::new();
        for (i, stream) in hit.enumerate() {
            if i == 0 {
                drop(shard.ask(stream, Work::Roll)?);
            }
            answers.push(shard.ask(stream, Work::History(History(core.clock.random())))?);
        }
        for answer in answers {
            let closed = |_| Error::new(Kind::Closed, "repair: the log was closed");
            answer.blocking_recv().map_err(closed)??;
        }
        let mut mend = Mend { holes: survey.holes, ..Mend::default() };
        for (segment, scan, bad) in survey.segments {
            let damaged = !bad.is_empty() || !scan.damage.is_empty() || scan.end < segment.end();
            let open = lock(&shard.segments).get(&segment.number()).cloned();
            let newest = lock(&shard.segments).keys().next_back().copied();
            match open.filter(|open| damaged && newest != Some(open.number())) {
                Some(open) => {
                    clean::rewrite(shard, &streams, &[open], &Erase::new(), Some(&mut mend))
                        .map_err(|e| disk_error(&e))?;
                }
                None => scan.chunks.iter().for_each(|(_, _, chunk)| mend.note(chunk)),
            }
        }
    }
    engine.close();
    Ok(report)
}

/// All that a shard's files say.
struct Survey {
    /// Segments, what scanning found in them, and which of their chunks are damaged.
    segments: Vec<(Arc<Segment>, Scan, Vec<usize>)>,
    places: Vec<Place>,
    holes: HashMap<StreamId, Vec<(Position, Position)>>,
    unfinished: u64,
}

fn survey(core: &Core, shard: u32) -> io::Result<Survey> {
    let (files, _) = recover::files(core, shard)?;
    let mut line = Mark::default();
    let mut scans = Vec::new();
    for segment in files {
        if index::read(core, &segment).is_some() || segment.header.end != 0 {
            line = line.max(segment.mark());
        }
        line = line.max(segment.header.synced);
        let scan = recover::scan(core, &segment)?;
        line = scan.groups.iter().fold(line, |line, (_, group)| line.max(group.synced));
        scans.push((segment, scan));
    }
    let mut survey =
        Survey { segments: Vec::new(), places: Vec::new(), holes: HashMap::new(), unfinished: 0 };
    // What was given up is not missing, though the log says so only later.
    let mut next: HashMap<StreamId, Position> = HashMap::new();
    for (_, _, chunk) in scans.iter().flat_map(|(_, scan)| &scan.chunks) {
        if chunk.kind == ChunkKind::Trim {
            let first = next.entry(chunk.stream).or_insert(Position::FIRST);
            *first = (*first).max(Position(chunk.sequence));
        }
    }
    for (segment, scan) in scans {
        let file = segment.file.path().to_owned();
        let above = |offset: u64| Mark { segment: segment.number(), offset } >= line;
        let place =
            |offset, stream, positions, what| Place { file: file.clone(), offset, stream, positions, what };
        let whole = scan.groups.iter().map(|(at, _)| *at).find(|at| above(*at));
        for (from, _) in &scan.damage {
            if above(*from) {
                survey.unfinished += segment.end().saturating_sub(*from);
                break;
            }
            survey.places.push(place(*from, None, None, "headers are damaged"));
        }
        let mut bad = Vec::new();
        for (i, (_, offset, chunk)) in scan.chunks.iter().enumerate() {
            let rest = segment.read(chunk.len() - Chunk::LEN, offset + Chunk::LEN as u64)?;
            let broken = !chunk.verify(&rest);
            if broken && whole.is_some_and(|whole| *offset >= whole) {
                survey.unfinished += chunk.len() as u64;
                continue;
            }
            if broken {
                bad.push(i);
            }
            let from = next.get(&chunk.stream).copied().unwrap_or(Position::FIRST);
            if chunk.first > from {
                // Lost with headers, here or in a segment before.
                let lost = (from, chunk.first.previous());
                let what = "events are missing";
                survey.places.push(place(*offset, Some(chunk.stream), Some(lost), what));
                survey.hole(chunk.stream, lost);
            }
            if broken {
                let lost = (chunk.first, chunk.last());
                survey.places.push(place(*offset, Some(chunk.stream), Some(lost), "events are damaged"));
                if chunk.last() >= chunk.first {
                    survey.hole(chunk.stream, lost);
                }
            }
            next.insert(chunk.stream, from.max(chunk.last().next()).max(chunk.first));
        }
        survey.segments.push((segment, scan, bad));
    }
    Ok(survey)
}

impl Survey {
    fn hole(&mut self, stream: StreamId, lost: (Position, Position)) {
        let holes = self.holes.entry(stream).or_default();
        match holes.last_mut() {
            Some(last) if last.1.next() == lost.0 => last.1 = lost.1,
            _ => holes.push(lost),
        }
    }

    fn add_to(self, report: &mut Report) {
        let mut streams: Vec<StreamId> = Vec::new();
        for (segment, scan, bad) in &self.segments {
            report.segments += 1;
            report.bytes += segment.end();
            for (i, (_, _, chunk)) in scan.chunks.iter().enumerate() {
                streams.push(chunk.stream);
                if chunk.kind == ChunkKind::Run && !bad.contains(&i) {
                    report.events += u64::from(chunk.count);
                }
            }
        }
        streams.sort_unstable();
        streams.dedup();
        report.streams += streams.len() as u64;
        report.unfinished += self.unfinished;
        report.places.extend(self.places);
    }
}
