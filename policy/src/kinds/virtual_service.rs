//! `VirtualService`: routes that a caller's proxy uses for a host.

use std::collections::BTreeSet;

use super::{
    GatewayName, HttpRoute, TcpRoute, TlsRoute,
    http_route::Scope,
    tcp_route,
    tls_route::{Hosts, is_sni_cluster},
};
use crate::{
    codes,
    decode::{At, Fields},
    hosts,
};

/// `VirtualService`, with host names expanded.
#[derive(Debug, Clone, PartialEq)]
pub struct VirtualService {
    /// Expanded, lower case; a wildcard only as prefix. None: a delegate, whose rules stand only where another names it.
    pub hosts: Vec<String>,
    /// Which proxies use the rules; [`GatewayName::Mesh`] where the document names none.
    pub gateways: Vec<GatewayName>,
    /// In order; the first match wins.
    pub http: Vec<HttpRoute>,
    /// For TLS that is not opened: the most specific server name wins, then the order.
    pub tls: Vec<TlsRoute>,
    /// For all other connections, in order.
    pub tcp: Vec<TcpRoute>,
    /// Which callers see it.
    pub export_to: ExportTo,
}

/// `exportTo`, with `.` resolved to the document's own namespace.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ExportTo {
    /// Absent or `*`.
    #[default]
    All,
    /// Callers in these namespaces.
    Namespaces(BTreeSet<String>),
}

impl ExportTo {
    /// True if a caller in `namespace` sees the document.
    pub fn includes(&self, namespace: &str) -> bool {
        match self {
            Self::All => true,
            Self::Namespaces(namespaces) => namespaces.contains(namespace),
        }
    }
}

impl VirtualService {
    /// True for one without hosts: its rules stand only where another VirtualService delegates to it.
    pub fn is_delegate(&self) -> bool {
        self.hosts.is_empty()
    }

    /// True if callers' proxies use it.
    pub fn is_for_mesh(&self) -> bool {
        self.gateways.contains(&GatewayName::Mesh)
    }

    pub(crate) fn decode(spec: &At<'_>, namespace: &str) -> Option<Self> {
        let fields = spec.fields()?;
        let list = fields.get("gateways");
        let gateways = list.map(|list| GatewayName::decode_list(&list, namespace)).unwrap_or_default();
        let only_gateways = !gateways.is_empty() && !gateways.contains(&GatewayName::Mesh);
        let list = fields.get("hosts");
        let written = list.as_ref().map(At::text_list).unwrap_or_default();
        let delegate = list.as_ref().is_none_or(At::is_empty_list);
        let hosts = if delegate {
            check_delegate(&fields);
            Vec::new()
        } else {
            decode_hosts(&written, namespace, only_gateways, fields.has("tls"))
        };
        if ["http", "tls", "tcp"].iter().all(|name| is_empty(&fields, name)) {
            spec.error_as_istio(codes::MISSING, "http, tcp or tls must be provided in virtual service", "");
        }
        let scope = Scope { namespace, delegate, only_gateways };
        let written: Vec<&str> = written.iter().map(|(host, _)| *host).collect();
        let decoded = Self {
            hosts,
            gateways: if gateways.is_empty() { vec![GatewayName::Mesh] } else { gateways },
            http: decode_http(&fields, &scope),
            tls: decode_tls(&fields, &Hosts { namespace, hosts: &written, only_gateways }),
            tcp: decode_tcp(&fields, namespace),
            export_to: ExportTo::decode(&fields, namespace),
        };
        fields.finish();
        Some(decoded)
    }
}

/// True if the list is absent or has no items.
fn is_empty(fields: &Fields<'_>, name: &'static str) -> bool {
    fields.get(name).as_ref().is_none_or(At::is_empty_list)
}

/// What a VirtualService without hosts must not have.
fn check_delegate(fields: &Fields<'_>) {
    for (name, words) in [("gateways", "gateways"), ("tls", "tls route"), ("tcp", "tcp route")] {
        if !is_empty(fields, name) {
            let message = format!("delegate virtual service must have no {words} specified");
            fields.at.error_as_istio(codes::DELEGATE, message, "a VirtualService without hosts is a delegate");
        }
    }
}

