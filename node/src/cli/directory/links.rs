//! Links that somebody else put into an operator directory.

use std::os::unix::fs::symlink;

use super::*;

#[test]
fn links_in_the_directory_lead_nowhere() {
    let above = tempfile::tempdir().unwrap();
    let (real, victim) = (above.path().join("real"), above.path().join("victim"));
    let directory =
        |path: &Path| Directory { path: path.to_path_buf(), recovery: false, passphrase: Passphrase::default() };
    fs::write(&victim, "untouched").unwrap();
    fs::create_dir(&real).unwrap();
    symlink(&victim, real.join(MESH)).unwrap();
    symlink(&victim, real.join(format!(".{MESH}.{}", std::process::id()))).unwrap();
    directory(&real).write(MESH, b"new", 0o644).unwrap();
    assert_eq!(fs::read_to_string(&victim).unwrap(), "untouched");
    assert_eq!(fs::read_to_string(real.join(MESH)).unwrap(), "new");
    assert!(!fs::symlink_metadata(real.join(MESH)).unwrap().is_symlink());
    let link = above.path().join("link");
    symlink(&real, &link).unwrap();
    assert!(directory(&link).write(BUNDLE, b"new", 0o644).is_err() && !real.join(BUNDLE).exists());
}
