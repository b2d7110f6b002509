//! The fold: live values are those that no counting changeset replaces. That is all of it, and it is done document by document.
//!
//! Invariants, on which it rests that every node with the same set has the same state:
//! - it reads the kept set, the chain of RoleSets and the time, and nothing else; no step depends on an order of arrival;
//! - what a changeset is worth follows from its signers under the RoleSet that it names and every later one that counts, and from
//!   its trial, never from what is live;
//! - a value is replaced by what counts, also through values that do not: taking a right away never brings back what was
//!   replaced by somebody who still has it;
//! - a value that has expired yields to what it replaced, like a trial that is over, if anything else stands;
//! - where bodies are missing or this build cannot read them, ids decide what is live, and the nearest readable ancestors stand in.

use std::{
    borrow::Cow,
    cell::RefCell,
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use certs::{
    codec::{self, Millis},
    sign::Digest,
};

use super::{
    Absent, Claim, Conflict, Live, LiveValue, State,
    authority::told,
    kept::{Kept, Value},
    log::authors,
    roles::Chain,
};
use crate::{
    changeset::{Change, ChangesetId},
    document::{Document, DocumentId, Kind},
    kinds::RoleSet,
    parse,
};

/// Per counting RoleSet: the changesets that stay although it, or one before that it adds to, took their right away.
pub(super) type Stays = Arc<Vec<HashSet<ChangesetId>>>;

/// Folds documents as of one time.
pub(super) struct Folder<'k> {
    pub(super) kept: &'k Kept,
    chain: &'k Chain,
    pub(super) now: Millis,
    pub(super) stays: Stays,
    /// Of changesets that were judged: one may speak of a thousand documents.
    by_roles: RefCell<HashMap<ChangesetId, bool>>,
}

/// What became of one document.
#[derive(Default)]
pub(super) struct Folded {
    pub(super) live: Option<Live>,
    /// True if time took part: a trial or an expiry.
    pub(super) timed: bool,
    /// When it changes by itself.
    pub(super) changes_at: Option<Millis>,
}

impl<'k> Folder<'k> {
    pub(super) fn new(kept: &'k Kept, chain: &'k Chain, now: Millis) -> Self {
        let mut stays: Vec<HashSet<ChangesetId>> = Vec::new();
        for roles in &chain.counting {
            stays.push(staying(kept, &roles.set, stays.last()));
        }
        Self::staying(kept, chain, now, Arc::new(stays))
    }

    /// The same where it is known what stays.
    pub(super) fn staying(kept: &'k Kept, chain: &'k Chain, now: Millis, stays: Stays) -> Self {
        Self { kept, chain, now, stays, by_roles: RefCell::default() }
    }

    pub(super) fn document(&self, id: &DocumentId) -> Folded {
        #[cfg(test)]
        super::kept::counted::DOCUMENTS.with(|count| count.set(count.get() + 1));
        let mut folded = Folded::default();
        let all = self.kept.by_document.get(id).map(Vec::as_slice).unwrap_or_default();
        if id.kind == Kind::RoleSet {
            folded.live = self.role_set(id);
            return folded;
        }
        let counting: BTreeSet<ChangesetId> =
            all.iter().copied().filter(|change| self.counts(change, &mut folded)).collect();
        let (heads, yielded) = self.heads(id, &counting, &mut folded);
        if heads.is_empty() {
            return folded;
        }
        let mut values: Vec<LiveValue> = heads.iter().filter_map(|head| self.value(id, head, &mut folded)).collect();
        sort(&mut values);
        let mut in_force: Vec<LiveValue> = Vec::new();
        let mut unreadable: Vec<(&LiveValue, Vec<ChangesetId>)> = Vec::new();
        for value in &values {
            if value.is_readable() {
                in_force.push(value.clone());
            } else {
                let ancestors = self.readable_ancestors(id, value.changeset, &counting, &mut folded);
                unreadable.push((value, ancestors.iter().map(|ancestor| ancestor.changeset).collect()));
                in_force.extend(ancestors);
            }
        }
        sort(&mut in_force);
        in_force.dedup_by_key(|value| value.changeset);
        // A stand-in that another one replaced, directly or not, is not the nearest.
        let replaced = self.kept.ancestors(id, in_force.iter().map(|value| &value.changeset));
        in_force.retain(|value| !replaced.contains(&value.changeset));
        // Only now it is known who is left to stand in: a rival that replaced the stand-in may be laxer than what cannot be read.
        let stands = |by: &ChangesetId| in_force.iter().any(|value| value.changeset == *by && value.document.is_ok());
        let blind = unreadable.iter().filter(|(_, ancestors)| !ancestors.iter().any(stands));
        let blind: Vec<LiveValue> = blind.map(|(value, _)| (*value).clone()).collect();
        let mut live = Live::new(values, in_force, blind);
        live.yielded = yielded;
        if matches!(id.kind, Kind::NodeGrant | Kind::Revocation) {
            let counted = counting.iter().filter_map(|change| told(id.kind, &self.value(id, change, &mut folded)?));
            live.counted = counted.collect();
        }
        folded.live = Some(live);
        folded
    }

