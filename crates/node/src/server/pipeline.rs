//! Publishing over HTTP/1.1 without waiting: many requests of one connection under way at once.
//!
//! A publisher may send its next request before the last is answered (RFC 9112, section 9.3.2). hyper serves one
//! request after the other, so each publish would be a group of its own in the log, with a flush of its own; here
//! all that have arrived are appended together and share one, and the answers leave in the order of the requests.
//! One event a request, a connection then publishes as fast as many connections would.
//!
//! What comes in is a new connection; what goes out is either its end, or the connection with the bytes that were
//! read and not used: the first request that is not a plain, short publish goes to hyper, with all that follows. So
//! nothing of HTTP is done twice but the reading of a head, and that by the parser hyper uses; whatever is unusual
//! (another method or path, chunks, `Expect`, `Connection`, two lengths, a body above [`BODY_BYTES_MAX`]) is hyper's.
//!
//! Requests are handed to [`publish`] in the order they came and enter the log in that order. Bounded: at most
//! [`UNDER_WAY_MAX`] requests of together [`UNDER_WAY_BYTES_MAX`]; then nothing is read, and TCP holds the publisher
//! back. A connection on which no request is finished and no answer taken for
//! [`Bounds::head_timeout`](super::Bounds) is closed, or, if a request has begun, handed to hyper and its timeouts.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use bytes::{Buf, Bytes, BytesMut};
use futures_util::StreamExt;
use futures_util::stream::FuturesOrdered;
use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version};
use http_body_util::{BodyExt, Full};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::coop::unconstrained;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{BUFFER_BYTES_MAX, Connection, Hot, hot};
use crate::Node;
use crate::http::publish;

/// Requests of one connection that may wait for the log, and their bytes, heads included.
const UNDER_WAY_MAX: usize = 1024;
const UNDER_WAY_BYTES_MAX: usize = 128 * 1024;

/// The longest body that is served here. Longer ones gain nothing from being put together.
const BODY_BYTES_MAX: usize = 16 * 1024;

/// How much is read at once.
const READ_BYTES: usize = 16 * 1024;

/// Answers that wait to be written; no more is answered before they have left.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// The most headers of a request that is served here.
const HEADERS_MAX: usize = 48;

/// An answer under way, and the bytes of its request.
type Answering = Pin<Box<dyn Future<Output = (http::response::Parts, Bytes, usize)> + Send>>;

/// Serves publishes until the connection ends or something else is asked: then the connection with what was read.
pub(super) async fn serve(
    stream: TcpStream,
    node: &Arc<Node>,
    connection: &Arc<Connection>,
    idle: Duration,
    closing: &CancellationToken,
) -> Option<Prefixed> {
    let mut pipeline = Pipeline {
        stream,
        node: Arc::clone(node),
        connection: Arc::clone(connection),
        input: BytesMut::new(),
        under_way: FuturesOrdered::new(),
        under_way_bytes: 0,
        output: BytesMut::new(),
        date: Date::default(),
        reading: Reading::On,
        progress: Instant::now(),
    };
    let mut closed = pin!(closing.cancelled());
    let mut timer = pin!(sleep_until(Instant::now() + idle));
    let outcome = poll_fn(|cx| {
        if closed.as_mut().poll(cx).is_ready() && pipeline.reading == Reading::On {
            pipeline.reading = Reading::Done;
        }
        match pipeline.poll(cx) {
            Poll::Ready(outcome) => Poll::Ready(outcome.map(Some)),
            Poll::Pending => {
                while timer.as_mut().poll(cx).is_ready() {
                    let end = pipeline.progress + idle;
                    // What waits for the log has all the time it needs; what waits for the peer has not.
                    let waits_for_peer = pipeline.under_way.is_empty() || !pipeline.output.is_empty();
                    if end <= Instant::now() && waits_for_peer {
                        let begun = pipeline.output.is_empty() && !pipeline.input.is_empty();
                        return Poll::Ready(Ok(begun.then_some(End::HandOver)));
                    }
                    timer.as_mut().reset(end.max(Instant::now() + Duration::from_millis(100)));
                }
                Poll::Pending
            }
        }
    })
    .await;
    match outcome {
        Ok(Some(End::HandOver)) => {
            Some(Prefixed { prefix: pipeline.input.freeze(), stream: pipeline.stream })
        }
        Ok(Some(End::Closed)) => {
            super::linger_out(pipeline.stream).await;
            None
        }
        Ok(None) => {
            tracing::debug!("connection made no progress in time");
            None
        }
        Err(error) => {
            tracing::debug!(%error, "connection ended");
            None
        }
    }
}

