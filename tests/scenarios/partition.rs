//! A network that falls into two halves and heals.

use std::net::IpAddr;

use harness::{
    PATIENCE,
    cluster::{Cluster, Plan, Service},
    eventually,
    relay::{Cut, Relay},
};

use crate::skein;

const NAMES: [&str; 5] = ["n0", "n1", "n2", "n3", "n4"];
const MESH_PORT: u16 = 15_008;

/// A mesh whose ways can be cut.
fn mesh() -> (Cluster, Cut) {
    let cut = Cut::default();
    let relays = NAMES.map(|_| Relay::start(&cut));
    let plan = |relay: &Relay| Plan {
        mesh: format!("transport = \"tcp\"\nadvertise = \"{}\"\n", relay.address),
        ..Plan::with([Service::client("shop/web")])
    };
    let mut cluster = Cluster::new(skein(), NAMES[0], &plan(&relays[0]));
    relays[0].leads((cluster.node(NAMES[0]).ip, MESH_PORT).into());
    cluster.run(NAMES[0]);
    for (name, relay) in NAMES.iter().zip(&relays).skip(1) {
        cluster.join(name, &plan(relay));
        relay.leads((cluster.node(name).ip, MESH_PORT).into());
        cluster.run(name);
    }
    cluster.wait_members(PATIENCE);
    (cluster, cut)
}

/// A change that anybody can tell from others.
fn change(name: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: {name}, namespace: shop}}\nspec:\n  host: {name}\n  \
         trafficPolicy: {{loadBalancer: {{simple: RANDOM}}}}\n"
    )
}

fn says(cluster: &Cluster, at: &str, words: &str) {
    eventually("it says whom it misses", || {
        let status = cluster.json(at, &["status"]);
        let problems = status["problems"].to_string();
        if problems.contains(words) { Ok(()) } else { Err(format!("{at}: {problems}")) }
    });
}

#[test]
fn both_halves_go_on_and_become_one_when_the_network_heals() {
    let (cluster, cut) = mesh();
    let (minority, majority) = NAMES.split_at(2);
    let ips = |names: &[&str]| names.iter().map(|name| cluster.node(name).ip).collect::<Vec<IpAddr>>();
    cut.between(&ips(minority), &ips(majority));
    minority.iter().for_each(|at| says(&cluster, at, "you see 2 of 5 nodes; missing: n2, n3, n4"));
    majority.iter().for_each(|at| says(&cluster, at, "you see 3 of 5 nodes; missing: n0, n1"));
    // Neither waits for the other.
    cluster.push("n1", &change("of-two"), &["--wait", "local"]).expect_code(0);
    cluster.push("n3", &change("of-three"), &["--wait", "local"]).expect_code(0);
    let holds =
        |at: &str, name: &str| cluster.on(at, &["policy", "get", "DestinationRule", name, "-n", "shop"]).code == 0;
    eventually("each half has its own", || {
        let seen = NAMES.map(|at| (holds(at, "of-two"), holds(at, "of-three")));
        let expected = NAMES.map(|at| (minority.contains(&at), majority.contains(&at)));
        if seen == expected { Ok(()) } else { Err(format!("{seen:?}")) }
    });
    cut.heal();
    cluster.wait_members(PATIENCE);
    eventually("all have both", || {
        let seen = NAMES.map(|at| (holds(at, "of-two"), holds(at, "of-three")));
        if seen == [(true, true); NAMES.len()] { Ok(()) } else { Err(format!("{seen:?}")) }
    });
    for at in NAMES {
        eventually("nothing is missed any more", || {
            let status = cluster.json(at, &["status"]);
            let missing = status["problems"].to_string().contains("members_missing");
            if missing { Err(status.to_string()) } else { Ok(()) }
        });
    }
}
