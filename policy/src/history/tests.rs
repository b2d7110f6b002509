//! Laws of the fold, and who may sign what.

use std::collections::BTreeMap;

use certs::{grant::NodeGrant, sign::SigningKey};

mod arrival;
mod branches;
mod expiry;
mod grants;
mod later;
mod proposals;
mod removals;
mod retention;
mod unions;
mod work;

use super::*;
use crate::{
    changeset::{Change, Changeset},
    kinds::{self, Revocation, Role, RoleKey, Verb},
};

const NOW: Millis = 1_700_000_000_000;

struct Mesh {
    history: History,
    operator: Arc<SigningKey>,
    recovery: Arc<SigningKey>,
    nonce: u8,
}

fn trust_domain() -> TrustDomain {
    TrustDomain::new("prod.example").unwrap()
}

impl Mesh {
    fn new() -> Self {
        let (operator, recovery) = (Arc::new(SigningKey::generate()), Arc::new(SigningKey::generate()));
        let keys = [("ann".to_owned(), operator.public(), false), ("safe".to_owned(), recovery.public(), true)];
        let first = genesis(&trust_domain(), &[vec![1, 2, 3]], &keys, NOW);
        let mut history = History::new(trust_domain());
        history.insert(&signed(&first, &[&operator]), NOW).unwrap();
        Self { history, operator, recovery, nonce: 0 }
    }

    fn changeset(&mut self, changes: Vec<Change>) -> Changeset {
        self.nonce += 1;
        Changeset {
            trust_domain: trust_domain(),
            role_set: self.history.state(NOW).role_set.number,
            issued_at: NOW + u64::from(self.nonce),
            message: format!("push {}", self.nonce),
            confirm_by: None,
            nonce: [self.nonce; 16],
            changes,
        }
    }

    /// A change of a VirtualService that replaces what lives now.
    fn change(&self, namespace: &str, name: &str, host: &str) -> Change {
        let document = DocumentId::new(Kind::VirtualService, namespace, name);
        let replaces = self.history.state(NOW).heads(&document);
        Change { content: Some(virtual_service(&document, host)), document, replaces }
    }

    fn push(&mut self, changes: Vec<Change>) -> ChangesetId {
        let changeset = self.changeset(changes);
        let bytes = signed(&changeset, &[&self.operator]);
        self.history.check_push(&bytes, NOW).unwrap();
        self.history.insert(&bytes, NOW).unwrap().id
    }

    fn role_set(&self, edit: impl FnOnce(&mut RoleSet)) -> Change {
        let mut set = (*self.history.state(NOW).role_set.set).clone();
        set.trust = None;
        edit(&mut set);
        let (document, content) = set.body();
        let replaces = self.history.state(NOW).heads(&document);
        Change { document, content: Some(content), replaces }
    }

    fn insert(&mut self, changes: Vec<Change>, keys: &[&SigningKey]) -> Result<ChangesetId, Code> {
        let changeset = self.changeset(changes);
        self.history
            .insert(&signed(&changeset, keys), NOW)
            .map(|inserted| inserted.id)
            .map_err(|refused| refused.code())
    }
}

fn virtual_service(id: &DocumentId, host: &str) -> String {
    let spec = serde_json::json!({"hosts": [host], "http": [{"route": [{"destination": {"host": host}}]}]});
    serde_json::json!({
        "apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
        "metadata": {"name": id.name, "namespace": id.namespace}, "spec": spec,
    })
    .to_string()
}

fn shop_role(set: &mut RoleSet, key: &SigningKey) {
    set.keys.push(RoleKey { name: "bob".into(), key: key.public(), recovery: false });
    set.roles.push(Role {
        name: "shop".into(),
        keys: BTreeSet::from(["bob".to_owned()]),
        threshold: 1,
        namespaces: BTreeSet::from(["shop".to_owned()]),
        kinds: None,
        verbs: BTreeSet::from([Verb::View, Verb::Push]),
    });
}

fn code<T: std::fmt::Debug>(result: Result<T, Refused>) -> Code {
    result.unwrap_err().code()
}

