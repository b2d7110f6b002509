//! `Revocation`: nodes evicted, accounts and keys revoked. All live ones add up.

use std::collections::{BTreeMap, BTreeSet};

use crate::document::{DocumentId, Kind};
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

impl Revocation {
    /// The document of this name that holds the revocation, and its body.
    pub fn body(&self, name: &str) -> (DocumentId, String) {
        let id = DocumentId::mesh_wide(Kind::Revocation, name);
        let nodes: Vec<_> =
            self.nodes.iter().map(|(node, epoch)| serde_json::json!({"name": node.as_str(), "epoch": epoch})).collect();
        let accounts: Vec<_> = self.accounts.iter().map(ToString::to_string).collect();
        let keys: Vec<_> = self.keys.iter().map(ToString::to_string).collect();
        let body = super::body(&id, serde_json::json!({"nodes": nodes, "accounts": accounts, "keys": keys}));
        (id, body)
    }
}
