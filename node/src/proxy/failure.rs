//! What can go wrong with a request, and how it is told: one table from cause to HTTP status, body, Envoy's response
//! flag, whose fault it is and what the retry words may see in it.

use crate::telemetry::Flags;
use http::StatusCode;
use policy::{retry::Outcome, token};

/// Why the proxy answered by itself, or gave an attempt up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The request breaks HTTP's rules or ours; the text says which.
    BadRequest(&'static str),
    /// A header block beyond 32 KiB or 100 headers.
    HeadersTooLarge,
    /// A URI beyond 8 KiB.
    UriTooLong,
    /// HTTP/1.0.
    OldVersion,
    /// A method that this listener does not serve; the text says which.
    Unsupported(&'static str),
    /// The request's body paused for longer than its limit.
    RequestTimeout,
    /// No service by that name and port, or no rule of its VirtualService matches.
    NoRoute,
    /// What the request means is not served on its connection (RFC 9110 15.5.20): on another one it may be.
    Misdirected,
    /// A host that the mesh does not know, at the address of a name: a page of another site, perhaps.
    ForeignHost,
    /// The caller names what the mesh does not know, and nothing of its may leave the mesh.
    NotInRegistry,
    /// The rule names a host or subset that nobody defines.
    NoCluster,
    /// What the rule's rewrite makes of the request is none.
    NoRewrite,
    /// The destination has no healthy endpoint.
    NoHealthy,
    /// The name that the request brings has no address that may be used.
    Unresolved,
    /// No connection to the endpoint.
    ConnectFailure,
    /// A limit on connections or requests, here or at the peer.
    Overflow,
    /// The connection ended before the request was sent on it.
    ResetBeforeRequest,
    /// The connection ended before a response.
    ConnectionTermination,
    /// The peer refused the stream before it read anything of it.
    RefusedStream,
    /// The response breaks HTTP's rules.
    UpstreamProtocol,
    /// A WebSocket for an application whose HTTP/2 takes none (RFC 8441).
    NoWebSocket,
    /// The route's timeout.
    RouteTimeout,
    /// The timeout of one attempt.
    PerTryTimeout,
    /// An injected abort with this HTTP status.
    Abort(u16),
    /// An injected abort with this gRPC status.
    AbortGrpc(u8),
    /// This node may not show the caller's identity.
    NoIdentity,
    /// This node is stopping.
    Draining,
    /// A peer asked for a service that is not served here.
    NotServedHere,
    /// A PeerAuthentication takes mutual TLS only, and the caller is outside the mesh.
    PlaintextRefused,
    /// An AuthorizationPolicy refuses the request.
    Denied,
    /// A RateLimit has no room for the request.
    RateLimited,
    /// An external authoriser refuses the request.
    DeniedOutside,
    /// An external authoriser gave no answer, for which policy has this status.
    NoVerdict(u16),
    /// A body beyond what an external authoriser is told of.
    BodyTooLarge,
    /// The token of the request's user does not hold, or there is none where one is required.
    Unauthenticated(token::Refusal),
}

/// What the transport said where a connection failed, e.g. that a certificate has ended: Envoy's
/// `UPSTREAM_TRANSPORT_FAILURE_REASON`.
pub type TransportReason = Box<str>;

/// A cause, and what the transport said where it said something.
#[derive(Debug)]
pub struct Failure {
    /// The row of the table.
    pub cause: Cause,
    /// For people.
    pub transport: Option<TransportReason>,
}

impl From<Cause> for Failure {
    fn from(cause: Cause) -> Self {
        Self { cause, transport: None }
    }
}

impl Failure {
    /// No connection came about, and why.
    #[must_use]
    pub fn unconnected(error: &std::io::Error) -> Self {
        Self { cause: Cause::ConnectFailure, transport: Some(error.to_string().into()) }
    }

    /// The cause; the reason goes where `transport` is.
    pub fn told(self, transport: &mut Option<TransportReason>) -> Cause {
        *transport = self.transport;
        self.cause
    }
}

/// On whose account a failure goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The caller's.
    Client,
    /// The documents'.
    Policy,
    /// The destination's, or the way to it.
    Upstream,
    /// This node's.
    Node,
}

