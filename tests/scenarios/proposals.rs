//! Two operators must sign: the first proposes at one node, the second signs at another, and from then on it holds on all.

use harness::{PATIENCE, cluster::Cluster, eventually};
use serde_json::{Value, json};

use crate::{reviews, subsets, written};

/// A second operator's directory: the first one's, with a key of its own. Gives the directory and the public key.
pub(crate) fn second_operator(cluster: &Cluster) -> (String, String) {
    let dir = cluster.path().join("bob");
    std::fs::create_dir(&dir).expect("the temporary directory is writable");
    for file in ["bundle.pem", "mesh.toml"] {
        std::fs::copy(cluster.operator().join(file), dir.join(file)).expect("copied");
    }
    let key = certs::sign::SigningKey::generate();
    let file = dir.join("operator.key");
    std::fs::write(&file, key.to_pem().as_bytes()).expect("written");
    for (path, mode) in [(&dir, 0o700), (&file, 0o600)] {
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).expect("it is ours");
    }
    (dir.to_string_lossy().into_owned(), key.public().to_string())
}

/// Both must sign what is pushed to `shop`; the first alone still replaces the RoleSet and invites.
fn ask_for_two(cluster: &Cluster, bob: &str) {
    let mut set = cluster.json("web", &["policy", "get", "RoleSet", "default", "-n", "istio-system"]);
    let first = set["spec"]["roles"][0]["keys"][0].clone();
    set["spec"].as_object_mut().expect("a spec").remove("bundle");
    set["spec"]["keys"].as_array_mut().expect("keys").push(json!({"name": "bob", "publicKey": bob}));
    set["spec"]["roles"] = json!([
        {"name": "admin", "keys": [first], "threshold": 1, "namespaces": ["*"], "kinds": ["*"],
         "verbs": ["view", "invite", "evict", "roles"]},
        {"name": "shop", "keys": [first, "bob"], "threshold": 2, "namespaces": ["shop"], "kinds": ["*"],
         "verbs": ["view", "push"]},
    ]);
    set["spec"]["keeps"] = json!([]);
    cluster.push("web", &set.to_string(), &["--wait", "all"]).expect_code(0);
}

fn proposals(cluster: &Cluster, name: &str) -> Vec<Value> {
    cluster.json(name, &["policy", "proposals"]).as_array().cloned().unwrap_or_default()
}

fn versions(cluster: &Cluster, name: &str) -> usize {
    let list = cluster.json(name, &["policy", "list", "DestinationRule"]);
    list.as_array().map_or(0, Vec::len)
}

#[test]
fn a_proposal_holds_with_the_last_signature_and_not_before() {
    let mut cluster = reviews(&["v1"]);
    let (bob_dir, bob_key) = second_operator(&cluster);
    ask_for_two(&cluster, &bob_key);
    let pushed = cluster.push("web", &subsets(&["v1"]), &["--wait", "all", "-m", "name it"]).expect_code(0).json();
    assert_eq!(
        (&pushed["proposal"], &pushed["missing"]),
        (&json!(true), &json!([{"count": 1, "of": ["bob"]}])),
        "{pushed}"
    );
    assert_eq!((pushed["durable"].as_array().map(Vec::len), &pushed["applied"]), (Some(2), &json!([])), "{pushed}");
    let id = pushed["changeset"].as_str().expect("an id").to_owned();
    let waiting = proposals(&cluster, "reviews-v1");
    assert_eq!(
        (waiting.len(), &waiting[0]["changeset"], &waiting[0]["stale"]),
        (1, &json!(id), &Value::Null),
        "{waiting:?}"
    );
    written("policy proposals", &Value::from(waiting));
    assert_eq!(versions(&cluster, "web"), 0, "it is not in effect");
    let noted = |kind: &str, subject: &str| {
        let events = cluster.json("web", &["events"]);
        let all = events.as_array().into_iter().flatten();
        all.filter(|event| event["kind"] == kind && event["subject"] == subject).count()
    };
    assert_eq!((noted("policy_proposed", &id), noted("policy_applied", &id)), (1, 0), "nor is it said to be");
    // It outlives a crash, and its author cannot sign twice.
    cluster.kill("web");
    cluster.run("web");
    cluster.wait_members(PATIENCE);
    assert_eq!(proposals(&cluster, "web").len(), 1);
    let again = cluster.on("web", &["policy", "sign", &id, "-o", "json"]).expect_code(5);
    assert_eq!(again.error()["error"]["code"], "already_exists");
    let bob = ["--operator", bob_dir.as_str(), "-o", "json"];
    let sign = |node: &str, id: &str| cluster.on(node, &[&["policy", "sign", id, "--wait", "all"], &bob[..]].concat());
    let signed = sign("reviews-v1", &id[..12]).expect_code(0).json();
    assert_eq!((&signed["changeset"], signed["applied"].as_array().map(Vec::len)), (&json!(id), Some(2)), "{signed}");
    assert!(signed.get("proposal").is_none(), "nobody is missing: {signed}");
    written("policy sign", &signed);
    for name in ["web", "reviews-v1"] {
        assert_eq!((versions(&cluster, name), proposals(&cluster, name).len()), (1, 0), "{name}");
    }
    let log = cluster.json("web", &["policy", "log"]);
    let entry = log.as_array().and_then(|log| log.iter().find(|entry| entry["changeset"] == json!(id)).cloned());
    let authors = entry.map(|entry| entry["authors"].as_array().map_or(0, Vec::len));
    assert_eq!(authors, Some(2), "{log}");
    assert_ne!(sign("web", &id).code, 0, "it counts already");
}

#[test]
fn a_proposal_whose_ground_has_moved_is_not_signed() {
    let cluster = reviews(&["v1"]);
    let (bob_dir, bob_key) = second_operator(&cluster);
    ask_for_two(&cluster, &bob_key);
    let propose = |label: &str| {
        let pushed = cluster.push("web", &subsets(&["v1"]).replace("name: v1", &format!("name: {label}")), &[]);
        pushed.expect_code(0).json()["changeset"].as_str().expect("an id").to_owned()
    };
    let (first, second) = (propose("one"), propose("two"));
    let sign =
        |id: &str| cluster.on("web", &["policy", "sign", id, "--operator", &bob_dir, "-o", "json", "--wait", "all"]);
    sign(&second).expect_code(0);
    let refused = sign(&first).expect_code(5);
    assert_eq!(refused.error()["error"]["code"], "stale_parent");
    eventually("the list says so", || {
        let waiting = proposals(&cluster, "reviews-v1");
        let stale = waiting.first().is_some_and(|proposal| proposal["stale"].is_string());
        if stale { Ok(()) } else { Err(format!("{waiting:?}")) }
    });
}
