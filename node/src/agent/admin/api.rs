//! What the admin interface answers: the fields of the JSON contract. Further fields may come, none goes.

mod history;

use std::collections::BTreeMap;

use certs::{
    grant::NodeGrant,
    id::{NodeId, ServiceAccount, TrustDomain},
    sign::Digest,
};
use serde::{Deserialize, Serialize};

pub use history::{Audit, HeardHead, Missing, Proposal};

/// How a node sees the mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// Nothing to say.
    Ok,
    /// Something needs a look.
    Degraded,
    /// Something does not work.
    Critical,
}

/// `GET /v1/status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The answering node.
    pub node: NodeId,
    /// Its mesh.
    pub trust_domain: TrustDomain,
    /// The worst of the problems.
    pub state: Health,
    /// What is wrong, worst first.
    pub problems: Vec<Problem>,
    /// How many nodes it sees.
    pub members: Seen,
    /// Where it stands with policy.
    pub policy: PolicyStatus,
    /// What ends when.
    pub certificates: Certificates,
    /// Resident memory of the process, bytes.
    pub memory_bytes: u64,
    /// Bytes a second sent to other nodes for membership, over the last seconds.
    pub gossip_bytes_per_s: u64,
}

/// Something to look at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// A stable word.
    pub code: String,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub hint: String,
    /// How bad it is: never `Ok`.
    pub severity: Health,
}

/// Members of the mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// Alive, this node included.
    pub seen: usize,
    /// Granted and neither evicted nor retired.
    pub expected: usize,
}

/// Policy as a node holds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyStatus {
    /// Of the set of changesets, hexadecimal.
    pub digest: String,
    /// Alive nodes that hold another set.
    pub stale: Vec<NodeId>,
}

/// Ends of certificates, RFC 3339.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificates {
    /// The node's own CA.
    pub node_ca_expires: String,
    /// The first leaf to end.
    pub leaf_expires: String,
    /// Enrollers alive.
    pub enrollers: usize,
}

/// One of `GET /v1/members`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Member {
    /// The node.
    pub name: NodeId,
    /// `alive`, `suspect`, `dead`, `left` or `evicted`.
    pub state: String,
    /// `HOST:PORT` where other nodes reach it; empty if not known.
    pub address: String,
    /// `REGION/ZONE`; empty if not given.
    pub locality: String,
    /// Of its software.
    pub version: String,
    /// When it came into this state, RFC 3339.
    pub since: String,
    /// True for the answering node.
    #[serde(rename = "self")]
    pub own: bool,
    /// Round trip to it, milliseconds, if there is a link.
    pub rtt_ms: Option<f64>,
    /// The set of changesets it says it holds, hexadecimal.
    pub policy: Option<String>,
}

/// `GET /v1/members/{node}`: who says what of a node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MemberDetail {
    /// What `members` says.
    #[serde(flatten)]
    pub member: Member,
    /// Start of its process as it counts it.
    pub generation: u64,
    /// Of its grant.
    pub epoch: u64,
    /// When its process started, RFC 3339.
    pub started: Option<String>,
    /// Who says what, on which path, since when.
    pub reports: Vec<Report>,
    /// What it offers, as it says.
    pub services: Vec<String>,
    /// What an operator granted.
    pub grant: Option<NodeGrant>,
}

/// One statement about a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Who says it.
    pub by: NodeId,
    /// What.
    pub says: String,
    /// How it came here.
    pub path: String,
    /// Since when, RFC 3339.
    pub since: String,
}

/// One of `GET /v1/services`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its ports.
    pub ports: Vec<Port>,
    /// How many endpoints there are.
    pub endpoints: usize,
    /// How many of them are healthy.
    pub healthy: usize,
    /// Whether so few are healthy that all are used.
    pub panic: bool,
}

/// A service port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// Its name.
    pub name: String,
    /// Its number.
    pub port: u16,
    /// What is spoken.
    pub protocol: String,
}

/// One of `GET /v1/endpoints`: an endpoint and one of its ports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Name of the service.
    pub service: String,
    /// Its namespace.
    pub namespace: String,
    /// The node it runs on.
    pub node: NodeId,
    /// Where that node is reached.
    pub address: String,
    /// The service port.
    pub port: u16,
    /// Labels that subsets read.
    pub labels: BTreeMap<String, String>,
    /// Whose identity it has.
    pub account: ServiceAccount,
    /// Its share among its like.
    pub weight: u32,
    /// `healthy` or `unhealthy`.
    pub health: String,
    /// Why, where it is not healthy.
    pub reason: String,
    /// What outlier detection makes of it: `none`.
    pub outlier: String,
    /// `NODE/NAMESPACE/NAME[/INSTANCE]`.
    pub id: String,
}

/// One of `GET /v1/routes`: where one rule of a host sends requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// The host that requests name.
    pub host: String,
    /// `KIND NAMESPACE/NAME` of the document; none for the service's default route.
    pub document: Option<String>,
    /// Name or place of the rule.
    pub rule: String,
    /// What happens: destinations with weights, a redirect, an answer.
    pub action: String,
}

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

/// `POST /v1/policy/plan`: what a push of these documents needs to know.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The mesh.
    pub trust_domain: TrustDomain,
    /// Number of the RoleSet that counts now.
    pub role_set: u64,
    /// Live values of each document, in the order asked: changesets, hexadecimal.
    pub live: Vec<Vec<String>>,
    /// Depth that each document will have.
    pub versions: Vec<u64>,
    /// Complaints across documents, as `policy lint` writes them.
    pub problems: Vec<serde_json::Value>,
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
    pub proposal: Option<Proposal>,
}

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

/// One of `GET /v1/identities`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// `spiffe://...`.
    pub id: String,
    /// The name in TLS.
    pub dns_name: String,
    /// RFC 3339.
    pub not_before: String,
    /// RFC 3339.
    pub not_after: String,
    /// The certificates, leaf first, PEM.
    pub chain: String,
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

/// One of `GET /v1/local/services`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalService {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Tells two of one service on this node apart.
    pub instance: Option<String>,
    /// Whose identity it has.
    pub account: ServiceAccount,
    /// Labels that subsets read.
    pub labels: BTreeMap<String, String>,
    /// Its ports.
    pub ports: Vec<Port>,
    /// `healthy` or `unhealthy`.
    pub health: String,
    /// Why, where it is not healthy.
    pub reason: String,
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
