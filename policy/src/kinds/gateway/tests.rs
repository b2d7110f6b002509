//! The rules of a Gateway and of its servers' TLS.

use std::sync::Arc;

use super::*;
use crate::{
    Problem, Spec,
    kinds::{CertificateFiles, ServerCertificates, ServerTlsMode, TlsVersion, UnixSocket},
    testing::{found, spec_of},
};

fn gateway(spec: &str) -> Arc<Gateway> {
    let Spec::Gateway(gateway) = spec_of("Gateway", spec) else { panic!("another kind") };
    gateway
}

/// What is not built is the matter of a test of its own.
fn codes_of(problems: &[Problem]) -> Vec<&'static str> {
    problems.iter().filter(|one| !one.is_unbuilt()).map(|one| one.code).collect()
}

fn of_server(server: &str) -> Vec<Problem> {
    found("Gateway", &format!("{{servers: [{{{server}}}]}}"))
}

const HTTP: &str = "port: {number: 80, name: http, protocol: HTTP}";
const HTTPS: &str = "port: {number: 443, name: https, protocol: HTTPS}";

fn of_tls(tls: &str) -> Vec<Problem> {
    of_server(&format!("{HTTPS}, hosts: ['*'], tls: {tls}"))
}

fn tls(tls: &str) -> ServerTls {
    let gateway = gateway(&format!("{{servers: [{{{HTTPS}, hosts: ['*'], tls: {tls}}}]}}"));
    gateway.servers[0].tls.clone().unwrap()
}

#[test]
fn a_gateway_is_read() {
    let gateway = gateway(
        "{selector: {istio: ingressgateway}, servers: [
          {port: {number: 80, name: web, protocol: http2}, hosts: ['*.Example.com', './shop.example.com', 'other/*', 10.0.0.1],
           tls: {httpsRedirect: true}, name: edge},
          {port: {name: local, protocol: TCP}, bind: 'unix://@edge', hosts: ['*']},
          {port: {number: 9000, name: raw, protocol: mongo}, bind: '::1', hosts: ['*/*']}]}",
    );
    let [web, local, raw] = &gateway.servers[..] else { panic!("{gateway:?}") };
    let host = |namespace: Option<&str>, host: &str| NamespacedHost {
        namespace: namespace.map(str::to_owned),
        host: host.to_owned(),
    };
    let hosts = [
        host(None, "*.example.com"),
        host(Some("shop"), "shop.example.com"),
        host(Some("other"), "*"),
        host(None, "10.0.0.1"),
    ];
    assert_eq!((&web.hosts[..], web.name.as_str()), (&hosts[..], "edge"));
    assert_eq!((web.port.number, web.port.protocol), (80, PortProtocol::Http2));
    assert!(web.tls.as_ref().is_some_and(|tls| tls.https_redirect && tls.mode.is_passthrough()));
    let socket = Bind::Unix(UnixSocket::Abstract("edge".into()));
    assert_eq!((local.port.number, &local.bind), (0, &Some(socket)));
    assert_eq!(raw.bind, Some(Bind::Ip("::1".parse().unwrap())));
    let labels = |value: &str| BTreeMap::from([("istio".to_owned(), value.to_owned())]);
    assert!(gateway.selects(&labels("ingressgateway")) && !gateway.selects(&labels("egressgateway")));
}

#[test]
fn the_more_specific_host_is_served() {
    let gateway =
        gateway(&format!("{{servers: [{{{HTTP}, hosts: ['*.example.com', 'shop/*.shop.example.com', 'other/*']}}]}}"));
    let server = &gateway.servers[0];
    for (host, namespace, served) in [
        ("a.example.com", "shop", Some("a.example.com")),
        ("*.com", "shop", Some("*.shop.example.com")),
        ("*.com", "default", Some("*.example.com")),
        ("*.example.com", "default", Some("*.example.com")),
        ("example.com", "default", None),
        ("example.com", "other", Some("example.com")),
        ("*", "other", Some("*.example.com")),
    ] {
        assert_eq!(server.admits(host, namespace), served, "{host} of {namespace}");
    }
    assert_eq!(server.hosts_for("default").collect::<Vec<_>>(), ["*.example.com"]);
}

