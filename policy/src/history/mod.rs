//! The set of changesets and the state that it folds to. Every node with the same set has the same state, in whatever order it came.

mod admit;
mod fold;
mod past;
mod refused;
mod revert;
mod roles;
mod state;
mod whatif;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use certs::{
    codec::Millis,
    id::TrustDomain,
    sign::{Digest, PublicKey, SigningKey},
};

pub use past::{Moment, Trial, Version};
pub use refused::{Code, Refused};
pub use state::{Absent, Conflict, Live, LiveValue, Roles, State};

use crate::{
    Document, Problem,
    changeset::{Change, Changeset, ChangesetId, MAX_DOCUMENTS, confirmed},
    document::{DocumentId, Kind, ROOT_NAMESPACE},
    kinds::{Role, RoleKey, RoleSet, Verb},
    parse,
};

/// How far a direct push's date may be from the node's clock.
pub const PUSH_CLOCK: Millis = 30_000;

/// A changeset that is kept.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its id.
    pub id: ChangesetId,
    /// As it came.
    pub bytes: Arc<[u8]>,
    /// What it says.
    pub changeset: Arc<Changeset>,
    /// Who signed it; verified.
    pub signers: Vec<PublicKey>,
}

/// What became of bytes that were offered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inserted {
    /// The changeset's id.
    pub id: ChangesetId,
    /// False if it was known already.
    pub fresh: bool,
}

/// An entry of `policy log`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// The changeset.
    pub changeset: ChangesetId,
    /// What it replaces, over all its documents.
    pub replaces: Vec<ChangesetId>,
    /// Names of the signers' keys; `ed25519:...` for a key that no RoleSet names any more.
    pub authors: Vec<String>,
    /// When it was issued.
    pub time: Millis,
    /// Why.
    pub message: String,
    /// What it changes, and whether it deletes it.
    pub documents: Vec<(DocumentId, bool)>,
}

/// The set of changesets of one mesh.
pub struct History {
    trust_domain: TrustDomain,
    kept: Kept,
    chain: roles::Chain,
    cache: Mutex<Option<fold::Cached>>,
}

/// The changesets themselves, with what follows from each and its ancestors alone.
#[derive(Default)]
struct Kept {
    entries: BTreeMap<ChangesetId, Item>,
    /// Who changed a document, in any order.
    by_document: BTreeMap<DocumentId, Vec<ChangesetId>>,
    /// Confirmation by what it confirms.
    confirmations: HashMap<ChangesetId, Vec<ChangesetId>>,
}

struct Item {
    entry: Entry,
    /// Per change: its depth along `replaces`, and its body, read when first needed.
    values: Vec<Value>,
}

struct Value {
    depth: u64,
    document: OnceLock<Result<Arc<Document>, Arc<[Problem]>>>,
}

impl admit::Known for Kept {
    fn changeset(&self, id: &ChangesetId) -> Option<&Changeset> {
        self.entries.get(id).map(|item| &*item.entry.changeset)
    }
}

impl Kept {
    fn add(&mut self, entry: Entry) {
        let values = entry.changeset.changes.iter().map(|change| {
            let depth = 1 + change.replaces.iter().map(|id| self.depth(id, &change.document)).max().unwrap_or_default();
            Value { depth, document: OnceLock::new() }
        });
        let values = values.collect();
        for change in &entry.changeset.changes {
            self.by_document.entry(change.document.clone()).or_default().push(entry.id);
            if let Some(about) = confirmed(change) {
                self.confirmations.entry(about).or_default().push(entry.id);
            }
        }
        self.entries.insert(entry.id, Item { entry, values });
    }

    /// A value of a document: the changeset that set it, its change, its depth and body.
    fn value(&self, id: &ChangesetId, document: &DocumentId) -> Option<(&Entry, &Change, &Value)> {
        let item = self.entries.get(id)?;
        let index = item.entry.changeset.changes.iter().position(|change| change.document == *document)?;
        Some((&item.entry, &item.entry.changeset.changes[index], &item.values[index]))
    }

    fn depth(&self, id: &ChangesetId, document: &DocumentId) -> u64 {
        self.value(id, document).map_or(0, |(_, _, value)| value.depth)
    }
}

