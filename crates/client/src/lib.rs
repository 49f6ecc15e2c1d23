//! The client: publish, find, ask, receive and decide over a node's public interface.
//!
//! Made for programs that want events, not HTTP: connections may break and nodes restart at any moment, and what
//! the caller sees is neither loss nor repetition. It uses nothing that any other client could not use.
//!
//! ```no_run
//! # async fn example() -> Result<(), weir_client::Error> {
//! use std::time::Duration;
//! use weir_client::{Client, Item};
//!
//! let node = Client::new("http://127.0.0.1:8080", None)?;
//! let mut delivery =
//!     node.deliver(&"weather.us.ny".parse().unwrap(), Some("earliest".into()), None, Duration::from_secs(600));
//! loop {
//!     if let Item::Run(run) = delivery.next().await? {
//!         for event in run.events() {
//!             let (position, event) = event?;
//!             println!("{position} {}", event.ty());
//!         }
//!     }
//! }
//! # }
//! ```
//!
//! | for | begin at |
//! |---|---|
//! | publishing in order, each event once | [`Client::publisher`] |
//! | receiving, with resume | [`Client::deliver`], or [`Client::ask`] and [`Subscription::deliver`] |
//! | reading a range | [`Client::read`] |
//! | streams and their descriptors | [`Client::find`], [`Client::create_stream`] … |
//! | deciding requests | [`Client::requests`], [`Client::decide`] |
//! | addresses (`flow://…`) | [`Address`], [`Client::resolve`] |
//!
//! Compatibility: members a node does not name among its `features` are not sent; members, states and frames that
//! this version does not know are passed over, never an error.
//!
//! Not here: policy, storage, printing. TLS comes with the organizations' keys.

mod address;
mod backoff;
mod client;
mod delivery;
mod error;
mod model;
mod publish;
mod range;
mod subscribe;
#[cfg(test)]
mod testing;

pub use address::{Address, Place};
pub use client::Client;
pub use delivery::{Delivery, Heartbeat, Item, Run, Skipped};
pub use error::{Error, Kind, Problem};
pub use model::{Page, Profile, Published, Relation, State, Stream, WellKnown};
pub use publish::{Options as PublishOptions, Publisher, Totals};
pub use range::{Events, Range, Reader};
pub use subscribe::{Ask, Subscription};
