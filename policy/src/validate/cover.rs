//! Whether a rule of an AuthorizationPolicy matches whatever another one matches.

use crate::kinds::{Condition, PathPattern, Rule, TextPattern, Value};

/// Pairs of alternatives at most that are compared for one rule; what is beyond is taken not to be covered.
const MAX_COMPARED: usize = 10_000;

/// True if every request that matches `other` matches `own`. May be false although it is so.
pub(super) fn covers(own: &Rule, other: &Rule) -> bool {
    let (ours, theirs) = (alternatives(own), alternatives(other));
    let compared = ours.len().saturating_mul(theirs.len());
    compared < MAX_COMPARED && theirs.iter().all(|given| ours.iter().any(|wanted| follows(given, wanted)))
}

/// Every combination of a source and an operation, with the conditions that always hold.
fn alternatives(rule: &Rule) -> Vec<Vec<&Condition>> {
    const ANY: &[Vec<Condition>] = &[Vec::new()];
    let from = if rule.from.is_empty() { ANY } else { &rule.from };
    let to = if rule.to.is_empty() { ANY } else { &rule.to };
    let both = from.iter().flat_map(|source| to.iter().map(move |operation| source.iter().chain(operation)));
    both.take(MAX_COMPARED).map(|both| both.chain(&rule.when).collect()).collect()
}

/// True if whatever meets all given conditions meets all wanted ones.
fn follows(given: &[&Condition], wanted: &[&Condition]) -> bool {
    wanted.iter().all(|wanted| {
        let mut same = given.iter().filter(|given| given.attribute == wanted.attribute);
        same.any(|given| implies(given, wanted))
    })
}

fn implies(given: &Condition, wanted: &Condition) -> bool {
    let positive = wanted.values.is_empty()
        || (!given.values.is_empty()
            && given.values.iter().all(|given| wanted.values.iter().any(|wanted| includes(wanted, given))));
    let excluded = |refused: &Value| {
        given.not_values.iter().any(|given| includes(given, refused))
            || (!given.values.is_empty() && given.values.iter().all(|given| apart(given, refused)))
    };
    positive && wanted.not_values.iter().all(excluded)
}

/// True if whatever matches `other` matches `own`.
fn includes(own: &Value, other: &Value) -> bool {
    match (own, other) {
        (Value::Text(own), Value::Text(other)) => text_includes(own, other),
        (Value::Path(PathPattern::Text(own)), Value::Path(PathPattern::Text(other))) => text_includes(own, other),
        (Value::Path(own), Value::Path(PathPattern::Text(TextPattern::Exact(path)))) => own.is_match(path),
        (Value::Addresses(own), Value::Addresses(other)) => own.covers(other),
        (own, other) => own == other,
    }
}

fn text_includes(own: &TextPattern, other: &TextPattern) -> bool {
    use TextPattern::{Exact, Prefix, Present, Suffix};
    match (own, other) {
        (Present, Exact(text) | Prefix(text) | Suffix(text)) => !text.is_empty(),
        (Exact(own), Exact(other)) => own == other,
        (Prefix(own), Exact(other) | Prefix(other)) => other.starts_with(own.as_str()),
        (Suffix(own), Exact(other) | Suffix(other)) => other.ends_with(own.as_str()),
        (Present, Present) => true,
        (Exact(_) | Prefix(_) | Suffix(_), _) => false,
    }
}

/// True if nothing matches both.
fn apart(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Text(TextPattern::Exact(text)), Value::Text(other)) => !other.is_match(text),
        (Value::Port(one), Value::Port(other)) => one != other,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Spec, testing::spec_of};

    fn rule(text: &str) -> Rule {
        let Spec::AuthorizationPolicy(policy) = spec_of("AuthorizationPolicy", &format!("{{rules: [{text}]}}")) else {
            panic!("another kind")
        };
        policy.rules[0].clone()
    }

    #[test]
    fn wider_rules_cover_narrower_ones() {
        for (wide, narrow) in [
            ("{}", "{to: [{operation: {methods: [GET]}}]}"),
            ("{to: [{operation: {methods: [GET, POST]}}]}", "{to: [{operation: {methods: [GET], paths: [/a]}}]}"),
            ("{to: [{operation: {paths: ['/a*']}}]}", "{to: [{operation: {paths: ['/ab*', /abc]}}]}"),
            ("{to: [{operation: {paths: ['/{*}/x']}}]}", "{to: [{operation: {paths: [/y/x]}}]}"),
            ("{from: [{source: {namespaces: [a]}}]}", "{from: [{source: {namespaces: [a], principals: ['*']}}]}"),
            (
                "{from: [{source: {namespaces: [a]}}, {source: {namespaces: [b]}}]}",
                "{from: [{source: {namespaces: [b]}}]}",
            ),
            ("{from: [{source: {ipBlocks: [10.0.0.0/8]}}]}", "{from: [{source: {ipBlocks: [10.1.0.0/16]}}]}"),
            ("{to: [{operation: {notPorts: ['80']}}]}", "{to: [{operation: {ports: ['81']}}]}"),
            ("{to: [{operation: {notMethods: [GET]}}]}", "{to: [{operation: {notMethods: [GET, POST]}}]}"),
            (
                "{when: [{key: source.namespace, values: [a]}]}",
                "{from: [{source: {namespaces: [a]}}], to: [{operation: {hosts: [x]}}]}",
            ),
        ] {
            assert!(covers(&rule(wide), &rule(narrow)), "{wide} {narrow}");
            assert!(!covers(&rule(narrow), &rule(wide)), "{narrow} {wide}");
        }
    }

    #[test]
    fn rules_that_differ_do_not_cover_each_other() {
        for (one, other) in [
            ("{to: [{operation: {methods: [GET]}}]}", "{to: [{operation: {methods: [POST]}}]}"),
            ("{to: [{operation: {methods: [GET]}}]}", "{to: [{operation: {paths: [/a]}}]}"),
            ("{to: [{operation: {notMethods: [GET]}}]}", "{to: [{operation: {methods: ['G*']}}]}"),
            ("{from: [{source: {principals: ['*a']}}]}", "{from: [{source: {principals: ['a*']}}]}"),
            (
                "{when: [{key: 'request.headers[x]', values: ['1']}]}",
                "{when: [{key: 'request.headers[y]', values: ['1']}]}",
            ),
        ] {
            assert!(!covers(&rule(one), &rule(other)) && !covers(&rule(other), &rule(one)), "{one} {other}");
        }
    }
}
