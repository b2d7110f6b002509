//! Services that speak no HTTP: their callers' ports, Istio's traffic shifting, policy, what is told of connections, and a death.

use std::{
    collections::BTreeMap,
    io::{ErrorKind, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
};

use harness::{
    bytes::{Echo, connect, say},
    cluster::{Cluster, Plan, Service},
    eventually, http,
};
use serde_json::{Value, json};

use crate::{skein, written};

const PORT: u16 = 9000;

/// A caller and two versions of an application of bytes, on nodes of their own.
struct World {
    cluster: Cluster,
    echoes: BTreeMap<&'static str, Echo>,
}

impl World {
    fn start() -> Self {
        let echo = |name| Echo::start(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), name).expect("a free port");
        let echoes = BTreeMap::from([("v1", echo("one")), ("v2", echo("two"))]);
        let served = |version: &str| Service {
            ports: vec![PORT],
            protocol: "tcp".to_owned(),
            target: Some(echoes[version].address),
            // Once, and no more while a test counts connections.
            check: "{ tcp = true, interval = \"600s\" }".to_owned(),
            ..Service::version("shop/tcp-echo", version)
        };
        let upstream =
            "[[upstream]]\nlisten = \"127.0.0.1:0\"\nservice = \"shop/tcp-echo\"\nport = 9000\nas = \"shop/web\"\n";
        let web = Plan { extra: upstream.to_owned(), ..Plan::with([Service::client("shop/web")]) };
        let plans = [("web", web), ("one", Plan::with([served("v1")])), ("two", Plan::with([served("v2")]))];
        let cluster = Cluster::start(skein(), &plans);
        cluster.wait_members(harness::PATIENCE);
        cluster.wait_endpoints("shop/tcp-echo", 2);
        Self { cluster, echoes }
    }

    fn door(&self) -> SocketAddr {
        self.cluster.node("web").upstream("shop/tcp-echo", PORT)
    }

    fn push(&self, text: &str) {
        self.cluster.push("web", text, &["--wait", "all"]).expect_code(0);
    }

    /// Who answered so many connections.
    fn answers(&self, count: usize) -> BTreeMap<String, usize> {
        let mut answers = BTreeMap::new();
        for _ in 0..count {
            let answer = say(self.door(), "hello").expect("an answer");
            let name = answer.strip_suffix("\nhello").unwrap_or_else(|| panic!("{answer:?}"));
            *answers.entry(name.to_owned()).or_default() += 1;
        }
        answers
    }

    fn metric(&self, node: &str, name: &str, with: &[&str]) -> f64 {
        let admin = self.cluster.node(node).address("admin");
        let metrics = http::get(admin, &admin.to_string(), "/metrics").expect("metrics").text();
        let lines =
            metrics.lines().filter(|line| line.starts_with(name) && with.iter().all(|part| line.contains(part)));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    /// A line of a node's access log that says this, as JSON.
    fn line(&self, node: &str, with: &str) -> Value {
        let mut found = Value::Null;
        eventually(&format!("a line of {node} with {with}"), || {
            let lines = self.cluster.node(node).output();
            let line = lines.iter().find(|line| line.contains(with)).ok_or(format!("{lines:#?}"))?;
            found = serde_json::from_str(line).map_err(|error| error.to_string())?;
            Ok(())
        });
        found
    }
}

fn routes(tcp: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: tcp-echo, namespace: shop}}\nspec: {{host: tcp-echo, subsets: [{{name: v1, labels: {{version: v1}}}}, {{name: v2, labels: {{version: v2}}}}]}}\n---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: tcp-echo, namespace: shop}}\nspec: {{hosts: [tcp-echo], tcp: [{tcp}]}}\n"
    )
}

