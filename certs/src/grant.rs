//! Which identities and services a node may have.

use std::{collections::BTreeSet, fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{
    codec::{self, CodecError, Millis},
    id::{NameError, NodeId, ServiceAccount, ServiceName, as_text, is_name},
    sign::{Digest, PublicKey},
};

/// Most bytes of a grant inside a certificate; a whole chain has 16 KiB.
pub const MAX_GRANT: usize = 12 * 1024;

/// `*`, `NAMESPACE/*` or `NAMESPACE/NAME`; shown so.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Pattern {
    /// Everything (enrollers only).
    All,
    /// All of a namespace.
    Namespace(String),
    /// Just this one.
    Exact(String, String),
}

/// The bound that a CA certificate carries in its private non-critical extension.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// The node whose CA this is.
    pub node: NodeId,
    /// Raised by each invite of the name.
    pub epoch: u64,
    /// Accounts for which the CA may issue leafs.
    pub accounts: Vec<Pattern>,
    /// Services that the node may register.
    pub services: Vec<Pattern>,
    /// The Ed25519 key that signs the node's records; absent in an enroller CA.
    pub record_key: Option<PublicKey>,
    /// True for an enroller CA: it may issue node CAs.
    pub enroller: bool,
}

/// What an operator signed for a node: the content of a `NodeGrant` document, always JSON. A CA counts only with one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NodeGrant {
    /// The node; equals the document's name.
    pub node: NodeId,
    /// The highest epoch owns the name.
    pub epoch: u64,
    /// Services that it may register, each with the account that serves it.
    pub services: Vec<GrantedService>,
    /// SHA-256 of the token's secret; absent for the first node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_hash: Option<Digest>,
    /// The one enroller that may redeem the token; absent for the first node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redeemer: Option<NodeId>,
    /// When the token ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_expires: Option<Millis>,
    /// True if the node is an enroller itself.
    #[serde(default)]
    pub enroller: bool,
    /// True once the node left or was retired: it is no longer expected and its node CA no longer counts.
    #[serde(default)]
    pub retired: bool,
}

/// `NS/NAME[=SA]` of a grant.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GrantedService {
    /// The service.
    pub service: ServiceName,
    /// Its account; the account `default` of the service's namespace if not given.
    pub account: ServiceAccount,
}

impl Pattern {
    /// True if the name falls under this pattern.
    pub fn covers(&self, namespace: &str, name: &str) -> bool {
        match self {
            Pattern::All => true,
            Pattern::Namespace(own) => own == namespace,
            Pattern::Exact(own, exact) => own == namespace && exact == name,
        }
    }

    /// True if whatever this covers, `other` covers too.
    pub fn is_subset_of(&self, other: &Pattern) -> bool {
        match (self, other) {
            (_, Pattern::All) => true,
            (Pattern::All, Pattern::Namespace(_) | Pattern::Exact(..)) => false,
            (Pattern::Namespace(own), Pattern::Namespace(theirs)) => own == theirs,
            (Pattern::Namespace(_), Pattern::Exact(..)) => false,
            (Pattern::Exact(namespace, name), _) => other.covers(namespace, name),
        }
    }
}

impl Grant {
    /// What an enroller CA carries: it may certify any grant, under its own name and epoch.
    pub fn enroller(node: NodeId, epoch: u64) -> Grant {
        let all = vec![Pattern::All];
        Grant { node, epoch, accounts: all.clone(), services: all, record_key: None, enroller: true }
    }

    /// True if leafs of this account may be issued.
    pub fn allows_account(&self, account: &ServiceAccount) -> bool {
        self.accounts.iter().any(|pattern| pattern.covers(account.namespace(), account.account()))
    }

    /// True if this service may be registered.
    pub fn allows_service(&self, service: &ServiceName) -> bool {
        self.services.iter().any(|pattern| pattern.covers(service.namespace(), service.name()))
    }

