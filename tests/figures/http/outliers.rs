//! One endpoint of four turns bad under the load of twenty calling nodes: how many requests it costs until all do without it,
//! and what members cost a healthy endpoint that report it without cause.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use harness::{
    PATIENCE,
    cluster::{Cluster, Plan, Service},
    eventually_within, http,
    process::Skein,
};

use crate::Figure;

/// Nodes that call, of which [`IDLE`] begin only once the endpoint is bad.
const CALLERS: usize = 20;
const IDLE: usize = 5;
const ENDPOINTS: usize = 4;
/// Pause between two requests of one caller.
const PAUSE: Duration = Duration::from_millis(100);
/// How long a load goes on after the endpoint turned bad.
const AFTER: Duration = Duration::from_secs(3);
/// What an idle caller asks once it begins.
const REQUESTS: usize = 20;

pub(super) fn figures(skein: &Skein) -> Vec<Figure> {
    let cluster = cluster(skein);
    let alone = turn_bad(&cluster, "off");
    recover(&cluster);
    let shared = turn_bad(&cluster, "probe");
    recover(&cluster);
    let (failed, share) = lies(&cluster);
    vec![
        Figure::stated(
            "outlier_lost_alone",
            alone.lost as f64,
            "requests",
            "failed at an endpoint of four that turns bad, by 15 nodes that call it 2.5 times a second, sharing off",
        ),
        Figure::at_most(
            "outlier_lost_by_mesh",
            (shared.lost + shared.idle_lost) as f64,
            "requests",
            25.0,
            "the same with sharing, and what the 5 nodes lose that call only later: until all 20 do without it",
        ),
        Figure::at_most(
            "outlier_lost_by_idle_node",
            shared.worst_idle as f64,
            "requests",
            1.0,
            "the most that a node lost which had never called the endpoint before it turned bad",
        ),
        Figure::at_most(
            "outlier_lies_failed",
            failed as f64,
            "requests",
            0.0,
            "failures of 10 nodes at healthy endpoints that 10 others report all the time",
        ),
        Figure::at_least(
            "outlier_lies_least_share",
            share,
            "percent",
            22.0,
            "the least share of the four endpoints meanwhile, each due 25",
        ),
    ]
}

/// What one turn for the worse cost.
struct Cost {
    /// Requests that failed of nodes that were calling.
    lost: usize,
    /// Of nodes that began later.
    idle_lost: usize,
    /// The most of these at one node.
    worst_idle: usize,
}

fn caller(number: usize) -> String {
    format!("web-{number}")
}

fn cluster(skein: &Skein) -> Cluster {
    let mut plans: Vec<(String, Plan)> =
        (0..CALLERS).map(|number| (caller(number), Plan::with([Service::client("shop/web")]))).collect();
    // Its own checks are too rare to be what takes it out.
    let check = "{ http = \"/health\", interval = \"600s\" }".to_owned();
    plans.extend((0..ENDPOINTS).map(|number| {
        let service = Service { check: check.clone(), ..Service::version("shop/cart", "v1") };
        (format!("cart-{number}"), Plan::with([service]))
    }));
    let plans: Vec<(&str, Plan)> = plans.iter().map(|(name, plan)| (name.as_str(), plan.clone())).collect();
    let cluster = Cluster::start(skein.clone(), &plans);
    cluster.wait_members(PATIENCE * 4);
    cluster.wait_endpoints("shop/cart", ENDPOINTS);
    let rule = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: cart, namespace: shop}\nspec:\n  host: cart\n  \
                trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}, outlierDetection: {interval: 500ms, baseEjectionTime: 10s, \
                maxEjectionPercent: 100}}\n";
    cluster.push(&caller(0), rule, &["--wait", "all"]).expect_code(0);
    cluster
}

