//! What a node signs about a changeset: that it is on its disk, that its traffic follows it.

use certs::{
    codec::{self, Millis},
    id::{NodeId, TrustDomain},
    sign::{Digest, PublicKey, Signature, SigningKey},
    verify::{Authority, verify_ca_by_roots},
};
use policy::changeset::ChangesetId;
use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};

/// What the signature says that the bytes are.
pub const KIND: &str = "skein.receipt/1";
/// Most bytes of a receipt: its certificates may carry a grant of 12 KiB.
pub const RECEIPT_BYTES: usize = 64 << 10;

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
    /// What a later build adds and others may ignore: number and value.
    pub extensions: Vec<(u16, Vec<u8>)>,
}

/// Where a changeset stands on one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    /// On disk.
    Durable,
    /// On disk, and too few keys have signed it so far.
    Proposed,
    /// On disk, and a later one replaces all of it.
    Superseded,
    /// On disk, and another value of one of its documents is in effect.
    Conflicted,
    /// On disk, and the node's build cannot read one of its documents: what stood before is in effect, or what can be read of it.
    Unreadable,
    /// On disk, and traffic follows it.
    Applied,
    /// Applied, and nothing of the node rests on a root that the RoleSet in force retires. Only who asks for it hears it.
    Settled,
}

#[derive(Serialize, Deserialize)]
struct Wire {
    payload: Vec<u8>,
    key: PublicKey,
    signature: Signature,
    /// Node CA, enroller CA: whose key it is, for those who know the roots only.
    chain: Vec<Vec<u8>>,
}

impl Receipt {
    /// The receipt as bytes, signed by the node's record key, with the chain of its CA.
    pub fn sign(&self, key: &SigningKey, chain: &[Vec<u8>]) -> Vec<u8> {
        let payload = codec::encode(self);
        let signature = key.sign(KIND, &payload);
        codec::encode(&Wire { payload, key: key.public(), signature, chain: chain.to_vec() })
    }

    /// Reads a receipt and believes it if a CA under one of these roots says that the key is the node's, and it is not known to be out:
    /// what an operator's machine can know.
    pub fn prove(bytes: &[u8], authority: &Authority, now: Millis) -> Option<Self> {
        let wire: Wire = codec::decode::<Wire, RECEIPT_BYTES>(bytes).ok()?;
        let chain: Vec<CertificateDer<'_>> = wire.chain.iter().map(|der| der.as_slice().into()).collect();
        let facts = verify_ca_by_roots(&chain, authority, now).ok()?;
        let receipt = Self::verify(bytes, Some(&facts.record_key))?;
        (receipt.node == facts.node && receipt.trust_domain == authority.trust_domain).then_some(receipt)
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
    use certs::{
        ca::{CaKey, Enroller},
        grant::NodeGrant,
        root::Root,
    };

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
            extensions: vec![(7, b"later".to_vec())],
        };
        let bytes = receipt.sign(&own, &[]);
        assert!(bytes.len() < RECEIPT_BYTES);
        assert_eq!(Receipt::verify(&bytes, Some(&own.public())), Some(receipt));
        assert_eq!(Receipt::verify(&bytes, Some(&other.public())), None);
        assert_eq!(Receipt::verify(&bytes[1..], None), None);
    }
    #[test]
    fn roots_prove_whose_receipt_it_is() {
        const NOW: Millis = 1_700_000_000_000;
        let (mesh, node) = (TrustDomain::new("prod.example").unwrap(), NodeId::new("a").unwrap());
        let (root, other) = (Root::generate(&mesh, NOW), Root::generate(&mesh, NOW));
        let (enroller_key, ca_key, record) = (CaKey::generate(), CaKey::generate(), SigningKey::generate());
        let certificate = root.issue_enroller(&node, 1, &enroller_key.spki(), NOW).unwrap();
        let enroller = Enroller::new(&mesh, vec![certificate], enroller_key).unwrap();
        let grant = NodeGrant {
            node: node.clone(),
            epoch: 1,
            services: Vec::new(),
            token_hash: None,
            redeemer: None,
            token_expires: None,
            enroller: true,
            retired: false,
        };
        let chain = enroller.issue_node_unchecked(&ca_key.spki(), &grant.certified(record.public()), NOW).unwrap();
        let changeset = Digest::of(b"x");
        let (trust_domain, named) = (mesh.clone(), node.clone());
        let (standing, extensions) = (Standing::Durable, Vec::new());
        let receipt = Receipt { trust_domain, node: named, changeset, standing, at: NOW, extensions };
        let bytes = receipt.sign(&record, &chain);
        let under = |root: &Root| Authority::new(mesh.clone(), vec![root.certificate()]);
        assert_eq!(Receipt::prove(&bytes, &under(&root), NOW), Some(receipt.clone()));
        assert_eq!(Receipt::prove(&bytes, &under(&other), NOW), None);
        let mut evicting = under(&root);
        evicting.revocations.evict(node.clone(), 1);
        assert_eq!(Receipt::prove(&bytes, &evicting, NOW), None);
        let (mut replaced, mut revoking) = (under(&root), under(&root));
        replaced.ended.insert(node.clone(), 1);
        assert_eq!(Receipt::prove(&bytes, &replaced, NOW), None);
        revoking.revocations.keys.insert(Digest::of(&ca_key.spki()));
        assert_eq!(Receipt::prove(&bytes, &revoking, NOW), None);
        let lie = Receipt { node: NodeId::new("b").unwrap(), ..receipt };
        assert_eq!(Receipt::prove(&lie.sign(&record, &chain), &under(&root), NOW), None);
        assert_eq!(Receipt::prove(&lie.sign(&SigningKey::generate(), &chain), &under(&root), NOW), None);
    }
}
