//! A data worker that hangs while the rest of its node goes on.

use harness::{eventually, http};
use serde_json::Value;

use crate::reviews;

/// Else balancers, callers and the service manager take a node for well that answers only some of its requests.
#[test]
fn a_node_with_a_worker_that_hangs_is_not_ready_and_gets_no_requests() {
    let cluster = reviews(&["v1", "v2"]);
    let (held, admin) = (cluster.node("reviews-v1"), cluster.node("reviews-v1").address("admin"));
    let ready = || http::get(admin, &admin.to_string(), "/readyz").map(|answer| (answer.status, answer.text()));
    assert_eq!(ready().map(|(status, _)| status), Ok(200));

    held.hold_up("worker-1");
    eventually("it is not ready", || match ready()? {
        (503, why) if why.contains("worker") => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let status = cluster.json("reviews-v1", &["status"]);
    let problems = status["problems"].as_array().expect("problems");
    let stuck = problems.iter().find(|problem| problem["code"] == "worker_stuck").expect("the problem");
    assert_eq!((&stuck["severity"], &status["state"]), (&"critical".into(), &"critical".into()), "{status}");
    assert!(stuck["message"].as_str().is_some_and(|message| message.contains("worker-1")), "{stuck}");
    eventually("its caller knows", || {
        let rows = cluster.json("web", &["endpoints", "shop/reviews"]);
        let row = rows.as_array().and_then(|rows| rows.iter().find(|row| row["node"] == "reviews-v1")).cloned();
        let row = row.unwrap_or(Value::Null);
        let reason = row["reason"].as_str().unwrap_or_default();
        if row["health"] == "unhealthy" && reason.contains("worker") { Ok(()) } else { Err(rows.to_string()) }
    });
    held.backends[0].forget();
    for _ in 0..10 {
        let answer = http::get(cluster.node("web").outbound(), "reviews", "/").expect("an answer");
        assert_eq!(answer.status, 200);
    }
    assert_eq!(held.backends[0].arrivals().len(), 0, "nothing goes where it may hang");

    held.let_go();
    eventually("it is ready again", || match ready()? {
        (200, _) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    cluster.wait_endpoints("shop/reviews", 2);
    assert_eq!(cluster.json("reviews-v1", &["status"])["problems"], serde_json::json!([]));
    let events = cluster.json("reviews-v1", &["events", "--here"]);
    let noted = events.as_array().expect("events").iter().filter(|event| event["kind"] == "worker_stuck").count();
    assert_eq!(noted, 2, "that it hung, and that it no longer does: {events}");
}
