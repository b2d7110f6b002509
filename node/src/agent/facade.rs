//! What the admin interface sees of the agent: one method per thing that can be asked.

use std::{sync::Arc, time::Duration};

use certs::{
    codec::Millis,
    id::{NodeId, SpiffeId, TrustDomain},
};
use policy::{
    changeset::ChangesetId,
    history::{History, State},
};
use tokio::sync::{broadcast, watch};

use super::{error::Error, event::Event, receipt::Receipt, store::AuditEntry};
use crate::config::{Config, Service};

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
    /// Whether this node enrols others.
    pub enroller: bool,
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
}

/// One node's agent; clones are the same agent.
#[derive(Clone)]
pub struct Agent {
    inner: Arc<()>,
}

impl Agent {
    /// This node's name.
    pub fn node(&self) -> &NodeId {
        todo!()
    }

    /// The mesh.
    pub fn trust_domain(&self) -> &TrustDomain {
        todo!()
    }

    /// The configuration in force.
    pub fn config(&self) -> Arc<Config> {
        todo!()
    }

    /// When the process started.
    pub fn started(&self) -> Millis {
        todo!()
    }

    /// The clock.
    pub fn now(&self) -> Millis {
        todo!()
    }

    /// The policy that holds now.
    pub fn state(&self) -> Arc<State> {
        todo!()
    }

    /// Looks into the set of changesets: log, plan, revert.
    pub async fn history<T>(&self, look: impl FnOnce(&History) -> T) -> T {
        let _ = (look, &self.inner);
        todo!()
    }

    /// This node's certificates.
    pub fn identity(&self) -> IdentityFacts {
        todo!()
    }

    /// What this node itself finds wrong (disk, certificates, clock): code, message, hint; worst first.
    pub fn troubles(&self) -> Vec<Error> {
        todo!()
    }

    /// Whether identity, policy and listeners are there.
    pub fn ready(&self) -> bool {
        todo!()
    }

    /// Bytes a second sent to other nodes for membership and policy, over the last seconds.
    pub fn gossip_rate(&self) -> u64 {
        todo!()
    }

    /// Takes a signed changeset: verified, durable here, announced; answers when `wait` is met or `patience` is over.
    ///
    /// # Errors
    /// The refusal; nothing was kept then.
    pub async fn push(&self, bytes: Vec<u8>, wait: Wait, patience: Duration) -> Result<Pushed, Error> {
        let _ = (bytes, wait, patience);
        todo!()
    }

    /// Asks who applies a changeset that this node holds; answers when `wait` is met or `patience` is over.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn receipts(&self, id: ChangesetId, wait: Wait, patience: Duration) -> Result<Pushed, Error> {
        let _ = (id, wait, patience);
        todo!()
    }

    /// The audit chain from `position` on.
    ///
    /// # Errors
    /// `storage_failed`.
    pub async fn audit(&self, position: u64) -> Result<Vec<AuditEntry>, Error> {
        let _ = position;
        todo!()
    }

    /// Local services with their health: healthy or why not.
    pub fn local_services(&self) -> Vec<(Service, bool, String)> {
        todo!()
    }

    /// Adds a service, or replaces it: `text` is one `[[service]]` table in TOML, kept in `services.d`.
    ///
    /// # Errors
    /// `bad_config`, `not_granted` naming the command that grants it.
    pub async fn service_add(&self, text: &str) -> Result<Service, Error> {
        let _ = text;
        todo!()
    }

    /// Removes a service that `service_add` added: `NAMESPACE/NAME[/INSTANCE]`.
    ///
    /// # Errors
    /// `not_found`; `bad_config` for one that stands in skein.toml.
    pub async fn service_remove(&self, name: &str) -> Result<(), Error> {
        let _ = name;
        todo!()
    }

    /// Says that this node wants no new requests, or wants them again.
    pub async fn drain(&self, on: bool) {
        let _ = on;
        todo!()
    }

    /// Wakes whenever policy, members or endpoints changed.
    pub fn changes(&self) -> watch::Receiver<u64> {
        todo!()
    }

    /// What happens from now on.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        todo!()
    }

    /// The latest events, oldest first.
    pub fn recent_events(&self) -> Vec<Event> {
        todo!()
    }
}
