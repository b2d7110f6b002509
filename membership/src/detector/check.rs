//! A member in doubt: who says so, since when, and who is asked about it.

use std::collections::{BTreeMap, BTreeSet};

use certs::id::NodeId;

/// See the module.
pub(super) struct Check {
    pub(super) since: u64,
    /// This node has a reason of its own.
    pub(super) first_hand: bool,
    /// When this node accused it in public.
    pub(super) announced: Option<u64>,
    /// When this node began to look for itself, because few accuse it.
    pub(super) looked: Option<u64>,
    /// Who else does, and since when. Each stands in [`super::accusations::ACCUSED`] checks at most.
    accusers: BTreeMap<NodeId, u64>,
    /// When relays were asked last; 0 is never.
    pub(super) asked: u64,
    /// Relays asked in this round that have not answered.
    pub(super) waiting: BTreeSet<NodeId>,
}

impl Check {
    /// One that this node begins by itself.
    pub(super) fn own(since: u64) -> Check {
        Check { first_hand: true, ..Check::of_another(since) }
    }

    /// One that another's word begins.
    pub(super) fn of_another(since: u64) -> Check {
        let (accusers, waiting) = Default::default();
        Check { since, first_hand: false, announced: None, looked: None, accusers, asked: 0, waiting }
    }

    /// Since when it stands accused in public, by whoever did so first of those that still do: so long it might have answered.
    pub(super) fn told(&self) -> Option<u64> {
        self.accusers.values().copied().chain(self.announced).min()
    }

    /// Who else accuses it.
    pub(super) fn accusers(&self) -> impl Iterator<Item = &NodeId> {
        self.accusers.keys()
    }

    /// How many others do.
    pub(super) fn others(&self) -> usize {
        self.accusers.len()
    }

    /// Whether this node accuses it, or so many others do.
    pub(super) fn is_weighty(&self, others: usize) -> bool {
        self.announced.is_some() || self.others() >= others
    }

    pub(super) fn is_accused_by(&self, node: &NodeId) -> bool {
        self.accusers.contains_key(node)
    }

    /// Another accuses it; true if that is news.
    pub(super) fn accuse(&mut self, by: &NodeId, now: u64) -> bool {
        let news = !self.is_accused_by(by);
        if news {
            self.accusers.insert(by.clone(), now);
        }
        news
    }

    /// One that accused it does so no more; true if nothing is left that asks for the check.
    pub(super) fn retract(&mut self, by: &NodeId) -> bool {
        self.accusers.remove(by);
        self.accusers.is_empty() && !self.first_hand
    }
}
