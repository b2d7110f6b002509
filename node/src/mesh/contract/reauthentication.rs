//! What is under way when certificates end.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use arc_swap::ArcSwap;
use certs::{
    codec::Millis,
    tls::{Leafs, Tls},
    verify::CLOCK_TOLERANCE,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::timeout,
};

use super::{
    super::{Protocol, Transport, live::Live, steer, stream::VirtualStream},
    Caller, Certified, HOUR, Node, PATIENCE, Trust, over_both, until,
};
use crate::clock::{Clock, wall};

over_both! {
    what_is_under_way_goes_on_by_renewed_certificates
    what_is_not_renewed_ends
    a_node_that_drains_proves_itself_too
}

/// So short that a leaf is due while a test waits.
const SHORT: Millis = 3_000;

/// A node whose leafs a test renews.
struct Mortal {
    node: Node,
    certified: Certified,
    leafs: Arc<ArcSwap<Leafs>>,
}

impl Mortal {
    fn start(trust: &Trust, name: &str, account: &str, transport: Transport) -> Mortal {
        let (certified, leafs) = (trust.ca(name, &[account]), Arc::<ArcSwap<Leafs>>::default());
        certified.renew(&leafs, SHORT);
        let tls = Tls::new(trust.authority.clone(), leafs.clone(), trust.node(name), Arc::new(Clock));
        let node = Node::with(trust, tls, name, transport, 1, steer::attach);
        Mortal { node, certified, leafs }
    }

    fn renew(&self) {
        self.certified.renew(&self.leafs, HOUR);
    }

    fn live(&self) -> &Arc<Live> {
        &self.node.mesh.shared.live
    }

    fn proven(&self) -> u64 {
        self.node.mesh.counters().proven.load(Relaxed)
    }
}

async fn open(trust: &Trust, client: &Mortal, server: &Mortal) -> VirtualStream {
    server.node.echo();
    let caller = Caller::new(trust, &server.node, Protocol::Tcp);
    let mut tunnel = client.node.worker().tunnel(&caller.call()).await.unwrap();
    echoes(&mut tunnel).await;
    tunnel
}

async fn echoes(tunnel: &mut VirtualStream) {
    tunnel.write_all(b"x").await.unwrap();
    tunnel.flush().await.unwrap();
    assert_eq!(timeout(PATIENCE, tunnel.read_u8()).await.unwrap().unwrap(), b'x');
}

fn ended() -> Millis {
    wall() + SHORT + CLOCK_TOLERANCE
}

async fn what_is_under_way_goes_on_by_renewed_certificates(transport: Transport) {
    let trust = Trust::new();
    let client = Mortal::start(&trust, "a", "web", transport);
    let server = Mortal::start(&trust, "b", "api", transport);
    let mut tunnel = open(&trust, &client, &server).await;
    client.renew();
    server.renew();
    until("it was proven anew", || client.proven() > 0).await;
    assert_eq!((client.live().expire(ended()), server.live().expire(ended())), (0, 0));
    echoes(&mut tunnel).await;
    // What goes on goes on by the certificates of now: their end is its end, and who is evicted has none.
    let mut authority = certs::verify::Authority::clone(&trust.authority.load());
    authority.revocations.nodes.insert(client.node.id.clone(), 1);
    trust.authority.store(Arc::new(authority));
    assert!(server.node.mesh.rejudge(&trust.authority.load()) > 0);
    timeout(PATIENCE, tunnel.read_u8()).await.unwrap().unwrap_err();
}

async fn what_is_not_renewed_ends(transport: Transport) {
    let trust = Trust::new();
    let client = Mortal::start(&trust, "a", "web", transport);
    let server = Mortal::start(&trust, "b", "api", transport);
    let mut tunnel = open(&trust, &client, &server).await;
    // Only one of the two can show anything new: the other one's connection ends, whoever asks for more.
    server.renew();
    until("it was tried", || client.proven() > 0).await;
    assert_eq!(client.live().expire(ended()), 0);
    assert!(server.live().expire(ended()) > 0);
    timeout(PATIENCE, tunnel.read_u8()).await.unwrap().unwrap_err();
}

async fn a_node_that_drains_proves_itself_too(transport: Transport) {
    let trust = Trust::new();
    // A node that drains takes no new connection by QUIC.
    let transport = if transport == Transport::Quic { Transport::Auto } else { transport };
    let client = Mortal::start(&trust, "a", "web", transport);
    let server = Mortal::start(&trust, "b", "api", transport);
    let mut tunnel = open(&trust, &client, &server).await;
    server.node.mesh.drain();
    client.renew();
    server.renew();
    until("it was proven anew", || client.proven() > 0).await;
    assert_eq!((client.live().expire(ended()), server.live().expire(ended())), (0, 0));
    echoes(&mut tunnel).await;
}
