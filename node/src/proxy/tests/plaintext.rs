//! Callers outside the mesh, in plaintext at a service's own port: whom PeerAuthentication lets in, as nobody, under all policy.

use super::{
    backend::{Backend, Buffered, ok},
    client::{Client, eventually, get, with},
    http2::{connect, full, runtime},
    world::{Entry, World, mesh_config},
};
use crate::{config::Protocol, tasks::Tasks};
use http_body_util::BodyExt;
use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

const ANY: &str = "127.0.0.1:0";

/// A caller in the mesh, and `reviews` on another node with a port for callers outside.
fn world(target: SocketAddr, protocol: Protocol) -> (World, SocketAddr) {
    let entry = Entry { plaintext: ANY.parse().ok(), ..Entry::at(1, "reviews", "v1", target, protocol) };
    let world = World::new(2, vec![entry]);
    let port = world.nodes[1].plaintext[0];
    (world, port)
}

fn web() -> (World, Backend, SocketAddr) {
    let backend = Backend::named("v1");
    let (world, port) = world(backend.address, Protocol::Http);
    (world, backend, port)
}

fn security(kind: &str, name: &str, spec: &str) -> String {
    format!("apiVersion: security.istio.io/v1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {spec}\n")
}

fn mode(mode: &str) -> String {
    security("PeerAuthentication", "mode", &format!("{{mtls: {{mode: {mode}}}}}"))
}

fn only(rule: &str) -> String {
    security("AuthorizationPolicy", "only", &format!("{{action: ALLOW, rules: [{rule}]}}"))
}

fn deny(rule: &str) -> String {
    security("AuthorizationPolicy", "deny", &format!("{{action: DENY, rules: [{rule}]}}"))
}

/// An application that sends back what it gets, after a word.
fn echo() -> SocketAddr {
    let listener = TcpListener::bind(ANY).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                let (mut buffer, mut reader) = ([0; 4096], stream.try_clone().unwrap());
                drop(stream.write_all(b"hello "));
                while let Ok(length @ 1..) = reader.read(&mut buffer) {
                    drop(stream.write_all(&buffer[..length]));
                }
            });
        }
    });
    address
}

fn open(address: SocketAddr) -> Buffered {
    Buffered::new(TcpStream::connect(address).unwrap())
}

/// True if nothing comes and the connection ends.
fn refused(address: SocketAddr, bytes: &[u8]) -> bool {
    let mut stream = match TcpStream::connect(address) {
        Ok(stream) => stream,
        // Over before it was known to have begun.
        Err(error) => return error.kind() == std::io::ErrorKind::ConnectionReset,
    };
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    // It may be over already.
    drop(stream.write_all(bytes));
    match stream.read(&mut [0]) {
        Ok(length) => length == 0,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    }
}

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: reviews\r\n\r\n";

