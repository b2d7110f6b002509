//! Request head -> route. Called once per request: allocates only for a service's first request under a policy.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc, time::Duration};

use certs::id::{ServiceAccount, ServiceName};
use http::{HeaderMap, Method, Uri};

use crate::{
    compile::Compiled,
    document::DocumentId,
    headers::HeaderOps,
    hosts::Registry,
    kinds::{Balance, DirectResponse, Fault, Redirect, Rewrite},
    retry::Retries,
};

/// What routing reads of a request.
pub struct Request<'a> {
    /// The method.
    pub method: &'a Method,
    /// Path and query; scheme and authority in it are not looked at.
    pub uri: &'a Uri,
    /// Host as sent, port included.
    pub authority: &'a str,
    /// `http` or `https`.
    pub scheme: &'a str,
    /// As sent.
    pub headers: &'a HeaderMap,
    /// Who asks.
    pub source: &'a Source,
    /// Service and port fixed by configuration (`[[upstream]]`): the authority does not choose them.
    pub fixed: Option<(ServiceName, u16)>,
    /// The proxy's own port: an authority that bears it counts as without port.
    pub own_port: Option<u16>,
}

/// The calling workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Its namespace.
    pub namespace: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its identity.
    pub account: ServiceAccount,
}

/// The route that a request takes.
#[derive(Debug, Clone)]
pub struct Routed {
    /// The service that was addressed.
    pub service: ServiceName,
    /// The service port that was addressed.
    pub port: u16,
    /// The route.
    pub route: Arc<Route>,
    /// How the path was matched: what a prefix rewrite replaces.
    pub matched: UriMatched,
}

/// How a route's condition on the path held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UriMatched {
    /// No condition: the implicit prefix `/`.
    Nothing,
    /// A prefix of this many bytes.
    Prefix(usize),
    /// The whole path.
    Whole,
}

/// Why a request has no route.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoRoute {
    /// The name means no service: 404 NR (or what the proxy does with hosts outside the mesh).
    #[error("no service is called `{host}`")]
    UnknownHost {
        /// As sent, without port.
        host: String,
    },
    /// The service has no such port, or several HTTP ports and the authority names none: 404 NR.
    #[error("{service} has no HTTP port {port:?}")]
    UnknownPort {
        /// The service.
        service: ServiceName,
        /// As sent.
        port: Option<u16>,
    },
    /// A VirtualService applies and none of its rules matches: 404 NR.
    #[error("no rule of {document} matches")]
    NoMatch {
        /// The VirtualService.
        document: DocumentId,
        /// The service that was addressed.
        service: ServiceName,
        /// The port that was addressed.
        port: u16,
    },
}

/// What happens to a request, and what is done on the way.
#[derive(Debug, Clone, PartialEq)]
pub struct Route {
    /// The VirtualService that it comes from; `None` for a service's default route.
    pub document: Option<DocumentId>,
    /// Index of the rule in the document's `http`.
    pub rule: usize,
    /// Line of the rule in the pushed file, from 1.
    pub line: Option<usize>,
    /// For logs: Istio's route name; `default` for a default route.
    pub name: String,
    /// What happens.
    pub action: Action,
    /// Of the whole request; none if absent.
    pub timeout: Option<Duration>,
    /// The mesh's default where the document says nothing.
    pub retries: Retries,
    /// At the caller, before all else.
    pub fault: Option<Fault>,
    /// Before forwarding; use [`Routed::path`] for the path.
    pub rewrite: Option<Rewrite>,
    /// Route level; applied after the destination's.
    pub request_headers: Arc<HeaderOps>,
    /// Route level; applied after the destination's.
    pub response_headers: Arc<HeaderOps>,
}

/// What happens to a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Forwarded to one of these; never empty.
    Forward(Vec<Destination>),
    /// Answered 3xx: [`Routed::location`].
    Redirect(Redirect),
    /// Answered here.
    Direct(DirectResponse),
}

/// One of the places that a route forwards to.
#[derive(Debug, Clone, PartialEq)]
pub struct Destination {
    /// `None`: the host cannot be a service of this mesh: 503 NC. A service that the registry does not know is also 503 NC.
    pub service: Option<ServiceName>,
    /// The host as expanded.
    pub host: String,
    /// As the document names it; see [`Destination::port`] for the one to use.
    pub port: Option<u16>,
    /// Which endpoints.
    pub subset: Subset,
    /// Name of the subset; empty for all.
    pub subset_name: String,
    /// Share among the route's destinations.
    pub weight: u32,
    /// Destination level; applied before the route's.
    pub request_headers: Arc<HeaderOps>,
    /// Destination level; applied before the route's.
    pub response_headers: Arc<HeaderOps>,
    /// How an endpoint is chosen, for ports without an entry of their own; see [`Destination::balance`].
    pub balance: Balance,
    /// Ports with an entry of their own.
    pub port_balance: Vec<(u16, Balance)>,
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

impl Route {
    /// The destination for this random number, by weight. `None` unless the route forwards.
    pub fn choose(&self, _random: u64) -> Option<&Destination> {
        todo!()
    }
}

impl Destination {
    /// The port to use: the document's, else the service's only one, else the one that the request arrived on.
    pub fn port(&self, _registry: &dyn Registry, _arrived: u16) -> u16 {
        todo!()
    }

    /// How an endpoint is chosen on this port.
    pub fn balance(&self, port: u16) -> Balance {
        self.port_balance.iter().find(|(own, _)| *own == port).map_or(self.balance, |(_, balance)| *balance)
    }

    /// Envoy's name of it: `outbound|PORT|SUBSET|HOST`.
    pub fn cluster(&self, port: u16) -> String {
        format!("outbound|{port}|{}|{}", self.subset_name, self.host)
    }
}

impl Routed {
    /// Path and query after the route's rewrite; borrowed if it changes nothing.
    pub fn path<'u>(&self, _uri: &'u Uri) -> Cow<'u, str> {
        todo!()
    }

    /// The authority after the route's rewrite, if it has one (header operations may set another, see [`HeaderOps::authority`]).
    pub fn authority(&self) -> Option<&str> {
        self.route.rewrite.as_ref()?.authority.as_deref()
    }

    /// The Location of a redirect.
    pub fn location(&self, _redirect: &Redirect, _request: &Request<'_>) -> String {
        todo!()
    }

    /// Envoy's name of the virtual host: `HOST:PORT`.
    pub fn virtual_host(&self) -> String {
        format!("{}:{}", crate::hosts::full_name(&self.service), self.port)
    }
}

/// Finds a request's route.
///
/// # Errors
/// [`NoRoute`] says which 404 it is.
pub fn route(_compiled: &Compiled, _registry: &dyn Registry, _request: &Request<'_>) -> Result<Routed, NoRoute> {
    todo!()
}
