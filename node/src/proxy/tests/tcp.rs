//! Connections of bytes between applications, through one node or two.

use super::{
    backend::{Backend, ok},
    client::{Client, eventually},
    world::{Entry, World, traffic_policy},
};
use crate::{config::Protocol, mesh::Transport};
use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Barrier,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

const PATIENCE: Duration = Duration::from_secs(20);

/// An application that does this with each connection.
fn application(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let serve = Arc::new(serve);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let serve = Arc::clone(&serve);
            std::thread::spawn(move || serve(patient(stream.unwrap())));
        }
    });
    address
}

/// One that answers `NAME: ` and what it got, once its caller has said all.
fn named(name: &'static str) -> SocketAddr {
    application(move |mut stream| {
        let mut all = Vec::new();
        if stream.read_to_end(&mut all).is_ok() {
            drop(stream.write_all(name.as_bytes()));
            drop(stream.write_all(b": "));
            drop(stream.write_all(&all));
        }
    })
}

fn patient(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// An endpoint of `reviews` that takes bytes.
fn bytes(node: usize, version: &'static str, target: SocketAddr) -> Entry {
    Entry::at(node, "reviews", version, target, Protocol::Tcp)
}

fn connect(world: &World) -> TcpStream {
    patient(TcpStream::connect(world.nodes[0].upstream).unwrap())
}

/// Says this, and what was answered until the end.
fn say(world: &World, text: &[u8]) -> std::io::Result<String> {
    let mut stream = connect(world);
    stream.write_all(text)?;
    stream.shutdown(Shutdown::Write)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// True if the stream ends without a further byte, in whatever way.
fn is_cut(stream: &mut TcpStream) -> bool {
    match stream.read(&mut [0]) {
        Ok(length) => length == 0,
        Err(error) => !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
    }
}

/// True if a connection is ended before a byte comes: also one that is over before its caller knows that it had begun.
fn refused(world: &World) -> bool {
    match TcpStream::connect(world.nodes[0].upstream) {
        Ok(stream) => is_cut(&mut patient(stream)),
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
    }
}

/// The sum of a metric's lines that contain all of these.
fn count(world: &World, node: usize, name: &str, with: &[&str]) -> u64 {
    let metrics = world.metrics(node);
    let lines = metrics.lines().filter(|line| line.starts_with(&format!("{name}{{")));
    let lines = lines.filter(|line| with.iter().all(|part| line.contains(part)));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}

fn l4_policy(spec: &str) -> String {
    format!("apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: l4}}\nspec: {spec}\n")
}

/// Every way from a caller to an application.
const WAYS: [(usize, Transport); 4] =
    [(1, Transport::Auto), (2, Transport::Tcp), (2, Transport::Quic), (2, Transport::Auto)];

#[test]
fn each_direction_ends_by_itself() {
    for (nodes, transport) in WAYS {
        let world = World::over(transport, nodes, vec![bytes(nodes - 1, "v1", named("one"))]);
        for text in ["first", "second"] {
            assert_eq!(say(&world, text.as_bytes()).unwrap(), format!("one: {text}"), "{nodes} {transport:?}");
        }
        assert_eq!(say(&world, b"").unwrap(), "one: ");
        for (node, reporter) in [(0, "source"), (nodes - 1, "destination")] {
            let of = |name: &str| {
                count(&world, node, name, &[&format!("reporter=\"{reporter}\""), "request_protocol=\"tcp\""])
            };
            eventually("connections are counted", || of("istio_tcp_connections_closed_total") == 3);
            assert_eq!(of("istio_tcp_connections_opened_total"), 3);
            assert_eq!(of("istio_tcp_received_bytes_total"), 11);
            assert_eq!(of("istio_tcp_sent_bytes_total"), 11 + 3 * 5);
        }
    }
}

#[test]
fn the_server_may_speak_first() {
    for (nodes, transport) in WAYS {
        let greeting = application(|mut stream| {
            stream.write_all(b"hello").unwrap();
            drop(stream.read(&mut [0; 8]));
        });
        let world = World::over(transport, nodes, vec![bytes(nodes - 1, "v1", greeting)]);
        let mut stream = connect(&world);
        let mut hello = [0; 5];
        stream.read_exact(&mut hello).unwrap();
        assert_eq!(&hello, b"hello", "{nodes} {transport:?}");
    }
}

#[test]
fn a_slow_reader_holds_its_sender_back_and_loses_nothing() {
    const SENT: usize = 48 << 20;
    // Of a length that no buffer has, so that what is lost or comes twice shows.
    let pattern: Vec<u8> = (0..251).collect();
    let text: Arc<[u8]> = pattern.repeat(SENT / pattern.len() + 1)[..SENT].into();
    for (nodes, transport) in WAYS {
        let gate = Arc::new(Barrier::new(2));
        let (waiting, expected) = (Arc::clone(&gate), Arc::clone(&text));
        let slow = application(move |mut stream| {
            waiting.wait();
            let (mut got, mut buffer) = (0, vec![0; 100_000]);
            while let Ok(length @ 1..) = stream.read(&mut buffer) {
                assert_eq!(expected.get(got..got + length), Some(&buffer[..length]), "not what was sent, after {got}");
                got += length;
            }
            stream.write_all(got.to_string().as_bytes()).unwrap();
        });
        let world = World::over(transport, nodes, vec![bytes(nodes - 1, "v1", slow)]);
        let mut stream = connect(&world);
        // Nobody reads: the kernel's buffers and the nodes' fill, and then no more is taken.
        stream.set_nonblocking(true).unwrap();
        let mut sent = 0;
        let mut pauses = 0;
        while pauses < 60 {
            match stream.write(&text[sent..]) {
                Ok(taken) => (sent, pauses) = (sent + taken, 0),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    pauses += 1;
                    std::thread::sleep(Duration::from_millis(10));
                }
                Err(error) => panic!("{error}"),
            }
        }
        assert!(sent < SENT, "{nodes} {transport:?}: all was taken, and nobody reads");
        gate.wait();
        stream.set_nonblocking(false).unwrap();
        stream.write_all(&text[sent..]).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, SENT.to_string(), "{nodes} {transport:?}");
    }
}