impl History {
    /// An empty history: the first changeset to insert is a genesis.
    pub fn new(trust_domain: TrustDomain) -> Self {
        Self { trust_domain, kept: Kept::default(), chain: roles::Chain::default(), cache: Mutex::default() }
    }

    /// Keeps a changeset if its form, its signatures and the RoleSet that it names allow it. Never looks at folded state, so that
    /// all nodes keep the same; for the same reason not at the time.
    ///
    /// # Errors
    /// [`Refused::Missing`] names references to fetch first; all else is final, except [`Code::RoleSetUnknown`].
    pub fn insert(&mut self, bytes: &[u8], _now: Millis) -> Result<Inserted, Refused> {
        if let Some(id) = self.known(bytes) {
            return Ok(Inserted { id, fresh: false });
        }
        let admit::Admitted { entry, charter } = admit::admit(&self.trust_domain, &self.kept, &self.chain, bytes)?;
        let id = entry.id;
        if self.contains(&id) {
            return Ok(Inserted { id, fresh: false });
        }
        let cache = self.cache.get_mut().unwrap_or_else(PoisonError::into_inner);
        let all = charter.is_some() || self.chain.counting.iter().any(|roles| roles.set.keeps.is_some());
        if let Some(cached) = cache {
            cached.touch(&entry.changeset, all);
        }
        if let Some(charter) = charter {
            self.chain.add(charter);
        }
        self.kept.add(entry);
        Ok(Inserted { id, fresh: true })
    }

    /// Spares the verification of what is here already, byte for byte.
    fn known(&self, bytes: &[u8]) -> Option<ChangesetId> {
        let id = ChangesetId(crate::changeset::decode(bytes).ok()?.id());
        self.get(&id).filter(|entry| *entry.bytes == *bytes).map(|entry| entry.id)
    }

    /// What only a direct push must obey, on top of what [`History::insert`] demands: dates, stale parents, quotas, readable content.
    ///
    /// # Errors
    /// The rule that it breaks.
    pub fn check_push(&self, bytes: &[u8], now: Millis) -> Result<(), Refused> {
        let admitted = admit::admit(&self.trust_domain, &self.kept, &self.chain, bytes)?;
        let changeset = &admitted.entry.changeset;
        if self.contains(&admitted.entry.id) {
            return Ok(());
        }
        check_dates(changeset, now)?;
        let state = self.state(now);
        for change in &changeset.changes {
            self.check_parent(&state, change, now)?;
            self.check_content(change)?;
        }
        let fresh = changeset.changes.iter().filter(|change| !state.documents.contains_key(&change.document)).count();
        if state.documents.len() + fresh > MAX_DOCUMENTS {
            let message = format!("the mesh would have more than {MAX_DOCUMENTS} documents");
            return Err(Refused::because(Code::QuotaExceeded, message, "delete some"));
        }
        Ok(())
    }

    fn check_parent(&self, state: &State, change: &Change, now: Millis) -> Result<(), Refused> {
        let unseen: Vec<_> =
            state.heads(&change.document).into_iter().filter(|head| !change.replaces.contains(head)).collect();
        if let [head, ..] = unseen.as_slice() {
            let message = format!("{} was changed by {head} since", change.document);
            let hint = "look at it with `skein policy diff`, then push again";
            return Err(Refused::because(Code::StaleParent, message, hint));
        }
        let about = confirmed(change).and_then(|id| self.get(&id)).map(|entry| entry.changeset.confirm_by);
        match about {
            Some(None) => Err(Refused::because(Code::InvalidReference, "that changeset is not on trial", "")),
            Some(Some(until)) if until <= now => Err(Refused::because(
                Code::ConfirmTooLate,
                "the trial is over: the changeset no longer counts",
                "push it again",
            )),
            Some(Some(_)) | None => Ok(()),
        }
    }

    fn check_content(&self, change: &Change) -> Result<(), Refused> {
        let Some(content) = &change.content else { return Ok(()) };
        match parse::json(&change.document, content) {
            Ok(_) => Ok(()),
            Err(problems) => {
                let first = problems.first().map(ToString::to_string).unwrap_or_default();
                let message = format!("{}: {first}", change.document);
                Err(Refused::because(Code::InvalidDocument, message, "see `skein policy lint`"))
            }
        }
    }

    /// True if the changeset is kept.
    pub fn contains(&self, id: &ChangesetId) -> bool {
        self.kept.entries.contains_key(id)
    }

