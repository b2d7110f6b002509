//! Bodies that were replaced long ago go; ids, signatures and what replaced what stay, and the state with them.

use super::*;
use crate::changeset::{confirmation, decode, encode};

const LATER: Millis = NOW + RETENTION + 1_000;

fn document(name: &str) -> DocumentId {
    DocumentId::new(Kind::VirtualService, "default", name)
}

#[test]
fn what_was_replaced_long_ago_becomes_a_stub_and_the_state_stays() {
    let mut mesh = Mesh::new();
    let first = mesh.push(vec![mesh.change("default", "a", "x")]);
    let other = mesh.push(vec![mesh.change("default", "a", "y"), mesh.change("default", "b", "y")]);
    let last = mesh.push(vec![mesh.change("default", "a", "z")]);
    let (id, before) = (document("a"), mesh.history.state(LATER).digest);
    assert_eq!(mesh.history.forgettable(NOW), []);
    assert_eq!(mesh.history.forgettable(LATER), [first], "the second still holds b");
    let whole = mesh.history.bytes(&first).unwrap().clone();
    let stub = mesh.history.forget(&first).unwrap();
    assert!(stub.len() < whole.len() && mesh.history.forget(&first).is_none());
    let state = mesh.history.state(LATER);
    assert_eq!((state.digest, state.heads(&id)), (before, vec![last]));
    assert_eq!(state.documents[&id].effective.as_ref().unwrap().version, 3);
    assert_eq!(mesh.history.log().len(), 4);
    assert_eq!(mesh.history.wanted(LATER), []);
    assert_eq!(code(mesh.history.revert(&other, LATER)), Code::NotFound);
    // A node that knows nothing takes the stub and comes to the same state; what is whole it takes instead.
    let mut joiner = History::new(trust_domain());
    let all: Vec<Arc<[u8]>> = mesh.history.ids().map(|id| mesh.history.bytes(id).unwrap().clone()).collect();
    joiner.insert_all(all.iter().map(|bytes| &**bytes), LATER).unwrap();
    assert_eq!((joiner.state(LATER).digest, joiner.wanted(LATER)), (before, vec![]));
    assert!(joiner.insert(&whole, LATER).unwrap().restored);
    assert!(!joiner.insert(&stub, LATER).unwrap().restored && joiner.get(&first).unwrap().whole);
}

#[test]
fn a_stub_of_what_holds_is_asked_for_again() {
    let mut mesh = Mesh::new();
    let first = mesh.push(vec![mesh.change("default", "a", "x")]);
    let whole = mesh.history.bytes(&first).unwrap().clone();
    mesh.history.forget(&first).unwrap();
    let state = mesh.history.state(NOW);
    assert_eq!(mesh.history.wanted(NOW), [first]);
    assert!(state.document(&document("a")).is_none());
    assert_eq!(state.conflicts, [Conflict::Unreadable(document("a"), first)]);
    let mut lie = decode(&whole).unwrap();
    lie.bodies = vec!["{}".into()];
    let refused = mesh.history.insert(&encode(&lie), NOW).unwrap_err();
    assert!(refused.code() == Code::WrongBodies && !refused.is_final());
    assert!(mesh.history.insert(&whole, NOW).unwrap().restored);
    assert!(mesh.history.state(NOW).document(&document("a")).is_some() && mesh.history.wanted(NOW).is_empty());
}

#[test]
fn what_lives_again_is_wanted_again() {
    let (mut mesh, operator, bob) = with_bob();
    let change = mesh.change("shop", "a", "x");
    let first = mesh.insert(vec![change], &[&operator]).unwrap();
    let change = mesh.change("shop", "a", "y");
    mesh.insert(vec![change], &[&bob]).unwrap();
    assert_eq!(mesh.history.forgettable(LATER), [first]);
    mesh.history.forget(&first).unwrap();
    let removal = mesh.role_set(|set| {
        set.keys.retain(|key| key.name != "bob");
        set.roles.retain(|role| role.name != "shop");
        set.keeps = Some(BTreeSet::new());
    });
    mesh.insert(vec![removal], &[&operator]).unwrap();
    assert_eq!(mesh.history.wanted(LATER), [first]);
}

