//! Random operations against a plain model, with a crash at every write and every sync, each failure tried twice:
//! lost, and done but reported as failed.
//!
//! The model knows for certain what was acknowledged and what a reader has seen, and keeps apart what may or may
//! not have been stored. After every crash: nothing certain is missing, moved or changed; nothing is there that
//! nobody sent; nothing is there twice; a stream that promises `fsync` keeps its history whatever happens.
//!
//! A round is one number. `WEIR_SEED=n` runs that one; `WEIR_ROUNDS=n` runs so many from a random start.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::disk::Why;
use crate::disk::sim::{Fault, Random, Sim, SimClock};

const STREAMS: [(StreamId, Durability); 3] = [
    (StreamId(16), Durability::Fsync),
    (StreamId(17), Durability::Written),
    (StreamId(18), Durability::Fsync),
];

/// How a round is disturbed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Disturb {
    /// The operation that fails, counted from the first.
    pub(super) at: u64,
    pub(super) fault: Fault,
    /// The process ends with it.
    pub(super) end: bool,
    /// The machine, too.
    pub(super) power: bool,
}

type Event = (String, String);

#[derive(Default)]
struct Model {
    written: bool,
    certain: BTreeMap<u64, Event>,
    maybe: BTreeMap<String, String>,
    trimmed: u64,
    history: Option<History>,
    erased: BTreeSet<u64>,
    maybe_erased: BTreeSet<u64>,
}

struct Round {
    sim: Arc<Sim>,
    clock: Arc<SimClock>,
    random: Random,
    log: Option<Engine>,
    models: Vec<Model>,
    next_id: u64,
    /// Something failed or the machine stopped since histories were last looked at.
    disturbed: bool,
}

type Checked = Result<(), String>;

fn options() -> Options {
    Options {
        segment_bytes: 6000,
        tail_bytes: 8000,
        index_bytes: 300,
        idle: Duration::from_millis(3),
        shards: 1,
        tidy_every: Duration::from_hours(1),
        ..small()
    }
}

fn timed<T>(future: impl Future<Output = T>) -> Result<T, String> {
    wait(async { tokio::time::timeout(Duration::from_secs(20), future).await })
        .map_err(|_| "it hangs".to_owned())
}

impl Round {
    fn new(seed: u64) -> Self {
        let models = STREAMS.iter().zip(1..).map(|((_, durability), history)| Model {
            history: Some(History(history)),
            written: *durability == Durability::Written,
            ..Model::default()
        });
        Self {
            sim: Sim::new(),
            clock: SimClock::new(seed),
            random: Random(seed),
            log: None,
            models: models.collect(),
            next_id: 0,
            disturbed: false,
        }
    }

    /// Opens the log; a failure injected while opening is tried again.
    fn open(&mut self) -> Checked {
        for _ in 0..4 {
            match Engine::open_on(self.sim.disk(), self.clock.clone(), options()) {
                Ok(log) => {
                    for (i, (stream, durability)) in STREAMS.iter().enumerate() {
                        log.declare(*stream, settings(*durability), History(i as u64 + 1))
                            .map_err(|e| e.to_string())?;
                    }
                    self.log = Some(log);
                    return Ok(());
                }
                Err(error) if error.kind() == Kind::Corrupt => return Err(format!("{error}")),
                Err(_) => self.disturbed = true,
            }
            // The process may have ended while it was opening.
            self.sim.kill();
        }
        Err("the log cannot be opened".into())
    }

    fn log(&self) -> &Engine {
        self.log.as_ref().unwrap()
    }

    /// Ends the process, and perhaps the machine, and opens the log again.
    fn crash(&mut self, power: bool) -> Checked {
        if power {
            self.disturbed = true;
            let seed = self.random.draw();
            self.sim.power_cut(seed);
            self.leaks()?;
        } else {
            self.sim.kill();
        }
        self.log = None;
        self.open()?;
        self.verify()
    }

    /// Whether data of events that were erased is still on the disk.
    fn leaks(&self) -> Checked {
        let files: Vec<Vec<u8>> = self.sim.paths().iter().map(|path| self.sim.bytes(path)).collect();
        for model in self.models.iter().filter(|model| !model.written) {
            for (_, (id, _)) in model.certain.iter().filter(|(position, _)| model.erased.contains(position)) {
                // One that was given up and sent again is there twice, and only one of them was erased.
                if model.certain.values().filter(|(other, _)| other == id).count() > 1 {
                    continue;
                }
                let mark = format!("<{id}>");
                if files.iter().any(|bytes| bytes.windows(mark.len()).any(|window| window == mark.as_bytes()))
                {
                    return Err(format!("the data of {id} is still there"));
                }
            }
        }
        Ok(())
    }

