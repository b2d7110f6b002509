//! One data worker's side of the mesh: requests and tunnels to other nodes, and from them.

mod tunnel;

use crate::lock::lock;
use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use certs::{
    id::{NodeId, SpiffeId},
    tls::Conversation,
    verify::Peer,
};
use futures_util::FutureExt as _;
use tokio::{
    io::AsyncWriteExt as _,
    net::TcpListener,
    sync::{Mutex, mpsc, oneshot, watch},
    time::{Instant, timeout, timeout_at},
};

use super::{
    MAX_DATA_CONNECTIONS, Mesh, Steering, Transport, WorkerSockets,
    accept::{self, Accepted, Handover},
    count,
    dial::{self, CONNECT_TIMEOUT, Carrier, Dialled, Target},
    error::{Error, Limit},
    lease::{Lease, Link, Pings},
    live::{Handle, OUTBOUND, proven::Shown},
    pool::{Connection, Dialling, Group, Pool, Slot, Step},
    preface::{Preface, Protocol},
    quic, reauthentication,
    secure::{Manner, OverTcp, Secure},
    steer::{CONTROL, Lane},
    stream::{Facts, VirtualStream},
    tls_tcp::Port,
};
use crate::clock::{self, Uptime};

/// Streams from other nodes that wait for [`Worker::accept`].
const QUEUE: usize = 1_024;
/// How often unused connections are looked for.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// Attempts to find or make a connection for one stream, where connections end under our hands.
const ATTEMPTS: usize = 4;

/// Whom to reach, as whom, and what for.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    /// The identity that this node shows.
    pub source: &'a SpiffeId,
    /// The destination node: whoever answers must be it.
    pub node: &'a NodeId,
    /// Its mesh address.
    pub address: SocketAddr,
    /// The destination's identity: whoever answers must have it.
    pub identity: &'a SpiffeId,
    /// What the stream is for.
    pub preface: &'a Preface,
    /// How long a connection that is dialled for it may take to open; as long it waits for room first, where there is none.
    pub patience: Duration,
    /// How a virtual connection of HTTP/2 that is made for it is watched.
    pub pings: Option<Pings>,
}

/// One data worker. Cheap to clone; everything that it starts runs on the runtime where it was started.
#[derive(Debug, Clone)]
pub struct Worker {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    mesh: Mesh,
    index: u8,
    pool: Arc<Pool>,
    endpoint: watch::Receiver<Option<quinn::Endpoint>>,
    incoming: Mutex<mpsc::Receiver<Incoming>>,
}

/// A stream that another node opened.
#[derive(Debug)]
pub struct Incoming {
    /// Who speaks, as TLS proves.
    pub peer: Arc<Peer>,
    /// The identity that this node showed: the account that the caller asked for.
    pub local: SpiffeId,
    /// What the stream is for, as the caller says.
    pub preface: Preface,
    /// What follows the preface.
    pub stream: VirtualStream,
    /// Our address.
    pub local_addr: SocketAddr,
    /// The other node's address.
    pub remote_addr: SocketAddr,
}

