//! What a node says that it would do is what it does.

use harness::{
    cluster::{Cluster, Plan, Service},
    eventually, http,
};
use serde_json::{Value, json};

use crate::{reviews, skein, subsets, virtual_service, written};

const RULES: &str = "  - name: for-jason
    match:
    - headers:
        end-user: {exact: jason}
    rewrite: {uri: /new/}
    route:
    - destination: {host: reviews, subset: v2}
  - timeout: 2s
    retries: {attempts: 3, retryOn: 5xx, perTryTimeout: 500ms}
    fault: {delay: {fixedDelay: 1ms, percentage: {value: 50}}}
    route:
    - destination: {host: reviews, subset: v1}
      weight: 90
    - destination: {host: reviews, subset: v9}
      weight: 10
";

fn explain(cluster: &Cluster, words: &[&str]) -> Value {
    let all: Vec<&str> = ["explain"].into_iter().chain(words.iter().copied()).collect();
    cluster.json("web", &all)
}

fn states(explained: &Value) -> Vec<(String, bool)> {
    let endpoints = explained["endpoints"].as_array().expect("a list");
    endpoints.iter().map(|one| (one["node"].as_str().unwrap_or("").to_owned(), one["candidate"] == true)).collect()
}

#[test]
fn the_rule_the_destination_and_the_endpoints() {
    let mut cluster = reviews(&["v1", "v2"]);
    let both = format!("{}---\n{}", subsets(&["v1", "v2"]), virtual_service(RULES));
    cluster.push("web", &both, &["--wait", "all", "--allow", "SKN0302"]).expect_code(0);

    let jason = explain(&cluster, &["http://reviews:9080/old", "-H", "end-user: jason"]);
    let wanted = json!({"host": "reviews.shop.svc.cluster.local", "port": 9080, "subset": "v2", "percent": 100,
        "cluster": "outbound|9080|v2|reviews.shop.svc.cluster.local"});
    let mut destination = jason["destination"].clone();
    let rule = destination.as_object_mut().expect("an object").remove("destination_rule").expect("it is told");
    assert_eq!(destination, wanted, "{jason}");
    let documents = json!(["DestinationRule shop/reviews"]);
    assert_eq!((&rule["documents"], &rule["load_balancer"]), (&documents, &"LEAST_REQUEST".into()), "{rule}");
    let words = ["service", "document", "rule", "virtual_host", "cluster", "path"].map(|name| jason[name].clone());
    assert_eq!(
        Value::Array(words.to_vec()),
        json!([
            "shop/reviews",
            "VirtualService shop/reviews",
            "for-jason",
            "reviews.shop.svc.cluster.local:9080",
            "outbound|9080|v2|reviews.shop.svc.cluster.local",
            "/new/old"
        ])
    );
    assert_eq!(jason["line"], json!(10 + subsets(&["v1", "v2"]).lines().count() + 1), "{jason}");
    assert_eq!((&jason["timeout_ms"], &jason["fault"], &jason["answer"]), (&Value::Null, &Value::Null, &Value::Null));
    assert_eq!(jason["authorization"], json!({"verdict": "allow", "document": null, "rule": null, "note": null}));
    assert_eq!(states(&jason), [("reviews-v1".to_owned(), false), ("reviews-v2".to_owned(), true)]);
    assert_eq!(jason["endpoints"][0]["reason"], "its labels are not those of the subset", "{jason}");
    let answer = http::get_with(cluster.node("web").outbound(), "reviews", "/old", &[("end-user", "jason")]);
    assert_eq!(answer.expect("an answer").text(), "reviews-v2 shop/reviews");

    let others = explain(&cluster, &["-X", "POST", "reviews/old", "--from", "shop/default"]);
    assert_eq!((&others["rule"], &others["timeout_ms"]), (&json!("http[1]"), &json!(2000)), "{others}");
    assert_eq!(others["retries"], json!({"attempts": 3, "on": "5xx", "per_try_timeout_ms": 500}));
    assert_eq!(others["fault"]["delay_percent"], 50.0);
    let percents: Vec<u64> =
        others["destinations"].as_array().expect("a list").iter().filter_map(|one| one["percent"].as_u64()).collect();
    assert_eq!((percents, &others["destination"]["subset"]), (vec![90, 10], &json!("v1")), "{others}");

    let nobody = explain(&cluster, &["http://nobody/"]);
    assert_eq!((&nobody["service"], &nobody["answer"]["status"]), (&Value::Null, &json!(404)), "{nobody}");
    let text = cluster.on("web", &["explain", "http://reviews/"]).expect_code(0).out;
    for word in ["VirtualService shop/reviews", "90% to outbound|9080|v1|", "50%", "3 on 5xx", "candidate", "ENDPOINT"]
    {
        assert!(text.contains(word), "`{word}` is not in {text}");
    }
    let wrong = cluster.on("web", &["explain", "https://reviews/", "-o", "json"]);
    assert_eq!((wrong.code, &wrong.error()["error"]["code"]), (2, &json!("usage")), "{wrong:?}");

    cluster.kill("reviews-v2");
    eventually("the dead endpoint is out, with the reason", || {
        let jason = explain(&cluster, &["http://reviews/", "-H", "end-user: jason"]);
        let (answer, reason) = (&jason["answer"], jason["endpoints"][1]["reason"].as_str().unwrap_or_default());
        let out = answer["flag"] == "UH" && reason.starts_with("unhealthy: ");
        if out { Ok(()) } else { Err(jason.to_string()) }
    });
}

