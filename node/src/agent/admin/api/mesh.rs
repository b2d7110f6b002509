//! The mesh as operators reach it: its keys and its nodes.

use certs::{
    id::{NodeId, TrustDomain},
    sign::Digest,
};
use serde::{Deserialize, Serialize};

use super::Out;

/// `GET /v1/mesh`: what operators need to know of a mesh.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mesh {
    /// Its name.
    pub trust_domain: TrustDomain,
    /// The answering node.
    pub node: NodeId,
    /// Id of the first RoleSet's changeset.
    pub genesis: Digest,
    /// Number of the RoleSet that counts now.
    pub role_set: u64,
    /// Who may sign.
    pub keys: Vec<Key>,
    /// The trust bundle, PEM.
    pub bundle: String,
    /// Nodes that live or lived.
    pub nodes: Vec<KnownNode>,
    /// Those that joined under the grant that they have now and were not seen since their certificates ended: their keys alone are known.
    #[serde(default)]
    pub joined: Vec<NodeId>,
    /// Who counts no more.
    #[serde(default)]
    pub out: Out,
}

/// A key of the RoleSet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key {
    /// Its holder.
    pub name: String,
    /// `ed25519:...`.
    pub public_key: String,
    /// Roles that name it.
    pub roles: Vec<String>,
    /// Whether it may sign RoleSets only.
    pub recovery: bool,
}

/// A node by which operators reach the mesh.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownNode {
    /// Its name.
    pub name: NodeId,
    /// `HOST:PORT`s.
    pub addresses: Vec<String>,
    /// Whether it may enrol others.
    pub enroller: bool,
    /// Whether the answering node sees it alive.
    pub alive: bool,
}
