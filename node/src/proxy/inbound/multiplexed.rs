//! HTTP/2 connections to the applications beside this node: as many as the applications' limits on streams ask for.

use super::app::{Failed, IDLE_TIME, Terms, connect};
use crate::lock::lock;
use crate::{
    clock,
    proxy::{
        direct::{self, Target as Address},
        http::RequestBody,
    },
    tasks::Tasks,
};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::{
    collections::HashMap,
    io,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};
use tokio::time::timeout;

/// Connections to one application by one worker.
const CONNECTIONS: usize = 128;
/// Longest block of response headers, bytes.
const MAX_HEADERS: u32 = 64 * 1024;
/// Bytes of one response that wait for its caller.
pub(super) const STREAM_WINDOW: u32 = 64 * 1024;
/// Bytes of all responses of a connection that wait for their callers.
const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;

/// How long a new connection may take to say what the application takes on it, and how often one looks.
const SETTINGS_TIME: Duration = Duration::from_secs(1);
const SETTINGS_PAUSE: Duration = Duration::from_millis(5);

/// The connections of one worker, by application.
#[derive(Debug)]
pub(super) struct Multiplexed {
    tasks: Tasks,
    targets: Mutex<HashMap<Address, Arc<Target>>>,
}

/// One application's.
#[derive(Debug, Default)]
struct Target {
    links: Mutex<Vec<Link>>,
    /// Held while a connection is dialled: who waits may find room on it.
    dialling: tokio::sync::Mutex<()>,
}

/// A connection.
struct Link {
    sender: SendRequest<RequestBody>,
    /// Polled by its own task, which drops it at its end; here it tells the application's limit.
    connection: Arc<Mutex<Option<Connection>>>,
    streams: Arc<Streams>,
    /// Requests so far.
    requests: AtomicU32,
    opened: Instant,
    /// What was last asked of it.
    terms: Terms,
}

type Connection = http2::Connection<TokioIo<direct::Stream>, RequestBody, Tasks>;

/// The streams of a connection.
#[derive(Debug)]
struct Streams {
    open: AtomicUsize,
    /// When the last one ended, by the node's uptime in milliseconds.
    idle_since: AtomicU64,
}

/// One stream of a connection, until it is dropped.
#[derive(Debug)]
pub(super) struct Stream(Arc<Streams>);

/// Room for a request: the connection, its place there, and what the application says of itself on it.
type Room = (SendRequest<RequestBody>, Stream, Settings);

/// What the application says of itself on a connection.
pub(super) struct Settings {
    connection: Arc<Mutex<Option<Connection>>>,
    opened: Instant,
}

impl Settings {
    /// True if the connection was opened before.
    pub(super) fn is_older_than(&self, when: Instant) -> bool {
        self.opened < when
    }

    /// True if it takes an extended CONNECT. What a new connection says of that is waited for.
    pub(super) async fn takes_connect(&self) -> bool {
        loop {
            let takes = lock(&self.connection).as_ref().map(Connection::is_extended_connect_protocol_enabled);
            match takes {
                Some(true) => return true,
                Some(false) if clock::monotonic().duration_since(self.opened) < SETTINGS_TIME => {}
                Some(false) | None => return false,
            }
            tokio::time::sleep(SETTINGS_PAUSE).await;
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.0.open.fetch_sub(1, Relaxed) == 1 {
            self.0.idle_since.store(clock::uptime(), Relaxed);
        }
    }
}

impl Multiplexed {
    pub(super) fn new(tasks: Tasks) -> Self {
        Self { tasks, targets: Mutex::default() }
    }

    /// Room for a request on a connection; for `again` see [`connect`].
    ///
    /// # Errors
    /// The application takes no connection, or all are full.
    pub(super) async fn stream(&self, address: &Address, terms: &Terms, again: &[Duration]) -> Result<Room, Failed> {
        // What is nobody else's is not kept.
        let is_shared = address.is_shared();
        let target = if is_shared {
            Arc::clone(lock(&self.targets).entry(address.clone()).or_default())
        } else {
            Arc::default()
        };
        if let Some(found) = target.room(terms) {
            return Ok(found);
        }
        let dialled = timeout(terms.connect, self.dial(&target, address, (terms, again))).await;
        dialled.unwrap_or_else(|_| Err(Failed::Connect(io::ErrorKind::TimedOut.into())))
    }

    async fn dial(
        &self,
        target: &Target,
        address: &Address,
        (terms, again): (&Terms, &[Duration]),
    ) -> Result<Room, Failed> {
        let _dialling = target.dialling.lock().await;
        if let Some(found) = target.room(terms) {
            return Ok(found);
        }
        if lock(&target.links).len() >= CONNECTIONS {
            return Err(Failed::Full);
        }
        let (sender, connection) = self.handshake(address, (terms, again)).await?;
        let connection = Arc::new(Mutex::new(Some(connection)));
        let polled = Arc::clone(&connection);
        self.tasks.detach("application connection", async move {
            if let Err(error) = std::future::poll_fn(|context| poll(&polled, context)).await {
                tracing::debug!(%error, "connection to the application ended");
            }
        });
        let streams = Arc::new(Streams { open: AtomicUsize::new(1), idle_since: AtomicU64::default() });
        let stream = Stream(Arc::clone(&streams));
        let (requests, opened) = (AtomicU32::new(1), clock::monotonic());
        let settings = Settings { connection: Arc::clone(&connection), opened };
        if !address.is_shared() {
            return Ok((sender, stream, settings));
        }
        lock(&target.links).push(Link { sender: sender.clone(), connection, streams, requests, opened, terms: *terms });
        Ok((sender, stream, settings))
    }

