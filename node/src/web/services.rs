//! The services, and one of them: how requests to it fare by caller and by version, and the state of its endpoints.

use std::collections::BTreeMap;

use maud::{Markup, html};

use super::{
    figures::Golden,
    flow::Flow,
    named::Of,
    overview, paging,
    words::{self, segment},
};
use crate::agent::admin::api::{Connections, Edge, Endpoint, Outlier, Overflow, Party, Port, Route, Service, Traffic};

/// The list, of those whose name holds `search`.
pub(super) fn list(all: &[Service], traffic: &Traffic, search: &str, page: usize) -> Markup {
    let mut sums: BTreeMap<&str, Golden> = BTreeMap::new();
    traffic.edges.iter().for_each(|edge| sums.entry(&edge.service).or_default().add(edge));
    let mut flows: BTreeMap<&str, Flow> = BTreeMap::new();
    traffic.connections.iter().for_each(|some| flows.entry(&some.service).or_default().add(some));
    let named = |service: &Service| format!("{}/{}", service.namespace, service.name);
    let mut found: Vec<(String, &Service)> = all.iter().map(|service| (named(service), service)).collect();
    found.retain(|(name, _)| name.contains(search.trim()));
    // What lacks endpoints comes first.
    found.sort_by_key(|(_, service)| service.healthy == service.endpoints);
    let part = paging::part(&found, page);
    let none = Golden::default();
    html! {
        h1 { "Services" }
        (search_form("/services", search))
        section #services data-live {
            (overview::sample(traffic))
            p { (found.len()) " of " (all.len()) " services; requests " (overview::heard(traffic)) "." }
            table.cards {
                thead { tr {
                    th scope="col" { "Service" } th scope="col" { "Ports" } th scope="col" { "Endpoints" } (Golden::heads())
                    @if !flows.is_empty() { th scope="col" { "Connections" } }
                } }
                tbody {
                    @for (name, service) in part.rows {
                        tr {
                            th scope="row" { (words::link(words::service_path(name), name)) }
                            td data-label="Ports" { (ports(service)) }
                            td data-label="Endpoints" { (health(service)) }
                            (sums.get(name.as_str()).unwrap_or(&none).cells())
                            @if !flows.is_empty() {
                                td data-label="Connections" { @if let Some(flow) = flows.get(name.as_str()) { span class=(flow.class()) { (flow.words()) } } }
                            }
                        }
                    }
                }
            }
        }
        (part.links(&format!("/services?q={}&page=", segment(search))))
    }
}

/// Looks for a part of a name.
fn search_form(path: &str, search: &str) -> Markup {
    html! {
        form.search action=(path) method="get" role="search" {
            label for="q" { "Name holds" }
            input #q type="search" name="q" value=(search) autocomplete="off";
            button type="submit" { "Find" }
        }
    }
}

fn ports(service: &Service) -> String {
    let port = |port: &Port| format!("{}/{}", port.port, port.protocol);
    service.ports.iter().map(port).collect::<Vec<_>>().join(", ")
}

/// How many endpoints are healthy, in a word and in numbers.
pub(super) fn health(service: &Service) -> Markup {
    if service.by_name {
        return html! { span.of { "looked up by name" } };
    }
    let word = match (service.endpoints, service.healthy) {
        _ if service.panic => "panic",
        (0, _) => "none",
        (_, 0) => "unhealthy",
        (all, healthy) if healthy < all => "degraded",
        _ => "healthy",
    };
    html! { (words::state(word)) " " span.of { (service.healthy) " of " (service.endpoints) } }
}

/// What the page of one service shows.
pub(super) struct Seen<'s> {
    pub(super) service: &'s [Service],
    pub(super) endpoints: Vec<Endpoint>,
    pub(super) outliers: Vec<Outlier>,
    pub(super) routes: Vec<Route>,
    /// The part of the endpoints that is shown.
    pub(super) page: usize,
}

