//! The first node of a mesh: everything that its state directory holds before the first start.

use certs::{
    ca::{CaKey, Enroller, NodeCa},
    codec::Millis,
    grant::{GrantedService, NodeGrant},
    id::{NodeId, TrustDomain},
    root::{Root, bundle_to_pem},
    sign::{Digest, PublicKey, SigningKey},
};
use policy::{
    changeset::{Change, Changeset, ChangesetId, decode},
    history::{History, genesis, signed},
    kinds::{CertificateLifetimes, node_grant_body},
};

use super::{
    error::{Error, fail, internal},
    identity::millis,
    state_dir::{CA_CERTIFICATES, CA_KEY, ENROLLER_CERTIFICATE, ENROLLER_KEY, Owner, RECORD_KEY, StateDir},
    store::{Judgement, Store},
};

/// What `skein init` decides.
pub struct Init<'a> {
    /// The mesh.
    pub trust_domain: &'a TrustDomain,
    /// The first node.
    pub node: &'a NodeId,
    /// What it may register.
    pub services: &'a [GrantedService],
    /// The root, made for this mesh; its key is not kept here.
    pub root: &'a Root,
    /// Name and key of the first operator, who signs.
    pub operator: (&'a str, &'a SigningKey),
    /// Name and key that may sign RoleSets only.
    pub recovery: Option<(&'a str, PublicKey)>,
    /// What the node tells others, where it is known.
    pub address: Option<std::net::SocketAddr>,
    /// The clock.
    pub now: Millis,
}

/// What `init` made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    /// The genesis RoleSet's changeset.
    pub genesis: ChangesetId,
    /// Number of the RoleSet.
    pub role_set: u64,
    /// The root certificates, PEM.
    pub bundle: String,
}

/// Sees that a state directory is free for a new node, before anything is written anywhere.
///
/// # Errors
/// `already_exists` if it has an owner.
pub fn check_free(dir: &StateDir) -> Result<(), Error> {
    match dir.owner()? {
        None => Ok(()),
        Some(owner) => Err(fail(
            "already_exists",
            format!("{} is the state of {} in {}", dir.path().display(), owner.node, owner.trust_domain),
            "run this node: `skein run`; to make it anew (after an eviction, too) move that directory away; or name another data_dir",
        )),
    }
}

/// Makes the first node: keys and certificates, genesis and its own NodeGrant. The directory has an owner only if all
/// of it is durable.
///
/// # Errors
/// `already_exists`, `storage_failed`, `storage_full`.
pub fn init(dir: &StateDir, init: &Init<'_>) -> Result<Made, Error> {
    check_free(dir)?;
    // Leftovers of an attempt that did not come to its end.
    let _ = std::fs::remove_file(dir.store());
    let (name, operator) = init.operator;
    let mut keys = vec![(name.to_string(), operator.public(), false)];
    keys.extend(init.recovery.map(|(name, key)| (name.to_string(), key, true)));
    let first = genesis(init.trust_domain, &[init.root.certificate()], &keys, init.now);
    let changesets = [signed(&first, &[operator]), signed(&granting(init, first.role_set), &[operator])];
    let genesis = ChangesetId(decode(&changesets[0]).map_err(internal)?.id());

    let mut history = History::new(init.trust_domain.clone());
    for changeset in &changesets {
        history.insert(changeset, init.now).map_err(internal)?;
    }
    write_keys(dir, init)?;
    let store = Store::open(&dir.store())?;
    let judgements: Vec<_> = changesets
        .iter()
        .map(|bytes| Judgement { at: init.now, subject: Digest::of(bytes), from: "init".into(), refused: None })
        .collect();
    store.append(&[&changesets[0], &changesets[1]], &judgements)?;
    let (node, trust_domain) = (init.node.clone(), init.trust_domain.clone());
    dir.own(&Owner {
        node,
        trust_domain,
        address: init.address,
        enroller: None,
        found: None,
        later: serde_json::Map::default(),
    })?;
    Ok(Made { genesis, role_set: first.role_set, bundle: bundle_to_pem(&[init.root.certificate()]) })
}

