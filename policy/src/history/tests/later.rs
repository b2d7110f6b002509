//! What a later build wrote: whatever this one can keep of it counts, and nobody gets a right by what it cannot read.

use certs::{id::NodeId, sign::Signed};

use super::*;
use crate::changeset::encode;

/// The same with a field in its `spec` that no build knows.
fn future(change: Change) -> Change {
    let content = change.content.map(|body| body.replace("\"spec\":{", "\"spec\":{\"fromTheFuture\":1,"));
    assert!(content.as_ref().is_some_and(|body| body.contains("fromTheFuture")), "{content:?}");
    Change { content, ..change }
}

fn accounts<C: FromIterator<certs::id::ServiceAccount>>(names: &[&str]) -> C {
    names.iter().map(|name| name.parse().unwrap()).collect()
}

/// A change of a Revocation that replaces what lives now.
fn revoke(mesh: &Mesh, name: &str, revocation: &Revocation) -> Change {
    let (document, content) = revocation.body(name);
    let replaces = mesh.history.state(NOW).heads(&document);
    Change { document, content: Some(content), replaces }
}

fn evicting(node: &NodeId) -> Revocation {
    Revocation { nodes: BTreeMap::from([(node.clone(), 1)]), ..Revocation::default() }
}

#[test]
fn what_was_revoked_stays_revoked_and_what_can_be_read_is_revoked_too() {
    let mut mesh = Mesh::new();
    let operator = mesh.operator.clone();
    let of = |names: &[&str]| Revocation { accounts: accounts(names), ..Revocation::default() };
    mesh.push(vec![revoke(&mesh, "leak", &of(&["shop/a", "shop/c"]))]);
    let next = future(revoke(&mesh, "leak", &of(&["shop/a", "shop/b"])));
    let id = next.document.clone();
    let unread = mesh.insert(vec![next], &[&operator]).unwrap();
    let state = mesh.history.state(NOW);
    assert_eq!(state.revocations().accounts, accounts(&["shop/a", "shop/b", "shop/c"]));
    assert_eq!(
        (state.unread(&id), state.conflicts.as_slice()),
        (Some(unread), &[Conflict::Unreadable(id, unread)][..])
    );
}

#[test]
fn a_first_eviction_counts_as_far_as_it_can_be_read_and_for_ever() {
    let mut mesh = Mesh::new();
    let (operator, node) = (mesh.operator.clone(), NodeId::new("web-1").unwrap());
    let eviction = future(revoke(&mesh, "web-1", &evicting(&node)));
    mesh.insert(vec![eviction], &[&operator]).unwrap();
    assert!(mesh.history.state(NOW).revocations().evicted(&node, 1));
    let empty = revoke(&mesh, "web-1", &Revocation::default());
    let bytes = signed(&mesh.changeset(vec![empty]), &[&operator]);
    assert_eq!(code(mesh.history.check_push(&bytes, NOW)), Code::NotSupported, "this build keeps that, too");
    mesh.history.insert(&bytes, NOW).unwrap();
    assert!(mesh.history.state(NOW).revocations().evicted(&node, 1));
    // Nothing of this one can be read.
    let (document, _) = Revocation::default().body("strange");
    let strange = Change { document, content: Some("{\"spec\":[]}".into()), replaces: vec![] };
    mesh.insert(vec![strange], &[&operator]).unwrap();
    assert!(mesh.history.state(NOW).revocations().evicted(&node, 1));
}

