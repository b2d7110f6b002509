//! A gRPC application and its client, over HTTP/2 with trailers.

use std::{
    convert::Infallible,
    io,
    net::{Ipv4Addr, SocketAddr},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::BoxBody};
use hyper::{
    body::{Frame, Incoming},
    client::conn::http2::SendRequest,
    rt::Executor as _,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    net::{TcpListener, TcpStream},
    runtime::{Builder, Runtime},
};

/// What a [`Client`] asks: a message of five bytes in its frame.
pub const MESSAGE: &[u8] = b"\0\0\0\0\x05hello";

/// Starts an application that answers each message with itself; calls of `/sad` end as UNAVAILABLE.
///
/// # Errors
/// Loopback has no free port.
pub fn application() -> io::Result<SocketAddr> {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    listener.set_nonblocking(true)?;
    let runtime = runtime()?;
    std::thread::spawn(move || {
        runtime.block_on(async {
            let Ok(listener) = TcpListener::from_std(listener) else { return };
            while let Ok((stream, _)) = listener.accept().await {
                let served = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), hyper::service::service_fn(answer));
                TokioExecutor::new().execute(async { drop(served.await) });
            }
        });
    });
    Ok(address)
}

fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}

async fn answer(request: Request<Incoming>) -> Result<Response<BoxBody<Bytes, Infallible>>, Infallible> {
    let status = HeaderValue::from_static(if request.uri().path() == "/sad" { "14" } else { "0" });
    let message = request.into_body().collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", status);
    let frames = [Frame::data(message), Frame::trailers(trailers)].map(Ok::<_, Infallible>);
    let mut response = Response::new(StreamBody::new(futures_util::stream::iter(frames)).boxed());
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    Ok(response)
}

/// What a call ended with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// HTTP's status.
    pub status: u16,
    /// The messages, in their frames.
    pub body: Bytes,
    /// gRPC's status out of the trailers, if there were any.
    pub grpc_status: Option<String>,
}

/// A client with one connection to a proxy's or a gateway's port.
pub struct Client {
    runtime: Runtime,
    sender: SendRequest<Full<Bytes>>,
}

impl Client {
    /// Connects by HTTP/2 with prior knowledge.
    ///
    /// # Errors
    /// Nobody listens, or does not speak it.
    pub fn open(via: SocketAddr) -> Result<Self, String> {
        let runtime = runtime().map_err(|error| error.to_string())?;
        let sender = runtime.block_on(async {
            let stream = TcpStream::connect(via).await.map_err(|error| error.to_string())?;
            let (sender, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                    .await
                    .map_err(|error| error.to_string())?;
            TokioExecutor::new().execute(async { drop(connection.await) });
            Ok::<_, String>(sender)
        })?;
        Ok(Self { runtime, sender })
    }

    /// One call with [`MESSAGE`].
    ///
    /// # Errors
    /// The connection failed, or there was no answer.
    pub fn call(&mut self, authority: &str, path: &str) -> Result<Ended, String> {
        let request = Request::post(format!("http://{authority}{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Full::new(Bytes::from_static(MESSAGE)))
            .map_err(|error| error.to_string())?;
        self.runtime.block_on(async {
            let response = self.sender.send_request(request).await.map_err(|error| error.to_string())?;
            let status = response.status().as_u16();
            let body = response.into_body().collect().await.map_err(|error| error.to_string())?;
            let told = body.trailers().and_then(|told| told.get("grpc-status"));
            let grpc_status = told.and_then(|told| told.to_str().ok()).map(str::to_owned);
            Ok(Ended { status, body: body.to_bytes(), grpc_status })
        })
    }
}
