//! `weir demo`: two organizations on one machine, and the whole life of a shared stream between them.
//!
//! weatherflow.example runs a node and publishes a year of real hourly weather, faster than it happened. acme.example is
//! nothing but a client: it finds the stream, asks for it, is accepted, receives by push and answers a question with it.
//! Both sides use the public interface over loopback and credentials like anybody else's; the one liberty is that
//! weatherflow accepts whoever asks after a moment, where a person would decide.
//!
//! Everything lives in a temporary directory and is gone when the demo ends.

mod table;
mod weather;

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use clap::Args;
use serde_json::{Map, Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use weir_client::{Ask, Client, Item, PublishOptions, State};
use weir_event::flow::StreamName;
use weir_node::Node;
use weir_node::control::{Caller, Command, Outcome, Pattern, Role};

use self::table::{Reading, Table};
use self::weather::Observation;
use crate::cli::AnswerArgs;
use crate::commands::interrupted;
use crate::config::is_loopback;
use crate::failure::Failure;
use crate::output;
use crate::serve;
use crate::units;

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// How much faster than it happened the weather is published: at 3600x an hour takes a second
    #[arg(long, value_name = "N", default_value = "3600x", value_parser = units::speed)]
    speed: f64,
    /// End by itself after this time [default: Ctrl-C ends it]
    #[arg(long = "for", value_name = "TIME", value_parser = units::duration)]
    duration: Option<Duration>,
    /// Where weatherflow's node listens
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    #[command(flatten)]
    pub(crate) answer: AnswerArgs,
}

const STREAM: &str = "weather.us.ny";
const PRODUCER: &str = "weatherflow.example";
const CONSUMER: &str = "acme.example";
/// Hours published at once, so that there is a past to replay.
const BACKLOG_HOURS: u64 = 24;
/// How long the one who decides takes.
const THINKING: Duration = Duration::from_millis(1500);
/// How long either side puts up with the other being away.
const PATIENCE: Duration = Duration::from_secs(60);

impl DemoArgs {
    pub(crate) fn run(&self) -> Result<(), Failure> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .map_err(|error| Failure::failed(format!("start the runtime: {error}")))?;
        runtime.block_on(self.act())
    }

    async fn act(&self) -> Result<(), Failure> {
        if !is_loopback(&self.listen) {
            let address = self.listen;
            return Err(Failure::usage(format!(
                "{address} is not a loopback address: the demo is for this machine"
            )));
        }
        let stage = Stage::new(self.answer.json);
        let folder = Folder::new()?;
        let node = serve::open(weir_node::Settings {
            listen: self.listen,
            data: folder.0.clone(),
            name: PRODUCER.into(),
            ..Default::default()
        })
        .await?;
        let token = owner_token(&node).await?;
        let (listener, address) = serve::listen(self.listen).await?;
        let closing = CancellationToken::new();
        let serving = tokio::spawn({
            let (node, closing) = (node.clone(), closing.clone());
            async move { node.serve(listener, closing.cancelled()).await }
        });
        let producer = Producer::new(&format!("http://{address}"), &token)?;
        let result = tokio::select! {
            result = self.play(&producer, &stage) => result,
            () = interrupted() => Ok(()),
            () = after(self.duration) => Ok(()),
        };
        stage.table().leave();
        closing.cancel();
        let _ = serving.await;
        if result.is_ok() {
            stage.tell("end", "\nThe demo has ended: the node is stopped, its data removed.");
        }
        result
    }

    /// Both sides at once, until one of them fails.
    async fn play(&self, producer: &Producer, stage: &Stage) -> Result<(), Failure> {
        let weather = weather::observations()?;
        producer.offer(stage).await?;
        let consumer = Consumer::new(&producer.url)?;
        tokio::try_join!(
            producer.publish(&weather, self.speed, stage),
            producer.decide(stage),
            consumer.receive(stage),
        )
        .map(drop)
    }
}

/// The first credential of a node, made before anybody could reach it: from then on the node is not open.
async fn owner_token(node: &Node) -> Result<String, Failure> {
    let command = Command::CreateToken {
        role: Role::Owner,
        streams: Pattern::all(),
        organization: None,
        expires: None,
    };
    match node.control().decide(&Caller::Node, command).await {
        Ok(Outcome::Token { bearer, .. }) => Ok(bearer.reveal().to_owned()),
        Ok(_) => Err(Failure::failed("the node made no token")),
        Err(error) => Err(Failure::failed(error.to_string())),
    }
}

