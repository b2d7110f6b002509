//! Connections with other nodes, as status and members tell of them.

use std::collections::BTreeMap;

use certs::id::NodeId;

use super::{Admin, api::NodeConnections};

impl Admin {
    /// Those with each node that there are any with.
    pub(super) fn connections(&self) -> BTreeMap<NodeId, NodeConnections> {
        let mut nodes: BTreeMap<NodeId, NodeConnections> = BTreeMap::new();
        for (connected, count) in self.agent.connected() {
            let of = nodes.entry(connected.peer).or_default();
            *(if connected.transport == "quic" { &mut of.quic } else { &mut of.tcp }) += count;
        }
        for (node, occupancy) in self.agent.occupancy() {
            let of = nodes.entry(node).or_default();
            (of.requests, of.waiting, of.streams) = (occupancy.requests, occupancy.waiting, occupancy.streams);
        }
        nodes
    }
}

/// Both together.
pub(super) fn sum(a: NodeConnections, b: NodeConnections) -> NodeConnections {
    NodeConnections {
        quic: a.quic + b.quic,
        tcp: a.tcp + b.tcp,
        requests: a.requests + b.requests,
        waiting: a.waiting + b.waiting,
        streams: a.streams + b.streams,
    }
}
