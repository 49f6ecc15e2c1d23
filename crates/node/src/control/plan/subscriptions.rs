//! Plans about subscriptions: both sides' requests and decisions.
//!
//! Who may decide what: the producer's side accepts, rejects, suspends, resumes and revokes; the consumer's side
//! asks, changes, suspends, resumes, cancels, and collects grants. Whoever is on neither side is told that there
//! is no such subscription. What is decided stays decided: a second decision about the same request, or about
//! what is closed, answers `wrong-state`.

use std::sync::Arc;
use std::time::Duration;

use weir_event::flow::{Position, Time};

use super::streams::is_own_side;
use super::{Answer, Desk, Plan, denied};
use crate::control::access::{self, Action, Caller, Role, Verdict};
use crate::control::command::Grant;
use crate::control::decision::{Change, Kind};
use crate::control::limits::{
    GRANT_AGE, GRANT_OVERLAP, GRANTS_MAX, REQUEST_AGE, REQUESTS_PER_ADDRESS_MAX, REQUESTS_PER_STREAM_MAX,
    SUBSCRIPTIONS_MAX, UNNAMED_PER_ADDRESS_MAX,
};
use crate::control::members::bad;
use crate::control::record::Stream;
use crate::control::secrets::{Drawn, Holder};
use crate::control::subscription::{
    By, Consumer, GrantRef, Imposed, Request, Side, Status, Subscription, SubscriptionId, Why,
};
use crate::error::{Code, Error};

type Reason = Option<Box<str>>;

/// Ask for a subscription.
pub(in crate::control) fn subscribe(desk: &Desk<'_>, request: Request) -> Result<Plan, Error> {
    let stream = desk.authorized(Action::Subscribe, request.stream.as_str())?;
    let at_once = access::verdict(desk.caller, Action::Subscribe, stream) == Verdict::Yes;
    let consumer = consumer(desk.caller, stream, at_once);
    if consumer.is_unnamed() {
        if request.contact.is_none() {
            let what = "say in config.contact whom the producer can reach, or send a token";
            return Err(Error::new(Code::ContactRequired, what).with("member", "config.contact"));
        }
        within_limits(desk, stream, &consumer, at_once)?;
    }
    if desk.state.counts(stream.id).live >= SUBSCRIPTIONS_MAX {
        let what = format!("the stream {} has {SUBSCRIPTIONS_MAX} subscriptions", stream.name);
        return Err(Error::new(Code::LimitReached, what).with("limit", SUBSCRIPTIONS_MAX));
    }
    let mut id = SubscriptionId(desk.random()?);
    while desk.state.subscription(id).is_some() {
        id = SubscriptionId(desk.random()?);
    }
    let unnamed = consumer.is_unnamed();
    let mut subscription = Subscription {
        id,
        stream: stream.id,
        consumer,
        request: Arc::new(request),
        wanted: None,
        status: Status::Requested,
        by: By::Consumer,
        reason: None,
        by_policy: at_once,
        imposed: Arc::default(),
        start: None,
        grants: Box::default(),
        collected: false,
        created: desk.now,
        changed: desk.now,
        expires: Some(desk.after(REQUEST_AGE)),
        revision: Position::NONE,
        terms: Position::NONE,
    };
    if at_once {
        subscription.status = Status::Active;
        subscription.by = By::Policy;
        subscription.expires = None;
        subscription.start = desk.origin;
        let (drawn, grant) = issue(desk, &mut subscription)?;
        return Ok(planned(desk, Kind::Accepted, None, subscription, vec![drawn], Some(grant)));
    }
    if !unnamed {
        return Ok(planned(desk, Kind::Requested, None, subscription, Vec::new(), None));
    }
    let drawn = desk.secrets.draw(Holder::Request(id), desk.entropy).map_err(Error::internal)?;
    let secret = Some(drawn.secret.clone());
    let mut plan = planned(desk, Kind::Requested, None, subscription, vec![drawn], None);
    plan.answer = Answer::Subscription { id, grant: None, secret };
    Ok(plan)
}

