//! Keys and roots in an operator directory.

use std::os::unix::fs::PermissionsExt as _;

use certs::root::Root;

use super::*;

pub(super) fn known() -> Known {
    Known {
        trust_domain: TrustDomain::new("test.example").unwrap(),
        genesis: Digest([7; 32]),
        role_set: 0,
        out: Out::default(),
        nodes: vec![KnownNode { name: NodeId::new("a").unwrap(), addresses: vec!["127.0.0.1:15008".into()] }],
        later: toml::Table::new(),
    }
}

pub(super) fn founded(directory: &Directory) -> SigningKey {
    let operator = SigningKey::generate();
    let root = Root::generate(&known().trust_domain, crate::clock::wall()).to_pem();
    let keys = Keys { operator: &operator, recovery: &SigningKey::generate(), root: &root, bundle: "bundle" };
    directory.store_keys(&keys).unwrap();
    directory.store_known(&known()).unwrap();
    operator
}

#[test]
fn keys_are_private_and_come_back() {
    let temporary = tempfile::tempdir().unwrap();
    let directory =
        Directory { path: temporary.path().join("mesh"), recovery: false, passphrase: Passphrase::default() };
    let operator = founded(&directory);
    assert_eq!(directory.operator_key().unwrap().public(), operator.public());
    assert_eq!(directory.known().unwrap(), known());
    // The highest eviction stays.
    let evicted = NodeId::new("web-1").unwrap();
    [2, 3, 1].iter().for_each(|epoch| directory.note_out(|out| out.evict(evicted.clone(), *epoch)));
    assert_eq!(
        directory.known().unwrap(),
        Known { out: Out { evicted: [(evicted, 3)].into(), ..Out::default() }, ..known() }
    );
    let mode = |name: &str| fs::metadata(directory.path.join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!([mode(OPERATOR), mode(RECOVERY), mode(ROOT)], [0o600; 3]);
    assert_eq!(fs::metadata(&directory.path).unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn keys_lie_under_a_passphrase() {
    let temporary = tempfile::tempdir().unwrap();
    let word = temporary.path().join("word");
    fs::write(&word, "correct horse\n").unwrap();
    fs::set_permissions(&word, fs::Permissions::from_mode(0o600)).unwrap();
    let plain = Directory { path: temporary.path().join("mesh"), recovery: false, passphrase: Passphrase::default() };
    let sealed = plain.clone().under(Passphrase::of(Some(word.clone())));
    let operator = founded(&sealed);
    assert!(!fs::read_to_string(plain.path.join(OPERATOR)).unwrap().contains("BEGIN PRIVATE KEY"));
    assert_eq!(sealed.operator_key().unwrap().public(), operator.public());
    assert_eq!(plain.operator_key().err().unwrap().code, "no_passphrase");
    // Another command.
    let later = plain.under(Passphrase::of(Some(word.clone())));
    fs::write(&word, "wrong").unwrap();
    assert_eq!(later.operator_key().err().unwrap().code, "no_passphrase");
    fs::set_permissions(&word, fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(later.operator_key().err().unwrap().code, "key_permissions");
}

#[test]
fn keys_change_their_passphrase_all_together() {
    let temporary = tempfile::tempdir().unwrap();
    let file = |name: &str, word: &str| {
        let path = temporary.path().join(name);
        state_dir::write_private(&path, word.as_bytes()).unwrap();
        Passphrase::of(Some(path))
    };
    let (first, second) = (file("first", "correct horse"), file("second", "battery staple"));
    let path = temporary.path().join("mesh");
    let plain = Directory { path, recovery: false, passphrase: Passphrase::default() };
    let operator = founded(&plain);
    assert_eq!(plain.reseal(|| first.of_new_keys()).unwrap(), [OPERATOR, RECOVERY, ROOT]);
    assert_eq!(plain.operator_key().err().unwrap().code, "no_passphrase");
    assert_eq!(plain.clone().under(second.clone()).reseal(|| Ok(None)).err().unwrap().code, "no_passphrase");
    plain.clone().under(first.clone()).reseal(|| second.of_new_keys()).unwrap();
    let changed = plain.clone().under(second.clone());
    assert_eq!(changed.operator_key().unwrap().public(), operator.public());
    assert!(changed.lying_root(false).is_ok());
    // One of them under another passphrase: none changes.
    let sealed = fs::read_to_string(plain.path.join(OPERATOR)).unwrap();
    let foreign = seal(&SigningKey::generate().to_pem(), first.of_new_keys().unwrap().as_ref()).unwrap();
    plain.write(RECOVERY, foreign.as_bytes(), 0o600).unwrap();
    assert_eq!(changed.reseal(|| Ok(None)).err().unwrap().code, "no_passphrase");
    assert_eq!(fs::read_to_string(plain.path.join(OPERATOR)).unwrap(), sealed);
    fs::remove_file(plain.path.join(RECOVERY)).unwrap();
    assert_eq!(changed.reseal(|| Ok(None)).unwrap(), [OPERATOR, ROOT]);
    assert_eq!(plain.operator_key().unwrap().public(), operator.public());
    let mode = fs::metadata(plain.path.join(OPERATOR)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    fs::remove_dir_all(&plain.path).unwrap();
    assert_eq!(plain.reseal(|| Ok(None)).err().unwrap().code, "no_operator");
}

#[test]
fn an_operators_directory_is_there_whole_or_not_at_all() {
    let temporary = tempfile::tempdir().unwrap();
    let (path, key) = (temporary.path().join("ann"), SigningKey::generate());
    let directory = Directory { path: path.clone(), recovery: false, passphrase: Passphrase::default() };
    let unread = directory.clone().under(Passphrase::of(Some(temporary.path().join("no-word"))));
    assert_eq!(unread.store_operator(&key, "bundle", &known()).unwrap_err().code, "no_passphrase");
    assert!(!path.exists());
    // A folder stands where a file is to go.
    fs::create_dir_all(path.join(MESH)).unwrap();
    assert!(directory.store_operator(&key, "bundle", &known()).is_err());
    assert!(!path.join(OPERATOR).exists() && !path.join(BUNDLE).exists());
    fs::remove_dir(path.join(MESH)).unwrap();
    directory.store_operator(&key, "bundle", &known()).unwrap();
    assert_eq!(directory.operator_key().unwrap().public(), key.public());
}

#[test]
fn keys_are_never_overwritten() {
    let temporary = tempfile::tempdir().unwrap();
    let directory =
        Directory { path: temporary.path().to_path_buf(), recovery: false, passphrase: Passphrase::default() };
    founded(&directory);
    assert_eq!(directory.refuse_old_keys().unwrap_err().code, "already_exists");
}

#[test]
fn a_key_that_others_can_read_is_refused() {
    let temporary = tempfile::tempdir().unwrap();
    let directory =
        Directory { path: temporary.path().to_path_buf(), recovery: false, passphrase: Passphrase::default() };
    founded(&directory);
    let path = directory.path.join(OPERATOR);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let error = directory.operator_key().err().unwrap();
    assert_eq!(error.code, "key_permissions");
    assert_eq!(error.class().exit_code(), 1);
    assert!(error.hint.contains("chmod 600"), "{}", error.hint);
}

/// A bundle and a `mesh.toml` without a key: what is left where keys were moved away.
#[test]
fn a_further_operator_that_cannot_be_written_leaves_what_is_there() {
    let temporary = tempfile::tempdir().unwrap();
    let directory =
        Directory { path: temporary.path().join("mesh"), recovery: false, passphrase: Passphrase::default() };
    directory.make().unwrap();
    directory.write(BUNDLE, b"the old one", 0o644).unwrap();
    // Nothing can be written under that name.
    fs::create_dir(directory.path.join(MESH)).unwrap();
    directory.store_operator(&SigningKey::generate(), "the new one", &known()).unwrap_err();
    assert_eq!(directory.bundle().unwrap(), "the old one");
    fs::remove_dir(directory.path.join(MESH)).unwrap();
    directory.store_known(&known()).unwrap();
    directory.store_operator(&SigningKey::generate(), "the new one", &known()).unwrap();
    assert_eq!(directory.bundle().unwrap(), "the new one");
}

#[test]
fn known_nodes_follow_the_mesh_those_alive_first() {
    let temporary = tempfile::tempdir().unwrap();
    let directory =
        Directory { path: temporary.path().to_path_buf(), recovery: false, passphrase: Passphrase::default() };
    founded(&directory);
    let node = |name: &str, alive| api::KnownNode {
        name: NodeId::new(name).unwrap(),
        addresses: vec![format!("10.0.0.1:{}", name.len())],
        enroller: false,
        alive,
    };
    let mesh = api::Mesh { nodes: vec![node("dead", false), node("bb", true)], ..told(1) };
    directory.refresh(&known(), &mesh);
    let names: Vec<_> = directory.known().unwrap().nodes.iter().map(|node| node.name.to_string()).collect();
    assert_eq!(names, ["bb", "dead"]);
}

#[test]
fn what_a_later_skein_noted_is_read_past_and_stays() {
    let temporary = tempfile::tempdir().unwrap();
    let directory =
        Directory { path: temporary.path().to_path_buf(), recovery: false, passphrase: Passphrase::default() };
    founded(&directory);
    directory.note_out(|out| out.evict(NodeId::new("web-1").unwrap(), 2));
    let text = fs::read_to_string(directory.path.join(MESH)).unwrap();
    let text = format!("later = 1\n{text}latest = 2026-01-02T03:04:05Z\n\n[more]\nthan = [\"this\"]\n");
    directory.write(MESH, text.as_bytes(), 0o644).unwrap();
    let read = directory.known().unwrap();
    assert_eq!((&read.nodes, &read.out.evicted.len()), (&known().nodes, &1));
    // All that writes it.
    let node = api::KnownNode {
        name: NodeId::new("bb").unwrap(),
        addresses: vec!["10.0.0.1:1".into()],
        enroller: false,
        alive: true,
    };
    directory.refresh(&read, &api::Mesh { nodes: vec![node], ..told(1) });
    directory.note_out(|out| out.evict(NodeId::new("web-2").unwrap(), 1));
    directory.restore(&told(1)).unwrap();
    let kept: toml::Table = fs::read_to_string(directory.path.join(MESH)).unwrap().parse().unwrap();
    let written: toml::Table = text.parse().unwrap();
    assert_eq!([&kept["later"], &kept["more"]], [&written["later"], &written["more"]]);
    assert_eq!(kept["node"].as_array().unwrap().len(), 0);
    assert_eq!(directory.known().unwrap().out.evicted.len(), 2);
}

/// What a node says of the mesh at that RoleSet.
fn told(role_set: u64) -> api::Mesh {
    api::Mesh {
        out: Out::default(),
        trust_domain: known().trust_domain,
        node: NodeId::new("a").unwrap(),
        genesis: known().genesis,
        role_set,
        keys: Vec::new(),
        bundle: format!("of RoleSet {role_set}"),
        nodes: Vec::new(),
        joined: Vec::new(),
    }
}

#[test]
fn what_was_proved_is_not_taken_back_by_a_node_that_is_behind() {
    let temporary = tempfile::tempdir().unwrap();
    let directory =
        Directory { path: temporary.path().to_path_buf(), recovery: false, passphrase: Passphrase::default() };
    directory.restore(&told(1)).unwrap();
    let proved = Known { role_set: 7, ..known() };
    directory.store_known(&proved).unwrap();
    assert_eq!(directory.restore(&told(5)).unwrap_err().code, "unverified_node");
    assert_eq!((directory.known().unwrap(), directory.bundle().unwrap()), (proved.clone(), "of RoleSet 1".to_owned()));
    directory.restore(&told(8)).unwrap();
    assert_eq!(directory.known().unwrap(), Known { nodes: Vec::new(), ..proved }, "a word proves no RoleSet");
    assert_eq!(directory.bundle().unwrap(), "of RoleSet 8");
}
