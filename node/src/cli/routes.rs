//! `skein routes`.

use crate::{
    agent::admin::api::Route,
    cli::{context::Context, error::Result, look, output::Table},
};

/// Lists the rules of every host that a document routes, in the order in which they are tried, and at which gateways: `mesh` is
/// callers in the mesh. Of several documents for one host and gateway the oldest counts; `skein explain` says which a request meets.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: skein routes")]
pub struct Args {}

/// Runs the command.
pub(super) async fn run(Args {}: Args, ctx: &Context) -> Result<()> {
    look::list(ctx, "/v1/routes", table).await
}

fn table(routes: &[Route]) -> Table {
    let mut table = Table::new(&["HOST", "DOCUMENT", "AT", "RULE", "ACTION"]);
    for route in routes {
        let at = route.gateways.join(",");
        table.row([&route.host, route.document.as_deref().unwrap_or("-"), &at, &route.rule, &route.action]);
    }
    table
}
