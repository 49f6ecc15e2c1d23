//! What can go wrong in a node, as its callers see it.
//!
//! Every part of the node answers with one [`Error`]: a [`Code`], which is part of the public interface and never
//! changes its meaning; a message that is safe to show to a stranger and says what to do; extra members for
//! programs; when to try again; and, for the node's own log only, the cause.
//!
//! A code belongs to one [`Kind`], chosen by what the caller can do about it. Code inside the node decides by
//! kind; each protocol maps codes to its own numbers in one function without a wildcard arm (`http/problem.rs`
//! for HTTP), so that a new code does not compile until every protocol has an answer for it.
//!
//! All codes stand in one table below, with the words from which `docs/errors.md` is generated. What a message
//! may hold: names that the caller itself sent or may see, limits, expectations. Never: secrets, payloads, paths
//! or addresses of the node, or whether something exists that the caller may not know of.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};

/// What a caller can do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The request is wrong; send a different one.
    Invalid,
    /// There is no such thing, or the caller may not know of it.
    NotFound,
    /// The caller may not do this; somebody must grant it.
    Denied,
    /// The request does not fit what is; look again and decide anew.
    Conflict,
    /// A limit was reached; wait, or have it raised.
    Exhausted,
    /// Not now, or not known; try the same again.
    Unavailable,
    /// It was, and will not be again.
    Closed,
    /// Stored data is damaged.
    Corrupt,
    /// A defect of ours.
    Internal,
}

impl Kind {
    /// Every kind, in the order of the reference.
    pub const ALL: [Kind; 9] = [
        Kind::Invalid,
        Kind::NotFound,
        Kind::Denied,
        Kind::Conflict,
        Kind::Exhausted,
        Kind::Unavailable,
        Kind::Closed,
        Kind::Corrupt,
        Kind::Internal,
    ];

    /// What to do about errors of this kind, in one sentence.
    #[must_use]
    pub fn advice(self) -> &'static str {
        match self {
            Kind::Invalid => "The request is wrong; repeating it changes nothing. Send a different one.",
            Kind::NotFound => "There is no such thing, or you may not know of it.",
            Kind::Denied => "You may not do this; somebody must grant it.",
            Kind::Conflict => "The request does not fit what is. Look again and decide anew.",
            Kind::Exhausted => "A limit was reached. Wait as long as `Retry-After` says, or have it raised.",
            Kind::Unavailable => "Not now, or the outcome is not known. Try the same again.",
            Kind::Closed => "It was, and will not be again.",
            Kind::Corrupt => "Stored data is damaged; the operator must act.",
            Kind::Internal => "A defect of the node; report it with the time it happened.",
        }
    }
}

macro_rules! codes {
    ($($(#[doc = $meaning:literal])+ $variant:ident $name:literal $kind:ident $title:literal do $action:literal;)+) => {
        /// The stable name of an error. Part of the public interface: names are added, never changed or reused.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Code {
            $($(#[doc = $meaning])+ $variant,)+
        }

        impl Code {
            /// Every code, in the order of the table.
            pub const ALL: &'static [Code] = &[$(Code::$variant),+];

            /// The name as it stands in `urn:weir:error:NAME`.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Code::$variant => $name,)+ }
            }

            /// What the caller can do about it.
            #[must_use]
            pub fn kind(self) -> Kind {
                match self { $(Code::$variant => Kind::$kind,)+ }
            }

            /// A short title, the same for every occurrence.
            #[must_use]
            pub fn title(self) -> &'static str {
                match self { $(Code::$variant => $title,)+ }
            }

            /// What it means, for the reference.
            #[must_use]
            pub fn meaning(self) -> &'static str {
                match self { $(Code::$variant => concat!($($meaning),+).trim_ascii(),)+ }
            }

            /// What to do about it, for the reference.
            #[must_use]
            pub fn action(self) -> &'static str {
                match self { $(Code::$variant => $action,)+ }
            }
        }
    };
}

