//! An endpoint that fails is left out, is shown, and comes back.

use harness::{eventually, http};

use crate::{reviews, traffic_policy};

#[test]
fn who_fails_is_left_out_shown_and_taken_back() {
    let cluster = reviews(&["v1", "v2"]);
    let rule = traffic_policy(
        "{outlierDetection: {consecutive5xxErrors: 2, interval: 200ms, baseEjectionTime: 3s, maxEjectionPercent: 100},
          loadBalancer: {simple: ROUND_ROBIN}}",
    );
    cluster.push("web", &rule, &["--wait", "all"]).expect_code(0);
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
    bad.answer_with(200);
    bad.forget();
    eventually("it is taken back", || {
        let rows = cluster.json("web", &["outliers"]);
        if rows.as_array().is_some_and(Vec::is_empty) { Ok(()) } else { Err(rows.to_string()) }
    });
    eventually("it serves again", || {
        http::get(outbound, "reviews", "/")?;
        if bad.arrivals().is_empty() { Err("not yet".to_owned()) } else { Ok(()) }
    });
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
