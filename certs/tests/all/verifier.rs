//! One case per rule of the verifier, and the proof that what our own CAs issue passes it and a foreign one.

use std::sync::Arc;

use certs::{
    ca::{CaKey, NodeCa},
    error::Error,
    grant::{Grant, Pattern},
    id::ServiceAccount,
    sign::{Digest, PublicKey},
    verify::{CLOCK_TOLERANCE, KnownKey, Link, VerifyError, verify, verify_ca, verify_ca_by_roots, verify_lapsed_ca},
};
use proptest::prelude::*;
use rcgen::{
    BasicConstraints, CustomExtension, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P384_SHA384,
    PKCS_ED25519, PKCS_RSA_SHA256, PublicKeyData, SanType,
};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};

use crate::{
    forge::{Edit, Forge, key, node_ca_grant, record_key},
    world::{DAY, HOUR, MINUTE, NOW, World, identity, node_grant, node_id, trust_domain},
};

/// The verdict on a forged chain.
fn verdict(edit: impl FnOnce(&mut Forge)) -> Result<(), VerifyError> {
    let mut forge = Forge::new();
    edit(&mut forge);
    let (chain, authority, now) = forge.build();
    verify(&chain, &authority, now).map(drop)
}

macro_rules! refused {
    ($($name:ident: $edit:expr => $error:pat,)+) => {$(
        #[test]
        fn $name() {
            let verdict = verdict($edit);
            assert!(matches!(verdict, Err($error)), "{verdict:?}");
        }
    )+};
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

fn dns(text: &str) -> SanType {
    SanType::DnsName(text.try_into().unwrap())
}

fn key_digest(key: &KeyPair) -> Digest {
    Digest::of(&key.subject_public_key_info())
}

/// These are the keys that `b` was first seen with.
fn knows(forge: &mut Forge, epoch: u64, ca_key: Digest, record_key: PublicKey) {
    forge.authority.known_keys.insert(node_id("b"), KnownKey { epoch, ca_key, record_key });
}

#[test]
fn a_good_chain_passes() {
    assert_eq!(verdict(|_| ()), Ok(()));
}

// Names of the leaf.
refused! {
    two_uris: |f| f.leaf.params.subject_alt_names.push(uri("spiffe://prod.example/ns/shop/sa/web")) => VerifyError::Names { .. },
    two_dns_names: |f| f.leaf.params.subject_alt_names.push(dns("web.shop.prod.example")) => VerifyError::Names { .. },
    an_ip_address: |f| f.leaf.params.subject_alt_names.push(SanType::IpAddress([127, 0, 0, 1].into())) => VerifyError::Names { .. },
    an_email_address: |f| f.leaf.params.subject_alt_names.push(SanType::Rfc822Name("a@b.c".try_into().unwrap()))
        => VerifyError::Names { .. },
    no_names: |f| f.leaf.params.subject_alt_names.clear() => VerifyError::Names { .. },
    no_uri: |f| f.leaf.params.subject_alt_names = vec![dns("reviews.shop.prod.example")] => VerifyError::Names { .. },
    no_dns_image: |f| f.leaf.params.subject_alt_names.truncate(1) => VerifyError::Names { .. },
    a_foreign_dns_image: |f| f.leaf.params.subject_alt_names[1] = dns("web.shop.prod.example") => VerifyError::Names { .. },
    upper_case: |f| f.leaf.params.subject_alt_names[0] = uri("spiffe://prod.example/ns/shop/sa/Reviews") => VerifyError::Identity(_),
    dots_in_the_path: |f| f.leaf.params.subject_alt_names[0] = uri("spiffe://prod.example/ns/../sa/reviews")
        => VerifyError::Identity(_),
    a_query: |f| f.leaf.params.subject_alt_names[0] = uri("spiffe://prod.example/ns/shop/sa/reviews?x") => VerifyError::Identity(_),
    a_foreign_trust_domain: |f| f.leaf.params.subject_alt_names =
        vec![uri("spiffe://other.example/ns/shop/sa/reviews"), dns("reviews.shop.other.example")] => VerifyError::TrustDomain(_),
    an_account_outside_the_grant: |f| f.leaf.params.subject_alt_names =
        vec![uri("spiffe://prod.example/ns/shop/sa/web"), dns("web.shop.prod.example")] => VerifyError::OutsideGrant(..),
    a_namespace_outside_the_grant: |f| f.leaf.params.subject_alt_names =
        vec![uri("spiffe://prod.example/ns/bank/sa/reviews"), dns("reviews.bank.prod.example")] => VerifyError::OutsideGrant(..),
    another_nodes_identity: |f| f.leaf.params.subject_alt_names =
        vec![uri("spiffe://prod.example/mesh/node/a"), dns("a._node.prod.example")] => VerifyError::OutsideGrant(..),
}

// Shape of the leaf.
refused! {
    no_extended_usage: |f| f.leaf.params.extended_key_usages.clear() => VerifyError::ExtendedKeyUsage { link: Link::Leaf },
    server_only: |f| f.leaf.params.extended_key_usages.truncate(1) => VerifyError::ExtendedKeyUsage { link: Link::Leaf },
    code_signing_too: |f| f.leaf.params.extended_key_usages.push(ExtendedKeyUsagePurpose::CodeSigning)
        => VerifyError::ExtendedKeyUsage { link: Link::Leaf },
    any_usage: |f| f.leaf.params.extended_key_usages.push(ExtendedKeyUsagePurpose::Any)
        => VerifyError::ExtendedKeyUsage { link: Link::Leaf },
    no_key_usage: |f| f.leaf.params.key_usages.clear() => VerifyError::KeyUsage { link: Link::Leaf },
    key_agreement_too: |f| f.leaf.params.key_usages.push(KeyUsagePurpose::KeyAgreement) => VerifyError::KeyUsage { link: Link::Leaf },
    signing_certificates_too: |f| f.leaf.params.key_usages.push(KeyUsagePurpose::KeyCertSign)
        => VerifyError::KeyUsage { link: Link::Leaf },
    a_ca_bit: |f| f.leaf.params.path_length(0) => VerifyError::BasicConstraints { link: Link::Leaf },
    three_days: |f| f.leaf.params.lives(NOW - HOUR, NOW + 71 * HOUR) => VerifyError::Life { link: Link::Leaf, hours: 72, .. },
    a_leaf_with_a_grant: |f| f.leaf.params.grant(&node_ca_grant()) => VerifyError::Malformed { link: Link::Leaf, .. },
    an_unknown_critical_extension: |f| {
        let mut extension = CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0]);
        extension.set_criticality(true);
        f.leaf.params.custom_extensions = vec![extension];
    } => VerifyError::Extension { link: Link::Leaf, .. },
    an_extension_twice: |f| f.leaf.params.custom_extensions = vec![
        CustomExtension::from_oid_content(&[2, 5, 29, 37], vec![0x30, 0x00])] => VerifyError::Extension { link: Link::Leaf, .. },
    an_rsa_key: |f| f.leaf.key = KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap() => VerifyError::KeyType { link: Link::Leaf },
    a_p384_key: |f| f.leaf.key = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap() => VerifyError::KeyType { link: Link::Leaf },
    an_ed25519_key: |f| f.leaf.key = KeyPair::generate_for(&PKCS_ED25519).unwrap() => VerifyError::KeyType { link: Link::Leaf },
}