    /// True if `parent` may certify this grant: nothing wider, no further enroller, and the same node unless the parent enrols.
    pub fn is_subset_of(&self, parent: &Grant) -> bool {
        let same_node = self.node == parent.node && self.epoch == parent.epoch;
        let enroller = !self.enroller || (parent.enroller && same_node);
        (parent.enroller || same_node) && enroller && self.wider_than(parent).is_none()
    }

    /// The first pattern that `parent` does not contain.
    pub fn wider_than(&self, parent: &Grant) -> Option<&Pattern> {
        let beyond = |own: &'_ Pattern, theirs: &[Pattern]| !theirs.iter().any(|other| own.is_subset_of(other));
        let account = self.accounts.iter().find(|own| beyond(own, &parent.accounts));
        account.or_else(|| self.services.iter().find(|own| beyond(own, &parent.services)))
    }

    /// The content of the certificate extension: a DER OCTET STRING around the encoded grant.
    pub fn to_der(&self) -> Vec<u8> {
        crate::der::octet_string(&codec::encode(self))
    }

    /// Reads the content of the certificate extension.
    pub fn from_der(der: &[u8]) -> Result<Grant, CodecError> {
        let body = crate::der::from_octet_string(der).ok_or_else(|| CodecError("no OCTET STRING".into()))?;
        codec::decode::<Grant, MAX_GRANT>(body)
    }
}

impl NodeGrant {
    /// The enroller that may redeem the token; the first node, which had none, is its own.
    pub fn redeemed_by(&self) -> &NodeId {
        self.redeemer.as_ref().unwrap_or(&self.node)
    }

    /// True if operators let the node serve this service under this account.
    pub fn pairs(&self, service: &ServiceName, account: &ServiceAccount) -> bool {
        self.services.iter().any(|granted| granted.service == *service && granted.account == *account)
    }

    /// Accounts under which the node served something that `now` does not let it serve any more.
    pub fn lost(&self, now: &NodeGrant) -> BTreeSet<ServiceAccount> {
        let gone = |granted: &&GrantedService| !now.pairs(&granted.service, &granted.account);
        self.services.iter().filter(gone).map(|granted| granted.account.clone()).collect()
    }

    /// The accounts of the services, each once, in order of first mention.
    pub fn accounts(&self) -> impl Iterator<Item = &ServiceAccount> {
        let first = |(index, granted): &(usize, &GrantedService)| {
            !self.services[..*index].iter().any(|earlier| earlier.account == granted.account)
        };
        self.services.iter().enumerate().filter(first).map(|(_, granted)| &granted.account)
    }

    /// What an enroller puts into the node CA.
    pub fn certified(&self, record_key: PublicKey) -> Grant {
        self.grant(Some(record_key))
    }

    fn grant(&self, record_key: Option<PublicKey>) -> Grant {
        let exact = |namespace: &str, name: &str| Pattern::Exact(namespace.into(), name.into());
        let mut services: Vec<Pattern> =
            self.services.iter().map(|g| exact(g.service.namespace(), g.service.name())).collect();
        services.sort();
        services.dedup();
        Grant {
            node: self.node.clone(),
            epoch: self.epoch,
            accounts: self.accounts().map(|a| exact(a.namespace(), a.account())).collect(),
            services,
            record_key,
            enroller: false,
        }
    }

    /// What the node may have: the intersection of what its certificate says and what operators say now.
    pub fn effective(&self, certificate: &Grant) -> Grant {
        let allowed = |own: &[Pattern], pattern: &Pattern| own.iter().any(|other| pattern.is_subset_of(other));
        let mut grant = self.grant(certificate.record_key);
        grant.accounts.retain(|pattern| allowed(&certificate.accounts, pattern));
        grant.services.retain(|pattern| allowed(&certificate.services, pattern));
        grant.enroller = self.enroller && certificate.enroller;
        grant
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Pattern::All => f.write_str("*"),
            Pattern::Namespace(namespace) => write!(f, "{namespace}/*"),
            Pattern::Exact(namespace, name) => write!(f, "{namespace}/{name}"),
        }
    }
}

