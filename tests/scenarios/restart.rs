//! A node that starts again, seen by the callers beside it.

use std::time::{Duration, Instant};

use harness::{
    PATIENCE,
    cluster::{Cluster, Plan, Service},
    eventually, http, now,
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
        std::fs::write(cluster.node("n0").dir.join("log"), "").expect("it is ours");
        let asking = std::thread::spawn(move || first_answer(outbound, now()));
        cluster.run("n0");
        let status = asking.join().expect("an answer");
        // On a busy machine it may have waited for as long as it does.
        let late = cluster.log("n0").contains("not every service beside this node");
        assert!(status == 200 || late, "{status}: {}", cluster.log("n0"));
    }
}

/// Ends the node once its application has the request, whose answer takes so long; gives what the caller gets.
fn ended_within_a_request(cluster: &mut Cluster, takes: Duration) -> Result<u16, String> {
    let backend = &cluster.node("n0").backends[0];
    backend.delay(takes);
    let (outbound, before) = (cluster.node("n0").outbound(), backend.arrivals().len());
    let asking = std::thread::spawn(move || http::get(outbound, "cart", "/slow").map(|answer| answer.status));
    eventually("the request arrives", || {
        let arrived = cluster.node("n0").backends[0].arrivals().len();
        if arrived > before { Ok(()) } else { Err(format!("{arrived} arrived")) }
    });
    let ended = cluster.terminate("n0").expect("it runs");
    assert!(ended.success(), "{ended}");
    asking.join().expect("it ends")
}

#[test]
fn a_stopping_node_finishes_what_it_began_and_cuts_what_does_not_end() {
    let mut cluster = Cluster::start(skein(), &[("n0", Plan::with([Service::version("shop/cart", "v1")]))]);
    cluster.wait_endpoints("shop/cart", 1);
    assert_eq!(ended_within_a_request(&mut cluster, Duration::from_millis(700)), Ok(200));
    cluster.node("n0").backends[0].delay(Duration::ZERO);
    let file = cluster.node("n0").config();
    let text = std::fs::read_to_string(&file).expect("it is there");
    std::fs::write(file, text.replace("[runtime]\n", "[runtime]\ndrain = \"1s\"\n")).expect("it is ours");
    cluster.run("n0");
    cluster.wait_endpoints("shop/cart", 1);
    // Longer than `[runtime] drain` by far: the node does not wait for it, and its caller gets no half of an answer.
    let cut = ended_within_a_request(&mut cluster, Duration::from_secs(120));
    assert!(cut.is_err(), "{cut:?}");
    let log = cluster.log("n0");
    assert!(log.contains("connections were cut at the end of the drain"), "{log}");
}
