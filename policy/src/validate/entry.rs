//! A document beside others: who sees it, how old it is, whom it wins against.

use std::collections::BTreeSet;

use certs::codec::Millis;

use crate::{
    Document, DocumentId, Spec,
    compile::{self, rules::Rule},
    history::{LiveValue, State},
    kinds::ExportTo,
};

/// A document, and what decides between it and others.
pub(super) struct Entry<'w> {
    pub(super) document: &'w Document,
    /// Which callers see it, of the kinds that have such a thing.
    pub(super) export_to: ExportTo,
    /// When its first version was issued; what is not pushed yet is younger than all that is.
    created: Millis,
    /// Who signed it, and which changeset set it; none for a document under examination.
    living: Option<&'w LiveValue>,
}

impl<'w> Entry<'w> {
    /// One that lives in the mesh; `None` if the value is no document.
    pub(super) fn living(state: &State, value: &'w LiveValue) -> Option<Self> {
        let document: &Document = value.document.as_ref().ok()?;
        let export_to = compile::seen_by(&export_to(document), &document.id, value);
        Some(Self { document, export_to, created: created(state, document), living: Some(value) })
    }

    /// One under examination. `confined` says that it is seen in its own namespace only.
    pub(super) fn examined(state: &State, document: &'w Document, confined: &dyn Fn(&Document) -> bool) -> Self {
        let export_to = if confined(document) { alone(&document.id) } else { export_to(document) };
        Self { document, export_to, created: created(state, document), living: None }
    }

    /// What a DestinationRule under examination comes to.
    pub(super) fn examined_rule(&self) -> Option<Rule> {
        let Spec::DestinationRule(rule) = &self.document.spec else { return None };
        self.living.is_none().then(|| Rule {
            id: self.id().clone(),
            // Not pushed yet: no changeset.
            changeset: crate::changeset::ChangesetId(certs::sign::Digest([0; 32])),
            created: self.created,
            export_to: self.export_to.clone(),
            rule: rule.clone(),
        })
    }

    pub(super) fn id(&self) -> &'w DocumentId {
        &self.document.id
    }

    /// `KIND NAMESPACE/NAME`, for one that lives with author and changeset.
    pub(super) fn name(&self) -> String {
        let Some(value) = self.living else { return self.id().to_string() };
        let changeset = value.changeset.to_string();
        format!("{} (pushed by {}, changeset {})", self.id(), value.authors.join(" and "), &changeset[..12])
    }

    /// Oldest first; of the same age by name.
    pub(super) fn age(&self) -> (Millis, &str, &str) {
        (self.created, &self.id().name, &self.id().namespace)
    }

    /// True if some caller sees both.
    pub(super) fn meets(&self, other: &Entry<'_>) -> bool {
        match (&self.export_to, &other.export_to) {
            (ExportTo::All, _) | (_, ExportTo::All) => true,
            (ExportTo::Namespaces(a), ExportTo::Namespaces(b)) => !a.is_disjoint(b),
        }
    }

    /// Whether this one wins against the other for some caller that sees both, as one of several that claim a host; `None` if no
    /// caller sees both.
    pub(super) fn wins_against(&self, other: &Entry<'_>) -> Option<bool> {
        if !self.meets(other) {
            return None;
        }
        let named = [&self.export_to, &other.export_to].into_iter().filter_map(|export_to| match export_to {
            ExportTo::Namespaces(namespaces) => Some(namespaces.iter().map(String::as_str)),
            ExportTo::All => None,
        });
        // No namespace has an empty name: a caller of whom neither speaks.
        let callers = named.flatten().chain([""]);
        let sees = |caller: &&str| self.export_to.includes(caller) && other.export_to.includes(caller);
        let order = |entry: &Entry<'_>, caller: &str| compile::class(&entry.export_to, entry.id(), caller);
        let wins = |caller: &str| (order(self, caller), self.age()) < (order(other, caller), other.age());
        Some(callers.filter(sees).any(wins))
    }
}

/// Seen in its own namespace only.
fn alone(id: &DocumentId) -> ExportTo {
    ExportTo::Namespaces(BTreeSet::from([id.namespace.clone()]))
}

fn export_to(document: &Document) -> ExportTo {
    match &document.spec {
        Spec::VirtualService(service) => service.export_to.clone(),
        // A rule for some callers of its namespace is for no other.
        Spec::DestinationRule(rule) if rule.workload_selector.is_some() => alone(&document.id),
        Spec::DestinationRule(rule) => rule.export_to.clone(),
        Spec::ServiceEntry(entry) => entry.export_to.clone(),
        Spec::WorkloadEntry(_)
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
        | Spec::Confirmation => ExportTo::All,
    }
}

/// When the document's first version was issued; a new one is younger than all that is there.
fn created(state: &State, document: &Document) -> Millis {
    let before = || state.document(&document.id).and_then(|before| before.created);
    document.created.or_else(before).unwrap_or(Millis::MAX)
}
