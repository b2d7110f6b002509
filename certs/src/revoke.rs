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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn revocations() -> impl Strategy<Value = Revocations> {
        let nodes = prop::collection::hash_map("[a-c]".prop_map(|n| NodeId::new(&n).unwrap()), 0u64..5, 0..4);
        let accounts = prop::collection::hash_set("[a-c]".prop_map(|n| ServiceAccount::new("shop", &n).unwrap()), 0..3);
        let keys = prop::collection::hash_set(any::<[u8; 1]>().prop_map(|b| Digest::of(&b)), 0..3);
        (nodes, accounts, keys).prop_map(|(nodes, accounts, keys)| Revocations { nodes, accounts, keys })
    }

    fn merged(parts: &[&Revocations]) -> Revocations {
        let mut all = Revocations::default();
        parts.iter().for_each(|part| all.merge(part));
        all
    }

    proptest! {
        #[test]
        fn merging_knows_no_order(a in revocations(), b in revocations(), c in revocations()) {
            prop_assert_eq!(merged(&[&a, &b, &c]), merged(&[&c, &a, &b, &a]));
        }

        #[test]
        fn merging_forgets_nothing(a in revocations(), b in revocations()) {
            let all = merged(&[&a, &b]);
            for (node, epoch) in a.nodes.iter().chain(&b.nodes) {
                prop_assert!(all.evicted(node, *epoch));
            }
            prop_assert!(a.accounts.iter().chain(&b.accounts).all(|account| all.account_revoked(account)));
            prop_assert!(a.keys.iter().chain(&b.keys).all(|key| all.key_revoked(key)));
        }
    }

    #[test]
    fn an_eviction_ends_at_its_epoch() {
        let mut revocations = Revocations::default();
        let node = NodeId::new("web-1").unwrap();
        revocations.evict(node.clone(), 3);
        revocations.evict(node.clone(), 1);
        assert!(revocations.evicted(&node, 0) && revocations.evicted(&node, 3));
        assert!(!revocations.evicted(&node, 4));
    }
}
