//! What a caller's Sidecar does not import does not exist for it: requests, connections, names, and what is told of it beforehand.

use std::net::SocketAddr;

use harness::{
    PATIENCE,
    bytes::{Echo, say},
    cluster::{Cluster, Plan, Service},
    dns::{self, Resolver},
    eventually, http,
};
use hickory_proto::{op::ResponseCode, rr::RecordType};
use serde_json::{Value, json};

use crate::skein;

const BYTES: u16 = 9000;

fn sidecar(name: &str, namespace: &str, spec: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}\n"
    )
}

/// `shop/web` calls by every kind of port; `shop/cart`, `bank/pay` and `bank/ledger`, which speaks bytes, are called.
struct World {
    cluster: Cluster,
    _resolver: Resolver,
    _echo: Echo,
}

impl World {
    fn start() -> Self {
        let resolver = Resolver::start();
        let echo = Echo::start(SocketAddr::from(([127, 0, 0, 1], 0)), "ledger").expect("a free port");
        let upstream = |service: &str, port: u16| {
            format!(
                "[[upstream]]\nlisten = \"127.0.0.1:0\"\nservice = \"{service}\"\nport = {port}\nas = \"shop/web\"\n"
            )
        };
        let names = format!(
            "[dns]\nlisten = \"127.0.0.1:0\"\naddresses = \"{}\"\nupstreams = [\"{}\"]\nas = \"shop/web\"\n",
            dns::range(),
            resolver.address
        );
        let web = Service { labels: vec![("app".to_owned(), "web".to_owned())], ..Service::client("shop/web") };
        let extra = format!("{}{}{names}", upstream("bank/pay", 9080), upstream("bank/ledger", BYTES));
        let ledger = Service {
            ports: vec![BYTES],
            protocol: "tcp".to_owned(),
            target: Some(echo.address),
            ..Service::version("bank/ledger", "v1")
        };
        let served = [Service::version("shop/cart", "v1"), Service::version("bank/pay", "v1"), ledger];
        let plans = [("web", Plan { extra, ..Plan::with([web]) }), ("apps", Plan::with(served))];
        let cluster = Cluster::start(skein(), &plans);
        cluster.wait_members(PATIENCE);
        cluster.wait_endpoints("bank/ledger", 1);
        let world = Self { cluster, _resolver: resolver, _echo: echo };
        world.sees("pay.bank", 200);
        world
    }

    fn push(&self, text: &str) {
        self.cluster.push("web", text, &["--wait", "all"]).expect_code(0);
    }

    fn get(&self, host: &str) -> u16 {
        http::get(self.cluster.node("web").outbound(), host, "/").expect("an answer").status
    }

    fn sees(&self, host: &str, status: u16) {
        eventually(&format!("{host} is answered {status}"), || match self.get(host) {
            found if found == status => Ok(()),
            other => Err(format!("{other}")),
        });
    }

    fn explain(&self, words: &[&str]) -> Value {
        let all: Vec<&str> = ["explain"].into_iter().chain(words.iter().copied()).collect();
        self.cluster.json("web", &all)
    }

    /// Whether the node has a name for the service.
    fn named(&self, name: &str) -> bool {
        let server = self.cluster.node("web").address("dns");
        let answer = dns::ask(server, name, RecordType::A).expect("an answer");
        assert!([ResponseCode::NoError, ResponseCode::NXDomain].contains(&answer.metadata.response_code), "{answer:?}");
        !answer.answers.is_empty()
    }

    fn ledger(&self) -> Result<String, String> {
        say(self.cluster.node("web").upstream("bank/ledger", BYTES), "hello")
    }
}

