//! What is answered about policy: documents, their history, what is pushed and by whom it is held.

use certs::id::{NodeId, TrustDomain};
use serde::{Deserialize, Serialize};

use super::Party;

/// One of `GET /v1/policy`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Document {
    /// Its kind.
    pub kind: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// How deep its history is.
    pub version: u64,
    /// The changeset that set it.
    pub changeset: String,
    /// Who signed that.
    pub authors: Vec<String>,
    /// When, RFC 3339.
    pub time: String,
}

/// `GET /v1/policy/{kind}/{namespace}/{name}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Content {
    /// What `list` says of it.
    pub summary: Document,
    /// The document.
    pub document: serde_json::Value,
    /// Why this build cannot apply it.
    pub problem: Option<String>,
    /// Changesets whose value lives beside this one.
    pub conflicts: Vec<String>,
}

/// One of `GET /v1/policy/log`, newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogEntry {
    /// Its id, hexadecimal.
    pub changeset: String,
    /// The changesets whose values it replaced.
    pub replaces: Vec<String>,
    /// Who signed it.
    pub authors: Vec<String>,
    /// When, RFC 3339.
    pub time: String,
    /// Why, as the author says.
    pub message: String,
    /// `KIND NAMESPACE/NAME` of what it sets; what it deletes has a `-` before it.
    pub documents: Vec<String>,
    /// Until when it counts without confirmation, RFC 3339; none if it is not on trial.
    #[serde(default)]
    pub confirm_by: Option<String>,
    /// `open`, `confirmed` or `over`; none if it is not on trial.
    #[serde(default)]
    pub trial: Option<String>,
}

/// One of `GET /v1/policy/conflicts`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conflict {
    /// `values` (several are live), `role_sets` (several follow the one in force) or `unreadable` (by this build).
    pub conflict: String,
    /// The document's kind.
    pub kind: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The changeset whose value is in effect; none if nothing is.
    pub in_effect: Option<String>,
    /// The values concerned.
    pub values: Vec<ConflictValue>,
    /// Commands that settle it: the first keeps what is in effect.
    pub settle: Vec<String>,
}

/// A live value of a document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConflictValue {
    /// The changeset that set it.
    pub changeset: String,
    /// Who signed that.
    pub authors: Vec<String>,
    /// When, RFC 3339.
    pub time: String,
    /// Why, as the author says.
    pub message: String,
    /// How deep its history is.
    pub version: u64,
    /// Whether it deletes the document.
    pub deleted: bool,
    /// Why this build cannot read it.
    pub problem: Option<String>,
    /// Whether requests follow it.
    pub in_effect: bool,
}

/// A document that someone wants to push: what a node is asked of before anything is signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    /// Its kind.
    pub kind: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// What it shall be; none deletes it.
    pub content: Option<String>,
    /// Where the author wrote it, for complaints.
    #[serde(default)]
    pub file: String,
    /// First line there.
    #[serde(default)]
    pub line: usize,
}

/// `POST /v1/policy/plan?signer=KEY`: what a push of these documents needs to know; with a key also what becomes of them because of
/// its roles.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The mesh.
    pub trust_domain: TrustDomain,
    /// Number of the RoleSet that counts now.
    pub role_set: u64,
    /// Live values of each document, in the order asked: changesets, hexadecimal.
    pub live: Vec<Vec<String>>,
    /// Those that the same push must replace, too, although they have expired and yielded to what is live.
    #[serde(default)]
    pub yielded: Vec<Vec<String>>,
    /// Depth that each document will have.
    pub versions: Vec<u64>,
    /// Complaints across documents, as `policy lint` writes them.
    pub problems: Vec<serde_json::Value>,
    /// Signed changesets that set documents to what is asked for, base64: these stand so already. None of them if they are many.
    #[serde(default)]
    pub standing: Vec<String>,
}

/// `POST /v1/policy/preview`: what a push of these documents would change.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Preview {
    /// Each document, in the order asked.
    pub documents: Vec<DocumentChange>,
    /// Services some of whose routes or workloads change: `NAMESPACE/NAME`; other hosts, too.
    pub services: Vec<String>,
    /// Nodes that run callers or endpoints of these services, or open a gateway that changes.
    pub nodes: Vec<AffectedNode>,
    /// What changes for which callers.
    pub routes: Vec<RouteChange>,
    /// What changes for those who are called; an older node does not tell.
    pub workloads: Option<Vec<WorkloadChange>>,
    /// How far was looked for callers in plaintext, if some will be refused.
    #[serde(default)]
    pub plaintext_seen: Option<PlaintextSeen>,
    /// What this node cannot tell, a sentence for each document; whom that concerns is not among the others. An older node knows of
    /// nothing else.
    pub not_reckoned: Option<Vec<String>>,
    /// Complaints across documents, as `policy lint` writes them; `refuses` where a push is refused.
    pub problems: Vec<serde_json::Value>,
}

