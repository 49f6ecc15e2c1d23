//! `weir stream`: the streams of a node one owns.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};
use weir_client::Stream;
use weir_event::flow::StreamName;

use super::{block_on, client, confirmed, every};
use crate::cli::{AnswerArgs, NodeArgs};
use crate::failure::Failure;
use crate::output;
use crate::units;

#[derive(Debug, Subcommand)]
pub(crate) enum StreamCommand {
    /// Create a stream
    #[command(
        after_help = "Examples:\n  weir stream create weather.us.ny --access approval --title 'Hourly weather'\n  \
                            weir stream create orders --descriptor orders.json"
    )]
    Create {
        /// Its name: tokens of a-z, 0-9, _ and - joined by dots
        stream: StreamName,
        #[command(flatten)]
        descriptor: DescriptorArgs,
        #[command(flatten)]
        node: NodeArgs,
    },
    /// Change what a stream says of itself; what is not named stays
    Change {
        /// Its name
        stream: StreamName,
        #[command(flatten)]
        descriptor: DescriptorArgs,
        /// Do it even if that deletes events or ends subscriptions
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        node: NodeArgs,
    },
    /// Show a stream
    Show {
        /// Its name
        stream: StreamName,
        #[command(flatten)]
        node: NodeArgs,
    },
    /// List the streams you may see
    List {
        #[command(flatten)]
        node: NodeArgs,
    },
    /// Retire a stream: its events go, its subscriptions end
    Retire {
        /// Its name
        stream: StreamName,
        /// Do it without asking
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        node: NodeArgs,
    },
}

/// What a stream says of itself.
#[derive(Debug, Args)]
pub(crate) struct DescriptorArgs {
    /// Read the descriptor from this JSON file; the flags below change it
    #[arg(long, value_name = "FILE")]
    descriptor: Option<PathBuf>,
    /// One line that says what it is
    #[arg(long)]
    title: Option<String>,
    /// More about it
    #[arg(long)]
    description: Option<String>,
    /// Who may read: anyone; after your decision; listed organizations; only your own readers [default: private]
    #[arg(long, value_parser = ["open", "approval", "allow", "private"])]
    access: Option<String>,
    /// An organization that is accepted at once (with --access allow); repeat for more
    #[arg(long, value_name = "ORG")]
    allow: Vec<String>,
    /// A type of event it carries; repeat for more
    #[arg(long = "type", value_name = "TYPE")]
    types: Vec<String>,
    /// A word to find it by; repeat for more
    #[arg(long, value_name = "TAG")]
    tag: Vec<String>,
    /// Keep events at least so long [default: 7d]
    #[arg(long, value_name = "TIME", value_parser = |text: &str| units::duration(text).map(|_| text.to_owned()))]
    retention_age: Option<String>,
    /// Keep at most so many bytes
    #[arg(long, value_name = "BYTES", value_parser = |text: &str| units::bytes(text).map(|_| text.to_owned()))]
    retention_bytes: Option<String>,
    /// Keep at most so many events
    #[arg(long, value_name = "N")]
    retention_count: Option<u64>,
    /// When an event counts as published: once synced to the disk, or once written to the system [default: fsync]
    #[arg(long, value_parser = ["fsync", "written"])]
    durability: Option<String>,
}

impl DescriptorArgs {
    fn members(&self) -> Result<Map<String, Value>, Failure> {
        let mut members = match &self.descriptor {
            None => Map::new(),
            Some(path) => {
                let text = std::fs::read(path)
                    .map_err(|error| Failure::usage(format!("read {}: {error}", path.display())))?;
                serde_json::from_slice(&text).map_err(|error| {
                    Failure::usage(format!("{} is not a descriptor: {error}", path.display()))
                })?
            }
        };
        let texts = [
            ("title", &self.title),
            ("description", &self.description),
            ("access", &self.access),
            ("durability", &self.durability),
        ];
        for (name, text) in texts {
            members.extend(text.as_ref().map(|text| (name.to_owned(), text.as_str().into())));
        }
        for (name, list) in [("allow", &self.allow), ("types", &self.types), ("tags", &self.tag)] {
            if !list.is_empty() {
                members.insert(name.into(), json!(list));
            }
        }
        let retention = [
            ("age", self.retention_age.as_deref().map(Value::from)),
            ("bytes", self.retention_bytes.as_deref().map(Value::from)),
            ("count", self.retention_count.map(Value::from)),
        ];
        let retention: Map<String, Value> =
            retention.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect();
        if !retention.is_empty() {
            match members.get_mut("retention") {
                Some(Value::Object(given)) => given.extend(retention),
                _ => drop(members.insert("retention".into(), retention.into())),
            }
        }
        Ok(members)
    }
}

