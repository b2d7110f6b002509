//! Who checks signatures and certificates: nearly all that an engine costs. A simulation of a thousand engines in one
//! process checks each record once and not a thousand times; everybody else has [`Certificates`].

use std::{fmt, sync::Arc};

use certs::{
    codec::Millis,
    id::{NodeId, TrustDomain},
    sign::PublicKey,
    verify::{self, Authority, NodeCaFacts},
};

use crate::{error::RecordError, record::SignedRecord};

/// See the module.
pub trait Notary: fmt::Debug + Send + Sync {
    /// Reads a record without believing it.
    ///
    /// # Errors
    /// As [`SignedRecord::decode`].
    fn read(&self, bytes: &[u8]) -> Result<Arc<SignedRecord>, RecordError>;

    /// Whether `key` signed the record for this mesh.
    ///
    /// # Errors
    /// As [`SignedRecord::verify`].
    fn signed(&self, record: &SignedRecord, mesh: &TrustDomain, key: &PublicKey) -> Result<(), RecordError>;

    /// What the certificates of `node`, its CA first, say under `authority`.
    ///
    /// # Errors
    /// `Identity`: why they do not hold.
    fn certified(
        &self,
        node: &NodeId,
        chain: Vec<Vec<u8>>,
        authority: &Authority,
        now: Millis,
    ) -> Result<Arc<NodeCaFacts>, RecordError>;
}

/// Real certificates and signatures, checked each time.
#[derive(Debug, Clone, Copy, Default)]
pub struct Certificates;

impl Notary for Certificates {
    fn read(&self, bytes: &[u8]) -> Result<Arc<SignedRecord>, RecordError> {
        SignedRecord::decode(bytes).map(Arc::new)
    }

    fn signed(&self, record: &SignedRecord, mesh: &TrustDomain, key: &PublicKey) -> Result<(), RecordError> {
        record.verify(mesh, key)
    }

    fn certified(
        &self,
        node: &NodeId,
        chain: Vec<Vec<u8>>,
        authority: &Authority,
        now: Millis,
    ) -> Result<Arc<NodeCaFacts>, RecordError> {
        let refused = |why: String| RecordError::Identity { node: node.clone(), why };
        let chain: Vec<_> = chain.into_iter().map(Into::into).collect();
        let facts = verify::verify_ca(&chain, authority, now).map_err(|error| refused(error.to_string()))?;
        if facts.node != *node {
            return Err(refused(format!("the certificate names {}", facts.node)));
        }
        Ok(Arc::new(facts))
    }
}
