//! Istio's scenario of an egress gateway: requests for a host outside leave the mesh at one node, which a server outside sees.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr},
};

use harness::{
    backend::Backend,
    bytes::{Echo, connect, say},
    cluster::{Cluster, Plan, Service},
    eventually,
    http::{self, Connection},
    tls_backend::TlsBackend,
};
use serde::Deserialize;

use super::{files, text};
use crate::{gateway_tls::Authority, skein};

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

/// A policy is asked who called the gateway's service, not who brought it to the gateway's port.
#[test]
fn a_gateway_inside_the_mesh_knows_who_calls_it() {
    const SERVED: &str = "istio-system/istio-egressgateway";
    let echo = Echo::start(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), "echo").expect("a free port");
    let gateway = |name: &str, port, protocol: &str, door| Service {
        labels: vec![("istio".to_owned(), "egressgateway".to_owned()), ("serves".to_owned(), protocol.to_owned())],
        ports: vec![port],
        protocol: protocol.to_owned(),
        target_port: Some(door),
        ..Service::version(name, "v1")
    };
    let gateways = [gateway(SERVED, 80, "http", DOOR), gateway("istio-system/bytes", 9000, "tcp", 9100)];
    let egress = Plan { gateway: format!("ports = {{ 80 = {DOOR}, 9000 = 9100 }}"), ..Plan::with(gateways) };
    let caller = |name: &str| {
        let upstream = format!(
            "[[upstream]]\nlisten = \"127.0.0.1:0\"\nservice = \"istio-system/bytes\"\nport = 9000\nas = \"{name}\"\n"
        );
        Plan { extra: upstream, ..Plan::with([Service::client(name)]) }
    };
    let web = Service::version("shop/web", "v1");
    let application = Service {
        ports: vec![9000],
        protocol: "tcp".to_owned(),
        target: Some(echo.address),
        ..Service::version("shop/echo", "v1")
    };
    let plans = [
        ("friend", caller("default/a")),
        ("stranger", caller("other/b")),
        ("egress", egress),
        ("shop", Plan::with([web, application])),
    ];
    let cluster = Cluster::start(skein(), &plans);
    cluster.wait_members(harness::PATIENCE);
    let documents = "
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: out, namespace: istio-system}
spec: {selector: {serves: http}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}]}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: bytes, namespace: istio-system}
spec: {selector: {serves: tcp}, servers: [{port: {number: 9000, name: tcp, protocol: TCP}, hosts: ['*']}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: out, namespace: istio-system}
spec: {hosts: ['*'], gateways: [out], http: [{route: [{destination: {host: web.shop.svc.cluster.local}}]}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: bytes, namespace: istio-system}
spec: {hosts: ['*'], gateways: [bytes], tcp: [{route: [{destination: {host: echo.shop.svc.cluster.local, port: {number: 9000}}}]}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: friends, namespace: istio-system}
spec:
  selector: {matchLabels: {istio: egressgateway}}
  rules: [{from: [{source: {principals: [cluster.local/ns/default/sa/default]}}]}]
";
    cluster.push("friend", documents, &["--wait", "all"]).expect_code(0);
    let ask = |node: &str| {
        let answer = http::get(cluster.node(node).outbound(), "istio-egressgateway.istio-system", "/");
        answer.map(|answer| answer.status)
    };
    eventually("the friend is let through", || match ask("friend") {
        Ok(200) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let arrived = cluster.node("shop").backends[0].arrivals().pop().expect("it arrived");
    let told = arrived.header("x-forwarded-client-cert").expect("who calls");
    assert!(told.contains("URI=spiffe://test.example/ns/default/sa/default"), "{told}");
    assert!(!format!("{arrived:?}").contains("x-skein"), "{arrived:?}");
    eventually("the stranger reaches the gateway", || match ask("stranger") {
        Ok(403) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let to = |node: &str| say(cluster.node(node).upstream("istio-system/bytes", 9000), "hello");
    eventually("the friend's bytes are let through", || match to("friend") {
        Ok(said) if said == "echo\nhello" => Ok(()),
        other => Err(format!("{other:?}")),
    });
    assert!(!to("stranger").is_ok_and(|said| said.contains("echo")));
    // Whom the PROXY protocol names is the caller, not this node, which brought its bytes to the gateway's port.
    let told_of = "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: echo, namespace: istio-system}
spec: {host: echo.shop.svc.cluster.local, trafficPolicy: {proxyProtocol: {version: V1}}}
";
    cluster.push("friend", told_of, &["--wait", "all"]).expect_code(0);
    let begins = format!("echo\nPROXY TCP4 {} ", cluster.node("friend").ip);
    eventually("the friend is named", || match to("friend") {
        Ok(said) if said.starts_with(&begins) && said.ends_with("hello") => Ok(()),
        other => Err(format!("{other:?}")),
    });
    // Who comes to the port by itself is nobody, whatever it says.
    let door = SocketAddr::new(cluster.node("egress").ip, DOOR);
    let claimed = [("x-skein-within", "00000000000000000000000000000000"), ("x-forwarded-client-cert", told)];
    let answer = http::get_with(door, "istio-egressgateway.istio-system", "/", &claimed).expect("an answer");
    assert_eq!(answer.status, 403);
}

/// The documents of Istio's page "Egress Gateways with TLS Origination", and a database in the same way.
const SAMPLE: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: cnn}
spec:
  hosts: [edition.cnn.com]
  ports: [{number: 80, name: http, protocol: HTTP}, {number: 443, name: https, protocol: HTTPS}]
  resolution: STATIC
  endpoints: [{address: 127.0.0.1, ports: {https: SECURE}}]
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: istio-egressgateway}
spec:
  selector: {istio: egressgateway}
  servers:
  - port: {number: 443, name: https-port-for-tls-origination, protocol: HTTPS}
    hosts: [edition.cnn.com]
    tls: {mode: ISTIO_MUTUAL}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: egressgateway-for-cnn}
spec:
  host: istio-egressgateway.istio-system.svc.cluster.local
  subsets:
  - name: cnn
    trafficPolicy:
      loadBalancer: {simple: ROUND_ROBIN}
      portLevelSettings:
      - port: {number: 443}
        tls: {mode: ISTIO_MUTUAL, sni: edition.cnn.com}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: direct-cnn-through-egress-gateway}
spec:
  hosts: [edition.cnn.com]
  gateways: [istio-egressgateway, mesh]
  http:
  - match: [{gateways: [mesh], port: 80}]
    route:
    - destination: {host: istio-egressgateway.istio-system.svc.cluster.local, subset: cnn, port: {number: 443}}
      weight: 100
  - match: [{gateways: [istio-egressgateway], port: 443, uri: {prefix: /slow}}]
    fault: {delay: {fixedDelay: 60s, percentage: {value: 100}}}
    route: [{destination: {host: edition.cnn.com, port: {number: 443}}}]
  - match: [{gateways: [istio-egressgateway], port: 443}]
    route:
    - destination: {host: edition.cnn.com, port: {number: 443}}
      weight: 100
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: originate-tls-for-edition-cnn-com}
spec:
  host: edition.cnn.com
  trafficPolicy:
    loadBalancer: {simple: ROUND_ROBIN}
    portLevelSettings:
    - port: {number: 443}
      tls: {mode: SIMPLE, caCertificates: AUTHORITY}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: db}
