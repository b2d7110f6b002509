//! A second opinion, written from the design and not from the code: which changesets count and what is live, by plain loops over
//! everything, with no cache, no index and no step that depends on order. Only the encoding and the signature scheme are shared.

use std::collections::{BTreeMap, BTreeSet};

use certs::{
    codec,
    sign::{Digest, PublicKey, Signed},
};
use policy::{DocumentId, Kind};
use serde::Deserialize;
use serde_json::Value;

type Id = Digest;

#[derive(Deserialize)]
struct Outer {
    signed: Signed,
    bodies: Vec<String>,
}

#[derive(Deserialize)]
struct Head {
    trust_domain: String,
    role_set: u64,
    issued_at: u64,
    _message: String,
    confirm_by: Option<u64>,
    _nonce: [u8; 16],
    changes: Vec<HeadChange>,
    signers: Vec<PublicKey>,
    _extensions: Vec<(u16, Vec<u8>)>,
}

#[derive(Deserialize)]
struct HeadChange {
    document: DocumentId,
    body: Option<(Digest, u32)>,
    replaces: Vec<Digest>,
}

#[derive(Deserialize)]
struct Approval {
    trust_domain: String,
    changeset: Digest,
    signer: PublicKey,
}

struct Change {
    document: DocumentId,
    sets: bool,
    body: Option<Value>,
    replaces: Vec<Id>,
}

struct Changeset {
    role_set: u64,
    issued_at: u64,
    confirm_by: Option<u64>,
    changes: Vec<Change>,
    signers: BTreeSet<PublicKey>,
}

struct RoleSet {
    id: Id,
    number: u64,
    base: Option<Id>,
    parents: BTreeSet<Id>,
    spec: Value,
}

/// The verdict.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) role_set: (u64, Option<Id>),
    /// Live values of each document, ascending.
    pub(crate) live: BTreeMap<DocumentId, Vec<Id>>,
    /// The value in effect.
    pub(crate) effective: BTreeMap<DocumentId, Id>,
    /// What has no place in the set at all.
    pub(crate) unauthorised: Vec<Id>,
}

pub(crate) struct Verifier {
    sets: BTreeMap<Id, Changeset>,
    role_sets: Vec<RoleSet>,
    counting: Vec<Id>,
    now: u64,
    bad: Vec<Id>,
}

/// Judges a set of bytes.
pub(crate) fn judge<'b>(all: impl Iterator<Item = &'b [u8]>, now: u64) -> Verdict {
    let mut verifier =
        Verifier { sets: BTreeMap::new(), role_sets: Vec::new(), counting: Vec::new(), now, bad: Vec::new() };
    let outers: Vec<Outer> =
        all.map(|bytes| codec::decode::<_, { 4 << 20 }>(bytes).expect("kept bytes decode")).collect();
    let (approvals, changesets): (Vec<_>, Vec<_>) =
        outers.iter().partition(|outer| outer.signed.kind == "skein.approval/1");
    for outer in changesets {
        verifier.read(outer);
    }
    for outer in approvals {
        verifier.read_approval(outer);
    }
    verifier.order_role_sets();
    verifier.verdict()
}

fn texts(value: &Value) -> Vec<&str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

fn verb(kind: Kind) -> &'static str {
    if kind == Kind::RoleSet { "roles" } else { "push" }
}

impl Verifier {
    fn read(&mut self, outer: &Outer) {
        let id = outer.signed.id();
        let head: Head = codec::decode::<_, { 4 << 20 }>(&outer.signed.payload).expect("a head");
        let signed: BTreeSet<PublicKey> = outer
            .signed
            .verify("skein.changeset/1")
            .map_or_else(|_| BTreeSet::new(), |keys| keys.into_iter().collect());
        if signed.is_empty() || signed != head.signers.iter().copied().collect() || head.trust_domain != "sim.example" {
            self.bad.push(id);
        }
        let mut bodies = outer.bodies.iter();
        let mut changes = Vec::new();
        for HeadChange { document, body, replaces } in head.changes {
            let text = body.and_then(|(digest, _)| bodies.next().filter(|text| Digest::of(text.as_bytes()) == digest));
            let parsed = text.map(|text| serde_json::from_str(text).expect("JSON"));
            changes.push(Change { document, sets: body.is_some(), body: parsed, replaces });
        }
        let Head { role_set, issued_at, confirm_by, .. } = head;
        self.sets.insert(id, Changeset { role_set, issued_at, confirm_by, changes, signers: signed });
    }

