//! A collector that the node calls by itself.

use http::{HeaderName, HeaderValue};
use policy::kinds::{Collector, CollectorPlace, ExportHeader, ExportProtocol, HeaderSource};
use std::{path::PathBuf, time::Duration};

/// Where exports go, and how.
#[derive(Clone, PartialEq)]
pub(super) struct Target {
    /// A name or address.
    pub(super) host: String,
    /// Its port.
    pub(super) port: u16,
    /// Over TLS.
    pub(super) is_tls: bool,
    /// A file of authorities, instead of the machine's own list.
    pub(super) authorities: Option<PathBuf>,
    /// Of OTLP/HTTP; `None` is OTLP/gRPC.
    pub(super) path: Option<String>,
    /// Further headers; they may hold secrets.
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    /// For the whole answer.
    pub(super) timeout: Duration,
    /// Messages are compressed by gzip.
    pub(super) gzip: bool,
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Target").field("host", &self.host).field("port", &self.port).finish_non_exhaustive()
    }
}

impl Target {
    /// As policy names it; `None` for a service of the mesh.
    pub(super) fn of(collector: &Collector, variable: impl Fn(&str) -> Option<String>) -> Option<Self> {
        let CollectorPlace::Host(host) = &collector.place else { return None };
        Some(Self {
            host: host.clone(),
            port: collector.port,
            is_tls: false,
            authorities: None,
            path: path(&collector.protocol),
            headers: headers(&collector.headers, variable),
            timeout: collector.timeout,
            gzip: false,
        })
    }
}

/// Where OTLP/HTTP goes.
pub(super) fn path(protocol: &ExportProtocol) -> Option<String> {
    match protocol {
        ExportProtocol::Grpc => None,
        ExportProtocol::Http(path) => Some(path.clone()),
    }
}

/// A variable that is not set, or holds what no header can, leaves its header out.
pub(super) fn headers(
    headers: &[ExportHeader],
    variable: impl Fn(&str) -> Option<String>,
) -> Vec<(HeaderName, HeaderValue)> {
    let value = |header: &ExportHeader| match &header.value {
        HeaderSource::Value(value) => Some(value.clone()),
        HeaderSource::Variable(name) => variable(name).and_then(|text| HeaderValue::from_str(&text).ok()),
    };
    headers.iter().filter_map(|header| Some((header.name.clone(), value(header)?))).collect()
}
