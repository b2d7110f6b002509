//! An endpoint that fails is left out, is shown, and comes back.

use harness::{
    cluster::{Cluster, Plan, Service},
    eventually, http,
};

use crate::{reviews, skein, traffic_policy, written};

#[test]
fn who_fails_is_left_out_shown_and_taken_back() {
    let cluster = reviews(&["v1", "v2"]);
    let push = |detection: &str| {
        let rule = traffic_policy(&format!("{{{detection}loadBalancer: {{simple: ROUND_ROBIN}}}}"));
        cluster.push("web", &rule, &["--wait", "all"]).expect_code(0);
    };
    let out_for = |time: &str| {
        push(&format!(
            "outlierDetection: {{consecutive5xxErrors: 2, interval: 200ms, baseEjectionTime: {time}, maxEjectionPercent: 100}}, "
        ));
    };
    out_for("600s");
    let bad = &cluster.node("reviews-v2").backends[0];
    bad.answer_with(500);
    let outbound = cluster.node("web").outbound();
    let mut failed = 0;
    for _ in 0..20 {
        failed += usize::from(http::get(outbound, "reviews", "/").expect("an answer").status == 500);
    }
    // By two workers, of which each may have begun a request before the other's failure counted.
    assert!((2..=3).contains(&failed), "{failed} of 20");
    let rows = cluster.json("web", &["outliers"]);
    written("outliers", &rows);
    let row = &rows[0];
    for (field, value) in [
        ("service", "shop/reviews"),
        ("endpoint", "reviews-v2/shop/reviews"),
        ("state", "ejected"),
        ("reason", "consecutive5xxErrors"),
        ("caller", "shop/web"),
    ] {
        assert_eq!(row[field], value, "{rows}");
    }
    assert!(row["witnesses"].is_array() && row["until"].as_str().is_some_and(|until| until.ends_with('Z')), "{row}");
    let mesh = cluster.json("web", &["status", "--mesh"]);
    assert_eq!(mesh["ejected"][0]["endpoint"], "reviews-v2/shop/reviews", "{mesh}");
    written("status --mesh", &mesh);
    let endpoints = cluster.json("web", &["endpoints"]);
    let of = |node: &str| endpoints.as_array().expect("rows").iter().find(|row| row["node"] == node).cloned();
    assert_eq!(of("reviews-v2").expect("a row")["outlier"], "ejected");
    assert_eq!(of("reviews-v1").expect("a row")["outlier"], "none");
    assert_eq!(of("reviews-v2").expect("a row")["health"], "healthy", "its owner's check is another matter");
    let explained = cluster.json("web", &["explain", "http://reviews/"]);
    let reason = explained["endpoints"][1]["reason"].as_str().unwrap_or_default();
    assert!(reason.starts_with("ejected: consecutive5xxErrors, until 2"), "{explained}");
    assert_eq!(
        (&explained["endpoints"][1]["candidate"], &explained["endpoints"][0]["candidate"]),
        (&false.into(), &true.into())
    );
    // With its rule its time ends; by another one it is out for so long that one can wait for it.
    let is_out = |wanted: bool| {
        http::get(outbound, "reviews", "/")?;
        let rows = cluster.json("web", &["outliers"]);
        let is = rows.as_array().is_some_and(|rows| !rows.is_empty());
        if is == wanted { Ok(()) } else { Err(rows.to_string()) }
    };
    push("");
    eventually("nobody is out", || is_out(false));
    out_for("1s");
    eventually("it is out again", || is_out(true));
    bad.answer_with(200);
    bad.forget();
    eventually("it is taken back", || is_out(false));
    eventually("it serves again", || {
        http::get(outbound, "reviews", "/")?;
        if bad.arrivals().is_empty() { Err("not yet".to_owned()) } else { Ok(()) }
    });
}

