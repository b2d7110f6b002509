//! An address between two nodes, where what goes by can be slowed and stopped.
#![expect(clippy::disallowed_methods, reason = "tests wait for what they spawn, or end with it")]

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::net::{TcpListener, TcpStream, UdpSocket};

/// Bytes passed on at once.
const PIECE: usize = 16 << 10;

/// What becomes of UDP.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Udp {
    /// Nobody listens.
    Refused,
    Swallowed,
    Passed,
}

/// Passes TCP on, and UDP as it was asked to.
pub(super) struct Relay {
    pub(super) address: SocketAddr,
    gates: Arc<Gates>,
}

#[derive(Default)]
struct Gates {
    tcp_frozen: AtomicBool,
    udp_frozen: AtomicBool,
    /// Milliseconds for each piece of TCP.
    pause: AtomicU64,
    accepted: AtomicUsize,
}

impl Relay {
    pub(super) async fn start(to: SocketAddr, udp: Udp) -> Relay {
        // Of an address where nobody else looks for a port: the number is to be free for both.
        let listener = TcpListener::bind("127.20.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let gates = Arc::<Gates>::default();
        if udp != Udp::Refused {
            let to = (udp == Udp::Passed).then_some(to);
            tokio::task::spawn(pass_udp(UdpSocket::bind(address).await.unwrap(), to, gates.clone()));
        }
        let passing = gates.clone();
        tokio::task::spawn(async move {
            while let Ok((from, _)) = listener.accept().await {
                passing.accepted.fetch_add(1, Relaxed);
                let to = TcpStream::connect(to).await.unwrap();
                let ((from_read, from_write), (to_read, to_write)) = (from.into_split(), to.into_split());
                tokio::task::spawn(pass(from_read, to_write, passing.clone()));
                tokio::task::spawn(pass(to_read, from_write, passing.clone()));
            }
        });
        Relay { address, gates }
    }

    /// Passes nothing on from here, and closes nothing.
    pub(super) fn freeze(&self) {
        self.freeze_tcp();
        self.gates.udp_frozen.store(true, Relaxed);
    }

    /// The same of TCP alone.
    pub(super) fn freeze_tcp(&self) {
        self.gates.tcp_frozen.store(true, Relaxed);
    }

    /// From here on every 16 KiB of TCP take so long.
    pub(super) fn slow(&self, pause: Duration) {
        self.gates.pause.store(u64::try_from(pause.as_millis()).unwrap(), Relaxed);
    }

    /// Connections of TCP that came.
    pub(super) fn accepted(&self) -> usize {
        self.gates.accepted.load(Relaxed)
    }
}

/// Between one client, the last that spoke, and the server.
async fn pass_udp(outside: UdpSocket, to: Option<SocketAddr>, gates: Arc<Gates>) {
    let inside = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let (mut client, mut asked, mut answer) = (None, vec![0; PIECE], vec![0; PIECE]);
    loop {
        tokio::select! {
            Ok((length, from)) = outside.recv_from(&mut asked) => {
                client = Some(from);
                if let Some(to) = to.filter(|_| !gates.udp_frozen.load(Relaxed)) {
                    let _ = inside.send_to(&asked[..length], to).await;
                }
            }
            Ok((length, _)) = inside.recv_from(&mut answer) => {
                if let Some(client) = client.filter(|_| !gates.udp_frozen.load(Relaxed)) {
                    let _ = outside.send_to(&answer[..length], client).await;
                }
            }
        }
    }
}

async fn pass(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    gates: Arc<Gates>,
) -> io::Result<()> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut buffer = vec![0; PIECE];
    loop {
        let length = from.read(&mut buffer).await?;
        if gates.tcp_frozen.load(Relaxed) {
            std::future::pending::<()>().await;
        }
        if length == 0 {
            return to.shutdown().await;
        }
        match gates.pause.load(Relaxed) {
            0 => {}
            pause => tokio::time::sleep(Duration::from_millis(pause)).await,
        }
        to.write_all(&buffer[..length]).await?;
    }
}
