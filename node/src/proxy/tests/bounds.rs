//! Every limit that policy sets of callers, reached: sizes of heads, pauses, connections that do not come.

use super::{
    backend::{Backend, ok},
    client::{Client, eventually, get},
    world::{Entry, World, mesh_config, traffic_policy},
};
use crate::balance::Resource;
use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::mpsc,
    time::Duration,
};

fn world(backend: &Backend) -> World {
    World::new(2, vec![Entry::new(1, "reviews", "v1", backend)])
}

fn limited(backend: &Backend, limits: &str) -> World {
    let mut world = world(backend);
    world.push(&mesh_config(&format!("{{limits: {{{limits}}}}}")));
    world
}

fn lines(count: usize) -> String {
    // One line is the host's.
    format!("GET / HTTP/1.1\r\nHost: reviews\r\n{}\r\n", "X: y\r\n".repeat(count - 1))
}

/// Connections between nodes end with the bounds that they were accepted under, at their own time.
fn until_it_passes(world: &World, text: &str) {
    eventually("the new bounds hold on both nodes", || {
        Client::connect(world.nodes[0].outbound).ask(text).is_some_and(|answer| answer.status == 200)
    });
}

#[test]
fn as_many_headers_as_are_allowed_pass_both_nodes() {
    let backend = Backend::named("v1");
    let mut world = world(&backend);
    let ask = |world: &World, text: &str| Client::connect(world.nodes[0].outbound).ask(text).expect("an answer").status;
    // This node adds lines of its own, which the other one lets pass.
    assert_eq!((ask(&world, &lines(100)), ask(&world, &lines(101))), (200, 431));
    world.push(&mesh_config("{limits: {headers: 12, headerBytes: 2048, uriBytes: 300}}"));
    until_it_passes(&world, &lines(12));
    assert_eq!((ask(&world, &lines(12)), ask(&world, &lines(13))), (200, 431));
    let target = |length: usize| format!("GET /{} HTTP/1.1\r\nHost: reviews\r\n\r\n", "a".repeat(length - 1));
    assert_eq!((ask(&world, &target(300)), ask(&world, &target(301))), (200, 414));
    let block = |length: usize| {
        let rest = "GET / HTTP/1.1\r\nHost: reviews\r\nX: \r\n\r\n".len();
        format!("GET / HTTP/1.1\r\nHost: reviews\r\nX: {}\r\n\r\n", "y".repeat(length - rest))
    };
    assert_eq!((ask(&world, &block(2_000)), ask(&world, &block(2_200))), (200, 431));
    world.push(&mesh_config("{limits: {headers: 300, headerBytes: 131072, uriBytes: 20000}}"));
    until_it_passes(&world, &lines(300));
    assert_eq!((ask(&world, &lines(300)), ask(&world, &lines(301))), (200, 431));
    assert_eq!((ask(&world, &target(20_000)), ask(&world, &target(20_001))), (200, 414));
    assert_eq!((ask(&world, &block(130_000)), ask(&world, &block(132_000))), (200, 431));
}

#[test]
fn a_head_has_its_time_whatever_it_begins_with() {
    let backend = Backend::named("v1");
    let world = limited(&backend, "headerTimeout: 2s");
    let settings = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    // A block of headers of stream 1 that does not end.
    let unfinished = format!("{settings}\0\0\0\x01\0\0\0\0\x01");
    let begun = ["GET / HT", "GET / HTTP/1.1\r\nHost: re", "PR", "PRI * HTTP/2.0\r\n\r\nSM", &unfinished];
    let stalled = begun.map(|begin| {
        let mut stream = TcpStream::connect(world.nodes[0].outbound).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.write_all(begin.as_bytes()).unwrap();
        (begin, stream)
    });
    // Heads that come one after the other have each their own time, and all together more than one has.
    let mut client = Client::connect(world.nodes[0].outbound);
    client.write("GET / HT");
    for _ in 0..11 {
        std::thread::sleep(Duration::from_millis(200));
        let next = "TP/1.1\r\nHost: reviews\r\n\r\nGET / HT";
        assert_eq!(client.ask(next).expect("the connection lives").status, 200);
    }
    for (begin, mut stream) in stalled {
        let mut rest = Vec::new();
        // A reset is an end, too.
        let ended =
            stream.read_to_end(&mut rest).map_or_else(|error| error.kind() != std::io::ErrorKind::WouldBlock, |_| true);
        assert!(ended, "{begin:?}");
    }
}

