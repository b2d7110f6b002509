//! Answers about proposals and the audit chain.

use certs::{id::NodeId, sign::Digest};
use serde::{Deserialize, Serialize};

use crate::agent::store::{AuditEntry, AuditHead};

/// One of `GET /v1/policy/proposals`: a changeset that waits for signatures.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposal {
    /// Its id, hexadecimal.
    pub changeset: String,
    /// `KIND NAMESPACE/NAME` of what it would set; what it would delete has a `-` before it.
    pub documents: Vec<String>,
    /// Who has signed it.
    pub signed: Vec<String>,
    /// Who must still sign: all of these are to be met.
    pub missing: Vec<Missing>,
    /// When it was made, RFC 3339.
    pub time: String,
    /// Until when it may be signed, RFC 3339.
    pub until: String,
    /// Why, as the author says.
    pub message: String,
    /// Why it cannot be signed any more, if so.
    pub stale: Option<String>,
}

/// So many of these keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    /// How many.
    pub count: usize,
    /// Names of keys.
    pub of: Vec<String>,
}

/// `GET /v1/policy/audit?from=N`: a part of the chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Audit {
    /// Whose.
    pub node: NodeId,
    /// The head as the node noted it with its last entry.
    pub noted: AuditHead,
    /// Entries from N on, as many as one answer holds; none at the end.
    pub entries: Vec<AuditEntry>,
}

/// `GET /v1/policy/history?from=N`: what operators signed from the Nth on, in the order in which it came.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signed {
    /// Signed changesets and approvals in base64; changesets without bodies where their heads say enough.
    pub changesets: Vec<String>,
    /// Where the next page begins; none at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<usize>,
}

/// One of `GET /v1/policy/audit/heads`: the longest chain that the answering node heard of another, since it started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeardHead {
    /// Whose chain.
    pub node: NodeId,
    /// Its length.
    pub count: u64,
    /// Digest of the last entry.
    pub digest: Digest,
}
