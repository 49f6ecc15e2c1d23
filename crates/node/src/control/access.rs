//! Who may do what: one table of access × role × action, asked by every way in and out.
//!
//! [`verdict`] is the whole policy of a node's own streams and those of its user, as a pure function. A caller
//! who may not find a stream gets the same answer as if there were none; one who may find it and lacks a right
//! is told what would be needed. Nothing else in the node compares roles or access.

use std::net::IpAddr;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use weir_event::flow::Time;

use super::descriptor::Access;
use super::filters::Scope;
use super::record::{Pattern, Stream, Token};
use super::subscription::{Subscription, SubscriptionId};

/// What a token lets its holder do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Decide: streams, requests, tokens; and everything the others may.
    Owner,
    /// Read the owner's streams, also private ones.
    Reader,
    /// Append.
    Publisher,
    /// Subscribe, as another organization.
    Consumer,
}

impl Role {
    /// All of them.
    pub const ALL: [Role; 4] = [Role::Owner, Role::Reader, Role::Publisher, Role::Consumer];

    /// The name on the command line and in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Role::Owner => "owner",
            Role::Reader => "reader",
            Role::Publisher => "publisher",
            Role::Consumer => "consumer",
        }
    }

    /// The role of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Role::ALL.into_iter().find(|role| role.name() == name)
    }
}

/// What a caller wants to do with a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// Know that it exists and read its descriptor.
    Find,
    /// Read its events under an unnamed subscription.
    Read,
    /// Ask for a subscription.
    Subscribe,
    /// Append events.
    Publish,
    /// Create, replace, change or retire it.
    Change,
    /// See its subscriptions and decide about them.
    Decide,
}

impl Action {
    /// All of them.
    pub const ALL: [Action; 6] =
        [Action::Find, Action::Read, Action::Subscribe, Action::Publish, Action::Change, Action::Decide];

    /// The name in audit events and metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Action::Find => "find",
            Action::Read => "read",
            Action::Subscribe => "subscribe",
            Action::Publish => "publish",
            Action::Change => "change",
            Action::Decide => "decide",
        }
    }
}

/// Whoever makes a call, as far as their credential proves it.
#[derive(Clone, Debug)]
pub enum Caller {
    /// The node itself: its background duties.
    Node,
    /// Anyone on a loopback node without tokens: acts as its owner.
    Open,
    /// No credential.
    Anonymous {
        /// Where the call comes from, for limits; `None` inside the process.
        address: Option<IpAddr>,
    },
    /// The holder of an API token.
    Token(Arc<Token>),
    /// The holder of a subscription's grant.
    Grant {
        /// The subscription it is scoped to.
        subscription: SubscriptionId,
        /// Which of its grants.
        grant: u64,
        /// When it ends.
        expires: Time,
    },
    /// The holder of a ticket: may open one delivery of the subscription, which lives as long as the credential
    /// that the ticket was made with.
    Ticket {
        /// The subscription it is scoped to.
        subscription: SubscriptionId,
        /// Who made it.
        holder: Arc<Caller>,
    },
    /// The holder of the secret of a request made without a name.
    Requester {
        /// The subscription asked for.
        subscription: SubscriptionId,
    },
}

impl Caller {
    /// The caller of an open node, who acts as its owner.
    #[must_use]
    pub fn open() -> Self {
        Caller::Open
    }

    /// A caller without any credential.
    #[must_use]
    pub fn anonymous(address: Option<IpAddr>) -> Self {
        Caller::Anonymous { address }
    }

    /// Who this is for duplicate detection: the same number for the same organization over all its tokens,
    /// connections and restarts. The node's own organization is 1.
    #[must_use]
    pub fn publisher(&self) -> u64 {
        match self.organization() {
            Some(organization) => {
                let digest = Sha256::digest(organization.as_bytes());
                u64::from_be_bytes(std::array::from_fn(|index| digest[index])) | 1 << 63
            }
            None => 1,
        }
    }