#[test]
fn a_body_that_pauses_for_too_long_is_408() {
    let backend = Backend::named("v1");
    let world = limited(&backend, "requestBodyIdle: 1s");
    let mut stalled = Client::connect(world.nodes[0].outbound);
    stalled.write("POST / HTTP/1.1\r\nHost: reviews\r\nContent-Length: 10\r\n\r\nab");
    let mut slow = Client::connect(world.nodes[0].outbound);
    slow.write("POST / HTTP/1.1\r\nHost: reviews\r\nContent-Length: 23\r\n\r\n");
    // For longer than twice the limit, which is how long it may last.
    for _ in 0..22 {
        slow.write("a");
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(slow.ask("a").expect("an answer").status, 200, "it is the pause that counts");
    assert_eq!(stalled.answer(false).expect("an answer").status, 408);
    assert!(stalled.is_closed());
}

#[test]
fn silence_ends_responses_connections_and_tunnels() {
    let backend = Backend::scripted(|arrived| match arrived.line() {
        "GET /stuck HTTP/1.1" => b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf".to_vec(),
        "GET /chat HTTP/1.1" => b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n".to_vec(),
        _ => ok("v1"),
    });
    let world = limited(&backend, "streamIdle: 2s, headerTimeout: 1h");
    let connect = || Client::connect(world.nodes[0].outbound);
    let (mut stuck, mut kept, mut dumb, mut tunnel) = (connect(), connect(), connect(), connect());
    stuck.write("GET /stuck HTTP/1.1\r\nHost: reviews\r\n\r\n");
    assert!(stuck.wait_for("half"));
    assert_eq!(kept.ask("GET / HTTP/1.1\r\nHost: reviews\r\n\r\n").unwrap().status, 200);
    let upgrade = "GET /chat HTTP/1.1\r\nHost: reviews\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    assert_eq!(tunnel.ask(upgrade).unwrap().status, 101);
    assert!(stuck.ended(), "it breaks off");
    assert!(kept.ended(), "it is closed");
    assert!(dumb.ended(), "so is a connection that never asks");
    assert!(tunnel.ended());
}

/// A node that takes connections and says nothing, on both carriers.
fn silent() -> (TcpListener, UdpSocket) {
    // Of an address where nobody else looks for a port: the number is to be free for both.
    let tcp = TcpListener::bind("127.20.0.2:0").unwrap();
    let udp = UdpSocket::bind(tcp.local_addr().unwrap()).unwrap();
    (tcp, udp)
}

#[test]
fn a_connection_that_does_not_come_is_given_up_in_time() {
    let backend = Backend::named("v1");
    let (tcp, _udp) = silent();
    let mut entry = Entry::new(1, "reviews", "v1", &backend);
    entry.address = Some(tcp.local_addr().unwrap());
    let mut world = World::new(2, vec![entry]);
    // With the default each of three attempts would take ten seconds, and the client gives up after ten.
    world.push(&mesh_config("{connectTimeout: 200ms}"));
    let answer = get(world.nodes[0].outbound, "reviews", "/");
    assert_eq!((answer.status, answer.body.contains("remote connection failure")), (503, true), "{answer:?}");
    world.push(&mesh_config("{connectTimeout: 1h}"));
    world.push(&traffic_policy("{connectionPool: {tcp: {connectTimeout: 200ms}}}"));
    assert_eq!(get(world.nodes[0].outbound, "reviews", "/").status, 503, "a rule's own counts instead");
}

#[test]
fn what_a_node_adds_to_a_response_has_room_beside_what_its_application_says() {
    let backend = Backend::scripted(|arrived| {
        let lines: usize = arrived.line().trim_start_matches("GET /").split(' ').next().unwrap().parse().unwrap();
        let more: String = (1..lines).map(|line| format!("X-{line}: {}\r\n", "v".repeat(400))).collect();
        format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n{more}\r\n").into_bytes()
    });
    let mut world = world(&backend);
    let limit = "{limit: {requests: 1000, interval: 1h}, scope: node}";
    world.push(&format!(
        "apiVersion: skein.dev/v1\nkind: RateLimit\nmetadata: {{name: r}}\nspec: {{selector: {{matchLabels: {{app: reviews}}}}, rules: [{limit}]}}\n"
    ));
    let most = get(world.nodes[0].outbound, "reviews", "/132");
    assert_eq!((most.status, most.header("x-131").map(str::len)), (200, Some(400)));
    assert!(most.header("ratelimit-limit").is_some(), "{}", most.head);
    let beyond = get(world.nodes[0].outbound, "reviews", "/133");
    assert_eq!(beyond.status, 502);
    assert!(world.metrics(1).contains("response_flags=\"UPE\""), "its own node says whose fault it is");
}

#[test]
fn who_waits_for_a_connection_does_not_wait_for_ever() {
    let (hold, held) = mpsc::sync_channel::<()>(1);
    let held = std::sync::Mutex::new(held);
    let backend = Backend::scripted(move |arrived| {
        if arrived.line().contains("/hold") {
            let _ = held.lock().unwrap().recv_timeout(Duration::from_secs(30));
        }
        ok("v1")
    });
    let mut world = world(&backend);
    world.push(&traffic_policy("{connectionPool: {tcp: {maxConnections: 1}}}"));
    let mut first = Client::connect(world.nodes[0].outbound);
    first.write("GET /hold HTTP/1.1\r\nHost: reviews\r\n\r\n");
    eventually("it is under way", || !backend.arrived().is_empty());
    world.push(&mesh_config("{connectTimeout: 200ms}"));
    let second = get(world.nodes[0].outbound, "reviews", "/");
    assert_eq!((second.status, second.header("x-envoy-overloaded")), (503, Some("true")), "{second:?}");
    // A route's own limit of time counts in its place.
    world.push(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: r}\nspec: {hosts: [reviews], http: [{timeout: 700ms, route: [{destination: {host: reviews}}]}]}\n",
    );
    assert_eq!(get(world.nodes[0].outbound, "reviews", "/").status, 504);
    hold.send(()).unwrap();
    assert_eq!(first.answer(false).expect("an answer").status, 200);
    assert_eq!(get(world.nodes[0].outbound, "reviews", "/").status, 200);
}

