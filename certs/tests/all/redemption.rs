//! Whose invite it was: what an enroller can do with invites that are another one's to redeem.

use std::sync::Arc;

use certs::{
    ca::{CaKey, Enroller},
    codec::Millis,
    error::Error,
    grant::NodeGrant,
    root::Root,
    sign::{Digest, PublicKey, SigningKey},
    verify::{Authority, VerifyError, verify_ca},
};
use rustls::pki_types::CertificateDer;

use crate::world::{DAY, NOW, node_grant, node_id, trust_domain};

/// Two enrollers, `a` and `e`, and the node `b`, whose invite is `a`'s to redeem.
struct Two {
    root: Root,
    key: CaKey,
    a: Enroller,
    e: Enroller,
    authority: Authority,
}

/// The keys of one machine.
struct Machine {
    ca: CaKey,
    record: SigningKey,
}

impl Machine {
    fn new() -> Machine {
        Machine { ca: CaKey::generate(), record: SigningKey::generate() }
    }
}

fn enroller(root: &Root, node: &str, key: CaKey, now: Millis) -> Enroller {
    let certificate = root.issue_enroller_for(&node_id(node), 1, &key.spki(), 100 * DAY, now).unwrap();
    Enroller::new(&trust_domain(), vec![certificate], key).unwrap()
}

fn copy(key: &CaKey) -> CaKey {
    CaKey::from_pem(&key.to_pem()).unwrap()
}

impl Two {
    fn new() -> Two {
        let root = Root::generate(&trust_domain(), NOW);
        let key = CaKey::generate();
        let (a, e) = (enroller(&root, "a", copy(&key), NOW), enroller(&root, "e", CaKey::generate(), NOW));
        let mut authority = Authority::new(trust_domain(), vec![root.certificate()]);
        let first = NodeGrant { redeemer: None, ..node_grant("a", 1, &["shop/web=web"], true) };
        let guest =
            NodeGrant { token_hash: Some(Digest::of(b"token")), ..node_grant("b", 1, &["shop/api=api"], false) };
        for grant in [first, node_grant("e", 1, &[], true), guest] {
            authority.grants.insert(grant.node.clone(), Arc::new(grant));
        }
        Two { root, key, a, e, authority }
    }

    fn signed(&self, node: &str) -> &NodeGrant {
        &self.authority.grants[&node_id(node)]
    }

    /// `b` as `a` enrols it.
    fn enrolled(&self, machine: &Machine) -> Vec<Vec<u8>> {
        self.certify(&self.a, machine, None, NOW).unwrap()
    }

    fn certify(
        &self,
        by: &Enroller,
        machine: &Machine,
        old: Option<&[Vec<u8>]>,
        now: Millis,
    ) -> Result<Vec<Vec<u8>>, Error> {
        by.certify(self.signed("b"), (&machine.ca.spki(), machine.record.public()), old, 30 * DAY, now)
    }

    fn judge(&self, chain: &[Vec<u8>], now: Millis) -> Result<PublicKey, VerifyError> {
        judge(chain, &self.authority, now)
    }
}

fn judge(chain: &[Vec<u8>], authority: &Authority, now: Millis) -> Result<PublicKey, VerifyError> {
    let chain: Vec<CertificateDer<'_>> = chain.iter().map(|der| der.as_slice().into()).collect();
    verify_ca(&chain, authority, now).map(|facts| facts.record_key)
}

fn unredeemed(verdict: Result<PublicKey, VerifyError>) {
    let expected = VerifyError::Unredeemed { node: node_id("b"), redeemer: node_id("a"), enroller: node_id("e") };
    assert_eq!(verdict, Err(expected));
}

