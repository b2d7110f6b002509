//! Chunks of a tunnel over TLS/TCP: they end a direction without ending the connection, which then serves the next tunnel.
//!
//! A chunk is its length (`u32`, big endian) and that many bytes; length 0 ends the direction.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Longest chunk that is read, bytes.
const MAX_CHUNK: usize = 64 << 10;
const HEADER: usize = 4;

/// Bytes of the longest chunk that is written: with its header it fills whole TLS records, which hold 16 KiB (RFC 8446, 5.1), where four
/// more bytes would take a record of their own.
pub(crate) const FULL_CHUNK: usize = MAX_CHUNK - HEADER;

/// Both directions of one tunnel.
#[derive(Debug, Default)]
pub(super) struct Chunks {
    reader: Reader,
    writer: Writer,
}

#[derive(Debug, Default)]
struct Reader {
    header: [u8; HEADER],
    /// Bytes of the header that are there.
    have: usize,
    /// Bytes of the chunk that are still to come.
    left: usize,
    ended: bool,
    /// What broke off after bytes that the caller got first.
    failed: Option<io::Error>,
}

#[derive(Debug, Default)]
struct Writer {
    /// What was taken from the caller and the connection did not take yet, from `done` on.
    pending: Vec<u8>,
    done: usize,
    ending: bool,
    ended: bool,
}

impl Chunks {
    /// True once both directions have ended: nothing of this tunnel is on the connection any more.
    pub(super) fn is_over(&self) -> bool {
        self.reader.ended && self.writer.ended
    }

    /// Reads what is there, not only the rest of one chunk: each read becomes a write of the caller's, and a burst of short chunks is many.
    pub(super) fn poll_read(
        &mut self,
        io: &mut (impl AsyncRead + Unpin),
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        if let Some(error) = self.reader.failed.take() {
            return Poll::Ready(Err(error));
        }
        while buf.remaining() > 0 && !self.reader.ended {
            let came = self.reader.poll_piece(io, cx, buf);
            let is_first = buf.filled().len() == before;
            match came {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) if is_first => return Poll::Ready(Err(error)),
                Poll::Ready(Err(error)) => {
                    self.reader.failed = Some(error);
                    break;
                }
                Poll::Pending if is_first => return Poll::Pending,
                Poll::Pending => break,
            }
        }
        Poll::Ready(Ok(()))
    }

    pub(super) fn poll_write(
        &mut self,
        io: &mut (impl AsyncWrite + Unpin),
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.writer.poll_drain(io, cx))?;
        if self.writer.ending {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let chunk = &buf[..buf.len().min(FULL_CHUNK)];
        if chunk.is_empty() {
            return Poll::Ready(Ok(0));
        }
        // Nothing is encrypted while an earlier chunk waits for the network: what is goes out at once, and whole.
        ready!(Pin::new(&mut *io).poll_flush(cx))?;
        let length = u32::try_from(chunk.len()).map_err(io::Error::other)?.to_be_bytes();
        let both = [io::IoSlice::new(&length), io::IoSlice::new(chunk)];
        let taken = ready!(Pin::new(io).poll_write_vectored(cx, &both))?;
        // Once the length is out, so must be the chunk.
        self.writer.pending.extend_from_slice(length.get(taken..).unwrap_or_default());
        self.writer.pending.extend_from_slice(&chunk[taken.saturating_sub(HEADER)..]);
        Poll::Ready(Ok(chunk.len()))
    }

    pub(super) fn poll_flush(
        &mut self,
        io: &mut (impl AsyncWrite + Unpin),
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.writer.poll_drain(io, cx))?;
        Pin::new(io).poll_flush(cx)
    }

    /// Ends our direction.
    pub(super) fn poll_end(
        &mut self,
        io: &mut (impl AsyncWrite + Unpin),
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.writer.poll_drain(io, cx))?;
        if !self.writer.ending {
            self.writer.ending = true;
            self.writer.pending.extend_from_slice(&[0; HEADER]);
        }
        ready!(self.writer.poll_drain(io, cx))?;
        ready!(Pin::new(io).poll_flush(cx))?;
        self.writer.ended = true;
        Poll::Ready(Ok(()))
    }
}

