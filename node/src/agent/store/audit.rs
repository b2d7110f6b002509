//! The audit chain: an append-only list of what this node took and refused, each entry bound to the one before by its digest.
//!
//! The last entry's digest is the head. Nodes gossip theirs, so that whoever rewrites the whole chain on one disk still differs
//! from what the others heard.

use std::{collections::HashMap, path::Path};

use certs::{
    codec::{self, Millis},
    sign::Digest,
};
use redb::{Database, ReadableDatabase, ReadableTable, ReadableTableMetadata, WriteTransaction};
use serde::{Deserialize, Serialize};

use super::{AUDIT, ENTRY_BYTES, META, Store, entry, failed, format_of, readable};
use crate::agent::error::{Error, fail};

/// Name of the head in the store.
const HEAD: &str = "audit_head";

/// One link of the audit chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEntry {
    /// Digest of the entry before; zero for the first.
    pub previous: Digest,
    /// When.
    pub at: Millis,
    /// What was judged: a changeset's id, or the digest of bytes that are none.
    pub subject: Digest,
    /// Who brought it: `push`, or a node's name.
    pub from: String,
    /// None if it was accepted, else the refusal.
    pub refused: Option<String>,
}

/// What is to be written about one judgement; the store links it into the chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    /// When.
    pub at: Millis,
    /// What was judged.
    pub subject: Digest,
    /// Who brought it.
    pub from: String,
    /// None if it was accepted.
    pub refused: Option<String>,
}

/// How long the chain is, and what it ends with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditHead {
    /// Entries.
    pub count: u64,
    /// Digest of the last one; zero if there is none.
    pub digest: Digest,
}

/// The first entry at which a chain does not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("entry {position}: {why}")]
pub struct Broken {
    /// From 0.
    pub position: u64,
    /// What is wrong with it.
    pub why: String,
}

impl AuditHead {
    /// Of an empty chain.
    pub const NONE: Self = Self { count: 0, digest: Digest([0; 32]) };

    /// Follows a chain from its first entry, and compares where it ends with a head that was noted at that length.
    ///
    /// # Errors
    /// The first entry that does not follow from the one before, or is not the last one although the head says so.
    pub fn verify<'e>(entries: impl Iterator<Item = &'e AuditEntry>, noted: &[Self]) -> Result<Self, Broken> {
        let mut head = Self::NONE;
        for entry in entries {
            if entry.previous != head.digest {
                let position = head.count.saturating_sub(1);
                return Err(Broken { position, why: "it is not what the entry after it was linked to".into() });
            }
            head = Self { count: head.count + 1, digest: Digest::of(&codec::encode(entry)) };
            let differs = |noted: &&Self| noted.count == head.count && noted.digest != head.digest;
            if noted.iter().any(|noted| differs(&noted)) {
                let why = "it is not the one whose digest was noted when it was written".into();
                return Err(Broken { position: head.count - 1, why });
            }
        }
        match noted.iter().map(|noted| noted.count).max().filter(|count| *count > head.count) {
            Some(count) => Err(Broken { position: head.count, why: format!("it is missing: {count} were written") }),
            None => Ok(head),
        }
    }
}

impl Store {
    /// Adds refusals to the audit chain.
    ///
    /// # Errors
    /// As [`Self::append`].
    pub fn judge(&self, judgements: &[Judgement]) -> Result<(), Error> {
        self.write(0, |write| link(write, judgements))
    }

    /// At most so many entries of the audit chain from `position` on.
    ///
    /// # Errors
    /// `storage_failed`, also if an entry cannot be read.
    pub fn audit(&self, position: u64, limit: usize) -> Result<Vec<AuditEntry>, Error> {
        self.read(|database| rows(database, position, limit))?.iter().map(|(_, bytes)| entry(bytes)).collect()
    }

    /// When each thing was first accepted.
    ///
    /// # Errors
    /// As [`Self::audit`].
    pub fn first_accepted(&self) -> Result<HashMap<Digest, Millis>, Error> {
        let mut first = HashMap::new();
        self.read(|database| {
            // One by one: refusals may be many.
            for row in database.begin_read()?.open_table(AUDIT)?.iter()? {
                // What cannot be read counts as new; `audit verify` names it.
                let entry = codec::decode::<AuditEntry, ENTRY_BYTES>(row?.1.value()).ok();
                if let Some(entry) = entry.filter(|entry| entry.refused.is_none()) {
                    first.entry(entry.subject).or_insert(entry.at);
                }
            }
            Ok(())
        })?;
        Ok(first)
    }

    /// The head of the audit chain, as it was noted with the last entry.
    ///
    /// # Errors
    /// `storage_failed`.
    pub fn audit_head(&self) -> Result<AuditHead, Error> {
        self.meta(HEAD)?.map_or(Ok(AuditHead::NONE), |bytes| entry(&bytes))
    }

    /// Whether the chain holds what was noted at that length: false for one that is shorter, or went on in another way.
    ///
    /// # Errors
    /// `storage_failed`.
    pub fn audit_holds(&self, noted: &AuditHead) -> Result<bool, Error> {
        let Some(last) = noted.count.checked_sub(1) else { return Ok(true) };
        let rows = self.read(|database| rows(database, last, 1))?;
        Ok(rows.first().is_some_and(|(position, bytes)| *position == last && Digest::of(bytes) == noted.digest))
    }

