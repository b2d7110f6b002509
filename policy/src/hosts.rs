//! Host names: matching, expansion, precedence (Istio's pkg/config/host), and which service a name means.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use certs::id::ServiceName;

/// The suffix of every registered service's full name, whatever the trust domain.
pub const REGISTRY_SUFFIX: &str = "svc.cluster.local";

/// What a port speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// HTTP/1.1.
    Http,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// gRPC.
    Grpc,
    /// Bytes.
    Tcp,
    /// TLS, routed by SNI.
    Tls,
    /// Not declared: sniffed.
    Sniffed,
}

impl Protocol {
    /// True if requests on such a port are routed as HTTP.
    pub fn is_http(self) -> bool {
        match self {
            Self::Http | Self::Http2 | Self::Grpc | Self::Sniffed => true,
            Self::Tcp | Self::Tls => false,
        }
    }

    /// True if such a port may carry what is spoken.
    pub fn may_be(self, spoken: Self) -> bool {
        self == Self::Sniffed || self != Self::Tcp && self.is_http() == spoken.is_http()
    }
}

/// A port of a service.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ServicePort {
    /// Its name, may be empty.
    pub name: String,
    /// Its number.
    pub number: u16,
    /// What it speaks.
    pub protocol: Protocol,
}

/// The services that exist now.
pub trait Registry {
    /// The ports of a service; `None` if there is no such service.
    fn ports(&self, service: &ServiceName) -> Option<Arc<[ServicePort]>>;
    /// All services.
    fn services(&self) -> Vec<ServiceName>;
    /// True if some endpoint of the service has all these labels.
    fn labels_exist(&self, service: &ServiceName, labels: &BTreeMap<String, String>) -> bool;
    /// How many endpoints of the service have all these labels, healthy or not; `None` where that is not known.
    fn endpoints(&self, _service: &ServiceName, _labels: &BTreeMap<String, String>) -> Option<usize> {
        None
    }
    /// What is known beside services, for lint.
    fn inventory(&self) -> Inventory {
        Inventory::default()
    }
}

/// What is known of a mesh beside its services. Of what is `None` nothing is known, and lint says nothing of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Inventory {
    /// The workloads of each namespace; those that are alike are one.
    pub workloads: Option<BTreeMap<String, BTreeSet<Workload>>>,
    /// True if there are no other workloads. Files rarely show those that belong to a mesh's installation, such as its gateways.
    pub complete: bool,
    /// Every namespace.
    pub namespaces: Option<BTreeSet<String>>,
    /// Names of credentials (TLS certificates and keys).
    pub credentials: Option<BTreeSet<String>>,
}

/// What policy selects.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Workload {
    /// Its labels.
    pub labels: Arc<BTreeMap<String, String>>,
    /// Its own ports, and what they speak.
    pub ports: BTreeMap<u16, Protocol>,
}

/// The service that a host name (without port) means to a client in `client_namespace`: `n`, `n.ns`, `n.ns.svc`,
/// `n.ns.svc.cluster.local`, `n.ns.mesh`, each with an optional trailing dot and in any case. `None` if there is no such service.
pub fn resolve(host: &str, client_namespace: &str, registry: &dyn Registry) -> Option<ServiceName> {
    let service = named(host, client_namespace)?;
    registry.ports(&service).is_some().then_some(service)
}

/// As [`resolve`], without asking whether the service exists.
pub fn named(host: &str, client_namespace: &str) -> Option<ServiceName> {
    let host = host.strip_suffix('.').unwrap_or(host);
    let host = if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
        std::borrow::Cow::Owned(host.to_ascii_lowercase())
    } else {
        std::borrow::Cow::Borrowed(host)
    };
    let (name, namespace) = match host.split_once('.') {
        None => (host.as_ref(), client_namespace),
        Some((name, rest)) => {
            let (namespace, suffix) = rest.split_once('.').unwrap_or((rest, ""));
            if !matches!(suffix, "" | "svc" | REGISTRY_SUFFIX | "mesh") {
                return None;
            }
            (name, namespace)
        }
    };
    ServiceName::new(namespace, name).ok()
}

