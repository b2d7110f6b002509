//! Tests of reading AuthorizationPolicy.

use std::sync::Arc;

use super::AuthorizationPolicy;
use crate::{Problem, Severity, Spec, codes, parse};

fn read(annotation: &str, spec: &str) -> parse::Parsed {
    let text = format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
         metadata: {{name: a, namespace: shop, annotations: {{{annotation}}}}}\nspec: {spec}\n"
    );
    parse::yaml("f", &text, "default")
}

fn errors(parsed: &parse::Parsed) -> Vec<&Problem> {
    parsed.problems.iter().filter(|problem| problem.severity == Severity::Error).collect()
}

fn policy(spec: &str) -> Arc<AuthorizationPolicy> {
    let parsed = read("", spec);
    let Spec::AuthorizationPolicy(policy) = &parsed.documents.first().expect(spec).document.spec else { panic!() };
    policy.clone()
}

#[test]
fn what_is_valid_is_read() {
    let all = policy("{}");
    assert!(all.rules.is_empty() && all.target.labels.is_empty());
    assert_eq!(policy("{rules: [{}]}").rules[0].conditions().count(), 0);
    let rule = "{from: [{source: {principals: ['*'], notIpBlocks: [10.0.0.0/8]}}, {source: {serviceAccounts: [sa]}}], \
                to: [{operation: {methods: [GET], ports: ['80']}}], when: [{key: 'request.headers[X-A]', values: [a*]}]}";
    let read = policy(&format!("{{action: DENY, rules: [{rule}]}}"));
    assert_eq!((read.rules[0].from.len(), read.rules[0].to.len(), read.rules[0].when.len()), (2, 1, 1));
    assert_eq!(read.rules[0].conditions().count(), 6);
}

#[test]
fn what_is_not_valid_says_so() {
    for (code, spec) in [
        (codes::EMPTY, "{rules: [{from: [{source: {}}]}]}"),
        (codes::MISSING, "{rules: [{from: [{}]}]}"),
        (codes::EMPTY, "{rules: [{to: [{operation: {methods: [GET, '']}}]}]}"),
        (codes::SUBNET, "{rules: [{from: [{source: {ipBlocks: [ip1]}}]}]}"),
        (codes::RANGE, "{rules: [{to: [{operation: {ports: ['70000']}}]}]}"),
        (codes::PATTERN, "{rules: [{to: [{operation: {paths: ['/{a}']}}]}]}"),
        (codes::PATTERN, "{rules: [{from: [{source: {serviceAccounts: [a/b/c]}}]}]}"),
        (codes::EXCLUSIVE, "{rules: [{from: [{source: {serviceAccounts: [a], namespaces: [b]}}]}]}"),
        (codes::MISSING, "{rules: [{when: [{values: [a]}]}]}"),
        (codes::MISSING, "{rules: [{when: [{key: source.principal}]}]}"),
        (codes::ATTRIBUTE, "{rules: [{when: [{key: key1, values: [a]}]}]}"),
        (codes::ACTION, "{action: DENY}"),
        (codes::ACTION, "{action: CUSTOM, rules: [{}]}"),
        (codes::ACTION, "{provider: {name: a}, rules: [{}]}"),
        (codes::ACTION, "{action: CUSTOM, provider: {name: a}, rules: [{from: [{source: {principals: ['*']}}]}]}"),
        (codes::WORD, "{action: PERMIT}"),
        (codes::UNKNOWN_FIELD, "{rules: [{form: []}]}"),
        (codes::SELECTOR, "{selector: {matchLabels: {'a*': b}}}"),
        (codes::EXCLUSIVE, "{selector: {matchLabels: {a: b}}, targetRef: {kind: Service, name: a}}"),
    ] {
        let parsed = read("", spec);
        let found: Vec<&str> = errors(&parsed).iter().map(|problem| problem.code).collect();
        assert_eq!(found, [code], "{spec}: {:#?}", parsed.problems);
        assert!(errors(&parsed).iter().all(|problem| problem.line == 4 && problem.column > 0), "{spec}");
    }
}

