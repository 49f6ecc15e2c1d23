//! The commands that talk to a node: one module each, all through `weir-client`, as any other program would.

pub(crate) mod completions;
pub(crate) mod find;
pub(crate) mod keys;
pub(crate) mod log;
pub(crate) mod profile;
pub(crate) mod publish;
pub(crate) mod replay;
pub(crate) mod requests;
pub(crate) mod status;
pub(crate) mod stream;
pub(crate) mod subscribe;

use std::future::Future;
use std::io::{IsTerminal, Write};
use std::time::Duration;

use weir_client::{Address, Client, Error, Kind, Place};
use weir_event::flow::StreamName;

use crate::cli::NodeArgs;
use crate::failure::Failure;

/// Where a node is unless said otherwise: where `weir serve` listens without configuration.
pub(crate) const DEFAULT_NODE: &str = "http://127.0.0.1:8080";

/// How long commands that move events put up with an outage, unless told.
pub(crate) const PATIENCE: &str = "10m";

/// The client of the node that the arguments name.
pub(crate) fn client(args: &NodeArgs) -> Result<Client, Failure> {
    Ok(Client::new(args.node.as_deref().unwrap_or(DEFAULT_NODE), args.token.as_deref())?)
}

/// The client of the node that an address leads to, and the stream's name there.
///
/// A token goes to the node it was given for: that of `--node` or `WEIR_NODE`, or, where none is named, the one
/// in the address.
pub(crate) async fn locate(args: &NodeArgs, address: &Address) -> Result<(Client, StreamName), Failure> {
    let (there, stream) = client(args)?.resolve(address).await?;
    let names_its_node = args.node.is_none() && !matches!(address.place, Place::Here);
    if names_its_node && !there.has_token() && args.token.is_some() {
        return Ok((there.with_token(args.token.as_deref()), stream));
    }
    Ok((there, stream))
}

/// All items of a paged list.
pub(crate) async fn every<T>(
    page: impl AsyncFn(Option<String>) -> Result<weir_client::Page<T>, Error>,
) -> Result<Vec<T>, Failure> {
    let mut items = Vec::new();
    let mut after = None;
    loop {
        let more = page(after).await?;
        items.extend(more.items);
        after = more.after;
        if after.is_none() {
            return Ok(items);
        }
    }
}

/// Runs a command's future on one thread: a command waits for the network, it does not compute.
pub(crate) fn block_on<T>(future: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::failed(format!("start the runtime: {error}")))?;
    let result = runtime.block_on(future);
    // A thread blocked in reading stdin must not keep the program alive.
    runtime.shutdown_timeout(Duration::ZERO);
    result
}

/// Ready when the user or the system asks the program to end.
pub(crate) async fn interrupted() {
    let terminated = async {
        match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
            Ok(mut signal) => {
                signal.recv().await;
            }
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        () = terminated => {}
        result = tokio::signal::ctrl_c() => if result.is_err() { std::future::pending().await },
    }
}

/// Does something that the node may want confirmed: shows what it would do, asks (on a terminal) or is told
/// by `--yes`, and repeats it with the confirmation.
pub(crate) async fn confirmed<T, F>(yes: bool, act: impl Fn(Option<String>) -> F) -> Result<T, Failure>
where
    F: Future<Output = Result<T, Error>>,
{
    let error = match act(None).await {
        Ok(done) => return Ok(done),
        Err(error) => error,
    };
    let token = error
        .problem()
        .filter(|problem| problem.code == "confirmation-required" && error.kind() == Kind::Conflict)
        .and_then(|problem| problem.members.get("confirm")?.as_str())
        .map(str::to_owned);
    let Some(token) = token else { return Err(error.into()) };
    let agreed = yes || (std::io::stdin().is_terminal() && asked(&error));
    if !agreed {
        return Err(Failure::from(error).next("Nothing was done. Run the same command with --yes to do it."));
    }
    Ok(act(Some(token)).await?)
}

fn asked(error: &Error) -> bool {
    let mut stderr = std::io::stderr();
    let _ = write!(stderr, "{error}\nDo it? [y/N] ");
    let _ = stderr.flush();
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).is_ok() && matches!(answer.trim(), "y" | "Y" | "yes")
}
