//! A virtual connection that carries HTTP, lent for one request and its response.

use std::{
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode, request::Parts};
use http_body::Body as _;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::{
    body::{Frame, SizeHint},
    client::conn::http2,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::OwnedSemaphorePermit;

use super::{
    data::Call,
    error::Error,
    pool::{self, Group},
    preface::{Preface, Protocol},
    stream::{Facts, VirtualStream},
};
use crate::{
    clock::Uptime,
    http1::{
        client::{self as http1, Connection},
        copy_head,
    },
    tasks::Tasks,
};

/// Bytes that hyper may buffer per direction of a virtual connection.
const MAX_BUFFER: usize = 64 << 10;
/// Bytes of a response by HTTP/2 that wait to be read; the connection carries one at a time.
pub const RESPONSE_WINDOW: u32 = 1 << 20;
/// Longest block of response headers, bytes: an application's, and what its node adds by policy.
const MAX_HEADERS: u32 = 96 << 10;

/// Why a request's body failed on our side.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// The body of a request to another node.
pub type Body = UnsyncBoxBody<Bytes, BodyError>;

/// A virtual connection that speaks HTTP.
#[derive(Debug)]
pub(super) struct Link {
    sender: Sender,
    tasks: Tasks,
    facts: Arc<Facts>,
    pub(super) preface: Arc<Preface>,
    pub(super) is_quic: bool,
    /// When it was given back.
    pub(super) since: Uptime,
    /// When it was made.
    born: Uptime,
    /// Requests that it has carried.
    carried: u32,
    /// How long it is kept unused, where that is shorter than usual.
    pub(super) idle: Duration,
}

/// For how long a virtual connection is used: what its last user asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// Requests that it carries at most.
    pub requests: u32,
    /// It is kept unused for at most so long.
    pub idle: Duration,
    /// From so long after it was made no further request begins on it.
    pub age: Duration,
}

impl Default for Terms {
    fn default() -> Terms {
        Terms { requests: u32::MAX, idle: Duration::MAX, age: Duration::MAX }
    }
}

/// `http2KeepAlive`: pings on a virtual connection of HTTP/2, which ends when one is not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pings {
    /// Between two.
    pub interval: Duration,
    /// For the answer.
    pub timeout: Duration,
}

#[derive(Debug)]
enum Sender {
    /// The connection is absent while a response is read from it.
    Http1(Option<Connection<Box<VirtualStream>>>),
    Http2(http2::SendRequest<Tracked>),
}

impl Link {
    /// Makes a stream whose preface was sent speak HTTP.
    pub(super) async fn new(stream: VirtualStream, call: &Call<'_>, tasks: &Tasks) -> Result<Link, Error> {
        let preface = call.preface;
        let (facts, is_quic) = (stream.facts().clone(), stream.carrier() == "quic");
        let failed = |error: hyper::Error| Error::NeverSent(error.to_string().into());
        let sender = if preface.protocol == Protocol::Http2 {
            let mut builder = http2::Builder::new(tasks.clone());
            builder.max_header_list_size(MAX_HEADERS).max_send_buf_size(MAX_BUFFER);
            builder.initial_stream_window_size(RESPONSE_WINDOW).initial_connection_window_size(RESPONSE_WINDOW);
            if let Some(Pings { interval, timeout }) = call.pings {
                builder.timer(TokioTimer::new()).keep_alive_interval(interval).keep_alive_timeout(timeout);
                builder.keep_alive_while_idle(true);
            }
            let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(failed)?;
            tasks.detach("virtual connection", async move { drop(connection.await) });
            Sender::Http2(sender)
        } else {
            Sender::Http1(Some(Connection::to_node(Box::new(stream))))
        };
        let (now, preface, tasks) = (Uptime::now(), Arc::new(preface.clone()), tasks.clone());
        Ok(Link { sender, tasks, facts, preface, is_quic, since: now, born: now, carried: 0, idle: Duration::MAX })
    }

    /// False if it has ended.
    pub(super) fn is_usable(&mut self) -> bool {
        let open = match &mut self.sender {
            Sender::Http1(connection) => connection.as_mut().is_some_and(Connection::is_quiet),
            Sender::Http2(sender) => !sender.is_closed(),
        };
        open && !self.facts.is_broken()
    }

