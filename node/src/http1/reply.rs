//! The head of a response as it goes to a caller.

use super::{
    encoder::{Encoder, Out, write_length},
    head::{Bad, Framing, announced, framing, keeps_alive, takes_trailers, write_headers},
};
use crate::clock;
use bytes::{Bytes, BytesMut};
use http::{
    HeaderMap, Method, StatusCode, Version,
    header::{CONNECTION, CONTENT_LENGTH, DATE},
    response::Parts,
};
use std::cell::RefCell;

/// What a response depends on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    is_head: bool,
    is_connect: bool,
    version: Version,
    takes_trailers: bool,
    goes_on: bool,
}

impl Asked {
    /// By a request after which the connection may go on, or not.
    pub(super) fn of(method: &Method, version: Version, headers: &HeaderMap, goes_on: bool) -> Self {
        let (is_head, is_connect) = (method == Method::HEAD, method == Method::CONNECT);
        Self { is_head, is_connect, version, takes_trailers: takes_trailers(headers), goes_on }
    }

    pub(super) const fn is_connect(self) -> bool {
        self.is_connect
    }

    /// True if what follows an answer with this status is no HTTP (RFC 9110, 9.3.6).
    pub(super) fn opens_tunnel(self, status: StatusCode) -> bool {
        self.is_connect && status.is_success()
    }
}

/// Writes a response's head. Gives how its body is written, `None` if there is none, and whether the connection may go on.
///
/// # Errors
/// The response is ambiguous.
pub(super) fn write_head<B>(
    out: &mut Out,
    parts: &Parts,
    body: &B,
    asked: Asked,
    closes: bool,
) -> Result<(Option<Encoder>, bool), Bad>
where
    B: http_body::Body<Data = Bytes>,
{
    let mut goes_on = asked.goes_on && !closes && keeps_alive(Version::HTTP_11, &parts.headers);
    let is_interim = parts.status.is_informational() || asked.opens_tunnel(parts.status);
    let without_length = is_interim || parts.status == StatusCode::NO_CONTENT;
    let without_body = asked.is_head || without_length || parts.status == StatusCode::NOT_MODIFIED;
    let known = framing(&parts.headers)?;
    let out = out.buffer();
    out.reserve(512);
    write_status(out, asked.version, parts.status);
    if without_length {
        write_headers(out, parts.headers.iter().filter(|(name, _)| *name != CONTENT_LENGTH));
    } else {
        write_headers(out, &parts.headers);
    }
    let encoder = match (known, without_body) {
        (_, true) => None,
        (Framing::Length(0), false) => None,
        (Framing::Length(length), false) => Some(Encoder::Length(length)),
        (Framing::Chunked, false) => Some(chunked(parts, asked)),
        (Framing::Open, false) if body.is_end_stream() => {
            write_length(out, 0);
            None
        }
        (Framing::Open, false) => match body.size_hint().exact() {
            Some(length) => {
                write_length(out, length);
                Some(Encoder::Length(length))
            }
            None if asked.version == Version::HTTP_11 => {
                out.extend_from_slice(b"transfer-encoding: chunked\r\n");
                Some(chunked(parts, asked))
            }
            None => {
                goes_on = false;
                Some(Encoder::UntilEnd)
            }
        },
    };
    if !parts.headers.contains_key(CONNECTION) {
        match (goes_on, asked.version) {
            (true, Version::HTTP_11) => {}
            (true, _) => out.extend_from_slice(b"connection: keep-alive\r\n"),
            (false, _) => out.extend_from_slice(b"connection: close\r\n"),
        }
    }
    if !parts.headers.contains_key(DATE) && !is_interim {
        write_date(out);
    }
    out.extend_from_slice(b"\r\n");
    Ok((encoder, goes_on))
}

fn chunked(parts: &Parts, asked: Asked) -> Encoder {
    Encoder::Chunked(if asked.takes_trailers { announced(&parts.headers) } else { Vec::new() })
}

/// Writes a whole answer without a body, after which the connection ends.
pub(super) fn write_refusal(out: &mut Out, status: StatusCode) {
    let out = out.buffer();
    write_status(out, Version::HTTP_11, status);
    out.extend_from_slice(b"connection: close\r\n");
    write_length(out, 0);
    write_date(out);
    out.extend_from_slice(b"\r\n");
}

