//! The client of `client.rs` over QUIC.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use quinn::{ClientConfig, ConnectionError, ConnectionId, crypto::rustls::QuicClientConfig};
use rustls::sign::CertifiedKey;
use tokio::runtime::Runtime;

use crate::client::configuration;

/// What the first packet's destination begins with: it picks the endpoint of peer links, or a worker's.
const CONTROL: u8 = 0xF0;
const WORKER: u8 = 0;

/// Longest time for a handshake.
const PATIENCE: Duration = Duration::from_secs(20);
/// What a dial gives when that time is over.
const SILENCE: &str = "no answer in time";

/// A client that may call several times and remembers what it was given.
pub(crate) struct Quic {
    runtime: Runtime,
    config: ClientConfig,
    endpoint: quinn::Endpoint,
}

impl Quic {
    /// One that speaks `alpn`, shows `shown`, and asks for early data where it could.
    pub(crate) fn showing(alpn: &str, shown: Option<Arc<CertifiedKey>>) -> Self {
        let tls = configuration(alpn, &[&rustls::version::TLS13], shown);
        let crypto = QuicClientConfig::try_from(Arc::new(tls)).expect("it has QUIC's first cipher suite");
        let mut config = ClientConfig::new(Arc::new(crypto));
        let first = if alpn == "skein-peer/1" { CONTROL } else { WORKER };
        // A node takes packets with an id that it knows for those of the connection that had it, also when that is over.
        config.initial_dst_cid_provider(Arc::new(move || {
            static IDS: AtomicU32 = AtomicU32::new(0);
            let [a, b, c, d] = IDS.fetch_add(1, Ordering::Relaxed).to_be_bytes();
            ConnectionId::new(&[first, 1, 2, 3, a, b, c, d])
        }));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let endpoint = runtime.block_on(async { quinn::Endpoint::client(SocketAddr::from(([127, 0, 0, 1], 0))) });
        Self { runtime, config, endpoint: endpoint.expect("a free port") }
    }

    /// A connection whose handshake is over on this side. True: the node would take early data.
    pub(crate) fn dial(&self, to: SocketAddr, name: &str) -> Result<(quinn::Connection, bool), String> {
        self.runtime.block_on(async {
            let connecting = self.endpoint.connect_with(self.config.clone(), to, name).map_err(|e| e.to_string())?;
            match connecting.into_0rtt() {
                Ok((connection, _)) => Ok((connection, true)),
                Err(connecting) => {
                    let connected = tokio::time::timeout(PATIENCE, connecting).await.map_err(|_| SILENCE)?;
                    Ok((connected.map_err(|e| e.to_string())?, false))
                }
            }
        })
    }

    /// Opens streams, says this on each second of them, and resets all, until so many were opened, the time is over, or the node ends the
    /// connection; how many there were.
    pub(crate) fn open_and_reset(
        &self,
        connection: &quinn::Connection,
        count: usize,
        words: &[u8],
        patience: Duration,
    ) -> usize {
        let mut opened = 0;
        let flood = async {
            while opened < count {
                let Ok((mut send, mut recv)) = connection.open_bi().await else { return };
                opened += 1;
                if opened % 2 == 0 && send.write_all(words).await.is_err() {
                    return;
                }
                // The node may have ended it already.
                let _ = send.reset(0u32.into());
                let _ = recv.stop(0u32.into());
            }
        };
        let _ = self.runtime.block_on(async { tokio::time::timeout(patience, flood).await });
        opened
    }

    /// How the node ends a connection within this time; none if it does not.
    pub(crate) fn end(&self, connection: &quinn::Connection, patience: Duration) -> Option<ConnectionError> {
        self.runtime.block_on(async { tokio::time::timeout(patience, connection.closed()).await.ok() })
    }

    /// How the node refuses a peer that says nothing.
    ///
    /// # Panics
    /// When it lets the peer in, and waits, and when it does not answer.
    pub(crate) fn refused(&self, to: SocketAddr, name: &str) -> String {
        match self.dial(to, name) {
            Err(error) => {
                assert_ne!(error, SILENCE, "it is no refusal");
                error
            }
            Ok((connection, _)) => self.end(&connection, PATIENCE).expect("it is let in over QUIC").to_string(),
        }
    }
}
