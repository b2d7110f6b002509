//! The mesh as it would be with the documents under examination.

use std::{collections::BTreeSet, sync::Arc};

use certs::id::ServiceName;

use crate::{
    DocumentId, Spec,
    compile::{
        self,
        rules::{Rule, Rules},
    },
    history::State,
    hosts::{self, Registry, ServicePort},
    kinds::{DelegateName, DestinationRule, ExportTo, VirtualService},
    parse::Located,
};

/// Documents of the mesh and those under examination, which replace them.
pub(super) struct World<'w> {
    pub(super) registry: &'w dyn Registry,
    /// False where nothing is known of services: then nothing is said of hosts.
    pub(super) knows_services: bool,
    services: Vec<ServiceName>,
    virtual_services: Vec<(&'w DocumentId, &'w VirtualService)>,
    destination_rules: Vec<(&'w DocumentId, &'w DestinationRule)>,
    rules: Rules,
}

impl<'w> World<'w> {
    pub(super) fn new(documents: &'w [Located], state: &'w State, registry: &'w dyn Registry) -> Self {
        let examined: BTreeSet<&DocumentId> = documents.iter().map(|located| &located.document.id).collect();
        let living = || state.effective().filter(|(id, _)| !examined.contains(id));
        let mut rules: Vec<Rule> = living().filter_map(|(id, value)| compile::destination_rule(id, value)).collect();
        rules.extend(documents.iter().filter_map(examined_rule));
        let specs = living().filter_map(|(id, value)| Some((id, &value.document.as_ref().ok()?.spec)));
        let own = documents.iter().map(|located| (&located.document.id, &located.document.spec));
        let (mut virtual_services, mut destination_rules) = (Vec::new(), Vec::new());
        for (id, spec) in specs.chain(own) {
            match spec {
                Spec::VirtualService(service) => virtual_services.push((id, &**service)),
                Spec::DestinationRule(rule) => destination_rules.push((id, &**rule)),
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
        }
        let services = registry.services();
        let knows_services = !services.is_empty() || state.role_set.number > 0;
        Self { registry, knows_services, services, virtual_services, destination_rules, rules: Rules::new(rules) }
    }

    /// The ports of the service that a full host name means.
    pub(super) fn ports(&self, host: &str) -> Option<Arc<[ServicePort]>> {
        self.registry.ports(&hosts::service_of(host)?)
    }

    /// True if callers of the document's namespace, or of the service's, see the subset.
    pub(super) fn defines_subset(&self, namespace: &str, host: &str, subset: &str) -> bool {
        let seen = |client: &str| self.rules.seen_from(client, host).defines(subset);
        seen(namespace) || hosts::service_of(host).is_some_and(|service| seen(service.namespace()))
    }

    /// How a host that is no service might have been meant.
    pub(super) fn hint_for_host(&self, host: &str) -> String {
        if let Some(service) = hosts::named(host, "").filter(|service| self.registry.ports(service).is_some()) {
            return format!("a name with a dot is taken as a full name: write {}", hosts::full_name(&service));
        }
        let names: Vec<String> = self.services.iter().map(hosts::full_name).collect();
        match crate::decode::nearest(host, names.iter().map(String::as_str)) {
            Some(name) => format!("did you mean `{name}`?"),
            None => "see `skein services`".to_owned(),
        }
    }

    /// Whether rules of this namespace may delegate to this VirtualService, and why not; `None` if there is none.
    pub(super) fn delegate(&self, to: &DelegateName, namespace: &str) -> Option<Result<(), &'static str>> {
        let (_, service) = self.virtual_services.iter().find(|(id, _)| **id == to.id())?;
        let seen = service.export_to.includes(namespace);
        Some(match (service.is_delegate(), seen) {
            (true, true) => Ok(()),
            (false, _) => Err("has hosts of its own"),
            (true, false) => Err("is not exported here"),
        })
    }

    /// Other VirtualServices that claim the same host for some common caller.
    pub(super) fn rivals<'s>(
        &'s self,
        own: &'s DocumentId,
        host: &'s str,
        export_to: &'s ExportTo,
    ) -> impl Iterator<Item = &'s DocumentId> {
        let claims = move |(id, service): &&(&DocumentId, &VirtualService)| {
            *id != own
                && service.is_for_mesh()
                && service.hosts.iter().any(|other| other == host)
                && meet(export_to, &service.export_to)
        };
        self.virtual_services.iter().filter(claims).map(|(id, _)| *id)
    }

    /// Another DestinationRule of the same namespace and host that defines the subset.
    pub(super) fn other_definition(
        &self,
        own: &DocumentId,
        rule: &DestinationRule,
        subset: &str,
    ) -> Option<&DocumentId> {
        let defines = |(id, other): &&(&DocumentId, &DestinationRule)| {
            *id != own && id.namespace == own.namespace && other.host == rule.host && other.subset(subset).is_some()
        };
        self.destination_rules.iter().find(defines).map(|(id, _)| *id)
    }
}

/// True if some namespace sees both.
fn meet(a: &ExportTo, b: &ExportTo) -> bool {
    match (a, b) {
        (ExportTo::All, _) | (_, ExportTo::All) => true,
        (ExportTo::Namespaces(a), ExportTo::Namespaces(b)) => !a.is_disjoint(b),
    }
}

fn examined_rule(located: &Located) -> Option<Rule> {
    let Spec::DestinationRule(rule) = &located.document.spec else { return None };
    Some(Rule {
        id: located.document.id.clone(),
        // Not pushed yet: no changeset, and younger than all that is.
        changeset: crate::changeset::ChangesetId(certs::sign::Digest([0; 32])),
        created: located.document.created.unwrap_or(u64::MAX),
        export_to: rule.export_to.clone(),
        rule: rule.clone(),
    })
}
