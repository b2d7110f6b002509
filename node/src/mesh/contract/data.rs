//! Requests and tunnels.
#![expect(clippy::disallowed_methods, reason = "tests wait for what they spawn, or end with it")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::{sleep, timeout},
};

use super::{
    super::{
        Protocol, Transport,
        data::Call,
        error::{Code, Error, Limit},
        lease::{Body, BodyError, Pings},
        live::{Handle, Kill, OUTBOUND, Retirement},
    },
    Caller, HOUR, Node, PATIENCE, Trust, full, node_id, over_both, until, wall,
};

over_both! {
    requests_are_answered_over_kept_connections
    connections_and_what_they_carry_are_counted
    many_requests_at_once
    tunnels_end_one_side_at_a_time
    tunnels_over_tcp_use_one_connection_after_the_other
    a_tunnel_given_up_is_no_clean_end
    large_bodies_arrive_whole
    an_unread_body_holds_its_sender_back
    an_early_answer_costs_the_connection
    strangers_are_refused_both_ways
    the_right_account_on_the_wrong_node_is_refused
    unused_connections_are_closed
    the_longest_unused_connection_gives_way
    a_gone_node_fails_what_is_in_flight
    an_evicted_node_loses_its_connections
    http2_carries_streams
    a_draining_node_refuses_unread
    an_end_between_two_requests_is_a_refusal
    an_unused_lease_goes_back
    pings_end_a_connection_that_went_silent
}

/// Requests that one worker has under way to an identity of a node: four connections of 256 streams.
const UNDER_WAY: usize = 1_024;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_group_is_an_overflow() {
    // The count is the same over TCP, where it would take as many sockets.
    let Pair { trust, client, server } = pair(Transport::Quic);
    let caller = Caller::new(&trust, &server, Protocol::Http1);
    let mut leases = Vec::new();
    for _ in 0..UNDER_WAY {
        leases.push(timeout(PATIENCE, client.worker().open(&caller.call())).await.unwrap().unwrap());
    }
    let call = Call { patience: Duration::from_millis(50), ..caller.call() };
    let refused = timeout(PATIENCE, client.worker().open(&call)).await.unwrap();
    assert!(matches!(refused, Err(Error::Overflow(Limit::Requests))), "{refused:?}");
    let counted = |limit| client.mesh.counters().overflows(limit).load(Relaxed);
    assert_eq!(Limit::ALL.map(counted), [1, 0, 0, 0, 0], "by limit");
    leases.truncate(UNDER_WAY - 1);
    assert!(timeout(PATIENCE, client.worker().open(&caller.call())).await.unwrap().is_ok());
}

async fn pings_end_a_connection_that_went_silent(transport: Transport) {
    let trust = Trust::new();
    let client = Node::start(&trust, "a", &["web"], transport);
    let server = Node::start(&trust, "b", &["api"], transport);
    let silent = server.worker().clone();
    server.tasks.detach("silent", async move {
        let mut held = Vec::new();
        while let Some(incoming) = silent.accept().await {
            held.push(incoming);
        }
    });
    let caller = Caller::new(&trust, &server, Protocol::Http2);
    let pings = Some(Pings { interval: Duration::from_millis(100), timeout: Duration::from_millis(100) });
    let lease = client.worker().open(&Call { pings, ..caller.call() }).await.unwrap();
    let (head, ()) = http::Request::get("http://api/").body(()).unwrap().into_parts();
    assert!(timeout(PATIENCE, lease.send(&head, full(""))).await.expect("it ends").is_err());
}

pub(super) struct Pair {
    pub(super) trust: Trust,
    pub(super) client: Node,
    pub(super) server: Node,
}

pub(super) fn pair(transport: Transport) -> Pair {
    let trust = Trust::new();
    let client = Node::start(&trust, "a", &["web"], transport);
    let server = Node::start(&trust, "b", &["api"], transport);
    server.echo();
    Pair { trust, client, server }
}

