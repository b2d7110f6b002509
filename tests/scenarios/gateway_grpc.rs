//! Doors for gRPC and other requests of HTTP/2 with prior knowledge: trailers come through, both ways of ending a call.

use std::{
    convert::Infallible,
    net::{Ipv4Addr, SocketAddr},
};

use bytes::Bytes;
use harness::cluster::Service;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::BoxBody};
use hyper::{
    body::{Frame, Incoming},
    rt::Executor as _,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    net::{TcpListener, TcpStream},
    runtime::{Builder, Runtime},
};

use crate::gateway::{CART, at, gateway, mesh_with, opened, routes};

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// Sends each message back; a call of `/sad` ends as UNAVAILABLE.
fn application() -> SocketAddr {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has free ports");
    let address = listener.local_addr().expect("it is bound");
    listener.set_nonblocking(true).expect("it is ours");
    std::thread::spawn(move || {
        runtime().block_on(async {
            let listener = TcpListener::from_std(listener).expect("it listens");
            while let Ok((stream, _)) = listener.accept().await {
                let served = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), hyper::service::service_fn(answer));
                TokioExecutor::new().execute(async { drop(served.await) });
            }
        });
    });
    address
}

async fn answer(request: Request<Incoming>) -> Result<Response<BoxBody<Bytes, Infallible>>, Infallible> {
    let status = if request.uri().path() == "/sad" { "14" } else { "0" };
    let message = request.into_body().collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let trailers = HeaderMap::from_iter([("grpc-status".parse().expect("a name"), HeaderValue::from_static(status))]);
    let frames = [Frame::data(message), Frame::trailers(trailers)].map(Ok::<_, Infallible>);
    let mut response = Response::new(StreamBody::new(futures_util::stream::iter(frames)).boxed());
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    Ok(response)
}

/// Status, body, and gRPC's status out of the trailers, of calls on one connection.
fn ask(door: SocketAddr, calls: &[(&str, &str)]) -> Vec<(u16, Bytes, Option<String>)> {
    runtime().block_on(async {
        let stream = TcpStream::connect(door).await.expect("it listens");
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("HTTP/2");
        TokioExecutor::new().execute(async { drop(connection.await) });
        let mut answers = Vec::new();
        for (host, path) in calls {
            let request = Request::post(format!("http://{host}{path}"))
                .header("content-type", "application/grpc")
                .header("te", "trailers")
                .body(Full::new(Bytes::from_static(b"\0\0\0\0\x05hello")));
            let answer = sender.send_request(request.expect("a request")).await.expect("an answer");
            let status = answer.status().as_u16();
            let body = answer.into_body().collect().await.expect("a body");
            let told = body.trailers().and_then(|told| told.get("grpc-status")).cloned();
            answers.push((status, body.to_bytes(), told.and_then(|told| told.to_str().map(str::to_owned).ok())));
        }
        answers
    })
}

#[test]
fn calls_and_requests_of_http2_go_through_with_their_trailers() {
    let echo = Service {
        ports: vec![9000],
        protocol: "grpc".to_owned(),
        target: Some(application()),
        ..Service::version("shop/echo", "v1")
    };
    let cluster = mesh_with([echo]);
    cluster.wait_endpoints("shop/echo", 1);
    let server = "{port: {number: 8080, name: grpc, protocol: GRPC}, hosts: ['*']}";
    let documents = [
        gateway("public", server),
        routes("echo", "public", "echo.example.com", "{route: [{destination: {host: echo, port: {number: 9000}}}]}"),
        routes("cart", "public", "cart.example.com", CART),
    ];
    cluster.push("shop", &documents.concat(), &["--wait", "all"]).expect_code(0);
    opened(&cluster, 8080);
    let calls = [("echo.example.com", "/a"), ("echo.example.com", "/sad"), ("cart.example.com", "/")];
    let answers = ask(at(&cluster, 8080), &calls);
    let message = Bytes::from_static(b"\0\0\0\0\x05hello");
    assert_eq!(answers[0], (200, message.clone(), Some("0".to_owned())));
    assert_eq!(answers[1], (200, message, Some("14".to_owned())), "the call failed, the request did not");
    assert_eq!((answers[2].0, &answers[2].1[..]), (200, &b"shop shop/cart"[..]), "an application of HTTP/1.1");
}
