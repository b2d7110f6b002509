//! What an AuthorizationPolicy may look at: the keys of `when`, to which the fields of `source` and `operation` come down, too.

use std::fmt;

/// What a condition looks at.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Attribute {
    /// `source.principal`: the peer's identity, from its certificate only.
    Principal,
    /// `source.namespace`, from the identity.
    Namespace,
    /// `source.serviceAccount`, from the identity.
    ServiceAccount,
    /// `source.trustDomain`, from the identity.
    TrustDomain,
    /// `source.ip`: the peer's address.
    SourceIp,
    /// `remote.ip`: the original client's address, where a trusted peer tells it.
    RemoteIp,
    /// `destination.ip`.
    DestinationIp,
    /// `destination.port`: the workload's own port.
    DestinationPort,
    /// `connection.sni`.
    ServerName,
    /// `hosts` of an operation.
    Host,
    /// `methods` of an operation.
    Method,
    /// `paths` of an operation.
    Path,
    /// `request.headers[NAME]`, lower case; `:authority`, `:method`, `:path` and `:scheme` are the request's own.
    Header(String),
    /// `request.auth.principal`: issuer and subject of a verified token.
    RequestPrincipal,
    /// `request.auth.audiences`.
    Audience,
    /// `request.auth.presenter`: the claim `azp`.
    Presenter,
    /// `request.auth.claims[A][B]`.
    Claim(Vec<String>),
    /// `experimental.envoy.filters.NAME[KEY]`: what a filter of Envoy's said. There is no Envoy here.
    EnvoyFilter(String),
}

/// Keys without brackets.
const PLAIN: [(&str, Attribute); 12] = [
    ("source.principal", Attribute::Principal),
    ("source.namespace", Attribute::Namespace),
    ("source.serviceAccount", Attribute::ServiceAccount),
    ("source.trustDomain", Attribute::TrustDomain),
    ("source.ip", Attribute::SourceIp),
    ("remote.ip", Attribute::RemoteIp),
    ("destination.ip", Attribute::DestinationIp),
    ("destination.port", Attribute::DestinationPort),
    ("connection.sni", Attribute::ServerName),
    ("request.auth.principal", Attribute::RequestPrincipal),
    ("request.auth.audiences", Attribute::Audience),
    ("request.auth.presenter", Attribute::Presenter),
];

impl Attribute {
    /// Reads a key of `when`.
    ///
    /// # Errors
    /// What is wrong with it, in Istio's words.
    pub(crate) fn of_key(key: &str) -> Result<Self, String> {
        if let Some((_, attribute)) = PLAIN.iter().find(|(own, _)| *own == key) {
            return Ok(attribute.clone());
        }
        if let Some(rest) = key.strip_prefix("request.headers") {
            let name = bracketed(rest).ok_or_else(|| bad_key(key))?.to_ascii_lowercase();
            let pseudo = matches!(name.as_str(), ":authority" | ":method" | ":path" | ":scheme");
            if !pseudo && http::HeaderName::from_bytes(name.as_bytes()).is_err() {
                return Err(format!("`{name}` is not a header name"));
            }
            return Ok(Self::Header(name));
        }
        if let Some(rest) = key.strip_prefix("request.auth.claims") {
            let path: Vec<String> =
                bracketed(rest).ok_or_else(|| bad_key(key))?.split("][").map(str::to_owned).collect();
            return if path.iter().any(String::is_empty) { Err(bad_key(key)) } else { Ok(Self::Claim(path)) };
        }
        if key.starts_with("experimental.envoy.filters.") {
            let open = key.find('[').ok_or_else(|| bad_key(key))?;
            bracketed(&key[open..]).ok_or_else(|| bad_key(key))?;
            return Ok(Self::EnvoyFilter(key.to_owned()));
        }
        Err(match key {
            "destination.namespace" => format!("attribute {key} is replaced by the metadata.namespace"),
            "destination.name" | "destination.user" => {
                format!("deprecated attribute {key}: only supported in v1alpha1")
            }
            _ if key.starts_with("destination.labels") => {
                format!("attribute {key} is replaced by the workload selector")
            }
            _ => format!("unknown attribute: {key}"),
        })
    }

