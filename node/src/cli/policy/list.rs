//! `skein policy list`.

use crate::{
    agent::admin::api::Document,
    cli::{
        context::Context,
        error::Result,
        look::{self, ago},
        output::Table,
        signing,
    },
};

/// Lists the documents in effect, of all namespaces.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: skein policy list VirtualService")]
pub struct Args {
    /// Only this kind
    #[arg(value_name = "KIND")]
    kind: Option<String>,
}

/// Runs the command.
pub(super) async fn run(args: Args, ctx: &Context) -> Result<()> {
    let path = match &args.kind {
        Some(kind) => format!("/v1/policy?kind={}", signing::kind(kind)?),
        None => "/v1/policy".to_owned(),
    };
    look::list(ctx, &path, table).await
}

fn table(documents: &[Document]) -> Table {
    let mut table = Table::new(&["KIND", "NAMESPACE", "NAME", "VERSION", "CHANGESET", "AUTHORS", "AGE"]);
    for document in documents {
        table.row([
            document.kind.clone(),
            document.namespace.clone(),
            document.name.clone(),
            document.version.to_string(),
            look::short(&document.changeset).to_owned(),
            document.authors.join(","),
            ago(&document.time),
        ]);
    }
    table
}
