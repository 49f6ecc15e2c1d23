//! The node.

pub mod clock;
pub mod control;
pub mod error;
pub mod http;
mod node;

pub use error::{Code, Error, Kind};
pub use node::{Node, Parts};
