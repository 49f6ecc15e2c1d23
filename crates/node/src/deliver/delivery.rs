//! One consumer reading one stream.

use std::collections::VecDeque;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, Sleep};
use weir_event::flow::{History, Position};

use super::block::{Block, Chosen, Piece};
use super::feed::{Feed, Found};
use super::rules::Rules;
use super::signal::Signal;
use super::start::{self, Begin, Resume};
use super::{Deliveries, End, Heartbeat, Item, Notice, State};
use crate::control::subscription::Ack;
use crate::control::{
    Caller, Control, Filters, Meter, Origin, Reader, Standing, Start, SubscriptionId, Target,
};
use crate::error::{Code, Error, Kind};
use crate::metrics::{ByWay, Origin as From, Way};
use crate::server::Connection;

/// How many positions may be sent and not acknowledged.
const OPEN_MAX: u64 = 10_000;

/// What a consumer asks of a delivery.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    /// Who asks.
    pub(crate) caller: Caller,
    /// For what.
    pub(crate) target: Target,
    /// Where to begin.
    pub(crate) resume: Resume,
    /// The history that the consumer's positions belong to, if it says.
    pub(crate) history: Option<History>,
    /// Up to where, inclusive; the delivery then ends.
    pub(crate) to: Option<Start>,
    /// How many events; the delivery then ends.
    pub(crate) limit: Option<u64>,
    /// Of the events that may leave, only those that this lets through.
    pub(crate) filter: Option<Arc<Filters>>,
    /// In which form.
    pub(crate) way: Way,
}

/// What a reader's subscription has acknowledged.
pub(super) fn cursor(control: &Control, reader: &Reader) -> Option<(History, Position)> {
    let cursor = control.cursor(reader.subscription?)?;
    Some((cursor.floor.history, cursor.floor.after))
}

/// One consumer reading one stream under a subscription.
///
/// [`Delivery::poll`] yields what to send next. Whoever sends says what was written with [`Delivery::written`], and
/// may give back what was not with [`Delivery::rewind`].
pub(crate) struct Delivery {
    node: Arc<Deliveries>,
    ask: Box<Ask>,
    reader: Arc<Reader>,
    rules: Arc<Rules>,
    meter: Arc<Meter>,
    feed: Arc<Feed>,
    place: usize,
    signal: Arc<Signal>,
    /// The version of the standing that is acted on.
    version: u32,
    phase: Phase,
    history: History,
    /// The first position that was not looked at.
    next: Position,
    until: Option<Position>,
    left: Option<u64>,
    /// Events handed out and not known to be written.
    outstanding: u64,
    ready: VecDeque<Item>,
    turn: Option<Turn>,
    turns: VecDeque<Arc<Block>>,
    reading: Option<Reading>,
    pace: Option<Box<Pace>>,
    credit: Option<Box<Credit>>,
    timer: Pin<Box<Sleep>>,
    heartbeat_due: Instant,
}

type Reading = Pin<Box<dyn Future<Output = Result<Vec<Arc<Block>>, Error>> + Send>>;
type Beginning = Pin<Box<dyn Future<Output = Result<Begin, Error>> + Send>>;

/// What a delivery does.
enum Phase {
    /// Events flow.
    Flowing,
    /// Events do not flow until the standing changes.
    Waiting,
    /// Finds out where to begin, after it waited or its terms changed.
    Beginning(Beginning),
    /// The last item is out or under way.
    Over,
}

/// The block that is being handed out.
struct Turn {
    block: Arc<Block>,
    chosen: Arc<Chosen>,
    /// The number, among the chosen, of the next event.
    number: u32,
}

/// Some events, to be encoded as the wire wants them.
#[derive(Debug)]
pub(crate) struct Events {
    block: Arc<Block>,
    chosen: Arc<Chosen>,
    rules: Arc<Rules>,
    numbers: Range<u32>,
}

impl Events {
    /// As server-sent events.
    pub(crate) fn sse(&self) -> Piece {
        self.chosen.sse(&self.block, &self.rules, self.numbers.clone())
    }

    /// As frames of the stream of that name.
    pub(crate) fn stream(&self, name: &str) -> Piece {
        self.chosen.stream(&self.block, &self.rules, name, self.numbers.clone())
    }
}

