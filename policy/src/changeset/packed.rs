//! A changeset as it travels: a signed head, and beside it the bodies whose digests the head holds. So a body may go one day while
//! what replaced what stays provable.

use std::collections::HashSet;

use certs::{
    codec::{self, Millis},
    id::TrustDomain,
    sign::{Digest, PublicKey, Signed, SigningKey},
};
use serde::{Deserialize, Serialize};

use super::{
    Change, Changeset, ChangesetId, KIND, MAX_CHANGES, MAX_CHANGESET, MAX_MESSAGE, MAX_REPLACES, max_document,
};
use crate::{
    document::{DocumentId, ROOT_NAMESPACE},
    hosts,
};

/// Bytes that signatures and lengths take beside the payload and the bodies, at most.
const SIGNATURE_BYTES: usize = 16 * 1024;

/// What is signed, with the bodies that it names by digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Packed {
    /// The signed head.
    pub signed: Signed,
    /// The bodies of the changes that set a document, in the order of the changes; none at all in a stub.
    pub bodies: Vec<String>,
}

/// What was read of a packed changeset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    /// What it says.
    pub changeset: Changeset,
    /// Who signed it, by its own word; ascending.
    pub signers: Vec<PublicKey>,
    /// False for a stub: its bodies are empty.
    pub whole: bool,
    /// Bytes of its bodies, here or not.
    pub bodies: usize,
}

/// Why bytes are no changeset.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unread {
    /// What was signed is none, or is over a limit: true of every copy.
    #[error("not a changeset: {0}")]
    Malformed(String),
    /// The bodies beside it are not those that were signed: another copy may have them.
    #[error("not the bodies that were signed: {0}")]
    Bodies(String),
}

/// The signed head. Who signs is part of it, so that taking a signature off or adding one changes the id.
#[derive(Serialize, Deserialize)]
struct Head {
    trust_domain: TrustDomain,
    role_set: u64,
    issued_at: Millis,
    message: String,
    confirm_by: Option<Millis>,
    nonce: [u8; 16],
    changes: Vec<HeadChange>,
    signers: Vec<PublicKey>,
    /// What a later build adds and this one may ignore: number and value. What must not be ignored takes another kind of what is signed.
    extensions: Vec<(u16, Vec<u8>)>,
}

#[derive(Serialize, Deserialize)]
struct HeadChange {
    document: DocumentId,
    body: Option<Body>,
    replaces: Vec<ChangesetId>,
}

/// Names a body.
#[derive(Serialize, Deserialize)]
struct Body {
    digest: Digest,
    bytes: u32,
}

impl Packed {
    /// The name of what is signed: the same whoever signs, with bodies or without.
    pub fn id(&self) -> Digest {
        self.signed.id()
    }

    /// The same without bodies: who signed which digests, and what that replaced.
    #[must_use]
    pub fn stub(mut self) -> Self {
        self.bodies.clear();
        self
    }

    /// Reads what was signed; verifies nothing but form, limits and that the bodies are those of the head.
    ///
    /// # Errors
    /// If that is no changeset, is over a limit, or has other bodies.
    pub fn read(&self) -> Result<Read, Unread> {
        let malformed = |text: String| Err(Unread::Malformed(text));
        let head: Head = codec::decode::<_, MAX_CHANGESET>(&self.signed.payload)
            .map_err(|error| Unread::Malformed(error.to_string()))?;
        if head.changes.is_empty() || head.changes.len() > MAX_CHANGES {
            return malformed(format!("{} changes; 1 to {MAX_CHANGES} are allowed", head.changes.len()));
        }
        if head.message.len() > MAX_MESSAGE {
            return malformed(format!("the message has {} bytes; the limit is {MAX_MESSAGE}", head.message.len()));
        }
        if !head.signers.is_sorted_by(|a, b| a < b) {
            return malformed("its signers are not sorted".into());
        }
        let mut documents = HashSet::new();
        let mut bodies = 0;
        for change in &head.changes {
            bodies += change.check()?;
            if !documents.insert(&change.document) {
                return malformed(format!("it changes {} twice", change.document));
            }
        }
        let bytes = self.signed.payload.len() + SIGNATURE_BYTES + bodies;
        if bytes > MAX_CHANGESET {
            return malformed(format!("it has {bytes} bytes; the limit is {MAX_CHANGESET}"));
        }
        let whole = !self.bodies.is_empty() || head.changes.iter().all(|change| change.body.is_none());
        let Head { trust_domain, role_set, issued_at, message, confirm_by, nonce, changes, signers, extensions: _ } =
            head;
        let changes = with_bodies(changes, &self.bodies, whole)?;
        let changeset = Changeset { trust_domain, role_set, issued_at, message, confirm_by, nonce, changes };
        Ok(Read { changeset, signers, whole, bodies })
    }
}

