//! `weir log`: look at a data directory without a node.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use weir_log::{Kind, Place, Report};

use crate::cli::AnswerArgs;
use crate::failure::{Exit, Failure};
use crate::output;

#[derive(Debug, Subcommand)]
pub(crate) enum LogCommand {
    /// Read everything and say what is damaged; changes nothing
    #[command(after_help = "Ends with 0 if everything is whole, with 1 if something is damaged.")]
    Check(PlaceArgs),
    /// Close the gaps that damage left; the streams hit go on under a new history
    #[command(after_help = "What is lost stays lost: if a backup has it, restore that instead.")]
    Repair(PlaceArgs),
}

#[derive(Debug, Args)]
pub(crate) struct PlaceArgs {
    /// The data directory; no node may be running on it
    #[arg(long, value_name = "DIR", default_value = "./weir-data")]
    data: PathBuf,
    #[command(flatten)]
    answer: AnswerArgs,
}

impl LogCommand {
    fn place(&self) -> &PlaceArgs {
        match self {
            Self::Check(place) | Self::Repair(place) => place,
        }
    }

    pub(crate) fn answer(&self) -> AnswerArgs {
        self.place().answer
    }

    pub(crate) fn run(&self) -> Result<(), Failure> {
        let PlaceArgs { data, answer } = self.place();
        match self {
            Self::Check(_) => {
                let report = weir_log::check(data).map_err(|error| refused(data, &error))?;
                output::print(answer.json, &shown(&report), || described(&report))?;
                if report.places.is_empty() {
                    return Ok(());
                }
                Err(Failure::failed(format!("{} is damaged in {}", data.display(), places(&report))).next(format!(
                    "Everything else can be read. If no backup has what is lost: weir log repair --data {}",
                    data.display()
                )))
            }
            Self::Repair(_) => {
                let report = weir_log::repair(data).map_err(|error| refused(data, &error))?;
                output::print(answer.json, &shown(&report), || match report.places.is_empty() {
                    true => format!("nothing to repair\n{}", described(&report)),
                    false => format!("repaired {}\n{}", places(&report), described(&report)),
                })
            }
        }
    }
}

fn refused(data: &Path, error: &weir_log::Error) -> Failure {
    let failure = Failure::new(Exit::Failed, format!("{}: {error}", data.display()));
    match error.kind() {
        Kind::Unavailable => failure.next("Is a node running on it? Stop it first."),
        Kind::NotFound => failure.next("Say where the node keeps its data with --data DIR."),
        _ => failure,
    }
}

fn places(report: &Report) -> String {
    match report.places.len() {
        1 => "1 place".to_owned(),
        count => format!("{count} places"),
    }
}

fn described(report: &Report) -> String {
    let mut text = format!(
        "{} events of {} streams are whole ({} in {} files)\n",
        output::count(report.events),
        output::count(report.streams),
        output::bytes(report.bytes),
        report.segments,
    );
    if report.unfinished > 0 {
        let bytes = output::bytes(report.unfinished);
        text.push_str(&format!(
            "{bytes} of unfinished writes at the end: the next start cuts them off, no harm done\n"
        ));
    }
    for place in &report.places {
        text.push_str(&format!("damaged: {place}\n"));
    }
    text
}

fn shown(report: &Report) -> Value {
    let place = |place: &Place| {
        json!({
            "file": place.file,
            "offset": place.offset,
            "stream": place.stream.map(|stream| stream.0),
            "from": place.positions.map(|(first, _)| first),
            "to": place.positions.map(|(_, last)| last),
            "what": place.what,
        })
    };
    json!({
        "segments": report.segments,
        "streams": report.streams,
        "events": report.events,
        "bytes": report.bytes,
        "unfinished": report.unfinished,
        "damaged": report.places.iter().map(place).collect::<Vec<_>>(),
    })
}