/// Change a subscription: what asks for no more applies at once, what the stream's access accepts as well, and
/// the rest waits for the producer while what was accepted stays in force.
pub(in crate::control) fn change(
    desk: &Desk<'_>,
    id: SubscriptionId,
    request: Request,
) -> Result<Plan, Error> {
    let (mut subscription, stream) = as_consumer(desk, id)?;
    open(&subscription)?;
    if request.stream != subscription.request.stream {
        return Err(bad("config.stream", "can not be changed; cancel this one and subscribe to the other"));
    }
    if subscription.consumer.is_unnamed() && request.contact.is_none() {
        let what = "say in config.contact whom the producer can reach";
        return Err(Error::new(Code::ContactRequired, what).with("member", "config.contact"));
    }
    if *subscription.request == request {
        subscription.wanted = None;
    } else if subscription.status == Status::Requested {
        subscription.request = Arc::new(request);
    } else if request.is_within(&subscription.request, subscription.start)
        || accepted_by_policy(desk, &subscription, stream)
    {
        if request.from != subscription.request.from {
            subscription.start = desk.origin;
        }
        subscription.request = Arc::new(request);
        subscription.wanted = None;
        subscription.terms = Position::NONE;
    } else {
        subscription.wanted = Some(Arc::new(request));
        subscription.changed = desk.now;
        return Ok(planned(desk, Kind::Asked, None, subscription, Vec::new(), None));
    }
    subscription.changed = desk.now;
    Ok(planned(desk, Kind::Changed, None, subscription, Vec::new(), None))
}

/// Accept a request, or the change that a subscription waits for.
pub(in crate::control) fn accept(
    desk: &Desk<'_>,
    id: SubscriptionId,
    reason: Reason,
    imposed: Imposed,
) -> Result<Plan, Error> {
    let mut subscription = as_producer(desk, id)?;
    if imposed.expires.is_some_and(|expires| expires <= desk.now) {
        return Err(bad("expires", "lies in the past"));
    }
    let unnamed = subscription.consumer.is_unnamed();
    if let Some(wanted) = subscription.wanted.take() {
        if wanted.from != subscription.request.from || imposed.from != subscription.imposed.from {
            subscription.start = desk.origin;
        }
        subscription.request = wanted;
        subscription.expires = earlier(imposed.expires, grants_end(&subscription).filter(|_| unnamed));
    } else if subscription.status == Status::Requested {
        // Who has a token needs nothing more to read. Who has no name collects a grant first.
        subscription.status = if unnamed { Status::Accepted } else { Status::Active };
        subscription.start = desk.origin;
        let collect_until = unnamed.then(|| desk.after(REQUEST_AGE));
        subscription.expires = earlier(imposed.expires, collect_until);
    } else {
        return Err(wrong_state(&subscription, "accepted"));
    }
    subscription.imposed = Arc::new(imposed);
    subscription.terms = Position::NONE;
    subscription.by = By::Producer;
    subscription.by_policy = false;
    let subscription = said(desk, subscription, reason.clone());
    Ok(planned(desk, Kind::Accepted, reason, subscription, Vec::new(), None))
}

/// Reject a request, or the change that a subscription waits for, which then goes on as it was.
pub(in crate::control) fn reject(desk: &Desk<'_>, id: SubscriptionId, reason: Reason) -> Result<Plan, Error> {
    let mut subscription = as_producer(desk, id)?;
    if subscription.wanted.take().is_some() {
        subscription.by = By::Producer;
        subscription = said(desk, subscription, reason.clone());
    } else if subscription.status == Status::Requested {
        subscription.close(Why::Rejected, By::Producer, reason.clone(), desk.now);
    } else {
        return Err(wrong_state(&subscription, "rejected"));
    }
    Ok(planned(desk, Kind::Rejected, reason, subscription, Vec::new(), None))
}

/// Pause, as the side that the caller is on.
pub(in crate::control) fn suspend(
    desk: &Desk<'_>,
    id: SubscriptionId,
    reason: Reason,
) -> Result<Plan, Error> {
    let (mut subscription, side) = as_either(desk, id)?;
    let (mut producer, mut consumer) = match subscription.status {
        Status::Active | Status::Accepted => (false, false),
        Status::Suspended { producer, consumer } => (producer, consumer),
        Status::Requested | Status::Closed(_) => return Err(wrong_state(&subscription, "suspended")),
    };
    let own = match side {
        Side::Producer => &mut producer,
        Side::Consumer => &mut consumer,
    };
    if std::mem::replace(own, true) {
        return Err(wrong_state(&subscription, "suspended again"));
    }
    subscription.status = Status::Suspended { producer, consumer };
    subscription.by = by(side);
    let subscription = said(desk, subscription, reason.clone());
    Ok(planned(desk, Kind::Suspended, reason, subscription, Vec::new(), None))
}

