//! A delivery on an HTTP connection: what it yields is encoded and written, as server-sent events or as frames.
//!
//! **HTTP/1.1**: an [`Outlet`] owns the socket ([`crate::server`] explains why). The answer has no length and no
//! chunks; the connection's end is the body's end (RFC 9112, section 6.3), so that a turn is one `writev` of shared
//! bytes and a body can be cut short between any two events. What holds while a socket takes nothing:
//!
//! - A revocation resets the connection at once: what waits here and in the kernel is dropped, not drained.
//! - After [`SLOW_AFTER`] all but the event under way is given back to the log, so that thousands of slow consumers
//!   cost next to nothing; it is read again when the socket takes bytes.
//! - After [`Bounds::stall`](super::Bounds) the connection is reset.
//!
//! **HTTP/2**: a [`Body`], polled by hyper as flow control allows. Frames are copies of at most [`FRAME_BYTES`],
//! so that a slow consumer holds no shared encoding. If a revoked one does not end within
//! [`RESET_AFTER`] because it is not polled, its connection is reset ([`super::signal`]).

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::Frame;
use tokio::io::AsyncWrite;
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

use super::block::Piece;
use super::{Delivery, End, Item, sse, stream};
use crate::metrics::{ByWay, Way};
use crate::server::{self, Connection, RESET_AFTER};

/// How much is gathered for one write, and at most waits for a socket, one turn more.
const WRITE_BYTES: usize = 256 * 1024;

/// How many pieces are gathered for one write.
const WRITE_PIECES: usize = 64;

/// From when on a socket that takes nothing counts as slow.
const SLOW_AFTER: Duration = Duration::from_secs(1);

/// The most that a slow HTTP/2 consumer holds of a turn.
const FRAME_BYTES: usize = 64 * 1024;

/// What waits to be written.
enum Out {
    /// A head, a heartbeat, a notice, a state, an end.
    Other(Bytes),
    /// Events.
    Events(Piece),
    /// The rest of an event, or of a frame of events, whose beginning is written.
    Rest(Bytes, weir_event::flow::Position, u64),
}

