//! The immutable world that a request reads. The agent writes a new one on every change; what changes from request to
//! request lives outside it: counters of endpoints, and the circuits of the clusters that requests go to.

mod candidates;
mod circuits;
mod counters;
mod doors;
mod foreign;
mod lookups;
mod names;
mod spaced;
mod token_keys;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    net::SocketAddr,
    sync::{Arc, atomic::AtomicBool},
};

use arc_swap::ArcSwap;
use certs::{
    grant::NodeGrant,
    id::{NodeId, ServiceAccount, ServiceName, TrustDomain},
    verify::Authority,
};
use foldhash::fast::RandomState;
use policy::{
    compile::Compiled,
    history::State,
    hosts::{Inventory, Registry, ServicePort, Workload},
    kinds::OutboundPolicy,
    route::Source,
};
use tokio::sync::watch;

pub use candidates::{Candidates, Carries, NoCluster, Out};
pub use circuits::{Circuit, Circuits, Connection, Outlets, Standing, StaysIn, Table};
pub use counters::{EndpointStats, InFlight, StatsTable};
pub use doors::{Doors, OpenDoor, Trouble};
pub use foreign::{Foreign, ForeignServices, Instance, Outside};
pub use lookups::{ADDRESSES, Asked, Lookups, Wanted};
pub use names::{Captures, Names, PlaintextPort};
pub use spaced::Spaced;
pub use token_keys::TokenKeys;

use crate::balance::rate::Limits;

/// One state of the world.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The mesh.
    pub trust_domain: TrustDomain,
    /// This node.
    pub node: NodeId,
    /// What the documents mean for requests.
    pub compiled: Arc<Compiled>,
    /// All services and their endpoints.
    pub services: Arc<Services>,
    /// The services that ServiceEntries make.
    pub foreign: Arc<ForeignServices>,
    /// The documents that are live.
    pub state: Arc<State>,
    /// Whom to believe.
    pub authority: Arc<Authority>,
    /// What is left of this node's rate limits; the same through all snapshots.
    pub limits: Arc<Limits>,
    /// Keys of those whose tokens are believed, as fetched; the same through all snapshots.
    pub token_keys: Arc<TokenKeys>,
}

impl Snapshot {
    /// Whether operators let this node serve a service under an account.
    #[must_use]
    pub fn serves(&self, service: &ServiceName, account: &ServiceAccount) -> bool {
        !self.authority.revocations.account_revoked(account)
            && self.own_grant().is_some_and(|grant| grant.pairs(service, account))
    }

    /// Whether they let it speak as an account.
    #[must_use]
    pub fn speaks_as(&self, account: &ServiceAccount) -> bool {
        !self.authority.revocations.account_revoked(account)
            && self.own_grant().is_some_and(|grant| grant.services.iter().any(|granted| granted.account == *account))
    }

    /// What operators let this node be; none once it is out.
    fn own_grant(&self) -> Option<&NodeGrant> {
        let grant = self.authority.grants.get(&self.node).filter(|grant| !grant.retired)?;
        (!self.authority.revocations.evicted(&self.node, grant.epoch)).then_some(grant)
    }

    /// True if nothing that this caller sends may leave the mesh.
    #[must_use]
    pub fn stays_inside(&self, source: &Source) -> bool {
        let mesh = self.compiled.config().outbound;
        self.compiled.scope(source).outbound(mesh) == Some(OutboundPolicy::RegistryOnly)
    }
}

/// The one place that holds the newest [`Snapshot`]. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Current {
    newest: Arc<ArcSwap<Snapshot>>,
    changes: watch::Sender<u64>,
    doors: Arc<ArcSwap<Doors>>,
    /// What keeps this node from speaking TLS as documents say.
    tls_troubles: Arc<ArcSwap<Vec<Trouble>>>,
    names: Arc<ArcSwap<Names>>,
    captures: Arc<ArcSwap<Captures>>,
    local_ports: Arc<ArcSwap<Vec<SocketAddr>>>,
    plaintext: Arc<ArcSwap<Vec<PlaintextPort>>>,
    resolvers: Arc<ArcSwap<Vec<Trouble>>>,
    leaving: Arc<AtomicBool>,
    lookups: Arc<Lookups>,
}

