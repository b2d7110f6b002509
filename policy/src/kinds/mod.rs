//! One file per kind: its type, its strict decoder, and the rules within one document.

mod authorization_policy;
mod destination_rule;
mod fault;
mod gateway;
mod http_action;
mod http_match;
mod http_route;
mod kubernetes;
mod mesh_config;
mod node_grant;
mod peer_authentication;
mod rate_limit;
mod request_authentication;
mod revocation;
mod role_set;
mod service_entry;
mod sidecar;
mod target;
mod telemetry;
mod virtual_service;
mod workload_entry;
mod workload_group;

pub use destination_rule::{Balance, DestinationRule, SubsetRule, TrafficPolicy};
pub use fault::{Abort, AbortFault, DelayFault, Fault};
pub use http_action::{
    DestinationHost, DirectResponse, Redirect, RedirectPort, Rewrite, RouteDestination, RouteHeaders, UriRewrite,
};
pub use http_match::{HttpMatch, Pattern, StringMatch};
pub use http_route::{HttpAction, HttpRoute};
pub(crate) use kubernetes::read as kubernetes;
pub use kubernetes::{KubernetesObject, KubernetesService};
pub(crate) use node_grant::decode as decode_node_grant;
pub use node_grant::node_grant_body;
pub use revocation::Revocation;
pub use role_set::{Role, RoleKey, RoleSet, Verb};
pub use virtual_service::{ExportTo, VirtualService};

pub use authorization_policy::{
    Action, AddressRange, Attribute, AuthorizationPolicy, Condition, NamespacePattern, PathPattern, Rule, TextPattern,
    TokenPattern, Value,
};
pub use gateway::Gateway;
pub use mesh_config::{
    AccessLog, CertificateLifetimes, Limits, LogFile, MeshConfig, OutboundPolicy, OutlierSharing, PathNormalization,
};
pub use peer_authentication::{MutualTls, PeerAuthentication};
pub use rate_limit::{LimitKey, LimitMode, LimitRule, LimitScope, RateLimit};
pub use request_authentication::{RequestAuthentication, TokenKeys, TokenRule};
pub use service_entry::ServiceEntry;
pub use sidecar::Sidecar;
pub use target::Target;
pub use telemetry::{
    AccessLogging, CustomTag, Expression, Metric, MetricOverride, Metrics, Side, TagOverride, Telemetry, Tracing,
};
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