// Time.
refused! {
    a_leaf_that_has_ended: |f| f.now = NOW + HOUR + CLOCK_TOLERANCE => VerifyError::Expired { link: Link::Leaf, .. },
    a_leaf_from_the_future: |f| f.now = NOW - 5 * MINUTE - CLOCK_TOLERANCE - 1000 => VerifyError::NotYetValid { .. },
    an_expired_anchor: |f| f.root.params.lives(NOW - DAY, NOW - HOUR) => VerifyError::Expired { link: Link::Root, .. },
    a_leaf_that_outlives_its_ca: |f| f.node.params.lives(NOW - 5 * MINUTE, NOW + HOUR - MINUTE)
        => VerifyError::Nesting { link: Link::Leaf },
    a_leaf_older_than_its_ca: |f| f.node.params.lives(NOW, NOW + DAY) => VerifyError::Nesting { link: Link::Leaf },
    a_node_ca_that_outlives_the_enroller: |f| f.enroller.params.lives(NOW - 5 * MINUTE, NOW + DAY)
        => VerifyError::Nesting { link: Link::NodeCa },
    an_enroller_that_outlives_the_root: |f| f.root.params.lives(NOW - 5 * MINUTE, NOW + 40 * DAY)
        => VerifyError::Nesting { link: Link::Enroller },
    a_node_ca_of_31_days: |f| f.node.params.lives(NOW - 5 * MINUTE, NOW + 31 * DAY) => VerifyError::Life { link: Link::NodeCa, .. },
    an_enroller_of_two_years: |f| f.enroller.params.lives(NOW - 5 * MINUTE, NOW + 730 * DAY)
        => VerifyError::Life { link: Link::Enroller, .. },
}

