//! `skein evict`.

use certs::id::NodeId;
use policy::kinds::Revocation;

use crate::{
    agent::admin::api::Mesh,
    cli::{
        client,
        context::Context,
        error::Result,
        grants,
        signing::{Operator, Sending, intent},
    },
};

/// Shuts a node out: its identities no longer count, and its connections are closed within 5 s of the eviction's
/// arrival. A machine under this name can come back by `invite --replace` only.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: skein evict web-1 --message 'stolen'")]
pub struct Args {
    /// The node
    #[arg(value_name = "NODE")]
    out: NodeId,
    /// Also an enroller: whomever it certified is out with it
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    sending: Sending,
}

/// Runs the command.
pub(super) async fn run(args: Args, ctx: &Context) -> Result<()> {
    let operator = Operator::load(ctx)?;
    let mut client = client::connect(ctx).await?;
    let held = grants::fetch_active(&mut client, &operator.known, &args.out).await?;
    if !args.force {
        grants::refuse_enroller(&mut client, &held.grant).await?;
    }
    // A node that has just been shut out passes nothing on.
    let mesh: Mesh = client.get("/v1/mesh").await?;
    if mesh.node == args.out
        && let Some(other) = client::connect_elsewhere(&mut client, ctx, &args.out).await?
    {
        client = other;
    }
    let nodes = [(args.out.clone(), held.grant.epoch)].into_iter().collect();
    let revocation = Revocation { nodes, ..Revocation::default() };
    let intents = vec![intent(revocation.body(args.out.as_str()))];
    let plan = operator.plan(&mut client, &intents).await?;
    let mut sending = args.sending;
    if sending.message.is_empty() {
        sending.message = format!("evict {}", args.out);
    }
    let outcome = operator.send(&mut client, ctx, intents, &plan, &sending).await?;
    // The evicted node is the one that need not agree.
    outcome.without(&args.out).show(ctx)
}
