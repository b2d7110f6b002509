//! The fold: live values are those that no counting changeset replaces. Per document, so that a push costs what it touches.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use certs::{
    codec::{self, Millis},
    grant::NodeGrant,
    sign::Digest,
};

use super::{Absent, Conflict, Kept, Live, LiveValue, State, Value, admit, authors, roles::Chain};
use crate::{
    changeset::{Change, Changeset, ChangesetId},
    document::{Document, DocumentId, Kind},
    kinds::RoleSet,
    parse,
};

/// A folded state, and what has changed since.
pub(super) struct Cached {
    pub(super) state: Arc<State>,
    folded_at: Millis,
    /// True if time takes part: a trial or an expiry.
    timed: bool,
    dirty: BTreeSet<DocumentId>,
    all: bool,
}

impl Cached {
    /// Notes what a new changeset may change.
    pub(super) fn touch(&mut self, changeset: &Changeset, all: bool) {
        self.all |= all || changeset.changes.iter().any(|change| change.document.kind == Kind::Confirmation);
        self.dirty.extend(changeset.changes.iter().map(|change| change.document.clone()));
    }

    fn time_moved(&self, now: Millis) -> bool {
        self.timed && (now < self.folded_at || self.state.changes_at.is_some_and(|at| at <= now))
    }
}

/// The state at `now`, with as little work as the cache allows.
pub(super) fn refresh(cached: Option<Cached>, kept: &Kept, chain: &Chain, now: Millis) -> Cached {
    let fold = |all: bool, before: Option<&State>, dirty: &BTreeSet<DocumentId>, was_timed: bool| {
        let folder = Folder::new(kept, chain, now);
        let mut documents = before.filter(|_| !all).map(|state| state.documents.clone()).unwrap_or_default();
        let mut timed = was_timed && !all;
        let mut changes_at = before.filter(|_| !all).and_then(|state| state.changes_at);
        let work: Vec<&DocumentId> = if all { kept.by_document.keys().collect() } else { dirty.iter().collect() };
        for id in work {
            let folded = folder.document(id);
            timed |= folded.timed;
            changes_at = earliest(changes_at, folded.changes_at);
            match folded.live {
                Some(live) => documents.insert(id.clone(), Arc::new(live)),
                None => documents.remove(id),
            };
        }
        let state = Arc::new(folder.state(documents, changes_at));
        Cached { state, folded_at: now, timed, dirty: BTreeSet::new(), all: false }
    };
    match cached {
        Some(cached) if cached.all || cached.time_moved(now) => fold(true, None, &cached.dirty, false),
        Some(cached) if cached.dirty.is_empty() => cached,
        Some(cached) => fold(false, Some(&cached.state), &cached.dirty, cached.timed),
        None => fold(true, None, &BTreeSet::new(), false),
    }
}

fn earliest(a: Option<Millis>, b: Option<Millis>) -> Option<Millis> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (one, other) => one.or(other),
    }
}

struct Folder<'k> {
    kept: &'k Kept,
    chain: &'k Chain,
    now: Millis,
    /// Per counting RoleSet that names them: the changesets that stay although it took their right away.
    stays: Vec<HashSet<ChangesetId>>,
    /// Of changesets that were judged: one may speak of a thousand documents.
    by_roles: RefCell<HashMap<ChangesetId, bool>>,
}

/// What became of one document.
struct Folded {
    live: Option<Live>,
    timed: bool,
    changes_at: Option<Millis>,
}

impl<'k> Folder<'k> {
    fn new(kept: &'k Kept, chain: &'k Chain, now: Millis) -> Self {
        let stays = chain.counting.iter().map(|roles| staying(kept, &roles.set)).collect();
        Self { kept, chain, now, stays, by_roles: RefCell::default() }
    }

    fn document(&self, id: &DocumentId) -> Folded {
        let mut folded = Folded { live: None, timed: false, changes_at: None };
        let all = self.kept.by_document.get(id).map(Vec::as_slice).unwrap_or_default();
        if id.kind == Kind::RoleSet {
            folded.live = self.role_set(id);
            return folded;
        }
        let counting: BTreeSet<ChangesetId> =
            all.iter().copied().filter(|change| self.counts(change, &mut folded)).collect();
        let replaced = self.ancestors(id, &counting);
        let heads: Vec<ChangesetId> = counting.iter().copied().filter(|change| !replaced.contains(change)).collect();
        if heads.is_empty() {
            return folded;
        }
        let mut values: Vec<LiveValue> = heads.iter().filter_map(|head| self.value(id, head, &mut folded)).collect();
        sort(&mut values);
        let mut candidates: Vec<LiveValue> = Vec::new();
        for value in &values {
            match &value.document {
                Err(Absent::Unreadable(_)) => {
                    candidates.extend(self.readable_ancestors(id, value.changeset, &counting, &mut folded))
                }
                Ok(_) | Err(Absent::Deleted | Absent::Expired) => candidates.push(value.clone()),
            }
        }
        sort(&mut candidates);
        let effective = candidates.into_iter().next().filter(|value| value.document.is_ok());
        folded.live = Some(Live { values, effective });
        folded
    }

