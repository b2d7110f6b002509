//! The questions that change nothing, each answered by one function of its own file.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::SocketAddr,
    sync::Arc,
};

use certs::{
    id::{NodeId, ServiceName},
    root::bundle_to_pem,
    trust::root_id,
    verify::{anchor, describe},
};
use policy::{DocumentId, Kind, route::Addressed};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Admin, api, error::Error, past::LogFilter, rfc3339};
use crate::{
    balance::{Key, Resource},
    snapshot::{Endpoint, Foreign, Instance, Snapshot},
};

/// A question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Look {
    /// How the mesh is.
    Status,
    /// The nodes; `all`: also those that are long gone.
    Members {
        /// Also those that left more than 1 h ago or are dead for more than 72 h.
        all: bool,
        /// Also whom each reaches, as it says itself.
        reach: bool,
    },
    /// What is known of one node.
    Member(NodeId),
    /// The services, or one of them.
    Services(Option<ServiceName>),
    /// The endpoints, or those of one service.
    Endpoints(Option<ServiceName>),
    /// How often this node's services may be called.
    Limits,
    /// Endpoints that are left out because they fail.
    Outliers,
    /// What needs attention at any node that answers.
    Concerns,
    /// Where requests go.
    Routes,
    /// What runs beside this node.
    LocalServices,
    /// What this node shows in TLS.
    Identities,
    /// What operators need.
    Mesh,
    /// The documents in effect, or some of them.
    Documents(Documents),
    /// What was pushed, newest first.
    Log(LogFilter),
}

/// A kind of this build, as people type it: in any case, and also its plural.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KindName(pub(crate) Kind);

impl<'de> Deserialize<'de> for KindName {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let word = String::deserialize(deserializer)?;
        word.parse().map(Self).map_err(serde::de::Error::custom)
    }
}

/// Which documents; all where it says nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
pub(crate) struct Documents {
    /// Of this kind only.
    kind: Option<KindName>,
    /// Of this namespace only.
    namespace: Option<String>,
}

impl Documents {
    /// Whether it is one of these.
    pub(super) fn include(&self, id: &DocumentId) -> bool {
        let is_of = |namespace: &String| *namespace == id.namespace;
        self.kind.is_none_or(|KindName(kind)| id.kind == kind) && self.namespace.as_ref().is_none_or(is_of)
    }
}

impl Look {
    /// How a watch calls the answer if it is a list.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Members { .. } => "members",
            Self::Member(_) => "member",
            Self::Services(_) | Self::LocalServices => "services",
            Self::Endpoints(_) => "endpoints",
            Self::Limits => "limits",
            Self::Outliers => "outliers",
            Self::Concerns => "concerns",
            Self::Routes => "routes",
            Self::Identities => "identities",
            Self::Mesh => "mesh",
            Self::Documents(_) => "documents",
            Self::Log(_) => "log",
        }
    }
}

impl Look {
    /// Whether it must be asked again and again: the answer counts what happens all the time, or is of other nodes.
    pub(super) fn is_counted(&self) -> bool {
        match self {
            Self::Limits | Self::Concerns => true,
            Self::Status
            | Self::Members { .. }
            | Self::Member(_)
            | Self::Services(_)
            | Self::Endpoints(_)
            | Self::Outliers
            | Self::Routes
            | Self::LocalServices
            | Self::Identities
            | Self::Mesh
            | Self::Documents(_)
            | Self::Log(_) => false,
        }
    }
}

