//! The bytes of an HTTP/2 connection on their way to hyper: floods end it, blocks of headers have a time limit, and so has silence.

use super::{
    Bounds,
    frames::{Frames, poison},
};
use crate::clock;
use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

/// A connection whose frames are counted before hyper reads them.
pub(in crate::proxy) struct FrameGuard<I> {
    io: I,
    frames: Frames,
    bounds: Bounds,
    /// What hyper is given instead of what was refused.
    poison: Option<VecDeque<u8>>,
    /// Until when what has begun must end, and which one it is.
    head: Option<(u64, Pin<Box<Sleep>>)>,
    idle: Pin<Box<Sleep>>,
    active: bool,
}

impl<I> FrameGuard<I> {
    /// Guards a connection on which nothing was read yet.
    pub(in crate::proxy) fn new(io: I, bounds: Bounds) -> Self {
        Self {
            io,
            frames: Frames::new(bounds.resets, clock::monotonic()),
            poison: None,
            // The preface and the first frame come at once.
            head: Some((0, Box::pin(sleep(bounds.head_time)))),
            idle: Box::pin(sleep(bounds.idle)),
            active: true,
            bounds,
        }
    }

    fn scan(&mut self, buffer: &mut ReadBuf<'_>, before: usize) {
        if let Err((passed, why)) = self.frames.scan(&buffer.filled()[before..], clock::monotonic()) {
            tracing::debug!(why, "ended an HTTP/2 connection");
            buffer.set_filled(before + passed);
            self.poison = Some(poison(self.bounds.head).into());
            self.give_poison(buffer);
        }
        self.head = match (self.frames.in_head(), self.head.take()) {
            (None, _) => None,
            (Some(one), Some((same, timer))) if one == same => Some((one, timer)),
            (Some(one), _) => Some((one, Box::pin(sleep(self.bounds.head_time)))),
        };
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

/// Ready when nothing moved for so long, twice that at most.
pub(super) fn poll_idle(
    idle: &mut Pin<Box<Sleep>>,
    active: &mut bool,
    time: Duration,
    context: &mut Context<'_>,
) -> Poll<io::Error> {
    while idle.as_mut().poll(context).is_ready() {
        if !std::mem::take(active) {
            return Poll::Ready(io::Error::new(io::ErrorKind::TimedOut, "idle"));
        }
        idle.set(sleep(time));
    }
    Poll::Pending
}

impl<I: AsyncRead + Unpin> AsyncRead for FrameGuard<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.give_poison(buffer) {
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        if Pin::new(&mut this.io).poll_read(context, buffer)?.is_pending() {
            return this.poll_timers(context).map(Err);
        }
        this.active = true;
        this.scan(buffer, before);
        Poll::Ready(Ok(()))
    }
}

impl<I: AsyncWrite + Unpin> FrameGuard<I> {
    /// What was written counts as life; what cannot be written for too long ends the connection.
    fn wrote(&mut self, context: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match written {
            Poll::Ready(Ok(length)) => {
                self.active = true;
                self.frames.wrote(length);
                Poll::Ready(Ok(length))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => poll_idle(&mut self.idle, &mut self.active, self.bounds.idle, context).map(Err),
        }
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for FrameGuard<I> {
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
