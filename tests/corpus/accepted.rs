//! Istio's own documents of the kinds that are judged are accepted, wherever they stand.

use policy::parse;

use crate::{JUDGED, corpus, errors};

/// Folders of documents that Istio itself takes.
const FOLDERS: [&str; 6] = ["samples", "reference", "config", "embedded", "scenarios", "simulation"];
/// What the index says of a file that need not be valid.
const EXCUSES: [&str; 3] = ["may be invalid on purpose", "has no field named", "rendered from a Go template"];

#[test]
fn every_document_of_a_judged_kind_is_accepted() {
    let Some(root) = corpus() else { return };
    let index = std::fs::read_to_string(root.join("index.tsv")).unwrap();
    let (mut accepted, mut excused, mut wrong) = (0, 0, Vec::new());
    for row in index.lines().skip(1) {
        let columns: Vec<&str> = row.split('\t').collect();
        let (file, note) = (columns[0], columns.get(5).copied().unwrap_or_default());
        if !FOLDERS.iter().any(|folder| file.starts_with(folder)) || !(file.ends_with("yaml") || file.ends_with("yml"))
        {
            continue;
        }
        let text = std::fs::read_to_string(root.join(file)).unwrap();
        let parsed = parse::yaml(file, &text, "default");
        let judged = |document: Option<&str>| {
            document.is_some_and(|document| JUDGED.iter().any(|kind| document.starts_with(&format!("{kind} "))))
        };
        let judged_errors = errors(&parsed).into_iter().filter(|problem| judged(problem.document.as_deref()));
        let refused: Vec<String> = judged_errors.map(ToString::to_string).collect();
        accepted += parsed.documents.iter().filter(|one| JUDGED.contains(&one.document.id.kind.as_str())).count();
        if refused.is_empty() {
            continue;
        }
        // Some are templates that nobody filled in.
        if EXCUSES.iter().any(|excuse| note.contains(excuse)) || text.contains("{{.") {
            excused += 1;
        } else {
            wrong.push(format!("{file}: {}", refused.join("; ")));
        }
    }
    println!("of the judged kinds {accepted} accepted, {excused} files refused that need not be valid");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(accepted > 20);
}
