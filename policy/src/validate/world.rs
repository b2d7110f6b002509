//! The mesh as it would be with the documents under examination.

use std::{
    cell::{Cell, OnceCell},
    collections::{BTreeSet, HashMap, HashSet},
};

use super::{entries, entry::Entry, names::Names, workloads::Workloads};
use crate::{
    Document, DocumentId, Kind, Spec,
    compile::{
        self,
        rules::{Rule, Rules},
    },
    document::ROOT_NAMESPACE,
    history::State,
    hosts::{self, Inventory, Registry},
    kinds::{DelegateName, ExportTo, GatewayName, Server, Subnet, VirtualService},
    parse::Located,
};

/// Unknown hosts at most for which a similar name is looked for.
const MAX_HINTS: usize = 100;

/// Which document, and which item of its list.
type Part = (usize, usize);

/// Documents of the mesh and those under examination, which replace them.
pub(super) struct World<'w> {
    pub(super) registry: &'w dyn Registry,
    pub(super) inventory: &'w Inventory,
    pub(super) workloads: Workloads<'w>,
    /// False where nothing is known of services: then nothing is said of hosts.
    pub(super) knows_services: bool,
    /// False for lint of files alone: what they do not say, the mesh that they are for may.
    pub(super) is_mesh: bool,
    /// Oldest first.
    entries: Vec<Entry<'w>>,
    by_id: HashMap<&'w DocumentId, usize>,
    by_namespace: HashMap<Kind, HashMap<&'w str, Vec<usize>>>,
    /// Hosts of VirtualServices for the mesh, of DestinationRules and of ServiceEntries.
    claims: HashMap<Kind, Names<usize>>,
    /// Gateways' servers by port and host, and by port and what they speak: which Gateway, which of its servers.
    servers: HashMap<u16, HashMap<&'w str, Vec<Part>>>,
    speaking: HashMap<(u16, Speech), Vec<Part>>,
    /// ServiceEntries by address.
    addresses: HashMap<Subnet, Vec<usize>>,
    /// Those without addresses, by the ports of which they take all.
    unaddressed: HashMap<u16, Vec<usize>>,
    /// VirtualServices by Gateway and host.
    attached: HashMap<DocumentId, HashMap<&'w str, Vec<usize>>>,
    /// Registered services.
    services: Names<()>,
    rules: Rules,
    names: OnceCell<Vec<String>>,
    hints: Cell<usize>,
}

impl<'w> World<'w> {
    /// `confined` says of a document under examination that it is seen in its own namespace only.
    pub(super) fn new(
        documents: &'w [Located],
        state: &'w State,
        (registry, inventory): (&'w dyn Registry, &'w Inventory),
        confined: &dyn Fn(&Document) -> bool,
    ) -> Self {
        let examined: BTreeSet<&DocumentId> = documents.iter().map(|located| &located.document.id).collect();
        let living = || state.effective().filter(|(id, _)| !examined.contains(id));
        let lives = living().filter_map(|(_, value)| Entry::living(state, value));
        let own = documents.iter().map(|located| Entry::examined(state, &located.document, confined));
        let mut entries: Vec<Entry<'w>> = lives.chain(own).collect();
        entries.sort_by(|a, b| a.age().cmp(&b.age()));
        let mut rules: Vec<Rule> = living().filter_map(|(id, value)| compile::destination_rule(id, value)).collect();
        rules.extend(entries.iter().filter_map(Entry::examined_rule));
        let mut services = Names::new();
        let registered = registry.services();
        registered.iter().for_each(|service| services.add(&hosts::full_name(service), ()));
        let mut world = Self {
            registry,
            inventory,
            workloads: Workloads::new(inventory),
            knows_services: !registered.is_empty() || state.role_set.number > 0,
            is_mesh: state.role_set.number > 0,
            entries,
            by_id: HashMap::new(),
            by_namespace: HashMap::new(),
            claims: HashMap::new(),
            servers: HashMap::new(),
            speaking: HashMap::new(),
            addresses: HashMap::new(),
            unaddressed: HashMap::new(),
            attached: HashMap::new(),
            services,
            rules: Rules::new(rules, Default::default()),
            names: OnceCell::new(),
            hints: Cell::new(0),
        };
        world.index();
        world
    }

    fn index(&mut self) {
        for (index, entry) in self.entries.iter().enumerate() {
            let id = entry.id();
            self.by_id.insert(id, index);
            self.by_namespace.entry(id.kind).or_default().entry(&id.namespace).or_default().push(index);
            let names = self.claims.entry(id.kind).or_insert_with(Names::new);
            claimed(&entry.document.spec).iter().for_each(|host| names.add(host, index));
            if let Spec::ServiceEntry(content) = &entry.document.spec {
                for address in content.addresses.iter().collect::<HashSet<_>>() {
                    self.addresses.entry(*address).or_default().push(index);
                }
                for port in entries::whole_ports(content) {
                    self.unaddressed.entry(port).or_default().push(index);
                }
            }
            if let Spec::Gateway(gateway) = &entry.document.spec {
                for (part, server) in gateway.servers.iter().enumerate() {
                    let port = server.port.number;
                    self.speaking.entry((port, Speech::of(server))).or_default().push((index, part));
                    for host in server.hosts.iter().map(|host| host.host.as_str()).collect::<BTreeSet<_>>() {
                        self.servers.entry(port).or_default().entry(host).or_default().push((index, part));
                    }
                }
            }
            let Some(service) = entry.document.spec.virtual_service() else { continue };
            for gateway in service.gateways.iter().filter_map(gateway_id).collect::<BTreeSet<_>>() {
                let hosts = self.attached.entry(gateway).or_default();
                service.hosts.iter().for_each(|host| hosts.entry(host).or_default().push(index));
            }
        }
    }