#[test]
fn the_latest_version_is_live_and_stale_parents_are_refused() {
    let mut mesh = Mesh::new();
    let id = DocumentId::new(Kind::VirtualService, "default", "reviews");
    let stale = mesh.change("default", "reviews", "old");
    let first = mesh.push(vec![mesh.change("default", "reviews", "a")]);
    let second = mesh.push(vec![mesh.change("default", "reviews", "b")]);
    let state = mesh.history.state(NOW);
    assert_eq!(state.heads(&id), [second]);
    assert_eq!(state.documents[&id].effective.as_ref().unwrap().version, 2);
    assert_eq!(state.documents[&id].effective.as_ref().unwrap().authors, ["ann"]);
    assert_eq!(state.document(&id).unwrap().created, Some(mesh.history.get(&first).unwrap().changeset.issued_at));
    let changeset = mesh.changeset(vec![stale]);
    let bytes = signed(&changeset, &[&mesh.operator]);
    assert_eq!(code(mesh.history.check_push(&bytes, NOW)), Code::StaleParent);
    // By sync it is kept, and the deeper one stays in effect.
    let old = mesh.history.insert(&bytes, NOW).unwrap().id;
    let state = mesh.history.state(NOW);
    assert_eq!(state.documents[&id].effective.as_ref().unwrap().changeset, second);
    let claim = |changeset, in_effect| Claim { changeset, authors: vec!["ann".into()], in_effect };
    assert_eq!(state.conflicts, [Conflict::Values(id.clone(), vec![claim(second, true), claim(old, false)])]);
    let third = mesh.push(vec![mesh.change("default", "reviews", "c")]);
    assert_eq!(mesh.history.state(NOW).heads(&id), [third]);
    assert!(mesh.history.state(NOW).conflicts.is_empty());
}

#[test]
fn a_deletion_stays_and_a_revert_restores() {
    let mut mesh = Mesh::new();
    let id = DocumentId::new(Kind::VirtualService, "default", "reviews");
    mesh.push(vec![mesh.change("default", "reviews", "a")]);
    let replaces = mesh.history.state(NOW).heads(&id);
    let deletion = mesh.push(vec![Change { document: id.clone(), content: None, replaces }]);
    assert!(mesh.history.state(NOW).document(&id).is_none());
    assert_eq!(mesh.history.state(NOW).heads(&id), [deletion]);
    let back = mesh.history.revert(&deletion, NOW).unwrap();
    mesh.push(back);
    assert!(mesh.history.state(NOW).document(&id).is_some());
    assert_eq!(code(mesh.history.revert(&ChangesetId(Digest([9; 32])), NOW)), Code::NotFound);
}

#[test]
fn forms_and_signatures() {
    let mut mesh = Mesh::new();
    let change = mesh.change("default", "a", "a");
    let good = mesh.changeset(vec![change]);
    let operator = mesh.operator.clone();
    let signed_good = good.sign(&[&operator]);
    let insert = |mesh: &mut Mesh, signed: &Packed| code(mesh.history.insert(&crate::changeset::encode(signed), NOW));
    let mut flipped = signed_good.clone();
    flipped.signed.payload[20] ^= 1;
    assert_eq!(insert(&mut mesh, &flipped), Code::BadSignature);
    let mut unsigned = signed_good.clone();
    unsigned.signed.signatures.clear();
    assert_eq!(insert(&mut mesh, &unsigned), Code::BadSignature);
    let mut more = signed_good.clone();
    more.signed.add(&SigningKey::generate());
    assert_eq!(insert(&mut mesh, &more), Code::BadSignature);
    let foreign = Changeset { trust_domain: TrustDomain::new("other.example").unwrap(), ..good.clone() };
    assert_eq!(insert(&mut mesh, &foreign.sign(&[&operator])), Code::WrongTrustDomain);
    let future = Changeset { role_set: 7, ..good.clone() };
    assert_eq!(insert(&mut mesh, &future.sign(&[&operator])), Code::RoleSetUnknown);
    assert_eq!(code(mesh.history.insert(&[0; 40], NOW)), Code::Malformed);
    let bytes = crate::changeset::encode(&signed_good);
    for end in 0..bytes.len() {
        assert!(mesh.history.insert(&bytes[..end], NOW).is_err());
    }
    assert_eq!(code(mesh.history.check_push(&bytes, NOW + 60_000)), Code::ClockSkew);
    assert!(mesh.history.insert(&bytes, NOW).unwrap().fresh);
    assert!(!mesh.history.insert(&bytes, NOW).unwrap().fresh);
    let unknown = Change { replaces: vec![ChangesetId(Digest([3; 32]))], ..mesh.change("default", "b", "b") };
    assert_eq!(mesh.insert(vec![unknown], &[&SigningKey::generate()]), Err(Code::MissingReference));
    let other = good.sign(&[&mesh.operator]).id();
    let foreign = Change { replaces: vec![ChangesetId(other)], ..mesh.change("default", "b", "b") };
    assert_eq!(mesh.insert(vec![foreign], &[&operator]), Err(Code::InvalidReference));
}

