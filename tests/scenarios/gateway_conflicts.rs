//! Gateways that want the same: one gets it, the others are told, and the one that has it goes on.

use harness::{
    cluster::{Cluster, Plan, Service},
    eventually, http,
};

use crate::{
    gateway::{CART, at, gateway, ingress, mesh, opened, routes, troubles},
    gateway_tls::{Authority, Client, put},
    skein,
};

/// Waits until this is told of Gateways that cannot be.
fn told(cluster: &Cluster, words: &[&str]) {
    eventually("the conflict is told", || {
        let told = troubles(cluster, "gateway_conflict");
        let is_told = |message: &String| words.iter().all(|word| message.contains(word));
        if told.iter().any(is_told) { Ok(()) } else { Err(format!("{told:?}")) }
    });
}

#[test]
fn a_host_that_is_claimed_twice_and_a_port_that_speaks_something_else_are_told() {
    let (cluster, authority) = (mesh(), Authority::new());
    put(&cluster, "shop", Some(&authority.issue("shop.example.com", None)), None);
    let server = |protocol: &str, more: &str| {
        format!("{{port: {{number: 8443, name: it, protocol: {protocol}}}, hosts: [shop.example.com]{more}}}")
    };
    let tls = ", tls: {mode: SIMPLE, credentialName: shop}";
    let push = |documents: &str| cluster.push("shop", documents, &["--wait", "all"]).expect_code(0);
    push(&(gateway("first", &server("HTTPS", tls)) + &routes("cart", "first", "shop.example.com", CART)));
    assert_eq!(opened(&cluster, 8443), "https");
    push(&gateway("second", &server("HTTPS", tls)));
    told(
        &cluster,
        &["servers[0] of Gateway shop/second", "`shop.example.com` is served at port 8443 by Gateway shop/first"],
    );
    push(&gateway("third", &server("HTTP", "")));
    told(&cluster, &["servers[0] of Gateway shop/third", "port 8443 speaks TLS by Gateway shop/first"]);
    let client = Client::new(at(&cluster, 8443), &authority);
    let got = eventually("the certificate is taken", || client.get("shop.example.com", "shop.example.com", "/"));
    assert_eq!(got.status, 200, "the first goes on");
}

#[test]
fn a_port_is_one_services() {
    let other = Service {
        labels: vec![("istio".to_owned(), "othergateway".to_owned())],
        ..Service::client("istio-system/other")
    };
    let plans = [("edge", Plan::with([ingress(), other])), ("shop", Plan::with([Service::version("shop/cart", "v1")]))];
    let cluster = Cluster::start(skein(), &plans);
    cluster.wait_members(harness::PATIENCE);
    cluster.wait_endpoints("shop/cart", 1);
    let one = gateway("one", "{port: {number: 8080, name: http, protocol: HTTP}, hosts: ['*']}");
    let two = one.replace("name: one", "name: two").replace("ingressgateway", "othergateway");
    let documents = [one, two, routes("cart", "one", "'*'", CART)].concat();
    cluster.push("shop", &documents, &["--wait", "all"]).expect_code(0);
    assert_eq!(opened(&cluster, 8080), "http");
    told(
        &cluster,
        &["Gateway shop/two opens", ":8080 for istio-system/ingress already, and not for istio-system/other"],
    );
    assert_eq!(http::get(at(&cluster, 8080), "a.org", "/").expect("an answer").status, 200);
}

#[test]
fn each_port_of_documents_has_one_of_its_own() {
    let edge = Plan { gateway: "ports = { 80 = 8080, 81 = 8080 }".to_owned(), ..Plan::with([ingress()]) };
    let plans = [("edge", edge), ("shop", Plan::with([Service::version("shop/cart", "v1")]))];
    let cluster = Cluster::start(skein(), &plans);
    cluster.wait_members(harness::PATIENCE);
    cluster.wait_endpoints("shop/cart", 1);
    let server = |port: u16| {
        format!("{{port: {{number: {port}, name: http-{port}, protocol: HTTP}}, hosts: [at-{port}.example.com]}}")
    };
    let documents =
        [gateway("both", &format!("{}, {}", server(80), server(81))), routes("cart", "both", "'*.example.com'", CART)];
    cluster.push("shop", &documents.concat(), &["--wait", "all"]).expect_code(0);
    assert_eq!(opened(&cluster, 80), "http");
    told(&cluster, &["Gateway shop/both: port 81 is not opened, for", ":8080 is port 80 already", "[gateway] ports"]);
    let status = |host: &str| http::get(at(&cluster, 8080), host, "/").expect("an answer").status;
    assert_eq!((status("at-80.example.com"), status("at-81.example.com")), (200, 404));
}