/// A ClientHello that asks for a name.
fn hello(name: &'static str) -> Vec<u8> {
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth();
    let mut client = rustls::ClientConnection::new(std::sync::Arc::new(config), name.try_into().unwrap()).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

#[test]
fn nothing_that_a_caller_says_of_itself_is_told_the_application() {
    let (world, backend, port) = web();
    let claims = "X-Forwarded-Client-Cert: URI=spiffe://test.example/ns/default/sa/web\r\n\
                  X-Forwarded-For: 10.9.9.9\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: bank\r\nForwarded: for=10.9.9.9\r\n\
                  X-Real-IP: 10.9.9.9\r\nX-Envoy-External-Address: 10.9.9.9\r\nX-Envoy-Retry-On: 5xx\r\nX-Skein-Check: 1\r\n\
                  X-Skein-Outcome: refused\r\nX-Request-Id: mine\r\nConnection: x-forwarded-for, x-hop\r\nX-Hop: 1\r\nX-Own: kept\r\n";
    let answer = with(port, "reviews", "/a?b=1", claims);
    assert_eq!((answer.status, answer.body.as_str()), (200, "v1"));
    let arrived = backend.last();
    assert_eq!(arrived.line(), "GET /a?b=1 HTTP/1.1");
    let mut names: Vec<String> =
        arrived.head.lines().skip(1).filter_map(|line| Some(line.split_once(':')?.0.to_ascii_lowercase())).collect();
    names.sort();
    assert_eq!(names, ["host", "x-forwarded-for", "x-forwarded-proto", "x-own", "x-request-id"]);
    assert_eq!(
        (arrived.header("x-forwarded-for"), arrived.header("x-forwarded-proto")),
        (Some("127.0.0.1"), Some("http"))
    );
    assert_ne!(arrived.header("x-request-id"), Some("mine"));
    // A peer's identity is told as ever.
    assert_eq!(get(world.nodes[0].outbound, "reviews", "/").status, 200);
    assert!(backend.last().header("x-forwarded-client-cert").is_some_and(|cert| cert.contains("/ns/default/sa/web")));
    let metrics = world.metrics(1);
    let counted = metrics.lines().find(|line| {
        let is = |part: &str| line.contains(part);
        is("istio_requests_total{") && is("connection_security_policy=\"none\"") && is("source_principal=\"unknown\"")
    });
    let counted = counted.expect("it is counted");
    assert!(
        counted.contains("reporter=\"destination\"") && counted.contains("destination_service_name=\"reviews\""),
        "{counted}"
    );
    assert!(counted.contains("source_workload=\"unknown\"") && counted.ends_with(" 1"), "{counted}");
}

#[test]
fn nothing_that_a_caller_says_of_its_way_comes_behind_the_body() {
    let listener = TcpListener::bind(ANY).unwrap();
    let (_world, port) = world(listener.local_addr().unwrap(), Protocol::Http);
    let application = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let (mut all, mut buffer) = (Vec::new(), [0; 4096]);
        let is_whole = |all: &[u8]| all.ends_with(b"\r\n\r\n") && all.windows(3).any(|part| part == b"0\r\n");
        while !is_whole(&all) {
            match stream.read(&mut buffer).unwrap() {
                0 => break,
                length => all.extend(&buffer[..length]),
            }
        }
        stream.write_all(&ok("v1")).unwrap();
        String::from_utf8(all).unwrap().to_ascii_lowercase()
    });
    let request = "POST / HTTP/1.1\r\nHost: reviews\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n2\r\nab\r\n0\r\n\
                   X-Sum: 1\r\nX-Forwarded-Proto: https\r\nX-Envoy-Retry-On: 5xx\r\nX-Request-Id: mine\r\n\r\n";
    assert_eq!(Client::connect(port).ask(request).expect("an answer").status, 200);
    let arrived = application.join().unwrap();
    let (_, trailers) = arrived.split_once("\r\n0\r\n").expect("an end");
    assert_eq!(trailers, "x-sum: 1\r\n\r\n", "{arrived}");
}

#[test]
fn what_nodes_tell_each_other_is_not_told_outside() {
    let silent = Backend::scripted(|_| Vec::new());
    let (_world, port) = world(silent.address, Protocol::Http);
    let answer = get(port, "reviews", "/");
    assert_eq!((answer.status, answer.header("x-skein-outcome")), (503, None), "{}", answer.head);
    let mut client = Client::connect(port);
    client.write("HEAD / HTTP/1.1\r\nHost: reviews\r\n\r\n");
    assert_eq!(client.answer(true).expect("an answer").status, 503);
    assert!(client.rest().is_empty(), "the answer to HEAD has no body");
}

