//! `TLSRoute`: rules for TLS that is passed on unopened, by the name that the client asks for.

use super::{L4Match, RouteDestination, tcp_route::decode_route};
use crate::{codes, decode::At, hosts};

/// `TLSRoute`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsRoute {
    /// Line in the pushed file, from 1; 0 if unknown.
    pub line: usize,
    /// Any of them; never none.
    pub matches: Vec<TlsMatch>,
    /// One of these, by weight, for each connection.
    pub route: Vec<RouteDestination>,
}

/// `TLSMatchAttributes`: all conditions hold.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TlsMatch {
    /// Any of them is or covers the server name of the ClientHello; lower case, a wildcard only as prefix. Of several rules the
    /// one with the most specific name wins, whatever their order.
    pub sni_hosts: Vec<String>,
    /// The other conditions.
    pub connection: L4Match,
}

/// What of the document a rule for TLS is judged by.
pub(super) struct Hosts<'h> {
    pub(super) namespace: &'h str,
    /// As written.
    pub(super) hosts: &'h [&'h str],
    pub(super) only_gateways: bool,
}

impl TlsRoute {
    pub(super) fn decode(at: &At<'_>, of: &Hosts<'_>) -> Option<Self> {
        let fields = at.fields()?;
        let list = fields.get("match");
        let items = list.as_ref().map(At::items).unwrap_or_default();
        if items.is_empty() {
            at.error_as_istio(codes::MISSING, "TLS route must have at least one match condition", "match sniHosts");
        }
        let matches = items.iter().filter_map(|item| {
            let fields = item.fields()?;
            let names = fields.get("sniHosts");
            let names = names.as_ref().map(At::text_list).unwrap_or_default();
            if names.is_empty() {
                item.error_as_istio(codes::SNI, "TLS match must have at least one SNI host", "");
            }
            names.iter().for_each(|(name, at)| check_sni(name, at, of));
            let sni_hosts = names.iter().map(|(name, _)| name.to_ascii_lowercase()).collect();
            let connection = L4Match::read(&fields, of.namespace);
            fields.finish();
            Some(TlsMatch { sni_hosts, connection })
        });
        let matches = matches.collect();
        let route = decode_route(&fields, of.namespace, "TLS route is required");
        fields.finish();
        Some(Self { line: at.line(), matches, route })
    }
}

fn check_sni(name: &str, at: &At<'_>, of: &Hosts<'_>) {
    let valid = hosts::is_wildcard_name(name) || (of.only_gateways && is_sni_cluster(name));
    if !valid {
        if name.parse::<std::net::IpAddr>().is_ok() {
            let message = format!("using an IP address (\"{name}\") goes against the SNI spec");
            at.warn(codes::SNI_ADDRESS, message, "most clients send no address: match destinationSubnets");
        } else {
            at.error(codes::SNI, format!("`{name}` is not a host name"));
        }
        return;
    }
    if !of.hosts.iter().any(|host| hosts::covers(&host.to_ascii_lowercase(), &name.to_ascii_lowercase())) {
        let message = format!(
            "SNI host \"{name}\" is not a compatible subset of any of the virtual service hosts: [{}]",
            of.hosts.join(", ")
        );
        at.error_as_istio(codes::SNI, message, "add it to `hosts`");
    }
}

/// A server name that meshes make for each other: `outbound_.80_._.NAME`.
pub(super) fn is_sni_cluster(name: &str) -> bool {
    let Some(rest) = name.strip_prefix("outbound_.") else { return false };
    name.len() <= 255 && rest.bytes().next().is_some_and(|byte| byte.is_ascii_digit())
}