impl Worker {
    /// Starts worker `sockets.index`. Call within the worker's runtime.
    ///
    /// # Errors
    /// The runtime takes no more sockets.
    pub fn start(mesh: &Mesh, sockets: WorkerSockets) -> io::Result<Worker> {
        let index = u8::try_from(sockets.index).map_err(io::Error::other)?;
        let (queue, incoming) = mpsc::channel(QUEUE);
        let own = match sockets.udp {
            Some(udp) => Some(listen_quic(mesh, udp, index, &queue)?),
            None => None,
        };
        let endpoint = match (&mesh.shared.steering, own) {
            (Steering::PerWorker, own) => watch::channel(own).1,
            (Steering::Single(_), own) => {
                if own.is_some() {
                    mesh.shared.single.send_replace(own);
                }
                mesh.shared.single.subscribe()
            }
        };
        let tasks = &mesh.shared.tasks;
        let listener = TcpListener::from_std(sockets.tcp)?;
        tasks.critical("mesh tcp port", ending(mesh.clone(), Port::new(mesh.clone(), queue).listen(listener)));
        let shared = Shared {
            mesh: mesh.clone(),
            index,
            pool: mesh.shared.pools.add(),
            endpoint,
            incoming: Mutex::new(incoming),
        };
        let worker = Worker { shared: Arc::new(shared) };
        if index == 0 {
            // The table of connections is that of all workers.
            let proving = reauthentication::run(mesh.clone(), worker.shared.endpoint.clone());
            tasks.critical("mesh reauthentication", ending(mesh.clone(), proving));
        }
        let sweeper = worker.clone();
        tasks.critical(
            "mesh sweep",
            ending(mesh.clone(), async move {
                loop {
                    sweeper.shared.pool.used().await;
                    tokio::time::sleep(SWEEP_INTERVAL).await;
                    sweeper.shared.pool.sweep(Uptime::now());
                }
            }),
        );
        Ok(worker)
    }

    /// A kept virtual connection for HTTP/1.1 that is free at once; if there is none, [`Worker::open`] makes one.
    #[must_use]
    pub fn kept(&self, call: &Call<'_>) -> Option<Lease> {
        if call.preface.protocol != Protocol::Http1 || self.shared.mesh.is_closed() {
            return None;
        }
        let group = self.shared.pool.group(call);
        let permit = group.free_permit()?;
        let link = group.take(call.preface)?;
        self.ask_quic_again(&link, &group, call);
        Some(Lease::new(link, group, permit))
    }

    /// Where UDP has been blocked long enough to ask again, at nobody's expense.
    fn ask_quic_again(&self, link: &Link, group: &Arc<Group>, call: &Call<'_>) {
        if !link.is_quic && !self.is_tcp_only(group, call) {
            group.try_quic(|ordinal| self.dial(group, call, ordinal));
        }
    }

    /// A virtual connection that carries HTTP (`preface.protocol` is `Http1` or `Http2`), kept ones first.
    ///
    /// # Errors
    /// None could be had; nothing was sent.
    pub async fn open(&self, call: &Call<'_>) -> Result<Lease, Error> {
        let shared = &self.shared;
        if shared.mesh.is_closed() {
            return Err(Error::Stopping);
        }
        let group = shared.pool.group(call);
        // All that is waited for of this node's own limits is waited for so long together.
        let until = Instant::from_std(clock::monotonic() + call.patience);
        let permit = self.within(until, group.permit()).await?;
        let link = self.link(&group, call, until).await?;
        Ok(Lease::new(link, group, permit))
    }

    /// A virtual connection of the group that takes a request now.
    async fn link(&self, group: &Arc<Group>, call: &Call<'_>, until: Instant) -> Result<Link, Error> {
        if let Some(link) = group.take_ready(call.preface).await {
            self.ask_quic_again(&link, group, call);
            return Ok(link);
        }
        let stream = if self.is_tcp_only(group, call) {
            let _leave = self.within(until, group.dial_permit()).await?;
            // One may have come back while this call waited.
            if let Some(link) = group.take_ready(call.preface).await {
                return Ok(link);
            }
            self.over_tcp(group, call).await?
        } else {
            timeout(call.patience, self.prefaced(group, call)).await.unwrap_or_else(|_| Err(no_answer(call)))?
        };
        let mut link = Link::new(stream, call, &self.shared.mesh.shared.tasks).await?;
        if !link.ready().await {
            return Err(Error::NeverSent("the connection ended at once".into()));
        }
        Ok(link)
    }

    /// The next stream that another node opened on this worker; `None` once the mesh is closed.
    pub async fn accept(&self) -> Option<Incoming> {
        self.shared.incoming.lock().await.recv().await
    }

