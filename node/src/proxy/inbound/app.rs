//! Connections to the applications beside this node, kept alive between requests.

use crate::{
    clock,
    config::Protocol,
    http1::{
        client::{self as http1, Connection},
        copy_head,
    },
    proxy::{
        failure::Cause,
        http::{BoxError, Completion, RequestBody},
    },
    tasks::Tasks,
};
use bytes::Bytes;
use http::{Request, Response, header::CONTENT_LENGTH, header::TRANSFER_ENCODING, request::Parts};
use hyper::{
    body::{Body, Frame, SizeHint},
    client::conn::http2,
    rt::Executor,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::{
    collections::HashMap,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};
use tokio::{net::TcpStream, time::timeout};

/// Idle connections kept for one application by one worker.
const IDLE_LIMIT: usize = 256;
/// How long an idle connection is kept.
const IDLE_TIME: Duration = Duration::from_secs(60);
/// Longest block of response headers by HTTP/2, bytes.
const MAX_HEADERS: u32 = 64 * 1024;
/// Bytes of one HTTP/2 response that wait for its caller.
const STREAM_WINDOW: u32 = 64 * 1024;
/// Bytes of all HTTP/2 responses of an application that wait for their callers.
const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;

/// The connections of one worker.
#[derive(Debug, Clone)]
pub(in crate::proxy) struct Apps(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    tasks: Tasks,
    idle: Mutex<HashMap<SocketAddr, Vec<Idle>>>,
    multiplexed: Mutex<HashMap<SocketAddr, http2::SendRequest<RequestBody>>>,
}

#[derive(Debug)]
struct Idle {
    connection: Connection<TcpStream>,
    since: Instant,
}

/// Spawns what HTTP/2 connections need.
#[derive(Debug, Clone)]
pub(in crate::proxy) struct Spawn(pub(in crate::proxy) Tasks);

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Spawn {
    fn execute(&self, future: F) {
        self.0.detach("http2", future);
    }
}

impl Apps {
    pub(in crate::proxy) fn new(tasks: Tasks) -> Self {
        Self(Arc::new(Shared { tasks, idle: Mutex::default(), multiplexed: Mutex::default() }))
    }

    /// Sends a request to an application. A connection to it may take `patience` to open.
    ///
    /// # Errors
    /// The cause tells how far the request had come.
    pub(in crate::proxy) async fn send(
        &self,
        target: SocketAddr,
        protocol: Protocol,
        head: &Parts,
        body: RequestBody,
        patience: Duration,
    ) -> Result<Response<AppBody>, Cause> {
        let completion = body.completion();
        let response = match protocol {
            Protocol::Http => self.send_http1(target, head, body, patience).await,
            // Boxed, so that HTTP/1.1 needs no room for it.
            Protocol::Http2 | Protocol::Grpc => Box::pin(self.send_http2(target, head, body, patience)).await,
        };
        let response = response.map_err(|failed| failed.cause(&completion))?;
        if is_ambiguous(&response) {
            return Err(Cause::UpstreamProtocol);
        }
        Ok(response.map(|incoming| {
            let mut body = AppBody { incoming, home: Some((self.clone(), target)) };
            body.end_if_ended();
            body
        }))
    }

    async fn send_http1(
        &self,
        target: SocketAddr,
        head: &Parts,
        body: RequestBody,
        patience: Duration,
    ) -> Result<Response<Incoming>, Failed> {
        let connection = match self.checkout(target) {
            Some(connection) => connection,
            None => Connection::new(Box::pin(connect(target, patience)).await?),
        };
        let response = connection.send(head, body, &self.0.tasks).await.map_err(Failed::Http1)?;
        Ok(response.map(Incoming::Http1))
    }

    /// An idle connection that the application has not ended, the latest used first.
    fn checkout(&self, target: SocketAddr) -> Option<Connection<TcpStream>> {
        let mut idle = self.idle();
        let idle = idle.get_mut(&target)?;
        loop {
            let mut connection = idle.pop()?.connection;
            if connection.is_quiet() {
                return Some(connection);
            }
        }
    }

    async fn send_http2(
        &self,
        target: SocketAddr,
        head: &Parts,
        body: RequestBody,
        patience: Duration,
    ) -> Result<Response<Incoming>, Failed> {
        let known = lock(&self.0.multiplexed).get(&target).filter(|sender| !sender.is_closed()).cloned();
        let mut sender = match known {
            Some(sender) => sender,
            None => self.connect_http2(target, patience).await?,
        };
        sender.ready().await.map_err(|_| Failed::Connect)?;
        let request = Request::from_parts(copy_head(head), body);
        let response = sender.send_request(request).await.map_err(Failed::Http2)?;
        Ok(response.map(Incoming::Http2))
    }

    async fn connect_http2(
        &self,
        target: SocketAddr,
        patience: Duration,
    ) -> Result<http2::SendRequest<RequestBody>, Failed> {
        let stream = connect(target, patience).await?;
        let (sender, connection) = http2::Builder::new(Spawn(self.0.tasks.clone()))
            .timer(TokioTimer::new())
            .max_header_list_size(MAX_HEADERS)
            // One response that its caller does not read does not stop those of other callers.
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(Failed::Http2)?;
        self.0.tasks.detach("application connection", async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection to the application ended");
            }
        });
        lock(&self.0.multiplexed).insert(target, sender.clone());
        Ok(sender)
    }

    fn put_back(&self, target: SocketAddr, connection: Connection<TcpStream>) {
        let mut idle = self.idle();
        let idle = idle.entry(target).or_default();
        if idle.len() < IDLE_LIMIT {
            idle.push(Idle { connection, since: clock::monotonic() });
        }
    }

    /// Closes what has been idle for too long; to be called every few seconds.
    pub(in crate::proxy) fn sweep(&self) {
        let now = clock::monotonic();
        self.idle().retain(|_, idle| {
            idle.retain_mut(|idle| now.duration_since(idle.since) < IDLE_TIME && idle.connection.is_quiet());
            !idle.is_empty()
        });
        lock(&self.0.multiplexed).retain(|_, sender| !sender.is_closed());
    }

    fn idle(&self) -> MutexGuard<'_, HashMap<SocketAddr, Vec<Idle>>> {
        lock(&self.0.idle)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn connect(target: SocketAddr, patience: Duration) -> Result<TcpStream, Failed> {
    let stream = match timeout(patience, TcpStream::connect(target)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(%target, %error, "the application does not answer");
            return Err(Failed::Connect);
        }
        Err(_) => return Err(Failed::Connect),
    };
    // Small responses must not wait for acknowledgements; a socket that refuses this still works.
    drop(stream.set_nodelay(true));
    Ok(stream)
}