async fn requests_are_answered_over_kept_connections(transport: Transport) {
    let Pair { trust, client, server } = pair(transport);
    let caller = Caller::new(&trust, &server, Protocol::Http1);
    for index in 0..20 {
        let text = format!("request {index}");
        assert_eq!(caller.text(client.worker(), "/echo", &text).await, text);
    }
    assert_eq!(server.accepted.load(Relaxed), 1, "one virtual connection serves one request after the other");
    assert_eq!(client.mesh.data_connections(), 1);
}

async fn connections_and_what_they_carry_are_counted(transport: Transport) {
    let Pair { trust, client, server } = pair(transport);
    let caller = Caller::new(&trust, &server, Protocol::Http1);
    assert!(client.mesh.connected().is_empty() && client.mesh.occupancy().is_empty());
    let carrier = if transport == Transport::Quic { "quic" } else { "tcp" };
    let count = |of: &Node, peer: &str, direction: &str| {
        let connected = of.mesh.connected().into_iter().find(|(one, _)| {
            (one.peer.as_str(), one.conversation, one.direction, one.transport) == (peer, "data", direction, carrier)
        });
        connected.map_or(0, |(_, count)| count)
    };
    let lease = timeout(PATIENCE, client.worker().open(&caller.call())).await.unwrap().unwrap();
    assert_eq!((count(&client, "b", "outbound"), client.mesh.connected().len()), (1, 1));
    until("the other end counts it, too", || count(&server, "a", "inbound") == 1).await;
    let of_server = || client.mesh.occupancy().get(&node_id("b")).copied().unwrap_or_default();
    assert_eq!((of_server().requests, of_server().waiting), (1, 0));
    assert_eq!(of_server().streams, usize::from(transport == Transport::Quic));
    // One that waits for a connection holds none.
    let (udp, tcp) = (std::net::UdpSocket::bind("127.0.0.1:0"), std::net::TcpListener::bind("127.0.0.1:0"));
    let (udp, tcp) = (udp.unwrap(), tcp.unwrap());
    let silent = if transport == Transport::Quic { udp.local_addr() } else { tcp.local_addr() };
    let elsewhere = node_id("c");
    let call = Call { node: &elsewhere, address: silent.unwrap(), ..caller.call() };
    let mut opening = std::pin::pin!(client.worker().open(&call));
    assert!(std::future::poll_fn(|cx| Poll::Ready(opening.as_mut().poll(cx).is_pending())).await);
    assert_eq!(client.mesh.occupancy().get(&elsewhere).map(|of| of.requests), Some(0));
    drop(lease);
    until("the request is over", || of_server().requests == 0).await;
}

async fn many_requests_at_once(transport: Transport) {
    let Pair { trust, client, server } = pair(transport);
    let caller = Arc::new(Caller::new(&trust, &server, Protocol::Http1));
    let requests = (0..300).map(|index| {
        let (caller, worker) = (caller.clone(), client.worker().clone());
        tokio::task::spawn(async move {
            let text = format!("request {index}");
            assert_eq!(caller.text(&worker, "/echo", &text).await, text);
        })
    });
    for request in requests.collect::<Vec<_>>() {
        timeout(PATIENCE, request).await.unwrap().unwrap();
    }
    if transport == Transport::Quic {
        assert!(client.mesh.data_connections() <= 4);
    }
}

async fn tunnels_end_one_side_at_a_time(transport: Transport) {
    let Pair { trust, client, server } = pair(transport);
    let caller = Caller::new(&trust, &server, Protocol::Tcp);
    let mut tunnel = client.worker().tunnel(&caller.call()).await.unwrap();
    tunnel.write_all(b"first").await.unwrap();
    tunnel.flush().await.unwrap();
    let mut first = [0; 5];
    tunnel.read_exact(&mut first).await.unwrap();
    tunnel.write_all(b"last").await.unwrap();
    tunnel.shutdown().await.unwrap();
    let mut rest = Vec::new();
    tunnel.read_to_end(&mut rest).await.unwrap();
    assert_eq!((&first[..], &rest[..]), (&b"first"[..], &b"last"[..]));
}

