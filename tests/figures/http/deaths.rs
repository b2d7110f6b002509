//! Half of ten nodes are killed under load, again and again: no GET fails where the route retries, and no POST arrives twice.

use std::{sync::Arc, time::Duration};

use harness::{
    PATIENCE,
    application::{Application, Ledger},
    clients::{Ask, Clients, Outcome},
    cluster::{Cluster, Plan, Service},
    now,
    process::Skein,
};
use nix::sys::signal::Signal;

use super::{ROUTES, requests, wait_seen, words};
use crate::Figure;

const NODES: usize = 10;
/// Requests of the ledger, unless the environment says otherwise.
const POSTS: u64 = 1_000_000;
/// Where the machine does not reach them: what was sent until then is what is printed.
const LONGEST: Duration = Duration::from_secs(600);
const POSTING: u64 = 32;
const GETS_PER_SECOND: u64 = 200;
/// Within this after the kill the service must be whole again.
const WHOLE_MS: f64 = 2000.0;

pub(super) fn figures(skein: &Skein) -> Vec<Figure> {
    let posts = requests(POSTS);
    let ledger = Ledger::of(usize::try_from(posts).expect("a million fits"));
    let applications: Vec<Application> = (0..NODES)
        .map(|_| Application::start("cart", 0, Some(Arc::clone(&ledger))).expect("loopback has free ports"))
        .collect();
    let mut cluster = cluster(skein, &applications);
    let mut all = once(&mut cluster);
    all.extend(again_and_again(&mut cluster, &ledger, posts));
    all
}

fn name(number: usize) -> String {
    format!("cart-{number}")
}

fn cluster(skein: &Skein, applications: &[Application]) -> Cluster {
    let mut plans = vec![("web".to_owned(), Plan::with([Service::client("shop/web")]))];
    for (number, application) in applications.iter().enumerate() {
        let service = Service { target: Some(application.address), ..Service::version("shop/cart", "v1") };
        plans.push((name(number), Plan::with([service])));
    }
    let plans: Vec<(&str, Plan)> = plans.iter().map(|(name, plan)| (name.as_str(), plan.clone())).collect();
    let cluster = Cluster::start(skein.clone(), &plans);
    wait_seen(&cluster, ["web"], NODES);
    cluster.push("web", ROUTES, &["--wait", "all", "--timeout", "60s"]).expect_code(0);
    cluster
}

fn ask(cluster: &Cluster, method: &'static str) -> Ask {
    Ask {
        via: cluster.node("web").outbound(),
        method,
        host: "cart".to_owned(),
        clients: 16,
        rate: Some(GETS_PER_SECOND),
        most: u64::MAX,
        numbered: false,
        longest: LONGEST + PATIENCE,
    }
}

/// SIGKILL to all of them before anybody is waited for.
fn kill(cluster: &mut Cluster, half: &[String]) {
    for name in half {
        cluster.node(name).running.as_ref().expect("it runs").signal(Signal::SIGKILL);
    }
    half.iter().for_each(|name| cluster.kill(name));
}

fn restart(cluster: &mut Cluster, half: &[String]) {
    half.iter().for_each(|name| cluster.run(name));
    wait_seen(cluster, ["web"], NODES);
}

/// Five of ten at one moment, under GETs that are retried and POSTs that are not.
fn once(cluster: &mut Cluster) -> Vec<Figure> {
    let (gets, posts) = (Clients::start(&ask(cluster, "GET")), Clients::start(&ask(cluster, "POST")));
    std::thread::sleep(Duration::from_secs(2));
    let half: Vec<String> = (0..NODES / 2).map(name).collect();
    let killed = gets.started().elapsed();
    kill(cluster, &half);
    std::thread::sleep(Duration::from_secs(6));
    let (gets, posts) = (gets.stop(), posts.stop());
    let whole = gets.slow.iter().filter(|(_, over)| *over >= killed).map(|(_, over)| *over - killed).max();
    words("GETs at the kill", &gets);
    words("POSTs at the kill", &posts);
    restart(cluster, &half);
    vec![
        Figure::at_most(
            "kill_half_gets_failed",
            gets.failed as f64,
            "requests",
            0.0,
            format!(
                "kill -9 of five of ten nodes under 200 GET/s with 5 retries on reset, connect-failure and refused-stream; {} sent",
                gets.requests
            ),
        ),
        Figure::at_most(
            "kill_half_whole_again",
            whole.unwrap_or_default().as_secs_f64() * 1000.0,
            "ms",
            WHOLE_MS,
            "from the kill until the last GET was over that failed or took more than 250 ms; 0 where there was none",
        ),
        Figure::stated(
            "kill_half_posts_failed",
            posts.failed as f64,
            "requests",
            format!(
                "POSTs without retries at the same time: those under way at a killed node; {} sent",
                posts.requests
            ),
        ),
    ]
}

/// Kills and restarts, of one half and the other, while POSTs are numbered and counted where they arrive.
fn again_and_again(cluster: &mut Cluster, ledger: &Ledger, count: u64) -> Vec<Figure> {
    let gets = Clients::start(&ask(cluster, "GET"));
    let posts = Clients::start(&Ask {
        clients: POSTING,
        rate: None,
        most: count,
        numbered: true,
        longest: LONGEST,
        ..ask(cluster, "POST")
    });
    let halves = [(0..NODES / 2).map(name).collect::<Vec<_>>(), (NODES / 2..NODES).map(name).collect()];
    let (mut kills, mut farewells, started) = (0, 0, now());
    for turn in 0.. {
        std::thread::sleep(Duration::from_millis(1500));
        if posts.finished() {
            break;
        }
        let half = &halves[turn % 2];
        if turn % 3 == 2 {
            for name in half {
                cluster.terminate(name);
            }
            farewells += half.len();
        } else {
            kill(cluster, half);
            kills += half.len();
        }
        std::thread::sleep(Duration::from_millis(1500));
        restart(cluster, half);
    }
    let (posts, gets, took) = (posts.stop(), gets.stop(), started.elapsed());
    words("POSTs", &posts);
    words("GETs", &gets);
    let (once, more) = ledger.once_and_more();
    vec![
        Figure::at_most(
            "posts_delivered_twice",
            more as f64,
            "requests",
            0.0,
            format!(
                "{} POSTs sent in {:.0} s under {kills} kills and {farewells} farewells of nodes; {once} arrived once, {} failed",
                posts.requests,
                took.as_secs_f64(),
                posts.failed
            ),
        ),
        answered_and_arrived(&posts, once + more),
        Figure::at_most(
            "kills_gets_failed",
            gets.failed as f64,
            "requests",
            0.0,
            format!("GETs with retries at the same time, failures seen by the client; {} sent", gets.requests),
        ),
    ]
}

/// What was answered had arrived: an answer out of nothing would be worse than a failure.
fn answered_and_arrived(posts: &Outcome, arrived: u64) -> Figure {
    Figure::at_most(
        "posts_answered_not_arrived",
        (posts.requests - posts.failed).saturating_sub(arrived) as f64,
        "requests",
        0.0,
        "POSTs answered 200 beyond those that the ledger holds",
    )
}
