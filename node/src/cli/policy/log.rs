//! `skein policy log`.

use crate::{
    agent::admin::api::LogEntry,
    cli::{context::Context, error::Result, look, output::Table},
};

/// Lists what was pushed, newest first.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: skein policy log --limit 10")]
pub struct Args {
    /// At most so many
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
}

/// Runs the command.
pub(super) async fn run(args: Args, ctx: &Context) -> Result<()> {
    let path = args.limit.map_or_else(|| "/v1/policy/log".to_owned(), |limit| format!("/v1/policy/log?limit={limit}"));
    look::list(ctx, &path, table).await
}

fn table(entries: &[LogEntry]) -> Table {
    let mut table = Table::new(&["CHANGESET", "TIME", "AUTHORS", "DOCUMENTS", "MESSAGE"]);
    for entry in entries {
        let documents = match entry.documents.as_slice() {
            [only] => only.clone(),
            [first, rest @ ..] => format!("{first} and {} more", rest.len()),
            [] => String::new(),
        };
        let id = look::short(&entry.changeset).to_owned();
        table.row([id, entry.time.clone(), entry.authors.join(","), documents, entry.message.clone()]);
    }
    table
}
