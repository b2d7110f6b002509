//! The first page: what needs attention, then how the mesh is.

use certs::codec::Millis;
use maud::{Markup, html};

use super::{events, figures::Golden, flow::Flow, words};
use crate::agent::admin::api::{Concerns, Event, Health, Outlier, Problem, Service, Status, Traffic};

/// Events that stand here.
const EVENTS: usize = 12;
/// Of these, of one kind, where there is more to tell.
const OF_A_KIND: usize = 4;
/// Services that stand here because they fail.
const FAILING: usize = 8;
/// Problems and ejections of other nodes that stand here.
const ELSEWHERE: usize = 12;
/// Nodes that a sentence names.
const NAMED: usize = 5;

/// What the page shows.
pub(super) struct Seen<'t> {
    pub(super) status: Status,
    pub(super) services: Vec<Service>,
    pub(super) outliers: Vec<Outlier>,
    pub(super) events: &'t [Event],
    pub(super) traffic: &'t Traffic,
    pub(super) concerns: &'t Concerns,
}

pub(super) fn page(seen: &Seen<'_>, now: Millis) -> Markup {
    html! {
        h1 { "Overview" }
        section #sample data-live { (sample(seen.traffic)) }
        section #attention data-live { (attention(&seen.status, seen.traffic)) }
        section #elsewhere data-live { (elsewhere(seen.concerns, seen.status.node.as_str())) }
        section #tiles data-live aria-label="The mesh in numbers" { (tiles(seen, now)) }
        section #failing data-live { (failing(seen)) }
        section #out data-live { (out(&seen.outliers)) }
        section #events data-live {
            h2 { "What happened" }
            (events::list(latest(seen.events).into_iter()))
            p { a href="/events" { "All events" } }
        }
    }
}

/// The newest first; of one kind that there is much of, not only that.
fn latest(events: &[Event]) -> Vec<&Event> {
    let mut counts: std::collections::BTreeMap<String, usize> = std::collections::BTreeMap::new();
    let newest: Vec<&Event> = events.iter().rev().collect();
    let mut rank = |event: &&Event| {
        let count = counts.entry(event.kind.clone()).or_default();
        *count += 1;
        *count > OF_A_KIND
    };
    let (more, mut shown): (Vec<_>, Vec<_>) = newest.iter().enumerate().partition(|(_, event)| rank(event));
    shown.truncate(EVENTS);
    let room = EVENTS - shown.len();
    shown.extend(more.into_iter().take(room));
    shown.sort_by_key(|(place, _)| *place);
    shown.into_iter().map(|(_, event)| *event).collect()
}

/// What is wrong, worst first.
fn attention(status: &Status, traffic: &Traffic) -> Markup {
    let word = match status.state {
        Health::Ok => "ok",
        Health::Degraded => "degraded",
        Health::Critical => "critical",
    };
    html! {
        h2 { "Attention " (words::state(word)) }
        @if status.problems.is_empty() {
            @if Golden::of(&traffic.edges).class() == "bad" {
                p { "This node finds nothing wrong with itself or the mesh; but one request in ten and more fails." }
            } @else { p { "Nothing needs it." } }
        }
        @for problem in &status.problems { (told(problem)) }
    }
}

