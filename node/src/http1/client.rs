//! Requests to a server, one after the other on one connection.
//!
//! A request is written and its response read by whoever waits for it. Where the response begins before the request's body has
//! ended, a task sends the rest, so that neither direction waits for the other; with the response ends the rest, too.

use super::{
    BoxError, HeadLimits, READ, Upgraded,
    decoder::{Decoded, Decoder},
    encoder::{Encoder, Out, write_length},
    head::{self, Framing, HeadEnd, ResponseHead, announced, framing, keeps_alive},
};
use crate::lock::lock;
use crate::tasks::Tasks;
use bytes::{Bytes, BytesMut};
use http::{Method, Response, StatusCode, request::Parts};
use http_body::{Frame, SizeHint};
use std::{
    cell::RefCell,
    future::poll_fn,
    io,
    pin::{Pin, pin},
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker, ready},
};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};

/// How large the head of an application's response may be.
const OF_SERVER: HeadLimits = HeadLimits { bytes: 64 * 1024, lines: 132 };
/// The same of what another node passes on: what its application may say, and what it adds by policy.
const OF_NODE: HeadLimits = HeadLimits { bytes: 96 * 1024, lines: 232 };
/// Writes of one request's body before others have their turn.
const TURN: u32 = 32;
/// Most interim responses (1xx) before the final one.
const MAX_INTERIM: u32 = 16;

/// What a connection runs on.
pub trait Io: AsyncRead + AsyncWrite + Unpin + Send + 'static {}
impl<I: AsyncRead + AsyncWrite + Unpin + Send + 'static> Io for I {}

/// A connection on which no request is under way. Dropped, it ends in order.
#[derive(Debug)]
pub struct Connection<I: Io> {
    io: Option<I>,
    limits: HeadLimits,
}

/// Why there is no response, or no end of one.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request's body failed at its source, or is not what its head says.
    #[error("request body: {0}")]
    Body(BoxError),
    /// What came is no response.
    #[error("not a response: {0}")]
    Parse(&'static str),
    /// The connection ended in order, before the response did.
    #[error("the connection ended before the response did")]
    Ended,
    /// The connection broke.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl<I: Io> Connection<I> {
    /// A fresh connection to a server.
    pub const fn new(io: I) -> Self {
        Self { io: Some(io), limits: OF_SERVER }
    }

    /// The same to another node: with room in heads for what that adds to its application's.
    pub const fn to_node(io: I) -> Self {
        Self { io: Some(io), limits: OF_NODE }
    }

    /// True if the server has neither ended the connection nor said anything unasked: the next request may go out on it.
    pub fn is_quiet(&mut self) -> bool {
        let Some(io) = &mut self.io else { return false };
        let mut byte = [0];
        Pin::new(io).poll_read(&mut Context::from_waker(Waker::noop()), &mut ReadBuf::new(&mut byte)).is_pending()
    }

    /// Sends a request in origin form as it is, but for its framing, and waits for the head of the response. Of a response that
    /// changes the protocol, [`Upgraded::take`] gives the connection.
    ///
    /// # Errors
    /// The connection is good for nothing more.
    pub async fn send<B>(mut self, head: &Parts, body: B, tasks: &Tasks) -> Result<Response<Incoming<I>>, Error>
    where
        B: http_body::Body<Data = Bytes> + Unpin + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let (io, limits) = (self.io.take(), self.limits);
        let Some(io) = io else { return Err(Error::Ended) };
        let (out, upload) = begin(head, body)?;
        let method = &head.method;
        let (read, end) = (BytesMut::new(), HeadEnd::default());
        let mut exchange = Exchange { io, limits, read, end, interim: 0, out, upload };
        let head = poll_fn(|cx| exchange.poll_head(cx)).await?;
        let Exchange { io, read, out, upload, .. } = exchange;
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            let (mut response, upgraded) = (Response::new(Incoming::empty()), Upgraded::new(io, read.freeze()));
            (*response.status_mut(), *response.headers_mut()) = (head.status, head.headers);
            upgraded.attach(&mut response);
            return Ok(response);
        }
        let (decoder, reusable) = body_of(method, &head).map_err(Error::Parse)?;
        let wire = Wire { io, limits, read };
        let state = match upload {
            Upload::Sent => State::Own { wire, reusable },
            Upload::Failed(_) => State::Own { wire, reusable: false },
            Upload::Sending(rest) => State::Shared(go_on(wire, out, rest, tasks)),
        };
        let mut response = Response::new(Incoming { decoder, state });
        (*response.status_mut(), *response.version_mut()) = (head.status, head.version);
        *response.headers_mut() = head.headers;
        Ok(response)
    }
}

