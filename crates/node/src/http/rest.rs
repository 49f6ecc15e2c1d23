//! What is left of a request's body once the answer is known.
//!
//! A request that is refused by its head is answered before its body was read, often before it has arrived. HTTP/1.1
//! can go on with the next request on that connection only after the body (RFC 9112 section 9.3): so a small rest is
//! read and thrown away, and where that would take too much or too long, the answer says `connection: close`, so
//! that the client does not send its next request into a connection that ends. Closing without a word would also
//! reset the connection under bytes still coming in, and the client could lose the answer with them.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use http::header::{CONNECTION, EXPECT};
use http::{HeaderMap, HeaderValue, Version};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;

/// The most of a rest that is read.
const REST_BYTES_MAX: usize = 64 * 1024;

/// How long a rest may take to arrive.
const REST_TIME_MAX: Duration = Duration::from_secs(1);

/// Brings a connection to where the next request can begin, or says in `answer` that it ends.
pub(crate) async fn settle<B>(rest: &mut B, version: Version, asked: &HeaderMap, answer: &mut HeaderMap)
where
    B: Body<Data = Bytes> + Unpin,
{
    // HTTP/2 gives every request a stream of its own.
    if version >= Version::HTTP_2 || rest.is_end_stream() {
        return;
    }
    // A client that waits for 100 would send the whole body only because it is being read.
    let read = !asked.contains_key(EXPECT) && fits(&rest.size_hint()) && discard(rest).await;
    if !read {
        answer.insert(CONNECTION, HeaderValue::from_static("close"));
    }
}

fn fits(size: &SizeHint) -> bool {
    size.lower() <= REST_BYTES_MAX as u64
}

/// Reads to the end within the bounds; whether it got there.
async fn discard<B>(rest: &mut B) -> bool
where
    B: Body<Data = Bytes> + Unpin,
{
    let all = async {
        let mut left = REST_BYTES_MAX;
        while let Some(frame) = rest.frame().await {
            let Ok(frame) = frame else { return false };
            let length = frame.data_ref().map_or(0, Buf::remaining);
            if length > left {
                return false;
            }
            left -= length;
        }
        true
    };
    tokio::time::timeout(REST_TIME_MAX, all).await.unwrap_or(false)
}

/// A body lent to whoever answers; what they leave of it comes back.
pub(crate) struct Lent<B> {
    body: Option<B>,
    back: Back<B>,
}

/// Where a lent body comes back to.
pub(crate) struct Back<B>(Arc<Mutex<Option<B>>>);

impl<B> Lent<B> {
    /// Lends a body.
    pub(crate) fn new(body: B) -> (Self, Back<B>) {
        let back = Back(Arc::default());
        (Self { body: Some(body), back: Back(Arc::clone(&back.0)) }, back)
    }
}

impl<B> Back<B> {
    /// What came back; nothing if the body was read to its end, or is still being read.
    pub(crate) fn take(&self) -> Option<B> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl<B> Drop for Lent<B> {
    fn drop(&mut self) {
        *self.back.0.lock().unwrap_or_else(PoisonError::into_inner) = self.body.take();
    }
}

impl<B: Body + Unpin> Body for Lent<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        match &mut self.body {
            Some(body) => Pin::new(body).poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(SizeHint::default, Body::size_hint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::StreamExt;
    use futures_util::stream;

    async fn closes(body: axum::body::Body, version: Version, expect: bool) -> bool {
        let (mut lent, back) = Lent::new(body);
        // Whoever answers looks at the beginning, if at all.
        let _ = tokio::time::timeout(Duration::from_millis(1), lent.frame()).await;
        drop(lent);
        let (mut asked, mut answer) = (HeaderMap::new(), HeaderMap::new());
        if expect {
            asked.insert(EXPECT, HeaderValue::from_static("100-continue"));
        }
        if let Some(mut rest) = back.take() {
            settle(&mut rest, version, &asked, &mut answer).await;
        }
        answer.contains_key(CONNECTION)
    }

    fn pieces(count: usize) -> axum::body::Body {
        let piece = Bytes::from(vec![b'x'; 16 * 1024]);
        let pieces = stream::iter(vec![piece; count]).map(Ok::<_, std::io::Error>);
        axum::body::Body::from_stream(pieces)
    }

    #[tokio::test]
    async fn a_small_rest_is_read_and_a_large_or_slow_one_ends_the_connection() {
        assert!(!closes(axum::body::Body::empty(), Version::HTTP_11, false).await);
        assert!(!closes(axum::body::Body::from("whole"), Version::HTTP_11, false).await);
        assert!(!closes(pieces(4), Version::HTTP_11, false).await);
        assert!(closes(pieces(8), Version::HTTP_11, false).await);
        assert!(!closes(pieces(8), Version::HTTP_2, false).await);
        assert!(closes(pieces(3), Version::HTTP_11, true).await);
        let never = stream::pending::<Result<Bytes, std::io::Error>>();
        assert!(closes(axum::body::Body::from_stream(never), Version::HTTP_11, false).await);
    }
}
