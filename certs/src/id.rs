//! Names: trust domains, nodes, services, accounts, and the SPIFFE identities made of them.
//!
//! Every name follows `[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?`; a trust domain is such labels joined by dots.
//! All types are cheap to clone and travel as the text that they display, checked when read.

mod node;

use std::{fmt, marker::PhantomData, str::FromStr, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

pub use node::NodeId;

/// Most characters of a name.
pub const MAX_NAME: usize = 63;

/// Most characters of a trust domain: `<63>.<63>.<trust domain>` must fit into a DNS name of 253.
pub const MAX_TRUST_DOMAIN: usize = 125;

/// The mesh's name, e.g. `prod.example`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrustDomain(Arc<str>);

/// `NAMESPACE/NAME`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceName {
    namespace: Arc<str>,
    name: Arc<str>,
}

/// `NAMESPACE/ACCOUNT`; in SPIFFE form `/ns/NAMESPACE/sa/ACCOUNT`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceAccount {
    namespace: Arc<str>,
    account: Arc<str>,
}

/// Whom an identity speaks of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    /// `spiffe://TD/ns/NS/sa/SA`, DNS image `SA.NS.TD`.
    Service(ServiceAccount),
    /// `spiffe://TD/mesh/node/NODE`, DNS image `NODE._node.TD`.
    Node(NodeId),
}

/// A SPIFFE id of this mesh.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpiffeId {
    /// The mesh.
    pub trust_domain: TrustDomain,
    /// Who in it.
    pub subject: Subject,
}

/// A name that breaks the grammar: what was given and which rule it breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} `{given}` is not valid: {rule}")]
pub struct NameError {
    /// `node name`, `service`, `trust domain`...
    pub what: &'static str,
    /// The text, shortened to 80 characters.
    pub given: String,
    /// The rule.
    pub rule: &'static str,
}

impl TrustDomain {
    /// Checks and takes a trust domain.
    pub fn new(text: &str) -> Result<TrustDomain, NameError> {
        let bad = |rule| Err(NameError::new("trust domain", text, rule));
        if text.len() > MAX_TRUST_DOMAIN {
            return bad("at most 125 characters");
        }
        if !text.split('.').all(is_name) {
            return bad("labels of a-z, 0-9 and inner hyphens, joined by dots");
        }
        // A DNS name whose last label is a number would read as an address.
        if text.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit())) {
            return bad("the last label must not be a number");
        }
        Ok(TrustDomain(text.into()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl ServiceName {
    /// Checks and takes both parts.
    pub fn new(namespace: &str, service: &str) -> Result<ServiceName, NameError> {
        Ok(ServiceName {
            namespace: name("namespace", namespace, namespace)?,
            name: name("service", service, service)?,
        })
    }

    /// The namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The name within the namespace.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl ServiceAccount {
    /// Checks and takes both parts.
    pub fn new(namespace: &str, account: &str) -> Result<ServiceAccount, NameError> {
        Ok(ServiceAccount {
            namespace: name("namespace", namespace, namespace)?,
            account: name("account", account, account)?,
        })
    }

    /// The account that endpoints have which name none: `default` of the namespace.
    pub fn default_of(service: &ServiceName) -> ServiceAccount {
        ServiceAccount { namespace: service.namespace.clone(), account: "default".into() }
    }

    /// The namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The account's name within the namespace.
    pub fn account(&self) -> &str {
        &self.account
    }
}

impl SpiffeId {
    /// The identity of a service account.
    pub fn service(trust_domain: TrustDomain, account: ServiceAccount) -> SpiffeId {
        SpiffeId { trust_domain, subject: Subject::Service(account) }
    }

    /// The identity of a node.
    pub fn node(trust_domain: TrustDomain, node: NodeId) -> SpiffeId {
        SpiffeId { trust_domain, subject: Subject::Node(node) }
    }

    /// The form of the certificate's URI name.
    pub fn uri(&self) -> String {
        self.to_string()
    }

    /// The DNS image that stands beside the URI and serves as SNI.
    pub fn dns_name(&self) -> String {
        match &self.subject {
            Subject::Service(a) => format!("{}.{}.{}", a.account, a.namespace, self.trust_domain),
            Subject::Node(node) => format!("{node}._node.{}", self.trust_domain),
        }
    }

    /// Reads `spiffe://TD/ns/NS/sa/SA` or `spiffe://TD/mesh/node/NODE`; nothing else, no other case, no escapes.
    pub fn from_uri(uri: &str) -> Result<SpiffeId, NameError> {
        let bad = || NameError::new("identity", uri, "spiffe://TD/ns/NS/sa/SA or spiffe://TD/mesh/node/NODE");
        let rest = uri.strip_prefix("spiffe://").ok_or_else(bad)?;
        let mut parts = rest.splitn(6, '/');
        let mut next = || parts.next().ok_or_else(bad);
        let trust_domain = TrustDomain::new(next()?)?;
        let subject = match (next()?, next()?, next()?, next().ok()) {
            ("ns", namespace, "sa", Some(account)) => Subject::Service(ServiceAccount::new(namespace, account)?),
            ("mesh", "node", node, None) => Subject::Node(NodeId::new(node)?),
            _ => return Err(bad()),
        };
        if next().is_ok() {
            return Err(bad());
        }
        Ok(SpiffeId { trust_domain, subject })
    }

    /// The identity whose DNS image within `trust_domain` this is; `None` if it is none's.
    pub fn from_dns_name(trust_domain: &TrustDomain, dns_name: &str) -> Option<SpiffeId> {
        let local = dns_name.strip_suffix(trust_domain.as_str())?.strip_suffix('.')?;
        let (first, second) = local.split_once('.')?;
        let subject = match second {
            "_node" => Subject::Node(NodeId::new(first).ok()?),
            namespace => Subject::Service(ServiceAccount::new(namespace, first).ok()?),
        };
        Some(SpiffeId { trust_domain: trust_domain.clone(), subject })
    }

    /// The service account, if this is one's identity.
    pub fn account(&self) -> Option<&ServiceAccount> {
        match &self.subject {
            Subject::Service(account) => Some(account),
            Subject::Node(_) => None,
        }
    }
}

impl NameError {
    pub(crate) fn new(what: &'static str, given: &str, rule: &'static str) -> NameError {
        NameError { what, given: given.chars().take(80).collect(), rule }
    }
}

/// True for `[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?`.
pub fn is_name(text: &str) -> bool {
    let bytes = text.as_bytes();
    let alphanumeric = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    bytes.len() <= MAX_NAME
        && bytes.first().is_some_and(alphanumeric)
        && bytes.last().is_some_and(alphanumeric)
        && bytes.iter().all(|b| alphanumeric(b) || *b == b'-')
}

fn name(what: &'static str, given: &str, text: &str) -> Result<Arc<str>, NameError> {
    if is_name(text) {
        Ok(text.into())
    } else {
        Err(NameError::new(what, given, "1 to 63 of a-z, 0-9 and inner hyphens"))
    }
}

fn pair<'a>(what: &'static str, text: &'a str) -> Result<(&'a str, &'a str), NameError> {
    text.split_once('/').ok_or_else(|| NameError::new(what, text, "NAMESPACE/NAME"))
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl fmt::Display for ServiceAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.account)
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.subject {
            Subject::Service(a) => write!(f, "spiffe://{}/ns/{}/sa/{}", self.trust_domain, a.namespace, a.account),
            Subject::Node(node) => write!(f, "spiffe://{}/mesh/node/{node}", self.trust_domain),
        }
    }
}