#[test]
fn trials_keep_what_they_replace_until_they_are_confirmed_long_ago() {
    let mut mesh = Mesh::new();
    let first = mesh.push(vec![mesh.change("default", "a", "x")]);
    let change = mesh.change("default", "a", "y");
    let trial = Changeset { confirm_by: Some(NOW + 60_000), ..mesh.changeset(vec![change]) };
    let trial = mesh.history.insert(&signed(&trial, &[&mesh.operator]), NOW).unwrap().id;
    assert_eq!(mesh.history.forgettable(LATER + 60_000), [trial]);
    mesh.push(vec![confirmation(&trial)]);
    assert_eq!(mesh.history.forgettable(LATER + 60_000), [first]);
}

#[test]
fn a_date_of_the_past_makes_nobody_forget() {
    let mut mesh = Mesh::new();
    let first = mesh.push(vec![mesh.change("default", "a", "x")]);
    let change = mesh.change("default", "a", "y");
    let changeset = Changeset { issued_at: NOW - RETENTION, ..mesh.changeset(vec![change]) };
    mesh.history.insert(&signed(&changeset, &[&mesh.operator]), NOW).unwrap();
    assert_eq!(mesh.history.forgettable(NOW + 1_000), []);
    assert_eq!(mesh.history.forgettable(LATER), [first]);
}

#[test]
fn what_an_unreadable_value_yields_to_stays() {
    let mut mesh = Mesh::new();
    let first = mesh.push(vec![mesh.change("default", "a", "x")]);
    let second = mesh.push(vec![mesh.change("default", "a", "y")]);
    let mut change = mesh.change("default", "a", "z");
    change.content = change.content.map(|body| body.replace("\"hosts\"", "\"fromTheFuture\":1,\"hosts\""));
    let operator = mesh.operator.clone();
    mesh.insert(vec![change], &[&operator]).unwrap();
    assert_eq!(mesh.history.forgettable(LATER), [first], "the second is in effect");
    mesh.history.forget(&first).unwrap();
    assert_eq!(mesh.history.state(LATER).documents[&document("a")].effective.as_ref().unwrap().changeset, second);
}

#[test]
fn what_concerns_the_whole_mesh_travels_with_its_body() {
    let mesh = Mesh::new();
    let genesis = mesh.history.role_set_chain().remove(0);
    let stub = encode(&decode(&genesis).unwrap().stub());
    let refused = History::new(trust_domain()).insert(&stub, NOW).unwrap_err();
    assert!(refused.code() == Code::WrongBodies && !refused.is_final());
}

/// A change with a body of this size.
fn large(mesh: &Mesh, name: &str, bytes: usize) -> Change {
    let mut change = mesh.change("shop", name, "x");
    let metadata = format!("\"metadata\":{{\"annotations\":{{\"note\":\"{}\"}},", "x".repeat(bytes));
    change.content = change.content.map(|content| content.replace("\"metadata\":{", &metadata));
    change
}

fn with_bob() -> (Mesh, Arc<SigningKey>, SigningKey) {
    let (mut mesh, bob) = (Mesh::new(), SigningKey::generate());
    let operator = mesh.operator.clone();
    let next = mesh.role_set(|set| shop_role(set, &bob));
    mesh.insert(vec![next], &[&operator]).unwrap();
    (mesh, operator, bob)
}

/// Pushes the same documents over and over, until more was replaced than stays.
fn churn(mesh: &mut Mesh, key: &SigningKey) -> Vec<ChangesetId> {
    let mut pushed = Vec::new();
    while mesh.history.body_bytes() < REPLACED_BYTES + (8 << 20) {
        let changes = (0..15).map(|number| large(mesh, &format!("d{number}"), 250 << 10)).collect();
        pushed.push(mesh.insert(changes, &[key]).unwrap());
    }
    pushed
}