#[test]
fn peer_authentication_says_who_comes_in() {
    let (mut world, backend, port) = web();
    let peer = |world: &World| get(world.nodes[0].outbound, "reviews", "/").status;
    assert_eq!((get(port, "reviews", "/").status, peer(&world)), (200, 200), "PERMISSIVE is the default");
    world.push(&mode("STRICT"));
    let before = backend.arrived().len();
    assert!(refused(port, GET) && refused(port, b"") && refused(port, &hello("a.org")), "not a byte");
    assert_eq!((peer(&world), backend.arrived().len()), (200, before + 1), "peers are let in");
    let refused_count = || {
        let metrics = world.metrics(1);
        metrics.lines().any(|line| {
            line.starts_with("istio_tcp_connections_closed_total{") && line.contains("response_flags=\"NR\"")
        })
    };
    assert!(refused_count(), "{}", world.metrics(1));
    // The port of the application, not of the service.
    let own = backend.address.port();
    let ports = |ports: &str| {
        let spec = format!("{{selector: {{matchLabels: {{app: reviews}}}}, portLevelMtls: {{{ports}}}}}");
        security("PeerAuthentication", "own", &spec)
    };
    world.push(&ports(&format!("{own}: {{mode: PERMISSIVE}}")));
    assert_eq!(get(port, "reviews", "/").status, 200);
    world.push(&ports("9080: {mode: PERMISSIVE}"));
    assert!(refused(port, GET));
    world.push(&mode("DISABLE"));
    assert_eq!((get(port, "reviews", "/").status, peer(&world)), (200, 200), "between nodes TLS stays");
}

#[test]
fn strict_ends_what_goes_on() {
    let long = Backend::scripted(|arrived| match arrived.line().contains("/long") {
        true => b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nfirst".to_vec(),
        false => ok("v1"),
    });
    let (mut world, port) = world(long.address, Protocol::Http);
    let mut idle = Client::connect(port);
    assert_eq!(idle.ask(GET).expect("an answer").status, 200);
    let mut under_way = Client::connect(port);
    under_way.write("GET /long HTTP/1.1\r\nHost: reviews\r\n\r\n");
    assert!(under_way.wait_for("first"));
    let mut silent = open(port);
    world.push(&mode("PERMISSIVE"));
    assert!(under_way.rest().ends_with(b"first") && idle.ask(GET).is_some(), "nothing has changed for it");
    world.push(&mode("STRICT"));
    assert!(idle.ended() && under_way.ended() && silent.ended());
    assert!(refused(port, GET));
}

#[test]
fn nobody_has_no_name_in_policies() {
    let (mut world, backend, port) = web();
    let own = backend.address.port();
    let mut asked = |document: String| {
        world.push(&document);
        let status = get(port, "reviews", "/").status;
        world.push(&only("{}"));
        world.push(&deny("{to: [{operation: {paths: ['/never']}}]}"));
        status
    };
    let from = |source: &str| format!("{{from: [{{source: {{{source}}}}}]}}");
    for (source, met) in [
        ("principals: ['*']", false),
        ("principals: ['test.example/ns/default/sa/web']", false),
        ("notPrincipals: ['*']", true),
        ("notPrincipals: ['test.example/ns/default/sa/web']", true),
        ("namespaces: [default]", false),
        ("namespaces: ['*']", false),
        ("notNamespaces: [default]", true),
        ("serviceAccounts: ['default/web']", false),
        ("notServiceAccounts: ['default/web']", true),
        ("ipBlocks: [127.0.0.0/8]", true),
        ("ipBlocks: [10.0.0.0/8]", false),
        ("notIpBlocks: [10.0.0.0/8]", true),
        ("remoteIpBlocks: [127.0.0.1]", true),
        ("requestPrincipals: ['*']", false),
        ("notRequestPrincipals: ['*']", true),
    ] {
        assert_eq!(asked(only(&from(source))), if met { 200 } else { 403 }, "ALLOW {source}");
        assert_eq!(asked(deny(&from(source))), if met { 403 } else { 200 }, "DENY {source}");
    }
    let when = |key: &str, value: &str| only(&format!("{{when: [{{key: {key}, values: ['{value}']}}]}}"));
    assert_eq!(asked(when("destination.ip", "127.0.0.1")), 200);
    assert_eq!(asked(when("destination.port", &own.to_string())), 200, "the application's");
    assert_eq!(asked(when("source.ip", "127.0.0.1")), 200);
    assert_eq!(asked(when("source.principal", "*")), 403);
    // What forbids a host means all names of the service, written however.
    let hosts = || deny("{to: [{operation: {hosts: [reviews]}}]}");
    assert_eq!(asked(hosts()), 403);
    world.push(&hosts());
    assert_eq!(get(port, "REVIEWS.default.svc.cluster.local:9080", "/").status, 403);
    world.push(&deny("{to: [{operation: {paths: [/admin]}}]}"));
    assert_eq!(get(port, "x", "/a/../%61dmin").status, 403);
    assert_eq!(get(port, "x", "/a%2fb").status, 400, "it has no normal form");
}

