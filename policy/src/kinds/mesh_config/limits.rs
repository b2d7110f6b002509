//! What a node takes from callers before it refuses.

use std::time::Duration;

use crate::{
    codes,
    decode::{At, Fields},
};

/// What a node takes from callers before it refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a header block, HTTP/1 and HTTP/2: 431 beyond. 32 KiB.
    pub header_bytes: usize,
    /// Header lines: 431 beyond. 100.
    pub headers: usize,
    /// Bytes of a request target: 414 beyond. 8 KiB.
    pub uri_bytes: usize,
    /// Concurrent streams of an HTTP/2 connection. 128.
    pub streams: u32,
    /// HTTP/2 streams reset and not yet noticed by the application: GOAWAY beyond. 20.
    pub pending_resets: u32,
    /// HTTP/2 streams reset within 10 s, soon after they began, where these are more than half of all; or ten times as many: GOAWAY beyond. 100.
    pub resets: u32,
    /// For the whole head of a request. 10 s.
    pub header_timeout: Duration,
    /// Between two pieces of a request's body, before it is answered and unless it is gRPC's. 30 s.
    pub request_body_idle: Duration,
    /// The same afterwards and of gRPC; between two pieces of a response, a gRPC stream, an upgraded connection or a tunnel. 1 h.
    pub stream_idle: Duration,
    /// For a TLS handshake: of another node, or of a client at a gateway. 10 s.
    pub tls_handshake_timeout: Duration,
    /// Connections of a node that applications and clients of gateways open. 20,000.
    pub connections: usize,
    /// Connections of one address at a node's gateways. 1,000.
    pub connections_per_address: usize,
    /// Connections of one carrier that have not finished their TLS handshake. 512.
    pub pending_handshakes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            header_bytes: 32 * 1024,
            headers: 100,
            uri_bytes: 8 * 1024,
            streams: 128,
            pending_resets: 20,
            resets: 100,
            header_timeout: Duration::from_secs(10),
            request_body_idle: Duration::from_secs(30),
            stream_idle: Duration::from_secs(3_600),
            tls_handshake_timeout: Duration::from_secs(10),
            connections: 20_000,
            connections_per_address: 1_000,
            pending_handshakes: 512,
        }
    }
}

/// A duration of a limit at most: a day. More is as good as no limit.
const LONGEST: Duration = Duration::from_secs(24 * 3_600);

impl Limits {
    pub(super) fn decode(at: &At<'_>) -> Option<Self> {
        let fields = at.fields()?;
        let default = Self::default();
        let limits = Self {
            header_bytes: count(&fields, "headerBytes", 1_024, 1_048_576, default.header_bytes),
            headers: count(&fields, "headers", 10, 10_000, default.headers),
            uri_bytes: count(&fields, "uriBytes", 256, 65_536, default.uri_bytes),
            streams: count(&fields, "streams", 1, 10_000, default.streams),
            pending_resets: count(&fields, "pendingResets", 1, 10_000, default.pending_resets),
            resets: count(&fields, "resets", 1, 1_000_000, default.resets),
            header_timeout: time(&fields, "headerTimeout", default.header_timeout),
            request_body_idle: time(&fields, "requestBodyIdle", default.request_body_idle),
            stream_idle: time(&fields, "streamIdle", default.stream_idle),
            tls_handshake_timeout: time(&fields, "tlsHandshakeTimeout", default.tls_handshake_timeout),
            connections: count(&fields, "connections", 16, 1_000_000, default.connections),
            connections_per_address: count(
                &fields,
                "connectionsPerAddress",
                1,
                1_000_000,
                default.connections_per_address,
            ),
            pending_handshakes: count(&fields, "pendingHandshakes", 1, 100_000, default.pending_handshakes),
        };
        fields.finish();
        if limits.uri_bytes > limits.header_bytes {
            at.error(codes::NEVER_VALID, "uriBytes exceeds headerBytes, which holds it");
        }
        Some(limits)
    }
}

fn count<N: TryFrom<i64>>(fields: &Fields<'_>, name: &'static str, least: i64, most: i64, default: N) -> N {
    let given = fields.get(name).and_then(|at| at.integer(least..=most));
    given.and_then(|number| N::try_from(number).ok()).unwrap_or(default)
}

fn time(fields: &Fields<'_>, name: &'static str, default: Duration) -> Duration {
    let Some(at) = fields.get(name) else { return default };
    let Some(duration) = at.duration() else { return default };
    if duration > LONGEST {
        at.error(codes::RANGE, format!("{name} is at most 24h"));
    }
    duration
}