#[test]
fn five_minutes_of_tolerance_both_ways() {
    assert_eq!(verdict(|f| f.now = NOW + HOUR + CLOCK_TOLERANCE - 1000), Ok(()));
    assert_eq!(verdict(|f| f.now = NOW - 5 * MINUTE - CLOCK_TOLERANCE + 1000), Ok(()));
}

// The CAs.
refused! {
    a_node_ca_with_ca_below: |f| f.node.params.path_length(1) => VerifyError::BasicConstraints { link: Link::NodeCa },
    a_node_ca_without_path_length: |f| f.node.params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)
        => VerifyError::BasicConstraints { link: Link::NodeCa },
    a_node_ca_that_is_none: |f| f.node.params.is_ca = IsCa::ExplicitNoCa => VerifyError::BasicConstraints { link: Link::NodeCa },
    an_enroller_with_more_below: |f| f.enroller.params.path_length(2) => VerifyError::BasicConstraints { link: Link::Enroller },
    a_ca_that_signs_lists_too: |f| f.node.params.key_usages.push(KeyUsagePurpose::CrlSign)
        => VerifyError::KeyUsage { link: Link::NodeCa },
    a_ca_with_extended_usage: |f| f.node.params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]
        => VerifyError::ExtendedKeyUsage { link: Link::NodeCa },
    a_ca_with_names: |f| f.node.params.subject_alt_names = vec![dns("b._node.prod.example")]
        => VerifyError::Names { link: Link::NodeCa, .. },
    a_ca_key_of_p384: |f| f.node.key = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap()
        => VerifyError::SignatureAlgorithm { link: Link::Leaf },
    a_node_ca_without_grant: |f| f.node.params.custom_extensions.clear() => VerifyError::NoGrant { link: Link::NodeCa },
    an_unreadable_grant: |f| f.node.params.custom_extensions =
        vec![CustomExtension::from_oid_content(&crate::forge::GRANT_OID, vec![4, 1, 0])] => VerifyError::Malformed { link: Link::NodeCa, .. },
    a_grant_wider_than_the_enrollers: |f| {
        let accounts = vec![Pattern::Namespace("bank".into())];
        f.enroller.params.grant(&Grant { accounts, ..Grant::enroller(node_id("a"), 1) });
    } => VerifyError::WiderGrant(Pattern::Exact(..)),
    services_wider_than_the_enrollers: |f| {
        let services = vec![Pattern::Exact("shop".into(), "web".into())];
        f.enroller.params.grant(&Grant { services, ..Grant::enroller(node_id("a"), 1) });
    } => VerifyError::WiderGrant(Pattern::Exact(..)),
    a_node_ca_that_enrols: |f| f.node.params.grant(&Grant { enroller: true, ..node_ca_grant() })
        => VerifyError::GrantSort { link: Link::NodeCa },
    a_node_ca_without_record_key: |f| f.node.params.grant(&Grant { record_key: None, ..node_ca_grant() })
        => VerifyError::GrantSort { link: Link::NodeCa },
    an_enroller_that_does_not_enrol: |f| f.enroller.params.grant(&Grant { enroller: false, ..Grant::enroller(node_id("a"), 1) })
        => VerifyError::GrantSort { link: Link::Enroller },
    an_enroller_with_record_key: |f|
        f.enroller.params.grant(&Grant { record_key: Some(record_key()), ..Grant::enroller(node_id("a"), 1) })
        => VerifyError::GrantSort { link: Link::Enroller },
    an_unknown_critical_extension_in_the_anchor: |f| {
        let mut extension = CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0]);
        extension.set_criticality(true);
        f.root.params.custom_extensions = vec![extension];
    } => VerifyError::UntrustedRoot,
    a_root_with_a_grant: |f| f.root.params.grant(&node_ca_grant()) => VerifyError::UntrustedRoot,
    a_root_with_a_longer_path: |f| f.root.params.path_length(3) => VerifyError::UntrustedRoot,
    a_root_without_path_length: |f| f.root.params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained) => VerifyError::UntrustedRoot,
}

