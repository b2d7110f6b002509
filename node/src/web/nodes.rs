//! The nodes: who is there, who reaches whom, and who says what of one.

use maud::{Markup, html};

use super::{
    paging,
    words::{self, segment, short},
};
use crate::agent::admin::api::{Member, MemberDetail, NodeConnections, Status};

/// Nodes whose matrix still fits a screen; beyond that it says nothing.
pub(super) const MATRIX: usize = 40;

/// The list and who reaches whom.
pub(super) fn list(members: &[Member], status: &Status, page: usize) -> Markup {
    let part = paging::part(members, page);
    html! {
        h1 { "Nodes" }
        section #nodes data-live {
            p { (status.members.seen) " of " (status.members.expected) " seen by " (status.node) "." }
            table.cards {
                thead { tr {
                    th scope="col" { "Node" } th scope="col" { "State" } th scope="col" { "Since" } th scope="col" { "Address" }
                    th.number scope="col" { "Round trip" } th scope="col" { "Locality" } th scope="col" { "Version" }
                    th.number scope="col" { "Connections" } th scope="col" { "Policy" }
                } }
                tbody {
                    @for member in part.rows {
                        tr {
                            th scope="row" {
                                a href={ "/nodes/" (segment(member.name.as_str())) } { (member.name) }
                                @if member.own { " (this one)" }
                            }
                            td data-label="State" { (words::state(&member.state)) }
                            td data-label="Since" { (words::past(&member.since)) }
                            td data-label="Address" { (member.address) }
                            td.number data-label="Round trip" { (words::millis(member.rtt_ms)) }
                            td data-label="Locality" { (member.locality) }
                            td data-label="Version" { (member.version) }
                            td.number data-label="Connections" { @if !member.own { (connections(&member.connections)) } }
                            td data-label="Policy" {
                                @if let Some(policy) = &member.policy { code { (short(policy)) } }
                                @if status.policy.stale.contains(&member.name) { " " (words::state("degraded")) " another set" }
                            }
                        }
                    }
                }
            }
        }
        (part.links("/nodes?page="))
        section #reach data-live { (matrix(members)) }
    }
}

/// How many there are with a node, and what is under way on them.
fn connections(of: &NodeConnections) -> Markup {
    let by = [(of.quic, "QUIC"), (of.tcp, "TCP")];
    let by: Vec<_> = by.iter().filter(|(count, _)| *count > 0).map(|(count, over)| format!("{count} {over}")).collect();
    html! {
        @if by.is_empty() { "–" } @else { (by.join(", ")) }
        @if of.requests > 0 { " · " (of.requests) " under way" }
        @if of.waiting > 0 { " · " span.doubt { (of.waiting) " wait for room" } }
    }
}

