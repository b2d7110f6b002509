//! HTTP/1 framing that has one meaning only (RFC 9112; attack cases A01-A09, A19). Pure.
//!
//! hyper's parser is tolerant where RFC 9112 lets a recipient be: line ends of a bare LF, repeated lengths, transfer
//! codings before `chunked`. Two tolerant parsers in a row are what request smuggling lives on, so the bytes of a
//! connection pass this scanner before hyper reads them. It follows the framing, and refuses what could be read in two
//! ways. What hyper refuses by itself (bytes outside the grammar of names and values) is left to it.

/// Longest chunk-size line with extensions, in bytes.
const CHUNK_LINE_LIMIT: usize = 256;
/// Longest trailer section, in bytes.
const TRAILERS_LIMIT: usize = 8 * 1024;

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Violation {
    /// 400, with this reason for the log.
    Malformed(&'static str),
    /// 431. These bytes make of what hyper was given so far the beginning of a head to which header lines can be added.
    HeadTooLarge(&'static [u8]),
}

impl From<&'static str> for Violation {
    fn from(reason: &'static str) -> Self {
        Self::Malformed(reason)
    }
}

/// Where in the stream of requests the next byte belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    RequestLine,
    Headers,
    Body {
        left: u64,
    },
    ChunkSize,
    ChunkData {
        left: u64,
    },
    ChunkEnd,
    Trailers {
        length: usize,
    },
    /// A request that asks for an upgrade has ended: what follows waits for the answer.
    Held,
    /// After an upgrade: not HTTP any more.
    Raw,
}

/// What the headers of the current request said about its framing.
#[derive(Debug, Clone, Copy, Default)]
struct Framing {
    http_1_0: bool,
    length: Option<u64>,
    chunked: bool,
    upgrade: bool,
}

/// The scanner of one connection.
#[derive(Debug)]
pub(super) struct Scanner {
    state: State,
    framing: Framing,
    /// The beginning of a line whose end has not come yet.
    line: Vec<u8>,
    head: usize,
    /// Longest head, in bytes: request line and header block.
    limit: usize,
    /// Heads so far.
    heads: u64,
}

/// How much of the bytes may go on to hyper.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Scan {
    /// All of them.
    All,
    /// So many; the rest waits for the answer to an upgrade request.
    Hold(usize),
    /// So many; then the connection is refused.
    Refuse(usize, Violation),
}

impl Scanner {
    /// Heads have at most so many bytes.
    pub(super) const fn new(limit: usize) -> Self {
        Self { state: State::RequestLine, framing: NO_FRAMING, line: Vec::new(), head: 0, limit, heads: 0 }
    }

    /// Between the first byte of a head and its end, which one it is.
    pub(super) fn in_head(&self) -> Option<u64> {
        let within = match self.state {
            State::Headers => true,
            State::RequestLine => !self.line.is_empty(),
            State::Body { .. }
            | State::ChunkSize
            | State::ChunkData { .. }
            | State::ChunkEnd
            | State::Trailers { .. }
            | State::Held
            | State::Raw => false,
        };
        within.then_some(self.heads)
    }

    /// True while bytes wait for the answer to an upgrade request.
    pub(super) fn is_held(&self) -> bool {
        self.state == State::Held
    }

    /// The upgrade request was answered: raw bytes follow, or the next request.
    pub(super) const fn release(&mut self, upgraded: bool) {
        self.state = if upgraded { State::Raw } else { State::RequestLine };
    }

    /// Follows the framing through further bytes of the connection.
    pub(super) fn scan(&mut self, bytes: &[u8]) -> Scan {
        let mut at = 0;
        while at < bytes.len() {
            let rest = &bytes[at..];
            match self.state {
                State::Raw => return Scan::All,
                State::Held => return Scan::Hold(at),
                State::Body { left } => at += self.skip(left, rest, |left| State::Body { left }, State::RequestLine),
                State::ChunkData { left } => {
                    at += self.skip(left, rest, |left| State::ChunkData { left }, State::ChunkEnd);
                }
                State::RequestLine | State::Headers | State::ChunkSize | State::ChunkEnd | State::Trailers { .. } => {
                    match self.take_line(rest) {
                        Ok(taken) => at += taken,
                        Err(violation) => return Scan::Refuse(at, violation),
                    }
                }
            }
        }
        Scan::All
    }

