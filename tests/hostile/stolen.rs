//! What a thief can do with a copy of a node's data directory: be that node, until it is evicted. With an enroller's: also redeem the
//! invites that are open, and nothing wider.

use std::{
    io::{ErrorKind, Read, Write},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use certs::{
    ca::{CaKey, Enroller, NodeCa},
    codec::Millis,
    grant::{Grant, Pattern},
    id::{NodeId, SpiffeId, TrustDomain},
    root::bundle_from_pem,
    sign::SigningKey,
};
use harness::{
    cluster::{Cluster, Plan, SERVICE_PORT, Service, TRUST_DOMAIN},
    eventually,
    frames::{flag, frame, get, kind},
    process::Skein,
};
use node::mesh::{Preface, Protocol};
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair, KeyUsagePurpose, SanType};
use rustls::{
    crypto::aws_lc_rs::sign::any_ecdsa_type,
    pki_types::{CertificateDer, PrivateKeyDer},
    sign::CertifiedKey,
};

use crate::{
    client::{Session, call, configuration, member, refused, session_by},
    quic::Quic,
    strangers::wall,
};

const DATA: &str = "skein-data/1";
const PEER: &str = "skein-peer/1";
/// Time for connections of the evicted to be closed once the eviction has arrived: twice what is promised.
const CLOSING: Duration = Duration::from_secs(20);

/// Accounts of their own, so that one cannot pass for another: `web` enrols, `reviews` serves.
fn mesh() -> Cluster {
    let service = |name: &str| Service { account: name.into(), ..Service::version(&format!("shop/{name}"), "v1") };
    let client = Service { account: "web".into(), ..Service::client("shop/web") };
    let skein = Skein::at(env!("CARGO_BIN_EXE_skein-under-test"));
    let plans = [
        ("web", Plan::with([client])),
        ("reviews", Plan::with([service("reviews")])),
        ("ratings", Plan::with([service("ratings")])),
    ];
    let cluster = Cluster::start(skein, &plans);
    cluster.wait_endpoints("shop/reviews", 1);
    cluster.wait_endpoints("shop/ratings", 1);
    cluster
}

fn data(cluster: &Cluster, node: &str) -> PathBuf {
    cluster.node(node).dir.join("data")
}

fn read(cluster: &Cluster, node: &str, file: &str) -> String {
    std::fs::read_to_string(data(cluster, node).join(file)).expect("a node's file")
}

fn domain() -> TrustDomain {
    TrustDomain::new(TRUST_DOMAIN).expect("a name")
}

fn service(account: &str) -> SpiffeId {
    format!("spiffe://{TRUST_DOMAIN}/ns/shop/sa/{account}").parse().expect("an identity")
}

fn itself(node: &str) -> SpiffeId {
    SpiffeId::node(domain(), NodeId::new(node).expect("a name"))
}

/// A leaf by a stolen node CA for whatever the thief likes; everything about it is right but perhaps its name.
fn mint(cluster: &Cluster, node: &str, id: &SpiffeId) -> Arc<CertifiedKey> {
    let cas = read(cluster, node, "ca.pem");
    let authority = KeyPair::from_pem(&read(cluster, node, "ca.key")).expect("a key");
    let issuer = Issuer::from_ca_cert_pem(&cas, authority).expect("the node CA comes first");
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("a key");
    let now = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_millis(wall());
    let mut params = CertificateParams::default();
    (params.not_before, params.not_after) = (now - Duration::from_secs(60), now + Duration::from_secs(1_800));
    params.distinguished_name.push(DnType::OrganizationName, "Skein identity");
    params.subject_alt_names = vec![
        SanType::URI(id.uri().try_into().expect("ASCII")),
        SanType::DnsName(id.dns_name().try_into().expect("ASCII")),
    ];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    let leaf = params.signed_by(&key, &issuer).expect("signed");
    let mut chain = vec![leaf.der().clone()];
    chain.extend(bundle_from_pem(&cas).expect("certificates").into_iter().map(CertificateDer::from));
    let key = any_ecdsa_type(&PrivateKeyDer::Pkcs8(key.serialize_der().into())).expect("P-256");
    Arc::new(CertifiedKey::new(chain, key))
}