    /// A kept changeset.
    pub fn get(&self, id: &ChangesetId) -> Option<&Entry> {
        self.kept.entries.get(id).map(|item| &item.entry)
    }

    /// All ids, ascending.
    pub fn ids(&self) -> impl Iterator<Item = &ChangesetId> {
        self.kept.entries.keys()
    }

    /// The kept changesets whose id begins so (hexadecimal).
    pub fn by_prefix(&self, prefix: &str) -> Vec<ChangesetId> {
        let prefix = prefix.to_ascii_lowercase();
        self.ids().filter(|id| id.to_string().starts_with(&prefix)).copied().collect()
    }

    /// Of the sorted ids.
    pub fn digest(&self) -> Digest {
        digest_of(self.ids())
    }

    /// Of the sorted ids by first byte.
    pub fn bucket_digests(&self) -> Box<[Digest; 256]> {
        let mut digests = Box::new([Digest([0; 32]); 256]);
        for first in 0..=u8::MAX {
            digests[usize::from(first)] = digest_of(self.bucket(first).iter());
        }
        digests
    }

    /// The ids with this first byte, ascending.
    pub fn bucket(&self, first: u8) -> Vec<ChangesetId> {
        let edge = |fill: u8| {
            let mut bytes = [fill; 32];
            bytes[0] = first;
            ChangesetId(Digest(bytes))
        };
        self.kept.entries.range(edge(0)..=edge(u8::MAX)).map(|(id, _)| *id).collect()
    }

    /// The fold at this time. Cheap when nothing changed.
    pub fn state(&self, now: Millis) -> Arc<State> {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        let cached = fold::refresh(cache.take(), &self.kept, &self.chain, now);
        let state = cached.state.clone();
        *cache = Some(cached);
        state
    }

    /// The next time at which the fold changes by itself (a `confirm_by`, an expiry).
    pub fn next_change(&self, now: Millis) -> Option<Millis> {
        self.state(now).changes_at
    }

    /// What was pushed, newest first.
    pub fn log(&self) -> Vec<LogEntry> {
        let mut log: Vec<LogEntry> = self.kept.entries.values().map(|item| self.log_entry(&item.entry)).collect();
        log.sort_by(|a, b| b.time.cmp(&a.time).then_with(|| a.changeset.cmp(&b.changeset)));
        log
    }

    fn log_entry(&self, entry: &Entry) -> LogEntry {
        let replaces: BTreeSet<ChangesetId> = entry.changeset.references().copied().collect();
        let documents =
            entry.changeset.changes.iter().map(|change| (change.document.clone(), change.content.is_none()));
        LogEntry {
            changeset: entry.id,
            replaces: replaces.into_iter().collect(),
            authors: authors(&self.chain, &entry.signers),
            time: entry.changeset.issued_at,
            message: entry.changeset.message.clone(),
            documents: documents.collect(),
        }
    }

    /// The RoleSet chain from the genesis, as bytes, in an order in which a joiner can insert them.
    pub fn role_set_chain(&self) -> Vec<Arc<[u8]>> {
        self.chain.all().iter().filter_map(|id| self.get(id)).map(|entry| entry.bytes.clone()).collect()
    }

