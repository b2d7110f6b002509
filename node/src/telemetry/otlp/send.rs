//! One export: OTLP/gRPC or OTLP/HTTP with protobuf, over a connection that is kept, or through the mesh.

use super::{messages::ExportResponse, target::Target};
use crate::{clock, config::SpeakerName, connect, tasks::Tasks};
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use certs::id::ServiceName;
use flate2::{Compression, write::GzEncoder};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, Version,
    header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HOST, TE, USER_AGENT},
};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    body::{Body, Incoming},
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioIo, TokioTimer};
use prost::Message as _;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use std::{error::Error as _, io::Write as _, path::Path, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::lookup_host,
    sync::{mpsc, oneshot},
    time::timeout,
};
use tokio_rustls::TlsConnector;

/// Bytes before a gRPC message: compressed or not, and its length.
const PREFIX: usize = 5;
/// Bytes of an answer at most.
const ANSWER: usize = 64 * 1024;
/// How long a connection may take to open.
const CONNECT: Duration = Duration::from_secs(5);
const GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// The method that takes lines of the access log.
pub(in crate::telemetry) const LOGS_EXPORT: &str = "/opentelemetry.proto.collector.logs.v1.LogsService/Export";
/// Exports are not traced: the spans of exports would be exported, without an end.
const NOT_SAMPLED: HeaderValue = HeaderValue::from_static("00-00000000000000000000000000000001-0000000000000001-00");

/// What is exported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Signal {
    Traces,
    Logs,
}

impl Signal {
    /// As in OTLP's paths.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Traces => "traces",
            Self::Logs => "logs",
        }
    }

    const fn method(self) -> &'static str {
        match self {
            Self::Traces => "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
            Self::Logs => LOGS_EXPORT,
        }
    }
}

/// A request that goes through the mesh in the name of a service beside this node.
#[derive(Debug)]
pub struct Errand {
    /// Who sends it.
    pub speaker: SpeakerName,
    /// Whom to.
    pub service: ServiceName,
    /// At which of its ports.
    pub port: u16,
    /// For the whole answer.
    pub timeout: Duration,
    /// Its target is a path.
    pub request: Request<Bytes>,
    /// Where the answer goes; an error says in words why there is none.
    pub answer: oneshot::Sender<Result<Answer, String>>,
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its headers, and its trailers over them.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

/// Where the exports of a lane go.
#[derive(Debug, Clone)]
pub(super) enum Route {
    Direct(Arc<Target>),
    Mesh(Arc<Through>),
}

/// Through the mesh.
#[derive(Debug)]
pub(super) struct Through {
    pub(super) errands: mpsc::Sender<Errand>,
    pub(super) speaker: SpeakerName,
    pub(super) service: ServiceName,
    pub(super) port: u16,
    pub(super) path: Option<String>,
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    pub(super) timeout: Duration,
}

/// Why an export failed.
#[derive(Debug, PartialEq)]
pub(super) struct Failed {
    /// It may go well a moment later.
    pub(super) again: bool,
    /// For people; nothing of headers.
    pub(super) why: String,
}

impl Failed {
    fn for_good(why: impl Into<String>) -> Self {
        Self { again: false, why: why.into() }
    }

    fn for_now(why: impl Into<String>) -> Self {
        Self { again: true, why: why.into() }
    }
}

/// A connection to a collector, once there is one.
#[derive(Debug, Default)]
pub(super) struct Client(Option<Sender>);

#[derive(Debug)]
enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

impl Client {
    /// Sends a message. Gives how many of its items the collector refused.
    pub(super) async fn send(
        &mut self,
        route: &Route,
        signal: Signal,
        message: &Bytes,
        tasks: &Tasks,
    ) -> Result<u64, Failed> {
        let (path, headers, gzip) = match route {
            Route::Direct(target) => (&target.path, &target.headers, target.gzip),
            Route::Mesh(through) => (&through.path, &through.headers, false),
        };
        let is_grpc = path.is_none();
        let mut request = request(signal, path.as_deref(), headers, message, gzip)?;
        let answer = match route {
            Route::Direct(target) => {
                let sent = timeout(target.timeout, self.direct(target, request, tasks)).await;
                let answer = sent.unwrap_or_else(|_| Err(format!("no answer within {:?}", target.timeout)));
                if answer.is_err() {
                    self.0 = None;
                }
                answer
            }
            Route::Mesh(through) => {
                *request.version_mut() = if is_grpc { Version::HTTP_2 } else { Version::HTTP_11 };
                through.send(request).await
            }
        };
        judge(&answer.map_err(Failed::for_now)?, is_grpc)
    }

