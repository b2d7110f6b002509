//! One file per kind: its type, its strict decoder, and the rules within one document.

mod authorization_policy;
mod bind;
mod connection_pool;
mod destination_rule;
mod endpoint;
mod fault;
mod gateway;
mod http_action;
mod http_match;
mod http_route;
mod kubernetes;
mod label_selector;
mod mesh_config;
mod namespaced_host;
mod node_grant;
mod peer_authentication;
mod probe;
mod protocol;
mod rate_limit;
mod request_authentication;
mod revocation;
mod role_set;
mod server_certificates;
mod server_tls;
mod service_entry;
mod sidecar;
mod subnet;
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

pub use bind::{Bind, UnixSocket};
pub use connection_pool::{ConnectionPool, H2Upgrade, Http2Keepalive, HttpPool, TcpKeepalive, TcpPool};
pub use endpoint::{Endpoint, EndpointAddress, Locality};
pub use namespaced_host::NamespacedHost;
pub use probe::{Probe, ProbeMethod};
pub use protocol::PortProtocol;
pub use server_certificates::{CertificateFiles, ServerCertificates};
pub use server_tls::{ServerTls, ServerTlsMode, TlsVersion};

pub use authorization_policy::AuthorizationPolicy;
pub use gateway::{Gateway, Server, ServerPort};
pub use mesh_config::MeshConfig;
pub use peer_authentication::PeerAuthentication;
pub use rate_limit::RateLimit;
pub use request_authentication::RequestAuthentication;
pub use service_entry::{Resolution, ServiceEntry, ServiceEntryPort, ServiceLocation};
pub use sidecar::{
    CaptureMode, DefaultEndpoint, EgressHost, EgressListener, EgressProxy, IngressListener, ListenerPort,
    OutboundTrafficPolicy, Sidecar,
};
pub use subnet::{NotASubnet, Subnet};
pub use telemetry::Telemetry;
pub use workload_entry::WorkloadEntry;
pub use workload_group::WorkloadGroup;

#[cfg(test)]
mod testing;

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
