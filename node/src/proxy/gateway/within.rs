//! What comes to a gateway's port from this node itself: peers call the gateway's service, and its port leads here. Who sent it was
//! proven and judged there, and is not lost on the way: requests carry a token, connections are known by their source address. No other
//! local process can forge either: the token is random and single-use, and the source address is this node's while the connection lasts.

use super::Clients;
use crate::proxy::inbound::{Standing, Who};
use aws_lc_rs::rand;
use dashmap::DashMap;
use http::{HeaderMap, HeaderName, HeaderValue};
use policy::authorize::Token;
use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};
use tokio::net::{TcpSocket, TcpStream};

/// What a request carries.
const WORD: HeaderName = HeaderName::from_static("x-skein-within");

/// What is on its way from this node to its own gateways.
#[derive(Debug, Default)]
pub(super) struct Within {
    requests: DashMap<[u8; 16], LetIn>,
    connections: DashMap<SocketAddr, MadeFor>,
}

/// For whom this node connected to its own gateway.
#[derive(Debug, Clone)]
pub(in crate::proxy) enum MadeFor {
    /// A peer, whose bytes it carries.
    Peer(Arc<Who>),
    /// Whoever sends requests: each says by its word for whom it is.
    Requests,
}

/// A request that was let in before it came to the gateway's port.
#[derive(Debug)]
pub(in crate::proxy) struct LetIn {
    /// The gateway's port.
    pub(in crate::proxy) door: SocketAddr,
    /// Whence it came to this node.
    pub(in crate::proxy) address: IpAddr,
    pub(in crate::proxy) user: Option<Arc<Token>>,
    pub(in crate::proxy) standing: Standing,
}

/// A request's word, which counts for as long as this is held.
#[derive(Debug)]
pub(in crate::proxy) struct Word<'a> {
    within: &'a Within,
    bytes: [u8; 16],
}

impl Drop for Word<'_> {
    fn drop(&mut self) {
        self.within.requests.remove(&self.bytes);
    }
}

impl Word<'_> {
    /// Puts it into the request.
    pub(in crate::proxy) fn mark(&self, headers: &mut HeaderMap) {
        if let Ok(word) = HeaderValue::try_from(format!("{:032x}", u128::from_be_bytes(self.bytes))) {
            headers.insert(WORD, word);
        }
    }
}

/// A connection that the gateway knows, for as long as this is held.
#[derive(Debug)]
pub(in crate::proxy) struct Known {
    clients: Arc<Clients>,
    from: SocketAddr,
}

impl Drop for Known {
    fn drop(&mut self) {
        self.clients.within.connections.remove(&self.from);
    }
}

impl Clients {
    /// A word for a request; `None` without random numbers.
    pub(in crate::proxy) fn word(&self, request: LetIn) -> Option<Word<'_>> {
        let mut bytes = [0; 16];
        rand::fill(&mut bytes).ok()?;
        self.within.requests.insert(bytes, request);
        Some(Word { within: &self.within, bytes })
    }

    /// The request whose word this one carries, if it came in where that was to come in: its head says already who sent it and how. A
    /// word counts once.
    pub(in crate::proxy) fn let_in(&self, headers: &mut HeaderMap, local: SocketAddr) -> Option<LetIn> {
        let word = headers.remove(WORD)?;
        let bytes = u128::from_str_radix(word.to_str().ok()?, 16).ok()?.to_be_bytes();
        let meant = |_: &[u8; 16], request: &LetIn| is_at(request.door, local);
        Some(self.within.requests.remove_if(&bytes, meant)?.1)
    }

    /// Connects to the gateway's port.
    ///
    /// # Errors
    /// It takes none.
    pub(in crate::proxy) async fn connect(
        self: &Arc<Self>,
        made_for: MadeFor,
        door: SocketAddr,
    ) -> io::Result<(TcpStream, Known)> {
        let (socket, loopback) = if door.is_ipv4() {
            (TcpSocket::new_v4()?, IpAddr::from(Ipv4Addr::LOCALHOST))
        } else {
            (TcpSocket::new_v6()?, IpAddr::from(Ipv6Addr::LOCALHOST))
        };
        // It is known before it begins, and nobody else has its address while it is there.
        socket.bind(SocketAddr::new(if door.ip().is_unspecified() { loopback } else { door.ip() }, 0))?;
        let from = canonical(socket.local_addr()?);
        self.within.connections.insert(from, made_for);
        let known = Known { clients: Arc::clone(self), from };
        Ok((socket.connect(door).await?, known))
    }

    /// For whom a connection is that came from there, if this node made it.
    pub(super) fn made_for(&self, from: SocketAddr) -> Option<MadeFor> {
        self.within.connections.get(&canonical(from)).map(|made_for| made_for.clone())
    }
}

fn is_at(door: SocketAddr, local: SocketAddr) -> bool {
    let (door, local) = (canonical(door), canonical(local));
    door.port() == local.port() && (door.ip() == local.ip() || door.ip().is_unspecified())
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