fn own_grant(init: &Init<'_>) -> NodeGrant {
    NodeGrant {
        node: init.node.clone(),
        epoch: 1,
        services: init.services.to_vec(),
        token_hash: None,
        redeemer: None,
        token_expires: None,
        enroller: true,
        retired: false,
    }
}

fn granting(init: &Init<'_>, role_set: u64) -> Changeset {
    let (document, body) = node_grant_body(&own_grant(init));
    Changeset {
        trust_domain: init.trust_domain.clone(),
        role_set,
        issued_at: init.now,
        message: format!("first node {}", init.node),
        confirm_by: None,
        nonce: rand::random(),
        changes: vec![Change { document, content: Some(body), replaces: Vec::new() }],
    }
}

fn write_keys(dir: &StateDir, init: &Init<'_>) -> Result<(), Error> {
    let (enroller_key, ca_key, record_key) = (CaKey::generate(), CaKey::generate(), SigningKey::generate());
    let certificate = init.root.issue_enroller(init.node, 1, &enroller_key.spki(), init.now).map_err(internal)?;
    dir.write(ENROLLER_KEY, enroller_key.to_pem().as_bytes())?;
    dir.write(ENROLLER_CERTIFICATE, bundle_to_pem(std::slice::from_ref(&certificate)).as_bytes())?;
    dir.write(CA_KEY, ca_key.to_pem().as_bytes())?;
    dir.write(RECORD_KEY, record_key.to_pem().as_bytes())?;
    let enroller = Enroller::new(init.trust_domain, vec![certificate], enroller_key).map_err(internal)?;
    let (spki, life) = (ca_key.spki(), millis(CertificateLifetimes::default().node_ca));
    let keys = (spki.as_slice(), record_key.public());
    let chain = enroller.certify(&own_grant(init), keys, None, life, init.now).map_err(internal)?;
    dir.write(CA_CERTIFICATES, bundle_to_pem(&chain).as_bytes())?;
    NodeCa::new(init.trust_domain, chain, ca_key).map_err(internal).map(drop)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, sync::Arc};

    use super::*;
    use crate::{
        agent::{book::Book, identity::Identity},
        clock::Clock,
    };

    #[test]
    fn a_made_node_has_policy_and_identity_that_hold() {
        let folder = tempfile::tempdir().unwrap();
        let dir = StateDir::open(&folder.path().join("state")).unwrap();
        let trust_domain = TrustDomain::new("prod.example").unwrap();
        let node = NodeId::new("web-1").unwrap();
        let services: Vec<GrantedService> = vec!["default/reviews=book".parse().unwrap()];
        let now = Clock.now();
        let (root, operator) = (Root::generate(&trust_domain, now), SigningKey::generate());
        let wish = Init {
            trust_domain: &trust_domain,
            node: &node,
            services: &services,
            root: &root,
            operator: ("ann", &operator),
            recovery: Some(("recovery", SigningKey::generate().public())),
            address: None,
            now,
        };
        let made = init(&dir, &wish).unwrap();
        assert_eq!(init(&dir, &wish).unwrap_err().code, "already_exists");

        let owner = dir.owner().unwrap().unwrap();
        let store = Arc::new(Store::open(&dir.store()).unwrap());
        let state = Book::load(store, &trust_domain, now).unwrap().first_state(now);
        assert_eq!((state.genesis, state.role_set.number), (made.genesis.0, made.role_set));
        let identity = Identity::load(&dir, &owner).unwrap();
        let accounts: BTreeSet<_> = services.iter().map(|granted| granted.account.clone()).collect();
        let refreshed = identity.refresh(&accounts, &state.lifetimes(), now, 0.5);
        assert!(refreshed.failed.is_empty() && refreshed.due > now, "{refreshed:?}");
        let facts = identity.facts(0);
        assert!(facts.enroller.is_some() && facts.leafs.len() == 2);
        let authority = state.authority(&trust_domain);
        for leaf in &facts.leafs {
            let chain: Vec<_> = leaf.chain.iter().map(|der| der.as_slice().into()).collect();
            let peer = certs::verify::verify(&chain, &authority, now).unwrap();
            assert_eq!((&peer.node, &peer.id), (&node, &leaf.id));
        }
    }
}
