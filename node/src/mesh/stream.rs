//! A virtual connection: one QUIC stream or one TLS/TCP connection, and what both its ends learn from how it ends.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};

use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    error::{Code, Reset},
    farewell::Served,
    live::Retirement,
    secure::OverTcp,
};
use crate::clock;

/// Bytes both ways between two applications. `shutdown` ends the write side; a stream that is dropped before is a reset for
/// the peer, and one that nobody has read tells the peer so, which may then safely try elsewhere.
#[derive(Debug)]
pub struct VirtualStream {
    carrier: Carrier,
    facts: Arc<Facts>,
    shut: bool,
    ended: bool,
    /// Of an accepted stream, where its node says farewell.
    served: Option<Served>,
    /// Whoever shares the connection counts this stream until it is dropped.
    _held: Option<Held>,
}

/// Something that lives as long as a stream.
pub(super) type Held = Box<dyn std::any::Any + Send + Sync>;

#[derive(Debug)]
enum Carrier {
    Quic {
        send: quinn::SendStream,
        recv: quinn::RecvStream,
    },
    Tcp(OverTcp),
    /// The connection went back to serve the next tunnel.
    Gone,
}

/// What a stream's user learns beside its bytes. Shared with the lease that sends requests over it.
///
/// Whether a request was refused unread is decided so: an accepting side that gives a stream up says `Refused` if it has read
/// nothing since it last wrote; the dialling side believes it if nothing came since it began the request. What the
/// accepting side wrote arrives before the end of the stream does, so an answer to a request that was read cannot be missed.
#[derive(Debug, Default)]
pub(super) struct Facts {
    /// True at the side that accepted the stream.
    accepted: bool,
    /// From when on no request begins on it; none where its user looks after that.
    retirement: Option<Retirement>,
    /// The peer said that it read nothing.
    refused: AtomicBool,
    /// Bytes were written since [`Facts::begin`].
    written: AtomicBool,
    /// Bytes were read since [`Facts::begin`].
    answered: AtomicBool,
    /// Bytes were read since the last write.
    unanswered: AtomicBool,
    /// The stream is good for nothing more.
    broken: AtomicBool,
    /// The request's body was handed over to its end.
    sent: AtomicBool,
    /// The request's body failed at its source.
    source_failed: AtomicBool,
}

impl Facts {
    pub(super) fn dialled() -> Arc<Facts> {
        Arc::new(Facts::default())
    }

    /// Of a stream on which no request begins once its connection retires.
    pub(super) fn dialled_until(retirement: Retirement) -> Arc<Facts> {
        Arc::new(Facts { retirement: Some(retirement), ..Facts::default() })
    }

    pub(super) fn accepted() -> Arc<Facts> {
        Arc::new(Facts { accepted: true, ..Facts::default() })
    }

    /// A new request begins.
    pub(super) fn begin(&self) {
        self.written.store(false, Relaxed);
        self.answered.store(false, Relaxed);
        self.sent.store(false, Relaxed);
    }

    /// The request's body has ended, well or not.
    pub(super) fn request_ended(&self, well: bool) {
        if well {
            self.sent.store(true, Relaxed);
        } else {
            self.source_failed.store(true, Relaxed);
        }
    }

    pub(super) fn is_sent(&self) -> bool {
        self.sent.load(Relaxed)
    }

    pub(super) fn is_source_failed(&self) -> bool {
        self.source_failed.load(Relaxed)
    }

    pub(super) fn is_written(&self) -> bool {
        self.written.load(Relaxed)
    }

    /// True if the peer said that it read nothing of the request.
    pub(super) fn is_refused(&self) -> bool {
        self.refused.load(Relaxed)
    }

    pub(super) fn is_retired(&self) -> bool {
        self.retirement.as_ref().is_some_and(|retirement| retirement.has_come(clock::wall()))
    }

    /// True for a stream of the connection that retires by this.
    pub(super) fn is_on(&self, connection: &Retirement) -> bool {
        self.retirement.as_ref().is_some_and(|retirement| retirement.is(connection))
    }

    pub(super) fn is_broken(&self) -> bool {
        self.broken.load(Relaxed)
    }

    fn wrote(&self) {
        self.written.store(true, Relaxed);
        self.unanswered.store(false, Relaxed);
    }

    fn read(&self) {
        self.answered.store(true, Relaxed);
        self.unanswered.store(true, Relaxed);
    }

    /// The peer ended the stream with a code.
    pub(super) fn ended(&self, code: Code) {
        self.broken.store(true, Relaxed);
        if code == Code::Refused && !self.answered.load(Relaxed) {
            self.refused.store(true, Relaxed);
        }
    }

