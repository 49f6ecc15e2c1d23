//! A delivery on an HTTP connection: what it yields is encoded and written, as server-sent events or as frames.
//!
//! **HTTP/1.1**: an [`Outlet`] owns the socket ([`crate::server`] explains why) and writes its answer in chunks
//! (RFC 9112, section 7.1) of about [`CHUNK_BYTES`], each of whole events, many of them with one `writev` of shared
//! bytes. What holds while a socket takes nothing:
//!
//! - A revocation resets the connection at once: what waits here and in the kernel is dropped, not drained.
//! - After [`SLOW_AFTER`] all but the chunk under way is given back to the log, so that thousands of slow consumers
//!   cost little; it is read again when the socket takes bytes.
//! - After [`Bounds::stall`](super::Bounds) the connection is reset.
//!
//! **HTTP/2**: a [`Body`], polled by hyper as flow control allows. Frames are copies of at most [`FRAME_BYTES`],
//! so that a slow consumer holds no shared encoding. If a revoked one does not end within
//! [`RESET_AFTER`] because it is not polled, its connection is reset ([`super::signal`]).

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{self, IoSlice, Write as _};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::Frame;
use prometheus_client::metrics::counter::Counter;
use tokio::io::AsyncWrite;
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};
use weir_event::flow::Position;

use super::block::Piece;
use super::{Delivery, End, Item, sse, stream};
use crate::metrics::{ByWay, Way};
use crate::server::{self, Connection, RESET_AFTER};

/// How much is gathered for one write, and at most waits for a socket, one turn more.
const WRITE_BYTES: usize = 256 * 1024;

/// How many chunks wait at most, and how many slices are gathered for one write.
const CHUNKS: usize = 64;
const SLICES: usize = 96;

/// How long a chunk gets, a single longer event apart: what a slow consumer holds.
const CHUNK_BYTES: usize = 16 * 1024;

/// From when on a socket that takes nothing counts as slow.
const SLOW_AFTER: Duration = Duration::from_secs(1);

/// The most that a slow HTTP/2 consumer holds of a turn.
const FRAME_BYTES: usize = 64 * 1024;

/// What an item becomes.
enum Out {
    /// A heartbeat, a notice, a state, an end.
    Other(Bytes),
    /// Events.
    Events(Piece),
}

/// What waits to be written: a chunk, or bytes outside of chunks.
struct Chunk {
    head: [u8; 10],
    head_len: u8,
    body: Content,
    tail: &'static [u8],
}

enum Content {
    Other(Bytes),
    Events(Piece),
    /// The rest of a chunk whose beginning is written.
    Rest {
        bytes: Bytes,
        last: Option<Position>,
        events: u64,
    },
}

impl Chunk {
    /// Bytes outside of chunks.
    fn bare(bytes: Bytes) -> Self {
        Self { head: [0; 10], head_len: 0, body: Content::Other(bytes), tail: b"" }
    }

    /// A chunk; without its frame for a consumer that knows none.
    fn of(body: Content, framed: bool) -> Self {
        let mut chunk = Self { head: [0; 10], head_len: 0, body, tail: b"" };
        if framed {
            let mut rest = &mut chunk.head[..];
            // Eight digits and the line's end fit, and nothing is longer.
            let _ = write!(rest, "{:x}\r\n", chunk.body.as_slice().len());
            let left = rest.len();
            chunk.head_len = u8::try_from(chunk.head.len() - left).unwrap_or_default();
            chunk.tail = b"\r\n";
        }
        chunk
    }

    fn slices(&self) -> [&[u8]; 3] {
        [&self.head[..usize::from(self.head_len)], self.body.as_slice(), self.tail]
    }

    fn len(&self) -> usize {
        self.slices().iter().map(|slice| slice.len()).sum()
    }

    /// The unwritten rest, as a copy, so that nothing of a shared encoding is held.
    fn rest(self, written: usize) -> Self {
        let (last, events) = self.body.counts();
        let bytes = self.slices().concat().split_off(written).into();
        Self { head_len: 0, body: Content::Rest { bytes, last, events }, tail: b"", ..self }
    }
}

impl Content {
    fn as_slice(&self) -> &[u8] {
        match self {
            Content::Other(bytes) | Content::Rest { bytes, .. } => bytes,
            Content::Events(piece) => piece.as_slice(),
        }
    }