    async fn direct(&mut self, target: &Target, mut request: Request<Bytes>, tasks: &Tasks) -> Result<Answer, String> {
        let is_open = match &self.0 {
            Some(Sender::Http1(sender)) => !sender.is_closed(),
            Some(Sender::Http2(sender)) => !sender.is_closed(),
            None => false,
        };
        if !is_open {
            self.0 = Some(open(target, tasks).await?);
        }
        let host = if target.host.contains(':') { format!("[{}]", target.host) } else { target.host.clone() };
        let authority = format!("{host}:{}", target.port);
        let response = match &mut self.0 {
            Some(Sender::Http2(sender)) => {
                let scheme = if target.is_tls { "https" } else { "http" };
                let uri = format!("{scheme}://{authority}{}", request.uri());
                *request.uri_mut() = uri.parse::<Uri>().map_err(|error| error.to_string())?;
                *request.version_mut() = Version::HTTP_2;
                sender.ready().await.map_err(|error| told(&error))?;
                sender.send_request(request.map(Full::new)).await
            }
            Some(Sender::Http1(sender)) => {
                let host = HeaderValue::from_str(&authority).map_err(|error| error.to_string())?;
                request.headers_mut().insert(HOST, host);
                sender.ready().await.map_err(|error| told(&error))?;
                sender.send_request(request.map(Full::new)).await
            }
            None => return Err("no connection".to_owned()),
        };
        read(response.map_err(|error| told(&error))?).await
    }
}

impl Through {
    async fn send(&self, request: Request<Bytes>) -> Result<Answer, String> {
        let (answer, answered) = oneshot::channel();
        let errand = Errand {
            speaker: self.speaker.clone(),
            service: self.service.clone(),
            port: self.port,
            timeout: self.timeout,
            request,
            answer,
        };
        self.errands.send(errand).await.map_err(|_| "the node ends".to_owned())?;
        answered.await.unwrap_or_else(|_| Err("the node ends".to_owned()))
    }
}

/// Reads an answer whole.
pub(super) async fn read(response: Response<Incoming>) -> Result<Answer, String> {
    let (head, body) = response.into_parts();
    collect(head, body).await
}

/// Reads the rest of an answer.
///
/// # Errors
/// It broke off, or is too long.
pub async fn collect<B>(head: http::response::Parts, body: B) -> Result<Answer, String>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let collected = Limited::new(body, ANSWER).collect().await.map_err(|error| format!("its answer: {error}"))?;
    let mut headers = head.headers;
    headers.extend(collected.trailers().cloned().unwrap_or_default());
    Ok(Answer { status: head.status, headers, body: collected.to_bytes() })
}

fn request(
    signal: Signal,
    path: Option<&str>,
    headers: &[(HeaderName, HeaderValue)],
    message: &Bytes,
    gzip: bool,
) -> Result<Request<Bytes>, Failed> {
    let message = if gzip { &zipped(message)? } else { message };
    let body = match path {
        Some(_) => message.clone(),
        None => {
            let length = u32::try_from(message.len()).map_err(|_| Failed::for_good("too much at once"))?;
            let mut frame = BytesMut::with_capacity(PREFIX + message.len());
            frame.put_u8(u8::from(gzip));
            frame.put_u32(length);
            frame.put_slice(message);
            frame.freeze()
        }
    };
    let mut request = Request::new(body);
    *request.method_mut() = Method::POST;
    *request.uri_mut() =
        path.unwrap_or(signal.method()).parse().map_err(|_| Failed::for_good("its path is not valid"))?;
    let own = request.headers_mut();
    own.extend(headers.iter().cloned());
    own.insert(USER_AGENT, HeaderValue::from_static(concat!("skein/", env!("CARGO_PKG_VERSION"))));
    own.insert(TRACEPARENT, NOT_SAMPLED);
    if gzip {
        let name = if path.is_some() { CONTENT_ENCODING } else { GRPC_ENCODING };
        own.insert(name, HeaderValue::from_static("gzip"));
    }
    match path {
        Some(_) => {
            own.insert(CONTENT_LENGTH, HeaderValue::from(message.len()));
            own.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"))
        }
        None => {
            own.insert(TE, HeaderValue::from_static("trailers"));
            own.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"))
        }
    };
    Ok(request)
}

