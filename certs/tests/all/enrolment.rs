//! The enrolment exchange, with the attacks on it.

use std::sync::Arc;

use certs::{
    ca::{CaKey, MAX_REQUEST, NodeCa, requested_key},
    codec::{Envelope, Millis},
    error::Error,
    grant::NodeGrant,
    join::{
        Chain, Hello, JoinRefusal, JoinReply, JoinRequest, Message, RenewRequest, Renewal, Secret, Token, Unread, proof,
    },
    sign::{Digest, SigningKey},
    tls::{self, Conversation, server_name},
    verify::{Authority, KnownKey, VerifyError, verify_ca},
};
use rcgen::{CertificateParams, DnType, KeyPair, SanType};
use rustls::pki_types::CertificateDer;

use crate::{
    forge,
    world::{DAY, HOUR, NOW, World, identity, node_grant, node_id, trust_domain},
};

pub(crate) const EXPORTER: &[u8] = &[7; 32];

pub(crate) fn token() -> Token {
    Token {
        trust_domain: trust_domain(),
        genesis: Digest::of(b"genesis"),
        role_set: 4,
        node: node_id("c"),
        secret: Secret::generate(),
        enroller: node_id("a"),
        addresses: vec!["10.0.0.5:15008".into(), "[fd00::5]:15008".into()],
        expires: NOW + HOUR,
    }
}

pub(crate) fn invited(token: &Token) -> NodeGrant {
    NodeGrant {
        token_hash: Some(token.secret.hash()),
        redeemer: Some(token.enroller.clone()),
        token_expires: Some(token.expires),
        ..node_grant("c", 1, &["shop/cart=cart"], false)
    }
}

fn request(token: &Token, key: &CaKey) -> JoinRequest {
    JoinRequest::new(token, EXPORTER, key.request(&node_id("c")), SigningKey::generate().public())
}

#[test]
fn a_token_goes_there_and_back() {
    let token = token();
    let text = token.to_string();
    assert!(text.starts_with("skein1.") && text.len() < 400, "{text}");
    let read: Token = format!("  {text}\n").parse().unwrap();
    assert_eq!(read.to_string(), text);
    assert_eq!((read.secret.hash(), read.role_set, read.addresses), (token.secret.hash(), 4, token.addresses.clone()));
    let shown = format!("{token:?}");
    assert!(shown.contains("Secret(..)"), "{shown}");
    for bad in ["", "skein1.", "skein2.AAAA", &text[..text.len() - 4], &text.replace("skein1.", "skein1.A")] {
        assert!(bad.parse::<Token>().is_err(), "{bad}");
    }
    assert!(format!("skein1.{}", "A".repeat(10_000)).parse::<Token>().is_err());
}

#[test]
fn an_invited_node_is_certified() {
    let world = World::new();
    let (token, key, record_key) = (token(), CaKey::generate(), SigningKey::generate());
    let grant = invited(&token);
    let request = JoinRequest::new(&token, EXPORTER, key.request(&node_id("c")), record_key.public());
    let spki = request.check(&grant, &node_id("a"), EXPORTER).unwrap();
    assert!(request.is_in_time(&grant, NOW).is_ok());
    assert_eq!(spki, key.spki());
    let chain = world.enroller.issue_node_unchecked(&spki, &grant.certified(record_key.public()), NOW).unwrap();
    world.edit_authority(|authority| drop(authority.grants.insert(node_id("c"), Arc::new(grant))));
    let ca = NodeCa::new(&trust_domain(), chain, key).unwrap();
    let ders: Vec<CertificateDer<'_>> = ca.chain().iter().map(|der| der.as_slice().into()).collect();
    assert_eq!(verify_ca(&ders, &world.authority.load(), NOW).unwrap().record_key, record_key.public());
    assert!(ca.leaf(&identity("shop/cart"), NOW).is_ok());
}

