//! A mesh in which everything happens that dashboards show: requests that go well and badly, gRPC, connections of bytes, and whatever
//! protects services at work.

use std::{
    io::{BufRead as _, BufReader},
    net::{Ipv4Addr, SocketAddr},
    process::{Child, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use harness::{
    PATIENCE,
    bytes::{Echo, say},
    cluster::{Cluster, Plan, Service},
    grpc,
    http::{self, Connection},
    process::Skein,
};

use serde_json::Value;

/// The nodes.
pub(crate) const NODES: [&str; 3] = ["web", "one", "two"];
/// A service of HTTP and one of bytes, as metrics name them.
pub(crate) const SERVICES: [&str; 2] = ["reviews.shop.svc.cluster.local", "echo.shop.svc.cluster.local"];

/// What protects, limits and refuses.
const POLICY: &str = "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: flaky, namespace: shop}
spec:
  host: flaky
  trafficPolicy:
    loadBalancer: {simple: ROUND_ROBIN}
    outlierDetection: {consecutive5xxErrors: 1, interval: 1s, baseEjectionTime: 600s, maxEjectionPercent: 100, minHealthPercent: 60}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: slow, namespace: shop}
spec:
  host: slow
  trafficPolicy:
    connectionPool: {tcp: {maxConnections: 1}, http: {http1MaxPendingRequests: 1}}
---
apiVersion: skein.dev/v1
kind: RateLimit
metadata: {name: reviews, namespace: shop}
spec:
  selector: {matchLabels: {app: reviews}}
  rules: [{match: [{uri: {prefix: /few}}], limit: {requests: 1, interval: 60s, burst: 1}, scope: node}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: secret, namespace: shop}
spec:
  selector: {matchLabels: {app: reviews}}
  action: DENY
  rules: [{to: [{operation: {paths: [/secret]}}]}]
---
apiVersion: skein.dev/v1
kind: MeshConfig
metadata: {name: default}
spec: {accessLogFile: /dev/stdout}
";

/// A word of the difference that [`World::changeset`] made.
pub(crate) const LONG_DIFFERENCE: &str = "timeout: 2s";

/// A document of some length, each of whose rules has this timeout.
fn long(timeout: &str) -> String {
    let rule = |number| {
        format!(
            "  - match: [{{uri: {{prefix: /long/{number}/}}, headers: {{x-a-header-with-a-name-of-some-length: {{exact: \"a value of some length, too, without any place to break: {}\"}}}}}}]\n    \
             timeout: {timeout}\n    route: [{{destination: {{host: reviews}}}}]\n",
            "x".repeat(80)
        )
    };
    let rules: String = (0..120).map(rule).collect();
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: long, namespace: shop}}\nspec:\n  hosts: [long.example]\n  http:\n{rules}"
    )
}

/// The mesh, and who calls in it until it is dropped.
pub(crate) struct World {
    cluster: Cluster,
    /// What changed a document of some length in many places.
    pub(crate) changeset: String,
    stop: Arc<AtomicBool>,
    callers: Vec<JoinHandle<()>>,
    _echo: Echo,
}

