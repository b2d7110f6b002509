//! Which endpoints of a destination may be chosen, and why the others are out. Asked by the proxy once per destination and
//! snapshot, and by whoever explains what it does.

use std::{collections::BTreeMap, fmt, sync::Arc};

use policy::{
    hosts::Protocol,
    route::{Destination, Subset},
};

use crate::snapshot::{Endpoint, Service, Services};

/// Why a destination has no endpoints at all: 503 NC.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoCluster {
    /// No service is called so.
    #[error("no service is called `{0}`")]
    Service(String),
    /// It has no such port.
    #[error("`{0}` has no port {1}")]
    Port(String, u16),
    /// Another protocol is spoken there.
    #[error("port {1} of `{0}` is not for {2}")]
    Protocol(String, u16, Carries),
    /// No DestinationRule that the caller sees defines the subset.
    #[error("no DestinationRule for `{0}` defines the subset `{1}`")]
    Subset(String, String),
}

/// What is to be carried to an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Carries {
    /// Requests that came by HTTP/1.1.
    Http1,
    /// Requests that came by HTTP/2.
    Http2,
    /// A connection's bytes.
    Bytes,
}

impl Carries {
    /// Whether a port that declares this protocol takes them.
    #[must_use]
    pub const fn suits(self, declared: Protocol) -> bool {
        match declared {
            Protocol::Sniffed => true,
            Protocol::Http | Protocol::Http2 | Protocol::Grpc => !matches!(self, Self::Bytes),
            Protocol::Tcp | Protocol::Tls => matches!(self, Self::Bytes),
        }
    }
}

impl fmt::Display for Carries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http1 | Self::Http2 => "HTTP",
            Self::Bytes => "bytes",
        })
    }
}

/// Why an endpoint gets no request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Out {
    /// Its owner's check fails, its node is gone or drains.
    Unhealthy,
    /// Its weight is 0.
    Weightless,
    /// It is not of the subset.
    OtherSubset,
    /// It does not serve the port.
    OtherPort,
}

impl fmt::Display for Out {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unhealthy => "unhealthy",
            Self::Weightless => "its weight is 0",
            Self::OtherSubset => "its labels are not those of the subset",
            Self::OtherPort => "it does not serve the port",
        })
    }
}

/// The endpoints of a destination.
#[derive(Debug)]
pub struct Candidates<'s> {
    /// The service that it leads to.
    pub service: &'s Arc<Service>,
    /// What is spoken at its port.
    pub protocol: Protocol,
    port: u16,
    labels: Option<&'s BTreeMap<String, String>>,
}

impl<'s> Candidates<'s> {
    /// The endpoints that a destination may choose from, at this port; `subset` is what the caller sees of it.
    ///
    /// # Errors
    /// Nobody defines the destination.
    pub fn of(
        services: &'s Services,
        destination: &'s Destination,
        subset: &'s Subset,
        port: u16,
        carries: Carries,
    ) -> Result<Self, NoCluster> {
        let host = || destination.host.clone();
        let service = destination.service.as_ref().and_then(|name| services.get(name));
        let service = service.ok_or_else(|| NoCluster::Service(host()))?;
        let known = service.ports.iter().find(|known| known.number == port);
        let protocol = known.ok_or_else(|| NoCluster::Port(host(), port))?.protocol;
        if !carries.suits(protocol) {
            return Err(NoCluster::Protocol(host(), port, carries));
        }
        let labels = match subset {
            Subset::All => None,
            Subset::Labels(labels) => Some(&**labels),
            Subset::Missing(name) => return Err(NoCluster::Subset(host(), name.clone())),
        };
        Ok(Self { service, protocol, port, labels })
    }

    /// Those of the subset that serve the port and take traffic, healthy or not: what a balancer is built from.
    pub fn members(&self) -> impl Iterator<Item = &'s Arc<Endpoint>> {
        let belongs = |endpoint: &&Arc<Endpoint>| matches!(self.why_out(endpoint), None | Some(Out::Unhealthy));
        self.service.endpoints.iter().filter(belongs)
    }

    /// Why an endpoint of the service gets no request; `None` if it may get one.
    #[must_use]
    pub fn why_out(&self, endpoint: &Endpoint) -> Option<Out> {
        if self.labels.is_some_and(|labels| !endpoint.has_labels(labels)) {
            Some(Out::OtherSubset)
        } else if !endpoint.ports.iter().any(|own| own.number == self.port) {
            Some(Out::OtherPort)
        } else if endpoint.weight == 0 {
            Some(Out::Weightless)
        } else {
            (!endpoint.healthy).then_some(Out::Unhealthy)
        }
    }
}

