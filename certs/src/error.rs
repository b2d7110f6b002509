//! What may fail when keys are read and certificates are issued. Nothing has changed anywhere when one of these is returned.

use crate::{codec::Millis, grant::Pattern, id::SpiffeId, verify::VerifyError};

/// A key, a certificate or a request that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The text is no PEM, or not of the expected sort.
    #[error("no {expected} in this PEM text")]
    Pem {
        /// `private key`, `certificate`...
        expected: &'static str,
    },
    /// The key is damaged, or not P-256 (TLS) or Ed25519 (documents).
    #[error("not a usable {expected} key")]
    Key {
        /// `P-256` or `Ed25519`.
        expected: &'static str,
    },
    /// A certificate that this crate did not make, or that does not belong to the key.
    #[error("certificate not usable: {0}")]
    Certificate(String),
    /// A certificate request that asks for more than a key's certification, or whose own signature does not hold.
    #[error("certificate request refused: {0}")]
    Request(String),
    /// The identity lies outside the CA's grant.
    #[error("{0} is outside this node's grant")]
    OutsideGrant(SpiffeId),
    /// The grant asked for is wider than the issuer's own.
    #[error("grant of {0} is wider than the issuer's")]
    WiderGrant(Pattern),
    /// The issuer is not valid at the time given.
    #[error("the issuing certificate is valid from {not_before} to {not_after} only (Unix milliseconds)")]
    IssuerNotValid {
        /// Its begin.
        not_before: Millis,
        /// Its end.
        not_after: Millis,
    },
    /// So many services that the chain would exceed what verifiers accept.
    #[error("certificate chain of {bytes} bytes; the limit is {limit}")]
    TooLarge {
        /// Bytes of the chain.
        bytes: usize,
        /// The limit in bytes.
        limit: usize,
    },
}

impl Error {
    /// rcgen fails only on what we would have to have made wrong.
    pub(crate) fn issue(error: rcgen::Error) -> Error {
        Error::Certificate(error.to_string())
    }
}

impl From<VerifyError> for Error {
    fn from(error: VerifyError) -> Error {
        Error::Certificate(error.to_string())
    }
}
