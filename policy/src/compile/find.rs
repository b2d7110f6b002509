//! Which VirtualService applies to what a request addresses.

use std::{collections::BTreeSet, sync::Arc};

use certs::id::ServiceName;

use super::{Compiled, EntryService, Scope, Virtual};
use crate::{
    hosts::{self, Registry},
    kinds::ClientTls,
};

/// Where a host that is no service is addressed.
pub(crate) const PLAIN_HTTP: u16 = 80;

impl Compiled {
    /// The VirtualService that applies to a service for callers in this namespace: the most specific host, then the oldest.
    pub(crate) fn virtual_service<'s>(
        &self,
        service: &ServiceName,
        scope: impl Into<Scope<'s>>,
    ) -> Option<&Arc<Virtual>> {
        let scope = scope.into();
        let exact = self.exact.get(service).into_iter().flatten().filter(|candidate| candidate.is_seen(scope));
        // `min_by_key` keeps the first of equals: the oldest.
        if let Some(found) = exact.min_by_key(|candidate| candidate.class(scope.namespace)) {
            return Some(found);
        }
        if self.wild.is_empty() {
            return None;
        }
        self.covering(&hosts::full_name(service), scope).map(|(_, found)| found)
    }

    /// The VirtualService that applies to a host which is no service, lower case and without port, and which of its hosts covers
    /// it. A wildcard that covers a service is for services only, as in Istio.
    pub(crate) fn virtual_service_of_name(
        &self,
        host: &str,
        scope: Scope<'_>,
        registry: &dyn Registry,
    ) -> Option<(Arc<str>, &Arc<Virtual>)> {
        let of_service = || hosts::service_of(host).and_then(|service| self.exact.get(&service));
        let (name, candidates) = match self.named.get_key_value(host) {
            Some((name, candidates)) => (Some(name), Some(candidates)),
            None => (None, of_service()),
        };
        let exact = candidates.into_iter().flatten().filter(|candidate| candidate.is_seen(scope));
        if let Some(found) = exact.min_by_key(|candidate| candidate.class(scope.namespace)) {
            return Some((name.cloned().unwrap_or_else(|| host.into()), found));
        }
        let (pattern, found) = self.covering(host, scope)?;
        let covers = |service: &ServiceName| hosts::covers(pattern, &hosts::full_name(service));
        let of_services = hosts::may_cover_services(pattern) && registry.services().iter().any(covers);
        (!of_services).then(|| (pattern.clone(), found))
    }

    /// The VirtualService that applies to a host that a ServiceEntry makes: lower case, without port, as the caller names it.
    pub(crate) fn virtual_service_of_entry(&self, host: &str, scope: Scope<'_>) -> Option<&Arc<Virtual>> {
        if !host.starts_with('*')
            && let Some(found) = self.claiming(host, scope)
        {
            return Some(found);
        }
        self.covering(host, scope).map(|(_, found)| found)
    }

    /// The VirtualService with this very host, a wildcard perhaps.
    pub(crate) fn claiming(&self, host: &str, scope: Scope<'_>) -> Option<&Arc<Virtual>> {
        let of_service = || hosts::service_of(host).and_then(|service| self.exact.get(&service));
        let plain = self.named.get(host).or_else(of_service).into_iter().flatten();
        let wild = self.wild.iter().filter(|(own, _)| **own == *host).map(|(_, candidate)| candidate);
        let seen = plain.chain(wild).filter(|candidate| candidate.is_seen(scope));
        seen.min_by_key(|candidate| candidate.class(scope.namespace))
    }

    /// Every TLS setting that DestinationRules have for hosts of ServiceEntries, as callers of this namespace see both.
    pub fn client_tls<'c>(&'c self, namespace: &'c str) -> impl Iterator<Item = (&'c Arc<EntryService>, ClientTls)> {
        let seen = move |made: &&Arc<EntryService>| {
            self.entries.find(&made.host, namespace).is_some_and(|found| Arc::ptr_eq(found, made))
        };
        self.entries.all().iter().filter(seen).flat_map(move |made| {
            self.rules.seen_from(namespace, &made.host).client_tls().into_iter().map(move |tls| (made, tls))
        })
    }

    /// The VirtualService with the most specific wildcard that covers a host, and the wildcard.
    fn covering(&self, host: &str, scope: Scope<'_>) -> Option<(&Arc<str>, &Arc<Virtual>)> {
        let hit = |own: &str, candidate: &Virtual| hosts::covers(own, host) && candidate.is_seen(scope);
        let mut hits = self.wild.iter().filter(|(own, candidate)| hit(own, candidate)).peekable();
        let best = hits.peek().map(|(own, _)| own)?;
        let same = hits.take_while(|(own, _)| own == best).map(|(_, candidate)| candidate);
        Some((best, same.min_by_key(|candidate| candidate.class(scope.namespace))?))
    }
}

impl Virtual {
    /// True if it is exported to the caller's namespace and the caller's Sidecar heeds it.
    fn is_seen(&self, scope: Scope<'_>) -> bool {
        let hosts = || self.service.hosts.iter().map(String::as_str);
        self.export_to.includes(scope.namespace) && scope.heeds(&self.id.namespace, hosts())
    }

    /// The ports at which its hosts that are no service are addressed: the HTTP ports of its hosts that are one, else 80, as in Istio.
    pub(crate) fn ports_of_names(&self, registry: &dyn Registry) -> BTreeSet<u16> {
        let ports = |service: &ServiceName| registry.ports(service);
        let mut found = Vec::new();
        for host in &self.service.hosts {
            if !host.starts_with('*') {
                found.extend(hosts::service_of(host).as_ref().and_then(ports));
            } else if hosts::may_cover_services(host) {
                let covered =
                    registry.services().into_iter().filter(|name| hosts::covers(host, &hosts::full_name(name)));
                found.extend(covered.filter_map(|service| ports(&service)));
            }
        }
        let http = found.iter().flat_map(|ports| ports.iter()).filter(|port| port.protocol.is_http());
        let numbers: BTreeSet<u16> = http.map(|port| port.number).collect();
        if numbers.is_empty() { BTreeSet::from([PLAIN_HTTP]) } else { numbers }
    }
}
