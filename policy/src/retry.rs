//! What is retried: `HTTPRetry` and the pure decision.

use std::time::Duration;

use http::Method;

use crate::{
    codes,
    decode::{At, nearest},
};

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
#[derive(Debug, Clone, PartialEq, Eq)]
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
        /// It bore `x-envoy-ratelimited`: retried under that word alone, whatever its status.
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

/// Words of `retryOn`; the place is the bit.
const WORDS: [&str; 16] = [
    "5xx",
    "gateway-error",
    "reset",
    "reset-before-request",
    "connect-failure",
    "retriable-4xx",
    "refused-stream",
    "retriable-status-codes",
    "retriable-headers",
    "envoy-ratelimited",
    "http3-post-connect-failure",
    "cancelled",
    "deadline-exceeded",
    "internal",
    "resource-exhausted",
    "unavailable",
];

const fn bit(word: &str) -> u32 {
    let mut place = 0;
    while place < WORDS.len() {
        if same(WORDS[place].as_bytes(), word.as_bytes()) {
            return 1 << place;
        }
        place += 1;
    }
    panic!("not a word of retryOn")
}

const fn same(a: &[u8], b: &[u8]) -> bool {
    let mut place = 0;
    while place < a.len() && place < b.len() && a[place] == b[place] {
        place += 1;
    }
    place == a.len() && place == b.len()
}

const SERVER_ERROR: u32 = bit("5xx");
const GATEWAY_ERROR: u32 = bit("gateway-error");
const RESET: u32 = bit("reset");
const RESET_BEFORE_REQUEST: u32 = bit("reset-before-request");
const CONNECT_FAILURE: u32 = bit("connect-failure");
const RETRIABLE_4XX: u32 = bit("retriable-4xx");
const REFUSED_STREAM: u32 = bit("refused-stream");
const STATUS_CODES: u32 = bit("retriable-status-codes");
const RATE_LIMITED: u32 = bit("envoy-ratelimited");
/// Under any of these an attempt without an answer is tried again, however it ended.
const NO_ANSWER: u32 = SERVER_ERROR | GATEWAY_ERROR | RESET;
/// Bits of the gRPC words with their `grpc-status`.
const GRPC: [(u32, u16); 5] = [
    (bit("cancelled"), 1),
    (bit("deadline-exceeded"), 4),
    (bit("internal"), 13),
    (bit("resource-exhausted"), 8),
    (bit("unavailable"), 14),
];

/// Retries of one request at most.
const MAX_ATTEMPTS: i64 = 1_000;

impl Default for RetryOn {
    /// `connect-failure,refused-stream,unavailable,cancelled`.
    fn default() -> Self {
        let conditions = CONNECT_FAILURE | REFUSED_STREAM | bit("unavailable") | bit("cancelled");
        Self { conditions, statuses: Vec::new() }
    }
}

impl Default for Retries {
    /// The mesh's default: 2 retries on [`RetryOn::default`].
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
    pub fn retriable(&self, method: &Method, outcome: Outcome) -> bool {
        if self.attempts == 0 {
            return false;
        }
        let idempotent = matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS);
        let reset = matches!(outcome, Outcome::Reset | Outcome::ResetBeforeRequest);
        (self.idempotent_reset && idempotent && reset) || self.on.retriable(outcome)
    }

    /// False if no answer of this status, with this `grpc-status`, is tried again, whatever else it bears: nobody needs to look for that.
    pub fn concerns(&self, status: u16, grpc: Option<u16>) -> bool {
        let plain = Outcome::Answer { status, grpc, rate_limited: false, overloaded: false };
        self.attempts > 0 && (self.on.conditions & RATE_LIMITED != 0 || self.on.retriable(plain))
    }

    /// How long to wait before retry `n` (from 1).
    pub fn backoff(&self, n: u32, random: u64) -> Duration {
        let base = u64::try_from(self.backoff_base.as_micros()).unwrap_or(u64::MAX).max(1);
        let factor = (1_u64 << n.clamp(1, 20)) - 1;
        let most = base.saturating_mul(factor).min(base.saturating_mul(10));
        Duration::from_micros(random % most.saturating_add(1))
    }

    pub(crate) fn decode(at: &At<'_>) -> Option<Self> {
        let fields = at.fields()?;
        let attempts = fields.get("attempts").map_or(Some(0), |attempts| attempts.integer(0..=MAX_ATTEMPTS));
        let per_try_timeout = fields.get("perTryTimeout").and_then(|timeout| timeout.duration());
        let on = fields.get("retryOn").and_then(|on| RetryOn::decode(&on));
        let boolean = |name, default| fields.get(name).and_then(|at| at.boolean()).unwrap_or(default);
        let remote_localities = boolean("retryRemoteLocalities", false);
        let ignore_previous = boolean("retryIgnorePreviousHosts", true);
        let backoff = fields.get("backoff").and_then(|backoff| backoff.duration());
        if attempts == Some(0) {
            let idle =
                ["perTryTimeout", "retryOn", "retryRemoteLocalities"].into_iter().filter(|name| fields.has(name));
            for name in idle {
                at.error_hint(codes::EXCLUSIVE, format!("{name} cannot be set when attempts are 0"), "set attempts");
            }
        }
        fields.finish();
        Some(Self {
            attempts: u32::try_from(attempts?).ok()?,
            on: on.unwrap_or_default(),
            per_try_timeout,
            backoff_base: backoff.unwrap_or(Retries::default().backoff_base),
            ignore_previous,
            remote_localities,
            idempotent_reset: false,
        })
    }
}

