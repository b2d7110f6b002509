//! Dialling a node: QUIC first, TLS/TCP raced where UDP stays silent, and whoever answers must be who was meant.

use std::{io, net::SocketAddr, pin::Pin, sync::Arc, time::Duration};

use certs::{
    id::{NodeId, SpiffeId},
    tls::{Conversation, server_name},
    verify::Peer,
};
use rustls::pki_types::CertificateDer;
use tokio::time::timeout;

use super::{
    Mesh, Transport, accept,
    ahead::Tls,
    count,
    error::{Error, Limit},
    quic, tls_tcp,
};
use crate::{clock, descriptors};

/// Silence on UDP after which TCP is tried beside it.
const RACE_AFTER: Duration = Duration::from_millis(200);
/// Time for a connection to a peer, both carriers together, and for what must follow at once.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Further time for UDP once the host has said that nobody listens on TCP: our nodes listen on both.
const AFTER_REFUSAL: Duration = Duration::from_millis(300);
/// Time in which UDP may still answer after TCP has, and is then not remembered as blocked.
const LATE: Duration = Duration::from_secs(1);

/// The same for a peer link, which then goes over UDP: a link lives for long, and is worth a moment more.
const LATE_LINK: Duration = Duration::from_millis(500);

/// Whom to dial, as whom.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) conversation: Conversation,
    pub(super) own: SpiffeId,
    /// `None`: any node of the mesh (peer links only).
    pub(super) expect: Option<SpiffeId>,
    pub(super) node: Option<NodeId>,
    pub(super) address: SocketAddr,
    /// Time for it, both carriers together.
    pub(super) patience: Duration,
    /// Picks the peer's endpoint by the first connection id.
    pub(super) first: u8,
}

/// A connection to whom was meant.
#[derive(Debug)]
pub(super) struct Dialled {
    pub(super) carrier: Carrier,
    pub(super) peer: Arc<Peer>,
    pub(super) chain: Vec<CertificateDer<'static>>,
}

#[derive(Debug)]
pub(super) enum Carrier {
    Quic(quinn::Connection),
    Tcp(Box<Tls>),
}

type Attempt = Pin<Box<dyn Future<Output = Result<Dialled, Failed>> + Send>>;

/// An attempt's end; a final one would end so on the other carrier too.
struct Failed {
    error: Error,
    is_final: bool,
    refused: bool,
}

/// Dials by whatever carrier the configuration allows and the network lets through.
pub(super) async fn dial(mesh: &Mesh, endpoint: quinn::Endpoint, target: Target) -> Result<Dialled, Error> {
    let target = Arc::new(target);
    let attempt = async {
        match mesh.shared.transport {
            Transport::Quic => over_quic(mesh, endpoint, &target).await,
            Transport::Tcp => over_tcp(mesh, &target).await,
            Transport::Auto if mesh.shared.udp_blocked.contains(target.address) => {
                match over_tcp(mesh, &target).await {
                    Err(failed) if !failed.is_final => over_quic(mesh, endpoint, &target).await.map_err(|_| failed),
                    result => result,
                }
            }
            Transport::Auto => race(mesh, endpoint, &target).await,
        }
    };
    let result = timeout(target.patience, attempt).await.unwrap_or_else(|_| Err(target.failed("no answer in time")));
    let shared = &mesh.shared;
    match &result {
        Ok(Dialled { carrier: Carrier::Quic(_), .. }) => count(&shared.counters.dialled_quic),
        Ok(Dialled { carrier: Carrier::Tcp(_), .. }) => count(&shared.counters.dialled_tcp),
        Err(_) => count(&shared.counters.dial_failures),
    }
    result.map_err(|failed| failed.error)
}

/// Dials by TLS/TCP only: bulk, and where UDP is known to be blocked.
pub(super) async fn dial_tcp(mesh: &Mesh, target: &Target) -> Result<Dialled, Error> {
    let result = timeout(target.patience, over_tcp(mesh, target)).await;
    let result = result.unwrap_or_else(|_| Err(target.failed("no answer in time")));
    count(if result.is_ok() { &mesh.shared.counters.dialled_tcp } else { &mesh.shared.counters.dial_failures });
    result.map_err(|failed| failed.error)
}

async fn race(mesh: &Mesh, endpoint: quinn::Endpoint, target: &Arc<Target>) -> Result<Dialled, Failed> {
    let began = clock::monotonic();
    let mut quic: Attempt = {
        let (mesh, target) = (mesh.clone(), target.clone());
        Box::pin(async move { over_quic(&mesh, endpoint, &target).await })
    };
    match timeout(RACE_AFTER, &mut quic).await {
        Ok(Err(failed)) if !failed.is_final => return over_tcp(mesh, target).await,
        Ok(result) => return result,
        Err(_) => {}
    }
    let tcp = over_tcp(mesh, target);
    tokio::pin!(tcp);
    let failed = tokio::select! {
        result = &mut quic => match result {
            Err(failed) if !failed.is_final => return tcp.await,
            result => return result,
        },
        result = &mut tcp => match result {
            Ok(dialled) => {
                // What has taken most of the time that there is waits for nothing more.
                let is_early = began.elapsed() + 2 * LATE_LINK < target.patience;
                let waits = target.conversation == Conversation::Peer && is_early;
                let late = if waits { timeout(LATE_LINK, &mut quic).await.ok() } else { None };
                if let Some(Ok(late)) = late {
                    return Ok(late);
                }
                remember(mesh, target.address, late.is_none().then_some(quic));
                return Ok(dialled);
            }
            Err(failed) => failed,
        },
    };
    if failed.is_final {
        return Err(failed);
    }
    let patience = if failed.refused { AFTER_REFUSAL } else { target.patience };
    match timeout(patience, quic).await {
        Ok(Ok(dialled)) => Ok(dialled),
        Ok(Err(_)) | Err(_) => Err(failed),
    }
}

