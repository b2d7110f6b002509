//! A thousand services of five thousand endpoints, on twenty-five nodes: how fast pages and frames are there, and how much there is of
//! metrics at a node that has called them all.

use std::{
    fmt::Write as _,
    fs::File,
    io::{Read as _, Write as _},
    net::SocketAddr,
    os::fd::OwnedFd,
    process::{Child, Stdio},
    sync::mpsc::{Receiver, sync_channel},
    time::Duration,
};

use harness::{
    PATIENCE,
    application::{Application, STATUS},
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
/// How often a page is asked for, of which the slowest counts; what nodes told of requests is told again for two seconds, so each waits longer than that.
const TRIES: usize = 5;
const STALE: Duration = Duration::from_millis(2_100);
/// Beside them that of a document of some length, and that of the changeset that changed all of it.
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
    called(&cluster, &[200]);
    let pushed = pushed(&cluster);
    let more = ["/policy/documents/VirtualService/big/s7".to_owned(), format!("/policy/changesets/{pushed}")];
    let asked: Vec<String> = PAGES.iter().map(|page| (*page).to_owned()).chain(more).collect();
    let (slowest, median, page) = pages(admin, &asked);
    let begun = now();
    let all = ask(admin, "/metrics");
    let rendered = begun.elapsed();
    let (first, opened) = frames(&cluster);
    called(&cluster, &STATUSES);
    let begun = now();
    let full = compressed(admin);
    let scraped = begun.elapsed();
    let mib = |bytes: usize| bytes as f64 / 1_048_576.0;
    vec![
        Figure::at_most(
            "slowest_page",
            slowest,
            "ms",
            200.0,
            format!(
                "1,000 services, 5,000 endpoints, 26 nodes on this machine: the slowest of {TRIES} times for each of {} pages ({page}), with nothing of it at hand; its median is {median:.0} ms",
                asked.len()
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
            format!(
                "the same: the slowest of {} keys (views, sorting, filter, drill down) until what it changes is drawn, while the mesh is asked every two seconds; keys are looked for every 30 ms",
                KEYS.len()
            ),
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
        Figure::at_most(
            "metrics_at_the_cap_time",
            scraped.as_secs_f64(),
            "s",
            SCRAPE_TIMEOUT,
            "the same with all 10,000 combinations of labels that are kept apart, with gzip as Prometheus asks for it; its time is scrape_timeout of the prometheus.yml that is shipped",
        ),
        Figure::stated("metrics_at_the_cap", mib(full), "MiB", "how much that is, compressed"),
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

/// Statuses that make 10,000 combinations of labels with 1,000 services; none is a failure of the endpoint.
const STATUSES: [u16; 10] = [200, 201, 202, 203, 400, 404, 406, 409, 410, 422];
/// Of node/deploy/observability/prometheus.yml, in seconds.
const SCRAPE_TIMEOUT: f64 = 15.0;

/// Compressed bytes of `/metrics`.
fn compressed(admin: SocketAddr) -> usize {
    let answer =
        http::get_with(admin, &admin.to_string(), "/metrics", &[("accept-encoding", "gzip")]).expect("an answer");
    assert_eq!((answer.status, answer.header("content-encoding")), (200, Some("gzip")));
    answer.body.len()
}

/// A document of 200 rules, and then the same with each of them changed: the second changeset.
fn pushed(cluster: &Cluster) -> String {
    let text = |timeout: &str| {
        let mut text = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: s7, namespace: big}\nspec:\n  hosts: [s7]\n  http:\n".to_owned();
        for rule in 0..200 {
            // Writing to a string does not fail.
            let _ = write!(
                text,
                "  - match: [{{uri: {{prefix: /rule-{rule}/}}}}]\n    timeout: {timeout}\n    route: [{{destination: {{host: s7}}}}]\n"
            );
        }
        text + "  - route: [{destination: {host: s7}}]\n"
    };
    cluster.push("web", &text("1s"), &["--wait", "all"]).expect_code(0);
    let pushed = cluster.push("web", &text("2s"), &["--wait", "all"]).expect_code(0).json();
    pushed["changeset"].as_str().expect("an id").to_owned()
}

/// Calls each service once for each of these answers.
fn called(cluster: &Cluster, statuses: &[u16]) {
    let mut connection = Connection::open(cluster.node("web").outbound()).expect("it listens");
    let mut host = String::new();
    for service in 0..SERVICES {
        host.clear();
        // Writing to a string does not fail.
        let _ = write!(host, "s{service}.big:{SERVICE_PORT}");
        for status in statuses {
            let wanted = status.to_string();
            let answer = connection.request("GET", &host, "/", &[(STATUS, &wanted)], b"");
            assert_eq!(answer.unwrap_or_else(|error| panic!("{host}: {error}")).status, *status, "{host}");
        }
    }
}

/// The slowest page: the slowest and the median of its times, in milliseconds.
fn pages(admin: SocketAddr, all: &[String]) -> (f64, f64, &str) {
    let took = |path: &str| {
        std::thread::sleep(STALE);
        let begun = now();
        ask(admin, path);
        ms(begun.elapsed())
    };
    fn of(path: &str, mut times: Vec<f64>) -> (f64, f64, &str) {
        times.sort_by(f64::total_cmp);
        (times[TRIES - 1], times[TRIES / 2], path)
    }
    let slowest = |path| of(path, (0..TRIES).map(|_| took(path)).collect());
    all.iter().map(String::as_str).map(slowest).max_by(|a, b| a.0.total_cmp(&b.0)).expect("there are pages")
}

/// What is pressed one after the other, each changing what is shown: another view, another column to sort by, the other way round, the cursor
/// down, to the end and back; what to filter by, its end, away with it; back to the services, the first of them opened, and back.
const KEYS: [&[u8]; 14] =
    [b"\t", b"s", b"r", b"j", b"G", b"g", b"/", b"7", b"\r", b"\x7f", b"\x7f", b"\r", b"\x7f", b"\t"];
/// Pauses after each: what is asked every two seconds comes in between several times.
const PAUSE: Duration = Duration::from_millis(400);

/// `skein top` at a terminal: how long until its first frame, and from a key to what it changes, at most, in milliseconds.
fn frames(cluster: &Cluster) -> (f64, f64) {
    let size = Winsize { ws_row: 40, ws_col: 140, ws_xpixel: 0, ws_ypixel: 0 };
    let terminal = openpty(&size, None).expect("a terminal");
    let (input, output) = (terminal.slave.try_clone().expect("a descriptor"), terminal.slave);
    let mut command = cluster.command("web");
    command.arg("top").env("TERM", "xterm").stdin(Stdio::from(input)).stdout(Stdio::from(output)).stderr(Stdio::null());
    let begun = now();
    let top = Top::of(command.spawn().expect("skein can be started"), terminal.master);
    drop(command);
    let mut drawn = String::new();
    while !drawn.contains("[services]") {
        drawn.push_str(&top.drawn());
    }
    let first = ms(begun.elapsed());
    let slowest = KEYS.iter().map(|key| top.press(key)).max().unwrap_or_default();
    (first, ms(slowest))
}

/// A running one; it ends with the value.
struct Top {
    child: Child,
    screen: File,
    /// What is drawn, as it comes.
    frames: Receiver<Vec<u8>>,
}

impl Top {
    fn of(child: Child, screen: OwnedFd) -> Self {
        let screen = File::from(screen);
        let (mut read, (told, frames)) = (screen.try_clone().expect("a descriptor"), sync_channel(10_000));
        std::thread::spawn(move || {
            let mut chunk = [0; 16 * 1024];
            while let Ok(count) = read.read(&mut chunk)
                && count > 0
                && told.send(chunk[..count].to_vec()).is_ok()
            {}
        });
        Self { child, screen, frames }
    }

    fn drawn(&self) -> String {
        let bytes = self.frames.recv_timeout(PATIENCE).expect("top draws");
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// How long it takes from this key until something is drawn.
    fn press(&self, key: &[u8]) -> Duration {
        while self.frames.try_recv().is_ok() {}
        let pressed = now();
        (&self.screen).write_all(key).expect("the terminal takes it");
        self.drawn();
        let took = pressed.elapsed();
        std::thread::sleep(PAUSE);
        took
    }
}

impl Drop for Top {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
