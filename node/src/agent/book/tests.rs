//! A push is durable before it is seen, refusals leave a line, and what a peer spoils stays fetchable.

use certs::sign::SigningKey;
use futures_util::FutureExt as _;
use policy::{DocumentId, Kind, changeset::Changeset, history::signed};

use super::*;
use crate::testing::{self, NOW};

struct Mesh {
    folder: tempfile::TempDir,
    operator: SigningKey,
    genesis: Vec<u8>,
}

impl Mesh {
    fn new() -> Self {
        let testing::Mesh { operator, genesis, .. } = testing::Mesh::new();
        Self { folder: tempfile::tempdir().unwrap(), operator, genesis }
    }

    fn book(&self, name: &str) -> Arc<Book> {
        let store = Arc::new(Store::open(&self.folder.path().join(name)).unwrap());
        if store.changesets().unwrap().is_empty() {
            store.append(&[&self.genesis], &[]).unwrap();
        }
        Arc::new(Book::load(store, &testing::trust_domain(), NOW).unwrap())
    }

    fn grant(&self, node: &str, key: &SigningKey, replaces: Vec<ChangesetId>) -> Vec<u8> {
        let grant = certs::grant::NodeGrant {
            node: NodeId::new(node).unwrap(),
            epoch: 1 + replaces.len() as u64,
            services: Vec::new(),
            token_hash: None,
            redeemer: None,
            token_expires: None,
            enroller: false,
            retired: false,
        };
        let (document, body) = policy::kinds::node_grant_body(&grant);
        signed(&testing::changeset(document, Some(body), replaces), &[key])
    }
}

#[tokio::test]
async fn what_was_pushed_is_there_after_a_restart_and_pushed_once() {
    let mesh = Mesh::new();
    let book = mesh.book("a");
    let grant = mesh.grant("web-1", &mesh.operator, vec![]);
    let id = book.push(grant.clone(), "push", NOW).await.unwrap();
    assert_eq!(book.push(grant, "push", NOW).await.unwrap(), id);
    assert_eq!(book.latest(16).await[0], id.0);
    drop(book);
    let again = mesh.book("a");
    assert!(again.state(NOW).await.grants().contains_key(&NodeId::new("web-1").unwrap()));
}

#[tokio::test]
async fn what_is_folded_already_is_given_without_another_thread() {
    let mesh = Mesh::new();
    let book = mesh.book("a");
    let first = book.state(NOW).await;
    for now in [NOW, NOW + 2_000, NOW + 1_000] {
        let again = book.state(now).now_or_never().expect("nothing is left to do");
        assert!(Arc::ptr_eq(&again, &first));
    }
    book.push(mesh.grant("web-1", &mesh.operator, vec![]), "push", NOW).await.unwrap();
    assert!(book.state(NOW).now_or_never().is_none(), "it is folded aside");
    let second = book.state(NOW).await;
    assert!(Arc::ptr_eq(&book.state(NOW).now_or_never().expect("known again"), &second));
    assert!(second.grants().contains_key(&NodeId::new("web-1").unwrap()));
}

#[tokio::test]
async fn a_refused_push_leaves_an_audit_line_and_nothing_else() {
    let mesh = Mesh::new();
    let book = mesh.book("a");
    let before = book.look(|history| history.digest()).await;
    let foreign = mesh.grant("web-1", &SigningKey::generate(), vec![]);
    assert_eq!(book.push(foreign, "push", NOW).await.unwrap_err().code, "role_missing");
    assert_eq!(book.push(b"nonsense".to_vec(), "push", NOW).await.unwrap_err().code, "bad_request");
    assert_eq!(book.look(|history| history.digest()).await, before);
    assert_eq!(book.store.audit(0, usize::MAX).unwrap().len(), 2);
}

