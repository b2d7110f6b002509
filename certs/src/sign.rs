//! Ed25519 signatures over a length-prefixed pre-authentication encoding of (kind, payload).
//! `Signed` keeps its bytes as they came and is never re-serialised; only `verify` gives a value one may believe.

/// 32 bytes, shown in hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

/// An Ed25519 public key, shown and parsed as `ed25519:BASE64` (URL-safe, no padding).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey(pub [u8; 32]);

/// A detached signature.
#[derive(Clone, PartialEq, Eq)]
pub struct Signature(pub [u8; 64]);

/// A private signing key; zeroized on drop, never shown by `Debug`.
pub struct SigningKey { /* private */ }

/// A payload with the signatures of any number of keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    /// What the payload is, e.g. `skein.changeset/1`; part of what is signed.
    pub kind: String,
    /// The signed bytes, as they came.
    pub payload: Vec<u8>,
    /// (key, signature), in any order.
    pub signatures: Vec<(PublicKey, Signature)>,
}

// API expected by the other crates:
// Digest::of(&[u8]) -> Digest (SHA-256); Display/FromStr hex; serde as bytes in bincode and hex string in human-readable formats
// SigningKey::generate() ; from_pem(&str) -> Result ; to_pem() -> Zeroizing<String> (PKCS#8) ; public() -> PublicKey ; sign(kind:&str, payload:&[u8]) -> Signature
// PublicKey::verify(kind:&str, payload:&[u8], &Signature) -> bool   (strict: low-order keys and S >= L refused)
// Signed::new(kind, payload), add(&SigningKey), id() -> Digest (of the pre-authentication encoding, without signatures),
//   verify(&self, kind:&str) -> Result<Vec<PublicKey>, SignError>  distinct keys whose signatures hold; a wrong kind, any signature that
//   does not hold, or none at all is an error