const FACADE: &str = "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: facade, namespace: shop}
spec:
  hosts: [shop.internal]
  http:
  - match: [{uri: {prefix: /new}}]
    route: [{destination: {host: reviews, subset: v2}}]
  - route: [{destination: {host: reviews, subset: v1}}]
";

#[test]
fn a_name_that_is_no_service_is_planned_explained_and_routed() {
    let cluster = reviews(&["v1", "v2"]);
    cluster.push("web", &subsets(&["v1", "v2"]), &["--wait", "all"]).expect_code(0);
    assert_eq!(http::get(cluster.node("web").outbound(), "shop.internal", "/").expect("an answer").status, 404);
    let file = cluster.file("facade.yaml", FACADE).to_string_lossy().into_owned();
    let said = cluster.json("web", &["policy", "plan", &file]);
    assert_eq!((&said["services"], &said["problems"]), (&json!(["shop.internal"]), &json!([])), "{said}");
    let changes = said["routes"][0]["changes"].as_array().expect("a list");
    assert!(changes.len() == 2 && changes.iter().all(|change| change["before"].is_null()), "{said}");

    cluster.push("web", FACADE, &["--wait", "all"]).expect_code(0);
    let explained = explain(&cluster, &["http://Shop.internal/new"]);
    let words = ["service", "document", "virtual_host", "cluster", "answer"].map(|name| explained[name].clone());
    let wanted = json!([
        null,
        "VirtualService shop/facade",
        "shop.internal:80",
        "outbound|9080|v2|reviews.shop.svc.cluster.local",
        null
    ]);
    assert_eq!(Value::Array(words.to_vec()), wanted, "{explained}");
    for (path, node) in [("/new", "reviews-v2"), ("/", "reviews-v1")] {
        let answer = http::get(cluster.node("web").outbound(), "shop.internal", path).expect("an answer");
        assert_eq!(answer.text(), format!("{node} shop/reviews"), "{path}");
    }
    let text = cluster.on("web", &["explain", "http://shop.internal/"]).expect_code(0).out;
    assert!(text.contains("shop.internal:80"), "{text}");
    let port = explain(&cluster, &["http://shop.internal:8080/"]);
    assert_eq!(port["answer"]["status"], 404, "{port}");
}

/// Of two namespaces' rules the caller's own counts for it, and the command says which and what it comes to.
#[test]
fn the_destination_rule_that_counts_for_the_caller_is_named() {
    let cluster = Cluster::start(
        skein(),
        &[
            ("web", Plan::with([Service::client("web/web")])),
            ("reviews", Plan::with([Service::version("shop/reviews", "v1"), Service::client("shop/job")])),
        ],
    );
    cluster.wait_members(harness::PATIENCE);
    cluster.wait_endpoints("shop/reviews", 1);
    let rule = |namespace: &str, policy: &str| {
        format!(
            "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: calls, namespace: {namespace}}}\n\
             spec: {{host: reviews.shop.svc.cluster.local, trafficPolicy: {{{policy}}}}}\n"
        )
    };
    let theirs = rule("shop", "loadBalancer: {simple: ROUND_ROBIN}");
    let own = rule("web", "connectionPool: {http: {http2MaxRequests: 7}}, outlierDetection: {maxEjectionPercent: 100}");
    cluster.push("web", &format!("{theirs}{own}"), &["--wait", "all"]).expect_code(0);
    let of = |from: &str| {
        let explained = explain(&cluster, &["--from", from, "http://reviews.shop:9080/"]);
        written("explain", &explained);
        explained["destinations"][0]["destination_rule"].clone()
    };
    let (web, job) = (of("web/default"), of("shop/default"));
    assert_eq!(web["documents"], json!(["DestinationRule web/calls"]), "{web}");
    assert_eq!(
        (&web["load_balancer"], &web["connection_pool"]["max_requests"]),
        (&"LEAST_REQUEST".into(), &json!(7)),
        "{web}"
    );
    assert_eq!(web["outlier_detection"]["max_ejection_percent"], 100, "{web}");
    assert_eq!(
        (&job["documents"], &job["load_balancer"]),
        (&json!(["DestinationRule shop/calls"]), &"ROUND_ROBIN".into()),
        "{job}"
    );
    assert_eq!((&job["outlier_detection"], &job["tls"]), (&Value::Null, &Value::Null), "{job}");
}
