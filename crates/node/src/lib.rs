//! The node.

pub mod error;
pub mod http;

pub use error::{Code, Error, Kind};
