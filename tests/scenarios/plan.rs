//! What a push would change is said before, without a key, and nothing changes by it.

use harness::cluster::{Cluster, Plan, Service};
use serde_json::Value;

use crate::{reviews, skein, subsets, virtual_service};

fn plan(cluster: &Cluster, node: &str, text: &str, more: &[&str]) -> Value {
    let file = cluster.file("plan.yaml", text);
    let file = file.to_string_lossy().into_owned();
    let words: Vec<&str> =
        ["policy", "plan", &file, "--operator", "/nonexistent"].into_iter().chain(more.iter().copied()).collect();
    cluster.json(node, &words)
}

#[test]
fn documents_routes_and_nodes() {
    let cluster = reviews(&["v1", "v2"]);
    let to = |version: &str| {
        virtual_service(&format!("  - route:\n    - destination: {{host: reviews, subset: {version}}}\n"))
    };
    cluster.push("web", &format!("{}---\n{}", subsets(&["v1", "v2"]), to("v1")), &["--wait", "all"]).expect_code(0);
    let digest = |name: &str| cluster.json(name, &["status"])["policy"]["digest"].clone();
    let before = digest("reviews-v1");

    let said = plan(&cluster, "reviews-v1", &format!("{}---\n{}", subsets(&["v1", "v2"]), to("v2")), &[]);
    let changes: Vec<&str> =
        said["documents"].as_array().expect("a list").iter().filter_map(|one| one["change"].as_str()).collect();
    assert_eq!(changes, ["unchanged", "changed"], "{said}");
    assert!(said["documents"][1]["diff"].as_str().is_some_and(|diff| diff.contains("subset: v2")), "{said}");
    assert_eq!(said["services"], serde_json::json!(["shop/reviews"]));
    let change = &said["routes"][0]["changes"][0];
    assert_eq!(change["when"], "always", "{said}");
    assert_eq!(change["before"], "reviews.shop.svc.cluster.local v1");
    assert_eq!(change["after"], "reviews.shop.svc.cluster.local v2");
    let nodes: Vec<(&str, bool, bool)> = said["nodes"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|node| (node["node"].as_str().unwrap_or(""), node["calls"] == true, node["serves"] == true))
        .collect();
    assert_eq!(nodes, [("reviews-v1", true, true), ("reviews-v2", true, true), ("web", true, false)], "{said}");

    let gone = cluster.json("web", &["policy", "plan", "--delete", "vs/reviews", "-n", "shop"]);
    assert_eq!(gone["documents"][0]["change"], "deleted", "{gone}");
    assert_eq!(gone["routes"][0]["changes"][0]["after"], "reviews.shop.svc.cluster.local", "{gone}");
    let refused = plan(&cluster, "web", &to("v9"), &[]);
    assert_eq!(
        (&refused["problems"][0]["code"], &refused["problems"][0]["refuses"]),
        (&"SKN0302".into(), &true.into())
    );
    let text =
        cluster.on("web", &["policy", "plan", &cluster.path().join("plan.yaml").to_string_lossy()]).expect_code(0);
    for word in [
        "changed VirtualService shop/reviews",
        "  ~ always",
        "nodes concerned: ",
        "push refuses this",
        "0 set, 1 changed",
    ] {
        assert!(text.out.contains(word), "`{word}` is not in {}", text.out);
    }
    assert_eq!(digest("reviews-v1"), before, "nothing changed");
}

#[test]
fn a_document_that_is_not_valid_has_no_plan() {
    let cluster = Cluster::start(skein(), &[("first", Plan::with([Service::version("shop/reviews", "v1")]))]);
    let file = cluster.file("plan.yaml", &virtual_service("  - rout: []\n"));
    let output = cluster.on("first", &["policy", "plan", &file.to_string_lossy(), "-o", "json"]);
    assert_eq!(output.code, 2, "{output:?}");
    assert!(output.err.contains("plan.yaml:10") && output.err.contains("rout"), "{output:?}");
}
