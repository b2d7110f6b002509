//! The small mesh in which the scenarios take place, and the clients in it and outside.

use std::{io::ErrorKind, net::SocketAddr};

use harness::{
    backend::Backend,
    bytes::{self, Echo},
    cluster::{Cluster, Node, Plan, Service},
    http,
};

use super::{
    applicability::is_outside,
    scenario::{Asked, Connection},
};
use crate::skein;

/// The callers' node, and the node with everything but what is elsewhere.
pub(super) const CALLER: &str = "caller";
pub(super) const SERVERS: &str = "servers";

/// What a scenario calls by these names: node and place among its applications.
pub(super) const APPLICATIONS: &[(&str, &str, usize)] = &[
    ("productpage", CALLER, 0),
    ("reviews", SERVERS, 0),
    ("ratings", SERVERS, 1),
    ("b", SERVERS, 2),
    ("c", SERVERS, 3),
    ("d", SERVERS, 4),
    ("v1", SERVERS, 5),
    ("v2", SERVERS, 6),
    ("httpbin.foo", SERVERS, 7),
    ("httpbin.bar", SERVERS, 8),
    ("region1.zone1", SERVERS, 9),
    ("region1.zone2", "zone2", 0),
    ("region2.zone3", "zone3", 0),
    ("region3.zone4", "zone4", 0),
];

/// Who calls, by the scenarios' names: node and service. Who is not named is `a`.
const CALLERS: &[(&str, &str, &str)] = &[
    ("a", CALLER, "default/a"),
    ("productpage", CALLER, "default/productpage"),
    ("reviews", SERVERS, "default/reviews"),
    ("sleep.foo", CALLER, "foo/sleep"),
    ("sleep.bar", CALLER, "bar/sleep"),
];

/// The ports of `tcp-echo`. Istio's has no declaration of the last one; a port that nobody declares cannot be called here.
const ECHO_PORTS: [u16; 3] = [9000, 9001, 9002];

/// The mesh, and its applications that speak no HTTP.
pub(super) fn start() -> (Cluster, Vec<Echo>) {
    let on = |ports: &[u16], service: Service| Service { ports: ports.to_vec(), ..service };
    let instance = |name: &str| Service { instance: name.to_owned(), ..Service::version("default/httpbin", name) };
    let open = |name: &str| Service { plaintext: true, ..Service::version(name, "v1") };
    let hello = || on(&[5000], Service::version("sample/helloworld", "v1"));
    let bookinfo = |name: &str, version: &str| Service {
        account: format!("bookinfo-{name}"),
        ..Service::version(&format!("default/{name}"), version)
    };
    let servers = [
        bookinfo("reviews", "v2"),
        bookinfo("ratings", "v1"),
        on(&[80, 85], Service::version("default/b", "v1")),
        on(&[80], Service::version("default/c", "v1")),
        on(&[80], Service::version("default/d", "v1")),
        on(&[8000], instance("v1")),
        on(&[8000], instance("v2")),
        on(&[8000], open("foo/httpbin")),
        on(&[8000], open("bar/httpbin")),
        hello(),
        Service {
            protocol: "tcp".to_owned(),
            own_ports: true,
            ..on(&ECHO_PORTS, Service::version("foo/tcp-echo", "v1"))
        },
    ];
    let callers = [
        Service::client("default/a"),
        bookinfo("productpage", "v1"),
        Service::client("foo/sleep"),
        Service::client("bar/sleep"),
    ];
    // A caller in Istio reaches the ports of `b` by their number; here each has a local port of its own.
    let upstream = |service: &str, port: u16, caller: &str| {
        format!("\n[[upstream]]\nlisten = \"127.0.0.1:0\"\nservice = \"{service}\"\nport = {port}\nas = \"{caller}\"\n")
    };
    let to_b = [80, 85].map(|port| upstream("default/b", port, "default/a")).concat();
    let to_echo = ECHO_PORTS.map(|port| upstream("foo/tcp-echo", port, "foo/sleep")).concat();
    let outbound = |service: &str| format!("\n[[outbound]]\nhttp = \"127.0.0.1:0\"\nas = \"{service}\"\n");
    let further = callers[1..].iter().map(|service| outbound(&service.name)).collect::<String>();
    let at = |locality: &str, plan: Plan| Plan { locality: locality.to_owned(), ..plan };
    let caller = Plan { extra: to_b + &to_echo + &further, ..Plan::with(callers) };
    let plans = [
        (CALLER, at("region1/zone1", caller)),
        (SERVERS, at("region1/zone1", Plan::with(servers))),
        ("zone2", at("region1/zone2", Plan::with([hello()]))),
        ("zone3", at("region2/zone3", Plan::with([hello()]))),
        ("zone4", at("region3/zone4", Plan::with([hello()]))),
    ];
    let cluster = Cluster::start(skein(), &plans);
    let echo = |port| Echo::start(SocketAddr::new(cluster.node(SERVERS).ip, port), "hello").expect("the port is free");
    let echoes = ECHO_PORTS.map(echo);
    cluster.wait_members(harness::PATIENCE);
    cluster.wait_endpoints("sample/helloworld", 4);
    // One row for each port.
    cluster.wait_endpoints("default/b", 2);
    cluster.wait_endpoints("default/httpbin", 2);
    cluster.wait_endpoints("foo/tcp-echo", ECHO_PORTS.len());
    for service in ["default/productpage", "default/reviews", "foo/httpbin", "bar/httpbin"] {
        cluster.wait_endpoints(service, 1);
    }
    // Reviews calls ratings through its own node's proxy port.
    let servers = cluster.node(SERVERS);
    servers.backends[0].call_on(servers.outbound(), "ratings");
    (cluster, echoes.into())
}

