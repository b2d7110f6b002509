//! The head of a request, which has one meaning only (RFC 9112; attack cases A01-A09, A19).
//!
//! Two tolerant parsers in a row are what request smuggling lives on, so nothing is tolerated here that another reader could
//! understand in another way: line ends of a bare LF, folded lines, repeated lengths, codings other than `chunked`.

use super::head::{Bad, Framing, first_line, framing, header_lines};
use bytes::{Buf as _, Bytes, BytesMut};
use http::{HeaderMap, Method, StatusCode, Uri, Version, uri::PathAndQuery};
use std::io::Write as _;

/// Empty lines before a request line, which RFC 9112 2.2 tells a server to skip.
const MAX_EMPTY_LINES: u32 = 4;
/// Longest target that [`Uri`] takes, bytes.
const MAX_TARGET: usize = 65_534;

/// How large a head may be.
#[derive(Debug, Clone, Copy)]
pub struct HeadLimits {
    /// Bytes.
    pub bytes: usize,
    /// Header lines.
    pub lines: usize,
}

/// The head of a request.
#[derive(Debug)]
pub(super) struct RequestHead {
    pub(super) method: Method,
    pub(super) uri: Uri,
    pub(super) version: Version,
    pub(super) headers: HeaderMap,
    pub(super) framing: Framing,
}

/// A head that is refused: how it is answered, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Refused(pub(super) StatusCode, pub(super) Bad);

impl From<Bad> for Refused {
    fn from(bad: Bad) -> Self {
        Self(StatusCode::BAD_REQUEST, bad)
    }
}

const TOO_LARGE: Refused = Refused(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "the head is too large");

/// Looks for heads in the bytes of a connection; remembers how far it has looked.
#[derive(Debug, Default)]
pub(super) struct Heads {
    /// Where the first line begins whose end has not come yet.
    line: usize,
    lines: usize,
    empty: u32,
}

impl Heads {
    /// Takes the next head out of the bytes, if all of it is there.
    pub(super) fn take(&mut self, bytes: &mut BytesMut, limits: HeadLimits) -> Result<Option<RequestHead>, Refused> {
        loop {
            let Some(length) = memchr::memchr(b'\n', &bytes[self.line..]) else {
                return if bytes.len() > limits.bytes { Err(TOO_LARGE) } else { Ok(None) };
            };
            if self.line + length >= limits.bytes {
                return Err(TOO_LARGE);
            }
            let line = &bytes[self.line..self.line + length];
            let Some((b'\r', line)) = line.split_last() else { return Err("line ends without CR".into()) };
            match (line.is_empty(), self.lines) {
                (true, 0) => {
                    self.empty += 1;
                    if self.empty > MAX_EMPTY_LINES {
                        return Err("empty lines instead of a request".into());
                    }
                    bytes.advance(length + 1);
                    continue;
                }
                (true, lines) => {
                    let head = bytes.split_to(self.line + length + 1).freeze();
                    *self = Self::default();
                    return read(&head, lines - 1).map(Some);
                }
                (false, 0) => drop(request_line(line)?),
                // Whoever folds a line or ends it otherwise is told at once.
                (false, _) if matches!(line[0], b' ' | b'\t') => return Err("folded header".into()),
                (false, lines) if lines > limits.lines => return Err(TOO_LARGE),
                (false, _) => {}
            }
            self.lines += 1;
            self.line += length + 1;
        }
    }
}

/// The host that the first request of these bytes names, if all of its head is there: `Some(None)` if it names none, several, or cannot be
/// read. Nothing is taken.
pub fn host_of(bytes: &[u8], limits: HeadLimits) -> Option<Option<String>> {
    let head = match Heads::default().take(&mut BytesMut::from(bytes), limits) {
        Ok(head) => head?,
        Err(_) => return Some(None),
    };
    let mut hosts = head.headers.get_all(http::header::HOST).iter();
    let (host, more) = (hosts.next(), hosts.next());
    let named = head.uri.authority().map(ToString::to_string);
    Some(named.or_else(|| host?.to_str().ok().map(str::to_owned)).filter(|_| more.is_none()))
}

/// Method, target and version.
type RequestLine<'l> = (&'l [u8], &'l [u8], Version);

