//! Services that ServiceEntries make, with the endpoints that this node knows of them.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use policy::{DocumentId, compile::EntryService};

use super::{Endpoint, EndpointStats};

/// All of them. What a name resolves to differs between nodes.
#[derive(Debug, Default)]
pub struct ForeignServices {
    by_host: HashMap<(DocumentId, Arc<str>), Arc<Foreign>>,
}

/// A host of a ServiceEntry.
#[derive(Debug)]
pub struct Foreign {
    /// What its document says.
    pub service: Arc<EntryService>,
    /// Its endpoints, sorted by their keys.
    pub instances: Arc<[Instance]>,
}

/// What a cluster chooses from.
#[derive(Debug, Clone)]
pub enum Instance {
    /// Served by a node: reached over the mesh, or in process.
    Mesh(Arc<Endpoint>),
    /// Served by none: this node connects to it by itself.
    Outside(Arc<Outside>),
}

/// An endpoint that no node serves.
#[derive(Debug)]
pub struct Outside {
    /// Where it is.
    pub address: IpAddr,
    /// Port of the service, and its own.
    pub ports: Arc<[(u16, u16)]>,
    /// Its labels.
    pub labels: Arc<BTreeMap<String, String>>,
    /// `region/zone/subzone`, may be empty.
    pub locality: Arc<str>,
    /// Relative share of traffic.
    pub weight: u32,
    /// Counters of this node's requests to it; their key is `HOST/ADDRESS:PORT[,PORT]...`.
    pub stats: Arc<EndpointStats>,
}

impl ForeignServices {
    /// Of these.
    #[must_use]
    pub fn new(services: impl IntoIterator<Item = Foreign>) -> Self {
        let key = |made: &EntryService| (made.document.clone(), made.host.clone());
        Self { by_host: services.into_iter().map(|one| (key(&one.service), Arc::new(one))).collect() }
    }

    /// What is behind a host of a ServiceEntry.
    #[must_use]
    pub fn get(&self, made: &EntryService) -> Option<&Arc<Foreign>> {
        self.by_host.get(&(made.document.clone(), made.host.clone()))
    }

    /// All, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Foreign>> {
        self.by_host.values()
    }
}

impl Foreign {
    /// True if some endpoint has no identity of the mesh.
    #[must_use]
    pub fn has_outside(&self) -> bool {
        self.instances.iter().any(|instance| matches!(instance, Instance::Outside(_)))
    }

    /// True if one of its endpoints that no node serves has this address.
    #[must_use]
    pub fn is_at(&self, address: IpAddr) -> bool {
        let here = |instance: &Instance| matches!(instance, Instance::Outside(outside) if outside.address.to_canonical() == address);
        self.instances.iter().any(here)
    }

    /// The endpoint of a caller that dialled this place by itself (`resolution: NONE`), for a port of the service.
    #[must_use]
    pub fn dialled(&self, port: u16, to: SocketAddr) -> Instance {
        let (address, own) = (to.ip().to_canonical(), self.service.declared(port).and_then(|declared| declared.target));
        let own = own.unwrap_or(to.port());
        let key = format!("{}/{}", self.service.host, SocketAddr::new(address, own));
        Instance::Outside(Arc::new(Outside {
            address,
            ports: [(port, own)].into(),
            labels: Arc::default(),
            locality: "".into(),
            weight: 1,
            stats: EndpointStats::unlisted(&key),
        }))
    }

    /// The port on which an endpoint takes what is sent to this port of the service; `None` if it takes nothing there.
    #[must_use]
    pub fn port_of(&self, instance: &Instance, port: u16) -> Option<u16> {
        match instance {
            Instance::Outside(outside) => outside.at(port).map(|address| address.port()),
            Instance::Mesh(endpoint) => {
                let declared = self.service.declared(port)?;
                let own = declared.target.unwrap_or(declared.number);
                endpoint.ports.iter().any(|known| known.number == own).then_some(own)
            }
        }
    }
}

impl Outside {
    /// Where it takes what is sent to this port of the service.
    #[must_use]
    pub fn at(&self, port: u16) -> Option<SocketAddr> {
        let own = self.ports.iter().find(|(known, _)| *known == port).map(|(_, own)| *own)?;
        Some(SocketAddr::new(self.address, own))
    }
}

impl Instance {
    /// Its counters.
    #[must_use]
    pub fn stats(&self) -> &Arc<EndpointStats> {
        match self {
            Self::Mesh(endpoint) => &endpoint.stats,
            Self::Outside(outside) => &outside.stats,
        }
    }

    /// Relative share of traffic; 0 takes none.
    #[must_use]
    pub fn weight(&self) -> u32 {
        match self {
            Self::Mesh(endpoint) => endpoint.weight,
            Self::Outside(outside) => outside.weight,
        }
    }

    /// What its owner says; of one outside nobody says anything.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        match self {
            Self::Mesh(endpoint) => endpoint.healthy,
            Self::Outside(_) => true,
        }
    }

    /// `region/zone/subzone`, may be empty.
    #[must_use]
    pub fn locality(&self) -> &Arc<str> {
        match self {
            Self::Mesh(endpoint) => &endpoint.locality,
            Self::Outside(outside) => &outside.locality,
        }
    }

    /// Its labels.
    #[must_use]
    pub fn labels(&self) -> &Arc<BTreeMap<String, String>> {
        match self {
            Self::Mesh(endpoint) => &endpoint.labels,
            Self::Outside(outside) => &outside.labels,
        }
    }

    /// True if it has all these labels.
    #[must_use]
    pub fn has_labels(&self, labels: &BTreeMap<String, String>) -> bool {
        labels.iter().all(|(key, value)| self.labels().get(key) == Some(value))
    }

    /// True if it is the same in two snapshots.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Mesh(one), Self::Mesh(other)) => Arc::ptr_eq(one, other),
            (Self::Outside(one), Self::Outside(other)) => Arc::ptr_eq(one, other),
            (Self::Mesh(_), Self::Outside(_)) | (Self::Outside(_), Self::Mesh(_)) => false,
        }
    }
}

impl From<&Arc<Endpoint>> for Instance {
    fn from(endpoint: &Arc<Endpoint>) -> Self {
        Self::Mesh(Arc::clone(endpoint))
    }
}