    /// The other organization that this caller acts for, if its credential says so.
    #[must_use]
    pub fn organization(&self) -> Option<&str> {
        match self {
            Caller::Token(token) => token.organization.as_deref(),
            Caller::Node
            | Caller::Open
            | Caller::Anonymous { .. }
            | Caller::Grant { .. }
            | Caller::Ticket { .. }
            | Caller::Requester { .. } => None,
        }
    }

    /// Whether the caller decides for the node's own organization: everything that is not about one stream.
    #[must_use]
    pub fn is_owner(&self) -> bool {
        match self {
            Caller::Node | Caller::Open => true,
            Caller::Token(token) => token.role == Role::Owner,
            Caller::Anonymous { .. }
            | Caller::Grant { .. }
            | Caller::Ticket { .. }
            | Caller::Requester { .. } => false,
        }
    }

    /// Who this is in decisions, audit and logs. Never a secret.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Caller::Node => "node".to_owned(),
            Caller::Open => "open".to_owned(),
            Caller::Anonymous { .. } => "anonymous".to_owned(),
            Caller::Token(token) => format!("token:{}", token.id),
            Caller::Grant { subscription, .. } => format!("grant:{subscription}"),
            Caller::Ticket { subscription, .. } => format!("ticket:{subscription}"),
            Caller::Requester { subscription } => format!("request:{subscription}"),
        }
    }
}

/// What the table says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Yes; a subscription is accepted at once.
    Yes,
    /// A subscription may be asked for and waits for the producer's decision.
    Ask,
    /// No, and the caller may know; says what would be needed.
    No(&'static str),
    /// The caller may not know that there is such a stream.
    Hidden,
}

/// What a caller may do with a stream.
#[must_use]
pub fn verdict(caller: &Caller, action: Action, stream: &Stream) -> Verdict {
    let part = part(caller, stream);
    if stream.name.is_reserved() {
        reserved(part, action)
    } else {
        table(part, stream.descriptor.access, action)
    }
}

/// The part a caller plays towards one stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Decides about it.
    Owner,
    /// Anyone on an open node: decides about it, and stands for all who would ask.
    Host,
    /// May read it whatever its access.
    Reader,
    /// May append to it.
    Publisher,
    /// Another organization, which its `allow` lists.
    Listed,
    /// Another organization.
    Consumer,
    /// Anyone.
    Anyone,
}

impl Part {
    /// All of them.
    pub const ALL: [Part; 7] =
        [Part::Owner, Part::Host, Part::Reader, Part::Publisher, Part::Listed, Part::Consumer, Part::Anyone];
}

/// The part a caller plays towards a stream. A token plays none where its pattern does not cover the stream, and
/// a grant or a request's secret none at all: they open their subscription, not its stream.
#[must_use]
pub fn part(caller: &Caller, stream: &Stream) -> Part {
    match caller {
        Caller::Node => Part::Owner,
        Caller::Open => Part::Host,
        Caller::Token(token) if token.streams.covers(&stream.name) => match token.role {
            Role::Owner => Part::Owner,
            Role::Reader => Part::Reader,
            Role::Publisher => Part::Publisher,
            Role::Consumer => {
                let listed = token
                    .organization
                    .as_deref()
                    .is_some_and(|name| stream.descriptor.allow.iter().any(|allowed| **allowed == *name));
                if listed { Part::Listed } else { Part::Consumer }
            }
        },
        Caller::Token(_)
        | Caller::Anonymous { .. }
        | Caller::Grant { .. }
        | Caller::Ticket { .. }
        | Caller::Requester { .. } => Part::Anyone,
    }
}

const NEEDS_OWNER: &str = "a token with the role owner for this stream";
const NEEDS_PUBLISHER: &str = "a token with the role publisher or owner for this stream";
const NEEDS_DECISION: &str = "an accepted subscription: ask for one with POST /subscriptions";
const NEEDS_READER: &str = "a token with the role reader or owner for this stream";
const NEEDS_NODE: &str = "nothing would do: only the node itself writes this stream";

