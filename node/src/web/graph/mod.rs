//! Who calls whom, as a drawing and as a table that says the same.

mod labels;
mod layered;

use std::collections::{BTreeMap, BTreeSet};

use maud::{Markup, html};

use self::{
    labels::{Area, Curve, Labels},
    layered::Layout,
};
use super::{
    figures::Golden,
    flow::Flow,
    overview, paging,
    words::{self, segment},
};
use crate::agent::admin::api::{Party, Service, Traffic};

/// Services that are drawn: those with the most requests. Beyond that nobody can read it.
const DRAWN: usize = 120;
/// Lines that have a label: what fails, and then what is busy, comes first. Of the others a line's title says the same.
const LABELLED: usize = 500;
/// Width and height of a service's box, and the room between layers and rows.
const BOX: (f64, f64) = (176.0, 46.0);
const GAP: f64 = 130.0;
const ROW: f64 = 66.0;
const MARGIN: f64 = 14.0;
/// A wider drawing has the whole window, beyond the width that is read.
const READ: f64 = 1_380.0;
/// Width of a letter of a label, about.
const LETTER: f64 = 6.2;
/// Width of a lock before a label.
const LOCK: f64 = 18.0;
/// Characters of a name that fit into a box.
const NAME: usize = 21;

/// An edge between two services, versions together.
#[derive(Debug, Default)]
struct Arrow<'t> {
    sum: Golden,
    flow: Flow,
    security: BTreeSet<&'t str>,
}

impl Arrow<'_> {
    /// The worse of what requests and connections are.
    fn class(&self) -> &'static str {
        let rank = |class: &&str| ["idle", "good", "doubt", "bad"].iter().position(|known| known == class);
        [self.sum.class(), self.flow.class()].into_iter().max_by_key(rank).unwrap_or("idle")
    }

    /// Whether all of it is known to go over mutual TLS.
    fn is_locked(&self) -> bool {
        self.security.len() == 1 && self.security.contains("mutual_tls")
    }

    /// What stands beside its line.
    fn label(&self) -> String {
        let requests = match self.sum.failed {
            0 => words::rate(self.sum.rate),
            failed => format!("{} {}", words::rate(self.sum.rate), words::share(failed, self.sum.requests)),
        };
        match (self.sum.requests, self.flow.is_idle()) {
            (_, true) => requests,
            (0, false) => self.flow.words(),
            (_, false) => format!("{requests}; {}", self.flow.words()),
        }
    }

    /// Of its line: by the number of requests, and of kilobytes, a second.
    fn width(&self) -> f64 {
        let much = self.sum.rate.max(0.0).max(self.flow.bytes_rate() / 1024.0);
        1.2 + (much + 1.0).log10().min(3.0)
    }
}

/// The page, of one namespace and whom it calls or is called by, or of all.
pub(super) fn page(services: &[Service], traffic: &Traffic, namespace: &str, page: usize) -> Markup {
    let namespaces: BTreeSet<&str> = services.iter().map(|service| service.namespace.as_str()).collect();
    let mut arrows: BTreeMap<(String, &str), Arrow<'_>> = BTreeMap::new();
    let within = |from: &Party, service: &str| {
        let of = service.split_once('/').is_some_and(|(of, _)| of == namespace);
        namespace.is_empty() || from.namespace == namespace || of
    };
    let name = |from: &Party| format!("{}/{}", from.namespace, from.service);
    for edge in traffic.edges.iter().filter(|edge| within(&edge.from, &edge.service)) {
        let arrow = arrows.entry((name(&edge.from), edge.service.as_str())).or_default();
        arrow.sum.add(edge);
        arrow.security.insert(edge.security.as_str());
    }
    for some in traffic.connections.iter().filter(|some| within(&some.from, &some.service)) {
        let arrow = arrows.entry((name(&some.from), some.service.as_str())).or_default();
        arrow.flow.add(some);
        arrow.security.insert(some.security.as_str());
    }
    let (names, left_out) = drawn(&arrows);
    html! {
        h1 { "Graph" }
        @if namespaces.len() > 1 {
            nav.pages aria-label="Namespaces" {
                a href="/graph" aria-current=[namespace.is_empty().then_some("page")] { "all" }
                @for name in &namespaces {
                    a href={ "/graph?namespace=" (segment(name)) } aria-current=[(*name == namespace).then_some("page")] { (name) }
                }
            }
        }
        section #graph data-live {
            (overview::sample(traffic))
            p {
                "Requests and connections of the last " (traffic.window_s.div_ceil(60).max(1)) " min, " (overview::heard(traffic)) "."
                @if left_out > 0 { " The " (left_out) " services with the fewest are not drawn; choose a namespace." }
            }
            @if arrows.is_empty() { p { "Nobody called anybody in this time." } } @else {
                (legend())
                (drawing(&names, &arrows, services))
                (table(&arrows, services, (namespace, page)))
            }
        }
    }
}

