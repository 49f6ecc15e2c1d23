//! A signal: how others reach one delivery, wherever its task waits.
//!
//! The feed gives it when events arrive, the warden when the delivery's standing has changed, the node when it
//! stops. One waker serves all of them: that of the task which writes to the consumer, registered anew whenever
//! that task is polled, also while its socket takes nothing.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::task::Context;

use futures_util::task::AtomicWaker;

use crate::control::{Reader, Standing};
use crate::server::{Connection, RESET_AFTER};

/// See the module.
#[derive(Debug)]
pub(crate) struct Signal {
    reader: Mutex<Arc<Reader>>,
    standing: Mutex<Standing>,
    /// Rises whenever `standing` was changed.
    version: AtomicU32,
    waiting: AtomicBool,
    waker: AtomicWaker,
    /// The delivery is gone.
    over: AtomicBool,
    /// The connection that the delivery shares with others.
    shared: OnceLock<Weak<Connection>>,
}

impl Signal {
    /// A signal for a delivery with this reader, which stands so now.
    pub(crate) fn new(reader: Arc<Reader>, standing: Standing) -> Self {
        Self {
            reader: Mutex::new(reader),
            standing: Mutex::new(standing),
            version: AtomicU32::new(0),
            waiting: AtomicBool::new(false),
            waker: AtomicWaker::new(),
            over: AtomicBool::new(false),
            shared: OnceLock::new(),
        }
    }

    /// Whom to ask control about.
    pub(crate) fn reader(&self) -> Arc<Reader> {
        Arc::clone(&self.reader.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The delivery was opened anew, on other terms.
    pub(crate) fn reopened(&self, reader: Arc<Reader>, standing: Standing) {
        *self.reader.lock().unwrap_or_else(PoisonError::into_inner) = reader;
        *self.standing.lock().unwrap_or_else(PoisonError::into_inner) = standing;
    }

    /// Makes this task the one that is woken.
    pub(crate) fn register(&self, cx: &Context<'_>) {
        self.waker.register(cx.waker());
    }

    /// Wakes the delivery, whatever it waits for.
    pub(crate) fn wake(&self) {
        self.waker.wake();
    }

    /// The delivery waits for events.
    pub(crate) fn wait(&self) {
        self.waiting.store(true, Ordering::Release);
    }

    /// Whether it does.
    pub(crate) fn is_waiting(&self) -> bool {
        self.waiting.load(Ordering::Acquire)
    }

    /// Events arrived: wakes the delivery if it waits for them.
    pub(crate) fn arrived(&self) {
        if self.waiting.swap(false, Ordering::AcqRel) {
            self.wake();
        }
    }

    /// The version of the standing, and how to get it: compare first, it rarely changes.
    pub(crate) fn version(&self) -> u32 {
        self.version.load(Ordering::Acquire)
    }

    /// How the delivery stands.
    pub(crate) fn standing(&self) -> Standing {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Tells the delivery how it stands now.
    ///
    /// One that shares its connection may not be polled while the peer takes nothing; if it is over and does
    /// not end by itself soon, the connection is reset.
    pub(crate) fn stand(self: &Arc<Self>, standing: Standing) {
        let closed = matches!(standing, Standing::Closed { .. });
        {
            let mut current = self.standing.lock().unwrap_or_else(PoisonError::into_inner);
            if *current == standing {
                return;
            }
            *current = standing;
        }
        self.version.fetch_add(1, Ordering::Release);
        self.wake();
        if let (true, Some(connection)) = (closed, self.shared.get().and_then(Weak::upgrade)) {
            let signal = Arc::clone(self);
            tokio::spawn(async move {
                tokio::time::sleep(RESET_AFTER).await;
                if !signal.over.load(Ordering::Acquire) {
                    connection.reset();
                }
            });
        }
    }

    /// The delivery shares this connection.
    pub(crate) fn share(&self, connection: &Arc<Connection>) {
        let _ = self.shared.set(Arc::downgrade(connection));
    }

    /// The delivery is gone.
    pub(crate) fn over(&self) {
        self.over.store(true, Ordering::Release);
    }
}
