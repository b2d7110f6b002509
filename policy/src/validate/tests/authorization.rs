//! AuthorizationPolicies.

use super::*;
use crate::hosts::Protocol;

fn policy(name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{{name}}}\nspec: {{{spec}}}\n"
    )
}

fn web() -> Table {
    table().workload("default", &[("app", "web")], &[(9_080, Protocol::Http), (3_306, Protocol::Tcp)])
}

const WEB: &str = "selector: {matchLabels: {app: web}}";

#[test]
fn a_policy_is_for_somebody() {
    let with = |name: &str, spec: &str| fields(&policy(name, spec), &web(), codes::SELECTS_NOBODY);
    assert!(with("name: a", WEB).is_empty());
    assert!(with("name: a, namespace: istio-system", WEB).is_empty(), "the root namespace is all");
    assert!(with("name: a", "").is_empty());
    assert_eq!(with("name: a, namespace: shop", WEB), ["spec.selector"]);
    assert_eq!(with("name: a", "selector: {matchLabels: {app: wbe}}"), ["spec.selector"]);
    assert_eq!(with("name: a, namespace: shop", ""), ["spec.selector"]);
    let others = "---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: p}\nspec: {selector: {matchLabels: {app: wbe}}}\n";
    assert_eq!(fields(others, &web(), codes::SELECTS_NOBODY), ["spec.selector"]);
    assert!(
        fields(&policy("name: a", "selector: {matchLabels: {app: wbe}}"), &table(), codes::SELECTS_NOBODY).is_empty()
    );
}

#[test]
fn what_is_denied_first_is_never_allowed() {
    let deny = |spec: &str| policy("name: deny", &format!("action: DENY, {spec}"));
    let get = "rules: [{to: [{operation: {methods: [GET]}}]}]";
    let get_a = "rules: [{to: [{operation: {methods: [GET], paths: [/a]}}]}, {to: [{operation: {methods: [PUT]}}]}]";
    let with = |deny: &str, allow: &str| {
        fields(&format!("{deny}{}", policy("name: allow", allow)), &web(), codes::DENIED_BEFORE)
    };
    assert_eq!(with(&deny(get), get_a), ["spec.rules[0]"]);
    assert_eq!(with(&deny("rules: [{}]"), get_a), ["spec.rules[0]", "spec.rules[1]"]);
    assert_eq!(with(&deny(get), &format!("{WEB}, {get_a}")), ["spec.rules[0]"], "for all is for these");
    assert!(with(&deny(&format!("{WEB}, {get}")), get_a).is_empty(), "elsewhere it is allowed");
    assert!(with(&deny("rules: [{to: [{operation: {methods: [GET], paths: [/b]}}]}]"), get_a).is_empty());
    let trial = deny(get).replace("name: deny}", "name: deny, annotations: {istio.io/dry-run: 'true'}}");
    assert!(with(&trial, get_a).is_empty());
    let mesh = deny(get).replace("name: deny}", "name: deny, namespace: istio-system}");
    assert_eq!(with(&mesh, get_a), ["spec.rules[0]"]);
    let other = deny(get).replace("name: deny}", "name: deny, namespace: shop}");
    assert!(with(&other, get_a).is_empty());
}

#[test]
fn http_is_not_seen_on_tcp_ports() {
    let with =
        |rules: &str| fields(&policy("name: a", &format!("{WEB}, rules: [{rules}]")), &web(), codes::HTTP_RULE_ON_TCP);
    assert_eq!(with("{to: [{operation: {methods: [GET], ports: ['3306']}}]}"), ["spec.rules[0]"]);
    assert!(with("{to: [{operation: {methods: [GET], ports: ['9080']}}]}").is_empty());
    assert!(with("{to: [{operation: {methods: [GET]}}]}").is_empty(), "one of the ports speaks HTTP");
    assert!(with("{to: [{operation: {ports: ['3306']}}]}").is_empty());
    assert!(with("{to: [{operation: {methods: [GET], ports: ['4']}}]}").is_empty(), "nothing is known of the port");
    let database = table().workload("default", &[("app", "web")], &[(3_306, Protocol::Tcp)]);
    let deny = policy(
        "name: a",
        &format!("{WEB}, action: DENY, rules: [{{to: [{{operation: {{paths: [/a], ports: ['3306']}}}}]}}]"),
    );
    assert_eq!(fields(&deny, &database, codes::HTTP_RULE_ON_TCP), ["spec.rules[0]"]);
}

#[test]
fn namespaces_are_there() {
    let rules = "rules: [{from: [{source: {namespaces: [default, 'sh*', prod], notNamespaces: ['*-test']}}]}]";
    let text = policy("name: a", rules);
    let known = web().names(&["default", "shop"], &[]);
    let wanted = ["spec.rules[0].from[0].source.namespaces[2]", "spec.rules[0].from[0].source.notNamespaces[0]"];
    assert_eq!(fields(&text, &known, codes::UNKNOWN_NAMESPACE), wanted);
    assert!(fields(&text, &web(), codes::UNKNOWN_NAMESPACE).is_empty(), "nothing is known of namespaces");
}