    fn event(&mut self, i: usize) -> Event {
        let model = &self.models[i];
        if self.random.once_in(4) {
            // One that was sent before, whatever became of it.
            let n = self.random.below((model.certain.len() + model.maybe.len()) as u64) as usize;
            let known = model.certain.values().map(|(a, b)| (a, b)).chain(&model.maybe).nth(n);
            if let Some((id, data)) = known {
                return (id.clone(), data.clone());
            }
        }
        self.next_id += 1;
        let size = if self.random.once_in(4) { self.random.below(1500) } else { self.random.below(100) };
        let id = format!("id-{}", self.next_id);
        // Data that tells whose it is, for looking whether it is gone.
        let data = format!("<{id}>{}", "d".repeat(size as usize));
        (id, data)
    }

    /// Appends several batches at once and waits for all of them.
    fn append(&mut self) -> Checked {
        let mut waiting = Vec::new();
        for _ in 0..=self.random.below(3) {
            let i = self.random.below(STREAMS.len() as u64) as usize;
            let events: Vec<Event> = (0..=self.random.below(4)).map(|_| self.event(i)).collect();
            let borrowed: Vec<(&str, &str)> = events.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
            waiting.push((i, self.log().append(STREAMS[i].0, batch(&borrowed)), events));
        }
        for (i, answer, events) in waiting {
            let outcome = timed(answer)?;
            self.outcome(i, outcome, events)?;
        }
        Ok(())
    }

    fn outcome(&mut self, i: usize, outcome: Result<Appended, Error>, events: Vec<Event>) -> Checked {
        let model = &mut self.models[i];
        match outcome {
            Ok(appended) => {
                if appended.positions.len() != events.len() {
                    return Err("not every event got a position".into());
                }
                for (position, (id, data)) in appended.positions.iter().zip(events) {
                    if model.history == Some(appended.history) || model.history.is_none() {
                        model.certain(position.0, id, data)?;
                    } else {
                        model.maybe.insert(id, data);
                    }
                }
            }
            Err(error) if matches!(error.kind(), Kind::Unavailable | Kind::Closed | Kind::Exhausted) => {
                self.disturbed = true;
                for (id, data) in events {
                    // One that was given up may be stored anew.
                    let trimmed = model.trimmed;
                    if !model.certain.range(trimmed..).any(|(_, (known, _))| *known == id) {
                        model.maybe.insert(id, data);
                    }
                }
            }
            Err(error) => return Err(format!("append: {error}")),
        }
        Ok(())
    }

    /// Reads everything and compares.
    fn verify(&mut self) -> Checked {
        for (i, (stream, _)) in STREAMS.iter().enumerate() {
            let log = self.log.as_ref().unwrap();
            let (found, skipped, history) = match read_all(log, *stream) {
                Ok(all) => all,
                // The disk of a process that has ended answers nothing.
                Err(error) if error.kind() == Kind::Unavailable => continue,
                Err(error) => return Err(format!("stream {i}: read: {error}")),
            };
            let allowed = self.disturbed;
            self.models[i]
                .compare(&found, &skipped, history, allowed)
                .map_err(|e| format!("stream {i}: {e}"))?;
        }
        Ok(())
    }

    fn step(&mut self) -> Checked {
        let what = self.random.below(20);
        if std::env::var_os("WEIR_TRACE").is_some() {
            eprintln!("step {what}, {} operations, {:?}", self.sim.operations(), self.sim.paths());
        }
        match what {
            0 => self.crash(false),
            1 => self.crash(true),
            2 => {
                self.log = None;
                self.open()?;
                self.verify()
            }
            3 => self.trim(),
            4 | 5 => self.verify(),
            6 => {
                self.clock.advance(Duration::from_secs(5));
                self.log().tidy();
                Ok(())
            }
            7 => self.erase(),
            _ => self.append(),
        }
    }

    fn trim(&mut self) -> Checked {
        let i = self.random.below(STREAMS.len() as u64) as usize;
        let Some((&last, _)) = self.models[i].certain.last_key_value() else { return Ok(()) };
        let first = self.random.below(last + 2);
        let outcome = timed(self.log().trim(STREAMS[i].0, Position(first)))?;
        // Whether it took effect is not known after a failure: then both are right.
        let model = &mut self.models[i];
        model.trimmed = model.trimmed.max(first);
        self.disturbed |= outcome.is_err();
        Ok(())
    }

