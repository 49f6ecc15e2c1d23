//! STREAM: the frames in which nodes and SDKs are sent stored runs as they are.
//!
//! A frame is a length of four bytes (of all that follows, most significant byte first), a kind of one byte and a
//! payload; integers are big-endian. A *run* holds events with consecutive positions exactly as they are stored, so
//! that a node sends them without looking inside; heartbeats, notices, states and the end are JSON. Kinds that a
//! reader does not know are passed over by their length, so that later versions can add some.
//!
//! ```text
//! frame      u32 length · u8 kind · payload          length = 1 + payload, at most 8 MiB
//! 1 run      u8 n · n bytes stream name · u64 history · u64 first · u32 count · u64 time (ms) · u8 encoding · body
//! 2 heartbeat {"head":41,"history":"…","at":40}
//! 3 notice    {"skipped":{"from":2,"to":9},"reason":"retention"} or {"history":{"was":"…","now":"…"},"head":41}
//! 4 end       {"reason":"revoked","detail":"…"}
//! 5 state     {"state":"requested"}
//! ```
//!
//! No I/O: [`Decoder`] is fed whatever bytes arrived and gives the frames that are whole. It holds at most one
//! frame beside what it was last fed, and refuses a length beyond the limit before waiting for its bytes. What a
//! decoder cannot read it reports once and for ever: after a frame that is none, no later byte has a meaning.
//! `testdata/stream_vectors.json` fixes the bytes.

use bytes::{Buf, Bytes, BytesMut};

use crate::error::{Error, Kind};
use crate::flow::{History, Position, StreamName, Time};

/// The greatest length a frame may announce: kind and payload.
pub const BYTES_MAX: usize = 8 << 20;
/// The greatest body of a run, whatever its stream is called.
pub const BODY_MAX: usize = BYTES_MAX - 1 - RUN_BYTES - StreamName::BYTES_MAX;

/// A run of stored events.
pub const RUN: u8 = 1;
/// How far the stream and this delivery are.
pub const HEARTBEAT: u8 = 2;
/// Positions that will not come, or another history.
pub const NOTICE: u8 = 3;
/// Why nothing more comes.
pub const END: u8 = 4;
/// What became of the subscription.
pub const STATE: u8 = 5;

/// The encoding of a run whose body is one CloudEvents protobuf batch ([`crate::proto::batch`]).
pub const EVENTS: u8 = 1;

/// Bytes of a run's payload but for its name and body.
const RUN_BYTES: usize = 1 + 8 + 8 + 4 + 8 + 1;

/// What a run says of its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head<'a> {
    /// The stream's name, at most [`StreamName::BYTES_MAX`] bytes.
    pub stream: &'a str,
    /// The history its positions belong to.
    pub history: History,
    /// The position of the first event.
    pub first: Position,
    /// How many events.
    pub count: u32,
    /// When they were appended.
    pub time: Time,
    /// How the body is encoded: [`EVENTS`].
    pub encoding: u8,
}

/// Appends a run. Error: the body is beyond [`BODY_MAX`] or the name longer than a stream's can be; nothing is
/// appended then.
pub fn push_run(head: &Head<'_>, body: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
    push_run_head(head, body.len(), out)?;
    out.extend_from_slice(body);
    Ok(())
}

/// [`push_run`] without the body: for a caller that writes the `body_len` bytes of it from where they lie.
pub fn push_run_head(head: &Head<'_>, body_len: usize, out: &mut Vec<u8>) -> Result<(), Error> {
    let name = head.stream.as_bytes();
    let Some(name_len) =
        u8::try_from(name.len()).ok().filter(|len| usize::from(*len) <= StreamName::BYTES_MAX)
    else {
        return Err(Error::malformed("the stream's name is too long for a run"));
    };
    let length = 1 + RUN_BYTES + name.len() + body_len;
    out.reserve(4 + length);
    push_length(length, out)?;
    out.extend_from_slice(&[RUN, name_len]);
    out.extend_from_slice(name);
    out.extend_from_slice(&head.history.0.to_be_bytes());
    out.extend_from_slice(&head.first.0.to_be_bytes());
    out.extend_from_slice(&head.count.to_be_bytes());
    out.extend_from_slice(&head.time.0.to_be_bytes());
    out.push(head.encoding);
    Ok(())
}

