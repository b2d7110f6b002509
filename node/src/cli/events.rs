//! `skein events`.

use certs::codec::Millis;

use crate::{
    agent::admin::{api::Event, rfc3339},
    cli::{
        client::segment,
        context::Context,
        error::Result,
        look::{self, cell},
        output::Table,
        value,
    },
};

/// Lists what happened: joins, deaths, ejections, pushes, evictions, renewals, as the nodes that answer noted it.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  skein events --since 1h
  skein events --here -o json")]
pub struct Args {
    /// Not before: a time (RFC 3339), or a duration ago
    #[arg(long, value_name = "TIME", value_parser = value::time)]
    since: Option<Millis>,
    /// Only what the asked node noted itself
    #[arg(long)]
    here: bool,
}

/// Runs the command.
pub(super) async fn run(args: Args, ctx: &Context) -> Result<()> {
    let since = args.since.map(|since| format!("&since={}", segment(&rfc3339(since)))).unwrap_or_default();
    look::list(ctx, &format!("/v1/events?here={}{since}", args.here), table).await
}

fn table(events: &[Event]) -> Table {
    let mut table = Table::new(&["TIME", "KIND", "WHAT", "SEEN BY"]);
    for event in events {
        let seen = match event.seen_by.as_slice() {
            [one] => one.to_string(),
            several => format!("{} nodes", several.len()),
        };
        table.toned([cell(&event.time), cell(&event.kind), cell(&event.message), cell(seen)]);
    }
    table
}
