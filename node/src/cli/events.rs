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
    let mut table = Table::new(&["TIME", "KIND", "SEEN BY", "WHAT"]);
    for event in events {
        let seen = match event.seen_by.as_slice() {
            [one] => one.to_string(),
            several => format!("{} nodes", several.len()),
        };
        // Who is gone does not say it: others keep it.
        let seen = if event.kept_by.is_empty() { seen } else { format!("{seen} (kept)") };
        table.toned([cell(look::when(&event.time)), cell(&event.kind), cell(seen), cell(what(event))]);
    }
    table
}

/// The message, where a changeset is named by as much of its id as tells it from others.
fn what(event: &Event) -> String {
    let is_id = event.subject.len() == 64 && event.subject.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_id { event.message.replace(&event.subject, look::short(&event.subject)) } else { event.message.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_short_and_what_is_kept_is_said_so() {
        let node = |name: &str| certs::id::NodeId::new(name).unwrap();
        let id = "0123456789abcdef".repeat(4);
        let event = Event {
            time: "2026-01-02T03:04:05.678Z".into(),
            kind: "policy_applied".into(),
            message: format!("{id} was pushed at web-1"),
            subject: id,
            seen_by: vec![node("a"), node("b")],
            kept_by: vec![node("c")],
        };
        assert_eq!(what(&event), "0123456789ab was pushed at web-1");
        assert_eq!(what(&Event { subject: "shop/cart".into(), ..event.clone() }), event.message);
        let text = format!("{:?}", table(&[event]));
        assert!(text.contains("2 nodes (kept)") && text.contains("2026-01-02 03:04:05Z"), "{text}");
    }
}