/// By Istio's default a tenth may be out: of two endpoints none. Nobody finds that out by reading `outlierDetection: {}`.
#[test]
fn who_fails_and_is_spared_is_named_with_the_reason() {
    let cluster = reviews(&["v1", "v2"]);
    let rule = traffic_policy("{outlierDetection: {consecutive5xxErrors: 1, interval: 200ms, baseEjectionTime: 600s}}");
    let pushed = cluster.push("web", &rule, &["--wait", "all"]).expect_code(0);
    assert!(format!("{}{}", pushed.out, pushed.err).contains("SKN0235"), "{pushed:?}");
    cluster.node("reviews-v2").backends[0].answer_with(500);
    let outbound = cluster.node("web").outbound();
    let rows = eventually("it is named", || {
        http::get(outbound, "reviews", "/")?;
        let rows = cluster.json("web", &["outliers"]);
        if rows.as_array().is_some_and(|rows| !rows.is_empty()) { Ok(rows) } else { Err(rows.to_string()) }
    });
    written("outliers", &rows);
    let of = |field: &str| rows[0][field].as_str().unwrap_or_default();
    assert_eq!((of("endpoint"), of("state")), ("reviews-v2/shop/reviews", "spared"), "{rows}");
    let why = "maxEjectionPercent 10 lets none of 2 endpoints go out";
    assert_eq!((of("reason"), of("spared_by")), ("consecutive5xxErrors", why), "{rows}");
    let explained = cluster.json("web", &["explain", "http://reviews/"]);
    let endpoint = &explained["endpoints"][1];
    assert_eq!(
        (&endpoint["candidate"], &endpoint["reason"]),
        (&true.into(), &format!("spared: consecutive5xxErrors, {why}").into())
    );
    let mesh = cluster.json("reviews-v1", &["status", "--mesh"]);
    let told =
        mesh["problems"].as_array().expect("problems").iter().find(|problem| problem["code"] == "endpoint_spared");
    assert_eq!(told.map(|problem| &problem["nodes"]), Some(&serde_json::json!(["web"])), "{mesh}");
    assert_eq!(mesh["ejected"], serde_json::json!([]), "nothing is left out");
    // With room for it it goes out, and nobody is spared.
    let room = traffic_policy(
        "{outlierDetection: {consecutive5xxErrors: 1, interval: 200ms, baseEjectionTime: 600s, maxEjectionPercent: 100}}",
    );
    cluster.push("web", &room, &["--wait", "all"]).expect_code(0);
    eventually("it goes out", || {
        http::get(outbound, "reviews", "/")?;
        let rows = cluster.json("web", &["outliers"]);
        if rows[0]["state"] == "ejected" && rows[1].is_null() { Ok(()) } else { Err(rows.to_string()) }
    });
}

/// Where too few are healthy all are used, and `explain` says what requests meet.
#[test]
fn what_is_explained_in_a_panic_is_what_happens() {
    let cluster = reviews(&["v1", "v2"]);
    let rule = traffic_policy(
        "{outlierDetection: {consecutive5xxErrors: 1, interval: 200ms, baseEjectionTime: 600s, maxEjectionPercent: 100, \
         minHealthPercent: 60}}",
    );
    cluster.push("web", &rule, &["--wait", "all"]).expect_code(0);
    for node in ["reviews-v1", "reviews-v2"] {
        cluster.node(node).backends[0].answer_with(500);
    }
    let outbound = cluster.node("web").outbound();
    eventually("both are ejected", || {
        http::get(outbound, "reviews", "/")?;
        let rows = cluster.json("web", &["outliers"]);
        if rows.as_array().is_some_and(|rows| rows.len() == 2) { Ok(()) } else { Err(rows.to_string()) }
    });
    assert_eq!(http::get(outbound, "reviews", "/").map(|answer| answer.status), Ok(500), "an endpoint's, not ours");
    let explained = cluster.json("web", &["explain", "http://reviews/"]);
    assert!(explained["answer"].is_null(), "{explained}");
    for endpoint in explained["endpoints"].as_array().expect("endpoints") {
        let reason = endpoint["reason"].as_str().unwrap_or_default();
        assert!(
            endpoint["candidate"] == true && reason.starts_with("ejected: ") && reason.contains("panic"),
            "{endpoint}"
        );
    }
}

