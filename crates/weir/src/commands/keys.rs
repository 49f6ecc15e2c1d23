//! `weir keys`: the credentials of a node.
//!
//! With `--data` the commands work on the data directory itself while no node runs: the first token of a node is made
//! before anyone could reach it. Otherwise they ask a running node, as its owner.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};
use weir_event::flow::Time;
use weir_node::control::{Caller, Command, Outcome, Pattern, Role, TokenId};

use super::{block_on, client};
use crate::cli::{AnswerArgs, NodeArgs, non_empty};
use crate::failure::Failure;
use crate::output;
use crate::serve;
use crate::units;

#[derive(Debug, Subcommand)]
pub(crate) enum KeysCommand {
    /// API tokens
    #[command(subcommand)]
    Token(TokenCommand),
}

#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Make a token; it is shown this once
    #[command(after_help = "Examples:\n  \
        weir keys token create --role owner --data ./weir-data\n  \
        weir keys token create --role consumer --for acme.example --streams 'weather.>' --expires 90d")]
    Create {
        /// What its holder may do: everything; read the owner's streams; append; or subscribe for another
        /// organization
        #[arg(long, value_parser = ["owner", "reader", "publisher", "consumer"])]
        role: String,
        /// For which streams: a name, in which * stands for one token and a final > for the rest [default: all]
        #[arg(long, value_name = "PATTERN", value_parser = |text: &str| text.parse::<Pattern>())]
        streams: Option<Pattern>,
        /// Which organization holds it [default: the node's own]
        #[arg(long = "for", value_name = "ORG")]
        organization: Option<String>,
        /// Until when it is good: a moment, or a time from now as 90d [default: until revoked]
        #[arg(long, value_name = "WHEN", value_parser = units::moment)]
        expires: Option<Time>,
        /// Print the token and nothing else
        #[arg(long, short)]
        quiet: bool,
        #[command(flatten)]
        place: Place,
    },
    /// List the tokens, without their secrets
    List {
        #[command(flatten)]
        place: Place,
    },
    /// End a token at once
    Revoke {
        /// Its id
        #[arg(value_parser = non_empty())]
        id: String,
        #[command(flatten)]
        place: Place,
    },
}

/// Where the tokens are: a data directory, or a running node.
#[derive(Debug, Args)]
pub(crate) struct Place {
    /// Work on this data directory instead of a running node
    #[arg(long, value_name = "DIR", conflicts_with = "node")]
    data: Option<PathBuf>,
    #[command(flatten)]
    node: NodeArgs,
}

impl KeysCommand {
    fn place(&self) -> &Place {
        let Self::Token(command) = self;
        match command {
            TokenCommand::Create { place, .. }
            | TokenCommand::List { place }
            | TokenCommand::Revoke { place, .. } => place,
        }
    }

    pub(crate) fn answer(&self) -> AnswerArgs {
        self.place().node.answer
    }

    pub(crate) fn run(&self) -> Result<(), Failure> {
        let Self::Token(command) = self;
        let as_json = self.answer().json;
        match &self.place().data {
            Some(data) => offline(data, command, as_json),
            None => block_on(online(&self.place().node, command, as_json)),
        }
    }
}

/// On a running node.
async fn online(args: &NodeArgs, command: &TokenCommand, as_json: bool) -> Result<(), Failure> {
    let client = client(args)?;
    match command {
        TokenCommand::Create { role, streams, organization, expires, quiet, .. } => {
            let mut body = Map::new();
            body.insert("role".into(), role.as_str().into());
            let members = [
                ("streams", streams.as_ref().map(|pattern| pattern.as_str().to_owned())),
                ("for", organization.clone()),
                ("expires", expires.map(|time| time.to_string())),
            ];
            for (name, value) in members {
                body.extend(value.map(|value| (name.to_owned(), Value::from(value))));
            }
            created(&client.post("/tokens", &Value::Object(body)).await?, *quiet, as_json)
        }
        TokenCommand::List { .. } => {
            let mut tokens = Vec::new();
            let mut after: Option<String> = None;
            loop {
                let query: Vec<_> = after.iter().map(|after| ("after", after.as_str())).collect();
                let page = client.get("/tokens", &query).await?;
                tokens.extend(page.get("tokens").and_then(Value::as_array).into_iter().flatten().cloned());
                after = page.get("next").and_then(Value::as_str).map(str::to_owned);
                if after.is_none() {
                    return listed(&tokens, as_json);
                }
            }
        }
        TokenCommand::Revoke { id, .. } => {
            let id: TokenId =
                id.parse().map_err(|_| Failure::usage(format!("{id:?} is not the id of a token")))?;
            client.delete(&format!("/tokens/{id}")).await?;
            revoked(id, as_json)
        }
    }
}

