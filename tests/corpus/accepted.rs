//! Istio's own documents are accepted, wherever they stand.

use policy::{Kind, parse};

use crate::{corpus, errors};

/// Folders of documents that Istio itself takes.
const FOLDERS: [&str; 7] = ["samples", "reference", "config", "embedded", "authz", "scenarios", "simulation"];
/// What the index says of a file that need not be valid.
const EXCUSES: [&str; 3] = ["may be invalid on purpose", "has no field named", "rendered from a Go template"];

#[test]
fn every_document_is_accepted() {
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
        // Scenarios hold more than documents, and documents of kinds without a place here.
        let of_a_kind = |document: Option<&str>| {
            document.is_some_and(|label| label.split(' ').next().is_some_and(|word| word.parse::<Kind>().is_ok()))
        };
        let ours = errors(&parsed).into_iter().filter(|problem| of_a_kind(problem.document.as_deref()));
        let refused: Vec<String> = ours.map(ToString::to_string).collect();
        accepted += parsed.documents.len();
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
    println!("{accepted} accepted, {excused} files refused that need not be valid");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(accepted > 20);
}
