//! `weir bench`: what a node does on this machine, told so that the figure can be trusted.
//!
//! Every workload is a plain use of the public interface over loopback. Each figure stands beside what bounds it, taken
//! in the same round: the disk's own synced rate, or a bare server of the same kind that stores nothing
//! ([`reference`]). Rounds of all rows are interleaved and the median row is printed, because machines are noisy;
//! the server's CPU time per event (from /proc) moves least and is the number to compare.
//!
//! The driver runs on one thread, so that a node has at least the other core, and costs little ([`wire`]). It starts a
//! node in a folder of its own, or targets a running one (`--node`); then CPU and memory need `--pid`.

mod load;
mod machine;
mod payload;
mod reference;
mod report;
mod target;
mod wire;

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};

use self::load::{Fanout, Publish, Push};
use self::payload::Form;
use self::report::{Disk, Report};
use self::target::Target;

/// Measure a node: publish, replay, fan-out, idle subscribers, many streams.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = false)]
pub(crate) struct Bench {
    #[command(subcommand)]
    workload: Option<Workload>,

    /// Measure a running node at this address (HOST:PORT) instead of starting one.
    #[arg(long, global = true, value_name = "ADDR")]
    node: Option<SocketAddr>,

    /// The running node's process id, to read its CPU time and memory.
    #[arg(long, global = true, requires = "node")]
    pid: Option<u32>,

    /// Where a started node keeps its data: the disk that is measured.
    #[arg(long, global = true, value_name = "DIR")]
    folder: Option<PathBuf>,

    /// Rounds; the median one is printed.
    #[arg(long, global = true, default_value_t = 3)]
    rounds: usize,

    /// Bytes of one event, envelope included.
    #[arg(long, global = true, default_value_t = 256)]
    size: usize,

    /// One JSON object a row instead of a table.
    #[arg(long, global = true)]
    json: bool,

    /// Run the bare server that figures are compared with, at this address.
    #[arg(long, hide = true, value_name = "ADDR")]
    reference_server: Option<SocketAddr>,
}

#[derive(Clone, Debug, Subcommand)]
enum Workload {
    /// Publish: one row for the form, durability and window asked for, the disk's or the bare server's rate beside it.
    Publish {
        /// `fsync` (acknowledged once synced) or `written`.
        #[arg(long, default_value = "fsync", value_parser = ["fsync", "written"])]
        durability: String,
        /// How events travel.
        #[arg(long, value_enum, default_value_t = Form::ProtoBatch)]
        form: Form,
        /// Events in a batch, for the batch forms.
        #[arg(long, default_value_t = 100)]
        batch: usize,
        /// Events in flight over all publishers.
        #[arg(long, default_value_t = 1000)]
        window: usize,
        /// Connections; by default as many as keep the window filled with one request each.
        #[arg(long)]
        publishers: Option<usize>,
        /// Stop after so many events.
        #[arg(long, default_value_t = u64::MAX)]
        count: u64,
        /// Stop after so many seconds.
        #[arg(long, default_value_t = 5.0)]
        seconds: f64,
    },
    /// Replay stored events to one consumer.
    Replay {
        /// How they are pushed.
        #[arg(long, value_enum, default_value_t = Push::Stream)]
        push: Push,
        /// How many.
        #[arg(long, default_value_t = 1_000_000)]
        count: u64,
    },
    /// One publisher, many subscribers; latency from send to arrival on one clock.
    Fanout {
        /// How they are pushed.
        #[arg(long, value_enum, default_value_t = Push::Sse)]
        push: Push,
        /// How many subscribers.
        #[arg(long, default_value_t = 100)]
        subscribers: usize,
        /// Events a second; 0: as fast as the deliveries come back.
        #[arg(long, default_value_t = 0)]
        rate: u64,
        /// With rate 0: events in flight; by default 6400 deliveries' worth.
        #[arg(long)]
        window: Option<u64>,
        /// For so many seconds.
        #[arg(long, default_value_t = 4.0)]
        seconds: f64,
    },
    /// Memory of subscribers that receive nothing.
    Idle {
        /// How they are connected.
        #[arg(long, value_enum, default_value_t = Push::Sse)]
        push: Push,
        /// How many.
        #[arg(long, default_value_t = 10_000)]
        subscribers: usize,
    },
    /// Memory and restart time with many empty streams.
    Streams {
        /// How many.
        #[arg(long, default_value_t = 100_000)]
        count: usize,
    },
    /// From the start of the process to the first accepted publish, and idle memory.
    Startup,
    /// Everything, as `bench/RESULTS.md` shows it (the default).
    All,
}