    /// The values that nothing replaces. One that has expired yields to what it replaced, as a trial that is over does, if there is
    /// anything; what it only put an end to, saying the same, ends with it. Grants and revocations end for good: no old right comes back.
    /// Beside them those that nothing replaces and that yielded.
    fn heads(
        &self,
        id: &DocumentId,
        counting: &BTreeSet<ChangesetId>,
        folded: &mut Folded,
    ) -> (Vec<ChangesetId>, Vec<ChangesetId>) {
        let of = |counting: &BTreeSet<ChangesetId>| {
            let replaced = self.kept.ancestors(id, counting.iter());
            counting.iter().copied().filter(|change| !replaced.contains(change)).collect::<Vec<_>>()
        };
        let all = of(counting);
        if ends_for_good(id) {
            return (all, Vec::new());
        }
        let mut left = Cow::Borrowed(counting);
        let mut heads = all.clone();
        loop {
            let is_over = |head: &&ChangesetId| {
                self.value(id, head, folded).is_some_and(|value| value.document == Err(Absent::Expired))
            };
            let mut over: Vec<ChangesetId> = heads.iter().filter(is_over).copied().collect();
            if over.is_empty() {
                if heads.is_empty() {
                    return (all, Vec::new());
                }
                let yielded = all.into_iter().filter(|head| !heads.contains(head)).collect();
                return (heads, yielded);
            }
            while let Some(next) = over.pop() {
                left.to_mut().remove(&next);
                let Some((_, change, _)) = self.kept.value(&next, id) else { continue };
                let same = |parent: &&ChangesetId| {
                    let before = self.kept.value(parent, id).filter(|_| left.contains(parent));
                    before.is_some_and(|(_, before, _)| says_the_same(before, change))
                };
                over.extend(change.replaces.iter().filter(same));
            }
            heads = of(&left);
        }
    }

    /// The RoleSet's live values are the last that counts, or its rival children.
    fn role_set(&self, id: &DocumentId) -> Option<Live> {
        let mut nothing = Folded::default();
        let last = self.chain.counting.last()?.changeset;
        let effective = self.value(id, &last, &mut nothing);
        let heads = if self.chain.rivals.is_empty() { vec![last] } else { self.chain.rivals.clone() };
        let mut values: Vec<LiveValue> = heads.iter().filter_map(|head| self.value(id, head, &mut nothing)).collect();
        sort(&mut values);
        Some(Live::new(values, effective.into_iter().collect(), Vec::new()))
    }

    /// True if the changeset counts: by the RoleSets since the one that it names, and by the time.
    fn counts(&self, id: &ChangesetId, folded: &mut Folded) -> bool {
        let Some(item) = self.kept.entries.get(id) else { return false };
        if !self.counts_by_roles(id) {
            return false;
        }
        let Some(until) = item.entry.changeset.confirm_by else { return true };
        if self.confirmed(id, until) {
            return true;
        }
        folded.timed = true;
        if self.now < until {
            folded.changes_at = earliest(folded.changes_at, Some(until));
        }
        self.now < until
    }

    /// True if the changeset counts whatever the time.
    pub(super) fn counts_for_ever(&self, id: &ChangesetId) -> bool {
        let Some(item) = self.kept.entries.get(id) else { return false };
        let on_trial = item.entry.changeset.confirm_by.is_some_and(|until| !self.confirmed(id, until));
        !on_trial && self.counts_by_roles(id)
    }

    /// True if this build can tell what the changeset makes of the document, and that does not end by itself.
    pub(super) fn lasts(&self, document: &DocumentId, id: &ChangesetId) -> bool {
        let mut untold = Folded::default();
        self.value(document, id, &mut untold).is_some_and(|value| match value.document {
            Ok(document) => document.expires.is_none(),
            Err(Absent::Deleted) => true,
            Err(Absent::Expired | Absent::Unreadable(_) | Absent::Forgotten) => false,
        })
    }

    /// True if a confirmation counts that is dated before the end of the trial.
    fn confirmed(&self, id: &ChangesetId, until: Millis) -> bool {
        let in_time =
            |by: &ChangesetId| self.kept.entries.get(by).is_some_and(|item| item.entry.changeset.issued_at < until);
        let confirmations = self.kept.confirmations.get(id).map(Vec::as_slice).unwrap_or_default();
        confirmations.iter().any(|by| in_time(by) && self.counts_by_roles(by))
    }

    pub(super) fn counts_by_roles(&self, id: &ChangesetId) -> bool {
        if let Some(known) = self.by_roles.borrow().get(id) {
            return *known;
        }
        let counts = self.judge_roles(id);
        self.by_roles.borrow_mut().insert(*id, counts);
        counts
    }

