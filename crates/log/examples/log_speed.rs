//! How fast the log is on this machine, beside what the disk does by itself at the same moment.
//!
//! `cargo run --release -p weir-log --example log_speed [DIRECTORY]` (a temporary directory unless given). Events
//! are of 256 bytes. CPU is that of the whole process, from `/proc`, so it includes making the events.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use bytes::Bytes;
use weir_event::flow::{History, Position};
use weir_log::engine::Engine;
use weir_log::{Batch, Dedupe, Durability, Log as _, Options, Retention, Settings, StreamId};

const EVENT: usize = 256;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = std::env::args().nth(1).map_or_else(std::env::temp_dir, PathBuf::from);
    let directory = directory.join(format!("weir-log-speed-{}", std::process::id()));
    std::fs::create_dir_all(&directory)?;
    let outcome = measure(&directory);
    std::fs::remove_dir_all(&directory)?;
    outcome
}

fn measure(directory: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    println!("{:<34} {:>12} {:>10} {:>14} {:>12}", "", "events/s", "CPU µs", "events/flush", "disk's own");
    for durability in [Durability::Fsync, Durability::Written] {
        for (batch, in_flight) in [(1, 1), (1, 1000), (100, 10), (1000, 4)] {
            let place = directory.join(format!("{durability:?}-{batch}-{in_flight}"));
            let log = Arc::new(open(&place, durability)?);
            let done = runtime.block_on(append(&log, batch, in_flight, Duration::from_millis(1500)))?;
            let flushes = log.counters().flushes_total.load(Relaxed).max(1);
            drop(log);
            std::fs::remove_dir_all(&place)?;
            let group = done.events / flushes;
            let own = match durability {
                Durability::Fsync => format!("{:.0}", raw(directory, group.max(1))?),
                Durability::Written => String::new(),
            };
            let name = format!("{durability:?}, {batch} × {in_flight} in flight").to_lowercase();
            println!("{name:<34} {:>12.0} {:>10.2} {group:>14} {own:>12}", done.rate(), done.cpu());
        }
    }
    let place = directory.join("replay");
    let log = Arc::new(open(&place, Durability::Written)?);
    let events = 10_000_000;
    let done = runtime.block_on(fill(&log, events))?;
    println!("{:<34} {:>12.0} {:>10.2}", "written, 10 million in 1000 × 4", done.rate(), done.cpu());
    log.tidy();
    for (name, bytes) in [("replay of 10 million, 1 MiB reads", 1 << 20), ("in 256 KiB reads", 256 << 10)] {
        let done = runtime.block_on(replay(&log, bytes))?;
        println!("{name:<34} {:>12.0} {:>10.2}", done.rate(), done.cpu());
    }
    drop(log);
    let began = Instant::now();
    let log = open(&place, Durability::Written)?;
    println!("open 10 million events: {:?}", began.elapsed());
    let began = Instant::now();
    runtime.block_on(log.append(StreamId(16), batch(1, 0)))?;
    println!("first append after that, ids of the window read: {:?}", began.elapsed());
    let before = memory();
    let began = Instant::now();
    for id in 0..100_000 {
        log.declare(StreamId(1000 + id), settings(Durability::Fsync), History(id))?;
    }
    let each = began.elapsed() / 100_000;
    println!("declare 100,000 streams: {each:?} and {} bytes each", (memory() - before) / 100_000);
    Ok(())
}

struct Done {
    events: u64,
    took: Duration,
    cpu: Duration,
}

impl Done {
    fn rate(&self) -> f64 {
        self.events as f64 / self.took.as_secs_f64()
    }

    fn cpu(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.events as f64
    }
}

fn settings(durability: Durability) -> Settings {
    let dedupe = Some(Dedupe { age: Duration::from_mins(2), count: 1_000_000 });
    Settings { durability, dedupe, retention: Retention::default(), control: false }
}

fn open(place: &Path, durability: Durability) -> Result<Engine, weir_log::Error> {
    let log = Engine::open(place, Options::default())?;
    log.declare(StreamId(16), settings(durability), History(1))?;
    Ok(log)
}

