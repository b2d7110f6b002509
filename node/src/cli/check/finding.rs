//! How a check came out.

use serde::Serialize;

use super::list;
use crate::cli::{error::Error, output::plain};

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Verdict {
    /// Something does not work, or soon will not.
    Error,
    /// Something needs a look.
    Warning,
    /// Well.
    Ok,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    /// The check's stable name.
    pub(super) id: &'static str,
    /// Its group.
    pub(super) check: &'static str,
    /// How it came out.
    pub(super) verdict: Verdict,
    /// What is wrong, in a stable word; empty if nothing is.
    pub(super) code: String,
    /// What was found.
    pub(super) message: String,
    /// What to do.
    pub(super) hint: String,
}

impl Finding {
    /// It is well.
    pub(super) fn fine(id: &'static str, message: impl Into<String>) -> Self {
        Self {
            id,
            check: group(id),
            verdict: Verdict::Ok,
            code: String::new(),
            message: message.into(),
            hint: String::new(),
        }
    }

    /// It is not, and the check's own hint says what to do; the code is the check's name.
    pub(super) fn amiss(id: &'static str, verdict: Verdict, message: impl Into<String>) -> Self {
        let hint = list::known(id).map(|check| check.hint).unwrap_or_default();
        let (code, message) = (id.replace('.', "_"), message.into());
        Self { id, check: group(id), verdict, code, message, hint: hint.to_owned() }
    }

    /// As somebody else found it, who says what to do.
    pub(super) fn of(id: &'static str, verdict: Verdict, error: &Error) -> Self {
        let Error { code, message, hint } = error.clone();
        Self { id, check: group(id), verdict, code: code.into_owned(), message, hint }
    }

    /// The same under another code.
    pub(super) fn coded(self, code: &str) -> Self {
        Self { code: code.to_owned(), ..self }
    }

    /// For people.
    pub(super) fn text(&self) -> String {
        let word = match self.verdict {
            Verdict::Error => "error",
            Verdict::Warning => "warning",
            Verdict::Ok => return format!("ok       {}: {}\n", self.id, plain(&self.message)),
        };
        let hint = if self.hint.is_empty() { String::new() } else { format!("         hint: {}\n", plain(&self.hint)) };
        format!("{word:<8} {}: {} [{}]\n{hint}", self.id, plain(&self.message), self.code)
    }
}

fn group(id: &'static str) -> &'static str {
    id.split('.').next().unwrap_or(id)
}

/// Warns unless `well`.
pub(super) fn warn_unless(well: bool, id: &'static str, message: String) -> Finding {
    if well { Finding::fine(id, message) } else { Finding::amiss(id, Verdict::Warning, message) }
}

/// The names of those that are not well, and how: for tests.
#[cfg(test)]
pub(super) fn not_well(findings: &[Finding]) -> Vec<(&'static str, Verdict)> {
    findings.iter().filter(|one| one.verdict != Verdict::Ok).map(|one| (one.id, one.verdict)).collect()
}