impl Deliveries {
    /// Opens a delivery.
    ///
    /// Errors: those of [`crate::control::Control::reader`], `bad-position`, `limit-reached`, those of the log.
    pub(crate) async fn open(self: &Arc<Self>, ask: Ask) -> Result<Delivery, Error> {
        let reader = Arc::new(self.control.reader(&ask.caller, ask.target.clone())?);
        let standing = self.control.standing(&reader);
        if let Standing::Closed { why, .. } = &standing {
            return Err(
                Error::new(Code::SubscriptionClosed, "the subscription is closed").with("reason", why.name())
            );
        }
        let feed = self.feed(&reader.stream)?;
        let signal = Arc::new(Signal::new(Arc::clone(&reader), standing.clone()));
        self.enter(&signal)?;
        let now = Instant::now();
        let mut delivery = Delivery {
            rules: Arc::new(Rules::of(&reader, ask.filter.as_ref())),
            meter: self.control.meter(&reader),
            place: feed.join(&signal),
            version: signal.version(),
            phase: Phase::Waiting,
            history: feed.head().history,
            next: Position::FIRST,
            until: None,
            left: ask.limit,
            outstanding: 0,
            ready: VecDeque::new(),
            turn: None,
            turns: VecDeque::new(),
            reading: None,
            pace: Pace::of(&reader, now),
            credit: Credit::of(self, &reader),
            timer: Box::pin(tokio::time::sleep_until(now + self.bounds.heartbeat)),
            heartbeat_due: now + self.bounds.heartbeat,
            node: Arc::clone(self),
            ask: Box::new(ask),
            reader,
            feed,
            signal,
        };
        delivery.node.shared.metrics.deliveries_open.get_or_create(&delivery.by_way()).inc();
        if standing.is_active() {
            let begin = delivery.beginning().await?;
            delivery.begin(begin);
        } else {
            delivery.ready.push_back(Item::State(State::of(&standing)));
        }
        if let Some(to) = delivery.ask.to {
            let (log, stream) = (&self.shared.log, delivery.reader.stream.id);
            delivery.until = Some(start::until(log, stream, to, delivery.feed.head()).await?);
        }
        Ok(delivery)
    }
}

