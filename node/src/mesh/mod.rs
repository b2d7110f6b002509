//! Authenticated streams between nodes: QUIC on UDP and TLS 1.3 on TCP, on one port number.
//!
//! [`Mesh::bind`] opens all sockets. Each data worker then starts a [`data::Worker`] on its own runtime, which dials and
//! accepts requests and tunnels; the control runtime starts a [`peer::PeerNetwork`], which carries gossip, sync, joins and
//! administration. What both share is here: identity, limits, the table of live connections.

mod accept;
mod ahead;
mod blocked;
mod chunks;
#[cfg(test)]
mod contract;
pub mod conversation;
pub mod crowd;
pub mod data;
mod dial;
pub mod error;
mod farewell;
mod frames;
mod handshakes;
mod inbox;
pub mod lease;
mod link;
mod live;
pub mod occupancy;
pub mod peer;
mod pool;
pub mod preface;
mod quic;
mod reauthentication;
mod secure;
mod steer;
pub mod stream;
mod tls_tcp;
mod udp;
mod unreached;

use crate::lock::lock;
use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, SocketAddr, TcpListener, UdpSocket},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use aws_lc_rs::hmac;
use certs::{
    id::{NodeId, ServiceAccount, SpiffeId},
    tls::Tls,
    verify::Authority,
};
use tokio::sync::{mpsc, watch};

pub(crate) use chunks::FULL_CHUNK;
pub use conversation::{Conversed, connect};
pub use error::{Error, Limit};
pub use preface::{Preface, Protocol};
pub(crate) use tls_tcp::{PROBES, UNSENT};
pub use unreached::NotReached;

use crate::{clock, tasks::Tasks};
use blocked::Blocked;
use handshakes::Handshakes;
use live::Live;

/// Data connections that a node dials, all workers together.
pub const MAX_DATA_CONNECTIONS: usize = 4_096;
/// TCP handshakes that wait for the control runtime.
const HANDOVERS: usize = 256;
/// Time for the peers to hear of our end.
const FAREWELL: Duration = Duration::from_secs(1);
/// How often ends of certificates are looked for.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(5);
/// So many looks after a change judge all connections anew: the first may come before one is in the table whose handshake was judged
/// just before the change.
const LATE_LOOKS: u8 = 2;

/// Which carrier to dial.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// QUIC, and TLS over TCP where UDP does not answer within 200 ms.
    #[default]
    Auto,
    /// QUIC only.
    Quic,
    /// TLS over TCP only.
    Tcp,
}

/// What the mesh port needs to know.
#[derive(Debug, Clone)]
pub struct Config {
    /// UDP and TCP address; port 0 picks one that is free on both.
    pub listen: SocketAddr,
    /// Data workers, 1 to [`MAX_WORKERS`].
    pub workers: usize,
    /// Which carrier to dial.
    pub transport: Transport,
    /// Secret of this node that survives restarts: lets a restarted node tell its peers at once that their connections
    /// are gone (QUIC's stateless reset) instead of leaving them to time out.
    pub reset_secret: [u8; 32],
}

/// Data workers of one node: first bytes of connection ids below the control endpoint's.
pub const MAX_WORKERS: usize = steer::CONTROL as usize;

/// How UDP datagrams find their worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Steering {
    /// A socket per worker, steered by connection id.
    PerWorker,
    /// The kernel refused the filter: one socket for all, with this reason.
    Single(String),
}

/// What happened on the mesh port since the node started.
#[derive(Debug, Default)]
pub struct Counters {
    /// QUIC connections dialled.
    pub dialled_quic: AtomicU64,
    /// TLS/TCP connections dialled.
    pub dialled_tcp: AtomicU64,
    /// Dials that led to nobody, or to somebody else.
    pub dial_failures: AtomicU64,
    /// Dials where TCP answered and UDP did not.
    pub udp_blocked: AtomicU64,
    /// Connections accepted, both carriers.
    pub accepted: AtomicU64,
    /// Handshakes of others that failed or were refused.
    pub handshake_failures: AtomicU64,
    /// First packets whose sender had to prove its address.
    pub retries: AtomicU64,
    /// Streams and connections refused unread: this node drains, has too many of one node, or too few file descriptors.
    pub refused: AtomicU64,
    /// Calls that found a limit reached, by limit.
    overflows: [AtomicU64; Limit::ALL.len()],
    /// Connections, dialled by this node, that went on by renewed certificates.
    pub proven: AtomicU64,
    /// Connections closed because a node was gone, a peer no longer counted, or a certificate ended.
    pub revoked: AtomicU64,
}

impl Counters {
    /// Calls that found this limit reached.
    #[must_use]
    pub const fn overflows(&self, limit: Limit) -> &AtomicU64 {
        &self.overflows[limit as usize]
    }
}

/// Adds one.
fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}

