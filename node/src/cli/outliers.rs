//! `skein outliers`.

use crate::{
    agent::admin::api::Outlier,
    cli::{
        context::Context,
        error::Result,
        look::{self, cell, state},
        output::Table,
    },
};

/// Lists the endpoints that services of one node do without for a while because they fail.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: skein outliers --watch")]
pub struct Args {}

/// Runs the command.
pub(super) async fn run(Args {}: Args, ctx: &Context) -> Result<()> {
    look::list_here(ctx, "/v1/outliers", table).await
}

fn table(outliers: &[Outlier]) -> Table {
    let mut table = Table::new(&["SERVICE", "ENDPOINT", "STATE", "REASON", "TIMES", "UNTIL", "CALLER", "CLUSTER"]);
    for outlier in outliers {
        table.toned([
            cell(&outlier.service),
            cell(&outlier.endpoint),
            state(&outlier.state),
            cell(&outlier.reason),
            cell(outlier.times.to_string()),
            cell(look::when(&outlier.until)),
            cell(&outlier.caller),
            cell(&outlier.cluster),
        ]);
    }
    table
}
