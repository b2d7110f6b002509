//! Authenticated streams between nodes: QUIC on UDP and TLS 1.3 on TCP, on one port number.
//!
//! [`Mesh::bind`] opens all sockets. Each data worker then starts a [`data::Worker`] on its own runtime, which dials and
//! accepts requests and tunnels; the control runtime starts a [`peer::PeerNetwork`], which carries gossip, sync, joins and
//! administration. What both share is here: identity, limits, the table of live connections.

pub mod conversation;
pub mod data;
pub mod error;
pub mod lease;
pub mod peer;
pub mod preface;
pub mod stream;

use std::{io, net::SocketAddr, sync::Arc};

use certs::{
    id::{NodeId, SpiffeId},
    tls::Tls,
    verify::Authority,
};

pub use conversation::{admin, join};
pub use error::{Error, Fault, Retry};
pub use preface::{Preface, Protocol};

use crate::tasks::Tasks;

/// Which carrier to dial.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// QUIC, and TLS over TCP where UDP does not answer within 200 ms.
    #[default]
    Auto,
    /// QUIC only.
    Quic,
    /// TLS over TCP only.
    Tcp,
}

/// What the mesh port needs to know.
#[derive(Debug, Clone)]
pub struct Config {
    /// UDP and TCP address; port 0 picks one that is free on both.
    pub listen: SocketAddr,
    /// Data workers, at least 1.
    pub workers: usize,
    /// Which carrier to dial.
    pub transport: Transport,
    /// Secret of this node that survives restarts: lets a restarted node tell its peers at once that their connections
    /// are gone (QUIC's stateless reset) instead of leaving them to time out.
    pub reset_secret: [u8; 32],
}

/// How UDP datagrams find their worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Steering {
    /// A socket per worker, steered by connection id.
    PerWorker,
    /// The kernel refused the filter: one socket for all, with this reason.
    Single(String),
}

/// The mesh port of one node and everything that its runtimes share. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Mesh {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {}

/// The sockets of one data worker; give them to [`data::Worker::start`] on its runtime.
#[derive(Debug)]
pub struct WorkerSockets {}

/// The control runtime's side; give it to [`peer::PeerNetwork::start`].
#[derive(Debug)]
pub struct ControlSockets {}

impl Mesh {
    /// Opens the mesh port.
    ///
    /// # Errors
    /// The address is in use, or not one of this machine's.
    pub fn bind(
        _config: Config,
        _own: SpiffeId,
        _tls: Tls,
        _tasks: Tasks,
    ) -> io::Result<(Mesh, Vec<WorkerSockets>, ControlSockets)> {
        todo!()
    }

    /// The bound address, with its real port.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        todo!()
    }

    /// How UDP datagrams find their worker: `check` warns of [`Steering::Single`].
    #[must_use]
    pub fn steering(&self) -> &Steering {
        todo!()
    }

    /// Closes all data connections to a node at once (it is dead, has left, or was evicted): requests in flight fail as reset.
    pub fn close_node(&self, _node: &NodeId) {
        todo!()
    }

    /// Judges every live connection anew, both directions and all conversations, and closes those whose peer no longer counts.
    /// Call after the shared `Authority` was swapped. Gives the number of connections closed.
    pub fn rejudge(&self, _authority: &Authority) -> usize {
        todo!()
    }

    /// From now on streams that nobody has read are refused (safe to retry elsewhere), and new connections too.
    pub fn drain(&self) {
        todo!()
    }

    /// Undoes [`Mesh::drain`].
    pub fn undrain(&self) {
        todo!()
    }

    /// Closes everything, and waits at most 1 s until the peers have been told.
    #[expect(clippy::unused_async, reason = "signature first")]
    pub async fn close(&self) {
        todo!()
    }
}