impl Reader {
    /// Reads once, with the header if one is next; nothing only at the end of the direction.
    fn poll_piece(
        &mut self,
        io: &mut (impl AsyncRead + Unpin),
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.left == 0 {
            if self.ended {
                return Poll::Ready(Ok(()));
            }
            let mut header = ReadBuf::new(&mut self.header[self.have..]);
            ready!(Pin::new(&mut *io).poll_read(cx, &mut header))?;
            match header.filled().len() {
                0 => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                more => self.have += more,
            }
            if self.have == HEADER {
                self.have = 0;
                self.left = usize::try_from(u32::from_be_bytes(self.header)).unwrap_or(usize::MAX);
                self.ended = self.left == 0;
                if self.left > MAX_CHUNK {
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "a chunk beyond 64 KiB")));
                }
            }
        }
        let room = buf.remaining().min(self.left);
        let mut chunk = ReadBuf::new(buf.initialize_unfilled_to(room));
        ready!(Pin::new(io).poll_read(cx, &mut chunk))?;
        let length = chunk.filled().len();
        if length == 0 {
            return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
        }
        buf.advance(length);
        self.left -= length;
        Poll::Ready(Ok(()))
    }
}

impl Writer {
    fn poll_drain(&mut self, io: &mut (impl AsyncWrite + Unpin), cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.done < self.pending.len() {
            match ready!(Pin::new(&mut *io).poll_write(cx, &self.pending[self.done..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                taken => self.done += taken,
            }
        }
        self.pending.clear();
        self.done = 0;
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::future::poll_fn;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    /// Plaintext of the longest TLS record, bytes.
    const RECORD: usize = 16 << 10;

    async fn write_all(chunks: &mut Chunks, io: &mut (impl AsyncWrite + Unpin), mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let taken = poll_fn(|cx| chunks.poll_write(io, cx, bytes)).await.unwrap();
            bytes = &bytes[taken..];
        }
        poll_fn(|cx| chunks.poll_end(io, cx)).await.unwrap();
    }

    async fn read_all(chunks: &mut Chunks, io: &mut (impl AsyncRead + Unpin), step: usize) -> io::Result<Vec<u8>> {
        let (mut read, mut buffer) = (Vec::new(), vec![0; step]);
        loop {
            let mut buf = ReadBuf::new(&mut buffer);
            poll_fn(|cx| chunks.poll_read(io, cx, &mut buf)).await?;
            if buf.filled().is_empty() {
                return Ok(read);
            }
            read.extend_from_slice(buf.filled());
        }
    }

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    proptest! {
        #[test]
        fn what_goes_in_comes_out_and_what_follows_stays(
            (length, seed) in (0usize..150_000, any::<u8>()),
            pipe in 500usize..50_000,
            step in 500usize..100_000,
        ) {
            let bytes: Vec<u8> = (0..length).map(|at| seed.wrapping_add(u8::try_from(at % 251).unwrap())).collect();
            block_on(async {
                let (mut near, mut far) = tokio::io::duplex(pipe);
                let (mut writer, mut reader) = (Chunks::default(), Chunks::default());
                let writing = async {
                    write_all(&mut writer, &mut near, &bytes).await;
                    near.write_all(b"next").await.unwrap();
                };
                let reading = async {
                    let read = read_all(&mut reader, &mut far, step).await.unwrap();
                    let mut next = [0; 4];
                    far.read_exact(&mut next).await.unwrap();
                    (read, next)
                };
                let ((), (read, next)) = tokio::join!(writing, reading);
                assert!(read == bytes && &next == b"next");
            });
        }

        #[test]
        fn hostile_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = block_on(read_all(&mut Chunks::default(), &mut &bytes[..], 16));
        }
    }

    /// Gives at most one piece a read, then breaks off.
    struct Records(std::collections::VecDeque<Vec<u8>>);

    impl AsyncRead for Records {
        fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            let Some(record) = self.0.front_mut() else {
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            };
            let length = buf.remaining().min(record.len());
            buf.put_slice(&record.drain(..length).collect::<Vec<u8>>());
            if record.is_empty() {
                self.0.pop_front();
            }
            Poll::Ready(Ok(()))
        }
    }

    /// Keeps what each write brought; while it `is_full`, nothing of it can be sent.
    #[derive(Default)]
    struct Written {
        sizes: Vec<usize>,
        is_full: bool,
    }

