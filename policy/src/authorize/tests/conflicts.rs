//! Documents with several live values: the strictest reading of all counts.

use proptest::prelude::*;

use super::*;

fn value(spec: &str) -> Option<Arc<AuthorizationPolicy>> {
    live(&document("d", spec)).remove(0).values.remove(0)
}

fn of_values(values: Vec<Option<Arc<AuthorizationPolicy>>>) -> Authorizer {
    let id = Arc::new(live(&document("d", "{}")).remove(0).id.as_ref().clone());
    authorizer(&[Live { id, values, unreadable: Vec::new() }])
}

const A: &str = "{rules: [{to: [{operation: {paths: [/a, /both]}}]}]}";
const B: &str = "{rules: [{to: [{operation: {paths: [/b, /both]}}]}]}";

#[test]
fn allow_needs_every_live_value() {
    let both = of_values(vec![value(A), value(B)]);
    assert!(ask().path("/both").passes(&both));
    assert!(!ask().path("/a").passes(&both) && !ask().path("/b").passes(&both));
}

#[test]
fn a_deletion_matches_nothing_and_the_document_is_present() {
    let torn = of_values(vec![value(A), None]);
    assert!(!ask().path("/a").passes(&torn) && !ask().path("/other").passes(&torn));
    let denied = of_values(vec![value("{action: DENY, rules: [{to: [{operation: {paths: [/a]}}]}]}"), None]);
    assert!(!ask().path("/a").passes(&denied) && ask().path("/other").passes(&denied));
}

#[test]
fn deny_needs_one_live_value() {
    let deny = |path: &str| value(&format!("{{action: DENY, rules: [{{to: [{{operation: {{paths: [{path}]}}}}]}}]}}"));
    let both = of_values(vec![deny("/a"), deny("/b")]);
    assert!(!ask().path("/a").passes(&both) && !ask().path("/b").passes(&both) && ask().path("/c").passes(&both));
    // One value permits, the other forbids: nothing is permitted by it.
    let torn = of_values(vec![value(A), deny("/b")]);
    assert!(!ask().path("/a").passes(&torn) && !ask().path("/b").passes(&torn));
}

#[test]
fn a_value_for_other_workloads_permits_nothing_here() {
    let elsewhere = value("{selector: {matchLabels: {app: db}}, rules: [{}]}");
    assert!(!ask().path("/a").passes(&of_values(vec![value(A), elsewhere.clone()])));
    assert!(ask().path("/a").passes(&of_values(vec![elsewhere])));
}

fn spec() -> impl Strategy<Value = Option<String>> {
    let action = prop_oneof![Just("ALLOW"), Just("DENY")];
    let some = (action, prop::sample::select(vec!["/a", "/b", "/c"]), any::<bool>(), any::<bool>());
    prop::option::weighted(0.8, some.prop_map(|(action, path, negated, here)| {
        let field = if negated { "notPaths" } else { "paths" };
        let app = if here { "web" } else { "db" };
        format!("{{selector: {{matchLabels: {{app: {app}}}}}, action: {action}, rules: [{{to: [{{operation: {{{field}: [{path}]}}}}]}}]}}")
    }))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Nothing passes under two values that would not pass under each of them alone.
    #[test]
    fn a_conflict_is_as_strict_as_each_of_its_values(first in spec(), second in spec()) {
        let read = |spec: &Option<String>| spec.as_deref().and_then(value);
        let both = of_values(vec![read(&first), read(&second)]);
        for path in ["/a", "/b", "/c"] {
            if ask().path(path).passes(&both) {
                for one in [&first, &second] {
                    // A deletion alone is no document at all.
                    let alone = of_values(if one.is_some() { vec![read(one)] } else { Vec::new() });
                    prop_assert!(ask().path(path).passes(&alone), "{:?} {:?} {}", first, second, path);
                }
            }
        }
    }
}
