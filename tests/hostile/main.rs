//! Named cases of hostile input against real nodes. The application behind records exactly what arrived.
//!
//! Cases are numbered as in the project's list of attacks: A01-A24 HTTP/1 framing (see `framing.rs`, `applications.rs`), A25-A40 and A53 HTTP/2 and
//! gRPC, A41-A54 authorization, A55 identity headers, A56-A71 identity (see `identity.rs`; A60 with nodes that are away: `away.rs`), A59
//! strangers, A65 misdirected connections, A72-A83 policy, A84-A95 gossip, A96 and A99 outliers, A107 egress, A110 and A114 logs, A113 file
//! descriptors, A115-A118 names.

mod applications;
mod authorization;
mod away;
mod bytes;
mod chitchat;
mod client;
mod descriptors;
mod documents;
mod egress;
mod framing;
mod gossip;
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
mod stolen;
mod strangers;
mod tokens;

use harness::{
    PATIENCE,
    cluster::{Cluster, Plan, Service},
    process::Skein,
};

/// Two nodes: a client and `shop/reviews`.
fn pair() -> Cluster {
    let skein = Skein::at(env!("CARGO_BIN_EXE_skein-under-test"));
    let cluster = Cluster::start(
        skein,
        &[
            ("web", Plan::with([Service::client("shop/web")])),
            ("reviews", Plan::with([Service::version("shop/reviews", "v1")])),
        ],
    );
    cluster.wait_members(PATIENCE);
    cluster.wait_endpoints("shop/reviews", 1);
    cluster
}