/// weatherflow.example: owns the stream, publishes it and decides who gets it.
struct Producer {
    url: String,
    token: String,
    owner: Client,
    stream: StreamName,
}

impl Producer {
    fn new(url: &str, token: &str) -> Result<Self, Failure> {
        let stream = STREAM.parse().map_err(|error| Failure::failed(format!("{STREAM}: {error}")))?;
        Ok(Self { url: url.into(), token: token.into(), owner: Client::new(url, Some(token))?, stream })
    }

    /// Creates the stream.
    async fn offer(&self, stage: &Stage) -> Result<(), Failure> {
        let descriptor = json!({
            "title": "Hourly weather at the airports of New York",
            "description": "Temperature, humidity, wind, precipitation, pressure and visibility at EWR, JFK and LGA.",
            "types": [weather::TYPE],
            "contenttype": "application/json",
            "access": "approval",
            "region": "us-east",
            "tags": ["weather", "observation"],
        });
        let Value::Object(descriptor) = descriptor else { return Ok(()) };
        let made = self.owner.create_stream(&self.stream, &descriptor).await?;
        let Self { url, token, stream, .. } = self;
        stage.tell(
            "offered",
            format!(
                "Two organizations on this machine.\n\n\
             weatherflow.example runs a node at {url} and offers the stream\n    {}\n\
             Whoever wants it has to ask; weatherflow decides. What anybody can see of it:\n    \
             curl {url}/streams/{stream}\n\
             What its owner can see:\n    \
             curl -H 'Authorization: Bearer {token}' '{url}/streams/{stream}/events?limit=3'\n    \
             WEIR_NODE={url} WEIR_TOKEN={token} weir requests list --all\n",
                made.uri
            ),
        );
        Ok(())
    }

    /// Publishes the year: the first hours at once, the rest as the weather changed, only faster.
    async fn publish(&self, weather: &[Observation], speed: f64, stage: &Stage) -> Result<(), Failure> {
        let options = PublishOptions { patience: PATIENCE, ..PublishOptions::default() };
        let mut publisher = self.owner.publisher(&self.stream, options)?;
        let begin = weather.first().map_or(0, |first| first.millis) + BACKLOG_HOURS * 3_600_000;
        let (backlog, live) =
            weather.split_at(weather.partition_point(|observation| observation.millis < begin));
        for observation in backlog {
            publisher.send(&observation.event().map_err(defect)?).await?;
        }
        publisher.flush().await?;
        stage.tell("publishing", format!(
            "weatherflow.example has published the first day of 2013 and goes on, an hour every {:.2} s.\n",
            3600.0 / speed
        ));
        let started = Instant::now();
        for hour in live.chunk_by(|a, b| a.millis == b.millis) {
            let since = hour.first().map_or(0, |first| first.millis.saturating_sub(begin));
            tokio::time::sleep_until(started + Duration::from_millis(since).div_f64(speed)).await;
            for observation in hour {
                publisher.send(&observation.event().map_err(defect)?).await?;
            }
            publisher.flush().await?;
        }
        stage.tell("published", "The year is over: weatherflow.example has nothing more to publish.");
        Ok(())
    }

