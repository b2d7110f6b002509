//! Who may speak over the loopback port: no browser's page of another origin, no name that DNS could point here, no
//! address that was not allowed.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, Method, header};

use super::error::Error;
use crate::config::Cidr;

/// Sees that a connection comes from loopback or an allowed network.
pub(super) fn address(remote: SocketAddr, allowed: &[Cidr]) -> bool {
    let ip = remote.ip().to_canonical();
    ip.is_loopback() || allowed.iter().any(|network| network.contains(ip))
}

/// Sees that a request only asks.
///
/// # Errors
/// `forbidden`.
pub(crate) fn method(method: &Method) -> Result<(), Error> {
    if matches!(*method, Method::GET | Method::HEAD) {
        return Ok(());
    }
    Err(Error::new("forbidden", "this port only answers GET").hint("use the local socket, or `skein --node`"))
}

/// Sees that a request's Host is an address or `localhost`, and its Origin, if it has one, the same.
///
/// # Errors
/// `forbidden`.
pub(crate) fn headers(headers: &HeaderMap) -> Result<(), Error> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (Some(host), None) => host.to_str().unwrap_or_default(),
        _ => return Err(refused("one Host header is needed")),
    };
    if !is_here(host) {
        return Err(refused("Host must be an IP address or localhost"));
    }
    for origin in headers.get_all(header::ORIGIN) {
        let origin = origin.to_str().unwrap_or_default();
        if origin.strip_prefix("http://") != Some(host) {
            return Err(refused("a page of another origin may not ask"));
        }
    }
    // Browsers that ask without an Origin, as for an image, say so here. A link that somebody follows is not a page's own question.
    let says = |name: &str, word: &str| headers.get_all(name).iter().any(|value| value.as_bytes() == word.as_bytes());
    let followed = says("sec-fetch-mode", "navigate") && says("sec-fetch-dest", "document");
    if (says("sec-fetch-site", "cross-site") || says("sec-fetch-site", "same-site")) && !followed {
        return Err(refused("a page of another site may not ask"));
    }
    Ok(())
}

/// DNS can point any name here (rebinding), but not an address.
fn is_here(host: &str) -> bool {
    let without_port = match host.rsplit_once(':') {
        Some((name, port)) if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        Some(_) | None => host,
    };
    let bare = without_port.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(without_port);
    bare.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok()
}

fn refused(message: &str) -> Error {
    Error::new("forbidden", message).hint("ask http://127.0.0.1:15000/ or the local socket")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(pairs: &[(header::HeaderName, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect()
    }

    #[test]
    fn addresses_and_localhost_are_here() {
        for host in ["127.0.0.1:15000", "127.0.0.1", "localhost:15000", "LOCALHOST", "[::1]:15000", "10.0.0.5:15000"] {
            assert!(headers(&with(&[(header::HOST, host)])).is_ok(), "{host}");
        }
    }

    #[test]
    fn a108_names_that_dns_can_point_here_are_not() {
        for host in ["evil.example", "evil.example:15000", "localhost.evil.example", "127.0.0.1.evil.example", "", "x:"]
        {
            assert!(headers(&with(&[(header::HOST, host)])).is_err(), "{host}");
        }
        assert!(headers(&HeaderMap::new()).is_err());
        let mut two = with(&[(header::HOST, "127.0.0.1")]);
        two.append(header::HOST, "127.0.0.1".parse().unwrap());
        assert!(headers(&two).is_err());
    }

    #[test]
    fn a108_only_the_own_origin_may_ask() {
        let own = [(header::HOST, "127.0.0.1:15000"), (header::ORIGIN, "http://127.0.0.1:15000")];
        assert!(headers(&with(&own)).is_ok());
        for origin in ["http://evil.example", "null", "http://127.0.0.1:9", "https://127.0.0.1:15000"] {
            assert!(headers(&with(&[own[0].clone(), (header::ORIGIN, origin)])).is_err(), "{origin}");
        }
    }

    #[test]
    fn pages_of_other_sites_have_nothing_asked_but_links_lead_here() {
        let asked = |site: &str, mode: &str, dest: &str| {
            let mut all = with(&[(header::HOST, "127.0.0.1:15000")]);
            for (name, value) in [("sec-fetch-site", site), ("sec-fetch-mode", mode), ("sec-fetch-dest", dest)] {
                all.insert(header::HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
            }
            headers(&all).is_ok()
        };
        assert!(!asked("cross-site", "no-cors", "image") && !asked("same-site", "no-cors", "image"));
        assert!(!asked("cross-site", "navigate", "iframe"));
        assert!(asked("cross-site", "navigate", "document") && asked("same-origin", "cors", "empty"));
        assert!(asked("none", "navigate", "document"));
    }

    #[test]
    fn nothing_is_changed_here() {
        assert!(method(&Method::GET).is_ok() && method(&Method::HEAD).is_ok());
        for other in [Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS, Method::CONNECT] {
            assert!(method(&other).is_err());
        }
    }

    #[test]
    fn a108_loopback_and_allowed_networks_may_connect() {
        let allowed = [Cidr::parse("10.0.0.0/8").unwrap()];
        for (address_, expected) in [
            ("127.0.0.9:1", true),
            ("[::1]:1", true),
            ("[::ffff:127.0.0.1]:1", true),
            ("10.1.2.3:1", true),
            ("192.0.2.1:1", false),
        ] {
            assert_eq!(address(address_.parse().unwrap(), &allowed), expected, "{address_}");
        }
    }
}