    /// The last position, and how many events.
    fn counts(&self) -> (Option<Position>, u64) {
        match self {
            Content::Other(_) => (None, 0),
            Content::Events(piece) => (piece.last(), piece.events()),
            Content::Rest { last, events, .. } => (*last, *events),
        }
    }
}

/// An item as it goes on the wire.
fn encode(item: &Item, way: Way, name: &str) -> Out {
    match (way, item) {
        (Way::stream, Item::Heartbeat(heartbeat)) => Out::Other(stream::heartbeat(heartbeat)),
        (Way::stream, Item::Notice(notice)) => Out::Other(stream::notice(notice)),
        (Way::stream, Item::State(state)) => Out::Other(stream::state(state)),
        (Way::stream, Item::Events(events)) => Out::Events(events.stream(name)),
        (Way::stream, Item::End(end)) => Out::Other(stream::end(end)),
        (Way::sse | Way::range, Item::Heartbeat(heartbeat)) => Out::Other(sse::heartbeat(heartbeat)),
        (Way::sse | Way::range, Item::Notice(notice)) => Out::Other(sse::notice(notice)),
        (Way::sse | Way::range, Item::State(state)) => Out::Other(sse::state(state)),
        (Way::sse | Way::range, Item::Events(events)) => Out::Events(events.sse()),
        (Way::sse | Way::range, Item::End(_)) => Out::Other(Bytes::new()),
    }
}

/// A delivery that owns its connection.
#[derive(Debug)]
pub(crate) struct Outlet {
    head: Bytes,
    framed: bool,
    delivery: Delivery,
}

impl Outlet {
    /// An outlet that first writes `head`, the head of the answer, which says whether the body is `framed` in
    /// chunks.
    pub(crate) fn new(head: Bytes, framed: bool, delivery: Delivery) -> Self {
        Self { head, framed, delivery }
    }

    /// Writes until the delivery ends or the consumer is gone.
    pub(crate) async fn run(self, mut stream: TcpStream) {
        let way = ByWay { way: self.delivery.way() };
        let events = self.delivery.metrics().deliver_events.get_or_create(&way).clone();
        let bytes = self.delivery.metrics().deliver_bytes.get_or_create(&way).clone();
        let mut writer = Writer {
            delivery: self.delivery,
            framed: self.framed,
            queue: VecDeque::from([Chunk::bare(self.head)]),
            written: 0,
            queued: 0,
            end: None,
            blocked: None,
            events,
            bytes,
        };
        let done = poll_fn(|cx| writer.poll(&mut stream, cx)).await;
        match done {
            Done::Gone => {}
            Done::Ended(false) => {
                drop(writer);
                server::linger_out(stream).await;
            }
            Done::Ended(true) => {
                // The end is out. Give it the time to arrive, then drop what else waits in the kernel.
                let _ = tokio::time::timeout(RESET_AFTER, poll_fn(|cx| poll_peer(&stream, cx))).await;
                reset(stream);
            }
            Done::Reset => {
                writer.delivery.metrics().connections_reset.inc();
                reset(stream);
            }
        }
    }
}

/// Closes a connection so that nothing more of it arrives.
fn reset(stream: TcpStream) {
    // Without lingering a close discards what is unsent and sends RST (tcp(7), SO_LINGER).
    let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
    drop(stream);
}

/// How writing came to its end.
enum Done {
    /// The consumer is gone.
    Gone,
    /// The end is written; whether what else is in the kernel must not be drained.
    Ended(bool),
    /// The connection must go at once.
    Reset,
}

struct Writer {
    delivery: Delivery,
    framed: bool,
    queue: VecDeque<Chunk>,
    /// How much of the first in the queue is written.
    written: usize,
    /// Bytes in the queue.
    queued: usize,
    end: Option<End>,
    blocked: Option<Blocked>,
    events: Counter<u64, AtomicU64>,
    bytes: Counter<u64, AtomicU64>,
}

/// A socket that takes nothing.
struct Blocked {
    since: Instant,
    /// Whether the queue was given back.
    slow: bool,
    timer: Pin<Box<Sleep>>,
}

