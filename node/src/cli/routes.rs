//! `skein routes`.

use crate::{
    agent::admin::api::Route,
    cli::{context::Context, error::Result, look, output::Table},
};

/// Lists the rules of every host that a document routes, in the order in which they are tried.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: skein routes")]
pub struct Args {}

/// Runs the command.
pub(super) async fn run(Args {}: Args, ctx: &Context) -> Result<()> {
    look::list(ctx, "/v1/routes", table).await
}

fn table(routes: &[Route]) -> Table {
    let mut table = Table::new(&["HOST", "DOCUMENT", "RULE", "ACTION"]);
    for route in routes {
        table.row([&route.host, route.document.as_deref().unwrap_or("-"), &route.rule, &route.action]);
    }
    table
}
