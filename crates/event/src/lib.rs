//! The event: one CloudEvents 1.0 event, the formats and bindings it travels in, the filters that choose
//! among events, and the vocabulary every other crate shares (stream names, positions, histories, times).
//!
//! No I/O, no clock, no async, no policy: everything here is a function of its arguments, so that it can be
//! property-tested, fuzzed and reused by the client as it stands.

pub mod flow;
