//! `skein service add|remove|list`.

use std::{io::Read as _, path::PathBuf};

use serde_json::Value;

use crate::{
    agent::admin::api::LocalService,
    cli::{
        client,
        context::Context,
        error::{Result, io},
        look::{self, cell, state},
        output::Table,
    },
};

/// The largest file of a service, bytes.
const FILE_LIMIT: u64 = 64 << 10;

/// The services of this node.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Add a service to this node, or replace one that was added; it lasts, in services.d
    #[command(after_help = "Example: skein service add cart.toml    (one [[service]] table, as in skein.toml)")]
    Add {
        /// A file with one [[service]] table, or - for standard input
        #[arg(value_name = "FILE|-")]
        file: PathBuf,
    },
    /// Remove a service that was added
    #[command(after_help = "Example: skein service remove shop/cart")]
    Remove {
        /// Which one
        #[arg(value_name = "NS/NAME[/INSTANCE]")]
        service: String,
    },
    /// List the services that run beside this node, and how their checks stand
    #[command(after_help = "Example: skein service list")]
    List,
}

/// Runs the command.
pub(super) async fn run(command: Command, ctx: &Context) -> Result<()> {
    match command {
        Command::Add { file } => {
            let text = read(&file)?;
            let added: Value = client::connect_here(ctx).await?.post("/v1/local/services", text).await?;
            ctx.output.show(&added, || format!("{} was added", added["service"].as_str().unwrap_or_default()))
        }
        Command::Remove { service } => {
            let body = serde_json::json!({"service": service});
            let removed: Value = client::connect_here(ctx).await?.post_json("/v1/local/services/remove", &body).await?;
            ctx.output.show(&removed, || format!("{service} was removed"))
        }
        Command::List => look::list_here(ctx, "/v1/local/services", table).await,
    }
}

fn read(file: &std::path::Path) -> Result<String> {
    let mut text = String::new();
    let read = if file.as_os_str() == "-" {
        std::io::stdin().lock().take(FILE_LIMIT).read_to_string(&mut text)
    } else {
        std::fs::File::open(file).and_then(|opened| opened.take(FILE_LIMIT).read_to_string(&mut text))
    };
    read.map_err(|error| io("read", file, &error))?;
    Ok(text)
}

fn table(services: &[LocalService]) -> Table {
    let mut table = Table::new(&["SERVICE", "INSTANCE", "ACCOUNT", "PORTS", "LABELS", "HEALTH", "REASON"]);
    for service in services {
        let labels: Vec<_> = service.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        table.toned([
            cell(format!("{}/{}", service.namespace, service.name)),
            cell(service.instance.as_deref().unwrap_or_default()),
            cell(service.account.account()),
            cell(look::ports(&service.ports)),
            cell(labels.join(",")),
            state(&service.health),
            cell(&service.reason),
        ]);
    }
    table
}
