//! A small trust domain with real certificates.

use std::sync::Arc;

use certs::{
    ca::{CaKey, Enroller},
    codec::Millis,
    grant::NodeGrant,
    id::{NodeId, ServiceAccount, ServiceName, TrustDomain},
    root::Root,
    sign::SigningKey,
    verify::Authority,
};

/// The time at which worlds begin.
pub(crate) const START: Millis = 1_800_000_000_000;

/// A mesh with one enroller and any number of nodes.
pub(crate) struct World {
    pub(crate) trust_domain: TrustDomain,
    enroller: Enroller,
    pub(crate) authority: Authority,
}

/// What a node holds after joining.
#[derive(Clone)]
pub(crate) struct Citizen {
    pub(crate) node: NodeId,
    pub(crate) record_key: Arc<SigningKey>,
    pub(crate) chain: Vec<Vec<u8>>,
}

impl World {
    pub(crate) fn new() -> World {
        let trust_domain = TrustDomain::new("test.example").expect("valid");
        let root = Root::generate(&trust_domain, START);
        let key = CaKey::generate();
        let first = NodeId::new("enroller").expect("valid");
        let certificate = root.issue_enroller(&first, 1, &key.spki(), START).expect("issued");
        let enroller = Enroller::new(&trust_domain, vec![certificate], key).expect("usable");
        let authority = Authority::new(trust_domain.clone(), vec![root.certificate()]);
        let mut world = World { trust_domain, enroller, authority };
        world.grant(&grant("enroller", 1, &[], true));
        world
    }

    pub(crate) fn grant(&mut self, grant: &NodeGrant) {
        self.authority.grants.insert(grant.node.clone(), Arc::new(grant.clone()));
    }

    /// Grants and issues: a node with one service of its own and one that all share.
    pub(crate) fn citizen(&mut self, name: &str, epoch: u64) -> Citizen {
        let own = format!("default/{name}");
        let grant = grant(name, epoch, &[&own, "default/shared"], false);
        self.grant(&grant);
        self.issue(&grant)
    }

    pub(crate) fn issue(&self, grant: &NodeGrant) -> Citizen {
        let record_key = SigningKey::generate();
        let key = CaKey::generate();
        let certified = grant.certified(record_key.public());
        let chain = self.enroller.issue_node_unchecked(&key.spki(), &certified, START).expect("issued");
        Citizen { node: grant.node.clone(), record_key: Arc::new(record_key), chain }
    }
}

pub(crate) fn grant(name: &str, epoch: u64, services: &[&str], enroller: bool) -> NodeGrant {
    let services = services.iter().map(|name| {
        let service: ServiceName = name.parse().expect("valid");
        certs::grant::GrantedService { account: ServiceAccount::default_of(&service), service }
    });
    NodeGrant {
        node: NodeId::new(name).expect("valid"),
        epoch,
        services: services.collect(),
        token_hash: None,
        redeemer: Some(NodeId::new("enroller").expect("valid")),
        token_expires: None,
        enroller,
        retired: false,
    }
}
