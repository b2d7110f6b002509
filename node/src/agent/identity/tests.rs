//! Leafs of one node, over the hours of a clock that is given.

use certs::{grant::NodeGrant, root::Root};

use super::*;
use crate::agent::init;

fn identity(folder: &tempfile::TempDir, now: Millis) -> (StateDir, Identity) {
    let (dir, identity, _) = with_root(folder, now);
    (dir, identity)
}

fn with_root(folder: &tempfile::TempDir, now: Millis) -> (StateDir, Identity, Root) {
    let dir = StateDir::open(&folder.path().join("state")).unwrap();
    let (trust_domain, node) = (TrustDomain::new("t.example").unwrap(), NodeId::new("a").unwrap());
    let root = Root::generate(&trust_domain, now);
    let wish = init::Init {
        trust_domain: &trust_domain,
        node: &node,
        services: &["default/web=web".parse().unwrap()],
        root: &root,
        operator: ("ann", &SigningKey::generate()),
        recovery: None,
        address: None,
        now,
    };
    init::init(&dir, &wish).unwrap();
    let identity = Identity::load(&dir, &dir.owner().unwrap().unwrap()).unwrap();
    (dir, identity, root)
}

/// What `init` lets the node be, by this root.
fn authority(root: &Root) -> Authority {
    let mut authority = Authority::new(TrustDomain::new("t.example").unwrap(), vec![root.certificate()]);
    let node = NodeId::new("a").unwrap();
    let grant = NodeGrant {
        node: node.clone(),
        epoch: 1,
        services: vec!["default/web=web".parse().unwrap()],
        token_hash: None,
        redeemer: None,
        token_expires: None,
        enroller: true,
        retired: false,
    };
    authority.grants.insert(node, Arc::new(grant));
    authority
}

fn web() -> BTreeSet<ServiceAccount> {
    BTreeSet::from([ServiceAccount::new("default", "web").unwrap()])
}

fn ends(identity: &Identity) -> Vec<Millis> {
    identity.facts(0).leafs.iter().map(|leaf| leaf.not_after).collect()
}

#[test]
fn leafs_from_the_future_are_replaced_once_the_clock_is_set_back() {
    let folder = tempfile::tempdir().unwrap();
    let now = 1_800_000_000_000;
    let (_dir, identity) = identity(&folder, now);
    let later = now + 3_600_000;
    identity.refresh(&web(), &CertificateLifetimes::default(), later, 0.5);
    let ahead = ends(&identity);
    // A clock that is trimmed makes no new certificates.
    identity.refresh(&web(), &CertificateLifetimes::default(), later - 60_000, 0.5);
    assert_eq!(ends(&identity), ahead);
    let refreshed = identity.refresh(&web(), &CertificateLifetimes::default(), now, 0.5);
    assert!(identity.facts(0).leafs.iter().all(|leaf| leaf.not_before <= now));
    assert!(refreshed.due < later, "{}", refreshed.due - now);
    let back = ends(&identity);
    assert!(back.iter().zip(&ahead).all(|(now, ahead)| now < ahead), "{back:?} {ahead:?}");
    identity.refresh(&web(), &CertificateLifetimes::default(), now + 1, 0.5);
    assert_eq!(ends(&identity), back, "once is enough");
}

#[test]
fn leafs_are_renewed_at_half_of_their_life_and_not_before() {
    let folder = tempfile::tempdir().unwrap();
    let now = 1_800_000_000_000;
    let (_dir, identity) = identity(&folder, now);
    let due = identity.refresh(&web(), &CertificateLifetimes::default(), now, 0.5).due;
    assert!((now + 25 * 60_000..now + 35 * 60_000).contains(&due), "{}", due - now);
    let first = ends(&identity);
    identity.refresh(&web(), &CertificateLifetimes::default(), due - 1, 0.5);
    assert_eq!(ends(&identity), first);
    identity.refresh(&web(), &CertificateLifetimes::default(), due + 1, 0.5);
    let second = ends(&identity);
    assert!(second.iter().zip(&first).any(|(new, old)| new > old), "{first:?} {second:?}");
    identity.refresh(&BTreeSet::new(), &CertificateLifetimes::default(), due + 1, 0.5);
    assert_eq!(identity.facts(0).leafs.len(), 1);
}

#[test]
fn a_shorter_life_counts_at_once_and_a_longer_one_from_the_next_renewal_on() {
    let folder = tempfile::tempdir().unwrap();
    let now = 1_800_000_000_000;
    let (_dir, identity) = identity(&folder, now);
    let short = CertificateLifetimes { leaf: Duration::from_secs(10), ..CertificateLifetimes::default() };
    identity.refresh(&web(), &CertificateLifetimes::default(), now, 0.5);
    let node = identity.facts(0).leafs.iter().find(|leaf| leaf.id == identity.own()).map(|leaf| leaf.not_after);
    let due = identity.refresh(&web(), &short, now, 0.5).due;
    assert!((now + 4_000..now + 6_000).contains(&due), "{}", due - now);
    let service = |identity: &Identity| {
        let leafs = identity.facts(0).leafs;
        leafs.into_iter().find(|leaf| leaf.id != identity.own()).unwrap()
    };
    assert_eq!(service(&identity).not_after, now + 10_000);
    // The node's own stays as it was.
    assert!(identity.facts(0).leafs.iter().any(|leaf| Some(leaf.not_after) == node));
    identity.refresh(&web(), &CertificateLifetimes::default(), now + 1_000, 0.5);
    assert_eq!(service(&identity).not_after, now + 10_000);
    identity.refresh(&web(), &CertificateLifetimes::default(), due, 0.5);
    assert!(service(&identity).not_after > now + 3_000_000);
}

