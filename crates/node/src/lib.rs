//! The node.

pub mod clock;
pub mod control;
pub mod error;
pub mod http;

pub use error::{Code, Error, Kind};
