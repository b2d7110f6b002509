//! Path verification of a peer: closure over the whole chain, both sides of TLS and QUIC use it.

use std::{collections::HashMap, sync::Arc};

use rustls::pki_types::CertificateDer;

use crate::{
    codec::Millis,
    grant::{Grant, NodeGrant},
    id::{NodeId, SpiffeId, TrustDomain},
    revoke::Revocations,
    sign::{Digest, PublicKey},
};

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
    /// First CA key seen of each node in its epoch: another key of the same epoch is refused, so that a stolen enroller cannot
    /// re-issue a name that is taken. May be empty.
    pub known_keys: HashMap<NodeId, KnownKey>,
}

/// The CA key that a node was first seen with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownKey {
    /// The epoch of the sighting; a higher one takes the name over.
    pub epoch: u64,
    /// SHA-256 of the node CA's SubjectPublicKeyInfo.
    pub ca_key: Digest,
}

impl Authority {
    /// An authority that knows roots and nothing else.
    pub fn new(trust_domain: TrustDomain, roots: Vec<Vec<u8>>) -> Authority {
        let (grants, revocations, known_keys) = Default::default();
        Authority { trust_domain, roots, grants, revocations, known_keys }
    }
}

/// A peer whose whole path holds.
#[derive(Debug, Clone, PartialEq, Eq)]
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
    /// SHA-256 of the node CA's SubjectPublicKeyInfo.
    pub ca_key: Digest,
    /// Latest begin of a certificate of the path: the mesh's clock is at least there.
    pub not_before: Millis,
    /// End of the first certificate of the path to end; connections are closed then.
    pub not_after: Millis,
}

/// What a node CA's path says, for records' identity section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeCaFacts {
    /// The node.
    pub node: NodeId,
    /// Epoch of its grant.
    pub epoch: u64,
    /// Certificate and NodeGrant intersected.
    pub grant: Grant,
    /// The key that signs the node's records.
    pub record_key: PublicKey,
    /// SHA-256 of the node CA's SubjectPublicKeyInfo.
    pub ca_key: Digest,
    /// Begin of the node CA.
    pub not_before: Millis,
    /// End of the node CA.
    pub not_after: Millis,
}

/// The rule that a chain breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// Not leaf, node CA and enroller CA.
    #[error("a chain of {0} certificates")]
    Length(usize),
}

/// Verifies leaf, node CA and enroller CA (in this order, no root) under `authority`.
pub fn verify(_chain: &[CertificateDer<'_>], _authority: &Authority, _now: Millis) -> Result<Peer, VerifyError> {
    todo!()
}

/// The same rules for node CA and enroller CA without a leaf.
pub fn verify_ca(
    _chain: &[CertificateDer<'_>],
    _authority: &Authority,
    _now: Millis,
) -> Result<NodeCaFacts, VerifyError> {
    todo!()
}

/// As [`verify_ca`], for renewal: the node CA may have ended, all else must have held until its end and hold now.
pub fn verify_lapsed_ca(
    _chain: &[CertificateDer<'_>],
    _authority: &Authority,
    _now: Millis,
) -> Result<NodeCaFacts, VerifyError> {
    todo!()
}
