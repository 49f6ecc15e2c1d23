//! Who asks, what they may see, and how they come to read.
//!
//! There is one way to read: under a subscription, or under an unnamed one that lives as long as its connection.
//! [`Control::reader`] is where both begin, with everything that narrows what leaves; [`Control::standing`] judges
//! an open one again, from the state and the clock alone, so that what was revoked or has run out ends wherever it
//! is being delivered.
//!
//! Everything here only looks. Lists walk the state in short looks, so that nobody waits long behind one.

use std::net::IpAddr;
use std::sync::{Arc, PoisonError};

use std::collections::HashMap;
use tokio::sync::watch;
use weir_event::flow::{History, Position, StreamName, Time};

use super::access::{self, Action, Caller, Verdict};
use super::command::{Grant, Secret};
use super::cursors::Cursor;
use super::limits::{TICKET_AGE, TICKETS_MAX};
use super::plan::{self, streams::may_run_node, subscriptions as plans};
use super::record::{Stream, Token};
use super::secrets::Holder;
use super::subscription::{
    Ack, Form, Origin, Side, Standing, Start, Status, Subscription, SubscriptionId, Why,
};
use super::{Control, Filters, Inner, State, filters::Scope, quantity::Rate};
use crate::error::{Code, Error};

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
    /// What concerns this reader, of the node's own streams; `None`: all of it.
    pub scope: Option<Arc<Filters>>,
    /// What of an event's data leaves.
    pub form: Option<Arc<Form>>,
    /// The key of the form's hashes.
    pub form_key: [u8; 16],
    /// At most so many events.
    pub rate: Option<Rate>,
    /// Nothing at or before this leaves, whatever the reader asks for: where its subscription starts.
    pub after: Option<Origin>,
    /// Nothing before this leaves: what the producer imposed, for histories that came after the decision.
    pub not_before: Option<Start>,
    /// When the cursor moves.
    pub ack: Ack,
    /// When the credential or the subscription ends, whichever comes first.
    pub expires: Option<Time>,
    preview: bool,
    caller: Caller,
    terms: Position,
}

impl Reader {
    /// Who reads.
    #[must_use]
    pub fn caller(&self) -> &Caller {
        &self.caller
    }
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
    /// A subscription as its consumer would get it, for whoever decides about it.
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

/// Credentials for one browser connection each: in memory, since they live for minutes.
#[derive(Debug, Default)]
pub(super) struct Tickets {
    open: HashMap<Box<str>, Ticket>,
}

#[derive(Debug)]
struct Ticket {
    subscription: SubscriptionId,
    holder: Arc<Caller>,
    expires: Time,
}

const TICKET: &str = "weir_ticket_";

impl Control {
    /// The stream, if the caller may do this with it. The one place where access meets role.
    ///
    /// Errors: `unknown-stream` with near names among those the caller may find, `retired`, `not-allowed` saying
    /// what would be needed, `credential-required` when nobody in particular asks.
    pub fn authorize(&self, caller: &Caller, action: Action, name: &str) -> Result<Arc<Stream>, Error> {
        self.0.authorize(caller, action, name)
    }

    /// Whether the caller decides for the node as a whole: tokens, status, metrics.
    pub fn authorize_node(&self, caller: &Caller) -> Result<(), Error> {
        may_run_node(caller).inspect_err(|error| self.0.derived.refused(caller, "run", None, error))
    }

    /// Opens a reader: the only way to read. A subscription that is requested or suspended opens too and waits:
    /// its [`Control::standing`] has to be active before anything is handed out.
    ///
    /// Errors: those of [`Control::authorize`]; `unknown-subscription`, `not-allowed` for its producer and for a
    /// request's secret once the grant was collected, `subscription-closed`.
    pub fn reader(&self, caller: &Caller, target: Target) -> Result<Reader, Error> {
        match target {
            Target::Stream { name, filters } => {
                let stream = self.0.authorize(caller, Action::Read, name.as_str())?;
                Ok(self.0.unnamed(caller, stream, filters))
            }
            Target::Subscription(id) => self.0.named(caller, id),
            Target::Preview(id) => self.0.preview(caller, id),
        }
    }

