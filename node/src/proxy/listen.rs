//! Local listening sockets: one per worker on each address, and the loop that accepts from them.

use super::{capture, context::Context, gateway, outbound, plaintext, plane::Serves};
use crate::{descriptors, mesh::UNSENT};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use std::{
    any::Any,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// Connections that wait to be accepted, per socket.
const BACKLOG: i32 = 1024;
/// How long accepting rests when there are too many connections or no file descriptors.
const REST: Duration = Duration::from_millis(100);

/// Sets what the connections of applications and clients have in common. A socket that refuses it still works.
pub(super) fn tune(stream: &tokio::net::TcpStream) {
    // Small answers must not wait for acknowledgements.
    drop(stream.set_nodelay(true));
    // Writes are taken while less than this waits to be sent.
    drop(SockRef::from(stream).set_tcp_notsent_lowat(UNSENT));
}

/// One socket per worker on the same address; a port of 0 becomes one that is free.
///
/// # Errors
/// The address is in use or not this machine's.
pub(super) fn bind(address: SocketAddr, workers: usize) -> io::Result<(SocketAddr, Vec<TcpListener>)> {
    bind_as(address, workers, true, false)
}

/// As [`bind`], where this process listens at the same port already, at one address of all or at all of one: whoever connects to
/// that one address comes to the listener that names it.
///
/// # Errors
/// As [`bind`].
pub(super) fn bind_beside(address: SocketAddr, workers: usize) -> io::Result<(SocketAddr, Vec<TcpListener>)> {
    bind_as(address, workers, false, false)
}

/// As [`bind`] for each family, at the same port; of IPv6 only where the machine has it. The addresses are of loopback, or none.
///
/// # Errors
/// As [`bind`].
pub(super) fn bind_both(
    (v4, v6): (Ipv4Addr, Ipv6Addr),
    port: u16,
    workers: usize,
) -> io::Result<Vec<(SocketAddr, Vec<TcpListener>)>> {
    let first = bind((v4, port).into(), workers)?;
    let second = bind_as((v6, first.0.port()).into(), workers, true, true);
    Ok(match second {
        Ok(second) => vec![first, second],
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Err(error),
        Err(error) => {
            tracing::info!(%error, "no IPv6 on this machine: only IPv4 can be captured");
            vec![first]
        }
    })
}

fn bind_as(
    address: SocketAddr,
    workers: usize,
    alone: bool,
    only_v6: bool,
) -> io::Result<(SocketAddr, Vec<TcpListener>)> {
    let first = open(address, alone && address.port() != 0, only_v6)?;
    let bound = first.local_addr()?;
    let mut sockets = vec![first];
    for _ in 1..workers {
        sockets.push(open(bound, false, only_v6)?);
    }
    Ok((bound, sockets))
}

/// With SO_REUSEPORT a second process could quietly share the port, so the first socket makes sure to be alone.
fn open(address: SocketAddr, alone: bool, only_v6: bool) -> io::Result<TcpListener> {
    let socket = |reuse_port: bool| -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(reuse_port)?;
        if only_v6 {
            socket.set_only_v6(true)?;
        }
        socket.bind(&address.into())?;
        Ok(socket)
    };
    if alone {
        drop(socket(false)?);
    }
    let socket = socket(true)?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// Accepts from when the node serves until the listener is closed or the node drains.
pub(super) async fn accept(
    context: Arc<Context>,
    listener: Arc<tokio::net::TcpListener>,
    serves: Serves,
    close: CancellationToken,
) {
    tokio::select! {
        () = context.serving() => {}
        () = close.cancelled() => return,
        () = context.draining() => return,
    }
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = close.cancelled() => return,
            () = context.draining() => return,
        };
        let (stream, remote) = match accepted {
            Ok(accepted) => accepted,
            // The one that was to be accepted went away.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
            Err(error) => {
                tracing::warn!(%error, "cannot accept connections of applications");
                if rests(&context, &close).await {
                    continue;
                }
                return;
            }
        };
        // Further connections of applications wait in the backlog.
        while context.connections.load(Ordering::Relaxed) >= serves.room(&context) {
            if !rests(&context, &close).await {
                return;
            }
        }
        if !descriptors::leaves_room(&stream) {
            tracing::warn!("file descriptors are short: connections of applications wait (raise `ulimit -n`)");
            while descriptors::are_short() {
                if !rests(&context, &close).await {
                    return;
                }
            }
        }
        let counted = Counted::new(&context);
        match &serves {
            Serves::Applications(speaker) => {
                let connection = outbound::serve(Arc::clone(&context), Arc::clone(speaker), stream, remote, None);
                let tracked = context.open.track_future(holding(counted, connection));
                context.tasks.detach("application connection", tracked);
            }
            Serves::Captured(captured) => {
                let connection = capture::serve(Arc::clone(&context), Arc::clone(captured), stream, remote);
                let tracked = context.open.track_future(holding(counted, connection));
                context.tasks.detach("captured connection", tracked);
            }
            Serves::Clients(door) => {
                let connection = gateway::serve(Arc::clone(&context), Arc::clone(door), stream, remote);
                let tracked = context.open.track_future(holding(counted, connection));
                context.tasks.detach("client connection", tracked);
            }
            Serves::Plaintext(door) => {
                let door = door.load_full();
                let Some(client) = context.clients.admit(remote.ip(), &context.limits()) else { continue };
                let connection = plaintext::serve(Arc::clone(&context), door, stream, remote);
                let tracked = context.open.track_future(holding((counted, client), connection));
                context.tasks.detach("connection in plaintext", tracked);
            }
            Serves::Incoming(listeners) => {
                let Some(client) = context.clients.admit(remote.ip(), &context.limits()) else { continue };
                let connection = capture::serve_incoming(Arc::clone(&context), Arc::clone(listeners), stream, remote);
                let tracked = context.open.track_future(holding((counted, client), connection));
                context.tasks.detach("captured connection of another machine", tracked);
            }
        }
    }
}