/// The mesh port of one node and everything that its runtimes share. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Mesh {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    address: SocketAddr,
    own: SpiffeId,
    tls: Tls,
    tasks: Tasks,
    transport: Transport,
    workers: u8,
    steering: Steering,
    reset_key: Arc<hmac::Key>,
    live: Arc<Live>,
    /// What the workers keep open to other nodes.
    pools: pool::Pools,
    counters: Counters,
    handshakes: Handshakes,
    farewell: Arc<farewell::Farewell>,
    closed: AtomicBool,
    /// The authority that open connections are re-judged by, and how many more sweeps will do so.
    judge_again: Mutex<(u8, Option<Arc<Authority>>)>,
    /// Addresses where UDP did not answer: TCP goes first there.
    udp_blocked: Blocked,
    /// Addresses where TCP did not answer and UDP did: tunnels go over QUIC there.
    tcp_blocked: Blocked,
    /// Nodes that were dialled in vain.
    unreached: unreached::Unreached,
    /// All endpoints that were started, to close them.
    endpoints: Mutex<Vec<quinn::Endpoint>>,
    /// Without steering: the one endpoint, once worker 0 has made it.
    single: watch::Sender<Option<quinn::Endpoint>>,
    /// TCP handshakes and, without steering, QUIC handshakes for the control runtime.
    control: mpsc::Sender<accept::Handover>,
    /// Spreads the first connections of several nodes over the workers of one.
    spread: u8,
}

/// The sockets of one data worker; give them to [`data::Worker::start`] on its runtime.
#[derive(Debug)]
pub struct WorkerSockets {
    /// 0-based.
    pub index: usize,
    udp: Option<UdpSocket>,
    tcp: TcpListener,
}

/// The control runtime's side; give it to [`peer::PeerNetwork::start`].
#[derive(Debug)]
pub struct ControlSockets {
    udp: Option<UdpSocket>,
    handovers: mpsc::Receiver<accept::Handover>,
}

/// Whether the kernel lets workers share one UDP port here, asked by sockets of its own on loopback.
///
/// # Errors
/// Why not.
pub fn steers() -> Result<(), String> {
    let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
    match steer::bind(anywhere, 2, steer::attach).map_err(|error| error.to_string())?.steering {
        Steering::PerWorker => Ok(()),
        Steering::Single(why) => Err(why),
    }
}

impl Mesh {
    /// Opens the mesh port. `own` is this node's identity.
    ///
    /// # Errors
    /// The address is in use, or not one of this machine's.
    pub fn bind(
        config: &Config,
        own: SpiffeId,
        tls: Tls,
        tasks: Tasks,
    ) -> io::Result<(Mesh, Vec<WorkerSockets>, ControlSockets)> {
        Mesh::bind_steered(config, own, tls, tasks, steer::attach)
    }

    fn bind_steered(
        config: &Config,
        own: SpiffeId,
        tls: Tls,
        tasks: Tasks,
        attach: steer::Attach,
    ) -> io::Result<(Mesh, Vec<WorkerSockets>, ControlSockets)> {
        let workers = config.workers.clamp(1, MAX_WORKERS);
        let bound = steer::bind(config.listen, workers, attach)?;
        let (control, handovers) = mpsc::channel(HANDOVERS);
        let shared = Shared {
            address: bound.address,
            own,
            tls,
            tasks,
            transport: config.transport,
            workers: u8::try_from(workers).map_err(io::Error::other)?,
            steering: bound.steering,
            reset_key: Arc::new(hmac::Key::new(hmac::HMAC_SHA256, &config.reset_secret)),
            live: Arc::default(),
            pools: pool::Pools::default(),
            counters: Counters::default(),
            handshakes: Handshakes::default(),
            farewell: Arc::default(),
            closed: AtomicBool::new(false),
            judge_again: Mutex::default(),
            udp_blocked: Blocked::default(),
            tcp_blocked: Blocked::default(),
            unreached: unreached::Unreached::default(),
            endpoints: Mutex::default(),
            single: watch::Sender::new(None),
            control,
            spread: rand::random(),
        };
        let sockets = bound.workers.into_iter().enumerate();
        let sockets = sockets.map(|(index, (udp, tcp))| WorkerSockets { index, udp, tcp }).collect();
        Ok((Mesh { shared: Arc::new(shared) }, sockets, ControlSockets { udp: bound.control, handovers }))
    }