/// What would become of one document.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DocumentChange {
    /// Its kind.
    pub kind: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// `set`, `changed`, `deleted` or `unchanged`.
    pub change: String,
    /// The changeset that set what is in effect.
    pub changeset: Option<String>,
    /// What is in effect.
    pub before: Option<serde_json::Value>,
    /// What would be; none: it is deleted.
    pub after: Option<serde_json::Value>,
}

/// A node that a push concerns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AffectedNode {
    /// The node.
    pub node: NodeId,
    /// Whether callers run there.
    pub calls: bool,
    /// Whether endpoints run there.
    pub serves: bool,
    /// Whether it opens a gateway that changes.
    #[serde(default)]
    pub opens: bool,
}

/// What changes for workloads of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkloadChange {
    /// `NAMESPACE/NAME`.
    pub service: String,
    /// Nodes that run them.
    pub nodes: Vec<NodeId>,
    /// What is other, in words: `authorization`, `mutual TLS`, `tokens`, `rate limits`, `access log`, `traces`, `metrics`,
    /// `settings of the mesh`, `gateway`.
    pub changes: Vec<String>,
    /// Whether the mode of mutual TLS refuses plaintext then that it takes now; whether they have a port for it is not looked at.
    pub refuses_plaintext: bool,
    /// Who came in plaintext in the time of [`PlaintextSeen`], where it is refused then.
    pub plaintext: Vec<PlaintextCaller>,
}

/// How far was looked for callers in plaintext.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlaintextSeen {
    /// How far back, seconds; 900 at most.
    pub window_s: u64,
    /// Requests and connections of pairs that nodes had no room to keep apart: any of them may have come in plaintext.
    pub left_out: u64,
}

/// A caller in plaintext.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlaintextCaller {
    /// Who; `unknown` outside the mesh.
    pub from: Party,
    /// Its requests.
    pub requests: u64,
    /// Its connections of bytes.
    pub connections: u64,
}

/// What changes for requests to a service, or to a host that is none and that documents route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteChange {
    /// `NAMESPACE/NAME`, or the host.
    pub service: String,
    /// Namespaces of the callers.
    pub from: Vec<String>,
    /// Rule by rule.
    pub changes: Vec<RuleChange>,
}

/// What changes under some conditions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleChange {
    /// The conditions.
    pub when: String,
    /// What happens now; none if there is no such rule.
    pub before: Option<String>,
    /// What would happen; none if the rule goes.
    pub after: Option<String>,
}

/// `POST /v1/policy`: who has the push.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pushed {
    /// Its id, hexadecimal.
    pub changeset: String,
    /// Nodes that have it on disk.
    pub durable: Vec<NodeId>,
    /// Nodes whose traffic follows it.
    pub applied: Vec<NodeId>,
    /// Nodes that have it and whose build cannot read all of it.
    #[serde(default)]
    pub unreadable: Vec<NodeId>,
    /// Alive nodes that have said nothing yet.
    pub pending: Vec<NodeId>,
    /// Nodes that the asked node does not reach.
    pub unreachable: Vec<NodeId>,
    /// Whether what was waited for came in time.
    pub complete: bool,
    /// From arrival to this answer, milliseconds.
    pub elapsed_ms: u64,
    /// What the nodes signed, base64.
    pub receipts: Vec<String>,
    /// Who must still sign, if it does not count yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proposal: Option<super::Proposal>,
}

/// `GET /v1/policy/changesets/{id}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChangesetDetail {
    /// What the log says of it.
    #[serde(flatten)]
    pub entry: LogEntry,
    /// Number of the RoleSet under which it was signed.
    pub role_set: u64,
    /// What it changes.
    pub changes: Vec<Change>,
}

/// What a changeset does to one document.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// Its kind.
    pub kind: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// What it becomes; none: it is deleted.
    pub document: Option<serde_json::Value>,
    /// The changesets whose value it replaces.
    pub replaces: Vec<String>,
}

/// `GET /v1/policy/changesets/{id}/proof` and `GET /v1/policy/proof/{kind}/{namespace}/{name}`: what operators signed, so
/// that no node's word is taken for what the next signature rests on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// Signed changesets in base64, RoleSets included, in any order.
    pub changesets: Vec<String>,
}

/// `GET /v1/policy/changesets/{id}/spread`: who has a changeset, as far as the asked node has heard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spread {
    /// The changeset in full.
    pub changeset: String,
    /// Alive nodes that have it.
    pub there: Vec<NodeId>,
    /// Alive nodes that have not said so.
    pub missing: Vec<NodeId>,
}
