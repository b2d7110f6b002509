//! Peer links, joins and administration.

use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use bytes::Bytes;
use certs::{tls, verify::Authority};
use membership::engine::Lane;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::timeout,
};

use super::{
    super::{
        Transport, connect,
        error::Error,
        peer::{LinkError, MAX_MESSAGE, PeerLink},
        quic::{PEER_IDLE, PEER_KEEP_ALIVE},
    },
    Node, PATIENCE, Trust, over_both,
    relay::{Relay, Udp},
};
use crate::clock::Clock;
use std::sync::Arc;

over_both! {
    messages_go_both_ways
    requests_are_answered_out_of_turn
    refusals_silence_and_ends_are_told_apart
    a_closed_link_says_why
    a_link_ends_when_nobody_holds_it
    only_the_named_node_will_do
    long_replies_do_not_hold_urgent_messages_back
    a_reader_that_is_behind_loses_nothing_and_keeps_its_link
    an_evicted_node_loses_its_links
}

struct Linked {
    trust: Trust,
    a: Node,
    b: Node,
    from_a: PeerLink,
    at_b: PeerLink,
}

async fn linked(transport: Transport) -> Linked {
    let trust = Trust::new();
    let a = Node::start(&trust, "a", &[], transport);
    let b = Node::start(&trust, "b", &[], transport);
    let (from_a, at_b) = tokio::join!(a.peers.dial(Some(&b.id), b.address()), b.peers.accept());
    Linked { trust, from_a: from_a.unwrap(), at_b: at_b.unwrap(), a, b }
}

async fn messages_go_both_ways(transport: Transport) {
    let Linked { trust, a, b, from_a, at_b } = linked(transport).await;
    assert_eq!((&from_a.peer().node, &at_b.peer().node), (&b.id, &a.id));
    assert_eq!(at_b.peer().id, trust.node("a"));
    assert_eq!(from_a.carrier(), if transport == Transport::Quic { "quic" } else { "tcp" });
    assert!(from_a.dialled() && !at_b.dialled());
    for length in [0, 1, 20_000, MAX_MESSAGE] {
        let message = Bytes::from(vec![5; length]);
        from_a.send(Lane::Rest, message.clone()).unwrap();
        at_b.send(Lane::Liveness, message.clone()).unwrap();
        assert_eq!(timeout(PATIENCE, at_b.recv()).await.unwrap(), Some(message.clone()));
        assert_eq!(timeout(PATIENCE, from_a.recv()).await.unwrap(), Some(message));
    }
    let long = Bytes::from(vec![5; MAX_MESSAGE + 1]);
    assert_eq!(from_a.send(Lane::Rest, long), Err(LinkError::TooLong(MAX_MESSAGE + 1)));
}

async fn requests_are_answered_out_of_turn(transport: Transport) {
    let Linked { from_a, at_b, a, b, .. } = linked(transport).await;
    let answers = async {
        let first = at_b.asked().await.unwrap();
        let second = at_b.asked().await.unwrap();
        assert_eq!((first.kind, &first.body[..]), (7, &b"one"[..]));
        second.reply(Bytes::from_static(b"two"));
        first.reply(vec![1; 5 << 20].into());
    };
    let first = from_a.request(7, Bytes::from_static(b"one"), PATIENCE);
    let second = from_a.request(8, Bytes::from_static(b"two?"), PATIENCE);
    let (first, second, ()) = tokio::join!(first, second, answers);
    assert_eq!(first.unwrap().len(), 5 << 20);
    assert_eq!(second.unwrap(), Bytes::from_static(b"two"));
    drop((a, b));
}

async fn refusals_silence_and_ends_are_told_apart(transport: Transport) {
    let Linked { from_a, at_b, a, b, .. } = linked(transport).await;
    let ask = |within| from_a.request(1, Bytes::new(), within);
    let (refused, ()) = tokio::join!(ask(PATIENCE), async { drop(at_b.asked().await) });
    assert_eq!(refused, Err(LinkError::Refused));
    let silence = Duration::from_millis(50);
    assert_eq!(ask(silence).await, Err(LinkError::Timeout(silence)));
    let _unanswered = at_b.asked().await;
    let (ended, ()) = tokio::join!(ask(PATIENCE), async { at_b.close("enough") });
    assert!(matches!(ended, Err(LinkError::Closed(_))), "{ended:?}");
    drop((a, b));
}

async fn a_closed_link_says_why(transport: Transport) {
    let Linked { from_a, at_b, a, b, .. } = linked(transport).await;
    // Both have said hello before.
    from_a.request(1, Bytes::new(), Duration::from_millis(20)).await.unwrap_err();
    from_a.close("going home");
    assert_eq!(timeout(PATIENCE, at_b.closed()).await.unwrap(), "going home");
    assert_eq!(at_b.recv().await, None);
    assert!(!from_a.is_lost() && !at_b.is_lost());
    assert!(matches!(at_b.send(Lane::Rest, Bytes::new()), Err(LinkError::Closed(why)) if why == "going home"));
    drop((a, b));
}

