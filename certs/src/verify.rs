//! Path verification of a peer: closure over the whole chain, both sides of TLS and QUIC use it.

use std::{collections::HashMap, sync::Arc};
use crate::{codec::Millis, grant::{Grant, NodeGrant}, id::{NodeId, SpiffeId, TrustDomain}, revoke::Revocations, sign::PublicKey};

/// Everything a verifier believes: derived from policy (RoleSet's bundle, NodeGrants, Revocations). Immutable; swapped whole.
#[derive(Debug, Clone)]
pub struct Authority {
    /// The mesh.
    pub trust_domain: TrustDomain,
    /// DER of each root that is trusted now.
    pub roots: Vec<Vec<u8>>,
    /// Live NodeGrants by node.
    pub grants: HashMap<NodeId, Arc<NodeGrant>>,
    /// Evictions, accounts, keys.
    pub revocations: Revocations,
}

/// A peer whose whole path holds.
#[derive(Debug, Clone)]
pub struct Peer {
    /// The leaf's identity.
    pub id: SpiffeId,
    /// The node whose CA issued it (for a node identity leaf: that node).
    pub node: NodeId,
    /// Epoch of that node's grant.
    pub epoch: u64,
    /// What the node may have: certificate and NodeGrant intersected.
    pub grant: Grant,
    /// The key that signs the node's records.
    pub record_key: PublicKey,
    /// End of the first certificate of the path to end; connections are closed then.
    pub not_after: Millis,
}

// API:
// verify(chain: &[CertificateDer<'_>] /*leaf first*/, &Authority, now: Millis) -> Result<Peer, VerifyError>
// verify_ca(chain /*node CA first*/, &Authority, now) -> Result<NodeCaFacts{node, epoch, grant(effective), record_key, not_after}, VerifyError>
//    for records' identity section: the same rules without a leaf
// VerifyError: one variant per rule broken, Display says what and which certificate (never panics on hostile DER)