impl Admin {
    /// Answers a question.
    ///
    /// # Errors
    /// `not_found`.
    pub(super) async fn look(&self, look: &Look) -> Result<Value, Error> {
        match look {
            Look::Status => value(&self.status()),
            Look::Members { all, reach: false } => value(&self.members(*all)),
            Look::Members { all, reach: true } => value(&self.matrix(*all).await),
            Look::Member(node) => value(&self.member(node)?),
            Look::Services(of) => value(&self.services(of.as_ref())?),
            Look::Endpoints(of) => value(&self.endpoints(of.as_ref())),
            Look::Limits => value(&self.limits()),
            Look::Outliers => value(&self.outliers()),
            Look::Concerns => value(&*self.concerns().await),
            Look::Routes => value(&super::routes::rows(&self.agent.state())),
            Look::LocalServices => value(&self.local_services()),
            Look::Identities => value(&self.identities()),
            Look::Mesh => value(&self.mesh()),
            Look::Documents(of) => value(&self.documents(of)),
            Look::Log(filter) => value(&self.log(filter).await?),
        }
    }

    pub(crate) fn services(&self, of: Option<&ServiceName>) -> Result<Vec<api::Service>, Error> {
        let snapshot = self.agent.snapshot();
        let mut services: Vec<_> =
            snapshot.services.iter().filter(|service| of.is_none_or(|of| service.name == *of)).cloned().collect();
        services.sort_by(|a, b| a.name.cmp(&b.name));
        if let (Some(of), true) = (of, services.is_empty()) {
            return Err(Error::new("not_found", format!("no node offers {of}")).hint("`skein services` lists all"));
        }
        let circuits = self.circuits.panicking();
        let panicking: HashSet<&ServiceName> = circuits.iter().filter_map(|circuit| circuit.called.service()).collect();
        let row = |service: &std::sync::Arc<crate::snapshot::Service>| api::Service {
            namespace: service.name.namespace().to_owned(),
            name: service.name.name().to_owned(),
            ports: ports(&service.ports),
            endpoints: service.endpoints.len(),
            healthy: service.endpoints.iter().filter(|endpoint| endpoint.healthy).count(),
            panic: panicking.contains(&service.name),
            entry: None,
            by_name: false,
            overflows: Vec::new(),
        };
        let mut rows: Vec<_> = services.iter().map(row).collect();
        if of.is_none() {
            rows.extend(foreign_services(&snapshot));
        }
        self.tell_overflows(&mut rows);
        Ok(rows)
    }

    /// Adds the limits that were met on the way to these services.
    fn tell_overflows(&self, rows: &mut [api::Service]) {
        let mut met: HashMap<(String, String), Vec<api::Overflow>> = HashMap::new();
        for circuit in self.circuits.all() {
            let name = match &circuit.called {
                Addressed::Service(service) => (service.namespace().to_owned(), service.name().to_owned()),
                Addressed::Entry { host, namespace } => (namespace.to_string(), host.to_string()),
                Addressed::Name(_) => continue,
            };
            let meets = Resource::ALL.into_iter().filter(|resource| circuit.pool.overflows(*resource) > 0);
            let row = |resource: Resource| api::Overflow {
                caller: circuit.caller.clone(),
                cluster: circuit.cluster.clone(),
                limit: resource.word().to_owned(),
                under_way: circuit.pool.count(resource),
                met: circuit.pool.overflows(resource),
            };
            let rows: Vec<_> = meets.map(row).collect();
            if !rows.is_empty() {
                met.entry(name).or_default().extend(rows);
            }
        }
        for service in rows.iter_mut().filter(|_| !met.is_empty()) {
            let Some(mut overflows) = met.get(&(service.namespace.clone(), service.name.clone())).cloned() else {
                continue;
            };
            overflows.sort_by(|a, b| (&a.cluster, &a.caller, &a.limit).cmp(&(&b.cluster, &b.caller, &b.limit)));
            service.overflows = overflows;
        }
    }

    /// What ServiceEntries of a namespace make of a host: one row for each document, and its endpoints. Nothing if none does.
    pub(crate) fn entry(&self, namespace: &str, host: &str) -> (Vec<api::Service>, Vec<api::Endpoint>) {
        let (snapshot, ejected) = (self.agent.snapshot(), self.ejected());
        let mut services = foreign_services(&snapshot);
        services.retain(|service| service.namespace == namespace && service.name == host);
        self.tell_overflows(&mut services);
        let of =
            |foreign: &&Arc<Foreign>| foreign.service.document.namespace == namespace && *foreign.service.host == *host;
        let endpoints = snapshot.foreign.iter().filter(of).flat_map(|foreign| foreign_rows(foreign, &ejected));
        (services, endpoints.collect())
    }