    /// Whether this reader may go on. Cheap; called for each open delivery after each change.
    #[must_use]
    pub fn standing(&self, reader: &Reader) -> Standing {
        let now = self.0.clock.now();
        let state = self.0.state();
        if let Err(why) = self.0.credential(&state, &reader.caller, now) {
            return Standing::Closed { why, reason: None };
        }
        let closed = |why| Standing::Closed { why, reason: None };
        let Some(id) = reader.subscription else {
            let Some(stream) = self.0.find(&state, reader.stream.name.as_str()) else {
                return closed(Why::Retired);
            };
            return match access::verdict(&reader.caller, Action::Read, &stream) {
                _ if stream.id != reader.stream.id => closed(Why::Retired),
                Verdict::Yes => Standing::Active,
                Verdict::Ask | Verdict::No(_) | Verdict::Hidden => closed(Why::Revoked),
            };
        };
        let Some(subscription) = state.subscription(id) else { return closed(Why::Expired) };
        if reader.preview {
            let stream = plans::stream_of(&state, &self.0.own, subscription);
            return match stream.is_some_and(|stream| access::is_producer(&reader.caller, stream)) {
                true if !subscription.status.is_closed() => Standing::Active,
                _ => closed(Why::Revoked),
            };
        }
        match standing(subscription, now) {
            Standing::Active if subscription.terms != reader.terms => Standing::Changed,
            standing => standing,
        }
    }

    /// A subscription, for its consumer or its producer.
    pub fn subscription(&self, caller: &Caller, id: SubscriptionId) -> Result<Arc<Subscription>, Error> {
        self.0.visible(&self.0.state(), caller, id).map(|(subscription, _)| subscription)
    }

    /// A subscription, for its consumer alone: who may acknowledge, seek, and make tickets.
    ///
    /// Errors: `unknown-subscription`, `not-allowed` for its producer.
    pub fn consumed(&self, caller: &Caller, id: SubscriptionId) -> Result<Arc<Subscription>, Error> {
        let (subscription, stream) = self.0.visible(&self.0.state(), caller, id)?;
        if access::is_consumer(caller, &subscription, &stream) {
            return Ok(subscription);
        }
        let error = plan::denied(caller, "the credential of the subscription's consumer");
        self.0.derived.refused(caller, "consume", Some(&stream.name), &error);
        Err(error)
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
        let mut after = after.and_then(|after| after.parse::<SubscriptionId>().ok());
        let mut items = Vec::new();
        loop {
            let state = self.0.state();
            let stream = wanted.stream.as_ref().map(|name| self.0.find(&state, name.as_str()));
            let (mut looked_at, from) = (0, after);
            let mut look = |subscription: &Arc<Subscription>| {
                looked_at += 1;
                after = Some(subscription.id);
                let fits = wanted.state.as_deref().is_none_or(|state| state == subscription.status.name());
                if fits && self.0.sees(&state, caller, subscription).is_some() {
                    items.push(Arc::clone(subscription));
                }
                looked_at < LOOK && items.len() <= limit
            };
            match stream {
                Some(None) => {}
                Some(Some(stream)) => {
                    let _ = state.subscriptions_of(stream.id, from).all(&mut look);
                }
                None => {
                    let _ = state.subscriptions_after(from).all(&mut look);
                }
            }
            if items.len() > limit || looked_at < LOOK {
                break;
            }
        }
        page(items, limit, |subscription| subscription.id.to_string())
    }

    /// The streams that the caller may find, by name; `q`: each of its words must occur in the name, title,
    /// description, tags or types.
    #[must_use]
    pub fn search(&self, caller: &Caller, q: &str, after: Option<&str>, limit: usize) -> Page<Arc<Stream>> {
        let words: Vec<String> = q.split_whitespace().take(16).map(str::to_lowercase).collect();
        let fits = |stream: &Stream| {
            access::verdict(caller, Action::Find, stream) != Verdict::Hidden
                && words.iter().all(|word| mentions(stream, word))
        };
        let mut items: Vec<Arc<Stream>> = Vec::new();
        // The node's own begin with an underscore, which sorts before every letter and after every digit; they are
        // merged by name below, and there are three of them.
        let own = self.0.own.iter().filter(|stream| after.is_none_or(|after| stream.name.as_str() > after));
        let own: Vec<_> = own.filter(|stream| fits(stream)).map(Arc::clone).collect();
        let mut at = after.map(str::to_owned);
        loop {
            let looked: Vec<Arc<Stream>> =
                self.0.state().streams_after(at.as_deref()).take(LOOK).map(Arc::clone).collect();
            at = looked.last().map(|stream| stream.name.to_string());
            let done = looked.len() < LOOK;
            items.extend(looked.into_iter().filter(|stream| fits(stream)));
            if done || items.len() > limit {
                break;
            }
        }
        items.extend(own);
        items.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        page(items, limit, |stream| stream.name.to_string())
    }

