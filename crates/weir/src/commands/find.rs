//! `weir find`: search the streams of a node.

use clap::Args;

use super::{block_on, client, stream};
use crate::cli::NodeArgs;
use crate::failure::Failure;

#[derive(Debug, Args)]
pub(crate) struct FindArgs {
    /// Words that must all occur in the stream's name, title, description, types or tags
    query: Vec<String>,
    #[command(flatten)]
    pub(crate) node: NodeArgs,
}

impl FindArgs {
    pub(crate) fn run(&self) -> Result<(), Failure> {
        block_on(async {
            stream::list(&client(&self.node)?, &self.query.join(" "), self.node.answer.json).await
        })
    }
}
