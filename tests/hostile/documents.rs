//! Policy that should not hold (A72-A83): spoilt, replayed, unauthorised, too large, withheld, edited on disk.
//!
//! Every node judges by `History::insert`, whoever brings the bytes, so most cases are proved on the library: what it refuses, no
//! node keeps. Those about disks run real processes. `tests/sim` does all of this at random in a mesh of many nodes.

mod mesh;

use std::collections::BTreeSet;

use certs::{id::TrustDomain, sign::SigningKey};
use harness::{
    PATIENCE,
    cluster::{Cluster, Plan, Service},
    eventually, http,
    process::Skein,
};
use policy::{
    DocumentId, Kind,
    changeset::{self, Change, Changeset, ChangesetId, MAX_DOCUMENTS, Packed},
    history::{Code, Conflict, Refused, signed},
    kinds::RoleSet,
};

use self::mesh::{Mesh, NOW, route};

fn code<T: std::fmt::Debug>(result: Result<T, Refused>) -> Code {
    result.expect_err("it is refused").code()
}

#[test]
fn a72_what_is_spoilt_or_not_signed_by_enough_holds_nowhere() {
    let mut mesh = Mesh::new();
    let change = mesh.change("bank", "a", "a");
    let before = mesh.history.state(NOW).digest;
    let good = changeset::decode(&mesh.signed(vec![change.clone()], &["bob", "eve"])).expect("ours");
    let refused = |mesh: &mut Mesh, packed: &Packed| code(mesh.history.insert(&changeset::encode(packed), NOW));
    for at in 0..good.signed.payload.len() {
        let mut flipped = good.clone();
        flipped.signed.payload[at] ^= 1;
        assert!(mesh.history.insert(&changeset::encode(&flipped), NOW).is_err(), "byte {at}");
    }
    let whole = changeset::encode(&good);
    assert!((0..whole.len()).all(|end| mesh.history.insert(&whole[..end], NOW).is_err()), "truncated");
    let mut unsigned = good.clone();
    unsigned.signed.signatures.clear();
    assert_eq!(refused(&mut mesh, &unsigned), Code::BadSignature);
    // One signature of two, and one key twice for two.
    let mut one = good.clone();
    one.signed.signatures.truncate(1);
    assert_eq!(refused(&mut mesh, &one), Code::BadSignature);
    one.signed.signatures.push(one.signed.signatures[0].clone());
    assert_eq!(refused(&mut mesh, &one), Code::BadSignature);
    let mut body = good.clone();
    body.bodies[0] = body.bodies[0].replace("bank", "shop");
    assert_eq!(refused(&mut mesh, &body), Code::WrongBodies, "another namespace");
    let foreign = Changeset {
        trust_domain: TrustDomain::new("other.example").expect("a name"),
        ..mesh.changeset(vec![change.clone()])
    };
    assert_eq!(code(mesh.history.insert(&signed(&foreign, &[&mesh.ann]), NOW)), Code::WrongTrustDomain);
    // The body of another document, rightly signed, is kept and is no document.
    let posing = Change {
        content: Some(route(&DocumentId::new(Kind::VirtualService, "bank", "b"), "b")),
        ..mesh.change("shop", "c", "c")
    };
    let bytes = mesh.signed(vec![posing.clone()], &["eve"]);
    assert_eq!(code(mesh.history.check_push(&bytes, NOW)), Code::InvalidDocument);
    assert_eq!(mesh.history.state(NOW).digest, before, "nothing changed");
    mesh.keep(&bytes);
    assert!(mesh.history.state(NOW).document(&posing.document).is_none());
    // One key says it twice: two proposals, no signature more.
    for _ in 0..2 {
        let alone = mesh.signed(vec![change.clone()], &["eve"]);
        mesh.keep(&alone);
    }
    assert_eq!(mesh.heads(&change), []);
}

