//! The rules of a ServiceEntry.

use std::sync::Arc;

use super::*;
use crate::{
    Spec,
    kinds::EndpointAddress,
    testing::{found, spec_of},
};

fn entry(spec: &str) -> Arc<ServiceEntry> {
    let Spec::ServiceEntry(entry) = spec_of("ServiceEntry", spec) else { panic!("another kind") };
    entry
}

/// But for what is valid and refused at push: see the last test.
fn codes_of(spec: &str) -> Vec<&'static str> {
    found("ServiceEntry", spec).iter().map(|one| one.code).filter(|code| *code != codes::NOT_SUPPORTED).collect()
}

#[test]
fn an_entry_is_external_and_not_resolved_by_default() {
    let plain = entry("{hosts: [API.Example.com., '*.example.org']}");
    assert_eq!(plain.hosts, ["api.example.com", "*.example.org"]);
    assert_eq!((plain.location, plain.resolution), (ServiceLocation::External, Resolution::None));
    assert_eq!((&plain.export_to, &plain.selector), (&ExportTo::All, &None));
    assert_eq!(entry("{hosts: [db]}").hosts, ["db"], "never expanded");
}

#[test]
fn the_endpoints_port_is_the_most_specific() {
    let entry = entry(
        "{hosts: [db.example.com], resolution: STATIC, location: MESH_INTERNAL,
          ports: [{name: sql, number: 3306, protocol: mysql}, {name: web, number: 80, targetPort: 8080, protocol: Http},
                  {name: raw, number: 9000, targetPort: 0, protocol: TCP}],
          endpoints: [{address: 10.0.0.1, ports: {web: 8888}}, {address: 10.0.0.2}]}",
    );
    let on: Vec<Vec<u16>> = (entry.endpoints.iter().map(|endpoint| entry.ports.iter().map(|port| port.on(endpoint))))
        .map(Iterator::collect)
        .collect();
    assert_eq!(on, [[3_306, 8_888, 9_000], [3_306, 8_080, 9_000]]);
    assert_eq!(entry.endpoints[0].address, Some(EndpointAddress::Ip("10.0.0.1".parse().unwrap())));
    assert_eq!(entry.ports[0].protocol, Some(PortProtocol::MySql));
}

#[test]
fn a_selector_finds_endpoints() {
    let selecting = entry("{hosts: [a.b], resolution: STATIC, workloadSelector: {labels: {app: db, tier: back}}}");
    let labels = |pairs: &[(&str, &str)]| {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect::<BTreeMap<_, _>>()
    };
    assert!(selecting.selects(&labels(&[("app", "db"), ("tier", "back"), ("more", "")])));
    assert!(!selecting.selects(&labels(&[("app", "db")])));
    assert!(!entry("{hosts: [a.b]}").selects(&labels(&[])));
    assert!(entry("{hosts: [a.b], resolution: DNS, workloadSelector: {}}").selects(&labels(&[])));
}

#[test]
fn hosts_and_addresses() {
    for (spec, codes) in [
        ("{}", &[codes::MISSING][..]),
        ("{hosts: []}", &[codes::MISSING]),
        ("{hosts: ['*']}", &[codes::HOST]),
        ("{hosts: [a.*.com]}", &[codes::HOST]),
        ("{hosts: [10.0.0.1]}", &[codes::HOST]),
        ("{hosts: ['']}", &[codes::HOST]),
        ("{hosts: ['*x.com']}", &[codes::PARTIAL_WILDCARD]),
        ("{hosts: [a.b], addresses: [10.0.0.1, '2001:db8::/32', 10.0.0.0/8]}", &[]),
        ("{hosts: [a.b], addresses: [10.0.0]}", &[codes::SUBNET]),
        ("{hosts: [a.b], addresses: [10.0.0.0/40]}", &[codes::SUBNET]),
        ("{hosts: [a.b], addresses: [10.0.0.0/8], resolution: STATIC}", &[]),
        ("{hosts: [a.b], addresses: [10.0.0.0/8], resolution: DNS}", &[codes::RESOLUTION]),
        ("{hosts: [a.b], addresses: [10.0.0.1], resolution: DNS}", &[]),
        ("{hosts: [a.b], location: INSIDE}", &[codes::WORD]),
        ("{hosts: [a.b], resolution: dns}", &[codes::WORD]),
        ("{hosts: [a.b], resolutoin: DNS}", &[codes::UNKNOWN_FIELD]),
    ] {
        assert_eq!(codes_of(spec), codes, "{spec}");
    }
    let many = format!("{{hosts: [{}]}}", (0..257).map(|n| format!("a{n}.b")).collect::<Vec<_>>().join(", "));
    assert_eq!(codes_of(&many), [codes::TOO_MANY]);
}

