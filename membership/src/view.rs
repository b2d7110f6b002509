//! What a node knows of all members: what they say of themselves, and its own judgement whether they live.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use certs::{
    codec::Millis,
    id::{NodeId, ServiceName},
    sign::{Digest, PublicKey},
};

use crate::body::{HealthState, Policy, ServiceRecord, Status};

/// This node's own judgement of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MemberState {
    /// Answers, or others reach it.
    Alive,
    /// Silent, or known by hearsay only: being checked, its endpoints stay in use.
    Suspect,
    /// Nobody that was asked reaches it.
    Dead,
    /// Announced that it stops.
    Left,
    /// An operator took its rights; it has neither links nor endpoints.
    Evicted,
}

/// Which endpoint of a node: service and instance.
pub type EndpointKey = (ServiceName, Option<String>);

/// One node of the mesh.
#[derive(Debug, Clone, PartialEq)]
pub struct Member {
    /// Its name.
    pub id: NodeId,
    /// Its run: rises with every start.
    pub generation: u64,
    /// Epoch of its grant.
    pub epoch: u64,
    /// The key that signs its records.
    pub record_key: PublicKey,
    /// SHA-256 of its CA's public key: [`certs::verify::KnownKey`] for its epoch.
    pub ca_key: Digest,
    /// SHA-256 of the root that its certificate rests on.
    pub root: Digest,
    /// Whether it lives.
    pub state: MemberState,
    /// When `state` became so, by this node's clock.
    pub since: Millis,
    /// What it intends.
    pub status: Status,
    /// Since when this node has known its run to intend that, by this node's clock.
    pub status_since: Millis,
    /// Its preferred mesh address.
    pub address: Option<SocketAddr>,
    /// All its mesh addresses, the preferred one first.
    pub addresses: Vec<SocketAddr>,
    /// `region/zone`, or empty.
    pub locality: String,
    /// The build that it runs.
    pub version: String,
    /// Lowest and highest wire version that it speaks.
    pub wire: (u8, u8),
    /// When its process started, by its own clock.
    pub started: Millis,
    /// The policy that it holds.
    pub policy: Option<Arc<Policy>>,
    /// Its endpoints, as far as its grant allows them.
    pub services: Arc<[ServiceRecord]>,
    /// Their health; an endpoint not listed is healthy.
    pub health: Arc<BTreeMap<EndpointKey, HealthState>>,
    /// Round trip over the peer link, if there is one.
    pub rtt: Option<Duration>,
    /// The share of probes over it that got no answer while the member lived, from 0 to 1.
    pub loss: Option<f64>,
}

impl Member {
    /// Whether its endpoints may be used: it is not known to be gone.
    #[must_use]
    pub fn usable(&self) -> bool {
        match self.state {
            MemberState::Alive | MemberState::Suspect => true,
            MemberState::Dead | MemberState::Left | MemberState::Evicted => false,
        }
    }

    /// What its owner says of one endpoint; `None` means healthy.
    #[must_use]
    pub fn health_of(&self, service: &ServiceName, instance: Option<&str>) -> Option<&HealthState> {
        self.health.get(&(service.clone(), instance.map(str::to_owned)))
    }
}

/// A node that signed two different records under one number: until it is invited anew it is no member, and nothing that it says counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quarantined {
    /// When this node, in this run, knew of it, by its clock.
    pub since: Millis,
    /// Epoch of the grant that it had.
    pub epoch: u64,
    /// Its run that both records are of.
    pub generation: u64,
    /// Their number in it.
    pub sequence: u64,
}

/// All members that a node believes in, itself included. Cheap to clone.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct View {
    pub(crate) members: BTreeMap<NodeId, Arc<Member>>,
    pub(crate) quarantined: BTreeMap<NodeId, Quarantined>,
}

impl View {
    /// By name.
    #[must_use]
    pub fn members(&self) -> &BTreeMap<NodeId, Arc<Member>> {
        &self.members
    }

    /// One of them.
    #[must_use]
    pub fn member(&self, node: &NodeId) -> Option<&Arc<Member>> {
        self.members.get(node)
    }

    /// Nodes that are granted and no members, because they contradicted themselves.
    #[must_use]
    pub fn quarantined(&self) -> &BTreeMap<NodeId, Quarantined> {
        &self.quarantined
    }

    /// How many are alive or suspected, this node included.
    #[must_use]
    pub fn seen(&self) -> usize {
        self.members.values().filter(|member| member.usable()).count()
    }
}