    /// True if the application neither read nor wrote a byte.
    fn is_untouched(&self) -> bool {
        !self.answered.load(Relaxed) && !self.written.load(Relaxed)
    }
}

impl VirtualStream {
    pub(super) fn quic(
        send: quinn::SendStream,
        recv: quinn::RecvStream,
        facts: Arc<Facts>,
        held: Option<Held>,
    ) -> Self {
        VirtualStream {
            carrier: Carrier::Quic { send, recv },
            facts,
            shut: false,
            ended: false,
            served: None,
            _held: held,
        }
    }

    pub(super) fn tcp(over: OverTcp, facts: Arc<Facts>) -> Self {
        VirtualStream { carrier: Carrier::Tcp(over), facts, shut: false, ended: false, served: None, _held: None }
    }

    /// One that another node opened for requests.
    pub(super) fn served(send: quinn::SendStream, recv: quinn::RecvStream, served: Served) -> Self {
        let mut stream = Self::quic(send, recv, Facts::accepted(), None);
        stream.served = Some(served);
        stream
    }

    /// `quic` or `tcp`.
    #[must_use]
    pub fn carrier(&self) -> &'static str {
        match self.carrier {
            Carrier::Quic { .. } => "quic",
            Carrier::Tcp(_) | Carrier::Gone => "tcp",
        }
    }

    /// Resolves when the connection under the stream is closed, by this node or another one. Who neither reads nor writes, because what
    /// it has read finds no taker, learns of it by nothing else.
    #[must_use]
    pub fn lost(&self) -> BoxFuture<'static, ()> {
        match &self.carrier {
            Carrier::Quic { send, .. } => {
                let stopped = send.stopped();
                Box::pin(async move {
                    // That the peer wants no more, or has it all, is no end.
                    if !matches!(stopped.await, Err(quinn::StoppedError::ConnectionLost(_))) {
                        std::future::pending::<()>().await;
                    }
                })
            }
            Carrier::Tcp(over) => Box::pin(over.lost()),
            Carrier::Gone => Box::pin(std::future::pending()),
        }
    }

    pub(super) fn facts(&self) -> &Arc<Facts> {
        &self.facts
    }

    /// Gives the stream up in the middle: the peer sees a reset, never a clean end.
    pub fn reset(mut self) {
        self.abandon(Code::Aborted);
    }

    /// Gives an accepted stream back unread: the caller may safely try elsewhere.
    pub fn refuse(mut self) {
        self.abandon(Code::Refused);
    }

    fn abandon(&mut self, code: Code) {
        if let Some(served) = self.served.as_ref().filter(|_| code != Code::Refused) {
            served.cut();
        }
        if let Carrier::Quic { send, recv } = &mut self.carrier {
            // Errors mean that the stream has ended already, which is what is wanted.
            let _ = send.reset(code.varint());
            let _ = recv.stop(code.varint());
        }
        self.shut = true;
        self.ended = true;
    }

    /// The end may have come with a refusal of what we wrote.
    fn note_end(&mut self) {
        self.ended = true;
        let Carrier::Quic { send, .. } = &self.carrier else { return };
        match futures_util::FutureExt::now_or_never(send.stopped()) {
            Some(Ok(Some(code))) => self.facts.ended(Code::from_number(code.into_inner())),
            Some(Err(quinn::StoppedError::ConnectionLost(error))) if is_drained(&error) => {
                self.facts.ended(Code::Refused);
            }
            Some(Ok(None) | Err(_)) | None => {}
        }
    }
}

impl Drop for VirtualStream {
    fn drop(&mut self) {
        let (mut send, mut recv) = match std::mem::replace(&mut self.carrier, Carrier::Gone) {
            Carrier::Quic { send, recv } => (send, recv),
            Carrier::Tcp(over) => return over.leave(),
            Carrier::Gone => return,
        };
        let facts = &self.facts;
        // Errors mean that the side has ended already.
        if !self.shut {
            // A reset may overtake what was written, so here only an untouched stream counts as unread.
            let code = if facts.accepted && facts.is_untouched() { Code::Refused } else { Code::Aborted };
            let _ = send.reset(code.varint());
            let _ = recv.stop(code.varint());
            if let Some(served) = self.served.as_ref().filter(|_| code == Code::Aborted) {
                served.cut();
            }
            return;
        }
        if !self.ended {
            let unread = facts.accepted && !facts.unanswered.load(Relaxed);
            let _ = recv.stop(if unread { Code::Refused } else { Code::Done }.varint());
        }
        if let Some(served) = &self.served {
            served.ended(send);
        }
    }
}

