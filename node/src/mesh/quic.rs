//! QUIC endpoints: settings, admission of handshakes, and the loop that accepts them.

use crate::lock::lock;
use std::{
    io,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use aws_lc_rs::hmac;
use certs::tls::Conversation;
use quinn::{
    ClientConfig, EndpointConfig, IdleTimeout, ServerConfig, TokioRuntime, TransportConfig, VarInt,
    crypto::rustls::{QuicClientConfig, QuicServerConfig},
};

use tokio::sync::watch;

use super::{
    handshakes::Handshakes,
    steer::{Ids, Lane, initial_id},
    udp::Socket,
};
use crate::clock;

/// Streams that a peer may have open on one data connection; quinn allocates for all of them.
pub(super) const MAX_STREAMS: u32 = 256;
/// Largest UDP payload that is received, bytes: Ethernet less headers.
const MAX_PAYLOAD: u16 = 1472;
/// Silence after which a data connection is given up: its machine is gone, or the way to it, and nobody said so.
const DATA_IDLE: Duration = Duration::from_secs(15);
/// How often a silent data connection is proved alive: a stream may be quiet for much longer than a dead node is waited for. A
/// connection that nobody uses is closed all the same, so that at rest none costs this.
const DATA_KEEP_ALIVE: Duration = Duration::from_secs(5);
const _: () = assert!(DATA_KEEP_ALIVE.as_secs() * 2 < DATA_IDLE.as_secs(), "one may be lost");
/// Silence after which a peer link is given up.
pub(super) const PEER_IDLE: Duration = Duration::from_millis(2_500);
/// How often a silent peer link is proved alive.
pub(super) const PEER_KEEP_ALIVE: Duration = Duration::from_secs(1);
/// Unread bytes per data stream.
const STREAM_WINDOW: u32 = 1 << 20;
/// Unread bytes per data connection.
const CONNECTION_WINDOW: u32 = 8 << 20;
/// Unread bytes per peer link: low, so that urgent messages wait for little.
const PEER_WINDOW: u32 = 256 << 10;
/// First packets that wait to be judged, per endpoint.
const MAX_UNJUDGED: usize = 1024;
/// Handshakes from unproved addresses a second, beyond which the address must be proved.
const MAX_UNPROVED: u32 = 500;
/// Bytes kept for one handshake that was not accepted yet.
const INCOMING_BUFFER: u64 = 64 << 10;
/// Bytes kept for all of them.
const INCOMING_BUFFERS: u64 = 8 << 20;

/// Makes an endpoint on the current runtime.
///
/// # Errors
/// The runtime takes no more sockets.
pub(super) fn endpoint(
    socket: std::net::UdpSocket,
    lane: Lane,
    reset_key: &Arc<hmac::Key>,
    server: ServerConfig,
) -> io::Result<quinn::Endpoint> {
    let mut config = EndpointConfig::new(reset_key.clone());
    config.cid_generator(move || Box::new(Ids { lane }));
    config.max_udp_payload_size(MAX_PAYLOAD).map_err(io::Error::other)?;
    let socket = Arc::new(Socket::new(socket)?);
    quinn::Endpoint::new_with_abstract_socket(config, Some(server), socket, Arc::new(TokioRuntime))
}

/// The endpoint to dial from. Without steering, worker 0 makes the one endpoint for all; it may not have yet.
pub(super) async fn started(mut endpoint: watch::Receiver<Option<quinn::Endpoint>>) -> quinn::Endpoint {
    loop {
        let found = endpoint.borrow_and_update().clone();
        match found {
            Some(endpoint) => return endpoint,
            // The sender is gone only if the mesh is.
            None if endpoint.changed().await.is_err() => std::future::pending().await,
            None => {}
        }
    }
}

/// What a server of this conversation is like.
///
/// # Errors
/// The TLS configuration lacks what QUIC needs.
pub(super) fn server(tls: Arc<rustls::ServerConfig>, conversation: Conversation) -> io::Result<ServerConfig> {
    let crypto = QuicServerConfig::try_from(tls).map_err(io::Error::other)?;
    let mut config = ServerConfig::with_crypto(Arc::new(crypto));
    config
        .transport_config(Arc::new(transport(conversation, MAX_STREAMS)))
        .migration(false)
        .max_incoming(MAX_UNJUDGED)
        .incoming_buffer_size(INCOMING_BUFFER)
        .incoming_buffer_size_total(INCOMING_BUFFERS);
    Ok(config)
}

/// What a client of this conversation is like; `first` picks the peer's endpoint ([`initial_id`]).
///
/// # Errors
/// The TLS configuration lacks what QUIC needs.
pub(super) fn client(
    tls: Arc<rustls::ClientConfig>,
    conversation: Conversation,
    first: u8,
) -> Result<ClientConfig, quinn::crypto::rustls::NoInitialCipherSuite> {
    let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
    // Servers open no streams in data conversations, and one side opens the only one of a peer link.
    config.transport_config(Arc::new(transport(conversation, 0)));
    config.initial_dst_cid_provider(Arc::new(move || initial_id(first)));
    Ok(config)
}

fn transport(conversation: Conversation, streams: u32) -> TransportConfig {
    let mut config = TransportConfig::default();
    let peer = conversation == Conversation::Peer;
    let (idle, window) = if peer { (PEER_IDLE, PEER_WINDOW) } else { (DATA_IDLE, CONNECTION_WINDOW) };
    config
        .max_concurrent_bidi_streams(VarInt::from_u32(if peer { streams.min(1) } else { streams }))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(
            u32::try_from(idle.as_millis()).expect("idle times are constants of at most a minute"),
        ))))
        .keep_alive_interval(Some(if peer { PEER_KEEP_ALIVE } else { DATA_KEEP_ALIVE }))
        .stream_receive_window(VarInt::from_u32(window.min(STREAM_WINDOW)))
        .receive_window(VarInt::from_u32(window))
        .send_window(u64::from(window))
        .datagram_receive_buffer_size(None);
    config
}

