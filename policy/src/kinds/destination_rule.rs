//! `DestinationRule`: subsets and traffic policy of a host.

mod balance;

use std::{collections::BTreeMap, sync::Arc};

use super::{ExportTo, TrafficPolicy, client_tls};
use crate::{
    codes,
    decode::{At, Fields},
    hosts,
    parse::Metadata,
};

/// `DestinationRule`, with the host expanded.
#[derive(Debug, Clone, PartialEq)]
pub struct DestinationRule {
    /// Expanded, lower case; a wildcard only as prefix.
    pub host: String,
    /// `workloadSelector.matchLabels`: only callers of the document's namespace with all these labels use it. `None`: all do.
    pub workload_selector: Option<BTreeMap<String, String>>,
    /// Top level policy.
    pub policy: Option<TrafficPolicy>,
    /// Named parts of the host's endpoints.
    pub subsets: Vec<SubsetRule>,
    /// Which callers see it.
    pub export_to: ExportTo,
}

/// `Subset`.
#[derive(Debug, Clone, PartialEq)]
pub struct SubsetRule {
    /// Its name.
    pub name: String,
    /// Endpoints with all these labels; none means all endpoints.
    pub labels: Arc<BTreeMap<String, String>>,
    /// Policy that applies only where a route names the subset.
    pub policy: Option<TrafficPolicy>,
}

impl DestinationRule {
    pub(crate) fn decode(spec: &At<'_>, metadata: &Metadata) -> Option<Self> {
        let fields = spec.fields()?;
        let namespace = metadata.id.namespace.as_str();
        let peak = balance::is_asked(spec, metadata);
        let host = fields.required("host").and_then(|at| decode_host(&at, namespace));
        let workload_selector = fields.get("workloadSelector").map(|selector| decode_selector(&selector));
        let mut policy = fields.get("trafficPolicy").and_then(|policy| TrafficPolicy::decode(&policy));
        let of_mesh = host.as_deref().is_some_and(hosts::may_mean_services);
        if let Some(policy) = fields.get("trafficPolicy").filter(|_| of_mesh) {
            client_tls::refuse_for_mesh(&policy);
        }
        let mut subsets: Vec<SubsetRule> = Vec::new();
        let list = fields.get("subsets");
        for item in list.as_ref().map(At::items).unwrap_or_default() {
            let Some(subset) = SubsetRule::decode(&item, of_mesh) else { continue };
            if subsets.iter().any(|other| other.name == subset.name) {
                item.error_as_istio(codes::DUPLICATE, format!("duplicate subset: {}", subset.name), "");
            }
            subsets.push(subset);
        }
        let export_to = ExportTo::decode(&fields, namespace);
        if workload_selector.is_some() {
            check_export(&fields, &export_to, namespace);
        }
        if peak {
            balance::refuse_others(&fields);
            balance::apply(&mut policy, &mut subsets);
        }
        fields.finish();
        Some(Self { host: host?, workload_selector, policy, subsets, export_to })
    }

    /// The subset of this name.
    pub fn subset(&self, name: &str) -> Option<&SubsetRule> {
        self.subsets.iter().find(|subset| subset.name == name)
    }
}

/// A rule for some callers of its namespace cannot be seen from another. (Absent, `exportTo` means the own namespace here.)
fn check_export(fields: &Fields<'_>, export_to: &ExportTo, namespace: &str) {
    let Some(list) = fields.get("exportTo").filter(|list| !list.is_empty_list()) else { return };
    let message = match export_to {
        ExportTo::Namespaces(only) if only.len() == 1 && only.contains(namespace) => return,
        ExportTo::Namespaces(several) if several.contains(namespace) => "cannot have multiple entries in exportTo",
        ExportTo::Namespaces(_) | ExportTo::All => "cannot have exportTo beyond current namespace",
    };
    let message = format!("destination rule with workload selector {message}");
    list.error_as_istio(codes::EXPORT_TO, message, "write exportTo: [\".\"]");
}

