//! `ServiceEntry`: services outside the registry, and the static registry.

mod resolution;

use std::collections::{BTreeMap, BTreeSet};

use super::{Endpoint, ExportTo, PortProtocol, Subnet, client_tls, endpoint::Within, label_selector};
use crate::{
    codes,
    decode::{At, Fields},
    hosts,
    parse::Metadata,
    tree::{Node, Value},
};

pub use resolution::Resolution;

/// Hosts, addresses and ports of a ServiceEntry at most, as in Istio.
const MAX_ENTRIES: usize = 256;
/// Endpoints of a ServiceEntry at most, as in Istio.
const MAX_ENDPOINTS: usize = 4_096;

/// `ServiceEntry`.
#[derive(Debug, Clone, PartialEq)]
pub struct ServiceEntry {
    /// Lower case, without trailing dot, never expanded; a wildcard only as prefix.
    pub hosts: Vec<String>,
    /// By which destination addresses connections are recognised; if none, by the port alone.
    pub addresses: Vec<Subnet>,
    /// Names and numbers are unique.
    pub ports: Vec<ServiceEntryPort>,
    /// Inside the mesh, or outside of it.
    pub location: ServiceLocation,
    /// How endpoints are found.
    pub resolution: Resolution,
    /// Listed endpoints; none if a selector finds them.
    pub endpoints: Vec<Endpoint>,
    /// Labels of endpoints in the same namespace that serve it.
    pub selector: Option<BTreeMap<String, String>>,
    /// Which callers see it.
    pub export_to: ExportTo,
    /// Names of which a server's certificate must have one.
    pub subject_alt_names: Vec<String>,
}

/// `ServicePort`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceEntryPort {
    /// Its name.
    pub name: String,
    /// The number that callers address.
    pub number: u16,
    /// What it speaks; `None` is sniffed.
    pub protocol: Option<PortProtocol>,
    /// The endpoints' port, if it is another one.
    pub target: Option<u16>,
}

/// `location`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum ServiceLocation {
    /// No identity of the mesh, so no mutual TLS of the mesh; the default.
    #[default]
    External,
    /// A part of the mesh that its registry does not know.
    Internal,
}

impl ServiceEntry {
    pub(crate) fn decode(spec: &At<'_>, metadata: &Metadata) -> Option<Self> {
        let fields = spec.fields()?;
        let locations = [("MESH_EXTERNAL", ServiceLocation::External), ("MESH_INTERNAL", ServiceLocation::Internal)];
        let location = fields.get("location").and_then(|word| word.word(&locations)).unwrap_or_default();
        let resolution = Resolution::decode(&fields);
        let hosts = decode_hosts(&fields, resolution);
        let addresses = decode_addresses(&fields, resolution);
        let ports = decode_ports(&fields, !addresses.is_empty(), resolution);
        let endpoints = decode_endpoints(&fields, resolution, &ports);
        let selector = label_selector::decode(&fields);
        if selector.is_some() && !endpoints.is_empty() {
            let message = "only one of WorkloadSelector or Endpoints is allowed in Service Entry";
            fields.at.error_as_istio(codes::EXCLUSIVE, message, "");
        }
        let export_to = decode_export(&fields, &metadata.id.namespace);
        let names = fields.get("subjectAltNames");
        let names = names.as_ref().map(At::text_list).unwrap_or_default();
        names.iter().for_each(|(name, at)| client_tls::refuse_unbuilt_name(name, at));
        let subject_alt_names = names.into_iter().map(|(name, _)| name.to_owned()).collect();
        let entry =
            Self { hosts, addresses, ports, location, resolution, endpoints, selector, export_to, subject_alt_names };
        resolution::check(&fields, &entry, metadata);
        fields.finish();
        Some(entry)
    }

    /// True if the endpoint is one of the service's by its labels; both are in one namespace.
    pub fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        self.selector.as_ref().is_some_and(|selector| label_selector::selects(selector, labels))
    }
}

impl ServiceEntryPort {
    /// The port on which the endpoint takes what was sent to this one.
    pub fn on(&self, endpoint: &Endpoint) -> u16 {
        endpoint.ports.get(&self.name).copied().or(self.target).unwrap_or(self.number)
    }

    fn decode(at: &At<'_>) -> Option<Self> {
        let fields = at.fields()?;
        let number = fields.required("number").and_then(|number| number.port());
        let name = fields.required("name").and_then(|at| {
            let name = at.text()?;
            if !hosts::is_dns_label(name) {
                at.error_as_istio(codes::NAME, format!("invalid port name: {name}"), "a port name is one DNS label");
                return None;
            }
            Some(name.to_owned())
        });
        let protocol = PortProtocol::decode(&fields);
        let target = fields.get("targetPort").and_then(|port| port.integer(0..=65_535));
        let target = target.and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0);
        fields.finish();
        Some(Self { name: name?, number: number?, protocol, target })
    }
}

