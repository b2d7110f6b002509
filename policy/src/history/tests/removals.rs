//! RoleSets that follow one another: what a removed key signed, and two children of one.

use super::*;
use crate::changeset::{Approval, encode};

#[test]
fn a_removed_key_counts_only_where_the_change_keeps_it() {
    let mut mesh = Mesh::new();
    let bob = SigningKey::generate();
    let next = mesh.role_set(|set| shop_role(set, &bob));
    let operator = mesh.operator.clone();
    mesh.insert(vec![next], &[&operator]).unwrap();
    let (a, b) = (mesh.change("shop", "a", "a"), mesh.change("shop", "b", "b"));
    let kept = mesh.insert(vec![a], &[&bob]).unwrap();
    let lost = mesh.insert(vec![b], &[&bob]).unwrap();
    let without_bob = |set: &mut RoleSet| {
        set.keys.retain(|key| key.name != "bob");
        set.roles.retain(|role| role.name != "shop");
    };
    let silent = mesh.role_set(without_bob);
    assert_eq!(mesh.insert(vec![silent], &[&operator]), Err(Code::RoleSetInvalid));
    let mut bare = (*mesh.history.state(NOW).role_set.set).clone();
    without_bob(&mut bare);
    assert_eq!(mesh.history.keeps_under(&bare, NOW), BTreeSet::from([kept.0, lost.0]));
    let removal = mesh.role_set(|set| {
        without_bob(set);
        set.keeps = Some(BTreeSet::from([kept.0]));
    });
    // Signed before the removal arrives, dated before it, naming the RoleSet of then: kept, and it does not count.
    let c = mesh.change("shop", "c", "c");
    let late = mesh.changeset(vec![c]);
    mesh.insert(vec![removal], &[&operator]).unwrap();
    mesh.history.insert(&signed(&late, &[&bob]), NOW).unwrap();
    let state = mesh.history.state(NOW);
    let live: Vec<&str> =
        state.effective().filter(|(id, _)| id.namespace == "shop").map(|(id, _)| id.name.as_str()).collect();
    assert_eq!(live, ["a"]);
    assert_eq!(mesh.insert(vec![mesh.change("shop", "d", "d")], &[&bob]), Err(Code::RoleMissing));
}

#[test]
fn what_a_removal_kept_stays_when_keys_are_added_later() {
    let mut mesh = Mesh::new();
    let (bob, carl) = (SigningKey::generate(), SigningKey::generate());
    let operator = mesh.operator.clone();
    let next = mesh.role_set(|set| shop_role(set, &bob));
    mesh.insert(vec![next], &[&operator]).unwrap();
    let (a, b, c) = (mesh.change("shop", "a", "a"), mesh.change("shop", "b", "b"), mesh.change("shop", "c", "c"));
    let kept = mesh.insert(vec![a], &[&bob]).unwrap();
    mesh.insert(vec![b], &[&bob]).unwrap();
    let late = mesh.changeset(vec![c]);
    let removal = mesh.role_set(|set| {
        set.keys.retain(|key| key.name != "bob");
        set.roles.retain(|role| role.name != "shop");
        set.keeps = Some(BTreeSet::from([kept.0]));
    });
    mesh.insert(vec![removal], &[&operator]).unwrap();
    let live = |mesh: &Mesh| -> Vec<ChangesetId> {
        let state = mesh.history.state(NOW);
        let shop = state.effective().filter(|(id, _)| id.namespace == "shop");
        shop.map(|(_, value)| value.changeset).collect()
    };
    assert_eq!(live(&mesh), [kept]);
    // What only adds does not say what it keeps. Twice, and in the end the removed key itself.
    for (name, key) in [("carl", &carl), ("bob", &bob)] {
        let more = mesh.role_set(|set| {
            set.keeps = None;
            shop_role(set, key);
            set.keys.last_mut().unwrap().name = name.to_owned();
            let role = set.roles.last_mut().unwrap();
            (role.name, role.keys) = (format!("of {name}"), BTreeSet::from([name.to_owned()]));
        });
        mesh.insert(vec![more], &[&operator]).unwrap();
        assert_eq!(live(&mesh), [kept]);
    }
    assert_eq!(mesh.history.state(NOW).role_set.number, 5);
    // Given its rights back, the key still signs nothing into the past.
    mesh.history.insert(&signed(&late, &[&bob]), NOW).unwrap();
    assert_eq!(live(&mesh), [kept]);
}

/// bob and eve share the role `shop`.
fn with_bob_and_eve(threshold: usize) -> (Mesh, SigningKey, SigningKey) {
    let (mut mesh, bob, eve) = (Mesh::new(), SigningKey::generate(), SigningKey::generate());
    let operator = mesh.operator.clone();
    let next = mesh.role_set(|set| {
        shop_role(set, &bob);
        set.keys.push(RoleKey { name: "eve".into(), key: eve.public(), recovery: false });
        set.roles[1].keys.insert("eve".to_owned());
        set.roles[1].threshold = threshold;
    });
    mesh.insert(vec![next], &[&operator]).unwrap();
    (mesh, bob, eve)
}

