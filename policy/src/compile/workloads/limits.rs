//! How often a workload may be called: the rules of the RateLimits that select it.

use std::{collections::BTreeMap, sync::Arc};

use certs::{id::ServiceName, sign::Digest};
use serde_json::Value;

use crate::{
    document::{DocumentId, Spec},
    history::Live,
    kinds::{LimitRule, RateLimit},
};

/// A rule of a RateLimit that selects a workload.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkloadLimit {
    /// The document.
    pub document: Arc<DocumentId>,
    /// Index of the rule, from 0.
    pub index: usize,
    /// The rule.
    pub rule: LimitRule,
    /// Equal for a rule that says the same of the same requests in the next state, wherever it stands in its document: what was
    /// counted for one counts for the other.
    pub id: Digest,
}

impl WorkloadLimit {
    /// Which limit it is at this service of a node: each has buckets and counts of its own.
    pub fn id_at(&self, service: &ServiceName, instance: Option<&str>) -> Vec<u8> {
        let place = format!("{service}/{}", instance.unwrap_or_default());
        [&self.id.0[..], place.as_bytes()].concat()
    }

    /// Names the limit at this service in the whole mesh: the same on all nodes of the service.
    pub fn number_at(&self, service: &ServiceName) -> u64 {
        Digest::of(&[&self.id.0[..], service.to_string().as_bytes()].concat()).first_u64()
    }
}

/// A RateLimit in effect.
#[derive(Debug)]
pub(super) struct Document {
    id: Arc<DocumentId>,
    limit: Arc<RateLimit>,
    /// What each rule says.
    essences: Vec<String>,
}

impl Document {
    /// `None` if the document is deleted or cannot be read.
    pub(super) fn new(id: &DocumentId, live: &Live) -> Option<Self> {
        let value = live.effective.as_ref()?;
        let Spec::RateLimit(limit) = &value.document.as_ref().ok()?.spec else { return None };
        Some(Self::of(id, limit, &value.json))
    }

    pub(super) fn id(&self) -> &DocumentId {
        &self.id
    }

    pub(super) fn selects(&self, namespace: &str, labels: &BTreeMap<String, String>) -> bool {
        self.limit.target.selects(&self.id.namespace, namespace, labels)
    }

    fn of(id: &DocumentId, limit: &Arc<RateLimit>, json: &str) -> Self {
        Self { id: Arc::new(id.clone()), limit: limit.clone(), essences: essences(limit, json) }
    }
}

/// The rules for the workload with these labels in `namespace`.
pub(super) fn of<'d>(
    documents: impl Iterator<Item = &'d Document>,
    namespace: &str,
    labels: &BTreeMap<String, String>,
) -> Vec<WorkloadLimit> {
    let selected = documents.filter(|document| document.selects(namespace, labels));
    let mut found: Vec<WorkloadLimit> = Vec::new();
    for document in selected {
        for (index, (rule, essence)) in document.limit.rules.iter().zip(&document.essences).enumerate() {
            // A rule that stands twice is two rules.
            let twin = document.essences[..index].iter().filter(|before| *before == essence).count();
            let id = Digest::of(format!("{} {twin} {essence}", document.id).as_bytes());
            found.push(WorkloadLimit { document: document.id.clone(), index, rule: rule.clone(), id });
        }
    }
    found
}

/// What each rule says, without what does not matter to its count: as it is signed, so that nodes of any build agree.
fn essences(limit: &RateLimit, json: &str) -> Vec<String> {
    let document: Value = serde_json::from_str(json).unwrap_or_default();
    let signed = |index: usize| {
        let mut rule = document.get("spec")?.get("rules")?.get(index)?.clone();
        rule.as_object_mut()?.retain(|field, _| field != "responseHeaders");
        rule.sort_all_objects();
        Some(rule.to_string())
    };
    // Whoever could read the rule finds it.
    (0..limit.rules.len()).map(|index| signed(index).unwrap_or_else(|| index.to_string())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Kind, parse};

    fn document(spec: &str) -> Document {
        let text = format!(
            "apiVersion: skein.dev/v1\nkind: RateLimit\nmetadata: {{name: r, namespace: shop}}\nspec: {spec}\n"
        );
        let parsed = parse::yaml("f", &text, "default");
        assert!(parsed.is_valid(), "{:#?}", parsed.problems);
        let Spec::RateLimit(limit) = &parsed.documents[0].document.spec else { panic!("another kind") };
        Document::of(&DocumentId::new(Kind::RateLimit, "shop", "r"), limit, &parsed.documents[0].json)
    }

    fn ids(spec: &str) -> Vec<Digest> {
        of([document(spec)].iter(), "shop", &BTreeMap::new()).into_iter().map(|limit| limit.id).collect()
    }

    #[test]
    fn rules_are_known_again_by_what_they_say() {
        let a = "{match: [{uri: {prefix: /a}}], limit: {requests: 5, interval: 1s}, scope: node}";
        let b = "{limit: {requests: 6, interval: 1s}, scope: node}";
        let told = "{scope: node, limit: {interval: 1s, requests: 5}, responseHeaders: {x-a: b}, match: [{uri: {prefix: /a}}]}";
        let [first, second] = [ids(&format!("{{rules: [{a}, {b}]}}")), ids(&format!("{{rules: [{b}, {told}]}}"))];
        assert_eq!((first[0], first[1]), (second[1], second[0]));
        let twins = ids(&format!("{{rules: [{a}, {a}]}}"));
        assert!(twins[0] == first[0] && twins[1] != first[0]);
        assert_ne!(ids(&format!("{{rules: [{}]}}", a.replace("/a", "/b")))[0], first[0]);
    }

    #[test]
    fn a_limit_of_the_mesh_has_one_number_at_all_instances_of_a_service() {
        let spec = "{rules: [{limit: {requests: 5, interval: 1s}}]}";
        let limit = &of([document(spec)].iter(), "shop", &BTreeMap::new())[0];
        let [reviews, ratings]: [ServiceName; 2] = ["shop/reviews", "shop/ratings"].map(|name| name.parse().unwrap());
        assert_eq!(limit.number_at(&reviews), limit.number_at(&reviews));
        assert_ne!(limit.number_at(&reviews), limit.number_at(&ratings));
        assert_ne!(limit.id_at(&reviews, Some("1")), limit.id_at(&reviews, None));
    }

    #[test]
    fn only_what_selects_the_workload_counts() {
        let spec = "{selector: {matchLabels: {app: x}}, rules: [{limit: {requests: 5, interval: 1s}, scope: node}]}";
        assert_eq!(ids(spec), []);
    }
}