/// A response whose length can be read in two ways (A22).
fn is_ambiguous(response: &Response<Incoming>) -> bool {
    let lengths = response.headers().get_all(CONTENT_LENGTH).iter().count();
    lengths > 1 || (lengths == 1 && response.headers().contains_key(TRANSFER_ENCODING))
}

#[derive(Debug)]
enum Failed {
    Connect,
    Http1(http1::Error),
    Http2(hyper::Error),
}

impl Failed {
    fn cause(&self, request: &Completion) -> Cause {
        match self {
            Self::Connect => Cause::ConnectFailure,
            Self::Http1(error) => request.failure().unwrap_or(match error {
                http1::Error::Body(_) => Cause::BadRequest("request body broken off"),
                http1::Error::Parse(_) => Cause::UpstreamProtocol,
                http1::Error::Ended | http1::Error::Io(_) => Cause::ConnectionTermination,
            }),
            Self::Http2(error) => request.failure().unwrap_or_else(|| unanswered(error)),
        }
    }
}

/// Why the application gave no answer by HTTP/2.
fn unanswered(error: &hyper::Error) -> Cause {
    if error.is_canceled() {
        Cause::ResetBeforeRequest
    } else if error.is_parse() {
        Cause::UpstreamProtocol
    } else {
        Cause::ConnectionTermination
    }
}

/// A response's body; at its end the connection goes back to the idle ones.
#[derive(Debug)]
pub(in crate::proxy) struct AppBody {
    incoming: Incoming,
    /// Where the connection goes.
    home: Option<(Apps, SocketAddr)>,
}

#[derive(Debug)]
enum Incoming {
    Http1(http1::Incoming<TcpStream>),
    Http2(hyper::body::Incoming),
}

impl AppBody {
    fn end_if_ended(&mut self) {
        if self.is_end_stream() {
            self.give_back();
        }
    }

    fn give_back(&mut self) {
        if let (Incoming::Http1(incoming), Some((apps, target))) = (&mut self.incoming, self.home.take())
            && let Some(connection) = incoming.release()
        {
            apps.put_back(target, connection);
        }
    }
}

impl Body for AppBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = match &mut self.incoming {
            Incoming::Http1(incoming) => {
                ready!(Pin::new(incoming).poll_frame(context)).map(|frame| frame.map_err(BoxError::from))
            }
            Incoming::Http2(incoming) => {
                ready!(Pin::new(incoming).poll_frame(context)).map(|frame| frame.map_err(BoxError::from))
            }
        };
        match &frame {
            Some(Ok(_)) => self.end_if_ended(),
            Some(Err(_)) => self.home = None,
            None => self.give_back(),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.incoming {
            Incoming::Http1(incoming) => incoming.is_end_stream(),
            Incoming::Http2(incoming) => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.incoming {
            Incoming::Http1(incoming) => incoming.size_hint(),
            Incoming::Http2(incoming) => incoming.size_hint(),
        }
    }
}
