//! What ends leaves nothing behind, and what does not begin holds nothing up.

use std::{net::UdpSocket, sync::Arc};

use aws_lc_rs::hmac;
use certs::tls::Conversation;
use quinn::{TransportConfig, VarInt};
use tokio::{runtime::Handle, time::timeout};

use super::{
    super::{Error, Protocol, Transport, steer::Lane},
    Caller, Node, PATIENCE, Trust,
    data::{Pair, pair},
    node_id, over_both, until,
};

over_both! {
    a_connection_that_ended_leaves_no_task
}

async fn a_connection_that_ended_leaves_no_task(transport: Transport) {
    let Pair { trust, client, server } = pair(transport);
    let caller = Caller::new(&trust, &server, Protocol::Http1);
    let once = async || {
        assert_eq!(caller.text(client.worker(), "/echo", "x").await, "x");
        // The next one has a connection of its own.
        client.mesh.retire_node(&server.id);
    };
    let tasks = || Handle::current().metrics().num_alive_tasks();
    once().await;
    until("the connection is gone", || client.mesh.data_connections() == 0).await;
    let before = tasks();
    for _ in 0..8 {
        once().await;
    }
    until("all tasks but those of before are gone", || tasks() <= before).await;
}

#[tokio::test]
async fn a_peer_that_grants_no_stream_is_given_up() {
    let trust = Trust::new();
    let a = Node::start(&trust, "a", &[], Transport::Quic);
    let mut config =
        crate::mesh::quic::server(trust.tls("b", &[]).server(Conversation::Peer), Conversation::Peer).unwrap();
    let mut stingy = TransportConfig::default();
    stingy.max_concurrent_bidi_streams(VarInt::from_u32(0));
    config.transport_config(Arc::new(stingy));
    let (udp, key) = (UdpSocket::bind("127.0.0.1:0").unwrap(), hmac::Key::new(hmac::HMAC_SHA256, &[0; 32]));
    let address = udp.local_addr().unwrap();
    let endpoint = crate::mesh::quic::endpoint(udp, Lane::Control, &Arc::new(key), config).unwrap();
    a.tasks.detach("stingy", async move {
        let mut held = Vec::new();
        while let Some(incoming) = endpoint.accept().await {
            held.extend(incoming.await);
        }
    });
    let dialled = timeout(PATIENCE, a.peers.dial(Some(&node_id("b")), address)).await.expect("given up");
    assert!(matches!(dialled, Err(Error::NeverSent(_))), "{:?}", dialled.err());
}