#[test]
fn roles_bound_namespaces_and_kinds() {
    let mut mesh = Mesh::new();
    let bob = SigningKey::generate();
    let next = mesh.role_set(|set| shop_role(set, &bob));
    let operator = mesh.operator.clone();
    assert_eq!(mesh.insert(vec![next.clone()], &[&bob]), Err(Code::RoleMissing));
    mesh.insert(vec![next], &[&operator]).unwrap();
    assert_eq!(mesh.history.state(NOW).role_set.number, 2);
    assert_eq!(mesh.history.state(NOW).trust().roots, [vec![1, 2, 3]]);
    let shop = mesh.change("shop", "cart", "cart");
    mesh.insert(vec![shop], &[&bob]).unwrap();
    let bank = mesh.change("bank", "cart", "cart");
    assert_eq!(mesh.insert(vec![bank.clone()], &[&bob]), Err(Code::RoleMissing));
    let root = mesh.change("istio-system", "cart", "cart");
    assert_eq!(mesh.insert(vec![root], &[&bob]), Err(Code::RoleMissing));
    let grab = mesh.role_set(|set| set.roles[1].namespaces = BTreeSet::from(["*".to_owned()]));
    assert_eq!(mesh.insert(vec![grab], &[&bob]), Err(Code::RoleMissing));
    let (document, content) = Revocation::default().body("x");
    let revoke = Change { document, content: Some(content), replaces: vec![] };
    assert_eq!(mesh.insert(vec![revoke.clone()], &[&bob]), Err(Code::RoleMissing));
    let recovery = mesh.recovery.clone();
    assert_eq!(mesh.insert(vec![revoke, bank], &[&recovery]), Err(Code::RoleMissing));
    let state = mesh.history.state(NOW);
    assert!(state.may(&bob.public(), Verb::Push, Kind::VirtualService, "shop"));
    assert!(!state.may(&bob.public(), Verb::Push, Kind::VirtualService, "bank"));
    assert!(state.has_verb(&bob.public(), Verb::View) && !state.has_verb(&bob.public(), Verb::Invite));
    assert!(state.has_verb(&recovery.public(), Verb::Roles) && !state.has_verb(&recovery.public(), Verb::Push));
    // What requests say is for the namespaces of a role, and not for a key that signs RoleSets alone.
    assert_eq!(state.views(&bob.public()), BTreeSet::from(["shop".to_owned()]));
    assert!(state.has_verb(&recovery.public(), Verb::View) && state.views(&recovery.public()).is_empty());
    // Another's host: kept, and confined to its own namespace.
    for (name, host) in [("a", "cart.bank.svc.cluster.local"), ("b", "cart.bank"), ("c", "shop.internal")] {
        let grabs = mesh.change("shop", name, host);
        let id = mesh.insert(vec![grabs], &[&bob]).unwrap();
        let state = mesh.history.state(NOW);
        let live = state.effective().find(|(_, value)| value.changeset == id).unwrap();
        assert!(live.1.confined, "{host}");
    }
    let name = mesh.change("shop", "name", "shop.internal");
    let id = mesh.insert(vec![name], &[&operator]).unwrap();
    let state = mesh.history.state(NOW);
    assert!(
        state.effective().any(|(_, value)| value.changeset == id && !value.confined),
        "who rules the mesh names hosts"
    );
}

