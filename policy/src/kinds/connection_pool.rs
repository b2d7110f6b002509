//! `ConnectionPoolSettings`: limits of what goes to one destination at once.

use std::time::Duration;

use crate::{
    codes,
    decode::{At, Fields},
};

/// `ConnectionPoolSettings`, with every default filled in. Limits are per calling proxy and cluster (host, port and subset), all
/// endpoints together; what overflows fails at once, is not retried and counts for no endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ConnectionPool {
    /// `tcp`.
    pub tcp: TcpPool,
    /// `http`.
    pub http: HttpPool,
}

/// `TCPSettings`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TcpPool {
    /// `None`: no limit.
    pub max_connections: Option<u32>,
    /// For a connection to open; `None`: what MeshConfig says.
    pub connect_timeout: Option<Duration>,
    /// Of connections to endpoints outside the mesh and to applications: those between nodes have probes of their own.
    pub keepalive: Option<TcpKeepalive>,
    /// `None`: for ever.
    pub max_connection_duration: Option<Duration>,
    /// Of a connection of bytes; 1 h. `None` (written 0s): for ever.
    pub idle_timeout: Option<Duration>,
}

/// `TcpKeepalive`; what is absent is the system's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TcpKeepalive {
    /// Probes without an answer before the connection is dead.
    pub probes: Option<u32>,
    /// Idle for this long before the first.
    pub time: Option<Duration>,
    /// Between probes.
    pub interval: Option<Duration>,
}

/// `HTTPSettings`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpPool {
    /// `http1MaxPendingRequests`: requests that wait for a connection, whatever the version. `None`: no limit.
    pub max_pending_requests: Option<u32>,
    /// `http2MaxRequests`: requests under way, whatever the version. `None`: no limit.
    pub max_requests: Option<u32>,
    /// A connection ends after so many; 1 is no keep-alive. `None`: no limit.
    pub max_requests_per_connection: Option<u32>,
    /// Retries under way in the cluster; `retryBudget` stands in its place. `None`: no limit.
    pub max_retries: Option<u32>,
    /// Of a connection without requests: this, else TCP's, else 1 h. `None`: for ever.
    pub idle_timeout: Option<Duration>,
    /// Whether HTTP/1.1 is carried as HTTP/2 between nodes, and counted so; the application is spoken to as its port says.
    pub h2_upgrade: H2Upgrade,
    /// The version is the caller's, between nodes and towards the application.
    pub use_client_protocol: bool,
    /// Requests that share one connection of HTTP/2: with `max_connections` as many as these connections carry together. `None`: no
    /// limit.
    pub max_concurrent_streams: Option<u32>,
    /// Pings on connections of HTTP/2, beside what the mesh does for all its connections.
    pub http2_keepalive: Option<Http2Keepalive>,
}

/// `H2UpgradePolicy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum H2Upgrade {
    /// As the mesh says: never.
    #[default]
    Default,
    /// Never.
    DoNotUpgrade,
    /// Always.
    Upgrade,
}

/// `ConnectionKeepalive`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Http2Keepalive {
    /// Between pings.
    pub interval: Duration,
    /// For the answer, after which the connection is dead.
    pub timeout: Duration,
}

/// Why `tcpKeepalive` changes nothing between nodes.
const KEPT_ALIVE: &str = "connections between nodes are kept alive anyway: a dead one is noticed within half a minute";
/// Where nothing is said.
const IDLE_TIMEOUT: Duration = Duration::from_secs(3_600);

impl Default for TcpPool {
    fn default() -> Self {
        Self {
            max_connections: None,
            connect_timeout: None,
            keepalive: None,
            max_connection_duration: None,
            idle_timeout: Some(IDLE_TIMEOUT),
        }
    }
}

impl Default for HttpPool {
    fn default() -> Self {
        Self {
            max_pending_requests: None,
            max_requests: None,
            max_requests_per_connection: None,
            max_retries: None,
            idle_timeout: Some(IDLE_TIMEOUT),
            h2_upgrade: H2Upgrade::Default,
            use_client_protocol: false,
            max_concurrent_streams: None,
            http2_keepalive: None,
        }
    }
}

