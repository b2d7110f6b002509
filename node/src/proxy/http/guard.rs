//! The bytes of an HTTP/1 connection on their way to hyper: framing is checked, heads have a time limit, idle
//! connections end, and what follows an upgrade request waits for its answer.

use super::{
    Bounds,
    frame_guard::poll_idle,
    strict::{Scan, Scanner, Violation},
};
use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, Waker, ready},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

/// No HTTP/1 parser takes these bytes, in a head, a chunk size or trailers: hyper answers 400 and closes.
const POISON: &[u8] = b"\0\n\0\r\n\r\n";

/// How the request that asked for an upgrade was answered.
#[derive(Debug, Default)]
struct Answer {
    /// `Some(true)`: with 101.
    upgraded: Option<bool>,
    waker: Option<Waker>,
}

/// By this the service tells the guard of its connection how an upgrade request was answered.
#[derive(Debug, Clone, Default)]
pub(in crate::proxy) struct UpgradeAnswer(Arc<Mutex<Answer>>);

impl UpgradeAnswer {
    /// To be called once for each request with an `Upgrade` header: true if the answer is 101.
    pub(in crate::proxy) fn set(&self, upgraded: bool) {
        let mut answer = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        answer.upgraded = Some(upgraded);
        if let Some(waker) = answer.waker.take() {
            waker.wake();
        }
    }

    fn poll_take(&self, context: &Context<'_>) -> Poll<bool> {
        let mut answer = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match answer.upgraded.take() {
            Some(upgraded) => Poll::Ready(upgraded),
            None => {
                answer.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

/// A connection whose HTTP/1 framing is checked before hyper reads it.
pub(in crate::proxy) struct Guard<I> {
    io: I,
    scanner: Scanner,
    /// Bytes behind an upgrade request, read but not yet scanned.
    unscanned: Vec<u8>,
    /// What hyper is given instead of what was refused.
    poison: Option<VecDeque<u8>>,
    answer: UpgradeAnswer,
    bounds: Bounds,
    /// Until when the head that has begun must end, and which one it is.
    head: Option<(u64, Pin<Box<Sleep>>)>,
    idle: Pin<Box<Sleep>>,
    active: bool,
}

impl<I> Guard<I> {
    /// Guards a connection on which nothing was read yet.
    pub(in crate::proxy) fn new(io: I, answer: UpgradeAnswer, bounds: Bounds) -> Self {
        Self {
            io,
            scanner: Scanner::new(bounds.head),
            unscanned: Vec::new(),
            poison: None,
            answer,
            head: None,
            idle: Box::pin(sleep(bounds.idle)),
            active: true,
            bounds,
        }
    }

    /// Scans what was added to `buffer` since `before` and takes back what must not go on.
    fn scan(&mut self, buffer: &mut ReadBuf<'_>, before: usize) {
        match self.scanner.scan(&buffer.filled()[before..]) {
            Scan::All => {}
            Scan::Hold(passed) => {
                let mut held = buffer.filled()[before + passed..].to_vec();
                held.append(&mut self.unscanned);
                self.unscanned = held;
                buffer.set_filled(before + passed);
            }
            Scan::Refuse(passed, violation) => {
                buffer.set_filled(before + passed);
                self.refuse(violation);
                self.give_poison(buffer);
            }
        }
        self.head = match (self.scanner.in_head(), self.head.take()) {
            (None, _) => None,
            (Some(one), Some((same, timer))) if one == same => Some((one, timer)),
            (Some(one), _) => Some((one, Box::pin(sleep(self.bounds.head_time)))),
        };
    }

    fn refuse(&mut self, violation: Violation) {
        tracing::debug!(?violation, "refused an HTTP/1 request");
        self.poison = Some(match violation {
            Violation::Malformed(_) => POISON.iter().copied().collect(),
            Violation::HeadTooLarge(begin) => {
                let mut bytes = begin.to_vec();
                // One more than hyper takes: it answers 431 and closes.
                for _ in 0..=self.bounds.lines {
                    bytes.extend_from_slice(b"x:y\r\n");
                }
                bytes.extend_from_slice(b"\r\n");
                bytes.into()
            }
        });
    }

    /// True if the connection was refused: then nothing else is read from it.
    fn give_poison(&mut self, buffer: &mut ReadBuf<'_>) -> bool {
        let Some(poison) = &mut self.poison else { return false };
        let length = poison.len().min(buffer.remaining());
        for byte in poison.drain(..length) {
            buffer.put_slice(&[byte]);
        }
        true
    }

    fn poll_timers(&mut self, context: &mut Context<'_>) -> Poll<io::Error> {
        if let Some((_, head)) = &mut self.head
            && head.as_mut().poll(context).is_ready()
        {
            return Poll::Ready(io::Error::new(io::ErrorKind::TimedOut, "head takes too long"));
        }
        poll_idle(&mut self.idle, &mut self.active, self.bounds.idle, context)
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Guard<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.give_poison(buffer) {
            return Poll::Ready(Ok(()));
        }
        if this.scanner.is_held() {
            let upgraded = ready!(this.answer.poll_take(context));
            this.scanner.release(upgraded);
        }
        let before = buffer.filled().len();
        if this.unscanned.is_empty() {
            if Pin::new(&mut this.io).poll_read(context, buffer)?.is_pending() {
                return this.poll_timers(context).map(Err);
            }
            this.active = true;
        } else {
            let length = this.unscanned.len().min(buffer.remaining());
            buffer.put_slice(&this.unscanned[..length]);
            this.unscanned.drain(..length);
        }
        this.scan(buffer, before);
        Poll::Ready(Ok(()))
    }
}

impl<I: AsyncWrite + Unpin> Guard<I> {
    /// What was written counts as life; what cannot be written for too long ends the connection.
    fn wrote(&mut self, context: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if written.is_pending() {
            return poll_idle(&mut self.idle, &mut self.active, self.bounds.idle, context).map(Err);
        }
        self.active = true;
        written
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Guard<I> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(context, bytes);
        self.wrote(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(context, slices);
        self.wrote(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}
