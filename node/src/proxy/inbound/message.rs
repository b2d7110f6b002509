//! A request's head in the form of the protocol that carries it on.

use super::super::failure::Cause;
use bytes::Bytes;
use http::{
    HeaderValue, Uri, Version,
    header::{COOKIE, HOST},
    request::Parts,
    uri::PathAndQuery,
};

/// A request as HTTP/1.1 carries it: path in the request line, authority in `Host`, one `Cookie` line.
pub(in crate::proxy) fn to_http1(parts: &mut Parts, host: HeaderValue) {
    if parts.version == Version::HTTP_2 {
        join_cookies(parts);
    }
    parts.version = Version::HTTP_11;
    parts.headers.insert(HOST, host);
    if parts.uri.authority().is_some() {
        let path = parts.uri.path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/"));
        parts.uri = Uri::from(path);
    }
}

/// A request as HTTP/2 carries it: the authority in the target.
///
/// # Errors
/// The authority cannot stand in a target.
pub(in crate::proxy) fn to_http2(parts: &mut Parts, host: &HeaderValue) -> Result<(), Cause> {
    parts.version = Version::HTTP_2;
    parts.headers.remove(HOST);
    let path = parts.uri.path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/"));
    let uri = Uri::builder().scheme("http").authority(host.as_bytes()).path_and_query(path);
    parts.uri = uri.build().map_err(|_| Cause::BadRequest("not a host"))?;
    Ok(())
}

/// HTTP/2 may cut `Cookie` into lines; HTTP/1 must have one (RFC 9113 8.2.3).
fn join_cookies(parts: &mut Parts) {
    let lines: Vec<&[u8]> = parts.headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if lines.len() > 1
        && let Ok(joined) = HeaderValue::from_maybe_shared(Bytes::from(lines.join(&b"; "[..])))
    {
        parts.headers.insert(COOKIE, joined);
    }
}