/// Lift one's own pause.
pub(in crate::control) fn resume(desk: &Desk<'_>, id: SubscriptionId, reason: Reason) -> Result<Plan, Error> {
    let (mut subscription, side) = as_either(desk, id)?;
    let Status::Suspended { mut producer, mut consumer } = subscription.status else {
        return Err(wrong_state(&subscription, "resumed"));
    };
    let own = match side {
        Side::Producer => &mut producer,
        Side::Consumer => &mut consumer,
    };
    if !std::mem::replace(own, false) {
        return Err(wrong_state(&subscription, "resumed by the side that did not suspend it"));
    }
    subscription.status = match (producer, consumer) {
        (false, false) if subscription.consumer.is_unnamed() && !subscription.collected => Status::Accepted,
        (false, false) => Status::Active,
        _ => Status::Suspended { producer, consumer },
    };
    subscription.by = by(side);
    let subscription = said(desk, subscription, reason.clone());
    Ok(planned(desk, Kind::Resumed, reason, subscription, Vec::new(), None))
}

/// End it, as its producer.
pub(in crate::control) fn revoke(desk: &Desk<'_>, id: SubscriptionId, reason: Reason) -> Result<Plan, Error> {
    let mut subscription = as_producer(desk, id)?;
    if subscription.status == Status::Requested || subscription.status.is_closed() {
        return Err(wrong_state(&subscription, "revoked"));
    }
    subscription.close(Why::Revoked, By::Producer, reason.clone(), desk.now);
    Ok(planned(desk, Kind::Revoked, reason, subscription, Vec::new(), None))
}

/// End it, as its consumer.
pub(in crate::control) fn cancel(desk: &Desk<'_>, id: SubscriptionId, reason: Reason) -> Result<Plan, Error> {
    let (mut subscription, _) = as_consumer(desk, id)?;
    open(&subscription)?;
    subscription.close(Why::Cancelled, By::Consumer, reason.clone(), desk.now);
    Ok(planned(desk, Kind::Cancelled, reason, subscription, Vec::new(), None))
}

/// End it because it can not be delivered. Only the node itself asks.
pub(in crate::control) fn fail(desk: &Desk<'_>, id: SubscriptionId, reason: Reason) -> Result<Plan, Error> {
    let Caller::Node = desk.caller else { return Err(denied(desk.caller, "nothing would do")) };
    let mut subscription = found(desk, id)?;
    open(&subscription)?;
    subscription.close(Why::Failed, By::Node, reason.clone(), desk.now);
    Ok(planned(desk, Kind::Failed, reason, subscription, Vec::new(), None))
}

/// A subscription or request whose time is up.
pub(in crate::control) fn expire(desk: &Desk<'_>, id: SubscriptionId) -> Option<Plan> {
    let mut subscription = Subscription::clone(desk.state.subscription(id)?);
    if subscription.status.is_closed() || subscription.expires.is_none_or(|expires| expires > desk.now) {
        return None;
    }
    subscription.close(Why::Expired, By::Node, None, desk.now);
    Some(planned(desk, Kind::Expired, None, subscription, Vec::new(), None))
}

/// Collect the first grant, or renew it: a new one, and an hour for those before.
pub(in crate::control) fn grant(desk: &Desk<'_>, id: SubscriptionId) -> Result<Plan, Error> {
    let (mut subscription, _) = as_consumer(desk, id)?;
    match subscription.status {
        Status::Requested => {
            return Err(Error::new(Code::NotDecided, "the request is not decided yet")
                .with("state", subscription.status.name()));
        }
        Status::Closed(_) => open(&subscription)?,
        Status::Accepted | Status::Active | Status::Suspended { .. } => {}
    }
    if let Caller::Requester { .. } = desk.caller
        && subscription.collected
    {
        let what = "the grant was collected already; renew it with the grant itself";
        return Err(Error::new(Code::WrongState, what).with("state", subscription.status.name()));
    }
    let overlap = desk.after(GRANT_OVERLAP);
    let mut grants: Vec<GrantRef> =
        subscription.grants.iter().filter(|grant| grant.expires > desk.now).copied().collect();
    if grants.len() >= GRANTS_MAX {
        let soonest = grants.iter().map(|grant| grant.expires.0.saturating_sub(desk.now.0)).min();
        return Err(Error::new(
            Code::TooManyRequests,
            format!("{GRANTS_MAX} grants are valid at this moment"),
        )
        .with("limit", GRANTS_MAX)
        .retry_after(Duration::from_millis(soonest.unwrap_or_default())));
    }
    grants.iter_mut().for_each(|grant| grant.expires = grant.expires.min(overlap));
    subscription.grants = grants.into_boxed_slice();
    if subscription.status == Status::Accepted {
        subscription.status = Status::Active;
    }
    subscription.changed = desk.now;
    let (drawn, grant) = issue(desk, &mut subscription)?;
    Ok(planned(desk, Kind::Granted, None, subscription, vec![drawn], Some(grant)))
}