#[test]
fn servers_have_hosts() {
    for (hosts, codes) in [
        ("[]", &[codes::MISSING][..]),
        ("['*']", &[]),
        ("['prod/*.example.com', '*/a.b', './*']", &[]),
        ("['2001:db8::1']", &[codes::HOST]),
        ("[10.0.0.1]", &[]),
        ("[short]", &[codes::HOST]),
        ("['ns/short']", &[codes::HOST]),
        ("['*x.com']", &[codes::HOST]),
        ("[a.*.com]", &[codes::HOST]),
        ("['/a.b']", &[codes::HOST]),
        ("['ns/']", &[codes::HOST]),
        ("['a/b/c.d']", &[codes::HOST]),
        ("['~/a.b']", &[codes::NAME]),
        ("['n_s/a.b']", &[codes::NAME]),
        ("['']", &[codes::HOST]),
    ] {
        assert_eq!(codes_of(&of_server(&format!("{HTTP}, hosts: {hosts}"))), codes, "{hosts}");
    }
}

#[test]
fn servers_have_ports() {
    for (server, codes) in [
        ("hosts: ['*']", &[codes::MISSING][..]),
        ("port: {}, hosts: ['*']", &[codes::PROTOCOL, codes::RANGE, codes::MISSING]),
        ("port: {number: 80, name: a, protocol: SPDY}, hosts: ['*']", &[codes::PROTOCOL]),
        ("port: {number: 70000, name: a, protocol: HTTP}, hosts: ['*']", &[codes::RANGE]),
        ("port: {number: 80, protocol: HTTP}, hosts: ['*']", &[codes::MISSING]),
        ("port: {number: 80, name: a, protocol: HTTP, targetPort: 8080}, hosts: ['*']", &[codes::NOT_IN_ISTIO]),
        ("port: {number: 80, name: a, protocol: HTTP, targetPort: 0}, hosts: ['*']", &[]),
        ("port: {number: 80, name: a, protocol: HTTP}, hosts: ['*'], bind: 10.0.0.1", &[]),
        ("port: {number: 80, name: a, protocol: HTTP}, hosts: ['*'], bind: localhost", &[codes::ADDRESS]),
        ("port: {number: 80, name: a, protocol: HTTP}, hosts: ['*'], bind: 'unix:///a'", &[codes::LISTENER]),
        ("port: {number: 0, name: a, protocol: HTTP}, hosts: ['*'], bind: 'unix:///a'", &[]),
        ("port: {number: 0, name: a, protocol: HTTP}, hosts: ['*'], bind: 'unix://a'", &[codes::ADDRESS]),
        (
            "port: {number: 80, name: a, protocol: HTTP}, hosts: ['*'], defaultEndpoint: '127.0.0.1:1'",
            &[codes::IGNORED],
        ),
    ] {
        assert_eq!(codes_of(&of_server(server)), codes, "{server}");
    }
    let two = format!("{{servers: [{{{HTTP}, hosts: ['*']}}, {{{HTTP}, hosts: [a.b]}}]}}");
    assert_eq!(codes_of(&found("Gateway", &two)), [codes::DUPLICATE]);
    assert_eq!(codes_of(&found("Gateway", "{servers: []}")), [codes::MISSING]);
    let selector = format!("{{selector: {{app: 'a b'}}, servers: [{{{HTTP}, hosts: ['*']}}]}}");
    assert_eq!(codes_of(&found("Gateway", &selector)), [codes::UNMATCHED_LABEL]);
}

#[test]
fn a_name_has_no_dots() {
    let text = format!(
        "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{name: a.b}}\nspec: {{servers: [{{{HTTP}, hosts: ['*']}}]}}\n"
    );
    let problems = crate::parse::yaml("f", &text, "default").problems;
    assert_eq!(codes_of(&problems), [codes::NAME]);
}

