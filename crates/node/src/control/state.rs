//! The node's state: what all decisions so far come to.
//!
//! [`State::apply`] folds one [`Decision`] into the state. It is total and pure: no clock, no randomness, no I/O,
//! no judgement. Whether something may be decided was settled before the decision was written; what is in the
//! log has happened, so the fold never refuses. The same decisions give the same state on every machine, which
//! is why a restart, a snapshot or another node can take it up anywhere.
//!
//! Records are immutable and shared: whoever looked one up keeps what they saw. Indexes (by stream, by expiry, by
//! address) are derived from the records and rebuilt with them; snapshots hold records only.
//!
//! Memory is bounded: live records by the limits that planning keeps, closed subscriptions and retired streams to
//! the newest [`CLOSED_MAX`] and [`RETIRED_MAX`], which is a rule of the fold and so the same everywhere.

use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};
use std::net::IpAddr;
use std::sync::Arc;

use weir_event::flow::{History, Position, StreamName, Time};
use weir_log::StreamId;

use super::decision::{Change, Decision};
use super::descriptor::Access;
use super::record::{Stream, Token, TokenId};
use super::subscription::{By, Status, Subscription, SubscriptionId, Why};

/// The version of the fold: what a snapshot must have been made by to be taken. Raised whenever [`State::apply`]
/// or a default of a stored record comes to mean something else.
pub const FOLD: u32 = 1;

/// How many closed subscriptions are remembered, the newest.
pub const CLOSED_MAX: usize = 10_000;

/// How many retired streams are remembered, the newest.
pub const RETIRED_MAX: usize = 10_000;

/// The streams that every node has, by the numbers the log knows them by.
pub mod own {
    use weir_log::StreamId;

    /// `_weir.state`: the decisions. Private to the node.
    pub const STATE: StreamId = StreamId(1);
    /// `_weir.audit`: who decided what, and what was refused.
    pub const AUDIT: StreamId = StreamId(2);
    /// `_weir.ops`: what happened to the node itself.
    pub const OPS: StreamId = StreamId(3);
    /// `_weir.usage`: what was delivered to whom.
    pub const USAGE: StreamId = StreamId(4);
    /// The first number given to a user's stream.
    pub const FIRST_USER: u64 = 16;
}

/// A stream that is no more.
#[derive(Clone, Debug, PartialEq)]
pub struct Retired {
    /// What it was.
    pub stream: Arc<Stream>,
    /// What its consumers were told.
    pub reason: Option<Box<str>>,
}

/// What may run out at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Expiring {
    /// A subscription or request.
    Subscription(SubscriptionId),
    /// One of a subscription's grants: nothing to decide, but whoever holds it must go.
    Grant(SubscriptionId, u64),
    /// A token.
    Token(TokenId),
}

/// The fold of all decisions up to a position.
#[derive(Clone, Debug)]
pub struct State {
    position: Position,
    time: Time,
    next_stream: u64,
    had_token: bool,
    streams: BTreeSet<ByName>,
    retired: BTreeMap<Position, Retired>,
    retired_names: BTreeMap<StreamName, Position>,
    retired_ids: BTreeMap<StreamId, Position>,
    subscriptions: BTreeMap<SubscriptionId, Arc<Subscription>>,
    tokens: BTreeMap<TokenId, Arc<Token>>,
    by_stream: BTreeSet<(StreamId, SubscriptionId)>,
    closed: BTreeSet<(Position, SubscriptionId)>,
    expiring: BTreeSet<(Time, Expiring)>,
    counts: BTreeMap<StreamId, Counts>,
    unnamed: BTreeMap<IpAddr, Counts>,
}

/// How many subscriptions there are to one stream, or without a name from one address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Undecided ones without a name.
    pub requested: u32,
    /// All that are not closed.
    pub live: u32,
}

impl Default for State {
    fn default() -> Self {
        Self {
            position: Position::NONE,
            time: Time::default(),
            next_stream: own::FIRST_USER,
            had_token: false,
            streams: BTreeSet::new(),
            retired: BTreeMap::new(),
            retired_names: BTreeMap::new(),
            retired_ids: BTreeMap::new(),
            subscriptions: BTreeMap::new(),
            tokens: BTreeMap::new(),
            by_stream: BTreeSet::new(),
            closed: BTreeSet::new(),
            expiring: BTreeSet::new(),
            counts: BTreeMap::new(),
            unnamed: BTreeMap::new(),
        }
    }
}

