//! Connections to the applications beside this node, kept alive between requests.

use crate::{
    clock,
    config::Protocol,
    proxy::{
        failure::Cause,
        http::{Completion, RequestBody},
    },
    tasks::Tasks,
};
use bytes::Bytes;
use http::{Request, Response, header::CONTENT_LENGTH, header::TRANSFER_ENCODING};
use hyper::{
    body::{Body, Frame, Incoming, SizeHint},
    client::conn::{http1, http2},
    rt::Executor,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::{
    collections::HashMap,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::{Duration, Instant},
};
use tokio::{net::TcpStream, time::timeout};

/// Idle connections kept for one application by one worker.
const IDLE_LIMIT: usize = 256;
/// How long an idle connection is kept.
const IDLE_TIME: Duration = Duration::from_secs(60);
/// hyper's buffer for one connection, bytes; a response's head is bounded by it.
const BUFFER: usize = 64 * 1024;
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
    sender: http1::SendRequest<RequestBody>,
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
        request: Request<RequestBody>,
        patience: Duration,
    ) -> Result<Response<AppBody>, Cause> {
        let completion = request.body().completion();
        let response = match protocol {
            Protocol::Http => self.send_http1(target, request, patience).await,
            Protocol::Http2 | Protocol::Grpc => self.send_http2(target, request, patience).await,
        };
        let (response, sender) = response.map_err(|failed| failed.cause(&completion))?;
        if is_ambiguous(&response) {
            return Err(Cause::UpstreamProtocol);
        }
        let reuse = sender.filter(|_| completion.is_complete());
        Ok(response.map(|incoming| {
            let reuse = reuse.map(|sender| Reuse { apps: self.clone(), target, sender });
            let mut body = AppBody { incoming, reuse };
            body.end_if_ended();
            body
        }))
    }

    async fn send_http1(
        &self,
        target: SocketAddr,
        mut request: Request<RequestBody>,
        patience: Duration,
    ) -> Result<(Response<Incoming>, Option<http1::SendRequest<RequestBody>>), Failed> {
        while let Some(mut sender) = self.checkout(target).await {
            match sender.try_send_request(request).await {
                Ok(response) => return Ok((response, Some(sender))),
                // The application had closed the idle connection: nothing was sent, the next one may do.
                Err(mut error) => match error.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(Failed::Send(error.into_error())),
                },
            }
        }
        let stream = connect(target, patience).await?;
        let (mut sender, connection) =
            http1::Builder::new().max_buf_size(BUFFER).handshake(TokioIo::new(stream)).await.map_err(Failed::Send)?;
        self.0.tasks.detach("application connection", async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "connection to the application ended");
            }
        });
        let response = sender.send_request(request).await.map_err(Failed::Send)?;
        Ok((response, Some(sender)))
    }

    /// An idle connection that is ready, the latest used first.
    async fn checkout(&self, target: SocketAddr) -> Option<http1::SendRequest<RequestBody>> {
        loop {
            let mut idle = self.idle().get_mut(&target)?.pop()?;
            if !idle.sender.is_closed() && idle.sender.ready().await.is_ok() {
                return Some(idle.sender);
            }
        }
    }

    async fn send_http2(
        &self,
        target: SocketAddr,
        request: Request<RequestBody>,
        patience: Duration,
    ) -> Result<(Response<Incoming>, Option<http1::SendRequest<RequestBody>>), Failed> {
        let known = lock(&self.0.multiplexed).get(&target).filter(|sender| !sender.is_closed()).cloned();
        let mut sender = match known {
            Some(sender) => sender,
            None => self.connect_http2(target, patience).await?,
        };
        sender.ready().await.map_err(|_| Failed::Connect)?;
        let response = sender.send_request(request).await.map_err(Failed::Send)?;
        Ok((response, None))
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
            .map_err(Failed::Send)?;
        self.0.tasks.detach("application connection", async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection to the application ended");
            }
        });
        lock(&self.0.multiplexed).insert(target, sender.clone());
        Ok(sender)
    }

    fn put_back(&self, target: SocketAddr, sender: http1::SendRequest<RequestBody>) {
        let mut idle = self.idle();
        let idle = idle.entry(target).or_default();
        if idle.len() < IDLE_LIMIT && !sender.is_closed() {
            idle.push(Idle { sender, since: clock::monotonic() });
        }
    }

    /// Closes what has been idle for too long; to be called every few seconds.
    pub(in crate::proxy) fn sweep(&self) {
        let now = clock::monotonic();
        self.idle().retain(|_, idle| {
            idle.retain(|idle| !idle.sender.is_closed() && now.duration_since(idle.since) < IDLE_TIME);
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
    Send(hyper::Error),
}

impl Failed {
    fn cause(&self, request: &Completion) -> Cause {
        match self {
            Self::Connect => Cause::ConnectFailure,
            Self::Send(error) => request.failure().unwrap_or_else(|| unanswered(error)),
        }
    }
}

/// Why the application gave no answer.
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
    reuse: Option<Reuse>,
}

#[derive(Debug)]
struct Reuse {
    apps: Apps,
    target: SocketAddr,
    sender: http1::SendRequest<RequestBody>,
}

impl AppBody {
    fn end_if_ended(&mut self) {
        if self.incoming.is_end_stream() {
            self.give_back();
        }
    }

    fn give_back(&mut self) {
        if let Some(Reuse { apps, target, sender }) = self.reuse.take() {
            apps.put_back(target, sender);
        }
    }
}

impl Body for AppBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = std::task::ready!(Pin::new(&mut self.incoming).poll_frame(context));
        Poll::Ready(match frame {
            Some(Ok(frame)) => {
                self.end_if_ended();
                Some(Ok(frame))
            }
            Some(Err(error)) => {
                self.reuse = None;
                Some(Err(error))
            }
            None => {
                self.give_back();
                None
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
