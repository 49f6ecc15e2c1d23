//! The accept loop and the connections.
//!
//! A listener's sockets come in here and become HTTP/1.1 or HTTP/2 (prior knowledge) connections; every request
//! goes through [`Service`]: publishing and reading events, the hot paths, are recognised by their path and served
//! directly, all else goes to the router of `http/`.
//!
//! What it promises:
//!
//! - Bounded: at most [`Bounds::connections_max`] connections (the loop then leaves newcomers in the kernel's
//!   backlog), a head within [`Bounds::head_timeout`] and [`BUFFER_BYTES_MAX`], little memory per idle connection.
//! - Publishes that a connection sends without waiting are served together ([`pipeline`]).
//! - Dedicated connections: over HTTP/1.1 a push delivery does not stream through hyper. The request's future
//!   hands an [`Outlet`] to its [`Connection`], hyper gives the socket back, and the outlet writes to it until it
//!   ends. That costs a few hundred bytes per idle consumer instead of two 8 KiB buffers, one `writev` per turn
//!   without copies, and above all it leaves nothing between a revocation and the socket: the outlet waits for
//!   both, also while a write blocks, and resets the connection (invariant 5).
//! - Over HTTP/2 a delivery is a response body; a revocation that the peer does not let through within
//!   [`RESET_AFTER`] resets the whole connection ([`Connection::reset`]).
//! - Graceful stop: once `closing` is cancelled nothing is accepted, idle connections close, requests under way
//!   are answered, deliveries end by themselves; [`serve`] returns when all are gone or after
//!   [`Bounds::drain_timeout`], whichever is first.
//!
//! TLS is not here yet: it becomes one more step between accepting and [`connection`].

mod pipeline;
mod unread;

use std::convert::Infallible;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http::{Request, Response};
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use crate::Node;
use crate::deliver::outlet::{self, Outlet};
use crate::http::{events, publish};
use unread::Kept;

/// The most that is buffered of a request's head, and per read of a body. A connection starts with 8 KiB.
const BUFFER_BYTES_MAX: usize = 64 * 1024;

/// How long a revoked delivery may take to end by itself before its connection is reset. Well below the second
/// that a revocation may take in all.
pub(crate) const RESET_AFTER: Duration = Duration::from_millis(250);

/// Streams that one HTTP/2 connection may have open.
const HTTP2_STREAMS_MAX: u32 = 128;

/// What the accept loop holds to.
#[derive(Clone, Debug)]
pub(crate) struct Bounds {
    /// Connections open at the same time.
    pub(crate) connections_max: usize,
    /// For a request's head, and between two requests.
    pub(crate) head_timeout: Duration,
    /// For requests under way when the node stops.
    pub(crate) drain_timeout: Duration,
}

/// Accepts connections until `closing`, then waits for those that are open; returns whether all ended in time.
pub(crate) async fn serve(
    node: Arc<Node>,
    listener: TcpListener,
    bounds: Bounds,
    closing: CancellationToken,
) -> bool {
    let router = crate::http::router(Arc::clone(&node));
    let seats = Arc::new(Semaphore::new(bounds.connections_max.min(Semaphore::MAX_PERMITS)));
    let tasks = TaskTracker::new();
    while let Some((stream, peer, seat)) = accept(&node, &listener, &seats, &closing).await {
        node.metrics().connections_accepted.inc();
        let service = Service {
            connection: Arc::new(Connection::new(peer)),
            node: Arc::clone(&node),
            router: router.clone(),
        };
        let seat = Seat::taken(seat, &node);
        tasks.spawn(connection(stream, service, seat, bounds.head_timeout, closing.clone(), tasks.clone()));
    }
    drop(listener);
    tasks.close();
    tokio::time::timeout(bounds.drain_timeout, tasks.wait()).await.is_ok()
}

