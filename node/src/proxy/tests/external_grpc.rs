//! External authorisers that are asked by gRPC, and gRPC callers that are refused.

use super::{
    backend::Backend,
    client::{Client, get, with},
    grpc::{call, end},
    http2::{connect, full, runtime},
    world::{Entry, World, mesh_config},
};
use crate::{config::Protocol, tasks::Tasks};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::TokioIo;
use prost::Message;
use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
};
use tokio::net::TcpListener;

/// The fields of `CheckRequest` that are looked at here, by a reader of its own.
#[derive(Clone, PartialEq, Message)]
struct Asked {
    #[prost(message, optional, tag = "1")]
    attributes: Option<Attributes>,
}

#[derive(Clone, PartialEq, Message)]
struct Attributes {
    #[prost(message, optional, tag = "1")]
    source: Option<Peer>,
    #[prost(message, optional, tag = "2")]
    destination: Option<Peer>,
    #[prost(message, optional, tag = "4")]
    request: Option<Attribute>,
}

#[derive(Clone, PartialEq, Message)]
struct Peer {
    #[prost(string, tag = "4")]
    principal: String,
}

#[derive(Clone, PartialEq, Message)]
struct Attribute {
    #[prost(message, optional, tag = "2")]
    http: Option<HttpRequest>,
}

#[derive(Clone, PartialEq, Message)]
struct HttpRequest {
    #[prost(string, tag = "2")]
    method: String,
    #[prost(btree_map = "string, string", tag = "3")]
    headers: std::collections::BTreeMap<String, String>,
    #[prost(string, tag = "4")]
    path: String,
    #[prost(string, tag = "5")]
    host: String,
    #[prost(string, tag = "11")]
    body: String,
}

type Questions = Arc<Mutex<Vec<Attributes>>>;

/// A field of a message that holds bytes.
fn field(tag: u8, content: &[u8]) -> Vec<u8> {
    [&[tag << 3 | 2, u8::try_from(content.len()).unwrap()][..], content].concat()
}

/// Lets in who shows `token: good` with a header and a query parameter; others get 401 with `no`, those at `/broken` an error.
fn verdict(asked: &Attributes) -> (Vec<u8>, &'static str) {
    let http = asked.request.as_ref().and_then(|request| request.http.as_ref()).expect("an HTTP request");
    let header = |key: &str, value: &str| field(1, &[field(1, key.as_bytes()), field(2, value.as_bytes())].concat());
    if http.path == "/broken" {
        return (Vec::new(), "13");
    }
    if http.headers.get("token").map(String::as_str) == Some("good") {
        let ok = [
            field(2, &header("x-user", "ann")),
            field(5, b"token"),
            field(6, &header("x-seen", "yes")),
            field(7, &[field(1, b"user"), field(2, b"ann")].concat()),
        ];
        return ([vec![0x0a, 0], field(3, &ok.concat())].concat(), "0");
    }
    let status = [vec![0x08], vec![0x91, 0x03]].concat();
    let denied = [field(1, &status), field(2, &header("x-why", "token")), field(3, b"no")].concat();
    ([field(1, &[8, 16]), field(2, &denied)].concat(), "0")
}

async fn authoriser(tasks: &Tasks) -> (SocketAddr, Questions) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, questions, spawner) = (listener.local_addr().unwrap(), Questions::default(), tasks.clone());
    let kept = Arc::clone(&questions);
    tasks.detach("authoriser", async move {
        while let Ok((stream, _)) = listener.accept().await {
            let kept = Arc::clone(&kept);
            let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                let kept = Arc::clone(&kept);
                async move {
                    assert_eq!(request.uri().path(), "/envoy.service.auth.v3.Authorization/Check");
                    let mut body = request.into_body().collect().await.unwrap().to_bytes();
                    body.advance(5);
                    let asked = Asked::decode(body).unwrap().attributes.expect("attributes");
                    let (message, status) = verdict(&asked);
                    kept.lock().unwrap().push(asked);
                    let mut frame = BytesMut::new();
                    frame.put_u8(0);
                    frame.put_u32(u32::try_from(message.len()).unwrap());
                    frame.extend_from_slice(&message);
                    let mut trailers = HeaderMap::new();
                    trailers.insert("grpc-status", status.parse().unwrap());
                    let frames = [Ok::<_, Infallible>(Frame::data(frame.freeze())), Ok(Frame::trailers(trailers))];
                    let mut response = Response::new(StreamBody::new(futures_util::stream::iter(frames)));
                    response.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
                    Ok::<_, Infallible>(response)
                }
            });
            let served = hyper::server::conn::http2::Builder::new(spawner.clone())
                .serve_connection(TokioIo::new(stream), service);
            spawner.detach("authoriser", async move { drop(served.await) });
        }
    });
    (address, questions)
}

const POLICY: &str = "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: custom}\n\
    spec: {selector: {matchLabels: {app: reviews}}, action: CUSTOM, provider: {name: opa}, rules: [{}]}\n";

