//! Lint between the documents of files, which knows of the mesh what Kubernetes objects beside them say.

use std::collections::HashMap;

use policy::{
    DocumentId, Problem, Severity,
    history::State,
    parse::{Located, twin},
    validate::{self, Facts},
};

use super::source::Source;
use crate::clock;

/// Adds the complaints between documents, each to the file that it is about; without those that their authors silenced.
pub(super) fn judge(sources: &mut [Source]) {
    let facts = Facts::new(sources.iter().flat_map(|source| source.parsed.kubernetes.iter().cloned()));
    let documents: Vec<Located> = sources.iter().flat_map(|source| source.parsed.documents.iter().cloned()).collect();
    let mut problems = validate::between(&documents, &State::nothing(), &facts);
    // A file may be kept for longer than what it says holds: only who pushes it is refused.
    problems.extend(validate::ended(&documents, clock::wall()).into_iter().map(|problem| Problem {
        severity: Severity::Warning,
        message: "the end has passed by this machine's clock: push refuses the document".to_owned(),
        ..problem
    }));
    let hint = "push refuses them together: name one file at a time";
    problems.extend(twins(documents.iter(), Severity::Info, hint));
    for problem in problems.into_iter().filter(|problem| !validate::is_silenced(problem, &documents)) {
        let home = sources.iter().position(|source| source.file == problem.file).unwrap_or(0);
        if let Some(source) = sources.get_mut(home) {
            source.parsed.problems.push(problem);
        }
    }
}

/// Documents that several files have: each may be meant, but no push takes them together.
pub(super) fn twins<'d>(documents: impl Iterator<Item = &'d Located>, severity: Severity, hint: &str) -> Vec<Problem> {
    let mut seen: HashMap<&DocumentId, &Located> = HashMap::new();
    let mut twins = Vec::new();
    for located in documents {
        let first = *seen.entry(&located.document.id).or_insert(located);
        // Twins within a file are that file's own error; a file that is named twice is not.
        let again = first.line == located.line && !std::ptr::eq(first, located);
        if first.file != located.file || again {
            twins.push(twin(located, &format!("in {}:{}", first.file, first.line), severity, hint));
        }
    }
    twins
}