/// Rows reach columns.
fn matrix(members: &[Member]) -> Markup {
    let there: Vec<&Member> =
        members.iter().filter(|member| matches!(member.state.as_str(), "alive" | "suspect")).collect();
    html! {
        h2 { "Who reaches whom" }
        @if there.len() > MATRIX {
            p { "Too many nodes to draw; " code { "skein members --reach" } " lists them." }
        } @else {
            p.hint { "A row's node measures the round trip to a column's over the link that it has with it. In a mesh of more than 32 nodes not every two have one." }
            div.scroll tabindex="0" role="region" aria-label="Who reaches whom" {
                table.matrix {
                    thead { tr { th scope="col" { "" } @for member in &there { th scope="col" { (member.name) } } } }
                    tbody {
                        @for row in &there {
                            tr {
                                th scope="row" { (row.name) }
                                @for column in &there { (cell(row, column)) }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn cell(row: &Member, column: &Member) -> Markup {
    if row.name == column.name {
        return html! { td.self { "–" } };
    }
    match &row.reaches {
        None if row.unasked => html! { td.unknown title="it was not asked" { "·" } },
        None if row.other_version => html! { td.unknown title="it runs another version, which does not tell" { "·" } },
        None => html! { td.unknown title="it did not answer" { "?" } },
        Some(reaches) => match reaches.get(&column.name) {
            Some(rtt) => {
                html! { td class={ "number " (if *rtt < 50.0 { "good" } else { "doubt" }) } { (words::millis(Some(*rtt))) } }
            }
            None => html! { td.none title="no link" { "✕" } },
        },
    }
}

/// One node.
pub(super) fn one(detail: &MemberDetail) -> Markup {
    let member = &detail.member;
    html! {
        h1 { (member.name) " " (words::state(&member.state)) }
        section #node data-live {
            dl {
                dt { "Since" } dd { (words::past(&member.since)) }
                dt { "Address" } dd { (member.address) }
                dt { "Round trip" } dd { (words::millis(member.rtt_ms)) }
                @if !member.own { dt { "Connections" } dd { (connections(&member.connections)) } }
                @if !member.locality.is_empty() { dt { "Locality" } dd { (member.locality) } }
                dt { "Version" } dd { (member.version) }
                @if let Some(started) = &detail.started { dt { "Started" } dd { (words::past(started)) } }
                dt { "Generation" } dd { (detail.generation) ", epoch " (detail.epoch) }
                @if let Some(grant) = &detail.grant {
                    dt { "Granted" }
                    dd {
                        @for granted in &grant.services { (granted.service.to_string()) " as " (granted.account.to_string()) " " }
                        @if grant.enroller { "and to enrol others" }
                    }
                }
                dt { "Offers" } dd {
                    @for service in &detail.services { (words::link(words::service_path(service), service)) " " }
                }
            }
        }
        section #reports data-live {
            h2 { "Who says what of it" }
            table.cards {
                thead { tr { th scope="col" { "Who" } th scope="col" { "Says" } th scope="col" { "How it comes here" } th scope="col" { "Since" } } }
                tbody {
                    @for report in &detail.reports {
                        tr {
                            th scope="row" { a href={ "/nodes/" (segment(report.by.as_str())) } { (report.by) } }
                            td data-label="Says" { (report.says) }
                            td data-label="How" { (report.path) }
                            td data-label="Since" { (words::past(&report.since)) }
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
    use certs::id::NodeId;
    use std::collections::BTreeMap;

    fn member(name: &str, reaches: Option<&[(&str, f64)]>) -> Member {
        let node = |name: &str| NodeId::new(name).unwrap();
        Member {
            name: node(name),
            state: "alive".into(),
            address: "10.0.0.1:15008".into(),
            locality: "<eu>".into(),
            version: String::new(),
            since: "2030-01-01T00:00:00Z".into(),
            own: name == "a",
            rtt_ms: Some(0.4),
            loss: None,
            reaches: reaches.map(|all| all.iter().map(|(name, rtt)| (node(name), *rtt)).collect::<BTreeMap<_, _>>()),
            unasked: false,
            other_version: false,
            enroller: false,
            policy: None,
            connections: NodeConnections { quic: 2, requests: 7, ..NodeConnections::default() },
        }
    }

    #[test]
    fn connections_are_said_by_transport() {
        let text = connections(&member("b", None).connections).into_string();
        assert_eq!(text, "2 QUIC · 7 under way");
        let both = NodeConnections { quic: 1, tcp: 3, waiting: 2, ..NodeConnections::default() };
        assert!(connections(&both).into_string().starts_with("1 QUIC, 3 TCP · <span"));
        assert_eq!(connections(&NodeConnections::default()).into_string(), "–");
    }

    #[test]
    fn the_matrix_tells_silence_from_a_missing_link() {
        let members =
            [member("a", Some(&[("b", 0.4), ("c", 80.0)])), member("b", None), member("c", Some(&[("a", 0.5)]))];
        let text = matrix(&members).into_string();
        assert_eq!((text.matches("✕").count(), text.matches(">?<").count()), (1, 2), "{text}");
        let unasked = matrix(&[member("a", Some(&[])), Member { unasked: true, ..member("b", None) }]).into_string();
        assert!(unasked.contains("it was not asked") && !unasked.contains(">?<"), "{unasked}");
        let other =
            matrix(&[member("a", Some(&[])), Member { other_version: true, ..member("b", None) }]).into_string();
        assert!(other.contains("another version") && !other.contains(">?<"), "{other}");
        assert!(text.contains("0.4 ms") && text.contains("class=\"number doubt\">80 ms"));
        let many: Vec<Member> = (0..=MATRIX).map(|number| member(&format!("n{number}"), None)).collect();
        assert!(matrix(&many).into_string().contains("members --reach"));
    }
}
