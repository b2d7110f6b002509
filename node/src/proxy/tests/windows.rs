//! What HTTP/2 may have on the way to readers that are behind counts in the node's budget.

use super::{
    backend::Backend,
    http2::{connect, full, held, runtime},
    world::{Entry, World},
};
use crate::{clock, config::Protocol, tasks::Tasks};
use http::Request;
use std::{
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};
use tokio::sync::watch;

const WINDOW: usize = 64 * 1024;

#[test]
fn a_node_that_holds_too_much_unread_refuses_bodies_and_recovers() {
    let (runtime, tasks) = (runtime(), Tasks::new());
    let (release, released) = watch::channel(false);
    let target = runtime.block_on(held(tasks.clone(), Arc::<AtomicUsize>::default(), released));
    let quick = Backend::named("quick");
    let entries = vec![Entry::at(1, "reviews", "v1", target, Protocol::Http2), Entry::new(1, "ratings", "v1", &quick)];
    let world = World::new(2, entries);
    let budget = world.nodes[0].plane.shared.budget.clone();
    let spare = WINDOW + WINDOW / 2;
    assert!(budget.take(budget.left() - spare));
    runtime.block_on(async {
        let mut sender = connect(world.nodes[0].outbound, &tasks).await;
        // More than all windows on its way take.
        let large = Request::post("http://reviews/").body(full(vec![b'x'; 16 << 20])).unwrap();
        let stuck = sender.clone().send_request(large);
        let (began, mut calm) = (clock::monotonic(), 0);
        while calm < 20 {
            calm = if budget.left() == spare - WINDOW { calm + 1 } else { 0 };
            assert!(clock::monotonic().duration_since(began) < Duration::from_secs(60), "{}", budget.left());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let post = || Request::post("http://ratings/").body(full(vec![b'y'; WINDOW])).unwrap();
        let refused = sender.send_request(post()).await.unwrap();
        assert_eq!(refused.status(), 503);
        assert_eq!(refused.headers()["x-envoy-overloaded"], "true");
        release.send_replace(true);
        assert_eq!(stuck.await.unwrap().status(), 200);
        while budget.left() != spare {
            assert!(clock::monotonic().duration_since(began) < Duration::from_secs(60), "{}", budget.left());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(sender.send_request(post()).await.unwrap().status(), 200);
    });
    assert!(
        quick.arrived().iter().all(|arrived| arrived.line() != "POST / HTTP/1.1" || arrived.body == [b'y'; WINDOW])
    );
    let flagged = |line: &str| line.contains("response_flags=\"UO\"") && line.contains("response_code=\"503\"");
    assert!(world.metrics(0).lines().any(flagged));
}
