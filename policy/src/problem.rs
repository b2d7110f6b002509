//! A complaint about a document: what, where, how to mend it.

use serde::Serialize;

/// How bad a [`Problem`] is. Only an error within a document makes the document invalid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The document is refused.
    Error,
    /// The document is accepted, and probably not what its author meant.
    Warning,
    /// Worth knowing.
    Info,
}

/// A complaint about a document. Serialises as an entry of `policy lint -o json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Stable code, see [`crate::codes`].
    pub code: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// `KIND NAMESPACE/NAME`, where it is known.
    pub document: Option<String>,
    /// The file as it was named by the caller; `-` for standard input, empty for a signed body.
    #[serde(skip)]
    pub file: String,
    /// Line, from 1; 0 if the problem has no place.
    pub line: usize,
    /// Column in characters, from 1; 0 if the problem has no place.
    pub column: usize,
    /// Path of the field, e.g. `spec.http[0].route[1].weight`.
    pub field: String,
    /// What is wrong.
    pub message: String,
    /// How to mend it; may be empty.
    pub hint: String,
    /// What Istio's own validation says, where it has a message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub istio_message: Option<String>,
}

impl Problem {
    /// True if it speaks of something that is valid and that this build does not apply yet.
    pub fn is_unbuilt(&self) -> bool {
        self.code == crate::codes::NOT_SUPPORTED
    }

    /// True if no node takes the document: it is not valid, or this build could not apply all of it.
    pub fn refuses(&self) -> bool {
        self.severity == Severity::Error || self.is_unbuilt()
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.line > 0 {
            write!(f, "{}:{}:{}: ", self.file, self.line, self.column)?;
        }
        write!(f, "{} ", self.code)?;
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.message)?;
        if !self.hint.is_empty() {
            write!(f, " ({})", self.hint)?;
        }
        Ok(())
    }
}
