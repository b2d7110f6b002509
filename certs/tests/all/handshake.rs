//! Real rustls handshakes in memory, one per conversation, and the strangers who get none.

use std::sync::{Arc, atomic::Ordering};

use arc_swap::ArcSwap;
use certs::{
    root::Root,
    tls::{self, Conversation, EXPORTER_ADMIN, EXPORTER_JOIN, Leafs, server_name},
    verify::{Authority, VerifyError},
};
use rustls::{
    ClientConfig, ClientConnection, NamedGroup, ServerConfig, ServerConnection,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    pki_types::{CertificateDer, ServerName, UnixTime},
    quic,
    sign::{CertifiedKey, SingleCertAndKey},
};

use crate::world::{DAY, NOW, World, identity, trust_domain};

/// Both ends of a finished handshake, or the error and the side that raised it.
pub(crate) type Outcome = Result<(ClientConnection, ServerConnection), (&'static str, rustls::Error)>;

pub(crate) fn shake(client: &Arc<ClientConfig>, server: &Arc<ServerConfig>, name: ServerName<'static>) -> Outcome {
    let mut client = ClientConnection::new(client.clone(), name).unwrap();
    let mut server = ServerConnection::new(server.clone()).unwrap();
    // TLS 1.3 needs three flights; two rounds more let late alerts arrive.
    for _ in 0..5 {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        server.read_tls(&mut wire.as_slice()).unwrap();
        server.process_new_packets().map_err(|error| ("server", error))?;
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        client.read_tls(&mut wire.as_slice()).unwrap();
        client.process_new_packets().map_err(|error| ("client", error))?;
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
    Ok((client, server))
}

pub(crate) fn refusal(outcome: Outcome) -> (&'static str, rustls::Error) {
    outcome.expect_err("the handshake had to fail")
}

/// The rule that our verifier names as the reason.
pub(crate) fn reason(outcome: Outcome) -> (&'static str, VerifyError) {
    let (side, error) = refusal(outcome);
    let rustls::Error::InvalidCertificate(rustls::CertificateError::Other(other)) = error else {
        panic!("{side}: {error:?}");
    };
    (side, other.0.downcast_ref::<VerifyError>().expect("our verifier's error").clone())
}

pub(crate) fn name(text: &str) -> ServerName<'static> {
    server_name(Some(&identity(text)), &trust_domain())
}

pub(crate) struct Pair {
    pub(crate) world: World,
    pub(crate) a: tls::Tls,
    pub(crate) b: tls::Tls,
}

impl Pair {
    pub(crate) fn new() -> Pair {
        let world = World::new();
        let (a, b) = (world.tls("a", "shop/web"), world.tls("b", "shop/reviews"));
        Pair { world, a, b }
    }

    /// `a` calls `b`, each as what the conversation demands.
    fn talk(&self, conversation: Conversation) -> Outcome {
        let (own, expect) = match conversation {
            Conversation::Data => (identity("shop/web"), identity("shop/reviews")),
            Conversation::Peer | Conversation::Join | Conversation::Admin => (identity("a"), identity("b")),
        };
        let client = self.a.client(conversation, &own, Some(&expect));
        shake(&client, &self.b.server(conversation), server_name(Some(&expect), &trust_domain()))
    }
}

#[test]
fn every_conversation_succeeds() {
    let pair = Pair::new();
    for conversation in [Conversation::Data, Conversation::Peer, Conversation::Join, Conversation::Admin] {
        let (client, server) = pair.talk(conversation).unwrap();
        assert_eq!(client.alpn_protocol(), Some(conversation.alpn()));
        assert_eq!(server.alpn_protocol(), Some(conversation.alpn()));
        assert_eq!(client.negotiated_key_exchange_group().unwrap().name(), NamedGroup::X25519MLKEM768);
        let suite = client.negotiated_cipher_suite().unwrap().suite();
        assert_eq!(suite, rustls::CipherSuite::TLS13_AES_128_GCM_SHA256);
        assert_eq!(client.tls13_tickets_received(), 0);
        let seen = pair.a.peer(conversation, client.peer_certificates().unwrap()).unwrap();
        assert_eq!(seen.node.as_str(), "b");
        match conversation {
            Conversation::Data | Conversation::Peer => {
                let caller = pair.b.peer(conversation, server.peer_certificates().unwrap()).unwrap();
                assert_eq!(caller.node.as_str(), "a");
                let own = if conversation == Conversation::Data { "shop/web" } else { "a" };
                assert_eq!(caller.id, identity(own));
            }
            Conversation::Join | Conversation::Admin => assert!(server.peer_certificates().is_none()),
        }
    }
}

#[test]
fn both_sides_export_the_same_secret_and_sessions_differ() {
    let pair = Pair::new();
    let export = |label: &[u8]| {
        let (client, server) = pair.talk(Conversation::Join).unwrap();
        let ours = client.export_keying_material([0; 32], label, None).unwrap();
        assert_eq!(ours, server.export_keying_material([0; 32], label, None).unwrap());
        ours
    };
    assert_ne!(export(EXPORTER_JOIN), export(EXPORTER_JOIN));
    assert_ne!(export(EXPORTER_JOIN), export(EXPORTER_ADMIN));
}

#[test]
fn classes_do_not_mix() {
    let pair = Pair::new();
    // A service's leaf in a peer conversation, a node's in a data conversation.
    let client = pair.a.client(Conversation::Peer, &identity("shop/web"), Some(&identity("b")));
    let outcome = shake(&client, &pair.b.server(Conversation::Peer), name("b"));
    assert_eq!(reason(outcome), ("server", VerifyError::WrongClass(identity("shop/web"))));
    let client = pair.a.client(Conversation::Data, &identity("a"), Some(&identity("shop/reviews")));
    let outcome = shake(&client, &pair.b.server(Conversation::Data), name("shop/reviews"));
    assert_eq!(reason(outcome), ("server", VerifyError::WrongClass(identity("a"))));
    // The certificates of one conversation do not serve another afterwards either.
    let (client, _) = pair.talk(Conversation::Data).unwrap();
    let certificates = client.peer_certificates().unwrap();
    assert_eq!(pair.a.peer(Conversation::Peer, certificates), Err(VerifyError::WrongClass(identity("shop/reviews"))));
}

#[test]
fn only_the_expected_identity_will_do() {
    let pair = Pair::new();
    let leafs = leafs_of(&pair.world, "b", &["b", "shop/reviews"]);
    // A server that shows its one leaf whatever it is asked for.
    let mut server = ServerConfig::clone(&pair.b.server(Conversation::Data));
    server.cert_resolver =
        Arc::new(SingleCertAndKey::from(CertifiedKey::clone(&leafs.get(&identity("shop/reviews")).unwrap())));
    let server = Arc::new(server);
    let client = pair.a.client(Conversation::Data, &identity("shop/web"), Some(&identity("shop/web")));
    let expected = VerifyError::WrongIdentity { expected: identity("shop/web"), found: identity("shop/reviews") };
    assert_eq!(reason(shake(&client, &server, name("shop/web"))), ("client", expected));
    // Data without an addressee takes nobody.
    let client = pair.a.client(Conversation::Data, &identity("shop/web"), None);
    assert!(matches!(reason(shake(&client, &server, name("shop/reviews"))), ("client", VerifyError::WrongClass(_))));
    // A peer conversation with whatever node answers.
    let client = pair.a.client(Conversation::Peer, &identity("a"), None);
    assert!(shake(&client, &pair.b.server(Conversation::Peer), server_name(None, &trust_domain())).is_ok());
}

#[test]
fn an_identity_that_is_not_here_gets_no_handshake() {
    let pair = Pair::new();
    let client = pair.a.client(Conversation::Data, &identity("shop/web"), Some(&identity("shop/other")));
    assert_eq!(refusal(shake(&client, &pair.b.server(Conversation::Data), name("shop/other"))).0, "server");
    let client = pair.a.client(Conversation::Peer, &identity("a"), Some(&identity("c")));
    assert_eq!(refusal(shake(&client, &pair.b.server(Conversation::Peer), name("c"))).0, "server");
    // A node's name in a data conversation.
    let client = pair.a.client(Conversation::Data, &identity("shop/web"), Some(&identity("b")));
    assert_eq!(refusal(shake(&client, &pair.b.server(Conversation::Data), name("b"))).0, "server");
}

#[test]
fn strangers_are_refused_both_ways() {
    let (pair, strangers) = (Pair::new(), Pair::new());
    for (conversation, own, expect) in
        [(Conversation::Data, "shop/web", "shop/reviews"), (Conversation::Peer, "a", "b")]
    {
        let theirs = strangers.a.client(conversation, &identity(own), Some(&identity(expect)));
        // The stranger's own verifier would refuse us first.
        let mut theirs = ClientConfig::clone(&theirs);
        theirs.dangerous().set_certificate_verifier(Arc::new(Gullible));
        let outcome = shake(&Arc::new(theirs), &pair.b.server(conversation), name(expect));
        assert_eq!(reason(outcome), ("server", VerifyError::UntrustedRoot));
    }
    for (conversation, own, expect) in [
        (Conversation::Data, "shop/web", "shop/reviews"),
        (Conversation::Peer, "a", "b"),
        (Conversation::Join, "a", "b"),
        (Conversation::Admin, "a", "b"),
    ] {
        let ours = pair.a.client(conversation, &identity(own), Some(&identity(expect)));
        let outcome = shake(&ours, &strangers.b.server(conversation), name(expect));
        assert_eq!(reason(outcome), ("client", VerifyError::UntrustedRoot));
    }
}

#[test]
fn no_client_certificate_no_conversation() {
    let pair = Pair::new();
    for (conversation, expect) in [(Conversation::Data, "shop/reviews"), (Conversation::Peer, "b")] {
        // A client whose leaf is not there (yet) shows none.
        let client = pair.a.client(conversation, &identity("shop/none"), Some(&identity(expect)));
        let (side, error) = refusal(shake(&client, &pair.b.server(conversation), name(expect)));
        assert_eq!((side, error), ("server", rustls::Error::NoCertificatesPresented));
    }
}

#[test]
fn tls_1_2_is_refused_both_ways() {
    let pair = Pair::new();
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let old = ClientConfig::builder_with_provider(Arc::new(provider.clone()))
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Gullible))
        .with_no_client_auth();
    let (side, error) = refusal(shake(&Arc::new(old), &pair.b.server(Conversation::Join), name("b")));
    assert!(side == "server" && matches!(error, rustls::Error::PeerIncompatible(_)), "{error:?}");
    let key = leafs_of(&pair.world, "b", &["b"]).get(&identity("b")).unwrap();
    let old = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(CertifiedKey::clone(&key))));
    let client = pair.a.client(Conversation::Join, &identity("a"), Some(&identity("b")));
    assert!(shake(&client, &Arc::new(old), name("b")).is_err());
}

