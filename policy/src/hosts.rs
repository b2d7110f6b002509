//! Host names: matching, expansion, precedence (Istio's pkg/config/host), and which service a name means.

use std::{collections::BTreeMap, sync::Arc};

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
}

/// A port of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
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
}

/// The service that a host name (without port) means to a client in `client_namespace`: `n`, `n.ns`, `n.ns.svc`,
/// `n.ns.svc.cluster.local`, `n.ns.mesh`, each with an optional trailing dot and in any case. `None` if there is no such service.
pub fn resolve(_host: &str, _client_namespace: &str, _registry: &dyn Registry) -> Option<ServiceName> {
    todo!()
}

/// A service's full name, e.g. `reviews.default.svc.cluster.local`.
pub fn full_name(service: &ServiceName) -> String {
    format!("{}.{}.{REGISTRY_SUFFIX}", service.name(), service.namespace())
}
