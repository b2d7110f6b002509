//! A message on its way out: its head, and its body in the framing that the head announces.

use super::head::{Bad, write_decimal, write_headers};
use bytes::{Buf as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderName};
use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};
use tokio::io::{AsyncRead, AsyncWrite};

/// Shorter data is copied behind the head, so that one write takes both.
const COPIED: usize = 4 * 1024;

/// What is said of a body that goes out.
#[derive(Debug)]
pub(super) enum Encoder {
    /// So many bytes are still to come.
    Length(u64),
    /// With the trailers that were announced.
    Chunked(Vec<HeaderName>),
    /// To the end of the connection.
    UntilEnd,
}

/// Bytes that wait to be written.
#[derive(Debug, Default)]
pub(super) struct Out {
    buffer: BytesMut,
    /// Long data behind the buffer, and what follows it.
    data: Bytes,
    tail: &'static [u8],
}

impl Out {
    pub(super) fn is_empty(&self) -> bool {
        self.buffer.is_empty() && self.data.is_empty() && self.tail.is_empty()
    }

    /// True if further data can be added: only one long piece waits at a time.
    pub(super) fn has_room(&self) -> bool {
        self.data.is_empty() && self.tail.is_empty() && self.buffer.len() < COPIED
    }

    /// Where heads are written; only while there is room.
    pub(super) fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// Adds data; only while there is room.
    fn push(&mut self, data: Bytes, tail: &'static [u8]) {
        if data.len() <= COPIED {
            self.buffer.extend_from_slice(&data);
            self.buffer.extend_from_slice(tail);
        } else {
            self.data = data;
            self.tail = tail;
        }
    }

    /// Writes all of it, and flushes what holds bytes back.
    pub(super) fn poll_write<I: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        io: &mut I,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while !self.is_empty() {
            let written = if self.data.is_empty() && self.tail.is_empty() {
                ready!(Pin::new(&mut *io).poll_write(cx, &self.buffer))?
            } else {
                let slices = [&self.buffer[..], &self.data[..], self.tail].map(io::IoSlice::new);
                let first = slices.iter().position(|slice| !slice.is_empty()).unwrap_or(0);
                ready!(Pin::new(&mut *io).poll_write_vectored(cx, &slices[first..]))?
            };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.advance(written);
        }
        Pin::new(io).poll_flush(cx)
    }

    fn advance(&mut self, written: usize) {
        let of_buffer = written.min(self.buffer.len());
        self.buffer.advance(of_buffer);
        let of_data = (written - of_buffer).min(self.data.len());
        self.data.advance(of_data);
        self.tail = &self.tail[written - of_buffer - of_data..];
    }
}

impl Encoder {
    /// Adds data of the body.
    ///
    /// # Errors
    /// It is longer than was announced.
    pub(super) fn data(&mut self, out: &mut Out, data: Bytes) -> Result<(), Bad> {
        match self {
            Self::Length(left) => {
                *left = left.checked_sub(data.len() as u64).ok_or("a body is longer than its Content-Length")?;
                out.push(data, b"");
            }
            Self::Chunked(_) if data.is_empty() => {}
            Self::Chunked(_) => {
                write_hexadecimal(&mut out.buffer, data.len());
                out.buffer.extend_from_slice(b"\r\n");
                out.push(data, b"\r\n");
            }
            Self::UntilEnd => out.push(data, b""),
        }
        Ok(())
    }

    /// Adds what ends the body; of the trailers, those that were announced.
    ///
    /// # Errors
    /// It is shorter than was announced.
    pub(super) fn end(&mut self, out: &mut Out, trailers: Option<&HeaderMap>) -> Result<(), Bad> {
        match self {
            Self::Length(0) | Self::UntilEnd => Ok(()),
            Self::Length(_) => Err("a body is shorter than its Content-Length"),
            Self::Chunked(announced) => {
                out.buffer.extend_from_slice(b"0\r\n");
                if let Some(trailers) = trailers {
                    let lines = trailers.iter().filter(|(name, _)| announced.contains(name));
                    write_headers(&mut out.buffer, lines);
                }
                out.buffer.extend_from_slice(b"\r\n");
                Ok(())
            }
        }
    }

    /// True if nothing is needed to end the body.
    pub(super) const fn is_full(&self) -> bool {
        matches!(self, Self::Length(0))
    }
}

/// Writes `content-length`.
pub(super) fn write_length(out: &mut BytesMut, length: u64) {
    out.extend_from_slice(b"content-length: ");
    write_decimal(out, length);
    out.extend_from_slice(b"\r\n");
}

fn write_hexadecimal(out: &mut BytesMut, number: usize) {
    let digits = (usize::BITS - number.leading_zeros()).div_ceil(4).max(1);
    for digit in (0..digits).rev() {
        out.extend_from_slice(&[b"0123456789abcdef"[number >> (4 * digit) & 0xf]]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    /// What is written of a body by a writer that takes so many bytes at once.
    fn written(encoder: &mut Encoder, pieces: &[Bytes], trailers: Option<&HeaderMap>, step: usize) -> Vec<u8> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (mut near, mut far) = tokio::io::duplex(step);
            let reading = async {
                let mut read = Vec::new();
                tokio::io::AsyncReadExt::read_to_end(&mut far, &mut read).await.unwrap();
                read
            };
            let writing = async move {
                let mut out = Out::default();
                for piece in pieces {
                    encoder.data(&mut out, piece.clone()).unwrap();
                    while !out.has_room() {
                        std::future::poll_fn(|cx| out.poll_write(&mut near, cx)).await.unwrap();
                    }
                }
                encoder.end(&mut out, trailers).unwrap();
                std::future::poll_fn(|cx| out.poll_write(&mut near, cx)).await.unwrap();
            };
            tokio::join!(reading, writing).0
        })
    }

    #[test]
    fn short_and_long_pieces_go_out_in_order() {
        let pieces =
            [Bytes::from_static(b"ab"), Bytes::from(vec![b'x'; 10_000]), Bytes::new(), Bytes::from_static(b"c")];
        let xs = "x".repeat(10_000);
        for step in [1, 7, 4_096, 1 << 20] {
            let plain = written(&mut Encoder::Length(10_003), &pieces, None, step);
            assert_eq!(plain, format!("ab{xs}c").into_bytes());
            let chunked = written(&mut Encoder::Chunked(Vec::new()), &pieces, None, step);
            assert_eq!(chunked, format!("2\r\nab\r\n2710\r\n{xs}\r\n1\r\nc\r\n0\r\n\r\n").into_bytes());
        }
    }

    #[test]
    fn announced_trailers_go_out_and_others_do_not() {
        let trailers = HeaderMap::from_iter(
            ["x-sum", "x-other"].map(|name| (HeaderName::from_static(name), HeaderValue::from_static("1"))),
        );
        let mut encoder = Encoder::Chunked(vec![HeaderName::from_static("x-sum")]);
        assert_eq!(written(&mut encoder, &[], Some(&trailers), 99), b"0\r\nx-sum: 1\r\n\r\n");
    }

    #[test]
    fn a_body_is_as_long_as_was_announced() {
        let mut out = Out::default();
        assert!(Encoder::Length(2).data(&mut out, Bytes::from_static(b"abc")).is_err());
        assert!(Encoder::Length(2).end(&mut out, None).is_err());
    }
}
