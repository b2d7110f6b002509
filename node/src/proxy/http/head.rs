//! What a request's head must be before anything reads it, and which headers end at this hop.

use super::Bounds;
use crate::{http1::takes_trailers, proxy::failure::Cause};
use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Version,
    header::{
        AUTHORIZATION, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, HOST, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
    },
    request::Parts,
    uri::{Authority, PathAndQuery, Scheme},
};
use policy::{
    headers::spelling::{begins, same},
    kinds::PathNormalization,
    normalize,
};
use std::net::IpAddr;

/// Who called, as this proxy tells the application.
pub(in crate::proxy) const FORWARDED_CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
/// The client's address, as a gateway tells it.
pub(in crate::proxy) const EXTERNAL_ADDRESS: HeaderName = HeaderName::from_static("x-envoy-external-address");
/// The client's address, as other proxies tell it; this one leaves it to routes.
pub(in crate::proxy) const REAL_ADDRESS: HeaderName = HeaderName::from_static("x-real-ip");
/// The calling node's address.
pub(in crate::proxy) const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The one authority of a request, as sent (R4, R6; attack cases A19-A21, A28-A29, A49).
///
/// # Errors
/// What the caller is answered.
pub(in crate::proxy) fn authority(parts: &Parts, bounds: &Bounds) -> Result<HeaderValue, Cause> {
    if parts.method == Method::CONNECT {
        // No route is for it, as in Istio.
        return Err(Cause::NoRoute);
    }
    if parts.method.as_str().bytes().any(|byte| byte.is_ascii_lowercase()) {
        return Err(Cause::BadRequest("not a method"));
    }
    if target_length(parts) > bounds.target {
        return Err(Cause::UriTooLong);
    }
    if parts.headers.len() > bounds.lines {
        // HTTP/2 may cut its one line of cookies into any number (RFC 9113, 8.2.3).
        let pieces = parts.headers.get_all(COOKIE).iter().count().saturating_sub(1);
        if parts.version != Version::HTTP_2 || parts.headers.len() - pieces > bounds.lines {
            return Err(Cause::HeadersTooLarge);
        }
    }
    // Not the path alone: that of `?x` counts as `/`.
    let path = parts.uri.path_and_query().map_or("", PathAndQuery::as_str);
    if !(path.starts_with('/') || path == "*" && parts.method == Method::OPTIONS) {
        return Err(Cause::BadRequest("not a path"));
    }
    let mut hosts = parts.headers.get_all(HOST).iter();
    let (host, more) = (hosts.next(), hosts.next());
    if more.is_some() {
        return Err(Cause::BadRequest("two Host headers"));
    }
    match (host, parts.uri.authority()) {
        (Some(host), None) => {
            check_syntax(host)?;
            Ok(host.clone())
        }
        (None, Some(named)) if parts.version == Version::HTTP_2 => {
            let host = HeaderValue::from_str(named.as_str()).map_err(|_| Cause::BadRequest("not a host"))?;
            check_syntax(&host)?;
            Ok(host)
        }
        (Some(host), Some(named)) => {
            check_syntax(host)?;
            let host_text = host.to_str().map_err(|_| Cause::BadRequest("not a host"))?;
            let port = if parts.uri.scheme() == Some(&Scheme::HTTPS) { ":443" } else { ":80" };
            if normal(host_text, port) != normal(named.as_str(), port) {
                return Err(Cause::BadRequest("Host differs from the request target"));
            }
            Ok(host.clone())
        }
        (None, _) => Err(Cause::BadRequest("no Host header")),
    }
}

/// Gives a request the path by which it is judged, routed and forwarded (R1, R2).
///
/// # Errors
/// It has none.
pub(in crate::proxy) fn normalize_path(parts: &mut Parts, level: PathNormalization) -> Result<(), Cause> {
    let normal = normalize::target(&parts.uri, level).map_err(|_| Cause::BadRequest("the path has no normal form"))?;
    if let Some(uri) = normal {
        parts.uri = uri;
    }
    Ok(())
}

/// The address that stands so many places before the last one of a list of them, in however many lines: each proxy appends one. The others
/// may be anything.
pub(in crate::proxy) fn address_from_end<'h>(
    lines: impl DoubleEndedIterator<Item = &'h HeaderValue>,
    back: usize,
) -> Option<IpAddr> {
    let item = lines.rev().flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b',')).nth(back)?;
    let address: IpAddr = std::str::from_utf8(item.trim_ascii()).ok()?.parse().ok()?;
    Some(address.to_canonical())
}

fn target_length(parts: &Parts) -> usize {
    parts.uri.path_and_query().map_or(0, |path| path.as_str().len())
        + parts.uri.authority().map_or(0, |authority| authority.as_str().len())
}

