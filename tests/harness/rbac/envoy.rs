//! Documents and filters without what filters of Envoy's alone could say: a mesh without Envoy refuses documents that ask for it.

use serde_json::{Value, json};

use super::{Filter, Rules, claim, list, only, parts, pattern};

/// Conditions of a document on what a filter of Envoy's says.
const CONDITION: &str = r#"\n\s*- key: "experimental\.[^\n]*\n\s*values:[^\n]*\n\s*notValues:[^\n]*"#;

/// The documents without those conditions; `None` if they have none.
pub fn without_envoy(documents: &str) -> Option<String> {
    let rest = pattern(CONDITION).replace_all(documents, "");
    (rest != documents).then(|| rest.into_owned())
}

impl Filter {
    /// The filter without those conditions.
    #[must_use]
    pub fn without_envoy(self) -> Self {
        Self { enforced: self.enforced.map(without), tried: self.tried.map(without) }
    }
}

fn without(rules: Rules) -> Rules {
    let policy = |policy: &Value| {
        let of = |key: &str| list(&policy[key]).iter().filter_map(pruned).collect::<Vec<_>>();
        json!({"permissions": of("permissions"), "principals": of("principals")})
    };
    Rules { policies: rules.policies.iter().map(policy).collect(), ..rules }
}

/// What is left of a matcher.
fn pruned(matcher: &Value) -> Option<Value> {
    let (key, inner) = only(matcher);
    match key {
        "metadata" => claim(inner).map(|_| matcher.clone()),
        "andRules" | "orRules" | "andIds" | "orIds" => {
            let left: Vec<Value> = parts(inner).iter().filter_map(pruned).collect();
            let name = if key.ends_with("Ids") { "ids" } else { "rules" };
            (!left.is_empty()).then(|| json!({key: {name: left}}))
        }
        "notRule" | "notId" => pruned(inner).map(|left| json!({key: left})),
        _ => Some(matcher.clone()),
    }
}
