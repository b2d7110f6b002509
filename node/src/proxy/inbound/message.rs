//! A request's head in the form of the protocol that carries it on.

use super::super::failure::Cause;
use http::{HeaderValue, Uri, Version, header::HOST, request::Parts, uri::PathAndQuery};

/// A request as HTTP/1.1 carries it: path in the request line, authority in `Host`.
pub(in crate::proxy) fn to_http1(parts: &mut Parts, host: &HeaderValue) {
    parts.version = Version::HTTP_11;
    // Nearly always it is what was read from there.
    let mut told = parts.headers.get_all(HOST).iter();
    if told.next() != Some(host) || told.next().is_some() {
        parts.headers.insert(HOST, host.clone());
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_host_is_told_whatever_stood_there() {
        let host = HeaderValue::from_static("shop.example");
        for told in [&[][..], &["shop.example"], &["other.example"], &["shop.example", "shop.example"], &["a", "b"]] {
            let (mut parts, ()) = http::Request::new(()).into_parts();
            for told in told {
                parts.headers.append(HOST, HeaderValue::from_static(told));
            }
            to_http1(&mut parts, &host);
            assert_eq!(parts.headers.get_all(HOST).iter().collect::<Vec<_>>(), [&host], "{told:?}");
        }
    }
}