/// Appends a frame of any kind. Error: the payload makes it longer than [`BYTES_MAX`]; nothing is appended then.
pub fn push(kind: u8, payload: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
    push_length(1 + payload.len(), out)?;
    out.push(kind);
    out.extend_from_slice(payload);
    Ok(())
}

fn push_length(length: usize, out: &mut Vec<u8>) -> Result<(), Error> {
    match u32::try_from(length) {
        Ok(short) if length <= BYTES_MAX => {
            out.extend_from_slice(&short.to_be_bytes());
            Ok(())
        }
        _ => Err(too_large(length)),
    }
}

/// A frame that arrived whole. The JSON kinds hold their payload as it came; who reads it ignores members it
/// does not know.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Frame {
    /// [`RUN`]
    Run(Run),
    /// [`HEARTBEAT`]
    Heartbeat(Bytes),
    /// [`NOTICE`]
    Notice(Bytes),
    /// [`END`]
    End(Bytes),
    /// [`STATE`]
    State(Bytes),
}

/// A run that arrived. The decoder has checked that it holds at least one event's positions and that they are
/// positions; what the body holds is for its reader to check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// The stream's name.
    pub stream: StreamName,
    /// The history its positions belong to.
    pub history: History,
    /// The position of the first event.
    pub first: Position,
    /// How many events, at least one.
    pub count: u32,
    /// When they were appended.
    pub time: Time,
    /// How the body is encoded; [`EVENTS`] is all that is known now.
    pub encoding: u8,
    /// The stored bytes.
    pub body: Bytes,
}

impl Run {
    /// The position of the last event.
    #[must_use]
    pub fn last(&self) -> Position {
        self.first.plus(u64::from(self.count)).previous()
    }

    /// What the run says of its body.
    #[must_use]
    pub fn head(&self) -> Head<'_> {
        let Run { history, first, count, time, encoding, .. } = *self;
        Head { stream: self.stream.as_str(), history, first, count, time, encoding }
    }
}

/// Makes frames of bytes as they arrive.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: BytesMut,
    failed: Option<Error>,
}

impl Decoder {
    /// A decoder at the beginning of a connection.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes bytes that arrived.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.failed.is_none() {
            self.buffer.extend_from_slice(bytes);
        }
    }

    /// The next frame that is whole; `None` if more bytes are needed. After an error, the same error for ever.
    #[allow(clippy::should_implement_trait, reason = "an iterator would end where more bytes are needed")]
    pub fn next(&mut self) -> Result<Option<Frame>, Error> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        self.read().inspect_err(|error| {
            self.failed = Some(error.clone());
            self.buffer = BytesMut::new();
        })
    }

    /// Whether the bytes given end with a whole frame: where a connection may end.
    #[must_use]
    pub fn is_at_boundary(&self) -> bool {
        self.buffer.is_empty() && self.failed.is_none()
    }

    fn read(&mut self) -> Result<Option<Frame>, Error> {
        while let Some(length) = self.buffer.first_chunk::<4>() {
            let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
            if length == 0 {
                return Err(Error::malformed("a frame has length 0; expected at least its kind"));
            }
            if length > BYTES_MAX {
                return Err(too_large(length));
            }
            if self.buffer.len() < 4 + length {
                self.buffer.reserve(4 + length - self.buffer.len());
                return Ok(None);
            }
            self.buffer.advance(4);
            let mut payload = self.buffer.split_to(length).freeze();
            return Ok(Some(match payload.get_u8() {
                RUN => Frame::Run(read_run(payload)?),
                HEARTBEAT => Frame::Heartbeat(payload),
                NOTICE => Frame::Notice(payload),
                END => Frame::End(payload),
                STATE => Frame::State(payload),
                _ => continue,
            }));
        }
        Ok(None)
    }
}