#[test]
fn a73_an_old_version_changes_nothing() {
    let mut mesh = Mesh::new();
    let old = mesh.change("shop", "a", "old");
    let first = mesh.signed(vec![old.clone()], &["eve"]);
    mesh.keep(&first);
    let stale = mesh.signed(vec![Change { replaces: vec![], ..old.clone() }], &["eve"]);
    for host in ["b", "c"] {
        let next = mesh.change("shop", "a", host);
        let bytes = mesh.signed(vec![next], &["eve"]);
        mesh.keep(&bytes);
    }
    let before = mesh.history.state(NOW);
    assert_eq!(code(mesh.history.check_push(&stale, NOW)), Code::StaleParent);
    assert!(!mesh.history.insert(&first, NOW).expect("it is known").fresh);
    assert_eq!(mesh.history.state(NOW).digest, before.digest);
    mesh.keep(&stale);
    let after = mesh.history.state(NOW);
    assert_eq!(after.document(&old.document), before.document(&old.document), "the deeper one stays in effect");
}

#[test]
fn a74_depth_cannot_be_claimed() {
    let mut mesh = Mesh::new();
    let mut ids = Vec::new();
    for host in ["a", "b", "c"] {
        let change = mesh.change("shop", "a", host);
        let bytes = mesh.signed(vec![change], &["eve"]);
        ids.push(mesh.keep(&bytes));
    }
    let version = |mesh: &Mesh, id: &ChangesetId| {
        let state = mesh.history.state(NOW);
        let document = DocumentId::new(Kind::VirtualService, "shop", "a");
        state.documents[&document].values.iter().find(|value| value.changeset == *id).map(|value| value.version)
    };
    let nothing = Change { replaces: vec![], ..mesh.change("shop", "a", "x") };
    let bytes = mesh.signed(vec![nothing], &["eve"]);
    let nothing = mesh.keep(&bytes);
    assert_eq!(version(&mesh, &nothing), Some(1));
    let everything = Change { replaces: ids.clone(), ..mesh.change("shop", "a", "y") };
    let bytes = mesh.signed(vec![everything], &["eve"]);
    let everything = mesh.keep(&bytes);
    assert_eq!(version(&mesh, &everything), Some(4), "one more than the deepest");
    // An id is a digest of what names it, so nothing can name itself: a guess is a reference that is not here.
    let itself = Change { replaces: vec![ChangesetId(certs::sign::Digest([7; 32]))], ..mesh.change("shop", "a", "z") };
    let bytes = mesh.signed(vec![itself], &["eve"]);
    assert_eq!(code(mesh.history.insert(&bytes, NOW)), Code::MissingReference);
    let twice = Change { replaces: vec![ids[0], ids[0]], ..mesh.change("shop", "a", "z") };
    let bytes = mesh.signed(vec![twice], &["eve"]);
    assert_eq!(code(mesh.history.insert(&bytes, NOW)), Code::Malformed);
    let other = Change { replaces: vec![ids[0]], ..mesh.change("shop", "b", "z") };
    let bytes = mesh.signed(vec![other], &["eve"]);
    assert_eq!(code(mesh.history.insert(&bytes, NOW)), Code::InvalidReference);
}

#[test]
fn a75_a_key_signs_for_its_own_namespace_only() {
    let mut mesh = Mesh::new();
    for namespace in ["vault", "istio-system"] {
        let foreign = mesh.change(namespace, "a", "a");
        let bytes = mesh.signed(vec![foreign], &["eve"]);
        assert_eq!(code(mesh.history.insert(&bytes, NOW)), Code::RoleMissing, "{namespace}");
    }
    let mixed = vec![mesh.change("shop", "a", "a"), mesh.change("vault", "a", "a")];
    let bytes = mesh.signed(mixed, &["eve"]);
    assert_eq!(code(mesh.history.insert(&bytes, NOW)), Code::RoleMissing, "one of two is enough to refuse");
    let grab = mesh.role_set(|set| set.roles[1].namespaces = BTreeSet::from(["*".to_owned()]));
    let bytes = mesh.signed(vec![grab], &["eve"]);
    assert_eq!(code(mesh.history.insert(&bytes, NOW)), Code::RoleMissing);
    assert_eq!(code(mesh.history.learn(&bytes, NOW)), Code::RoleMissing, "a peer's word adds nothing");
}

