//! Request bodies that an answer does not wait for.
//!
//! A call may be answered before its body was read: it was refused by its head. HTTP/1.1 then has to read the body
//! anyway or close the connection, and a client that keeps connections must be told that it closes (RFC 9112,
//! section 9.6), or its next request fails. So what a call leaves unread is kept, and once the answer is made a
//! short rest of it is read; if it is long or slow the answer says `Connection: close`.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::CONNECTION;
use http::{HeaderValue, Response};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;

use super::Body;

/// How much of an unread body is read, and for how long.
const BYTES_MAX: usize = 64 * 1024;
const TIME_MAX: Duration = Duration::from_millis(250);

/// A request's body, which when dropped leaves what is unread in [`Rest`].
#[derive(Debug)]
pub(super) struct Kept {
    body: Option<Incoming>,
    rest: Option<Rest>,
}

/// Where an unread body is left.
#[derive(Clone, Debug, Default)]
pub(super) struct Rest(Arc<Mutex<Option<Incoming>>>);

impl Kept {
    /// Keeps `body`; there is a rest only if it has anything to read.
    pub(super) fn new(body: Incoming) -> (Self, Option<Rest>) {
        let rest = (!body.is_end_stream()).then(Rest::default);
        (Self { body: Some(body), rest: rest.clone() }, rest)
    }
}

impl Rest {
    /// Reads what was left, or has `answer` say that the connection closes.
    pub(super) async fn settle(self, answer: &mut Response<Body>) {
        let left = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut body) = left else { return };
        let read = async {
            let mut bytes = 0;
            while let Some(frame) = body.frame().await {
                bytes +=
                    frame.ok().and_then(|frame| frame.into_data().ok()).map_or(BYTES_MAX, |data| data.len());
                if bytes > BYTES_MAX {
                    return false;
                }
            }
            true
        };
        if !tokio::time::timeout(TIME_MAX, read).await.unwrap_or(false) {
            answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if let (Some(body), Some(rest)) = (self.body.take(), &self.rest)
            && !body.is_end_stream()
        {
            *rest.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(body);
        }
    }
}

impl http_body::Body for Kept {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut self.body {
            Some(body) => Pin::new(body).poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Incoming::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), Incoming::size_hint)
    }
}
