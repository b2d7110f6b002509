//! A further signature under a changeset that exists already: what makes a proposal count.

use certs::{
    codec,
    id::TrustDomain,
    sign::{PublicKey, Signed, SigningKey},
};
use serde::{Deserialize, Serialize};

use super::{ChangesetId, Packed, Unread};

/// What an approval's signature says that the bytes are.
pub const KIND: &str = "skein.approval/1";
/// Bytes of an encoded approval's payload at most.
const MAX_APPROVAL: usize = 1024;

/// One key's yes to one changeset. It bears no date and no nonce, so that there is one id for each changeset and key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approval {
    /// The mesh that it is for.
    pub trust_domain: TrustDomain,
    /// What is approved.
    pub changeset: ChangesetId,
    /// By whom.
    pub signer: PublicKey,
}

impl Approval {
    /// The approval of a changeset by a key.
    pub fn sign(trust_domain: &TrustDomain, changeset: ChangesetId, key: &SigningKey) -> Packed {
        let approval = Self { trust_domain: trust_domain.clone(), changeset, signer: key.public() };
        let mut signed = Signed::new(KIND, codec::encode(&approval));
        signed.add(key);
        Packed { signed, bodies: Vec::new() }
    }

    /// Reads what was signed; verifies nothing but form.
    ///
    /// # Errors
    /// If that is no approval, or bears bodies.
    pub fn read(packed: &Packed) -> Result<Self, Unread> {
        if !packed.bodies.is_empty() {
            return Err(Unread::Bodies("an approval has none".into()));
        }
        codec::decode::<_, MAX_APPROVAL>(&packed.signed.payload).map_err(|error| Unread::Malformed(error.to_string()))
    }
}
