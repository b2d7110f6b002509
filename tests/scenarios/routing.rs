//! Requests go where the documents say.

use std::collections::BTreeMap;

use harness::{cluster::Cluster, eventually, http};

use crate::{reviews, subsets, virtual_service};

fn tally(cluster: &Cluster, count: usize, headers: &[(&str, &str)]) -> BTreeMap<String, usize> {
    let outbound = cluster.node("web").outbound();
    let mut seen = BTreeMap::new();
    for _ in 0..count {
        let answer = http::get_with(outbound, "reviews", "/reviews/0", headers).expect("an answer");
        assert_eq!(answer.status, 200, "{answer:?}");
        *seen.entry(answer.text().split(' ').next().unwrap_or("").to_owned()).or_default() += 1;
    }
    seen
}

fn pushed(versions: &[&str], http: &str) -> Cluster {
    let cluster = reviews(versions);
    cluster.push("web", &subsets(versions), &[]).expect_code(0);
    cluster.push("web", &virtual_service(http), &["--wait", "all"]).expect_code(0);
    cluster
}

#[test]
fn without_policy_all_endpoints_share_the_load() {
    let cluster = reviews(&["v1", "v2", "v3"]);
    let seen = tally(&cluster, 150, &[]);
    assert_eq!(seen.len(), 3, "{seen:?}");
    assert!(seen.values().all(|count| *count >= 15), "least request shares among equals: {seen:?}");
}

#[test]
fn weights_split_and_headers_select() {
    let cluster = pushed(
        &["v1", "v2", "v3"],
        "  - match:\n    - headers: {end-user: {exact: jason}}\n    route:\n    - destination: {host: reviews, subset: v2}\n  - route:\n    - destination: {host: reviews, subset: v1}\n      weight: 75\n    - destination: {host: reviews, subset: v3}\n      weight: 25\n",
    );
    let jason = tally(&cluster, 30, &[("end-user", "jason")]);
    assert_eq!(jason.keys().collect::<Vec<_>>(), ["reviews-v2"], "{jason:?}");
    let others = tally(&cluster, 400, &[]);
    assert!(!others.contains_key("reviews-v2"), "{others:?}");
    let third = others.get("reviews-v3").copied().unwrap_or(0);
    assert!((55..=150).contains(&third), "a quarter of 400, six deviations wide: {others:?}");
}

#[test]
fn paths_methods_queries_and_names() {
    let cluster = pushed(
        &["v1", "v2"],
        "  - match:\n    - uri: {prefix: /v2}\n      method: {exact: GET}\n    rewrite: {uri: /}\n    route:\n    - destination: {host: reviews, subset: v2}\n      headers: {response: {add: {x-via: subset}}}\n  - match:\n    - queryParams: {ver: {exact: two}}\n    route:\n    - destination: {host: reviews, subset: v2}\n  - match:\n    - uri: {exact: /one}\n    route:\n    - destination: {host: reviews, subset: v1}\n    headers: {request: {set: {x-set: by-route}, remove: [x-gone]}}\n",
    );
    let outbound = cluster.node("web").outbound();
    let answer = http::get(outbound, "reviews.shop.svc.cluster.local:9080", "/v2/x?q=1").expect("an answer");
    assert_eq!(
        (answer.status, answer.text().as_str(), answer.header("x-via")),
        (200, "reviews-v2 shop/reviews", Some("subset")),
        "{answer:?}"
    );
    let arrived = cluster.node("reviews-v2").backends[0].arrivals();
    let line = arrived.last().expect("it arrived").line().to_owned();
    assert_eq!(line, "GET //x?q=1 HTTP/1.1", "the matched prefix is replaced, the query stays");
    assert_eq!(http::get(outbound, "reviews.shop", "/?ver=two").expect("an answer").text(), "reviews-v2 shop/reviews");
    let one = http::get_with(outbound, "REVIEWS", "/one", &[("x-gone", "1"), ("x-kept", "1")]).expect("an answer");
    assert_eq!(one.text(), "reviews-v1 shop/reviews");
    let arrived = cluster.node("reviews-v1").backends[0].arrivals();
    let last = arrived.last().expect("it arrived");
    assert_eq!(
        (last.header("x-set"), last.header("x-gone"), last.header("x-kept")),
        (Some("by-route"), None, Some("1"))
    );
    assert_eq!(http::get(outbound, "reviews", "/none").expect("an answer").status, 404, "no route matched");
    assert_eq!(http::get(outbound, "nobody", "/").expect("an answer").status, 404, "no such service");
}

