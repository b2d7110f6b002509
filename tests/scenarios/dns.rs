//! Names of services: what they lead to, what becomes of them, what is told where a port cannot be had, and all other names.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use harness::{
    PATIENCE,
    bytes::{Echo, say},
    cluster::{Cluster, Plan, SERVICE_PORT, Service},
    dns::{self, Resolver},
    eventually, http,
};
use hickory_proto::{
    op::ResponseCode,
    rr::{RData, RecordType},
};
use serde_json::Value;

use crate::skein;

const BYTES: u16 = 9000;

/// `[dns]` for `shop/web`, with this resolver behind it.
fn names(range: &str, resolver: &Resolver) -> String {
    format!(
        "[dns]\nlisten = \"127.0.0.1:0\"\naddresses = \"{range}\"\nupstreams = [\"{}\"]\nas = \"shop/web\"\n",
        resolver.address
    )
}

fn web(range: &str, resolver: &Resolver) -> Plan {
    Plan { extra: names(range, resolver), ..Plan::with([Service::client("shop/web")]) }
}

/// The address of a service, once it has one.
fn address(cluster: &Cluster, name: &str) -> Ipv4Addr {
    let server = cluster.node("web").address("dns");
    eventually(&format!("{name} has an address"), || dns::address(server, name))
}

fn get(at: Ipv4Addr, host: &str) -> Result<http::Answer, String> {
    http::get(SocketAddr::new(at.into(), SERVICE_PORT), host, "/")
}

fn problems(cluster: &Cluster) -> Vec<String> {
    let status = cluster.json("web", &["status"]);
    let problems = status["problems"].as_array().cloned().unwrap_or_default();
    problems.iter().filter(|one| one["code"] == "names_not_open").map(|one| one["message"].to_string()).collect()
}

