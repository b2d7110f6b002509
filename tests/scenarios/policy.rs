//! A push to any node is active on all, survives any crash, and can be seen and taken back.

use harness::{PATIENCE, cluster::Cluster, eventually, http};
use serde_json::Value;

use crate::{reviews, subsets, virtual_service};

fn digests(cluster: &Cluster) -> Vec<Value> {
    cluster.running().iter().map(|name| cluster.json(name, &["status"])["policy"]["digest"].clone()).collect()
}

fn all_agree(cluster: &Cluster) {
    eventually("one policy everywhere", || {
        let digests = digests(cluster);
        if digests.windows(2).all(|pair| pair[0] == pair[1]) { Ok(()) } else { Err(format!("{digests:?}")) }
    });
}

fn always(cluster: &Cluster, version: &str) {
    let outbound = cluster.node("web").outbound();
    let wanted = format!("reviews-{version} shop/reviews");
    eventually(&format!("only {version}"), || {
        for _ in 0..20 {
            let answer = http::get(outbound, "reviews", "/reviews/0")?;
            if answer.text() != wanted {
                return Err(format!("{answer:?}"));
            }
        }
        Ok(())
    });
}

#[test]
fn a_push_to_any_node_is_active_on_all_and_survives_every_crash() {
    let mut cluster = reviews(&["v1", "v2", "v3"]);
    cluster.push("reviews-v3", &subsets(&["v1", "v2", "v3"]), &["--wait", "all"]).expect_code(0);
    let route = virtual_service("  - route:\n    - destination: {host: reviews, subset: v2}\n");
    let pushed = cluster.push("reviews-v1", &route, &["--wait", "all"]).expect_code(0).json();
    assert_eq!(pushed["applied"].as_array().map(Vec::len), Some(4), "{pushed}");
    assert_eq!(pushed["documents"][0]["kind"], "VirtualService", "{pushed}");
    always(&cluster, "v2");
    all_agree(&cluster);
    let digest = cluster.json("web", &["status"])["policy"]["digest"].clone();
    eventually("members show the digest of status", || {
        let members = cluster.json("reviews-v1", &["members"]);
        let all = members.as_array().is_some_and(|all| all.iter().all(|member| member["policy"] == digest));
        if all { Ok(()) } else { Err(format!("{digest} {members}")) }
    });
    for name in ["reviews-v1", "reviews-v2", "reviews-v3", "web"] {
        cluster.kill(name);
        cluster.run(name);
        let listed = cluster.json(name, &["policy", "list"]);
        let kinds: Vec<&str> =
            listed.as_array().expect("a list").iter().filter_map(|document| document["kind"].as_str()).collect();
        assert!(kinds.contains(&"VirtualService") && kinds.contains(&"DestinationRule"), "{name}: {listed}");
    }
    cluster.wait_members(PATIENCE);
    cluster.wait_endpoints("shop/reviews", 3);
    always(&cluster, "v2");
}

#[test]
fn what_was_pushed_while_a_node_was_down_reaches_it() {
    let mut cluster = reviews(&["v1", "v2"]);
    cluster.kill("web");
    cluster.push("reviews-v1", &subsets(&["v1", "v2"]), &[]).expect_code(0);
    cluster
        .push("reviews-v2", &virtual_service("  - route:\n    - destination: {host: reviews, subset: v1}\n"), &[])
        .expect_code(0);
    cluster.run("web");
    cluster.wait_members(PATIENCE);
    cluster.wait_endpoints("shop/reviews", 2);
    always(&cluster, "v1");
    all_agree(&cluster);
}

#[test]
fn history_is_shown_and_a_push_is_taken_back() {
    let cluster = reviews(&["v1", "v2"]);
    cluster.push("web", &subsets(&["v1", "v2"]), &["--message", "name the versions"]).expect_code(0);
    cluster
        .push(
            "web",
            &virtual_service("  - route:\n    - destination: {host: reviews, subset: v1}\n"),
            &["--message", "all to v1", "--wait", "all"],
        )
        .expect_code(0);
    always(&cluster, "v1");
    let second = cluster
        .push(
            "reviews-v1",
            &virtual_service("  - route:\n    - destination: {host: reviews, subset: v2}\n"),
            &["--message", "all to v2", "--wait", "all"],
        )
        .expect_code(0)
        .json();
    always(&cluster, "v2");
    let log = cluster.json("reviews-v2", &["policy", "log"]);
    let messages: Vec<&str> =
        log.as_array().expect("a list").iter().filter_map(|entry| entry["message"].as_str()).collect();
    for message in ["name the versions", "all to v1", "all to v2"] {
        assert!(messages.contains(&message), "{message} is missing: {log}");
    }
    let document = cluster.json("reviews-v2", &["policy", "get", "VirtualService", "reviews", "-n", "shop"]);
    assert_eq!(document["spec"]["http"][0]["route"][0]["destination"]["subset"], "v2", "{document}");
    let id = second["changeset"].as_str().expect("an id");
    cluster.on("reviews-v2", &["policy", "revert", id]).expect_code(0);
    always(&cluster, "v1");
    all_agree(&cluster);
}

#[test]
fn a_deleted_document_stays_deleted() {
    let mut cluster = reviews(&["v1", "v2"]);
    cluster.push("web", &subsets(&["v1", "v2"]), &[]).expect_code(0);
    cluster
        .push(
            "web",
            &virtual_service("  - route:\n    - destination: {host: reviews, subset: v1}\n"),
            &["--wait", "all"],
        )
        .expect_code(0);
    always(&cluster, "v1");
    cluster.kill("reviews-v1");
    cluster.on("web", &["policy", "delete", "VirtualService", "reviews", "-n", "shop"]).expect_code(0);
    cluster.run("reviews-v1");
    cluster.wait_members(PATIENCE);
    cluster.wait_endpoints("shop/reviews", 2);
    all_agree(&cluster);
    let listed = cluster.json("reviews-v1", &["policy", "list"]);
    assert!(!listed.to_string().contains("\"VirtualService\""), "{listed}");
    let of = |namespace: &str| cluster.json("reviews-v1", &["policy", "list", "-n", namespace]);
    let of_shop = of("shop");
    assert!(
        of_shop.as_array().is_some_and(|rows| !rows.is_empty() && rows.iter().all(|row| row["namespace"] == "shop"))
    );
    assert_eq!(of("nosuch"), serde_json::json!([]));
    let outbound = cluster.node("web").outbound();
    eventually("both versions answer again", || {
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..40 {
            seen.insert(http::get(outbound, "reviews", "/")?.text());
        }
        if seen.len() == 2 { Ok(()) } else { Err(format!("{seen:?}")) }
    });
}

#[test]
fn a_folder_is_one_changeset() {
    let cluster = reviews(&["v1"]);
    let folder = cluster.path().join("folder");
    std::fs::create_dir_all(&folder).expect("a directory");
    std::fs::write(folder.join("a.yaml"), subsets(&["v1"])).expect("a file");
    std::fs::write(
        folder.join("b.yaml"),
        virtual_service("  - route:\n    - destination: {host: reviews, subset: v1}\n"),
    )
    .expect("a file");
    let pushed = cluster.json("web", &["policy", "push", &folder.to_string_lossy()]);
    assert_eq!(pushed["documents"].as_array().map(Vec::len), Some(2), "{pushed}");
}