    fn erase(&mut self) -> Checked {
        let i = self.random.below(STREAMS.len() as u64) as usize;
        let model = &mut self.models[i];
        let n = self.random.below(model.certain.len() as u64) as usize;
        let Some((&position, _)) = model.certain.iter().nth(n) else { return Ok(()) };
        model.maybe_erased.insert(position);
        let done = timed(self.log.as_ref().unwrap().erase(STREAMS[i].0, vec![Position(position)]))?;
        let model = &mut self.models[i];
        match done {
            Ok(()) if position >= model.trimmed => {
                model.erased.insert(position);
            }
            Ok(()) => {}
            Err(_) => self.disturbed = true,
        }
        Ok(())
    }

    /// Sends everything again whose fate is not known, and looks at it all for the last time.
    fn finish(&mut self) -> Checked {
        self.verify().map_err(|e| format!("before sending again: {e}"))?;
        for (i, (stream, _)) in STREAMS.iter().enumerate() {
            let maybe: Vec<Event> = self.models[i].maybe.clone().into_iter().collect();
            for (id, data) in maybe {
                let outcome = timed(self.log().append(*stream, batch(&[(&id, &data)])))?;
                self.outcome(i, outcome, vec![(id, data)])?;
            }
        }
        self.verify().map_err(|e| format!("at the end: {e}"))?;
        self.crash(true).map_err(|e| format!("after the last power cut: {e}"))?;
        self.crash(false).map_err(|e| format!("after the last kill: {e}"))
    }
}

impl Model {
    fn certain(&mut self, position: u64, id: String, data: String) -> Checked {
        self.maybe.remove(&id);
        match self.certain.get(&position) {
            Some((known, _)) if *known != id => {
                Err(format!("position {position} was given to {known} and to {id}"))
            }
            _ => {
                self.certain.insert(position, (id, data));
                Ok(())
            }
        }
    }

    fn compare(
        &mut self,
        found: &[(u64, Event)],
        skipped: &[Skipped],
        history: History,
        allowed: bool,
    ) -> Checked {
        let renewed = self.history.is_some_and(|known| known != history);
        if renewed {
            if !self.written || !allowed {
                return Err("the history changed".into());
            }
            // What is gone may be sent again, and others may stand there now; what is below stands where it stood.
            let at: BTreeMap<u64, &str> = found.iter().map(|(at, (id, _))| (*at, id.as_str())).collect();
            let differs = |(position, (id, _)): &(&u64, &Event)| at.get(*position) != Some(&id.as_str());
            let next = self.certain.range(self.trimmed..).find(differs).map_or(u64::MAX, |(at, _)| *at);
            let gone = self.certain.split_off(&next);
            self.maybe.extend(gone.into_values());
            self.erased.retain(|position| *position < next);
        }
        self.history = Some(history);
        let at: BTreeMap<u64, &Event> = found.iter().map(|(position, event)| (*position, event)).collect();
        for (&position, (id, _)) in self.certain.range(self.trimmed..) {
            if !at.contains_key(&position) {
                let found: Vec<u64> = at.keys().copied().collect();
                return Err(format!("{id} at {position} is lost: there are {found:?} and {skipped:?}"));
            }
        }
        let mut ids = BTreeSet::new();
        let mut last = 0;
        for (position, (id, data)) in found {
            if *position <= last {
                return Err(format!("position {position} comes after {last}"));
            }
            let told = skipped.iter().any(|s| s.from.0 <= last + 1 && s.to.0 + 1 >= *position);
            if *position != last + 1 && !told {
                return Err(format!("positions {} to {} are missing", last + 1, position - 1));
            }
            last = *position;
            if !ids.insert(id) {
                return Err(format!("{id} is there twice"));
            }
            let is_erased = data == "erased";
            match self.certain.get(position) {
                Some((known, _)) if known != id => return Err(format!("{id} is where {known} was")),
                Some(_) if is_erased && !self.maybe_erased.contains(position) => {
                    return Err(format!("{id} was erased by nobody"));
                }
                Some(_) if !is_erased && self.erased.contains(position) => {
                    return Err(format!("{id} came back"));
                }
                Some((_, known)) if !is_erased && known != data => {
                    return Err(format!("{id} has other data"));
                }
                Some(_) => {}
                None if !self.maybe.contains_key(id) => {
                    let why =
                        if self.certain.values().any(|(known, _)| known == id) { "moved" } else { "unknown" };
                    return Err(format!("{id} at {position} is {why}"));
                }
                None => {
                    let data = self.maybe.remove(id).unwrap_or_default();
                    self.certain.insert(*position, (id.clone(), data));
                }
            }
        }
        Ok(())
    }
}

