//! The mesh as it would be with the documents under examination.

use std::{
    cell::{Cell, OnceCell},
    collections::{BTreeSet, HashMap, HashSet},
};

use certs::codec::Millis;

use super::{names::Names, workloads::Workloads};
use crate::{
    Document, DocumentId, Kind, Spec,
    compile::{
        self,
        rules::{Rule, Rules},
    },
    document::ROOT_NAMESPACE,
    history::{LiveValue, State},
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
    /// VirtualServices by Gateway.
    attached: HashMap<DocumentId, Vec<usize>>,
    /// Registered services.
    services: Names<()>,
    rules: Rules,
    names: OnceCell<Vec<String>>,
    hints: Cell<usize>,
}

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
        let lives = living().filter_map(|(id, value)| {
            let document: &Document = value.document.as_ref().ok()?;
            let export_to = compile::seen_by(&export_to(document), id, value);
            Some(Entry { document, export_to, created: created(state, document), living: Some(value) })
        });
        let own = documents.iter().map(|located| {
            let document = &located.document;
            let export_to = if confined(document) { alone(&document.id) } else { export_to(document) };
            Entry { document, export_to, created: created(state, document), living: None }
        });
        let mut entries: Vec<Entry<'w>> = lives.chain(own).collect();
        entries.sort_by(|a, b| a.age().cmp(&b.age()));
        let mut rules: Vec<Rule> = living().filter_map(|(id, value)| compile::destination_rule(id, value)).collect();
        rules.extend(entries.iter().filter(|entry| entry.living.is_none()).filter_map(examined_rule));
        let mut services = Names::new();
        let registered = registry.services();
        registered.iter().for_each(|service| services.add(&hosts::full_name(service), ()));
        let mut world = Self {
            registry,
            inventory,
            workloads: Workloads::new(inventory),
            knows_services: !registered.is_empty() || state.role_set.number > 0,
            entries,
            by_id: HashMap::new(),
            by_namespace: HashMap::new(),
            claims: HashMap::new(),
            servers: HashMap::new(),
            speaking: HashMap::new(),
            addresses: HashMap::new(),
            attached: HashMap::new(),
            services,
            rules: Rules::new(rules),
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
            let gateways = entry.document.spec.virtual_service().map_or(&[][..], |service| &service.gateways);
            for gateway in gateways.iter().filter_map(gateway_id).collect::<BTreeSet<_>>() {
                self.attached.entry(gateway).or_default().push(index);
            }
        }
    }

    pub(super) fn entry(&self, id: &DocumentId) -> Option<&Entry<'w>> {
        self.by_id.get(id).map(|index| &self.entries[*index])
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

    /// VirtualServices that name this Gateway, oldest first.
    pub(super) fn attached(&self, gateway: &DocumentId) -> impl Iterator<Item = &Entry<'w>> {
        self.attached.get(gateway).into_iter().flatten().map(|index| &self.entries[*index])
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
        seen(namespace) || hosts::service_of(host).is_some_and(|service| seen(service.namespace()))
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

/// Seen in its own namespace only.
fn alone(id: &DocumentId) -> ExportTo {
    ExportTo::Namespaces(BTreeSet::from([id.namespace.clone()]))
}

/// Hosts that a document speaks of in the mesh.
fn claimed(spec: &Spec) -> &[String] {
    match spec {
        Spec::VirtualService(service) if service.is_for_mesh() => &service.hosts,
        Spec::DestinationRule(rule) => std::slice::from_ref(&rule.host),
        Spec::ServiceEntry(entry) => &entry.hosts,
        Spec::VirtualService(_)
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
        | Spec::Confirmation => &[],
    }
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

fn examined_rule(entry: &Entry<'_>) -> Option<Rule> {
    let Spec::DestinationRule(rule) = &entry.document.spec else { return None };
    Some(Rule {
        id: entry.id().clone(),
        // Not pushed yet: no changeset.
        changeset: crate::changeset::ChangesetId(certs::sign::Digest([0; 32])),
        created: entry.created,
        export_to: entry.export_to.clone(),
        rule: rule.clone(),
    })
}

/// The namespaces whose callers a VirtualService is for, as far as it names them: its own, and those that it is exported to.
pub(super) fn callers<'s>(id: &'s DocumentId, service: &'s VirtualService) -> Vec<&'s str> {
    match &service.export_to {
        ExportTo::All => vec![id.namespace.as_str()],
        ExportTo::Namespaces(namespaces) => namespaces.iter().map(String::as_str).collect(),
    }
}
