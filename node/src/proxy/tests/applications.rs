//! Applications that speak HTTP/2: their limits on streams, and what they refuse unread.

use super::{
    client::{Client, get},
    grpc::{application_with, call, end, streaming},
    http2::{connect, full, runtime},
    world::{Entry, World, traffic_policy},
};
use crate::{config::Protocol, tasks::Tasks};
use http::HeaderMap;
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

#[test]
fn more_streams_than_a_connection_may_have_go_over_several() {
    let (runtime, tasks) = (runtime(), Tasks::new());
    runtime.block_on(async {
        let (target, _) = application_with(&tasks, Some(2)).await;
        for nodes in [2, 1] {
            let world = super::grpc::world(nodes, target).await;
            let sender = connect(world.nodes[0].outbound, &tasks).await;
            let mut open = Vec::new();
            for _ in 0..9 {
                let (messages, body) = streaming(HeaderMap::new());
                messages.send("one".into()).await.unwrap();
                let asked = sender.clone().send_request(call("reviews", "/echo").body(body).unwrap());
                let answer = tokio::time::timeout(Duration::from_secs(60), asked).await.expect("an answer").unwrap();
                let mut echo = answer.into_body();
                assert_eq!(echo.frame().await.unwrap().unwrap().into_data().unwrap(), "one");
                open.push((messages, echo));
            }
            drop(open);
            end(world).await;
        }
    });
}

const SETTINGS: u8 = 4;
const HEADERS: u8 = 1;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// An application that answers 200 to what it reads, but refuses the first request in its own way.
fn refusing(refusal: fn(u32) -> Vec<u8>) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, requests) = (listener.local_addr().unwrap(), Arc::<AtomicUsize>::default());
    let counted = Arc::clone(&requests);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let requests = Arc::clone(&counted);
            std::thread::spawn(move || drop(answer(stream.unwrap(), &requests, refusal)));
        }
    });
    (address, requests)
}

fn answer(mut stream: TcpStream, requests: &AtomicUsize, refusal: fn(u32) -> Vec<u8>) -> std::io::Result<()> {
    stream.read_exact(&mut [0; 24])?;
    stream.write_all(&frame(SETTINGS, 0, 0, &[]))?;
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head)?;
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        stream.read_exact(&mut payload)?;
        let id = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        match head[3] {
            SETTINGS if head[4] & 1 == 0 => stream.write_all(&frame(SETTINGS, 1, 0, &[]))?,
            // `:status: 200` stands in HPACK's own table; nothing follows.
            HEADERS if requests.fetch_add(1, Ordering::SeqCst) > 0 => {
                stream.write_all(&frame(HEADERS, 5, id, &[0x88]))?
            }
            HEADERS => stream.write_all(&refusal(id))?,
            _ => {}
        }
    }
}

#[test]
fn what_an_application_refuses_unread_is_tried_again() {
    // RST_STREAM with REFUSED_STREAM; GOAWAY whose last stream is none.
    let refusals: [fn(u32) -> Vec<u8>; 2] =
        [|id| frame(3, 0, id, &7_u32.to_be_bytes()), |_| frame(7, 0, 0, &[0, 0, 0, 0, 0, 0, 0, 0])];
    for (refusal, nodes) in refusals.into_iter().flat_map(|refusal| [(refusal, 2), (refusal, 1)]) {
        let (target, requests) = refusing(refusal);
        let mut entry = Entry::new(nodes - 1, "reviews", "v1", &super::backend::Backend::named(""));
        (entry.target, entry.protocol) = (target, Protocol::Http2);
        let world = World::new(nodes, vec![entry]);
        let mut client = Client::connect(world.nodes[0].outbound);
        let post = "POST / HTTP/1.1\r\nHost: reviews\r\nContent-Length: 4\r\n\r\nbody";
        assert_eq!(client.ask(post).expect("an answer").status, 200);
        assert_eq!(requests.load(Ordering::SeqCst), 2);
    }
}

/// An application that speaks HTTP/2, and counts its connections: open ones, and all.
async fn counting(tasks: &Tasks) -> (SocketAddr, Arc<[AtomicUsize; 2]>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, counts) = (listener.local_addr().unwrap(), Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]));
    let (spawner, counted) = (tasks.clone(), Arc::clone(&counts));
    tasks.detach("application", async move {
        while let Ok((stream, _)) = listener.accept().await {
            for count in &*counted {
                count.fetch_add(1, Ordering::Relaxed);
            }
            let service = hyper::service::service_fn(|_| async {
                Ok::<_, std::convert::Infallible>(http::Response::new(full("answer")))
            });
            let served = hyper::server::conn::http2::Builder::new(spawner.clone())
                .serve_connection(TokioIo::new(stream), service);
            let counted = Arc::clone(&counted);
            spawner.detach("application", async move {
                drop(served.await);
                counted[0].fetch_sub(1, Ordering::Relaxed);
            });
        }
    });
    (address, counts)
}

#[test]
fn connections_of_http2_end_when_they_are_idle() {
    let (runtime, tasks) = (runtime(), Tasks::new());
    let (target, counts) = runtime.block_on(counting(&tasks));
    let open = || counts[0].load(Ordering::Relaxed);
    let mut world = World::new(2, vec![Entry::at(1, "reviews", "v1", target, Protocol::Http2)]);
    world.push(&traffic_policy("{connectionPool: {http: {idleTimeout: 100ms}}}"));
    let ask = || assert_eq!(get(world.nodes[0].outbound, "reviews", "/").status, 200);
    ask();
    assert_eq!(open(), 1);
    for _ in 0..3_000 {
        if open() == 0 {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(open(), 0, "nobody asks for anything, and it ends");
    ask();
    std::thread::sleep(Duration::from_millis(150));
    ask();
    assert_eq!(counts[1].load(Ordering::Relaxed), 3, "nor is it used when it should have ended");
}
