//! Below the threshold a changeset waits; with the last signature that it needs it counts, everywhere and in any order.

use super::*;
use crate::changeset::{Approval, MAX_PROPOSALS, PROPOSAL_LIFE, encode};

/// ann and bob must sign together for `shop`; carl may replace either.
struct Board {
    mesh: Mesh,
    bob: SigningKey,
    carl: SigningKey,
}

impl Board {
    fn new() -> Self {
        let mut mesh = Mesh::new();
        let (bob, carl) = (SigningKey::generate(), SigningKey::generate());
        let operator = mesh.operator.clone();
        let next = mesh.role_set(|set| {
            shop_role(set, &bob);
            set.keys.push(RoleKey { name: "carl".into(), key: carl.public(), recovery: false });
            set.roles[0].namespaces = BTreeSet::from(["default".to_owned()]);
            set.roles[1].keys.extend(["ann".to_owned(), "carl".to_owned()]);
            set.roles[1].threshold = 2;
            set.threshold = 2;
            set.keeps = Some(BTreeSet::new());
        });
        mesh.insert(vec![next], &[&operator, &bob]).unwrap();
        Self { mesh, bob, carl }
    }

    fn propose(&mut self, name: &str, key: &SigningKey) -> ChangesetId {
        let change = self.mesh.change("shop", name, name);
        let bytes = signed(&self.mesh.changeset(vec![change]), &[key]);
        self.mesh.history.check_push(&bytes, NOW).unwrap();
        self.mesh.history.insert(&bytes, NOW).unwrap().id
    }

    fn approve(&mut self, id: ChangesetId, key: &SigningKey, now: Millis) -> Result<bool, Code> {
        let bytes = approval(id, key);
        self.mesh.history.check_push(&bytes, now).map_err(|refused| refused.code())?;
        Ok(self.mesh.history.insert(&bytes, now).unwrap().fresh)
    }

    fn live(&self, name: &str) -> Vec<ChangesetId> {
        self.mesh.history.state(NOW).heads(&DocumentId::new(Kind::VirtualService, "shop", name))
    }
}

fn approval(id: ChangesetId, key: &SigningKey) -> Vec<u8> {
    encode(&Approval::sign(&trust_domain(), id, key))
}

#[test]
fn the_last_signature_makes_it_count() {
    let mut board = Board::new();
    let ann = board.mesh.operator.clone();
    let bob = SigningKey::from_pem(&board.bob.to_pem()).unwrap();
    let id = board.propose("cart", &ann);
    assert_eq!(board.live("cart"), []);
    let waiting = &board.mesh.history.proposals(NOW)[0];
    assert_eq!((waiting.changeset, waiting.signed.as_slice()), (id, &["ann".to_owned()][..]));
    assert_eq!(waiting.missing, [Missing { count: 1, of: vec!["bob".into(), "carl".into()] }]);
    assert_eq!((waiting.until, waiting.stale.as_ref()), (waiting.time + PROPOSAL_LIFE, None));
    assert_eq!(board.approve(id, &ann, NOW), Err(Code::InvalidReference), "ann signs once");
    assert_eq!(board.approve(id, &SigningKey::generate(), NOW), Err(Code::RoleMissing));
    assert_eq!(board.approve(id, &bob, NOW), Ok(true));
    assert_eq!(board.live("cart"), [id]);
    assert_eq!(board.mesh.history.proposals(NOW), []);
    assert_eq!(board.mesh.history.state(NOW).effective().last().unwrap().1.authors.len(), 2);
    let carl = SigningKey::from_pem(&board.carl.to_pem()).unwrap();
    assert_eq!(board.approve(id, &carl, NOW), Err(Code::InvalidReference), "it counts already");
    // By sync a further signature is kept, once.
    assert!(board.mesh.history.insert(&approval(id, &carl), NOW).unwrap().fresh);
    assert!(!board.mesh.history.insert(&approval(id, &carl), NOW).unwrap().fresh);
}

