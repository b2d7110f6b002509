//! Request head -> route. Called once per request: allocates only for a service's first request under a policy.

mod addressed;
mod connection;
mod destination;
mod gateway;
mod known;
mod location;
mod matching;
pub mod survey;

use std::{borrow::Cow, collections::BTreeMap, sync::Arc, time::Duration};

use certs::id::{ServiceAccount, ServiceName};
use http::{HeaderMap, Method, Uri};

use crate::{
    authorize::Token,
    compile::{Compiled, PLAIN_HTTP, Scope, Virtual, entries::as_written},
    document::DocumentId,
    headers::HeaderOps,
    hosts::{self, Registry},
    kinds::{CorsPolicy, DirectResponse, Fault, HttpMatch, Redirect, Rewrite, UriRewrite},
    retry::Retries,
};

pub use addressed::{Addressed, Called, called};
pub use connection::{Connection, enter_tcp, enter_tls, route_tcp, route_tls};
pub use destination::{ClusterPolicies, ClusterPolicy, Destination, Subset, Target};
pub(crate) use gateway::entries;
pub use gateway::{Entered, Rule, enter};
pub use known::knows;

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
    /// What is called, and its port, fixed by configuration (`[[upstream]]`): the authority does not choose them.
    pub fixed: Option<(Called, u16)>,
    /// The token that was verified where the request came in: only at a gateway there is one.
    pub token: Option<&'a Token>,
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

/// True if a request may meet one of these conditions, or there is none. `port` is the addressed service port; the way in which the
/// request is routed plays no part. The caller may be any workload with one of these sets of `labels` (those of `request.source` are
/// not looked at); with none of them nothing is known of its labels, and it may have any.
pub fn may_meet(
    conditions: &[HttpMatch],
    request: &Request<'_>,
    port: u16,
    labels: &[Arc<BTreeMap<String, String>>],
) -> bool {
    let met = |condition: &HttpMatch| {
        matching::may_apply(condition, port, &request.source.namespace, labels)
            && matching::holds(condition, request).is_some()
    };
    conditions.is_empty() || conditions.iter().any(met)
}

/// The route that a request takes.
#[derive(Debug, Clone)]
pub struct Routed {
    /// What was addressed.
    pub host: Addressed,
    /// The port that was addressed: a service's own.
    pub port: u16,
    /// The route.
    pub route: Arc<Route>,
    /// How the path was matched: what a prefix rewrite replaces.
    pub matched: UriMatched,
    /// Name of the condition that held, if it has one.
    pub condition: Option<Arc<str>>,
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
    /// The caller's Sidecar does not import the service: to the caller it is an unknown host.
    #[error("{sidecar} does not import `{host}`")]
    NotImported {
        /// As sent, without port.
        host: String,
        /// The Sidecar.
        sidecar: DocumentId,
    },
    /// The host has no such port, or several HTTP ports and the authority names none: 404 NR.
    #[error("{}", no_port(host, *port))]
    UnknownPort {
        /// What was addressed.
        host: Addressed,
        /// As sent.
        port: Option<u16>,
    },
    /// A VirtualService applies and none of its rules matches: 404 NR.
    #[error("no rule of {document} matches")]
    NoMatch {
        /// The VirtualService.
        document: Box<DocumentId>,
        /// What was addressed.
        host: Addressed,
        /// The port that was addressed.
        port: u16,
    },
}

fn no_port(host: &Addressed, port: Option<u16>) -> String {
    match port {
        Some(port) => format!("{host} has no HTTP port {port}"),
        None => format!("{host} has several HTTP ports, or none, and the request names no port"),
    }
}

/// What happens to a request, and what is done on the way.
#[derive(Debug, Clone, PartialEq)]
pub struct Route {
    /// The VirtualService in which the rule stands, a delegate perhaps; `None` for a service's default route.
    pub document: Option<DocumentId>,
    /// Index of the rule in the document's `http`, or for a connection in its `tls` or `tcp`.
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
    /// What browsers are told; after the fault, before all else.
    pub cors: Option<Arc<CorsPolicy>>,
    /// Where copies of a request go once it is forwarded; none of a retry.
    pub mirrors: Vec<Mirror>,
    /// Before forwarding; use [`Routed::path`] for the path.
    pub rewrite: Option<Rewrite>,
    /// Route level; applied after the destination's.
    pub request_headers: Arc<HeaderOps>,
    /// Route level; applied after the destination's.
    pub response_headers: Arc<HeaderOps>,
}

