//! A node that starts again, seen by the callers beside it.

use std::time::{Duration, Instant};

use harness::{
    PATIENCE,
    cluster::{Cluster, Plan, Service},
    http, now,
};

use crate::skein;

/// The first answer that somebody gets who asks again and again while the node starts.
fn first_answer(outbound: std::net::SocketAddr, started: Instant) -> u16 {
    loop {
        match http::get(outbound, "cart", "/") {
            Ok(answer) => return answer.status,
            Err(error) if started.elapsed() > PATIENCE => panic!("no answer: {error}"),
            Err(_) => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}

/// Before it knew the services beside it, a starting node answered 404.
#[test]
fn the_first_answer_of_a_starting_node_is_the_applications() {
    let mut cluster = Cluster::start(skein(), &[("n0", Plan::with([Service::version("shop/cart", "v1")]))]);
    cluster.wait_endpoints("shop/cart", 1);
    let outbound = cluster.node("n0").outbound();
    for _ in 0..3 {
        cluster.terminate("n0");
        let asking = std::thread::spawn(move || first_answer(outbound, now()));
        cluster.run("n0");
        assert_eq!(asking.join().expect("an answer"), 200);
    }
}
