//! Heads of messages: their lines, what they say of framing, and how they are written.

use super::names;
use bytes::{Bytes, BytesMut};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Version,
    header::{CONNECTION, CONTENT_LENGTH, TE, TRAILER, TRANSFER_ENCODING},
    request::Parts,
};

/// A copy of a request's head without its extensions, which belong to the connection that it came by.
#[must_use]
pub fn copy(head: &Parts) -> Parts {
    let (mut parts, ()) = Request::new(()).into_parts();
    (parts.method, parts.uri, parts.version) = (head.method.clone(), head.uri.clone(), head.version);
    parts.headers = head.headers.clone();
    parts
}

/// Headers that a node adds to most messages, and one more: room for them from the start, because a map that is full is made anew, even
/// if what is set is there already.
const ADDED: usize = 6;

/// What a head cannot be.
pub(super) type Bad = &'static str;

/// The head of a response.
#[derive(Debug)]
pub(super) struct ResponseHead {
    pub(super) status: StatusCode,
    pub(super) version: Version,
    pub(super) headers: HeaderMap,
}

/// Looks for the end of a head; remembers how far it has looked.
#[derive(Debug, Default)]
pub(super) struct HeadEnd {
    /// Where the first line begins whose end has not come yet.
    line: usize,
    lines: usize,
}

impl HeadEnd {
    /// The length of the head and the number of its header lines, if all of it is there.
    pub(super) fn find(&mut self, bytes: &[u8]) -> Option<(usize, usize)> {
        while let Some(length) = memchr::memchr(b'\n', bytes.get(self.line..)?) {
            let line = &bytes[self.line..self.line + length];
            self.line += length + 1;
            if matches!(line, [] | b"\r") && self.lines > 0 {
                return Some((self.line, self.lines - 1));
            }
            self.lines += 1;
        }
        None
    }
}

/// Reads the head of a response. Lines may end with a bare LF, as RFC 9112 2.2 allows; nothing of it is ambiguous.
pub(super) fn response(head: Bytes, lines: usize) -> Result<ResponseHead, Bad> {
    let (first, rest) = first_line(&head);
    let (version, status) = status_line(first)?;
    let headers = header_lines(&head, rest, lines)?;
    Ok(ResponseHead { status, version, headers })
}

/// The first line without its end, and where the next one begins.
pub(super) fn first_line(head: &[u8]) -> (&[u8], usize) {
    let end = memchr::memchr(b'\n', head).unwrap_or(head.len());
    let line = &head[..end];
    (line.strip_suffix(b"\r").unwrap_or(line), (end + 1).min(head.len()))
}

fn status_line(line: &[u8]) -> Result<(Version, StatusCode), Bad> {
    let version = match line.get(..9) {
        Some(b"HTTP/1.1 ") => Version::HTTP_11,
        Some(b"HTTP/1.0 ") => Version::HTTP_10,
        _ => return Err("not a status line"),
    };
    let status = line.get(9..12).and_then(|code| StatusCode::from_bytes(code).ok()).ok_or("not a status code")?;
    if !matches!(line.get(12), None | Some(b' ')) {
        return Err("not a status code");
    }
    Ok((version, status))
}

/// Reads header lines from `at` to the empty line.
pub(super) fn header_lines(head: &Bytes, mut at: usize, lines: usize) -> Result<HeaderMap, Bad> {
    let mut headers = HeaderMap::with_capacity(lines + ADDED);
    while let Some(length) = memchr::memchr(b'\n', &head[at..]) {
        let line = &head[at..at + length];
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            break;
        }
        let (name, value) = header_line(head, at, line)?;
        headers.try_append(name, value).map_err(|_| "too many headers")?;
        at += length + 1;
    }
    Ok(headers)
}

/// One header line, which begins at `at`; the value shares the head's memory.
fn header_line(head: &Bytes, at: usize, line: &[u8]) -> Result<(HeaderName, HeaderValue), Bad> {
    // A line that begins with a blank (a folded one) has no name.
    let colon = memchr::memchr(b':', line).ok_or("header without a colon")?;
    let name = match names::known(&line[..colon]) {
        Some(name) => name,
        None => HeaderName::from_bytes(&line[..colon]).map_err(|_| "not a header name")?,
    };
    let value = &line[colon + 1..];
    let is_text = |byte: &u8| !is_blank(*byte);
    let first = value.iter().position(is_text).unwrap_or(value.len());
    let length = value.iter().rposition(is_text).map_or(0, |last| last + 1 - first);
    let start = at + colon + 1 + first;
    let value = HeaderValue::from_maybe_shared(head.slice(start..start + length)).map_err(|_| "not a header value")?;
    Ok((name, value))
}