#[test]
fn nothing_replaces_a_proposal_and_a_stale_one_is_not_signed() {
    let mut board = Board::new();
    let (ann, bob) = (board.mesh.operator.clone(), SigningKey::from_pem(&board.bob.to_pem()).unwrap());
    let first = board.propose("cart", &ann);
    let mut on_top = board.mesh.change("shop", "cart", "other");
    assert_eq!(on_top.replaces, [], "a proposal is no head");
    on_top.replaces = vec![first];
    let bytes = signed(&board.mesh.changeset(vec![on_top.clone()]), &[&ann]);
    assert_eq!(code(board.mesh.history.check_push(&bytes, NOW)), Code::InvalidReference);
    let second = board.propose("cart", &bob);
    board.approve(second, &ann, NOW).unwrap();
    assert_eq!(board.live("cart"), [second]);
    assert_eq!(board.approve(first, &bob, NOW), Err(Code::StaleParent));
    assert!(board.mesh.history.proposals(NOW)[0].stale.as_ref().unwrap().contains("was changed"));
    // What a peer brings nevertheless is a conflict like any other.
    board.mesh.history.insert(&approval(first, &bob), NOW).unwrap();
    assert_eq!(board.live("cart").len(), 2);
}

#[test]
fn proposals_end_and_one_key_has_few() {
    let mut board = Board::new();
    let ann = board.mesh.operator.clone();
    let bob = SigningKey::from_pem(&board.bob.to_pem()).unwrap();
    let ids: Vec<ChangesetId> = (0..MAX_PROPOSALS).map(|index| board.propose(&format!("d{index}"), &ann)).collect();
    let change = board.mesh.change("shop", "more", "more");
    let more = signed(&board.mesh.changeset(vec![change]), &[&ann]);
    assert_eq!(code(board.mesh.history.check_push(&more, NOW)), Code::QuotaExceeded);
    // Sync delays it, unless another operator has approved it already.
    assert_eq!(code(board.mesh.history.learn(&more, NOW)), Code::QuotaExceeded);
    let id = ChangesetId(crate::changeset::decode(&more).unwrap().id());
    assert_eq!(code(board.mesh.history.insert(&approval(id, &ann), NOW)), Code::MissingReference);
    assert_eq!(code(board.mesh.history.learn(&more, NOW)), Code::QuotaExceeded, "one's own word is none");
    assert_eq!(code(board.mesh.history.insert(&approval(id, &bob), NOW)), Code::MissingReference);
    assert!(board.mesh.history.learn(&more, NOW).unwrap().fresh);
    board.mesh.history.insert(&approval(id, &bob), NOW).unwrap();
    assert_eq!(board.live("more"), [id]);
    let later = NOW + PROPOSAL_LIFE + 1_000;
    assert_eq!(board.approve(ids[0], &bob, later), Err(Code::NotFound));
    assert_eq!(board.mesh.history.proposals(later), []);
    let due = board.mesh.history.forgettable(later);
    assert_eq!(due.len(), MAX_PROPOSALS, "{due:?}");
    assert!(!due.contains(&id));
}

