//! Doors into the mesh: Gateways open ports at the nodes that they select, and requests find their way behind them.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener},
};

use harness::{
    cluster::{Cluster, Plan, Service},
    eventually,
    http::{self, Connection},
};

use crate::{skein, written};

/// Istio's name for it, so that its pages' documents work as they are.
pub(crate) fn ingress() -> Service {
    Service {
        labels: vec![("istio".to_owned(), "ingressgateway".to_owned())],
        ..Service::client("istio-system/ingress")
    }
}

pub(crate) fn mesh() -> Cluster {
    mesh_with([])
}

/// With further services behind the door.
pub(crate) fn mesh_with<const N: usize>(further: [Service; N]) -> Cluster {
    let services = std::iter::once(Service::version("shop/cart", "v1")).chain(further);
    let plans = [("edge", Plan::with([ingress()])), ("shop", Plan::with(services))];
    let cluster = Cluster::start(skein(), &plans);
    cluster.wait_members(harness::PATIENCE);
    cluster.wait_endpoints("shop/cart", 1);
    cluster
}

pub(crate) fn gateway(name: &str, servers: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{selector: {{istio: ingressgateway}}, servers: [{servers}]}}\n"
    )
}

fn server(port: u16, hosts: &str, more: &str) -> String {
    format!("{{port: {{number: {port}, name: http-{port}, protocol: HTTP}}, hosts: [{hosts}]{more}}}")
}

pub(crate) fn routes(name: &str, gateways: &str, hosts: &str, http: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{hosts: [{hosts}], gateways: [{gateways}], http: [{http}]}}\n"
    )
}

pub(crate) const CART: &str = "{route: [{destination: {host: cart}}]}";

pub(crate) fn at(cluster: &Cluster, port: u16) -> SocketAddr {
    SocketAddr::new(cluster.node("edge").ip, port)
}

/// Waits until a port is open as `status` says, and gives what it says of its protocol.
pub(crate) fn opened(cluster: &Cluster, port: u16) -> String {
    eventually(&format!("port {port} is open"), || {
        let status = cluster.json("edge", &["status"]);
        written("status", &status);
        let open = status["gateways"].as_array().into_iter().flatten().find(|door| door["port"] == port);
        open.and_then(|door| Some(door["protocol"].as_str()?.to_owned())).ok_or_else(|| status.to_string())
    })
}

pub(crate) fn troubles(cluster: &Cluster, code: &str) -> Vec<String> {
    let status = cluster.json("edge", &["status"]);
    written("status", &status);
    written("status --mesh", &cluster.json("edge", &["status", "--mesh"]));
    let problems = status["problems"].as_array().cloned().unwrap_or_default();
    let of_code = problems.iter().filter(|problem| problem["code"] == code);
    of_code.filter_map(|problem| problem["message"].as_str().map(str::to_owned)).collect()
}

