//! Plans about streams: create, replace, change, retire.

use std::sync::Arc;

use serde_json::Value;
use sha2::{Digest, Sha256};
use weir_event::flow::{History, Position, StreamName};
use weir_log::{Retention, StreamId};

use super::{Answer, Desk, Plan};
use crate::control::access::{self, Action, Caller, Part, Role};
use crate::control::command::Seen;
use crate::control::decision::{Change, Closes, Kind};
use crate::control::descriptor::{Access, Descriptor};
use crate::control::limits::STREAMS_MAX;
use crate::control::quantity::{duration_text, size_text};
use crate::control::record::Stream;
use crate::control::snapshot::hex;
use crate::control::subscription::SubscriptionId;
use crate::error::{Code, Error};

/// Create a stream, or replace its descriptor.
pub(in crate::control) fn put(
    desk: &Desk<'_>,
    name: StreamName,
    descriptor: Descriptor,
    seen: &Seen,
    confirm: Option<&str>,
) -> Result<Plan, Error> {
    may_write(desk, &name)?;
    let Some(stream) = desk.state.stream(name.as_str()) else {
        return create(desk, name, descriptor, seen);
    };
    match seen {
        // Saying the same again changes nothing, so it needs no proof of having looked.
        Seen::Unsaid if stream.descriptor == descriptor => {}
        Seen::Unsaid => {
            let what = format!("the stream {name} exists; replacing its descriptor needs If-Match");
            return Err(Error::new(Code::IfMatchRequired, what).with("etag", stream.revision.0));
        }
        seen => check(stream, seen)?,
    }
    change(desk, stream, descriptor, confirm)
}

/// Change members of a stream's descriptor.
pub(in crate::control) fn patch(
    desk: &Desk<'_>,
    name: &StreamName,
    patch: &Value,
    seen: &Seen,
    confirm: Option<&str>,
) -> Result<Plan, Error> {
    let stream = existing(desk, name, seen)?;
    let descriptor = stream.descriptor.patched(patch)?;
    change(desk, stream, descriptor, confirm)
}

/// Retire a stream.
pub(in crate::control) fn retire(
    desk: &Desk<'_>,
    name: &StreamName,
    seen: &Seen,
    confirm: Option<&str>,
    reason: Option<Box<str>>,
) -> Result<Plan, Error> {
    let stream = existing(desk, name, seen)?;
    let ends: Vec<_> = live(desk, stream.id).collect();
    let mut effects = Vec::new();
    let status = desk.log.status(stream.id)?;
    if !status.first.is_none() {
        effects.push(format!("deletes {} events", status.last.0.saturating_sub(status.first.0) + 1));
    }
    if !ends.is_empty() {
        effects.push(format!("ends {} subscriptions", ends.len()));
    }
    confirmed(stream, "retire", &effects, &ends, confirm)?;
    let change = Change::Retired { stream: name.clone(), closes: Closes { subscriptions: ends } };
    let decision = desk.decision(Kind::StreamRetired, reason, change);
    Ok(Plan { decision: Some(decision), drawn: Vec::new(), answer: Answer::Retired })
}

/// Whether the caller may create a stream of this name or replace it. The answer is the same whether there is one
/// that they may not see or none at all.
fn may_write(desk: &Desk<'_>, name: &StreamName) -> Result<(), Error> {
    if name.is_reserved() {
        let what = format!("{name} belongs to the node itself: names that begin with _ are reserved");
        return Err(Error::new(Code::ReservedName, what));
    }
    match desk.caller {
        Caller::Node | Caller::Open => Ok(()),
        Caller::Token(token) if token.role == Role::Owner && token.streams.covers(name) => Ok(()),
        caller => Err(super::denied(caller, "a token with the role owner for streams of this name")),
    }
}

fn existing<'d>(desk: &'d Desk<'_>, name: &StreamName, seen: &Seen) -> Result<&'d Arc<Stream>, Error> {
    if name.is_reserved() {
        may_write(desk, name)?;
    }
    let stream = desk.authorized(Action::Change, name.as_str())?;
    check(stream, seen)?;
    Ok(stream)
}

fn check(stream: &Stream, seen: &Seen) -> Result<(), Error> {
    let what = match seen {
        Seen::Unsaid | Seen::Any => return Ok(()),
        Seen::Version(version) if *version == stream.revision => return Ok(()),
        Seen::Version(_) => format!("the stream {} has changed since that version", stream.name),
        Seen::Nothing => format!("the stream {} exists already", stream.name),
    };
    Err(Error::new(Code::PreconditionFailed, what).with("etag", stream.revision.0))
}

fn create(desk: &Desk<'_>, name: StreamName, descriptor: Descriptor, seen: &Seen) -> Result<Plan, Error> {
    if matches!(seen, Seen::Any | Seen::Version(_)) {
        return Err(Error::new(Code::PreconditionFailed, format!("there is no stream {name} to replace")));
    }
    if desk.state.streams().len() >= STREAMS_MAX {
        let what = format!("the node holds {STREAMS_MAX} streams, retire some first");
        return Err(Error::new(Code::LimitReached, what).with("limit", STREAMS_MAX));
    }
    let stream = Stream {
        id: desk.state.next_stream(),
        name: name.clone(),
        descriptor,
        history: History(desk.random()?),
        created: desk.now,
        revision: Position::NONE,
    };
    let change = Change::Stream { stream: Arc::new(stream), closes: Closes::default() };
    let decision = desk.decision(Kind::StreamCreated, None, change);
    Ok(Plan { decision: Some(decision), drawn: Vec::new(), answer: Answer::Stream { name, created: true } })
}