    pub(super) fn entry(&self, id: &DocumentId) -> Option<&Entry<'w>> {
        self.by_id.get(id).map(|index| &self.entries[*index])
    }

    /// All documents of a kind, oldest first.
    pub(super) fn all(&self, kind: Kind) -> impl Iterator<Item = &Entry<'w>> {
        self.entries.iter().filter(move |entry| entry.id().kind == kind)
    }

    /// Documents of a kind in a namespace, oldest first.
    pub(super) fn of(&self, kind: Kind, namespace: &str) -> impl Iterator<Item = &Entry<'w>> {
        let found = self.by_namespace.get(&kind).and_then(|namespaces| namespaces.get(namespace));
        found.into_iter().flatten().map(|index| &self.entries[*index])
    }

    /// Documents of a kind that claim this very host, oldest first.
    pub(super) fn claiming(&self, kind: Kind, host: &str) -> impl Iterator<Item = &Entry<'w>> {
        self.claims.get(&kind).into_iter().flat_map(|names| names.same(host)).map(|index| &self.entries[*index])
    }

    /// Documents of a kind that claim the host or a wider one, the narrowest first.
    pub(super) fn covering<'s>(&'s self, kind: Kind, host: &'s str) -> impl Iterator<Item = &'s Entry<'w>> {
        self.claims.get(&kind).into_iter().flat_map(|names| names.covering(host)).map(|index| &self.entries[index])
    }

    /// Documents of a kind that claim a wider host, the narrowest first.
    pub(super) fn wider<'s>(&'s self, kind: Kind, host: &'s str) -> impl Iterator<Item = &'s Entry<'w>> {
        self.claims.get(&kind).into_iter().flat_map(|names| names.wider(host)).map(|index| &self.entries[index])
    }

    /// Documents of a kind that claim a narrower wildcard; one of each.
    pub(super) fn narrower<'s>(&'s self, kind: Kind, host: &'s str) -> impl Iterator<Item = &'s Entry<'w>> {
        self.claims.get(&kind).into_iter().flat_map(|names| names.narrower(host)).map(|index| &self.entries[index])
    }

    /// Servers of Gateways with this port and host, oldest first.
    pub(super) fn servers(&self, port: u16, host: &str) -> impl Iterator<Item = (&Entry<'w>, usize)> {
        let found = self.servers.get(&port).and_then(|hosts| hosts.get(host));
        found.into_iter().flatten().map(|(index, part)| (&self.entries[*index], *part))
    }

    /// Servers of Gateways with this port that speak so, oldest first.
    pub(super) fn speaking(&self, port: u16, speech: Speech) -> impl Iterator<Item = (&Entry<'w>, usize)> {
        let found = self.speaking.get(&(port, speech)).into_iter().flatten();
        found.map(|(index, part)| (&self.entries[*index], *part))
    }

    /// ServiceEntries with this very address or block, oldest first.
    pub(super) fn at_address(&self, address: &Subnet) -> impl Iterator<Item = &Entry<'w>> {
        self.addresses.get(address).into_iter().flatten().map(|index| &self.entries[*index])
    }

    /// ServiceEntries that take all connections to this port, oldest first.
    pub(super) fn taking(&self, port: u16) -> impl Iterator<Item = &Entry<'w>> {
        self.unaddressed.get(&port).into_iter().flatten().map(|index| &self.entries[*index])
    }

    /// VirtualServices that name this Gateway and host, oldest first.
    pub(super) fn attached(&self, gateway: &DocumentId, host: &str) -> impl Iterator<Item = &Entry<'w>> {
        let found = self.attached.get(gateway).and_then(|hosts| hosts.get(host));
        found.into_iter().flatten().map(|index| &self.entries[*index])
    }

    /// The ports of the service or ServiceEntry that a full host name or a wildcard means to callers of some of these namespaces; none
    /// if the document that makes it names none.
    pub(super) fn ports(&self, host: &str, callers: &[&str]) -> Option<Vec<u16>> {
        let service = hosts::service_of(host).and_then(|service| self.registry.ports(&service));
        if let Some(ports) = service {
            return Some(ports.iter().map(|port| port.number).collect());
        }
        let seen = |entry: &&Entry<'w>| callers.iter().any(|caller| entry.export_to.includes(caller));
        let entry = self.covering(Kind::ServiceEntry, host).find(seen)?;
        let Spec::ServiceEntry(content) = &entry.document.spec else { return None };
        Some(content.ports.iter().map(|port| port.number).collect())
    }

    /// True if the host is, or the wildcard covers, a service or the host of a ServiceEntry.
    pub(super) fn meets_something(&self, host: &str) -> bool {
        let entries = || self.claims.get(&Kind::ServiceEntry);
        if host.starts_with('*') {
            self.services.within(host).is_some()
                || entries().is_some_and(|names| names.within(host).is_some() || names.wider(host).next().is_some())
        } else {
            self.is_service(host) || entries().is_some_and(|names| names.covering(host).next().is_some())
        }
    }

    /// True if the host is, or the wildcard covers, a registered service.
    pub(super) fn meets_service(&self, host: &str) -> bool {
        if host.starts_with('*') { self.services.within(host).is_some() } else { self.is_service(host) }
    }

    fn is_service(&self, host: &str) -> bool {
        hosts::service_of(host).is_some_and(|service| self.registry.ports(&service).is_some())
    }

    /// True if callers of the document's namespace, or of the service's, see the subset.
    pub(super) fn defines_subset(&self, namespace: &str, host: &str, subset: &str) -> bool {
        let seen = |client: &str| self.rules.seen_from(client, host).defines(subset);
        let owner = hosts::service_of(host).map(|service| service.namespace().to_owned());
        let mut owners = self.covering(Kind::ServiceEntry, host).map(|entry| entry.id().namespace.as_str());
        seen(namespace) || owner.is_some_and(|owner| seen(&owner)) || owners.any(seen)
    }

    /// A DestinationRule of the service's own namespace that every caller sees: the root namespace's count for none of them.
    pub(super) fn before_root<'s>(&'s self, host: &'s str) -> Option<&'s Entry<'w>> {
        let owner = hosts::service_of(host)?;
        let mut rules = self.covering(Kind::DestinationRule, host);
        rules.find(|entry| {
            let id = entry.id();
            id.namespace == owner.namespace() && id.namespace != ROOT_NAMESPACE && entry.export_to == ExportTo::All
        })
    }

    /// How a host that is no service might have been meant.
    pub(super) fn hint_for_host(&self, host: &str) -> String {
        if let Some(service) = hosts::named(host, "").filter(|service| self.registry.ports(service).is_some()) {
            return format!("a name with a dot is taken as a full name: write {}", hosts::full_name(&service));
        }
        let names = self.names.get_or_init(|| self.registry.services().iter().map(hosts::full_name).collect());
        self.hints.set(self.hints.get() + 1);
        let near = Some(names).filter(|_| self.hints.get() <= MAX_HINTS);
        match near.and_then(|names| crate::decode::nearest(host, names.iter().map(String::as_str))) {
            Some(name) => format!("did you mean `{name}`?"),
            None => "see `skein services`".to_owned(),
        }
    }

    /// Whether rules of this namespace may delegate to this VirtualService, and why not; `None` if there is none.
    pub(super) fn delegate(&self, to: &DelegateName, namespace: &str) -> Option<Result<(), &'static str>> {
        let found = self.entry(&to.id())?;
        let service = found.document.spec.virtual_service()?;
        let seen = found.export_to.includes(namespace);
        Some(match (service.is_delegate(), seen) {
            (true, true) => Ok(()),
            (false, _) => Err("has hosts of its own"),
            (true, false) => Err("is not exported here"),
        })
    }
}

