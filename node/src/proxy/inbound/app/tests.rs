//! Connections to applications.

use super::*;
use crate::proxy::direct::Proxied;
use policy::kinds::ProxyProtocol;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::timeout,
};

#[tokio::test]
async fn an_application_that_restarts_is_waited_for() {
    // Of an address where nobody else looks for a port.
    let address = std::net::TcpListener::bind("127.20.0.3:0").unwrap().local_addr().unwrap();
    let terms = Terms::of(&ClusterPolicy::default(), &MeshConfig::default());
    let (target, terms) = (Target::plain(address), Terms { connect: Duration::from_secs(30), ..terms });
    assert!(matches!(connect(&target, &terms, &CONNECT_PAUSES).await, Err(Failed::Connect(_))));
    let pauses = [Duration::from_millis(50); 400];
    let back = async {
        tokio::time::sleep(Duration::from_millis(10)).await;
        tokio::net::TcpListener::bind(address).await.unwrap()
    };
    let (connected, _listener) = tokio::join!(connect(&target, &terms, &pauses), back);
    assert!(connected.is_ok());
}

#[tokio::test]
async fn a_connection_that_says_whose_it_is_ends_with_its_request() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = async {
        let mut ended = Vec::new();
        for _ in 0..3 {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut came = Vec::new();
            while !came.ends_with(b"\r\n\r\n") {
                came.push(stream.read_u8().await.unwrap());
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
            ended.push(stream);
        }
        // The end comes on those that are not kept.
        let mut last = ended.pop().unwrap();
        for mut stream in ended {
            assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
        }
        let kept = timeout(Duration::ZERO, last.read(&mut [0])).await;
        assert!(kept.is_err(), "what is everybody's is kept");
    };
    let apps = Apps::new(Tasks::default(), ReplayBudget::default());
    let terms = Terms::of(&ClusterPolicy::default(), &MeshConfig::default());
    let client = async {
        for proxied in [Some(1), Some(1), None] {
            let to = address;
            let said = |port| Proxied { version: ProxyProtocol::V1, from: ([192, 0, 2, 1], port).into(), to };
            let target = Target::new(address, None, proxied.map(said));
            let (head, ()) = Request::get("/").header("host", "a").body(()).unwrap().into_parts();
            let nothing = crate::proxy::http::Incoming::Own(None);
            let body = RequestBody::once(nothing, &ReplayBudget::default(), Duration::from_secs(30));
            let answer = apps.send(&target, Version::Http1, &head, body, &terms, None).await.unwrap();
            assert_eq!(answer.status(), StatusCode::OK);
            assert_eq!(apps.idle().values().map(Vec::len).sum::<usize>(), usize::from(proxied.is_none()));
        }
    };
    tokio::join!(server, client);
}

#[tokio::test]
async fn so_many_idle_connections_are_kept() {
    const COUNT: usize = IDLE_LIMIT + 3;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = Target::plain(listener.local_addr().unwrap());
    let server = async {
        let mut streams = Vec::new();
        for _ in 0..COUNT {
            streams.push(listener.accept().await.unwrap().0);
        }
        // All are under way before one ends.
        for stream in &mut streams {
            let mut came = Vec::new();
            while !came.ends_with(b"\r\n\r\n") {
                came.push(stream.read_u8().await.unwrap());
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        }
        streams
    };
    let apps = Apps::new(Tasks::default(), ReplayBudget::default());
    let terms = Terms::of(&ClusterPolicy::default(), &MeshConfig::default());
    let (head, ()) = Request::get("/").header("host", "a").body(()).unwrap().into_parts();
    let asking = (0..COUNT).map(|_| {
        let nothing = crate::proxy::http::Incoming::Own(None);
        let body = RequestBody::once(nothing, &ReplayBudget::default(), Duration::from_secs(30));
        apps.send(&target, Version::Http1, &head, body, &terms, None)
    });
    let (answers, streams) = tokio::join!(futures_util::future::join_all(asking), server);
    assert!(answers.into_iter().all(|answer| answer.unwrap().status() == StatusCode::OK));
    assert_eq!(apps.idle().values().map(Vec::len).collect::<Vec<_>>(), [IDLE_LIMIT]);
    drop(streams);
    let swept = async {
        while !apps.idle().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
            apps.sweep();
        }
    };
    timeout(Duration::from_secs(20), swept).await.expect("what the application ended is not kept");
}

#[tokio::test]
async fn what_connections_give_back_that_ended_together_is_sent_on_a_new_one() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = Target::plain(listener.local_addr().unwrap());
    let apps = Apps::new(Tasks::default(), ReplayBudget::default());
    let terms = Terms::of(&ClusterPolicy::default(), &MeshConfig::default());
    let mut ended = Vec::new();
    for _ in 0..4 {
        let ending = async {
            let mut stream = listener.accept().await.unwrap().0;
            stream.shutdown().await.unwrap();
            // The other end has seen it once it ends, too.
            stream.read_to_end(&mut Vec::new()).await.unwrap();
        };
        let ((), poll) = tokio::join!(ending, apps.0.multiplexed.paused(&target, &terms));
        ended.push(poll);
    }
    let (head, ()) = Request::get("http://a/").header("host", "a").body(()).unwrap().into_parts();
    let nothing = crate::proxy::http::Incoming::Own(None);
    let body = RequestBody::once(nothing, &ReplayBudget::default(), Duration::from_secs(30));
    let mut sending = std::pin::pin!(apps.send(&target, Version::Http2, &head, body, &terms, None));
    for mut poll in ended {
        assert!(futures_util::poll!(sending.as_mut()).is_pending(), "it waits for what has ended unseen");
        std::future::poll_fn(|context| poll(context)).await;
    }
    let answering = async {
        let mut connection = h2::server::handshake(listener.accept().await.unwrap().0).await.unwrap();
        let (_, mut respond) = connection.accept().await.unwrap().unwrap();
        respond.send_response(Response::new(()), true).unwrap();
        std::future::poll_fn(|context| connection.poll_closed(context)).await
    };
    tokio::select! {
        answer = sending => assert_eq!(answer.unwrap().status(), StatusCode::OK),
        _ = answering => panic!("the connection ended before the answer came"),
    }
}
