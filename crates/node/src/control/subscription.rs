//! A consumer's relationship to a stream: what was asked for, what was decided, and where it stands.
//!
//! `requested → accepted → active ⇄ suspended → closed`. A request becomes *accepted* by a person's decision or
//! by the stream's access, and *active* once its consumer holds what it needs to read: a consumer with a token at
//! once, one without a name when it collects its grant. *Suspended* says by whom, and each side lifts only its
//! own. *Closed* says why and is the end.
//!
//! Two rule sets narrow what is delivered, and only narrow it: what the consumer asked for (filters, types,
//! source, start) and what the producer imposed on acceptance.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use weir_event::flow::{History, Malformed, Position, StreamName, Time};
use weir_log::StreamId;

use super::descriptor::Pointer;
use super::filters::Filters;
use super::quantity::Rate;
use super::record::TokenId;

/// A subscription's number: random, never reused; sixteen lower-case hex digits as text. Knowing it opens nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubscriptionId(pub u64);

impl fmt::Display for SubscriptionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for SubscriptionId {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        text.parse::<History>().map(|same_text| Self(same_text.0))
    }
}

/// Where a subscription or a range begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// The oldest event kept.
    Earliest,
    /// After the newest event of the moment it becomes active.
    Latest,
    /// At a position.
    Position(Position),
    /// At the first event appended at or after this time.
    Time(Time),
}

impl fmt::Display for Start {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Start::Earliest => f.write_str("earliest"),
            Start::Latest => f.write_str("latest"),
            Start::Position(position) => position.fmt(f),
            Start::Time(time) => time.fmt(f),
        }
    }
}

impl FromStr for Start {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        match text {
            "earliest" => Ok(Start::Earliest),
            "latest" => Ok(Start::Latest),
            _ if text.bytes().all(|b| b.is_ascii_digit()) => text.parse().map(Start::Position),
            _ => text.parse().map(Start::Time),
        }
    }
}

/// When a subscription's cursor moves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ack {
    /// When the consumer acknowledges.
    #[default]
    Explicit,
    /// When an event was written to the connection.
    Sent,
}

/// How events leave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// Server-sent events, one structured JSON event each.
    #[default]
    Sse,
    /// Stored runs as they are, in frames.
    Stream,
}

impl Protocol {
    /// The protocols this node delivers by, as they are written in `protocol`.
    pub const SUPPORTED: [&str; 2] = ["SSE", "STREAM"];

    /// The name in `protocol`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Protocol::Sse => "SSE",
            Protocol::Stream => "STREAM",
        }
    }
}

/// What a consumer asks for.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// The stream.
    pub stream: StreamName,
    /// Where to begin; latest unless said.
    pub from: Start,
    /// Whom the producer can reach; required without a credential.
    pub contact: Option<Box<str>>,
    /// Why they ask.
    pub note: Option<Box<str>>,
    /// When the cursor moves.
    pub ack: Ack,
    /// Filters, types and source: which events.
    pub filters: Arc<Filters>,
    /// How events leave.
    pub protocol: Protocol,
}

/// What the producer imposed: narrows, never widens.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Imposed {
    /// Only events that these let through as well.
    pub filters: Option<Arc<Filters>>,
    /// What of an event's data leaves.
    pub form: Option<Arc<Form>>,
    /// At most so many events.
    pub rate: Option<Rate>,
    /// Nothing before this.
    pub from: Option<Start>,
    /// Nothing after this time.
    pub expires: Option<Time>,
}

/// What of an event's JSON data leaves. Applied in this order: `keep`, `remove`, `hash`; data that is not JSON
/// leaves only if no rule looks into it, otherwise not at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Form {
    /// Whether data leaves at all; `false`: attributes only.
    pub data: bool,
    /// Only these members leave; empty: all.
    pub keep: Box<[Pointer]>,
    /// These members do not leave.
    pub remove: Box<[Pointer]>,
    /// The values of these are replaced by a keyed hash, stable within the subscription.
    pub hash: Box<[Pointer]>,
}

/// One of the two sides of a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// Who owns the stream.
    Producer,
    /// Who subscribed.
    Consumer,
}

impl Side {
    /// The name in `by`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Side::Producer => "producer",
            Side::Consumer => "consumer",
        }
    }
}

/// Who decided, as both sides may know it. Whose token it was stands in the decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum By {
    /// Who owns the stream.
    Producer,
    /// Who subscribed.
    Consumer,
    /// The stream's access.
    Policy,
    /// The node: time was up, or delivery failed.
    Node,
}

impl By {
    /// All of them.
    pub const ALL: [By; 4] = [By::Producer, By::Consumer, By::Policy, By::Node];

    /// The name in `by`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            By::Producer => "producer",
            By::Consumer => "consumer",
            By::Policy => "policy",
            By::Node => "node",
        }
    }
}