/// A node that took none of them tells of connections as of requests, on its pages too.
fn told_of(cluster: &Cluster) {
    let told = || {
        let top = cluster.json("two", &["top"]);
        let rows = top["connections"].as_array().cloned().unwrap_or_default();
        let to_one = |row: &&Value| row["service"] == "shop/tcp-echo" && row["to"]["version"] == "v1";
        let row = rows.iter().find(to_one).cloned().ok_or_else(|| top.to_string())?;
        written("top", &top);
        if row["open"] == 1 && row["security"] == "mutual_tls" { Ok(row) } else { Err(row.to_string()) }
    };
    let row = eventually("the open connection is told of", told);
    assert_eq!((&row["from"]["service"], &row["failed"]), (&json!("web"), &json!(0)), "{row}");
    let above = |field: &str, bound: u64| row[field].as_u64().is_some_and(|value| value > bound);
    assert!(above("opened", 20) && above("sent", 100) && above("received", 100), "{row}");
    assert!(row["rate"].as_f64().is_some_and(|rate| rate > 0.0), "{row}");
    let admin = cluster.node("two").address("admin");
    for (path, word) in [("/services/shop/tcp-echo", "Connections by caller"), ("/graph", "Connections of bytes")] {
        let page = http::get(admin, &admin.to_string(), path).expect("a page").text();
        assert!(page.contains(word) && page.contains("shop/web"), "{path}: {page}");
    }
}

#[test]
fn connections_are_shifted_judged_and_told_of() {
    let world = World::start();
    written("run", &world.cluster.node("web").running.as_ref().expect("it runs").ready);
    assert_eq!(world.answers(20).len(), 2, "without a route both serve");
    let to = |subset: &str| format!("{{destination: {{host: tcp-echo, port: {{number: 9000}}, subset: {subset}}}");
    // Istio's task "TCP traffic shifting": everybody gets v1, then a fifth v2.
    world.push(&routes(&format!("{{match: [{{port: 9000}}], route: [{}}}]}}", to("v1"))));
    assert_eq!(world.answers(10), BTreeMap::from([("one".to_owned(), 10)]));
    let shifted =
        format!("{{match: [{{port: 9000}}], route: [{}, weight: 80}}, {}, weight: 20}}]}}", to("v1"), to("v2"));
    world.push(&routes(&shifted));
    let twos = world.answers(100).get("two").copied().unwrap_or_default();
    assert!((3..=45).contains(&twos), "{twos} of 100 where 20 are due");

    let explained = world.cluster.json("web", &["explain", "tcp://tcp-echo.shop:9000", "--from", "shop/default"]);
    written("explain", &explained);
    assert_eq!(explained["document"], "VirtualService shop/tcp-echo");
    assert_eq!(explained["rule"], "tcp[0]");
    assert_eq!(explained["cluster"], "outbound|9000|v1|tcp-echo.shop.svc.cluster.local");
    assert_eq!(explained["destinations"].as_array().map(Vec::len), Some(2));

    // A live connection ends when policy denies it, and no new one reaches the application.
    let logged = "apiVersion: skein.dev/v1\nkind: MeshConfig\nmetadata: {name: default}\nspec: {accessLogFile: /dev/stdout, accessLogEncoding: JSON}\n";
    world.push(logged);
    world.push(&routes(&format!("{{route: [{}}}]}}", to("v1"))));
    let mut live = connect(world.door()).expect("it listens");
    let mut name = [0; 4];
    live.read_exact(&mut name).expect("the server speaks first");
    live.write_all(b"ping").expect("it is open");
    live.read_exact(&mut name).expect("an echo");
    told_of(&world.cluster);
    assert_eq!(&name, b"ping");
    let policy = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: tcp, namespace: shop}\nspec: {selector: {matchLabels: {app: tcp-echo}}, action: DENY, rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/default]}}]}]}\n";
    world.push(policy);
    let end = live.read(&mut name).map_err(|error| error.kind());
    assert_eq!(end, Err(ErrorKind::ConnectionReset));
    let before = world.echoes["v1"].connections();
    let refused = say(world.door(), "hello");
    assert!(refused.is_err(), "{refused:?}");
    let denied = world.line("one", "rbac_access_denied_matched_policy");
    for (key, value) in [
        ("connection_termination_details", json!("rbac_access_denied_matched_policy[ns[shop]-policy[tcp]-rule[0]]")),
        ("response_code", json!(0)),
        ("method", Value::Null),
        ("upstream_cluster", json!("inbound|9000||")),
        ("upstream_host", Value::Null),
    ] {
        assert_eq!(denied[key], value, "{key} in {denied}");
    }
    let explained = world.cluster.json("web", &["explain", "tcp://tcp-echo.shop:9000", "--from", "shop/default"]);
    written("explain", &explained);
    assert_eq!(explained["authorization"]["verdict"], "deny", "{explained}");
    assert_eq!(world.echoes["v1"].connections(), before);
    world
        .cluster
        .on("web", &["policy", "delete", "AuthorizationPolicy", "tcp", "-n", "shop", "--wait", "all"])
        .expect_code(0);
    assert_eq!(say(world.door(), "again").expect("an answer"), "one\nagain");
    let line = world.line("web", "\"bytes_sent\":9,");
    assert_eq!((&line["bytes_received"], &line["response_flags"]), (&json!(5), &json!("-")), "{line}");
    assert_eq!(line["upstream_cluster"], "outbound|9000|v1|tcp-echo.shop.svc.cluster.local");
    for (node, reporter) in [("web", "reporter=\"source\""), ("one", "reporter=\"destination\"")] {
        let labels =
            [reporter, "destination_service_name=\"tcp-echo\"", "request_protocol=\"tcp\"", "source_workload=\"web\""];
        let of = |name: &str| world.metric(node, name, &labels);
        assert!(of("istio_tcp_sent_bytes_total") > of("istio_tcp_received_bytes_total"), "{node}");
        eventually("all are over", || {
            let (opened, closed) = (of("istio_tcp_connections_opened_total"), of("istio_tcp_connections_closed_total"));
            if opened >= 50.0 && opened == closed { Ok(()) } else { Err(format!("{node}: {opened}, {closed}")) }
        });
    }
}

