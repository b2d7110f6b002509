//! Which requests of a workload the access log tells of: MeshConfig, and over it the Telemetries of the mesh, of the namespace and of
//! the workload.

use std::{collections::BTreeMap, sync::Arc};

use certs::codec::Millis;

use crate::{
    document::{DocumentId, ROOT_NAMESPACE, Spec},
    history::Live,
    kinds::{AccessLog, AccessLogging, Filter, LogFile, Side, Telemetry},
};

/// The access log of a workload; `None` is off.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Logs {
    /// Of the requests that it sends.
    pub client: Option<Arc<LogRule>>,
    /// Of the requests that it gets.
    pub server: Option<Arc<LogRule>>,
}

/// Where lines go, and for which requests.
#[derive(Debug, Clone, PartialEq)]
pub struct LogRule {
    /// The stream.
    pub file: LogFile,
    /// `None`: for all.
    pub filter: Option<Filter>,
}

/// A Telemetry in effect that speaks of the access log.
#[derive(Debug)]
pub(super) struct Document {
    id: DocumentId,
    created: Millis,
    telemetry: Arc<Telemetry>,
}

impl Document {
    /// `None` if the document is deleted or cannot be read.
    pub(super) fn new(id: &DocumentId, live: &Live) -> Option<Self> {
        let value = live.effective.as_ref()?;
        let document = value.document.as_ref().ok()?;
        let Spec::Telemetry(telemetry) = &document.spec else { return None };
        Some(Self { id: id.clone(), created: document.created.unwrap_or(value.time), telemetry: telemetry.clone() })
    }

    /// True if it says anything of the access log.
    pub(super) fn speaks(&self) -> bool {
        !self.telemetry.access_logging.is_empty()
    }

    /// 0 the mesh, 1 the namespace, 2 the workload; `None` if it is not for the workload.
    fn level(&self, namespace: &str, labels: &BTreeMap<String, String>) -> Option<usize> {
        let (own, target) = (self.id.namespace.as_str(), &self.telemetry.target);
        if !target.selects(own, namespace, labels) {
            return None;
        }
        match (own == ROOT_NAMESPACE, target.labels.is_empty()) {
            (true, true) => Some(0),
            // As in Istio, a selector in the root namespace is ignored.
            (true, false) => None,
            (false, true) => Some(1),
            (false, false) => Some(2),
        }
    }
}

/// What one side comes to, as far as it was read.
struct Said<'s> {
    /// Where lines go if there are any; `None` as long as nobody named a provider.
    file: Option<LogFile>,
    on: bool,
    filter: Option<&'s Filter>,
}

/// From the documents of the workload's namespace and of the root namespace. On each level the oldest counts, as in Istio, and says
/// over the level above what it sets; what it leaves out is inherited.
pub(super) fn of<'d>(
    documents: impl Iterator<Item = &'d Document>,
    namespace: &str,
    labels: &BTreeMap<String, String>,
    mesh: &AccessLog,
) -> Logs {
    let mut levels: [Option<&Document>; 3] = [None; 3];
    for document in documents {
        let Some(level) = document.level(namespace, labels) else { continue };
        let age = |document: &Document| (document.created, document.id.name.clone());
        if levels[level].is_none_or(|known| age(document) < age(known)) {
            levels[level] = Some(document);
        }
    }
    let entries: Vec<&AccessLogging> =
        levels.iter().flatten().flat_map(|document| &document.telemetry.access_logging).collect();
    Logs { client: side(&entries, Side::Client, mesh), server: side(&entries, Side::Server, mesh) }
}

