//! What the admin interface sees of the agent: one method per thing that can be asked.

mod doors;
mod enroller;
mod paths;
mod reload;
mod restart;
mod services;
mod workload;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use arc_swap::{ArcSwap, ArcSwapOption};
use certs::{
    codec::Millis,
    id::{NodeId, SpiffeId, TrustDomain},
};
use futures_util::future::BoxFuture;
use membership::{body::Status, engine::Lane, view::View};
use policy::{
    changeset::ChangesetId,
    history::{History, State},
};
use tokio::sync::watch;

pub use enroller::{ENROLLER_EARLY, EnrollerRequest, NO_ENROLLER};

use super::{
    drift::Measured,
    error::{Error, fail, internal},
    event::Noted,
    guarded::Guarded,
    local::Local,
    receipt::{Receipt, Standing},
    state_dir::{CAPTURED, StateDir},
    store::{AuditEntry, AuditHead, Store},
    sync::Sync,
};
use crate::{
    clock::{Uptime, monotonic},
    config::{Config, Service},
    secrets::Secrets,
    snapshot::{Snapshot, Trouble},
};

/// How many nodes must have a push on disk before it is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Wait {
    /// Two nodes, or one where this node is alone.
    #[default]
    Two,
    /// This node only.
    Local,
    /// So many, this node included.
    Nodes(usize),
    /// Every node that is alive in this node's view.
    All,
}

/// Who has a changeset.
#[derive(Debug, Clone, Default)]
pub struct Pushed {
    /// The changeset.
    pub changeset: Option<ChangesetId>,
    /// What nodes signed, this node's own first.
    pub receipts: Vec<Receipt>,
    /// The receipts as signed bytes, in the same order.
    pub signed: Vec<Vec<u8>>,
    /// Alive nodes that have said nothing in time.
    pub pending: Vec<NodeId>,
    /// Known nodes that this node does not reach.
    pub unreachable: Vec<NodeId>,
    /// Whether what was waited for came in time.
    pub complete: bool,
    /// From arrival to answer.
    pub elapsed: Duration,
}

/// This node's certificates.
#[derive(Debug, Clone)]
pub struct IdentityFacts {
    /// The node itself.
    pub id: SpiffeId,
    /// Node CA, enroller CA; DER.
    pub ca_chain: Vec<Vec<u8>>,
    /// Begin of the node CA.
    pub ca_not_before: Millis,
    /// End of the node CA.
    pub ca_not_after: Millis,
    /// The leafs held now, the node's own among them.
    pub leafs: Vec<LeafFacts>,
    /// The leafs that applications were given and that have not ended.
    pub handed: Vec<LeafFacts>,
    /// End of the enroller CA, where this node has one.
    pub enroller: Option<Millis>,
    /// How long that lives from its issue on.
    pub enroller_life: Option<Millis>,
}

/// One leaf.
#[derive(Debug, Clone)]
pub struct LeafFacts {
    /// Whose.
    pub id: SpiffeId,
    /// DER, leaf first.
    pub chain: Vec<Vec<u8>>,
    /// Begin.
    pub not_before: Millis,
    /// End.
    pub not_after: Millis,
    /// The local user whose application holds the key; none where it is this node's.
    pub uid: Option<u32>,
}

/// One node's agent; clones are the same agent.
#[derive(Clone)]
pub struct Agent {
    inner: Arc<Inner>,
}

struct Inner {
    sync: Arc<Sync>,
    local: Arc<Local>,
    store: Arc<Store>,
    dir: Arc<StateDir>,
    secrets: Secrets,
    /// As the files say it.
    given: ArcSwap<Config>,
    /// The same with what WorkloadGroups say of its services.
    config: ArcSwap<Config>,
    /// What groups lack.
    group_troubles: ArcSwap<Vec<Trouble>>,
    apply: Apply,
    /// One reload at a time.
    reloading: tokio::sync::Mutex<()>,
    reloads: watch::Sender<u64>,
    /// Why the files, as a signal asked to take them, are not in use.
    not_reloaded: ArcSwapOption<Error>,
    started: Millis,
    listening: AtomicBool,
    draining: AtomicBool,
    /// True once the process ends; held while somebody drains.
    leaving: tokio::sync::Mutex<bool>,
    rate: Mutex<Rate>,
    /// Who keeps a capture in force.
    guarded: Guarded,
}

