//! Istio's scenarios of gateways, from outside: a mesh with a door, and clients before it.

use harness::{
    cluster::{Cluster, Plan, Service},
    eventually, http,
    simulation::{self, Asked as Simulated, Case},
};
use serde::Deserialize;

use super::{files, text};
use crate::{
    gateway::{at, ingress, opened, troubles},
    gateway_bytes::tls_application,
    gateway_tls::{Authority, Client, put},
    skein,
};

/// Scenarios that run here.
pub(super) const AT_GATEWAYS: &[&str] =
    &["gw-h1", "gw-https-redirect-vs443", "ingress-passthrough", "ingress-tls-mutual", "ingress-tls-simple"];

#[derive(Debug, Deserialize)]
struct Scenario {
    config: String,
    calls: Vec<Call>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Call {
    request: Asked,
    expect: Expected,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    via: String,
    host: Option<String>,
    sni: Option<String>,
    path: String,
    client_cert: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Expected {
    status: Option<u16>,
    /// How a handshake fails.
    tls: Option<String>,
    /// Whose certificate is shown, in words: of the application.
    tls_server_certificate: Option<String>,
    upstream_protocol: Option<String>,
}

/// Where the ports that the documents name are opened.
const PORTS: [(u16, u16); 3] = [(80, 8080), (81, 8081), (443, 8443)];

/// Calls to one port to which a Service leads two of a Gateway's: a node has one of its own for each, so they are asked at that of the server
/// whose host they name, and nothing of that host is at the other one.
const SHARED: [(&str, &str, u16); 2] = [
    ("gateway-gatewayservices-04", "port 8080 from 81", 8081),
    ("gateway-gatewayservices-05", "port 8080 from 81", 8081),
];

/// Applications that speak TLS themselves, and the name in their certificate.
const BY_TLS: [(&str, &str); 3] = [
    ("default/my-nginx", "nginx.example.com"),
    ("default/mysite", "mysite.example.com"),
    ("istio-system/example", "example.com"),
];
const ANSWER: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

fn start(authority: &Authority) -> Cluster {
    let by_tls = BY_TLS.map(|(name, own)| Service {
        ports: vec![443],
        protocol: "tls".to_owned(),
        target: Some(tls_application(&authority.issue(own, None), Some(ANSWER))),
        ..Service::version(name, "v1")
    });
    let on = |name: &str, ports: &[u16]| Service { ports: ports.to_vec(), ..Service::version(name, "v1") };
    let servers = [
        on("default/b", &[80, 81, 443, 8081]),
        on("default/httpbin", &[8000]),
        on("default/a", &[80]),
        on("default/echo-foobar", &[80]),
        on("default/echo-foo", &[80]),
        on("default/echo-bar", &[80]),
    ];
    let ports: Vec<String> = PORTS.iter().map(|(named, own)| format!("{named} = {own}")).collect();
    let edge = Plan { gateway: format!("ports = {{ {} }}", ports.join(", ")), ..Plan::with([ingress()]) };
    let cluster =
        Cluster::start(skein(), &[("edge", edge), ("servers", Plan::with(servers.into_iter().chain(by_tls)))]);
    cluster.wait_members(harness::PATIENCE);
    cluster.wait_endpoints("default/httpbin", 1);
    cluster.wait_endpoints("default/echo-bar", 1);
    cluster.wait_endpoints("default/b", 4);
    cluster.wait_endpoints("default/a", 1);
    BY_TLS.iter().for_each(|(name, _)| cluster.wait_endpoints(name, 1));
    cluster.node("servers").backends[1].answer_path_with("/status/418", 418);
    cluster
}

fn own(port: u16) -> u16 {
    PORTS.iter().find(|(named, _)| *named == port).map_or(port, |(_, own)| *own)
}

/// Pushes documents at a node; gives them for [`take_back`].
pub(super) fn push(cluster: &Cluster, node: &str, name: &str, config: &str) -> serde_json::Value {
    let pushed = cluster.push(node, config, &["--wait", "all"]);
    assert_eq!(pushed.code, 0, "{name}: {pushed:?}");
    pushed.json()
}

pub(super) fn take_back(cluster: &Cluster, node: &str, pushed: &serde_json::Value) {
    for document in pushed["documents"].as_array().into_iter().flatten() {
        let field = |field: &str| document[field].as_str().unwrap_or_default();
        let words = ["policy", "delete", field("kind"), field("name"), "-n", field("namespace"), "--wait", "all"];
        cluster.on(node, &words).expect_code(0);
    }
}

#[test]
fn what_istio_promises_at_gateways_holds() {
    let (Some(scenarios), Some(simulations)) = (files("scenarios"), files("simulation")) else { return };
    let authority = Authority::new();
    let cluster = start(&authority);
    put(&cluster, "httpbin-credential", Some(&authority.issue("httpbin.example.com", None)), Some(&authority.pem()));
    for name in AT_GATEWAYS {
        let scenario: Scenario = serde_saphyr::from_str(&text(&scenarios[*name])).expect(name);
        let pushed = push(&cluster, "servers", name, &scenario.config);
        let port = if scenario.config.contains("protocol: HTTPS") { 443 } else { 80 };
        opened(&cluster, port);
        scenario.calls.iter().for_each(|call| check(&cluster, &authority, name, call));
        take_back(&cluster, "servers", &pushed);
    }
    let (mut ran, mut left_out) = (0, 0);
    for name in simulation::AT_GATEWAYS {
        let case: Case = serde_saphyr::from_str(&text(&simulations[*name])).expect(name);
        let pushed = push(&cluster, "servers", name, &case.config);
        for asked in &case.calls {
            match simulation::left_out(name, &asked.name) {
                Some(why) => {
                    println!("{name}: `{}` is left out: {why}", asked.name);
                    left_out += 1;
                }
                None => {
                    simulate(&cluster, &authority, name, asked);
                    ran += 1;
                }
            }
        }
        if case.calls.is_empty() {
            stand_together(&cluster, &authority, name);
            ran += 1;
        }
        take_back(&cluster, "servers", &pushed);
    }
    println!("{} scenarios of gateways ran", AT_GATEWAYS.len());
    println!("{ran} calls of {} simulations of gateways ran, {left_out} were left out", simulation::AT_GATEWAYS.len());
}

/// Waits until a port of the node is open.
fn is_open(cluster: &Cluster, own: u16) {
    let listen = at(cluster, own).to_string();
    eventually(&format!("{listen} is open"), || {
        let status = cluster.json("edge", &["status"]);
        let mut open = status["gateways"].as_array().into_iter().flatten();
        if open.any(|door| door["listen"] == listen.as_str()) { Ok(()) } else { Err(status["gateways"].to_string()) }
    });
}

/// Istio's test of `gatewayservices-07` asks for nothing but that servers of overlapping names stand together.
fn stand_together(cluster: &Cluster, authority: &Authority, name: &str) {
    let (_, asked) = BY_TLS[2];
    is_open(cluster, own(443));
    let got = Client::new(at(cluster, own(443)), authority).get(asked, asked, "/").expect("an answer");
    assert_eq!((got.status, got.names()), (200, vec![asked]), "{name}");
    assert_eq!(troubles(cluster, "gateway_conflict"), [""; 0], "{name}");
}

fn check(cluster: &Cluster, authority: &Authority, name: &str, Call { request, expect }: &Call) {
    cluster.node("servers").backends.iter().for_each(harness::backend::Backend::forget);
    if request.via == "ingress" {
        let host = request.host.as_deref().expect("a host");
        let answer = http::get(at(cluster, own(80)), host, &request.path).expect("an answer");
        assert_eq!(Some(answer.status), expect.status, "{name}: {request:?}: {answer:?}");
    } else {
        let sni = request.sni.as_deref().expect("a server name");
        let pair = request.client_cert.as_ref().map(|_| authority.issue("client", None));
        let mut client = Client::new(at(cluster, own(443)), authority);
        client.shows = pair.as_ref();
        let ask = || {
            let got = client.get(sni, sni, &request.path)?;
            let of_application = got.names == [sni] && BY_TLS.iter().any(|(_, name)| *name == sni);
            assert_eq!(of_application, expect.tls_server_certificate.is_some(), "{name}: {got:?}");
            Ok::<u16, String>(got.status)
        };
        match (expect.status, &expect.tls) {
            (Some(status), None) => eventually(&format!("{name}: {request:?}"), || match ask() {
                Ok(found) if found == status => Ok(()),
                other => Err(format!("{other:?}")),
            }),
            (None, Some(_)) => drop(ask().expect_err("the handshake fails")),
            other => panic!("{name}: {other:?}"),
        }
    }
    if let Some(protocol) = &expect.upstream_protocol {
        let arrived = cluster.node("servers").backends[0].arrivals().pop().expect("it arrived");
        assert!(arrived.line().ends_with(protocol), "{name}: {arrived:?}");
    }
}

fn simulate(cluster: &Cluster, authority: &Authority, name: &str, Simulated { name: asked, call, expect }: &Simulated) {
    let shared = SHARED.iter().find(|(of, called, _)| (of, called) == (&name, &asked.as_str()));
    let port = shared.map_or(own(call.port), |(_, _, own)| *own);
    let get = |port| http::get(at(cluster, port), &call.host_header, call.path());
    // One that was just closed may still be closing.
    if expect.error.as_deref() == Some("ErrNoListener") {
        return eventually("nobody listens", || match get(port) {
            Ok(answer) => Err(format!("{answer:?}")),
            Err(_) => Ok(()),
        });
    }
    is_open(cluster, port);
    if let Some(host) = call.server_name() {
        let got = Client::new(at(cluster, port), authority).get(host, host, call.path()).expect("an answer");
        assert!(expect.cluster_matched.is_some(), "{name}: {expect:?}");
        return assert_eq!((got.status, got.names()), (200, vec![host]), "{name}: {call:?}");
    }
    if shared.is_some() {
        assert_eq!(get(own(call.port)).expect("an answer").status, 404, "{name}: {call:?}: it is at a port of its own");
    }
    let answer = get(port).expect("an answer");
    match (&expect.error, &expect.cluster_matched) {
        (Some(error), _) => {
            let status = if error == "ErrTLSRedirect" { 301 } else { 404 };
            assert_eq!(answer.status, status, "{name}: {call:?}: {error}");
        }
        (None, Some(matched)) => {
            let host = matched.rsplit('|').next().expect("a host");
            let service = host.split('.').next().expect("a name");
            assert_eq!((answer.status, answer.text()), (200, format!("servers default/{service}")), "{name}: {call:?}");
        }
        (None, None) => panic!("{name}: {expect:?}"),
    }
}