    fn read_approval(&mut self, outer: &Outer) {
        let approval: Approval = codec::decode::<_, 4096>(&outer.signed.payload).expect("an approval");
        let signers = outer.signed.verify("skein.approval/1").unwrap_or_default();
        match self.sets.get_mut(&approval.changeset) {
            Some(changeset) if signers == [approval.signer] && approval.trust_domain == "sim.example" => {
                changeset.signers.insert(approval.signer);
            }
            _ => self.bad.push(outer.signed.id()),
        }
    }

    /// Finds every RoleSet that is approved, until no more is found; then walks from the genesis to the one in force.
    fn order_role_sets(&mut self) {
        loop {
            let known: BTreeSet<Id> = self.role_sets.iter().map(|set| set.id).collect();
            let next =
                self.sets.iter().filter(|(id, _)| !known.contains(id)).find_map(|(id, set)| self.approved(*id, set));
            let Some(next) = next else { break };
            self.role_sets.push(next);
        }
        let mut at = self.role_sets.iter().find(|set| set.base.is_none()).map(|set| set.id);
        while let Some(id) = at {
            self.counting.push(id);
            let children: Vec<&RoleSet> = self.role_sets.iter().filter(|set| set.base == Some(id)).collect();
            let heads: Vec<&&RoleSet> =
                children.iter().filter(|one| !children.iter().any(|other| other.parents.contains(&one.id))).collect();
            at = if let [only] = heads.as_slice() { Some(only.id) } else { None };
        }
    }

    fn approved(&self, id: Id, changeset: &Changeset) -> Option<RoleSet> {
        let change = changeset.changes.iter().find(|change| change.document.kind == Kind::RoleSet)?;
        let spec = change.body.as_ref()?["spec"].clone();
        let parents: BTreeSet<Id> = change.replaces.iter().copied().collect();
        let found: Vec<&RoleSet> = self.role_sets.iter().filter(|set| parents.contains(&set.id)).collect();
        if found.len() != parents.len() || !governed(&spec, &changeset.signers) {
            return None;
        }
        let base = match found.as_slice() {
            [] => None,
            [only] => Some(only.id),
            [first, rest @ ..] if rest.iter().all(|other| other.base == first.base) => Some(first.base?),
            _ => return None,
        };
        if let Some(base) = base {
            let before = self.role_sets.iter().find(|set| set.id == base)?;
            if !governed(&before.spec, &changeset.signers) {
                return None;
            }
        }
        let number = 1 + found.iter().map(|set| set.number).max().unwrap_or(0);
        Some(RoleSet { id, number, base, parents, spec })
    }

    fn by_id(&self, id: &Id) -> &RoleSet {
        self.role_sets.iter().find(|set| set.id == *id).expect("it was found before")
    }

    /// The changesets whose documents a change takes the right to: its own, or those of what it confirms.
    fn concerned<'v>(&'v self, change: &'v Change) -> Vec<&'v DocumentId> {
        match confirms(change).and_then(|id| self.sets.get(&id)) {
            Some(about) => about.changes.iter().map(|change| &change.document).collect(),
            None => vec![&change.document],
        }
    }

    fn allowed(&self, spec: &Value, changeset: &Changeset) -> bool {
        let documents = changeset.changes.iter().flat_map(|change| self.concerned(change));
        documents.into_iter().all(|document| {
            roles(spec, document).any(|role| {
                let signed = texts(&role["keys"]).into_iter().filter_map(|name| key(spec, name));
                let count = signed.filter(|key| changeset.signers.contains(key)).count();
                count as u64 >= role["threshold"].as_u64().unwrap_or(1)
            })
        })
    }