/// The table for the streams of users.
#[must_use]
pub fn table(part: Part, access: Access, action: Action) -> Verdict {
    use Verdict::{Ask, Hidden, No, Yes};
    match (part, action) {
        // Without tokens nobody tells the one who asks from the one who decides, so asking stays asking.
        (Part::Host, Action::Subscribe) if access == Access::Approval => Ask,
        (Part::Owner | Part::Host, _) => Yes,
        (Part::Reader, Action::Find | Action::Read | Action::Subscribe) => Yes,
        (Part::Reader, Action::Publish) => No(NEEDS_PUBLISHER),
        (Part::Reader, Action::Change | Action::Decide) => No(NEEDS_OWNER),
        (Part::Publisher, Action::Find | Action::Publish) => Yes,
        (Part::Publisher, Action::Change | Action::Decide) => No(NEEDS_OWNER),
        (Part::Publisher, Action::Read | Action::Subscribe) => match (access, action) {
            (Access::Open, _) => Yes,
            (Access::Approval, Action::Subscribe) => Ask,
            (Access::Approval, _) => No(NEEDS_DECISION),
            (Access::Allow | Access::Private, _) => No(NEEDS_READER),
        },
        (Part::Listed | Part::Consumer | Part::Anyone, action) => {
            match (access, action) {
                (Access::Private, _) => return Hidden,
                (Access::Allow, _) if part != Part::Listed => return Hidden,
                (Access::Allow | Access::Approval | Access::Open, _) => {}
            }
            match action {
                Action::Find => Yes,
                Action::Read if access == Access::Approval => No(NEEDS_DECISION),
                Action::Subscribe if access == Access::Approval => Ask,
                Action::Read | Action::Subscribe => Yes,
                Action::Publish => No(NEEDS_PUBLISHER),
                Action::Change | Action::Decide => No(NEEDS_OWNER),
            }
        }
    }
}

/// The table for the node's own streams: `_weir.audit`, `_weir.ops`, `_weir.usage`. What a reader gets of them is
/// narrowed by its [`super::filters::Scope`].
#[must_use]
pub fn reserved(part: Part, action: Action) -> Verdict {
    match (part, action) {
        (Part::Publisher | Part::Anyone, _) => Verdict::Hidden,
        (_, Action::Publish | Action::Change) => Verdict::No(NEEDS_NODE),
        (Part::Owner | Part::Host, Action::Decide) => Verdict::Yes,
        (_, Action::Decide) => Verdict::No(NEEDS_OWNER),
        (Part::Owner | Part::Host | Part::Reader | Part::Listed | Part::Consumer, _) => Verdict::Yes,
    }
}

/// What a reader of the node's own streams gets of them: everything, what is about the streams it may read, or
/// what is about its organization.
#[must_use]
pub fn scope(caller: &Caller) -> Scope {
    match caller {
        Caller::Node | Caller::Open => Scope::All,
        Caller::Token(token) => match (token.role, &token.organization) {
            (Role::Owner, _) if token.streams == Pattern::all() => Scope::All,
            (Role::Owner | Role::Reader | Role::Publisher, _) => Scope::Streams(token.streams.clone()),
            (Role::Consumer, organization) => Scope::Organization(organization.clone().unwrap_or_default()),
        },
        Caller::Anonymous { .. }
        | Caller::Grant { .. }
        | Caller::Ticket { .. }
        | Caller::Requester { .. } => Scope::Organization(Box::default()),
    }
}

/// Whether the caller stands on the consumer's side of a subscription.
#[must_use]
pub fn is_consumer(caller: &Caller, subscription: &Subscription, stream: &Stream) -> bool {
    let consumer = &subscription.consumer;
    match caller {
        Caller::Node | Caller::Open => true,
        Caller::Grant { subscription: id, .. } | Caller::Requester { subscription: id } => {
            *id == subscription.id
        }
        Caller::Ticket { .. } | Caller::Anonymous { .. } => false,
        Caller::Token(token) => {
            consumer.token == Some(token.id)
                || token.role == Role::Consumer
                    && token.organization.is_some()
                    && token.organization == consumer.organization
                || consumer.own && matches!(part(caller, stream), Part::Owner | Part::Reader)
        }
    }
}

/// Whether the caller stands on the producer's side of a subscription.
#[must_use]
pub fn is_producer(caller: &Caller, stream: &Stream) -> bool {
    verdict(caller, Action::Decide, stream) == Verdict::Yes
}
