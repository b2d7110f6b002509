//! What a VirtualService may say, and what it comes to.

use std::sync::Arc;

use super::*;
use crate::{
    kinds::{HttpAction, L4Match},
    testing::{complaints, spec_of},
};

const ROUTE: &str = "http: [{route: [{destination: {host: a}}]}]";

fn service(spec: &str) -> Arc<VirtualService> {
    spec_of("VirtualService", spec).virtual_service().unwrap().clone()
}

fn edge() -> GatewayName {
    GatewayName::Gateway { namespace: "shop".into(), name: "edge".into() }
}

#[test]
fn gateways_are_named_in_full() {
    let of = |names: &str| service(&format!("{{hosts: [a.example], gateways: {names}, {ROUTE}}}")).gateways.clone();
    assert_eq!(of("[]"), [GatewayName::Mesh]);
    assert_eq!(of("[edge, mesh]"), [edge(), GatewayName::Mesh]);
    assert_eq!(of("[shop/edge]"), [edge()]);
    assert_eq!(of("[edge.shop.svc.cluster.local]"), [edge()]);
    let plain = service(&format!("{{hosts: [a], {ROUTE}}}"));
    assert!(plain.is_for_mesh() && !plain.is_delegate());
    let named = "{hosts: [a], http: [{match: [{gateways: [edge]}], route: [{destination: {host: a}}]}]}";
    assert_eq!(service(named).http[0].matches[0].gateways, Some(vec![edge()]));
}

#[test]
fn hosts() {
    let of = |spec: &str| service(spec).hosts.clone();
    assert_eq!(of(&format!("{{hosts: [a, '*.b.example'], {ROUTE}}}")), ["a.shop.svc.cluster.local", "*.b.example"]);
    assert_eq!(of(&format!("{{hosts: ['*'], gateways: [edge], {ROUTE}}}")), ["*"]);
    assert_eq!(of(&format!("{{hosts: [10.0.0.1, b], gateways: [edge], {ROUTE}}}"))[0], "10.0.0.1");
    // Twice the same service: once is enough.
    assert_eq!(of(&format!("{{hosts: [a, a.shop.svc.cluster.local], {ROUTE}}}")), ["a.shop.svc.cluster.local"]);
    for (hosts, more, code) in [
        ("['*']", "", codes::HOST),
        ("['*']", ", gateways: [edge, mesh]", codes::HOST),
        ("['']", "", codes::HOST),
        ("['outbound_.80_._.a.example']", ", gateways: [edge]", codes::HOST),
        ("[a.example, '*.example']", "", codes::DUPLICATE),
        ("[a, a]", ", gateways: [edge]", codes::DUPLICATE),
        ("[a, a.shop.svc.cluster.local]", "", codes::REPEATED_HOST),
        ("[a]", ", gateways: ['a b']", codes::GATEWAY_NAME),
        ("[a]", ", gateways: [/b]", codes::GATEWAY_NAME),
        ("[a]", ", gateways: [edge.shop]", codes::DEPRECATED),
    ] {
        let found = complaints("VirtualService", &format!("{{hosts: {hosts}{more}, {ROUTE}}}"));
        assert!(found.iter().any(|(found, _)| *found == code), "{hosts}{more}: {found:?}");
    }
}

