//! `skein service list`.

use crate::{
    agent::admin::api::LocalService,
    cli::{
        context::Context,
        error::Result,
        look::{self, cell, state},
        output::Table,
    },
};

/// The services of this node.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// List the services that run beside this node, and how their checks stand
    #[command(after_help = "Example: skein service list")]
    List,
}

/// Runs the command.
pub async fn run(Command::List: Command, ctx: &Context) -> Result<()> {
    look::list(ctx, "/v1/local/services", table).await
}

fn table(services: &[LocalService]) -> Table {
    let mut table = Table::new(&["SERVICE", "INSTANCE", "ACCOUNT", "PORTS", "LABELS", "HEALTH", "REASON"]);
    for service in services {
        let labels: Vec<_> = service.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let ports: Vec<_> = service.ports.iter().map(|port| format!("{}/{}", port.port, port.protocol)).collect();
        table.toned([
            cell(format!("{}/{}", service.namespace, service.name)),
            cell(service.instance.as_deref().unwrap_or_default()),
            cell(service.account.account()),
            cell(ports.join(",")),
            cell(labels.join(",")),
            state(&service.health),
            cell(&service.reason),
        ]);
    }
    table
}