#[test]
fn what_is_not_imported_does_not_exist() {
    let world = World::start();
    eventually("all have names", || if world.named("pay.bank.mesh.") { Ok(()) } else { Err("not yet".to_owned()) });
    assert_eq!(eventually("bytes arrive", || world.ledger()), "ledger\nhello");
    let upstream = world.cluster.node("web").upstream("bank/pay", 9080);
    assert_eq!(http::get(upstream, "anything", "/").expect("an answer").status, 200);

    let own = sidecar("default", "shop", "{egress: [{hosts: ['./*']}]}");
    let file = world.cluster.file("own.yaml", &own).to_string_lossy().into_owned();
    let plan = world.cluster.json("web", &["policy", "plan", &file]);
    assert_eq!(plan["services"], json!(["bank/ledger", "bank/pay"]), "{plan}");
    let row = &plan["routes"][0];
    assert_eq!((&row["from"], &row["changes"][0]["before"]), (&json!(["shop"]), &json!("seen")), "{plan}");
    assert_eq!(row["changes"][0]["after"], "not imported: an unknown host", "{plan}");

    world.push(&own);
    world.sees("pay.bank", 404);
    assert_eq!(world.get("cart"), 200);
    assert_eq!(http::get(upstream, "anything", "/").expect("an answer").status, 404, "at its own port, too");
    eventually("no bytes arrive", || match world.ledger() {
        Err(_) => Ok(()),
        Ok(answer) if answer.is_empty() => Ok(()),
        Ok(answer) => Err(answer),
    });
    eventually("it has no name", || if world.named("pay.bank.mesh.") { Err("it has".to_owned()) } else { Ok(()) });
    assert!(world.named("cart.shop.mesh."));
    let explained = world.explain(&["http://pay.bank/"]);
    assert_eq!((&explained["document"], &explained["answer"]["status"]), (&json!("Sidecar shop/default"), &json!(404)));
    assert!(explained["answer"]["reason"].as_str().is_some_and(|why| why.contains("does not import")), "{explained}");
    let explained = world.explain(&["tcp://ledger.bank:9000"]);
    assert_eq!(explained["document"], "Sidecar shop/default", "{explained}");
    let elsewhere = world.explain(&["http://pay.bank/", "--from", "bank/default"]);
    assert_eq!((&elsewhere["service"], &elsewhere["answer"]), (&json!("bank/pay"), &Value::Null), "{elsewhere}");

    // Istio's status where nothing may leave the mesh, of names that nobody has, too.
    world.push(&sidecar("default", "shop", "{egress: [{hosts: ['./*']}], outboundTrafficPolicy: {}}"));
    world.sees("pay.bank", 502);
    assert_eq!((world.get("www.example.com"), world.get("cart"), world.get("cart:1")), (502, 200, 404));
    assert_eq!(world.explain(&["http://pay.bank/"])["answer"]["status"], 502);

    // Whoever has a Sidecar of its own is not bound by the others'.
    world.push(&sidecar(
        "web",
        "shop",
        "{workloadSelector: {labels: {app: web}}, egress: [{port: {number: 9000}, hosts: ['*/*']}, {hosts: ['bank/*']}]}",
    ));
    world.sees("pay.bank", 200);
    world.sees("cart", 404);
    assert_eq!(eventually("bytes arrive again", || world.ledger()), "ledger\nhello");
    for name in ["web", "default"] {
        let words = ["policy", "delete", "Sidecar", name, "-n", "shop", "--wait", "all"];
        world.cluster.on("web", &words).expect_code(0);
    }
    world.sees("cart", 200);
    assert_eq!(world.get("pay.bank"), 200);
}

#[test]
fn what_comes_in_is_limited_and_what_opens_ports_is_refused() {
    let world = World::start();
    for (spec, word) in [
        ("{egress: [{port: {number: 80}, bind: 127.0.0.1, hosts: ['*/*']}]}", "`bind`"),
        ("{ingress: [{port: {number: 80}, defaultEndpoint: '127.0.0.1:90'}]}", "`defaultEndpoint`"),
    ] {
        let refused = world.cluster.push("web", &sidecar("default", "shop", spec), &[]);
        assert!(refused.code == 2 && refused.err.contains(word), "{refused:?}");
    }
    let limit = "{inboundConnectionPool: {http: {http2MaxRequests: 9}},
      ingress: [{port: {number: 9080, protocol: HTTP}, connectionPool: {http: {http2MaxRequests: 1}}}]}";
    world.push(&sidecar("default", "bank", limit));
    let outbound = world.cluster.node("web").outbound();
    let backend = &world.cluster.node("apps").backends[1];
    backend.forget();
    backend.hold();
    let slow = std::thread::spawn(move || http::get(outbound, "pay.bank", "/").expect("an answer").status);
    eventually("the first is with the application", || {
        if backend.arrivals().len() == 1 { Ok(()) } else { Err("not yet".to_owned()) }
    });
    let refused = http::get(outbound, "pay.bank", "/").expect("an answer");
    assert_eq!((refused.status, refused.header("x-envoy-overloaded")), (503, Some("true")), "{refused:?}");
    backend.release();
    assert_eq!(slow.join().expect("no panic"), 200);
}
