//! The mesh's root: a key that signs enroller CAs, and nothing else.

use zeroize::Zeroizing;

use crate::{
    codec::Millis,
    error::Error,
    id::{NodeId, TrustDomain},
};

/// A root certificate with its private key.
#[derive(Debug)]
pub struct Root {}

impl Root {
    /// A fresh root, valid for 10 years from five minutes before `now`.
    pub fn generate(_trust_domain: &TrustDomain, _now: Millis) -> Root {
        todo!()
    }

    /// Reads certificate and key, as [`Root::to_pem`] wrote them.
    pub fn from_pem(_text: &str) -> Result<Root, Error> {
        todo!()
    }

    /// `CERTIFICATE`, then `PRIVATE KEY`.
    pub fn to_pem(&self) -> Zeroizing<String> {
        todo!()
    }

    /// The certificate in DER: what a trust bundle holds.
    pub fn certificate(&self) -> Vec<u8> {
        todo!()
    }

    /// Certifies the enroller CA of `node` for a year: `spki` is its CA key, `epoch` that of its NodeGrant.
    pub fn issue_enroller(&self, _node: &NodeId, _epoch: u64, _spki: &[u8], _now: Millis) -> Result<Vec<u8>, Error> {
        todo!()
    }
}

/// Writes certificates as PEM, e.g. `bundle.pem`.
pub fn bundle_to_pem(certificates: &[Vec<u8>]) -> String {
    certificates.iter().map(|der| crate::pem::encode("CERTIFICATE", der).to_string()).collect()
}

/// Reads the certificates of a PEM text; at least one.
pub fn bundle_from_pem(text: &str) -> Result<Vec<Vec<u8>>, Error> {
    crate::pem::certificates(text)
}