#[tokio::test]
async fn spoilt_signatures_do_not_keep_the_changeset_out() {
    let mesh = Mesh::new();
    let book = mesh.book("a");
    let good = mesh.grant("web-1", &mesh.operator, vec![]);
    let mut spoilt = changeset::decode(&good).unwrap();
    spoilt.signed.signatures[0].1.0[7] ^= 1;
    let id = spoilt.id();
    let learned = book.learn(vec![changeset::encode(&spoilt)], "mallory", NOW).await.unwrap();
    assert_eq!((learned.fresh.len(), learned.refused.len()), (0, 1));
    let (now, [mallory, other]) = (Uptime::now(), ["mallory", "a"].map(|name| NodeId::new(name).unwrap()));
    assert_eq!(book.lacking(&[id], &mallory, now).await, [], "not again from the one that spoilt it");
    assert_eq!(book.lacking(&[id], &other, now).await, [id], "at once from others");
    let later = Uptime(now.0 + 2 * DELAY);
    assert_eq!(book.lacking(&[id], &mallory, later).await, [id]);
    assert_eq!(book.learn(vec![good], "a", NOW).await.unwrap().fresh.len(), 1);
    let foreign = mesh.grant("web-2", &SigningKey::generate(), vec![]);
    let id = changeset::decode(&foreign).unwrap().id();
    book.learn(vec![foreign], "mallory", NOW).await.unwrap();
    assert_eq!(book.lacking(&[id], &other, later).await, []);
}

/// What the key signs in a form of no build so far.
fn later(mesh: &Mesh, key: &SigningKey) -> Vec<u8> {
    let mut packed = changeset::decode(&mesh.grant("web-1", key, vec![])).unwrap();
    packed.signed = certs::sign::Signed::new(changeset::KIND, [&packed.signed.payload[..], &[0]].concat());
    packed.signed.add(key);
    changeset::encode(&packed)
}

#[tokio::test]
async fn what_a_later_build_left_in_the_store_or_sends_is_a_problem() {
    let mesh = Mesh::new();
    let book = mesh.book("a");
    assert_eq!(book.trouble(), None);
    // Nothing that strangers make up.
    book.learn(vec![later(&mesh, &SigningKey::generate())], "mallory", NOW).await.unwrap();
    assert_eq!(book.trouble(), None);
    let unread = later(&mesh, &mesh.operator);
    for _ in 0..2 {
        book.learn(vec![unread.clone()], "web", NOW).await.unwrap();
        let trouble = book.trouble().unwrap();
        assert!(trouble.code == "policy_refused" && trouble.to_string().starts_with("1 "), "{trouble}");
    }
    // After a downgrade.
    let store = Store::open(&mesh.folder.path().join("b")).unwrap();
    let id = ChangesetId(changeset::decode(&unread).unwrap().id());
    let above = mesh.grant("web-1", &mesh.operator, vec![id]);
    store.append(&[&mesh.genesis, &unread, &above], &[]).unwrap();
    drop(store);
    let trouble = mesh.book("b").trouble().unwrap();
    assert!(trouble.code == "policy_refused" && trouble.to_string().starts_with("2 "), "{trouble}");
}

#[tokio::test]
async fn a_peers_rubbish_does_not_fill_the_audit_chain() {
    let mesh = Mesh::new();
    let book = mesh.book("a");
    let before = book.store.audit(0, usize::MAX).unwrap().len();
    book.learn(vec![Vec::new(); 5_000], "mallory", NOW).await.unwrap();
    book.learn(vec![Vec::new(); 5_000], "mallory", NOW).await.unwrap();
    let added = book.store.audit(0, usize::MAX).unwrap().len() - before;
    assert!((refusals::A_MINUTE..=refusals::A_DAY_EACH).contains(&added), "{added}: a minute may have ended");
}

#[tokio::test]
async fn what_lacks_its_references_names_them() {
    let mesh = Mesh::new();
    let (one, two) = (mesh.book("a"), mesh.book("b"));
    let first = mesh.grant("web-1", &mesh.operator, vec![]);
    let id = one.push(first.clone(), "push", NOW).await.unwrap();
    let second = mesh.grant("web-1", &mesh.operator, vec![id]);
    one.push(second.clone(), "push", NOW).await.unwrap();
    let learned = two.learn(vec![second.clone()], "a", NOW).await.unwrap();
    assert_eq!((learned.fresh.len(), learned.missing), (0, vec![id]));
    let learned = two.learn(vec![first, second], "a", NOW).await.unwrap();
    assert_eq!(learned.fresh.len(), 2);
    assert_eq!(two.look(|h| h.digest()).await, one.look(|h| h.digest()).await);
    let document = DocumentId::mesh_wide(Kind::NodeGrant, "web-1");
    let closure = one.closure(|c| c.changes.iter().any(|change| change.document == document), 1 << 20).await;
    assert_eq!(closure.unwrap().len(), 2);
    assert_eq!(one.closure(|_| true, 10).await, None);
}