/// A node's leaf by the stolen enroller CA of `web`, by way of a node CA that it certifies for a key of the thief's.
fn enrol(cluster: &Cluster, node: &str, epoch: u64, accounts: Vec<Pattern>, id: &SpiffeId) -> Arc<CertifiedKey> {
    enrol_by(cluster, "web", node, epoch, accounts, id)
}

/// The same by the stolen enroller CA of `thief`.
fn enrol_by(
    cluster: &Cluster,
    thief: &str,
    node: &str,
    epoch: u64,
    accounts: Vec<Pattern>,
    id: &SpiffeId,
) -> Arc<CertifiedKey> {
    let chain = bundle_from_pem(&read(cluster, thief, "enroller.pem")).expect("a certificate");
    let key = CaKey::from_pem(&read(cluster, thief, "enroller.key")).expect("a key");
    let enroller = Enroller::new(&domain(), chain, key).expect("it is its own");
    let grant = Grant {
        node: NodeId::new(node).expect("a name"),
        epoch,
        services: accounts.clone(),
        accounts,
        record_key: Some(SigningKey::generate().public()),
        enroller: false,
    };
    let now: Millis = wall();
    let key = CaKey::generate();
    let chain = enroller.issue_node_unchecked(&key.spki(), &grant, now).expect("the thief signs what it likes");
    let ca = NodeCa::new(&domain(), chain, key).expect("a CA");
    ca.leaf(id, now).expect("a leaf").key
}

fn preface() -> Preface {
    Preface {
        service: "shop/reviews".parse().expect("a name"),
        instance: None,
        port: SERVICE_PORT,
        source: None,
        protocol: Protocol::Http1,
        extensions: Vec::new(),
    }
}

const REQUEST: &str = "GET /stolen HTTP/1.1\r\nhost: reviews.shop\r\nconnection: close\r\n\r\n";

/// What `reviews` says to a request of whoever shows this leaf.
fn ask(cluster: &Cluster, shown: &Arc<CertifiedKey>) -> Result<String, String> {
    let door = cluster.node("reviews").address("mesh");
    call(member(door, DATA, &service("reviews").dns_name(), shown), &preface(), REQUEST)
}

/// A connection on which a request was answered, and that stays open for the next.
fn kept(cluster: &Cluster, shown: &Arc<CertifiedKey>) -> Session {
    let door = cluster.node("reviews").address("mesh");
    let mut session = member(door, DATA, &service("reviews").dns_name(), shown);
    session.write_all(&preface().encode()).expect("it is open");
    session.write_all(b"GET /kept HTTP/1.1\r\nhost: reviews.shop\r\n\r\n").expect("it is open");
    let (mut said, mut byte) = (Vec::new(), [0]);
    while !said.ends_with(b"\r\n\r\n") {
        session.read_exact(&mut byte).expect("an answer");
        said.push(byte[0]);
    }
    session
}

/// A60: what a thief holds open when its node is evicted is closed within 5 s of the eviction's arrival, over both carriers.
#[test]
fn a60_live_connections_of_a_stolen_node_are_closed() {
    let cluster = mesh();
    let own = mint(&cluster, "ratings", &service("ratings"));
    let (door, name) = (cluster.node("reviews").address("mesh"), service("reviews").dns_name());
    let mut tcp = kept(&cluster, &own);
    let client = Quic::showing(DATA, Some(own));
    let (quic, _) = client.dial(door, &name).expect("it is a member");
    assert_eq!(client.end(&quic, Duration::from_secs(1)).map(|end| end.to_string()), None, "before the eviction");
    cluster.on("web", &["evict", "ratings", "--wait", "all"]).expect_code(0);
    // It has arrived. 5 s are promised; a busy machine may take as much again.
    let end = client.end(&quic, CLOSING).expect("the QUIC connection is closed");
    assert!(matches!(end, quinn::ConnectionError::ApplicationClosed(_)), "{end}");
    tcp.sock.set_read_timeout(Some(CLOSING)).expect("a timeout");
    let mut rest = [0; 4096];
    let end = loop {
        match tcp.read(&mut rest) {
            Ok(0) => break None,
            Ok(_) => {}
            Err(error) => break Some(error.kind()),
        }
    };
    assert!(!matches!(end, Some(ErrorKind::WouldBlock | ErrorKind::TimedOut)), "the TCP connection goes on");
}

