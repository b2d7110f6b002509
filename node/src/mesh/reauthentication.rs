//! Both ends of a connection proven anew, while something is under way on it.
//!
//! A connection counts as long as the certificates that opened it. What takes longer (a session with a database, a stream of gRPC, a
//! download) goes on for as long as both nodes still are who they were: the side that dialled opens another connection beside it, on
//! which both show their certificates of now, and names there what it has open by a secret of each connection that only its two ends
//! know; the other side answers by a second one. So a certificate that has ended prolongs nothing, whoever has its key, and neither
//! does a node of the same name after an eviction or a rebuild. TLS's own means will not do: QUIC forbids authentication after the
//! handshake (RFC 9001, 4.4), and rustls has none.

use std::{io, sync::atomic::Ordering::Relaxed, time::Duration};

use certs::tls::Conversation;
use futures_util::{StreamExt as _, stream};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    sync::watch,
    time::timeout,
};

use super::{
    Mesh, Transport,
    dial::{self, CONNECT_TIMEOUT, Carrier, Dialled, Target},
    error::{Code, Error},
    live::proven::{Proof, REFUSED, Round, Secret, Shown, Standing},
    preface::Opening,
    quic,
    steer::CONTROL,
};
use crate::clock;

/// How often it is looked for what is due.
const INTERVAL: Duration = Duration::from_secs(1);
/// Connections that one exchange names.
const MAX_CLAIMS: usize = 256;
/// Time for all exchanges with one identity of a node.
const TIME: Duration = Duration::from_secs(10);
/// Identities with which this node exchanges at a time.
const AT_ONCE: usize = 16;

/// Proves what this node dialled, for ever.
pub(super) async fn run(mesh: Mesh, endpoint: watch::Receiver<Option<quinn::Endpoint>>) {
    loop {
        mesh.shared.live.dialled().await;
        tokio::time::sleep(INTERVAL).await;
        let rounds = stream::iter(mesh.shared.live.due(clock::wall()));
        rounds.for_each_concurrent(AT_ONCE, |round| prove(&mesh, &endpoint, round)).await;
    }
}

async fn prove(mesh: &Mesh, endpoint: &watch::Receiver<Option<quinn::Endpoint>>, round: Round) {
    let (node, identity, all) = (&round.node, &round.identity, round.standing.len());
    match timeout(TIME, exchange(mesh, endpoint, &round)).await {
        Ok(Ok(proven)) => {
            tracing::info!(%node, %identity, "{proven} of {all} connections go on by the certificates of now");
        }
        Ok(Err(error)) => tracing::warn!(%node, %identity, "{all} connections are not proven anew yet: {error}"),
        Err(_) => tracing::warn!(%node, %identity, "{all} connections are not proven anew yet: no answer in time"),
    }
}

/// Gives how many connections go on.
async fn exchange(
    mesh: &Mesh,
    endpoint: &watch::Receiver<Option<quinn::Endpoint>>,
    round: &Round,
) -> Result<usize, Error> {
    let target = Target {
        conversation: Conversation::Data,
        own: round.reach.own.clone(),
        expect: Some(round.identity.clone()),
        node: Some(round.node.clone()),
        address: round.reach.address,
        patience: CONNECT_TIMEOUT,
        first: mesh.shared.spread % CONTROL,
    };
    if !mesh.shared.tls.has_leaf(&target.own) {
        return Err(Error::NoIdentity(target.own));
    }
    let shown = Shown::on(mesh, &target);
    let Dialled { mut carrier, peer, chain } = beside(mesh, endpoint, target).await?;
    let proof = Proof { peer, chain, shown };
    let mut proven = 0;
    for standing in round.standing.chunks(MAX_CLAIMS) {
        let answers =
            ask(&mut carrier, standing).await.map_err(|error| Error::ResetBefore(error.to_string().into()))?;
        let known = standing.iter().zip(answers).filter(|(standing, answer)| standing.session.answer == *answer);
        proven += known.filter(|(standing, _)| mesh.shared.live.proven(standing, &proof)).count();
    }
    mesh.shared.counters.proven.fetch_add(u64::try_from(proven).unwrap_or_default(), Relaxed);
    if let Carrier::Quic(quic) = carrier {
        quic.close(Code::Done.varint(), b"");
    }
    Ok(proven)
}

/// A connection of its own for the exchange, by TCP first: a node that drains takes no other.
async fn beside(
    mesh: &Mesh,
    endpoint: &watch::Receiver<Option<quinn::Endpoint>>,
    target: Target,
) -> Result<Dialled, Error> {
    let transport = mesh.shared.transport;
    if transport != Transport::Quic {
        let dialled = dial::dial_tcp(mesh, &target).await;
        if dialled.is_ok() || transport == Transport::Tcp {
            return dialled;
        }
    }
    dial::dial(mesh, quic::started(endpoint.clone()).await, target).await
}

/// Names these connections to the other end; its answers.
async fn ask(carrier: &mut Carrier, standing: &[Standing]) -> io::Result<Vec<Secret>> {
    let mut message = Opening::reauthentication();
    message.extend(u16::try_from(standing.len()).map_err(io::Error::other)?.to_be_bytes());
    message.extend(standing.iter().flat_map(|standing| standing.session.claim));
    match carrier {
        Carrier::Quic(quic) => {
            let (mut send, mut recv) = quic.open_bi().await?;
            send.write_all(&message).await?;
            secrets(&mut recv, standing.len()).await
        }
        Carrier::Tcp(tls) => {
            tls.write_all(&message).await?;
            tls.flush().await?;
            // As before every stream on TCP.
            match tls.read_u8().await? {
                0 => secrets(tls, standing.len()).await,
                code => Err(io::Error::other(format!("refused: {:?}", Code::from_number(u64::from(code))))),
            }
        }
    }
}

async fn secrets(stream: &mut (impl AsyncRead + Unpin), number: usize) -> io::Result<Vec<Secret>> {
    let mut secrets = vec![REFUSED; number];
    for secret in &mut secrets {
        stream.read_exact(secret).await?;
    }
    Ok(secrets)
}

/// The other side: hears which connections the peer of connection `by` claims, and answers.
pub(super) async fn answer(mesh: &Mesh, by: u64, stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> io::Result<()> {
    let number = usize::from(stream.read_u16().await?);
    if number > MAX_CLAIMS {
        return Err(io::Error::other(format!("{number} connections at once, {MAX_CLAIMS} at most")));
    }
    let claims = secrets(stream, number).await?;
    let answers = mesh.shared.live.claimed(by, &claims);
    stream.write_all(&answers.concat()).await?;
    stream.flush().await
}