fn write_status(out: &mut BytesMut, version: Version, status: StatusCode) {
    let version = if version == Version::HTTP_10 { "HTTP/1.0 " } else { "HTTP/1.1 " };
    for part in [version, status.as_str(), " ", status.canonical_reason().unwrap_or_default(), "\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
}

thread_local! {
    /// The second that was written last, and its line.
    static WRITTEN: RefCell<(u64, String)> = const { RefCell::new((u64::MAX, String::new())) };
}

/// Writes the time as RFC 9110 6.6.1 wants it of a proxy whose response has none.
fn write_date(out: &mut BytesMut) {
    let now = clock::wall() / 1_000;
    WRITTEN.with_borrow_mut(|(second, line)| {
        if *second != now {
            (*second, *line) = (now, date(now));
        }
        out.extend_from_slice(line.as_bytes());
    });
}

fn date(second: u64) -> String {
    let time = i64::try_from(second).ok().and_then(|second| jiff::Timestamp::from_second(second).ok());
    time.map(|time| time.strftime("date: %a, %d %b %Y %H:%M:%S GMT\r\n").to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderValue, Response, header::TRAILER};
    use http_body_util::{BodyExt, Full, combinators::BoxBody};

    type Body = BoxBody<Bytes, std::convert::Infallible>;

    fn full(text: &'static str) -> Body {
        Full::new(Bytes::from_static(text.as_bytes())).boxed()
    }

    /// A body whose length is not known.
    fn open() -> Body {
        let frames = futures_util::stream::iter([Ok(http_body::Frame::data(Bytes::from_static(b"x")))]);
        BodyExt::boxed(http_body_util::StreamBody::new(frames))
    }

    fn head(response: http::response::Builder, body: &Body, method: Method, version: Version) -> (String, bool) {
        let (parts, ()) = response.header(DATE, "now").body(()).unwrap().into_parts();
        let headers = HeaderMap::from_iter([(http::header::TE, HeaderValue::from_static("trailers"))]);
        let asked = Asked::of(&method, version, &headers, version == Version::HTTP_11);
        let mut out = Out::default();
        let (_, goes_on) = write_head(&mut out, &parts, body, asked, false).unwrap();
        (String::from_utf8(out.buffer().to_vec()).unwrap(), goes_on)
    }

    #[test]
    fn every_response_has_one_framing() {
        let http11 = |response, body: &Body| head(response, body, Method::GET, Version::HTTP_11).0;
        let ok = Response::builder;
        assert_eq!(http11(ok(), &full("ab")), "HTTP/1.1 200 OK\r\ndate: now\r\ncontent-length: 2\r\n\r\n");
        assert_eq!(http11(ok(), &full("")), "HTTP/1.1 200 OK\r\ndate: now\r\ncontent-length: 0\r\n\r\n");
        assert_eq!(http11(ok(), &open()), "HTTP/1.1 200 OK\r\ndate: now\r\ntransfer-encoding: chunked\r\n\r\n");
        let with_length = || Response::builder().header(CONTENT_LENGTH, "2");
        assert_eq!(http11(with_length(), &open()), "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ndate: now\r\n\r\n");
        assert_eq!(http11(with_length().status(204), &full("")), "HTTP/1.1 204 No Content\r\ndate: now\r\n\r\n");
        let same = http11(with_length().status(304), &full(""));
        assert_eq!(same, "HTTP/1.1 304 Not Modified\r\ncontent-length: 2\r\ndate: now\r\n\r\n");
        let (to_head, _) = head(with_length(), &full(""), Method::HEAD, Version::HTTP_11);
        assert_eq!(to_head, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ndate: now\r\n\r\n");
        let (old, goes_on) = head(ok(), &open(), Method::GET, Version::HTTP_10);
        assert_eq!((old.as_str(), goes_on), ("HTTP/1.0 200 OK\r\ndate: now\r\nconnection: close\r\n\r\n", false));
    }

    #[test]
    fn a_response_that_closes_says_so() {
        let response = Response::builder().header(CONNECTION, "close");
        let (text, goes_on) = head(response, &full(""), Method::GET, Version::HTTP_11);
        assert!(text.contains("connection: close\r\n") && !goes_on, "{text}");
        let response = Response::builder().header(TRAILER, "x-sum");
        assert!(head(response, &open(), Method::GET, Version::HTTP_11).0.contains("trailer: x-sum\r\n"));
    }

    #[test]
    fn dates_are_those_of_rfc_9110() {
        assert_eq!(date(784_111_777), "date: Sun, 06 Nov 1994 08:49:37 GMT\r\n");
    }
}