fn decode_hosts(fields: &Fields<'_>, resolution: Resolution) -> Vec<String> {
    let list = fields.get("hosts");
    let items = list.as_ref().map(At::text_list).unwrap_or_default();
    if items.is_empty() {
        fields.at.error_as_istio(codes::MISSING, "service entry must have at least one host", "");
    }
    if let Some(list) = &list {
        list.limit(MAX_ENTRIES);
    }
    let has_endpoints = fields.is_set("endpoints");
    let mut hosts = Vec::new();
    for (host, at) in items {
        if host == "*" {
            at.error_as_istio(codes::HOST, "invalid host *", "name the services, or write *.example.com");
        } else if !hosts::is_wildcard_name(host) {
            at.error(codes::HOST, format!("`{host}` is not a host name"));
        } else {
            resolution.fits_host(&at, host, has_endpoints);
            hosts.push(host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase());
        }
    }
    hosts
}

fn decode_addresses(fields: &Fields<'_>, resolution: Resolution) -> Vec<Subnet> {
    let Some(list) = fields.get("addresses") else { return Vec::new() };
    list.limit(MAX_ENTRIES);
    let blocks = matches!(&list.node.value, Value::List(items) if items.iter().any(is_block));
    if blocks && !matches!(resolution, Resolution::None | Resolution::Static) {
        let message = "CIDR addresses are allowed only for NONE/STATIC resolution types";
        list.error_as_istio(codes::RESOLUTION, message, "");
    }
    Subnet::decode_list(&list)
}

fn is_block(address: &Node) -> bool {
    address.text().is_some_and(|text| text.contains('/'))
}

/// `by_address` says that connections to the service are recognised by their address. No address is allotted, as Istio's DNS may do.
fn decode_ports(fields: &Fields<'_>, by_address: bool, resolution: Resolution) -> Vec<ServiceEntryPort> {
    let Some(list) = fields.get("ports") else { return Vec::new() };
    list.limit(MAX_ENTRIES);
    let mut ports: Vec<ServiceEntryPort> = Vec::new();
    for at in list.items() {
        let Some(port) = ServiceEntryPort::decode(&at) else { continue };
        if ports.iter().any(|other| other.name == port.name) {
            let message = format!("service entry port name {:?} already defined", port.name);
            at.error_as_istio(codes::DUPLICATE, message, "");
        }
        if ports.iter().any(|other| other.number == port.number) {
            at.error_as_istio(codes::DUPLICATE, format!("service entry port {} already defined", port.number), "");
        }
        let by_port = match port.protocol {
            Some(protocol) => protocol == PortProtocol::Tcp,
            // What tells its host by itself is found out where endpoints are known.
            None => resolution == Resolution::None,
        };
        if by_port && !by_address {
            let message = format!("without `addresses` all traffic to port {} is taken for this service", port.number);
            at.warn(codes::PORT_WITHOUT_ADDRESS, message, "give `addresses`");
        }
        ports.push(port);
    }
    ports
}

fn decode_endpoints(fields: &Fields<'_>, resolution: Resolution, ports: &[ServiceEntryPort]) -> Vec<Endpoint> {
    let Some(list) = fields.get("endpoints") else { return Vec::new() };
    list.limit(MAX_ENDPOINTS);
    let within = match resolution {
        Resolution::Static | Resolution::Dns | Resolution::DnsRoundRobin => Within::Service(resolution, ports),
        // Refused below whatever they are.
        Resolution::None | Resolution::DynamicDns => Within::WorkloadEntry,
    };
    list.items().iter().filter_map(|item| Endpoint::decode(item, within)).collect()
}

/// `exportTo`, where `~` is nobody.
fn decode_export(fields: &Fields<'_>, own: &str) -> ExportTo {
    let list = fields.get("exportTo");
    let Some(Value::List(items)) = list.as_ref().map(|list| &list.node.value) else {
        return ExportTo::decode(fields, own);
    };
    if !items.iter().any(|item| item.text() == Some("~")) {
        return ExportTo::decode(fields, own);
    }
    if let Some(list) = list.filter(|_| items.len() > 1) {
        list.error_as_istio(codes::EXPORT_TO, "cannot export service entry to no one (~) and someone", "");
    }
    ExportTo::Namespaces(BTreeSet::new())
}

#[cfg(test)]
mod tests;
