//! Delivery: every way out begins here.
//!
//! A [`Delivery`] is one consumer reading one stream under a subscription, named or not. It knows where it
//! stands, what it may let through, how fast and how far ahead of its acknowledgements, and yields [`Item`]s: events
//! in shared encodings, heartbeats, notices, states, and an end. Adapters only bring items to the wire:
//! [`outlet`] over one HTTP connection (server-sent events or STREAM frames), [`range`] as one answer.
//!
//! The parts:
//! - [`Feed`]: what all deliveries of one stream share: the durable tail, turns read from the log, wake-ups.
//! - [`block`]: consecutive events with each encoding made once; [`sse`] and [`stream`] are the encodings.
//! - [`rules`]: filters and imposed form, evaluated once per block for all deliveries under equal ones.
//! - [`signal`]: how a delivery is reached while it waits; the [`Deliveries::run`] duty tells every delivery
//!   whose standing has changed.
//!
//! What holds, on every way out:
//! - Only durable events leave (invariant 2), in order, and every range that is passed over is announced
//!   (invariant 3).
//! - Nothing waits in memory for a slow consumer but the turn under way, and of that only the event under way once
//!   it has been slow for a second; the log feeds it later (invariants 4 and 9).
//! - Within a second of a revocation or an expiry nothing more is handed out (invariant 5): the standing is looked
//!   at before each item, and waking for it does not depend on the socket.
//! - A consumer never gets more than was accepted, narrowed by what is imposed (invariant 6): [`rules::Rules`]
//!   and the start are taken from the reader that control opened, and taken anew when its terms change.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use weir_event::flow::{History, Position};
use weir_log::{Log, SkipReason, Skipped, StreamId};

pub(crate) mod block;
mod delivery;
mod feed;
mod form;
pub(crate) mod outlet;
pub(crate) mod range;
mod rules;
mod signal;
mod sse;
mod start;
mod stream;

pub(crate) use delivery::{Ask, Delivery};
pub(crate) use start::Resume;

use crate::control::{Control, Standing, Stream};
use crate::error::{Code, Error};
use crate::metrics::Metrics;
use feed::Feed;
use signal::Signal;

/// What deliveries hold to.
#[derive(Clone, Debug)]
pub(crate) struct Bounds {
    /// Deliveries open at the same time.
    pub(crate) deliveries_max: usize,
    /// Memory of shared tails and turns.
    pub(crate) shared_bytes_max: usize,
    /// Turns read from the log at the same time.
    pub(crate) turns_max: usize,
    /// At least so often every push channel says where it stands.
    pub(crate) heartbeat: Duration,
    /// A consumer that takes nothing for so long is cut off.
    pub(crate) stall: Duration,
    /// How many bytes a range read looks at before it answers with what it has.
    pub(crate) scan_bytes: u64,
    /// How long it looks.
    pub(crate) scan_time: Duration,
}

/// All deliveries of a node.
pub(crate) struct Deliveries {
    control: Control,
    shared: Arc<feed::Shared>,
    bounds: Bounds,
    feeds: Mutex<HashMap<StreamId, Weak<Feed>>>,
    open: Mutex<HashMap<usize, Arc<Signal>>>,
    closing: CancellationToken,
    /// As `closing`, to be looked at by every delivery whenever it is polled.
    closed: AtomicBool,
}

impl Deliveries {
    /// Nothing is open yet.
    pub(crate) fn new(
        control: Control,
        log: Arc<dyn Log>,
        metrics: Arc<Metrics>,
        bounds: Bounds,
        closing: CancellationToken,
    ) -> Arc<Self> {
        let shared = feed::Shared {
            log,
            metrics,
            turns: Semaphore::new(bounds.turns_max),
            bytes_max: bounds.shared_bytes_max,
            bytes: AtomicUsize::new(0),
        };
        Arc::new(Self {
            control,
            shared: Arc::new(shared),
            bounds,
            feeds: Mutex::default(),
            open: Mutex::default(),
            closing,
            closed: AtomicBool::new(false),
        })
    }