#[test]
fn a_threshold_counts_distinct_keys() {
    let mut mesh = Mesh::new();
    let bob = SigningKey::generate();
    let operator = mesh.operator.clone();
    let next = mesh.role_set(|set| {
        shop_role(set, &bob);
        set.roles[0].namespaces = BTreeSet::from(["default".to_owned()]);
        set.roles[1].keys.insert("ann".to_owned());
        set.roles[1].threshold = 2;
        set.threshold = 2;
        set.keeps = Some(BTreeSet::new());
    });
    // Nobody has `roles` everywhere any more, so all keys govern, and two of two must sign.
    mesh.insert(vec![next.clone()], &[&operator]).unwrap();
    assert_eq!(mesh.history.state(NOW).role_set.number, 1);
    mesh.insert(vec![next], &[&operator, &bob]).unwrap();
    let shop = mesh.change("shop", "a", "a");
    for keys in [vec![&bob], vec![&*operator], vec![&bob, &bob]] {
        mesh.insert(vec![shop.clone()], &keys).unwrap();
        assert_eq!(mesh.history.state(NOW).heads(&shop.document), []);
    }
    let both = mesh.insert(vec![shop.clone()], &[&operator, &bob]).unwrap();
    assert_eq!(mesh.history.state(NOW).heads(&shop.document), [both]);
    assert!(!mesh.history.state(NOW).may(&bob.public(), Verb::Push, Kind::VirtualService, "shop"));
}

#[test]
fn a_confirmation_of_a_confirmation_takes_a_role_too() {
    let mut mesh = Mesh::new();
    let change = mesh.change("default", "reviews", "b");
    let trial = Changeset { confirm_by: Some(NOW + 60_000), ..mesh.changeset(vec![change]) };
    let trial = mesh.history.insert(&signed(&trial, &[&mesh.operator]), NOW).unwrap().id;
    let stranger = SigningKey::generate();
    let confirm = crate::changeset::confirmation(&trial);
    assert_eq!(mesh.insert(vec![confirm.clone()], &[&stranger]), Err(Code::RoleMissing));
    let operator = mesh.operator.clone();
    let confirmation = mesh.insert(vec![confirm], &[&operator]).unwrap();
    let again = crate::changeset::confirmation(&confirmation);
    assert_eq!(mesh.insert(vec![again.clone()], &[&stranger]), Err(Code::InvalidReference));
    assert_eq!(mesh.insert(vec![again], &[&operator]), Err(Code::InvalidReference));
}

#[test]
fn a_trial_ends_unless_it_is_confirmed() {
    let mut mesh = Mesh::new();
    let id = DocumentId::new(Kind::VirtualService, "default", "a");
    let before = mesh.push(vec![mesh.change("default", "a", "x")]);
    let change = mesh.change("default", "a", "y");
    let until = NOW + 300_000;
    let trial = Changeset { confirm_by: Some(until), ..mesh.changeset(vec![change]) };
    let operator = mesh.operator.clone();
    let trial = mesh.history.insert(&signed(&trial, &[&operator]), NOW).unwrap().id;
    assert_eq!(mesh.history.state(NOW).heads(&id), [trial]);
    assert_eq!(mesh.history.next_change(NOW), Some(until));
    assert_eq!(mesh.history.state(until).heads(&id), [before]);
    assert_eq!(mesh.history.state(NOW).heads(&id), [trial]);
    let confirm = crate::changeset::confirmation(&trial);
    let confirm = mesh.changeset(vec![confirm]);
    let confirm = signed(&confirm, &[&mesh.operator]);
    mesh.history.check_push(&confirm, NOW).unwrap();
    mesh.history.insert(&confirm, NOW).unwrap();
    assert_eq!(mesh.history.state(until + 1).heads(&id), [trial]);
}

#[test]
fn what_this_build_cannot_read_yields_to_its_ancestor() {
    let mut mesh = Mesh::new();
    let id = DocumentId::new(Kind::VirtualService, "default", "a");
    let first = mesh.push(vec![mesh.change("default", "a", "x")]);
    let mut change = mesh.change("default", "a", "y");
    let content = change.content.take().unwrap();
    change.content = Some(content.replace("\"hosts\"", "\"fromTheFuture\":1,\"hosts\""));
    let second = mesh.changeset(vec![change]);
    let second = signed(&second, &[&mesh.operator]);
    assert_eq!(code(mesh.history.check_push(&second, NOW)), Code::InvalidDocument);
    let second = mesh.history.insert(&second, NOW).unwrap().id;
    let state = mesh.history.state(NOW);
    assert_eq!(state.heads(&id), [second]);
    assert_eq!(state.documents[&id].effective.as_ref().unwrap().changeset, first);
    assert!(state.documents[&id].blind.is_empty());
    assert_eq!(state.conflicts, [Conflict::Unreadable(id, second)]);
}