#[test]
fn tls_fits_the_port() {
    for (server, codes) in [
        (format!("{HTTPS}, hosts: ['*']"), &[codes::SERVER_TLS][..]),
        (format!("{HTTPS}, hosts: ['*'], tls: {{}}"), &[]),
        (format!("{HTTPS}, hosts: ['*'], tls: {{httpsRedirect: true}}"), &[codes::IGNORED]),
        (format!("{HTTP}, hosts: ['*'], tls: {{}}"), &[]),
        (format!("{HTTP}, hosts: ['*'], tls: {{httpsRedirect: true}}"), &[]),
        (format!("{HTTP}, hosts: ['*'], tls: {{mode: ISTIO_MUTUAL}}"), &[codes::SERVER_TLS]),
        (format!("{HTTP}, hosts: ['*'], tls: {{privateKey: k}}"), &[codes::SERVER_TLS, codes::IGNORED]),
        ("port: {number: 1, name: a, protocol: TCP}, hosts: ['*'], tls: {}".to_owned(), &[codes::SERVER_TLS]),
        ("port: {number: 1, name: a, protocol: TLS}, hosts: ['*']".to_owned(), &[codes::SERVER_TLS]),
        ("port: {number: 1, name: a, protocol: TLS}, hosts: ['*'], tls: {mode: PASSTHROUGH}".to_owned(), &[]),
    ] {
        assert_eq!(codes_of(&of_server(&server)), codes, "{server}");
    }
}

#[test]
fn certificates_come_from_one_source() {
    for (tls, codes) in [
        ("{mode: SIMPLE}", &[codes::SERVER_TLS, codes::SERVER_TLS][..]),
        ("{mode: SIMPLE, serverCertificate: c}", &[codes::SERVER_TLS]),
        ("{mode: SIMPLE, serverCertificate: c, privateKey: k}", &[]),
        ("{mode: SIMPLE, credentialName: ''}", &[codes::SERVER_TLS, codes::SERVER_TLS]),
        ("{mode: SIMPLE, credentialName: s}", &[]),
        ("{mode: SIMPLE, credentialName: s, credentialNames: [t]}", &[codes::EXCLUSIVE]),
        ("{mode: SIMPLE, credentialName: s, serverCertificate: c, privateKey: k}", &[codes::EXCLUSIVE]),
        ("{mode: SIMPLE, credentialName: s, serverCertificate: c}", &[]),
        ("{mode: SIMPLE, credentialNames: [a, b, c]}", &[codes::IGNORED]),
        ("{mode: SIMPLE, credentialName: s, caCrl: r}", &[codes::IGNORED]),
        ("{mode: SIMPLE, serverCertificate: c, privateKey: k, caCrl: r}", &[codes::SERVER_TLS]),
        ("{mode: SIMPLE, tlsCertificates: [{serverCertificate: c, privateKey: k}]}", &[]),
        ("{mode: SIMPLE, tlsCertificates: [{serverCertificate: c}]}", &[codes::SERVER_TLS]),
        ("{mode: SIMPLE, tlsCertificates: []}", &[codes::SERVER_TLS, codes::SERVER_TLS]),
        ("{mode: MUTUAL, serverCertificate: c, privateKey: k}", &[codes::SERVER_TLS]),
        ("{mode: MUTUAL, serverCertificate: c, privateKey: k, caCertificates: a, caCrl: r}", &[]),
        ("{mode: OPTIONAL_MUTUAL, tlsCertificates: [{serverCertificate: c, privateKey: k}]}", &[codes::SERVER_TLS]),
        ("{mode: OPTIONAL_MUTUAL, credentialNames: [a, b]}", &[]),
        ("{mode: ISTIO_MUTUAL}", &[]),
        ("{mode: ISTIO_MUTUAL, credentialName: s}", &[codes::SERVER_TLS]),
        ("{mode: ISTIO_MUTUAL, caCertificates: a, privateKey: k}", &[codes::SERVER_TLS, codes::SERVER_TLS]),
        ("{mode: PASSTHROUGH, serverCertificate: c}", &[codes::IGNORED]),
        ("{mode: AUTO_PASSTHROUGH, caCrl: r}", &[codes::IGNORED]),
        ("{credentialName: s, caCrl: r}", &[codes::IGNORED, codes::SERVER_TLS]),
        ("{mode: TERMINATE}", &[codes::WORD]),
    ] {
        assert_eq!(codes_of(&of_tls(tls)), codes, "{tls}");
    }
}

