//! What formatters in header operations may ask about a request.

use crate::telemetry::protocol_name;
use certs::codec::Millis;
use http::{HeaderMap, HeaderValue, StatusCode, request::Parts};
use policy::{
    headers::{Facts, Word},
    operator::TimeFormat,
};
use std::{borrow::Cow, net::SocketAddr};

/// One request and, once there is one, its response.
#[derive(Clone)]
pub(super) struct RequestFacts<'a> {
    /// As it came, without hop-by-hop headers.
    pub(super) head: &'a Parts,
    /// Its authority, as sent.
    pub(super) host: &'a HeaderValue,
    pub(super) remote: SocketAddr,
    /// Where it came in.
    pub(super) local: SocketAddr,
    /// When it came, wall time.
    pub(super) came: Millis,
    /// The endpoint's address, once chosen.
    pub(super) upstream: Option<SocketAddr>,
    pub(super) route: Cow<'a, str>,
    pub(super) scheme: &'static str,
    pub(super) response: Option<(StatusCode, &'a HeaderMap)>,
}

impl RequestFacts<'_> {
    fn began(&self) -> Option<jiff::Timestamp> {
        jiff::Timestamp::from_millisecond(i64::try_from(self.came).ok()?).ok()
    }
}

impl Facts for RequestFacts<'_> {
    fn request_header(&self, name: &str) -> Option<Cow<'_, str>> {
        match name {
            ":authority" | "host" => Some(text(self.host)),
            ":method" => Some(self.head.method.as_str().into()),
            ":path" => self.head.uri.path_and_query().map(|path| path.as_str().into()),
            ":scheme" => Some(self.scheme.into()),
            _ => self.head.headers.get(name).map(text),
        }
    }

    fn response_header(&self, name: &str) -> Option<Cow<'_, str>> {
        self.response?.1.get(name).map(text)
    }

    fn start_time(&self, format: &TimeFormat) -> Option<String> {
        Some(self.began()?.strftime(format.as_str()).to_string())
    }

    fn word(&self, word: Word) -> Option<String> {
        match word {
            Word::DownstreamRemoteAddress => Some(self.remote.to_string()),
            Word::DownstreamRemoteAddressWithoutPort => Some(self.remote.ip().to_string()),
            // Behind a proxy that is believed the client has no port that anybody knows.
            Word::DownstreamRemotePort => {
                Some(self.remote.port()).filter(|port| *port > 0).map(|port| port.to_string())
            }
            Word::DownstreamLocalAddress => Some(self.local.to_string()),
            Word::DownstreamLocalAddressWithoutPort => Some(self.local.ip().to_string()),
            Word::UpstreamHost | Word::UpstreamRemoteAddress => self.upstream.map(|address| address.to_string()),
            Word::DownstreamLocalPort => Some(self.local.port().to_string()),
            Word::UpstreamRemoteAddressWithoutPort => self.upstream.map(|address| address.ip().to_string()),
            Word::UpstreamRemotePort => self.upstream.map(|address| address.port().to_string()),
            Word::Protocol => Some(protocol_name(self.head.version).to_owned()),
            Word::StartTime => self.began().map(|time| format!("{time:.3}")),
            Word::Hostname => nix::unistd::gethostname().ok()?.into_string().ok(),
            Word::ResponseCode => self.response.map(|(status, _)| status.as_u16().to_string()),
            Word::RouteName => Some(self.route.clone().into_owned()),
        }
    }
}

/// What is no text is shown as far as it is one, as in logs: an operation that was left out would leave what the client sent.
fn text(value: &HeaderValue) -> Cow<'_, str> {
    String::from_utf8_lossy(value.as_bytes())
}
