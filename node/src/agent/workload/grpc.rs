//! gRPC over HTTP/2 as far as the Workload API needs it: one message in, messages out one by one, a status at the end.
//!
//! Source: gRPC over HTTP2 (PROTOCOL-HTTP2.md), SPIFFE Workload Endpoint.

use std::{convert::Infallible, time::Duration};

use bytes::{Buf as _, Bytes};
use futures_util::stream;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Empty, Limited, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Frame, Incoming};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use zeroize::Zeroizing;

use super::feed::Feed;

/// The metadata that every call carries, so that no request which somebody else was talked into is answered (SSRF).
const METADATA: &str = "workload.spiffe.io";
/// Most bytes of a request's message.
const REQUEST_BYTES: usize = 16 << 10;
/// How long a request's message may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes before each message: compressed or not, and its length.
const PREFIX: usize = 5;
/// What may not stand in `grpc-message` as it is.
const ENCODED: &AsciiSet = &CONTROLS.add(b'%');

/// An answer's body.
pub(super) type Answer = UnsyncBoxBody<Bytes, Infallible>;

/// Statuses that this service gives, by gRPC's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Code {
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    Unimplemented = 12,
    Unavailable = 14,
}

/// How a call ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Status {
    pub(super) code: Code,
    pub(super) message: String,
}

impl Status {
    pub(super) fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// The status as trailers, or as the head of an answer without messages.
    fn fields(&self) -> HeaderMap {
        let message = utf8_percent_encode(&self.message, ENCODED).to_string();
        let mut fields = HeaderMap::new();
        fields.insert("grpc-status", HeaderValue::from(self.code as u16));
        if let Ok(message) = HeaderValue::from_str(&message) {
            fields.insert("grpc-message", message);
        }
        fields
    }
}

