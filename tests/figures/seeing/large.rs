//! A thousand services of five thousand endpoints, on twenty-five nodes: how fast pages and frames are there, and how much there is of
//! metrics at a node that has called them all.

use std::{
    fmt::Write as _,
    io::{Read as _, Write as _},
    net::SocketAddr,
    os::fd::OwnedFd,
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use harness::{
    PATIENCE,
    application::Application,
    cluster::{Cluster, Plan, SERVICE_PORT, Service},
    eventually_within,
    http::{self, Answer, Connection},
    now,
    process::Skein,
};
use nix::pty::{Winsize, openpty};
use serde_json::Value;

use crate::Figure;

const NODES: usize = 25;
const SERVICES: usize = 1_000;
/// Of each service.
const ENDPOINTS: usize = 5;
/// How often a page is asked for; what nodes told of requests is told again for two seconds, so each waits longer than that.
const TRIES: usize = 5;
const STALE: Duration = Duration::from_millis(2_100);
const PAGES: [&str; 12] = [
    "/",
    "/services",
    "/services?page=4",
    "/services?q=s99",
    "/services/big/s7",
    "/graph",
    "/graph?namespace=big",
    "/policy",
    "/nodes",
    "/nodes/n07",
    "/events",
    "/explain?url=http%3A%2F%2Fs7.big%3A9080%2F",
];

pub(super) fn figures(skein: &Skein) -> Vec<Figure> {
    let application = Application::start("big", 0, None).expect("loopback has free ports");
    let cluster = cluster(skein, &application);
    let admin = cluster.node("web").address("admin");
    let idle = ask(admin, "/metrics").body.len();
    called(&cluster);
    let (slowest, page) = pages(admin);
    let begun = now();
    let all = ask(admin, "/metrics");
    let rendered = begun.elapsed();
    let (first, opened) = frames(&cluster);
    let mib = |bytes: usize| bytes as f64 / 1_048_576.0;
    vec![
        Figure::at_most(
            "slowest_page",
            slowest,
            "ms",
            200.0,
            format!(
                "1,000 services, 5,000 endpoints, 26 nodes on this machine: the slowest of {} pages ({page}), each the median of {TRIES} with nothing of it at hand",
                PAGES.len()
            ),
        ),
        Figure::at_most(
            "top_first_frame",
            first,
            "ms",
            1_000.0,
            "the same: `skein top` at a terminal, from its start to its first frame",
        ),
        Figure::at_most(
            "top_next_frame",
            opened,
            "ms",
            300.0,
            "the same: from a key to the frame of all 5,000 endpoints; keys are looked for every 30 ms",
        ),
        Figure::at_most(
            "metrics_idle",
            mib(idle),
            "MiB",
            1.0,
            "the same: /metrics of a node that knows all and has called none",
        ),
        Figure::at_most(
            "metrics_all_called",
            mib(all.body.len()),
            "MiB",
            64.0,
            "the same: /metrics of a node that has called all 1,000 services",
        ),
        Figure::stated("metrics_all_called_time", ms(rendered), "ms", "how long that took"),
    ]
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}

fn ask(admin: SocketAddr, path: &str) -> Answer {
    let answer = http::get(admin, &admin.to_string(), path).unwrap_or_else(|error| panic!("{path}: {error}"));
    assert_eq!(answer.status, 200, "{path}");
    answer
}

/// Every node serves its part of the services, five instances of each, and one node calls.
fn cluster(skein: &Skein, application: &Application) -> Cluster {
    let mut cluster = Cluster::new(skein.clone(), "web", &Plan::with([Service::client("shop/web")]));
    cluster.run("web");
    let each = SERVICES / NODES;
    for node in 0..NODES {
        let here = || (node * each..(node + 1) * each).map(|service| format!("big/s{service}"));
        let granted = Plan::with(here().map(|service| Service::version(&service, "v1")));
        let one = |service: String, instance: usize| Service {
            instance: format!("i{instance}"),
            target: Some(application.address),
            check: "{ interval = \"60s\", rise = 1 }".to_owned(),
            ..Service::version(&service, "v1")
        };
        let all = here().flat_map(|service| (0..ENDPOINTS).map(move |instance| one(service.clone(), instance)));
        let (name, plan) = (format!("n{node:02}"), Plan::with(all));
        let token = cluster.invite(&name, &granted, &[]);
        cluster.prepare_only(&name, &plan);
        cluster.join_with(&name, &token).expect_code(0);
        cluster.run(&name);
    }
    let admin = cluster.node("web").address("admin");
    eventually_within("all endpoints are healthy", PATIENCE * 15, || {
        let services: Value = serde_json::from_slice(&ask(admin, "/v1/services").body).unwrap_or_default();
        let healthy = |service: &Value| service["healthy"].as_u64().unwrap_or(0);
        // The caller is a service, too.
        let served = services.as_array().into_iter().flatten().filter(|service| service["namespace"] == "big");
        let all: u64 = served.map(healthy).sum();
        if all == (SERVICES * ENDPOINTS) as u64 { Ok(()) } else { Err(format!("{all} are")) }
    });
    cluster
}

/// Calls each service once.
fn called(cluster: &Cluster) {
    let mut connection = Connection::open(cluster.node("web").outbound()).expect("it listens");
    let mut host = String::new();
    for service in 0..SERVICES {
        host.clear();
        // Writing to a string does not fail.
        let _ = write!(host, "s{service}.big:{SERVICE_PORT}");
        let answer = connection.request("GET", &host, "/", &[], b"").unwrap_or_else(|error| panic!("{host}: {error}"));
        assert_eq!(answer.status, 200, "{host}");
    }
}

/// The slowest page, by the median of its times, in milliseconds.
fn pages(admin: SocketAddr) -> (f64, &'static str) {
    let took = |path: &str| {
        std::thread::sleep(STALE);
        let begun = now();
        ask(admin, path);
        ms(begun.elapsed())
    };
    let median = |path: &'static str| {
        let mut all: Vec<f64> = (0..TRIES).map(|_| took(path)).collect();
        all.sort_by(f64::total_cmp);
        (all[TRIES / 2], path)
    };
    PAGES.into_iter().map(median).max_by(|a, b| a.0.total_cmp(&b.0)).expect("there are pages")
}

