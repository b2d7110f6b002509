//! What the certificates of a path say, for people to read. Nothing here is verified.

use super::Certificate;
use crate::{
    codec::Millis,
    error::{Link, VerifyError},
    grant::Grant,
    id::SpiffeId,
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
        let Certificate { not_before, not_after, grant, id, .. } = Certificate::parse(der, link)?;
        Ok(Described { link, not_before, not_after, grant, id })
    };
    chain.iter().zip(places).map(one).collect()
}
