//! WebSockets towards applications that speak HTTP/2, and those that do by their callers' version.

use super::{
    backend::{Backend, Buffered, ok},
    client::{Client, eventually},
    http2::{Body, connect, full, runtime},
    world::{Entry, World, mesh_config, traffic_policy},
};
use crate::{config::Protocol, tasks::Tasks};
use http::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use std::{
    convert::Infallible,
    io::{ErrorKind, Write as _},
    net::{Shutdown, SocketAddr},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

/// An application that speaks HTTP/2 only, and takes an extended CONNECT to `/chat`: what it hears there it says again. At `/listen` it says
/// one word, once it has heard another.
async fn application(tasks: Tasks) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let spawner = tasks.clone();
    tasks.detach("application", async move {
        while let Ok((stream, _)) = listener.accept().await {
            let tasks = spawner.clone();
            let service = hyper::service::service_fn(move |mut request: Request<hyper::body::Incoming>| {
                let tasks = tasks.clone();
                async move { Ok::<_, Infallible>(answer(&tasks, &mut request)) }
            });
            let served = hyper::server::conn::http2::Builder::new(spawner.clone())
                .enable_connect_protocol()
                .serve_connection(TokioIo::new(stream), service);
            spawner.detach("application", async move { drop(served.await) });
        }
    });
    address
}

fn answer(tasks: &Tasks, request: &mut Request<hyper::body::Incoming>) -> Response<Body> {
    let protocol = request.extensions().get::<hyper::ext::Protocol>().map(|protocol| protocol.as_str().to_owned());
    let authority = request.uri().authority().map(ToString::to_string).unwrap_or_default();
    if request.method() != Method::CONNECT || protocol.as_deref() != Some("websocket") {
        return Response::new(full("plain"));
    }
    assert!(!request.headers().contains_key("upgrade") && !request.headers().contains_key("sec-websocket-key"));
    let path = request.uri().path().to_owned();
    if path != "/chat" && path != "/listen" {
        return Response::builder().status(404).body(full("no such room")).unwrap();
    }
    let upgrade = hyper::upgrade::on(request);
    tasks.detach("room", async move {
        let (mut read, mut write) = tokio::io::split(TokioIo::new(upgrade.await.unwrap()));
        if path == "/chat" {
            drop(tokio::io::copy(&mut read, &mut write).await);
            return;
        }
        let mut heard = [0; 4];
        while heard != *b"last" {
            read.read_exact(&mut heard).await.unwrap();
        }
        write.write_all(b"done").await.unwrap();
    });
    Response::builder().header("x-authority", authority).body(full("")).unwrap()
}

const ASK: &str = "Host: reviews\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

