//! Answers about the requests of the last quarter of an hour.

use std::collections::BTreeMap;

use certs::id::NodeId;
use serde::{Deserialize, Serialize};

/// `GET /v1/traffic`: what was asked of whom, as all nodes saw it that answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Traffic {
    /// The answering node.
    pub node: NodeId,
    /// How far back the counts go, seconds; 900 at most.
    pub window_s: u64,
    /// How long a slot is, seconds.
    pub slot_s: u64,
    /// Nodes whose counts are in it.
    pub heard: Vec<NodeId>,
    /// Nodes alive that did not answer.
    pub silent: Vec<NodeId>,
    /// Nodes alive that cannot answer because they run another version.
    #[serde(default)]
    pub other_version: Vec<NodeId>,
    /// Nodes alive that were not asked: of a large mesh a sample is.
    #[serde(default)]
    pub unasked: usize,
    /// Requests and connections of pairs that nodes had no room to keep apart.
    pub left_out: u64,
    /// Requests, by caller, service and server.
    pub edges: Vec<Edge>,
    /// Connections of bytes, by caller, service and server.
    #[serde(default)]
    pub connections: Vec<Connections>,
}

/// Connections of bytes from one workload to another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Connections {
    /// The caller.
    pub from: Party,
    /// The server; `unknown` where no endpoint took them.
    pub to: Party,
    /// The service that was addressed, `NAMESPACE/NAME`, or a host that is none.
    pub service: String,
    /// `mutual_tls`, `none`, or `unknown` where the server's node did not say.
    pub security: String,
    /// Those that go on.
    pub open: u64,
    /// Those that came in the window.
    pub opened: u64,
    /// Those of them that led nowhere.
    pub failed: u64,
    /// Bytes to the caller in the window.
    pub sent: u64,
    /// Bytes from the caller in the window.
    pub received: u64,
    /// Connections that came, a second over the last minute.
    pub rate: f64,
    /// Bytes to the caller, a second over the last minute.
    pub sent_rate: f64,
    /// Bytes from the caller, a second over the last minute.
    pub received_rate: f64,
}

/// What one workload asked of another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Edge {
    /// The caller.
    pub from: Party,
    /// The server; `unknown` where no endpoint answered.
    pub to: Party,
    /// The service that was addressed, `NAMESPACE/NAME`, or a host that is none.
    pub service: String,
    /// `http` or `grpc`.
    pub protocol: String,
    /// `mutual_tls`, `none`, or `unknown` where the server's node did not say.
    pub security: String,
    /// Requests in the window.
    pub requests: u64,
    /// Those answered with 500 and above, with a gRPC status that the server is to blame for, or with an answer that broke off.
    pub failed: u64,
    /// Requests a second over the last minute.
    pub rate: f64,
    /// Failed requests a second over the last minute.
    pub failing: f64,
    /// Half of the requests took less, milliseconds.
    pub p50_ms: Option<f64>,
    /// Nine tenths took less.
    pub p90_ms: Option<f64>,
    /// 99 of 100 took less.
    pub p99_ms: Option<f64>,
    /// Requests and failed ones of each slot, the one under way first.
    pub slots: Vec<[u64; 2]>,
    /// Requests by duration in the buckets of `istio_request_duration_milliseconds`, not summed up.
    pub buckets: Vec<u64>,
    /// What failed how: status and response flags.
    pub failures: BTreeMap<String, u64>,
}

/// One of `GET /v1/prometheus-targets`, in the form of Prometheus' HTTP service discovery.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Targets {
    /// `HOST:PORT`s.
    pub targets: Vec<String>,
    /// What Prometheus puts to every series of them; those that begin with `__meta_` are for relabelling.
    pub labels: BTreeMap<String, String>,
}

/// One side of an edge. What is not known is `unknown`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Party {
    /// Its namespace.
    pub namespace: String,
    /// Its service.
    pub service: String,
    /// Its label `version`.
    pub version: String,
}
