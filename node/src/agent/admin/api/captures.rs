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
    /// The same of connections of other machines; none where they are not taken.
    #[serde(default)]
    pub inbound: Option<Inbound>,
    /// Whose connections are the node's own.
    pub uid: u32,
    /// True if the node stops, or does not serve yet.
    pub leaving: bool,
}

/// What is said of captured connections of other machines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inbound {
    /// Where the node takes them; on IPv6 only if the machine has it.
    pub listen: Vec<SocketAddr>,
    /// Ports of applications that other machines reach, or at which nobody listens; without an address (`0.0.0.0`, `[::]`) at each
    /// address of that family.
    pub targets: Vec<SocketAddr>,
    /// Why `targets` cannot be told, if they cannot: what they were before still holds.
    #[serde(default)]
    pub unknown: Option<String>,
}
