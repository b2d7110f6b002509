//! Names: trust domains, nodes, services, accounts, and the SPIFFE identities made of them.
//! Every name follows `[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?`; a trust domain is such labels joined by dots.
//! All types: cheap to clone (`Arc<str>`), `Ord + Hash + Display + FromStr + Serialize/Deserialize` (as the displayed string, validated on read).

use std::sync::Arc;

/// The mesh's name, e.g. `prod.example`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrustDomain(Arc<str>);

/// One machine's Skein process, as its operator named it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(Arc<str>);

/// `NAMESPACE/NAME`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceName { namespace: Arc<str>, name: Arc<str> }

/// `NAMESPACE/ACCOUNT`; in SPIFFE form `/ns/NAMESPACE/sa/ACCOUNT`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceAccount { namespace: Arc<str>, account: Arc<str> }

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
    /// The text.
    pub given: String,
    /// The rule.
    pub rule: &'static str,
}

// API expected by the other crates (all fallible constructors return `NameError`):
// TrustDomain::new(&str), as_str();            NodeId::new(&str), as_str()
// ServiceName::new(ns, name), namespace(), name(), `FromStr` "NS/NAME"
// ServiceAccount::new(ns, account), namespace(), account(), `FromStr` "NS/SA"
// SpiffeId::service(td, account), SpiffeId::node(td, node), uri() -> String, dns_name() -> String,
//   from_uri(&str) -> Result, from_dns_name(&TrustDomain, &str) -> Option<SpiffeId>; Display = uri