    fn skip(&mut self, left: u64, rest: &[u8], more: impl Fn(u64) -> State, end: State) -> usize {
        let taken = usize::try_from(left).map_or(rest.len(), |left| left.min(rest.len()));
        let left = left - taken as u64;
        self.state = if left == 0 { end } else { more(left) };
        taken
    }

    /// Reads to the end of the line, or of what is there.
    fn take_line(&mut self, rest: &[u8]) -> Result<usize, Violation> {
        let Some(end) = memchr::memchr(b'\n', rest) else {
            self.check_partial(rest.len())?;
            self.line.extend_from_slice(rest);
            return Ok(rest.len());
        };
        let taken = end + 1;
        self.check_partial(taken)?;
        if self.line.is_empty() {
            self.end_line(&rest[..end])?;
        } else {
            let mut line = std::mem::take(&mut self.line);
            line.extend_from_slice(&rest[..end]);
            self.end_line(&line)?;
            line.clear();
            self.line = line;
        }
        Ok(taken)
    }

    /// Lines end; how long they may be depends on where they stand.
    fn check_partial(&self, more: usize) -> Result<(), Violation> {
        let length = self.line.len() + more;
        match self.state {
            State::RequestLine | State::Headers if self.head + length > self.limit => {
                Err(Violation::HeadTooLarge(match (self.state == State::Headers, self.line.is_empty()) {
                    (true, true) => b"",
                    (true, false) => b"\r\n",
                    (false, true) => b"GET / HTTP/1.1\r\n",
                    (false, false) => b" HTTP/1.1\r\n",
                }))
            }
            State::ChunkSize | State::ChunkEnd if length > CHUNK_LINE_LIMIT => Err("chunk size line too long".into()),
            State::Trailers { length: before } if before + length > TRAILERS_LIMIT => Err("trailers too large".into()),
            State::RequestLine
            | State::Headers
            | State::ChunkSize
            | State::ChunkEnd
            | State::Trailers { .. }
            | State::Body { .. }
            | State::ChunkData { .. }
            | State::Held
            | State::Raw => Ok(()),
        }
    }

    /// One whole line without its LF.
    fn end_line(&mut self, line: &[u8]) -> Result<(), Violation> {
        let Some((b'\r', line)) = line.split_last() else { return Err("line ends without CR".into()) };
        match self.state {
            State::RequestLine => self.request_line(line),
            State::Headers => self.header_line(line),
            State::ChunkSize => self.chunk_size(line),
            State::ChunkEnd if line.is_empty() => {
                self.state = State::ChunkSize;
                Ok(())
            }
            State::ChunkEnd => Err("chunk longer than its size".into()),
            State::Trailers { length } => {
                self.state = match line {
                    [] => State::RequestLine,
                    [b' ' | b'\t', ..] => return Err("folded trailer".into()),
                    _ => State::Trailers { length: length + line.len() + 2 },
                };
                Ok(())
            }
            State::Body { .. } | State::ChunkData { .. } | State::Held | State::Raw => Ok(()),
        }
    }

    fn request_line(&mut self, line: &[u8]) -> Result<(), Violation> {
        self.head += line.len() + 2;
        if line.is_empty() {
            // RFC 9112 2.2: an empty line before the request line is skipped; hyper does so too.
            return if self.head > 8 { Err("empty lines instead of a request".into()) } else { Ok(()) };
        }
        let mut parts = line.split(|byte| *byte == b' ');
        let (Some(method), Some(target), Some(version), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err("not a request line".into());
        };
        if method.is_empty() || method.iter().any(u8::is_ascii_lowercase) {
            return Err("not a method".into());
        }
        if target.is_empty() || target.iter().any(|byte| *byte <= b' ' || *byte == 0x7f || *byte == b'#') {
            return Err("not a request target".into());
        }
        self.framing = Framing::default();
        match version {
            b"HTTP/1.1" => {}
            b"HTTP/1.0" => self.framing.http_1_0 = true,
            _ => return Err("unknown HTTP version".into()),
        }
        self.state = State::Headers;
        Ok(())
    }

