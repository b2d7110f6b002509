//! How the endpoints of a ServiceEntry are found, and what else may then be said of it.

use super::{PortProtocol, ServiceEntry, ServiceLocation};
use crate::{
    codes,
    decode::{At, Fields},
    parse::Metadata,
};

/// Istio's label that binds a service to a waypoint of ambient mode.
const USE_WAYPOINT: &str = "istio.io/use-waypoint";

/// `resolution`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Resolution {
    /// The address to which the application connected, whichever it is; the default. An application that names the host to its node has
    /// connected to none: the node resolves the host in its place.
    #[default]
    None,
    /// The addresses of the endpoints.
    Static,
    /// All addresses that DNS gives for the endpoints' names, or for the hosts if there are no endpoints.
    Dns,
    /// As `Dns`, each connection going to the first address of the last answer.
    DnsRoundRobin,
    /// The address of the name that the request itself gives, in its host or SNI: looked up when it comes.
    DynamicDns,
}

const WORDS: [(&str, Resolution); 5] = [
    ("NONE", Resolution::None),
    ("STATIC", Resolution::Static),
    ("DNS", Resolution::Dns),
    ("DNS_ROUND_ROBIN", Resolution::DnsRoundRobin),
    ("DYNAMIC_DNS", Resolution::DynamicDns),
];

impl Resolution {
    /// The word of Istio's API.
    pub fn as_str(self) -> &'static str {
        WORDS.iter().find(|(_, known)| *known == self).map_or("", |(word, _)| word)
    }

    pub(super) fn decode(fields: &Fields<'_>) -> Self {
        fields.get("resolution").and_then(|word| word.word(&WORDS)).unwrap_or_default()
    }

    /// The rules of a host, whose form is valid.
    pub(super) fn fits_host(self, at: &At<'_>, host: &str, has_endpoints: bool) {
        let wildcard = host.starts_with('*');
        match self {
            Self::DynamicDns if !wildcard => {
                let message = "host must be wildcarded for resolution mode DYNAMIC_DNS";
                at.error_as_istio(codes::RESOLUTION, message, "write `resolution: DNS`");
            }
            Self::Dns | Self::DnsRoundRobin if wildcard && !has_endpoints => {
                let message = format!("`{host}` cannot be resolved: hosts must be FQDN if no endpoints are provided");
                at.error_hint(codes::RESOLUTION, message, "list endpoints, or write `resolution: DYNAMIC_DNS`");
            }
            Self::None | Self::Static | Self::Dns | Self::DnsRoundRobin | Self::DynamicDns => {}
        }
        if self != Self::DynamicDns && wildcard && !host.starts_with("*.") {
            at.warn(codes::PARTIAL_WILDCARD, format!("partial wildcard {host:?} not allowed"), "write *.example.com");
        }
    }
}

/// The rules between the fields of a ServiceEntry.
pub(super) fn check(fields: &Fields<'_>, entry: &ServiceEntry, metadata: &Metadata) {
    match entry.resolution {
        Resolution::None => check_none(fields, entry),
        Resolution::Static => {}
        Resolution::Dns | Resolution::DnsRoundRobin => check_dns(fields, entry),
        Resolution::DynamicDns => check_dynamic(fields, entry, metadata),
    }
    check_hosts_and_ports(fields, entry);
}

fn check_none(fields: &Fields<'_>, entry: &ServiceEntry) {
    if let Some(at) = fields.get("endpoints").filter(|_| !entry.endpoints.is_empty()) {
        let message = "no endpoints should be provided for resolution type none";
        at.error_as_istio(codes::RESOLUTION, message, "write `resolution: STATIC` or DNS");
    }
    if let Some(at) = fields.get("workloadSelector") {
        let message = "workloadSelector should not be set when resolution mode is NONE";
        at.warn(codes::IGNORED, message, "write `resolution: STATIC`");
    }
}

fn check_dns(fields: &Fields<'_>, entry: &ServiceEntry) {
    if entry.resolution == Resolution::DnsRoundRobin
        && entry.endpoints.len() > 1
        && let Some(at) = fields.get("endpoints")
    {
        let message = "there must only be 0 or 1 endpoint for resolution mode DNS_ROUND_ROBIN";
        at.error_as_istio(codes::RESOLUTION, message, "write `resolution: DNS`");
    }
    let bytes = entry.ports.iter().any(|port| port.protocol.is_some_and(PortProtocol::is_tcp));
    if !entry.addresses.is_empty()
        && entry.hosts.len() > 1
        && bytes
        && let Some(at) = fields.get("hosts")
    {
        let message =
            "service entry can not have more than one host specified simultaneously with address and tcp port";
        at.warn(codes::AMBIGUOUS_HOST, message, "write one ServiceEntry for each host");
    }
}

fn check_dynamic(fields: &Fields<'_>, entry: &ServiceEntry, metadata: &Metadata) {
    for (field, empty) in [("addresses", entry.addresses.is_empty()), ("endpoints", entry.endpoints.is_empty())] {
        if let Some(at) = fields.get(field).filter(|_| !empty) {
            let message = format!("{field} cannot be set for resolution type DYNAMIC_DNS");
            at.error_as_istio(codes::RESOLUTION, message, "");
        }
    }
    let named = [PortProtocol::Http, PortProtocol::Http2, PortProtocol::Grpc, PortProtocol::Tls];
    let ports = fields.get("ports");
    if let Some(at) =
        ports.filter(|_| !entry.ports.iter().all(|port| port.protocol.is_some_and(|one| named.contains(&one))))
    {
        let message = "only HTTP, TLS, GRPC, and HTTP2 protocols are supported for resolution type DYNAMIC_DNS";
        at.error_as_istio(codes::RESOLUTION, message, "others do not name the host that is meant");
    }
    let waypoint = metadata.labels.get(USE_WAYPOINT);
    let waypoint = waypoint.is_some_and(|name| !name.is_empty() && !name.eq_ignore_ascii_case("none"));
    if entry.location == ServiceLocation::Internal && waypoint {
        let message = "location MESH_INTERNAL with resolution type DYNAMIC_DNS is not supported when using waypoints";
        fields.at.error_as_istio(codes::RESOLUTION, message, &format!("remove the label {USE_WAYPOINT}"));
    }
}

/// Hosts that share a port are told apart by HTTP's host or by SNI, or not at all.
fn check_hosts_and_ports(fields: &Fields<'_>, entry: &ServiceEntry) {
    if entry.resolution == Resolution::None || entry.hosts.len() < 2 {
        return;
    }
    let told_apart = |protocol: PortProtocol| protocol.is_http() || protocol.is_tls();
    if !entry.ports.iter().all(|port| port.protocol.is_some_and(told_apart))
        && let Some(at) = fields.get("ports")
    {
        let message = "multiple hosts provided with non-HTTP, non-TLS ports";
        at.error_as_istio(codes::RESOLUTION, message, "write one ServiceEntry for each host");
    }
}
