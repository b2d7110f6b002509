//! `VirtualService`: routes that a caller's proxy uses for a host.

use std::collections::BTreeSet;

use super::HttpRoute;
use crate::{
    codes,
    decode::{At, Fields},
    hosts,
};

/// `VirtualService`, with host names expanded.
#[derive(Debug, Clone, PartialEq)]
pub struct VirtualService {
    /// Expanded, lower case; a wildcard only as prefix.
    pub hosts: Vec<String>,
    /// In order; the first match wins.
    pub http: Vec<HttpRoute>,
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
    pub(crate) fn decode(spec: &At<'_>, namespace: &str) -> Option<Self> {
        let fields = spec.fields()?;
        let for_mesh = fields.get("gateways").is_none_or(|gateways| only_mesh(&gateways));
        let hosts = decode_hosts(&fields, namespace, for_mesh);
        fields.not_supported(&["tls", "tcp"]);
        let http = decode_routes(&fields, namespace);
        let export_to = ExportTo::decode(&fields, namespace);
        fields.finish();
        Some(Self { hosts, http, export_to })
    }
}

/// Expanded hosts; none is a delegate, which is not built. Gateways' hosts follow other rules: nothing is said of these.
fn decode_hosts(fields: &Fields<'_>, namespace: &str, for_mesh: bool) -> Vec<String> {
    let list = fields.get("hosts");
    let mut hosts: Vec<String> = Vec::new();
    let items = list.as_ref().map(At::text_list).unwrap_or_default();
    if items.is_empty() {
        fields.at.unbuilt("a VirtualService without `hosts` (a delegate)");
    }
    for (host, at) in items {
        if !for_mesh {
            continue;
        }
        if host == "*" {
            at.error_as_istio(
                codes::HOST,
                "wildcard host * is not allowed for virtual services bound to the mesh gateway",
                "name the service",
            );
            continue;
        }
        if !hosts::is_wildcard_name(host) && host.parse::<std::net::IpAddr>().is_err() {
            at.error(codes::HOST, format!("`{host}` is not a host name"));
            continue;
        }
        let host = hosts::expand(host, namespace);
        if let Some(other) = hosts.iter().find(|other| hosts::overlap(other, &host)) {
            at.error(codes::DUPLICATE, format!("`{host}` overlaps `{other}`"));
        }
        hosts.push(host);
    }
    hosts
}

/// `gateways` may name the mesh only: complains of others, and says whether there are none.
pub(super) fn only_mesh(gateways: &At<'_>) -> bool {
    let names = gateways.text_list();
    let others = names.iter().filter(|(name, _)| *name != "mesh");
    others
        .map(|(name, at)| {
            at.unbuilt(format!("gateways: `{name}`"));
        })
        .count()
        == 0
}

fn decode_routes(fields: &Fields<'_>, namespace: &str) -> Vec<HttpRoute> {
    let list = fields.get("http");
    let routes = list.as_ref().map(At::items).unwrap_or_default();
    if routes.is_empty() && !fields.has("tls") && !fields.has("tcp") {
        fields.at.error_as_istio(codes::MISSING, "http, tcp or tls must be provided in virtual service", "");
    }
    let decoded: Vec<HttpRoute> = routes.iter().filter_map(|route| HttpRoute::decode(route, namespace)).collect();
    if fields.at.out.errors() == 0 {
        super::http_route::warn_unreachable(&routes, &decoded);
    }
    decoded
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
