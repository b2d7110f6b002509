//! Lint between the documents of files, which knows of the mesh what Kubernetes objects beside them say.

use policy::{
    Problem, Severity,
    history::State,
    parse::Located,
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
    for problem in problems.into_iter().filter(|problem| !validate::is_silenced(problem, &documents)) {
        let home = sources.iter().position(|source| source.file == problem.file).unwrap_or(0);
        if let Some(source) = sources.get_mut(home) {
            source.parsed.problems.push(problem);
        }
    }
}
