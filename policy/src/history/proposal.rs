//! Changesets that too few keys have signed so far. They are kept like all others and never folded, so that they come to count on
//! every node with the last approval that they need, in whatever order both arrive.

use std::collections::BTreeSet;

use certs::{codec::Millis, sign::PublicKey};

use super::{Entry, History, Voucher, log::authors};
use crate::{
    changeset::{ChangesetId, MAX_PROPOSALS, PROPOSAL_LIFE, confirmed},
    document::{DocumentId, Kind},
    kinds::{RoleKey, RoleSet, Verb},
};

/// A changeset that waits for signatures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proposal {
    /// Its id.
    pub changeset: ChangesetId,
    /// What it would change, and whether it would delete it.
    pub documents: Vec<(DocumentId, bool)>,
    /// Names of the keys that have signed it.
    pub signed: Vec<String>,
    /// What is missing; all of it must be met.
    pub missing: Vec<Missing>,
    /// When it was made.
    pub time: Millis,
    /// Until when it may be signed.
    pub until: Millis,
    /// Why, as its author says.
    pub message: String,
    /// Why no further signature is taken although its time is not over: what it replaces is no longer live.
    pub stale: Option<String>,
}

/// So many further signatures of these keys.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Missing {
    /// How many.
    pub count: usize,
    /// Names of keys; those that have signed are left out.
    pub of: Vec<String>,
}

impl History {
    /// The changesets that wait for signatures, oldest first.
    pub fn proposals(&self, now: Millis) -> Vec<Proposal> {
        let mut open: Vec<Proposal> = self.open(now).map(|entry| self.describe(entry, now)).collect();
        open.sort_by(|a, b| a.time.cmp(&b.time).then_with(|| a.changeset.cmp(&b.changeset)));
        open
    }

    /// A changeset, if it waits for signatures.
    pub fn proposal(&self, id: &ChangesetId, now: Millis) -> Option<Proposal> {
        let entry = self.get(id).filter(|_| self.is_proposal(id, now))?;
        Some(self.describe(entry, now))
    }

    /// True if a changeset waits for signatures. Folds nothing.
    pub fn is_proposal(&self, id: &ChangesetId, now: Millis) -> bool {
        self.get(id).is_some_and(|entry| !self.complete(entry) && !self.closed(entry, now))
    }

    /// True if a RoleSet waits for a signature of this key, which may be one that only this RoleSet would bring in.
    pub fn awaits(&self, key: &PublicKey, now: Millis) -> bool {
        self.open(now).any(|entry| {
            entry.changeset.changes.iter().any(|change| change.document.kind == Kind::RoleSet)
                && !entry.signers.contains(key)
                && self.chain.governs(&entry.changeset, key)
        })
    }

    /// What an approval approves.
    pub fn approves(&self, id: &ChangesetId) -> Option<ChangesetId> {
        self.kept.approval(id).map(|vote| vote.about)
    }

    fn open(&self, now: Millis) -> impl Iterator<Item = &Entry> {
        let entries = self.proposed.iter().filter_map(|id| self.get(id));
        entries.filter(move |entry| !self.complete(entry) && !self.closed(entry, now))
    }

    /// True if enough keys have signed it for the RoleSet that it names.
    pub(super) fn complete(&self, entry: &Entry) -> bool {
        if entry.changeset.changes.iter().any(|change| change.document.kind == Kind::RoleSet) {
            return self.chain.holds(&entry.id);
        }
        self.chain.of_number(entry.changeset.role_set).any(|roles| self.kept.allowed(roles, entry))
    }

    /// True if its time to be signed is over.
    pub(super) fn closed(&self, entry: &Entry, now: Millis) -> bool {
        entry.changeset.issued_at.saturating_add(PROPOSAL_LIFE) <= now
    }

    /// The signer, if any, who has as many open proposals as one key may have. What another operator approves is never held back,
    /// nor what something that counts replaces: else that could count on one node and not on another.
    pub(super) fn crowded(&self, entry: &Entry, now: Millis) -> Option<PublicKey> {
        let vouched = self.vouched.get(&entry.id).is_some_and(|voucher| match voucher {
            Voucher::Approval(key) => !entry.signers.contains(key),
            Voucher::Successor => true,
        });
        if vouched || self.closed(entry, now) {
            return None;
        }
        let has_many = |key: &&PublicKey| {
            let by_it = self.open(now).filter(|open| open.signers.contains(key));
            by_it.take(MAX_PROPOSALS).count() == MAX_PROPOSALS
        };
        entry.signers.iter().find(has_many).copied()
    }

    fn describe(&self, entry: &Entry, now: Millis) -> Proposal {
        let documents =
            entry.changeset.changes.iter().map(|change| (change.document.clone(), change.content.is_none()));
        Proposal {
            changeset: entry.id,
            documents: documents.collect(),
            signed: authors(&self.chain, &entry.signers),
            missing: self.missing(entry),
            time: entry.changeset.issued_at,
            until: entry.changeset.issued_at.saturating_add(PROPOSAL_LIFE),
            message: entry.changeset.message.clone(),
            stale: self.check_open(entry, now).err().map(|refused| refused.to_string()),
        }
    }

    /// Who must still sign, under the RoleSet that it names and all later ones.
    fn missing(&self, entry: &Entry) -> Vec<Missing> {
        let mut missing = BTreeSet::new();
        for change in &entry.changeset.changes {
            if change.document.kind == Kind::RoleSet {
                missing.extend(self.chain.sets_for(&entry.changeset).iter().filter_map(|set| to_govern(set, entry)));
                continue;
            }
            let about = confirmed(change).and_then(|id| self.get(&id));
            let changes = about.map_or(std::slice::from_ref(change), |about| &about.changeset.changes);
            for roles in self.chain.since(entry.changeset.role_set) {
                missing.extend(changes.iter().filter_map(|change| to_change(&roles.set, &change.document, entry)));
            }
        }
        missing.into_iter().collect()
    }
}

/// What a RoleSet's own keys still owe.
fn to_govern(set: &RoleSet, entry: &Entry) -> Option<Missing> {
    if set.approves(&entry.signers) {
        return None;
    }
    let (signed, rest): (Vec<&RoleKey>, Vec<&RoleKey>) =
        set.approving().partition(|key| entry.signers.contains(&key.key));
    Some(Missing { count: set.threshold - signed.len(), of: rest.iter().map(|key| key.name.clone()).collect() })
}

/// What the role that is nearest to being met still needs.
fn to_change(set: &RoleSet, document: &DocumentId, entry: &Entry) -> Option<Missing> {
    let verb = Verb::to_change(document.kind);
    let owed = set.covering(verb, document.kind, &document.namespace).map(|role| {
        let has_signed = |name: &&String| set.key(name).is_some_and(|key| entry.signers.contains(&key.key));
        let (signed, rest): (Vec<&String>, Vec<&String>) = role.keys.iter().partition(has_signed);
        Missing { count: role.threshold.saturating_sub(signed.len()), of: rest.into_iter().cloned().collect() }
    });
    owed.min().filter(|missing| missing.count > 0)
}