impl FromStr for TrustDomain {
    type Err = NameError;
    fn from_str(text: &str) -> Result<TrustDomain, NameError> {
        TrustDomain::new(text)
    }
}

impl FromStr for ServiceName {
    type Err = NameError;
    fn from_str(text: &str) -> Result<ServiceName, NameError> {
        let (namespace, name) = pair("service", text)?;
        ServiceName::new(namespace, name)
    }
}

impl FromStr for ServiceAccount {
    type Err = NameError;
    fn from_str(text: &str) -> Result<ServiceAccount, NameError> {
        let (namespace, account) = pair("account", text)?;
        ServiceAccount::new(namespace, account)
    }
}

impl FromStr for SpiffeId {
    type Err = NameError;
    fn from_str(text: &str) -> Result<SpiffeId, NameError> {
        SpiffeId::from_uri(text)
    }
}

/// Lets types travel as the text that they display.
macro_rules! as_text {
    ($($name:ty),+) => {$(
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_str($crate::id::Text(std::marker::PhantomData))
            }
        }
    )+};
}
pub(crate) use as_text;

/// Reads a text where it stands, without a copy, into what it is the name of.
pub(crate) struct Text<T>(pub(crate) PhantomData<T>);

impl<T: FromStr<Err: fmt::Display>> de::Visitor<'_> for Text<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }
}

