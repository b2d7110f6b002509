//! Which workloads a policy is for: `selector`, or Gateway API's `targetRef` and `targetRefs`.

use std::collections::BTreeMap;

use crate::{
    codes,
    decode::{At, Fields},
    document::ROOT_NAMESPACE,
    parse::Metadata,
};

/// References of one document at most, as in Istio.
const MAX_REFERENCES: usize = 16;

/// Group and kind that a reference may name.
const REFERABLE: [(&str, &str); 4] = [
    ("", "Service"),
    ("networking.istio.io", "ServiceEntry"),
    ("gateway.networking.k8s.io", "Gateway"),
    ("gateway.networking.k8s.io", "GatewayClass"),
];

/// Which workloads a policy is for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Target {
    /// `selector.matchLabels`: a workload has all of them. Empty selects every workload that the namespace allows.
    pub labels: BTreeMap<String, String>,
    /// True if the document names objects of the Gateway API: there are none here, so it is for no workload.
    pub refers: bool,
}

impl Target {
    /// True if a document in `own` is for a workload with these labels in `namespace`. One in the root namespace is for all namespaces.
    pub fn selects(&self, own: &str, namespace: &str, labels: &BTreeMap<String, String>) -> bool {
        !self.refers
            && (own == namespace || own == ROOT_NAMESPACE)
            && self.labels.iter().all(|(key, value)| labels.get(key) == Some(value))
    }

    /// `selector`, `targetRef` and `targetRefs`; at most one of them.
    pub(super) fn decode(fields: &Fields<'_>) -> Self {
        let labels = selector(fields);
        let one = fields.get("targetRef");
        let many = fields.get("targetRefs");
        let items = many.as_ref().map(At::items).unwrap_or_default();
        if items.len() > MAX_REFERENCES {
            fields.at.error(codes::SELECTOR, format!("targetRefs has at most {MAX_REFERENCES} items"));
        }
        let given = [fields.has("selector"), one.is_some(), !items.is_empty()];
        if given.iter().filter(|given| **given).count() > 1 {
            let message = "only one of targetRefs or workloadSelector can be set";
            fields.at.error_as_istio(codes::EXCLUSIVE, message, "keep `selector`");
        }
        for reference in one.iter().chain(&items) {
            check_reference(reference);
        }
        let refers = one.is_some() || !items.is_empty();
        if refers {
            let message = "target references name objects of the Gateway API, which this mesh has not: the document has no effect";
            fields.at.warn(codes::WITHOUT_EFFECT, message, "use `selector`");
        }
        Self { labels, refers }
    }

    /// `selector` alone, for kinds that have no references.
    pub(super) fn decode_selector(fields: &Fields<'_>) -> Self {
        Self { labels: selector(fields), refers: false }
    }
}

fn selector(fields: &Fields<'_>) -> BTreeMap<String, String> {
    let Some(selector) = fields.get("selector") else { return BTreeMap::new() };
    let Some(inner) = selector.fields() else { return BTreeMap::new() };
    let map = inner.get("matchLabels");
    inner.finish();
    let mut sound = true;
    for (key, value) in map.as_ref().map(At::entries).unwrap_or_default() {
        let text = value.node.text().unwrap_or_default();
        if key.is_empty() {
            let message = format!("empty key is not supported in selector: \"{key}={text}\"");
            value.error_as_istio(codes::SELECTOR, message, "");
            sound = false;
        }
        if key.contains('*') || text.contains('*') {
            let message = format!("wildcard is not supported in selector: \"{key}={text}\"");
            value.error_as_istio(codes::SELECTOR, message, "a selector compares whole labels");
            sound = false;
        }
    }
    let labels = map.as_ref().filter(|_| sound).map(At::labels).unwrap_or_default();
    if sound && labels.is_empty() {
        let hint = "leave `selector` out if that is meant";
        selector.warn(codes::EMPTY_SELECTOR, "workload selector specified without labels", hint);
    }
    labels
}

fn check_reference(at: &At<'_>) {
    let Some(fields) = at.fields() else { return };
    let text = |name| fields.get(name).and_then(|at| at.text().map(str::to_owned)).unwrap_or_default();
    let (group, kind, name, namespace) = (text("group"), text("kind"), text("name"), text("namespace"));
    // Istio's API has it and does not read it.
    fields.get("sectionName").map(|at| at.text());
    fields.finish();
    if name.is_empty() {
        at.error_as_istio(codes::SELECTOR, "targetRef name must be set", "");
    }
    if !namespace.is_empty() {
        let message = "targetRef namespace must not be set; cross namespace referencing is not supported";
        at.error_as_istio(codes::SELECTOR, message, "");
    }
    let canonical = if group == "core" { "" } else { group.as_str() };
    if !REFERABLE.contains(&(canonical, kind.as_str())) {
        let names: Vec<String> = REFERABLE.iter().map(|(group, kind)| format!("{group}/{kind}")).collect();
        let message = format!("targetRef must be to one of {} but was {group}/{kind}", names.join(", "));
        at.error(codes::SELECTOR, message);
    }
}

/// Istio's annotation for a trial; only AuthorizationPolicy knows it.
pub(crate) const DRY_RUN: &str = "istio.io/dry-run";

/// Refuses Istio's trial annotation on a kind that has no trial: it would be enforced at once.
pub(super) fn refuse_dry_run(spec: &At<'_>, metadata: &Metadata) {
    if metadata.annotations.contains_key(DRY_RUN) {
        let message = format!("{} cannot be tried out: it has the annotation {DRY_RUN}", metadata.id.kind);
        spec.error_hint(codes::ANNOTATION, message, "remove the annotation; it is for AuthorizationPolicy");
    }
}
