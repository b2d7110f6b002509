//! A route's destination as one caller sees it: its endpoints now, and what is looked up once per endpoint instead of
//! once per request. Kept per worker until the next snapshot.

use super::{
    context::{Context, is},
    direct::{Proxied, Slot, Wish},
    failure::Cause,
    inbound::{self, Caller},
    outbound::Speaker,
    tcp::Spans,
    upgrade,
};
use crate::lock::lock;
use crate::{
    balance::{Ask, Client},
    clock,
    mesh::{
        self, Preface,
        lease::{Pings, Terms},
    },
    snapshot::{Candidates, Carries, Circuit, Circuits, Endpoint, Foreign, Instance, Snapshot, Table},
    telemetry::{Pair, Recorder, Workload},
};
use certs::id::SpiffeId;
use foldhash::fast::RandomState;
use http::{HeaderValue, Version};
use policy::{
    hosts::Protocol,
    kinds::{ClientTlsMode, ConsistentHash, H2Upgrade, LocalityLb, Resolution},
    route::{ClusterPolicy, Destination, Route},
};
use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, OnceLock, Weak},
    time::Duration,
};

/// Clusters kept by one worker; beyond that it begins anew.
const LIMIT: usize = 10_000;

/// The clusters that one worker met under one snapshot.
#[derive(Debug, Default)]
pub(super) struct Clusters {
    snapshot: Weak<Snapshot>,
    known: HashMap<Key, Arc<Cluster>, RandomState>,
}

/// Which destination of which route, for whom. The cluster holds the route, so the address stays taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    speaker: u64,
    destination: usize,
    port: u16,
    carries: Carries,
    dialled: Option<SocketAddr>,
}

/// A destination and its endpoints.
#[derive(Debug, Clone)]
pub(super) struct Cluster {
    /// Keeps the key's address.
    _route: Arc<Route>,
    /// All endpoints of the subset with the port, healthy or not; the table knows them by their position.
    pub(super) members: Arc<[Member]>,
    endpoints: Arc<[Instance]>,
    /// Its only endpoint is where the caller had dialled.
    is_dialled: bool,
    /// What outlives this snapshot.
    pub(super) circuit: Arc<Circuit>,
    /// The policy, and the choice that it leads to.
    pub(super) table: Arc<Table>,
    /// How long a connection to an endpoint may take to open.
    pub(super) connect_timeout: Duration,
    /// How long the connections to its endpoints are used.
    pub(super) terms: Terms,
    /// How long a connection of bytes may go on: `idleTimeout` and `maxConnectionDuration`.
    pub(super) spans: Spans,
    /// How endpoints are met that no node serves; `None` where nodes serve all.
    pub(super) outward: Option<Arc<Outward>>,
    /// How connections of HTTP/2 to its endpoints are watched, beside what the mesh does.
    pub(super) pings: Option<Pings>,
    /// In which version requests travel to its nodes.
    versions: Versions,
    /// The mesh's, for where the policy says nothing.
    localities: Arc<LocalityLb>,
    /// Where requests are counted that reach no endpoint.
    pub(super) nobody: Arc<Recorder>,
}

/// How this node's own connections to endpoints outside are made and used.
#[derive(Debug)]
pub(super) struct Outward {
    pub(super) terms: inbound::Terms,
    pub(super) tls: Security,
    /// What is asked for where nothing else names a host: of connections of bytes.
    pub(super) host: Arc<str>,
}

/// What `tls` of a DestinationRule comes to for endpoints outside.
#[derive(Debug)]
pub(super) enum Security {
    Clear,
    Tls(Arc<Slot>),
    /// The mesh's own identities, which these endpoints have not.
    Impossible,
}

/// An endpoint of a cluster.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) instance: Instance,
    pub(super) recorder: Arc<Recorder>,
    pub(super) reach: Reach,
}

/// How it is reached.
#[derive(Debug)]
pub(super) enum Reach {
    /// Over the mesh, or in process.
    Mesh(Box<Served>),
    /// Directly, there.
    Outside(SocketAddr),
}

/// One that a node serves.
#[derive(Debug)]
pub(super) struct Served {
    pub(super) endpoint: Arc<Endpoint>,
    /// Whom it must prove to be.
    pub(super) identity: SpiffeId,
    /// With the protocol of the port.
    preface: Preface,
    /// With the other version of HTTP, where policy or a WebSocket may ask for it.
    other: Option<Preface>,
    /// For an endpoint on this node: the caller as inbound sees it.
    pub(super) caller: OnceLock<Caller>,
}

