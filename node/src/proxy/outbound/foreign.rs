//! Requests that come to a name's address and were meant for somebody else. Every local program may connect there, a browser too: a page of
//! a site whose name leads there (DNS rebinding), or that asks for the address itself, would speak as this node's service.

use super::Speaker;
use crate::snapshot::Snapshot;
use http::{HeaderMap, HeaderName, header::ORIGIN};
use policy::{hosts::split_authority, route};
use std::net::IpAddr;

/// What a browser says of the page that asks (W3C Fetch Metadata). To names of the mesh it says nothing, for they come without TLS; to
/// loopback addresses it does.
const SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

impl Speaker {
    /// It listens at the address of a name, and only for who means that name.
    pub(in crate::proxy) fn at_name(self) -> Self {
        Self { own_hosts_only: true, ..self }
    }

    /// True if a request with this authority is not for this listener.
    pub(super) fn is_foreign(&self, snapshot: &Snapshot, authority: &str, headers: &HeaderMap) -> bool {
        let port = self.fixed.as_ref().map_or(self.port, |(_, port)| *port);
        let knows = |host: &str| route::knows(&snapshot.compiled, &*snapshot.services, (&self.source, port), host);
        self.own_hosts_only && is_foreign(authority, headers, knows)
    }
}

/// Names without a dot are nobody's to give away, and addresses no other site's names; but a page may ask for an address.
fn is_foreign(authority: &str, headers: &HeaderMap, knows: impl Fn(&str) -> bool) -> bool {
    let (host, _) = split_authority(authority);
    let host = host.strip_suffix('.').unwrap_or(host);
    if host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok() {
        return is_of_another_site(authority, headers);
    }
    host.contains('.') && !knows(host)
}

fn is_of_another_site(authority: &str, headers: &HeaderMap) -> bool {
    let of_site = |origin: &[u8]| origin.strip_prefix(b"http://") == Some(authority.as_bytes());
    headers.get(SITE).is_some_and(|site| site == "cross-site")
        || headers.get(ORIGIN).is_some_and(|origin| !of_site(origin.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn foreign(authority: &str, headers: &[(&'static str, &'static str)]) -> bool {
        let headers =
            headers.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        is_foreign(authority, &headers.collect(), |host| host == "cart.shop.mesh" || host == "shop.example.com")
    }

    #[test]
    fn names_of_the_mesh_and_addresses_are_meant() {
        for own in [
            "cart.shop.mesh",
            "cart.shop.mesh.:9080",
            "shop.example.com:80",
            "cart:9080",
            "localhost",
            "127.240.1.2:9080",
            "[::1]",
        ] {
            assert!(!foreign(own, &[]), "{own}");
        }
        // A proxy before the mesh passes on what a browser told it of the page.
        assert!(!foreign(
            "cart.shop.mesh",
            &[("sec-fetch-site", "cross-site"), ("origin", "https://shop.example.com")]
        ));
        assert!(!foreign("127.240.1.2:80", &[("sec-fetch-site", "same-origin"), ("origin", "http://127.240.1.2:80")]));
        assert!(!foreign("127.240.1.2:80", &[("sec-fetch-site", "none")]), "somebody typed it");
    }

    #[test]
    fn a_page_of_another_site_is_not_served() {
        for other in ["evil.example:9080", "evil.example", "mesh.evil.example:80", "cart.shop.mesh.evil.example"] {
            assert!(foreign(other, &[("sec-fetch-site", "same-origin")]), "{other}: its name leads here");
        }
        assert!(foreign("127.240.1.2:9080", &[("sec-fetch-site", "cross-site")]));
        assert!(foreign("127.240.1.2:9080", &[("origin", "http://evil.example:9080")]));
        assert!(foreign("127.240.1.2:9080", &[("origin", "null")]));
    }
}