tokio::task_local! {
    /// What the connection that a task serves occupies.
    static PLACE: Held;
}

type Held = Arc<dyn Any + Send + Sync>;

/// Serves a connection that occupies this, beside what it occupies already.
pub(super) fn holding<F: Future>(held: impl Send + Sync + 'static, serving: F) -> impl Future<Output = F::Output> {
    PLACE.scope(Arc::new((held, place())), serving)
}

/// What the connection occupies whose task this is: a tunnel that becomes of it holds that until it ends. By HTTP/2 a request has a task of
/// its own, and nothing to hold: the connection lasts as long as its tunnels.
pub(super) fn place() -> Option<impl Send + Sync + 'static> {
    PLACE.try_with(Arc::clone).ok()
}

/// Waits for room; false if the listener is to end meanwhile.
async fn rests(context: &Context, close: &CancellationToken) -> bool {
    tokio::select! {
        () = tokio::time::sleep(REST) => true,
        () = close.cancelled() => false,
        () = context.draining() => false,
    }
}

impl Serves {
    /// How many connections a node may have when one more is accepted. What clients outside may take leaves room for applications.
    fn room(&self, context: &Context) -> usize {
        let all = context.current.read().compiled.config().limits.connections;
        match self {
            Self::Applications(_) | Self::Captured(_) => all,
            Self::Clients(_) | Self::Plaintext(_) | Self::Incoming(_) => all - all / 10,
        }
    }
}

/// One of the connections of applications and clients that a node serves at once (`MeshConfig.limits.connections`).
struct Counted(Arc<std::sync::atomic::AtomicUsize>);

impl Counted {
    fn new(context: &Context) -> Self {
        context.connections.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(&context.connections))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_workers_share_one_address() {
        let (bound, sockets) = bind("127.0.0.1:0".parse().unwrap(), 3).unwrap();
        assert_eq!(sockets.len(), 3);
        assert!(sockets.iter().all(|socket| socket.local_addr().unwrap() == bound));
    }

    #[test]
    fn an_address_in_use_is_told() {
        let (bound, _sockets) = bind("127.0.0.1:0".parse().unwrap(), 1).unwrap();
        assert_eq!(bind(bound, 2).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn one_address_has_a_listener_of_its_own_beside_that_of_all() {
        let (all, wide) = bind("0.0.0.0:0".parse().unwrap(), 2).unwrap();
        let one = SocketAddr::from(([127, 0, 0, 1], all.port()));
        assert_eq!(bind(one, 1).unwrap_err().kind(), io::ErrorKind::AddrInUse, "another process would share it");
        let (bound, narrow) = bind_beside(one, 2).unwrap();
        assert_eq!(bound, one);
        let _client = std::net::TcpStream::connect(one).unwrap();
        std::thread::sleep(Duration::from_millis(20));
        let accepted = |sockets: &[TcpListener]| sockets.iter().filter(|socket| socket.accept().is_ok()).count();
        assert_eq!((accepted(&wide), accepted(&narrow)), (0, 1));
        drop(wide);
        assert!(bind_beside(all, 1).is_ok(), "in the other order, too");
    }

    #[tokio::test]
    async fn who_reads_nothing_is_kept_little_for() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let taken = |tuned: bool| {
            let listener = &listener;
            async move {
                let _silent = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
                let (stream, _) = listener.accept().await.unwrap();
                if tuned {
                    tune(&stream);
                }
                let (mut sum, piece) = (0, vec![0; 64 * 1024]);
                // What the other end's kernel takes comes a moment later.
                for _ in 0..50 {
                    while let Ok(length) = stream.try_write(&piece) {
                        sum += length;
                    }
                    tokio::time::sleep(Duration::from_millis(2)).await;
                    drop(tokio::time::timeout(Duration::from_millis(1), stream.writable()).await);
                }
                sum
            }
        };
        let (tuned, plain) = (taken(true).await, taken(false).await);
        assert!(tuned < plain && tuned <= 1 << 20, "{tuned} bytes, {plain} without it");
    }
}
