//! What the admin interface answers: the fields of the JSON contract. Further fields may come, none goes.

mod captures;
mod concerns;
mod connections;
mod events;
mod explain;
mod history;
mod listeners;
mod mesh;
mod out;
mod policy;
mod traffic;

use std::collections::BTreeMap;

use certs::{
    grant::{Grant, NodeGrant},
    id::{NodeId, ServiceAccount, TrustDomain},
};
use serde::{Deserialize, Serialize};

pub use captures::{Capture, Inbound};
pub use concerns::{CertificatesOf, Concerns, EjectedBy, ProblemAt};
pub use connections::NodeConnections;
pub use events::Event;
pub use explain::{
    Answer, Ask, AtGateway, Authorization, Caller, Candidate, Effective, Ejections, Explanation, Fault, PoolSizes,
    Retries, Target,
};
pub use history::{Audit, HeardHead, Missing, Proposal, Signed};
pub use listeners::{OpenGateway, Plaintext};
pub use mesh::{Key, KnownNode, Mesh};
pub use out::Out;
pub use policy::{
    AffectedNode, Change, ChangesetDetail, Conflict, ConflictValue, Content, Document, DocumentChange, Intent,
    LogEntry, PlaintextCaller, PlaintextSeen, Plan, Preview, Proof, Pushed, RouteChange, RuleChange, Spread,
    WorkloadChange,
};
pub use traffic::{Connections, Edge, Party, Targets, Traffic};

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
    /// Where a change of the root stands.
    #[serde(default)]
    pub root: RootChange,
    /// This machine's clock beside the mesh's.
    #[serde(default)]
    pub clock: ClockFacts,
    /// Milliseconds by which `--clock-offset` moved the node's clock; 0 outside of tests.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub clock_offset_ms: i64,
    /// Ports that Gateways have open at this node.
    #[serde(default)]
    pub gateways: Vec<OpenGateway>,
    /// Ports at which this node's services take callers outside the mesh, if PeerAuthentication lets them.
    #[serde(default)]
    pub plaintext: Vec<Plaintext>,
    /// Connections with other nodes, and what is under way on them.
    #[serde(default)]
    pub connections: NodeConnections,
    /// Resident memory of the process, bytes.
    pub memory_bytes: u64,
    /// Bytes a second sent to other nodes for membership, over the last seconds.
    pub gossip_bytes_per_s: u64,
    /// The same by lane: `liveness`, `policy`, `health`, `services`, `rest`.
    pub gossip_lanes: BTreeMap<String, u64>,
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

fn is_zero(number: &i64) -> bool {
    *number == 0
}

/// A machine's clock beside the times that its peers sign.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockFacts {
    /// Milliseconds by which it is ahead of the median of peers, negative behind it; none before one has answered.
    pub drift_ms: Option<i64>,
    /// Peers that the median is of.
    pub peers: usize,
    /// The drift from which on the node reports itself, milliseconds.
    pub bound_ms: u64,
    /// The latest time that certificates of other nodes have proven, RFC 3339; absent before any has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proven: Option<String>,
}

/// Where the change of the root stands, as this node knows it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootChange {
    /// `steady`, `distributing` or `issuing`.
    pub phase: String,
    /// Whether nothing of this node rests on a root that retires.
    pub settled: bool,
    /// Connections of this node that do; absent until they are counted, and where no root retires.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resting: Option<usize>,
    /// When the root ends from which certificates are issued, RFC 3339.
    pub root_expires: String,
}

/// Ends of certificates, RFC 3339.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificates {
    /// The node's own CA.
    pub node_ca_expires: String,
    /// Its begin.
    #[serde(default)]
    pub node_ca_begins: String,
    /// The first leaf to end.
    pub leaf_expires: String,
    /// Enrollers alive.
    pub enrollers: usize,
    /// This node's enroller CA, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enroller_ca_expires: Option<String>,
    /// What the root of that is good for: `next`, `issuing`, `retiring` or `withdrawn`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enroller_root: Option<String>,
}

/// One of `GET /v1/members`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Member {
    /// The node.
    pub name: NodeId,
    /// `alive`, `suspect`, `dead`, `left`, `evicted` or `quarantined`.
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
    /// Whether operators let it enrol others and certify nodes anew.
    #[serde(default)]
    pub enroller: bool,
    /// Round trip to it, milliseconds, if there is a link.
    pub rtt_ms: Option<f64>,
    /// The share of probes over that link that got no answer while it lived, from 0 to 1.
    #[serde(default)]
    pub loss: Option<f64>,
    /// Asked for with `reach`: whom it has links with, and the round trips in milliseconds; absent if it did not answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reaches: Option<BTreeMap<NodeId, f64>>,
    /// Asked for with `reach`: true if it was not asked, because it is not alive or the mesh has more nodes than are asked.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unasked: bool,
    /// Asked for with `reach`: true if it cannot answer because it runs another version.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub other_version: bool,
    /// The set of changesets it says it holds, hexadecimal.
    pub policy: Option<String>,
    /// Connections of the answering node with it.
    #[serde(default)]
    pub connections: NodeConnections,
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
    /// How what `by` says comes here.
    pub path: String,
    /// Since when this node has known it, RFC 3339.
    pub since: String,
}

