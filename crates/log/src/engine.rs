//! The embedded engine: a [`Log`] in one directory on one machine.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread::JoinHandle;

use tokio::sync::{oneshot, watch};
use weir_event::flow::{History, Position, Time};

use crate::api::{
    Answer, Appended, At, Batch, Durability, Error, Head, Kind, Log, Read, Settings, Status, StreamId,
};
use crate::counters::Counters;
use crate::disk::{Disk, real::Real};
use crate::options::{Clock, Options, SystemClock};
use crate::read::{self, Pool};
use crate::recover;
use crate::shard::{Core, Request, Shard, Work, disk_error, lock};
use crate::stream::Stream;
use crate::writer::Writer;
use crate::{clean, directory, events, sync};

/// An open log. Dropping it syncs what was taken and ends its threads.
pub struct Engine {
    inner: Arc<Inner>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// Holds the directory until the last thread has ended.
    _lock: Box<dyn Send + Sync>,
}

pub(crate) struct Inner {
    pub(crate) core: Arc<Core>,
    pub(crate) shards: Vec<Arc<Shard>>,
    pub(crate) streams: RwLock<HashMap<StreamId, Arc<Stream>>>,
    pub(crate) pool: Arc<Pool>,
}

impl Engine {
    /// Opens the log in a directory, making it if there is none.
    ///
    /// Errors: `Unavailable` if another process has it or the disk fails; `Invalid` for a format this program does
    /// not know; `Corrupt` if it cannot be a whole log.
    pub fn open(directory: &Path, options: Options) -> Result<Self, Error> {
        let disk = Real::new(directory).map_err(|e| disk_error(&e))?;
        Self::open_on(Arc::new(disk), SystemClock::shared(), options)
    }

    /// As [`Engine::open`], on a disk and a clock of the caller's.
    pub fn open_on(disk: Arc<dyn Disk>, clock: Arc<dyn Clock>, options: Options) -> Result<Self, Error> {
        let held = directory::lock(&*disk)?;
        let format = directory::open(&*disk, &*clock, &options)?;
        let core = Arc::new(Core::new(disk, clock, options, format));
        let mut streams = HashMap::new();
        let mut shards = Vec::new();
        let mut writers = Vec::new();
        let mut taken = 0;
        for number in 0..=format.shards {
            let found = recover::open(&core, number).map_err(|error| recover::refused(number, &error))?;
            let shard = Shard::new(number, core.clone(), format.shards);
            taken = taken.max(found.taking);
            Counters::add(&core.counters.segments, found.segments.len() as u64);
            let bytes = found.segments.values().map(|segment| segment.end()).sum();
            Counters::add(&core.counters.segment_bytes, bytes);
            streams.extend(found.streams);
            *lock(&shard.segments) = found.segments;
            lock(&shard.gate).synced = found.synced;
            if let Some(current) = &found.current {
                current.sealed.store(false, Relaxed);
            }
            let room = found.current.as_ref().and_then(|segment| segment.file.len().ok()).unwrap_or_default();
            writers.push(Writer {
                shard: shard.clone(),
                room,
                step: 1 << 20,
                segment: found.current,
                group: found.next_group,
                next_segment: found.next_segment,
                end: found.end,
                histories: found.histories,
                windows: HashMap::new(),
                marked: found.end,
                wrote: core.clock.elapsed(),
                swept: core.clock.elapsed(),
                told: false,
                void: Vec::new(),
            });
            shards.push(shard);
        }
        // The clock of taking publishes goes on where it stood.
        core.taken.store(taken, Relaxed);
        let pool = Pool::new();
        let inner = Arc::new(Inner { core, shards, streams: RwLock::new(streams), pool });
        let engine = Self { inner, threads: Mutex::default(), _lock: held };
        engine.start(writers)?;
        Ok(engine)
    }

    fn start(&self, writers: Vec<Writer>) -> Result<(), Error> {
        let spawn = |name: String, work: Box<dyn FnOnce() + Send>| {
            let thread = std::thread::Builder::new().name(name).spawn(work);
            let thread = thread.map_err(|e| disk_error(&e))?;
            lock(&self.threads).push(thread);
            Ok(())
        };
        for writer in writers {
            let shard = writer.shard.clone();
            spawn(format!("log-write-{}", shard.number), Box::new(move || writer.run()))?;
            spawn(format!("log-sync-{}", shard.number), Box::new(move || sync::run(&shard)))?;
        }
        let inner = self.inner.clone();
        let every = inner.core.options.tidy_every;
        let tidy = move || inner.core.duty.run_and(every, || clean::tidy(&inner));
        spawn("log-tidy".into(), Box::new(tidy))?;
        self.inner.core.duty.nudge();
        for i in 0..self.inner.core.options.read_threads.max(1) {
            let pool = self.inner.pool.clone();
            spawn(format!("log-read-{i}"), Box::new(move || pool.run()))?;
        }
        Ok(())
    }