impl Writer {
    fn poll(&mut self, stream: &mut TcpStream, cx: &mut Context<'_>) -> Poll<Done> {
        if poll_peer(stream, cx).is_ready() {
            return Poll::Ready(Done::Gone);
        }
        loop {
            if let Some(done) = self.fill(cx) {
                return Poll::Ready(done);
            }
            if self.queue.is_empty() {
                return match &self.end {
                    Some(end) => Poll::Ready(Done::Ended(end.reset)),
                    None => Poll::Pending,
                };
            }
            match self.poll_write(stream, cx) {
                Poll::Ready(Ok(count)) => {
                    self.blocked = None;
                    self.advance(count);
                }
                Poll::Ready(Err(error)) => {
                    tracing::debug!(%error, "the consumer is gone");
                    return Poll::Ready(Done::Gone);
                }
                Poll::Pending => return self.poll_blocked(cx),
            }
        }
    }

    /// Takes what the delivery has, as far as there is room.
    fn fill(&mut self, cx: &mut Context<'_>) -> Option<Done> {
        if self.end.is_none() && self.delivery.is_cut_off(cx) && self.holds_events() {
            return Some(Done::Reset);
        }
        let slow = self.blocked.as_ref().is_some_and(|blocked| blocked.slow);
        while self.end.is_none() && !slow && self.queued < WRITE_BYTES && self.queue.len() < CHUNKS {
            let item = match self.delivery.poll(cx) {
                Poll::Ready(Some(item)) => item,
                Poll::Ready(None) | Poll::Pending => break,
            };
            let out = encode(&item, self.delivery.way(), self.delivery.stream_name());
            match out {
                Out::Other(bytes) => self.push(Content::Other(bytes)),
                Out::Events(piece) => {
                    piece.parts_of(CHUNK_BYTES).for_each(|part| self.push(Content::Events(part)))
                }
            }
            if let Item::End(end) = item {
                if end.reset && self.holds_events() {
                    return Some(Done::Reset);
                }
                if self.framed {
                    self.queue.push_back(Chunk::bare(Bytes::from_static(b"0\r\n\r\n")));
                }
                self.end = Some(end);
            }
        }
        None
    }

    fn push(&mut self, content: Content) {
        if content.as_slice().is_empty() {
            // Events that could not be encoded count as sent; an empty chunk would end the answer.
            self.settle(&content);
        } else {
            let chunk = Chunk::of(content, self.framed);
            self.queued += chunk.len();
            self.queue.push_back(chunk);
        }
    }

    fn holds_events(&self) -> bool {
        self.queue.iter().any(|chunk| !matches!(chunk.body, Content::Other(_)))
    }

    fn poll_write(&mut self, stream: &mut TcpStream, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let mut count = 0;
        let mut skip = self.written;
        for slice in self.queue.iter().flat_map(Chunk::slices) {
            let unwritten = &slice[skip.min(slice.len())..];
            skip -= slice.len() - unwritten.len();
            if unwritten.is_empty() {
                continue;
            }
            let Some(place) = slices.get_mut(count) else { break };
            *place = IoSlice::new(unwritten);
            count += 1;
        }
        Pin::new(stream).poll_write_vectored(cx, &slices[..count])
    }

    /// Takes `count` written bytes from the queue.
    fn advance(&mut self, count: usize) {
        self.bytes.inc_by(count as u64);
        self.written += count;
        while let Some(len) = self.queue.front().map(Chunk::len).filter(|len| *len <= self.written) {
            self.written -= len;
            self.queued = self.queued.saturating_sub(len);
            if let Some(chunk) = self.queue.pop_front() {
                self.settle(&chunk.body);
            }
        }
    }

    /// Tells the delivery what is written.
    fn settle(&mut self, content: &Content) {
        let (last, events) = content.counts();
        if events > 0 {
            self.events.inc_by(events);
            self.delivery.written(last, events, content.as_slice().len() as u64);
        }
    }