/// What is wrong at other nodes and not here, and what they do without.
fn elsewhere(concerns: &Concerns, own: &str) -> Markup {
    let is_own = |nodes: &[certs::id::NodeId]| nodes.iter().any(|node| node.as_str() == own);
    let problems: Vec<_> = concerns.problems.iter().filter(|problem| !is_own(&problem.nodes)).collect();
    let ejected: Vec<_> = concerns.ejected.iter().filter(|ejected| ejected.node.as_str() != own).collect();
    html! {
        @if !problems.is_empty() || !ejected.is_empty() { h2 { "At other nodes" } }
        @for problem in problems.iter().take(ELSEWHERE) {
            @let nodes = problem.nodes.iter().take(NAMED).map(ToString::to_string).collect::<Vec<_>>().join(", ");
            @let more = if problem.nodes.len() > NAMED { format!(" and {} more", problem.nodes.len() - NAMED) } else { String::new() };
            (told(&Problem {
                code: problem.code.clone(),
                message: format!("at {nodes}{more}: {}", problem.message),
                hint: problem.hint.clone(),
                severity: problem.severity,
            }))
        }
        @if problems.len() > ELSEWHERE { p { "And " (problems.len() - ELSEWHERE) " more: " code { "skein status --mesh" } } }
        @if !ejected.is_empty() {
            table.cards {
                thead { tr {
                    th scope="col" { "Ejected" } th scope="col" { "At" } th scope="col" { "Caller" }
                    th scope="col" { "Why" } th scope="col" { "Back at" }
                } }
                tbody {
                    @for row in ejected.iter().take(ELSEWHERE) {
                        tr {
                            th scope="row" { (row.endpoint) }
                            td data-label="At" { (row.node) }
                            td data-label="Caller" { (row.caller) }
                            td data-label="Why" { code { (row.reason) } }
                            td data-label="Back at" { time datetime=(row.until) { (words::when(&row.until)) } }
                        }
                    }
                }
            }
            @if ejected.len() > ELSEWHERE { p { "And " (ejected.len() - ELSEWHERE) " more." } }
        }
    }
}

fn told(problem: &Problem) -> Markup {
    let class = if problem.severity == Health::Critical { "critical" } else { "degraded" };
    html! {
        div class={ "problem " (class) } {
            p { strong { (if class == "critical" { "Critical: " } else { "Warning: " }) } (problem.message) " " code { (problem.code) } }
            @if !problem.hint.is_empty() { p.hint { (words::prose(&problem.hint)) } }
        }
    }
}

fn tiles(seen: &Seen<'_>, now: Millis) -> Markup {
    let (status, all, flow) = (&seen.status, Golden::of(&seen.traffic.edges), Flow::of(&seen.traffic.connections));
    let endpoints: usize = seen.services.iter().map(|service| service.endpoints).sum();
    let healthy: usize = seen.services.iter().map(|service| service.healthy).sum();
    let lacks = status.members.seen < status.members.expected;
    html! {
        div.tiles {
            (tile("/nodes", "Nodes seen", &format!("{} of {}", status.members.seen, status.members.expected), lacks, ""))
            (tile("/services", "Endpoints healthy", &format!("{healthy} of {endpoints}"), healthy < endpoints,
                &format!("{} services", seen.services.len())))
            (tile("/graph", "Requests", &words::rate(all.rate), false, &heard(seen.traffic)))
            (tile("/graph", "Failed", &words::share(all.failed, all.requests), all.class() == "bad" || all.class() == "doubt",
                &format!("of {} in {} min", all.requests, seen.traffic.window_s.div_ceil(60).max(1))))
            (tile("/graph", "p99", &words::millis(all.quantile(0.99)), false, &format!("p50 {}", words::millis(all.quantile(0.5)))))
            @if !flow.is_idle() {
                (tile("/graph", "Connections open", &flow.open.to_string(), flow.class() == "bad" || flow.class() == "doubt",
                    &format!("{} led nowhere; {}", words::share(flow.failed, flow.opened), words::bytes_rate(flow.bytes_rate()))))
            }
            (tile("#out", "Ejected", &seen.concerns.ejected.len().to_string(), !seen.concerns.ejected.is_empty(),
                &format!("endpoints, by {} of this node", seen.outliers.iter().filter(|one| one.spared_by.is_none()).count())))
            (tile("/policy", "Policy", status.policy.digest.get(..8).unwrap_or_default(), !status.policy.stale.is_empty(), &spread(status)))
            (tile("/nodes", "Node CA ends in", &words::until(&status.certificates.node_ca_expires, now), false,
                &format!("leaf in {}; enrollers alive: {}", words::until(&status.certificates.leaf_expires, now), status.certificates.enrollers)))
            (tile("/metrics", "Memory", &words::bytes(status.memory_bytes), false,
                &format!("gossip {}/s", words::bytes(status.gossip_bytes_per_s))))
        }
    }
}

fn tile(path: &str, name: &str, value: &str, doubt: bool, more: &str) -> Markup {
    html! {
        a.tile.doubt[doubt] href=(path) {
            span.name { (name) }
            span.value { @if doubt { span aria-hidden="true" { "▲ " } } (value) }
            span.more { (more) }
        }
    }
}

