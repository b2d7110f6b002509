//! Connection -> route: rules for bytes and for TLS that is passed on unopened.

use std::{cmp::Reverse, net::IpAddr, sync::Arc};

use super::{Called, Route, Source};
use crate::{
    compile::{Bytes, Compiled, Virtual},
    hosts,
    kinds::{GatewayName, L4Match, TcpRoute, TlsMatch, TlsRoute},
};

/// What routing reads of a connection.
pub struct Connection<'a> {
    /// What it is for; the gateway's service where it came in at one.
    pub called: &'a Called,
    /// Its port; the listener's port, as documents name it, where it came in at a gateway.
    pub port: u16,
    /// Who connects.
    pub source: &'a Source,
    /// The address that the caller meant to reach, where it is known.
    pub address: Option<IpAddr>,
}

/// The route of a connection of bytes: of the first rule that holds, but that among rules for addresses the one with the longest
/// prefix wins; else the service's default route.
pub fn route_tcp(compiled: &Compiled, connection: &Connection<'_>) -> Arc<Route> {
    let namespace = connection.source.namespace.as_str();
    let default = || default(compiled, connection.called, namespace);
    let Some(found) = virtual_service(compiled, connection) else { return default() };
    best_tcp(found.tcp(namespace), connection, &GatewayName::Mesh).cloned().unwrap_or_else(default)
}

fn best_tcp<'r>(
    rules: impl Iterator<Item = (&'r TcpRoute, &'r Arc<Route>)>,
    connection: &Connection<'_>,
    place: &GatewayName,
) -> Option<&'r Arc<Route>> {
    let mut best: Option<(u8, &Arc<Route>)> = None;
    for (rule, route) in rules {
        let always = rule.matches.is_empty().then_some(0);
        let held = rule.matches.iter().filter_map(|condition| holds(condition, connection, place)).chain(always).max();
        let Some(length) = held else { continue };
        if best.is_none_or(|(longest, _)| length > longest) {
            best = Some((length, route));
        }
        let ends = |condition: &L4Match| {
            condition.destination_subnets.is_empty() && holds(condition, connection, place).is_some()
        };
        if rule.matches.is_empty() || rule.matches.iter().any(ends) {
            break;
        }
    }
    best.map(|(_, route)| route)
}

/// The route of a connection of TLS that asks for this server name, empty if for none: of the rules with the smallest network that the
/// connection meant, as Envoy's filter chains have it, the one with the most specific name that covers it, the first among equals; else that
/// of a connection of bytes.
pub fn route_tls(compiled: &Compiled, connection: &Connection<'_>, server_name: &str) -> Arc<Route> {
    let namespace = connection.source.namespace.as_str();
    let found = virtual_service(compiled, connection);
    let rules = found.into_iter().flat_map(|found| found.tls(namespace));
    let best = best_tls(rules, connection, server_name, &GatewayName::Mesh).cloned();
    best.unwrap_or_else(|| route_tcp(compiled, connection))
}

fn best_tls<'r>(
    rules: impl Iterator<Item = (&'r TlsRoute, &'r Arc<Route>)>,
    connection: &Connection<'_>,
    server_name: &str,
    place: &GatewayName,
) -> Option<&'r Arc<Route>> {
    let server_name = server_name.to_ascii_lowercase();
    let specificity = |condition: &TlsMatch| {
        let length = holds(&condition.connection, connection, place)?;
        let names = condition.sni_hosts.iter().filter(|name| hosts::covers(name, &server_name));
        names.map(|name| (length, !name.starts_with('*'), name.len())).max()
    };
    let held = rules.filter_map(|(rule, route)| Some((rule.matches.iter().filter_map(specificity).max()?, route)));
    // `min_by_key` keeps the first of equals.
    held.min_by_key(|(specificity, _)| Reverse(*specificity)).map(|(_, route)| route)
}

/// The route of a connection of bytes that came in at a gateway's port: that of the oldest VirtualService there which has a rule
/// for it. There is no default.
pub fn enter_tcp(bytes: &Bytes, connection: &Connection<'_>) -> Option<Arc<Route>> {
    let namespace = connection.source.namespace.as_str();
    let place = bytes.gateway();
    bytes.attached().find_map(|one| best_tcp(one.tcp(namespace), connection, place)).cloned()
}

/// The same of a connection whose TLS passes unopened, by the server name that it asks for: the most specific name of all
/// VirtualServices there.
pub fn enter_tls(bytes: &Bytes, connection: &Connection<'_>, server_name: &str) -> Option<Arc<Route>> {
    let namespace = connection.source.namespace.as_str();
    let rules = bytes.attached().flat_map(|one| one.tls(namespace));
    best_tls(rules, connection, server_name, bytes.gateway()).cloned()
}

fn virtual_service<'c>(compiled: &'c Compiled, connection: &Connection<'_>) -> Option<&'c Arc<Virtual>> {
    let scope = compiled.scope(connection.source).at(connection.port);
    match connection.called {
        Called::Service(service) => compiled.virtual_service(service, scope),
        Called::Host(host) => compiled.virtual_service_of_entry(host, scope),
    }
}

fn default(compiled: &Compiled, called: &Called, namespace: &str) -> Arc<Route> {
    match called {
        Called::Service(service) => compiled.default_route(service, namespace),
        Called::Host(host) => {
            let made = compiled.entries().find(host, namespace);
            compiled.entry_route(made.map_or(host, |made| &made.host), namespace)
        }
    }
}

/// How many bits of the address counted, if every condition holds.
fn holds(condition: &L4Match, connection: &Connection<'_>, place: &GatewayName) -> Option<u8> {
    let source = connection.source;
    let labels = condition.source_labels.iter().all(|(key, value)| source.labels.get(key) == Some(value));
    let namespace = condition.source_namespace.as_ref().is_none_or(|namespace| *namespace == source.namespace);
    let port = condition.port.is_none_or(|port| port == connection.port);
    let here = condition.gateways.as_ref().is_none_or(|gateways| gateways.contains(place));
    if !(labels && namespace && port && here) {
        return None;
    }
    if condition.destination_subnets.is_empty() {
        return Some(0);
    }
    let address = connection.address?;
    condition.destination_subnets.iter().filter(|subnet| subnet.contains(address)).map(|subnet| subnet.length()).max()
}

#[cfg(test)]
mod tests;
