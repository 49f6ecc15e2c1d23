//! `--exec`: one run of a command for each event, in order.
//!
//! The event reaches the command on stdin and nowhere else: what others publish never becomes a part of a command
//! line or of the environment.

use std::process::Stdio;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use weir_event::flow::Position;

use crate::failure::Failure;

/// Runs the command with this line on its stdin, and waits for it.
pub(super) async fn run(command: &str, line: &[u8], position: Position) -> Result<(), Failure> {
    let failed = |what: String| {
        Failure::failed(format!("the command for the event at position {position} {what}"))
            .next("The event is not acknowledged: it comes again when the same command is run.")
    };
    let mut child = Command::new("sh")
        .args(["-c", command])
        .stdin(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| failed(format!("did not start: {error}")))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A command may well not read its stdin: what counts is how it ends.
        let _ = stdin.write_all(line).await;
    }
    let status = child.wait().await.map_err(|error| failed(format!("was lost: {error}")))?;
    if status.success() { Ok(()) } else { Err(failed(format!("ended with {status}"))) }
}