#[test]
fn ports() {
    for (ports, codes) in [
        ("[{number: 80, name: web, protocol: HTTP}]", &[][..]),
        ("[{number: 80, name: web, protocol: SCTP}]", &[codes::PROTOCOL]),
        ("[{number: 53, name: dns, protocol: UDP}]", &[codes::IGNORED]),
        ("[{number: 0, name: web, protocol: HTTP}]", &[codes::RANGE]),
        ("[{name: web, protocol: HTTP}]", &[codes::MISSING]),
        ("[{number: 80, protocol: HTTP}]", &[codes::MISSING]),
        ("[{number: 80, name: a.b, protocol: HTTP}]", &[codes::NAME]),
        ("[{number: 80, name: web, protocol: HTTP, targetPort: 65536}]", &[codes::RANGE]),
        ("[{number: 80, name: a, protocol: HTTP}, {number: 81, name: a, protocol: HTTP}]", &[codes::DUPLICATE]),
        ("[{number: 80, name: a, protocol: HTTP}, {number: 80, name: b, protocol: HTTP}]", &[codes::DUPLICATE]),
        ("[{number: 80, name: a, protocol: HTTP, nodePort: 1}]", &[codes::UNKNOWN_FIELD]),
        ("[null]", &[codes::WRONG_TYPE]),
    ] {
        assert_eq!(codes_of(&format!("{{hosts: [a.b], resolution: DNS, ports: {ports}}}")), codes, "{ports}");
    }
    let sniffed = "{hosts: [a.b], ports: [{number: 80, name: a}, {number: 81, name: b, protocol: tcp}]}";
    assert_eq!(codes_of(sniffed), [codes::PORT_WITHOUT_ADDRESS; 2]);
    assert_eq!(codes_of(&sniffed.replace("hosts", "addresses: [10.0.0.1], hosts")), [""; 0]);
    // Istio may allot an address to its host. Here nobody does.
    assert_eq!(codes_of(&sniffed.replace("hosts", "resolution: DNS, hosts")), [codes::PORT_WITHOUT_ADDRESS]);
}