impl FromStr for Pattern {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Pattern, NameError> {
        match text.split_once('/') {
            None if text == "*" => Ok(Pattern::All),
            Some((namespace, "*")) if is_name(namespace) => Ok(Pattern::Namespace(namespace.into())),
            Some((namespace, name)) if is_name(namespace) && is_name(name) => {
                Ok(Pattern::Exact(namespace.into(), name.into()))
            }
            _ => Err(NameError::new("pattern", text, "*, NAMESPACE/* or NAMESPACE/NAME")),
        }
    }
}

as_text!(Pattern);

impl fmt::Display for GrantedService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.service, self.account.account())
    }
}

impl FromStr for GrantedService {
    type Err = NameError;

    /// `NS/NAME[=SA]`; the account is of the service's namespace.
    fn from_str(text: &str) -> Result<GrantedService, NameError> {
        let (service, account) = match text.split_once('=') {
            Some((service, account)) => (service.parse::<ServiceName>()?, Some(account)),
            None => (text.parse::<ServiceName>()?, None),
        };
        let account = match account {
            Some(account) => ServiceAccount::new(service.namespace(), account)?,
            None => ServiceAccount::default_of(&service),
        };
        Ok(GrantedService { service, account })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pattern() -> impl Strategy<Value = Pattern> {
        prop_oneof![
            Just(Pattern::All),
            "[a-c]".prop_map(Pattern::Namespace),
            ("[a-c]", "[a-c]").prop_map(|(namespace, name)| Pattern::Exact(namespace, name)),
        ]
    }

    fn grant() -> impl Strategy<Value = Grant> {
        let patterns = || prop::collection::vec(pattern(), 0..4);
        ("[ab]", 0u64..2, patterns(), patterns(), any::<bool>(), any::<bool>()).prop_map(
            |(node, epoch, accounts, services, enroller, key)| Grant {
                node: NodeId::new(&node).unwrap(),
                epoch,
                accounts,
                services,
                record_key: key.then_some(PublicKey([7; 32])),
                enroller,
            },
        )
    }

    fn node_grant() -> impl Strategy<Value = NodeGrant> {
        let granted = ("[a-c]", "[a-c]", "[a-c]").prop_map(|(ns, name, account)| GrantedService {
            service: ServiceName::new(&ns, &name).unwrap(),
            account: ServiceAccount::new(&ns, &account).unwrap(),
        });
        (prop::collection::vec(granted, 0..5), any::<bool>()).prop_map(|(services, enroller)| NodeGrant {
            node: NodeId::new("a").unwrap(),
            epoch: 1,
            services,
            token_hash: None,
            redeemer: None,
            token_expires: None,
            enroller,
            retired: false,
        })
    }

    /// All (namespace, name) pairs of the small alphabet, and one beyond it.
    fn pairs() -> impl Iterator<Item = (&'static str, &'static str)> {
        let names = ["a", "b", "c", "z"];
        names.into_iter().flat_map(move |namespace| names.into_iter().map(move |name| (namespace, name)))
    }

    proptest! {
        #[test]
        fn a_subset_covers_no_more(a in pattern(), b in pattern()) {
            let covers_no_more = pairs().all(|(namespace, name)| !a.covers(namespace, name) || b.covers(namespace, name));
            prop_assert_eq!(a.is_subset_of(&b), covers_no_more);
        }

        #[test]
        fn subset_is_an_order(a in grant(), b in grant(), c in grant()) {
            prop_assert!(a.is_subset_of(&a));
            // Over enrollers the name changes; below the last enroller nothing follows.
            if a.is_subset_of(&b) && b.is_subset_of(&c) {
                prop_assert!(a.is_subset_of(&c), "{a:?} {b:?} {c:?}");
            }
        }

        #[test]
        fn the_effective_grant_is_the_intersection(certificate in grant(), signed in node_grant()) {
            let effective = signed.effective(&certificate);
            let signed = signed.certified(PublicKey([7; 32]));
            for (namespace, name) in pairs() {
                let account = ServiceAccount::new(namespace, name).unwrap();
                let both = certificate.allows_account(&account) && signed.allows_account(&account);
                prop_assert_eq!(effective.allows_account(&account), both);
                let service = ServiceName::new(namespace, name).unwrap();
                let both = certificate.allows_service(&service) && signed.allows_service(&service);
                prop_assert_eq!(effective.allows_service(&service), both);
            }
        }

        #[test]
        fn grants_go_there_and_back(grant in grant()) {
            let der = grant.to_der();
            prop_assert_eq!(Grant::from_der(&der), Ok(grant));
            prop_assert!(Grant::from_der(&der[..der.len() - 1]).is_err());
            prop_assert!(Grant::from_der(&[der.as_slice(), &[0]].concat()).is_err());
        }

        #[test]
        fn patterns_go_there_and_back(pattern in pattern()) {
            prop_assert_eq!(pattern.to_string().parse(), Ok(pattern));
        }

        #[test]
        fn node_grants_are_json(signed in node_grant()) {
            let json = serde_json::to_string(&signed).unwrap();
            prop_assert_eq!(serde_json::from_str::<NodeGrant>(&json).unwrap(), signed);
        }
    }

    #[test]
    fn patterns_that_are_none() {
        for bad in ["", "a", "*/*", "*/a", "a/", "/a", "a/b/c", "A/b", "a/B", "a/*b", "**"] {
            assert!(bad.parse::<Pattern>().is_err(), "{bad}");
        }
    }

    #[test]
    fn services_with_and_without_account() {
        let plain: GrantedService = "shop/web".parse().unwrap();
        assert_eq!(plain.account.to_string(), "shop/default");
        let named: GrantedService = "shop/web=bookinfo-web".parse().unwrap();
        assert_eq!(named.account.to_string(), "shop/bookinfo-web");
        assert_eq!(named.to_string().parse(), Ok(named));
        for bad in ["shop", "shop/web=", "shop/web=a=b", "shop/web=bank/a", "=a"] {
            assert!(bad.parse::<GrantedService>().is_err(), "{bad}");
        }
    }

    #[test]
    fn what_a_narrower_grant_takes_away() {
        let signed = |services: &[&str]| NodeGrant {
            node: NodeId::new("a").unwrap(),
            epoch: 1,
            services: services.iter().map(|text| text.parse().unwrap()).collect(),
            token_hash: None,
            redeemer: None,
            token_expires: None,
            enroller: false,
            retired: false,
        };
        let before = signed(&["shop/web", "shop/api", "shop/db=x"]);
        let lost = |now: &[&str]| -> Vec<String> {
            before.lost(&signed(now)).into_iter().map(|account| account.to_string()).collect()
        };
        // Another service still has the account: what lived by the pair is over all the same.
        assert_eq!(lost(&["shop/web", "shop/db=x"]), ["shop/default"]);
        assert_eq!(lost(&["shop/web", "shop/api", "shop/db=y"]), ["shop/x"]);
        assert!(lost(&["shop/db=x", "shop/api", "shop/web", "shop/new"]).is_empty());
    }

    #[test]
    fn each_account_once() {
        let services = ["shop/web=x", "shop/api=y", "shop/db=x"].map(|text| text.parse().unwrap()).to_vec();
        let signed = NodeGrant {
            node: NodeId::new("a").unwrap(),
            epoch: 1,
            services,
            token_hash: None,
            redeemer: None,
            token_expires: None,
            enroller: false,
            retired: false,
        };
        assert_eq!(signed.accounts().map(ServiceAccount::account).collect::<Vec<_>>(), ["x", "y"]);
        assert_eq!(signed.certified(PublicKey([0; 32])).services.len(), 3);
    }
}