/// A route of the mesh's operator that replaces what `replaces` names.
fn route(mesh: &Mesh, at: Millis, replaces: Vec<ChangesetId>) -> Vec<u8> {
    let document = DocumentId::new(Kind::VirtualService, "shop", "cart");
    let body = r#"{"apiVersion":"networking.istio.io/v1","kind":"VirtualService","metadata":{"name":"cart","namespace":"shop"},"spec":{"hosts":["cart"],"http":[{"route":[{"destination":{"host":"cart"}}]}]}}"#;
    let changeset = Changeset { issued_at: at, ..testing::changeset(document, Some(body.into()), replaces) };
    signed(&changeset, &[&mesh.operator])
}

#[tokio::test]
async fn old_bodies_go_from_disk_and_memory_and_come_back_when_they_are_wanted() {
    let mesh = Mesh::new();
    let book = mesh.book("a");
    let old = route(&mesh, NOW, vec![]);
    let first = book.push(old.clone(), "push", NOW).await.unwrap();
    let second = book.push(route(&mesh, NOW + 1, vec![first]), "push", NOW + 1).await.unwrap();
    assert_eq!(book.forget(NOW + 2).await.unwrap(), 0);
    let later = NOW + policy::history::RETENTION + 2;
    assert_eq!(book.forget(later).await.unwrap(), 1);
    let before = book.state(later).await.digest;
    assert!(book.look(|history| !history.get(&first).unwrap().whole && history.get(&second).unwrap().whole).await);
    drop(book);
    let again = mesh.book("a");
    assert_eq!(again.state(later).await.digest, before);
    let (whole, seen) =
        again.look(|history| (history.get(&first).unwrap().whole, history.get(&second).unwrap().seen)).await;
    assert!(!whole && seen == NOW + 1, "when it came is known after a restart: {seen}");
    // Whoever brings the body makes it whole, on disk too, and there is one entry in the order of arrival.
    assert_eq!(again.learn(vec![old], "b", later).await.unwrap().fresh, [first]);
    assert_eq!(again.latest(16).await.iter().filter(|id| **id == first.0).count(), 1);
    drop(again);
    assert!(mesh.book("a").look(|history| history.get(&first).unwrap().whole).await);
}

#[test]
fn each_refusal_has_a_code_of_its_own_that_every_door_knows() {
    let told = |code| {
        let refused = Refused::Because { code, message: "x".to_owned(), hint: "y".to_owned() };
        let error = super::refusal(&refused);
        let known = crate::error::CODES.iter().any(|row| row.0 == error.code);
        assert!(known && error.hint == "y", "{code:?}: {error:?}");
        error.code.into_owned()
    };
    for (code, word) in [
        (Code::RoleMissing, "role_missing"),
        (Code::ThresholdMissing, "threshold_missing"),
        (Code::RoleSetUnknown, "role_set_unknown"),
        (Code::RoleSetInvalid, "role_set_invalid"),
        (Code::InvalidDocument, "invalid_document"),
        (Code::InvalidReference, "invalid_reference"),
        (Code::NotInitialised, "not_initialised"),
        (Code::BadSignature, "bad_signature"),
        (Code::StaleParent, "stale_parent"),
        (Code::QuotaExceeded, "quota_exceeded"),
    ] {
        assert_eq!(told(code), word);
    }
}

#[tokio::test]
async fn what_was_signed_is_told_in_pages_that_hold_together() {
    let mesh = Mesh::new();
    let book = mesh.book("a");
    let mut last = Vec::new();
    for at in 0..5 {
        last = vec![book.push(route(&mesh, NOW + at, last), "push", NOW + at).await.unwrap()];
    }
    let (all, next) = book.signed(0, 1 << 20, NOW).await.unwrap();
    assert_eq!((all.len(), next), (6, None));
    let mut told = History::new(testing::trust_domain());
    let (mut from, mut pages) = (Some(0), Vec::new());
    while let Some(at) = from {
        // Not one changeset fits, and still it goes on.
        let (page, next) = book.signed(at, 10, NOW).await.unwrap();
        told.insert_all(page.iter().map(Vec::as_slice), NOW).unwrap();
        pages.extend(page);
        from = next;
    }
    assert_eq!(pages, all);
    assert!(book.look(|history| history.digest() == told.digest()).await);
    assert!(!told.get(&last[0]).unwrap().whole, "heads are enough");
    assert_eq!(told.state(NOW).heads(&DocumentId::new(Kind::VirtualService, "shop", "cart")), last);
}
