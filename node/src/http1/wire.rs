//! The bytes of a connection that is served: shared by its task and by the body of the request under way.

use super::{
    READ, Upgraded,
    client::{Io, poll_read},
    decoder::{Decoded, Decoder},
    encoder::Out,
    request::{HeadLimits, Heads, Refused, RequestHead},
    server::Error,
};
use crate::http1::BoxError;
use crate::lock::lock;
use bytes::BytesMut;
use http::StatusCode;
use std::{
    future::poll_fn,
    io,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker, ready},
    time::Duration,
};
use tokio::time::{Sleep, sleep};

/// How long a caller that still sends is listened to after its answer, so that it reads that before it hears of the end: what comes to
/// a closed connection is answered by a reset, which takes the answer with it (RFC 9112, 9.6).
const LINGER: Duration = Duration::from_secs(2);

/// A connection; nobody else takes the lock while one uses it, but for the body of its request.
pub(super) type Shared<I> = Arc<Mutex<Wire<I>>>;

pub(super) fn shared<I: Io>(io: I) -> Shared<I> {
    Arc::new(Mutex::new(Wire {
        io: Some(io),
        read: BytesMut::new(),
        out: Out::default(),
        heads: Heads::default(),
        body: Decoder::Done,
        count: 0,
        continues: false,
        holds: false,
        broken: false,
        left: false,
        active: false,
        refused: None,
        task: None,
    }))
}

/// See the module.
pub(super) struct Wire<I> {
    /// `None` once it speaks another protocol.
    io: Option<I>,
    read: BytesMut,
    out: Out,
    heads: Heads,
    /// Of the request under way.
    body: Decoder,
    /// Which request that is.
    count: u64,
    /// The caller waits for a word before it sends the body.
    continues: bool,
    /// What follows the request waits for its answer, its end too: of a CONNECT's bytes all may be sent before it.
    holds: bool,
    /// The request cannot be read to its end.
    broken: bool,
    /// Nobody reads the body any more.
    left: bool,
    /// Something moved since the last look.
    active: bool,
    refused: Option<Refused>,
    /// The connection's task, where it waits for the end of a body that another one reads.
    task: Option<Waker>,
}

/// What a body reads from.
pub(super) trait Source: Send + Sync {
    /// The next piece of the body of this request, and how much is left if that is known.
    fn poll_body(&self, count: u64, cx: &mut Context<'_>) -> Poll<Result<(Decoded, Option<u64>), BoxError>>;

    /// Nobody reads it any more.
    fn leave(&self, count: u64);
}

impl<I: Io> Source for Mutex<Wire<I>> {
    fn poll_body(&self, count: u64, cx: &mut Context<'_>) -> Poll<Result<(Decoded, Option<u64>), BoxError>> {
        let mut wire = lock(self);
        if wire.count != count {
            return Poll::Ready(Ok((Decoded::End, Some(0))));
        }
        let polled = wire.poll_body(cx);
        if polled.is_ready() && (wire.body.is_done() || wire.broken) {
            wire.wake();
        }
        polled.map(|decoded| decoded.map(|decoded| (decoded, wire.body.left())))
    }

    fn leave(&self, count: u64) {
        let mut wire = lock(self);
        if wire.count == count {
            wire.left = true;
            wire.wake();
        }
    }
}

impl<I: Io> Wire<I> {
    /// A request begins.
    pub(super) fn begin(&mut self, body: Decoder, continues: bool, holds: bool, count: u64) {
        (self.body, self.continues, self.holds, self.count) = (body, continues, holds, count);
        self.left = false;
    }

    /// A response begins: its caller waits for no other word.
    pub(super) fn begin_response(&mut self) {
        self.continues = false;
    }

    /// What goes to the caller.
    pub(super) fn out(&mut self) -> &mut Out {
        &mut self.out
    }

    /// Why the caller was refused.
    pub(super) fn refusal(&mut self) -> Refused {
        self.refused.take().unwrap_or(Refused(StatusCode::BAD_REQUEST, "not a request"))
    }

    /// The connection as it goes on in another protocol.
    pub(super) fn upgraded(&mut self) -> Option<Upgraded> {
        Some(Upgraded::new(self.io.take()?, self.read.split().freeze()))
    }

    fn wake(&mut self) {
        if let Some(task) = self.task.take() {
            task.wake();
        }
    }

    fn poll_read(&mut self, wanted: usize, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let Some(io) = &mut self.io else { return Poll::Ready(Ok(0)) };
        let length = ready!(poll_read(io, &mut self.read, wanted, cx));
        self.active = true;
        Poll::Ready(length)
    }