#[test]
fn tls_is_read_with_its_defaults() {
    let plain = tls("{mode: SIMPLE, serverCertificate: /c, privateKey: /k}");
    let files = |n: &str| CertificateFiles {
        certificate: format!("/c{n}"),
        private_key: format!("/k{n}"),
        ca_certificates: None,
    };
    assert_eq!(plain.certificates, ServerCertificates::Files(vec![files("")]));
    assert_eq!((plain.min_version, plain.max_version), (TlsVersion::V1_2, TlsVersion::V1_3));
    let two = tls("{mode: MUTUAL, caCertificates: /ca, ca_cert_credential_name: more, insecureSkipVerify: true,
          tlsCertificates: [{serverCertificate: /c1, privateKey: /k1}, {serverCertificate: /c2, privateKey: /k2}],
          minProtocolVersion: TLSV1_3, maxProtocolVersion: TLS_AUTO, subjectAltNames: [client]}");
    assert_eq!(two.certificates, ServerCertificates::Files(vec![files("1"), files("2")]));
    assert_eq!((two.ca_certificates.as_deref(), two.ca_credential.as_deref()), (Some("/ca"), Some("more")));
    assert!(two.insecure_skip_verify && two.min_version == TlsVersion::V1_3 && two.max_version == TlsVersion::V1_3);
    let credential = tls("{mode: OPTIONAL_MUTUAL, credentialName: s, caCrl: r}");
    assert_eq!(credential.certificates, ServerCertificates::Credentials(vec!["s".into()]));
    assert_eq!((credential.ca_crl, credential.mode), (None, ServerTlsMode::OptionalMutual));
    let passing = tls("{mode: PASSTHROUGH, caCertificates: /ca, credentialName: s}");
    assert_eq!((passing.ca_certificates, passing.certificates), (None, ServerCertificates::None));
}

#[test]
fn versions_and_suites() {
    let suites = |list: &str| format!("{{mode: ISTIO_MUTUAL, minProtocolVersion: TLSV1_1, cipherSuites: {list}}}");
    assert_eq!(codes_of(&of_tls(&suites("[]"))), [codes::CIPHER_SUITES]);
    let mixed = suites("[ALL, '-AES128-SHA', AES256-SHA, AES256-SHA, AES256-SHB, '']");
    let found = of_tls(&mixed);
    assert_eq!(codes_of(&found), [codes::CIPHER_SUITES; 2]);
    assert_eq!(found[1].hint, "did you mean `AES256-SHA`?");
    assert_eq!(tls(&mixed).cipher_suites, ["ALL", "-AES128-SHA", "AES256-SHA"]);
    assert_eq!(codes_of(&of_tls("{mode: ISTIO_MUTUAL, maxProtocolVersion: TLSV1_4}")), [codes::WORD]);
}

#[test]
fn pins_are_hashes() {
    let hexadecimal = "0f".repeat(32);
    let colons = vec!["0F"; 32].join(":");
    let base64 = "DxAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    let pinned = tls(&format!(
        "{{mode: ISTIO_MUTUAL, verifyCertificateHash: ['{hexadecimal}', '{colons}'], verifyCertificateSpki: ['{base64}']}}"
    ));
    assert_eq!(pinned.certificate_hashes, [[15; 32]; 2]);
    assert_eq!(pinned.certificate_spki[0][..3], [15, 16, 0]);
    for bad in ["verifyCertificateHash: ['0f']", "verifyCertificateHash: [xyz]", "verifyCertificateSpki: ['!']"] {
        assert_eq!(codes_of(&of_tls(&format!("{{mode: ISTIO_MUTUAL, {bad}}}"))), [codes::SERVER_TLS], "{bad}");
    }
}