#[test]
fn a76_a_split_mesh_comes_to_one_head_and_names_the_loser() {
    let (mut left, mut right) = (Mesh::new(), Mesh::new());
    right.history = left.twin();
    [right.ann, right.eve] = [&left.ann, &left.eve].map(|key| SigningKey::from_pem(&key.to_pem()).expect("its own"));
    let (here, there) = (left.change("shop", "a", "left"), right.change("shop", "a", "right"));
    let (mine, theirs) = (left.signed(vec![here.clone()], &["ann"]), right.signed(vec![there], &["eve"]));
    let ids = [left.keep(&mine), right.keep(&theirs)];
    left.keep(&theirs);
    right.keep(&mine);
    let (a, b) = (left.history.state(NOW), right.history.state(NOW));
    assert_eq!((a.digest, &a.conflicts), (b.digest, &b.conflicts));
    let winner = *ids.iter().min().expect("two");
    let Some(Conflict::Values(of, claims)) = a.conflicts.first() else { panic!("{:?}", a.conflicts) };
    assert_eq!((of, claims.len(), claims[0].changeset), (&here.document, 2, winner));
    assert!(claims[0].in_effect && !claims[1].in_effect);
    let authors: BTreeSet<&str> = claims.iter().flat_map(|claim| claim.authors.iter().map(String::as_str)).collect();
    assert_eq!(authors, BTreeSet::from(["ann", "eve"]));
}

/// What the two heads decide together is proved where requests are judged; here, that both are offered to it.
#[test]
fn a77_both_heads_of_an_authorization_kind_are_offered() {
    let mut mesh = Mesh::new();
    let document = DocumentId::new(Kind::AuthorizationPolicy, "shop", "a");
    let metadata = serde_json::json!({"name": "a", "namespace": "shop"});
    let body = serde_json::json!({"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy", "metadata": metadata, "spec": {}});
    let set = Change { document: document.clone(), content: Some(body.to_string()), replaces: vec![] };
    let bytes = mesh.signed(vec![set], &["ann"]);
    let first = mesh.keep(&bytes);
    let on_top = |content: Option<String>| Change { document: document.clone(), content, replaces: vec![first] };
    let (left, right) = (on_top(Some(body.to_string())), on_top(None));
    let (left, right) = (mesh.signed(vec![left], &["ann"]), mesh.signed(vec![right], &["eve"]));
    let ids = BTreeSet::from([mesh.keep(&left), mesh.keep(&right)]);
    assert!(document.kind.unites());
    let state = mesh.history.state(NOW);
    let live: BTreeSet<ChangesetId> = state.heads(&document).into_iter().collect();
    assert_eq!(live, ids, "the deletion stands beside the value");
}

#[test]
fn a78_a_deletion_is_not_undone_by_who_slept_through_it() {
    let mut mesh = Mesh::new();
    let set = mesh.change("shop", "a", "a");
    let bytes = mesh.signed(vec![set.clone()], &["eve"]);
    mesh.keep(&bytes);
    let mut asleep = mesh.twin();
    let gone = Change { content: None, ..mesh.change("shop", "a", "a") };
    let deletion = mesh.signed(vec![gone], &["eve"]);
    mesh.keep(&deletion);
    for id in asleep.ids().copied().collect::<Vec<_>>() {
        let bytes = asleep.bytes(&id).expect("kept").clone();
        assert!(!mesh.history.insert(&bytes, NOW).expect("it is known").fresh);
    }
    asleep.insert(&deletion, NOW).expect("it is kept");
    assert!(mesh.history.state(NOW).document(&set.document).is_none());
    assert_eq!(asleep.state(NOW).digest, mesh.history.state(NOW).digest);
}

