//! A feed: what all deliveries of one stream share.
//!
//! It follows the stream's durable head for all of them. Deliveries that have sent everything *wait at the end*;
//! when the head moves, one task reads what is new, once, puts it into the *tail* as [`Block`]s and wakes them.
//! A delivery that is behind reads the log itself, in turns of at most [`block::BYTES_MAX`], on a pool that is
//! bounded for the whole node ([`Shared::turns`]), and leaves its blocks here for a while: consumers that come
//! back together after a restart read the same turns once.
//!
//! What bounds it: tails and turns of all feeds together keep at most [`Shared::bytes_max`] in memory, beyond
//! that each feed gives up its oldest blocks; a delivery that needed one reads the log again. A feed lives as
//! long as a delivery holds it, so an idle stream costs nothing.
//!
//! Only durable events are ever in it (invariant 2): the head it follows is the log's durable one, and its reads
//! end there.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::{Semaphore, watch};
use tokio::task::AbortHandle;
use weir_event::flow::{History, Position};
use weir_log::{Head, Log};

use super::block::{self, Block};
use super::signal::Signal;
use crate::control::Stream;
use crate::error::Error;
use crate::metrics::{ByOrigin, Metrics, Origin};

/// How much is read at the end although no delivery takes it: those that were woken a moment ago still will.
const UNCLAIMED_MAX: usize = 4 * block::BYTES_MAX;

/// What all feeds of a node share.
pub(crate) struct Shared {
    pub(crate) log: Arc<dyn Log>,
    pub(crate) metrics: Arc<Metrics>,
    /// Turns that may be read from the log at the same time.
    pub(crate) turns: Semaphore,
    /// What tails and turns may cost together.
    pub(crate) bytes_max: usize,
    pub(crate) bytes: AtomicUsize,
}

impl Shared {
    fn over(&self) -> bool {
        self.bytes.load(Ordering::Relaxed) > self.bytes_max
    }

    fn add(&self, block: &Block) {
        let now = self.bytes.fetch_add(block.cost(), Ordering::Relaxed) + block.cost();
        self.metrics.deliver_shared.set(i64::try_from(now).unwrap_or(i64::MAX));
    }

    fn subtract(&self, block: &Block) {
        let now = self.bytes.fetch_sub(block.cost(), Ordering::Relaxed).saturating_sub(block.cost());
        self.metrics.deliver_shared.set(i64::try_from(now).unwrap_or(i64::MAX));
    }
}

/// See the module.
pub(crate) struct Feed {
    stream: Arc<Stream>,
    shared: Arc<Shared>,
    state: Mutex<State>,
    follower: Mutex<Option<AbortHandle>>,
}

struct State {
    head: Head,
    /// The stream is gone or the log closed: nothing more comes.
    ended: bool,
    /// Reading the tail failed, for good.
    failed: Option<Error>,
    /// Deliveries that wait, wait here: all before it was offered to them or passed over without them.
    end: Position,
    /// Bytes offered since a delivery last took some: when it grows, nobody follows the end any more.
    unclaimed: usize,
    /// Blocks by their first position, without overlap: those read for everyone at the end and those that single
    /// deliveries read.
    blocks: BTreeMap<Position, Arc<Block>>,
    /// In which order they came.
    order: VecDeque<Position>,
    waiting: Vec<Option<Arc<Signal>>>,
    free: Vec<usize>,
}

/// What a feed has for a delivery at some position.
pub(crate) enum Found {
    /// Events, or ranges to skip.
    Block(Arc<Block>),
    /// Nothing yet: the delivery's signal is given when there is.
    Wait,
    /// It has to read the log: [`Feed::read`].
    Behind,
    /// Positions mean something else now.
    OtherHistory(Head),
    /// Nothing more comes.
    Ended,
    /// Reading fails.
    Failed(Error),
}

impl Feed {
    /// Starts to follow a stream.
    pub(crate) fn open(stream: Arc<Stream>, shared: Arc<Shared>) -> Result<Arc<Self>, Error> {
        let tail = shared.log.tail(stream.id)?;
        let head = *tail.borrow();
        let feed = Arc::new(Self {
            stream,
            shared,
            state: Mutex::new(State {
                head,
                ended: false,
                failed: None,
                end: head.last.next(),
                unclaimed: 0,
                blocks: BTreeMap::new(),
                order: VecDeque::new(),
                waiting: Vec::new(),
                free: Vec::new(),
            }),
            follower: Mutex::default(),
        });
        let follower = tokio::spawn(follow(Arc::downgrade(&feed), tail)).abort_handle();
        *feed.follower.lock().unwrap_or_else(PoisonError::into_inner) = Some(follower);
        Ok(feed)
    }

    /// The durable head.
    pub(crate) fn head(&self) -> Head {
        self.state().head
    }

    /// Gives a delivery a place among those that are woken.
    pub(crate) fn join(&self, signal: &Arc<Signal>) -> usize {
        let mut state = self.state();
        match state.free.pop() {
            Some(place) => {
                state.waiting[place] = Some(Arc::clone(signal));
                place
            }
            None => {
                state.waiting.push(Some(Arc::clone(signal)));
                state.waiting.len() - 1
            }
        }
    }

    /// Takes it back.
    pub(crate) fn leave(&self, place: usize) {
        let mut state = self.state();
        state.waiting[place] = None;
        state.free.push(place);
    }

