//! Gateways: whom they select, servers that get into each other's way, and what VirtualServices have of them.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Check, Entry, Finding, MAX_RIVALS, Overlap, routing,
    world::{Speech, gateway_id},
};
use crate::{
    DocumentId, Kind, Spec, codes, hosts,
    kinds::{Gateway, GatewayName, Server, ServerCertificates, ServerTls, VirtualService},
};

const NO_WORKLOAD: &str = "Referenced selector not found [IST0101 ReferencedResourceNotFound]";
const NO_GATEWAY: &str = "Referenced gateway not found [IST0101 ReferencedResourceNotFound]";
const NO_SECRET: &str = "Referenced credentialName not found [IST0101 ReferencedResourceNotFound]";
const CONFLICT: &str = "Conflict with gateways (workload selector, port, hosts) [IST0145 ConflictingGateways]";
const HOST_NOT_FOUND: &str =
    "one or more host defined in VirtualService not found in Gateway [IST0132 VirtualServiceHostNotFoundInGateway]";
const NOT_AFFECTED: &str =
    "Subset in virtual service has no effect on ingress gateway requests [IST0140 IngressRouteRulesNotAffected]";

/// Other documents, and whether they win.
type Rivals<'w> = Vec<(&'w Entry<'w>, bool)>;

impl<'w> Check<'w> {
    pub(super) fn gateway(&mut self, gateway: &'w Gateway) {
        let workloads = &self.world.workloads;
        if workloads.would_be_known(&gateway.selector) && workloads.selected(None, &gateway.selector).next().is_none() {
            let message = "the selector selects no workload: nobody opens the ports";
            let finding = Finding::warning(codes::SELECTS_NOBODY, "spec.selector", message);
            self.say(finding.hint("register a service with these labels at the edge").said_by_istio(NO_WORKLOAD));
        }
        for (index, server) in gateway.servers.iter().enumerate() {
            let field = format!("spec.servers[{index}]");
            self.clashes(gateway, index, server, &field);
            if let Some(tls) = &server.tls {
                self.credentials(tls, &format!("{field}.tls"));
            }
        }
    }

    fn credentials(&mut self, tls: &ServerTls, field: &str) {
        if let ServerCertificates::Credentials(names) = &tls.certificates {
            for (index, name) in names.iter().enumerate() {
                // A list of one is written as a name of its own, mostly.
                let part =
                    if names.len() == 1 { "credentialName".to_owned() } else { format!("credentialNames[{index}]") };
                self.credential(name, format!("{field}.{part}"), NO_SECRET);
            }
        }
        if let Some(name) = &tls.ca_credential {
            self.credential(name, field.to_owned(), NO_SECRET);
        }
    }

    /// A credential that is none of those that are known.
    pub(super) fn credential(&mut self, name: &str, field: String, istio: &'static str) {
        let Some(known) = &self.world.inventory.credentials else { return };
        // Names with a scheme are not looked up among secrets.
        if known.contains(name) || name.contains("://") {
            return;
        }
        let message = format!("no credential is called `{name}`");
        let finding = Finding::warning(codes::UNKNOWN_CREDENTIAL, field, message).said_by_istio(istio);
        let near = crate::decode::nearest(name, known.iter().map(String::as_str));
        self.say(match near {
            Some(near) => finding.hint(format!("did you mean `{near}`?")),
            None => finding.hint(format!("see `skein secret put {name}`")),
        });
    }

