//! Mirrors and what browsers are told, with real processes.

use harness::{eventually, http};

use crate::{reviews, subsets, virtual_service};

#[test]
fn a_mirror_gets_copies_and_nobody_waits_for_it() {
    let cluster = reviews(&["v1", "v2"]);
    cluster.push("web", &subsets(&["v1", "v2"]), &[]).expect_code(0);
    let rules = "  - route:\n    - destination: {host: reviews, subset: v1}\n    mirrors:\n    - destination: {host: reviews, subset: v2}\n";
    cluster.push("web", &virtual_service(rules), &["--wait", "all"]).expect_code(0);
    let shadow = &cluster.node("reviews-v2").backends[0];
    shadow.delay(std::time::Duration::from_secs(5));
    let outbound = cluster.node("web").outbound();
    let mut connection = http::Connection::open(outbound).expect("the proxy listens");
    for _ in 0..5 {
        let answer = connection.request("POST", "reviews:9080", "/x", &[], b"body").expect("an answer");
        assert_eq!(answer.text(), "reviews-v1 shop/reviews");
    }
    let copies = eventually("the copies arrive", || {
        let copies = shadow.arrivals();
        if copies.len() == 5 { Ok(copies) } else { Err(format!("{} arrived", copies.len())) }
    });
    for copy in copies {
        assert_eq!((copy.header("host"), copy.body.as_slice()), (Some("reviews-shadow:9080"), &b"body"[..]));
    }
}

#[test]
fn a_browser_is_told_what_it_may() {
    let cluster = reviews(&["v1"]);
    let rules = "  - corsPolicy: {allowOrigins: [{exact: 'https://a.example'}], allowMethods: [GET], maxAge: 1h}\n    route:\n    - destination: {host: reviews}\n";
    cluster.push("web", &virtual_service(rules), &["--wait", "all"]).expect_code(0);
    let outbound = cluster.node("web").outbound();
    let origin = ("origin", "https://a.example");
    let mut connection = http::Connection::open(outbound).expect("the proxy listens");
    let asks = [origin, ("access-control-request-method", "GET")];
    let preflight = connection.request("OPTIONS", "reviews", "/", &asks, b"").expect("an answer");
    assert_eq!((preflight.status, preflight.header("access-control-max-age")), (200, Some("3600")), "{preflight:?}");
    assert!(cluster.node("reviews-v1").backends[0].arrivals().is_empty());
    let answer = http::get_with(outbound, "reviews", "/", &[origin]).expect("an answer");
    assert_eq!(answer.header("access-control-allow-origin"), Some("https://a.example"));
}
