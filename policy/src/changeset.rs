//! What one push signs.

use std::{fmt, str::FromStr};

use certs::{
    codec::Millis,
    id::TrustDomain,
    sign::{Digest, PublicKey, Signed, SigningKey},
};
use serde::{Deserialize, Serialize};

use crate::document::DocumentId;

/// What a changeset's signature says that the bytes are.
pub const KIND: &str = "skein.changeset/1";
/// Bytes of a document's JSON at most.
pub const MAX_DOCUMENT: usize = 256 * 1024;
/// Documents of one changeset at most.
pub const MAX_CHANGES: usize = 1_000;
/// Bytes of an encoded changeset at most.
pub const MAX_CHANGESET: usize = 4 * 1024 * 1024;
/// Documents of a mesh at most; refuses pushes only.
pub const MAX_DOCUMENTS: usize = 50_000;
/// Bytes of a message at most.
pub const MAX_MESSAGE: usize = 4 * 1024;

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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Which document.
    pub document: DocumentId,
    /// Its strict JSON; `None` deletes it.
    pub content: Option<String>,
    /// The changesets whose value of this document it replaces.
    pub replaces: Vec<ChangesetId>,
}

/// Bytes that are not a changeset.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a changeset: {0}")]
pub struct Malformed(pub String);

impl Changeset {
    /// Signs it by all these keys, at least one. Who signs is part of what is signed, so that no signature can be taken off.
    pub fn sign(&self, _keys: &[&SigningKey]) -> Signed {
        todo!()
    }

    /// Reads what was signed, and who signed it by its own word; verifies nothing.
    ///
    /// # Errors
    /// If the payload is not a changeset, or is over a limit.
    pub fn read(_signed: &Signed) -> Result<(Changeset, Vec<PublicKey>), Malformed> {
        todo!()
    }
}

/// The bytes that travel and are kept.
pub fn encode(_signed: &Signed) -> Vec<u8> {
    todo!()
}

/// The reverse of [`encode`].
///
/// # Errors
/// If the bytes are not one signed changeset, or are over [`MAX_CHANGESET`].
pub fn decode(_bytes: &[u8]) -> Result<Signed, Malformed> {
    todo!()
}
