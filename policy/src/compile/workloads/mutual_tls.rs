//! Whether a workload takes plaintext: the PeerAuthentications that speak of it, from the whole mesh down to one port.

use std::{collections::BTreeMap, sync::Arc};

use certs::codec::Millis;

use crate::{
    document::{DocumentId, ROOT_NAMESPACE, Spec},
    history::Live,
    kinds::{MutualTls, PeerAuthentication, Target},
};

use super::unreadable;

/// What a workload takes, on each of its ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Modes {
    /// On ports without a mode of their own.
    mode: MutualTls,
    /// By the port on which the workload listens.
    ports: BTreeMap<u16, MutualTls>,
}

impl Modes {
    /// On the port on which the workload listens.
    pub fn on(&self, port: u16) -> MutualTls {
        self.ports.get(&port).copied().unwrap_or(self.mode)
    }

    /// True if plaintext that is taken `before` is refused on some port.
    pub fn refuse_more_than(&self, before: &Self) -> bool {
        let refuses = |before: MutualTls, now: MutualTls| before != MutualTls::Strict && now == MutualTls::Strict;
        let mut ports = self.ports.keys().chain(before.ports.keys());
        refuses(before.mode, self.mode) || ports.any(|port| refuses(before.on(*port), self.on(*port)))
    }

    /// From the documents of the workload's namespace and of the root namespace. On each level the oldest counts; what it does not
    /// set comes from the level above: port, workload, namespace, mesh, PERMISSIVE. One that cannot be read keeps plaintext out.
    pub(super) fn of<'d>(
        documents: impl Iterator<Item = &'d Document>,
        namespace: &str,
        labels: &BTreeMap<String, String>,
    ) -> Self {
        let documents: Vec<&Document> = documents.collect();
        let blind = |document: &&Document| {
            document.unreadable.iter().any(|target| target.selects(&document.id.namespace, namespace, labels))
        };
        if documents.iter().any(blind) {
            // All that a PeerAuthentication can forbid.
            return Self { mode: MutualTls::Strict, ports: BTreeMap::new() };
        }
        let level = |wanted: Level| {
            let candidates = documents.iter().filter_map(|document| document.at(wanted, namespace, labels));
            candidates.min_by(|a, b| a.age.cmp(&b.age))
        };
        let (mesh, own, workload) = (level(Level::Mesh), level(Level::Namespace), level(Level::Workload));
        let said = [&workload, &own, &mesh].into_iter().flatten().find_map(|found| found.mode);
        let mode = said.unwrap_or(MutualTls::Permissive);
        let ports = workload.map(|found| found.ports).unwrap_or_default();
        let ports = ports.into_iter().map(|(port, own)| (port, own.unwrap_or(mode))).collect();
        Self { mode, ports }
    }
}

/// A PeerAuthentication with all its values in force.
#[derive(Debug)]
pub(super) struct Document {
    id: DocumentId,
    created: Millis,
    values: Vec<Arc<PeerAuthentication>>,
    /// Whom its values may be for that this build cannot read and in whose place no older one stands.
    unreadable: Vec<Target>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    Mesh,
    Namespace,
    Workload,
}

/// What a document says on one level: of several live values the strictest.
struct Found<'d> {
    age: (Millis, &'d str, &'d str),
    mode: Option<MutualTls>,
    ports: BTreeMap<u16, Option<MutualTls>>,
}

impl Document {
    /// `None` if no value is a document, and none is unreadable.
    pub(super) fn new(id: &DocumentId, live: &Live) -> Option<Self> {
        let readable = live.in_force.iter().filter_map(|value| {
            let document = value.document.as_ref().ok()?;
            let Spec::PeerAuthentication(spec) = &document.spec else { return None };
            Some((document.created.unwrap_or(value.time), spec.clone()))
        });
        let (created, values): (Vec<Millis>, Vec<_>) = readable.unzip();
        let unreadable: Vec<Target> = live.blind.iter().map(|value| unreadable::target(&value.json)).collect();
        let created = created.into_iter().chain(live.blind.iter().map(|value| value.time)).min()?;
        Some(Self { id: id.clone(), created, values, unreadable })
    }

    fn at(&self, wanted: Level, namespace: &str, labels: &BTreeMap<String, String>) -> Option<Found<'_>> {
        let own = self.id.namespace.as_str();
        let here = |value: &&Arc<PeerAuthentication>| {
            level(own, value) == wanted && value.counts(own) && value.target.selects(own, namespace, labels)
        };
        let mut values = self.values.iter().filter(here).peekable();
        values.peek()?;
        let age = (self.created, self.id.name.as_str(), own);
        let mut found = Found { age, mode: None, ports: BTreeMap::new() };
        for value in values {
            found.mode = found.mode.max(value.mode);
            for (port, mode) in &value.ports {
                let known = found.ports.entry(*port).or_default();
                *known = (*known).max(*mode);
            }
        }
        Some(found)
    }
}