    /// The tokens, by id; for owners of the whole node.
    pub fn tokens(
        &self,
        caller: &Caller,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Page<Arc<Token>>, Error> {
        self.authorize_node(caller)?;
        let after = after.and_then(|after| after.parse().ok());
        let state = self.0.state();
        let tokens = state.tokens().filter(|token| after.is_none_or(|after| token.id > after));
        Ok(page(tokens.take(limit.saturating_add(1)).map(Arc::clone).collect(), limit, |token| {
            token.id.to_string()
        }))
    }

    /// A ticket: a credential that opens one delivery within two minutes, for a browser that can not send headers.
    /// The delivery then lives as long as the credential that the ticket was made with.
    pub fn ticket(&self, caller: &Caller, id: SubscriptionId) -> Result<Grant, Error> {
        let subscription = self.consumed(caller, id)?;
        plans::open(&subscription)?;
        let now = self.0.now();
        let expires = Time(now.0.saturating_add(u64::try_from(TICKET_AGE.as_millis()).unwrap_or_default()));
        let text = format!("{TICKET}{:016x}{:016x}", self.0.random()?, self.0.random()?);
        let mut tickets = self.0.tickets.lock().unwrap_or_else(PoisonError::into_inner);
        if tickets.open.len() >= TICKETS_MAX {
            tickets.open.retain(|_, ticket| ticket.expires > now);
        }
        if tickets.open.len() >= TICKETS_MAX {
            return Err(Error::new(Code::TooManyRequests, "too many tickets are open, use those first")
                .with("limit", TICKETS_MAX)
                .retry_after(TICKET_AGE));
        }
        let ticket = Ticket { subscription: id, holder: Arc::new(caller.clone()), expires };
        tickets.open.insert(text.as_str().into(), ticket);
        Ok(Grant { bearer: Secret::new(text), expires, renew: expires })
    }

    /// Where a subscription stands in its stream; `None` before it was accepted.
    #[must_use]
    pub fn cursor(&self, id: SubscriptionId) -> Option<Cursor> {
        Some(self.0.cursors.get(id, self.0.start(id)?))
    }

    /// Wakes whoever waits for a subscription's cursor: rises with the floor.
    #[must_use]
    pub fn cursor_moves(&self, id: SubscriptionId) -> Option<watch::Receiver<Position>> {
        Some(self.0.cursors.moves(id, self.0.start(id)?))
    }

    /// Acknowledges everything up to `upto`, inclusive. Answers the floor.
    ///
    /// Errors: `history-changed`, `bad-position` beyond the stream's end, `not-decided`.
    pub fn ack(&self, id: SubscriptionId, upto: Origin) -> Result<Position, Error> {
        self.acks(id, upto.history, &[(Position::FIRST, upto.after)])
    }

    /// Acknowledges ranges of positions, inclusive; all or none. At most 10,000 positions stay open above the
    /// floor. Answers the floor.
    ///
    /// Errors: `history-changed`, `bad-position`, `limit-reached`, `not-decided`.
    pub fn acks(
        &self,
        id: SubscriptionId,
        of: History,
        ranges: &[(Position, Position)],
    ) -> Result<Position, Error> {
        let (stream, start) = self.0.started(id)?;
        let head = self.0.log.status(stream.id)?;
        if let Some((_, beyond)) = ranges.iter().find(|(_, to)| *to > head.last && of == head.history) {
            let what = format!("the stream {} has no position {beyond} yet", stream.name);
            return Err(Error::new(Code::BadPosition, what).with("head", head.last.0));
        }
        self.0.cursors.ack(id, start, of, ranges)
    }

    /// Sets the cursor back or on, as its consumer chose: replay, or another history.
    pub fn seek(&self, id: SubscriptionId, to: Origin) -> Result<(), Error> {
        let (_, start) = self.0.started(id)?;
        // Going back before the start would hand out what was not accepted.
        let after = if start.history == to.history { to.after.max(start.after) } else { to.after };
        self.0.cursors.set(id, Origin { after, ..to });
        Ok(())
    }
}

/// How many records a list looks at before it lets others at the state.
const LOOK: usize = 1000;

fn page<T>(mut items: Vec<T>, limit: usize, name: impl Fn(&T) -> String) -> Page<T> {
    let more = items.len() > limit;
    items.truncate(limit);
    let next = items.last().filter(|_| more).map(name);
    Page { items, next }
}

fn mentions(stream: &Stream, word: &str) -> bool {
    let descriptor = &stream.descriptor;
    let has = |text: &str| mentioned(text, word);
    stream.name.as_str().contains(word)
        || descriptor.title.as_deref().is_some_and(has)
        || descriptor.tags.iter().chain(&descriptor.types).any(|text| has(text))
        || descriptor.description.as_deref().is_some_and(has)
}

/// Whether a text has a word, which is in lower case, whatever the text's own case. Without a copy of the text
/// where it is ASCII: a search looks at every stream.
fn mentioned(text: &str, word: &str) -> bool {
    if !text.is_ascii() {
        return text.to_lowercase().contains(word);
    }
    text.as_bytes().windows(word.len().max(1)).any(|part| part.eq_ignore_ascii_case(word.as_bytes()))
}

/// Where a subscription stands, whoever reads.
fn standing(subscription: &Subscription, now: Time) -> Standing {
    let reason = || subscription.reason.clone();
    match subscription.status {
        Status::Closed(why) => Standing::Closed { why, reason: reason() },
        _ if subscription.expires.is_some_and(|expires| expires <= now) => {
            Standing::Closed { why: Why::Expired, reason: None }
        }
        Status::Requested => Standing::Requested,
        Status::Accepted | Status::Active => Standing::Active,
        Status::Suspended { producer, .. } => {
            let by = if producer { Side::Producer } else { Side::Consumer };
            Standing::Suspended { by, reason: reason() }
        }
    }
}

impl Inner {
    pub(super) fn authenticate(
        &self,
        bearer: Option<&str>,
        address: Option<IpAddr>,
    ) -> Result<Caller, Error> {
        let Some(bearer) = bearer else {
            let open = self.is_open.load(std::sync::atomic::Ordering::Acquire);
            return Ok(if open { Caller::Open } else { Caller::Anonymous { address } });
        };
        if bearer.starts_with(TICKET) {
            return self.redeem(bearer).ok_or_else(unknown_credential);
        }
        self.holder(bearer)
    }

