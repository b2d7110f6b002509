//! The laptop with the operator's keys is gone: what was stored away is enough by itself, and what is public any node tells again.

use std::path::{Path, PathBuf};

use harness::{
    cluster::{Cluster, Plan, Service},
    eventually,
};

use crate::skein;

fn pair() -> Cluster {
    let cluster = Cluster::start(
        skein(),
        &[
            ("first", Plan::with([Service::client("shop/web")])),
            ("second", Plan::with([Service::version("shop/reviews", "v1")])),
        ],
    );
    cluster.wait_endpoints("shop/reviews", 1);
    cluster
}

/// A place for one file of the operator's directory.
fn stored(cluster: &Cluster, place: &str, name: &str) -> PathBuf {
    let place = cluster.path().join(place);
    std::fs::create_dir(&place).expect("the temporary directory is writable");
    std::fs::copy(cluster.operator().join(name), place.join(name)).expect("init wrote it");
    place
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[test]
fn each_key_that_was_stored_away_is_enough_without_the_laptop() {
    let cluster = pair();
    let (vault, safe) = (stored(&cluster, "vault", "root.key"), stored(&cluster, "safe", "recovery.key"));
    std::fs::remove_dir_all(cluster.operator()).expect("the laptop is gone");
    let (vault, safe, ann) = (text(&vault), text(&safe), text(&cluster.path().join("ann")));
    // What is missing is named, with what writes it.
    let refused = cluster.on("first", &["operator", "new", &ann, "--operator", &safe, "-o", "json"]).error();
    let hint = refused["error"]["hint"].as_str().expect("a hint").to_owned();
    assert!(refused["error"]["code"] == "no_operator" && hint.contains("skein operator restore"), "{refused}");
    let restored = cluster.json("second", &["operator", "restore", &safe]);
    assert_eq!(restored["node"], "second", "{restored}");
    let mesh = std::fs::read_to_string(Path::new(&safe).join("mesh.toml")).expect("it was written");
    assert!(mesh.contains(restored["genesis"].as_str().expect("the mesh's")), "{mesh}");

    // From a machine that is no node: over the mesh port.
    let node = cluster.node("second").address("mesh").to_string();
    let by = |words: &[&str], dir: &str| {
        let mut command = skein().command();
        command.env("HOME", cluster.path()).args(words).args(["--operator", dir, "--node", &node, "-o", "json"]);
        let output = command.output().expect("skein can be started");
        assert!(output.status.success(), "{words:?}: {output:?}");
        serde_json::from_slice::<serde_json::Value>(&output.stdout).expect("JSON")
    };
    let made = by(&["operator", "new", &ann], &safe);
    let key = made["public_key"].as_str().expect("a key").to_owned();
    by(&["operator", "add", "ann", &key, "--recovery"], &safe);
    by(&["operator", "remove", "operator", "--recovery"], &safe);
    let keys = by(&["operator", "list"], &ann).to_string();
    assert!(keys.contains("ann") && !keys.contains("\"operator\""), "{keys}");

    // A further enroller: the grant by the new operator, the certificate by the root's key alone.
    let promoted = cluster.on("first", &["ca", "promote", "second", "--operator", &ann, "-o", "json"]);
    let error = promoted.error();
    let hint = error["error"]["hint"].as_str().expect("a hint").to_owned();
    assert!(promoted.code == 2 && error["error"]["code"] == "no_root", "{error}");
    for word in ["on second: skein ca csr", "skein ca sign second.csr", "renew --certificate second.pem", "--root-key"]
    {
        assert!(hint.contains(word), "{word}: {hint}");
    }
    let request = text(&cluster.file("second.csr", &cluster.on("second", &["ca", "csr"]).expect_code(0).out));
    let signed = cluster.on("first", &["ca", "sign", &request, "--operator", &vault]).expect_code(0).out;
    let certificate = text(&cluster.file("second.pem", &signed));
    cluster.on("second", &["ca", "renew", "--certificate", &certificate]).expect_code(0);
    eventually("both enrol", || {
        let status = cluster.json("first", &["status", "--operator", &ann]);
        if status["certificates"]["enrollers"] == 2 { Ok(()) } else { Err(status.to_string()) }
    });
}

#[test]
fn the_roots_key_is_named_where_it_lies() {
    let cluster = pair();
    let vault = stored(&cluster, "vault", "root.key");
    std::fs::remove_file(cluster.operator().join("root.key")).expect("it is there");
    let root = text(&vault.join("root.key"));
    let absent = cluster.on("first", &["ca", "promote", "second", "--root-key", "/nowhere/root.key", "-o", "json"]);
    assert_eq!(absent.error()["error"]["code"], "no_root", "{absent:?}");
    // Nothing was granted.
    let detail = cluster.json("first", &["members", "second"]);
    assert_eq!(detail["grant"]["enroller"], false, "{detail}");
    cluster.on("first", &["ca", "promote", "second", "--root-key", &root]).expect_code(0);
    cluster.on("first", &["ca", "renew", "first", "--root-key", &root]).expect_code(0);
}

#[test]
fn a_node_of_another_mesh_restores_nothing() {
    let cluster = pair();
    let other = Cluster::start(skein(), &[("first", Plan::default())]);
    let dir = text(&cluster.operator());
    let before = std::fs::read_to_string(cluster.operator().join("mesh.toml")).expect("init wrote it");
    let refused = other.on("first", &["operator", "restore", &dir, "-o", "json"]);
    assert_eq!(refused.error()["error"]["code"], "wrong_trust_domain", "{refused:?}");
    assert_eq!(std::fs::read_to_string(cluster.operator().join("mesh.toml")).expect("it is there"), before);
}

#[test]
fn where_the_only_enroller_is_lost_another_node_takes_its_place() {
    let mut cluster = pair();
    cluster.kill("first");
    let status = eventually("the second misses it", || {
        let status = cluster.json("second", &["status"]);
        if status["certificates"]["enrollers"] == 0 { Ok(status) } else { Err(status.to_string()) }
    });
    let problems = status["problems"].as_array().expect("a list");
    let told = problems.iter().find(|one| one["code"] == "no_enroller").expect("it is said");
    let refused = cluster.on("second", &["invite", "third", "--no-service", "-o", "json"]).error();
    assert_eq!(refused["error"]["code"], "not_an_enroller", "{refused}");
    for hint in [&told["hint"], &refused["error"]["hint"]] {
        assert!(hint.as_str().is_some_and(|hint| hint.contains("skein ca promote NODE")), "{hint}");
    }
    let members = cluster.json("second", &["members", "--all"]);
    let marked = |name: &str| {
        members.as_array().and_then(|all| all.iter().find(|one| one["name"] == name)).map(|one| one["enroller"] == true)
    };
    assert_eq!((marked("first"), marked("second")), (Some(true), Some(false)), "{members}");
    cluster.on("second", &["ca", "promote", "second"]).expect_code(0);
    let token = cluster.on("second", &["invite", "third", "--no-service"]).expect_code(0).out;
    cluster.prepare_only("third", &Plan::default());
    cluster.join_with("third", &token).expect_code(0);
}
