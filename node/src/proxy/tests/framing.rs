//! Attack cases of HTTP/1 framing and of headers, by number, against the proxy port with a recording application.

use super::{
    backend::{Arrived, Backend, ok},
    client::{Client, with},
    world::{Entry, World},
};

fn world(backend: &Backend) -> World {
    World::new(2, vec![Entry::new(1, "reviews", "v1", backend)])
}

/// The requests are refused with 400 (or 4xx/505) and a closed connection, and nothing of them arrives.
fn refused(requests: &[&str]) {
    let backend = Backend::named("v1");
    let world = world(&backend);
    for request in requests {
        let mut client = Client::connect(world.nodes[0].outbound);
        let answer = client.ask(request);
        let status = answer.as_ref().map(|answer| answer.status);
        assert!(matches!(status, Some(400 | 431 | 505)), "{request:.200?}: {answer:?}");
        assert!(client.is_closed(), "{request:.200?}");
    }
    assert!(backend.arrived().is_empty(), "{:?}", backend.arrived());
}

#[test]
fn a01_to_a06_lengths_and_codings() {
    refused(&[
        "POST / HTTP/1.1\r\nHost: reviews\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: reviews\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        "POST / HTTP/1.1\r\nHost: reviews\r\nContent-Length: 5, 5\r\n\r\nhello",
        "POST / HTTP/1.1\r\nHost: reviews\r\nContent-Length: +5\r\n\r\nhello",
        "POST / HTTP/1.1\r\nHost: reviews\r\nContent-Length: 0x5\r\n\r\nhello",
        "POST / HTTP/1.1\r\nHost: reviews\r\nContent-Length: 18446744073709551617\r\n\r\nhello",
        "POST / HTTP/1.1\r\nHost: reviews\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: reviews\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: reviews\r\nTransfer-Encoding: \u{b}chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: reviews\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.0\r\nHost: reviews\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ]);
}

#[test]
fn a07_chunk_sizes() {
    let backend = Backend::named("v1");
    let world = world(&backend);
    let long = format!("5;{}", "e".repeat(65_536));
    for size in ["-1", "0x10", "11111111111111111", &long] {
        let mut client = Client::connect(world.nodes[0].outbound);
        client.write("POST / HTTP/1.1\r\nHost: reviews\r\nTransfer-Encoding: chunked\r\n\r\n");
        let answer = client.ask(format!("{size}\r\nhello\r\n0\r\n\r\n"));
        assert_eq!(answer.as_ref().map(|answer| answer.status), Some(400), "{size:.20}: {answer:?}");
        assert!(client.is_closed(), "{size:.20}");
    }
    assert!(backend.arrived().iter().all(|arrived| arrived.body.is_empty()));
}

#[test]
fn a08_to_a11_line_ends_folds_and_bytes() {
    refused(&[
        "GET / HTTP/1.1\nHost: reviews\n\n",
        "GET / HTTP/1.1\r\nHost: reviews\nX: y\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: reviews\r\nX: a\rb\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: reviews\r\nX: a\r\n b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: reviews\r\nX: a\0b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: reviews\r\nX\0: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: reviews\r\nX: a\x7fb\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: reviews\r\n: x\r\n\r\n",
    ]);
}

#[test]
fn a12_trailers_change_nothing() {
    let backend = Backend::named("v1");
    let world = world(&backend);
    let request = "POST / HTTP/1.1\r\nHost: reviews\r\nTransfer-Encoding: chunked\r\nTrailer: host, authorization, x-sum\r\n\r\n\
                   2\r\nab\r\n0\r\nHost: evil\r\nAuthorization: evil\r\nContent-Length: 7\r\nX-Sum: 1\r\n\r\n";
    assert_eq!(Client::connect(world.nodes[0].outbound).ask(request).unwrap().status, 200);
    let arrived = backend.last();
    assert_eq!((arrived.header("host"), arrived.header("authorization")), (Some("reviews"), None));
    assert_eq!(arrived.body, b"ab");
}

#[test]
fn a13_a_poisoned_pipeline_reaches_nobody_else() {
    let backend = Backend::scripted(|arrived| ok(&format!("for {}", arrived.header("x-client").unwrap_or("poison"))));
    let world = world(&backend);
    let mut honest = Client::connect(world.nodes[0].outbound);
    for _ in 0..200 {
        let mut hostile = Client::connect(world.nodes[0].outbound);
        hostile.write(
            "GET / HTTP/1.1\r\nHost: reviews\r\nX-Client: hostile\r\nContent-Length: 0\r\n\r\n\
             GET /poison HTTP/1.1\r\nHost: reviews\r\nX-Client: hostile\r\n\r\n",
        );
        assert_eq!(
            honest.ask("GET / HTTP/1.1\r\nHost: reviews\r\nX-Client: honest\r\n\r\n").unwrap().body,
            "for honest"
        );
        assert_eq!(hostile.answer(false).unwrap().body, "for hostile");
        assert_eq!(hostile.answer(false).unwrap().body, "for hostile");
    }
}

#[test]
fn a14_an_early_answer_ends_the_connection_to_the_application() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut entry = Entry::new(1, "reviews", "v1", &Backend::named(""));
    entry.target = listener.local_addr().unwrap();
    let serve = |stream: std::net::TcpStream| {
        let mut stream = super::backend::Buffered::new(stream);
        let mut requests = 0;
        while stream.head().is_some() {
            requests += 1;
            std::io::Write::write_all(&mut stream.stream, b"HTTP/1.1 413 Large\r\nContent-Length: 0\r\n\r\n").unwrap();
        }
        requests
    };
    let application = std::thread::spawn(move || {
        let connections = listener.incoming().take(2).map(|stream| std::thread::spawn(move || serve(stream.unwrap())));
        let connections: Vec<_> = connections.collect();
        connections.into_iter().map(|connection| connection.join().unwrap()).collect::<Vec<_>>()
    });
    let world = World::new(2, vec![entry]);
    let mut early = Client::connect(world.nodes[0].outbound);
    let answer = early.ask("POST / HTTP/1.1\r\nHost: reviews\r\nContent-Length: 100000\r\n\r\nabc").unwrap();
    assert_eq!(answer.status, 413);
    assert_eq!(with(world.nodes[0].outbound, "reviews", "/", "").status, 413);
    drop((early, world));
    assert_eq!(application.join().unwrap(), [1, 1], "the connection with the unread body was not used again");
}

#[test]
fn a14_whoever_is_answered_early_reads_the_answer() {
    let world = world(&Backend::named("v1"));
    let mut client = Client::connect(world.nodes[0].outbound);
    client.write("POST / HTTP/1.1\r\nHost: nowhere\r\nContent-Length: 100000000\r\n\r\n");
    // What it still sends must not be answered by a reset, which would take the answer with it.
    for _ in 0..40 {
        client.write([b'x'; 50_000]);
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let answer = client.answer(false).expect("an answer");
    assert_eq!((answer.status, answer.header("connection")), (404, Some("close")));
    let mut whole = Client::connect(world.nodes[0].outbound);
    let answer = whole.ask("POST / HTTP/1.1\r\nHost: nowhere\r\nContent-Length: 3\r\n\r\nabc").expect("an answer");
    assert_eq!((answer.status, answer.header("connection")), (404, None), "all of it had come");
}

#[test]
fn a15_expectations_end_at_the_proxy() {
    let backend = Backend::scripted(|arrived| match arrived.line() {
        "POST /no HTTP/1.1" => b"HTTP/1.1 417 No\r\nContent-Length: 0\r\n\r\n".to_vec(),
        _ => ok("fine"),
    });
    let world = world(&backend);
    let mut client = Client::connect(world.nodes[0].outbound);
    client.write("POST /no HTTP/1.1\r\nHost: reviews\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n");
    assert_eq!(client.answer(false).unwrap().status, 100);
    client.write("ab");
    assert_eq!(client.answer(false).unwrap().status, 417);
    assert_eq!(client.ask("GET / HTTP/1.1\r\nHost: reviews\r\n\r\n").unwrap().body, "fine");
    assert!(backend.arrived().iter().all(|arrived| arrived.header("expect").is_none()));
}

const UPGRADE: &str = "GET /chat HTTP/1.1\r\nHost: reviews\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";

#[test]
fn a16_a_refused_upgrade_is_a_plain_answer() {
    let backend = Backend::named("plain");
    let world = world(&backend);
    let mut client = Client::connect(world.nodes[0].outbound);
    client.write(UPGRADE);
    client.write("\x01\x02 not a request\r\n\r\n");
    assert_eq!(client.answer(false).unwrap().body, "plain");
    assert_eq!(client.answer(false).unwrap().status, 400);
    assert!(client.is_closed());
    assert_eq!(backend.arrived().len(), 1);
}

#[test]
fn a17_an_upgrade_joins_both_ends_and_early_bytes_are_no_request() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut entry = Entry::new(1, "reviews", "v1", &Backend::named(""));
    entry.target = listener.local_addr().unwrap();
    let application = std::thread::spawn(move || {
        let mut stream = super::backend::Buffered::new(listener.accept().unwrap().0);
        let head = stream.head().unwrap();
        let answer = b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello";
        std::io::Write::write_all(&mut stream.stream, answer).unwrap();
        assert!(stream.wait_for(b"and more"));
        (head, String::from_utf8(stream.rest()).unwrap())
    });
    let world = World::new(2, vec![entry]);
    let mut client = Client::connect(world.nodes[0].outbound);
    client.write(UPGRADE);
    client.write("GET /early HTTP/1.1\r\n\r\n");
    let answer = client.answer(false).unwrap();
    assert_eq!((answer.status, answer.header("upgrade")), (101, Some("websocket")));
    client.write("and more");
    assert!(client.wait_for("hello"));
    assert_eq!(client.rest(), b"hello");
    let (head, bytes) = application.join().unwrap();
    assert!(head.contains("upgrade: websocket") && head.contains("connection: upgrade"), "{head}");
    assert_eq!(bytes, "GET /early HTTP/1.1\r\n\r\nand more");
}

#[test]
fn a18_connection_names_cannot_take_away_what_others_rely_on() {
    let backend = Backend::named("v1");
    let world = world(&backend);
    let headers =
        "Connection: Authorization, x-request-id, x-mine\r\nAuthorization: secret\r\nX-Request-Id: 7\r\nx-mine: 1\r\n";
    with(world.nodes[0].outbound, "reviews", "/", headers);
    let arrived = backend.last();
    assert_eq!((arrived.header("authorization"), arrived.header("x-request-id")), (Some("secret"), Some("7")));
    assert_eq!(arrived.header("connection"), None);
}

#[test]
fn a19_request_lines() {
    refused(&[
        "GET /\r\n\r\n",
        "GET / HTTP/1.10\r\nHost: reviews\r\n\r\n",
        "get / HTTP/1.1\r\nHost: reviews\r\n\r\n",
        "GET  / HTTP/1.1\r\nHost: reviews\r\n\r\n",
        "GET reviews HTTP/1.1\r\nHost: reviews\r\n\r\n",
        "GET /a#b HTTP/1.1\r\nHost: reviews\r\n\r\n",
    ]);
}

#[test]
fn a20_a21_hosts() {
    refused(&[
        "GET http://ratings/ HTTP/1.1\r\nHost: reviews\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: reviews\r\nHost: reviews\r\n\r\n",
        "GET / HTTP/1.1\r\nHost:\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: user@reviews\r\n\r\n",
    ]);
}

/// The application answers these bytes; the caller sees 502 and the next request a fresh connection.
fn hostile_answer(answer: &'static str) -> (u16, Backend) {
    let backend = Backend::scripted(move |arrived| match arrived.line() {
        "GET /next HTTP/1.1" => ok("next"),
        _ => answer.into(),
    });
    let world = world(&backend);
    let mut client = Client::connect(world.nodes[0].outbound);
    let status = client.ask("GET / HTTP/1.1\r\nHost: reviews\r\n\r\n").map_or(0, |answer| answer.status);
    let next = with(world.nodes[0].outbound, "reviews", "/next", "");
    assert_eq!(next.body, "next");
    (status, backend)
}

#[test]
fn a22_ambiguous_answers_are_502() {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
    ] {
        let (status, backend) = hostile_answer(answer);
        assert_eq!(status, 502, "{answer:?}");
        let connections: Vec<_> = backend.arrived().iter().map(|arrived| arrived.connection).collect();
        assert_eq!(connections.len(), connections.iter().collect::<std::collections::HashSet<_>>().len());
    }
}