impl State {
    /// The position of the last decision applied.
    #[must_use]
    pub fn position(&self) -> Position {
        self.position
    }

    /// When the last decision was made. Never goes back.
    #[must_use]
    pub fn time(&self) -> Time {
        self.time
    }

    /// The number that the next stream gets.
    #[must_use]
    pub fn next_stream(&self) -> StreamId {
        StreamId(self.next_stream)
    }

    /// Whether a token was ever created: from then on nobody acts as owner without one.
    #[must_use]
    pub fn had_token(&self) -> bool {
        self.had_token
    }

    /// A user's stream by name.
    #[must_use]
    pub fn stream(&self, name: &str) -> Option<&Arc<Stream>> {
        self.streams.get(name).map(|entry| &entry.0)
    }

    /// The users' streams by name, those after `after`.
    pub fn streams_after(&self, after: Option<&str>) -> impl Iterator<Item = &Arc<Stream>> {
        use std::ops::Bound::{Excluded, Unbounded};
        let from = after.map_or(Unbounded, Excluded);
        self.streams.range::<str, _>((from, Unbounded)).map(|entry| &entry.0)
    }

    /// All of the users' streams, by name.
    pub fn streams(&self) -> impl ExactSizeIterator<Item = &Arc<Stream>> {
        self.streams.iter().map(|entry| &entry.0)
    }

    /// A retired stream by the name it had, if it is still remembered and the name was not given anew.
    #[must_use]
    pub fn retired(&self, name: &str) -> Option<&Retired> {
        self.retired_names.get(name).and_then(|at| self.retired.get(at))
    }

    /// The retired streams still remembered, oldest first, with the decision that retired them.
    pub fn all_retired(&self) -> impl Iterator<Item = (Position, &Retired)> {
        self.retired.iter().map(|(at, retired)| (*at, retired))
    }

    /// A subscription, closed ones included as long as they are remembered.
    #[must_use]
    pub fn subscription(&self, id: SubscriptionId) -> Option<&Arc<Subscription>> {
        self.subscriptions.get(&id)
    }

    /// The subscriptions by id, those after `after`.
    pub fn subscriptions_after(
        &self,
        after: Option<SubscriptionId>,
    ) -> impl Iterator<Item = &Arc<Subscription>> {
        use std::ops::Bound::{Excluded, Unbounded};
        self.subscriptions.range((after.map_or(Unbounded, Excluded), Unbounded)).map(|(_, entry)| entry)
    }

    /// All subscriptions, by id.
    pub fn subscriptions(&self) -> impl ExactSizeIterator<Item = &Arc<Subscription>> {
        self.subscriptions.values()
    }

    /// The subscriptions of one stream, by id, those after `after`.
    pub fn subscriptions_of(
        &self,
        stream: StreamId,
        after: Option<SubscriptionId>,
    ) -> impl Iterator<Item = &Arc<Subscription>> {
        use std::ops::Bound::{Excluded, Included};
        let from = after.map_or(Included((stream, SubscriptionId(0))), |after| Excluded((stream, after)));
        let to = Included((stream, SubscriptionId(u64::MAX)));
        self.by_stream.range((from, to)).filter_map(|(_, id)| self.subscriptions.get(id))
    }

    /// A retired stream by its number, if it is still remembered.
    #[must_use]
    pub fn retired_stream(&self, id: StreamId) -> Option<&Arc<Stream>> {
        self.retired_ids.get(&id).and_then(|at| self.retired.get(at)).map(|retired| &retired.stream)
    }

    /// How many subscriptions a stream has.
    #[must_use]
    pub fn counts(&self, stream: StreamId) -> Counts {
        self.counts.get(&stream).copied().unwrap_or_default()
    }

    /// What one address holds without a name.
    #[must_use]
    pub fn unnamed(&self, address: IpAddr) -> Counts {
        self.unnamed.get(&address).copied().unwrap_or_default()
    }

    /// A token that was not revoked. It may have run out.
    #[must_use]
    pub fn token(&self, id: TokenId) -> Option<&Arc<Token>> {
        self.tokens.get(&id)
    }

    /// The tokens, by id.
    pub fn tokens(&self) -> impl ExactSizeIterator<Item = &Arc<Token>> {
        self.tokens.values()
    }

