//! Publishing: many events into one stream, in order, each stored once whatever happens on the way.
//!
//! A [`Publisher`] collects events into protobuf batches and keeps a few of them in flight. Every batch carries
//! `Weir-Producer: <id>;<epoch>;<sequence>`: the id is random for each publisher, the sequence counts its events.
//! The node stores a batch only where the one before it ended, and knows one it already has. So a batch whose
//! answer was lost can be sent again after any outage, and batches that overtake each other on different
//! connections never change the order: the one that came too early gets a conflict and is sent again as soon
//! as its predecessor is acknowledged.
//!
//! The first batch travels alone. A node that has not heard of a producer yet takes whatever sequence comes
//! first, so nothing may overtake that one.
//!
//! What stays with the caller: no timer sends a half full batch. Call [`Publisher::flush`] when there is nothing
//! more to say for now, or [`Publisher::push_out`] to send without waiting.

use std::time::Duration;

use bytes::Bytes;
use reqwest::{Method, header};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use weir_event::flow::{History, Position, StreamName};
use weir_event::{Event, proto};

use crate::backoff::{self, Backoff};
use crate::client::Client;
use crate::model::Published;
use crate::{Error, Kind};

/// How a publisher batches, and how long it puts up with an outage.
#[derive(Clone, Debug)]
pub struct Options {
    /// At most so many events in a batch.
    pub batch_events_max: usize,
    /// A batch is sent once it has so many bytes.
    pub batch_bytes_max: usize,
    /// At most so many batches wait for their acknowledgement.
    pub in_flight_max: usize,
    /// How long the node may be unreachable, full or unwilling before publishing fails.
    pub patience: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            batch_events_max: 1000,
            batch_bytes_max: 1 << 20,
            in_flight_max: 4,
            patience: Duration::from_secs(600),
        }
    }
}

/// What a publisher has done so far. `sent` runs ahead of `stored + duplicates` by what is in flight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Events handed over in batches.
    pub sent: u64,
    /// Events acknowledged as newly stored.
    pub stored: u64,
    /// Events acknowledged as already there.
    pub duplicates: u64,
    /// First position newly stored by this publisher.
    pub first: Option<Position>,
    /// Last position newly stored by this publisher.
    pub last: Option<Position>,
    /// The history these positions belong to.
    pub history: Option<History>,
    /// How often a batch was sent again.
    pub retries: u64,
}

impl Totals {
    /// Events acknowledged.
    #[must_use]
    pub fn acknowledged(&self) -> u64 {
        self.stored + self.duplicates
    }
}

/// Publishes into one stream, in order. Dropping it gives up what is not acknowledged yet.
pub struct Publisher {
    target: Target,
    options: Options,
    /// The batch being filled: CloudEvents protobuf batch entries.
    batch: Vec<u8>,
    count: usize,
    /// Sequence of the batch's first event.
    sequence: u64,
    in_flight: JoinSet<Result<(), Error>>,
    /// Resolves once the batch sent last is acknowledged. None while nothing was sent.
    last_acknowledged: Option<oneshot::Receiver<()>>,
    totals: watch::Sender<Totals>,
    failed: Option<Error>,
}

/// The feature of nodes that keep a producer's sequence.
const PRODUCER: &str = "producer";

/// What each batch needs to get there.
#[derive(Clone)]
struct Target {
    client: Client,
    stream: StreamName,
    producer: u64,
    patience: Duration,
}

impl Client {
    /// A publisher into a stream of this node. Opens no connection yet.
    pub fn publisher(&self, stream: &StreamName, options: Options) -> Result<Publisher, Error> {
        let target = Target {
            client: self.clone(),
            stream: stream.clone(),
            producer: backoff::random()?,
            patience: options.patience,
        };
        Ok(Publisher {
            target,
            options,
            batch: Vec::new(),
            count: 0,
            sequence: 0,
            in_flight: JoinSet::new(),
            last_acknowledged: None,
            totals: watch::Sender::new(Totals::default()),
            failed: None,
        })
    }
}

impl Publisher {
    /// Adds an event; sends the batch when it is full, waiting while the window is.
    ///
    /// # Errors
    /// The first failure of any batch, from then on always: what was acknowledged before it stays acknowledged,
    /// nothing after it is stored.
    pub async fn send(&mut self, event: &Event<'_>) -> Result<(), Error> {
        self.check()?;
        proto::push(event, &mut self.batch);
        self.count += 1;
        if self.count >= self.options.batch_events_max || self.batch.len() >= self.options.batch_bytes_max {
            self.push_out().await?;
        }
        Ok(())
    }

