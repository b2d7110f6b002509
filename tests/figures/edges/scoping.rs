//! A node keeps full detail only for what its services call: its memory with 1,000 services in the mesh, ten of which are called.

use std::time::Duration;

use harness::{
    PATIENCE,
    application::Application,
    cluster::{Cluster, Plan, Service},
    eventually_within, http,
    process::Skein,
};
use serde_json::Value;

use crate::Figure;

/// Nodes that serve; each has the endpoints of its services, of which a node may have 200.
const NODES: usize = 30;
/// Of so many of them the caller calls services.
const CALLED: usize = 10;
/// Services of each in the large mesh.
const MANY: usize = 34;
/// Endpoints of a service.
const ENDPOINTS: usize = 5;
/// For what came to be in use everywhere, and for memory that is given back.
const SETTLE: Duration = Duration::from_secs(10);
const MEGABYTE: f64 = 1_048_576.0;

pub(crate) fn figures(skein: &Skein) -> Vec<Figure> {
    let application = Application::start("any", 16, None).expect("loopback has free ports");
    let few = measured(skein, &application, 1);
    let many = measured(skein, &application, MANY);
    let uncalled = (NODES * (MANY - 1) * ENDPOINTS) as f64;
    let growth = many.calling_ten - few.calling_ten;
    let calling = many.calling_all - many.calling_ten;
    vec![
        Figure::stated(
            "scoping_rss_30_services",
            few.calling_ten,
            "MB",
            "a node that calls 10 of the 30 services of a mesh, 5 endpoints each on 30 nodes; resident memory",
        ),
        Figure::stated(
            "scoping_rss_1020_services",
            many.calling_ten,
            "MB",
            "the same with 1,020 services of 5 endpoints, of which it calls 10",
        ),
        Figure::at_most(
            "scoping_growth",
            growth,
            "MB",
            40.0,
            "what 990 services more cost that are not called: their names, addresses and signed records",
        ),
        Figure::at_most(
            "scoping_growth_per_endpoint",
            growth * 1024.0 / uncalled,
            "KB",
            8.0,
            "the same, for each endpoint",
        ),
        Figure::stated(
            "scoping_called_per_service",
            calling * 1024.0 / (CALLED * (MANY - 1)) as f64,
            "KB",
            "what each of 330 of them costs more once it was called: its routes, its choice of endpoints, its connections and counters",
        ),
    ]
}

/// Resident megabytes of the caller's node.
struct Memory {
    calling_ten: f64,
    calling_all: f64,
}

fn measured(skein: &Skein, application: &Application, services: usize) -> Memory {
    let cluster = cluster(skein, application, services);
    let web = cluster.node("web");
    let call = |service: usize| {
        for node in 0..CALLED {
            let host = format!("{}.shop", name(node, service));
            eventually_within(&host, PATIENCE, || match http::get(web.outbound(), &host, "/")?.status {
                200 => Ok(()),
                other => Err(format!("{other}")),
            });
        }
    };
    let resident = || {
        std::thread::sleep(SETTLE);
        web.resident() as f64 / MEGABYTE
    };
    call(0);
    let calling_ten = resident();
    (1..services).for_each(call);
    Memory { calling_ten, calling_all: resident() }
}

fn name(node: usize, service: usize) -> String {
    format!("s{service}-of-{node}")
}

fn cluster(skein: &Skein, application: &Application, services: usize) -> Cluster {
    let mut plans = vec![("web".to_owned(), Plan::with([Service::client("shop/web")]))];
    for node in 0..NODES {
        let endpoint = |number: usize| Service {
            instance: format!("i{}", number % ENDPOINTS),
            target: Some(application.address),
            // Applications are not what is measured: they are looked at once.
            check: "{ tcp = true, interval = \"1h\" }".to_owned(),
            ..Service::version(&format!("shop/{}", name(node, number / ENDPOINTS)), "v1")
        };
        // Who speaks at its proxy port must be one, and not one of five.
        let speaker = std::iter::once(Service::client(&format!("shop/client-{node}")));
        let endpoints = (0..services * ENDPOINTS).map(endpoint);
        plans.push((format!("shop-{node}"), Plan::with(speaker.chain(endpoints))));
    }
    let plans: Vec<(&str, Plan)> = plans.iter().map(|(name, plan)| (name.as_str(), plan.clone())).collect();
    let cluster = Cluster::start(skein.clone(), &plans);
    // Another node is asked, so that the answer is not part of what is measured.
    let admin = cluster.node("shop-0").address("admin");
    eventually_within("all endpoints are seen", PATIENCE * 5, || {
        let answer = http::get(admin, &admin.to_string(), "/v1/services")?;
        let all: Value = serde_json::from_str(&answer.text()).map_err(|error| error.to_string())?;
        let healthy: u64 = all.as_array().into_iter().flatten().filter_map(|one| one["healthy"].as_u64()).sum();
        if healthy >= (NODES * services * ENDPOINTS) as u64 { Ok(()) } else { Err(format!("{healthy} healthy")) }
    });
    cluster
}
