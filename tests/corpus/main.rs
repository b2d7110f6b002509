//! Istio's own documents and verdicts, read in place. Skips with a message where the corpus is absent.

#![expect(clippy::print_stdout, reason = "the counts are what a reader of the log wants")]

mod accepted;
#[cfg(test)]
mod analysis;
#[cfg(test)]
mod outlier;
#[cfg(test)]
mod rbac;
mod schema;
#[cfg(test)]
mod security;
#[cfg(test)]
mod sidecars;
mod tables;

use std::{collections::BTreeMap, path::PathBuf};

use harness::corpus::Verdicts;
use policy::{Problem, Severity, codes, parse};

/// The corpus, if it is there.
fn corpus() -> Option<PathBuf> {
    let root = harness::corpus::root();
    if root.is_none() {
        println!("skipped: shared/istio/corpus is not beside the workspace (set SKEIN_CORPUS)");
    }
    root
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

#[test]
fn verdicts_are_istios() {
    let Some(root) = corpus() else { return };
    let verdicts = Verdicts::of(&root);
    println!("verdicts, agreed of all: {:?}", verdicts.by_kind);
    assert!(verdicts.wrong.is_empty(), "{}", verdicts.wrong.join("\n"));
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

#[test]
fn hosts_of_a_gateway_are_istios() {
    let Some(root) = corpus() else { return };
    let table = std::fs::read_to_string(root.join("tables/gateway-hosts-for-namespace.json")).unwrap();
    let rows: Vec<serde_json::Value> = serde_json::from_str(&table).unwrap();
    assert!(!rows.is_empty());
    for row in rows {
        let server =
            serde_json::json!({"port": {"number": 80, "name": "http", "protocol": "HTTP"}, "hosts": row["hosts"]});
        let document = serde_json::json!({
            "apiVersion": "networking.istio.io/v1",
            "kind": "Gateway",
            "metadata": {"name": "edge"},
            "spec": {"servers": [server]},
        });
        let parsed = parse::yaml("table", &document.to_string(), "default");
        let policy::Spec::Gateway(gateway) = &parsed.documents[0].document.spec else { panic!("{parsed:?}") };
        let hosts: Vec<&str> = gateway.servers[0].hosts_for(row["namespace"].as_str().unwrap()).collect();
        assert_eq!(serde_json::json!(hosts), row["want"], "{row}");
    }
}
