//! A decision: one event that holds all that it changes, with who, why and when.
//!
//! On the log a decision is a CloudEvent of the private stream `_weir.state`: its type says what was decided,
//! `time` when, `subject` about what, and the JSON data holds `who`, `why` and the records as they are from then
//! on. Nothing spans two of them. A type or member that this program does not know means that a newer one wrote
//! here, and the node then refuses to start rather than to guess.

use std::sync::Arc;

use serde_json::{Map, Value, json};
use weir_event::flow::{StreamName, Time};
use weir_event::{Data, Event, proto};

use super::members::{Members, bad};
use super::record::{Stream, Token, TokenId, needed};
use super::subscription::{Subscription, SubscriptionId, Why};
use crate::error::{Code, Error};

macro_rules! kinds {
    ($($(#[doc = $doc:literal])+ $variant:ident $name:literal $subject:ident;)+) => {
        /// What was decided; the type of the decision's event and of what `_weir.audit` says of it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Kind { $($(#[doc = $doc])+ $variant,)+ }

        impl Kind {
            /// All of them.
            pub const ALL: &'static [Kind] = &[$(Kind::$variant),+];

            /// The event type.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Kind::$variant => $name,)+ }
            }

            /// What it is about.
            #[must_use]
            pub fn about(self) -> About {
                match self { $(Kind::$variant => About::$subject,)+ }
            }
        }
    };
}

/// What a kind of decision is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum About {
    /// A stream that is there from then on.
    Stream,
    /// A stream that is not.
    Retired,
    /// A subscription.
    Subscription,
    /// A token that is there from then on.
    Token,
    /// A token that is not.
    TokenEnded,
}

kinds! {
    /// A stream was created.
    StreamCreated "weir.stream.created" Stream;
    /// A stream's descriptor was changed.
    StreamChanged "weir.stream.changed" Stream;
    /// A stream was retired.
    StreamRetired "weir.stream.retired" Retired;
    /// A subscription was asked for.
    Requested "weir.subscription.requested" Subscription;
    /// A request, or a change that was asked for, was accepted.
    Accepted "weir.subscription.accepted" Subscription;
    /// A request, or a change that was asked for, was rejected.
    Rejected "weir.subscription.rejected" Subscription;
    /// One side paused a subscription.
    Suspended "weir.subscription.suspended" Subscription;
    /// One side lifted its pause.
    Resumed "weir.subscription.resumed" Subscription;
    /// The consumer narrowed a subscription, or changed what needs no decision.
    Changed "weir.subscription.changed" Subscription;
    /// The consumer asked for more than was accepted.
    Asked "weir.subscription.asked" Subscription;
    /// A grant was collected or renewed.
    Granted "weir.subscription.granted" Subscription;
    /// The producer ended a subscription.
    Revoked "weir.subscription.revoked" Subscription;
    /// The consumer ended a subscription.
    Cancelled "weir.subscription.cancelled" Subscription;
    /// A subscription's or request's time was up.
    Expired "weir.subscription.expired" Subscription;
    /// A subscription could not be delivered.
    Failed "weir.subscription.failed" Subscription;
    /// A token was created.
    TokenCreated "weir.token.created" Token;
    /// A token was revoked.
    TokenRevoked "weir.token.revoked" TokenEnded;
    /// A token's time was up.
    TokenExpired "weir.token.expired" TokenEnded;
}

/// One decision.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// What was decided.
    pub kind: Kind,
    /// Who decided: a caller's name, `policy` or `node`.
    pub who: Box<str>,
    /// What they said.
    pub why: Option<Box<str>>,
    /// When.
    pub when: Time,
    /// What it changes.
    pub change: Change,
}

/// What a decision changes: the records as they are from then on.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// A stream is, or is other than before.
    Stream {
        /// The stream; its `revision` is this decision's position, whatever it says.
        stream: Arc<Stream>,
        /// Subscriptions that end with the change.
        closes: Closes,
    },
    /// A stream is no more.
    Retired {
        /// Which.
        stream: StreamName,
        /// Its subscriptions, which end with it.
        closes: Closes,
    },
    /// A subscription is, or is other than before. Its `revision` is this decision's position, and so is `terms` if
    /// that is none.
    Subscription(Arc<Subscription>),
    /// A token is.
    Token(Arc<Token>),
    /// A token is no more.
    TokenEnded(TokenId),
}

/// Subscriptions that end as a consequence.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Closes {
    /// Which.
    pub subscriptions: Vec<SubscriptionId>,
}

impl Change {
    /// Why subscriptions end with this change.
    #[must_use]
    pub fn closes_why(&self) -> Why {
        match self {
            Change::Retired { .. } => Why::Retired,
            Change::Stream { .. } | Change::Subscription(_) | Change::Token(_) | Change::TokenEnded(_) => {
                Why::Revoked
            }
        }
    }

