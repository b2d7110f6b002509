//! Connections to the applications beside this node and to endpoints that no node serves, kept alive between requests.

use super::multiplexed::{Multiplexed, STREAM_WINDOW, Stream};
use crate::lock::lock;
use crate::{
    clock, descriptors,
    http1::{
        client::{self as http1, Connection},
        copy_head,
    },
    proxy::{
        deadline::within,
        direct::{Stream as Direct, Target},
        failure::{Cause, Failure},
        http::{BoxError, Completion, ReplayBudget, RequestBody, Windowed, is_grpc},
        upgrade,
    },
    tasks::Tasks,
};
use bytes::Bytes;
use foldhash::fast::RandomState;
use http::{Request, Response, StatusCode, header::CONTENT_LENGTH, header::TRANSFER_ENCODING, request::Parts};
use hyper::body::{Body, Frame, SizeHint};
use policy::{
    kinds::{Http2Keepalive, MeshConfig, TcpKeepalive},
    route::ClusterPolicy,
};
use std::{
    collections::HashMap,
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

/// Idle connections kept for one application by one worker.
const IDLE_LIMIT: usize = 256;
/// How long an idle connection is kept.
pub(super) const IDLE_TIME: Duration = Duration::from_secs(60);

/// Pauses before an application is tried again that takes no connection: what Envoy's backoff is on average.
const CONNECT_PAUSES: [Duration; 2] = [Duration::from_millis(12), Duration::from_millis(37)];

/// What an application is spoken to in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::proxy) enum Version {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
}

/// How connections to an application are made and used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::proxy) struct Terms {
    /// How long one may take to open.
    pub(in crate::proxy) connect: Duration,
    /// One ends after so many requests.
    pub(in crate::proxy) requests: u32,
    /// Requests at once on one of HTTP/2.
    pub(in crate::proxy) streams: u32,
    /// One that is idle for so long ends, if not before.
    pub(in crate::proxy) idle: Duration,
    /// One that is so old takes no further request.
    pub(in crate::proxy) age: Duration,
    /// How one of HTTP/2 is watched.
    pub(in crate::proxy) pings: Option<Http2Keepalive>,
    /// How one is probed that is silent; `None`: as those between nodes.
    pub(in crate::proxy) keepalive: Option<TcpKeepalive>,
    /// Pauses before one is tried again that is refused, but for gRPC.
    pub(in crate::proxy) again: &'static [Duration],
}

impl Terms {
    /// As a policy says.
    pub(in crate::proxy) fn of(policy: &ClusterPolicy, config: &MeshConfig) -> Self {
        let (tcp, http) = (&policy.connection_pool.tcp, &policy.connection_pool.http);
        Self {
            connect: tcp.connect_timeout.unwrap_or(config.connect_timeout),
            requests: http.max_requests_per_connection.unwrap_or(u32::MAX),
            streams: http.max_concurrent_streams.unwrap_or(u32::MAX),
            idle: http.idle_timeout.unwrap_or(Duration::MAX),
            age: tcp.max_connection_duration.unwrap_or(Duration::MAX),
            pings: http.http2_keepalive,
            keepalive: tcp.keepalive,
            again: &[],
        }
    }

    /// Of the application beside this node: as in Istio, a service's own side tries again what was not sent yet.
    pub(in crate::proxy) fn of_application(policy: &ClusterPolicy, config: &MeshConfig) -> Self {
        Self { again: &CONNECT_PAUSES, ..Self::of(policy, config) }
    }
}

/// The connections of one worker.
#[derive(Debug, Clone)]
pub(in crate::proxy) struct Apps(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    tasks: Tasks,
    budget: ReplayBudget,
    idle: Mutex<HashMap<Target, Vec<Idle>, RandomState>>,
    multiplexed: Multiplexed,
}

#[derive(Debug)]
struct Idle {
    connection: Connection<Direct>,
    since: Instant,
    past: Past,
}

/// What a connection has behind it.
#[derive(Debug, Clone, Copy)]
struct Past {
    opened: Instant,
    requests: u32,
}

impl Past {
    fn begin() -> Self {
        Self { opened: clock::monotonic(), requests: 0 }
    }

    /// Most connections may grow old, and then nobody looks at the clock.
    fn is_used_up(self, terms: &Terms) -> bool {
        self.requests >= terms.requests
            || terms.age < Duration::MAX && clock::monotonic().duration_since(self.opened) >= terms.age
    }
}

impl Idle {
    fn is_fresh(&self, terms: &Terms) -> bool {
        let is_idle = terms.idle < IDLE_TIME && clock::monotonic().duration_since(self.since) >= terms.idle;
        !is_idle && !self.past.is_used_up(terms)
    }
}

/// Where a connection goes once its response has ended.
#[derive(Debug)]
struct Home {
    apps: Apps,
    target: Target,
    past: Past,
    terms: Terms,
}

impl Apps {
    pub(in crate::proxy) fn new(tasks: Tasks, budget: ReplayBudget) -> Self {
        Self(Arc::new(Shared { multiplexed: Multiplexed::new(tasks.clone()), tasks, budget, idle: Mutex::default() }))
    }