/// `h2UpgradePolicy` and `useClientProtocol`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Versions {
    /// The one that the port declares.
    Port(mesh::Protocol),
    /// HTTP/2, on ports of HTTP/1.1.
    Upgraded,
    /// The caller's.
    Caller,
}

impl Member {
    /// Where a request to it goes; what is on this node has no address between nodes.
    pub(super) fn address(&self, port: u16) -> SocketAddr {
        match &self.reach {
            Reach::Mesh(served) if served.endpoint.local => SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
            Reach::Mesh(served) => served.endpoint.address,
            Reach::Outside(address) => *address,
        }
    }
}

impl Served {
    /// For a request that travels so.
    pub(super) fn preface(&self, protocol: mesh::Protocol) -> &Preface {
        let other = self.other.as_ref().filter(|other| other.protocol == protocol);
        other.unwrap_or(&self.preface)
    }
}

impl Cluster {
    /// How a request travels that came by this version. One that asks for a WebSocket goes by HTTP/1.1, whatever the port speaks;
    /// another protocol than that is asked for only where the port speaks HTTP/1.1.
    pub(super) fn protocol(&self, version: Version, upgrade: Option<&HeaderValue>) -> mesh::Protocol {
        match self.versions {
            Versions::Port(_) if upgrade.is_some_and(upgrade::is_websocket) => mesh::Protocol::Http1,
            Versions::Port(protocol) => protocol,
            Versions::Upgraded | Versions::Caller if upgrade.is_some() => mesh::Protocol::Http1,
            Versions::Upgraded => mesh::Protocol::Http2,
            Versions::Caller if version == Version::HTTP_2 => mesh::Protocol::Http2,
            Versions::Caller => mesh::Protocol::Http1,
        }
    }

    /// The endpoint for the next attempt.
    ///
    /// # Errors
    /// There is none.
    pub(super) fn pick(&self, ask: &Ask<'_>) -> Result<usize, Cause> {
        self.table.balancer.pick(ask).ok_or(Cause::NoHealthy)
    }

    /// What goes ahead of a connection of this caller, who came to `to`.
    pub(super) fn proxied(&self, from: SocketAddr, to: SocketAddr) -> Option<Proxied> {
        self.table.policy.proxy_protocol.map(|version| Proxied { version, from, to })
    }

    /// The key that a request is balanced by, where the policy names one.
    pub(super) fn consistent_hash(&self) -> Option<&ConsistentHash> {
        self.table.policy.load_balancer.consistent_hash()
    }
}

impl Context {
    /// Resolves the cluster for a request to `port`. `dialled` is the original destination of a captured connection; with
    /// `resolution: NONE` it is the only endpoint. A host in the request overrides it.
    ///
    /// # Errors
    /// Nobody defines the destination.
    pub(super) fn cluster(
        &self,
        snapshot: &Arc<Snapshot>,
        speaker: &Speaker,
        route: &Arc<Route>,
        destination: &Destination,
        (arrived, dialled): (u16, Option<SocketAddr>),
        carries: Carries,
    ) -> Result<Arc<Cluster>, Cause> {
        let (entries, namespace) = (snapshot.compiled.entries(), speaker.source.namespace.as_str());
        let port = destination.port(&*snapshot.services, entries, namespace, arrived);
        let dialled = dialled.filter(|_| goes_where_dialled(snapshot, destination, namespace));
        let destination_address = std::ptr::from_ref(destination).addr();
        let key = Key { speaker: speaker.id, destination: destination_address, port, carries, dialled };
        let mut clusters = lock(&self.clusters);
        if !is(&clusters.snapshot, snapshot) || clusters.known.len() >= LIMIT {
            clusters.snapshot = Arc::downgrade(snapshot);
            clusters.known.clear();
        }
        if let Some(cluster) = clusters.known.get_mut(&key) {
            if !cluster.circuit.is_current(&cluster.table) {
                *cluster = Arc::new(self.renewed(cluster, speaker));
            }
            return Ok(Arc::clone(cluster));
        }
        let cluster = Arc::new(self.build(snapshot, speaker, route, destination, (port, carries, dialled))?);
        clusters.known.insert(key, Arc::clone(&cluster));
        Ok(cluster)
    }

