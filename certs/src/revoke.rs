//! Evictions and revocations: which nodes, accounts and keys no longer count.

use std::collections::{HashMap, HashSet};

use crate::{
    id::{NodeId, ServiceAccount},
    sign::Digest,
};

/// The union of all live Revocation documents.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Revocations {
    /// Evicted nodes: every epoch up to this one.
    pub nodes: HashMap<NodeId, u64>,
    /// Revoked accounts.
    pub accounts: HashSet<ServiceAccount>,
    /// SHA-256 of revoked SubjectPublicKeyInfos (a key, never a certificate's fingerprint: that is malleable).
    pub keys: HashSet<Digest>,
}

impl Revocations {
    /// Evicts every epoch of `node` up to `epoch`; merged by maximum.
    pub fn evict(&mut self, node: NodeId, epoch: u64) {
        let highest = self.nodes.entry(node).or_insert(epoch);
        *highest = epoch.max(*highest);
    }

    /// Takes in all that `other` revokes.
    pub fn merge(&mut self, other: &Revocations) {
        for (node, epoch) in &other.nodes {
            self.evict(node.clone(), *epoch);
        }
        self.accounts.extend(other.accounts.iter().cloned());
        self.keys.extend(other.keys.iter().copied());
    }

    /// True if this incarnation of the node is evicted.
    pub fn evicted(&self, node: &NodeId, epoch: u64) -> bool {
        self.nodes.get(node).is_some_and(|highest| epoch <= *highest)
    }

    /// True if the account is revoked.
    pub fn account_revoked(&self, account: &ServiceAccount) -> bool {
        self.accounts.contains(account)
    }

    /// True if the key with this SHA-256 of its SubjectPublicKeyInfo is revoked.
    pub fn key_revoked(&self, key: &Digest) -> bool {
        self.keys.contains(key)
    }
}