/// Runs the bench; returns when all rows are printed.
pub(crate) fn run(bench: &Bench) -> io::Result<()> {
    if let Some(address) = bench.reference_server {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        return runtime.block_on(reference::serve(address));
    }
    raise_file_limit();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, run_all(bench))
}

/// Thousands of connections need as many files: ask for all that is allowed.
fn raise_file_limit() {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
    // Refused: the workloads that need more say so when they fail to connect.
    let _ = rustix::process::setrlimit(rustix::process::Resource::Nofile, raised);
}

async fn run_all(bench: &Bench) -> io::Result<()> {
    let folder = match &bench.folder {
        Some(folder) => folder.clone(),
        None => std::env::current_dir()?,
    }
    .join(format!("weir-bench-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let mut report = Report::new(bench.json, machine::describe());
    let workloads = match bench.workload.clone().unwrap_or(Workload::All) {
        Workload::All => everything(),
        one => vec![one],
    };
    let mut result = Ok(());
    'rounds: for round in 0..bench.rounds.max(1) {
        for (row, workload) in workloads.iter().enumerate() {
            let place = folder.join(format!("{round}-{row}"));
            std::fs::create_dir_all(&place)?;
            result = one(bench, workload, &place, &mut report).await;
            if let Err(error) = &result {
                let log = std::fs::read_to_string(place.join("server.log")).unwrap_or_default();
                let tail: Vec<&str> = log.lines().rev().take(5).collect();
                eprintln!("bench: {error}\n{}", tail.into_iter().rev().collect::<Vec<_>>().join("\n"));
                break 'rounds;
            }
            std::fs::remove_dir_all(&place)?;
        }
    }
    std::fs::remove_dir_all(&folder)?;
    report.print();
    result
}

/// The rows of `weir bench` without a workload.
fn everything() -> Vec<Workload> {
    let publish = |durability: &str, form, batch, window, publishers| Workload::Publish {
        durability: durability.into(),
        form,
        batch,
        window,
        publishers,
        count: u64::MAX,
        seconds: 3.0,
    };
    let fanout = |subscribers, rate| Workload::Fanout {
        push: Push::Sse,
        subscribers,
        rate,
        window: None,
        seconds: 3.0,
    };
    vec![
        publish("fsync", Form::ProtoBatch, 100, 1000, None),
        publish("fsync", Form::Structured, 1, 1000, None),
        publish("fsync", Form::Structured, 1, 1, None),
        publish("written", Form::ProtoBatch, 1000, 8000, None),
        publish("written", Form::JsonBatch, 1000, 8000, None),
        publish("written", Form::Structured, 1, 1000, None),
        publish("written", Form::Structured, 1, 64, Some(64)),
        publish("written", Form::Structured, 1, 1000, Some(8)),
        Workload::Replay { push: Push::Stream, count: 1_000_000 },
        Workload::Replay { push: Push::Sse, count: 1_000_000 },
        fanout(100, 0),
        fanout(1000, 0),
        fanout(100, 200),
        fanout(1000, 20),
        Workload::Idle { push: Push::Sse, subscribers: 10_000 },
        Workload::Streams { count: 100_000 },
        Workload::Startup,
    ]
}

/// Runs one workload, the yardstick right before it.
async fn one(bench: &Bench, workload: &Workload, place: &Path, report: &mut Report) -> io::Result<()> {
    let node = async || match bench.node {
        Some(address) => Ok(Target::running(address, bench.pid)),
        None => Target::node(place).await,
    };
    match workload {
        Workload::Publish { durability, form, batch, window, publishers, count, seconds } => {
            let batch = if form.is_batch() { (*batch).max(1) } else { 1 };
            let how = Publish {
                form: *form,
                batch,
                size: bench.size,
                window: *window,
                publishers: publishers.unwrap_or(window / batch).max(1),
                count: *count,
                time: Duration::from_secs_f64(*seconds),
            };
            let name = format!(
                "publish {durability}, {form:?}, batch {batch}, window {window}, {} connections",
                how.publishers
            );
            let disk = if durability == "fsync" {
                Some(machine::disk_rate(place, (*window).max(1), bench.size, Duration::from_secs(1))?)
            } else {
                None
            };
            let bare = if disk.is_none() && batch == 1 {
                let bare = Target::reference().await?;
                let short = Publish { time: how.time.min(Duration::from_secs(2)), ..how };
                let measured = load::publish(&bare, "bench", short).await?;
                bare.stop().await?;
                Some(measured)
            } else {
                None
            };
            let target = node().await?;
            let stream = fresh_stream();
            target.create_stream(&stream, durability).await?;
            let measured = load::publish(&target, &stream, how).await?;
            target.stop().await?;
            let disk = match disk {
                Some(at_window) => {
                    let group = (measured.events / measured.flushes.max(1)).max(1) as usize;
                    let at_group = machine::disk_rate(place, group, bench.size, Duration::from_secs(1))?;
                    Some(Disk { at_window, group, at_group })
                }
                None => None,
            };
            report.add(name, measured, bare, disk);
            Ok(())
        }
        Workload::Replay { push, count } => {
            let target = node().await?;
            let stream = fresh_stream();
            target.create_stream(&stream, "written").await?;
            let fill = Publish {
                form: Form::ProtoBatch,
                batch: 1000,
                size: bench.size,
                window: 8000,
                publishers: 8,
                count: *count,
                time: Duration::from_secs(120),
            };
            load::publish(&target, &stream, fill).await?;
            let measured = load::replay(&target, &stream, *push, *count).await?;
            report.add(format!("replay {push:?}, {count} events"), measured, None, None);
            target.stop().await
        }
        Workload::Fanout { push, subscribers, rate, window, seconds } => {
            let how = Fanout {
                push: *push,
                subscribers: *subscribers,
                size: bench.size,
                rate: *rate,
                window: window.unwrap_or_else(|| (6400 / *subscribers as u64).max(4)),
                time: Duration::from_secs_f64(*seconds),
            };
            let pace = if *rate == 0 { "saturated".to_owned() } else { format!("{rate} events/s") };
            let name = format!("fan-out {push:?}, {subscribers} subscribers, {pace}");
            let bare = Target::reference().await?;
            let bare_measured = load::fanout(&bare, "bench", how).await?;
            bare.stop().await?;
            let target = node().await?;
            let stream = fresh_stream();
            target.create_stream(&stream, "written").await?;
            let measured = load::fanout(&target, &stream, how).await?;
            report.add(name, measured, Some(bare_measured), None);
            target.stop().await
        }
        Workload::Idle { push, subscribers } => {
            let target = node().await?;
            let stream = fresh_stream();
            target.create_stream(&stream, "written").await?;
            let measured = load::idle(&target, &stream, *push, *subscribers).await?;
            report.add_memory(format!("idle {push:?} subscribers, {subscribers}"), measured);
            target.stop().await
        }
        Workload::Streams { count } => {
            if bench.node.is_some() {
                return Err(io::Error::other("`bench streams` restarts the node: it needs one of its own"));
            }
            let target = Target::node(place).await?;
            let made = load::streams(&target, *count).await?;
            report.add(format!("create {count} streams"), made, None, None);
            target.stop().await?;
            let target = Target::node(place).await?;
            let resident = target.pid.map(machine::usage).unwrap_or_default().resident_kib;
            report.add_start(format!("start with {count} streams"), target.ready_after, None, resident, None);
            target.stop().await
        }
        Workload::Startup => {
            if bench.node.is_some() {
                return Err(io::Error::other("`bench startup` starts a node: it needs one of its own"));
            }
            let target = Target::node(place).await?;
            target.create_stream("bench", "fsync").await?;
            target.stop().await?;
            let flushes = machine::flushes();
            let target = Target::node(place).await?;
            let publish = Publish {
                form: Form::Structured,
                batch: 1,
                size: bench.size,
                window: 1,
                publishers: 1,
                count: 1,
                time: Duration::from_secs(60),
            };
            let first = load::publish(&target, "bench", publish).await?;
            let flushes = machine::flushes() - flushes;
            tokio::time::sleep(Duration::from_secs(2)).await;
            let resident = target.pid.map(machine::usage).unwrap_or_default().resident_kib;
            let first_ack = target.ready_after + first.time;
            report.add_start("start".into(), target.ready_after, Some(first_ack), resident, Some(flushes));
            target.stop().await
        }
        Workload::All => Ok(()),
    }
}

/// A stream name no run has used, so that a running node's streams stay as they are.
fn fresh_stream() -> String {
    format!("bench.{:08x}", getrandom::u32().unwrap_or_else(|_| std::process::id()))
}
