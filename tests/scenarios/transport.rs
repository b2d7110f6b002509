//! One port, two carriers: QUIC where UDP passes, TLS over TCP where it does not.

use harness::{
    cluster::{Cluster, Plan, Service},
    eventually, http,
    load::Load,
};
use nix::sys::signal::Signal;

use crate::skein;

fn mesh(transports: [&str; 2]) -> Cluster {
    let plan = |service: Service, transport: &str| Plan {
        mesh: format!("transport = \"{transport}\""),
        ..Plan::with([service])
    };
    let cluster = Cluster::start(
        skein(),
        &[
            ("web", plan(Service::client("shop/web"), transports[0])),
            ("reviews", plan(Service::version("shop/reviews", "v1"), transports[1])),
        ],
    );
    cluster.wait_members(harness::PATIENCE);
    cluster.wait_endpoints("shop/reviews", 1);
    cluster
}

fn works(cluster: &Cluster) {
    let load = Load::start(cluster.node("web").outbound(), "reviews", "/", 200);
    eventually("many are answered", || match load.tally().requests {
        many if many > 50 => Ok(()),
        few => Err(few.to_string()),
    });
    let tally = load.stop();
    assert_eq!(tally.failed, 0, "{tally:?}");
    let body = vec![7_u8; 2_000_000];
    let mut connection = http::Connection::open(cluster.node("web").outbound()).expect("the proxy listens");
    assert_eq!(connection.request("POST", "reviews", "/", &[], &body).expect("an answer").status, 200);
}

#[test]
fn quic_only() {
    works(&mesh(["quic", "quic"]));
}

#[test]
fn tcp_only() {
    works(&mesh(["tcp", "tcp"]));
}

/// Over TCP: the kernel of a process that stands still goes on to acknowledge, so that nothing else ends these connections.
#[test]
fn what_is_under_way_at_a_node_ends_when_that_counts_as_dead() {
    let cluster = mesh(["tcp", "tcp"]);
    let outbound = cluster.node("web").outbound();
    let backend = &cluster.node("reviews").backends[0];
    backend.hold();
    let asking = std::thread::spawn(move || {
        let connection = http::Connection::open_patient(outbound, harness::PATIENCE * 2);
        let answer = connection.map_err(|error| error.to_string())?.request("GET", "reviews", "/under-way", &[], b"");
        answer.map(|answer| answer.status)
    });
    eventually("a request is under way", || {
        let arrivals = backend.arrivals();
        let arrived = arrivals.iter().any(|arrival| arrival.line().contains("/under-way"));
        if arrived { Ok(()) } else { Err(format!("{arrivals:?}")) }
    });
    let frozen = cluster.node("reviews").running.as_ref().expect("it runs");
    frozen.signal(Signal::SIGSTOP);
    assert_eq!(asking.join().expect("no panic"), Ok(503));
    let events = cluster.json("web", &["events"]).to_string();
    assert!(events.contains("reviews is dead"), "{events}");
    frozen.signal(Signal::SIGCONT);
}

#[test]
fn auto_falls_back_to_tcp_where_the_peer_has_no_udp() {
    works(&mesh(["auto", "tcp"]));
}

/// It dials the other one, so that their link hides that its own address leads nowhere.
#[test]
fn a_node_that_is_not_reached_where_it_tells_is_named() {
    let told = "127.44.0.9:1";
    let lost =
        Plan { mesh: format!("advertise = \"{told}\"\n"), ..Plan::with([Service::version("shop/reviews", "v1")]) };
    let cluster = Cluster::start(skein(), &[("web", Plan::with([Service::client("shop/web")])), ("reviews", lost)]);
    cluster.wait_members(harness::PATIENCE);
    cluster.wait_endpoints("shop/reviews", 1);
    eventually("the caller says so", || {
        let mut connection = http::Connection::open(cluster.node("web").outbound()).expect("the proxy listens");
        let answer = connection.request("GET", "reviews", "/", &[], b"").map(|answer| answer.status);
        let problems = cluster.json("web", &["status"])["problems"].to_string();
        let is_named = problems.contains("node_not_reached") && problems.contains(told);
        if is_named { Ok(()) } else { Err(format!("{answer:?}: {problems}")) }
    });
}