    /// Takes nothing more, syncs what was taken, says in the log that it was closed, and ends the threads. Blocks.
    pub fn close(&self) {
        for shard in &self.inner.shards {
            lock(&shard.gate).closing = true;
            shard.writer_wake.notify_all();
            shard.sync_wake.notify_all();
        }
        self.inner.pool.close();
        self.inner.core.duty.close();
        for thread in lock(&self.threads).drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the log panicked");
            }
        }
        for stream in self.inner.read_streams().values() {
            lock(&stream.shared).tail = None;
        }
    }

    pub(crate) fn inner(&self) -> &Arc<Inner> {
        &self.inner
    }

    /// Seals, applies retention and cleans now instead of when it is due. Blocks; not for async tasks.
    pub fn tidy(&self) {
        clean::tidy(&self.inner);
    }

    /// The room on the disk, asked now. May block for as long as the file system takes to say.
    pub fn room(&self) -> std::io::Result<crate::disk::Space> {
        self.inner.core.disk.space()
    }

    /// What the log counts.
    #[must_use]
    pub fn counters(&self) -> &Arc<Counters> {
        &self.inner.core.counters
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.close();
    }
}

impl Inner {
    pub(crate) fn read_streams(&self) -> RwLockReadGuard<'_, HashMap<StreamId, Arc<Stream>>> {
        self.streams.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_streams(&self) -> RwLockWriteGuard<'_, HashMap<StreamId, Arc<Stream>>> {
        self.streams.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// A stream that was declared and not removed.
    pub(crate) fn stream(&self, id: StreamId, operation: &str) -> Result<Arc<Stream>, Error> {
        let stream = self.read_streams().get(&id).cloned();
        stream
            .filter(|stream| lock(&stream.shared).declared)
            .ok_or_else(|| Error::new(Kind::NotFound, format!("{operation}: there is no stream {}", id.0)))
    }

    pub(crate) fn shard(&self, stream: &Stream) -> &Arc<Shard> {
        &self.shards[stream.shard as usize % self.shards.len()]
    }

    /// The shard that a new stream gets.
    fn shard_for(&self, id: StreamId, control: bool) -> u32 {
        let data = self.shards.len() as u64 - 1;
        if control || data == 0 { 0 } else { 1 + (id.0 % data) as u32 }
    }
}

/// Waits for the writer's or the sync thread's answer.
fn answer<T: Send + 'static>(
    waiting: Result<oneshot::Receiver<Result<Appended, Error>>, Error>,
    map: impl FnOnce(Appended) -> T + Send + 'static,
) -> Answer<'static, T> {
    Box::pin(async move {
        let closed = |_| Error::new(Kind::Closed, "append: the log was closed");
        waiting?.await.map_err(closed)?.map(map)
    })
}

impl Log for Engine {
    fn declare(&self, id: StreamId, settings: Settings, history: History) -> Result<(), Error> {
        let inner = &self.inner;
        let known = inner.read_streams().get(&id).cloned();
        let stream = match known {
            Some(stream) => stream,
            None => {
                let shard = inner.shard_for(id, settings.control);
                let stream = Arc::new(Stream::new(id, shard, settings.clone(), history));
                Counters::add(&inner.core.counters.streams, 1);
                inner.write_streams().entry(id).or_insert(stream).clone()
            }
        };
        let mut intake = lock(&stream.intake);
        let mut shared = lock(&stream.shared);
        if shared.removed {
            return Err(Error::new(Kind::NotFound, format!("declare: stream {} was removed", id.0)));
        }
        shared.declared = true;
        if intake.settings.durability != settings.durability {
            // What the promise was made on has changed: the next chunk says what it is now, and is synced first.
            intake.anchored = false;
        }
        (shared.durability, shared.retention) = (settings.durability, settings.retention);
        shared.dedupe = settings.dedupe.is_some();
        intake.settings = settings;
        Ok(())
    }

    fn remove(&self, id: StreamId) -> Result<(), Error> {
        let stream = self.inner.stream(id, "remove")?;
        let request = Request { stream: stream.clone(), work: Work::Remove, reply: None };
        self.inner.shard(&stream).enqueue(request, true)?;
        let mut shared = lock(&stream.shared);
        (shared.removed, shared.tail) = (true, None);
        Ok(())
    }

