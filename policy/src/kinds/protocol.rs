//! What a port of a ServiceEntry, Gateway or Sidecar is declared to speak.

use crate::{codes, decode::Fields};

/// `protocol` of a port; written in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PortProtocol {
    /// `HTTP`: HTTP/1.1.
    Http,
    /// `HTTP2`, without TLS.
    Http2,
    /// `HTTP_PROXY`: applications send requests for any host here; for a Sidecar's egress.
    HttpProxy,
    /// `GRPC`.
    Grpc,
    /// `GRPC-WEB`.
    GrpcWeb,
    /// `HTTPS`.
    Https,
    /// `TLS`: any protocol inside TLS, told apart by SNI.
    Tls,
    /// `TCP`.
    Tcp,
    /// `MONGO`: as TCP.
    Mongo,
    /// `REDIS`: as TCP.
    Redis,
    /// `MYSQL`: as TCP.
    MySql,
    /// `UDP`: accepted, carries no traffic.
    Udp,
}

const WORDS: [(&str, PortProtocol); 12] = [
    ("HTTP", PortProtocol::Http),
    ("HTTP2", PortProtocol::Http2),
    ("HTTP_PROXY", PortProtocol::HttpProxy),
    ("GRPC", PortProtocol::Grpc),
    ("GRPC-WEB", PortProtocol::GrpcWeb),
    ("HTTPS", PortProtocol::Https),
    ("TLS", PortProtocol::Tls),
    ("TCP", PortProtocol::Tcp),
    ("MONGO", PortProtocol::Mongo),
    ("REDIS", PortProtocol::Redis),
    ("MYSQL", PortProtocol::MySql),
    ("UDP", PortProtocol::Udp),
];

impl PortProtocol {
    /// True for HTTP that no TLS hides.
    pub const fn carries_requests(self) -> bool {
        matches!(self, Self::Http | Self::Http2 | Self::HttpProxy | Self::Grpc | Self::GrpcWeb)
    }

    fn parse(word: &str) -> Option<Self> {
        WORDS.iter().find(|(known, _)| known.eq_ignore_ascii_case(word)).map(|(_, protocol)| *protocol)
    }

    /// `protocol` of a port where it may be left out; absent means that it is sniffed.
    pub(super) fn decode(fields: &Fields<'_>) -> Option<Self> {
        let (word, at) = fields.filled("protocol")?;
        let protocol = Self::parse(word);
        match protocol {
            None => at.error_as_istio(codes::PROTOCOL, format!("unsupported protocol: {word}"), HINT),
            Some(Self::GrpcWeb | Self::HttpProxy) => at.unbuilt(format!("the protocol {word} of a port")),
            Some(Self::Udp) => at.warn(codes::IGNORED, "a UDP port carries no traffic in this mesh", ""),
            Some(_) => {}
        }
        protocol
    }

    /// `protocol` of a Gateway's port, which must be there.
    pub(super) fn decode_required(fields: &Fields<'_>) -> Option<Self> {
        let Some((word, at)) = fields.filled("protocol") else {
            fields.at.error_as_istio(codes::PROTOCOL, "invalid protocol \"\"", HINT);
            return None;
        };
        let protocol = Self::parse(word);
        if protocol.is_none() {
            at.error_as_istio(codes::PROTOCOL, format!("invalid protocol {word:?}"), HINT);
        }
        protocol
    }

    /// The word of Istio's API.
    pub fn as_str(self) -> &'static str {
        WORDS.iter().find(|(_, known)| *known == self).map_or("", |(word, _)| word)
    }

    /// True if requests on the port are routed as HTTP without looking inside TLS.
    pub fn is_http(self) -> bool {
        match self {
            Self::Http | Self::Http2 | Self::HttpProxy | Self::Grpc | Self::GrpcWeb => true,
            Self::Https | Self::Tls | Self::Tcp | Self::Mongo | Self::Redis | Self::MySql | Self::Udp => false,
        }
    }

    /// True if connections to the port start with TLS.
    pub fn is_tls(self) -> bool {
        matches!(self, Self::Https | Self::Tls)
    }

    /// True if connections to the port are forwarded as bytes, TLS included.
    pub fn is_tcp(self) -> bool {
        !self.is_http() && self != Self::Udp
    }
}

impl std::fmt::Display for PortProtocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(WORDS.iter().find(|(_, protocol)| protocol == self).map_or("", |(word, _)| word))
    }
}

const HINT: &str = "HTTP, HTTP2, HTTPS, GRPC, GRPC-WEB, TLS, TCP, MONGO, REDIS, MYSQL";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_in_any_case() {
        assert_eq!(PortProtocol::parse("gRPC-Web"), Some(PortProtocol::GrpcWeb));
        assert_eq!(PortProtocol::parse("http_proxy"), Some(PortProtocol::HttpProxy));
        assert_eq!(PortProtocol::parse("quic"), None);
        for (word, protocol) in WORDS {
            let classes = [protocol.is_http(), protocol.is_tcp(), protocol == PortProtocol::Udp];
            assert_eq!(classes.iter().filter(|class| **class).count(), 1, "{word}");
            assert!(!protocol.is_tls() || protocol.is_tcp(), "{word}");
        }
    }
}