    /// How a key might have been meant that [`Attribute::of_key`] does not know.
    pub(super) fn hint(key: &str) -> String {
        let name = key.split('[').next().unwrap_or(key);
        match name {
            "destination.namespace" => return "leave it out: a policy is for workloads of its own namespace".into(),
            "destination.labels" | "destination.name" | "destination.user" => {
                return "leave it out, and write labels of workloads in `selector.matchLabels`".into();
            }
            _ => {}
        }
        let plain = || PLAIN.iter().map(|(own, _)| *own);
        match crate::decode::nearest(name, plain().chain(["request.headers", "request.auth.claims"])) {
            Some("request.headers") => "write request.headers[NAME], e.g. request.headers[x-user]".into(),
            Some("request.auth.claims") => "write request.auth.claims[NAME], of a nested claim [NAME][INNER]".into(),
            Some(near) => format!("did you mean `{near}`?"),
            None => {
                let forms = ["request.headers[NAME]", "request.auth.claims[NAME]"];
                format!("one of {}", plain().chain(forms).collect::<Vec<_>>().join(", "))
            }
        }
    }

    /// True if a TCP connection has it not.
    pub fn is_http(&self) -> bool {
        match self {
            Self::Host
            | Self::Method
            | Self::Path
            | Self::Header(_)
            | Self::RequestPrincipal
            | Self::Audience
            | Self::Presenter
            | Self::Claim(_) => true,
            Self::Principal
            | Self::Namespace
            | Self::ServiceAccount
            | Self::TrustDomain
            | Self::SourceIp
            | Self::RemoteIp
            | Self::DestinationIp
            | Self::DestinationPort
            | Self::ServerName
            | Self::EnvoyFilter(_) => false,
        }
    }

    /// True if it comes from a certificate or a token: CUSTOM may not look at these.
    pub(super) fn is_of_identity(&self) -> bool {
        match self {
            Self::Principal
            | Self::Namespace
            | Self::ServiceAccount
            | Self::TrustDomain
            | Self::RequestPrincipal
            | Self::Audience
            | Self::Presenter
            | Self::Claim(_) => true,
            Self::SourceIp
            | Self::RemoteIp
            | Self::DestinationIp
            | Self::DestinationPort
            | Self::ServerName
            | Self::Host
            | Self::Method
            | Self::Path
            | Self::Header(_)
            | Self::EnvoyFilter(_) => false,
        }
    }
}

/// The text of `[text]`.
fn bracketed(text: &str) -> Option<&str> {
    text.strip_prefix('[')?.strip_suffix(']').filter(|inner| !inner.is_empty())
}

fn bad_key(key: &str) -> String {
    format!("bad key ({key}): should have format a[b]")
}

impl fmt::Display for Attribute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((key, _)) = PLAIN.iter().find(|(_, own)| own == self) {
            return f.write_str(key);
        }
        match self {
            Self::Header(name) => write!(f, "request.headers[{name}]"),
            Self::Claim(path) => write!(f, "request.auth.claims[{}]", path.join("][")),
            Self::EnvoyFilter(key) => f.write_str(key),
            Self::Host => f.write_str("hosts"),
            Self::Method => f.write_str("methods"),
            Self::Path => f.write_str("paths"),
            Self::Principal
            | Self::Namespace
            | Self::ServiceAccount
            | Self::TrustDomain
            | Self::SourceIp
            | Self::RemoteIp
            | Self::DestinationIp
            | Self::DestinationPort
            | Self::ServerName
            | Self::RequestPrincipal
            | Self::Audience
            | Self::Presenter => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_go_there_and_back() {
        for key in PLAIN.iter().map(|(key, _)| *key).chain([
            "request.headers[x-a]",
            "request.headers[:authority]",
            "request.auth.claims[iss]",
            "request.auth.claims[a][b]",
            "experimental.envoy.filters.a.b[c]",
        ]) {
            assert_eq!(Attribute::of_key(key).unwrap().to_string(), key);
        }
        assert_eq!(Attribute::of_key("request.headers[X-A]"), Ok(Attribute::Header("x-a".into())));
    }

    #[test]
    fn keys_that_are_none() {
        for key in [
            "",
            "key1",
            "source.user",
            "request.headers",
            "request.headers[]",
            "request.headers[a b]",
            "request.headers[:status]",
            "request.auth.claims[]",
            "request.auth.claims[a][]",
            "destination.labels[app]",
            "destination.namespace",
            "destination.user",
            "experimental.envoy.filters.a",
        ] {
            assert!(Attribute::of_key(key).is_err(), "{key}");
        }
    }
}
