//! `weir requests`: who asks for one's streams, and the decisions.

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};
use weir_client::{Client, Relation, State};
use weir_event::flow::StreamName;

use super::{block_on, client, every};
use crate::cli::{AnswerArgs, NodeArgs, non_empty};
use crate::failure::Failure;
use crate::output::{self, Out};
use crate::units;

#[derive(Debug, Subcommand)]
pub(crate) enum RequestsCommand {
    /// List what waits for a decision
    List {
        /// Only for this stream
        #[arg(long, value_name = "STREAM")]
        stream: Option<StreamName>,
        /// All subscriptions, decided ones too
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        node: NodeArgs,
    },
    /// Show one request or subscription
    Show {
        /// Its id
        #[arg(value_parser = non_empty())]
        id: String,
        /// Also show the first events as this consumer would get them
        #[arg(long)]
        preview: bool,
        /// How many events to preview
        #[arg(long, value_name = "N", default_value_t = 20, requires = "preview")]
        limit: u32,
        #[command(flatten)]
        node: NodeArgs,
    },
    /// Accept a request, on terms
    Accept {
        /// Its id
        #[arg(value_parser = non_empty())]
        id: String,
        #[command(flatten)]
        terms: TermsArgs,
        #[command(flatten)]
        decision: DecisionArgs,
    },
    /// Reject a request
    Reject(SimpleArgs),
    /// Pause a subscription
    Suspend(SimpleArgs),
    /// Lift your own pause
    Resume(SimpleArgs),
    /// End a subscription: within a second nothing more is delivered
    Revoke(SimpleArgs),
}

/// What an acceptance imposes.
#[derive(Debug, Args)]
#[command(next_help_heading = "Terms")]
pub(crate) struct TermsArgs {
    /// Accept until then: a moment, or a time from now as 30d
    #[arg(long, value_name = "WHEN", value_parser = units::moment)]
    expires: Option<weir_event::flow::Time>,
    /// Deliver at most so much, as 100/s
    #[arg(long, value_name = "RATE")]
    rate: Option<String>,
    /// Deliver only events for which this CESQL expression holds
    #[arg(long, value_name = "CESQL")]
    filter: Option<String>,
    /// Deliver nothing before this position or time
    #[arg(long, value_name = "P")]
    from: Option<String>,
    /// What of an event's data leaves, in JSON, as {"remove":["/passenger"]}
    #[arg(long, value_name = "JSON", value_parser = |text: &str| serde_json::from_str::<Value>(text))]
    form: Option<Value>,
}

/// What every decision carries.
#[derive(Debug, Args)]
pub(crate) struct DecisionArgs {
    /// Why: the consumer and the audit see it
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    #[command(flatten)]
    node: NodeArgs,
}

#[derive(Debug, Args)]
pub(crate) struct SimpleArgs {
    /// Its id
    #[arg(value_parser = non_empty())]
    id: String,
    #[command(flatten)]
    decision: DecisionArgs,
}

impl RequestsCommand {
    pub(crate) fn answer(&self) -> AnswerArgs {
        match self {
            Self::List { node, .. } | Self::Show { node, .. } => node.answer,
            Self::Accept { decision, .. } => decision.node.answer,
            Self::Reject(args) | Self::Suspend(args) | Self::Resume(args) | Self::Revoke(args) => {
                args.decision.node.answer
            }
        }
    }

    pub(crate) fn run(&self) -> Result<(), Failure> {
        let as_json = self.answer().json;
        block_on(async {
            match self {
                Self::List { stream, all, node } => {
                    list(&client(node)?, stream.as_ref(), *all, as_json).await
                }
                Self::Show { id, preview, limit, node } => {
                    show(&client(node)?, id, preview.then_some(*limit), as_json).await
                }
                Self::Accept { id, terms, decision } => decide("accept", id, terms.members(), decision).await,
                Self::Reject(args) => decide("reject", &args.id, Map::new(), &args.decision).await,
                Self::Suspend(args) => decide("suspend", &args.id, Map::new(), &args.decision).await,
                Self::Resume(args) => decide("resume", &args.id, Map::new(), &args.decision).await,
                Self::Revoke(args) => decide("revoke", &args.id, Map::new(), &args.decision).await,
            }
        })
    }
}