    /// True if it waited for its next request for longer than its last user wanted.
    pub(super) fn is_stale(&self) -> bool {
        self.idle < Duration::MAX && Uptime::now().since(self.since) >= self.idle
    }

    /// True if it is one of this QUIC connection's streams.
    pub(super) fn is_on(&self, connection: &pool::Connection) -> bool {
        self.is_quic && self.facts.is_on(&connection.retirement)
    }

    /// True if its certificates end so soon that no further request begins on it.
    pub(super) fn is_retired(&self) -> bool {
        self.facts.is_retired()
    }

    /// Waits until the previous request has left it altogether; false if it ended meanwhile.
    pub(super) async fn ready(&mut self) -> bool {
        match &mut self.sender {
            Sender::Http1(_) => self.is_usable(),
            Sender::Http2(sender) => sender.ready().await.is_ok() && !self.facts.is_broken(),
        }
    }
}

/// A virtual connection, ready for one request. Dropped unused, it goes back.
#[derive(Debug)]
pub struct Lease {
    /// Present until it goes back or is used up.
    link: Option<Link>,
    group: Arc<Group>,
    used: bool,
    terms: Terms,
    _permit: OwnedSemaphorePermit,
}

/// A request that got no response.
#[derive(Debug)]
pub struct SendError {
    /// What happened.
    pub error: Error,
    /// The request's body, if the request was never begun.
    pub body: Option<Body>,
}

impl Lease {
    pub(super) fn new(link: Link, group: Arc<Group>, permit: OwnedSemaphorePermit) -> Lease {
        group.leased.fetch_add(1, Relaxed);
        Lease { link: Some(link), group, used: false, terms: Terms::default(), _permit: permit }
    }

    /// The same, used under these terms.
    #[must_use]
    pub fn under(mut self, terms: Terms) -> Lease {
        self.terms = terms;
        self
    }

    /// `quic` or `tcp`.
    #[must_use]
    pub fn carrier(&self) -> &'static str {
        if self.link.as_ref().is_some_and(|link| link.is_quic) { "quic" } else { "tcp" }
    }

    /// Sends a request as it is (no header but those of framing is added or taken) and waits for the response's head. The
    /// virtual connection goes back when the response's body has ended cleanly and the request's body was sent to its end;
    /// otherwise it is closed. Of a response that changes the protocol, [`crate::http1::Upgraded::take`] gives the stream.
    ///
    /// # Errors
    /// No response came.
    pub async fn send(mut self, head: &Parts, body: Body) -> Result<Response<LeasedBody>, SendError> {
        self.used = true;
        let unsent = |error, body| Err(SendError { error, body: Some(body) });
        let Some(link) = &mut self.link else { return unsent(Error::Stopping, body) };
        let facts = link.facts.clone();
        facts.begin();
        let result = match &mut link.sender {
            Sender::Http1(connection) => {
                // Whoever lent it has just looked whether it is usable.
                let Some(connection) = connection.take() else { return unsent(Error::Stopping, body) };
                let sent = connection.send(head, Tracked::new(body, facts.clone()), &link.tasks).await;
                sent.map(|response| response.map(Incoming::Http1)).map_err(|error| unanswered_1(&error, &facts))
            }
            Sender::Http2(sender) => {
                let request = Request::from_parts(copy_head(head), Tracked::new(body, facts.clone()));
                match sender.try_send_request(request).await {
                    Ok(response) => Ok(response.map(Incoming::Http2)),
                    Err(mut failed) => match failed.take_message() {
                        Some(request) => {
                            let error = Error::NeverSent(text(&failed.into_error()));
                            return unsent(error, request.into_body().body);
                        }
                        None => Err(unanswered_2(&failed.into_error(), &facts)),
                    },
                }
            }
        };
        let response = result.map_err(|error| SendError { error, body: None })?;
        // A stream that changes its protocol is the application's from here on.
        let lease = Some(self).filter(|_| response.status() != StatusCode::SWITCHING_PROTOCOLS);
        Ok(response.map(|incoming| LeasedBody::new(incoming, lease)))
    }

    /// The response has ended cleanly, and left its connection for the next one.
    fn settle(mut self, connection: Option<Connection<Box<VirtualStream>>>) {
        let Some(mut link) = self.link.take() else { return };
        if let Sender::Http1(place) = &mut link.sender {
            *place = connection;
        }
        if link.facts.is_broken() || !link.facts.is_sent() {
            return;
        }
        link.carried = link.carried.saturating_add(1);
        link.idle = self.terms.idle;
        let age = || Uptime::now().since(link.born);
        let ended = link.carried >= self.terms.requests || self.terms.age < Duration::MAX && age() >= self.terms.age;
        if !ended {
            self.group.give_back(link);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.group.leased.fetch_sub(1, Relaxed);
        if let Some(mut link) = self.link.take().filter(|_| !self.used)
            && link.is_usable()
        {
            self.group.give_back(link);
        }
    }
}