// Policy.
refused! {
    no_node_grant: |f| { f.authority.grants.remove(&node_id("b")); } => VerifyError::NoNodeGrant(_),
    no_node_grant_of_the_enroller: |f| { f.authority.grants.remove(&node_id("a")); } => VerifyError::NoNodeGrant(_),
    an_older_epoch: |f| {
        f.authority.grants.insert(node_id("b"), Arc::new(node_grant("b", 4, &["shop/reviews=reviews"], false)));
    } => VerifyError::Epoch { certificate: 3, current: 4, .. },
    an_epoch_that_nobody_signed: |f| {
        f.authority.grants.insert(node_id("b"), Arc::new(node_grant("b", 2, &["shop/reviews=reviews"], false)));
    } => VerifyError::Epoch { certificate: 3, current: 2, .. },
    a_retired_node: |f| {
        let mut grant = node_grant("b", 3, &["shop/reviews=reviews"], false);
        grant.retired = true;
        f.authority.grants.insert(node_id("b"), Arc::new(grant));
    } => VerifyError::Retired(_),
    a_narrowed_grant: |f| {
        f.authority.grants.insert(node_id("b"), Arc::new(node_grant("b", 3, &["shop/reviews=other"], false)));
    } => VerifyError::OutsideGrant(..),
    an_enroller_that_operators_do_not_know: |f| {
        f.authority.grants.insert(node_id("a"), Arc::new(node_grant("a", 1, &[], false)));
    } => VerifyError::NotEnroller(_),
    an_evicted_node: |f| f.authority.revocations.evict(node_id("b"), 3) => VerifyError::Evicted(_, 3),
    a_node_whose_later_epoch_is_evicted: |f| f.authority.revocations.evict(node_id("b"), 9) => VerifyError::Evicted(_, 3),
    an_evicted_enroller: |f| f.authority.revocations.evict(node_id("a"), 1) => VerifyError::Evicted(_, 1),
    a_revoked_account: |f| {
        f.authority.revocations.accounts.insert(ServiceAccount::new("shop", "reviews").unwrap());
    } => VerifyError::RevokedAccount(_),
    a_revoked_leaf_key: |f| { f.authority.revocations.keys.insert(key_digest(&f.leaf.key)); }
        => VerifyError::RevokedKey { link: Link::Leaf },
    a_revoked_node_ca_key: |f| { f.authority.revocations.keys.insert(key_digest(&f.node.key)); }
        => VerifyError::RevokedKey { link: Link::NodeCa },
    a_revoked_enroller_key: |f| { f.authority.revocations.keys.insert(key_digest(&f.enroller.key)); }
        => VerifyError::RevokedKey { link: Link::Enroller },
    a_revoked_root_key: |f| { f.authority.revocations.keys.insert(key_digest(&f.root.key)); }
        => VerifyError::RevokedKey { link: Link::Root },
    a_second_key_for_a_taken_name: |f| {
        knows(f, 3, key_digest(&key()), record_key());
    } => VerifyError::OtherKey(_),
    a_second_record_key_for_a_taken_name: |f| {
        let own = key_digest(&f.node.key);
        knows(f, 3, own, record_key());
    } => VerifyError::OtherKey(_),
}

#[test]
fn policy_that_does_not_concern_this_chain() {
    let passes = |edit: fn(&mut Forge)| assert_eq!(verdict(edit), Ok(()));
    passes(|f| f.authority.revocations.evict(node_id("b"), 2));
    passes(|f| {
        // The name was taken over since.
        knows(f, 2, key_digest(&key()), record_key());
    });
    passes(|f| {
        let (grant, own) = (node_ca_grant(), key_digest(&f.node.key));
        f.node.params.grant(&grant);
        knows(f, 3, own, grant.record_key.unwrap());
    });
    // What an enroller certified outlives its retirement and its machine's replacement.
    passes(|f| {
        let mut grant = node_grant("a", 2, &[], true);
        grant.retired = true;
        f.authority.grants.insert(node_id("a"), Arc::new(grant));
    });
    // An unusable root beside the right one.
    passes(|f| f.authority.roots.push(vec![0x30]));
}

