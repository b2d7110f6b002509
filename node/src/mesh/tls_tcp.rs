//! TLS 1.3 over TCP on the port's number: listening, with ALPN choosing the conversation, and dialling.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use certs::{id::SpiffeId, tls::Conversation, verify::Peer};
use rustls::{ClientConfig, ServerConfig, pki_types::CertificateDer, pki_types::ServerName, server::Accepted};
use socket2::TcpKeepalive;
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{mpsc, oneshot},
    time::timeout,
};
use tokio_rustls::{LazyConfigAcceptor, StartHandshake, TlsConnector, TlsStream};

use crate::descriptors;

use super::{
    Mesh,
    accept::{Handover, PREFACE_TIMEOUT, canonical},
    ahead::{Ahead, Tls},
    count,
    crowd::Place,
    data::Incoming,
    error::Code,
    live::{Kind, Retirement},
    pool::CONNECTION_IDLE,
    preface::{Opening, PrefaceError, Protocol},
    reauthentication,
    secure::{Manner, OverTcp, Secure},
    stream::{Facts, VirtualStream},
};

/// Time for a ClientHello; less where a whole handshake has less.
const HELLO_TIMEOUT: Duration = Duration::from_secs(3);
/// Plaintext that rustls may hold per direction, bytes: tunnels want large writes.
const BUFFER: usize = 256 << 10;
/// How long an unused connection waits for its next tunnel: longer than the dialling side keeps it.
const TUNNEL_IDLE: Duration = CONNECTION_IDLE.saturating_add(Duration::from_secs(10));
/// Pause after `accept` failed for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// After 15 s of silence every 5 s; without three answers the other end is gone.
pub(crate) const PROBES: TcpKeepalive =
    TcpKeepalive::new().with_time(Duration::from_secs(15)).with_interval(Duration::from_secs(5)).with_retries(3);

/// Bytes that the kernel keeps for a connection and has not sent yet. What the other end does not read stays where it comes from, else thousands
/// who ask for much and read nothing take gigabytes; and what waits for less long is still in the cache when it is sent. It bounds nothing
/// that is under way.
pub(crate) const UNSENT: u32 = 128 << 10;

/// A TCP connection whose ClientHello has been read.
pub(super) struct Hello {
    pub(super) stream: std::net::TcpStream,
    pub(super) accepted: Accepted,
    pub(super) conversation: Conversation,
    pub(super) remote: SocketAddr,
    /// Held until the handshake has ended, whichever runtime ends it.
    under_way: Place,
}

impl std::fmt::Debug for Hello {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hello").field("conversation", &self.conversation).field("remote", &self.remote).finish()
    }
}

impl Hello {
    /// Ends the handshake on the current runtime.
    pub(super) async fn finish(self, mesh: &Mesh, config: Arc<ServerConfig>) -> io::Result<Tls> {
        let start = StartHandshake::from_parts(self.accepted, TcpStream::from_std(self.stream)?);
        let done = handshake(mesh, start, config).await;
        drop(self.under_way);
        done
    }
}

async fn handshake(mesh: &Mesh, start: StartHandshake<TcpStream>, config: Arc<ServerConfig>) -> io::Result<Tls> {
    let start = StartHandshake::from_parts(start.accepted, Ahead::new(start.io));
    let accept = start.into_stream_with(config, |session| session.set_buffer_limit(Some(BUFFER)));
    Ok(TlsStream::Server(timeout(mesh.shared.handshakes.time(), accept).await??))
}

/// One worker's share of the TCP port.
pub(super) struct Port {
    pub(super) mesh: Mesh,
    pub(super) queue: mpsc::Sender<Incoming>,
    data: Arc<ServerConfig>,
}

impl Port {
    pub(super) fn new(mesh: Mesh, queue: mpsc::Sender<Incoming>) -> Arc<Port> {
        let data = mesh.shared.tls.server(Conversation::Data);
        Arc::new(Port { mesh, queue, data })
    }

