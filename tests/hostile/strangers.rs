//! Whoever has no identity of this mesh gets no byte through, from either side (A59).

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, UNIX_EPOCH},
};

use certs::{
    ca::{CaKey, Enroller, NodeCa},
    codec::Millis,
    grant::{Grant, Pattern},
    id::{NodeId, ServiceAccount, SpiffeId, TrustDomain},
    root::Root,
    sign::SigningKey,
};
use harness::{cluster::TRUST_DOMAIN, http};
use rustls::{
    ServerConnection,
    sign::{CertifiedKey, SingleCertAndKey},
};

use crate::{client::session, pair, quic::Quic};

#[expect(clippy::disallowed_methods, reason = "the stranger has a clock of its own")]
pub(crate) fn wall() -> Millis {
    u64::try_from(std::time::SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis())
        .expect("fits")
}

/// A leaf of a mesh of the same name that somebody else made: everything about it is right but the root.
pub(crate) fn forged(subject: &str) -> (SpiffeId, Arc<CertifiedKey>) {
    let domain = TrustDomain::new(TRUST_DOMAIN).expect("a name");
    let node = NodeId::new(if subject.contains('/') { "reviews" } else { subject }).expect("a name");
    let root = Root::generate(&domain, wall());
    let key = CaKey::generate();
    let certificate = root.issue_enroller(&node, 1, &key.spki(), wall()).expect("issued");
    let enroller = Enroller::new(&domain, vec![certificate], key).expect("an enroller");
    let grant = Grant {
        node: node.clone(),
        epoch: 1,
        accounts: vec![Pattern::Namespace("shop".to_owned())],
        services: vec![Pattern::Namespace("shop".to_owned())],
        record_key: Some(SigningKey::generate().public()),
        enroller: false,
    };
    let key = CaKey::generate();
    let chain = enroller.issue_node_unchecked(&key.spki(), &grant, wall()).expect("issued");
    let ca = NodeCa::new(&domain, chain, key).expect("a CA");
    let id = match subject.parse::<ServiceAccount>() {
        Ok(account) => SpiffeId::service(domain, account),
        Err(_) => SpiffeId::node(domain, node),
    };
    let leaf = ca.leaf(&id, wall()).expect("a leaf");
    (id, leaf.key)
}

/// Speaks TLS to a node's port as a stranger; gives what the node let through after the handshake.
fn knock(
    to: SocketAddr,
    alpn: &str,
    versions: &[&'static rustls::SupportedProtocolVersion],
    shown: Option<Arc<CertifiedKey>>,
) -> Vec<u8> {
    let mut stream = session(to, alpn, versions, &format!("default.shop.{TRUST_DOMAIN}"), shown);
    let _ = stream.write_all(b"GET / HTTP/1.1\r\nhost: reviews\r\n\r\n");
    let mut got = Vec::new();
    let _ = stream.read_to_end(&mut got);
    got
}

#[test]
fn a59_a_stranger_at_the_door_gets_nothing() {
    let cluster = pair();
    let door = cluster.node("reviews").address("mesh");
    let tls13: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS13];
    let tls12: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS12];
    for alpn in ["skein-data/1", "skein-peer/1", "http/1.1"] {
        assert!(knock(door, alpn, tls13, None).is_empty(), "{alpn} without a certificate");
        assert!(
            knock(door, alpn, tls13, Some(forged("shop/default").1)).is_empty(),
            "{alpn} with a service's forged leaf"
        );
        assert!(knock(door, alpn, tls13, Some(forged("reviews").1)).is_empty(), "{alpn} with a node's forged leaf");
        assert!(knock(door, alpn, tls12, Some(forged("shop/default").1)).is_empty(), "{alpn} by TLS 1.2");
    }
    // Nor over QUIC, at either of its endpoints.
    for alpn in ["skein-data/1", "skein-peer/1", "http/1.1"] {
        for shown in [None, Some(forged("shop/default").1), Some(forged("reviews").1)] {
            let what = format!("{alpn} over QUIC with {:?}", shown.as_ref().map(|key| key.cert.len()));
            let names = [format!("default.shop.{TRUST_DOMAIN}"), format!("reviews._node.{TRUST_DOMAIN}")];
            for name in names {
                assert!(!Quic::showing(alpn, shown.clone()).refused(door, &name).is_empty(), "{what}");
            }
        }
    }
    let mut plain = http::Connection::open(door).expect("the mesh port listens");
    plain.send(b"GET / HTTP/1.1\r\nhost: reviews\r\n\r\n").expect("it takes bytes");
    let said = String::from_utf8_lossy(&plain.rest()).into_owned();
    assert!(!said.contains("HTTP/"), "plain text got {said:?}");
    assert!(cluster.node("reviews").backends[0].arrivals().is_empty(), "nothing reached the application");
    let answer = http::get(cluster.node("web").outbound(), "reviews", "/").expect("an answer");
    assert_eq!(answer.status, 200, "a member still gets through: {answer:?}");
}

/// A server with forged leafs; counts bytes of applications that it could read.
fn impostor(at: SocketAddr) -> Arc<AtomicUsize> {
    let listener = TcpListener::bind(at).expect("the dead node's port is free");
    let read = Arc::new(AtomicUsize::new(0));
    let counter = read.clone();
    std::thread::spawn(move || {
        for mut socket in listener.incoming().map_while(Result::ok) {
            let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
            let builder = rustls::ServerConfig::builder_with_provider(provider)
                .with_protocol_versions(&[&rustls::version::TLS13])
                .expect("versions");
            let mut config = builder
                .with_no_client_auth()
                .with_cert_resolver(Arc::new(SingleCertAndKey::from(forged("shop/default").1)));
            config.alpn_protocols = vec![b"skein-data/1".to_vec(), b"skein-peer/1".to_vec()];
            let _ = socket.set_read_timeout(Some(Duration::from_secs(2)));
            let mut session = ServerConnection::new(Arc::new(config)).expect("a session");
            let mut buffer = [0; 1024];
            let count = rustls::Stream::new(&mut session, &mut socket).read(&mut buffer).unwrap_or(0);
            counter.fetch_add(count, Ordering::Relaxed);
        }
    });
    read
}

#[test]
fn a59_an_impostor_behind_the_door_is_not_believed() {
    let mut cluster = pair();
    let door = cluster.node("reviews").address("mesh");
    cluster.kill("reviews");
    let read = impostor(door);
    for _ in 0..30 {
        let answer = http::get(cluster.node("web").outbound(), "reviews", "/").expect("an answer");
        assert_eq!(answer.status, 503, "{answer:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(read.load(Ordering::Relaxed), 0, "the impostor read bytes of an application");
}
