//! `skein limits`.

use crate::{
    agent::admin::api::Limit,
    cli::{context::Context, error::Result, look, output::Table},
};

/// Lists the rate limits of this node's services, and how they decided since it started.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  skein limits
  skein limits --watch")]
pub struct Args {}

/// Runs the command.
pub(super) async fn run(Args {}: Args, ctx: &Context) -> Result<()> {
    look::list(ctx, "/v1/limits", table).await
}

fn table(limits: &[Limit]) -> Table {
    let mut table =
        Table::new(&["SERVICE", "DOCUMENT", "RULE", "KEY", "SCOPE", "LIMIT", "SHARE", "ADMITTED", "REFUSED"]);
    for limit in limits {
        let pace = format!("{}/{} ms, {} at once", limit.limit, limit.interval_ms, limit.burst);
        let (share, admitted, refused) = (share(limit), limit.admitted.to_string(), limit.refused.to_string());
        let key = if limit.key.is_empty() { "-" } else { &limit.key };
        table.row([
            &limit.service,
            &limit.document,
            &limit.rule,
            key,
            &limit.scope,
            &pace,
            &share,
            &admitted,
            &refused,
        ]);
    }
    table
}

/// To two places: what a share is worth in requests.
fn share(limit: &Limit) -> String {
    let share = (limit.share * 100.0).round() / 100.0;
    if limit.nodes > 1 { format!("{share} on one of {} nodes", limit.nodes) } else { share.to_string() }
}