/// Bytes sent, as last looked at.
#[derive(Debug, Clone, Copy)]
struct Rate {
    at: Instant,
    sent: [u64; Lane::ALL.len()],
    per_second: [u64; Lane::ALL.len()],
}

/// Takes services, outbounds and upstreams of a new configuration into use, or changes nothing.
pub type Apply = Box<dyn Fn(Arc<Config>) -> BoxFuture<'static, Result<(), Error>> + Send + std::marker::Sync>;

impl Agent {
    /// Puts an agent in front of running parts; `apply` reconfigures the data plane. Of the two configurations one is as the files say
    /// it, the other is in use.
    pub fn new(
        sync: Arc<Sync>,
        local: Arc<Local>,
        (store, dir): (Arc<Store>, Arc<StateDir>),
        (given, config): (Config, Config),
        apply: Apply,
    ) -> Self {
        let started = sync.clock.now();
        let rate = Mutex::new(Rate { at: monotonic(), sent: Default::default(), per_second: Default::default() });
        let (listening, draining, leaving, reloading, reloads) = Default::default();
        let secrets = Secrets::new(dir.path()).within(config.files.clone());
        let (given, config) = (ArcSwap::from_pointee(given), ArcSwap::from_pointee(config));
        let guarded = Guarded::new(dir.path().join(CAPTURED));
        Self {
            inner: Arc::new(Inner {
                sync,
                local,
                store,
                dir,
                secrets,
                given,
                config,
                group_troubles: ArcSwap::default(),
                apply,
                reloading,
                reloads,
                not_reloaded: ArcSwapOption::empty(),
                started,
                listening,
                draining,
                leaving,
                rate,
                guarded,
            }),
        }
    }

    /// This node's name.
    pub fn node(&self) -> &NodeId {
        self.inner.sync.identity.node()
    }

    /// The mesh.
    pub fn trust_domain(&self) -> &TrustDomain {
        self.inner.sync.identity.trust_domain()
    }

    /// The configuration in force.
    pub fn config(&self) -> Arc<Config> {
        self.inner.config.load_full()
    }

    /// When the process started.
    pub fn started(&self) -> Millis {
        self.inner.started
    }

    /// The clock.
    pub fn now(&self) -> Millis {
        self.inner.sync.clock.now()
    }