#[test]
fn where_no_ancestor_is_a_document_it_is_known_that_nothing_can_be_read() {
    let mut mesh = Mesh::new();
    let id = DocumentId::new(Kind::VirtualService, "default", "a");
    let future = |mesh: &mut Mesh| {
        let mut change = mesh.change("default", "a", "y");
        change.content = change.content.map(|content| content.replace("\"hosts\"", "\"fromTheFuture\":1,\"hosts\""));
        let bytes = signed(&mesh.changeset(vec![change]), &[&mesh.operator]);
        mesh.history.insert(&bytes, NOW).unwrap().id
    };
    let first = future(&mut mesh);
    let blind = |mesh: &Mesh| {
        let blind = &mesh.history.state(NOW).documents[&id].blind;
        blind.iter().map(|value| value.changeset).collect::<Vec<_>>()
    };
    assert_eq!(blind(&mesh), [first]);
    // A deletion is readable, and no document: what comes after it stands alone, too.
    let heads = mesh.history.state(NOW).heads(&id);
    mesh.push(vec![Change { document: id.clone(), replaces: heads, content: None }]);
    assert!(blind(&mesh).is_empty());
    let again = future(&mut mesh);
    assert_eq!(blind(&mesh), [again]);
}

#[test]
fn grants_and_revocations_reach_the_authority() {
    let mut mesh = Mesh::new();
    let grant = NodeGrant {
        node: certs::id::NodeId::new("web-1").unwrap(),
        epoch: 3,
        services: vec!["default/reviews=books".parse().unwrap()],
        token_hash: None,
        redeemer: None,
        token_expires: None,
        enroller: false,
        retired: false,
    };
    let (document, content) = kinds::node_grant_body(&grant);
    let revocation = Revocation {
        nodes: BTreeMap::from([(grant.node.clone(), 2)]),
        accounts: BTreeSet::from(["default/old".parse().unwrap()]),
        keys: BTreeSet::from([Digest([5; 32])]),
    };
    let (other, body) = revocation.body("r");
    mesh.push(vec![
        Change { document, content: Some(content), replaces: vec![] },
        Change { document: other, content: Some(body), replaces: vec![] },
    ]);
    let authority = mesh.history.state(NOW).authority(&trust_domain());
    assert_eq!(*authority.grants[&grant.node], grant);
    assert!(authority.revocations.evicted(&grant.node, 2) && !authority.revocations.evicted(&grant.node, 3));
    assert!(authority.revocations.key_revoked(&Digest([5; 32])));
    assert_eq!(authority.roots, [vec![1, 2, 3]]);
}