#[test]
fn who_waits_before_the_application_waits_as_long_as_the_caller_does() {
    let (hold, held) = mpsc::sync_channel::<()>(1);
    let held = std::sync::Mutex::new(held);
    let backend = Backend::scripted(move |arrived| {
        if arrived.line().contains("/hold") {
            let _ = held.lock().unwrap().recv_timeout(Duration::from_secs(30));
        }
        ok("v1")
    });
    let mut world = World::new(4, vec![Entry::new(1, "reviews", "v1", &backend)]);
    // Each caller has a connection; together they have one.
    world.push(&traffic_policy("{connectionPool: {tcp: {maxConnections: 1, connectTimeout: 200ms}}}"));
    let [mut first, mut second, mut gone] = [0, 2, 3].map(|node: usize| Client::connect(world.nodes[node].outbound));
    first.write("GET /hold HTTP/1.1\r\nHost: reviews\r\n\r\n");
    eventually("it is under way", || !backend.arrived().is_empty());
    second.write("POST /waits HTTP/1.1\r\nHost: reviews\r\nContent-Length: 3\r\n\r\nabc");
    gone.write("POST /gone HTTP/1.1\r\nHost: reviews\r\nContent-Length: 3\r\n\r\nabc");
    let circuits = std::sync::Arc::clone(&world.circuits[1]);
    let waiting = || circuits.all().iter().map(|circuit| circuit.pool.count(Resource::Pending)).sum::<u32>();
    eventually("both wait", || waiting() == 2);
    // For much longer than a connection may take to open.
    std::thread::sleep(Duration::from_millis(800));
    assert_eq!((waiting(), second.rest().as_slice()), (2, &b""[..]));
    drop(gone);
    eventually("one is gone", || waiting() == 1);
    let mut long = Client::connect(world.nodes[3].outbound);
    let length = 1_000_000;
    long.write(format!("POST /long HTTP/1.1\r\nHost: reviews\r\nContent-Length: {length}\r\n\r\n"));
    long.write(vec![b'x'; length]);
    let refused = long.answer(false).expect("an answer");
    assert_eq!((refused.status, refused.header("x-envoy-overloaded")), (503, Some("true")), "{refused:?}");
    hold.send(()).unwrap();
    assert_eq!(first.answer(false).expect("an answer").status, 200);
    assert_eq!(second.answer(false).expect("an answer").status, 200);
    let arrived = backend.arrived();
    let lines: Vec<&str> = arrived.iter().map(|arrived| arrived.line()).collect();
    assert_eq!(lines, ["GET /hold HTTP/1.1", "POST /waits HTTP/1.1"]);
    assert_eq!(backend.last().body, b"abc");
}