    fn holder(&self, bearer: &str) -> Result<Caller, Error> {
        let holder = self.secrets.holder(bearer).ok_or_else(unknown_credential)?;
        let now = self.clock.now();
        let state = self.state();
        let found = || match holder {
            Holder::Token(id) => Some(Caller::Token(Arc::clone(state.token(id)?))),
            Holder::Grant(subscription, grant) => {
                let found = state.subscription(subscription)?;
                let expires = found.grants.iter().find(|live| live.id == grant)?.expires;
                Some(Caller::Grant { subscription, grant, expires })
            }
            Holder::Request(subscription) => {
                state.subscription(subscription)?;
                Some(Caller::Requester { subscription })
            }
        };
        let caller = found().ok_or_else(unknown_credential)?;
        match (self.credential(&state, &caller, now), &caller) {
            (Ok(()), _) => Ok(caller),
            (Err(_), Caller::Grant { subscription, .. }) => Err(ended(&state, *subscription, now)),
            (Err(_), _) => Err(unknown_credential()),
        }
    }

    fn redeem(&self, ticket: &str) -> Option<Caller> {
        let ticket = self.tickets.lock().unwrap_or_else(PoisonError::into_inner).open.remove(ticket)?;
        let now = self.clock.now();
        (ticket.expires > now && self.credential(&self.state(), &ticket.holder, now).is_ok())
            .then_some(Caller::Ticket { subscription: ticket.subscription, holder: ticket.holder })
    }

