//! `weir publish`: a file or a pipe into a stream, in order, each event once.

use std::fs::File;
use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;
use tokio::sync::mpsc;
use weir_client::{Address, PublishOptions, Publisher, Totals};
use weir_event::Event;

use super::{PATIENCE, block_on, interrupted, locate};
use crate::cli::NodeArgs;
use crate::failure::{Exit, Failure};
use crate::input::{Field, Format, Input, Shape};
use crate::output;
use crate::units;

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    weir publish weather.us.ny observations.ndjson\n  \
    weir publish orders orders.csv --type acme.order.v1 --source /shop --id-field order_id\n  \
    tail -F app.log.json | weir publish app.log --type acme.log.v1 --source /app")]
pub(crate) struct PublishArgs {
    /// The stream: a name on the node, or its address
    #[arg(value_name = "STREAM")]
    stream: Address,
    /// What to publish; - is stdin
    #[arg(value_name = "FILE", default_value = "-")]
    file: PathBuf,
    /// How the input is written [default: by the file's name, else json]
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Type of the events made of plain JSON or CSV
    #[arg(long = "type", value_name = "TYPE", requires = "source")]
    ty: Option<String>,
    /// Source of the events made of plain JSON or CSV, as /shop or https://acme.example/shop
    #[arg(long, requires = "ty")]
    source: Option<String>,
    /// Which member is the event's id: a name, or a JSON pointer. Without one, ids are this run's own, and a
    /// second run stores everything again
    #[arg(long, value_name = "FIELD", requires = "ty")]
    id_field: Option<Field>,
    /// Which member is the event's time: RFC 3339, or seconds or milliseconds since 1970
    #[arg(long, value_name = "FIELD", requires = "ty")]
    time_field: Option<Field>,
    /// Which member is the event's subject, by which events are ordered and grouped
    #[arg(long, value_name = "FIELD", requires = "ty")]
    subject_field: Option<Field>,
    /// At most so many events in one request
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    batch: u16,
    /// How long the node may be unreachable or full before giving up
    #[arg(long, value_name = "TIME", default_value = PATIENCE, value_parser = units::duration)]
    patience: Duration,
    /// Show no progress
    #[arg(long, short)]
    quiet: bool,
    #[command(flatten)]
    pub(crate) node: NodeArgs,
}

/// Events read ahead of the publisher.
const READ_AHEAD: usize = 4096;

impl PublishArgs {
    pub(crate) fn run(&self) -> Result<(), Failure> {
        block_on(self.act())
    }

    async fn act(&self) -> Result<(), Failure> {
        let shape = self.shape()?;
        let (client, stream) = locate(&self.node, &self.stream).await?;
        let (input, size) = self.input(shape)?;
        // Says at once what is wrong with the node or the credential, before any input is taken.
        client.well_known().await?;
        let options = PublishOptions {
            batch_events_max: self.batch.into(),
            patience: self.patience,
            ..PublishOptions::default()
        };
        let mut publisher = client.publisher(&stream, options)?;
        let progress = self.progress(size, &publisher, input.taken());
        let begun = Instant::now();
        let result = tokio::select! {
            result = publish(input, &mut publisher) => result,
            () = interrupted() => Err(Failure::failed("interrupted")),
        };
        if let Some(progress) = progress {
            progress.abort();
            // Until it has taken its bar off the terminal.
            let _ = progress.await;
        }
        let totals = publisher.totals();
        if let Err(failure) = result {
            let done = format!("{} events were published and stay so", output::count(totals.acknowledged()));
            return Err(match (totals.acknowledged(), self.id_field.is_some() || self.ty.is_none()) {
                (0, _) => failure,
                (_, true) => {
                    failure.next(format!("{done}; running the same command again stores none of them twice."))
                }
                (_, false) => failure.next(format!("{done}.")),
            });
        }
        output::print(
            self.node.answer.json,
            &json!({
                "stream": stream,
                "events": totals.acknowledged(),
                "stored": totals.stored,
                "duplicates": totals.duplicates,
                "first": totals.first,
                "last": totals.last,
                "history": totals.history,
                "retries": totals.retries,
                "seconds": begun.elapsed().as_secs_f64(),
            }),
            || summary(&totals, begun.elapsed()),
        )
    }

    fn shape(&self) -> Result<Option<Shape>, Failure> {
        let (Some(ty), Some(source)) = (&self.ty, &self.source) else { return Ok(None) };
        let mut run = [0; 8];
        getrandom::fill(&mut run).map_err(|error| Failure::failed(format!("take random bytes: {error}")))?;
        Ok(Some(Shape {
            ty: ty.clone(),
            source: source.clone(),
            id: self.id_field.clone(),
            time: self.time_field.clone(),
            subject: self.subject_field.clone(),
            run: format!("{:016x}", u64::from_be_bytes(run)),
        }))
    }

