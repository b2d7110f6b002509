//! What only real processes show.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use harness::{
    PATIENCE,
    cluster::{Cluster, Plan, Service},
    http, now,
    process::Skein,
};
use serde_json::Value;

use crate::{Figure, kit::cpu};

/// Records published.
const PUBLISHED: usize = 20;
/// Nodes killed.
const KILLED: usize = 5;
const MANY: usize = 30;
/// Nodes whose scenario is played in virtual time, too, and how often one of them is killed.
const TEN: usize = 10;
const KILLED_OF_TEN: usize = 4;
/// How long the many are left alone before they are measured: what they do and hold for their start is over then.
const SETTLED: Duration = Duration::from_secs(70);
/// How long they are measured.
const REST: Duration = Duration::from_secs(20);

pub(super) const REST_RESIDENT: &str = "rest_30_resident";
pub(super) const REST_CPU: &str = "rest_30_cpu";

fn ask(admin: SocketAddr, path: &str) -> Value {
    let answer = http::get(admin, "localhost", path).ok();
    answer.and_then(|answer| serde_json::from_slice(&answer.body).ok()).unwrap_or(Value::Null)
}

/// Milliseconds from `since` until it holds, as fine as a request over HTTP lets one look.
pub(super) fn until(since: Instant, what: &str, mut holds: impl FnMut() -> bool) -> f64 {
    let started = now();
    while !holds() {
        assert!(started.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_micros(500));
    }
    since.elapsed().as_secs_f64() * 1_000.0
}

fn state(admin: SocketAddr, node: &str) -> Option<String> {
    let members = ask(admin, "/v1/members");
    let row = members.as_array()?.iter().find(|row| row["name"] == node)?;
    Some(row["state"].as_str()?.to_owned())
}

/// Whether a node sees another in this state.
pub(super) fn is_seen(admin: SocketAddr, node: &str, as_it: &str) -> bool {
    state(admin, node).as_deref() == Some(as_it)
}

/// Endpoints of a service as a node sees them.
pub(super) fn endpoints(admin: SocketAddr, service: &str) -> usize {
    let endpoints = ask(admin, &format!("/v1/endpoints?service={service}"));
    endpoints.as_array().map_or(0, Vec::len)
}

pub(super) fn figures(skein: &Skein) -> Vec<Figure> {
    let plans = ["a", "b", "c"].map(|name| (name, Plan::with([Service::client(&format!("shop/{name}"))])));
    let mut cluster = Cluster::start(skein.clone(), &plans);
    cluster.wait_members(PATIENCE);
    let spread = spread(&cluster);
    let mut worst: f64 = 0.0;
    for _ in 0..KILLED {
        let others = ["a", "b"].map(|name| cluster.node(name).address("admin"));
        let killed = now();
        cluster.kill("c");
        let took = until(killed, "the killed node is dead everywhere", || {
            others.iter().all(|admin| state(*admin, "c").as_deref() == Some("dead"))
        });
        worst = worst.max(took);
        cluster.run("c");
        cluster.wait_members(PATIENCE);
    }
    vec![
        spread,
        Figure::at_most(
            "kill_3",
            worst,
            "ms",
            1_000.0,
            format!("three real nodes, kill -9 of one, {KILLED} times; asked over HTTP, which is counted in"),
        ),
    ]
}

/// One scenario both ways: ten nodes, of which one after the other is killed and comes back.
pub(super) fn ten(skein: &Skein) -> Vec<Figure> {
    let names: Vec<String> = (0..TEN).map(|number| format!("n{number}")).collect();
    let plans: Vec<(&str, Plan)> =
        names.iter().map(|name| (name.as_str(), Plan::with([Service::client("shop/web")]))).collect();
    let mut cluster = Cluster::start(skein.clone(), &plans);
    cluster.wait_members(PATIENCE);
    let mut worst: f64 = 0.0;
    let mut events = String::new();
    for number in 0..KILLED_OF_TEN {
        let victim = &names[number * 2 + 1];
        let others: Vec<SocketAddr> =
            names.iter().filter(|name| *name != victim).map(|name| cluster.node(name).address("admin")).collect();
        // All have settled since the last one came back.
        std::thread::sleep(Duration::from_secs(4));
        let killed = now();
        cluster.kill(victim);
        let took = until(killed, "the killed node is dead everywhere", || {
            others.iter().all(|admin| state(*admin, victim).as_deref() == Some("dead"))
        });
        worst = worst.max(took);
        cluster.run(victim);
        cluster.wait_members(PATIENCE);
        let at = 10 + number * 10;
        events.push_str(&super::event(&format!("{at}s"), "kill", &(number * 2 + 1).to_string()));
        events.push_str(&super::event(&format!("{}s", at + 5), "restart", &(number * 2 + 1).to_string()));
    }
    let scenario = format!("nodes = {TEN}\nduration = \"{}s\"\n{}\n{events}", 20 + 10 * KILLED_OF_TEN, super::LINK);
    let report = super::play(skein, &scenario);
    let simulated = super::quantile(&report, "detection_ms", "undetected", "p100");
    vec![
        Figure::at_most(
            "kill_10",
            worst,
            "ms",
            1_000.0,
            format!("ten real nodes, kill -9 of one, {KILLED_OF_TEN} times; asked over HTTP, which is counted in"),
        ),
        Figure::at_most(
            "kill_10_real_to_simulated",
            (worst / simulated).max(simulated / worst),
            "times",
            3.0,
            format!("the same in virtual time: {simulated} ms; whichever is slower over the other"),
        ),
    ]
}