impl Out {
    fn as_slice(&self) -> &[u8] {
        match self {
            Out::Other(bytes) | Out::Rest(bytes, ..) => bytes,
            Out::Events(piece) => piece.as_slice(),
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
    delivery: Delivery,
}

impl Outlet {
    /// An outlet that first writes `head`, the head of the answer.
    pub(crate) fn new(head: Bytes, delivery: Delivery) -> Self {
        Self { head, delivery }
    }

    /// Writes until the delivery ends or the consumer is gone.
    pub(crate) async fn run(self, mut stream: TcpStream) {
        let way = ByWay { way: self.delivery.way() };
        let events = self.delivery.metrics().deliver_events.get_or_create(&way).clone();
        let bytes = self.delivery.metrics().deliver_bytes.get_or_create(&way).clone();
        let mut writer = Writer {
            delivery: self.delivery,
            queue: VecDeque::from([Out::Other(self.head)]),
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
    queue: VecDeque<Out>,
    /// How much of the first in the queue is written.
    written: usize,
    /// Bytes of events in the queue.
    queued: usize,
    end: Option<End>,
    blocked: Option<Blocked>,
    events: prometheus_client::metrics::counter::Counter<u64, std::sync::atomic::AtomicU64>,
    bytes: prometheus_client::metrics::counter::Counter<u64, std::sync::atomic::AtomicU64>,
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
        while self.end.is_none() && !slow && self.queued < WRITE_BYTES && self.queue.len() < WRITE_PIECES {
            let item = match self.delivery.poll(cx) {
                Poll::Ready(Some(item)) => item,
                Poll::Ready(None) | Poll::Pending => break,
            };
            let out = encode(&item, self.delivery.way(), self.delivery.stream_name());
            if let Item::End(end) = item {
                if end.reset && self.holds_events() {
                    return Some(Done::Reset);
                }
                self.end = Some(end);
            }
            if let Out::Events(piece) = &out {
                self.queued += piece.len();
            }
            if out.as_slice().is_empty() {
                self.settle(&out);
            } else {
                self.queue.push_back(out);
            }
        }
        None
    }

    fn holds_events(&self) -> bool {
        self.queue.iter().any(|out| !matches!(out, Out::Other(_)))
    }

    fn poll_write(&mut self, stream: &mut TcpStream, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut slices = [IoSlice::new(&[]); WRITE_PIECES];
        let mut skip = self.written;
        let count = slices.len().min(self.queue.len());
        for (slice, out) in slices.iter_mut().zip(&self.queue) {
            *slice = IoSlice::new(out.as_slice().get(skip..).unwrap_or_default());
            skip = 0;
        }
        Pin::new(stream).poll_write_vectored(cx, &slices[..count])
    }

    /// Takes `count` written bytes from the queue.
    fn advance(&mut self, count: usize) {
        self.bytes.inc_by(count as u64);
        self.written += count;
        while let Some(out) = self.queue.front() {
            let len = out.as_slice().len();
            if self.written < len {
                break;
            }
            self.written -= len;
            if let Some(out) = self.queue.pop_front() {
                if let Out::Events(piece) = &out {
                    self.queued -= piece.len();
                }
                self.settle(&out);
            }
        }
    }

    /// Tells the delivery what is written.
    fn settle(&mut self, out: &Out) {
        let (last, events, bytes) = match out {
            Out::Other(_) => return,
            Out::Events(piece) => (piece.last(), piece.events(), piece.len()),
            Out::Rest(bytes, last, events) => (Some(*last), *events, bytes.len()),
        };
        self.events.inc_by(events);
        self.delivery.written(last, events, bytes as u64);
    }

    fn poll_blocked(&mut self, cx: &mut Context<'_>) -> Poll<Done> {
        let blocked = self.blocked.get_or_insert_with(|| Blocked {
            since: Instant::now(),
            slow: false,
            timer: Box::pin(tokio::time::sleep(SLOW_AFTER)),
        });
        while blocked.timer.as_mut().poll(cx).is_ready() {
            if blocked.slow {
                tracing::info!("a consumer took nothing for too long, its connection is reset");
                return Poll::Ready(Done::Reset);
            }
            blocked.slow = true;
            blocked.timer.as_mut().reset(blocked.since + self.delivery.stall().max(SLOW_AFTER));
            if self.end.is_none() {
                give_back(&mut self.delivery, &mut self.queue, &mut self.written);
                self.queued = 0;
            }
        }
        Poll::Pending
    }
}

/// Gives back to the log what waits, all but the event under way.
fn give_back(delivery: &mut Delivery, queue: &mut VecDeque<Out>, written: &mut usize) {
    let Some(first) = queue.iter().position(|out| matches!(out, Out::Events(_))) else { return };
    delivery.metrics().deliver_stalls.inc();
    let waiting = queue.split_off(first);
    let begun = if first == 0 { *written } else { 0 };
    let mut given_back = 0;
    let mut upto = None;
    for (number, out) in waiting.iter().enumerate() {
        let Out::Events(piece) = out else { continue };
        if number > 0 {
            given_back += piece.events();
            continue;
        }
        let split = piece.split(begun);
        delivery.written(split.last_written, split.events_written, begun as u64);
        upto = Some(split.upto);
        given_back += split.events_left;
        if let Some((rest, events)) = split.rest {
            queue.push_back(Out::Rest(rest, split.upto, events));
        }
        if first == 0 {
            *written = 0;
        }
    }
    if let Some(upto) = upto {
        delivery.rewind(upto, given_back);
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
        let piece = match out {
            Out::Other(bytes) | Out::Rest(bytes, ..) => return bytes,
            Out::Events(piece) => piece,
        };
        let whole = piece.len();
        let split = piece.split_at_part(FRAME_BYTES);
        let bytes = Bytes::copy_from_slice(piece.as_slice().get(..split.bytes).unwrap_or_default());
        let by_way = ByWay { way };
        let metrics = self.delivery.metrics();
        metrics.deliver_events.get_or_create(&by_way).inc_by(split.events);
        metrics.deliver_bytes.get_or_create(&by_way).inc_by(bytes.len() as u64);
        self.delivery.written(Some(split.last), split.events, bytes.len() as u64);
        if split.bytes < whole {
            self.delivery.rewind(split.last, split.events_left);
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
