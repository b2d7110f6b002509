//! What a node signs about a changeset: that it is on its disk, that its traffic follows it.

use certs::{
    codec::{self, Millis},
    id::{NodeId, TrustDomain},
    sign::{Digest, PublicKey, Signature, SigningKey},
};
use policy::changeset::ChangesetId;
use serde::{Deserialize, Serialize};

/// What the signature says that the bytes are.
pub const KIND: &str = "skein.receipt/1";
/// Most bytes of a receipt.
pub const RECEIPT_BYTES: usize = 2048;

/// One node's word about one changeset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// The mesh.
    pub trust_domain: TrustDomain,
    /// Who says it.
    pub node: NodeId,
    /// About which changeset.
    pub changeset: Digest,
    /// What.
    pub standing: Standing,
    /// When, by that node's clock.
    pub at: Millis,
}

/// Where a changeset stands on one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    /// On disk.
    Durable,
    /// On disk, and a later one replaces all of it.
    Superseded,
    /// On disk, and another value of one of its documents is in effect.
    Conflicted,
    /// On disk, and traffic follows it.
    Applied,
}

#[derive(Serialize, Deserialize)]
struct Wire {
    payload: Vec<u8>,
    key: PublicKey,
    signature: Signature,
}

impl Receipt {
    /// The receipt as bytes, signed by the node's record key.
    pub fn sign(&self, key: &SigningKey) -> Vec<u8> {
        let payload = codec::encode(self);
        let signature = key.sign(KIND, &payload);
        codec::encode(&Wire { payload, key: key.public(), signature })
    }

    /// Reads a receipt and believes it only under `key`, the node's record key. Without one, the receipt's own key is
    /// taken: that proves nothing about who signed.
    pub fn verify(bytes: &[u8], key: Option<&PublicKey>) -> Option<Self> {
        let wire: Wire = codec::decode::<Wire, RECEIPT_BYTES>(bytes).ok()?;
        let key = key.unwrap_or(&wire.key);
        if !key.verify(KIND, &wire.payload, &wire.signature) {
            return None;
        }
        codec::decode::<Self, RECEIPT_BYTES>(&wire.payload).ok()
    }

    /// The changeset.
    pub fn changeset(&self) -> ChangesetId {
        ChangesetId(self.changeset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_nodes_own_key_makes_it_believable() {
        let (own, other) = (SigningKey::generate(), SigningKey::generate());
        let receipt = Receipt {
            trust_domain: TrustDomain::new("prod.example").unwrap(),
            node: NodeId::new("a").unwrap(),
            changeset: Digest::of(b"x"),
            standing: Standing::Applied,
            at: 7,
        };
        let bytes = receipt.sign(&own);
        assert!(bytes.len() < RECEIPT_BYTES);
        assert_eq!(Receipt::verify(&bytes, Some(&own.public())), Some(receipt));
        assert_eq!(Receipt::verify(&bytes, Some(&other.public())), None);
        assert_eq!(Receipt::verify(&bytes[1..], None), None);
    }
}
