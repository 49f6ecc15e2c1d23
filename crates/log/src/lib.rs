//! The log: every stream a node owns, and the one promise all else rests on: what [`Log::append`] has
//! acknowledged is never lost, reordered, altered or renumbered, and nobody is shown an event before it is as
//! durable as its stream promises.
//!
//! The log knows streams by number and events as bytes. It gives positions, remembers ids for a while so that
//! a retry is not stored twice, and hands runs of events back as they were stored. It knows no protocol, no
//! subscription and no policy.

mod api;

pub use api::*;