#[test]
fn a_reset_is_no_end_whichever_side_it_comes_from() {
    for (nodes, transport) in WAYS {
        let resets = Arc::new(AtomicUsize::new(0));
        let seen = Arc::clone(&resets);
        let application = application(move |mut stream| {
            let mut word = [0; 4];
            stream.read_exact(&mut word).unwrap();
            if word == *b"quit" {
                stream.write_all(b"part").unwrap();
                socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
                return;
            }
            stream.write_all(b"wait").unwrap();
            if stream.read(&mut [0]).is_err() {
                seen.fetch_add(1, SeqCst);
            }
        });
        let world = World::over(transport, nodes, vec![bytes(nodes - 1, "v1", application)]);
        let mut stream = connect(&world);
        stream.write_all(b"quit").unwrap();
        let error = stream.read_to_end(&mut Vec::new()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{nodes} {transport:?}");
        let mut stream = connect(&world);
        stream.write_all(b"stay").unwrap();
        stream.read_exact(&mut [0; 4]).unwrap();
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
        drop(stream);
        eventually("the application sees a reset", || resets.load(SeqCst) == 1);
        let closed = |flag: &str| {
            count(
                &world,
                0,
                "istio_tcp_connections_closed_total",
                &["reporter=\"source\"", &format!("response_flags=\"{flag}\"")],
            )
        };
        eventually("both ends are counted", || (closed("UC"), closed("DC")) == (1, 1));
    }
}

#[test]
fn policy_lets_connections_in_and_ends_them() {
    for nodes in [1, 2] {
        let arrived = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&arrived);
        let application = application(move |mut stream| {
            counted.fetch_add(1, SeqCst);
            let mut byte = [0];
            while stream.read(&mut byte).is_ok_and(|length| length > 0) {
                drop(stream.write_all(&byte));
            }
        });
        let mut world = World::new(nodes, vec![bytes(nodes - 1, "v1", application)]);
        let mut echo = connect(&world);
        echo.write_all(b"a").unwrap();
        echo.read_exact(&mut [0]).unwrap();
        // A rule of requests alone forbids every connection; one of another port none.
        let other = application.port() ^ 1;
        world.push(&l4_policy(&format!("{{action: DENY, rules: [{{to: [{{operation: {{ports: ['{other}']}}}}]}}]}}")));
        echo.write_all(b"b").unwrap();
        echo.read_exact(&mut [0]).unwrap();
        world.push(&l4_policy("{action: DENY, rules: [{to: [{operation: {methods: [GET]}}]}]}"));
        assert!(is_cut(&mut echo), "what is under way ends");
        let before = arrived.load(SeqCst);
        assert!(refused(&world));
        assert_eq!(arrived.load(SeqCst), before, "the application hears nothing of it");
        for node in [0, nodes - 1] {
            eventually("pages tell that it led nowhere, though it has no flag", || {
                let seen = world.nodes[node].telemetry.exchanged().connections;
                !seen.is_empty() && seen.iter().all(|pair| pair.slots.iter().map(|slot| slot.failed).sum::<u64>() == 1)
            });
        }
        world.push(&l4_policy(
            "{rules: [{from: [{source: {principals: ['test.example/ns/default/sa/web']}}], to: [{operation: {ports: ['PORT']}}]}]}"
                .replace("PORT", &application.port().to_string())
                .as_str(),
        ));
        let mut echo = connect(&world);
        echo.write_all(b"c").unwrap();
        echo.read_exact(&mut [0]).unwrap();
        world.push(&l4_policy("{rules: [{from: [{source: {principals: ['test.example/ns/default/sa/other']}}]}]}"));
        assert!(is_cut(&mut echo));
        assert!(refused(&world));
    }
}