    fn build(
        &self,
        snapshot: &Snapshot,
        speaker: &Speaker,
        route: &Arc<Route>,
        destination: &Destination,
        (port, carries, dialled): (u16, Carries, Option<SocketAddr>),
    ) -> Result<Cluster, Cause> {
        let target = destination.seen_by(&speaker.source.labels);
        let namespace = speaker.source.namespace.as_str();
        let policy = target.policy(port);
        let candidates = Candidates::of(snapshot, namespace, (destination, &target.subset), port, carries, policy);
        let candidates = candidates.map_err(|why| {
            tracing::debug!(%why, "no such destination");
            Cause::NoCluster
        })?;
        let addressed = candidates.addressed();
        let protocol = match (candidates.protocol, carries) {
            (Protocol::Http, _) | (Protocol::Sniffed, Carries::Http1) => mesh::Protocol::Http1,
            (Protocol::Http2 | Protocol::Grpc, _) | (Protocol::Sniffed, Carries::Http2) => mesh::Protocol::Http2,
            // Of requests to a port of TLS, which this node speaks for them, nothing is known but that.
            (Protocol::Tls, Carries::Http1 | Carries::Http2) => mesh::Protocol::Http1,
            (Protocol::Tcp | Protocol::Tls, _) | (Protocol::Sniffed, Carries::Bytes) => mesh::Protocol::Tcp,
        };
        let pair =
            |destination: Workload| Pair { destination: Arc::new(destination), ..speaker.to_service(&addressed) };
        // Where nothing is declared, the application is spoken to as its caller was.
        let versions = match (candidates.protocol, carries) {
            (Protocol::Http | Protocol::Http2 | Protocol::Grpc, _)
            | (Protocol::Tls, Carries::Http1 | Carries::Http2) => versions(policy, protocol),
            (Protocol::Tcp | Protocol::Tls | Protocol::Sniffed, _) => Versions::Port(protocol),
        };
        let own = dialled.and_then(|to| Some(candidates.entry()?.dialled(port, to)));
        let is_dialled = own.is_some();
        let endpoints: Arc<[Instance]> = own.map_or_else(|| candidates.members(), |own| vec![own]).into();
        let served = |endpoint: &Arc<Endpoint>, port: u16| {
            let preface = |protocol| Preface {
                service: endpoint.id.service.clone(),
                instance: endpoint.id.instance.as_deref().map(str::to_owned),
                port,
                source: Some(speaker.service.clone()),
                protocol,
                extensions: Vec::new(),
            };
            Box::new(Served {
                endpoint: Arc::clone(endpoint),
                identity: SpiffeId::service(snapshot.trust_domain.clone(), endpoint.account.clone()),
                preface: preface(protocol),
                other: (versions != Versions::Port(mesh::Protocol::Http1)).then(|| preface(the_other(protocol))),
                caller: OnceLock::new(),
            })
        };
        let members = endpoints.iter().map(|instance| {
            let (workload, reach) = match instance {
                Instance::Mesh(endpoint) => {
                    let (name, own) = (&endpoint.id.service, candidates.port_of(instance).unwrap_or(port));
                    let workload =
                        Workload::of_service(&snapshot.trust_domain, name, &endpoint.account, &endpoint.labels);
                    (workload, Reach::Mesh(served(endpoint, own)))
                }
                Instance::Outside(outside) => {
                    let nowhere = SocketAddr::new(outside.address, port);
                    (Workload::unknown(), Reach::Outside(outside.at(port).unwrap_or(nowhere)))
                }
            };
            let recorder = Arc::new(self.telemetry.recorder(self.worker, Arc::new(pair(workload))));
            Member { instance: instance.clone(), recorder, reach }
        });
        let members: Arc<[Member]> = members.collect();
        let circuit = self.circuits.of(&speaker.name, addressed.clone(), destination.cluster(port));
        let config = snapshot.compiled.config();
        let localities = Arc::clone(&config.locality);
        let table = self.table(&circuit, (&endpoints, is_dialled), policy, speaker, &localities);
        Ok(Cluster {
            _route: Arc::clone(route),
            members,
            endpoints,
            is_dialled,
            outward: candidates.entry().map(|foreign| {
                Arc::new(Outward {
                    terms: inbound::Terms::of(policy, config),
                    tls: self.security(policy, foreign, namespace),
                    host: Arc::clone(&foreign.service.host),
                })
            }),
            circuit,
            connect_timeout: policy.connection_pool.tcp.connect_timeout.unwrap_or(config.connect_timeout),
            localities,
            terms: terms(policy),
            spans: Spans {
                idle: policy.connection_pool.tcp.idle_timeout,
                whole: policy.connection_pool.tcp.max_connection_duration,
            },
            pings: pings(policy),
            versions,
            table,
            nobody: Arc::new(self.telemetry.recorder(self.worker, Arc::new(pair(Workload::unknown())))),
        })
    }