/// The service that a full name means, e.g. `reviews.default.svc.cluster.local`; the reverse of [`full_name`].
pub fn service_of(full_name: &str) -> Option<ServiceName> {
    let (name, namespace) = full_name.strip_suffix(REGISTRY_SUFFIX)?.strip_suffix('.')?.split_once('.')?;
    ServiceName::new(namespace, name).ok()
}

/// A service's full name, e.g. `reviews.default.svc.cluster.local`.
pub fn full_name(service: &ServiceName) -> String {
    format!("{}.{}.{REGISTRY_SUFFIX}", service.name(), service.namespace())
}

/// Every name of a service, without a port: what callers of its own namespace may write, and the others.
pub(crate) fn aliases(service: &ServiceName) -> Vec<String> {
    let (name, long) = (service.name(), format!("{}.{}", service.name(), service.namespace()));
    vec![
        name.to_owned(),
        long.clone(),
        format!("{long}.svc"),
        format!("{long}.{REGISTRY_SUFFIX}"),
        format!("{long}.mesh"),
    ]
}

/// A host of a document, lower case: a name without a dot gets the document's own namespace, all else stays.
pub fn expand(host: &str, document_namespace: &str) -> String {
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    if host.contains('.') || host.starts_with('*') || host.parse::<std::net::IpAddr>().is_ok() {
        host
    } else {
        format!("{host}.{document_namespace}.{REGISTRY_SUFFIX}")
    }
}

/// The authority's host and port: `foo:80`, `[::1]:80`. A port that is no number counts as absent.
pub fn split_authority(authority: &str) -> (&str, Option<u16>) {
    match authority.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => match port.parse() {
            Ok(port) => (host, Some(port)),
            Err(_) => (host, None),
        },
        Some(_) | None => (authority, None),
    }
}

/// True if a wildcard (only as prefix) or plain `pattern` covers `host`. `*.foo.com` covers `a.b.foo.com`, not `foo.com`.
pub fn covers(pattern: &str, host: &str) -> bool {
    match (pattern.strip_prefix('*'), host.strip_prefix('*')) {
        (Some(suffix), Some(inner)) => inner.ends_with(suffix),
        (Some(suffix), None) => host.ends_with(suffix),
        (None, Some(_)) => false,
        (None, None) => pattern == host,
    }
}

/// True if a wildcard may cover full names of registered services.
pub(crate) fn may_cover_services(pattern: &str) -> bool {
    pattern.strip_prefix('*').is_some_and(|suffix| {
        let (own, registry) = (suffix.strip_prefix('.').unwrap_or(suffix), REGISTRY_SUFFIX);
        own.ends_with(registry) || registry.ends_with(own)
    })
}

/// True if a host, expanded, is in the form of a registered service's, or a wildcard that may cover some.
pub(crate) fn may_mean_services(host: &str) -> bool {
    service_of(host).is_some() || may_cover_services(host)
}

/// True if some host is covered by both.
pub fn overlap(a: &str, b: &str) -> bool {
    covers(a, b) || covers(b, a)
}

/// Most specific first: exact before wildcard, longer before shorter, then alphabetical.
pub fn by_specificity(a: &str, b: &str) -> std::cmp::Ordering {
    let key = |host: &str| (host.starts_with('*'), std::cmp::Reverse(host.len()));
    key(a).cmp(&key(b)).then_with(|| a.cmp(b))
}

/// A DNS-1123 label as Istio reads it: upper case is accepted.
pub fn is_dns_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    text.len() <= 63
        && edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-')
}

