//! `skein grant`.

use certs::{grant::GrantedService, id::NodeId};

use crate::cli::{
    client,
    context::Context,
    error::{Error, Result},
    grants,
    output::remark,
    signing::{Operator, Sending},
};

/// Lets a node run further services, for which it renews its certificate at once; or takes services from it, and closes what lives
/// by them.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  skein grant web-1 shop/checkout=checkout
  skein grant web-1 --remove shop/cart")]
pub struct Args {
    /// The node
    #[arg(value_name = "NODE")]
    to: NodeId,
    /// Services, each with the account that serves it [default account: default]
    #[arg(value_name = "NS/NAME[=SA]", required_unless_present = "remove")]
    services: Vec<GrantedService>,
    /// A service that it may run no longer; may be repeated
    #[arg(long, value_name = "NS/NAME[=SA]")]
    remove: Vec<GrantedService>,
    #[command(flatten)]
    sending: Sending,
}

/// Runs the command.
pub(super) async fn run(args: Args, ctx: &Context) -> Result<()> {
    let operator = Operator::load(ctx)?;
    let mut client = client::connect(ctx).await?;
    let held = grants::fetch_active(&mut client, &operator.known, &args.to).await?;
    let mut grant = held.grant.clone();
    if let Some(missing) = args.remove.iter().find(|service| !held.grant.services.contains(service)) {
        let has: Vec<_> = held.grant.services.iter().map(ToString::to_string).collect();
        let has = if has.is_empty() { "nothing".to_owned() } else { has.join(", ") };
        return Err(Error::new("not_found", format!("{} has no grant of {missing}", args.to))
            .hint(format!("it may run {has}; the account belongs to it")));
    }
    grant.services.retain(|service| !args.remove.contains(service));
    let fresh: Vec<_> = args.services.into_iter().filter(|service| !held.grant.services.contains(service)).collect();
    if fresh.is_empty() && args.remove.is_empty() {
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
