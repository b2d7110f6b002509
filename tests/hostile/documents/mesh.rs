//! A mesh of three operators whose policy the cases of the folder above attack.

use std::collections::BTreeSet;

use certs::{
    id::TrustDomain,
    sign::{PublicKey, SigningKey},
};
use policy::{
    DocumentId, Kind,
    changeset::{Change, Changeset, ChangesetId},
    history::{History, genesis, signed},
    kinds::{Role, RoleKey, RoleSet, Verb},
};

pub(super) const NOW: u64 = 1_700_000_000_000;

/// ann may do everything, eve may push to `shop`, two of bob and eve to `bank`.
pub(super) struct Mesh {
    pub(super) history: History,
    pub(super) ann: SigningKey,
    bob: SigningKey,
    pub(super) eve: SigningKey,
    nonce: u8,
}

fn domain() -> TrustDomain {
    TrustDomain::new("prod.example").expect("a name")
}

fn role(name: &str, keys: &[&str], threshold: usize, namespace: &str) -> Role {
    Role {
        name: name.into(),
        keys: keys.iter().map(|key| (*key).to_owned()).collect(),
        threshold,
        namespaces: BTreeSet::from([namespace.to_owned()]),
        kinds: None,
        verbs: BTreeSet::from([Verb::View, Verb::Push]),
    }
}

impl Mesh {
    pub(super) fn new() -> Self {
        let [ann, bob, eve] = std::array::from_fn(|_| SigningKey::generate());
        let first = genesis(&domain(), &[vec![1]], &[("ann".into(), ann.public(), false)], NOW);
        let mut history = History::new(domain());
        history.insert(&signed(&first, &[&ann]), NOW).expect("the genesis");
        let mut mesh = Self { history, ann, bob, eve, nonce: 0 };
        let keys = [("bob", mesh.bob.public()), ("eve", mesh.eve.public())];
        let next = mesh.role_set(|set| {
            let named = |(name, key): (&str, PublicKey)| RoleKey { name: name.into(), key, recovery: false };
            set.keys.extend(keys.map(named));
            set.roles.push(role("shop", &["eve"], 1, "shop"));
            set.roles.push(role("bank", &["bob", "eve"], 2, "bank"));
        });
        let bytes = mesh.signed(vec![next], &["ann"]);
        mesh.history.insert(&bytes, NOW).expect("the second RoleSet");
        mesh
    }

    pub(super) fn role_set(&self, edit: impl FnOnce(&mut RoleSet)) -> Change {
        let state = self.history.state(NOW);
        let mut set = (*state.role_set.set).clone();
        set.trust = None;
        edit(&mut set);
        let (document, content) = set.body();
        Change { content: Some(content), replaces: state.heads(&document), document }
    }

    pub(super) fn changeset(&mut self, changes: Vec<Change>) -> Changeset {
        self.nonce += 1;
        let (role_set, message) = (self.history.state(NOW).role_set.number, String::new());
        let nonce = [self.nonce; 16];
        Changeset { trust_domain: domain(), role_set, issued_at: NOW, message, confirm_by: None, nonce, changes }
    }

    pub(super) fn signed(&mut self, changes: Vec<Change>, names: &[&str]) -> Vec<u8> {
        let changeset = self.changeset(changes);
        let keys = names.iter().map(|name| match *name {
            "ann" => &self.ann,
            "bob" => &self.bob,
            _ => &self.eve,
        });
        signed(&changeset, &keys.collect::<Vec<_>>())
    }

    pub(super) fn change(&self, namespace: &str, name: &str, host: &str) -> Change {
        let document = DocumentId::new(Kind::VirtualService, namespace, name);
        let replaces = self.history.state(NOW).heads(&document);
        Change { content: Some(route(&document, host)), replaces, document }
    }

    pub(super) fn keep(&mut self, bytes: &[u8]) -> ChangesetId {
        self.history.insert(bytes, NOW).expect("it is kept").id
    }

    pub(super) fn heads(&self, change: &Change) -> Vec<ChangesetId> {
        self.history.state(NOW).heads(&change.document)
    }

    /// Another node that took the same, in the reverse order.
    pub(super) fn twin(&self) -> History {
        let mut all: Vec<&[u8]> = self.history.ids().map(|id| &**self.history.bytes(id).expect("kept")).collect();
        all.reverse();
        let mut twin = History::new(domain());
        twin.insert_all(all.into_iter(), NOW).expect("all of it is kept");
        twin
    }
}

pub(super) fn route(id: &DocumentId, host: &str) -> String {
    let spec = serde_json::json!({"hosts": [host], "http": [{"route": [{"destination": {"host": host}}]}]});
    let metadata = serde_json::json!({"name": id.name, "namespace": id.namespace});
    let version = "networking.istio.io/v1";
    serde_json::json!({"apiVersion": version, "kind": id.kind.as_str(), "metadata": metadata, "spec": spec}).to_string()
}