impl ConnectionPool {
    pub(super) fn decode(at: &At<'_>) -> Option<Self> {
        let fields = at.fields()?;
        let (tcp, http) = (fields.get("tcp"), fields.get("http"));
        if tcp.is_none() && http.is_none() {
            at.error_as_istio(codes::EMPTY, "connection pool must have at least one field", "set tcp or http");
        }
        let tcp = tcp.map_or(Some(TcpPool::default()), |at| TcpPool::decode(&at));
        let idle = tcp.as_ref().map_or(Some(IDLE_TIMEOUT), |tcp| tcp.idle_timeout);
        let otherwise = HttpPool { idle_timeout: idle, ..HttpPool::default() };
        let http = match http {
            Some(at) => HttpPool::decode(&at, otherwise),
            None => Some(otherwise),
        };
        fields.finish();
        Some(Self { tcp: tcp?, http: http? })
    }
}

/// A limit: 0 is the same as absent.
fn limit(fields: &Fields<'_>, name: &'static str, words: &str) -> Option<u32> {
    let at = fields.get(name)?;
    let number = at.integer(i64::MIN..=i64::from(i32::MAX))?;
    if number < 0 {
        at.error_as_istio(codes::RANGE, format!("{words} must be non-negative"), "leave it out for no limit");
    }
    u32::try_from(number).ok().filter(|number| *number > 0)
}

impl TcpPool {
    fn decode(at: &At<'_>) -> Option<Self> {
        let fields = at.fields()?;
        let time = |name| fields.get(name).and_then(|at| at.duration());
        let decoded = Self {
            max_connections: limit(&fields, "maxConnections", "max connections"),
            connect_timeout: time("connectTimeout"),
            keepalive: fields.get("tcpKeepalive").and_then(|at| {
                at.warn(
                    codes::IGNORED,
                    "`tcpKeepalive` changes nothing between nodes, only towards endpoints outside the mesh",
                    KEPT_ALIVE,
                );
                TcpKeepalive::decode(&at)
            }),
            max_connection_duration: time("maxConnectionDuration"),
            idle_timeout: match fields.get("idleTimeout") {
                Some(at) => at.duration_or_zero().filter(|timeout| !timeout.is_zero()),
                None => Some(IDLE_TIMEOUT),
            },
        };
        fields.finish();
        Some(decoded)
    }
}

impl TcpKeepalive {
    fn decode(at: &At<'_>) -> Option<Self> {
        let fields = at.fields()?;
        let time = |name| fields.get(name).and_then(|at| at.duration());
        let probes = fields.get("probes").and_then(|at| at.integer(0..=i64::from(u32::MAX)));
        let probes = probes.and_then(|number| u32::try_from(number).ok()).filter(|number| *number > 0);
        let decoded = Self { probes, time: time("time"), interval: time("interval") };
        fields.finish();
        Some(decoded)
    }
}

impl HttpPool {
    fn decode(at: &At<'_>, otherwise: Self) -> Option<Self> {
        let fields = at.fields()?;
        let h2_upgrade = fields.get("h2UpgradePolicy").and_then(|at| {
            at.word(&[
                ("DEFAULT", H2Upgrade::Default),
                ("DO_NOT_UPGRADE", H2Upgrade::DoNotUpgrade),
                ("UPGRADE", H2Upgrade::Upgrade),
            ])
        });
        let h2_upgrade = h2_upgrade.unwrap_or_default();
        let use_client_protocol = fields.get("useClientProtocol").and_then(|at| at.boolean()).unwrap_or(false);
        if h2_upgrade == H2Upgrade::Upgrade && use_client_protocol {
            let message = "use client protocol must not be true when H2UpgradePolicy is UPGRADE";
            at.error_as_istio(codes::EXCLUSIVE, message, "");
        }
        let decoded = Self {
            max_pending_requests: limit(&fields, "http1MaxPendingRequests", "http1 max pending requests"),
            max_requests: limit(&fields, "http2MaxRequests", "http2 max requests"),
            max_requests_per_connection: limit(&fields, "maxRequestsPerConnection", "max requests per connection"),
            max_retries: limit(&fields, "maxRetries", "max retries"),
            idle_timeout: match fields.get("idleTimeout") {
                Some(at) => at.duration(),
                None => otherwise.idle_timeout,
            },
            h2_upgrade,
            use_client_protocol,
            max_concurrent_streams: limit(&fields, "maxConcurrentStreams", "max concurrent streams"),
            http2_keepalive: fields.get("http2KeepAlive").and_then(|at| Http2Keepalive::decode(&at)),
        };
        fields.finish();
        Some(decoded)
    }
}