/// One service.
pub(super) fn one(of: &Of, seen: &Seen<'_>, traffic: &Traffic) -> Markup {
    let name = of.to_string();
    let taken: Vec<&Edge> = traffic.edges.iter().filter(|edge| edge.service == name).collect();
    let sent = traffic.edges.iter().filter(|edge| edge.from.namespace == of.namespace && edge.from.service == of.name);
    let sent: Vec<&Edge> = sent.collect();
    let all = Golden::of(taken.iter().copied());
    let connected: Vec<&Connections> = traffic.connections.iter().filter(|some| some.service == name).collect();
    let connects = |some: &&Connections| some.from.namespace == of.namespace && some.from.service == of.name;
    let connects: Vec<&Connections> = traffic.connections.iter().filter(connects).collect();
    // A service of bytes alone has no golden signals of requests.
    let asked = !taken.is_empty() || connected.is_empty();
    let outliers: Vec<Outlier> = seen.outliers.iter().filter(|outlier| outlier.service == name).cloned().collect();
    let routes: Vec<&Route> = seen.routes.iter().filter(|route| of.is_named(&route.host)).collect();
    let url = of.url(seen.service.first().map_or(&[], |service| &service.ports));
    let part = paging::part(&seen.endpoints, seen.page);
    html! {
        h1 { (name) }
        section #summary data-live {
            (overview::sample(traffic))
            p {
                @for service in seen.service {
                    @if let Some(entry) = &service.entry { (words::link(words::document_path(entry), entry)) " · " }
                    (health(service)) " endpoints healthy · " (ports(service)) " · "
                }
                "requests " (overview::heard(traffic)) ", last " (traffic.window_s.div_ceil(60).max(1)) " min"
            }
            @if !connected.is_empty() { (flow_tiles(&Flow::of(connected.iter().copied()))) }
            @if asked { div.tiles {
                div.tile { span.name { "Rate" } span.value { (words::rate(all.rate)) } span.more { (all.requests) " requests" } }
                div.tile { span.name { "Failed" } span class={ "value " (all.class()) } { (words::share(all.failed, all.requests)) }
                    span.more { @for (how, count) in all.how().into_iter().take(2) { code { (how) } " ×" (count) " " } } }
                div.tile { span.name { "p50" } span.value { (words::millis(all.quantile(0.5))) } span.more { "p90 " (words::millis(all.quantile(0.9))) } }
                div.tile { span.name { "p99" } span.value { (words::millis(all.quantile(0.99))) } span.more { (all.spark()) } }
            } }
        }
        section #callers data-live {
            @if asked {
                h2 { "By caller" }
                (grouped(&taken, |edge| &edge.from, "Nobody called it in this time."))
            }
        }
        section #versions data-live {
            @if asked {
                h2 { "By version" }
                (grouped(&taken, |edge| &edge.to, "No endpoint answered in this time."))
            }
        }
        section #connections data-live {
            @if !connected.is_empty() {
                h2 { "Connections by caller" }
                (flows(&connected, |some| &some.from))
                h2 { "Connections by version" }
                (flows(&connected, |some| &some.to))
            }
        }
        section #endpoints data-live {
            h2 { "Endpoints" }
            (endpoints(part.rows))
        }
        (part.links(&format!("/services/{}/{}?page=", segment(&of.namespace), segment(&of.name))))
        section #out data-live { (overview::out(&outliers)) (limits_met(seen.service)) }
        @if of.service.is_some() { section #calls data-live {
            h2 { "What it calls" }
            @if !sent.is_empty() || connects.is_empty() { (called(&sent)) }
            @if !connects.is_empty() { (connected_to(&connects)) }
        } }
        section #routes data-live {
            h2 { "Routes" }
            (routed(&routes))
            @if let Some(url) = &url { p { a href={ "/explain?url=" (segment(url)) } { "Explain a request to it" } } }
        }
    }
}

