//! Ways between nodes: steering, blocked UDP, dead addresses, the fallback without steering.
#![expect(clippy::disallowed_methods, reason = "tests wait for what they spawn, or end with it")]

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::timeout,
};

use super::{
    super::{Config, Protocol, Steering, Transport, error::Error, steer},
    Caller, Node, PATIENCE, Trust, full,
    relay::{Relay, Udp},
    until,
};
use crate::clock::monotonic;

#[tokio::test]
async fn where_udp_is_blocked_tcp_is_raced_and_remembered() {
    let trust = Trust::new();
    let client = Node::start(&trust, "a", &["web"], Transport::Auto);
    let server = Node::start(&trust, "b", &["api"], Transport::Auto);
    server.echo();
    let relay = Relay::start(server.address(), Udp::Swallowed).await;
    let mut caller = Caller::new(&trust, &server, Protocol::Http1);
    caller.address = relay.address;
    let begun = monotonic();
    assert_eq!(caller.text(client.worker(), "/echo", "x").await, "x");
    let first = begun.elapsed();
    assert!(first >= Duration::from_millis(200), "QUIC had its chance: {first:?}");
    assert_eq!(client.mesh.counters().udp_blocked.load(Relaxed), 1);
    assert_eq!(client.mesh.counters().dialled_quic.load(Relaxed), 0);
    // Another identity pair needs a connection of its own, which does not wait for UDP again.
    let lease = client.worker().open(&caller.call()).await.unwrap();
    assert_eq!(caller.text(client.worker(), "/echo", "y").await, "y");
    assert_eq!(client.mesh.counters().udp_blocked.load(Relaxed), 1, "UDP was not tried again");
    assert_eq!(lease.carrier(), "tcp");
    let (link, accepted) = tokio::join!(client.peers.dial(Some(&server.id), relay.address), server.peers.accept());
    assert_eq!((link.unwrap().carrier(), accepted.unwrap().carrier()), ("tcp", "tcp"));
}

