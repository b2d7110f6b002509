//! HTTP/2 with prior knowledge and gRPC, from the caller to the application.

use super::{
    backend::{Backend, ok},
    world::{Entry, World},
};
use crate::{config::Protocol, tasks::Tasks};
use bytes::Bytes;
use futures_util::StreamExt as _;
use http::{HeaderMap, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::{body::Frame, client::conn::http2::SendRequest};
use hyper_util::rt::TokioIo;
use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
};

pub(super) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

/// An application that speaks HTTP/2 only: echoes the body and tells in trailers how long it was.
async fn application(tasks: Tasks) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let spawner = tasks.clone();
    tasks.detach("application", async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = hyper::service::service_fn(|request: Request<hyper::body::Incoming>| async {
                assert_eq!(request.version(), Version::HTTP_2);
                let authority = request.uri().authority().unwrap().to_string();
                let grpc = request.headers().get("content-type").cloned();
                let body = request.into_body().collect().await.unwrap();
                let sent_trailers = body.trailers().is_some_and(|trailers| trailers.contains_key("x-sent"));
                let bytes = body.to_bytes();
                let mut trailers = HeaderMap::new();
                trailers.insert("grpc-status", "0".parse().unwrap());
                trailers.insert("x-length", bytes.len().to_string().parse().unwrap());
                trailers.insert("x-trailers", sent_trailers.to_string().parse().unwrap());
                let frames = [Ok::<_, Infallible>(Frame::data(bytes)), Ok(Frame::trailers(trailers))];
                let mut response = Response::new(StreamBody::new(futures_util::stream::iter(frames)));
                response.headers_mut().insert("x-authority", authority.parse().unwrap());
                if let Some(grpc) = grpc {
                    response.headers_mut().insert("content-type", grpc);
                }
                Ok::<_, Infallible>(response)
            });
            let served = hyper::server::conn::http2::Builder::new(spawner.clone())
                .serve_connection(TokioIo::new(stream), service);
            spawner.detach("application", async move { drop(served.await) });
        }
    });
    address
}

/// An application that speaks HTTP/2, counts what arrives, and answers only once it is released.
pub(super) async fn held(tasks: Tasks, arrived: Arc<AtomicUsize>, released: watch::Receiver<bool>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let spawner = tasks.clone();
    tasks.detach("application", async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (arrived, released) = (Arc::clone(&arrived), released.clone());
            let service = hyper::service::service_fn(move |_: Request<hyper::body::Incoming>| {
                let mut released = released.clone();
                arrived.fetch_add(1, Relaxed);
                async move {
                    let _ = released.wait_for(|released| *released).await;
                    Ok::<_, Infallible>(Response::new(Full::new(Bytes::from("late"))))
                }
            });
            let served = hyper::server::conn::http2::Builder::new(spawner.clone())
                .serve_connection(TokioIo::new(stream), service);
            spawner.detach("application", async move { drop(served.await) });
        }
    });
    address
}

pub(super) type Body = http_body_util::combinators::BoxBody<Bytes, Infallible>;

pub(super) async fn connect(address: SocketAddr, tasks: &Tasks) -> SendRequest<Body> {
    let stream = TcpStream::connect(address).await.unwrap();
    let (sender, connection) =
        hyper::client::conn::http2::handshake(tasks.clone(), TokioIo::new(stream)).await.unwrap();
    tasks.detach("caller", async move { drop(connection.await) });
    sender
}

pub(super) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).boxed()
}

