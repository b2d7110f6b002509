//! Actions of an `HTTPRoute` and their parts.

use std::{sync::Arc, time::Duration};

use super::Pattern;
use crate::headers::HeaderOps;

/// `Destination`: where a request goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DestinationHost {
    /// Expanded host, lower case.
    pub host: String,
    /// A subset of the host's DestinationRule.
    pub subset: Option<String>,
    /// `port.number`.
    pub port: Option<u16>,
    /// Line in the pushed file, from 1; 0 if unknown.
    pub line: usize,
}

/// `HTTPRouteDestination`.
#[derive(Debug, Clone, PartialEq)]
pub struct RouteDestination {
    /// Where.
    pub destination: DestinationHost,
    /// Share among the route's destinations; absent is 0.
    pub weight: u32,
    /// Header operations for this destination.
    pub headers: RouteHeaders,
}

/// `Headers`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RouteHeaders {
    /// On the request.
    pub request: Arc<HeaderOps>,
    /// On the response.
    pub response: Arc<HeaderOps>,
}

/// `HTTPRewrite`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Rewrite {
    /// What replaces the path or a part of it.
    pub uri: Option<UriRewrite>,
    /// What replaces the authority.
    pub authority: Option<String>,
}

/// How a path is rewritten.
#[derive(Debug, Clone, PartialEq)]
pub enum UriRewrite {
    /// The matched prefix is replaced; the whole path after an exact or regex match.
    Matched(String),
    /// Every match in the path (without query) is replaced; the text uses `${1}` for groups.
    Regex(Pattern, String),
}

/// `HTTPRedirect`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Redirect {
    /// Replaces the whole path.
    pub uri: Option<String>,
    /// Replaces the matched prefix.
    pub prefix_rewrite: Option<String>,
    /// Replaces the host.
    pub authority: Option<String>,
    /// What the port becomes.
    pub port: RedirectPort,
    /// Replaces the scheme.
    pub scheme: Option<String>,
    /// 301 if not given.
    pub code: u16,
}

/// The port of a redirect's Location.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RedirectPort {
    /// The request's, where the host or the scheme is not replaced.
    #[default]
    Unset,
    /// This one.
    Number(u16),
    /// The scheme's default: left out.
    ProtocolDefault,
    /// The one that the request arrived on.
    Request,
}

/// `HTTPDirectResponse`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectResponse {
    /// 200 to 599.
    pub status: u16,
    /// At most 1 MiB.
    pub body: Arc<[u8]>,
    /// True if the body was given as a string: then the answer is `text/plain`.
    pub text: bool,
}

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