/// How serving ends.
enum End {
    /// Something else is asked; all publishes before it are answered.
    HandOver,
    /// The peer sends no more, or the node stops; all that was asked is answered.
    Closed,
}

/// Whether more requests are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    On,
    /// What comes next is hyper's.
    Stopped,
    /// Nothing comes any more.
    Done,
}

struct Pipeline {
    stream: TcpStream,
    node: Arc<Node>,
    connection: Arc<Connection>,
    /// Read and not yet a whole request.
    input: BytesMut,
    under_way: FuturesOrdered<Answering>,
    under_way_bytes: usize,
    output: BytesMut,
    date: Date,
    reading: Reading,
    /// When a request was last finished or an answer last taken: bytes alone, one by one, are no progress.
    progress: Instant,
}

impl Pipeline {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<End>> {
        loop {
            let read = self.poll_requests(cx)?;
            let answered = self.poll_answers(cx);
            let written = self.poll_write(cx)?;
            if self.under_way.is_empty() && self.output.is_empty() {
                match self.reading {
                    Reading::On => {}
                    Reading::Stopped => return Poll::Ready(Ok(End::HandOver)),
                    Reading::Done => return Poll::Ready(Ok(End::Closed)),
                }
            }
            // Each part that could not go on has left its waker; one that could may have made room for another.
            if read.is_pending() && answered.is_pending() && written.is_pending() {
                return Poll::Pending;
            }
        }
    }

    /// Takes requests, as many as there is room for. Ready if any came or the reading ended.
    fn poll_requests(&mut self, cx: &mut Context<'_>) -> io::Result<Poll<()>> {
        let mut taken = Poll::Pending;
        while self.reading == Reading::On
            && self.under_way.len() < UNDER_WAY_MAX
            && self.under_way_bytes < UNDER_WAY_BYTES_MAX
        {
            let before = self.input.len();
            match take(&mut self.input) {
                Taken::Request(request) => {
                    self.answer(*request, before - self.input.len());
                    self.progress = Instant::now();
                    taken = Poll::Ready(());
                    continue;
                }
                Taken::Other => {
                    self.reading = Reading::Stopped;
                    return Ok(Poll::Ready(()));
                }
                Taken::Partial => {}
            }
            self.input.reserve(READ_BYTES);
            match tokio_util::io::poll_read_buf(Pin::new(&mut self.stream), cx, &mut self.input)? {
                Poll::Ready(0) => {
                    self.reading = Reading::Done;
                    return Ok(Poll::Ready(()));
                }
                Poll::Ready(_) => {}
                Poll::Pending => {
                    if self.input.is_empty() {
                        // An idle connection holds no buffer.
                        self.input = BytesMut::new();
                    }
                    break;
                }
            }
        }
        Ok(taken)
    }

    /// Hands a request of so many bytes on.
    fn answer(&mut self, request: Request<Full<Bytes>>, bytes: usize) {
        self.under_way_bytes += bytes;
        let (node, connection) = (Arc::clone(&self.node), Arc::clone(&self.connection));
        // Unconstrained: a turn ended in between would let a later request overtake this one on its way to the log.
        self.under_way.push_back(Box::pin(unconstrained(async move {
            let (head, body) = publish::answer(&node, Some(&connection), request).await.into_parts();
            // Answers of publishes are whole in memory.
            let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
            (head, body, bytes)
        })));
    }

