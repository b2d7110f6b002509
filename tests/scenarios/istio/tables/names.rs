//! Names of meshes that `init` takes, and labels that services may have.

use harness::process::Output;

use super::{EDGE, Mesh, Seen, Tables, text};
use crate::skein;

/// Founds a mesh for each row of names, and looks at a service without labels.
pub(super) fn check(mesh: &Mesh, tables: &Tables, seen: &mut Seen) {
    for row in tables.rows("trust-domain-valid") {
        let said = init(text(row, "in"));
        let is_valid = text(row, "error").is_empty();
        let is_right = if is_valid { said.code == 0 } else { said.code == 2 };
        seen.row("trust-domain-valid", row, is_right, &format!("{said:?}"));
    }
    for row in tables.rows("labels-valid") {
        assert_eq!(text(row, "name"), "empty tags", "a new row: {row}");
        let endpoints = mesh.cluster.json(EDGE, &["endpoints"]);
        let found = endpoints.as_array().into_iter().flatten().find(|one| one["service"] == "b");
        let is_valid = found.is_some_and(|found| found["labels"].as_object().is_some_and(serde_json::Map::is_empty));
        seen.row("labels-valid", row, is_valid == (row["valid"] == true), &endpoints.to_string());
    }
}

/// `skein init` of a mesh with this name.
fn init(name: &str) -> Output {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let data = folder.path().join("data");
    std::fs::create_dir(&data).expect("it is ours");
    std::fs::set_permissions(&data, std::os::unix::fs::PermissionsExt::from_mode(0o700)).expect("it is ours");
    let config = format!("[node]\nname = \"first\"\ntrust_domain = {name:?}\ndata_dir = {data:?}\n");
    std::fs::write(folder.path().join("skein.toml"), config).expect("it is ours");
    let mut command = skein().command();
    command.current_dir(folder.path()).env("HOME", folder.path());
    command.args(["--config", "skein.toml", "--operator", "keys", "init", "--name", "first", "--", name]);
    let output = command.output().expect("skein can be started");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Output { code: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) }
}
