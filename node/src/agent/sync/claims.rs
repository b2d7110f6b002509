//! What is being fetched, so that peers are not all asked for the same.

use std::{collections::BTreeMap, time::Instant};

use certs::sign::Digest;

use super::{CLAIM, RENEWALS, Sync};
use crate::clock::monotonic;

/// Which changesets some task fetches, and since when. A claim keeps others back for [`CLAIM`] only, so that a peer which
/// answers slowly, or with something else, cannot keep a changeset from this node.
#[derive(Debug, Default)]
pub(super) struct Claims(BTreeMap<Digest, Instant>);

impl Claims {
    /// Claims what is free; gives that back.
    pub(super) fn take(&mut self, mut ids: Vec<Digest>, now: Instant) -> Vec<Digest> {
        ids.retain(|id| self.0.get(id).is_none_or(|since| now.duration_since(*since) >= CLAIM));
        self.0.extend(ids.iter().map(|id| (*id, now)));
        ids
    }

    /// Gives up what nobody has claimed since.
    pub(super) fn release(&mut self, ids: &[Digest], since: Instant) {
        for id in ids {
            if self.0.get(id) == Some(&since) {
                self.0.remove(id);
            }
        }
    }
}

/// Changesets that this task fetches, until dropped.
pub(super) struct Claimed<'a> {
    sync: &'a Sync,
    pub(super) ids: Vec<Digest>,
    since: Instant,
    renewals: usize,
}

impl<'a> Claimed<'a> {
    pub(super) fn new(sync: &'a Sync, ids: Vec<Digest>) -> Self {
        let since = monotonic();
        let ids = sync.fetching().take(ids, since);
        Self { sync, ids, since, renewals: 0 }
    }

    /// The peer gives what it was asked for: it may go on alone for a while.
    pub(super) fn renew(&mut self) {
        if self.renewals == RENEWALS {
            return;
        }
        self.renewals += 1;
        let mut claims = self.sync.fetching();
        claims.release(&self.ids, self.since);
        self.since = monotonic();
        claims.take(self.ids.clone(), self.since);
    }
}

impl Drop for Claimed<'_> {
    fn drop(&mut self) {
        self.sync.fetching().release(&self.ids, self.since);
    }
}