fn side(entries: &[&AccessLogging], wanted: Side, mesh: &AccessLog) -> Option<Arc<LogRule>> {
    let mut said = Said { file: mesh.file, on: mesh.file.is_some(), filter: None };
    for entry in entries.iter().filter(|entry| entry.side == Side::ClientAndServer || entry.side == wanted) {
        if entry.disabled == Some(true) {
            said.on = false;
            continue;
        }
        let named = !entry.providers.is_empty();
        if named {
            said.file = Some(LogFile::Stdout);
        }
        said.on = said.file.is_some();
        // Who names a provider says all of it; who does not adds to what is inherited.
        if named || entry.filter.is_some() {
            said.filter = entry.filter.as_ref();
        }
    }
    let file = said.file.filter(|_| said.on)?;
    Some(Arc::new(LogRule { file, filter: said.filter.cloned() }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Kind, parse};

    fn document(namespace: &str, name: &str, created: Millis, spec: &str) -> Document {
        let text = format!(
            "apiVersion: telemetry.istio.io/v1\nkind: Telemetry\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}\n"
        );
        let parsed = parse::yaml("f", &text, "default");
        assert!(!parsed.problems.iter().any(crate::Problem::refuses), "{:#?}", parsed.problems);
        let Spec::Telemetry(telemetry) = &parsed.documents[0].document.spec else { panic!("another kind") };
        let id = DocumentId::new(Kind::Telemetry, namespace, name);
        Document { id, created, telemetry: telemetry.clone() }
    }

    /// Client and server: `-` off, `all`, or the filter.
    fn logs(documents: &[Document], mesh: Option<LogFile>) -> [String; 2] {
        let labels = BTreeMap::from([("app".to_owned(), "web".to_owned())]);
        let mesh = AccessLog { file: mesh, ..AccessLog::default() };
        let found = of(documents.iter(), "shop", &labels, &mesh);
        [found.client, found.server].map(|rule| {
            rule.map_or("-".to_owned(), |rule| {
                rule.filter.as_ref().map_or("all".to_owned(), |filter| filter.source().to_owned())
            })
        })
    }

    const ENVOY: &str = "{accessLogging: [{providers: [{name: envoy}]}]}";

    #[test]
    fn mesh_config_is_for_both_sides_and_a_telemetry_turns_it_off() {
        assert_eq!(logs(&[], None), ["-", "-"]);
        assert_eq!(logs(&[], Some(LogFile::Stderr)), ["all", "all"]);
        let off = document("shop", "a", 1, "{accessLogging: [{disabled: true}]}");
        assert_eq!(logs(&[off], Some(LogFile::Stdout)), ["-", "-"]);
        let client = document("shop", "a", 1, "{accessLogging: [{match: {mode: CLIENT}, disabled: true}]}");
        assert_eq!(logs(&[client], Some(LogFile::Stdout)), ["-", "all"]);
    }

    #[test]
    fn a_provider_turns_it_on() {
        assert_eq!(logs(&[document("istio-system", "a", 1, ENVOY)], None), ["all", "all"]);
        let server = "{accessLogging: [{match: {mode: SERVER}, providers: [{name: envoy}], filter: {expression: 'response.code >= 400'}}]}";
        assert_eq!(logs(&[document("shop", "a", 1, server)], None), ["-", "response.code >= 400"]);
        // Nobody named one.
        assert_eq!(logs(&[document("shop", "a", 1, "{accessLogging: [{disabled: false}]}")], None), ["-", "-"]);
        assert_eq!(logs(&[document("bank", "a", 1, ENVOY)], None), ["-", "-"], "another namespace");
    }

    #[test]
    fn the_nearer_level_says_over_the_farther_what_it_sets() {
        let mesh = || document("istio-system", "a", 1, ENVOY);
        let off = || document("shop", "b", 2, "{accessLogging: [{disabled: true}]}");
        let selected = |entry: &str| format!("{{selector: {{matchLabels: {{app: web}}}}, accessLogging: [{entry}]}}");
        assert_eq!(logs(&[mesh(), off()], None), ["-", "-"]);
        let again = document("shop", "c", 3, &selected("{filter: {expression: 'true'}}"));
        assert_eq!(logs(&[again, off(), mesh()], None), ["true", "true"]);
        // What names a provider says all, what does not keeps the filter.
        let filtered = || document("shop", "b", 2, "{accessLogging: [{filter: {expression: 'false'}}]}");
        assert_eq!(logs(&[mesh(), filtered()], None), ["false", "false"]);
        let kept = document("shop", "c", 3, &selected("{disabled: false}"));
        assert_eq!(logs(&[mesh(), filtered(), kept], None), ["false", "false"]);
        let all = document("shop", "c", 3, &selected("{providers: [{name: envoy}]}"));
        assert_eq!(logs(&[mesh(), filtered(), all], None), ["all", "all"]);
    }

    #[test]
    fn on_a_level_the_oldest_counts_and_a_selector_in_the_root_namespace_does_not() {
        let off = document("shop", "young", 9, "{accessLogging: [{disabled: true}]}");
        assert_eq!(logs(&[off, document("shop", "old", 1, ENVOY)], None), ["all", "all"]);
        let selected = "{selector: {matchLabels: {app: web}}, accessLogging: [{providers: [{name: envoy}]}]}";
        assert_eq!(logs(&[document("istio-system", "a", 1, selected)], None), ["-", "-"]);
    }
}