/// The services with the most requests, and how many others there are.
fn drawn<'a>(arrows: &'a BTreeMap<(String, &'a str), Arrow<'_>>) -> (Vec<&'a str>, usize) {
    let mut requests: BTreeMap<&str, u64> = BTreeMap::new();
    for ((from, to), arrow) in arrows {
        for name in [from.as_str(), *to] {
            let sum = requests.entry(name).or_default();
            *sum = sum.saturating_add(arrow.sum.requests).saturating_add(arrow.flow.opened);
        }
    }
    let all = requests.len();
    let mut names: Vec<_> = requests.into_iter().collect();
    names.sort_by_key(|(name, requests)| (std::cmp::Reverse(*requests), *name));
    names.truncate(DRAWN);
    let mut names: Vec<&str> = names.into_iter().map(|(name, _)| name).collect();
    names.sort_unstable();
    (names, all.saturating_sub(DRAWN))
}

fn legend() -> Markup {
    html! {
        ul.legend {
            li { span.line.good {} "fine" }
            li { span.line.doubt {} "1 % and more fail" }
            li { span.line.bad {} "10 % and more fail" }
            li {
                svg.graph viewBox="-6 -7 12 14" width="12" height="14" aria-hidden="true" { (lock((0.0, 0.0))) }
                " all of it over mutual TLS"
            }
        }
    }
}

