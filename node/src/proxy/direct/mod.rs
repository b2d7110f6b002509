//! Connections that this node makes by itself: to applications beside it, and to endpoints that no node serves.

mod ahead;
mod keeper;
mod tls;
mod verifier;

pub(in crate::proxy) use ahead::{Proxied, SIGNATURE, ask};
pub use keeper::keep_tls;
pub(in crate::proxy) use tls::{Originations, Slot, Wish};

use super::{
    gateway::{Clients, Known, MadeFor},
    listen,
    tcp::Side,
};
use crate::mesh::PROBES;
use policy::kinds::TcpKeepalive;
use rustls::{ClientConfig, pki_types::ServerName};
use socket2::SockRef;
use std::{
    hash::{Hash, Hasher},
    io,
    net::SocketAddr,
    os::fd::{AsFd, BorrowedFd},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// Where a connection goes, and how it begins. Connections to equal targets stand for each other.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(in crate::proxy) struct Target {
    pub(in crate::proxy) address: SocketAddr,
    tls: Option<Session>,
    /// What goes ahead of all else.
    proxied: Option<Proxied>,
    /// It is a port of this node's own gateway.
    gateway: Option<OwnGateway>,
}

/// The gateway of this node, which knows what comes from within.
#[derive(Debug, Clone)]
struct OwnGateway(Arc<Clients>);

impl PartialEq for OwnGateway {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for OwnGateway {}

impl Hash for OwnGateway {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.0).hash(state);
    }
}

/// TLS as one server is met with it.
#[derive(Debug, Clone)]
pub(in crate::proxy) struct Session {
    /// Another one after a renewal: connections of before are not used again.
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl Session {
    /// With this server, as this configuration has it.
    pub(in crate::proxy) const fn new(config: Arc<ClientConfig>, name: ServerName<'static>) -> Self {
        Self { config, name }
    }
}

impl PartialEq for Session {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.config, &other.config) && self.name == other.name
    }
}

impl Eq for Session {}

impl Hash for Session {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.config).hash(state);
        self.name.hash(state);
    }
}

impl Target {
    /// In clear.
    pub(in crate::proxy) const fn plain(address: SocketAddr) -> Self {
        Self::new(address, None, None)
    }

    /// A port of this node's own gateway, for requests that were let in.
    pub(in crate::proxy) fn own_gateway(address: SocketAddr, clients: &Arc<Clients>) -> Self {
        Self { gateway: Some(OwnGateway(Arc::clone(clients))), ..Self::plain(address) }
    }

    /// In clear, or by TLS; whoever `proxied` the connection says so ahead of it.
    pub(in crate::proxy) const fn new(address: SocketAddr, tls: Option<Session>, proxied: Option<Proxied>) -> Self {
        Self { address, tls, proxied, gateway: None }
    }

    /// True if connections there carry requests of whoever comes next. Those of one client do not: they would be kept for as many clients
    /// as there were.
    pub(in crate::proxy) const fn is_shared(&self) -> bool {
        self.proxied.is_none()
    }

    /// Connects. The connection is probed while it is silent, as `tcpKeepalive` says, else as those between nodes: a NAT or a firewall on the
    /// way may forget it, and its machine may go without a word.
    ///
    /// # Errors
    /// Nobody answers in time, or the server is not who it should be.
    pub(in crate::proxy) async fn connect(
        &self,
        patience: Duration,
        keepalive: Option<TcpKeepalive>,
    ) -> io::Result<Stream> {
        let whole = async {
            if let Some(OwnGateway(clients)) = &self.gateway {
                let (stream, known) = clients.connect(MadeFor::Requests, self.address).await?;
                drop(stream.set_nodelay(true));
                return Ok(Stream::Within { known, stream });
            }
            let mut stream = TcpStream::connect(self.address).await?;
            listen::tune(&stream);
            // A socket without probes still works.
            drop(SockRef::from(&stream).set_tcp_keepalive(&probes(keepalive)));
            if let Some(proxied) = &self.proxied {
                proxied.write(&mut stream).await?;
            }
            let Some(Session { config, name }) = &self.tls else { return Ok(Stream::Plain(stream)) };
            let stream = TlsConnector::from(Arc::clone(config)).connect(name.clone(), stream).await?;
            let wanted = config.alpn_protocols.first().map(Vec::as_slice);
            if wanted.is_some() && stream.get_ref().1.alpn_protocol() != wanted {
                return Err(io::Error::other("the server does not speak HTTP/2"));
            }
            Ok(Stream::Tls(Box::new(stream)))
        };
        timeout(patience, whole).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }
}

/// What a policy leaves out is the system's own; of what it says, as much as Linux takes.
fn probes(keepalive: Option<TcpKeepalive>) -> socket2::TcpKeepalive {
    let Some(TcpKeepalive { probes, time, interval }) = keepalive else { return PROBES };
    let seconds = |time: Duration| Duration::from_secs(time.as_secs().clamp(1, 32_767));
    let mut wanted = socket2::TcpKeepalive::new();
    if let Some(time) = time {
        wanted = wanted.with_time(seconds(time));
    }
    if let Some(interval) = interval {
        wanted = wanted.with_interval(seconds(interval));
    }
    if let Some(probes) = probes {
        wanted = wanted.with_retries(probes.min(127));
    }
    wanted
}

/// A connection.
#[derive(Debug)]
pub(in crate::proxy) enum Stream {
    Plain(TcpStream),
    /// To this node's own gateway, which forgets it before another process may have its address.
    Within {
        known: Known,
        stream: TcpStream,
    },
    Tls(Box<TlsStream<TcpStream>>),
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Plain(stream) | Self::Within { stream, .. } => stream.as_fd(),
            Self::Tls(stream) => stream.get_ref().0.as_fd(),
        }
    }
}

impl Side for Stream {
    fn reset(self) {
        match self {
            Self::Plain(stream) => stream.reset(),
            Self::Within { known, stream } => {
                drop(known);
                stream.reset();
            }
            Self::Tls(stream) => stream.into_inner().0.reset(),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) | Self::Within { stream, .. } => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Plain(stream) | Self::Within { stream, .. } => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Plain(stream) | Self::Within { stream, .. } => Pin::new(stream).poll_write_vectored(cx, parts),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, parts),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) | Self::Within { stream, .. } => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) | Self::Within { stream, .. } => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) | Self::Within { stream, .. } => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn connections_are_probed_as_their_policy_says_or_as_those_between_nodes() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = Target::plain(listener.local_addr().unwrap());
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        let minute = TcpKeepalive { time: seconds(60), ..TcpKeepalive::default() };
        for (wanted, time) in [(None, 15), (Some(minute), 60)] {
            let stream = target.connect(Duration::from_secs(30), wanted).await.unwrap();
            let socket = SockRef::from(&stream);
            assert!(socket.keepalive().unwrap(), "{wanted:?}");
            assert_eq!(socket.tcp_keepalive_time().ok(), seconds(time), "{wanted:?}");
        }
        let whole = TcpKeepalive { probes: Some(7), time: seconds(5), interval: seconds(3) };
        let stream = target.connect(Duration::from_secs(30), Some(whole)).await.unwrap();
        let socket = SockRef::from(&stream);
        assert_eq!((socket.tcp_keepalive_interval().ok(), socket.tcp_keepalive_retries().ok()), (seconds(3), Some(7)));
    }
}