codes! {
    /// The path, a header or the query is not what HTTP or this interface allows.
    MalformedRequest "malformed-request" Invalid "Malformed request"
        do "Send what `detail` asks for.";
    /// The body is not JSON, or not an object where one is expected.
    MalformedJson "malformed-json" Invalid "Malformed JSON"
        do "Correct the body at `line` and `column`.";
    /// The body is not the CloudEvent, or batch of CloudEvents, that its content type says. Nothing was stored.
    MalformedEvent "malformed-event" Invalid "Malformed event"
        do "Correct the event; in a batch `index` counts from 0.";
    /// The body is plain data, and the stream's descriptor does not say with `plain` how to make an event of it.
    MissingAttributes "missing-attributes" Invalid "Missing event attributes"
        do "Add the headers listed in `missing`, send a structured CloudEvent, or have the stream's owner set `plain`.";
    /// The body has a member that this call does not know.
    UnknownMember "unknown-member" Invalid "Unknown member"
        do "Remove `member`, or use the one in `nearest`.";
    /// The query has a parameter that this call does not know.
    UnknownParameter "unknown-parameter" Invalid "Unknown query parameter"
        do "Remove `parameter`, or use the one in `nearest`.";
    /// A member has a value of the wrong type or outside what is allowed.
    BadMember "bad-member" Invalid "Bad member"
        do "Correct the value of `member`.";
    /// A query parameter has a value that is not allowed.
    BadParameter "bad-parameter" Invalid "Bad query parameter"
        do "Correct the value of `parameter`.";
    /// A position, time or history is not one, or a range ends before it begins.
    BadPosition "bad-position" Invalid "Bad position or time"
        do "Use a position, an RFC 3339 time, `earliest` or `latest`.";
    /// A filter is not one of the dialects, or an expression does not parse.
    BadFilter "bad-filter" Invalid "Bad filter"
        do "Correct the filter; an expression's error says `line`, `column` and what was `expected`.";
    /// A filter names a dialect that this node does not know.
    UnsupportedDialect "unsupported-dialect" Invalid "Unsupported filter dialect"
        do "Use one of the dialects in `supported`.";
    /// A subscription asks for a protocol, sink or protocol setting that this node does not deliver by.
    UnsupportedProtocol "unsupported-protocol" Invalid "Unsupported protocol"
        do "Use one of the protocols in `supported`.";
    /// A name is not dot-separated tokens of `a-z`, `0-9`, `_` and `-`, at most 249 characters.
    BadName "bad-name" Invalid "Ill-formed name"
        do "Use a name such as `weather.us.ny`; a name from elsewhere can become an alias.";
    /// Names whose first character is `_` belong to the node itself.
    ReservedName "reserved-name" Invalid "Reserved name"
        do "Use a name that does not begin with `_`.";
    /// A request without a credential must say whom the producer can reach.
    ContactRequired "contact-required" Invalid "Contact required"
        do "Add `config.contact`, or send a token.";
    /// The path exists, the method does not.
    MethodNotAllowed "method-not-allowed" Invalid "Method not allowed"
        do "Use one of the methods in the `Allow` header.";
    /// The answer can't be given in any of the forms that `Accept` asks for.
    NotAcceptable "not-acceptable" Invalid "Not acceptable"
        do "Accept one of the media types in `supported`.";
    /// The content type of the body is not one that this call takes.
    UnsupportedMediaType "unsupported-media-type" Invalid "Unsupported media type"
        do "Send one of the media types in `supported`.";
    /// The body is compressed or otherwise encoded in a way that this node does not read.
    UnsupportedEncoding "unsupported-encoding" Invalid "Unsupported content encoding"
        do "Send the body without `Content-Encoding`.";
    /// The body of a control call is larger than the node reads.
    BodyTooLarge "body-too-large" Invalid "Body too large"
        do "Send at most `limit` bytes.";
    /// One event is larger than the node takes. Nothing was stored.
    EventTooLarge "event-too-large" Invalid "Event too large"
        do "Keep each event within `limit` bytes, or publish a link to the data.";
    /// The attributes of one event are larger than the node takes. Nothing was stored.
    AttributesTooLarge "attributes-too-large" Invalid "Attributes too large"
        do "Keep an event's attributes within `limit` bytes; data belongs into `data`.";
    /// The batch is larger than the node takes. Nothing was stored.
    BatchTooLarge "batch-too-large" Invalid "Batch too large"
        do "Send batches of at most `limit` bytes.";
    /// The batch has more events than the node takes. Nothing was stored.
    TooManyEvents "too-many-events" Invalid "Too many events in a batch"
        do "Send batches of at most `limit` events.";
    /// The request was not sent to the end in time.
    RequestTimeout "request-timeout" Invalid "Request timed out"
        do "Send the request again, on a connection that is fast enough.";

    /// There is no such path.
    NotFound "not-found" NotFound "Not found"
        do "See `/openapi.json` for every call.";
    /// There is no such stream, or the caller may not know of it.
    UnknownStream "unknown-stream" NotFound "Unknown stream"
        do "Use one of the names in `near`, search with `GET /streams?q=`, or send a token that may see it.";
    /// There is no such subscription, or it is somebody else's.
    UnknownSubscription "unknown-subscription" NotFound "Unknown subscription"
        do "Send the credential that the subscription was made with, or its secret.";
    /// There is no such token.
    UnknownToken "unknown-token" NotFound "Unknown token"
        do "List the tokens with `GET /tokens`.";

    /// The call needs a credential, and none was sent.
    CredentialRequired "credential-required" Denied "Credential required"
        do "Send `Authorization: Bearer TOKEN`.";
    /// The credential is not known, has expired or was revoked.
    BadCredential "bad-credential" Denied "Credential not accepted"
        do "Ask whoever issued it for a new one.";
    /// The credential is good, but not for this.
    NotAllowed "not-allowed" Denied "Not allowed"
        do "Send a credential with what `needed` names.";
    /// The subscription is requested and not yet decided.
    NotDecided "not-decided" Denied "Not yet decided"
        do "Wait for the decision: `GET` the subscription with `Prefer: wait=60`.";
    /// The subscription is suspended.
    Suspended "suspended" Denied "Subscription suspended"
        do "Whoever `by` names can resume it.";
    /// The node serves without credentials on loopback only, and the request names another host.
    ForeignHost "foreign-host" Denied "Foreign host"
        do "Use a loopback address, or configure the node's `url` and a token.";
    /// The request comes from a web page of another origin, and the node takes calls without credentials.
    ForeignOrigin "foreign-origin" Denied "Foreign origin"
        do "Call from outside a browser, or give the node a token.";

    /// What exists may only be replaced by someone who says which version they saw.
    IfMatchRequired "if-match-required" Conflict "If-Match required"
        do "Read it, then repeat with `If-Match` and its `ETag`.";
    /// It has changed since the version named in `If-Match`, or exists despite `If-None-Match: *`.
    PreconditionFailed "precondition-failed" Conflict "Changed meanwhile"
        do "Read it again and decide anew; `etag` is the current one.";
    /// The change deletes data or ends subscriptions.
    ConfirmationRequired "confirmation-required" Conflict "Confirmation required"
        do "If the `effects` are meant, repeat with `?confirm=` and the token in `confirm`.";
    /// The subscription's state does not allow this.
    WrongState "wrong-state" Conflict "Not possible in this state"
        do "Look at `state`; it may have been decided already.";
    /// The last position is not the expected one. Nothing was stored.
    HeadMoved "head-moved" Conflict "Expected position not met"
        do "The last position is `head`; decide anew from there.";
    /// The positions belong to another history of the stream.
    HistoryChanged "history-changed" Conflict "Other history"
        do "Choose where to go on in the current `history`.";
    /// A producer's sequence does not continue where it ended. Nothing was stored.
    SequenceGap "sequence-gap" Conflict "Producer sequence does not continue"
        do "Publish from the sequence number that the stream expects, or take a new producer id.";
    /// A number of things has reached its limit.
    LimitReached "limit-reached" Exhausted "Limit reached"
        do "Remove some, or have the operator raise `limit`.";
    /// The caller has used up its budget.
    OverBudget "over-budget" Exhausted "Over budget"
        do "Wait as long as `Retry-After` says.";
    /// Too many requests from this address, or too many undecided ones on this stream.
    TooManyRequests "too-many-requests" Exhausted "Too many requests"
        do "Wait as long as `Retry-After` says, or send a token.";
    /// The node has as many connections as it may have.
    TooManyConnections "too-many-connections" Exhausted "Too many connections"
        do "Wait as long as `Retry-After` says.";
    /// The disk is full, or so nearly full that the node keeps the rest for readers and decisions. Nothing was stored.
    DiskFull "disk-full" Exhausted "Disk full"
        do "Send the same events again after `Retry-After`; the operator must make room.";
    /// More waits to be written than the node holds in memory. Nothing was stored.
    QueueFull "queue-full" Exhausted "Queue full"
        do "Send the same events again after `Retry-After`.";

    /// The events may or may not be stored: the disk failed while they were written.
    OutcomeUnknown "outcome-unknown" Unavailable "Outcome unknown"
        do "Send the same events with the same ids again; duplicates are recognized.";
    /// The node is starting, stopping or behind its own decisions.
    NotReady "not-ready" Unavailable "Not ready"
        do "Try again after `Retry-After`.";

    /// The stream was retired.
    Retired "retired" Closed "Stream retired"
        do "Ask the owner where its events went.";
    /// The subscription is closed.
    SubscriptionClosed "subscription-closed" Closed "Subscription closed"
        do "See `reason`; subscribe anew if you want to go on.";

    /// Stored events are damaged at these positions; everything else can be read.
    Corrupt "corrupt" Corrupt "Stored data is damaged"
        do "Read on after `to`; the operator can run `weir log check` and `weir log repair`.";
    /// A defect of the node.
    Internal "internal" Internal "Internal error"
        do "Report it with the time it happened; the node's log has the cause.";
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// An error of the node; one word wide, cheap to clone.
///
/// `Display` is the safe message: lower case, no full stop. [`std::error::Error::source`] is the cause, for the
/// node's own log.
#[derive(Clone)]
pub struct Error(Arc<Inner>);

#[derive(Clone)]
struct Inner {
    code: Code,
    message: Cow<'static, str>,
    members: Map<String, Value>,
    retry_after: Option<Duration>,
    cause: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error with its safe message, which must hold nothing that the caller may not know.
    pub fn new(code: Code, message: impl Into<Cow<'static, str>>) -> Self {
        Self(Arc::new(Inner {
            code,
            message: message.into(),
            members: Map::new(),
            retry_after: None,
            cause: None,
        }))
    }

    /// A defect of ours: the caller sees only that there is one, the log gets `cause`.
    pub fn internal(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::new(Code::Internal, "the node failed to do this; its log says why").caused_by(cause)
    }

    /// Adds a member for programs, such as `nearest` or `limit`. The members `type`, `title`, `status`, `detail`
    /// and `instance` belong to the problem itself and are ignored here.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        if !matches!(name, "type" | "title" | "status" | "detail" | "instance") {
            Arc::make_mut(&mut self.0).members.insert(name.to_owned(), value.into());
        }
        self
    }

    /// Adds when to try again; protocols round up to whole seconds, at least one.
    #[must_use]
    pub fn retry_after(mut self, after: Duration) -> Self {
        Arc::make_mut(&mut self.0).retry_after = Some(after);
        self
    }

    /// Adds the cause, which goes to the node's log and to nobody else.
    #[must_use]
    pub fn caused_by(mut self, cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Arc::make_mut(&mut self.0).cause = Some(Arc::from(cause.into()));
        self
    }

    /// The stable name.
    #[must_use]
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// What the caller can do about it.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.0.code.kind()
    }

    /// The safe message.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// Extra members for programs.
    #[must_use]
    pub fn members(&self) -> &Map<String, Value> {
        &self.0.members
    }

    /// When to try again, if that helps.
    #[must_use]
    pub fn retry_hint(&self) -> Option<Duration> {
        self.0.retry_after
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Error");
        debug.field("code", &self.0.code.name()).field("message", &self.0.message);
        if let Some(cause) = &self.0.cause {
            debug.field("cause", cause);
        }
        debug.finish_non_exhaustive()
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.cause.as_deref().map(|cause| cause as &(dyn std::error::Error + 'static))
    }
}

impl PartialEq for Error {
    /// Equal to a caller: causes are not compared.
    fn eq(&self, other: &Self) -> bool {
        self.0.code == other.0.code && self.0.message == other.0.message && self.0.members == other.0.members
    }
}

impl From<weir_log::Error> for Error {
    /// The log's kinds as publishers and readers see them. The log's own words may name files, so they become
    /// the cause.
    fn from(error: weir_log::Error) -> Self {
        let retry_after = error.retry_hint();
        let mapped = match error.kind() {
            weir_log::Kind::NotFound => Self::new(Code::UnknownStream, "there is no such stream"),
            weir_log::Kind::Conflict => match error.actual_head() {
                Some(head) => Self::new(Code::HeadMoved, "the last position is not the expected one")
                    .with("head", head.0),
                None => {
                    Self::new(Code::SequenceGap, "the producer's sequence does not continue where it ended")
                }
            },
            weir_log::Kind::Exhausted if error.is_busy() => {
                Self::new(Code::QueueFull, "more waits to be written than the node holds in memory")
                    .retry_after(Duration::from_secs(1))
            }
            weir_log::Kind::Exhausted => Self::new(Code::DiskFull, "the node has no room for more events")
                .retry_after(Duration::from_secs(5)),
            weir_log::Kind::Unavailable => {
                Self::new(Code::OutcomeUnknown, "the outcome is unknown, send the same ids again")
                    .retry_after(Duration::from_secs(1))
            }
            weir_log::Kind::Closed => {
                Self::new(Code::NotReady, "the node is stopping").retry_after(Duration::from_secs(1))
            }
            weir_log::Kind::Corrupt => {
                let mapped = Self::new(Code::Corrupt, "stored events are damaged here");
                match error.damaged() {
                    Some((from, to)) => mapped.with("from", from.0).with("to", to.0),
                    None => mapped,
                }
            }
            // The node makes every call to the log, so one that makes no sense is the node's defect.
            weir_log::Kind::Invalid | weir_log::Kind::Internal => return Self::internal(error),
        };
        let mapped = match retry_after {
            Some(after) => mapped.retry_after(after),
            None => mapped,
        };
        mapped.caused_by(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_kebab_case_and_every_row_has_its_words() {
        let mut names: Vec<_> = Code::ALL.iter().map(|code| code.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Code::ALL.len());
        for code in Code::ALL {
            assert!(code.name().bytes().all(|b| b.is_ascii_lowercase() || b == b'-'), "{code}");
            assert!(code.meaning().ends_with('.') && code.action().ends_with('.'), "{code}");
            assert!(!code.title().ends_with('.'), "{code}");
        }
    }

    #[test]
    fn a_cause_is_kept_for_the_log_and_not_shown() {
        let error = Error::internal("secret path").with("status", 1).with("near", "x");
        assert!(!error.to_string().contains("secret"));
        assert_eq!(std::error::Error::source(&error).unwrap().to_string(), "secret path");
        assert_eq!(error.members().len(), 1);
    }
}