    fn judge_roles(&self, id: &ChangesetId) -> bool {
        let Some(item) = self.kept.entries.get(id) else { return false };
        let named = item.entry.changeset.role_set;
        let since = self.chain.since(named);
        let first = self.chain.counting.len() - since.len();
        since.iter().enumerate().all(|(offset, roles)| {
            self.kept.allowed(roles, &item.entry) || (roles.number > named && self.stays[first + offset].contains(id))
        })
    }

    /// The nearest ancestors of an unreadable value that count, are readable and have not expired.
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
                let stands = |value: &LiveValue| {
                    value.is_readable() && (ends_for_good(id) || value.document != Err(Absent::Expired))
                };
                match value {
                    Some(value) if stands(&value) => found.push(value),
                    Some(_) | None => open.push(*parent),
                }
            }
        }
        found
    }

    pub(super) fn value(&self, id: &DocumentId, changeset: &ChangesetId, folded: &mut Folded) -> Option<LiveValue> {
        let (entry, change, value) = self.kept.value(changeset, id)?;
        let document = match &change.content {
            None => Err(Absent::Deleted),
            Some(_) if change.is_gone() => Err(Absent::Forgotten),
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
            let mut document = parse::signed(&change.document, content)?;
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

    pub(super) fn state(&self, documents: BTreeMap<DocumentId, Arc<Live>>, changes_at: Option<Millis>) -> State {
        let mut state = State {
            genesis: self.chain.genesis().map_or(Digest([0; 32]), |id| id.0),
            changes_at: changes_at.filter(|at| *at > self.now),
            ..State::nothing()
        };
        if let Some(last) = self.chain.counting.last() {
            state.role_set = last.clone();
        }
        state.role_set_bytes = self.kept.bytes_of(&self.chain.all());
        let mut digested: Vec<(&DocumentId, Vec<ChangesetId>, Vec<ChangesetId>)> = Vec::new();
        for (id, live) in &documents {
            let ids = |values: &[LiveValue]| values.iter().map(|value| value.changeset).collect();
            note_conflicts(&mut state.conflicts, id, live);
            self.note_authority(&mut state, id, live);
            digested.push((id, ids(&live.values), ids(&live.in_force)));
        }
        let numbers: Vec<ChangesetId> = self.chain.counting.iter().map(|roles| roles.changeset).collect();
        state.digest = Digest::of(&codec::encode(&(digested, numbers)));
        state.documents = documents;
        state
    }
}

fn note_conflicts(conflicts: &mut Vec<Conflict>, id: &DocumentId, live: &Live) {
    if live.values.len() > 1 {
        let claims = live.values.iter().map(|value| Claim {
            changeset: value.changeset,
            authors: value.authors.clone(),
            in_effect: live.holds(id.kind, &value.changeset),
        });
        conflicts.push(match id.kind == Kind::RoleSet {
            true => Conflict::RoleSets(live.values.iter().map(|value| value.changeset).collect()),
            false => Conflict::Values(id.clone(), claims.collect()),
        });
    }
    let unreadable = live.values.iter().filter(|value| !value.is_readable());
    conflicts.extend(unreadable.map(|value| Conflict::Unreadable(id.clone(), value.changeset)));
}

/// True for what gives or takes rights of nodes: what has expired is as if it were deleted.
pub(super) fn ends_for_good(id: &DocumentId) -> bool {
    matches!(id.kind, Kind::NodeGrant | Kind::Revocation)
}

/// True if two values of a document differ in nothing but what stands beside the `spec`, such as when they end.
pub(super) fn says_the_same(one: &Change, other: &Change) -> bool {
    let spec = |change: &Change| {
        let mut content: serde_json::Value = serde_json::from_str(change.content.as_deref()?).ok()?;
        content.get_mut("spec").map(serde_json::Value::take)
    };
    spec(one).is_some_and(|spec_of_one| spec(other) == Some(spec_of_one))
}

/// Greatest depth first, then the lowest id.
fn sort(values: &mut [LiveValue]) {
    values.sort_by(|a, b| b.version.cmp(&a.version).then_with(|| a.changeset.cmp(&b.changeset)));
}

/// The ancestors of what a RoleSet keeps, itself included, without what it voids. One that does not say what it keeps takes nothing
/// away from the one before: what stayed `before` stays.
pub(super) fn staying(kept: &Kept, set: &RoleSet, before: Option<&HashSet<ChangesetId>>) -> HashSet<ChangesetId> {
    let mut found = before.filter(|_| set.keeps.is_none()).cloned().unwrap_or_default();
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

/// The earlier of two times that may not be.
pub(super) fn earliest(a: Option<Millis>, b: Option<Millis>) -> Option<Millis> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (one, other) => one.or(other),
    }
}
