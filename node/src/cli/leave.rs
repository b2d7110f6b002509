//! `skein leave`.

use serde_json::{Value, json};

use crate::{
    agent::admin::api::Status,
    cli::{
        client,
        context::Context,
        error::Result,
        grants,
        signing::{Operator, Sending},
    },
};

/// Retires this node for good: nobody expects it any more, its process ends, its state is wiped.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: skein leave")]
pub struct Args {}

/// Runs the command.
pub async fn run(Args {}: Args, ctx: &Context) -> Result<()> {
    let operator = Operator::load(ctx)?;
    let mut client = client::connect(ctx).await?;
    let status: Status = client.get("/v1/status").await?;
    let held = grants::fetch_active(&mut client, &status.node).await?;
    let mut grant = held.grant.clone();
    grant.retired = true;
    let sending = Sending { message: format!("{} leaves", status.node), ..Sending::default() };
    let outcome = grants::put(&operator, &mut client, ctx, (&grant, Some(&held)), &sending).await?;
    outcome.converged(sending.wait, ctx.globals.timeout)?;
    let _: Value = client.post("/v1/leave", "").await?;
    ctx.output.show(&json!({"node": status.node, "left": true}), || format!("{} left the mesh", status.node))
}
