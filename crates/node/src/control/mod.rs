//! Control: what the node has decided, and how it decides.
//!
//! (The law of this folder, to be completed with the fold.)

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::watch;
use weir_event::flow::{Position, StreamName, Time};
use weir_log::Log;

pub mod access;
pub mod command;
pub mod descriptor;
pub mod filters;
pub mod members;
pub mod quantity;
pub mod state;
pub mod subscription;

pub use access::{Action, Caller, Role, Verdict};
pub use command::{Command, Grant, Outcome, Secret, Seen};
pub use descriptor::{Access, Descriptor};
pub use filters::Filters;
pub use state::{Pattern, State, Stream, Token, TokenId};
pub use subscription::{Imposed, Origin, Request, Standing, Start, Status, Subscription, SubscriptionId};

use crate::clock::{Clock, Entropy};
use crate::error::Error;

/// Where control keeps its own files and what it draws from.
pub struct Options {
    /// The node's data directory: snapshots, secrets and cursors lie in `control/` below it.
    pub dir: PathBuf,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub entropy: Arc<dyn Entropy>,
    /// Whether callers without a credential act as owner for as long as no token was ever created. Only for
    /// nodes that listen on loopback.
    pub open_without_tokens: bool,
}

/// The node's control: one handle, cheap to clone.
#[derive(Clone)]
pub struct Control(Arc<Inner>);

struct Inner {}

/// What a reader may get and from where: plain data that a delivery is opened with.
#[derive(Clone, Debug)]
pub struct Reader {
    /// The stream read.
    pub stream: Arc<Stream>,
    /// The subscription it reads under; `None`: an unnamed one that lives as long as its connection.
    pub subscription: Option<SubscriptionId>,
    /// The consumer's filters, if they do not let everything through.
    pub filters: Option<Arc<Filters>>,
    /// The producer's filters, if any.
    pub imposed_filters: Option<Arc<Filters>>,
    /// What of an event's data leaves.
    pub form: Option<Arc<subscription::Form>>,
    /// The key of the form's hashes.
    pub form_key: [u8; 16],
    /// At most so many events.
    pub rate: Option<quantity::Rate>,
    /// Nothing at or before this leaves, whatever the reader asks for. For a subscription: where it starts.
    pub after: Option<Origin>,
    /// Nothing before this leaves (imposed, or asked for by an unnamed reader's grant).
    pub not_before: Option<Start>,
    /// When the cursor moves.
    pub ack: subscription::Ack,
    /// When the credential or the subscription ends, whichever comes first.
    pub expires: Option<Time>,
    caller: Caller,
    terms: Position,
}

/// What a subscription has acknowledged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    /// The history and the position up to which everything is acknowledged.
    pub floor: Origin,
    /// Acknowledged ranges above the floor, inclusive, ascending, apart.
    pub above: Vec<(Position, Position)>,
}

/// What to open a reader for.
#[derive(Clone, Debug)]
pub enum Target {
    /// A stream, unnamed, with the filters of this one read.
    Stream {
        /// Its name.
        name: StreamName,
        /// What this reader wants to see.
        filters: Option<Arc<Filters>>,
    },
    /// A subscription.
    Subscription(SubscriptionId),
    /// A subscription as its consumer would get it, for whoever decides about it (preview).
    Preview(SubscriptionId),
}

/// One page of a list.
#[derive(Clone, Debug)]
pub struct Page<T> {
    /// The entries.
    pub items: Vec<T>,
    /// What to pass as `after` for the next page; `None` at the end.
    pub next: Option<String>,
}

/// Which subscriptions to list.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Only of this stream.
    pub stream: Option<StreamName>,
    /// Only in this state (its name).
    pub state: Option<Box<str>>,
}

#[allow(unused_variables, clippy::todo, reason = "bodies follow within the hour")]
impl Control {
    /// Opens the state: the newest sound snapshot, then the rest of the log. Declares every stream to the log.
    pub async fn open(log: Arc<dyn Log>, options: Options) -> Result<Self, Error> {
        todo!()
    }

    /// Runs the background duties until [`Control::close`]: expiry, cursors, snapshots, derived streams. The node
    /// awaits it.
    pub async fn run(&self) {
        todo!()
    }

    /// Ends the duties and saves what they keep: cursors, a snapshot, counted refusals, usage.
    pub async fn close(&self) {
        todo!()
    }

