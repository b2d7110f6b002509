//! What DestinationRules come to for a destination and a caller, and which documents say so.

use policy::{
    DocumentId,
    kinds::{Algorithm, Balance, ClientTlsMode, OutlierDetection},
    route::{ClusterPolicy, Target},
};

use super::{
    api::{Effective, Ejections, PoolSizes},
    millis,
};

/// What holds for traffic to a port of it.
pub(super) fn effective(target: &Target, port: u16) -> Effective {
    let policy = target.policy(port);
    Effective {
        documents: target.documents.iter().map(DocumentId::to_string).collect(),
        load_balancer: algorithm(&policy.load_balancer.algorithm).to_owned(),
        connection_pool: pool(policy),
        outlier_detection: policy.outlier_detection.as_ref().map(ejections),
        tls: policy.tls.as_ref().map(|tls| mode(tls.mode).to_owned()),
    }
}

fn algorithm(algorithm: &Algorithm) -> &'static str {
    match algorithm {
        Algorithm::Simple(Balance::LeastRequest) => "LEAST_REQUEST",
        Algorithm::Simple(Balance::RoundRobin) => "ROUND_ROBIN",
        Algorithm::Simple(Balance::Random) => "RANDOM",
        Algorithm::Simple(Balance::PeakEwma) => "PEAK_EWMA",
        Algorithm::Passthrough => "PASSTHROUGH",
        Algorithm::ConsistentHash(_) => "consistentHash",
    }
}

fn mode(mode: ClientTlsMode) -> &'static str {
    match mode {
        ClientTlsMode::Disable => "DISABLE",
        ClientTlsMode::Simple => "SIMPLE",
        ClientTlsMode::Mutual => "MUTUAL",
        ClientTlsMode::IstioMutual => "ISTIO_MUTUAL",
    }
}

fn pool(policy: &ClusterPolicy) -> PoolSizes {
    let (tcp, http) = (&policy.connection_pool.tcp, &policy.connection_pool.http);
    PoolSizes {
        max_connections: tcp.max_connections,
        connect_timeout_ms: tcp.connect_timeout.map(millis),
        max_pending_requests: http.max_pending_requests,
        max_requests: http.max_requests,
        max_requests_per_connection: http.max_requests_per_connection,
        max_retries: http.max_retries.filter(|_| policy.retry_budget.is_none()),
    }
}

fn ejections(detection: &OutlierDetection) -> Ejections {
    Ejections {
        consecutive_5xx: detection.consecutive_5xx,
        consecutive_gateway_errors: detection.consecutive_gateway,
        consecutive_local_origin_failures: detection.split.then_some(detection.consecutive_local_origin),
        interval_ms: millis(detection.interval),
        base_ejection_ms: millis(detection.base_ejection_time),
        max_ejection_percent: detection.max_ejection_percent,
        min_health_percent: detection.min_health_percent,
    }
}
