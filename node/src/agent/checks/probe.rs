//! One question to a local application: HTTP, gRPC health protocol, or a bare connection.

use std::{future::Future, net::SocketAddr};

use bytes::{Buf, Bytes};
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Empty, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use crate::config::{Check, Probe, Protocol};

/// Most bytes of a gRPC health answer.
const ANSWER_BYTES: usize = 4096;
const GRPC_PATH: &str = "/grpc.health.v1.Health/Check";
/// `SERVING` of `grpc.health.v1.HealthCheckResponse.ServingStatus`.
const SERVING: u64 = 1;

/// Asks once; an error says in words why the endpoint does not count as healthy.
///
/// # Errors
/// What failed: connecting, time, status.
pub async fn probe(check: &Check) -> Result<(), String> {
    let patience = super::patience(check);
    let asked = async {
        match &check.probe {
            Probe::Tcp => connect(check.target).await.map(drop),
            Probe::Ports(ports) => every(ports).await,
            Probe::Http(path) => http(check, path).await,
            Probe::Grpc(service) => grpc(check.target, service).await,
        }
    };
    tokio::time::timeout(patience, asked).await.unwrap_or_else(|_| Err(format!("no answer within {patience:?}")))
}

/// All at once, so that the time that one may take is what all may take. The first by number that fails is named.
async fn every(ports: &[(u16, SocketAddr)]) -> Result<(), String> {
    let one = |(number, target): &(u16, SocketAddr)| {
        let (number, target) = (*number, *target);
        async move { connect(target).await.map(drop).map_err(|why| format!("port {number}: {why}")) }
    };
    futures_util::future::join_all(ports.iter().map(one)).await.into_iter().collect()
}

async fn connect(target: SocketAddr) -> Result<TcpStream, String> {
    TcpStream::connect(target).await.map_err(|e| format!("{target}: {e}"))
}

async fn http(check: &Check, path: &str) -> Result<(), String> {
    let request = Request::get(path)
        .header(header::HOST, check.target.to_string())
        .header(header::USER_AGENT, "skein-check")
        .body(Empty::<Bytes>::new())
        .map_err(|e| e.to_string())?;
    let stream = TokioIo::new(connect(check.target).await?);
    let status = match check.protocol {
        // A check of HTTP at a port of bytes says that it is HTTP.
        Protocol::Http | Protocol::Tcp | Protocol::Tls | Protocol::Sniffed => {
            let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.map_err(words)?;
            while_driven(connection, async { sender.send_request(request).await.map(|r| r.status()) }).await?
        }
        Protocol::Http2 | Protocol::Grpc => {
            let absolute = absolute(request, check.target)?;
            let (mut sender, connection) = h2(stream).await?;
            while_driven(connection, async { sender.send_request(absolute).await.map(|r| r.status()) }).await?
        }
    };
    if status.is_success() || status.is_redirection() { Ok(()) } else { Err(format!("GET {path} answered {status}")) }
}

async fn grpc(target: SocketAddr, service: &str) -> Result<(), String> {
    let request = Request::post(GRPC_PATH)
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .header(header::USER_AGENT, "skein-check")
        .body(Full::new(question(service)))
        .map_err(|e| e.to_string())?;
    let request = absolute(request, target)?;
    let stream = TokioIo::new(connect(target).await?);
    let (mut sender, connection) = h2(stream).await?;
    let asked = async {
        let response = sender.send_request(request).await?;
        Ok(read(response).await)
    };
    while_driven(connection, asked).await?
}

async fn read(response: Response<Incoming>) -> Result<(), String> {
    let (head, body) = response.into_parts();
    if head.status != StatusCode::OK {
        return Err(format!("gRPC health answered {}", head.status));
    }
    let body = Limited::new(body, ANSWER_BYTES).collect().await.map_err(|e| e.to_string())?;
    let in_trailers = body.trailers().and_then(|t| t.get("grpc-status")).cloned();
    let code = in_trailers.or_else(|| head.headers.get("grpc-status").cloned());
    if let Some(code) = code.filter(|c| c.as_bytes() != b"0") {
        return Err(format!("gRPC health answered status {}", String::from_utf8_lossy(code.as_bytes())));
    }
    match status(body.to_bytes()) {
        Some(SERVING) => Ok(()),
        Some(other) => Err(format!("gRPC health says {other}, not SERVING")),
        None => Err("gRPC health answered something else".into()),
    }
}

type H2<B> = (
    hyper::client::conn::http2::SendRequest<B>,
    hyper::client::conn::http2::Connection<TokioIo<TcpStream>, B, TokioExecutor>,
);

async fn h2<B>(stream: TokioIo<TcpStream>) -> Result<H2<B>, String>
where
    B: hyper::body::Body<Data = Bytes, Error = std::convert::Infallible> + Send + Unpin + 'static,
{
    hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.map_err(words)
}