    /// Servers at the same nodes that have the same port and host, or cannot share the port. The oldest counts.
    fn clashes(&mut self, gateway: &Gateway, index: usize, server: &'w Server, field: &str) {
        let (world, own) = (self.world, self.entry);
        let near = |(other, part): &(&'w Entry<'w>, usize)| {
            let Spec::Gateway(content) = &other.document.spec else { return false };
            let itself = other.id() == own.id() && *part == index;
            let Some(theirs) = content.servers.get(*part).filter(|_| !itself) else { return false };
            same_address(server, theirs) && (other.id() == own.id() || self.same_nodes(gateway, content))
        };
        let wins = |(other, part): (&'w Entry<'w>, usize)| {
            let wins = if other.id() == own.id() { part < index } else { other.age() < own.age() };
            // Within one document only the later server is told.
            (other.id() != own.id() || wins).then_some((other, wins))
        };
        let port = server.port.number;
        let mut told: BTreeSet<&DocumentId> = BTreeSet::new();
        let mut found: Vec<(String, String, Rivals<'w>)> = Vec::new();
        for speech in Speech::ALL.into_iter().filter(|speech| *speech != Speech::of(server)) {
            let others = world.speaking(port, speech).filter(near).take(MAX_RIVALS).filter_map(wins);
            let rivals: Vec<_> = others.filter(|(other, _)| told.insert(other.id())).collect();
            found.push((format!("{field}.port"), format!("speaks {} on port {port}", speech.as_str()), rivals));
        }
        for (part, host) in server.hosts.iter().enumerate() {
            let others = world.servers(port, &host.host).filter(near).filter(|(other, part)| {
                let Spec::Gateway(content) = &other.document.spec else { return false };
                let theirs = content.servers.get(*part).map_or(&[][..], |server| &server.hosts);
                let mut same = theirs.iter().filter(|theirs| theirs.host == host.host);
                same.any(|theirs| theirs.namespace.is_none() || host.namespace.is_none() || theirs == host)
            });
            let rivals =
                others.take(MAX_RIVALS).filter_map(wins).filter(|(other, _)| told.insert(other.id())).collect();
            found.push((format!("{field}.hosts[{part}]"), format!("serves `{}` on port {port}", host.host), rivals));
        }
        for (field, does, rivals) in found {
            let cure = "give one of them another port or host, or put the server into";
            let about = Overlap { code: codes::CONFLICTING_GATEWAYS, field, does, cure, istio: Some(CONFLICT) };
            self.overlaps(&about, rivals.into_iter());
        }
    }

    /// True if some node opens the ports of both.
    fn same_nodes(&self, one: &Gateway, other: &Gateway) -> bool {
        let within = |a: &BTreeMap<String, String>, b: &BTreeMap<String, String>| {
            a.iter().all(|(key, value)| b.get(key) == Some(value))
        };
        let workloads = &self.world.workloads;
        workloads.share(None, &one.selector, &other.selector)
            || (!(workloads.are_known() && self.world.inventory.complete)
                && (within(&one.selector, &other.selector) || within(&other.selector, &one.selector)))
    }

    /// The Gateways of a VirtualService.
    pub(super) fn at_gateways(&mut self, service: &VirtualService) {
        let mut known: Vec<&'w Gateway> = Vec::new();
        for (index, name) in service.gateways.iter().enumerate() {
            let Some(id) = gateway_id(name) else { continue };
            let field = format!("spec.gateways[{index}]");
            let Some(gateway) = self.gateway_of(&id) else {
                let message = format!("no Gateway is called {name}: the rules apply at none");
                let finding = Finding::warning(codes::UNKNOWN_GATEWAY, field, message);
                self.say(finding.hint("push the Gateway first, or with it").said_by_istio(NO_GATEWAY));
                continue;
            };
            known.push(gateway);
            if !service.is_delegate() && !service.hosts.iter().any(|host| self.admitted(gateway, host)) {
                let message = format!("{id} serves none of the hosts of this document: its rules do not apply there");
                let finding = Finding::warning(codes::HOST_NOT_AT_GATEWAY, field, message);
                self.say(finding.hint(hosts_hint(gateway)).said_by_istio(HOST_NOT_FOUND));
            }
        }
        if known.len() == service.gateways.len() {
            self.hosts_at_none(service, &known);
        }
        self.conditions_at_gateways(service);
        if !known.is_empty() && !service.is_for_mesh() {
            self.beside_mesh_rules(service);
        }
    }

    fn gateway_of(&self, id: &DocumentId) -> Option<&'w Gateway> {
        let Spec::Gateway(gateway) = &self.world.entry(id)?.document.spec else { return None };
        Some(gateway)
    }

