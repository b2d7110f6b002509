//! Named cases of hostile input against real nodes. The application behind records exactly what arrived.
//!
//! Cases are numbered as in the project's list of attacks: A01-A24 HTTP/1 framing (see `framing.rs`, `applications.rs`), A25-A40 and A53 HTTP/2 and
//! gRPC, A41-A54 authorization, A55 identity headers, A56-A71 identity (see `identity.rs`; A60 with nodes that are away: `away.rs`), A59
//! strangers, A65 misdirected connections, A72-A83 policy, A84-A95 gossip, A96 and A99 outliers, A100 and A101 datagrams, A102-A104 and A112 a
//! gateway's doors, A107 egress, A108 and A109 who is not let in at the socket and what nobody is told, A110 and A114 logs, A111 WebSockets, A113 file descriptors, A115-A118 names.
//!
//! Elsewhere: A105 what drips or is not read, A106 and A107 beside what is here (`node/src/proxy/tests`), A108 who may ask the administration
//! beside the socket (`node/src/agent/admin/guard.rs`), A104 once more with ten thousand idle connections (`figures -- edges gateway`). Of A101 what needs a stack of
//! QUIC that lies within its own handshake (acknowledgements of what was not sent, gaps in streams) is quinn's to keep.

mod accusers;
mod applications;
mod authorization;
mod away;
mod bytes;
mod chitchat;
mod client;
mod descriptors;
mod documents;
mod doors;
mod egress;
mod flood;
mod framing;
mod gossip;
mod greedy;
mod headers;
mod http2;
mod identity;
mod liar;
mod logs;
mod misdirected;
mod names;
mod outliers;
mod quic;
mod records;
mod secrets;
mod stolen;
mod strangers;
mod tokens;
mod websocket;

use std::net::SocketAddr;

use harness::{
    PATIENCE,
    cluster::{Cluster, Plan, SERVICE_PORT, Service},
    process::Skein,
};

/// Two nodes: a client and `shop/reviews`, which callers outside the mesh reach, too.
fn pair() -> Cluster {
    let skein = Skein::at(env!("CARGO_BIN_EXE_skein-under-test"));
    let cluster = Cluster::start(
        skein,
        &[
            ("web", Plan::with([Service::client("shop/web")])),
            ("reviews", Plan::with([Service { plaintext: true, ..Service::version("shop/reviews", "v1") }])),
        ],
    );
    cluster.wait_members(PATIENCE);
    cluster.wait_endpoints("shop/reviews", 1);
    cluster
}

/// Where requests come in there: an application's, and those of callers outside the mesh.
fn doors(cluster: &Cluster) -> [SocketAddr; 2] {
    [cluster.node("web").outbound(), cluster.node("reviews").plaintext("shop/reviews", SERVICE_PORT)]
}