#[test]
fn a23_a_second_answer_belongs_to_nobody() {
    let (status, backend) =
        hostile_answer("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil");
    assert_eq!(status, 200);
    assert_eq!(backend.last().connection, 1);
}

#[test]
fn a24_bodies_where_none_may_be_do_not_leak() {
    let backend = Backend::scripted(|arrived: &Arrived| match arrived.line() {
        "HEAD / HTTP/1.1" => b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nleak".to_vec(),
        "GET /204 HTTP/1.1" => b"HTTP/1.1 204 None\r\n\r\nleak".to_vec(),
        "GET /304 HTTP/1.1" => b"HTTP/1.1 304 Same\r\n\r\nleak".to_vec(),
        _ => ok("next"),
    });
    let world = world(&backend);
    let mut client = Client::connect(world.nodes[0].outbound);
    for (request, status) in [("HEAD /", 200), ("GET /204", 204), ("GET /304", 304)] {
        client.write(format!("{request} HTTP/1.1\r\nHost: reviews\r\n\r\n"));
        assert_eq!(client.answer(true).unwrap().status, status);
        assert_eq!(client.ask("GET /next HTTP/1.1\r\nHost: reviews\r\n\r\n").unwrap().body, "next", "after {request}");
    }
}

#[test]
fn a55_identity_is_never_the_callers_to_say() {
    let backend = Backend::scripted(|_| {
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-Skein-Outcome: connect-failure\r\n\r\n".to_vec()
    });
    let world = world(&backend);
    let headers = "X-Forwarded-Client-Cert: evil\r\nX-Skein-Source: evil\r\nX-Forwarded-For: evil\r\n\
                   Forwarded: for=evil\r\nX-Real-Ip: evil\r\nX_Forwarded_Client_Cert: evil\r\nX_Forwarded-For: evil\r\n\
                   x_skein_source: evil\r\nX_Real_Ip: evil\r\nX_Mine: kept\r\n";
    let answer = with(world.nodes[0].outbound, "reviews", "/", headers);
    assert!(!backend.last().head.contains("evil"), "{}", backend.last().head);
    assert_eq!(backend.last().header("x_mine"), Some("kept"));
    assert_eq!((answer.status, backend.arrived().len()), (200, 1), "nor the application's to say that it never saw it");
    assert_eq!(answer.header("x-skein-outcome"), None);
}