impl Http2Keepalive {
    fn decode(at: &At<'_>) -> Option<Self> {
        let fields = at.fields()?;
        let interval = fields.required("interval").and_then(|at| at.duration());
        let timeout = fields.required("timeout").and_then(|at| at.duration());
        fields.finish();
        Some(Self { interval: interval?, timeout: timeout? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{complaints, spec_of};

    fn pool(text: &str) -> ConnectionPool {
        let spec = spec_of("DestinationRule", &format!("{{host: a, trafficPolicy: {{connectionPool: {text}}}}}"));
        spec.destination_rule().unwrap().policy.clone().unwrap().blocks.connection_pool.unwrap()
    }

    #[test]
    fn zero_is_no_limit_and_the_rest_is_default() {
        let empty = pool("{tcp: {maxConnections: 0}, http: {http1MaxPendingRequests: 0, maxRequestsPerConnection: 0}}");
        assert_eq!(empty, ConnectionPool::default());
        let full = pool(
            "{tcp: {maxConnections: 9, connectTimeout: 30ms, maxConnectionDuration: 1h, tcpKeepalive: {time: 7200s, probes: 3}},
              http: {http1MaxPendingRequests: 1, http2MaxRequests: 2, maxRequestsPerConnection: 3, maxRetries: 4, maxConcurrentStreams: 5,
                     h2UpgradePolicy: UPGRADE, http2KeepAlive: {interval: 15s, timeout: 5s}}}",
        );
        assert_eq!((full.tcp.max_connections, full.tcp.connect_timeout), (Some(9), Some(Duration::from_millis(30))));
        assert_eq!(full.tcp.keepalive.map(|keepalive| (keepalive.probes, keepalive.interval)), Some((Some(3), None)));
        let http = &full.http;
        let limits = [http.max_pending_requests, http.max_requests, http.max_requests_per_connection, http.max_retries];
        assert_eq!(limits, [Some(1), Some(2), Some(3), Some(4)]);
        assert_eq!((http.max_concurrent_streams, http.h2_upgrade), (Some(5), H2Upgrade::Upgrade));
        assert_eq!(http.http2_keepalive.map(|pings| pings.timeout), Some(Duration::from_secs(5)));
    }

    #[test]
    fn http_takes_tcps_idle_timeout() {
        let idle = |text: &str| {
            let pool = pool(text);
            (pool.tcp.idle_timeout, pool.http.idle_timeout)
        };
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        assert_eq!(idle("{tcp: {maxConnections: 1}}"), (seconds(3_600), seconds(3_600)));
        assert_eq!(idle("{tcp: {idleTimeout: 5s}}"), (seconds(5), seconds(5)));
        assert_eq!(idle("{tcp: {idleTimeout: 5s}, http: {idleTimeout: 7s}}"), (seconds(5), seconds(7)));
        assert_eq!(idle("{tcp: {idleTimeout: 0s}, http: {}}"), (None, None));
    }

    #[test]
    fn what_a_pool_cannot_be() {
        for (text, code) in [
            ("{}", codes::EMPTY),
            ("{tcp: {maxConnections: -3}}", codes::RANGE),
            ("{tcp: {maxConnections: 3000000000}}", codes::RANGE),
            ("{tcp: {connectTimeout: 0s}}", codes::DURATION),
            ("{tcp: {tcpKeepalive: {time: 0.1ms}}}", codes::DURATION),
            ("{http: {idleTimeout: 0s}}", codes::DURATION),
            ("{http: {h2UpgradePolicy: UPGRADE, useClientProtocol: true}}", codes::EXCLUSIVE),
            ("{http: {http2KeepAlive: {interval: 1s}}}", codes::MISSING),
            ("{http: {maxRetry: 1}}", codes::UNKNOWN_FIELD),
        ] {
            let found =
                complaints("DestinationRule", &format!("{{host: a, trafficPolicy: {{connectionPool: {text}}}}}"));
            assert!(found.iter().any(|(found, _)| *found == code), "{text}: {found:?}");
        }
    }
}