async fn tunnels_over_tcp_use_one_connection_after_the_other(transport: Transport) {
    let Pair { trust, client, server } = pair(transport);
    let caller = Caller::new(&trust, &server, Protocol::Tcp);
    for round in 0..5u32 {
        let mut tunnel = client.worker().tunnel(&caller.call()).await.unwrap();
        let sent = round.to_be_bytes().repeat(50_000);
        let mut read = Vec::new();
        let (mut reader, mut writer) = tokio::io::split(&mut tunnel);
        let writing = async {
            writer.write_all(&sent).await.unwrap();
            writer.shutdown().await.unwrap();
        };
        let (result, ()) = tokio::join!(reader.read_to_end(&mut read), writing);
        assert_eq!(result.unwrap(), sent.len());
        assert!(read == sent);
        drop(tunnel);
        until("the other end has seen it", || server.accepted.load(Relaxed) == usize::try_from(round).unwrap() + 1)
            .await;
    }
    let dialled = client.mesh.counters();
    let dialled = dialled.dialled_tcp.load(Relaxed) + dialled.dialled_quic.load(Relaxed);
    assert_eq!(dialled, 1);
    // A tunnel that is given up takes its connection with it.
    let mut tunnel = client.worker().tunnel(&caller.call()).await.unwrap();
    tunnel.write_all(b"x").await.unwrap();
    tunnel.reset();
    let mut tunnel = client.worker().tunnel(&caller.call()).await.unwrap();
    tunnel.write_all(b"y").await.unwrap();
    tunnel.flush().await.unwrap();
    assert_eq!(tunnel.read_u8().await.unwrap(), b'y');
}

async fn a_tunnel_given_up_is_no_clean_end(transport: Transport) {
    let trust = Trust::new();
    let client = Node::start(&trust, "a", &["web"], transport);
    let server = Node::start(&trust, "b", &["api"], transport);
    let caller = Caller::new(&trust, &server, Protocol::Tcp);
    let mut tunnel = client.worker().tunnel(&caller.call()).await.unwrap();
    tunnel.write_all(b"x").await.unwrap();
    tunnel.flush().await.unwrap();
    let mut incoming = server.worker().accept().await.unwrap();
    assert_eq!(incoming.peer.id, trust.service("web"));
    assert_eq!(incoming.local, trust.service("api"));
    assert_eq!(incoming.preface, caller.preface);
    incoming.stream.read_u8().await.unwrap();
    incoming.stream.write_all(b"half of").await.unwrap();
    incoming.stream.flush().await.unwrap();
    drop(incoming.stream);
    let mut read = Vec::new();
    timeout(PATIENCE, tunnel.read_to_end(&mut read)).await.unwrap().unwrap_err();
}

async fn large_bodies_arrive_whole(transport: Transport) {
    let Pair { trust, client, server } = pair(transport);
    let caller = Caller::new(&trust, &server, Protocol::Http1);
    let text: String = (0..10 << 20).map(|index: u32| char::from(b'a' + u8::try_from(index % 23).unwrap())).collect();
    let echoed = timeout(PATIENCE, caller.text(client.worker(), "/echo", &text)).await.unwrap();
    assert!(echoed == text, "{} bytes of {}", echoed.len(), text.len());
}

async fn an_unread_body_holds_its_sender_back(transport: Transport) {
    let trust = Trust::new();
    let client = Node::start(&trust, "a", &["web"], transport);
    let server = Node::start(&trust, "b", &["api"], transport);
    let caller = Caller::new(&trust, &server, Protocol::Http1);
    let produced = Arc::new(AtomicUsize::new(0));
    let counter = produced.clone();
    let chunks = stream::iter((0..10 << 10).map(move |_| {
        counter.fetch_add(1024, Relaxed);
        Ok::<_, BodyError>(Frame::data(Bytes::from_static(&[7; 1024])))
    }));
    let worker = client.worker().clone();
    let sending = tokio::task::spawn(async move {
        caller.request(&worker, "/echo", Body::new(StreamBody::new(chunks))).await.map(|_| ())
    });
    let mut incoming = server.worker().accept().await.unwrap();
    sleep(Duration::from_millis(300)).await;
    let unread = produced.load(Relaxed);
    assert!(unread < 9 << 20, "{unread} bytes were taken though nobody reads");
    let mut buffer = vec![0; 64 << 10];
    let all = async {
        while produced.load(Relaxed) < 10 << 20 {
            assert_ne!(incoming.stream.read(&mut buffer).await.unwrap(), 0);
        }
    };
    timeout(PATIENCE, all).await.unwrap();
    sending.abort();
}

