//! Evictions and revocations: which nodes, accounts and keys no longer count.
use std::collections::{HashMap, HashSet};
use crate::{id::{NodeId, ServiceAccount}, sign::Digest};
/// The union of all live Revocation documents.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Revocations {
    /// Evicted nodes: every epoch up to this one.
    pub nodes: HashMap<NodeId, u64>,
    /// Revoked accounts.
    pub accounts: HashSet<ServiceAccount>,
    /// SHA-256 of revoked SubjectPublicKeyInfos.
    pub keys: HashSet<Digest>,
}