#[test]
fn a79_what_is_too_large_or_too_deep_is_refused() {
    let mut mesh = Mesh::new();
    let id = DocumentId::new(Kind::VirtualService, "shop", "a");
    let with = |mesh: &Mesh, body: String| Change { content: Some(body), ..mesh.change("shop", "a", "a") };
    let good = route(&id, "a");
    let large = good.replace("\"hosts\"", &format!("\"x\":\"{}\",\"hosts\"", "x".repeat(300 << 10)));
    let large = with(&mesh, large);
    let bytes = mesh.signed(vec![large], &["eve"]);
    assert_eq!(code(mesh.history.insert(&bytes, NOW)), Code::Malformed, "300 KiB");
    let many = (0..1_001).map(|n| mesh.change("shop", &format!("d{n}"), "a")).collect();
    let bytes = mesh.signed(many, &["eve"]);
    assert_eq!(code(mesh.history.insert(&bytes, NOW)), Code::Malformed, "1,001 documents");
    assert_eq!(code(mesh.history.insert(&vec![0; 5 << 20], NOW)), Code::Malformed, "5 MiB");
    let deep = format!("{}{}", "[".repeat(1_000), "]".repeat(1_000));
    for (strange, what) in [
        (good.replace("\"hosts\"", &format!("\"x\":{deep},\"hosts\"")), "depth 1,000"),
        (good.replace("\"hosts\"", "\"hosts\":[\"b\"],\"hosts\""), "a key twice"),
        (good.replace("\"hosts\"", "\"x\":1e999,\"hosts\""), "1e999"),
    ] {
        let change = with(&mesh, strange);
        let bytes = mesh.signed(vec![change], &["eve"]);
        assert_eq!(code(mesh.history.check_push(&bytes, NOW)), Code::InvalidDocument, "{what}");
        mesh.keep(&bytes);
        assert!(mesh.history.state(NOW).document(&id).is_none(), "{what}");
    }
}

#[test]
fn a79_the_fifty_thousand_and_first_document_is_refused_until_one_goes() {
    let mut mesh = Mesh::new();
    let empty = r#"{"kind":"VirtualService"}"#;
    let set = |n: usize| {
        let document = DocumentId::new(Kind::VirtualService, "shop", &format!("d{n}"));
        Change { document, content: Some(empty.into()), replaces: vec![] }
    };
    let there = mesh.history.state(NOW).documents.len();
    let names: Vec<usize> = (0..MAX_DOCUMENTS - there).collect();
    let first = mesh.changeset(Vec::new());
    for (part, nonce) in names.chunks(1_000).zip(100..) {
        let changes = part.iter().map(|n| set(*n)).collect();
        let bytes = signed(&Changeset { changes, nonce: [nonce; 16], ..first.clone() }, &[&mesh.eve]);
        mesh.keep(&bytes);
    }
    let more = mesh.change("shop", "one-more", "a");
    let bytes = mesh.signed(vec![more.clone()], &["eve"]);
    assert_eq!(code(mesh.history.check_push(&bytes, NOW)), Code::QuotaExceeded);
    let gone = Change { content: None, ..mesh.change("shop", "d7", "a") };
    let deletion = mesh.signed(vec![gone], &["eve"]);
    mesh.history.check_push(&deletion, NOW).expect("deleting is always possible");
    mesh.keep(&deletion);
    mesh.history.check_push(&bytes, NOW).expect("there is room again");
}

