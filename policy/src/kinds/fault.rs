//! `HTTPFaultInjection`: delays and aborts for a share of requests, at the caller.

use std::time::Duration;

use crate::{codes, decode::At};

/// `HTTPFaultInjection`; delay and abort are drawn independently, delay first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Fault {
    /// Waits before the request is routed.
    pub delay: Option<DelayFault>,
    /// Answers instead of routing.
    pub abort: Option<AbortFault>,
}

/// A delay for a share of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DelayFault {
    /// How long.
    pub delay: Duration,
    /// Share, in parts of a million.
    pub per_million: u32,
}

/// An answer for a share of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AbortFault {
    /// What is answered.
    pub abort: Abort,
    /// Share, in parts of a million.
    pub per_million: u32,
}

/// What an abort answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Abort {
    /// This HTTP status.
    Http(u16),
    /// This gRPC status: 200 with `grpc-status` on a gRPC request, else the HTTP status that it maps to.
    Grpc(u8),
}

/// One in a million.
const MILLION: u64 = 1_000_000;

impl Fault {
    /// The delay that a request with this random number meets.
    pub fn delay(&self, random: u64) -> Option<Duration> {
        self.delay.filter(|delay| random % MILLION < u64::from(delay.per_million)).map(|delay| delay.delay)
    }

    /// The abort that a request with this random number (another one than for the delay) meets.
    pub fn abort(&self, random: u64) -> Option<Abort> {
        self.abort.filter(|abort| random % MILLION < u64::from(abort.per_million)).map(|abort| abort.abort)
    }
}

impl Fault {
    pub(super) fn decode(at: &At<'_>) -> Option<Self> {
        let fields = at.fields()?;
        if !fields.has("delay") && !fields.has("abort") {
            at.error_as_istio(codes::EMPTY, "HTTP fault injection must have an abort and/or a delay", "");
        }
        let delay = fields.get("delay").and_then(|delay| DelayFault::decode(&delay));
        let abort = fields.get("abort").and_then(|abort| AbortFault::decode(&abort));
        fields.finish();
        Some(Self { delay, abort })
    }
}

/// Says so where a fault can never happen.
fn warn_idle(at: &At<'_>, per_million: u32) {
    if per_million == 0 {
        at.warn(
            codes::FAULT_WITHOUT_EFFECT,
            "an absent percentage is 0: nothing happens",
            "set percentage: {value: 100}",
        );
    }
}

impl DelayFault {
    fn decode(at: &At<'_>) -> Option<Self> {
        let fields = at.fields()?;
        let percentage = fields.get("percentage").and_then(|percentage| percentage.percent());
        let percent = fields.get("percent").and_then(|percent| {
            percent.warn(codes::DEPRECATED, "percent is deprecated", "write percentage: {value: ...}");
            u32::try_from(percent.integer(0..=100)?).ok()
        });
        if let Some(at) = fields.get("exponentialDelay") {
            at.error_as_istio(codes::NOT_IN_ISTIO, "exponentialDelay not supported yet", "write fixedDelay");
        }
        let delay = fields.get("fixedDelay").map(|delay| delay.duration());
        fields.finish();
        let per_million = percentage.unwrap_or(percent.unwrap_or_default() * 10_000);
        warn_idle(at, per_million);
        match delay {
            Some(delay) => Some(Self { delay: delay?, per_million }),
            None => {
                at.warn(codes::FAULT_WITHOUT_EFFECT, "a delay without fixedDelay does nothing", "");
                None
            }
        }
    }
}

/// gRPC statuses by number.
const GRPC: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

impl AbortFault {
    fn decode(at: &At<'_>) -> Option<Self> {
        let fields = at.fields()?;
        let given = ["httpStatus", "grpcStatus", "http2Error"].iter().filter(|name| fields.has(name)).count();
        let http = fields
            .get("httpStatus")
            .and_then(|status| status.integer(200..=600))
            .and_then(|status| u16::try_from(status).ok());
        let grpc = fields.get("grpcStatus").and_then(|status| {
            let text = status.text()?;
            let number = GRPC.iter().position(|name| *name == text).and_then(|number| u8::try_from(number).ok());
            if number.is_none() {
                status.error_hint(
                    codes::WORD,
                    format!("`{text}` is not a gRPC status"),
                    "write its name in capitals, e.g. UNAVAILABLE",
                );
            }
            number
        });
        if let Some(at) = fields.get("http2Error") {
            at.error_as_istio(
                codes::NOT_IN_ISTIO,
                "HTTP/2 abort fault injection not supported yet",
                "write httpStatus or grpcStatus",
            );
        }
        let percentage = fields.get("percentage").and_then(|percentage| percentage.percent());
        fields.finish();
        if given > 1 {
            at.error(codes::EXCLUSIVE, "httpStatus, grpcStatus and http2Error exclude each other");
        }
        let per_million = percentage.unwrap_or_default();
        warn_idle(at, per_million);
        if given == 0 {
            at.warn(codes::FAULT_WITHOUT_EFFECT, "abort without an error type does nothing", "set httpStatus");
        }
        Some(Self { abort: http.map(Abort::Http).or(grpc.map(Abort::Grpc))?, per_million })
    }
}
