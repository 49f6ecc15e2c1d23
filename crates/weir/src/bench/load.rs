//! The workloads. Each opens its connections first, then measures, and returns one [`Measured`].

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tokio::task::JoinSet;

use super::machine::{self, Usage};
use super::payload::{Form, Request, Sents};
use super::target::{Target, get};
use super::wire::{Connection, Streamed};

/// What a workload did and what it cost the server.
#[derive(Debug, Default)]
pub(super) struct Measured {
    /// Events acknowledged, read or delivered.
    pub(super) events: u64,
    pub(super) time: Duration,
    /// The server's CPU time while it ran; `None` where its pid is not known.
    pub(super) cpu: Option<Duration>,
    pub(super) flushes: u64,
    pub(super) resident_kib: u64,
    pub(super) latency: Option<Latency>,
}

impl Measured {
    pub(super) fn rate(&self) -> f64 {
        self.events as f64 / self.time.as_secs_f64().max(1e-9)
    }

    pub(super) fn cpu_each_us(&self) -> Option<f64> {
        Some(self.cpu?.as_secs_f64() * 1e6 / self.events.max(1) as f64)
    }
}

/// Microseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Latency {
    pub(super) p50: f64,
    pub(super) p99: f64,
    pub(super) max: f64,
}

/// Nanoseconds on the driver's one clock.
fn now() -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    u64::try_from(START.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

fn random_run() -> u32 {
    getrandom::u32().unwrap_or_else(|_| std::process::id())
}

type Latencies = Rc<RefCell<Histogram<u64>>>;

fn latencies() -> io::Result<Latencies> {
    let histogram = Histogram::new_with_bounds(100, 60_000_000_000, 3).map_err(io::Error::other)?;
    Ok(Rc::new(RefCell::new(histogram)))
}

fn summary(latencies: &Latencies) -> Option<Latency> {
    let histogram = latencies.borrow();
    let micros = |nanos: u64| nanos as f64 / 1e3;
    (!histogram.is_empty()).then(|| Latency {
        p50: micros(histogram.value_at_quantile(0.5)),
        p99: micros(histogram.value_at_quantile(0.99)),
        max: micros(histogram.max()),
    })
}

/// Clock, CPU and flushes from `start` to `finish`.
struct Meter {
    pid: Option<u32>,
    usage: Usage,
    flushes: u64,
    start: Instant,
}

impl Meter {
    fn start(target: &Target) -> Self {
        let usage = target.pid.map(machine::usage).unwrap_or_default();
        Self { pid: target.pid, usage, flushes: machine::flushes(), start: Instant::now() }
    }

    fn finish(self, events: u64) -> Measured {
        let time = self.start.elapsed();
        let usage = self.pid.map(machine::usage);
        Measured {
            events,
            time,
            cpu: usage.map(|usage| usage.cpu.saturating_sub(self.usage.cpu)),
            flushes: machine::flushes().saturating_sub(self.flushes),
            resident_kib: usage.unwrap_or_default().resident_kib,
            latency: None,
        }
    }
}

/// How to publish.
#[derive(Clone, Copy, Debug)]
pub(super) struct Publish {
    pub(super) form: Form,
    pub(super) batch: usize,
    pub(super) size: usize,
    /// Events in flight over all connections.
    pub(super) window: usize,
    pub(super) publishers: usize,
    /// At least so many events, and
    pub(super) count: u64,
    /// no longer than this.
    pub(super) time: Duration,
}

/// Publishes into `stream` and waits for every acknowledgement.
pub(super) async fn publish(target: &Target, stream: &str, how: Publish) -> io::Result<Measured> {
    let path = format!("/streams/{stream}/events");
    let batch = if how.form.is_batch() { how.batch } else { 1 };
    // Requests a connection keeps in flight: HTTP/1.1 answers them in order.
    let depth = (how.window / batch / how.publishers.max(1)).max(1);
    let (run, lanes) = (random_run(), how.publishers as u64);
    let latencies = latencies()?;
    let sent = Rc::new(Cell::new(0u64));
    let mut connections = Vec::new();
    for lane in 0..lanes {
        let request = Request::new(&path, how.form, batch, how.size, run, lane, lanes);
        connections.push((Connection::open(target.address).await?, request));
    }
    let meter = Meter::start(target);
    let end = Instant::now() + how.time;
    let mut publishers = JoinSet::new();
    for (mut connection, mut request) in connections {
        let (latencies, sent) = (latencies.clone(), sent.clone());
        publishers.spawn_local(async move {
            let mut in_flight = std::collections::VecDeque::with_capacity(depth);
            let mut out = Vec::with_capacity(depth * request.len());
            let mut acknowledged = 0u64;
            loop {
                // Refill once half of the window is free, in one write.
                if in_flight.len() * 2 <= depth && sent.get() < how.count && Instant::now() < end {
                    out.clear();
                    let now = now();
                    while in_flight.len() < depth && sent.get() < how.count {
                        out.extend_from_slice(request.stamp(now));
                        in_flight.push_back(now);
                        sent.set(sent.get() + batch as u64);
                    }
                    connection.send(&out).await?;
                }
                let Some(at) = in_flight.pop_front() else { break };
                let answer = connection.answer().await?;
                if !(200..300).contains(&answer.status) {
                    let text = String::from_utf8_lossy(connection.body(&answer)).into_owned();
                    return Err(io::Error::other(format!("the node answered {}: {text}", answer.status)));
                }
                latencies.borrow_mut().saturating_record(now() - at);
                acknowledged += batch as u64;
            }
            Ok::<u64, io::Error>(acknowledged)
        });
    }
    let mut acknowledged = 0;
    while let Some(publisher) = publishers.join_next().await {
        acknowledged += publisher.map_err(io::Error::other)??;
    }
    let mut measured = meter.finish(acknowledged);
    measured.latency = summary(&latencies);
    Ok(measured)
}

/// The form a consumer receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Push {
    /// Server-sent events, JSON.
    Sse,
    /// STREAM frames, stored bytes.
    Stream,
}

