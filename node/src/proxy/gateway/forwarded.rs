//! What a gateway tells of a client in headers: its address, how it came, its certificate. A client may not say it itself, and a
//! proxy before the gateway only as far as `gatewayTopology` believes it.

use crate::proxy::http::{EXTERNAL_ADDRESS, address_from_end};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use certs::foreign::Foreign;
use http::{HeaderMap, HeaderName, HeaderValue, header::FORWARDED};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use policy::{
    headers::spelling::{begins, same},
    kinds::{ForwardClientCert, GatewayTopology},
};
use std::net::IpAddr;

const FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");

/// An address as headers tell it. Made once a connection: its text costs more than the rest of what is told.
#[derive(Debug)]
pub(super) struct Address {
    pub(super) address: IpAddr,
    text: HeaderValue,
}

impl Address {
    pub(super) fn new(address: IpAddr) -> Self {
        let text = HeaderValue::try_from(address.to_canonical().to_string());
        Self { address, text: text.expect("an address has visible characters only") }
    }
}

/// Rewrites the headers of a request that came over a connection from this address, by TLS or not, with this certificate.
pub(super) fn receive(
    headers: &mut HeaderMap,
    (remote, is_tls, cert): (&Address, bool, Option<&HeaderValue>),
    topology: &GatewayTopology,
) {
    let client = client(headers, remote, topology.trusted_proxies);
    let removed: Vec<HeaderName> = headers.keys().filter(|name| is_ours(name.as_str())).cloned().collect();
    for name in removed {
        headers.remove(name);
    }
    headers.remove(FORWARDED);
    tell_cert(headers, cert, topology.client_cert);
    tell_way(headers, is_tls, topology.trusted_proxies);
    tell_address(headers, &remote.text);
    headers.insert(EXTERNAL_ADDRESS, client);
}

/// By what a request came, as [`receive`] has told it.
pub(super) fn scheme(headers: &HeaderMap) -> &'static str {
    if headers.get(PROTO).is_some_and(|proto| proto == "https") { "https" } else { "http" }
}

/// The client's address, as [`receive`] has told it.
pub(super) fn external(headers: &HeaderMap) -> Option<IpAddr> {
    headers.get(EXTERNAL_ADDRESS)?.to_str().ok()?.parse().ok()
}

/// Headers by which proxies of the mesh speak among themselves: those of clients mean nothing.
fn is_ours(name: &str) -> bool {
    let named = || same(name, "x-real-ip") || same(name, "x-request-id");
    begins(name, "x-skein-") || begins(name, "x-envoy-") || named() || is_misspelt(name)
}

/// What this gateway tells, as an application may read it too: `x_forwarded_for`.
fn is_misspelt(name: &str) -> bool {
    name.contains('_') && [FOR, PROTO, CLIENT_CERT].iter().any(|told| same(name, told.as_str()))
}

/// The address of the client: that of the connection, or behind so many proxies of one's own the one that the farthest of them saw.
fn client(headers: &HeaderMap, remote: &Address, proxies: usize) -> HeaderValue {
    let told = proxies.checked_sub(1).and_then(|back| address_from_end(headers.get_all(FOR).iter(), back));
    told.map_or_else(|| remote.text.clone(), |told| Address::new(told).text)
}

/// A proxy of one's own may have met TLS in the gateway's place.
fn tell_way(headers: &mut HeaderMap, is_tls: bool, proxies: usize) {
    let told = headers.get(PROTO).filter(|told| proxies > 0 && (*told == "http" || *told == "https"));
    let way = told.cloned().unwrap_or(HeaderValue::from_static(if is_tls { "https" } else { "http" }));
    headers.insert(PROTO, way);
}

fn tell_cert(headers: &mut HeaderMap, cert: Option<&HeaderValue>, wish: ForwardClientCert) {
    let sent: Vec<HeaderValue> = headers.get_all(CLIENT_CERT).iter().cloned().collect();
    headers.remove(CLIENT_CERT);
    let (told, own) = match wish {
        ForwardClientCert::Sanitize => (None, None),
        ForwardClientCert::SanitizeSet => (None, cert),
        ForwardClientCert::ForwardOnly => (cert.map(|_| sent), None),
        ForwardClientCert::AppendForward => (cert.map(|_| sent), cert),
        ForwardClientCert::AlwaysForwardOnly => (Some(sent), None),
    };
    let all: Vec<&[u8]> = told.iter().flatten().chain(own).map(HeaderValue::as_bytes).collect();
    if let Some(value) =
        HeaderValue::from_maybe_shared(Bytes::from(all.join(&b","[..]))).ok().filter(|_| !all.is_empty())
    {
        headers.insert(CLIENT_CERT, value);
    }
}

