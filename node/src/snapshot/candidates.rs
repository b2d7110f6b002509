//! Which endpoints of a destination may be chosen, and why the others are out. Asked by the proxy once per destination and
//! snapshot, and by whoever explains what it does.

use std::{collections::BTreeMap, fmt, sync::Arc};

use policy::{
    hosts::{Protocol, ServicePort},
    route::{Addressed, ClusterPolicy, Destination, Subset},
};

use super::{Foreign, Instance, Service, Snapshot};

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
    /// Requests would come to it in clear, by the mesh, where it takes TLS.
    TakesTls,
}

impl fmt::Display for Out {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unhealthy => "unhealthy",
            Self::Weightless => "its weight is 0",
            Self::OtherSubset => "its labels are not those of the subset",
            Self::OtherPort => "it does not serve the port",
            Self::TakesTls => "its port takes TLS, which nobody speaks within the mesh's own",
        })
    }
}

/// The endpoints of a destination.
#[derive(Debug)]
pub struct Candidates<'s> {
    /// What it leads to.
    called: Called<'s>,
    /// What is spoken at its port.
    pub protocol: Protocol,
    port: u16,
    labels: Option<&'s BTreeMap<String, String>>,
    /// Requests go to a port of TLS, which this node speaks for them.
    originates: bool,
}

/// What a destination's host means.
#[derive(Debug)]
enum Called<'s> {
    /// A registered service.
    Service(&'s Arc<Service>),
    /// A host of a ServiceEntry.
    Entry(&'s Arc<Foreign>),
}

impl<'s> Called<'s> {
    /// A registered service goes before a ServiceEntry.
    fn of(snapshot: &'s Snapshot, destination: &Destination, namespace: &str) -> Option<Self> {
        if let Some(service) = destination.service.as_ref().and_then(|name| snapshot.services.get(name)) {
            return Some(Self::Service(service));
        }
        let made = snapshot.compiled.entries().find(&destination.host, namespace)?;
        snapshot.foreign.get(made).map(Self::Entry)
    }

    fn ports(&self) -> &'s [ServicePort] {
        match self {
            Self::Service(service) => &service.ports,
            Self::Entry(foreign) => &foreign.service.ports,
        }
    }
}

impl<'s> Candidates<'s> {
    /// The endpoints that a destination may choose from, at this port, for callers in this namespace; `subset` is what the caller sees
    /// of it, and `policy` what holds for it at the port.
    ///
    /// # Errors
    /// Nobody defines the destination.
    pub fn of(
        snapshot: &'s Snapshot,
        namespace: &str,
        (destination, subset): (&'s Destination, &'s Subset),
        port: u16,
        carries: Carries,
        policy: &ClusterPolicy,
    ) -> Result<Self, NoCluster> {
        let host = || destination.host.clone();
        let called = Called::of(snapshot, destination, namespace).ok_or_else(|| NoCluster::Service(host()))?;
        let known = called.ports().iter().find(|known| known.number == port);
        let protocol = known.ok_or_else(|| NoCluster::Port(host(), port))?.protocol;
        // Requests that came in clear go to a port of TLS where this node speaks TLS for them.
        let is_tls = matches!(called, Called::Entry(_)) && protocol == Protocol::Tls;
        let suits = carries.suits(protocol);
        let originates = !suits && is_tls && policy.originates_tls();
        if !suits && !originates {
            return Err(NoCluster::Protocol(host(), port, carries));
        }
        let labels = match subset {
            Subset::All => None,
            Subset::Labels(labels) => Some(&**labels),
            Subset::Missing(name) => return Err(NoCluster::Subset(host(), name.clone())),
        };
        Ok(Self { called, protocol, port, labels, originates })
    }

    /// What is called.
    #[must_use]
    pub fn addressed(&self) -> Addressed {
        match self.called {
            Called::Service(service) => Addressed::from(&service.name),
            Called::Entry(foreign) => Addressed::from(&*foreign.service),
        }
    }