impl Current {
    /// Begins with a first snapshot.
    #[must_use]
    pub fn new(first: Snapshot) -> Current {
        Current {
            newest: Arc::new(ArcSwap::from_pointee(first)),
            changes: watch::Sender::new(0),
            doors: Arc::default(),
            tls_troubles: Arc::default(),
            names: Arc::default(),
            captures: Arc::default(),
            local_ports: Arc::default(),
            plaintext: Arc::default(),
            resolvers: Arc::default(),
            leaving: Arc::default(),
            lookups: Arc::default(),
        }
    }

    /// The newest. Load once per request and keep it until the response's head.
    #[must_use]
    pub fn load(&self) -> Arc<Snapshot> {
        self.newest.load_full()
    }

    /// The newest, for a moment: cheaper than [`Current::load`], and not to be kept over an await.
    #[must_use]
    pub fn read(&self) -> arc_swap::Guard<Arc<Snapshot>> {
        self.newest.load()
    }

    /// Replaces it. Only the agent's fold does.
    pub fn store(&self, next: Arc<Snapshot>) {
        self.newest.store(next);
        self.changes.send_modify(|count| *count += 1);
    }

    /// What the data plane says of this node's gateways. This and what follows goes the other way: from the proxy to the agent.
    #[must_use]
    pub fn doors(&self) -> Arc<Doors> {
        self.doors.load_full()
    }

    /// True if a gateway of this node listens where a connection to this address of the machine goes.
    #[must_use]
    pub fn is_door(&self, address: SocketAddr) -> bool {
        let ip = address.ip().to_canonical();
        let leads = |listen: SocketAddr| listen.ip().is_unspecified() || listen.ip().to_canonical() == ip;
        self.doors.load().open.iter().any(|door| door.listen.port() == address.port() && leads(door.listen))
    }

    /// Says it. Only the data plane does.
    pub fn tell_doors(&self, doors: Doors) {
        self.doors.store(Arc::new(doors));
    }

    /// What the data plane misses for TLS towards endpoints outside the mesh.
    #[must_use]
    pub fn tls_troubles(&self) -> Arc<Vec<Trouble>> {
        self.tls_troubles.load_full()
    }

    /// Says it. Only the data plane does.
    pub fn tell_tls_troubles(&self, troubles: Vec<Trouble>) {
        self.tls_troubles.store(Arc::new(troubles));
    }

    /// The addresses of services, as the data plane gives and opens them.
    #[must_use]
    pub fn names(&self) -> Arc<Names> {
        self.names.load_full()
    }

    /// Says it. Only the data plane does.
    pub fn tell_names(&self, names: Names) {
        self.names.store(Arc::new(names));
    }

    /// Where captured connections are taken.
    #[must_use]
    pub fn captures(&self) -> Arc<Captures> {
        self.captures.load_full()
    }

    /// Says it. Only the data plane does.
    pub fn tell_captures(&self, captures: Captures) {
        self.captures.store(Arc::new(captures));
    }

    /// Where services beside this node take callers outside the mesh.
    #[must_use]
    pub fn plaintext(&self) -> Arc<Vec<PlaintextPort>> {
        self.plaintext.load_full()
    }

    /// Says it. Only the data plane does.
    pub fn tell_plaintext(&self, ports: Vec<PlaintextPort>) {
        self.plaintext.store(Arc::new(ports));
    }

    /// Where the data plane listens beside its gateways: proxy ports, explicit ports, ports of services in plaintext.
    #[must_use]
    pub fn local_ports(&self) -> Arc<Vec<SocketAddr>> {
        self.local_ports.load_full()
    }

