//! Links between nodes as nodes: the control runtime's side of the mesh, over QUIC or TLS/TCP.

use crate::lock::lock;
use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use certs::{
    id::{NodeId, SpiffeId},
    tls::Conversation,
};
use quinn::Endpoint;
use rustls::ServerConfig;
use tokio::{
    sync::{Mutex, mpsc, watch},
    time::{sleep, timeout},
};

use super::{
    ControlSockets, EXPIRY_INTERVAL, Mesh,
    accept::{self, Accepted, HANDSHAKE_TIMEOUT, Handover},
    conversation::Conversed,
    count,
    dial::{self, Carrier, Dialled, Target},
    error::Error,
    link::Introduction,
    live::{Handle, Kind, Retirement},
    quic,
    secure::{Manner, OverTcp, Secure},
    steer::{CONTROL, Lane},
    stream::{Facts, VirtualStream},
    tls_tcp::{self, Hello},
};
pub use super::{
    error::LinkError,
    link::{Asked, PeerLink},
};

/// Longest message on a link, bytes.
pub const MAX_MESSAGE: usize = 1 << 20;
/// Longest request on a link, bytes.
pub const MAX_REQUEST: usize = 64 << 10;
/// Longest reply on a link, bytes: a changeset is at most 4 MiB.
pub const MAX_REPLY: usize = 6 << 20;
/// Time for a link to be made, and then for the peer's first word on it. Less than a data connection has: a dial into the void tells that
/// a node is out of reach, and one that was only slow is dialled again.
const LINK_TIMEOUT: Duration = Duration::from_secs(3);
/// Links that wait for [`PeerNetwork::accept`].
const LINK_QUEUE: usize = 256;
/// Joiners, and operators, that wait to be served.
const VISITOR_QUEUE: usize = 32;

/// The control runtime's side of the mesh. Cheap to clone.
#[derive(Debug, Clone)]
pub struct PeerNetwork {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    mesh: Mesh,
    endpoint: watch::Receiver<Option<Endpoint>>,
    links: Mutex<mpsc::Receiver<PeerLink>>,
    joins: Mutex<mpsc::Receiver<Conversed>>,
    admins: Mutex<mpsc::Receiver<Conversed>>,
}

impl PeerNetwork {
    /// Starts it. Call within the control runtime.
    ///
    /// # Errors
    /// The runtime takes no more sockets.
    pub fn start(mesh: &Mesh, sockets: ControlSockets) -> io::Result<PeerNetwork> {
        let (links, link_queue) = mpsc::channel(LINK_QUEUE);
        let (joins, join_queue) = mpsc::channel(VISITOR_QUEUE);
        let (admins, admin_queue) = mpsc::channel(VISITOR_QUEUE);
        let tls = &mesh.shared.tls;
        let door = Arc::new(Door {
            mesh: mesh.clone(),
            links,
            joins,
            admins,
            peer: tls.server(Conversation::Peer),
            join: tls.server(Conversation::Join),
            admin: tls.server(Conversation::Admin),
        });
        let endpoint = match sockets.udp {
            Some(udp) => watch::channel(Some(door.listen(udp)?)).1,
            None => mesh.shared.single.subscribe(),
        };
        let tasks = &mesh.shared.tasks;
        tasks.critical("mesh handovers", door.handovers(sockets.handovers));
        tasks.critical("mesh expiry", expiry(mesh.clone()));
        let shared = Shared {
            mesh: mesh.clone(),
            endpoint,
            links: Mutex::new(link_queue),
            joins: Mutex::new(join_queue),
            admins: Mutex::new(admin_queue),
        };
        Ok(PeerNetwork { shared: Arc::new(shared) })
    }

    /// Links to the node at an address; with `node` only that node will do.
    ///
    /// # Errors
    /// Nobody answered there, or somebody else.
    pub async fn dial(&self, node: Option<&NodeId>, address: SocketAddr) -> Result<PeerLink, Error> {
        let mesh = &self.shared.mesh;
        let own = &mesh.shared.own;
        let target = Target {
            conversation: Conversation::Peer,
            own: own.clone(),
            expect: node.map(|node| SpiffeId::node(own.trust_domain.clone(), node.clone())),
            node: node.cloned(),
            address,
            patience: LINK_TIMEOUT,
            first: CONTROL | rand::random::<u8>(),
        };
        let retirement = Retirement::of_link(mesh);
        let Dialled { carrier, peer, chain } =
            dial::dial(mesh, quic::started(self.shared.endpoint.clone()).await, target).await?;
        let live = &mesh.shared.live;
        let stream = match carrier {
            Carrier::Quic(quic) => {
                let guard = live.add(kind(true), peer.clone(), chain, Handle::Quic(quic.clone()), retirement);
                // It is open at once, unless the peer grants no stream.
                let opened = timeout(LINK_TIMEOUT, quic.open_bi()).await;
                let opened = opened.map_err(|_| Error::NeverSent("the peer grants no stream".into()))?;
                let (send, recv) = opened.map_err(|error| Error::NeverSent(error.to_string().into()))?;
                let facts = Facts::dialled();
                (VirtualStream::quic(send, recv, facts, Some(Box::new(guard))), Handle::Quic(quic))
            }
            Carrier::Tcp(tls) => {
                let secure = Secure::new(mesh, tls, kind(true), peer.clone(), chain, retirement);
                over_tcp(secure, Facts::dialled())
            }
        };
        let node = peer.node.clone();
        let link = PeerLink::start(
            mesh,
            Introduction { peer, remote: address, dialled: true, stream: stream.0, handle: stream.1 },
        );
        match timeout(LINK_TIMEOUT, link.welcomed()).await {
            Ok(Ok(())) => Ok(link),
            Ok(Err(reason)) => Err(Error::Unwelcome { node, address, reason: reason.into() }),
            Err(_) => Err(Error::Connect { node: node.as_str().into(), address, reason: "no greeting in time".into() }),
        }
    }

