//! Clients outside the mesh at a gateway's ports: slow ones (A102), handshakes that stall (A103), a header of the PROXY protocol for which
//! nobody asked, and one that a balancer is declared to send (A112).

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use harness::{
    PATIENCE,
    cluster::{Cluster, Plan, Service},
    eventually,
    http::{self, Connection},
    process::Skein,
};

/// Two doors before `shop/cart`, with these limits: HTTP at 8080, TLS at 8443.
fn edge(limits: &str) -> Cluster {
    let labels = vec![("istio".to_owned(), "ingressgateway".to_owned())];
    let plans = [
        ("edge", Plan::with([Service { labels, ..Service::client("istio-system/ingress") }])),
        ("shop", Plan::with([Service::version("shop/cart", "v1")])),
    ];
    let cluster = Cluster::start(Skein::at(env!("CARGO_BIN_EXE_skein-under-test")), &plans);
    cluster.wait_members(PATIENCE);
    cluster.wait_endpoints("shop/cart", 1);
    let documents = format!(
        "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{name: public, namespace: shop}}\nspec: {{selector: {{istio: ingressgateway}}, servers: [\
         {{port: {{number: 8080, name: http, protocol: HTTP}}, hosts: ['*']}}, \
         {{port: {{number: 8443, name: tls, protocol: HTTPS}}, hosts: ['*'], tls: {{mode: SIMPLE, credentialName: none}}}}]}}\n\
         ---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: cart, namespace: shop}}\nspec: {{hosts: ['*'], gateways: [public], http: [{{route: [{{destination: {{host: cart}}}}]}}]}}\n\
         ---\napiVersion: skein.dev/v1\nkind: MeshConfig\nmetadata: {{name: default}}\nspec: {{limits: {limits}}}\n"
    );
    cluster.push("shop", &documents, &["--wait", "all"]).expect_code(0);
    eventually("requests come through", || match http::get(at(&cluster, 8080), "a.org", "/")?.status {
        200 => Ok(()),
        other => Err(other.to_string()),
    });
    eventually("the other door is open", || Connection::open(at(&cluster, 8443)).map(drop).map_err(|e| e.to_string()));
    cluster
}

fn at(cluster: &Cluster, port: u16) -> SocketAddr {
    SocketAddr::new(cluster.node("edge").ip, port)
}

fn open(cluster: &Cluster, port: u16) -> TcpStream {
    let stream = TcpStream::connect(at(cluster, port)).expect("it listens");
    stream.set_read_timeout(Some(Duration::from_millis(5))).expect("a socket");
    stream
}

/// True if the node has ended it, whatever it said before.
fn is_over(mut stream: &TcpStream) -> bool {
    loop {
        match stream.read(&mut [0; 4096]) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
        }
    }
}

fn ended(what: &str, streams: &[TcpStream]) {
    eventually(what, || match streams.iter().filter(|stream| !is_over(stream)).count() {
        0 => Ok(()),
        left => Err(format!("{left} of {} are open", streams.len())),
    });
}

#[test]
fn a102_slow_clients_end_at_their_limits_and_hold_up_nobody() {
    let cluster = edge("{headerTimeout: 4s, requestBodyIdle: 4s, connectionsPerAddress: 1000}");
    let begun = |text: &'static [u8]| {
        let slow = (0..150).map(|_| open(&cluster, 8080));
        slow.map(|mut stream| stream.write_all(text).map(|()| stream)).collect::<Result<Vec<_>, _>>().expect("open")
    };
    let heads = begun(b"GET / HTTP/1.1\r\nhost: a.org\r\nx-slow: ");
    let bodies = begun(b"POST / HTTP/1.1\r\nhost: a.org\r\ncontent-length: 100\r\n\r\nx");
    let beside = (0..20).filter(|_| {
        assert_eq!(http::get(at(&cluster, 8080), "a.org", "/").expect("an answer").status, 200);
        bodies.iter().any(|slow| !is_over(slow))
    });
    assert!(beside.count() > 0, "an answer came only when the slow ones were over");
    // A byte now and then does not make a head more patient.
    let mut dripping: Vec<&TcpStream> = heads.iter().collect();
    let began = harness::now();
    while !dripping.is_empty() && began.elapsed() < PATIENCE {
        dripping.retain(|stream| { *stream }.write_all(b"x").is_ok() && !is_over(stream));
    }
    assert_eq!(dripping.len(), 0, "heads that never end");
    ended("bodies that do not come", &bodies);
}

