//! The last folded state, so that a push folds again only the documents that it touches.
//!
//! Invariant: what it gives is what a fold of everything would give. A RoleSet, a confirmation, or anything at all while a RoleSet
//! says what it keeps, may change what other changesets are worth: then everything is folded again.

use std::{collections::BTreeSet, sync::Arc};

use certs::codec::Millis;

use super::{
    State,
    fold::{Folder, earliest},
    kept::Kept,
    roles::Chain,
};
use crate::{
    changeset::Changeset,
    document::{DocumentId, Kind},
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