#[test]
fn verbs_and_kinds_of_a_later_build_stay_in_a_role_set_and_give_no_right() {
    let mut mesh = Mesh::new();
    let (operator, bob) = (mesh.operator.clone(), SigningKey::generate());
    let mut next = mesh.role_set(|set| shop_role(set, &bob));
    let mut body = next.content.take().unwrap();
    let words = [
        ("\"kinds\":[\"*\"]", "\"kinds\":[\"TrafficMirror\"]"),
        ("\"verbs\":[\"view\",\"push\"]", "\"verbs\":[\"audit\",\"push\"]"),
    ];
    for (known, later) in words {
        // Of the last role.
        let at = body.rfind(known).unwrap();
        body.replace_range(at..at + known.len(), later);
    }
    next.content = Some(body);
    let bytes = signed(&mesh.changeset(vec![next]), &[&operator]);
    assert_eq!(code(mesh.history.check_push(&bytes, NOW)), Code::InvalidDocument, "whoever pushes it here is told");
    mesh.history.insert(&bytes, NOW).unwrap();
    let state = mesh.history.state(NOW);
    assert_eq!((state.role_set.number, state.conflicts.len()), (2, 0));
    // What is signed under it counts.
    let node = NodeId::new("web-1").unwrap();
    mesh.push(vec![revoke(&mesh, "web-1", &evicting(&node))]);
    assert!(mesh.history.state(NOW).revocations().evicted(&node, 1));
    // The role covers its kind, and nothing else.
    assert_eq!(mesh.insert(vec![mesh.change("shop", "a", "a")], &[&bob]), Err(Code::RoleMissing));
    let mirror = DocumentId::new(Kind::of_word("TrafficMirror").unwrap(), "shop", "a");
    let mirror = Change { content: Some("{}".into()), replaces: vec![], document: mirror };
    mesh.insert(vec![mirror], &[&bob]).unwrap();
    // Whoever writes the RoleSet anew takes nothing of it away.
    let again = mesh.role_set(|set| set.keys[0].name = "anna".into()).content.unwrap();
    assert!(again.contains("\"audit\"") && again.contains("\"TrafficMirror\""), "{again}");
}

#[test]
fn a_role_set_that_cannot_be_read_is_followed_and_what_is_signed_under_it_counts() {
    let mut mesh = Mesh::new();
    let (operator, bob, carl) = (mesh.operator.clone(), SigningKey::generate(), SigningKey::generate());
    let next = mesh.role_set(|set| shop_role(set, &bob));
    mesh.insert(vec![next], &[&operator]).unwrap();
    let bobs = mesh.change("shop", "bobs", "a");
    let bobs = mesh.insert(vec![bobs], &[&bob]).unwrap();
    let next = future(mesh.role_set(|set| {
        shop_role(set, &carl);
        set.keys.retain(|key| key.key != bob.public());
        set.keys.last_mut().unwrap().name = "carl".into();
        set.roles.truncate(1);
        set.roles[0].keys.insert("carl".into());
        set.threshold = 2;
        set.keeps = Some(BTreeSet::from([bobs.0]));
    }));
    let id = next.document.clone();
    // Only who governs the one before can say so.
    assert_eq!(mesh.insert(vec![next.clone()], &[&carl]), Err(Code::RoleMissing));
    let unread = mesh.insert(vec![next], &[&operator]).unwrap();
    let state = mesh.history.state(NOW);
    assert_eq!((state.role_set.number, state.role_set.changeset), (3, unread));
    assert_eq!(
        (state.unread(&id), state.conflicts.as_slice()),
        (Some(unread), &[Conflict::Unreadable(id, unread)][..])
    );
    assert_eq!(state.trust().roots, [vec![1, 2, 3]]);
    let node = NodeId::new("web-1").unwrap();
    mesh.push(vec![revoke(&mesh, "web-1", &evicting(&node))]);
    assert!(mesh.history.state(NOW).revocations().evicted(&node, 1));
    // Who was removed by it is out, what was kept of his stays, and nobody comes in by it.
    let document = DocumentId::new(Kind::VirtualService, "shop", "bobs");
    assert_eq!(mesh.history.state(NOW).heads(&document), [bobs]);
    for key in [&bob, &carl] {
        assert_eq!(mesh.insert(vec![mesh.change("shop", "b", "b")], &[key]), Err(Code::RoleMissing));
    }
    // The next one that can be read is followed, though it may say less than what stands in for the one before.
    let last = mesh.role_set(|set| {
        set.roles.truncate(1);
        set.keeps = None;
    });
    mesh.insert(vec![last], &[&operator]).unwrap();
    let state = mesh.history.state(NOW);
    assert_eq!((state.role_set.number, state.conflicts.len(), state.heads(&document)), (4, 0, vec![bobs]));
    // In any order.
    let all: Vec<Vec<u8>> = mesh.history.ids().map(|id| mesh.history.bytes(id).unwrap().to_vec()).collect();
    let order: Vec<usize> = (0..all.len()).rev().collect();
    let again = arrival::replay(&all, &order);
    assert_eq!((again.digest(), again.state(NOW).digest), (mesh.history.digest(), state.digest));
}

