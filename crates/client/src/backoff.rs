//! How long to wait before trying again: doubling from a tenth of a second to [`Backoff::LONGEST`], spread at
//! random so that a thousand clients cut by one restart do not come back in one instant. A wait the other
//! side names (`Retry-After`) is never undercut.

use std::time::{Duration, Instant};

use crate::{Error, Kind};

/// One outage: begins with the first failure, ends with [`Backoff::reset`].
#[derive(Debug)]
pub(crate) struct Backoff {
    patience: Duration,
    failures: u32,
    since: Option<Instant>,
}

impl Backoff {
    const SHORTEST: Duration = Duration::from_millis(100);
    /// The longest wait between two tries.
    pub(crate) const LONGEST: Duration = Duration::from_secs(10);

    /// `patience` is how long one outage may last.
    pub(crate) fn new(patience: Duration) -> Self {
        Self { patience, failures: 0, since: None }
    }

    /// It works again.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
        self.since = None;
    }

    /// The wait before the next try, or the error back when it is final or patience is at its end.
    pub(crate) fn after(&mut self, error: Error) -> Result<(Duration, Error), Error> {
        if !error.is_passing() {
            return Err(error);
        }
        let since = *self.since.get_or_insert_with(Instant::now);
        let doubled = Self::SHORTEST.saturating_mul(1 << self.failures.min(16)).min(Self::LONGEST);
        self.failures += 1;
        let spread = doubled.mul_f64(0.5 + 0.5 * fraction());
        let wait = error.retry_after().map_or(spread, |named| named.max(spread));
        if since.elapsed() + wait > self.patience {
            return Err(error);
        }
        Ok((wait, error))
    }

    /// Waits before the next try, or returns the error as [`Backoff::after`].
    pub(crate) async fn wait(&mut self, error: Error) -> Result<(), Error> {
        let (wait, error) = self.after(error)?;
        tracing::debug!(%error, wait_ms = wait.as_millis() as u64, "trying again");
        tokio::time::sleep(wait).await;
        Ok(())
    }
}

/// A random number in 0..1. Without entropy, one: the longest wait is always right.
fn fraction() -> f64 {
    let mut byte = [255];
    let _ = getrandom::fill(&mut byte);
    f64::from(byte[0]) / 255.0
}

/// Random bits for producer ids.
pub(crate) fn random() -> Result<u64, Error> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes)
        .map_err(|error| Error::new(Kind::Internal, format!("take random bytes from the system: {error}")))?;
    Ok(u64::from_be_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outage() -> Error {
        Error::new(Kind::Unavailable, "gone")
    }

    #[test]
    fn waits_double_up_to_the_longest_and_honour_what_the_node_names() {
        let mut backoff = Backoff::new(Duration::from_secs(3600));
        let waits: Vec<_> = (0..12).map(|_| backoff.after(outage()).unwrap().0).collect();
        assert!(waits[0] <= Duration::from_millis(100) && waits[0] >= Duration::from_millis(50));
        assert!(waits[11] <= Backoff::LONGEST && waits[11] >= Backoff::LONGEST / 2);
        let named = Error::from_answer("publish", 429, Some(Duration::from_secs(30)), b"");
        assert_eq!(backoff.after(named).unwrap().0, Duration::from_secs(30));
    }

    #[test]
    fn patience_ends_and_final_errors_are_not_waited_for() {
        let mut backoff = Backoff::new(Duration::from_millis(1));
        assert!(backoff.after(outage()).is_err());
        let mut backoff = Backoff::new(Duration::MAX / 2);
        assert!(backoff.after(Error::new(Kind::Denied, "no")).is_err());
    }
}
