//! Receiving: one stream over STREAM, through cuts and restarts, without loss and nothing handed out twice.
//!
//! A [`Delivery`] knows the last position that it has handed out or that the node has looked at, and the
//! history it belongs to. After any cut it connects again behind that position, and drops what a stored run
//! repeats. So within one `Delivery` every event comes once; across processes the node's cursor decides, which
//! moves by [`crate::Subscription::ack`], and what was received after the last acknowledgement comes again.
//!
//! When the stream got a new history, positions known here mean nothing any more. The delivery says so
//! ([`Item::Renumbered`]) and waits for the caller to choose ([`Delivery::go_on`]): nobody else can know whether
//! the events were seen before.
//!
//! A connection that is silent for longer than three heartbeats is given up as cut.

use std::time::Duration;

use bytes::Bytes;
use reqwest::{Method, Response, header};
use serde::Deserialize;
use serde_json::Value;
use weir_event::flow::{History, Position, StreamName, Time};
use weir_event::frame::{self, Frame};
use weir_event::{Event, proto};

use crate::backoff::Backoff;
use crate::client::Client;
use crate::{Error, Kind};

/// Receives one stream. Dropping it closes the connection.
#[derive(Debug)]
pub struct Delivery {
    client: Client,
    source: Source,
    /// Up to where everything was handed out or looked at.
    last: Option<(History, Position)>,
    connection: Option<Connection>,
    /// A cut was reported; the next connection is a resumption.
    cut: Option<Error>,
    /// Set by [`Item::Renumbered`] until the caller has chosen.
    must_choose: bool,
    backoff: Backoff,
    /// The node answered once: an outage from now on is one, before it is a wrong address.
    reached: bool,
}

/// Where a delivery comes from.
#[derive(Clone, Debug, Default)]
pub(crate) struct Source {
    /// A path of the node, or a whole URL.
    pub(crate) url: String,
    /// A CESQL expression.
    pub(crate) filter: Option<String>,
    /// Where to begin, while nothing is known better.
    pub(crate) from: Option<String>,
}

/// What a delivery says.
#[derive(Debug)]
pub enum Item {
    /// Events.
    Run(Run),
    /// The node is there, and how far it is.
    Heartbeat(Heartbeat),
    /// Positions that will not come.
    Skipped(Skipped),
    /// The stream has a new history: call [`Delivery::go_on`].
    Renumbered {
        /// The history our positions belong to.
        was: Option<History>,
        /// The stream's history now.
        now: Option<History>,
        /// The last position there.
        head: Position,
    },
    /// The subscription stands elsewhere now (`requested`, `active`, `suspended`, …).
    State(Value),
    /// The connection is lost, for this reason. The delivery connects again by itself.
    Cut(Error),
    /// Connected again.
    Resumed,
}

/// Events with consecutive positions, appended at one time.
#[derive(Clone, Debug)]
pub struct Run {
    /// The stream they come from.
    pub stream: StreamName,
    /// The history their positions belong to.
    pub history: History,
    /// When they were appended.
    pub time: Time,
    first: Position,
    count: u64,
    /// How many events at the front were handed out before.
    seen: u64,
    body: Bytes,
}

/// A sign of life: where the stream ends and up to where this delivery has looked.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Heartbeat {
    /// The stream's last position.
    pub head: Position,
    /// Its history.
    #[serde(default)]
    pub history: Option<History>,
    /// Up to here the delivery has looked.
    #[serde(default)]
    pub at: Position,
}

/// Positions that will not come, and why.
#[derive(Clone, Debug, Deserialize)]
pub struct Skipped {
    /// First position left out.
    pub from: Position,
    /// Last position left out.
    pub to: Position,
    /// `retention`, `history`, `erase`, ….
    pub reason: String,
}

