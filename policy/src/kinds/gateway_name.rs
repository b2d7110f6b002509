//! The names under `gateways`: which proxies use a rule.

use crate::{codes, decode::At, hosts};

/// An entry of `gateways`, with the namespace filled in.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GatewayName {
    /// `mesh`: the proxies of callers.
    Mesh,
    /// Nodes at the edge that a Gateway document selects.
    Gateway {
        /// The Gateway's namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
}

impl GatewayName {
    /// The names of a list; a bare one is of the document's own namespace.
    pub(super) fn decode_list(at: &At<'_>, own: &str) -> Vec<Self> {
        at.text_list().iter().filter_map(|(text, at)| Self::decode(text, at, own)).collect()
    }

    fn decode(text: &str, at: &At<'_>, own: &str) -> Option<Self> {
        if text == "mesh" {
            return Some(Self::Mesh);
        }
        let (namespace, name) = match text.split_once('/') {
            Some((namespace, name)) => (namespace, name),
            None if !hosts::is_dns_name(text) => {
                at.error(codes::GATEWAY_NAME, format!("`{text}` is not the name of a Gateway"));
                return None;
            }
            None => match text.split_once('.') {
                None => (own, text),
                Some((name, rest)) => {
                    let namespace = rest.split('.').next().unwrap_or(rest);
                    let hint = format!("write {namespace}/{name}");
                    at.warn(codes::DEPRECATED, "the name of a Gateway in dots is a form of the past", hint);
                    (namespace, name)
                }
            },
        };
        for (part, says) in [(namespace, "namespace"), (name, "gateway name")] {
            if !hosts::is_dns_label(part) {
                at.error_as_istio(
                    codes::GATEWAY_NAME,
                    format!("invalid value for {says}: \"{part}\""),
                    "write NAMESPACE/NAME",
                );
                return None;
            }
        }
        Some(Self::Gateway { namespace: namespace.to_owned(), name: name.to_owned() })
    }
}

impl std::fmt::Display for GatewayName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Mesh => f.write_str("mesh"),
            Self::Gateway { namespace, name } => write!(f, "{namespace}/{name}"),
        }
    }
}
