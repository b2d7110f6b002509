//! What is kept: changesets and approvals, with what follows from each and its ancestors alone.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, OnceLock},
};

use certs::{
    codec::Millis,
    sign::{Digest, PublicKey},
};

use super::admit::{self, Known, Vote};
use crate::{
    Document, Problem,
    changeset::{Change, Changeset, ChangesetId, confirmed},
    document::DocumentId,
};

/// A changeset that is kept.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its id.
    pub id: ChangesetId,
    /// As it came, or its stub.
    pub bytes: Arc<[u8]>,
    /// What it says.
    pub changeset: Arc<Changeset>,
    /// Who signed it, approvals included; verified, ascending.
    pub signers: Vec<PublicKey>,
    /// False if its bodies are not here: see [`crate::changeset::Packed::stub`].
    pub whole: bool,
    /// Bytes of its bodies, here or not.
    pub bodies: usize,
    /// When this node first had it.
    pub seen: Millis,
}

impl Entry {
    /// Bytes of its bodies that are here.
    fn held(&self) -> usize {
        if self.whole { self.bodies } else { 0 }
    }
}

/// All of it.
#[derive(Default)]
pub(super) struct Kept {
    pub(super) entries: BTreeMap<ChangesetId, Item>,
    approvals: BTreeMap<ChangesetId, Vote>,
    /// Of changesets and approvals.
    ids: BTreeSet<ChangesetId>,
    /// Of them.
    digests: Digests,
    /// Bytes of the bodies that are here.
    pub(super) bodies: usize,
    /// Who changed a document, in any order.
    pub(super) by_document: BTreeMap<DocumentId, Vec<ChangesetId>>,
    /// Confirmation by what it confirms.
    pub(super) confirmations: HashMap<ChangesetId, Vec<ChangesetId>>,
    /// Approval by what it approves.
    approved: HashMap<ChangesetId, Vec<ChangesetId>>,
}

/// What peers compare: it is asked for many times between two changes, and ids stay for ever.
#[derive(Default)]
struct Digests {
    of_all: OnceLock<Digest>,
    by_first_byte: OnceLock<Box<[Digest; 256]>>,
}

pub(super) struct Item {
    pub(super) entry: Entry,
    /// Per change: its depth along `replaces`, and its body, read when first needed.
    values: Vec<Value>,
}

pub(super) struct Value {
    pub(super) depth: u64,
    pub(super) document: OnceLock<Result<Arc<Document>, Arc<[Problem]>>>,
}

impl Known for Kept {
    fn changeset(&self, id: &ChangesetId) -> Option<&Changeset> {
        self.entries.get(id).map(|item| &*item.entry.changeset)
    }
}

impl Kept {
    pub(super) fn add(&mut self, entry: Entry) {
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
        self.new_id(entry.id);
        self.bodies += entry.held();
        self.entries.insert(entry.id, Item { entry, values });
    }

    /// From now on its key is one of the changeset's signers.
    pub(super) fn approve(&mut self, vote: Vote) {
        if let Some(item) = self.entries.get_mut(&vote.about)
            && let Err(place) = item.entry.signers.binary_search(&vote.signer)
        {
            item.entry.signers.insert(place, vote.signer);
        }
        self.new_id(vote.id);
        self.approved.entry(vote.about).or_default().push(vote.id);
        self.approvals.insert(vote.id, vote);
    }

    /// Puts another copy in the place of one: with bodies for a stub, or the reverse.
    pub(super) fn swap(&mut self, mut entry: Entry) {
        if let Some(item) = self.entries.get_mut(&entry.id) {
            self.bodies = self.bodies + entry.held() - item.entry.held();
            (entry.signers, entry.seen) = (std::mem::take(&mut item.entry.signers), item.entry.seen);
            item.values.iter_mut().for_each(|value| value.document = OnceLock::new());
            item.entry = entry;
        }
    }

    /// Of changesets and approvals.
    pub(super) fn ids(&self) -> &BTreeSet<ChangesetId> {
        &self.ids
    }

    fn new_id(&mut self, id: ChangesetId) {
        self.ids.insert(id);
        self.digests = Digests::default();
    }