/// One row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// The status for HTTP callers; gRPC callers get 200 and [`Cause::grpc_status`].
    pub status: StatusCode,
    /// Envoy's response flag, empty where it has none.
    pub flags: Flags,
    /// On whose account.
    pub fault: Fault,
    /// Envoy's body.
    pub body: &'static str,
    /// True if the connection to the caller must end with the answer.
    pub close: bool,
}

impl Cause {
    /// The row of this cause.
    #[must_use]
    pub const fn answer(self) -> Answer {
        let (status, flags, fault, body, close) = match self {
            Self::BadRequest(what) => (StatusCode::BAD_REQUEST, Flags::DPE, Fault::Client, what, true),
            Self::HeadersTooLarge => (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, Flags::DPE, Fault::Client, "", true),
            Self::UriTooLong => (StatusCode::URI_TOO_LONG, Flags::DPE, Fault::Client, "", true),
            Self::Unsupported(what) => (StatusCode::NOT_IMPLEMENTED, Flags::DPE, Fault::Client, what, true),
            Self::OldVersion => (StatusCode::UPGRADE_REQUIRED, Flags::NONE, Fault::Client, OLD_VERSION, true),
            Self::RequestTimeout => (StatusCode::REQUEST_TIMEOUT, Flags::SI, Fault::Client, "stream timeout", true),
            Self::NoRoute => (StatusCode::NOT_FOUND, Flags::NR, Fault::Policy, "", false),
            Self::Misdirected => (StatusCode::MISDIRECTED_REQUEST, Flags::NR, Fault::Client, "", true),
            Self::ForeignHost => (StatusCode::MISDIRECTED_REQUEST, Flags::NR, Fault::Client, FOREIGN, true),
            Self::NotInRegistry => (StatusCode::BAD_GATEWAY, Flags::NONE, Fault::Policy, "", false),
            Self::NoCluster => (StatusCode::SERVICE_UNAVAILABLE, Flags::NC, Fault::Policy, "", false),
            Self::NoRewrite => (StatusCode::INTERNAL_SERVER_ERROR, Flags::NONE, Fault::Policy, REWRITE, false),
            Self::NoHealthy => {
                (StatusCode::SERVICE_UNAVAILABLE, Flags::UH, Fault::Upstream, "no healthy upstream", false)
            }
            Self::Unresolved => (StatusCode::SERVICE_UNAVAILABLE, Flags::DF, Fault::Upstream, UNRESOLVED, false),
            Self::ConnectFailure => (StatusCode::SERVICE_UNAVAILABLE, Flags::UF, Fault::Upstream, CONNECT, false),
            Self::Overflow => (StatusCode::SERVICE_UNAVAILABLE, Flags::UO, Fault::Node, OVERFLOW, false),
            Self::ConnectionTermination | Self::ResetBeforeRequest => {
                (StatusCode::SERVICE_UNAVAILABLE, Flags::UC, Fault::Upstream, TERMINATION, false)
            }
            Self::RefusedStream => (StatusCode::SERVICE_UNAVAILABLE, Flags::UR, Fault::Upstream, RESET, false),
            Self::UpstreamProtocol => (StatusCode::BAD_GATEWAY, Flags::UPE, Fault::Upstream, PROTOCOL, false),
            Self::NoWebSocket => (StatusCode::BAD_GATEWAY, Flags::UPE, Fault::Policy, NO_WEBSOCKET, false),
            Self::RouteTimeout | Self::PerTryTimeout => {
                (StatusCode::GATEWAY_TIMEOUT, Flags::UT, Fault::Upstream, "upstream request timeout", false)
            }
            Self::Abort(status) => (status_of(status), Flags::FI, Fault::Policy, ABORT, false),
            Self::AbortGrpc(status) => (status_of(grpc_to_http(status)), Flags::FI, Fault::Policy, ABORT, false),
            Self::NoIdentity => (StatusCode::SERVICE_UNAVAILABLE, Flags::UF, Fault::Node, CONNECT, false),
            Self::Draining => (StatusCode::SERVICE_UNAVAILABLE, Flags::NONE, Fault::Node, "draining", true),
            Self::NotServedHere => (StatusCode::NOT_FOUND, Flags::NR, Fault::Upstream, "", false),
            Self::PlaintextRefused => (StatusCode::FORBIDDEN, Flags::NR, Fault::Client, PLAINTEXT, true),
            Self::Denied => (StatusCode::FORBIDDEN, Flags::NONE, Fault::Client, DENIED, false),
            Self::RateLimited => (StatusCode::TOO_MANY_REQUESTS, Flags::RL, Fault::Client, "local_rate_limited", false),
            Self::DeniedOutside => (StatusCode::FORBIDDEN, Flags::UAEX, Fault::Client, "", false),
            Self::NoVerdict(status) => (status_of(status), Flags::UAEX, Fault::Policy, "", false),
            Self::BodyTooLarge => {
                (StatusCode::PAYLOAD_TOO_LARGE, Flags::NONE, Fault::Client, "Payload Too Large", true)
            }
            Self::Unauthenticated(why) => (status_of(why.status()), Flags::NONE, Fault::Client, why.text(), false),
        };
        Answer { status, flags, fault, body, close }
    }

