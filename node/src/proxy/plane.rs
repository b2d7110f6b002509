//! The data plane as its owner sees it: listeners come and go with the configuration, workers drain at the end.

use super::{
    capture, context::Shared, gateway, http::ReplayBudget, inbound::Verdicts, listen, local::Local, outbound, plaintext,
};
use crate::{
    balance::{Locality, Resource},
    capture::Listeners,
    config::{Gateway, Outbound, Service, SpeakerName, Upstream},
    snapshot::{Circuit, Circuits, Current, PlaintextPort},
    tasks::Tasks,
    telemetry::{Errand, Kind, Sample, Sinks, Telemetry},
};
use arc_swap::ArcSwap;
use certs::id::{NodeId, ServiceName};
use policy::route::Called;
use std::{
    collections::{HashMap, HashSet},
    io,
    net::{SocketAddr, TcpListener},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::sync::{Mutex, mpsc, watch};
use tokio_util::sync::CancellationToken;

/// Commands that wait for one worker.
const COMMANDS: usize = 64;
/// Errands that wait for the first worker.
const ERRANDS: usize = 64;

/// The data plane. Its workers run [`super::run_worker`], each on a runtime of its own.
#[derive(Debug)]
pub struct DataPlane {
    pub(super) shared: Shared,
    pub(super) workers: Vec<mpsc::Sender<Listen>>,
    errands: mpsc::Sender<Errand>,
    open: Mutex<HashMap<Key, Open>>,
    plaintext: Mutex<plaintext::Ports>,
}

/// What one worker needs; give it to [`super::run_worker`].
#[derive(Debug)]
pub struct Seat {
    pub(super) index: usize,
    pub(super) shared: Shared,
    pub(super) commands: mpsc::Receiver<Listen>,
    /// The first worker runs the errands of all.
    pub(super) errands: Option<mpsc::Receiver<Errand>>,
}

/// One worker's socket of a new listener.
#[derive(Debug)]
pub(super) struct Listen {
    pub(super) socket: TcpListener,
    pub(super) serves: Serves,
    pub(super) close: CancellationToken,
}

/// Whom a listener serves.
#[derive(Debug, Clone)]
pub(super) enum Serves {
    /// Applications beside this node: this is who speaks.
    Applications(Arc<ArcSwap<outbound::Speaker>>),
    /// Applications whose connections the kernel brings here.
    Captured(Arc<capture::Captured>),
    /// Clients outside the mesh.
    Clients(Arc<gateway::Door>),
    /// Callers outside the mesh, of this port in plaintext.
    Plaintext(Arc<ArcSwap<plaintext::Door>>),
    /// The same, whose connections the kernel brings here from the ports of applications.
    Incoming(Arc<Listeners>),
}

/// Addresses that the data plane listens on, ports filled in.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Bound {
    /// HTTP proxy ports.
    pub outbounds: Vec<(SocketAddr, SpeakerName)>,
    /// Explicit ports.
    pub upstreams: Vec<(SocketAddr, Called, u16)>,
    /// Ports that take callers outside the mesh.
    pub plaintext: Vec<PlaintextPort>,
}

/// Why a configuration was not taken over. Nothing has changed then, except for `Stopped`.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// As configured.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// A port speaks for a service that is not configured.
    #[error("{speaker} speaks on {address}, but there is no such service on this node")]
    UnknownSpeaker {
        /// As configured.
        address: SocketAddr,
        /// As configured.
        speaker: SpeakerName,
    },
    /// The workers are gone.
    #[error("the data plane has stopped")]
    Stopped,
}

/// A listener as the configuration names it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    listen: SocketAddr,
    service: ServiceName,
    instance: Option<String>,
    fixed: Option<(Called, u16)>,
}

#[derive(Debug)]
struct Open {
    bound: SocketAddr,
    speaker: Arc<ArcSwap<outbound::Speaker>>,
    close: CancellationToken,
}

