//! The `weir` program: a node, and everything one does with nodes from a shell.
//!
//! Where things are: `cli` declares every command; `commands` has one module for each that talks to a node, through
//! `weir-client` like any other program; `serve` runs a node, configured by `config`; `demo` shows the whole thing on
//! real data; `bench` measures it; `input` reads what is published; `output`, `failure` and `units` are how the
//! program speaks.
//!
//! Results go to stdout, as text or with `--json` as JSON, and nothing else does. What is going on and what went wrong go
//! to stderr. Exit codes: 0 ok, 1 failed, 2 usage, 3 refused by the producer, 4 not reachable.

mod bench;
mod cli;
mod commands;
mod config;
mod demo;
mod failure;
mod input;
mod logging;
mod output;
mod serve;
mod units;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Cli, Command};
use crate::failure::Failure;

/// Fewer instructions per event and less memory per connection than the system's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    if !matches!(cli.command, Command::Serve(_)) {
        // What a client says is said by its messages; this is for looking into it.
        let level = std::env::var("WEIR_LOG_LEVEL").unwrap_or_else(|_| "error".into());
        logging::start(config::LogFormat::Text, &level);
    }
    match run(&cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(cli.command.wants_json()),
    }
}

fn run(command: &Command) -> Result<(), Failure> {
    match command {
        Command::Serve(args) => args.run(),
        Command::Demo(args) => args.run(),
        Command::Stream(command) => command.run(),
        Command::Publish(args) => args.run(),
        Command::Subscribe(args) => args.run(),
        Command::Find(args) => args.run(),
        Command::Requests(command) => command.run(),
        Command::Profile(args) => args.run(),
        Command::Replay(args) => args.run(),
        Command::Keys(command) => command.run(),
        Command::Log(command) => command.run(),
        Command::Status(args) => args.run(),
        Command::Bench(args) => bench::run(args).map_err(Failure::from),
        Command::Completions(args) => args.run(),
        Command::Man(args) => args.run(),
        Command::ConfigurationReference => {
            let mut out = output::Out::new();
            out.write(config::reference().as_bytes())?;
            out.flush()
        }
    }
}

#[cfg(test)]
mod tests;