#[test]
fn a106_heads_have_limits() {
    refused(&[
        &format!("GET / HTTP/1.1\r\nHost: reviews\r\n{}\r\n", "X: y\r\n".repeat(101)),
        &format!("GET / HTTP/1.1\r\nHost: reviews\r\nX: {}\r\n\r\n", "y".repeat(40_000)),
    ]);
    let backend = Backend::named("v1");
    let world = world(&backend);
    let long = format!("GET /{} HTTP/1.1\r\nHost: reviews\r\n\r\n", "a".repeat(9_000));
    assert_eq!(Client::connect(world.nodes[0].outbound).ask(long).unwrap().status, 414);
    let connect = "CONNECT reviews:9080 HTTP/1.1\r\nHost: reviews:9080\r\n\r\n";
    let answer = Client::connect(world.nodes[0].outbound).ask(connect).unwrap();
    assert_eq!((answer.status, answer.body.as_str()), (404, ""), "no route is for it");
}

#[test]
fn a107_addresses_are_no_services() {
    let backend = Backend::named("v1");
    let world = world(&backend);
    for host in ["169.254.169.254", "127.0.0.1:15000", "[::ffff:169.254.169.254]", "2852039166", "localhost"] {
        assert_eq!(with(world.nodes[0].outbound, host, "/", "").status, 404, "{host}");
    }
}