    /// Says it. Only the data plane does.
    pub fn tell_local_ports(&self, ports: Vec<SocketAddr>) {
        self.local_ports.store(Arc::new(ports));
    }

    /// What is amiss with the resolvers behind this node.
    #[must_use]
    pub fn resolvers(&self) -> Arc<Vec<Trouble>> {
        self.resolvers.load_full()
    }

    /// Says it. Only the DNS server does.
    pub fn tell_resolvers(&self, troubles: Vec<Trouble>) {
        self.resolvers.store(Arc::new(troubles));
    }

    /// Names that requests bring: the data plane asks, the agent answers.
    #[must_use]
    pub fn lookups(&self) -> &Arc<Lookups> {
        &self.lookups
    }

    /// Tells of every change after this call, several together as one.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}

/// All services of the mesh.
#[derive(Debug, Default)]
pub struct Services {
    by_name: HashMap<ServiceName, Arc<Service>, RandomState>,
    by_account: HashMap<NodeId, Arc<ByAccount>>,
}

/// The endpoints of one node.
type ByAccount = HashMap<ServiceAccount, Vec<Arc<Endpoint>>>;

/// A service: what its endpoints have in common.
#[derive(Debug)]
pub struct Service {
    /// Its name.
    pub name: ServiceName,
    /// The ports that any of its endpoints has, by number.
    pub ports: Arc<[ServicePort]>,
    /// Sorted by id.
    pub endpoints: Arc<[Arc<Endpoint>]>,
}

/// One instance of a service on one node.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// Its name in the mesh.
    pub id: EndpointId,
    /// The node's mesh address.
    pub address: SocketAddr,
    /// Whom it must prove to be.
    pub account: ServiceAccount,
    /// Its labels.
    pub labels: Arc<BTreeMap<String, String>>,
    /// `region/zone/subzone` of its node, may be empty.
    pub locality: Arc<str>,
    /// Relative share of traffic; 0 takes none.
    pub weight: u32,
    /// The ports that it serves.
    pub ports: Arc<[ServicePort]>,
    /// What its owner's check says.
    pub healthy: bool,
    /// Why it is not healthy; empty if it is.
    pub reason: Arc<str>,
    /// True if it is on this node.
    pub local: bool,
    /// Counters of this node's requests to it; they survive snapshots.
    pub stats: Arc<EndpointStats>,
}

/// `NODE/NAMESPACE/NAME[/INSTANCE]`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointId {
    /// Whose it is.
    pub node: NodeId,
    /// What it serves.
    pub service: ServiceName,
    /// Which of several on one node.
    pub instance: Option<Arc<str>>,
}

impl fmt::Display for EndpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.node, self.service)?;
        self.instance.as_ref().map_or(Ok(()), |instance| write!(f, "/{instance}"))
    }
}

impl Services {
    /// Groups endpoints by service.
    #[must_use]
    pub fn new(endpoints: impl IntoIterator<Item = Endpoint>) -> Services {
        let mut by_node: BTreeMap<NodeId, Vec<Endpoint>> = BTreeMap::new();
        for endpoint in endpoints {
            by_node.entry(endpoint.id.node.clone()).or_default().push(endpoint);
        }
        Services::default().with(by_node)
    }