    fn header_line(&mut self, line: &[u8]) -> Result<(), Violation> {
        self.head += line.len() + 2;
        if line.is_empty() {
            self.state = self.after_head();
            return Ok(());
        }
        if matches!(line[0], b' ' | b'\t') {
            return Err("folded header".into());
        }
        let Some(colon) = memchr::memchr(b':', line) else { return Err("header without a colon".into()) };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if matches!(name.last(), None | Some(b' ' | b'\t')) {
            return Err("not a header name".into());
        }
        match name.len() {
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                let length = decimal(value).ok_or("not a Content-Length")?;
                if self.framing.length.replace(length).is_some() {
                    return Err("two Content-Length".into());
                }
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                if self.framing.http_1_0 {
                    return Err("Transfer-Encoding in HTTP/1.0".into());
                }
                if self.framing.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                    return Err("unknown Transfer-Encoding".into());
                }
                self.framing.chunked = true;
            }
            7 if name.eq_ignore_ascii_case(b"upgrade") => self.framing.upgrade = true,
            _ => {}
        }
        if self.framing.chunked && self.framing.length.is_some() {
            return Err("both Content-Length and Transfer-Encoding".into());
        }
        Ok(())
    }

    fn after_head(&mut self) -> State {
        self.head = 0;
        self.heads += 1;
        match self.framing {
            Framing { chunked: true, .. } => State::ChunkSize,
            Framing { length: Some(left), .. } if left > 0 => State::Body { left },
            Framing { upgrade: true, .. } => State::Held,
            Framing { .. } => State::RequestLine,
        }
    }

    fn chunk_size(&mut self, line: &[u8]) -> Result<(), Violation> {
        let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        let size = std::str::from_utf8(&line[..digits]).ok().and_then(|size| u64::from_str_radix(size, 16).ok());
        let (Some(size), 1..=16) = (size, digits) else { return Err("not a chunk size".into()) };
        if !matches!(line[digits..].trim_ascii_start(), [] | [b';', ..]) {
            return Err("not a chunk size".into());
        }
        self.state = if size == 0 { State::Trailers { length: 0 } } else { State::ChunkData { left: size } };
        Ok(())
    }
}

const NO_FRAMING: Framing = Framing { http_1_0: false, length: None, chunked: false, upgrade: false };