impl Delivery {
    /// The next thing to send. `None` once the end was sent.
    ///
    /// The task that polls is woken for whatever makes a difference: events, a change of standing, the next
    /// heartbeat, an acknowledgement. It may poll as often as it likes.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Item>> {
        self.signal.register(cx);
        if !matches!(self.phase, Phase::Over) {
            self.look_up();
        }
        loop {
            if let Some(item) = self.ready.pop_front() {
                return Poll::Ready(Some(item));
            }
            let item = match &mut self.phase {
                Phase::Over => return Poll::Ready(None),
                Phase::Waiting => None,
                Phase::Beginning(beginning) => match beginning.as_mut().poll(cx) {
                    Poll::Ready(Ok(begin)) => {
                        self.begin(begin);
                        continue;
                    }
                    Poll::Ready(Err(error)) => {
                        self.fail(&error);
                        continue;
                    }
                    Poll::Pending => None,
                },
                Phase::Flowing => match self.events(cx) {
                    Flow::Item(item) => Some(item),
                    Flow::Again => continue,
                    Flow::Wait => None,
                },
            };
            if item.is_some() {
                return Poll::Ready(item);
            }
            if self.timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            self.tick();
        }
    }

    /// Whether the consumer may no longer be sent anything that waits, not even what is encoded: the delivery has
    /// ended by revocation, expiry or the like. Cheap; asked while a write blocks.
    pub(crate) fn is_cut_off(&mut self, cx: &Context<'_>) -> bool {
        self.signal.register(cx);
        if self.signal.version() == self.version {
            return false;
        }
        matches!(self.signal.standing(), Standing::Closed { .. })
    }

    /// The delivery shares its connection with other requests.
    pub(crate) fn on_shared(&self, connection: &Arc<Connection>) {
        self.signal.share(connection);
    }

    /// The stream's name.
    pub(crate) fn stream_name(&self) -> &str {
        self.reader.stream.name.as_str()
    }

    /// In which form.
    pub(crate) fn way(&self) -> Way {
        self.ask.way
    }

    /// How long a consumer may take nothing.
    pub(crate) fn stall(&self) -> Duration {
        self.node.bounds.stall
    }

    /// The metrics of the node.
    pub(crate) fn metrics(&self) -> &crate::metrics::Metrics {
        &self.node.shared.metrics
    }

    /// Events up to `last` were written.
    pub(crate) fn written(&mut self, last: Option<Position>, events: u64, bytes: u64) {
        use std::sync::atomic::Ordering::Relaxed;
        self.meter.events.fetch_add(events, Relaxed);
        self.meter.bytes.fetch_add(bytes, Relaxed);
        self.outstanding = self.outstanding.saturating_sub(events);
        if self.reader.ack == Ack::Sent
            && let (Some(id), Some(after)) = (self.reader.subscription, last)
        {
            self.acknowledge(id, after);
        }
    }

    /// Nothing after `last` was written: hands out again what follows, from the log if need be. `events` is how
    /// many had been handed out beyond it.
    pub(crate) fn rewind(&mut self, last: Position, events: u64) {
        (self.turn, self.reading) = (None, None);
        self.turns.clear();
        self.next = last.next();
        self.left = self.left.map(|left| left + events);
        self.outstanding = self.outstanding.saturating_sub(events);
        if let Some(credit) = &mut self.credit {
            credit.unsend(last);
        }
    }

    /// Acts on a change of standing, and on the node's stop.
    fn look_up(&mut self) {
        let version = self.signal.version();
        if version != self.version {
            self.version = version;
            self.stand(&self.signal.standing());
        }
        if self.node.closed.load(Ordering::Acquire) && !matches!(self.phase, Phase::Over) {
            self.end(End::new("stopping"));
        }
    }

    fn stand(&mut self, standing: &Standing) {
        match standing {
            Standing::Active if matches!(self.phase, Phase::Waiting) => self.reopen(),
            Standing::Active => {}
            Standing::Changed => self.reopen(),
            Standing::Requested | Standing::Suspended { .. } => {
                self.forget();
                self.phase = Phase::Waiting;
                self.ready.push_back(Item::State(State::of(standing)));
            }
            Standing::Closed { why, reason } => {
                self.forget();
                self.ready.clear();
                self.end(End {
                    reason: why.name(),
                    detail: reason.as_deref().map(str::to_owned),
                    reset: true,
                });
            }
        }
    }

    /// Opens the reader anew: what may leave, and from where, is as decided now.
    fn reopen(&mut self) {
        let waited = matches!(self.phase, Phase::Waiting);
        let control = &self.node.control;
        let reader = match control.reader(&self.ask.caller, self.ask.target.clone()) {
            Ok(reader) => Arc::new(reader),
            Err(error) => return self.fail(&error),
        };
        let standing = control.standing(&reader);
        self.forget();
        self.rules = Arc::new(Rules::of(&reader, self.ask.filter.as_ref()));
        self.pace = Pace::of(&reader, Instant::now());
        self.credit = Credit::of(&self.node, &reader);
        self.signal.reopened(Arc::clone(&reader), standing.clone());
        self.reader = reader;
        if !standing.is_active() {
            self.phase = Phase::Waiting;
            return self.ready.push_back(Item::State(State::of(&standing)));
        }
        if waited {
            self.ready.push_back(Item::State(State::of(&standing)));
        }
        self.phase = Phase::Beginning(self.beginning());
    }

    /// Finds where to begin: at first where the consumer asked to, later where it is.
    fn beginning(&self) -> Beginning {
        let (log, reader) = (Arc::clone(&self.node.shared.log), Arc::clone(&self.reader));
        let (resume, history) = if self.next > Position::FIRST {
            (Resume::After(self.next.previous()), Some(self.history))
        } else {
            (self.ask.resume, self.ask.history)
        };
        let cursor = cursor(&self.node.control, &self.reader);
        Box::pin(async move { start::begin(&log, &reader, resume, history, cursor).await })
    }

    fn begin(&mut self, begin: Begin) {
        match begin {
            Begin::At(next, history) => {
                (self.next, self.history) = (next, history);
                self.phase = Phase::Flowing;
                self.moved_by_consumer();
                let heartbeat = self.heartbeat();
                self.ready.push_back(Item::Heartbeat(heartbeat));
            }
            Begin::OtherHistory { was, head } => self.other_history(was, head),
        }
    }

    /// Moves the cursor as the consumer's way of coming back says.
    fn moved_by_consumer(&self) {
        let Some(id) = self.reader.subscription else { return };
        match self.ask.resume {
            Resume::After(last) if last.next() == self.next => self.acknowledge(id, last),
            // Choosing a place in the current history is how a consumer answers a notice of another one.
            Resume::From(_) if self.ask.history == Some(self.history) => {
                let was = self.node.control.cursor(id).map(|cursor| cursor.floor.history);
                if was != Some(self.history) {
                    let to = Origin { history: self.history, after: self.next.previous() };
                    if let Err(error) = self.node.control.seek(id, to) {
                        tracing::warn!(%error, subscription = %id, "the cursor could not be set");
                    }
                }
            }
            Resume::After(_) | Resume::From(_) | Resume::Default(_) => {}
        }
    }

    fn acknowledge(&self, id: SubscriptionId, after: Position) {
        if let Err(error) = self.node.control.ack(id, Origin { history: self.history, after }) {
            tracing::debug!(%error, subscription = %id, "the cursor was not moved");
        }
    }

    /// The heartbeat of this moment.
    fn heartbeat(&self) -> Heartbeat {
        let head = self.feed.head();
        Heartbeat { head: head.last, history: head.history, at: self.next.previous() }
    }

    /// The timer went off: a heartbeat may be due, or a paced event.
    fn tick(&mut self) {
        let now = Instant::now();
        if now >= self.heartbeat_due {
            self.heartbeat_due = now + self.node.bounds.heartbeat;
            match self.phase {
                Phase::Flowing | Phase::Beginning(_) => {
                    self.cursor_follows();
                    let heartbeat = self.heartbeat();
                    self.ready.push_back(Item::Heartbeat(heartbeat));
                }
                Phase::Waiting => {
                    let standing = self.signal.standing();
                    self.ready.push_back(Item::State(State::of(&standing)));
                }
                Phase::Over => {}
            }
        }
        self.timer.as_mut().reset(self.heartbeat_due);
    }

    /// Where nothing is open, positions that the filters passed over count as acknowledged.
    fn cursor_follows(&mut self) {
        let Some(id) = self.reader.subscription else { return };
        let at = self.next.previous();
        let settled = match &mut self.credit {
            Some(credit) => credit.open() == 0,
            None => self.outstanding == 0,
        };
        if settled && !at.is_none() && matches!(self.phase, Phase::Flowing) {
            self.acknowledge(id, at);
        }
    }

    fn events(&mut self, cx: &mut Context<'_>) -> Flow {
        let allowed = match self.allowed(cx) {
            Ok(allowed) => allowed,
            Err(flow) => return flow,
        };
        let Some(turn) = &mut self.turn else { return self.next_turn(cx) };
        let mut end = turn.chosen.len(&turn.block);
        if let Some(until) = self.until
            && until < turn.block.next()
        {
            end = end.min(turn.chosen.number(turn.block.index(until.next())));
        }
        let numbers = turn.number..end.min(turn.number.saturating_add(allowed)).max(turn.number);
        let count = numbers.end - numbers.start;
        let (block, chosen) = (Arc::clone(&turn.block), Arc::clone(&turn.chosen));
        if numbers.end < end {
            turn.number = numbers.end;
            self.next = block.position(chosen.index(numbers.end));
        } else {
            self.turn = None;
            self.next = block.next();
        }
        if count == 0 {
            return Flow::Again;
        }
        let first = block.position(chosen.index(numbers.start));
        let last = block.position(chosen.index(numbers.end - 1));
        self.spend(first, last, u64::from(count));
        Flow::Item(Item::Events(Events { block, chosen, rules: Arc::clone(&self.rules), numbers }))
    }

    /// How many events may leave now.
    fn allowed(&mut self, cx: &mut Context<'_>) -> Result<u32, Flow> {
        let mut allowed = u64::from(u32::MAX);
        if self.left == Some(0) || self.until.is_some_and(|until| self.next > until) {
            self.end(End::new("complete"));
            return Err(Flow::Again);
        }
        allowed = allowed.min(self.left.unwrap_or(u64::MAX));
        if let Some(credit) = &mut self.credit {
            allowed = allowed.min(OPEN_MAX.saturating_sub(credit.open()));
            if allowed == 0 {
                return Err(if credit.poll_moved(cx) { Flow::Again } else { Flow::Wait });
            }
        }
        if let Some(pace) = &mut self.pace {
            match pace.take(Instant::now()) {
                Ok(paced) => allowed = allowed.min(paced),
                Err(ready) => {
                    let at = ready.min(self.heartbeat_due);
                    if self.timer.deadline() != at {
                        self.timer.as_mut().reset(at);
                    }
                    return Err(Flow::Wait);
                }
            }
        }
        Ok(u32::try_from(allowed).unwrap_or(u32::MAX))
    }

    fn spend(&mut self, first: Position, last: Position, count: u64) {
        self.outstanding += count;
        if let Some(left) = &mut self.left {
            *left = left.saturating_sub(count);
        }
        if let Some(pace) = &mut self.pace {
            pace.spend(count);
        }
        if let Some(credit) = &mut self.credit {
            credit.send(first, last, count);
        }
    }

    /// Takes the next block: read already, shared, or from the log.
    fn next_turn(&mut self, cx: &mut Context<'_>) -> Flow {
        if let Some(reading) = &mut self.reading {
            match reading.as_mut().poll(cx) {
                Poll::Pending => return Flow::Wait,
                Poll::Ready(Ok(blocks)) => {
                    self.reading = None;
                    if blocks.is_empty() {
                        // Nothing durable where the head says there is: it was trimmed meanwhile. What is missing
                        // is announced once something follows.
                        self.feed.count(From::log);
                    }
                    self.turns = blocks.into();
                }
                Poll::Ready(Err(error)) => {
                    self.reading = None;
                    self.fail(&error);
                    return Flow::Again;
                }
            }
        }
        if let Some(block) = self.turns.pop_front() {
            self.take(block);
            return Flow::Again;
        }
        match self.feed.at(self.next, self.history, &self.signal) {
            Found::Block(block) => self.take(block),
            Found::Wait => return Flow::Wait,
            Found::Behind => {
                let (feed, from) = (Arc::clone(&self.feed), self.next);
                self.reading = Some(Box::pin(async move { feed.read(from).await }));
            }
            Found::OtherHistory(head) => self.other_history(Some(self.history), head),
            Found::Ended => self.end(End::new("retired")),
            Found::Failed(error) => self.fail(&error),
        }
        Flow::Again
    }

    /// Begins with a block: announces what is missing before it, chooses among its events.
    fn take(&mut self, block: Arc<Block>) {
        if block.next() <= self.next {
            return;
        }
        for skipped in block.skipped() {
            if skipped.to >= self.next {
                let from = skipped.from.max(self.next);
                self.ready.push_back(Item::Notice(Notice::Skipped(weir_log::Skipped { from, ..*skipped })));
            }
        }
        let chosen = block.choose(&self.rules);
        let number = chosen.number(block.index(self.next));
        self.next = self.next.max(block.first());
        self.turn = Some(Turn { block, chosen, number });
    }

    fn other_history(&mut self, was: Option<History>, head: weir_log::Head) {
        self.forget();
        self.ready.push_back(Item::Notice(Begin::notice(was, head)));
        self.end(End::new("history"));
    }

    fn fail(&mut self, error: &Error) {
        self.forget();
        let reason = match error.kind() {
            Kind::Closed => "retired",
            Kind::NotFound => "retired",
            Kind::Denied => "revoked",
            Kind::Invalid
            | Kind::Conflict
            | Kind::Exhausted
            | Kind::Unavailable
            | Kind::Corrupt
            | Kind::Internal => "interrupted",
        };
        if !matches!(error.kind(), Kind::Denied | Kind::Closed | Kind::NotFound) {
            tracing::warn!(?error, stream = self.stream_name(), "a delivery was interrupted");
        }
        let detail = Some(format!("{}: {}", error.code(), error.message()));
        self.end(End { reason, detail, reset: error.kind() == Kind::Denied });
    }

    fn end(&mut self, end: End) {
        self.phase = Phase::Over;
        // STREAM has a frame for the end. A server-sent stream only tells a consumer what should keep it from
        // coming back.
        if self.ask.way == Way::sse && (end.reset || end.reason == "retired") {
            self.ready.push_back(Item::State(State::closed(end.reason)));
        }
        self.ready.push_back(Item::End(end));
    }

    /// Forgets what was read and not handed out.
    fn forget(&mut self) {
        (self.turn, self.reading) = (None, None);
        self.turns.clear();
    }

    fn by_way(&self) -> ByWay {
        ByWay { way: self.ask.way }
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        self.signal.over();
        self.feed.leave(self.place);
        self.node.exit(&self.signal);
        self.node.shared.metrics.deliveries_open.get_or_create(&self.by_way()).dec();
    }
}

