//! Doors for gRPC and other requests of HTTP/2 with prior knowledge: trailers come through, both ways of ending a call.

use harness::{
    cluster::Service,
    grpc::{self, Client, Ended, MESSAGE},
};

use crate::gateway::{CART, at, gateway, mesh_with, opened, routes};

#[test]
fn calls_and_requests_of_http2_go_through_with_their_trailers() {
    let echo = Service {
        ports: vec![9000],
        protocol: "grpc".to_owned(),
        target: Some(grpc::application().expect("loopback has free ports")),
        ..Service::version("shop/echo", "v1")
    };
    let cluster = mesh_with([echo]);
    cluster.wait_endpoints("shop/echo", 1);
    let server = "{port: {number: 8080, name: grpc, protocol: GRPC}, hosts: ['*']}";
    let documents = [
        gateway("public", server),
        routes("echo", "public", "echo.example.com", "{route: [{destination: {host: echo, port: {number: 9000}}}]}"),
        routes("cart", "public", "cart.example.com", CART),
    ];
    cluster.push("shop", &documents.concat(), &["--wait", "all"]).expect_code(0);
    opened(&cluster, 8080);
    let mut client = Client::open(at(&cluster, 8080)).expect("it listens");
    let mut call = |host: &str, path: &str| client.call(host, path).expect("an answer");
    let ended = |status: &str| Ended { status: 200, body: MESSAGE.into(), grpc_status: Some(status.to_owned()) };
    assert_eq!(call("echo.example.com", "/a"), ended("0"));
    assert_eq!(call("echo.example.com", "/sad"), ended("14"), "the call failed, the request did not");
    let plain = call("cart.example.com", "/");
    assert_eq!((plain.status, &plain.body[..]), (200, &b"shop shop/cart"[..]), "an application of HTTP/1.1");
}
