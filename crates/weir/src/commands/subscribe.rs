//! `weir subscribe`: a stream to stdout, one event a line, through cuts and restarts.
//!
//! A stream that the caller may read directly is read without further ado. For any other one the program asks,
//! waits for the producer's decision, and keeps what it is given in a *profile* file (`--profile`, else one of its
//! own for each address), so that running the same command again goes on where the last one acknowledged.
//! What is going on is said on stderr.

mod exec;
mod profiles;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::json;
use weir_client::{Address, Ask, Client, Delivery, Item, Kind, Run, State, Subscription};
use weir_event::flow::{Position, StreamName};
use weir_event::{Stamp, json as event_json};

use super::{PATIENCE, block_on, interrupted, locate};
use crate::cli::NodeArgs;
use crate::failure::{Exit, Failure};
use crate::output::{Messages, Out};
use crate::units;

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    weir subscribe flow://weatherflow.example/weather.us.ny\n  \
    weir subscribe weather.us.ny --from earliest --filter \"subject = 'JFK'\" | jq .data.temp\n  \
    weir subscribe orders --profile orders.flow.json --exec ./handle-order")]
pub(crate) struct SubscribeArgs {
    /// The stream: its address, or a name on the node. May be left out with --profile
    #[arg(value_name = "URI", required_unless_present = "profile")]
    uri: Option<Address>,
    /// Where to begin: a position, an RFC 3339 time, earliest or latest [default: where the last run ended, else
    /// latest]
    #[arg(long, value_name = "P")]
    from: Option<String>,
    /// Only events for which this CESQL expression holds
    #[arg(long, value_name = "CESQL")]
    filter: Option<String>,
    /// The file that holds the subscription; made if it is not there
    #[arg(long, value_name = "FILE")]
    profile: Option<PathBuf>,
    /// For each event, run this shell command with the event on its stdin. If it fails, so does weir, and the
    /// event comes again next time
    #[arg(long, value_name = "CMD")]
    exec: Option<String>,
    /// If the producer has not decided yet, do not wait: ask, and collect the answer next time
    #[arg(long)]
    no_wait: bool,
    /// Whom the producer may write to about the request [default: USER@HOST]
    #[arg(long, value_name = "WHO")]
    contact: Option<String>,
    /// Why you want the stream: for the person who decides
    #[arg(long, value_name = "TEXT")]
    note: Option<String>,
    /// Ask for a subscription of one's own, with a cursor at the node, even where reading directly is allowed
    #[arg(long)]
    ask: bool,
    /// End after so many events
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// End when all events of this moment are there, instead of waiting for more
    #[arg(long)]
    no_follow: bool,
    /// What to do when the stream was renumbered (a new history): end, or go on from there
    #[arg(long, value_name = "WHAT", default_value = "stop", value_parser = ["stop", "earliest", "latest"])]
    new_history: String,
    /// How long the node may be unreachable before giving up
    #[arg(long, value_name = "TIME", default_value = PATIENCE, value_parser = units::duration)]
    patience: Duration,
    /// Say nothing about what is going on
    #[arg(long, short)]
    quiet: bool,
    #[command(flatten)]
    pub(crate) node: NodeArgs,
}

/// How often, at most, the node's cursor follows what was written.
const ACK_EVERY: Duration = Duration::from_secs(1);
/// How long the last acknowledgement may take when the program ends.
const LAST_ACK: Duration = Duration::from_secs(2);

impl SubscribeArgs {
    pub(crate) fn run(&self) -> Result<(), Failure> {
        block_on(self.act())
    }

    async fn act(&self) -> Result<(), Failure> {
        let messages = Messages { as_json: self.node.answer.json, quiet: self.quiet };
        let (delivery, subscription) = tokio::select! {
            opened = self.open(&messages) => opened?,
            () = interrupted() => return Ok(()),
        };
        let Some(delivery) = delivery else { return Ok(()) };
        let sink = match &self.exec {
            Some(command) => Sink::Exec(command.clone()),
            None => Sink::Stdout(Out::new()),
        };
        let mut receiving = Receiving {
            args: self,
            messages,
            delivery,
            subscription,
            sink,
            line: Vec::new(),
            written: 0,
            done: Position::NONE,
            acked: Position::NONE,
            acked_at: Instant::now(),
            until: None,
        };
        let result = tokio::select! {
            result = receiving.run() => result,
            () = interrupted() => Ok(()),
        };
        receiving.finish().await;
        result
    }

