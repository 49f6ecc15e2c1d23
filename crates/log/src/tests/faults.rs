//! Single failures, looked at closely: held and failed syncs, damage, a full disk, and what cleaning leaves.

use std::time::Duration;

use super::*;
use crate::check::{check_on, repair_on};
use crate::disk::sim::{Fault, Sim, SimClock};

fn options() -> Options {
    Options {
        segment_bytes: 8000,
        tidy_every: Duration::from_hours(1),
        idle: Duration::from_millis(2),
        ..small()
    }
}

fn open_with(sim: &Sim, clock: &Arc<SimClock>, options: Options, settings: Settings) -> Engine {
    let log = Engine::open_on(sim.disk(), clock.clone(), options).unwrap();
    log.declare(STREAM, settings, History(1)).unwrap();
    log
}

fn open_sim(sim: &Sim) -> Engine {
    open_with(sim, &SimClock::new(sim.operations()), options(), settings(Durability::Fsync))
}

/// A future that has been given every chance to be ready and is not.
fn is_pending<T>(future: &mut (impl Future<Output = T> + Unpin)) -> bool {
    wait(async { tokio::time::timeout(Duration::from_millis(30), future).await.is_err() })
}

fn one(id: &str) -> Batch {
    batch(&[(id, "data")])
}

fn fill(log: &Engine, count: usize) {
    for i in 0..count {
        wait(log.append(STREAM, batch(&[(&format!("id-{i}"), &"x".repeat(500))]))).unwrap();
    }
}

#[test]
fn while_a_sync_is_held_nobody_sees_the_event_nor_is_told_that_it_is_stored() {
    let sim = Sim::new();
    let log = open_sim(&sim);
    wait(log.append(STREAM, one("a"))).unwrap();
    let mut tail = log.tail(STREAM).unwrap();
    tail.mark_unchanged();
    sim.hold();
    let mut first = log.append(STREAM, one("b"));
    let mut retry = log.append(STREAM, one("b"));
    assert!(is_pending(&mut first) && is_pending(&mut retry));
    assert!(!tail.has_changed().unwrap());
    assert_eq!(log.status(STREAM).unwrap().last, Position(1));
    assert_eq!(all(&log, STREAM).len(), 1);
    sim.release();
    assert_eq!(wait(first).unwrap().first, Position(2));
    assert_eq!(wait(retry).unwrap().positions, [Position(2)]);
    assert_eq!(tail.borrow_and_update().last, Position(2));
    assert_eq!(all(&log, STREAM).len(), 2);
}

#[test]
fn after_a_failed_sync_nobody_ever_gets_the_event_and_a_retry_stores_it_once() {
    for fault in [Fault::Lost, Fault::Done] {
        let sim = Sim::new();
        let log = open_sim(&sim);
        wait(log.append(STREAM, one("a"))).unwrap();
        sim.hold();
        let mut first = log.append(STREAM, one("b"));
        let mut retry = log.append(STREAM, one("b"));
        assert!(is_pending(&mut first) && is_pending(&mut retry));
        // The write is done, its sync is next; then perhaps that of the retry, which wrote nothing.
        sim.fail_at(1, fault, false);
        sim.release();
        assert_eq!(wait(first).unwrap_err().kind(), Kind::Unavailable);
        assert_eq!(wait(retry).unwrap_err().kind(), Kind::Unavailable);
        assert_eq!(all(&log, STREAM), [(1, "a".to_owned())]);
        assert_eq!(log.status(STREAM).unwrap().last, Position(1));
        assert_eq!(wait(log.append(STREAM, one("b"))).unwrap().first, Position(2));
        assert_eq!(log.status(STREAM).unwrap().history, History(1));
        drop(log);
        sim.power_cut(1);
        let log = open_sim(&sim);
        assert_eq!(all(&log, STREAM), [(1, "a".to_owned()), (2, "b".to_owned())]);
    }
}

#[test]
fn written_publishers_do_not_wait_for_a_sync() {
    let sim = Sim::new();
    let log = open_with(&sim, &SimClock::new(1), options(), settings(Durability::Written));
    // The first of a run of the program is synced, so that a stop of the machine cannot go unnoticed.
    wait(log.append(STREAM, one("a"))).unwrap();
    sim.hold();
    assert_eq!(wait(log.append(STREAM, one("b"))).unwrap().first, Position(2));
    assert_eq!(all(&log, STREAM).len(), 2);
    sim.release();
}