    /// What there is at `position` of a history. With [`Found::Wait`], `signal` is given once there is more.
    pub(crate) fn at(&self, position: Position, history: History, signal: &Signal) -> Found {
        let mut state = self.state();
        if state.head.history != history {
            return Found::OtherHistory(state.head);
        }
        if let Some((_, block)) = state.blocks.range(..=position).next_back()
            && block.begin() <= position
            && position < block.next()
        {
            let block = Arc::clone(block);
            state.unclaimed = 0;
            return Found::Block(block);
        }
        if let Some(error) = &state.failed {
            return Found::Failed(error.clone());
        }
        if position <= state.head.last && position < state.end {
            return Found::Behind;
        }
        if state.ended {
            return Found::Ended;
        }
        // At the end, or beyond it (a consumer from another time): the follower reads on from the end.
        state.unclaimed = 0;
        signal.wait();
        Found::Wait
    }

    /// Reads a turn from the log for a delivery that is behind: blocks from `from` on, at least one if there is
    /// anything durable.
    pub(crate) async fn read(&self, from: Position) -> Result<Vec<Arc<Block>>, Error> {
        let _turn = self.shared.turns.acquire().await;
        // While this one waited for its turn another may have read the same.
        let (until, found, history) = {
            let state = self.state();
            let before = state.blocks.range(..=from).next_back();
            let found =
                before.map(|(_, block)| block).filter(|block| from < block.next() && block.begin() <= from);
            let after = state.blocks.range(from.next()..).next();
            let until = after.map_or(state.head.last, |(first, _)| first.previous());
            (until, found.cloned(), state.head.history)
        };
        if let Some(block) = found {
            self.count(Origin::shared);
            return Ok(vec![block]);
        }
        let read = self.shared.log.read(self.stream.id, from, block::BYTES_MAX).await?;
        self.count(Origin::log);
        let blocks = Block::cut(read, history, from, until);
        let mut state = self.state();
        if state.head.history == history {
            for block in &blocks {
                self.keep(&mut state, block);
            }
        }
        Ok(blocks)
    }

    /// Counts a turn.
    pub(crate) fn count(&self, origin: Origin) {
        self.shared.metrics.deliver_turns.get_or_create(&ByOrigin { origin }).inc();
    }

    /// Remembers a block, unless it overlaps with one that is there.
    fn keep(&self, state: &mut State, block: &Arc<Block>) {
        let before = state.blocks.range(..=block.begin()).next_back();
        let after = state.blocks.range(block.begin()..).next();
        let overlaps = before.is_some_and(|(_, before)| before.next() > block.begin())
            || after.is_some_and(|(first, _)| *first < block.next());
        if overlaps {
            return;
        }
        self.shared.add(block);
        state.blocks.insert(block.begin(), Arc::clone(block));
        state.order.push_back(block.begin());
        while self.shared.over() && self.give_up_oldest(state) {}
    }

    fn give_up_oldest(&self, state: &mut State) -> bool {
        let Some(oldest) = state.order.pop_front() else { return false };
        if let Some(block) = state.blocks.remove(&oldest) {
            self.shared.subtract(&block);
        }
        true
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of a new head; says from where to read for those who wait.
    fn moved(&self, head: Head) -> Option<Position> {
        let mut state = self.state();
        let other_history = state.head.history != head.history;
        state.head = head;
        if other_history {
            // Positions mean something else now: nothing read before may be handed out after.
            while self.give_up_oldest(&mut state) {}
            state.end = head.last.next();
            state.wake();
            return None;
        }
        if state.unclaimed > UNCLAIMED_MAX && !state.is_awaited() {
            state.end = head.last.next();
            return None;
        }
        (state.end <= head.last).then_some(state.end)
    }

    /// Hands what was read at the end to those who wait.
    fn offer(&self, blocks: &[Arc<Block>], next: Position) {
        let mut state = self.state();
        for block in blocks {
            state.unclaimed += block.bytes();
            self.keep(&mut state, block);
        }
        state.end = state.end.max(next);
        state.wake();
    }

    fn end(&self, failed: Option<Error>) {
        let mut state = self.state();
        state.ended = true;
        state.failed = failed;
        state.wake();
    }
}

impl State {
    fn is_awaited(&self) -> bool {
        self.waiting.iter().flatten().any(|signal| signal.is_waiting())
    }

    fn wake(&self) {
        for signal in self.waiting.iter().flatten() {
            signal.arrived();
        }
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        if let Some(follower) = self.follower.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            follower.abort();
        }
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        for block in state.blocks.values() {
            self.shared.subtract(block);
        }
    }
}

/// Follows the head until the feed or the stream is gone.
async fn follow(feed: Weak<Feed>, mut tail: watch::Receiver<Head>) {
    loop {
        let changed = tail.changed().await.is_ok();
        // Behind whatever waits to run: on a busy node more has arrived by then, and all consumers get it with one
        // wake and one write each; on an idle one nothing waits.
        tokio::task::yield_now().await;
        let Some(feed) = feed.upgrade() else { return };
        if !changed {
            feed.end(None);
            return;
        }
        loop {
            let head = *tail.borrow_and_update();
            let Some(from) = feed.moved(head) else { break };
            match feed.shared.log.read(feed.stream.id, from, block::BYTES_MAX).await {
                Ok(read) => {
                    feed.count(Origin::tail);
                    let next = read.next;
                    let blocks = Block::cut(read, head.history, from, head.last);
                    let reached =
                        blocks.last().map_or(from, |block| block.next()).max(next.min(head.last.next()));
                    feed.offer(&blocks, reached);
                    if reached <= from {
                        // Nothing durable at a position below the head: the log and its head disagree for
                        // a moment (the stream was trimmed or repaired); the next change tells.
                        break;
                    }
                }
                Err(error) => {
                    let error = Error::from(error);
                    tracing::error!(%error, stream = %feed.stream.name, "reading the tail failed");
                    feed.end(Some(error));
                    return;
                }
            }
        }
    }
}