    /// Sweeps as if this many milliseconds had passed.
    #[cfg(test)]
    pub(super) fn sweep_at(&self, ahead: certs::codec::Millis) {
        self.shared.pool.sweep(Uptime(clock::uptime() + ahead));
    }

    /// A tunnel on a QUIC connection of its own, the `ordinal`-th.
    #[cfg(test)]
    pub(super) async fn tunnel_at(&self, call: &Call<'_>, ordinal: u8) -> Result<VirtualStream, Error> {
        let group = Arc::new(Group::default());
        self.dial_for(&group, self.target(call, ordinal)).await?;
        self.prefaced(&group, call).await
    }

    /// QUIC connections that are open.
    #[cfg(test)]
    pub(super) fn connections_open(&self) -> usize {
        self.shared.pool.open()
    }

    fn counted<T>(&self, result: Result<T, Error>) -> Result<T, Error> {
        if let Err(Error::Overflow(limit)) = &result {
            count(self.shared.mesh.shared.counters.overflows(*limit));
        }
        result
    }

    /// Waits for one of this node's own limits, and no longer than this.
    async fn within<T>(&self, until: Instant, room: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        let room = timeout_at(until, room).await;
        self.counted(room.unwrap_or(Err(Error::Overflow(Limit::Requests))))
    }

    /// A stream whose preface was written.
    async fn prefaced(&self, group: &Arc<Group>, call: &Call<'_>) -> Result<VirtualStream, Error> {
        for _ in 0..ATTEMPTS {
            let Some((mut stream, is_fresh)) = self.stream(group, call).await? else { continue };
            if is_fresh {
                match stream.write_all(&call.preface.encode()).await {
                    Ok(()) => {}
                    // The connection ended meanwhile; another one may do.
                    Err(_) => continue,
                }
            }
            stream.facts().begin();
            return Ok(stream);
        }
        Err(Error::NeverSent("connections end as soon as they are made".into()))
    }

    /// True where UDP is off, or known to be blocked.
    fn is_tcp_only(&self, group: &Group, call: &Call<'_>) -> bool {
        match self.shared.mesh.shared.transport {
            Transport::Quic => false,
            Transport::Tcp => true,
            Transport::Auto => self.shared.mesh.shared.udp_blocked.contains(call.address) && !group.has_connection(),
        }
    }

    /// One step towards a stream: `None` means that the next step may lead to it. The flag says that it lacks its preface.
    async fn stream(&self, group: &Arc<Group>, call: &Call<'_>) -> Result<Option<(VirtualStream, bool)>, Error> {
        if self.is_tcp_only(group, call) {
            let _leave = self.counted(group.dial_permit().await)?;
            return Ok(Some((self.over_tcp(group, call).await?, false)));
        }
        match group.step(|ordinal| self.dial(group, call, ordinal)) {
            Step::Open(slot) => Ok(self.open_on(slot).await?.map(|stream| (stream, true))),
            Step::Claim(secure) => Ok(adopt(group, secure, call.preface).await.ok().map(|stream| (stream, false))),
            Step::Wait(dialling) => dialling.await.map(|()| None),
            Step::Full => self.counted(Err(Error::Overflow(Limit::Streams))),
        }
    }

    /// Opens a stream on a connection; `None` if it has ended.
    async fn open_on(&self, slot: Slot) -> Result<Option<VirtualStream>, Error> {
        match timeout(CONNECT_TIMEOUT, slot.connection.quic.open_bi()).await {
            Ok(Ok((send, recv))) => {
                let facts = Facts::dialled_until(slot.connection.retirement.clone());
                Ok(Some(VirtualStream::quic(send, recv, facts, Some(Box::new(slot)))))
            }
            Ok(Err(_)) => Ok(None),
            Err(_) => self.counted(Err(Error::Overflow(Limit::Streams))),
        }
    }