    /// Takes what is answered. Ready if anything was.
    fn poll_answers(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut any = Poll::Pending;
        while self.output.len() < ANSWER_BYTES_MAX
            && let Poll::Ready(Some((head, body, bytes))) = self.under_way.poll_next_unpin(cx)
        {
            self.under_way_bytes -= bytes;
            let close = head.headers.get(CONNECTION).is_some_and(|value| value.as_bytes() == b"close");
            encode(&head, &body, self.date.now(), &mut self.output);
            if close {
                self.reading = Reading::Done;
            }
            self.progress = Instant::now();
            any = Poll::Ready(());
        }
        any
    }

    /// Writes what waits. Ready if anything was written.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> io::Result<Poll<()>> {
        let mut any = Poll::Pending;
        while !self.output.is_empty() {
            match Pin::new(&mut self.stream).poll_write(cx, &self.output)? {
                Poll::Ready(0) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(count) => {
                    self.output.advance(count);
                    self.progress = Instant::now();
                    any = Poll::Ready(());
                }
                Poll::Pending => return Ok(any),
            }
        }
        if any.is_ready() && self.under_way.is_empty() {
            self.output = BytesMut::new();
        }
        Ok(any)
    }
}

/// What the read bytes begin with.
enum Taken {
    /// A publish that is served here; its bytes are taken.
    Request(Box<Request<Full<Bytes>>>),
    /// Something that hyper serves.
    Other,
    /// Not yet a whole request.
    Partial,
}

/// Takes one request from the front of what was read.
fn take(input: &mut BytesMut) -> Taken {
    if input.is_empty() {
        return Taken::Partial;
    }
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut head = httparse::Request::new(&mut headers);
    let head_len = match head.parse(input) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if input.len() < BUFFER_BYTES_MAX => return Taken::Partial,
        // Also what is no HTTP: hyper knows how to say so.
        Ok(httparse::Status::Partial) | Err(_) => return Taken::Other,
    };
    let Some((length, request)) = plain_publish(&head) else { return Taken::Other };
    if input.len() < head_len + length {
        return Taken::Partial;
    }
    input.advance(head_len);
    let body = input.split_to(length).freeze();
    Taken::Request(Box::new(request.map(|()| Full::new(body))))
}

/// The request and the length of its body, if it is a publish that is served here.
fn plain_publish(head: &httparse::Request<'_, '_>) -> Option<(usize, Request<()>)> {
    if head.method != Some("POST") || head.version != Some(1) {
        return None;
    }
    let target = head.path?;
    if hot(&Method::POST, target.split('?').next()?) != Some(Hot::Publish) {
        return None;
    }
    let mut headers = HeaderMap::with_capacity(head.headers.len());
    for header in head.headers.iter() {
        let name = HeaderName::from_bytes(header.name.as_bytes()).ok()?;
        headers.append(name, HeaderValue::from_bytes(header.value).ok()?);
    }
    if [TRANSFER_ENCODING, EXPECT, UPGRADE, CONNECTION].iter().any(|name| headers.contains_key(name)) {
        return None;
    }
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let (length, None) = (lengths.next()?, lengths.next()) else { return None };
    let digits = length.to_str().ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?;
    let length: usize = digits.parse().ok().filter(|length| *length <= BODY_BYTES_MAX)?;
    let mut request = Request::new(());
    *request.method_mut() = Method::POST;
    *request.uri_mut() = target.parse::<Uri>().ok()?;
    *request.version_mut() = Version::HTTP_11;
    *request.headers_mut() = headers;
    Some((length, request))
}