#[test]
fn a80_a_removed_signer_and_a_forked_role_set_count_for_nothing() {
    let mut mesh = Mesh::new();
    let (a, b) = (mesh.change("shop", "a", "a"), mesh.change("shop", "b", "b"));
    let bytes = mesh.signed(vec![a.clone()], &["eve"]);
    let kept = mesh.keep(&bytes);
    // Signed now, shown later; dated long before, under the old RoleSet.
    let held_back = mesh.signed(vec![b.clone()], &["eve"]);
    let backdated = Changeset { issued_at: 1, ..mesh.changeset(vec![mesh.change("shop", "c", "c")]) };
    let without = |set: &mut RoleSet| {
        set.keys.retain(|key| key.name != "eve");
        set.roles.retain(|role| role.name == "admin");
        set.keeps = Some(BTreeSet::from([kept.0]));
    };
    let removal = mesh.role_set(without);
    let only_new = mesh.role_set(|set| {
        set.keys.retain(|key| key.name == "eve");
        set.roles.retain(|role| role.name == "shop");
        set.keeps = Some(BTreeSet::new());
    });
    let only_new = mesh.signed(vec![only_new], &["eve"]);
    assert_eq!(code(mesh.history.insert(&only_new, NOW)), Code::RoleMissing, "N's keys must sign N+1");
    let bytes = mesh.signed(vec![removal.clone()], &["ann"]);
    mesh.keep(&bytes);
    mesh.keep(&held_back);
    let late = signed(&backdated, &[&mesh.eve]);
    mesh.keep(&late);
    let state = mesh.history.state(NOW);
    assert_eq!(state.heads(&a.document), [kept]);
    assert_eq!((state.heads(&b.document), state.heads(&backdated.changes[0].document)), (vec![], vec![]));
    assert_eq!(mesh.twin().state(NOW).digest, state.digest, "in the other order too");
    // A second child of the same RoleSet: neither counts, and everybody hears of it.
    let rival = mesh.signed(vec![Change { replaces: removal.replaces.clone(), ..mesh.role_set(|_| ()) }], &["ann"]);
    mesh.keep(&rival);
    let state = mesh.history.state(NOW);
    assert_eq!(state.role_set.number, 2);
    assert!(matches!(state.conflicts.as_slice(), [Conflict::RoleSets(rivals)] if rivals.len() == 2));
}

#[test]
#[expect(clippy::disallowed_methods, reason = "any instant will do: all others are counted from it")]
fn a81_a_node_that_half_of_the_mesh_is_kept_from_says_so() {
    use node::agent::sync::{Freshness, SILENCE};
    let start = std::time::Instant::now();
    let (second, mut fresh) = (std::time::Duration::from_secs(1), Freshness::new(start));
    fresh.note(5, 10, start + second);
    // The peers that are left answer, and show the same four for ever.
    for minutes in 1..16 {
        fresh.note(4, 10, start + second * 60 * minutes);
    }
    assert_eq!(fresh.stale(start + SILENCE), None);
    assert_eq!(fresh.stale(start + SILENCE + second), Some(SILENCE));
    fresh.note(6, 10, start + SILENCE * 2);
    assert_eq!(fresh.stale(start + SILENCE * 2 + second), None);
}

fn skein() -> Skein {
    Skein::at(env!("CARGO_BIN_EXE_skein-under-test"))
}