fn change(
    desk: &Desk<'_>,
    stream: &Arc<Stream>,
    descriptor: Descriptor,
    confirm: Option<&str>,
) -> Result<Plan, Error> {
    let answer = Answer::Stream { name: stream.name.clone(), created: false };
    if stream.descriptor == descriptor {
        return Ok(Plan { decision: None, drawn: Vec::new(), answer });
    }
    let mut effects = deletes(desk, stream, &descriptor.retention)?;
    let changed = Stream { descriptor, ..Stream::clone(stream) };
    let ends: Vec<_> = live(desk, stream.id).filter(|id| ends_with(desk, *id, stream, &changed)).collect();
    if !ends.is_empty() {
        effects.push(format!("ends {} subscriptions, whose access it takes away", ends.len()));
    }
    let described = changed.descriptor.to_stored().to_string();
    confirmed(stream, &described, &effects, &ends, confirm)?;
    let change = Change::Stream { stream: Arc::new(changed), closes: Closes { subscriptions: ends } };
    let decision = desk.decision(Kind::StreamChanged, None, change);
    Ok(Plan { decision: Some(decision), drawn: Vec::new(), answer })
}

/// The subscriptions of a stream that are not closed.
fn live<'d>(desk: &'d Desk<'_>, stream: StreamId) -> impl Iterator<Item = SubscriptionId> + 'd {
    let all = desk.state.subscriptions_of(stream, None);
    all.filter(|subscription| !subscription.status.is_closed()).map(|subscription| subscription.id)
}

/// What a new retention would delete, in words; empty if it keeps at least as much or there is nothing yet.
fn deletes(desk: &Desk<'_>, stream: &Stream, new: &Retention) -> Result<Vec<String>, Error> {
    fn shorter<T: Ord + Copy>(new: Option<T>, old: Option<T>) -> Option<T> {
        new.filter(|new| old.is_none_or(|old| *new < old))
    }
    let old = &stream.descriptor.retention;
    let mut effects = Vec::new();
    if desk.log.status(stream.id)?.first.is_none() {
        return Ok(effects);
    }
    if let Some(age) = shorter(new.age, old.age) {
        effects.push(format!("deletes the events older than {}", duration_text(age)));
    }
    if let Some(bytes) = shorter(new.bytes, old.bytes) {
        effects.push(format!("deletes all but the newest {} of events", size_text(bytes)));
    }
    if let Some(count) = shorter(new.count, old.count) {
        effects.push(format!("deletes all but the newest {count} events"));
    }
    Ok(effects)
}

/// Whether a change of access takes away what a subscription rests on. What a person accepted rests on that
/// decision until the stream is private; what the old access accepted must be accepted by the new one as well.
fn ends_with(desk: &Desk<'_>, id: SubscriptionId, old: &Stream, new: &Stream) -> bool {
    let (old, new) = (&old.descriptor, &new.descriptor);
    let Some(subscription) = desk.state.subscription(id) else { return false };
    if subscription.consumer.own || (old.access == new.access && old.allow == new.allow) {
        return false;
    }
    match new.access {
        Access::Open => false,
        Access::Approval => subscription.by_policy,
        Access::Allow => {
            let organization = subscription.consumer.organization.as_deref();
            !organization.is_some_and(|name| new.allow.iter().any(|allowed| **allowed == *name))
        }
        Access::Private => true,
    }
}

/// Whether what a change would do was confirmed. The token is made from the stream's version, the change and what
/// ends with it, so it fits nothing else and nothing is kept for it.
fn confirmed(
    stream: &Stream,
    change: &str,
    effects: &[String],
    ends: &[SubscriptionId],
    confirm: Option<&str>,
) -> Result<(), Error> {
    if effects.is_empty() {
        return Ok(());
    }
    let mut digest = Sha256::new();
    digest.update(stream.id.0.to_be_bytes());
    digest.update(stream.revision.0.to_be_bytes());
    ends.iter().for_each(|id| digest.update(id.0.to_be_bytes()));
    digest.update(change.as_bytes());
    let token = hex(&digest.finalize()).split_off(32);
    if confirm == Some(token.as_str()) {
        return Ok(());
    }
    let what =
        format!("this {}; repeat it with the token in confirm if that is meant", effects.join(" and "));
    Err(Error::new(Code::ConfirmationRequired, what).with("effects", effects.to_vec()).with("confirm", token))
}

/// Whether the caller owns everything on the node: tokens, status.
pub(in crate::control) fn may_run_node(caller: &Caller) -> Result<(), Error> {
    let fine = match caller {
        Caller::Node | Caller::Open => true,
        Caller::Token(token) => {
            token.role == Role::Owner && token.streams == crate::control::record::Pattern::all()
        }
        Caller::Anonymous { .. }
        | Caller::Grant { .. }
        | Caller::Ticket { .. }
        | Caller::Requester { .. } => false,
    };
    if fine { Ok(()) } else { Err(super::denied(caller, "a token with the role owner for all streams")) }
}

/// Whether the caller reads as the owner's own side, not as another organization.
pub(in crate::control) fn is_own_side(caller: &Caller, stream: &Stream) -> bool {
    matches!(access::part(caller, stream), Part::Owner | Part::Host | Part::Reader | Part::Publisher)
}
