//! Which bodies may go. Ids, signatures and what replaced what stay for ever; a body goes when it was replaced long ago, or never
//! came to count, and sooner where those who signed it replaced it themselves and left many such: what somebody else replaced may be
//! wanted back. The fold needs none of these; where a later RoleSet makes one live again, it is fetched from whoever has it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, PoisonError};

use certs::{codec::Millis, sign::PublicKey};

use super::{Entry, History, State, fold::Folder};
use crate::{
    changeset::{self, Change, ChangesetId},
    document::DocumentId,
};

/// How long a body stays after it was replaced.
pub const RETENTION: Millis = 90 * 24 * 3_600_000;
/// Bytes of bodies that one signing key replaced of its own, and that stay at most; beyond, the oldest go before [`RETENTION`].
pub const REPLACED_BYTES: usize = 32 << 20;
/// Said where somebody asks for a body that is here no more.
pub const WHEN_BODIES_GO: &str =
    "bodies go 90 days after they were replaced, and sooner where their own key replaced over 32 MiB since";
/// How much sooner another node's stub is believed to be due: clocks differ.
const TOLERANCE: Millis = 24 * 3_600_000;

impl History {
    /// The changesets whose bodies this node may let go.
    pub fn forgettable(&self, now: Millis) -> Vec<ChangesetId> {
        // By the node's own clock too: an author may date what it replaces with as it likes.
        let replaced = |entry: &Entry| entry.changeset.issued_at.max(entry.seen).saturating_add(RETENTION) <= now;
        let due = self.due(now, replaced, RETENTION, |_| Vec::new());
        let beyond = self.beyond(now, REPLACED_BYTES);
        let entries = self.kept.entries.values().map(|item| &item.entry);
        entries
            .filter(|entry| entry.whole && (due(entry) || beyond.contains(&entry.id)))
            .map(|entry| entry.id)
            .collect()
    }

    /// The changesets whose bodies are not here and should be.
    pub fn wanted(&self, now: Millis) -> Vec<ChangesetId> {
        let mut stubs = self.kept.entries.values().map(|item| &item.entry).filter(|entry| !entry.whole).peekable();
        if stubs.peek().is_none() {
            return Vec::new();
        }
        let replaced = |entry: &Entry| entry.changeset.issued_at.saturating_add(RETENTION) <= now + TOLERANCE;
        let due = self.due(now + TOLERANCE, replaced, RETENTION, |_| Vec::new());
        let beyond = self.beyond(now + TOLERANCE, REPLACED_BYTES);
        stubs.filter(|entry| !due(entry) && !beyond.contains(&entry.id)).map(|entry| entry.id).collect()
    }

    /// The changesets that no longer matter to the fold, whatever anybody but those who signed them did, and are over the limit of each
    /// of their keys, by what their heads say: so a node without the bodies comes to the same. What several signed goes when the last of
    /// them has left that much since. What others replaced is charged to nobody: it counts again where their key is removed.
    pub(super) fn beyond(&self, now: Millis, limit: usize) -> BTreeSet<ChangesetId> {
        let entries = || self.kept.entries.values().map(|item| &item.entry);
        if entries().map(|entry| entry.bodies).sum::<usize>() <= limit {
            return BTreeSet::new();
        }
        let over = self.due(now, |_| true, 0, |entry| self.operators(entry));
        let mut past: Vec<&Entry> = entries().filter(|entry| over(entry)).collect();
        past.sort_by_key(|entry| Reverse((entry.changeset.issued_at, entry.id)));
        let mut left: HashMap<PublicKey, usize> = HashMap::new();
        let is_beyond = |entry: &&Entry| {
            let sums = self.operators(entry).into_iter().map(|key| {
                let sum = left.entry(key).or_default();
                *sum += entry.bodies;
                *sum
            });
            sums.min().is_some_and(|least| least > limit)
        };
        past.into_iter().filter(is_beyond).map(|entry| entry.id).collect()
    }