/// The RoleSet in force without eve and the role.
fn without_eve(mesh: &Mesh) -> RoleSet {
    let mut set = RoleSet { trust: None, keeps: None, ..(*mesh.history.state(NOW).role_set.set).clone() };
    set.keys.retain(|key| key.name != "eve");
    set.roles.truncate(1);
    set
}

#[test]
fn what_a_voided_key_replaced_stands_again_also_of_a_key_that_was_removed_before() {
    let (mut mesh, bob, eve) = with_bob_and_eve(1);
    let operator = mesh.operator.clone();
    let (a, b) = (mesh.change("shop", "a", "eves"), mesh.change("shop", "b", "eves"));
    let first = mesh.insert(vec![a, b], &[&eve]).unwrap();
    let change = mesh.change("shop", "b", "bobs");
    let bobs = mesh.insert(vec![change], &[&bob]).unwrap();
    let removal = mesh.role_set(|set| {
        set.keys.retain(|key| key.name != "bob");
        set.roles[1].keys.remove("bob");
        set.keeps = Some(BTreeSet::from([bobs.0]));
    });
    mesh.insert(vec![removal], &[&operator]).unwrap();
    let change = mesh.change("shop", "b", "eves-again");
    mesh.insert(vec![change], &[&eve]).unwrap();
    let next = without_eve(&mesh);
    let voided = mesh.history.voiding(&next, &eve.public(), false, NOW);
    // What bob replaced descends from eve's first, of which `a` is still live.
    let expected = Voided {
        keeps: BTreeSet::from([bobs.0]),
        voids: BTreeSet::from([first.0]),
        ended: 2,
        bare: vec![DocumentId::new(Kind::VirtualService, "shop", "a")],
    };
    assert_eq!(voided, expected);
    let removal = mesh.role_set(|set| {
        *set = RoleSet { keeps: Some(voided.keeps.clone()), voids: voided.voids.clone(), ..next.clone() };
    });
    mesh.insert(vec![removal], &[&operator]).unwrap();
    let state = mesh.history.state(NOW);
    let shop = state.effective().filter(|(id, _)| id.namespace == "shop");
    assert_eq!(shop.map(|(_, value)| value.changeset).collect::<Vec<_>>(), [bobs]);
}

#[test]
fn what_a_voided_key_only_approved_stays() {
    let (mut mesh, bob, eve) = with_bob_and_eve(2);
    let (a, b) = (mesh.change("shop", "a", "bobs"), mesh.change("shop", "b", "eves"));
    let bobs = mesh.insert(vec![a], &[&bob]).unwrap();
    let eves = mesh.insert(vec![b], &[&eve]).unwrap();
    for (id, key) in [(bobs, &eve), (eves, &bob)] {
        mesh.history.insert(&encode(&Approval::sign(&trust_domain(), id, key)), NOW).unwrap();
    }
    let voided = mesh.history.voiding(&without_eve(&mesh), &eve.public(), false, NOW);
    let bare = vec![DocumentId::new(Kind::VirtualService, "shop", "b")];
    assert_eq!(voided, Voided { keeps: BTreeSet::from([bobs.0]), voids: BTreeSet::new(), ended: 1, bare });
}

#[test]
fn a_key_of_nobody_beside_the_removed_one_makes_no_author() {
    let (mut mesh, _, eve) = with_bob_and_eve(1);
    let change = mesh.change("shop", "a", "eves");
    mesh.insert(vec![change], &[&eve, &SigningKey::generate()]).unwrap();
    let voided = mesh.history.voiding(&without_eve(&mesh), &eve.public(), false, NOW);
    assert_eq!((voided.keeps.len(), voided.ended), (0, 1));
}

#[test]
fn two_children_of_a_role_set_wait_for_one_that_names_both() {
    let mut mesh = Mesh::new();
    let (bob, eve) = (SigningKey::generate(), SigningKey::generate());
    let with = |mesh: &Mesh, key: &SigningKey| mesh.role_set(|set| shop_role(set, key));
    let (left, right) = (with(&mesh, &bob), with(&mesh, &eve));
    let operator = mesh.operator.clone();
    let left = mesh.insert(vec![left], &[&operator]).unwrap();
    assert_eq!(mesh.history.state(NOW).role_set.number, 2);
    let right = mesh.changeset(vec![right]);
    let right = Changeset { role_set: 1, ..right };
    let right = mesh.history.insert(&signed(&right, &[&operator]), NOW).unwrap().id;
    let state = mesh.history.state(NOW);
    assert_eq!(state.role_set.number, 1);
    assert!(matches!(state.conflicts.as_slice(), [Conflict::RoleSets(rivals)] if rivals.len() == 2));
    let merged = with(&mesh, &bob);
    let mut heads = merged.replaces.clone();
    heads.sort_unstable();
    let mut both = vec![left, right];
    both.sort_unstable();
    assert_eq!(heads, both);
    mesh.insert(vec![merged], &[&operator]).unwrap();
    let state = mesh.history.state(NOW);
    assert_eq!((state.role_set.number, state.conflicts.len()), (3, 0));
    let mut joiner = History::new(trust_domain());
    for bytes in mesh.history.role_set_chain() {
        joiner.insert(&bytes, NOW).unwrap();
    }
    assert_eq!(joiner.state(NOW).role_set.changeset, state.role_set.changeset);
    assert_eq!(joiner.state(NOW).genesis, state.genesis);
}