spec:
  hosts: [db.example.com]
  ports: [{number: 5432, name: tcp, protocol: TCP, targetPort: DATABASE}]
  resolution: STATIC
  endpoints: [{address: 127.0.0.1}]
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: bytes}
spec:
  selector: {serves: bytes}
  servers: [{port: {number: 9000, name: tls, protocol: TLS}, hosts: [db.example.com], tls: {mode: ISTIO_MUTUAL}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: db}
spec:
  hosts: [db.example.com]
  gateways: [bytes, mesh]
  tcp:
  - match: [{gateways: [mesh], port: 5432}]
    route: [{destination: {host: bytes.istio-system.svc.cluster.local, port: {number: 9000}}}]
  - match: [{gateways: [bytes], port: 9000}]
    route: [{destination: {host: db.example.com, port: {number: 5432}}}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: friends, namespace: istio-system}
spec:
  selector: {matchLabels: {istio: egressgateway}}
  rules: [{from: [{source: {principals: [cluster.local/ns/default/sa/default]}}]}]
";

/// A node whose gateways serve the mesh alone, before servers outside; two others call them.
fn mutual() -> (Cluster, TlsBackend, Echo) {
    let loopback = || SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let authority = Authority::new();
    let issued = authority.issue("edition.cnn.com", None);
    let secure = TlsBackend::start(loopback(), &issued.cert, &issued.key, None).expect("a free port");
    let echo = Echo::start(loopback(), "db").expect("a free port");
    // Its ports take callers outside, too, as they do by default where the kernel brings those.
    let gateway = |name: &str, port, protocol: &str, serves: &str, door| Service {
        plaintext: true,
        labels: vec![("istio".to_owned(), serves.to_owned()), ("serves".to_owned(), name.to_owned())],
        ports: vec![port],
        protocol: protocol.to_owned(),
        target_port: Some(door),
        ..Service::version(&format!("istio-system/{name}"), "v1")
    };
    let gateways = [
        gateway("istio-egressgateway", 443, "http", "egressgateway", DOOR),
        gateway("bytes", 9000, "tcp", "bytes", 9100),
    ];
    let egress = Plan { gateway: format!("ports = {{ 443 = {DOOR}, 9000 = 9100 }}"), ..Plan::with(gateways) };
    let caller = |name: &str, account: &str| {
        let upstream = "[[upstream]]\nlisten = \"127.0.0.1:0\"\nhost = \"db.example.com\"\nport = 5432\n";
        let client = Service { account: account.to_owned(), ..Service::client(name) };
        Plan { extra: format!("{upstream}as = \"{name}\"\n"), ..Plan::with([client]) }
    };
    // Both of the namespace whose DestinationRules they see.
    let plans = [("friend", caller("default/a", "")), ("stranger", caller("default/b", "other")), ("egress", egress)];
    let cluster = Cluster::start(skein(), &plans);
    cluster.wait_members(harness::PATIENCE);
    let ca = cluster.file("ca.pem", &authority.pem());
    let documents = SAMPLE
        .replace("SECURE", &secure.address.port().to_string())
        .replace("DATABASE", &echo.address.port().to_string())
        .replace("AUTHORITY", &ca.to_string_lossy());
    cluster.push("friend", &documents, &["--wait", "all"]).expect_code(0);
    (cluster, secure, echo)
}

#[test]
fn a_gateway_in_mode_istio_mutual_serves_the_mesh_and_nobody_else() {
    let (cluster, _secure, echo) = mutual();
    let ask = |node: &str| http::get(cluster.node(node).outbound(), "edition.cnn.com", "/politics");
    let answer = eventually("the friend leaves the mesh", || match ask("friend") {
        Ok(answer) if answer.status == 200 => Ok(answer.text()),
        other => Err(format!("{other:?}")),
    });
    assert_eq!(answer, "sni=edition.cnn.com client=no host=edition.cnn.com");
    eventually("the stranger is refused", || match ask("stranger") {
        Ok(answer) if answer.status == 403 && answer.text().contains("RBAC") => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let to = |node: &str| say(cluster.node(node).upstream("db.example.com", 5432), "hello");
    eventually("bytes take the same way", || match to("friend") {
        Ok(said) if said == "db\nhello" => Ok(()),
        other => Err(format!("{other:?}")),
    });
    // Who is not of the mesh is not served, whatever the policies say.
    let words = ["policy", "delete", "AuthorizationPolicy", "friends", "-n", "istio-system", "--wait", "all"];
    cluster.on("friend", &words).expect_code(0);
    eventually("the stranger is let in", || match ask("stranger") {
        Ok(answer) if answer.status == 200 => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let door = SocketAddr::new(cluster.node("egress").ip, DOOR);
    let claimed = [("x-skein-within", "00000000000000000000000000000000")];
    let answer = http::get_with(door, "edition.cnn.com", "/", &claimed).expect("an answer");
    assert_eq!((answer.status, answer.text().as_str()), (403, "mutual TLS is required"));
    let connections = echo.connections();
    assert!(!say(SocketAddr::new(door.ip(), 9100), "hello").is_ok_and(|said| said.contains("db")));
    assert_eq!(echo.connections(), connections);
    // Nor who comes by the service's own port, which leads to the gateway's.
    let plaintext = |name: &str, port| cluster.node("egress").plaintext(&format!("istio-system/{name}"), port);
    let outside = plaintext("istio-egressgateway", 443);
    let answer = http::get(outside, "edition.cnn.com", "/").expect("an answer");
    assert_eq!((answer.status, answer.text().as_str()), (403, "mutual TLS is required"));
    assert!(!say(plaintext("bytes", 9000), "hello").is_ok_and(|said| said.contains("db")));
    assert_eq!(echo.connections(), connections);
    let status = cluster.json("egress", &["status"]);
    let mut spoken: Vec<&str> =
        status["gateways"].as_array().expect("gateways").iter().filter_map(|door| door["protocol"].as_str()).collect();
    spoken.sort_unstable();
    assert_eq!(spoken, ["https", "tls"], "{status:#}");
    // What outsiders have under way ends when the port is the mesh's alone.
    let server = |spec: &str| {
        let text = format!(
            "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{name: istio-egressgateway}}\nspec: {{selector: {{istio: egressgateway}}, servers: [{{hosts: [edition.cnn.com], {spec}}}]}}\n"
        );
        cluster.push("friend", &text, &["--wait", "all"]).expect_code(0);
    };
    server("port: {number: 443, name: http, protocol: HTTP}");
    let mut under_way = Vec::new();
    for port in [door, outside] {
        eventually("outsiders are let in", || match http::get(port, "edition.cnn.com", "/") {
            Ok(answer) if answer.status == 200 => Ok(()),
            other => Err(format!("{other:?}")),
        });
        let mut connection = Connection::open(port).expect("it listens");
        connection.send(b"GET / HTTP/1.1\r\nHost: edition.cnn.com\r\n\r\n").expect("it is open");
        assert_eq!(connection.answer(false).expect("an answer").status, 200);
        connection.send(b"GET /slow HTTP/1.1\r\nHost: edition.cnn.com\r\n\r\n").expect("it is open");
        under_way.push(connection);
    }
    server("port: {number: 443, name: https, protocol: HTTPS}, tls: {mode: ISTIO_MUTUAL}");
    for mut connection in under_way {
        assert_eq!(connection.answer(false).expect("an answer").status, 403);
    }
}

/// Who calls a gateway over the mesh is no client at its port: neither the limits of one address nor a balancer's header are for it.
#[test]
fn what_is_asked_of_clients_is_not_asked_of_the_mesh_at_a_gateway() {
    let (mut cluster, _secure, _echo) = mutual();
    let allow = ["policy", "delete", "AuthorizationPolicy", "friends", "-n", "istio-system", "--wait", "all"];
    cluster.on("friend", &allow).expect_code(0);
    let ask = |cluster: &Cluster, node: &str| match http::get(
        cluster.node(node).outbound(),
        "edition.cnn.com",
        "/politics",
    ) {
        Ok(answer) if answer.status == 200 => Ok(()),
        other => Err(format!("{other:?}")),
    };
    let open = |cluster: &Cluster, node: &str| {
        let failed = |error: std::io::Error| error.to_string();
        let mut stream = connect(cluster.node(node).upstream("db.example.com", 5432)).map_err(failed)?;
        let mut said = [0; 8];
        stream.write_all(b"hello").and_then(|()| stream.read_exact(&mut said)).map_err(failed)?;
        if &said == b"db\nhello" { Ok(stream) } else { Err(format!("{said:?}")) }
    };
    for (node, topology) in [
        ("friend", "{}"),
        ("stranger", "{proxyProtocol: {}}"),
        ("friend", "{proxyProtocol: {trustedIpBlocks: [10.0.0.0/8]}}"),
    ] {
        let limits = format!(
            "apiVersion: skein.dev/v1\nkind: MeshConfig\nmetadata: {{name: default}}\nspec: {{limits: {{connectionsPerAddress: 1, pendingHandshakes: 1}}, defaultConfig: {{gatewayTopology: {topology}}}}}\n"
        );
        cluster.push("friend", &limits, &["--wait", "all"]).expect_code(0);
        // Connections that it keeps to its own gateway were let in by what was asked of them then.
        cluster.terminate("egress");
        cluster.run("egress");
        let _kept = ["friend", "stranger"].map(|node| eventually(topology, || open(&cluster, node)));
        eventually(topology, || ask(&cluster, node));
        eventually("the other one", || ask(&cluster, if node == "friend" { "stranger" } else { "friend" }));
    }
    // A client is asked, and told of.
    let door = SocketAddr::new(cluster.node("egress").ip, DOOR);
    http::get(door, "edition.cnn.com", "/").expect_err("it is no balancer");
    let metrics = http::get(cluster.node("egress").address("admin"), "localhost", "/metrics").expect("metrics").text();
    let refused = |reason: &str| {
        let name = format!("skein_clients_refused_total{{reason=\"{reason}\"}} ");
        metrics.lines().find_map(|line| line.strip_prefix(name.as_str()).map(str::to_owned)).expect("a counter")
    };
    assert_ne!(refused("proxy_protocol"), "0");
    assert_eq!(refused("handshakes"), "0");
}