/// Why a subscription is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Why {
    /// The producer said no.
    Rejected,
    /// The consumer ended it.
    Cancelled,
    /// The producer ended it.
    Revoked,
    /// Its time was up.
    Expired,
    /// It could not be delivered.
    Failed,
    /// Its stream was retired.
    Retired,
}

impl Why {
    /// All of them.
    pub const ALL: [Why; 6] =
        [Why::Rejected, Why::Cancelled, Why::Revoked, Why::Expired, Why::Failed, Why::Retired];

    /// The name in `reason`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Why::Rejected => "rejected",
            Why::Cancelled => "cancelled",
            Why::Revoked => "revoked",
            Why::Expired => "expired",
            Why::Failed => "failed",
            Why::Retired => "retired",
        }
    }
}

/// Where a subscription stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Waits for the producer's decision.
    Requested,
    /// Accepted; the grant waits to be collected.
    Accepted,
    /// Events flow.
    Active,
    /// Paused by one side or both.
    Suspended {
        /// The producer paused it.
        producer: bool,
        /// The consumer paused it.
        consumer: bool,
    },
    /// Over.
    Closed(Why),
}

impl Status {
    /// The name in `state`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Status::Requested => "requested",
            Status::Accepted => "accepted",
            Status::Active => "active",
            Status::Suspended { .. } => "suspended",
            Status::Closed(_) => "closed",
        }
    }

    /// Whether it has ended.
    #[must_use]
    pub fn is_closed(self) -> bool {
        matches!(self, Status::Closed(_))
    }
}

/// Whether a delivery may go on, judged anew for its credential and its subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Events flow, on the terms the reader was opened with.
    Active,
    /// Events flow on other terms: open a new reader from where this one is.
    Changed,
    /// Not decided yet: no events.
    Requested,
    /// Paused: no events, the connection may wait.
    Suspended {
        /// Who has to resume it; the producer if both.
        by: Side,
        /// What they said.
        reason: Option<Box<str>>,
    },
    /// Over: end the connection now.
    Closed {
        /// Why.
        why: Why,
        /// What was said.
        reason: Option<Box<str>>,
    },
}

impl Standing {
    /// Whether events may be handed out now.
    #[must_use]
    pub fn is_active(&self) -> bool {
        matches!(self, Standing::Active)
    }
}

/// Who subscribed, and how that was shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Consumer {
    /// The organization, if the credential named one.
    pub organization: Option<Box<str>>,
    /// The token that asked; `None` without a name or on an open node.
    pub token: Option<TokenId>,
    /// Whether the owner's own side asked (owner, reader or publisher token, or an open node).
    pub own: bool,
    /// Where a request without a name came from, for limits.
    pub address: Option<std::net::IpAddr>,
}

impl Consumer {
    /// How the name was shown: `none` or `key`.
    #[must_use]
    pub fn proof(&self) -> &'static str {
        if self.token.is_some() { "key" } else { "none" }
    }

    /// Whether it was asked for without a name: only its secret and its grant speak for it.
    #[must_use]
    pub fn is_unnamed(&self) -> bool {
        self.token.is_none() && !self.own
    }
}

/// One credential of a subscription. Its secret lies elsewhere, hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GrantRef {
    /// Its number within the node.
    pub id: u64,
    /// When it ends.
    pub expires: Time,
}

/// A subscription as decided.
#[derive(Clone, Debug, PartialEq)]
pub struct Subscription {
    /// Its number.
    pub id: SubscriptionId,
    /// The stream it is to.
    pub stream: StreamId,
    /// Who subscribed.
    pub consumer: Consumer,
    /// What was accepted, or is asked for while requested.
    pub request: Arc<Request>,
    /// A change that asks for more and waits for its decision, while `request` stays in force.
    pub wanted: Option<Arc<Request>>,
    /// Where it stands.
    pub status: Status,
    /// Which side decided last.
    pub by: By,
    /// What they said.
    pub reason: Option<Box<str>>,
    /// Whether the stream's access accepted it, rather than a person.
    pub by_policy: bool,
    /// What the producer imposed.
    pub imposed: Arc<Imposed>,
    /// Where it begins, fixed when it was accepted.
    pub start: Option<Origin>,
    /// Its live credentials, oldest first.
    pub grants: Box<[GrantRef]>,
    /// Whether its first grant was collected.
    pub collected: bool,
    /// When it was asked for.
    pub created: Time,
    /// When it last changed.
    pub changed: Time,
    /// When it ends by itself; for a request, when it lapses.
    pub expires: Option<Time>,
    /// The decision that last changed it: its version.
    pub revision: Position,
    /// The decision that last changed what is delivered.
    pub terms: Position,
}

/// A place in a stream's history: the last position that counts as seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// The history it belongs to.
    pub history: History,
    /// Everything up to here is not for this subscription.
    pub after: Position,
}
