//! `skein policy revert`.

use super::get::segment;
use crate::{
    agent::admin::api::Reverted,
    cli::{
        client,
        context::Context,
        error::Result,
        signing::{Operator, Sending},
    },
};

/// Takes a changeset back: every document of it becomes what it was before, by a new changeset.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: skein policy revert 4f1c09 --wait all")]
pub struct Args {
    /// Its id, or as much of it as is unique
    #[arg(value_name = "CHANGESET")]
    changeset: String,
    #[command(flatten)]
    sending: Sending,
}

/// Runs the command.
pub(super) async fn run(args: Args, ctx: &Context) -> Result<()> {
    let operator = Operator::load(ctx)?;
    let mut client = client::connect(ctx).await?;
    let path = format!("/v1/policy/changesets/{}/revert", segment(&args.changeset));
    let reverted: Reverted = client.get(&path).await?;
    let mut plan = operator.plan(&mut client, &reverted.documents).await?;
    // What the node computed the old values against is what shall be replaced.
    plan.live = reverted.replaces;
    let mut sending = args.sending;
    if sending.message.is_empty() {
        sending.message = format!("revert {}", reverted.changeset);
    }
    operator.send(&mut client, ctx, reverted.documents, &plan, &sending).await?.show(ctx)
}