/// Whether a request is a gRPC call at all.
pub(super) fn is_grpc<B>(request: &Request<B>) -> bool {
    let sort = request.headers().get(header::CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    let rest = sort.strip_prefix(b"application/grpc");
    // `application/grpc-web` is another protocol.
    *request.method() == Method::POST && rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

/// The answer to what is no gRPC call.
pub(super) fn unsupported() -> Response<Answer> {
    let mut answer = Response::new(Empty::new().boxed_unsync());
    *answer.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
    answer
}

/// Sees that the call carries the metadata that the standard demands, once and as it demands it.
///
/// # Errors
/// `InvalidArgument`.
pub(super) fn demand_metadata(headers: &HeaderMap) -> Result<(), Status> {
    let mut given = headers.get_all(METADATA).iter();
    match (given.next(), given.next()) {
        (Some(value), None) if value.as_bytes() == b"true" => Ok(()),
        (_, _) => {
            Err(Status::new(Code::InvalidArgument, format!("security header missing: metadata `{METADATA}: true`")))
        }
    }
}

/// Reads the one message of a request.
///
/// # Errors
/// `InvalidArgument` for anything else than one message, `ResourceExhausted` for a long one, `Unimplemented` for a compressed one,
/// `DeadlineExceeded`.
pub(super) async fn read(body: Incoming) -> Result<Bytes, Status> {
    let late = |_| Status::new(Code::DeadlineExceeded, format!("no request within {PATIENCE:?}"));
    let collected = tokio::time::timeout(PATIENCE, Limited::new(body, REQUEST_BYTES + PREFIX).collect()).await;
    let long =
        |error| Status::new(Code::ResourceExhausted, format!("a request of at most {REQUEST_BYTES} bytes: {error}"));
    unframed(collected.map_err(late)?.map_err(long)?.to_bytes())
}

fn unframed(mut body: Bytes) -> Result<Bytes, Status> {
    let bad = |what: &str| Err(Status::new(Code::InvalidArgument, what));
    if body.len() < PREFIX {
        return bad("a request has one message");
    }
    let (compressed, length) = (body.get_u8(), body.get_u32());
    match compressed {
        0 if usize::try_from(length).is_ok_and(|length| length == body.len()) => Ok(body),
        0 => bad("a request has one whole message"),
        1 => Err(Status::new(Code::Unimplemented, "compressed messages are not read")),
        _ => bad("not a gRPC message"),
    }
}

/// An answer that consists of a status.
pub(super) fn refusal(status: &Status) -> Response<Answer> {
    let mut answer = begun(Empty::new().boxed_unsync());
    answer.headers_mut().extend(status.fields());
    answer
}

/// An answer that goes on: the first message now, then what the feed says, and how it ends. The feed is asked only while HTTP/2 has room
/// for more, so one that does not read costs no more than its connection's buffer.
pub(super) fn stream(first: Zeroizing<Vec<u8>>, feed: Feed) -> Response<Answer> {
    let frames = stream::unfold((Some(first), Some(feed)), |(first, feed)| async move {
        let mut feed = feed?;
        let next = match first {
            Some(message) => Ok(message),
            None => feed.next().await,
        };
        let (frame, feed) = match next {
            Ok(message) => (Frame::data(framed(&message)), Some(feed)),
            Err(status) => (Frame::trailers(status.fields()), None),
        };
        Some((Ok::<_, Infallible>(frame), (None, feed)))
    });
    begun(StreamBody::new(frames).boxed_unsync())
}

/// A message behind its prefix, in memory that is wiped once it is sent.
fn framed(message: &[u8]) -> Bytes {
    let mut frame = Zeroizing::new(Vec::with_capacity(PREFIX + message.len()));
    frame.push(0);
    frame.extend_from_slice(&u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes());
    frame.extend_from_slice(message);
    Bytes::from_owner(Wiped(frame))
}

/// What [`Bytes`] may own.
struct Wiped(Zeroizing<Vec<u8>>);

impl AsRef<[u8]> for Wiped {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

fn begun(body: Answer) -> Response<Answer> {
    let mut answer = Response::new(body);
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_metadata_is_there_once_and_says_true() {
        let with = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(METADATA, HeaderValue::from_static(value));
            }
            demand_metadata(&headers).map_err(|status| status.code)
        };
        assert_eq!(with(&["true"]), Ok(()));
        for wrong in [&[][..], &["True"], &["1"], &["true", "true"], &["false", "true"], &[""]] {
            assert_eq!(with(wrong), Err(Code::InvalidArgument), "{wrong:?}");
        }
    }

    #[test]
    fn only_grpc_is_grpc() {
        let asked = |method: Method, sort: &'static str| {
            is_grpc(&Request::builder().method(method).header(header::CONTENT_TYPE, sort).body(()).unwrap())
        };
        for sort in ["application/grpc", "application/grpc+proto", "application/grpc;charset=x"] {
            assert!(asked(Method::POST, sort), "{sort}");
            assert!(!asked(Method::GET, sort), "{sort}");
        }
        for sort in ["application/grpc-web", "application/json", ""] {
            assert!(!asked(Method::POST, sort), "{sort}");
        }
    }

    #[test]
    fn a_request_is_one_message_and_nothing_else() {
        let read = |bytes: &'static [u8]| unframed(Bytes::from_static(bytes)).map_err(|status| status.code);
        assert_eq!(read(&[0, 0, 0, 0, 0]), Ok(Bytes::new()));
        assert_eq!(read(&[0, 0, 0, 0, 2, 8, 1]), Ok(Bytes::from_static(&[8, 1])));
        assert_eq!(read(&[1, 0, 0, 0, 0]), Err(Code::Unimplemented));
        for bad in
            [&[][..], &[0, 0, 0, 0], &[0, 0, 0, 0, 1], &[0, 0, 0, 0, 0, 0], &[2, 0, 0, 0, 0], &[0, 255, 255, 255, 255]]
        {
            assert_eq!(read(bad), Err(Code::InvalidArgument), "{bad:?}");
        }
    }

    #[test]
    fn a_status_says_its_words_in_ascii() {
        let fields = Status::new(Code::PermissionDenied, "no identity: 100 % für 7\n").fields();
        assert_eq!(fields["grpc-status"], "7");
        assert_eq!(fields["grpc-message"], "no identity: 100 %25 f%C3%BCr 7%0A");
        assert_eq!(framed(&[9, 9]), Bytes::from_static(&[0, 0, 0, 0, 2, 9, 9]));
    }
}