#[test]
fn a_gateway_that_means_every_workload_means_nobody_outside() {
    let (mut world, backend, port) = web();
    world.push(
        "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: all, namespace: istio-system}\nspec: {servers: [{port: {number: 8080, name: http, protocol: HTTP}, hosts: ['*']}]}\n",
    );
    world.push(&deny("{from: [{source: {remoteIpBlocks: [127.0.0.1]}}]}"));
    let answer = with(port, "reviews", "/", "X-Envoy-External-Address: 10.9.9.9\r\nX-Forwarded-For: 10.9.9.9\r\n");
    assert_eq!((answer.status, backend.arrived().len()), (403, 0));
}

#[test]
fn limits_and_records_know_it() {
    let (mut world, backend, port) = web();
    world.push(
        "apiVersion: skein.dev/v1\nkind: RateLimit\nmetadata: {name: r}\nspec: {selector: {matchLabels: {app: reviews}}, rules: [{per: [source.ip], scope: node, limit: {requests: 1, interval: 1h, burst: 2}}]}\n",
    );
    let statuses: Vec<u16> = (0..3).map(|_| get(port, "reviews", "/").status).collect();
    assert_eq!((statuses, backend.arrived().len()), (vec![200, 200, 429], 2));
}

#[test]
fn http2_comes_by_prior_knowledge() {
    let (runtime, tasks) = (runtime(), Tasks::new());
    let (mut world, backend, port) = web();
    runtime.block_on(async {
        let mut sender = connect(port, &tasks).await;
        let mut get = async |uri: &str| {
            let request = http::Request::get(uri).header("x-forwarded-for", "10.9.9.9").body(full("")).unwrap();
            let answer = sender.send_request(request).await.unwrap();
            let status = answer.status().as_u16();
            (status, answer.into_body().collect().await.unwrap().to_bytes())
        };
        assert_eq!(get("http://reviews/").await, (200, "v1".into()));
        assert_eq!(backend.last().header("x-forwarded-for"), Some("127.0.0.1"));
        world.push(&deny("{from: [{source: {notPrincipals: ['*']}}]}"));
        assert_eq!(get("http://reviews/").await, (403, "RBAC: access denied".into()));
        world.push(&mode("STRICT"));
        let request = http::Request::get("http://reviews/").body(full("")).unwrap();
        assert!(sender.send_request(request).await.is_err(), "the connection is closed");
    });
}

const UPGRADE: &str = "GET /chat HTTP/1.1\r\nHost: reviews\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";

fn chat() -> Backend {
    Backend::scripted(|arrived| match arrived.header("upgrade") {
        Some(_) => b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n".to_vec(),
        None => ok("v1"),
    })
}

#[test]
fn a_tunnel_that_policy_denies_now_is_closed() {
    let backend = chat();
    let (mut world, port) = world(backend.address, Protocol::Http);
    for document in [deny("{to: [{operation: {paths: [/chat]}}]}"), mode("STRICT")] {
        let mut tunnel = Client::connect(port);
        assert_eq!(tunnel.ask(UPGRADE).expect("an answer").status, 101);
        // The backend reads what comes as requests: that it answers shows that the tunnel is open.
        assert_eq!(tunnel.ask("GET / HTTP/1.1\r\n\r\n").expect("the tunnel is open").body, "v1");
        world.push(&document);
        assert!(tunnel.ended());
        world.push(&deny("{to: [{operation: {paths: [/other]}}]}"));
    }
}

