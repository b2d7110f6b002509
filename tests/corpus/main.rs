//! Istio's own documents and verdicts, read in place. Skips with a message where the corpus is absent.

#![expect(clippy::print_stdout, reason = "the counts are what a reader of the log wants")]

mod schema;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use policy::{Problem, Severity, codes, parse};

/// `SKEIN_CORPUS`, or `shared/istio/corpus` beside the workspace.
fn corpus() -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/istio/corpus");
    let root = std::env::var_os("SKEIN_CORPUS").map_or(beside, PathBuf::from);
    if root.is_dir() {
        return Some(root);
    }
    println!("skipped: {} is absent (set SKEIN_CORPUS)", root.display());
    None
}

fn errors(parsed: &parse::Parsed) -> Vec<&Problem> {
    parsed.problems.iter().filter(|problem| problem.severity == Severity::Error).collect()
}

/// Kinds that have no place here, or are not policy.
fn only_foreign(errors: &[&Problem]) -> bool {
    errors.iter().all(|problem| [codes::KIND_REFUSED, codes::UNKNOWN_KIND].contains(&problem.code))
}

#[test]
fn every_sample_is_accepted_or_of_a_kind_without_a_place_here() {
    let Some(root) = corpus() else { return };
    let (mut accepted, mut refused, mut foreign) = (0, 0, 0);
    for folder in ["samples", "reference", "config"] {
        let mut files: Vec<PathBuf> =
            std::fs::read_dir(root.join(folder)).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        for file in files {
            let name = format!("{folder}/{}", file.file_name().unwrap().to_string_lossy());
            let text = std::fs::read_to_string(&file).unwrap();
            let parsed = parse::yaml(&name, &text, "default");
            accepted += parsed.documents.len();
            foreign += parsed.kubernetes.len();
            let mut by_document: BTreeMap<Option<&str>, Vec<&Problem>> = BTreeMap::new();
            for problem in errors(&parsed) {
                by_document.entry(problem.document.as_deref()).or_default().push(problem);
            }
            for (document, problems) in by_document {
                let expected = only_foreign(&problems);
                assert!(expected || folder != "samples", "{name} {document:?}: {problems:#?}");
                if !expected {
                    println!("{name} {document:?}: {}", problems[0]);
                }
                assert!(problems.iter().all(|problem| problem.line > 0 && problem.column > 0), "{name}: {problems:#?}");
                refused += 1;
            }
        }
    }
    println!("samples, reference and config: {accepted} accepted, {refused} refused, {foreign} of Kubernetes");
    assert!(accepted > 20);
}

/// Kinds whose verdicts are compared.
const JUDGED: &[&str] = &["VirtualService", "DestinationRule"];

/// Cases on which we differ from Istio, and why.
const DIFFERING: &[(&str, &str)] = &[];

#[test]
fn verdicts_are_istios() {
    let Some(root) = corpus() else { return };
    let table = std::fs::read_to_string(root.join("validation/verdicts.tsv")).unwrap();
    let mut judged: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    let mut wrong: Vec<String> = Vec::new();
    for row in table.lines().skip(1) {
        let columns: Vec<&str> = row.split('\t').collect();
        let (file, kind, verdict, confidence) = (columns[0], columns[1], columns[2], columns[9]);
        if !JUDGED.contains(&kind) || !matches!(confidence, "direct" | "wrapped") {
            continue;
        }
        let text = std::fs::read_to_string(root.join("validation").join(file)).unwrap();
        let parsed = parse::yaml(file, &text, "default");
        let errors = errors(&parsed);
        let counts = judged.entry(kind).or_default();
        counts.1 += 1;
        if errors.is_empty() == (verdict == "valid") {
            counts.0 += 1;
        } else if !DIFFERING.iter().any(|(known, _)| *known == file) {
            wrong.push(format!("{file}: {verdict}, yet {errors:?}"));
        }
    }
    println!("verdicts, agreed of all: {judged:?}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_is_accepted_survives_signing() {
    let Some(root) = corpus() else { return };
    let mut count = 0;
    let folders = ["samples", "reference", "config"].into_iter().map(|folder| root.join(folder));
    let cases = std::fs::read_dir(root.join("validation")).unwrap().map(|entry| entry.unwrap().path());
    for folder in folders.chain(cases.filter(|path| path.is_dir())) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let file = entry.unwrap().path();
            let Ok(text) = std::fs::read_to_string(&file) else { continue };
            let parsed = parse::yaml("f", &text, "default");
            let unbuilt =
                |id: &str| parsed.problems.iter().any(|one| one.is_unbuilt() && one.document.as_deref() == Some(id));
            for located in parsed.documents.iter().filter(|located| !unbuilt(&located.document.id.to_string())) {
                let again = parse::json(&located.document.id, &located.json).unwrap_or_else(|problems| {
                    panic!("{}: {problems:#?}", file.display());
                });
                assert_eq!((&again.id, again.line), (&located.document.id, located.line), "{}", file.display());
                count += 1;
            }
        }
    }
    println!("{count} documents survive");
}
