//! Whose tokens a workload believes: the rules of the RequestAuthentications that select it.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    document::Spec,
    history::{Live, LiveValue},
    kinds::{RequestAuthentication, TokenRule},
    token::Tokens,
};

/// A RequestAuthentication and its live values: usually one.
#[derive(Debug)]
pub(super) struct Document {
    namespace: String,
    /// `None` is a deletion, or what this build cannot read.
    values: Vec<Option<Arc<RequestAuthentication>>>,
}

impl Document {
    pub(super) fn new(namespace: &str, live: &Live) -> Self {
        let spec = |value: &LiveValue| match value.document.as_ref().map(|document| &document.spec) {
            Ok(Spec::RequestAuthentication(value)) => Some(value.clone()),
            Ok(_) | Err(_) => None,
        };
        let blind = live.blind.iter().map(|_| None);
        Self { namespace: namespace.to_owned(), values: live.in_force.iter().map(spec).chain(blind).collect() }
    }

    /// The rules that all its values have for the workload: whom one side of a split mesh ceased to believe, nobody believes.
    fn rules<'d>(&'d self, namespace: &str, labels: &BTreeMap<String, String>) -> Vec<&'d TokenRule> {
        let of = |value: &'d Option<Arc<RequestAuthentication>>| match value {
            Some(value) if value.target.selects(&self.namespace, namespace, labels) => &value.rules[..],
            Some(_) | None => &[],
        };
        let Some((first, others)) = self.values.split_first() else { return Vec::new() };
        of(first).iter().filter(|rule| others.iter().all(|other| of(other).contains(rule))).collect()
    }
}

/// What the workload with these labels in `namespace` believes.
pub(super) fn of<'d>(
    documents: impl Iterator<Item = &'d Document>,
    namespace: &str,
    labels: &BTreeMap<String, String>,
) -> Tokens {
    Tokens::new(documents.flat_map(|document| document.rules(namespace, labels)), namespace)
}
