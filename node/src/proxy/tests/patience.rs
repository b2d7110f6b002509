//! Whose time runs when: streams that are quiet on one side, uploads that last longer than an attempt may, and waiting for room.

use super::{
    backend::{Arrived, Backend, ok},
    client::{Client, get},
    grpc::{application, call, end, streaming},
    http2::{connect, runtime},
    world::{Entry, World, mesh_config, traffic_policy},
};
use crate::{balance::Resource, config::Protocol, mesh::Transport, tasks::Tasks};
use http::{HeaderMap, Request};
use http_body_util::BodyExt;
use std::{
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Mutex, mpsc},
    time::Duration,
};

/// More than twice the pause that a request's body may make: the limit may last twice as long.
const QUIET: Duration = Duration::from_millis(700);
/// Bytes of a body that is longer than what is kept of one.
const LONG: usize = 100 * 1024;
const IDLE: &str = "{limits: {requestBodyIdle: 200ms}}";

/// A VirtualService for `reviews` with these `http` rules.
fn routes(rules: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: reviews}}\nspec: {{hosts: [reviews], http: [{rules}]}}\n"
    )
}

/// A backend whose answers to `/long` wait until the sender is dropped.
fn held() -> (Backend, mpsc::SyncSender<()>) {
    let (open, wait) = mpsc::sync_channel::<()>(0);
    let wait = Mutex::new(wait);
    let backend = Backend::scripted(move |arrived: &Arrived| {
        if arrived.line().contains("/long") {
            let _opened = wait.lock().unwrap().recv_timeout(Duration::from_secs(60));
        }
        ok("v1")
    });
    (backend, open)
}

/// The status of a request with a body of this length; 0 if it is not answered.
fn post(outbound: SocketAddr, path: &str, length: usize) -> u16 {
    let head = format!("POST {path} HTTP/1.1\r\nHost: reviews\r\nContent-Length: {length}\r\n\r\n");
    Client::connect(outbound).ask(head + &"a".repeat(length)).map_or(0, |answer| answer.status)
}