fn check_syntax(host: &HeaderValue) -> Result<(), Cause> {
    let bytes = host.as_bytes();
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    // Nearly all are names, with a port perhaps, which need no closer look.
    let name = bytes.iter().position(|byte| !plain(byte)).map_or(bytes, |end| &bytes[..end]);
    let rest = &bytes[name.len()..];
    let is_port = |rest: &[u8]| matches!(rest, [b':', port @ ..] if is_port(port));
    let plain = !name.is_empty() && (rest.is_empty() || is_port(rest));
    let uncommon = || {
        let text = host.to_str().unwrap_or_default();
        let port = text.rsplit_once(':').map(|(_, port)| port).filter(|port| !port.contains(']'));
        let valid = !text.is_empty() && !text.contains('@') && Authority::try_from(text).is_ok();
        valid && port.is_none_or(|port| port.is_empty() || self::is_port(port.as_bytes()))
    };
    if plain || uncommon() { Ok(()) } else { Err(Cause::BadRequest("not a host")) }
}

/// A port that there can be: a larger one, or none at all, would be taken for the scheme's.
fn is_port(port: &[u8]) -> bool {
    let digits = std::str::from_utf8(port).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    digits.and_then(|text| text.parse::<u16>().ok()).is_some_and(|port| port > 0)
}

/// Lower case, without the dot that ends a full name and without the scheme's own port.
fn normal(authority: &str, port: &str) -> String {
    let authority = authority.strip_suffix(port).unwrap_or(authority);
    authority.strip_suffix('.').unwrap_or(authority).to_ascii_lowercase()
}

/// Removes what concerns one connection only, and what `Connection` names, except what others rely on (A18).
/// `TE: trailers` stays, as gRPC demands it.
pub(in crate::proxy) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    // One look at each name costs less than a search for each of those.
    let present: Vec<HeaderName> = headers.keys().filter(|name| is_hop_by_hop(name.as_str())).cloned().collect();
    if present.contains(&CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(CONNECTION)
            .iter()
            .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
            .filter_map(|name| std::str::from_utf8(name.trim_ascii()).ok())
            // Most name what goes anyway.
            .filter(|name| !is_hop_by_hop(name))
            .filter_map(|name| HeaderName::from_bytes(name.as_bytes()).ok())
            .filter(|name| !is_protected(name))
            .collect();
        for name in named {
            headers.remove(name);
        }
    }
    let takes_trailers = present.contains(&TE) && takes_trailers(headers);
    for name in present {
        headers.remove(name);
    }
    if takes_trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
}

/// What [`strip_hop_by_hop`] removes, or looks at. The proxy's own server answers `Expect` when the body is first asked for, that of HTTP/2
/// never does; an upgrade to HTTP/2 is never taken up (RFC 7540, 3.2.1).
fn is_hop_by_hop(name: &str) -> bool {
    matches!(
        name,
        "connection"
            | "te"
            | "keep-alive"
            | "proxy-connection"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "transfer-encoding"
            | "upgrade"
            | "http2-settings"
            | "expect"
    )
}

/// Never taken away because `Connection` names it.
fn is_protected(name: &HeaderName) -> bool {
    const FAMILIES: [&str; 4] = ["x-skein-", "x-forwarded-", "x-envoy-", "x-b3-"];
    const TRACES: [&str; 4] = ["x-request-id", "traceparent", "tracestate", "b3"];
    let text = name.as_str();
    [AUTHORIZATION, COOKIE, HOST, CONTENT_LENGTH, TE, TRAILER].contains(name)
        || TRACES.contains(&text)
        || FAMILIES.iter().any(|family| text.starts_with(family))
}

/// Removes what speaks of identity and way: this proxy says it, nobody else (R5, A55).
pub(in crate::proxy) fn strip_identity(headers: &mut HeaderMap) {
    remove_if(headers, is_of_identity);
}

/// Removes what a caller outside the mesh says of itself, of its way, and of what proxies should do for it: nobody believes it.
pub(in crate::proxy) fn strip_claims(headers: &mut HeaderMap) {
    let of_way = |name: &str| begins(name, "x-forwarded-") || begins(name, "x-envoy-") || same(name, "x-request-id");
    remove_if(headers, |name| of_way(name) || is_of_identity(name));
}

/// In whatever spelling: an application may read `x_forwarded_for` as the header that it believes.
fn is_of_identity(name: &str) -> bool {
    let named = ["x-forwarded-client-cert", "x-forwarded-for", "x-envoy-external-address", "forwarded", "x-real-ip"];
    named.iter().any(|known| same(name, known)) || is_own(name)
}

/// True for what this proxy alone says in a message: where it goes, how it is framed, whom it is from.
pub(in crate::proxy) fn is_proxys(name: &str) -> bool {
    matches!(name, "host" | "content-length" | "trailer") || is_hop_by_hop(name) || is_of_identity(name)
}