#[test]
fn delegates() {
    assert!(service(&format!("{{{ROUTE}}}")).is_delegate());
    let root = service(
        "{hosts: [a], http: [{delegate: {name: part}, directResponse: {status: 418}}, {delegate: {name: part, namespace: web}}]}",
    );
    let HttpAction::Delegate { to, direct } = &root.http[0].action else { panic!("delegates") };
    assert_eq!((to.id().to_string().as_str(), direct.is_some()), ("VirtualService shop/part", true));
    let HttpAction::Delegate { to, .. } = &root.http[1].action else { panic!("delegates") };
    assert_eq!(to.namespace, "web");
    for (spec, code) in [
        ("{gateways: [edge], http: [{route: [{destination: {host: a}}]}]}", codes::DELEGATE),
        ("{tcp: [{route: [{destination: {host: a}}]}]}", codes::DELEGATE),
        ("{hosts: []}", codes::MISSING),
        ("{http: [{delegate: {name: b}}]}", codes::EXCLUSIVE),
        ("{hosts: [a], http: [{delegate: {name: b}, redirect: {uri: /x}}]}", codes::EXCLUSIVE),
        ("{hosts: [a], http: [{delegate: {name: b}, route: [{destination: {host: a}}]}]}", codes::EXCLUSIVE),
        ("{hosts: [a], http: [{delegate: {}}]}", codes::MISSING),
    ] {
        let found = complaints("VirtualService", spec);
        assert!(found.iter().any(|(found, _)| *found == code), "{spec}: {found:?}");
    }
    // Compiled with the rest: nothing is left to build.
    assert_eq!(complaints("VirtualService", "{hosts: [a], http: [{delegate: {name: b}}]}"), []);
}

#[test]
fn one_action() {
    let route = "route: [{destination: {host: a}}]";
    for (rule, code) in [
        ("{}".to_owned(), codes::NO_ACTION),
        ("{route: []}".to_owned(), codes::NO_ACTION),
        (format!("{{redirect: {{uri: /x}}, {route}}}"), codes::EXCLUSIVE),
        ("{redirect: {uri: /x}, directResponse: {status: 200}}".to_owned(), codes::EXCLUSIVE),
        ("{directResponse: {status: 200}, rewrite: {uri: /x}}".to_owned(), codes::EXCLUSIVE),
        (format!("{{directResponse: {{status: 200}}, {route}}}"), codes::EXCLUSIVE),
    ] {
        let found = complaints("VirtualService", &format!("{{hosts: [a], http: [{rule}]}}"));
        assert!(found.iter().any(|(found, _)| *found == code), "{rule}: {found:?}");
    }
    let empty = "{hosts: [a], http: [{redirect: {uri: /x}, route: []}]}";
    assert!(matches!(service(empty).http[0].action, HttpAction::Redirect(_)));
}

#[test]
fn headers_that_frame_messages_or_tell_who_calls() {
    let found = |gateways: &str, headers: &str| {
        let rule = format!("{{headers: {headers}, route: [{{destination: {{host: a}}}}]}}");
        let found = complaints("VirtualService", &format!("{{hosts: [a.example], {gateways}http: [{rule}]}}"));
        found.into_iter().map(|(code, _)| code).collect::<Vec<_>>()
    };
    for name in ["content-length", "Transfer-Encoding", "connection", "te", "upgrade", "keep-alive", "trailer"] {
        for headers in [format!("{{request: {{set: {{{name}: x}}}}}}"), format!("{{response: {{add: {{{name}: x}}}}}}")]
        {
            assert_eq!(found("", &headers), [codes::HEADER], "{headers}");
        }
        assert!(found("", &format!("{{response: {{remove: [{name}]}}}}")).is_empty(), "that is harmless");
    }
    assert_eq!(found("", "{request: {add: {x-skein-check: a}}}"), [codes::HEADER]);
    let address = "{request: {set: {X-Real-Ip: '%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%'}}}";
    assert_eq!(found("", address), [codes::WITHOUT_EFFECT]);
    assert!(found("gateways: [edge], ", address).is_empty());
}

#[test]
fn claims_are_matched_at_the_edge_only() {
    let spec = |gateways: &str, claim: &str| {
        format!(
            "{{hosts: [a.example], gateways: {gateways}, http: [{{match: [{{headers: {{'{claim}': {{exact: x}}}}}}], route: [{{destination: {{host: a}}}}]}}]}}"
        )
    };
    let edge = service(&spec("[edge]", "@request.auth.claims[realm.x][roles]"));
    let condition = &edge.http[0].matches[0];
    assert_eq!(
        (condition.claims[0].0.as_slice(), condition.headers.len()),
        (&["realm.x".to_owned(), "roles".to_owned()][..], 0)
    );
    assert_eq!(complaints("VirtualService", &spec("[edge]", "@request.auth.claims.sub")), [], "nothing is left out");
    let refused = |gateways: &str| {
        let found = complaints("VirtualService", &spec(gateways, "@request.auth.claims.sub"));
        found.iter().any(|(code, _)| *code == codes::CLAIM_ROUTE)
    };
    assert!(refused("[mesh]") && refused("[edge, mesh]") && !refused("[edge]"));
    assert!(
        complaints("VirtualService", &spec("[edge]", "@request.auth.claims."))
            .iter()
            .any(|(code, _)| *code == codes::HEADER)
    );
}