fn absolute<B>(mut request: Request<B>, target: SocketAddr) -> Result<Request<B>, String> {
    let uri = format!("http://{target}{}", request.uri());
    *request.uri_mut() = uri.parse().map_err(|e: http::uri::InvalidUri| e.to_string())?;
    request.headers_mut().remove(header::HOST);
    Ok(request)
}

/// Runs `work` while `connection` moves its bytes; no task is left behind.
async fn while_driven<T>(
    connection: impl Future<Output = Result<(), hyper::Error>>,
    work: impl Future<Output = Result<T, hyper::Error>>,
) -> Result<T, String> {
    let mut work = std::pin::pin!(work);
    tokio::select! {
        biased;
        done = &mut work => done.map_err(words),
        // What arrived before the end is still there to be taken.
        ended = connection => match ended {
            Ok(()) => work.await.map_err(words),
            Err(error) => Err(words(error)),
        },
    }
}

fn words(error: hyper::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// `HealthCheckRequest { service = 1 }` in a gRPC frame.
fn question(service: &str) -> Bytes {
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(0x0a);
        let mut length = service.len();
        while length >= 0x80 {
            message.push((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        message.push(length as u8);
        message.extend_from_slice(service.as_bytes());
    }
    let mut frame = vec![0];
    frame.extend_from_slice(&u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes());
    frame.extend_from_slice(&message);
    frame.into()
}

/// `HealthCheckResponse { status = 1 }` of a gRPC frame; a missing field is 0, as protobuf says.
fn status(mut frame: Bytes) -> Option<u64> {
    if frame.len() < 5 || frame.get_u8() != 0 {
        return None;
    }
    let length = frame.get_u32() as usize;
    if frame.len() < length {
        return None;
    }
    match frame.split_to(length).as_ref() {
        [] => Some(0),
        [0x08, value, ..] if *value < 0x80 => Some(u64::from(*value)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn check(probe: Probe, target: SocketAddr) -> Check {
        let interval = Duration::from_secs(20);
        let (delay, timeout) = (Duration::ZERO, None);
        Check { probe, target, protocol: Protocol::Http, interval, rise: 1, fall: 1, delay, timeout }
    }

    #[tokio::test]
    async fn a_status_above_399_is_a_failure_and_so_is_silence() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = listener.local_addr().unwrap();
        let served = async {
            for status in ["200 OK", "302 Found", "503 No"] {
                let (mut stream, _) = listener.accept().await.unwrap();
                let _ = stream.read(&mut [0; 512]).await.unwrap();
                let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        };
        let asked = async {
            let check = check(Probe::Http("/health".into()), target);
            assert_eq!(probe(&check).await, Ok(()));
            assert_eq!(probe(&check).await, Ok(()));
            assert!(probe(&check).await.unwrap_err().contains("503"));
            let hasty = Check { interval: Duration::from_millis(100), ..check };
            let silent = probe(&hasty).await.unwrap_err();
            assert!(silent.contains("no answer"), "{silent}");
        };
        tokio::join!(served, asked);
    }

    #[tokio::test]
    async fn nobody_listening_is_a_failure() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = listener.local_addr().unwrap();
        assert_eq!(probe(&check(Probe::Tcp, target)).await, Ok(()));
        drop(listener);
        assert!(probe(&check(Probe::Tcp, target)).await.is_err());
        assert!(probe(&check(Probe::Grpc(String::new()), target)).await.is_err());
    }

    #[tokio::test]
    async fn every_port_must_be_there_and_the_missing_one_is_named() {
        let listeners = [
            tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap(),
            tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap(),
        ];
        let targets = listeners.each_ref().map(|listener| listener.local_addr().unwrap());
        let check = check(Probe::Ports(vec![(80, targets[0]), (9090, targets[1])]), targets[0]);
        assert_eq!(probe(&check).await, Ok(()));
        let [_first, second] = listeners;
        drop(second);
        let why = probe(&check).await.unwrap_err();
        assert!(why.starts_with(&format!("port 9090: {}", targets[1])), "{why}");
    }

    #[test]
    fn grpc_frames_are_read_without_trust() {
        assert_eq!(question("ab"), Bytes::from_static(&[0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']));
        assert_eq!(status(Bytes::from_static(&[0, 0, 0, 0, 2, 8, 1])), Some(1));
        assert_eq!(status(Bytes::from_static(&[0, 0, 0, 0, 0])), Some(0));
        assert_eq!(status(Bytes::from_static(&[0, 0xff, 0xff, 0xff, 0xff, 8, 1])), None);
        assert_eq!(status(Bytes::from_static(&[1, 0])), None);
    }
}