    /// These, but of some nodes other endpoints. Services that none of them serves, or served, are taken over as they are.
    #[must_use]
    pub fn with(&self, changed: BTreeMap<NodeId, Vec<Endpoint>>) -> Services {
        let Services { mut by_name, mut by_account } =
            Services { by_name: self.by_name.clone(), by_account: self.by_account.clone() };
        let mut touched: BTreeMap<ServiceName, BTreeMap<EndpointId, Arc<Endpoint>>> = BTreeMap::new();
        let others = |endpoint: &&Arc<Endpoint>| !changed.contains_key(&endpoint.id.node);
        let names = changed.keys().flat_map(|node| self.on(node)).map(|endpoint| &endpoint.id.service);
        let names: BTreeSet<&ServiceName> =
            names.chain(changed.values().flatten().map(|endpoint| &endpoint.id.service)).collect();
        for name in names {
            let kept = self.by_name.get(name).into_iter().flat_map(|service| service.endpoints.iter()).filter(others);
            touched.insert(name.clone(), kept.map(|endpoint| (endpoint.id.clone(), endpoint.clone())).collect());
        }
        for (node, endpoints) in changed {
            by_account.remove(&node);
            let mut accounts = ByAccount::new();
            for endpoint in endpoints.into_iter().map(Arc::new) {
                accounts.entry(endpoint.account.clone()).or_default().push(endpoint.clone());
                touched.entry(endpoint.id.service.clone()).or_default().insert(endpoint.id.clone(), endpoint);
            }
            if !accounts.is_empty() {
                by_account.insert(node, Arc::new(accounts));
            }
        }
        for (name, endpoints) in touched {
            if endpoints.is_empty() {
                by_name.remove(&name);
            } else {
                by_name.insert(name.clone(), Arc::new(Service::of(name, endpoints.into_values().collect())));
            }
        }
        Services { by_name, by_account }
    }

    /// A service by name.
    #[must_use]
    pub fn get(&self, name: &ServiceName) -> Option<&Arc<Service>> {
        self.by_name.get(name)
    }

    /// All services, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.by_name.values()
    }

    /// The endpoints of a node that serve as an account: what is known of a peer by what TLS proves of it.
    #[must_use]
    pub fn of_peer(&self, node: &NodeId, account: &ServiceAccount) -> &[Arc<Endpoint>] {
        self.by_account.get(node).and_then(|accounts| accounts.get(account)).map_or(&[], Vec::as_slice)
    }

    /// The endpoints on a node.
    pub fn on(&self, node: &NodeId) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.by_account.get(node).into_iter().flat_map(|accounts| accounts.values().flatten())
    }
}

impl Service {
    fn of(name: ServiceName, endpoints: Arc<[Arc<Endpoint>]>) -> Service {
        let ports = endpoints.iter().rev().flat_map(|endpoint| endpoint.ports.iter().cloned());
        let ports: BTreeMap<u16, ServicePort> = ports.map(|port| (port.number, port)).collect();
        Service { name, ports: ports.into_values().collect(), endpoints }
    }

    /// The nodes that serve it, reachable or not.
    #[must_use]
    pub fn nodes(&self) -> BTreeSet<&NodeId> {
        self.endpoints.iter().map(|endpoint| &endpoint.id.node).collect()
    }
}

impl Registry for Services {
    fn ports(&self, service: &ServiceName) -> Option<Arc<[ServicePort]>> {
        self.get(service).map(|service| service.ports.clone())
    }

    fn services(&self) -> Vec<ServiceName> {
        self.by_name.keys().cloned().collect()
    }

    fn labels_exist(&self, service: &ServiceName, labels: &BTreeMap<String, String>) -> bool {
        self.get(service).is_some_and(|service| service.endpoints.iter().any(|endpoint| endpoint.has_labels(labels)))
    }

    fn endpoints(&self, service: &ServiceName, labels: &BTreeMap<String, String>) -> Option<usize> {
        Some(self.get(service)?.endpoints.iter().filter(|endpoint| endpoint.has_labels(labels)).count())
    }

    /// Every workload registers, so what is not among them is not there. Credentials are each node's own.
    fn inventory(&self) -> Inventory {
        let mut workloads: BTreeMap<String, BTreeSet<Workload>> = BTreeMap::new();
        for endpoint in self.iter().flat_map(|service| service.endpoints.iter()) {
            let ports = endpoint.ports.iter().map(|port| (port.number, port.protocol)).collect();
            let alike = workloads.entry(endpoint.id.service.namespace().to_owned()).or_default();
            alike.insert(Workload { labels: Arc::clone(&endpoint.labels), ports });
        }
        let namespaces = workloads.keys().cloned().collect();
        Inventory { workloads: Some(workloads), complete: true, namespaces: Some(namespaces), credentials: None }
    }
}

