//! A data directory of format 1 as it was written when the format was fixed: it must open, with every event, every
//! skip and every retry's answer in its place. `WEIR_UPDATE=1` writes it anew, which only a new format may do.

use std::path::{Path, PathBuf};

use super::*;

const CONTROL: StreamId = StreamId(1);
const MIRROR: StreamId = StreamId(17);

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/format-1")
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else if entry.file_name() != "lock" {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn open_all(directory: &Path) -> Engine {
    let options = Options { segment_bytes: 3000, shards: 1, tidy_every: Duration::from_hours(1), ..small() };
    let log = Engine::open(directory, options).unwrap();
    // The window is as long as time may pass: what is remembered is part of the format.
    let dedupe = Some(Dedupe { age: Duration::from_hours(1), count: 1000 });
    let settings = |control| Settings { control, dedupe, ..settings(Durability::Fsync) };
    log.declare(CONTROL, settings(true), History(1)).unwrap();
    log.declare(STREAM, settings(false), History(2)).unwrap();
    log.declare(MIRROR, settings(false), History(3)).unwrap();
    log
}

fn produced(sequence: u64) -> Batch {
    let producer = Some(Producer { id: 7, epoch: 1, sequence });
    Batch { producer, ..batch(&[(&format!("p-{sequence}"), "1"), ("twice", "2")]) }
}

fn write(directory: &Path) {
    let log = open_all(directory);
    wait(log.append(CONTROL, batch(&[("decision", "{}")]))).unwrap();
    for i in 0..20 {
        wait(log.append(STREAM, batch(&[(&format!("id-{i}"), &"x".repeat(200))]))).unwrap();
    }
    wait(log.append(STREAM, produced(0))).unwrap();
    wait(log.append(STREAM, produced(2))).unwrap();
    let at =
        At { first: Position(10), time: weir_event::flow::Time(1_700_000_000_000), history: History(99) };
    wait(log.append_at(MIRROR, at, batch(&[("m", "1")]))).unwrap();
    wait(log.skip(MIRROR, Position(15))).unwrap();
    wait(log.trim(STREAM, Position(4))).unwrap();
    wait(log.erase(STREAM, vec![Position(12)])).unwrap();
    log.tidy();
}

#[test]
fn a_directory_of_format_1_opens_with_all_that_is_in_it() {
    if std::env::var_os("WEIR_UPDATE").is_some() {
        let fresh = tempfile::tempdir().unwrap();
        write(fresh.path());
        let _ = std::fs::remove_dir_all(golden());
        copy(fresh.path(), &golden());
    }
    let directory = tempfile::tempdir().unwrap();
    copy(&golden(), directory.path());
    let log = open_all(directory.path());
    assert_eq!(all(&log, CONTROL), [(1, "decision".to_owned())]);
    let ids = (3..20).map(|i| (i + 1, format!("id-{i}")));
    let ids = ids.chain([(21, "p-0".into()), (22, "twice".into()), (23, "p-2".into())]);
    assert_eq!(all(&log, STREAM), ids.collect::<Vec<_>>());
    let read = wait(log.read(STREAM, Position(12), 1)).unwrap();
    let event = events::split_first(&read.runs[0].body).unwrap().0;
    assert!(event.windows(6).any(|w| w == b"erased") && !event.contains(&b'x'));
    let mirror = wait(log.read(MIRROR, Position(1), 1000)).unwrap();
    assert_eq!((mirror.skipped.len(), mirror.runs.len(), mirror.next), (2, 1, Position(16)));
    assert_eq!((mirror.runs[0].time.0, mirror.runs[0].history), (1_700_000_000_000, History(99)));
    assert_eq!(log.status(MIRROR).unwrap().history, History(99));
    let retry = wait(log.append(STREAM, produced(2))).unwrap();
    assert_eq!((retry.count, retry.positions), (0, vec![Position(23), Position(22)]));
    assert_eq!(wait(log.append(STREAM, batch(&[("id-10", "")]))).unwrap().positions, [Position(11)]);
    assert_eq!(wait(log.append(STREAM, batch(&[("new", "")]))).unwrap().first, Position(24));
}

#[test]
fn a_directory_of_a_later_format_is_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    copy(&golden(), directory.path());
    let format = std::fs::read_to_string(golden().join("format")).unwrap();
    std::fs::write(directory.path().join("format"), format.replace("format 1", "format 2")).unwrap();
    let error = Engine::open(directory.path(), small()).err().unwrap();
    assert_eq!(error.to_string(), "data directory has format 2, this weir reads 1: upgrade");
}