#[test]
fn a82_an_edited_audit_chain_is_found_and_the_first_bad_entry_named() {
    let plan = Plan::with([Service::version("shop/reviews", "v1")]);
    let mut cluster = Cluster::start(skein(), &[("first", plan)]);
    let text = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: reviews, namespace: shop}\nspec: {host: reviews, \
                trafficPolicy: {connectionPool: {http: {http2MaxRequests: 7}}}}\n";
    // What stands already would not be pushed.
    for limit in ["7", "8", "9"] {
        cluster.push("first", &text.replace('7', limit), &[]).expect_code(0);
    }
    let running = cluster.json("first", &["policy", "audit", "verify"]);
    assert_eq!(running["valid"], true, "{running}");
    let log = cluster.json("first", &["policy", "audit", "log"]);
    let entries = log.as_array().expect("a list");
    assert_eq!(
        (entries.len() as u64, &entries[0]["from"]),
        (running["entries"].as_u64().expect("a number"), &"push".into())
    );
    cluster.terminate("first");
    let data = cluster.node("first").dir.join("data");
    let data_dir = data.to_string_lossy().into_owned();
    let verify = ["policy", "audit", "verify", "--data-dir", &data_dir, "-o", "json"];
    let stopped = cluster.on("first", &verify).expect_code(0).json();
    assert_eq!(stopped["head"], running["head"], "{stopped}");
    // Somebody makes one of the three pushes come from elsewhere.
    let file = data.join("store.redb");
    let mut bytes = std::fs::read(&file).expect("the store");
    let subject = entries[1]["subject"].as_str().expect("an id");
    let id: certs::sign::Digest = subject.parse().expect("an id");
    let mark: Vec<u8> = id.0.iter().copied().chain([4]).chain(*b"push").collect();
    let at: Vec<usize> = (0..bytes.len() - mark.len()).filter(|at| bytes[*at..].starts_with(&mark)).collect();
    assert!(!at.is_empty(), "the entry is in the file");
    for at in at {
        bytes[at + 33..at + 37].copy_from_slice(b"node");
    }
    std::fs::write(&file, &bytes).expect("written");
    let found = cluster.on("first", &verify);
    assert_ne!(found.code, 0, "{found:?}");
    let error = found.error();
    let wanted = format!("entry {}:", entries[1]["entry"]);
    assert_eq!(error["error"]["code"], "audit_broken", "{error}");
    assert!(error["error"]["message"].as_str().is_some_and(|text| text.contains(&wanted)), "{wanted} in {error}");
}

#[test]
fn a83_a_node_from_an_old_backup_catches_up_and_takes_nothing_back() {
    let plan = |version: &str| Plan::with([Service::version("shop/reviews", version)]);
    let mut cluster = Cluster::start(skein(), &[("first", plan("v1")), ("second", plan("v2"))]);
    cluster.wait_members(PATIENCE);
    let text = |host: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: reviews, namespace: shop}}\nspec: {{host: reviews, subsets: [{{name: {host}, labels: {{version: v1}}}}]}}\n"
        )
    };
    cluster.push("first", &text("old"), &["--wait", "all"]).expect_code(0);
    cluster.terminate("second");
    let data = cluster.node("second").dir.join("data");
    let (store, backup) = (data.join("store.redb"), data.with_file_name("backup.redb"));
    std::fs::copy(&store, &backup).expect("copied");
    cluster.run("second");
    cluster.wait_members(PATIENCE);
    cluster.push("second", &text("new"), &["--wait", "all"]).expect_code(0);
    let wanted = cluster.json("first", &["status"])["policy"]["digest"].clone();
    // The others have heard by now how long its audit chain is.
    let verify = ["policy", "audit", "verify", "--witness", "first"];
    let entries = cluster.json("second", &verify)["entries"].as_u64().expect("a number");
    eventually("the witness has heard of every entry", || {
        let url = cluster.node("first").address("admin");
        let heads = http::get(url, "localhost", "/v1/policy/audit/heads").map_err(|error| format!("{error:?}"))?.text();
        let heads: serde_json::Value = serde_json::from_str(&heads).map_err(|error| error.to_string())?;
        let heard = heads.as_array().into_iter().flatten().find(|head| head["node"] == "second");
        if heard.is_some_and(|head| head["count"] == entries) { Ok(()) } else { Err(format!("{heads}, not {entries}")) }
    });
    cluster.terminate("second");
    std::fs::copy(&backup, &store).expect("restored");
    cluster.run("second");
    eventually("the restored node has the policy of now", || {
        let digests = ["first", "second"].map(|name| cluster.json(name, &["status"])["policy"]["digest"].clone());
        if digests.iter().all(|digest| *digest == wanted) { Ok(()) } else { Err(format!("{digests:?}, not {wanted}")) }
    });
    // What it noted since the backup is gone from its audit chain, and the others know.
    let found = cluster.on("second", &[&verify[..], &["-o", "json"]].concat());
    assert_eq!((found.code, &found.error()["error"]["code"]), (1, &"audit_broken".into()), "{found:?}");
}
