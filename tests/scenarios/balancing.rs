//! DestinationRules choose among endpoints of real nodes.

use std::collections::BTreeMap;

use harness::{
    cluster::{Cluster, Plan, Service},
    eventually, http,
};

use crate::{reviews, skein, traffic_policy};

fn homes(cluster: &Cluster, header: (&str, &str), count: usize) -> BTreeMap<String, usize> {
    let outbound = cluster.node("web").outbound();
    let mut homes = BTreeMap::new();
    for _ in 0..count {
        let answer = http::get_with(outbound, "reviews", "/", &[header]).expect("an answer");
        assert_eq!(answer.status, 200, "{answer:?}");
        *homes.entry(answer.text()).or_default() += 1;
    }
    homes
}

#[test]
fn a_key_has_one_home_from_wherever_it_is_asked_for() {
    let plans = [
        ("web", Plan::with([Service::client("shop/web")])),
        ("job", Plan::with([Service::client("shop/job")])),
        ("one", Plan::with([Service::version("shop/reviews", "v1")])),
        ("two", Plan::with([Service::version("shop/reviews", "v2")])),
    ];
    let cluster = Cluster::start(skein(), &plans);
    cluster.wait_members(harness::PATIENCE);
    cluster.wait_endpoints("shop/reviews", 2);
    let rule = traffic_policy("{loadBalancer: {consistentHash: {httpHeaderName: x-user}}}");
    cluster.push("web", &rule, &["--wait", "all"]).expect_code(0);
    let mut all = BTreeMap::new();
    for user in 0..16 {
        let name = format!("user-{user}");
        let found = homes(&cluster, ("x-user", &name), 3);
        assert_eq!(found.len(), 1, "{name}: {found:?}");
        let (home, _) = found.into_iter().next().expect("one");
        let elsewhere = http::get_with(cluster.node("job").outbound(), "reviews", "/", &[("x-user", &name)]);
        assert_eq!(elsewhere.expect("an answer").text(), home, "every node sends {name} to the same endpoint");
        all.insert(home, ());
    }
    assert_eq!(all.len(), 2, "users are spread");
}

#[test]
fn round_robin_takes_turns() {
    let cluster = reviews(&["v1", "v2"]);
    cluster.push("web", &traffic_policy("{loadBalancer: {simple: ROUND_ROBIN}}"), &["--wait", "all"]).expect_code(0);
    let mut connection = http::Connection::open(cluster.node("web").outbound()).expect("the proxy listens");
    let mut ask = || connection.request("GET", "reviews", "/", &[], b"").expect("an answer").text();
    let turns: Vec<String> = (0..8).map(|_| ask()).collect();
    assert!(turns.windows(2).all(|pair| pair[0] != pair[1]), "{turns:?}");
}

#[test]
fn the_near_serve_and_the_far_stand_in() {
    let at = |locality: &str, service: Service| Plan { locality: locality.to_owned(), ..Plan::with([service]) };
    let plans = [
        ("web", at("eu/a", Service::client("shop/web"))),
        ("near", at("eu/a", Service::version("shop/reviews", "v1"))),
        ("far", at("us/b", Service::version("shop/reviews", "v1"))),
    ];
    let mut cluster = Cluster::start(skein(), &plans);
    cluster.wait_members(harness::PATIENCE);
    cluster.wait_endpoints("shop/reviews", 2);
    cluster.push("web", &traffic_policy("{outlierDetection: {}}"), &["--wait", "all"]).expect_code(0);
    let found = homes(&cluster, ("x", "y"), 20);
    assert_eq!(found.keys().collect::<Vec<_>>(), ["near shop/reviews"]);
    cluster.kill("near");
    eventually("the far one serves", || {
        let answer = http::get(cluster.node("web").outbound(), "reviews", "/")?;
        if answer.text() == "far shop/reviews" { Ok(()) } else { Err(format!("{answer:?}")) }
    });
}