#[test]
fn an_enroller_takes_its_own_certificate_only() {
    let folder = tempfile::tempdir().unwrap();
    let now = 1_800_000_000_000;
    let (dir, identity) = identity(&folder, now);
    let before = identity.facts(0).enroller.unwrap();
    let request = identity.enroller_request(&dir).unwrap();
    assert_eq!(identity.enroller_request(&dir).map(|again| again.len() / 8).unwrap(), request.len() / 8);
    let spki = certs::ca::requested_key(&request, identity.node()).unwrap();
    let root = Root::generate(identity.trust_domain(), now);
    let later = now + 100 * 86_400_000;
    let other = NodeId::new("b").unwrap();
    for wrong in [
        root.issue_enroller(&other, 1, &spki, later).unwrap(),
        root.issue_enroller(identity.node(), 1, &CaKey::generate().spki(), later).unwrap(),
        vec![0x30, 0],
    ] {
        assert_eq!(identity.enrols(&dir, wrong).unwrap_err().code, "bad_request");
    }
    assert_eq!(identity.facts(0).enroller, Some(before));
    identity.enrols(&dir, root.issue_enroller(identity.node(), 1, &spki, later).unwrap()).unwrap();
    assert!(identity.facts(0).enroller.unwrap() > before);
    let again = Identity::load(&dir, &dir.owner().unwrap().unwrap()).unwrap();
    assert_eq!(again.facts(0).enroller, identity.facts(0).enroller);
}

#[test]
fn an_account_without_a_grant_gets_no_leaf() {
    let folder = tempfile::tempdir().unwrap();
    let now = 1_800_000_000_000;
    let (_dir, identity) = identity(&folder, now);
    let accounts = BTreeSet::from([ServiceAccount::new("bank", "vault").unwrap()]);
    let refreshed = identity.refresh(&accounts, &CertificateLifetimes::default(), now, 0.5);
    assert_eq!(refreshed.failed.len(), 1);
    assert!(refreshed.due <= now + 30_000);
    // With nothing in hand at all, it waits too.
    let ended = identity.ca().not_after() + 1;
    let none = identity.refresh(&BTreeSet::new(), &CertificateLifetimes::default(), ended, 0.5);
    assert!(none.failed.len() == 1 && none.due > ended, "{none:?}");
}

#[test]
fn only_this_nodes_own_certificate_is_taken_at_a_renewal() {
    let folder = tempfile::tempdir().unwrap();
    let now = 1_800_000_000_000;
    let (dir, identity, root) = with_root(&folder, now);
    let authority = authority(&root);
    identity.refresh(&web(), &CertificateLifetimes::default(), now, 0.5);
    let later = now + 15 * 86_400_000;
    let enroller = identity.enroller().unwrap();
    let spki = identity.ca().key().spki();
    let renewed = enroller.issue_node_unchecked(&spki, identity.ca().grant(), later).unwrap();
    identity.renewed(&dir, renewed, &authority, later).unwrap();
    assert!(identity.ca().not_after() > now + 40 * 86_400_000);
    identity.refresh(&web(), &CertificateLifetimes::default(), later, 0.5);
    assert!(ends(&identity).iter().all(|end| *end > later));

    let mut foreign = identity.ca().grant().clone();
    foreign.node = NodeId::new("b").unwrap();
    let theirs = enroller.issue_node_unchecked(&spki, &foreign, later).unwrap();
    assert!(identity.renewed(&dir, theirs, &authority, later).is_err());
    let other_key = enroller.issue_node_unchecked(&CaKey::generate().spki(), identity.ca().grant(), later).unwrap();
    assert!(identity.renewed(&dir, other_key, &authority, later).is_err());
}
#[test]
fn what_does_not_hold_here_does_not_replace_what_does() {
    let folder = tempfile::tempdir().unwrap();
    let now = 1_800_000_000_000;
    let (dir, identity, root) = with_root(&folder, now);
    let good = authority(&root);
    let (before, disk) = (identity.ca().chain().to_vec(), dir.read(CA_CERTIFICATES).unwrap());
    let enroller = identity.enroller().unwrap();
    let (spki, granted) = (identity.ca().key().spki(), identity.ca().grant().clone());
    let chain = enroller.issue_node_unchecked(&spki, &granted, now + 1_000).unwrap();
    // Another mesh's root; no enroller any more; another epoch of this node.
    let foreign = authority(&Root::generate(identity.trust_domain(), now));
    let changed = |change: fn(&mut NodeGrant)| {
        let mut other = authority(&root);
        change(Arc::make_mut(other.grants.get_mut(identity.node()).unwrap()));
        other
    };
    let demoted = changed(|grant| grant.enroller = false);
    let replaced = changed(|grant| grant.epoch = 2);
    for wrong in [&foreign, &demoted, &replaced] {
        assert_eq!(identity.renewed(&dir, chain.clone(), wrong, now + 1_000).unwrap_err().code, "failed");
    }
    // It has ended by now.
    let ended = now + 31 * 86_400_000;
    assert_eq!(identity.renewed(&dir, chain.clone(), &good, ended).unwrap_err().code, "failed");
    assert_eq!(identity.ca().chain(), before);
    assert_eq!(dir.read(CA_CERTIFICATES).unwrap(), disk);
    identity.renewed(&dir, chain.clone(), &good, now + 1_000).unwrap();
    assert_eq!(identity.ca().chain(), chain);
}