    /// Whether a credential still holds, or why it does not.
    fn credential(&self, state: &State, caller: &Caller, now: Time) -> Result<(), Why> {
        match caller {
            Caller::Node | Caller::Anonymous { .. } | Caller::Requester { .. } => Ok(()),
            Caller::Open if self.is_open.load(std::sync::atomic::Ordering::Acquire) => Ok(()),
            Caller::Open => Err(Why::Revoked),
            Caller::Token(token) => match state.token(token.id) {
                Some(token) if token.expires.is_none_or(|expires| expires > now) => Ok(()),
                Some(_) => Err(Why::Expired),
                None if token.expires.is_some_and(|expires| expires <= now) => Err(Why::Expired),
                None => Err(Why::Revoked),
            },
            Caller::Grant { subscription, grant, .. } => {
                let Some(found) = state.subscription(*subscription) else { return Err(Why::Expired) };
                let live = found.grants.iter().find(|live| live.id == *grant);
                match (live, found.status) {
                    (_, Status::Closed(why)) => Err(why),
                    (Some(live), _) if live.expires > now => Ok(()),
                    _ => Err(Why::Expired),
                }
            }
            Caller::Ticket { holder, .. } => self.credential(state, holder, now),
        }
    }

    /// A stream by name from a state that is being looked at.
    fn find(&self, state: &State, name: &str) -> Option<Arc<Stream>> {
        let own = || self.own.iter().find(|stream| stream.name.as_str() == name);
        state.stream(name).or_else(own).map(Arc::clone)
    }

    pub(super) fn authorize(
        &self,
        caller: &Caller,
        action: Action,
        name: &str,
    ) -> Result<Arc<Stream>, Error> {
        let hidden = || plan::missing(&self.state(), caller, name);
        let Some(stream) = self.stream(name) else { return Err(hidden()) };
        let error = match access::verdict(caller, action, &stream) {
            Verdict::Yes | Verdict::Ask => return Ok(stream),
            Verdict::Hidden => hidden(),
            Verdict::No(needed) => plan::denied(caller, needed),
        };
        self.derived.refused(caller, action.name(), Some(&stream.name), &error);
        Err(error)
    }

    fn unnamed(&self, caller: &Caller, stream: Arc<Stream>, filters: Option<Arc<Filters>>) -> Reader {
        let expires = match caller {
            Caller::Token(token) => token.expires,
            Caller::Grant { expires, .. } => Some(*expires),
            Caller::Node
            | Caller::Open
            | Caller::Anonymous { .. }
            | Caller::Ticket { .. }
            | Caller::Requester { .. } => None,
        };
        let scope = scope(caller, &stream);
        Reader {
            stream,
            subscription: None,
            filters: filters.filter(|filters| !filters.is_all()),
            imposed_filters: None,
            scope,
            form: None,
            form_key: [0; 16],
            rate: None,
            after: None,
            not_before: None,
            ack: Ack::Explicit,
            expires,
            preview: false,
            caller: caller.clone(),
            terms: Position::NONE,
        }
    }

    fn named(&self, caller: &Caller, id: SubscriptionId) -> Result<Reader, Error> {
        let now = self.clock.now();
        let state = self.state();
        let holder = match caller {
            Caller::Ticket { subscription, holder } if *subscription == id => holder,
            caller => caller,
        };
        let (subscription, stream) = self.visible(&state, holder, id)?;
        if !access::is_consumer(holder, &subscription, &stream) {
            let needed = "the credential of the subscription's consumer; its producer has the preview";
            let error = plan::denied(caller, needed);
            self.derived.refused(caller, "read", Some(&stream.name), &error);
            return Err(error);
        }
        // The secret of a request opens what nothing else opens yet. From then on its grant does.
        if let Caller::Requester { .. } = holder
            && subscription.collected
        {
            return Err(plan::denied(caller, "the subscription's grant"));
        }
        // One that is requested or suspended may be opened and waits; its standing says so.
        if let Standing::Closed { why, .. } = standing(&subscription, now) {
            plans::open(&subscription)?;
            return Err(plans::closed(why, None));
        }
        let expires = match holder {
            Caller::Token(token) => token.expires,
            Caller::Grant { expires, .. } => Some(*expires),
            _ => None,
        };
        let expires = [expires, subscription.expires].into_iter().flatten().min();
        Ok(self.under(&state, caller, &subscription, stream, expires))
    }