#[test]
fn a_refused_tunnel_is_told_of_as_documents_say() {
    let mut world = World::new(1, vec![bytes(0, "v1", named("one"))]);
    world.push(
        "apiVersion: telemetry.istio.io/v1\nkind: Telemetry\nmetadata: {name: labels}\n\
         spec: {metrics: [{overrides: [{match: {mode: CLIENT}, tagOverrides: {asked: {value: '\"as such\"'}}}]}]}\n",
    );
    let mut client = Client::connect(world.nodes[0].outbound);
    let refused = client.ask("CONNECT nobody:443 HTTP/1.1\r\nHost: nobody:443\r\n\r\n").expect("an answer");
    assert_eq!(refused.status, 404);
    let of = |with: &[&str]| count(&world, 0, "istio_tcp_connections_closed_total", with);
    eventually("it is counted", || of(&["reporter=\"source\""]) == 1);
    assert_eq!(of(&["asked=\"as such\"", "response_flags=\"NR\""]), 1, "{}", world.metrics(0));
}

#[test]
fn an_application_that_takes_no_connection_is_stood_in_for() {
    // Nobody listens there.
    let closed = SocketAddr::from(([127, 0, 0, 1], 1));
    for nodes in [1, 3] {
        let last = nodes - 1;
        let entries = vec![bytes(last / 2, "v1", closed), bytes(last, "v2", named("two"))];
        let mut world = World::new(nodes, entries);
        for _ in 0..8 {
            assert_eq!(say(&world, b"x").unwrap(), "two: x");
        }
        // One at a time and nobody else: who is out is not asked again.
        world.push(&traffic_policy(
            "{outlierDetection: {consecutive5xxErrors: 1, maxEjectionPercent: 100, baseEjectionTime: 1h}}",
        ));
        // Which of two idle ones is asked first is chance each time.
        eventually("the one that takes nothing was asked, and is out", || {
            assert_eq!(say(&world, b"y").unwrap(), "two: y");
            world.circuits[0].ejected().len() == 1
        });
        world.register(|entries| entries.truncate(1));
        assert!(refused(&world));
        let of = |flag: &str| {
            count(&world, 0, "istio_tcp_connections_closed_total", &[&format!("response_flags=\"{flag}\"")])
        };
        eventually("it is counted", || of("UH") + of("UF") >= 1);
    }
}

