//! What a push would change is said before, without a key, and nothing changes by it.

use harness::cluster::{Cluster, Plan, Service};
use serde_json::Value;

use crate::{reviews, skein, subsets, virtual_service, written};

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
    // What has ended already changes nothing, and is refused.
    let end = "  namespace: shop\n  annotations:\n    skein.dev/expires: \"2020-01-01T00:00:00Z\"\n";
    let ended = to("v2").replace("  namespace: shop\n", end);
    let refused = plan(&cluster, "web", &ended, &[]);
    let problem = &refused["problems"][0];
    assert_eq!((&problem["code"], &problem["refuses"], &problem["line"]), (&"SKN0169".into(), &true.into(), &7.into()));
    assert_eq!(refused["routes"], serde_json::json!([]), "{refused}");
    let pushed = cluster.push("web", &ended, &["--allow", "SKN0169"]).expect_code(2);
    assert!(pushed.err.contains(":7:") && pushed.err.contains("has passed by this node's clock"), "{}", pushed.err);
    plan(&cluster, "web", &to("v9"), &[]);
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

#[test]
fn what_concerns_those_who_are_called_and_what_nobody_can_tell() {
    let cluster = reviews(&["v1", "v2"]);
    let document = |api: &str, kind: &str, name: &str, spec: &str| {
        format!("apiVersion: {api}\nkind: {kind}\nmetadata: {{name: {name}, namespace: shop}}\nspec: {spec}\n")
    };
    let said = |text: &str| {
        let said = plan(&cluster, "web", text, &[]);
        written("policy plan", &said);
        said
    };
    let names = |said: &Value, of: &str| -> Vec<String> {
        let nodes = said["nodes"].as_array().expect("a list").iter().filter(|node| node[of] == true);
        nodes.filter_map(|node| node["node"].as_str().map(str::to_owned)).collect()
    };
    let (security, networking) = ("security.istio.io/v1", "networking.istio.io/v1");

    let deny = said(&document(security, "AuthorizationPolicy", "nobody", "{selector: {matchLabels: {version: v1}}}"));
    assert_eq!(deny["services"], serde_json::json!(["shop/reviews"]), "{deny}");
    assert_eq!(deny["workloads"][0]["changes"], serde_json::json!(["authorization"]), "{deny}");
    assert_eq!(names(&deny, "serves"), ["reviews-v1"], "{deny}");

    let strict = said(&document(security, "PeerAuthentication", "default", "{mtls: {mode: STRICT}}"));
    let closed = |row: &Value| row["changes"] == serde_json::json!(["mutual TLS"]) && row["refuses_plaintext"] == true;
    assert!(strict["workloads"].as_array().is_some_and(|rows| rows.iter().all(closed) && rows.len() == 2), "{strict}");
    assert_eq!(names(&strict, "serves"), ["reviews-v1", "reviews-v2", "web"], "{strict}");

    let limit = said(&document("skein.dev/v1", "RateLimit", "few", "{rules: [{limit: {requests: 1, interval: 1s}}]}"));
    assert_eq!(limit["workloads"][0]["changes"], serde_json::json!(["rate limits"]), "{limit}");

    let server = "{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}";
    let gateway =
        document(networking, "Gateway", "public", &format!("{{selector: {{version: v2}}, servers: [{server}]}}"));
    let opened = said(&gateway);
    assert_eq!(
        (names(&opened, "opens"), names(&opened, "serves").len()),
        (vec!["reviews-v2".to_owned()], 0),
        "{opened}"
    );
    cluster.push("web", &gateway, &["--wait", "all"]).expect_code(0);
    let spec = "{hosts: ['*'], gateways: [public], http: [{route: [{destination: {host: reviews}}]}]}";
    let behind = said(&document(networking, "VirtualService", "edge", spec));
    assert_eq!(names(&behind, "opens"), ["reviews-v2"], "{behind}");

    let ports = "[{name: https, number: 443, protocol: TLS}]";
    let spec = format!("{{hosts: [bank.example], ports: {ports}, resolution: DNS}}");
    let outside = said(&document(networking, "ServiceEntry", "bank", &spec));
    assert_eq!(outside["routes"][0]["service"], "bank.example", "{outside}");
    assert_eq!(names(&outside, "calls"), ["reviews-v1", "reviews-v2", "web"], "{outside}");

    let group = said(&document(networking, "WorkloadGroup", "all", "{template: {}}"));
    assert!(group["not_reckoned"][0].as_str().is_some_and(|why| why.contains("WorkloadGroup shop/all")), "{group}");
    let file = cluster.file(
        "nobody.yaml",
        &document(security, "AuthorizationPolicy", "none", "{selector: {matchLabels: {app: none}}}"),
    );
    let text = cluster.on("web", &["policy", "plan", &file.to_string_lossy()]).expect_code(0);
    assert!(text.out.contains("nodes concerned: none of those that are known here"), "{}", text.out);
}
