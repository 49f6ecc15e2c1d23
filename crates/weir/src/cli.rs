//! The command line: every command, flag and help text, declared once. Help, man pages, completions and the
//! usage errors all come from here.

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Parser, Subcommand};

use crate::{bench, commands, config, demo};

/// Share a live event stream like a web page.
#[derive(Debug, Parser)]
#[command(
    name = "weir",
    version,
    max_term_width = 100,
    disable_help_subcommand = true,
    arg_required_else_help = true,
    after_help = "Start with `weir demo`, or `weir serve` and then `weir stream create`, `weir publish`, \
                  `weir subscribe`.\nExit codes: 0 ok, 1 failed, 2 usage, 3 refused by the producer, 4 not reachable."
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a node
    ///
    /// Without any configuration it listens on 127.0.0.1:8080 and stores under ./weir-data. Settings come from
    /// weir.toml, then WEIR_* variables, then these flags; docs/configuration.md lists them all.
    Serve(config::ServeArgs),
    /// Watch two organizations on this machine share real weather
    Demo(demo::DemoArgs),
    /// Create, list, show and retire streams
    #[command(subcommand)]
    Stream(commands::stream::StreamCommand),
    /// Publish events into a stream, from a file or stdin
    Publish(commands::publish::PublishArgs),
    /// Receive a stream: ask for it if needed, wait for the decision, write events to stdout
    Subscribe(commands::subscribe::SubscribeArgs),
    /// Search the streams of a node
    Find(commands::find::FindArgs),
    /// See and decide who gets your streams
    #[command(subcommand)]
    Requests(commands::requests::RequestsCommand),
    /// Turn a subscription's profile into code for another client
    Profile(commands::profile::ProfileArgs),
    /// Write a stream's past to stdout at its own pace, or faster
    Replay(commands::replay::ReplayArgs),
    /// Make and withdraw credentials
    #[command(subcommand)]
    Keys(commands::keys::KeysCommand),
    /// Check and repair a data directory
    #[command(subcommand)]
    Log(commands::log::LogCommand),
    /// Say how a node is doing
    Status(commands::status::StatusArgs),
    /// Measure a node on this machine
    Bench(bench::Bench),
    /// Print completions for a shell
    Completions(commands::completions::CompletionsArgs),
    /// Write the manual pages into a folder
    Man(commands::completions::ManArgs),
    /// Print the configuration reference (docs/configuration.md)
    #[command(hide = true)]
    ConfigurationReference,
}

/// Which node, as whom, and how to answer: common to all commands that talk to a node.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Node")]
pub(crate) struct NodeArgs {
    /// The node to talk to [default: http://127.0.0.1:8080]
    #[arg(long, value_name = "URL", env = "WEIR_NODE", hide_env_values = true)]
    pub(crate) node: Option<String>,
    /// The token to show it
    #[arg(long, value_name = "TOKEN", env = "WEIR_TOKEN", hide_env_values = true)]
    pub(crate) token: Option<String>,
    #[command(flatten)]
    pub(crate) answer: AnswerArgs,
}

/// How to answer.
#[derive(Clone, Copy, Debug, Args)]
#[command(next_help_heading = "Output")]
pub(crate) struct AnswerArgs {
    /// Answer in JSON, errors included
    #[arg(long)]
    pub(crate) json: bool,
}

/// A value that may not be empty.
pub(crate) fn non_empty() -> NonEmptyStringValueParser {
    NonEmptyStringValueParser::new()
}

impl Command {
    /// Whether errors are to be JSON.
    pub(crate) fn wants_json(&self) -> bool {
        use Command as C;
        match self {
            C::Stream(command) => command.answer().json,
            C::Publish(args) => args.node.answer.json,
            C::Subscribe(args) => args.node.answer.json,
            C::Find(args) => args.node.answer.json,
            C::Requests(command) => command.answer().json,
            C::Profile(args) => args.answer.json,
            C::Replay(args) => args.node.answer.json,
            C::Keys(command) => command.answer().json,
            C::Log(command) => command.answer().json,
            C::Status(args) => args.node.answer.json,
            C::Demo(args) => args.answer.json,
            C::Serve(_) | C::Bench(_) | C::Completions(_) | C::Man(_) | C::ConfigurationReference => false,
        }
    }
}
