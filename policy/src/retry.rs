//! What is retried: `HTTPRetry` and the pure decision.

use std::time::Duration;

use http::Method;

/// `HTTPRetry`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retries {
    /// Retries, not tries: at most 1 + this many attempts. 0 is off.
    pub attempts: u32,
    /// When.
    pub on: RetryOn,
    /// Of each attempt, the first included; absent means the route's timeout.
    pub per_try_timeout: Option<Duration>,
    /// Before retry n (from 1) wait a random time up to `base * (2^n - 1)`, at most `10 * base`.
    pub backoff_base: Duration,
    /// Try other endpoints than those already tried.
    pub ignore_previous: bool,
    /// Other localities' endpoints may be tried.
    pub remote_localities: bool,
    /// True for the mesh's default: then GET, HEAD and OPTIONS are also retried after a reset.
    pub idempotent_reset: bool,
}

/// The conditions of `retryOn`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RetryOn {
    conditions: u32,
    statuses: Vec<u16>,
}

/// How an attempt ended, before any response head was passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The upstream's own answer.
    Answer {
        /// Its status.
        status: u16,
        /// `grpc-status` among its headers (not trailers after a body).
        grpc: Option<u16>,
        /// It bore `x-envoy-ratelimited`.
        rate_limited: bool,
        /// It bore `x-envoy-overloaded`: never retried.
        overloaded: bool,
    },
    /// No connection was made.
    ConnectFailure,
    /// The peer refused the stream before reading it (HTTP/2 REFUSED_STREAM, QUIC, draining).
    RefusedStream,
    /// The connection ended before the request was sent.
    ResetBeforeRequest,
    /// The stream ended without an answer.
    Reset,
    /// `perTryTimeout` passed.
    PerTryTimeout,
    /// The route's timeout passed: never retried.
    RouteTimeout,
    /// A limit of this proxy (circuit breaker): never retried.
    LocalOverload,
}

impl Default for Retries {
    /// The mesh's default: 2 retries on `connect-failure,refused-stream,unavailable,cancelled`.
    fn default() -> Self {
        Self {
            attempts: 2,
            on: RetryOn::default(),
            per_try_timeout: None,
            backoff_base: Duration::from_millis(25),
            ignore_previous: true,
            remote_localities: false,
            idempotent_reset: true,
        }
    }
}

impl Retries {
    /// True if a request of this method whose attempt ended so may be tried again (attempts left or not is the caller's count).
    pub fn retriable(&self, _method: &Method, _outcome: Outcome) -> bool {
        todo!()
    }

    /// How long to wait before retry `n` (from 1).
    pub fn backoff(&self, _n: u32, _random: u64) -> Duration {
        todo!()
    }
}

impl RetryOn {
    /// True if one of the conditions holds.
    pub fn retriable(&self, _outcome: Outcome) -> bool {
        todo!()
    }
}
