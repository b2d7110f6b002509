//! Conversations over TLS/TCP that are neither data nor gossip: enrolment and remote administration.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use rustls::{
    ClientConfig,
    pki_types::{CertificateDer, ServerName},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::TlsStream;

use super::{accept::HANDSHAKE_TIMEOUT, ahead::Tls, tls_tcp};

/// A TLS connection with what its two ends need to bind proofs to it.
#[derive(Debug)]
pub struct Conversed {
    tls: Box<Tls>,
    remote: SocketAddr,
}

impl Conversed {
    pub(super) fn new(tls: Tls, remote: SocketAddr) -> Conversed {
        Conversed { tls: Box::new(tls), remote }
    }

    /// Secret of this very TLS session, equal at both ends (RFC 8446, 7.5), without context.
    ///
    /// # Errors
    /// The session is in no state to export.
    pub fn exporter(&self, label: &[u8]) -> io::Result<[u8; 32]> {
        let secret = match &*self.tls {
            TlsStream::Client(tls) => tls.get_ref().1.export_keying_material([0; 32], label, None),
            TlsStream::Server(tls) => tls.get_ref().1.export_keying_material([0; 32], label, None),
        };
        secret.map_err(io::Error::other)
    }

    /// The peer's certificates, leaf first; empty on the side that serves joins and administration.
    #[must_use]
    pub fn certificates(&self) -> &[CertificateDer<'static>] {
        self.tls.get_ref().1.peer_certificates().unwrap_or_default()
    }

    /// The other end's address.
    #[must_use]
    pub fn remote(&self) -> SocketAddr {
        self.remote
    }
}

impl AsyncRead for Conversed {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_read(cx, buf)
    }
}

impl AsyncWrite for Conversed {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_shutdown(cx)
    }
}

/// Dials by TLS/TCP with a ready configuration, `certs::tls::operator` or `certs::tls::joiner`; 10 s for all of it.
///
/// # Errors
/// Nobody answers, or the handshake fails.
pub async fn connect(
    address: SocketAddr,
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
) -> io::Result<Conversed> {
    let tls = tokio::time::timeout(HANDSHAKE_TIMEOUT, tls_tcp::dial(None, address, config, name)).await??;
    Ok(Conversed::new(tls, address))
}