/// Writes an answer's head and body.
fn encode(head: &http::response::Parts, body: &[u8], date: &[u8], out: &mut BytesMut) {
    out.reserve(256 + body.len());
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(head.status.as_str().as_bytes());
    out.extend_from_slice(b" ");
    out.extend_from_slice(head.status.canonical_reason().unwrap_or_default().as_bytes());
    for (name, value) in head.headers.iter().filter(|(name, _)| *name != CONTENT_LENGTH) {
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(name.as_str().as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
    }
    out.extend_from_slice(b"\r\ncontent-length: ");
    out.extend_from_slice(itoa::Buffer::new().format(body.len()).as_bytes());
    out.extend_from_slice(b"\r\ndate: ");
    out.extend_from_slice(date);
    out.extend_from_slice(b"\r\n\r\n");
    out.extend_from_slice(body);
}

/// The `Date` of answers, made once a second (RFC 9110, section 6.6.1).
#[derive(Default)]
struct Date {
    text: String,
    made: Option<Instant>,
}

impl Date {
    fn now(&mut self) -> &[u8] {
        let now = Instant::now();
        if self.made.is_none_or(|made| now - made >= Duration::from_secs(1)) {
            self.text = httpdate::fmt_http_date(SystemTime::now());
            self.made = Some(now);
        }
        self.text.as_bytes()
    }
}

/// A socket of which something was read already.
pub(super) struct Prefixed {
    prefix: Bytes,
    stream: TcpStream,
}

impl Prefixed {
    /// The socket; what is left of the prefix is dropped.
    pub(super) fn into_stream(self) -> TcpStream {
        self.stream
    }
}

impl AsyncRead for Prefixed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.prefix.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buffer);
        }
        let count = self.prefix.len().min(buffer.remaining());
        buffer.put_slice(&self.prefix.split_to(count));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Prefixed {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(text: &str) -> (Taken, usize) {
        let mut input = BytesMut::from(text);
        let taken = take(&mut input);
        (taken, input.len())
    }

    #[test]
    fn whole_short_publishes_are_taken_one_by_one() {
        let one = "POST /streams/a.b/events?positions=1 HTTP/1.1\r\nhost: x\r\nContent-Length: 3\r\n\r\n{ }";
        let mut input = BytesMut::from(format!("{one}{one}").as_str());
        for left in [one.len(), 0] {
            let Taken::Request(request) = take(&mut input) else { panic!("not taken") };
            assert_eq!(request.uri(), "/streams/a.b/events?positions=1");
            assert_eq!(input.len(), left);
        }
        for cut in 1..one.len() {
            let (partial, left) = taken(&one[..cut]);
            assert!(matches!(partial, Taken::Partial) && left == cut, "cut at {cut}");
        }
    }

    #[test]
    fn all_else_is_left_to_hyper_untouched() {
        for (line, headers) in [
            ("GET /streams/a/events HTTP/1.1", "content-length: 0"),
            ("POST /subscriptions HTTP/1.1", "content-length: 0"),
            ("POST /streams/a/b/events HTTP/1.1", "content-length: 0"),
            ("POST /streams/a/events HTTP/1.0", "content-length: 0"),
            ("POST http://x/streams/a/events HTTP/1.1", "content-length: 0"),
            ("POST /streams/a/events HTTP/1.1", "transfer-encoding: chunked"),
            ("POST /streams/a/events HTTP/1.1", "content-length: 1\r\ncontent-length: 1"),
            ("POST /streams/a/events HTTP/1.1", "content-length: +1"),
            ("POST /streams/a/events HTTP/1.1", "content-length: 1\r\ntransfer-encoding: chunked"),
            ("POST /streams/a/events HTTP/1.1", "content-length: 1\r\nexpect: 100-continue"),
            ("POST /streams/a/events HTTP/1.1", "content-length: 1\r\nconnection: close"),
            ("POST /streams/a/events HTTP/1.1", "content-length: 1048576"),
            ("POST /streams/a/events HTTP/1.1", "content-length: 1\r\n bad: folding"),
            ("nonsense", ""),
        ] {
            let text = format!("{line}\r\nhost: x\r\n{headers}\r\n\r\n");
            let (other, left) = taken(&text);
            assert!(matches!(other, Taken::Other) && left == text.len(), "{line} {headers}");
        }
        let endless = format!("POST /streams/a/events HTTP/1.1\r\nx: {}", "y".repeat(BUFFER_BYTES_MAX));
        assert!(matches!(taken(&endless).0, Taken::Other));
    }
}