/// The next connection; `None` once the node is closing.
async fn accept(
    node: &Node,
    listener: &TcpListener,
    seats: &Arc<Semaphore>,
    closing: &CancellationToken,
) -> Option<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let seat = match Arc::clone(seats).try_acquire_owned() {
        Ok(seat) => seat,
        Err(_) => {
            node.metrics().connections_full.inc();
            tracing::warn!("all connections are taken, new ones wait");
            tokio::select! {
                seat = Arc::clone(seats).acquire_owned() => seat.ok()?,
                () = closing.cancelled() => return None,
            }
        }
    };
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = closing.cancelled() => return None,
        };
        match accepted {
            Ok((stream, peer)) => {
                if let Err(error) = stream.set_nodelay(true) {
                    // The peer is gone already.
                    tracing::debug!(%error, "connection lost before it was served");
                    continue;
                }
                return Some((stream, peer, seat));
            }
            // A connection that ended in the backlog, or no file descriptor left: the next attempt may succeed,
            // but not at once.
            Err(error) => {
                tracing::warn!(%error, "accepting a connection failed");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// A place among the bounded connections, given back when dropped.
struct Seat {
    _permit: OwnedSemaphorePermit,
    node: Arc<Node>,
}

impl Seat {
    fn taken(permit: OwnedSemaphorePermit, node: &Arc<Node>) -> Self {
        node.metrics().connections_open.inc();
        Self { _permit: permit, node: Arc::clone(node) }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.node.metrics().connections_open.dec();
    }
}

/// Serves one connection to its end.
async fn connection(
    stream: TcpStream,
    service: Service,
    seat: Seat,
    head_timeout: Duration,
    closing: CancellationToken,
    tasks: TaskTracker,
) {
    let preface = tokio::select! {
        preface = tokio::time::timeout(head_timeout, speaks_http2(&stream)) => preface,
        () = closing.cancelled() => return,
    };
    match preface {
        Ok(Ok(true)) => Box::pin(serve_http2(stream, service, head_timeout, closing)).await,
        Ok(Ok(false)) => {
            let taken = Box::pin(serve_http1(stream, service, head_timeout, closing)).await;
            if let Some((stream, outlet)) = taken {
                // A task of its own, so that what HTTP needed of this one is given back.
                tasks.spawn(async move {
                    outlet.run(stream).await;
                    drop(seat);
                });
            }
        }
        Ok(Err(error)) => tracing::debug!(%error, "connection ended before its first request"),
        Err(_) => tracing::debug!("connection sent nothing in time"),
    }
}

/// Whether the peer begins with the preface of HTTP/2, without taking anything from the socket.
///
/// Three bytes decide: no method of HTTP/1.1 begins with `PRI` (RFC 9113, section 3.4).
async fn speaks_http2(stream: &TcpStream) -> std::io::Result<bool> {
    let mut start = [0; 3];
    loop {
        let count = stream.peek(&mut start).await?;
        if count == 0 || start[..count] != b"PRI"[..count] {
            return Ok(false);
        }
        if count == start.len() {
            return Ok(true);
        }
        // What is there stays readable, so readiness can't tell when more arrives.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Serves HTTP/1.1 until the connection ends or a request takes it over.
async fn serve_http1(
    stream: TcpStream,
    service: Service,
    head_timeout: Duration,
    closing: CancellationToken,
) -> Option<(TcpStream, Outlet)> {
    let handle = Arc::clone(&service.connection);
    // Boxed, so that it costs nothing once another request than a publish has come.
    let publishes = pipeline::serve(stream, &service.node, &handle, head_timeout, &closing);
    let stream = Box::pin(publishes).await?;
    let mut http = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(head_timeout)
        .max_buf_size(BUFFER_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let outlet = {
        let mut closed = pin!(closing.cancelled());
        let mut stopping = false;
        poll_fn(|cx| {
            if !stopping && closed.as_mut().poll(cx).is_ready() {
                stopping = true;
                Pin::new(&mut http).graceful_shutdown();
            }
            match http.poll_without_shutdown(cx) {
                Poll::Ready(Ok(())) => Poll::Ready(None),
                Poll::Ready(Err(error)) => {
                    tracing::debug!(%error, "connection ended");
                    Poll::Ready(None)
                }
                Poll::Pending => match handle.taken() {
                    Some(outlet) => Poll::Ready(Some(outlet)),
                    None => Poll::Pending,
                },
            }
        })
        .await
    };
    let stream = http.into_parts().io.into_inner().into_stream();
    match outlet {
        Some(outlet) => Some((stream, outlet)),
        None => {
            linger_out(stream).await;
            None
        }
    }
}

/// Closes a connection so that the peer gets the whole answer although it may still be sending: a close with
/// unread bytes would reset it (RFC 9112, section 9.6).
pub(crate) async fn linger_out(mut stream: TcpStream) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    if stream.shutdown().await.is_err() {
        return;
    }
    let mut scrap = [0; 2048];
    let mut left: usize = 1 << 20;
    let drain = async {
        while let Ok(count) = stream.read(&mut scrap).await {
            left = left.saturating_sub(count);
            if count == 0 || left == 0 {
                break;
            }
        }
    };
    let _ = tokio::time::timeout(Duration::from_millis(500), drain).await;
}

/// Serves HTTP/2 until the connection ends or is reset.
async fn serve_http2(
    stream: TcpStream,
    service: Service,
    head_timeout: Duration,
    closing: CancellationToken,
) {
    let handle = Arc::clone(&service.connection);
    handle.shared.store(true, Ordering::Relaxed);
    // A socket can't be reached inside hyper, so a second handle to it sets how it closes.
    let lingering = socket2::SockRef::from(&stream).try_clone();
    let http = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(HTTP2_STREAMS_MAX)
        .initial_stream_window_size(256 * 1024)
        .initial_connection_window_size(1024 * 1024)
        .max_send_buf_size(64 * 1024)
        .max_header_list_size(16 * 1024)
        .keep_alive_interval(head_timeout)
        .serve_connection(TokioIo::new(stream), service);
    let mut http = pin!(http);
    let mut closed = pin!(closing.cancelled());
    let mut stopping = false;
    let reset = poll_fn(|cx| {
        if handle.poll_reset(cx) {
            return Poll::Ready(true);
        }
        if !stopping && closed.as_mut().poll(cx).is_ready() {
            stopping = true;
            http.as_mut().graceful_shutdown();
        }
        http.as_mut().poll(cx).map(|outcome| {
            if let Err(error) = outcome {
                tracing::debug!(%error, "connection ended");
            }
            false
        })
    })
    .await;
    if reset && let Ok(socket) = lingering {
        let _ = socket.set_linger(Some(Duration::ZERO));
    }
}

/// One connection as its requests see it; part of every request's extensions.
#[derive(Debug)]
pub struct Connection {
    peer: SocketAddr,
    shared: AtomicBool,
    taken: Mutex<Option<Outlet>>,
    reset: AtomicBool,
    waker: AtomicWaker,
}

impl Connection {
    fn new(peer: SocketAddr) -> Self {
        Self {
            peer,
            shared: AtomicBool::new(false),
            taken: Mutex::new(None),
            reset: AtomicBool::new(false),
            waker: AtomicWaker::new(),
        }
    }

    /// The other end.
    #[must_use]
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Whether requests share the connection (HTTP/2). Only one that isn't shared can be taken over.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.shared.load(Ordering::Relaxed)
    }

    /// Makes the connection `outlet`'s own. The request's future must stay pending: HTTP ends here.
    pub(crate) fn take_over(&self, outlet: Outlet) {
        *self.taken.lock().unwrap_or_else(PoisonError::into_inner) = Some(outlet);
    }

    fn taken(&self) -> Option<Outlet> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Resets the connection: what waits in its buffers is not sent any more.
    pub(crate) fn reset(&self) {
        self.reset.store(true, Ordering::Release);
        self.waker.wake();
    }

    fn poll_reset(&self, cx: &mut Context<'_>) -> bool {
        self.waker.register(cx.waker());
        self.reset.load(Ordering::Acquire)
    }
}

/// The body of every answer.
#[derive(Debug)]
pub enum Body {
    /// All of it, or nothing.
    Full(Option<Bytes>),
    /// A delivery over HTTP/2.
    Delivery(Box<outlet::Body>),
    /// What the router answered.
    Router(axum::body::Body),
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self::Full((!bytes.is_empty()).then_some(bytes))
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        match self.get_mut() {
            Self::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Delivery(body) => Pin::new(&mut **body).poll_frame(cx).map_err(axum::Error::new),
            Self::Router(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Full(bytes) => bytes.is_none(),
            Self::Delivery(_) => false,
            Self::Router(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Delivery(_) => SizeHint::new(),
            Self::Router(body) => body.size_hint(),
        }
    }
}

/// Answers the requests of one connection.
struct Service {
    node: Arc<Node>,
    connection: Arc<Connection>,
    router: axum::Router,
}

impl hyper::service::Service<Request<Incoming>> for Service {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let (node, connection) = (Arc::clone(&self.node), Arc::clone(&self.connection));
        let kind = hot(request.method(), request.uri().path());
        let router = kind.is_none().then(|| self.router.clone());
        let (head, body) = request.into_parts();
        let (body, rest) = Kept::new(body);
        let mut request = Request::from_parts(head, body);
        Box::pin(async move {
            let mut answer = match (kind, router) {
                (Some(Hot::Publish), _) => publish::answer(&node, Some(&connection), request).await,
                (Some(Hot::Events), _) => events::answer(&node, Some(&connection), request).await,
                (None, Some(router)) => {
                    request.extensions_mut().insert(crate::http::Peer(connection.peer()));
                    request.extensions_mut().insert(connection);
                    router.oneshot(request.map(axum::body::Body::new)).await?.map(Body::Router)
                }
                (None, None) => Response::new(Body::Full(None)),
            };
            if let Some(rest) = rest {
                rest.settle(&mut answer).await;
            }
            Ok(answer)
        })
    }
}

/// The calls that bypass the router.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hot {
    /// `POST /streams/{name}/events`.
    Publish,
    /// `GET /streams/{name}/events` and `GET /subscriptions/{id}/events`.
    Events,
}

fn hot(method: &http::Method, path: &str) -> Option<Hot> {
    let of_stream = path.strip_prefix("/streams/");
    let owner = of_stream.or_else(|| path.strip_prefix("/subscriptions/"))?.strip_suffix("/events")?;
    if owner.is_empty() || owner.contains('/') {
        return None;
    }
    match *method {
        http::Method::POST if of_stream.is_some() => Some(Hot::Publish),
        http::Method::GET => Some(Hot::Events),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Method;

    #[test]
    fn only_events_bypass_the_router() {
        assert_eq!(hot(&Method::POST, "/streams/a.b/events"), Some(Hot::Publish));
        assert_eq!(hot(&Method::GET, "/streams/a.b/events"), Some(Hot::Events));
        assert_eq!(hot(&Method::GET, "/subscriptions/x/events"), Some(Hot::Events));
        for (method, path) in [
            (Method::POST, "/subscriptions/x/events"),
            (Method::PUT, "/streams/a/events"),
            (Method::GET, "/streams/a/b/events"),
            (Method::GET, "/streams//events"),
            (Method::GET, "/streams/events"),
            (Method::GET, "/streams/a"),
        ] {
            assert_eq!(hot(&method, path), None, "{method} {path}");
        }
    }

    #[tokio::test]
    async fn the_preface_is_told_by_three_bytes_however_they_arrive() {
        use tokio::io::AsyncWriteExt;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        for (parts, expected) in
            [(vec!["P", "RI * HTTP/2.0"], true), (vec!["P", "OST / HTTP/1.1"], false), (vec!["GET"], false)]
        {
            let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (server, _) = listener.accept().await.unwrap();
            let told = tokio::spawn(async move { speaks_http2(&server).await });
            for part in parts {
                client.write_all(part.as_bytes()).await.unwrap();
                tokio::task::yield_now().await;
            }
            assert_eq!(told.await.unwrap().unwrap(), expected);
        }
    }
}
