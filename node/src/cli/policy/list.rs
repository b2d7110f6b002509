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

/// Lists the documents in effect, of all namespaces unless -n names one.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  skein policy list VirtualService
  skein policy list -n shop")]
pub struct Args {
    /// Only this kind
    #[arg(value_name = "KIND")]
    kind: Option<String>,
}

/// Runs the command.
pub(super) async fn run(args: Args, ctx: &Context) -> Result<()> {
    let kind = args.kind.as_deref().map(signing::kind).transpose()?.map(|kind| format!("kind={kind}"));
    let namespace = ctx.globals.namespace.as_ref().map(|namespace| format!("namespace={namespace}"));
    let of: Vec<String> = kind.into_iter().chain(namespace).collect();
    let question = if of.is_empty() { "" } else { "?" };
    look::list(ctx, &format!("/v1/policy{question}{}", of.join("&")), table).await
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
