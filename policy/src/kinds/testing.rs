//! What the tests of several kinds share.

use crate::{Problem, Spec, codes, parse};

fn parsed(kind: &str, spec: &str) -> parse::Parsed {
    let text = format!(
        "apiVersion: networking.istio.io/v1\nkind: {kind}\nmetadata: {{name: x, namespace: shop}}\nspec: {spec}\n"
    );
    parse::yaml("f.yaml", &text, "default")
}

/// Complaints about a document of the namespace `shop` whose spec begins on line 4, but for what is said of its kind.
pub(super) fn found(kind: &str, spec: &str) -> Vec<Problem> {
    let problems = parsed(kind, spec).problems;
    problems.into_iter().filter(|one| one.code != codes::KIND_NOT_SUPPORTED).collect()
}

/// The content of a valid document.
pub(super) fn spec_of(kind: &str, spec: &str) -> Spec {
    let mut parsed = parsed(kind, spec);
    assert!(parsed.is_valid(), "{:#?}", parsed.problems);
    parsed.documents.remove(0).document.spec
}
