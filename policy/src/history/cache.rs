//! The last folded state, so that a push, a confirmation or the time folds again only the documents that it touches.
//!
//! Invariant: what it gives is what a fold of everything would give. Only RoleSets change what other changesets are worth, and what
//! they say is kept, once it comes: then everything is folded again. A confirmation is about documents of what it confirms, and time
//! about documents that have a trial or an expiry.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use certs::codec::Millis;

use super::{
    Live, State,
    fold::{Folder, Stays, earliest},
    kept::Kept,
    roles::Chain,
};
use crate::{
    changeset::{Changeset, ChangesetId, confirmed},
    document::DocumentId,
};

/// A folded state, and what has changed since.
pub(super) struct Cached {
    pub(super) state: Arc<State>,
    folded_at: Millis,
    stays: Stays,
    /// Documents in which time takes part, a trial or an expiry, and when each changes by itself next, if it does.
    timed: BTreeMap<DocumentId, Option<Millis>>,
    dirty: BTreeSet<DocumentId>,
    /// What was confirmed.
    confirmed: BTreeSet<ChangesetId>,
    all: bool,
}

impl Cached {
    /// Notes what a new changeset may change.
    pub(super) fn touch(&mut self, changeset: &Changeset, all: bool) {
        self.all |= all;
        self.dirty.extend(changeset.changes.iter().map(|change| change.document.clone()));
        self.confirmed.extend(changeset.changes.iter().filter_map(confirmed));
    }

    /// True if it is the state at that time.
    pub(super) fn is_at_rest(&self, now: Millis) -> bool {
        !self.all && self.dirty.is_empty() && !self.time_moved(now)
    }

    fn time_moved(&self, now: Millis) -> bool {
        !self.timed.is_empty() && (now < self.folded_at || self.state.changes_at.is_some_and(|at| at <= now))
    }

    /// What is to be folded again.
    fn work(&self, kept: &Kept, now: Millis) -> BTreeSet<DocumentId> {
        let mut work = self.dirty.clone();
        let about = self.confirmed.iter().filter_map(|id| kept.entries.get(id));
        let confirmed = about.flat_map(|item| &item.entry.changeset.changes);
        work.extend(confirmed.map(|change| change.document.clone()));
        // A clock that was set back undoes what had ended, too.
        let is_back = now < self.folded_at;
        let moved = self.timed.iter().filter(|(_, at)| is_back || at.is_some_and(|at| at <= now));
        work.extend(moved.map(|(id, _)| id.clone()));
        work
    }
}

/// The state at `now`, with as little work as the cache allows.
pub(super) fn refresh(cached: Option<Cached>, kept: &Kept, chain: &Chain, now: Millis) -> Cached {
    match cached {
        Some(cached) if cached.is_at_rest(now) => cached,
        Some(cached) if !cached.all => {
            let folder = Folder::staying(kept, chain, now, cached.stays.clone());
            let work = cached.work(kept, now);
            fold(&folder, work.iter(), cached.state.documents.clone(), cached.timed)
        }
        Some(_) | None => {
            let folder = Folder::new(kept, chain, now);
            fold(&folder, kept.by_document.keys(), BTreeMap::new(), BTreeMap::new())
        }
    }
}

fn fold<'d>(
    folder: &Folder<'_>,
    work: impl Iterator<Item = &'d DocumentId>,
    mut documents: BTreeMap<DocumentId, Arc<Live>>,
    mut timed: BTreeMap<DocumentId, Option<Millis>>,
) -> Cached {
    for id in work {
        let folded = folder.document(id);
        match folded.live {
            Some(live) => documents.insert(id.clone(), Arc::new(live)),
            None => documents.remove(id),
        };
        if folded.timed {
            timed.insert(id.clone(), folded.changes_at);
        } else {
            timed.remove(id);
        }
    }
    let changes_at = timed.values().copied().fold(None, earliest);
    Cached {
        state: Arc::new(folder.state(documents, changes_at)),
        folded_at: folder.now,
        stays: folder.stays.clone(),
        timed,
        dirty: BTreeSet::new(),
        confirmed: BTreeSet::new(),
        all: false,
    }
}
