//! The UDP sockets of QUIC endpoints, as quinn uses them.
//!
//! On them the kernel merges no datagrams: connections of different workers share a 4-tuple, and a merged batch would go to one
//! worker whole. Without merging the receive buffers need no room for 64 datagrams each, which saves 3 MiB a worker.

use std::{
    fmt, io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use nix::sys::socket::{setsockopt, sockopt};
use quinn::{
    AsyncUdpSocket, UdpPoller,
    udp::{RecvMeta, Transmit, UdpSocketState},
};
use tokio::io::{Interest, unix::AsyncFd};

/// How long a connection waits for room where the reactor cannot tell of it: a process out of file numbers.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// See the module. Only that it can be read is asked of the reactor: each datagram that leaves makes a socket writable anew, and would
/// wake this thread for nothing.
#[derive(Debug)]
pub(super) struct Socket {
    io: AsyncFd<std::net::UdpSocket>,
    state: UdpSocketState,
    /// The kernel had no room for a datagram, and has not said since that it has.
    full: AtomicBool,
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
        socket.set_nonblocking(true)?;
        let io = registered(socket, Interest::READABLE)?;
        Ok(Socket { io, state, full: AtomicBool::new(false) })
    }

    /// Waits until the kernel has room for a datagram. Whoever waits asks the reactor under a number of its own, which tells at once if
    /// there is room, and no more when it is gone.
    async fn room(&self) -> io::Result<()> {
        let room = registered(self.io.get_ref().try_clone()?, Interest::WRITABLE)?;
        room.writable().await?.retain_ready();
        Ok(())
    }
}

/// With the current runtime's reactor, for this alone: what tokio has for sockets asks for both.
#[expect(unsafe_code, reason = "tokio cannot know that a descriptor stays what it is")]
fn registered(socket: std::net::UdpSocket, interest: Interest) -> io::Result<AsyncFd<std::net::UdpSocket>> {
    // SAFETY: a `UdpSocket` of the standard library keeps one open descriptor, its own, until it is dropped.
    Ok(unsafe { AsyncFd::register_with_interest(socket, interest) }?)
}

impl AsyncUdpSocket for Socket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Writable { socket: self, waiting: None })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let sent = self.state.send(self.io.get_ref().into(), transmit);
        if sent.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock) {
            self.full.store(true, Ordering::Relaxed);
        }
        sent
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [io::IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        loop {
            let mut ready = ready!(self.io.poll_read_ready(cx))?;
            let mut received = None;
            // What goes wrong is of one datagram: quinn's own socket passes over it, too.
            let _ = ready.try_io(|io| {
                let count = self.state.recv(io.get_ref().into(), bufs, meta)?;
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
        self.io.get_ref().local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.state.max_gso_segments()
    }

    fn may_fragment(&self) -> bool {
        self.state.may_fragment()
    }
}

type Waiting = Pin<Box<dyn Future<Output = ()> + Send + Sync>>;

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
        if this.waiting.is_none() && !socket.full.load(Ordering::Relaxed) {
            return Poll::Ready(Ok(()));
        }
        let waiting = this.waiting.get_or_insert_with(|| {
            let socket = socket.clone();
            Box::pin(async move {
                // Without a number for it, a look now and then must do.
                if socket.room().await.is_err() {
                    tokio::time::sleep(LOOK_AGAIN).await;
                }
                socket.full.store(false, Ordering::Relaxed);
            })
        });
        ready!(waiting.as_mut().poll(cx));
        this.waiting = None;
        Poll::Ready(Ok(()))
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

    #[tokio::test]
    async fn who_finds_no_room_waits_until_there_is_some() {
        let socket = Arc::new(Socket::new(std::net::UdpSocket::bind("127.0.0.1:0").unwrap()).unwrap());
        let mut poller = socket.clone().create_io_poller();
        poll_fn(|cx| poller.as_mut().poll_writable(cx)).await.unwrap();
        // As after a datagram for which the kernel had no room: it has since.
        socket.full.store(true, Ordering::Relaxed);
        let writable = poll_fn(|cx| poller.as_mut().poll_writable(cx));
        tokio::time::timeout(Duration::from_secs(20), writable).await.expect("room").unwrap();
        assert!(!socket.full.load(Ordering::Relaxed), "nobody else waits for it");
        let contents = b"datagram";
        let to = Transmit {
            destination: socket.local_addr().unwrap(),
            ecn: None,
            contents,
            segment_size: None,
            src_ip: None,
        };
        socket.try_send(&to).unwrap();
        assert_eq!(receive(&socket, 4).await, 1);
    }
}
