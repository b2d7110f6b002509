//! VirtualServices: hosts, destinations, delegates, and others that claim the same host.

use super::{Check, Finding, MAX_RIVALS, Overlap, world::callers};
use crate::{
    Kind, codes, hosts,
    kinds::{DelegateName, DestinationHost, ExportTo, HttpAction, HttpRoute, VirtualService},
};

const NO_HOST: &str = "Referenced host not found [IST0101 ReferencedResourceNotFound]";
const NO_PORT: &str = "Referenced host:port not found [IST0101 ReferencedResourceNotFound]";
const NO_SUBSET: &str = "Referenced host+subset in destinationrule not found [IST0101 ReferencedResourceNotFound]";
const SEVERAL_PORTS: &str = "This VirtualService routes to a service that exposes multiple ports [IST0112 \
                             VirtualServiceDestinationPortSelectorRequired]";
const SAME_HOST: &str = "The VirtualServices associated with mesh gateway define the same host [IST0109 \
                         ConflictingMeshGatewayVirtualServiceHosts]";

/// Every place that a VirtualService sends to, with its field.
pub(super) fn destinations(service: &VirtualService) -> Vec<(String, &DestinationHost)> {
    let mut found = Vec::new();
    for (index, route) in service.http.iter().enumerate() {
        http_destinations(route, &format!("spec.http[{index}]"), &mut found);
    }
    let tls = service.tls.iter().map(|rule| &rule.route).enumerate().map(|one| ("tls", one));
    let tcp = service.tcp.iter().map(|rule| &rule.route).enumerate().map(|one| ("tcp", one));
    for (list, (index, destinations)) in tls.chain(tcp) {
        for (part, one) in destinations.iter().enumerate() {
            found.push((format!("spec.{list}[{index}].route[{part}].destination"), &one.destination));
        }
    }
    found
}

fn http_destinations<'s>(route: &'s HttpRoute, field: &str, found: &mut Vec<(String, &'s DestinationHost)>) {
    if let HttpAction::Route(destinations) = &route.action {
        for (part, one) in destinations.iter().enumerate() {
            found.push((format!("{field}.route[{part}].destination"), &one.destination));
        }
    }
    if let Some(mirror) = &route.mirroring.mirror {
        found.push((format!("{field}.mirror"), mirror));
    }
    for (index, mirror) in route.mirroring.mirrors.iter().flatten().enumerate() {
        found.push((format!("{field}.mirrors[{index}].destination"), &mirror.destination));
    }
}

