//! Which endpoint a request belongs to by `consistentHash`: the hash of something in it, and the cookie that the proxy
//! makes where there is none.

use crate::balance;
use http::{
    HeaderMap, HeaderValue,
    header::{COOKIE, SET_COOKIE},
    request::Parts,
};
use policy::kinds::{ConsistentHash, HashCookie, HashKey};
use std::{
    fmt::Write as _,
    net::{IpAddr, SocketAddr},
};

/// What a request is balanced by.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Affinity {
    /// `None`: by chance.
    pub(super) hash: Option<u64>,
    /// For the answer, so that later requests go the same way.
    cookie: Option<HeaderValue>,
}

impl Affinity {
    /// By the policy's key, of a request to this authority; `random` makes a cookie's value.
    pub(super) fn of(
        hash: &ConsistentHash,
        (parts, host): (&Parts, &HeaderValue),
        remote: SocketAddr,
        random: u64,
    ) -> Self {
        let plain = |hash: Option<u64>| Self { hash, cookie: None };
        match &hash.key {
            None => plain(None),
            Some(HashKey::Header(name)) => plain(match name.as_str() {
                ":authority" | "host" => Some(balance::hash(host.as_bytes())),
                ":method" => Some(balance::hash(parts.method.as_str().as_bytes())),
                ":path" => parts.uri.path_and_query().map(|path| balance::hash(path.as_str().as_bytes())),
                name => header(&parts.headers, name),
            }),
            Some(HashKey::SourceIp) => plain(Some(of_address(remote))),
            Some(HashKey::QueryParameter(name)) => plain(
                parameter(parts.uri.query().unwrap_or_default(), name).map(|value| balance::hash(value.as_bytes())),
            ),
            Some(HashKey::Cookie(cookie)) => match value(&parts.headers, &cookie.name) {
                Some(value) => plain(Some(balance::hash(value))),
                None => made(cookie, random),
            },
        }
    }

    /// Of a connection of bytes, which has nothing but its address.
    pub(super) fn of_connection(hash: &ConsistentHash, remote: SocketAddr) -> Option<u64> {
        (hash.key == Some(HashKey::SourceIp)).then(|| of_address(remote))
    }

    /// Tells the caller of the cookie that was made.
    pub(super) fn mark(self, headers: &mut HeaderMap) {
        if let Some(cookie) = self.cookie {
            headers.append(SET_COOKIE, cookie);
        }
    }
}

fn of_address(remote: SocketAddr) -> u64 {
    match remote.ip().to_canonical() {
        IpAddr::V4(address) => balance::hash(&address.octets()),
        IpAddr::V6(address) => balance::hash(&address.octets()),
    }
}

/// Several lines count together, in whatever order they came.
fn header(headers: &HeaderMap, name: &str) -> Option<u64> {
    let mut lines = headers.get_all(name).iter();
    let (first, more) = (lines.next()?, lines.next());
    let Some(more) = more else { return Some(balance::hash(first.as_bytes())) };
    let mut all: Vec<&[u8]> = [first, more].into_iter().chain(lines).map(HeaderValue::as_bytes).collect();
    all.sort_unstable();
    Some(balance::hash(&all.join(&b","[..])))
}

/// The first value of a parameter, as it stands in the query.
fn parameter<'q>(query: &'q str, name: &str) -> Option<&'q str> {
    let pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs.into_iter().find(|(key, _)| *key == name).map(|(_, value)| value)
}

/// The value of a cookie, without quotes.
fn value<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h [u8]> {
    let pairs = headers.get_all(COOKIE).iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b';'));
    let value = |pair: &'h [u8]| pair.trim_ascii().strip_prefix(name.as_bytes())?.strip_prefix(b"=");
    let value = pairs.into_iter().find_map(value)?;
    let quoted = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\""));
    Some(quoted.unwrap_or(value)).filter(|value| !value.is_empty())
}