#[test]
fn any_enroller_renews_what_its_redeemer_enrolled() {
    let two = Two::new();
    let machine = Machine::new();
    let mut chain = two.enrolled(&machine);
    assert_eq!(two.judge(&chain, NOW), Ok(machine.record.public()));
    // Round after round, for longer than the redeemer's certificate lives.
    for round in 0..20 {
        let now = NOW + round * 15 * DAY;
        let other = enroller(&two.root, "e", CaKey::generate(), now);
        chain = two.certify(&other, &machine, Some(&chain), now).unwrap();
        assert_eq!(two.judge(&chain, now), Ok(machine.record.public()), "round {round}");
    }
    // And back, and away again.
    let now = NOW + 300 * DAY;
    for (node, key) in [("a", copy(&two.key)), ("e", CaKey::generate()), ("a", CaKey::generate())] {
        chain = two.certify(&enroller(&two.root, node, key, now), &machine, Some(&chain), now).unwrap();
        assert_eq!(two.judge(&chain, now), Ok(machine.record.public()), "{node}");
    }
}

#[test]
fn a_stolen_enroller_takes_no_name_that_is_anothers_to_enrol() {
    let two = Two::new();
    let (owner, thief) = (Machine::new(), Machine::new());
    let theirs = |machine: &Machine| {
        let grant = two.signed("b").certified(machine.record.public());
        two.e.issue_node_unchecked(&machine.ca.spki(), &grant, NOW).unwrap()
    };
    // Without a word of the redeemer, whether the name is taken or its invite still open.
    unredeemed(two.judge(&theirs(&thief), NOW));
    assert!(matches!(two.certify(&two.e, &thief, None, NOW), Err(Error::Unredeemed { .. })));
    assert!(matches!(two.certify(&two.e, &thief, Some(&theirs(&thief)), NOW), Err(Error::Unredeemed { .. })));
    let chain = two.enrolled(&owner);
    // With the owner's, under other keys: the CA's, or the records' alone.
    unredeemed(two.judge(&two.certify(&two.e, &thief, Some(&chain), NOW).unwrap(), NOW));
    let mixed = Machine { ca: copy(&owner.ca), record: SigningKey::generate() };
    unredeemed(two.judge(&two.certify(&two.e, &mixed, Some(&chain), NOW).unwrap(), NOW));
    // By a word of its own, in its own name, and in that of the redeemer under a root of its own.
    let own = NodeGrant { redeemer: Some(node_id("e")), ..two.signed("b").clone() };
    let keys = (thief.ca.spki(), thief.record.public());
    unredeemed(two.judge(&two.e.certify(&own, (&keys.0, keys.1), None, DAY, NOW).unwrap(), NOW));
    let impostor = enroller(&Root::generate(&trust_domain(), NOW), "a", CaKey::generate(), NOW);
    let word = two.certify(&impostor, &thief, None, NOW).unwrap();
    unredeemed(two.judge(&two.certify(&two.e, &thief, Some(&word), NOW).unwrap(), NOW));
    // By a word of the redeemer whose signature is another's.
    let other = two.enrolled(&Machine::new());
    let spliced = vec![other[0].clone(), two.a.chain()[0].clone()];
    unredeemed(two.judge(&two.certify(&two.e, &thief, Some(&spliced), NOW).unwrap(), NOW));
}

#[test]
fn a_redemption_is_of_one_invite() {
    let two = Two::new();
    let machine = Machine::new();
    let chain = two.enrolled(&machine);
    let renewed = two.certify(&two.e, &machine, Some(&chain), NOW).unwrap();
    assert!(two.judge(&renewed, NOW).is_ok());
    for edit in [
        (|grant: &mut NodeGrant| grant.token_hash = Some(Digest::of(b"another"))) as fn(&mut NodeGrant),
        |grant| grant.token_hash = None,
        |grant| grant.epoch = 2,
        |grant| grant.redeemer = Some(node_id("x")),
        |grant| grant.redeemer = None,
    ] {
        let mut authority = two.authority.clone();
        let mut grant = two.signed("b").clone();
        edit(&mut grant);
        // The thief's enroller certifies whatever epoch there is, and passes on the word for the first.
        let keys = (machine.ca.spki(), machine.record.public());
        let chain = two.e.certify(&grant, (&keys.0, keys.1), Some(&renewed), DAY, NOW).unwrap();
        authority.grants.insert(node_id("b"), Arc::new(grant));
        assert!(matches!(judge(&chain, &authority, NOW), Err(VerifyError::Unredeemed { .. })));
    }
    // What else a grant says is not the redeemer's affair.
    let mut authority = two.authority.clone();
    let grant = NodeGrant { services: Vec::new(), token_expires: None, enroller: true, ..two.signed("b").clone() };
    authority.grants.insert(node_id("b"), Arc::new(grant));
    assert!(judge(&renewed, &authority, NOW).is_ok());
}

