//! A node over its real sockets: each module is one topic.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a helper that fails fails its test"
)]

mod delivery;
mod durability;
mod harness;
mod http2;
mod pipelining;
mod pressure;
mod publish;
mod range;
mod revocation;
mod subscriptions;