    /// The same cluster after an ejection or a return.
    fn renewed(&self, cluster: &Cluster, speaker: &Speaker) -> Cluster {
        let table = self.table(
            &cluster.circuit,
            (&cluster.endpoints, cluster.is_dialled),
            &cluster.table.policy,
            speaker,
            &cluster.localities,
        );
        Cluster { table, ..cluster.clone() }
    }

    fn table(
        &self,
        circuit: &Circuit,
        (endpoints, is_dialled): (&[Instance], bool),
        policy: &Arc<ClusterPolicy>,
        speaker: &Speaker,
        localities: &Arc<LocalityLb>,
    ) -> Arc<Table> {
        let client = Client { setting: Arc::clone(localities), ..speaker.client.clone() };
        let (now, random) = (clock::uptime(), self.random());
        if is_dialled {
            Circuits::table_apart(circuit, endpoints, policy, &client, now, random)
        } else {
            self.circuits.table(circuit, endpoints, policy, &client, now, random)
        }
    }
}

/// A registered service goes before a ServiceEntry of its name.
fn goes_where_dialled(snapshot: &Snapshot, destination: &Destination, namespace: &str) -> bool {
    let is_service = destination.service.as_ref().is_some_and(|name| snapshot.services.get(name).is_some());
    let made = || snapshot.compiled.entries().find(&destination.host, namespace);
    !is_service && made().is_some_and(|made| made.entry.resolution == Resolution::None || made.is_by_name())
}

impl Context {
    fn security(&self, policy: &ClusterPolicy, foreign: &Foreign, namespace: &str) -> Security {
        let Some(tls) = &policy.tls else { return Security::Clear };
        match tls.mode {
            ClientTlsMode::Disable => Security::Clear,
            ClientTlsMode::IstioMutual => Security::Impossible,
            ClientTlsMode::Simple | ClientTlsMode::Mutual => {
                let names = foreign.service.entry.subject_alt_names.clone();
                let wish = Wish { tls: tls.clone(), names, namespace: namespace.to_owned() };
                Security::Tls(self.originations.slot(wish))
            }
        }
    }
}

fn versions(policy: &ClusterPolicy, port: mesh::Protocol) -> Versions {
    let http = &policy.connection_pool.http;
    if http.use_client_protocol {
        Versions::Caller
    } else if http.h2_upgrade == H2Upgrade::Upgrade && port == mesh::Protocol::Http1 {
        Versions::Upgraded
    } else {
        Versions::Port(port)
    }
}

const fn the_other(protocol: mesh::Protocol) -> mesh::Protocol {
    if matches!(protocol, mesh::Protocol::Http1) { mesh::Protocol::Http2 } else { mesh::Protocol::Http1 }
}

fn pings(policy: &ClusterPolicy) -> Option<Pings> {
    let keepalive = policy.connection_pool.http.http2_keepalive?;
    Some(Pings { interval: keepalive.interval, timeout: keepalive.timeout })
}

/// Idle timeouts as long as this are ignored: the pool closes idle connections sooner.
const LONG_IDLE: Duration = Duration::from_secs(60);

fn terms(policy: &ClusterPolicy) -> Terms {
    let (tcp, http) = (&policy.connection_pool.tcp, &policy.connection_pool.http);
    Terms {
        requests: http.max_requests_per_connection.unwrap_or(u32::MAX),
        idle: http.idle_timeout.filter(|idle| *idle < LONG_IDLE).unwrap_or(Duration::MAX),
        age: tcp.max_connection_duration.unwrap_or(Duration::MAX),
    }
}