    /// Accepts for ever.
    pub(super) async fn listen(self: Arc<Self>, listener: TcpListener) {
        loop {
            let (stream, remote) = match listener.accept().await {
                Ok((stream, remote)) => (stream, canonical(remote)),
                Err(error) => {
                    tracing::warn!(%error, "the mesh port accepts no connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Some(under_way) = self.mesh.shared.handshakes.enter_tcp(remote.ip()) else {
                count(&self.mesh.shared.counters.handshake_failures);
                continue;
            };
            let port = self.clone();
            self.mesh.shared.tasks.detach("tls handshake", async move {
                if let Err(error) = port.greet(stream, remote, under_way).await {
                    count(&port.mesh.shared.counters.handshake_failures);
                    tracing::debug!(%remote, %error, "a handshake failed");
                }
            });
        }
    }

    /// Reads the ClientHello and sees who must carry on.
    async fn greet(&self, stream: TcpStream, remote: SocketAddr, under_way: Place) -> io::Result<()> {
        tune(&stream);
        let start = timeout(
            HELLO_TIMEOUT.min(self.mesh.shared.handshakes.time()),
            LazyConfigAcceptor::new(Default::default(), stream),
        )
        .await??;
        let conversation = start.client_hello().alpn().and_then(|mut names| names.find_map(Conversation::from_alpn));
        match conversation {
            None => Err(io::Error::other("no conversation of ours in ALPN")),
            Some(Conversation::Data) => self.accept_data(start, remote, under_way).await,
            Some(conversation @ (Conversation::Peer | Conversation::Join | Conversation::Admin)) => {
                let StartHandshake { accepted, io: stream, .. } = start;
                let hello = Hello { stream: stream.into_std()?, accepted, conversation, remote, under_way };
                self.mesh.shared.control.try_send(Handover::Tcp(Box::new(hello))).map_err(io::Error::other)
            }
        }
    }

    async fn accept_data(
        &self,
        start: StartHandshake<TcpStream>,
        remote: SocketAddr,
        under_way: Place,
    ) -> io::Result<()> {
        let shared = &self.mesh.shared;
        if !descriptors::leaves_room(&start.io) {
            count(&shared.counters.refused);
            return Err(io::Error::other("file descriptors are short"));
        }
        let tls = handshake(&self.mesh, start, self.data.clone()).await?;
        drop(under_way);
        let chain = certificates(&tls);
        let peer = Arc::new(shared.tls.peer(Conversation::Data, &chain).map_err(io::Error::other)?);
        if shared.live.is_crowded_by(&peer.node) {
            count(&shared.counters.refused);
            return Err(io::Error::other("too many connections of one node"));
        }
        count(&shared.counters.accepted);
        let name = server_name(&tls).and_then(|name| SpiffeId::from_dns_name(&shared.own.trust_domain, &name));
        let kind = Kind { conversation: Conversation::Data, outbound: false };
        let visit = Visit {
            local: name.unwrap_or_else(|| shared.own.clone()),
            local_addr: canonical(tls.get_ref().0.local_addr()?),
            remote_addr: remote,
            peer: peer.clone(),
        };
        let retirement = Retirement::before(peer.not_after, None);
        let mut secure = Secure::new(&self.mesh, Box::new(tls), kind, peer, chain, retirement);
        let mut patience = PREFACE_TIMEOUT;
        // One tunnel after the other; anything else has the connection to itself.
        while let Some(next) = self.serve(&visit, secure, patience).await? {
            secure = next;
            patience = TUNNEL_IDLE;
        }
        Ok(())
    }

    /// Hands one stream to the worker and gives the connection back if its tunnel ended well.
    async fn serve(&self, visit: &Visit, mut secure: Secure, patience: Duration) -> io::Result<Option<Secure>> {
        let kill = secure.kill.clone();
        let opening = tokio::select! {
            opening = timeout(patience, Opening::read(&mut secure.tls)) => opening?,
            () = kill.awaited() => return Ok(None),
        };
        let preface = match opening {
            Ok(Opening::Stream(preface)) => preface,
            // Also while this node drains: nothing new begins.
            Ok(Opening::Reauthentication) => {
                secure.tls.write_all(&[0]).await?;
                let answered = reauthentication::answer(&self.mesh, secure.guard.id(), &mut secure.tls);
                timeout(PREFACE_TIMEOUT, answered).await??;
                return Ok(Some(secure));
            }
            Err(PrefaceError::Stream(_)) => return Ok(None),
            Err(error) => {
                refuse(&mut secure.tls, Code::Malformed).await?;
                return Err(io::Error::other(error));
            }
        };
        if self.mesh.is_draining() {
            count(&self.mesh.shared.counters.refused);
            refuse(&mut secure.tls, Code::Refused).await?;
            return Ok(None);
        }
        secure.tls.write_all(&[0]).await?;
        secure.tls.flush().await?;
        let (manner, returned) = match preface.protocol {
            Protocol::Tcp => {
                let (told, returned) = oneshot::channel();
                // The sending fails only if this task is gone, and the connection goes with it.
                (Manner::Tunnel(Box::new(|secure| drop(told.send(secure)))), Some(returned))
            }
            Protocol::Http1 | Protocol::Http2 => (Manner::Whole, None),
        };
        let incoming = Incoming {
            peer: visit.peer.clone(),
            local: visit.local.clone(),
            preface,
            stream: VirtualStream::tcp(OverTcp::new(secure, manner, false), Facts::accepted()),
            local_addr: visit.local_addr,
            remote_addr: visit.remote_addr,
        };
        // The queue ends with the worker, and the connection with it.
        let _ = self.queue.send(incoming).await;
        Ok(match returned {
            Some(returned) => returned.await.ok(),
            None => None,
        })
    }
}

/// What all streams of one data connection have in common.
struct Visit {
    peer: Arc<Peer>,
    local: SpiffeId,
    local_addr: SocketAddr,
    remote_addr: SocketAddr,
}

/// Tells the other end, in place of the status, why its stream is not served.
async fn refuse(tls: &mut Tls, code: Code) -> io::Result<()> {
    tls.write_all(&[code as u8]).await?;
    tls.shutdown().await
}

fn server_name(tls: &Tls) -> Option<String> {
    match tls {
        TlsStream::Server(tls) => tls.get_ref().1.server_name().map(str::to_owned),
        TlsStream::Client(_) => None,
    }
}

/// The peer's certificates, leaf first.
pub(super) fn certificates(tls: &Tls) -> Vec<CertificateDer<'static>> {
    let chain = tls.get_ref().1.peer_certificates().unwrap_or_default();
    chain.iter().map(|der| der.clone().into_owned()).collect()
}

/// Connects and ends the handshake; the caller bounds the time.
pub(super) async fn dial(
    source: Option<IpAddr>,
    address: SocketAddr,
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
) -> io::Result<Tls> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(ip) = source.filter(|ip| ip.is_ipv4() == address.is_ipv4()) {
        // Else the kernel would keep a local port per connection instead of per destination.
        let _ = nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::IpBindAddressNoPort, &true);
        socket.bind(SocketAddr::new(ip, 0))?;
    }
    let stream = socket.connect(address).await?;
    tune(&stream);
    let connect = TlsConnector::from(config).connect_with(name, Ahead::new(stream), |session| {
        session.set_buffer_limit(Some(BUFFER));
    });
    Ok(TlsStream::Client(connect.await?))
}

/// Requests are small and bulk is steady: no Nagle, and cubic where the machine's default is another. A silent connection is probed,
/// or the end of a machine would never be noticed on one that only waits. None is essential. There is no TCP_USER_TIMEOUT: it ends also
/// a connection whose other end is well and reads nothing for as long ([decision 114](../../decisions/0114-lost-ways.md)).
fn tune(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
    let socket = socket2::SockRef::from(stream);
    let _ = socket.set_tcp_congestion(b"cubic");
    let _ = socket.set_tcp_keepalive(&PROBES);
    let _ = socket.set_tcp_notsent_lowat(UNSENT);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_connection_between_nodes_keeps_little_that_is_unsent() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        tune(&stream);
        let socket = socket2::SockRef::from(&stream);
        assert_eq!((socket.tcp_notsent_lowat().unwrap(), socket.tcp_nodelay().unwrap()), (UNSENT, true));
    }
}
