//! The attacks on handshakes and on the enrolment exchange that need no process, by their numbers (A56-A58, A60-A62, A68-A70).

use std::sync::Arc;

use certs::{
    ca::{CaKey, requested_key},
    error::Error,
    join::JoinRequest,
    sign::SigningKey,
    tls::{self, Conversation},
    verify::{VerifyError, verify},
};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, SanType};
use rustls::{
    ClientConfig, ServerConfig,
    client::Resumption,
    pki_types::{CertificateDer, PrivateKeyDer},
    sign::{CertifiedKey, SingleCertAndKey},
};

use crate::{
    enrolment::{EXPORTER, invited, token},
    forge::{Edit, Forge},
    handshake::{Gullible, Outcome, Pair, name, reason, refusal, shake},
    world::{HOUR, NOW, StillClock, World, identity, node_id, trust_domain},
};

/// A forged chain shown by a server and by a client, each to a side that believes in the forge's root: what both say of it.
fn both_roles(edit: impl Fn(&mut Forge)) -> [(&'static str, VerifyError); 2] {
    let mut forge = Forge::new();
    edit(&mut forge);
    let key = PrivateKeyDer::Pkcs8(forge.leaf.key.serialize_der().into());
    let (chain, authority, now) = forge.build();
    let signer = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key).unwrap();
    let shown = Arc::new(SingleCertAndKey::from(CertifiedKey::new(chain, signer)));
    let pair = Pair::new();
    // The honest side believes in the forge's world, at the forge's time.
    let honest = tls::Tls::new(
        Arc::new(arc_swap::ArcSwap::from_pointee(authority)),
        Arc::default(),
        identity("a"),
        Arc::new(StillClock(now.into())),
    );
    let mut server = ServerConfig::clone(&pair.b.server(Conversation::Data));
    server.cert_resolver = shown.clone();
    let client = honest.client(Conversation::Data, &identity("shop/web"), Some(&identity("shop/reviews")));
    let to_client = reason(shake(&client, &Arc::new(server), name("shop/reviews")));

    let client = pair.a.client(Conversation::Data, &identity("shop/web"), Some(&identity("shop/reviews")));
    let mut client = ClientConfig::clone(&client);
    client.dangerous().set_certificate_verifier(Arc::new(Gullible));
    client.client_auth_cert_resolver = shown.clone();
    let mut server = ServerConfig::clone(&honest.server(Conversation::Data));
    server.cert_resolver = shown;
    [to_client, reason(shake(&Arc::new(client), &Arc::new(server), name("shop/reviews")))]
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

fn dns(text: &str) -> SanType {
    SanType::DnsName(text.try_into().unwrap())
}

#[test]
fn a56_a_granted_ca_names_another_namespace() {
    let refused = both_roles(|forge| {
        forge.leaf.params.subject_alt_names =
            vec![uri("spiffe://prod.example/ns/bank/sa/reviews"), dns("reviews.bank.prod.example")];
    });
    for (at, (side, error)) in ["client", "server"].into_iter().zip(refused) {
        assert_eq!(side, at);
        assert!(matches!(error, VerifyError::OutsideGrant(..)), "{error:?}");
    }
}

#[test]
fn a57_certificates_of_other_shapes() {
    type Edits = fn(&mut Forge);
    let table: [(&str, Edits); 11] = [
        ("two URIs", |f| f.leaf.params.subject_alt_names.push(uri("spiffe://prod.example/ns/shop/sa/web"))),
        ("an IP address", |f| f.leaf.params.subject_alt_names.push(SanType::IpAddress([127, 0, 0, 1].into()))),
        ("a mailbox", |f| f.leaf.params.subject_alt_names.push(SanType::Rfc822Name("a@b.c".try_into().unwrap()))),
        ("no extended usage", |f| f.leaf.params.extended_key_usages.clear()),
        ("72 h", |f| f.leaf.params.lives(NOW - HOUR, NOW + 71 * HOUR)),
        ("a CA bit", |f| f.leaf.params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0))),
        ("an expired CA", |f| f.node.params.lives(NOW - 48 * HOUR, NOW - 24 * HOUR)),
        ("a CA below", |f| f.node.params.path_length(1)),
        ("another trust domain", |f| {
            f.leaf.params.subject_alt_names =
                vec![uri("spiffe://other.example/ns/shop/sa/reviews"), dns("reviews.shop.other.example")];
        }),
        ("upper case", |f| f.leaf.params.subject_alt_names[0] = uri("spiffe://prod.example/ns/shop/sa/Reviews")),
        ("dots", |f| f.leaf.params.subject_alt_names[0] = uri("spiffe://prod.example/ns/../sa/reviews")),
    ];
    for (what, edit) in table {
        let [(client, to_client), (server, to_server)] = both_roles(edit);
        assert_eq!((client, server), ("client", "server"), "{what}");
        assert_eq!(to_client, to_server, "{what}");
    }
}

#[test]
fn a58_a_servers_valid_identity_of_another_service() {
    let pair = Pair::new();
    let leafs = crate::handshake::leafs_of(&pair.world, "b", &["shop/reviews"]);
    let mut server = ServerConfig::clone(&pair.b.server(Conversation::Data));
    server.cert_resolver =
        Arc::new(SingleCertAndKey::from(CertifiedKey::clone(&leafs.get(&identity("shop/reviews")).unwrap())));
    let client = pair.a.client(Conversation::Data, &identity("shop/web"), Some(&identity("shop/web")));
    let outcome = reason(shake(&client, &Arc::new(server), name("shop/web")));
    assert!(matches!(outcome, ("client", VerifyError::WrongIdentity { .. })), "{outcome:?}");
}

