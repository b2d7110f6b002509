//! `skein endpoints`.

use crate::{
    agent::admin::api::{Endpoint, Service},
    cli::{
        client,
        context::Context,
        error::Result,
        look::{self, cell, state},
        output::{Format, Table, remark},
        value,
    },
};
use certs::id::ServiceName;

/// Lists the endpoints of services as one node sees them, one row for each port.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: skein endpoints default/reviews --watch")]
pub struct Args {
    /// Only those of this service; without NS of the namespace that -n says
    #[arg(value_name = "[NS/]NAME")]
    of: Option<String>,
}

/// Runs the command.
pub(super) async fn run(args: Args, ctx: &Context) -> Result<()> {
    let Some(of) = args.of else { return look::list(ctx, "/v1/endpoints", table).await };
    let of = value::service(&of, ctx.globals.namespace())?;
    if !ctx.globals.watch && ctx.output.format == Format::Table {
        warn_of_unknown(&of, ctx).await?;
    }
    look::list(ctx, &format!("/v1/endpoints?service={of}"), table).await
}

/// A name that nobody has is told from a service that has no endpoint just now.
async fn warn_of_unknown(of: &ServiceName, ctx: &Context) -> Result<()> {
    let found: Result<Vec<Service>> = client::connect(ctx).await?.get(&format!("/v1/services?service={of}")).await;
    match found {
        Err(error) if error.code == "not_found" => {
            remark(&format!("note: no node offers {of}; `skein services` lists all"));
            Ok(())
        }
        found => found.map(|_| ()),
    }
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