fn spread(status: &Status) -> String {
    match status.policy.stale.as_slice() {
        [] => "the same everywhere".to_owned(),
        [one] => format!("not at {one}"),
        [one, rest @ ..] => format!("not at {one} and {} more", rest.len()),
    }
}

/// Whose counts these are.
pub(super) fn heard(traffic: &Traffic) -> String {
    let said = |nodes: usize, what: &str| if nodes == 0 { String::new() } else { format!(", {nodes} {what}") };
    let silent = said(traffic.silent.len(), "silent") + &said(traffic.other_version.len(), "of another version");
    let sample = match traffic.unasked {
        0 => String::new(),
        unasked => format!(", a sample of {}", asked(traffic) + unasked),
    };
    format!("seen by {}{silent}{sample}", words::count(traffic.heard.len(), "node"))
}

fn asked(traffic: &Traffic) -> usize {
    traffic.heard.len() + traffic.silent.len() + traffic.other_version.len()
}

/// That these are not the counts of all nodes, where they are not.
pub(super) fn sample(traffic: &Traffic) -> Markup {
    words::sample(asked(traffic), traffic.unasked)
}

/// Services with failed requests, the worst first.
fn failing(seen: &Seen<'_>) -> Markup {
    let mut services: std::collections::BTreeMap<&str, Golden> = std::collections::BTreeMap::new();
    seen.traffic.edges.iter().for_each(|edge| services.entry(&edge.service).or_default().add(edge));
    let mut failing: Vec<_> = services.into_iter().filter(|(_, sum)| sum.failed > 0).collect();
    failing.sort_by_key(|(_, sum)| std::cmp::Reverse(sum.failed));
    html! {
        @if !failing.is_empty() {
            h2 { "Failing" }
            table.cards {
                thead { tr { th scope="col" { "Service" } (Golden::heads()) th scope="col" { "How" } } }
                tbody {
                    @for (name, sum) in failing.iter().take(FAILING) {
                        tr {
                            th scope="row" { (words::link(words::service_path(name), name)) }
                            (sum.cells())
                            td data-label="How" {
                                @for (how, count) in sum.how().into_iter().take(3) { code { (how) } " ×" (count) " " }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Endpoints that fail for this node, whether it does without them or not.
pub(super) fn out(outliers: &[Outlier]) -> Markup {
    html! {
        @if !outliers.is_empty() {
            h2 { "Endpoints that fail" }
            table.cards {
                thead { tr {
                    th scope="col" { "Endpoint" } th scope="col" { "State" } th scope="col" { "Caller" } th scope="col" { "Why" }
                    th scope="col" { "Back at" } th scope="col" { "Reported by" }
                } }
                tbody {
                    @for outlier in outliers {
                        tr {
                            th scope="row" { (outlier.endpoint) }
                            td data-label="State" { (words::state(&outlier.state)) }
                            td data-label="Caller" { (outlier.caller) }
                            td data-label="Why" {
                                code { (outlier.reason) } " ×" (outlier.times)
                                @if let Some(why) = &outlier.spared_by { "; " (why) }
                            }
                            td data-label="Back at" { time datetime=(outlier.until) { (words::when(&outlier.until)) } }
                            td data-label="Reported by" { (outlier.witnesses.join(", ")) }
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
    use crate::web::figures::edge;
    use serde_json::json;

    fn seen<'t>(traffic: &'t Traffic, concerns: &'t Concerns) -> Seen<'t> {
        let status = json!({
            "node": "web-1", "trust_domain": "t.example", "state": "degraded",
            "problems": [{"code": "members_missing", "message": "you see 1 of 2 nodes; missing: <b>", "hint": "start it", "severity": "degraded"}],
            "members": {"seen": 1, "expected": 2}, "policy": {"digest": "0123456789abcdef", "stale": ["cart-1"]},
            "certificates": {"node_ca_expires": "1970-01-03T00:00:00Z", "leaf_expires": "1970-01-01T01:00:00Z", "enrollers": 1},
            "memory_bytes": 1048576, "gossip_bytes_per_s": 10, "gossip_lanes": {}
        });
        let status = serde_json::from_value(status).unwrap();
        Seen { status, services: Vec::new(), outliers: Vec::new(), events: &[], traffic, concerns }
    }

    #[test]
    fn a_flood_of_events_leaves_room_for_the_rest() {
        let event = |kind: &str, number: usize| Event {
            time: String::new(),
            kind: kind.into(),
            subject: number.to_string(),
            message: String::new(),
            seen_by: Vec::new(),
            kept_by: Vec::new(),
        };
        let mut events: Vec<Event> = (0..6).map(|number| event("policy_applied", number)).collect();
        events.extend((6..40).map(|number| event("health", number)));
        events.push(event("member_dead", 40));
        let shown: Vec<&str> = latest(&events).iter().map(|event| event.subject.as_str()).collect();
        assert_eq!(shown, ["40", "39", "38", "37", "36", "35", "34", "33", "5", "4", "3", "2"]);
        let few: Vec<&str> = latest(&events[..3]).iter().map(|event| event.subject.as_str()).collect();
        assert_eq!(few, ["2", "1", "0"]);
    }

    #[test]
    fn a_sample_is_called_one_before_anything_else() {
        let node = |number: usize| certs::id::NodeId::new(&format!("n{number}")).unwrap();
        let traffic = Traffic {
            node: node(0),
            window_s: 900,
            slot_s: 30,
            heard: (0..200).map(node).collect(),
            silent: vec![node(200)],
            other_version: vec![node(201), node(202)],
            unasked: 797,
            left_out: 0,
            connections: Vec::new(),
            edges: Vec::new(),
        };
        let concerns = Concerns::default();
        let text = page(&seen(&traffic, &concerns), 0).into_string();
        let at = |word: &str| text.find(word).unwrap_or_else(|| panic!("{word} is missing in {text}"));
        assert!(at("203 of 1000 nodes were asked") < at("Attention"));
        assert!(text.contains("seen by 200 nodes, 1 silent, 2 of another version, a sample of 1000"), "{text}");
        let whole = Traffic { unasked: 0, ..traffic };
        assert!(!page(&seen(&whole, &concerns), 0).into_string().contains("A sample"));
    }

    #[test]
    fn what_is_wrong_comes_first() {
        let traffic = Traffic {
            node: certs::id::NodeId::new("web-1").unwrap(),
            window_s: 900,
            slot_s: 30,
            heard: vec![certs::id::NodeId::new("web-1").unwrap()],
            silent: Vec::new(),
            other_version: Vec::new(),
            unasked: 0,
            left_out: 0,
            connections: Vec::new(),
            edges: vec![edge(("shop/web", "v1"), ("shop/cart", "v1"), 10, 5)],
        };
        let problem = |node: &str, code: &str| json!({"severity": "critical", "code": code, "message": "<i>", "hint": "", "nodes": [node]});
        let ejected = |node: &str, endpoint: &str| json!({"node": node, "service": "shop/cart", "endpoint": endpoint, "caller": "shop/web", "reason": "5xx", "until": ""});
        let concerns = json!({
            "heard": ["web-1", "cart-1"], "silent": [], "certificates": [],
            "problems": [problem("cart-1", "storage_full"), problem("web-1", "said_above")],
            "ejected": [ejected("cart-1", "theirs"), ejected("web-1", "ours")],
        });
        let concerns = serde_json::from_value(concerns).unwrap();
        let text = page(&seen(&traffic, &concerns), 0).into_string();
        let at = |word: &str| text.find(word).unwrap_or_else(|| panic!("{word} is missing in {text}"));
        assert!(at("members_missing") < at("Nodes seen") && at("Nodes seen") < at("503 UH"));
        assert!(
            text.contains("missing: &lt;b&gt;") && text.contains("not at cart-1") && text.contains("seen by 1 node<")
        );
        assert!(
            text.contains("at cart-1: &lt;i&gt;") && text.contains("theirs") && !text.contains("said_above"),
            "{text}"
        );
        assert!(at("storage_full") < at("Nodes seen") && !text.contains(">ours<"));
        assert!(text.contains("href=\"/services/shop/cart\"") && text.contains("50.0 %"));
    }
}