impl Endpoint {
    /// True if it has all these labels.
    #[must_use]
    pub fn has_labels(&self, labels: &BTreeMap<String, String>) -> bool {
        labels.iter().all(|(key, value)| self.labels.get(key) == Some(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;
    use policy::hosts::Protocol;

    fn endpoint(node: &str, version: &str, port: u16, stats: &StatsTable) -> Endpoint {
        let service = ServiceName::new("default", "reviews").unwrap();
        Endpoint {
            labels: Arc::new(BTreeMap::from([("version".to_owned(), version.to_owned())])),
            ports: Arc::new([ServicePort { name: "http".to_owned(), number: port, protocol: Protocol::Http }]),
            ..testing::endpoint(node, &service, stats)
        }
    }

    #[test]
    fn endpoints_are_sorted_and_ports_are_their_union() {
        let stats = StatsTable::default();
        let services = Services::new([endpoint("b", "v2", 9081, &stats), endpoint("a", "v1", 9080, &stats)]);
        let name = ServiceName::new("default", "reviews").unwrap();
        let service = services.get(&name).unwrap();
        let ids: Vec<String> = service.endpoints.iter().map(|e| e.id.to_string()).collect();
        assert_eq!(ids, ["a/default/reviews", "b/default/reviews"]);
        let ports: Vec<u16> = service.ports.iter().map(|port| port.number).collect();
        assert_eq!(ports, [9080, 9081]);
        assert!(services.labels_exist(&name, &BTreeMap::from([("version".to_owned(), "v2".to_owned())])));
        assert!(!services.labels_exist(&name, &BTreeMap::from([("version".to_owned(), "v3".to_owned())])));
        let account = ServiceAccount::new("default", "reviews").unwrap();
        assert_eq!(services.of_peer(&NodeId::new("a").unwrap(), &account).len(), 1);
    }

    #[test]
    fn other_endpoints_of_one_node_leave_the_services_of_others_as_they_are() {
        let stats = StatsTable::default();
        let [reviews, ratings] = ["reviews", "ratings"].map(|name| ServiceName::new("default", name).unwrap());
        let of = |node: &str, service: &ServiceName, port: u16| {
            let id = EndpointId { node: NodeId::new(node).unwrap(), service: service.clone(), instance: None };
            Endpoint { id, ..endpoint(node, "v1", port, &stats) }
        };
        let all = [of("a", &reviews, 80), of("b", &reviews, 81), of("c", &ratings, 82)];
        let before = Services::new(all);
        let (a, b, c) = (NodeId::new("a").unwrap(), NodeId::new("b").unwrap(), NodeId::new("c").unwrap());
        let after = before.with(BTreeMap::from([(b.clone(), vec![of("b", &reviews, 90)])]));
        assert!(Arc::ptr_eq(before.get(&ratings).unwrap(), after.get(&ratings).unwrap()));
        let ports: Vec<u16> = after.get(&reviews).unwrap().ports.iter().map(|port| port.number).collect();
        assert_eq!(ports, [80, 90]);
        let kept = |services: &Services| services.get(&reviews).unwrap().endpoints[0].clone();
        assert!(Arc::ptr_eq(&kept(&before), &kept(&after)));
        // One goes, one changes what it serves, and a service without endpoints is none.
        let after = after.with(BTreeMap::from([(c, vec![]), (a.clone(), vec![of("a", &ratings, 83)])]));
        let nodes = |name: &ServiceName| after.get(name).unwrap().nodes().into_iter().cloned().collect::<Vec<_>>();
        assert_eq!((nodes(&reviews), nodes(&ratings)), (vec![b.clone()], vec![a.clone()]));
        assert_eq!(after.on(&a).count(), 1);
        let after = after.with(BTreeMap::from([(b, vec![])]));
        assert!(after.get(&reviews).is_none() && after.iter().count() == 1);
    }
}
