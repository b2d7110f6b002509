//! gRPC end to end: streams, statuses in trailers and in headers, time limits, and this proxy's own failures in gRPC's form.

use super::{
    backend::Backend,
    http2::{Body, connect, full, runtime},
    world::{Entry, World},
};
use crate::{config::Protocol, tasks::Tasks};
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::TokioIo;
use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
};
use tokio::{net::TcpListener, sync::mpsc};

type Heads = Arc<Mutex<Vec<HeaderMap>>>;
type Answer = BoxBody<Bytes, hyper::Error>;

/// A gRPC application: `/echo` gives each message back as it comes, `/collect` all of them at their end, `/none` answers without a
/// message, `/never` does not answer, and `/begin` sends one message and no more. It keeps the heads that come.
pub(super) async fn application(tasks: &Tasks) -> (SocketAddr, Heads) {
    application_with(tasks, None).await
}

/// The same with so many streams at once on a connection.
pub(super) async fn application_with(tasks: &Tasks, streams: Option<u32>) -> (SocketAddr, Heads) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, heads, spawner) = (listener.local_addr().unwrap(), Heads::default(), tasks.clone());
    let kept = Arc::clone(&heads);
    tasks.detach("application", async move {
        while let Ok((stream, _)) = listener.accept().await {
            let kept = Arc::clone(&kept);
            let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                kept.lock().unwrap().push(request.headers().clone());
                async move { Ok::<_, Infallible>(answer(request).await) }
            });
            let served = hyper::server::conn::http2::Builder::new(spawner.clone())
                .max_concurrent_streams(streams.or(Some(200)))
                .serve_connection(TokioIo::new(stream), service);
            spawner.detach("application", async move { drop(served.await) });
        }
    });
    (address, heads)
}

async fn answer(request: Request<Incoming>) -> Response<Answer> {
    let path = request.uri().path().to_owned();
    let body: Answer = match path.as_str() {
        "/echo" => request.into_body().boxed(),
        "/collect" => {
            let whole =
                request.into_body().collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
            Full::new(whole).map_err(|never| match never {}).boxed()
        }
        "/none" => Full::new(Bytes::new()).map_err(|never| match never {}).boxed(),
        "/begin" => {
            let first = futures_util::stream::iter([Ok(Frame::data(Bytes::from_static(b"first")))]);
            let rest = futures_util::stream::pending();
            BodyExt::boxed(StreamBody::new(futures_util::StreamExt::chain(first, rest)))
        }
        _ => std::future::pending().await,
    };
    let mut response = Response::new(body);
    response.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
    if path == "/none" {
        response.headers_mut().insert("grpc-status", "5".parse().unwrap());
    }
    response
}

/// A world before that application, as `reviews` on the last node.
pub(super) async fn world(nodes: usize, target: SocketAddr) -> World {
    let mut entry = Entry::new(nodes - 1, "reviews", "v1", &Backend::named(""));
    (entry.target, entry.protocol) = (target, Protocol::Grpc);
    // It has a runtime of its own.
    tokio::task::spawn_blocking(move || World::new(nodes, vec![entry])).await.unwrap()
}

/// A call's head.
pub(super) fn call(host: &str, path: &str) -> http::request::Builder {
    Request::post(format!("http://{host}{path}")).header("content-type", "application/grpc").header("te", "trailers")
}

/// A body of what is sent into the channel, then these trailers.
pub(super) fn streaming(trailers: HeaderMap) -> (mpsc::Sender<Bytes>, Body) {
    let (sender, receiver) = mpsc::channel::<Bytes>(4);
    let frames = futures_util::stream::unfold((receiver, Some(trailers)), |(mut receiver, trailers)| async move {
        match receiver.recv().await {
            Some(data) => Some((Ok::<_, Infallible>(Frame::data(data)), (receiver, trailers))),
            None => trailers.map(|trailers| (Ok(Frame::trailers(trailers)), (receiver, None))),
        }
    });
    (sender, BodyExt::boxed(StreamBody::new(frames)))
}

/// Ends a world where blocking is allowed.
pub(super) async fn end(world: World) {
    tokio::task::spawn_blocking(move || drop(world)).await.unwrap();
}

#[test]
fn messages_go_both_ways_while_both_directions_are_open() {
    let (runtime, tasks) = (runtime(), Tasks::new());
    runtime.block_on(async {
        let (target, _) = application(&tasks).await;
        let world = world(2, target).await;
        let mut sender = connect(world.nodes[0].outbound, &tasks).await;
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", "9".parse().unwrap());
        let (messages, body) = streaming(trailers);
        messages.send("one".into()).await.unwrap();
        let response = sender.send_request(call("reviews", "/echo").body(body).unwrap()).await.unwrap();
        let mut echo = response.into_body();
        for (came, next) in [("one", "two"), ("two", "three")] {
            assert_eq!(echo.frame().await.unwrap().unwrap().into_data().unwrap(), came);
            messages.send(next.into()).await.unwrap();
        }
        assert_eq!(echo.frame().await.unwrap().unwrap().into_data().unwrap(), "three");
        drop(messages);
        let last = echo.frame().await.unwrap().unwrap().into_trailers().unwrap();
        assert_eq!(last["grpc-status"], "9");
        assert!(echo.frame().await.is_none());
        end(world).await;
    });
}