#[test]
fn what_is_not_valid_says_how_to_mend_it() {
    let when = |key: &str| format!("{{rules: [{{when: [{{key: '{key}', values: [a]}}]}}]}}");
    let from = |source: &str| format!("{{rules: [{{from: [{{source: {{{source}}}}}]}}]}}");
    for (spec, hint) in [
        (when("source.principle"), "did you mean `source.principal`?"),
        (when("source.ips"), "did you mean `source.ip`?"),
        (when("request.header[x-user]"), "write request.headers[NAME]"),
        (when("request.headers"), "write request.headers[NAME]"),
        (when("request.auth.claim[iss]"), "write request.auth.claims[NAME]"),
        (when("destination.labels[app]"), "`selector.matchLabels`"),
        (when("destination.namespace"), "its own namespace"),
        (when("key1"), "one of source.principal, source.namespace"),
        (from("ipBlocks: [10.0.0.0/33]"), "10.0.0.0/8"),
        (from("ipBlocks: ['']"), "leave it out"),
        (from("trustDomains: ['a/b']"), "write the domain alone"),
        (from("serviceAccounts: ['a/*']"), "`principals`"),
        (from(""), "leave `from` out"),
        ("{rules: [{to: [{operation: {ports: ['80,81']}}]}]}".to_owned(), "items of the list"),
    ] {
        let parsed = read("", &spec);
        let hints: Vec<&str> = errors(&parsed).iter().map(|problem| problem.hint.as_str()).collect();
        assert!(hints.len() == 1 && hints[0].contains(hint), "{spec}: {hints:?}");
    }
}

#[test]
fn a_trial_is_for_allow_and_deny() {
    let dry = |value: &str, spec: &str| read(&format!("istio.io/dry-run: '{value}'"), spec);
    for (value, expected) in [("true", true), ("false", false)] {
        let parsed = dry(value, "{action: DENY, rules: [{}]}");
        let Spec::AuthorizationPolicy(policy) = &parsed.documents[0].document.spec else { panic!() };
        assert_eq!(policy.dry_run, expected);
    }
    assert_eq!(errors(&dry("foo", "{}"))[0].code, codes::ANNOTATION);
    assert_eq!(errors(&dry("true", "{action: AUDIT}"))[0].code, codes::ACTION);
}

#[test]
fn envoys_filters_are_refused_at_push_and_tokens_are_not() {
    let unbuilt = |spec: &str| {
        let parsed = read("", spec);
        assert!(errors(&parsed).is_empty(), "{:#?}", parsed.problems);
        parsed.problems.iter().any(|problem| problem.code == codes::NOT_SUPPORTED)
    };
    assert!(unbuilt("{rules: [{when: [{key: 'experimental.envoy.filters.a[b]', values: [c]}]}]}"));
    assert!(!unbuilt("{rules: [{from: [{source: {notRequestPrincipals: ['*']}}]}]}"));
    assert!(!unbuilt("{rules: [{when: [{key: 'request.auth.claims[a]', values: [c]}]}]}"));
}

#[test]
fn a_deny_of_http_alone_is_warned_of() {
    let warned = |spec: &str| read("", spec).problems.iter().any(|problem| problem.code == codes::DENIES_ALL_TCP);
    assert!(warned("{action: DENY, rules: [{to: [{operation: {methods: [GET]}}]}]}"));
    assert!(warned("{action: DENY, rules: [{from: [{source: {requestPrincipals: ['*']}}]}]}"));
    assert!(!warned("{action: DENY, rules: [{to: [{operation: {methods: [GET], ports: ['80']}}]}]}"));
    assert!(!warned("{action: ALLOW, rules: [{to: [{operation: {methods: [GET]}}]}]}"));
}

#[test]
fn patterns_that_nothing_meets_are_warned_of() {
    let warned = |rule: &str| {
        let parsed = read("", &format!("{{rules: [{rule}]}}"));
        assert!(errors(&parsed).is_empty(), "{:#?}", parsed.problems);
        parsed.problems.iter().any(|problem| problem.code == codes::WITHOUT_EFFECT)
    };
    let principal = |text: &str| format!("{{from: [{{source: {{principals: ['{text}']}}}}]}}");
    assert!(warned(&principal("spiffe://a/ns/b/sa/c")) && !warned(&principal("a/ns/b/sa/c")));
    let method = |text: &str| format!("{{to: [{{operation: {{methods: ['{text}']}}}}]}}");
    assert!(warned(&method("get")) && !warned(&method("GET")) && !warned(&method("G*")));
    let path = |text: &str| format!("{{to: [{{operation: {{notPaths: ['{text}']}}}}]}}");
    for vain in ["//admin", "/a/../b", "/a/.", "admin", "/a\\b"] {
        assert!(warned(&path(vain)), "{vain}");
    }
    for good in ["/admin", "*", "*/x", "/a*", "/.well-known/{*}", "/a.b/..."] {
        assert!(!warned(&path(good)), "{good}");
    }
}
