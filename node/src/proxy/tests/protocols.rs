//! HTTP/1.1 end to end through two nodes, where its edges are: interim answers, trailers, half-closed callers, bodies without end.

use super::{
    backend::{Backend, Buffered, ok},
    client::Client,
    world::{Entry, World},
};
use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    thread::JoinHandle,
    time::Duration,
};

fn world(backend: &Backend) -> World {
    World::new(2, vec![Entry::new(1, "reviews", "v1", backend)])
}

/// A world before an application that serves its first connection so.
fn before<T: Send + 'static>(serve: impl FnOnce(TcpStream) -> T + Send + 'static) -> (World, JoinHandle<T>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut entry = Entry::new(1, "reviews", "v1", &Backend::named(""));
    entry.target = listener.local_addr().unwrap();
    let application = std::thread::spawn(move || serve(listener.accept().unwrap().0));
    (World::new(2, vec![entry]), application)
}

#[test]
fn interim_answers_of_the_application_are_not_the_answer() {
    let backend = Backend::scripted(|_| {
        let interim = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n";
        [interim.as_bytes(), &ok("fine")].concat()
    });
    let world = world(&backend);
    let mut client = Client::connect(world.nodes[0].outbound);
    for _ in 0..2 {
        // It does not wait for 100 before it sends its body.
        client.write("POST / HTTP/1.1\r\nHost: reviews\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\nab");
        let mut answer = client.answer(false).expect("an answer");
        if answer.status == 100 {
            answer = client.answer(false).expect("an answer");
        }
        assert_eq!((answer.status, answer.body.as_str()), (200, "fine"));
    }
    assert!(backend.arrived().iter().all(|arrived| arrived.body == b"ab" && arrived.header("expect").is_none()));
}

#[test]
fn trailers_pass_both_ways() {
    let (world, application) = before(|stream| {
        let mut stream = Buffered::new(stream);
        let head = stream.head().unwrap();
        assert!(stream.wait_for(b"x-sum: 7\r\n\r\n"), "{head}");
        let answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-total\r\n\r\n2\r\nok\r\n0\r\nx-total: 9\r\n\r\n";
        stream.stream.write_all(answer).unwrap();
        head
    });
    let mut client = Client::connect(world.nodes[0].outbound);
    client.write(
        "POST / HTTP/1.1\r\nHost: reviews\r\nTransfer-Encoding: chunked\r\nTE: trailers\r\nTrailer: x-sum\r\n\r\n\
         2\r\nab\r\n0\r\nx-sum: 7\r\n\r\n",
    );
    assert!(client.wait_for("x-total: 9\r\n\r\n"));
    let head = application.join().unwrap();
    assert!(head.contains("trailer: x-sum"), "{head}");
}

#[test]
fn a_request_that_usually_has_a_body_says_that_it_has_none() {
    let backend = Backend::named("v1");
    let world = world(&backend);
    let mut client = Client::connect(world.nodes[0].outbound);
    let of_others = [("GET", None), ("DELETE", None), ("OPTIONS", None)];
    for (method, length) in ["POST", "PUT", "PATCH"].map(|method| (method, Some("0"))).into_iter().chain(of_others) {
        client.ask(format!("{method} / HTTP/1.1\r\nHost: reviews\r\n\r\n")).expect("an answer");
        assert_eq!(backend.last().header("content-length"), length, "{method}");
    }
}

#[test]
fn http_1_0_is_told_what_to_use() {
    let backend = Backend::named("v1");
    let world = world(&backend);
    let mut client = Client::connect(world.nodes[0].outbound);
    let answer = client.ask("GET / HTTP/1.0\r\nHost: reviews\r\n\r\n").unwrap();
    assert_eq!((answer.status, answer.header("upgrade")), (426, Some("HTTP/1.1")));
    assert!(answer.body.contains("HTTP/1.1"), "{answer:?}");
    assert!(backend.arrived().is_empty());
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let backend = Backend::scripted(|arrived| {
        let path = arrived.line().split(' ').nth(1).unwrap_or_default().to_owned();
        // The later ones would be faster.
        std::thread::sleep(Duration::from_millis(if path == "/0" { 100 } else { 0 }));
        ok(&path)
    });
    let world = world(&backend);
    let mut client = Client::connect(world.nodes[0].outbound);
    let requests: String = (0..5).map(|number| format!("GET /{number} HTTP/1.1\r\nHost: reviews\r\n\r\n")).collect();
    client.write(requests);
    for number in 0..5 {
        assert_eq!(client.answer(false).expect("an answer").body, format!("/{number}"));
    }
}

