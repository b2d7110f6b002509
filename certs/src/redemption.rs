//! Who redeemed an invite, and with which keys: what keeps an enroller from the invites of others.
//!
//! A NodeGrant names the one enroller that may redeem its token. That enroller signs, by the key that the root certified, which CA key
//! and which record key it enrolled under the name and the epoch; every node CA carries the signature on, through renewals by whichever
//! enroller. A CA whose keys are not so proven counts nowhere, also where its name was never heard of.

use rcgen::SigningKey as _;
use serde::{Deserialize, Serialize};

use crate::{
    ca::CaKey,
    certificate::{Certificate, signature_holds},
    codec::{self, CodecError, length_prefixed},
    der,
    error::Error,
    grant::{Grant, NodeGrant},
    id::TrustDomain,
    sign::{Digest, PublicKey},
    verify::Link,
};

/// Most bytes of a redemption within a certificate.
pub const MAX_REDEMPTION: usize = 2048;

/// What the redeemer signs. No certificate begins so, and the same key signs those.
const KIND: &[u8] = b"skein.redemption/1";

/// The redeemer's word, as node CAs carry it. To be believed only by [`crate::verify`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Redemption {
    /// ECDSA P-256 with SHA-256, DER, by the redeemer's enroller CA.
    signature: Vec<u8>,
    /// That CA's certificate; absent where it is the issuer of the node CA, for then it stands next in the path.
    redeemer: Option<Vec<u8>>,
}

/// Which keys redeemed which invite.
pub(crate) struct Redeemed<'a> {
    pub(crate) trust_domain: &'a TrustDomain,
    pub(crate) signed: &'a NodeGrant,
    /// SHA-256 of the CA key's SubjectPublicKeyInfo.
    pub(crate) ca_key: Digest,
    pub(crate) record_key: &'a PublicKey,
}

impl Redeemed<'_> {
    fn message(&self) -> Vec<u8> {
        let Redeemed { trust_domain, signed, ca_key, record_key } = self;
        let token: &[u8] = signed.token_hash.as_ref().map_or(&[], |hash| &hash.0);
        let (node, epoch) = (signed.node.as_str().as_bytes(), signed.epoch.to_le_bytes());
        length_prefixed(&[KIND, trust_domain.as_str().as_bytes(), node, &epoch, token, &ca_key.0, &record_key.0])
    }

    pub(crate) fn sign(&self, key: &CaKey) -> Result<Redemption, Error> {
        Ok(Redemption { signature: key.sign(&self.message()).map_err(Error::issue)?, redeemer: None })
    }

    /// Whether the holder of the key of `redeemer` signed this.
    pub(crate) fn holds(&self, redemption: &Redemption, redeemer: &Certificate<'_>) -> bool {
        signature_holds(redeemer.spki, &self.message(), &redemption.signature)
    }
}

/// Whether an enroller CA's word on who redeemed the invite counts: it is the enroller that the grant names, or an enroller of the very
/// name and epoch, which the root has certified as that node.
pub(crate) fn vouches(enroller: &Grant, signed: &NodeGrant) -> bool {
    signed.redeemer.as_ref() == Some(&enroller.node) || (enroller.node == signed.node && enroller.epoch == signed.epoch)
}

impl Redemption {
    /// What a node's chain (node CA, enroller CA) shows to another enroller, which is to renew it.
    pub fn shown(chain: &[Vec<u8>]) -> Option<Redemption> {
        let [node, enroller] = chain else { return None };
        let redemption = Certificate::parse(node, Link::NodeCa).ok()?.redemption?;
        let redeemer = redemption.redeemer.or_else(|| Some(enroller.clone()));
        Some(Redemption { redeemer, ..redemption })
    }

    /// DER of the redeemer's enroller CA, if it is not the issuer's.
    pub(crate) fn redeemer(&self) -> Option<&[u8]> {
        self.redeemer.as_deref()
    }

    /// The content of the certificate extension: a DER OCTET STRING around the encoded redemption.
    pub(crate) fn to_der(&self) -> Vec<u8> {
        der::octet_string(&codec::encode(self))
    }

    /// Reads the content of the certificate extension.
    pub(crate) fn from_der(der: &[u8]) -> Result<Redemption, CodecError> {
        let body = der::from_octet_string(der).ok_or_else(|| CodecError("no OCTET STRING".into()))?;
        codec::decode::<Redemption, MAX_REDEMPTION>(body)
    }
}