#[test]
fn a79_what_one_key_replaces_over_and_over_goes_early_and_nobody_asks_for_it() {
    let (mut mesh, _, bob) = with_bob();
    let anns = mesh.push(vec![mesh.change("default", "a", "x")]);
    mesh.push(vec![mesh.change("default", "a", "y")]);
    let pushed = churn(&mut mesh, &bob);
    let (before, due) = (mesh.history.state(NOW).digest, mesh.history.forgettable(NOW));
    assert!(!due.is_empty() && !due.contains(&anns), "another key's body stays");
    assert_eq!(BTreeSet::from_iter(&due), BTreeSet::from_iter(&pushed[..due.len()]), "the oldest go");
    for id in &due {
        mesh.history.forget(id).unwrap();
    }
    assert!(mesh.history.body_bytes() < REPLACED_BYTES + (4 << 20));
    assert_eq!((mesh.history.state(NOW).digest, mesh.history.forgettable(NOW)), (before, vec![]));
    assert_eq!(mesh.history.wanted(NOW), []);
    let refused = mesh.history.revert(&pushed[due.len()], NOW).unwrap_err();
    assert!(refused.code() == Code::NotFound && refused.hint().contains("32 MiB"), "{refused}");
}

#[test]
fn a_body_that_another_key_replaced_stays_however_much_its_own_key_left() {
    let (mut mesh, operator, bob) = with_bob();
    let change = mesh.change("shop", "old", "x");
    let old = mesh.insert(vec![change], &[&bob]).unwrap();
    let pushed = churn(&mut mesh, &bob);
    let change = mesh.change("shop", "old", "y");
    mesh.insert(vec![change], &[&operator]).unwrap();
    let due = mesh.history.forgettable(NOW);
    assert!(due.contains(&pushed[0]) && !due.contains(&old));
    assert!(mesh.history.forgettable(LATER).contains(&old), "the 90 days hold");
    mesh.history.forget(&old).unwrap();
    assert_eq!(mesh.history.wanted(NOW), [old]);
}

#[test]
fn heads_say_what_a_new_role_set_keeps() {
    let (mut mesh, operator, bob) = with_bob();
    let change = mesh.change("shop", "a", "bobs");
    let bobs = mesh.insert(vec![change], &[&bob]).unwrap();
    let mut change = mesh.change("shop", "a", "anns");
    let ends = "\"metadata\":{\"annotations\":{\"skein.dev/expires\":\"2023-11-14T22:30:00Z\"},";
    change.content = change.content.map(|content| content.replace("\"metadata\":{", ends));
    let fault = mesh.insert(vec![change], &[&operator]).unwrap();
    let change = mesh.change("shop", "b", "old");
    mesh.insert(vec![change], &[&bob]).unwrap();
    let change = mesh.change("shop", "b", "new");
    let other = mesh.insert(vec![change], &[&bob]).unwrap();
    let later = NOW + 10_000_000;
    let state = mesh.history.state(later);
    let ended = mesh.history.ended(&state);
    assert_eq!(ended, BTreeSet::from([bobs, fault]));
    let ids = mesh.history.ids();
    let heads: Vec<Vec<u8>> = ids.map(|id| mesh.history.for_successor(id, &ended).unwrap()).collect();
    let mut successor = History::new(trust_domain());
    successor.insert_all(heads.iter().map(Vec::as_slice), later).unwrap();
    assert!(!successor.get(&other).unwrap().whole && successor.get(&fault).unwrap().whole);
    let mut bare = (*state.role_set.set).clone();
    bare.keys.retain(|key| key.name != "bob");
    bare.roles.retain(|role| role.name != "shop");
    let keeps = BTreeSet::from([bobs.0, other.0]);
    for history in [&mesh.history, &successor] {
        assert_eq!(history.keeps_under(&bare, later), keeps);
    }
}