    /// Of the sorted ids.
    pub(super) fn digest(&self) -> Digest {
        *self.digests.of_all.get_or_init(|| digest_of(self.ids.iter()))
    }

    /// Of the sorted ids by first byte.
    pub(super) fn bucket_digests(&self) -> &[Digest; 256] {
        self.digests.by_first_byte.get_or_init(|| {
            let mut digests = Box::new([Digest([0; 32]); 256]);
            for (first, digest) in (0..=u8::MAX).zip(digests.iter_mut()) {
                *digest = digest_of(self.bucket(first));
            }
            digests
        })
    }

    /// The ids with this first byte, ascending.
    pub(super) fn bucket(&self, first: u8) -> impl Iterator<Item = &ChangesetId> {
        let edge = |fill: u8| {
            let mut bytes = [fill; 32];
            bytes[0] = first;
            ChangesetId(Digest(bytes))
        };
        self.ids.range(edge(0)..=edge(u8::MAX))
    }

    pub(super) fn bytes(&self, id: &ChangesetId) -> Option<&Arc<[u8]>> {
        let changeset = self.entries.get(id).map(|item| &item.entry.bytes);
        changeset.or_else(|| self.approvals.get(id).map(|vote| &vote.bytes))
    }

    /// Of changesets and what approves them.
    pub(super) fn bytes_of(&self, ids: &[ChangesetId]) -> usize {
        let with_approvals = ids.iter().flat_map(|id| std::iter::once(id).chain(self.approvals(id)));
        with_approvals.filter_map(|id| self.bytes(id)).map(|bytes| bytes.len()).sum()
    }

    pub(super) fn approval(&self, id: &ChangesetId) -> Option<&Vote> {
        self.approvals.get(id)
    }

    /// The ids of the approvals of a changeset.
    pub(super) fn approvals(&self, about: &ChangesetId) -> &[ChangesetId] {
        self.approved.get(about).map(Vec::as_slice).unwrap_or_default()
    }

    /// A value of a document: the changeset that set it, its change, its depth and body.
    pub(super) fn value(&self, id: &ChangesetId, document: &DocumentId) -> Option<(&Entry, &Change, &Value)> {
        let item = self.entries.get(id)?;
        let index = item.entry.changeset.changes.iter().position(|change| change.document == *document)?;
        Some((&item.entry, &item.entry.changeset.changes[index], &item.values[index]))
    }

    pub(super) fn depth(&self, id: &ChangesetId, document: &DocumentId) -> u64 {
        self.value(id, document).map_or(0, |(_, _, value)| value.depth)
    }

    /// Everything that these values of a document replace, also through values that do not count.
    pub(super) fn ancestors<'i>(
        &self,
        document: &DocumentId,
        of: impl Iterator<Item = &'i ChangesetId>,
    ) -> BTreeSet<ChangesetId> {
        let mut found = BTreeSet::new();
        let mut open: Vec<ChangesetId> = of.copied().collect();
        while let Some(next) = open.pop() {
            let replaces = self.value(&next, document).map(|(_, change, _)| change.replaces.as_slice());
            open.extend(replaces.unwrap_or_default().iter().copied().filter(|parent| found.insert(*parent)));
        }
        found
    }

    /// True if the keys that signed it let it count under this RoleSet.
    pub(super) fn allowed(&self, roles: &super::Roles, entry: &Entry) -> bool {
        admit::allowed(self, roles, &entry.changeset, &entry.signers)
    }
}

fn digest_of<'i>(ids: impl Iterator<Item = &'i ChangesetId>) -> Digest {
    #[cfg(test)]
    counted::DIGESTS.with(|count| count.set(count.get() + 1));
    let bytes: Vec<u8> = ids.flat_map(|id| id.0.0).collect();
    Digest::of(&bytes)
}

#[cfg(test)]
pub(super) mod counted {
    use std::cell::Cell;

    thread_local! {
        /// How often ids were hashed on this thread.
        pub(in crate::history) static DIGESTS: Cell<usize> = const { Cell::new(0) };
        /// How many documents were folded on this thread.
        pub(in crate::history) static DOCUMENTS: Cell<usize> = const { Cell::new(0) };
    }
}