    /// Finds the way to the stream: direct, or under a subscription, asked for if there is none yet. No delivery
    /// means: asked, not decided, and told not to wait.
    async fn open(&self, messages: &Messages) -> Result<(Option<Delivery>, Option<Subscription>), Failure> {
        let kept = match (&self.profile, &self.uri) {
            (Some(path), _) => Some(profiles::File::at(path.clone())),
            (None, Some(uri)) => profiles::File::of(uri, self.node.node.as_deref(), self.filter.as_deref()),
            (None, None) => None,
        };
        if let Some(file) = &kept
            && let Some(profile) = file.read()?
        {
            let subscription = Subscription::from_profile(profile, self.node.token.as_deref())?;
            return self.under(subscription, file, messages).await;
        }
        let Some(uri) = &self.uri else {
            return Err(Failure::usage(
                "there is no such profile file yet, and no stream is named to ask for",
            )
            .next("Give the stream's address too: weir subscribe URI --profile FILE."));
        };
        let (client, stream) = locate(&self.node, uri).await?;
        if self.profile.is_none() && !self.ask && may_read_directly(&client, &stream).await? {
            let delivery = client.deliver(&stream, self.from.clone(), self.filter.clone(), self.patience);
            return Ok((Some(delivery), None));
        }
        let Some(file) = &kept else {
            return Err(Failure::usage(
                "there is no place to keep the subscription: neither HOME nor XDG_STATE_HOME is set",
            )
            .next("Say where with --profile FILE."));
        };
        let ask = Ask {
            from: self.from.clone(),
            filters: self.filter.iter().map(|filter| json!({ "sql": filter })).collect(),
            contact: Some(self.contact.clone().unwrap_or_else(whoami)),
            note: self.note.clone(),
        };
        let (subscription, relation) = client.ask(&stream, ask).await?;
        // Before anything else can fail: the answer's secret comes once.
        file.write(&subscription.profile().await)?;
        if relation.state == State::Requested {
            messages.say(
                "requested",
                format!("asked for {stream}; the producer decides about request {}", relation.id),
            );
        }
        self.under(subscription, file, messages).await
    }

    /// Waits for the decision if there is none yet, then begins to receive.
    async fn under(
        &self,
        subscription: Subscription,
        file: &profiles::File,
        messages: &Messages,
    ) -> Result<(Option<Delivery>, Option<Subscription>), Failure> {
        let id = subscription.profile().await.subscription;
        if !subscription.has_grant().await {
            let wait = if self.no_wait { Some(Duration::ZERO) } else { None };
            let relation = match subscription.decided(wait, self.patience).await {
                Ok(relation) => relation,
                Err(error) if error.kind() == Kind::Closed || error.kind() == Kind::NotFound => {
                    // It will never open anything: the next run shall ask anew.
                    file.remove();
                    return Err(Failure::from(error)
                        .next(format!("Request {id} is over; running the command again asks anew.")));
                }
                Err(error) => return Err(error.into()),
            };
            if relation.state == State::Requested {
                messages.say(
                    "waiting",
                    format!("request {id} is not decided yet; run the same command later to go on"),
                );
                return Ok((None, None));
            }
            messages.say("accepted", format!("accepted: receiving {}", relation.stream()));
        }
        let delivery = match subscription.deliver(self.from.clone(), self.patience).await {
            Ok(delivery) => delivery,
            Err(error) => return Err(error.into()),
        };
        file.write(&subscription.profile().await)?;
        Ok((Some(delivery), Some(subscription)))
    }
}