    /// The world as requests read it.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.inner.sync.world.current().load()
    }

    /// The policy that holds now.
    pub fn state(&self) -> Arc<State> {
        self.snapshot().state.clone()
    }

    /// Looks into the set of changesets: log, plan, revert.
    pub async fn history<T: Send + 'static>(&self, look: impl FnOnce(&History) -> T + Send + 'static) -> T {
        self.inner.sync.book.look_through(look).await
    }

    /// Nodes as this node sees them.
    pub fn view(&self) -> Arc<View> {
        self.inner.sync.world.view()
    }

    /// Carrier (`quic` or `tcp`) and remote address of the link to a node, if there is one.
    pub fn link(&self, node: &NodeId) -> Option<(&'static str, std::net::SocketAddr)> {
        self.inner.sync.links.to(node).map(|link| (link.carrier(), link.remote()))
    }

    /// Since when a node has had no peer link with this one that had one before.
    pub fn without_link(&self, node: &NodeId) -> Option<Millis> {
        self.inner.sync.links.without(node)
    }

    /// How far this machine's clock is ahead of peers'.
    pub fn drift(&self) -> Option<Measured> {
        self.inner.sync.drift.measured()
    }

    /// Whether nothing of this node rests on a root that retires.
    pub fn is_settled(&self) -> bool {
        self.inner.sync.is_settled()
    }

    /// Whether no other node is linked.
    pub fn is_alone(&self) -> bool {
        self.inner.sync.links.all().is_empty()
    }

    /// This node's certificates.
    pub fn identity(&self) -> IdentityFacts {
        self.inner.sync.identity.facts(self.now())
    }

    /// What this node itself finds wrong: disk, certificates, services without a grant; worst first.
    pub fn troubles(&self) -> Vec<Error> {
        let mut troubles: Vec<Error> = self.inner.sync.world.fatal().into_iter().collect();
        troubles.extend(self.stuck_workers());
        troubles.extend(self.inner.store.trouble());
        troubles.extend(self.inner.sync.book.trouble());
        let (facts, now) = (self.identity(), self.now());
        if facts.ca_not_after <= now {
            let hint = "start an enroller; the node then renews by itself";
            troubles.push(fail("certificate_expired", "the node CA has ended: no new connections", hint));
        } else if facts.ca_not_before + (facts.ca_not_after - facts.ca_not_before) / 3 * 2 < now {
            let hint = "start an enroller; the node then renews by itself";
            troubles.push(fail("certificate_old", "the node CA is past two thirds of its life", hint));
        }
        troubles.extend(self.withdrawn(&facts.ca_chain));
        troubles.extend(self.root_trouble(now));
        troubles.extend(self.enroller_trouble(facts.enroller.zip(facts.enroller_life), now));
        troubles.extend(self.inner.sync.stale().map(|silent| {
            let message =
                format!("less than half of the mesh was heard for {} min: policy may be old", silent.as_secs() / 60);
            fail("policy_stale", message, "is this node cut off? look at `skein members`")
        }));
        troubles.extend(self.inner.sync.drift.trouble());
        troubles.extend(self.address_trouble());
        troubles.extend(self.not_reached());
        troubles.extend(self.inner.local.not_granted());
        troubles.extend(self.inner.not_reloaded.load().as_deref().cloned());
        troubles.extend(self.inner.group_troubles.load().iter().map(doors::told));
        troubles.extend(self.troubles_beyond());
        troubles.extend(refused(&self.inner.sync.links.refusers(Uptime::now())));
        troubles.extend(quarantined(&self.inner.sync.links.ignoring(Uptime::now()), self.node()));
        troubles
    }

    /// Whether identity, policy and listeners are there, and every data worker turns.
    pub fn ready(&self) -> bool {
        let own_leaf = self.identity().leafs.iter().any(|leaf| leaf.not_after > self.now());
        let serves = self.inner.listening.load(Relaxed) && !self.draining() && self.stuck_workers().is_none();
        serves && own_leaf && self.inner.sync.world.fatal().is_none()
    }

    /// Says that all listeners are open, or about to close.
    pub fn set_listening(&self, open: bool) {
        self.inner.listening.store(open, Relaxed);
    }

    /// Takes a signed changeset: verified, durable here, announced; answers when `wait` is met or `patience` is over.
    ///
    /// # Errors
    /// The refusal; nothing was kept then.
    pub async fn push(&self, bytes: Vec<u8>, wait: Wait, patience: Duration) -> Result<Pushed, Error> {
        self.inner.sync.push(bytes, wait, patience).await
    }

    /// Asks who applies a changeset that this node holds; answers when `wait` is met or `patience` is over.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn receipts(&self, id: ChangesetId, wait: Wait, patience: Duration) -> Result<Pushed, Error> {
        self.inner.sync.receipts(id, Standing::Applied, wait, patience).await
    }

    /// Asks every live node whether it follows the RoleSet in force and rests on no root that this retires; answers when all do or
    /// `patience` is over.
    ///
    /// # Errors
    /// `not_found` before there is a RoleSet.
    pub async fn settled(&self, patience: Duration) -> Result<Pushed, Error> {
        let id = self.state().role_set.changeset;
        self.inner.sync.receipts(id, Standing::Settled, Wait::All, patience).await
    }

    /// Connections that rest on a root which retires, if they are counted yet.
    pub fn resting(&self) -> Option<usize> {
        self.inner.sync.resting.connections(self.state().role_set.changeset)
    }

    /// At most so many entries of the audit chain from `position` on, and its head as noted.
    ///
    /// # Errors
    /// `storage_failed`.
    pub async fn audit(&self, position: u64, limit: usize) -> Result<(Vec<AuditEntry>, AuditHead), Error> {
        let store = self.inner.store.clone();
        // The head first: what is added in between goes beyond it.
        let read = move || store.audit_head().and_then(|head| Ok((store.audit(position, limit)?, head)));
        tokio::task::spawn_blocking(read).await.map_err(internal)?
    }

    /// The longest audit chain that each member was heard to have.
    pub fn audit_heads(&self) -> BTreeMap<NodeId, AuditHead> {
        self.inner.sync.audit_heads()
    }

    /// Local services with their health: healthy or why not.
    pub fn local_services(&self) -> Vec<(Service, bool, String)> {
        self.inner.local.list()
    }

    /// Wakes after every reload.
    pub fn reloads(&self) -> watch::Receiver<u64> {
        self.inner.reloads.subscribe()
    }

    /// Says that this node wants no new requests, or wants them again. It lasts as long as the process.
    ///
    /// # Errors
    /// `out_of_turn` once the process ends: what it has said of that stands.
    pub async fn drain(&self, on: bool) -> Result<(), Error> {
        let leaving = self.inner.leaving.lock().await;
        if *leaving {
            let message = format!("{} is leaving: its process ends, and takes nothing new", self.node());
            return Err(fail("out_of_turn", message, "drain it when it runs again"));
        }
        self.inner.draining.store(on, Relaxed);
        self.inner.sync.world.current().tell_leaving(on);
        self.inner.sync.members.status(if on { Status::Draining } else { Status::Up }).await;
        Ok(())
    }

    /// From now on this node ends: it is not ready, and nobody drains it or takes that back.
    pub async fn leave(&self) {
        self.set_listening(false);
        *self.inner.leaving.lock().await = true;
    }

    /// Whether `drain` is on.
    pub fn draining(&self) -> bool {
        self.inner.draining.load(Relaxed)
    }

    /// Wakes whenever policy, members or endpoints changed.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.inner.sync.world.changes()
    }

    /// The latest events, oldest first.
    pub fn recent_events(&self) -> Vec<Noted> {
        self.inner.sync.events.recent()
    }
}

/// As many of them as a sentence names.
fn some(nodes: &[NodeId]) -> String {
    let names: Vec<&str> = nodes.iter().take(5).map(NodeId::as_str).collect();
    let more = if nodes.len() > names.len() { ", ..." } else { "" };
    names.join(", ") + more
}

/// What it means that nodes end their links with this one because it contradicted itself.
fn quarantined(by: &[NodeId], own: &NodeId) -> Option<Error> {
    (!by.is_empty()).then(|| {
        let message = format!("ignored by {}: this node signed two different truths", some(by));
        let hint = format!(
            "was its machine put back to a snapshot, or does a copy of it run? stop the copy; then stop this one, move its data directory \
             away, and `skein join` with a token of `skein invite {own} --replace`"
        );
        fail("quarantined", message, hint)
    })
}

/// What it means that nodes hang up on this one.
fn refused(by: &[NodeId]) -> Option<Error> {
    (!by.is_empty()).then(|| {
        let message = format!("refused by {}: this node's certificate does not count there", some(by));
        let hint = "is its clock right? was it evicted, or its name given to another machine? then stop it, move its data directory away, and \
                    `skein join` with a token of `skein invite NODE --replace`";
        fail("refused", message, hint)
    })
}