/// A place to which a share of the requests is copied; nobody waits for its answers. It is no error if it does not exist.
#[derive(Debug, Clone, PartialEq)]
pub struct Mirror {
    /// Where; without weight or header operations of its own.
    pub destination: Destination,
    /// Share, in parts of a million, above 0.
    pub per_million: u32,
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

impl Route {
    /// The destination by weight, for a random number that is drawn where there are several. `None` unless the route forwards.
    pub fn choose(&self, random: impl FnOnce() -> u64) -> Option<&Destination> {
        let Action::Forward(destinations) = &self.action else { return None };
        let total: u64 = destinations.iter().map(|one| u64::from(one.weight)).sum();
        if destinations.len() == 1 || total == 0 {
            return destinations.first();
        }
        let mut left = random() % total;
        destinations.iter().find(|one| {
            let weight = u64::from(one.weight);
            let here = left < weight;
            left = left.saturating_sub(weight);
            here
        })
    }
}

impl Mirror {
    /// True if a request with this random number is copied; each mirror draws one of its own.
    pub fn takes(&self, random: u64) -> bool {
        random % 1_000_000 < u64::from(self.per_million)
    }
}

impl Routed {
    /// For logs: the route's name as Istio has it, `ROUTE.CONDITION` where the condition that held has a name.
    pub fn name(&self) -> Cow<'_, str> {
        match &self.condition {
            None => Cow::Borrowed(&self.route.name),
            Some(condition) => Cow::Owned(format!("{}.{condition}", self.route.name)),
        }
    }

    /// Path and query after the route's rewrite; borrowed if it changes nothing. The original belongs into
    /// `x-envoy-original-path` where this differs.
    pub fn path<'u>(&self, uri: &'u Uri) -> Cow<'u, str> {
        let whole = uri.path_and_query().map_or("/", |whole| whole.as_str());
        match self.route.rewrite.as_ref().and_then(|rewrite| rewrite.uri.as_ref()) {
            None => Cow::Borrowed(whole),
            Some(UriRewrite::Matched(text)) => {
                Cow::Owned(and_query(self.replace_matched(uri.path(), text), uri.query()))
            }
            Some(UriRewrite::Regex(pattern, text)) => {
                Cow::Owned(and_query(pattern.replace_all(uri.path(), text), uri.query()))
            }
        }
    }

    /// The path with what the condition matched replaced; without a condition the implicit prefix `/`.
    fn replace_matched(&self, path: &str, text: &str) -> String {
        let rest = match self.matched {
            UriMatched::Whole => "",
            UriMatched::Prefix(length) => path.get(length..).unwrap_or_default(),
            UriMatched::Nothing => path.strip_prefix('/').unwrap_or(path),
        };
        format!("{text}{rest}")
    }

    /// The authority after the route's rewrite, if it has one (header operations may set another, see [`HeaderOps::authority`]).
    pub fn authority(&self) -> Option<&str> {
        self.route.rewrite.as_ref()?.authority.as_deref()
    }

    /// Envoy's name of the virtual host: `HOST:PORT`.
    pub fn virtual_host(&self) -> String {
        format!("{}:{}", self.host.full_name(), self.port)
    }
}

/// The request's query stays, behind the one that the new path brings.
fn and_query(path: String, query: Option<&str>) -> String {
    let Some(query) = query else { return path };
    let between = if path.contains('?') { '&' } else { '?' };
    format!("{path}{between}{query}")
}

