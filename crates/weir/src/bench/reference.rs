//! The yardstick: the least an HTTP server of the same kind (hyper, tokio, one write per event and subscriber) can do.
//! It stores nothing, checks nothing and forgets everything: POST answers at once and hands the body to whoever listens.
//!
//! Comparing the node to it in the same run tells what storing, checking and replayability cost, free of the machine's
//! mood.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use tokio::sync::mpsc;

type Subscribers = Arc<Mutex<Vec<mpsc::UnboundedSender<Bytes>>>>;

struct Events(mpsc::UnboundedReceiver<Bytes>);

impl hyper::body::Body for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(context).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}

/// Serves until the process is killed.
pub(super) async fn serve(address: SocketAddr) -> io::Result<()> {
    let listener = tokio::net::TcpListener::bind(address).await?;
    let subscribers = Subscribers::default();
    loop {
        let Ok((socket, _)) = listener.accept().await else { continue };
        socket.set_nodelay(true)?;
        let subscribers = subscribers.clone();
        let service = hyper::service::service_fn(move |request| answer(request, subscribers.clone()));
        tokio::spawn(async move {
            let http = hyper::server::conn::http1::Builder::new();
            let _ = http.serve_connection(TokioIo::new(socket), service).await;
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    subscribers: Subscribers,
) -> Result<Response<BoxBody<Bytes, Infallible>>, Infallible> {
    let list = || subscribers.lock().unwrap_or_else(PoisonError::into_inner);
    if request.method() == Method::POST {
        let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        let mut event = BytesMut::with_capacity(body.len() + 8);
        event.put_slice(b"data: ");
        event.put_slice(&body);
        event.put_slice(b"\n\n");
        let event = event.freeze();
        list().retain(|subscriber| subscriber.send(event.clone()).is_ok());
        return Ok(Response::new(BoxBody::new(Full::new(Bytes::from_static(b"{}")))));
    }
    if request.uri().path().ends_with("/events") {
        let (sender, receiver) = mpsc::unbounded_channel();
        list().push(sender);
        return Ok(Response::new(BoxBody::new(Events(receiver))));
    }
    Ok(Response::new(BoxBody::new(Full::new(Bytes::new()))))
}