impl Push {
    fn accept(self) -> &'static str {
        match self {
            Push::Sse => "text/event-stream",
            Push::Stream => "application/vnd.weir.stream",
        }
    }
}

async fn subscribe(target: &Target, stream: &str, push: Push, from: &str) -> io::Result<Streamed> {
    let request = get(&format!("/streams/{stream}/events?from={from}"), push.accept());
    Connection::open(target.address).await?.stream(&request).await
}

/// Reads `count` stored events to one consumer and checks that every position came, in order.
pub(super) async fn replay(target: &Target, stream: &str, push: Push, count: u64) -> io::Result<Measured> {
    let meter = Meter::start(target);
    let mut consumer = subscribe(target, stream, push, "earliest").await?;
    let mut positions = Positions::new(push);
    let (mut scratch, mut out) = (Vec::with_capacity(1 << 20), Vec::with_capacity(1 << 20));
    while positions.last < count {
        if !consumer.read(&mut scratch, &mut out).await? {
            return Err(io::Error::other(format!("the replay ended after {} events", positions.last)));
        }
        positions.scan(&mut out)?;
    }
    Ok(meter.finish(positions.last))
}

/// Follows the positions in a stream's bytes and insists on one after the other.
struct Positions {
    push: Push,
    last: u64,
}

impl Positions {
    fn new(push: Push) -> Self {
        Self { push, last: 0 }
    }

    /// Takes whole messages from the front of `bytes`.
    fn scan(&mut self, bytes: &mut Vec<u8>) -> io::Result<()> {
        let done = match self.push {
            Push::Sse => self.scan_sse(bytes)?,
            Push::Stream => self.scan_frames(bytes)?,
        };
        bytes.drain(..done);
        Ok(())
    }

    fn advance(&mut self, first: u64, count: u64) -> io::Result<()> {
        if first != self.last + 1 {
            return Err(io::Error::other(format!("position {first} came after {}", self.last)));
        }
        self.last += count;
        Ok(())
    }

