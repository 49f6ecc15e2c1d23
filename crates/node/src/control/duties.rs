//! What control does by itself: end what has run out, save cursors, write snapshots and the derived streams, and
//! erase secrets that nothing refers to.
//!
//! [`Control::run`] is one task that the node owns and awaits; [`Control::close`] ends it and saves the rest.
//! A duty that fails says so once and is tried again at its next turn: none of them stands between a caller and
//! its decision.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use weir_event::flow::{Position, Time};

use super::plan::{subscriptions, tokens};
use super::state::{Expiring, own};
use super::{Caller, Control, Inner, snapshot};
use crate::error::Error;

/// How often cursors are saved, at most.
const SAVE: Duration = Duration::from_secs(1);
/// What happens at once waits this long for company, so that one sync does for all of it.
const TOGETHER: Duration = Duration::from_millis(250);
/// How often what was counted is written.
const MINUTE: Duration = Duration::from_secs(60);
/// So many decisions after the last snapshot a new one may be worth its while.
const SNAPSHOT_AFTER: u64 = 1000;

impl Control {
    /// Runs the duties until [`Control::close`].
    pub async fn run(&self) {
        let inner = &self.0;
        self.note("weir.node.started", "", serde_json::json!({"version": env!("CARGO_PKG_VERSION")}));
        tokio::select! {
            () = inner.closing.cancelled() => {}
            ((), (), (), ()) = async { tokio::join!(inner.expire(), inner.save(), inner.tell(), inner.tidy()) } => {}
        }
    }

    /// Ends the duties and saves what they keep: cursors, counted refusals and usage, a snapshot.
    pub async fn close(&self) {
        self.0.closing.cancel();
        let inner = &self.0;
        self.note("weir.node.stopped", "", serde_json::json!({"version": env!("CARGO_PKG_VERSION")}));
        told_once("derived streams", inner.derive(true).await);
        told_once("cursors", inner.save_cursors().await);
        told_once("snapshot", inner.save_snapshot(1).await);
        told_once("secrets", inner.sweep_secrets().await);
    }
}

impl Inner {
    /// Ends what has run out. Whoever delivers is woken first: a decision may have to wait for the disk, the end
    /// of a grant may not.
    async fn expire(&self) {
        let mut reached = Time::default();
        loop {
            let now = self.clock.now();
            let (mut due, mut news, mut next) = (Vec::new(), false, None);
            for (time, item) in self.state().expiring() {
                if time > now {
                    next = Some(time);
                    break;
                }
                news |= time > reached;
                if !matches!(item, Expiring::Grant(..)) {
                    due.push(item);
                }
            }
            reached = now;
            if news {
                self.changed();
            }
            let mut failed = false;
            for item in due {
                if let Err(error) = self.end(item).await {
                    tracing::warn!(%error, ?item, "what has run out could not be ended yet");
                    failed = true;
                    break;
                }
            }
            // If the disk refuses, nothing is delivered any more all the same; only the decision waits.
            let retry = tokio::time::sleep(if failed { Duration::from_secs(5) } else { Duration::MAX });
            let reach = async {
                match next {
                    Some(next) => self.clock.reach(next).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = reach => {}
                () = retry => {}
                () = self.due.notified() => {}
            }
        }
    }

    pub(super) async fn end(&self, item: Expiring) -> Result<(), Error> {
        let _turn = self.turn.lock().await;
        self.fold().await?;
        let plan = {
            let state = self.state();
            let desk = self.desk(&state, &Caller::Node, None);
            match item {
                Expiring::Subscription(id) => subscriptions::expire(&desk, id),
                Expiring::Token(id) => tokens::expire(&desk, id),
                Expiring::Grant(..) => None,
            }
        };
        match plan.and_then(|plan| plan.decision) {
            Some(decision) => self.commit(decision).await,
            None => Ok(()),
        }
    }

    async fn save(&self) {
        loop {
            tokio::time::sleep(SAVE).await;
            told_once("cursors", self.save_cursors().await);
        }
    }

    async fn save_cursors(&self) -> Result<(), Error> {
        let cursors = Arc::clone(&self.cursors);
        blocking(move || cursors.save()).await
    }

    /// Writes the derived streams, soon after there is something to write.
    async fn tell(&self) {
        let Ok(mut decided) = self.log.tail(own::STATE) else { return };
        let mut minute = tokio::time::interval(MINUTE);
        minute.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // The first tick is at once, and there is nothing counted yet.
        minute.tick().await;
        loop {
            tokio::time::sleep(TOGETHER).await;
            told_once("derived streams", self.derive(false).await);
            tokio::select! {
                changed = decided.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
                () = self.derived.wake.notified() => {}
                _ = minute.tick() => told_once("derived streams", self.derive(true).await),
            }
        }
    }

    async fn tidy(&self) {
        loop {
            tokio::time::sleep(MINUTE / 4).await;
            told_once("snapshot", self.save_snapshot(SNAPSHOT_AFTER).await);
            told_once("secrets", self.sweep_secrets().await);
            let live = |id| self.state().subscription(id).is_some_and(|found| !found.status.is_closed());
            self.cursors.retain(live);
        }
    }

    /// Writes a snapshot if at least `decisions` were made since the last one, and a number that grows with the
    /// state: so the cost of snapshots stays in proportion to that of the decisions.
    pub(super) async fn save_snapshot(&self, decisions: u64) -> Result<(), Error> {
        let last = *self.snapshot.lock().unwrap_or_else(PoisonError::into_inner);
        let history = self.log.status(own::STATE)?.history;
        let state = {
            let state = self.state();
            let records = state.streams().len() + state.subscriptions().len() + state.tokens().len();
            let worth = if decisions > 1 { u64::try_from(records / 2).unwrap_or(u64::MAX) } else { 1 };
            if state.position().0.saturating_sub(last.0) < decisions.max(worth) {
                return Ok(());
            }
            state.clone()
        };
        let (dir, position) = (self.dir.clone(), state.position());
        blocking(move || snapshot::save(&dir, &snapshot::encode(&state, history))).await?;
        self.snapshot_is_at(position);
        Ok(())
    }

    fn snapshot_is_at(&self, position: Position) {
        *self.snapshot.lock().unwrap_or_else(PoisonError::into_inner) = position;
    }

    async fn sweep_secrets(&self) -> Result<(), Error> {
        if !self.swept.swap(true, Ordering::AcqRel) {
            // Under the turn: a secret that was kept and whose decision is being written is not one to erase.
            let _turn = self.turn.lock().await;
            let (secrets, state) = (Arc::clone(&self.secrets), self.state().clone());
            return blocking(move || secrets.sweep(&state)).await;
        }
        Ok(())
    }
}

async fn blocking(write: impl FnOnce() -> std::io::Result<()> + Send + 'static) -> Result<(), Error> {
    tokio::task::spawn_blocking(write).await.map_err(Error::internal)?.map_err(Error::internal)
}

fn told_once(what: &str, done: Result<(), Error>) {
    if let Err(error) = done {
        let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
        tracing::warn!(%error, cause, what, "a duty of control failed and will be tried again");
    }
}