impl Check<'_> {
    pub(super) fn virtual_service(&mut self, service: &VirtualService) {
        // Hosts at the edge need be no services of the mesh, and there the rules of several documents are joined.
        let hosts = if service.is_for_mesh() { service.hosts.as_slice() } else { &[] };
        for (index, host) in hosts.iter().enumerate() {
            self.host_of_routes(host, format!("spec.hosts[{index}]"));
            self.conflicts(host, index);
        }
        for (index, route) in service.http.iter().enumerate() {
            if let HttpAction::Delegate { to, .. } = &route.action {
                self.delegate(to, format!("spec.http[{index}].delegate"));
            }
        }
        for (field, destination) in destinations(service) {
            self.destination(destination, &field, &callers(self.id(), service));
        }
    }

    fn delegate(&mut self, to: &DelegateName, field: String) {
        let message = match self.world.delegate(to, &self.id().namespace) {
            Some(Ok(())) => return,
            Some(Err(why)) => format!("{}/{} {why}: the rule takes no request", to.namespace, to.name),
            None => format!("no VirtualService is called {}/{}: the rule takes no request", to.namespace, to.name),
        };
        let hint = "push a VirtualService without hosts of that name first, or with it";
        self.say(Finding::warning(codes::DELEGATE_MISSING, field, message).hint(hint));
    }

    fn destination(&mut self, destination: &DestinationHost, field: &str, callers: &[&str]) {
        let host = &destination.host;
        let known = self.world.ports(host, callers);
        if known.is_none() && self.world.knows_services {
            let hint = self.world.hint_for_host(host);
            let message = match self.world.covering(Kind::ServiceEntry, host).next() {
                Some(entry) => format!("{} makes `{host}`, and is not exported to {}", entry.id(), callers.join(", ")),
                None => format!("no service is called `{host}`"),
            };
            let finding = Finding::warning(codes::UNKNOWN_HOST, format!("{field}.host"), message);
            self.say(finding.hint(hint).said_by_istio(NO_HOST));
        }
        if let Some(subset) = &destination.subset
            && !self.world.defines_subset(&self.id().namespace, host, subset)
        {
            let message =
                format!("no DestinationRule for `{host}` defines the subset `{subset}`: requests would get 503");
            let finding = Finding::warning(codes::UNKNOWN_SUBSET, format!("{field}.subset"), message);
            self.say(finding.hint("push the DestinationRule first, or with it").said_by_istio(NO_SUBSET));
        }
        if let Some(ports) = known.filter(|ports| !ports.is_empty()) {
            self.port(destination, field, &ports);
        }
    }

    fn port(&mut self, destination: &DestinationHost, field: &str, ports: &[u16]) {
        let host = &destination.host;
        match destination.port {
            Some(port) if !ports.contains(&port) => {
                let numbers: Vec<String> = ports.iter().map(u16::to_string).collect();
                let message = format!("`{host}` has no port {port}");
                let finding = Finding::warning(codes::UNKNOWN_PORT, format!("{field}.port"), message);
                self.say(finding.hint(format!("its ports are {}", numbers.join(", "))).said_by_istio(NO_PORT));
            }
            None if ports.len() > 1 => {
                let message = format!("`{host}` has several ports and the route names none: the addressed one is used");
                let finding = Finding::warning(codes::PORT_REQUIRED, field, message);
                self.say(finding.hint("name one: port: {number: ...}").said_by_istio(SEVERAL_PORTS));
            }
            Some(_) | None => {}
        }
    }

    /// Says of a VirtualService's host that looks like a service's that there is none. Any other is a name of its own, as in Istio.
    fn host_of_routes(&mut self, host: &str, field: String) {
        if host.starts_with('*') || hosts::service_of(host).is_none() {
            return;
        }
        if !self.world.knows_services || self.world.meets_something(host) {
            return;
        }
        let hint = self.world.hint_for_host(host);
        let message = format!("no service is called `{host}`: only requests that name it in full take these rules");
        self.say(Finding::warning(codes::RULE_WITHOUT_HOST, field, message).hint(hint));
    }

    /// Says of a document that speaks of a host that there is none.
    pub(super) fn host_of_document(&mut self, host: &str, field: String, istio: &'static str) {
        if !self.world.knows_services || host == "*" || self.world.meets_something(host) {
            return;
        }
        let hint = self.world.hint_for_host(host);
        let message = match host.strip_prefix('*') {
            Some(_) => format!("`{host}` covers no service: the document has no effect"),
            None => format!("no service is called `{host}`: the document has no effect on it"),
        };
        self.say(Finding::warning(codes::RULE_WITHOUT_HOST, field, message).hint(hint).said_by_istio(istio));
    }

    fn conflicts(&mut self, host: &str, index: usize) {
        let (world, own) = (self.world, self.entry);
        let field = format!("spec.hosts[{index}]");
        let about = Overlap {
            code: codes::CONFLICTING_VIRTUAL_SERVICES,
            field: field.clone(),
            does: format!("claims `{host}`"),
            cure: "put the rules into",
            istio: Some(SAME_HOST),
        };
        let others = world.claiming(Kind::VirtualService, host).filter(|other| other.id() != own.id());
        let rivals = others.take(MAX_RIVALS).filter_map(|other| Some((other, other.wins_against(own)?)));
        self.overlaps(&about, rivals);
        if !host.starts_with('*') {
            return;
        }
        // For hosts of both the narrower one counts, which may well be meant.
        let wider = world.wider(Kind::VirtualService, host);
        let wider = wider.filter(|other| other.id() != own.id() && !claims(other, host) && other.meets(own));
        let found: Vec<_> = wider.take(1).map(|other| (other.id(), "this document")).collect();
        let narrower = world.narrower(Kind::VirtualService, host);
        let narrower = narrower.filter(|other| other.id() != own.id() && !claims(other, host) && other.meets(own));
        let narrower: Vec<_> = narrower.take(1).map(|other| (other.id(), "that document")).collect();
        for (id, winner) in found.into_iter().chain(narrower) {
            let message = format!("{id} claims hosts of `{host}` too: to those that both name, {winner} applies alone");
            let finding = Finding::note(codes::CONFLICTING_VIRTUAL_SERVICES, field.clone(), message);
            self.say(finding.said_by_istio(SAME_HOST));
        }
    }

    /// A VirtualService that the Sidecar of its namespace keeps from callers there.
    pub(super) fn scope(&mut self, service: &VirtualService) {
        let namespace = &self.id().namespace;
        if !service.is_for_mesh() || service.is_delegate() {
            return;
        }
        let Some((sidecar, hiding)) = self.world.default_sidecar(namespace) else { return };
        if service.hosts.iter().any(|host| self.world.imported(namespace, hiding, host)) {
            return;
        }
        let hosts = service.hosts.join(", ");
        let message =
            format!("{sidecar} keeps `{hosts}` from callers in {namespace}: the document has no effect on them");
        let only = matches!(&service.export_to, ExportTo::Namespaces(only) if only.iter().all(|one| one == namespace));
        let finding = match only {
            true => Finding::warning(codes::OUTSIDE_SIDECAR, "spec.hosts", message),
            false => Finding::note(codes::OUTSIDE_SIDECAR, "spec.hosts", message),
        };
        self.say(finding.hint(format!("add `{namespace}/HOST` to an egress listener of {sidecar}")));
    }
}

fn claims(entry: &super::Entry<'_>, host: &str) -> bool {
    entry.document.spec.virtual_service().is_some_and(|service| service.hosts.iter().any(|own| own == host))
}