    /// What the decision is about, as its event's `subject`.
    #[must_use]
    pub fn subject(&self) -> String {
        match self {
            Change::Stream { stream, .. } => stream.name.to_string(),
            Change::Retired { stream, .. } => stream.to_string(),
            Change::Subscription(subscription) => subscription.id.to_string(),
            Change::Token(token) => token.id.to_string(),
            Change::TokenEnded(id) => id.to_string(),
        }
    }
}

/// The `source` of decisions and of what is derived from them.
pub const SOURCE: &str = "/_weir";

impl Decision {
    /// The decision as the one event of a stored batch. `id` is random, given by whoever decides.
    pub fn encode(&self, id: &str, out: &mut Vec<u8>) -> Result<(), Error> {
        let mut data = Map::new();
        data.insert("who".into(), self.who.as_ref().into());
        if let Some(why) = self.why.as_deref() {
            data.insert("why".into(), why.into());
        }
        let mut closes = |closes: &Closes| {
            if !closes.subscriptions.is_empty() {
                let ids: Vec<_> = closes.subscriptions.iter().map(ToString::to_string).collect();
                data.insert("closes".into(), json!(ids));
            }
        };
        match &self.change {
            Change::Stream { stream, closes: ids } => {
                closes(ids);
                data.insert("stream".into(), stream.to_record());
            }
            Change::Retired { stream, closes: ids } => {
                closes(ids);
                data.insert("retired".into(), stream.as_str().into());
            }
            Change::Subscription(subscription) => {
                data.insert("subscription".into(), subscription.to_record());
            }
            Change::Token(token) => {
                data.insert("token".into(), token.to_record());
            }
            Change::TokenEnded(id) => {
                data.insert("ended".into(), id.to_string().into());
            }
        }
        let event = event(id, self.kind.name(), self.when, &self.change.subject(), &Value::Object(data));
        proto::push(&event.map_err(Error::internal)?, out);
        Ok(())
    }

    /// Reads a decision back from its event.
    ///
    /// Errors: `corrupt`, also for what a newer program wrote.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let event = proto::decode(bytes).map_err(|error| damaged("is no event").caused_by(error))?;
        let kind = Kind::ALL
            .iter()
            .copied()
            .find(|kind| kind.name() == event.ty())
            .ok_or_else(|| damaged("is of a type that only a newer program knows"))?;
        let when = event.time().and_then(|time| time.to_string().parse().ok());
        let when = when.ok_or_else(|| damaged("has no time"))?;
        let data = event.data().map(|data| data.bytes.as_ref()).unwrap_or_default();
        let data: Value =
            serde_json::from_slice(data).map_err(|error| damaged("is not JSON").caused_by(error))?;
        Self::of(kind, when, &data).map_err(|error| {
            let what = format!("can not be read, a newer program may have written it: {error}");
            damaged(&what)
        })
    }

    fn of(kind: Kind, when: Time, data: &Value) -> Result<Self, Error> {
        let known = ["who", "why", "closes", "stream", "retired", "subscription", "token", "ended"];
        let members = Members::of(data, "", &known)?;
        let record = |name: &str| members.get(name).ok_or_else(|| bad(name, "must be there"));
        let ids = members.get("closes").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let mut closes = Closes::default();
        for id in ids {
            let id = id.as_str().and_then(|id| id.parse().ok());
            closes.subscriptions.push(id.ok_or_else(|| bad("closes", "must be a list of subscriptions"))?);
        }
        let change = match kind.about() {
            About::Stream => {
                Change::Stream { stream: Arc::new(Stream::from_record(record("stream")?)?), closes }
            }
            About::Retired => Change::Retired { stream: needed(&members, "retired")?, closes },
            About::Subscription => {
                Change::Subscription(Arc::new(Subscription::from_record(record("subscription")?)?))
            }
            About::Token => Change::Token(Arc::new(Token::from_record(record("token")?)?)),
            About::TokenEnded => Change::TokenEnded(needed(&members, "ended")?),
        };
        let who = members.get("who").and_then(Value::as_str).unwrap_or_default().into();
        let why = members.get("why").and_then(Value::as_str).map(Box::from);
        Ok(Self { kind, who, why, when, change })
    }
}

/// An event of the node itself.
pub(super) fn event(
    id: &str,
    ty: &'static str,
    time: Time,
    subject: &str,
    data: &Value,
) -> Result<Event<'static>, weir_event::Error> {
    let mut event = Event::new(id.to_owned(), SOURCE, ty)?;
    event.set("time", time.to_string())?;
    if !subject.is_empty() {
        event.set("subject", subject.to_owned())?;
    }
    event.set("datacontenttype", "application/json")?;
    event.set_data(Some(Data::text(data.to_string())));
    Ok(event)
}

fn damaged(what: &str) -> Error {
    Error::new(Code::Corrupt, format!("a decision in _weir.state {what}"))
}