#[test]
fn a_cluster_has_so_many_connections() {
    let mut world = World::new(2, vec![bytes(1, "v1", named("one"))]);
    world.push(&traffic_policy("{connectionPool: {tcp: {maxConnections: 1}}}"));
    let held = connect(&world);
    eventually("it is there", || count(&world, 1, "istio_tcp_connections_opened_total", &[]) == 1);
    assert!(refused(&world));
    eventually("the flag is told", || {
        count(&world, 0, "istio_tcp_connections_closed_total", &["response_flags=\"UO\""]) == 1
    });
    drop(held);
    eventually("there is room again", || say(&world, b"x").is_ok_and(|answer| answer == "one: x"));
}

#[test]
fn a_connection_is_silent_and_lasts_only_so_long() {
    for nodes in [1, 2] {
        let talking = application(|mut stream| while stream.write_all(b".").is_ok() {});
        let mut world = World::new(nodes, vec![bytes(nodes - 1, "v1", named("one"))]);
        let closed = |world: &World, flag: &str| {
            count(
                world,
                0,
                "istio_tcp_connections_closed_total",
                &["reporter=\"source\"", &format!("response_flags=\"{flag}\"")],
            )
        };
        world.push(&traffic_policy("{connectionPool: {tcp: {idleTimeout: 200ms}}}"));
        assert!(refused(&world));
        eventually("silence is counted", || closed(&world, "SI") == 1);
        let mut world = World::new(nodes, vec![bytes(nodes - 1, "v1", talking)]);
        world.push(&traffic_policy("{connectionPool: {tcp: {idleTimeout: 0s, maxConnectionDuration: 300ms}}}"));
        let error = connect(&world).read_to_end(&mut Vec::new()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        eventually("its length is counted", || closed(&world, "DT") == 1);
    }
}

fn routes(spec: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: reviews}}\nspec: {spec}\n---\n\
         apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: reviews}}\nspec: {{host: reviews, \
         subsets: [{{name: v1, labels: {{version: v1}}}}, {{name: v2, labels: {{version: v2}}}}]}}\n"
    )
}

#[test]
fn routes_choose_a_subset_for_each_connection() {
    let mut world = World::new(3, vec![bytes(1, "v1", named("one")), bytes(2, "v2", named("two"))]);
    let to = |subset: &str| format!("route: [{{destination: {{host: reviews, subset: {subset}}}}}]");
    world.push(&routes(&format!(
        "{{hosts: [reviews], tcp: [{{match: [{{sourceLabels: {{app: other}}}}, {{port: 1}}, {{destinationSubnets: [10.0.0.0/8]}}], {}}}, \
         {{match: [{{port: 9080, destinationSubnets: [127.0.0.0/8], sourceNamespace: default}}], {}}}, {{{}}}]}}",
        to("v1"),
        to("v2"),
        to("v1")
    )));
    for _ in 0..6 {
        assert_eq!(say(&world, b"x").unwrap(), "two: x");
    }
    world.push(&routes(
        "{hosts: [reviews], tcp: [{route: [{destination: {host: reviews, subset: v1}, weight: 80}, {destination: {host: reviews, subset: v2}, weight: 20}]}]}",
    ));
    let twos = (0..200).filter(|_| say(&world, b"x").unwrap() == "two: x").count();
    assert!((10..=75).contains(&twos), "{twos} of 200 where 40 are due");
    world.push(&routes(&format!("{{hosts: [reviews], tcp: [{{{}}}]}}", to("v9"))));
    assert!(refused(&world));
    eventually("the flag is told", || {
        count(&world, 0, "istio_tcp_connections_closed_total", &["response_flags=\"NC\""]) == 1
    });
}