#[test]
fn names_lead_to_services_as_the_one_that_asks() {
    let (range, resolver) = (dns::range(), Resolver::start());
    let echo = Echo::start(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), "echo").expect("a free port");
    let bytes = Service {
        ports: vec![BYTES],
        protocol: "tcp".to_owned(),
        target: Some(echo.address),
        ..Service::version("data/echo", "v1")
    };
    let plans =
        [("web", web(&range, &resolver)), ("reviews", Plan::with([Service::version("shop/reviews", "v1"), bytes]))];
    let mut cluster = Cluster::start(skein(), &plans);
    cluster.wait_members(PATIENCE);
    cluster.wait_endpoints("shop/reviews", 1);
    let server = cluster.node("web").address("dns");
    let reviews = address(&cluster, "reviews.shop.svc.cluster.local.");
    for name in ["reviews.", "Reviews.shop.", "reviews.shop.svc.", "reviews.shop.mesh."] {
        assert_eq!(dns::address(server, name), Ok(reviews), "{name}");
    }
    assert!(dns::address(server, "echo.").is_ok_and(|other| other == Resolver::ADDRESS), "of another namespace");
    let by_tcp = dns::ask_by_tcp(server, "reviews.shop.mesh.", RecordType::A).expect("an answer by TCP");
    assert_eq!(by_tcp.answers.len(), 1);

    // The address says where to, whichever of its names the Host is. It is forwarded as it was sent.
    for host in ["reviews.shop.mesh", "reviews", &reviews.to_string()] {
        let answer = eventually("the address leads to the service", || get(reviews, host));
        assert_eq!(answer.status, 200, "{host}: {answer:?}");
        let arrived = cluster.node("reviews").backends[0].arrivals();
        assert!(arrived.iter().any(|one| one.header("host") == Some(host)), "{host}: {arrived:?}");
    }
    // A page whose own name leads here, and one that asks for the address, speak for nobody.
    let before = cluster.node("reviews").backends[0].arrivals().len();
    let refused = get(reviews, "evil.example:9080").expect("an answer");
    assert_eq!((refused.status, refused.text().contains("any_host")), (421, true), "{refused:?}");
    let from = [("sec-fetch-site", "cross-site")];
    let at = SocketAddr::new(reviews.into(), SERVICE_PORT);
    assert_eq!(http::get_with(at, &at.to_string(), "/", &from).expect("an answer").status, 421);
    assert_eq!(cluster.node("reviews").backends[0].arrivals().len(), before);
    let echo = address(&cluster, "echo.data.mesh.");
    let said = eventually("bytes, too", || say(SocketAddr::new(echo.into(), BYTES), "hello"));
    assert_eq!(said, "echo\nhello");
    let srv = dns::ask(server, "_tcp-9000._tcp.echo.data.mesh.", RecordType::SRV).expect("an answer");
    assert!(matches!(&srv.answers[0].data, RData::SRV(srv) if srv.port == BYTES), "{srv:?}");
    let none = dns::ask(server, "reviews.shop.mesh.", RecordType::AAAA).expect("an answer");
    assert_eq!(
        (none.metadata.response_code, none.answers.len(), none.authorities.len()),
        (ResponseCode::NoError, 0, 1)
    );
    let none = dns::ask(server, "nobody.shop.mesh.", RecordType::A).expect("an answer");
    assert_eq!((none.metadata.response_code, none.authorities.len()), (ResponseCode::NXDomain, 1));
    assert_eq!(dns::address(server, "www.example.com."), Ok(Resolver::ADDRESS));
    let reaches =
        ["www.example.com.", "reviews.shop.mesh.", "nobody.shop.mesh."].map(|name| resolver.asked_for(name) > 0);
    assert_eq!(reaches, [true, false, false], "only other names reach the resolver");

    // Whoever calls by a name is the service that [dns] says.
    let policy = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: reviews, namespace: shop}\nspec: {selector: {matchLabels: {app: reviews}}, action: DENY, rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/default]}}]}]}\n";
    cluster.push("web", policy, &["--wait", "all"]).expect_code(0);
    eventually("policy judges the caller", || match get(reviews, "reviews")?.status {
        403 => Ok(()),
        other => Err(format!("{other}")),
    });
    cluster
        .on("web", &["policy", "delete", "AuthorizationPolicy", "reviews", "-n", "shop", "--wait", "all"])
        .expect_code(0);

    // A service whose node is gone keeps its name: callers are told that nobody is there.
    cluster.terminate("reviews");
    eventually("nobody answers", || match get(reviews, "reviews")?.status {
        503 => Ok(()),
        other => Err(format!("{other}")),
    });
    assert_eq!(dns::address(server, "reviews.shop.mesh."), Ok(reviews));
    // Back again it has the same address, also for a node that knows nothing of before.
    cluster.run("reviews");
    assert_eq!(address(&cluster, "reviews.shop.mesh."), reviews);
    cluster.terminate("web");
    cluster.run("web");
    assert_eq!(address(&cluster, "reviews.shop.mesh."), reviews);
    eventually("it leads to the service again", || match get(reviews, "reviews")?.status {
        200 => Ok(()),
        other => Err(format!("{other}")),
    });
    let metrics = http::get(cluster.node("web").address("admin"), "localhost", "/metrics").expect("metrics").text();
    assert!(metrics.lines().any(|line| line.starts_with("skein_dns_queries_total{outcome=\"answered\"}")), "{metrics}");
}

#[test]
fn a_port_that_is_taken_is_told_and_the_others_are_not_harmed() {
    let (range, resolver) = (dns::range(), Resolver::start());
    let echo = Echo::start(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), "echo").expect("a free port");
    // Somebody has this port at every address.
    let other = TcpListener::bind("0.0.0.0:0").expect("a free port");
    let taken = other.local_addr().expect("it is bound").port();
    let bytes = Service {
        ports: vec![taken],
        protocol: "tcp".to_owned(),
        target: Some(echo.address),
        ..Service::version("shop/echo", "v1")
    };
    let plans =
        [("web", web(&range, &resolver)), ("reviews", Plan::with([Service::version("shop/reviews", "v1"), bytes]))];
    let cluster = Cluster::start(skein(), &plans);
    cluster.wait_members(PATIENCE);
    cluster.wait_endpoints("shop/reviews", 1);
    cluster.wait_endpoints("shop/echo", 1);
    let told = eventually("it is told", || problems(&cluster).pop().ok_or("nothing is".to_owned()));
    assert!(told.contains(&taken.to_string()) && told.contains("shop/echo") && !told.contains("reviews"), "{told}");
    let reviews = address(&cluster, "reviews.");
    eventually("the others are served", || get(reviews, "reviews").map(drop));
    drop(other);
    let at = SocketAddr::new(address(&cluster, "echo.").into(), taken);
    eventually("it is opened once it is free", || say(at, "hello"));
    eventually("nothing is amiss any more", || match problems(&cluster) {
        none if none.is_empty() => Ok(()),
        some => Err(format!("{some:?}")),
    });
}