/// Why no response came by HTTP/1.1.
fn unanswered_1(error: &http1::Error, facts: &Facts) -> Error {
    match error {
        http1::Error::Body(_) => Error::RequestBody(text(error)),
        _ if facts.is_refused() => Error::Refused,
        http1::Error::Parse(_) => Error::Protocol(text(error)),
        http1::Error::Ended | http1::Error::Io(_) => cut_off(error, facts),
    }
}

/// Why no response came by HTTP/2.
fn unanswered_2(error: &hyper::Error, facts: &Facts) -> Error {
    if facts.is_source_failed() {
        Error::RequestBody(text(error))
    } else if facts.is_refused() {
        Error::Refused
    } else if error.is_parse() {
        Error::Protocol(text(error))
    } else {
        cut_off(error, facts)
    }
}

fn cut_off(error: &(dyn std::error::Error + 'static), facts: &Facts) -> Error {
    if facts.is_written() { Error::ResetBefore(text(error)) } else { Error::NeverSent(text(error)) }
}

/// An error with its causes.
fn text(error: &(dyn std::error::Error + 'static)) -> Arc<str> {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text.into()
}

/// The body of a response; gives the virtual connection back at its clean end.
#[derive(Debug)]
pub struct LeasedBody {
    incoming: Incoming,
    lease: Option<Lease>,
}

#[derive(Debug)]
enum Incoming {
    Http1(http1::Incoming<Box<VirtualStream>>),
    Http2(hyper::body::Incoming),
}

impl LeasedBody {
    fn new(incoming: Incoming, lease: Option<Lease>) -> LeasedBody {
        let mut body = LeasedBody { incoming, lease };
        body.settle_at_end();
        body
    }

    fn settle_at_end(&mut self) {
        if self.is_end_stream() {
            self.settle();
        }
    }

    fn settle(&mut self) {
        let Some(lease) = self.lease.take() else { return };
        match &mut self.incoming {
            Incoming::Http1(incoming) => {
                if let Some(connection) = incoming.release() {
                    lease.settle(Some(connection));
                }
            }
            Incoming::Http2(_) => lease.settle(None),
        }
    }
}

impl http_body::Body for LeasedBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let frame = match &mut self.incoming {
            Incoming::Http1(incoming) => {
                ready!(Pin::new(incoming).poll_frame(cx)).map(|frame| frame.map_err(|error| text(&error)))
            }
            Incoming::Http2(incoming) => match ready!(Pin::new(&mut *incoming).poll_frame(cx)) {
                // Reset in the middle, without an error: hyper takes that for an end.
                None if !incoming.is_end_stream() => Some(Err("the stream was reset before its end".into())),
                frame => frame.map(|frame| frame.map_err(|error| text(&error))),
            },
        };
        Poll::Ready(match frame {
            None => {
                self.settle();
                None
            }
            Some(Ok(frame)) => {
                self.settle_at_end();
                Some(Ok(frame))
            }
            Some(Err(text)) => {
                self.lease = None;
                Some(Err(Error::ResetAfter(text)))
            }
        })
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

/// A request's body that notes how it ended.
#[derive(Debug)]
struct Tracked {
    body: Body,
    facts: Arc<Facts>,
}

impl Tracked {
    fn new(body: Body, facts: Arc<Facts>) -> Tracked {
        let tracked = Tracked { body, facts };
        tracked.note_end();
        tracked
    }

    fn note_end(&self) {
        if self.body.is_end_stream() || self.body.size_hint().exact() == Some(0) {
            self.facts.request_ended(true);
        }
    }
}

impl http_body::Body for Tracked {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        match &frame {
            None => self.facts.request_ended(true),
            Some(Ok(_)) => self.note_end(),
            Some(Err(_)) => self.facts.request_ended(false),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