#[test]
fn damage_hits_only_its_own_positions_and_repair_tells_of_them() {
    let sim = Sim::new();
    let log = open_sim(&sim);
    let other = StreamId(17);
    log.declare(other, settings(Durability::Fsync), History(2)).unwrap();
    for i in 0..40 {
        wait(log.append(STREAM, batch(&[(&format!("id-{i}"), &"x".repeat(500))]))).unwrap();
        wait(log.append(other, one(&format!("id-{i}")))).unwrap();
    }
    log.tidy();
    drop(log);
    let path = "log/1/0000000002-0.seg";
    // Somewhere in the body of the second event in the file.
    let bytes = sim.bytes(path);
    let at = bytes.windows(100).position(|w| w.iter().all(|b| *b == b'x')).unwrap();
    sim.damage(path, at + 50);
    let report = check_on(sim.disk(), SimClock::new(1)).unwrap();
    assert_eq!(report.places.len(), 1, "{report:?}");
    let place = &report.places[0];
    assert_eq!((place.file.as_str(), place.stream), (path, Some(STREAM)));
    let (first, last) = place.positions.unwrap();
    assert_eq!((report.events, first), (79, last));
    let log = open_sim(&sim);
    log.declare(other, settings(Durability::Fsync), History(2)).unwrap();
    let before = wait(log.read(STREAM, first.previous(), 10_000)).unwrap();
    assert_eq!(before.next, first);
    let error = wait(log.read(STREAM, first, 10_000)).unwrap_err();
    assert_eq!((error.kind(), error.damaged()), (Kind::Corrupt, Some((first, last))));
    assert!(error.to_string().contains(path), "{error}");
    assert_eq!(wait(log.read(STREAM, last.next(), 10_000)).unwrap().runs[0].first, last.next());
    assert_eq!(all(&log, other).len(), 40);
    drop(log);
    repair_on(sim.disk(), SimClock::new(2)).unwrap();
    assert_eq!(check_on(sim.disk(), SimClock::new(1)).unwrap().places, []);
    let log = open_sim(&sim);
    log.declare(other, settings(Durability::Fsync), History(2)).unwrap();
    assert_ne!(log.status(STREAM).unwrap().history, History(1));
    assert_eq!(log.status(other).unwrap().history, History(2));
    let read = wait(log.read(STREAM, first, 10_000)).unwrap();
    assert_eq!(read.skipped, [Skipped { from: first, to: last, reason: SkipReason::Repair }]);
    assert_eq!((all(&log, STREAM).len(), all(&log, other).len()), (39, 40));
}

#[test]
fn damage_to_any_byte_loses_no_more_than_what_it_hits() {
    let sim = Sim::new();
    let log = open_sim(&sim);
    let other = StreamId(17);
    log.declare(other, settings(Durability::Fsync), History(2)).unwrap();
    for i in 0..6 {
        wait(log.append(STREAM, one(&format!("id-{i}")))).unwrap();
        wait(log.append(other, one(&format!("id-{i}")))).unwrap();
    }
    drop(log);
    let path = "log/1/0000000001-0.seg";
    let end = sim.bytes(path).iter().rposition(|b| *b != 0).unwrap();
    // All but the last group, above which nothing says that it was synced.
    for at in (crate::format::SegmentHeader::LEN..end - 500).step_by(7) {
        sim.damage(path, at);
        let log = Engine::open_on(sim.disk(), SimClock::new(at as u64), options()).unwrap();
        let mut lost = 0;
        for stream in [STREAM, other] {
            log.declare(stream, settings(Durability::Fsync), History(1)).unwrap();
            let mut from = Position::FIRST;
            loop {
                match wait(log.read(stream, from, 100)) {
                    Ok(read) if read.next == from => break,
                    Ok(read) => from = read.next,
                    Err(error) => {
                        assert_eq!(error.kind(), Kind::Corrupt, "byte {at}: {error}");
                        let (first, last) = error.damaged().unwrap();
                        lost += last.0 + 1 - first.0;
                        from = last.next();
                    }
                }
            }
            // Where even the header of a stream's newest events is gone, its history tells.
            let renewed = log.status(stream).unwrap().history != History(1 + u64::from(stream == other));
            assert!(from == Position(7) || (from == Position(6) && renewed), "byte {at}");
        }
        assert!(lost <= 1, "byte {at}: {lost} are lost");
        sim.kill();
        drop(log);
        sim.damage(path, at);
        for path in sim.paths().iter().filter(|p| p.ends_with("2-0.seg")) {
            sim.disk().remove(path).unwrap();
        }
    }
}