    fn scan_sse(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut done = 0;
        while let Some(end) = memchr::memmem::find(&bytes[done..], b"\n\n") {
            let message = &bytes[done..done + end];
            done += end + 2;
            // A message without `event:` is an event; its id is its position.
            if message.starts_with(b"event:") || memchr::memmem::find(message, b"\nevent:").is_some() {
                continue;
            }
            let id = message.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"id:"));
            if let Some(id) = id.and_then(|id| std::str::from_utf8(id).ok()?.trim().parse().ok()) {
                self.advance(id, 1)?;
            }
        }
        Ok(done)
    }

    fn scan_frames(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut done = 0;
        loop {
            let Some((length, rest)) = bytes[done..].split_first_chunk::<4>() else { return Ok(done) };
            let length = u32::from_be_bytes(*length) as usize;
            let Some(frame) = rest.get(..length) else { return Ok(done) };
            done += 4 + length;
            if frame.first() != Some(&1) {
                continue;
            }
            let short = || io::Error::other("a run frame is too short");
            let at = 2 + usize::from(*frame.get(1).ok_or_else(short)?) + 8;
            let first = frame.get(at..at + 8).and_then(|b| b.try_into().ok()).ok_or_else(short)?;
            let count = frame.get(at + 8..at + 12).and_then(|b| b.try_into().ok()).ok_or_else(short)?;
            self.advance(u64::from_be_bytes(first), u64::from(u32::from_be_bytes(count)))?;
        }
    }
}

/// How to fan out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fanout {
    pub(super) push: Push,
    pub(super) subscribers: usize,
    pub(super) size: usize,
    /// Events a second; zero: as fast as the deliveries come back.
    pub(super) rate: u64,
    /// With rate zero: events in flight.
    pub(super) window: u64,
    pub(super) time: Duration,
}

/// One publisher, many subscribers, each receiving every event; measures each delivery from send to arrival.
pub(super) async fn fanout(target: &Target, stream: &str, how: Fanout) -> io::Result<Measured> {
    let latencies = latencies()?;
    // Deliveries so far: the publisher waits for them in the closed loop, and for all of them at the end.
    let delivered = Rc::new(Cell::new(0u64));
    let arrived = Rc::new(tokio::sync::Notify::new());
    let mut consumers = JoinSet::new();
    for _ in 0..how.subscribers {
        let mut consumer = subscribe(target, stream, how.push, "latest").await?;
        let (latencies, delivered, arrived) = (latencies.clone(), delivered.clone(), arrived.clone());
        consumers.spawn_local(async move {
            let mut sents = Sents::new();
            let (mut scratch, mut out) = (Vec::with_capacity(16 << 10), Vec::with_capacity(16 << 10));
            while consumer.read(&mut scratch, &mut out).await? {
                let now = now();
                let mut count = 0;
                sents.scan(&out, |sent| {
                    latencies.borrow_mut().saturating_record(now.saturating_sub(sent));
                    count += 1;
                });
                out.clear();
                delivered.set(delivered.get() + count);
                arrived.notify_one();
            }
            Ok::<(), io::Error>(())
        });
    }
    let path = format!("/streams/{stream}/events");
    let mut request = Request::new(&path, Form::Structured, 1, how.size, random_run(), 0, 1);
    let mut publisher = Connection::open(target.address).await?;
    let subscribers = how.subscribers as u64;
    let meter = Meter::start(target);
    let start = Instant::now();
    let mut sent = 0u64;
    if how.rate > 0 {
        let mut tick = tokio::time::interval(Duration::from_secs_f64(1.0 / how.rate as f64));
        while start.elapsed() < how.time {
            tick.tick().await;
            publisher.call(request.stamp(now())).await?;
            sent += 1;
        }
    } else {
        while start.elapsed() < how.time {
            let room = how.window.saturating_sub(sent - delivered.get() / subscribers);
            if room * 2 < how.window.max(2) {
                arrived.notified().await;
                continue;
            }
            let mut out = Vec::new();
            for _ in 0..room {
                out.extend_from_slice(request.stamp(now()));
            }
            publisher.send(&out).await?;
            for _ in 0..room {
                let answer = publisher.answer().await?;
                if !(200..300).contains(&answer.status) {
                    let text = String::from_utf8_lossy(publisher.body(&answer)).into_owned();
                    return Err(io::Error::other(format!("the node answered {}: {text}", answer.status)));
                }
            }
            sent += room;
        }
    }
    let all = sent * subscribers;
    while delivered.get() < all {
        let wait = tokio::time::timeout(Duration::from_secs(20), arrived.notified()).await;
        if wait.is_err() {
            return Err(io::Error::other(format!("only {} of {all} deliveries arrived", delivered.get())));
        }
    }
    let mut measured = meter.finish(all);
    measured.latency = summary(&latencies);
    consumers.abort_all();
    Ok(measured)
}

