//! What can still be told of a security document that this build cannot read: whom it is for, and that it refuses nobody.
//!
//! Everything is read from the signed body as little as possible. What is not as this build knows it widens the answer.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::kinds::{DRY_RUN, Target};

/// Fields of a spec that this build knows, of both kinds. One that it does not know might choose workloads.
const KNOWN: [&str; 8] =
    ["selector", "targetRef", "targetRefs", "action", "provider", "rules", "mtls", "portLevelMtls"];

/// The workloads that the document may select: the whole namespace (all of them, from the root namespace), unless its selector is
/// beyond doubt.
pub(super) fn target(json: &str) -> Target {
    let everything = Target::default();
    let Some(spec) = part(json, "spec") else { return everything };
    if spec.keys().any(|key| !KNOWN.contains(&key.as_str()))
        || spec.contains_key("targetRef")
        || spec.contains_key("targetRefs")
    {
        return everything;
    }
    let Some(Value::Object(selector)) = spec.get("selector") else { return everything };
    let Some(Value::Object(labels)) = selector.get("matchLabels").filter(|_| selector.len() == 1) else {
        return everything;
    };
    let labels: Option<BTreeMap<String, String>> =
        labels.iter().map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect();
    Target { labels: labels.unwrap_or_default(), refers: false }
}

/// True if it is an AuthorizationPolicy that marks or is tried out, whatever else it says.
pub(super) fn never_refuses(json: &str) -> bool {
    let is = |object: Option<Map<String, Value>>, key: &str, wanted: &str| {
        object.and_then(|object| object.get(key).map(|value| value.as_str() == Some(wanted))).unwrap_or(false)
    };
    let annotations = part(json, "metadata").and_then(|metadata| match metadata.get("annotations") {
        Some(Value::Object(annotations)) => Some(annotations.clone()),
        Some(_) | None => None,
    });
    is(part(json, "spec"), "action", "AUDIT") || is(annotations, DRY_RUN, "true")
}

/// An object at the top of the body. A body with a name twice is none.
fn part(json: &str, name: &str) -> Option<Map<String, Value>> {
    // The strict reader first: of two fields of one name another reader might see the other.
    crate::tree::read_json(json).ok()?;
    match serde_json::from_str::<Value>(json).ok()?.get_mut(name)?.take() {
        Value::Object(object) => Some(object),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selector_counts_only_beyond_doubt() {
        let of = |spec: &str| target(&format!("{{\"spec\": {spec}}}"));
        let web = BTreeMap::from([("app".to_owned(), "web".to_owned())]);
        assert_eq!(of(r#"{"selector": {"matchLabels": {"app": "web"}}, "action": "CHALLENGE"}"#).labels, web);
        assert_eq!(of(r#"{"selector": {"matchLabels": {"app": "web"}}, "rules": [{"new": 1}]}"#).labels, web);
        for wide in [
            r#"{"rules": []}"#,
            r#"{"selector": {"matchLabels": {"app": "web"}}, "selectors": []}"#,
            r#"{"selector": {"matchLabels": {"app": "web"}, "matchExpressions": []}}"#,
            r#"{"selector": {"matchLabels": {"app": 1}}}"#,
            r#"{"selector": {"matchLabels": {"app": "web"}}, "targetRefs": [{}]}"#,
            r#"{"selector": {"matchLabels": {"app": "web"}}, "selector": {}}"#,
            "7",
        ] {
            assert_eq!(of(wide), Target::default(), "{wide}");
        }
        assert_eq!([target(""), target("{")], [Target::default(), Target::default()]);
    }

    #[test]
    fn what_only_marks_or_is_tried_out_refuses_nobody() {
        assert!(never_refuses(r#"{"spec": {"action": "AUDIT", "new": 1}}"#));
        assert!(never_refuses(r#"{"metadata": {"annotations": {"istio.io/dry-run": "true"}}, "spec": {}}"#));
        for refusing in
            ["", "{}", r#"{"spec": {"action": "DENY"}}"#, r#"{"spec": {"action": "AUDIT", "action": "DENY"}}"#]
        {
            assert!(!never_refuses(refusing), "{refusing}");
        }
    }
}