    /// The audit chain of a store that no process holds, with the head that was noted beside it. An entry that cannot be read
    /// ends it.
    ///
    /// # Errors
    /// `storage_failed`, `not_found`; `not_supported` if a newer build laid the store out otherwise: then nothing is said of the chain.
    pub fn audit_at(path: &Path) -> Result<(Vec<AuditEntry>, Option<Broken>, AuditHead), Error> {
        if !path.exists() {
            let message = format!("there is no store at {}", path.display());
            return Err(fail("not_found", message, "give the data_dir of a node that was initialised or has joined"));
        }
        let open = || -> Result<_, redb::Error> {
            let database = Database::open(path)?;
            let meta = database.begin_read()?.open_table(META)?;
            let noted = meta.get(HEAD)?.map(|value| value.value().to_vec());
            Ok((database, format_of(&meta)?, noted))
        };
        let (database, format, noted) = open().map_err(|error| failed(path, &error))?;
        readable(path, format)?;
        let rows = rows(&database, 0, usize::MAX).map_err(|error| failed(path, &error))?;
        let mut entries = Vec::with_capacity(rows.len());
        let mut broken = None;
        for ((position, bytes), expected) in rows.iter().zip(0u64..) {
            match codec::decode::<AuditEntry, ENTRY_BYTES>(bytes) {
                Ok(entry) if *position == expected => entries.push(entry),
                Ok(_) => {
                    broken = Some(Broken { position: expected, why: "it is missing".into() });
                    break;
                }
                Err(error) => {
                    broken = Some(Broken { position: expected, why: error.to_string() });
                    break;
                }
            }
        }
        let head = noted.map_or(Ok(AuditHead::NONE), |bytes| entry(&bytes))?;
        Ok((entries, broken, head))
    }
}

fn rows(database: &Database, position: u64, limit: usize) -> Result<Vec<(u64, Vec<u8>)>, redb::Error> {
    let table = database.begin_read()?.open_table(AUDIT)?;
    let rows = table.range(position..)?.take(limit);
    rows.map(|row| row.map(|(key, bytes)| (key.value(), bytes.value().to_vec())).map_err(Into::into)).collect()
}

/// Adds judgements to the chain and notes its head, in the transaction of what they speak of.
pub(super) fn link(write: &WriteTransaction, judgements: &[Judgement]) -> Result<(), redb::Error> {
    let mut table = write.open_table(AUDIT)?;
    let last = table.last()?.map(|(key, value)| (key.value() + 1, Digest::of(value.value())));
    let (mut position, mut previous) = last.unwrap_or((0, Digest([0; 32])));
    for judgement in judgements {
        let Judgement { at, subject, from, refused } = judgement.clone();
        let bytes = codec::encode(&AuditEntry { previous, at, subject, from, refused });
        table.insert(position, bytes.as_slice())?;
        previous = Digest::of(&bytes);
        position += 1;
    }
    let head = AuditHead { count: table.len()?, digest: previous };
    write.open_table(META)?.insert(HEAD, codec::encode(&head).as_slice())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{judgement, store},
        *,
    };

    fn three(store: &Store) -> Vec<AuditEntry> {
        store.append(&[b"one"], &[judgement(b"one", None)]).unwrap();
        store.judge(&[judgement(b"bad", Some("bad_signature")), judgement(b"worse", Some("role_missing"))]).unwrap();
        store.audit(0, usize::MAX).unwrap()
    }

    #[test]
    fn the_audit_chain_links_every_judgement() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(&folder);
        let chain = three(&store);
        assert_eq!((chain.len(), chain[0].previous), (3, Digest([0; 32])));
        let head = store.audit_head().unwrap();
        assert_eq!(AuditHead::verify(chain.iter(), &[head]), Ok(head));
        assert_eq!(store.audit(2, usize::MAX).unwrap(), chain[2..]);
        drop(store);
        assert_eq!(Store::audit_at(&folder.path().join("store.redb")).unwrap(), (chain, None, head));
        assert_eq!(Store::audit_at(&folder.path().join("none")).unwrap_err().code, "not_found");
    }

    #[test]
    fn any_edit_is_found_at_the_first_entry_that_it_touches() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(&folder);
        let (chain, head) = (three(&store), store.audit_head().unwrap());
        for edited in 0..3 {
            let mut lie = chain.clone();
            lie[edited].refused = Some("never happened".into());
            assert_eq!(AuditHead::verify(lie.iter(), &[head]).unwrap_err().position, edited as u64);
        }
        let (cut, swapped) = (&chain[..2], [&chain[1], &chain[0], &chain[2]]);
        assert_eq!(AuditHead::verify(cut.iter(), &[head]).unwrap_err().position, 2);
        assert_eq!(AuditHead::verify(swapped.into_iter(), &[head]).unwrap_err().position, 0);
        // A chain made anew holds in itself, yet not against what others heard.
        let rewritten = AuditEntry { previous: Digest([0; 32]), at: 9, ..chain[0].clone() };
        assert!(AuditHead::verify([&rewritten].into_iter(), &[]).is_ok());
        let heard = AuditHead { count: 1, digest: Digest::of(&codec::encode(&chain[0])) };
        assert_eq!(AuditHead::verify([&rewritten].into_iter(), &[heard]).unwrap_err().position, 0);
    }
}