    /// The RoleSet's live values are the last that counts, or its rival children.
    fn role_set(&self, id: &DocumentId) -> Option<Live> {
        let mut nothing = Folded { live: None, timed: false, changes_at: None };
        let last = self.chain.counting.last()?.changeset;
        let effective = self.value(id, &last, &mut nothing);
        let heads = if self.chain.rivals.is_empty() { vec![last] } else { self.chain.rivals.clone() };
        let mut values: Vec<LiveValue> = heads.iter().filter_map(|head| self.value(id, head, &mut nothing)).collect();
        sort(&mut values);
        Some(Live { values, effective })
    }

    /// True if the changeset counts: by the RoleSets since the one that it names, and by the time.
    fn counts(&self, id: &ChangesetId, folded: &mut Folded) -> bool {
        let Some(item) = self.kept.entries.get(id) else { return false };
        if !self.counts_by_roles(id) {
            return false;
        }
        let Some(until) = item.entry.changeset.confirm_by else { return true };
        let confirmed = self.kept.confirmations.get(id).is_some_and(|confirmations| {
            confirmations.iter().any(|by| {
                let in_time = self.kept.entries.get(by).is_some_and(|item| item.entry.changeset.issued_at < until);
                in_time && self.counts_by_roles(by)
            })
        });
        if confirmed {
            return true;
        }
        folded.timed = true;
        if self.now < until {
            folded.changes_at = earliest(folded.changes_at, Some(until));
        }
        self.now < until
    }

    fn counts_by_roles(&self, id: &ChangesetId) -> bool {
        if let Some(known) = self.by_roles.borrow().get(id) {
            return *known;
        }
        let counts = self.judge_roles(id);
        self.by_roles.borrow_mut().insert(*id, counts);
        counts
    }

    fn judge_roles(&self, id: &ChangesetId) -> bool {
        let Some(item) = self.kept.entries.get(id) else { return false };
        let changeset = &item.entry.changeset;
        let since = self.chain.since(changeset.role_set);
        let first = self.chain.counting.len() - since.len();
        since.iter().enumerate().all(|(offset, roles)| {
            admit::allowed(self.kept, roles, changeset, &item.entry.signers)
                || (roles.number > changeset.role_set && self.stays[first + offset].contains(id))
        })
    }

    /// Everything that these values replace, also through values that do not count.
    fn ancestors(&self, id: &DocumentId, of: &BTreeSet<ChangesetId>) -> HashSet<ChangesetId> {
        let mut found = HashSet::new();
        let mut open: Vec<ChangesetId> = of.iter().copied().collect();
        while let Some(next) = open.pop() {
            let replaces =
                self.kept.value(&next, id).map(|(_, change, _)| change.replaces.as_slice()).unwrap_or_default();
            open.extend(replaces.iter().copied().filter(|parent| found.insert(*parent)));
        }
        found
    }

    /// The nearest ancestors of an unreadable value that count and are readable.
    fn readable_ancestors(
        &self,
        id: &DocumentId,
        of: ChangesetId,
        counting: &BTreeSet<ChangesetId>,
        folded: &mut Folded,
    ) -> Vec<LiveValue> {
        let mut found = Vec::new();
        let mut seen = HashSet::from([of]);
        let mut open = vec![of];
        while let Some(next) = open.pop() {
            let Some((_, change, _)) = self.kept.value(&next, id) else { continue };
            for parent in change.replaces.iter().filter(|parent| seen.insert(**parent)) {
                let value = self.value(id, parent, folded).filter(|_| counting.contains(parent));
                match value {
                    Some(value) if !matches!(value.document, Err(Absent::Unreadable(_))) => found.push(value),
                    Some(_) | None => open.push(*parent),
                }
            }
        }
        found
    }

    fn value(&self, id: &DocumentId, changeset: &ChangesetId, folded: &mut Folded) -> Option<LiveValue> {
        let (entry, change, value) = self.kept.value(changeset, id)?;
        let document = match &change.content {
            None => Err(Absent::Deleted),
            Some(content) => self.read(entry.changeset.issued_at, change, value, content),
        };
        let document = document.and_then(|document| match document.expires {
            Some(at) => {
                folded.timed = true;
                if at > self.now {
                    folded.changes_at = earliest(folded.changes_at, Some(at));
                    Ok(document)
                } else {
                    Err(Absent::Expired)
                }
            }
            None => Ok(document),
        });
        let confined = document.as_ref().is_ok_and(|document| self.confined(document, changeset));
        Some(LiveValue {
            changeset: *changeset,
            document,
            json: change.content.as_deref().unwrap_or_default().into(),
            authors: authors(self.chain, &entry.signers),
            time: entry.changeset.issued_at,
            version: value.depth,
            confined,
        })
    }

