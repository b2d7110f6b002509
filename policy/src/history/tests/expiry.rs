//! A value that expires ends at its hour, and what it replaced holds again.

use certs::id::NodeId;

use super::{grants::grant as grant_of, *};

/// Later than [`NOW`] by a thousand seconds.
const END: Millis = NOW + 1_000_000;
const END_AS_WRITTEN: &str = "2023-11-14T22:30:00Z";
const LATER_AS_WRITTEN: &str = "2023-11-14T23:13:20Z";

fn id() -> DocumentId {
    DocumentId::new(Kind::VirtualService, "default", "a")
}

impl Mesh {
    /// A VirtualService for `host`, until then.
    fn until(&self, host: &str, end: &str) -> Change {
        let mut change = self.change("default", "a", host);
        let metadata = format!("\"metadata\":{{\"annotations\":{{\"skein.dev/expires\":\"{end}\"}},");
        change.content = change.content.map(|content| content.replace("\"metadata\":{", &metadata));
        change
    }

    fn heads(&self, now: Millis) -> Vec<ChangesetId> {
        self.history.state(now).heads(&id())
    }

    fn in_effect(&self, now: Millis) -> Option<ChangesetId> {
        self.history.state(now).documents.get(&id())?.effective.as_ref().map(|value| value.changeset)
    }
}

#[test]
fn a_document_that_replaced_nothing_ends() {
    let mut mesh = Mesh::new();
    let only = mesh.push(vec![mesh.until("x", LATER_AS_WRITTEN)]);
    assert!(mesh.history.state(NOW).document(&id()).is_some());
    let end = mesh.history.next_change(NOW).unwrap();
    assert!(mesh.history.state(end).document(&id()).is_none());
    assert_eq!(mesh.heads(end), [only], "what comes next replaces it");
}

#[test]
fn what_it_replaced_holds_again() {
    let mut mesh = Mesh::new();
    let canary = mesh.push(vec![mesh.change("default", "a", "canary")]);
    let fault = mesh.push(vec![mesh.until("fault", END_AS_WRITTEN)]);
    assert_eq!(mesh.heads(END - 1), [fault]);
    assert_eq!(mesh.history.next_change(NOW), Some(END));
    assert_eq!((mesh.heads(END), mesh.in_effect(END)), (vec![canary, fault], Some(canary)));
    assert_eq!(mesh.history.state(END).conflicts, []);
    // One after the other, and what was deleted in between stays deleted.
    let longer = mesh.push(vec![mesh.until("other", LATER_AS_WRITTEN)]);
    let later = mesh.history.next_change(END).unwrap();
    assert_eq!((mesh.in_effect(later - 1), mesh.in_effect(later)), (Some(longer), Some(canary)));
    let heads = mesh.heads(NOW);
    let gone = mesh.push(vec![Change { document: id(), content: None, replaces: heads }]);
    let fault = mesh.push(vec![mesh.until("fault", END_AS_WRITTEN)]);
    assert_eq!((mesh.heads(END), mesh.in_effect(END)), (vec![gone, fault], None));
}

#[test]
fn a_value_that_only_got_an_end_ends_with_it() {
    let mut mesh = Mesh::new();
    let canary = mesh.push(vec![mesh.change("default", "a", "canary")]);
    mesh.push(vec![mesh.change("default", "a", "fault")]);
    mesh.push(vec![mesh.until("fault", LATER_AS_WRITTEN)]);
    // Sooner than was said before.
    let sooner = mesh.push(vec![mesh.until("fault", END_AS_WRITTEN)]);
    assert_eq!((mesh.heads(END), mesh.in_effect(END)), (vec![canary, sooner], Some(canary)));
    // What replaced it before its end is replaced by nothing.
    let next = mesh.push(vec![mesh.change("default", "a", "next")]);
    assert_eq!(mesh.heads(END), [next]);

    let mut mesh = Mesh::new();
    mesh.push(vec![mesh.change("default", "a", "x")]);
    mesh.push(vec![mesh.until("x", END_AS_WRITTEN)]);
    assert_eq!(mesh.in_effect(END), None, "it was given an end, and nothing was there before");
}

#[test]
fn it_stands_in_for_nothing_once_it_is_over() {
    let mut mesh = Mesh::new();
    let canary = mesh.push(vec![mesh.change("default", "a", "canary")]);
    let fault = mesh.push(vec![mesh.until("fault", END_AS_WRITTEN)]);
    let mut future = mesh.change("default", "a", "y");
    future.content = future.content.map(|content| content.replace("\"hosts\"", "\"fromTheFuture\":1,\"hosts\""));
    let bytes = signed(&mesh.changeset(vec![future]), &[&mesh.operator]);
    mesh.history.insert(&bytes, NOW).unwrap();
    assert_eq!((mesh.in_effect(END - 1), mesh.in_effect(END)), (Some(fault), Some(canary)));
}