#[test]
fn endpoints_fit_the_resolution() {
    let ports = "ports: [{number: 80, name: web, protocol: HTTP}]";
    for (spec, codes) in [
        ("resolution: NONE, endpoints: [{address: 10.0.0.1}]", &[codes::RESOLUTION][..]),
        ("resolution: NONE, endpoints: []", &[]),
        ("resolution: NONE, workloadSelector: {labels: {a: b}}", &[codes::IGNORED]),
        ("resolution: STATIC, endpoints: [{address: 10.0.0.1, ports: {web: 8080}}]", &[]),
        ("resolution: STATIC, endpoints: [{address: 10.0.0.1, ports: {wbe: 8080}}]", &[codes::UNKNOWN_PORT]),
        ("resolution: STATIC, endpoints: [{address: a.b}]", &[codes::ADDRESS]),
        ("resolution: STATIC, endpoints: [{address: 'unix:///a'}]", &[]),
        ("resolution: STATIC, endpoints: [{network: dc1}]", &[codes::IGNORED]),
        ("resolution: STATIC, endpoints: [{address: 10.0.0.1, network: dc1}]", &[codes::IGNORED]),
        ("resolution: STATIC, endpoints: [{}]", &[codes::MISSING]),
        (
            "resolution: STATIC, endpoints: [{address: 10.0.0.1}], workloadSelector: {labels: {a: b}}",
            &[codes::EXCLUSIVE],
        ),
        ("resolution: STATIC, workloadSelector: {labels: {a: 'b*'}}", &[codes::LABEL]),
        ("resolution: STATIC, workloadSelector: {}", &[codes::EMPTY_SELECTOR]),
        ("resolution: STATIC, workloadSelector: {labels: {a: 'b c'}}", &[codes::UNMATCHED_LABEL]),
        ("resolution: DNS, endpoints: [{address: a.b}, {address: 10.0.0.1, ports: {web: 1}}]", &[]),
        ("resolution: DNS, endpoints: [{address: 'unix:///a'}]", &[codes::ADDRESS]),
        ("resolution: DNS, endpoints: [{network: dc1}]", &[codes::MISSING]),
        ("resolution: DNS, endpoints: [{address: a.b, ports: {wbe: 1}}]", &[codes::UNKNOWN_PORT]),
        ("resolution: DNS_ROUND_ROBIN, endpoints: [{address: a.b}]", &[]),
        ("resolution: DNS_ROUND_ROBIN, endpoints: [{address: a.b}, {address: c.d}]", &[codes::RESOLUTION]),
    ] {
        assert_eq!(codes_of(&format!("{{hosts: [x.y], {ports}, {spec}}}")), codes, "{spec}");
    }
    let two = "ports: [{number: 80, name: a, protocol: HTTP}, {number: 81, name: b, protocol: HTTP}]";
    let unix = format!("{{hosts: [x.y], {two}, resolution: STATIC, endpoints: [{{address: 'unix:///a'}}]}}");
    assert_eq!(codes_of(&unix), [codes::EXCLUSIVE]);
    assert_eq!(codes_of("{hosts: ['*.y'], resolution: DNS}"), [codes::RESOLUTION]);
    assert_eq!(codes_of("{hosts: ['*.y'], resolution: DNS, endpoints: [{address: a.y}]}"), [""; 0]);
}

#[test]
fn names_that_requests_give_are_resolved() {
    let ports = "ports: [{number: 80, name: web, protocol: HTTP}]";
    for (spec, codes) in [
        ("hosts: ['*.y'], ports: [{number: 443, name: tls, protocol: TLS}]", &[][..]),
        ("hosts: ['*x.y']", &[]),
        ("hosts: [x.y]", &[codes::RESOLUTION]),
        ("hosts: ['*.y'], addresses: [10.0.0.1]", &[codes::RESOLUTION]),
        ("hosts: ['*.y'], endpoints: [{address: 10.0.0.1}]", &[codes::RESOLUTION]),
        ("hosts: ['*.y'], ports: [{number: 443, name: tls, protocol: HTTPS}]", &[codes::RESOLUTION]),
        ("hosts: ['*.y'], ports: [{number: 443, name: tls}]", &[codes::RESOLUTION]),
        ("hosts: ['*.y'], location: MESH_INTERNAL", &[]),
    ] {
        let spec = if spec.contains("ports:") { spec.to_owned() } else { format!("{spec}, {ports}") };
        assert_eq!(codes_of(&format!("{{resolution: DYNAMIC_DNS, {spec}}}")), codes, "{spec}");
    }
    let text = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: x, labels: {istio.io/use-waypoint: w}}
spec: {hosts: ['*.y'], location: MESH_INTERNAL, resolution: DYNAMIC_DNS}\n";
    let codes_in = |text: &str| {
        let problems = crate::parse::yaml("f", text, "default").problems;
        problems.iter().map(|one| one.code).collect::<Vec<_>>()
    };
    assert_eq!(codes_in(text), [codes::RESOLUTION]);
    assert_eq!(codes_in(&text.replace("waypoint: w", "waypoint: None")), [""; 0]);
}