fn drawing(names: &[&str], arrows: &BTreeMap<(String, &str), Arrow<'_>>, services: &[Service]) -> Markup {
    let at = |name: &str| names.binary_search(&name).ok();
    let shown: Vec<(usize, usize, &Arrow<'_>)> =
        arrows.iter().filter_map(|((from, to), arrow)| Some((at(from)?, at(to)?, arrow))).collect();
    let edges: Vec<(usize, usize)> = shown.iter().map(|(from, to, _)| (*from, *to)).collect();
    let layout = layered::layout(names.len(), &edges);
    let width = layout.layers as f64 * (BOX.0 + GAP) - GAP + 2.0 * MARGIN;
    let height = layout.height * ROW + BOX.1 + 2.0 * MARGIN;
    let health: BTreeMap<String, &Service> =
        services.iter().map(|service| (format!("{}/{}", service.namespace, service.name), service)).collect();
    html! {
        div.scroll.drawing[width > READ] tabindex="0" role="region" aria-label="Drawing of the calls" {
            svg.graph viewBox={ "0 0 " (round(width)) " " (round(height)) } width=(round(width)) height=(round(height))
                role="group" aria-label="Services and their calls; the table below says the same" {
                defs {
                    @for class in ["idle", "good", "doubt", "bad"] {
                        marker id={ "arrow-" (class) } class={ "head " (class) } viewBox="0 0 8 8" refX="7" refY="4"
                            markerWidth="7" markerHeight="7" markerUnits="userSpaceOnUse" orient="auto" {
                            path d="M0 0L8 4L0 8z" {}
                        }
                    }
                }
                @for (((from, to, arrow), places), label) in shown.iter().zip(&layout.edges).zip(labels(&shown, &layout)) {
                    (drawn_arrow(arrow, (names[*from], names[*to]), places, label))
                }
                @for (number, name) in names.iter().enumerate() { (drawn_box(name, &layout, number, &health, arrows)) }
            }
        }
        @if shown.len() > LABELLED { p { "The " (LABELLED) " lines with the most failures and requests have labels." } }
    }
}

/// The left end and the height of a place.
fn point((layer, height): (usize, f64)) -> (f64, f64) {
    (MARGIN + layer as f64 * (BOX.0 + GAP), MARGIN + BOX.1 / 2.0 + height * ROW)
}

/// Where the label of each line stands that has one. What fails has the first choice, then what is busy: what finds no room covers
/// little.
fn labels(shown: &[(usize, usize, &Arrow<'_>)], layout: &Layout) -> Vec<Option<(f64, f64)>> {
    let boxes = layout.vertices.iter().map(|vertex| {
        let (x, y) = point(*vertex);
        Area(x, y - BOX.1 / 2.0, x + BOX.0, y + BOX.1 / 2.0)
    });
    let mut taken = Labels::among(boxes);
    let mut order: Vec<usize> = (0..shown.len()).collect();
    let rank =
        |at: &usize| (shown[*at].2.sum.failed, shown[*at].2.sum.requests.saturating_add(shown[*at].2.flow.opened));
    order.sort_by_key(|at| std::cmp::Reverse(rank(at)));
    let mut places = vec![None; shown.len()];
    for at in order.into_iter().take(LABELLED) {
        let half = shown[at].2.label().chars().count() as f64 * LETTER / 2.0;
        let lock = if shown[at].2.is_locked() { LOCK } else { 0.0 };
        let (_, line) = curve(&layout.edges[at]);
        if !line.is_empty() {
            places[at] = Some(taken.place(&line, (half + lock, half)));
        }
    }
    places
}

fn drawn_arrow(
    arrow: &Arrow<'_>,
    (from, to): (&str, &str),
    places: &[(usize, f64)],
    label: Option<(f64, f64)>,
) -> Markup {
    let class = arrow.class();
    let (locked, weight, text) = (arrow.is_locked(), arrow.width(), arrow.label());
    let (path, line) = curve(places);
    if line.is_empty() {
        return html! {};
    }
    html! {
        g class={ "arrow " (class) } {
            title { (from) " calls " (to) ": " (text) @if locked { ", over mutual TLS" } }
            path d=(path) stroke-width=(round(weight)) marker-end={ "url(#arrow-" (class) ")" } {}
            @if let Some((x, y)) = label {
                text x=(round(x)) y=(round(y)) text-anchor="middle" { (text) }
                @if locked { (lock((x - text.chars().count() as f64 * LETTER / 2.0 - LOCK / 2.0, y - 3.0))) }
            }
        }
    }
}

fn lock((x, y): (f64, f64)) -> Markup {
    html! {
        path.lock transform={ "translate(" (round(x)) " " (round(y)) ")" }
            d="M-4-1h8v6h-8zM-2.5-1v-2a2.5 2.5 0 0 1 5 0v2" {}
    }
}

/// A smooth line through these places, and its curves: none for a loop.
fn curve(places: &[(usize, f64)]) -> (String, Vec<Curve>) {
    let points: Vec<(f64, f64)> = places.iter().map(|place| point(*place)).collect();
    let (Some(first), Some(last)) = (points.first(), points.last()) else { return Default::default() };
    let back = last.0 < first.0;
    // Lines leave a box at the side of the next layer, and cross the layers between straight.
    let (leave, arrive) = if back { (0.0, BOX.0) } else { (BOX.0, 0.0) };
    let mut at = (first.0 + leave, first.1);
    let mut path = format!("M{} {}", round(at.0), round(at.1));
    let mut curves = Vec::new();
    for (number, next) in points.iter().enumerate().skip(1) {
        let to = (next.0 + arrive, next.1);
        let bend = (to.0 - at.0) / 2.0;
        let curve = [at, (at.0 + bend, at.1), (to.0 - bend, to.1), to];
        let [_, one, other, _] = curve;
        let numbers = [one, other, to].map(|(x, y)| format!("{} {}", round(x), round(y)));
        path.push_str(&format!("C{}", numbers.join(" ")));
        curves.push(curve);
        at = to;
        if number + 1 < points.len() {
            at = (next.0 + leave, next.1);
            path.push_str(&format!("L{} {}", round(at.0), round(at.1)));
        }
    }
    (path, curves)
}

fn drawn_box(
    name: &str,
    layout: &Layout,
    number: usize,
    health: &BTreeMap<String, &Service>,
    arrows: &BTreeMap<(String, &str), Arrow<'_>>,
) -> Markup {
    let (x, y) = point(layout.vertices[number]);
    let y = y - BOX.1 / 2.0;
    let service = health.get(name);
    let class = match service {
        Some(service) if service.endpoints > 0 && service.healthy == 0 => "bad",
        Some(service) if service.healthy < service.endpoints => "doubt",
        Some(_) => "good",
        None => "idle",
    };
    let to_itself = arrows.get(&(name.to_owned(), name)).map(Arrow::label);
    let below = match service {
        Some(service) => format!("{} of {} healthy", service.healthy, service.endpoints),
        None => "no service".to_owned(),
    };
    let inside = html! {
        rect x=(round(x)) y=(round(y)) width=(round(BOX.0)) height=(round(BOX.1)) rx="7" {}
        text.name x=(round(x + 12.0)) y=(round(y + 20.0)) { (fitting(name)) title { (name) } }
        text.below x=(round(x + 12.0)) y=(round(y + 37.0)) {
            (below) @if let Some(rate) = &to_itself { " · ↺ " (rate) }
        }
    };
    html! {
        @match words::service_path(name).filter(|_| service.is_some()) {
            Some(path) => { a href=(path) class={ "box " (class) } { (inside) } }
            None => { g class={ "box " (class) } { (inside) } }
        }
    }
}

/// A name that fits into a box: its end tells more than its beginning.
fn fitting(name: &str) -> String {
    let count = name.chars().count();
    if count <= NAME {
        return name.to_owned();
    }
    let end: String = name.chars().skip(count - NAME + 1).collect();
    format!("…{end}")
}

fn round(number: f64) -> String {
    format!("{:.1}", number)
}

fn table(
    arrows: &BTreeMap<(String, &str), Arrow<'_>>,
    services: &[Service],
    (namespace, page): (&str, usize),
) -> Markup {
    let requests: Vec<_> = arrows.iter().filter(|(_, arrow)| arrow.sum.requests > 0).collect();
    let connections: Vec<_> = arrows.iter().filter(|(_, arrow)| !arrow.flow.is_idle()).collect();
    let (requests, connections) = (paging::part(&requests, page), paging::part(&connections, page));
    let known: BTreeSet<(&str, &str)> =
        services.iter().map(|service| (service.namespace.as_str(), service.name.as_str())).collect();
    let path = format!("/graph?namespace={}&page=", segment(namespace));
    html! {
        @if !requests.rows.is_empty() {
            h2 { "Requests" }
            (rows(requests.rows, &known, &Golden::heads(), |arrow| arrow.sum.cells()))
            (requests.links(&path))
        }
        @if !connections.rows.is_empty() {
            h2 { "Connections of bytes" }
            (rows(connections.rows, &known, &Flow::heads(), |arrow| arrow.flow.cells()))
            (connections.links(&path))
        }
    }
}

fn rows<'a>(
    arrows: &[(&(String, &str), &Arrow<'a>)],
    known: &BTreeSet<(&str, &str)>,
    heads: &Markup,
    cells: impl Fn(&Arrow<'a>) -> Markup,
) -> Markup {
    // What is gone, or never was a service, has no page.
    let end = |name: &str| {
        let is_known = name.split_once('/').is_some_and(|name| known.contains(&name));
        words::link(words::service_path(name).filter(|_| is_known), name)
    };
    html! {
        table.cards {
            thead { tr {
                th scope="col" { "Caller" } th scope="col" { "Service" } th scope="col" { "TLS" } (heads)
            } }
            tbody {
                @for ((from, to), arrow) in arrows {
                    tr {
                        th scope="row" { (end(from)) }
                        td data-label="Service" { (end(to)) }
                        td data-label="TLS" {
                            @if arrow.security.contains("none") { span.bad { "in clear" } }
                            @else if arrow.security.contains("mutual_tls") { "mutual" } @else { "not told" }
                        }
                        (cells(arrow))
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        agent::admin::api::Edge,
        web::{figures::edge, flow::connections},
    };

    fn traffic(edges: Vec<Edge>) -> Traffic {
        let node = certs::id::NodeId::new("web-1").unwrap();
        Traffic {
            node: node.clone(),
            window_s: 60,
            slot_s: 30,
            heard: vec![node],
            silent: Vec::new(),
            other_version: Vec::new(),
            unasked: 0,
            left_out: 0,
            edges,
            connections: Vec::new(),
        }
    }

    fn service(namespace: &str, name: &str) -> Service {
        Service {
            namespace: namespace.into(),
            name: name.into(),
            ports: Vec::new(),
            endpoints: 1,
            healthy: 1,
            panic: false,
            entry: None,
            by_name: false,
            overflows: Vec::new(),
        }
    }

    #[test]
    fn the_drawing_and_the_table_say_the_same() {
        let seen = traffic(vec![
            edge(("shop/web", "v1"), ("shop/cart", "v1"), 100, 20),
            edge(("shop/web", "v1"), ("shop/cart", "v2"), 100, 0),
            edge(("shop/cart", "v2"), ("BlackHoleCluster", ""), 3, 0),
        ]);
        let text = page(&[service("shop", "web"), service("shop", "cart")], &seen, "", 0).into_string();
        assert_eq!(text.matches("class=\"arrow bad\"").count(), 1, "versions stand together: {text}");
        assert!(text.contains("20.0/s 10.0 %") && text.contains("over mutual TLS</title>"));
        assert_eq!(text.matches("href=\"/services/shop/cart\"").count(), 3, "in its box and in two rows");
        assert!(text.contains("no service") && text.contains("BlackHoleCluster"));
        let gone = page(&[service("shop", "cart")], &seen, "", 0).into_string();
        assert!(!gone.contains("/services/shop/web"), "one that is gone has no page: {gone}");
    }

    #[test]
    fn connections_of_bytes_are_drawn_beside_requests() {
        let mut seen = traffic(vec![edge(("shop/web", "v1"), ("shop/cart", "v1"), 100, 0)]);
        seen.connections = vec![connections("shop/cart", "shop/db", 8, 2), connections("shop/web", "shop/cart", 2, 0)];
        let text =
            page(&[service("shop", "web"), service("shop", "cart"), service("shop", "db")], &seen, "", 0).into_string();
        assert!(text.contains("4 open, 2.0 KiB/s") && text.contains("10.0/s; 1 open, 2.0 KiB/s"), "{text}");
        assert_eq!(text.matches("class=\"arrow bad\"").count(), 1, "one of four led nowhere");
        let table = text.split("Connections of bytes").nth(1).expect("a table of their own");
        assert!(table.contains("shop/db") && table.contains("25.0 %"), "{table}");
        seen.edges.clear();
        assert!(!page(&[], &seen, "", 0).into_string().contains("<h2>Requests"), "no empty table");
    }

    #[test]
    fn a_namespace_is_shown_with_whom_it_calls() {
        let seen = traffic(vec![
            edge(("a/x", ""), ("b/y", ""), 1, 0),
            edge(("b/y", ""), ("b/z", ""), 1, 0),
            edge(("c/u", ""), ("c/v", ""), 1, 0),
        ]);
        let services = [service("a", "x"), service("b", "y"), service("b", "z"), service("c", "u"), service("c", "v")];
        let text = page(&services, &seen, "b", 0).into_string();
        assert!(text.contains("a/x") && text.contains("b/z") && !text.contains("c/u"));
    }

    #[test]
    fn of_very_many_the_busiest_are_drawn() {
        let edges =
            (0..DRAWN as u64 + 30).map(|number| edge((&format!("a/s{number:03}"), ""), ("a/hub", ""), number + 1, 0));
        let seen = traffic(edges.collect());
        let text = page(&[], &seen, "", 0).into_string();
        assert_eq!(text.matches("<rect").count(), DRAWN);
        assert!(text.contains("The 31 services with the fewest"), "{}", &text[..2000]);
    }

    #[test]
    fn of_very_many_lines_the_busiest_have_labels() {
        let name = |number: u64| format!("a/s{number:03}");
        let pairs = (0..30).flat_map(|from| (0..30).map(move |to| (from, to))).filter(|(from, to)| from != to);
        let edges = pairs.map(|(from, to)| edge((&name(from), ""), (&name(to), ""), 1 + from, 0));
        let text = page(&[], &traffic(edges.collect()), "", 0).into_string();
        assert_eq!(text.matches("<g class=\"arrow").count(), 30 * 29);
        assert_eq!(text.matches("text-anchor=\"middle\"").count(), LABELLED);
        assert!(text.contains("The 500 lines"));
    }

    #[test]
    fn long_names_keep_their_end() {
        assert_eq!(fitting("shop/cart"), "shop/cart");
        assert_eq!(fitting("a-very-long-namespace/recommendations"), "…pace/recommendations");
        assert_eq!(fitting(&"ä".repeat(99)).chars().count(), NAME);
    }
}