#[test]
fn grpc_keeps_its_frames_and_trailers() {
    let (runtime, tasks) = (runtime(), Tasks::new());
    let target = runtime.block_on(application(tasks.clone()));
    let unused = Backend::named("");
    let mut entries = vec![Entry::new(1, "reviews", "v1", &unused), Entry::new(0, "ratings", "v1", &unused)];
    for entry in &mut entries {
        (entry.target, entry.protocol) = (target, Protocol::Grpc);
    }
    let world = World::new(2, entries);
    runtime.block_on(async {
        let mut sender = connect(world.nodes[0].outbound, &tasks).await;
        for service in ["reviews", "ratings"] {
            let mut trailers = HeaderMap::new();
            trailers.insert("x-sent", "1".parse().unwrap());
            let frames = [Ok(Frame::data(Bytes::from("hello"))), Ok(Frame::trailers(trailers))];
            let body = BodyExt::boxed(StreamBody::new(futures_util::stream::iter(frames)));
            let request = Request::post(format!("http://{service}:9080/echo"))
                .header("content-type", "application/grpc")
                .header("te", "trailers")
                .body(body)
                .unwrap();
            let response = sender.send_request(request).await.unwrap();
            assert_eq!(response.headers()["x-authority"], format!("{service}:9080").as_str());
            let body = response.into_body().collect().await.unwrap();
            let trailers = body.trailers().unwrap();
            assert_eq!(
                (&trailers["x-length"], &trailers["grpc-status"]),
                (&"5".parse().unwrap(), &"0".parse().unwrap())
            );
            assert_eq!(trailers["x-trailers"], "true");
            assert_eq!(body.to_bytes(), "hello");
        }
    });
    let metrics = world.metrics(0);
    assert!(metrics.contains("request_protocol=\"grpc\",response_code=\"200\",grpc_response_status=\"0\""));
}

#[test]
fn http2_callers_reach_http1_applications() {
    let (runtime, tasks) = (runtime(), Tasks::new());
    let backend = Backend::named("one");
    let world = World::new(2, vec![Entry::new(1, "reviews", "v1", &backend)]);
    runtime.block_on(async {
        let mut sender = connect(world.nodes[0].outbound, &tasks).await;
        let request = Request::post("http://reviews/x?y")
            .header("cookie", "a=1")
            .header("cookie", "b=2")
            .body(full(vec![b'x'; 200_000]))
            .unwrap();
        let response = sender.send_request(request).await.unwrap();
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "one");
        let other = Request::get("http://reviews/").header("host", "ratings").body(full("")).unwrap();
        assert_eq!(sender.send_request(other).await.unwrap().status(), 400);
    });
    let arrived = backend.last();
    assert_eq!((arrived.line(), arrived.header("host")), ("POST /x?y HTTP/1.1", Some("reviews")));
    assert_eq!((arrived.header("cookie"), arrived.body.len()), (Some("a=1; b=2"), 200_000));
}

#[test]
fn an_http1_caller_reaches_an_http2_application() {
    let (runtime, tasks) = (runtime(), Tasks::new());
    let mut entry = Entry::new(1, "reviews", "v1", &Backend::named(""));
    (entry.target, entry.protocol) = (runtime.block_on(application(tasks)), Protocol::Http2);
    let world = World::new(2, vec![entry]);
    let mut client = super::client::Client::connect(world.nodes[0].outbound);
    let answer = client.ask("POST / HTTP/1.1\r\nHost: reviews\r\nContent-Length: 5\r\n\r\nhello").unwrap();
    assert_eq!((answer.status, answer.body.as_str(), answer.header("x-authority")), (200, "hello", Some("reviews")));
}

/// As Go's servers do: the length is told, and the stream ends in a frame of its own after the last byte.
async fn ends_late(tasks: Tasks) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let spawner = tasks.clone();
    tasks.detach("application", async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = hyper::service::service_fn(|request: Request<hyper::body::Incoming>| async move {
                let bytes = if request.uri().path() == "/none" { Bytes::new() } else { Bytes::from("hello") };
                let length = bytes.len();
                let data = (length > 0).then(|| Ok::<_, Infallible>(Frame::data(bytes)));
                let late = futures_util::stream::once(async {
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                });
                let late = late.filter_map(|()| std::future::ready(None));
                let mut response = Response::new(StreamBody::new(futures_util::stream::iter(data).chain(late)));
                response.headers_mut().insert("content-length", length.into());
                Ok::<_, Infallible>(response)
            });
            let served = hyper::server::conn::http2::Builder::new(spawner.clone())
                .serve_connection(TokioIo::new(stream), service);
            spawner.detach("application", async move { drop(served.await) });
        }
    });
    address
}