#[test]
fn rules_for_connections() {
    let whole = service(
        "{hosts: [a.example, '*.b.example'],
          tls: [{match: [{sniHosts: [A.example, x.b.example], port: 443, sourceNamespace: web}], route: [{destination: {host: a}, weight: 3}, {destination: {host: b}, weight: 1}]}],
          tcp: [{match: [{destinationSubnets: [10.0.0.0/8, 192.0.2.1], sourceLabels: {app: x}, gateways: [edge]}], route: [{destination: {host: a, port: {number: 1}}}]}, {route: [{destination: {host: a}}]}]}",
    );
    assert_eq!(whole.tls[0].matches[0].sni_hosts, ["a.example", "x.b.example"]);
    assert_eq!((whole.tls[0].matches[0].connection.port, whole.tls[0].route[0].weight), (Some(443), 3));
    let condition = &whole.tcp[0].matches[0];
    assert!(condition.destination_subnets[0].contains("10.9.9.9".parse().unwrap()));
    assert_eq!((condition.gateways.as_deref(), condition.source_labels.len()), (Some(&[edge()][..]), 1));
    assert_eq!(whole.tcp[1].matches, Vec::<L4Match>::new());
}

#[test]
fn what_rules_for_connections_cannot_be() {
    let to = "route: [{destination: {host: a}}]";
    for (rules, code) in [
        (format!("tls: [{{{to}}}]"), codes::MISSING),
        (format!("tls: [{{match: [{{port: 443}}], {to}}}]"), codes::SNI),
        (format!("tls: [{{match: [{{sniHosts: [c.example]}}], {to}}}]"), codes::SNI),
        (format!("tls: [{{match: [{{sniHosts: ['a.*']}}], {to}}}]"), codes::SNI),
        (format!("tls: [{{match: [{{sniHosts: [192.0.2.1]}}], {to}}}]"), codes::SNI_ADDRESS),
        ("tls: [{match: [{sniHosts: [a.example]}]}]".to_owned(), codes::NO_ACTION),
        ("tcp: [{route: []}]".to_owned(), codes::NO_ACTION),
        ("tcp: [{route: [{destination: {host: a}}, {destination: {host: b}}]}]".to_owned(), codes::WEIGHT),
        ("tcp: [{route: [{destination: {host: a}, headers: {}}]}]".to_owned(), codes::UNKNOWN_FIELD),
        (format!("tcp: [{{match: [{{destinationSubnets: [10.0.0.0/40]}}], {to}}}]"), codes::SUBNET),
        (format!("tcp: [{{match: [{{sourceSubnet: 10.0.0.0/8}}], {to}}}]"), codes::IGNORED),
        (format!("tcp: [{{match: [{{sourceNamespace: a.b}}], {to}}}]"), codes::NAME),
        (format!("tcp: [{{{to}}}, {{match: [{{port: 1}}], {to}}}]"), codes::UNREACHABLE_RULE),
        (format!("tcp: [{{match: [{{port: 1}}], {to}}}, {{match: [{{port: 1}}], {to}}}]"), codes::DUPLICATE_MATCH),
    ] {
        let found = complaints("VirtualService", &format!("{{hosts: [a.example], {rules}}}"));
        assert!(found.iter().any(|(found, _)| *found == code), "{rules}: {found:?}");
    }
    for rules in [format!("tcp: [{{{to}}}]"), format!("tls: [{{match: [{{sniHosts: [a.example]}}], {to}}}]")] {
        assert_eq!(complaints("VirtualService", &format!("{{hosts: [a.example], {rules}}}")), [], "{rules}");
    }
}
