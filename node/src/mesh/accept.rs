//! What comes in: QUIC connections of either class, and the data streams on them.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use certs::{
    id::SpiffeId,
    tls::Conversation,
    verify::{Peer, VerifyError},
};
use quinn::crypto::rustls::HandshakeData;
use rustls::pki_types::CertificateDer;
use tokio::{io::AsyncWriteExt as _, sync::mpsc};

use super::{
    Mesh, count,
    data::Incoming,
    error::Code,
    farewell::Latest,
    live::{Guard, Handle, Kind, Retirement},
    preface::Opening,
    quic::{Gate, Verdict},
    reauthentication,
    steer::CONTROL,
    stream::VirtualStream,
    tls_tcp::Hello,
};
use crate::clock;

/// Time for what follows a handshake: the first stream of a peer link; and for our own handshakes of conversations.
pub(super) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for a preface after its stream was opened.
pub(super) const PREFACE_TIMEOUT: Duration = Duration::from_secs(10);

/// What a data worker's port received and the control runtime must carry on.
#[derive(Debug)]
pub(super) enum Handover {
    /// A TCP connection whose ClientHello has been read.
    Tcp(Box<Hello>),
    /// Without steering: a peer's QUIC connection.
    Quic(Accepted),
}

/// A QUIC connection of a verified peer.
#[derive(Debug)]
pub(super) struct Accepted {
    pub(super) connection: quinn::Connection,
    pub(super) peer: Arc<Peer>,
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) conversation: Conversation,
    /// The identity that the peer asked for.
    pub(super) local: SpiffeId,
}

/// Accepts connections of an endpoint until it is closed. `control` is given where this one endpoint serves peer links too;
/// which class a client wants is told by the connection id that it chose.
pub(super) async fn connections(
    mesh: Mesh,
    endpoint: quinn::Endpoint,
    refuses_in_drain: bool,
    control: Option<Arc<quinn::ServerConfig>>,
    accepted: impl Fn(Accepted) + Clone + Send + 'static,
) {
    let gate = Gate::new();
    let handshakes = &mesh.shared.handshakes;
    while let Some(incoming) = endpoint.accept().await {
        let is_control = incoming.orig_dst_cid().first().is_some_and(|first| *first >= CONTROL);
        if refuses_in_drain && mesh.is_draining() && !(control.is_some() && is_control) {
            incoming.refuse();
            continue;
        }
        let proved = incoming.remote_address_validated();
        let verdict = gate.judge(proved, handshakes, clock::monotonic());
        let from = proved.then(|| incoming.remote_address().ip());
        let under_way = (verdict == Verdict::Accept).then(|| handshakes.enter_quic(from)).flatten();
        let under_way = match (verdict, under_way) {
            (Verdict::Accept, Some(under_way)) => under_way,
            (Verdict::Retry, _) => {
                count(&mesh.shared.counters.retries);
                // Fails only for senders that have proved their address, who are never asked.
                let _ = incoming.retry();
                continue;
            }
            (Verdict::Accept | Verdict::Refuse, _) => {
                count(&mesh.shared.counters.handshake_failures);
                incoming.refuse();
                continue;
            }
        };
        let connecting = match control.clone().filter(|_| is_control) {
            Some(config) => incoming.accept_with(config),
            None => incoming.accept(),
        };
        let (accepted, done) = (accepted.clone(), mesh.clone());
        let time = handshakes.time();
        mesh.shared.tasks.detach("quic handshake", async move {
            let result = match connecting {
                Ok(connecting) => tokio::time::timeout(time, connecting).await,
                Err(error) => Ok(Err(error)),
            };
            drop(under_way);
            let identified = match result {
                Ok(Ok(connection)) => identify(&done, connection).ok(),
                Ok(Err(_)) | Err(_) => None,
            };
            match identified {
                Some(connection) => {
                    count(&done.shared.counters.accepted);
                    accepted(connection);
                }
                None => count(&done.shared.counters.handshake_failures),
            }
        });
    }
}

