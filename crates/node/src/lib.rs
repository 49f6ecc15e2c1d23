//! The node.

pub mod error;

pub use error::{Code, Error, Kind};