#[test]
fn an_application_of_http2_has_websockets_by_extended_connect() {
    let (runtime, tasks) = (runtime(), Tasks::new());
    let target = runtime.block_on(application(tasks.clone()));
    for nodes in [2, 1] {
        let world = World::new(nodes, vec![Entry::at(nodes - 1, "reviews", "v1", target, Protocol::Http2)]);
        let mut client = Client::connect(world.nodes[0].outbound);
        let answer = client.ask(format!("GET /chat HTTP/1.1\r\n{ASK}")).unwrap();
        assert_eq!(answer.status, 101, "{answer:?}");
        let header = |name: &str| answer.header(name);
        assert_eq!(header("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{answer:?}");
        assert_eq!((header("upgrade"), header("x-authority")), (Some("websocket"), Some("reviews")), "{answer:?}");
        client.write(b"hello");
        assert!(client.wait_for("hello"));
        let refused = Client::connect(world.nodes[0].outbound).ask(format!("GET /other HTTP/1.1\r\n{ASK}")).unwrap();
        assert_eq!((refused.status, refused.body.as_str()), (404, "no such room"));
        runtime.block_on(async {
            let mut sender = connect(world.nodes[0].outbound, &tasks).await;
            drop(sender.send_request(Request::get("http://reviews/").body(full("")).unwrap()).await.unwrap());
            let request = Request::connect("http://reviews/chat");
            let request = request.extension(hyper::ext::Protocol::from_static("websocket")).body(full("")).unwrap();
            let mut response = sender.send_request(request).await.unwrap();
            assert_eq!(response.status(), StatusCode::OK);
            let mut tunnel = TokioIo::new(hyper::upgrade::on(&mut response).await.unwrap());
            tunnel.write_all(b"over").await.unwrap();
            let mut heard = [0; 4];
            tunnel.read_exact(&mut heard).await.unwrap();
            assert_eq!(&heard, b"over");
        });
    }
}

#[test]
fn a_websocket_lasts_and_counts_until_it_ends() {
    let (runtime, tasks) = (runtime(), Tasks::new());
    let target = runtime.block_on(application(tasks.clone()));
    for nodes in [2, 1] {
        let mut world = World::new(nodes, vec![Entry::at(nodes - 1, "reviews", "v1", target, Protocol::Http2)]);
        // What changes the protocol is no matter of a route.
        world.push("apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: r}\nspec: {hosts: [reviews], http: [{headers: {response: {remove: [connection, upgrade]}}, route: [{destination: {host: reviews}}]}]}\n");
        let counted = |reporter: &str, name: &str| -> Vec<u64> {
            let metrics = world.metrics(if reporter == "source" { 0 } else { nodes - 1 });
            let of = |line: &&str| line.starts_with(name) && line.contains(&format!("reporter=\"{reporter}\""));
            metrics.lines().filter(of).filter_map(|line| line.rsplit(' ').next()?.parse().ok()).collect()
        };
        let mut client = Client::connect(world.nodes[0].outbound);
        let answer = client.ask(format!("GET /chat HTTP/1.1\r\n{ASK}")).unwrap();
        assert_eq!((answer.status, answer.header("upgrade")), (101, Some("websocket")));
        for text in ["hello", "world", "again"] {
            client.write(text);
            assert!(client.wait_for(text));
        }
        for reporter in ["source", "destination"] {
            assert_eq!(counted(reporter, "istio_requests_total{"), [0_u64; 0], "{nodes} {reporter}: it goes on");
        }
        drop(client);
        for reporter in ["source", "destination"] {
            eventually("it is over", || counted(reporter, "istio_requests_total{") == [1]);
            for bytes in ["istio_request_bytes_sum{", "istio_response_bytes_sum{"] {
                assert_eq!(counted(reporter, bytes), [15], "{nodes} {reporter} {bytes}");
            }
        }
    }
}

#[test]
fn by_its_callers_version_an_application_is_asked_as_http1_has_it() {
    let backend = Backend::scripted(|arrived| match arrived.header("upgrade") {
        Some("websocket") => {
            b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nX-Tunnel: yes\r\n\r\n".to_vec()
        }
        _ => ok("plain"),
    });
    for nodes in [2, 1] {
        let entry = Entry::at(nodes - 1, "reviews", "v1", backend.address, Protocol::Http2);
        let mut world = World::new(nodes, vec![entry]);
        world.push(&traffic_policy("{connectionPool: {http: {useClientProtocol: true}}}"));
        let answer = Client::connect(world.nodes[0].outbound).ask(format!("GET /chat HTTP/1.1\r\n{ASK}")).unwrap();
        assert_eq!((answer.status, answer.header("x-tunnel")), (101, Some("yes")), "{answer:?}");
    }
}

#[test]
fn a_draining_node_lets_websockets_end() {
    let (runtime, tasks) = (runtime(), Tasks::new());
    let target = runtime.block_on(application(tasks.clone()));
    for (nodes, stopped) in [(2, 1), (2, 0), (1, 0)] {
        let world = World::new(nodes, vec![Entry::at(nodes - 1, "reviews", "v1", target, Protocol::Http2)]);
        let open = || {
            let mut client = Client::connect(world.nodes[0].outbound);
            assert_eq!(client.ask(format!("GET /chat HTTP/1.1\r\n{ASK}")).unwrap().status, 101);
            client.write("hello");
            assert!(client.wait_for("hello"));
            client
        };
        let (mut ends, mut stays) = (open(), open());
        std::thread::scope(|scope| {
            let stopping = scope.spawn(|| world.stop(stopped));
            std::thread::sleep(std::time::Duration::from_millis(200));
            for client in [&mut ends, &mut stays] {
                client.write("again");
                assert!(client.wait_for("again"), "{nodes} {stopped}");
            }
            ends.half_close();
            assert!(ends.ended());
            assert!(stays.ended(), "what does not is cut at the end of the drain");
            stopping.join().unwrap();
        });
    }
}

#[test]
fn a_websocket_over_http2_lasts_while_one_side_speaks() {
    let (runtime, tasks) = (runtime(), Tasks::new());
    let target = runtime.block_on(application(tasks.clone()));
    let mut world = World::new(1, vec![Entry::at(0, "reviews", "v1", target, Protocol::Http2)]);
    world.push(&mesh_config("{limits: {streamIdle: 1s}}"));
    runtime.block_on(async {
        let mut sender = connect(world.nodes[0].outbound, &tasks).await;
        drop(sender.send_request(Request::get("http://reviews/").body(full("")).unwrap()).await.unwrap());
        let request = Request::connect("http://reviews/listen");
        let request = request.extension(hyper::ext::Protocol::from_static("websocket")).body(full("")).unwrap();
        let mut response = sender.send_request(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        let mut tunnel = TokioIo::new(hyper::upgrade::on(&mut response).await.unwrap());
        for _ in 0..30 {
            tunnel.write_all(b"word").await.unwrap();
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        tunnel.write_all(b"last").await.unwrap();
        let mut heard = [0; 4];
        tunnel.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"done");
    });
}

/// An application that agrees to a tunnel, has nothing to say, and takes nothing.
fn deaf() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut kept = Vec::new();
        for stream in listener.incoming() {
            let mut stream = Buffered::new(stream.unwrap());
            if stream.head().is_some() {
                let agreed = b"HTTP/1.1 101 x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
                stream.stream.write_all(agreed).unwrap();
                stream.stream.shutdown(Shutdown::Write).unwrap();
            }
            kept.push(stream);
        }
    });
    address
}

#[test]
fn a_tunnel_whose_one_end_takes_nothing_ends() {
    for nodes in [2, 1] {
        let target = deaf();
        let mut world = World::new(nodes, vec![Entry::at(nodes - 1, "reviews", "v1", target, Protocol::Http)]);
        world.push(&mesh_config("{limits: {streamIdle: 300ms}}"));
        let mut stream = std::net::TcpStream::connect(world.nodes[0].outbound).unwrap();
        stream.set_write_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
        stream.write_all(format!("GET /chat HTTP/1.1\r\n{ASK}").as_bytes()).unwrap();
        let mut answered = Buffered::new(stream.try_clone().unwrap());
        assert!(answered.head().unwrap().starts_with("HTTP/1.1 101 "));
        let error = loop {
            if let Err(error) = stream.write_all(&[7; 64 * 1024]) {
                break error;
            }
        };
        assert!(!matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}");
    }
}
