//! The driver's side of HTTP/1.1: requests prepared once and patched in place, answers read with the least work.
//!
//! The driver shares the machine with what it measures, so it must cost far less: a request is a copied template
//! with new ids, an answer is a status line and a length. This is no HTTP client; it speaks to servers whose
//! answers it knows, and stops with an error at anything else.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// One connection: at most a few requests in flight, answered in order.
pub(super) struct Connection {
    socket: TcpStream,
    buffer: Vec<u8>,
    start: usize,
}

/// An answer's head. The body of `length` bytes has been read as well and is in the buffer.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: std::ops::Range<usize>,
}

impl Connection {
    pub(super) async fn open(address: SocketAddr) -> io::Result<Self> {
        let socket = TcpStream::connect(address).await?;
        socket.set_nodelay(true)?;
        Ok(Self { socket, buffer: Vec::with_capacity(4096), start: 0 })
    }

    pub(super) async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.socket.write_all(bytes).await
    }

    /// Reads one whole answer.
    pub(super) async fn answer(&mut self) -> io::Result<Answer> {
        let head = loop {
            if let Some(at) = memchr::memmem::find(&self.buffer[self.start..], b"\r\n\r\n") {
                break self.start..self.start + at + 4;
            }
            self.fill().await?;
        };
        let status = status(&self.buffer[head.clone()])?;
        let length = content_length(&self.buffer[head.clone()])
            .ok_or_else(|| io::Error::other("an answer without a length"))?;
        let length_before = self.buffer.len() - head.end;
        let mut missing = length.saturating_sub(length_before);
        // `fill` may move the buffer's content to its front: remember the head's length, not its place.
        let head_length = head.len();
        while missing > 0 {
            missing = missing.saturating_sub(self.fill().await?);
        }
        let body = self.start + head_length..self.start + head_length + length;
        self.start = body.end;
        Ok(Answer { status, body })
    }

    /// The bytes of an answer's body; valid until the next read.
    pub(super) fn body(&self, answer: &Answer) -> &[u8] {
        &self.buffer[answer.body.clone()]
    }

    /// Sends a request and reads its answer, which must be one of success.
    pub(super) async fn call(&mut self, request: &[u8]) -> io::Result<Vec<u8>> {
        self.send(request).await?;
        let answer = self.answer().await?;
        let body = self.body(&answer).to_vec();
        if !(200..300).contains(&answer.status) {
            let text = String::from_utf8_lossy(&body);
            return Err(io::Error::other(format!("the node answered {}: {text}", answer.status)));
        }
        Ok(body)
    }

    /// Reads the head of a streamed answer and hands the connection over to its body.
    pub(super) async fn stream(mut self, request: &[u8]) -> io::Result<Streamed> {
        self.send(request).await?;
        let head = loop {
            if let Some(at) = memchr::memmem::find(&self.buffer[self.start..], b"\r\n\r\n") {
                break self.start..self.start + at + 4;
            }
            self.fill().await?;
        };
        let text = self.buffer[head.clone()].to_ascii_lowercase();
        let status = status(&text)?;
        if status != 200 {
            return Err(io::Error::other(format!("the server answered {status} to a subscription")));
        }
        let chunked = memchr::memmem::find(&text, b"transfer-encoding: chunked").is_some();
        let rest = self.buffer.split_off(head.end);
        Ok(Streamed { socket: self.socket, chunked: chunked.then(Chunked::default), early: rest })
    }

    async fn fill(&mut self) -> io::Result<usize> {
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        match self.socket.read_buf(&mut self.buffer).await? {
            0 => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed the connection")),
            read => Ok(read),
        }
    }
}

fn status(head: &[u8]) -> io::Result<u16> {
    head.get(9..12)
        .and_then(|digits| std::str::from_utf8(digits).ok())
        .and_then(|digits| digits.parse().ok())
        .ok_or_else(|| io::Error::other("not an HTTP/1.1 answer"))
}

fn content_length(head: &[u8]) -> Option<usize> {
    const NAME: &[u8] = b"content-length:";
    head.split(|byte| *byte == b'\n').find_map(|line| {
        let (name, value) = line.split_at_checked(NAME.len())?;
        name.eq_ignore_ascii_case(NAME).then(|| std::str::from_utf8(value).ok()?.trim().parse().ok())?
    })
}

/// The body of a streamed answer.
pub(super) struct Streamed {
    socket: TcpStream,
    chunked: Option<Chunked>,
    early: Vec<u8>,
}

impl Streamed {
    /// Appends what has arrived, without HTTP's own framing, to `out`; false at the end of the body.
    pub(super) async fn read(&mut self, scratch: &mut Vec<u8>, out: &mut Vec<u8>) -> io::Result<bool> {
        scratch.clear();
        if self.early.is_empty() {
            if self.socket.read_buf(scratch).await? == 0 {
                return Ok(false);
            }
        } else {
            std::mem::swap(scratch, &mut self.early);
        }
        match &mut self.chunked {
            None => out.extend_from_slice(scratch),
            Some(chunked) => chunked.decode(scratch, out)?,
        }
        Ok(true)
    }
}

/// Undoes chunked transfer coding (RFC 9112, 7.1), incrementally; trailers are not expected.
#[derive(Default)]
struct Chunked {
    /// Bytes of the current chunk still to come.
    left: usize,
    /// The size line read so far, when between chunks.
    line: Vec<u8>,
}

impl Chunked {
    fn decode(&mut self, mut input: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        while !input.is_empty() {
            if self.left > 0 {
                let take = self.left.min(input.len());
                out.extend_from_slice(&input[..take]);
                self.left -= take;
                input = &input[take..];
                continue;
            }
            let Some(end) = memchr::memchr(b'\n', input) else {
                self.line.extend_from_slice(input);
                return Ok(());
            };
            self.line.extend_from_slice(&input[..end]);
            input = &input[end + 1..];
            let line = self.line.trim_ascii();
            // The empty line is the one that ends the chunk before.
            if !line.is_empty() {
                let size = line.split(|byte| *byte == b';').next().unwrap_or(line);
                self.left = std::str::from_utf8(size)
                    .ok()
                    .and_then(|size| usize::from_str_radix(size.trim(), 16).ok())
                    .ok_or_else(|| io::Error::other("a chunk without a size"))?;
            }
            self.line.clear();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_come_apart_wherever_the_reads_cut_them() {
        let coded = b"5\r\nhello\r\n1;x=y\r\n,\r\n6\r\n world\r\n0\r\n\r\n";
        for cut in 0..coded.len() {
            let mut chunked = Chunked::default();
            let mut out = Vec::new();
            chunked.decode(&coded[..cut], &mut out).unwrap();
            chunked.decode(&coded[cut..], &mut out).unwrap();
            assert_eq!(out, b"hello, world");
        }
    }

    #[test]
    fn lengths_are_found_in_any_case() {
        assert_eq!(content_length(b"HTTP/1.1 200 OK\r\nContent-Length: 42\r\n\r\n"), Some(42));
        assert_eq!(content_length(b"HTTP/1.1 200 OK\r\ncontent-length:7\r\n\r\n"), Some(7));
        assert_eq!(content_length(b"HTTP/1.1 200 OK\r\n\r\n"), None);
    }
}