#[test]
fn what_an_enroller_refuses() {
    let (token, key) = (token(), CaKey::generate());
    let good = invited(&token);
    let asked = request(&token, &key);
    let code = |request: &JoinRequest, grant: &NodeGrant, enroller: &str, exporter: &[u8]| {
        request.check(grant, &node_id(enroller), exporter).unwrap_err().code
    };
    assert!(asked.check(&good, &node_id("a"), EXPORTER).is_ok());
    assert_eq!(code(&asked, &good, "b", EXPORTER), "wrong_enroller");
    assert_eq!(asked.is_in_time(&good, NOW + HOUR).unwrap_err().code, "token_expired");
    // Relayed to another TLS session.
    assert_eq!(code(&asked, &good, "a", &[8; 32]), "bad_proof");
    // A later invite of the name.
    let later = NodeGrant { token_hash: Some(Secret::generate().hash()), ..good.clone() };
    assert_eq!(code(&asked, &later, "a", EXPORTER), "token_invalid");
    let retired = NodeGrant { retired: true, ..good.clone() };
    assert_eq!(code(&asked, &retired, "a", EXPORTER), "not_granted");
    let first = node_grant("c", 1, &[], true);
    assert_eq!(code(&asked, &first, "a", EXPORTER), "not_granted");
    let other = NodeGrant { node: node_id("d"), ..good.clone() };
    assert_eq!(code(&asked, &other, "a", EXPORTER), "bad_request");
    let guessed = JoinRequest { secret: Secret::generate(), ..asked.clone() };
    assert_eq!(code(&guessed, &good, "a", EXPORTER), "token_invalid");
    // Another key in the place of the proven one.
    let swapped = JoinRequest { request: CaKey::generate().request(&node_id("c")), ..asked.clone() };
    assert_eq!(code(&swapped, &good, "a", EXPORTER), "bad_proof");
    let swapped = JoinRequest { record_key: SigningKey::generate().public(), ..asked };
    assert_eq!(code(&swapped, &good, "a", EXPORTER), "bad_proof");
    let unreadable = JoinRequest::new(&token, EXPORTER, vec![1, 2, 3], SigningKey::generate().public());
    assert_eq!(code(&unreadable, &good, "a", EXPORTER), "bad_request");
}

#[test]
fn a_request_names_its_node_and_asks_for_nothing() {
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let refused = |params: &CertificateParams, key: &KeyPair| {
        let der = params.serialize_request(key).unwrap();
        assert!(matches!(requested_key(der.der(), &node_id("c")), Err(Error::Request(_))));
    };
    let mut good = CertificateParams::default();
    good.distinguished_name = rcgen::DistinguishedName::new();
    good.distinguished_name.push(DnType::CommonName, "c");
    assert!(requested_key(good.serialize_request(&key).unwrap().der(), &node_id("c")).is_ok());
    let mut ca = good.clone();
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    refused(&ca, &key);
    let mut names = good.clone();
    names.subject_alt_names = vec![SanType::DnsName("web.shop.prod.example".try_into().unwrap())];
    refused(&names, &key);
    let mut more = good.clone();
    more.distinguished_name.push(DnType::OrganizationName, "x");
    refused(&more, &key);
    let mut other = good.clone();
    other.distinguished_name.push(DnType::CommonName, "d");
    refused(&other, &key);
    refused(&good, &KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap());
    refused(&good, &KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap());
    let mut forged = good.serialize_request(&key).unwrap().der().to_vec();
    let last = forged.len() - 1;
    forged[last] ^= 1;
    assert!(requested_key(&forged, &node_id("c")).is_err());
    assert!(requested_key(&vec![0x30; MAX_REQUEST + 1], &node_id("c")).is_err());
}

#[test]
fn the_proof_binds_every_part() {
    let (secret, key) = (Secret::generate(), forge::record_key());
    let one = proof(&secret, b"exporter", b"request", &key);
    assert_eq!(one, proof(&secret, b"exporter", b"request", &key));
    for other in [
        proof(&Secret::generate(), b"exporter", b"request", &key),
        proof(&secret, b"exporte", b"rrequest", &key),
        proof(&secret, b"exporter", b"request", &forge::record_key()),
    ] {
        assert_ne!(one, other);
    }
}

/// A man in the middle with a CA of his own sees no proof: the joiner finds him out before.
#[test]
fn the_joiner_knows_its_enroller() {
    let (world, impostors, token) = (World::new(), World::new(), token());
    let chain_shown = |by: &World, node: &str, account: &str| {
        let client = tls::joiner(by.clock.clone());
        let server = by.tls(node, account).server(Conversation::Join);
        let name = server_name(Some(&identity(node)), &trust_domain());
        let mut client = rustls::ClientConnection::new(client, name).unwrap();
        let mut server = rustls::ServerConnection::new(server).unwrap();
        for _ in 0..3 {
            let mut wire = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut wire).unwrap();
            }
            server.read_tls(&mut wire.as_slice()).unwrap();
            server.process_new_packets().unwrap();
            let mut wire = Vec::new();
            while server.wants_write() {
                server.write_tls(&mut wire).unwrap();
            }
            client.read_tls(&mut wire.as_slice()).unwrap();
            client.process_new_packets().unwrap();
        }
        client.peer_certificates().unwrap().iter().map(|der| der.clone().into_owned()).collect::<Vec<_>>()
    };
    let judge =
        |chain: &[CertificateDer<'_>]| token.verify_enroller(chain, &world.authority.load(), NOW).map(|p| p.node);
    assert_eq!(judge(&chain_shown(&world, "a", "shop/web")), Ok(node_id("a")));
    let other = judge(&chain_shown(&world, "b", "shop/reviews"));
    assert!(matches!(other, Err(VerifyError::WrongIdentity { .. })));
    assert_eq!(judge(&chain_shown(&impostors, "a", "shop/web")), Err(VerifyError::UntrustedRoot));
}

