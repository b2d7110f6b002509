//! A stream of HTTP/2 that is reset in the middle is no whole message, even if its sender calls that no error; one that had ended
//! before is.

use super::{
    backend::{Backend, Buffered},
    client::Client,
    grpc::streaming,
    http2::{connect, full, runtime},
    world::{Entry, World},
};
use crate::{config::Protocol, tasks::Tasks};
use bytes::Bytes;
use h2::{Reason, RecvStream, server::SendResponse};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body_util::BodyExt;
use std::{net::SocketAddr, sync::Arc};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Notify, oneshot},
};

/// An application that answers as the path says, and does not read the request to its end.
async fn application(tasks: &Tasks, go_on: Arc<Notify>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let own = tasks.clone();
    tasks.detach("application", async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (tasks, go_on) = (own.clone(), Arc::clone(&go_on));
            own.detach("application", async move {
                let Ok(mut connection) = h2::server::handshake(stream).await else { return };
                while let Some(Ok((request, respond))) = connection.accept().await {
                    tasks.detach("application", answer(request, respond, Arc::clone(&go_on)));
                }
            });
        }
    });
    address
}

async fn answer(request: Request<RecvStream>, mut respond: SendResponse<Bytes>, go_on: Arc<Notify>) {
    let path = request.uri().path();
    let mut response = respond.send_response(Response::new(()), path == "/empty").unwrap();
    match path {
        "/empty" => {}
        "/whole" => response.send_data("whole".into(), true).unwrap(),
        "/trailers" => {
            response.send_data("whole".into(), false).unwrap();
            let sum = (HeaderName::from_static("x-sum"), HeaderValue::from_static("7"));
            response.send_trailers(HeaderMap::from_iter([sum])).unwrap();
        }
        _ => {
            response.send_data("part".into(), false).unwrap();
            go_on.notified().await;
            response.send_reset(Reason::NO_ERROR);
        }
    }
    // What is left of the request is reset behind the answer, without an error (RFC 9113, 8.1).
}

fn world(nodes: usize, target: SocketAddr) -> World {
    World::new(nodes, vec![Entry::at(nodes - 1, "reviews", "v1", target, Protocol::Http2)])
}

#[test]
fn a_response_that_is_reset_in_the_middle_is_not_whole() {
    let (runtime, tasks, go_on) = (runtime(), Tasks::new(), Arc::<Notify>::default());
    let target = runtime.block_on(application(&tasks, Arc::clone(&go_on)));
    for nodes in [2, 1] {
        let world = world(nodes, target);
        let mut client = Client::connect(world.nodes[0].outbound);
        client.write("GET /cut HTTP/1.1\r\nHost: reviews\r\n\r\n");
        assert!(client.wait_for("part"));
        go_on.notify_one();
        assert!(!client.wait_for("\r\n0\r\n\r\n"), "the last chunk says that nothing is missing");
        runtime.block_on(async {
            let mut sender = connect(world.nodes[0].outbound, &tasks).await;
            let request = Request::get("http://reviews/cut").body(full("")).unwrap();
            let mut body = sender.send_request(request).await.unwrap().into_body();
            assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "part");
            go_on.notify_one();
            assert!(matches!(body.frame().await, Some(Err(_))), "{nodes} nodes");
        });
        assert!(world.metrics(0).contains("response_flags=\"UC\""), "{}", world.metrics(0));
    }
}

#[test]
fn a_response_that_ended_before_the_reset_is_whole() {
    let (runtime, tasks) = (runtime(), Tasks::new());
    let target = runtime.block_on(application(&tasks, Arc::default()));
    for nodes in [2, 1] {
        let world = world(nodes, target);
        runtime.block_on(async {
            let mut sender = connect(world.nodes[0].outbound, &tasks).await;
            for (path, whole, sum) in [("empty", "", None), ("whole", "whole", None), ("trailers", "whole", Some("7"))]
            {
                // Not all of the request was sent by then.
                let (messages, body) = streaming(HeaderMap::new());
                messages.send("one".into()).await.unwrap();
                let request = Request::post(format!("http://reviews/{path}")).header("te", "trailers").body(body);
                let response = sender.send_request(request.unwrap()).await.unwrap();
                assert_eq!(response.status(), StatusCode::OK);
                let body = response.into_body().collect().await.expect(path);
                let told = body.trailers().and_then(|trailers| trailers.get("x-sum")).cloned();
                assert_eq!((body.to_bytes(), told), (whole.into(), sum.map(HeaderValue::from_static)), "{path}");
            }
        });
        assert!(!world.metrics(0).contains("response_flags=\"UC\""), "{}", world.metrics(0));
    }
}

#[test]
fn a_request_that_is_reset_in_the_middle_is_not_whole() {
    let (runtime, tasks) = (runtime(), Tasks::new());
    for nodes in [2, 1] {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut entry = Entry::new(nodes - 1, "reviews", "v1", &Backend::named(""));
        entry.target = listener.local_addr().unwrap();
        let (tell, came) = oneshot::channel();
        let application = std::thread::spawn(move || {
            let mut stream = Buffered::new(listener.accept().unwrap().0);
            assert!(stream.wait_for(b"part"));
            tell.send(()).unwrap();
            stream.wait_for(b"\r\n0\r\n\r\n")
        });
        let world = World::new(nodes, vec![entry]);
        let _sent = runtime.block_on(async {
            let stream = TcpStream::connect(world.nodes[0].outbound).await.unwrap();
            let (mut sender, connection) = h2::client::handshake(stream).await.unwrap();
            tasks.detach("caller", async move { drop(connection.await) });
            let (_, mut body) = sender.send_request(Request::post("http://reviews/").body(()).unwrap(), false).unwrap();
            body.send_data(Bytes::from("part"), false).unwrap();
            came.await.unwrap();
            body.send_reset(Reason::NO_ERROR);
            (sender, body)
        });
        assert!(!application.join().unwrap(), "the last chunk says that nothing is missing");
    }
}
