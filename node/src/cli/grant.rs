//! `skein grant`.

use certs::{grant::GrantedService, id::NodeId};

use crate::cli::{
    client,
    context::Context,
    error::Result,
    grants,
    output::remark,
    signing::{Operator, Sending},
};

/// Lets a node run further services; it renews its certificate at once.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: skein grant web-1 shop/checkout=checkout")]
pub struct Args {
    /// The node
    #[arg(value_name = "NODE")]
    to: NodeId,
    /// Services, each with the account that serves it [default account: default]
    #[arg(value_name = "NS/NAME[=SA]", required = true)]
    services: Vec<GrantedService>,
    #[command(flatten)]
    sending: Sending,
}

/// Runs the command.
pub(super) async fn run(args: Args, ctx: &Context) -> Result<()> {
    let operator = Operator::load(ctx)?;
    let mut client = client::connect(ctx).await?;
    let held = grants::fetch_active(&mut client, &operator, &args.to).await?;
    let mut grant = held.grant.clone();
    let fresh: Vec<_> = args.services.into_iter().filter(|service| !held.grant.services.contains(service)).collect();
    if fresh.is_empty() {
        remark(&format!("{} has all of these already; nothing was changed", args.to));
    }
    grant.services.extend(fresh);
    let mut sending = args.sending;
    if sending.message.is_empty() {
        sending.message = format!("grant {}", args.to);
    }
    let outcome = grants::put(&operator, &mut client, ctx, (&grant, Some(&held)), &sending).await?;
    outcome.show(ctx)
}