/// A60, A61: who was let in gets no ticket, so the next handshake is a whole one, judged like the first, and nothing comes before it.
#[test]
fn a61_nothing_is_resumed_and_nothing_comes_early() {
    let cluster = mesh();
    let own = mint(&cluster, "ratings", &service("ratings"));
    let (door, name) = (cluster.node("reviews").address("mesh"), service("reviews").dns_name());
    let config = Arc::new(configuration(DATA, &[&rustls::version::TLS13], Some(own.clone())));
    let client = Quic::showing(DATA, Some(own));
    for turn in 0..3 {
        let mut session = session_by(config.clone(), None, door, &name);
        assert!(session.conn.early_data().is_none(), "turn {turn}: it holds no ticket");
        while session.conn.is_handshaking() {
            session.conn.complete_io(&mut session.sock).expect("it is a member");
        }
        assert_eq!(session.conn.handshake_kind(), Some(rustls::HandshakeKind::Full), "turn {turn}");
        // Tickets come with the answer, if any do.
        let answer = call(session, &preface(), REQUEST).expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let (connection, is_early) = client.dial(door, &name).expect("it is a member");
        assert!(!is_early, "turn {turn}: it holds no ticket over QUIC");
        // Room for one to come.
        assert_eq!(client.end(&connection, Duration::from_millis(300)).map(|end| end.to_string()), None);
        connection.close(0u32.into(), b"");
    }
}

/// A101: streams are few at a time, and whoever opens and resets them without end keeps no other caller waiting.
#[test]
fn a101_a_member_that_resets_streams_without_end_harms_nobody() {
    let cluster = mesh();
    let own = mint(&cluster, "ratings", &service("ratings"));
    let before = cluster.node("reviews").resident();
    let client = Quic::showing(DATA, Some(own.clone()));
    let (connection, _) =
        client.dial(cluster.node("reviews").address("mesh"), &service("reviews").dns_name()).expect("it is a member");
    let opened = client.open_and_reset(&connection, 20_000, &preface().encode(), Duration::from_secs(20));
    assert!(opened > 0);
    let answer = ask(&cluster, &own).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let grown = cluster.node("reviews").resident().saturating_sub(before);
    assert!(grown < 64 << 20, "{opened} streams were opened, and the node grew by {} MiB", grown >> 20);
    let log = cluster.log("reviews");
    assert!(!log.contains("panicked"), "{log}");
}