    /// Gives back to the log what waits, all but the chunk under way.
    fn give_back(&mut self) {
        if self.end.is_some() || !self.holds_events() {
            return;
        }
        self.delivery.metrics().deliver_stalls.inc();
        let mut waiting = std::mem::take(&mut self.queue);
        if self.written > 0
            && let Some(begun) = waiting.pop_front()
        {
            self.queue.push_back(begun.rest(self.written));
            self.written = 0;
        }
        self.queued = self.queue.iter().map(Chunk::len).sum();
        // What stands before the first events that are given back, a notice perhaps, still has to be written.
        while let Some(chunk) = waiting.pop_front_if(|chunk| matches!(chunk.body, Content::Other(_))) {
            self.queued += chunk.len();
            self.queue.push_back(chunk);
        }
        let pieces = waiting.iter().filter_map(|chunk| match &chunk.body {
            Content::Events(piece) => Some(piece),
            Content::Other(_) | Content::Rest { .. } => None,
        });
        let events = pieces.clone().map(Piece::events).sum();
        if let Some(first) = pieces.map(Piece::first).next() {
            self.delivery.rewind(first.previous(), events);
        }
    }

    fn poll_blocked(&mut self, cx: &mut Context<'_>) -> Poll<Done> {
        let blocked = self.blocked.get_or_insert_with(|| Blocked {
            since: Instant::now(),
            slow: false,
            timer: Box::pin(tokio::time::sleep(SLOW_AFTER)),
        });
        if blocked.timer.as_mut().poll(cx).is_ready() {
            if blocked.slow {
                tracing::info!("a consumer took nothing for too long, its connection is reset");
                return Poll::Ready(Done::Reset);
            }
            blocked.slow = true;
            blocked.timer.as_mut().reset(blocked.since + self.delivery.stall().max(SLOW_AFTER));
            self.give_back();
            return self.poll_blocked(cx);
        }
        Poll::Pending
    }
}

/// Ready once the consumer has closed its side or is gone. What it sends is ignored: its one request is answered.
fn poll_peer(stream: &TcpStream, cx: &mut Context<'_>) -> Poll<()> {
    let mut scrap = [0; 256];
    // Bounded, so that a consumer that keeps sending does not keep this task from writing.
    for _ in 0..16 {
        match stream.poll_read_ready(cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Err(_)) => return Poll::Ready(()),
            Poll::Ready(Ok(())) => match stream.try_read(&mut scrap) {
                Ok(0) => return Poll::Ready(()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Poll::Ready(()),
            },
        }
    }
    cx.waker().wake_by_ref();
    Poll::Pending
}

/// A delivery as the body of an HTTP/2 answer.
#[derive(Debug)]
pub struct Body {
    delivery: Delivery,
    end: Option<End>,
}

impl Body {
    /// A body on a connection that others share; a revocation that does not get through resets it.
    pub(crate) fn new(delivery: Delivery, connection: Option<&Arc<Connection>>) -> Self {
        if let Some(connection) = connection {
            delivery.on_shared(connection);
        }
        Self { delivery, end: None }
    }

    fn item(&mut self, item: Item) -> Bytes {
        let way = self.delivery.way();
        let out = encode(&item, way, self.delivery.stream_name());
        if let Item::End(end) = item {
            self.end = Some(end);
        }
        let whole = match out {
            Out::Other(bytes) => return bytes,
            Out::Events(piece) => piece,
        };
        let Some(piece) = whole.parts_of(FRAME_BYTES).next() else { return Bytes::new() };
        let bytes = Bytes::copy_from_slice(piece.as_slice());
        let by_way = ByWay { way };
        let metrics = self.delivery.metrics();
        metrics.deliver_events.get_or_create(&by_way).inc_by(piece.events());
        metrics.deliver_bytes.get_or_create(&by_way).inc_by(bytes.len() as u64);
        self.delivery.written(piece.last(), piece.events(), bytes.len() as u64);
        let left = whole.events() - piece.events();
        if let (true, Some(last)) = (left > 0, piece.last()) {
            self.delivery.rewind(last, left);
        }
        bytes
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Over;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Over>>> {
        let this = self.get_mut();
        loop {
            match &this.end {
                // An error resets the stream, and with it what flow control holds back.
                Some(end) if end.reset => return Poll::Ready(Some(Err(Over))),
                Some(_) => return Poll::Ready(None),
                None => {}
            }
            let Poll::Ready(item) = this.delivery.poll(cx) else { return Poll::Pending };
            let Some(item) = item else { return Poll::Ready(None) };
            let bytes = this.item(item);
            if !bytes.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
        }
    }
}

/// The consumer has lost the right to what is under way.
#[derive(Debug)]
pub struct Over;

impl std::fmt::Display for Over {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the delivery was cut off")
    }
}

impl std::error::Error for Over {}