    /// Envoy's `response_code_details`.
    #[must_use]
    pub const fn details(self) -> &'static str {
        match self {
            Self::BadRequest(_) | Self::HeadersTooLarge | Self::UriTooLong | Self::Unsupported(_) => {
                "http1.codec_error"
            }
            Self::OldVersion => "low_version",
            Self::RequestTimeout => "request_overall_timeout",
            Self::NoRoute | Self::Misdirected | Self::ForeignHost | Self::NotServedHere => "route_not_found",
            Self::NotInRegistry => "direct_response",
            Self::NoCluster => "cluster_not_found",
            Self::NoRewrite => "rewrite_error",
            Self::NoHealthy => "no_healthy_upstream",
            Self::Unresolved => "dns_resolution_failure",
            Self::ConnectFailure | Self::NoIdentity => {
                "upstream_reset_before_response_started{remote_connection_failure}"
            }
            Self::Overflow => "upstream_reset_before_response_started{overflow}",
            Self::ResetBeforeRequest | Self::ConnectionTermination => {
                "upstream_reset_before_response_started{connection_termination}"
            }
            Self::RefusedStream => "upstream_reset_before_response_started{remote_refused_stream_reset}",
            Self::UpstreamProtocol | Self::NoWebSocket => "upstream_reset_before_response_started{protocol_error}",
            Self::RouteTimeout => "response_timeout",
            Self::PerTryTimeout => "upstream_per_try_timeout",
            Self::Abort(_) | Self::AbortGrpc(_) => "fault_filter_abort",
            Self::Draining => "overload",
            Self::PlaintextRefused => "filter_chain_not_found",
            Self::Denied => "rbac_access_denied_matched_policy[none]",
            Self::RateLimited => "local_rate_limited",
            Self::DeniedOutside => "ext_authz_denied",
            Self::NoVerdict(_) => "ext_authz_error",
            Self::BodyTooLarge => "request_payload_too_large",
            Self::Unauthenticated(_) => "jwt_authn_access_denied",
        }
    }

    /// True if the endpoint, its node or the way there failed.
    #[must_use]
    pub fn is_endpoints_fault(self) -> bool {
        self.answer().fault == Fault::Upstream
    }

    /// The gRPC status that tells of it.
    #[must_use]
    pub const fn grpc_status(self) -> u8 {
        if let Self::AbortGrpc(status) = self { status } else { grpc_status(self.answer().status) }
    }

    /// What the retry words may match, `None` where no retry may ever help.
    #[must_use]
    pub const fn outcome(self) -> Option<Outcome> {
        match self {
            Self::ConnectFailure => Some(Outcome::ConnectFailure),
            Self::ResetBeforeRequest => Some(Outcome::ResetBeforeRequest),
            Self::ConnectionTermination | Self::UpstreamProtocol => Some(Outcome::Reset),
            Self::RefusedStream => Some(Outcome::RefusedStream),
            Self::PerTryTimeout => Some(Outcome::PerTryTimeout),
            Self::BadRequest(_)
            | Self::HeadersTooLarge
            | Self::UriTooLong
            | Self::OldVersion
            | Self::Unsupported(_)
            | Self::RequestTimeout
            | Self::NoRoute
            | Self::Misdirected
            | Self::ForeignHost
            | Self::NotInRegistry
            | Self::NoCluster
            | Self::NoRewrite
            | Self::NoHealthy
            | Self::Unresolved
            | Self::Overflow
            | Self::NoWebSocket
            | Self::RouteTimeout
            | Self::Abort(_)
            | Self::AbortGrpc(_)
            | Self::NoIdentity
            | Self::Draining
            | Self::NotServedHere
            | Self::PlaintextRefused
            | Self::Denied
            | Self::RateLimited
            | Self::DeniedOutside
            | Self::NoVerdict(_)
            | Self::BodyTooLarge
            | Self::Unauthenticated(_) => None,
        }
    }
}