impl TermsArgs {
    fn members(&self) -> Map<String, Value> {
        let members = [
            ("expires", self.expires.map(|time| time.to_string().into())),
            ("rate", self.rate.as_deref().map(Value::from)),
            ("filters", self.filter.as_deref().map(|expression| json!([{ "sql": expression }]))),
            ("from", self.from.as_deref().map(Value::from)),
            ("form", self.form.clone()),
        ];
        members.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
    }
}

async fn list(client: &Client, stream: Option<&StreamName>, all: bool, as_json: bool) -> Result<(), Failure> {
    let state = (!all).then_some("requested");
    let relations = every(async |after| client.requests(stream, state, None, after.as_deref()).await).await?;
    if as_json {
        return output::print(true, &relations, String::new);
    }
    if relations.is_empty() {
        eprintln!("{}", if all { "no subscriptions" } else { "nothing waits for a decision" });
        return Ok(());
    }
    let rows: Vec<_> = relations
        .iter()
        .map(|relation| {
            let (stream, state) = (relation.stream().to_owned(), relation.state.to_string());
            vec![relation.id.clone(), stream, state, who(relation), relation.text("note")]
        })
        .collect();
    output::print(false, &(), || output::table(&["ID", "STREAM", "STATE", "WHO", "NOTE"], &rows))
}

async fn show(client: &Client, id: &str, preview: Option<u32>, as_json: bool) -> Result<(), Failure> {
    let relation = client.relation(id).await?;
    let events = match preview {
        Some(limit) => client.preview(id, limit).await?,
        None => Vec::new(),
    };
    if as_json {
        let mut value =
            serde_json::to_value(&relation).map_err(|error| Failure::failed(error.to_string()))?;
        if preview.is_some() {
            value["preview"] = events.into();
        }
        return output::print(true, &value, String::new);
    }
    let mut out = Out::new();
    out.write(described(&relation).as_bytes())?;
    if preview.is_some() {
        out.line(format!("\nthe first {} events as this consumer would get them:", events.len()))?;
        for event in &events {
            out.json(event)?;
        }
    }
    out.flush()
}

async fn decide(
    decision: &str,
    id: &str,
    mut terms: Map<String, Value>,
    args: &DecisionArgs,
) -> Result<(), Failure> {
    terms.extend(args.reason.as_deref().map(|reason| ("reason".to_owned(), reason.into())));
    let relation = client(&args.node)?.decide(id, decision, &terms).await?;
    output::print(args.node.answer.json, &relation, || format!("{} is {}", relation.id, standing(&relation)))
}

/// Who asks, as the producer should read it: the name with how well it is proven, else the contact given.
fn who(relation: &Relation) -> String {
    let proof = relation.text("proof");
    match &relation.consumer {
        Some(Value::String(name)) if !name.is_empty() => match proof.as_str() {
            "" | "none" => format!("{name} (unproven)"),
            proof => format!("{name} ({proof})"),
        },
        _ => match relation.text("contact") {
            contact if contact.is_empty() => "no name".into(),
            contact => format!("{contact} (unproven)"),
        },
    }
}

fn standing(relation: &Relation) -> String {
    let mut text = relation.state.to_string();
    if let (State::Suspended, Some(by)) = (&relation.state, &relation.by) {
        text.push_str(&format!(" by {}", by.as_str().map_or_else(|| by.to_string(), str::to_owned)));
    }
    if let Some(reason) = &relation.reason {
        text.push_str(&format!(": {reason}"));
    }
    text
}

fn described(relation: &Relation) -> String {
    let mut text = String::new();
    let mut add = |name: &str, value: String| {
        if !value.is_empty() {
            text.push_str(&format!("{name:<12} {value}\n"));
        }
    };
    add("id", relation.id.clone());
    add("stream", relation.stream().to_owned());
    add("state", standing(relation));
    add("who", who(relation));
    for name in
        ["contact", "note", "from", "filters", "types", "source", "protocol", "cursor", "lag", "created"]
    {
        add(name, relation.text(name));
    }
    add(
        "imposed",
        relation
            .imposed
            .as_ref()
            .filter(|imposed| !imposed.is_null())
            .map(Value::to_string)
            .unwrap_or_default(),
    );
    if relation.state == State::Requested {
        add(
            "decide",
            format!("weir requests accept {0}   or   weir requests reject {0} --reason '…'", relation.id),
        );
    }
    text
}
