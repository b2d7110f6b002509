//! What stands before gateways: Istio's `defaultConfig.gatewayTopology`.

use std::net::IpAddr;

use crate::{
    codes,
    decode::{At, Fields},
    kinds::Subnet,
};

/// `gatewayTopology`: what gateways believe of what stands before them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GatewayTopology {
    /// Proxies of one's own between clients and gateways: so many addresses at the end of `x-forwarded-for` are believed. 0: the
    /// address of the connection is the client's.
    pub trusted_proxies: usize,
    /// What becomes of `x-forwarded-client-cert`.
    pub client_cert: ForwardClientCert,
    /// Every connection to a gateway begins with a header of the PROXY protocol, which names the client. `None`: none does.
    pub proxy_protocol: Option<Balancers>,
}

/// Whose word the header of the PROXY protocol is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Balancers {
    /// From where balancers connect; none means from anywhere.
    pub trusted: Vec<Subnet>,
}

impl Balancers {
    /// True if what connects from there is believed.
    pub fn trusts(&self, from: IpAddr) -> bool {
        self.trusted.is_empty() || self.trusted.iter().any(|block| block.contains(from.to_canonical()))
    }

    fn decode(at: &At<'_>) -> Option<Self> {
        let fields = at.fields()?;
        // Istio's has no fields.
        let list = fields.get("trustedIpBlocks");
        let trusted = list.as_ref().map(Subnet::decode_list);
        if let Some(list) = list.filter(|_| trusted.as_ref().is_some_and(Vec::is_empty)) {
            list.error_hint(codes::EMPTY, "an empty list trusts nobody", "leave it out to believe whoever connects");
        }
        fields.finish();
        Some(Self { trusted: trusted.unwrap_or_default() })
    }
}

/// `ForwardClientCertDetails`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum ForwardClientCert {
    /// What a client sends is dropped, and nothing is told.
    Sanitize,
    /// What a client with a certificate sends is passed on.
    ForwardOnly,
    /// What a client with a certificate sends is passed on, and the certificate is told after it.
    AppendForward,
    /// What a client sends is dropped, and its certificate is told. The default.
    #[default]
    SanitizeSet,
    /// What any client sends is passed on.
    AlwaysForwardOnly,
}

const CLIENT_CERT: [(&str, ForwardClientCert); 6] = [
    ("UNDEFINED", ForwardClientCert::SanitizeSet),
    ("SANITIZE", ForwardClientCert::Sanitize),
    ("FORWARD_ONLY", ForwardClientCert::ForwardOnly),
    ("APPEND_FORWARD", ForwardClientCert::AppendForward),
    ("SANITIZE_SET", ForwardClientCert::SanitizeSet),
    ("ALWAYS_FORWARD_ONLY", ForwardClientCert::AlwaysForwardOnly),
];

/// Proxies that may stand one behind the other.
const MAX_PROXIES: i64 = 16;

impl GatewayTopology {
    /// `defaultConfig` of a MeshConfig; the rest of what Istio has there is of its own proxies.
    pub(super) fn decode(fields: &Fields<'_>) -> Self {
        let Some(config) = fields.get("defaultConfig") else { return Self::default() };
        let Some(config) = config.fields() else { return Self::default() };
        let topology = config.get("gatewayTopology").and_then(|topology| Self::decode_topology(&topology));
        config.finish();
        topology.unwrap_or_default()
    }

    fn decode_topology(at: &At<'_>) -> Option<Self> {
        let fields = at.fields()?;
        let proxies = fields.get("numTrustedProxies").and_then(|number| number.integer(0..=MAX_PROXIES));
        let client_cert = fields.get("forwardClientCertDetails").and_then(|word| word.word(&CLIENT_CERT));
        let proxy_protocol = fields.get("proxyProtocol").and_then(|proxied| Balancers::decode(&proxied));
        fields.finish();
        Some(Self {
            trusted_proxies: proxies.and_then(|number| usize::try_from(number).ok()).unwrap_or_default(),
            client_cert: client_cert.unwrap_or_default(),
            proxy_protocol,
        })
    }
}