#[test]
fn a_role_set_is_proposed_too_and_what_names_it_waits() {
    let mut board = Board::new();
    let (ann, bob) = (board.mesh.operator.clone(), SigningKey::from_pem(&board.bob.to_pem()).unwrap());
    let dora = SigningKey::generate();
    let next = board.mesh.role_set(|set| {
        set.keys.push(RoleKey { name: "dora".into(), key: dora.public(), recovery: false });
        set.roles[1].keys.insert("dora".into());
        set.threshold = 3;
    });
    let document = next.document.clone();
    let id = board.mesh.insert(vec![next], &[&ann]).unwrap();
    assert_eq!(board.mesh.history.state(NOW).role_set.number, 2);
    let missing = board.mesh.history.proposal(&id, NOW).unwrap().missing;
    assert_eq!(missing.iter().map(|missing| missing.count).collect::<Vec<_>>(), [1, 2], "{missing:?}");
    let change = board.mesh.change("shop", "x", "x");
    let early = signed(&Changeset { role_set: 3, ..board.mesh.changeset(vec![change]) }, &[&ann, &dora]);
    assert_eq!(code(board.mesh.history.insert(&early, NOW)), Code::RoleSetUnknown);
    board.approve(id, &bob, NOW).unwrap();
    assert_eq!(board.mesh.history.state(NOW).role_set.number, 2, "three must sign the new one");
    board.approve(id, &dora, NOW).unwrap();
    let state = board.mesh.history.state(NOW);
    assert_eq!((state.role_set.number, state.heads(&document)), (3, vec![id]));
    board.mesh.history.insert(&early, NOW).unwrap();
    let mut joiner = History::new(trust_domain());
    for bytes in board.mesh.history.role_set_chain() {
        joiner.insert(&bytes, NOW).unwrap();
    }
    assert_eq!(joiner.state(NOW).role_set.changeset, id);
}

#[test]
fn the_signature_of_a_removed_key_completes_nothing() {
    let mut board = Board::new();
    let (ann, bob) = (board.mesh.operator.clone(), SigningKey::from_pem(&board.bob.to_pem()).unwrap());
    let carl = SigningKey::from_pem(&board.carl.to_pem()).unwrap();
    let id = board.propose("cart", &ann);
    let removal = board.mesh.role_set(|set| {
        set.keys.retain(|key| key.name != "bob");
        set.roles[1].keys.remove("bob");
        set.keeps = Some(BTreeSet::new());
    });
    board.mesh.insert(vec![removal], &[&ann, &carl]).unwrap();
    board.mesh.history.insert(&approval(id, &bob), NOW).unwrap();
    assert_eq!(board.live("cart"), []);
    board.mesh.history.insert(&approval(id, &carl), NOW).unwrap();
    assert_eq!(board.live("cart"), [id]);
}

/// Else a key could have its proposals differ between nodes, and on top of one that only some have push what only those fold.
#[test]
fn what_counts_is_never_held_back_by_a_proposal_that_it_replaces() {
    let mut board = Board::new();
    let ann = board.mesh.operator.clone();
    for index in 0..MAX_PROPOSALS {
        board.propose(&format!("d{index}"), &ann);
    }
    // ann alone may change `default`, but not `shop`.
    let changes = vec![board.mesh.change("shop", "more", "x"), board.mesh.change("default", "own", "x")];
    let proposal = signed(&board.mesh.changeset(changes), &[&ann]);
    let id = ChangesetId(crate::changeset::decode(&proposal).unwrap().id());
    let on_top = |board: &mut Board, namespace: &str, name: &str| {
        let change = Change { replaces: vec![id], ..board.mesh.change(namespace, name, "y") };
        signed(&board.mesh.changeset(vec![change]), &[&ann])
    };
    let (proposed, counting) = (on_top(&mut board, "shop", "more"), on_top(&mut board, "default", "own"));
    let history = &mut board.mesh.history;
    assert_eq!(code(history.learn(&proposal, NOW)), Code::QuotaExceeded);
    assert_eq!(code(history.learn(&proposed, NOW)), Code::MissingReference);
    assert_eq!(code(history.learn(&proposal, NOW)), Code::QuotaExceeded, "another proposal on top is no reason");
    assert_eq!(code(history.learn(&counting, NOW)), Code::MissingReference);
    assert!(history.learn(&proposal, NOW).unwrap().fresh);
    let counting = history.learn(&counting, NOW).unwrap().id;
    let document = DocumentId::new(Kind::VirtualService, "default", "own");
    assert_eq!(history.state(NOW).heads(&document), [counting]);
}
