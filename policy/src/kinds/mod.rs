//! One file per kind: its type, its strict decoder, and the rules within one document.

mod destination_rule;
mod http_action;
mod http_match;
mod http_route;
mod kubernetes;
mod node_grant;
mod revocation;
mod role_set;
mod virtual_service;

pub use destination_rule::{Balance, DestinationRule, SubsetRule, TrafficPolicy};
pub use http_action::{
    Abort, DelayFault, AbortFault, DestinationHost, DirectResponse, Fault, Redirect, RedirectPort, Rewrite, RouteDestination,
    RouteHeaders, UriRewrite,
};
pub use http_match::{HttpMatch, Pattern, StringMatch};
pub use http_route::{HttpAction, HttpRoute};
pub use kubernetes::{KubernetesObject, KubernetesService};
pub use revocation::Revocation;
pub use role_set::{Role, RoleKey, RoleSet, Verb};
pub use virtual_service::{ExportTo, VirtualService};
