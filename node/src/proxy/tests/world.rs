//! Several nodes' data planes in one process, with identities made by the real certificate authorities.

use super::backend::Backend;
use crate::{
    balance::rate::Limits,
    config::{Check, Outbound, Port, Probe, Protocol, Service, SpeakerName, Upstream},
    mesh::{self, Mesh, Transport, peer::PeerNetwork},
    proxy::{ApplyError, Bound, DataPlane, keep_doors, run_worker},
    snapshot::{Circuits, Current, Endpoint, EndpointId, Services, Snapshot, StatsTable},
    tasks::Tasks,
    telemetry::{Format, Telemetry},
};
use arc_swap::ArcSwap;
use certs::{
    ca::{CaKey, Enroller, NodeCa},
    codec::Millis,
    grant::{GrantedService, NodeGrant},
    id::{NodeId, ServiceAccount, ServiceName, SpiffeId, TrustDomain},
    root::Root,
    sign::SigningKey,
    tls::{Leafs, Tls},
    verify::Authority,
};
use policy::{
    changeset::{Change, Changeset},
    compile::Compiled,
    history::{History, genesis, signed},
    hosts::ServicePort,
};
use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};
use tokio::sync::mpsc;

/// An endpoint that the registry knows.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) node: usize,
    pub(super) service: &'static str,
    pub(super) version: &'static str,
    pub(super) target: SocketAddr,
    pub(super) protocol: Protocol,
    pub(super) healthy: bool,
    pub(super) weight: u32,
    /// Where the registry says that its node is, if not where it is.
    pub(super) address: Option<SocketAddr>,
    /// Where callers outside the mesh come in.
    pub(super) plaintext: Option<SocketAddr>,
}

impl Entry {
    /// A healthy HTTP endpoint.
    pub(super) fn new(node: usize, service: &'static str, version: &'static str, backend: &Backend) -> Self {
        Self::at(node, service, version, backend.address, Protocol::Http)
    }

    /// A healthy endpoint at this address.
    pub(super) fn at(
        node: usize,
        service: &'static str,
        version: &'static str,
        target: SocketAddr,
        protocol: Protocol,
    ) -> Self {
        Self { node, service, version, target, protocol, healthy: true, weight: 1, address: None, plaintext: None }
    }
}

/// One node.
pub(super) struct Node {
    pub(super) id: NodeId,
    pub(super) mesh: Mesh,
    pub(super) plane: Arc<DataPlane>,
    pub(super) telemetry: Telemetry,
    pub(super) outbound: SocketAddr,
    pub(super) upstream: SocketAddr,
    /// Where its services take callers outside the mesh.
    pub(super) plaintext: Vec<SocketAddr>,
    pub(super) failures: mpsc::Receiver<NodeId>,
    pub(super) current: Current,
    tasks: Tasks,
    _network: PeerNetwork,
}

/// The mesh under test. Each node has a service `web` that calls the others; port 9080 everywhere.
pub(super) struct World {
    pub(super) nodes: Vec<Node>,
    runtime: tokio::runtime::Runtime,
    trust_domain: TrustDomain,
    authority: Arc<Authority>,
    history: History,
    operator: SigningKey,
    entries: Vec<Entry>,
    stats: StatsTable,
    /// What is left of each node's limits.
    pub(super) limits: Vec<Arc<Limits>>,
    pub(super) circuits: Vec<Arc<Circuits>>,
    nonce: u8,
    /// A label of all configured services, and their revision, if any.
    pub(super) tier: &'static str,
}

/// A DestinationRule for `reviews` with this trafficPolicy, in YAML's flow style.
pub(super) fn traffic_policy(policy: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: reviews, namespace: default}}\n\
         spec:\n  host: reviews\n  trafficPolicy: {policy}\n"
    )
}

/// A MeshConfig with this spec, in YAML's flow style.
pub(super) fn mesh_config(spec: &str) -> String {
    format!("apiVersion: skein.dev/v1\nkind: MeshConfig\nmetadata: {{name: default}}\nspec: {spec}\n")
}

pub(super) const PORT: u16 = 9080;

/// Where each node is.
const LOCALITIES: [&str; 4] = ["eu/a", "eu/a", "eu/b", "us/c"];

fn name(service: &str) -> ServiceName {
    ServiceName::new("default", service).unwrap()
}

fn account(service: &str) -> ServiceAccount {
    ServiceAccount::new("default", service).unwrap()
}

impl World {
    /// So many nodes with these endpoints. The `[[upstream]]` of each leads to `reviews`.
    pub(super) fn new(count: usize, entries: Vec<Entry>) -> Self {
        Self::over(Transport::Auto, count, entries)
    }