/// Labels joined by dots, at most 255 characters, the last not all digits; one trailing dot is allowed.
pub fn is_dns_name(text: &str) -> bool {
    let name = text.strip_suffix('.').unwrap_or(text);
    let last = name.rsplit('.').next().unwrap_or_default();
    text.len() <= 255 && name.split('.').all(is_dns_label) && !last.bytes().all(|byte| byte.is_ascii_digit())
}

/// The name of a document: labels joined by dots, at most 253 characters.
pub fn is_document_name(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_dns_label)
}

/// A DNS name, or one whose first label is `*`, `*x` or `*-x`, or `*` alone.
pub fn is_wildcard_name(text: &str) -> bool {
    let Some(rest) = text.strip_prefix('*') else { return is_dns_name(text) };
    let rest = rest.strip_prefix(['.', '-']).map_or(rest, |after| if after.is_empty() { "-" } else { after });
    text.len() <= 255 && (rest.is_empty() || is_dns_name(rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_are_prefixes() {
        for (pattern, host, covered) in [
            ("foo.com", "foo.com", true),
            ("*.foo.com", "a.b.foo.com", true),
            ("*.foo.com", "foo.com", false),
            ("*foo.com", "xfoo.com", true),
            ("*foo.com", "foo.com", true),
            ("*", "anything", true),
            ("*.com", "*.foo.com", true),
            ("*.foo.com", "*.com", false),
            ("foo.com", "*.foo.com", false),
            ("*", "*", true),
        ] {
            assert_eq!(covers(pattern, host), covered, "{pattern} {host}");
        }
        assert!(overlap("foo.bar.baz", "*.baz"));
        assert!(!overlap("baz", "*.foo.bar.baz"));
    }

    #[test]
    fn the_most_specific_is_first() {
        let mut hosts = ["b", "*", "a", "*.c", "aa"];
        hosts.sort_by(|a, b| by_specificity(a, b));
        assert_eq!(hosts, ["aa", "a", "b", "*.c", "*"]);
    }

    #[test]
    fn names_mean_services() {
        let service = ServiceName::new("prod", "reviews").unwrap();
        for name in [
            "reviews",
            "reviews.prod",
            "reviews.prod.svc",
            "Reviews.prod.svc.cluster.local",
            "reviews.prod.mesh",
            "reviews.",
            "reviews.prod.",
        ] {
            assert_eq!(named(name, "prod"), Some(service.clone()), "{name}");
        }
        for name in ["reviews.prod.svc.cluster", "", ".", "a..b", "reviews.prod.example", "10.0.0.1", "a_b"] {
            assert_eq!(named(name, "prod"), None, "{name}");
        }
        assert_eq!(service_of(&full_name(&service)), Some(service));
    }

    #[test]
    fn short_names_take_the_documents_namespace() {
        assert_eq!(expand("reviews", "prod"), "reviews.prod.svc.cluster.local");
        assert_eq!(expand("reviews.prod", "x"), "reviews.prod");
        assert_eq!(expand("*", "x"), "*");
        assert_eq!(expand("10.0.0.1", "x"), "10.0.0.1");
    }

    #[test]
    fn authorities_have_ports() {
        assert_eq!(split_authority("foo:80"), ("foo", Some(80)));
        assert_eq!(split_authority("foo"), ("foo", None));
        assert_eq!(split_authority("foo:x"), ("foo", None));
        assert_eq!(split_authority("[::1]:80"), ("[::1]", Some(80)));
        assert_eq!(split_authority("::1"), ("::1", None));
    }

    #[test]
    fn wildcard_names() {
        for good in ["*", "*.com", "*foo", "*-foo.bar.com", "foo.com", "Foo.com.", "a.1a"] {
            assert!(is_wildcard_name(good), "{good}");
        }
        for bad in
            ["", "foo*.bar.com", "a.*.com", "*.", "*-", "1.1.1.1", "*.*.com", "foo..bar", "-a.b", &"a.".repeat(140)]
        {
            assert!(!is_wildcard_name(bad), "{bad}");
        }
    }
}
