//! What the requests of one data worker share.

use super::{
    cluster::Clusters,
    direct::Originations,
    gateway::Clients,
    http::{Bounds, ReplayBudget},
    inbound::{Apps, Askers, Verdicts},
    local::Local,
    outbound::Mirrors,
};
use crate::lock::lock;
use crate::{
    balance::Locality,
    clock, mesh,
    snapshot::{Circuits, Current, Snapshot},
    tasks::Tasks,
    telemetry::{Pair, Recorder, Sinks, Telemetry},
};
use arc_swap::ArcSwap;
use certs::id::NodeId;
use http::HeaderValue;
use policy::compile::Compiled;
use rand::{Rng, SeedableRng, rngs::SmallRng};
use std::{
    ops::Deref,
    sync::{Arc, Mutex, Weak, atomic::AtomicUsize},
};
use tokio::sync::{mpsc, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// What all workers share, the control side included.
#[derive(Debug, Clone)]
pub(super) struct Shared {
    /// The world.
    pub(super) current: Current,
    /// The services beside this node.
    pub(super) local: Arc<ArcSwap<Local>>,
    /// Where requests are counted.
    pub(super) telemetry: Telemetry,
    /// Owner of the tasks of connections.
    pub(super) tasks: Tasks,
    /// Nodes to which a data connection failed; what does not fit is dropped.
    pub(super) failures: mpsc::Sender<NodeId>,
    pub(super) budget: ReplayBudget,
    /// What outlives snapshots of the clusters that are called.
    pub(super) circuits: Arc<Circuits>,
    /// Where this node is.
    pub(super) locality: Locality,
    pub(super) mirrors: Mirrors,
    /// TLS towards endpoints outside the mesh.
    pub(super) originations: Originations,
    pub(super) connections: Arc<AtomicUsize>,
    /// Those of clients outside the mesh, once more.
    pub(super) clients: Arc<Clients>,
    /// Where Gateways open their ports.
    pub(super) gateway: Arc<ArcSwap<crate::config::Gateway>>,
    /// True once applications' connections are accepted.
    pub(super) serving: watch::Sender<bool>,
    pub(super) draining: watch::Sender<bool>,
    /// Counts the changes of `local`.
    pub(super) reloads: watch::Sender<u64>,
    /// Counts what ends connections to gateways that were let in.
    pub(super) evictions: watch::Sender<u64>,
    /// Workers whose requests have ended.
    pub(super) drained: watch::Sender<usize>,
    pub(super) verdicts: Verdicts,
    pub(super) sinks: Sinks,
    /// The mesh is closed.
    pub(super) ended: watch::Sender<bool>,
}

/// One worker's.
pub(super) struct Context {
    pub(super) worker: usize,
    shared: Shared,
    pub(super) mesh: mesh::data::Worker,
    pub(super) apps: Apps,
    pub(super) clusters: Mutex<Clusters>,
    /// How external authorisers are asked.
    pub(super) askers: Askers,
    /// Connections that are served.
    pub(super) open: TaskTracker,
    /// Counts the changes of what requests are admitted by.
    pub(super) rules: watch::Sender<u64>,
    /// Cancelled when the time to drain is over.
    pub(super) cutting: CancellationToken,
    /// Only this worker's requests take the lock, so it is always free.
    random: Mutex<SmallRng>,
}

/// Of which documents, and of which services beside this node, something was made. What is known so keeps its address taken: another of
/// the same address is the same.
#[derive(Debug, Default)]
pub(super) struct Basis {
    compiled: Weak<Compiled>,
    local: Weak<Local>,
}

impl Basis {
    pub(super) fn of(snapshot: &Snapshot, local: &Arc<Local>) -> Self {
        Self { compiled: Arc::downgrade(&snapshot.compiled), local: Arc::downgrade(local) }
    }

    /// Same as `*self == Basis::of(..)`, without touching the weak counts.
    pub(super) fn is_of(&self, snapshot: &Snapshot, local: &Arc<Local>) -> bool {
        is(&self.compiled, &snapshot.compiled) && is(&self.local, local)
    }
}

impl PartialEq for Basis {
    fn eq(&self, other: &Self) -> bool {
        self.compiled.ptr_eq(&other.compiled) && self.local.ptr_eq(&other.local)
    }
}

/// True if what was known so is this.
pub(super) fn is<T>(known: &Weak<T>, now: &Arc<T>) -> bool {
    std::ptr::eq(known.as_ptr(), Arc::as_ptr(now))
}

impl Deref for Context {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.shared
    }
}

