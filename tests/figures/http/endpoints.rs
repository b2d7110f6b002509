//! One of ten endpoints is ten times slower, at half of what the ten could do: what the callers feel, by choice of endpoint.

use std::time::Duration;

use harness::{
    application::Application,
    clients::{Ask, Clients, Outcome},
    cluster::{Cluster, Plan, Service},
    process::Skein,
};

use super::wait_seen;
use crate::Figure;

const NODES: usize = 10;
const ENDPOINTS: usize = 10;
const AT_ONCE: usize = 4;
const TIME: Duration = Duration::from_millis(40);
const SLOW_TIME: Duration = Duration::from_millis(400);
/// Half of what ten endpoints serve with [`AT_ONCE`] requests of [`TIME`].
const RATE: u64 = 500;
const CLIENTS: u64 = 400;
/// Long enough to learn which endpoint is slow.
const WARM: Duration = Duration::from_secs(4);
const MEASURED: Duration = Duration::from_secs(8);

pub(super) fn figures(skein: &Skein) -> Vec<Figure> {
    let applications: Vec<Application> = (0..ENDPOINTS)
        .map(|_| {
            let one = Application::start("cart", AT_ONCE, None).expect("loopback has free ports");
            one.takes(TIME);
            one
        })
        .collect();
    let cluster = cluster(skein, &applications);
    let run = |choice: &str| {
        let rule = format!(
            "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: cart, namespace: shop}}\nspec: {{host: cart, trafficPolicy: {{loadBalancer: {{simple: {choice}}}}}}}\n"
        );
        cluster.push("web", &rule, &["--wait", "all", "--timeout", "60s"]).expect_code(0);
        load(&cluster, WARM);
        load(&cluster, MEASURED)
    };
    let healthy = run("PEAK_EWMA");
    applications[0].takes(SLOW_TIME);
    let ours = run("PEAK_EWMA");
    let others = [run("LEAST_REQUEST"), run("ROUND_ROBIN")];
    let p99 = |outcome: &Outcome| outcome.percentile(0.99);
    let failed: u64 = [&healthy, &ours].iter().map(|outcome| outcome.failed).sum();
    let [least, turn] = others.each_ref().map(p99);
    vec![
        Figure::stated(
            "slow_endpoint_p99_healthy",
            p99(&healthy),
            "ms",
            "ten endpoints of 40 ms, 4 at once each, 500 GET/s, PEAK_EWMA",
        ),
        Figure::at_most(
            "slow_endpoint_p99_over_healthy",
            p99(&ours) / p99(&healthy),
            "times",
            1.25,
            "one of the ten takes 400 ms: p99 by PEAK_EWMA over that of ten healthy ones",
        ),
        Figure::at_most(
            "slow_endpoint_p99_below_p2c",
            p99(&ours),
            "ms",
            least,
            "the same; the bound is p99 by LEAST_REQUEST",
        ),
        Figure::at_most(
            "slow_endpoint_p99_below_turn",
            p99(&ours),
            "ms",
            turn,
            "the same; the bound is p99 by ROUND_ROBIN",
        ),
        Figure::at_most("slow_endpoint_failed", failed as f64, "requests", 0.0, "failures of the loads by PEAK_EWMA"),
    ]
}

fn cluster(skein: &Skein, applications: &[Application]) -> Cluster {
    let mut plans = vec![("web".to_owned(), Plan::with([Service::client("shop/web")]))];
    for node in 0..NODES {
        let instances = applications.iter().enumerate().filter(|(number, _)| number % NODES == node);
        let instance = |(number, application): (usize, &Application)| Service {
            instance: format!("i{number}"),
            target: Some(application.address),
            ..Service::version("shop/cart", "v1")
        };
        plans.push((format!("shop-{node}"), Plan::with(instances.map(instance))));
    }
    let plans: Vec<(&str, Plan)> = plans.iter().map(|(name, plan)| (name.as_str(), plan.clone())).collect();
    let cluster = Cluster::start(skein.clone(), &plans);
    wait_seen(&cluster, ["web"], ENDPOINTS);
    cluster
}

fn load(cluster: &Cluster, time: Duration) -> Outcome {
    let clients = Clients::start(&Ask {
        via: cluster.node("web").outbound(),
        method: "GET",
        host: "cart".to_owned(),
        clients: CLIENTS,
        rate: Some(RATE),
        most: RATE * time.as_secs(),
        numbered: false,
        longest: time * 8,
    });
    while !clients.finished() {
        std::thread::sleep(Duration::from_millis(50));
    }
    clients.stop()
}
