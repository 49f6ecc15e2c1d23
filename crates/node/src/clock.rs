//! Time and randomness, the two inputs that a test must be able to own.
//!
//! Everything in the node that needs the moment or a random number takes it from here. The fold of the node's
//! state takes neither: what a decision needs of them is drawn before the decision is written and stands in it.

use std::pin::Pin;
use std::sync::Mutex;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;
use weir_event::flow::Time;

/// Tells the time and waits for it.
pub trait Clock: Send + Sync + 'static {
    /// The moment. May step back: whoever needs order must keep it themselves.
    fn now(&self) -> Time;

    /// Ready once [`Clock::now`] has reached `until`, at most a second late even if the clock was stepped.
    fn reach(&self, until: Time) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;
}

/// The machine's wall clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Time {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Time(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    fn reach(&self, until: Time) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async move {
            loop {
                let left = until.0.saturating_sub(self.now().0);
                if left == 0 {
                    return;
                }
                // The timer counts on the monotonic clock. Looking at the wall clock every second bounds what a
                // step of it can hide.
                tokio::time::sleep(Duration::from_millis(left.min(1000))).await;
            }
        })
    }
}

/// A clock that stands still until it is set: for tests and for replaying decisions.
#[derive(Debug)]
pub struct SetClock {
    now: watch::Sender<u64>,
}

impl SetClock {
    /// A clock that stands at `now`.
    #[must_use]
    pub fn at(now: Time) -> Self {
        Self { now: watch::Sender::new(now.0) }
    }

    /// Moves the clock on and wakes whoever waited for that.
    pub fn advance(&self, by: Duration) {
        self.now.send_modify(|now| *now += u64::try_from(by.as_millis()).unwrap_or(u64::MAX));
    }
}

impl Clock for SetClock {
    fn now(&self) -> Time {
        Time(*self.now.borrow())
    }

    fn reach(&self, until: Time) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async move {
            let mut now = self.now.subscribe();
            // The sender lives as long as `self`, so waiting can only end by reaching the time.
            let _ = now.wait_for(|now| *now >= until.0).await;
        })
    }
}

/// Where random numbers come from.
pub trait Entropy: Send + Sync + 'static {
    /// Fills the bytes; for secrets, so never from a guessable source outside tests.
    fn fill(&self, bytes: &mut [u8]) -> std::io::Result<()>;
}

/// The operating system's random numbers.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn fill(&self, bytes: &mut [u8]) -> std::io::Result<()> {
        getrandom::fill(bytes).map_err(std::io::Error::other)
    }
}

/// Numbers that repeat for the same seed: for tests only, since they can be guessed.
#[derive(Debug)]
pub struct SeededEntropy(Mutex<u64>);

impl SeededEntropy {
    /// The sequence of this seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(Mutex::new(seed))
    }
}

impl Entropy for SeededEntropy {
    fn fill(&self, bytes: &mut [u8]) -> std::io::Result<()> {
        let mut state = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        for chunk in bytes.chunks_mut(8) {
            // SplitMix64: every seed gives a different, well mixed sequence.
            *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut mixed = *state;
            mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            mixed ^= mixed >> 31;
            chunk.copy_from_slice(&mixed.to_le_bytes()[..chunk.len()]);
        }
        Ok(())
    }
}