/// What may stand around a value (RFC 9110, 5.6.3): no other kind of white space, which other readers leave where it is.
pub(super) const fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

/// What a head says of the length of its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// Nothing.
    Open,
    Length(u64),
    Chunked,
}

/// The one framing of a message.
///
/// # Errors
/// It is ambiguous (A01-A05, A22), or of a coding that nobody asked for.
pub(super) fn framing(headers: &HeaderMap) -> Result<Framing, Bad> {
    let (mut length, mut coding, mut codings) = (None, None, 0);
    // One look at each name costs less than two searches.
    for (name, value) in headers {
        if *name == CONTENT_LENGTH {
            if length.replace(value).is_some() {
                return Err("two Content-Length");
            }
        } else if *name == TRANSFER_ENCODING {
            (coding, codings) = (Some(value), codings + 1);
        }
    }
    match (length, coding) {
        (Some(_), Some(_)) => Err("both Content-Length and Transfer-Encoding"),
        (None, None) => Ok(Framing::Open),
        (Some(length), None) => decimal(length.as_bytes()).map(Framing::Length).ok_or("not a Content-Length"),
        (None, Some(coding)) if codings == 1 && coding.as_bytes().eq_ignore_ascii_case(b"chunked") => {
            Ok(Framing::Chunked)
        }
        (None, Some(_)) => Err("unknown Transfer-Encoding"),
    }
}

/// Digits only, at most 19 of them, so that every reader gets the same number.
pub(super) fn decimal(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > 19 {
        return None;
    }
    value.iter().try_fold(0, |number: u64, byte| match byte {
        b'0'..=b'9' => Some(number * 10 + u64::from(byte - b'0')),
        _ => None,
    })
}

/// True if the connection may serve another message after this one.
pub(super) fn keeps_alive(version: Version, headers: &HeaderMap) -> bool {
    let named = |wanted: &[u8]| {
        let values = headers.get_all(CONNECTION).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
        values.map(<[u8]>::trim_ascii).any(|name| name.eq_ignore_ascii_case(wanted))
    };
    match version {
        Version::HTTP_11 => !headers.contains_key(CONNECTION) || !named(b"close"),
        _ => named(b"keep-alive") && !named(b"close"),
    }
}

/// True if the sender of a request reads trailers of its response: `TE` lists that beside codings, and some give it a weight.
#[must_use]
pub fn takes_trailers(headers: &HeaderMap) -> bool {
    let items = headers.get_all(TE).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    let mut names = items.map(|item| item.split(|byte| *byte == b';').next().unwrap_or(item).trim_ascii());
    names.any(|name| name.eq_ignore_ascii_case(b"trailers"))
}

/// The trailers that a head announces.
pub(super) fn announced(headers: &HeaderMap) -> Vec<HeaderName> {
    let values = headers.get_all(TRAILER).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    values.filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok()).collect()
}

/// Bytes that a head with these headers takes, about.
fn room(headers: &HeaderMap) -> usize {
    let lines: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    lines + 128
}

