//! Links between nodes as nodes: messages, requests and replies, over QUIC or TLS/TCP.

use std::{io, net::SocketAddr, time::Duration};

use bytes::Bytes;
use certs::{id::NodeId, verify::Peer};

use super::{ControlSockets, Mesh, conversation::Conversed, error::Error};

/// Longest message on a link, bytes.
pub const MAX_MESSAGE: usize = 1 << 20;
/// Longest request or reply on a link, bytes: a changeset is at most 4 MiB.
pub const MAX_REPLY: usize = 6 << 20;

/// The control runtime's side of the mesh. Cheap to clone.
#[derive(Debug, Clone)]
pub struct PeerNetwork {}

impl PeerNetwork {
    /// Starts it. Call within the control runtime.
    ///
    /// # Errors
    /// The runtime takes no more sockets.
    pub fn start(_mesh: &Mesh, _sockets: ControlSockets) -> io::Result<PeerNetwork> {
        todo!()
    }

    /// Links to the node at an address; with `node` only that node will do.
    ///
    /// # Errors
    /// Nobody answered there, or somebody else.
    #[expect(clippy::unused_async, reason = "signature first")]
    pub async fn dial(&self, _node: Option<&NodeId>, _address: SocketAddr) -> Result<PeerLink, Error> {
        todo!()
    }

    /// The next link that another node opened; `None` once the mesh is closed.
    #[expect(clippy::unused_async, reason = "signature first")]
    pub async fn accept(&self) -> Option<PeerLink> {
        todo!()
    }

    /// The next joiner's connection (`skein-join/1`).
    #[expect(clippy::unused_async, reason = "signature first")]
    pub async fn accept_join(&self) -> Option<Conversed> {
        todo!()
    }

    /// The next operator's connection (`skein-admin/1`), not yet authenticated.
    #[expect(clippy::unused_async, reason = "signature first")]
    pub async fn accept_admin(&self) -> Option<Conversed> {
        todo!()
    }
}

/// How urgent a message is: urgent ones overtake the rest between pieces of 16 KiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// Probes, revocations, policy digests, health.
    High,
    /// The rest.
    Low,
}

/// A link to one node. Cheap to clone; it closes when the last clone is dropped or [`PeerLink::close`] is called.
#[derive(Debug, Clone)]
pub struct PeerLink {}

/// A request that the peer made on a link.
#[derive(Debug)]
pub struct Asked {
    /// What it asks for.
    pub kind: u16,
    /// The encoded question.
    pub body: Bytes,
}

/// Why a link does not take or bring something.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// The link is closed.
    #[error("the link is closed: {0}")]
    Closed(String),
    /// Its queue is full: the peer reads too slowly.
    #[error("the link's queue is full")]
    Full,
    /// Longer than the limit, bytes.
    #[error("{0} bytes are too many")]
    TooLong(usize),
    /// No reply in time.
    #[error("no reply within {0:?}")]
    Timeout(Duration),
    /// The peer knows no such request, or gave it up.
    #[error("the peer refused the request")]
    Refused,
}

impl PeerLink {
    /// Who is at the other end.
    #[must_use]
    pub fn peer(&self) -> &Peer {
        todo!()
    }

    /// The other end's address.
    #[must_use]
    pub fn remote(&self) -> SocketAddr {
        todo!()
    }

    /// True if this node dialled.
    #[must_use]
    pub fn dialled(&self) -> bool {
        todo!()
    }

    /// `quic` or `tcp`.
    #[must_use]
    pub fn carrier(&self) -> &'static str {
        todo!()
    }

    /// Queues a message; never waits.
    ///
    /// # Errors
    /// The link is closed, its queue is full, or the message is too long.
    pub fn send(&self, _urgency: Urgency, _message: Bytes) -> Result<(), LinkError> {
        todo!()
    }

    /// The next message; `None` once the link is closed. Cancel-safe.
    #[expect(clippy::unused_async, reason = "signature first")]
    pub async fn recv(&self) -> Option<Bytes> {
        todo!()
    }

    /// Asks the peer and waits for its reply.
    ///
    /// # Errors
    /// The link closed, the peer refused, or no reply came in time.
    #[expect(clippy::unused_async, reason = "signature first")]
    pub async fn request(&self, _kind: u16, _body: Bytes, _timeout: Duration) -> Result<Bytes, LinkError> {
        todo!()
    }

    /// The next request of the peer; `None` once the link is closed. Cancel-safe. Dropping it unanswered refuses it.
    #[expect(clippy::unused_async, reason = "signature first")]
    pub async fn asked(&self) -> Option<Asked> {
        todo!()
    }

    /// The last measured round-trip time.
    #[must_use]
    pub fn rtt(&self) -> Duration {
        todo!()
    }

    /// Waits for the link's end and says why it ended.
    #[expect(clippy::unused_async, reason = "signature first")]
    pub async fn closed(&self) -> String {
        todo!()
    }

    /// Closes the link; the peer is told the reason.
    pub fn close(&self, _reason: &str) {
        todo!()
    }
}

impl Asked {
    /// Answers it.
    pub fn reply(self, _body: Bytes) {
        todo!()
    }
}