impl RetryOn {
    /// True if one of the conditions holds.
    pub fn retriable(&self, outcome: Outcome) -> bool {
        let any = |conditions: u32| self.conditions & conditions != 0;
        match outcome {
            Outcome::Answer { overloaded: true, .. } | Outcome::RouteTimeout | Outcome::LocalOverload => false,
            Outcome::Answer { rate_limited: true, .. } => any(RATE_LIMITED),
            Outcome::Answer { status, grpc, rate_limited: false, overloaded: false } => {
                (any(SERVER_ERROR) && (500..600).contains(&status))
                    || (any(GATEWAY_ERROR) && (502..=504).contains(&status))
                    || (any(RETRIABLE_4XX) && status == 409)
                    || (any(STATUS_CODES) && self.statuses.contains(&status))
                    || grpc.is_some_and(|grpc| GRPC.iter().any(|(own, number)| any(*own) && *number == grpc))
            }
            // Each is a reset to Envoy, and of the first three nothing of the request was taken.
            Outcome::ConnectFailure => any(NO_ANSWER | RESET_BEFORE_REQUEST | CONNECT_FAILURE),
            Outcome::RefusedStream => any(NO_ANSWER | RESET_BEFORE_REQUEST | REFUSED_STREAM),
            Outcome::ResetBeforeRequest => any(NO_ANSWER | RESET_BEFORE_REQUEST),
            Outcome::Reset | Outcome::PerTryTimeout => any(NO_ANSWER),
        }
    }

    /// Reads a comma list without blanks; numbers are statuses.
    ///
    /// # Errors
    /// The word that is none.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut on = Self { conditions: 0, statuses: Vec::new() };
        for word in text.split(',') {
            if let Some(place) = WORDS.iter().position(|own| *own == word) {
                on.conditions |= 1 << place;
            } else if let Some(status) = word.parse().ok().filter(|status| (100..600).contains(status)) {
                on.conditions |= STATUS_CODES;
                on.statuses.push(status);
            } else {
                return Err(word.to_owned());
            }
        }
        Ok(on)
    }

    fn decode(at: &At<'_>) -> Option<Self> {
        let text = at.text()?;
        if text.is_empty() {
            return None;
        }
        match Self::parse(text) {
            Ok(on) => Some(on),
            Err(word) => {
                let near = nearest(&word, WORDS.into_iter());
                let hint = match near {
                    Some(near) if word.trim() == near => "write no blanks around commas".to_owned(),
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("numbers of statuses and {}", WORDS.join(", ")),
                };
                at.error_hint(codes::RETRY_ON, format!("invalid policy in retryOn: `{word}`"), hint);
                None
            }
        }
    }
}

