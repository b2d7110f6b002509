//! `TCPRoute`: rules for connections whose bytes say nothing of a host.

use std::collections::BTreeMap;

use super::{
    GatewayName, RouteDestination, Subnet,
    http_match::{match_gateways, match_port, source_namespace},
};
use crate::{
    codes,
    decode::{At, Fields},
};

/// `TCPRoute`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TcpRoute {
    /// Line in the pushed file, from 1; 0 if unknown.
    pub line: usize,
    /// Any of them; none means always.
    pub matches: Vec<L4Match>,
    /// One of these, by weight, for each connection.
    pub route: Vec<RouteDestination>,
}

/// `L4MatchAttributes`: all conditions hold. Other than for HTTP, `gateways` does not void those on the source.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct L4Match {
    /// Any of them holds the address that the caller meant to reach; none means any. With several rules the longest prefix wins.
    pub destination_subnets: Vec<Subnet>,
    /// The addressed service port.
    pub port: Option<u16>,
    /// Labels of the calling workload.
    pub source_labels: BTreeMap<String, String>,
    /// Namespace of the calling workload.
    pub source_namespace: Option<String>,
    /// Instead of the VirtualService's own.
    pub gateways: Option<Vec<GatewayName>>,
}

impl TcpRoute {
    pub(super) fn decode(at: &At<'_>, namespace: &str) -> Option<Self> {
        let fields = at.fields()?;
        let list = fields.get("match");
        let items = list.as_ref().map(At::items).unwrap_or_default();
        let matches = items.iter().filter_map(|item| {
            let fields = item.fields()?;
            let condition = L4Match::read(&fields, namespace);
            fields.ignored(&["sourceSubnet"]);
            fields.finish();
            Some(condition)
        });
        let matches = matches.collect();
        let route = decode_route(&fields, namespace, "TCP route is required");
        fields.finish();
        Some(Self { line: at.line(), matches, route })
    }
}

/// `route` of a rule for connections, which must have a destination.
pub(super) fn decode_route(fields: &Fields<'_>, namespace: &str, missing: &str) -> Vec<RouteDestination> {
    let list = fields.get("route");
    if list.as_ref().is_none_or(At::is_empty_list) {
        fields.at.error_as_istio(codes::NO_ACTION, missing, "give it a route");
    }
    list.map(|list| RouteDestination::decode_list(&list, namespace)).unwrap_or_default()
}

impl L4Match {
    /// What a condition for TCP and one for TLS have in common.
    pub(super) fn read(fields: &Fields<'_>, namespace: &str) -> Self {
        Self {
            destination_subnets: fields
                .get("destinationSubnets")
                .map(|list| Subnet::decode_list(&list))
                .unwrap_or_default(),
            port: match_port(fields),
            source_labels: fields.get("sourceLabels").map(|labels| labels.labels()).unwrap_or_default(),
            source_namespace: source_namespace(fields),
            gateways: match_gateways(fields, namespace),
        }
    }
}

/// Warns of rules behind one that takes every connection, and of conditions that stand twice.
pub(super) fn warn_unreachable<'m, M: PartialEq + 'm>(rules: impl Iterator<Item = (At<'m>, &'m [M])>) {
    let mut ended = false;
    let mut seen: Vec<&M> = Vec::new();
    for (at, matches) in rules {
        if ended {
            at.warn(codes::UNREACHABLE_RULE, "no connection reaches this rule: one before it takes all", "move it up");
            continue;
        }
        if matches.iter().any(|condition| seen.contains(&condition)) {
            at.warn(codes::DUPLICATE_MATCH, "a condition of this rule stands in a rule before", "");
        }
        seen.extend(matches);
        ended = matches.is_empty();
    }
}
