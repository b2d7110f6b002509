//! How often a service may be called, as RateLimits say.

use harness::{
    PATIENCE,
    cluster::{Cluster, Plan, Service},
    http,
};
use serde_json::{Value, json};

use crate::skein;

fn mesh() -> Cluster {
    let account = |name: &str, account: &str| Service { account: account.to_owned(), ..Service::client(name) };
    let cluster = Cluster::start(
        skein(),
        &[
            ("web", Plan::with([account("shop/web", "web")])),
            ("reviews", Plan::with([account("shop/near", "near"), Service::version("shop/reviews", "v1")])),
        ],
    );
    cluster.wait_members(PATIENCE);
    cluster.wait_endpoints("shop/reviews", 1);
    cluster
}

fn limit(rules: &str) -> String {
    format!(
        "apiVersion: skein.dev/v1\nkind: RateLimit\nmetadata: {{name: reviews, namespace: shop}}\nspec: {{selector: {{matchLabels: {{app: reviews}}}}, rules: [{rules}]}}\n"
    )
}

/// Three at once, and then one an hour.
const FEW: &str = "{match: [{uri: {prefix: /few}}], per: [source.principal], limit: {requests: 1, interval: 1h, burst: 3}, scope: node, responseHeaders: {x-limited-by: reviews}}";

fn get(cluster: &Cluster, from: &str, path: &str) -> http::Answer {
    http::get(cluster.node(from).outbound(), "reviews", path).expect("an answer")
}

fn admitted(cluster: &Cluster, from: &str, path: &str, of: usize) -> usize {
    (0..of).filter(|_| get(cluster, from, path).status == 200).count()
}

#[test]
fn each_caller_has_its_bucket_and_is_told_when_to_come_again() {
    let cluster = mesh();
    cluster.push("web", &limit(FEW), &["--wait", "all"]).expect_code(0);
    assert_eq!(admitted(&cluster, "web", "/few", 6), 3);
    assert_eq!(admitted(&cluster, "reviews", "/few", 6), 3, "a caller on the same node has a bucket of its own");
    assert_eq!(admitted(&cluster, "web", "/other", 6), 6, "the rule is not about this path");
    for spelling in ["//few", "/x/../few", "/%66ew", "/few%2fx"] {
        assert_eq!(get(&cluster, "web", spelling).status, 429, "{spelling}");
    }
    let before = cluster.node("reviews").backends[0].arrivals().len();
    let refused = get(&cluster, "web", "/few");
    assert_eq!((refused.status, refused.text().as_str()), (429, "local_rate_limited"), "{refused:?}");
    for (name, value) in [
        ("x-limited-by", "reviews"),
        ("x-envoy-ratelimited", "true"),
        ("ratelimit-limit", "1"),
        ("ratelimit-remaining", "0"),
    ] {
        assert_eq!(refused.header(name), Some(value), "{refused:?}");
    }
    let wait: u64 = refused.header("retry-after").and_then(|text| text.parse().ok()).expect("Retry-After in seconds");
    assert!((3_500..=3_600).contains(&wait), "{refused:?}");
    assert_eq!(cluster.node("reviews").backends[0].arrivals().len(), before, "it was not retried into the application");

    let grpc = &[("content-type", "application/grpc"), ("te", "trailers")];
    let grpc = http::get_with(cluster.node("web").outbound(), "reviews", "/few", grpc).expect("an answer");
    assert_eq!((grpc.status, grpc.header("grpc-status")), (200, Some("14")), "{grpc:?}");
    let metrics = http::get(cluster.node("reviews").address("admin"), "localhost", "/metrics").expect("metrics").text();
    let line = metrics.lines().find(|line| line.starts_with("istio_requests_total{") && line.contains("\"429\""));
    assert!(line.is_some_and(|line| line.contains("response_flags=\"RL\"")), "{metrics}");
    assert_eq!(cluster.healthy("web", "shop/reviews"), 1);
}

#[test]
fn what_is_used_up_outlives_pushes_and_is_shown() {
    let cluster = mesh();
    cluster.push("web", &limit(FEW), &["--wait", "all"]).expect_code(0);
    assert_eq!(admitted(&cluster, "web", "/few", 5), 3);
    let more = "{match: [{method: {exact: POST}}], limit: {requests: 1, interval: 1h}, scope: node}";
    cluster.push("web", &limit(&format!("{more}, {FEW}")), &["--wait", "all"]).expect_code(0);
    assert_eq!(admitted(&cluster, "web", "/few", 3), 0, "the rule is the same, wherever it stands");
    let limits = cluster.json("reviews", &["limits"]);
    let rows = limits.as_array().expect("a list");
    let row = |rule: &str| rows.iter().find(|row| row["rule"] == rule).unwrap_or_else(|| panic!("{limits}"));
    let fields = |row: &Value, names: &[&str]| names.iter().map(|name| row[*name].clone()).collect::<Vec<_>>();
    assert_eq!(
        fields(row("rules[1]"), &["service", "document", "key", "scope", "limit", "share", "admitted", "refused"]),
        [
            json!("shop/reviews"),
            json!("RateLimit shop/reviews"),
            json!("source.principal"),
            json!("node"),
            json!(1),
            json!(1),
            json!(3),
            json!(5)
        ]
    );
    assert_eq!(fields(row("rules[0]"), &["key", "admitted", "refused"]), [json!(""), json!(0), json!(0)]);
    assert!(cluster.on("reviews", &["limits"]).expect_code(0).out.contains("RateLimit shop/reviews"));
    assert_eq!(cluster.json("web", &["limits"]), json!([]), "its services are not limited");

    let all = "{match: [{uri: {prefix: /few}}], limit: {requests: 1, interval: 1h, burst: 8}, scope: node}";
    cluster.push("web", &limit(&format!("{all}, {FEW}")), &["--wait", "all"]).expect_code(0);
    assert_eq!(admitted(&cluster, "web", "/few", 12), 0);
    assert_eq!(admitted(&cluster, "reviews", "/few", 5), 3, "one caller's refusals take no room from the others");
    assert_eq!(cluster.json("reviews", &["limits"])[0]["admitted"], json!(3), "of the rule for all callers");

    let wider = FEW.replace("burst: 3", "burst: 4");
    cluster.push("web", &limit(&wider), &["--wait", "all"]).expect_code(0);
    assert_eq!(admitted(&cluster, "web", "/few", 6), 4, "another limit begins anew");
    let mesh_wide = cluster.push("web", &limit("{limit: {requests: 1, interval: 1s}}"), &[]);
    assert!(mesh_wide.code == 2 && mesh_wide.err.contains("scope"), "{mesh_wide:?}");
}
