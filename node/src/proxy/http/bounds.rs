//! What one connection may ask of this node: sizes of heads, pauses, what HTTP/2 may reset. Policy says it (`MeshConfig.limits`); a
//! connection keeps what held when it was accepted, and ends after the requests under way when that changes.

use super::head::{is_connect_stream, is_grpc};
use http::HeaderMap;
use policy::kinds::Limits;
use std::time::Duration;

/// Header lines that a calling node's proxy and its routes may add to those of the application.
const ADDED_LINES: usize = 32;
/// Bytes of them.
const ADDED_BYTES: usize = 8 * 1024;
/// Bytes that a local application may send on one HTTP/2 stream before anybody takes them.
const LOCAL_WINDOW: u32 = 64 * 1024;
/// The same of another node, which may be far: a stream of its connection has one request at a time.
const REMOTE_WINDOW: u32 = 1024 * 1024;
/// A window is at most such a part of what the node has room for.
const WINDOW_SHARE: usize = 64;
/// Streams at once on an HTTP/2 connection of another node: it has one request at a time, and its end may overlap the next.
const REMOTE_STREAMS: u32 = 4;

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::proxy) struct Bounds {
    /// Bytes of a head: request line and header block.
    pub(in crate::proxy) head: usize,
    /// Header lines.
    pub(in crate::proxy) lines: usize,
    /// Bytes of a request target.
    pub(in crate::proxy) target: usize,
    /// Longest time from the first byte of a head to its last.
    pub(in crate::proxy) head_time: Duration,
    /// Shortest silence within a request's body after which it ends (it may last twice as long).
    pub(in crate::proxy) body_idle: Duration,
    /// The same of a whole connection, a response or a tunnel.
    pub(in crate::proxy) idle: Duration,
    /// Concurrent streams of an HTTP/2 connection.
    pub(in crate::proxy) streams: u32,
    /// Streams that were reset before the proxy had noticed them.
    pub(in crate::proxy) pending_resets: usize,
    /// Streams that are reset within ten seconds.
    pub(in crate::proxy) resets: u32,
    /// Bytes of a stream that wait to be read.
    window: u32,
}

/// Shortest silence within a request's body, before there is an answer, after which it ends (it may last twice as long). A caller of
/// gRPC or of Connect's streams may be as quiet as any stream: what it sends is messages, and there may be none to send.
pub(in crate::proxy) fn patience(limits: &Limits, headers: &HeaderMap) -> Duration {
    let sends_messages = is_grpc(headers) || is_connect_stream(headers);
    if sends_messages { limits.stream_idle } else { limits.request_body_idle }
}

/// Who is at the other end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::proxy) enum Side {
    /// An application beside this node.
    Application,
    /// Another node.
    Node,
}

impl Bounds {
    /// Bytes of a stream of a new connection that may wait to be read: fewer while there is room for few on the node.
    pub(in crate::proxy) fn window(&self, left: usize) -> u32 {
        let share = u32::try_from(left / WINDOW_SHARE).unwrap_or(u32::MAX);
        self.window.min(share.max(LOCAL_WINDOW))
    }

    /// For whoever is there.
    pub(in crate::proxy) fn of(side: Side, limits: &Limits) -> Self {
        match side {
            Side::Application => Self::of_applications(limits),
            Side::Node => Self::of_nodes(limits),
        }
    }

    /// For applications beside this node.
    pub(in crate::proxy) fn of_applications(limits: &Limits) -> Self {
        Self {
            head: limits.header_bytes,
            lines: limits.headers,
            target: limits.uri_bytes,
            head_time: limits.header_timeout,
            body_idle: limits.request_body_idle,
            idle: limits.stream_idle,
            streams: limits.streams,
            pending_resets: usize::try_from(limits.pending_resets).unwrap_or(usize::MAX),
            resets: limits.resets,
            window: LOCAL_WINDOW,
        }
    }

    /// For other nodes: what they let through of their applications, with what they and their routes added, passes here too.
    pub(in crate::proxy) fn of_nodes(limits: &Limits) -> Self {
        let head = limits.header_bytes.saturating_add(ADDED_BYTES);
        let lines = limits.headers.saturating_add(ADDED_LINES);
        let own = Self::of_applications(limits);
        Self { head, lines, target: head, window: REMOTE_WINDOW, streams: own.streams.min(REMOTE_STREAMS), ..own }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderValue, header::CONTENT_TYPE};

    #[test]
    fn who_sends_messages_may_be_quiet() {
        let limits = Limits::default();
        let of = |kind| patience(&limits, &HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(kind))]));
        for kind in
            ["application/grpc", "application/grpc+proto", "application/connect+proto", "application/connect+json"]
        {
            assert_eq!(of(kind), limits.stream_idle, "{kind}");
        }
        for kind in ["application/proto", "application/json", "application/connect"] {
            assert_eq!(of(kind), limits.request_body_idle, "{kind}");
        }
        assert_eq!(patience(&limits, &HeaderMap::new()), limits.request_body_idle);
    }

    #[test]
    fn windows_shrink_with_what_is_left() {
        let limits = Limits::default();
        let (near, far) = (Bounds::of_applications(&limits), Bounds::of_nodes(&limits));
        assert_eq!((near.window(1 << 28), far.window(1 << 28)), (LOCAL_WINDOW, REMOTE_WINDOW));
        assert_eq!((near.window(1 << 24), far.window(1 << 24)), (LOCAL_WINDOW, 1 << 18));
        assert_eq!((near.window(0), far.window(0)), (LOCAL_WINDOW, LOCAL_WINDOW));
    }
}