fn with_bodies(changes: Vec<HeadChange>, bodies: &[String], whole: bool) -> Result<Vec<Change>, Unread> {
    let mut bodies = bodies.iter();
    let mut read = Vec::with_capacity(changes.len());
    for HeadChange { document, body, replaces } in changes {
        let content = match body {
            None => None,
            Some(_) if !whole => Some(String::new()),
            Some(body) => {
                let given = bodies.next().filter(|given| Body::of(given) == (body.digest, body.bytes));
                Some(given.ok_or_else(|| Unread::Bodies(format!("{document} has another")))?.clone())
            }
        };
        read.push(Change { document, content, replaces });
    }
    match bodies.next() {
        None => Ok(read),
        Some(_) => Err(Unread::Bodies("there are too many".into())),
    }
}

impl Body {
    fn of(text: &str) -> (Digest, u32) {
        (Digest::of(text.as_bytes()), u32::try_from(text.len()).unwrap_or(u32::MAX))
    }
}

impl HeadChange {
    fn new(change: &Change) -> Self {
        let body = change.content.as_deref().map(Body::of).map(|(digest, bytes)| Body { digest, bytes });
        Self { document: change.document.clone(), body, replaces: change.replaces.clone() }
    }

    /// Form and limits; gives the bytes of its body.
    fn check(&self) -> Result<usize, Unread> {
        let id = &self.document;
        let names = hosts::is_document_name(&id.name) && hosts::is_dns_label(&id.namespace);
        if !names || (id.kind.is_mesh_wide() && id.namespace != ROOT_NAMESPACE) {
            return Err(Unread::Malformed(format!("{id} is not a document's name")));
        }
        let distinct: HashSet<_> = self.replaces.iter().collect();
        if distinct.len() != self.replaces.len() || self.replaces.len() > MAX_REPLACES {
            return Err(Unread::Malformed(format!(
                "what the change of {id} replaces is not a short list without repetition"
            )));
        }
        let Some(body) = &self.body else { return Ok(0) };
        let limit = max_document(id.kind);
        match usize::try_from(body.bytes) {
            Ok(bytes) if (1..=limit).contains(&bytes) => Ok(bytes),
            Ok(_) | Err(_) => {
                Err(Unread::Malformed(format!("{id} has {} bytes; 1 to {limit} are allowed", body.bytes)))
            }
        }
    }
}

impl Changeset {
    /// Signs it by all these keys, at least one. Who signs is part of what is signed, so that no signature can be taken off.
    pub fn sign(&self, keys: &[&SigningKey]) -> Packed {
        let mut signers: Vec<PublicKey> = keys.iter().map(|key| key.public()).collect();
        signers.sort_unstable();
        signers.dedup();
        let head = Head {
            trust_domain: self.trust_domain.clone(),
            role_set: self.role_set,
            issued_at: self.issued_at,
            message: self.message.clone(),
            confirm_by: self.confirm_by,
            nonce: self.nonce,
            changes: self.changes.iter().map(HeadChange::new).collect(),
            signers,
            extensions: Vec::new(),
        };
        let mut signed = Signed::new(KIND, codec::encode(&head));
        for key in keys {
            signed.add(key);
        }
        Packed { signed, bodies: self.changes.iter().filter_map(|change| change.content.clone()).collect() }
    }
}

/// The bytes that travel and are kept.
pub fn encode(packed: &Packed) -> Vec<u8> {
    codec::encode(packed)
}

/// The reverse of [`encode`].
///
/// # Errors
/// If the bytes are not something signed with bodies beside it, or are over [`MAX_CHANGESET`].
pub fn decode(bytes: &[u8]) -> Result<Packed, Unread> {
    codec::decode::<_, MAX_CHANGESET>(bytes).map_err(|error| Unread::Malformed(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_later_build_adds_is_signed_and_ignored() {
        let key = SigningKey::generate();
        let document = DocumentId::new(crate::Kind::VirtualService, "shop", "cart");
        let before = Changeset {
            trust_domain: TrustDomain::new("prod.example").unwrap(),
            role_set: 1,
            issued_at: 1,
            message: String::new(),
            confirm_by: None,
            nonce: [7; 16],
            changes: vec![Change { document, content: Some("{}".into()), replaces: vec![] }],
        };
        let mut packed = before.sign(&[&key]);
        let mut head: Head = codec::decode::<_, MAX_CHANGESET>(&packed.signed.payload).unwrap();
        head.extensions.push((7, b"later".to_vec()));
        packed.signed = Signed::new(KIND, codec::encode(&head));
        packed.signed.add(&key);
        let packed = decode(&encode(&packed)).unwrap();
        assert_eq!(packed.signed.verify(KIND).unwrap(), [key.public()]);
        assert_eq!(packed.read().unwrap().changeset, before);
    }
}
