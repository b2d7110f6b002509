//! Answers that the proxy gives by itself.

use super::{
    failure::{Answer, Cause},
    http::ResponseBody,
};
use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Response, StatusCode,
    header::{CONNECTION, CONTENT_TYPE, UPGRADE},
};

/// How a gRPC call ended.
pub(super) const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
/// A limit of connections or requests was met, as Envoy says it.
pub(super) const OVERLOADED: HeaderName = HeaderName::from_static("x-envoy-overloaded");

/// The answer to a request that failed for this cause, in the form that the caller reads.
pub(super) fn failure(cause: Cause, grpc: bool) -> Response<ResponseBody> {
    let Answer { status, body, close, flags: _, fault: _ } = cause.answer();
    let mut response =
        if grpc { grpc_error(cause.grpc_status(), body) } else { text(status, Bytes::from_static(body.as_bytes())) };
    if cause == Cause::Overflow {
        response.headers_mut().insert(OVERLOADED, HeaderValue::from_static("true"));
    }
    if cause == Cause::OldVersion {
        response.headers_mut().insert(UPGRADE, HeaderValue::from_static("HTTP/1.1"));
    }
    if close {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// A text, or nothing.
pub(super) fn text(status: StatusCode, body: Bytes) -> Response<ResponseBody> {
    let empty = body.is_empty();
    let mut response = Response::new(ResponseBody::full(body));
    *response.status_mut() = status;
    if !empty {
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    }
    response
}

/// A gRPC answer without messages: 200, the status among the headers (trailers-only).
pub(super) fn grpc_error(status: u8, message: &str) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::full(Bytes::new()));
    let headers = response.headers_mut();
    headers.extend(grpc_trailers(status, message));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

/// What ends a gRPC answer.
pub(super) fn grpc_trailers(status: u8, message: &str) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert(GRPC_STATUS, HeaderValue::from(u16::from(status)));
    if let Ok(message) = HeaderValue::from_str(&percent_encoded(message))
        && !message.is_empty()
    {
        trailers.insert("grpc-message", message);
    }
    trailers
}

/// `grpc-message`: printable ASCII without `%`, the rest percent-encoded.
fn percent_encoded(message: &str) -> String {
    const KEPT: &percent_encoding::AsciiSet = &percent_encoding::CONTROLS.add(b'%');
    percent_encoding::utf8_percent_encode(message, KEPT).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_callers_get_their_own_form() {
        let response = failure(Cause::NoHealthy, true);
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["grpc-status"], "14");
        assert_eq!(response.headers()["grpc-message"], "no healthy upstream");
    }

    #[test]
    fn http_callers_get_envoys_body() {
        let response = failure(Cause::NoHealthy, false);
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.headers()[CONTENT_TYPE], "text/plain");
        assert_eq!(failure(Cause::Overflow, false).headers()["x-envoy-overloaded"], "true");
        assert!(failure(Cause::BadRequest("x"), false).headers().contains_key(CONNECTION));
    }
}
