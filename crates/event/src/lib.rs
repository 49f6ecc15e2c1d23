//! The event: one CloudEvents 1.0 event, the formats and bindings it travels in, the filters that choose
//! among events, and the vocabulary every other crate shares (stream names, positions, histories, times).
//!
//! No I/O, no clock, no async, no policy: everything here is a function of its arguments, so that it can be
//! property-tested, fuzzed and reused by the client as it stands.
//!
//! [`Event`] is what every format is read into and written from: [`proto`] (what is stored), [`json`], and by way
//! of [`http`] the binary, structured and batched messages of that binding; [`frame`] carries stored runs between
//! nodes. [`filter`] and [`sql`] choose among events. Three promises hold for all of them:
//!
//! - whatever comes in is an event as CloudEvents 1.0.2 defines it, or an [`Error`] that names the attribute, what
//!   is wrong with it, what is expected and, of a batch, which event; no input panics, and none costs more than time
//!   in proportion to its length;
//! - attributes, their values and the exact bytes of the data are the same whatever formats an event passes;
//! - reading borrows from the input, so that an event crosses a node without its texts being copied.

mod error;
mod event;
pub mod filter;
pub mod flow;
pub mod frame;
pub mod http;
pub mod json;
mod names;
pub mod proto;
pub mod sql;
mod timestamp;
mod value;

pub use error::{Error, Kind};
pub use event::{Data, Event, FLOWPOSITION, FLOWTIME, Form, SPECVERSION, Stamp};
pub use timestamp::Timestamp;
pub use value::Value;