/// `count` events with ids from `from` on.
fn batch(count: u64, from: u64) -> Batch {
    let mut body = Vec::with_capacity(count as usize * EVENT);
    let mut ends = Vec::with_capacity(count as usize);
    for i in from..from + count {
        let id = format!("{i:020}");
        let data = EVENT - 3 - (2 + 20) - (2 + 13) - (2 + 3) - (2 + 1) - 3;
        body.extend_from_slice(&[
            0x0a,
            ((EVENT - 3) & 0x7f) as u8 | 0x80,
            ((EVENT - 3) >> 7) as u8,
            0x0a,
            20,
        ]);
        body.extend_from_slice(id.as_bytes());
        body.extend_from_slice(b"\x12\x0d/speed/source\x1a\x031.0\x22\x01t\x32");
        body.extend_from_slice(&[(data & 0x7f) as u8 | 0x80, (data >> 7) as u8]);
        body.resize(body.len() + data, b'x');
        ends.push(body.len() as u32);
    }
    Batch { body: Bytes::from(body), ends, ..Batch::default() }
}

async fn append(
    log: &Arc<Engine>,
    size: u64,
    in_flight: u64,
    time: Duration,
) -> Result<Done, Box<dyn std::error::Error>> {
    let (began, cpu) = (Instant::now(), cpu());
    let publishers = (0..in_flight).map(|publisher| {
        let log = log.clone();
        tokio::spawn(async move {
            let mut events = 0;
            while began.elapsed() < time {
                log.append(StreamId(16), batch(size, (publisher << 40) + events)).await?;
                events += size;
            }
            Ok::<u64, weir_log::Error>(events)
        })
    });
    let mut events = 0;
    for publisher in publishers.collect::<Vec<_>>() {
        events += publisher.await??;
    }
    Ok(Done { events, took: began.elapsed(), cpu: self::cpu() - cpu })
}

async fn fill(log: &Arc<Engine>, events: u64) -> Result<Done, Box<dyn std::error::Error>> {
    let (began, cpu) = (Instant::now(), cpu());
    let publishers = (0..4_u64).map(|publisher| {
        let log = log.clone();
        tokio::spawn(async move {
            for i in 0..events / 4000 {
                log.append(StreamId(16), batch(1000, (publisher << 40) + i * 1000)).await?;
            }
            Ok::<(), weir_log::Error>(())
        })
    });
    for publisher in publishers.collect::<Vec<_>>() {
        publisher.await??;
    }
    Ok(Done { events, took: began.elapsed(), cpu: self::cpu() - cpu })
}

async fn replay(log: &Engine, bytes_max: usize) -> Result<Done, Box<dyn std::error::Error>> {
    let (began, cpu) = (Instant::now(), cpu());
    let (mut from, mut events) = (Position::FIRST, 0);
    loop {
        let read = log.read(StreamId(16), from, bytes_max).await?;
        if read.next == from {
            break;
        }
        events += read.runs.iter().map(|run| u64::from(run.count)).sum::<u64>();
        from = read.next;
    }
    Ok(Done { events, took: began.elapsed(), cpu: self::cpu() - cpu })
}

/// Events a second that the disk takes by itself, so many to a write and flush.
fn raw(directory: &Path, group: u64) -> std::io::Result<f64> {
    let path = directory.join("raw");
    let file = File::create(&path)?;
    let bytes = vec![b'x'; group as usize * EVENT];
    let began = Instant::now();
    let mut groups = 0;
    while began.elapsed() < Duration::from_millis(700) {
        file.write_all_at(&bytes, groups * bytes.len() as u64)?;
        file.sync_data()?;
        groups += 1;
    }
    let rate = (groups * group) as f64 / began.elapsed().as_secs_f64();
    std::fs::remove_file(path)?;
    Ok(rate)
}

/// User and system time of this process so far.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> =
        stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().collect()).unwrap_or_default();
    let ticks = |i: usize| fields.get(i).and_then(|v| v.parse::<u64>().ok()).unwrap_or_default();
    Duration::from_millis((ticks(11) + ticks(12)) * 10)
}

/// Bytes of memory this process holds.
fn memory() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split_whitespace().nth(1).and_then(|v| v.parse::<u64>().ok()).unwrap_or_default() * 4096
}
