//! The rules of a Sidecar, and which one a workload has.

use std::{sync::Arc, time::Duration};

use super::*;
use crate::{
    Problem, Spec,
    kinds::{Bind, NamespacedHost, ServerTlsMode, UnixSocket},
    testing::{found, spec_of},
};

fn sidecar(spec: &str) -> Arc<Sidecar> {
    let Spec::Sidecar(sidecar) = spec_of("Sidecar", spec) else { panic!("another kind") };
    sidecar
}

/// Of what is wrong; what is not built is another matter.
fn codes_of(problems: &[Problem]) -> Vec<&'static str> {
    problems.iter().filter(|one| !one.is_unbuilt()).map(|one| one.code).collect()
}

fn codes_in(spec: &str) -> Vec<&'static str> {
    codes_of(&found("Sidecar", spec))
}

#[test]
fn a_sidecar_is_read() {
    let sidecar = sidecar(
        "{workloadSelector: {labels: {app: web}},
          ingress: [{port: {number: 8443, protocol: https, name: web}, bind: 10.0.0.1, captureMode: NONE,
                     defaultEndpoint: 'unix:///run/web.sock', connectionPool: {tcp: {connectTimeout: 3s}},
                     tls: {mode: SIMPLE, serverCertificate: c, privateKey: k}}],
          egress: [{port: {number: 3306, protocol: MYSQL}, hosts: ['./db.Example.com', '~other/*']}, {hosts: ['*/*']}],
          outboundTrafficPolicy: {mode: ALLOW_ANY, egressProxy: {host: edge, subset: v1, port: {number: 80}}},
          inboundConnectionPool: {http: {http2MaxRequests: 9}}}",
    );
    let ingress = &sidecar.ingress[0];
    assert_eq!(ingress.default_endpoint, Some(DefaultEndpoint::Unix(UnixSocket::Path("/run/web.sock".into()))));
    assert_eq!((ingress.capture, ingress.bind), (CaptureMode::None, Some("10.0.0.1".parse().unwrap())));
    assert_eq!(ingress.tls.as_ref().unwrap().mode, ServerTlsMode::Simple);
    assert_eq!(ingress.connection_pool.as_ref().unwrap().tcp.connect_timeout, Some(Duration::from_secs(3)));
    assert_eq!(sidecar.inbound_connection_pool.as_ref().unwrap().http.max_requests, Some(9));
    let [sql, all] = &sidecar.egress[..] else { panic!("{sidecar:?}") };
    let host = |namespace: &str, host: &str, is_own, excluded| EgressHost {
        services: NamespacedHost { namespace: Some(namespace.to_owned()), host: host.to_owned() },
        is_own,
        excluded,
    };
    assert_eq!(sql.hosts, [host("shop", "db.example.com", true, false), host("other", "*", false, true)]);
    assert_eq!((sql.port.as_ref().map(|port| port.number), &all.port), (Some(3_306), &None));
    let proxy = EgressProxy { host: "edge.shop.svc.cluster.local".into(), port: 80, subset: Some("v1".into()) };
    assert_eq!(sidecar.outbound, Some(OutboundTrafficPolicy::AllowAny(Some(proxy))));
    assert_eq!(sidecar.selector.as_ref().unwrap()["app"], "web");
}

#[test]
fn a_policy_without_mode_allows_nothing_unknown() {
    let outbound = |text: &str| sidecar(&format!("{{outboundTrafficPolicy: {text}}}")).outbound.clone();
    assert_eq!(outbound("{}"), Some(OutboundTrafficPolicy::RegistryOnly));
    assert_eq!(outbound("{mode: ALLOW_ANY}"), Some(OutboundTrafficPolicy::AllowAny(None)));
    assert_eq!(sidecar("{egress: [{hosts: ['*/*']}]}").outbound, None);
    for (text, codes) in [
        ("{mode: REGISTRY_ONLY, egressProxy: {host: a.b, port: {number: 1}}}", &[codes::EGRESS][..]),
        ("{egressProxy: {host: a.b, port: {number: 1}}}", &[codes::EGRESS]),
        ("{mode: ALLOW_ANY_DYNAMIC_DNS}", &[codes::WORD]),
        ("{mode: 1}", &[codes::WRONG_TYPE]),
        ("{mode: ALLOW_ANY, egressProxy: {host: a.b}}", &[codes::MISSING]),
        ("{mode: ALLOW_ANY, egressProxy: {port: {number: 1}}}", &[codes::MISSING]),
        ("{mode: ALLOW_ANY, egressProxy: {host: '*.b', port: {number: 1}}}", &[codes::HOST]),
        ("{mode: ALLOW_ANY, egressProxy: {host: a.b, port: {}}}", &[codes::MISSING]),
        ("{mode: ALLOW_ANY, egressProxy: {host: a.b, port: {number: 1}, subset: v.1}}", &[codes::NAME]),
    ] {
        assert_eq!(codes_in(&format!("{{outboundTrafficPolicy: {text}}}")), codes, "{text}");
    }
}

