//! The services that ServiceEntries make: one for each of their hosts, as each caller sees them.

use std::{
    borrow::Cow,
    cmp::Reverse,
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use certs::codec::Millis;

use super::{Scope, seen_by};
use crate::{
    Kind,
    document::{DocumentId, Spec},
    history::State,
    hosts::{self, Protocol, ServicePort},
    kinds::{ExportTo, PortProtocol, Resolution, ServiceEntry, ServiceEntryPort, Subnet, WorkloadEntry},
};

/// Ports of servers that speak first; Istio takes them for TCP unless they declare something.
pub const SERVER_FIRST: [u16; 4] = [25, 53, 3306, 27017];

/// A host of a ServiceEntry, and what is behind it.
#[derive(Debug, Clone)]
pub struct EntryService {
    /// The ServiceEntry.
    pub document: DocumentId,
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Lower case; a wildcard perhaps.
    pub host: Arc<str>,
    /// By number. Those of UDP are left out: nothing is sent there.
    pub ports: Arc<[ServicePort]>,
    /// What the document says.
    pub entry: Arc<ServiceEntry>,
    /// The WorkloadEntries that it selects, by name.
    pub workloads: Arc<[(DocumentId, Arc<WorkloadEntry>)]>,
    created: Millis,
    export_to: ExportTo,
}

/// All of them.
#[derive(Debug, Default)]
pub struct Entries {
    /// Oldest first; those of all callers together.
    all: Vec<Arc<EntryService>>,
    /// By host that is no wildcard, and by address that stands for one; oldest first.
    exact: HashMap<Arc<str>, Vec<Arc<EntryService>>>,
    /// Wildcards, the most specific first, then the oldest.
    wild: Vec<Arc<EntryService>>,
    /// All that have an address for themselves, by that; oldest first.
    at: HashMap<IpAddr, Vec<Arc<EntryService>>>,
    /// All that have a network; oldest first.
    around: Vec<Arc<EntryService>>,
    /// Some host is one of [`EntryService::is_by_name`].
    by_name: bool,
}

/// Whom an address means.
#[derive(Debug)]
pub enum At<'e> {
    /// This one, whatever is said there.
    Host(&'e Arc<EntryService>),
    /// One of several, or one of a network: what is said there tells.
    Named(Named<'e>),
}

/// Those whom a connection to an address may mean, by the name that it asks for.
#[derive(Debug)]
pub struct Named<'e> {
    /// With what they have at the port, which is never bytes alone. The callers' own first, then the oldest.
    all: Vec<(&'e Arc<EntryService>, Protocol)>,
    /// The address is their own; else it lies in their network.
    is_own: bool,
}

/// Which ServiceEntries make a host: whose namespace counts as the host's own depends on who asks.
pub(super) type Owners = Vec<(DocumentId, ExportTo)>;

impl EntryService {
    /// The entry's word of a port.
    pub fn declared(&self, port: u16) -> Option<&ServiceEntryPort> {
        self.entry.ports.iter().find(|declared| declared.number == port)
    }

    /// True if what a request or a connection names is looked up when it comes: nobody knows beforehand which host that is.
    pub fn is_by_name(&self) -> bool {
        match self.entry.resolution {
            Resolution::DynamicDns => true,
            Resolution::None => self.host.starts_with('*'),
            Resolution::Static | Resolution::Dns | Resolution::DnsRoundRobin => false,
        }
    }

    /// The name to look up for one that is [`EntryService::is_by_name`], of a host as a request or connection has it; `None` if its
    /// document does not speak of that host.
    pub fn name<'h>(&self, host: &'h str) -> Option<Cow<'h, str>> {
        let host = as_written(host);
        (hosts::is_dns_name(&host) && hosts::covers(&self.host, &host)).then_some(host)
    }

    /// The HTTP port that a request means which names this one, or none: then the only one, or 80.
    pub(crate) fn http_port(&self, asked: Option<u16>, scope: Scope<'_>) -> Option<u16> {
        let seen = |port: &u16| scope.at(*port).imports(&self.host, &self.namespace);
        let mut http = self.ports.iter().filter(|port| port.protocol.is_http()).map(|port| port.number).filter(seen);
        match asked {
            Some(asked) => http.find(|port| *port == asked),
            None => {
                let all: Vec<u16> = http.collect();
                let plain = || all.iter().find(|port| **port == super::PLAIN_HTTP);
                if let [only] = all[..] { Some(only) } else { plain().copied() }
            }
        }
    }
}

impl<'e> Named<'e> {
    /// True if bytes may be meant, of whom nobody says a name.
    #[must_use]
    pub fn may_be_bytes(&self) -> bool {
        self.all.iter().any(|(_, own)| *own == Protocol::Sniffed)
    }

