//! `skein policy revert`.

use crate::{
    agent::admin::api::{Intent, Reverted},
    cli::{
        client::{self, segment},
        context::Context,
        error::Result,
        output::remark,
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
    for (document, live) in reverted.documents.iter().zip(&reverted.replaces) {
        for later in live.iter().filter(|id| **id != reverted.changeset) {
            let Intent { kind, namespace, name, .. } = document;
            remark(&format!("note: {kind} {namespace}/{name} was changed since by {later}: that is taken back too"));
        }
    }
    let mut plan = operator.plan(&mut client, &reverted.documents).await?;
    // What the node computed the old values against is what shall be replaced.
    plan.live = reverted.replaces;
    let mut sending = args.sending;
    if sending.message.is_empty() {
        sending.message = format!("revert {}", reverted.changeset);
    }
    operator.send(&mut client, ctx, reverted.documents, &plan, &sending).await?.show(ctx)
}