async fn an_early_answer_costs_the_connection(transport: Transport) {
    let Pair { trust, client, server } = pair(transport);
    let caller = Caller::new(&trust, &server, Protocol::Http1);
    let endless = stream::repeat_with(|| Ok::<_, BodyError>(Frame::data(Bytes::from_static(&[7; 1024]))));
    let result = caller.request(client.worker(), "/early", Body::new(StreamBody::new(endless))).await;
    match result {
        Ok(response) => assert_eq!(response.status(), 413),
        // TCP may lose the answer when the other end closes with unread bytes.
        Err(failed) => {
            assert!(matches!(failed.error, Error::ResetBefore(_) | Error::Protocol(_)), "{}", failed.error);
        }
    }
    assert_eq!(caller.text(client.worker(), "/echo", "next").await, "next");
    assert_eq!(server.accepted.load(Relaxed), 2);
}

async fn strangers_are_refused_both_ways(transport: Transport) {
    let (trust, other) = (Trust::new(), Trust::new());
    let server = Node::start(&trust, "b", &["api"], transport);
    server.echo();
    let stranger = Node::start(&other, "a", &["web"], transport);
    let caller = Caller::new(&trust, &server, Protocol::Http1);
    let error = caller.request(stranger.worker(), "/echo", full("x")).await.unwrap_err().error;
    assert!(matches!(error, Error::WrongPeer { .. }), "the stranger sees that the server is none of his: {error}");

    // A stranger that believes us gets as far as showing its certificate.
    let believer = other.tls_under("c", &["web"], &trust.authority);
    let believer = Node::with(&other, believer, "c", transport, 1, super::steer::attach);
    let error = caller.request(believer.worker(), "/echo", full("x")).await.unwrap_err().error;
    assert!(is_unread(&error) || matches!(error, Error::ResetBefore(_) | Error::Protocol(_)), "{error}");
    assert_eq!(server.accepted.load(Relaxed), 0);
}

/// True if it says that the other node cannot have acted on the request.
fn is_unread(error: &Error) -> bool {
    use Error::{Connect, NeverSent, Refused, Unwelcome, WrongPeer};
    matches!(error, Connect { .. } | WrongPeer { .. } | Unwelcome { .. } | NeverSent(_) | Refused)
}

async fn the_right_account_on_the_wrong_node_is_refused(transport: Transport) {
    let Pair { trust, client, server } = pair(transport);
    let other = Node::start(&trust, "c", &["api"], transport);
    let mut caller = Caller::new(&trust, &server, Protocol::Http1);
    caller.address = other.address();
    let error = caller.request(client.worker(), "/echo", full("x")).await.unwrap_err().error;
    assert!(matches!(error, Error::WrongPeer { .. }), "{error}");
    caller.address = server.address();
    caller.identity = trust.service("other");
    let error = caller.request(client.worker(), "/echo", full("x")).await.unwrap_err().error;
    assert!(is_unread(&error), "{error}");
    caller.source = trust.service("nobody");
    let error = caller.request(client.worker(), "/echo", full("x")).await.unwrap_err().error;
    assert!(matches!(error, Error::NoIdentity(_)), "{error}");
    assert_eq!(server.accepted.load(Relaxed), 0);
}

async fn unused_connections_are_closed(transport: Transport) {
    let Pair { trust, client, server } = pair(transport);
    let caller = Caller::new(&trust, &server, Protocol::Http1);
    assert_eq!(caller.text(client.worker(), "/echo", "x").await, "x");
    client.worker().sweep_at(5_000);
    assert_eq!(caller.text(client.worker(), "/echo", "y").await, "y");
    assert_eq!(server.accepted.load(Relaxed), 1, "too young to be closed");
    client.worker().sweep_at(11_000);
    let kept = if transport == Transport::Quic { "the connection outlives its streams" } else { "kept for a minute" };
    assert_eq!(client.mesh.data_connections(), 1, "{kept}");
    sleep(Duration::from_millis(50)).await;
    client.worker().sweep_at(61_000);
    until("closed", || client.mesh.data_connections() == 0).await;
    assert_eq!(caller.text(client.worker(), "/echo", "z").await, "z");
    assert_eq!(server.accepted.load(Relaxed), 2);
}

