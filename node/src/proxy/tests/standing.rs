//! What is under way when the rules change: it ends if it would be denied now.

use super::{
    backend::{Backend, Buffered},
    client::{Client, get},
    grpc,
    http2::{connect, full, runtime},
    world::{Entry, World},
};
use crate::tasks::Tasks;
use http_body_util::BodyExt;
use std::{io::Write, net::TcpListener};

fn deny(rule: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: deny}}\nspec: {{action: DENY, rules: [{{to: [{{operation: {{paths: ['{rule}']}}}}]}}]}}\n"
    )
}

#[test]
fn a_grpc_stream_that_policy_denies_now_is_told_so() {
    let (runtime, tasks) = (runtime(), Tasks::new());
    runtime.block_on(async {
        let (target, _) = grpc::application(&tasks).await;
        for nodes in [2, 1] {
            let mut world = grpc::world(nodes, target).await;
            let mut sender = connect(world.nodes[0].outbound, &tasks).await;
            let mut begin = async |path: &str| {
                let request = grpc::call("reviews", path).body(full("")).unwrap();
                let mut stream = sender.send_request(request).await.unwrap().into_body();
                assert_eq!(stream.frame().await.unwrap().unwrap().into_data().unwrap(), "first");
                stream
            };
            let mut stream = begin("/begin").await;
            world.push(&deny("/other"));
            world.push(&deny("/begin"));
            let trailers = stream.frame().await.unwrap().unwrap().into_trailers().unwrap();
            assert_eq!(
                (&trailers["grpc-status"], &trailers["grpc-message"]),
                (&"7".parse().unwrap(), &"RBAC: access denied".parse().unwrap())
            );
            assert!(stream.frame().await.is_none());
            grpc::end(world).await;
        }
    });
}

#[test]
fn a_grpc_caller_that_is_denied_sends_nothing_more() {
    let (runtime, tasks) = (runtime(), Tasks::new());
    runtime.block_on(async {
        let (target, _) = grpc::application(&tasks).await;
        let mut world = grpc::world(2, target).await;
        let mut sender = connect(world.nodes[0].outbound, &tasks).await;
        let (messages, body) = grpc::streaming(http::HeaderMap::new());
        messages.send("one".into()).await.unwrap();
        let mut echo =
            sender.send_request(grpc::call("reviews", "/echo").body(body).unwrap()).await.unwrap().into_body();
        assert_eq!(echo.frame().await.unwrap().unwrap().into_data().unwrap(), "one");
        world.push(&deny("/echo"));
        assert!(echo.frame().await.is_none_or(|frame| frame.is_err()), "it breaks off");
        let closed = tokio::time::timeout(std::time::Duration::from_secs(10), messages.closed()).await;
        assert!(closed.is_ok(), "nobody takes what it still sends");
        grpc::end(world).await;
    });
}

#[test]
fn a_call_whose_answer_has_not_begun_is_denied() {
    let (runtime, tasks) = (runtime(), Tasks::new());
    runtime.block_on(async {
        let (target, heads) = grpc::application(&tasks).await;
        let mut world = grpc::world(2, target).await;
        let mut sender = connect(world.nodes[0].outbound, &tasks).await;
        let request = grpc::call("reviews", "/never").body(full("")).unwrap();
        let answer = tasks.clone();
        let (told, answered) = tokio::sync::oneshot::channel();
        answer.detach("call", async move { drop(told.send(sender.send_request(request).await)) });
        while heads.lock().unwrap().is_empty() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        world.push(&deny("/never"));
        let response = answered.await.unwrap().unwrap();
        assert_eq!((response.status().as_u16(), &response.headers()["grpc-status"]), (200, &"7".parse().unwrap()));
        grpc::end(world).await;
    });
}

/// An application whose answers begin and do not end.
fn endless() -> (std::net::SocketAddr, std::thread::JoinHandle<bool>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let application = std::thread::spawn(move || {
        let mut stream = Buffered::new(listener.accept().unwrap().0);
        stream.head().unwrap();
        stream.stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n").unwrap();
        stream.ended()
    });
    (address, application)
}

#[test]
fn a_long_response_that_policy_denies_now_breaks_off() {
    for nodes in [2, 1] {
        let (target, application) = endless();
        let mut entry = Entry::new(nodes - 1, "reviews", "v1", &Backend::named(""));
        entry.target = target;
        let mut world = World::new(nodes, vec![entry]);
        let mut client = Client::connect(world.nodes[0].outbound);
        client.write("GET /long HTTP/1.1\r\nHost: reviews\r\n\r\n");
        assert!(client.wait_for("first"));
        world.push(&deny("/other"));
        world.register(|_| {});
        assert!(client.rest().ends_with(b"first\r\n"), "what does not concern it leaves it");
        world.push(&deny("/long"));
        assert!(!client.wait_for("0\r\n\r\n"), "no clean end: it is not whole");
        assert!(client.ended());
        assert!(application.join().unwrap(), "the application hears of it");
        assert_eq!(get(world.nodes[0].outbound, "reviews", "/long").status, 403);
    }
}

#[test]
fn a_reload_of_the_configuration_is_a_change_of_rules() {
    let (target, application) = endless();
    let mut entry = Entry::new(1, "reviews", "v1", &Backend::named(""));
    entry.target = target;
    let mut world = World::new(2, vec![entry]);
    world.push(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: none}\nspec: {selector: {matchLabels: {tier: secret}}}\n",
    );
    let mut client = Client::connect(world.nodes[0].outbound);
    client.write("GET /long HTTP/1.1\r\nHost: reviews\r\n\r\n");
    assert!(client.wait_for("first"));
    world.configure(1, &[]).unwrap();
    assert!(client.rest().ends_with(b"first\r\n"), "nothing is said of it");
    world.tier = "secret";
    world.configure(1, &[]).unwrap();
    assert!(client.ended() && application.join().unwrap());
}