#[test]
fn an_expired_grant_brings_no_older_one_back() {
    let mut mesh = Mesh::new();
    let node = NodeId::new("web-1").unwrap();
    let document = DocumentId::mesh_wide(Kind::NodeGrant, "web-1");
    let mut grant = |services: &[&str], expires: bool| {
        let (_, mut content) = kinds::node_grant_body(&grant_of(services));
        if expires {
            let metadata = format!("\"metadata\":{{\"annotations\":{{\"skein.dev/expires\":\"{END_AS_WRITTEN}\"}},");
            content = content.replacen("\"metadata\":{", &metadata, 1);
        }
        let replaces = mesh.history.state(NOW).heads(&document);
        mesh.push(vec![Change { document: document.clone(), content: Some(content), replaces }]);
    };
    grant(&["shop/a"], false);
    grant(&["shop/b"], true);
    assert!(mesh.history.state(END - 1).grants().contains_key(&node));
    assert!(!mesh.history.state(END).grants().contains_key(&node));
}

/// Canary, fault with an end, and what was pushed when that had passed.
fn after_the_hour() -> (Mesh, [ChangesetId; 3]) {
    let mut mesh = Mesh::new();
    let canary = mesh.push(vec![mesh.change("default", "a", "canary")]);
    let fault = mesh.push(vec![mesh.until("fault", END_AS_WRITTEN)]);
    let change = Change { replaces: mesh.heads(END), ..mesh.change("default", "a", "next") };
    let changeset = Changeset { issued_at: END, ..mesh.changeset(vec![change]) };
    let bytes = signed(&changeset, &[&mesh.operator]);
    mesh.history.check_push(&bytes, END).unwrap();
    let next = mesh.history.insert(&bytes, END).unwrap().id;
    (mesh, [canary, fault, next])
}

#[test]
fn what_comes_after_the_end_replaces_it_on_slow_clocks_too() {
    let (mesh, [canary, fault, next]) = after_the_hour();
    assert_eq!((mesh.heads(END), mesh.in_effect(END)), (vec![next], Some(next)));
    assert_eq!((mesh.heads(END - 1), mesh.history.state(END - 1).conflicts.len()), (vec![next], 0));
    let forgettable: BTreeSet<_> = mesh.history.forgettable(END + RETENTION).into_iter().collect();
    assert_eq!(forgettable, BTreeSet::from([canary, fault]));
}

#[test]
fn a_change_is_taken_back_to_what_has_not_ended() {
    let (mesh, [canary, fault, next]) = after_the_hour();
    let host = |restored: &Change| restored.content.as_ref().map(|content| content.contains("canary"));
    for taken_back in [next, fault] {
        let restored = mesh.history.revert(&taken_back, END).unwrap();
        assert_eq!((host(&restored[0]), &restored[0].replaces), (Some(true), &vec![next]));
    }
    assert_eq!(mesh.history.revert(&canary, END).unwrap()[0].content, None);
    // Before its hour the fault still is what was there; and one that only got an end ends with it.
    let mut mesh = Mesh::new();
    mesh.push(vec![mesh.change("default", "a", "canary")]);
    mesh.push(vec![mesh.change("default", "a", "fault")]);
    mesh.push(vec![mesh.until("fault", END_AS_WRITTEN)]);
    let next = mesh.push(vec![mesh.change("default", "a", "next")]);
    assert_eq!(host(&mesh.history.revert(&next, END - 1).unwrap()[0]), Some(false));
    assert_eq!(host(&mesh.history.revert(&next, END).unwrap()[0]), Some(true));
}

#[test]
fn what_has_ended_is_not_pushed() {
    let mut mesh = Mesh::new();
    let change = mesh.until("fault", END_AS_WRITTEN);
    let changeset = Changeset { issued_at: END, ..mesh.changeset(vec![change]) };
    let refused = mesh.history.check_push(&signed(&changeset, &[&mesh.operator]), END);
    assert_eq!(code(refused), Code::InvalidDocument);
    let text = format!(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata:\n  name: a\n  annotations:\n    skein.dev/expires: {END_AS_WRITTEN}\nspec: {{host: a}}\n"
    );
    let located = crate::parse::yaml("f.yaml", &text, "default").documents;
    assert_eq!(crate::validate::ended(&located, END - 1), []);
    let said = crate::validate::ended(&located, END);
    assert!(
        matches!(&said[..], [one] if one.line == 6 && one.code == crate::codes::ENDED && one.refuses()),
        "{said:?}"
    );
}

#[test]
fn bodies_stay_that_may_live_again() {
    let mut mesh = Mesh::new();
    let canary = mesh.push(vec![mesh.change("default", "a", "canary")]);
    let far = NOW + RETENTION + 1_000;
    mesh.push(vec![mesh.until("fault", "2124-01-01T00:00:00Z")]);
    assert_eq!(mesh.history.forgettable(far), []);
    mesh.push(vec![mesh.change("default", "a", "next")]);
    assert!(mesh.history.forgettable(far).contains(&canary));
}