/// `skein top` at a terminal: how long until its first frame, and from a key to the next, in milliseconds.
fn frames(cluster: &Cluster) -> (f64, f64) {
    let size = Winsize { ws_row: 40, ws_col: 140, ws_xpixel: 0, ws_ypixel: 0 };
    let terminal = openpty(&size, None).expect("a terminal");
    let (input, output) = (terminal.slave.try_clone().expect("a descriptor"), terminal.slave);
    let mut command = cluster.command("web");
    command.arg("top").env("TERM", "xterm").stdin(Stdio::from(input)).stdout(Stdio::from(output)).stderr(Stdio::null());
    let begun = now();
    let mut top = Top { child: command.spawn().expect("skein can be started"), screen: terminal.master };
    drop(command);
    let first = top.until("[services]", begun);
    let pressed = now();
    top.press(b"\t");
    let next = top.until("ENDPOINT", pressed);
    top.press(b"q");
    (first, next)
}

/// A running one; it ends with the value.
struct Top {
    child: Child,
    screen: OwnedFd,
}

impl Top {
    fn press(&mut self, keys: &[u8]) {
        let mut screen = std::fs::File::from(self.screen.try_clone().expect("a descriptor"));
        screen.write_all(keys).expect("the terminal takes it");
    }

    /// Reads what is drawn until a word stands there, and gives the milliseconds since `begun`.
    fn until(&mut self, word: &str, begun: Instant) -> f64 {
        let mut screen = std::fs::File::from(self.screen.try_clone().expect("a descriptor"));
        let (mut drawn, mut chunk) = (String::new(), [0; 16 * 1024]);
        // A frame says what has changed: a word stands there whole only where each of its letters is new.
        while !drawn.contains(word) {
            let count = screen.read(&mut chunk).unwrap_or(0);
            assert!(count > 0, "top ended: {drawn:?}");
            drawn.push_str(&String::from_utf8_lossy(&chunk[..count]));
        }
        ms(begun.elapsed())
    }
}

impl Drop for Top {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
