//! One file per kind: its type, its strict decoder, and the rules within one document.

mod authorization_policy;
mod client_tls;
mod connection_pool;
mod consistent_hash;
mod cors;
mod delegate;
mod destination;
mod destination_rule;
mod fault;
mod gateway;
mod gateway_name;
mod http_action;
mod http_match;
mod http_route;
mod kubernetes;
mod load_balancer;
mod locality;
mod mesh_config;
mod mirror;
mod node_grant;
mod outlier_detection;
mod peer_authentication;
mod rate_limit;
mod request_authentication;
mod revocation;
mod role_set;
mod service_entry;
mod sidecar;
mod string_match;
mod subnet;
mod tcp_route;
mod telemetry;
mod tls_route;
mod traffic_policy;
mod virtual_service;
mod workload_entry;
mod workload_group;

pub use client_tls::{ClientTls, ClientTlsMode};
pub use connection_pool::{ConnectionPool, H2Upgrade, Http2Keepalive, HttpPool, TcpKeepalive, TcpPool};
pub use consistent_hash::{ConsistentHash, HashAlgorithm, HashCookie, HashKey};
pub use cors::{CorsPolicy, UnmatchedPreflights};
pub use delegate::DelegateName;
pub use destination::{DestinationHost, RouteDestination};
pub use destination_rule::{DestinationRule, SubsetRule};
pub use fault::{Abort, AbortFault, DelayFault, Fault};
pub use gateway_name::GatewayName;
pub use http_action::{
    DirectResponse, HttpRouteDestination, Redirect, RedirectPort, Rewrite, RouteHeaders, UriRewrite,
};
pub use http_match::HttpMatch;
pub use http_route::{HttpAction, HttpRoute};
pub(crate) use kubernetes::read as kubernetes;
pub use kubernetes::{KubernetesObject, KubernetesService};
pub use load_balancer::{Algorithm, Balance, LoadBalancer, Warmup};
pub use locality::{Distribute, LocalityLb, LocalityPattern, PriorityLabel, ZoneAwareLb};
pub use mirror::{Mirror, Mirroring};
pub(crate) use node_grant::decode as decode_node_grant;
pub use node_grant::node_grant_body;
pub use outlier_detection::OutlierDetection;
pub use revocation::Revocation;
pub use role_set::{Role, RoleKey, RoleSet, Verb};
pub use string_match::{Pattern, StringMatch};
pub use subnet::{NotASubnet, Subnet};
pub use tcp_route::{L4Match, TcpRoute};
pub use tls_route::{TlsMatch, TlsRoute};
pub use traffic_policy::{PolicyBlocks, ProxyProtocol, RetryBudget, TrafficPolicy, Tunnel, TunnelProtocol};
pub use virtual_service::{ExportTo, VirtualService};

pub use authorization_policy::AuthorizationPolicy;
pub use gateway::Gateway;
pub use mesh_config::MeshConfig;
pub use peer_authentication::PeerAuthentication;
pub use rate_limit::RateLimit;
pub use request_authentication::RequestAuthentication;
pub use service_entry::ServiceEntry;
pub use sidecar::Sidecar;
pub use telemetry::Telemetry;
pub use workload_entry::WorkloadEntry;
pub use workload_group::WorkloadGroup;

/// The body of a document that a program makes.
fn body(id: &crate::DocumentId, spec: serde_json::Value) -> String {
    serde_json::json!({
        "apiVersion": "skein.dev/v1",
        "kind": id.kind.as_str(),
        "metadata": {"name": id.name, "namespace": id.namespace},
        "spec": spec,
    })
    .to_string()
}