#[test]
fn what_stands_beside_a_kind_of_a_later_build_is_in_force() {
    let mut mesh = Mesh::new();
    let operator = mesh.operator.clone();
    let mirror = DocumentId::new(Kind::of_word("TrafficMirror").unwrap(), "shop", "a");
    let policy = DocumentId::new(Kind::AuthorizationPolicy, "shop", "deny");
    let body = |id: &DocumentId, group: &str| {
        let metadata = serde_json::json!({"name": id.name, "namespace": id.namespace});
        serde_json::json!({"apiVersion": format!("{group}.istio.io/v1"), "kind": id.kind.as_str(), "metadata": metadata,
            "spec": {}})
        .to_string()
    };
    let change =
        |id: &DocumentId, group| Change { document: id.clone(), content: Some(body(id, group)), replaces: vec![] };
    let both = mesh.changeset(vec![change(&mirror, "networking"), change(&policy, "security")]);
    let bytes = signed(&both, &[&operator]);
    assert_eq!(code(mesh.history.check_push(&bytes, NOW)), Code::InvalidDocument, "whoever pushes it here is told");
    let both = mesh.history.insert(&bytes, NOW).unwrap().id;
    let state = mesh.history.state(NOW);
    assert!(state.document(&policy).is_some() && state.document(&mirror).is_none());
    assert_eq!(state.conflicts, [Conflict::Unreadable(mirror.clone(), both)]);
    assert_eq!(mesh.history.get(&both).unwrap().changeset.changes[0].document, mirror);
    // Ordered by words: builds that know the kind have the same digest.
    assert!(state.documents.keys().map(|id| id.kind.as_str()).is_sorted());
}

#[test]
fn what_operators_signed_in_another_form_is_known_to_be_of_a_later_build() {
    let mut mesh = Mesh::new();
    let good = mesh.changeset(vec![]).sign(&[&mesh.operator]);
    let form = |kind: &str, payload: &[u8], key: &SigningKey| {
        let mut packed = good.clone();
        packed.signed = Signed::new(kind, payload.to_vec());
        packed.signed.add(key);
        encode(&packed)
    };
    let longer = [good.signed.payload.as_slice(), &[0]].concat();
    let other = SigningKey::generate();
    let cases = [
        (form(changeset::KIND, &longer, &mesh.operator), true),
        (form("skein.changeset/2", &longer, &mesh.operator), true),
        (form(changeset::KIND, &longer, &other), false),
        (form("skein.receipt/1", &longer, &mesh.operator), false),
        (b"nonsense".to_vec(), false),
    ];
    for (bytes, expected) in cases {
        let refused = mesh.history.insert(&bytes, NOW).unwrap_err();
        assert!(refused.is_final(), "{refused}");
        assert_eq!(mesh.history.is_of_later_build(&bytes, &refused), expected, "{refused}");
    }
    let strange = signed(&mesh.changeset(vec![mesh.change("shop", "a", "a")]), &[&other]);
    let refused = mesh.history.insert(&strange, NOW).unwrap_err();
    assert!(!mesh.history.is_of_later_build(&strange, &refused), "that build could read");
}