#[test]
fn a_mesh_that_was_off_for_a_month_renews() {
    let world = World::new();
    let (key, record_key) = (CaKey::generate(), SigningKey::generate());
    let grant = world.authority.load().grants[&node_id("b")].certified(record_key.public());
    let chain = world.enroller.issue_node_unchecked(&key.spki(), &grant, NOW).unwrap();
    let renew = |key: &CaKey, by: &SigningKey| RenewRequest::new(&node_id("b"), chain.clone(), (key, by), EXPORTER);
    let later = NOW + 40 * DAY;
    world.edit_authority(|authority| {
        let (ca_key, record_key) = (Digest::of(&key.spki()), record_key.public());
        authority.known_keys.insert(node_id("b"), KnownKey { epoch: grant.epoch, ca_key, record_key });
    });
    let authority = world.authority.load_full();
    let renewal = renew(&key, &record_key).check(&authority, EXPORTER, later).unwrap();
    let signed = authority.grants[&node_id("b")].clone();
    assert_eq!(renewal, Renewal { spki: key.spki(), record_key: record_key.public(), signed: signed.clone() });
    let chain = world.enroller.certify(&signed, (&renewal.spki, renewal.record_key), Some(&chain), DAY, later).unwrap();
    let chain: Vec<CertificateDer<'_>> = chain.iter().map(|der| der.as_slice().into()).collect();
    assert_eq!(verify_ca(&chain, &authority, later).unwrap().grant, grant);
    let code = |request: RenewRequest, exporter: &[u8]| request.check(&authority, exporter, later).unwrap_err().code;
    assert_eq!(code(renew(&key, &record_key), &[8; 32]), "bad_proof");
    assert_eq!(code(renew(&key, &SigningKey::generate()), EXPORTER), "bad_proof");
    assert_eq!(code(renew(&CaKey::generate(), &record_key), EXPORTER), "bad_request");
    // The request is public; its key must have signed on this connection.
    let other =
        RenewRequest { ca_signature: renew(&CaKey::generate(), &record_key).ca_signature, ..renew(&key, &record_key) };
    assert_eq!(code(other, EXPORTER), "bad_proof");
    let proven = renew(&key, &record_key);
    let elsewhere = RenewRequest::new(&node_id("b"), proven.chain.clone(), (&key, &record_key), &[8; 32]);
    let replayed = RenewRequest { ca_signature: elsewhere.ca_signature, ..proven };
    assert_eq!(code(replayed, EXPORTER), "bad_proof");
    world.edit_authority(|authority| authority.revocations.evict(node_id("b"), 1));
    let evicted = renew(&key, &record_key).check(&world.authority.load(), EXPORTER, later);
    assert_eq!(evicted.unwrap_err().code, "not_granted");
}