/// Expanded hosts, each once.
fn decode_hosts(written: &[(&str, At<'_>)], namespace: &str, only_gateways: bool, has_tls: bool) -> Vec<String> {
    let mut known: Vec<(&str, String)> = Vec::new();
    for (host, at) in written {
        if *host == "*" && !only_gateways {
            at.error_as_istio(
                codes::HOST,
                "wildcard host * is not allowed for virtual services bound to the mesh gateway",
                "name the service",
            );
            continue;
        }
        let name = hosts::is_wildcard_name(host) || (only_gateways && has_tls && is_sni_cluster(host));
        if !name && host.parse::<std::net::IpAddr>().is_err() {
            at.error(codes::HOST, format!("`{host}` is not a host name"));
            continue;
        }
        let expanded = hosts::expand(host, namespace);
        if let Some((other, _)) = known.iter().find(|(other, _)| hosts::overlap(other, host)) {
            let message = format!("duplicate hosts in virtual service: {other} & {host}");
            at.error_as_istio(codes::DUPLICATE, message, "leave one of them out");
        } else if let Some((other, _)) = known.iter().find(|(_, other)| hosts::overlap(other, &expanded)) {
            at.warn(codes::REPEATED_HOST, format!("`{host}` means the same as `{other}`"), "leave one of them out");
        }
        if known.iter().all(|(_, other)| *other != expanded) {
            known.push((host, expanded));
        }
    }
    known.into_iter().map(|(_, host)| host).collect()
}

fn decode_http(fields: &Fields<'_>, scope: &Scope<'_>) -> Vec<HttpRoute> {
    let list = fields.get("http");
    let routes = list.as_ref().map(At::items).unwrap_or_default();
    let decoded: Vec<HttpRoute> = routes.iter().filter_map(|route| HttpRoute::decode(route, scope)).collect();
    if fields.at.out.errors() == 0 {
        super::http_route::warn_unreachable(&routes, &decoded);
    }
    decoded
}

fn decode_tls(fields: &Fields<'_>, of: &Hosts<'_>) -> Vec<TlsRoute> {
    let Some(list) = fields.get("tls") else { return Vec::new() };
    let routes = list.items();
    let decoded: Vec<(At<'_>, TlsRoute)> =
        routes.iter().filter_map(|route| Some((*route, TlsRoute::decode(route, of)?))).collect();
    tcp_route::warn_unreachable(decoded.iter().map(|(at, route)| (*at, route.matches.as_slice())));
    decoded.into_iter().map(|(_, route)| route).collect()
}

fn decode_tcp(fields: &Fields<'_>, namespace: &str) -> Vec<TcpRoute> {
    let Some(list) = fields.get("tcp") else { return Vec::new() };
    let routes = list.items();
    let decoded: Vec<(At<'_>, TcpRoute)> =
        routes.iter().filter_map(|route| Some((*route, TcpRoute::decode(route, namespace)?))).collect();
    tcp_route::warn_unreachable(decoded.iter().map(|(at, route)| (*at, route.matches.as_slice())));
    decoded.into_iter().map(|(_, route)| route).collect()
}

impl ExportTo {
    pub(super) fn decode(fields: &Fields<'_>, own: &str) -> Self {
        let Some(list) = fields.get("exportTo") else { return Self::All };
        let items = list.text_list();
        if items.is_empty() {
            return Self::All;
        }
        let mut namespaces = BTreeSet::new();
        for (text, at) in &items {
            let namespace = match *text {
                "." => own,
                "*" if items.len() > 1 => {
                    at.error(codes::EXPORT_TO, "`*` stands alone in exportTo");
                    continue;
                }
                "*" => return Self::All,
                "~" => {
                    at.error(codes::EXPORT_TO, "`~` is for ServiceEntry only");
                    continue;
                }
                name if hosts::is_dns_label(name) => name,
                name => {
                    at.error(codes::EXPORT_TO, format!("`{name}` is not a namespace"));
                    continue;
                }
            };
            if !namespaces.insert(namespace.to_owned()) {
                at.error(codes::EXPORT_TO, format!("`{text}` stands twice in exportTo"));
            }
        }
        Self::Namespaces(namespaces)
    }
}

#[cfg(test)]
mod tests;