type Everything = (Vec<(u64, Event)>, Vec<Skipped>, History);

fn read_all(log: &Engine, stream: StreamId) -> Result<Everything, Error> {
    let (mut found, mut skipped) = (Vec::new(), Vec::new());
    let mut from = Position::FIRST;
    loop {
        let read = timed(log.read(stream, from, 3000)).map_err(|e| Error::new(Kind::Internal, e))??;
        for run in &read.runs {
            let mut rest = &run.body[..];
            for i in 0..u64::from(run.count) {
                let (event, next) = events::split_first(rest)
                    .ok_or_else(|| Error::new(Kind::Internal, "a run's body is not what its count says"))?;
                let id = String::from_utf8_lossy(events::identity(event).0).into_owned();
                let data = if event.windows(6).any(|w| w == b"erased") {
                    "erased".to_owned()
                } else {
                    // After specversion and type comes the data: a length below 2^14, then nothing else.
                    let at = event.windows(7).position(|w| w == b"1.0\"\x01t2").map_or(0, |at| at + 7);
                    let length = if event[at] < 0x80 { 1 } else { 2 };
                    String::from_utf8_lossy(&event[at + length..]).into_owned()
                };
                found.push((run.first.0 + i, (id, data)));
                rest = next;
            }
        }
        skipped.extend(read.skipped);
        if read.next == from {
            let status = log.status(stream)?;
            return Ok((found, skipped, status.history));
        }
        from = read.next;
    }
}

/// One round; what went wrong, if anything.
pub(super) fn round(seed: u64, disturb: Option<Disturb>, left_out: Option<Why>) -> Result<u64, String> {
    let mut round = Round::new(seed);
    round.sim.leave_out(left_out);
    if let Some(disturb) = disturb {
        round.sim.fail_at(disturb.at, disturb.fault, disturb.end);
        round.disturbed = true;
    }
    round.open()?;
    let mut crashed = disturb.is_none_or(|disturb| !disturb.end);
    for _ in 0..14 {
        round.step()?;
        let due = disturb.is_some_and(|disturb| round.sim.operations() >= disturb.at);
        if due && !crashed {
            crashed = true;
            round.crash(disturb.is_some_and(|disturb| disturb.power))?;
        }
    }
    let operations = round.sim.operations();
    if !crashed {
        round.crash(disturb.is_some_and(|disturb| disturb.power))?;
    }
    round.finish()?;
    Ok(operations)
}

fn seeds(default: u64) -> Vec<u64> {
    let number = |name| std::env::var(name).ok().and_then(|value: String| value.parse::<u64>().ok());
    if let Some(seed) = number("WEIR_SEED") {
        return vec![seed];
    }
    let start = number("WEIR_ROUNDS").map_or(0, |_| crate::SystemClock::shared().random() >> 20);
    (start..start + number("WEIR_ROUNDS").unwrap_or(default)).collect()
}

#[test]
fn random_operations_and_crashes_lose_nothing() {
    for seed in seeds(150) {
        round(seed, None, None).unwrap_or_else(|e| panic!("WEIR_SEED={seed}: {e}"));
    }
}

#[test]
fn a_failure_at_any_write_or_sync_loses_nothing() {
    for seed in seeds(3) {
        let operations = round(seed, None, None).unwrap_or_else(|e| panic!("WEIR_SEED={seed}: {e}"));
        for at in 1..=operations {
            for fault in [Fault::Lost, Fault::Done] {
                for (end, power) in [(false, false), (true, false), (true, true)] {
                    let disturb = Disturb { at, fault, end, power };
                    round(seed, Some(disturb), None)
                        .unwrap_or_else(|e| panic!("WEIR_SEED={seed} {disturb:?}: {e}"));
                }
            }
        }
    }
}

#[test]
fn leaving_out_any_sync_is_caught() {
    for why in Why::ALL {
        let disturbed = |seed: u64| {
            let disturb = Disturb { at: 5 + seed % 50, fault: Fault::Lost, end: true, power: false };
            round(seed, Some(disturb), Some(why)).is_err()
        };
        let caught = (0..400).any(|seed| round(seed, None, Some(why)).is_err() || disturbed(seed));
        assert!(caught, "leaving out the sync {why:?} is not noticed");
    }
}