impl<I: Io> Drop for Connection<I> {
    fn drop(&mut self) {
        if let Some(io) = &mut self.io {
            // What cannot be said at once is left to the end of the socket.
            let _ = Pin::new(io).poll_shutdown(&mut Context::from_waker(Waker::noop()));
        }
    }
}

/// Writes a request's head.
fn begin<B>(parts: &Parts, body: B) -> Result<(Out, Upload<B>), Error>
where
    B: http_body::Body<Data = Bytes>,
{
    let mut out = Out::default();
    let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
    head::write_request(out.buffer(), &parts.method, target, &parts.headers);
    let framing = framing(&parts.headers).map_err(|bad| Error::Body(bad.into()))?;
    let hint = body.size_hint().exact();
    let encoder = match (framing, body.is_end_stream()) {
        (Framing::Open, true) => {
            // Of these methods some servers refuse a request that does not say it (RFC 9110, 8.6).
            if [Method::POST, Method::PUT, Method::PATCH].contains(&parts.method) {
                write_length(out.buffer(), 0);
            }
            None
        }
        (Framing::Length(0), true) => None,
        (Framing::Length(_), true) => return Err(Error::Body("a body is shorter than its Content-Length".into())),
        (Framing::Length(length), false) => Some(Encoder::Length(length)),
        (Framing::Open, false) if let Some(length) = hint => {
            write_length(out.buffer(), length);
            Some(Encoder::Length(length))
        }
        (Framing::Open, false) => {
            out.buffer().extend_from_slice(b"transfer-encoding: chunked\r\n");
            Some(Encoder::Chunked(announced(&parts.headers)))
        }
        (Framing::Chunked, _) => Some(Encoder::Chunked(announced(&parts.headers))),
    };
    out.buffer().extend_from_slice(b"\r\n");
    let rest = match encoder {
        Some(encoder) => Rest { body: Some(body), encoder },
        None => Rest { body: None, encoder: Encoder::Length(0) },
    };
    Ok((out, Upload::Sending(rest)))
}

/// How the body of a response is framed, and whether the connection may serve another request after it.
fn body_of(method: &Method, head: &ResponseHead) -> Result<(Decoder, bool), head::Bad> {
    let framing = framing(&head.headers)?;
    let goes_on = keeps_alive(head.version, &head.headers);
    let bodyless = method == Method::HEAD || matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    Ok(match framing {
        _ if bodyless => (Decoder::Done, goes_on),
        Framing::Length(length) => (Decoder::length(length), goes_on),
        Framing::Chunked => (Decoder::CHUNKED, goes_on),
        Framing::Open => (Decoder::UntilEnd, false),
    })
}

/// A connection with what was read and not taken yet.
#[derive(Debug)]
struct Wire<I> {
    io: I,
    /// Of the connection.
    limits: HeadLimits,
    read: BytesMut,
}

impl<I: Io> Wire<I> {
    fn poll_read(&mut self, wanted: usize, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        poll_read(&mut self.io, &mut self.read, wanted, cx)
    }
}

thread_local! {
    /// Where short reads go first: a connection that waits keeps no room, and what came takes no more than it needs.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ].into());
}

/// Reads what is there, up to about so many bytes.
pub(super) fn poll_read<I: Io>(
    io: &mut I,
    read: &mut BytesMut,
    wanted: usize,
    cx: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    if wanted > READ {
        read.reserve(wanted);
        return pin!(io.read_buf(read)).poll(cx);
    }
    SCRATCH.with_borrow_mut(|scratch| {
        let mut came = ReadBuf::new(scratch);
        ready!(Pin::new(io).poll_read(cx, &mut came))?;
        read.extend_from_slice(came.filled());
        Poll::Ready(Ok(came.filled().len()))
    })
}

/// What is left to send of a request.
enum Upload<B> {
    Sending(Rest<B>),
    Sent,
    /// The server takes no more; it may have answered all the same.
    Failed(io::Error),
}

/// The part of a request that was not sent yet, behind what waits in [`Out`].
struct Rest<B> {
    /// `None` once all of it was taken.
    body: Option<B>,
    encoder: Encoder,
}