    /// The one that a request or a connection means which asks for this host: the host itself before wildcards.
    pub fn by_name(&self, host: &str, spoken: Protocol) -> Option<&'e Arc<EntryService>> {
        let host = as_written(host);
        let fitting = self.all.iter().filter(|(_, own)| own.may_be(spoken)).map(|(made, _)| *made);
        // `min_by` keeps the first of equals.
        fitting.filter(|made| hosts::covers(&made.host, &host)).min_by(|a, b| hosts::by_specificity(&a.host, &b.host))
    }

    /// The one that is meant where none is asked for by name. In a network that is nobody, but at a port for which nothing is declared, and
    /// if a request names no host but an address.
    pub fn otherwise(&self, spoken: Option<Protocol>, asks_for_address: bool) -> Option<&'e Arc<EntryService>> {
        let goes = || self.all.iter().filter(|(made, _)| made.goes());
        let fits = |own: Protocol| spoken.map_or(own == Protocol::Sniffed, |spoken| own.may_be(spoken));
        let takes_all = |own: Protocol| asks_for_address || own == Protocol::Sniffed && spoken != Some(Protocol::Http);
        let found = goes().find(|(_, own)| fits(*own) && (self.is_own || takes_all(*own)));
        found.or_else(|| goes().next().filter(|_| self.is_own)).map(|(made, _)| *made)
    }
}

impl Entries {
    pub(super) fn new(state: &State) -> Self {
        let mut all: Vec<Arc<EntryService>> = Vec::new();
        let mut by_address: Vec<(Arc<str>, Arc<EntryService>)> = Vec::new();
        let workloads = workloads(state);
        for (id, value) in state.effective() {
            let Ok(document) = &value.document else { continue };
            let Spec::ServiceEntry(entry) = &document.spec else { continue };
            let near = workloads.get(id.namespace.as_str()).into_iter().flatten();
            #[cfg(test)]
            let near = near.inspect(|_| counted::LOOKED_AT.with(|count| count.set(count.get() + 1)));
            let selected: Arc<[_]> =
                near.filter(|(_, content)| entry.selects(&content.endpoint.labels)).cloned().collect();
            let namespace: Arc<str> = id.namespace.as_str().into();
            let ports: Arc<[ServicePort]> = entry.ports.iter().filter_map(port).collect();
            for (index, host) in entry.hosts.iter().enumerate() {
                let made = Arc::new(EntryService {
                    document: id.clone(),
                    namespace: namespace.clone(),
                    host: host.as_str().into(),
                    ports: ports.clone(),
                    entry: entry.clone(),
                    workloads: selected.clone(),
                    created: document.created.unwrap_or(value.time),
                    export_to: seen_by(&entry.export_to, id, value),
                });
                // As a name of its own an address is the first host's.
                let single = entry.addresses.iter().filter(|_| index == 0).filter_map(Subnet::only);
                by_address.extend(single.map(|address| (address.to_string().into(), made.clone())));
                all.push(made);
            }
        }
        all.sort_by(|a, b| a.age().cmp(&b.age()));
        by_address.sort_by(|(_, a), (_, b)| a.age().cmp(&b.age()));
        let mut entries = Self::default();
        for made in &all {
            if made.host.starts_with('*') {
                entries.wild.push(made.clone());
            } else {
                entries.exact.entry(made.host.clone()).or_default().push(made.clone());
            }
        }
        for (address, made) in by_address {
            entries.exact.entry(address).or_default().push(made);
        }
        for made in &all {
            let single: BTreeSet<IpAddr> = made.entry.addresses.iter().filter_map(Subnet::only).collect();
            if single.len() < made.entry.addresses.len() {
                entries.around.push(made.clone());
            }
            for address in single {
                entries.at.entry(address).or_default().push(made.clone());
            }
        }
        // Stable: the oldest stays first among equals.
        entries.wild.sort_by(|a, b| hosts::by_specificity(&a.host, &b.host));
        entries.by_name = all.iter().any(|made| made.is_by_name());
        entries.all = all;
        entries
    }

    /// Every one, oldest first.
    pub fn all(&self) -> &[Arc<EntryService>] {
        &self.all
    }

    /// True if some host is one of [`EntryService::is_by_name`].
    pub fn any_by_name(&self) -> bool {
        self.by_name
    }