#[test]
fn a_full_disk_refuses_publishers_serves_readers_and_control_and_recovers_by_itself() {
    let sim = Sim::new();
    sim.set_capacity(400_000);
    let clock = SimClock::new(1);
    let options = Options { reserve_bytes: 50_000, stop_at: 0.9, warn_at: 0.8, ..options() };
    let log = open_with(&sim, &clock, options, settings(Durability::Fsync));
    let control = StreamId(1);
    log.declare(control, Settings { control: true, ..settings(Durability::Fsync) }, History(5)).unwrap();
    log.tidy();
    let mut stored = 0;
    let error = loop {
        match wait(log.append(STREAM, batch(&[(&format!("id-{stored}"), &"x".repeat(3000))]))) {
            Ok(_) => stored += 1,
            Err(error) => break error,
        }
        assert!(stored < 200);
    };
    assert_eq!(error.kind(), Kind::Exhausted);
    assert!(error.retry_hint().is_some());
    assert!(stored > 50, "{stored}");
    // The disk itself is full, too.
    sim.set_capacity(sim.used());
    assert_eq!(all(&log, STREAM).len(), stored);
    // Control goes on, and takes the reserve before it would have to stop.
    let mut decisions = 0;
    while sim.paths().contains(&"reserve".to_owned()) {
        wait(log.append(control, batch(&[(&format!("c-{decisions}"), &"x".repeat(1000))]))).unwrap();
        decisions += 1;
        assert!(decisions < 200);
    }
    wait(log.append(control, one("revoke"))).unwrap();
    assert_eq!(wait(log.append(STREAM, one("again"))).unwrap_err().kind(), Kind::Exhausted);
    sim.set_capacity(4_000_000);
    clock.advance(Duration::from_secs(2));
    assert_eq!(wait(log.append(STREAM, one("again"))).unwrap().count, 1);
    log.tidy();
    assert!(sim.paths().contains(&"reserve".to_owned()));
}

#[test]
fn retention_by_count_bytes_and_age_frees_the_disk_and_readers_are_told() {
    let day = Duration::from_hours(24);
    for (retention, kept) in [
        (Retention { count: Some(10), ..Retention::default() }, 10),
        (Retention { bytes: Some(5200), ..Retention::default() }, 9),
        (Retention { age: Some(day), ..Retention::default() }, 0),
    ] {
        let sim = Sim::new();
        let clock = SimClock::new(1);
        let settings = Settings { retention, ..settings(Durability::Fsync) };
        let log = open_with(&sim, &clock, options(), settings.clone());
        fill(&log, 100);
        clock.advance(day + day);
        log.tidy();
        // What is left in the newest segment goes once another is begun.
        log.tidy();
        let status = log.status(STREAM).unwrap();
        let found = all(&log, STREAM);
        assert!(found.len() >= kept && found.len() <= kept + 1, "{retention:?} keeps {}", found.len());
        assert!(sim.used() < 17_000, "{retention:?}: {} are left", sim.used());
        let read = wait(log.read(STREAM, Position::FIRST, 100)).unwrap();
        let skipped = read.skipped[0];
        assert_eq!((skipped.from, skipped.reason), (Position::FIRST, SkipReason::Retention));
        drop(log);
        sim.power_cut(7);
        let log = open_with(&sim, &clock, options(), settings);
        assert_eq!(all(&log, STREAM), found);
        assert_eq!(log.status(STREAM).unwrap(), status);
        assert_eq!(wait(log.append(STREAM, one("next"))).unwrap().first, Position(101));
    }
}

