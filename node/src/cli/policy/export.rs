//! `skein policy export`.

use serde_json::Value;

use crate::{
    agent::admin::api::Content,
    cli::{client, context::Context, error::Result, output::yaml},
};

/// Prints every document in effect as YAML that `push` accepts; what concerns nodes and operators stays out.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: skein policy export > backup.yaml")]
pub struct Args {}

/// Runs the command.
pub(super) async fn run(Args {}: Args, ctx: &Context) -> Result<()> {
    let contents: Vec<Content> = client::connect(ctx).await?.get("/v1/policy/export").await?;
    let documents: Vec<Value> = contents.into_iter().map(|content| content.document).collect();
    let text = documents.iter().map(|document| Ok(format!("---\n{}", yaml(document)?))).collect::<Result<String>>()?;
    ctx.output.show(&documents, || text)
}