impl AsyncRead for VirtualStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        match &mut this.carrier {
            Carrier::Quic { recv, .. } => {
                if let Err(error) = ready!(recv.poll_read_buf(cx, buf)) {
                    this.ended = true;
                    return Poll::Ready(Err(read_error(&this.facts, error)));
                }
            }
            Carrier::Tcp(over) => ready!(over.poll_read(cx, buf, &this.facts))?,
            Carrier::Gone => return Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
        if buf.filled().len() > before {
            this.facts.read();
        } else if buf.remaining() > 0 && !this.ended {
            this.note_end();
        }
        Poll::Ready(Ok(()))
    }
}

/// The peer ended the stream with a code.
pub(super) fn reset(facts: &Facts, number: u64) -> io::Error {
    let code = Code::from_number(number);
    facts.ended(code);
    Reset { by: "peer", code }.into()
}

fn read_error(facts: &Facts, error: quinn::ReadError) -> io::Error {
    match error {
        quinn::ReadError::Reset(code) => reset(facts, code.into_inner()),
        quinn::ReadError::ConnectionLost(error) => {
            if is_drained(&error) {
                facts.ended(Code::Refused);
            }
            lost(facts, error)
        }
        other @ (quinn::ReadError::ClosedStream
        | quinn::ReadError::IllegalOrderedRead
        | quinn::ReadError::ZeroRttRejected) => io::Error::other(other),
    }
}

/// The whole connection went away.
fn lost(facts: &Facts, error: quinn::ConnectionError) -> io::Error {
    facts.broken.store(true, Relaxed);
    if let quinn::ConnectionError::ApplicationClosed(close) = &error {
        return Reset { by: "peer", code: Code::from_number(close.error_code.into_inner()) }.into();
    }
    if matches!(&error, quinn::ConnectionError::ConnectionClosed(close) if is_alert(close.error_code)) {
        facts.ended(Code::Refused);
        return Reset { by: "peer", code: Code::Unauthorized }.into();
    }
    io::Error::new(io::ErrorKind::ConnectionReset, error)
}

/// True if the peer read nothing of what it has not answered. Known only once all has been read that it did answer.
fn is_drained(error: &quinn::ConnectionError) -> bool {
    matches!(error, quinn::ConnectionError::ApplicationClosed(close) if close.error_code == Code::Drained.varint())
}

/// TLS alerts (RFC 9001, 4.8) come before anything was read: a server refuses our certificate after our handshake has ended.
fn is_alert(code: quinn::TransportErrorCode) -> bool {
    u64::from(code) & !0xff == 0x100
}

impl AsyncWrite for VirtualStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = match &mut this.carrier {
            Carrier::Quic { send, .. } => match ready!(Pin::new(&mut *send).poll_write(cx, buf)) {
                Ok(written) => written,
                Err(error) => return Poll::Ready(write_error(&this.facts, error, buf.len())),
            },
            Carrier::Tcp(over) => ready!(over.poll_write(cx, buf))?,
            Carrier::Gone => return Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        };
        this.facts.wrote();
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if let Carrier::Tcp(over) = &mut this.carrier {
            let written = ready!(over.poll_write_vectored(cx, bufs))?;
            this.facts.wrote();
            return Poll::Ready(Ok(written));
        }
        let first = bufs.iter().find(|buf| !buf.is_empty()).map_or(&[][..], |buf| buf);
        Pin::new(this).poll_write(cx, first)
    }

    fn is_write_vectored(&self) -> bool {
        match &self.carrier {
            Carrier::Tcp(over) => over.is_write_vectored(),
            Carrier::Quic { .. } | Carrier::Gone => false,
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().carrier {
            Carrier::Tcp(over) => over.poll_flush(cx),
            Carrier::Quic { .. } | Carrier::Gone => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        match &mut this.carrier {
            Carrier::Quic { send, .. } => {
                // Already finished or stopped: ended either way.
                let _ = send.finish();
            }
            Carrier::Tcp(over) => ready!(over.poll_shutdown(cx))?,
            Carrier::Gone => {}
        }
        this.shut = true;
        Poll::Ready(Ok(()))
    }
}

/// A peer that has heard enough (an early response, an end between two requests) takes no more: what is still written goes
/// nowhere, and what it said, or its refusal, can be read. The stream serves no further request.
fn write_error(facts: &Facts, error: quinn::WriteError, length: usize) -> io::Result<usize> {
    match error {
        quinn::WriteError::Stopped(code) => {
            facts.broken.store(true, Relaxed);
            let code = Code::from_number(code.into_inner());
            let is_mild = code == Code::Done || code == Code::Refused;
            if is_mild { Ok(length) } else { Err(Reset { by: "peer", code }.into()) }
        }
        quinn::WriteError::ConnectionLost(error) => Err(lost(facts, error)),
        other @ (quinn::WriteError::ClosedStream | quinn::WriteError::ZeroRttRejected) => Err(io::Error::other(other)),
    }
}