/// Removes every `x-skein-*` header.
pub(in crate::proxy) fn strip_own(headers: &mut HeaderMap) {
    remove_if(headers, is_own);
}

fn is_own(name: &str) -> bool {
    begins(name, "x-skein-")
}

/// Removes the headers of these names; there are seldom any.
fn remove_if(headers: &mut HeaderMap, is_removed: impl Fn(&str) -> bool) {
    let removed: Vec<HeaderName> = headers.keys().filter(|name| is_removed(name.as_str())).cloned().collect();
    for name in removed {
        headers.remove(name);
    }
}

/// Makes one line of all `Cookie` lines: HTTP/2 may cut it (RFC 9113 8.2.3), a caller may repeat it, and applications read both as
/// one. So it is joined before anything looks at it.
pub(in crate::proxy) fn join_cookies(headers: &mut HeaderMap) {
    let lines: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if lines.len() > 1
        && let Ok(joined) = HeaderValue::from_maybe_shared(Bytes::from(lines.join(&b"; "[..])))
    {
        headers.insert(COOKIE, joined);
    }
}

/// Removes trailers that would change the meaning of a message that was already acted upon (RFC 9110 6.5.1, A12).
pub(in crate::proxy) fn strip_trailers(trailers: &mut HeaderMap) {
    for name in [HOST, CONTENT_LENGTH, TRANSFER_ENCODING, AUTHORIZATION, COOKIE, TE, TRAILER, CONNECTION, UPGRADE] {
        trailers.remove(name);
    }
    strip_identity(trailers);
}

