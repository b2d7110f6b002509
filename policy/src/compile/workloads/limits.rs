//! How often a workload may be called: the rules of the RateLimits that select it.

use std::{collections::BTreeMap, sync::Arc};

use certs::{id::ServiceName, sign::Digest};

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
}

/// A RateLimit in effect.
#[derive(Debug)]
pub(super) struct Document {
    id: Arc<DocumentId>,
    limit: Arc<RateLimit>,
}

impl Document {
    /// `None` if the document is deleted or cannot be read.
    pub(super) fn new(id: &DocumentId, live: &Live) -> Option<Self> {
        let document = live.effective.as_ref()?.document.as_ref().ok()?;
        let Spec::RateLimit(limit) = &document.spec else { return None };
        Some(Self { id: Arc::new(id.clone()), limit: limit.clone() })
    }
}

/// The rules for the workload with these labels in `namespace`.
pub(super) fn of<'d>(
    documents: impl Iterator<Item = &'d Document>,
    namespace: &str,
    labels: &BTreeMap<String, String>,
) -> Vec<WorkloadLimit> {
    let selected =
        documents.filter(|document| document.limit.target.selects(&document.id.namespace, namespace, labels));
    let mut found: Vec<WorkloadLimit> = Vec::new();
    for document in selected {
        for (index, rule) in document.limit.rules.iter().enumerate() {
            // A rule that stands twice is two rules.
            let same = |known: &&WorkloadLimit| known.document == document.id && says_the_same(&known.rule, rule);
            let twin = found.iter().filter(same).count();
            let id = Digest::of(format!("{} {twin} {:?}", document.id, essence(rule)).as_bytes());
            found.push(WorkloadLimit { document: document.id.clone(), index, rule: rule.clone(), id });
        }
    }
    found
}

/// A rule without what does not matter to its count.
fn essence(rule: &LimitRule) -> LimitRule {
    LimitRule { line: 0, response_headers: Vec::new(), ..rule.clone() }
}

fn says_the_same(a: &LimitRule, b: &LimitRule) -> bool {
    essence(a) == essence(b)
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
        Document { id: Arc::new(DocumentId::new(Kind::RateLimit, "shop", "r")), limit: limit.clone() }
    }

    fn ids(spec: &str) -> Vec<Digest> {
        of([document(spec)].iter(), "shop", &BTreeMap::new()).into_iter().map(|limit| limit.id).collect()
    }

    #[test]
    fn rules_are_known_again_by_what_they_say() {
        let a = "{match: [{uri: {prefix: /a}}], limit: {requests: 5, interval: 1s}, scope: node}";
        let b = "{limit: {requests: 6, interval: 1s}, scope: node}";
        let told = "{match: [{uri: {prefix: /a}}], limit: {requests: 5, interval: 1s}, scope: node, responseHeaders: {x-a: b}}";
        let [first, second] = [ids(&format!("{{rules: [{a}, {b}]}}")), ids(&format!("{{rules: [{b}, {told}]}}"))];
        assert_eq!((first[0], first[1]), (second[1], second[0]));
        let twins = ids(&format!("{{rules: [{a}, {a}]}}"));
        assert!(twins[0] == first[0] && twins[1] != first[0]);
        assert_ne!(ids(&format!("{{rules: [{}]}}", a.replace("/a", "/b")))[0], first[0]);
    }

    #[test]
    fn only_what_selects_the_workload_counts() {
        let spec = "{selector: {matchLabels: {app: x}}, rules: [{limit: {requests: 5, interval: 1s}, scope: node}]}";
        assert_eq!(ids(spec), []);
    }
}