const OLD_VERSION: &str = "HTTP/1.0 is not served; use HTTP/1.1";
const FOREIGN: &str = "this address is for names of the mesh, and the Host is none: see [dns] any_host";
const REWRITE: &str = "the rewrite makes no path";
const ABORT: &str = "fault filter abort";
const PLAINTEXT: &str = "mutual TLS is required";
const DENIED: &str = "RBAC: access denied";
const CONNECT: &str =
    "upstream connect error or disconnect/reset before headers. reset reason: remote connection failure";
const UNRESOLVED: &str = "DNS resolution failure";
const OVERFLOW: &str = "upstream connect error or disconnect/reset before headers. reset reason: overflow";
const TERMINATION: &str =
    "upstream connect error or disconnect/reset before headers. reset reason: connection termination";
const RESET: &str = "upstream connect error or disconnect/reset before headers. reset reason: remote reset";
const PROTOCOL: &str = "upstream connect error or disconnect/reset before headers. reset reason: protocol error";

const NO_WEBSOCKET: &str =
    "the application's port speaks HTTP/2 and does not offer extended CONNECT (RFC 8441), by which it has WebSockets";

const fn status_of(number: u16) -> StatusCode {
    match StatusCode::from_u16(number) {
        Ok(status) => status,
        Err(_) => StatusCode::SERVICE_UNAVAILABLE,
    }
}

/// The gRPC status that tells of an HTTP status (gRPC's `http-grpc-status-mapping.md`).
pub(super) const fn grpc_status(status: StatusCode) -> u8 {
    match status.as_u16() {
        200 => 0,
        400 | 431 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502..=504 => 14,
        _ => 2,
    }
}

