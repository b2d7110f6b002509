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

/// A TLS connection with what its two ends need to bind proofs to it.
#[derive(Debug)]
pub struct Conversed {}

impl Conversed {
    /// Secret of this very TLS session, equal at both ends (RFC 8446, 7.5), without context.
    ///
    /// # Errors
    /// The session is in no state to export.
    pub fn exporter(&self, _label: &[u8]) -> io::Result<[u8; 32]> {
        todo!()
    }

    /// The peer's certificates, leaf first; empty on the side that serves joins and administration.
    #[must_use]
    pub fn certificates(&self) -> &[CertificateDer<'static>] {
        todo!()
    }

    /// The other end's address.
    #[must_use]
    pub fn remote(&self) -> SocketAddr {
        todo!()
    }
}

impl AsyncRead for Conversed {
    fn poll_read(self: Pin<&mut Self>, _cx: &mut Context<'_>, _buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        todo!()
    }
}

impl AsyncWrite for Conversed {
    fn poll_write(self: Pin<&mut Self>, _cx: &mut Context<'_>, _buf: &[u8]) -> Poll<io::Result<usize>> {
        todo!()
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        todo!()
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        todo!()
    }
}

/// Dials by TLS/TCP with a ready configuration; 10 s for all of it.
///
/// # Errors
/// Nobody answers, or the handshake fails.
#[expect(clippy::unused_async, reason = "signature first")]
pub async fn connect(
    _address: SocketAddr,
    _config: Arc<ClientConfig>,
    _name: ServerName<'static>,
) -> io::Result<Conversed> {
    todo!()
}

/// Remote administration, the command line's side.
pub mod admin {
    pub use super::{Conversed, connect};
}

/// Enrolment, the joiner's side: `connect` with `certs::tls::joiner`.
pub mod join {
    pub use super::{Conversed, connect};
}