    /// What runs out, the next first.
    pub fn expiring(&self) -> impl Iterator<Item = (Time, Expiring)> {
        self.expiring.iter().copied()
    }

    /// Folds in the decision at `position`, the one after [`State::position`].
    pub fn apply(&mut self, position: Position, decision: &Decision) {
        self.position = position;
        self.time = self.time.max(decision.when);
        match &decision.change {
            Change::Stream { stream, closes } => {
                for id in &closes.subscriptions {
                    self.close(*id, decision, position);
                }
                let mut stream = Stream::clone(stream);
                stream.revision = position;
                self.put_stream(Arc::new(stream));
            }
            Change::Retired { stream, closes } => {
                for id in &closes.subscriptions {
                    self.close(*id, decision, position);
                }
                if let Some(ByName(stream)) = self.streams.take(stream.as_str()) {
                    let reason = decision.why.clone();
                    self.put_retired(position, Retired { stream, reason });
                }
            }
            Change::Subscription(subscription) => {
                let mut subscription = Subscription::clone(subscription);
                subscription.revision = position;
                if subscription.terms.is_none() {
                    subscription.terms = position;
                }
                self.put_subscription(Arc::new(subscription));
            }
            Change::Token(token) => self.put_token(Arc::clone(token)),
            Change::TokenEnded(id) => {
                if let Some(token) = self.tokens.remove(id)
                    && let Some(expires) = token.expires
                {
                    self.expiring.remove(&(expires, Expiring::Token(*id)));
                }
            }
        }
    }

    /// Closes a subscription as a consequence of what was decided about its stream.
    fn close(&mut self, id: SubscriptionId, decision: &Decision, position: Position) {
        let Some(subscription) = self.subscriptions.get(&id) else { return };
        let mut subscription = Subscription::clone(subscription);
        let why = match (decision.change.closes_why(), subscription.status) {
            (Why::Revoked, Status::Requested) => Why::Rejected,
            (why, _) => why,
        };
        subscription.close(why, By::Producer, decision.why.clone(), decision.when);
        subscription.revision = position;
        self.put_subscription(Arc::new(subscription));
    }

    pub(super) fn put_stream(&mut self, stream: Arc<Stream>) {
        self.next_stream = self.next_stream.max(stream.id.0.saturating_add(1));
        self.retired_names.remove(&stream.name);
        self.streams.replace(ByName(stream));
    }

    pub(super) fn put_retired(&mut self, at: Position, retired: Retired) {
        self.next_stream = self.next_stream.max(retired.stream.id.0.saturating_add(1));
        if !self.streams.contains(retired.stream.name.as_str()) {
            self.retired_names.insert(retired.stream.name.clone(), at);
        }
        self.retired_ids.insert(retired.stream.id, at);
        self.retired.insert(at, retired);
        if self.retired.len() > RETIRED_MAX
            && let Some((at, oldest)) = self.retired.pop_first()
        {
            self.retired_ids.remove(&oldest.stream.id);
            if self.retired_names.get(&oldest.stream.name) == Some(&at) {
                self.retired_names.remove(&oldest.stream.name);
            }
        }
    }

    pub(super) fn put_subscription(&mut self, subscription: Arc<Subscription>) {
        let id = subscription.id;
        if let Some(before) = self.subscriptions.remove(&id) {
            self.index(&before, false);
        }
        self.index(&subscription, true);
        self.subscriptions.insert(id, subscription);
        while self.closed.len() > CLOSED_MAX {
            let Some((_, oldest)) = self.closed.first().copied() else { break };
            if let Some(oldest) = self.subscriptions.remove(&oldest) {
                self.index(&oldest, false);
            }
        }
    }

    pub(super) fn put_token(&mut self, token: Arc<Token>) {
        self.had_token = true;
        if let Some(expires) = token.expires {
            self.expiring.insert((expires, Expiring::Token(token.id)));
        }
        self.tokens.insert(token.id, token);
    }

