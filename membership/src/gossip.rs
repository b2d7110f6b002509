//! chitchat behind a trait: the repair path of records. It is not believed, and its liveness is not used. The only
//! file that names it.

use std::{collections::BTreeMap, future::Future, sync::Arc, time::Duration};

use certs::{
    id::{NodeId, TrustDomain},
    sign::PublicKey,
};
use tokio::sync::mpsc;

use crate::record::{Section, SignedRecord};

/// Everything that a carrier must know: the engine's words, replaced whole on change.
#[derive(Debug, Clone, PartialEq)]
pub struct Feed {
    /// This node.
    pub node: NodeId,
    /// All members that may be spoken of, this node included.
    pub members: BTreeMap<NodeId, Known>,
    /// Peers with an open link.
    pub linked: Vec<NodeId>,
}

/// A member as a carrier sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct Known {
    /// Signs its records.
    pub record_key: PublicKey,
    /// Its run.
    pub generation: u64,
    /// Not known to be dead or gone.
    pub alive: bool,
    /// Its records as held now.
    pub records: BTreeMap<Section, Arc<SignedRecord>>,
}

/// What a carrier gives to the engine, by [`crate::engine::Event::Gossip`].
#[derive(Debug, Clone, PartialEq)]
pub enum Outgoing {
    /// A payload for a peer.
    Send {
        /// The peer.
        to: NodeId,
        /// The payload.
        bytes: Vec<u8>,
    },
    /// Records whose signatures hold and that the feed lacked.
    Learned(Vec<Arc<SignedRecord>>),
    /// A peer speaks of members that the feed does not know.
    Unknown {
        /// The peer.
        from: NodeId,
    },
    /// A peer sent what no honest peer sends; it was dropped whole.
    Hostile {
        /// The peer.
        from: NodeId,
        /// What it was.
        what: &'static str,
    },
}

/// Carries records between members, eventually: whatever gets lost on faster paths.
pub trait Carrier {
    /// The world changed.
    fn feed(&self, feed: Arc<Feed>);
    /// A payload came from a peer over its link.
    fn deliver(&self, from: &NodeId, bytes: &[u8]);
}

/// How chitchat is set up.
#[derive(Debug, Clone)]
pub struct GossipConfig {
    /// The mesh; messages of another are dropped.
    pub trust_domain: TrustDomain,
    /// Time between rounds; 1 s.
    pub interval: Duration,
}

/// The handle to a running chitchat. Dropping it ends the future.
pub struct Gossip {}

impl Gossip {
    /// Gives the handle, what it says (a bounded queue: what overflows is dropped), and the future to run: critical,
    /// it restarts chitchat whenever it ends or panics.
    #[must_use]
    pub fn start(_config: GossipConfig) -> (Gossip, mpsc::Receiver<Outgoing>, impl Future<Output = ()> + Send + use<>) {
        let (_sender, receiver) = mpsc::channel(1);
        (Gossip {}, receiver, async {})
    }
}

impl Carrier for Gossip {
    fn feed(&self, _feed: Arc<Feed>) {
        todo!()
    }

    fn deliver(&self, _from: &NodeId, _bytes: &[u8]) {
        todo!()
    }
}
