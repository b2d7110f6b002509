//! How many documents are folded again, and that nothing is missed by it.

use super::*;

const MANY: usize = 30;
const HOUR: Millis = 3_600_000;

/// How many documents it takes to fold the state at that time.
fn folded(mesh: &Mesh, now: Millis) -> usize {
    let count = || kept::counted::DOCUMENTS.with(std::cell::Cell::get);
    let before = count();
    let state = mesh.history.state(now);
    let work = count() - before;
    let all: Vec<&[u8]> = mesh.history.ids().filter_map(|id| Some(&**mesh.history.bytes(id)?)).collect();
    let mut anew = History::new(trust_domain());
    anew.insert_all(all.into_iter(), NOW).unwrap();
    let anew = anew.state(now);
    assert_eq!((state.digest, state.changes_at), (anew.digest, anew.changes_at), "as if everything was folded");
    assert_eq!(format!("{:?}", state.documents), format!("{:?}", anew.documents));
    work
}

/// Many documents, of which the first ten are bob's.
fn mesh(bob: &SigningKey) -> Mesh {
    let mut mesh = Mesh::new();
    let operator = mesh.operator.clone();
    let next = mesh.role_set(|set| shop_role(set, bob));
    mesh.insert(vec![next], &[&operator]).unwrap();
    for number in 0..MANY {
        let change = mesh.change("shop", &format!("d{number}"), "h");
        mesh.insert(vec![change], &[if number < 10 { bob } else { &operator }]).unwrap();
    }
    mesh
}

fn without_bob(mesh: &Mesh, keeps: BTreeSet<Digest>) -> Change {
    mesh.role_set(|set| {
        set.keys.retain(|key| key.name != "bob");
        set.roles.retain(|role| role.name != "shop");
        set.keeps = Some(keeps);
    })
}

#[test]
fn a_push_folds_what_it_changes_also_after_a_key_was_removed() {
    let bob = SigningKey::generate();
    let mut mesh = mesh(&bob);
    let operator = mesh.operator.clone();
    let kept = mesh.history.state(NOW).heads(&DocumentId::new(Kind::VirtualService, "shop", "d3"));
    // What it keeps beside that comes later, and so does what that replaces.
    let (late, then) = (mesh.change("shop", "late", "a"), mesh.change("shop", "d4", "late"));
    let late = mesh.changeset(vec![late, then]);
    let late = signed(&late, &[&bob]);
    let late_id = crate::changeset::decode(&late).unwrap().id();
    let removal = without_bob(&mesh, kept.iter().map(|id| id.0).chain([late_id]).collect());
    mesh.insert(vec![removal], &[&operator]).unwrap();
    assert!(folded(&mesh, NOW) >= MANY, "what others are worth changes");
    for round in 0..3 {
        let change = mesh.change("shop", "d20", &format!("again-{round}"));
        mesh.insert(vec![change], &[&operator]).unwrap();
        assert_eq!(folded(&mesh, NOW), 1, "round {round}");
    }
    let live = |mesh: &Mesh| mesh.history.state(NOW).effective().filter(|(id, _)| id.namespace == "shop").count();
    assert_eq!(live(&mesh), MANY - 9);
    mesh.history.insert(&late, NOW).unwrap();
    assert!(folded(&mesh, NOW) >= MANY, "what it refers to stays with it");
    assert_eq!(live(&mesh), MANY - 9 + 2, "the late one and the one that it replaced");
}

#[test]
fn a_trial_its_confirmation_and_its_end_fold_what_they_are_about() {
    let mut mesh = mesh(&SigningKey::generate());
    let operator = mesh.operator.clone();
    let trial = |mesh: &mut Mesh, name: &str, until: Millis| {
        let change = mesh.change("shop", name, "tried");
        let changeset = Changeset { confirm_by: Some(until), ..mesh.changeset(vec![change]) };
        mesh.history.insert(&signed(&changeset, &[&operator]), NOW).unwrap().id
    };
    let confirmed = trial(&mut mesh, "d20", NOW + HOUR);
    assert_eq!(folded(&mesh, NOW), 1);
    trial(&mut mesh, "d21", NOW + 2 * HOUR);
    assert_eq!(folded(&mesh, NOW), 1);
    assert_eq!(mesh.history.state(NOW).changes_at, Some(NOW + HOUR));
    mesh.push(vec![crate::changeset::confirmation(&confirmed)]);
    assert_eq!(folded(&mesh, NOW), 2, "the trial's document and the confirmation");
    assert_eq!(mesh.history.state(NOW).changes_at, Some(NOW + 2 * HOUR), "the other one");
    assert_eq!(folded(&mesh, NOW + HOUR), 0, "it is confirmed");
    assert_eq!(folded(&mesh, NOW + 2 * HOUR), 1, "the other one ends");
    assert_eq!(folded(&mesh, NOW + 3 * HOUR), 0);
    assert_eq!(folded(&mesh, NOW + HOUR), 1, "by a clock that was set back");
}
