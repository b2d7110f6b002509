//! Telemetries that hold for a workload: of the mesh, of its namespace and its own.

use std::{collections::BTreeMap, sync::Arc};

use certs::codec::Millis;

use crate::{
    document::{DocumentId, ROOT_NAMESPACE, Spec},
    history::Live,
    kinds::Telemetry,
};

/// A Telemetry in effect.
#[derive(Debug)]
pub(super) struct Document {
    id: DocumentId,
    created: Millis,
    telemetry: Arc<Telemetry>,
}

/// On each level the one that counts, the farthest first: as in Istio the oldest.
#[derive(Debug)]
pub(super) struct Levels<'d>([Option<&'d Document>; 3]);

impl Document {
    /// `None` if the document is deleted or cannot be read.
    pub(super) fn new(id: &DocumentId, live: &Live) -> Option<Self> {
        let value = live.effective.as_ref()?;
        let document = value.document.as_ref().ok()?;
        let Spec::Telemetry(telemetry) = &document.spec else { return None };
        Some(Self { id: id.clone(), created: document.created.unwrap_or(value.time), telemetry: telemetry.clone() })
    }

    /// What it says.
    pub(super) fn telemetry(&self) -> &Telemetry {
        &self.telemetry
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

impl<'d> Levels<'d> {
    /// Of the documents of the workload's namespace and of the root namespace.
    pub(super) fn of(
        documents: impl Iterator<Item = &'d Document>,
        namespace: &str,
        labels: &BTreeMap<String, String>,
    ) -> Self {
        let mut levels: [Option<&Document>; 3] = [None; 3];
        for document in documents {
            let Some(level) = document.level(namespace, labels) else { continue };
            let age = |document: &Document| (document.created, document.id.name.clone());
            if levels[level].is_none_or(|known| age(document) < age(known)) {
                levels[level] = Some(document);
            }
        }
        Self(levels)
    }

    /// What they say; who comes later says over who comes before.
    pub(super) fn telemetries(&self) -> impl Iterator<Item = &'d Telemetry> {
        self.0.iter().flatten().map(|document| &*document.telemetry)
    }
}

#[cfg(test)]
pub(super) mod testing {
    use super::*;
    use crate::{Kind, kinds::MeshConfig, parse};

    pub(in crate::compile::workloads) fn document(
        namespace: &str,
        name: &str,
        created: Millis,
        spec: &str,
    ) -> Document {
        let text = format!(
            "apiVersion: telemetry.istio.io/v1\nkind: Telemetry\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}\n"
        );
        let parsed = parse::yaml("f", &text, "default");
        assert!(!parsed.problems.iter().any(crate::Problem::refuses), "{:#?}", parsed.problems);
        let Spec::Telemetry(telemetry) = &parsed.documents[0].document.spec else { panic!("another kind") };
        let id = DocumentId::new(Kind::Telemetry, namespace, name);
        Document { id, created, telemetry: telemetry.clone() }
    }

    pub(in crate::compile::workloads) fn config(spec: &str) -> MeshConfig {
        let text = format!("apiVersion: skein.dev/v1\nkind: MeshConfig\nmetadata: {{name: default}}\nspec: {spec}\n");
        let parsed = parse::yaml("f", &text, "default");
        assert!(!parsed.problems.iter().any(crate::Problem::refuses), "{:#?}", parsed.problems);
        let Spec::MeshConfig(config) = &parsed.documents[0].document.spec else { panic!("another kind") };
        MeshConfig::clone(config)
    }
}
