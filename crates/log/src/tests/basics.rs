//! What the trait promises, on the operating system's disk.

use super::*;

#[test]
fn what_is_appended_is_read_and_still_there_after_reopening() {
    for durability in [Durability::Fsync, Durability::Written] {
        let directory = tempfile::tempdir().unwrap();
        let log = open(directory.path(), durability);
        let appended = wait(log.append(STREAM, batch(&[("a", "1"), ("b", "2")]))).unwrap();
        assert_eq!((appended.first, appended.last, appended.count), (Position(1), Position(2), 2));
        assert_eq!((appended.history, appended.durability), (History(1), durability));
        let mut tail = log.tail(STREAM).unwrap();
        assert_eq!(tail.borrow_and_update().last, Position(2));
        wait(log.append(STREAM, batch(&[("c", "3")]))).unwrap();
        assert_eq!(tail.borrow_and_update().last, Position(3));
        let expect = vec![(1, "a".to_owned()), (2, "b".to_owned()), (3, "c".to_owned())];
        assert_eq!(all(&log, STREAM), expect);
        drop(log);
        for _ in 0..3 {
            let log = open(directory.path(), durability);
            assert_eq!(all(&log, STREAM), expect);
            let status = log.status(STREAM).unwrap();
            assert_eq!((status.first, status.last, status.next), (Position(1), Position(3), Position(4)));
            assert_eq!(status.history, History(1));
        }
    }
}

#[test]
fn a_duplicate_is_stored_once_within_a_batch_across_batches_and_restarts() {
    let directory = tempfile::tempdir().unwrap();
    let log = open(directory.path(), Durability::Fsync);
    let appended = wait(log.append(STREAM, batch(&[("a", "1"), ("b", "2"), ("a", "1")]))).unwrap();
    assert_eq!((appended.count, appended.duplicates, appended.conflicts), (2, 1, 0));
    assert_eq!(appended.positions, [Position(1), Position(2), Position(1)]);
    let appended = wait(log.append(STREAM, batch(&[("c", "3"), ("b", "other")]))).unwrap();
    assert_eq!(
        (appended.first, appended.count, appended.duplicates, appended.conflicts),
        (Position(3), 1, 1, 1)
    );
    assert_eq!(appended.positions, [Position(3), Position(2)]);
    drop(log);
    let log = open(directory.path(), Durability::Fsync);
    let appended = wait(log.append(STREAM, batch(&[("c", "3"), ("a", "1"), ("b", "2")]))).unwrap();
    assert_eq!((appended.first, appended.count, appended.duplicates), (Position::NONE, 0, 3));
    assert_eq!(appended.positions, [Position(3), Position(1), Position(2)]);
    let other = Batch { publisher: 9, ..batch(&[("a", "1")]) };
    assert_eq!(wait(log.append(STREAM, other)).unwrap().first, Position(4));
}

#[test]
fn an_append_by_a_lone_publisher_costs_one_flush_and_nothing_beside_it() {
    let directory = tempfile::tempdir().unwrap();
    let log = open(directory.path(), Durability::Fsync);
    wait(log.append(STREAM, batch(&[("first", "")]))).unwrap();
    let counters = log.counters();
    let value = |c: &std::sync::atomic::AtomicU64| c.load(std::sync::atomic::Ordering::Relaxed);
    let before = (value(&counters.flushes_total), value(&counters.dir_flushes_total));
    for i in 0..50 {
        wait(log.append(STREAM, batch(&[(&i.to_string(), "x")]))).unwrap();
    }
    assert_eq!(
        (value(&counters.flushes_total), value(&counters.dir_flushes_total)),
        (before.0 + 50, before.1)
    );
    assert_eq!(value(&counters.groups_total), 51);
}

#[test]
fn an_expectation_that_does_not_hold_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let log = open(directory.path(), Durability::Fsync);
    wait(log.append(STREAM, Batch { expect: Some(Position::NONE), ..batch(&[("a", "1")]) })).unwrap();
    let expecting = |position, id| Batch { expect: Some(Position(position)), ..batch(&[(id, "1")]) };
    let error = wait(log.append(STREAM, expecting(5, "b"))).unwrap_err();
    assert_eq!((error.kind(), error.actual_head()), (Kind::Conflict, Some(Position(1))));
    // The same again is stored, so what was refused had not been remembered; a retry of what was stored is not refused.
    assert_eq!(wait(log.append(STREAM, expecting(1, "b"))).unwrap().first, Position(2));
    assert_eq!(wait(log.append(STREAM, expecting(1, "b"))).unwrap().duplicates, 1);
}

