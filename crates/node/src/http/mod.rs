//! The HTTP interface.

pub(crate) mod body;
pub(crate) mod guard;
pub(crate) mod problem;
pub(crate) mod query;

use std::net::SocketAddr;

pub use problem::errors_markdown;

/// Where a request's connection comes from: an extension that the server adds to every request.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub SocketAddr);