/// What tells servers apart that cannot share a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Speech {
    /// Plain HTTP: hosts are told apart by the request.
    Http,
    /// TLS: by the name that the client asks for.
    Tls,
    /// Nothing tells them apart.
    Bytes,
}

impl Speech {
    pub(super) const ALL: [Self; 3] = [Self::Http, Self::Tls, Self::Bytes];

    pub(super) fn of(server: &Server) -> Self {
        let protocol = server.port.protocol;
        if protocol.is_tls() {
            Self::Tls
        } else if protocol.is_http() {
            Self::Http
        } else {
            Self::Bytes
        }
    }

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Http => "HTTP",
            Self::Tls => "TLS",
            Self::Bytes => "TCP",
        }
    }
}

/// The Gateway document that a name means.
pub(super) fn gateway_id(name: &GatewayName) -> Option<DocumentId> {
    match name {
        GatewayName::Mesh => None,
        GatewayName::Gateway { namespace, name } => Some(DocumentId::new(Kind::Gateway, namespace, name)),
    }
}

/// Hosts that a document speaks of in the mesh.
fn claimed(spec: &Spec) -> &[String] {
    let elsewhere = spec.virtual_service().is_some_and(|service| !service.is_for_mesh());
    if elsewhere { &[] } else { spec.hosts() }
}

/// The namespaces whose callers a VirtualService is for, as far as it names them: its own, and those that it is exported to.
pub(super) fn callers<'s>(id: &'s DocumentId, service: &'s VirtualService) -> Vec<&'s str> {
    match &service.export_to {
        ExportTo::All => vec![id.namespace.as_str()],
        ExportTo::Namespaces(namespaces) => namespaces.iter().map(String::as_str).collect(),
    }
}
