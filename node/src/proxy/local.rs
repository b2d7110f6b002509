//! What the configuration puts beside this node: the services that it serves and those that speak here.

use crate::config::{Port, Service, Speaker};
use certs::id::{ServiceAccount, ServiceName};
use policy::route::Source;
use std::collections::HashMap;

/// The services beside this node. Replaced as a whole when the configuration changes.
#[derive(Debug, Default)]
pub(super) struct Local {
    services: HashMap<ServiceName, Vec<Service>>,
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

    /// Who speaks through a port: what its requests are routed as.
    #[must_use]
    pub(super) fn source(&self, speaker: &Speaker) -> Option<Source> {
        let service = self.service(&speaker.service, speaker.instance.as_deref())?;
        Some(Source {
            namespace: service.name.namespace().to_owned(),
            labels: service.labels.clone(),
            account: service.account.clone(),
        })
    }
}