/// Admits handshakes: proof of address when many are under way or many unproved come, refusal beyond the limit.
#[derive(Debug)]
pub(super) struct Gate {
    /// Begin of the current second, and what came unproved in it.
    unproved: Mutex<(Instant, u32)>,
}

/// What to do with a first packet.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Accept,
    /// Ask the sender to prove its address.
    Retry,
    Refuse,
}

impl Gate {
    pub(super) fn new() -> Gate {
        Gate { unproved: Mutex::new((clock::monotonic(), 0)) }
    }

    /// Judges a first packet; proved ones come from an address that has answered before.
    pub(super) fn judge(&self, proved: bool, handshakes: &Handshakes, now: Instant) -> Verdict {
        let (under_way, limit) = (handshakes.over_quic(), handshakes.pending());
        if under_way >= limit {
            return Verdict::Refuse;
        }
        if proved {
            return Verdict::Accept;
        }
        let mut unproved = lock(&self.unproved);
        if now.duration_since(unproved.0) >= Duration::from_secs(1) {
            *unproved = (now, 0);
        }
        unproved.1 += 1;
        if unproved.1 > MAX_UNPROVED || under_way > limit / 4 { Verdict::Retry } else { Verdict::Accept }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_unproved_senders_must_prove_their_address() {
        let (gate, handshakes, now) = (Gate::new(), Handshakes::default(), clock::monotonic());
        for _ in 0..MAX_UNPROVED {
            assert_eq!(gate.judge(false, &handshakes, now), Verdict::Accept);
        }
        assert_eq!(gate.judge(false, &handshakes, now), Verdict::Retry);
        assert_eq!(gate.judge(true, &handshakes, now), Verdict::Accept);
        assert_eq!(gate.judge(false, &handshakes, now + Duration::from_secs(1)), Verdict::Accept);
    }

    #[test]
    fn a_quarter_of_the_handshakes_asks_for_proof_and_all_of_them_refuse() {
        let (gate, handshakes, now) = (Gate::new(), Handshakes::default(), clock::monotonic());
        let limit = handshakes.pending();
        let mut under_way: Vec<_> = (0..=limit / 4).map(|_| handshakes.enter_quic(None).unwrap()).collect();
        assert_eq!(gate.judge(false, &handshakes, now), Verdict::Retry);
        assert_eq!(gate.judge(true, &handshakes, now), Verdict::Accept);
        under_way.extend((under_way.len()..limit).map(|_| handshakes.enter_quic(None).unwrap()));
        assert_eq!(gate.judge(true, &handshakes, now), Verdict::Refuse);
        handshakes.set(Duration::from_secs(1), limit * 8);
        assert_eq!(gate.judge(false, &handshakes, now), Verdict::Accept, "policy allows more");
        handshakes.set(Duration::from_secs(1), limit);
        drop(under_way);
        assert_eq!(gate.judge(false, &handshakes, now), Verdict::Accept);
    }
}
