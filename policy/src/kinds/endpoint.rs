//! What a WorkloadEntry, an endpoint of a ServiceEntry and the template of a WorkloadGroup have in common.

use std::{collections::BTreeMap, net::IpAddr};

use super::{Resolution, ServiceEntryPort, bind::UnixSocket};
use crate::{
    codes,
    decode::{At, Fields},
    hosts,
};

/// Ports of an endpoint at most, as in Istio.
const MAX_PORTS: usize = 128;
/// Labels of an endpoint at most, as in Istio.
const MAX_LABELS: usize = 256;
/// Characters of `network` and `locality` at most, as in Istio.
const MAX_PLACE: usize = 2_048;
/// Characters of a service account at most, as in Istio.
const MAX_SERVICE_ACCOUNT: usize = 253;
/// Istio's label that says how an endpoint takes connections.
const TLS_MODE: &str = "security.istio.io/tlsMode";
/// By mutual TLS with an identity of the mesh.
const MESH_TLS: &str = "istio";
/// The account of an endpoint that names none.
const DEFAULT_SERVICE_ACCOUNT: &str = "default";

/// Istio's message `WorkloadEntry`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Where it is; `None` if only its network is known, and in a template.
    pub address: Option<EndpointAddress>,
    /// Port name of the service, and the endpoint's own port.
    pub ports: BTreeMap<String, u16>,
    /// Labels, by which services and policy select it.
    pub labels: BTreeMap<String, String>,
    /// Endpoints of one network reach each other directly; empty by default.
    pub network: String,
    /// The failure domain that it is in.
    pub locality: Locality,
    /// Its share of the load among the endpoints, at least 1.
    pub weight: u32,
    /// The name of its identity, `default` if none is given.
    pub service_account: String,
}

/// Where an endpoint is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum EndpointAddress {
    /// An address; ports are those of the endpoint or the service.
    Ip(IpAddr),
    /// A DNS name, lower case, which is resolved.
    Name(String),
    /// A socket of the machine.
    Unix(UnixSocket),
}

/// `region/zone/subzone`; a part that is not given is empty.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Locality {
    /// The widest domain.
    pub region: String,
    /// Within the region.
    pub zone: String,
    /// Within the zone.
    pub subzone: String,
}

/// Where an endpoint stands: that decides on its address and ports.
#[derive(Clone, Copy)]
pub(super) enum Within<'p> {
    /// A document of its own: which service it serves is not known.
    WorkloadEntry,
    /// The template of a group: an address comes with each endpoint.
    Template,
    /// A service with this resolution and these ports.
    Service(Resolution, &'p [ServiceEntryPort]),
}

impl Within<'_> {
    /// True if addresses are resolved by DNS.
    fn is_dns(self) -> bool {
        matches!(self, Self::Service(Resolution::Dns | Resolution::DnsRoundRobin, _))
    }
}

impl Endpoint {
    pub(super) fn decode(at: &At<'_>, within: Within<'_>) -> Option<Self> {
        let fields = at.fields()?;
        // Looked at once, so that what is wrong with it is said once.
        let named = fields.filled("network");
        let network = up_to(named.as_ref(), "network", MAX_PLACE);
        let address = decode_address(&fields, within, &network);
        if let Some((_, at)) = named.filter(|_| address.is_some() || matches!(within, Within::Template)) {
            let message = "`network` has no meaning here: whoever calls connects to the endpoint's address";
            at.warn(codes::IGNORED, message, "leave it out, and write an address that callers reach");
        }
        let ports = decode_ports(&fields, within);
        if let Some(EndpointAddress::Unix(_)) = &address {
            unix_has_one_port(&fields, &ports, within);
        }
        let labels = fields.get("labels").map(|labels| {
            labels.limit(MAX_LABELS);
            let read = labels.labels();
            if read.get(TLS_MODE).is_some_and(|mode| mode == MESH_TLS) {
                labels.unbuilt(format!(
                    "mutual TLS of the mesh towards an endpoint without a node (`{TLS_MODE}: {MESH_TLS}`)"
                ));
            }
            read
        });
        let weight = fields.get("weight").and_then(|weight| weight.integer(0..=u32::MAX.into()));
        let account = text_up_to(&fields, "serviceAccount", MAX_SERVICE_ACCOUNT);
        let endpoint = Self {
            address,
            ports,
            labels: labels.unwrap_or_default(),
            network,
            locality: Locality::decode(&fields),
            weight: weight.and_then(|weight| u32::try_from(weight).ok()).unwrap_or_default().max(1),
            service_account: if account.is_empty() { DEFAULT_SERVICE_ACCOUNT.to_owned() } else { account },
        };
        if matches!(within, Within::Template) {
            fields.not_supported_because(&["ports"], "`ports` of a `[[service]]` in skein.toml say what it serves");
            fields.not_supported_because(&["locality"], "`[node] locality` in skein.toml says where a node is");
        }
        fields.finish();
        Some(endpoint)
    }
}