    fn admitted(&self, gateway: &Gateway, host: &str) -> bool {
        gateway.servers.iter().any(|server| server.admits(host, &self.id().namespace).is_some())
    }

    /// Hosts that none of the Gateways serves, though another host of the document is.
    fn hosts_at_none(&mut self, service: &VirtualService, gateways: &[&Gateway]) {
        let served = |host: &String| gateways.iter().any(|gateway| self.admitted(gateway, host));
        if gateways.is_empty() || !service.hosts.iter().any(served) {
            return;
        }
        let none: Vec<usize> = (0..service.hosts.len()).filter(|index| !served(&service.hosts[*index])).collect();
        for index in none {
            let message = format!("none of the Gateways serves `{}`", service.hosts[index]);
            let finding = Finding::warning(codes::HOST_NOT_AT_GATEWAY, format!("spec.hosts[{index}]"), message);
            self.say(finding.hint("add it to a server of a Gateway, or leave it out"));
        }
    }

    /// Conditions on Gateways that the document itself does not name: there it is not looked at.
    fn conditions_at_gateways(&mut self, service: &VirtualService) {
        let mut strange: Vec<(String, String)> = Vec::new();
        let mut look = |list: &str, rule: usize, part: usize, names: &Option<Vec<GatewayName>>| {
            for (index, gateway) in names.iter().flatten().enumerate() {
                if !service.gateways.contains(gateway) {
                    let field = format!("spec.{list}[{rule}].match[{part}].gateways[{index}]");
                    strange.push((field, gateway.to_string()));
                }
            }
        };
        for (index, rule) in service.http.iter().enumerate() {
            rule.matches.iter().enumerate().for_each(|(part, one)| look("http", index, part, &one.gateways));
        }
        for (index, rule) in service.tls.iter().enumerate() {
            rule.matches.iter().enumerate().for_each(|(part, one)| look("tls", index, part, &one.connection.gateways));
        }
        for (index, rule) in service.tcp.iter().enumerate() {
            rule.matches.iter().enumerate().for_each(|(part, one)| look("tcp", index, part, &one.gateways));
        }
        for (field, gateway) in strange {
            let message = format!("the document is not for {gateway}: the condition is met nowhere");
            let finding = Finding::warning(codes::STRANGE_GATEWAY, field, message);
            self.say(finding.hint(format!("add {gateway} to spec.gateways")));
        }
    }

    /// Rules that callers in the mesh have for a destination do not apply to what a Gateway sends there.
    fn beside_mesh_rules(&mut self, service: &VirtualService) {
        for (field, destination) in routing::destinations(service) {
            let rules = self.world.claiming(Kind::VirtualService, &destination.host);
            let splits = |entry: &&Entry<'_>| {
                let others = entry.document.spec.virtual_service().map(|other| routing::destinations(other));
                others.is_some_and(|all| all.iter().any(|(_, other)| other.subset.is_some()))
            };
            let Some(other) = rules.take(MAX_RIVALS).filter(|_| destination.subset.is_none()).find(splits) else {
                continue;
            };
            let message = format!(
                "{} chooses subsets of `{}` for callers in the mesh: that does not apply to what comes through a Gateway",
                other.id(),
                destination.host
            );
            let finding = Finding::note(codes::MESH_RULES_NOT_AT_GATEWAY, field, message);
            self.say(finding.hint("name the subset here too, if that is meant").said_by_istio(NOT_AFFECTED));
        }
    }
}

/// True if both would listen to one address.
fn same_address(one: &Server, other: &Server) -> bool {
    let everywhere = one.port.number != 0 && (one.bind.is_none() || other.bind.is_none());
    everywhere || one.bind == other.bind
}

fn hosts_hint(gateway: &Gateway) -> String {
    let hosts: BTreeSet<&str> =
        gateway.servers.iter().flat_map(|server| &server.hosts).map(|host| host.host.as_str()).collect();
    let mut hosts: Vec<&str> = hosts.into_iter().collect();
    hosts.sort_by(|a, b| hosts::by_specificity(a, b));
    hosts.truncate(5);
    format!("it serves {}", hosts.join(", "))
}
