//! A TCP connection whose bytes are read ahead of TLS while many come.
//!
//! rustls asks for 4 KiB after each pause and never for more than one record, so each record costs a system call or several. Once it got all
//! that it asked for, there is more: then 64 KiB are read at once. A connection that has nothing to say holds no buffer, and one whose
//! messages are short never gets any.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::TlsStream;

use crate::spare;

/// TLS between nodes.
pub(super) type Tls = TlsStream<Ahead<TcpStream>>;

/// So many bytes have a buffer of their own length.
const LITTLE: usize = 8 << 10;

/// A connection and what was read of it ahead.
#[derive(Debug)]
pub(super) struct Ahead<S> {
    stream: S,
    /// `start` to `end` of it was read and not handed out yet. Empty while there is nothing.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// The last read brought all that it had room for.
    goes_on: bool,
}

impl<S> Ahead<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream, buffer: Vec::new(), start: 0, end: 0, goes_on: false }
    }
}

impl Ahead<TcpStream> {
    /// This end's address.
    pub(super) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.stream.local_addr()
    }
}

impl<S: AsyncRead + Unpin> Ahead<S> {
    /// Reads for the caller alone.
    fn poll_direct(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let room = buf.remaining();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        self.goes_on = room > 0 && buf.remaining() == 0;
        Poll::Ready(Ok(()))
    }

    /// Reads into the buffer, which is kept only if something came.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut buffer = spare::take(spare::LENGTH);
        let mut into = ReadBuf::new(&mut buffer);
        let came = Pin::new(&mut self.stream).poll_read(cx, &mut into);
        (self.start, self.end) = (0, into.filled().len());
        self.goes_on = self.end == spare::LENGTH;
        self.keep(buffer);
        came
    }

    /// Keeps the buffer while there is something in it, and no long one for little: whoever reads may be long behind.
    fn keep(&mut self, buffer: Vec<u8>) {
        let left = self.end - self.start;
        if left > LITTLE || left == buffer.len() {
            self.buffer = buffer;
            return;
        }
        self.buffer = buffer[self.start..self.end].to_vec();
        (self.start, self.end) = (0, left);
        spare::give(buffer);
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Ahead<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let ahead = self.get_mut();
        if ahead.start == ahead.end {
            if !ahead.goes_on || buf.remaining() >= spare::LENGTH {
                return ahead.poll_direct(cx, buf);
            }
            ready!(ahead.poll_fill(cx))?;
        }
        let length = buf.remaining().min(ahead.end - ahead.start);
        buf.put_slice(&ahead.buffer[ahead.start..ahead.start + length]);
        ahead.start += length;
        let buffer = std::mem::take(&mut ahead.buffer);
        ahead.keep(buffer);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Ahead<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;

    /// What a client of this module asks for, bytes.
    const ASKED: usize = 4 << 10;

    /// Has so many bytes, then nothing yet, or the end; notes for how many it is asked.
    struct Source {
        left: usize,
        is_over: bool,
        asked: Vec<usize>,
    }

    impl AsyncRead for Source {
        fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            self.asked.push(buf.remaining());
            if self.left == 0 && !self.is_over {
                return Poll::Pending;
            }
            let length = buf.remaining().min(self.left);
            let from = self.left;
            buf.put_slice(&(0..length).map(|at| byte(from - at)).collect::<Vec<u8>>());
            self.left -= length;
            Poll::Ready(Ok(()))
        }
    }

    fn byte(from_the_end: usize) -> u8 {
        u8::try_from(from_the_end % 251).unwrap()
    }

    fn ahead(left: usize) -> Ahead<Source> {
        Ahead::new(Source { left, is_over: false, asked: Vec::new() })
    }

    /// Reads until nothing is there or all has come; what came.
    async fn drained(ahead: &mut Ahead<Source>) -> Vec<u8> {
        let (mut all, mut buffer) = (Vec::new(), [0; ASKED]);
        loop {
            let mut buf = ReadBuf::new(&mut buffer);
            let came = poll_fn(|cx| Poll::Ready(Pin::new(&mut *ahead).poll_read(cx, &mut buf))).await;
            if came.is_pending() || buf.filled().is_empty() {
                return all;
            }
            all.extend_from_slice(buf.filled());
        }
    }

    #[tokio::test]
    async fn a_burst_is_read_at_once_and_leaves_no_buffer() {
        const BURST: usize = 66_000;
        let mut ahead = ahead(BURST);
        let read = drained(&mut ahead).await;
        assert!(read == (0..BURST).map(|at| byte(BURST - at)).collect::<Vec<u8>>());
        assert_eq!(ahead.stream.asked, [ASKED, spare::LENGTH, ASKED], "the last one finds nothing");
        assert_eq!(ahead.buffer.capacity(), 0);
        ahead.stream.left = 100;
        ahead.stream.is_over = true;
        assert_eq!(drained(&mut ahead).await.len(), 100);
        assert_eq!(ahead.stream.asked[3..], [ASKED, ASKED], "and the end is seen");
    }

    #[tokio::test]
    async fn what_comes_without_end_is_read_in_long_pieces() {
        let mut ahead = ahead(ASKED + 3 * spare::LENGTH);
        assert_eq!(drained(&mut ahead).await.len(), ASKED + 3 * spare::LENGTH);
        assert_eq!(ahead.stream.asked, [ASKED, spare::LENGTH, spare::LENGTH, spare::LENGTH, spare::LENGTH]);
        assert_eq!((ahead.goes_on, ahead.buffer.capacity()), (false, 0));
    }

    #[tokio::test]
    async fn short_messages_get_no_buffer() {
        let mut ahead = ahead(0);
        for _ in 0..3 {
            ahead.stream.left = ASKED - 1;
            assert_eq!(drained(&mut ahead).await.len(), ASKED - 1);
        }
        assert!(ahead.stream.asked.iter().all(|&asked| asked == ASKED));
    }
}