#[test]
fn a_tunnel_holds_its_place() {
    let (mut world, port) = world(chat().address, Protocol::Http);
    world.push(&mesh_config("{limits: {connectionsPerAddress: 3}}"));
    let mut tunnels: Vec<Client> = (0..3).map(|_| Client::connect(port)).collect();
    for tunnel in &mut tunnels {
        assert_eq!(tunnel.ask(UPGRADE).expect("an answer").status, 101);
        assert_eq!(tunnel.ask("GET / HTTP/1.1\r\n\r\n").expect("the tunnel is open").body, "v1");
    }
    assert!(refused(port, GET), "a fourth of this address");
    drop(tunnels);
    eventually("there is room again", || !refused(port, GET));
}

#[test]
fn bytes_are_judged_as_connections() {
    let (mut world, port) = world(echo(), Protocol::Tcp);
    let mut first = open(port);
    assert!(first.wait_for(b"hello "), "the server speaks first");
    first.stream.write_all(b"GET /admin HTTP/1.1\r\n\r\n").unwrap();
    assert!(first.wait_for(b"/admin"), "nobody reads it");
    world.push(&deny("{from: [{source: {ipBlocks: [10.0.0.0/8]}}]}"));
    first.stream.write_all(b"again").unwrap();
    assert!(first.wait_for(b"again"));
    world.push(&deny("{from: [{source: {notPrincipals: ['*']}}]}"));
    assert!(first.ended() && refused(port, b"x"));
    world.push(&deny("{to: [{operation: {methods: [POST]}}]}"));
    assert!(refused(port, b"x"), "what forbids a method forbids bytes");
    world.push(&deny("{from: [{source: {principals: ['*']}}]}"));
    let mut second = open(port);
    assert!(second.wait_for(b"hello "));
    world.push(&mode("STRICT"));
    assert!(second.ended() && refused(port, b"x"));
}

#[test]
fn tls_is_the_applications_own_or_refused() {
    for protocol in [Protocol::Tcp, Protocol::Tls, Protocol::Sniffed] {
        let (mut world, port) = world(echo(), protocol);
        let bytes = hello("db.example");
        let mut stream = open(port);
        stream.stream.write_all(&bytes).unwrap();
        assert!(stream.wait_for(&bytes), "{protocol:?}: byte for byte");
        if protocol != Protocol::Tcp {
            world.push(&only("{when: [{key: connection.sni, values: [db.example]}]}"));
            stream.stream.write_all(b"more").unwrap();
            assert!(stream.wait_for(b"more"), "{protocol:?}");
            assert!(refused(port, &hello("other.example")), "{protocol:?}");
        }
    }
    let (_world, backend, port) = web();
    assert!(refused(port, &hello("reviews")) && backend.arrived().is_empty());
}

#[test]
fn what_is_not_declared_is_found_out_and_half_a_request_is_nothing() {
    let backend = Backend::named("v1");
    let (mut world, port) = world(backend.address, Protocol::Sniffed);
    world.push(&mesh_config("{limits: {headerTimeout: 1s}}"));
    assert_eq!(get(port, "reviews", "/").status, 200);
    assert!(backend.last().header("x-forwarded-for").is_some());
    let before = backend.arrived().len();
    let slow = ["", "GE", "GET / HTTP/1.1"].map(|begun| {
        let mut slow = open(port);
        slow.stream.write_all(begun.as_bytes()).unwrap();
        (begun, slow)
    });
    for (begun, mut slow) in slow {
        assert!(slow.ended(), "{begun:?}");
    }
    eventually("who is cut off is told of", || {
        world.metrics(1).lines().any(|line| line.starts_with("istio_tcp") && line.contains("DPE"))
    });
    // Once more: nobody's claim reaches the application by being slow.
    let mut slow = Client::connect(port);
    slow.write("GE");
    assert!(slow.ended());
    slow.write("T / HTTP/1.1\r\nHost: x\r\nX-Forwarded-Client-Cert: me\r\n\r\n");
    assert_eq!(backend.arrived().len(), before);
}