#[test]
fn a_status_without_a_message_stays_in_the_headers() {
    let (runtime, tasks) = (runtime(), Tasks::new());
    runtime.block_on(async {
        let (target, _) = application(&tasks).await;
        let world = world(2, target).await;
        let mut sender = connect(world.nodes[0].outbound, &tasks).await;
        let response = sender.send_request(call("reviews", "/none").body(full("")).unwrap()).await.unwrap();
        assert_eq!((response.status().as_u16(), &response.headers()["grpc-status"]), (200, &"5".parse().unwrap()));
        let body = response.into_body().collect().await.unwrap();
        assert!(body.trailers().is_none() && body.to_bytes().is_empty());
        end(world).await;
    });
}

/// A38: the proxy does not read messages, so no length that one claims is ever allocated.
#[test]
fn a38_a_message_that_claims_to_be_huge_is_only_bytes() {
    let (runtime, tasks) = (runtime(), Tasks::new());
    runtime.block_on(async {
        let (target, _) = application(&tasks).await;
        let world = world(2, target).await;
        let mut sender = connect(world.nodes[0].outbound, &tasks).await;
        let message: &[u8] = b"\0\xff\xff\xff\xffabc";
        let response = sender.send_request(call("reviews", "/echo").body(full(message)).unwrap()).await.unwrap();
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), message);
        end(world).await;
    });
}

#[test]
fn our_own_failures_come_in_grpcs_form() {
    let (runtime, tasks) = (runtime(), Tasks::new());
    runtime.block_on(async {
        let (target, _) = application(&tasks).await;
        let mut world = world(2, target).await;
        let address = world.nodes[0].outbound;
        let told = async |host: &str, path: &str| {
            let mut sender = connect(address, &tasks).await;
            let response = sender.send_request(call(host, path).body(full("")).unwrap()).await.unwrap();
            assert_eq!((response.status().as_u16(), &response.headers()["content-type"]), (200, &"application/grpc".parse().unwrap()));
            let text = |name: &str| response.headers().get(name).map_or("", |value| value.to_str().unwrap()).to_owned();
            (text("grpc-status"), text("grpc-message"))
        };
        let pair = |status: &str, message: &str| (status.to_owned(), message.to_owned());
        assert_eq!(told("nobody", "/").await, pair("12", ""), "no route");
        world.push("apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: deny}\nspec: {action: DENY, rules: [{to: [{operation: {paths: [/no]}}]}]}\n");
        assert_eq!(told("reviews", "/no").await, pair("7", "RBAC: access denied"));
        world.push("apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: r}\nspec: {hosts: [reviews], http: [{match: [{uri: {exact: /gone}}], route: [{destination: {host: reviews, subset: none}}]}, {match: [{uri: {exact: /later}}], directResponse: {status: 503, body: {string: until 18:00}}}, {match: [{uri: {exact: /away}}], redirect: {uri: /there}}, {match: [{uri: {exact: /fault}}], fault: {abort: {grpcStatus: NOT_FOUND, percentage: {value: 100}}}, route: [{destination: {host: reviews}}]}, {timeout: 200ms, route: [{destination: {host: reviews}}]}]}\n");
        assert_eq!(told("reviews", "/gone").await.0, "14", "no such subset");
        assert_eq!(told("reviews", "/fault").await, pair("5", "fault filter abort"));
        assert_eq!(told("reviews", "/later").await, pair("14", "until 18:00"));
        assert_eq!(told("reviews", "/away").await, pair("2", ""));
        assert_eq!(told("reviews", "/never").await, pair("14", "upstream request timeout"));
        world.register(|entries| entries[0].healthy = false);
        assert_eq!(told("reviews", "/echo").await, pair("14", "no healthy upstream"));
        end(world).await;
    });
}

#[test]
fn a39_a_callers_deadline_counts_and_the_routes_caps_it() {
    let (runtime, tasks) = (runtime(), Tasks::new());
    runtime.block_on(async {
        let (target, heads) = application(&tasks).await;
        let mut world = world(2, target).await;
        let address = world.nodes[0].outbound;
        let ask = async |timeout: &str, path: &str| {
            let mut sender = connect(address, &tasks).await;
            let request = call("reviews", path).header("grpc-timeout", timeout).body(full("")).unwrap();
            let response = sender.send_request(request).await.unwrap();
            let status = response.headers().get("grpc-status").map(|status| status.to_str().unwrap().to_owned());
            let told = heads.lock().unwrap().last().and_then(|head| head.get("grpc-timeout").cloned());
            (status, told.map(|told| told.to_str().unwrap().to_owned()))
        };
        // The deadline shall not meet the dialling of the first connection.
        ask("60S", "/none").await;
        assert_eq!(ask("1500m", "/never").await, (Some("14".to_owned()), Some("1500m".to_owned())));
        for garbage in ["soon", "-5m", "123456789S"] {
            assert_eq!(ask(garbage, "/none").await, (Some("5".to_owned()), Some(garbage.to_owned())), "only the application may know");
        }
        world.push("apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: r}\nspec: {hosts: [reviews], http: [{timeout: 1500ms, route: [{destination: {host: reviews}}]}]}\n");
        assert_eq!(ask("99999999H", "/never").await, (Some("14".to_owned()), Some("1500m".to_owned())));
        end(world).await;
    });
}