    /// As [`World::new`] over one carrier.
    pub(super) fn over(transport: Transport, count: usize, entries: Vec<Entry>) -> Self {
        let now = crate::clock::wall();
        let trust_domain = TrustDomain::new("test.example").unwrap();
        let operator = SigningKey::generate();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let mut history = History::new(trust_domain.clone());
        let (authority, authorities) = certify(&trust_domain, count, now);
        let keys = [("ann".to_owned(), operator.public(), false)];
        let first = genesis(&trust_domain, &authority.roots, &keys, now);
        history.insert(&signed(&first, &[&operator]), now).unwrap();
        let authority = Arc::new(authority);
        let mut world = Self {
            nodes: Vec::new(),
            runtime,
            trust_domain,
            authority,
            history,
            operator,
            entries,
            stats: StatsTable::default(),
            limits: (0..count).map(|_| Arc::new(Limits::new(7))).collect(),
            circuits: (0..count).map(|_| Arc::default()).collect(),
            nonce: 0,
            tier: "",
        };
        for (index, ca) in authorities.into_iter().enumerate() {
            let node = world.start(index, &ca, transport);
            world.nodes.push(node);
        }
        world.publish();
        world
    }

    fn start(&self, index: usize, ca: &NodeCa, transport: Transport) -> Node {
        let now = crate::clock::wall();
        let id = NodeId::new(&format!("n{index}")).unwrap();
        let own = SpiffeId::node(self.trust_domain.clone(), id.clone());
        let mut leafs = Leafs::default();
        leafs.insert(&ca.leaf(&own, now).unwrap());
        for service in SERVICES {
            let identity = SpiffeId::service(self.trust_domain.clone(), account(service));
            leafs.insert(&ca.leaf(&identity, now).unwrap());
        }
        let tasks = Tasks::new();
        let authority = Arc::new(ArcSwap::new(Arc::clone(&self.authority)));
        let leafs = Arc::new(ArcSwap::from_pointee(leafs));
        let tls = Tls::new(authority, leafs, own.clone(), Arc::new(crate::clock::Clock));
        let config =
            mesh::Config { listen: "127.0.0.1:0".parse().unwrap(), workers: 1, transport, reset_secret: [7; 32] };
        let (mesh, sockets, control) = Mesh::bind(&config, own, tls, tasks.clone()).unwrap();
        let network = {
            let _inside = self.runtime.enter();
            PeerNetwork::start(&mesh, control).unwrap()
        };
        let telemetry = Telemetry::new(1);
        let current = Current::new(self.snapshot(index, &id));
        let (failed, failures) = mpsc::channel(64);
        let (plane, seats) = DataPlane::new(
            1,
            current.clone(),
            telemetry.clone(),
            tasks.clone(),
            failed,
            LOCALITIES[index],
            Arc::clone(&self.circuits[index]),
        );
        for (seat, sockets) in seats.into_iter().zip(sockets) {
            let mesh = mesh.clone();
            let main = move || async move {
                let worker = mesh::data::Worker::start(&mesh, sockets).unwrap();
                run_worker(seat, worker, Duration::from_secs(2)).await;
            };
            tasks.worker("data", index, main).unwrap();
        }
        let web = SpeakerName { service: name("web"), instance: None };
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let outbounds = [Outbound { listen: any, speaker: web.clone() }];
        let upstreams = [Upstream {
            listen: any,
            called: policy::route::Called::Service(name("reviews")),
            port: PORT,
            speaker: web,
        }];
        let bound = self.runtime.block_on(plane.apply(&self.services(index), &outbounds, &upstreams)).unwrap();
        plane.serve();
        let (outbound, upstream) = (bound.outbounds[0].0, bound.upstreams[0].0);
        let plaintext = bound.plaintext.iter().map(|port| port.listen).collect();
        let plane = Arc::new(plane);
        Node { id, mesh, plane, telemetry, outbound, upstream, plaintext, failures, current, tasks, _network: network }
    }

    /// What the node's configuration lists.
    fn services(&self, node: usize) -> Vec<Service> {
        let web = Service {
            name: name("web"),
            instance: None,
            account: account("web"),
            labels: labels("web", "v1"),
            ports: Vec::new(),
            check: None,
            outbound: None,
            uids: Vec::new(),
            group: None,
            weight: 1,
        };
        let own = self.entries.iter().filter(|entry| entry.node == node).map(|entry| Service {
            name: name(entry.service),
            instance: Some(entry.version.to_owned()),
            account: account(entry.service),
            labels: {
                let mut labels = labels(entry.service, entry.version);
                labels.insert("tier".to_owned(), self.tier.to_owned());
                labels.insert("service.istio.io/canonical-revision".to_owned(), self.tier.to_owned());
                labels
            },
            ports: vec![Port {
                name: "http".to_owned(),
                number: PORT,
                protocol: entry.protocol,
                target: entry.target,
                plaintext: entry.plaintext,
            }],
            check: Some(Check {
                probe: Probe::Tcp,
                target: entry.target,
                protocol: entry.protocol,
                interval: Duration::from_secs(2),
                rise: 1,
                fall: 1,
                delay: Duration::ZERO,
                timeout: None,
            }),
            outbound: None,
            uids: Vec::new(),
            group: None,
            weight: 1,
        });
        std::iter::once(web).chain(own).collect()
    }