/// True for requests whose answers carry their status as gRPC does.
pub(in crate::proxy) fn is_grpc(headers: &HeaderMap) -> bool {
    let rest = content_type(headers).strip_prefix(b"application/grpc");
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

/// True for streams of Connect's own protocol; its other calls are plain requests.
pub(super) fn is_connect_stream(headers: &HeaderMap) -> bool {
    content_type(headers).starts_with(b"application/connect+")
}

fn content_type(headers: &HeaderMap) -> &[u8] {
    headers.get(CONTENT_TYPE).map_or(b"", HeaderValue::as_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;
    use policy::kinds::Limits;

    fn judged(request: http::request::Builder) -> Result<String, Cause> {
        let (parts, ()) = request.body(()).expect("a request").into_parts();
        authority(&parts, &Bounds::of_applications(&Limits::default()))
            .map(|host| host.to_str().expect("ASCII").to_owned())
    }

    #[test]
    fn a20_absolute_form_names_the_same_host() {
        let absolute = |uri: &str, host: &str| judged(Request::get(uri).header("host", host)).is_ok();
        assert!(absolute("http://Reviews.default:80/x", "reviews.default"));
        assert!(absolute("http://reviews./x", "REVIEWS:80"));
        assert!(!absolute("http://reviews/x", "ratings"));
        assert!(!absolute("http://reviews:9080/x", "reviews"));
    }

    #[test]
    fn a21_exactly_one_host() {
        assert!(judged(Request::get("/").header("host", "a").header("host", "a")).is_err());
        assert!(judged(Request::get("/").header("host", "")).is_err());
        assert!(judged(Request::get("/")).is_err());
        assert_eq!(judged(Request::get("/").header("host", "Reviews:9080")), Ok("Reviews:9080".to_owned()));
    }

    #[test]
    fn a29_h2_authority_and_host() {
        let h2 = |uri: &str| Request::get(uri).version(Version::HTTP_2);
        assert_eq!(judged(h2("http://a/")), Ok("a".to_owned()));
        assert!(judged(h2("http://a/").header("host", "b")).is_err());
        assert!(judged(h2("https://a:443/").header("host", "a")).is_ok(), "the scheme's own port");
        assert!(judged(h2("https://a:80/").header("host", "a")).is_err());
    }

    #[test]
    fn a49_hosts_that_are_none() {
        for host in
            ["a@b", "a b", "a/b", "[::1", "a:b:c", "a:8 0", ":80:", "a:80@b", "a:abc", "a:0", "a:65536", "[::1]:99999"]
        {
            assert!(judged(Request::get("/").header("host", host)).is_err(), "{host:?}");
        }
        for host in ["[::1]:80", "[::1]", "a:", "a:65535", "a:00080"] {
            assert!(judged(Request::get("/").header("host", host)).is_ok(), "{host:?}");
        }
    }

    #[test]
    fn cookies_that_http2_cuts_are_one_line() {
        let limits = Limits::default();
        let with = |version, name: &'static str, count: usize| {
            let request = Request::get("http://a/").version(version).header("host", "a");
            judged((0..count).fold(request, |request, number| request.header(name, format!("c{number}=1"))))
        };
        assert!(with(Version::HTTP_2, "cookie", limits.headers + 50).is_ok());
        assert_eq!(with(Version::HTTP_2, "x", limits.headers + 50), Err(Cause::HeadersTooLarge));
        assert_eq!(with(Version::HTTP_11, "cookie", limits.headers + 50), Err(Cause::HeadersTooLarge));
    }

    #[test]
    fn limits_and_methods() {
        let long = format!("/{}", "a".repeat(8 * 1024));
        assert_eq!(judged(Request::get(long).header("host", "a")), Err(Cause::UriTooLong));
        assert!(matches!(judged(Request::connect("a:443")), Err(Cause::NoRoute)));
        assert!(judged(Request::builder().method("get").uri("/").header("host", "a")).is_err());
        assert!(judged(Request::builder().method("OPTIONS").uri("*").header("host", "a")).is_ok());
        assert!(judged(Request::builder().method("GET").uri("*").header("host", "a")).is_err());
    }

    #[test]
    fn a18_connection_names_only_what_may_go() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "Authorization, x-skein-source, foo, keep-alive"),
            ("authorization", "secret"),
            ("x-skein-source", "mine"),
            ("foo", "bar"),
            ("keep-alive", "timeout=5"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        strip_hop_by_hop(&mut headers);
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["authorization", "te", "x-skein-source"]);
    }

    #[test]
    fn trailers_are_wanted_beside_codings_too() {
        for (sent, kept) in [
            (&["trailers"][..], true),
            (&["Trailers, deflate"], true),
            (&["deflate;q=0.5 , trailers;q=1"], true),
            (&["gzip", "trailers"], true),
            (&["deflate"], false),
            (&["x-trailers"], false),
        ] {
            let mut headers = HeaderMap::new();
            for value in sent {
                headers.append(TE, HeaderValue::from_static(value));
            }
            strip_hop_by_hop(&mut headers);
            let te: Vec<_> = headers.get_all(TE).iter().collect();
            assert_eq!(te, if kept { vec!["trailers"] } else { vec![] }, "{sent:?}");
        }
    }

    #[test]
    fn every_header_of_one_hop_is_seen() {
        for name in [
            "connection",
            "te",
            "keep-alive",
            "proxy-connection",
            "proxy-authenticate",
            "proxy-authorization",
            "transfer-encoding",
            "upgrade",
            "http2-settings",
            "expect",
        ] {
            let mut headers = HeaderMap::from_iter([(HeaderName::from_static(name), HeaderValue::from_static("x"))]);
            strip_hop_by_hop(&mut headers);
            assert!(headers.is_empty(), "{name}");
        }
    }

    #[test]
    fn a55_identity_is_never_the_callers_to_say() {
        let mut headers = HeaderMap::new();
        for name in ["x-forwarded-client-cert", "x-skein-source", "x-forwarded-for", "forwarded", "x-real-ip", "accept"]
        {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static("127.0.0.1"));
        }
        strip_identity(&mut headers);
        assert_eq!(headers.len(), 1);
    }

    #[test]
    fn a55_nor_in_another_spelling() {
        let spelt =
            ["x_forwarded_client_cert", "x-forwarded_for", "x_skein_source", "x_envoy_external_address", "x_real_ip"];
        let sent = || {
            HeaderMap::from_iter(
                spelt
                    .iter()
                    .chain(&["x_user", "x_forwarded_host"])
                    .map(|name| (HeaderName::from_static(name), HeaderValue::from_static("root"))),
            )
        };
        let left = |headers: &HeaderMap| {
            let mut left: Vec<_> = headers.keys().map(|name| name.as_str().to_owned()).collect();
            left.sort_unstable();
            left
        };
        let (mut of_identity, mut claims, mut trailers) = (sent(), sent(), sent());
        strip_identity(&mut of_identity);
        strip_claims(&mut claims);
        strip_trailers(&mut trailers);
        assert_eq!(left(&of_identity), ["x_forwarded_host", "x_user"]);
        assert_eq!(left(&claims), ["x_user"]);
        assert_eq!(left(&trailers), ["x_forwarded_host", "x_user"]);
    }

    #[test]
    fn what_the_proxy_alone_says_is_known() {
        for name in ["host", "content-length", "connection", "upgrade", "x-forwarded-client-cert", "x-skein-outcome"] {
            assert!(is_proxys(name), "{name}");
        }
        assert!(!is_proxys("authorization") && !is_proxys("cookie") && !is_proxys("x-user"));
    }

    #[test]
    fn grpc_is_told_by_its_content_type() {
        let told = |value: &'static str| {
            is_grpc(&HeaderMap::from_iter([(http::header::CONTENT_TYPE, HeaderValue::from_static(value))]))
        };
        assert!(told("application/grpc") && told("application/grpc+proto"));
        assert!(!told("application/grpc-web") && !told("text/html"));
    }
}
