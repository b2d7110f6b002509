//! What happens to a network: deaths, pauses, blocked paths.

use std::net::{Ipv4Addr, SocketAddr};

use certs::id::NodeId;

use super::{
    network::{Host, IDLE_MS, Network},
    queue::Delivery,
    virtual_time::Repairer,
};

impl Host {
    /// The process ends without a word.
    fn end(&mut self) {
        self.up = false;
        if matches!(self.repairer, Repairer::Chitchat(_)) {
            self.repairer = Repairer::Off;
        }
    }
}

impl Network {
    /// Whether nothing gets from one to the other.
    #[must_use]
    pub fn is_cut(&self, from: &NodeId, to: &NodeId) -> bool {
        self.cut.get(from).is_some_and(|unreached| unreached.contains(to))
    }

    /// Stops a process without a word.
    ///
    /// # Panics
    /// If it was never started.
    pub fn kill(&mut self, victim: &NodeId) {
        self.nodes.get_mut(victim).expect("a node that was started").end();
        let wait = if self.resets { 0 } else { IDLE_MS };
        let lost: Vec<_> = self
            .links
            .iter()
            .filter(|(_, (a, b))| a == victim || b == victim)
            .map(|(link, ends)| (*link, ends.clone()))
            .collect();
        for (link, (a, b)) in lost {
            self.close(link, &a, &b, wait);
        }
    }

    /// Lets nothing pass from one group to the other.
    pub fn block(&mut self, from: &[NodeId], to: &[NodeId]) {
        for one in from {
            for other in to.iter().filter(|other| *other != one) {
                self.cut.entry(one.clone()).or_default().insert(other.clone());
                for link in self.between(one, other) {
                    let (one, other) = (one.clone(), other.clone());
                    self.queue.push(self.now + IDLE_MS, Delivery::Silence { link, one, other });
                }
            }
        }
    }

    /// Lets nothing pass between two groups.
    pub fn part(&mut self, left: &[NodeId], right: &[NodeId]) {
        self.block(left, right);
        self.block(right, left);
    }

    /// Everything passes again.
    pub fn heal(&mut self) {
        self.cut.clear();
    }

    /// A node listens elsewhere from now on, and says so if it runs on or once it starts again: at its old address nobody answers.
    ///
    /// # Panics
    /// If it was never started, or the mesh has more nodes than an IPv4 network has addresses.
    pub fn moves(&mut self, node: &NodeId) -> SocketAddr {
        let address = self.new_address(node);
        self.nodes.get_mut(node).expect("a node that was started").address = address;
        address
    }

    pub(super) fn new_address(&mut self, node: &NodeId) -> SocketAddr {
        let host = u32::try_from(self.addresses.len()).expect("fewer nodes than addresses");
        let address = SocketAddr::new(Ipv4Addr::from(0x0a00_0001 + host).into(), 15008);
        self.addresses.insert(address, node.clone());
        address
    }

    /// A process that does not run for a while: what comes waits in its sockets.
    ///
    /// # Panics
    /// If it was never started.
    pub fn pause(&mut self, node: &NodeId, milliseconds: u64) {
        let host = self.nodes.get_mut(node).expect("a node that was started");
        host.paused_until = host.paused_until.max(self.now + milliseconds);
    }
}
