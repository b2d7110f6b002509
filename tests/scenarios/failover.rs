//! A node dies under load and nobody notices.

use std::time::Duration;

use harness::{PATIENCE, eventually, eventually_within, http, load::Load};
use nix::sys::signal::Signal;

use crate::reviews;

const RATE: u64 = 200;

#[test]
fn kill_under_load_loses_no_get() {
    let mut cluster = reviews(&["v1", "v2", "v3"]);
    let load = Load::start(cluster.node("web").outbound(), "reviews", "/reviews/0", RATE);
    std::thread::sleep(Duration::from_secs(1));
    cluster.kill("reviews-v2");
    for name in ["web", "reviews-v1", "reviews-v3"] {
        eventually_within("the dead endpoint is out", PATIENCE, || {
            let seen = cluster.healthy(name, "shop/reviews");
            if seen == 2 { Ok(()) } else { Err(format!("{name} sees {seen}")) }
        });
    }
    std::thread::sleep(Duration::from_secs(1));
    let tally = load.stop();
    assert_eq!(tally.failed, 0, "{tally:?}");
    assert!(tally.by_body.len() == 3 && tally.requests > RATE, "{tally:?}");
}

#[test]
fn a_graceful_stop_under_load_loses_nothing_and_coming_back_is_taken_up() {
    let mut cluster = reviews(&["v1", "v2"]);
    let load = Load::start(cluster.node("web").outbound(), "reviews", "/reviews/0", RATE);
    std::thread::sleep(Duration::from_secs(1));
    cluster.terminate("reviews-v2");
    cluster.wait_endpoints("shop/reviews", 1);
    cluster.run("reviews-v2");
    cluster.wait_endpoints("shop/reviews", 2);
    std::thread::sleep(Duration::from_secs(1));
    let tally = load.stop();
    assert!(tally.failed == 0 && tally.requests > RATE, "{tally:?}");
    let load = Load::start(cluster.node("web").outbound(), "reviews", "/reviews/0", RATE);
    std::thread::sleep(Duration::from_secs(1));
    let tally = load.stop();
    assert!(tally.failed == 0 && tally.by_body.len() == 2, "both are called again: {tally:?}");
}

#[test]
fn what_waits_for_a_frozen_node_is_answered_when_it_counts_as_dead() {
    let cluster = reviews(&["v1"]);
    let outbound = cluster.node("web").outbound();
    // Dialling alone would go on for an hour.
    let patient = "apiVersion: skein.dev/v1\nkind: MeshConfig\nmetadata: {name: default}\nspec: {connectTimeout: 1h}\n";
    cluster.push("web", patient, &["--wait", "all"]).expect_code(0);
    for _ in 0..20 {
        assert_eq!(http::get(outbound, "reviews", "/").expect("an answer").status, 200);
    }
    let frozen = cluster.node("reviews-v1").running.as_ref().expect("it runs");
    frozen.signal(Signal::SIGSTOP);
    // Longer than it takes to count as dead, and less than its connections may be silent.
    let ask = move || {
        let connection = http::Connection::open_patient(outbound, Duration::from_secs(40));
        let answer = connection.map_err(|error| error.to_string())?.request("GET", "reviews", "/", &[], b"");
        answer.map(|answer| answer.status)
    };
    let waiting: Vec<_> = (0..8).map(|_| std::thread::spawn(ask)).collect();
    for answer in waiting {
        assert_eq!(answer.join().expect("no panic"), Ok(503));
    }
    frozen.signal(Signal::SIGCONT);
    cluster.wait_endpoints("shop/reviews", 1);
}

#[test]
fn a_second_signal_ends_a_node_without_an_alarm() {
    let mut cluster = reviews(&["v1"]);
    // What is under way keeps it from ending by itself.
    let backend = &cluster.node("reviews-v1").backends[0];
    backend.hold();
    let outbound = cluster.node("web").outbound();
    let _asking = std::thread::spawn(move || http::get(outbound, "reviews", "/under-way"));
    let arrived = |line: &str| line.contains("/under-way");
    eventually("a request is under way", || {
        let arrivals = backend.arrivals();
        if arrivals.iter().any(|arrival| arrived(arrival.line())) { Ok(()) } else { Err(format!("{arrivals:?}")) }
    });
    let node = cluster.nodes.get_mut("reviews-v1").expect("it exists").running.take().expect("it runs");
    node.signal(Signal::SIGTERM);
    let said = |words: &str| {
        let log = cluster.log("reviews-v1");
        if log.contains(words) { Ok(()) } else { Err(log) }
    };
    eventually("it leaves", || said("leaving: "));
    // One that follows the first at once is the same.
    eventually("it ends at once", || {
        node.signal(Signal::SIGTERM);
        said("a second signal")
    });
    assert!(node.wait().success());
    let log = cluster.log("reviews-v1");
    assert!(!log.contains("ERROR"), "{log}");
}

#[test]
fn an_application_that_stops_answering_its_check_gets_no_requests() {
    let mut cluster = reviews(&["v1", "v2"]);
    let outbound = cluster.node("web").outbound();
    // The application goes, the node stays: its check notices.
    let node = cluster.nodes.get_mut("reviews-v2").expect("it exists");
    drop(node.backends.remove(0));
    cluster.wait_endpoints("shop/reviews", 1);
    for _ in 0..20 {
        let answer = harness::http::get(outbound, "reviews", "/").expect("an answer");
        assert_eq!((answer.status, answer.text().as_str()), (200, "reviews-v1 shop/reviews"));
    }
}