#[test]
fn who_asks_for_less_is_no_outlier() {
    let cluster = reviews(&["v1", "v2"]);
    let rule = traffic_policy("{outlierDetection: {consecutive5xxErrors: 1, maxEjectionPercent: 100}}");
    cluster.push("web", &rule, &["--wait", "all"]).expect_code(0);
    let busy = &cluster.node("reviews-v2").backends[0];
    busy.answer_with(429);
    busy.answer_with_headers("retry-after: 30\r\n");
    let outbound = cluster.node("web").outbound();
    for _ in 0..100 {
        http::get(outbound, "reviews", "/").expect("an answer");
    }
    let asked = busy.arrivals().len();
    assert!(asked < 35, "a tenth of its share, not half: {asked} of 100");
    assert!(cluster.json("web", &["outliers"]).as_array().is_some_and(Vec::is_empty));
}

/// Failures among so many requests of a node, one after the other.
fn failures(cluster: &Cluster, caller: &str, count: usize) -> usize {
    let outbound = cluster.node(caller).outbound();
    (0..count).filter(|_| http::get(outbound, "reviews", "/").expect("an answer").status == 500).count()
}

/// Callers that have not met an endpoint hear of it from one that has, and their owner's check tells them the rest; unless
/// the mesh is told not to share.
#[test]
fn one_callers_failure_warns_the_others_unless_sharing_is_off() {
    let callers = ["web", "job", "ads", "news"];
    let client = |name: &&'static str| {
        // It logs what owners say that it has asked.
        let environment = vec![("RUST_LOG", "info,node::agent::outliers=debug".to_owned())];
        (*name, Plan { environment, ..Plan::with([Service::client(&format!("shop/{name}"))]) })
    };
    let mut plans: Vec<(&str, Plan)> = callers.iter().map(client).collect();
    for (node, version) in [("reviews-v1", "v1"), ("reviews-v2", "v2")] {
        // Its own checks are too rare to be what takes it out.
        let check = "{ http = \"/health\", interval = \"600s\" }".to_owned();
        plans.push((node, Plan::with([Service { check, ..Service::version("shop/reviews", version) }])));
    }
    let cluster = Cluster::start(skein(), &plans);
    cluster.wait_members(harness::PATIENCE);
    cluster.wait_endpoints("shop/reviews", 2);
    let config = |sharing: &str| {
        let text = format!(
            "apiVersion: skein.dev/v1\nkind: MeshConfig\nmetadata: {{name: default}}\nspec: {{outlierSharing: {sharing}}}\n"
        );
        cluster.push("web", &text, &["--wait", "all"]).expect_code(0);
    };
    let rule = traffic_policy(
        "{outlierDetection: {interval: 200ms, baseEjectionTime: 120s, maxEjectionPercent: 100},
          loadBalancer: {simple: ROUND_ROBIN}}",
    );
    cluster.push("web", &rule, &["--wait", "all"]).expect_code(0);
    config("off");
    let bad = &cluster.node("reviews-v2").backends[0];
    bad.answer_with(500);
    // By two workers, of which each may have begun a request before the other's last failure counted.
    for caller in ["web", "job"] {
        let lost = failures(&cluster, caller, 30);
        assert!((5..=6).contains(&lost), "{caller} lost {lost}: each for itself");
        assert_eq!(cluster.json(caller, &["outliers"])[0]["witnesses"], serde_json::json!([]));
    }
    bad.forget();
    config("probe");
    while failures(&cluster, "ads", 1) == 0 {}
    eventually("the owner is asked to look", || {
        let asked = bad.arrivals().iter().any(|arrival| arrival.line().contains("/health"));
        if asked { Ok(()) } else { Err("nobody asked".to_owned()) }
    });
    eventually("its word is back", || {
        let log = cluster.log("news");
        let told = log.lines().any(|line| line.contains("was probed") && line.contains("Failing"));
        if told { Ok(()) } else { Err(log) }
    });
    let lost = failures(&cluster, "news", 20);
    assert_eq!(lost, 1, "its first one, after which it knows");
    let rows = cluster.json("news", &["outliers"]);
    assert_eq!((&rows[0]["state"], &rows[0]["witnesses"]), (&"ejected".into(), &serde_json::json!(["ads"])), "{rows}");
}