#[test]
fn handshakes_that_stall_are_ended_and_counted() {
    let backend = Backend::named("v1");
    let world = limited(&backend, "tlsHandshakeTimeout: 300ms, pendingHandshakes: 4");
    let ends = |stream: &mut TcpStream| {
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        !matches!(stream.read(&mut [0]), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
    };
    let address = world.nodes[1].mesh.local_addr();
    let mut stalled: Vec<TcpStream> = (0..6).map(|_| TcpStream::connect(address).unwrap()).collect();
    assert!(stalled.iter_mut().all(ends));
    // Two had their time, four had no place: one address gets half. One is counted when its connection is closed already.
    let failures = &world.nodes[1].mesh.counters().handshake_failures;
    eventually("all are counted", || failures.load(std::sync::atomic::Ordering::Relaxed) >= 6);
    // On a busy machine an honest one may be as slow.
    eventually("others come in", || get(world.nodes[0].outbound, "reviews", "/").status == 200);
}

#[test]
fn connections_beyond_the_limit_wait_for_others_to_end() {
    let backend = Backend::named("v1");
    let world = limited(&backend, "connections: 16");
    let address = world.nodes[0].outbound;
    const GET: &str = "GET / HTTP/1.1\r\nHost: reviews\r\n\r\n";
    let mut kept: Vec<Client> = (0..16).map(|_| Client::connect(address)).collect();
    assert!(kept.iter_mut().all(|client| client.ask(GET).expect("an answer").status == 200));
    let mut late = Client::connect(address);
    late.write(GET);
    assert!(late.rest().is_empty(), "nobody has looked at it");
    assert_eq!(kept[0].ask(GET).expect("an answer").status, 200);
    kept.pop();
    assert!(late.wait_for("200 OK"));
}

#[test]
fn a_full_node_closes_a_port_all_the_same() {
    let backend = Backend::scripted(|_| ok("whole"));
    let world = limited(&backend, "connections: 16");
    let outbound = world.nodes[0].outbound;
    // One more is accepted and waits for its place.
    let mut crowd: Vec<Client> = (0..17).map(|_| Client::connect(outbound)).collect();
    for client in &mut crowd[..16] {
        assert_eq!(client.ask("GET / HTTP/1.1\r\nHost: reviews\r\n\r\n").expect("an answer").status, 200);
    }
    world.configure(0, &[]).unwrap();
    eventually("it listens no more", || TcpStream::connect(outbound).is_err());
}

#[test]
fn a_change_of_limits_ends_connections_that_were_accepted_under_others() {
    let backend = Backend::named("v1");
    let mut world = world(&backend);
    let (runtime, tasks) = (super::http2::runtime(), crate::tasks::Tasks::new());
    let mut sender = runtime.block_on(super::http2::connect(world.nodes[0].outbound, &tasks));
    let request = http::Request::get("http://reviews/").body(super::http2::full("")).unwrap();
    assert_eq!(runtime.block_on(sender.send_request(request)).unwrap().status(), 200);
    let mut kept = Client::connect(world.nodes[0].outbound);
    const GET: &str = "GET / HTTP/1.1\r\nHost: reviews\r\n\r\n";
    assert_eq!(kept.ask(GET).expect("an answer").status, 200);
    world.push(&mesh_config("{connectTimeout: 3s}"));
    assert_eq!(kept.ask(GET).expect("no limit of connections has changed").status, 200);
    world.push(&mesh_config("{limits: {streams: 2}}"));
    assert!(kept.ended());
    runtime.block_on(async {
        while !sender.is_closed() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
}

#[test]
fn localities_count_where_the_mesh_says_so() {
    let (near, far) = (Backend::named("near"), Backend::named("far"));
    let mut world = World::new(3, vec![Entry::new(1, "reviews", "v1", &near), Entry::new(2, "reviews", "v1", &far)]);
    world.push(&traffic_policy("{outlierDetection: {}, loadBalancer: {simple: ROUND_ROBIN}}"));
    let seen = |world: &World| {
        let answers = (0..8).map(|_| get(world.nodes[0].outbound, "reviews", "/").body);
        answers.collect::<std::collections::BTreeSet<_>>().len()
    };
    assert_eq!(seen(&world), 1, "the near one");
    world.push(&mesh_config("{localityLbSetting: {enabled: false}}"));
    assert_eq!(seen(&world), 2);
    let own = "{outlierDetection: {}, loadBalancer: {simple: ROUND_ROBIN, localityLbSetting: {enabled: true}}}";
    world.push(&traffic_policy(own));
    assert_eq!(seen(&world), 1, "a rule's own setting counts instead");
}