    /// Enters a subscription into the indexes, or takes it out of them.
    fn index(&mut self, subscription: &Subscription, enter: bool) {
        fn set<T: Ord>(set: &mut BTreeSet<T>, entry: T, enter: bool) {
            if enter {
                set.insert(entry)
            } else {
                set.remove(&entry)
            };
        }
        let id = subscription.id;
        set(&mut self.by_stream, (subscription.stream, id), enter);
        if subscription.status.is_closed() {
            set(&mut self.closed, (subscription.revision, id), enter);
            return;
        }
        if let Some(expires) = subscription.expires {
            set(&mut self.expiring, (expires, Expiring::Subscription(id)), enter);
        }
        for grant in &subscription.grants {
            set(&mut self.expiring, (grant.expires, Expiring::Grant(id, grant.id)), enter);
        }
        let unnamed = subscription.consumer.is_unnamed();
        let requested = unnamed && subscription.status == Status::Requested;
        count(&mut self.counts, subscription.stream, requested, enter);
        if let Some(address) = subscription.consumer.address.filter(|_| unnamed) {
            count(&mut self.unnamed, address, requested, enter);
        }
    }

    /// What a snapshot holds beside the records.
    pub(super) fn header(&self) -> (Position, Time, u64, bool) {
        (self.position, self.time, self.next_stream, self.had_token)
    }

    /// Takes up what a snapshot held beside the records. Call before entering these.
    pub(super) fn restore(position: Position, time: Time, next_stream: u64, had_token: bool) -> Self {
        Self { position, time, next_stream, had_token, ..Self::default() }
    }
}

/// Counts a subscription in or out; counts of nothing are not kept.
fn count<K: Ord + Copy>(counts: &mut BTreeMap<K, Counts>, key: K, requested: bool, enter: bool) {
    let held = counts.entry(key).or_default();
    let step =
        |count: &mut u32| *count = if enter { count.saturating_add(1) } else { count.saturating_sub(1) };
    step(&mut held.live);
    if requested {
        step(&mut held.requested);
    }
    if *held == Counts::default() {
        counts.remove(&key);
    }
}

impl PartialEq for State {
    /// Whether all that is held is equal, records and indexes alike.
    fn eq(&self, other: &Self) -> bool {
        self.header() == other.header()
            && self.streams().eq(other.streams())
            && self.retired == other.retired
            && self.retired_names == other.retired_names
            && self.subscriptions == other.subscriptions
            && self.tokens == other.tokens
            && self.by_stream == other.by_stream
            && self.closed == other.closed
            && self.expiring == other.expiring
            && self.retired_ids == other.retired_ids
            && self.counts == other.counts
            && self.unnamed == other.unnamed
    }
}

/// A stream found by its name: one word in a set, instead of the name a second time as a key.
#[derive(Clone, Debug)]
pub(super) struct ByName(pub(super) Arc<Stream>);

impl Borrow<str> for ByName {
    fn borrow(&self) -> &str {
        self.0.name.as_str()
    }
}

// All three agree with `str`'s own, as `Borrow` demands. `PartialEq` therefore compares names only; states are
// compared with `State`'s own, which looks at the records too.
impl PartialEq for ByName {
    fn eq(&self, other: &Self) -> bool {
        self.0.name == other.0.name
    }
}

impl Eq for ByName {}

impl PartialOrd for ByName {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ByName {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.name.as_str().cmp(other.0.name.as_str())
    }
}

impl Hash for ByName {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.name.as_str().hash(state);
    }
}

/// The streams that every node has, as its readers see them.
#[must_use]
pub(super) fn own_streams(history: impl Fn(StreamId) -> History) -> Vec<Stream> {
    let stream = |id, name: &str, title: &str, types: &[&str]| {
        let name = name.parse::<StreamName>().ok()?;
        let mut descriptor = super::Descriptor {
            title: Some(title.into()),
            contenttype: Some("application/json".into()),
            types: types.iter().map(|ty| Box::from(*ty)).collect(),
            access: Access::Private,
            dedupe: None,
            ..super::Descriptor::default()
        };
        descriptor.retention.age = Some(std::time::Duration::from_secs(400 * 86_400));
        Some(Stream {
            id,
            name,
            descriptor,
            history: history(id),
            created: Time::default(),
            revision: Position::NONE,
        })
    };
    [
        stream(own::AUDIT, "_weir.audit", "Who decided what, and what was refused", &[]),
        stream(own::OPS, "_weir.ops", "What happened to the node itself", &[]),
        stream(own::USAGE, "_weir.usage", "What was delivered to whom", &["weir.usage.counted"]),
    ]
    .into_iter()
    .flatten()
    .collect()
}