fn until(done: impl Fn() -> bool) {
    for _ in 0..3_000 {
        if done() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("it did not happen");
}

fn count_of(world: &World, resource: Resource) -> u32 {
    world.circuits[0].all().iter().map(|circuit| circuit.pool.count(resource)).sum()
}

#[test]
fn a_caller_may_be_quiet_while_it_is_answered_and_a_grpc_caller_before() {
    let (runtime, tasks) = (runtime(), Tasks::new());
    runtime.block_on(async {
        let (target, _) = application(&tasks).await;
        for nodes in [2, 1] {
            let mut world = super::grpc::world(nodes, target).await;
            world.push(&mesh_config(IDLE));
            let mut sender = connect(world.nodes[0].outbound, &tasks).await;
            let plain = Request::post("http://reviews/echo");
            for head in [call("reviews", "/echo"), plain] {
                let (messages, body) = streaming(HeaderMap::new());
                messages.send("one".into()).await.unwrap();
                let mut echo = sender.send_request(head.body(body).unwrap()).await.unwrap().into_body();
                assert_eq!(echo.frame().await.unwrap().unwrap().into_data().unwrap(), "one");
                tokio::time::sleep(QUIET).await;
                messages.send("two".into()).await.unwrap();
                assert_eq!(echo.frame().await.unwrap().unwrap().into_data().unwrap(), "two");
            }
            let (messages, body) = streaming(HeaderMap::new());
            let asked = sender.send_request(call("reviews", "/collect").body(body).unwrap());
            let said = async move {
                for part in ["one", "two"] {
                    messages.send(part.into()).await.unwrap();
                    tokio::time::sleep(QUIET).await;
                }
            };
            let (answer, ()) = tokio::join!(asked, said);
            let whole = answer.unwrap().into_body().collect().await.unwrap();
            assert_eq!(whole.to_bytes(), "onetwo");
            end(world).await;
        }
    });
}

#[test]
fn an_attempts_time_begins_when_the_caller_has_sent_all() {
    for nodes in [2, 1] {
        let backend = Backend::named("v1");
        let mut world = World::new(nodes, vec![Entry::new(nodes - 1, "reviews", "v1", &backend)]);
        world.push(&routes(
            "{retries: {attempts: 1, perTryTimeout: 1s, retryOn: 5xx}, route: [{destination: {host: reviews}}]}",
        ));
        let mut slow = Client::connect(world.nodes[0].outbound);
        slow.write("POST / HTTP/1.1\r\nHost: reviews\r\nContent-Length: 9\r\n\r\n");
        for _ in 0..8 {
            slow.write("a");
            std::thread::sleep(Duration::from_millis(200));
        }
        assert_eq!(slow.ask("a").expect("an answer").status, 200);
    }
}

#[test]
fn an_attempt_that_gets_no_answer_in_its_time_is_tried_again() {
    for nodes in [2, 1] {
        let (backend, open) = held();
        let mut world = World::new(nodes, vec![Entry::new(nodes - 1, "reviews", "v1", &backend)]);
        world.push(&routes(
            "{retries: {attempts: 1, perTryTimeout: 1s, retryOn: 5xx}, route: [{destination: {host: reviews}}]}",
        ));
        // Dialling shall be no part of an attempt's time.
        assert_eq!(get(world.nodes[0].outbound, "reviews", "/").status, 200);
        assert_eq!(get(world.nodes[0].outbound, "reviews", "/long").status, 504);
        assert_eq!(backend.arrived().len(), 3);
        drop(open);
    }
}

#[test]
fn waiting_for_room_is_no_part_of_an_attempt_and_nobodys_fault() {
    let (backend, open) = held();
    let mut world = World::new(2, vec![Entry::new(1, "reviews", "v1", &backend)]);
    let policy = "{connectionPool: {tcp: {maxConnections: 1, connectTimeout: 30s}}, outlierDetection: {consecutive5xxErrors: 1, maxEjectionPercent: 100}}";
    world.push(&traffic_policy(policy));
    world.push(&routes(
        "{match: [{uri: {prefix: /short}}], timeout: 300ms, route: [{destination: {host: reviews}}]}, \
         {match: [{uri: {prefix: /try}}], retries: {attempts: 1, perTryTimeout: 300ms}, route: [{destination: {host: reviews}}]}, \
         {route: [{destination: {host: reviews}}]}",
    ));
    let outbound = world.nodes[0].outbound;
    let long = std::thread::spawn(move || get(outbound, "reviews", "/long").status);
    until(|| backend.arrived().len() == 1);
    assert_eq!(get(outbound, "reviews", "/short").status, 504);
    assert_eq!(post(outbound, "/short", 5), 504, "its body has come to its end");
    assert_eq!(post(outbound, "/short", LONG), 504, "no more of it can be taken");
    assert!(world.circuits[0].ejected().is_empty(), "the endpoint has done nothing");
    let tried = std::thread::spawn(move || get(outbound, "reviews", "/try").status);
    until(|| count_of(&world, Resource::Pending) == 1);
    std::thread::sleep(Duration::from_millis(600));
    drop(open);
    assert_eq!((long.join().unwrap(), tried.join().unwrap()), (200, 200));
    assert!(world.circuits[0].ejected().is_empty());
}

#[test]
fn a_requests_time_runs_while_there_is_no_connection_for_it() {
    // Takes connections, and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let backend = Backend::named("v1");
    let entry = Entry { address: silent.local_addr().ok(), ..Entry::new(1, "reviews", "v1", &backend) };
    let mut world = World::over(Transport::Tcp, 2, vec![entry]);
    world.push(&traffic_policy("{connectionPool: {tcp: {connectTimeout: 60s}}}"));
    world.push(&routes("{timeout: 300ms, route: [{destination: {host: reviews}}]}"));
    for length in [0, 5, LONG] {
        assert_eq!(post(world.nodes[0].outbound, "/", length), 504, "{length} bytes");
    }
}

#[test]
fn a_requests_time_runs_while_its_application_takes_no_connection() {
    // Whatever comes beyond these waits.
    let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    listener.listen(0).unwrap();
    let full = listener.local_addr().unwrap().as_socket().unwrap();
    let taken: Vec<_> = (0..4)
        .map(|_| TcpStream::connect_timeout(&full, Duration::from_millis(300)))
        .take_while(Result::is_ok)
        .collect();
    assert!(taken.len() < 4);
    let mut world = World::new(1, vec![Entry::at(0, "reviews", "v1", full, Protocol::Http)]);
    world.push(&traffic_policy("{connectionPool: {tcp: {connectTimeout: 60s}}}"));
    world.push(&routes("{timeout: 300ms, route: [{destination: {host: reviews}}]}"));
    for length in [0, 5, LONG] {
        assert_eq!(post(world.nodes[0].outbound, "/", length), 504, "{length} bytes");
    }
}

#[test]
fn what_came_while_a_connection_was_waited_for_goes_out_whole_on_another() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let backend = Backend::scripted(|arrived: &Arrived| ok(&arrived.body.len().to_string()));
    let lost = Entry { address: silent.local_addr().ok(), ..Entry::new(1, "reviews", "v1", &backend) };
    let mut world = World::over(Transport::Tcp, 3, vec![lost, Entry::new(2, "reviews", "v1", &backend)]);
    world
        .push(&traffic_policy("{connectionPool: {tcp: {connectTimeout: 300ms}}, loadBalancer: {simple: ROUND_ROBIN}}"));
    for length in [5, LONG, 0, LONG] {
        let head = format!("POST / HTTP/1.1\r\nHost: reviews\r\nContent-Length: {length}\r\n\r\n");
        let answer = Client::connect(world.nodes[0].outbound).ask(head + &"a".repeat(length)).expect("an answer");
        assert_eq!((answer.status, answer.body), (200, length.to_string()));
    }
    assert!(backend.arrived().iter().any(|arrived| arrived.header("x-envoy-attempt-count") == Some("2")));
}

#[test]
fn who_leaves_within_its_request_waits_for_nothing_more() {
    let (backend, open) = held();
    let mut world = World::new(2, vec![Entry::new(1, "reviews", "v1", &backend)]);
    world.push(&traffic_policy("{connectionPool: {tcp: {maxConnections: 1, connectTimeout: 120s}}}"));
    let outbound = world.nodes[0].outbound;
    let long = std::thread::spawn(move || get(outbound, "reviews", "/long").status);
    until(|| backend.arrived().len() == 1);
    let mut leaving = Client::connect(outbound);
    leaving.write("POST / HTTP/1.1\r\nHost: reviews\r\nContent-Length: 9\r\n\r\nabc");
    until(|| count_of(&world, Resource::Pending) == 1);
    drop(leaving);
    until(|| count_of(&world, Resource::Pending) == 0);
    drop(open);
    assert_eq!(long.join().unwrap(), 200);
}
