//! What is said of captured connections.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// `GET /v1/local/capture`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capture {
    /// Where the node takes connections that the kernel brings; on IPv6 only if the machine has it.
    pub listen: Vec<SocketAddr>,
    /// The loopback addresses of services; none where `[dns]` is off.
    pub services: Option<String>,
    /// Ports that must be left alone.
    pub spared: Vec<u16>,
    /// Whose connections are the node's own.
    pub uid: u32,
    /// True if the node stops, or does not serve yet.
    pub leaving: bool,
}