/// A31, A34: floods of HTTP/2 end their connection also where a member sends them.
#[test]
fn a31_a34_a_member_that_floods_by_http2_is_ended() {
    let cluster = mesh();
    let own = mint(&cluster, "ratings", &service("ratings"));
    let (door, name) = (cluster.node("reviews").address("mesh"), service("reviews").dns_name());
    let preface = Preface { protocol: Protocol::Http2, ..preface() };
    let flood = |what: &str, turn: &dyn Fn(u32) -> Vec<u8>| {
        let mut session = member(door, DATA, &name, &own);
        session.sock.set_write_timeout(Some(Duration::from_secs(20))).expect("a timeout");
        session.write_all(&preface.encode()).expect("it is a member");
        session.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").expect("it is a member");
        let mut goes_on = session.write_all(&frame(kind::SETTINGS, 0, 0, &[])).is_ok();
        let mut number = 0;
        while goes_on && number < 200_000 {
            let many = (number..number + 100).flat_map(turn).collect::<Vec<u8>>();
            goes_on = session.write_all(&many).and_then(|()| session.flush()).is_ok();
            number += 100;
        }
        let mut rest = [0; 4096];
        let end = loop {
            match session.read(&mut rest) {
                Ok(1..) => {}
                end => break end,
            }
        };
        let waits = |error: &std::io::Error| matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
        assert!(!end.as_ref().is_err_and(waits), "{what} goes on: {end:?}");
        assert!(ask(&cluster, &own).expect("an answer").starts_with("HTTP/1.1 200"), "{what}");
    };
    flood("resets", &|number| {
        let (whole, stream) = (flag::END_STREAM | flag::END_HEADERS, 2 * number + 1);
        let head = frame(kind::HEADERS, whole, stream, &get("reviews.shop", "/reset"));
        [head, frame(kind::RST_STREAM, 0, stream, &[0, 0, 0, 8])].concat()
    });
    flood("settings", &|_| frame(kind::SETTINGS, 0, 0, &[]));
    flood("pings", &|_| frame(kind::PING, 0, 0, &[0; 8]));
    flood("continuations", &|number| match number {
        0 => frame(kind::HEADERS, flag::END_STREAM, 1, &get("reviews.shop", "/")),
        _ => frame(kind::CONTINUATION, 0, 1, &[]),
    });
    let arrivals = cluster.node("reviews").backends[0].arrivals();
    let reset = arrivals.iter().filter(|arrival| arrival.line().contains("/reset")).count();
    assert!(reset <= 128, "{reset} requests");
    let log = cluster.log("reviews");
    assert!(!log.contains("panicked"), "{log}");
}

/// That a leaf opens neither a data nor a peer conversation with `reviews`.
fn is_nobody(cluster: &Cluster, shown: &Arc<CertifiedKey>, what: &str) {
    let door = cluster.node("reviews").address("mesh");
    for (alpn, name) in [(DATA, service("reviews")), (PEER, itself("reviews"))] {
        let how = refused(member(door, alpn, &name.dns_name(), shown));
        assert!(!how.is_empty(), "{what} by {alpn}");
        let how = Quic::showing(alpn, Some(shown.clone())).refused(door, &name.dns_name());
        assert!(!how.is_empty(), "{what} by {alpn} over QUIC");
    }
    assert!(ask(cluster, shown).is_err(), "{what}");
}

#[test]
fn a_stolen_node_directory_is_that_node_and_nobody_else_and_nothing_after_its_eviction() {
    let cluster = mesh();
    let own = mint(&cluster, "ratings", &service("ratings"));
    let answer = ask(&cluster, &own).expect("until it is evicted it is itself");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let before = cluster.node("reviews").backends[0].arrivals().len();
    let foreign = [
        service("web"),
        service("reviews"),
        service("default"),
        format!("spiffe://{TRUST_DOMAIN}/ns/bank/sa/ratings").parse().expect("an identity"),
        itself("web"),
        itself("reviews"),
        itself("ghost"),
    ];
    for id in &foreign {
        is_nobody(&cluster, &mint(&cluster, "ratings", id), &id.uri());
    }
    // Its own identity opens the conversations of its class only.
    let door = cluster.node("reviews").address("mesh");
    refused(member(door, PEER, &itself("reviews").dns_name(), &own));
    let node = mint(&cluster, "ratings", &itself("ratings"));
    refused(member(door, DATA, &service("reviews").dns_name(), &node));
    // A CA of the thief's below the stolen one.
    let longer = {
        let issued = mint(&cluster, "ratings", &service("ratings"));
        let below = mint(&cluster, "ratings", &service("web"));
        let chain = below.cert[..1].iter().chain(&issued.cert).cloned().collect();
        Arc::new(CertifiedKey::new(chain, below.key.clone()))
    };
    is_nobody(&cluster, &longer, "a longer path");
    cluster.on("web", &["evict", "ratings"]).expect_code(0);
    eventually("the eviction has arrived", || match ask(&cluster, &own) {
        Ok(answer) => Err(answer),
        Err(_) => Ok(()),
    });
    for id in [service("ratings"), itself("ratings"), service("web")] {
        is_nobody(&cluster, &mint(&cluster, "ratings", &id), &format!("{} after the eviction", id.uri()));
    }
    let after = cluster.node("reviews").backends[0].arrivals();
    assert!(
        after.len() >= before
            && after[before..].iter().all(|arrival| !format!("{arrival:?}").contains("/ns/shop/sa/web"))
    );
}

