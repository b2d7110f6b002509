//! What the data plane says of names and captured connections: the loopback address of each service and host, what keeps its ports from being
//! open, where the kernel may bring connections.

use super::Trouble;
use crate::config::SpeakerName;
use policy::route::{Called, Source};
use std::{
    collections::{BTreeMap, HashMap},
    net::{Ipv4Addr, SocketAddr},
};

/// All of a node. Empty where `[dns]` is off.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Names {
    addresses: BTreeMap<Called, Ipv4Addr>,
    called: HashMap<Ipv4Addr, Called>,
    /// What is not as it should be.
    pub troubles: Vec<Trouble>,
    /// Who speaks at the addresses; `None` where the node has no such service.
    pub speaker: Option<Source>,
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
    pub service: SpeakerName,
    /// The service's port.
    pub port: u16,
}

impl Names {
    /// Each service and each host has an address of its own.
    #[must_use]
    pub fn new(addresses: BTreeMap<Called, Ipv4Addr>, troubles: Vec<Trouble>) -> Names {
        let called = addresses.iter().map(|(called, address)| (*address, called.clone())).collect();
        Names { addresses, called, troubles, speaker: None }
    }

    /// The address of a service, or of a host that a ServiceEntry makes.
    #[must_use]
    pub fn address(&self, called: &Called) -> Option<Ipv4Addr> {
        self.addresses.get(called).copied()
    }

    /// What an address means.
    #[must_use]
    pub fn called(&self, address: Ipv4Addr) -> Option<&Called> {
        self.called.get(&address)
    }

    /// True if some service is of this namespace.
    #[must_use]
    pub fn has_namespace(&self, namespace: &str) -> bool {
        self.addresses.keys().any(|called| match called {
            Called::Service(service) => service.namespace() == namespace,
            Called::Host(_) => false,
        })
    }

    /// All addresses, by what they mean.
    pub fn iter(&self) -> impl Iterator<Item = (&Called, Ipv4Addr)> {
        self.addresses.iter().map(|(called, address)| (called, *address))
    }
}