/// Of two documents for one host each counts in its place.
#[test]
fn what_a_request_meets_at_a_gateway_is_explained() {
    let cluster = mesh();
    let tea = "{directResponse: {status: 418, body: {string: tea}}}";
    let documents = [
        gateway("public", &server(8080, "shop.example.com", "")),
        routes(
            "outer",
            "public",
            "shop.example.com",
            &format!("{{match: [{{uri: {{prefix: /cart}}}}], {}", &CART[1..]),
        ),
        routes("inner", "mesh", "shop.example.com", tea),
    ];
    cluster.push("shop", &documents.concat(), &["--wait", "all"]).expect_code(0);
    opened(&cluster, 8080);
    let explained = |words: &[&str]| {
        let explained = cluster.json("edge", &[&["explain"], words].concat());
        written("explain", &explained);
        explained
    };
    let url = "http://shop.example.com:8080/cart/1";
    let entering = explained(&["--gateway", "shop/public", url]);
    assert_eq!(
        (&entering["document"], &entering["service"]),
        (&"VirtualService shop/outer".into(), &serde_json::Value::Null)
    );
    assert_eq!(entering["endpoints"][0]["id"], "shop/shop/cart", "{entering}");
    assert_eq!(entering["gateway"], serde_json::json!({"name": "shop/public", "port": 8080}));
    assert_eq!(
        http::get(at(&cluster, 8080), "shop.example.com", "/cart/1").expect("an answer").status,
        200,
        "as it is"
    );
    let elsewhere = explained(&["--gateway", "shop/public", "http://shop.example.com:8080/else"]);
    assert_eq!((&elsewhere["answer"]["status"], &elsewhere["document"]), (&404.into(), &serde_json::Value::Null));
    let within = explained(&["http://shop.example.com/cart/1"]);
    assert_eq!((&within["document"], &within["answer"]["status"]), (&"VirtualService shop/inner".into(), &418.into()));
    let unknown = cluster.on("shop", &["explain", "--gateway", "shop/public", url, "-o", "json"]).expect_code(1);
    assert_eq!(unknown.error()["error"]["code"], "not_found", "{unknown:?}");
    let rows = cluster.json("edge", &["routes"]);
    written("routes", &rows);
    let at_of = |name: &str| {
        let mut rows = rows.as_array().expect("rows").iter();
        rows.find(|row| row["document"] == format!("VirtualService shop/{name}")).map(|row| row["gateways"].clone())
    };
    assert_eq!(at_of("outer"), Some(serde_json::json!(["shop/public"])));
    assert_eq!(at_of("inner"), Some(serde_json::json!(["mesh"])));
}

#[test]
fn a_gateway_opens_a_port_and_its_hosts_are_routed() {
    let cluster = mesh();
    let documents = [
        gateway("public", &server(8080, "'*.example.com'", "")),
        routes(
            "cart",
            "public",
            "shop.example.com",
            &format!("{{match: [{{uri: {{prefix: /cart}}}}], rewrite: {{uri: /}}, {}", &CART[1..]),
        ),
        routes("rest", "public", "'*.example.com'", "{directResponse: {status: 418, body: {string: tea}}}"),
    ];
    cluster.push("shop", &documents.concat(), &["--wait", "all"]).expect_code(0);
    opened(&cluster, 8080);
    let door = at(&cluster, 8080);
    let headers = [
        ("x-forwarded-for", "10.9.9.9"),
        ("x-forwarded-client-cert", "URI=spiffe://test.example/ns/shop/sa/admin"),
        ("x-envoy-external-address", "10.9.9.9"),
        ("x-request-id", "mine"),
        ("x_forwarded_client_cert", "URI=spiffe://test.example/ns/shop/sa/admin"),
        ("x_forwarded_for", "10.9.9.9"),
    ];
    let answer = http::get_with(door, "Shop.Example.com:8080", "/cart/items?a=b", &headers).expect("an answer");
    assert_eq!((answer.status, answer.text().as_str()), (200, "shop shop/cart"), "{answer:?}");
    let arrived = cluster.node("shop").backends[0].arrivals().pop().expect("it arrived");
    assert_eq!(arrived.line(), "GET //items?a=b HTTP/1.1", "{arrived:?}");
    assert_eq!(arrived.header("host"), Some("Shop.Example.com:8080"));
    assert_eq!(arrived.header("x-forwarded-for"), Some("10.9.9.9, 127.0.0.1"), "appended, as every proxy does");
    assert_eq!(arrived.header("x-envoy-external-address"), Some("127.0.0.1"));
    assert_eq!(arrived.header("x-forwarded-proto"), Some("http"));
    let identity = arrived.header("x-forwarded-client-cert").expect("the gateway's");
    assert!(identity.ends_with("URI=spiffe://test.example/ns/istio-system/sa/default"), "{identity}");
    assert!(!arrived.head.contains("admin") && !arrived.head.contains("x_forwarded"), "{arrived:?}");
    assert!(arrived.header("x-request-id").is_some_and(|id| id != "mine"));

    let status = |host: &str| http::get(door, host, "/").expect("an answer").status;
    assert_eq!([status("shop.example.com"), status("other.example.com"), status("example.com")], [404, 418, 404]);
    assert_eq!(
        http::get(cluster.node("edge").outbound(), "shop.example.com", "/cart").expect("an answer").status,
        404,
        "not for applications"
    );
    let metrics = http::get(
        cluster.node("edge").address("admin"),
        &cluster.node("edge").address("admin").to_string(),
        "/metrics",
    )
    .expect("metrics")
    .text();
    let counted = metrics.lines().any(|line| {
        line.starts_with("istio_requests_total{")
            && [
                "reporter=\"source\"",
                "source_principal=\"spiffe://test.example/ns/istio-system/sa/default\"",
                "destination_service=\"cart.shop.svc.cluster.local\"",
                "response_code=\"200\"",
            ]
            .iter()
            .all(|label| line.contains(label))
    });
    assert!(counted, "{metrics}");
}