/// From the moment at which a node itself has a new service until both others list its endpoint, by their own pages.
fn spread(cluster: &Cluster) -> Figure {
    grant(cluster, "a");
    let file = cluster.file(
        "extra.toml",
        "[[service]]\nname = \"extra\"\nnamespace = \"shop\"\nports = [{ name = \"http\", port = 80, protocol = \"http\", \
         target = \"127.0.0.1:9\" }]\n",
    );
    let file = file.to_str().expect("a path in UTF-8");
    let [own, others @ ..] = ["a", "b", "c"].map(|name| cluster.node(name).address("admin"));
    let count = |admin: SocketAddr| endpoints(admin, "shop/extra");
    let mut took: Vec<f64> = Vec::new();
    let before = count(own);
    // The first time its certificate is renewed, too.
    for round in 0..=PUBLISHED {
        let all = std::thread::scope(|scope| {
            let added = scope.spawn(|| cluster.on("a", &["service", "add", file]).expect_code(0));
            until(now(), "it is there itself", || count(own) > before);
            let all = until(now(), "the others have it", || others.iter().all(|admin| count(*admin) > before));
            added.join().expect("the service was added");
            all
        });
        took.extend((round > 0).then_some(all));
        cluster.on("a", &["service", "remove", "shop/extra"]).expect_code(0);
        let gone = || others.iter().chain([&own]).all(|admin| count(*admin) == before);
        until(now(), "it is gone again", gone);
    }
    took.sort_by(f64::total_cmp);
    let how = format!("three real nodes, {PUBLISHED} records; two requests over HTTP are counted in");
    Figure::at_most("spread_3", took[PUBLISHED - 1], "ms", 5.0, how)
}

/// Lets a node serve what no file of its names.
pub(super) fn grant(cluster: &Cluster, node: &str) {
    cluster.on(&cluster.first, &["grant", node, "shop/extra", "--wait", "all"]).expect_code(0);
}

pub(super) fn thirty(skein: &Skein) -> Vec<Figure> {
    let names: Vec<String> = (0..MANY).map(|number| format!("n{number:02}")).collect();
    let plan = || Plan::with([Service::client("shop/web")]);
    let plans: Vec<(&str, Plan)> = names.iter().map(|name| (name.as_str(), plan())).collect();
    let cluster = Cluster::start(skein.clone(), &plans);
    cluster.wait_members(PATIENCE);
    std::thread::sleep(SETTLED);
    let pids: Vec<u32> = names.iter().map(|name| cluster.node(name).pid()).collect();
    let before: Vec<f64> = pids.iter().map(|pid| cpu(*pid)).collect();
    let begun = now();
    std::thread::sleep(REST);
    let elapsed = begun.elapsed().as_secs_f64();
    let used = pids.iter().zip(&before).map(|(pid, before)| (cpu(*pid) - before) / elapsed * 100.0);
    let used = used.fold(0.0, f64::max);
    let resident = names.iter().map(|name| cluster.node(name).resident()).max().unwrap_or(u64::MAX);
    let own = pids.iter().map(|pid| own_memory(*pid)).max().unwrap_or(u64::MAX);
    let how = format!(
        "the largest of thirty real nodes on one machine; {:.1} MiB at most are a node's own, the rest is code that all share",
        own as f64 / 1_048_576.0
    );
    vec![
        Figure::at_most(REST_RESIDENT, resident as f64 / 1_048_576.0, "MiB", 25.0, how),
        Figure::at_most(REST_CPU, used, "% of a core", 1.0, "the busiest of thirty real nodes over 20 s of rest"),
    ]
}

/// Bytes that a process keeps and no file holds.
fn own_memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) * 1024
}