    /// The next link that another node opened; `None` once the mesh is closed.
    pub async fn accept(&self) -> Option<PeerLink> {
        self.shared.links.lock().await.recv().await
    }

    /// The next joiner's connection (`skein-join/1`).
    pub async fn accept_join(&self) -> Option<Conversed> {
        self.shared.joins.lock().await.recv().await
    }

    /// The next operator's connection (`skein-admin/1`), not yet authenticated.
    pub async fn accept_admin(&self) -> Option<Conversed> {
        self.shared.admins.lock().await.recv().await
    }
}

fn over_tcp(secure: Secure, facts: Arc<Facts>) -> (VirtualStream, Handle) {
    let handle = Handle::Tcp(secure.kill.clone());
    (VirtualStream::tcp(OverTcp::new(secure, Manner::Whole, false), facts), handle)
}

fn kind(outbound: bool) -> Kind {
    Kind { conversation: Conversation::Peer, outbound }
}

/// Who comes in, and where they go.
struct Door {
    mesh: Mesh,
    links: mpsc::Sender<PeerLink>,
    joins: mpsc::Sender<Conversed>,
    admins: mpsc::Sender<Conversed>,
    peer: Arc<ServerConfig>,
    join: Arc<ServerConfig>,
    admin: Arc<ServerConfig>,
}

impl Door {
    /// Makes the control endpoint and accepts on it.
    fn listen(self: &Arc<Self>, udp: std::net::UdpSocket) -> io::Result<Endpoint> {
        let shared = &self.mesh.shared;
        let server = quic::server(self.peer.clone(), Conversation::Peer)?;
        let endpoint = quic::endpoint(udp, Lane::Control, &shared.reset_key, server)?;
        lock(&shared.endpoints).push(endpoint.clone());
        let door = self.clone();
        let accepting = accept::connections(self.mesh.clone(), endpoint.clone(), false, None, move |accepted| {
            door.mesh.shared.tasks.detach("peer link", door.clone().link_over_quic(accepted));
        });
        shared.tasks.critical("mesh control port", accepting);
        Ok(endpoint)
    }

    /// Carries on what data workers received.
    async fn handovers(self: Arc<Self>, mut handovers: mpsc::Receiver<Handover>) {
        let tasks = self.mesh.shared.tasks.clone();
        loop {
            let handover = tokio::select! {
                handover = handovers.recv() => handover,
                () = tasks.stopping() => return,
            };
            match handover {
                None => return,
                Some(Handover::Quic(accepted)) => tasks.detach("peer link", self.clone().link_over_quic(accepted)),
                Some(Handover::Tcp(hello)) => {
                    let door = self.clone();
                    tasks.detach("tls handshake", async move {
                        if let Err(error) = door.clone().greet(hello).await {
                            count(&door.mesh.shared.counters.handshake_failures);
                            tracing::debug!(%error, "a handshake failed");
                        }
                    });
                }
            }
        }
    }

    async fn link_over_quic(self: Arc<Self>, mut accepted: Accepted) {
        let guard = accepted.enlist(&self.mesh);
        // The dialling side says hello on the one stream of the link.
        let Ok(Ok((send, recv))) = timeout(HANDSHAKE_TIMEOUT, accepted.connection.accept_bi()).await else { return };
        let stream = VirtualStream::quic(send, recv, Facts::accepted(), Some(Box::new(guard)));
        let link = Introduction {
            peer: accepted.peer,
            remote: accept::canonical(accepted.connection.remote_address()),
            dialled: false,
            stream,
            handle: Handle::Quic(accepted.connection),
        };
        // A full queue means that the agent is behind: the peer dials again.
        let _ = self.links.try_send(PeerLink::start(&self.mesh, link));
    }

    async fn greet(self: Arc<Self>, hello: Box<Hello>) -> io::Result<()> {
        let (conversation, remote) = (hello.conversation, hello.remote);
        let full = |_| io::Error::other("too many wait to be served");
        match conversation {
            Conversation::Peer => {
                let tls = hello.finish(&self.mesh, self.peer.clone()).await?;
                let chain = tls_tcp::certificates(&tls);
                let peer = self.mesh.shared.tls.peer(Conversation::Peer, &chain).map_err(io::Error::other)?;
                count(&self.mesh.shared.counters.accepted);
                let peer = Arc::new(peer);
                let secure = Secure::new(
                    &self.mesh,
                    Box::new(tls),
                    kind(false),
                    peer.clone(),
                    chain,
                    Retirement::of_link(&self.mesh),
                );
                let (stream, handle) = over_tcp(secure, Facts::accepted());
                let link = Introduction { peer, remote, dialled: false, stream, handle };
                self.links.try_send(PeerLink::start(&self.mesh, link)).map_err(io::Error::other)
            }
            Conversation::Join => {
                let tls = hello.finish(&self.mesh, self.join.clone()).await?;
                self.joins.try_send(Conversed::new(tls, remote)).map_err(full)
            }
            Conversation::Admin => {
                let tls = hello.finish(&self.mesh, self.admin.clone()).await?;
                self.admins.try_send(Conversed::new(tls, remote)).map_err(full)
            }
            Conversation::Data => Err(io::Error::other("data is not handed over")),
        }
    }
}

/// Closes connections at the end of their certificates.
async fn expiry(mesh: Mesh) {
    let tasks = mesh.shared.tasks.clone();
    loop {
        tokio::select! {
            () = sleep(EXPIRY_INTERVAL) => {}
            () = tasks.stopping() => return,
        }
        mesh.look_again();
    }
}