    fn snapshot(&self, index: usize, node: &NodeId) -> Snapshot {
        let now = crate::clock::wall();
        let state = self.history.state(now);
        Snapshot {
            trust_domain: self.trust_domain.clone(),
            node: node.clone(),
            compiled: Arc::new(Compiled::build(&state, None)),
            services: Arc::new(Services::new(self.endpoints(node))),
            foreign: Arc::default(),
            state,
            authority: Arc::clone(&self.authority),
            limits: Arc::clone(&self.limits[index]),
            token_keys: Arc::default(),
        }
    }

    fn endpoints(&self, seen_by: &NodeId) -> Vec<Endpoint> {
        let mut endpoints = Vec::new();
        for (index, node) in self.nodes.iter().enumerate() {
            let mut endpoint = |service: &str, instance: Option<&str>, entry: Option<&Entry>| {
                let id =
                    EndpointId { node: node.id.clone(), service: name(service), instance: instance.map(Arc::from) };
                let protocol = entry.map_or(Protocol::Http, |entry| entry.protocol);
                let ports = entry.map(|_| ServicePort {
                    name: "http".to_owned(),
                    number: PORT,
                    protocol: match protocol {
                        Protocol::Http => policy::hosts::Protocol::Http,
                        Protocol::Http2 => policy::hosts::Protocol::Http2,
                        Protocol::Grpc => policy::hosts::Protocol::Grpc,
                        Protocol::Tcp => policy::hosts::Protocol::Tcp,
                        Protocol::Tls => policy::hosts::Protocol::Tls,
                        Protocol::Sniffed => policy::hosts::Protocol::Sniffed,
                    },
                });
                endpoints.push(Endpoint {
                    address: entry.and_then(|entry| entry.address).unwrap_or_else(|| node.mesh.local_addr()),
                    account: account(service),
                    labels: Arc::new(labels(service, entry.map_or("v1", |entry| entry.version))),
                    locality: LOCALITIES[index].into(),
                    weight: entry.map_or(1, |entry| entry.weight),
                    ports: ports.into_iter().collect(),
                    healthy: entry.is_none_or(|entry| entry.healthy),
                    reason: "".into(),
                    local: node.id == *seen_by,
                    stats: self.stats.of(&id, 1),
                    id,
                });
            };
            endpoint("web", None, None);
            for entry in self.entries.iter().filter(|entry| entry.node == index) {
                endpoint(entry.service, Some(entry.version), Some(entry));
            }
        }
        endpoints
    }

    /// What a node reads now.
    pub(super) fn seen_by(&self, node: usize) -> Arc<Snapshot> {
        self.nodes[node].current.load()
    }

    /// Gives every node a snapshot of what is true now.
    pub(super) fn publish(&self) {
        for (index, node) in self.nodes.iter().enumerate() {
            let snapshot = self.snapshot(index, &node.id);
            let limits = snapshot.compiled.config().limits;
            node.mesh.limit_handshakes(limits.tls_handshake_timeout, limits.pending_handshakes);
            node.current.store(Arc::new(snapshot));
        }
    }

    /// Pushes documents to all nodes.
    pub(super) fn push(&mut self, yaml: &str) {
        self.push_as(yaml, |json| json);
    }

    /// The same with bodies that are changed before they are signed, as an operator's newer build may write them.
    pub(super) fn push_as(&mut self, yaml: &str, change: impl Fn(String) -> String) {
        let parsed = policy::parse::yaml("test.yaml", yaml, "default");
        assert!(parsed.is_valid(), "{:?}", parsed.problems);
        let now = crate::clock::wall();
        let state = self.history.state(now);
        let changes = parsed.documents.into_iter().map(|located| Change {
            replaces: state.heads(&located.document.id),
            document: located.document.id,
            content: Some(change(located.json)),
        });
        self.nonce += 1;
        let changeset = Changeset {
            trust_domain: self.trust_domain.clone(),
            role_set: 1,
            issued_at: now,
            message: String::new(),
            confirm_by: None,
            nonce: [self.nonce; 16],
            changes: changes.collect(),
        };
        self.history.insert(&signed(&changeset, &[&self.operator]), now).unwrap();
        self.publish();
    }

    /// Changes what the registry says, not what nodes serve.
    pub(super) fn register(&mut self, change: impl FnOnce(&mut Vec<Entry>)) {
        change(&mut self.entries);
        self.publish();
    }