/// A session with a server: what it says comes back on the same connection.
struct Session(TcpStream);

impl Session {
    fn open(world: &World) -> Self {
        let mut stream = connect(world.door()).expect("it listens");
        stream.read_exact(&mut [0; 4]).expect("the server speaks first");
        Self(stream)
    }

    fn goes_on(&mut self) -> Result<(), String> {
        let mut back = [0; 4];
        self.0.write_all(b"ping").and_then(|()| self.0.read_exact(&mut back)).map_err(|error| error.to_string())?;
        if &back == b"ping" { Ok(()) } else { Err(format!("{back:?}")) }
    }
}

#[test]
fn a_session_outlives_the_certificates_that_opened_it() {
    let world = World::start();
    world.push(
        "apiVersion: skein.dev/v1\nkind: MeshConfig\nmetadata: {name: default}\nspec: {certificates: {leaf: 10s}}\n",
    );
    let mut session = Session::open(&world);
    let proven = || world.cluster.log("web").matches("connections go on by the certificates of now").count();
    // Twice: what was proven anew ends, too.
    eventually("both ends are proven anew", || {
        session.goes_on()?;
        if proven() >= 2 { Ok(()) } else { Err(format!("{} times", proven())) }
    });
    session.goes_on().expect("it is the same connection");
    // A root that is withdrawn takes no session with it, and no session holds its withdrawal up.
    for step in ["start", "advance", "finish"] {
        world.cluster.on("web", &["ca", "rotate", step, "--timeout", "60s"]).expect_code(0);
        session.goes_on().unwrap_or_else(|error| panic!("after {step}: {error}\n{}", world.cluster.log("web")));
    }
    // Who may not go on does not.
    for node in ["one", "two"] {
        world.cluster.on("web", &["evict", node, "--wait", "local"]).expect_code(0);
    }
    eventually("it ends by the eviction", || match session.goes_on() {
        Ok(()) => Err("it goes on".to_owned()),
        Err(_) => Ok(()),
    });
}

#[test]
fn a_dead_node_breaks_what_it_had_and_takes_nothing_new() {
    let mut world = World::start();
    // One connection to each.
    let mut open = BTreeMap::new();
    eventually("a connection to each", || {
        let mut stream = connect(world.door()).map_err(|error| error.to_string())?;
        let mut name = [0; 4];
        stream.read_exact(&mut name).map_err(|error| error.to_string())?;
        open.insert(name, stream);
        if open.len() == 2 { Ok(()) } else { Err(format!("{open:?}")) }
    });
    world.cluster.kill("two");
    let end = open.get_mut(b"two\n").expect("it is there").read(&mut [0]).map_err(|error| error.kind());
    assert_eq!(end, Err(ErrorKind::ConnectionReset));
    let other = open.get_mut(b"one\n").expect("it is there");
    other.write_all(b"x").expect("it is open");
    // Whoever is offered to the dead is led to the living, before anybody has said that it is dead.
    for _ in 0..10 {
        assert_eq!(say(world.door(), "x").expect("an answer"), "one\nx");
    }
    world.cluster.kill("one");
    eventually("nobody is left", || match say(world.door(), "x") {
        Ok(answer) => Err(answer),
        Err(_) => Ok(()),
    });
}
