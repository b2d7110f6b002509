//! The one thing of gRPC clients over Unix sockets that our HTTP/2 does not take: gRPC's C core (Python, C++, Ruby) calls the server by
//! the socket's path, `:authority: run%2Fskein%2Fworkload.sock`, and `%` may not stand in an authority (RFC 3986, section 3.2). Nothing
//! here depends on the authority, so each such `%` is replaced on its way in, byte for byte: HPACK's lengths and tables stay as they are.

use std::{
    io,
    ops::Range,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// `PRI * HTTP/2.0` and so on.
const PREFACE: usize = 24;
/// Bytes of a frame's header.
const HEADER: usize = 9;
/// A longer header block is passed on as it is.
const LONGEST_BLOCK: usize = 8 << 10;
/// Bytes read at a time.
const CHUNK: usize = 8 << 10;

const HEADERS: u8 = 1;
const END_HEADERS: u8 = 0x04;
const PADDED: u8 = 0x08;
const PRIORITY: u8 = 0x20;

/// A client's connection with authorities that are authorities.
pub(super) struct Authorities<S> {
    io: S,
    rewriter: Rewriter,
    /// What is ready to be read, and how much of it was.
    out: Vec<u8>,
    done: usize,
}

impl<S> Authorities<S> {
    pub(super) fn new(io: S) -> Self {
        Self { io, rewriter: Rewriter { came: Vec::new(), pass: PREFACE }, out: Vec::new(), done: 0 }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Authorities<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.done == this.out.len() {
            let mut chunk = [0; CHUNK];
            let mut chunk = ReadBuf::new(&mut chunk);
            ready!(Pin::new(&mut this.io).poll_read(cx, &mut chunk))?;
            if chunk.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            this.out.clear();
            this.done = 0;
            this.rewriter.take(chunk.filled(), &mut this.out);
        }
        let ready = &this.out[this.done..];
        let count = ready.len().min(buf.remaining());
        buf.put_slice(&ready[..count]);
        this.done += count;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Authorities<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

/// Splits what comes into frames.
struct Rewriter {
    /// The beginning of a frame whose rest is still to come.
    came: Vec<u8>,
    /// Bytes to pass on as they are.
    pass: usize,
}

impl Rewriter {
    /// Takes bytes in, and gives those that are whole out.
    fn take(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        self.came.extend_from_slice(bytes);
        let mut at = 0;
        loop {
            let rest = &mut self.came[at..];
            if self.pass > 0 {
                let count = self.pass.min(rest.len());
                out.extend_from_slice(&rest[..count]);
                self.pass -= count;
                at += count;
                if self.pass > 0 {
                    break;
                }
                continue;
            }
            if rest.len() < HEADER {
                break;
            }
            let length = usize::from(rest[0]) << 16 | usize::from(rest[1]) << 8 | usize::from(rest[2]);
            let (sort, flags) = (rest[3], rest[4]);
            if sort == HEADERS && flags & END_HEADERS != 0 && length <= LONGEST_BLOCK {
                if rest.len() < HEADER + length {
                    break;
                }
                rewrite(flags, &mut rest[HEADER..HEADER + length]);
            }
            self.pass = HEADER + length;
        }
        self.came.drain(..at);
    }
}

/// Replaces `%` in the authorities of a HEADERS frame. One that cannot be read is left for HTTP/2 to refuse.
fn rewrite(flags: u8, payload: &mut [u8]) {
    let padding = if flags & PADDED != 0 { payload.first().map_or(0, |pad| usize::from(*pad)) } else { 0 };
    let begin = usize::from(flags & PADDED != 0) + if flags & PRIORITY != 0 { 5 } else { 0 };
    let end = payload.len().saturating_sub(padding);
    let Some(block) = payload.get_mut(begin..end) else { return };
    let mut at = 0;
    while let Some((authority, next)) = field(block, at) {
        authority.map(|range| &mut block[range]).into_iter().flatten().filter(|byte| **byte == b'%').for_each(|byte| {
            *byte = b'-';
        });
        at = next;
    }
}

/// The field at `at` (RFC 7541, section 6): where its value is, if it is an authority in the clear, and where the next one begins.
fn field(block: &[u8], at: usize) -> Option<(Option<Range<usize>>, usize)> {
    let first = *block.get(at)?;
    let (bits, named) = match first {
        0x80.. => (7, false),
        0x40.. => (6, true),
        0x20.. => (5, false),
        _ => (4, true),
    };
    let (index, mut at) = integer(block, at, bits)?;
    if !named {
        return Some((None, at));
    }
    // The static table's first name.
    let mut authority = index == 1;
    if index == 0 {
        let (plain, name) = string(block, at)?;
        authority = plain && block[name.clone()] == *b":authority";
        at = name.end;
    }
    let (plain, value) = string(block, at)?;
    let end = value.end;
    Some(((authority && plain).then_some(value), end))
}

/// A string: whether it is without Huffman's code, and where it is.
fn string(block: &[u8], at: usize) -> Option<(bool, Range<usize>)> {
    let plain = block.get(at)? & 0x80 == 0;
    let (length, at) = integer(block, at, 7)?;
    let end = at.checked_add(length).filter(|end| *end <= block.len())?;
    Some((plain, at..end))
}

/// An integer behind a prefix of so many bits, and where what follows begins.
fn integer(block: &[u8], at: usize, bits: u32) -> Option<(usize, usize)> {
    let most = (1 << bits) - 1;
    let mut value = usize::from(*block.get(at)?) & most;
    let mut at = at + 1;
    if value < most {
        return Some((value, at));
    }
    // Three more bytes say more than a block holds.
    for shift in [0, 7, 14] {
        let byte = usize::from(*block.get(at)?);
        at += 1;
        value += (byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some((value, at));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The beginning of what grpc-python 1.85 sends for `unix:/tmp/wl/x.sock`, up to its first request.
    const PYTHON: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x02\x00\x00\x00\x00\
        \x00\x00\x48\x01\x04\x00\x00\x00\x01@\x05:path /SpiffeWorkloadAPI/FetchX509SVID@\n:authority\x11tmp%2Fwl%2Fx.sock\x83\x86\
        \x00\x00\x05\x00\x01\x00\x00\x00\x01\x00%%%%";

    fn through(bytes: &[u8], sizes: &[usize]) -> Vec<u8> {
        let mut rewriter = Rewriter { came: Vec::new(), pass: PREFACE };
        let (mut out, mut rest, mut sizes) = (Vec::new(), bytes, sizes.iter().cycle());
        while !rest.is_empty() {
            let count = sizes.next().copied().unwrap_or(rest.len()).clamp(1, rest.len());
            rewriter.take(&rest[..count], &mut out);
            rest = &rest[count..];
        }
        out.extend_from_slice(&rewriter.came);
        out
    }

    fn text(bytes: &[u8]) -> String {
        String::from_utf8_lossy(bytes).into_owned()
    }

    #[test]
    fn what_python_calls_us_becomes_an_authority_and_nothing_else_changes() {
        let wanted = text(PYTHON).replace("tmp%2Fwl%2Fx.sock", "tmp-2Fwl-2Fx.sock");
        for sizes in [&[][..], &[1], &[7, 3, 40], &[24, 15]] {
            assert_eq!(text(&through(PYTHON, sizes)), wanted, "{sizes:?}");
        }
    }

    #[test]
    fn an_authority_is_known_by_its_place_in_the_table_too() {
        let mut block = *b"\x82\x41\x04a%2f\x0f\x01\x03p%q\x04\x02/%";
        rewrite(END_HEADERS, &mut block);
        assert_eq!(block, *b"\x82\x41\x04a-2f\x0f\x01\x03p%q\x04\x02/%");
        let mut padded = *b"\x02\x80\x00\x00\x00\x01\x01\x01%%%";
        rewrite(END_HEADERS | PADDED | PRIORITY, &mut padded);
        assert_eq!(padded, *b"\x02\x80\x00\x00\x00\x01\x01\x01-%%");
        // Huffman's code is not touched: its bytes are no letters.
        let mut coded = *b"\x41\x82%%";
        rewrite(END_HEADERS, &mut coded);
        assert_eq!(coded, *b"\x41\x82%%");
    }

    proptest! {
        #[test]
        fn only_percents_change_whatever_comes(bytes in prop::collection::vec(any::<u8>(), 0..600), sizes in prop::collection::vec(1usize..80, 1..5)) {
            let out = through(&bytes, &sizes);
            prop_assert_eq!(out.len(), bytes.len());
            for (new, old) in out.iter().zip(&bytes) {
                prop_assert!(new == old || (*old == b'%' && *new == b'-'));
            }
            prop_assert_eq!(out, through(&bytes, &[]));
        }

        #[test]
        fn no_header_block_panics(flags in any::<u8>(), mut block in prop::collection::vec(any::<u8>(), 0..80)) {
            rewrite(flags, &mut block);
        }
    }
}