/// Three heartbeats missed.
const SILENCE_MAX: Duration = Duration::from_secs(45);
/// How often to ask again where a person has to act first.
const WAITING: Duration = Duration::from_secs(2);
/// The media type of STREAM.
pub(crate) const STREAM: &str = "application/vnd.weir.stream";

impl Client {
    /// Receives a stream of this node without a subscription: for streams that this caller may read directly
    /// (`open` ones, or its own). `from` is a position, a time, `earliest` or `latest`; `filter` a CESQL
    /// expression.
    #[must_use]
    pub fn deliver(
        &self,
        stream: &StreamName,
        from: Option<String>,
        filter: Option<String>,
        patience: Duration,
    ) -> Delivery {
        let url = format!("/streams/{stream}/events");
        // Said in full: a range read begins elsewhere than a subscription when nothing is said.
        let from = Some(from.unwrap_or_else(|| "latest".into()));
        Delivery::new(self.clone(), Source { url, filter, from }, patience)
    }
}

impl Delivery {
    pub(crate) fn new(client: Client, source: Source, patience: Duration) -> Self {
        Self {
            client,
            source,
            last: None,
            connection: None,
            cut: None,
            must_choose: false,
            backoff: Backoff::new(patience),
            reached: false,
        }
    }

    /// The next thing the delivery has to say. May be dropped while waiting without losing anything.
    ///
    /// # Errors
    /// `Closed` when the subscription ended, with the reason; `Denied` when the credential does not open this;
    /// `Unavailable` when the node could not be reached for as long as patience goes; `Conflict` after
    /// [`Item::Renumbered`] until [`Delivery::go_on`].
    pub async fn next(&mut self) -> Result<Item, Error> {
        loop {
            if self.must_choose {
                return Err(Error::new(
                    Kind::Conflict,
                    "the stream has a new history: choose where to go on",
                ));
            }
            if let Some(error) = self.cut.clone() {
                // Reported already; wait, connect, and only then forget that we were cut.
                if error.is_waiting() {
                    tokio::time::sleep(WAITING).await;
                } else {
                    self.backoff.wait(error).await?;
                }
                match self.connect().await {
                    Ok(connection) => {
                        self.connection = Some(connection);
                        self.cut = None;
                        return Ok(Item::Resumed);
                    }
                    Err(error) if error.code() == "history-changed" => {
                        self.cut = None;
                        return self.report(error);
                    }
                    Err(error) => {
                        self.cut = Some(error);
                        continue;
                    }
                }
            }
            let Some(connection) = &mut self.connection else {
                match self.connect().await {
                    Ok(connection) => self.connection = Some(connection),
                    Err(error) if error.is_waiting() => return self.report(error),
                    // Before the first answer an outage is most likely a wrong address: the caller is told at
                    // once instead of after all patience.
                    Err(error) if !self.reached => return Err(error),
                    Err(error) => return self.report(error),
                }
                continue;
            };
            match connection.next().await {
                Ok(frame) => {
                    self.backoff.reset();
                    if let Some(item) = self.take(frame)? {
                        return Ok(item);
                    }
                }
                Err(error) => return self.report(error),
            }
        }
    }

    /// Up to where everything was handed out or looked at, and in which history. None before the node said.
    #[must_use]
    pub fn last(&self) -> Option<(History, Position)> {
        self.last
    }

    /// After [`Item::Renumbered`]: goes on from this position, time, `earliest` or `latest` of the new history.
    pub fn go_on(&mut self, from: &str) {
        self.source.from = Some(from.to_owned());
        self.last = None;
        self.must_choose = false;
        self.connection = None;
    }

    /// A cut is an item as long as trying again makes sense, else the end.
    fn report(&mut self, error: Error) -> Result<Item, Error> {
        self.connection = None;
        if error.code() == "history-changed" {
            let member = |name: &str| error.problem()?.members.get(name).cloned();
            let now = member("now").or_else(|| member("history")).and_then(|now| now.as_str()?.parse().ok());
            let head = member("head").and_then(|head| head.as_u64()).map_or(Position::NONE, Position);
            return Ok(self.renumbered(now, head));
        }
        if !error.is_passing() && !error.is_waiting() {
            return Err(error);
        }
        self.cut = Some(error.clone());
        Ok(Item::Cut(error))
    }

