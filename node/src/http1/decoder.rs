//! The body of a message out of the bytes of a connection (RFC 9112 6 and 7). Pure.

use super::{
    READ, READ_LONG,
    head::{Bad, header_lines, is_blank},
};
use bytes::{Buf as _, Bytes, BytesMut};
use http::HeaderMap;

/// Longest chunk-size line with extensions, in bytes.
const CHUNK_LINE_LIMIT: usize = 256;
/// Longest trailer section, in bytes.
const TRAILERS_LIMIT: usize = 8 * 1024;

/// Where in a body the next byte belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decoder {
    Length(u64),
    ChunkSize,
    ChunkData(u64),
    ChunkEnd,
    Trailers,
    /// To the end of the connection.
    UntilEnd,
    Done,
}

/// A step through a body.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Decoded {
    Data(Bytes),
    Trailers(HeaderMap),
    /// Further bytes are needed.
    More,
    End,
}

impl Decoder {
    pub(super) const CHUNKED: Self = Self::ChunkSize;

    pub(super) const fn length(length: u64) -> Self {
        if length == 0 { Self::Done } else { Self::Length(length) }
    }

    pub(super) const fn is_done(self) -> bool {
        matches!(self, Self::Done)
    }

    /// Bytes of the body that are still to come, where that is known.
    pub(super) const fn left(self) -> Option<u64> {
        match self {
            Self::Length(left) => Some(left),
            Self::Done => Some(0),
            Self::ChunkSize | Self::ChunkData(_) | Self::ChunkEnd | Self::Trailers | Self::UntilEnd => None,
        }
    }

    /// How many bytes to ask for.
    pub(super) fn wanted(self) -> usize {
        match self {
            Self::Length(left) | Self::ChunkData(left) => {
                usize::try_from(left).unwrap_or(READ_LONG).clamp(READ, READ_LONG)
            }
            Self::UntilEnd => READ_LONG,
            Self::ChunkSize | Self::ChunkEnd | Self::Trailers | Self::Done => READ,
        }
    }

    /// The next step that these bytes allow; what it is made of is taken from them.
    pub(super) fn decode(&mut self, bytes: &mut BytesMut) -> Result<Decoded, Bad> {
        loop {
            match self {
                Self::Done => return Ok(Decoded::End),
                Self::UntilEnd if bytes.is_empty() => return Ok(Decoded::More),
                Self::UntilEnd => return Ok(Decoded::Data(bytes.split().freeze())),
                Self::Length(left) | Self::ChunkData(left) => {
                    let length = usize::try_from(*left).map_or(bytes.len(), |left| left.min(bytes.len()));
                    if length == 0 {
                        return Ok(Decoded::More);
                    }
                    let data = bytes.split_to(length).freeze();
                    let left = *left - length as u64;
                    *self = match (&self, left) {
                        (Self::Length(_), 0) => Self::Done,
                        (Self::Length(_), _) => Self::Length(left),
                        (_, 0) => Self::ChunkEnd,
                        (_, _) => Self::ChunkData(left),
                    };
                    // Who knows that this was the last of it can say so with it.
                    if *self == Self::ChunkEnd && bytes[..] == *b"\r\n0\r\n\r\n" {
                        bytes.clear();
                        *self = Self::Done;
                    }
                    return Ok(Decoded::Data(data));
                }
                Self::ChunkSize => {
                    let Some((length, taken)) = line(bytes, CHUNK_LINE_LIMIT)? else { return Ok(Decoded::More) };
                    let size = chunk_size(&bytes[..length])?;
                    bytes.advance(taken);
                    *self = if size == 0 { Self::Trailers } else { Self::ChunkData(size) };
                }
                Self::ChunkEnd => {
                    match line(bytes, 0)? {
                        None => return Ok(Decoded::More),
                        Some((_, taken)) => bytes.advance(taken),
                    }
                    *self = Self::ChunkSize;
                }
                Self::Trailers => return self.trailers(bytes),
            }
        }
    }

    fn trailers(&mut self, bytes: &mut BytesMut) -> Result<Decoded, Bad> {
        let (mut at, mut lines) = (0, 0);
        loop {
            let left = TRAILERS_LIMIT.checked_sub(at).ok_or("the trailers are too long")?;
            let Some((length, taken)) = line(&bytes[at..], left)? else { return Ok(Decoded::More) };
            at += taken;
            if length == 0 {
                break;
            }
            lines += 1;
        }
        *self = Self::Done;
        let section = bytes.split_to(at).freeze();
        if lines == 0 {
            return Ok(Decoded::End);
        }
        header_lines(&section, 0, lines).map(Decoded::Trailers)
    }

    /// The connection has ended.
    ///
    /// # Errors
    /// The body has not.
    pub(super) fn ended(&mut self) -> Result<(), Bad> {
        match self {
            Self::Done => Ok(()),
            Self::UntilEnd => {
                *self = Self::Done;
                Ok(())
            }
            Self::Length(_) | Self::ChunkSize | Self::ChunkData(_) | Self::ChunkEnd | Self::Trailers => {
                Err("the connection ended within a body")
            }
        }
    }
}

/// A line that ends with CR LF: its length without them, and with them. `None` if its end has not come.
fn line(bytes: &[u8], limit: usize) -> Result<Option<(usize, usize)>, Bad> {
    let end = memchr::memchr(b'\n', &bytes[..bytes.len().min(limit + 2)]);
    match end {
        None if bytes.len() >= limit + 2 => Err("a line of a chunked body is too long"),
        None => Ok(None),
        Some(end) if end > 0 && bytes[end - 1] == b'\r' => Ok(Some((end - 1, end + 1))),
        Some(_) => Err("line ends without CR"),
    }
}