impl StreamCommand {
    pub(crate) fn answer(&self) -> AnswerArgs {
        match self {
            Self::Create { node, .. }
            | Self::Change { node, .. }
            | Self::Show { node, .. }
            | Self::List { node }
            | Self::Retire { node, .. } => node.answer,
        }
    }

    pub(crate) fn run(&self) -> Result<(), Failure> {
        block_on(self.act())
    }

    async fn act(&self) -> Result<(), Failure> {
        let as_json = self.answer().json;
        match self {
            Self::Create { stream, descriptor, node } => {
                let members = descriptor.members()?;
                let made = client(node)?.create_stream(stream, &members).await?;
                output::print(as_json, &made, || created(&made))
            }
            Self::Change { stream, descriptor, yes, node } => {
                let members = descriptor.members()?;
                if members.is_empty() {
                    return Err(Failure::usage(format!("nothing to change about {stream}"))
                        .next("Name what shall change, as --title or --retention-age."));
                }
                let client = client(node)?;
                let (client, members) = (&client, &members);
                let changed = confirmed(*yes, |token| async move {
                    client.patch_stream(stream, members, token.as_deref()).await
                })
                .await?;
                output::print(as_json, &changed, || described(&changed))
            }
            Self::Show { stream, node } => {
                let shown = client(node)?.stream(stream).await?;
                output::print(as_json, &shown, || described(&shown))
            }
            Self::List { node } => list(&client(node)?, "", as_json).await,
            Self::Retire { stream, yes, node } => {
                let client = client(node)?;
                let client = &client;
                confirmed(*yes, |token| async move { client.retire_stream(stream, token.as_deref()).await })
                    .await?;
                output::print(as_json, &json!({"retired": stream}), || format!("retired {stream}"))
            }
        }
    }
}

/// Prints all streams that match: a table, or one JSON array.
pub(crate) async fn list(client: &weir_client::Client, query: &str, as_json: bool) -> Result<(), Failure> {
    let streams = every(async |after| client.find(query, None, after.as_deref()).await).await?;
    if as_json {
        return output::print(true, &streams, String::new);
    }
    if streams.is_empty() {
        eprintln!("no stream{} that you may see", if query.is_empty() { "" } else { " matches" });
        return Ok(());
    }
    let rows: Vec<_> = streams
        .into_iter()
        .map(|stream| {
            let events =
                if stream.last.is_none() { 0 } else { stream.last.next().0.saturating_sub(stream.first.0) };
            let name = stream.name.to_string();
            vec![name, stream.access, output::count(events), output::bytes(stream.bytes), stream.title]
        })
        .collect();
    output::print(false, &(), || output::table(&["STREAM", "ACCESS", "EVENTS", "STORED", "TITLE"], &rows))
}

fn created(stream: &Stream) -> String {
    let mut text = format!("created {}", stream.name);
    if !stream.uri.is_empty() {
        text.push_str(&format!("\n  share it as   {}", stream.uri));
    }
    text.push_str(&format!("\n  publish with  weir publish {} FILE", stream.name));
    text
}

/// What a person wants to know of a stream.
fn described(stream: &Stream) -> String {
    let mut text = String::new();
    let mut add = |name: &str, value: &str| {
        if !value.is_empty() {
            text.push_str(&format!("{name:<12} {value}\n"));
        }
    };
    add("stream", stream.name.as_str());
    add("title", &stream.title);
    add("uri", &stream.uri);
    add("owner", &stream.owner);
    add("access", &stream.access);
    if stream.last.is_none() {
        add("events", "none");
    } else {
        add("events", &format!("{} to {}, {}", stream.first, stream.last, output::bytes(stream.bytes)));
    }
    add("history", &stream.history.map(|history| history.to_string()).unwrap_or_default());
    for (name, value) in &stream.more {
        match value {
            Value::Null => {}
            Value::String(value) => add(name, value),
            Value::Array(list) if list.is_empty() => {}
            other => add(name, &other.to_string()),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_add_to_the_descriptor_of_the_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), r#"{"title":"a","retention":{"age":"1d","count":5}}"#).unwrap();
        let args = DescriptorArgs {
            descriptor: Some(file.path().into()),
            title: Some("b".into()),
            description: None,
            access: Some("open".into()),
            allow: vec![],
            types: vec!["t.v1".into()],
            tag: vec![],
            retention_age: Some("2d".into()),
            retention_bytes: None,
            retention_count: None,
            durability: None,
        };
        assert_eq!(
            Value::Object(args.members().unwrap()),
            json!({"title":"b","retention":{"age":"2d","count":5},"access":"open","types":["t.v1"]})
        );
        std::fs::write(file.path(), "[]").unwrap();
        assert!(args.members().is_err());
    }
}
