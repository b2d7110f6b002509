//! Every node is restarted in turn, as an upgrade does it, while all of them call one another.

use std::{collections::BTreeMap, time::Duration};

use harness::{
    PATIENCE,
    application::Application,
    clients::{Ask, Clients},
    cluster::{Cluster, Plan, Service},
    process::Skein,
};

use super::{wait_seen, words};
use crate::Figure;

const NODES: [&str; 4] = ["n0", "n1", "n2", "n3"];
const RATE: u64 = 100;
const BETWEEN: Duration = Duration::from_millis(1500);

pub(super) fn figures(skein: &Skein) -> Vec<Figure> {
    let applications = NODES.map(|_| Application::start("cart", 0, None).expect("loopback has free ports"));
    for application in &applications {
        application.takes(Duration::from_millis(5));
    }
    let plan = |application: &Application| {
        Plan::with([Service { target: Some(application.address), ..Service::version("shop/cart", "v1") }])
    };
    let plans: Vec<(&str, Plan)> = NODES.into_iter().zip(applications.iter().map(plan)).collect();
    let mut cluster = Cluster::start(skein.clone(), &plans);
    wait_seen(&cluster, NODES, NODES.len());
    let mut loads: BTreeMap<&str, Vec<Clients>> = BTreeMap::new();
    for name in NODES {
        let ask = |method| Ask {
            via: cluster.node(name).outbound(),
            method,
            host: "cart".to_owned(),
            clients: 6,
            rate: Some(RATE),
            most: u64::MAX,
            numbered: false,
            longest: PATIENCE * 6,
        };
        loads.insert(name, vec![Clients::start(&ask("GET")), Clients::start(&ask("POST"))]);
    }
    std::thread::sleep(BETWEEN);
    for name in NODES {
        loads[name].iter().for_each(|clients| clients.away(true));
        cluster.terminate(name);
        cluster.run(name);
        loads[name].iter().for_each(|clients| clients.away(false));
        wait_seen(&cluster, NODES, NODES.len());
        std::thread::sleep(BETWEEN);
    }
    let (mut requests, mut failed, mut away) = (0, 0, 0);
    for (name, clients) in loads {
        for outcome in clients.into_iter().map(Clients::stop) {
            words(name, &outcome);
            requests += outcome.requests;
            failed += outcome.failed;
            away += outcome.away;
        }
    }
    vec![
        Figure::at_most(
            "rolling_restart_failed",
            failed as f64,
            "requests",
            0.0,
            format!(
                "SIGTERM, wait, start of each of four nodes, under 100 GET/s and 100 POST/s at each, no policy; {requests} sent"
            ),
        ),
        Figure::stated(
            "rolling_restart_local_unanswered",
            away as f64,
            "requests",
            "connections that a node did not take, or closed, while it was itself away: its own local clients",
        ),
    ]
}
