//! CAs below the root: the enroller's, which certifies node CAs, and each node's own, which issues its leafs.

use std::sync::Arc;

use rustls::{pki_types::CertificateDer, sign::CertifiedKey};
use zeroize::Zeroizing;

use crate::{
    codec::Millis,
    error::Error,
    grant::Grant,
    id::{NodeId, SpiffeId, TrustDomain},
};

/// A P-256 key of a CA; made where it is used and never sent. Zeroized on drop (by aws-lc, which alone holds it).
pub struct CaKey {}

impl CaKey {
    /// A fresh key.
    pub fn generate() -> CaKey {
        todo!()
    }
    /// Reads a PKCS#8 `PRIVATE KEY`.
    pub fn from_pem(_text: &str) -> Result<CaKey, Error> {
        todo!()
    }
    /// The key as a PKCS#8 `PRIVATE KEY`.
    pub fn to_pem(&self) -> Zeroizing<String> {
        todo!()
    }
    /// The public half as a SubjectPublicKeyInfo in DER.
    pub fn spki(&self) -> Vec<u8> {
        todo!()
    }
    /// A PKCS#10 request in `node`'s name; it proves possession of the key and asks for nothing.
    pub fn request(&self, _node: &NodeId) -> Vec<u8> {
        todo!()
    }
}

/// Checks a PKCS#10 request (its own signature, P-256, the subject's name, no attributes) and takes its key's SubjectPublicKeyInfo.
pub fn requested_key(_request: &[u8], _node: &NodeId) -> Result<Vec<u8>, Error> {
    todo!()
}

/// A CA that certifies node CAs.
pub struct Enroller {}

impl Enroller {
    /// `chain` is the enroller certificate alone (the root is not part of it).
    pub fn new(_trust_domain: &TrustDomain, _chain: Vec<Vec<u8>>, _key: CaKey) -> Result<Enroller, Error> {
        todo!()
    }
    /// The enroller's own certificate's chain.
    pub fn chain(&self) -> &[Vec<u8>] {
        todo!()
    }
    /// Begin of the enroller's certificate.
    pub fn not_before(&self) -> Millis {
        todo!()
    }
    /// End of the enroller's certificate.
    pub fn not_after(&self) -> Millis {
        todo!()
    }
    /// Certifies a node CA for 30 days, within the enroller's own validity. Returns node CA, then enroller CA.
    pub fn issue_node(&self, _spki: &[u8], _grant: &Grant, _now: Millis) -> Result<Vec<Vec<u8>>, Error> {
        todo!()
    }
}

/// A node's own CA.
pub struct NodeCa {}

/// A leaf certificate with its private key, which lives in memory only.
#[derive(Debug, Clone)]
pub struct Leaf {
    /// Whose it is.
    pub id: SpiffeId,
    /// Leaf, node CA, enroller CA.
    pub chain: Vec<CertificateDer<'static>>,
    /// Chain and key in the form that rustls wants.
    pub key: Arc<CertifiedKey>,
    /// Begin of validity.
    pub not_before: Millis,
    /// End of validity.
    pub not_after: Millis,
}

impl NodeCa {
    /// `chain` is node CA, then enroller CA; `key` must be the first one's.
    pub fn new(_trust_domain: &TrustDomain, _chain: Vec<Vec<u8>>, _key: CaKey) -> Result<NodeCa, Error> {
        todo!()
    }
    /// What the certificate allows; the NodeGrant may allow less.
    pub fn grant(&self) -> &Grant {
        todo!()
    }
    /// Node CA, enroller CA.
    pub fn chain(&self) -> &[Vec<u8>] {
        todo!()
    }
    /// Begin of the CA's validity.
    pub fn not_before(&self) -> Millis {
        todo!()
    }
    /// End of the CA's validity.
    pub fn not_after(&self) -> Millis {
        todo!()
    }
    /// The key, for renewal requests.
    pub fn key(&self) -> &CaKey {
        todo!()
    }
    /// Issues a leaf with a fresh key: 1 h for a service, 24 h for the node itself; backdated 5 min, within the CA's validity.
    pub fn leaf(&self, _id: &SpiffeId, _now: Millis) -> Result<Leaf, Error> {
        todo!()
    }
}
