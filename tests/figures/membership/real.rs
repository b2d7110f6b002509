//! What only real processes show.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use harness::{
    PATIENCE,
    cluster::{Cluster, Plan, Service},
    eventually_within, http, now,
    process::Skein,
};
use serde_json::Value;

use crate::Figure;

/// Records published.
const PUBLISHED: usize = 20;
/// Nodes killed.
const KILLED: usize = 5;
const MANY: usize = 30;
/// How long the many are left alone before, and while, they are measured.
const REST: Duration = Duration::from_secs(20);

fn ask(admin: SocketAddr, path: &str) -> Value {
    let answer = http::get(admin, "localhost", path).ok();
    answer.and_then(|answer| serde_json::from_slice(&answer.body).ok()).unwrap_or(Value::Null)
}

fn until(since: Instant, what: &str, mut holds: impl FnMut() -> bool) -> f64 {
    eventually_within(what, PATIENCE, || if holds() { Ok(()) } else { Err("not yet".to_owned()) });
    since.elapsed().as_secs_f64() * 1_000.0
}

fn state(admin: SocketAddr, node: &str) -> Option<String> {
    let members = ask(admin, "/v1/members");
    let row = members.as_array()?.iter().find(|row| row["name"] == node)?;
    Some(row["state"].as_str()?.to_owned())
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
        Figure::not_measured(
            "heal_3",
            "ms",
            1_000.0,
            "three processes of one machine share its loopback; to part them takes namespaces, see simulations of 100 and 1,000",
        ),
    ]
}

/// From the moment at which a node itself has a new service until both others list its endpoint, by their own pages.
fn spread(cluster: &Cluster) -> Figure {
    let file = cluster.file(
        "extra.toml",
        "[[service]]\nname = \"a\"\nnamespace = \"shop\"\ninstance = \"second\"\nports = [{ name = \"http\", port = 80, protocol = \"http\", \
         target = \"127.0.0.1:9\" }]\n",
    );
    let file = file.to_str().expect("a path in UTF-8");
    let [own, others @ ..] = ["a", "b", "c"].map(|name| cluster.node(name).address("admin"));
    let count = |admin: SocketAddr| {
        let endpoints = ask(admin, "/v1/endpoints?service=shop/a");
        endpoints.as_array().map_or(0, Vec::len)
    };
    let mut took: Vec<f64> = Vec::new();
    let before = count(own);
    for _ in 0..PUBLISHED {
        took.push(std::thread::scope(|scope| {
            let added = scope.spawn(|| cluster.on("a", &["service", "add", file]).expect_code(0));
            until(now(), "it is there itself", || count(own) > before);
            let all = until(now(), "the others have it", || others.iter().all(|admin| count(*admin) > before));
            added.join().expect("the service was added");
            all
        }));
        cluster.on("a", &["service", "remove", "shop/a/second"]).expect_code(0);
        let gone = || others.iter().chain([&own]).all(|admin| count(*admin) == before);
        until(now(), "it is gone again", gone);
    }
    took.sort_by(f64::total_cmp);
    let how = format!("three real nodes, {PUBLISHED} records; two requests over HTTP are counted in");
    Figure::at_most("spread_3", took[PUBLISHED - 1], "ms", 5.0, how)
}

/// User and system time of a process in seconds.
fn cpu(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks: f64 = fields.iter().skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum();
    ticks / 100.0
}

pub(super) fn thirty(skein: &Skein) -> Vec<Figure> {
    let names: Vec<String> = (0..MANY).map(|number| format!("n{number:02}")).collect();
    let plan = || Plan::with([Service::client("shop/web")]);
    let plans: Vec<(&str, Plan)> = names.iter().map(|name| (name.as_str(), plan())).collect();
    let cluster = Cluster::start(skein.clone(), &plans);
    cluster.wait_members(PATIENCE);
    std::thread::sleep(REST);
    let pids: Vec<u32> = names.iter().map(|name| cluster.node(name).pid()).collect();
    let before: Vec<f64> = pids.iter().map(|pid| cpu(*pid)).collect();
    let begun = now();
    std::thread::sleep(REST);
    let elapsed = begun.elapsed().as_secs_f64();
    let used = pids.iter().zip(&before).map(|(pid, before)| (cpu(*pid) - before) / elapsed * 100.0);
    let used = used.fold(0.0, f64::max);
    let resident = names.iter().map(|name| cluster.node(name).resident()).max().unwrap_or(u64::MAX);
    vec![
        Figure::at_most(
            "rest_30_resident",
            resident as f64 / 1_048_576.0,
            "MiB",
            25.0,
            "the largest of thirty real nodes on one machine",
        ),
        Figure::at_most("rest_30_cpu", used, "% of a core", 1.0, "the busiest of thirty real nodes over 20 s of rest"),
    ]
}
