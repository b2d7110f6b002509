//! Which identities and services a node may have.

use crate::{codec::Millis, id::{NodeId, ServiceAccount, ServiceName}, sign::{Digest, PublicKey}};

/// `*`, `NAMESPACE/*` or `NAMESPACE/NAME`; shown so.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub enum Pattern {
    /// Everything (enrollers only).
    All,
    /// All of a namespace.
    Namespace(String),
    /// Just this one.
    Exact(String, String),
}

/// The bound that a CA certificate carries in its private non-critical extension.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Grant {
    /// The node whose CA this is.
    pub node: NodeId,
    /// Raised by each invite of the name.
    pub epoch: u64,
    /// Accounts for which the CA may issue leafs.
    pub accounts: Vec<Pattern>,
    /// Services that the node may register.
    pub services: Vec<Pattern>,
    /// The Ed25519 key that signs the node's records; absent in an enroller CA.
    pub record_key: Option<PublicKey>,
    /// True for an enroller CA: it may issue node CAs.
    pub enroller: bool,
}

/// What an operator signed for a node: the content of a `NodeGrant` document. A CA counts only with one.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NodeGrant {
    /// The node; equals the document's name.
    pub node: NodeId,
    /// The highest epoch owns the name.
    pub epoch: u64,
    /// Services that it may register, each with the account that serves it.
    pub services: Vec<GrantedService>,
    /// SHA-256 of the token's secret; absent for the first node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_hash: Option<Digest>,
    /// The one enroller that may redeem the token; absent for the first node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redeemer: Option<NodeId>,
    /// When the token ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_expires: Option<Millis>,
    /// True if the node is an enroller itself.
    #[serde(default)]
    pub enroller: bool,
    /// True once the node left or was retired: it is no longer expected and its CA no longer counts.
    #[serde(default)]
    pub retired: bool,
}

/// `NS/NAME[=SA]` of a grant.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GrantedService {
    /// The service.
    pub service: ServiceName,
    /// Its account; the account `default` of the service's namespace if not given.
    pub account: ServiceAccount,
}

// API: Pattern: Display/FromStr, covers(ns,name), is_subset_of(&Pattern)
// Grant: allows_account(&ServiceAccount), allows_service(&ServiceName), is_subset_of(&Grant) (node name equal unless parent is an enroller), to_der()/from_der (extension bytes)
// NodeGrant: effective(&self, cert: &Grant) -> Grant (intersection), accounts() iterator
// GrantedService: FromStr/Display "NS/NAME[=SA]"  (SA is in the service's namespace)