#[test]
fn a_producers_retry_gets_the_same_positions_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let log = open(directory.path(), Durability::Fsync);
    let from = |sequence, events: &[(&str, &str)]| Batch {
        producer: Some(Producer { id: 5, epoch: 1, sequence }),
        ..batch(events)
    };
    wait(log.append(STREAM, from(0, &[("a", "1"), ("b", "2")]))).unwrap();
    let mixed = wait(log.append(STREAM, from(2, &[("c", "3"), ("a", "1"), ("d", "4")]))).unwrap();
    assert_eq!(mixed.positions, [Position(3), Position(1), Position(4)]);
    let old = wait(log.append(STREAM, from(5, &[("a", "1")]))).unwrap();
    assert_eq!((old.count, old.duplicates), (0, 1));
    for _ in 0..2 {
        for (sequence, events, positions) in [
            (0, &[("a", "1"), ("b", "2")][..], &[1, 2][..]),
            (2, &[("c", "3"), ("a", "1"), ("d", "4")], &[3, 1, 4]),
            (5, &[("a", "1")], &[1]),
        ] {
            let again = wait(log.append(STREAM, from(sequence, events))).unwrap();
            let positions: Vec<Position> = positions.iter().copied().map(Position).collect();
            assert_eq!((again.count, &again.positions), (0, &positions));
        }
        let gap = wait(log.append(STREAM, from(8, &[("z", "1")]))).unwrap_err();
        assert_eq!(gap.kind(), Kind::Conflict);
        drop(log.append(STREAM, batch(&[])));
    }
    drop(log);
    let log = open(directory.path(), Durability::Fsync);
    let again = wait(log.append(STREAM, from(2, &[("c", "3"), ("a", "1"), ("d", "4")]))).unwrap();
    assert_eq!(again.positions, [Position(3), Position(1), Position(4)]);
    assert_eq!(wait(log.append(STREAM, from(6, &[("e", "5")]))).unwrap().first, Position(5));
}

#[test]
fn a_mirrored_run_keeps_position_time_and_history_and_gaps_are_told() {
    let directory = tempfile::tempdir().unwrap();
    let log = open(directory.path(), Durability::Fsync);
    let at = |first| At { first: Position(first), time: weir_event::flow::Time(77), history: History(9) };
    wait(log.append_at(STREAM, at(10), batch(&[("a", "1"), ("b", "2")]))).unwrap();
    let error = wait(log.append_at(STREAM, at(11), batch(&[("c", "3")]))).unwrap_err();
    assert_eq!((error.kind(), error.actual_head()), (Kind::Conflict, Some(Position(11))));
    wait(log.skip(STREAM, Position(20))).unwrap();
    let read = wait(log.read(STREAM, Position(1), 1000)).unwrap();
    let skipped = |from, to| Skipped { from: Position(from), to: Position(to), reason: SkipReason::Gap };
    assert_eq!(read.skipped, [skipped(1, 9), skipped(12, 20)]);
    assert_eq!(read.next, Position(21));
    let run = &read.runs[0];
    assert_eq!((run.first, run.count, run.time.0, run.history), (Position(10), 2, 77, History(9)));
}

#[test]
fn reads_come_from_disk_when_they_are_not_in_memory() {
    let directory = tempfile::tempdir().unwrap();
    let options = Options { tail_bytes: 0, ..small() };
    let log = Engine::open(directory.path(), options).unwrap();
    log.declare(STREAM, settings(Durability::Fsync), History(1)).unwrap();
    let data = "x".repeat(10_000);
    let ids: Vec<String> = (0..500).map(|i| format!("id-{i}")).collect();
    let events: Vec<(&str, &str)> = ids.iter().map(|id| (id.as_str(), data.as_str())).collect();
    wait(log.append(STREAM, batch(&events))).unwrap();
    let found = all(&log, STREAM);
    assert_eq!(found.len(), 500);
    assert!(found.iter().enumerate().all(|(i, (at, id))| *at == i as u64 + 1 && *id == ids[i]));
    let read = wait(log.read(STREAM, Position(250), 1)).unwrap();
    assert_eq!((read.runs[0].first, read.runs.len()), (Position(250), 1));
}

#[test]
fn a_second_process_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let log = open(directory.path(), Durability::Fsync);
    let error = Engine::open(directory.path(), small()).err().unwrap();
    assert!(error.to_string().contains("in use by process"), "{error}");
    drop(log);
    drop(open(directory.path(), Durability::Fsync));
}
