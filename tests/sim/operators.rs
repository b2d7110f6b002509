//! The operators of the simulated mesh: what they sign, on top of what some node shows them. One of them, mallory, is not honest.

use std::collections::{BTreeMap, BTreeSet};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use certs::{
    id::TrustDomain,
    sign::{Digest, SigningKey},
};
use policy::{
    DocumentId, Kind,
    changeset::{Change, Changeset, ChangesetId},
    history::{History, signed},
    kinds::{Role, RoleKey, RoleSet, Verb},
};

use crate::random::Random;

pub(crate) const GOVERNORS: [&str; 3] = ["ann", "bob", "carl"];

pub(crate) fn trust_domain() -> TrustDomain {
    TrustDomain::new("sim.example").expect("a name")
}

/// Everybody's keys.
pub(crate) struct Operators {
    keys: BTreeMap<&'static str, SigningKey>,
    nonce: u64,
}

impl Operators {
    /// Keys that the seed determines.
    pub(crate) fn new(random: &mut Random) -> Self {
        let names = ["ann", "bob", "carl", "mallory", "nobody"];
        Self { keys: names.into_iter().map(|name| (name, key(random))).collect(), nonce: 0 }
    }

    pub(crate) fn key(&self, name: &str) -> &SigningKey {
        &self.keys[name]
    }

    /// Two of the three governors replace the RoleSet; anybody of `shop` changes shop, two of `bank` change bank.
    pub(crate) fn first_role_set(&self) -> RoleSet {
        let role = |name: &str, keys: &[&str], threshold, namespace: &str, verbs: &[Verb]| Role {
            name: name.into(),
            keys: keys.iter().map(|key| (*key).to_owned()).collect(),
            threshold,
            namespaces: BTreeSet::from([namespace.to_owned()]),
            kinds: None,
            verbs: verbs.iter().copied().collect(),
        };
        let push = [Verb::View, Verb::Push];
        let named = |name: &&str| RoleKey { name: (**name).to_owned(), key: self.key(name).public(), recovery: false };
        RoleSet {
            trust: Some(certs::trust::Trust::of(vec![vec![1]])),
            keys: ["ann", "bob", "carl", "mallory"].iter().map(named).collect(),
            roles: vec![
                role("admin", &GOVERNORS, 2, "*", &Verb::ALL),
                role("shop", &["ann", "bob", "carl", "mallory"], 1, "shop", &push),
                role("bank", &["ann", "bob", "mallory"], 2, "bank", &push),
            ],
            threshold: 2,
            keeps: None,
            voids: BTreeSet::new(),
        }
    }

    pub(crate) fn genesis(&mut self, now: u64) -> Vec<u8> {
        let (document, content) = self.first_role_set().body();
        let change = Change { document, content: Some(content), replaces: Vec::new() };
        self.sign(1, now, None, vec![change], &["ann", "bob"])
    }

    pub(crate) fn sign(
        &mut self,
        role_set: u64,
        now: u64,
        confirm_by: Option<u64>,
        changes: Vec<Change>,
        signers: &[&str],
    ) -> Vec<u8> {
        self.nonce += 1;
        let mut nonce = [0; 16];
        nonce[..8].copy_from_slice(&self.nonce.to_le_bytes());
        let trust_domain = trust_domain();
        let message = String::new();
        let changeset = Changeset { trust_domain, role_set, issued_at: now, message, confirm_by, nonce, changes };
        let keys: Vec<&SigningKey> = signers.iter().map(|name| self.key(name)).collect();
        signed(&changeset, &keys)
    }

    /// A RoleSet without mallory, or with a key more, on top of all that the node shows.
    pub(crate) fn next_role_set(&self, history: &History, now: u64, without_mallory: bool, tag: u64) -> Change {
        let state = history.state(now);
        let mut set = (*state.role_set.set).clone();
        (set.trust, set.keeps) = (None, None);
        let (document, _) = set.body();
        let replaces = state.heads(&document);
        if without_mallory || replaces.len() > 1 {
            set.keys.retain(|key| key.name != "mallory");
            for role in &mut set.roles {
                role.keys.remove("mallory");
            }
            set.keeps = Some(history.keeps_under(&set, now));
        } else {
            let spare = SigningKey::from_pem(&pem(Digest::of(&tag.to_le_bytes()).0)).expect("a key");
            set.keys.push(RoleKey { name: format!("spare-{tag}"), key: spare.public(), recovery: false });
        }
        let (document, content) = set.body();
        Change { document, content: Some(content), replaces }
    }
}

/// A route on top of what the node shows, or the document's deletion.
pub(crate) fn route(history: &History, now: u64, namespace: &str, name: &str, host: Option<&str>) -> Change {
    let document = DocumentId::new(Kind::VirtualService, namespace, name);
    let replaces = history.state(now).heads(&document);
    Change { content: host.map(|host| body(&document, host, false)), document, replaces }
}

/// The body of a route; one from the future has a field that this build does not know.
pub(crate) fn body(id: &DocumentId, host: &str, from_the_future: bool) -> String {
    let mut spec = serde_json::json!({"hosts": [host], "http": [{"route": [{"destination": {"host": host}}]}]});
    if from_the_future {
        spec["fromTheFuture"] = true.into();
    }
    let metadata = serde_json::json!({"name": id.name, "namespace": id.namespace});
    serde_json::json!({
        "apiVersion": "networking.istio.io/v1", "kind": id.kind.as_str(), "metadata": metadata, "spec": spec,
    })
    .to_string()
}

/// The id of what these bytes sign.
pub(crate) fn id_of(bytes: &[u8]) -> ChangesetId {
    ChangesetId(policy::changeset::decode(bytes).expect("our own bytes").id())
}

fn key(random: &mut Random) -> SigningKey {
    SigningKey::from_pem(&pem(random.bytes())).expect("a key")
}

/// RFC 8410: an Ed25519 key as PKCS#8.
fn pem(seed: [u8; 32]) -> String {
    let mut der = vec![0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
    der.extend(seed);
    format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", STANDARD.encode(der))
}