#[test]
fn hosts_that_share_a_port_are_told_apart() {
    let two = |rest: &str| codes_of(&format!("{{hosts: [a.b, c.d], {rest}}}"));
    let port = |protocol: &str| format!("ports: [{{number: 80, name: p, protocol: {protocol}}}]");
    assert_eq!(two(&format!("resolution: DNS, {}", port("GRPC-WEB"))), [""; 0]);
    assert_eq!(two(&format!("resolution: DNS, {}", port("HTTPS"))), [""; 0]);
    assert_eq!(two(&format!("resolution: DNS, {}", port("REDIS"))), [codes::RESOLUTION]);
    assert_eq!(two(&format!("resolution: STATIC, {}", port("''"))), [codes::RESOLUTION]);
    assert_eq!(two(&format!("resolution: NONE, addresses: [10.0.0.1], {}", port("TCP"))), [""; 0]);
    let shared = two(&format!("resolution: DNS, addresses: [10.0.0.1], {}", port("TLS")));
    assert_eq!(shared, [codes::AMBIGUOUS_HOST]);
}

#[test]
fn an_entry_may_be_exported_to_nobody() {
    let export = |list: &str| format!("{{hosts: [a.b], exportTo: {list}}}");
    assert!(!entry(&export("['~']")).export_to.includes("shop"));
    assert!(entry(&export("['.']")).export_to.includes("shop"));
    assert!(!entry(&export("['.']")).export_to.includes("other"));
    assert_eq!(codes_of(&export("['~', shop]")), [codes::EXPORT_TO]);
    assert_eq!(codes_of(&export("['~', '~']")), [codes::EXPORT_TO]);
    assert_eq!(codes_of(&export("['*', '.']")), [codes::EXPORT_TO]);
    assert_eq!(codes_of(&export("[shop, '.']")), [codes::EXPORT_TO]);
}

#[test]
fn complaints_have_their_place() {
    let spec = "
  hosts:
  - a.b
  ports:
  - number: 80
    name: web
    protocl: HTTP
  resolution: STATIC
  endpoints:
  - address: db.example.com
    ports: {sql: 1}";
    let found = found("ServiceEntry", spec);
    let places: Vec<_> = found.iter().map(|one| (one.code, one.line, one.column, one.field.as_str())).collect();
    let expected = [
        (codes::UNKNOWN_FIELD, 10, 5, "spec.ports[0].protocl"),
        (codes::ADDRESS, 13, 14, "spec.endpoints[0].address"),
        (codes::UNKNOWN_PORT, 14, 18, "spec.endpoints[0].ports[sql]"),
    ];
    assert_eq!(places, expected);
    assert_eq!(found[0].hint, "did you mean `protocol`?");
    let message = "endpoint address \"db.example.com\" is not a valid IP address";
    assert_eq!(found[1].istio_message.as_deref(), Some(message));
}

#[test]
fn what_no_node_does_is_refused_at_push() {
    let ports = "ports: [{number: 80, name: http, protocol: HTTP}]";
    for (spec, place) in [
        (
            format!("{{hosts: [a.b], resolution: STATIC, {ports}, endpoints: [{{address: 'unix:///run/a'}}]}}"),
            Some("spec.endpoints[0].address"),
        ),
        (
            "{hosts: [a.b], resolution: DNS, ports: [{number: 80, name: web, protocol: GRPC-WEB}]}".to_owned(),
            Some("spec.ports[0].protocol"),
        ),
        (
            format!("{{hosts: [a.b], {ports}, resolution: DNS, subjectAltNames: ['spiffe://a/b']}}"),
            Some("spec.subjectAltNames[0]"),
        ),
        (
            format!("{{hosts: [a.b], {ports}, resolution: DNS, subjectAltNames: [c.d, '*.c.d']}}"),
            Some("spec.subjectAltNames[1]"),
        ),
        (
            format!(
                "{{hosts: [a.b], resolution: STATIC, {ports}, endpoints: [{{address: 10.0.0.1, labels: {{security.istio.io/tlsMode: istio}}}}]}}"
            ),
            Some("spec.endpoints[0].labels"),
        ),
        (format!("{{hosts: ['*.y'], resolution: STATIC, {ports}, endpoints: [{{address: 10.0.0.1}}]}}"), None),
        (format!("{{hosts: [a.b], {ports}, subjectAltNames: [c.d]}}"), None),
    ] {
        let found = found("ServiceEntry", &spec);
        let places: Vec<&str> =
            found.iter().filter(|one| one.code == codes::NOT_SUPPORTED).map(|one| one.field.as_str()).collect();
        assert_eq!(places, Vec::from_iter(place), "{spec}");
    }
}
