//! A node dies under load and nobody notices.

use std::time::Duration;

use harness::{PATIENCE, eventually_within, load::Load};

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
    assert_eq!(tally.failed, 0, "{tally:?}");
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