#[test]
fn what_is_imported_and_not_excluded_is_seen() {
    let egress = |hosts: &str| sidecar(&format!("{{egress: [{{hosts: {hosts}}}]}}")).egress[0].clone();
    for (hosts, host, namespace, seen) in [
        ("['*/*']", "a.b", "any", true),
        ("['./*']", "a.b", "shop", true),
        ("['./*']", "a.b", "other", false),
        ("['*/*.b']", "x.a.b", "any", true),
        ("['*/*.b']", "b.c", "any", false),
        ("['*/*.b']", "*.b", "any", true),
        ("['*/a.b']", "*.b", "any", false),
        ("['~/*']", "a.b", "shop", false),
        ("['*/*', '~/a.b']", "a.b", "shop", false),
        ("['*/*', '~/a.b']", "c.b", "shop", true),
        ("['*/*', '~other/*']", "a.b", "other", false),
        ("['*/*', '~other/*']", "a.b", "shop", true),
        ("['*/*', '~./*.b']", "a.b", "shop", false),
        ("['~other/*']", "a.b", "shop", false),
    ] {
        assert_eq!(egress(hosts).imports(host, namespace, "shop"), seen, "{hosts} {host} of {namespace}");
    }
}

#[test]
fn egress_listeners() {
    for (egress, codes) in [
        ("{}", &[codes::MISSING][..]),
        ("{hosts: []}", &[codes::MISSING]),
        ("{hosts: [a.b]}", &[codes::HOST]),
        ("{hosts: ['*']}", &[codes::HOST]),
        ("{hosts: ['/']}", &[codes::HOST]),
        ("{hosts: ['shop/short']}", &[codes::HOST]),
        ("{hosts: ['shop/*a.b']}", &[codes::HOST]),
        ("{hosts: ['shop/10.0.0.1']}", &[codes::HOST]),
        ("{hosts: ['s_p/a.b']}", &[codes::NAME]),
        ("{hosts: ['~s_p/a.b']}", &[codes::NAME]),
        ("{hosts: ['shop/a.b', './a.b']}", &[codes::COVERED_HOST]),
        ("{hosts: ['other/a.b', 'other/*']}", &[codes::COVERED_HOST]),
        ("{hosts: ['*/*', 'other/a.b']}", &[codes::COVERED_HOST]),
        ("{hosts: ['*/*', '~other/a.b']}", &[]),
        ("{hosts: ['*/a.b', 'other/a.b']}", &[]),
        ("{hosts: ['*/*'], bind: 10.0.0.1}", &[codes::IGNORED]),
        ("{hosts: ['*/*'], port: {number: 80, protocol: HTTP}, bind: 10.0.0.1}", &[]),
        ("{hosts: ['*/*'], port: {number: 80}, bind: nowhere}", &[codes::ADDRESS]),
        ("{hosts: ['*/*'], port: {number: 80}, bind: 'unix:///a'}", &[codes::LISTENER]),
        ("{hosts: ['*/*'], port: {number: 0}, bind: 'unix:///a', captureMode: NONE}", &[]),
        ("{hosts: ['*/*'], port: {number: 0}, bind: 'unix:///a', captureMode: IPTABLES}", &[codes::LISTENER]),
        ("{hosts: ['*/*'], port: {number: 0}, bind: 'unix://a'}", &[codes::ADDRESS]),
        ("{hosts: ['*/*'], port: {number: 0}}", &[codes::LISTENER]),
        ("{hosts: ['*/*'], port: {protocol: HTTP}, bind: 10.0.0.1}", &[codes::LISTENER]),
        ("{hosts: ['*/*'], port: {number: 99999}}", &[codes::RANGE]),
        ("{hosts: ['*/*'], port: {number: 80, protocol: X}}", &[codes::PROTOCOL]),
        ("{hosts: ['*/*'], port: {number: 80, name: a_b}}", &[codes::NAME]),
        ("{hosts: ['*/*'], port: {number: 80, targetPort: 81}}", &[codes::NOT_IN_ISTIO]),
        ("{hosts: ['*/*'], captureMode: ALL}", &[codes::WORD]),
        ("{hosts: ['*/*']}, {hosts: ['*/*']}", &[codes::EGRESS]),
        ("{hosts: ['*/*']}, {hosts: ['*/*'], port: {number: 80}}", &[codes::EGRESS]),
        ("{hosts: ['*/*'], port: {number: 80}}, {hosts: ['*/*'], port: {number: 80}}", &[codes::DUPLICATE]),
        ("{hosts: ['*/*'], port: {number: 80}}, {hosts: ['*/*'], port: {number: 81}}, {hosts: ['*/*']}", &[]),
        (
            "{hosts: ['*/*'], port: {}, bind: 'unix://@a'}, {hosts: ['*/*'], port: {}, bind: 'unix://@a'}",
            &[codes::DUPLICATE],
        ),
        ("{hosts: ['*/*'], port: {}, bind: 'unix://@a'}, {hosts: ['*/*'], port: {}, bind: 'unix://@b'}", &[]),
        ("null", &[codes::WRONG_TYPE]),
    ] {
        assert_eq!(codes_in(&format!("{{egress: [{egress}]}}")), codes, "{egress}");
    }
    let socket = sidecar("{egress: [{hosts: ['*/*'], port: {}, bind: 'unix://@a'}]}").egress[0].bind.clone();
    assert_eq!(socket, Some(Bind::Unix(UnixSocket::Abstract("a".into()))));
}