/// What a TLS client that asks for this name sends first.
fn hello(name: &str) -> Vec<u8> {
    let roots = rustls::RootCertStore::empty();
    let config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let name = rustls::pki_types::ServerName::try_from(name.to_owned()).unwrap();
    let mut client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

#[test]
fn tls_is_routed_by_the_name_that_it_asks_for_and_stays_shut() {
    let name = |name: &'static str| {
        application(move |mut stream| {
            let mut got = vec![0; 5];
            stream.read_exact(&mut got).unwrap();
            stream.write_all(&[name.as_bytes(), &got].concat()).unwrap();
        })
    };
    for protocol in [Protocol::Tls, Protocol::Sniffed] {
        let entry = |node, version, target| Entry::at(node, "reviews", version, target, protocol);
        let mut world = World::new(3, vec![entry(1, "v1", name("one")), entry(2, "v2", name("two"))]);
        let rule = |name: &str, subset: &str| {
            format!(
                "{{match: [{{sniHosts: ['{name}']}}], route: [{{destination: {{host: reviews, subset: {subset}}}}}]}}"
            )
        };
        world.push(&routes(&format!(
            "{{hosts: [reviews, '*.reviews.example'], tls: [{}, {}]}}",
            rule("*.reviews.example", "v1"),
            rule("two.reviews.example", "v2")
        )));
        for (asked, answers) in [("two.reviews.example", "two"), ("other.reviews.example", "one")] {
            let hello = hello(asked);
            let mut stream = connect(&world);
            // In two pieces: no part of it tells the name.
            stream.write_all(&hello[..7]).unwrap();
            stream.write_all(&hello[7..]).unwrap();
            let mut answer = vec![0; 8];
            stream.read_exact(&mut answer).unwrap();
            assert_eq!(answer, [answers.as_bytes(), &hello[..5]].concat(), "{protocol:?} {asked}");
        }
    }
}

#[test]
fn what_is_not_declared_is_found_out() {
    for nodes in [1, 2] {
        let backend = Backend::scripted(|arrived| ok(arrived.line()));
        let mut entry = Entry::new(nodes - 1, "reviews", "v1", &backend);
        entry.protocol = Protocol::Sniffed;
        let world = World::new(nodes, vec![entry]);
        let mut stream = connect(&world);
        stream.write_all(b"GET /found HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("GET /found HTTP/1.1"), "{answer}");
        assert!(backend.last().header("x-forwarded-client-cert").is_some(), "it went as a request");
        let world = World::new(nodes, vec![Entry::at(nodes - 1, "reviews", "v1", named("one"), Protocol::Sniffed)]);
        assert_eq!(say(&world, b"GET key\r\n").unwrap(), "one: GET key\r\n");
    }
}

#[test]
fn ports_take_what_they_declare() {
    // The caller's registry says bytes, the called node's configuration HTTP, and the other way round.
    let backend = Backend::named("one");
    let mut world = World::new(2, vec![Entry::new(1, "reviews", "v1", &backend)]);
    world.register(|entries| entries[0].protocol = Protocol::Tcp);
    assert!(refused(&world));
    let mut world = World::new(2, vec![bytes(1, "v1", backend.address)]);
    world.register(|entries| entries[0].protocol = Protocol::Http);
    let mut stream = connect(&world);
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 50") || answer.starts_with("HTTP/1.1 404"), "{answer}");
    assert!(backend.arrived().is_empty(), "no byte reaches an application that way");
}

#[test]
fn a_draining_node_lets_connections_end() {
    let world = World::new(2, vec![bytes(1, "v1", named("one"))]);
    let mut stream = connect(&world);
    stream.write_all(b"x").unwrap();
    eventually("it is there", || count(&world, 1, "istio_tcp_received_bytes_total", &[]) == 1);
    std::thread::scope(|scope| {
        let stopping = scope.spawn(|| world.stop(1));
        stream.write_all(b"y").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "one: xy");
        stopping.join().unwrap();
    });
    // And cuts what does not.
    let world = World::new(2, vec![bytes(1, "v1", named("one"))]);
    let mut stream = connect(&world);
    stream.write_all(b"x").unwrap();
    eventually("it is there", || count(&world, 1, "istio_tcp_received_bytes_total", &[]) == 1);
    world.stop(1);
    let error = stream.read_to_end(&mut Vec::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}
