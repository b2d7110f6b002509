//! Text -> documents, with file, line and column of every complaint. Also the strict JSON that is signed, and back.

use crate::{Document, DocumentId, Problem, kinds::KubernetesObject};

/// What a file holds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Parsed {
    /// Documents without errors.
    pub documents: Vec<Located>,
    /// Objects of Kubernetes: facts for lint, refused by push.
    pub kubernetes: Vec<KubernetesObject>,
    /// Every complaint, warnings included.
    pub problems: Vec<Problem>,
}

/// A document and where it came from.
#[derive(Debug, Clone, PartialEq)]
pub struct Located {
    /// The document.
    pub document: Document,
    /// The strict JSON that is signed; its lines are those of the source, so that nodes can name them.
    pub json: String,
    /// Line of the document's first token, from 1.
    pub line: usize,
    /// The file as the caller named it.
    pub file: String,
}

impl Parsed {
    /// True if no complaint is an error.
    pub fn is_valid(&self) -> bool {
        self.problems.iter().all(|problem| problem.severity != crate::Severity::Error)
    }
}

/// Reads YAML or JSON: any number of documents, lists (`kind: List`) included. Strict: unknown fields are errors.
pub fn yaml(_file: &str, _text: &str, _default_namespace: &str) -> Parsed {
    todo!()
}

/// Reads a signed body: what a node does with a change.
///
/// # Errors
/// Every error of the document; also if it is not the document that `id` says.
pub fn json(_id: &DocumentId, _json: &str) -> Result<Document, Vec<Problem>> {
    todo!()
}

/// The compact form of a signed body: two bodies with the same meaning (but for lines) have the same one. `None` if it is not JSON.
pub fn compact(_json: &str) -> Option<String> {
    todo!()
}