/// Draws a grant for an accepted subscription and enters it. A subscription without a name ends with its last
/// grant: nobody could speak for it any more.
fn issue(desk: &Desk<'_>, subscription: &mut Subscription) -> Result<(Drawn, Grant), Error> {
    // JSON readers agree on integers only up to 53 bits.
    let id = desk.random()? >> 11;
    let expires = earlier(Some(desk.after(GRANT_AGE)), subscription.imposed.expires).unwrap_or(Time::MAX);
    let mut grants = subscription.grants.to_vec();
    grants.push(GrantRef { id, expires });
    subscription.grants = grants.into_boxed_slice();
    subscription.collected = true;
    if subscription.consumer.is_unnamed() {
        subscription.expires = Some(expires);
    }
    let holder = Holder::Grant(subscription.id, id);
    let drawn = desk.secrets.draw(holder, desk.entropy).map_err(Error::internal)?;
    let lasts = expires.0.saturating_sub(desk.now.0);
    // Two thirds in, so that a renewal that fails can be tried again for a while.
    let renew = Time(desk.now.0 + lasts / 3 * 2);
    let bearer = drawn.secret.clone();
    Ok((drawn, Grant { bearer, expires, renew }))
}

fn consumer(caller: &Caller, stream: &Stream, at_once: bool) -> Consumer {
    let nobody = Consumer { organization: None, token: None, own: false, address: None };
    match caller {
        Caller::Node => Consumer { own: true, ..nobody },
        // On an open node who asks of whom can not be told apart; what must be asked for is asked without a name.
        Caller::Open => Consumer { own: at_once, ..nobody },
        Caller::Token(token) => Consumer {
            organization: token.organization.clone(),
            token: Some(token.id),
            own: token.role != Role::Consumer && is_own_side(caller, stream),
            address: None,
        },
        Caller::Anonymous { address } => Consumer { address: *address, ..nobody },
        Caller::Grant { .. } | Caller::Ticket { .. } | Caller::Requester { .. } => nobody,
    }
}

fn within_limits(desk: &Desk<'_>, stream: &Stream, consumer: &Consumer, at_once: bool) -> Result<(), Error> {
    let too_many = |what: String, limit: u32| {
        let later = Duration::from_secs(3600);
        Err(Error::new(Code::TooManyRequests, what).with("limit", limit).retry_after(later))
    };
    if !at_once && desk.state.counts(stream.id).requested >= REQUESTS_PER_STREAM_MAX {
        return too_many(
            format!("the stream {} has {REQUESTS_PER_STREAM_MAX} undecided requests", stream.name),
            REQUESTS_PER_STREAM_MAX,
        );
    }
    let Some(address) = consumer.address else { return Ok(()) };
    let held = desk.state.unnamed(address);
    if !at_once && held.requested >= REQUESTS_PER_ADDRESS_MAX {
        return too_many(
            format!("your address has {REQUESTS_PER_ADDRESS_MAX} undecided requests"),
            REQUESTS_PER_ADDRESS_MAX,
        );
    }
    if held.live >= UNNAMED_PER_ADDRESS_MAX {
        return too_many(
            format!("your address has {UNNAMED_PER_ADDRESS_MAX} subscriptions without a name"),
            UNNAMED_PER_ADDRESS_MAX,
        );
    }
    Ok(())
}

/// Whether the stream's access accepts whatever this consumer asks for: as it did before, and still does for who
/// asks now.
fn accepted_by_policy(desk: &Desk<'_>, subscription: &Subscription, stream: &Stream) -> bool {
    let as_asked = match desk.caller {
        // A grant speaks for its subscription only; the access must accept anyone.
        Caller::Grant { .. } | Caller::Requester { .. } => {
            let anyone = Caller::anonymous(None);
            access::verdict(&anyone, Action::Subscribe, stream)
        }
        caller => access::verdict(caller, Action::Subscribe, stream),
    };
    subscription.by_policy && as_asked == Verdict::Yes
}

