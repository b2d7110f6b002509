//! How many connections there are with other nodes, and how much of what they carry is in use.

use std::collections::BTreeMap;

use certs::{id::NodeId, tls::Conversation};

use super::{
    Mesh,
    live::{Handle, Kind},
};

/// Which connections are counted together.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Connected {
    /// The other end.
    pub peer: NodeId,
    /// `data` for requests and connections of applications, `peer` for gossip and policy.
    pub conversation: &'static str,
    /// `outbound` where this node dialled, else `inbound`.
    pub direction: &'static str,
    /// `quic` or `tcp`.
    pub transport: &'static str,
}

/// What this node has under way to another.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Occupancy {
    /// Requests that hold a virtual connection.
    pub requests: usize,
    /// Requests, and connections of applications, that wait for room.
    pub waiting: usize,
    /// Streams open on QUIC connections, those among them that wait for their next request; a TCP connection carries one.
    pub streams: usize,
}

impl Mesh {
    /// How many connections there are with each node.
    #[must_use]
    pub fn connected(&self) -> BTreeMap<Connected, usize> {
        let mut counts = BTreeMap::new();
        for (peer, Kind { conversation, outbound }, handle) in self.shared.live.open() {
            let connected = Connected {
                peer: peer.node.clone(),
                conversation: match conversation {
                    Conversation::Data => "data",
                    // Joiners and operators are no nodes, and not in the table.
                    Conversation::Peer | Conversation::Join | Conversation::Admin => "peer",
                },
                direction: if outbound { "outbound" } else { "inbound" },
                transport: match handle {
                    Handle::Quic(_) => "quic",
                    Handle::Tcp(_) => "tcp",
                },
            };
            *counts.entry(connected).or_default() += 1;
        }
        counts
    }

    /// What this node has under way to each node that it keeps connections for.
    #[must_use]
    pub fn occupancy(&self) -> BTreeMap<NodeId, Occupancy> {
        let mut nodes: BTreeMap<NodeId, Occupancy> = BTreeMap::new();
        for (node, of) in self.shared.pools.occupancy() {
            let sum = nodes.entry(node).or_default();
            sum.requests += of.requests;
            sum.waiting += of.waiting;
            sum.streams += of.streams;
        }
        nodes
    }
}