/// A certificate as Envoy tells of it: hash, the certificate itself, subject and names.
pub(super) fn element(der: &[u8]) -> Option<HeaderValue> {
    let read = Foreign::parse(der).ok()?;
    let base64 = STANDARD.encode(der);
    let lines: Vec<&str> = base64.as_bytes().chunks(64).filter_map(|line| std::str::from_utf8(line).ok()).collect();
    let pem = format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"));
    let mut text = format!("Hash={};Cert=\"{}\"", read.fingerprint, utf8_percent_encode(&pem, NON_ALPHANUMERIC));
    text.push_str(&format!(";Subject=\"{}\"", read.subject.replace('\\', "\\\\").replace('"', "\\\"")));
    let uris = read.uris.iter().map(|uri| format!(";URI={}", quoted(uri)));
    let names = read.dns_names.iter().map(|name| format!(";DNS={}", quoted(name)));
    text.extend(uris.chain(names));
    // What cannot stand in a header is not told at all: half of a subject would be another.
    text.is_ascii().then(|| HeaderValue::try_from(text).ok()).flatten()
}

/// In quotes where it would end the element.
fn quoted(text: &str) -> String {
    if !text.contains([',', ';', '=', '"']) {
        return text.to_owned();
    }
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// Appends the address of the connection, as every proxy does.
fn tell_address(headers: &mut HeaderMap, remote: &HeaderValue) {
    if !headers.contains_key(FOR) {
        headers.insert(FOR, remote.clone());
        return;
    }
    let mut line: Vec<u8> = Vec::new();
    for told in headers.get_all(FOR) {
        line.extend_from_slice(told.as_bytes());
        line.extend_from_slice(b", ");
    }
    line.extend_from_slice(remote.as_bytes());
    if let Ok(line) = HeaderValue::from_bytes(&line) {
        headers.insert(FOR, line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const REMOTE: [u8; 4] = [192, 0, 2, 9];

    fn received(sent: &[(&'static str, &str)], proxies: usize) -> HeaderMap {
        let sent: Vec<_> = sent.iter().map(|(name, value)| (*name, value.as_bytes())).collect();
        received_bytes(&sent, proxies)
    }

    fn received_bytes(sent: &[(&'static str, &[u8])], proxies: usize) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in sent {
            headers.append(*name, HeaderValue::from_bytes(value).unwrap());
        }
        let topology = GatewayTopology { trusted_proxies: proxies, ..GatewayTopology::default() };
        receive(&mut headers, (&Address::new(REMOTE.into()), false, None), &topology);
        headers
    }

    #[test]
    fn the_address_of_the_connection_is_appended() {
        assert_eq!(received(&[], 0)["x-forwarded-for"], "192.0.2.9");
        let headers = received(&[("x-forwarded-for", "10.0.0.1"), ("x-forwarded-for", "10.0.0.2, 10.0.0.3")], 0);
        assert_eq!(headers["x-forwarded-for"], "10.0.0.1, 10.0.0.2, 10.0.0.3, 192.0.2.9");
        assert_eq!(headers["x-envoy-external-address"], "192.0.2.9", "nobody is believed");
        assert_eq!(headers.get_all("x-forwarded-for").iter().count(), 1);
    }

    #[test]
    fn an_address_is_told_by_one_text_in_its_own_family() {
        let mapped = Address::new("::ffff:192.0.2.9".parse().unwrap());
        let mut headers = HeaderMap::new();
        receive(&mut headers, (&mapped, false, None), &GatewayTopology::default());
        assert_eq!((&headers[FOR], &headers[EXTERNAL_ADDRESS]), (&mapped.text, &mapped.text));
        assert_eq!(mapped.text, "192.0.2.9");
        let six = Address::new("2001:db8::1".parse().unwrap());
        receive(&mut headers, (&six, false, None), &GatewayTopology::default());
        assert_eq!(
            (&headers[FOR], &headers[EXTERNAL_ADDRESS]),
            (&"192.0.2.9, 2001:db8::1".parse().unwrap(), &six.text)
        );
    }

    #[test]
    fn proxies_of_ones_own_are_believed() {
        let sent = [("x-forwarded-for", "10.0.0.1, 10.0.0.2"), ("x-forwarded-proto", "https")];
        let client = |proxies| received(&sent, proxies)["x-envoy-external-address"].to_str().unwrap().to_owned();
        assert_eq!([client(1), client(2), client(3)], ["10.0.0.2", "10.0.0.1", "192.0.2.9"]);
        assert_eq!(received(&[("x-forwarded-for", "unknown")], 1)["x-envoy-external-address"], "192.0.2.9");
        assert_eq!(scheme(&received(&sent, 1)), "https");
        assert_eq!(scheme(&received(&sent, 0)), "http");
        assert_eq!(scheme(&received(&[("x-forwarded-proto", "gopher")], 1)), "http");
    }

    #[test]
    fn no_byte_of_a_client_hides_what_a_proxy_appended() {
        let client = |sent: &[&[u8]], proxies| {
            let lines: Vec<_> = sent.iter().map(|line| ("x-forwarded-for", *line)).collect();
            received_bytes(&lines, proxies)["x-envoy-external-address"].to_str().unwrap().to_owned()
        };
        assert_eq!(client(&[b"\xff, 10.0.0.1"], 1), "10.0.0.1");
        assert_eq!(client(&[b"\xff,10.0.0.1 , 10.0.0.2"], 2), "10.0.0.1");
        assert_eq!(client(&[b"\xff", b"10.0.0.1"], 1), "10.0.0.1");
        assert_eq!(client(&[b"10.0.0.7, \xff10.0.0.1"], 1), "192.0.2.9", "that is no address");
        assert_eq!(client(&[b"10.0.0.7", b"\xff"], 2), "10.0.0.7", "places count, whatever stands in them");
    }

    #[test]
    fn what_only_the_mesh_may_say_is_dropped() {
        let sent = [
            ("x-skein-outcome", "refused"),
            ("x-envoy-retry-on", "5xx"),
            ("x-envoy-external-address", "127.0.0.1"),
            ("x-forwarded-client-cert", "URI=spiffe://test.example/ns/a/sa/b"),
            ("forwarded", "for=127.0.0.1"),
            ("x-real-ip", "127.0.0.1"),
            ("x-request-id", "mine"),
            ("x_forwarded_for", "127.0.0.1"),
            ("x_forwarded-proto", "https"),
            ("x_forwarded_client_cert", "URI=spiffe://test.example/ns/a/sa/b"),
            ("x_envoy_external_address", "127.0.0.1"),
            ("x_skein_outcome", "refused"),
            ("x_real_ip", "127.0.0.1"),
            ("accept", "*/*"),
        ];
        let mut left: Vec<String> = received(&sent, 0).keys().map(|name| name.as_str().to_owned()).collect();
        left.sort();
        assert_eq!(left, ["accept", "x-envoy-external-address", "x-forwarded-for", "x-forwarded-proto"]);
    }

    #[test]
    fn certificates_are_told_as_the_topology_wants_it() {
        let own = HeaderValue::from_static("Hash=1");
        let told = |cert: Option<&HeaderValue>, client_cert| {
            let mut headers = HeaderMap::from_iter([(CLIENT_CERT, HeaderValue::from_static("Hash=0"))]);
            let topology = GatewayTopology { client_cert, ..GatewayTopology::default() };
            receive(&mut headers, (&Address::new(REMOTE.into()), true, cert), &topology);
            assert_eq!(headers["x-forwarded-proto"], "https");
            headers.get(CLIENT_CERT).map(|value| value.to_str().unwrap().to_owned())
        };
        use ForwardClientCert::{AlwaysForwardOnly, AppendForward, ForwardOnly, Sanitize, SanitizeSet};
        let with =
            [Sanitize, SanitizeSet, ForwardOnly, AppendForward, AlwaysForwardOnly].map(|wish| told(Some(&own), wish));
        let texts = |texts: [Option<&str>; 5]| texts.map(|text| text.map(str::to_owned));
        assert_eq!(with, texts([None, Some("Hash=1"), Some("Hash=0"), Some("Hash=0,Hash=1"), Some("Hash=0")]));
        let without =
            [Sanitize, SanitizeSet, ForwardOnly, AppendForward, AlwaysForwardOnly].map(|wish| told(None, wish));
        assert_eq!(
            without,
            texts([None, None, None, None, Some("Hash=0")]),
            "who shows no certificate is not believed"
        );
    }

    #[test]
    fn a_certificate_cannot_break_out_of_its_element() {
        let mut params = rcgen::CertificateParams::new(vec!["a.org".to_owned()]).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, "x\";URI=spiffe://mesh/admin,Hash=0");
        params.subject_alt_names.push(rcgen::SanType::URI("spiffe://a/b;c".try_into().unwrap()));
        let der = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().der().to_vec();
        let told = element(&der).unwrap();
        let told = told.to_str().unwrap();
        assert!(told.starts_with("Hash=") && told.contains(";Cert=\"%2D%2D%2D%2D%2DBEGIN"), "{told}");
        assert!(told.contains(r#";Subject="CN=x\\\"\\;URI=spiffe://mesh/admin\\,Hash=0"#), "{told}");
        assert!(told.contains(";URI=\"spiffe://a/b;c\";DNS=a.org"), "{told}");
    }

    proptest! {
        #[test]
        fn whatever_a_client_says(mut told in prop::collection::vec(any::<u8>(), 0..80), proxies in 0usize..4) {
            told.retain(|byte| *byte == b'\t' || *byte >= b' ' && *byte != 0x7f);
            let headers = received_bytes(&[("x-forwarded-for", &told)], proxies);
            prop_assert!(headers["x-forwarded-for"].as_bytes().ends_with(b"192.0.2.9"));
            prop_assert!(headers["x-envoy-external-address"].to_str().unwrap().parse::<IpAddr>().is_ok());
            // A proxy that is believed appends what it saw.
            let appended = [&told[..], b", 198.51.100.7"].concat();
            let seen = received_bytes(&[("x-forwarded-for", &appended)], 1);
            prop_assert_eq!(&seen["x-envoy-external-address"], "198.51.100.7");
        }
    }
}
