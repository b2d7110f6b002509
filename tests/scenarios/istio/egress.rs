//! Istio's scenario of an egress gateway: requests for a host outside leave the mesh at one node, which a server outside sees.

use std::net::{Ipv4Addr, SocketAddr};

use harness::{
    backend::Backend,
    cluster::{Cluster, Plan, Service},
    eventually, http,
};
use serde::Deserialize;

use super::{files, text};
use crate::skein;

/// Scenarios that run here.
pub(super) const THROUGH_EGRESS: &[&str] = &["egress-gateway-http"];

/// Where the gateway's port 80 is opened.
const DOOR: u16 = 8080;

#[derive(Debug, Deserialize)]
struct Scenario {
    config: String,
    calls: Vec<Call>,
}

#[derive(Debug, Deserialize)]
struct Call {
    request: Asked,
    expect: Expected,
}

#[derive(Debug, Deserialize)]
struct Asked {
    host: String,
    path: String,
}

#[derive(Debug, Deserialize)]
struct Expected {
    status: u16,
    path_taken: Vec<String>,
}

#[test]
fn what_istio_promises_of_egress_gateways_holds() {
    let Some(files) = files("scenarios") else { return };
    // There is no network in a test: what the name would lead to stands in its place.
    let outside = Backend::start(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), "outside").expect("a free port");
    outside.answer_with(301);
    let ports = format!("{{http-port: {}, https: 443}}", outside.address.port());
    let stands_in = format!("resolution: STATIC\n    endpoints: [{{address: 127.0.0.1, ports: {ports}}}]");
    let gateway = Service {
        labels: vec![("istio".to_owned(), "egressgateway".to_owned())],
        ports: vec![80],
        target_port: Some(DOOR),
        ..Service::version("istio-system/istio-egressgateway", "v1")
    };
    let egress = Plan { gateway: format!("ports = {{ 80 = {DOOR} }}"), ..Plan::with([gateway]) };
    let cluster =
        Cluster::start(skein(), &[("caller", Plan::with([Service::client("default/a")])), ("egress", egress)]);
    cluster.wait_members(harness::PATIENCE);
    for name in THROUGH_EGRESS {
        let text = text(&files[*name]).replace("resolution: DNS", &stands_in);
        let scenario: Scenario = serde_saphyr::from_str(&text).expect(name);
        cluster.push("caller", &scenario.config, &["--wait", "all"]).expect_code(0);
        for Call { request, expect } in &scenario.calls {
            let ask = || http::get(cluster.node("caller").outbound(), &request.host, &request.path);
            let answer = eventually(&format!("{name}: {request:?}"), || match ask() {
                Ok(answer) if answer.status == expect.status => Ok(answer),
                other => Err(format!("{other:?}")),
            });
            assert_eq!(expect.path_taken.len(), 3, "{name}: {answer:?}");
            let arrived = outside.arrivals().pop().expect("it left the mesh");
            assert_eq!(arrived.header("host"), Some(request.host.as_str()), "{name}");
            assert_eq!(arrived.line(), format!("GET {} HTTP/1.1", request.path), "{name}");
        }
        let explained = cluster.json("caller", &["explain", "http://edition.cnn.com/politics"]);
        assert_eq!(
            explained["cluster"], "outbound|80|cnn|istio-egressgateway.istio-system.svc.cluster.local",
            "{name}"
        );
    }
    println!("{} scenarios of egress gateways ran", THROUGH_EGRESS.len());
}