fn decode_host(at: &At<'_>, namespace: &str) -> Option<String> {
    let host = at.filled_text()?;
    if !hosts::is_wildcard_name(host) {
        at.error(codes::HOST, format!("`{host}` is not a host name"));
        return None;
    }
    Some(hosts::expand(host, namespace))
}

/// `matchLabels` of a selector; without any it selects all workloads, which is worth a warning.
fn decode_selector(at: &At<'_>) -> BTreeMap<String, String> {
    let Some(fields) = at.fields() else { return BTreeMap::new() };
    let labels = fields.get("matchLabels").map(|labels| {
        for (key, value) in labels.entries() {
            if key.contains('*') || value.node.text().is_some_and(|text| text.contains('*')) {
                value.error_as_istio(codes::LABEL, format!("wildcard not allowed in label selector: {key}"), "");
            }
        }
        labels.texts()
    });
    let labels = labels.unwrap_or_default();
    fields.finish();
    if labels.is_empty() {
        at.warn(
            codes::EMPTY_SELECTOR,
            "a selector without labels selects every workload",
            "leave it out, or name labels",
        );
    }
    labels
}

impl SubsetRule {
    fn decode(at: &At<'_>, of_mesh: bool) -> Option<Self> {
        let fields = at.fields()?;
        let name = fields.required("name").and_then(|at| {
            let name = at.filled_text()?;
            if !hosts::is_dns_label(name) {
                at.error(codes::NAME, format!("subset name is invalid: `{name}` is not a DNS label"));
                return None;
            }
            Some(name.to_owned())
        });
        let labels = fields.get("labels").map(|labels| labels.labels()).unwrap_or_default();
        let policy = fields.get("trafficPolicy").and_then(|policy| {
            let decoded = TrafficPolicy::decode(&policy);
            if of_mesh {
                client_tls::refuse_for_mesh(&policy);
            }
            decoded
        });
        fields.finish();
        Some(Self { name: name?, labels: Arc::new(labels), policy })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{complaints, spec_of};

    #[test]
    fn a_selector_is_for_its_own_namespace() {
        let rule = |more: &str| format!("{{host: a, workloadSelector: {{matchLabels: {{app: web}}}}{more}}}");
        let spec = spec_of("DestinationRule", &rule(""));
        let selector = spec.destination_rule().unwrap().workload_selector.clone().unwrap();
        assert_eq!(selector.get("app").map(String::as_str), Some("web"));
        for (export, valid) in [
            ("", true),
            (", exportTo: ['.']", true),
            (", exportTo: [shop]", true),
            (", exportTo: []", true),
            (", exportTo: ['*']", false),
            (", exportTo: [shop, web]", false),
            (", exportTo: [web]", false),
        ] {
            let found = complaints("DestinationRule", &rule(export));
            assert_eq!(found.is_empty(), valid, "{export}: {found:?}");
        }
    }

    #[test]
    fn what_a_rule_cannot_be() {
        for (text, code) in [
            ("{}", codes::MISSING),
            ("{host: 10.0.0.1}", codes::HOST),
            ("{host: a, subsets: [{name: v1}, {name: v1}]}", codes::DUPLICATE),
            ("{host: a, subsets: [{labels: {v: '1'}}]}", codes::MISSING),
            ("{host: a, subsets: [{name: a.b}]}", codes::NAME),
            ("{host: a, workloadSelector: {}}", codes::EMPTY_SELECTOR),
            ("{host: a, workloadSelector: {matchLabels: {app: 'web*'}}}", codes::LABEL),
            ("{host: a, exportTo: ['~']}", codes::EXPORT_TO),
        ] {
            let found = complaints("DestinationRule", text);
            assert!(found.iter().any(|(found, _)| *found == code), "{text}: {found:?}");
        }
    }
}