#[test]
fn a103_handshakes_that_stall_are_few_and_end() {
    let cluster = edge("{pendingHandshakes: 8, tlsHandshakeTimeout: 4s, connectionsPerAddress: 1000}");
    let mut crowd: Vec<TcpStream> = (0..50).map(|_| open(&cluster, 8443)).collect();
    for stream in &mut crowd {
        // The first half of a ClientHello; who has no place is refused before it is read.
        drop(stream.write_all(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"));
    }
    eventually("all but half of the places are refused", || {
        match crowd.iter().filter(|stream| !is_over(stream)).count() {
            0..=4 => Ok(()),
            left => Err(format!("{left} wait")),
        }
    });
    assert_eq!(http::get(at(&cluster, 8080), "a.org", "/").expect("an answer").status, 200);
    ended("the others when their time is over", &crowd);
}

#[test]
fn a112_a_header_of_the_proxy_protocol_is_no_request() {
    let cluster = edge("{headerTimeout: 2s}");
    let backend = &cluster.node("shop").backends[0];
    backend.forget();
    let second = [
        &b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c"[..],
        &[10, 9, 9, 9, 127, 0, 0, 1, 0x10, 0x00, 0x1f, 0x90],
        b"GET / HTTP/1.1\r\nhost: a.org\r\n\r\n",
    ]
    .concat();
    let first = b"PROXY TCP4 10.9.9.9 127.0.0.1 4096 8080\r\nGET / HTTP/1.1\r\nhost: a.org\r\n\r\n";
    for header in [&second[..], first] {
        let mut connection = Connection::open(at(&cluster, 8080)).expect("it listens");
        connection.send(header).expect("it is open");
        let answer = String::from_utf8_lossy(&connection.rest()).into_owned();
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400"), "{answer}");
    }
    assert!(backend.arrivals().is_empty(), "{:?}", backend.arrivals());
}

/// A112: whoever is none of the balancers that are trusted is not heard, with a header or without.
#[test]
fn a112_only_balancers_that_are_trusted_are_heard() {
    let cluster = edge("{headerTimeout: 2s}");
    let declared = |trusted: &str| {
        let text = format!(
            "apiVersion: skein.dev/v1\nkind: MeshConfig\nmetadata: {{name: default}}\nspec: {{defaultConfig: {{gatewayTopology: {{proxyProtocol: {{trustedIpBlocks: [{trusted}]}}}}}}}}\n"
        );
        cluster.push("shop", &text, &["--wait", "all"]).expect_code(0);
    };
    let ask = |header: &[u8]| {
        let mut connection = Connection::open(at(&cluster, 8080)).expect("it listens");
        connection.send(&[header, b"GET / HTTP/1.1\r\nhost: a.org\r\n\r\n"].concat()).expect("it is open");
        connection.answer(false).map(|answer| answer.status)
    };
    let header = b"PROXY TCP4 10.9.9.9 127.0.0.1 4096 8080\r\n";
    declared("10.0.0.0/8");
    eventually("nobody here is trusted", || if ask(b"").is_err() { Ok(()) } else { Err("it came in".to_owned()) });
    let backend = &cluster.node("shop").backends[0];
    backend.forget();
    ask(header).unwrap_err();
    assert!(backend.arrivals().is_empty(), "{:?}", backend.arrivals());
    declared("10.0.0.0/8, 127.0.0.0/8");
    eventually("the balancer is trusted", || match ask(header)? {
        200 => Ok(()),
        other => Err(other.to_string()),
    });
    assert!(ask(b"").is_err(), "and says who calls");
}

/// A104: whoever keeps connections open takes no more of the node than it was measured with (`figures -- edges gateway`, ten thousand).
#[test]
fn a104_idle_connections_take_little_each() {
    const CONNECTIONS: usize = 500;
    // 1 GiB for ten thousand.
    const MOST: u64 = 107 * 1024;
    let cluster = edge("{connectionsPerAddress: 1000, headerTimeout: 60s}");
    let memory = || cluster.json("edge", &["status"])["memory_bytes"].as_u64().expect("a number");
    let before = memory();
    let ask =
        |connection: &mut Connection| connection.request("GET", "a.org", "/", &[], b"").expect("an answer").status;
    let mut kept: Vec<Connection> = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut connection = Connection::open(at(&cluster, 8080)).expect("open");
        assert_eq!(ask(&mut connection), 200);
        kept.push(connection);
    }
    let each = memory().saturating_sub(before) / CONNECTIONS as u64;
    assert!(each <= MOST, "{each} bytes each");
    assert_eq!(ask(&mut kept[0]), 200, "they are kept");
}

/// A112: where a balancer is declared, it is believed in what it says of its client, and nothing comes in without its word.
#[test]
fn a112_a_balancer_that_is_declared_names_its_clients() {
    let cluster = edge("{headerTimeout: 2s}");
    let declared = "apiVersion: skein.dev/v1\nkind: MeshConfig\nmetadata: {name: default}\nspec: {limits: {headerTimeout: 2s, connectionsPerAddress: 3}, \
                    defaultConfig: {gatewayTopology: {proxyProtocol: {}}}}\n---\n\
                    apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: closed, namespace: istio-system}\n\
                    spec: {action: DENY, rules: [{from: [{source: {remoteIpBlocks: [10.9.8.0/24]}}]}, {from: [{source: {ipBlocks: [10.9.9.0/24]}}]}]}\n";
    cluster.push("shop", declared, &["--wait", "all"]).expect_code(0);
    let backend = &cluster.node("shop").backends[0];
    let ask = |header: &[u8]| {
        let mut connection = Connection::open(at(&cluster, 8080)).expect("it listens");
        connection.send(&[header, b"GET / HTTP/1.1\r\nhost: a.org\r\n\r\n"].concat()).expect("it is open");
        connection.answer(false).map(|answer| answer.status)
    };
    let first = |client: &str| format!("PROXY TCP4 {client} 127.0.0.1 4096 8080\r\n").into_bytes();
    let second = |client: [u8; 4]| {
        let ends = [127, 0, 0, 1, 0x10, 0x00, 0x1f, 0x90];
        [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c"[..], &client, &ends].concat()
    };
    eventually("the header is read", || match ask(&first("10.9.9.9"))? {
        200 => Ok(()),
        other => Err(other.to_string()),
    });
    assert_eq!(ask(&second([10, 9, 9, 7])), Ok(200));
    let told: Vec<_> =
        backend.arrivals().iter().filter_map(|one| one.header("x-forwarded-for").map(str::to_owned)).collect();
    assert!(
        told.iter().any(|told| told == "10.9.9.9") && told.last().is_some_and(|told| told == "10.9.9.7"),
        "{told:?}"
    );
    assert_eq!(ask(&second([10, 9, 8, 1])), Ok(403), "policies see the client");
    let balancer = b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00";
    assert_eq!(ask(balancer), Ok(200), "its own question, as for its health");
    backend.forget();
    for none in [&b""[..], b"PROXY TCP4 10.9.9.9\r\n", b"PROXY"] {
        assert!(ask(none).is_err(), "{none:?}");
    }
    assert!(backend.arrivals().is_empty(), "{:?}", backend.arrivals());
    // Each client has its own share of connections, not the balancer's.
    let open = |client: &str| {
        let mut connection = Connection::open(at(&cluster, 8080)).expect("it listens");
        connection.send(&[&first(client)[..], b"GET / HTTP/1.1\r\nhost: a.org\r\n\r\n"].concat()).expect("it is open");
        let status = connection.answer(false).map(|answer| answer.status);
        (connection, status)
    };
    let kept: Vec<_> = (0..3).map(|_| open("10.9.7.1")).collect();
    assert!(kept.iter().all(|(_, status)| *status == Ok(200)), "{kept:?}");
    assert!(open("10.9.7.1").1.is_err(), "a fourth of one client");
    assert_eq!(open("10.9.7.2").1, Ok(200), "another client");
}