    /// Short, synchronous look at the state.
    pub fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        todo!()
    }

    /// A stream by name, whoever asks: for the hot path, before [`Control::authorize`].
    #[must_use]
    pub fn stream(&self, name: &str) -> Option<Arc<Stream>> {
        todo!()
    }

    /// Who sends this bearer. Without one: an open node's owner, or nobody in particular.
    ///
    /// Errors: `bad-credential`.
    pub fn authenticate(&self, bearer: Option<&str>, address: Option<IpAddr>) -> Result<Caller, Error> {
        todo!()
    }

    /// The stream, if the caller may do this with it. The one place where access meets role.
    ///
    /// Errors: `unknown-stream` with near names among those the caller may find, `retired`, `not-allowed` saying
    /// what would be needed, `credential-required` when nobody in particular asks.
    pub fn authorize(&self, caller: &Caller, action: Action, name: &str) -> Result<Arc<Stream>, Error> {
        todo!()
    }

    /// Whether the caller decides for the node as a whole: tokens, status, metrics.
    pub fn authorize_node(&self, caller: &Caller) -> Result<(), Error> {
        todo!()
    }

    /// Decides: validates against the state, appends one durable decision, applies it. Runs to its end even if
    /// the caller goes away.
    pub async fn decide(&self, caller: &Caller, command: Command) -> Result<Outcome, Error> {
        todo!()
    }

    /// A number that rises whenever a standing may have changed: after a decision that touches one, and at once
    /// when a credential or a subscription runs out.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        todo!()
    }

    /// Opens a reader: the only way to read.
    ///
    /// Errors: those of [`Control::authorize`]; `unknown-subscription`, `not-decided`, `suspended`,
    /// `subscription-closed`.
    pub fn reader(&self, caller: &Caller, target: Target) -> Result<Reader, Error> {
        todo!()
    }

    /// Whether this reader may go on. Cheap; called for each open delivery after each change.
    #[must_use]
    pub fn standing(&self, reader: &Reader) -> Standing {
        todo!()
    }

    /// A subscription, for its consumer or its producer.
    pub fn subscription(&self, caller: &Caller, id: SubscriptionId) -> Result<Arc<Subscription>, Error> {
        todo!()
    }

    /// The subscriptions that the caller may see, by id.
    #[must_use]
    pub fn subscriptions(
        &self,
        caller: &Caller,
        wanted: &Wanted,
        after: Option<&str>,
        limit: usize,
    ) -> Page<Arc<Subscription>> {
        todo!()
    }

    /// The streams that the caller may find, by name; `q`: all of its words must occur.
    #[must_use]
    pub fn search(&self, caller: &Caller, q: &str, after: Option<&str>, limit: usize) -> Page<Arc<Stream>> {
        todo!()
    }

    /// The tokens, by id; for owners.
    pub fn tokens(
        &self,
        caller: &Caller,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Page<Arc<Token>>, Error> {
        todo!()
    }

    /// A ticket: a read-only credential for one browser connection, valid for two minutes and once.
    pub fn ticket(&self, caller: &Caller, id: SubscriptionId) -> Result<Grant, Error> {
        todo!()
    }

    /// Where a subscription stands in its stream.
    #[must_use]
    pub fn cursor(&self, id: SubscriptionId) -> Option<Cursor> {
        todo!()
    }

    /// Wakes whoever waits for a subscription's cursor: rises with the floor.
    #[must_use]
    pub fn cursor_moves(&self, id: SubscriptionId) -> Option<watch::Receiver<Position>> {
        todo!()
    }

    /// Acknowledges everything up to `upto`, inclusive.
    pub fn ack(&self, id: SubscriptionId, upto: Origin) -> Result<(), Error> {
        todo!()
    }

    /// Acknowledges single positions. At most 10,000 stay open above the floor.
    pub fn acks(
        &self,
        id: SubscriptionId,
        of: weir_event::flow::History,
        positions: &[Position],
    ) -> Result<(), Error> {
        todo!()
    }

    /// Sets the cursor back or on, as its consumer chose (replay, other history).
    pub fn seek(&self, id: SubscriptionId, to: Origin) -> Result<(), Error> {
        todo!()
    }

    /// The meter of a reader: counts what it was given, written to `_weir.usage` once a minute.
    #[must_use]
    pub fn meter(&self, reader: &Reader) -> Arc<Meter> {
        todo!()
    }

    /// Notes a refusal for the audit: a new kind is written at once, repeats are counted and written once a minute.
    pub fn refused(&self, caller: &Caller, action: &'static str, stream: Option<&StreamName>, error: &Error) {
        todo!()
    }

    /// Tells `_weir.ops` that something happened to the node, e.g. `weir.disk.full`. Never waits; beyond 1,000
    /// waiting ones are counted instead.
    pub fn note(&self, kind: &'static str, subject: &str, data: serde_json::Value) {
        todo!()
    }
}

/// What was handed out under one subscription, or to one unnamed caller of one stream, since it was last written.
#[derive(Debug, Default)]
pub struct Meter {
    /// Events.
    pub events: std::sync::atomic::AtomicU64,
    /// Bytes on the wire.
    pub bytes: std::sync::atomic::AtomicU64,
}
