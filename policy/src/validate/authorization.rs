//! AuthorizationPolicies: rules that never match because others deny first or the ports speak no HTTP, and namespaces that are not there.

use std::collections::BTreeMap;

use super::{Check, Entry, Finding, cover};
use crate::{
    Kind, Spec, codes,
    document::ROOT_NAMESPACE,
    hosts::Protocol,
    kinds::{Action, Attribute, AuthorizationPolicy, Condition, Rule, Value},
};

const NO_NAMESPACE: &str = "Referenced namespace not found [IST0101 ReferencedResourceNotFound]";

/// DENY policies of a namespace that are compared with each ALLOW policy.
const MAX_COMPARED: usize = 256;

impl<'w> Check<'w> {
    pub(super) fn authorization_policy(&mut self, policy: &AuthorizationPolicy) {
        if policy.target.refers {
            return;
        }
        for (index, rule) in policy.rules.iter().enumerate() {
            self.namespaces(rule, &format!("spec.rules[{index}]"));
        }
        self.rules_without_http(policy);
        if policy.action == Action::Allow && !policy.dry_run {
            self.denied(policy);
        }
    }

    /// Namespaces of sources that nobody is in.
    fn namespaces(&mut self, rule: &Rule, field: &str) {
        let Some(known) = &self.world.inventory.namespaces else { return };
        let mut strange: Vec<(String, String)> = Vec::new();
        let mut look = |condition: &Condition, field: &str| {
            let lists = [("namespaces", &condition.values), ("notNamespaces", &condition.not_values)];
            for (list, values) in lists {
                for (index, value) in values.iter().enumerate() {
                    let Value::Namespace(pattern) = value else { continue };
                    if !known.iter().any(|namespace| pattern.is_match(namespace)) {
                        strange.push((format!("{field}.{list}[{index}]"), pattern.to_string()));
                    }
                }
            }
        };
        for (part, source) in rule.from.iter().enumerate() {
            source.iter().for_each(|condition| look(condition, &format!("{field}.from[{part}].source")));
        }
        for (part, condition) in rule.when.iter().enumerate() {
            look(condition, &format!("{field}.when[{part}]"));
        }
        for (field, namespace) in strange {
            let message = format!("no namespace is called `{namespace}`");
            let near = crate::decode::nearest(&namespace, known.iter().map(String::as_str));
            let finding = Finding::warning(codes::UNKNOWN_NAMESPACE, field, message).said_by_istio(NO_NAMESPACE);
            self.say(match near {
                Some(near) => finding.hint(format!("did you mean `{near}`?")),
                None => finding,
            });
        }
    }

    /// Rules on HTTP of which only ports know that speak none: ALLOW matches nothing there, DENY more than is written.
    fn rules_without_http(&mut self, policy: &AuthorizationPolicy) {
        let ports = self.ports(policy);
        if ports.is_empty() {
            return;
        }
        for (index, rule) in policy.rules.iter().enumerate() {
            let named: Vec<u16> = rule.conditions().flat_map(ports_of).collect();
            let mut meant = ports.iter().filter(|(port, _)| named.is_empty() || named.contains(port)).peekable();
            let none = meant.peek().is_none();
            if none || meant.any(|(_, http)| *http) || !rule.conditions().any(|one| one.attribute.is_http()) {
                continue;
            }
            let effect = match policy.action {
                Action::Allow => "the rule never matches there",
                Action::Deny | Action::Audit | Action::Custom => {
                    "there those conditions do not count, and the rule matches more than it says"
                }
            };
            let message = format!("the rule looks at HTTP, and its ports speak none: {effect}");
            let finding = Finding::warning(codes::HTTP_RULE_ON_TCP, format!("spec.rules[{index}]"), message);
            self.say(finding.hint("for TCP ports use principals, namespaces, ipBlocks and ports only"));
        }
    }

    /// The ports of the workloads that the policy is for, and whether they speak HTTP for some of them.
    fn ports(&self, policy: &AuthorizationPolicy) -> BTreeMap<u16, bool> {
        let own = self.id().namespace.as_str();
        let namespace = Some(own).filter(|own| *own != ROOT_NAMESPACE);
        let mut ports: BTreeMap<u16, bool> = BTreeMap::new();
        for workload in self.world.workloads.selected(namespace, &policy.target.labels) {
            for (port, protocol) in &workload.ports {
                let http: &mut bool = ports.entry(*port).or_default();
                *http |= Protocol::is_http(*protocol);
            }
        }
        ports
    }

    /// Rules of an ALLOW policy whose every request some DENY policy of the same workloads denies.
    fn denied(&mut self, policy: &AuthorizationPolicy) {
        let world = self.world;
        let own = self.id().namespace.as_str();
        let root = Some(ROOT_NAMESPACE).filter(|root| *root != own);
        let all = [own].into_iter().chain(root).flat_map(|namespace| world.of(Kind::AuthorizationPolicy, namespace));
        let denying: Vec<(&Entry<'_>, &AuthorizationPolicy)> = all
            .filter_map(|entry| {
                let Spec::AuthorizationPolicy(other) = &entry.document.spec else { return None };
                let denies = other.action == Action::Deny && !other.dry_run && !other.target.refers;
                let mut labels = other.target.labels.iter();
                let wider = labels.all(|(key, value)| policy.target.labels.get(key) == Some(value));
                (denies && wider).then_some((entry, &**other))
            })
            .take(MAX_COMPARED)
            .collect();
        for (index, rule) in policy.rules.iter().enumerate() {
            let covering = denying.iter().find_map(|(entry, other)| {
                let part = other.rules.iter().position(|deny| cover::covers(deny, rule))?;
                Some((entry.name(), part))
            });
            let Some((name, part)) = covering else { continue };
            let message = format!("{name}, rule {part}, denies all that this rule allows: it never matches");
            let finding = Finding::warning(codes::DENIED_BEFORE, format!("spec.rules[{index}]"), message);
            self.say(finding.hint("DENY goes before ALLOW: narrow that rule, or delete this one"));
        }
    }
}

/// The ports that a condition names.
fn ports_of(condition: &Condition) -> impl Iterator<Item = u16> {
    let values = Some(&condition.values).filter(|_| condition.attribute == Attribute::DestinationPort);
    values.into_iter().flatten().filter_map(|value| if let Value::Port(port) = value { Some(*port) } else { None })
}