    fn ejected(&self) -> HashSet<Key> {
        self.circuits.ejected().into_iter().map(|standing| standing.ejection.endpoint).collect()
    }

    pub(crate) fn endpoints(&self, of: Option<&ServiceName>) -> Vec<api::Endpoint> {
        let mut endpoints = endpoints(&self.agent.snapshot(), of, &self.ejected());
        endpoints
            .sort_by(|a, b| (&a.namespace, &a.service, &a.id, a.port).cmp(&(&b.namespace, &b.service, &b.id, b.port)));
        endpoints
    }

    fn local_services(&self) -> Vec<api::LocalService> {
        let row = |(service, healthy, reason): (crate::config::Service, bool, String)| api::LocalService {
            namespace: service.name.namespace().to_owned(),
            name: service.name.name().to_owned(),
            instance: service.instance,
            account: service.account,
            labels: service.labels,
            ports: service
                .ports
                .iter()
                .map(|port| api::Port {
                    name: port.name.clone(),
                    port: port.number,
                    protocol: port.protocol.as_str().to_owned(),
                })
                .collect(),
            health: health(healthy).to_owned(),
            reason,
        };
        self.agent.local_services().into_iter().map(row).collect()
    }

    fn identities(&self) -> Vec<api::Identity> {
        let state = self.agent.state();
        let trust = state.trust();
        let granted = state
            .grants()
            .get(self.agent.node())
            .filter(|granted| !granted.retired && !state.revocations().evicted(&granted.node, granted.epoch));
        let row = |leaf: crate::agent::LeafFacts| {
            let enroller = leaf.chain.last().map(Vec::as_slice).unwrap_or_default();
            let described = describe(&leaf.chain).unwrap_or_default();
            let certified = described.get(1).and_then(|ca| ca.grant.as_ref());
            let root = anchor(enroller, &trust.roots).or_else(|| anchor(enroller, &trust.former));
            api::Identity {
                id: leaf.id.uri(),
                dns_name: leaf.id.dns_name(),
                not_before: rfc3339(leaf.not_before),
                not_after: rfc3339(leaf.not_after),
                public_key: described.first().map(|leaf| leaf.key.to_string()).unwrap_or_default(),
                effective: granted.zip(certified).map(|(granted, certified)| granted.effective(certified)),
                chain: bundle_to_pem(&leaf.chain),
                uid: leaf.uid,
                root: root.map(|root| root_id(root)).unwrap_or_default(),
                root_state: root.map(|root| trust.standing(root).to_string()).unwrap_or_default(),
            }
        };
        let facts = self.agent.identity();
        facts.leafs.into_iter().chain(facts.handed).map(row).collect()
    }
}

/// One row for each port of each endpoint.
fn endpoints(snapshot: &Snapshot, of: Option<&ServiceName>, ejected: &HashSet<Key>) -> Vec<api::Endpoint> {
    let services = snapshot.services.iter().filter(|service| of.is_none_or(|of| service.name == *of));
    let of_mesh = services.flat_map(|service| service.endpoints.iter()).flat_map(|endpoint| rows(endpoint, ejected));
    let foreign = snapshot.foreign.iter().filter(|_| of.is_none()).flat_map(|foreign| foreign_rows(foreign, ejected));
    of_mesh.chain(foreign).collect()
}