/// A60, A61: there is nothing to resume and no early data, even for a client that wants both.
#[test]
fn a60_a61_no_session_is_resumed_and_no_byte_comes_early() {
    let pair = Pair::new();
    let client = pair.a.client(Conversation::Data, &identity("shop/web"), Some(&identity("shop/reviews")));
    let mut eager = ClientConfig::clone(&client);
    eager.resumption = Resumption::in_memory_sessions(16);
    eager.enable_early_data = true;
    let (eager, server) = (Arc::new(eager), pair.b.server(Conversation::Data));
    for _ in 0..3 {
        let (mut client, server) = shake(&eager, &server, name("shop/reviews")).unwrap();
        assert_eq!(client.tls13_tickets_received(), 0);
        assert_eq!(client.handshake_kind(), Some(rustls::HandshakeKind::Full));
        assert_eq!(server.handshake_kind(), Some(rustls::HandshakeKind::Full));
        assert!(client.early_data().is_none());
    }
    pair.world.edit_authority(|authority| authority.revocations.evict(node_id("b"), 1));
    let (side, error) = reason(shake(&eager, &server, name("shop/reviews")));
    assert_eq!((side, error), ("client", VerifyError::Evicted(node_id("b"), 1)));
}

#[test]
fn a62_a_handshake_signed_by_another_key() {
    let pair = Pair::new();
    let victim =
        crate::handshake::leafs_of(&pair.world, "b", &["shop/reviews"]).get(&identity("shop/reviews")).unwrap();
    let thief = crate::handshake::leafs_of(&pair.world, "a", &["shop/web"]).get(&identity("shop/web")).unwrap();
    let mixed = Arc::new(SingleCertAndKey::from(CertifiedKey::new(victim.cert.clone(), thief.key.clone())));
    let honest = pair.a.client(Conversation::Data, &identity("shop/web"), Some(&identity("shop/reviews")));
    let mut server = ServerConfig::clone(&pair.b.server(Conversation::Data));
    server.cert_resolver = mixed.clone();
    let outcome: Outcome = shake(&honest, &Arc::new(server), name("shop/reviews"));
    assert_eq!(refusal(outcome), ("client", rustls::CertificateError::BadSignature.into()));
    let mut client = ClientConfig::clone(&honest);
    client.client_auth_cert_resolver = mixed;
    let outcome = shake(&Arc::new(client), &pair.b.server(Conversation::Data), name("shop/reviews"));
    assert_eq!(refusal(outcome), ("server", rustls::CertificateError::BadSignature.into()));
}

#[test]
fn a68_an_enroller_with_a_ca_of_its_own() {
    let (world, impostors, token) = (World::new(), World::new(), token());
    let leaf = impostors.node("a").leaf(&identity("a"), NOW).unwrap();
    let verdict = token.verify_enroller(&leaf.chain, &world.authority.load(), NOW).map(drop);
    assert_eq!(verdict, Err(VerifyError::UntrustedRoot));
    // Nor will another node of the right mesh do.
    let leaf = world.node("b").leaf(&identity("b"), NOW).unwrap();
    let verdict = token.verify_enroller(&leaf.chain, &world.authority.load(), NOW).map(drop);
    assert!(matches!(verdict, Err(VerifyError::WrongIdentity { .. })), "{verdict:?}");
}

#[test]
fn a69_a_proof_relayed_to_another_session() {
    let (token, key) = (token(), CaKey::generate());
    let request = JoinRequest::new(&token, EXPORTER, key.request(&node_id("c")), SigningKey::generate().public());
    let grant = invited(&token);
    assert!(request.check(&grant, &node_id("a"), EXPORTER).is_ok());
    let relayed = request.check(&grant, &node_id("a"), &[8; 32]).unwrap_err();
    assert_eq!(relayed.code, "bad_proof");
}

/// A70: whatever a request asks for, what is certified is what the operator granted; most is refused at once.
#[test]
fn a70_a_request_for_more_than_the_grant() {
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let mut greedy = CertificateParams::default();
    greedy.distinguished_name = rcgen::DistinguishedName::new();
    greedy.distinguished_name.push(DnType::CommonName, "c");
    greedy.subject_alt_names = vec![uri("spiffe://prod.example/ns/bank/sa/vault")];
    greedy.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let refused = requested_key(greedy.serialize_request(&key).unwrap().der(), &node_id("c"));
    assert!(matches!(refused, Err(Error::Request(_))), "{refused:?}");
    // What is certified comes from the NodeGrant.
    let (world, own) = (World::new(), CaKey::generate());
    let certified = invited(&token()).certified(SigningKey::generate().public());
    let chain = world.enroller.issue_node_unchecked(&own.spki(), &certified, NOW).unwrap();
    let ca = certs::ca::NodeCa::new(&trust_domain(), chain, own).unwrap();
    assert!(matches!(ca.leaf(&identity("bank/vault"), NOW), Err(Error::OutsideGrant(_))));
    let chain: Vec<CertificateDer<'_>> = ca.leaf(&identity("shop/cart"), NOW).unwrap().chain;
    assert!(matches!(verify(&chain, &world.authority.load(), NOW), Err(VerifyError::NoNodeGrant(_))));
}
