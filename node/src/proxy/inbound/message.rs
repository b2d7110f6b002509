//! A request's head in the form of the protocol that carries it on.

use super::super::failure::Cause;
use http::{HeaderValue, Uri, Version, header::HOST, request::Parts, uri::PathAndQuery};

/// A request as HTTP/1.1 carries it: path in the request line, authority in `Host`.
pub(in crate::proxy) fn to_http1(parts: &mut Parts, host: HeaderValue) {
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
pub(in crate::proxy) fn to_http2(parts: &mut Parts, host: &HeaderValue, scheme: &str) -> Result<(), Cause> {
    parts.version = Version::HTTP_2;
    parts.headers.remove(HOST);
    let path = parts.uri.path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/"));
    let uri = Uri::builder().scheme(scheme).authority(host.as_bytes()).path_and_query(path);
    parts.uri = uri.build().map_err(|_| Cause::BadRequest("not a host"))?;
    Ok(())
}