    /// The next request; `None` at the end of the connection.
    pub(super) fn poll_request(
        &mut self,
        limits: HeadLimits,
        timers: &mut Timers,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<RequestHead>, Error>> {
        loop {
            match self.heads.take(&mut self.read, limits) {
                Ok(Some(head)) => {
                    timers.head = None;
                    return Poll::Ready(Ok(Some(head)));
                }
                Ok(None) => {}
                Err(refused) => {
                    self.refused = Some(refused);
                    return Poll::Ready(Err(Error::Refused(refused.1)));
                }
            }
            if self.read.is_empty() {
                // While nothing comes, no room is kept for it.
                self.read = BytesMut::new();
            } else {
                timers.begin_head();
            }
            match self.poll_read(READ, cx)? {
                Poll::Ready(0) => return Poll::Ready(Ok(None)),
                Poll::Ready(_) => {}
                Poll::Pending => {
                    if self.read.is_empty() {
                        self.read = BytesMut::new();
                    }
                    return self.poll_timers(timers, cx).map(|late| Err(Error::Io(late)));
                }
            }
        }
    }

    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<Decoded, BoxError>> {
        loop {
            match self.body.decode(&mut self.read) {
                Ok(Decoded::More) => {}
                Ok(decoded) => return Poll::Ready(Ok(decoded)),
                Err(bad) => {
                    self.broken = true;
                    return Poll::Ready(Err(bad.into()));
                }
            }
            if std::mem::take(&mut self.continues)
                && let Some(io) = &mut self.io
            {
                self.out.buffer().extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
                // What does not go out at once goes out with the response, at the latest.
                let _ = self.out.poll_write(io, cx);
            }
            let length = match ready!(self.poll_read(self.body.wanted(), cx)) {
                Ok(length) => length,
                Err(error) => {
                    self.broken = true;
                    return Poll::Ready(Err(error.into()));
                }
            };
            if length == 0
                && let Err(bad) = self.body.ended()
            {
                self.broken = true;
                return Poll::Ready(Err(bad.into()));
            }
        }
    }

    /// Writes what waits.
    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(io) = &mut self.io else { return Poll::Ready(Ok(())) };
        ready!(self.out.poll_write(io, cx))?;
        self.active = true;
        Poll::Ready(Ok(()))
    }

    /// Ready if the caller goes away, or nothing moves, while it waits for its answer.
    pub(super) fn poll_gone(&mut self, timers: &mut Timers, cx: &mut Context<'_>) -> Poll<io::Error> {
        if !self.body.is_done() {
            // Whoever reads the body sees its end.
            self.task = Some(cx.waker().clone());
        } else if self.read.is_empty() && !self.holds {
            match self.poll_read(READ, cx) {
                Poll::Ready(Ok(0)) => return Poll::Ready(io::ErrorKind::UnexpectedEof.into()),
                Poll::Ready(Err(error)) => return Poll::Ready(error),
                // The next request waits.
                Poll::Ready(Ok(_)) | Poll::Pending => {}
            }
        }
        self.poll_timers(timers, cx)
    }

    /// Waits for the end of the request's body; false if nobody reads it any more, or it is broken.
    pub(super) fn poll_body_end(&mut self, timers: &mut Timers, cx: &mut Context<'_>) -> Poll<bool> {
        if self.broken {
            return Poll::Ready(false);
        }
        if self.left {
            return Poll::Ready(!self.is_unread(cx));
        }
        if self.body.is_done() {
            return Poll::Ready(true);
        }
        self.task = Some(cx.waker().clone());
        self.poll_timers(timers, cx).map(|_| false)
    }

    /// True if a body that nobody reads any more has not come to its end. What is there of it is thrown away.
    pub(super) fn is_unread(&mut self, cx: &mut Context<'_>) -> bool {
        while self.left && !self.broken && !self.body.is_done() {
            if !matches!(self.poll_body(cx), Poll::Ready(Ok(_))) {
                return true;
            }
        }
        self.broken || self.left && !self.body.is_done()
    }

    /// True if all of the request was read.
    pub(super) fn is_read(&self) -> bool {
        self.body.is_done() && !self.broken
    }

    /// Ends the connection in order. Nothing more is read: what the caller has just begun is safe to send again.
    pub(super) fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Some(io) => Pin::new(io).poll_shutdown(cx),
            None => Poll::Ready(Ok(())),
        }
    }

    /// Reads what comes and throws it away; ready at the end of the connection.
    fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            self.read.clear();
            match ready!(self.poll_read(READ, cx)) {
                Ok(length) if length > 0 => {}
                Ok(_) | Err(_) => return Poll::Ready(()),
            }
        }
    }

    fn poll_timers(&mut self, timers: &mut Timers, cx: &mut Context<'_>) -> Poll<io::Error> {
        timers.active |= std::mem::take(&mut self.active);
        timers.poll(cx)
    }
}

/// Listens to a caller that may still send, after its answer and the end of the connection were said.
pub(super) async fn linger<I: Io>(wire: &Shared<I>) {
    // Whoever goes on for longer hears the end the hard way.
    drop(tokio::time::timeout(LINGER, poll_fn(|cx| lock(wire).poll_discard(cx))).await);
}

/// The time limits of a connection.
pub(super) struct Timers {
    head_time: Duration,
    idle_time: Duration,
    /// Until when the head that has begun must end.
    head: Option<Pin<Box<Sleep>>>,
    idle: Pin<Box<Sleep>>,
    active: bool,
}

impl Timers {
    pub(super) fn new(head_time: Duration, idle_time: Duration) -> Self {
        Self { head_time, idle_time, head: None, idle: Box::pin(sleep(idle_time)), active: true }
    }

    /// True between the first byte of a head and its end.
    pub(super) fn is_within_head(&self) -> bool {
        self.head.is_some()
    }

    fn begin_head(&mut self) {
        let time = self.head_time;
        self.head.get_or_insert_with(|| Box::pin(sleep(time)));
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        if let Some(head) = &mut self.head
            && head.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(io::Error::new(io::ErrorKind::TimedOut, "head takes too long"));
        }
        while self.idle.as_mut().poll(cx).is_ready() {
            if !std::mem::take(&mut self.active) {
                return Poll::Ready(io::Error::new(io::ErrorKind::TimedOut, "idle"));
            }
            self.idle.set(sleep(self.idle_time));
        }
        Poll::Pending
    }
}
