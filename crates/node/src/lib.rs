//! A node: one running Weir, acting for one organization.
//!
//! Events come in through `admit`, wait in the log until they are durable, and go out through `deliver`; what
//! the node decides, and for whom, is [`control`]. `server` accepts connections, [`http`] translates. Policy lives
//! in this crate and in no other.
//!
//! - [`Settings`]: what a node can be told. [`Node::open`] and [`Node::serve`]: the whole of running one.
//! - [`control`]: streams, subscriptions, tokens: a fold over the private control stream.
//! - `admit`: the one door in. `deliver`: every way out. Both serve every protocol.
//! - [`http`]: the interface. [`metrics`]: what the node counts. [`clock`]: time and randomness from outside.
//! - [`error`]: what can go wrong, once for all protocols.

mod admit;
pub mod clock;
pub mod control;
mod deliver;
pub mod error;
pub mod http;
pub mod metrics;
mod node;
mod server;
pub mod settings;

pub use error::{Code, Error, Kind};
pub use node::{Node, Parts};
pub use server::{Body, Connection};
pub use settings::Settings;
