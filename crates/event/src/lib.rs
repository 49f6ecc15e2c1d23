//! The event: one CloudEvents 1.0 event, the formats and bindings it travels in, the filters that choose
//! among events, and the vocabulary every other crate shares (stream names, positions, histories, times).
//!
//! No I/O, no clock, no async, no policy: everything here is a function of its arguments, so that it can be
//! property-tested, fuzzed and reused by the client as it stands.

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
