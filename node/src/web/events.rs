//! What happened, newest first.

use maud::{Markup, html};

use super::words::{self, segment, short};
use crate::agent::admin::{Told, api::Event};

/// All that the nodes remember.
pub(super) fn page(told: &Told) -> Markup {
    html! {
        h1 { "Events" }
        section #events data-live {
            p { "As the nodes that answer noted it; of one that does not, two others keep what it noted." }
            (words::sample(told.heard, told.unheard.unasked))
            @if !told.unheard.silent.is_empty() {
                p.hint { (words::count(told.unheard.silent.len(), "node")) " did not answer: what nobody else noted or keeps is missing." }
            }
            @if !told.unheard.other_version.is_empty() {
                p.hint { (words::count(told.unheard.other_version.len(), "node")) " of another version cannot answer: what nobody else noted or keeps is missing." }
            }
            @if told.events.is_empty() { p { "Nothing has happened yet." } }
            (list(told.events.iter().rev()))
        }
        p.hint { code { "skein events --since 1h" } " shows the same." }
    }
}

/// Events as a list.
pub(super) fn list<'e>(events: impl Iterator<Item = &'e Event>) -> Markup {
    html! {
        ol.events {
            @for event in events {
                li {
                    (words::past(&event.time)) " "
                    span class={ "kind " (class(event)) } { (event.kind) } " "
                    (message(event))
                    @if event.seen_by.len() > 1 {
                        " " span.of title={ @for node in &event.seen_by { (node) " " } } { "seen by " (event.seen_by.len()) " nodes" }
                    }
                    @if !event.kept_by.is_empty() {
                        " " span.of title={ @for node in &event.kept_by { (node) " " } } { "(kept by others)" }
                    }
                }
            }
        }
    }
}

/// What is said of it. A changeset's name is long and of interest for what lies behind it: a short one that leads there.
fn message(event: &Event) -> Markup {
    let changeset =
        matches!(event.kind.as_str(), "policy_applied" | "policy_proposed" | "policy_refused" | "policy_reverted");
    match event.message.split_once(event.subject.as_str()) {
        Some((before, after)) if changeset && !event.subject.is_empty() => html! {
            (before) a href={ "/policy/changesets/" (segment(&event.subject)) } { code { (short(&event.subject)) } } (after)
        },
        Some(_) | None => html! { (event.message) },
    }
}

/// How bad it is.
fn class(event: &Event) -> &'static str {
    match event.kind.as_str() {
        "health" if event.message.contains(" is unhealthy") => "doubt",
        "member_dead" | "member_evicted" | "clone" | "equivocation" | "policy_refused" | "endpoint_ejected" => "bad",
        "member_suspect" | "member_left" | "member_gone" | "policy_reverted" => "doubt",
        _ => "plain",
    }
}