    /// Sends a request to an application. Its answer may take so long once there is a connection and the caller has sent all.
    ///
    /// # Errors
    /// The cause tells how far the request had come.
    pub(in crate::proxy) async fn send(
        &self,
        target: &Target,
        version: Version,
        head: &Parts,
        body: RequestBody,
        terms: &Terms,
        limit: Option<Duration>,
    ) -> Result<Response<Box<AppBody>>, Failure> {
        let completion = body.completion();
        let again = if is_grpc(&head.headers) { &[] } else { terms.again };
        let response = match version {
            Version::Http1 => self.send_http1(target, head, body, (terms, again), (&completion, limit)).await,
            // Boxed, so that HTTP/1.1 needs no room for it.
            Version::Http2 => Box::pin(self.send_http2(target, head, body, (terms, again), (&completion, limit))).await,
        };
        let response = response.map_err(|failed| failed.told(&completion))?;
        if is_ambiguous(&response) {
            return Err(Cause::UpstreamProtocol.into());
        }
        Ok(response.map(|mut body| {
            body.end_if_ended();
            body
        }))
    }

    async fn send_http1(
        &self,
        target: &Target,
        head: &Parts,
        body: RequestBody,
        (terms, again): (&Terms, &[Duration]),
        (sent, limit): (&Completion, Option<Duration>),
    ) -> Result<Response<Box<AppBody>>, Failed> {
        let (connection, mut past) = match self.checkout(target, terms) {
            Some(kept) => kept,
            None => {
                let connecting = awaited(connect(target, terms, again), sent);
                (Connection::new(Box::pin(connecting).await?), Past::begin())
            }
        };
        past.requests = past.requests.saturating_add(1);
        let tasks = &self.0.tasks;
        let response = match limit {
            None => connection.send(head, body, tasks).await,
            // Boxed, so that the many without a limit need no room for it.
            Some(_) => {
                let answer = Box::pin(within(limit, sent, connection.send(head, body, tasks)));
                answer.await.ok_or(Failed::Late)?
            }
        };
        let response = response.map_err(Failed::Http1)?;
        let home = || Home { apps: self.clone(), target: target.clone(), past, terms: *terms };
        let home = target.is_shared().then(home);
        Ok(response.map(|incoming| AppBody::new(Incoming::Http1(incoming), home)))
    }

    /// An idle connection that the application has not ended, the latest used first.
    fn checkout(&self, target: &Target, terms: &Terms) -> Option<(Connection<Direct>, Past)> {
        let mut idle = self.idle();
        let idle = idle.get_mut(target)?;
        loop {
            let mut kept = idle.pop()?;
            if kept.is_fresh(terms) && kept.connection.is_quiet() {
                return Some((kept.connection, kept.past));
            }
        }
    }

    async fn send_http2(
        &self,
        target: &Target,
        head: &Parts,
        body: RequestBody,
        (terms, pauses): (&Terms, &[Duration]),
        (sent, limit): (&Completion, Option<Duration>),
    ) -> Result<Response<Box<AppBody>>, Failed> {
        let mut request = Request::from_parts(copy_head(head), body);
        // A WebSocket.
        let protocol = head.extensions.get::<hyper::ext::Protocol>();
        let (began, mut again) = (clock::monotonic(), false);
        loop {
            let room = self.0.multiplexed.stream(target, terms, pauses);
            let (mut sender, stream, link) = awaited(room, sent).await?;
            if let Some(protocol) = protocol {
                if !link.takes_connect().await {
                    return Err(Failed::NoWebSocket);
                }
                request.extensions_mut().insert(protocol.clone());
            }
            match within(limit, sent, sender.try_send_request(request)).await.ok_or(Failed::Late)? {
                Ok(mut response) if response.status() == StatusCode::OK && protocol.is_some() => {
                    // Its stream is the tunnel's.
                    upgrade::Held::attach(stream, &mut response);
                    return Ok(response.map(|body| AppBody::new(Incoming::Tunnel(body), None)));
                }
                Ok(response) => {
                    let (parts, body) = response.into_parts();
                    let body = Windowed::new(body, STREAM_WINDOW, &self.0.budget).map_err(|_| Failed::Short)?;
                    let incoming = Incoming::Http2 { body, _stream: stream };
                    return Ok(Response::from_parts(parts, AppBody::new(incoming, None)));
                }
                Err(mut error) => {
                    let Some(unsent) = error.take_message() else { return Err(Failed::Http2(error.into_error())) };
                    // The connection had ended before the request began on it. An application that stops ends all that it has, so
                    // each may be found so; of new ones a second is tried.
                    if !link.is_older_than(began) && std::mem::replace(&mut again, true) {
                        return Err(Failed::Unsent);
                    }
                    request = unsent;
                }
            }
        }
    }

    fn put_back(&self, target: Target, connection: Connection<Direct>, past: Past) {
        let mut idle = self.idle();
        let idle = idle.entry(target).or_default();
        if idle.len() < IDLE_LIMIT {
            idle.push(Idle { connection, since: clock::monotonic(), past });
        }
    }