#[test]
fn a_redemption_outlives_its_redeemer_and_not_its_key() {
    let two = Two::new();
    let machine = Machine::new();
    let renewed = two.certify(&two.e, &machine, Some(&two.enrolled(&machine)), NOW).unwrap();
    let judged = |edit: &dyn Fn(&mut Authority)| {
        let mut authority = two.authority.clone();
        edit(&mut authority);
        judge(&renewed, &authority, NOW)
    };
    // The redeemer was evicted, left, or is known no more.
    assert!(judged(&|authority| authority.revocations.evict(node_id("a"), 1)).is_ok());
    assert!(judged(&|authority| drop(authority.grants.remove(&node_id("a")))).is_ok());
    // Its key was revoked.
    let revoked = Digest::of(&two.key.spki());
    unredeemed(judged(&|authority| assert!(authority.revocations.keys.insert(revoked))));
    // The root has changed, and the other enroller is certified by the new one.
    let root = Root::generate(&trust_domain(), NOW);
    let e = enroller(&root, "e", CaKey::generate(), NOW);
    let moved = two.certify(&e, &machine, Some(&renewed), NOW).unwrap();
    let mut authority = two.authority.clone();
    authority.former = std::mem::replace(&mut authority.roots, vec![root.certificate()]);
    assert!(judge(&moved, &authority, NOW).is_ok());
    authority.former.clear();
    assert!(matches!(judge(&moved, &authority, NOW), Err(VerifyError::Unredeemed { .. })));
    // The redeemer says it anew by its certificate of now.
    let again = enroller(&root, "a", copy(&two.key), NOW);
    let fresh = two.certify(&again, &machine, Some(&moved), NOW).unwrap();
    assert!(judge(&two.certify(&e, &machine, Some(&fresh), NOW).unwrap(), &authority, NOW).is_ok());
}

/// The root has certified an enroller as the node that it is, so it needs nobody's word on its own keys, and others take its.
#[test]
fn an_enroller_vouches_for_itself() {
    let two = Two::new();
    let machine = Machine::new();
    for node in ["a", "e"] {
        let (own, other) = if node == "a" { (&two.a, &two.e) } else { (&two.e, &two.a) };
        let keys = (machine.ca.spki(), machine.record.public());
        let chain = own.certify(two.signed(node), (&keys.0, keys.1), None, DAY, NOW).unwrap();
        assert!(two.judge(&chain, NOW).is_ok(), "{node}");
        let renewed = other.certify(two.signed(node), (&keys.0, keys.1), Some(&chain), DAY, NOW).unwrap();
        assert!(two.judge(&renewed, NOW).is_ok(), "{node}");
    }
    // Not for the machine that has its name now.
    let mut authority = two.authority.clone();
    let grant = NodeGrant { epoch: 2, redeemer: Some(node_id("a")), ..two.signed("e").clone() };
    let keys = (machine.ca.spki(), machine.record.public());
    let old = two.e.issue_node_unchecked(&keys.0, &grant.certified(keys.1), NOW).unwrap();
    let joined = two.a.certify(&grant, (&keys.0, keys.1), None, DAY, NOW).unwrap();
    authority.grants.insert(node_id("e"), Arc::new(grant));
    assert!(matches!(judge(&old, &authority, NOW), Err(VerifyError::Unredeemed { .. })));
    assert!(judge(&joined, &authority, NOW).is_ok());
}