fn request_line(line: &[u8]) -> Result<RequestLine<'_>, Refused> {
    let mut parts = line.split(|byte| *byte == b' ');
    let (Some(method), Some(target), Some(version), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err("not a request line".into());
    };
    if method.is_empty() || method.iter().any(u8::is_ascii_lowercase) {
        return Err("not a method".into());
    }
    if target.is_empty() || target.iter().any(|byte| *byte <= b' ' || *byte == 0x7f || *byte == b'#') {
        return Err("not a request target".into());
    }
    let version = match version {
        b"HTTP/1.1" => Version::HTTP_11,
        b"HTTP/1.0" => Version::HTTP_10,
        _ => return Err("unknown HTTP version".into()),
    };
    Ok((method, target, version))
}

/// Reads a whole head.
fn read(head: &Bytes, lines: usize) -> Result<RequestHead, Refused> {
    let (line, rest) = first_line(head);
    let (method, target, version) = request_line(line)?;
    let begin = method.len() + 1;
    if target.len() > MAX_TARGET {
        return Err(Refused(StatusCode::URI_TOO_LONG, "the target is too long"));
    }
    let uri = uri(head.slice(begin..begin + target.len()), target).map_err(|_| "not a request target")?;
    let method = Method::from_bytes(method).map_err(|_| "not a method")?;
    let headers = header_lines(head, rest, lines)?;
    let framing = framing(&headers)?;
    if framing == Framing::Chunked && version == Version::HTTP_10 {
        return Err("Transfer-Encoding in HTTP/1.0".into());
    }
    Ok(RequestHead { method, uri, version, headers, framing })
}

/// The target as it came where [`Uri`] takes it. What it does not take although clients send it is escaped: raw quotes, angle brackets
/// and backticks, bytes that are not UTF-8. A path that an absolute form leaves empty is `/` (RFC 9112, 3.2.1).
fn uri(shared: Bytes, target: &[u8]) -> Result<Uri, http::Error> {
    let uri = match Uri::from_maybe_shared(shared) {
        Ok(uri) => uri,
        Err(refused) => Uri::from_maybe_shared(escaped(target).ok_or(refused)?)?,
    };
    let Some(query) = uri.path_and_query().map(PathAndQuery::as_str).filter(|path| path.starts_with('?')) else {
        return Ok(uri);
    };
    let whole = PathAndQuery::try_from(format!("/{query}"))?;
    let mut parts = uri.into_parts();
    parts.path_and_query = Some(whole);
    Ok(Uri::from_parts(parts)?)
}

