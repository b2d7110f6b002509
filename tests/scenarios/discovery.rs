//! Nodes find each other, and each other's services, without being told.

use harness::{
    PATIENCE,
    cluster::{Cluster, Plan, Service},
    eventually, http,
};

use crate::{reviews, skein};

#[test]
fn four_nodes_see_each_other_and_their_services() {
    let cluster = reviews(&["v1", "v2", "v3"]);
    for name in cluster.running() {
        let status = cluster.json(name, &["status"]);
        assert_eq!(status["members"]["seen"], 4, "{name}: {status}");
        assert_eq!(status["members"]["expected"], 4, "{name}: {status}");
        let services = cluster.json(name, &["services"]);
        let reviews =
            services.as_array().and_then(|all| all.iter().find(|service| service["name"] == "reviews")).cloned();
        let reviews = reviews.unwrap_or_else(|| panic!("{name}: {services}"));
        assert_eq!((&reviews["endpoints"], &reviews["healthy"]), (&3.into(), &3.into()), "{name}");
    }
    let endpoints = cluster.json("web", &["endpoints"]);
    let versions: Vec<&str> = endpoints
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|endpoint| endpoint["labels"]["version"].as_str())
        .collect();
    assert_eq!(versions.len(), 3, "{endpoints}");
}

#[test]
fn a_node_that_comes_back_is_seen_again_and_serves() {
    let mut cluster = reviews(&["v1", "v2"]);
    cluster.kill("reviews-v1");
    cluster.wait_endpoints("shop/reviews", 1);
    cluster.run("reviews-v1");
    cluster.wait_members(PATIENCE);
    cluster.wait_endpoints("shop/reviews", 2);
}

#[test]
fn a_graceful_stop_is_announced_and_forgotten_service_is_not_called() {
    let mut cluster = reviews(&["v1", "v2"]);
    let status = cluster.terminate("reviews-v2").expect("it ran");
    assert!(status.success(), "SIGTERM ends with 0: {status}");
    cluster.wait_endpoints("shop/reviews", 1);
    let members = cluster.json("web", &["members", "--all"]);
    let left = members.as_array().and_then(|all| all.iter().find(|member| member["name"] == "reviews-v2")).cloned();
    assert_eq!(left.expect("still listed")["state"], "left", "{members}");
}

#[test]
fn one_alone_serves_its_own_and_a_second_is_found_from_disk() {
    let mut cluster = Cluster::start(
        skein(),
        &[
            ("one", Plan::with([Service::version("shop/reviews", "v1")])),
            ("two", Plan::with([Service::version("shop/ratings", "v1")])),
        ],
    );
    cluster.wait_members(PATIENCE);
    cluster.wait_endpoints("shop/ratings", 1);
    cluster
        .push("two", "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: reviews, namespace: shop}\nspec: {hosts: [reviews], http: [{route: [{destination: {host: reviews}}], headers: {response: {set: {x-routed: 'yes'}}}}]}\n", &["--wait", "all"])
        .expect_code(0);
    cluster.terminate("one");
    cluster.terminate("two");
    cluster.run("one");
    let outbound = cluster.node("one").outbound();
    let own = eventually("the lone node serves itself", || {
        let answer = http::get(outbound, "reviews", "/")?;
        if answer.status == 200 { Ok(answer) } else { Err(format!("{answer:?}")) }
    });
    assert_eq!(own.header("x-routed"), Some("yes"), "its policy was on disk: {own:?}");
    let other = http::get(outbound, "ratings", "/").expect("an answer at once");
    // Nobody was dialled for it.
    assert_eq!((other.status, other.text().as_str()), (503, "no healthy upstream"), "{other:?}");
    cluster.run("two");
    eventually("the second is found without peers in its file", || {
        let answer = http::get(outbound, "ratings", "/")?;
        if answer.status == 200 { Ok(()) } else { Err(format!("{answer:?}")) }
    });
}

#[test]
fn a_drained_node_says_so_until_it_is_taken_back() {
    let cluster = reviews(&["v1"]);
    cluster.on("reviews-v1", &["drain"]).expect_code(0);
    cluster.wait_endpoints("shop/reviews", 0);
    let status = cluster.json("reviews-v1", &["status"]);
    assert_eq!(status["state"], "degraded", "{status}");
    assert!(status["problems"].to_string().contains("draining"), "{status}");
    cluster.on("reviews-v1", &["drain", "--undo"]).expect_code(0);
    cluster.wait_endpoints("shop/reviews", 1);
    let status = cluster.json("reviews-v1", &["status"]);
    assert!(!status["problems"].to_string().contains("draining"), "{status}");
}