fn level(namespace: &str, value: &PeerAuthentication) -> Level {
    match (value.target.labels.is_empty(), namespace == ROOT_NAMESPACE) {
        (true, true) => Level::Mesh,
        (true, false) => Level::Namespace,
        (false, _) => Level::Workload,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse;

    fn value(spec: &str) -> Arc<PeerAuthentication> {
        let text = format!(
            "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{name: a}}\nspec: {spec}\n"
        );
        let parsed = parse::yaml("f", &text, "default");
        assert!(parsed.is_valid(), "{:#?}", parsed.problems);
        let Spec::PeerAuthentication(value) = &parsed.documents[0].document.spec else { panic!("another kind") };
        value.clone()
    }

    fn document(namespace: &str, name: &str, created: Millis, specs: &[&str]) -> Document {
        let id = DocumentId::new(crate::Kind::PeerAuthentication, namespace, name);
        Document { id, created, values: specs.iter().map(|spec| value(spec)).collect(), unreadable: Vec::new() }
    }

    fn modes(documents: &[Document]) -> Modes {
        let labels = BTreeMap::from([("app".to_owned(), "web".to_owned())]);
        Modes::of(documents.iter(), "shop", &labels)
    }

    const STRICT: &str = "{mtls: {mode: STRICT}}";
    const PERMISSIVE: &str = "{mtls: {mode: PERMISSIVE}}";
    const UNSET: &str = "{mtls: {mode: UNSET}}";

    #[test]
    fn without_a_document_plaintext_is_taken() {
        assert_eq!(modes(&[]).on(80), MutualTls::Permissive);
        assert_eq!(modes(&[document("bank", "a", 1, &[STRICT])]).on(80), MutualTls::Permissive, "another namespace");
    }

    #[test]
    fn the_nearest_level_that_says_something_counts() {
        let mesh = || document("istio-system", "default", 1, &[STRICT]);
        assert_eq!(modes(&[mesh()]).on(80), MutualTls::Strict);
        assert_eq!(modes(&[mesh(), document("shop", "a", 2, &[UNSET])]).on(80), MutualTls::Strict);
        assert_eq!(modes(&[mesh(), document("shop", "a", 2, &[PERMISSIVE])]).on(80), MutualTls::Permissive);
        let workload = "{selector: {matchLabels: {app: web}}, mtls: {mode: STRICT}}";
        let both = [document("shop", "a", 2, &[PERMISSIVE]), document("shop", "b", 3, &[workload])];
        assert_eq!(modes(&both).on(80), MutualTls::Strict);
        let other = "{selector: {matchLabels: {app: x}}, mtls: {mode: STRICT}}";
        assert_eq!(modes(&[document("shop", "b", 3, &[other])]).on(80), MutualTls::Permissive);
    }

    #[test]
    fn a_selector_in_the_root_namespace_is_ignored() {
        let selected = "{selector: {matchLabels: {app: web}}, mtls: {mode: STRICT}}";
        assert_eq!(modes(&[document("istio-system", "a", 1, &[selected])]).on(80), MutualTls::Permissive);
    }

    #[test]
    fn the_oldest_of_a_level_wins() {
        let [young, old] = [document("shop", "a", 9, &[STRICT]), document("shop", "b", 2, &[PERMISSIVE])];
        assert_eq!(modes(&[young, old]).on(80), MutualTls::Permissive);
    }

    #[test]
    fn ports_have_modes_of_their_own() {
        let spec = "{selector: {matchLabels: {app: web}}, mtls: {mode: STRICT}, portLevelMtls: {8080: {mode: PERMISSIVE}, 81: {mode: UNSET}}}";
        let found = modes(&[document("shop", "a", 1, &[spec])]);
        assert_eq!(
            [found.on(80), found.on(8080), found.on(81)],
            [MutualTls::Strict, MutualTls::Permissive, MutualTls::Strict]
        );
    }

    #[test]
    fn disable_is_no_stricter_than_permissive() {
        let spec = "{selector: {matchLabels: {app: web}}, mtls: {mode: STRICT}, portLevelMtls: {80: {mode: DISABLE}}}";
        let found = modes(&[document("shop", "a", 1, &[spec])]);
        assert_eq!([found.on(80), found.on(81)], [MutualTls::Disable, MutualTls::Strict]);
        let both = modes(&[document("shop", "a", 1, &["{mtls: {mode: DISABLE}}", PERMISSIVE])]);
        assert_eq!(both.on(80), MutualTls::Permissive);
    }

    #[test]
    fn of_several_live_values_the_strictest_counts() {
        assert_eq!(modes(&[document("shop", "a", 1, &[PERMISSIVE, STRICT])]).on(80), MutualTls::Strict);
        assert_eq!(modes(&[document("shop", "a", 1, &[UNSET, PERMISSIVE])]).on(80), MutualTls::Permissive);
    }
}
