//! The figures of the main job: discovery, a push, a death, a farewell, a lone start, memory at rest.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use harness::{
    PATIENCE,
    cluster::{Cluster, Plan, Service},
    eventually_within, http,
    load::Load,
    now,
    process::Skein,
};
use serde_json::Value;

use crate::Figure;

const VERSIONS: [&str; 3] = ["v1", "v2", "v3"];
const PUSHES: usize = 20;
const RATE: u64 = 200;

pub(crate) fn figures(skein: &Skein) -> Vec<Figure> {
    let mut plans = vec![("web".to_owned(), Plan::with([Service::client("shop/web")]))];
    for version in VERSIONS {
        plans.push((format!("reviews-{version}"), Plan::with([Service::version("shop/reviews", version)])));
    }
    plans[3].1.services.push(Service::version("shop/ratings", "v1"));
    let plans: Vec<(&str, Plan)> = plans.iter().map(|(name, plan)| (name.as_str(), plan.clone())).collect();
    let mut cluster = Cluster::start(skein.clone(), &plans);
    cluster.wait_members(PATIENCE);
    let mut all = vec![restart(&mut cluster)];
    all.extend(pushes(&cluster));
    all.extend(kill(&mut cluster));
    all.extend(terminate(&mut cluster));
    all.push(resident(&cluster));
    all.extend(alone(&mut cluster));
    all
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// A GET of a node's own pages: no process is started for it, so it can be asked often.
fn ask(admin: SocketAddr, path: &str) -> Value {
    let answer = http::get(admin, "localhost", path).ok();
    answer.and_then(|answer| serde_json::from_slice(&answer.body).ok()).unwrap_or(Value::Null)
}

fn admins(cluster: &Cluster) -> Vec<SocketAddr> {
    cluster.running().iter().map(|name| cluster.node(name).address("admin")).collect()
}

fn healthy(admin: SocketAddr) -> usize {
    healthy_of(admin, "reviews")
}

/// Healthy endpoints of a service as one node sees them, by its own pages.
pub(crate) fn healthy_of(admin: SocketAddr, service: &str) -> usize {
    let endpoints = ask(admin, "/v1/endpoints");
    let all = endpoints.as_array().map(Vec::as_slice).unwrap_or_default();
    let is_of = |endpoint: &&Value| endpoint["service"].as_str().is_some_and(|name| name.ends_with(service));
    all.iter().filter(is_of).filter(|endpoint| endpoint["health"] == "healthy").count()
}

fn until(started: Instant, what: &str, mut holds: impl FnMut() -> bool) -> Duration {
    eventually_within(what, PATIENCE, || if holds() { Ok(()) } else { Err("not yet".to_owned()) });
    started.elapsed()
}

/// All four started together, until each sees four.
fn restart(cluster: &mut Cluster) -> Figure {
    let names: Vec<String> = cluster.running().iter().map(|name| (*name).to_owned()).collect();
    for name in &names {
        cluster.terminate(name);
    }
    let started = now();
    for name in &names {
        cluster.run(name);
    }
    let admins = admins(cluster);
    let took = until(started, "all see all", || {
        admins.iter().all(|admin| {
            ask(*admin, "/v1/members")
                .as_array()
                .is_some_and(|all| all.iter().filter(|member| member["state"] == "alive").count() == 4)
        })
    });
    cluster.wait_endpoints("shop/reviews", VERSIONS.len());
    Figure::at_most(
        "discovery",
        ms(took),
        "ms",
        3000.0,
        "four nodes started one after the other, until each sees four alive",
    )
}

fn document(number: usize) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: reviews, namespace: shop}}\nspec:\n  hosts: [reviews]\n  http:\n  - route:\n    - destination: {{host: reviews}}\n    headers: {{response: {{set: {{x-push: '{number}'}}}}}}\n"
    )
}

/// Pushes to every node in turn; a push is active once all nodes say so, by the receipts of the push itself.
fn pushes(cluster: &Cluster) -> Vec<Figure> {
    let names: Vec<String> = cluster.running().iter().map(|name| (*name).to_owned()).collect();
    let mut took: Vec<f64> = (0..PUSHES)
        .map(|number| {
            let pushed =
                cluster.push(&names[number % names.len()], &document(number), &["--wait", "all"]).expect_code(0).json();
            assert_eq!(pushed["applied"].as_array().map(Vec::len), Some(4), "{pushed}");
            pushed["elapsed_ms"].as_f64().expect("a number")
        })
        .collect();
    took.sort_by(f64::total_cmp);
    vec![
        Figure::at_most(
            "push_to_all_median",
            took[PUSHES / 2],
            "ms",
            100.0,
            "20 pushes to four nodes in turn, elapsed_ms until all applied",
        ),
        Figure::at_most("push_to_all_worst", took[PUSHES - 1], "ms", 500.0, "the slowest of them"),
    ]
}

fn failed(load: Load) -> f64 {
    let tally = load.stop();
    assert!(tally.requests > RATE, "the load ran: {tally:?}");
    if tally.failed > 0 {
        eprint_failures(&tally.failures);
    }
    tally.failed as f64
}

