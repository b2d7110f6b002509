//! Why a stream to another node failed, and how far its request had come.

use std::{fmt, io, net::SocketAddr, sync::Arc, time::Duration};

use certs::id::SpiffeId;

/// A failure between two nodes. Each variant says how far the request had come.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// This node shows no certificate of the source: not granted, or not issued yet. Nothing was sent.
    #[error("this node has no identity {0}")]
    NoIdentity(SpiffeId),
    /// This node is stopping. Nothing was sent.
    #[error("this node is stopping")]
    Stopping,
    /// A limit of this node was reached and its queue is full, or waiting in it took too long. Nothing was sent.
    #[error("too many {0}")]
    Overflow(Limit),
    /// No connection came about. Nothing was sent.
    #[error("no connection to {node} at {address}: {reason}")]
    Connect {
        /// The node that it should have led to.
        node: Arc<str>,
        /// The address that was dialled.
        address: SocketAddr,
        /// What happened.
        reason: Arc<str>,
    },
    /// Whoever answered is not who was expected. Nothing was sent.
    #[error("the peer at {address} is {found}, not {expected}")]
    WrongPeer {
        /// The address that was dialled.
        address: SocketAddr,
        /// Identity and node that were expected.
        expected: Arc<str>,
        /// Identity and node that the certificate proves.
        found: Arc<str>,
    },
    /// The node that was dialled hung up without a word: this node's certificate does not count there.
    #[error("{node} at {address} refuses this node: {reason}")]
    Unwelcome {
        /// The node.
        node: certs::id::NodeId,
        /// The address that was dialled.
        address: SocketAddr,
        /// What it said.
        reason: Arc<str>,
    },
    /// The virtual connection ended before a byte of the request was written.
    #[error("the connection ended before the request was sent: {0}")]
    NeverSent(Arc<str>),
    /// The peer says that it read nothing of the request.
    #[error("the peer refused the stream unread")]
    Refused,
    /// The peer or the way to it went away after something was sent and before a response came.
    #[error("reset before the response: {0}")]
    ResetBefore(Arc<str>),
    /// The peer or the way to it went away within the response.
    #[error("reset within the response: {0}")]
    ResetAfter(Arc<str>),
    /// What came back breaks HTTP's rules.
    #[error("not a valid response: {0}")]
    Protocol(Arc<str>),
    /// The body of the request failed on our side; the peer saw a reset.
    #[error("the request's body failed: {0}")]
    RequestBody(Arc<str>),
}

/// A limit of this node on what leads to other nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// Requests that a worker has under way to one identity of a node.
    Requests,
    /// Those that wait for it.
    Waiting,
    /// Streams of the connections there.
    Streams,
    /// Data connections that the node dials, all workers together.
    Connections,
    /// File descriptors that are left for connections.
    Descriptors,
}

impl Limit {
    /// All of them.
    pub const ALL: [Limit; 5] =
        [Limit::Requests, Limit::Waiting, Limit::Streams, Limit::Connections, Limit::Descriptors];

    /// As metrics name it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Limit::Requests => "requests",
            Limit::Waiting => "waiting",
            Limit::Streams => "streams",
            Limit::Connections => "connections",
            Limit::Descriptors => "descriptors",
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Limit::Requests => "requests under way to one identity of a node",
            Limit::Waiting => "waiting requests",
            Limit::Streams => "streams",
            Limit::Connections => "data connections",
            Limit::Descriptors => "file descriptors",
        })
    }
}

/// Codes that travel in QUIC's CONNECTION_CLOSE, RESET_STREAM and STOP_SENDING, and as the status byte of TLS/TCP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Code {
    /// An orderly end.
    Done = 0,
    /// Nothing of the stream was read: the request may be retried elsewhere.
    Refused = 1,
    /// Given up in the middle.
    Aborted = 2,
    /// The peer is not, or no longer, who may speak here.
    Unauthorized = 3,
    /// The member is believed to be gone.
    Gone = 4,
    /// A certificate of the path has ended.
    Expired = 5,
    /// Bytes that break the protocol.
    Malformed = 6,
    /// The node is stopping.
    Stopping = 7,
    /// The node has stopped, and the peer has every answer: what had none was never read.
    Drained = 8,
}

impl Code {
    /// The code of a number; unknown ones mean that the peer gave up.
    #[must_use]
    pub fn from_number(number: u64) -> Code {
        use Code::{Aborted, Done, Drained, Expired, Gone, Malformed, Refused, Stopping, Unauthorized};
        let all = [Done, Refused, Aborted, Unauthorized, Gone, Expired, Malformed, Stopping, Drained];
        all.into_iter().find(|code| u64::from(*code as u8) == number).unwrap_or(Aborted)
    }

    /// As QUIC carries it.
    pub(crate) fn varint(self) -> quinn::VarInt {
        quinn::VarInt::from_u32(u32::from(self as u8))
    }
}

/// The end of a stream by a code, as the source of an [`io::Error`] of kind `ConnectionReset`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("reset by {by} ({code:?})")]
pub struct Reset {
    /// `peer` or `this node`.
    pub by: &'static str,
    /// Why.
    pub code: Code,
}

impl From<Reset> for io::Error {
    fn from(reset: Reset) -> io::Error {
        io::Error::new(io::ErrorKind::ConnectionReset, reset)
    }
}

/// Why a link does not take or bring something.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// The link is closed.
    #[error("the link is closed: {0}")]
    Closed(String),
    /// Its queue is full: the peer reads too slowly.
    #[error("the link's queue is full")]
    Full,
    /// Longer than the limit, bytes.
    #[error("{0} bytes are too many")]
    TooLong(usize),
    /// No reply in time.
    #[error("no reply within {0:?}")]
    Timeout(Duration),
    /// The peer knows no such request, or gave it up.
    #[error("the peer refused the request")]
    Refused,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_survive_the_wire_and_unknown_ones_mean_aborted() {
        assert_eq!(Code::from_number(Code::Refused.varint().into_inner()), Code::Refused);
        assert_eq!(Code::from_number(Code::Stopping as u64), Code::Stopping);
        assert_eq!(Code::from_number(Code::Drained as u64), Code::Drained);
        assert_eq!(Code::from_number(1 << 40), Code::Aborted);
    }
}
