//! `skein services`.

use std::collections::BTreeMap;

use crate::{
    agent::admin::api::{Overflow, Service},
    cli::{
        context::Context,
        error::{Error, Result},
        look::{self, cell, state},
        output::Table,
        value,
    },
};

/// Lists the services that the mesh offers, and the hosts of ServiceEntries.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: skein services default/reviews")]
pub struct Args {
    /// Only this service; without NS of the namespace that -n says
    #[arg(value_name = "[NS/]NAME")]
    of: Option<String>,
}

/// Runs the command.
pub(super) async fn run(args: Args, ctx: &Context) -> Result<()> {
    let Some(of) = args.of else { return look::list(ctx, "/v1/services", table).await };
    let service = value::service(&of, ctx.globals.namespace())?;
    let path = format!("/v1/services?service={service}");
    look::list(ctx, &path, table).await.map_err(|error| match &*error.code {
        "not_found" => Error::new("not_found", format!("no node offers {service}"))
            .hint("`skein services` lists all; is a node with it running?"),
        _ => error,
    })
}

fn table(services: &[Service]) -> Table {
    let mut table = Table::new(&["SERVICE", "PORTS", "ENDPOINTS", "HEALTHY", "STATE", "LIMITS MET", "FROM"]);
    for service in services {
        let word = match (service.endpoints, service.healthy) {
            (0, _) if service.by_name => "by name",
            (0, _) => "",
            (_, 0) => "unhealthy",
            (all, healthy) if healthy < all => "degraded",
            _ => "healthy",
        };
        table.toned([
            cell(format!("{}/{}", service.namespace, service.name)),
            cell(look::ports(&service.ports)),
            cell(service.endpoints.to_string()),
            cell(service.healthy.to_string()),
            state(if service.panic { "panic" } else { word }),
            cell(limits_met(service)),
            cell(service.entry.as_deref().unwrap_or_default()),
        ]);
    }
    table
}

/// Which limits of connection pools requests met at the node that was asked, and how often.
fn limits_met(service: &Service) -> String {
    let mut limits: BTreeMap<&str, u64> = BTreeMap::new();
    for Overflow { limit, met, .. } in &service.overflows {
        let sum = limits.entry(limit).or_default();
        *sum = sum.saturating_add(*met);
    }
    limits.iter().map(|(limit, met)| format!("{limit} {met}")).collect::<Vec<_>>().join(", ")
}