/// `GET /v1/ping/{node}`: one question to a node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ping {
    /// Whom.
    pub node: NodeId,
    /// `quic` or `tcp`; empty if there is no link.
    pub carrier: String,
    /// `HOST:PORT` of its end of the link.
    pub remote: String,
    /// How long the answer took, milliseconds; null if it is lost.
    pub rtt_ms: Option<f64>,
    /// Why it is lost.
    pub lost: Option<String>,
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
    /// The document that makes it, if a ServiceEntry does: `name` is a host then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entry: Option<String>,
    /// It has no endpoints of its own: what each request names is looked up when it comes.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub by_name: bool,
    /// Limits of connection pools that requests for it met at the node that answers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub overflows: Vec<Overflow>,
}

/// A limit of a connection pool that was met.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overflow {
    /// The service whose calls are counted; what calls the application where the pool is in front of that.
    pub caller: String,
    /// The cluster, in Envoy's naming.
    pub cluster: String,
    /// `connections`, `pending`, `requests` or `retries`.
    pub limit: String,
    /// How many of it there are now.
    pub under_way: u32,
    /// How often it was met since the node started: with `connections` an HTTP request may wait then, all else is refused.
    pub met: u64,
}

/// A service port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// Its name.
    pub name: String,
    /// Its number.
    pub port: u16,
    /// What is spoken; empty where nothing is declared.
    pub protocol: String,
}

/// One of `GET /v1/endpoints`: an endpoint and one of its ports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Name of the service.
    pub service: String,
    /// Its namespace.
    pub namespace: String,
    /// The node it runs on; none of one outside the mesh.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeId>,
    /// Where that node is reached, or the endpoint itself.
    pub address: String,
    /// The service port.
    pub port: u16,
    /// Labels that subsets read.
    pub labels: BTreeMap<String, String>,
    /// Whose identity it has; nobody's outside the mesh.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<ServiceAccount>,
    /// Its share among its like.
    pub weight: u32,
    /// `healthy` or `unhealthy`.
    pub health: String,
    /// Why, where it is not healthy.
    pub reason: String,
    /// What outlier detection makes of it: `none`, or `ejected` where a service of the answering node does without it.
    pub outlier: String,
    /// `NODE/NAMESPACE/NAME[/INSTANCE]`; outside the mesh `HOST/ADDRESS:PORT[,PORT]...`.
    pub id: String,
}

/// One of `GET /v1/limits`: a rule of a RateLimit at a service of the answering node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Limit {
    /// `NAMESPACE/NAME[/INSTANCE]`.
    pub service: String,
    /// The document.
    pub document: String,
    /// The rule of it.
    pub rule: String,
    /// What tells callers apart, separated by commas; empty if nothing does.
    pub key: String,
    /// `node` or `mesh`.
    pub scope: String,
    /// Requests in an interval.
    pub limit: u32,
    /// Milliseconds.
    pub interval_ms: u64,
    /// Requests that may come at once.
    pub burst: u32,
    /// What of `limit` this node lets through now; where `key` is not empty, of a key that nobody asks about.
    pub share: f64,
    /// Nodes that keep the limit together, this one among them; 1 where each keeps its own.
    #[serde(default)]
    pub nodes: usize,
    /// Keys of a limit of the mesh that are asked about here.
    #[serde(default)]
    pub keys: Option<usize>,
    /// Requests let in since the node started.
    pub admitted: u64,
    /// Those answered 429.
    pub refused: u64,
}

/// One of `GET /v1/outliers`: an endpoint that fails for a caller of the answering node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outlier {
    /// `NAMESPACE/NAME`.
    pub service: String,
    /// `NODE/NAMESPACE/NAME[/INSTANCE]`.
    pub endpoint: String,
    /// `ejected`: the caller does without it. `spared`: it is used all the same, because no further one may be out.
    pub state: String,
    /// The field of `outlierDetection` whose limit it met.
    pub reason: String,
    /// Why it is not ejected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spared_by: Option<String>,
    /// Nodes that report it, too.
    pub witnesses: Vec<String>,
    /// It returns at the first sweep from then on, or is no longer called spared unless it meets the limit again; RFC 3339.
    pub until: String,
    /// Who calls it: `NAMESPACE/NAME[/INSTANCE]`.
    pub caller: String,
    /// Envoy's name of the cluster: `outbound|PORT|SUBSET|HOST`.
    pub cluster: String,
    /// How often it was ejected of late.
    pub times: u32,
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
    /// Where the document's rules are looked at: `mesh`, which is callers in the mesh, and Gateways, `NAMESPACE/NAME`.
    #[serde(default)]
    pub gateways: Vec<String>,
    /// The namespaces of callers for whom it counts; `*` is all.
    #[serde(default)]
    pub export_to: Vec<String>,
}

/// `POST /v1/ca/request`: a request for a node's enroller CA, and what its certificate must say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrollerRequest {
    /// The node.
    pub node: NodeId,
    /// Of its grant.
    pub epoch: u64,
    /// How long the certificate is to live, seconds.
    pub life_s: u64,
    /// PKCS#10, PEM.
    pub request: String,
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
    /// SHA-256 of the leaf's SubjectPublicKeyInfo, as `skein revoke --key` takes it.
    #[serde(default)]
    pub public_key: String,
    /// What its node may be now: what its CA's certificate says as far as operators grant it today; null where nothing is granted.
    #[serde(default)]
    pub effective: Option<Grant>,
    /// The certificates, leaf first, PEM.
    pub chain: String,
    /// The local user whose application was given it by the Workload API; null where this node holds the key.
    pub uid: Option<u32>,
    /// The root that they rest on, as `skein ca rotate status` names it; empty if it is none that this mesh has or had.
    #[serde(default)]
    pub root: String,
    /// What that root is good for: `issuing`, `next`, `retiring` or `withdrawn`.
    #[serde(default)]
    pub root_state: String,
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