/// Whether this caller gets the stream without asking. Where it does not, it may still ask: `approval` and
/// `allow` streams show themselves but not their events.
async fn may_read_directly(client: &Client, stream: &StreamName) -> Result<bool, Failure> {
    let range = weir_client::Range { from: Some("latest".into()), limit: Some(1), ..Default::default() };
    match client.read(stream, &range)?.page().await {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == Kind::Denied && error.code() != "bad-credential" => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Events on their way from the delivery to where they go.
struct Receiving<'a> {
    args: &'a SubscribeArgs,
    messages: Messages,
    delivery: Delivery,
    subscription: Option<Subscription>,
    sink: Sink,
    line: Vec<u8>,
    written: u64,
    /// Up to here everything was written out.
    done: Position,
    acked: Position,
    acked_at: Instant,
    /// Where `--no-follow` ends.
    until: Option<Position>,
}

enum Sink {
    Stdout(Out),
    Exec(String),
}

impl Receiving<'_> {
    async fn run(&mut self) -> Result<(), Failure> {
        loop {
            if self.is_enough() {
                return Ok(());
            }
            let item = match self.delivery.next().await {
                Ok(item) => item,
                Err(error) => {
                    return Err(match error.kind() {
                        Kind::Closed => Failure::new(Exit::Refused, error.to_string()),
                        _ => error.into(),
                    });
                }
            };
            match item {
                Item::Run(run) => self.write(&run).await?,
                Item::Heartbeat(beat) => {
                    self.until.get_or_insert(beat.head);
                    self.done = self.done.max(beat.at);
                }
                Item::Skipped(skipped) => {
                    self.done = self.done.max(skipped.to);
                    let (from, to, reason) = (skipped.from, skipped.to, &skipped.reason);
                    self.messages.say("skipped", format!("positions {from} to {to} will not come: {reason}"));
                }
                Item::State(state) => {
                    let state = state.get("state").and_then(|state| state.as_str()).unwrap_or("unknown");
                    self.messages.say("state", format!("the subscription is {state}"));
                }
                Item::Cut(error) => {
                    self.messages.say("cut", format!("connection lost ({error}); trying again"))
                }
                Item::Resumed => {
                    self.messages.say("resumed", format!("connected again, going on after {}", self.done))
                }
                Item::Renumbered { was, now, head } => self.renumbered(was, now, head)?,
            }
            self.ack().await;
        }
    }

    /// Writes a run's events out. Nothing is acknowledged that was not.
    async fn write(&mut self, run: &Run) -> Result<(), Failure> {
        for event in run.events() {
            let (position, event) = event?;
            self.line.clear();
            event_json::encode(&event, Some(Stamp { position, time: run.time }), &mut self.line);
            self.line.push(b'\n');
            match &mut self.sink {
                Sink::Stdout(out) => out.write(&self.line)?,
                Sink::Exec(command) => exec::run(command, &self.line, position).await?,
            }
            self.written += 1;
            if matches!(self.sink, Sink::Exec(_)) {
                self.done = position;
            }
            if self.is_enough() {
                break;
            }
        }
        if let Sink::Stdout(out) = &mut self.sink {
            out.flush()?;
            self.done = if self.is_enough() { self.done } else { run.last() };
        }
        Ok(())
    }

    fn is_enough(&self) -> bool {
        self.args.count.is_some_and(|count| self.written >= count)
            || (self.args.no_follow && self.until.is_some_and(|until| self.done >= until))
    }

    fn renumbered(
        &mut self,
        was: Option<weir_event::flow::History>,
        now: Option<weir_event::flow::History>,
        head: Position,
    ) -> Result<(), Failure> {
        let name = |history: Option<weir_event::flow::History>| {
            history.map_or("unknown".into(), |history| history.to_string())
        };
        let text = format!(
            "the stream was renumbered: history {} is now {}, last position {head}",
            name(was),
            name(now)
        );
        if self.args.new_history == "stop" {
            return Err(Failure::failed(text).next(
                "What was written before may come again under other positions. Go on with --from P, or run with \
                 --new-history earliest or latest.",
            ));
        }
        self.messages.say("renumbered", format!("{text}; going on from {}", self.args.new_history));
        self.done = Position::NONE;
        self.acked = Position::NONE;
        self.until = None;
        self.delivery.go_on(&self.args.new_history);
        Ok(())
    }

    /// Lets the node's cursor follow, once in a while.
    async fn ack(&mut self) {
        if self.done > self.acked && self.acked_at.elapsed() >= ACK_EVERY {
            self.ack_now().await;
        }
    }

    async fn ack_now(&mut self) {
        let Some(subscription) = &self.subscription else { return };
        self.acked_at = Instant::now();
        match subscription.ack(self.done).await {
            Ok(()) => self.acked = self.done,
            // The next one covers it; if there is none, events come again rather than never.
            Err(error) => tracing::debug!(%error, "acknowledgement failed"),
        }
    }

    async fn finish(&mut self) {
        if let Sink::Stdout(out) = &mut self.sink {
            let _ = out.flush();
        }
        if self.done > self.acked {
            let _ = tokio::time::timeout(LAST_ACK, self.ack_now()).await;
        }
    }
}

/// The contact that a request carries unless the user says another: what mail on this machine would.
fn whoami() -> String {
    let user =
        std::env::var("USER").or_else(|_| std::env::var("LOGNAME")).unwrap_or_else(|_| "someone".into());
    let uname = rustix::system::uname();
    format!("{user}@{}", uname.nodename().to_string_lossy())
}
