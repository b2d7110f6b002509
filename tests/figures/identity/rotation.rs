//! A full change of the root under load, while leafs live for half a minute.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    thread::JoinHandle,
    time::Duration,
};

use harness::{
    PATIENCE,
    bytes::{Echo, connect},
    cluster::{Cluster, Plan, Service},
    load::Load,
    now,
    process::Skein,
};
use serde_json::Value;

use crate::Figure;

/// Requests a second.
const RATE: u64 = 100;
/// How long a leaf lives.
const LEAF: &str = "30s";

/// Load for so long; the three steps are taken at a fifth, two fifths and three fifths of it.
pub(super) fn figures(skein: &Skein, seconds: u64) -> Vec<Figure> {
    let reviews = || Plan::with([Service { account: "reviews".into(), ..Service::version("shop/reviews", "v1") }]);
    let echo = Echo::start(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), "echo").expect("a free port");
    let (ports, protocol, target) = (vec![9000], "tcp".to_owned(), Some(echo.address));
    let served = Service { ports, protocol, target, ..Service::version("shop/echo", "v1") };
    let upstream = "[[upstream]]\nlisten = \"127.0.0.1:0\"\nservice = \"shop/echo\"\nport = 9000\nas = \"shop/web\"\n";
    let client = Plan { extra: upstream.to_owned(), ..Plan::with([Service::client("shop/web")]) };
    let mut second = reviews();
    second.services.push(served);
    let plans = [("first", client), ("second", second), ("third", reviews()), ("fourth", reviews())];
    let cluster = Cluster::start(skein.clone(), &plans);
    cluster.wait_members(PATIENCE);
    cluster.wait_endpoints("shop/reviews", 3);
    cluster.wait_endpoints("shop/echo", 1);
    cluster.on("first", &["ca", "promote", "second"]).expect_code(0);
    let config = format!(
        "apiVersion: skein.dev/v1\nkind: MeshConfig\nmetadata: {{name: default}}\nspec: {{certificates: {{leaf: {LEAF}}}}}\n"
    );
    cluster.push("first", &config, &["--wait", "all"]).expect_code(0);
    let length = Duration::from_secs(seconds);
    let load = Load::start_for(cluster.node("first").outbound(), "reviews", "/", RATE, length * 2);
    let session = session(connect(cluster.node("first").upstream("shop/echo", 9000)).expect("it listens"), length);
    let (begun, mut steps) = (now(), Vec::new());
    for (turn, step) in ["start", "advance", "finish"].into_iter().enumerate() {
        let due = length * u32::try_from(turn + 1).unwrap_or(1) / 5;
        std::thread::sleep(due.saturating_sub(begun.elapsed()));
        let asked = now();
        let done = cluster.json("first", &["ca", "rotate", step, "--timeout", "60s"]);
        steps.push((step, asked.elapsed(), done));
    }
    std::thread::sleep(length.saturating_sub(begun.elapsed()));
    let tally = load.stop();
    let (exchanges, broken) = session.join().expect("no panic");
    let told = cluster.json("first", &["ca", "rotate", "status"]);
    let over = told["phase"] == "steady" && told["roots"].as_array().is_some_and(|roots| roots.len() == 2);
    let left = steps.iter().filter(|(_, _, done)| done["left_behind"].as_array().is_some_and(|left| !left.is_empty()));
    let first = tally.failures.first().map(String::as_str).unwrap_or("none");
    let how =
        format!("of {} requests in {seconds} s, leafs of {LEAF}, 4 nodes; first failure: {first}", tally.requests);
    let mut all = vec![
        Figure::at_most("rotation_failed_requests", tally.failed as f64, "requests", 0.0, how),
        Figure::at_least(
            "rotation_requests",
            tally.requests as f64,
            "requests",
            (seconds * RATE) as f64 * 0.8,
            "answered or failed: the load was there all the time",
        ),
        Figure::at_least("rotation_over", f64::from(u8::from(over)), "", 1.0, "the old root is withdrawn at the end"),
        Figure::at_most("rotation_left_behind", left.count() as f64, "steps", 0.0, "steps that left a node behind"),
    ];
    all.push(Figure::at_most(
        "rotation_session_breaks",
        f64::from(u8::from(broken.is_some())),
        "breaks",
        0.0,
        format!("of one connection of bytes, a word a second, {exchanges} in all: {}", broken.unwrap_or_default()),
    ));
    for (step, took, done) in &steps {
        let phase = done["phase"].as_str().unwrap_or_default();
        let how =
            format!("until every live node had followed what came before, and the RoleSet was signed: then {phase}");
        all.push(Figure::stated(format!("rotation_{step}"), took.as_secs_f64(), "s", how));
    }
    all.push(leafs(&cluster));
    all
}

/// Says a word a second for so long. Gives how many came back, and why one did not.
fn session(mut stream: TcpStream, length: Duration) -> JoinHandle<(u64, Option<String>)> {
    std::thread::spawn(move || {
        let (begun, mut exchanges) = (now(), 0);
        // Its name comes first.
        let mut word = [0; 5];
        let mut said = stream.read_exact(&mut word);
        while said.is_ok() && begun.elapsed() < length {
            std::thread::sleep(Duration::from_secs(1));
            said = stream.write_all(b"hello").and_then(|()| stream.read_exact(&mut word));
            exchanges += u64::from(said.is_ok());
        }
        (exchanges, said.err().map(|error| error.to_string()))
    })
}

/// Every leaf of the mesh rests on the new root at the end.
fn leafs(cluster: &Cluster) -> Figure {
    let bundle = cluster.on("first", &["ca", "bundle"]).expect_code(0).out;
    let file = cluster.file("bundle.pem", &bundle);
    let good = |node: &str| {
        let shown = cluster.json(node, &["identity", "list"]);
        let all = shown.as_array().cloned().unwrap_or_default();
        all.iter().filter(|one| !holds(cluster, node, one, &file.to_string_lossy())).count()
    };
    let bad: usize = cluster.running().into_iter().map(good).sum();
    Figure::at_most("rotation_leafs_of_old_root", bad as f64, "leafs", 0.0, "leafs that do not hold by the new bundle")
}

fn holds(cluster: &Cluster, node: &str, identity: &Value, bundle: &str) -> bool {
    let chain = cluster.file("chain.pem", identity["chain"].as_str().unwrap_or_default());
    let words = ["identity", "verify", &chain.to_string_lossy(), "--bundle", bundle, "--role", "client"];
    cluster.on(node, &words).code == 0
}
