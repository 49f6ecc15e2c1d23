//! A node over its real sockets: each module is one topic.

mod delivery;
mod durability;
mod harness;
mod pressure;
mod publish;
mod range;
mod revocation;
mod subscriptions;