async fn the_longest_unused_connection_gives_way(transport: Transport) {
    let Pair { trust, client, server } = pair(transport);
    let other = Node::start(&trust, "c", &["api"], transport);
    other.echo();
    let callers = [&server, &other].map(|server| Caller::new(&trust, server, Protocol::Http1));
    for caller in &callers {
        assert_eq!(caller.text(client.worker(), "/echo", "x").await, "x");
        // Their times differ.
        sleep(Duration::from_millis(20)).await;
    }
    let pools = &client.mesh.shared.pools;
    let left = || client.mesh.connected().into_keys().map(|connected| connected.peer).collect::<Vec<_>>();
    assert_eq!(left().len(), 2);
    assert!(pools.evict());
    until("the older one is closed", || left() == [node_id("c")]).await;
    let lease = client.worker().open(&callers[1].call()).await.unwrap();
    assert!(!pools.evict(), "what is in use stays");
    drop(lease);
    assert!(pools.evict(), "a virtual connection that is only kept holds nothing");
    until("none is left", || left().is_empty()).await;
    assert_eq!(callers[0].text(client.worker(), "/echo", "y").await, "y");
    assert_eq!(server.accepted.load(Relaxed), 2, "dialled anew");
}

async fn a_gone_node_fails_what_is_in_flight(transport: Transport) {
    let Pair { trust, client, server } = pair(transport);
    let caller = Caller::new(&trust, &server, Protocol::Http1);
    let mesh = client.mesh.clone();
    let (node, other) = (server.id.clone(), node_id("other"));
    let accepted = server.accepted.clone();
    let closer = async {
        until("in flight", || accepted.load(Relaxed) == 1).await;
        mesh.close_node(&other);
        sleep(Duration::from_millis(50)).await;
        mesh.close_node(&node);
    };
    let request = timeout(PATIENCE, caller.request(client.worker(), "/never", full("x")));
    let (result, ()) = tokio::join!(request, closer);
    let error = result.unwrap().unwrap_err().error;
    assert!(matches!(error, Error::ResetBefore(_)), "{error}");
    assert_eq!(caller.text(client.worker(), "/echo", "again").await, "again");
}

async fn an_evicted_node_loses_its_connections(transport: Transport) {
    let Pair { trust, client, server } = pair(transport);
    let caller = Caller::new(&trust, &server, Protocol::Http1);
    let accepted = server.accepted.clone();
    let evictor = async {
        until("in flight", || accepted.load(Relaxed) == 1).await;
        assert_eq!(server.mesh.rejudge(&trust.authority.load()), 0);
        let mut authority = certs::verify::Authority::clone(&trust.authority.load());
        authority.revocations.nodes.insert(client.id.clone(), 1);
        trust.authority.store(Arc::new(authority));
        assert_eq!(server.mesh.rejudge(&trust.authority.load()), 1);
    };
    let request = timeout(PATIENCE, caller.request(client.worker(), "/never", full("x")));
    let (result, ()) = tokio::join!(request, evictor);
    result.unwrap().unwrap_err();
    let error = caller.request(client.worker(), "/echo", full("x")).await.unwrap_err().error;
    assert!(is_unread(&error), "{error}");
    assert_eq!(server.accepted.load(Relaxed), 1);
}

/// A change, a look right after it, and only then the connection in the table whose peer was judged before.
#[tokio::test]
async fn who_was_judged_just_before_an_eviction_is_judged_again() {
    let trust = Trust::new();
    let node = Node::start(&trust, "a", &["web"], Transport::Tcp);
    let leaf = trust.ca("b", &["api"]).ca.leaf_for(&trust.node("b"), HOUR, wall()).unwrap();
    let mut authority = certs::verify::Authority::clone(&trust.authority.load());
    let peer = Arc::new(certs::verify::verify(&leaf.chain, &authority, wall()).unwrap());
    authority.revocations.evict(node_id("b"), 1);
    node.mesh.rejudge(&Arc::new(authority));
    node.mesh.look_again();
    let (kill, retirement) = (Arc::<Kill>::default(), Retirement::before(peer.not_after, None));
    let _guard = node.mesh.shared.live.add(OUTBOUND, peer, leaf.chain.clone(), Handle::Tcp(kill.clone()), retirement);
    assert_eq!(kill.killed(), None);
    node.mesh.look_again();
    assert_eq!(kill.killed(), Some(Code::Unauthorized));
}