#[test]
fn plain_text_is_refused() {
    let pair = Pair::new();
    let mut server = ServerConnection::new(pair.b.server(Conversation::Data)).unwrap();
    server.read_tls(&mut b"GET / HTTP/1.1\r\nHost: reviews\r\n\r\n".as_slice()).unwrap();
    assert!(server.process_new_packets().is_err());
}

#[test]
fn a_shown_chain_needs_its_key() {
    let pair = Pair::new();
    let victim = leafs_of(&pair.world, "b", &["shop/reviews"]).get(&identity("shop/reviews")).unwrap();
    let thief = leafs_of(&pair.world, "a", &["shop/web"]).get(&identity("shop/web")).unwrap();
    let mixed = Arc::new(SingleCertAndKey::from(CertifiedKey::new(victim.cert.clone(), thief.key.clone())));
    let mut server = ServerConfig::clone(&pair.b.server(Conversation::Data));
    server.cert_resolver = mixed.clone();
    let client = pair.a.client(Conversation::Data, &identity("shop/web"), Some(&identity("shop/reviews")));
    let (side, error) = refusal(shake(&client, &Arc::new(server), name("shop/reviews")));
    assert_eq!((side, error), ("client", rustls::CertificateError::BadSignature.into()));
    let mut client = ClientConfig::clone(&client);
    client.client_auth_cert_resolver = mixed;
    let (side, error) = refusal(shake(&Arc::new(client), &pair.b.server(Conversation::Data), name("shop/reviews")));
    assert_eq!((side, error), ("server", rustls::CertificateError::BadSignature.into()));
}

