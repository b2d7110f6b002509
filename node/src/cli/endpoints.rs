//! `skein endpoints`.

use crate::{
    agent::admin::api::Endpoint,
    cli::{
        context::Context,
        error::Result,
        look::{self, cell, state},
        output::Table,
    },
};
use certs::id::ServiceName;

/// Lists the endpoints of services as one node sees them, one row for each port.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: skein endpoints default/reviews --watch")]
pub struct Args {
    /// Only those of this service
    #[arg(value_name = "NS/NAME")]
    of: Option<ServiceName>,
}

/// Runs the command.
pub(super) async fn run(args: Args, ctx: &Context) -> Result<()> {
    let path = args.of.map_or_else(|| "/v1/endpoints".to_owned(), |of| format!("/v1/endpoints?service={of}"));
    look::list(ctx, &path, table).await
}

fn table(endpoints: &[Endpoint]) -> Table {
    let mut table = Table::new(&[
        "SERVICE", "NODE", "ADDRESS", "PORT", "LABELS", "ACCOUNT", "WEIGHT", "HEALTH", "OUTLIER", "REASON",
    ]);
    for endpoint in endpoints {
        let labels: Vec<_> = endpoint.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        table.toned([
            cell(format!("{}/{}", endpoint.namespace, endpoint.service)),
            cell(endpoint.node.as_ref().map(ToString::to_string).unwrap_or_default()),
            cell(&endpoint.address),
            cell(endpoint.port.to_string()),
            cell(labels.join(",")),
            cell(endpoint.account.as_ref().map(|account| account.account()).unwrap_or_default()),
            // What is as usual is not worth a column.
            cell(if endpoint.weight == 1 { String::new() } else { endpoint.weight.to_string() }),
            state(&endpoint.health),
            state(if endpoint.outlier == "none" { "" } else { &endpoint.outlier }),
            cell(&endpoint.reason),
        ]);
    }
    table
}
