//! What a split mesh forbade on either side stays forbidden: kinds of which all live values hold.

use super::*;

#[test]
fn every_value_that_is_to_be_obeyed_is_offered_deletions_included() {
    let mut mesh = Mesh::new();
    let operator = mesh.operator.clone();
    let base = mesh.push(vec![mesh.change("shop", "a", "x")]);
    let on_base = |mesh: &Mesh, host: &str| Change { replaces: vec![base], ..mesh.change("shop", "a", host) };
    let (kept, mut gone, mut strange) = (on_base(&mesh, "y"), on_base(&mesh, "z"), on_base(&mesh, "z"));
    let id = kept.document.clone();
    let kept = mesh.insert(vec![kept], &[&operator]).unwrap();
    gone.content = None;
    let gone = mesh.insert(vec![gone], &[&operator]).unwrap();
    // One that this build cannot read yields to its ancestor, which holds beside the others.
    strange.replaces = vec![kept];
    strange.content = strange.content.map(|body| body.replace("\"hosts\"", "\"fromTheFuture\":1,\"hosts\""));
    let strange = mesh.insert(vec![strange], &[&operator]).unwrap();
    let state = mesh.history.state(NOW);
    let live = state.documents[&id].clone();
    let offered: BTreeSet<ChangesetId> = live.in_force.iter().map(|value| value.changeset).collect();
    assert_eq!((offered, live.values.len()), (BTreeSet::from([kept, gone]), 2));
    assert!(live.values.iter().any(|value| value.changeset == strange));
    assert!(live.blind.is_empty(), "a document stands in for it");
    // Of a kind that unites both hold, of the others the winner alone.
    for (kind, holding) in [(Kind::AuthorizationPolicy, 2), (Kind::Revocation, 2), (Kind::VirtualService, 1)] {
        assert_eq!([kept, gone].iter().filter(|value| live.holds(kind, value)).count(), holding, "{kind}");
    }
    // A push that names all of them settles it; with a deletion there is nothing left to obey.
    let end = Change { content: None, ..mesh.change("shop", "a", "x") };
    mesh.insert(vec![end], &[&operator]).unwrap();
    let state = mesh.history.state(NOW);
    assert!(state.documents[&id].in_force.iter().all(|value| value.document.is_err()) && state.conflicts.is_empty());
}

/// Found by the simulation: nodes that had let the older one's body go differed from those that had not.
#[test]
fn what_a_stand_in_replaced_does_not_come_back() {
    let mut mesh = Mesh::new();
    let operator = mesh.operator.clone();
    let old = mesh.push(vec![mesh.change("shop", "a", "x")]);
    let new = mesh.push(vec![mesh.change("shop", "a", "y")]);
    let mut strange = Change { replaces: vec![old, new], ..mesh.change("shop", "a", "z") };
    let id = strange.document.clone();
    strange.content = strange.content.map(|body| body.replace("\"hosts\"", "\"fromTheFuture\":1,\"hosts\""));
    mesh.insert(vec![strange], &[&operator]).unwrap();
    let in_force = mesh.history.state(NOW).documents[&id].in_force.clone();
    assert_eq!(in_force.iter().map(|value| value.changeset).collect::<Vec<_>>(), [new]);
}

/// What stood in for an unreadable value was replaced beside it: what holds then is no word of its authors, maybe a laxer one.
#[test]
fn a_rival_does_not_stand_in_for_an_unreadable_value() {
    for deleted in [false, true] {
        let mut mesh = Mesh::new();
        let operator = mesh.operator.clone();
        let base = mesh.push(vec![mesh.change("shop", "a", "x")]);
        let on_base = |mesh: &Mesh, host: &str| Change { replaces: vec![base], ..mesh.change("shop", "a", host) };
        let future = |change: Change| Change {
            content: change.content.map(|body| body.replace("\"hosts\"", "\"fromTheFuture\":1,\"hosts\"")),
            ..change
        };
        let (mut rival, strange) = (on_base(&mesh, "y"), future(on_base(&mesh, "z")));
        let id = rival.document.clone();
        rival.content = rival.content.filter(|_| !deleted);
        let strange = mesh.insert(vec![strange], &[&operator]).unwrap();
        let found = |mesh: &Mesh| {
            let live = mesh.history.state(NOW).documents[&id].clone();
            let ids = |values: &[LiveValue]| values.iter().map(|value| value.changeset).collect::<Vec<_>>();
            (ids(&live.in_force), ids(&live.blind))
        };
        assert_eq!(found(&mesh), (vec![base], vec![]));
        let rival = mesh.insert(vec![rival], &[&operator]).unwrap();
        assert_eq!(found(&mesh), (vec![rival], vec![strange]));
        if !deleted {
            // Nor does what stands in for another.
            let above = future(Change { replaces: vec![rival], ..on_base(&mesh, "v") });
            mesh.insert(vec![above], &[&operator]).unwrap();
            assert_eq!(found(&mesh), (vec![rival], vec![strange]));
        }
        // Equal on nodes that have let the body go.
        mesh.history.forget(&base).unwrap();
        assert_eq!(found(&mesh), (vec![rival], vec![strange]));
        let end = mesh.insert(vec![mesh.change("shop", "a", "w")], &[&operator]).unwrap();
        assert_eq!(found(&mesh), (vec![end], vec![]));
    }
}

#[test]
fn of_routes_the_deepest_wins_then_the_lowest_id_and_the_loser_is_named() {
    let mut mesh = Mesh::new();
    let bob = SigningKey::generate();
    let operator = mesh.operator.clone();
    let next = mesh.role_set(|set| shop_role(set, &bob));
    mesh.insert(vec![next], &[&operator]).unwrap();
    let (left, right) = (mesh.change("shop", "a", "x"), mesh.change("shop", "a", "y"));
    let id = left.document.clone();
    let one = mesh.insert(vec![left], &[&operator]).unwrap();
    let two = mesh.insert(vec![right], &[&bob]).unwrap();
    let state = mesh.history.state(NOW);
    assert_eq!(state.documents[&id].effective.as_ref().unwrap().changeset, one.min(two));
    let on_two = Change { replaces: vec![two], ..mesh.change("shop", "a", "z") };
    let deeper = mesh.insert(vec![on_two], &[&bob]).unwrap();
    let state = mesh.history.state(NOW);
    assert_eq!(state.documents[&id].effective.as_ref().unwrap().changeset, deeper);
    let claim = |changeset, author: &str, in_effect| Claim { changeset, authors: vec![author.into()], in_effect };
    assert_eq!(state.conflicts, [Conflict::Values(id, vec![claim(deeper, "bob", true), claim(one, "ann", false)])]);
}