impl World {
    pub(crate) fn start() -> Self {
        let echo = Echo::start(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), "echo").expect("a free port");
        let scraped = |services: Vec<Service>, extra: &str| Plan {
            extra: format!("[metrics]\nlisten = \"127.0.0.1:0\"\n{extra}"),
            locality: "eu/eu-1a".to_owned(),
            ..Plan::with(services)
        };
        let target = |name: &str, port: u16, protocol: &str, target| Service {
            ports: vec![port],
            protocol: protocol.to_owned(),
            target: Some(target),
            ..Service::version(name, "v1")
        };
        let upstream =
            "[[upstream]]\nlisten = \"127.0.0.1:0\"\nservice = \"shop/echo\"\nport = 9000\nas = \"shop/web\"\n";
        let one = vec![
            Service::version("shop/reviews", "v1"),
            Service::version("shop/flaky", "v1"),
            target("shop/greeter", 50051, "grpc", grpc::application().expect("loopback has free ports")),
        ];
        let two = vec![
            Service::version("shop/reviews", "v2"),
            Service::version("shop/flaky", "v2"),
            Service::version("shop/slow", "v1"),
            target("shop/echo", 9000, "tcp", echo.address),
        ];
        let plans = [
            ("web", scraped(vec![Service::client("shop/web")], upstream)),
            ("one", scraped(one, "")),
            ("two", scraped(two, "")),
        ];
        let cluster = Cluster::start(Skein::at(env!("CARGO_BIN_EXE_skein-under-test")), &plans);
        cluster.wait_members(PATIENCE);
        for (service, count) in [("reviews", 2), ("flaky", 2), ("slow", 1), ("greeter", 1), ("echo", 1)] {
            cluster.wait_endpoints(&format!("shop/{service}"), count);
        }
        cluster.push("web", POLICY, &["--wait", "all"]).expect_code(0);
        cluster.push("web", &long("1s"), &["--wait", "all"]).expect_code(0);
        let pushed = cluster.push("web", &long("2s"), &["--wait", "all"]).expect_code(0).json();
        let changeset = pushed["changeset"].as_str().expect("an id").to_owned();
        for (node, backend) in [("one", 1), ("two", 1)] {
            cluster.node(node).backends[backend].answer_with(500);
        }
        cluster.node("two").backends[2].delay(Duration::from_millis(200));
        let stop = Arc::new(AtomicBool::new(false));
        let callers = callers(&cluster, &stop);
        Self { cluster, changeset, stop, callers, _echo: echo }
    }

    /// Where two of the nodes are asked whom to scrape.
    pub(crate) fn scraped(&self) -> [SocketAddr; 2] {
        ["web", "one"].map(|node| self.cluster.node(node).address("metrics"))
    }

    /// Where a node serves its pages.
    pub(crate) fn admin(&self) -> SocketAddr {
        self.cluster.node("web").address("admin")
    }

    /// `skein tap --page` of an operator.
    pub(crate) fn tap_page(&self) -> TapPage {
        let mut command = self.cluster.command("web");
        command.args(["tap", "--page", "-o", "json"]).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("skein can be started");
        let mut line = String::new();
        let read = BufReader::new(child.stdout.take().expect("piped above")).read_line(&mut line);
        let said: Value = read.ok().and_then(|_| serde_json::from_str(&line).ok()).unwrap_or_default();
        let url = said["url"].as_str().unwrap_or_else(|| panic!("an address: {line:?}")).to_owned();
        TapPage { child, url }
    }

    /// One node dies.
    pub(crate) fn without(mut self, node: &str) -> Self {
        self.cluster.kill(node);
        self
    }
}

/// A command that serves a page until it is dropped.
pub(crate) struct TapPage {
    child: Child,
    pub(crate) url: String,
}

impl Drop for TapPage {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for caller in self.callers.drain(..) {
            let _ = caller.join();
        }
    }
}

/// Those who call, each again and again. What they get is for the metrics to say.
fn callers(cluster: &Cluster, stop: &Arc<AtomicBool>) -> Vec<JoinHandle<()>> {
    let (via, door) = (cluster.node("web").outbound(), cluster.node("web").upstream("shop/echo", 9000));
    let again = |mut call: Box<dyn FnMut() + Send>| {
        let stop = Arc::clone(stop);
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                call();
                std::thread::sleep(Duration::from_millis(50));
            }
        })
    };
    let mut callers = Vec::new();
    callers.push(again(Box::new(move || {
        for path in ["/", "/few", "/secret"] {
            let _ = http::get(via, "reviews", path);
        }
        let posted = Connection::open(via).map(|mut one| one.request("POST", "reviews", "/", &[], &[b'x'; 2_000]));
        drop(posted);
        let _ = http::get(via, "flaky", "/");
        let _ = http::get(via, "nobody.example", "/");
        let _ = say(door, "hello");
    })));
    let other = cluster.node("two").outbound();
    callers.push(again(Box::new(move || drop(http::get(other, "reviews", "/")))));
    for _ in 0..4 {
        callers.push(again(Box::new(move || drop(http::get(via, "slow", "/")))));
    }
    let mut client = grpc::Client::open(via).expect("the proxy listens");
    callers.push(again(Box::new(move || {
        for path in ["/good", "/sad"] {
            let _ = client.call("greeter.shop:50051", path);
        }
    })));
    callers
}
