//! What the certificates of a path say, for people to read. Nothing here is verified.

use super::Certificate;
use crate::{
    codec::Millis,
    error::{Link, VerifyError},
    grant::Grant,
    id::SpiffeId,
    sign::Digest,
};

/// One certificate of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    /// Its place.
    pub link: Link,
    /// Begin.
    pub not_before: Millis,
    /// End.
    pub not_after: Millis,
    /// What a node's or an enroller's CA may certify.
    pub grant: Option<Grant>,
    /// Whom a leaf speaks of.
    pub id: Option<SpiffeId>,
    /// SHA-256 of its SubjectPublicKeyInfo: what a revocation names.
    pub key: Digest,
}

/// Reads leaf, node CA and enroller CA, in this order; a chain may end early, and have its root after them.
///
/// # Errors
/// One of them is none of this mesh's shapes.
pub fn describe(chain: &[Vec<u8>]) -> Result<Vec<Described>, VerifyError> {
    let places = [Link::Leaf, Link::NodeCa, Link::Enroller, Link::Root];
    if chain.len() > places.len() {
        return Err(VerifyError::Length { found: chain.len(), expected: places.len() });
    }
    let one = |(der, link): (&Vec<u8>, Link)| {
        let certificate = Certificate::parse(der, link)?;
        let key = certificate.key();
        let Certificate { not_before, not_after, grant, id, .. } = certificate;
        Ok(Described { link, not_before, not_after, grant, id, key })
    };
    chain.iter().zip(places).map(one).collect()
}
