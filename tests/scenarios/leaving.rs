//! A node at the edge that is drained, or that stops: balancers hear of it, and no client is refused meanwhile.

use harness::{
    cluster::{Cluster, Plan, Service},
    eventually,
    frames::{self, Frames, Outcome, flag},
    http::{self, Answer, Connection},
};
use nix::sys::signal::Signal;

use crate::{
    gateway::{CART, at, gateway, ingress, opened, routes},
    skein,
};

const HOST: &str = "shop.example.com";

fn edge() -> Cluster {
    let plan = Plan { runtime: "farewell = \"60s\"".to_owned(), ..Plan::with([ingress()]) };
    let cluster =
        Cluster::start(skein(), &[("edge", plan), ("shop", Plan::with([Service::version("shop/cart", "v1")]))]);
    cluster.wait_members(harness::PATIENCE);
    cluster.wait_endpoints("shop/cart", 1);
    let server = "{port: {number: 8080, name: http, protocol: HTTP}, hosts: ['*.example.com']}";
    let documents = [gateway("public", server), routes("cart", "public", HOST, CART)];
    cluster.push("shop", &documents.concat(), &["--wait", "all"]).expect_code(0);
    opened(&cluster, 8080);
    cluster
}

/// Waits until a balancer that asks for readiness is told this.
fn told(cluster: &Cluster, status: u16) {
    let admin = cluster.node("edge").address("admin");
    eventually(&format!("/readyz answers {status}"), || {
        let answer = http::get(admin, &admin.to_string(), "/readyz")?;
        if answer.status == status { Ok(()) } else { Err(format!("{answer:?}")) }
    });
}

fn ends(answer: &Answer) -> bool {
    assert_eq!((answer.status, answer.text().as_str()), (200, "shop shop/cart"), "{answer:?}");
    answer.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
}

#[test]
fn a_drained_gateway_answers_and_sends_its_clients_elsewhere() {
    let cluster = edge();
    let door = at(&cluster, 8080);
    told(&cluster, 200);
    let mut kept = Connection::open(door).expect("it is open");
    assert!(!ends(&kept.request("GET", HOST, "/", &[], b"").expect("an answer")));
    cluster.on("edge", &["drain"]).expect_code(0);
    told(&cluster, 503);
    assert!(ends(&kept.request("GET", HOST, "/", &[], b"").expect("one that is open is answered")));
    assert!(ends(&http::get(door, HOST, "/").expect("a new one is answered")));
    let status = cluster.json("edge", &["status"]);
    assert!(status["problems"].to_string().contains("draining"), "{status}");
    cluster.on("edge", &["drain", "--undo"]).expect_code(0);
    told(&cluster, 200);
    assert!(!ends(&http::get(door, HOST, "/").expect("an answer")));
}

#[test]
fn a_drained_gateway_says_goaway_to_clients_of_http2() {
    let cluster = edge();
    let server = "{port: {number: 8081, name: grpc, protocol: GRPC}, hosts: ['*.example.com']}";
    let documents = [gateway("calls", server), routes("calls", "calls", HOST, CART)];
    cluster.push("shop", &documents.concat(), &["--wait", "all"]).expect_code(0);
    opened(&cluster, 8081);
    let open = || Frames::open(at(&cluster, 8081)).expect("it is open");
    let ask = |frames: &mut Frames, stream: u32| {
        assert!(frames.headers(stream, &frames::get(HOST, "/"), flag::END_STREAM), "it takes a request");
        frames.outcome(stream)
    };
    let mut kept = open();
    assert_eq!((ask(&mut kept, 1), ask(&mut kept, 3)), (Outcome::Status(200), Outcome::Status(200)));
    cluster.on("edge", &["drain"]).expect_code(0);
    told(&cluster, 503);
    // What was asked is answered, and the client is told in peace to ask elsewhere next; in which order is nobody's business.
    let goes = |frames: &mut Frames, stream: u32| {
        let outcomes = [ask(frames, stream), frames.outcome(stream)];
        assert!([Outcome::Status(200), Outcome::GoAway(0)].iter().all(|one| outcomes.contains(one)), "{outcomes:?}");
    };
    goes(&mut kept, 5);
    goes(&mut open(), 1);
    cluster.on("edge", &["drain", "--undo"]).expect_code(0);
    told(&cluster, 200);
    let mut back = open();
    assert_eq!((ask(&mut back, 1), ask(&mut back, 3)), (Outcome::Status(200), Outcome::Status(200)));
}

#[test]
fn a_gateway_that_stops_answers_until_its_farewell_is_over() {
    let mut cluster = edge();
    let door = at(&cluster, 8080);
    cluster.node("edge").running.as_ref().expect("it runs").signal(Signal::SIGTERM);
    told(&cluster, 503);
    assert!(ends(&http::get(door, HOST, "/").expect("it is answered")));
    // Nobody takes back that it leaves.
    let refused = cluster.on("edge", &["drain", "--undo"]).expect_code(5);
    assert!(refused.err.contains("is leaving"), "{}", refused.err);
    told(&cluster, 503);
    // The second signal ends it at once.
    assert!(cluster.terminate("edge").is_some_and(|status| status.success()), "{}", cluster.log("edge"));
}

#[test]
fn a_node_that_answers_for_long_when_it_stops_is_wiped_when_it_leaves() {
    let runtime = "farewell = \"6s\"\ndrain = \"1s\"".to_owned();
    let plan = Plan { runtime, ..Plan::with([Service::version("shop/cart", "v1")]) };
    let cluster = Cluster::start(skein(), &[("first", Plan::with([ingress()])), ("second", plan)]);
    cluster.wait_members(harness::PATIENCE);
    let left = cluster.json("second", &["leave", "--timeout", "4s"]);
    assert_eq!(left["left"], true, "{left}");
    let data = std::fs::read_dir(cluster.node("second").dir.join("data")).expect("it is there");
    assert_eq!(data.count(), 0);
}
