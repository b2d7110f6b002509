//! Requests as they end, and one of them in full. Who looks serves this page to itself (`skein tap --page`): no node's port tells
//! what requests say.

use maud::{Markup, html};

use super::{
    explain,
    layout::{Frame, document},
    words::{self, millis},
};
use crate::{agent::admin::api::Explanation, error::Error, telemetry::Tapped};

/// What is looked for among the requests that were seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Search {
    /// Part of a workload's, node's, authority's or path's name.
    pub text: String,
    /// `503`, or `5xx`.
    pub status: String,
}

/// A request and the number by which the page knows it.
pub type Numbered<'t> = (u64, &'t Tapped);

/// What the list shows.
pub struct List<'t> {
    /// What is looked for.
    pub search: &'t Search,
    /// Newest first.
    pub rows: Vec<Numbered<'t>>,
    /// How many fit the search, shown or not, and how many are kept.
    pub counts: (usize, usize),
    /// How many each node left out.
    pub left_out: Vec<(String, u64)>,
    /// Why nodes tell nothing.
    pub silent: Vec<String>,
}

/// Where the page is served, and for whom.
pub struct Place<'t> {
    /// What all its paths begin with.
    pub base: &'t str,
    /// The mesh's trust domain.
    pub mesh: &'t str,
    /// Now, RFC 3339.
    pub now: &'t str,
}

/// The requests.
#[must_use]
pub fn list(place: &Place<'_>, list: &List<'_>) -> String {
    let (fitting, kept) = list.counts;
    let body = html! {
        h1 { "Requests" }
        form.search action={ (place.base) "/" } method="get" role="search" {
            label for="q" { "Find" }
            input #q type="search" name="q" value=(list.search.text) placeholder="workload, node, host or path" autocomplete="off" spellcheck="false";
            label for="status" { "Status" }
            input #status type="text" name="status" value=(list.search.status) placeholder="503 or 5xx" size="10" autocomplete="off";
            button type="submit" { "Show" }
        }
        section #requests data-live aria-label="Requests" {
            p.hint {
                @if fitting > list.rows.len() { "The latest " (list.rows.len()) " of " (fitting) } @else { (fitting) }
                " that fit, of " (kept) " kept here."
            }
            @for (node, count) in &list.left_out {
                div.problem.degraded { p { (node) " left " (count) " out: narrow what is asked, or raise " code { "--rate" } "." } }
            }
            @for why in &list.silent { div.problem.degraded { p { (words::prose(why)) } } }
            @if list.rows.is_empty() { p { "Nothing was seen yet." } } @else { (table(place, &list.rows)) }
        }
    };
    page(place, "Requests", true, &body)
}

fn table(place: &Place<'_>, rows: &[Numbered<'_>]) -> Markup {
    html! {
        table.cards {
            thead { tr {
                th scope="col" { "Time" } th scope="col" { "Request" } th scope="col" { "From" } th scope="col" { "To" }
                th scope="col" { "Status" } th.number scope="col" { "Took" } th scope="col" { "Seen by" }
            } }
            tbody {
                @for (number, tapped) in rows {
                    tr {
                        td data-label="Time" { time datetime=(tapped.observed_at) { (clock(&tapped.observed_at)) } }
                        th scope="row" {
                            a href={ (place.base) "/requests/" (number) } { (tapped.method) " " (tapped.authority) (tapped.path) }
                        }
                        td data-label="From" { (tapped.source) }
                        td data-label="To" { (tapped.destination) }
                        td data-label="Status" { (status(tapped)) }
                        td.number data-label="Took" { (millis(Some(tapped.duration_ms))) }
                        td data-label="Seen by" { (tapped.node) " as " (tapped.side) }
                    }
                }
            }
        }
    }
}

/// The time of day.
fn clock(time: &str) -> &str {
    time.split('T').nth(1).unwrap_or_default().trim_end_matches('Z')
}

fn status(tapped: &Tapped) -> Markup {
    let class = match tapped.status {
        0 | 500.. => "bad",
        400.. => "doubt",
        _ if tapped.grpc_status.is_some_and(|status| status != 0) => "bad",
        _ => "good",
    };
    html! {
        span class={ "whole " (class) } {
            @if tapped.status == 0 { "none" } @else { (tapped.status) }
            @if let Some(grpc) = tapped.grpc_status { " gRPC " (grpc) }
        }
        @if tapped.flags != "-" { " " code { (tapped.flags) } }
    }
}