    /// A new connection, which nobody polls yet.
    async fn handshake(
        &self,
        address: &Address,
        (terms, again): (&Terms, &[Duration]),
    ) -> Result<(SendRequest<RequestBody>, Connection), Failed> {
        let stream = connect(address, terms, again).await?;
        let mut builder = http2::Builder::new(self.tasks.clone());
        if let Some(pings) = terms.pings {
            builder.keep_alive_interval(pings.interval).keep_alive_timeout(pings.timeout).keep_alive_while_idle(true);
        }
        builder
            .timer(TokioTimer::new())
            .max_header_list_size(MAX_HEADERS)
            // One response that its caller does not read does not stop those of other callers.
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            // Until the application says its limit.
            .initial_max_send_streams(1)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(Failed::Http2)
    }

    /// Forgets what has ended, and ends what has been idle for too long, or is used up.
    pub(super) fn sweep(&self) {
        let now = clock::monotonic();
        lock(&self.targets).retain(|_, target| {
            let mut links = lock(&target.links);
            links.retain(|link| link.is_usable(&link.terms, now));
            // Who holds the target is about to use it.
            !links.is_empty() || Arc::strong_count(target) > 1
        });
    }
}

#[cfg(test)]
impl Multiplexed {
    /// A connection to an application that is polled when the test says so; gives what polls it.
    pub(super) async fn paused(
        &self,
        address: &Address,
        terms: &Terms,
    ) -> impl FnMut(&mut Context<'_>) -> Poll<()> + use<> {
        let (sender, connection) = self.handshake(address, (terms, &[])).await.expect("it takes one");
        let connection = Arc::new(Mutex::new(Some(connection)));
        let (streams, requests) = (Streams { open: 0.into(), idle_since: clock::uptime().into() }, AtomicU32::new(0));
        let (polled, streams, opened) = (Arc::clone(&connection), Arc::new(streams), clock::monotonic());
        let target = Arc::clone(lock(&self.targets).entry(address.clone()).or_default());
        lock(&target.links).push(Link { sender, connection, streams, requests, opened, terms: *terms });
        move |context| poll(&polled, context).map(drop)
    }
}

/// Drives a connection. At its end it is dropped, so that what still waits to be sent on it comes back.
fn poll(connection: &Mutex<Option<Connection>>, context: &mut Context<'_>) -> Poll<hyper::Result<()>> {
    let mut connection = lock(connection);
    let Some(open) = connection.as_mut() else { return Poll::Ready(Ok(())) };
    let ended = ready!(Pin::new(open).poll(context));
    *connection = None;
    Poll::Ready(ended)
}

impl Target {
    /// A stream of the connection with the fewest.
    fn room(&self, terms: &Terms) -> Option<Room> {
        let now = clock::monotonic();
        let mut links = lock(&self.links);
        // What is used up ends with its last stream.
        links.retain(|link| link.is_usable(terms, now));
        let streams = usize::try_from(terms.streams).unwrap_or(usize::MAX);
        let free = links.iter_mut().filter(|link| link.open() < link.limit().min(streams));
        let best = free.min_by_key(|link| link.open())?;
        best.terms = *terms;
        best.streams.open.fetch_add(1, Relaxed);
        best.requests.fetch_add(1, Relaxed);
        let settings = Settings { connection: Arc::clone(&best.connection), opened: best.opened };
        Some((best.sender.clone(), Stream(Arc::clone(&best.streams)), settings))
    }
}

impl Link {
    fn is_usable(&self, terms: &Terms, now: Instant) -> bool {
        let is_used_up = self.requests.load(Relaxed) >= terms.requests || now.duration_since(self.opened) >= terms.age;
        !self.sender.is_closed() && !is_used_up && !self.is_idle(terms)
    }

    /// True if it has carried nothing for as long as one may be kept so.
    fn is_idle(&self, terms: &Terms) -> bool {
        let silent = || Duration::from_millis(clock::uptime().saturating_sub(self.streams.idle_since.load(Relaxed)));
        self.open() == 0 && silent() >= terms.idle.min(IDLE_TIME)
    }

    /// Streams on it.
    fn open(&self) -> usize {
        self.streams.open.load(Relaxed)
    }

    /// Streams that the application takes on it.
    fn limit(&self) -> usize {
        lock(&self.connection).as_ref().map_or(0, Connection::current_max_send_streams)
    }
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").field("streams", &self.streams).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use policy::{kinds::MeshConfig, route::ClusterPolicy};

    #[tokio::test]
    async fn an_application_gets_so_many_connections() {
        // Their handshakes wait for nothing that it says.
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = Address::plain(listener.local_addr().unwrap());
        let application = async {
            let mut streams = Vec::new();
            loop {
                streams.push(listener.accept().await);
            }
        };
        let asking = async {
            let multiplexed = Multiplexed::new(Tasks::new());
            let terms = Terms { streams: 1, ..Terms::of(&ClusterPolicy::default(), &MeshConfig::default()) };
            let mut held = Vec::new();
            for _ in 0..CONNECTIONS {
                held.push(multiplexed.stream(&target, &terms, &[]).await.expect("there is room"));
            }
            assert!(matches!(multiplexed.stream(&target, &terms, &[]).await, Err(Failed::Full)));
            drop(held.pop());
            assert!(multiplexed.stream(&target, &terms, &[]).await.is_ok(), "that of one that ended");
        };
        tokio::select! {
            () = asking => {}
            () = application => {}
        }
    }
}