    impl AsyncWrite for Written {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            self.sizes.push(buf.len());
            Poll::Ready(Ok(buf.len()))
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bufs: &[io::IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            let length = bufs.iter().map(|buf| buf.len()).sum();
            self.sizes.push(length);
            Poll::Ready(Ok(length))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            if self.is_full { Poll::Pending } else { Poll::Ready(Ok(())) }
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn records_that_are_there_are_one_read_and_what_breaks_off_behind_them_is_told_next() {
        let mut first = vec![7; RECORD];
        first[..HEADER].copy_from_slice(&u32::try_from(FULL_CHUNK).unwrap().to_be_bytes());
        let mut records = Records([first, vec![7; RECORD], vec![7; RECORD], vec![7; RECORD]].into());
        records.0.push_back(vec![0, 0, 0, 9, 8, 8]);
        let (mut chunks, mut buffer) = (Chunks::default(), vec![0; 2 * MAX_CHUNK]);
        let mut buf = ReadBuf::new(&mut buffer);
        poll_fn(|cx| chunks.poll_read(&mut records, cx, &mut buf)).await.unwrap();
        assert_eq!(buf.filled().len(), FULL_CHUNK + 2);
        assert!(buf.filled()[..FULL_CHUNK].iter().all(|&byte| byte == 7) && buf.filled()[FULL_CHUNK..] == [8, 8]);
        let error = poll_fn(|cx| chunks.poll_read(&mut records, cx, &mut buf)).await.unwrap_err();
        assert_eq!((error.kind(), buf.filled().len()), (io::ErrorKind::ConnectionReset, FULL_CHUNK + 2));
    }

    #[tokio::test]
    async fn what_is_there_is_not_kept_back_for_what_is_not() {
        let (mut near, mut far) = tokio::io::duplex(64);
        let (mut chunks, mut buffer) = (Chunks::default(), [0; 16]);
        near.write_all(&[0, 0, 0, 9, 1, 2, 3]).await.unwrap();
        let mut buf = ReadBuf::new(&mut buffer);
        poll_fn(|cx| chunks.poll_read(&mut far, cx, &mut buf)).await.unwrap();
        assert_eq!(buf.filled(), [1, 2, 3]);
        near.write_all(&[4, 5, 6, 7, 8, 9, 0, 0, 0, 0]).await.unwrap();
        poll_fn(|cx| chunks.poll_read(&mut far, cx, &mut buf)).await.unwrap();
        assert_eq!(buf.filled(), [1, 2, 3, 4, 5, 6, 7, 8, 9]);
        poll_fn(|cx| chunks.poll_read(&mut far, cx, &mut buf)).await.unwrap();
        assert_eq!(buf.filled().len(), 9, "the end is told by itself");
    }

    #[tokio::test]
    async fn the_longest_chunk_and_its_header_are_whole_records() {
        let (mut chunks, mut written) = (Chunks::default(), Written::default());
        for long in [&[7; FULL_CHUNK][..], &[7; 2 * MAX_CHUNK]] {
            let taken = poll_fn(|cx| chunks.poll_write(&mut written, cx, long)).await.unwrap();
            assert_eq!(taken, FULL_CHUNK);
        }
        assert_eq!(written.sizes, [4 * RECORD; 2]);
    }

    #[tokio::test]
    async fn a_chunk_waits_until_the_one_before_it_is_sent() {
        let (mut chunks, mut written) = (Chunks::default(), Written::default());
        let mut writes = async |written: &mut Written| {
            poll_fn(|cx| Poll::Ready(chunks.poll_write(written, cx, b"chunk"))).await.is_ready()
        };
        assert!(writes(&mut written).await);
        written.is_full = true;
        assert!(!writes(&mut written).await);
        written.is_full = false;
        assert!(writes(&mut written).await);
        assert_eq!(written.sizes, [HEADER + 5; 2]);
    }

    #[tokio::test]
    async fn a_connection_that_ends_within_a_tunnel_is_an_error() {
        for cut in [&[][..], &[0, 0], &[0, 0, 0, 5, 1, 2]] {
            let error = read_all(&mut Chunks::default(), &mut &cut[..], 16).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        }
    }

    #[tokio::test]
    async fn it_is_over_when_both_directions_are() {
        let (mut near, mut far) = tokio::io::duplex(64);
        let mut chunks = Chunks::default();
        poll_fn(|cx| chunks.poll_end(&mut near, cx)).await.unwrap();
        assert!(!chunks.is_over());
        far.write_all(&[0; HEADER]).await.unwrap();
        assert_eq!(read_all(&mut chunks, &mut near, 16).await.unwrap(), b"");
        assert!(chunks.is_over());
    }
}
