//! What came in at a Gateway's port, after the documents want the port no more.

use super::{
    backend::{Backend, ok},
    client::{Client, eventually},
    http2::{connect, full, runtime},
    world::{Entry, World},
};
use crate::tasks::Tasks;
use http::Request;
use http_body_util::BodyExt;
use std::time::Duration;

fn at(port: u16) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{name: public}}\nspec: {{selector: {{app: web}}, servers: [{{port: {{number: {port}, name: http, protocol: HTTP}}, hosts: ['*']}}]}}\n"
    )
}

const ROUTES: &str = "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: r}\nspec: {hosts: ['*'], gateways: [public], http: [{route: [{destination: {host: reviews}}]}]}\n";

#[test]
fn a_gateway_by_its_labels_alone_is_not_believed() {
    for (namespace, believed) in [("default", true), ("shop", false)] {
        let backend = Backend::named("v1");
        let mut world = World::new(2, vec![Entry::new(1, "reviews", "v1", &backend)]);
        let documents =
            (at(8080) + ROUTES).replace("{name: public}", &format!("{{name: public, namespace: {namespace}}}"));
        world.push(&documents.replace("gateways: [public]", &format!("gateways: [{namespace}/public]")));
        world.open_gateways(0, &[8080], Duration::from_secs(1));
        eventually("the port is open", || world.gateway(0, 8080).is_some());
        let mut client = Client::connect(world.gateway(0, 8080).unwrap());
        assert_eq!(
            client.ask("GET / HTTP/1.1\r\nHost: a.org\r\nX-Forwarded-For: 10.9.9.9\r\n\r\n").unwrap().status,
            200
        );
        let arrived = backend.last();
        assert_eq!(arrived.header("x-envoy-external-address").is_some(), believed, "{namespace}: {}", arrived.head);
        assert_eq!(arrived.header("x-forwarded-for").is_some_and(|told| told.contains("10.9.9.9")), believed);
    }
}

#[test]
fn what_came_in_at_a_port_that_closes_ends_when_it_has_had_its_time() {
    let (runtime, tasks) = (runtime(), Tasks::new());
    for (drain, ends) in [(Duration::from_secs(3_600), false), (Duration::from_millis(100), true)] {
        let backend = Backend::scripted(|arrived| match arrived.line() {
            "GET /stuck HTTP/1.1" => b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf".to_vec(),
            "GET /chat HTTP/1.1" => {
                b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n".to_vec()
            }
            _ => ok("v1"),
        });
        let mut world = World::new(2, vec![Entry::new(1, "reviews", "v1", &backend)]);
        world.push(&(at(8080) + ROUTES));
        world.open_gateways(0, &[8080, 8081], drain);
        eventually("the port is open", || world.gateway(0, 8080).is_some());
        let door = world.gateway(0, 8080).unwrap();
        let [mut stuck, mut tunnel] = [(); 2].map(|()| Client::connect(door));
        stuck.write("GET /stuck HTTP/1.1\r\nHost: a.org\r\n\r\n");
        assert!(stuck.wait_for("half"));
        let upgrade = "GET /chat HTTP/1.1\r\nHost: a.org\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
        assert_eq!(tunnel.ask(upgrade).unwrap().status, 101);
        let mut stream = runtime.block_on(async {
            let mut sender = connect(door, &tasks).await;
            let request = Request::get("http://a.org/stuck").body(full("")).unwrap();
            let mut stream = sender.send_request(request).await.unwrap().into_body();
            assert_eq!(stream.frame().await.unwrap().unwrap().into_data().unwrap(), "half");
            stream
        });
        world.push(&at(8081));
        eventually("another port is open", || world.gateway(0, 8081).is_some() && world.gateway(0, 8080).is_none());
        if ends {
            assert!(tunnel.ended());
            assert!(stuck.ended());
            let end = runtime.block_on(async { tokio::time::timeout(Duration::from_secs(20), stream.frame()).await });
            assert!(end.expect("an end").is_none_or(|frame| frame.is_err()));
        } else {
            tunnel.write("GET / HTTP/1.1\r\n\r\n");
            assert!(tunnel.wait_for("v1"), "its application still hears it");
        }
    }
}