#[test]
fn a_response_whose_end_comes_after_its_last_byte_has_ended() {
    let (runtime, tasks) = (runtime(), Tasks::new());
    let unused = Backend::named("");
    let mut entries = vec![Entry::new(1, "reviews", "v1", &unused), Entry::new(0, "ratings", "v1", &unused)];
    for entry in &mut entries {
        (entry.target, entry.protocol) = (runtime.block_on(ends_late(tasks.clone())), Protocol::Http2);
    }
    let world = World::new(2, entries);
    let mut client = super::client::Client::connect(world.nodes[0].outbound);
    for (path, body) in [("/none", ""), ("/some", "hello")] {
        for host in ["reviews", "ratings"] {
            for _ in 0..3 {
                let answer = client.ask(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")).unwrap();
                assert_eq!((answer.status, answer.body.as_str()), (200, body), "{host}{path}");
            }
        }
    }
    for node in [0, 1] {
        let metrics = world.metrics(node);
        assert!(metrics.contains("response_code=\"200\"") && !metrics.contains("response_flags=\"DC\""), "{metrics}");
    }
}

#[test]
fn an_application_whose_http2_takes_no_websocket_is_not_asked_for_one() {
    let (runtime, tasks) = (runtime(), Tasks::new());
    let mut entry = Entry::new(1, "reviews", "v1", &Backend::named(""));
    (entry.target, entry.protocol) = (runtime.block_on(application(tasks)), Protocol::Http2);
    let world = World::new(2, vec![entry]);
    let ask = |protocol: &str| {
        let text = format!("GET / HTTP/1.1\r\nHost: reviews\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\n\r\n");
        super::client::Client::connect(world.nodes[0].outbound).ask(text).unwrap()
    };
    let refused = ask("WebSocket");
    assert!(refused.status == 502 && refused.body.contains("RFC 8441"), "{refused:?}");
    assert_eq!(ask("TLS/1.3").status, 200, "another protocol is left unheeded");
}

#[test]
fn a_cookie_that_http2_cut_into_lines_is_routed_as_one() {
    let (runtime, tasks) = (runtime(), Tasks::new());
    let (one, two) = (Backend::named("one"), Backend::named("two"));
    let mut world = World::new(1, vec![Entry::new(0, "reviews", "v1", &one), Entry::new(0, "ratings", "v1", &two)]);
    world.push(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: r}\nspec: {hosts: [reviews], http: [{match: [{headers: {cookie: {exact: 'a=1; user=ann'}}}], route: [{destination: {host: ratings}}]}, {route: [{destination: {host: reviews}}]}]}\n",
    );
    runtime.block_on(async {
        let mut sender = connect(world.nodes[0].outbound, &tasks).await;
        let request = Request::get("http://reviews/").header("cookie", "a=1").header("cookie", "user=ann");
        let response = sender.send_request(request.body(full("")).unwrap()).await.unwrap();
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "two");
    });
}

