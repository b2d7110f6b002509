//! Where a route leads: the endpoints of a destination and the policy for its traffic, as each caller sees them.

use std::{collections::BTreeMap, sync::Arc};

use certs::id::ServiceName;

use crate::{
    compile::Entries,
    document::DocumentId,
    headers::HeaderOps,
    hosts::Registry,
    kinds::{
        ClientTls, ClientTlsMode, ConnectionPool, LoadBalancer, OutlierDetection, ProxyProtocol, RetryBudget, Tunnel,
    },
};

/// One of the places that a route forwards to.
#[derive(Debug, Clone, PartialEq)]
pub struct Destination {
    /// `None`: the host cannot be a registered service. One that is none, nor made by a ServiceEntry that the caller sees, is 503 NC.
    pub service: Option<ServiceName>,
    /// The host as expanded.
    pub host: String,
    /// As the document names it; see [`Destination::port`] for the one to use.
    pub port: Option<u16>,
    /// Name of the subset; empty for all.
    pub subset_name: String,
    /// Share among the route's destinations.
    pub weight: u32,
    /// Destination level, of one among several (an only one's are the route's); applied before the route's.
    pub request_headers: Arc<HeaderOps>,
    /// The same for responses.
    pub response_headers: Arc<HeaderOps>,
    /// For callers whom no `workloadSelector` selects; see [`Destination::seen_by`].
    pub common: Target,
    /// What DestinationRules with a `workloadSelector` make of it for callers that have all these labels; the first counts.
    pub selected: Vec<(BTreeMap<String, String>, Target)>,
}

/// What one caller sees of a destination.
#[derive(Debug, Clone, PartialEq)]
pub struct Target {
    /// Which endpoints.
    pub subset: Subset,
    /// What holds for traffic to them.
    pub policies: ClusterPolicies,
    /// The DestinationRules of which both are made; none where all is by default.
    pub documents: Vec<DocumentId>,
}

/// Which endpoints of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subset {
    /// All.
    All,
    /// Those with all these labels; with none of them 503 UH.
    Labels(Arc<BTreeMap<String, String>>),
    /// No visible DestinationRule defines this name: 503 NC.
    Missing(String),
}

/// The policies of a destination, by port. A policy is the same object, from one [`crate::compile::Compiled`] to the next, as long
/// as its content for this host, subset and port is: state belongs to the name of the cluster and the policy's address.
#[derive(Debug, Clone, PartialEq)]
pub struct ClusterPolicies {
    /// Of ports without an entry in `portLevelSettings`.
    pub common: Arc<ClusterPolicy>,
    /// Of those with one, ascending.
    pub ports: Vec<(u16, Arc<ClusterPolicy>)>,
}

/// What a DestinationRule (or none) comes to for one cluster: host, subset and port. Nothing is left to merge.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ClusterPolicy {
    /// Which endpoint.
    pub load_balancer: LoadBalancer,
    /// How much at once.
    pub connection_pool: ConnectionPool,
    /// Which endpoints are left out for a while; `None`: none are.
    pub outlier_detection: Option<OutlierDetection>,
    /// `None`: mutual TLS by the mesh's own rules.
    pub tls: Option<ClientTls>,
    /// For TCP and TLS routes.
    pub tunnel: Option<Tunnel>,
    /// Goes ahead of each connection.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// Stands in place of the connection pool's `max_retries`.
    pub retry_budget: Option<RetryBudget>,
}

impl ClusterPolicy {
    /// True if the caller's node speaks TLS with endpoints outside the mesh.
    pub fn originates_tls(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| matches!(tls.mode, ClientTlsMode::Simple | ClientTlsMode::Mutual))
    }
}

impl Destination {
    /// The port to use: the document's, else the only one of the service or of the ServiceEntry that callers of this namespace see, else
    /// the one that the request arrived on.
    pub fn port(&self, registry: &dyn Registry, entries: &Entries, namespace: &str, arrived: u16) -> u16 {
        let only = || {
            let service = self.service.as_ref().and_then(|service| registry.ports(service));
            let ports = service.or_else(|| Some(entries.find(&self.host, namespace)?.ports.clone()))?;
            if let [only] = &*ports { Some(only.number) } else { None }
        };
        self.port.or_else(only).unwrap_or(arrived)
    }

    /// What a caller with these labels sees.
    pub fn seen_by(&self, labels: &BTreeMap<String, String>) -> &Target {
        let selects =
            |selector: &BTreeMap<String, String>| selector.iter().all(|(key, value)| labels.get(key) == Some(value));
        self.selected.iter().find(|(selector, _)| selects(selector)).map_or(&self.common, |(_, target)| target)
    }

    /// Envoy's name of it: `outbound|PORT|SUBSET|HOST`.
    pub fn cluster(&self, port: u16) -> String {
        format!("outbound|{port}|{}|{}", self.subset_name, self.host)
    }
}

impl Target {
    /// What holds for traffic to this service port.
    pub fn policy(&self, port: u16) -> &Arc<ClusterPolicy> {
        let own = self.policies.ports.iter().find(|(own, _)| *own == port);
        own.map_or(&self.policies.common, |(_, policy)| policy)
    }
}