#[test]
fn one_address_cannot_keep_the_others_out() {
    let (mut world, _backend, port) = web();
    world.push(&mesh_config("{limits: {connectionsPerAddress: 3, headerTimeout: 1s}}"));
    let held: Vec<Client> = (0..3)
        .map(|_| {
            let mut client = Client::connect(port);
            assert_eq!(client.ask(GET).expect("an answer").status, 200);
            client
        })
        .collect();
    assert!(refused(port, GET), "a fourth of this address");
    let mut other = Client::connect_from("127.0.0.7:0".parse().unwrap(), port);
    assert_eq!(other.ask(GET).expect("an answer").status, 200);
    drop(held);
    // A head that does not go on holds its place for so long only.
    let mut slow = Client::connect_from("127.0.0.8:0".parse().unwrap(), port);
    slow.write("GET / HTTP/1.1\r\nHost: reviews\r\nX-Slow: ");
    assert!(slow.ended());
}

#[test]
fn what_is_no_request_of_http_1_1_is_refused_here() {
    let (_world, backend, port) = web();
    let status = |text: &str| Client::connect(port).ask(text).map(|answer| answer.status);
    assert_eq!(status("GET / HTTP/1.0\r\nHost: reviews\r\n\r\n"), Some(426));
    assert_eq!(status("CONNECT reviews:9080 HTTP/1.1\r\nHost: reviews:9080\r\n\r\n"), Some(404));
    assert_eq!(status("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"), Some(400));
    assert_eq!(
        status("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        Some(400)
    );
    // What a node may add to a head is not room for those outside.
    let long = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(9 << 10));
    assert_eq!(status(&long), Some(414));
    assert!(backend.arrived().is_empty());
}

#[test]
fn ports_come_and_go_with_the_configuration() {
    let (mut world, backend, port) = web();
    let mut kept = Client::connect(port);
    assert_eq!(kept.ask(GET).expect("an answer").status, 200);
    assert_eq!(world.configure(1, &[]).unwrap().plaintext[0].listen, port, "the same stays open");
    assert_eq!(get(port, "reviews", "/").status, 200);
    world.register(|entries| entries[0].plaintext = None);
    assert!(world.configure(1, &[]).unwrap().plaintext.is_empty());
    let shut = || TcpStream::connect(port).map_err(drop).and_then(|stream| stream.peer_addr().map_err(drop)).is_err();
    eventually("the port is shut", shut);
    assert!(kept.ended(), "nobody is served at a port that is shut");
    // An address goes on to another port, and who is there does not.
    world.register(|entries| entries[0].plaintext = Some(port));
    assert_eq!(world.configure(1, &[]).unwrap().plaintext[0].listen, port);
    let mut kept = Client::connect(port);
    assert_eq!(kept.ask(GET).expect("an answer").status, 200);
    world.register(|entries| entries[0].service = "other");
    let moved = world.configure(1, &[]).expect("it is its own address");
    assert_eq!(
        (moved.plaintext[0].listen, moved.plaintext[0].service.to_string()),
        (port, "default/other/v1".to_owned())
    );
    assert!(kept.ended());
    assert_eq!(get(port, "other", "/").status, 404, "this node's identity has no such service");
    world.register(|entries| entries[0].service = "reviews");
    assert_eq!(world.configure(1, &[]).unwrap().plaintext[0].service.to_string(), "default/reviews/v1");
    let mut kept = Client::connect(port);
    assert_eq!(kept.ask(GET).expect("an answer").status, 200);
    // One that is taken is told, and nothing has changed then.
    let taken = TcpListener::bind(ANY).unwrap();
    world.register(|entries| entries[0].plaintext = taken.local_addr().ok());
    let error = world.configure(1, &[]).unwrap_err().to_string();
    assert!(error.contains("cannot listen on 127.0.0.1:"), "{error}");
    assert_eq!(kept.ask(GET).expect("what goes on goes on").status, 200);
    assert_eq!(backend.arrived().len(), 5);
}
