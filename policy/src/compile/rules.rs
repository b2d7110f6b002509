//! DestinationRules as a caller sees them: lookup by namespace and host, which are merged, and for whom.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use certs::codec::Millis;

use super::Entries;
use crate::{
    changeset::ChangesetId,
    document::{DocumentId, ROOT_NAMESPACE},
    hosts,
    kinds::{ClientTls, DestinationRule, ExportTo, SubsetRule, TrafficPolicy},
};

/// A DestinationRule in effect.
#[derive(Debug)]
pub(crate) struct Rule {
    pub(crate) id: DocumentId,
    pub(crate) changeset: ChangesetId,
    pub(crate) created: Millis,
    /// The document's own, or only its namespace where it is confined.
    pub(crate) export_to: ExportTo,
    pub(crate) rule: Arc<DestinationRule>,
}

/// All DestinationRules in effect, oldest first for each host.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    exact: HashMap<String, Vec<Rule>>,
    /// Most specific first.
    wild: Vec<Rule>,
    /// Whose namespace is that of a host which is no service.
    entries: Arc<Entries>,
}

/// What callers of a namespace see of a host, oldest first: rules without a selector, and those for some callers only.
pub(crate) struct Seen<'r>(Vec<&'r Rule>);

/// Rules that are merged into one, oldest first.
pub(crate) struct Candidate<'r>(Vec<&'r Rule>);

impl Rules {
    pub(crate) fn new(mut rules: Vec<Rule>, entries: Arc<Entries>) -> Self {
        rules.sort_by(|a, b| (a.created, &a.id.name, &a.id.namespace).cmp(&(b.created, &b.id.name, &b.id.namespace)));
        let mut all = Self { entries, ..Self::default() };
        for rule in rules {
            if rule.rule.host.starts_with('*') {
                all.wild.push(rule);
            } else {
                all.exact.entry(rule.rule.host.clone()).or_default().push(rule);
            }
        }
        // Stable: the oldest stays first among equals.
        all.wild.sort_by(|a, b| hosts::by_specificity(&a.rule.host, &b.rule.host));
        all
    }

    /// Every rule for a host, whoever sees it; the most specific first.
    pub(crate) fn covering<'r>(&'r self, host: &'r str) -> impl Iterator<Item = &'r Rule> {
        let wild = self.wild.iter().filter(move |rule| hosts::covers(&rule.rule.host, host));
        self.exact.get(host).into_iter().flatten().chain(wild)
    }

    /// Istio's lookup: the caller's namespace, the service's, the root namespace; the first with a rule decides, and in it the most
    /// specific host.
    pub(crate) fn seen_from<'r>(&'r self, client: &str, host: &'r str) -> Seen<'r> {
        let owner = self.owner(client, host);
        let private = ExportTo::Namespaces(BTreeSet::from([client.to_owned()]));
        let own = |rule: &Rule| rule.id.namespace == client && (client != ROOT_NAMESPACE || rule.export_to == private);
        let exported = |rule: &Rule, namespace: &str| rule.id.namespace == namespace && rule.export_to.includes(client);
        let by = |test: &dyn Fn(&Rule) -> bool| {
            let mut hits = self.covering(host).filter(|rule| test(rule)).peekable();
            let first = hits.peek().map(|rule| rule.rule.host.as_str());
            hits.filter(|rule| Some(rule.rule.host.as_str()) == first).collect::<Vec<_>>()
        };
        let steps: [&dyn Fn(&Rule) -> bool; 3] =
            [&own, &|rule| owner.as_ref().is_some_and(|owner| exported(rule, owner)), &|rule| {
                exported(rule, ROOT_NAMESPACE)
            }];
        Seen(steps.into_iter().map(by).find(|hits| !hits.is_empty()).unwrap_or_default())
    }

    /// The namespace that a host is of: the one that its name says, else that of the ServiceEntry which makes it.
    fn owner(&self, client: &str, host: &str) -> Option<String> {
        let named = hosts::service_of(host).map(|service| service.namespace().to_owned());
        named.or_else(|| self.entries.find(host, client).map(|made| made.document.namespace.clone()))
    }

    /// Namespaces whose callers may see something else of this host than those of any other namespace.
    pub(crate) fn special_namespaces(&self, host: &str, into: &mut BTreeSet<String>) {
        for rule in self.covering(host) {
            into.insert(rule.id.namespace.clone());
            if let ExportTo::Namespaces(namespaces) = &rule.export_to {
                into.extend(namespaces.iter().cloned());
            }
        }
    }
}

impl<'r> Seen<'r> {
    /// True if some caller sees the subset.
    pub(crate) fn defines(&self, subset: &str) -> bool {
        self.0.iter().any(|rule| rule.rule.subset(subset).is_some())
    }

    /// Every TLS setting, of whichever subset and port.
    pub(crate) fn client_tls(&self) -> Vec<ClientTls> {
        let of_rule = |rule: &&'r Rule| {
            let subsets = rule.rule.subsets.iter().filter_map(|subset| subset.policy.as_ref());
            rule.rule.policy.iter().chain(subsets).collect::<Vec<_>>()
        };
        let policies = self.0.iter().flat_map(of_rule);
        let blocks = policies
            .flat_map(|policy| std::iter::once(&policy.blocks).chain(policy.ports.iter().map(|(_, blocks)| blocks)));
        blocks.filter_map(|blocks| blocks.tls.clone()).collect()
    }

    /// What callers see whom no selector selects.
    pub(crate) fn common(&self) -> Candidate<'r> {
        Candidate(self.0.iter().filter(|rule| rule.rule.workload_selector.is_none()).copied().collect())
    }

    /// By selector, what callers of `client` with its labels see instead; the first that selects a caller counts. A selector is for
    /// callers of its own namespace.
    pub(crate) fn selected(&self, client: &str) -> Vec<(&'r BTreeMap<String, String>, Candidate<'r>)> {
        let mut selected: Vec<(&'r BTreeMap<String, String>, Candidate<'r>)> = Vec::new();
        for rule in self.0.iter().filter(|rule| rule.id.namespace == client) {
            let Some(selector) = &rule.rule.workload_selector else { continue };
            match selected.iter_mut().find(|(own, _)| *own == selector) {
                Some((_, candidate)) => candidate.0.push(rule),
                None => selected.push((selector, Candidate(vec![rule]))),
            }
        }
        selected
    }
}

impl<'r> Candidate<'r> {
    /// The first definition of a subset.
    pub(crate) fn subset(&self, name: &str) -> Option<&'r SubsetRule> {
        self.0.iter().find_map(|rule| rule.rule.subset(name))
    }

    /// The documents that count for this subset, or for all endpoints: of those that say it the oldest.
    pub(crate) fn documents(&self, subset: Option<&str>) -> Vec<DocumentId> {
        let policy = self.0.iter().find(|rule| rule.rule.policy.is_some());
        let own = subset.and_then(|name| self.0.iter().find(|rule| rule.rule.subset(name).is_some()));
        let mut ids: Vec<DocumentId> = policy.into_iter().chain(own).map(|rule| rule.id.clone()).collect();
        ids.dedup();
        ids
    }

    /// The top level policy of the oldest rule that has one.
    pub(crate) fn policy(&self) -> Option<&'r TrafficPolicy> {
        self.0.iter().find_map(|rule| rule.rule.policy.as_ref())
    }
}
