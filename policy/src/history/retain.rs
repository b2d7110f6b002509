//! Which bodies may go. Ids, signatures and what replaced what stay for ever; a body goes when it was replaced long ago, or never
//! came to count. The fold needs none of these; where a later RoleSet makes one live again, it is fetched from whoever has it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError};

use certs::codec::Millis;

use super::{Entry, History, fold::Folder};
use crate::changeset::{self, ChangesetId};

/// How long a body stays after it was replaced.
pub const RETENTION: Millis = 90 * 24 * 3_600_000;
/// How much sooner another node's stub is believed to be due: clocks differ.
const TOLERANCE: Millis = 24 * 3_600_000;

impl History {
    /// The changesets whose bodies this node may let go.
    pub fn forgettable(&self, now: Millis) -> Vec<ChangesetId> {
        // By the node's own clock too: an author may date what it replaces with as it likes.
        let replaced = |entry: &Entry| entry.changeset.issued_at.max(entry.seen).saturating_add(RETENTION) <= now;
        let due = self.due(now, replaced);
        self.kept
            .entries
            .values()
            .map(|item| &item.entry)
            .filter(|entry| entry.whole && due(entry))
            .map(|e| e.id)
            .collect()
    }

    /// The changesets whose bodies are not here and should be.
    pub fn wanted(&self, now: Millis) -> Vec<ChangesetId> {
        let mut stubs = self.kept.entries.values().map(|item| &item.entry).filter(|entry| !entry.whole).peekable();
        if stubs.peek().is_none() {
            return Vec::new();
        }
        let replaced = |entry: &Entry| entry.changeset.issued_at.saturating_add(RETENTION) <= now + TOLERANCE;
        let due = self.due(now + TOLERANCE, replaced);
        stubs.filter(|entry| !due(entry)).map(|entry| entry.id).collect()
    }

    /// Lets the bodies of a changeset go; gives the stub that is to be stored instead.
    pub fn forget(&mut self, id: &ChangesetId) -> Option<Arc<[u8]>> {
        let entry = self.get(id).filter(|entry| entry.whole)?;
        let stub = changeset::decode(&entry.bytes).ok()?.stub();
        let read = stub.read().ok()?;
        let bytes: Arc<[u8]> = changeset::encode(&stub).into();
        let entry =
            Entry { bytes: bytes.clone(), changeset: Arc::new(read.changeset), whole: read.whole, ..entry.clone() };
        self.replace(entry);
        Some(bytes)
    }

    /// Puts another copy of a kept changeset in its place.
    pub(super) fn replace(&mut self, entry: Entry) {
        if let Some(cached) = self.cache.get_mut().unwrap_or_else(PoisonError::into_inner) {
            cached.touch(&entry.changeset, false);
        }
        self.kept.swap(entry);
    }

    /// Whether a changeset's bodies are due to go: every document that it sets was replaced long ago by something readable that does not expire and counts
    /// for ever, or it is a proposal or a trial that came to nothing. What concerns the whole mesh stays.
    fn due<'h>(&'h self, now: Millis, long_ago: impl Fn(&Entry) -> bool) -> impl Fn(&Entry) -> bool + 'h {
        let folder = Folder::new(&self.kept, &self.chain, now);
        let mut replaced: BTreeMap<_, BTreeSet<ChangesetId>> = BTreeMap::new();
        for (document, changes) in self.kept.by_document.iter().filter(|(id, _)| !id.kind.is_mesh_wide()) {
            // What this build cannot read yields to what it replaced, and so does what expires.
            let lasts = |id: &ChangesetId| folder.lasts(document, id);
            let old =
                |id: &&ChangesetId| self.get(id).is_some_and(&long_ago) && folder.counts_for_ever(id) && lasts(id);
            let old: Vec<&ChangesetId> = changes.iter().filter(old).collect();
            replaced.insert(document, self.kept.ancestors(document, old.into_iter()));
        }
        move |entry| {
            let mut sets = entry.changeset.changes.iter().filter(|change| change.content.is_some()).peekable();
            if sets.peek().is_none() || entry.changeset.changes.iter().any(|change| change.document.kind.is_mesh_wide())
            {
                return false;
            }
            let abandoned = self.proposed.contains(&entry.id) && !self.complete(entry) && self.closed(entry, now);
            let trial_ended = entry.changeset.confirm_by.is_some_and(|until| until.saturating_add(RETENTION) <= now);
            let failed = abandoned || trial_ended && !folder.counts_for_ever(&entry.id);
            failed || sets.all(|change| replaced.get(&change.document).is_some_and(|old| old.contains(&entry.id)))
        }
    }
}