/// The target with what may not stand in a path or query escaped; `None` without either.
fn escaped(target: &[u8]) -> Option<Bytes> {
    let begin = if target.first() == Some(&b'/') {
        0
    } else {
        let authority = target.windows(3).position(|three| three == b"://")? + 3;
        authority + target[authority..].iter().position(|byte| matches!(byte, b'/' | b'?'))?
    };
    let mut escaped = target[..begin].to_vec();
    for byte in &target[begin..] {
        match byte {
            b'"' | b'<' | b'>' | b'`' | 0x80.. => {
                // Writing to memory does not fail.
                let _ = write!(escaped, "%{byte:02X}");
            }
            _ => escaped.push(*byte),
        }
    }
    Some(escaped.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMITS: HeadLimits = HeadLimits { bytes: 32 * 1024, lines: 100 };

    fn take(text: &str) -> Result<Option<RequestHead>, Refused> {
        Heads::default().take(&mut BytesMut::from(text), LIMITS)
    }

    #[test]
    fn the_host_of_a_head_is_told_once_all_of_it_is_there() {
        let host = |text: &str| host_of(text.as_bytes(), LIMITS);
        let some = |host: &str| Some(Some(host.to_owned()));
        assert_eq!(host("GET / HTTP/1.1\r\nHost: cart.shop:80\r\n\r\nmore"), some("cart.shop:80"));
        assert_eq!(host("GET http://cart/ HTTP/1.1\r\nHost: cart\r\n\r\n"), some("cart"));
        assert_eq!(host("GET / HTTP/1.1\r\nHost: cart\r\n"), None, "another one may follow");
        assert_eq!(host("GET / HTTP/1.1\r\n\r\n"), Some(None));
        assert_eq!(host("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"), Some(None));
        assert_eq!(host("GET / HTTP/1.1\nHost: a\n\n"), Some(None), "cannot be read");
    }

    fn refused(text: &str) -> bool {
        take(text).is_err_and(|refused| refused.0 == StatusCode::BAD_REQUEST)
    }

    fn with_headers(headers: &str) -> String {
        format!("POST / HTTP/1.1\r\nHost: a\r\n{headers}\r\n\r\n")
    }

    fn framed(headers: &str) -> Framing {
        take(&with_headers(headers)).unwrap().unwrap().framing
    }

    #[test]
    fn plain_requests_pass() {
        let mut bytes = BytesMut::from("\r\nGET /b?c=d HTTP/1.0\r\nHost: a\r\nX:  y z \r\n\r\nGET / HT");
        let mut heads = Heads::default();
        let head = heads.take(&mut bytes, LIMITS).unwrap().unwrap();
        assert_eq!((head.method, head.uri.path(), head.version), (Method::GET, "/b", Version::HTTP_10));
        assert_eq!((head.headers.len(), &head.headers["x"], head.framing), (2, &"y z".parse().unwrap(), Framing::Open));
        assert!(heads.take(&mut bytes, LIMITS).unwrap().is_none());
        assert_eq!(&bytes[..], b"GET / HT");
        assert_eq!(framed("Content-Length: 5"), Framing::Length(5));
        assert_eq!(framed("Transfer-Encoding: Chunked"), Framing::Chunked);
    }

    #[test]
    fn a01_length_and_coding() {
        assert!(refused(&with_headers("Content-Length: 5\r\nTransfer-Encoding: chunked")));
        assert!(refused(&with_headers("Transfer-Encoding: chunked\r\nContent-Length: 5")));
    }

    #[test]
    fn a02_a03_two_lengths() {
        assert!(refused(&with_headers("Content-Length: 5\r\ncontent-length: 6")));
        assert!(refused(&with_headers("Content-Length: 5\r\nContent-Length: 5")));
        assert!(refused(&with_headers("Content-Length: 5, 5")));
    }

    #[test]
    fn a04_lengths_that_are_no_numbers() {
        for length in ["+5", "0x5", "5 5", "", "-1", "36893488147419103233", "5\u{b}", "5\r", "\u{c}5", "5\u{c}"] {
            assert!(refused(&with_headers(&format!("Content-Length: {length}"))), "{length:?}");
        }
    }

    #[test]
    fn a05_codings() {
        for coding in [
            "xchunked",
            "chunked, identity",
            "gzip, chunked",
            "\u{b}chunked",
            "\u{c}chunked",
            "\rchunked",
            "chunked\r",
            "identity",
            "",
        ] {
            assert!(refused(&with_headers(&format!("Transfer-Encoding: {coding}"))), "{coding:?}");
        }
        assert!(refused(&with_headers("Transfer-Encoding : chunked")));
        assert!(refused(&with_headers("Transfer-Encoding\t: chunked")));
        assert!(refused(&with_headers("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked")));
    }

    #[test]
    fn targets_that_clients_send_are_escaped_where_they_must_be() {
        for (sent, read) in [
            ("/a\"b?c=\"d\"&e=<f>", "/a%22b?c=%22d%22&e=%3Cf%3E"),
            ("/<a>/`b`", "/%3Ca%3E/%60b%60"),
            ("/a\"b{c}", "/a\"b{c}"),
            ("/caf\u{e9}?q=\u{e9}", "/caf\u{e9}?q=\u{e9}"),
            ("http://reviews/x?q=<y>", "http://reviews/x?q=%3Cy%3E"),
            ("http://reviews?q=1", "http://reviews/?q=1"),
            ("http://reviews?q=\"", "http://reviews/?q=%22"),
            ("http://reviews", "http://reviews/"),
        ] {
            let head = take(&format!("GET {sent} HTTP/1.1\r\nHost: reviews\r\n\r\n")).unwrap().unwrap();
            assert_eq!(head.uri.to_string(), read, "{sent}");
        }
        let mut bytes = BytesMut::from(&b"GET /caf\xe9?q=\xff< HTTP/1.1\r\nHost: a\r\n\r\n"[..]);
        let head = Heads::default().take(&mut bytes, LIMITS).unwrap().unwrap();
        assert_eq!(head.uri, "/caf%E9?q=%FF%3C");
        for target in ["http://re<views/", "re\"views", "?q=1", "<a>"] {
            assert!(refused(&format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n")), "{target}");
        }
    }

    #[test]
    fn a06_coding_in_http_1_0() {
        assert!(refused("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"));
    }

    #[test]
    fn a08_a09_line_ends_and_folds() {
        assert!(refused("GET / HTTP/1.1\nHost: a\r\n\r\n"));
        assert!(refused("GET / HTTP/1.1\r\nHost: a\n\r\n"));
        assert!(refused("GET / HTTP/1.1\r\nHost: a\r\n\n"));
        assert!(refused("GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n"));
        assert!(refused("GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n"));
        assert!(refused("GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n"));
        assert!(refused("GET / HTTP/1.1\r\nHost: a\r\nX: a\r\r\n\r\n"));
        assert!(refused(&"\r\n".repeat(9)));
    }

    #[test]
    fn a10_a11_bytes_outside_the_grammar() {
        for line in ["X: a\0b", "X\0: a", "X: a\x7fb", "X y: a", "X(: a", "no colon"] {
            assert!(refused(&with_headers(line)), "{line:?}");
        }
    }

    #[test]
    fn a19_request_lines() {
        for line in [
            "GET /",
            "GET  / HTTP/1.1",
            "GET / HTTP/1.10",
            "GET / HTTP/2.0",
            "get / HTTP/1.1",
            "GET /a#b HTTP/1.1",
            "G(T / HTTP/1.1",
            " GET / HTTP/1.1",
            "GET / HTTP/1.1 ",
            "GET /\x7f HTTP/1.1",
            "GET /a\\b{ HTTP/1.1 x",
        ] {
            assert!(refused(&format!("{line}\r\nHost: a\r\n\r\n")), "{line:?}");
        }
    }

    #[test]
    fn a106_heads_have_a_limit_however_they_come() {
        let too_large = |text: &str| take(text).is_err_and(|refused| refused == TOO_LARGE);
        assert!(too_large(&format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "y".repeat(LIMITS.bytes))));
        assert!(too_large(&format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}", "y".repeat(LIMITS.bytes))));
        assert!(too_large(&format!("GET /{} HTTP/1.1\r\n", "y".repeat(LIMITS.bytes))));
        assert!(too_large(&format!("GET / HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(101))));
        assert!(take(&format!("GET / HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(100))).unwrap().is_some());
        let exact = |length: usize| {
            let rest = "GET / HTTP/1.1\r\nX: \r\n\r\n".len();
            take(&format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "y".repeat(length - rest)))
        };
        assert!(exact(LIMITS.bytes).unwrap().is_some() && exact(LIMITS.bytes + 1).is_err());
        let long = HeadLimits { bytes: 1 << 20, lines: 9 };
        let text = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "y".repeat(70_000));
        let refused = Heads::default().take(&mut BytesMut::from(&text[..]), long).unwrap_err();
        assert_eq!(refused.0, StatusCode::URI_TOO_LONG);
    }

    proptest! {
        #[test]
        fn the_cut_into_reads_does_not_matter(cuts in proptest::collection::vec(1usize..40, 1..60), tail in ".{0,40}") {
            let text = format!("\r\nPOST /x HTTP/1.1\r\nHost: a\r\n{tail}\r\nContent-Length: 4\r\n\r\n");
            let whole = take(&text);
            let (mut heads, mut bytes, mut rest) = (Heads::default(), BytesMut::new(), text.as_bytes());
            let (mut found, mut cuts) = (Ok(None), cuts.iter().cycle());
            while !rest.is_empty() && matches!(found, Ok(None)) {
                let (now, later) = rest.split_at((*cuts.next().expect("a cycle")).min(rest.len()));
                bytes.extend_from_slice(now);
                found = heads.take(&mut bytes, LIMITS);
                rest = later;
            }
            let told = |found: Result<Option<RequestHead>, Refused>| found.map(|head| head.map(|head| head.headers));
            prop_assert_eq!(told(found), told(whole));
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..500)) {
            let (mut heads, mut bytes) = (Heads::default(), BytesMut::from(&bytes[..]));
            while let Ok(Some(_)) = heads.take(&mut bytes, LIMITS) {}
        }
    }
}
