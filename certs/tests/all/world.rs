//! A small mesh: one root, one enroller and two nodes with a service each.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use arc_swap::ArcSwap;
use certs::{
    ca::{CaKey, Enroller, NodeCa},
    codec::Millis,
    grant::NodeGrant,
    id::{NodeId, SpiffeId, TrustDomain},
    root::Root,
    sign::SigningKey,
    tls::{Clock, Leafs, Tls},
    verify::Authority,
};

pub(crate) const NOW: Millis = 1_800_000_000_123;
pub(crate) const MINUTE: Millis = 60_000;
pub(crate) const HOUR: Millis = 60 * MINUTE;
pub(crate) const DAY: Millis = 24 * HOUR;

pub(crate) fn trust_domain() -> TrustDomain {
    TrustDomain::new("prod.example").unwrap()
}

pub(crate) fn node_id(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

/// `NS/SA` or a node's name as an identity of the mesh.
pub(crate) fn identity(text: &str) -> SpiffeId {
    match text.parse() {
        Ok(account) => SpiffeId::service(trust_domain(), account),
        Err(_) => SpiffeId::node(trust_domain(), node_id(text)),
    }
}

pub(crate) fn node_grant(node: &str, epoch: u64, services: &[&str], enroller: bool) -> NodeGrant {
    NodeGrant {
        node: node_id(node),
        epoch,
        services: services.iter().map(|text| text.parse().unwrap()).collect(),
        token_hash: None,
        redeemer: Some(node_id("a")),
        token_expires: None,
        enroller,
        retired: false,
    }
}

/// A clock that stands still until it is set.
#[derive(Debug)]
pub(crate) struct StillClock(pub(crate) AtomicU64);

impl Clock for StillClock {
    fn now(&self) -> Millis {
        self.0.load(Ordering::Relaxed)
    }
}

pub(crate) struct World {
    pub(crate) root: Root,
    pub(crate) enroller: Enroller,
    pub(crate) authority: Arc<ArcSwap<Authority>>,
    pub(crate) clock: Arc<StillClock>,
}

impl World {
    /// `a` enrols and serves `shop/web`; `b` serves `shop/reviews`.
    pub(crate) fn new() -> World {
        let root = Root::generate(&trust_domain(), NOW);
        let key = CaKey::generate();
        let chain = vec![root.issue_enroller(&node_id("a"), 1, &key.spki(), NOW).unwrap()];
        let enroller = Enroller::new(&trust_domain(), chain, key).unwrap();
        let mut authority = Authority::new(trust_domain(), vec![root.certificate()]);
        for grant in [node_grant("a", 1, &["shop/web=web"], true), node_grant("b", 1, &["shop/reviews=reviews"], false)]
        {
            authority.grants.insert(grant.node.clone(), Arc::new(grant));
        }
        let clock = Arc::new(StillClock(AtomicU64::new(NOW)));
        World { root, enroller, authority: Arc::new(ArcSwap::from_pointee(authority)), clock }
    }

    pub(crate) fn node(&self, name: &str) -> NodeCa {
        let grant = self.authority.load().grants[&node_id(name)].certified(SigningKey::generate().public());
        let key = CaKey::generate();
        let chain = self.enroller.issue_node_unchecked(&key.spki(), &grant, NOW).unwrap();
        NodeCa::new(&trust_domain(), chain, key).unwrap()
    }

    /// A node's TLS with its own leaf and that of `account`.
    pub(crate) fn tls(&self, node: &str, account: &str) -> Tls {
        let ca = self.node(node);
        let mut leafs = Leafs::default();
        for id in [identity(node), identity(account)] {
            leafs.insert(&ca.leaf(&id, NOW).unwrap());
        }
        self.tls_with(node, leafs)
    }

    pub(crate) fn tls_with(&self, node: &str, leafs: Leafs) -> Tls {
        Tls::new(self.authority.clone(), Arc::new(ArcSwap::from_pointee(leafs)), identity(node), self.clock.clone())
    }

    pub(crate) fn edit_authority(&self, edit: impl FnOnce(&mut Authority)) {
        let mut authority = Authority::clone(&self.authority.load());
        edit(&mut authority);
        self.authority.store(Arc::new(authority));
    }
}