    /// What proves to somebody who knows the genesis alone how these documents stand: the RoleSets, whatever changed the
    /// documents, what that refers to and what confirms it. For [`History::insert_all`].
    pub fn proof<'d>(&self, documents: impl Iterator<Item = &'d DocumentId>) -> Vec<Arc<[u8]>> {
        let changed = documents.filter_map(|id| self.kept.by_document.get(id)).flatten();
        let mut open: Vec<ChangesetId> = self.chain.all().into_iter().chain(changed.copied()).collect();
        let mut found = BTreeSet::new();
        while let Some(id) = open.pop() {
            if let Some(entry) = self.get(&id).filter(|_| found.insert(id)) {
                open.extend(entry.changeset.references().copied());
                open.extend(entry.changeset.changes.iter().filter_map(confirmed));
                open.extend(self.kept.confirmations.get(&id).into_iter().flatten().copied());
            }
        }
        found.iter().filter_map(|id| self.get(id)).map(|entry| entry.bytes.clone()).collect()
    }

    /// Inserts what refers to each other, in whatever order it came.
    ///
    /// # Errors
    /// The last refusal, if something cannot be kept after all others either.
    pub fn insert_all<'b>(&mut self, changesets: impl Iterator<Item = &'b [u8]>, now: Millis) -> Result<(), Refused> {
        let mut waiting: Vec<&[u8]> = changesets.collect();
        loop {
            let before = waiting.len();
            let mut last = None;
            waiting.retain(|bytes| match self.insert(bytes, now) {
                Ok(_) => false,
                Err(refused) => {
                    last = Some(refused);
                    true
                }
            });
            match last {
                None => return Ok(()),
                Some(refused) if waiting.len() == before => return Err(refused),
                Some(_) => {}
            }
        }
    }

    /// What the field `keeps` of a new RoleSet must name, so that nothing which is live now stops counting.
    pub fn keeps_under(&self, next: &RoleSet, now: Millis) -> BTreeSet<Digest> {
        let next = Roles {
            number: u64::MAX,
            changeset: ChangesetId(Digest([0; 32])),
            set: Arc::new(next.clone()),
            bundle: Vec::new(),
        };
        let state = self.state(now);
        let heads =
            state.documents.iter().filter(|(id, _)| id.kind != Kind::RoleSet).flat_map(|(_, live)| &live.values);
        let lost = |id: &ChangesetId| {
            let entry = self.get(id);
            entry.is_some_and(|entry| !admit::allowed(&self.kept, &next, &entry.changeset, &entry.signers))
        };
        heads.map(|value| value.changeset).filter(lost).map(|id| id.0).collect()
    }
}

fn check_dates(changeset: &Changeset, now: Millis) -> Result<(), Refused> {
    if changeset.issued_at.abs_diff(now) > PUSH_CLOCK {
        let message = format!("it is dated {} s off this node's clock", changeset.issued_at.abs_diff(now) / 1_000);
        return Err(Refused::because(Code::ClockSkew, message, "set the clock of this machine or of the node"));
    }
    if changeset.confirm_by.is_some_and(|until| until <= now) {
        return Err(Refused::because(Code::ConfirmTooLate, "its trial is over already", "give it more time"));
    }
    Ok(())
}

fn digest_of<'i>(ids: impl Iterator<Item = &'i ChangesetId>) -> Digest {
    let bytes: Vec<u8> = ids.flat_map(|id| id.0.0).collect();
    Digest::of(&bytes)
}

fn authors(chain: &roles::Chain, signers: &[PublicKey]) -> Vec<String> {
    signers.iter().map(|key| chain.name_of(key).map_or_else(|| key.to_string(), str::to_owned)).collect()
}

/// The first changeset of a mesh: RoleSet number 1. The non-recovery keys get the role `admin`: everything, everywhere.
/// Sign it by all the non-recovery keys.
pub fn genesis(
    trust_domain: &TrustDomain,
    roots: &[Vec<u8>],
    keys: &[(String, PublicKey, bool)],
    now: Millis,
) -> Changeset {
    let operators: BTreeSet<String> =
        keys.iter().filter(|(_, _, recovery)| !recovery).map(|(name, _, _)| name.clone()).collect();
    let admin = Role {
        name: "admin".into(),
        threshold: 1,
        namespaces: BTreeSet::from(["*".to_owned()]),
        kinds: None,
        verbs: Verb::ALL.into_iter().collect(),
        keys: operators,
    };
    let set = RoleSet {
        bundle: Some(roots.to_vec()),
        threshold: admin.keys.len() / 2 + 1,
        keys: keys
            .iter()
            .map(|(name, key, recovery)| RoleKey { name: name.clone(), key: *key, recovery: *recovery })
            .collect(),
        roles: vec![admin],
        keeps: None,
        voids: BTreeSet::new(),
    };
    let (document, content) = set.body();
    debug_assert_eq!(document.namespace, ROOT_NAMESPACE);
    Changeset {
        trust_domain: trust_domain.clone(),
        role_set: 1,
        issued_at: now,
        message: "genesis".into(),
        confirm_by: None,
        nonce: [0; 16],
        changes: vec![Change { document, content: Some(content), replaces: Vec::new() }],
    }
}

/// The bytes of a changeset signed by these keys.
pub fn signed(changeset: &Changeset, keys: &[&SigningKey]) -> Vec<u8> {
    crate::changeset::encode(&changeset.sign(keys))
}

#[cfg(test)]
mod tests;
