//! One data worker's side of the mesh: requests and tunnels to other nodes, and from them.

use std::{io, net::SocketAddr};

use certs::{
    id::{NodeId, SpiffeId},
    verify::Peer,
};

use super::{Mesh, WorkerSockets, error::Error, lease::Lease, preface::Preface, stream::VirtualStream};

/// Whom to reach, as whom, and what for.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    /// The identity that this node shows.
    pub source: &'a SpiffeId,
    /// The destination node: whoever answers must be it.
    pub node: &'a NodeId,
    /// Its mesh address.
    pub address: SocketAddr,
    /// The destination's identity: whoever answers must have it.
    pub identity: &'a SpiffeId,
    /// What the stream is for.
    pub preface: &'a Preface,
}

/// One data worker. Cheap to clone; everything that it starts runs on the runtime where it was started.
#[derive(Debug, Clone)]
pub struct Worker {}

/// A stream that another node opened.
#[derive(Debug)]
pub struct Incoming {
    /// Who speaks, as TLS proves.
    pub peer: Peer,
    /// The identity that this node showed: the account that the caller asked for.
    pub local: SpiffeId,
    /// What the stream is for, as the caller says.
    pub preface: Preface,
    /// What follows the preface.
    pub stream: VirtualStream,
    /// Our address.
    pub local_addr: SocketAddr,
    /// The other node's address.
    pub remote_addr: SocketAddr,
}

impl Worker {
    /// Starts worker `sockets.index`. Call within the worker's runtime.
    ///
    /// # Errors
    /// The runtime takes no more sockets.
    pub fn start(_mesh: &Mesh, _sockets: WorkerSockets) -> io::Result<Worker> {
        todo!()
    }

    /// A virtual connection that carries HTTP (`preface.protocol` is `Http1` or `Http2`), kept ones first.
    ///
    /// # Errors
    /// None could be had; nothing was sent.
    #[expect(clippy::unused_async, reason = "signature first")]
    pub async fn open(&self, _call: &Call<'_>) -> Result<Lease, Error> {
        todo!()
    }

    /// A stream of its own for bytes (`Tcp`, `Probe`), which is not kept.
    ///
    /// # Errors
    /// None could be had; nothing was sent.
    #[expect(clippy::unused_async, reason = "signature first")]
    pub async fn tunnel(&self, _call: &Call<'_>) -> Result<VirtualStream, Error> {
        todo!()
    }

    /// The next stream that another node opened on this worker; `None` once the mesh is closed.
    #[expect(clippy::unused_async, reason = "signature first")]
    pub async fn accept(&self) -> Option<Incoming> {
        todo!()
    }
}