    /// The bound address, with its real port.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.shared.address
    }

    /// How UDP datagrams find their worker: `check` warns of [`Steering::Single`].
    #[must_use]
    pub fn steering(&self) -> &Steering {
        &self.shared.steering
    }

    /// What happened since the node started.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.shared.counters
    }

    /// From now on a handshake of others may take so long, and so many of one carrier may be under way.
    pub fn limit_handshakes(&self, time: Duration, pending: usize) {
        self.shared.handshakes.set(time, pending);
    }

    /// Data connections that this node has dialled and that are open.
    #[cfg(test)]
    fn data_connections(&self) -> usize {
        self.shared.live.outbound()
    }

    /// The nodes to which no data connection could be dialled for a while, and none could be since.
    #[must_use]
    pub fn not_reached(&self) -> Vec<NotReached> {
        self.shared.unreached.lasting(clock::uptime())
    }

    /// Closes all data connections to a node at once (it is dead, has left, or was evicted): requests in flight fail as reset.
    /// Connections from it stay: an evicted node's end by [`Mesh::rejudge`].
    pub fn close_node(&self, node: &NodeId) {
        self.revoked(self.shared.live.close_node(node));
    }

    /// Lets nothing new begin on the data connections that this node dialled to `node`, which fell silent: their way may be gone, as after
    /// a change of either address, and the next request dials its own. What is under way goes on, for it may also be heard again.
    pub fn retire_node(&self, node: &NodeId) {
        let retired = self.shared.live.retire_node(node);
        if retired > 0 {
            tracing::debug!(peer = %node, retired, "nothing new begins on connections to a node that fell silent");
        }
    }

    /// Closes the data connections that this node dialled to services of these accounts on `node`: one of them may be served there no
    /// longer, and nobody here can tell which connection leads to which. Gives the number of connections closed.
    pub fn close_accounts(&self, node: &NodeId, accounts: &BTreeSet<ServiceAccount>) -> usize {
        self.revoked(self.shared.live.close_accounts(node, accounts))
    }

    /// Judges every live connection anew, both directions and all conversations, and closes those whose peer no longer counts.
    /// Call after the shared `Authority` was swapped. Gives the number of connections closed. Handshakes that were judged
    /// before and come into the table after are judged again at the next looks for ends of certificates.
    pub fn rejudge(&self, authority: &Arc<Authority>) -> usize {
        *lock(&self.shared.judge_again) = (LATE_LOOKS, Some(authority.clone()));
        self.revoked(self.shared.live.rejudge(authority, clock::wall()))
    }

    /// Lets connections end that rest on an enroller CA which is `leaving`, without cutting what is under way: nothing new begins on data
    /// connections, and peer links are dialled again one after the other, those that a peer should dial again only with `theirs`.
    /// Gives how many there still are.
    pub fn retire(&self, leaving: impl FnMut(&[u8]) -> bool, theirs: bool) -> usize {
        self.shared.live.retire(leaving, theirs)
    }

    /// Closes what a certificate's end has reached, and what slipped into the table while it was judged anew.
    fn look_again(&self) -> usize {
        let now = clock::wall();
        let late = self.changed().map_or(0, |authority| self.shared.live.rejudge(&authority, now));
        self.shared.live.turn_over(now);
        let ended = self.shared.live.expire(now);
        if ended > 0 {
            tracing::warn!("closed {ended} connections: their certificates have ended, and nobody proved them anew");
        }
        self.revoked(late + ended)
    }

    /// Whom to believe now, if that changed so short a time ago that a handshake may have been judged before.
    fn changed(&self) -> Option<Arc<Authority>> {
        let mut again = lock(&self.shared.judge_again);
        let (looks, authority) = &mut *again;
        *looks = looks.saturating_sub(1);
        if *looks == 0 { authority.take() } else { authority.clone() }
    }

    fn revoked(&self, closed: usize) -> usize {
        self.shared.counters.revoked.fetch_add(u64::try_from(closed).unwrap_or(u64::MAX), Relaxed);
        closed
    }

    /// From now on streams that nobody has read are refused (safe to retry elsewhere), and new data connections too.
    pub fn drain(&self) {
        self.shared.farewell.drain();
    }

    fn is_draining(&self) -> bool {
        self.shared.farewell.is_draining()
    }

    /// Closes everything: waits at most 1 s until the peers have what was answered last, and as long until they have been told.
    /// Call after [`Tasks::stop`].
    pub async fn close(&self) {
        self.shared.closed.store(true, Relaxed);
        let code = self.shared.farewell.say().await;
        let endpoints = std::mem::take(&mut *lock(&self.shared.endpoints));
        self.shared.live.close_all(code);
        for endpoint in &endpoints {
            endpoint.close(code.varint(), b"");
        }
        let told = async {
            for endpoint in &endpoints {
                endpoint.wait_idle().await;
            }
        };
        // Who has not heard by then times out.
        let _ = tokio::time::timeout(FAREWELL, told).await;
    }

    fn is_closed(&self) -> bool {
        self.shared.closed.load(Relaxed)
    }

    /// The address to send from, unless the kernel may choose.
    fn source_ip(&self) -> Option<IpAddr> {
        Some(self.shared.address.ip()).filter(|ip| !ip.is_unspecified())
    }
}