    /// The warden: tells each delivery when its standing changed, and all of them when the node stops. Runs until
    /// then.
    ///
    /// One task for all of them, so that an idle delivery holds no watch of its own. After a change it looks at
    /// every open delivery, and at most every [`WARDEN_PAUSE`].
    pub(crate) async fn run(&self) {
        let mut changes = self.control.changes();
        loop {
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { break },
                () = self.closing.cancelled() => break,
            }
            changes.mark_unchanged();
            for signal in self.signals() {
                signal.stand(self.control.standing(&signal.reader()));
            }
            tokio::time::sleep(WARDEN_PAUSE).await;
        }
        self.closing.cancelled().await;
        self.closed.store(true, Ordering::Release);
        for signal in self.signals() {
            signal.wake();
        }
    }

    /// The feed of a stream.
    fn feed(&self, stream: &Arc<Stream>) -> Result<Arc<Feed>, Error> {
        let mut feeds = self.feeds.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(feed) = feeds.get(&stream.id).and_then(Weak::upgrade) {
            return Ok(feed);
        }
        feeds.retain(|_, feed| feed.strong_count() > 0);
        let feed = Feed::open(Arc::clone(stream), Arc::clone(&self.shared))?;
        feeds.insert(stream.id, Arc::downgrade(&feed));
        Ok(feed)
    }

    fn signals(&self) -> Vec<Arc<Signal>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Adds a delivery to those that the warden looks after.
    fn enter(&self, signal: &Arc<Signal>) -> Result<(), Error> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.len() >= self.bounds.deliveries_max {
            return Err(Error::new(
                Code::TooManyConnections,
                "this node has as many deliveries open as it may have",
            )
            .with("limit", self.bounds.deliveries_max)
            .retry_after(Duration::from_secs(5)));
        }
        if self.closed.load(Ordering::Acquire) {
            return Err(
                Error::new(Code::NotReady, "the node is stopping").retry_after(Duration::from_secs(1))
            );
        }
        open.insert(Arc::as_ptr(signal) as usize, Arc::clone(signal));
        Ok(())
    }

    fn exit(&self, signal: &Arc<Signal>) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&(Arc::as_ptr(signal) as usize));
    }
}

impl std::fmt::Debug for Deliveries {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Deliveries").field("bounds", &self.bounds).finish_non_exhaustive()
    }
}

/// How long the warden rests between two looks: what many decisions in a row cost is bounded by it, and it is a
/// tenth of the second in which a revocation must work.
const WARDEN_PAUSE: Duration = Duration::from_millis(100);

/// What a delivery yields.
#[derive(Debug)]
pub(crate) enum Item {
    /// Where the stream and this delivery stand.
    Heartbeat(Heartbeat),
    /// Positions that will not come, or another history.
    Notice(Notice),
    /// The subscription's state, while events do not flow.
    State(State),
    /// Events.
    Events(delivery::Events),
    /// Nothing more comes.
    End(End),
}

/// Where the stream and a delivery stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Heartbeat {
    /// The stream's last durable position.
    pub(crate) head: Position,
    /// The history that positions belong to.
    pub(crate) history: History,
    /// Up to where the delivery has looked.
    pub(crate) at: Position,
}

impl Heartbeat {
    fn to_json(self) -> Value {
        json!({"head": self.head, "history": self.history, "at": self.at})
    }
}

/// What a consumer must know about the positions it gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Notice {
    /// These will not come.
    Skipped(Skipped),
    /// Positions belong to another history: the consumer has to choose where to go on.
    History {
        /// What the consumer, or its cursor, goes by; `None` if it did not say.
        was: Option<History>,
        /// What the stream has.
        now: History,
        /// The last position.
        head: Position,
    },
}

impl Notice {
    fn to_json(&self) -> Value {
        match self {
            Notice::Skipped(skipped) => {
                let range = json!({"from": skipped.from, "to": skipped.to});
                json!({"skipped": range, "reason": skip_reason(skipped.reason)})
            }
            Notice::History { was, now, head } => json!({"history": {"was": was, "now": now}, "head": head}),
        }
    }
}

/// The word for why positions are passed over.
pub(crate) fn skip_reason(reason: SkipReason) -> &'static str {
    match reason {
        SkipReason::Retention => "retention",
        SkipReason::Gap => "gap",
        SkipReason::Repair => "repair",
    }
}

/// Where a subscription stands, as its consumer is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct State {
    name: &'static str,
    by: Option<&'static str>,
    reason: Option<Box<str>>,
}

impl State {
    fn of(standing: &Standing) -> Self {
        match standing {
            Standing::Active | Standing::Changed => Self { name: "active", by: None, reason: None },
            Standing::Requested => Self { name: "requested", by: None, reason: None },
            Standing::Suspended { by, reason } => {
                Self { name: "suspended", by: Some(by.name()), reason: reason.clone() }
            }
            Standing::Closed { why, .. } => Self::closed(why.name()),
        }
    }

    fn closed(why: &'static str) -> Self {
        Self { name: "closed", by: None, reason: Some(why.into()) }
    }

    fn to_json(&self) -> Value {
        let mut json = json!({"state": self.name});
        if let Some(by) = self.by {
            json["by"] = by.into();
        }
        if let Some(reason) = &self.reason {
            json["reason"] = (&**reason).into();
        }
        json
    }
}

/// Why a delivery ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct End {
    /// One word: a subscription's `closed` reason, or `complete`, `history`, `stopping`, `failed`.
    pub(crate) reason: &'static str,
    /// For people.
    pub(crate) detail: Option<String>,
    /// Whether the consumer lost the right to what is under way: its connection is reset, not drained.
    pub(crate) reset: bool,
}

impl End {
    fn new(reason: &'static str) -> Self {
        Self { reason, detail: None, reset: false }
    }

    fn to_json(&self) -> Value {
        let mut json = json!({"reason": self.reason});
        if let Some(detail) = &self.detail {
            json["detail"] = detail.as_str().into();
        }
        json
    }
}