fn zipped(message: &Bytes) -> Result<Bytes, Failed> {
    let mut zipping = GzEncoder::new(Vec::new(), Compression::fast());
    let zipped = zipping.write_all(message).and_then(|()| zipping.finish());
    zipped.map(Bytes::from).map_err(|error| Failed::for_good(format!("it cannot be compressed: {error}")))
}

/// What an answer means, as OTLP's specification has it.
fn judge(answer: &Answer, is_grpc: bool) -> Result<u64, Failed> {
    let status = answer.status;
    let again = matches!(status.as_u16(), 429 | 502 | 503 | 504);
    if status != StatusCode::OK {
        return Err(Failed { again, why: format!("it answers {status}") });
    }
    let mut body = answer.body.clone();
    if is_grpc {
        // CANCELLED, DEADLINE_EXCEEDED, ABORTED, OUT_OF_RANGE, UNAVAILABLE and DATA_LOSS are worth another try.
        match answer.headers.get("grpc-status").map(HeaderValue::as_bytes) {
            Some(b"0") => {}
            Some(status) => {
                let again = [&b"1"[..], b"4", b"10", b"11", b"14", b"15"].contains(&status);
                let why = format!("it ended with gRPC status {}", String::from_utf8_lossy(status));
                return Err(Failed { again, why });
            }
            None => return Err(Failed::for_good("it speaks no gRPC")),
        }
        body.advance(PREFIX.min(body.len()));
    }
    let response = ExportResponse::decode(body).map_err(|_| Failed::for_good("its answer is not OTLP"))?;
    Ok(response.partial_success.map_or(0, |partial| u64::try_from(partial.rejected).unwrap_or(0)))
}

async fn open(target: &Target, tasks: &Tasks) -> Result<Sender, String> {
    let until = clock::monotonic() + CONNECT;
    let found = timeout(CONNECT, lookup_host((target.host.as_str(), target.port))).await;
    let found =
        found.map_err(|_| "its name does not resolve in time".to_owned())?.map_err(|error| error.to_string())?;
    let tcp = connect::first(&found.collect::<Vec<_>>(), until).await?;
    // Small exports must not wait for acknowledgements; a socket that refuses this still works.
    drop(tcp.set_nodelay(true));
    if !target.is_tls {
        return handshake(target, tcp, tasks).await;
    }
    let name = ServerName::try_from(target.host.clone()).map_err(|_| "not a name that a certificate could have")?;
    let connector = connector(target.authorities.as_deref(), target.path.is_none())?;
    let tls = connector.connect(name, tcp).await.map_err(|error| error.to_string())?;
    handshake(target, tls, tasks).await
}

async fn handshake<I>(target: &Target, io: I, tasks: &Tasks) -> Result<Sender, String>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    if target.path.is_none() {
        let mut builder = http2::Builder::new(tasks.clone());
        let (sender, driver) =
            builder.timer(TokioTimer::new()).handshake(TokioIo::new(io)).await.map_err(|error| told(&error))?;
        tasks.detach("otlp connection", async move { drop(driver.await) });
        return Ok(Sender::Http2(sender));
    }
    let (sender, driver) = http1::handshake(TokioIo::new(io)).await.map_err(|error| told(&error))?;
    tasks.detach("otlp connection", async move { drop(driver.await) });
    Ok(Sender::Http1(sender))
}