/// Digits only, at most 19 of them, so that every reader gets the same number.
fn decimal(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > 19 || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HEAD_LIMIT: usize = 32 * 1024;

    fn scan(text: &str) -> Scan {
        Scanner::new(HEAD_LIMIT).scan(text.as_bytes())
    }

    fn refused(text: &str) -> bool {
        matches!(scan(text), Scan::Refuse(_, Violation::Malformed(_)))
    }

    fn with_headers(headers: &str) -> String {
        format!("POST / HTTP/1.1\r\nHost: a\r\n{headers}\r\n\r\n")
    }

    #[test]
    fn plain_requests_pass() {
        assert_eq!(scan("GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /b?c=d HTTP/1.0\r\n\r\n"), Scan::All);
        assert_eq!(scan("\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"), Scan::All);
        assert_eq!(scan(&(with_headers("Content-Length: 5") + "\n\n\nGE" + "GET / HTTP/1.1\r\n\r\n")), Scan::All);
        assert_eq!(
            scan(&(with_headers("Transfer-Encoding: Chunked") + "3;x=y\r\na\nb\r\n0\r\nT: x\r\n\r\nGET")),
            Scan::All
        );
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
        for length in ["+5", "0x5", "5 5", "", "-1", "36893488147419103233", "5\u{b}"] {
            assert!(refused(&with_headers(&format!("Content-Length: {length}"))), "{length:?}");
        }
    }

    #[test]
    fn a05_codings() {
        for coding in ["xchunked", "chunked, identity", "gzip, chunked", "\u{b}chunked", "identity", ""] {
            assert!(refused(&with_headers(&format!("Transfer-Encoding: {coding}"))), "{coding:?}");
        }
        assert!(refused(&with_headers("Transfer-Encoding : chunked")));
        assert!(refused(&with_headers("Transfer-Encoding\t: chunked")));
        assert!(refused(&with_headers("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked")));
    }

    #[test]
    fn a06_coding_in_http_1_0() {
        assert!(refused("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"));
    }

    #[test]
    fn a07_chunk_sizes() {
        let chunk = |line: &str| with_headers("Transfer-Encoding: chunked") + line + "\r\n";
        for line in ["-1", "0x10", "11111111111111111", "", "g", "5 5", " 5"] {
            assert!(refused(&chunk(line)), "{line:?}");
        }
        assert!(refused(&chunk(&format!("5;{}", "e".repeat(65_536)))));
        assert!(refused(&(chunk("3") + "abcd\r\n")));
    }

    #[test]
    fn a08_a09_line_ends_and_folds() {
        assert!(refused("GET / HTTP/1.1\nHost: a\r\n\r\n"));
        assert!(refused("GET / HTTP/1.1\r\nHost: a\n\r\n"));
        assert!(refused("GET / HTTP/1.1\r\nHost: a\r\n\n"));
        assert!(refused("GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n"));
        assert!(refused("GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n"));
    }

    #[test]
    fn a19_request_lines() {
        for line in
            ["GET /", "GET  / HTTP/1.1", "GET / HTTP/1.10", "GET / HTTP/2.0", "get / HTTP/1.1", "GET /a#b HTTP/1.1"]
        {
            assert!(refused(&format!("{line}\r\nHost: a\r\n\r\n")), "{line:?}");
        }
    }

    #[test]
    fn a106_heads_have_a_limit_however_they_come() {
        let long = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "y".repeat(HEAD_LIMIT));
        assert!(matches!(scan(&long), Scan::Refuse(25, Violation::HeadTooLarge(b""))));
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(HEAD_LIMIT / 6));
        assert!(matches!(scan(&many), Scan::Refuse(_, Violation::HeadTooLarge(b""))));
        let line = format!("GET /{} HTTP/1.1\r\n", "y".repeat(HEAD_LIMIT));
        assert!(matches!(scan(&line), Scan::Refuse(0, Violation::HeadTooLarge(b"GET / HTTP/1.1\r\n"))));
        let mut scanner = Scanner::new(HEAD_LIMIT);
        assert_eq!(scanner.scan(b"GET / HTTP/1.1\r\nX: y"), Scan::All);
        assert_eq!(scanner.scan(&[b'y'; HEAD_LIMIT]), Scan::Refuse(0, Violation::HeadTooLarge(b"\r\n")));
    }

    #[test]
    fn a17_bytes_behind_an_upgrade_wait() {
        let request = "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n";
        let mut scanner = Scanner::new(HEAD_LIMIT);
        assert_eq!(scanner.scan(format!("{request}\u{1}\u{2}").as_bytes()), Scan::Hold(request.len()));
        assert!(scanner.is_held());
        scanner.release(true);
        assert_eq!(scanner.scan(b"\x01\x02\n"), Scan::All);
    }

    #[test]
    fn heads_are_told_apart() {
        let mut scanner = Scanner::new(HEAD_LIMIT);
        assert_eq!(scanner.in_head(), None);
        scanner.scan(b"GET / HT");
        let first = scanner.in_head().expect("a head has begun");
        scanner.scan(b"TP/1.1\r\nHost: a\r\n\r\nGET /");
        assert!(scanner.in_head().expect("the next has begun") > first);
        scanner.scan(b" HTTP/1.1\r\n\r\n");
        assert_eq!(scanner.in_head(), None);
    }

    proptest! {
        #[test]
        fn the_cut_into_reads_does_not_matter(cuts in proptest::collection::vec(1usize..40, 1..60), tail in ".{0,40}") {
            let text = format!(
                "POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n\
                 PUT /y HTTP/1.1\r\nHost: b\r\nContent-Length: 4\r\n\r\nab\n\rGET / HTTP/1.1\r\nHost: c\r\n{tail}\r\n\r\n"
            );
            let whole = Scanner::new(HEAD_LIMIT).scan(text.as_bytes());
            let mut scanner = Scanner::new(HEAD_LIMIT);
            let (mut rest, mut parts, mut cuts) = (text.as_bytes(), Scan::All, cuts.iter().cycle());
            while !rest.is_empty() && parts == Scan::All {
                let (now, later) = rest.split_at((*cuts.next().expect("a cycle")).min(rest.len()));
                parts = scanner.scan(now);
                rest = later;
            }
            prop_assert_eq!(matches!(whole, Scan::Refuse(..)), matches!(parts, Scan::Refuse(..)));
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..500)) {
            let mut scanner = Scanner::new(HEAD_LIMIT);
            let _ = scanner.scan(&bytes);
        }
    }
}
