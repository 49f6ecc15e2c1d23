//! `weir status`: how a node is doing, in a few lines.

use clap::Args;
use serde_json::{Map, Value};
use weir_client::Kind;

use super::{block_on, client};
use crate::cli::NodeArgs;
use crate::failure::Failure;
use crate::output;

#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    pub(crate) node: NodeArgs,
}

impl StatusArgs {
    pub(crate) fn run(&self) -> Result<(), Failure> {
        block_on(self.act())
    }

    async fn act(&self) -> Result<(), Failure> {
        let client = client(&self.node)?;
        let known = client.well_known().await?;
        let mut status = Map::new();
        status.insert("node".into(), client.node().into());
        status.insert("organization".into(), known.organization.as_str().into());
        status.insert("spec".into(), known.spec.as_str().into());
        // What the node tells its owner only is left out for everyone else.
        match client.get("/status", &[]).await {
            Ok(Value::Object(more)) => status.extend(more),
            Ok(_) => {}
            Err(error) if matches!(error.kind(), Kind::Denied | Kind::NotFound) => {}
            Err(error) => return Err(error.into()),
        }
        output::print(self.node.answer.json, &status, || {
            let mut text = String::new();
            for (name, value) in &status {
                lines(name, value, &mut text);
            }
            text
        })
    }
}

/// A line for each plain value; objects become several, named with dots.
fn lines(name: &str, value: &Value, text: &mut String) {
    match value {
        Value::Object(members) => {
            for (member, value) in members {
                lines(&format!("{name}.{member}"), value, text);
            }
        }
        Value::Null => {}
        Value::String(value) if value.is_empty() => {}
        Value::String(value) => text.push_str(&format!("{name:<24} {value}\n")),
        other => text.push_str(&format!("{name:<24} {other}\n")),
    }
}
