//! Callers that do not read, or too slowly: what ends a response ends it for them, too, and what they still send.

use super::{
    authorization::deny,
    backend::Buffered,
    client::{Client, eventually},
    grpc,
    http2::{connect, full, runtime},
    world::{Entry, World},
};
use crate::{clock, config::Protocol, tasks::Tasks};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::TokioIo;
use std::{
    convert::Infallible,
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

const PIECE: [u8; 16 * 1024] = [7; 16 * 1024];
/// For what must happen.
const PATIENCE: Duration = Duration::from_secs(20);

fn timeout(spec: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: r}}\nspec: {{hosts: [reviews], http: [{{timeout: {spec}, route: [{{destination: {{host: reviews}}}}]}}]}}\n"
    )
}

/// An application that answers each connection's first request at once and without end. Gives how many connections could neither be
/// written to nor, which goes on beside it, read from any more.
fn flood() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, ended) = (listener.local_addr().unwrap(), Arc::<AtomicUsize>::default());
    let counted = Arc::clone(&ended);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let counted = Arc::clone(&counted);
            std::thread::spawn(move || {
                let mut stream = Buffered::new(stream.unwrap());
                if stream.head().is_none() {
                    return;
                }
                let mut reader = stream.stream.try_clone().unwrap();
                reader.set_read_timeout(None).unwrap();
                let reading = std::thread::spawn(move || while matches!(reader.read(&mut [0; 4096]), Ok(1..)) {});
                drop(stream.stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n"));
                while stream.stream.write_all(&PIECE).is_ok() {}
                reading.join().unwrap();
                counted.fetch_add(1, Relaxed);
            });
        }
    });
    (address, ended)
}

fn world(nodes: usize, target: SocketAddr, protocol: Protocol) -> World {
    World::new(nodes, vec![Entry::at(nodes - 1, "reviews", "v1", target, protocol)])
}

fn over(ended: &AtomicUsize) {
    eventually("the application hears of the end", || ended.load(Relaxed) == 1);
}

fn is_flagged(world: &World, flag: &str) -> bool {
    let flag = format!("response_flags=\"{flag}\"");
    world.metrics(0).lines().any(|line| line.starts_with("istio_requests_total{") && line.contains(&flag))
}

/// Asks and reads the beginning of the answer.
fn begin(address: SocketAddr, request: &str) -> Client {
    let mut client = Client::connect(address);
    client.write(request);
    assert!(client.wait_for("200 OK"));
    client
}

#[test]
fn a_timeout_ends_the_response_of_a_caller_that_does_not_read() {
    for nodes in [2, 1] {
        let (target, ended) = flood();
        let mut world = world(nodes, target, Protocol::Http);
        world.push(&timeout("500ms"));
        let _unread = begin(world.nodes[0].outbound, "GET / HTTP/1.1\r\nHost: reviews\r\n\r\n");
        over(&ended);
        eventually("it is told", || is_flagged(&world, "UT"));
    }
}

#[test]
fn a_timeout_ends_the_response_of_a_caller_that_reads_slowly() {
    let (target, ended) = flood();
    let mut world = world(2, target, Protocol::Http);
    world.push(&timeout("500ms"));
    let mut stream = TcpStream::connect(world.nodes[0].outbound).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: reviews\r\n\r\n").unwrap();
    let began = clock::monotonic();
    let end = loop {
        match stream.read(&mut [0; 16 * 1024]) {
            Ok(1..) => {}
            end => break end,
        }
        assert!(clock::monotonic().duration_since(began) < PATIENCE, "it goes on");
        std::thread::sleep(Duration::from_millis(5));
    };
    assert!(!end.is_err_and(|error| error.kind() == ErrorKind::WouldBlock));
    over(&ended);
    assert!(is_flagged(&world, "UT"));
}

#[test]
fn a_timeout_ends_the_stream_of_a_caller_that_does_not_read() {
    let (runtime, tasks) = (runtime(), Tasks::new());
    for nodes in [2, 1] {
        let (target, ended) = flood();
        let mut world = world(nodes, target, Protocol::Http);
        world.push(&timeout("500ms"));
        let mut unread = runtime.block_on(async {
            let mut sender = connect(world.nodes[0].outbound, &tasks).await;
            sender.send_request(Request::get("http://reviews/").body(full("")).unwrap()).await.unwrap().into_body()
        });
        over(&ended);
        eventually("it is told", || is_flagged(&world, "UT"));
        runtime.block_on(async {
            let all = async { while unread.frame().await.is_some_and(|frame| frame.is_ok()) {} };
            tokio::time::timeout(PATIENCE, all).await.expect("behind what had come is the end");
        });
    }
}

