//! A push on trial: unconfirmed it takes itself back on every node, confirmed it stays through whatever happens.

use harness::{PATIENCE, cluster::Cluster, eventually, http};
use serde_json::Value;

use crate::{reviews, subsets, virtual_service, written};

fn to(version: &str) -> String {
    virtual_service(&format!("  - route:\n    - destination: {{host: reviews, subset: {version}}}\n"))
}

/// Every node has this subset in its route, and all have one state.
fn everywhere(cluster: &Cluster, version: &str) {
    for name in cluster.running() {
        eventually(&format!("{name} routes to {version}"), || {
            let document = cluster.json(name, &["policy", "get", "VirtualService", "reviews", "-n", "shop"]);
            let subset = &document["spec"]["http"][0]["route"][0]["destination"]["subset"];
            if subset == version { Ok(()) } else { Err(document.to_string()) }
        });
    }
    eventually("one policy everywhere", || {
        let digest = |name: &&str| cluster.json(name, &["status"])["policy"]["digest"].clone();
        let digests: Vec<Value> = cluster.running().iter().map(digest).collect();
        if digests.windows(2).all(|pair| pair[0] == pair[1]) { Ok(()) } else { Err(format!("{digests:?}")) }
    });
    let outbound = cluster.node("web").outbound();
    eventually(&format!("web is answered by {version}"), || {
        let answer = http::get(outbound, "reviews", "/")?;
        if answer.text().starts_with(&format!("reviews-{version}")) { Ok(()) } else { Err(format!("{answer:?}")) }
    });
}

fn trial(cluster: &Cluster, node: &str, changeset: &str) -> Value {
    cluster.json(node, &["policy", "show", changeset])["trial"].clone()
}

#[test]
fn a_policy_that_locks_everybody_out_takes_itself_back_on_every_node() {
    let cluster = reviews(&["v1", "v2"]);
    cluster.push("web", &subsets(&["v1", "v2"]), &["--wait", "all"]).expect_code(0);
    cluster.push("web", &to("v1"), &["--wait", "all"]).expect_code(0);
    let locked = virtual_service(
        "  - fault: {abort: {httpStatus: 418, percentage: {value: 100}}}\n    route:\n    - destination: {host: reviews, subset: v2}\n",
    );
    let pushed = cluster.push("web", &locked, &["--wait", "all", "--confirm-within", "8s"]).expect_code(0).json();
    assert_eq!(pushed["applied"].as_array().map(Vec::len), Some(3), "{pushed}");
    assert!(pushed["confirm_by"].is_string(), "{pushed}");
    let id = pushed["changeset"].as_str().expect("an id").to_owned();
    let answer = http::get(cluster.node("web").outbound(), "reviews", "/").expect("an answer");
    assert_eq!(answer.status, 418, "{answer:?}");
    assert_eq!(trial(&cluster, "reviews-v1", &id), "open");
    everywhere(&cluster, "v1");
    for name in cluster.running() {
        assert_eq!(trial(&cluster, name, &id), "over");
    }
    // Whoever looks later learns what was pushed, by whom, and that it went by itself.
    eventually("it is among the events", || {
        let events = cluster.json("reviews-v1", &["events"]);
        let of = |kind: &str| {
            let all = events.as_array().into_iter().flatten();
            all.filter(|event| event["kind"] == kind && event["subject"] == *id).collect::<Vec<_>>()
        };
        let (applied, reverted) = (of("policy_applied"), of("policy_reverted"));
        let told = applied.iter().any(|event| event["message"].to_string().contains("VirtualService shop/reviews"));
        let by = reverted.first().and_then(|event| event["seen_by"].as_array()).map(Vec::len);
        if told && reverted.len() == 1 && by == Some(3) { Ok(()) } else { Err(format!("{applied:?} {reverted:?}")) }
    });
    let late = cluster.on("reviews-v2", &["policy", "confirm", &id, "-o", "json"]);
    assert_eq!(late.code, 5, "{late:?}");
    assert_eq!(late.error()["error"]["code"], "confirm_too_late", "{late:?}");
    everywhere(&cluster, "v1");
    // What was taken back stands in nobody's way.
    cluster.push("web", &to("v2"), &["--wait", "all"]).expect_code(0);
    everywhere(&cluster, "v2");
}

#[test]
fn what_is_confirmed_in_time_stays_through_crashes_and_reaches_who_was_away() {
    let mut cluster = reviews(&["v1", "v2"]);
    cluster.push("web", &subsets(&["v1", "v2"]), &["--wait", "all"]).expect_code(0);
    cluster.push("web", &to("v1"), &["--wait", "all"]).expect_code(0);
    let pushed = cluster.push("web", &to("v2"), &["--wait", "all", "--confirm-within", "60s"]).expect_code(0).json();
    let id = pushed["changeset"].as_str().expect("an id").to_owned();
    // This one has the changeset and does not hear that it was confirmed.
    cluster.kill("reviews-v1");
    let confirmed = cluster.json("web", &["policy", "confirm", &id[..12], "--wait", "2"]);
    written("policy confirm", &confirmed);
    assert_eq!(trial(&cluster, "web", &id), "confirmed");
    let again = cluster.on("reviews-v2", &["policy", "confirm", &id]).expect_code(0);
    assert!(again.out.contains("confirmed already"), "{again:?}");
    written("policy confirm", &cluster.json("reviews-v2", &["policy", "confirm", &id]));
    // By the clocks of all that starts from here on, the time is over.
    cluster.clock_offset = "90s".to_owned();
    for name in ["web", "reviews-v2"] {
        cluster.kill(name);
        cluster.run(name);
    }
    cluster.wait_members(PATIENCE);
    cluster.wait_endpoints("shop/reviews", 1);
    everywhere(&cluster, "v2");
    cluster.run("reviews-v1");
    cluster.wait_members(PATIENCE);
    everywhere(&cluster, "v2");
    assert_eq!(trial(&cluster, "reviews-v1", &id), "confirmed");
}

#[test]
fn only_what_is_on_trial_is_confirmed() {
    let cluster = reviews(&["v1"]);
    let pushed = cluster.push("web", &subsets(&["v1"]), &[]).expect_code(0).json();
    let id = pushed["changeset"].as_str().expect("an id");
    let output = cluster.on("web", &["policy", "confirm", id, "-o", "json"]);
    assert_eq!(output.code, 2, "{output:?}");
    assert!(output.err.contains("not on trial"), "{output:?}");
    let output = cluster.push("web", &subsets(&["v1"]), &["--confirm-within", "10ms"]);
    assert_eq!(output.code, 2, "{output:?}");
    assert!(output.err.contains("--confirm-within"), "{output:?}");
}