#[test]
fn an_http2_caller_gets_a_websocket_of_an_http1_application() {
    use base64::Engine as _;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let (runtime, tasks) = (runtime(), Tasks::new());
    for nodes in [2, 1] {
        let backend = Backend::scripted(|arrived| {
            let (Some(key), "GET /chat HTTP/1.1") = (arrived.header("sec-websocket-key"), arrived.line()) else {
                return ok("plain");
            };
            let input = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
            let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY, input.as_bytes());
            let accept = base64::engine::general_purpose::STANDARD.encode(hash);
            format!(
                "HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
            )
            .into_bytes()
        });
        let world = World::new(nodes, vec![Entry::new(nodes - 1, "reviews", "v1", &backend)]);
        runtime.block_on(async {
            let mut sender = connect(world.nodes[0].outbound, &tasks).await;
            // By then the node's settings are there.
            let first = sender.send_request(Request::get("http://reviews/").body(full("")).unwrap()).await.unwrap();
            assert_eq!(first.into_body().collect().await.unwrap().to_bytes(), "plain");
            let ask = |path: &str, protocol: &'static str| {
                let request = Request::connect(format!("http://reviews{path}"));
                request.extension(hyper::ext::Protocol::from_static(protocol)).body(full("")).unwrap()
            };
            let mut response = sender.send_request(ask("/chat", "websocket")).await.unwrap();
            assert_eq!((response.status(), response.headers().get("upgrade")), (StatusCode::OK, None));
            let tunnel = hyper::upgrade::on(&mut response).await.unwrap();
            let mut tunnel = TokioIo::new(tunnel);
            // The application reads requests: what comes back shows that bytes go both ways.
            tunnel.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
            let mut answer = vec![0; ok("plain").len()];
            tunnel.read_exact(&mut answer).await.unwrap();
            assert_eq!(answer, ok("plain"));
            drop(tunnel);
            let plain = sender.send_request(ask("/other", "websocket")).await.unwrap();
            assert_eq!(plain.status(), StatusCode::BAD_GATEWAY, "a success would be taken for a tunnel");
            let other = sender.send_request(ask("/chat", "connect-udp")).await.unwrap();
            assert_eq!(other.status(), StatusCode::NOT_FOUND, "no route is for it");
        });
    }
}

/// hyper's server has no interim responses: node/docs/limits.md says so.
#[test]
fn a_caller_that_waits_for_100_is_not_told_to_go_on_and_is_answered_when_it_does() {
    let (runtime, tasks) = (runtime(), Tasks::new());
    let backend = Backend::named("v1");
    let world = World::new(2, vec![Entry::new(1, "reviews", "v1", &backend)]);
    runtime.block_on(async {
        let mut sender = connect(world.nodes[0].outbound, &tasks).await;
        let (messages, body) = super::grpc::streaming(HeaderMap::new());
        let request = Request::post("http://reviews/").header("expect", "100-continue").body(body).unwrap();
        let mut answer = Box::pin(sender.send_request(request));
        let waited = tokio::time::timeout(std::time::Duration::from_millis(300), answer.as_mut()).await;
        assert!(waited.is_err(), "{waited:?}");
        messages.send("abc".into()).await.unwrap();
        drop(messages);
        assert_eq!(answer.await.unwrap().status(), StatusCode::OK);
    });
    assert_eq!((backend.last().header("expect"), backend.last().body.as_slice()), (None, &b"abc"[..]));
}

#[test]
fn a_target_without_a_path_is_refused() {
    let (runtime, tasks) = (runtime(), Tasks::new());
    let backend = Backend::named("v1");
    let world = World::new(2, vec![Entry::new(1, "reviews", "v1", &backend)]);
    runtime.block_on(async {
        let mut sender = connect(world.nodes[0].outbound, &tasks).await;
        // On the wire this is `:path: ?x=1`.
        let asked = Request::get("http://reviews?x=1").body(full("")).unwrap();
        assert_eq!(sender.send_request(asked).await.unwrap().status(), StatusCode::BAD_REQUEST);
    });
    let by_http1 = super::client::Client::connect(world.nodes[0].outbound)
        .ask("GET http://reviews?x=1 HTTP/1.1\r\nHost: reviews\r\n\r\n")
        .unwrap();
    assert_eq!((by_http1.status, backend.last().line()), (200, "GET /?x=1 HTTP/1.1"));
}

#[test]
fn a_head_that_the_called_side_refuses_has_no_body() {
    let (runtime, tasks) = (runtime(), Tasks::new());
    for (nodes, protocol) in [(2, Protocol::Http2), (2, Protocol::Http), (1, Protocol::Http2)] {
        let target = Backend::named("").address;
        let mut world = World::new(nodes, vec![Entry::at(nodes - 1, "reviews", "v1", target, protocol)]);
        world.push("apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: nobody}\nspec: {}\n");
        runtime.block_on(async {
            let mut sender = connect(world.nodes[0].outbound, &tasks).await;
            let request = Request::head("http://reviews/").body(full("")).unwrap();
            let response = sender.send_request(request).await.unwrap();
            assert_eq!(response.status(), StatusCode::FORBIDDEN);
            assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "");
        });
    }
}
