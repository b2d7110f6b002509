//! Istio's scenarios of gateways, from outside: a mesh with a door, and clients before it.

use harness::{
    cluster::{Cluster, Plan, Service},
    eventually, http, simulation,
};
use serde::Deserialize;

use super::{files, text};
use crate::{
    gateway::{at, ingress, opened},
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

/// A call of Istio's simulator.
#[derive(Debug, Deserialize)]
struct Simulated {
    config: String,
    calls: Vec<SimulatedCall>,
}

#[derive(Debug, Deserialize)]
struct SimulatedCall {
    call: Connection,
    expect: Matched,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Connection {
    port: u16,
    host_header: String,
    #[serde(default)]
    path: String,
    #[serde(default, rename = "tLS")]
    tls: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Matched {
    cluster_matched: Option<String>,
    error: Option<String>,
}

/// Where the ports that the documents name are opened.
const PORTS: [(u16, u16); 2] = [(80, 8080), (443, 8443)];

/// Applications that speak TLS themselves, and the name in their certificate.
const BY_TLS: [(&str, &str); 2] = [("default/my-nginx", "nginx.example.com"), ("default/mysite", "mysite.example.com")];
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
        on("default/b", &[80, 81, 443]),
        on("default/httpbin", &[8000]),
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
    cluster.wait_endpoints("default/b", 3);
    cluster.node("servers").backends[1].answer_path_with("/status/418", 418);
    cluster
}

fn own(port: u16) -> u16 {
    PORTS.iter().find(|(named, _)| *named == port).map_or(port, |(_, own)| *own)
}

/// Pushes documents; gives them for [`take_back`].
fn push(cluster: &Cluster, name: &str, config: &str) -> serde_json::Value {
    let pushed = cluster.push("servers", config, &["--wait", "all"]);
    assert_eq!(pushed.code, 0, "{name}: {pushed:?}");
    pushed.json()
}

fn take_back(cluster: &Cluster, pushed: &serde_json::Value) {
    for document in pushed["documents"].as_array().into_iter().flatten() {
        let field = |field: &str| document[field].as_str().unwrap_or_default();
        let words = ["policy", "delete", field("kind"), field("name"), "-n", field("namespace"), "--wait", "all"];
        cluster.on("servers", &words).expect_code(0);
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
        let pushed = push(&cluster, name, &scenario.config);
        let port = if scenario.config.contains("protocol: HTTPS") { 443 } else { 80 };
        opened(&cluster, port);
        scenario.calls.iter().for_each(|call| check(&cluster, &authority, name, call));
        take_back(&cluster, &pushed);
    }
    for name in simulation::HERE {
        let simulated: Simulated = serde_saphyr::from_str(&text(&simulations[*name])).expect(name);
        let pushed = push(&cluster, name, &simulated.config);
        let port = if simulated.config.contains("PASSTHROUGH") { 443 } else { 80 };
        opened(&cluster, port);
        simulated.calls.iter().for_each(|call| simulate(&cluster, &authority, name, call));
        take_back(&cluster, &pushed);
    }
    println!("{} scenarios and {} simulations of gateways ran", AT_GATEWAYS.len(), simulation::HERE.len());
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

fn simulate(cluster: &Cluster, authority: &Authority, name: &str, SimulatedCall { call, expect }: &SimulatedCall) {
    let path = if call.path.is_empty() { "/" } else { &call.path };
    if call.tls == "TLS" {
        let host = call.host_header.as_str();
        let got = Client::new(at(cluster, own(call.port)), authority).get(host, host, path).expect("an answer");
        assert!(expect.cluster_matched.is_some(), "{name}: {expect:?}");
        return assert_eq!((got.status, got.names), (200, vec![host.to_owned()]), "{name}: {call:?}");
    }
    let answer = http::get(at(cluster, own(call.port)), &call.host_header, path);
    match (&expect.error, &expect.cluster_matched) {
        // One that was just closed may still be closing.
        (Some(error), _) if error == "ErrNoListener" => {
            eventually("nobody listens", || match http::get(at(cluster, own(call.port)), &call.host_header, path) {
                Ok(answer) => Err(format!("{answer:?}")),
                Err(_) => Ok(()),
            });
        }
        (Some(error), _) => {
            let status = if error == "ErrTLSRedirect" { 301 } else { 404 };
            assert_eq!(answer.expect("an answer").status, status, "{name}: {call:?}: {error}");
        }
        (None, Some(matched)) => {
            let answer = answer.expect("an answer");
            let host = matched.rsplit('|').next().expect("a host");
            let service = host.split('.').next().expect("a name");
            assert_eq!((answer.status, answer.text()), (200, format!("servers default/{service}")), "{name}: {call:?}");
        }
        (None, None) => panic!("{name}: {expect:?}"),
    }
}