#[expect(clippy::print_stderr, reason = "what failed is worth reading")]
fn eprint_failures(failures: &[String]) {
    eprintln!("failed: {failures:#?}");
}

fn kill(cluster: &mut Cluster) -> Vec<Figure> {
    let load = Load::start(cluster.node("web").outbound(), "reviews", "/reviews/0", RATE);
    std::thread::sleep(Duration::from_secs(2));
    let killed = now();
    cluster.kill("reviews-v2");
    let admins = admins(cluster);
    let out = until(killed, "the killed endpoint is out", || admins.iter().all(|admin| healthy(*admin) == 2));
    std::thread::sleep(Duration::from_secs(2));
    let figures = vec![
        Figure::at_most(
            "kill_failed",
            failed(load),
            "requests",
            0.0,
            "kill -9 of one of three endpoints under 200 GET/s, failures seen by the client",
        ),
        Figure::at_most("kill_out_everywhere", ms(out), "ms", 3000.0, "until no node lists the endpoint as healthy"),
    ];
    cluster.run("reviews-v2");
    cluster.wait_endpoints("shop/reviews", VERSIONS.len());
    figures
}

fn terminate(cluster: &mut Cluster) -> Vec<Figure> {
    let load = Load::start(cluster.node("web").outbound(), "reviews", "/reviews/0", RATE);
    std::thread::sleep(Duration::from_secs(2));
    let (mesh, asked) = (cluster.node("reviews-v3").address("mesh"), now());
    let running = cluster.node("reviews-v3").running.as_ref().expect("it runs");
    running.signal(nix::sys::signal::Signal::SIGTERM);
    let others: Vec<SocketAddr> =
        ["web", "reviews-v1", "reviews-v2"].iter().map(|name| cluster.node(name).address("admin")).collect();
    let mut open_until = asked;
    let out = until(asked, "the leaving endpoint is out", || {
        if std::net::TcpStream::connect_timeout(&mesh, Duration::from_millis(100)).is_ok() {
            open_until = now();
        }
        others.iter().all(|admin| healthy(*admin) == 2)
    });
    let still_open = std::net::TcpStream::connect_timeout(&mesh, Duration::from_millis(100)).is_ok()
        || open_until.duration_since(asked) > Duration::ZERO;
    cluster.terminate("reviews-v3");
    std::thread::sleep(Duration::from_secs(1));
    let figures = vec![
        Figure::at_most(
            "term_failed",
            failed(load),
            "requests",
            0.0,
            "SIGTERM of one of three endpoints under 200 GET/s, failures seen by the client",
        ),
        Figure::at_most(
            "term_out_everywhere",
            ms(out),
            "ms",
            1000.0,
            "until no other node lists the endpoint as healthy",
        ),
        Figure::at_most(
            "term_closed_early",
            f64::from(u8::from(!still_open)),
            "times",
            0.0,
            "its mesh port was already closed when asked first after the signal",
        ),
    ];
    cluster.run("reviews-v3");
    cluster.wait_endpoints("shop/reviews", VERSIONS.len());
    figures
}

fn resident(cluster: &Cluster) -> Figure {
    std::thread::sleep(Duration::from_secs(3));
    let most = cluster.running().iter().map(|name| cluster.node(name).resident()).max().unwrap_or(u64::MAX);
    Figure::at_most(
        "idle_resident",
        most as f64 / 1048576.0,
        "MiB",
        30.0,
        "the largest VmRSS of four nodes with two workers, 3 s after the last load",
    )
}

fn alone(cluster: &mut Cluster) -> Vec<Figure> {
    let names: Vec<String> = cluster.running().iter().map(|name| (*name).to_owned()).collect();
    for name in &names {
        cluster.terminate(name);
    }
    let started = now();
    cluster.run("reviews-v1");
    let outbound = cluster.node("reviews-v1").outbound();
    let own = until(started, "the lone node serves its own service", || {
        http::get(outbound, "reviews", "/")
            .is_ok_and(|answer| answer.status == 200 && answer.header("x-push").is_some())
    });
    let asked = now();
    let other = http::get(outbound, "ratings", "/").map_or(0, |answer| answer.status);
    let other_took = asked.elapsed();
    let second = now();
    cluster.run("reviews-v2");
    let admin = cluster.node("reviews-v1").address("admin");
    let found = until(second, "the second is found from disk", || healthy(admin) == 2);
    vec![
        Figure::at_most(
            "alone_serves_own",
            ms(own),
            "ms",
            3000.0,
            "from start until its own service answers under the policy from disk",
        ),
        Figure::at_most(
            "alone_others_not_503",
            (f64::from(other) - 503.0).abs(),
            "status",
            0.0,
            "distance from 503 of the answer for a service whose node is down",
        ),
        Figure::at_most("alone_others_at_once", ms(other_took), "ms", 1000.0, "how long that answer took"),
        Figure::at_most(
            "second_found",
            ms(found),
            "ms",
            3000.0,
            "from the start of a second node until its endpoint is healthy at the first, no peers configured",
        ),
    ]
}