#[test]
fn ports_open_and_close_with_the_documents_and_one_that_is_taken_harms_nobody() {
    let cluster = mesh();
    let taken = TcpListener::bind(at(&cluster, 8081)).expect("free");
    let both = [server(8080, "'*'", ""), server(8081, "'*'", "")].join(", ");
    let documents = gateway("public", &both) + &routes("cart", "public", "'*'", CART);
    cluster.push("shop", &documents, &["--wait", "all"]).expect_code(0);
    opened(&cluster, 8080);
    eventually("the port that is taken is told", || {
        let told = troubles(&cluster, "gateway_not_open");
        if told.iter().any(|message| message.contains(":8081 is in use")) { Ok(()) } else { Err(format!("{told:?}")) }
    });
    assert_eq!(http::get(at(&cluster, 8080), "a.org", "/").expect("an answer").status, 200);
    drop(taken);
    opened(&cluster, 8081);
    assert_eq!(http::get(at(&cluster, 8081), "a.org", "/").expect("an answer").status, 200);
    assert_eq!(troubles(&cluster, "gateway_not_open"), [] as [String; 0]);

    let mut kept = Connection::open(at(&cluster, 8081)).expect("it listens");
    assert_eq!(kept.request("GET", "a.org", "/", &[], b"").expect("an answer").status, 200);
    let redirecting = server(8080, "'*'", ", tls: {httpsRedirect: true}");
    cluster.push("shop", &gateway("public", &redirecting), &["--wait", "all"]).expect_code(0);
    let answer = http::get(at(&cluster, 8080), "a.org", "/x?y=z").expect("an answer");
    assert_eq!((answer.status, answer.header("location")), (301, Some("https://a.org/x?y=z")), "{answer:?}");
    assert_eq!(kept.rest(), b"", "a connection that waits ends with its port");
    eventually("port 8081 is closed", || match Connection::open(at(&cluster, 8081)) {
        Ok(_) => Err("it is open".to_owned()),
        Err(_) => Ok(()),
    });
    cluster.on("shop", &["policy", "delete", "Gateway", "public", "-n", "shop", "--wait", "all"]).expect_code(0);
    eventually("port 8080 is closed", || match Connection::open(at(&cluster, 8080)) {
        Ok(_) => Err("it is open".to_owned()),
        Err(_) => Ok(()),
    });
}

#[test]
fn policies_of_the_gateways_workload_judge_clients() {
    let cluster = mesh();
    let denied = "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: edge, namespace: istio-system}\nspec: {selector: {matchLabels: {istio: ingressgateway}}, action: DENY, rules: [{to: [{operation: {paths: [/admin*]}}]}, {from: [{source: {remoteIpBlocks: [10.9.0.0/16]}}]}]}\n";
    let topology = "---\napiVersion: skein.dev/v1\nkind: MeshConfig\nmetadata: {name: default}\nspec: {defaultConfig: {gatewayTopology: {numTrustedProxies: 1}}}\n";
    let documents = [
        gateway("public", &server(8080, "'*'", "")).as_str(),
        &routes("cart", "public", "'*'", CART),
        denied,
        topology,
    ]
    .concat();
    cluster.push("shop", &documents, &["--wait", "all"]).expect_code(0);
    opened(&cluster, 8080);
    let ask = |path: &str, address: &str| {
        let headers = [("x-forwarded-for", address)];
        http::get_with(at(&cluster, 8080), "a.org", path, &headers).expect("an answer").status
    };
    assert_eq!(ask("/", "10.8.0.1"), 200);
    assert_eq!(ask("/x/../admin", "10.8.0.1"), 403, "in whatever spelling");
    assert_eq!(ask("/", "10.9.0.1"), 403, "the proxy before the gateway is believed");
    assert_eq!(ask("/", "10.9.0.1, 10.8.0.1"), 200, "and nobody before that");
}