/// TCP won: it goes first at this address for a while, unless UDP, where it has not failed yet, was merely slow.
fn remember(mesh: &Mesh, address: SocketAddr, quic: Option<Attempt>) {
    count(&mesh.shared.counters.udp_blocked);
    mesh.shared.udp_blocked.add(address);
    let Some(quic) = quic else { return };
    let late = mesh.clone();
    mesh.shared.tasks.detach("late quic", async move {
        if let Ok(Ok(_)) = timeout(LATE, quic).await {
            late.shared.udp_blocked.remove(address);
        }
    });
}

async fn over_quic(mesh: &Mesh, endpoint: quinn::Endpoint, target: &Target) -> Result<Dialled, Failed> {
    let shared = &mesh.shared;
    let tls = shared.tls.client(target.conversation, &target.own, target.expect.as_ref());
    let config =
        quic::client(tls, target.conversation, target.first).map_err(|error| target.failed(&error.to_string()))?;
    let name = server_name(target.expect.as_ref(), &shared.own.trust_domain);
    let connecting = endpoint
        .connect_with(config, target.address, &name.to_str())
        .map_err(|error| target.failed(&error.to_string()))?;
    let connection = connecting.await.map_err(|error| target.lost(&error))?;
    let chain = accept::certificates(&connection);
    let peer = target.judge(mesh, &chain)?;
    Ok(Dialled { carrier: Carrier::Quic(connection), peer, chain })
}

async fn over_tcp(mesh: &Mesh, target: &Target) -> Result<Dialled, Failed> {
    let shared = &mesh.shared;
    if target.conversation == Conversation::Data && descriptors::are_short() {
        return Err(Failed { error: Error::Overflow(Limit::Descriptors), is_final: true, refused: false });
    }
    let tls = shared.tls.client(target.conversation, &target.own, target.expect.as_ref());
    let name = server_name(target.expect.as_ref(), &shared.own.trust_domain);
    let stream = tls_tcp::dial(mesh.source_ip(), target.address, tls, name).await.map_err(|error| target.io(&error))?;
    let chain = tls_tcp::certificates(&stream);
    let peer = target.judge(mesh, &chain)?;
    Ok(Dialled { carrier: Carrier::Tcp(Box::new(stream)), peer, chain })
}

impl Target {
    /// The handshake has proved an identity; it must be the one that was meant, on the node that was meant.
    fn judge(&self, mesh: &Mesh, chain: &[CertificateDer<'_>]) -> Result<Arc<Peer>, Failed> {
        let peer = mesh.shared.tls.peer(self.conversation, chain).map_err(|error| self.stranger(&error.to_string()))?;
        let right_node = self.node.as_ref().is_none_or(|node| node == &peer.node);
        let right_identity = self.expect.as_ref().is_none_or(|expect| expect == &peer.id);
        if right_node && right_identity {
            return Ok(Arc::new(peer));
        }
        Err(self.stranger(&format!("{} of node {}", peer.id, peer.node)))
    }

    fn stranger(&self, found: &str) -> Failed {
        let node = self.node.as_ref().map_or_else(|| "any node".to_owned(), |node| format!("node {node}"));
        let expected = match &self.expect {
            Some(id) => format!("{id} of {node}"),
            None => node,
        };
        let error = Error::WrongPeer { address: self.address, expected: expected.into(), found: found.into() };
        Failed { error, is_final: true, refused: false }
    }

    fn failed(&self, reason: &str) -> Failed {
        let node = self.node.as_ref().map_or_else(|| "a node".into(), |node| node.as_str().into());
        let error = Error::Connect { node, address: self.address, reason: reason.into() };
        Failed { error, is_final: false, refused: false }
    }

    fn lost(&self, error: &quinn::ConnectionError) -> Failed {
        match error {
            quinn::ConnectionError::TransportError(failure) if u64::from(failure.code) & !0xff == 0x100 => {
                self.stranger(&failure.reason)
            }
            // Whoever answers at all answers so on TCP too.
            quinn::ConnectionError::ConnectionClosed(_) | quinn::ConnectionError::ApplicationClosed(_) => {
                Failed { is_final: true, ..self.failed(&error.to_string()) }
            }
            quinn::ConnectionError::TransportError(_)
            | quinn::ConnectionError::VersionMismatch
            | quinn::ConnectionError::Reset
            | quinn::ConnectionError::TimedOut
            | quinn::ConnectionError::LocallyClosed
            | quinn::ConnectionError::CidsExhausted => self.failed(&error.to_string()),
        }
    }

    fn io(&self, error: &io::Error) -> Failed {
        let cause = error.get_ref().and_then(|source| source.downcast_ref::<rustls::Error>());
        if let Some(rustls::Error::InvalidCertificate(reason)) = cause {
            return self.stranger(&reason.to_string());
        }
        let refused = error.kind() == io::ErrorKind::ConnectionRefused;
        Failed { refused, is_final: cause.is_some(), ..self.failed(&error.to_string()) }
    }
}
