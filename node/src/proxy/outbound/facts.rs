//! What formatters in header operations may ask about a request.

use http::{HeaderMap, StatusCode, Version};
use policy::headers::{Facts, Word};
use std::net::SocketAddr;

/// One request and, once there is one, its response.
#[derive(Clone, Copy)]
pub(super) struct RequestFacts<'a> {
    pub(super) headers: &'a HeaderMap,
    pub(super) version: Version,
    pub(super) remote: SocketAddr,
    pub(super) local_port: u16,
    /// The endpoint's address, once chosen.
    pub(super) upstream: Option<SocketAddr>,
    pub(super) route: &'a str,
    pub(super) response: Option<(StatusCode, &'a HeaderMap)>,
}

impl Facts for RequestFacts<'_> {
    fn request_header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    fn response_header(&self, name: &str) -> Option<&str> {
        self.response?.1.get(name)?.to_str().ok()
    }

    fn word(&self, word: Word) -> Option<String> {
        match word {
            Word::DownstreamRemoteAddress => Some(self.remote.to_string()),
            Word::DownstreamRemoteAddressWithoutPort => Some(self.remote.ip().to_string()),
            Word::DownstreamLocalAddress => Some(format!("{}:{}", self.remote.ip(), self.local_port)),
            Word::DownstreamLocalAddressWithoutPort => Some(self.remote.ip().to_string()),
            Word::UpstreamHost | Word::UpstreamRemoteAddress => self.upstream.map(|address| address.to_string()),
            Word::Protocol => Some(format!("{:?}", self.version)),
            Word::StartTime => jiff::Timestamp::from_millisecond(i64::try_from(crate::clock::wall()).ok()?)
                .ok()
                .map(|time| format!("{time:.3}")),
            Word::Hostname => nix::unistd::gethostname().ok()?.into_string().ok(),
            Word::ResponseCode => self.response.map(|(status, _)| status.as_u16().to_string()),
            Word::RouteName => Some(self.route.to_owned()),
        }
    }
}