#[test]
fn slow_clients_and_crowds_are_bounded() {
    let cluster = mesh();
    let limits = "---\napiVersion: skein.dev/v1\nkind: MeshConfig\nmetadata: {name: default}\nspec: {limits: {headerTimeout: 1s, tlsHandshakeTimeout: 1s, connectionsPerAddress: 4}}\n";
    let secure =
        "{port: {number: 8443, name: tls, protocol: HTTPS}, hosts: ['*'], tls: {mode: SIMPLE, credentialName: none}}";
    let passing = "{port: {number: 8444, name: pass, protocol: TLS}, hosts: ['*'], tls: {mode: PASSTHROUGH}}";
    let servers = [server(8080, "'*'", "").as_str(), secure, passing].join(", ");
    let documents = [gateway("public", &servers).as_str(), &routes("cart", "public", "'*'", CART), limits].concat();
    cluster.push("shop", &documents, &["--wait", "all"]).expect_code(0);
    for port in [8080, 8443, 8444] {
        opened(&cluster, port);
    }
    let open = |port| Connection::open(at(&cluster, port)).expect("it listens");
    // Whoever is still served says nothing for ten seconds.
    let over = |connection: &mut Connection| connection.take(1).is_err_and(|error| !error.contains("unavailable"));
    let (mut silent, mut slow, mut greeting) = (open(8080), open(8080), open(8443));
    let mut passed = open(8444);
    slow.send(b"GET / HTTP/1.1\r\nhost: a").expect("it is open");
    assert!(over(&mut silent), "who says nothing has no longer than for a head");
    let said = String::from_utf8_lossy(&slow.rest()).into_owned();
    assert!(said.is_empty() || said.starts_with("HTTP/1.1 408"), "{said}");
    assert!(over(&mut slow));
    assert!(over(&mut greeting), "a handshake that does not come");
    assert!(over(&mut passed), "also where it would be passed on");
    let mut partial = open(8444);
    partial.send(b"\x16\x03\x01\x02\x00\x01").expect("it is open");
    assert!(over(&mut partial), "or one that begins and stops");

    let mut crowd: Vec<Connection> = Vec::new();
    for _ in 0..4 {
        let mut connection = open(8080);
        assert_eq!(connection.request("GET", "a.org", "/", &[], b"").expect("an answer").status, 200);
        crowd.push(connection);
    }
    let fifth = Connection::open(at(&cluster, 8080));
    assert!(fifth.is_err() || fifth.is_ok_and(|mut fifth| over(&mut fifth)), "a fifth from one address");
    assert_eq!(crowd[0].request("GET", "a.org", "/", &[], b"").expect("an answer").status, 200);
    assert_eq!(
        http::get(cluster.node("edge").outbound(), "cart.shop", "/").expect("an answer").status,
        200,
        "others go on"
    );
    drop(crowd);
    eventually("there is room again", || {
        let answer = http::get(at(&cluster, 8080), "a.org", "/")?;
        if answer.status == 200 { Ok(()) } else { Err(format!("{answer:?}")) }
    });
}

/// Agrees to speak another protocol, and says again what it hears.
pub(crate) fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
    let address = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    if stream.read_exact(&mut byte).is_err() {
                        return;
                    }
                    head.extend_from_slice(&byte);
                }
                let agreed = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
                let mut told = stream.try_clone().expect("a socket");
                if stream.write_all(agreed).is_ok() {
                    let _ = std::io::copy(&mut stream, &mut told);
                }
            });
        }
    });
    address
}