#[test]
fn eviction_counts_from_the_next_handshake_on() {
    let pair = Pair::new();
    let client = pair.a.client(Conversation::Data, &identity("shop/web"), Some(&identity("shop/reviews")));
    let server = pair.b.server(Conversation::Data);
    let (open, _) = shake(&client, &server, name("shop/reviews")).unwrap();
    pair.world.edit_authority(|authority| authority.revocations.evict(identity_node("b"), 1));
    let evicted = VerifyError::Evicted(identity_node("b"), 1);
    assert_eq!(pair.a.peer(Conversation::Data, open.peer_certificates().unwrap()), Err(evicted.clone()));
    assert_eq!(reason(shake(&client, &server, name("shop/reviews"))), ("client", evicted));
}

#[test]
fn renewal_and_the_clock_act_on_old_configurations() {
    let world = World::new();
    let server_leafs = Arc::new(ArcSwap::from_pointee(leafs_of(&world, "b", &["b", "shop/reviews"])));
    let b = tls::Tls::new(world.authority.clone(), server_leafs.clone(), identity("b"), world.clock.clone());
    let a = world.tls("a", "shop/web");
    let client = a.client(Conversation::Join, &identity("a"), Some(&identity("b")));
    let server = b.server(Conversation::Join);
    assert!(shake(&client, &server, name("b")).is_ok());
    world.clock.0.store(NOW + 2 * DAY, Ordering::Relaxed);
    assert!(matches!(reason(shake(&client, &server, name("b"))), ("client", VerifyError::Expired { .. })));
    let mut leafs = Leafs::default();
    leafs.insert(&world.node("b").leaf(&identity("b"), NOW + 2 * DAY).unwrap());
    server_leafs.store(Arc::new(leafs));
    assert!(shake(&client, &server, name("b")).is_ok());
}