/// The service and service port that a request addresses: its authority, or what is fixed.
///
/// # Errors
/// The host or the port is unknown. Only HTTP ports count.
fn address(registry: &dyn Registry, request: &Request<'_>, scope: Scope<'_>) -> Result<(ServiceName, u16), NoRoute> {
    let (host, port) = match &request.fixed {
        Some((Called::Service(service), port)) => {
            let imported = scope.imported_at(service)(*port);
            return if imported { Ok((service.clone(), *port)) } else { Err(unknown(&service.to_string(), scope)) };
        }
        Some((Called::Host(host), _)) => return Err(NoRoute::UnknownHost { host: host.to_string() }),
        None => request.host_and_port(),
    };
    let service = hosts::named(host, &request.source.namespace);
    let found = service.and_then(|service| Some((registry.ports(&service)?, service)));
    let Some((ports, service)) = found else {
        return Err(NoRoute::UnknownHost { host: host.to_owned() });
    };
    let imported = scope.imported_at(&service);
    let mut seen = ports.iter().filter(|own| imported(own.number)).peekable();
    if seen.peek().is_none() && !ports.is_empty() {
        return Err(unknown(host, scope));
    }
    let mut http = seen.filter(|own| own.protocol.is_http() && port.is_none_or(|port| port == own.number));
    match (http.next().map(|own| own.number), http.next()) {
        (Some(only), None) => Ok((service.clone(), only)),
        (None, _) | (Some(_), Some(_)) => Err(NoRoute::UnknownPort { host: Addressed::from(&service), port }),
    }
}

/// Why the caller does not know a host that a ServiceEntry makes for its namespace.
fn hidden(compiled: &Compiled, request: &Request<'_>, scope: Scope<'_>) -> Option<NoRoute> {
    let (host, _) = request.host_and_port();
    compiled.entries().named(host, scope.namespace).map(|_| unknown(host, scope))
}

/// A host that means nothing to the caller.
fn unknown(host: &str, scope: Scope<'_>) -> NoRoute {
    let host = host.to_owned();
    match scope.sidecar {
        Some((sidecar, _)) => NoRoute::NotImported { host, sidecar: sidecar.clone() },
        None => NoRoute::UnknownHost { host },
    }
}

impl Request<'_> {
    /// The authority's host as sent, and its port unless that is the proxy's own; or what is fixed in its place.
    fn host_and_port(&self) -> (&str, Option<u16>) {
        if let Some((Called::Host(host), port)) = &self.fixed {
            return (host, Some(*port));
        }
        let (host, port) = hosts::split_authority(self.authority);
        (host, port.filter(|port| Some(*port) != self.own_port))
    }
}

/// Finds a request's route. A host that is no service may have one by a VirtualService that names it.
///
/// # Errors
/// [`NoRoute`] says which 404 it is.
pub fn route(compiled: &Compiled, registry: &dyn Registry, request: &Request<'_>) -> Result<Routed, NoRoute> {
    let scope = compiled.scope(request.source);
    let (service, port) = match address(registry, request, scope) {
        Ok(addressed) => addressed,
        Err(unknown @ (NoRoute::UnknownHost { .. } | NoRoute::NotImported { .. })) => {
            return by_entry(compiled, request, scope)
                .or_else(|| by_name(compiled, registry, request, scope))
                .unwrap_or_else(|| Err(hidden(compiled, request, scope).unwrap_or(unknown)));
        }
        Err(other @ (NoRoute::UnknownPort { .. } | NoRoute::NoMatch { .. })) => return Err(other),
    };
    let namespace = request.source.namespace.as_str();
    let Some(found) = compiled.virtual_service(&service, scope.at(port)) else {
        return Ok(plain(compiled, service, port, namespace));
    };
    match first(found, request, port) {
        Found::Rule(route, matched, condition) => {
            Ok(Routed { host: Addressed::Service(service), port, route, matched, condition })
        }
        Found::NoMatch => {
            Err(NoRoute::NoMatch { document: Box::new(found.id.clone()), host: Addressed::Service(service), port })
        }
        Found::NotForCaller => Ok(plain(compiled, service, port, namespace)),
    }
}

