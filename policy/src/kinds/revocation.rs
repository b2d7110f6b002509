//! `Revocation`: nodes evicted, accounts and keys revoked. All live ones add up.

use std::collections::{BTreeMap, BTreeSet};

use certs::{
    id::{NodeId, ServiceAccount},
    sign::Digest,
};

use crate::{
    codes,
    decode::At,
    document::{DocumentId, Kind},
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

/// The name of the document by which one key is revoked.
pub fn key_document(key: &Digest) -> String {
    let key = key.to_string();
    let (first, second) = key.split_at(key.len() / 2);
    // A label has at most 63 characters.
    format!("key.{first}.{second}")
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

impl Revocation {
    pub(crate) fn decode(spec: &At<'_>) -> Option<Revocation> {
        let fields = spec.fields()?;
        let mut revocation = Revocation::default();
        for name in ["nodes", "evictions"] {
            for item in fields
                .get(name)
                .map(|nodes| Vec::from_iter(nodes.items().iter().filter_map(eviction)))
                .unwrap_or_default()
            {
                let (node, epoch) = item;
                let highest = revocation.nodes.entry(node).or_insert(epoch);
                *highest = epoch.max(*highest);
            }
        }
        if let Some(accounts) = fields.get("accounts") {
            revocation.accounts = parsed(&accounts, "a service account (NAMESPACE/NAME)");
        }
        if let Some(keys) = fields.get("keys") {
            revocation.keys = parsed(&keys, "a SHA-256 of a public key (64 hexadecimal digits)");
        }
        fields.finish();
        Some(revocation)
    }
}

fn eviction(at: &At<'_>) -> Option<(NodeId, u64)> {
    let fields = at.fields()?;
    let name = fields.required("name").and_then(|name| {
        let node = NodeId::new(name.text()?);
        if let Err(error) = &node {
            name.error(codes::GRANT, error.to_string());
        }
        node.ok()
    });
    let epoch = fields
        .required("epoch")
        .and_then(|epoch| epoch.integer(0..=i64::MAX))
        .and_then(|epoch| u64::try_from(epoch).ok());
    fields.finish();
    Some((name?, epoch?))
}

fn parsed<T: std::str::FromStr + Ord>(list: &At<'_>, what: &str) -> BTreeSet<T> {
    let parse = |(text, at): &(&str, At<'_>)| {
        let value = text.parse().ok();
        if value.is_none() {
            at.error(codes::GRANT, format!("`{text}` is not {what}"));
        }
        value
    };
    list.text_list().iter().filter_map(parse).collect()
}
