//! Where a listener or an endpoint is: an IP address or a Unix socket.

use std::net::IpAddr;

use crate::{codes, decode::At};

/// How the address of a Unix socket begins.
const SCHEME: &str = "unix://";
/// Bytes of a Unix socket's path at most: what the kernel takes.
const MAX_SOCKET_PATH: usize = 107;

/// A Unix socket, `unix:///path/of/socket` or `unix://@name`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum UnixSocket {
    /// An absolute path.
    Path(String),
    /// A name in Linux's abstract namespace, without its `@`.
    Abstract(String),
}

impl UnixSocket {
    /// True if the text means a Unix socket, valid or not.
    pub(super) fn is_meant(text: &str) -> bool {
        text.starts_with(SCHEME)
    }

    /// Reads an address for which [`UnixSocket::is_meant`] holds.
    pub(super) fn decode(at: &At<'_>, text: &str) -> Option<Self> {
        let path = text.strip_prefix(SCHEME).unwrap_or(text);
        if path.len() > MAX_SOCKET_PATH {
            at.error(codes::ADDRESS, format!("the path of a Unix socket has at most {MAX_SOCKET_PATH} bytes"));
            return None;
        }
        if let Some(name) = path.strip_prefix('@').filter(|name| !name.is_empty()) {
            return Some(Self::Abstract(name.to_owned()));
        }
        if path.is_empty() {
            at.error_as_istio(codes::ADDRESS, "unix address must not be empty", "write unix:///path/of/socket");
            return None;
        }
        if !path.starts_with('/') || path.ends_with('/') {
            let message = format!("{path} is not an absolute path to a file");
            at.error_as_istio(codes::ADDRESS, message, "write unix:///path/of/socket or unix://@name");
            return None;
        }
        Some(Self::Path(path.to_owned()))
    }
}

/// Where a listener is bound.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Bind {
    /// An address of the machine; the port stands beside it.
    Ip(IpAddr),
    /// A socket, which has no port.
    Unix(UnixSocket),
}

impl Bind {
    pub(super) fn decode(at: &At<'_>, text: &str) -> Option<Self> {
        if UnixSocket::is_meant(text) {
            return UnixSocket::decode(at, text).map(Self::Unix);
        }
        decode_ip(at, text).map(Self::Ip)
    }
}

/// An IP address without port.
pub(super) fn decode_ip(at: &At<'_>, text: &str) -> Option<IpAddr> {
    let address = text.parse().ok();
    if address.is_none() {
        at.error_as_istio(codes::ADDRESS, format!("{text} is not a valid IP"), "");
    }
    address
}