    async fn connect(&mut self) -> Result<Connection, Error> {
        let mut request = self.client.request(Method::GET, &self.source.url).header(header::ACCEPT, STREAM);
        if let Some(filter) = &self.source.filter {
            request = request.query(&[("filter", filter)]);
        }
        request = match (self.last, &self.source.from) {
            (Some((history, position)), _) => {
                request.query(&[("from", position.next().to_string()), ("history", history.to_string())])
            }
            (None, Some(from)) => request.query(&[("from", from)]),
            (None, None) => request,
        };
        let what = "receive";
        let Ok(response) = tokio::time::timeout(SILENCE_MAX, self.client.call(what, request)).await else {
            return Err(Error::new(
                Kind::Unavailable,
                format!("{what}: {} does not answer", self.client.node()),
            ));
        };
        let response = response?;
        let kind = response.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        if !kind.is_some_and(|kind| kind.starts_with(STREAM)) {
            let kind = kind.unwrap_or("nothing it names");
            return Err(Error::new(Kind::Internal, format!("{what}: asked for STREAM, got {kind}")));
        }
        self.reached = true;
        Ok(Connection { response, decoder: frame::Decoder::new(), node: self.client.node().to_owned() })
    }

    /// What a frame means here. None if it says nothing to the caller.
    fn take(&mut self, frame: Frame) -> Result<Option<Item>, Error> {
        match frame {
            Frame::Run(run) => Ok(self.take_run(run)?),
            Frame::Heartbeat(json) => {
                let beat: Heartbeat = read("heartbeat", &json)?;
                if let Some(history) = beat.history {
                    if self.is_foreign(history) {
                        return Ok(Some(self.renumbered(Some(history), beat.head)));
                    }
                    let at = self.last.map_or(beat.at, |(_, last)| last.max(beat.at));
                    self.last = Some((history, at));
                }
                Ok(Some(Item::Heartbeat(beat)))
            }
            Frame::Notice(json) => self.take_notice(&json),
            Frame::End(json) => {
                let end: End = read("end", &json)?;
                let said = end.detail.map(|detail| format!(": {detail}")).unwrap_or_default();
                let (kind, what) = if FINAL.contains(&end.reason.as_str()) {
                    (Kind::Closed, "the subscription has ended")
                } else {
                    (Kind::Unavailable, "the node ended the delivery")
                };
                self.report(Error::new(kind, format!("{what}: {}{said}", end.reason))).map(Some)
            }
            Frame::State(json) => Ok(Some(Item::State(read("state", &json)?))),
            // A later version's.
            _ => Ok(None),
        }
    }

    fn take_run(&mut self, run: frame::Run) -> Result<Option<Item>, Error> {
        if run.encoding != frame::EVENTS {
            return Err(Error::new(
                Kind::Internal,
                format!("receive: a run in encoding {}, which this version cannot read", run.encoding),
            ));
        }
        // Every connection begins with a heartbeat that says which history its positions belong to. A run may have
        // been written in an earlier one: what a repair left in place keeps its bytes and its positions.
        let history = self.last.map_or(run.history, |(history, _)| history);
        let count = u64::from(run.count);
        let last = run.first.plus(count).previous();
        let wanted = self.last.map_or(run.first, |(_, last)| last.next());
        let seen = wanted.0.saturating_sub(run.first.0).min(count);
        if seen == count {
            return Ok(None);
        }
        self.last = Some((history, last));
        Ok(Some(Item::Run(Run {
            stream: run.stream,
            history,
            time: run.time,
            first: run.first,
            count,
            seen,
            body: run.body,
        })))
    }

