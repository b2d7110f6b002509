//! Rules between documents: lint's warnings, of which push refuses some. Rules within a document are its decoder's.

mod world;

use crate::{
    Problem, Severity, Spec, codes,
    document::Document,
    history::State,
    hosts::{self, Registry},
    kinds::{DelegateName, DestinationHost, DestinationRule, HttpAction, HttpRoute, VirtualService},
    parse::Located,
};

pub use crate::codes::{UNKNOWN_HOST, UNKNOWN_SUBSET};
use world::World;

/// Complaints about these documents together with those that live in the mesh. All are warnings. Where nothing is known of
/// services ([`State::nothing`] and an empty registry: lint without a mesh) nothing is said of hosts.
pub fn between(documents: &[Located], state: &State, registry: &dyn Registry) -> Vec<Problem> {
    let world = World::new(documents, state, registry);
    let mut checks: Vec<Problem> = Vec::new();
    for located in documents {
        let mut check = Check { world: &world, located, problems: Vec::new() };
        match &located.document.spec {
            Spec::VirtualService(service) => check.virtual_service(service),
            Spec::DestinationRule(rule) => check.destination_rule(rule),
            Spec::ServiceEntry(_)
            | Spec::WorkloadEntry(_)
            | Spec::WorkloadGroup(_)
            | Spec::Gateway(_)
            | Spec::Sidecar(_)
            | Spec::AuthorizationPolicy(_)
            | Spec::PeerAuthentication(_)
            | Spec::RequestAuthentication(_)
            | Spec::Telemetry(_)
            | Spec::RateLimit(_)
            | Spec::MeshConfig(_)
            | Spec::RoleSet(_)
            | Spec::NodeGrant(_)
            | Spec::Revocation(_)
            | Spec::Confirmation => {}
        }
        checks.append(&mut check.problems);
    }
    checks
}

/// One document under examination.
struct Check<'w> {
    world: &'w World<'w>,
    located: &'w Located,
    problems: Vec<Problem>,
}

/// What is said of one place.
struct Finding<'f> {
    code: &'static str,
    place: (usize, usize),
    field: String,
    message: String,
    hint: String,
    istio: Option<&'f str>,
}