    fn preview(&self, caller: &Caller, id: SubscriptionId) -> Result<Reader, Error> {
        let state = self.state();
        let (subscription, stream) = self.visible(&state, caller, id)?;
        if !access::is_producer(caller, &stream) {
            let error = plan::denied(caller, "a token with the role owner for this stream");
            self.derived.refused(caller, "preview", Some(&stream.name), &error);
            return Err(error);
        }
        plans::open(&subscription)?;
        let asked = subscription.wanted.as_ref().unwrap_or(&subscription.request);
        let filters = Filters::worth(&asked.filters);
        let mut reader = self.under(&state, caller, &subscription, stream, None);
        reader.filters = filters;
        reader.preview = true;
        Ok(reader)
    }

    fn under(
        &self,
        state: &State,
        caller: &Caller,
        subscription: &Subscription,
        stream: Arc<Stream>,
        expires: Option<Time>,
    ) -> Reader {
        let imposed = &subscription.imposed;
        // Judged by who subscribed and not by who looks: a preview shows what its consumer would get, and a grant
        // gets what its token would.
        let consumer = &subscription.consumer;
        let subscriber = match consumer.token {
            Some(token) => state.token(token).map(|token| Caller::Token(Arc::clone(token))),
            None if consumer.own => Some(Caller::Open),
            None => None,
        };
        let scope = scope(&subscriber.unwrap_or_else(|| Caller::anonymous(None)), &stream);
        Reader {
            stream,
            subscription: Some(subscription.id),
            filters: Filters::worth(&subscription.request.filters),
            imposed_filters: imposed.filters.clone(),
            scope,
            form: imposed.form.clone(),
            form_key: self.secrets.key_for(&format!("form:{}", subscription.id)),
            rate: imposed.rate,
            after: subscription.start,
            not_before: imposed.from,
            ack: subscription.request.ack,
            expires,
            preview: false,
            caller: caller.clone(),
            terms: subscription.terms,
        }
    }

    /// The subscription's stream, if the caller is on either side of it.
    fn sees(&self, state: &State, caller: &Caller, subscription: &Subscription) -> Option<Arc<Stream>> {
        let stream = plans::stream_of(state, &self.own, subscription)?;
        let sees = access::is_consumer(caller, subscription, stream) || access::is_producer(caller, stream);
        sees.then(|| Arc::clone(stream))
    }

    fn visible(
        &self,
        state: &State,
        caller: &Caller,
        id: SubscriptionId,
    ) -> Result<(Arc<Subscription>, Arc<Stream>), Error> {
        let subscription = state.subscription(id).ok_or_else(|| plans::unknown(id))?;
        let stream = self.sees(state, caller, subscription).ok_or_else(|| plans::unknown(id))?;
        Ok((Arc::clone(subscription), stream))
    }

    fn start(&self, id: SubscriptionId) -> Option<Origin> {
        self.state().subscription(id)?.start
    }

    fn started(&self, id: SubscriptionId) -> Result<(Arc<Stream>, Origin), Error> {
        let state = self.state();
        let subscription = state.subscription(id).ok_or_else(|| plans::unknown(id))?;
        plans::open(subscription)?;
        let start = subscription
            .start
            .ok_or_else(|| Error::new(Code::NotDecided, "the request is not decided yet"))?;
        let stream = plans::stream_of(&state, &self.own, subscription).ok_or_else(|| plans::unknown(id))?;
        Ok((Arc::clone(stream), start))
    }
}

/// What concerns this reader of one of the node's own streams.
fn scope(caller: &Caller, stream: &Stream) -> Option<Arc<Filters>> {
    let scope = match caller {
        _ if !stream.name.is_reserved() => return None,
        Caller::Ticket { holder, .. } => access::scope(holder),
        caller => access::scope(caller),
    };
    (scope != Scope::All).then(|| Arc::new(Filters::of_scope(scope)))
}

fn unknown_credential() -> Error {
    Error::new(Code::BadCredential, "the credential is not known here, has run out or was revoked")
}

/// Why a grant that was good once opens nothing: its subscription is over, or only it has run out.
fn ended(state: &State, subscription: SubscriptionId, now: Time) -> Error {
    let Some(found) = state.subscription(subscription) else { return unknown_credential() };
    match plans::open(found) {
        Err(closed) => closed,
        // Its end is due and will be decided in a moment.
        Ok(()) if found.expires.is_some_and(|expires| expires <= now) => plans::closed(Why::Expired, None),
        Ok(()) => unknown_credential(),
    }
}
