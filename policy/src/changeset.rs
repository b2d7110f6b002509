//! What one push signs.

mod approval;
mod packed;

use std::{fmt, str::FromStr};

use certs::{codec::Millis, id::TrustDomain, sign::Digest};
use serde::{Deserialize, Serialize};

use crate::document::{DocumentId, Kind};

pub use approval::{Approval, KIND as APPROVAL};
pub use packed::{Packed, Read, Unread, decode, encode};

/// What a changeset's signature says that the bytes are.
pub const KIND: &str = "skein.changeset/1";
/// Bytes of a document's JSON at most.
pub const MAX_DOCUMENT: usize = 256 * 1024;
/// The same for a RoleSet, which names what stays when it takes something away.
pub const MAX_ROLE_SET: usize = 1024 * 1024;
/// Documents of one changeset at most.
pub const MAX_CHANGES: usize = 1_000;
/// Bytes of an encoded changeset at most.
pub const MAX_CHANGESET: usize = 4 * 1024 * 1024;
/// Documents of a mesh at most; refuses pushes only.
pub const MAX_DOCUMENTS: usize = 50_000;
/// Values that one change replaces at most.
pub const MAX_REPLACES: usize = 64;
/// Bytes of a message at most.
pub const MAX_MESSAGE: usize = 4 * 1024;
/// How long a changeset that too few keys have signed waits for the others.
pub const PROPOSAL_LIFE: Millis = 7 * 24 * 3_600_000;
/// Proposals of one key that wait at the same time at most.
pub const MAX_PROPOSALS: usize = 16;

/// Bytes of the JSON of a document of this kind at most.
pub fn max_document(kind: Kind) -> usize {
    if kind == Kind::RoleSet { MAX_ROLE_SET } else { MAX_DOCUMENT }
}

/// True of what the signature under a changeset or approval says in some build: another form takes another number.
pub(crate) fn is_policy(kind: &str) -> bool {
    ["skein.changeset/", "skein.approval/"].iter().any(|family| kind.starts_with(family))
}

/// Names a changeset: the digest of what is signed, signatures not included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ChangesetId(pub Digest);

impl fmt::Display for ChangesetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Text that is not a changeset's id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a changeset id (64 hexadecimal digits)")]
pub struct BadId(pub String);

impl FromStr for ChangesetId {
    type Err = BadId;

    fn from_str(text: &str) -> Result<Self, BadId> {
        text.parse().map(Self).map_err(|_| BadId(text.to_owned()))
    }
}

/// Documents set and deleted together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changeset {
    /// The mesh that it is for.
    pub trust_domain: TrustDomain,
    /// Number of the RoleSet under which it is signed.
    pub role_set: u64,
    /// When, by the author's clock.
    pub issued_at: Millis,
    /// Why.
    pub message: String,
    /// Counts only until then, unless confirmed before.
    pub confirm_by: Option<Millis>,
    /// Makes two changesets with one content different.
    pub nonce: [u8; 16],
    /// What it changes; each document once.
    pub changes: Vec<Change>,
}

/// What a changeset does to one document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Which document.
    pub document: DocumentId,
    /// Its strict JSON; `None` deletes it. Empty where the body is here no more ([`Change::is_gone`]).
    pub content: Option<String>,
    /// The changesets whose value of this document it replaces.
    pub replaces: Vec<ChangesetId>,
}

impl Changeset {
    /// Every changeset that one of its changes replaces.
    pub fn references(&self) -> impl Iterator<Item = &ChangesetId> {
        self.changes.iter().flat_map(|change| &change.replaces)
    }

    /// Its change of a document.
    pub fn change(&self, document: &DocumentId) -> Option<&Change> {
        self.changes.iter().find(|change| change.document == *document)
    }
}

impl Change {
    /// True if it sets the document to a body that is here no more: see [`Packed::stub`].
    pub fn is_gone(&self) -> bool {
        self.content.as_ref().is_some_and(String::is_empty)
    }
}

/// The change that ends the trial of a changeset: pushed before its `confirm_by`, it counts for ever.
pub fn confirmation(id: &ChangesetId) -> Change {
    let hex = id.to_string();
    let (first, second) = hex.split_at(32);
    let document = DocumentId::mesh_wide(Kind::Confirmation, &format!("{first}.{second}"));
    let content = serde_json::json!({
        "apiVersion": "skein.dev/v1",
        "kind": document.kind.as_str(),
        "metadata": {"name": document.name, "namespace": document.namespace},
    });
    Change { content: Some(content.to_string()), document, replaces: Vec::new() }
}

/// The changeset that a change ends the trial of.
pub(crate) fn confirmed(change: &Change) -> Option<ChangesetId> {
    change.content.as_ref().filter(|_| change.document.kind == Kind::Confirmation)?;
    let (first, second) = change.document.name.split_once('.').filter(|(first, _)| first.len() == 32)?;
    format!("{first}{second}").parse().ok()
}

#[cfg(test)]
mod tests;