/// Writes a request's line and headers, without the empty line.
pub(super) fn write_request(out: &mut BytesMut, method: &Method, target: &str, headers: &HeaderMap) {
    out.reserve(room(headers) + target.len());
    for part in [method.as_str(), " ", target, " HTTP/1.1\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
    write_headers(out, headers);
}

/// Writes header lines.
pub(super) fn write_headers<'h>(
    out: &mut BytesMut,
    headers: impl IntoIterator<Item = (&'h HeaderName, &'h HeaderValue)>,
) {
    for (name, value) in headers {
        out.extend_from_slice(name.as_str().as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
}

/// Writes a number in decimal.
pub(super) fn write_decimal(out: &mut BytesMut, mut number: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        // A remainder of ten fits.
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &[u8]) -> Option<Result<ResponseHead, Bad>> {
        let (length, lines) = HeadEnd::default().find(text)?;
        Some(response(Bytes::copy_from_slice(&text[..length]), lines))
    }

    #[test]
    fn heads_of_responses_are_read() {
        let head = read(b"HTTP/1.1 200 OK\r\nA: b\r\na:\t c d \r\nX-Obs: \xe9\r\n\r\nbody").unwrap().unwrap();
        assert_eq!((head.status, head.version), (StatusCode::OK, Version::HTTP_11));
        let values: Vec<_> = head.headers.get_all("a").iter().collect();
        assert_eq!(values, ["b", "c d"]);
        assert_eq!(head.headers["x-obs"].as_bytes(), b"\xe9");
        assert_eq!(read(b"HTTP/1.0 404\n\n").unwrap().unwrap().status, StatusCode::NOT_FOUND);
        assert!(read(b"HTTP/1.1 200 OK\r\nA: b\r\n").is_none());
        for bad in [
            "HTTP/2 200 OK",
            "HTTP/1.1 20 OK",
            "HTTP/1.1 2000 OK",
            "ICY 200 OK",
            "HTTP/1.1 200 OK\r\nA b",
            "HTTP/1.1 200 OK\r\nA : b",
            "HTTP/1.1 200 OK\r\nA: b\r\n c: d",
            "HTTP/1.1 200 OK\r\nA: b\0",
            "HTTP/1.1 200 OK\r\nA: b\rc",
            "HTTP/1.1 200 OK\r\nA: b\r",
            "HTTP/1.1 200 OK\r\nA: \x0cb",
            "HTTP/1.1 200 OK\r\n: b",
            "",
            "\r\nHTTP/1.1 200 OK",
        ] {
            assert!(read(format!("{bad}\r\n\r\n").as_bytes()).unwrap().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn framing_is_one_or_none() {
        let of = |lines: &str| {
            let text = format!("HTTP/1.1 200 OK\r\n{lines}\r\n");
            framing(&read(text.as_bytes()).unwrap().unwrap().headers)
        };
        assert_eq!(of(""), Ok(Framing::Open));
        assert_eq!(of("Content-Length: 7\r\n"), Ok(Framing::Length(7)));
        assert_eq!(of("Transfer-Encoding: Chunked\r\n"), Ok(Framing::Chunked));
        for bad in [
            "Content-Length: 7\r\nContent-Length: 7\r\n",
            "Content-Length: 7, 7\r\n",
            "Content-Length: +7\r\n",
            "Content-Length: 7\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: gzip, chunked\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "Content-Length:\r\n",
        ] {
            assert!(of(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_connection_goes_on_unless_a_side_ends_it() {
        let of = |version, value: Option<&'static str>| {
            let headers = value.map(|value| (CONNECTION, HeaderValue::from_static(value)));
            keeps_alive(version, &headers.into_iter().collect())
        };
        assert!(
            of(Version::HTTP_11, None) && of(Version::HTTP_11, Some("x")) && of(Version::HTTP_10, Some("Keep-Alive"))
        );
        assert!(!of(Version::HTTP_11, Some("x, Close")) && !of(Version::HTTP_10, None));
        assert!(!of(Version::HTTP_10, Some("keep-alive, close")));
    }

    proptest! {
        #[test]
        fn no_bytes_panic_and_cuts_do_not_matter(bytes in proptest::collection::vec(any::<u8>(), 0..300), cut in 0usize..300) {
            let mut end = HeadEnd::default();
            let first = end.find(&bytes[..cut.min(bytes.len())]);
            prop_assert_eq!(first.or_else(|| end.find(&bytes)), HeadEnd::default().find(&bytes));
            let mut text = b"HTTP/1.1 200 OK\r\n".to_vec();
            text.extend_from_slice(&bytes);
            text.extend_from_slice(b"\r\n\r\n");
            let _ = read(&text);
        }

        #[test]
        fn numbers_are_written_as_they_are_read(number in 0u64..9_999_999_999_999_999_999) {
            let mut out = BytesMut::new();
            write_decimal(&mut out, number);
            prop_assert_eq!(decimal(&out), Some(number));
        }
    }
}
