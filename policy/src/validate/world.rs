//! The mesh as it would be with the documents under examination.

use std::{collections::BTreeSet, sync::Arc};

use certs::{codec::Millis, id::ServiceName};

use crate::{
    Document, DocumentId, Spec,
    compile::{
        self,
        rules::{Rule, Rules},
    },
    history::{LiveValue, State},
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
    virtual_services: Vec<Claim<'w, VirtualService>>,
    destination_rules: Vec<Claim<'w, DestinationRule>>,
    rules: Rules,
}

/// A document that claims a host, and what decides between it and others.
pub(super) struct Claim<'w, T> {
    pub(super) id: &'w DocumentId,
    content: &'w T,
    export_to: ExportTo,
    /// When its first version was issued; what is not pushed yet is younger than all that is.
    created: Millis,
    /// Who signed it, and which changeset set it; none for a document under examination.
    living: Option<&'w LiveValue>,
}

/// Another document beside the one under examination.
pub(super) struct Rival<'s> {
    /// The document, and who pushed it where it lives in the mesh.
    pub(super) name: String,
    /// The same without the authors.
    pub(super) id: &'s DocumentId,
    /// True if it wins somewhere: there the document under examination has no effect.
    pub(super) wins: bool,
}

impl<T> Claim<'_, T> {
    /// `KIND NAMESPACE/NAME`, for one that lives with author and changeset.
    fn name(&self) -> String {
        let Some(value) = self.living else { return self.id.to_string() };
        let changeset = value.changeset.to_string();
        format!("{} (pushed by {}, changeset {})", self.id, value.authors.join(" and "), &changeset[..12])
    }

    /// Oldest first; of the same age by name.
    fn age(&self) -> (Millis, &str, &str) {
        (self.created, &self.id.name, &self.id.namespace)
    }
}

impl<'w> World<'w> {
    pub(super) fn new(documents: &'w [Located], state: &'w State, registry: &'w dyn Registry) -> Self {
        let examined: BTreeSet<&DocumentId> = documents.iter().map(|located| &located.document.id).collect();
        let living = || state.effective().filter(|(id, _)| !examined.contains(id));
        let mut rules: Vec<Rule> = living().filter_map(|(id, value)| compile::destination_rule(id, value)).collect();
        rules.extend(documents.iter().filter_map(|located| examined_rule(state, located)));
        let lives = living().filter_map(|(_, value)| Some((value.document.as_ref().ok()?, Some(value))));
        let lives = lives.map(|(document, value)| (&**document, value));
        let own = documents.iter().map(|located| (&located.document, None));
        let (mut virtual_services, mut destination_rules) = (Vec::new(), Vec::new());
        for (document, value) in lives.chain(own) {
            match &document.spec {
                Spec::VirtualService(service) => {
                    virtual_services.push(claim(state, document, value, &**service, &service.export_to));
                }
                Spec::DestinationRule(rule) => {
                    destination_rules.push(claim(state, document, value, &**rule, &rule.export_to));
                }
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
        let wanted = to.id();
        let found = self.virtual_services.iter().find(|claim| *claim.id == wanted)?;
        let seen = found.export_to.includes(namespace);
        Some(match (found.content.is_delegate(), seen) {
            (true, true) => Ok(()),
            (false, _) => Err("has hosts of its own"),
            (true, false) => Err("is not exported here"),
        })
    }

    /// Other VirtualServices that claim the same host for some common caller.
    pub(super) fn rivals(&self, own: &DocumentId, host: &str) -> Vec<Rival<'_>> {
        let Some(own) = self.virtual_services.iter().find(|claim| claim.id == own) else { return Vec::new() };
        let claims = |other: &&Claim<'_, VirtualService>| {
            other.id != own.id && other.content.is_for_mesh() && other.content.hosts.iter().any(|other| other == host)
        };
        let others = self.virtual_services.iter().filter(claims);
        others
            .filter_map(|other| Some(Rival { name: other.name(), id: other.id, wins: wins_somewhere(other, own)? }))
            .collect()
    }

    /// Other DestinationRules of the same namespace and host: together they are merged, the oldest first.
    pub(super) fn merged_with(&self, own: &DocumentId, has: impl Fn(&DestinationRule) -> bool) -> Vec<Rival<'_>> {
        let Some(own) = self.destination_rules.iter().find(|claim| claim.id == own) else { return Vec::new() };
        let merged = |other: &&Claim<'_, DestinationRule>| {
            other.id != own.id && other.id.namespace == own.id.namespace && other.content.host == own.content.host
        };
        let others = self.destination_rules.iter().filter(merged).filter(|other| has(other.content));
        others.map(|other| Rival { name: other.name(), id: other.id, wins: other.age() < own.age() }).collect()
    }
}

fn claim<'w, T>(
    state: &State,
    document: &'w Document,
    living: Option<&'w LiveValue>,
    content: &'w T,
    export_to: &ExportTo,
) -> Claim<'w, T> {
    let id = &document.id;
    let export_to = match living {
        Some(value) => compile::seen_by(export_to, id, value),
        None => export_to.clone(),
    };
    Claim { id, content, export_to, created: created(state, document), living }
}

/// When the document's first version was issued; a new one is younger than all that is there.
fn created(state: &State, document: &Document) -> Millis {
    let before = || state.document(&document.id).and_then(|before| before.created);
    document.created.or_else(before).unwrap_or(Millis::MAX)
}

/// Whether `other` wins against `own` for some caller that sees both; `None` if no caller does.
fn wins_somewhere(other: &Claim<'_, VirtualService>, own: &Claim<'_, VirtualService>) -> Option<bool> {
    if !meet(&other.export_to, &own.export_to) {
        return None;
    }
    let named = [&other.export_to, &own.export_to].into_iter().filter_map(|export_to| match export_to {
        ExportTo::Namespaces(namespaces) => Some(namespaces.iter().map(String::as_str)),
        ExportTo::All => None,
    });
    // No namespace has an empty name: a caller of whom neither speaks.
    let callers = named.flatten().chain([""]);
    let sees = |caller: &&str| other.export_to.includes(caller) && own.export_to.includes(caller);
    let order = |claim: &Claim<'_, VirtualService>, caller: &str| compile::class(&claim.export_to, claim.id, caller);
    let wins = |caller: &str| (order(other, caller), other.age()) < (order(own, caller), own.age());
    Some(callers.filter(sees).any(wins))
}

/// True if some namespace sees both.
fn meet(a: &ExportTo, b: &ExportTo) -> bool {
    match (a, b) {
        (ExportTo::All, _) | (_, ExportTo::All) => true,
        (ExportTo::Namespaces(a), ExportTo::Namespaces(b)) => !a.is_disjoint(b),
    }
}

fn examined_rule(state: &State, located: &Located) -> Option<Rule> {
    let Spec::DestinationRule(rule) = &located.document.spec else { return None };
    Some(Rule {
        id: located.document.id.clone(),
        // Not pushed yet: no changeset.
        changeset: crate::changeset::ChangesetId(certs::sign::Digest([0; 32])),
        created: created(state, &located.document),
        export_to: rule.export_to.clone(),
        rule: rule.clone(),
    })
}