    /// Closes what has been idle for too long; to be called every few seconds.
    pub(in crate::proxy) fn sweep(&self) {
        let now = clock::monotonic();
        self.idle().retain(|_, idle| {
            idle.retain_mut(|idle| now.duration_since(idle.since) < IDLE_TIME && idle.connection.is_quiet());
            !idle.is_empty()
        });
        self.0.multiplexed.sweep();
    }

    fn idle(&self) -> MutexGuard<'_, HashMap<Target, Vec<Idle>, RandomState>> {
        lock(&self.0.idle)
    }
}

/// A connection; one that is refused is tried again after each of these pauses.
pub(super) async fn connect(target: &Target, terms: &Terms, again: &[Duration]) -> Result<Direct, Failed> {
    let mut again = again.iter();
    loop {
        match target.connect(terms.connect, terms.keepalive).await {
            Ok(stream) if descriptors::leaves_room(&stream) => return Ok(stream),
            Ok(_) => return Err(Failed::Short),
            Err(error) => {
                tracing::debug!(target = %target.address, %error, "it does not answer");
                let is_late = error.kind() == io::ErrorKind::TimedOut;
                let Some(pause) = again.next().filter(|_| !is_late) else { return Err(Failed::Connect(error)) };
                tokio::time::sleep(*pause).await;
            }
        }
    }
}

/// A connection, for which a request waits: its body is read ahead meanwhile.
async fn awaited<T>(connection: impl Future<Output = Result<T, Failed>>, sent: &Completion) -> Result<T, Failed> {
    tokio::select! {
        biased;
        connection = connection => connection,
        cause = sent.read_ahead() => Err(Failed::Body(cause)),
    }
}

/// A response whose length can be read in two ways (A22).
fn is_ambiguous<B>(response: &Response<B>) -> bool {
    let lengths = response.headers().get_all(CONTENT_LENGTH).iter().count();
    lengths > 1 || (lengths == 1 && response.headers().contains_key(TRANSFER_ENCODING))
}

#[derive(Debug)]
pub(super) enum Failed {
    Connect(io::Error),
    /// This node has no descriptor for one, or no room for what it sends.
    Short,
    /// Of HTTP/2: every connection that there may be has all its streams.
    Full,
    /// The same: each connection had ended before the request began on it.
    Unsent,
    /// Its HTTP/2 has none.
    NoWebSocket,
    /// The request came to no end before there was a connection.
    Body(Cause),
    /// The answer did not come in time.
    Late,
    Http1(http1::Error),
    Http2(hyper::Error),
}

impl Failed {
    fn told(self, request: &Completion) -> Failure {
        let cause = self.cause(request);
        match self {
            Self::Connect(error) => Failure::unconnected(&error),
            Self::Http1(http1::Error::Io(error)) => Failure { cause, transport: Some(error.to_string().into()) },
            Self::Short
            | Self::Full
            | Self::Unsent
            | Self::NoWebSocket
            | Self::Body(_)
            | Self::Late
            | Self::Http1(_)
            | Self::Http2(_) => cause.into(),
        }
    }

    fn cause(&self, request: &Completion) -> Cause {
        match self {
            Self::Connect(_) => Cause::ConnectFailure,
            Self::Full | Self::Short => Cause::Overflow,
            Self::Unsent => Cause::RefusedStream,
            Self::NoWebSocket => Cause::NoWebSocket,
            Self::Body(cause) => *cause,
            Self::Late => Cause::PerTryTimeout,
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
    /// Where a connection of HTTP/1.1 goes.
    home: Option<Home>,
}

#[derive(Debug)]
enum Incoming {
    Http1(http1::Incoming<Direct>),
    Http2 {
        body: Windowed<hyper::body::Incoming>,
        /// Counted until the response has ended.
        _stream: Stream,
    },
    /// Empty: bytes go by the tunnel.
    Tunnel(hyper::body::Incoming),
}

impl AppBody {
    /// Boxed, because it is handed from one to the next on its way to the caller.
    fn new(incoming: Incoming, home: Option<Home>) -> Box<Self> {
        Box::new(Self { incoming, home })
    }

    fn end_if_ended(&mut self) {
        if self.is_end_stream() {
            self.give_back();
        }
    }

    fn give_back(&mut self) {
        if let (Incoming::Http1(incoming), Some(home)) = (&mut self.incoming, self.home.take())
            && !home.past.is_used_up(&home.terms)
            && let Some(connection) = incoming.release()
        {
            home.apps.put_back(home.target, connection, home.past);
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
            Incoming::Http2 { body: incoming, .. } => ready!(Pin::new(incoming).poll_frame(context)),
            Incoming::Tunnel(incoming) => {
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
            Incoming::Http2 { body: incoming, .. } => incoming.is_end_stream(),
            Incoming::Tunnel(incoming) => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.incoming {
            Incoming::Http1(incoming) => incoming.size_hint(),
            Incoming::Http2 { body: incoming, .. } => incoming.size_hint(),
            Incoming::Tunnel(incoming) => incoming.size_hint(),
        }
    }
}

#[cfg(test)]
mod tests;