fn share(cluster: &Cluster, sharing: &str) {
    let config = format!(
        "apiVersion: skein.dev/v1\nkind: MeshConfig\nmetadata: {{name: default}}\nspec: {{outlierSharing: {sharing}}}\n"
    );
    cluster.push(&caller(0), &config, &["--wait", "all"]).expect_code(0);
}

/// Failures of one request; none, if there was no answer at all, is one too.
fn fails(cluster: &Cluster, number: usize, path: &str) -> bool {
    !http::get(cluster.node(&caller(number)).outbound(), "cart", path).is_ok_and(|answer| answer.status == 200)
}

/// Each caller on its own thread until told to stop; failures of each.
fn under_load<T>(cluster: &Cluster, callers: std::ops::Range<usize>, during: impl FnOnce() -> T) -> (usize, T) {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let stop = &stop;
        let one = |number: usize| {
            move || {
                // Not all at the same moment.
                std::thread::sleep(PAUSE / 20 * u32::try_from(number).expect("few"));
                let mut failed = 0;
                while !stop.load(Ordering::Relaxed) {
                    failed += usize::from(fails(cluster, number, "/"));
                    std::thread::sleep(PAUSE);
                }
                failed
            }
        };
        let threads: Vec<_> = callers.map(|number| scope.spawn(one(number))).collect();
        let what = during();
        stop.store(true, Ordering::Relaxed);
        (threads.into_iter().map(|thread| thread.join().expect("no panic")).sum(), what)
    })
}

fn turn_bad(cluster: &Cluster, sharing: &str) -> Cost {
    share(cluster, sharing);
    let bad = &cluster.node("cart-0").backends[0];
    let idle = CALLERS - IDLE..CALLERS;
    let (lost, ()) = under_load(cluster, 0..idle.start, || {
        std::thread::sleep(Duration::from_secs(2));
        bad.answer_with(500);
        std::thread::sleep(AFTER);
    });
    let begin = |number| (0..REQUESTS).filter(|_| fails(cluster, number, "/")).count();
    let by_idle: Vec<usize> = if sharing == "off" { Vec::new() } else { idle.map(begin).collect() };
    Cost { lost, idle_lost: by_idle.iter().sum(), worst_idle: by_idle.into_iter().max().unwrap_or_default() }
}

/// The endpoint is well again, and all use it; what was reported is forgotten.
fn recover(cluster: &Cluster) {
    cluster.node("cart-0").backends[0].answer_with(200);
    share(cluster, "off");
    for number in 0..CALLERS {
        eventually_within("it is taken back", Duration::from_secs(60), || {
            let rows = cluster.json(&caller(number), &["outliers"]);
            if rows.as_array().is_some_and(Vec::is_empty) { Ok(()) } else { Err(rows.to_string()) }
        });
    }
}

/// Half of the callers meet a path that fails for nobody else, and so report every endpoint. Gives what the others lost, and
/// the least share of an endpoint in percent.
fn lies(cluster: &Cluster) -> (usize, f64) {
    share(cluster, "probe");
    for number in 0..ENDPOINTS {
        let backend = &cluster.node(&format!("cart-{number}")).backends[0];
        backend.answer_path_with("/evil", 500);
        backend.forget();
    }
    let (failed, ()) = under_load(cluster, 0..CALLERS / 2, || {
        for _ in 0..40 {
            for liar in CALLERS / 2..CALLERS {
                fails(cluster, liar, "/evil");
            }
            std::thread::sleep(PAUSE);
        }
    });
    let arrived = (0..ENDPOINTS).map(|number| {
        let arrivals = cluster.node(&format!("cart-{number}")).backends[0].arrivals();
        arrivals.iter().filter(|arrival| arrival.line().starts_with("GET / ")).count()
    });
    let arrived: Vec<usize> = arrived.collect();
    let (least, all) = (arrived.iter().min().copied().unwrap_or_default(), arrived.iter().sum::<usize>());
    (failed, least as f64 * 100.0 / all.max(1) as f64)
}
