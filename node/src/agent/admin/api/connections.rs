//! Connections between nodes.

use serde::{Deserialize, Serialize};

/// Connections of the answering node with another, or with all, both ways.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeConnections {
    /// Over QUIC.
    pub quic: usize,
    /// Over TLS on TCP.
    pub tcp: usize,
    /// Requests that the answering node has under way on them.
    pub requests: usize,
    /// Requests, and connections of applications, that wait for room.
    pub waiting: usize,
    /// Streams open on the QUIC connections that it dialled.
    pub streams: usize,
}