impl Check<'_> {
    fn document(&self) -> &Document {
        &self.located.document
    }

    fn report(&mut self, finding: Finding<'_>) {
        self.problems.push(Problem {
            code: finding.code,
            severity: Severity::Warning,
            document: Some(self.document().id.to_string()),
            file: self.located.file.clone(),
            line: finding.place.0,
            column: finding.place.1,
            field: finding.field,
            message: finding.message,
            hint: finding.hint,
            istio_message: finding.istio.map(str::to_owned),
        });
    }

    fn virtual_service(&mut self, service: &VirtualService) {
        // Hosts at the edge need be no services of the mesh, and there the rules of several documents are joined.
        let hosts = if service.is_for_mesh() { service.hosts.as_slice() } else { &[] };
        for (index, host) in hosts.iter().enumerate() {
            self.host_of_document(host, format!("spec.hosts[{index}]"), "");
            self.conflicts(service, host, index);
        }
        for (index, route) in service.http.iter().enumerate() {
            self.http_route(route, &format!("spec.http[{index}]"));
        }
        let tls = service.tls.iter().map(|rule| &rule.route).enumerate().map(|one| ("tls", one));
        let tcp = service.tcp.iter().map(|rule| &rule.route).enumerate().map(|one| ("tcp", one));
        for (list, (index, destinations)) in tls.chain(tcp) {
            for (part, one) in destinations.iter().enumerate() {
                self.destination(&one.destination, &format!("spec.{list}[{index}].route[{part}].destination"));
            }
        }
    }

    fn http_route(&mut self, route: &HttpRoute, field: &str) {
        match &route.action {
            HttpAction::Route(destinations) => {
                for (part, one) in destinations.iter().enumerate() {
                    self.destination(&one.destination, &format!("{field}.route[{part}].destination"));
                }
            }
            HttpAction::Delegate { to, .. } => self.delegate(to, format!("{field}.delegate")),
            HttpAction::Redirect(_) | HttpAction::Direct(_) => {}
        }
        if let Some(mirror) = &route.mirroring.mirror {
            self.destination(mirror, &format!("{field}.mirror"));
        }
        for (index, mirror) in route.mirroring.mirrors.iter().flatten().enumerate() {
            self.destination(&mirror.destination, &format!("{field}.mirrors[{index}].destination"));
        }
    }

    fn delegate(&mut self, to: &DelegateName, field: String) {
        let message = match self.world.delegate(to, &self.document().id.namespace) {
            Some(Ok(())) => return,
            Some(Err(why)) => format!("{}/{} {why}: the rule takes no request", to.namespace, to.name),
            None => format!("no VirtualService is called {}/{}: the rule takes no request", to.namespace, to.name),
        };
        let (code, place) = (codes::DELEGATE_MISSING, (to.line, to.column));
        let hint = "push a VirtualService without hosts of that name first, or with it".to_owned();
        self.report(Finding { code, place, field, message, hint, istio: None });
    }

    fn destination(&mut self, destination: &DestinationHost, field: &str) {
        let place = (destination.line, destination.column);
        let host = &destination.host;
        let known = self.world.ports(host);
        if known.is_none() && self.world.knows_services {
            let istio = Some("Referenced host not found [IST0101 ReferencedResourceNotFound]");
            let (message, hint) = (format!("no service is called `{host}`"), self.world.hint_for_host(host));
            self.report(Finding {
                code: codes::UNKNOWN_HOST,
                place,
                field: format!("{field}.host"),
                message,
                hint,
                istio,
            });
        }
        if let Some(subset) = &destination.subset
            && !self.world.defines_subset(&self.document().id.namespace, host, subset)
        {
            let istio =
                Some("Referenced host+subset in destinationrule not found [IST0101 ReferencedResourceNotFound]");
            let message =
                format!("no DestinationRule for `{host}` defines the subset `{subset}`: requests would get 503");
            let hint = "push the DestinationRule first, or with it".to_owned();
            self.report(Finding {
                code: codes::UNKNOWN_SUBSET,
                place,
                field: format!("{field}.subset"),
                message,
                hint,
                istio,
            });
        }
        let Some(ports) = known else { return };
        match destination.port {
            Some(port) if !ports.iter().any(|own| own.number == port) => {
                let numbers: Vec<String> = ports.iter().map(|own| own.number.to_string()).collect();
                let message = format!("`{host}` has no port {port}");
                let hint = format!("its ports are {}", numbers.join(", "));
                self.report(Finding {
                    code: codes::UNKNOWN_PORT,
                    place,
                    field: format!("{field}.port"),
                    message,
                    hint,
                    istio: None,
                });
            }
            None if ports.len() > 1 => {
                let istio = Some("This VirtualService routes to a service that exposes multiple ports [IST0112]");
                let message = format!("`{host}` has several ports and the route names none: the addressed one is used");
                let hint = "name one: port: {number: ...}".to_owned();
                self.report(Finding {
                    code: codes::PORT_REQUIRED,
                    place,
                    field: field.to_owned(),
                    message,
                    hint,
                    istio,
                });
            }
            Some(_) | None => {}
        }
    }

    fn host_of_document(&mut self, host: &str, field: String, istio: &str) {
        if !self.world.knows_services || host.starts_with('*') || self.world.ports(host).is_some() {
            return;
        }
        let (place, hint) = ((self.located.line, 1), self.world.hint_for_host(host));
        let message = format!("no service is called `{host}`: the document has no effect on it");
        let istio = Some(istio).filter(|text| !text.is_empty());
        self.report(Finding { code: codes::RULE_WITHOUT_HOST, place, field, message, hint, istio });
    }

    fn conflicts(&mut self, service: &VirtualService, host: &str, index: usize) {
        let own = &self.document().id;
        let rivals: Vec<String> = self.world.rivals(own, host, &service.export_to).map(ToString::to_string).collect();
        if rivals.is_empty() {
            return;
        }
        let istio = Some("The VirtualServices associated with mesh gateway define the same host [IST0109]");
        let message = format!("`{host}` is also claimed by {}", rivals.join(", "));
        let hint = "the oldest is used, the others are ignored for this host".to_owned();
        let (code, place) = (codes::CONFLICTING_VIRTUAL_SERVICES, (self.located.line, 1));
        self.report(Finding { code, place, field: format!("spec.hosts[{index}]"), message, hint, istio });
    }

    fn destination_rule(&mut self, rule: &DestinationRule) {
        self.host_of_document(&rule.host, "spec.host".to_owned(), "Unknown destination rule host [IST0150]");
        let service = hosts::service_of(&rule.host).filter(|service| self.world.registry.ports(service).is_some());
        for (index, subset) in rule.subsets.iter().enumerate() {
            let place = (subset.line, subset.column);
            let without =
                |service| !subset.labels.is_empty() && !self.world.registry.labels_exist(service, &subset.labels);
            if service.as_ref().is_some_and(without) {
                let message = format!("no endpoint of `{}` has the labels of subset `{}`", rule.host, subset.name);
                let istio = Some("The DestinationRule subset does not select any pods [IST0173]");
                let (code, field) = (codes::SUBSET_WITHOUT_ENDPOINTS, format!("spec.subsets[{index}].labels"));
                self.report(Finding { code, place, field, message, hint: "requests would get 503".to_owned(), istio });
            }
            if let Some(other) = self.world.other_definition(&self.document().id, rule, &subset.name) {
                let message = format!("{other} defines the subset `{}` too", subset.name);
                let (code, field) = (codes::REPEATED_SUBSET, format!("spec.subsets[{index}].name"));
                self.report(Finding {
                    code,
                    place,
                    field,
                    message,
                    hint: "the oldest is used".to_owned(),
                    istio: None,
                });
            }
        }
    }
}

#[cfg(test)]
mod tests;
