//! How often a service may be called, as RateLimits say.

use harness::{
    PATIENCE,
    cluster::{Cluster, Plan, Service},
    eventually, http,
    load::Load,
    telling::Telling,
};
use serde_json::{Value, json};

use crate::{skein, written};

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
    let labels = ["\"429\"", "response_flags=\"RL\""];
    let counted =
        |line: &str| line.starts_with("istio_requests_total{") && labels.iter().all(|label| line.contains(label));
    assert!(metrics.lines().any(counted), "{metrics}");
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
            json!(1.0),
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
    let whole = cluster.push("web", &limit("{limit: {requests: 1, interval: 1s}}"), &["--wait", "all"]);
    whole.expect_code(0);
    let row = &cluster.json("reviews", &["limits"])[0];
    let fields = fields(row, &["scope", "limit", "share", "nodes"]);
    assert_eq!(fields, [json!("mesh"), json!(1), json!(1.0), json!(1)], "alone it has the whole limit");
}

#[test]
fn a_watch_tells_what_is_counted() {
    let cluster = mesh();
    cluster.push("web", &limit(FEW), &["--wait", "all"]).expect_code(0);
    let watch = Telling::start(&cluster, "reviews", &["limits", "--watch", "-o", "json"]);
    let counted = |lines: &[String]| {
        let last = lines.last().and_then(|line| serde_json::from_str::<Value>(line).ok()).unwrap_or_default();
        let of = |name: &str| last["limits"][0][name].as_u64();
        (of("admitted"), of("refused"))
    };
    watch.until("it begins", |lines| counted(lines) == (Some(0), Some(0)));
    assert_eq!(admitted(&cluster, "web", "/few", 5), 3);
    watch.until("what was counted since", |lines| counted(lines) == (Some(3), Some(2)));
    let last: Value = watch.out().last().and_then(|line| serde_json::from_str(line).ok()).expect("a line");
    written("limits", &last["limits"]);
}

/// Three nodes that keep a limit together, and a caller that chooses among them by a header.
fn three() -> Cluster {
    let node = |version: &str| Plan::with([Service::client("shop/near"), Service::version("shop/reviews", version)]);
    let cluster = Cluster::start(
        skein(),
        &[("web", Plan::with([Service::client("shop/web")])), ("a", node("a")), ("b", node("b")), ("c", node("c"))],
    );
    cluster.wait_members(PATIENCE);
    cluster.wait_endpoints("shop/reviews", 3);
    cluster.push("web", CHOOSE, &["--wait", "all"]).expect_code(0);
    cluster
}