    /// Begins a dial that belongs to the group, not to the call that began it.
    fn dial(&self, group: &Arc<Group>, call: &Call<'_>, ordinal: u8) -> Dialling {
        let (told, result) = oneshot::channel();
        let (worker, group, target) = (self.clone(), group.clone(), self.target(call, ordinal));
        self.shared.mesh.shared.tasks.detach("dial", async move {
            let result = worker.dial_for(&group, target).await;
            // Nobody waits if everybody gave up.
            let _ = told.send(result);
        });
        result.map(|result| result.unwrap_or(Err(Error::Stopping))).boxed().shared()
    }

    async fn dial_for(&self, group: &Group, target: Target) -> Result<(), Error> {
        let (shown, whom) = (Shown::on(&self.shared.mesh, &target), (target.node.clone(), target.address));
        let result = match self.admit(&target) {
            Ok(()) => dial::dial(&self.shared.mesh, quic::started(self.shared.endpoint.clone()).await, target).await,
            Err(error) => Err(error),
        };
        if let (Some(node), address) = &whom {
            self.note(node, *address, &result);
        }
        match result {
            Ok(Dialled { carrier: Carrier::Quic(quic), peer, chain }) => {
                let (live, handle) = (&self.shared.mesh.shared.live, Handle::Quic(quic.clone()));
                let retirement = shown.retirement(&peer);
                let guard = live.add(OUTBOUND, peer, chain, handle, retirement.clone());
                guard.lasts(shown.into_reach());
                group.dialled(Some(Connection::new(quic, retirement, guard)));
                Ok(())
            }
            Ok(Dialled { carrier: Carrier::Tcp(tls), peer, chain }) => {
                group.unclaimed(Secure::dialled(&self.shared.mesh, tls, peer, chain, shown));
                group.dialled(None);
                Ok(())
            }
            Err(error) => {
                group.dialled(None);
                self.counted(Err(error))
            }
        }
    }

    /// Notes whether a node is reached where it tells.
    fn note(&self, node: &NodeId, address: SocketAddr, result: &Result<Dialled, Error>) {
        self.shared.mesh.shared.unreached.note(node, address, result.as_ref().err(), clock::uptime());
    }

    /// A stream on a TLS connection of its own, preface sent.
    async fn over_tcp(&self, group: &Arc<Group>, call: &Call<'_>) -> Result<VirtualStream, Error> {
        let target = self.target(call, 0);
        self.counted(self.admit(&target))?;
        let shown = Shown::on(&self.shared.mesh, &target);
        let result = dial::dial_tcp(&self.shared.mesh, &target).await;
        // Where it is one of two ways, the other one may do.
        if result.is_ok() || self.is_tcp_only(group, call) {
            self.note(call.node, call.address, &result);
        }
        match self.counted(result)? {
            Dialled { carrier: Carrier::Tcp(tls), peer, chain } => {
                adopt(group, Secure::dialled(&self.shared.mesh, tls, peer, chain, shown), call.preface).await
            }
            Dialled { carrier: Carrier::Quic(_), .. } => Err(Error::NeverSent("not a TCP connection".into())),
        }
    }

    /// Room for one more connection, and an identity to show on it.
    fn admit(&self, target: &Target) -> Result<(), Error> {
        let shared = &self.shared.mesh.shared;
        if !shared.tls.has_leaf(&target.own) {
            return Err(Error::NoIdentity(target.own.clone()));
        }
        if shared.live.outbound() >= MAX_DATA_CONNECTIONS && !shared.pools.evict() {
            return Err(Error::Overflow(Limit::Connections));
        }
        Ok(())
    }

    /// Connections between two nodes begin at equal workers and go on from there; the nodes of a mesh begin at random ones.
    fn target(&self, call: &Call<'_>, ordinal: u8) -> Target {
        let first = first(self.shared.mesh.shared.spread, self.shared.index, ordinal);
        Target {
            conversation: Conversation::Data,
            own: call.source.clone(),
            expect: Some(call.identity.clone()),
            node: Some(call.node.clone()),
            address: call.address,
            patience: call.patience,
            first,
        }
    }
}