async fn a_link_ends_when_nobody_holds_it(transport: Transport) {
    let Linked { from_a, at_b, a, b, .. } = linked(transport).await;
    let copy = from_a.clone();
    drop(from_a);
    copy.send(Lane::Rest, Bytes::from_static(b"still here")).unwrap();
    assert_eq!(timeout(PATIENCE, at_b.recv()).await.unwrap(), Some(Bytes::from_static(b"still here")));
    drop(copy);
    timeout(PATIENCE, at_b.closed()).await.unwrap();
    drop((a, b));
}

async fn only_the_named_node_will_do(transport: Transport) {
    let trust = Trust::new();
    let a = Node::start(&trust, "a", &[], transport);
    let b = Node::start(&trust, "b", &[], transport);
    let error = a.peers.dial(Some(&super::node_id("c")), b.address()).await.unwrap_err();
    assert!(matches!(error, Error::Connect { .. } | Error::WrongPeer { .. }), "{error}");
    let link = a.peers.dial(None, b.address()).await.unwrap();
    assert_eq!(link.peer().node, b.id);
    let stranger = Node::start(&Trust::new(), "a", &[], transport);
    let error = stranger.peers.dial(Some(&b.id), b.address()).await.unwrap_err();
    assert!(matches!(error, Error::WrongPeer { .. }), "{error}");
}

async fn long_replies_do_not_hold_urgent_messages_back(transport: Transport) {
    let Linked { from_a, at_b, a, b, .. } = linked(transport).await;
    let ask = from_a.request(1, Bytes::new(), PATIENCE);
    let answer = async {
        at_b.asked().await.unwrap().reply(vec![1; 6 << 20].into());
        at_b.send(Lane::Liveness, Bytes::from_static(b"now")).unwrap();
    };
    let urgent = async {
        assert_eq!(from_a.recv().await, Some(Bytes::from_static(b"now")));
        crate::clock::monotonic()
    };
    let reply = async {
        assert_eq!(ask.await.unwrap().len(), 6 << 20);
        crate::clock::monotonic()
    };
    let (at_urgent, at_reply, ()) = tokio::join!(urgent, reply, answer);
    assert!(at_urgent < at_reply);
    drop((a, b));
}

