//! A node whose connections use up its file descriptors.

use harness::{
    PATIENCE,
    cluster::{Cluster, Plan, Service},
    eventually,
    http::{self, Connection},
    process::Skein,
};

/// Each process may have so many.
const DESCRIPTORS: &str = "ulimit -n 256; exec \"$0\" \"$@\"";

#[test]
fn a113_a_node_without_descriptors_answers_its_operator_and_recovers() {
    let limited = ["-c", DESCRIPTORS, env!("CARGO_BIN_EXE_skein-under-test")];
    let skein = Skein { program: "/bin/sh".into(), prefix: limited.map(str::to_owned).into() };
    let plans = [
        ("web", Plan::with([Service::client("shop/web"), Service::version("shop/near", "v1")])),
        ("reviews", Plan::with([Service::version("shop/reviews", "v1")])),
    ];
    let cluster = Cluster::start(skein, &plans);
    cluster.wait_members(PATIENCE);
    cluster.wait_endpoints("shop/reviews", 1);
    cluster.wait_endpoints("shop/near", 1);
    let outbound = cluster.node("web").outbound();
    let open = |_| Connection::open(outbound).ok();
    let mut crowd: Vec<Connection> = (0..300).filter_map(open).collect();
    // Some of them also take a connection to the application beside the node.
    for connection in &mut crowd {
        connection.send(b"GET / HTTP/1.1\r\nHost: near\r\n\r\n").expect("the backlog takes it");
    }
    eventually("the node says that it is short of descriptors", || {
        let log = cluster.log("web");
        if log.contains("file descriptors are short") { Ok(()) } else { Err(log) }
    });
    for _ in 0..5 {
        cluster.on("web", &["status"]).expect_code(0);
    }
    let members = cluster.json("web", &["members"]);
    assert!(members.to_string().contains("alive"), "its peers hear of it: {members}");
    let log = cluster.log("web");
    assert!(!log.contains("cannot accept connections"), "the last descriptors are not the crowd's: {log}");
    assert!(log.matches("file descriptors are short").count() < 50, "it waits and does not spin: {log}");
    drop(crowd);
    eventually("requests are served again", || {
        let answer = http::get(outbound, "reviews", "/")?;
        if answer.status == 200 { Ok(()) } else { Err(format!("{answer:?}")) }
    });
}
