//! A member that finds another silent without cause: who asks of that one is told who says so, how that comes here and since when.

use certs::id::NodeId;
use harness::eventually;
use membership::{
    body::Body,
    message::{Latest, Message},
};
use serde_json::Value;

use crate::gossip::{HONEST, LIAR, Scene, scene};

/// What one node tells of the liar's word about `reviews`.
fn told(scene: &Scene, at: &str) -> Option<Value> {
    let detail = scene.ask(at, "/v1/members/reviews");
    detail["reports"].as_array().expect("a list").iter().find(|report| report["by"] == LIAR).cloned()
}

#[test]
fn who_accuses_a_member_is_shown_with_it_until_it_takes_that_back() {
    let mut scene = scene();
    let accuse = |scene: &mut Scene, numbers: &[u64]| {
        let generation = scene.ask("reviews", "/v1/members/reviews")["generation"].as_u64().expect("a generation");
        // Beyond what it has signed: no later word of its answers that.
        let latest = |number: &u64| Latest {
            node: NodeId::new("reviews").expect("a name"),
            generation,
            sequence: (1 << 40) + number,
        };
        let records = scene.liar.publish(&Body::Suspicions(numbers.iter().map(latest).collect()));
        scene.liar.tell(&Message::Records(records));
    };
    accuse(&mut scene, &[1]);
    let mut since = Vec::new();
    for at in HONEST {
        let report =
            eventually("it is told who says so", || told(&scene, at).ok_or_else(|| format!("nothing at {at}")));
        assert_eq!(report["says"], "silent", "{report}");
        let path = report["path"].as_str().expect("a text");
        assert!(path.starts_with("over its link with this node (tcp to 127."), "{path}");
        since.push(report["since"].clone());
    }
    let started = scene.ask("reviews", "/v1/members/reviews")["started"].clone();
    let later = |time: &Value| time.as_str() > started.as_str();
    assert!(started.is_string() && since.iter().all(later), "{since:?} after {started}");
    accuse(&mut scene, &[]);
    for at in HONEST {
        eventually("it is told no more", || told(&scene, at).map_or(Ok(()), |report| Err(report.to_string())));
    }
    scene.unharmed();
}