/// One row for each host of a ServiceEntry.
fn foreign_services(snapshot: &Snapshot) -> Vec<api::Service> {
    let row = |foreign: &Arc<Foreign>| api::Service {
        namespace: foreign.service.document.namespace.clone(),
        name: foreign.service.host.to_string(),
        ports: ports(&foreign.service.ports),
        endpoints: foreign.instances.len(),
        healthy: foreign.instances.iter().filter(|instance| instance.is_healthy()).count(),
        panic: false,
        entry: Some(foreign.service.document.to_string()),
        by_name: foreign.service.is_by_name(),
        overflows: Vec::new(),
    };
    let mut rows: Vec<_> = snapshot.foreign.iter().map(row).collect();
    rows.sort_by(|a, b| (&a.namespace, &a.name, &a.entry).cmp(&(&b.namespace, &b.name, &b.entry)));
    rows
}

/// One row for each port of each endpoint of a ServiceEntry.
fn foreign_rows(foreign: &Foreign, ejected: &HashSet<Key>) -> Vec<api::Endpoint> {
    let service = &foreign.service;
    let row = |instance: &Instance, port: u16| {
        let own = foreign.port_of(instance, port)?;
        let (node, account, address, reason) = match instance {
            Instance::Mesh(endpoint) => {
                let (node, account) = (endpoint.id.node.clone(), endpoint.account.clone());
                (Some(node), Some(account), endpoint.address, endpoint.reason.to_string())
            }
            Instance::Outside(outside) => (None, None, SocketAddr::new(outside.address, own), String::new()),
        };
        Some(api::Endpoint {
            service: service.host.to_string(),
            namespace: service.document.namespace.clone(),
            node,
            address: address.to_string(),
            port,
            labels: BTreeMap::clone(instance.labels()),
            account,
            weight: instance.weight(),
            health: health(instance.is_healthy()).to_owned(),
            reason,
            outlier: if ejected.contains(instance.stats().key()) { "ejected" } else { "none" }.to_owned(),
            id: instance.stats().key().to_string(),
        })
    };
    let ports = || service.ports.iter().map(|port| port.number);
    foreign.instances.iter().flat_map(|instance| ports().filter_map(move |port| row(instance, port))).collect()
}

fn rows<'e>(endpoint: &'e Endpoint, ejected: &HashSet<Key>) -> impl Iterator<Item = api::Endpoint> + use<'e> {
    let outlier = if ejected.contains(endpoint.stats.key()) { "ejected" } else { "none" };
    endpoint.ports.iter().map(move |port| api::Endpoint {
        service: endpoint.id.service.name().to_owned(),
        namespace: endpoint.id.service.namespace().to_owned(),
        node: Some(endpoint.id.node.clone()),
        address: endpoint.address.to_string(),
        port: port.number,
        labels: (*endpoint.labels).clone(),
        account: Some(endpoint.account.clone()),
        weight: endpoint.weight,
        health: health(endpoint.healthy).to_owned(),
        reason: endpoint.reason.to_string(),
        outlier: outlier.to_owned(),
        id: endpoint.id.to_string(),
    })
}

fn ports(ports: &[policy::hosts::ServicePort]) -> Vec<api::Port> {
    let row = |port: &policy::hosts::ServicePort| api::Port {
        name: port.name.clone(),
        port: port.number,
        protocol: protocol(port.protocol).to_owned(),
    };
    ports.iter().map(row).collect()
}

fn protocol(protocol: policy::hosts::Protocol) -> &'static str {
    use policy::hosts::Protocol::{Grpc, Http, Http2, Sniffed, Tcp, Tls};
    match protocol {
        Http => "http",
        Http2 => "http2",
        Grpc => "grpc",
        Tcp => "tcp",
        Tls => "tls",
        Sniffed => "",
    }
}

fn health(healthy: bool) -> &'static str {
    if healthy { "healthy" } else { "unhealthy" }
}

/// An answer as JSON.
pub(super) fn value<T: Serialize>(answer: &T) -> Result<Value, Error> {
    serde_json::to_value(answer).map_err(|error| Error::new("failed", format!("the answer cannot be written: {error}")))
}
