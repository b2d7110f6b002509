//! `WorkloadSelector` of the networking kinds: labels that a workload must all have.

use std::collections::BTreeMap;

use crate::{
    codes,
    decode::{At, Fields, is_label},
};

/// Labels of a selector at most, as in Istio.
const MAX_LABELS: usize = 256;
/// Characters of a label's value at most, as in Istio.
const MAX_VALUE: usize = 63;

/// `workloadSelector`, if it is there; an empty one selects every workload of the namespace, and is a slip.
pub(super) fn decode(fields: &Fields<'_>) -> Option<BTreeMap<String, String>> {
    let at = fields.get("workloadSelector")?;
    let selector = at.fields()?;
    let labels = selector.get("labels").map(|labels| labels_of(&labels)).unwrap_or_default();
    selector.finish();
    if labels.is_empty() {
        at.warn(codes::EMPTY_SELECTOR, "the selector names no labels and selects every workload of the namespace", "");
    }
    Some(labels)
}

/// The labels of a selector. What no workload can have is a warning only, as Istio accepts it.
pub(super) fn labels_of(at: &At<'_>) -> BTreeMap<String, String> {
    at.limit(MAX_LABELS);
    let mut labels = BTreeMap::new();
    for (key, value) in at.entries() {
        let Some(text) = value.text() else { continue };
        if key.is_empty() {
            value.error_as_istio(codes::LABEL, "empty key is not supported in selector", "");
        } else if key.contains('*') || text.contains('*') {
            let hint = "leave the label out to select every value";
            value.error_as_istio(codes::LABEL, "wildcard is not supported in selector", hint);
        } else if text.len() > MAX_VALUE {
            value.error(codes::LABEL, format!("a label's value has at most {MAX_VALUE} characters"));
        } else if !is_label(key, text) {
            value.warn(codes::UNMATCHED_LABEL, format!("no workload can have the label `{key}: {text}`"), "");
        }
        labels.insert(key.to_owned(), text.to_owned());
    }
    labels
}

/// True if the workload has all labels of the selector.
pub(super) fn selects(selector: &BTreeMap<String, String>, workload: &BTreeMap<String, String>) -> bool {
    selector.iter().all(|(key, value)| workload.get(key) == Some(value))
}