impl std::fmt::Debug for Delivery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Delivery").field("ask", &self.ask).field("next", &self.next).finish_non_exhaustive()
    }
}

/// What looking for events came to.
enum Flow {
    Item(Item),
    Again,
    Wait,
}

/// An imposed rate: events are let through evenly, in bursts of at most a tenth of a second's worth.
struct Pace {
    per_second: f64,
    burst: f64,
    tokens: f64,
    at: Instant,
}

impl Pace {
    fn of(reader: &Reader, now: Instant) -> Option<Box<Self>> {
        let rate = reader.rate?;
        let per_second = f64::from(rate.events) / rate.per.as_secs_f64().max(0.001);
        let burst = (per_second / 10.0).max(1.0);
        Some(Box::new(Self { per_second, burst, tokens: burst, at: now }))
    }

    /// How many events may leave now, or when the next one may.
    fn take(&mut self, now: Instant) -> Result<u64, Instant> {
        let gained = now.duration_since(self.at).as_secs_f64() * self.per_second;
        self.tokens = (self.tokens + gained).min(self.burst);
        self.at = now;
        if self.tokens >= 1.0 {
            #[allow(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "between 1 and the burst"
            )]
            return Ok(self.tokens as u64);
        }
        let wait = (1.0 - self.tokens) / self.per_second;
        Err(now
            + Duration::try_from_secs_f64(wait.min(3600.0)).unwrap_or_default()
            + Duration::from_millis(1))
    }

    fn spend(&mut self, count: u64) {
        #[allow(clippy::cast_precision_loss, reason = "at most the burst")]
        let count = count as f64;
        self.tokens -= count;
    }
}