/// Limits of connection pools that requests met at this node.
fn limits_met(services: &[Service]) -> Markup {
    let all: Vec<&Overflow> = services.iter().flat_map(|service| &service.overflows).collect();
    html! {
        @if !all.is_empty() {
            h2 { "Limits that were met" }
            p { "By requests at this node, since it started: limits of connectionPool, in a DestinationRule or Sidecar. Where " code { "connections" } " is met a request may wait; else it is answered 503 " code { "UO" } "." }
            table.cards {
                thead { tr {
                    th scope="col" { "Caller" } th scope="col" { "Cluster" } th scope="col" { "Limit" }
                    th.number scope="col" { "Now" } th.number scope="col" { "Met" }
                } }
                tbody {
                    @for met in all {
                        tr {
                            th scope="row" { (met.caller) }
                            td.whole data-label="Cluster" { (met.cluster) }
                            td data-label="Limit" { code { (met.limit) } }
                            td.number data-label="Now" { (met.under_way) }
                            td.number data-label="Met" { (met.met) }
                        }
                    }
                }
            }
        }
    }
}

fn grouped(edges: &[&Edge], by: impl Fn(&Edge) -> &Party, none: &str) -> Markup {
    let mut sums: BTreeMap<&Party, (Golden, Vec<&str>)> = BTreeMap::new();
    for edge in edges {
        let sum = sums.entry(by(edge)).or_default();
        sum.0.add(edge);
        sum.1.push(&edge.security);
    }
    html! {
        @if sums.is_empty() { p { (none) } } @else {
            table.cards {
                thead { tr {
                    th scope="col" { "Workload" } th scope="col" { "Version" } th scope="col" { "TLS" } (Golden::heads())
                    th scope="col" { "Failures" }
                } }
                tbody {
                    @for (party, (sum, security)) in &sums {
                        tr {
                            th scope="row" { (party_link(party)) }
                            td data-label="Version" { (party.version) }
                            td data-label="TLS" { (lock(security)) }
                            (sum.cells())
                            td data-label="Failures" {
                                @for (how, count) in sum.how().into_iter().take(3) { code { (how) } " ×" (count) " " }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// What connections of bytes do, in numbers.
fn flow_tiles(all: &Flow) -> Markup {
    html! {
        div.tiles {
            div.tile { span.name { "Connections open" } span.value { (all.open) } span.more { (all.opened) " came" } }
            div.tile { span.name { "Led nowhere" } span class={ "value " (all.class()) } { (words::share(all.failed, all.opened)) }
                span.more { (all.failed) " connections" } }
            div.tile { span.name { "Bytes" } span.value { (words::bytes_rate(all.bytes_rate())) } span.more { "in both directions" } }
        }
    }
}

/// Connections of bytes by one of their ends.
fn flows(all: &[&Connections], by: impl Fn(&Connections) -> &Party) -> Markup {
    let mut sums: BTreeMap<&Party, (Flow, Vec<&str>)> = BTreeMap::new();
    for some in all {
        let sum = sums.entry(by(some)).or_default();
        sum.0.add(some);
        sum.1.push(&some.security);
    }
    html! {
        table.cards {
            thead { tr {
                th scope="col" { "Workload" } th scope="col" { "Version" } th scope="col" { "TLS" } (Flow::heads())
            } }
            tbody {
                @for (party, (sum, security)) in &sums {
                    tr {
                        th scope="row" { (party_link(party)) }
                        td data-label="Version" { (party.version) }
                        td data-label="TLS" { (lock(security)) }
                        (sum.cells())
                    }
                }
            }
        }
    }
}

/// Services that connections of bytes lead to.
fn connected_to(all: &[&Connections]) -> Markup {
    let mut sums: BTreeMap<&str, Flow> = BTreeMap::new();
    all.iter().for_each(|some| sums.entry(&some.service).or_default().add(some));
    html! {
        table.cards {
            thead { tr { th scope="col" { "Service" } (Flow::heads()) } }
            tbody {
                @for (name, sum) in &sums {
                    tr { th scope="row" { (words::link(words::service_path(name), name)) } (sum.cells()) }
                }
            }
        }
    }
}

fn party_link(party: &Party) -> Markup {
    let name = format!("{}/{}", party.namespace, party.service);
    if party.service == "unknown" {
        html! { "no endpoint" }
    } else {
        words::link(words::service_path(&name), &name)
    }
}

/// Whether all of it came over mutual TLS.
fn lock(security: &[&str]) -> Markup {
    match security {
        all if all.contains(&"none") => html! { span.bad { "in clear" } },
        all if all.contains(&"mutual_tls") => html! { "mutual" },
        _ => html! { "not told" },
    }
}

fn endpoints(all: &[Endpoint]) -> Markup {
    html! {
        table.cards {
            thead { tr {
                th scope="col" { "Endpoint" } th scope="col" { "State" } th scope="col" { "Why" } th scope="col" { "Address" }
                th scope="col" { "Port" } th scope="col" { "Labels" } th scope="col" { "Account" }
            } }
            tbody {
                @for endpoint in all {
                    tr {
                        th scope="row" {
                            @match &endpoint.node {
                                Some(node) => a href={ "/nodes/" (segment(node.as_str())) } { (endpoint.id) },
                                None => (endpoint.id),
                            }
                        }
                        td data-label="State" {
                            (words::state(if endpoint.outlier == "ejected" { "ejected" } else { &endpoint.health }))
                        }
                        td data-label="Why" { (endpoint.reason) }
                        td.whole data-label="Address" { (endpoint.address) }
                        td.whole data-label="Port" { (endpoint.port) }
                        td data-label="Labels" {
                            @for (key, value) in &endpoint.labels { span.label { (key) "=" (value) } " " }
                        }
                        td data-label="Account" { @if let Some(account) = &endpoint.account { (account) } }
                    }
                }
            }
        }
    }
}

fn called(edges: &[&Edge]) -> Markup {
    let mut sums: BTreeMap<&str, Golden> = BTreeMap::new();
    edges.iter().for_each(|edge| sums.entry(&edge.service).or_default().add(edge));
    html! {
        @if sums.is_empty() { p { "It called nothing in this time." } } @else {
            table.cards {
                thead { tr { th scope="col" { "Service" } (Golden::heads()) } }
                tbody {
                    @for (name, sum) in &sums {
                        tr { th scope="row" { (words::link(words::service_path(name), name)) } (sum.cells()) }
                    }
                }
            }
        }
    }
}

fn routed(routes: &[&Route]) -> Markup {
    html! {
        @if routes.is_empty() { p { "No document routes it: requests go to all its endpoints." } } @else {
            table.cards {
                thead { tr { th scope="col" { "Rule" } th scope="col" { "Does" } th scope="col" { "Document" } } }
                tbody {
                    @for route in routes {
                        tr {
                            th scope="row" { (route.rule) }
                            td data-label="Does" { (route.action) }
                            td data-label="Document" {
                                @if let Some(document) = &route.document { (words::link(words::document_path(document), document)) }
                            }
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::web::{figures::edge, paging::ROWS};
    use certs::id::ServiceName;

    pub(crate) fn traffic(edges: Vec<Edge>) -> Traffic {
        let node = certs::id::NodeId::new("web-1").unwrap();
        Traffic {
            node: node.clone(),
            window_s: 900,
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

    fn service(name: &str, endpoints: usize, healthy: usize) -> Service {
        let (namespace, name) = ("shop".into(), name.into());
        Service {
            namespace,
            name,
            ports: Vec::new(),
            endpoints,
            healthy,
            panic: false,
            entry: None,
            by_name: false,
            overflows: Vec::new(),
        }
    }

    fn of(name: &str) -> Of {
        Of::service(ServiceName::new("shop", name).unwrap())
    }

    fn seen(service: &[Service]) -> Seen<'_> {
        Seen { service, endpoints: Vec::new(), outliers: Vec::new(), routes: Vec::new(), page: 0 }
    }

    #[test]
    fn what_lacks_endpoints_comes_first_and_the_rest_by_pages() {
        let mut all: Vec<Service> = (0..ROWS + 10).map(|number| service(&format!("s{number:04}"), 1, 1)).collect();
        all.push(service("zz-broken", 2, 1));
        let text = list(&all, &traffic(Vec::new()), "", 0).into_string();
        assert!(text.find("zz-broken").unwrap() < text.find("s0000").unwrap());
        assert!(text.contains("1 of 2") && text.contains("page=1") && !text.contains("s0205"));
        assert!(list(&all, &traffic(Vec::new()), "", 99).into_string().contains("s0205"), "beyond the end is the end");
        let found = list(&all, &traffic(Vec::new()), "<x>", 0).into_string();
        assert!(found.contains("0 of 211 services") && found.contains("value=\"&lt;x&gt;\""));
    }

    #[test]
    fn signals_are_parted_by_caller_and_version() {
        let edges = vec![
            edge(("shop/web", "v1"), ("shop/cart", "v1"), 10, 0),
            edge(("shop/web", "v1"), ("shop/cart", "v2"), 10, 5),
            edge(("shop/app", "v1"), ("shop/cart", "v2"), 20, 0),
            edge(("shop/cart", "v2"), ("shop/db", "v1"), 7, 0),
        ];
        let text = one(&of("cart"), &seen(&[service("cart", 2, 2)]), &traffic(edges)).into_string();
        let part = |from: &str, to: &str| text.split(from).nth(1).unwrap().split(to).next().unwrap().to_owned();
        let (callers, versions, calls) =
            (part("By caller", "By version"), part("By version", "Endpoints"), part("What it calls", "Routes"));
        assert!(
            callers.contains("shop/web") && callers.contains("shop/app") && callers.contains("25.0 %"),
            "{callers}"
        );
        assert!(versions.contains(">v2<") && versions.contains("16.7 %") && versions.contains("mutual"), "{versions}");
        assert!(calls.contains("shop/db") && !calls.contains("shop/web"));
        assert!(text.contains("12.5 %") && text.contains("url=http%3A%2F%2Fcart%2Eshop%2F"));
    }

    #[test]
    fn a_service_of_bytes_shows_its_connections_and_no_empty_signals() {
        use crate::web::flow::connections;
        let asked = Traffic {
            connections: vec![connections("shop/web", "shop/db", 8, 2), connections("shop/db", "shop/disk", 2, 0)],
            ..traffic(Vec::new())
        };
        let db = [service("db", 1, 1)];
        let text = one(&of("db"), &seen(&db), &asked).into_string();
        assert!(
            text.contains("Connections by caller") && text.contains("shop/web") && text.contains("25.0 %"),
            "{text}"
        );
        assert!(
            !text.contains("Nobody called it") && !text.contains("It called nothing") && text.contains("shop/disk")
        );
        let listed = list(&db, &asked, "", 0).into_string();
        assert!(listed.contains("4 open, 2.0 KiB/s"), "{listed}");
        let quiet = list(&db, &traffic(Vec::new()), "", 0).into_string();
        assert!(!quiet.contains("Connections"), "no empty column");
    }

    #[test]
    fn the_page_of_an_entry_names_its_document() {
        let entry = Service { entry: Some("ServiceEntry shop/api".into()), ..service("api.example.com", 1, 1) };
        let edges = vec![edge(("shop/web", "v1"), ("shop/api.example.com", ""), 10, 0)];
        let of = Of::entry("shop".into(), "api.example.com".into());
        let text = one(&of, &seen(&[entry]), &traffic(edges)).into_string();
        assert!(text.contains("/policy/documents/ServiceEntry/shop/api") && text.contains("shop/web"), "{text}");
        assert!(!text.contains("What it calls"));
    }
}
