//! Sidecars: what they let their workloads see.

use super::{Check, Finding, MAX_RIVALS, world::World};
use crate::{DocumentId, Kind, Spec, codes, document::ROOT_NAMESPACE, hosts, kinds::Sidecar};

const NO_WORKLOAD: &str = "Referenced selector not found [IST0101 ReferencedResourceNotFound]";

impl<'w> World<'w> {
    /// The Sidecar of a namespace's workloads that none selects, if it says what they see.
    pub(super) fn default_sidecar(&self, namespace: &str) -> Option<(&'w DocumentId, &'w Sidecar)> {
        let of = |namespace| {
            let mut all = self.of(Kind::Sidecar, namespace).filter_map(|entry| {
                let Spec::Sidecar(sidecar) = &entry.document.spec else { return None };
                Some((entry.id(), &**sidecar))
            });
            all.find(|(_, sidecar)| sidecar.selector.is_none())
        };
        of(namespace).or_else(|| of(ROOT_NAMESPACE)).filter(|(_, sidecar)| !sidecar.egress.is_empty())
    }

    /// True if some workload of the namespace sees a VirtualService of it with this host: `default`, or a Sidecar with a selector,
    /// imports it.
    pub(super) fn imported(&self, namespace: &str, default: &Sidecar, host: &str) -> bool {
        let imports = |sidecar: &Sidecar| {
            sidecar.egress.is_empty()
                || sidecar.egress.iter().any(|listener| listener.heeds(host, namespace, namespace))
        };
        let selecting = self.of(Kind::Sidecar, namespace).filter_map(|entry| {
            let Spec::Sidecar(sidecar) = &entry.document.spec else { return None };
            sidecar.selector.is_some().then_some(sidecar)
        });
        // Of a namespace with very many Sidecars nothing is said.
        imports(default) || selecting.enumerate().any(|(index, sidecar)| index >= MAX_RIVALS || imports(sidecar))
    }

    /// True if a service, a ServiceEntry's host or a VirtualService's host of the namespace (`None`: any) is this one.
    fn has_host(&self, namespace: Option<&str>, host: &str) -> bool {
        let of = |own: &str| namespace.is_none_or(|namespace| namespace == own);
        let service = hosts::service_of(host).filter(|service| self.registry.ports(service).is_some());
        let claimed = |kind| self.covering(kind, host).any(|entry| of(&entry.id().namespace));
        service.is_some_and(|service| of(service.namespace()))
            || claimed(Kind::ServiceEntry)
            || claimed(Kind::VirtualService)
    }
}

impl Check<'_> {
    pub(super) fn sidecar(&mut self, sidecar: &Sidecar) {
        if let Some(labels) = sidecar.selector.as_ref().filter(|labels| !labels.is_empty()) {
            self.selector(labels, "spec.workloadSelector", Some(NO_WORKLOAD));
        }
        if !self.world.knows_services {
            return;
        }
        for (index, listener) in sidecar.egress.iter().enumerate() {
            for (part, entry) in listener.hosts.iter().enumerate() {
                let host = entry.services.host.as_str();
                // Of the root namespace's Sidecar `.` is wherever its workloads are.
                let anywhere = entry.is_own && self.id().namespace == ROOT_NAMESPACE;
                let namespace = entry.services.namespace.as_deref().filter(|_| !anywhere);
                if entry.excluded || host.starts_with('*') || self.world.has_host(namespace, host) {
                    continue;
                }
                let elsewhere = self.world.has_host(None, host);
                let message = match namespace {
                    Some(namespace) if elsewhere => format!("`{host}` is not of {namespace}: nothing is imported"),
                    Some(_) | None => format!("no service is called `{host}`: nothing is imported"),
                };
                let field = format!("spec.egress[{index}].hosts[{part}]");
                let hint = if elsewhere { format!("write */{host}") } else { self.world.hint_for_host(host) };
                self.say(Finding::warning(codes::IMPORTS_NOTHING, field, message).hint(hint));
            }
        }
    }
}