    /// The input, and how many bytes it has if that is known.
    fn input(&self, shape: Option<Shape>) -> Result<(Input, Option<u64>), Failure> {
        let format = self.format.unwrap_or_else(|| Format::of(&self.file));
        let (name, from, size): (_, Box<dyn Read + Send>, _) = if self.file == Path::new("-") {
            if std::io::stdin().is_terminal() && !self.quiet {
                eprintln!("reading events from the terminal; end with Ctrl-D");
            }
            ("stdin".into(), Box::new(std::io::stdin()), None)
        } else {
            let name = self.file.display().to_string();
            let file = File::open(&self.file)
                .map_err(|error| Failure::new(Exit::Usage, format!("open {name}: {error}")))?;
            let size = file.metadata().ok().filter(std::fs::Metadata::is_file).map(|metadata| metadata.len());
            (name, Box::new(file), size)
        };
        Ok((Input::new(name, from, format, shape)?, size))
    }

    /// Draws how far it is, on a terminal, until aborted.
    fn progress(
        &self,
        size: Option<u64>,
        publisher: &Publisher,
        taken: Arc<AtomicU64>,
    ) -> Option<tokio::task::JoinHandle<()>> {
        if self.quiet || self.node.answer.json || !std::io::stderr().is_terminal() {
            return None;
        }
        let totals = publisher.progress();
        let bar = match size {
            Some(size) => ProgressBar::with_draw_target(Some(size), ProgressDrawTarget::stderr())
                .with_style(style("{bar:24} {percent:>3}%  {msg}  ETA {eta}")),
            None => ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr())
                .with_style(style("{spinner} {msg}  {elapsed}")),
        };
        Some(tokio::spawn(async move {
            let cleared = ClearOnDrop(bar);
            let mut ticks = tokio::time::interval(Duration::from_millis(200));
            let mut window = (Instant::now(), 0, 0.0);
            loop {
                ticks.tick().await;
                let totals = *totals.borrow();
                let done = totals.acknowledged();
                // The rate of the last seconds: an average over all hides that something hangs.
                let elapsed = window.0.elapsed().as_secs_f64();
                if elapsed >= 1.0 {
                    window = (Instant::now(), done, (done - window.1) as f64 / elapsed);
                }
                let waiting = if totals.sent > done && window.2 == 0.0 && done > 0 {
                    "  waiting for the node"
                } else {
                    ""
                };
                let rate = output::count(window.2 as u64);
                cleared.0.set_message(format!("{} events  {rate}/s{waiting}", output::count(done)));
                cleared.0.set_position(taken.load(Ordering::Relaxed));
                cleared.0.tick();
            }
        }))
    }
}

/// Sends batches as they fill, and what is there whenever the input pauses.
async fn publish(input: Input, publisher: &mut Publisher) -> Result<(), Failure> {
    let (sender, mut events) = mpsc::channel(READ_AHEAD);
    // Not joined: it may be blocked in reading a terminal for ever. It ends with the process, or when nobody
    // takes what it reads.
    std::thread::Builder::new()
        .name("input".into())
        .spawn(move || read(input, &sender))
        .map_err(|error| Failure::failed(format!("start a thread: {error}")))?;
    loop {
        let event = match events.try_recv() {
            Ok(event) => Some(event),
            Err(mpsc::error::TryRecvError::Disconnected) => None,
            Err(mpsc::error::TryRecvError::Empty) => {
                publisher.push_out().await?;
                next(&mut events, publisher).await?
            }
        };
        match event {
            Some(event) => publisher.send(&event?).await?,
            None => break,
        }
    }
    publisher.flush().await?;
    Ok(())
}

/// Waits for input, and meanwhile for failures.
async fn next(
    events: &mut mpsc::Receiver<Result<Event<'static>, Failure>>,
    publisher: &mut Publisher,
) -> Result<Option<Result<Event<'static>, Failure>>, Failure> {
    tokio::select! {
        biased;
        event = events.recv() => return Ok(event),
        settled = publisher.settle() => settled?,
    }
    Ok(events.recv().await)
}

/// The input thread: reads until the end, an error, or until nobody listens.
fn read(mut input: Input, to: &mpsc::Sender<Result<Event<'static>, Failure>>) {
    loop {
        let result = match input.next() {
            Ok(None) => return,
            Ok(Some(event)) => Ok(event),
            Err(failure) => Err(failure),
        };
        let ends = result.is_err();
        if to.blocking_send(result).is_err() || ends {
            return;
        }
    }
}

fn summary(totals: &Totals, elapsed: Duration) -> String {
    let seconds = elapsed.as_secs_f64().max(0.001);
    let rate = output::count((totals.acknowledged() as f64 / seconds) as u64);
    let mut text = match (totals.first, totals.last) {
        (Some(first), Some(last)) => {
            format!("published {} events as {first} to {last}", output::count(totals.stored))
        }
        _ => "nothing new to publish".to_owned(),
    };
    if totals.duplicates > 0 {
        text.push_str(&format!(", {} were there already", output::count(totals.duplicates)));
    }
    text.push_str(&format!(" ({:.1} s, {rate}/s)", elapsed.as_secs_f64()));
    text
}

fn style(template: &str) -> ProgressStyle {
    // The templates are constants of this file; a bar without style is better than none.
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// Takes the bar off the terminal however the task ends.
struct ClearOnDrop(ProgressBar);

impl Drop for ClearOnDrop {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
