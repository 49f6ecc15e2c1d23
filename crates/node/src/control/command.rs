//! What a caller may ask the node to decide, and what comes of it.

use std::sync::Arc;

use serde_json::Value;
use weir_event::flow::{Position, StreamName, Time};

use super::access::Role;
use super::descriptor::Descriptor;
use super::record::{Pattern, Stream, Token, TokenId};
use super::subscription::{Imposed, Request, Subscription, SubscriptionId};

/// Which version of a thing the caller has seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Seen {
    /// Said nothing. Fine for a new name; replacing what exists then answers `if-match-required`.
    #[default]
    Unsaid,
    /// `If-Match: *`: whatever there is.
    Any,
    /// `If-Match` with a version.
    Version(Position),
    /// `If-None-Match: *`: nothing; a name that exists answers `precondition-failed`.
    Nothing,
}

/// Something to decide.
#[derive(Clone, Debug)]
pub enum Command {
    /// Create a stream or replace its descriptor.
    PutStream {
        /// Its name.
        name: StreamName,
        /// All of its descriptor.
        descriptor: Box<Descriptor>,
        /// The version to replace.
        seen: Seen,
        /// The token that a `confirmation-required` answer gave.
        confirm: Option<String>,
    },
    /// Change members of a stream's descriptor.
    PatchStream {
        /// Its name.
        name: StreamName,
        /// A merge patch (RFC 7396).
        patch: Value,
        /// The version to change.
        seen: Seen,
        /// The token that a `confirmation-required` answer gave.
        confirm: Option<String>,
    },
    /// Retire a stream: its data goes, its subscriptions close.
    RetireStream {
        /// Its name.
        name: StreamName,
        /// The version to retire.
        seen: Seen,
        /// The token that a `confirmation-required` answer gave.
        confirm: Option<String>,
        /// What to tell its consumers.
        reason: Option<Box<str>>,
    },
    /// Ask for a subscription.
    Subscribe {
        /// What for.
        request: Box<Request>,
    },
    /// Change a subscription (PUT). What asks for more becomes a new request; the rest applies at once.
    ChangeSubscription {
        /// Which.
        id: SubscriptionId,
        /// What it shall be.
        request: Box<Request>,
    },
    /// End a subscription, as its consumer (DELETE).
    Cancel {
        /// Which.
        id: SubscriptionId,
        /// Why.
        reason: Option<Box<str>>,
    },
    /// Accept a request, or the change that a subscription waits for.
    Accept {
        /// Which.
        id: SubscriptionId,
        /// Why.
        reason: Option<Box<str>>,
        /// What to impose.
        imposed: Box<Imposed>,
    },
    /// Reject a request, or the change that a subscription waits for.
    Reject {
        /// Which.
        id: SubscriptionId,
        /// Why.
        reason: Option<Box<str>>,
    },
    /// Pause a subscription, as the side that the caller is on.
    Suspend {
        /// Which.
        id: SubscriptionId,
        /// Why.
        reason: Option<Box<str>>,
    },
    /// Lift one's own pause.
    Resume {
        /// Which.
        id: SubscriptionId,
        /// Why.
        reason: Option<Box<str>>,
    },
    /// End a subscription, as its producer.
    Revoke {
        /// Which.
        id: SubscriptionId,
        /// Why.
        reason: Option<Box<str>>,
    },
    /// End a subscription that can not be delivered: the node itself.
    Fail {
        /// Which.
        id: SubscriptionId,
        /// Why.
        reason: Option<Box<str>>,
    },
    /// Collect the first grant, or renew it; the one before stays valid for an hour.
    Grant {
        /// Of which subscription.
        id: SubscriptionId,
    },
    /// Create an API token.
    CreateToken {
        /// What it lets its holder do.
        role: Role,
        /// For which streams.
        streams: Pattern,
        /// Which organization holds it.
        organization: Option<Box<str>>,
        /// When it ends.
        expires: Option<Time>,
    },
    /// End an API token.
    RevokeToken {
        /// Which.
        id: TokenId,
    },
}

impl Command {
    /// The stream that it names.
    #[must_use]
    pub fn stream(&self) -> Option<&StreamName> {
        match self {
            Command::PutStream { name, .. }
            | Command::PatchStream { name, .. }
            | Command::RetireStream { name, .. } => Some(name),
            Command::Subscribe { request } | Command::ChangeSubscription { request, .. } => {
                Some(&request.stream)
            }
            Command::Cancel { .. }
            | Command::Accept { .. }
            | Command::Reject { .. }
            | Command::Suspend { .. }
            | Command::Resume { .. }
            | Command::Revoke { .. }
            | Command::Fail { .. }
            | Command::Grant { .. }
            | Command::CreateToken { .. }
            | Command::RevokeToken { .. } => None,
        }
    }

    /// The subscription that it names.
    #[must_use]
    pub fn subscription(&self) -> Option<SubscriptionId> {
        match self {
            Command::ChangeSubscription { id, .. }
            | Command::Cancel { id, .. }
            | Command::Accept { id, .. }
            | Command::Reject { id, .. }
            | Command::Suspend { id, .. }
            | Command::Resume { id, .. }
            | Command::Revoke { id, .. }
            | Command::Fail { id, .. }
            | Command::Grant { id } => Some(*id),
            Command::PutStream { .. }
            | Command::PatchStream { .. }
            | Command::RetireStream { .. }
            | Command::Subscribe { .. }
            | Command::CreateToken { .. }
            | Command::RevokeToken { .. } => None,
        }
    }

    /// What it would do, in audit events.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Command::PutStream { .. } | Command::PatchStream { .. } => "change",
            Command::RetireStream { .. } => "retire",
            Command::Subscribe { .. } | Command::ChangeSubscription { .. } => "subscribe",
            Command::Cancel { .. } => "cancel",
            Command::Accept { .. } => "accept",
            Command::Reject { .. } => "reject",
            Command::Suspend { .. } => "suspend",
            Command::Resume { .. } => "resume",
            Command::Revoke { .. } => "revoke",
            Command::Fail { .. } => "fail",
            Command::Grant { .. } => "grant",
            Command::CreateToken { .. } | Command::RevokeToken { .. } => "tokens",
        }
    }
}

/// What was decided.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// A stream as it is now.
    Stream {
        /// The stream.
        stream: Arc<Stream>,
        /// Whether it is new.
        created: bool,
    },
    /// The stream is gone.
    Retired,
    /// A subscription as it is now.
    Subscription {
        /// The subscription.
        subscription: Arc<Subscription>,
        /// A grant, shown this once.
        grant: Option<Grant>,
        /// The secret of a request without a name, shown this once.
        secret: Option<Secret>,
    },
    /// A new token.
    Token {
        /// The token.
        token: Arc<Token>,
        /// What its holder sends; shown this once.
        bearer: Secret,
    },
    /// The token is no more.
    TokenRevoked,
}

/// A credential as its holder gets it, once.
#[derive(Clone, Debug)]
pub struct Grant {
    /// What to send as `Authorization: Bearer`.
    pub bearer: Secret,
    /// When it ends.
    pub expires: Time,
    /// From when on it should be renewed.
    pub renew: Time,
}

/// A secret on its way to its holder. Does not print itself.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Box<str>);

impl Secret {
    /// Wraps a secret text.
    #[must_use]
    pub fn new(text: impl Into<Box<str>>) -> Self {
        Self(text.into())
    }

    /// The text, for the one answer that holds it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}
