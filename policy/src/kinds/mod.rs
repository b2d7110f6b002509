//! One file per kind: its type, its strict decoder, and the rules within one document.
mod authorization_policy;
mod bind;
mod client_tls;
mod connection_pool;
mod consistent_hash;
mod cors;
mod delegate;
mod destination;
mod destination_rule;
mod endpoint;
mod fault;
mod gateway;
mod gateway_name;
mod http_action;
mod http_match;
mod http_route;
mod kubernetes;
mod label_selector;
mod load_balancer;
mod locality;
mod mesh_config;
mod mirror;
mod namespaced_host;
mod node_grant;
mod outlier_detection;
mod peer_authentication;
mod probe;
mod protocol;
mod rate_limit;
mod re2;
mod request_authentication;
mod revocation;
mod role_set;
mod server_certificates;
mod server_tls;
mod service_entry;
mod sidecar;
mod string_match;
mod subnet;
mod target;
mod tcp_route;
mod telemetry;
mod tls_route;
mod traffic_policy;
mod virtual_service;
mod workload_entry;
mod workload_group;

pub use authorization_policy::{
    Action, Attribute, AuthorizationPolicy, Condition, NamespacePattern, PathPattern, Rule, TextPattern, TokenPattern,
    Value,
};
pub use bind::{Bind, UnixSocket};
pub use client_tls::{ClientTls, ClientTlsMode};
pub use connection_pool::{ConnectionPool, H2Upgrade, Http2Keepalive, HttpPool, TcpKeepalive, TcpPool};
pub use consistent_hash::{ConsistentHash, HashAlgorithm, HashCookie, HashKey};
pub use cors::{CorsPolicy, UnmatchedPreflights};
pub use delegate::DelegateName;
pub use destination::{DestinationHost, RouteDestination};
pub use destination_rule::{DestinationRule, SubsetRule};
pub use endpoint::{Endpoint, EndpointAddress, Locality};
pub use fault::{Abort, AbortFault, DelayFault, Fault};
pub use gateway::{Gateway, Server, ServerPort};
pub use gateway_name::GatewayName;
pub use http_action::{
    DirectResponse, HttpRouteDestination, Redirect, RedirectPort, Rewrite, RouteHeaders, UriRewrite,
};
pub use http_match::HttpMatch;
pub use http_route::{HttpAction, HttpRoute};
pub(crate) use kubernetes::read as kubernetes;
pub use kubernetes::{KubernetesObject, KubernetesPort, KubernetesService};
pub use load_balancer::{Algorithm, Balance, LoadBalancer, Warmup};
pub use locality::{Distribute, LocalityLb, LocalityPattern, PriorityLabel, ZoneAwareLb};
pub use mesh_config::{
    AccessLog, Balancers, BodyInCheck, CertificateLifetimes, CheckProtocol, Collector, CollectorPlace,
    DefaultProviders, ENVOY, ExportHeader, ExportProtocol, ExtensionProvider, ForwardClientCert, GatewayTopology,
    GrpcForm, HeaderOrPseudo, HeaderSource, HttpCheck, Limits, LineFormat, LogCollector, LogFact, LogFile, LogFormat,
    LogPart, LogWord, MeshConfig, OutboundPolicy, OutlierSharing, PROMETHEUS, PathNormalization, SpanCollector,
    TelemetryKind, TelemetryProvider,
};
pub use mirror::{Mirror, Mirroring};
pub use namespaced_host::NamespacedHost;
pub(crate) use node_grant::decode as decode_node_grant;
pub use node_grant::node_grant_body;
pub use outlier_detection::OutlierDetection;
pub use peer_authentication::{MutualTls, PeerAuthentication};
pub use probe::{Probe, ProbeMethod};
pub use protocol::PortProtocol;
pub use rate_limit::{LimitKey, LimitMode, LimitRule, LimitScope, RateLimit};
pub use request_authentication::{RequestAuthentication, TokenKeys, TokenRule};
pub use revocation::{Revocation, key_document};
pub use role_set::{Role, RoleKey, RoleSet, Verb};
pub use server_certificates::{CertificateFiles, ServerCertificates};
pub use server_tls::{SPOKEN_SUITES, ServerTls, ServerTlsMode, TlsVersion};
pub use service_entry::{Resolution, ServiceEntry, ServiceEntryPort, ServiceLocation};
pub use sidecar::{
    CaptureMode, DefaultEndpoint, EgressHost, EgressListener, EgressProxy, IngressListener, ListenerPort,
    OutboundTrafficPolicy, Sidecar,
};
pub use string_match::{Pattern, StringMatch};
pub use subnet::{NotASubnet, Subnet};
pub(crate) use target::DRY_RUN;
pub use target::Target;
pub use tcp_route::{L4Match, TcpRoute};
pub use telemetry::{
    AccessLogging, CustomTag, Facts, Filter, Message, Metric, MetricOverride, Metrics, NumberFact, Side, TagOverride,
    TagValue, Telemetry, TextFact, Tracing, metric_names,
};
pub use tls_route::{TlsMatch, TlsRoute};
pub use traffic_policy::{PolicyBlocks, ProxyProtocol, RetryBudget, TrafficPolicy, Tunnel, TunnelProtocol};
pub use virtual_service::{ExportTo, VirtualService};
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

#[cfg(test)]
mod tests;
