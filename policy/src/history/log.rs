//! What was pushed, as people read it.

use std::collections::BTreeSet;

use certs::{codec::Millis, sign::PublicKey};

use super::{Entry, History, roles::Chain};
use crate::{changeset::ChangesetId, document::DocumentId};

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

impl History {
    /// What was pushed, newest first; proposals included.
    pub fn log(&self) -> Vec<LogEntry> {
        let mut log: Vec<LogEntry> = self.kept.entries.values().map(|item| self.log_entry(&item.entry)).collect();
        log.sort_by(|a, b| b.time.cmp(&a.time).then_with(|| a.changeset.cmp(&b.changeset)));
        log
    }

    fn log_entry(&self, entry: &Entry) -> LogEntry {
        let replaces: BTreeSet<ChangesetId> = entry.changeset.references().copied().collect();
        let documents =
            entry.changeset.changes.iter().map(|change| (change.document.clone(), change.content.is_none()));
        LogEntry {
            changeset: entry.id,
            replaces: replaces.into_iter().collect(),
            authors: authors(&self.chain, &entry.signers),
            time: entry.changeset.issued_at,
            message: entry.changeset.message.clone(),
            documents: documents.collect(),
        }
    }
}

/// Names of keys, as the RoleSets give them.
pub(super) fn authors(chain: &Chain, signers: &[PublicKey]) -> Vec<String> {
    signers.iter().map(|key| chain.name_of(key).map_or_else(|| key.to_string(), str::to_owned)).collect()
}