    /// Sends the batch begun, if any, waiting only for room in the window.
    pub async fn push_out(&mut self) -> Result<(), Error> {
        self.check()?;
        if self.count == 0 {
            return Ok(());
        }
        // Alone until the node knows this producer, and always where a node knows none (see the module's head).
        let ordered = self.target.client.known().is_some_and(|known| known.has(PRODUCER));
        let begun = self.totals.borrow().acknowledged() > 0;
        let window = if begun && ordered { self.options.in_flight_max.max(1) } else { 1 };
        while self.in_flight.len() >= window {
            self.settle_one().await?;
        }
        let (acknowledge, acknowledged) = oneshot::channel();
        let attempt = Attempt {
            target: self.target.clone(),
            body: std::mem::take(&mut self.batch).into(),
            sequence: self.sequence,
            predecessor: self.last_acknowledged.replace(acknowledged),
            totals: self.totals.clone(),
        };
        self.batch.reserve(attempt.body.len());
        self.in_flight.spawn(async move {
            attempt.run().await?;
            // Nobody listens behind the last batch.
            let _ = acknowledge.send(());
            Ok(())
        });
        let count = std::mem::take(&mut self.count) as u64;
        self.sequence += count;
        self.totals.send_modify(|totals| totals.sent += count);
        Ok(())
    }

    /// Sends what is begun and waits until everything is acknowledged.
    pub async fn flush(&mut self) -> Result<Totals, Error> {
        self.push_out().await?;
        self.settle().await?;
        Ok(*self.totals.borrow())
    }

    /// Waits until all that was sent is acknowledged; what is begun stays. May be dropped while waiting.
    pub async fn settle(&mut self) -> Result<(), Error> {
        self.check()?;
        while !self.in_flight.is_empty() {
            self.settle_one().await?;
        }
        Ok(())
    }

    /// What was done so far.
    #[must_use]
    pub fn totals(&self) -> Totals {
        *self.totals.borrow()
    }

    /// The totals, watched: changes with every batch sent and acknowledged.
    #[must_use]
    pub fn progress(&self) -> watch::Receiver<Totals> {
        self.totals.subscribe()
    }

    /// Waits for any batch in flight to end.
    async fn settle_one(&mut self) -> Result<(), Error> {
        let outcome = match self.in_flight.join_next().await {
            None | Some(Ok(Ok(()))) => return Ok(()),
            Some(Ok(Err(error))) => error,
            Some(Err(error)) => Error::new(Kind::Internal, format!("publish: {error}")),
        };
        // The followers of a failed batch fail as `Closed`: the cause is with the one that failed by itself.
        let mut cause = outcome;
        while let Some(other) = self.in_flight.join_next().await {
            if let (Kind::Closed, Ok(Err(other))) = (cause.kind(), other) {
                cause = other;
            }
        }
        self.failed = Some(cause.clone());
        Err(cause)
    }

    fn check(&self) -> Result<(), Error> {
        self.failed.clone().map_or(Ok(()), Err)
    }
}

/// One batch on its way.
struct Attempt {
    target: Target,
    body: Bytes,
    sequence: u64,
    predecessor: Option<oneshot::Receiver<()>>,
    totals: watch::Sender<Totals>,
}

impl Attempt {
    /// Sends until acknowledged.
    async fn run(mut self) -> Result<(), Error> {
        let mut backoff = Backoff::new(self.target.patience);
        loop {
            let error = match self.post().await {
                Ok(published) => {
                    self.totals.send_modify(|totals| totals.add(&published));
                    return self.wait_for_predecessor().await;
                }
                Err(error) => error,
            };
            // A conflict while the batch before is not acknowledged means: too early. One after that is real.
            if error.kind() == Kind::Conflict && self.predecessor.is_some() {
                self.wait_for_predecessor().await?;
            } else {
                backoff.wait(error).await?;
            }
            self.totals.send_modify(|totals| totals.retries += 1);
        }
    }

    async fn post(&self) -> Result<Published, Error> {
        let Target { client, stream, producer, .. } = &self.target;
        let what = format!("publish to {stream}");
        let mut request = client
            .request(Method::POST, &format!("/streams/{stream}/events"))
            .header(header::CONTENT_TYPE, "application/cloudevents-batch+protobuf")
            .body(self.body.clone());
        if client.well_known().await?.has(PRODUCER) {
            request = request.header("Weir-Producer", format!("{producer:016x};0;{}", self.sequence));
        }
        client.json(&what, request).await
    }

    /// Ready once the batch before this one is acknowledged; an error if it failed.
    async fn wait_for_predecessor(&mut self) -> Result<(), Error> {
        match self.predecessor.take() {
            None => Ok(()),
            Some(acknowledged) => acknowledged
                .await
                .map_err(|_| Error::new(Kind::Closed, "publish: a batch before this one failed")),
        }
    }
}

impl Totals {
    fn add(&mut self, published: &Published) {
        self.stored += published.count;
        self.duplicates += published.duplicates;
        // Acknowledgements may overtake each other.
        self.first = [self.first, published.first].into_iter().flatten().min();
        self.last = self.last.max(published.last);
        self.history = published.history.or(self.history);
    }
}

#[cfg(test)]
mod tests;
