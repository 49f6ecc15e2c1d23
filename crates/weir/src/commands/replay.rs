//! `weir replay`: the past of a stream, event by event, at the pace at which it happened or any multiple of it.

use std::time::Duration;

use clap::{Args, ValueEnum};
use tokio::time::Instant;
use weir_client::{Address, Range};
use weir_event::{Event, json};

use super::{block_on, interrupted, locate};
use crate::cli::NodeArgs;
use crate::failure::Failure;
use crate::output::Out;
use crate::units;

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  weir replay weather.us.ny --speed 3600x | weir publish weather.test")]
pub(crate) struct ReplayArgs {
    /// The stream: its address, or a name on the node
    #[arg(value_name = "URI")]
    uri: Address,
    /// How much faster than it happened
    #[arg(long, value_name = "N", default_value = "1x", value_parser = units::speed)]
    speed: f64,
    /// Which clock sets the pace: the time in the event, or when it was appended
    #[arg(long, value_enum, default_value_t = Pace::Time)]
    by: Pace,
    /// Where to begin: a position, an RFC 3339 time, earliest or latest
    #[arg(long, value_name = "P", default_value = "earliest")]
    from: String,
    /// Where to end, inclusive [default: the latest event of now]
    #[arg(long, value_name = "P")]
    to: Option<String>,
    /// Only events for which this CESQL expression holds
    #[arg(long, value_name = "CESQL")]
    filter: Option<String>,
    /// No pause is longer than this, whatever the gap
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = units::duration)]
    longest_pause: Duration,
    #[command(flatten)]
    pub(crate) node: NodeArgs,
}

/// What the pace of a replay follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Pace {
    /// The event's `time`, where it has one
    Time,
    /// When it was appended
    Flowtime,
}

impl ReplayArgs {
    pub(crate) fn run(&self) -> Result<(), Failure> {
        block_on(async {
            tokio::select! {
                result = self.act() => result,
                () = interrupted() => Ok(()),
            }
        })
    }

    async fn act(&self) -> Result<(), Failure> {
        let (client, stream) = locate(&self.node, &self.uri).await?;
        let range = Range {
            from: Some(self.from.clone()),
            // Fixed now: what is published meanwhile (by this very replay, perhaps) is not the past.
            to: Some(self.to.clone().unwrap_or_else(|| "latest".into())),
            limit: None,
            filter: self.filter.clone(),
        };
        let mut reader = client.read(&stream, &range)?;
        let mut out = Out::new();
        let mut line = Vec::new();
        let mut clock = Clock { speed: self.speed, longest: self.longest_pause, last: None };
        while let Some(page) = reader.page().await? {
            for event in page.iter() {
                let event = event?;
                if let Some(due) = self.millis(&event).and_then(|millis| clock.due(millis, Instant::now())) {
                    out.flush()?;
                    tokio::time::sleep_until(due).await;
                }
                line.clear();
                json::encode(&event, event.stamp(), &mut line);
                line.push(b'\n');
                out.write(&line)?;
            }
            out.flush()?;
        }
        Ok(())
    }

    fn millis(&self, event: &Event<'_>) -> Option<u64> {
        let appended = event.stamp().map(|stamp| stamp.time.0);
        match self.by {
            Pace::Time => event.time().and_then(weir_event::Timestamp::unix_millis).or(appended),
            Pace::Flowtime => appended,
        }
    }
}

/// Turns the times of events into moments of now. Each pause is counted from when the one before it was due, so
/// that a replay neither drifts nor, after a slow reader, hurries to catch up for ever.
struct Clock {
    speed: f64,
    longest: Duration,
    /// Time of the last event, and when it was due.
    last: Option<(u64, Instant)>,
}

impl Clock {
    /// When an event of this time is due; none if that is now or past.
    fn due(&mut self, millis: u64, now: Instant) -> Option<Instant> {
        let Some((before, due_before)) = self.last else {
            self.last = Some((millis, now));
            return None;
        };
        // Events out of order come without a pause, and do not set the clock back.
        let gap = Duration::from_millis(millis.saturating_sub(before)).div_f64(self.speed).min(self.longest);
        let due = due_before + gap;
        self.last = Some((millis.max(before), if due + self.longest < now { now } else { due }));
        (due > now).then_some(due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_follow_the_times_divided_by_speed() {
        let mut clock = Clock { speed: 10.0, longest: Duration::from_secs(60), last: None };
        let begun = Instant::now();
        assert_eq!(clock.due(1_000_000, begun), None);
        assert_eq!(clock.due(1_005_000, begun), Some(begun + Duration::from_millis(500)));
        // Out of order: at once, and the next is counted from the latest time seen.
        assert_eq!(clock.due(1_000_000, begun), Some(begun + Duration::from_millis(500)));
        assert_eq!(clock.due(1_010_000, begun), Some(begun + Duration::from_secs(1)));
        // A year's gap is no year's wait.
        assert_eq!(clock.due(33_000_000_000, begun), Some(begun + Duration::from_secs(61)));
    }
}
