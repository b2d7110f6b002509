//! What a page is about: a service, or a host of a ServiceEntry.

use std::fmt;

use certs::id::ServiceName;

use crate::agent::admin::api::Port;

/// By its names.
pub(super) struct Of {
    pub(super) namespace: String,
    pub(super) name: String,
    /// Of no entry.
    pub(super) service: Option<ServiceName>,
}

impl fmt::Display for Of {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl Of {
    pub(super) fn service(service: ServiceName) -> Self {
        let (namespace, name) = (service.namespace().to_owned(), service.name().to_owned());
        Self { namespace, name, service: Some(service) }
    }

    pub(super) fn entry(namespace: String, host: String) -> Self {
        Self { namespace, name: host, service: None }
    }

    /// Whether a host of a route is one of its names.
    pub(super) fn is_named(&self, host: &str) -> bool {
        let Some(service) = &self.service else { return self.name == host };
        let short = [self.name.clone(), format!("{}.{}", self.name, self.namespace)];
        short.iter().any(|name| name == host) || host == policy::hosts::full_name(service)
    }

    /// What to ask `explain` about it: a request, or a connection where the port has bytes.
    pub(super) fn url(&self, ports: &[Port]) -> Option<String> {
        let host = match &self.service {
            Some(_) => format!("{}.{}", self.name, self.namespace),
            // A host with a wildcard is none that somebody asks for.
            None if self.name.contains('*') => return None,
            None => self.name.clone(),
        };
        let Some(port) = ports.first() else { return Some(format!("http://{host}/")) };
        Some(match port.protocol.as_str() {
            "http" | "http2" | "grpc" | "" => format!("http://{host}:{}/", port.port),
            "tls" => format!("tls://{host}:{}", port.port),
            _ => format!("tcp://{host}:{}", port.port),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(name: &str) -> Of {
        Of::service(ServiceName::new("shop", name).unwrap())
    }

    #[test]
    fn a_route_is_known_by_each_of_its_names() {
        let of = service("cart");
        for host in ["cart", "cart.shop", "cart.shop.svc.cluster.local"] {
            assert!(of.is_named(host), "{host}");
        }
        assert!(!of.is_named("cart.other") && !of.is_named("*.shop"));
        let entry = Of::entry("shop".into(), "api.example.com".into());
        assert!(entry.is_named("api.example.com") && !entry.is_named("api.example.com.shop"));
    }

    #[test]
    fn explain_is_asked_what_the_first_port_speaks() {
        let port = |port, protocol: &str| [Port { name: String::new(), port, protocol: protocol.into() }];
        let entry = |host: &str| Of::entry("shop".into(), host.into());
        for (of, ports, url) in [
            (service("cart"), port(9080, "grpc"), Some("http://cart.shop:9080/")),
            (service("db"), port(5432, "tcp"), Some("tcp://db.shop:5432")),
            (service("web"), port(443, "tls"), Some("tls://web.shop:443")),
            (entry("api.example.com"), port(443, "tls"), Some("tls://api.example.com:443")),
            (entry("*.example.com"), port(443, "tls"), None),
        ] {
            assert_eq!(of.url(&ports).as_deref(), url);
        }
    }
}
