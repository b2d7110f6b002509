//! What of a delegate's rules is left under the rule that delegates to it.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::{kinds::StringMatch, parse};

fn service(name: &str, spec: &str) -> (DocumentId, Arc<VirtualService>) {
    let text = format!(
        "{{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {{name: {name}, namespace: shop}}, spec: {spec}}}"
    );
    let parsed = parse::yaml("f.yaml", &text, "default");
    assert!(parsed.is_valid(), "{text}: {:#?}", parsed.problems);
    let document = &parsed.documents[0].document;
    (document.id.clone(), document.spec.virtual_service().unwrap().clone())
}

/// The rules of a root whose `http` holds these items, one of them `delegate: {name: part}`, for a delegate with these.
fn rules_of(root: &str, part: &str) -> Vec<Rule> {
    let (id, root) = service("root", &format!("{{hosts: [reviews], http: [{root}]}}"));
    let (part_id, part) = service("part", &format!("{{http: [{part}]}}"));
    rules(&id, &root, &GatewayName::Mesh, &|wanted| (*wanted == part_id).then(|| part.clone()))
}

/// Names of the rules.
fn names(root: &str, part: &str) -> Vec<String> {
    rules_of(root, part).into_iter().map(|rule| rule.http.name).collect()
}

const TO: &str = "route: [{destination: {host: reviews}}]";

#[test]
fn a_delegates_rules_stand_in_the_rules_place() {
    let root = format!(
        "{{name: a, match: [{{uri: {{prefix: /a}}}}], {TO}}}, {{name: b, match: [{{uri: {{prefix: /b}}}}], delegate: {{name: part}}}}, {{name: c, {TO}}}"
    );
    let part = format!("{{name: x, match: [{{uri: {{prefix: /b/x}}}}], {TO}}}, {{{TO}}}");
    let found = rules_of(&root, &part);
    let shown: Vec<_> =
        found.iter().map(|rule| (rule.http.name.as_str(), rule.document.name.as_str(), rule.index)).collect();
    assert_eq!(shown, [("a", "root", 0), ("b-x", "part", 0), ("b", "part", 1), ("c", "root", 2)]);
    // A rule without conditions takes those of the root.
    assert_eq!(found[2].http.matches[0].uri, Some(StringMatch::Prefix("/b".into())));
    // What is not found is left out; the rest stays.
    let missing = root.replace("name: part", "name: nobody");
    assert_eq!(names(&missing, &part), ["a", "c"]);
}

#[test]
fn a_delegates_delegate_is_not_followed() {
    let (id, root) = service("root", "{hosts: [reviews], http: [{delegate: {name: part}}]}");
    let (_, other) = service("other", "{hosts: [x], http: [{delegate: {name: root}}]}");
    assert!(rules(&id, &root, &GatewayName::Mesh, &|_| Some(other.clone())).is_empty());
}

#[test]
fn conditions_that_contradict_each_other_drop_the_rule() {
    for (root, leaf, kept) in [
        ("uri: {prefix: /a}", "uri: {prefix: /a/b}", true),
        ("uri: {prefix: /a}", "uri: {exact: /a/b}", true),
        ("uri: {prefix: /a/b}", "uri: {prefix: /a}", false),
        ("uri: {prefix: /a}", "uri: {exact: /b}", false),
        ("uri: {exact: /a}", "uri: {exact: /a}", true),
        ("uri: {exact: /a}", "uri: {prefix: /a}", false),
        ("uri: {exact: /a}", "uri: {exact: /b}", false),
        ("uri: {regex: '/a.*'}", "uri: {prefix: /a}", false),
        ("uri: {prefix: /a}", "uri: {regex: '/a.*'}", false),
        ("uri: {regex: '/a.*'}", "method: {exact: GET}", true),
        ("method: {exact: GET}", "method: {exact: POST}", false),
        ("headers: {x: {exact: a}}", "headers: {y: {exact: b}}", true),
        ("headers: {x: {exact: a}}", "headers: {x: {exact: b}}", false),
        ("headers: {x: {}}", "headers: {x: {exact: b}}", false),
        ("withoutHeaders: {x: {exact: a}}", "withoutHeaders: {x: {exact: b}}", false),
        ("queryParams: {q: {exact: a}}", "queryParams: {q: {exact: a}}", true),
        ("port: 80", "port: 81", false),
        ("port: 80", "uri: {prefix: /}", true),
        ("uri: {prefix: /a}, ignoreUriCase: true", "uri: {prefix: /a}", false),
        ("sourceLabels: {app: a}", "sourceLabels: {app: b}", false),
        ("sourceLabels: {app: a}", "sourceLabels: {version: v1}", true),
        ("sourceNamespace: shop", "sourceNamespace: shop", true),
        ("sourceNamespace: shop", "sourceNamespace: web", false),
        ("gateways: [mesh]", "gateways: [mesh, other]", false),
    ] {
        let root = format!("{{match: [{{{root}}}], delegate: {{name: part}}}}");
        let part = format!("{{match: [{{{leaf}}}], {TO}}}");
        assert_eq!(rules_of(&root, &part).len(), usize::from(kept), "{root} {part}");
    }
}

