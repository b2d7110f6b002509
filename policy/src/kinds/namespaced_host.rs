//! `[namespace/]dnsName`: hosts of some or all namespaces, as Gateways and Sidecars name them.

use crate::{codes, decode::At, hosts};

/// Hosts of one namespace, or of all.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NamespacedHost {
    /// Whose hosts; `None` is every namespace. `.` is resolved to the document's own.
    pub namespace: Option<String>,
    /// `*`, `*.example.com`, a name with a dot, or an IP address; lower case.
    pub host: String,
}

/// What may be said of hosts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum HostOwner {
    Gateway,
    Sidecar,
}

impl NamespacedHost {
    /// `namespace` as it was written, `*` if it was left out; `name` as it was written.
    pub(super) fn decode(at: &At<'_>, (namespace, name): (&str, &str), own: &str, owner: HostOwner) -> Option<Self> {
        if namespace.is_empty() || name.is_empty() {
            let message = "config namespace and dnsName in host entry cannot be empty";
            at.error_as_istio(codes::HOST, message, "write namespace/dnsName, either of them may be *");
            return None;
        }
        let namespace = match namespace {
            "*" => Some(None),
            "." => Some(Some(own.to_owned())),
            name if hosts::is_dns_label(name) => Some(Some(name.to_owned())),
            name => {
                let place = if owner == HostOwner::Gateway { "gateway" } else { "sidecar" };
                at.error_as_istio(codes::NAME, format!("invalid namespace value {name:?} in {place}"), "");
                None
            }
        };
        let host = decode_name(at, name, owner);
        Some(Self { namespace: namespace?, host: host? })
    }

    /// True if hosts of the namespace are meant.
    pub fn is_of(&self, namespace: &str) -> bool {
        self.namespace.as_ref().is_none_or(|own| own == namespace)
    }
}

fn decode_name(at: &At<'_>, name: &str, owner: HostOwner) -> Option<String> {
    if name != "*" && !name.contains('.') {
        let message = "short names (non FQDN) are not allowed";
        at.error_as_istio(codes::HOST, message, "write the whole name, e.g. reviews.shop.svc.cluster.local");
        return None;
    }
    let address = owner == HostOwner::Gateway && name.parse::<std::net::IpAddr>().is_ok();
    if !address && !hosts::is_wildcard_name(name) {
        at.error(codes::HOST, format!("domain name {name:?} invalid"));
        return None;
    }
    if name.len() > 1 && name.starts_with('*') && !name.starts_with("*.") {
        at.error_as_istio(codes::HOST, format!("partial wildcard {name:?} not allowed"), "write *.example.com");
        return None;
    }
    Some(name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase())
}