    fn append(&self, id: StreamId, batch: Batch) -> Answer<'static, Appended> {
        let waiting = (|| {
            let stream = self.inner.stream(id, "append")?;
            check(&batch)?;
            let (durability, dedupe) = {
                let shared = lock(&stream.shared);
                (shared.durability, shared.dedupe)
            };
            let mut ids = Vec::new();
            if dedupe {
                ids.reserve_exact(batch.ends.len());
                let mut start = 0;
                for &end in &batch.ends {
                    let event = events::split_first(&batch.body[start..end as usize]);
                    let event = event.map_or(&[][..], |(event, _)| event);
                    ids.push(events::hash(&self.inner.core.key, batch.publisher, event));
                    start = end as usize;
                }
            }
            let (reply, answer) = oneshot::channel();
            let work = Work::Append { batch, ids };
            let request = Request { stream: stream.clone(), work, reply: Some(reply) };
            self.inner.shard(&stream).enqueue(request, durability == Durability::Fsync)?;
            Ok(answer)
        })();
        answer(waiting, |appended| appended)
    }

    fn append_at(&self, id: StreamId, at: At, batch: Batch) -> Answer<'static, Appended> {
        let waiting = (|| {
            let stream = self.inner.stream(id, "append")?;
            check(&batch)?;
            let durability = lock(&stream.shared).durability;
            let (reply, answer) = oneshot::channel();
            let work = Work::At { at, batch };
            let request = Request { stream: stream.clone(), work, reply: Some(reply) };
            self.inner.shard(&stream).enqueue(request, durability == Durability::Fsync)?;
            Ok(answer)
        })();
        answer(waiting, |appended| appended)
    }

    fn skip(&self, id: StreamId, to: Position) -> Answer<'static, ()> {
        let waiting = self
            .inner
            .stream(id, "skip")
            .and_then(|stream| self.inner.shard(&stream).ask(&stream, Work::Skip { to }));
        answer(waiting, |_| ())
    }

    fn read(&self, id: StreamId, from: Position, bytes_max: usize) -> Answer<'_, Read> {
        let inner = &self.inner;
        let core = &inner.core;
        let bytes_max = bytes_max.clamp(1, core.options.read_bytes.max(1));
        let quick = (|| {
            let stream = inner.stream(id, "read")?;
            let plan = read::plan(core, &stream, from, bytes_max)?;
            if !plan.is_unknown()
                && let Some(read) = plan.in_memory(inner.shard(&stream))
            {
                Counters::add(&core.counters.tail_reads_total, 1);
                return read.map(Ok);
            }
            Ok(Err(stream))
        })();
        match quick {
            Ok(Ok(read)) => Box::pin(std::future::ready(Ok(read))),
            Err(error) => Box::pin(std::future::ready(Err(error))),
            Ok(Err(stream)) => Box::pin(async move {
                let (core, shard) = (core.clone(), inner.shard(&stream).clone());
                let work = move || read::read(&core, &shard, &stream, from, bytes_max);
                let closed = |_| Error::new(Kind::Closed, "read: the log was closed");
                inner.pool.ask(work).await.map_err(closed)?
            }),
        }
    }

    fn tail(&self, id: StreamId) -> Result<watch::Receiver<Head>, Error> {
        let stream = self.inner.stream(id, "tail")?;
        let mut shared = lock(&stream.shared);
        if shared.removed {
            return Err(Error::new(Kind::NotFound, format!("tail: stream {} was removed", id.0)));
        }
        let head = shared.head();
        Ok(shared.tail.get_or_insert_with(|| watch::Sender::new(head)).subscribe())
    }

    fn find(&self, id: StreamId, time: Time) -> Answer<'_, Position> {
        let inner = &self.inner;
        Box::pin(async move {
            let stream = inner.stream(id, "find")?;
            let core = inner.core.clone();
            let closed = |_| Error::new(Kind::Closed, "find: the log was closed");
            inner.pool.ask(move || read::find_time(&core, &stream, time)).await.map_err(closed)?
        })
    }

    fn trim(&self, id: StreamId, first: Position) -> Answer<'static, ()> {
        let waiting = self
            .inner
            .stream(id, "trim")
            .and_then(|stream| self.inner.shard(&stream).ask(&stream, Work::Trim { first }));
        answer(waiting, |_| ())
    }

    fn erase(&self, id: StreamId, positions: Vec<Position>) -> Answer<'static, ()> {
        let inner = self.inner.clone();
        let waiting = self.inner.core.duty.ask(move || clean::erase(&inner, id, positions));
        Box::pin(async move {
            let closed = |_| Error::new(Kind::Closed, "erase: the log was closed");
            waiting.await.map_err(closed)?
        })
    }

    fn status(&self, id: StreamId) -> Result<Status, Error> {
        Ok(self.inner.stream(id, "status")?.status())
    }
}

/// Whether a batch's ends fit its body.
fn check(batch: &Batch) -> Result<(), Error> {
    let mut start = 0;
    let rising = batch.ends.iter().all(|&end| end > std::mem::replace(&mut start, end));
    if !rising || start as usize != batch.body.len() {
        return Err(Error::new(Kind::Invalid, "append: the ends of the events do not fit the body"));
    }
    if batch.body.len() > 1 << 30 {
        return Err(Error::new(Kind::Invalid, "append: a batch is at most 1 GiB"));
    }
    Ok(())
}