#[test]
fn ports_that_other_programs_need_are_never_taken() {
    let (range, resolver) = (dns::range(), Resolver::start());
    let echo = Echo::start(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), "echo").expect("a free port");
    // Free until something of this test would take it.
    let kept = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port").port();
    let bytes = Service {
        ports: vec![22, kept],
        protocol: "tcp".to_owned(),
        target: Some(echo.address),
        ..Service::version("shop/echo", "v1")
    };
    let mut plan = web(&range, &resolver);
    plan.extra.push_str(&format!("exclude_ports = [{kept}]\nany_host = true\n"));
    let plans = [("web", plan), ("reviews", Plan::with([Service::version("shop/reviews", "v1"), bytes]))];
    let cluster = Cluster::start(skein(), &plans);
    cluster.wait_members(PATIENCE);
    cluster.wait_endpoints("shop/reviews", 1);
    cluster.wait_endpoints("shop/echo", 2);
    let told = eventually("it is told", || problems(&cluster).pop().ok_or("nothing is".to_owned()));
    assert!(told.contains("port 22 ") && told.contains("SSH") && told.contains("shop/echo"), "{told}");
    assert_eq!(problems(&cluster).len(), 1, "what the operator wants so is nothing to complain of");
    let reviews = address(&cluster, "reviews.");
    let answer = eventually("the others are served", || get(reviews, "anything.example"));
    assert_eq!(answer.status, 200, "{answer:?}");
    // Where the test may, it takes what SSH would.
    for port in [22, kept] {
        let taken = TcpListener::bind(("0.0.0.0", port)).err().map(|error| error.kind());
        assert_ne!(taken, Some(std::io::ErrorKind::AddrInUse), "port {port}");
    }
}

#[test]
fn a_resolver_that_asks_back_is_left_out() {
    use std::sync::{Arc, Mutex};
    let node: Arc<Mutex<Option<SocketAddr>>> = Arc::default();
    let known = Arc::clone(&node);
    let circle = Resolver::that_asks(move || *known.lock().expect("nobody panics with it"));
    let good = Resolver::start();
    let extra = format!(
        "[dns]\nlisten = \"127.0.0.1:0\"\naddresses = \"{}\"\nupstreams = [\"{}\", \"{}\"]\n",
        dns::range(),
        circle.address,
        good.address
    );
    let plan = Plan { extra, ..Plan::with([Service::client("shop/web")]) };
    let cluster = Cluster::start(skein(), &[("web", plan)]);
    let server = cluster.node("web").address("dns");
    *node.lock().expect("nobody panics with it") = Some(server);
    // The first probe may have been too early; a flood makes the node look again.
    let flood = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let is_told = |wanted: bool| {
        let packet = dns::query("www.example.com.", RecordType::A).to_vec().map_err(|error| error.to_string())?;
        for _ in 0..300 {
            let _ = flood.send_to(&packet, server);
        }
        let status: Value = cluster.json("web", &["status"]);
        let problems = status["problems"].as_array().cloned().unwrap_or_default();
        let told = problems.iter().any(|one| one["code"] == "dns_loop");
        if told == wanted { Ok(()) } else { Err(status["problems"].to_string()) }
    };
    eventually("the circle is told", || is_told(true));
    eventually("the other one is asked", || dns::address(server, "www.example.com."));
    *node.lock().expect("nobody panics with it") = None;
    eventually("its end is told, too", || is_told(false));
}

#[test]
fn the_machines_resolver_is_told_what_to_ask() {
    let cluster = Cluster::new(
        skein(),
        "web",
        &Plan {
            extra: "[dns]\nlisten = \"127.0.0.1:15053\"\n".to_owned(),
            ..Plan::with([Service::client("shop/web")])
        },
    );
    let text = cluster.on("web", &["dns", "setup", "--print"]).expect_code(0).out;
    assert!(text.contains("DNS=127.0.0.1:15053\nDomains=shop.svc.cluster.local svc.cluster.local ~mesh"), "{text}");
    let setup = cluster.json("web", &["dns", "setup", "--print"]);
    assert_eq!((&setup["listen"], setup["files"].as_array().map(Vec::len)), (&"127.0.0.1:15053".into(), Some(3)));
    let off = Cluster::new(skein(), "web", &Plan::with([Service::client("shop/web")]));
    let refused = off.on("web", &["dns", "setup", "--print", "-o", "json"]).expect_code(2);
    assert!(refused.error()["error"]["hint"].as_str().is_some_and(|hint| hint.contains("[dns]")), "{refused:?}");
}