fn identify(mesh: &Mesh, connection: quinn::Connection) -> Result<Accepted, VerifyError> {
    let data = connection.handshake_data().and_then(|data| data.downcast::<HandshakeData>().ok());
    let (protocol, name) = data.map_or((None, None), |data| (data.protocol, data.server_name));
    let conversation = protocol.as_deref().and_then(Conversation::from_alpn).unwrap_or(Conversation::Data);
    let own = &mesh.shared.own;
    let local = name.and_then(|name| SpiffeId::from_dns_name(&own.trust_domain, &name)).unwrap_or_else(|| own.clone());
    let chain = certificates(&connection);
    match mesh.shared.tls.peer(conversation, &chain) {
        Ok(peer) => Ok(Accepted { connection, peer: Arc::new(peer), chain, conversation, local }),
        Err(error) => {
            connection.close(Code::Unauthorized.varint(), b"");
            Err(error)
        }
    }
}

/// The peer's certificates, leaf first.
pub(super) fn certificates(connection: &quinn::Connection) -> Vec<CertificateDer<'static>> {
    let identity = connection.peer_identity().and_then(|any| any.downcast::<Vec<CertificateDer<'static>>>().ok());
    identity.map_or_else(Vec::new, |chain| *chain)
}

impl Accepted {
    /// Puts the connection into the table of live ones.
    pub(super) fn enlist(&mut self, mesh: &Mesh) -> Guard {
        let kind = Kind { conversation: self.conversation, outbound: false };
        let handle = Handle::Quic(self.connection.clone());
        let retirement = match self.conversation {
            Conversation::Peer => Retirement::of_link(mesh),
            Conversation::Data | Conversation::Join | Conversation::Admin => {
                Retirement::before(self.peer.not_after, None)
            }
        };
        mesh.shared.live.add(kind, self.peer.clone(), std::mem::take(&mut self.chain), handle, retirement)
    }
}

/// Serves the streams of a data connection until it ends.
pub(super) async fn streams(
    mesh: Mesh,
    mut accepted: Accepted,
    queue: mpsc::Sender<Incoming>,
    latest: Arc<Mutex<Latest>>,
) {
    if mesh.shared.live.is_crowded_by(&accepted.peer.node) {
        count(&mesh.shared.counters.refused);
        accepted.connection.close(Code::Refused.varint(), b"");
        return;
    }
    let guard = accepted.enlist(&mesh);
    let (accepted, by) = (Arc::new(accepted), guard.id());
    while let Ok((mut send, mut recv)) = accepted.connection.accept_bi().await {
        if mesh.is_draining() {
            count(&mesh.shared.counters.refused);
            // Errors mean that the peer has given the stream up.
            let _ = send.reset(Code::Refused.varint());
            let _ = recv.stop(Code::Refused.varint());
            continue;
        }
        let (mesh, accepted, queue, latest) = (mesh.clone(), accepted.clone(), queue.clone(), latest.clone());
        let tasks = mesh.shared.tasks.clone();
        tasks.detach("preface", async move {
            let preface = match tokio::time::timeout(PREFACE_TIMEOUT, Opening::read(&mut recv)).await {
                Ok(Ok(Opening::Stream(preface))) => preface,
                Ok(Ok(Opening::Reauthentication)) => {
                    let mut both = tokio::io::join(recv, send);
                    let answered = reauthentication::answer(&mesh, by, &mut both);
                    if let Ok(Ok(())) = tokio::time::timeout(PREFACE_TIMEOUT, answered).await {
                        // Fails only if the peer has gone.
                        let _ = both.shutdown().await;
                    }
                    return;
                }
                Ok(Err(_)) | Err(_) => {
                    let _ = send.reset(Code::Malformed.varint());
                    let _ = recv.stop(Code::Malformed.varint());
                    return;
                }
            };
            let incoming = Incoming {
                peer: accepted.peer.clone(),
                local: accepted.local.clone(),
                preface,
                stream: VirtualStream::served(send, recv, mesh.shared.farewell.serve(&latest)),
                local_addr: local_address(&mesh, &accepted.connection),
                remote_addr: canonical(accepted.connection.remote_address()),
            };
            // The queue ends with the worker, and the stream with it.
            let _ = queue.send(incoming).await;
        });
    }
}

fn local_address(mesh: &Mesh, connection: &quinn::Connection) -> SocketAddr {
    let ip = connection.local_ip().unwrap_or_else(|| mesh.shared.address.ip());
    canonical(SocketAddr::new(ip, mesh.shared.address.port()))
}

/// An IPv4 address as such, also where the socket speaks IPv6.
pub(super) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
