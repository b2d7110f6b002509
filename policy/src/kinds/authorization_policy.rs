//! `AuthorizationPolicy`: who may do what at a workload. The decision is [`crate::authorize`].

mod attribute;
mod condition;
mod pattern;
mod rule;

pub use attribute::Attribute;
pub use condition::{Condition, Value};
pub use pattern::{NamespacePattern, PathPattern, TextPattern, TokenPattern};
pub use rule::Rule;

use std::sync::Arc;

use super::target::{DRY_RUN, Target};
use crate::{codes, decode::At, parse::Metadata};

/// `AuthorizationPolicy`, with every pattern ready to match.
#[derive(Debug, Clone, PartialEq)]
pub struct AuthorizationPolicy {
    /// Which workloads.
    pub target: Target,
    /// What a match means.
    pub action: Action,
    /// Of CUSTOM only: the external authoriser, by its name in MeshConfig.
    pub provider: Option<Arc<str>>,
    /// Any of them; none never matches.
    pub rules: Vec<Rule>,
    /// Annotation `istio.io/dry-run`: evaluated and reported, not enforced.
    pub dry_run: bool,
}

/// What a match of an AuthorizationPolicy means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Some ALLOW policy must match, once there is one.
    Allow,
    /// No DENY policy may match.
    Deny,
    /// A match is marked, and changes nothing.
    Audit,
    /// An external authoriser decides, one of MeshConfig's `extensionProviders`; before all others.
    Custom,
}

const ACTIONS: [(&str, Action); 4] =
    [("ALLOW", Action::Allow), ("DENY", Action::Deny), ("AUDIT", Action::Audit), ("CUSTOM", Action::Custom)];

impl Action {
    /// Istio's word.
    pub fn as_str(self) -> &'static str {
        ACTIONS.iter().find(|(_, action)| *action == self).map_or("", |(word, _)| word)
    }
}

impl AuthorizationPolicy {
    pub(crate) fn decode(spec: &At<'_>, metadata: &Metadata) -> Option<Self> {
        let fields = spec.fields()?;
        let target = Target::decode(&fields);
        let action = fields.get("action").map_or(Some(Action::Allow), |action| action.word(&ACTIONS));
        let provider = fields.get("provider").map(|provider| decode_provider(&provider).unwrap_or_default());
        let provider: Option<Arc<str>> = provider.map(Arc::from);
        let list = fields.get("rules");
        let items = list.as_ref().map(At::items).unwrap_or_default();
        let read = |at| Some((at, Rule::decode(at, &metadata.id.namespace)?));
        let rules: Vec<(&At<'_>, Rule)> = items.iter().filter_map(read).collect();
        fields.finish();
        let action = action?;
        let dry_run = decode_dry_run(spec, action, metadata);
        if action == Action::Deny {
            for (at, _) in rules.iter().filter(|(_, rule)| rule.is_only_http()) {
                let message = "configured AuthorizationPolicy will deny all traffic to TCP ports under its scope due to the use \
                               of only HTTP attributes in a DENY rule; it is recommended to explicitly specify the port";
                at.warn(codes::DENIES_ALL_TCP, message, "add `ports` to the operation");
            }
        }
        let rules: Vec<Rule> = rules.into_iter().map(|(_, rule)| rule).collect();
        check_action(spec, action, provider.as_deref(), &rules, items.is_empty());
        Some(Self { target, action, provider, rules, dry_run })
    }
}

fn decode_provider(at: &At<'_>) -> Option<String> {
    let fields = at.fields()?;
    let name = fields.get("name").and_then(|name| name.text().map(str::to_owned));
    fields.finish();
    name
}

/// The annotation, as Go reads booleans.
fn decode_dry_run(spec: &At<'_>, action: Action, metadata: &Metadata) -> bool {
    let Some(text) = metadata.annotations.get(DRY_RUN) else { return false };
    if !matches!(action, Action::Allow | Action::Deny) {
        let message = format!(
            "the annotation {DRY_RUN} currently only supports action ALLOW/DENY, found action {} in {}/{}",
            action.as_str(),
            metadata.id.namespace,
            metadata.id.name
        );
        spec.error_as_istio(codes::ACTION, message, "");
        return false;
    }
    match text.as_str() {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => true,
        "0" | "f" | "F" | "false" | "FALSE" | "False" => false,
        _ => {
            let message = format!("the annotation {DRY_RUN} has the invalid value `{text}`");
            spec.error_hint(codes::ANNOTATION, message, "write \"true\" or \"false\"");
            false
        }
    }
}

/// What goes with which action.
fn check_action(spec: &At<'_>, action: Action, provider: Option<&str>, rules: &[Rule], no_rules: bool) {
    let hint = "write `rules: [{}]` to match every request";
    if no_rules && matches!(action, Action::Deny | Action::Custom) {
        let message = format!(
            "{} action without `rules` is meaningless as it will never be triggered, add an empty rule `{{}}` if you want it be \
             triggered for every request",
            action.as_str()
        );
        spec.error_as_istio(codes::ACTION, message, hint);
    }
    if action != Action::Custom {
        if provider.is_some() {
            let message = format!("`provider` must not be with non CUSTOM action, found {}", action.as_str());
            spec.error_as_istio(codes::ACTION, message, "");
        }
        return;
    }
    if !no_rules && provider.unwrap_or_default().is_empty() {
        spec.error_as_istio(codes::ACTION, "`provider.name` must not be empty", "");
    }
    for attribute in rules.iter().flat_map(Rule::conditions).map(|condition| &condition.attribute) {
        if attribute.is_of_identity() {
            let message = format!("{attribute} is currently not supported with CUSTOM action");
            spec.error(codes::ACTION, message);
        }
    }
}

#[cfg(test)]
mod tests;
