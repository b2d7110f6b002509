//! What a workload sees of the mesh: everything, or what its Sidecar imports.

use std::{collections::BTreeMap, slice, sync::Arc};

use certs::{codec::Millis, id::ServiceName};

use super::{Compiled, EntryService};
use crate::{
    document::{DocumentId, ROOT_NAMESPACE, Spec},
    history::State,
    hosts,
    kinds::{ConnectionPool, EgressListener, OutboundPolicy, OutboundTrafficPolicy, Sidecar},
    route::Source,
};

/// Every Sidecar.
#[derive(Debug, Default)]
pub(super) struct Sidecars {
    /// Those with a selector first, the oldest first among them and among the others.
    by_namespace: BTreeMap<String, Vec<Applied>>,
}

#[derive(Debug)]
struct Applied {
    id: DocumentId,
    created: Millis,
    sidecar: Arc<Sidecar>,
}

/// What a caller sees: it is of a namespace, and a Sidecar may narrow what it imports.
#[derive(Debug, Clone, Copy)]
pub struct Scope<'c> {
    /// Of the caller.
    pub namespace: &'c str,
    /// The Sidecar that applies to it, whether or not it narrows anything.
    pub sidecar: Option<(&'c DocumentId, &'c Sidecar)>,
    /// Where something must be imported; `None`: everything is seen.
    listeners: Option<&'c [EgressListener]>,
}

impl Sidecars {
    pub(super) fn new(state: &State) -> Self {
        let mut by_namespace: BTreeMap<String, Vec<Applied>> = BTreeMap::new();
        for (id, value) in state.effective() {
            let Ok(document) = &value.document else { continue };
            let Spec::Sidecar(sidecar) = &document.spec else { continue };
            let created = document.created.unwrap_or(value.time);
            let applied = Applied { id: id.clone(), created, sidecar: sidecar.clone() };
            by_namespace.entry(id.namespace.clone()).or_default().push(applied);
        }
        for list in by_namespace.values_mut() {
            let order = |one: &Applied| (one.sidecar.selector.is_none(), one.created);
            list.sort_by(|a, b| (order(a), &a.id.name).cmp(&(order(b), &b.id.name)));
        }
        Self { by_namespace }
    }

    /// What a workload sees: by the oldest Sidecar of its namespace whose selector matches, else the oldest there without one, else
    /// the oldest of the root namespace without one.
    pub(super) fn scope<'c>(&'c self, namespace: &'c str, labels: &BTreeMap<String, String>) -> Scope<'c> {
        let of = |namespace: &str| self.by_namespace.get(namespace).into_iter().flatten();
        let own = of(namespace).find(|one| one.sidecar.selects(labels));
        let applied = own.or_else(|| of(ROOT_NAMESPACE).find(|one| one.sidecar.selector.is_none()));
        let listeners = applied.map(|one| &*one.sidecar.egress).filter(|egress| !egress.is_empty());
        Scope { namespace, sidecar: applied.map(|one| (&one.id, &*one.sidecar)), listeners }
    }
}

impl Compiled {
    /// What a workload sees of the mesh.
    pub fn scope<'c>(&'c self, source: &'c Source) -> Scope<'c> {
        self.scope_of(&source.namespace, &source.labels)
    }

    /// The same of one with these labels in `namespace`.
    pub fn scope_of<'c>(&'c self, namespace: &'c str, labels: &BTreeMap<String, String>) -> Scope<'c> {
        self.sidecars.scope(namespace, labels)
    }
}

impl<'c> From<&'c str> for Scope<'c> {
    /// Of a caller whom no Sidecar narrows.
    fn from(namespace: &'c str) -> Self {
        Self { namespace, sidecar: None, listeners: None }
    }
}

impl<'c> Scope<'c> {
    /// What is seen at a port: by the listener that names it, else by the one that names none.
    #[must_use]
    pub fn at(self, port: u16) -> Self {
        let listeners = self.listeners.map(|all| {
            let named = all.iter().find(|one| one.port.as_ref().is_some_and(|own| own.number == port));
            let found = named.or_else(|| all.iter().find(|one| one.port.is_none()));
            found.map_or(&[][..], slice::from_ref)
        });
        Self { listeners, ..self }
    }

    /// True if a host of this namespace is imported, at any of the ports that are looked at.
    pub fn imports(&self, host: &str, namespace: &str) -> bool {
        self.listeners
            .is_none_or(|listeners| listeners.iter().any(|listener| listener.imports(host, namespace, self.namespace)))
    }

    /// At which ports a service is imported.
    pub fn imported_at<'s>(self, service: &'s ServiceName) -> impl Fn(u16) -> bool + use<'c, 's> {
        // Where everything is seen nothing is allocated.
        let name = self.listeners.map(|_| hosts::full_name(service));
        move |port| name.as_ref().is_none_or(|name| self.at(port).imports(name, service.namespace()))
    }

    /// True if a host that a ServiceEntry makes is imported at one of its ports.
    pub(crate) fn sees(&self, made: &EntryService) -> bool {
        self.listeners.is_none()
            || made.ports.iter().any(|port| self.at(port.number).imports(&made.host, &made.namespace))
    }

    /// True if the rules of a VirtualService of this namespace hold: a host of it is imported, or one of which it is a part.
    pub(super) fn heeds<'h>(&self, namespace: &str, mut hosts: impl Iterator<Item = &'h str>) -> bool {
        let Some(listeners) = self.listeners else { return true };
        hosts.any(|host| listeners.iter().any(|listener| listener.heeds(host, namespace, self.namespace)))
    }

    /// What becomes of destinations that the mesh does not know: the Sidecar's word, else the mesh's.
    pub fn outbound(&self, mesh: Option<OutboundPolicy>) -> Option<OutboundPolicy> {
        match self.sidecar.and_then(|(_, sidecar)| sidecar.outbound.as_ref()) {
            Some(OutboundTrafficPolicy::RegistryOnly) => Some(OutboundPolicy::RegistryOnly),
            Some(OutboundTrafficPolicy::AllowAny(_)) => Some(OutboundPolicy::AllowAny),
            None => mesh,
        }
    }

    /// Limits of what comes in at a port of the workload: of its listener, else of all ports.
    pub fn inbound_pool(&self, port: u16) -> Option<&'c ConnectionPool> {
        let (_, sidecar) = self.sidecar?;
        let listener = sidecar.ingress.iter().find(|listener| listener.port.number == port);
        let own = listener.and_then(|listener| listener.connection_pool.as_ref());
        own.or(sidecar.inbound_connection_pool.as_ref())
    }
}

#[cfg(test)]
mod tests;