#[test]
fn signatures_and_order() {
    let (chain, authority, now) = Forge::new().build();
    let (other, ..) = Forge::new().build();
    let check = |chain: &[CertificateDer<'_>]| verify(chain, &authority, now).map(drop);
    assert_eq!(check(&chain), Ok(()));
    assert_eq!(check(&[]), Err(VerifyError::Length { found: 0, expected: 3 }));
    assert_eq!(check(&chain[..1]), Err(VerifyError::Length { found: 1, expected: 3 }));
    let with_root = [chain.as_slice(), &[CertificateDer::from(authority.roots[0].clone())]].concat();
    assert_eq!(check(&with_root), Err(VerifyError::Length { found: 4, expected: 3 }));
    let mix = |a: usize, b: usize, c: usize| {
        let all = [chain.as_slice(), &other].concat();
        [all[a].clone(), all[b].clone(), all[c].clone()]
    };
    assert_eq!(check(&mix(3, 1, 2)), Err(VerifyError::Signature { link: Link::Leaf }));
    assert_eq!(check(&mix(3, 4, 2)), Err(VerifyError::Signature { link: Link::NodeCa }));
    assert_eq!(check(&mix(3, 4, 5)), Err(VerifyError::UntrustedRoot));
    assert!(matches!(check(&mix(0, 2, 1)), Err(VerifyError::Life { link: Link::NodeCa, .. })));
    let huge = vec![chain[0].clone(), chain[1].clone(), CertificateDer::from(vec![0x30; 16 * 1024])];
    assert!(matches!(check(&huge), Err(VerifyError::TooLarge(_))));
    assert!(matches!(
        check(&vec![CertificateDer::from(Vec::new()); 3]),
        Err(VerifyError::Malformed { link: Link::Leaf, .. })
    ));
    let mut trailing = chain.clone();
    trailing[0] = CertificateDer::from([chain[0].as_ref(), &[0]].concat());
    assert!(matches!(check(&trailing), Err(VerifyError::Malformed { link: Link::Leaf, .. })));
}

#[test]
fn no_flipped_bit_passes() {
    let (chain, authority, now) = Forge::new().build();
    for place in 0..chain.len() {
        for at in 0..chain[place].len() {
            let mut bytes = chain[place].to_vec();
            bytes[at] ^= 1 << (at % 8);
            let mut flipped = chain.clone();
            flipped[place] = bytes.into();
            let passed = verify(&flipped, &authority, now).is_ok();
            assert!(
                !passed,
                "certificate {place}, byte {at} of {}: {:02x?}",
                chain[place].len(),
                &chain[place][at.saturating_sub(9)..]
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn hostile_bytes_never_panic(edits in prop::collection::vec((0usize..3, any::<prop::sample::Index>(), any::<u8>()), 1..20), cut in any::<prop::sample::Index>()) {
        let (mut chain, authority, now) = Forge::new().build();
        for (place, at, byte) in edits {
            let mut bytes = chain[place].to_vec();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            chain[place] = bytes.into();
        }
        let _ = verify(&chain, &authority, now);
        chain[0] = chain[0][..cut.index(chain[0].len())].to_vec().into();
        prop_assert!(verify(&chain, &authority, now).is_err());
    }
}

#[test]
fn our_own_cas_pass() {
    let world = World::new();
    let ca = world.node("b");
    for text in ["shop/reviews", "b"] {
        let leaf = ca.leaf(&identity(text), NOW).unwrap();
        let peer = verify(&leaf.chain, &world.authority.load(), NOW).unwrap();
        assert_eq!((peer.id, peer.node, peer.epoch), (identity(text), node_id("b"), 1));
        assert_eq!((peer.not_before, peer.not_after), (leaf.not_before, leaf.not_after));
        assert_eq!(Some(peer.record_key), ca.grant().record_key);
        assert_eq!(peer.ca_key, Digest::of(&ca.key().spki()));
        let life = if text == "b" { DAY } else { HOUR + 5 * MINUTE };
        assert_eq!(leaf.not_after - leaf.not_before, life);
        assert_eq!(leaf.not_before, (NOW - 5 * MINUTE) / 1000 * 1000);
    }
    assert_eq!((ca.not_after() - ca.not_before(), ca.enroller()), (30 * DAY, &node_id("a")));
    let beyond = ca.leaf(&identity("shop/web"), NOW).unwrap_err();
    assert_eq!(beyond, Error::OutsideGrant(identity("shop/web")));
    assert!(matches!(ca.leaf(&identity("a"), NOW), Err(Error::OutsideGrant(_))));
}

/// A TLS stack that knows nothing of grants holds our CAs to their DNS names.
#[test]
fn a_foreign_verifier_is_satisfied_and_bounded() {
    let world = World::new();
    let ca = world.node("b");
    let root = CertificateDer::from(world.root.certificate());
    let anchors = [webpki::anchor_from_trusted_cert(&root).unwrap()];
    let now = UnixTime::since_unix_epoch(std::time::Duration::from_millis(NOW));
    let foreign = |chain: &[CertificateDer<'_>], name: String| {
        let leaf = webpki::EndEntityCert::try_from(&chain[0])?;
        let algorithms = [webpki::aws_lc_rs::ECDSA_P256_SHA256];
        let usage = webpki::KeyUsage::server_auth();
        leaf.verify_for_usage(&algorithms, &anchors, &chain[1..], now, usage, None, None)?;
        leaf.verify_is_valid_for_subject_name(&ServerName::try_from(name).unwrap())
    };
    for text in ["shop/reviews", "b"] {
        let leaf = ca.leaf(&identity(text), NOW).unwrap();
        foreign(&leaf.chain, identity(text).dns_name()).unwrap();
    }
    // The same CA key, out of its bounds: a leaf for another service.
    let key = KeyPair::from_pem(&ca.key().to_pem()).unwrap();
    let mut forge = Forge::new();
    forge.leaf.params.subject_alt_names = vec![dns("web.shop.prod.example")];
    let issuer = rcgen::Issuer::from_ca_cert_der(&ca.chain()[0].as_slice().into(), key).unwrap();
    let stolen = forge.leaf.params.signed_by(&forge.leaf.key, &issuer).unwrap().der().clone();
    let chain: Vec<CertificateDer<'_>> =
        std::iter::once(stolen).chain(ca.chain().iter().map(|der| der.clone().into())).collect();
    let refusal = foreign(&chain, "web.shop.prod.example".into()).unwrap_err();
    assert!(matches!(refusal, webpki::Error::NameConstraintViolation), "{refusal:?}");
}

#[test]
fn a_node_ca_without_leaf() {
    let world = World::new();
    let ca = world.node("b");
    let chain: Vec<CertificateDer<'_>> = ca.chain().iter().map(|der| der.as_slice().into()).collect();
    let authority = world.authority.load();
    let facts = verify_ca(&chain, &authority, NOW).unwrap();
    assert_eq!((facts.node, facts.not_after), (node_id("b"), ca.not_after()));
    let later = NOW + 31 * DAY;
    assert!(matches!(verify_ca(&chain, &authority, later), Err(VerifyError::Expired { link: Link::NodeCa, .. })));
    // Whoever has the key of an enroller that ended can date back a CA for any key: only a key seen before is renewed.
    assert!(verify_lapsed_ca(&chain, &authority, NOW).is_ok());
    assert!(matches!(verify_lapsed_ca(&chain, &authority, later), Err(VerifyError::UnseenKey(_))));
    let sees = |epoch, ca_key, record_key| {
        world.edit_authority(|authority| {
            authority.known_keys.insert(node_id("b"), KnownKey { epoch, ca_key, record_key });
        });
        world.authority.load()
    };
    assert!(verify_lapsed_ca(&chain, &sees(0, facts.ca_key, facts.record_key), later).is_err());
    assert!(verify_lapsed_ca(&chain, &sees(1, Digest::of(b"other"), facts.record_key), later).is_err());
    assert!(verify_lapsed_ca(&chain, &sees(1, facts.ca_key, record_key()), later).is_err());
    let authority = sees(1, facts.ca_key, facts.record_key);
    assert!(verify_lapsed_ca(&chain, &authority, later).is_ok());
    assert!(verify_lapsed_ca(&chain, &authority, NOW + 20 * 365 * DAY).is_ok(), "however long ago");
    world.edit_authority(|authority| authority.revocations.evict(node_id("b"), 1));
    assert!(matches!(verify_lapsed_ca(&chain, &world.authority.load(), later), Err(VerifyError::Evicted(..))));
}

/// An operator's machine, which has no NodeGrants.
#[test]
fn by_roots_alone_who_is_known_to_be_out_is_refused() {
    let verdict = |edit: fn(&mut Forge)| {
        let mut forge = Forge::new();
        forge.authority.grants.clear();
        edit(&mut forge);
        let (chain, authority, now) = forge.build();
        verify_ca_by_roots(&chain[1..], &authority, now).map(drop)
    };
    assert_eq!(verdict(|_| ()), Ok(()));
    assert_eq!(verdict(|f| f.authority.ended.extend([(node_id("b"), 2)])), Ok(()), "the machine before this one");
    assert_eq!(verdict(|f| f.authority.ended.extend([(node_id("a"), 7)])), Ok(()), "its enroller was replaced");
    let gone = verdict(|f| f.authority.ended.extend([(node_id("b"), 3)]));
    assert_eq!(gone, Err(VerifyError::Ended(node_id("b"), 3)));
    for (link, revoked) in [
        (Link::NodeCa, (|f| key_digest(&f.node.key)) as fn(&Forge) -> Digest),
        (Link::Enroller, |f| key_digest(&f.enroller.key)),
        (Link::Root, |f| key_digest(&f.root.key)),
    ] {
        let mut forge = Forge::new();
        let key = revoked(&forge);
        forge.authority.revocations.keys.insert(key);
        let (chain, authority, now) = forge.build();
        assert_eq!(verify_ca_by_roots(&chain[1..], &authority, now), Err(VerifyError::RevokedKey { link }));
    }
}

#[test]
fn issuers_keep_their_own_bounds() {
    let world = World::new();
    let key = CaKey::generate();
    let grant = node_ca_grant();
    let enrols = Grant { enroller: true, ..grant.clone() };
    assert!(matches!(world.enroller.issue_node_unchecked(&key.spki(), &enrols, NOW), Err(Error::Certificate(_))));
    let late = world.enroller.issue_node_unchecked(&key.spki(), &grant, NOW + 400 * DAY);
    assert!(matches!(late, Err(Error::IssuerNotValid { .. })));
    assert!(matches!(world.enroller.issue_node_unchecked(&[0; 91], &grant, NOW), Err(Error::Key { .. })));
    let many = (0..400).map(|n| Pattern::Exact("shop".into(), format!("service-{n}"))).collect::<Vec<_>>();
    let many = Grant { accounts: many.clone(), services: many, ..grant.clone() };
    assert!(matches!(world.enroller.issue_node_unchecked(&key.spki(), &many, NOW), Err(Error::TooLarge { .. })));
    // Shortly before its end an enroller issues what ends with it.
    let chain = world.enroller.issue_node_unchecked(&key.spki(), &grant, world.enroller.not_after() - DAY).unwrap();
    let ca = NodeCa::new(&trust_domain(), chain.clone(), key).unwrap();
    assert_eq!(ca.not_after(), world.enroller.not_after());
    let stranger = NodeCa::new(&trust_domain(), chain, CaKey::generate());
    assert!(matches!(stranger, Err(Error::Certificate(_))));
}

/// The longest chain that enrollers make leaves room for the longest leaf.
#[test]
fn the_fullest_grant_still_fits() {
    let world = World::new();
    let long = |n: usize| format!("{n:03}{}", "x".repeat(60));
    let grant = |count: usize| {
        let accounts: Vec<Pattern> = (0..count).map(|n| Pattern::Exact(long(1), long(n))).collect();
        Grant { node: node_id(&long(0)), accounts, services: Vec::new(), ..node_ca_grant() }
    };
    let key = CaKey::generate();
    let fits = |count: usize| world.enroller.issue_node_unchecked(&key.spki(), &grant(count), NOW);
    let most = (1..400).take_while(|count| fits(*count).is_ok()).last().unwrap();
    let ca = NodeCa::new(&trust_domain(), fits(most).unwrap(), CaKey::from_pem(&key.to_pem()).unwrap()).unwrap();
    let id = identity(&format!("{}/{}", long(1), long(0)));
    let bytes: usize = ca.leaf(&id, NOW).unwrap().chain.iter().map(|der| der.len()).sum();
    assert!(bytes <= certs::verify::MAX_CHAIN, "{bytes}");
    assert!(most >= 40, "{most}");
}
