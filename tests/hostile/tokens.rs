//! Who reaches the enrolment port with a wrong token, or with the right one and a wrong proof (A67); who answers there in the enroller's
//! place (A68).

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener},
    sync::Arc,
};

use certs::{
    ca::CaKey,
    join::{Hello, JoinRequest, MAX_MESSAGE, Message, Secret, Token, VERSION},
    sign::SigningKey,
    tls::EXPORTER_JOIN,
};
use harness::{
    cluster::{Cluster, Plan, Service, TRUST_DOMAIN},
    process::Skein,
};
use rustls::sign::SingleCertAndKey;

use crate::{
    client::{session, session_from},
    strangers::forged,
};

fn inviting() -> (Cluster, Token) {
    let skein = Skein::at(env!("CARGO_BIN_EXE_skein-under-test"));
    let cluster = Cluster::start(skein, &[("web", Plan::with([Service::client("shop/web")]))]);
    let token = cluster.invite("reviews", &Plan::with([Service::version("shop/reviews", "v1")]), &[]);
    let token = token.parse().expect("invite prints a token");
    (cluster, token)
}

/// The enroller's answer to a token that is shown from this address: `reply`, or the code of its refusal. `spoilt`: the proof belongs to
/// other keys.
fn shown(cluster: &Cluster, from: [u8; 4], token: &Token, spoilt: bool) -> String {
    let to: SocketAddr = cluster.node("web").address("mesh");
    let name = format!("any._node.{TRUST_DOMAIN}");
    let mut stream =
        session_from(Some(IpAddr::from(from)), to, "skein-join/1", &[&rustls::version::TLS13], &name, None);
    send(&mut stream, &Message::Hello(Hello { version: VERSION }));
    assert!(matches!(receive(&mut stream), Message::Chain(_)), "it shows policy first");
    let mut exporter = [0; 32];
    stream.conn.export_keying_material(&mut exporter, EXPORTER_JOIN, None).expect("the handshake is over");
    let key = CaKey::generate();
    let mut request = JoinRequest::new(token, &exporter, key.request(&token.node), SigningKey::generate().public());
    if spoilt {
        request.proof[0] ^= 1;
    }
    send(&mut stream, &Message::Prove(request));
    match receive(&mut stream) {
        Message::Reply(_) => "reply".to_owned(),
        Message::Refusal(refusal) => refusal.code,
        Message::Hello(_) | Message::Chain(_) | Message::Prove(_) | Message::Renew(_) => "out of turn".to_owned(),
    }
}

fn send(stream: &mut impl Write, message: &Message) {
    let bytes = message.encode();
    stream.write_all(&u32::try_from(bytes.len()).expect("small").to_be_bytes()).expect("it is open");
    stream.write_all(&bytes).expect("it is open");
    stream.flush().expect("it is open");
}

fn receive(stream: &mut impl Read) -> Message {
    let mut length = [0; 4];
    stream.read_exact(&mut length).expect("an answer comes");
    let length = u32::from_be_bytes(length) as usize;
    assert!(length <= MAX_MESSAGE, "{length} bytes");
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).expect("all of it");
    Message::decode(&bytes).expect("a message")
}

/// A68: who answers in the enroller's place has the mesh's own policy, which is public, and a CA of its own. The joiner finds it out before
/// it proves its token.
#[test]
fn a68_an_impostor_of_the_enroller_sees_no_proof() {
    let (mut cluster, token) = inviting();
    let name = format!("any._node.{TRUST_DOMAIN}");
    let tls13: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS13];
    let mut own = session(cluster.node("web").address("mesh"), "skein-join/1", tls13, &name, None);
    send(&mut own, &Message::Hello(Hello { version: VERSION }));
    let shown = receive(&mut own);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let impostor = std::thread::spawn(move || {
        let (socket, _) = listener.accept().expect("the joiner comes");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder =
            rustls::ServerConfig::builder_with_provider(provider).with_protocol_versions(&[&rustls::version::TLS13]);
        let builder = builder.expect("versions").with_no_client_auth();
        let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(forged("web").1)));
        config.alpn_protocols = vec![b"skein-join/1".to_vec()];
        let session = rustls::ServerConnection::new(Arc::new(config)).expect("a session");
        let mut stream = rustls::StreamOwned::new(session, socket);
        assert!(matches!(receive(&mut stream), Message::Hello(_)));
        send(&mut stream, &shown);
        let mut more = Vec::new();
        // However it ends.
        let _ = stream.read_to_end(&mut more);
        more
    });
    let plan = Plan::with([Service::version("shop/reviews", "v1")]);
    cluster.prepare_only("reviews", &plan);
    let led_astray = Token { addresses: vec![address.to_string()], ..token.clone() };
    let file = cluster.file("astray.token", &led_astray.to_string());
    let refused = cluster.on("reviews", &["join", "--token-file", &file.to_string_lossy(), "-o", "json"]);
    assert_eq!((refused.code, refused.error()["error"]["code"].as_str()), (5, Some("unverified_node")), "{refused:?}");
    assert!(
        refused.err.contains("does not prove to be web") && refused.err.contains("nothing was sent"),
        "{refused:?}"
    );
    assert_eq!(impostor.join().expect("it saw a hello"), b"", "and nothing else");
    // The token is as good as before, where it leads to the enroller.
    cluster.join_with("reviews", &token.to_string()).expect_code(0);
}

/// A67: whoever guesses is not heard any more, and takes the invite from nobody: its guest comes from elsewhere. The list of attacks has it
/// that six wrong secrets burn the token; that is no more so, on purpose (decision 0024): anybody could have burnt anybody's.
#[test]
fn a67_wrong_secrets_are_held_against_their_address() {
    let (cluster, token) = inviting();
    let guess = || Token { secret: Secret::generate(), ..token.clone() };
    // Each waits for the invite that it may hold, so all at once.
    std::thread::scope(|scope| {
        for _ in 0..5 {
            scope.spawn(|| assert_eq!(shown(&cluster, [127, 0, 0, 2], &guess(), false), "token_invalid"));
        }
    });
    assert_eq!(shown(&cluster, [127, 0, 0, 2], &token, false), "too_many_requests", "with the right one neither");
    assert_eq!(shown(&cluster, [127, 0, 0, 1], &token, false), "reply");
    let events = cluster.json("web", &["events"]).to_string();
    assert_eq!(events.matches("token_refused").count(), 1, "told once, not for each try: {events}");
}

/// A67: a wrong proof by whoever holds the secret is a token that leaked or a relay: five of them burn it.
#[test]
fn a67_wrong_proofs_by_the_right_secret_burn_the_token() {
    let (cluster, token) = inviting();
    for turn in 0..5 {
        assert_eq!(shown(&cluster, [127, 0, 0, 2], &token, true), "bad_proof", "try {turn}");
    }
    assert_eq!(shown(&cluster, [127, 0, 0, 1], &token, false), "token_spent");
    let events = cluster.json("web", &["events"]).to_string();
    assert!(events.contains("token_burnt"), "{events}");
}
