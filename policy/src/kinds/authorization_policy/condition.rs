//! A condition of an AuthorizationPolicy: an attribute, the values that it may have and those that it may not.

use super::{
    Attribute,
    pattern::{NamespacePattern, PathPattern, TextPattern, TokenPattern},
};
use crate::{codes, decode::At, hosts, kinds::Subnet};

/// Service accounts in one list at most, as in Istio.
const MAX_ACCOUNTS: usize = 16;

/// An attribute, the values that it may have and those that it may not.
#[derive(Debug, Clone, PartialEq)]
pub struct Condition {
    /// What is looked at.
    pub attribute: Attribute,
    /// One of them matches; empty is no condition.
    pub values: Vec<Value>,
    /// None of them matches; empty is no condition.
    pub not_values: Vec<Value>,
}

/// What an attribute is compared with; the variant follows from the attribute.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Most attributes. Hosts are in lower case.
    Text(TextPattern),
    /// [`Attribute::Namespace`].
    Namespace(NamespacePattern),
    /// [`Attribute::ServiceAccount`].
    Account {
        /// The document's own where none is written.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// [`Attribute::Path`].
    Path(PathPattern),
    /// Attributes that are addresses.
    Addresses(Subnet),
    /// [`Attribute::DestinationPort`].
    Port(u16),
    /// [`Attribute::RequestPrincipal`].
    Token(TokenPattern),
}

/// Reads the two lists of an attribute. `None` if both are absent or empty; `key` is what Istio calls the list.
pub(super) fn decode(
    attribute: &Attribute,
    values: Option<&At<'_>>,
    not_values: Option<&At<'_>>,
    key: &str,
    own_namespace: &str,
) -> Option<Condition> {
    let read = |list: Option<&At<'_>>, prefix: &str| {
        let Some(list) = list else { return Vec::new() };
        let items = list.text_list();
        if *attribute == Attribute::ServiceAccount && items.len() > MAX_ACCOUNTS {
            list.error(codes::PATTERN, format!("at most {MAX_ACCOUNTS} service accounts may stand in one list"));
        }
        let value = |(text, at): &(&str, At<'_>)| {
            if text.is_empty() {
                let message = format!("empty value not allowed, found in {prefix}{key}");
                at.error_as_istio(codes::EMPTY, message, "leave it out; `*` is any value that is not empty");
                return None;
            }
            match Value::read(attribute, text, own_namespace) {
                Ok(value) => {
                    warn_of_vain(attribute, text, at);
                    Some(value)
                }
                Err((code, message, hint)) => {
                    at.error_as_istio(code, message, hint);
                    None
                }
            }
        };
        items.iter().filter_map(value).collect()
    };
    let is_condition = key.contains('.');
    let values = read(values, "");
    let not_values = read(not_values, if is_condition { "" } else { "Not" });
    let condition = Condition { attribute: attribute.clone(), values, not_values };
    (!condition.values.is_empty() || !condition.not_values.is_empty()).then_some(condition)
}

/// Patterns that nothing meets. As DENY they protect nothing, which nobody would notice.
fn warn_of_vain(attribute: &Attribute, text: &str, at: &At<'_>) {
    if *attribute == Attribute::Principal && text.starts_with("spiffe://") {
        at.warn(codes::WITHOUT_EFFECT, "no principal begins with `spiffe://`", "leave it out");
    }
    if *attribute == Attribute::Method && text.bytes().any(|byte| byte.is_ascii_lowercase()) {
        let hint = format!("write {}", text.to_ascii_uppercase());
        at.warn(codes::WITHOUT_EFFECT, format!("no request has the method `{text}`"), hint);
    }
    let dots = text.split('/').any(|segment| matches!(segment, "." | ".."));
    if *attribute == Attribute::Path && (dots || text.contains("//") || text.contains('\\')) {
        let message = format!("paths are matched in normal form: no path is `{text}` unless MeshConfig says so");
        at.warn(codes::WITHOUT_EFFECT, message, "write it without `//`, `\\`, `.` and `..`");
    } else if *attribute == Attribute::Path && !text.starts_with(['/', '*']) {
        at.warn(codes::WITHOUT_EFFECT, format!("no path is `{text}`: each begins with `/`"), "");
    }
}

/// Code and message of a value that cannot be, and how to mend it.
type Bad = (&'static str, String, &'static str);

impl Value {
    fn read(attribute: &Attribute, text: &str, own_namespace: &str) -> Result<Self, Bad> {
        match attribute {
            Attribute::Principal
            | Attribute::ServerName
            | Attribute::Method
            | Attribute::Header(_)
            | Attribute::Audience
            | Attribute::Presenter
            | Attribute::Claim(_)
            | Attribute::EnvoyFilter(_) => Ok(Self::Text(TextPattern::new(text))),
            Attribute::Host => Ok(Self::Text(TextPattern::new(text).lower_case())),
            Attribute::TrustDomain => trust_domain(text).map(Self::Text),
            Attribute::Namespace => Ok(Self::Namespace(NamespacePattern::new(text))),
            Attribute::ServiceAccount => account(text, own_namespace),
            Attribute::Path => PathPattern::new(text).map(Self::Path).map_err(|error| (codes::PATTERN, error, "")),
            Attribute::RequestPrincipal => Ok(Self::Token(TokenPattern::new(text))),
            Attribute::SourceIp | Attribute::RemoteIp | Attribute::DestinationIp => {
                text.parse().map(Self::Addresses).map_err(|_| {
                    let what = if text.contains('/') { "bad CIDR range" } else { "bad IP address" };
                    (
                        codes::SUBNET,
                        format!("{what} ({text})"),
                        "write an address or a range, e.g. 10.0.0.7 or 10.0.0.0/8",
                    )
                })
            }
            Attribute::DestinationPort => {
                let digits = text.bytes().all(|byte| byte.is_ascii_digit());
                let port = text.parse().ok().filter(|_| digits);
                port.map(Self::Port).ok_or_else(|| {
                    (
                        codes::RANGE,
                        format!("bad port ({text})"),
                        "write one port as a number; several as items of the list",
                    )
                })
            }
        }
    }
}

fn trust_domain(text: &str) -> Result<TextPattern, Bad> {
    const HINT: &str = "write the domain alone, e.g. prod.example or *.example";
    if text.contains('/') {
        return Err((codes::PATTERN, format!("`{text}` is not a trust domain: it has a `/`"), HINT));
    }
    let inner = text.strip_prefix('*').or_else(|| text.strip_suffix('*')).unwrap_or(text);
    if inner.contains('*') {
        return Err((codes::PATTERN, format!("`{text}`: `*` may stand at one end of a trust domain only"), HINT));
    }
    Ok(TextPattern::new(text))
}

fn account(text: &str, own_namespace: &str) -> Result<Value, Bad> {
    let (namespace, name) = text.split_once('/').unwrap_or((own_namespace, text));
    let bad = |why: &str| {
        let hint = "name one account; for several by a pattern take `principals` or `namespaces`";
        Err((codes::PATTERN, format!("`{text}` is not a service account: {why}"), hint))
    };
    if name.contains('/') {
        return bad("write NAMESPACE/ACCOUNT or ACCOUNT");
    }
    if namespace.is_empty() || name.is_empty() {
        return bad("namespace and account must not be empty");
    }
    if !hosts::is_dns_label(namespace) || !hosts::is_document_name(name) {
        return bad("it is compared as a whole, wildcards do not count");
    }
    Ok(Value::Account { namespace: namespace.to_owned(), name: name.to_owned() })
}
