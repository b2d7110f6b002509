//! What needs attention anywhere.

use certs::id::NodeId;
use serde::{Deserialize, Serialize};

use super::Health;

/// `GET /v1/concerns`: what each node says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Concerns {
    /// Nodes that answered, this one among them.
    pub heard: Vec<NodeId>,
    /// Nodes that live and did not.
    pub silent: Vec<NodeId>,
    /// Nodes that live and cannot answer because they run another version.
    #[serde(default)]
    pub other_version: Vec<NodeId>,
    /// Nodes that live and were not asked: of a large mesh a sample is.
    #[serde(default)]
    pub unasked: usize,
    /// The worst first.
    pub problems: Vec<ProblemAt>,
    /// Endpoints that some node does without.
    pub ejected: Vec<EjectedBy>,
    /// Of each node that answered; what ends first comes first.
    pub certificates: Vec<CertificatesOf>,
}

/// A problem, and which nodes have it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProblemAt {
    /// How bad it is.
    pub severity: Health,
    /// A stable code.
    pub code: String,
    /// In words.
    pub message: String,
    /// What to do.
    pub hint: String,
    /// By name.
    pub nodes: Vec<NodeId>,
}

/// An endpoint that callers on a node do without.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EjectedBy {
    /// The node.
    pub node: NodeId,
    /// `NAMESPACE/NAME`.
    pub service: String,
    /// The endpoint.
    pub endpoint: String,
    /// Whose requests do without it.
    pub caller: String,
    /// What it met.
    pub reason: String,
    /// RFC 3339.
    pub until: String,
}

/// When certificates of a node end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificatesOf {
    /// The node.
    pub node: NodeId,
    /// Its own CA, RFC 3339.
    pub node_ca_expires: String,
    /// Its enroller CA.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub enroller_ca_expires: Option<String>,
}
