//! The set of changesets and the state that it folds to. Every node with the same set has the same state, in whatever order it came.

use std::sync::Arc;

use certs::{
    codec::Millis,
    id::TrustDomain,
    sign::{Digest, PublicKey, Signed, SigningKey},
};

mod refused;
mod state;

pub use refused::{Code, Refused};
pub use state::{Absent, Conflict, Live, LiveValue, Roles, State};

use crate::{
    changeset::{Change, Changeset, ChangesetId},
    document::DocumentId,
};

/// How far a direct push's date may be from the node's clock.
pub const PUSH_CLOCK: Millis = 30_000;

/// A changeset that is kept.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its id.
    pub id: ChangesetId,
    /// As it came.
    pub bytes: Arc<[u8]>,
    /// What it says.
    pub changeset: Arc<Changeset>,
    /// Who signed it; verified.
    pub signers: Vec<PublicKey>,
}

/// What became of bytes that were offered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inserted {
    /// The changeset's id.
    pub id: ChangesetId,
    /// False if it was known already.
    pub fresh: bool,
}

/// An entry of `policy log`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// The changeset.
    pub changeset: ChangesetId,
    /// What it replaces, over all its documents.
    pub replaces: Vec<ChangesetId>,
    /// Names of the signers' keys; `ed25519:...` for a key that no RoleSet names any more.
    pub authors: Vec<String>,
    /// When it was issued.
    pub time: Millis,
    /// Why.
    pub message: String,
    /// What it changes, and whether it deletes it.
    pub documents: Vec<(DocumentId, bool)>,
}

/// The set of changesets of one mesh.
pub struct History {}

impl History {
    /// An empty history: the first changeset to insert is a genesis.
    pub fn new(_trust_domain: TrustDomain) -> Self {
        todo!()
    }

    /// Keeps a changeset if its form, its signatures and the RoleSet that it names allow it. Never looks at folded state, so that
    /// all nodes keep the same. `now` is not looked at either; it stamps nothing.
    ///
    /// # Errors
    /// [`Refused::Missing`] names references to fetch first; all else is final, except [`Code::RoleSetUnknown`].
    pub fn insert(&mut self, _bytes: &[u8], _now: Millis) -> Result<Inserted, Refused> {
        todo!()
    }

    /// What only a direct push must obey, on top of what [`History::insert`] demands: dates, stale parents, quotas, readable content.
    ///
    /// # Errors
    /// The rule that it breaks.
    pub fn check_push(&self, _bytes: &[u8], _now: Millis) -> Result<(), Refused> {
        todo!()
    }

    /// True if the changeset is kept.
    pub fn contains(&self, _id: &ChangesetId) -> bool {
        todo!()
    }

    /// A kept changeset.
    pub fn get(&self, _id: &ChangesetId) -> Option<&Entry> {
        todo!()
    }

    /// All ids, ascending.
    pub fn ids(&self) -> impl Iterator<Item = &ChangesetId> {
        [].iter()
    }

    /// The kept changesets whose id begins so (hexadecimal).
    pub fn by_prefix(&self, _prefix: &str) -> Vec<ChangesetId> {
        todo!()
    }

    /// Of the sorted ids.
    pub fn digest(&self) -> Digest {
        todo!()
    }

    /// Of the sorted ids by first byte.
    pub fn bucket_digests(&self) -> Box<[Digest; 256]> {
        todo!()
    }

    /// The ids with this first byte, ascending.
    pub fn bucket(&self, _first: u8) -> Vec<ChangesetId> {
        todo!()
    }

    /// The fold at this time. Cheap when nothing changed.
    pub fn state(&self, _now: Millis) -> Arc<State> {
        todo!()
    }

    /// The next time at which the fold changes by itself (a `confirm_by`, an expiry).
    pub fn next_change(&self, _now: Millis) -> Option<Millis> {
        todo!()
    }

    /// What was pushed, newest first.
    pub fn log(&self) -> Vec<LogEntry> {
        todo!()
    }

    /// The RoleSet chain from the genesis, as bytes, in an order in which a joiner can insert them.
    pub fn role_set_chain(&self) -> Vec<Arc<[u8]>> {
        todo!()
    }

    /// The changes that restore each document of a changeset to what it was before it.
    ///
    /// # Errors
    /// If the changeset is not kept, or one of its documents cannot be reverted (RoleSet).
    pub fn revert(&self, _id: &ChangesetId, _now: Millis) -> Result<Vec<Change>, Refused> {
        todo!()
    }
}

/// The first changeset of a mesh: RoleSet number 1. The non-recovery keys get the role `admin`: everything, everywhere.
/// Sign it by all the non-recovery keys.
pub fn genesis(
    _trust_domain: &TrustDomain,
    _roots: &[Vec<u8>],
    _keys: &[(String, PublicKey, bool)],
    _now: Millis,
) -> Changeset {
    todo!()
}

/// The bytes of a changeset signed by these keys.
pub fn signed(changeset: &Changeset, keys: &[&SigningKey]) -> Vec<u8> {
    let signed: Signed = changeset.sign(keys);
    crate::changeset::encode(&signed)
}