    /// The one that a host (lower case, without port and trailing dot) means to callers of this namespace: the host itself before
    /// wildcards; of several the one of the callers' own namespace, else the oldest.
    pub fn find<'s>(&self, host: &str, scope: impl Into<Scope<'s>>) -> Option<&Arc<EntryService>> {
        self.find_with(host, scope.into(), |_| true)
    }

    /// As [`Entries::find`]; of several with the same address those count which have what is asked for.
    fn find_with(
        &self,
        host: &str,
        scope: Scope<'_>,
        has: impl Fn(&EntryService) -> bool,
    ) -> Option<&Arc<EntryService>> {
        let visible = |made: &&Arc<EntryService>| made.is_seen(scope);
        let foreign = |made: &&Arc<EntryService>| made.is_foreign(scope);
        let exact = self.exact.get(host).into_iter().flatten().filter(visible);
        // What is found by another name than its host has it for an address.
        let lacks = |made: &Arc<EntryService>| *made.host != *host && !has(made);
        if let Some(found) = exact.min_by_key(|made| (lacks(made), foreign(made))) {
            return Some(found);
        }
        let mut hits = self.wild.iter().filter(|made| hosts::covers(&made.host, host)).filter(visible).peekable();
        let best = hits.peek().map(|made| made.host.clone())?;
        hits.take_while(|made| made.host == best).min_by_key(foreign)
    }

    /// What a connection to this address means to callers of this namespace, if that has the port: as [`Entries::having`]; else one without
    /// addresses, for which all of a TCP port is taken: of several the one that `is_at` the address with an endpoint, or none, because each
    /// may be meant.
    pub fn at<'s>(
        &self,
        address: IpAddr,
        port: u16,
        scope: impl Into<Scope<'s>>,
        is_at: impl Fn(&EntryService) -> bool,
    ) -> Option<At<'_>> {
        let scope = scope.into().at(port);
        let having = self.having(address, port, scope);
        if having.is_some() {
            return having;
        }
        let takes_all = |made: &&Arc<EntryService>| {
            let bytes = || made.protocol(port) == Some(Protocol::Tcp);
            made.is_seen(scope) && made.goes() && bytes() && made.entry.addresses.is_empty()
        };
        let mut all = self.all.iter().filter(takes_all);
        match (all.next()?, all.next()) {
            (only, None) => Some(At::Host(only)),
            (_, Some(_)) => {
                let rivals = self.all.iter().filter(takes_all).filter(|made| is_at(made));
                rivals.min_by_key(|made| made.is_foreign(scope)).map(At::Host)
            }
        }
    }

    /// Whose an address is, as callers of this namespace see it, of those with the port, or in whose network it lies: of several networks
    /// the callers' own, then the smallest, then the oldest. Where something names a host, all count that have the address, or the same
    /// network.
    pub fn having<'s>(&self, address: IpAddr, port: u16, scope: impl Into<Scope<'s>>) -> Option<At<'_>> {
        let scope = scope.into().at(port);
        let known = |made| {
            let made: &Arc<EntryService> = made;
            made.protocol(port).filter(|_| made.is_seen(scope)).map(|own| (made, own))
        };
        let mut all: Vec<_> = self.at.get(&address).into_iter().flatten().filter_map(known).collect();
        let is_own = all.iter().any(|(made, _)| made.goes());
        if !is_own {
            let length = |made: &EntryService| {
                let networks = made.entry.addresses.iter().filter(|network| network.contains(address));
                networks.map(Subnet::length).max()
            };
            all = self.around.iter().filter(|made| length(made).is_some()).filter_map(known).collect();
            let able = all.iter().map(|(made, _)| *made).filter(|made| made.goes());
            let smallest =
                able.min_by_key(|made| (made.is_foreign(scope), Reverse(length(made)))).map(|made| length(made))?;
            all.retain(|(made, _)| length(made) == smallest);
        }
        // Stable: the oldest stays first.
        all.sort_by_key(|(made, _)| made.is_foreign(scope));
        let (first, protocol) = all.iter().find(|(made, _)| made.goes()).copied()?;
        let is_alone = is_own && !first.host.starts_with('*') && all.iter().all(|(made, _)| made.host == first.host);
        if is_alone || protocol == Protocol::Tcp {
            return Some(At::Host(first));
        }
        all.retain(|(_, own)| *own != Protocol::Tcp);
        Some(At::Named(Named { all, is_own }))
    }

    /// True if what comes for a host at this address of its entry is led to that host, at each of its ports that callers see.
    pub fn leads<'s>(&self, made: &EntryService, address: IpAddr, scope: impl Into<Scope<'s>>) -> bool {
        let scope = scope.into();
        made.ports.iter().all(|port| match self.having(address, port.number, scope) {
            None => true,
            Some(At::Host(found)) => found.host == made.host,
            Some(At::Named(named)) => match port.protocol {
                Protocol::Http | Protocol::Http2 | Protocol::Grpc | Protocol::Tls => true,
                // What names no host may come there, too.
                Protocol::Tcp | Protocol::Sniffed => {
                    named.otherwise(None, false).is_some_and(|found| found.host == made.host)
                }
            },
        })
    }

    /// As [`Entries::find`], of a host as a request names it, or of what its short form means.
    pub fn named<'s>(&self, host: &str, scope: impl Into<Scope<'s>>) -> Option<&Arc<EntryService>> {
        self.named_with(host, scope.into(), |_| true)
    }

    /// As [`Entries::named`]; of several with the same address those count which have what is asked for.
    pub(crate) fn named_with(
        &self,
        host: &str,
        scope: Scope<'_>,
        has: impl Fn(&EntryService) -> bool,
    ) -> Option<&Arc<EntryService>> {
        if self.all.is_empty() {
            return None;
        }
        let host = as_written(host);
        let host = host.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(&host);
        self.find_with(host, scope, has).or_else(|| {
            let service = hosts::named(host, scope.namespace)?;
            self.find(&hosts::full_name(&service), scope)
        })
    }

    /// Who makes a host.
    pub(super) fn owners(&self, host: &str) -> Owners {
        let wild = self.wild.iter().filter(|made| hosts::covers(&made.host, host));
        let made = self.exact.get(host).into_iter().flatten().chain(wild);
        made.map(|made| (made.document.clone(), made.export_to.clone())).collect()
    }

    /// Namespaces whose callers may see another owner of a host than those of any other namespace.
    pub(super) fn special_namespaces(&self, host: &str, into: &mut BTreeSet<String>) {
        for (id, export_to) in self.owners(host) {
            into.insert(id.namespace);
            if let ExportTo::Namespaces(namespaces) = export_to {
                into.extend(namespaces);
            }
        }
    }
}