    fn take_notice(&mut self, json: &[u8]) -> Result<Option<Item>, Error> {
        let notice: Notice = read("notice", json)?;
        if let Some(change) = notice.history {
            return Ok(Some(self.renumbered(change.now, notice.head)));
        }
        let Some(range) = notice.skipped else { return Ok(None) };
        if let Some((_, last)) = &mut self.last {
            *last = (*last).max(range.to);
        }
        let reason = notice.reason.unwrap_or_else(|| "unknown".into());
        Ok(Some(Item::Skipped(Skipped { from: range.from, to: range.to, reason })))
    }

    fn is_foreign(&self, history: History) -> bool {
        self.last.is_some_and(|(ours, _)| ours != history)
    }

    fn renumbered(&mut self, now: Option<History>, head: Position) -> Item {
        self.must_choose = true;
        self.connection = None;
        Item::Renumbered { was: self.last.map(|(history, _)| history), now, head }
    }
}

impl Run {
    /// Position of the first event.
    #[must_use]
    pub fn first(&self) -> Position {
        self.first.plus(self.seen)
    }

    /// Position of the last event.
    #[must_use]
    pub fn last(&self) -> Position {
        self.first.plus(self.count).previous()
    }

    /// The events with their positions. Decoded as they are asked for, borrowing from the run.
    ///
    /// # Errors
    /// `Corrupt` where the bytes are not what the frame promised.
    pub fn events(&self) -> impl Iterator<Item = Result<(Position, Event<'_>), Error>> {
        let seen = usize::try_from(self.seen).unwrap_or(usize::MAX);
        proto::batch(&self.body).zip(0..self.count).skip(seen).map(|(entry, index)| {
            let position = self.first.plus(index);
            match entry.and_then(proto::decode) {
                Ok(event) => Ok((position, event)),
                Err(error) => {
                    Err(Error::new(Kind::Corrupt, format!("read the event at {position}: {error}")))
                }
            }
        })
    }
}

/// The ends after which nothing will come: all others are worth another connection.
const FINAL: [&str; 6] = ["rejected", "cancelled", "revoked", "expired", "failed", "retired"];

#[derive(Deserialize)]
struct End {
    #[serde(default)]
    reason: String,
    detail: Option<String>,
}

#[derive(Deserialize)]
struct Notice {
    skipped: Option<Range>,
    reason: Option<String>,
    history: Option<Change>,
    #[serde(default)]
    head: Position,
}

#[derive(Deserialize)]
struct Range {
    from: Position,
    to: Position,
}

#[derive(Deserialize)]
struct Change {
    now: Option<History>,
}

fn read<T: serde::de::DeserializeOwned>(what: &str, json: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(json)
        .map_err(|error| Error::new(Kind::Internal, format!("receive: a {what} that is none: {error}")))
}

/// An open connection: bytes in, frames out.
#[derive(Debug)]
struct Connection {
    response: Response,
    decoder: frame::Decoder,
    node: String,
}

impl Connection {
    /// The next frame; kinds of a later version are passed over. An error is a cut.
    async fn next(&mut self) -> Result<Frame, Error> {
        loop {
            let frame = self.decoder.next().map_err(|error| {
                Error::new(Kind::Internal, format!("receive from {}: {error}", self.node))
            })?;
            if let Some(frame) = frame {
                return Ok(frame);
            }
            match tokio::time::timeout(SILENCE_MAX, self.response.chunk()).await {
                Ok(Ok(Some(chunk))) => self.decoder.push(&chunk),
                Ok(Ok(None)) => return Err(self.lost("the connection was closed")),
                Ok(Err(error)) => return Err(Error::from_transport("receive", &self.node, &error)),
                Err(_) => return Err(self.lost("no heartbeat came")),
            }
        }
    }

    fn lost(&self, why: &str) -> Error {
        Error::new(Kind::Unavailable, format!("receive from {}: {why}", self.node))
    }
}

#[cfg(test)]
mod tests;