async fn http2_carries_streams(transport: Transport) {
    let trust = Trust::new();
    let client = Node::start(&trust, "a", &["web"], transport);
    let server = Node::start(&trust, "b", &["api"], transport);
    let (worker, tasks) = (server.worker().clone(), server.tasks.clone());
    server.tasks.detach("http/2", async move {
        while let Some(incoming) = worker.accept().await {
            assert_eq!(incoming.preface.protocol, Protocol::Http2);
            let io = hyper_util::rt::TokioIo::new(incoming.stream);
            let http = hyper::server::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new());
            let serving = http.serve_connection(io, hyper::service::service_fn(super::respond));
            tasks.detach("http/2 connection", async move { drop(serving.await) });
        }
    });
    let caller = Caller::new(&trust, &server, Protocol::Http2);
    for _ in 0..3 {
        let lease = client.worker().open(&caller.call()).await.unwrap();
        let (head, body) = http::Request::post("http://api/echo").body(full("over h2")).unwrap().into_parts();
        let response = lease.send(&head, body).await.unwrap();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(&bytes[..], b"over h2");
    }
}

async fn a_draining_node_refuses_unread(transport: Transport) {
    let Pair { trust, client, server } = pair(transport);
    let caller = Caller::new(&trust, &server, Protocol::Http1);
    let busy = client.worker().open(&caller.call()).await.unwrap();
    server.mesh.drain();
    let error = caller.request(client.worker(), "/echo", full("x")).await.unwrap_err().error;
    assert!(matches!(error, Error::Refused), "{error}");
    drop(busy);
}

async fn an_end_between_two_requests_is_a_refusal(transport: Transport) {
    let trust = Trust::new();
    let client = Node::start(&trust, "a", &["web"], transport);
    let server = Node::start(&trust, "b", &["api"], transport);
    let caller = Caller::new(&trust, &server, Protocol::Http1);
    let (stop, stopping) = tokio::sync::oneshot::channel::<()>();
    let worker = server.worker().clone();
    server.tasks.detach("one request", async move {
        let stream = worker.accept().await.unwrap().stream;
        let http = hyper::server::conn::http1::Builder::new();
        let io = hyper_util::rt::TokioIo::new(stream);
        let mut serving = std::pin::pin!(http.serve_connection(io, hyper::service::service_fn(super::respond)));
        tokio::select! {
            _ = &mut serving => unreachable!("the connection is kept"),
            _ = stopping => {}
        }
        serving.as_mut().graceful_shutdown();
        let _ = serving.await;
    });
    assert_eq!(caller.text(client.worker(), "/echo", "x").await, "x");
    let lease = client.worker().open(&caller.call()).await.unwrap();
    // The server ends the kept connection and the client, which has not heard of it, sends a request that must not be lost.
    stop.send(()).unwrap();
    let request = http::Request::post("/echo").header("host", "api").body(full("y")).unwrap();
    let (head, body) = request.into_parts();
    let failed = lease.send(&head, body).await.unwrap_err();
    // TCP does not say what was read.
    let is_lost = transport == Transport::Tcp && matches!(failed.error, Error::ResetBefore(_) | Error::Protocol(_));
    assert!(is_lost || is_unread(&failed.error), "{}", failed.error);
}

async fn an_unused_lease_goes_back(transport: Transport) {
    let Pair { trust, client, server } = pair(transport);
    let caller = Caller::new(&trust, &server, Protocol::Http1);
    drop(client.worker().open(&caller.call()).await.unwrap());
    assert_eq!(caller.text(client.worker(), "/echo", "x").await, "x");
    assert_eq!(server.accepted.load(Relaxed), 1);
}
