//! Who reaches the enrolment port with a wrong token, or with the right one and a wrong proof (A67).

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr},
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

use crate::client::{Session, session_from};

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

fn send(stream: &mut Session, message: &Message) {
    let bytes = message.encode();
    stream.write_all(&u32::try_from(bytes.len()).expect("small").to_be_bytes()).expect("it is open");
    stream.write_all(&bytes).expect("it is open");
    stream.flush().expect("it is open");
}

fn receive(stream: &mut Session) -> Message {
    let mut length = [0; 4];
    stream.read_exact(&mut length).expect("an answer comes");
    let length = u32::from_be_bytes(length) as usize;
    assert!(length <= MAX_MESSAGE, "{length} bytes");
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).expect("all of it");
    Message::decode(&bytes).expect("a message")
}

/// A67: whoever guesses is not heard any more, and takes the invite from nobody: its guest comes from elsewhere.
#[test]
fn a67_wrong_secrets_are_held_against_their_address() {
    let (cluster, token) = inviting();
    let guess = || Token { secret: Secret::generate(), ..token.clone() };
    for _ in 0..5 {
        assert_eq!(shown(&cluster, [127, 0, 0, 2], &guess(), false), "token_invalid");
    }
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