    /// The ServiceEntry's word, if one makes what is called.
    #[must_use]
    pub fn entry(&self) -> Option<&'s Arc<Foreign>> {
        match self.called {
            Called::Service(_) => None,
            Called::Entry(foreign) => Some(foreign),
        }
    }

    /// All endpoints, sorted.
    #[must_use]
    pub fn instances(&self) -> Vec<Instance> {
        match self.called {
            Called::Service(service) => service.endpoints.iter().map(Instance::from).collect(),
            Called::Entry(foreign) => foreign.instances.to_vec(),
        }
    }

    /// Those of the subset that serve the port and take traffic, healthy or not: what a balancer is built from.
    #[must_use]
    pub fn members(&self) -> Vec<Instance> {
        let belongs = |instance: &Instance| matches!(self.why_out(instance), None | Some(Out::Unhealthy));
        self.instances().into_iter().filter(belongs).collect()
    }

    /// The port of its own on which an endpoint takes what goes here: of an application beside a node the service's.
    #[must_use]
    pub fn port_of(&self, instance: &Instance) -> Option<u16> {
        match (&self.called, instance) {
            (Called::Entry(foreign), _) => foreign.port_of(instance, self.port),
            (Called::Service(_), Instance::Mesh(endpoint)) => {
                endpoint.ports.iter().any(|own| own.number == self.port).then_some(self.port)
            }
            (Called::Service(_), Instance::Outside(_)) => None,
        }
    }

    /// Why an endpoint of the service gets no request; `None` if it may get one.
    #[must_use]
    pub fn why_out(&self, endpoint: &Instance) -> Option<Out> {
        if self.labels.is_some_and(|labels| !endpoint.has_labels(labels)) {
            Some(Out::OtherSubset)
        } else if self.port_of(endpoint).is_none() {
            Some(Out::OtherPort)
        } else if self.originates && matches!(endpoint, Instance::Mesh(_)) {
            Some(Out::TakesTls)
        } else if endpoint.weight() == 0 {
            Some(Out::Weightless)
        } else {
            (!endpoint.is_healthy()).then_some(Out::Unhealthy)
        }
    }
}

#[cfg(test)]
mod tests {
    use certs::id::ServiceName;
    use policy::{compile::Compiled, history::State, route::survey};

    use super::*;
    use crate::{
        snapshot::{Endpoint, Services, StatsTable},
        testing,
    };

    fn endpoint(node: &str, version: &str, port: u16) -> Endpoint {
        let service = ServiceName::new("shop", "cart").unwrap();
        Endpoint {
            labels: Arc::new(BTreeMap::from([("version".to_owned(), version.to_owned())])),
            ports: Arc::new([ServicePort { name: "http".to_owned(), number: port, protocol: Protocol::Http }]),
            ..testing::endpoint(node, &service, &StatsTable::default())
        }
    }

    /// The default destination of the service, to be altered.
    fn destination() -> Destination {
        let compiled = Compiled::build(&State::nothing(), None);
        let rules = survey::rules(&compiled, &ServiceName::new("shop", "cart").unwrap(), "shop");
        rules[0].route.choose(|| 0).unwrap().clone()
    }

    #[test]
    fn each_endpoint_that_is_out_has_a_reason() {
        let sick = Endpoint { healthy: false, ..endpoint("b", "v1", 80) };
        let idle = Endpoint { weight: 0, ..endpoint("c", "v1", 80) };
        let all = [endpoint("a", "v1", 80), sick, idle, endpoint("d", "v2", 80), endpoint("e", "v1", 81)];
        let snapshot = testing::snapshot("", Services::new(all));
        let labels = Arc::new(BTreeMap::from([("version".to_owned(), "v1".to_owned())]));
        let (wanted, subset) = (destination(), Subset::Labels(labels));
        let candidates =
            Candidates::of(&snapshot, "shop", (&wanted, &subset), 80, Carries::Http1, &ClusterPolicy::default())
                .unwrap();
        let why: Vec<_> = candidates.instances().iter().map(|endpoint| candidates.why_out(endpoint)).collect();
        let out = [None, Some(Out::Unhealthy), Some(Out::Weightless), Some(Out::OtherSubset), Some(Out::OtherPort)];
        assert_eq!(why, out);
        assert_eq!(candidates.members().len(), 2);
        assert_eq!(candidates.addressed().to_string(), "shop/cart");
    }

    #[test]
    fn what_nobody_defines_is_named() {
        let services = testing::snapshot("", Services::new([endpoint("a", "v1", 80)]));
        let host = "cart.shop.svc.cluster.local".to_owned();
        let why = |destination: &Destination, subset: &Subset, port| {
            let policy = ClusterPolicy::default();
            Candidates::of(&services, "shop", (destination, subset), port, Carries::Http1, &policy).err()
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
            let services = testing::snapshot("", Services::new([other]));
            let wanted = destination();
            let policy = ClusterPolicy::default();
            let why = |carries| Candidates::of(&services, "shop", (&wanted, &Subset::All), 80, carries, &policy).err();
            assert_eq!(why(refused), Some(NoCluster::Protocol(host.clone(), 80, refused)));
        }
    }
}