#[test]
fn an_operator_needs_only_the_bundle() {
    let pair = Pair::new();
    let under = |root: Vec<u8>| Authority::new(trust_domain(), vec![root]);
    let bundle = under(pair.world.root.certificate());
    let server = pair.b.server(Conversation::Admin);
    let operator = |known: Authority, expect: Option<&str>| {
        let expect = expect.map(identity_node);
        tls::operator(known, expect.as_ref(), pair.world.clock.clone())
    };
    assert!(shake(&operator(bundle.clone(), Some("b")), &server, name("b")).is_ok());
    assert!(shake(&operator(bundle.clone(), None), &server, server_name(None, &trust_domain())).is_ok());
    // Another node answers at this address.
    let outcome = shake(&operator(bundle.clone(), Some("a")), &server, server_name(None, &trust_domain()));
    assert!(matches!(reason(outcome), ("client", VerifyError::WrongIdentity { .. })));
    let other = Root::generate(&trust_domain(), NOW).certificate();
    let outcome = shake(&operator(under(other), Some("b")), &server, name("b"));
    assert_eq!(reason(outcome), ("client", VerifyError::UntrustedRoot));
    // And who it knows to be evicted, or replaced, is nobody.
    let mut replaced = bundle.clone();
    replaced.ended.insert(identity_node("b"), 1);
    let outcome = shake(&operator(replaced, Some("b")), &server, name("b"));
    assert_eq!(reason(outcome), ("client", VerifyError::Ended(identity_node("b"), 1)));
    let mut evicting = bundle;
    evicting.revocations.evict(identity_node("b"), 1);
    let outcome = shake(&operator(evicting, Some("b")), &server, name("b"));
    assert_eq!(reason(outcome), ("client", VerifyError::Evicted(identity_node("b"), 1)));
}

#[test]
fn quic_handshakes_too() {
    let pair = Pair::new();
    for (conversation, own, expect) in
        [(Conversation::Data, "shop/web", "shop/reviews"), (Conversation::Peer, "a", "b")]
    {
        let config = pair.a.client(conversation, &identity(own), Some(&identity(expect)));
        let parameters = b"transport parameters".to_vec();
        let mut client =
            quic::ClientConnection::new(config, quic::Version::V1, name(expect), parameters.clone()).unwrap();
        let server_config = pair.b.server(conversation);
        let mut server = quic::ServerConnection::new(server_config, quic::Version::V1, parameters).unwrap();
        for _ in 0..6 {
            for packet in packets(|wire| client.write_hs(wire)) {
                server.read_hs(&packet).unwrap();
            }
            for packet in packets(|wire| server.write_hs(wire)) {
                client.read_hs(&packet).unwrap();
            }
        }
        assert!(!client.is_handshaking() && !server.is_handshaking());
        assert_eq!(client.alpn_protocol(), Some(conversation.alpn()));
        assert_eq!(pair.b.peer(conversation, server.peer_certificates().unwrap()).unwrap().id, identity(own));
    }
}

/// What one side has to say, cut where its keys change.
fn packets(mut write: impl FnMut(&mut Vec<u8>) -> Option<quic::KeyChange>) -> Vec<Vec<u8>> {
    let mut packets = Vec::new();
    loop {
        let mut packet = Vec::new();
        let changed = write(&mut packet).is_some();
        if packet.is_empty() && !changed {
            return packets;
        }
        packets.push(packet);
    }
}

#[test]
fn alpn_names_go_both_ways() {
    for conversation in [Conversation::Data, Conversation::Peer, Conversation::Join, Conversation::Admin] {
        assert_eq!(Conversation::from_alpn(conversation.alpn()), Some(conversation));
    }
    assert_eq!(Conversation::from_alpn(b"h2"), None);
}

fn identity_node(name: &str) -> certs::id::NodeId {
    crate::world::node_id(name)
}

pub(crate) fn leafs_of(world: &World, node: &str, ids: &[&str]) -> Leafs {
    let ca = world.node(node);
    let mut leafs = Leafs::default();
    for id in ids {
        leafs.insert(&ca.leaf(&identity(id), NOW).unwrap());
    }
    leafs
}

/// A client that believes everyone.
#[derive(Debug)]
pub(crate) struct Gullible;

impl ServerCertVerifier for Gullible {
    fn verify_server_cert(
        &self,
        _leaf: &CertificateDer<'_>,
        _rest: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _leaf: &CertificateDer<'_>,
        _signature: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _leaf: &CertificateDer<'_>,
        _signature: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        vec![rustls::SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}
