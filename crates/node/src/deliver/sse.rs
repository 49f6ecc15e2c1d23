//! Server-sent events: one structured JSON event per message (WHATWG HTML, section 9.2).
//!
//! ```text
//! id: 41
//! data: {"specversion":"1.0","id":"…","source":"…","type":"…","flowposition":"41","flowtime":"…","data":{…}}
//!
//! event: heartbeat
//! id: 41
//! data: {"head":57,"history":"4fc1…","at":41}
//! ```
//!
//! `id` is the position: a client that reconnects sends it back as `Last-Event-ID` and gets what follows. A
//! heartbeat has one too, so that a filter that lets little through makes progress. Notices and states have none.
//! JSON from `weir-event` stands on one line and holds no CR, so nothing has to be split or escaped here.

use std::ops::Range;

use bytes::Bytes;
use weir_event::flow::Position;
use weir_event::json;

use super::block::{Block, Chosen, Encoded, Part};
use super::rules::Rules;
use super::{Heartbeat, Notice, State};

/// The chosen events `numbers` of a block; one part each.
pub(super) fn events(block: &Block, chosen: &Chosen, rules: &Rules, numbers: Range<u32>) -> Encoded {
    let mut out = Vec::with_capacity(block.bytes() + numbers.len() * 160);
    let mut parts = Vec::with_capacity(numbers.len());
    for (events, number) in (1..).zip(numbers) {
        let index = chosen.index(number);
        let position = block.position(index);
        if let Some(event) = block.event(index) {
            out.extend_from_slice(b"id: ");
            out.extend_from_slice(itoa::Buffer::new().format(position.0).as_bytes());
            out.extend_from_slice(b"\ndata: ");
            if rules.reshape() {
                json::encode(&rules.shape(event), Some(block.stamp(index)), &mut out);
            } else {
                json::encode(&event, Some(block.stamp(index)), &mut out);
            }
            out.extend_from_slice(b"\n\n");
        }
        parts.push(Part { end: u32::try_from(out.len()).unwrap_or(u32::MAX), events, last: position });
    }
    Encoded { bytes: out.into(), parts: parts.into() }
}

/// A heartbeat.
pub(super) fn heartbeat(heartbeat: &Heartbeat) -> Bytes {
    message("heartbeat", Some(heartbeat.at), &heartbeat.to_json())
}

/// A notice.
pub(super) fn notice(notice: &Notice) -> Bytes {
    message("notice", None, &notice.to_json())
}

/// A state.
pub(super) fn state(state: &State) -> Bytes {
    message("state", None, &state.to_json())
}

fn message(event: &str, id: Option<Position>, data: &serde_json::Value) -> Bytes {
    let id = id.map(|id| format!("id: {id}\n")).unwrap_or_default();
    format!("event: {event}\n{id}data: {data}\n\n").into()
}
