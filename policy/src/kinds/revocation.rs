//! `Revocation`: nodes evicted, accounts and keys revoked. All live ones add up.

use std::collections::{BTreeMap, BTreeSet};

use certs::{
    id::{NodeId, ServiceAccount},
    sign::Digest,
};

/// `Revocation`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Revocation {
    /// Evicted: every epoch of the node up to this one.
    pub nodes: BTreeMap<NodeId, u64>,
    /// Accounts whose identities no longer count.
    pub accounts: BTreeSet<ServiceAccount>,
    /// SHA-256 of public keys (SubjectPublicKeyInfo) that no longer count.
    pub keys: BTreeSet<Digest>,
}