#[test]
fn every_pair_of_conditions_that_goes_together_is_one() {
    let root = "{match: [{name: r1, uri: {prefix: /a}, headers: {h: {exact: '1'}}}, {name: r2, uri: {prefix: /b}}], delegate: {name: part}}";
    let part = format!(
        "{{match: [{{name: l1, method: {{exact: GET}}}}, {{uri: {{exact: /b/x}}, headers: {{k: {{exact: '2'}}}}}}], {TO}}}"
    );
    let found = rules_of(root, &part);
    let shown: Vec<&str> = found[0].http.matches.iter().filter_map(|condition| condition.name.as_deref()).collect();
    assert_eq!(shown, ["r1-l1", "r2-l1", "r2"]);
    let both = &found[0].http.matches[0];
    assert!(both.method.is_some() && both.uri.is_some() && both.headers.len() == 1);
    // One condition of the delegate that goes with none of the root's drops the whole rule.
    let part = format!("{{match: [{{uri: {{prefix: /b}}}}, {{uri: {{prefix: /c}}}}], {TO}}}");
    assert!(rules_of(root, &part).is_empty());
}

#[test]
fn what_the_delegate_does_not_say_the_root_says() {
    let root = "{timeout: 5s, retries: {attempts: 1}, fault: {abort: {httpStatus: 500, percentage: {value: 1}}}, rewrite: {uri: /r},
        headers: {request: {set: {a: b}}}, corsPolicy: {maxAge: 1s}, mirrors: [{destination: {host: m}}], mirrorPercentage: {value: 10},
        delegate: {name: part}}";
    let merged = |part: &str| rules_of(root, part).remove(0).http;
    let all = merged(&format!("{{{TO}}}"));
    assert_eq!(
        (all.deadline(), all.retries.as_ref().map(|retries| retries.attempts)),
        (Some(Duration::from_secs(5)), Some(1))
    );
    assert!(all.fault.is_some() && all.rewrite.is_some() && all.headers.is_some() && all.cors.is_some());
    assert_eq!(all.mirroring.effective().len(), 1);
    // A field that is there counts as a whole, also where it says nothing.
    let own =
        merged(&format!("{{timeout: 0s, retries: {{attempts: 0}}, headers: {{}}, mirror: {{host: other}}, {TO}}}"));
    assert_eq!((own.deadline(), own.retries.map(|retries| retries.attempts)), (None, Some(0)));
    assert!(own.headers.is_some_and(|headers| headers.request.is_empty()));
    // `mirror`, its share and `mirrors` are inherited one by one.
    let shares: Vec<u32> = own.mirroring.effective().iter().map(|mirror| mirror.per_million).collect();
    assert_eq!(shares, [100_000, 1_000_000]);
}

#[test]
fn an_answer_stands_above_forwarding() {
    let root = "{directResponse: {status: 418}, delegate: {name: part}}";
    let action = |part: &str| rules_of(root, part).remove(0).http.action;
    assert!(matches!(action(&format!("{{{TO}}}")), HttpAction::Direct(answer) if answer.status == 418));
    assert!(matches!(action("{directResponse: {status: 200}}"), HttpAction::Direct(answer) if answer.status == 200));
    assert!(matches!(action("{redirect: {uri: /x}}"), HttpAction::Redirect(_)));
}

#[test]
fn a_rule_that_takes_everything_ends_the_list() {
    let part = "{directResponse: {status: 200}}";
    for (first, rest) in [
        (format!("{{name: a, {TO}}}"), 0),
        (format!("{{name: a, match: [{{uri: {{prefix: /}}}}], {TO}}}"), 0),
        (format!("{{name: a, match: [{{uri: {{exact: /x}}}}, {{uri: {{regex: '.*'}}}}], {TO}}}"), 0),
        (format!("{{name: a, match: [{{uri: {{prefix: /}}, headers: {{x: {{}}}}}}], {TO}}}"), 1),
        (format!("{{name: a, match: [{{port: 80}}], {TO}}}"), 1),
        (format!("{{name: a, match: [{{sourceLabels: {{app: x}}}}], {TO}}}"), 1),
    ] {
        let rules = names(&format!("{first}, {{name: b, {TO}}}"), part);
        assert_eq!(rules.len(), 1 + rest, "{first}");
    }
}

#[test]
fn conditions_for_gateways_are_not_for_callers() {
    let (id, both) = service(
        "root",
        &format!(
            "{{hosts: [reviews], gateways: [edge, mesh], http: [
                {{name: a, match: [{{gateways: [edge]}}], {TO}}},
                {{name: b, match: [{{gateways: [edge]}}, {{uri: {{prefix: /b}}}}], {TO}}},
                {{name: c, match: [{{gateways: [mesh], sourceLabels: {{app: x}}}}], {TO}}}]}}"
        ),
    );
    let found = rules(&id, &both, &GatewayName::Mesh, &|_| None);
    let shown: Vec<_> = found.iter().map(|rule| (rule.http.name.as_str(), rule.http.matches.len())).collect();
    assert_eq!(shown, [("b", 1), ("c", 1)]);
}

proptest! {
    /// A path that meets the merged conditions meets the root's and the delegate's.
    #[test]
    fn the_merged_conditions_are_within_both(
        root in "/[ab]{0,2}", leaf in "/[ab]{0,3}", exact in any::<bool>(), path in "/[ab]{0,3}",
    ) {
        let kind = if exact { "exact" } else { "prefix" };
        let root_rule = format!("{{match: [{{uri: {{prefix: {root}}}}}], delegate: {{name: part}}}}");
        let found = rules_of(&root_rule, &format!("{{match: [{{uri: {{{kind}: {leaf}}}}}], {TO}}}"));
        let taken = found.iter().flat_map(|rule| &rule.http.matches).any(|condition| {
            condition.uri.as_ref().is_some_and(|uri| uri.is_match(path.as_bytes()))
        });
        let of_leaf = if exact { path == leaf } else { path.starts_with(&leaf) };
        // Either the rule is dropped as a whole, or it takes exactly what the delegate's takes, all of which the root's takes.
        prop_assert_eq!(taken, of_leaf && leaf.starts_with(&root));
    }
}