    /// True if it may be in the set: for each document somebody who signed has a part in it.
    fn may_be_kept(&self, id: &Id, changeset: &Changeset) -> bool {
        if changeset.changes.iter().any(|change| change.document.kind == Kind::RoleSet) {
            let change = &changeset.changes[0];
            let bases = self.role_sets.iter().filter(|set| change.replaces.contains(&set.id));
            let governs = |set: &RoleSet| governors(&set.spec).iter().any(|key| changeset.signers.contains(key));
            return self.role_sets.iter().any(|set| set.id == *id)
                || bases
                    .into_iter()
                    .any(|set| governs(set) || set.base.is_some_and(|base| governs(self.by_id(&base))));
        }
        self.role_sets.iter().filter(|set| set.number == changeset.role_set).any(|set| {
            let documents = changeset.changes.iter().flat_map(|change| self.concerned(change));
            documents.into_iter().all(|document| {
                roles(&set.spec, document).any(|role| {
                    let keys = texts(&role["keys"]).into_iter().filter_map(|name| key(&set.spec, name));
                    keys.into_iter().any(|key| changeset.signers.contains(&key))
                })
            })
        })
    }

    fn counts_by_roles(&self, id: &Id) -> bool {
        let changeset = &self.sets[id];
        let numbers: Vec<&RoleSet> = self.counting.iter().map(|id| self.by_id(id)).collect();
        let named = numbers.iter().rposition(|set| set.number <= changeset.role_set).unwrap_or(0);
        numbers[named..].iter().all(|set| {
            let stays = set.number > changeset.role_set && self.stays(&set.spec, id);
            stays || self.allowed(&set.spec, changeset)
        })
    }

    /// True if it is an ancestor of what the RoleSet keeps, and not voided.
    fn stays(&self, spec: &Value, id: &Id) -> bool {
        let mut reached: BTreeSet<Id> =
            texts(&spec["keeps"]).into_iter().map(|text| text.parse().expect("an id")).collect();
        loop {
            let more: BTreeSet<Id> = reached
                .iter()
                .filter_map(|id| self.sets.get(id))
                .flat_map(|set| set.changes.iter().flat_map(|change| change.replaces.iter().copied()))
                .collect();
            let before = reached.len();
            reached.extend(more);
            if reached.len() == before {
                break;
            }
        }
        reached.contains(id) && !texts(&spec["voids"]).contains(&id.to_string().as_str())
    }

    fn counts(&self, id: &Id) -> bool {
        let Some(until) = self.sets[id].confirm_by else { return self.counts_by_roles(id) };
        let confirmed = self.sets.iter().any(|(by, set)| {
            set.issued_at < until
                && set.changes.iter().any(|change| confirms(change) == Some(*id))
                && self.counts_by_roles(by)
        });
        self.counts_by_roles(id) && (self.now < until || confirmed)
    }

    fn change(&self, id: &Id, document: &DocumentId) -> &Change {
        self.sets[id].changes.iter().find(|change| change.document == *document).expect("it speaks of the document")
    }

    /// Everything below these values of a document.
    fn below(&self, document: &DocumentId, of: &BTreeSet<Id>) -> BTreeSet<Id> {
        let mut found = BTreeSet::new();
        let mut edge = of.clone();
        while !edge.is_empty() {
            edge = edge
                .iter()
                .flat_map(|id| self.change(id, document).replaces.clone())
                .filter(|id| !found.contains(id))
                .collect();
            found.extend(edge.iter().copied());
        }
        found
    }

    /// The longest way down: how many steps until nothing is below.
    fn depth(&self, id: &Id, document: &DocumentId) -> usize {
        let (mut edge, mut steps) = (BTreeSet::from([*id]), 0);
        while !edge.is_empty() {
            edge = edge.iter().flat_map(|id| self.change(id, document).replaces.clone()).collect();
            steps += 1;
        }
        steps
    }

