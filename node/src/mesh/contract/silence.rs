//! Ways that are lost without a word: what notices it, and what begins anew.

use std::sync::atomic::Ordering::Relaxed;

use http_body_util::BodyExt as _;
use tokio::time::timeout;

use super::{
    super::{Protocol, Transport, peer::PeerLink},
    Caller, Node, PATIENCE, Trust,
    data::{Pair, pair},
    full, node_id, over_both,
    relay::{Relay, Udp},
    until,
};

over_both! {
    on_connections_to_a_node_that_fell_silent_nothing_new_begins
    of_two_links_with_a_node_the_one_that_is_heard_is_used
}

async fn on_connections_to_a_node_that_fell_silent_nothing_new_begins(transport: Transport) {
    let Pair { trust, client, server } = pair(transport);
    let caller = Caller::new(&trust, &server, Protocol::Http1);
    let under_way = client.worker().open(&caller.call()).await.unwrap();
    drop(client.worker().open(&caller.call()).await.unwrap());
    let dialled = || {
        let counters = client.mesh.counters();
        counters.dialled_quic.load(Relaxed) + counters.dialled_tcp.load(Relaxed)
    };
    let before = dialled();
    client.mesh.retire_node(&node_id("other"));
    assert_eq!(caller.text(client.worker(), "/echo", "x").await, "x");
    assert_eq!(dialled(), before, "others are not meant");
    client.mesh.retire_node(&server.id);
    assert_eq!(caller.text(client.worker(), "/echo", "y").await, "y");
    assert_eq!(dialled(), before + 1, "by a connection of its own");
    let request = http::Request::post("/echo").header("host", "api").body(full("z")).unwrap();
    let (head, body) = request.into_parts();
    let response = under_way.send(&head, body).await.unwrap();
    assert_eq!(&response.into_body().collect().await.unwrap().to_bytes()[..], b"z", "what is under way goes on");
}

async fn of_two_links_with_a_node_the_one_that_is_heard_is_used(transport: Transport) {
    let trust = Trust::new();
    let a = Node::start(&trust, "a", &[], transport);
    let b = Node::start(&trust, "b", &[], transport);
    let relay = Relay::start(b.address(), Udp::Passed).await;
    let mut ends = Vec::new();
    for address in [relay.address, b.address()] {
        let (dialled, accepted) = tokio::join!(a.peers.dial(Some(&b.id), address), b.peers.accept());
        ends.push((dialled.unwrap(), accepted.unwrap()));
    }
    let [(silent, _silent_at_b), (heard, heard_at_b)] = &ends[..] else { unreachable!() };
    let used = || [[silent, heard], [heard, silent]].map(|links| PeerLink::liveliest(links).map(PeerLink::remote));
    relay.freeze();
    until("of one nothing is heard", || silent.is_closed() || silent.silence() > heard.silence() + 1_000).await;
    assert_eq!(used(), [Some(heard.remote()); 2]);
    // What is closed is never used, however lately it was heard.
    heard_at_b.close("enough");
    until("closed", || heard.is_closed()).await;
    assert!(used().iter().all(|remote| *remote != Some(heard.remote())));
}

#[tokio::test]
async fn a_way_that_is_lost_is_noticed_on_the_link_and_on_the_connection() {
    let trust = Trust::new();
    let client = Node::start(&trust, "a", &["web"], Transport::Quic);
    let server = Node::start(&trust, "b", &["api"], Transport::Quic);
    server.echo();
    let relay = Relay::start(server.address(), Udp::Passed).await;
    let mut caller = Caller::new(&trust, &server, Protocol::Http1);
    caller.address = relay.address;
    assert_eq!(caller.text(client.worker(), "/echo", "x").await, "x");
    let (from_a, at_b) = tokio::join!(client.peers.dial(Some(&server.id), relay.address), server.peers.accept());
    let (from_a, at_b) = (from_a.unwrap(), at_b.unwrap());
    relay.freeze();
    let ended = timeout(PATIENCE, async { tokio::join!(from_a.closed(), at_b.closed()) }).await;
    assert!(ended.is_ok() && from_a.is_lost() && at_b.is_lost(), "{ended:?}");
    client.mesh.retire_node(&server.id);
    caller.address = server.address();
    assert_eq!(timeout(PATIENCE, caller.text(client.worker(), "/echo", "y")).await.expect("by its own way"), "y");
}