#[test]
fn erased_data_is_gone_from_the_disk_and_its_place_stays() {
    let sim = Sim::new();
    let log = open_sim(&sim);
    let names = [("a", "secret-one"), ("b", "kept"), ("c", "secret-two")];
    wait(log.append(STREAM, batch(&names))).unwrap();
    wait(log.append(STREAM, batch(&[("d", "secret-three"), ("e", "kept")]))).unwrap();
    wait(log.erase(STREAM, vec![Position(1), Position(3), Position(4)])).unwrap();
    let leaks = |sim: &Sim| {
        sim.paths().iter().any(|path| sim.bytes(path).windows(6).any(|window| window == b"secret"))
    };
    assert!(!leaks(&sim));
    let expect: Vec<(u64, String)> =
        ["a", "b", "c", "d", "e"].iter().zip(1..).map(|(id, at)| (at, (*id).to_owned())).collect();
    assert_eq!(all(&log, STREAM), expect);
    let read = wait(log.read(STREAM, Position(1), 1000)).unwrap();
    assert!(read.runs[0].body.windows(6).any(|w| w == b"erased"));
    assert!(read.runs[0].body.windows(4).any(|w| w == b"kept"));
    // It is remembered all the same.
    assert_eq!(wait(log.append(STREAM, batch(&[("a", "secret-one")]))).unwrap().duplicates, 1);
    drop(log);
    sim.power_cut(3);
    let log = open_sim(&sim);
    assert!(!leaks(&sim));
    assert_eq!(all(&log, STREAM), expect);
    let error = wait(log.erase(STREAM, vec![Position(6)])).unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid);
}

#[test]
fn removed_streams_give_their_space_back_and_stay_gone() {
    let sim = Sim::new();
    let log = open_sim(&sim);
    let other = StreamId(17);
    log.declare(other, settings(Durability::Fsync), History(2)).unwrap();
    fill(&log, 60);
    wait(log.append(other, one("a"))).unwrap();
    let mut tail = log.tail(STREAM).unwrap();
    log.remove(STREAM).unwrap();
    assert!(wait(tail.changed()).is_err());
    assert_eq!(wait(log.append(STREAM, one("b"))).unwrap_err().kind(), Kind::NotFound);
    assert_eq!(wait(log.read(STREAM, Position(1), 100)).unwrap_err().kind(), Kind::NotFound);
    for i in 0..20 {
        wait(log.append(other, batch(&[(&format!("o-{i}"), &"x".repeat(500))]))).unwrap();
    }
    log.tidy();
    log.tidy();
    assert!(sim.used() < 40_000, "{}", sim.used());
    drop(log);
    let log = Engine::open_on(sim.disk(), SimClock::new(1), options()).unwrap();
    assert_eq!(
        log.declare(STREAM, settings(Durability::Fsync), History(3)).unwrap_err().kind(),
        Kind::NotFound
    );
}

#[test]
fn ids_are_remembered_over_sealing_cleaning_and_restarts_within_their_window() {
    let sim = Sim::new();
    let clock = SimClock::new(1);
    let log = open_with(&sim, &clock, options(), settings(Durability::Fsync));
    fill(&log, 50);
    log.tidy();
    drop(log);
    // Time in which the log takes nothing does not count.
    clock.advance(Duration::from_hours(1));
    let log = open_with(&sim, &clock, options(), settings(Durability::Fsync));
    let again = |i: usize| batch(&[(&format!("id-{i}"), &"x".repeat(500))]);
    assert_eq!(wait(log.append(STREAM, again(0))).unwrap().positions, [Position(1)]);
    assert_eq!(wait(log.append(STREAM, again(49))).unwrap().positions, [Position(50)]);
    clock.advance(Duration::from_secs(121));
    assert_eq!(wait(log.append(STREAM, again(0))).unwrap().first, Position(51));
}

#[test]
fn positions_are_found_by_time() {
    let sim = Sim::new();
    let clock = SimClock::new(1);
    let log = open_with(&sim, &clock, options(), settings(Durability::Fsync));
    let mut times = Vec::new();
    for i in 0..40 {
        clock.advance(Duration::from_secs(1));
        wait(log.append(STREAM, batch(&[(&format!("id-{i}"), &"x".repeat(500))]))).unwrap();
        times.push(log.status(STREAM).unwrap().time);
    }
    log.tidy();
    for (i, time) in times.iter().enumerate() {
        assert_eq!(wait(log.find(STREAM, *time)).unwrap(), Position(i as u64 + 1));
        let after = weir_event::flow::Time(time.0 + 1);
        assert_eq!(wait(log.find(STREAM, after)).unwrap(), Position(i as u64 + 2));
    }
    assert_eq!(wait(log.find(STREAM, weir_event::flow::Time(0))).unwrap(), Position(1));
}