/// What the data plane tells of itself.
#[expect(clippy::cast_precision_loss, reason = "metrics are floating point numbers in Prometheus")]
fn register(shared: &Shared) {
    let gauge = |value: usize| vec![Sample { labels: Vec::new(), value: value as f64 }];
    let connections = Arc::clone(&shared.connections);
    let open = move || gauge(connections.load(Ordering::Relaxed));
    shared.telemetry.collect("skein_application_connections", "Connections of local applications", Kind::Gauge, open);
    let budget = shared.budget.clone();
    let kept = move || gauge(budget.taken());
    shared.telemetry.collect(
        "skein_replay_bytes",
        "Bytes of bodies kept for retries, in copies, and of HTTP/2 and connections of bytes whose readers are behind",
        Kind::Gauge,
        kept,
    );
    let mirrors = shared.mirrors.clone();
    let copies = move || gauge(mirrors.under_way());
    shared.telemetry.collect("skein_mirrored_requests", "Copies of requests under way", Kind::Gauge, copies);
    register_circuits(shared);
}

/// What outlier detection and circuit breaking tell of themselves.
#[expect(clippy::cast_precision_loss, reason = "metrics are floating point numbers in Prometheus")]
fn register_circuits(shared: &Shared) {
    let one = |labels: Vec<(&'static str, String)>, value: u64| Sample { labels, value: value as f64 };
    let label = |name: &'static str, value: &str| (name, value.to_owned());
    let circuits = Arc::clone(&shared.circuits);
    let ejected = move || vec![one(Vec::new(), circuits.ejected().len() as u64)];
    shared.telemetry.collect("skein_ejected_endpoints", "Endpoints that clusters do without", Kind::Gauge, ejected);
    let circuits = Arc::clone(&shared.circuits);
    let ejections = move || {
        let (enforced, spared) = circuits.counts();
        vec![one(vec![label("enforced", "yes")], enforced), one(vec![label("enforced", "no")], spared)]
    };
    let help = "Endpoints that met a limit of outlier detection";
    shared.telemetry.collect("skein_outlier_ejections_total", help, Kind::Counter, ejections);
    let circuits = Arc::clone(&shared.circuits);
    let panics = move || {
        let row =
            |circuit: &Arc<Circuit>| one(vec![label("caller", &circuit.caller), label("cluster", &circuit.cluster)], 1);
        circuits.panicking().iter().map(row).collect()
    };
    let help = "Clusters with so few healthy endpoints that all are used (minHealthPercent)";
    shared.telemetry.collect("skein_panicking_clusters", help, Kind::Gauge, panics);
    let circuits = Arc::clone(&shared.circuits);
    let overflows = move || {
        let rows = |circuit: Arc<Circuit>| {
            Resource::ALL.map(|resource| {
                let (caller, cluster) = (label("caller", &circuit.caller), label("cluster", &circuit.cluster));
                one(vec![caller, cluster, label("limit", resource.word())], circuit.pool.overflows(resource))
            })
        };
        circuits.all().into_iter().flat_map(rows).filter(|sample| sample.value > 0.0).collect()
    };
    let help = "Requests that met a limit of a connection pool";
    shared.telemetry.collect("skein_pool_overflows_total", help, Kind::Counter, overflows);
}

impl Key {
    fn new(listen: SocketAddr, speaker: &SpeakerName, fixed: Option<(Called, u16)>) -> Self {
        Self { listen, service: speaker.service.clone(), instance: speaker.instance.clone(), fixed }
    }

    fn speaker(&self) -> SpeakerName {
        SpeakerName { service: self.service.clone(), instance: self.instance.clone() }
    }
}

impl DataPlane {
    /// A data plane of so many workers, with nothing to serve yet. Failed data connections are told to `failures`;
    /// `locality` is where this node is.
    #[must_use]
    pub fn new(
        workers: usize,
        current: Current,
        telemetry: Telemetry,
        tasks: Tasks,
        failures: mpsc::Sender<NodeId>,
        locality: &str,
        circuits: Arc<Circuits>,
    ) -> (Self, Vec<Seat>) {
        let (errand, errands) = mpsc::channel(ERRANDS);
        let sinks = Sinks::new(&telemetry, &tasks, current.load().node.as_str(), errand.clone());
        let shared = Shared {
            verdicts: Verdicts::new(&telemetry),
            mirrors: outbound::Mirrors::new(&telemetry),
            clients: Arc::new(gateway::Clients::new(&telemetry)),
            originations: Default::default(),
            sinks,
            current,
            local: Arc::default(),
            telemetry,
            tasks,
            failures,
            budget: ReplayBudget::default(),
            circuits,
            locality: Locality::new(locality),
            connections: Arc::default(),
            gateway: Arc::default(),
            serving: watch::Sender::new(false),
            draining: watch::Sender::new(false),
            reloads: watch::Sender::new(0),
            evictions: watch::Sender::new(0),
            drained: watch::Sender::new(0),
            ended: watch::Sender::new(false),
        };
        register(&shared);
        let mut errands = Some(errands);
        let (senders, seats) = (0..workers.max(1))
            .map(|index| {
                let (sender, commands) = mpsc::channel(COMMANDS);
                (sender, Seat { index, shared: shared.clone(), commands, errands: errands.take() })
            })
            .unzip();
        (Self { shared, workers: senders, errands: errand, open: Mutex::default(), plaintext: Mutex::default() }, seats)
    }

    /// A count of the changes of the services beside this node, and those services, with or without ports.
    pub fn services(&self) -> (watch::Receiver<u64>, impl Fn() -> Vec<Service> + Send + 'static) {
        let local = Arc::clone(&self.shared.local);
        (self.shared.reloads.subscribe(), move || local.load().services().into_iter().cloned().collect())
    }

    /// Where requests are put that the node itself sends through the mesh.
    #[must_use]
    pub fn errands(&self) -> mpsc::Sender<Errand> {
        self.errands.clone()
    }

    /// Takes over what the configuration says: new listeners open, those that are gone close (their connections go on
    /// until they end), services beside this node are replaced.
    ///
    /// # Errors
    /// Nothing has changed, except for `Stopped`: the workers are gone, and part of the listeners may have moved.
    pub async fn apply(
        &self,
        services: &[Service],
        outbounds: &[Outbound],
        upstreams: &[Upstream],
    ) -> Result<Bound, ApplyError> {
        let local = Local::new(services.iter().cloned());
        let keys: Vec<Key> = outbounds
            .iter()
            .map(|outbound| Key::new(outbound.listen, &outbound.speaker, None))
            .chain(upstreams.iter().map(|upstream| {
                Key::new(upstream.listen, &upstream.speaker, Some((upstream.called.clone(), upstream.port)))
            }))
            .collect();
        let (mut open, mut plaintext) = (self.open.lock().await, self.plaintext.lock().await);
        let ports = plaintext.bind(services, self.workers.len())?;
        let mut fresh = Vec::new();
        for key in &keys {
            let port = open.get(key).map_or(key.listen.port(), |open| open.bound.port());
            let speaker = self.speaker(&local, key, port)?;
            if let Some(known) = open.get(key) {
                fresh.push((key.clone(), known.bound, Vec::new(), speaker));
                continue;
            }
            let (bound, sockets) = listen::bind(key.listen, self.workers.len())
                .map_err(|source| ApplyError::Listen { address: key.listen, source })?;
            let speaker = if bound.port() == port { speaker } else { self.speaker(&local, key, bound.port())? };
            fresh.push((key.clone(), bound, sockets, speaker));
        }
        // Nothing can fail from here on, except that the workers are gone.
        self.shared.local.store(Arc::new(local));
        self.shared.reloads.send_modify(|count| *count += 1);
        for (key, bound, sockets, speaker) in fresh {
            self.take_over(&mut open, key, bound, sockets, speaker).await?;
        }
        let wanted: HashSet<&Key> = keys.iter().collect();
        open.retain(|key, open| {
            let stays = wanted.contains(key);
            if !stays {
                open.close.cancel();
            }
            stays
        });
        let plaintext = plaintext.take_over(ports, &self.workers).await?;
        let of_plaintext = plaintext.iter().map(|port| port.listen);
        self.shared.current.tell_local_ports(open.values().map(|open| open.bound).chain(of_plaintext).collect());
        self.shared.current.tell_plaintext(plaintext.clone());
        let address = |key: &Key| open.get(key).map_or(key.listen, |open| open.bound);
        let mut bound = Bound { plaintext, ..Bound::default() };
        for key in &keys {
            match &key.fixed {
                None => bound.outbounds.push((address(key), key.speaker())),
                Some((called, port)) => bound.upstreams.push((address(key), called.clone(), *port)),
            }
        }
        Ok(bound)
    }

    /// Where Gateways open their ports, if one of those ports seems to keep [`DataPlane::apply`] from what it was to take over.
    #[must_use]
    pub fn gateway_in_the_way(&self, error: &ApplyError) -> Option<Arc<Gateway>> {
        let ApplyError::Listen { address, source } = error else { return None };
        let is_open = || self.shared.current.doors().open.iter().any(|door| door.listen.port() == address.port());
        (source.kind() == io::ErrorKind::AddrInUse && is_open()).then(|| self.shared.gateway.load_full())
    }

    /// Where Gateways open their ports from now on.
    pub fn set_gateway(&self, gateway: &Gateway) {
        if **self.shared.gateway.load() != *gateway {
            self.shared.gateway.store(Arc::new(gateway.clone()));
            self.shared.reloads.send_modify(|count| *count += 1);
        }
    }

    fn speaker(&self, local: &Local, key: &Key, port: u16) -> Result<outbound::Speaker, ApplyError> {
        let snapshot = self.shared.current.load();
        let speaker = key.speaker();
        outbound::Speaker::new(local, &snapshot, &self.shared.locality, &speaker, key.fixed.clone(), port)
            .ok_or(ApplyError::UnknownSpeaker { address: key.listen, speaker })
    }

    async fn take_over(
        &self,
        open: &mut HashMap<Key, Open>,
        key: Key,
        bound: SocketAddr,
        sockets: Vec<TcpListener>,
        speaker: outbound::Speaker,
    ) -> Result<(), ApplyError> {
        if let Some(known) = open.get(&key) {
            known.speaker.store(Arc::new(speaker));
            return Ok(());
        }
        let speaker = Arc::new(ArcSwap::from_pointee(speaker));
        let close = CancellationToken::new();
        for (worker, socket) in self.workers.iter().zip(sockets) {
            let serves = Serves::Applications(Arc::clone(&speaker));
            let listen = Listen { socket, serves, close: close.clone() };
            worker.send(listen).await.map_err(|_| ApplyError::Stopped)?;
        }
        open.insert(key, Open { bound, speaker, close });
        Ok(())
    }

    /// From now on connections of applications are accepted. Before, they wait: a node that has just started knows no service
    /// yet and would answer 404 to everything.
    pub fn serve(&self) {
        self.shared.serving.send_replace(true);
    }

    /// Lets clients of gateways hear that the node leaves. Everything is answered.
    pub fn leave(&self) {
        self.shared.current.tell_leaving(true);
    }

    /// From now on no connection is accepted, and requests under way have the workers' time to end. Then close the mesh
    /// ([`DataPlane::drained`] tells when), then [`DataPlane::end`] the workers.
    pub fn drain(&self) {
        self.shared.draining.send_replace(true);
    }

    /// Waits until the requests of all workers have ended, or their time is over.
    pub async fn drained(&self) {
        let mut drained = self.shared.drained.subscribe();
        // An error means that the workers are gone.
        drop(drained.wait_for(|workers| *workers >= self.workers.len()).await);
    }

    /// Waits until the access log has written what it took, but no longer than this. Call it when the workers are gone.
    pub async fn log_written(&self, at_most: Duration) {
        self.shared.sinks.log.written(at_most).await;
    }

    /// Waits until spans and records of the access log are sent, but no longer than this. Call it while there is still a mesh to
    /// send through.
    pub async fn exported(&self, at_most: Duration) {
        self.shared.sinks.exporter.sent(at_most).await;
    }

    /// Ends drained workers. They drive connections to other nodes, so the mesh must be closed before.
    pub fn end(&self) {
        self.shared.ended.send_replace(true);
    }
}