#[test]
fn epochs_and_evictions_only_rise() {
    let mut mesh = Mesh::new();
    let node = certs::id::NodeId::new("web-1").unwrap();
    let grant = |epoch| {
        let (services, token_hash, redeemer, token_expires) = Default::default();
        let (enroller, retired) = (false, false);
        NodeGrant { node: node.clone(), epoch, services, token_hash, redeemer, token_expires, enroller, retired }
    };
    let revocation = |epoch, keys: &[u8]| Revocation {
        nodes: BTreeMap::from([(node.clone(), epoch)]),
        keys: keys.iter().map(|key| Digest([*key; 32])).collect(),
        ..Revocation::default()
    };
    let change = |mesh: &Mesh, (document, content): (DocumentId, String)| {
        let replaces = mesh.history.state(NOW).heads(&document);
        Change { document, content: Some(content), replaces }
    };
    let mut last = None;
    for epoch in [1, 2] {
        let both = [kinds::node_grant_body(&grant(epoch)), revocation(epoch, &[5]).body("r")];
        let both = both.map(|body| change(&mesh, body)).to_vec();
        last = Some(mesh.push(both));
    }
    assert_eq!(code(mesh.history.revert(&last.unwrap(), NOW)), Code::NotSupported);
    let gone = |mesh: &Mesh, body: (DocumentId, String)| Change { content: None, ..change(mesh, body) };
    let lowering = [
        change(&mesh, kinds::node_grant_body(&grant(1))),
        gone(&mesh, kinds::node_grant_body(&grant(1))),
        change(&mesh, revocation(1, &[5]).body("r")),
        change(&mesh, revocation(3, &[6]).body("r")),
        gone(&mesh, revocation(1, &[]).body("r")),
    ];
    let operator = mesh.operator.clone();
    for change in lowering {
        let changeset = mesh.changeset(vec![change]);
        assert_eq!(code(mesh.history.check_push(&signed(&changeset, &[&operator]), NOW)), Code::NotSupported);
    }
    // What reaches the mesh in another way brings nobody back.
    let lower = [kinds::node_grant_body(&grant(1)), revocation(1, &[5]).body("r")].map(|body| change(&mesh, body));
    mesh.insert(lower.to_vec(), &[&operator]).unwrap();
    let gone = gone(&mesh, revocation(1, &[]).body("r"));
    mesh.insert(vec![gone], &[&operator]).unwrap();
    let state = mesh.history.state(NOW);
    assert_eq!(state.grants()[&node].epoch, 2);
    assert!(state.revocations().evicted(&node, 2));
}

#[test]
fn digests_and_the_log() {
    let mut mesh = Mesh::new();
    let empty = mesh.history.digest();
    let id = mesh.push(vec![mesh.change("default", "a", "x")]);
    assert_ne!(mesh.history.digest(), empty);
    assert!(mesh.history.bucket(id.0.0[0]).contains(&id));
    assert_eq!(mesh.history.by_prefix(&id.to_string()[..8]), [id]);
    let log = mesh.history.log();
    assert_eq!((log[0].changeset, log[0].message.as_str(), log.len()), (id, "push 1", 2));
    let bucket: Vec<u8> = mesh.history.bucket(id.0.0[0]).iter().flat_map(|id| id.0.0).collect();
    assert_eq!(mesh.history.bucket_digests()[usize::from(id.0.0[0])], Digest::of(&bucket));
}

#[test]
fn ids_are_hashed_once_until_another_comes() {
    let hashed = || kept::counted::DIGESTS.with(std::cell::Cell::get);
    let mut mesh = Mesh::new();
    let mut known = BTreeSet::new();
    for name in ["a", "b"] {
        let change = mesh.change("shop", name, "h");
        mesh.push(vec![change]);
        let before = hashed();
        for _ in 0..10 {
            mesh.history.digest();
            mesh.history.bucket_digests();
        }
        assert_eq!(hashed() - before, 1 + 256, "all, and each bucket");
        assert!(known.insert(mesh.history.digest()), "another set has another digest");
    }
}

#[test]
fn a_proof_shows_how_documents_stand_to_who_knows_the_genesis() {
    let mut mesh = Mesh::new();
    mesh.push(vec![mesh.change("default", "other", "x")]);
    let change = mesh.change("default", "reviews", "a");
    let trial = Changeset { confirm_by: Some(NOW + 60_000), ..mesh.changeset(vec![change]) };
    let trial = mesh.history.insert(&signed(&trial, &[&mesh.operator]), NOW).unwrap().id;
    mesh.push(vec![crate::changeset::confirmation(&trial)]);
    let both = vec![mesh.change("default", "reviews", "b"), mesh.change("default", "other", "y")];
    let last = mesh.push(both);
    let id = DocumentId::new(Kind::VirtualService, "default", "reviews");
    let mut proof = mesh.history.proof([&id].into_iter());
    proof.reverse();
    let mut history = History::new(trust_domain());
    history.insert_all(proof.iter().map(|bytes| &**bytes), NOW).unwrap();
    let later = NOW + 120_000;
    let (shown, held) = (history.state(later), mesh.history.state(later));
    assert_eq!((shown.genesis, shown.heads(&id)), (held.genesis, vec![last]));
    assert_eq!(history.revert(&last, later), mesh.history.revert(&last, later));
    assert!(History::new(trust_domain()).insert_all([&b"x"[..]].into_iter(), NOW).is_err());
}
