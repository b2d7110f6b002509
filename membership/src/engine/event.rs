//! What an engine is told and what it wants done.

use std::{net::SocketAddr, sync::Arc};

use certs::{
    id::{NodeId, TrustDomain},
    sign::SigningKey,
    verify::Authority,
};

use crate::{
    body::{Body, Policy},
    error::RecordError,
    gossip::Outgoing,
    statement::Statement,
};

/// One peer link, numbered by whoever opens and accepts them; a number is never used twice by a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u64);

/// Urgency of a message: a sender with more than it can send takes the first lane first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// Probes, accusations, farewells.
    Liveness,
    /// Policy digests.
    Policy,
    /// Health of endpoints, and what nodes say of the moment.
    Health,
    /// Endpoints and addresses.
    Services,
    /// Repair: what may wait for seconds.
    Rest,
}

impl Lane {
    /// All of them, the most urgent first.
    pub const ALL: [Lane; 5] = [Lane::Liveness, Lane::Policy, Lane::Health, Lane::Services, Lane::Rest];

    /// Its name in metrics and reports.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Lane::Liveness => "liveness",
            Lane::Policy => "policy",
            Lane::Health => "health",
            Lane::Services => "services",
            Lane::Rest => "rest",
        }
    }
}

/// How an engine is set up.
#[derive(Debug, Clone)]
pub struct Config {
    /// The mesh.
    pub trust_domain: TrustDomain,
    /// Addresses of the configuration, dialled without knowing who is there.
    pub peers: Vec<SocketAddr>,
    /// The bytes of the last [`Effect::Persist`], or none.
    pub last_known: Vec<u8>,
}

/// Who this node is.
pub struct Own {
    /// Its name.
    pub node: NodeId,
    /// Signs its records; its public half is bound in the certificate.
    pub record_key: Arc<SigningKey>,
    /// Of this run, from [`crate::record::next_generation`], durable already.
    pub generation: u64,
    /// DER of the node CA and the enroller CA.
    pub identity: Vec<Vec<u8>>,
}

/// What happened.
#[derive(Debug)]
pub enum Event {
    /// A peer link stands and its handshake is verified.
    LinkUp {
        /// Who is there.
        node: NodeId,
        /// The link.
        link: LinkId,
        /// Where it was dialled; `None` if it was accepted.
        dialled: Option<SocketAddr>,
    },
    /// A link ended, for whatever reason.
    LinkDown {
        /// Who was there.
        node: NodeId,
        /// The link.
        link: LinkId,
    },
    /// An [`Effect::Dial`] came to nothing.
    DialFailed {
        /// As in the effect.
        node: Option<NodeId>,
        /// As in the effect.
        address: SocketAddr,
    },
    /// A message came over a link.
    Message {
        /// The link's verified peer.
        from: NodeId,
        /// The link.
        link: LinkId,
        /// As it came.
        bytes: Vec<u8>,
    },
    /// A data connection to a node failed or was refused: a reason to look, never a proof.
    DataFailure {
        /// The node.
        node: NodeId,
    },
    /// Time passed; due at [`Engine::wake`](super::Engine::wake) at the latest.
    Tick,
    /// This node has something new to say of itself; what comes in one event goes out together.
    Publish(Vec<Body>),
    /// Somebody here needs a link with a member for the next minute.
    Want(NodeId),
    /// Policy changed what is believed.
    Authority(Arc<Authority>),
    /// The configuration's addresses changed.
    Peers(Vec<SocketAddr>),
    /// What the gossip carrier gave.
    Gossip(Outgoing),
    /// The process is about to stop: its last words come back as effects.
    Leaving,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Send over a link. What does not fit into its queue is dropped: repair will bring it.
    Send {
        /// The peer.
        to: NodeId,
        /// The link to take.
        link: LinkId,
        /// Its urgency.
        lane: Lane,
        /// The message.
        bytes: Arc<[u8]>,
    },
    /// Open a link; answered by `LinkUp` or `DialFailed`.
    Dial {
        /// Whom to demand there; `None` takes any node of the mesh.
        node: Option<NodeId>,
        /// Where.
        address: SocketAddr,
    },
    /// Close one superfluous link.
    CloseLink {
        /// The peer.
        node: NodeId,
        /// The link.
        link: LinkId,
    },
    /// Close all links and data connections with a node that no longer counts.
    Close {
        /// The node.
        node: NodeId,
    },
    /// The View changed; read [`Engine::view`](super::Engine::view).
    Changed(Change),
    /// A member says something of the moment. The View knows nothing of it.
    Heard {
        /// Who says so: the signature holds, the content is its word alone.
        node: NodeId,
        /// All that it says now under this heading.
        statement: Statement,
    },
    /// What this member said of the moment counts no more, or waits until it is heard again. [`Effect::Heard`] follows if it
    /// comes back with something to say.
    Lost {
        /// Who said it.
        node: NodeId,
        /// Why.
        why: Loss,
    },
    /// Store these bytes; they replace the last ones.
    Persist(Vec<u8>),
    /// This node goes on under this generation: peers hold records of its own that this run did not sign, or its clock was far ahead
    /// when it drew the last one. Store it before anything that follows is done.
    Generation(u64),
    /// What this node itself said of its policy in an earlier run, by its signature: a disk that knows less is from a backup.
    Remembered(Policy),
    /// Hand to [`crate::gossip::Carrier::deliver`].
    Deliver {
        /// The link's verified peer.
        from: NodeId,
        /// The payload.
        bytes: Vec<u8>,
    },
    /// [`Engine::feed`](super::Engine::feed) changed: hand it to [`crate::gossip::Carrier::feed`].
    Feed,
    /// Worth a line in the log, or the end of the process.
    Notice(Notice),
}

/// Why a member's statements of the moment count no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Loss {
    /// It is dead: out of reach, perhaps alive elsewhere.
    Dead,
    /// It said that it stops.
    Left,
    /// Its rights were taken.
    Evicted,
    /// It is no longer known, or contradicted itself.
    Gone,
    /// It runs anew and has forgotten what it said.
    Restarted,
}

/// What changed in the View.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A node is known that was not, or came back.
    Alive(NodeId),
    /// A node is being checked.
    Suspect(NodeId),
    /// A node is dead: close its data connections.
    Dead(NodeId),
    /// A node said that it stops: close its data connections once they are idle.
    Left(NodeId),
    /// A node's rights were taken: close everything at once.
    Evicted(NodeId),
    /// A node is no longer known, because its certificate or grant ended.
    Gone(NodeId),
    /// A node's address, locality, version or identity.
    Member(NodeId),
    /// A node's status.
    Status(NodeId),
    /// A node's endpoints.
    Services(NodeId),
    /// The health of its endpoints.
    Health(NodeId),
    /// The policy that it holds.
    Policy(NodeId),
}

/// What people, or the process itself, should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// A record of this node's key with a higher generation exists: a copy of this node runs. The process must stop.
    Clone {
        /// The other's generation.
        generation: u64,
    },
    /// A node signed two different records under one number: it is quarantined until it is invited anew.
    Equivocation {
        /// The node.
        node: NodeId,
    },
    /// A node did so in an earlier run of this one, by what the disk holds, and is quarantined still.
    Quarantined {
        /// The node.
        node: NodeId,
    },
    /// What was to be published cannot be.
    Refused(RecordError),
    /// A peer sends what no honest peer sends.
    Misbehaved {
        /// The peer.
        node: NodeId,
        /// What it did.
        what: &'static str,
    },
}
