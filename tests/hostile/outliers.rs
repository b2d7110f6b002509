//! Members that report endpoints without cause. What they publish is signed and well formed: a path that fails for them
//! alone makes real nodes say what liars would. A97 and A98 are in `node::agent::outliers`, with members that say anything.

use std::time::Duration;

use harness::{
    PATIENCE,
    cluster::{Cluster, Plan, Service},
    eventually, http, now,
    process::Skein,
};

const LIARS: [&str; 3] = ["liar-1", "liar-2", "liar-3"];
const ENDPOINTS: [&str; 2] = ["cart-1", "cart-2"];
/// Requests of the honest node under each number of liars.
const REQUESTS: usize = 100;

fn cluster() -> Cluster {
    let mut plans = vec![("honest", Plan::with([Service::client("shop/honest")]))];
    plans.extend(LIARS.map(|liar| (liar, Plan::with([Service::client("shop/liar")]))));
    for node in ENDPOINTS {
        let check = "{ http = \"/health\", interval = \"600s\" }".to_owned();
        plans.push((node, Plan::with([Service { check, ..Service::version("shop/cart", "v1") }])));
    }
    let cluster = Cluster::start(Skein::at(env!("CARGO_BIN_EXE_skein-under-test")), &plans);
    cluster.wait_members(PATIENCE);
    cluster.wait_endpoints("shop/cart", ENDPOINTS.len());
    let rule = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: cart, namespace: shop}\nspec:\n  host: cart\n  \
                trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}, outlierDetection: {consecutive5xxErrors: 2, interval: 100ms, \
                baseEjectionTime: 300ms, maxEjectionPercent: 100}}\n";
    cluster.push("honest", rule, &["--wait", "all"]).expect_code(0);
    cluster
}

/// Requests for a path, or arrivals of it at both endpoints.
fn arrived(cluster: &Cluster, path: &str) -> [usize; 2] {
    ENDPOINTS.map(|node| {
        let arrivals = cluster.node(node).backends[0].arrivals();
        arrivals.iter().filter(|arrival| arrival.line().split(' ').nth(1) == Some(path)).count()
    })
}

/// One liar, two, and all but one: endpoints that answer keep their share, no request fails, and their owners look at them
/// once a second at most.
#[test]
fn a96_a99_healthy_endpoints_keep_their_share_and_are_seldom_probed() {
    let cluster = cluster();
    for node in ENDPOINTS {
        cluster.node(node).backends[0].answer_path_with("/evil", 500);
    }
    let lie = |liar: &str| http::get(cluster.node(liar).outbound(), "cart", "/evil").expect("an answer").status;
    let began = now();
    for liars in 1..=LIARS.len() {
        ENDPOINTS.iter().for_each(|node| cluster.node(node).backends[0].forget());
        let began = now();
        for turn in 0..REQUESTS {
            if turn % 10 == 0 {
                LIARS[..liars].iter().for_each(|liar| assert!(lie(liar) >= 500));
            }
            let answer = http::get(cluster.node("honest").outbound(), "cart", "/").expect("an answer");
            assert_eq!(answer.status, 200, "under {liars} liars");
            std::thread::sleep(Duration::from_millis(5));
        }
        let rows = cluster.json("honest", &["outliers"]);
        assert!(rows.as_array().is_some_and(Vec::is_empty), "{rows}");
        let shares = arrived(&cluster, "/");
        assert_eq!(shares.iter().sum::<usize>(), REQUESTS);
        assert!(shares.iter().all(|share| *share >= REQUESTS * 2 / 5), "{shares:?} under {liars} liars");
        let most = usize::try_from(began.elapsed().as_secs()).expect("short") + 2;
        assert!(arrived(&cluster, "/health").iter().all(|checks| *checks <= most), "at most {most}");
    }
    // They were heard: somebody was asked to look.
    eventually("a lie is shown where its author was fooled by it", || {
        lie(LIARS[0]);
        let rows = cluster.json(LIARS[0], &["outliers"]);
        let named = rows.as_array().into_iter().flatten().flat_map(|row| row["witnesses"].as_array().cloned());
        if named.flatten().count() > 0 { Ok(()) } else { Err(format!("{rows} after {:?}", began.elapsed())) }
    });
}