    /// Accepts whoever asks, after a moment of thought.
    async fn decide(&self, stage: &Stage) -> Result<(), Failure> {
        loop {
            let page = self.owner.requests(Some(&self.stream), Some("requested"), None, None).await?;
            for request in page.items {
                let (who, why) = (request.text("contact"), request.text("note"));
                stage.tell(
                    "request",
                    format!(
                        "weatherflow.example sees request {} from {who}{}.",
                        request.id,
                        if why.is_empty() {
                            String::new()
                        } else {
                            format!(", who writes: \u{201c}{why}\u{201d}")
                        }
                    ),
                );
                tokio::time::sleep(THINKING).await;
                let until = units::moment("1d").unwrap_or_default();
                let mut terms = Map::new();
                terms.insert("expires".into(), until.to_string().into());
                terms.insert("reason".into(), "welcome".into());
                self.owner.decide(&request.id, "accept", &terms).await?;
                let Self { url, token, .. } = self;
                let id = &request.id;
                stage.tell(
                    "accepted",
                    format!(
                        "weatherflow.example accepts it until {until}. It could end it any time:\n    \
                     curl -X POST -H 'Authorization: Bearer {token}' {url}/subscriptions/{id}/revoke\n"
                    ),
                );
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }
}

/// acme.example: a client without a node, a token or any agreement made beforehand.
struct Consumer {
    node: Client,
}

impl Consumer {
    fn new(url: &str) -> Result<Self, Failure> {
        Ok(Self { node: Client::new(url, None)? })
    }

    /// Finds, asks, waits, receives.
    async fn receive(&self, stage: &Stage) -> Result<(), Failure> {
        let url = self.node.node();
        let found = self.node.find("weather", None, None).await?;
        let Some(stream) = found.items.first() else {
            return Err(Failure::failed("acme.example found no stream about weather"));
        };
        stage.tell(
            "found",
            format!(
                "acme.example looks for weather and finds {} ({}).\n    curl '{url}/streams?q=weather'",
                stream.name, stream.title
            ),
        );
        let ask = Ask {
            from: Some("earliest".into()),
            filters: Vec::new(),
            contact: Some(format!("ops@{CONSUMER}")),
            note: Some("planning our couriers by wind".into()),
        };
        let (subscription, request) = self.node.ask(&stream.name, ask).await?;
        stage.tell(
            "asked",
            format!(
                "acme.example asks for it, in one request, and waits. Ask too, from another terminal:\n    \
             weir subscribe {} --from earliest --contact you@your.example\n",
                stream.uri
            ),
        );
        if request.state == State::Requested {
            subscription.decided(None, PATIENCE).await?;
        }
        stage.tell("receiving", "acme.example has its grant. From here on the node pushes; nobody polls.\n");
        let mut delivery = subscription.deliver(None, PATIENCE).await?;
        let mut count: u64 = 0;
        loop {
            match delivery.next().await? {
                Item::Run(run) => {
                    for event in run.events() {
                        let (_, event) = event?;
                        let data = event.data().map(|data| data.bytes.as_ref()).unwrap_or_default();
                        let reading: Reading = serde_json::from_slice(data).map_err(defect)?;
                        let time = event.time().map(|time| time.text().into_owned()).unwrap_or_default();
                        stage.reading(reading, &time);
                        count += 1;
                    }
                    let lag = units::now().0.saturating_sub(run.time.0);
                    stage.draw(&format!(
                        "{} observations received, the last {} ms after it was published. Ctrl-C ends the demo.",
                        output::count(count),
                        lag
                    ));
                    subscription.ack(run.last()).await?;
                }
                Item::Cut(error) => {
                    stage.tell("cut", format!("acme.example lost the connection ({error}) and tries again."))
                }
                Item::Skipped(skipped) => {
                    stage.tell(
                        "skipped",
                        format!("positions {} to {} will not come", skipped.from, skipped.to),
                    );
                }
                Item::Heartbeat(_) | Item::State(_) | Item::Resumed | Item::Renumbered { .. } => {}
            }
        }
    }
}

/// Where the story is told and the table drawn: one terminal for both sides.
struct Stage {
    as_json: bool,
    table: Mutex<Table>,
}

impl Stage {
    fn new(as_json: bool) -> Self {
        Self { as_json, table: Mutex::new(Table::new(as_json)) }
    }

    /// Tells what happens: in plain words, or as a JSON object on a line.
    fn tell(&self, what: &str, text: impl AsRef<str>) {
        self.clear();
        if self.as_json {
            print(&json!({"step": what, "text": text.as_ref().trim()}).to_string());
        } else {
            print(text.as_ref());
        }
    }

    fn reading(&self, reading: Reading, time: &str) {
        let line = self.table().take(reading, time.get(..16).unwrap_or(time).replace('T', " "));
        if let (Some(line), false) = (line, self.as_json) {
            print(&line);
        }
    }

    fn draw(&self, status: &str) {
        or_end(self.table().draw(status));
    }

    fn clear(&self) {
        or_end(self.table().clear());
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn print(line: &str) {
    or_end(writeln!(std::io::stdout(), "{line}"));
}

/// Nobody watches any more: the demo has nothing else to do.
fn or_end(written: std::io::Result<()>) {
    if written.is_err() {
        std::process::exit(0);
    }
}

async fn after(duration: Option<Duration>) {
    match duration {
        Some(duration) => tokio::time::sleep(duration).await,
        None => std::future::pending().await,
    }
}

fn defect(error: impl std::fmt::Display) -> Failure {
    Failure::failed(error.to_string())
}

/// A directory that goes when the demo does.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Result<Self, Failure> {
        let path = std::env::temp_dir().join(format!("weir-demo-{}", std::process::id()));
        std::fs::create_dir(&path)
            .map_err(|error| Failure::failed(format!("make {}: {error}", path.display())))?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What stays is the system's to clean up.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