#[test]
fn ingress_listeners() {
    let https = "port: {number: 443, protocol: HTTPS}";
    let files = "mode: SIMPLE, serverCertificate: c, privateKey: k";
    for (ingress, codes) in [
        ("{}".to_owned(), &[codes::MISSING][..]),
        ("{port: {number: 80}}".to_owned(), &[]),
        ("{port: {protocol: HTTP}}".to_owned(), &[codes::RANGE]),
        ("{port: {number: 80}, bind: 'unix:///a'}".to_owned(), &[codes::ADDRESS]),
        ("{port: {number: 80}}, {port: {number: 80}}".to_owned(), &[codes::DUPLICATE]),
        ("{port: {number: 80}, connectionPool: {}}".to_owned(), &[codes::EMPTY]),
        ("{port: {number: 80}, connectionPool: {http: {maxRetries: -1}}}".to_owned(), &[codes::IGNORED, codes::RANGE]),
        ("{port: {number: 80, protocol: GRPC}, connectionPool: {http: {}}}".to_owned(), &[]),
        (format!("{{{https}, tls: {{{files}}}}}"), &[]),
        (format!("{{port: {{number: 443}}, tls: {{{files}}}}}"), &[codes::SERVER_TLS]),
        (format!("{{port: {{number: 443, protocol: HTTP}}, tls: {{{files}}}}}"), &[codes::SERVER_TLS]),
        (format!("{{{https}, tls: {{{files}, subjectAltNames: [a]}}}}"), &[codes::SERVER_TLS]),
        (format!("{{{https}, tls: {{{files}, httpsRedirect: true}}}}"), &[codes::SERVER_TLS]),
        (format!("{{{https}, tls: {{mode: SIMPLE, credentialName: a}}}}"), &[codes::SERVER_TLS]),
        (format!("{{{https}, tls: {{mode: SIMPLE, credentialNames: [a]}}}}"), &[codes::SERVER_TLS]),
        (format!("{{{https}, tls: {{mode: ISTIO_MUTUAL}}}}"), &[codes::SERVER_TLS]),
        (format!("{{{https}, tls: {{mode: AUTO_PASSTHROUGH}}}}"), &[codes::SERVER_TLS]),
        (
            format!("{{{https}, tls: {{mode: SIMPLE, tlsCertificates: [{{serverCertificate: c, privateKey: k}}]}}}}"),
            &[codes::SERVER_TLS],
        ),
        (format!("{{{https}, tls: {{mode: MUTUAL, serverCertificate: c, privateKey: k}}}}"), &[codes::SERVER_TLS]),
    ] {
        assert_eq!(codes_in(&format!("{{ingress: [{ingress}]}}")), codes, "{ingress}");
    }
}

#[test]
fn the_application_is_near() {
    let at = |endpoint: &str| format!("{{ingress: [{{port: {{number: 80}}, defaultEndpoint: '{endpoint}'}}]}}");
    let loopback = |address: &str| Some(DefaultEndpoint::Loopback(address.parse().unwrap()));
    for (endpoint, expected) in [
        ("127.0.0.1:90", loopback("127.0.0.1:90")),
        (":90", loopback("127.0.0.1:90")),
        ("[::1]:90", loopback("[::1]:90")),
        ("0.0.0.0:90", Some(DefaultEndpoint::Workload { port: 90 })),
        ("[::]:90", Some(DefaultEndpoint::Workload { port: 90 })),
        ("", None),
    ] {
        assert_eq!(sidecar(&at(endpoint)).ingress[0].default_endpoint, expected, "{endpoint}");
    }
    for (endpoint, code) in [
        ("10.0.0.1:90", codes::ADDRESS),
        ("localhost:90", codes::ADDRESS),
        ("::1:90", codes::ADDRESS),
        ("[127.0.0.1]:90", codes::ADDRESS),
        ("127.0.0.1", codes::RANGE),
        ("127.0.0.1:", codes::RANGE),
        ("127.0.0.1:0", codes::RANGE),
        ("127.0.0.1:+90", codes::RANGE),
        ("[::1]:65536", codes::RANGE),
        ("unix://run/a", codes::ADDRESS),
    ] {
        assert_eq!(codes_in(&at(endpoint)), [code], "{endpoint}");
    }
}