/// The HTTP status that tells of a gRPC status (Envoy's `grpcToHttpStatus`).
pub(super) const fn grpc_to_http(status: u8) -> u16 {
    match status {
        0 => 200,
        1 => 499,
        3 | 9 | 11 => 400,
        4 => 504,
        5 => 404,
        6 | 10 => 409,
        7 => 403,
        8 => 429,
        12 => 501,
        14 => 503,
        16 => 401,
        _ => 500,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every cause: status, flag, whose fault, gRPC status, and what retry words see.
    #[test]
    fn the_whole_table() {
        use Fault::{Client, Node, Policy, Upstream};
        let expired = Cause::Unauthenticated(token::Refusal::Expired);
        let all = [
            (Cause::BadRequest("x"), 400, "DPE", Client, 13, None),
            (Cause::HeadersTooLarge, 431, "DPE", Client, 13, None),
            (Cause::UriTooLong, 414, "DPE", Client, 2, None),
            (Cause::OldVersion, 426, "-", Client, 2, None),
            (Cause::Unsupported("x"), 501, "DPE", Client, 2, None),
            (Cause::RequestTimeout, 408, "SI", Client, 2, None),
            (Cause::NoRoute, 404, "NR", Policy, 12, None),
            (Cause::Misdirected, 421, "NR", Client, 2, None),
            (Cause::ForeignHost, 421, "NR", Client, 2, None),
            (Cause::NotInRegistry, 502, "-", Policy, 14, None),
            (Cause::NoCluster, 503, "NC", Policy, 14, None),
            (Cause::NoRewrite, 500, "-", Policy, 2, None),
            (Cause::NoHealthy, 503, "UH", Upstream, 14, None),
            (Cause::Unresolved, 503, "DF", Upstream, 14, None),
            (Cause::ConnectFailure, 503, "UF", Upstream, 14, Some(Outcome::ConnectFailure)),
            (Cause::Overflow, 503, "UO", Node, 14, None),
            (Cause::ResetBeforeRequest, 503, "UC", Upstream, 14, Some(Outcome::ResetBeforeRequest)),
            (Cause::ConnectionTermination, 503, "UC", Upstream, 14, Some(Outcome::Reset)),
            (Cause::RefusedStream, 503, "UR", Upstream, 14, Some(Outcome::RefusedStream)),
            (Cause::UpstreamProtocol, 502, "UPE", Upstream, 14, Some(Outcome::Reset)),
            (Cause::NoWebSocket, 502, "UPE", Policy, 14, None),
            (Cause::RouteTimeout, 504, "UT", Upstream, 14, None),
            (Cause::PerTryTimeout, 504, "UT", Upstream, 14, Some(Outcome::PerTryTimeout)),
            (Cause::Abort(418), 418, "FI", Policy, 2, None),
            (Cause::AbortGrpc(5), 404, "FI", Policy, 5, None),
            (Cause::NoIdentity, 503, "UF", Node, 14, None),
            (Cause::Draining, 503, "-", Node, 14, None),
            (Cause::NotServedHere, 404, "NR", Upstream, 12, None),
            (Cause::PlaintextRefused, 403, "NR", Client, 7, None),
            (Cause::Denied, 403, "-", Client, 7, None),
            (Cause::RateLimited, 429, "RL", Client, 14, None),
            (Cause::DeniedOutside, 403, "UAEX", Client, 7, None),
            (Cause::NoVerdict(500), 500, "UAEX", Policy, 2, None),
            (Cause::BodyTooLarge, 413, "-", Client, 2, None),
            (expired, 401, "-", Client, 16, None),
        ];
        for (cause, status, flags, fault, grpc, outcome) in all {
            let answer = cause.answer();
            let row = (answer.status.as_u16(), answer.flags.to_string(), answer.fault, cause.grpc_status());
            assert_eq!(row, (status, flags.to_owned(), fault, grpc), "{cause:?}");
            assert_eq!(cause.outcome(), outcome, "{cause:?}");
            assert!(!cause.details().is_empty() && !cause.details().contains(' '), "{cause:?}");
        }
        let kinds: std::collections::HashSet<_> = all.iter().map(|row| std::mem::discriminant(&row.0)).collect();
        assert_eq!(kinds.len(), all.len(), "each has one row");
    }

    #[test]
    fn overload_is_never_retried() {
        assert_eq!(Cause::Overflow.outcome(), None);
        assert_eq!(Cause::RouteTimeout.outcome(), None);
        assert!(!Cause::Denied.is_endpoints_fault() && !Cause::RateLimited.is_endpoints_fault());
    }
}