    /// A changeset or approval for whoever replaces the RoleSet: without the bodies where heads say enough. Those of what has `ended`
    /// stay beside it, for their end decides what is live, and those that stubs never lack.
    pub fn for_successor(&self, id: &ChangesetId, ended: &BTreeSet<ChangesetId>) -> Option<Vec<u8>> {
        let bytes = self.bytes(id)?;
        let Some(entry) = self.get(id).filter(|entry| entry.whole && !ended.contains(id)) else {
            return Some(bytes.to_vec());
        };
        if entry.changeset.changes.iter().any(|change| change.document.kind.is_mesh_wide()) {
            return Some(bytes.to_vec());
        }
        Some(changeset::encode(&changeset::decode(bytes).ok()?.stub()))
    }

    /// The values that yield because they have ended, with those between them and what is live instead.
    pub fn ended(&self, state: &State) -> BTreeSet<ChangesetId> {
        let mut ended = BTreeSet::new();
        for (document, live) in state.documents.iter().filter(|(_, live)| !live.yielded.is_empty()) {
            let below = self.kept.ancestors(document, live.values.iter().map(|value| &value.changeset));
            let above = self.kept.ancestors(document, live.yielded.iter());
            ended.extend(above.difference(&below).chain(&live.yielded).copied());
        }
        ended
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

    /// Those who signed it and are operators by the RoleSet that it names; any other key may be added to a signature, and stands for nobody.
    /// What the very same ones replaced goes with them: whatever becomes of their keys becomes of what they replaced it by, too.
    fn operators(&self, entry: &Entry) -> Vec<PublicKey> {
        let is_one = |key: &&PublicKey| {
            let mut named = self.chain.of_number(entry.changeset.role_set);
            named.any(|named| named.set.keys.iter().any(|own| own.key == **key))
        };
        entry.signers.iter().filter(is_one).copied().collect()
    }

    /// Whether a changeset's bodies are due to go: every document that it sets was replaced long ago by something readable that does not expire and counts
    /// for ever, and of which `by` says the same; or it is a proposal that came to nothing, or a trial, `rest` after its end. What concerns
    /// the whole mesh stays.
    fn due<'h>(
        &'h self,
        now: Millis,
        long_ago: impl Fn(&Entry) -> bool,
        rest: Millis,
        by: impl Fn(&Entry) -> Vec<PublicKey> + 'h,
    ) -> impl Fn(&Entry) -> bool + 'h {
        let folder = Folder::new(&self.kept, &self.chain, now);
        let mut replaced: BTreeMap<&DocumentId, BTreeMap<Vec<PublicKey>, BTreeSet<ChangesetId>>> = BTreeMap::new();
        for (document, changes) in self.kept.by_document.iter().filter(|(id, _)| !id.kind.is_mesh_wide()) {
            let mut old: BTreeMap<Vec<PublicKey>, Vec<&ChangesetId>> = BTreeMap::new();
            for id in changes {
                let Some(entry) = self.get(id).filter(|entry| long_ago(entry)) else { continue };
                // What this build cannot read yields to what it replaced, and so does what expires.
                if folder.counts_for_ever(id) && folder.lasts(document, id) {
                    old.entry(by(entry)).or_default().push(id);
                }
            }
            let below = |ids: Vec<&ChangesetId>| self.kept.ancestors(document, ids.into_iter());
            replaced.insert(document, old.into_iter().map(|(keys, ids)| (keys, below(ids))).collect());
        }
        move |entry| {
            let mut sets = entry.changeset.changes.iter().filter(|change| change.content.is_some()).peekable();
            if sets.peek().is_none() || entry.changeset.changes.iter().any(|change| change.document.kind.is_mesh_wide())
            {
                return false;
            }
            let abandoned = self.proposed.contains(&entry.id) && !self.complete(entry) && self.closed(entry, now);
            let trial_ended = entry.changeset.confirm_by.is_some_and(|until| until.saturating_add(rest) <= now);
            let failed = abandoned || trial_ended && !folder.counts_for_ever(&entry.id);
            let is_replaced = |change: &Change| {
                let old = replaced.get(&change.document).and_then(|old| old.get(&by(entry)));
                old.is_some_and(|old| old.contains(&entry.id))
            };
            failed || sets.all(is_replaced)
        }
    }
}