fn read_run(mut payload: Bytes) -> Result<Run, Error> {
    let short = || Error::malformed("a run is cut short");
    let name_len = usize::from(payload.try_get_u8().map_err(|_| short())?);
    if payload.len() < name_len {
        return Err(short());
    }
    let name = payload.split_to(name_len);
    let stream = std::str::from_utf8(&name).ok().and_then(|name| name.parse().ok());
    let stream = stream.ok_or_else(|| Error::malformed("a run names no stream: its name is not one"))?;
    let history = History(payload.try_get_u64().map_err(|_| short())?);
    let first = Position(payload.try_get_u64().map_err(|_| short())?);
    let count = payload.try_get_u32().map_err(|_| short())?;
    let time = Time(payload.try_get_u64().map_err(|_| short())?);
    let encoding = payload.try_get_u8().map_err(|_| short())?;
    if first.is_none() || count == 0 || first.0.checked_add(u64::from(count)).is_none() {
        return Err(Error::malformed("a run has no position: its first or its count is impossible"));
    }
    Ok(Run { stream, history, first, count, time, encoding, body: payload })
}

#[cold]
fn too_large(length: usize) -> Error {
    Error::new(Kind::TooLarge, format!("a frame of {length} bytes is more than the {BYTES_MAX} allowed"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    const VECTORS: &str = include_str!("../testdata/stream_vectors.json");

    fn unhex(text: &str) -> Vec<u8> {
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
    }

    fn decode(bytes: &[u8]) -> Result<Vec<Frame>, Error> {
        let mut decoder = Decoder::new();
        decoder.push(bytes);
        let mut frames = Vec::new();
        while let Some(frame) = decoder.next()? {
            frames.push(frame);
        }
        assert!(decoder.is_at_boundary());
        Ok(frames)
    }

    fn encode(frame: &Frame) -> Vec<u8> {
        let mut out = Vec::new();
        match frame {
            Frame::Run(run) => push_run(&run.head(), &run.body, &mut out),
            Frame::Heartbeat(json) => push(HEARTBEAT, json, &mut out),
            Frame::Notice(json) => push(NOTICE, json, &mut out),
            Frame::End(json) => push(END, json, &mut out),
            Frame::State(json) => push(STATE, json, &mut out),
        }
        .unwrap();
        out
    }

    /// A frame as the vectors describe it.
    fn meaning(frame: &Frame) -> Value {
        let json = |kind: &str, payload: &Bytes| serde_json::json!({"kind": kind, "payload": std::str::from_utf8(payload).unwrap()});
        match frame {
            Frame::Run(run) => {
                let events: Vec<Value> = crate::proto::batch(&run.body)
                    .map(|bytes| {
                        let mut out = Vec::new();
                        crate::json::encode(&crate::proto::decode(bytes.unwrap()).unwrap(), None, &mut out);
                        serde_json::from_slice(&out).unwrap()
                    })
                    .collect();
                serde_json::json!({
                    "kind": "run", "stream": run.stream, "history": run.history, "first": run.first,
                    "count": run.count, "time": run.time, "encoding": run.encoding, "events": events,
                })
            }
            Frame::Heartbeat(payload) => json("heartbeat", payload),
            Frame::Notice(payload) => json("notice", payload),
            Frame::End(payload) => json("end", payload),
            Frame::State(payload) => json("state", payload),
        }
    }

    #[test]
    fn the_vectors_hold() {
        let vectors: Value = serde_json::from_str(VECTORS).unwrap();
        for vector in vectors["frames"].as_array().unwrap() {
            let (name, bytes) = (&vector["name"], unhex(vector["hex"].as_str().unwrap()));
            let frames = decode(&bytes).unwrap();
            let expected = vector["decoded"].as_array().unwrap();
            assert_eq!(&frames.iter().map(meaning).collect::<Vec<_>>(), expected, "{name}");
            if vector["canonical"] != Value::Bool(false) {
                assert_eq!(frames.iter().flat_map(encode).collect::<Vec<_>>(), bytes, "{name}");
            }
        }
        for vector in vectors["errors"].as_array().unwrap() {
            let mut decoder = Decoder::new();
            decoder.push(&unhex(vector["hex"].as_str().unwrap()));
            let error = decoder.next().unwrap_err();
            decoder.push(b"\0\0\0\x03\x02{}");
            assert_eq!(decoder.next().unwrap_err(), error, "{}", vector["name"]);
            assert!(!decoder.is_at_boundary());
        }
    }

    #[test]
    fn the_longest_frame_passes_and_a_longer_one_does_not() {
        let name = "n".repeat(StreamName::BYTES_MAX);
        let (history, first, time) = (History(1), Position(1), Time(0));
        let head = Head { stream: &name, history, first, count: 1, time, encoding: EVENTS };
        let mut out = Vec::new();
        push_run(&head, &vec![7; BODY_MAX], &mut out).unwrap();
        assert_eq!(out.len(), 4 + BYTES_MAX);
        assert!(matches!(&decode(&out).unwrap()[..], [Frame::Run(run)] if run.body.len() == BODY_MAX));
        let len = out.len();
        assert_eq!(push_run(&head, &vec![7; BODY_MAX + 1], &mut out).unwrap_err().kind(), Kind::TooLarge);
        assert_eq!(push(END, &vec![b' '; BYTES_MAX], &mut out).unwrap_err().kind(), Kind::TooLarge);
        let long = "n".repeat(StreamName::BYTES_MAX + 1);
        assert!(push_run(&Head { stream: &long, ..head }, b"", &mut out).is_err());
        assert_eq!(out.len(), len, "an error appends nothing");
    }

    fn frame() -> impl Strategy<Value = Frame> {
        let body = prop::collection::vec(any::<u8>(), 0..300).prop_map(Bytes::from);
        let run = (
            "[a-z0-9_-]{1,9}(\\.[a-z]{1,9}){0,3}",
            any::<u64>(),
            1..u64::MAX / 2,
            1u32..,
            any::<u64>(),
            any::<u8>(),
            body.clone(),
        )
            .prop_map(|(stream, history, first, count, time, encoding, body)| {
                let stream = stream.parse().unwrap();
                let (history, first, time) = (History(history), Position(first), Time(time));
                Frame::Run(Run { stream, history, first, count, time, encoding, body })
            });
        prop_oneof![
            run,
            body.clone().prop_map(Frame::Heartbeat),
            body.clone().prop_map(Frame::Notice),
            body.clone().prop_map(Frame::End),
            body.prop_map(Frame::State),
        ]
    }

    proptest! {
        /// However the bytes are cut on the way, and whatever later kinds stand between.
        #[test]
        fn frames_arrive_however_they_are_cut(frames in prop::collection::vec(frame(), 0..8), unknown in 6u8.., cuts in prop::collection::vec(1usize..200, 1..20)) {
            let mut bytes = Vec::new();
            for frame in &frames {
                push(unknown, b"later", &mut bytes).unwrap();
                bytes.extend(encode(frame));
            }
            let mut decoder = Decoder::new();
            let mut arrived = Vec::new();
            let mut rest = &bytes[..];
            for cut in cuts.iter().cycle() {
                while let Some(frame) = decoder.next().unwrap() { arrived.push(frame); }
                if rest.is_empty() { break; }
                let (piece, later) = rest.split_at(rest.len().min(*cut));
                decoder.push(piece);
                rest = later;
            }
            prop_assert_eq!(arrived, frames);
            prop_assert!(decoder.is_at_boundary());
        }

        #[test]
        fn arbitrary_bytes_do_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..100), short: bool) {
            let mut decoder = Decoder::new();
            // Most random lengths are too long; with a short one the payload is reached.
            if short { decoder.push(&[0, 0, 0, 40, RUN]); }
            decoder.push(&bytes);
            while let Ok(Some(_)) = decoder.next() {}
        }
    }
}
