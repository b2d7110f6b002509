//! Istio's own documents and verdicts, read in place. Skips with a message where the corpus is absent.

#![expect(clippy::print_stdout, reason = "the counts are what a reader of the log wants")]

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

/// Refused because this build lacks something, and nothing else.
fn only_unbuilt(errors: &[&Problem]) -> bool {
    let unbuilt = [codes::NOT_SUPPORTED, codes::KIND_NOT_SUPPORTED, codes::KIND_REFUSED];
    !errors.is_empty() && errors.iter().all(|problem| unbuilt.contains(&problem.code))
}

#[test]
fn every_sample_is_accepted_or_not_supported_yet_by_name() {
    let Some(root) = corpus() else { return };
    let (mut accepted, mut unbuilt, mut foreign) = (0, 0, 0);
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
                let expected =
                    only_unbuilt(&problems) || problems.iter().all(|problem| problem.code == codes::UNKNOWN_KIND);
                assert!(expected || folder != "samples", "{name} {document:?}: {problems:#?}");
                if !expected {
                    println!("{name} {document:?}: {}", problems[0]);
                }
                assert!(problems.iter().all(|problem| problem.line > 0 && problem.column > 0), "{name}: {problems:#?}");
                unbuilt += 1;
            }
        }
    }
    println!("samples, reference and config: {accepted} accepted, {unbuilt} refused, {foreign} of Kubernetes");
    assert!(accepted > 20);
}

#[test]
fn verdicts_on_virtual_services_and_destination_rules() {
    let Some(root) = corpus() else { return };
    let table = std::fs::read_to_string(root.join("validation/verdicts.tsv")).unwrap();
    let (mut agreed, mut unbuilt) = (0, 0);
    let mut wrong: Vec<String> = Vec::new();
    for row in table.lines().skip(1) {
        let columns: Vec<&str> = row.split('\t').collect();
        let (file, kind, verdict, confidence) = (columns[0], columns[1], columns[2], columns[9]);
        if !matches!(kind, "VirtualService" | "DestinationRule") || !matches!(confidence, "direct" | "wrapped") {
            continue;
        }
        let text = std::fs::read_to_string(root.join("validation").join(file)).unwrap();
        let parsed = parse::yaml(file, &text, "default");
        let errors = errors(&parsed);
        if errors.is_empty() == (verdict == "valid") {
            agreed += 1;
        } else if verdict == "valid" && only_unbuilt(&errors) {
            unbuilt += 1;
        } else {
            wrong.push(format!("{file}: {verdict}, yet {errors:?}"));
        }
    }
    println!("verdicts: {agreed} agreed, {unbuilt} not supported yet, {} wrong", wrong.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_is_accepted_survives_signing() {
    let Some(root) = corpus() else { return };
    let mut count = 0;
    for folder in ["samples", "reference", "config", "validation/virtualservice", "validation/destinationrule"] {
        for entry in std::fs::read_dir(root.join(folder)).unwrap() {
            let file = entry.unwrap().path();
            let Ok(text) = std::fs::read_to_string(&file) else { continue };
            for located in parse::yaml("f", &text, "default").documents {
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
