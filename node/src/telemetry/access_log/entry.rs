//! What the access log is told of a request or a connection.

use http::{HeaderMap, Method, Version};
use std::{
    borrow::Cow,
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

/// Most of what the transport said of a failure, bytes.
const REASON_LIMIT: usize = 1_024;

/// Whose part of a request's way a line is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogSide {
    /// The caller's node: from the application to an endpoint.
    Client,
    /// The node of the called: from the mesh to its application.
    Server,
}

/// An address; without a port where it would say nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The address.
    pub ip: IpAddr,
    /// The port.
    pub port: Option<u16>,
}

impl From<SocketAddr> for Place {
    fn from(address: SocketAddr) -> Self {
        Self { ip: address.ip(), port: Some(address.port()) }
    }
}

impl From<IpAddr> for Place {
    fn from(ip: IpAddr) -> Self {
        Self { ip, port: None }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => SocketAddr::new(self.ip, port).fmt(f),
            None => self.ip.fmt(f),
        }
    }
}

/// What is known of a request, or of a connection of bytes.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Whose line it is.
    pub side: LogSide,
    /// When its head came, or the connection, Unix time in microseconds.
    pub began: u64,
    /// The method; none of a connection of bytes, of which nothing is told that only a request has.
    pub method: Option<Method>,
    /// Path and query, as they came.
    pub path: String,
    /// The protocol's version.
    pub version: Version,
    /// By what the request came, as far as whoever brought it is believed: `http` or `https`.
    pub scheme: &'static str,
    /// The authority, as sent.
    pub authority: String,
    /// The headers: of a server's line as the application is given them.
    pub request: HeaderMap,
    /// The response's headers; none before it came.
    pub response: HeaderMap,
    /// Envoy's name of where the request goes, if that is known.
    pub cluster: Option<String>,
    /// Name of the route; empty for one without a name.
    pub route: String,
    /// The application or endpoint, if the request was sent there.
    pub upstream: Option<SocketAddr>,
    /// The labels of the endpoint, on its caller's side.
    pub upstream_labels: Option<Arc<BTreeMap<String, String>>>,
    /// Where the caller came in.
    pub local: Place,
    /// The calling node, or the application that calls.
    pub remote: Place,
    /// The caller's identity, if it came by mutual TLS.
    pub peer: Option<String>,
    /// The server name by which it called.
    pub server_name: Option<String>,
    /// Envoy's details of an answer that the proxy gave; of a connection of bytes those of its end.
    pub details: Option<Cow<'static, str>>,
    /// What the transport said where no connection to the application or endpoint came about, or where one broke.
    pub transport_failure: Option<Box<str>>,
    /// Bytes of the request's body, or from the caller.
    pub received: u64,
    /// Bytes of the response's body, or to the caller.
    pub sent: u64,
    /// From the request's head to the response's.
    pub answered_after: Option<Duration>,
}

impl Entry {
    /// Of a connection of bytes that came at this time, before anything is known of it.
    #[must_use]
    pub fn of_connection(side: LogSide, began: u64) -> Self {
        let nowhere = Place { ip: IpAddr::V4(Ipv4Addr::UNSPECIFIED), port: None };
        Self {
            side,
            began,
            method: None,
            path: String::new(),
            version: Version::default(),
            scheme: "http",
            authority: String::new(),
            request: HeaderMap::new(),
            response: HeaderMap::new(),
            cluster: None,
            route: String::new(),
            upstream: None,
            upstream_labels: None,
            local: nowhere,
            remote: nowhere,
            peer: None,
            server_name: None,
            details: None,
            transport_failure: None,
            received: 0,
            sent: 0,
            answered_after: None,
        }
    }

    /// Notes what the transport said of a failure, as much as is told: the other end may have said anything.
    pub fn transport_said(&mut self, reason: Option<Box<str>>) {
        self.transport_failure = reason.map(|said| match said.len() {
            0..=REASON_LIMIT => said,
            _ => said[..said.floor_char_boundary(REASON_LIMIT)].into(),
        });
    }
}