#[test]
fn a_denial_ends_what_a_caller_that_does_not_read_gets_and_sends() {
    for nodes in [2, 1] {
        let (target, ended) = flood();
        let mut world = world(nodes, target, Protocol::Http);
        let head = "POST /denied HTTP/1.1\r\nHost: reviews\r\nTransfer-Encoding: chunked\r\n\r\n";
        let mut unread = begin(world.nodes[0].outbound, &format!("{head}1\r\na\r\n"));
        world.push(&deny("/other"));
        unread.write("1\r\nb\r\n");
        world.push(&deny("/denied"));
        over(&ended);
    }
}

/// An application that speaks HTTP/2: it reads each request, and answers at once and without end. Counts requests that ended, and pieces
/// that were taken of answers.
async fn flood_by_http2(tasks: &Tasks) -> (SocketAddr, Arc<AtomicUsize>, Arc<AtomicUsize>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, spawner, ended) = (listener.local_addr().unwrap(), tasks.clone(), Arc::<AtomicUsize>::default());
    let (counted, taken) = (Arc::clone(&ended), Arc::<AtomicUsize>::default());
    let pieces = Arc::clone(&taken);
    tasks.detach("application", async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (spawned, counted, pieces) = (spawner.clone(), Arc::clone(&counted), Arc::clone(&pieces));
            let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                let (counted, pieces) = (Arc::clone(&counted), Arc::clone(&pieces));
                let mut body = request.into_body();
                spawned.detach("reads", async move {
                    while body.frame().await.is_some_and(|frame| frame.is_ok()) {}
                    counted.fetch_add(1, Relaxed);
                });
                let pieces = futures_util::stream::repeat_with(move || {
                    pieces.fetch_add(1, Relaxed);
                    Ok::<_, Infallible>(Frame::data(Bytes::from_static(&PIECE)))
                });
                let mut response = Response::new(StreamBody::new(pieces));
                response.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
                async move { Ok::<_, Infallible>(response) }
            });
            let served = hyper::server::conn::http2::Builder::new(spawner.clone())
                .serve_connection(TokioIo::new(stream), service);
            spawner.detach("application", async move { drop(served.await) });
        }
    });
    (address, ended, taken)
}

#[test]
fn a_denial_ends_what_a_grpc_caller_that_does_not_read_sends() {
    let (runtime, tasks) = (runtime(), Tasks::new());
    for nodes in [2, 1] {
        let (target, ended, taken) = runtime.block_on(flood_by_http2(&tasks));
        let mut world = world(nodes, target, Protocol::Grpc);
        let (messages, mut unread) = runtime.block_on(async {
            let mut sender = connect(world.nodes[0].outbound, &tasks).await;
            let (messages, body) = grpc::streaming(http::HeaderMap::new());
            messages.send("one".into()).await.unwrap();
            let response = sender.send_request(grpc::call("reviews", "/denied").body(body).unwrap()).await.unwrap();
            (messages, response.into_body())
        });
        let going_on = messages.clone();
        let going_on = async move {
            while going_on.send("more".into()).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        runtime.block_on(async { tasks.detach("goes on", going_on) });
        let mut calm = (0, taken.load(Relaxed));
        while calm.0 < 50 {
            std::thread::sleep(Duration::from_millis(10));
            let now = taken.load(Relaxed);
            calm = if now == calm.1 { (calm.0 + 1, now) } else { (0, now) };
        }
        assert_eq!(ended.load(Relaxed), 0, "it goes on until then");
        world.push(&deny("/denied"));
        over(&ended);
        runtime.block_on(async {
            let all = async { while unread.frame().await.is_some_and(|frame| frame.is_ok()) {} };
            tokio::time::timeout(PATIENCE, all).await.expect("behind what had come is the end");
            tokio::time::timeout(PATIENCE, messages.closed()).await.expect("nobody takes what it still sends");
        });
    }
}
