//! One file per kind: its type, its strict decoder, and the rules within one document.

mod destination_rule;
mod fault;
mod http_action;
mod http_match;
mod http_route;
mod kubernetes;
mod node_grant;
mod revocation;
mod role_set;
mod virtual_service;

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