/// The route of a host that a ServiceEntry makes; `None` if none does for this caller.
fn by_entry(compiled: &Compiled, request: &Request<'_>, scope: Scope<'_>) -> Option<Result<Routed, NoRoute>> {
    let (host, asked) = request.host_and_port();
    let namespace = scope.namespace;
    let made = compiled.entries().named_with(host, scope, |made| made.http_port(asked, scope).is_some())?;
    let addressed = Addressed::from(&**made);
    let Some(port) = made.http_port(asked, scope) else {
        return Some(Err(NoRoute::UnknownPort { host: addressed, port: asked }));
    };
    // Of a wildcard that makes it a VirtualService may speak of the host itself.
    let name = if made.host.starts_with('*') { as_written(host) } else { Cow::Borrowed(&*made.host) };
    let plain = || {
        let route = compiled.entry_route(&made.host, namespace);
        Routed { host: addressed.clone(), port, route, matched: UriMatched::Nothing, condition: None }
    };
    let Some(found) = compiled.virtual_service_of_entry(&name, scope.at(port)) else { return Some(Ok(plain())) };
    Some(match first(found, request, port) {
        Found::Rule(route, matched, condition) => Ok(Routed { host: addressed, port, route, matched, condition }),
        Found::NoMatch => Err(NoRoute::NoMatch { document: Box::new(found.id.clone()), host: addressed, port }),
        Found::NotForCaller => Ok(plain()),
    })
}

/// The route of a host that is no service; `None` if no VirtualService names it for this caller.
fn by_name(
    compiled: &Compiled,
    registry: &dyn Registry,
    request: &Request<'_>,
    scope: Scope<'_>,
) -> Option<Result<Routed, NoRoute>> {
    let (host, asked) = request.host_and_port();
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    let (name, found) = compiled.virtual_service_of_name(&host, scope, registry)?;
    let host = Addressed::Name(name);
    let ports = found.ports_of_names(registry);
    let implied = || if ports.len() == 1 { ports.first().copied() } else { Some(PLAIN_HTTP) };
    let Some(port) = asked.or_else(implied).filter(|port| ports.contains(port)) else {
        return Some(Err(NoRoute::UnknownPort { host, port: asked }));
    };
    match first(found, request, port) {
        Found::Rule(route, matched, condition) => Some(Ok(Routed { host, port, route, matched, condition })),
        Found::NoMatch => Some(Err(NoRoute::NoMatch { document: Box::new(found.id.clone()), host, port })),
        Found::NotForCaller => None,
    }
}

/// What a VirtualService says of a request.
enum Found {
    Rule(Arc<Route>, UriMatched, Option<Arc<str>>),
    NoMatch,
    /// No rule is for this caller: as if the VirtualService did not exist.
    NotForCaller,
}

/// The first rule that takes the request.
fn first(found: &Virtual, request: &Request<'_>, port: u16) -> Found {
    let mut any_applies = false;
    for (conditions, route) in found.rules(&request.source.namespace) {
        let mut held = None;
        if conditions.is_empty() {
            any_applies = true;
            held = Some((UriMatched::Nothing, None));
        }
        for condition in conditions.iter().filter(|condition| matching::applies(condition, port, request.source)) {
            any_applies = true;
            held = held.or_else(|| Some((matching::holds(condition, request)?, condition.name.clone())));
        }
        if let Some((matched, condition)) = held.filter(|_| works(route)) {
            return Found::Rule(route.clone(), matched, condition);
        }
    }
    if any_applies { Found::NoMatch } else { Found::NotForCaller }
}

/// A redirect with another code than these passes Istio's validation and does nothing.
fn works(route: &Route) -> bool {
    match &route.action {
        Action::Redirect(redirect) => matches!(redirect.code, 301 | 302 | 303 | 307 | 308),
        Action::Forward(_) | Action::Direct(_) => true,
    }
}

/// The route to a service by its name: its DestinationRules apply, no VirtualService does. What a node asks for a workload of this
/// namespace takes it.
pub fn to_service(compiled: &Compiled, service: &ServiceName, port: u16, namespace: &str) -> Routed {
    plain(compiled, service.clone(), port, namespace)
}

fn plain(compiled: &Compiled, service: ServiceName, port: u16, namespace: &str) -> Routed {
    let route = compiled.default_route(&service, namespace);
    Routed { host: Addressed::Service(service), port, route, matched: UriMatched::Nothing, condition: None }
}

#[cfg(test)]
mod tests;
