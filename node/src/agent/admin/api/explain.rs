//! What is answered about one request: where it would go, and why.

use std::collections::BTreeMap;

use certs::id::NodeId;
use serde::{Deserialize, Serialize};

/// `GET /v1/explain`: what this node's proxy would do with a request, or with a connection.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    /// The service that the request addresses, `NAMESPACE/NAME`; none if the name means none (a VirtualService may route it all
    /// the same).
    pub service: Option<String>,
    /// The document whose rule it meets, `KIND NAMESPACE/NAME`; none for the default route.
    pub document: Option<String>,
    /// Name or place of the rule.
    pub rule: Option<String>,
    /// Line of the rule in the file that was pushed.
    pub line: Option<usize>,
    /// Where it goes; of several the one with the greatest weight.
    pub destination: Option<Target>,
    /// Envoy's name of the destination: `outbound|PORT|SUBSET|HOST`.
    pub cluster: Option<String>,
    /// Envoy's name of the virtual host: `HOST:PORT`.
    pub virtual_host: Option<String>,
    /// What is retried; none where nothing is forwarded.
    pub retries: Option<Retries>,
    /// Of the whole request, milliseconds; none means none.
    pub timeout_ms: Option<u64>,
    /// What is injected before it is forwarded.
    pub fault: Option<Fault>,
    /// Whether the endpoints let the caller in.
    pub authorization: Authorization,
    /// The endpoints of all destinations, and which may be chosen.
    pub endpoints: Vec<Candidate>,
    /// Every destination, with its share.
    pub destinations: Vec<Target>,
    /// The answer where no endpoint gives it; none if one does.
    pub answer: Option<Answer>,
    /// Where it comes in, of a client outside the mesh.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<AtGateway>,
    /// Path and query after the rewrite.
    pub path: Option<String>,
    /// The caller as it was taken.
    pub from: Caller,
    /// The node that answers.
    pub node: NodeId,
}

impl Explanation {
    /// Whether anybody judged the caller: where no endpoint may be chosen, none does.
    #[must_use]
    pub fn is_judged(&self) -> bool {
        self.endpoints.iter().any(|endpoint| endpoint.candidate) || self.authorization.verdict != "allow"
    }
}

/// Where a client's request comes in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AtGateway {
    /// The Gateway, `NAMESPACE/NAME`.
    pub name: String,
    /// The port as documents name it.
    pub port: u16,
}

/// One destination of a route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// The host in full.
    pub host: String,
    /// The service port.
    pub port: u16,
    /// The subset; none means all endpoints.
    pub subset: Option<String>,
    /// Its share of requests, percent.
    pub percent: u64,
    /// Envoy's name of it.
    pub cluster: String,
    /// What DestinationRules come to for the caller; none from a node that does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination_rule: Option<Effective>,
}

/// What holds for a caller's traffic to a destination.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Effective {
    /// The documents that say so, `KIND NAMESPACE/NAME`; none where all is by default.
    pub documents: Vec<String>,
    /// How an endpoint is chosen, in the words of `loadBalancer`: of `simple`, or `consistentHash`.
    pub load_balancer: String,
    /// How much at once.
    pub connection_pool: PoolSizes,
    /// When endpoints are left out; none: never.
    pub outlier_detection: Option<Ejections>,
    /// The mode of `tls`; none: the mesh's own mutual TLS between nodes.
    pub tls: Option<String>,
}

/// Limits of `connectionPool`; none is no limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolSizes {
    /// `tcp.maxConnections`.
    pub max_connections: Option<u32>,
    /// `tcp.connectTimeout`, milliseconds; none: what MeshConfig says.
    pub connect_timeout_ms: Option<u64>,
    /// `http.http1MaxPendingRequests`.
    pub max_pending_requests: Option<u32>,
    /// `http.http2MaxRequests`.
    pub max_requests: Option<u32>,
    /// `http.maxRequestsPerConnection`.
    pub max_requests_per_connection: Option<u32>,
    /// `http.maxRetries`; none also where `retryBudget` stands in its place.
    pub max_retries: Option<u32>,
}

/// `outlierDetection`, defaults filled in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ejections {
    /// `consecutive5xxErrors`; 0 is off.
    pub consecutive_5xx: u32,
    /// `consecutiveGatewayErrors`; 0 is off.
    pub consecutive_gateway_errors: u32,
    /// `consecutiveLocalOriginFailures`; none where they count as the others do.
    pub consecutive_local_origin_failures: Option<u32>,
    /// `interval`, milliseconds.
    pub interval_ms: u64,
    /// `baseEjectionTime`, milliseconds.
    pub base_ejection_ms: u64,
    /// `maxEjectionPercent`.
    pub max_ejection_percent: u32,
    /// `minHealthPercent`.
    pub min_health_percent: u32,
}

/// What is retried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retries {
    /// Retries, not tries.
    pub attempts: u32,
    /// When, in the words of `retryOn`.
    pub on: String,
    /// Of each attempt, milliseconds; none means the route's timeout.
    pub per_try_timeout_ms: Option<u64>,
}

/// What is injected.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Fault {
    /// Milliseconds.
    pub delay_ms: Option<u64>,
    /// Share of the requests that are delayed.
    pub delay_percent: f64,
    /// `HTTP 503` or `gRPC 14`.
    pub abort: Option<String>,
    /// Share of the requests that are aborted.
    pub abort_percent: f64,
}

/// Whether a request is let in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Authorization {
    /// `allow`, `deny`, or `mixed` where the endpoints differ.
    pub verdict: String,
    /// The document that decides; none if none does.
    pub document: Option<String>,
    /// The rule of it.
    pub rule: Option<String>,
    /// What this node does not know of it, or why the request is not judged.
    pub note: Option<String>,
    /// External authorisers that must let it in as well, and who has them asked. What they say is known only when they are asked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub asks: Vec<Ask>,
}

/// An external authoriser that is asked about a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask {
    /// Its name in MeshConfig.
    pub provider: String,
    /// The policy that has it asked.
    pub document: String,
    /// The rule of it.
    pub rule: String,
}

/// An endpoint of a destination.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidate {
    /// `NODE/NAMESPACE/NAME[/INSTANCE]`.
    pub id: String,
    /// The node it runs on; none of one outside the mesh.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeId>,
    /// Where that node is reached, or the endpoint itself.
    pub address: String,
    /// The service port.
    pub port: u16,
    /// Labels that subsets read.
    pub labels: BTreeMap<String, String>,
    /// Its share among its like.
    pub weight: u32,
    /// Envoy's name of the destination for which it stands here.
    pub cluster: String,
    /// Whether it may be chosen.
    pub candidate: bool,
    /// Why it may not, or what else is to be said of it: that it fails and is spared, or is used in a panic. Empty if nothing is.
    pub reason: String,
    /// Whether it lets the caller in.
    pub authorization: Authorization,
    /// What PeerAuthentication comes to at its port: `PERMISSIVE` or `STRICT`. Nodes call each other by mutual TLS in any case.
    pub mutual_tls: String,
}

/// An answer that this node gives itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// HTTP status; 0 of a connection, which is reset.
    pub status: u16,
    /// Envoy's response flag; empty where it has none.
    pub flag: String,
    /// Why, for people.
    pub reason: String,
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Caller {
    /// `NAMESPACE/ACCOUNT`.
    pub account: String,
    /// Labels of the workload that this node took it for.
    pub labels: BTreeMap<String, String>,
    /// False if no endpoint that this node knows runs under that account: rules by labels are not asked then.
    #[serde(default)]
    pub known: bool,
}
