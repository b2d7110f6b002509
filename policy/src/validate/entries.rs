//! ServiceEntries and endpoints: hosts and addresses that others claim too, endpoints that nobody reaches.

use std::{collections::BTreeSet, net::IpAddr};

use super::{Check, Entry, Finding, MAX_NAMED, MAX_RIVALS, Overlap};
use crate::{
    Kind, Spec, codes,
    compile::entries::SERVER_FIRST,
    hosts,
    kinds::{Endpoint, EndpointAddress, PortProtocol, Resolution, ServiceEntry},
};

impl<'w> Check<'w> {
    pub(super) fn service_entry(&mut self, content: &'w ServiceEntry) {
        for (index, host) in content.hosts.iter().enumerate() {
            self.claimed_host(host, index);
        }
        self.addresses(content);
        self.whole_ports(content);
        let mut seen: BTreeSet<String> = BTreeSet::new();
        for (index, endpoint) in content.endpoints.iter().enumerate() {
            let field = format!("spec.endpoints[{index}]");
            self.endpoint(endpoint, &field);
            if let Some(address) = &endpoint.address
                && !seen.insert(format!("{address:?} {:?} {:?}", endpoint.ports, endpoint.labels))
            {
                let message = "the endpoint stands twice, and counts once: with the weight that it has last";
                let finding = Finding::warning(codes::REPEATED_ENDPOINT, format!("{field}.address"), message);
                self.say(finding.hint("give it a weight instead"));
            }
        }
        self.has_endpoints(content);
    }

    fn claimed_host(&mut self, host: &str, index: usize) {
        let (world, own) = (self.world, self.entry);
        let field = format!("spec.hosts[{index}]");
        if hosts::service_of(host).is_some() && world.meets_service(host) && !host.starts_with('*') {
            let message = format!("`{host}` is a registered service, which goes before the entry");
            let hint = "give the entry a host of its own; of this one its subjectAltNames count at most";
            self.say(Finding::warning(codes::HOST_OF_SERVICE, field.clone(), message).hint(hint));
        }
        let about = Overlap {
            code: codes::HOST_CLAIMED_TWICE,
            field,
            does: format!("makes `{host}`"),
            cure: "put its ports and endpoints into",
            istio: None,
        };
        let others = world.claiming(Kind::ServiceEntry, host).filter(|other| other.id() != own.id());
        let rivals = others.take(MAX_RIVALS).filter(|other| other.meets(own)).map(|other| {
            // Callers take the entry of their own namespace; elsewhere the oldest is used.
            let home = other.id().namespace.as_str();
            let at_home = home != own.id().namespace && own.export_to.includes(home) && other.export_to.includes(home);
            (other, at_home || other.age() < own.age())
        });
        self.overlaps(&about, rivals);
    }

    /// Connections that are told apart by their address alone.
    fn addresses(&mut self, content: &'w ServiceEntry) {
        let (world, own) = (self.world, self.entry);
        for (index, address) in content.addresses.iter().enumerate() {
            let ports: Vec<u16> = byte_ports(content).collect();
            let shared = |other: &&Entry<'w>| {
                let Spec::ServiceEntry(theirs) = &other.document.spec else { return false };
                let same_port = || byte_ports(theirs).any(|port| ports.contains(&port));
                let other_host = || theirs.hosts.iter().all(|host| !content.hosts.contains(host));
                other.id() != own.id() && other.meets(own) && same_port() && other_host()
            };
            let about = Overlap {
                code: codes::ADDRESS_CLAIMED_TWICE,
                field: format!("spec.addresses[{index}]"),
                does: format!("takes connections to {address} on a port of this entry"),
                cure: "give it another address than",
                istio: None,
            };
            let rivals = world.at_address(address).take(MAX_RIVALS).filter(shared);
            self.overlaps(&about, rivals.map(|other| (other, other.age() < own.age())));
        }
    }

    /// Ports whose connections are told apart by nothing but the endpoints' addresses.
    fn whole_ports(&mut self, content: &'w ServiceEntry) {
        let (world, own) = (self.world, self.entry);
        for (index, port) in content.ports.iter().enumerate() {
            if !whole_ports(content).any(|whole| whole == port.number) {
                continue;
            }
            let rivals = world.taking(port.number).filter(|other| other.id() != own.id() && other.meets(own));
            for rival in rivals.take(MAX_NAMED) {
                let (name, number) = (rival.name(), port.number);
                let message = format!(
                    "{name} takes connections to port {number}, too, and neither has `addresses`: only those to an endpoint's own address \
                     are told apart"
                );
                let field = format!("spec.ports[{index}]");
                let finding = Finding::warning(codes::ADDRESS_CLAIMED_TWICE, field, message);
                self.say(finding.hint("give both `addresses`, or ports of their own"));
            }
        }
    }

    /// Addresses that mean another machine to everybody, or none.
    pub(super) fn endpoint(&mut self, endpoint: &Endpoint, field: &str) {
        let Some(EndpointAddress::Ip(address)) = endpoint.address else { return };
        let field = format!("{field}.address");
        if address.is_unspecified() {
            let message = format!("{address} is no address that one can connect to");
            self.say(
                Finding::warning(codes::ENDPOINT_ADDRESS, field, message).hint("write the endpoint's own address"),
            );
        } else if is_loopback(address) {
            let message = format!("{address} is each caller's own machine");
            let hint = "write the endpoint's address if it is another machine";
            self.say(Finding::note(codes::ENDPOINT_ADDRESS, field, message).hint(hint));
        }
    }

    /// A static service whose selector finds nobody, neither WorkloadEntries nor workloads.
    fn has_endpoints(&mut self, content: &ServiceEntry) {
        let Some(labels) = &content.selector else { return };
        let namespace = self.id().namespace.as_str();
        let mut entries = self.world.of(Kind::WorkloadEntry, namespace);
        let selected = entries.any(|entry| {
            matches!(&entry.document.spec, Spec::WorkloadEntry(entry) if content.selects(&entry.endpoint.labels))
        });
        if selected || content.resolution == Resolution::DynamicDns || labels.is_empty() {
            return;
        }
        self.selector(labels, "spec.workloadSelector", None);
    }
}

/// Ports of which all connections are taken for the entry's, whatever their address.
pub(super) fn whole_ports(entry: &ServiceEntry) -> impl Iterator<Item = u16> {
    let declared = |number: u16| entry.ports.iter().any(|port| port.number == number && port.protocol.is_some());
    let is_whole = move |port: &u16| entry.addresses.is_empty() && (declared(*port) || SERVER_FIRST.contains(port));
    byte_ports(entry).filter(is_whole)
}

/// Ports whose connections say nothing of a host.
fn byte_ports(entry: &ServiceEntry) -> impl Iterator<Item = u16> {
    let bytes = |protocol: PortProtocol| !protocol.is_http() && !protocol.is_tls() && protocol != PortProtocol::Udp;
    entry.ports.iter().filter(move |port| port.protocol.is_none_or(bytes)).map(|port| port.number)
}

fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}
