//! `skein events`.

use std::{collections::HashMap, time::Duration};

use certs::codec::Millis;
use http::HeaderMap;

use crate::{
    agent::admin::{OTHER_VERSION, SILENT, UNASKED, api::Event, rfc3339},
    cli::{
        client::{self, segment},
        context::Context,
        error::Result,
        look::{self, cell},
        output::{self, Format, Table, remark},
        value,
    },
    clock,
};

/// How often a watch asks.
const PAUSE: Duration = Duration::from_secs(1);
/// How late a node may tell of what it noted, milliseconds.
const LATE: Millis = 120_000;
/// Notes of the same within this time are one event.
const TOGETHER: Millis = 10_000;
/// Silent nodes that a note names.
const NAMED: usize = 5;

/// Lists what happened: joins, deaths, ejections, pushes, evictions, renewals, as the nodes that answer noted it.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  skein events --since 1h
  skein events --watch
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
    let path = |since: Option<Millis>| {
        let since = since.map(|since| format!("&since={}", segment(&rfc3339(since)))).unwrap_or_default();
        format!("/v1/events?here={}{since}", args.here)
    };
    let mut client = client::connect(ctx).await?;
    if !ctx.globals.watch {
        let (events, headers) = client.get_with_headers(&path(args.since)).await?;
        look::whole(ctx, &events, |rows: &Vec<Event>| ctx.output.render(&table(rows)))?;
        note(&headers).iter().for_each(|note| remark(note));
        return Ok(());
    }
    let (mut told, mut noted) = (Told::default(), None);
    loop {
        let now = clock::wall();
        // What other nodes tell late bears the time at which it happened.
        let since = if told.begun { Some(now.saturating_sub(LATE)) } else { args.since };
        let (events, headers): (Vec<Event>, _) = client.get_with_headers(&path(since)).await?;
        let missing = note(&headers);
        if missing != noted {
            missing.iter().for_each(|note| remark(note));
            noted = missing;
        }
        let news = told.news(events, now);
        if !news.is_empty() {
            match ctx.output.format {
                Format::Table => ctx.output.text(&news.iter().map(line).collect::<String>())?,
                Format::Json => ctx.output.json_line(&observed(&news, now))?,
                Format::Yaml => ctx.output.text(&format!("---\n{}", output::yaml(&observed(&news, now))?))?,
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// What is missing of what the nodes of the mesh noted; none if all told.
fn note(headers: &HeaderMap) -> Option<String> {
    let said = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let some = |names: &str| {
        let names: Vec<&str> = names.split(',').collect();
        let more = names.len().saturating_sub(NAMED);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        format!("{}{more}", names[..names.len().min(NAMED)].join(", "))
    };
    let silent = said(SILENT).map(|names| format!("{} did not tell of their events", some(names)));
    let other = said(OTHER_VERSION).map(|names| format!("{} run another version, which cannot tell", some(names)));
    let unasked = said(UNASKED).map(|count| format!("{count} nodes were not asked, of a mesh this large"));
    let missing: Vec<String> = silent.into_iter().chain(other).chain(unasked).collect();
    (!missing.is_empty()).then(|| format!("note: {}", missing.join("; ")))
}

/// What was shown, by kind and subject.
#[derive(Debug, Default)]
struct Told {
    events: HashMap<(String, String), Vec<(Millis, Event)>>,
    begun: bool,
}

impl Told {
    /// Those that were not shown. One that further nodes tell of, perhaps of a little earlier and in other words, was.
    fn news(&mut self, events: Vec<Event>, now: Millis) -> Vec<Event> {
        self.begun = true;
        let mut news = Vec::new();
        for event in events {
            let at = value::time(&event.time).unwrap_or(now);
            let shown = self.events.entry((event.kind.clone(), event.subject.clone())).or_default();
            let is_same = |shown: &&mut (Millis, Event)| {
                let (time, known) = &**shown;
                let more = event.seen_by.len() > known.seen_by.len();
                time.abs_diff(at) <= TOGETHER && (known.message == event.message || more)
            };
            match shown.iter_mut().find(is_same) {
                Some(known) => *known = (at, event),
                None => {
                    shown.push((at, event.clone()));
                    news.push(event);
                }
            }
        }
        self.events.retain(|_, shown| {
            shown.retain(|(time, _)| time.saturating_add(2 * LATE) > now);
            !shown.is_empty()
        });
        news
    }
}

fn observed(events: &[Event], now: Millis) -> serde_json::Value {
    serde_json::json!({"observed_at": rfc3339(now), "events": events})
}

/// As in the table, without columns: what comes later may be wider.
fn line(event: &Event) -> String {
    let seen =
        if event.seen_by.len() == 1 { event.seen_by[0].to_string() } else { format!("{} nodes", event.seen_by.len()) };
    output::plain(&format!("{}  {}  {}  ({seen})", look::when(&event.time), event.kind, what(event))).replace('\n', " ")
        + "\n"
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

    #[test]
    fn what_is_missing_is_said() {
        let note = |silent: &'static str, unasked: &'static str| {
            let said = [(SILENT, silent), (UNASKED, unasked)].into_iter().filter(|(_, value)| !value.is_empty());
            note(&said.map(|(name, value)| (name, value.parse().unwrap())).collect())
        };
        assert_eq!(note("", ""), None);
        assert_eq!(note("a,b", "").as_deref(), Some("note: a, b did not tell of their events"));
        let other = HeaderMap::from_iter([(OTHER_VERSION, "a,b".parse().unwrap())]);
        assert_eq!(super::note(&other).as_deref(), Some("note: a, b run another version, which cannot tell"));
        assert_eq!(
            note("a,b,c,d,e,f", "9").as_deref(),
            Some(
                "note: a, b, c, d, e and 1 more did not tell of their events; 9 nodes were not asked, of a mesh this large"
            )
        );
    }

    #[test]
    fn a_watch_shows_each_event_once() {
        const NOW: Millis = 1_800_000_000_000;
        let event = |at: Millis, kind: &str, message: &str, seen: usize| Event {
            time: rfc3339(at),
            kind: kind.into(),
            subject: "x".into(),
            message: message.into(),
            seen_by: (0..seen).map(|number| certs::id::NodeId::new(&format!("n{number}")).unwrap()).collect(),
            kept_by: Vec::new(),
        };
        let mut told = Told::default();
        let mut shown =
            |events: Vec<Event>, now| told.news(events, now).into_iter().map(|event| event.message).collect::<Vec<_>>();
        assert_eq!(shown(vec![event(NOW, "health", "down", 1)], NOW), ["down"]);
        let both = || vec![event(NOW, "health", "down", 1), event(NOW + 2, "health", "up", 1)];
        assert_eq!(shown(both(), NOW + 3), ["up"], "one node that notes twice means two events");
        assert_eq!(shown(vec![event(NOW, "member_dead", "theirs", 1)], NOW + 4), ["theirs"]);
        assert_eq!(shown(vec![event(NOW - 5, "member_dead", "ours", 2)], NOW + 5), [""; 0], "further nodes tell of it");
        assert_eq!(shown(vec![event(NOW + 60_000, "member_dead", "ours", 1)], NOW + 60_000), ["ours"]);
        // What cannot be asked for any more is forgotten.
        assert_eq!(shown(Vec::new(), NOW + 2 * LATE + 60_001), [""; 0]);
        assert!(told.events.is_empty());
    }
}