#[test]
fn a_websocket_goes_through() {
    let cluster = mesh_with([Service { target: Some(echo()), ..Service::version("shop/chat", "v1") }]);
    cluster.wait_endpoints("shop/chat", 1);
    let chat = "{route: [{destination: {host: chat}}]}";
    let limits = "---\napiVersion: skein.dev/v1\nkind: MeshConfig\nmetadata: {name: default}\nspec: {limits: {connectionsPerAddress: 1}}\n";
    let documents = gateway("public", &server(8080, "'*'", "")) + &routes("chat", "public", "'*'", chat) + limits;
    cluster.push("shop", &documents, &["--wait", "all"]).expect_code(0);
    opened(&cluster, 8080);
    let mut socket = Connection::open(at(&cluster, 8080)).expect("it listens");
    let headers = [("connection", "Upgrade"), ("upgrade", "websocket"), ("sec-websocket-version", "13")];
    let answer = socket.request("GET", "chat.example.com", "/talk", &headers, b"").expect("an answer");
    assert_eq!((answer.status, answer.header("upgrade")), (101, Some("websocket")), "{answer:?}");
    socket.send(b"\x81\x85\0\0\0\0hello").expect("it is open");
    assert_eq!(socket.take(11).expect("an echo"), b"\x81\x85\0\0\0\0hello");
    let open = || Connection::open(at(&cluster, 8080)).expect("it listens");
    assert_eq!(open().rest(), b"", "it holds the place of its address");
    let metrics = http::get(cluster.node("edge").address("admin"), "localhost", "/metrics").expect("metrics").text();
    let refused = "skein_clients_refused_total{reason=\"connections\"} ";
    assert!(metrics.lines().any(|line| line.starts_with(refused) && !line.ends_with(" 0")), "it is counted");
    drop(socket);
    eventually("there is room again", || open().request("GET", "chat.example.com", "/talk", &headers, b"").map(drop));
}

#[test]
fn a_configuration_that_is_refused_moves_no_port() {
    let cluster = mesh();
    cluster
        .push("shop", &(gateway("public", &server(8080, "'*'", "")) + &routes("cart", "public", "'*'", CART)), &[])
        .expect_code(0);
    opened(&cluster, 8080);
    let ip = cluster.node("edge").ip;
    let taken = TcpListener::bind((ip, 0)).expect("a port is free").local_addr().expect("it has an address");
    let _taken = TcpListener::bind(taken).expect("it is free still");
    let file = cluster.node("edge").config();
    let good = std::fs::read_to_string(&file).expect("it is there");
    let moved = good.replacen("[gateway]\n", "[gateway]\nports = { 8080 = 8099 }\n", 1);
    let refused = format!("{moved}\n[[outbound]]\nhttp = \"{taken}\"\nas = \"istio-system/ingress\"\n");
    let reload = |text: &str| {
        std::fs::write(&file, text).expect("it is ours");
        cluster.node("edge").running.as_ref().expect("it runs").signal(nix::sys::signal::Signal::SIGHUP);
    };
    reload(&refused);
    eventually("it is refused", || {
        let log = cluster.log("edge");
        if log.contains("not reloaded") { Ok(()) } else { Err(log) }
    });
    // Whatever the documents do next, the ports are where the configuration in force has them.
    cluster.push("shop", &routes("more", "public", "more.example", CART), &["--wait", "all"]).expect_code(0);
    let listen = || cluster.json("edge", &["status"])["gateways"][0]["listen"].as_str().map(str::to_owned);
    assert_eq!(listen(), Some(format!("{ip}:8080")));
    // It moves for good where a listener gets the port that it leaves.
    reload(&format!("{moved}\n[[outbound]]\nhttp = \"{ip}:8080\"\nas = \"istio-system/ingress\"\n"));
    eventually("the port moves", || match listen() {
        Some(at) if at == format!("{ip}:8099") => Ok(()),
        other => Err(format!("{other:?}")),
    });
}