fn chunk_size(line: &[u8]) -> Result<u64, Bad> {
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let size = std::str::from_utf8(&line[..digits]).ok().and_then(|size| u64::from_str_radix(size, 16).ok());
    let (Some(size), 1..=16) = (size, digits) else { return Err("not a chunk size") };
    let behind = line[digits..].iter().find(|byte| !is_blank(**byte));
    if !matches!(behind, None | Some(b';')) {
        return Err("not a chunk size");
    }
    if line.contains(&b'\r') {
        return Err("not a chunk size");
    }
    Ok(size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Data and trailers of a body, whether it ended, and what follows it.
    type Read = (Vec<u8>, Option<HeaderMap>, bool, Vec<u8>);

    /// A body that comes in these pieces.
    fn read(mut decoder: Decoder, pieces: &[&[u8]]) -> Result<Read, Bad> {
        let (mut bytes, mut data, mut trailers, mut ended) = (BytesMut::new(), Vec::new(), None, false);
        for piece in pieces {
            bytes.extend_from_slice(piece);
            while !ended {
                match decoder.decode(&mut bytes)? {
                    Decoded::Data(more) => data.extend_from_slice(&more),
                    Decoded::Trailers(found) => trailers = Some(found),
                    Decoded::More => break,
                    Decoded::End => ended = true,
                }
            }
        }
        Ok((data, trailers, ended, bytes.to_vec()))
    }

    #[test]
    fn lengths() {
        assert_eq!(read(Decoder::length(3), &[b"abcHTTP"]), Ok((b"abc".to_vec(), None, true, b"HTTP".to_vec())));
        assert_eq!(read(Decoder::length(0), &[b"x"]), Ok((Vec::new(), None, true, b"x".to_vec())));
        assert_eq!(read(Decoder::UntilEnd, &[b"a", b"b"]), Ok((b"ab".to_vec(), None, false, Vec::new())));
        for (mut decoder, whole) in [(Decoder::length(3), false), (Decoder::CHUNKED, false), (Decoder::UntilEnd, true)]
        {
            assert_eq!(decoder.ended().is_ok(), whole);
        }
    }

    #[test]
    fn a07_chunks_have_one_meaning() {
        let (data, trailers, ended, rest) =
            read(Decoder::CHUNKED, &[b"3;x=y\r\na\nb\r\n0A \r\n0123456789\r\n0\r\nT: x\r\n\r\nnext"]).unwrap();
        assert_eq!((&data[..], ended, &rest[..]), (&b"a\nb0123456789"[..], true, &b"next"[..]));
        assert_eq!(trailers.unwrap()["t"], "x");
        let long = format!("5;{}", "e".repeat(300));
        for bad in [
            "-1\r\n",
            "0x10\r\n",
            "11111111111111111\r\n",
            "\r\n",
            "g\r\n",
            "5 5\r\n",
            " 5\r\n",
            "5\n",
            "5;\ra\r\n",
            "5\x0c;a\r\n",
            "3\r\nabcd\r\n",
            "1\r\na\n",
            "0\r\nT x\r\n\r\n",
            "0\r\nT: a\r\n b\r\n\r\n",
            "0\r\nT: x\n\r\n",
            &long,
        ] {
            assert!(read(Decoder::CHUNKED, &[bad.as_bytes()]).is_err(), "{bad:.40?}");
        }
        let trailers = format!("0\r\n{}\r\n", "T: x\r\n".repeat(2_000));
        assert!(read(Decoder::CHUNKED, &[trailers.as_bytes()]).is_err());
    }

    #[test]
    fn trailers_end_at_their_limit() {
        for beyond in 0..4 {
            // The line and its end are this much longer than the limit.
            let line = format!("T: {}\r\n", "x".repeat(TRAILERS_LIMIT - 5 + beyond));
            let whole = read(Decoder::CHUNKED, &[format!("0\r\n{line}\r\n").as_bytes()]);
            let cut = read(Decoder::CHUNKED, &[format!("0\r\n{line}").as_bytes(), b"\r\n"]);
            assert_eq!((whole.is_ok(), cut.is_ok()), (beyond == 0, beyond == 0), "{beyond}");
        }
    }

    #[test]
    fn an_end_that_is_there_is_seen_with_the_last_data() {
        let (mut decoder, mut bytes) = (Decoder::CHUNKED, BytesMut::from(&b"1\r\na\r\n0\r\n\r\n"[..]));
        assert_eq!(decoder.decode(&mut bytes), Ok(Decoded::Data(Bytes::from_static(b"a"))));
        assert!(decoder.is_done() && bytes.is_empty());
    }

    proptest! {
        #[test]
        fn the_cut_into_reads_does_not_matter(cuts in proptest::collection::vec(1usize..20, 1..20), tail in ".{0,20}") {
            let text = format!("5\r\nhello\r\n1;a=b\r\n!\r\n0\r\nA: b\r\n\r\n{tail}");
            let whole = read(Decoder::CHUNKED, &[text.as_bytes()]);
            let (mut rest, mut pieces, mut cuts) = (text.as_bytes(), Vec::new(), cuts.iter().cycle());
            while !rest.is_empty() {
                let (now, later) = rest.split_at((*cuts.next().expect("a cycle")).min(rest.len()));
                pieces.push(now);
                rest = later;
            }
            prop_assert_eq!(read(Decoder::CHUNKED, &pieces), whole);
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), cut in 0usize..300) {
            let (first, second) = bytes.split_at(cut.min(bytes.len()));
            let _ = read(Decoder::CHUNKED, &[first, second]);
        }
    }
}