fn found(desk: &Desk<'_>, id: SubscriptionId) -> Result<Subscription, Error> {
    desk.state.subscription(id).map(|found| Subscription::clone(found)).ok_or_else(|| unknown(id))
}

/// The subscription and its stream. A retired stream's subscriptions are all closed, and closed ones stay readable
/// to both sides, so the stream may come from among the retired.
pub(in crate::control) fn stream_of<'d>(
    state: &'d crate::control::state::State,
    own: &'d [Arc<Stream>],
    subscription: &Subscription,
) -> Option<&'d Arc<Stream>> {
    let name = subscription.request.stream.as_str();
    let live = state.stream(name).or_else(|| own.iter().find(|stream| stream.name.as_str() == name));
    live.filter(|stream| stream.id == subscription.stream)
        .or_else(|| state.retired_stream(subscription.stream))
}

fn as_consumer<'d>(desk: &'d Desk<'_>, id: SubscriptionId) -> Result<(Subscription, &'d Arc<Stream>), Error> {
    let subscription = found(desk, id)?;
    let stream = stream_of(desk.state, desk.own, &subscription).ok_or_else(|| unknown(id))?;
    if access::is_consumer(desk.caller, &subscription, stream) {
        return Ok((subscription, stream));
    }
    if access::is_producer(desk.caller, stream) {
        return Err(denied(desk.caller, "the credential of the subscription's consumer"));
    }
    Err(unknown(id))
}

fn as_producer(desk: &Desk<'_>, id: SubscriptionId) -> Result<Subscription, Error> {
    let subscription = found(desk, id)?;
    let stream = stream_of(desk.state, desk.own, &subscription).ok_or_else(|| unknown(id))?;
    if access::is_producer(desk.caller, stream) {
        return Ok(subscription);
    }
    if access::is_consumer(desk.caller, &subscription, stream) {
        return Err(denied(desk.caller, "a token with the role owner for this stream"));
    }
    Err(unknown(id))
}

/// The subscription and the side that the caller is on; the producer's if on both.
fn as_either(desk: &Desk<'_>, id: SubscriptionId) -> Result<(Subscription, Side), Error> {
    match as_producer(desk, id) {
        Ok(subscription) => Ok((subscription, Side::Producer)),
        Err(_) => as_consumer(desk, id).map(|(subscription, _)| (subscription, Side::Consumer)),
    }
}

/// The error for a subscription that does not exist, or is somebody else's.
pub(in crate::control) fn unknown(id: SubscriptionId) -> Error {
    Error::new(Code::UnknownSubscription, format!("there is no subscription {id} that you may see"))
}

/// The error for one that has ended.
pub(in crate::control) fn open(subscription: &Subscription) -> Result<(), Error> {
    let Status::Closed(why) = subscription.status else { return Ok(()) };
    Err(closed(why, subscription.reason.as_deref()))
}

/// The error that says why a subscription is closed, and what was said with it.
pub(in crate::control) fn closed(why: Why, said: Option<&str>) -> Error {
    let what = format!("the subscription is closed: {}", why.name());
    let error = Error::new(Code::SubscriptionClosed, what).with("reason", why.name());
    match said {
        Some(said) => error.with("said", said),
        None => error,
    }
}

fn wrong_state(subscription: &Subscription, wish: &str) -> Error {
    let state = subscription.status.name();
    let error = Error::new(Code::WrongState, format!("a subscription that is {state} can not be {wish}"))
        .with("state", state);
    match subscription.status {
        Status::Closed(why) => error.with("reason", why.name()),
        _ => error,
    }
}

fn by(side: Side) -> By {
    match side {
        Side::Producer => By::Producer,
        Side::Consumer => By::Consumer,
    }
}

fn said(desk: &Desk<'_>, mut subscription: Subscription, reason: Reason) -> Subscription {
    subscription.reason = reason;
    subscription.changed = desk.now;
    subscription
}

fn earlier(one: Option<Time>, other: Option<Time>) -> Option<Time> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

fn grants_end(subscription: &Subscription) -> Option<Time> {
    subscription.grants.iter().map(|grant| grant.expires).max()
}

fn planned(
    desk: &Desk<'_>,
    kind: Kind,
    why: Reason,
    subscription: Subscription,
    drawn: Vec<Drawn>,
    grant: Option<Grant>,
) -> Plan {
    let id = subscription.id;
    let decision = desk.decision(kind, why, Change::Subscription(Arc::new(subscription)));
    Plan { decision: Some(decision), drawn, answer: Answer::Subscription { id, grant, secret: None } }
}