/// Reads files: the thread is the exporter's own, and nobody waits for it.
fn connector(authorities: Option<&Path>, is_http2: bool) -> Result<TlsConnector, String> {
    let mut roots = RootCertStore::empty();
    let added = match authorities {
        Some(file) => {
            let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
            let read = read.map_err(|error| format!("{}: {error}", file.display()))?;
            roots.add_parsable_certificates(read).0
        }
        None => roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs).0,
    };
    if added == 0 {
        return Err("there is no list of authorities: install ca-certificates, or set OTEL_EXPORTER_OTLP_CERTIFICATE"
            .to_owned());
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let mut config = config.map_err(|error| error.to_string())?.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![if is_http2 { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
    Ok(TlsConnector::from(Arc::new(config)))
}

/// hyper keeps the reason below.
fn told(error: &hyper::Error) -> String {
    error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, grpc: Option<&'static str>, body: &'static [u8]) -> Answer {
        let headers = grpc.map(|status| (HeaderName::from_static("grpc-status"), HeaderValue::from_static(status)));
        let status = StatusCode::from_u16(status).unwrap();
        Answer { status, headers: headers.into_iter().collect(), body: Bytes::from_static(body) }
    }

    #[test]
    fn answers_are_judged_as_otlp_wants_it() {
        assert_eq!(judge(&answer(200, None, b""), false), Ok(0));
        assert_eq!(judge(&answer(200, None, &[0x0a, 2, 8, 3]), false), Ok(3));
        assert_eq!(judge(&answer(200, Some("0"), &[0, 0, 0, 0, 4, 0x0a, 2, 8, 3]), true), Ok(3));
        assert_eq!(judge(&answer(200, Some("0"), b""), true), Ok(0));
        let again = |answer: &Answer, is_grpc| judge(answer, is_grpc).unwrap_err().again;
        assert!(again(&answer(503, None, b""), false) && !again(&answer(400, None, b""), false));
        assert!(again(&answer(200, Some("14"), b""), true) && !again(&answer(200, Some("16"), b""), true));
        assert!(!again(&answer(200, None, b""), true) && !again(&answer(200, None, b"<html>"), false));
    }

    #[test]
    fn exports_are_not_traced_and_carry_their_headers() {
        let headers = [(HeaderName::from_static("x-tenant"), HeaderValue::from_static("shop"))];
        let grpc = request(Signal::Logs, None, &headers, &Bytes::from_static(b"abc"), false).unwrap();
        assert_eq!(grpc.uri().path(), "/opentelemetry.proto.collector.logs.v1.LogsService/Export");
        assert_eq!(grpc.body().as_ref(), b"\0\0\0\0\x03abc");
        assert_eq!(
            (&grpc.headers()["x-tenant"], &grpc.headers()["content-type"]),
            (&headers[0].1, &HeaderValue::from_static("application/grpc"))
        );
        let http = request(Signal::Traces, Some("/v1/traces"), &[], &Bytes::from_static(b"abc"), false).unwrap();
        assert_eq!((http.uri().path(), http.body().as_ref()), ("/v1/traces", &b"abc"[..]));
        assert!(http.headers()["traceparent"].to_str().unwrap().ends_with("-00"));
    }

    #[test]
    fn what_is_compressed_says_so() {
        let message = Bytes::from(b"abc".repeat(100));
        let unzip = |body: &[u8]| {
            let mut whole = Vec::new();
            std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(body), &mut whole).map(|_| whole)
        };
        let http = request(Signal::Traces, Some("/v1/traces"), &[], &message, true).unwrap();
        assert_eq!(http.headers()["content-encoding"], "gzip");
        assert_eq!(http.headers()["content-length"], http.body().len().to_string().as_str());
        assert!(http.body().len() < 100);
        assert_eq!(unzip(http.body()).unwrap(), message);
        let grpc = request(Signal::Traces, None, &[], &message, true).unwrap();
        assert_eq!((&grpc.headers()["grpc-encoding"], grpc.body()[0]), (&HeaderValue::from_static("gzip"), 1));
        assert_eq!(u32::from_be_bytes(grpc.body()[1..PREFIX].try_into().unwrap()) as usize, grpc.body().len() - PREFIX);
        assert_eq!(unzip(&grpc.body()[PREFIX..]).unwrap(), message);
    }
}