#[test]
fn a_sidecar_says_something() {
    for (spec, codes) in [
        ("{}", &[codes::EMPTY][..]),
        ("{egress: [], ingress: []}", &[codes::EMPTY]),
        ("{workloadSelector: {labels: {a: b}}}", &[codes::EMPTY]),
        ("{workloadSelector: {}, outboundTrafficPolicy: {}}", &[codes::EMPTY_SELECTOR]),
        ("{workloadSelector: {labels: {'a*': b}}, outboundTrafficPolicy: {}}", &[codes::LABEL]),
        ("{inboundConnectionPool: {tcp: {maxConnections: 1}}}", &[]),
        ("{inboundConnectionPool: {}}", &[codes::EMPTY]),
    ] {
        assert_eq!(codes_in(spec), codes, "{spec}");
    }
}

#[test]
fn complaints_have_their_place() {
    let spec = "
  egress:
  - port: {number: 80, protocol: HTTP}
    hosts:
    - reviews
    bnid: 10.0.0.1
  ingress:
  - port: {number: 80}
    defaultEndpoint: 10.0.0.1:8080";
    let found = found("Sidecar", spec);
    let found: Vec<_> = found.into_iter().filter(|one| !one.is_unbuilt()).collect();
    let places: Vec<_> = found.iter().map(|one| (one.code, one.line, one.column, one.field.as_str())).collect();
    let expected = [
        (codes::ADDRESS, 12, 22, "spec.ingress[0].defaultEndpoint"),
        (codes::HOST, 8, 7, "spec.egress[0].hosts[0]"),
        (codes::UNKNOWN_FIELD, 9, 5, "spec.egress[0].bnid"),
    ];
    assert_eq!(places, expected);
    assert_eq!(found[1].hint, "write */reviews, or ./reviews for the own namespace");
}

#[test]
fn what_would_open_ports_is_refused_by_name() {
    for (spec, fields) in [
        ("{egress: [{port: {number: 80}, hosts: ['*/*']}]}", &[][..]),
        ("{egress: [{port: {number: 80}, captureMode: DEFAULT, hosts: ['*/*']}]}", &[]),
        ("{egress: [{port: {number: 80}, captureMode: NONE, hosts: ['*/*']}]}", &["spec.egress[0].captureMode"]),
        ("{egress: [{port: {number: 80}, bind: 127.0.0.1, hosts: ['*/*']}]}", &["spec.egress[0].bind"]),
        ("{egress: [{port: {}, bind: 'unix://@a', hosts: ['*/*']}]}", &["spec.egress[0].bind"]),
        (
            "{egress: [{port: {number: 80, protocol: HTTP_PROXY}, hosts: ['*/*']}]}",
            &["spec.egress[0].port", "spec.egress[0].port.protocol"],
        ),
        ("{outboundTrafficPolicy: {mode: ALLOW_ANY}}", &[]),
        (
            "{outboundTrafficPolicy: {mode: ALLOW_ANY, egressProxy: {host: a.b, port: {number: 1}}}}",
            &["spec.outboundTrafficPolicy.egressProxy"],
        ),
        ("{ingress: [{port: {number: 80}, connectionPool: {tcp: {maxConnections: 1}}}]}", &[]),
        ("{ingress: [{port: {number: 80}, defaultEndpoint: '127.0.0.1:90'}]}", &["spec.ingress[0].defaultEndpoint"]),
        (
            "{ingress: [{port: {number: 443, protocol: HTTPS}, bind: 10.0.0.1, captureMode: NONE,
              tls: {mode: SIMPLE, serverCertificate: c, privateKey: k}}]}",
            &["spec.ingress[0].bind", "spec.ingress[0].captureMode", "spec.ingress[0].tls"],
        ),
    ] {
        let found = found("Sidecar", spec);
        let mut unbuilt: Vec<&str> =
            found.iter().filter(|one| one.is_unbuilt()).map(|one| one.field.as_str()).collect();
        unbuilt.sort_unstable();
        assert_eq!(unbuilt, fields, "{spec}");
    }
}