as_text!(TrustDomain, NodeId, ServiceName, ServiceAccount, SpiffeId);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::codec;

    fn name() -> impl Strategy<Value = String> {
        "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
    }

    fn trust_domain() -> impl Strategy<Value = TrustDomain> {
        "[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?(\\.[a-z]{1,6}){0,3}"
            .prop_filter_map("a number", |t| TrustDomain::new(&t).ok())
    }

    fn spiffe_id() -> impl Strategy<Value = SpiffeId> {
        let service = (trust_domain(), name(), name())
            .prop_map(|(td, ns, sa)| SpiffeId::service(td, ServiceAccount::new(&ns, &sa).unwrap()));
        let node = (trust_domain(), name()).prop_map(|(td, node)| SpiffeId::node(td, NodeId::new(&node).unwrap()));
        prop_oneof![service, node]
    }

    #[test]
    fn names_that_are_none() {
        let too_long = "a".repeat(64);
        for bad in ["", "-", "a-", "-a", "A", "a.b", "a_b", "a b", "ä", "..", "a/b", "a%2f", "a\0", too_long.as_str()]
        {
            assert!(NodeId::new(bad).is_err(), "{bad}");
            assert!(ServiceName::new("shop", bad).is_err() && ServiceName::new(bad, "web").is_err(), "{bad}");
            assert!(ServiceAccount::new("shop", bad).is_err() && ServiceAccount::new(bad, "web").is_err(), "{bad}");
        }
        for good in ["a", "0", "a-b", "a--b", "9a", &"a".repeat(63)] {
            assert!(NodeId::new(good).is_ok(), "{good}");
        }
    }

    #[test]
    fn trust_domains() {
        for good in ["prod.example", "a", "x-1.y-2.z", "1.a"] {
            assert!(TrustDomain::new(good).is_ok(), "{good}");
        }
        let too_long = ["abcdefghi"; 13].join(".");
        for bad in
            ["", ".", "a.", ".a", "a..b", "A.b", "a_b.c", "10.0.0.1", "prod.7", "prod.example:80", too_long.as_str()]
        {
            assert!(TrustDomain::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn uris_have_one_form() {
        let id = SpiffeId::from_uri("spiffe://prod.example/ns/shop/sa/web").unwrap();
        assert_eq!(id.dns_name(), "web.shop.prod.example");
        let node = SpiffeId::from_uri("spiffe://prod.example/mesh/node/web-1").unwrap();
        assert_eq!(node.dns_name(), "web-1._node.prod.example");
        for bad in [
            "spiffe://prod.example",
            "spiffe://prod.example/",
            "spiffe://prod.example/ns/shop",
            "spiffe://prod.example/ns/shop/sa",
            "spiffe://prod.example/ns/shop/sa/",
            "spiffe://prod.example/ns/shop/sa/web/",
            "spiffe://prod.example/ns/shop/sa/web/x",
            "spiffe://prod.example//ns/shop/sa/web",
            "spiffe://prod.example/ns/shop/sa/web?q",
            "spiffe://prod.example/ns/shop/sa/web#f",
            "spiffe://prod.example/ns/shop/sa/%77eb",
            "spiffe://prod.example/ns/shop/sa/../sa/web",
            "spiffe://prod.example/ns/Shop/sa/web",
            "spiffe://prod.example/ns/shop/svc/web",
            "spiffe://prod.example/mesh/node/web-1/",
            "spiffe://prod.example/mesh/node/",
            "spiffe://PROD.example/ns/shop/sa/web",
            "spiffe://user@prod.example/ns/shop/sa/web",
            "spiffe://prod.example:1/ns/shop/sa/web",
            "SPIFFE://prod.example/ns/shop/sa/web",
            "https://prod.example/ns/shop/sa/web",
        ] {
            assert!(SpiffeId::from_uri(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn dns_names_of_others() {
        let td = TrustDomain::new("prod.example").unwrap();
        for bad in [
            "prod.example",
            ".prod.example",
            "web.prod.example",
            "a.b.c.prod.example",
            "web.shop.other.example",
            "web.shopprod.example",
            "x._mesh.prod.example",
            "_node.prod.example",
            "web.shop.prod.example.",
        ] {
            assert_eq!(SpiffeId::from_dns_name(&td, bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn identities_go_there_and_back(id in spiffe_id()) {
            prop_assert_eq!(&SpiffeId::from_uri(&id.uri()).unwrap(), &id);
            prop_assert_eq!(SpiffeId::from_dns_name(&id.trust_domain, &id.dns_name()), Some(id.clone()));
            prop_assert!(id.dns_name().len() <= 253);
            prop_assert_eq!(&codec::decode::<SpiffeId, 512>(&codec::encode(&id)).unwrap(), &id);
            let json = serde_json::to_string(&id).unwrap();
            prop_assert_eq!(serde_json::from_str::<SpiffeId>(&json).unwrap(), id);
        }

        #[test]
        fn pairs_go_there_and_back(ns in name(), n in name()) {
            let service = ServiceName::new(&ns, &n).unwrap();
            prop_assert_eq!(&service.to_string().parse::<ServiceName>().unwrap(), &service);
            let account = ServiceAccount::new(&ns, &n).unwrap();
            prop_assert_eq!(&account.to_string().parse::<ServiceAccount>().unwrap(), &account);
        }

        #[test]
        fn the_grammar_is_the_regular_expression(text in "[a-c0-1-]{0,5}|\\PC{0,4}") {
            let alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
            let oracle = !text.is_empty()
                && text.chars().all(|c| alphanumeric(c) || c == '-')
                && !text.starts_with('-')
                && !text.ends_with('-');
            prop_assert_eq!(is_name(&text), oracle);
        }

        #[test]
        fn hostile_text_is_an_error(text in "\\PC{0,80}") {
            let _ = SpiffeId::from_uri(&text);
            let _ = SpiffeId::from_uri(&format!("spiffe://{text}"));
            prop_assert!(serde_json::from_str::<NodeId>(&serde_json::to_string(&text).unwrap()).is_ok() == is_name(&text));
        }
    }
}