/// One request: all that was told of it, the other side's view of it, and what would become of the same request now.
#[must_use]
pub fn one(
    place: &Place<'_>,
    tapped: &Tapped,
    other: Option<Numbered<'_>>,
    explained: Option<&Result<Explanation, Error>>,
) -> String {
    let body = html! {
        h1 { (tapped.method) " " (tapped.authority) (tapped.path) }
        dl {
            dt { "Ended" } dd { time datetime=(tapped.observed_at) { (tapped.observed_at) } ", after " (millis(Some(tapped.duration_ms))) }
            dt { "Status" } dd { (status(tapped)) @for word in flags(&tapped.flags) { " " (word) "." } }
            dt { "From" } dd { (tapped.source) @if let Some(account) = &tapped.account { ", as " code { (account) } } }
            dt { "To" } dd { (tapped.destination) }
            @if let Some(cluster) = &tapped.cluster { dt { "Cluster" } dd { code { (cluster) } } }
            @if let Some(upstream) = &tapped.upstream { dt { "Upstream" } dd { code { (upstream) } } }
            dt { "Bodies" } dd { (words::bytes(tapped.received)) " asked, " (words::bytes(tapped.sent)) " answered" }
            dt { "Seen by" } dd { (tapped.node) " as " (tapped.side) }
            @if let Some((number, other)) = other {
                dt { "The other side" } dd { a href={ (place.base) "/requests/" (number) } { (other.node) " as " (other.side) } ": " (status(other)) ", " (millis(Some(other.duration_ms))) }
            }
        }
        h2 { "Headers" }
        dl { @for (name, value) in &tapped.headers { dt { code { (name) } } dd { code { (value) } } } }
        @match explained {
            None => { p.hint { "Why it went where it went, the calling node can say; its side of it was not seen here." } }
            Some(Err(error)) => {
                section.problem.degraded {
                    p { "It cannot be explained: " (error.message) " " code { (error.code) } }
                    @if !error.hint.is_empty() { p.hint { (words::prose(&error.hint)) } }
                }
            }
            Some(Ok(explained)) => {
                (explain::answer(explained, false))
                p.hint { "As " (explained.node) " would do it now, with the headers above that hold no secrets." }
            }
        }
        @if let Some(command) = &tapped.explain { p.hint { code { (command) } } }
        p { a href={ (place.base) "/" } { "All requests" } }
    };
    page(place, "Request", false, &body)
}

/// What cannot be shown.
#[must_use]
pub fn missing(place: &Place<'_>, why: &str) -> String {
    let body = html! { h1 { "Not here" } p { (why) } p { a href={ (place.base) "/" } { "All requests" } } };
    page(place, "Not here", false, &body)
}

fn page(place: &Place<'_>, title: &str, is_list: bool, body: &Markup) -> String {
    let foot = html! { "Told to " code { "skein tap" } " until " time datetime=(place.now) { (place.now) } "; no bodies, no secrets." };
    let tabs = [("/", "Requests", is_list)];
    document(&Frame { title, mesh: place.mesh, base: place.base, tabs: &tabs, foot }, body).into_string()
}

/// Envoy's response flags in words.
fn flags(flags: &str) -> impl Iterator<Item = &'static str> {
    flags.split(',').filter_map(|flag| {
        Some(match flag {
            "UH" => "No endpoint was healthy",
            "UT" => "The route's or an attempt's time was over",
            "UR" => "The endpoint reset it",
            "UF" => "No connection to the endpoint could be made",
            "UC" => "The endpoint ended the connection",
            "UO" => "A limit of a connection pool, or of this node, was reached",
            "NR" => "No route fits",
            "NC" => "The route's destination is not known",
            "DI" => "A fault delayed it",
            "FI" => "A fault ended it",
            "RL" => "A rate limit had no room",
            "UAEX" => "An external authoriser refused it, or did not answer",
            "DC" => "The caller went away",
            "URX" => "All retries were used up",
            "SI" => "Nothing moved for too long",
            "DPE" => "The request breaks the protocol",
            "UPE" => "The response breaks the protocol",
            "DT" => "Its connection lasted longer than it may",
            "DF" => "The host that it names has no address that may be used",
            _ => return None,
        })
    })
}

/// Requests for tests.
#[cfg(test)]
pub mod testing {
    use super::*;

    /// A request that was seen at a caller's node.
    #[must_use]
    pub fn seen(path: &str, status: u16) -> Tapped {
        let tapped = serde_json::json!({
            "observed_at": "2026-01-01T10:00:00.123Z", "node": "web-1", "side": "client", "source": "shop/web",
            "destination": "shop/cart-v1", "method": "GET", "authority": "cart", "path": path, "status": status,
            "flags": "UF,URX", "duration_ms": 1.5, "received": 0, "sent": 2048, "left_out": 0,
            "headers": {"x-request-id": "one", "end-user": "jason"},
        });
        serde_json::from_value(tapped).expect("all fields are there")
    }
}

#[cfg(test)]
mod tests {
    use super::{testing::seen, *};

    const PLACE: Place<'static> = Place { base: "/t", mesh: "m", now: "2026-01-01T10:00:01Z" };

    #[test]
    fn what_requests_say_comes_out_as_text() {
        let evil = seen("/<script>alert(1)</script>", 503);
        let search = Search { text: "\"><b>".into(), status: String::new() };
        let shown = List {
            search: &search,
            rows: vec![(7, &evil)],
            counts: (1, 1),
            left_out: vec![("<i>".into(), 3)],
            silent: vec!["<u>".into()],
        };
        let all = list(&PLACE, &shown);
        let detail = one(&PLACE, &evil, Some((8, &evil)), Some(&Err(Error::new("x", "<s>"))));
        for text in [&all, &detail] {
            assert_eq!(text.matches("<script").count(), 1, "only our own: {text}");
            assert!(!["<b>", "<i>", "<u>", "<s>"].iter().any(|tag| text.contains(tag)), "{text}");
            assert!(text.contains("/t/assets/skein.js") && text.contains("503"), "{text}");
        }
        assert!(all.contains("href=\"/t/requests/7\"") && detail.contains("href=\"/t/requests/8\""));
        assert!(detail.contains("No connection to the endpoint could be made. All retries were used up."), "{detail}");
    }

    #[test]
    fn all_flags_have_words() {
        let names = crate::telemetry::Flags::NAMES;
        assert_eq!(flags(&names.join(",")).count(), names.len());
    }
}
