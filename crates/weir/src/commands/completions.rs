//! Completions and manual pages, made from the command line's one declaration.

use std::io::Write;
use std::path::PathBuf;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::cli::Cli;
use crate::failure::Failure;

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  weir completions bash > ~/.local/share/bash-completion/completions/weir")]
pub(crate) struct CompletionsArgs {
    /// For which shell
    shell: Shell,
}

#[derive(Debug, Args)]
pub(crate) struct ManArgs {
    /// The folder to write to
    #[arg(default_value = "man")]
    folder: PathBuf,
}

impl CompletionsArgs {
    pub(crate) fn run(&self) -> Result<(), Failure> {
        let mut text = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "weir", &mut text);
        let mut out = crate::output::Out::new();
        out.write(&text)?;
        out.flush()
    }
}

impl ManArgs {
    pub(crate) fn run(&self) -> Result<(), Failure> {
        let failed =
            |error: std::io::Error| Failure::failed(format!("write to {}: {error}", self.folder.display()));
        std::fs::create_dir_all(&self.folder).map_err(failed)?;
        clap_mangen::generate_to(Cli::command(), &self.folder).map_err(failed)?;
        let _ = writeln!(std::io::stderr(), "wrote the manual pages to {}", self.folder.display());
        Ok(())
    }
}
