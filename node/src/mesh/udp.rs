//! The UDP sockets of QUIC endpoints, as quinn uses them.
//!
//! On them the kernel merges no datagrams: connections of different workers share a 4-tuple, and a merged batch would go to one
//! worker whole. Without merging the receive buffers need no room for 64 datagrams each, which saves 3 MiB a worker.

use std::{
    fmt, io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use nix::sys::socket::{setsockopt, sockopt};
use quinn::{
    AsyncUdpSocket, UdpPoller,
    udp::{RecvMeta, Transmit, UdpSocketState},
};
use tokio::io::Interest;

/// See the module.
#[derive(Debug)]
pub(super) struct Socket {
    io: tokio::net::UdpSocket,
    state: UdpSocketState,
}

impl Socket {
    /// On the current runtime.
    ///
    /// # Errors
    /// The runtime takes no more sockets.
    pub(super) fn new(socket: std::net::UdpSocket) -> io::Result<Socket> {
        let state = UdpSocketState::new((&socket).into())?;
        // The line above turns merging on.
        setsockopt(&socket, sockopt::UdpGroSegment, &false)?;
        Ok(Socket { io: tokio::net::UdpSocket::from_std(socket)?, state })
    }
}

impl AsyncUdpSocket for Socket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Writable { socket: self, waiting: None })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.io.try_io(Interest::WRITABLE, || self.state.send((&self.io).into(), transmit))
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [io::IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.io.poll_recv_ready(cx))?;
            let mut received = None;
            // What goes wrong is of one datagram: quinn's own socket passes over it, too.
            let _ = self.io.try_io(Interest::READABLE, || {
                let count = self.state.recv((&self.io).into(), bufs, meta)?;
                received = Some(count);
                // Fewer than there was room for: the next look would be in vain, until the reactor says otherwise.
                if count < bufs.len() { Err(io::Error::from(io::ErrorKind::WouldBlock)) } else { Ok(()) }
            });
            if let Some(count) = received {
                return Poll::Ready(Ok(count));
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.io.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.state.max_gso_segments()
    }

    fn may_fragment(&self) -> bool {
        self.state.may_fragment()
    }
}

type Waiting = Pin<Box<dyn Future<Output = io::Result<()>> + Send + Sync>>;

/// Waits until a socket takes datagrams; each connection has its own.
struct Writable {
    socket: Arc<Socket>,
    waiting: Option<Waiting>,
}

impl fmt::Debug for Writable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writable").field("socket", &self.socket).finish_non_exhaustive()
    }
}

impl UdpPoller for Writable {
    fn poll_writable(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let socket = &this.socket;
        let waiting = this.waiting.get_or_insert_with(|| {
            let socket = socket.clone();
            Box::pin(async move { socket.io.writable().await })
        });
        let writable = ready!(waiting.as_mut().poll(cx));
        this.waiting = None;
        Poll::Ready(writable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{future::poll_fn, time::Duration};

    async fn receive(socket: &Socket, room: usize) -> usize {
        let (mut bytes, mut meta) = (vec![[0; 64]; room], vec![RecvMeta::default(); room]);
        let mut bufs: Vec<_> = bytes.iter_mut().map(|bytes| io::IoSliceMut::new(bytes)).collect();
        let received = poll_fn(|cx| socket.poll_recv(cx, &mut bufs, &mut meta));
        tokio::time::timeout(Duration::from_secs(20), received).await.expect("a datagram").unwrap()
    }

    #[tokio::test]
    async fn none_is_missed_whether_a_batch_was_full_or_not() {
        let socket = Socket::new(std::net::UdpSocket::bind("127.0.0.1:0").unwrap()).unwrap();
        let sender = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        for burst in [1, 3, 4, 5, 9] {
            for _ in 0..burst {
                sender.send_to(b"datagram", socket.local_addr().unwrap()).unwrap();
            }
            let mut left = burst;
            while left > 0 {
                left -= receive(&socket, 4).await;
            }
        }
    }
}
