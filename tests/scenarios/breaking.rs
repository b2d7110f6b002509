//! The limits of a connection pool, as in Istio's task on circuit breaking.

use harness::{eventually, http};
use serde_json::json;

use crate::{reviews, traffic_policy, written};

#[test]
fn what_is_too_much_is_refused_at_once() {
    let cluster = reviews(&["v1"]);
    let rule = traffic_policy(
        "{connectionPool: {tcp: {maxConnections: 1}, http: {http1MaxPendingRequests: 1, maxRequestsPerConnection: 1}},
          outlierDetection: {consecutive5xxErrors: 1, maxEjectionPercent: 100}}",
    );
    cluster.push("web", &rule, &["--wait", "all"]).expect_code(0);
    let outbound = cluster.node("web").outbound();
    assert_eq!(http::get(outbound, "reviews", "/").expect("an answer").status, 200);
    let backend = &cluster.node("reviews-v1").backends[0];
    backend.hold();
    backend.forget();
    let ask = || std::thread::spawn(move || http::get(outbound, "reviews", "/"));
    let mut many = vec![ask()];
    // While its connection is made it is the one that may wait, as in Envoy.
    eventually("the first has its connection", || {
        let arrived = backend.arrivals().len();
        if arrived == 1 { Ok(()) } else { Err(format!("{arrived} arrived")) }
    });
    many.extend((0..5).map(|_| ask()));
    eventually("all but two are refused", || match many.iter().filter(|one| one.is_finished()).count() {
        4 => Ok(()),
        count => Err(format!("{count} are over")),
    });
    backend.release();
    let answers: Vec<_> = many.into_iter().map(|one| one.join().expect("no panic").expect("an answer")).collect();
    let served = answers.iter().filter(|answer| answer.status == 200).count();
    let refused = answers.iter().filter(|answer| {
        answer.status == 503
            && answer.header("x-envoy-overloaded") == Some("true")
            && answer.text().contains("overflow")
    });
    assert_eq!((served, refused.count()), (2, 4), "one on the connection, one that waits: {answers:?}");
    let metrics = http::get(cluster.node("web").address("admin"), "localhost", "/metrics").expect("metrics").text();
    assert!(metrics.contains("response_flags=\"UO\"") && metrics.contains("skein_pool_overflows_total"), "{metrics}");
    assert!(cluster.json("web", &["outliers"]).as_array().is_some_and(Vec::is_empty), "a limit is nobody's failure");
    assert_eq!(http::get(outbound, "reviews", "/").expect("an answer").status, 200);
    // An operator sees where: in the listing, as a table too, and on the service's page.
    let listed = cluster.json("web", &["services", "shop/reviews"]);
    written("services", &listed);
    let overflows = listed[0]["overflows"].as_array().expect("rows");
    let wanted = json!({"caller": "shop/web", "cluster": "outbound|9080||reviews.shop.svc.cluster.local", "limit": "pending",
        "under_way": 0, "met": 4});
    assert!(overflows.contains(&wanted), "{listed}");
    assert!(cluster.on("web", &["services"]).expect_code(0).out.contains("pending 4"));
    let admin = cluster.node("web").address("admin");
    let page = http::get(admin, "localhost", "/services/shop/reviews").expect("a page").text();
    assert!(page.contains("Limits that were met") && page.contains("pending"), "{page}");
    assert!(
        cluster.json("reviews-v1", &["services", "shop/reviews"])[0].get("overflows").is_none(),
        "of its own calls"
    );
}
