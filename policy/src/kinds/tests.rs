//! The documentation of Skein's own kinds, `KINDS.md`, says what is true.

use super::MeshConfig;
use crate::{Kind, Severity, Spec, parse};

const TEXT: &str = include_str!("../../KINDS.md");

/// The blocks between fences.
fn examples() -> Vec<&'static str> {
    let blocks = TEXT.split("```yaml\n").skip(1);
    blocks.map(|block| block.split_once("```").expect("a block has an end").0).collect()
}

#[test]
fn every_example_is_read() {
    let mut kinds = Vec::new();
    for example in examples() {
        let parsed = parse::yaml("KINDS.md", example, "default");
        let loud = |problem: &&crate::Problem| {
            problem.severity == Severity::Error || problem.code == crate::codes::NOT_SUPPORTED
        };
        assert_eq!(parsed.problems.iter().find(loud), None, "{example}");
        kinds.extend(parsed.documents.iter().map(|located| located.document.id.kind));
    }
    // Two speak of external authorisers.
    let asked = [Kind::MeshConfig, Kind::AuthorizationPolicy];
    let own = [Kind::MeshConfig, Kind::RoleSet, Kind::NodeGrant, Kind::Revocation];
    assert_eq!(kinds, [&[Kind::RateLimit][..], &asked, &own].concat());
}

#[test]
fn the_defaults_written_out_are_the_defaults() {
    let example = examples().into_iter().find(|example| example.contains("certificates:")).unwrap();
    let parsed = parse::yaml("KINDS.md", example, "default");
    let Spec::MeshConfig(config) = &parsed.documents[0].document.spec else { panic!("another kind") };
    assert_eq!(**config, MeshConfig::default());
}
