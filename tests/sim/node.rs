//! One simulated node: a `History` in memory and a disk that survives crashes transaction by transaction.

use std::collections::{BTreeMap, BTreeSet};

use policy::{
    changeset::{self, ChangesetId},
    history::{History, Refused},
};

use crate::operators::{id_of, trust_domain};

/// How long what is over a quota of sync is left alone.
const DELAY: u64 = 60_000;

/// When a node dies in the course of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Crash {
    BeforeCommit,
    AfterCommit,
}

pub(crate) struct Node {
    pub(crate) history: History,
    /// Rows of committed transactions: bytes, and when they were taken.
    disk: Vec<(Vec<u8>, u64)>,
    pub(crate) up: bool,
    delayed: BTreeMap<ChangesetId, u64>,
    /// What it was offered and refused for good: asked for no more.
    rejected: BTreeSet<ChangesetId>,
}

/// What became of bytes of a peer.
#[derive(Debug, Default)]
pub(crate) struct Learned {
    pub(crate) fresh: Vec<ChangesetId>,
    pub(crate) missing: Vec<ChangesetId>,
}

impl Node {
    /// A node that knows the genesis and nothing else.
    pub(crate) fn new(genesis: &[u8], now: u64) -> Self {
        let mut node = Self {
            history: History::new(trust_domain()),
            disk: vec![(genesis.to_vec(), now)],
            up: true,
            delayed: BTreeMap::new(),
            rejected: BTreeSet::new(),
        };
        node.restart();
        node
    }

    /// Memory is gone; what was committed is read again.
    pub(crate) fn restart(&mut self) {
        self.up = true;
        self.history = History::new(trust_domain());
        (self.delayed, self.rejected) = Default::default();
        let mut waiting: Vec<&(Vec<u8>, u64)> = self.disk.iter().collect();
        while !waiting.is_empty() {
            let before = waiting.len();
            waiting.retain(|(bytes, seen)| self.history.insert(bytes, *seen).is_err());
            assert!(waiting.len() < before, "the disk does not hold together");
        }
    }

    /// What an operator pushes. `Ok(None)`: the node died before it could answer.
    pub(crate) fn push(
        &mut self,
        bytes: &[u8],
        now: u64,
        crash: Option<Crash>,
    ) -> Result<Option<ChangesetId>, Refused> {
        self.history.check_push(bytes, now)?;
        let id = self.history.insert(bytes, now)?.id;
        if crash != Some(Crash::BeforeCommit) {
            self.disk.push((bytes.to_vec(), now));
        }
        self.up = crash.is_none();
        Ok(self.up.then_some(id))
    }

    /// What a peer gives; all that is kept of it is one transaction.
    pub(crate) fn learn(&mut self, offered: &[Vec<u8>], now: u64, crash: Option<Crash>) -> Learned {
        let (mut learned, mut rows) = (Learned::default(), Vec::new());
        for bytes in offered {
            match self.history.learn(bytes, now) {
                Ok(inserted) if inserted.fresh || inserted.restored => {
                    learned.fresh.push(inserted.id);
                    rows.push((bytes.clone(), now));
                }
                Ok(_) => {}
                Err(Refused::Missing(ids)) => learned.missing.extend(ids),
                Err(refused) => {
                    let Ok(packed) = changeset::decode(bytes) else { continue };
                    if refused.is_final() {
                        self.rejected.insert(ChangesetId(packed.id()));
                    } else if refused.code() == policy::history::Code::QuotaExceeded {
                        self.delayed.insert(ChangesetId(packed.id()), now + DELAY);
                    }
                }
            }
        }
        if !learned.fresh.is_empty() {
            // A new RoleSet, or an approval of one, may allow what was refused.
            self.rejected.clear();
        }
        if crash != Some(Crash::BeforeCommit) {
            self.disk.extend(rows);
        }
        self.up = crash.is_none();
        learned
    }

    /// Of these, what is not here and may be taken now.
    pub(crate) fn lacking(&self, ids: &[ChangesetId], now: u64) -> Vec<ChangesetId> {
        let waits = |id: &ChangesetId| self.delayed.get(id).is_some_and(|until| now < *until);
        let lacks = |id: &&ChangesetId| !self.history.contains(id) && !self.rejected.contains(*id) && !waits(id);
        ids.iter().filter(lacks).copied().collect()
    }

    /// Lets go the bodies that are due; the disk first.
    pub(crate) fn forget(&mut self, now: u64) -> usize {
        let due = self.history.forgettable(now);
        for id in &due {
            let stub =
                changeset::encode(&changeset::decode(self.history.bytes(id).expect("kept")).expect("ours").stub());
            for (bytes, _) in self.disk.iter_mut().filter(|(bytes, _)| id_of(bytes) == *id) {
                bytes.clone_from(&stub);
            }
            self.history.forget(id).expect("it is whole");
        }
        due.len()
    }

    /// The first changesets to be asked for when bodies are missing.
    pub(crate) fn wanted(&self, now: u64) -> Vec<ChangesetId> {
        self.history.wanted(now)
    }
}
