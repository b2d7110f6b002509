//! The rules of the house that a program can check.

mod rules;
mod samples;

use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests lies in the workspace").to_owned()
}

/// Every Rust file of the workspace: path from the root, text.
fn sources() -> Vec<(String, String)> {
    let mut found = Vec::new();
    for room in ["certs", "policy", "membership", "node", "tests"] {
        collect(&root().join(room), &mut found);
    }
    assert!(found.len() > 20, "the walk found {} files", found.len());
    found
}

fn collect(directory: &Path, found: &mut Vec<(String, String)>) {
    for entry in std::fs::read_dir(directory).expect("a room is a directory").map_while(Result::ok) {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).expect("sources are text");
            let name = path.strip_prefix(root()).expect("below the root").to_string_lossy().into_owned();
            found.push((name, text));
        }
    }
}

fn report(broken: &[String]) {
    assert!(broken.is_empty(), "{} broken:\n{}", broken.len(), broken.join("\n"));
}

#[test]
fn files_are_short_and_say_what_they_are() {
    report(&rules::shape(&sources()));
}

#[test]
fn rooms_do_not_import_what_they_must_not() {
    report(&rules::imports(&sources()));
}

#[test]
fn only_owners_name_what_they_own() {
    report(&rules::owners(&sources()));
}

#[test]
fn floor_plans_hold_no_code() {
    report(&rules::floor_plans(&sources()));
}

#[test]
fn no_stubs_no_notes_to_self() {
    report(&rules::stubs(&sources()));
}

#[test]
fn every_room_stands_in_the_architecture() {
    let text = std::fs::read_to_string(root().join("node/ARCHITECTURE.md")).expect("node/ARCHITECTURE.md");
    assert!(text.lines().count() <= 150, "ARCHITECTURE.md has more than 150 lines");
    report(&rules::rooms(&sources(), &text));
}

#[test]
fn manifests_keep_the_direction_of_dependencies() {
    let manifest = |room: &str| std::fs::read_to_string(root().join(room).join("Cargo.toml")).expect("a manifest");
    let forbidden = [
        ("certs", vec!["policy", "membership", "node", "tokio", "quinn"]),
        ("policy", vec!["membership", "node", "tokio", "quinn"]),
        ("membership", vec!["policy", "node", "quinn"]),
    ];
    let mut broken = Vec::new();
    for (room, names) in forbidden {
        let text = manifest(room);
        for line in text.lines() {
            let name = line.split(['.', ' ', '=']).next().unwrap_or("");
            if names.contains(&name) {
                broken.push(format!("{room}/Cargo.toml: must not depend on {name}"));
            }
        }
    }
    report(&broken);
}

#[test]
fn every_key_of_the_configuration_stands_in_its_page() {
    let read = |name: &str| std::fs::read_to_string(root().join(name)).expect("it is there");
    report(&rules::configuration(&read("node/src/config/raw.rs"), &read("node/docs/configuration.md")));
}
