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
use world::{Rival, World};

/// True if a push with this complaint is refused unless the code is allowed: requests would get 503, or a part of the
/// document has no effect because another document wins.
pub fn refuses_push(code: &str, severity: Severity) -> bool {
    const CODES: [&str; 5] = [
        codes::UNKNOWN_HOST,
        codes::UNKNOWN_SUBSET,
        codes::CONFLICTING_VIRTUAL_SERVICES,
        codes::REPEATED_SUBSET,
        codes::OVERRULED_POLICY,
    ];
    severity == Severity::Warning && CODES.contains(&code)
}

/// Complaints about these documents together with those that live in the mesh: warnings, and notes about other documents. Where nothing is known of
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

/// True if the author of the document that the complaint is about wants to hear nothing of it
/// ([`crate::document::LINT_IGNORE`]).
pub fn is_silenced(problem: &Problem, documents: &[Located]) -> bool {
    let about = |located: &&Located| problem.document.as_ref() == Some(&located.document.id.to_string());
    !problem.refuses() && documents.iter().filter(about).any(|located| located.document.ignores(problem.code))
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

/// Two documents that say something of one thing.
struct Overlap<'o> {
    what: &'o str,
    /// What both do with it.
    verb: &'o str,
    /// What helps, before the name of the other.
    cure: &'o str,
    rival: Rival<'o>,
}

impl<'w> Check<'w> {
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
            self.conflicts(host, index);
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

    fn conflicts(&mut self, host: &str, index: usize) {
        let world = self.world;
        let (code, field) = (codes::CONFLICTING_VIRTUAL_SERVICES, format!("spec.hosts[{index}]"));
        let istio = Some("The VirtualServices associated with mesh gateway define the same host [IST0109]");
        let own = self.document().id.clone();
        for rival in world.rivals(&own, host) {
            let about = Overlap { what: &format!("`{host}`"), verb: "claims", cure: "put the rules into", rival };
            self.overlap(about, code, (self.located.line, 1), field.clone(), istio);
        }
    }

    /// Says which of two documents has no effect. Where it is the other one, that is no fault of this document.
    fn overlap(
        &mut self,
        overlap: Overlap<'_>,
        code: &'static str,
        place: (usize, usize),
        field: String,
        istio: Option<&str>,
    ) {
        let Overlap { what, verb, cure, rival } = overlap;
        let (message, hint) = if rival.wins {
            let message =
                format!("{} {verb} {what} too and wins: what this document says of it has no effect", rival.name);
            (message, format!("{cure} {}, or delete that one", rival.id))
        } else {
            let message =
                format!("{} {verb} {what} too: what it says of it has no effect beside this document", rival.name);
            (message, format!("delete what has no effect in {}", rival.id))
        };
        self.report(Finding { code, place, field, message, hint, istio });
        if let Some(last) = self.problems.last_mut().filter(|_| !rival.wins) {
            last.severity = Severity::Info;
        }
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
            let defines = |other: &DestinationRule| other.subset(&subset.name).is_some();
            let (code, field) = (codes::REPEATED_SUBSET, format!("spec.subsets[{index}].name"));
            let about = ("defines", format!("the subset `{}`", subset.name));
            self.merged(defines, &about, code, place, field);
        }
        if rule.policy.is_some() {
            let about = ("sets", format!("the trafficPolicy of `{}`", rule.host));
            let (code, place) = (codes::OVERRULED_POLICY, (self.located.line, 1));
            self.merged(|other| other.policy.is_some(), &about, code, place, "spec.trafficPolicy".to_owned());
        }
    }

    /// Of DestinationRules that are merged, the oldest counts.
    fn merged(
        &mut self,
        has: impl Fn(&DestinationRule) -> bool,
        (verb, what): &(&str, String),
        code: &'static str,
        place: (usize, usize),
        field: String,
    ) {
        let world = self.world;
        let own = self.document().id.clone();
        for rival in world.merged_with(&own, has) {
            let about = Overlap { what, verb, cure: "change it in", rival };
            self.overlap(about, code, place, field.clone(), None);
        }
    }
}

#[cfg(test)]
mod tests;
