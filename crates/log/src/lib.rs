//! The log: every stream a node owns, and the one promise all else rests on: what [`Log::append`] has
//! acknowledged is never lost, reordered, altered or renumbered, and nobody is shown an event before it is as
//! durable as its stream promises.
//!
//! The log knows streams by number and events as bytes. It gives positions, remembers ids for a while so that
//! a retry is not stored twice, and hands runs of events back as they were stored. It knows no protocol, no
//! subscription and no policy.
//!
//! [`engine::Engine`] is the embedded engine. The way of an event through it: `Engine::append` (hash the ids) →
//! `shard::Gate` (wait) → `assign` (position, duplicates, one buffer) → `writer` (one write) → `sync` (one flush) → visible,
//! acknowledged. Out: `read::plan` (index, bounded by the visible position) → `cache` or reader threads.
//!
//! Modules: `format` the bytes on disk · `disk` all file access · `directory` lock, format and key · `segment`,
//! `index` files and where chunks lie in them · `stream` what is known of one · `shard`, `assign`, `group`, `writer`, `sync`
//! the way in · `cache`, `read` the way out · `dedupe` ids and producers · `space` room on the disk · `recover`
//! opening · `clean` sealing, retention, cleaning, erasing · `check` the
//! offline tools.

mod api;
mod assign;
mod cache;
mod check;
mod clean;
mod counters;
mod dedupe;
mod directory;
pub mod disk;
pub mod engine;
mod events;
mod format;
mod group;
mod index;
mod options;
mod read;
mod recover;
mod segment;
mod shard;
mod space;
mod stream;
mod sync;
mod writer;

pub use api::*;
pub use check::{Place, Report, check, check_on, repair, repair_on};
pub use counters::{Counted, Counters};
pub use directory::FORMAT;
pub use options::{Clock, Options, SystemClock};

#[cfg(test)]
mod tests;