/// What was sent and not acknowledged.
struct Credit {
    moves: watch::Receiver<Position>,
    /// Ranges of positions with sent events, rising, and how many events each holds.
    sent: VecDeque<(Position, Position, u64)>,
    open: u64,
    moved: Option<Moved>,
}

type Moved = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Credit {
    fn of(node: &Deliveries, reader: &Reader) -> Option<Box<Self>> {
        let id = reader.subscription.filter(|_| reader.ack == Ack::Explicit)?;
        let moves = node.control.cursor_moves(id)?;
        Some(Box::new(Self { moves, sent: VecDeque::new(), open: 0, moved: None }))
    }

    /// How many events are sent and above the floor.
    fn open(&mut self) -> u64 {
        let floor = *self.moves.borrow();
        while let Some((first, last, count)) = self.sent.front_mut() {
            if *last <= floor {
                self.open -= *count;
                self.sent.pop_front();
                continue;
            }
            // A range that the floor lies within: of an unfiltered delivery every position is an event, of a
            // filtered one this counts too few as acknowledged, for the moment.
            if *first <= floor && *count == last.0 - first.0 + 1 {
                let gone = floor.0 - first.0 + 1;
                (*first, *count, self.open) = (floor.next(), *count - gone, self.open - gone);
            }
            break;
        }
        self.open
    }

    fn send(&mut self, first: Position, last: Position, count: u64) {
        let floor = *self.moves.borrow();
        if last <= floor {
            return;
        }
        self.open += count;
        match self.sent.back_mut() {
            Some((_, end, events)) if end.next() == first => (*end, *events) = (last, *events + count),
            _ => self.sent.push_back((first, last, count)),
        }
    }

    /// Forgets what was counted as sent after `last`.
    fn unsend(&mut self, to: Position) {
        while let Some((first, last, count)) = self.sent.back_mut() {
            if *last <= to {
                break;
            }
            if *first <= to {
                // Of a filtered range it is not known how many lie on each side: as many as fit.
                let kept = (to.0 - first.0 + 1).min(*count);
                self.open -= *count - kept;
                (*last, *count) = (to, kept);
                break;
            }
            self.open -= *count;
            self.sent.pop_back();
        }
    }

    /// Whether the floor moved; if not, the task is woken once it does.
    fn poll_moved(&mut self, cx: &mut Context<'_>) -> bool {
        let moves = &self.moves;
        let moved = self.moved.get_or_insert_with(|| {
            let mut moves = moves.clone();
            Box::pin(async move {
                // The sender is gone with the subscription; then its standing wakes the delivery.
                if moves.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            })
        });
        let ready = moved.as_mut().poll(cx).is_ready();
        if ready {
            self.moved = None;
            self.moves.mark_unchanged();
        }
        ready
    }
}