impl std::fmt::Display for RetryOn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let words = WORDS.iter().enumerate().filter(|(place, _)| self.conditions & (1 << place) != 0);
        let words = words
            .map(|(_, word)| (*word).to_owned())
            .filter(|word| *word != "retriable-status-codes" || self.statuses.is_empty());
        let all: Vec<String> = words.chain(self.statuses.iter().map(ToString::to_string)).collect();
        f.write_str(&all.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16) -> Outcome {
        Outcome::Answer { status, grpc: None, rate_limited: false, overloaded: false }
    }

    #[test]
    fn what_is_of_no_concern_is_never_retried() {
        let all = WORDS.iter().map(|word| (*word).to_owned()).chain([String::from("404,503"), WORDS.join(",")]);
        for (on, attempts) in all.flat_map(|on| [(on.clone(), 0), (on, 2)]) {
            let retries = Retries { attempts, on: RetryOn::parse(&on).unwrap(), ..Retries::default() };
            for (status, grpc) in [200, 404, 409, 500, 503].into_iter().flat_map(|one| [(one, None), (one, Some(14))]) {
                let retried = [false, true].into_iter().flat_map(|limited| [(limited, false), (limited, true)]).any(
                    |(rate_limited, overloaded)| {
                        let outcome = Outcome::Answer { status, grpc, rate_limited, overloaded };
                        retries.retriable(&Method::GET, outcome)
                    },
                );
                assert_eq!(retries.concerns(status, grpc), retried, "{on} {attempts} {status} {grpc:?}");
            }
        }
    }

    #[test]
    fn words_mean_what_envoy_means() {
        let grpc = |grpc| Outcome::Answer { status: 200, grpc: Some(grpc), rate_limited: false, overloaded: false };
        let limited = |status| Outcome::Answer { status, grpc: Some(14), rate_limited: true, overloaded: false };
        for (on, outcome, retried) in [
            ("5xx", answer(503), true),
            ("5xx", Outcome::Reset, true),
            ("5xx", Outcome::PerTryTimeout, true),
            ("5xx", Outcome::RouteTimeout, false),
            ("5xx", Outcome::LocalOverload, false),
            ("5xx", Outcome::Answer { status: 503, grpc: None, rate_limited: false, overloaded: true }, false),
            ("gateway-error", answer(502), true),
            ("gateway-error", answer(500), false),
            ("connect-failure", Outcome::ConnectFailure, true),
            ("connect-failure", Outcome::Reset, false),
            ("connect-failure", answer(503), false),
            ("refused-stream", Outcome::RefusedStream, true),
            ("refused-stream", Outcome::Reset, false),
            ("retriable-4xx", answer(409), true),
            ("retriable-4xx", answer(429), false),
            ("retriable-4xx", Outcome::Reset, false),
            ("503", answer(503), true),
            ("503", Outcome::Reset, false),
            ("503,reset", Outcome::Reset, true),
            ("internal", grpc(13), true),
            ("internal", grpc(14), false),
            ("retriable-status-codes", answer(503), false),
            ("reset", Outcome::ConnectFailure, true),
            ("reset", Outcome::PerTryTimeout, true),
            ("reset-before-request", Outcome::ConnectFailure, true),
            ("reset-before-request", Outcome::RefusedStream, true),
            ("reset-before-request", Outcome::ResetBeforeRequest, true),
            ("reset-before-request", Outcome::Reset, false),
            ("envoy-ratelimited", limited(429), true),
            ("envoy-ratelimited", answer(429), false),
            ("429", limited(429), false),
            ("5xx", limited(503), false),
            ("gateway-error", limited(503), false),
            ("5xx,envoy-ratelimited", limited(503), true),
        ] {
            assert_eq!(RetryOn::parse(on).unwrap().retriable(outcome), retried, "{on} {outcome:?}");
        }
    }

    #[test]
    fn the_default_spares_503_and_retries_idempotent_resets() {
        let retries = Retries::default();
        assert!(!retries.retriable(&Method::GET, answer(503)));
        assert!(retries.retriable(&Method::POST, Outcome::ConnectFailure));
        assert!(retries.retriable(&Method::GET, Outcome::Reset));
        assert!(!retries.retriable(&Method::POST, Outcome::Reset));
        assert!(!Retries { attempts: 0, ..retries }.retriable(&Method::GET, Outcome::ConnectFailure));
    }

    #[test]
    fn backoff_grows_to_ten_times_the_base() {
        let retries = Retries::default();
        let most = |n| {
            retries
                .backoff(n, 0)
                .max((0..5_000).map(|random| retries.backoff(n, random * 97)).max().unwrap_or_default())
        };
        assert!(most(1) <= Duration::from_millis(25));
        assert!(most(2) > Duration::from_millis(60) && most(2) <= Duration::from_millis(75));
        assert!(most(30) <= Duration::from_millis(250));
    }

    #[test]
    fn unknown_words_are_refused() {
        for bad in ["", "5xx, reset", "invalid policy", "99", "600", "5xx,"] {
            assert!(RetryOn::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(RetryOn::parse("503,connect-failure").unwrap().to_string(), "connect-failure,503");
    }
}
