//! Handshakes and idle connections of a mesh beside those of rustls with its own verifier: mutual TLS 1.3 in memory, the same key
//! exchange, the same keys, a chain of the same length.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use certs::{
    ca::{CaKey, Enroller, NodeCa},
    codec::Millis,
    grant::NodeGrant,
    id::{NodeId, SpiffeId, TrustDomain},
    root::Root,
    sign::SigningKey,
    tls::{Clock, Conversation, Leafs, Tls, server_name},
    verify::Authority,
};
use harness::now;
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection,
    client::Resumption,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName},
    server::{NoServerSessionStorage, WebPkiClientVerifier},
    sign::SingleCertAndKey,
};

use crate::Figure;

const HANDSHAKES: usize = 300;
const ROUNDS: usize = 5;
const IDLE: usize = 2_000;

pub(crate) fn figures() -> Vec<Figure> {
    let (ours, plain) = sides();
    let (mut of_ours, mut of_plain) = (Duration::MAX, Duration::MAX);
    // In turn, and the best of each: what else the machine does meets both alike.
    for _ in 0..ROUNDS {
        of_ours = of_ours.min(time(&ours));
        of_plain = of_plain.min(time(&plain));
    }
    let a_second = |time: Duration| HANDSHAKES as f64 / time.as_secs_f64();
    // The first stay while the second are measured, or these would move into what those left behind.
    let (held, our_memory) = memory(&ours);
    let (_, plain_memory) = memory(&plain);
    drop(held);
    vec![
        Figure::at_most(
            "handshake_over_rustls",
            of_ours.as_secs_f64() / of_plain.as_secs_f64(),
            "times",
            1.5,
            "time of a mutual handshake, both sides in one thread, over plain rustls",
        ),
        Figure::at_most(
            "handshake",
            1e6 / a_second(of_ours),
            "us",
            5_000.0,
            "time of a mutual handshake, both sides in one thread, the best of 5 rounds",
        ),
        Figure::at_most("idle_connection", our_memory, "KiB", 64.0, "memory of an idle connection, both sides of it"),
        Figure::at_most(
            "idle_connection_over_rustls",
            our_memory / plain_memory.max(1.0),
            "times",
            1.5,
            "the same over plain rustls",
        ),
    ]
}

/// Both configurations and the name that is called.
struct Side {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
    name: ServerName<'static>,
}

#[derive(Debug)]
struct Still(Millis);

impl Clock for Still {
    fn now(&self) -> Millis {
        self.0
    }
}

fn sides() -> (Side, Side) {
    let at = node::clock::wall();
    let trust_domain = TrustDomain::new("figures.example").expect("a name");
    let node = NodeId::new("a").expect("a name");
    let account = "shop/web".parse().expect("an account");
    let root = Root::generate(&trust_domain, at);
    let key = CaKey::generate();
    let chain = vec![root.issue_enroller(&node, 1, &key.spki(), at).expect("a fresh root issues")];
    let enroller = Enroller::new(&trust_domain, chain, key).expect("its own certificate");
    let grant = NodeGrant {
        node: node.clone(),
        epoch: 1,
        services: vec!["shop/web=web".parse().expect("a service")],
        token_hash: None,
        redeemer: None,
        token_expires: None,
        enroller: true,
        retired: false,
    };
    let key = CaKey::generate();
    let certified = grant.certified(SigningKey::generate().public());
    let chain = enroller.issue_node_unchecked(&key.spki(), &certified, at).expect("within its bounds");
    let ca = NodeCa::new(&trust_domain, chain, key).expect("its own certificate");
    let id = SpiffeId::service(trust_domain.clone(), account);
    let leaf = ca.leaf(&id, at).expect("within its grant");

    let mut authority = Authority::new(trust_domain.clone(), vec![root.certificate()]);
    authority.grants.insert(node.clone(), Arc::new(grant));
    let mut leafs = Leafs::default();
    leafs.insert(&leaf);
    let own = SpiffeId::node(trust_domain.clone(), node);
    let (authority, leafs) = (ArcSwap::from_pointee(authority), ArcSwap::from_pointee(leafs));
    let tls = Tls::new(Arc::new(authority), Arc::new(leafs), own, Arc::new(Still(at)));
    let name = server_name(Some(&id), &trust_domain);
    let client = tls.client(Conversation::Data, &id, Some(&id));
    let ours = Side { client, server: tls.server(Conversation::Data), name: name.clone() };

    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(root.certificate())).expect("webpki reads our roots");
    (ours, plain(roots, Arc::new(SingleCertAndKey::from((*leaf.key).clone())), name))
}

/// rustls as its documentation has it, without tickets as ours.
fn plain(roots: RootCertStore, leaf: Arc<SingleCertAndKey>, name: ServerName<'static>) -> Side {
    let (roots, provider) = (Arc::new(roots), Arc::new(aws_lc_rs::default_provider()));
    let clients = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone()).build();
    let mut server = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_client_cert_verifier(clients.expect("there are roots"))
        .with_cert_resolver(leaf.clone());
    server.session_storage = Arc::new(NoServerSessionStorage {});
    server.send_tls13_tickets = 0;
    let mut client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_root_certificates(roots)
        .with_client_cert_resolver(leaf);
    client.resumption = Resumption::disabled();
    Side { client: Arc::new(client), server: Arc::new(server), name }
}

fn time(side: &Side) -> Duration {
    let started = now();
    for _ in 0..HANDSHAKES {
        drop(shake(side));
    }
    started.elapsed()
}

fn shake(side: &Side) -> (ClientConnection, ServerConnection) {
    let mut client = ClientConnection::new(side.client.clone(), side.name.clone()).expect("a client");
    let mut server = ServerConnection::new(side.server.clone()).expect("a server");
    while client.is_handshaking() || server.is_handshaking() || client.wants_write() || server.wants_write() {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).expect("memory takes all");
        }
        server.read_tls(&mut wire.as_slice()).expect("memory gives all");
        server.process_new_packets().expect("the client is believed");
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire).expect("memory takes all");
        }
        client.read_tls(&mut wire.as_slice()).expect("memory gives all");
        client.process_new_packets().expect("the server is believed");
    }
    (client, server)
}

/// Idle connections, and the KiB that each takes, by the process's resident memory.
fn memory(side: &Side) -> (Vec<(ClientConnection, ServerConnection)>, f64) {
    // The first ones fill what the allocator keeps.
    let mut held: Vec<_> = (0..IDLE / 10).map(|_| shake(side)).collect();
    let before = resident();
    held.extend((0..IDLE).map(|_| shake(side)));
    let after = resident();
    (held, after.saturating_sub(before) as f64 / IDLE as f64)
}

/// KiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()).and_then(|number| number.parse().ok()).unwrap_or(0)
}