#[tokio::test]
async fn many_calls_that_meet_blocked_udp_all_succeed() {
    let trust = Trust::new();
    let client = Node::start(&trust, "a", &["web"], Transport::Auto);
    let server = Node::start(&trust, "b", &["api"], Transport::Auto);
    server.echo();
    let relay = Relay::start(server.address(), Udp::Swallowed).await;
    let mut caller = Caller::new(&trust, &server, Protocol::Http1);
    caller.address = relay.address;
    let caller = Arc::new(caller);
    let calls = (0..40).map(|_| {
        let (caller, worker) = (caller.clone(), client.worker().clone());
        tokio::task::spawn(async move { assert_eq!(caller.text(&worker, "/echo", "x").await, "x") })
    });
    for call in calls.collect::<Vec<_>>() {
        timeout(PATIENCE, call).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn where_nobody_listens_the_call_fails_soon() {
    let trust = Trust::new();
    let client = Node::start(&trust, "a", &["web"], Transport::Auto);
    let server = Node::start(&trust, "b", &["api"], Transport::Auto);
    let mut caller = Caller::new(&trust, &server, Protocol::Http1);
    caller.address = "127.0.0.1:1".parse().unwrap();
    let error = caller.request(client.worker(), "/", full("x")).await.unwrap_err().error;
    // Whoever waited for QUIC, too, would have waited for as long as the caller's patience lasts.
    assert!(matches!(&error, Error::Connect { reason, .. } if reason.contains("refused")), "{error}");
}

/// All pairs of workers: every connection stays with the worker that accepted it, though all share one 4-tuple.
#[tokio::test]
async fn every_worker_reaches_every_worker() {
    let trust = Trust::new();
    let client = Node::with(&trust, trust.tls("a", &["web"]), "a", Transport::Quic, 3, steer::attach);
    let server = Node::with(&trust, trust.tls("b", &["api"]), "b", Transport::Quic, 3, steer::attach);
    assert_eq!(client.mesh.steering(), &Steering::PerWorker);
    let caller = Caller::new(&trust, &server, Protocol::Tcp);
    let mut reached = [0; 3];
    for worker in &client.workers {
        for ordinal in 0..3 {
            let mut stream = worker.tunnel_at(&caller.call(), ordinal).await.unwrap();
            stream.write_all(b"ping").await.unwrap();
            let accepts = server.workers.iter().map(|worker| Box::pin(worker.accept()));
            let (incoming, index, _) =
                timeout(PATIENCE, futures_util::future::select_all(accepts)).await.expect("no worker was reached");
            let mut incoming = incoming.unwrap();
            reached[index] += 1;
            for _ in 0..20 {
                let mut buffer = [0; 4];
                incoming.stream.read_exact(&mut buffer).await.unwrap();
                incoming.stream.write_all(&buffer).await.unwrap();
                timeout(PATIENCE, stream.read_exact(&mut buffer)).await.unwrap().unwrap();
                stream.write_all(&buffer).await.unwrap();
            }
        }
    }
    assert_eq!(reached, [3, 3, 3], "each worker meets each worker once");
}

#[tokio::test]
async fn without_steering_one_endpoint_serves_all() {
    let refuse: steer::Attach = |_, _| Err(io::Error::other("sandboxed"));
    let trust = Trust::new();
    let client = Node::with(&trust, trust.tls("a", &["web"]), "a", Transport::Quic, 3, refuse);
    let server = Node::with(&trust, trust.tls("b", &["api"]), "b", Transport::Quic, 3, refuse);
    server.echo();
    assert_eq!(server.mesh.steering(), &Steering::Single("sandboxed".to_owned()));
    let caller = Caller::new(&trust, &server, Protocol::Http1);
    for worker in &client.workers {
        assert_eq!(caller.text(worker, "/echo", "x").await, "x");
    }
    let (link, accepted) = tokio::join!(client.peers.dial(Some(&server.id), server.address()), server.peers.accept());
    assert_eq!((link.unwrap().carrier(), accepted.unwrap().carrier()), ("quic", "quic"));
}

#[tokio::test]
async fn auto_prefers_quic_for_requests_and_tcp_for_tunnels() {
    let trust = Trust::new();
    let client = Node::start(&trust, "a", &["web"], Transport::Auto);
    let server = Node::start(&trust, "b", &["api"], Transport::Auto);
    server.echo();
    let caller = Caller::new(&trust, &server, Protocol::Http1);
    assert_eq!(client.worker().open(&caller.call()).await.unwrap().carrier(), "quic");
    let caller = Caller::new(&trust, &server, Protocol::Tcp);
    assert_eq!(client.worker().tunnel(&caller.call()).await.unwrap().carrier(), "tcp");
}

/// Kills a node without a farewell and starts it again on its port.
#[tokio::test]
async fn a_restarted_node_tells_at_once_that_connections_are_gone() {
    let trust = Trust::new();
    let client = Node::start(&trust, "a", &["web"], Transport::Quic);
    let tls = trust.tls("b", &["api"]);
    let runtime = || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let life = |listen: SocketAddr| {
        let runtime = runtime();
        let entered = runtime.enter();
        let config = Config { listen, workers: 1, transport: Transport::Quic, reset_secret: [7; 32] };
        let node = Node::configured(&trust, tls.clone(), "b", &config, steer::attach);
        node.echo();
        drop(entered);
        (node, runtime)
    };
    let (server, runtime) = life("127.0.0.1:0".parse().unwrap());
    let caller = Caller::new(&trust, &server, Protocol::Http1);
    assert_eq!(caller.text(client.worker(), "/echo", "x").await, "x");
    server.tasks.stop();
    tokio::task::spawn_blocking(move || drop(runtime)).await.unwrap();
    let address = server.address();
    drop(server);
    let (server, runtime) = life(address);
    let error = caller.request(client.worker(), "/echo", full("y")).await.unwrap_err().error;
    // It is told, and does not find out by silence.
    assert!(matches!(&error, Error::ResetBefore(how) if how.contains("reset by peer")), "{error}");
    assert_eq!(caller.text(client.worker(), "/echo", "z").await, "z");
    drop(server);
    tokio::task::spawn_blocking(move || drop(runtime)).await.unwrap();
}

#[tokio::test]
async fn a_closed_node_takes_leave() {
    let trust = Trust::new();
    let client = Node::start(&trust, "a", &["web"], Transport::Quic);
    let server = Node::start(&trust, "b", &["api"], Transport::Quic);
    server.echo();
    let caller = Caller::new(&trust, &server, Protocol::Http1);
    assert_eq!(caller.text(client.worker(), "/echo", "x").await, "x");
    server.tasks.stop();
    server.mesh.close().await;
    until("closed", || client.worker().connections_open() == 0).await;
    let error = caller.request(client.worker(), "/echo", full("x")).await.unwrap_err().error;
    assert!(matches!(error, Error::Connect { .. }), "{error}");
    let error = server.worker().open(&caller.call()).await.unwrap_err();
    assert!(matches!(error, Error::Stopping), "{error}");
}

#[tokio::test]
async fn requests_go_back_to_quic_once_udp_answers() {
    let trust = Trust::new();
    let client = Node::start(&trust, "a", &["web"], Transport::Auto);
    let server = Node::start(&trust, "b", &["api"], Transport::Auto);
    server.echo();
    let caller = Caller::new(&trust, &server, Protocol::Http1);
    client.mesh.shared.udp_blocked.add(server.address());
    assert_eq!(caller.text(client.worker(), "/echo", "x").await, "x");
    assert_eq!(client.worker().connections_open(), 0);
    client.mesh.shared.udp_blocked.remove(server.address());
    assert_eq!(caller.text(client.worker(), "/echo", "y").await, "y");
    until("back on QUIC", || client.worker().connections_open() == 1).await;
    assert_eq!(client.worker().open(&caller.call()).await.unwrap().carrier(), "quic");
}

/// A firewall that lets UDP alone through, or nothing of one kind in one direction.
#[tokio::test]
async fn where_tcp_stays_silent_tunnels_go_over_quic() {
    let trust = Trust::new();
    let client = Node::start(&trust, "a", &["web"], Transport::Auto);
    let server = Node::start(&trust, "b", &["api"], Transport::Auto);
    server.echo();
    let relay = Relay::start(server.address(), Udp::Passed).await;
    relay.freeze_tcp();
    let mut caller = Caller::new(&trust, &server, Protocol::Tcp);
    caller.address = relay.address;
    // It does not wait out what a connection may take to open.
    let call = super::Call { patience: 100 * PATIENCE, ..caller.call() };
    let mut tried = Vec::new();
    for _ in 0..2 {
        let mut tunnel = timeout(PATIENCE, client.worker().tunnel(&call)).await.expect("UDP answers").unwrap();
        assert_eq!(tunnel.carrier(), "quic");
        tunnel.write_all(b"x").await.unwrap();
        assert_eq!(timeout(PATIENCE, tunnel.read_u8()).await.unwrap().unwrap(), b'x');
        tried.push(relay.accepted());
    }
    assert!(tried[0] > 0 && tried[0] == tried[1], "TCP was not tried again: {tried:?}");
}