/// A cookie in Envoy's form, where the policy gives it a time to live; 0 is for the session.
fn made(cookie: &HashCookie, random: u64) -> Affinity {
    let Some(ttl) = cookie.ttl else { return Affinity::default() };
    let value = format!("{random:016x}");
    let mut text = format!("{}=\"{value}\"", cookie.name);
    // Writing to a string does not fail.
    if !ttl.is_zero() {
        let _ = write!(text, "; Max-Age={}", ttl.as_secs());
    }
    if !cookie.path.is_empty() {
        let _ = write!(text, "; Path={}", cookie.path);
    }
    for (name, value) in &cookie.attributes {
        let _ = if value.is_empty() { write!(text, "; {name}") } else { write!(text, "; {name}={value}") };
    }
    text.push_str("; HttpOnly");
    Affinity { hash: Some(balance::hash(value.as_bytes())), cookie: HeaderValue::try_from(text).ok() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use policy::kinds::HashAlgorithm;
    use std::time::Duration;

    fn by(key: HashKey) -> ConsistentHash {
        ConsistentHash { key: Some(key), algorithm: HashAlgorithm::RingHash { minimum_ring_size: 1_024 } }
    }

    fn of(key: HashKey, request: http::request::Builder) -> Affinity {
        let (parts, ()) = request.body(()).unwrap().into_parts();
        Affinity::of(&by(key), (&parts, &HeaderValue::from_static("reviews")), "10.0.0.1:5000".parse().unwrap(), 0xab)
    }

    fn get(uri: &str) -> http::request::Builder {
        http::Request::get(uri)
    }

    #[test]
    fn headers_and_parameters() {
        let user = || HashKey::Header("x-user".to_owned());
        let hash = |value: &str| Some(balance::hash(value.as_bytes()));
        assert_eq!(of(user(), get("/").header("X-User", "ann")).hash, hash("ann"));
        assert_eq!(of(user(), get("/")).hash, None, "without the header by chance");
        let both = of(user(), get("/").header("x-user", "b").header("x-user", "a"));
        assert_eq!(both, of(user(), get("/").header("x-user", "a").header("x-user", "b")));
        let pseudo = |name: &str| of(HashKey::Header(name.to_owned()), get("/a?b")).hash;
        let [path, method, host] = [":path", ":method", ":authority"].map(pseudo);
        assert_eq!((path, method, host, host), (hash("/a?b"), hash("GET"), hash("reviews"), pseudo("host")));
        let id = || HashKey::QueryParameter("id".to_owned());
        assert_eq!(of(id(), get("/?a=1&id=7&id=8")).hash, hash("7"));
        assert_eq!(of(id(), get("/?Id=7")).hash, None);
    }

    #[test]
    fn a_source_is_its_address_without_the_port() {
        let hash = by(HashKey::SourceIp);
        let (parts, ()) = get("/").body(()).unwrap().into_parts();
        let at = |address: &str| {
            Affinity::of(&hash, (&parts, &HeaderValue::from_static("reviews")), address.parse().unwrap(), 0).hash
        };
        assert_eq!(at("10.0.0.1:1"), at("10.0.0.1:2"));
        assert_eq!(at("10.0.0.1:1"), at("[::ffff:10.0.0.1]:1"));
        assert_ne!(at("10.0.0.1:1"), at("10.0.0.2:1"));
    }

    #[test]
    fn cookies_are_read_and_made() {
        let cookie = |ttl: Option<u64>| {
            HashKey::Cookie(HashCookie {
                name: "c".to_owned(),
                path: "/p".to_owned(),
                ttl: ttl.map(Duration::from_secs),
                attributes: vec![("Secure".to_owned(), String::new()), ("SameSite".to_owned(), "Lax".to_owned())],
            })
        };
        let known = of(cookie(Some(9)), get("/").header(COOKIE, "a=1; c=\"v\"; d"));
        assert_eq!(known, Affinity { hash: Some(balance::hash(b"v")), cookie: None });
        let beside = of(cookie(Some(9)), get("/").header(COOKIE, "name=J\u{fc}rgen; c=v"));
        assert_eq!(beside, known, "whatever another cookie holds");
        let fresh = of(cookie(Some(9)), get("/"));
        let text = "c=\"00000000000000ab\"; Max-Age=9; Path=/p; Secure; SameSite=Lax; HttpOnly";
        assert_eq!(fresh.cookie.as_ref().unwrap(), text);
        let again = of(cookie(Some(9)), get("/").header(COOKIE, "c=00000000000000ab"));
        assert_eq!(again.hash, fresh.hash, "the next request goes where this one went");
        let session = of(cookie(Some(0)), get("/"));
        assert!(!session.cookie.unwrap().to_str().unwrap().contains("Max-Age"));
        assert_eq!(of(cookie(None), get("/")), Affinity::default(), "without a time to live none is made");
    }
}