    /// Lets an endpoint begin its warm-up at this time of the process.
    pub(super) fn arrived(&self, node: usize, service: &str, version: &str, at: Millis) {
        let node = self.nodes[node].id.clone();
        let id = EndpointId { node, service: name(service), instance: Some(Arc::from(version)) };
        let stats = self.stats.of(&id, at);
        stats.set_out(true, at);
        stats.set_out(false, at);
    }

    /// Ends a node as a crash would look to the others.
    pub(super) fn kill(&self, node: usize) {
        self.runtime.block_on(self.nodes[node].mesh.close());
    }

    /// Gives a node's data plane another configuration: these HTTP proxy ports and no explicit port.
    pub(super) fn configure(&self, node: usize, listen: &[(SocketAddr, &str)]) -> Result<Bound, ApplyError> {
        let speaker = |who: &str| SpeakerName { service: name(who), instance: None };
        let outbound = |(listen, who): &(SocketAddr, &str)| Outbound { listen: *listen, speaker: speaker(who) };
        let outbounds: Vec<_> = listen.iter().map(outbound).collect();
        self.runtime.block_on(self.nodes[node].plane.apply(&self.services(node), &outbounds, &[]))
    }

    /// Opens what Gateways say at a node, each port as a free one; a closed port's connections go on for so long.
    pub(super) fn open_gateways(&self, node: usize, ports: &[u16], drain: Duration) {
        let node = &self.nodes[node];
        let ports = ports.iter().map(|port| (*port, 0)).collect();
        let settings = crate::config::Gateway { listen: [127, 0, 0, 1].into(), ports, ..Default::default() };
        node.plane.shared.gateway.store(Arc::new(settings));
        let secrets = crate::secrets::Secrets::new(std::path::Path::new("/nonexistent"));
        let _inside = self.runtime.enter();
        node.tasks.critical("gateways", keep_doors(Arc::clone(&node.plane), secrets, drain));
    }

    /// Where the port of a Gateway is open at a node.
    pub(super) fn gateway(&self, node: usize, port: u16) -> Option<SocketAddr> {
        self.nodes[node].current.doors().open.iter().find(|door| door.port == port).map(|door| door.listen)
    }

    /// Ends a node as TERM does; gives how long it took.
    pub(super) fn stop(&self, node: usize) {
        let node = &self.nodes[node];
        node.tasks.stop();
        node.mesh.drain();
        node.plane.drain();
        self.runtime.block_on(async {
            node.plane.drained().await;
            node.mesh.close().await;
        });
        node.plane.end();
    }

    /// The metrics of a node.
    pub(super) fn metrics(&self, node: usize) -> String {
        self.nodes[node].telemetry.render(Format::Prometheus).collect()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for node in &self.nodes {
            node.tasks.stop();
            node.plane.drain();
            node.plane.end();
        }
    }
}

/// Services whose identities every node of the test may have.
const SERVICES: [&str; 3] = ["web", "reviews", "ratings"];

fn labels(service: &str, version: &str) -> BTreeMap<String, String> {
    BTreeMap::from([("app".to_owned(), service.to_owned()), ("version".to_owned(), version.to_owned())])
}

/// Root, one enroller, a CA for each node; and the authority that believes them.
fn certify(trust_domain: &TrustDomain, count: usize, now: Millis) -> (Authority, Vec<NodeCa>) {
    let root = Root::generate(trust_domain, now);
    let mut authority = Authority::new(trust_domain.clone(), vec![root.certificate()]);
    let mut grants = HashMap::new();
    let enroller_id = NodeId::new("enroller").unwrap();
    let enroller_key = CaKey::generate();
    let certificate = root.issue_enroller(&enroller_id, 1, &enroller_key.spki(), now).unwrap();
    let enroller = Enroller::new(trust_domain, vec![certificate], enroller_key).unwrap();
    grants.insert(enroller_id.clone(), Arc::new(grant(enroller_id, true)));
    let authorities = (0..count).map(|index| {
        let node = NodeId::new(&format!("n{index}")).unwrap();
        let grant = grant(node.clone(), false);
        let key = CaKey::generate();
        let certified = grant.certified(SigningKey::generate().public());
        let chain = enroller.issue_node_unchecked(&key.spki(), &certified, now).unwrap();
        grants.insert(node, Arc::new(grant));
        NodeCa::new(trust_domain, chain, key).unwrap()
    });
    let authorities = authorities.collect();
    authority.grants = grants;
    (authority, authorities)
}

fn grant(node: NodeId, enroller: bool) -> NodeGrant {
    let services =
        SERVICES.iter().map(|service| GrantedService { service: name(service), account: account(service) }).collect();
    NodeGrant {
        node,
        epoch: 1,
        services,
        token_hash: None,
        redeemer: Some(NodeId::new("enroller").unwrap()),
        token_expires: None,
        enroller,
        retired: false,
    }
}