const CHOOSE: &str = "apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews, namespace: shop}
spec:
  host: reviews
  subsets: [{name: a, labels: {version: a}}, {name: b, labels: {version: b}}, {name: c, labels: {version: c}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews, namespace: shop}
spec:
  hosts: [reviews]
  http:
  - match: [{uri: {prefix: /a}}]
    route: [{destination: {host: reviews, subset: a}}]
  - match: [{uri: {prefix: /b}}]
    route: [{destination: {host: reviews, subset: b}}]
  - match: [{uri: {prefix: /uneven}}]
    route:
    - {destination: {host: reviews, subset: a}, weight: 80}
    - {destination: {host: reviews, subset: b}, weight: 12}
    - {destination: {host: reviews, subset: c}, weight: 8}
  - route: [{destination: {host: reviews, subset: c}}]
";

fn share(cluster: &Cluster, node: &str) -> f64 {
    let limits = cluster.json(node, &["limits"]);
    limits[0]["share"].as_f64().unwrap_or_else(|| panic!("{limits}"))
}

/// The application that a load reaches counts, so that nothing of what the nodes say of themselves is believed.
fn arrived(cluster: &Cluster) -> usize {
    ["a", "b", "c"].iter().map(|node| cluster.node(node).backends[0].arrivals().len()).sum()
}

#[test]
fn three_nodes_keep_one_limit_and_shares_follow_demand() {
    let cluster = three();
    cluster.push("web", &limit("{limit: {requests: 50, interval: 1s, burst: 30}}"), &["--wait", "all"]).expect_code(0);
    let (before, began) = (arrived(&cluster), harness::now());
    let load = Load::start(cluster.node("web").outbound(), "reviews", "/uneven", 150);
    eventually("most of the limit is where most is asked", || {
        let shares = ["a", "b", "c"].map(|node| share(&cluster, node));
        let follows = shares[0] > 25.0 && shares[1] < 16.0 && shares[2] < 16.0 && shares.iter().all(|one| *one > 1.6);
        if follows { Ok(()) } else { Err(format!("{shares:?}")) }
    });
    eventually("the load has asked for more than there is", || match load.tally().requests {
        requests if requests >= 600 => Ok(()),
        requests => Err(format!("{requests} so far")),
    });
    let tally = load.stop();
    // Time is looked at last, so that it is never too short.
    let let_in = arrived(&cluster) - before;
    let most = 50.0 * began.elapsed().as_secs_f64() + 30.0 + 3.0;
    assert!(let_in as f64 <= most, "{let_in} of at most {most}: {tally:?}");
    assert!(let_in >= 60 && tally.failures.iter().all(|failure| failure.starts_with("429")), "{let_in} {tally:?}");
    let refused = cluster.json("a", &["limits"])[0]["refused"].as_u64().unwrap_or(0);
    assert!(refused > 0 && cluster.on("a", &["limits"]).expect_code(0).out.contains("on one of 3 nodes"));

    // Another demand, and the shares move; who keeps a limit to itself sees nothing of it.
    let load = Load::start(cluster.node("web").outbound(), "reviews", "/b", 100);
    eventually("the limit has moved", || match share(&cluster, "b") {
        share if share > 40.0 => Ok(()),
        share => Err(share.to_string()),
    });
    drop(load);
    eventually("nobody asks, so all have the same", || {
        let shares = ["a", "b", "c"].map(|node| share(&cluster, node));
        if shares.iter().all(|one| (one - 50.0 / 3.0).abs() < 0.1) { Ok(()) } else { Err(format!("{shares:?}")) }
    });
}

#[test]
fn a_killed_node_keeps_its_share_until_it_is_evicted_and_one_that_stops_gives_it_back() {
    let mut cluster = three();
    cluster.push("web", &limit("{limit: {requests: 50, interval: 1s}}"), &["--wait", "all"]).expect_code(0);
    let everywhere = |cluster: &Cluster, path| Load::start(cluster.node("web").outbound(), "reviews", path, 60);
    // All have the same as long as nobody has heard what is asked: the third one's demand is seen to be heard before it is killed.
    let c = everywhere(&cluster, "/c");
    eventually("all goes where it is asked for", || {
        let shares = ["a", "b", "c"].map(|node| share(&cluster, node));
        if shares[0] < 8.0 && shares[1] < 8.0 && shares[2] > 34.0 { Ok(()) } else { Err(format!("{shares:?}")) }
    });
    let loads = ["/a", "/b"].map(|path| everywhere(&cluster, path));
    let third = |node: &str| {
        let share = share(&cluster, node);
        if (12.0..22.0).contains(&share) { Ok(()) } else { Err(format!("{node}: {share}")) }
    };
    eventually("each has its third", || ["a", "b", "c"].iter().try_for_each(|node| third(node)));
    cluster.kill("c");
    drop(c);
    eventually("it is dead to the others", || {
        let members = cluster.json("a", &["members"]);
        let dead =
            members.as_array().is_some_and(|all| all.iter().any(|one| one["name"] == "c" && one["state"] == "dead"));
        if dead { Ok(()) } else { Err(members.to_string()) }
    });
    let rest = || share(&cluster, "a") + share(&cluster, "b");
    assert!(rest() < 42.0, "it may live elsewhere: {}", rest());
    cluster.on("web", &["evict", "c"]).expect_code(0);
    eventually("its share goes to those that are left", || match rest() {
        rest if rest > 45.0 => Ok(()),
        rest => Err(rest.to_string()),
    });
    drop(loads);
    cluster.terminate("b");
    eventually("the last one has the whole limit", || match share(&cluster, "a") {
        50.0 => Ok(()),
        share => Err(share.to_string()),
    });
}
