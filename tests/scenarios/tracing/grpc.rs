//! A collector that speaks OTLP/gRPC, and lines of the access log that go to one.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use harness::{
    collector::{self, Record, Span},
    eventually,
};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::{Request, Response, body::Incoming, header::HeaderValue, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::{get, providers, push, telemetry, two};
use crate::reviews;

type Exports = Arc<Mutex<Vec<(String, Vec<u8>)>>>;

/// Takes exports until the test ends.
struct Grpc {
    address: SocketAddr,
    exports: Exports,
    _runtime: tokio::runtime::Runtime,
}

impl Grpc {
    fn start() -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).expect("a free port");
        let (address, exports) = (listener.local_addr().expect("an address"), Exports::default());
        let kept = exports.clone();
        let handle = runtime.handle().clone();
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let kept = kept.clone();
                handle.spawn(async move {
                    let service = service_fn(move |request| answer(request, kept.clone()));
                    let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    connection.serve_connection(TokioIo::new(stream), service).await
                });
            }
        });
        Self { address, exports, _runtime: runtime }
    }

    fn of(&self, service: &str) -> Vec<Vec<u8>> {
        let exports = self.exports.lock().expect("no panic holds it");
        exports.iter().filter(|(path, _)| path.contains(service)).map(|(_, message)| message.clone()).collect()
    }

    fn spans(&self) -> Vec<Span> {
        self.of("TraceService").iter().flat_map(|message| collector::spans(message)).collect()
    }

    fn records(&self) -> Vec<Record> {
        self.of("LogsService").iter().flat_map(|message| collector::records(message)).collect()
    }
}

/// One message comes; an empty one and status 0 go back.
async fn answer(
    request: Request<Incoming>,
    exports: Exports,
) -> Result<Response<BoxBody<Bytes, Infallible>>, Infallible> {
    let path = request.uri().path().to_owned();
    let is_grpc = request.headers().get("content-type").is_some_and(|kind| kind == "application/grpc");
    let body = request.into_body().collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    if is_grpc && body.len() >= 5 && body[0] == 0 {
        exports.lock().expect("no panic holds it").push((path, body[5..].to_vec()));
    }
    let trailers = async {
        Some(Ok(hyper::HeaderMap::from_iter([("grpc-status".parse().expect("a name"), HeaderValue::from_static("0"))])))
    };
    let body = Full::new(Bytes::from_static(&[0; 5])).with_trailers(trailers).boxed();
    let mut response = Response::new(body);
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    Ok(response)
}

#[test]
fn spans_and_lines_go_by_grpc_and_lines_name_their_trace() {
    let (cluster, grpc) = (reviews(&["v1"]), Grpc::start());
    let port = grpc.address.port();
    let list = format!(
        "{{name: otel, opentelemetry: {{service: 127.0.0.1, port: {port}}}}}, {{name: lines, envoyOtelAls: {{service: 127.0.0.1, port: {port}, \
         logFormat: {{text: '%REQ(:METHOD)% %REQ(:PATH)%', labels: {{code: '%RESPONSE_CODE%'}}}}}}}}"
    );
    let spec = "{tracing: [{providers: [{name: otel}], randomSamplingPercentage: 100}], \
        accessLogging: [{match: {mode: SERVER}, providers: [{name: lines}, {name: envoy}], filter: {expression: 'request.url_path != \"/quiet\"'}}]}";
    push(&cluster, &(providers(&list) + &telemetry(spec)));
    assert_eq!((get(&cluster, "/quiet", &[]), get(&cluster, "/told", &[])), (200, 200));
    let (client, server) = eventually("both spans", || two(&grpc.spans(), "/told"));
    assert_eq!((&client.trace, &client.id), (&server.trace, &server.parent));
    let record = eventually("a record", || grpc.records().pop().ok_or_else(|| "none yet".to_owned()));
    assert_eq!((record.body.as_str(), record.attributes["code"].as_str()), ("GET /told", "200"));
    assert_eq!((&record.trace, record.resource["service.name"].as_str()), (&server.trace, "reviews.shop"));
    assert_eq!(grpc.records().len(), 1, "one side, and what the filter wants");
    eventually("beside it the stream", || {
        let lines = cluster.node("reviews-v1").output();
        if lines.iter().any(|line| line.contains("GET /told")) { Ok(()) } else { Err(format!("{lines:#?}")) }
    });
}