/// On a data directory that no node runs on.
fn offline(data: &Path, command: &TokenCommand, as_json: bool) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(|error| Failure::failed(format!("start the runtime: {error}")))?;
    runtime.block_on(async {
        let settings = weir_node::Settings { data: data.to_owned(), ..Default::default() };
        let node = serve::open(settings).await?;
        let result = decide(node.control(), command, as_json).await;
        node.close().await;
        result
    })
}

async fn decide(
    control: &weir_node::control::Control,
    command: &TokenCommand,
    as_json: bool,
) -> Result<(), Failure> {
    let failed = |error: weir_node::Error| Failure::failed(error.to_string());
    match command {
        TokenCommand::Create { role, streams, organization, expires, quiet, .. } => {
            let command = Command::CreateToken {
                role: Role::named(role).ok_or_else(|| Failure::usage(format!("{role:?} is no role")))?,
                streams: streams.clone().unwrap_or_else(Pattern::all),
                organization: organization.as_deref().map(Into::into),
                expires: *expires,
            };
            match control.decide(&Caller::Node, command).await.map_err(failed)? {
                Outcome::Token { token, bearer } => {
                    let mut shown = shown(&token);
                    shown["token"] = bearer.reveal().into();
                    created(&shown, *quiet, as_json)
                }
                _ => Err(Failure::failed("the token was not made")),
            }
        }
        TokenCommand::List { .. } => {
            let mut tokens = Vec::new();
            let mut after: Option<String> = None;
            loop {
                let page = control.tokens(&Caller::Node, after.as_deref(), 1000).map_err(failed)?;
                tokens.extend(page.items.iter().map(|token| shown(token)));
                after = page.next;
                if after.is_none() {
                    return listed(&tokens, as_json);
                }
            }
        }
        TokenCommand::Revoke { id, .. } => {
            let id: TokenId =
                id.parse().map_err(|_| Failure::usage(format!("{id:?} is not the id of a token")))?;
            control.decide(&Caller::Node, Command::RevokeToken { id }).await.map_err(failed)?;
            revoked(id, as_json)
        }
    }
}

/// A token as a node's list shows it.
fn shown(token: &weir_node::control::Token) -> Value {
    let mut shown = json!({
        "id": token.id.to_string(),
        "role": token.role.name(),
        "streams": token.streams.as_str(),
    });
    if let Some(organization) = &token.organization {
        shown["for"] = organization.as_ref().into();
    }
    shown["created"] = token.created.to_string().into();
    if let Some(expires) = token.expires {
        shown["expires"] = expires.to_string().into();
    }
    shown
}

/// The secret goes to stdout alone, so that `TOKEN=$(weir keys token create …)` works.
fn created(token: &Value, quiet: bool, as_json: bool) -> Result<(), Failure> {
    let text = |name: &str| token.get(name).and_then(Value::as_str).unwrap_or_default();
    if !as_json && !quiet {
        let holder = match text("for") {
            "" => String::new(),
            organization => format!(" for {organization}"),
        };
        eprintln!("made {} token {}{holder}; it is shown this once:", text("role"), text("id"));
    }
    output::print(as_json, token, || text("token").to_owned())
}

fn listed(tokens: &[Value], as_json: bool) -> Result<(), Failure> {
    if as_json {
        return output::print(true, &tokens, String::new);
    }
    if tokens.is_empty() {
        eprintln!("no tokens: on a loopback address this node is open to everyone on its machine");
        return Ok(());
    }
    let rows: Vec<Vec<String>> = tokens
        .iter()
        .map(|token| {
            let text = |name: &str| token.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
            ["id", "role", "streams", "for", "created", "expires"].into_iter().map(text).collect()
        })
        .collect();
    output::print(false, &(), || {
        output::table(&["ID", "ROLE", "STREAMS", "FOR", "CREATED", "EXPIRES"], &rows)
    })
}

fn revoked(id: TokenId, as_json: bool) -> Result<(), Failure> {
    output::print(as_json, &json!({"revoked": id.to_string()}), || format!("revoked {id}"))
}
