//! Endpoints that fail are left out for a while.

use super::{
    backend::{Arrived, Backend, ok},
    client::{Client, get},
    world::{Entry, World, traffic_policy},
};
use crate::clock;
use std::sync::{
    Arc,
    atomic::{AtomicU16, Ordering},
};

/// Answers with a status that can be changed.
fn moody(status: &Arc<AtomicU16>) -> Backend {
    let status = Arc::clone(status);
    Backend::scripted(move |arrived: &Arrived| match status.load(Ordering::Relaxed) {
        200 => ok("good"),
        0 => {
            std::thread::sleep(std::time::Duration::from_millis(if arrived.line().contains("slow") {
                4_000
            } else {
                0
            }));
            Vec::new()
        }
        other => format!("HTTP/1.1 {other} x\r\nContent-Length: 0\r\n\r\n").into_bytes(),
    })
}

/// `v1` is moody, `v2` is not.
fn pair(detection: &str) -> (World, Arc<AtomicU16>, Backend, Backend) {
    let status = Arc::new(AtomicU16::new(500));
    let (bad, good) = (moody(&status), Backend::named("good"));
    let entries = vec![Entry::new(1, "reviews", "v1", &bad), Entry::new(1, "reviews", "v2", &good)];
    let mut world = World::new(2, entries);
    world.push(&traffic_policy(&format!("{{loadBalancer: {{simple: ROUND_ROBIN}}, outlierDetection: {detection}}}")));
    (world, status, bad, good)
}

fn statuses(world: &World, count: usize) -> Vec<u16> {
    let mut client = Client::connect(world.nodes[0].outbound);
    (0..count).map(|_| client.ask("GET / HTTP/1.1\r\nHost: reviews\r\n\r\n").unwrap().status).collect()
}

#[test]
fn errors_in_a_row_eject_and_time_lets_return() {
    let (world, status, bad, _good) = pair("{consecutive5xxErrors: 3, maxEjectionPercent: 100, baseEjectionTime: 20s}");
    let failed = statuses(&world, 30).into_iter().filter(|status| *status == 500).count();
    assert_eq!((failed, bad.arrived().len()), (3, 3), "the third was the last");
    let standing = world.circuits[0].ejected().remove(0);
    assert_eq!((&*standing.ejection.endpoint, standing.caller.as_str()), ("n1/default/reviews/v1", "default/web"));
    // A new snapshot changes nothing.
    world.publish();
    assert!(statuses(&world, 10).iter().all(|status| *status == 200));
    status.store(200, Ordering::Relaxed);
    world.circuits[0].sweep(clock::uptime() + 30_000, 1);
    assert!(world.circuits[0].ejected().is_empty());
    statuses(&world, 10);
    assert!(bad.arrived().len() > 3, "it is used again");
    let metrics = world.metrics(0);
    assert!(metrics.contains("skein_outlier_ejections_total{enforced=\"yes\"} 1"), "{metrics}");
}

#[test]
fn all_ejected_is_no_healthy_upstream() {
    let status = Arc::new(AtomicU16::new(502));
    let bad = moody(&status);
    let mut world = World::new(2, vec![Entry::new(1, "reviews", "v1", &bad)]);
    world.push(&traffic_policy("{outlierDetection: {consecutiveGatewayErrors: 2, maxEjectionPercent: 100}}"));
    assert_eq!(statuses(&world, 2), [502, 502]);
    let answer = get(world.nodes[0].outbound, "reviews", "/");
    assert_eq!((answer.status, answer.body.as_str()), (503, "no healthy upstream"));
    assert!(world.metrics(0).contains("response_flags=\"UH\""));
}

#[test]
fn the_cap_spares_small_clusters() {
    let (world, _status, bad, _good) = pair("{consecutive5xxErrors: 1}");
    statuses(&world, 20);
    assert_eq!(bad.arrived().len(), 10);
    assert!(world.circuits[0].ejected().is_empty() && world.circuits[0].counts().1 > 0);
}

#[test]
fn what_is_no_error_does_not_count() {
    let (world, status, bad, _good) = pair("{consecutive5xxErrors: 1, maxEjectionPercent: 100}");
    for harmless in [403, 404, 429] {
        status.store(harmless, Ordering::Relaxed);
        statuses(&world, 10);
    }
    assert!(world.circuits[0].ejected().is_empty() && bad.arrived().len() > 10);
}

#[test]
fn statuses_can_be_chosen() {
    let (world, status, _bad, _good) =
        pair("{consecutive5xxErrors: 1, maxEjectionPercent: 100, outlierDetectionHttpErrorCodes: [404]}");
    statuses(&world, 10);
    assert!(world.circuits[0].ejected().is_empty(), "500 is not among them");
    status.store(404, Ordering::Relaxed);
    statuses(&world, 10);
    assert_eq!(world.circuits[0].ejected().len(), 1);
}

#[test]
fn connections_that_break_count_on_their_own_account_where_asked() {
    let detection = "{splitExternalLocalOriginErrors: true, consecutiveLocalOriginFailures: 2, consecutive5xxErrors: 1, maxEjectionPercent: 100}";
    let (world, status, _bad, _good) = pair(detection);
    status.store(0, Ordering::Relaxed);
    let mut client = Client::connect(world.nodes[0].outbound);
    let post = "POST / HTTP/1.1\r\nHost: reviews\r\nContent-Length: 0\r\n\r\n";
    for _ in 0..10 {
        client.ask(post).unwrap();
    }
    let standing = world.circuits[0].ejected().remove(0);
    assert_eq!(standing.ejection.why, crate::balance::outlier::Why::LocalOrigin);
}

#[test]
fn a_routes_timeout_goes_to_the_endpoint_that_was_slow() {
    let (mut world, status, _bad, _good) = pair("{consecutive5xxErrors: 1, maxEjectionPercent: 100}");
    status.store(0, Ordering::Relaxed);
    world.push(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: reviews}\nspec:\n  hosts: [reviews]\n  \
         http:\n  - timeout: 1s\n    route: [{destination: {host: reviews}}]\n",
    );
    let mut client = Client::connect(world.nodes[0].outbound);
    let slow = "GET /slow HTTP/1.1\r\nHost: reviews\r\n\r\n";
    let codes: Vec<u16> = (0..4).map(|_| client.ask(slow).unwrap().status).collect();
    assert_eq!(codes.iter().filter(|status| **status == 504).count(), 1, "{codes:?}");
    assert_eq!(world.circuits[0].ejected().len(), 1);
}

#[test]
fn injected_faults_do_not_count() {
    let (mut world, status, _bad, _good) = pair("{consecutive5xxErrors: 1, maxEjectionPercent: 100}");
    status.store(200, Ordering::Relaxed);
    world.push(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: reviews}\nspec:\n  hosts: [reviews]\n  \
         http:\n  - fault: {abort: {httpStatus: 500, percentage: {value: 100}}}\n    route: [{destination: {host: reviews}}]\n",
    );
    assert_eq!(statuses(&world, 5), [500; 5]);
    assert!(world.circuits[0].ejected().is_empty());
}