/// As with Envoy, who closes its side before the answer is taken for gone: the application may see the request end, and nobody
/// else notices anything.
#[test]
fn a_half_closed_caller_gets_all_or_nothing() {
    let backend = Backend::scripted(|_| {
        std::thread::sleep(Duration::from_millis(50));
        ok("whole")
    });
    let world = world(&backend);
    for _ in 0..3 {
        let mut client = Client::connect(world.nodes[0].outbound);
        client.write("GET / HTTP/1.1\r\nHost: reviews\r\n\r\n");
        client.half_close();
        let answer = client.answer(false);
        assert!(answer.as_ref().is_none_or(|answer| answer.body == "whole"), "{answer:?}");
        let mut other = Client::connect(world.nodes[0].outbound);
        assert_eq!(other.ask("GET / HTTP/1.1\r\nHost: reviews\r\n\r\n").expect("an answer").body, "whole");
    }
}

#[test]
fn the_end_of_one_direction_of_a_tunnel_leaves_the_other() {
    let (world, application) = before(|stream| {
        let mut stream = Buffered::new(stream);
        stream.head().unwrap();
        let answer = b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nfirst";
        stream.stream.write_all(answer).unwrap();
        let mut all = Vec::new();
        stream.stream.read_to_end(&mut all).unwrap();
        stream.stream.write_all(b"last").unwrap();
        all
    });
    let mut client = Client::connect(world.nodes[0].outbound);
    client.write("GET / HTTP/1.1\r\nHost: reviews\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
    assert_eq!(client.answer(false).expect("an answer").status, 101);
    assert!(client.wait_for("first"), "what came with the 101 is not lost");
    client.write("all that I say");
    client.half_close();
    assert!(client.wait_for("last"), "the other direction goes on");
    assert_eq!(application.join().unwrap(), b"all that I say");
}

/// Bytes that buffers take on the way: two nodes' and four sockets'. Without back-pressure it would be all that is sent.
const BUFFERED: usize = 48 << 20;
/// What is sent if nobody stops it.
const ENDLESS: usize = 128 << 20;

/// Writes until nothing is taken for a while; gives how much was.
fn pour(stream: &mut TcpStream) -> usize {
    stream.set_write_timeout(Some(Duration::from_millis(1_500))).unwrap();
    let (chunk, mut sent) = (vec![b'x'; 1 << 16], 0);
    while sent < ENDLESS {
        match stream.write(&chunk) {
            Ok(length) if length > 0 => sent += length,
            Ok(_) | Err(_) => break,
        }
    }
    sent
}

#[test]
fn a105_a_body_that_nobody_reads_is_not_taken() {
    let (stop, stopped) = std::sync::mpsc::sync_channel::<()>(1);
    let (world, application) = before(move |stream| {
        let _ = stopped.recv_timeout(Duration::from_secs(60));
        drop(stream);
    });
    let mut stream = TcpStream::connect(world.nodes[0].outbound).unwrap();
    stream
        .write_all(format!("POST / HTTP/1.1\r\nHost: reviews\r\nContent-Length: {ENDLESS}\r\n\r\n").as_bytes())
        .unwrap();
    let taken = pour(&mut stream);
    println!("a105: {taken} bytes of a request were taken before the sender had to wait");
    assert!(taken < BUFFERED, "{taken}");
    stop.send(()).unwrap();
    application.join().unwrap();
}

#[test]
fn a105_an_application_that_drips_meets_its_routes_timeout() {
    let (mut world, application) = before(|mut stream| {
        let mut head = [0; 4096];
        assert!(stream.read(&mut head).unwrap() > 0);
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n").unwrap();
        while stream.write_all(b"x").is_ok() {
            std::thread::sleep(Duration::from_millis(100));
        }
    });
    world.push(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: reviews, namespace: default}\n\
         spec: {hosts: [reviews], http: [{timeout: 1s, route: [{destination: {host: reviews}}]}]}\n",
    );
    let mut stream = TcpStream::connect(world.nodes[0].outbound).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: reviews\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    drop(stream.read_to_end(&mut answer));
    assert!(answer.starts_with(b"HTTP/1.1 200") && answer.len() < 500, "{}", String::from_utf8_lossy(&answer));
    // The application is told, too: it does not drip for nobody.
    application.join().unwrap();
}

#[test]
fn a105_a_response_that_nobody_reads_is_not_taken() {
    let (world, application) = before(|mut stream| {
        let mut head = [0; 4096];
        assert!(stream.read(&mut head).unwrap() > 0);
        stream.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {ENDLESS}\r\n\r\n").as_bytes()).unwrap();
        pour(&mut stream)
    });
    let mut stream = TcpStream::connect(world.nodes[0].outbound).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: reviews\r\n\r\n").unwrap();
    let taken = application.join().unwrap();
    println!("a105: {taken} bytes of a response were taken before the application had to wait");
    assert!(taken < BUFFERED, "{taken}");
    drop(stream);
}
