//! Connections to the applications beside this node, kept alive between requests.

use super::multiplexed::{Multiplexed, Stream};
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
    client::conn::http1,
    rt::Executor,
};
use hyper_util::rt::TokioIo;
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
/// The connections of one worker.
#[derive(Debug, Clone)]
pub(in crate::proxy) struct Apps(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    tasks: Tasks,
    idle: Mutex<HashMap<SocketAddr, Vec<Idle>>>,
    multiplexed: Multiplexed,
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
        Self(Arc::new(Shared { multiplexed: Multiplexed::new(tasks.clone()), tasks, idle: Mutex::default() }))
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
        let (mut sender, mut stream) = (None, None);
        let response = match protocol {
            Protocol::Http => self.send_http1(target, request, patience).await.map(|(response, used)| {
                sender = used;
                response
            }),
            Protocol::Http2 | Protocol::Grpc => {
                self.send_http2(target, request, patience).await.map(|(response, used)| {
                    stream = Some(used);
                    response
                })
            }
        };
        let response = response.map_err(|failed| failed.cause(&completion))?;
        if is_ambiguous(&response) {
            return Err(Cause::UpstreamProtocol);
        }
        let reuse = sender.filter(|_| completion.is_complete());
        Ok(response.map(|incoming| {
            let reuse = reuse.map(|sender| Reuse { apps: self.clone(), target, sender });
            let mut body = AppBody { incoming, reuse, _stream: stream };
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
        mut request: Request<RequestBody>,
        patience: Duration,
    ) -> Result<(Response<Incoming>, Stream), Failed> {
        let mut again = false;
        loop {
            let (mut sender, stream) = self.0.multiplexed.stream(target, patience).await?;
            match sender.try_send_request(request).await {
                Ok(response) => return Ok((response, stream)),
                Err(mut error) => match error.take_message().filter(|_| !again) {
                    // The connection had ended before the request began on it.
                    Some(unsent) => (request, again) = (unsent, true),
                    None => return Err(Failed::Send(error.into_error())),
                },
            }
        }
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
        self.0.multiplexed.sweep();
    }

    fn idle(&self) -> MutexGuard<'_, HashMap<SocketAddr, Vec<Idle>>> {
        lock(&self.0.idle)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) async fn connect(target: SocketAddr, patience: Duration) -> Result<TcpStream, Failed> {
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
pub(super) enum Failed {
    Connect,
    /// Of HTTP/2: every connection that there may be has all its streams.
    Full,
    Send(hyper::Error),
}

impl Failed {
    fn cause(&self, request: &Completion) -> Cause {
        match self {
            Self::Connect => Cause::ConnectFailure,
            Self::Full => Cause::Overflow,
            Self::Send(error) => request.failure().unwrap_or_else(|| unanswered(error)),
        }
    }
}

/// Why the application gave no answer.
fn unanswered(error: &hyper::Error) -> Cause {
    if is_unread(error) {
        Cause::RefusedStream
    } else if error.is_canceled() {
        Cause::ResetBeforeRequest
    } else if error.is_parse() {
        Cause::UpstreamProtocol
    } else {
        Cause::ConnectionTermination
    }
}

/// True if an application says by HTTP/2 that it read nothing of the request: it refused the stream, or went away before it.
fn is_unread(error: &hyper::Error) -> bool {
    let reset = std::error::Error::source(error).and_then(|source| source.downcast_ref::<h2::Error>());
    reset.is_some_and(|reset| {
        reset.is_remote() && (reset.is_go_away() || reset.reason() == Some(h2::Reason::REFUSED_STREAM))
    })
}

/// A response's body; at its end the connection goes back to the idle ones.
#[derive(Debug)]
pub(in crate::proxy) struct AppBody {
    incoming: Incoming,
    reuse: Option<Reuse>,
    /// Of HTTP/2: counted until the response has ended.
    _stream: Option<Stream>,
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
