//! Who speaks through a local port, where that leads, and as what its traffic is counted before an endpoint is known.

use super::observe;
use crate::{
    balance::{Client, Locality},
    config::SpeakerName,
    proxy::{failure::Cause, local::Local},
    snapshot::Snapshot,
    telemetry::{Pair, Reporter, Security, Workload},
};
use certs::id::{ServiceName, SpiffeId};
use policy::{
    compile::Scope,
    hosts::{Protocol, ServicePort},
    route::{self, Addressed, Called},
};
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

/// Who speaks through a local port, and what it may name there.
#[derive(Debug)]
pub(in crate::proxy) struct Speaker {
    /// Differs between speakers.
    pub(in crate::proxy) id: u64,
    /// `NAMESPACE/NAME[/INSTANCE]`.
    pub(in crate::proxy) name: String,
    pub(in crate::proxy) service: ServiceName,
    pub(in crate::proxy) instance: Option<String>,
    pub(in crate::proxy) identity: SpiffeId,
    pub(in crate::proxy) workload: Arc<Workload>,
    pub(in crate::proxy) source: route::Source,
    /// What the choice of endpoints goes by.
    pub(in crate::proxy) client: Client,
    /// `[[upstream]]`: what the listener leads to, and its port.
    pub(super) fixed: Option<(Called, u16)>,
    /// Requests for other hosts are refused.
    pub(super) own_hosts_only: bool,
    /// The listener's own port.
    pub(super) port: u16,
    pub(super) seen: observe::Seen,
}

impl Speaker {
    /// `None` if the configuration has no such service.
    pub(in crate::proxy) fn new(
        local: &Local,
        snapshot: &Snapshot,
        locality: &Locality,
        name: &SpeakerName,
        fixed: Option<(Called, u16)>,
        port: u16,
    ) -> Option<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let source = local.source(name)?;
        let trust_domain = &snapshot.trust_domain;
        let workload = Workload::of_service(trust_domain, &name.service, &source.account, &source.labels);
        Some(Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            name: name.to_string(),
            service: name.service.clone(),
            instance: name.instance.clone(),
            identity: SpiffeId::service(trust_domain.clone(), source.account.clone()),
            workload: Arc::new(workload),
            client: Client {
                locality: locality.clone(),
                labels: Arc::new(source.labels.clone()),
                // The mesh's of the moment is looked up with the endpoints.
                setting: Arc::default(),
            },
            source,
            fixed,
            own_hosts_only: false,
            port,
            seen: observe::Seen::default(),
        })
    }

    /// What is spoken at the port where the listener leads, as the registry says: HTTP on a proxy port. Of a port that nobody
    /// knows it is found out, so that requests get an answer.
    pub(super) fn declared(&self, snapshot: &Snapshot) -> Protocol {
        let Some((called, port)) = &self.fixed else { return Protocol::Http };
        self.protocol(snapshot, called, *port).unwrap_or(Protocol::Sniffed)
    }

    /// What is spoken at a port of what is called; `None` if this caller knows no such thing.
    pub(super) fn protocol(&self, snapshot: &Snapshot, called: &Called, port: u16) -> Option<Protocol> {
        let of = |ports: &[ServicePort]| ports.iter().find(|known| known.number == port).map(|known| known.protocol);
        let scope = self.scope(snapshot).at(port);
        match called {
            Called::Service(service) if !scope.imported_at(service)(port) => None,
            Called::Service(service) => of(&snapshot.services.get(service)?.ports),
            Called::Host(host) => of(&snapshot.compiled.entries().find(host, scope)?.ports),
        }
    }

    /// What it sees of the mesh.
    pub(in crate::proxy) fn scope<'s>(&'s self, snapshot: &'s Snapshot) -> Scope<'s> {
        snapshot.compiled.scope(&self.source)
    }

    /// True if nothing that it sends may leave the mesh.
    pub(in crate::proxy) fn stays_inside(&self, snapshot: &Snapshot) -> bool {
        snapshot.stays_inside(&self.source)
    }

    /// What becomes of a request for what it does not know: no node is an open proxy, but Istio's status depends on policy.
    pub(super) fn unknown(&self, snapshot: &Snapshot) -> Cause {
        if self.stays_inside(snapshot) { Cause::NotInRegistry } else { Cause::NoRoute }
    }

    /// What is called, as documents and metrics name it.
    pub(super) fn addressed(&self, snapshot: &Snapshot, called: &Called) -> Addressed {
        match called {
            Called::Service(service) => Addressed::from(service),
            Called::Host(host) => match snapshot.compiled.entries().find(host, self.scope(snapshot)) {
                Some(made) => Addressed::from(&**made),
                None => Addressed::Name(Arc::clone(host)),
            },
        }
    }

    /// It calls what means no service. A Host is not a label: callers could make up any number of them.
    pub(in crate::proxy) fn to_nothing(&self) -> Pair {
        self.to("unknown".into(), "BlackHoleCluster".into(), "unknown".into())
    }

    /// It calls a place outside the mesh that nobody registers.
    pub(in crate::proxy) fn to_outside(&self) -> Pair {
        self.to("unknown".into(), "PassthroughCluster".into(), "unknown".into())
    }

    /// It calls a service, and no endpoint is known.
    pub(in crate::proxy) fn to_service(&self, host: &Addressed) -> Pair {
        let (name, namespace) = match host {
            Addressed::Service(service) => (service.name().into(), service.namespace().into()),
            Addressed::Entry { host, namespace } => (Arc::clone(host), Arc::clone(namespace)),
            Addressed::Name(name) => (Arc::clone(name), "unknown".into()),
        };
        self.to(host.full_name().into(), name, namespace)
    }

    fn to(&self, service: Arc<str>, service_name: Arc<str>, service_namespace: Arc<str>) -> Pair {
        Pair {
            reporter: Reporter::Source,
            source: Arc::clone(&self.workload),
            destination: Arc::new(Workload::unknown()),
            service,
            service_name,
            service_namespace,
            security: Security::Unknown,
        }
    }
}