/// What its inbox has no room for stays with the sender, for longer than the silence after which a link is given up.
async fn a_reader_that_is_behind_loses_nothing_and_keeps_its_link(transport: Transport) {
    // More than an inbox, a lane and all buffers on the way hold.
    const MESSAGES: u32 = 500;
    const LENGTH: usize = 48 << 10;
    let message = |number: u32| Bytes::from([&number.to_be_bytes()[..], &[7; LENGTH]].concat());
    let Linked { from_a, at_b, a, b, .. } = linked(transport).await;
    let mut sent = 0;
    while sent < MESSAGES && from_a.send(Lane::Rest, message(sent)).is_ok() {
        sent += 1;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(sent < MESSAGES, "nothing stopped the sender");
    tokio::time::sleep(PEER_IDLE + PEER_KEEP_ALIVE).await;
    for number in 0..sent {
        assert_eq!(timeout(PATIENCE, at_b.recv()).await.unwrap(), Some(message(number)));
    }
    // And is heard again.
    let ask = from_a.request(1, Bytes::new(), PATIENCE);
    let (answer, ()) = tokio::join!(ask, async { at_b.asked().await.unwrap().reply(Bytes::new()) });
    assert_eq!(answer, Ok(Bytes::new()));
    drop((a, b));
}

async fn an_evicted_node_loses_its_links(transport: Transport) {
    let Linked { trust, from_a, at_b, a, b, .. } = linked(transport).await;
    let mut authority = certs::verify::Authority::clone(&trust.authority.load());
    authority.revocations.nodes.insert(a.id.clone(), 1);
    trust.authority.store(Arc::new(authority));
    assert_eq!(b.mesh.rejudge(&trust.authority.load()), 1);
    timeout(PATIENCE, at_b.closed()).await.unwrap();
    timeout(PATIENCE, from_a.closed()).await.unwrap();
    assert_eq!(b.mesh.counters().revoked.load(Relaxed), 1);
    drop((a, b));
}

/// Its handshake was judged just before the eviction and came into the table just after.
#[tokio::test]
async fn a_link_that_slips_in_beside_an_eviction_is_judged_again() {
    let trust = Trust::new();
    let a = Node::start(&trust, "a", &[], Transport::Auto);
    let b = Node::start(&trust, "b", &[], Transport::Auto);
    let mut evicted = certs::verify::Authority::clone(&trust.authority.load());
    evicted.revocations.nodes.insert(a.id.clone(), 1);
    assert_eq!(b.mesh.rejudge(&Arc::new(evicted)), 0);
    let (from_a, at_b) = tokio::join!(a.peers.dial(Some(&b.id), b.address()), b.peers.accept());
    let (from_a, at_b) = (from_a.unwrap(), at_b.unwrap());
    assert_eq!(b.mesh.look_again(), 1);
    timeout(PATIENCE, at_b.closed()).await.unwrap();
    timeout(PATIENCE, from_a.closed()).await.unwrap();
}

#[tokio::test]
async fn a_silent_tcp_peer_is_given_up() {
    let trust = Trust::new();
    let a = Node::start(&trust, "a", &[], Transport::Tcp);
    let b = Node::start(&trust, "b", &[], Transport::Tcp);
    let relay = Relay::start(b.address(), Udp::Refused).await;
    let (from_a, at_b) = tokio::join!(a.peers.dial(Some(&b.id), relay.address), b.peers.accept());
    let (from_a, at_b) = (from_a.unwrap(), at_b.unwrap());
    from_a.send(Lane::Rest, Bytes::from_static(b"x")).unwrap();
    at_b.recv().await.unwrap();
    relay.freeze();
    let ends = async { tokio::join!(from_a.closed(), at_b.closed()) };
    let (at_a, at_b) = timeout(Duration::from_secs(10), ends).await.unwrap();
    assert_eq!((&at_a[..], &at_b[..]), ("timed out", "timed out"));
}

/// A changeset on a link of a few kilobytes a second: it takes longer than a peer may be silent, and comes.
#[tokio::test]
async fn a_long_reply_on_a_slow_way_has_time_while_its_pieces_come() {
    let trust = Trust::new();
    let a = Node::start(&trust, "a", &[], Transport::Tcp);
    let b = Node::start(&trust, "b", &[], Transport::Tcp);
    let relay = Relay::start(b.address(), Udp::Refused).await;
    let (from_a, at_b) = tokio::join!(a.peers.dial(Some(&b.id), relay.address), b.peers.accept());
    let (from_a, at_b) = (from_a.unwrap(), at_b.unwrap());
    relay.slow(Duration::from_millis(60));
    let answers = async {
        while let Some(asked) = at_b.asked().await {
            asked.reply(vec![7; 900 << 10].into());
        }
    };
    let asking = async {
        // 900 KiB take 3.4 s and more.
        let within = Duration::from_secs(2);
        assert_eq!(from_a.request(1, Bytes::new(), within).await, Err(LinkError::Timeout(within)), "not in time");
        from_a.request_long(1, Bytes::new(), within).await.map(|reply| reply.len())
    };
    let came = tokio::select! {
        came = asking => came,
        () = answers => Err(LinkError::Refused),
    };
    assert_eq!(came, Ok(900 << 10));
}

#[tokio::test]
async fn joins_and_administration_share_a_secret_with_nobody_else() {
    let trust = Trust::new();
    let b = Node::start(&trust, "b", &[], Transport::Auto);
    let name = tls::server_name(Some(&trust.node("b")), &trust.trust_domain);
    let joiner = connect(b.address(), tls::joiner(Arc::new(Clock)), name.clone());
    let known = Authority::new(trust.trust_domain.clone(), trust.authority.load().roots.clone());
    let operator = tls::operator(known, Some(&b.id), Arc::new(Clock));
    let operator = connect(b.address(), operator, name);
    let (joiner, operator, join, admin) = tokio::join!(joiner, operator, b.peers.accept_join(), b.peers.accept_admin());
    let (mut joiner, operator, mut join, admin) = (joiner.unwrap(), operator.unwrap(), join.unwrap(), admin.unwrap());
    let label = tls::EXPORTER_JOIN;
    assert_eq!(joiner.exporter(label).unwrap(), join.exporter(label).unwrap());
    assert_ne!(joiner.exporter(label).unwrap(), operator.exporter(label).unwrap());
    let label = tls::EXPORTER_ADMIN;
    assert_eq!(operator.exporter(label).unwrap(), admin.exporter(label).unwrap());
    assert_eq!((joiner.certificates().len(), join.certificates().len()), (3, 0));
    joiner.write_all(b"token").await.unwrap();
    joiner.shutdown().await.unwrap();
    let mut read = Vec::new();
    join.read_to_end(&mut read).await.unwrap();
    assert_eq!(read, b"token");
}

/// A stranger that says hello and then nothing holds its place until the handshake ends, on whichever runtime that is.
#[tokio::test]
async fn handshakes_that_stall_are_counted_to_their_end() {
    use tokio::{io::AsyncReadExt as _, net::TcpStream};
    let trust = Trust::new();
    let b = Node::start(&trust, "b", &[], Transport::Auto);
    let name = tls::server_name(Some(&trust.node("b")), &trust.trust_domain);
    let mut hello = Vec::new();
    rustls::ClientConnection::new(tls::joiner(Arc::new(Clock)), name).unwrap().write_tls(&mut hello).unwrap();
    let mut stalled = Vec::new();
    for _ in 0..300 {
        let mut stream = TcpStream::connect(b.address()).await.unwrap();
        // Whoever is one too many may be closed already.
        let _ = stream.write_all(&hello).await;
        stalled.push(stream);
    }
    let mut answered = 0;
    for stream in &mut stalled {
        let mut first = [0];
        if matches!(timeout(PATIENCE, stream.read(&mut first)).await, Ok(Ok(1))) {
            answered += 1;
        }
    }
    assert!((1..=256).contains(&answered), "{answered}");
}
