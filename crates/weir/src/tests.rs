//! The command line as others rely on it: every help text, as a snapshot to be reviewed.

use std::path::{Path, PathBuf};

use clap::{Command, CommandFactory};

use crate::cli::Cli;

#[test]
fn the_command_line_is_sound() {
    Cli::command().debug_assert();
}

/// Compares every help text with the one on disk; `UPDATE_SNAPSHOTS=1` writes them.
#[test]
fn help_is_as_it_was_reviewed() {
    let mut found = String::new();
    let mut command = Cli::command().term_width(100);
    command.build();
    help(&mut command, "weir", &mut found);
    let path: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/snapshots/help.txt");
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &found).unwrap();
    }
    let reviewed = std::fs::read_to_string(&path).unwrap_or_default();
    if let Some((found, reviewed)) =
        found.lines().zip(reviewed.lines()).find(|(found, reviewed)| found != reviewed)
    {
        panic!("help has changed; run with UPDATE_SNAPSHOTS=1 and review\n  was {reviewed}\n  is  {found}");
    }
    assert_eq!(found.lines().count(), reviewed.lines().count(), "run with UPDATE_SNAPSHOTS=1 and review");
}

fn help(command: &mut Command, path: &str, text: &mut String) {
    text.push_str(&format!("$ {path} --help\n{}\n", command.render_long_help()));
    let names: Vec<String> = command.get_subcommands().map(|command| command.get_name().to_owned()).collect();
    for name in names {
        // The bench is measured with, not scripted against.
        if path == "weir" && name == "bench" {
            continue;
        }
        if let Some(command) = command.find_subcommand_mut(&name) {
            help(command, &format!("{path} {name}"), text);
        }
    }
}