/// The first byte of a connection's first id. Consecutive sums pick consecutive workers of the peer, also where they begin anew:
/// most numbers of workers divide 240.
fn first(spread: u8, index: u8, ordinal: u8) -> u8 {
    let sum = u16::from(spread) + u16::from(index) + u16::from(ordinal);
    u8::try_from(sum % u16::from(CONTROL)).unwrap_or_default()
}

fn no_answer(call: &Call<'_>) -> Error {
    Error::Connect { node: call.node.as_str().into(), address: call.address, reason: "it takes too long".into() }
}

/// Begins a stream on a TLS connection. A tunnel gives the connection back to the group.
async fn adopt(group: &Arc<Group>, mut secure: Secure, preface: &Preface) -> Result<VirtualStream, Error> {
    let failed = |error: io::Error| Error::NeverSent(error.to_string().into());
    secure.tls.write_all(&preface.encode()).await.map_err(failed)?;
    secure.tls.flush().await.map_err(failed)?;
    let retirement = secure.retirement.clone();
    let manner = match preface.protocol {
        Protocol::Tcp => {
            let group = group.clone();
            Manner::Tunnel(Box::new(move |secure| group.unclaimed(secure)))
        }
        Protocol::Http1 | Protocol::Http2 => Manner::Whole,
    };
    Ok(VirtualStream::tcp(OverTcp::new(secure, manner, true), Facts::dialled_until(retirement)))
}

/// Runs until the node stops.
async fn ending(mesh: Mesh, work: impl Future<Output = ()>) {
    tokio::select! {
        () = work => {}
        () = mesh.shared.tasks.stopping() => {}
    }
}

/// Makes this worker's endpoint and accepts on it.
fn listen_quic(
    mesh: &Mesh,
    udp: std::net::UdpSocket,
    index: u8,
    queue: &mpsc::Sender<Incoming>,
) -> io::Result<quinn::Endpoint> {
    let shared = &mesh.shared;
    let single = matches!(shared.steering, Steering::Single(_));
    let workers = if single { 1 } else { shared.workers };
    let server = quic::server(shared.tls.server(Conversation::Data), Conversation::Data)?;
    let endpoint = quic::endpoint(udp, Lane::Worker { index, workers }, &shared.reset_key, server)?;
    lock(&shared.endpoints).push(endpoint.clone());
    let control = match single {
        true => Some(Arc::new(quic::server(shared.tls.server(Conversation::Peer), Conversation::Peer)?)),
        false => None,
    };
    let (served, queue, latest) = (mesh.clone(), queue.clone(), shared.farewell.worker());
    let accepted = move |accepted: Accepted| match accepted.conversation {
        Conversation::Data => {
            let streams = accept::streams(served.clone(), accepted, queue.clone(), latest.clone());
            served.shared.tasks.detach("data connection", streams);
        }
        Conversation::Peer | Conversation::Join | Conversation::Admin => {
            if let Err(refused) = served.shared.control.try_send(Handover::Quic(accepted)) {
                drop(refused);
                count(&served.shared.counters.handshake_failures);
            }
        }
    };
    let accepting = accept::connections(mesh.clone(), endpoint.clone(), true, control, accepted);
    shared.tasks.critical("mesh quic port", accepting);
    Ok(endpoint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn consecutive_connections_go_to_consecutive_workers_wherever_they_begin() {
        for workers in [1, 2, 3, 4, 5, 6, 8, 12, 16] {
            for spread in 0..=u8::MAX {
                let reached: Vec<u8> = (0..workers).map(|ordinal| first(spread, 1, ordinal) % workers).collect();
                let wanted: Vec<u8> = (0..workers).map(|ordinal| (reached[0] + ordinal) % workers).collect();
                assert_eq!(reached, wanted, "{workers} workers from {spread}");
                assert!((0..workers).all(|ordinal| first(spread, 1, ordinal) < CONTROL));
            }
        }
    }
}