fn text_up_to(fields: &Fields<'_>, name: &'static str, limit: usize) -> String {
    up_to(fields.filled(name).as_ref(), name, limit)
}

fn up_to(found: Option<&(&str, At<'_>)>, name: &'static str, limit: usize) -> String {
    let Some((text, at)) = found else { return String::new() };
    if text.len() > limit {
        at.error(codes::TOO_MANY, format!("`{name}` has at most {limit} characters"));
    }
    (*text).to_owned()
}

fn decode_address(fields: &Fields<'_>, within: Within<'_>, network: &str) -> Option<EndpointAddress> {
    let Some((text, at)) = fields.filled("address") else {
        missing_address(fields.at, within, network);
        return None;
    };
    if matches!(within, Within::Template) {
        at.warn(codes::IGNORED, "each endpoint of the group brings its own address", "leave `address` out");
    }
    if UnixSocket::is_meant(text) && !within.is_dns() {
        let socket = UnixSocket::decode(&at, text)?;
        at.unbuilt("an endpoint at a Unix socket");
        return Some(EndpointAddress::Unix(socket));
    }
    if let Ok(address) = text.parse() {
        return Some(EndpointAddress::Ip(address));
    }
    if let Within::Service(Resolution::Static, _) = within {
        let hint = "names are resolved with `resolution: DNS` only";
        at.error_as_istio(codes::ADDRESS, format!("endpoint address {text:?} is not a valid IP address"), hint);
        return None;
    }
    if !hosts::is_dns_name(text) {
        let message = format!("endpoint address {text:?} is not a valid FQDN or an IP address");
        at.error_as_istio(codes::ADDRESS, message, "");
        return None;
    }
    Some(EndpointAddress::Name(text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase()))
}

fn missing_address(at: &At<'_>, within: Within<'_>, network: &str) {
    match within {
        Within::Template => {}
        Within::WorkloadEntry | Within::Service(..) if within.is_dns() || network.is_empty() => {
            at.error_as_istio(codes::MISSING, "address is required", "an IP address, a DNS name or unix:///path");
        }
        Within::WorkloadEntry | Within::Service(..) => {
            let message = format!("address is unset with network {network:?}");
            at.warn(codes::IGNORED, message, "nodes here reach an endpoint only by its address");
        }
    }
}

fn decode_ports(fields: &Fields<'_>, within: Within<'_>) -> BTreeMap<String, u16> {
    let Some(map) = fields.get("ports") else { return BTreeMap::new() };
    map.limit(MAX_PORTS);
    let mut ports = BTreeMap::new();
    for (name, at) in map.entries() {
        if !hosts::is_dns_label(name) {
            at.error_as_istio(codes::NAME, format!("invalid port name: {name}"), "a port name is one DNS label");
        }
        let Some(port) = at.port() else { continue };
        if let Within::Service(_, declared) = within
            && !declared.iter().any(|one| one.name == name)
        {
            let message = format!("endpoint port {port} is not defined by the service entry");
            at.error_as_istio(codes::UNKNOWN_PORT, message, "the key is the name of one of the service's ports");
        }
        ports.insert(name.to_owned(), port);
    }
    ports
}

/// A socket has no ports: what arrives at it is what came to the service's only one.
fn unix_has_one_port(fields: &Fields<'_>, ports: &BTreeMap<String, u16>, within: Within<'_>) {
    if let Some(at) = fields.get("ports").filter(|_| !ports.is_empty()) {
        at.error_as_istio(codes::EXCLUSIVE, "unix endpoint must not include ports", "");
    }
    if let Within::Service(_, declared) = within
        && declared.len() != 1
    {
        fields.at.error_as_istio(codes::EXCLUSIVE, "exactly 1 service port required for unix endpoints", "");
    }
}

impl Locality {
    fn decode(fields: &Fields<'_>) -> Self {
        let text = text_up_to(fields, "locality", MAX_PLACE);
        let mut parts = text.split('/');
        let mut part = || parts.next().unwrap_or_default().to_owned();
        let locality = Self { region: part(), zone: part(), subzone: part() };
        if parts.next().is_some()
            && let Some(at) = fields.get("locality")
        {
            at.warn(codes::IGNORED, "a locality is region/zone/subzone; further parts have no meaning", "");
        }
        locality
    }
}