/// An application, unless it was taken down.
pub(super) fn application<'a>(cluster: &'a Cluster, name: &str) -> Option<&'a Backend> {
    let (_, node, place) = place(name);
    cluster.node(node).backends.get(*place)
}

fn place(application: &str) -> &'static (&'static str, &'static str, usize) {
    let found = APPLICATIONS.iter().find(|(known, _, _)| *known == application);
    found.unwrap_or_else(|| panic!("the mesh has no {application}"))
}

/// Sends one request as the scenario's client would.
pub(super) fn ask(cluster: &Cluster, asked: &Asked) -> Result<http::Answer, String> {
    let host = asked.host.clone().or_else(|| asked.to.clone()).unwrap_or_else(|| "b".to_owned());
    let host = if host == "helloworld" { "helloworld.sample".to_owned() } else { host };
    let is_b = host == "b" || host.starts_with("b:");
    let from = asked.from.as_deref().unwrap_or("a");
    let via = if is_outside(from) {
        let (name, namespace) = asked.to.as_deref().and_then(|to| to.split_once('.')).expect("NAME.NAMESPACE");
        cluster.node(SERVERS).plaintext(&format!("{namespace}/{name}"), 8000)
    } else if is_b {
        cluster.node(CALLER).upstream("default/b", asked.port.unwrap_or(80))
    } else {
        outbound(cluster, from)
    };
    let headers: Vec<(&str, &str)> =
        asked.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let send = |host: &str, path: &str| {
        let mut connection = match http::Connection::open(via) {
            // Refused by what policy says, before this end knew that it was connected.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return Err(error.to_string()),
            connected => connected.expect("it listens"),
        };
        connection.request(&asked.method, host, path, &headers, b"")
    };
    let mut answer = send(&host, &asked.path)?;
    while asked.follow_redirects && (300..400).contains(&answer.status) {
        let location = answer.header("location").ok_or("no Location")?.to_owned();
        let rest = location.strip_prefix("http://").ok_or_else(|| location.clone())?;
        let (host, path) = rest.split_once('/').ok_or_else(|| location.clone())?;
        answer = send(host, &format!("/{path}"))?;
    }
    Ok(answer)
}

/// Connects as the scenario's client would, and sees what becomes of it.
pub(super) fn check_connection(cluster: &Cluster, name: &str, asked: &Asked, expected: Connection) {
    let port = asked.port.expect("a port");
    let said = bytes::say(cluster.node(CALLER).upstream("foo/tcp-echo", port), "mesh");
    match expected {
        Connection::Ok => assert_eq!(said.as_deref(), Ok("hello\nmesh"), "{name}: {port}"),
        Connection::Reset => assert!(said.is_err(), "{name}: {port}: {said:?}"),
    }
}

fn outbound(cluster: &Cluster, from: &str) -> SocketAddr {
    let found = CALLERS.iter().find(|(known, _, _)| *known == from);
    let (_, node, service) = found.unwrap_or_else(|| panic!("the mesh has no caller {from}"));
    listener(cluster.node(node), "outbound", |row| row["as"] == *service)
}

fn listener(node: &Node, kind: &str, is: impl Fn(&serde_json::Value) -> bool) -> SocketAddr {
    let ready = &node.running.as_ref().expect("it runs").ready;
    let all = ready[kind].as_array().cloned().unwrap_or_default();
    let found = all.iter().find(|row| is(row)).and_then(|row| row["listen"].as_str()?.parse().ok());
    found.unwrap_or_else(|| panic!("no such {kind} in {ready}"))
}

/// `region1.zone1 instance down`, `region1.zone2 also down`: the application goes, and everybody has heard of it.
pub(super) fn take_down(cluster: &mut Cluster, what: &str) {
    let name = what.split(' ').next().expect("a word");
    let (_, node, place) = place(name);
    let before = cluster.healthy(CALLER, "sample/helloworld");
    let backends = &mut cluster.nodes.get_mut(*node).expect("it exists").backends;
    // It is the last of its node, so that the places of the others stay.
    assert_eq!(backends.len(), place + 1, "{what}");
    drop(backends.pop());
    cluster.wait_endpoints("sample/helloworld", before - 1);
}
