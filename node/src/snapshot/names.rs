//! What the data plane says of names and captured connections: the loopback address of each service, what keeps its ports from being
//! open, where the kernel may bring connections.

use super::Trouble;
use crate::config::Speaker;
use certs::id::ServiceName;
use std::{
    collections::{BTreeMap, HashMap},
    net::{Ipv4Addr, SocketAddr},
};

/// All of a node. Empty where `[dns]` is off.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Names {
    addresses: BTreeMap<ServiceName, Ipv4Addr>,
    services: HashMap<Ipv4Addr, ServiceName>,
    /// What is not as it should be.
    pub troubles: Vec<Trouble>,
}

/// Where the data plane takes connections that the kernel brings. Empty where `[capture]` is off.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Captures {
    /// On loopback: of IPv4, and of IPv6 where the machine has it.
    pub listen: Vec<SocketAddr>,
    /// The same for connections of other machines, on all addresses. Empty where none are taken.
    pub incoming: Vec<SocketAddr>,
}

/// A port of a service beside this node that takes callers outside the mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlaintextPort {
    /// Where.
    pub listen: SocketAddr,
    /// Whose.
    pub service: Speaker,
    /// The service's port.
    pub port: u16,
}

impl Names {
    /// Each service has an address of its own.
    #[must_use]
    pub fn new(addresses: BTreeMap<ServiceName, Ipv4Addr>, troubles: Vec<Trouble>) -> Names {
        let services = addresses.iter().map(|(service, address)| (*address, service.clone())).collect();
        Names { addresses, services, troubles }
    }

    /// The address of a service.
    #[must_use]
    pub fn address(&self, service: &ServiceName) -> Option<Ipv4Addr> {
        self.addresses.get(service).copied()
    }

    /// The service of an address.
    #[must_use]
    pub fn service(&self, address: Ipv4Addr) -> Option<&ServiceName> {
        self.services.get(&address)
    }

    /// True if some service is of this namespace.
    #[must_use]
    pub fn has_namespace(&self, namespace: &str) -> bool {
        self.addresses.keys().any(|service| service.namespace() == namespace)
    }

    /// All addresses, by service.
    pub fn iter(&self) -> impl Iterator<Item = (&ServiceName, Ipv4Addr)> {
        self.addresses.iter().map(|(service, address)| (service, *address))
    }
}