#[cfg(test)]
mod tests {
    use certs::id::{NodeId, ServiceAccount, ServiceName};
    use policy::{compile::Compiled, history::State, hosts::ServicePort, route::survey};

    use super::*;
    use crate::snapshot::EndpointId;

    fn endpoint(node: &str, version: &str, port: u16) -> Endpoint {
        Endpoint {
            id: EndpointId {
                node: NodeId::new(node).unwrap(),
                service: ServiceName::new("shop", "cart").unwrap(),
                instance: None,
            },
            address: "127.0.0.1:15008".parse().unwrap(),
            account: ServiceAccount::new("shop", "cart").unwrap(),
            labels: Arc::new(BTreeMap::from([("version".to_owned(), version.to_owned())])),
            locality: "".into(),
            weight: 1,
            ports: Arc::new([ServicePort { name: "http".to_owned(), number: port, protocol: Protocol::Http }]),
            healthy: true,
            reason: "".into(),
            local: false,
            stats: Arc::default(),
        }
    }

    /// The default destination of the service, to be altered.
    fn destination() -> Destination {
        let compiled = Compiled::build(&State::nothing(), None);
        let rules = survey::rules(&compiled, &ServiceName::new("shop", "cart").unwrap(), "shop");
        rules[0].route.choose(0).unwrap().clone()
    }

    #[test]
    fn each_endpoint_that_is_out_has_a_reason() {
        let sick = Endpoint { healthy: false, ..endpoint("b", "v1", 80) };
        let idle = Endpoint { weight: 0, ..endpoint("c", "v1", 80) };
        let all = [endpoint("a", "v1", 80), sick, idle, endpoint("d", "v2", 80), endpoint("e", "v1", 81)];
        let services = Services::new(all);
        let labels = Arc::new(BTreeMap::from([("version".to_owned(), "v1".to_owned())]));
        let (wanted, subset) = (destination(), Subset::Labels(labels));
        let candidates = Candidates::of(&services, &wanted, &subset, 80, Carries::Http1).unwrap();
        let why: Vec<_> = candidates.service.endpoints.iter().map(|endpoint| candidates.why_out(endpoint)).collect();
        let out = [None, Some(Out::Unhealthy), Some(Out::Weightless), Some(Out::OtherSubset), Some(Out::OtherPort)];
        assert_eq!(why, out);
        assert_eq!(candidates.members().map(|endpoint| endpoint.id.node.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    }

    #[test]
    fn what_nobody_defines_is_named() {
        let services = Services::new([endpoint("a", "v1", 80)]);
        let host = "cart.shop.svc.cluster.local".to_owned();
        let why = |destination: &Destination, subset: &Subset, port| {
            Candidates::of(&services, destination, subset, port, Carries::Http1).err()
        };
        assert_eq!(why(&destination(), &Subset::All, 80), None);
        assert_eq!(why(&destination(), &Subset::All, 81), Some(NoCluster::Port(host.clone(), 81)));
        let missing = Subset::Missing("v9".into());
        assert_eq!(why(&destination(), &missing, 80), Some(NoCluster::Subset(host.clone(), "v9".into())));
        let foreign = Destination { service: None, ..destination() };
        assert_eq!(why(&foreign, &Subset::All, 80), Some(NoCluster::Service(host.clone())));
        for (protocol, refused) in
            [(Protocol::Tcp, Carries::Http2), (Protocol::Tls, Carries::Http1), (Protocol::Grpc, Carries::Bytes)]
        {
            let mut other = endpoint("a", "v1", 80);
            other.ports = Arc::new([ServicePort { name: "raw".into(), number: 80, protocol }]);
            let services = Services::new([other]);
            let why = |carries| Candidates::of(&services, &destination(), &Subset::All, 80, carries).err();
            assert_eq!(why(refused), Some(NoCluster::Protocol(host.clone(), 80, refused)));
        }
    }
}