impl EntryService {
    /// True if callers of this namespace may see it.
    pub fn is_exported_to(&self, namespace: &str) -> bool {
        self.export_to.includes(namespace)
    }

    /// True if it is exported to the caller's namespace and the caller's Sidecar imports it.
    pub fn is_seen(&self, scope: Scope<'_>) -> bool {
        self.is_exported_to(scope.namespace) && scope.sees(self)
    }

    /// What it has at a port; `None` if it has none such.
    fn protocol(&self, port: u16) -> Option<Protocol> {
        self.ports.iter().find(|own| own.number == port).map(|own| own.protocol)
    }

    /// True if it can be called without a name: what goes where its caller dialled needs none.
    fn goes(&self) -> bool {
        !self.host.starts_with('*') || self.entry.resolution == Resolution::None
    }

    /// True if it is of another namespace than the callers'.
    fn is_foreign(&self, scope: Scope<'_>) -> bool {
        self.document.namespace != scope.namespace
    }

    fn age(&self) -> (Millis, &str, &str) {
        (self.created, &self.document.name, &self.document.namespace)
    }
}

/// A host as documents write it: lower case, without the dot that ends a full name.
pub(crate) fn as_written(host: &str) -> Cow<'_, str> {
    let host = host.strip_suffix('.').unwrap_or(host);
    if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(host.to_ascii_lowercase())
    } else {
        Cow::Borrowed(host)
    }
}

fn workloads(state: &State) -> HashMap<&str, Vec<(DocumentId, Arc<WorkloadEntry>)>> {
    let mut by_namespace: HashMap<&str, Vec<(DocumentId, Arc<WorkloadEntry>)>> = HashMap::new();
    for (id, value) in state.effective().filter(|(id, _)| id.kind == Kind::WorkloadEntry) {
        if let Ok(document) = &value.document
            && let Spec::WorkloadEntry(entry) = &document.spec
        {
            by_namespace.entry(&id.namespace).or_default().push((id.clone(), entry.clone()));
        }
    }
    by_namespace
}

/// `None` for one that carries nothing.
fn port(declared: &ServiceEntryPort) -> Option<ServicePort> {
    let protocol = match declared.protocol {
        Some(PortProtocol::Http | PortProtocol::HttpProxy) => Protocol::Http,
        Some(PortProtocol::Http2) => Protocol::Http2,
        Some(PortProtocol::Grpc | PortProtocol::GrpcWeb) => Protocol::Grpc,
        Some(PortProtocol::Https | PortProtocol::Tls) => Protocol::Tls,
        Some(PortProtocol::Tcp | PortProtocol::Mongo | PortProtocol::Redis | PortProtocol::MySql) => Protocol::Tcp,
        Some(PortProtocol::Udp) => return None,
        None if SERVER_FIRST.contains(&declared.number) => Protocol::Tcp,
        None => Protocol::Sniffed,
    };
    Some(ServicePort { name: declared.name.clone(), number: declared.number, protocol })
}

#[cfg(test)]
mod counted {
    use std::cell::Cell;

    thread_local! {
        /// How many WorkloadEntries were looked at on this thread for some ServiceEntry.
        pub(super) static LOOKED_AT: Cell<usize> = const { Cell::new(0) };
    }
}

#[cfg(test)]
mod tests;
