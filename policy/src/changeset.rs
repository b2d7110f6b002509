//! What one push signs.

use std::{collections::HashSet, fmt, str::FromStr};

use certs::{
    codec::{self, Millis},
    id::TrustDomain,
    sign::{Digest, PublicKey, Signed, SigningKey},
};
use serde::{Deserialize, Serialize};

use crate::{
    document::{DocumentId, Kind, ROOT_NAMESPACE},
    hosts, parse,
};

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
/// Values that one change replaces at most.
pub const MAX_REPLACES: usize = 64;
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

/// What is signed: the changeset and by whom, so that taking a signature off or adding one changes the id.
#[derive(Serialize, Deserialize)]
struct Payload {
    trust_domain: TrustDomain,
    role_set: u64,
    issued_at: Millis,
    message: String,
    confirm_by: Option<Millis>,
    nonce: [u8; 16],
    changes: Vec<Change>,
    signers: Vec<PublicKey>,
}

impl Changeset {
    /// Signs it by all these keys, at least one. Who signs is part of what is signed, so that no signature can be taken off.
    pub fn sign(&self, keys: &[&SigningKey]) -> Signed {
        let mut signers: Vec<PublicKey> = keys.iter().map(|key| key.public()).collect();
        signers.sort_unstable();
        signers.dedup();
        let this = self.clone();
        let payload = Payload {
            trust_domain: this.trust_domain,
            role_set: this.role_set,
            issued_at: this.issued_at,
            message: this.message,
            confirm_by: this.confirm_by,
            nonce: this.nonce,
            changes: this.changes,
            signers,
        };
        let mut signed = Signed::new(KIND, codec::encode(&payload));
        for key in keys {
            signed.add(key);
        }
        signed
    }

    /// Reads what was signed, and who signed it by its own word; verifies nothing but form and limits.
    ///
    /// # Errors
    /// If the payload is not a changeset, or is over a limit.
    pub fn read(signed: &Signed) -> Result<(Changeset, Vec<PublicKey>), Malformed> {
        let malformed = |text: String| Err(Malformed(text));
        let payload: Payload =
            codec::decode::<_, MAX_CHANGESET>(&signed.payload).map_err(|error| Malformed(error.to_string()))?;
        let Payload { trust_domain, role_set, issued_at, message, confirm_by, nonce, changes, signers } = payload;
        if changes.is_empty() || changes.len() > MAX_CHANGES {
            return malformed(format!("{} changes; 1 to {MAX_CHANGES} are allowed", changes.len()));
        }
        if message.len() > MAX_MESSAGE {
            return malformed(format!("the message has {} bytes; the limit is {MAX_MESSAGE}", message.len()));
        }
        let mut documents = HashSet::new();
        for change in &changes {
            change.check()?;
            if !documents.insert(&change.document) {
                return malformed(format!("it changes {} twice", change.document));
            }
        }
        if !signers.is_sorted_by(|a, b| a < b) {
            return malformed("its signers are not sorted".into());
        }
        Ok((Changeset { trust_domain, role_set, issued_at, message, confirm_by, nonce, changes }, signers))
    }

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
    fn check(&self) -> Result<(), Malformed> {
        let id = &self.document;
        let names = hosts::is_document_name(&id.name) && hosts::is_dns_label(&id.namespace);
        if !names || (id.kind.is_mesh_wide() && id.namespace != ROOT_NAMESPACE) {
            return Err(Malformed(format!("{id} is not a document's name")));
        }
        let distinct: HashSet<_> = self.replaces.iter().collect();
        if distinct.len() != self.replaces.len() || self.replaces.len() > MAX_REPLACES {
            return Err(Malformed(format!("what the change of {id} replaces is not a short list without repetition")));
        }
        match &self.content {
            Some(content) if content.len() > MAX_DOCUMENT => {
                Err(Malformed(format!("{id} has {} bytes; the limit is {MAX_DOCUMENT}", content.len())))
            }
            Some(content) if !parse::is_body_of(id, content) => {
                Err(Malformed(format!("the body of {id} is not its body")))
            }
            Some(_) | None => Ok(()),
        }
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

/// The bytes that travel and are kept.
pub fn encode(signed: &Signed) -> Vec<u8> {
    codec::encode(signed)
}

/// The reverse of [`encode`].
///
/// # Errors
/// If the bytes are not one signed changeset, or are over [`MAX_CHANGESET`].
pub fn decode(bytes: &[u8]) -> Result<Signed, Malformed> {
    codec::decode::<_, MAX_CHANGESET>(bytes).map_err(|error| Malformed(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changeset(changes: Vec<Change>) -> Changeset {
        Changeset {
            trust_domain: TrustDomain::new("prod.example").unwrap(),
            role_set: 1,
            issued_at: 1,
            message: "m".into(),
            confirm_by: None,
            nonce: [7; 16],
            changes,
        }
    }

    fn deletion(name: &str) -> Change {
        Change { document: DocumentId::new(Kind::VirtualService, "default", name), content: None, replaces: vec![] }
    }

    #[test]
    fn survives_the_wire() {
        let (a, b) = (SigningKey::generate(), SigningKey::generate());
        let before = changeset(vec![deletion("x"), deletion("y")]);
        let signed = decode(&encode(&before.sign(&[&a, &b]))).unwrap();
        let (after, signers) = Changeset::read(&signed).unwrap();
        assert_eq!(after, before);
        let mut verified = signed.verify(KIND).unwrap();
        verified.sort_unstable();
        assert_eq!(signers, verified);
        assert_ne!(before.sign(&[&a]).id(), before.sign(&[&b]).id());
    }

    #[test]
    fn limits_and_form() {
        let key = SigningKey::generate();
        let read = |changes| Changeset::read(&changeset(changes).sign(&[&key]));
        assert!(read(vec![]).is_err());
        assert!(read(vec![deletion("x"), deletion("x")]).is_err());
        assert!(read(vec![deletion("X/../y")]).is_err());
        assert!(read((0..1_001).map(|i| deletion(&format!("d{i}"))).collect()).is_err());
        let mut other = deletion("x");
        other.content = Some(r#"{"kind":"VirtualService","metadata":{"name":"y","namespace":"default"}}"#.into());
        assert!(read(vec![other.clone()]).is_err());
        other.content = Some(r#"{"kind":"VirtualService","metadata":{"name":"x","namespace":"default"}}"#.into());
        assert!(read(vec![other]).is_ok());
        let mut foreign = deletion("x");
        foreign.document = DocumentId { kind: Kind::NodeGrant, namespace: "default".into(), name: "x".into() };
        assert!(read(vec![foreign]).is_err());
    }
}
