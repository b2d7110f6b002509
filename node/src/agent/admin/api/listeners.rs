//! What is said of a node's ports for those outside the mesh.

use serde::{Deserialize, Serialize};

/// A port that Gateways have open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenGateway {
    /// `ADDRESS:PORT`.
    pub listen: String,
    /// The port as documents name it.
    pub port: u16,
    /// `http` or `https`.
    pub protocol: String,
    /// `NAMESPACE/NAME[/INSTANCE]` of the service in whose name requests go on.
    pub service: String,
    /// `Gateway NAMESPACE/NAME`, the oldest first.
    pub documents: Vec<String>,
    /// What is served, the most specific first.
    pub hosts: Vec<String>,
}

/// A port of a service that takes callers outside the mesh.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plaintext {
    /// `ADDRESS:PORT`.
    pub listen: String,
    /// `NAMESPACE/NAME[/INSTANCE]`.
    pub service: String,
    /// The service's port.
    pub port: u16,
    /// What PeerAuthentication says of it now: `STRICT` refuses them.
    pub mode: String,
}