#[test]
fn redirect_direct_response_fault_and_timeout() {
    let cluster = pushed(
        &["v1"],
        "  - match:\n    - uri: {prefix: /old}\n    redirect: {uri: /new, authority: elsewhere}\n  - match:\n    - uri: {exact: /teapot}\n    directResponse: {status: 418, body: {string: short and stout}}\n  - match:\n    - uri: {exact: /abort}\n    fault: {abort: {httpStatus: 555, percentage: {value: 100}}}\n    route:\n    - destination: {host: reviews, subset: v1}\n  - match:\n    - uri: {exact: /slow}\n    timeout: 100ms\n    route:\n    - destination: {host: reviews, subset: v1}\n  - route:\n    - destination: {host: reviews, subset: v1}\n",
    );
    let outbound = cluster.node("web").outbound();
    let get = |path: &str| http::get(outbound, "reviews", path).expect("an answer");
    let redirect = get("/old/x?q=1");
    assert_eq!((redirect.status, redirect.header("location")), (301, Some("http://elsewhere/new?q=1")));
    let direct = get("/teapot");
    assert_eq!((direct.status, direct.text().as_str()), (418, "short and stout"));
    assert_eq!(get("/abort").status, 555);
    assert!(cluster.node("reviews-v1").backends[0].arrivals().is_empty(), "none of these reached the application");
    cluster.node("reviews-v1").backends[0].delay(std::time::Duration::from_secs(2));
    assert_eq!(get("/slow").status, 504);
}

#[test]
fn a_subset_without_endpoints_is_503_and_an_undefined_one_too() {
    let cluster = reviews(&["v1"]);
    cluster.push("web", &subsets(&["v1", "v9"]), &[]).expect_code(0);
    let undefined = virtual_service(
        "  - match:\n    - uri: {exact: /undefined}\n    route:\n    - destination: {host: reviews, subset: v8}\n  - route:\n    - destination: {host: reviews, subset: v9}\n",
    );
    let refused = cluster.push("web", &undefined, &[]);
    assert_eq!(refused.code, 2, "an unknown subset is refused: {refused:?}");
    let code =
        refused.err.split(|c: char| !c.is_ascii_alphanumeric()).find(|word| word.starts_with("SKN")).map(str::to_owned);
    let code = code.unwrap_or_else(|| panic!("no code to allow in {refused:?}"));
    cluster.push("web", &undefined, &["--allow", &code, "--wait", "all"]).expect_code(0);
    let outbound = cluster.node("web").outbound();
    eventually("503 for both", || {
        let (empty, missing) = (http::get(outbound, "reviews", "/")?, http::get(outbound, "reviews", "/undefined")?);
        if (empty.status, missing.status) == (503, 503) { Ok(()) } else { Err(format!("{empty:?} {missing:?}")) }
    });
}

#[test]
fn bodies_pass_whole_and_metrics_count_both_sides() {
    let cluster = reviews(&["v1"]);
    let outbound = cluster.node("web").outbound();
    let body: Vec<u8> = (0..5_000_000_u32).map(|number| (number % 251) as u8).collect();
    let mut connection = http::Connection::open(outbound).expect("the proxy listens");
    let answer = connection.request("POST", "reviews", "/upload", &[], &body).expect("an answer");
    assert_eq!(answer.status, 200, "{answer:?}");
    let arrived = cluster.node("reviews-v1").backends[0].arrivals();
    assert!(arrived.last().expect("it arrived").body == body, "five megabytes arrived as sent");
    for (name, reporter) in [("web", "source"), ("reviews-v1", "destination")] {
        let metrics = http::get(cluster.node(name).address("admin"), "localhost", "/metrics").expect("metrics").text();
        let line = metrics.lines().find(|line| {
            line.starts_with("istio_requests_total{") && line.contains(&format!("reporter=\"{reporter}\""))
        });
        let line = line.unwrap_or_else(|| panic!("{name} counts as {reporter}:\n{metrics}"));
        for label in [
            "response_code=\"200\"",
            "destination_service=\"reviews.shop.svc.cluster.local\"",
            "source_workload=\"web",
            "destination_version=\"v1\"",
        ] {
            assert!(line.contains(label), "{label} in {line}");
        }
    }
}