#[test]
fn what_is_not_built_is_refused_by_name() {
    let unbuilt = |server: &str| {
        let found = of_server(server);
        found.iter().filter(|one| one.is_unbuilt()).map(|one| one.message.clone()).collect::<Vec<_>>()
    };
    let told = |server: &str, what: &[&str]| {
        let wanted: Vec<String> = what.iter().map(|what| format!("{what} is not supported yet")).collect();
        assert_eq!(unbuilt(server), wanted, "{server}");
    };
    told(&format!("{HTTP}, hosts: ['*'], tls: {{httpsRedirect: true}}"), &[]);
    told("port: {number: 1, name: a, protocol: GRPC-WEB}, hosts: ['*']", &["a server of GRPC-WEB"]);
    told("port: {number: 1, name: a, protocol: UDP}, hosts: ['*']", &["a server of UDP"]);
    told("port: {number: 1, name: a, protocol: TCP}, hosts: ['*']", &[]);
    told("port: {name: a, protocol: HTTP}, bind: 'unix:///a', hosts: ['*']", &["a server at a Unix socket"]);
    let of_mode = |tls: &str, what: &[&str]| told(&format!("{HTTPS}, hosts: ['*'], tls: {{{tls}}}"), what);
    of_mode("mode: PASSTHROUGH", &[]);
    of_mode("mode: AUTO_PASSTHROUGH", &["a server in TLS mode AUTO_PASSTHROUGH"]);
    of_mode("mode: ISTIO_MUTUAL", &[]);
    of_mode("mode: ISTIO_MUTUAL, maxProtocolVersion: TLSV1_2", &["TLS older than 1.3 between nodes"]);
    let why = "`subjectAltNames` (callers show identities of the mesh: an AuthorizationPolicy says which are let in)";
    of_mode("mode: ISTIO_MUTUAL, subjectAltNames: [a]", &[why]);
    let simple = |more: &str, what: &[&str]| of_mode(&format!("mode: SIMPLE, credentialName: a{more}"), what);
    simple("", &[]);
    simple(", cipherSuites: [ECDHE-RSA-AES128-GCM-SHA256, AES128-SHA]", &[]);
    simple(", cipherSuites: [AES128-SHA]", &["the cipher suite `AES128-SHA`"]);
    simple(", cipherSuites: [ECDHE-RSA-AES128-GCM-SHA256, '-AES128-SHA']", &["the cipher suite `-AES128-SHA`"]);
    simple(", minProtocolVersion: TLSV1_1", &["TLS older than 1.2"]);
    simple(", maxProtocolVersion: TLSV1_0", &["TLS no newer than 1.1"]);
}

#[test]
fn complaints_have_their_place() {
    let spec = "
  selector: {istio: ingressgateway}
  servers:
  - port: {number: 443, name: https, protocol: HTTPS}
    hosts: ['shop/*.example.com', reviews]
    tls:
      mode: SIMPLE
      credentialName: a
      credentailNames: [b]
      caCrl: c";
    let found = found("Gateway", spec);
    let places: Vec<_> = found.iter().map(|one| (one.code, one.line, one.column, one.field.as_str())).collect();
    let expected = [
        (codes::HOST, 8, 35, "spec.servers[0].hosts[1]"),
        (codes::IGNORED, 13, 14, "spec.servers[0].tls.caCrl"),
        (codes::UNKNOWN_FIELD, 12, 7, "spec.servers[0].tls.credentailNames"),
    ];
    assert_eq!(places, expected);
    assert_eq!(found[0].istio_message.as_deref(), Some("short names (non FQDN) are not allowed"));
}