impl Context {
    pub(super) fn new(worker: usize, shared: &Shared, mesh: mesh::data::Worker) -> Self {
        Self {
            worker,
            mesh,
            apps: Apps::new(shared.tasks.clone(), shared.budget.clone()),
            clusters: Mutex::default(),
            askers: Askers::default(),
            open: TaskTracker::new(),
            rules: watch::Sender::new(0),
            cutting: CancellationToken::new(),
            random: Mutex::new(SmallRng::seed_from_u64(seed(worker))),
            shared: shared.clone(),
        }
    }

    /// What holds now.
    pub(super) fn basis(&self) -> Basis {
        Basis::of(&self.current.read(), &self.local.load())
    }

    /// A random number; not for secrets.
    pub(super) fn random(&self) -> u64 {
        lock(&self.random).random()
    }

    /// Twice as many random bits; not for secrets.
    pub(super) fn random_bits(&self) -> u128 {
        (u128::from(self.random()) << 64) | u128::from(self.random())
    }

    /// A fresh `x-request-id`: a UUID of version 4, whose `4` also says "not sampled" to Envoy's readers.
    pub(super) fn request_id(&self) -> HeaderValue {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        /// Where the digits of each byte begin.
        const PLACES: [usize; 16] = [0, 2, 4, 6, 9, 11, 14, 16, 19, 21, 24, 26, 28, 30, 32, 34];
        let bits = self.random_bits();
        let bits = (bits & !(0xf << 76) & !(0x3 << 62)) | (0x4 << 76) | (0x2 << 62);
        let mut text = [b'-'; 36];
        for (byte, place) in bits.to_be_bytes().into_iter().zip(PLACES) {
            text[place] = HEX[usize::from(byte >> 4)];
            text[place + 1] = HEX[usize::from(byte & 0xf)];
        }
        HeaderValue::from_bytes(&text).unwrap_or(HeaderValue::from_static("-"))
    }

    /// Where this worker counts what goes on between a pair.
    pub(super) fn recorder(&self, pair: Pair) -> Arc<Recorder> {
        Arc::new(self.telemetry.recorder(self.worker, Arc::new(pair)))
    }

    /// What callers may ask of this node, by what holds now.
    pub(super) fn limits(&self) -> policy::kinds::Limits {
        self.current.read().compiled.config().limits
    }

    /// The bounds of requests and streams of other nodes, by what holds now.
    pub(super) fn bounds_of_nodes(&self) -> Bounds {
        Bounds::of_nodes(&self.limits())
    }

    /// Resolves when the node begins to serve its applications.
    pub(super) async fn serving(&self) {
        let mut serving = self.serving.subscribe();
        // No error: this worker holds a sender.
        drop(serving.wait_for(|serving| *serving).await);
    }

    /// Resolves when the node drains.
    pub(super) async fn draining(&self) {
        let mut draining = self.draining.subscribe();
        // No error: this worker holds a sender.
        drop(draining.wait_for(|draining| *draining).await);
    }

    /// Resolves when what is still under way is cut.
    pub(super) async fn cut(&self) {
        self.cutting.cancelled().await;
    }

    /// A data connection to this node failed.
    pub(super) fn report_failure(&self, node: &NodeId) {
        if self.failures.try_send(node.clone()).is_err() {
            tracing::debug!(%node, "too many failures to report");
        }
    }
}

/// Differs between workers and starts; which request takes which way need not be unpredictable.
fn seed(worker: usize) -> u64 {
    let mut seed = [0; 8];
    if aws_lc_rs::rand::fill(&mut seed).is_err() {
        return clock::wall() ^ (worker as u64) << 48;
    }
    u64::from_ne_bytes(seed)
}