/// Opens `count` subscribers that receive nothing and says what each costs the server in memory.
pub(super) async fn idle(target: &Target, stream: &str, push: Push, count: usize) -> io::Result<Measured> {
    let pid =
        target.pid.ok_or_else(|| io::Error::other("memory is known only of a server whose pid is known"))?;
    let before = machine::usage(pid).resident_kib;
    let meter = Meter::start(target);
    let mut held = Vec::with_capacity(count);
    let (mut scratch, mut out) = (Vec::new(), Vec::new());
    for _ in 0..count {
        let mut consumer = subscribe(target, stream, push, "latest").await?;
        // The first heartbeat says that the delivery stands.
        consumer.read(&mut scratch, &mut out).await?;
        out.clear();
        held.push(consumer);
    }
    let mut measured = meter.finish(count as u64);
    measured.resident_kib = machine::usage(pid).resident_kib.saturating_sub(before);
    Ok(measured)
}

/// Creates `count` empty streams.
pub(super) async fn streams(target: &Target, count: usize) -> io::Result<Measured> {
    let meter = Meter::start(target);
    let lanes = 64;
    let mut creators = JoinSet::new();
    for lane in 0..lanes {
        let mut connection = Connection::open(target.address).await?;
        creators.spawn_local(async move {
            for index in (lane..count).step_by(lanes) {
                let request = format!(
                    "PUT /streams/bench.many.s{index:06} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{{}}"
                );
                connection.call(request.as_bytes()).await?;
            }
            Ok::<(), io::Error>(())
        });
    }
    while let Some(creator) = creators.join_next().await {
        creator.map_err(io::Error::other)??;
    }
    Ok(meter.finish(count as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_followed_and_a_gap_is_an_error() {
        let mut positions = Positions::new(Push::Sse);
        let mut bytes = b"event: heartbeat\nid: 0\ndata: {}\n\nid: 1\ndata: {}\n\nid: 2\nda".to_vec();
        positions.scan(&mut bytes).unwrap();
        assert_eq!((positions.last, &bytes[..]), (1, &b"id: 2\nda"[..]));
        bytes.extend_from_slice(b"ta: {}\n\nid: 4\ndata: {}\n\n");
        assert!(positions.scan(&mut bytes).is_err());

        let frame = |first: u64, count: u32| {
            let mut payload = vec![1, 1, b's'];
            payload.extend_from_slice(&7u64.to_be_bytes());
            payload.extend_from_slice(&first.to_be_bytes());
            payload.extend_from_slice(&count.to_be_bytes());
            payload.extend_from_slice(&[0; 9]);
            [&(payload.len() as u32).to_be_bytes()[..], &payload].concat()
        };
        let mut positions = Positions::new(Push::Stream);
        positions.scan(&mut [frame(1, 10), frame(11, 5)].concat()).unwrap();
        assert_eq!(positions.last, 15);
        assert!(positions.scan(&mut frame(17, 1)).is_err());
    }
}