#[test]
fn under_a_withdrawn_root_only_a_key_that_was_seen_renews() {
    let world = World::new();
    let (key, record_key) = (CaKey::generate(), SigningKey::generate());
    let grant = world.authority.load().grants[&node_id("b")].certified(record_key.public());
    let chain = world.enroller.issue_node_unchecked(&key.spki(), &grant, NOW).unwrap();
    let renew = RenewRequest::new(&node_id("b"), chain, (&key, &record_key), EXPORTER);
    let judge = |edit: fn(&mut Authority), seen: Option<KnownKey>, now: Millis| {
        let mut authority = Authority::clone(&world.authority.load());
        authority.former = std::mem::replace(&mut authority.roots, vec![World::new().root.certificate()]);
        authority.known_keys.extend(seen.map(|seen| (node_id("b"), seen)));
        edit(&mut authority);
        renew.check(&authority, EXPORTER, now).map(|renewal| renewal.spki).map_err(|refusal| refusal.message)
    };
    let seen =
        |key: &CaKey, epoch| Some(KnownKey { epoch, ca_key: Digest::of(&key.spki()), record_key: record_key.public() });
    for now in [NOW, NOW + 40 * DAY, NOW + 20 * 365 * DAY] {
        assert_eq!(judge(|_| (), seen(&key, 1), now), Ok(key.spki()), "also once node, enroller and root have ended");
    }
    let refused = |verdict: Result<Vec<u8>, String>, why: &str| {
        let message = verdict.unwrap_err();
        assert!(message.contains(why), "{message}");
    };
    refused(judge(|_| (), None, NOW), "not seen here before");
    refused(judge(|_| (), seen(&CaKey::generate(), 1), NOW), "another CA key");
    refused(judge(|_| (), seen(&key, 0), NOW), "not seen here before");
    refused(judge(|authority| authority.former.clear(), seen(&key, 1), NOW), "no root of this mesh");
    refused(judge(|authority| authority.revocations.evict(node_id("b"), 1), seen(&key, 1), NOW), "evicted");
    // It counts for renewal and for nothing else.
    let mut authority = Authority::clone(&world.authority.load());
    authority.former = std::mem::replace(&mut authority.roots, vec![World::new().root.certificate()]);
    let chain: Vec<CertificateDer<'_>> = renew.chain.iter().map(|der| der.as_slice().into()).collect();
    assert_eq!(verify_ca(&chain, &authority, NOW), Err(VerifyError::UntrustedRoot));
}

/// Who has the key of a root that was withdrawn certifies the owner's CA key with a record key of his own, and shows a request that the
/// owner once made.
#[test]
fn a_withdrawn_root_gives_a_node_no_other_record_key() {
    let world = World::new();
    let (key, owner, thief) = (CaKey::generate(), SigningKey::generate(), SigningKey::generate());
    let grant = |record_key: &SigningKey| world.authority.load().grants[&node_id("b")].certified(record_key.public());
    let known = KnownKey { epoch: 1, ca_key: Digest::of(&key.spki()), record_key: owner.public() };
    let mut authority = Authority::clone(&world.authority.load());
    authority.former = std::mem::replace(&mut authority.roots, vec![World::new().root.certificate()]);
    authority.known_keys.insert(node_id("b"), known);
    let renewed = |record_key: &SigningKey, now| {
        let chain = world.enroller.issue_node_unchecked(&key.spki(), &grant(record_key), NOW).unwrap();
        // As if he held the CA key, too: what was seen speaks against him nevertheless.
        let renew = RenewRequest::new(&node_id("b"), chain, (&key, record_key), EXPORTER);
        renew.check(&authority, EXPORTER, now).map(|renewal| renewal.record_key).map_err(|refusal| refusal.code)
    };
    for now in [NOW, NOW + 40 * DAY] {
        assert_eq!(renewed(&owner, now), Ok(owner.public()));
        assert_eq!(renewed(&thief, now), Err("not_granted".into()));
    }
}

#[test]
fn messages_go_there_and_back() {
    let (token, key) = (token(), CaKey::generate());
    let messages = [
        Message::Hello(Hello { version: 1 }),
        Message::Chain(Chain { role_sets: vec![vec![1; 3]], grants: vec![vec![2; 300_000]] }),
        Message::Prove(request(&token, &key)),
        Message::Renew(RenewRequest::new(&node_id("b"), vec![vec![1]], (&key, &SigningKey::generate()), EXPORTER)),
        Message::Reply(JoinReply { chain: vec![vec![3; 900]; 2], changesets: vec![] }),
        Message::Refusal(JoinRefusal::new("token_spent", "used before")),
    ];
    for message in messages {
        let bytes = message.encode();
        let read = Message::decode(&bytes).unwrap();
        assert_eq!(read.encode(), bytes);
        assert!(Message::decode(&bytes[..bytes.len() - 1]).is_err());
    }
    let written = |version, kind, body| certs::codec::encode(&Envelope { version, kind, body });
    assert!(matches!(Message::decode(&written(1, 77, vec![])), Err(Unread::Kind(77))));
    // Whatever a later version makes of a message; but for a refusal, which says what to do about it.
    for kind in [1, 2, 3, 4, 5, 7] {
        assert!(matches!(Message::decode(&written(2, kind, vec![9; 9])), Err(Unread::Version(2))), "{kind}");
    }
    let refusal = JoinRefusal::new("not_supported", "too old");
    let read = Message::decode(&written(2, 6, certs::codec::encode(&refusal)));
    assert!(matches!(read, Ok(Message::Refusal(read)) if read == refusal));
    let huge = Message::Prove(JoinRequest { request: vec![0; 100_000], ..request(&token, &key) });
    assert!(Message::decode(&huge.encode()).is_err());
}
