//! What the configuration puts beside this node: the services that it serves and those that speak here.

use crate::config::{Port, Service, SpeakerName};
use certs::id::{ServiceAccount, ServiceName};
use foldhash::fast::RandomState;
use policy::route::Source;
use std::{collections::HashMap, net::SocketAddr};

/// A port of a service beside this node, as the configuration names it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct LocalPort {
    /// Whose.
    pub(super) service: SpeakerName,
    /// The service's port.
    pub(super) number: u16,
}

/// The services beside this node. Replaced as a whole when the configuration changes.
#[derive(Debug, Default)]
pub(super) struct Local {
    services: HashMap<ServiceName, Vec<Service>, RandomState>,
}

impl Local {
    /// From the configuration.
    #[must_use]
    pub(super) fn new(services: impl IntoIterator<Item = Service>) -> Self {
        let mut local = Self::default();
        for service in services {
            local.services.entry(service.name.clone()).or_default().push(service);
        }
        local
    }

    /// The service of that name, and instance where there are several.
    #[must_use]
    pub(super) fn service(&self, name: &ServiceName, instance: Option<&str>) -> Option<&Service> {
        self.services.get(name)?.iter().find(|service| service.instance.as_deref() == instance)
    }

    /// All of them, in the order of their names.
    pub(super) fn services(&self) -> Vec<&Service> {
        let mut all: Vec<&Service> = self.services.values().flatten().collect();
        all.sort_by(|a, b| (&a.name, &a.instance).cmp(&(&b.name, &b.instance)));
        all
    }

    /// The application's port behind a service port, if this account serves it here.
    pub(super) fn port(
        &self,
        name: &ServiceName,
        instance: Option<&str>,
        account: &ServiceAccount,
        port: u16,
    ) -> Option<(&Service, &Port)> {
        let service = self.service(name, instance).filter(|service| service.account == *account)?;
        service.ports.iter().find(|known| known.number == port).map(|port| (service, port))
    }

    /// A port and its service, if they are there.
    pub(super) fn find(&self, port: &LocalPort) -> Option<(&Service, &Port)> {
        let service = self.service(&port.service.service, port.service.instance.as_deref())?;
        service.ports.iter().find(|known| known.number == port.number).map(|port| (service, port))
    }

    /// The port whose application listens at this address of the machine. One that names the address comes before those that name
    /// loopback or none, and last comes one that names another address and shares its port with nobody.
    pub(super) fn at(&self, address: SocketAddr) -> Option<LocalPort> {
        let ports = || {
            let of = |service: &&Service| SpeakerName::of(service);
            self.services()
                .into_iter()
                .flat_map(move |service| service.ports.iter().map(move |port| (of(&service), port)))
        };
        let named = |target: SocketAddr| target.ip().to_canonical() == address.ip().to_canonical();
        let unnamed = |target: SocketAddr| target.ip().is_loopback() || target.ip().is_unspecified();
        let here = |port: &Port| port.target.port() == address.port();
        let found = ports().find(|(_, port)| here(port) && named(port.target));
        let found = found.or_else(|| ports().find(|(_, port)| here(port) && unnamed(port.target)));
        let alone = || {
            let (service, port) = ports().find(|(_, port)| here(port))?;
            ports().all(|(_, other)| !here(other) || other.target == port.target).then_some((service, port))
        };
        let (service, port) = found.or_else(alone)?;
        Some(LocalPort { service, number: port.number })
    }

    /// Who speaks through a port: what its requests are routed as.
    #[must_use]
    pub(super) fn source(&self, speaker: &SpeakerName) -> Option<Source> {
        let service = self.service(&speaker.service, speaker.instance.as_deref())?;
        Some(Source {
            namespace: service.name.namespace().to_owned(),
            labels: service.labels.clone(),
            account: service.account.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn an_address_of_the_machine_belongs_to_the_port_whose_application_is_there() {
        let service = |name: &str, ports: &str| {
            let text = format!("[[service]]\nname = \"{name}\"\nports = [{ports}]\n");
            crate::config::service_from_toml(Path::new("a.toml"), &text).unwrap()
        };
        let local = Local::new([
            service("web", "{ port = 80, target = \"127.0.0.1:8080\" }, { port = 81, target = \"0.0.0.0:8081\" }"),
            service("db", "{ port = 5432, target = \"10.0.0.5:5432\" }"),
            service("two", "{ port = 1, target = \"127.0.0.1:5432\" }, { port = 2, target = \"[fd00::5]:9\" }"),
        ]);
        let shared = [
            service("a", "{ port = 1, target = \"10.0.0.5:7\" }"),
            service("b", "{ port = 1, target = \"10.0.0.6:7\" }"),
        ];
        assert_eq!(Local::new(shared).at("10.0.0.7:7".parse().unwrap()), None, "it may be either");
        let at = |address: &str| local.at(address.parse().unwrap()).map(|port| (port.service.to_string(), port.number));
        let port = |service: &str, number| Some((format!("default/{service}"), number));
        assert_eq!(at("10.0.0.5:8080"), port("web", 80));
        assert_eq!(at("[fd00::5]:8081"), port("web", 81));
        assert_eq!(at("10.0.0.5:5432"), port("db", 5432), "the one that names the address");
        assert_eq!(at("[::ffff:10.0.0.5]:5432"), port("db", 5432));
        assert_eq!(at("10.0.0.6:5432"), port("two", 1));
        assert_eq!((at("[fd00::5]:9"), at("[fd00::6]:9")), (port("two", 2), port("two", 2)), "it can be no other");
        assert_eq!(at("10.0.0.5:80"), None, "the service's number is not where the application listens");
    }
}