impl<B> Rest<B>
where
    B: http_body::Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    /// Sends as much as there is and the server takes; ready when that was all.
    fn poll_send<I: Io>(&mut self, out: &mut Out, io: &mut I, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        for _ in 0..TURN {
            let mut waits = false;
            while let Some(body) = &mut self.body
                && out.has_room()
            {
                match Pin::new(body).poll_frame(cx) {
                    Poll::Pending => {
                        waits = true;
                        break;
                    }
                    Poll::Ready(frame) => {
                        self.take(frame.transpose().map_err(|error| Error::Body(error.into()))?, out)?
                    }
                }
            }
            ready!(out.poll_write(io, cx))?;
            if self.body.is_none() {
                return Poll::Ready(Ok(()));
            }
            if waits {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn take(&mut self, frame: Option<Frame<Bytes>>, out: &mut Out) -> Result<(), Error> {
        let wrong = |bad: head::Bad| Error::Body(bad.into());
        let trailers = match frame.map(Frame::into_data) {
            Some(Ok(data)) => {
                self.encoder.data(out, data).map_err(wrong)?;
                if !self.encoder.is_full() && !self.body.as_ref().is_some_and(http_body::Body::is_end_stream) {
                    return Ok(());
                }
                None
            }
            Some(Err(frame)) => match frame.into_trailers() {
                Ok(trailers) => Some(trailers),
                // No other kind is known.
                Err(_) => return Ok(()),
            },
            None => None,
        };
        if !out.has_room() && !self.encoder.is_full() {
            // What ends it goes behind what waits: the body is asked again.
            return Ok(());
        }
        self.body = None;
        self.encoder.end(out, trailers.as_ref()).map_err(wrong)
    }
}

/// A request on its way, until the head of its response.
struct Exchange<I, B> {
    io: I,
    limits: HeadLimits,
    read: BytesMut,
    end: HeadEnd,
    interim: u32,
    out: Out,
    upload: Upload<B>,
}

impl<I: Io, B> Exchange<I, B>
where
    B: http_body::Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<ResponseHead, Error>> {
        if let Upload::Sending(rest) = &mut self.upload {
            match rest.poll_send(&mut self.out, &mut self.io, cx) {
                Poll::Pending => {}
                Poll::Ready(Ok(())) => self.upload = Upload::Sent,
                Poll::Ready(Err(Error::Io(error))) => self.upload = Upload::Failed(error),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            }
        }
        loop {
            while let Some((length, lines)) = self.end.find(&self.read) {
                if lines > self.limits.lines || length > self.limits.bytes {
                    return Poll::Ready(Err(Error::Parse("the head is too large")));
                }
                self.end = HeadEnd::default();
                let head = head::response(self.read.split_to(length).freeze(), lines).map_err(Error::Parse)?;
                if !head.status.is_informational() || head.status == StatusCode::SWITCHING_PROTOCOLS {
                    return Poll::Ready(Ok(head));
                }
                self.interim += 1;
                if self.interim > MAX_INTERIM {
                    return Poll::Ready(Err(Error::Parse("too many interim responses")));
                }
            }
            if self.read.len() > self.limits.bytes {
                return Poll::Ready(Err(Error::Parse("the head is too large")));
            }
            let length = match ready!(poll_read(&mut self.io, &mut self.read, READ, cx)) {
                Ok(length) => length,
                Err(error) => return Poll::Ready(Err(self.broken().unwrap_or(Error::Io(error)))),
            };
            if length == 0 {
                return Poll::Ready(Err(self.broken().unwrap_or(Error::Ended)));
            }
        }
    }

    /// Why the request could not be sent, where that came first.
    fn broken(&mut self) -> Option<Error> {
        match std::mem::replace(&mut self.upload, Upload::Sent) {
            Upload::Failed(error) => Some(Error::Io(error)),
            Upload::Sending(_) | Upload::Sent => None,
        }
    }
}

/// A connection of which one task reads the response while another one still sends the request.
#[derive(Debug)]
struct Shared<I> {
    wire: Wire<I>,
    /// Nobody reads the response any more: the rest of the request is of no use.
    abandoned: bool,
    sender: Option<Waker>,
}

/// Sends the rest of a request in a task of its own.
fn go_on<I: Io, B>(wire: Wire<I>, mut out: Out, mut rest: Rest<B>, tasks: &Tasks) -> Arc<Mutex<Shared<I>>>
where
    B: http_body::Body<Data = Bytes> + Unpin + Send + 'static,
    B::Error: Into<BoxError>,
{
    let shared = Arc::new(Mutex::new(Shared { wire, abandoned: false, sender: None }));
    let own = Arc::clone(&shared);
    tasks.detach("rest of a request", async move {
        let sent = poll_fn(|cx| {
            let mut shared = lock(&own);
            if shared.abandoned {
                return Poll::Ready(Ok(()));
            }
            shared.sender = Some(cx.waker().clone());
            rest.poll_send(&mut out, &mut shared.wire.io, cx)
        });
        if let Err(error) = sent.await {
            tracing::debug!(%error, "the rest of a request was not sent");
        }
    });
    shared
}

/// The body of a response. Dropped before its end, or before that of its request, it breaks the connection off.
#[derive(Debug)]
pub struct Incoming<I: Io> {
    decoder: Decoder,
    state: State<I>,
}

#[derive(Debug)]
enum State<I> {
    Own {
        wire: Wire<I>,
        reusable: bool,
    },
    Shared(Arc<Mutex<Shared<I>>>),
    /// The connection was taken, or is of no more use.
    Gone,
}

impl<I: Io> Incoming<I> {
    const fn empty() -> Self {
        Self { decoder: Decoder::Done, state: State::Gone }
    }

    /// The connection, once the body has ended and if it may serve another request; once.
    pub fn release(&mut self) -> Option<Connection<I>> {
        if !self.decoder.is_done() {
            return None;
        }
        // What was read beyond the body belongs to no request (A23).
        let ends_here = |wire: &Wire<I>| wire.read.is_empty();
        if !matches!(&self.state, State::Own { wire, .. } if ends_here(wire)) {
            return None;
        }
        match std::mem::replace(&mut self.state, State::Gone) {
            State::Own { wire, reusable } => {
                let connection = Connection { io: Some(wire.io), limits: wire.limits };
                reusable.then_some(connection)
            }
            State::Shared(_) | State::Gone => None,
        }
    }

    /// Gives the connection up. A server that does not read any more would keep the task that sends the rest, and with it the
    /// connection and the caller, for as long as it likes: the task is told.
    fn abandon(&mut self) {
        if let State::Shared(shared) = std::mem::replace(&mut self.state, State::Gone) {
            let mut shared = lock(&shared);
            shared.abandoned = true;
            if let Some(sender) = shared.sender.take() {
                sender.wake();
            }
        }
    }

    fn poll_decoded(&mut self, cx: &mut Context<'_>) -> Poll<Result<Decoded, Error>> {
        match &mut self.state {
            State::Own { wire, .. } => self.decoder.poll_from(wire, cx),
            State::Shared(shared) => self.decoder.poll_from(&mut lock(shared).wire, cx),
            State::Gone if self.decoder.is_done() => Poll::Ready(Ok(Decoded::End)),
            State::Gone => Poll::Ready(Err(Error::Ended)),
        }
    }
}

impl Decoder {
    fn poll_from<I: Io>(&mut self, wire: &mut Wire<I>, cx: &mut Context<'_>) -> Poll<Result<Decoded, Error>> {
        loop {
            match self.decode(&mut wire.read).map_err(Error::Parse)? {
                Decoded::More => {}
                decoded @ (Decoded::Data(_) | Decoded::Trailers(_) | Decoded::End) => return Poll::Ready(Ok(decoded)),
            }
            if ready!(wire.poll_read(self.wanted(), cx))? == 0 {
                self.ended().map_err(|_| Error::Ended)?;
            }
        }
    }
}

impl<I: Io> http_body::Body for Incoming<I> {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        Poll::Ready(match ready!(self.poll_decoded(cx)) {
            Ok(Decoded::Data(data)) => Some(Ok(Frame::data(data))),
            Ok(Decoded::Trailers(trailers)) => Some(Ok(Frame::trailers(trailers))),
            Ok(Decoded::More | Decoded::End) => None,
            Err(error) => {
                self.abandon();
                Some(Err(error))
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.decoder.is_done()
    }

    fn size_hint(&self) -> SizeHint {
        self.decoder.left().map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl<I: Io> Drop for Incoming<I> {
    fn drop(&mut self) {
        self.abandon();
    }
}
