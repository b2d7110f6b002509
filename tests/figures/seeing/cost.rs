//! What it costs a request to be counted and traced: CPU of both nodes, the ways in turn. Off is what users can turn off: every metric
//! disabled by Telemetry on both sides. Then requests are still counted by how they ended and how long they took, of which pages and `top`
//! tell (decision 0041); sizes and gRPC messages are not, and nothing is offered to scrapers.

use std::time::Duration;

use harness::{
    application::Application,
    backend::Backend,
    clients::{Ask, Clients},
    cluster::{Cluster, Plan, Service},
    process::Skein,
};

use crate::{
    Figure,
    http::{requests, wait_seen},
};

/// Each way, in turn with the others.
const ROUNDS: usize = 7;
const CLIENTS: u64 = 16;
const REQUESTS: u64 = 10_000;

/// Neither counted for scrapers nor traced; counted; traced one in a hundred; traced all of them.
const WAYS: [&str; 4] = [
    "metrics: [{overrides: [{match: {metric: ALL_METRICS, mode: CLIENT_AND_SERVER}, disabled: true}]}], tracing: [{disableSpanReporting: true}]",
    "tracing: [{disableSpanReporting: true}]",
    "tracing: [{providers: [{name: otel}], randomSamplingPercentage: 1}]",
    "tracing: [{providers: [{name: otel}], randomSamplingPercentage: 100}]",
];

pub(super) fn figures(skein: &Skein) -> Vec<Figure> {
    let application = Application::start("cart", 0, None).expect("loopback has free ports");
    let collector = Backend::start("127.0.0.1:0".parse().expect("an address"), "").expect("loopback has free ports");
    let cart = Service { target: Some(application.address), ..Service::version("shop/cart", "v1") };
    let plans = [("web", Plan::with([Service::client("shop/web")])), ("cart", Plan::with([cart]))];
    let cluster = Cluster::start(skein.clone(), &plans);
    wait_seen(&cluster, ["web"], 1);
    let provider = format!(
        "apiVersion: skein.dev/v1\nkind: MeshConfig\nmetadata: {{name: default}}\nspec: {{extensionProviders: [{{name: otel, opentelemetry: \
         {{service: {}, port: {}, http: {{path: /v1/traces}}}}}}]}}\n",
        collector.address.ip(),
        collector.address.port()
    );
    push(&cluster, &provider);
    let count = requests(REQUESTS);
    // The first connections, the first of everything.
    load(&cluster, count / 4);
    let mut all: [Vec<f64>; WAYS.len()] = Default::default();
    for _ in 0..ROUNDS {
        for (spec, all) in WAYS.iter().zip(&mut all) {
            push(
                &cluster,
                &format!(
                    "apiVersion: telemetry.istio.io/v1\nkind: Telemetry\nmetadata: {{name: mesh, namespace: istio-system}}\nspec: {{{spec}}}\n"
                ),
            );
            all.push(load(&cluster, count));
        }
    }
    let [off, metrics, sampling, tracing] = all.map(least);
    let how = |what: &str| {
        format!("{what}: CPU a request of both nodes, the least of {ROUNDS} rounds of {count} GETs each, in turn")
    };
    vec![
        Figure::stated("cpu_off", off, "us", "CPU a request of both nodes: every metric disabled, nothing traced"),
        Figure::stated("cpu_counted", metrics, "us", "the same with every metric, nothing traced"),
        Figure::stated("cpu_metrics_over_off", metrics / off, "times", how("every metric over none")),
        Figure::at_most("cpu_sampling_over_metrics", sampling / metrics, "times", 1.05, how("spans of 1 % over none")),
        Figure::stated("cpu_tracing_over_metrics", tracing / metrics, "times", how("spans of all requests over none")),
    ]
}

fn push(cluster: &Cluster, text: &str) {
    cluster.push("web", text, &["--wait", "all", "--timeout", "60s"]).expect_code(0);
}

/// What else the machine does only adds.
fn least(all: Vec<f64>) -> f64 {
    all.into_iter().fold(f64::INFINITY, f64::min)
}

/// Microseconds of CPU a request of both nodes.
fn load(cluster: &Cluster, count: u64) -> f64 {
    let before = used(cluster);
    let clients = Clients::start(&Ask {
        via: cluster.node("web").outbound(),
        method: "GET",
        host: "cart".to_owned(),
        clients: CLIENTS,
        rate: None,
        most: count,
        numbered: false,
        longest: Duration::from_secs(120),
    });
    while !clients.finished() {
        std::thread::sleep(Duration::from_millis(20));
    }
    let outcome = clients.stop();
    assert_eq!(outcome.failed, 0, "{:?}", outcome.failures);
    (used(cluster) - before) / outcome.requests as f64
}

/// Microseconds of CPU that the nodes have used.
fn used(cluster: &Cluster) -> f64 {
    // Linux counts in hundredths of a second whatever the kernel's own clock does.
    const TICK_US: f64 = 10_000.0;
    let ticks = |name: &&str| {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", cluster.node(name).pid())).expect("it runs");
        // After the name, which may hold anything: the 12th and 13th fields are user and system time.
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
        let of = |at: usize| fields.get(at).and_then(|text| text.parse::<f64>().ok()).expect("a number");
        of(11) + of(12)
    };
    cluster.running().iter().map(ticks).sum::<f64>() * TICK_US
}