#[test]
fn a_stolen_enroller_directory_redeems_open_invites_and_nothing_wider() {
    let cluster = mesh();
    let guest = Plan::with([Service { account: "guest".into(), ..Service::version("shop/guest", "v1") }]);
    cluster.invite("guest", &guest, &["--ttl", "1h"]);
    let exactly = |account: &str| vec![Pattern::Exact("shop".into(), account.into())];
    let everything = vec![Pattern::All];
    // Names that nobody invited, and names that have a node: with the epoch in force, one before, one after.
    is_nobody(&cluster, &enrol(&cluster, "ghost", 1, everything.clone(), &service("web")), "nobody invited it");
    is_nobody(&cluster, &enrol(&cluster, "ghost", 1, everything.clone(), &itself("ghost")), "nobody invited it");
    for epoch in [0, 1, 2, 9] {
        let what = format!("ratings of epoch {epoch}");
        is_nobody(&cluster, &enrol(&cluster, "ratings", epoch, exactly("ratings"), &service("ratings")), &what);
        is_nobody(&cluster, &enrol(&cluster, "ratings", epoch, exactly("ratings"), &itself("ratings")), &what);
    }
    // The invite that is open, wider than operators signed it.
    for id in [service("web"), service("reviews"), service("default"), itself("reviews")] {
        if id.account().is_some() {
            is_nobody(&cluster, &enrol(&cluster, "guest", 1, everything.clone(), &id), &id.uri());
        }
    }
    is_nobody(&cluster, &enrol(&cluster, "guest", 2, exactly("guest"), &service("guest")), "another epoch");
    // As it was signed: this is what an enroller can do.
    let open = enrol(&cluster, "guest", 1, everything, &service("guest"));
    let answer = ask(&cluster, &open).expect("the open invite");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    // Operators take it back, and the enroller with it.
    cluster.on("reviews", &["evict", "web", "--force", "--wait", "local"]).expect_code(0);
    eventually("the eviction has arrived", || match ask(&cluster, &open) {
        Ok(answer) => Err(answer),
        Err(_) => Ok(()),
    });
    is_nobody(&cluster, &open, "after the eviction");
    is_nobody(&cluster, &mint(&cluster, "web", &service("web")), "the enroller itself");
    is_nobody(&cluster, &enrol(&cluster, "guest", 1, exactly("guest"), &itself("guest")), "after the eviction");
}

/// What is invited at one enroller is nothing to another one, though nobody has seen a key of the name yet; and yet the other one renews
/// what the first has enrolled.
#[test]
fn a_stolen_enroller_takes_no_invite_that_another_one_redeems_nor_a_name_that_nobody_has_met() {
    let mut cluster = mesh();
    cluster.on("web", &["ca", "promote", "ratings"]).expect_code(0);
    let own = |name: &str| Service { account: name.into(), ..Service::version(&format!("shop/{name}"), "v1") };
    cluster.invite("guest", &Plan::with([own("guest")]), &["--ttl", "1h"]);
    // Enrolled, and not started so far: no node knows its key.
    let late = Plan::with([own("late"), own("extra")]);
    let token = cluster.invite("late", &Plan::with([own("late")]), &[]);
    cluster.prepare_only("late", &late);
    cluster.join_with("late", &token).expect_code(0);
    for name in ["guest", "late"] {
        for id in [service(name), itself(name)] {
            let stolen = enrol_by(&cluster, "ratings", name, 1, vec![Pattern::All], &id);
            is_nobody(&cluster, &stolen, &format!("{} by the enroller that was not named", id.uri()));
        }
    }
    cluster.run("late");
    cluster.wait_endpoints("shop/late", 1);
    assert_eq!(cluster.healthy("reviews", "shop/extra"), 0);
    cluster.kill("web");
    cluster.on("reviews", &["grant", "late", "shop/extra=extra"]).expect_code(0);
    cluster.wait_endpoints("shop/extra", 1);
}