    fn read(&self, issued: Millis, change: &Change, value: &Value, content: &str) -> Result<Arc<Document>, Absent> {
        let read = value.document.get_or_init(|| {
            let mut document = parse::json(&change.document, content)?;
            if document.created.is_none() {
                document.created = Some(self.first_issued(issued, change));
            }
            Ok(Arc::new(document))
        });
        read.clone().map_err(Absent::Unreadable)
    }

    /// When the first version since the last deletion was issued.
    fn first_issued(&self, issued: Millis, change: &Change) -> Millis {
        let id = &change.document;
        let (mut oldest, mut seen, mut open) = (issued, HashSet::new(), vec![change]);
        while let Some(change) = open.pop() {
            for parent in change.replaces.iter().filter(|parent| seen.insert(**parent)) {
                if let Some((entry, parent, _)) =
                    self.kept.value(parent, id).filter(|(_, parent, _)| parent.content.is_some())
                {
                    oldest = oldest.min(entry.changeset.issued_at);
                    open.push(parent);
                }
            }
        }
        oldest
    }

    /// True if the signers have no role where a host of the document lives.
    fn confined(&self, document: &Document, changeset: &ChangesetId) -> bool {
        let Some(item) = self.kept.entries.get(changeset) else { return true };
        let Some(roles) = self.chain.since(item.entry.changeset.role_set).first() else { return true };
        roles.set.foreign_host(document, &item.entry.signers).is_some()
    }

    fn state(&self, documents: BTreeMap<DocumentId, Arc<Live>>, changes_at: Option<Millis>) -> State {
        let mut state = State {
            genesis: self.chain.genesis().map_or(Digest([0; 32]), |id| id.0),
            changes_at: changes_at.filter(|at| *at > self.now),
            ..State::nothing()
        };
        if let Some(last) = self.chain.counting.last() {
            state.role_set = last.clone();
        }
        let mut digested: Vec<(&DocumentId, Vec<ChangesetId>, Option<ChangesetId>)> = Vec::new();
        for (id, live) in &documents {
            let heads: Vec<ChangesetId> = live.values.iter().map(|value| value.changeset).collect();
            note_conflicts(&mut state.conflicts, id, live, &heads);
            note_authority(&mut state, id, live);
            digested.push((id, heads, live.effective.as_ref().map(|value| value.changeset)));
        }
        let numbers: Vec<ChangesetId> = self.chain.counting.iter().map(|roles| roles.changeset).collect();
        state.digest = Digest::of(&codec::encode(&(digested, numbers)));
        state.documents = documents;
        state
    }
}

fn note_conflicts(conflicts: &mut Vec<Conflict>, id: &DocumentId, live: &Live, heads: &[ChangesetId]) {
    if heads.len() > 1 {
        conflicts.push(match id.kind == Kind::RoleSet {
            true => Conflict::RoleSets(heads.to_vec()),
            false => Conflict::Values(id.clone(), heads.to_vec()),
        });
    }
    let unreadable = live.values.iter().filter(|value| matches!(value.document, Err(Absent::Unreadable(_))));
    conflicts.extend(unreadable.map(|value| Conflict::Unreadable(id.clone(), value.changeset)));
}

/// Grants: the highest epoch owns the name. Revocations: all live ones add up.
fn note_authority(state: &mut State, id: &DocumentId, live: &Live) {
    let documents = live.values.iter().filter_map(|value| value.document.as_ref().ok());
    if id.kind == Kind::NodeGrant {
        let Some(effective) = &live.effective else { return };
        let all = documents.chain(&effective.document).filter_map(|document| document.spec.node_grant());
        // Backwards, as the values come winner first and `max_by_key` keeps the last of equals.
        let all: Vec<&Arc<NodeGrant>> = all.collect();
        if let Some(grant) = all.into_iter().rev().max_by_key(|grant| (grant.epoch, grant.retired)) {
            state.grants.insert(grant.node.clone(), grant.clone());
        }
    } else if id.kind == Kind::Revocation {
        for revocation in documents.filter_map(|document| document.spec.revocation()) {
            revocation.nodes.iter().for_each(|(node, epoch)| state.revocations.evict(node.clone(), *epoch));
            state.revocations.accounts.extend(revocation.accounts.iter().cloned());
            state.revocations.keys.extend(revocation.keys.iter().copied());
        }
    }
}

/// Greatest depth first, then the lowest id.
fn sort(values: &mut [LiveValue]) {
    values.sort_by(|a, b| b.version.cmp(&a.version).then_with(|| a.changeset.cmp(&b.changeset)));
}

/// The ancestors of what a RoleSet keeps, itself included, without what it voids.
fn staying(kept: &Kept, set: &RoleSet) -> HashSet<ChangesetId> {
    let mut found = HashSet::new();
    let mut open: Vec<ChangesetId> = set.keeps.iter().flatten().map(|id| ChangesetId(*id)).collect();
    while let Some(next) = open.pop() {
        if found.insert(next)
            && let Some(item) = kept.entries.get(&next)
        {
            open.extend(item.entry.changeset.references().copied());
        }
    }
    found.retain(|id| !set.voids.contains(&id.0));
    found
}