    fn readable(&self, id: &Id, document: &DocumentId) -> bool {
        let change = self.change(id, document);
        !change.sets || change.body.as_ref().is_some_and(|body| body["spec"]["fromTheFuture"].is_null())
    }

    /// The value itself, or the nearest ones below it that count and can be read.
    fn applicable(&self, id: &Id, document: &DocumentId, counting: &BTreeSet<Id>) -> BTreeSet<Id> {
        if counting.contains(id) && self.readable(id, document) {
            return BTreeSet::from([*id]);
        }
        let below = &self.change(id, document).replaces;
        below.iter().flat_map(|id| self.applicable(id, document, counting)).collect()
    }

    fn verdict(self) -> Verdict {
        let mut verdict = Verdict { unauthorised: self.bad.clone(), ..Verdict::default() };
        let last = self.counting.last().map(|id| self.by_id(id));
        verdict.role_set = last.map_or((0, None), |set| (set.number, Some(set.id)));
        verdict.unauthorised.extend(self.sets.iter().filter(|(id, set)| !self.may_be_kept(id, set)).map(|(id, _)| *id));
        let documents: BTreeSet<&DocumentId> =
            self.sets.values().flat_map(|set| set.changes.iter().map(|change| &change.document)).collect();
        for document in documents.into_iter().filter(|id| id.kind == Kind::VirtualService) {
            let of: BTreeSet<Id> = self
                .sets
                .iter()
                .filter(|(_, set)| set.changes.iter().any(|change| change.document == *document))
                .map(|(id, _)| *id)
                .collect();
            let counting: BTreeSet<Id> = of.iter().filter(|id| self.counts(id)).copied().collect();
            let live: BTreeSet<Id> = counting.difference(&self.below(document, &counting)).copied().collect();
            if live.is_empty() {
                continue;
            }
            let mut best: Vec<Id> = live.iter().flat_map(|id| self.applicable(id, document, &counting)).collect();
            best.sort_by_key(|id| (std::cmp::Reverse(self.depth(id, document)), *id));
            if let Some(winner) = best.first().filter(|id| self.change(id, document).sets) {
                verdict.effective.insert(document.clone(), *winner);
            }
            verdict.live.insert(document.clone(), live.into_iter().collect());
        }
        verdict
    }
}

fn confirms(change: &Change) -> Option<Id> {
    let name = (change.document.kind == Kind::Confirmation).then_some(change.document.name.replace('.', ""))?;
    name.parse().ok()
}

fn key(spec: &Value, name: &str) -> Option<PublicKey> {
    let keys = spec["keys"].as_array()?;
    keys.iter().find(|key| key["name"] == name)?["publicKey"].as_str()?.parse().ok()
}

/// The roles that cover a change of this document. Nobody in the simulation is given a role by kind.
fn roles<'v>(spec: &'v Value, document: &'v DocumentId) -> impl Iterator<Item = &'v Value> {
    spec["roles"].as_array().into_iter().flatten().filter(|role| {
        let namespaces = texts(&role["namespaces"]);
        let here = namespaces.contains(&document.namespace.as_str()) && document.namespace != "istio-system";
        texts(&role["verbs"]).contains(&verb(document.kind)) && (namespaces.contains(&"*") || here)
    })
}

fn governors(spec: &Value) -> BTreeSet<PublicKey> {
    let govern = spec["roles"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|role| texts(&role["verbs"]).contains(&"roles") && texts(&role["namespaces"]).contains(&"*"));
    govern.flat_map(|role| texts(&role["keys"])).filter_map(|name| key(spec, name)).collect()
}

fn governed(spec: &Value, signers: &BTreeSet<PublicKey>) -> bool {
    governors(spec).intersection(signers).count() as u64 >= spec["threshold"].as_u64().unwrap_or(u64::MAX)
}
