//! A connection that speaks HTTP no more.

use crate::lock::lock;
use bytes::{Buf as _, Bytes, BytesMut};
use std::{
    any::Any,
    fmt, io,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

trait Io: AsyncRead + AsyncWrite + Send + Unpin + Any {}
impl<I: AsyncRead + AsyncWrite + Send + Unpin + Any> Io for I {}

/// The bytes of a connection after its change of protocol.
pub struct Upgraded {
    io: Box<dyn Io>,
    /// What came with the head.
    read: Bytes,
}

impl fmt::Debug for Upgraded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upgraded").field("read", &self.read.len()).finish_non_exhaustive()
    }
}

/// Travels with a 101 response; the first who asks gets the connection.
#[derive(Debug, Clone)]
struct Ticket(Arc<Mutex<Option<Upgraded>>>);

impl Upgraded {
    pub(super) fn new(io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, read: Bytes) -> Self {
        Self { io: Box::new(io), read }
    }

    /// Bytes that were read and are to be read again, before all others.
    pub fn unread(&mut self, bytes: &[u8]) {
        let mut all = BytesMut::from(bytes);
        all.extend_from_slice(&self.read);
        self.read = all.freeze();
    }

    /// What carries it, if that is of this type; what was read and not taken is lost.
    pub fn into_carrier<I: 'static>(self) -> Option<I> {
        let io: Box<dyn Any> = self.io;
        io.downcast().ok().map(|io| *io)
    }

    /// What carries it, if that is of this type.
    pub fn carrier<I: 'static>(&self) -> Option<&I> {
        let io: &dyn Any = self.io.as_ref();
        io.downcast_ref()
    }

    /// Gives the connection to a 101 response.
    pub(super) fn attach<B>(self, response: &mut http::Response<B>) {
        response.extensions_mut().insert(Ticket(Arc::new(Mutex::new(Some(self)))));
    }

    /// The connection of a 101 response that this room read; once.
    pub fn take<B>(response: &mut http::Response<B>) -> Option<Self> {
        let Ticket(ticket) = response.extensions_mut().remove()?;
        lock(&ticket).take()
    }
}

impl AsyncRead for Upgraded {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.read.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, buf);
        }
        let length = self.read.len().min(buf.remaining());
        buf.put_slice(&self.read[..length]);
        self.read.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Upgraded {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