fn opa(fields: &str) -> String {
    mesh_config(&format!(
        "{{extensionProviders: [{{name: opa, envoyExtAuthzGrpc: {{service: ratings.default.svc.cluster.local, port: 9080{fields}}}}}]}}"
    ))
}

/// A world of so many nodes: `reviews` on the last, `ratings` on the first.
async fn world(nodes: usize, reviews: Entry, ratings: SocketAddr) -> World {
    let mut authoriser = Entry::new(0, "ratings", "v1", &Backend::named(""));
    (authoriser.target, authoriser.protocol) = (ratings, Protocol::Grpc);
    let entries = vec![Entry { node: nodes - 1, ..reviews }, authoriser];
    tokio::task::spawn_blocking(move || World::new(nodes, entries)).await.unwrap()
}

#[test]
fn an_authoriser_is_asked_by_grpc() {
    let (runtime, tasks) = (runtime(), Tasks::new());
    runtime.block_on(async {
        let (target, questions) = authoriser(&tasks).await;
        for nodes in [2, 1] {
            let application = Backend::named("hello");
            let mut world = world(nodes, Entry::new(0, "reviews", "v1", &application), target).await;
            world.push(&format!("{}{POLICY}", opa(", includeRequestBodyInCheck: {maxRequestBytes: 9}")));
            let (world, application) = tokio::task::spawn_blocking(move || {
                let outbound = world.nodes[0].outbound;
                let answer = with(outbound, "reviews", "/a?q=1", "Token: good\r\nX-Many: 1\r\nX-Many: 2\r\n");
                assert_eq!((answer.status, answer.header("x-seen"), answer.header("x-user")), (200, Some("yes"), None));
                let got = application.last();
                assert_eq!(got.line(), "GET /a?q=1&user=ann HTTP/1.1");
                assert_eq!((got.header("x-user"), got.header("token")), (Some("ann"), None));
                let refused =
                    Client::connect(outbound).ask("POST /b HTTP/1.1\r\nHost: reviews\r\nContent-Length: 3\r\n\r\nabc");
                let refused = refused.expect("an answer");
                assert_eq!(
                    (refused.status, refused.body.as_str(), refused.header("x-why")),
                    (401, "no", Some("token"))
                );
                assert_eq!(get(outbound, "reviews", "/broken").status, 403, "an error is no consent");
                assert_eq!(application.arrived().len(), 1);
                (world, application)
            })
            .await
            .unwrap();
            let asked: Vec<Attributes> = std::mem::take(&mut *questions.lock().unwrap());
            let principal = |peer: &Option<Peer>| peer.as_ref().expect("a peer").principal.clone();
            assert_eq!(principal(&asked[0].source), "spiffe://test.example/ns/default/sa/web");
            assert_eq!(principal(&asked[0].destination), "spiffe://test.example/ns/default/sa/reviews");
            let http = |index: usize| asked[index].request.clone().and_then(|request| request.http).unwrap();
            assert_eq!(
                (http(0).method.as_str(), http(0).path.as_str(), http(0).host.as_str()),
                ("GET", "/a?q=1", "reviews")
            );
            let headers = http(0).headers;
            assert_eq!((headers["x-many"].as_str(), headers[":path"].as_str()), ("1,2", "/a?q=1"));
            assert!(headers["x-forwarded-client-cert"].ends_with("sa/web"));
            assert_eq!(
                (http(1).body.as_str(), http(1).headers["x-envoy-auth-partial-body"].as_str()),
                ("abc", "false")
            );
            drop(application);
            end(world).await;
        }
    });
}

#[test]
fn a_grpc_caller_is_refused_in_its_own_form() {
    let (runtime, tasks) = (runtime(), Tasks::new());
    runtime.block_on(async {
        let (target, _) = authoriser(&tasks).await;
        let (application, heads) = super::grpc::application(&tasks).await;
        let mut entry = Entry::new(0, "reviews", "v1", &Backend::named(""));
        (entry.target, entry.protocol) = (application, Protocol::Grpc);
        let mut world = world(2, entry, target).await;
        world.push(&format!("{}{POLICY}", opa("")));
        let mut sender = connect(world.nodes[0].outbound, &tasks).await;
        let refused = sender.send_request(call("reviews", "/collect").body(full("x")).unwrap()).await.unwrap();
        let header = |name: &str| refused.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
        assert_eq!((refused.status().as_u16(), header("grpc-status").as_deref()), (200, Some("16")));
        assert_eq!((header("grpc-message").as_deref(), header("x-why").as_deref()), (Some("no"), Some("token")));
        assert!(heads.lock().unwrap().is_empty());
        let good = call("reviews", "/collect").header("token", "good").body(full("x")).unwrap();
        let answer = sender.send_request(good).await.unwrap();
        assert_eq!(answer.headers()["x-seen"], "yes");
        assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), Bytes::from_static(b"x"));
        end(world).await;
    });
}
