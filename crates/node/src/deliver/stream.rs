//! STREAM: stored runs as they are, in frames (`docs/protocol/stream.md`).
//!
//! A run's bytes go out unparsed unless rules choose among its events or change their form. Neighbouring runs
//! that were appended in the same millisecond travel in one frame, long ones are cut, so that a frame is about
//! [`FRAME_BYTES`] long whether publishers send one event at a time or ten thousand.

use std::ops::Range;

use bytes::Bytes;
use weir_event::{frame, proto};
use weir_log::{Encoding, Run};

use super::block::{Block, Chosen, Encoded, Part};
use super::rules::Rules;
use super::{End, Heartbeat, Notice, State};

/// How many bytes of events a frame aims at: enough to make its head negligible, little enough that a slow
/// consumer in the middle of one holds little.
const FRAME_BYTES: usize = 32 * 1024;

/// The chosen events `numbers` of a block; a part is a frame.
pub(super) fn runs(
    block: &Block,
    chosen: &Chosen,
    rules: &Rules,
    name: &str,
    numbers: Range<u32>,
) -> Encoded {
    let mut frames = Frames { name, out: Vec::with_capacity(block.bytes() + 256), ..Frames::default() };
    if chosen.is_whole() && !rules.reshape() && numbers == (0..block.count()) {
        for (index, run) in block.runs() {
            if run.body.len() <= 2 * FRAME_BYTES {
                let indices = index..index + run.count;
                frames.room(block, run, indices, run.body.len()).extend_from_slice(&run.body);
            } else {
                chosen_ones(block, chosen, rules, index..index + run.count, &mut frames);
            }
        }
    } else {
        chosen_ones(block, chosen, rules, numbers, &mut frames);
    }
    frames.finish()
}

/// Adds single events, as stored or in their imposed form.
fn chosen_ones(block: &Block, chosen: &Chosen, rules: &Rules, numbers: Range<u32>, frames: &mut Frames<'_>) {
    let mut runs = block.runs();
    let mut within = runs.next();
    for index in numbers.map(|number| chosen.index(number)) {
        while within.is_some_and(|(first, run)| index >= first + run.count) {
            within = runs.next();
        }
        let (Some((_, run)), Some((stored, _))) = (within, block.stored(index)) else { continue };
        let body = frames.room(block, run, index..index + 1, stored.len());
        if !rules.reshape() {
            proto::push_encoded(stored, body);
        } else if let Some(event) = block.event(index) {
            proto::push(&rules.shape(event), body);
        }
    }
}

/// The frames under way.
#[derive(Default)]
struct Frames<'a> {
    name: &'a str,
    out: Vec<u8>,
    parts: Vec<Part>,
    events: u32,
    head: Option<frame::Head<'a>>,
    body: Vec<u8>,
}

impl<'a> Frames<'a> {
    /// Room for about `bytes` of events with consecutive positions: in the frame under way, or in another.
    fn room(&mut self, block: &Block, run: &Run, indices: Range<u32>, bytes: usize) -> &mut Vec<u8> {
        let first = block.position(indices.start);
        let count = indices.end - indices.start;
        if let Some(head) = &mut self.head
            && head.time == run.time
            && head.first.plus(u64::from(head.count)) == first
            && self.body.len() + bytes <= FRAME_BYTES
        {
            head.count += count;
        } else {
            self.end();
            self.head = Some(frame::Head {
                stream: self.name,
                history: block.history(),
                first,
                count,
                time: run.time,
                encoding: Encoding::Events as u8,
            });
        }
        &mut self.body
    }

    fn end(&mut self) {
        let Some(head) = self.head.take() else { return };
        if let Err(error) = frame::push_run(&head, &self.body, &mut self.out) {
            // The settings keep events below what a frame holds; one stored under others would come here.
            tracing::error!(%error, first = %head.first, "an event is too large for a frame and was left out");
        }
        self.body.clear();
        self.events += head.count;
        let last = head.first.plus(u64::from(head.count)).previous();
        let end = u32::try_from(self.out.len()).unwrap_or(u32::MAX);
        self.parts.push(Part { end, events: self.events, last });
    }

    fn finish(mut self) -> Encoded {
        self.end();
        Encoded { bytes: self.out.into(), parts: self.parts.into() }
    }
}

/// A heartbeat.
pub(super) fn heartbeat(heartbeat: &Heartbeat) -> Bytes {
    frame_of(frame::HEARTBEAT, &heartbeat.to_json())
}

/// A notice.
pub(super) fn notice(notice: &Notice) -> Bytes {
    frame_of(frame::NOTICE, &notice.to_json())
}

/// A state.
pub(super) fn state(state: &State) -> Bytes {
    frame_of(frame::STATE, &state.to_json())
}

/// The end.
pub(super) fn end(end: &End) -> Bytes {
    frame_of(frame::END, &end.to_json())
}

fn frame_of(kind: u8, payload: &serde_json::Value) -> Bytes {
    let mut out = Vec::with_capacity(128);
    if let Err(error) = frame::push(kind, payload.to_string().as_bytes(), &mut out) {
        tracing::error!(%error, "a frame was left out");
    }
    out.into()
}
