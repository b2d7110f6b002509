//! Ed25519 signatures over a length-prefixed pre-authentication encoding of (kind, payload).
//!
//! Invariants:
//! - [`Signed`] keeps its bytes as they came and is never re-serialised; only [`Signed::verify`] gives keys that one may believe;
//! - what is signed begins with its kind, and every part bears its length: no signature under one thing holds under another;
//! - [`Signed::id`] covers kind and payload and no signature, so whoever needs to know who signed puts the keys into the payload;
//! - every node judges a signature alike: encodings that some libraries take and others do not are refused.

use std::{fmt, str::FromStr};

use aws_lc_rs::{
    digest::{SHA256, digest},
    signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use zeroize::Zeroizing;

use crate::{error::Error, pem};

/// Most signatures that one payload may carry.
pub const MAX_SIGNATURES: usize = 64;

/// 32 bytes, shown in hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

/// An Ed25519 public key, shown and parsed as `ed25519:BASE64` (URL-safe, no padding).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey(pub [u8; 32]);

/// A detached signature.
#[derive(Clone, PartialEq, Eq)]
pub struct Signature(pub [u8; 64]);

/// A private signing key; zeroized on drop (by aws-lc, which alone holds it), never shown by `Debug`.
pub struct SigningKey {
    pair: Ed25519KeyPair,
}

/// A payload with the signatures of any number of keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signed {
    /// What the payload is, e.g. `skein.changeset/1`; part of what is signed.
    pub kind: String,
    /// The signed bytes, as they came.
    pub payload: Vec<u8>,
    /// (key, signature), in any order.
    pub signatures: Vec<(PublicKey, Signature)>,
}

/// Why a signed payload is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// It was signed as something else.
    #[error("signed as `{found}`, not as `{expected}`")]
    WrongKind {
        /// What the reader wants.
        expected: String,
        /// What it says it is.
        found: String,
    },
    /// Nobody signed it.
    #[error("not signed")]
    Unsigned,
    /// More than [`MAX_SIGNATURES`].
    #[error("{0} signatures; the limit is 64")]
    TooMany(usize),
    /// One key stands there twice.
    #[error("two signatures by {0}")]
    Repeated(PublicKey),
    /// A signature that does not hold.
    #[error("the signature by {0} does not hold")]
    BadSignature(PublicKey),
}

/// A text that is no digest, key or signature.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{given}` is not {expected}")]
pub struct TextError {
    given: String,
    expected: &'static str,
}

/// The bytes that a signature covers. Every part is length-prefixed, so no two (kind, payload) pairs share an encoding.
fn pre_authentication(kind: &str, payload: &[u8]) -> Vec<u8> {
    const CONTEXT: &[u8] = b"skein-signed/1";
    let mut bytes = Vec::with_capacity(CONTEXT.len() + 16 + kind.len() + payload.len());
    bytes.extend_from_slice(CONTEXT);
    for part in [kind.as_bytes(), payload] {
        bytes.extend_from_slice(&(part.len() as u64).to_le_bytes());
        bytes.extend_from_slice(part);
    }
    bytes
}

impl Digest {
    /// SHA-256.
    pub fn of(bytes: &[u8]) -> Digest {
        let hash = digest(&SHA256, bytes);
        Digest(hash.as_ref().try_into().expect("SHA-256 has 32 bytes"))
    }

    /// The first eight bytes as a number, for tables: who can choose the bytes finds two that share it after 2^32 tries.
    pub fn first_u64(&self) -> u64 {
        let mut first = [0; 8];
        first.copy_from_slice(&self.0[..8]);
        u64::from_be_bytes(first)
    }
}

impl SigningKey {
    /// A fresh key.
    pub fn generate() -> SigningKey {
        SigningKey { pair: Ed25519KeyPair::generate().expect("the system's random source works") }
    }

    /// Reads a PKCS#8 `PRIVATE KEY`.
    pub fn from_pem(text: &str) -> Result<SigningKey, Error> {
        let der = pem::private_key(text)?;
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der).map_err(|_| Error::Key { expected: "Ed25519" })?;
        Ok(SigningKey { pair })
    }

    /// The key as a PKCS#8 `PRIVATE KEY`.
    pub fn to_pem(&self) -> Zeroizing<String> {
        pem::encode("PRIVATE KEY", self.pair.to_pkcs8v1().expect("a key that exists can be written").as_ref())
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.pair.public_key().as_ref().try_into().expect("an Ed25519 public key has 32 bytes"))
    }

    /// Signs `payload` as a `kind`.
    pub fn sign(&self, kind: &str, payload: &[u8]) -> Signature {
        let signature = self.pair.sign(&pre_authentication(kind, payload));
        Signature(signature.as_ref().try_into().expect("an Ed25519 signature has 64 bytes"))
    }
}

impl PublicKey {
    /// True if `signature` is this key's on (`kind`, `payload`). Strict: keys of low order, keys and commitments that are not
    /// canonical and S >= L are refused, so that every node judges alike.
    pub fn verify(&self, kind: &str, payload: &[u8], signature: &Signature) -> bool {
        let (commitment, _) = signature.0.split_at(32);
        let commitment: [u8; 32] = commitment.try_into().expect("half of 64 bytes");
        sound(&self.0) && sound(&commitment) && self.verify_raw(&pre_authentication(kind, payload), signature)
    }

    fn verify_raw(&self, message: &[u8], signature: &Signature) -> bool {
        UnparsedPublicKey::new(&ED25519, &self.0).verify(message, &signature.0).is_ok()
    }
}

/// y-coordinates of the points of low order, little-endian (Chalkias et al., "Taming the many EdDSAs", table 1).
const LOW_ORDER: [[u8; 32]; 5] = [
    [0; 32],
    [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    [
        0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0, 0xd5, 0xdf,
        0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05,
    ],
    [
        0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f, 0x2a, 0x20,
        0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a,
    ],
    [
        0xec, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f,
    ],
];

/// True for the canonical encoding of what may be a point of large order.
fn sound(point: &[u8; 32]) -> bool {
    let mut y = *point;
    y[31] &= 0x7f;
    // p = 2^255 - 19; anything from p on is a second encoding of a small number.
    let canonical = y[31] != 0x7f || y[1..31].iter().any(|byte| *byte != 0xff) || y[0] < 0xed;
    canonical && !LOW_ORDER.contains(&y)
}

impl Signed {
    /// A payload without signatures.
    pub fn new(kind: &str, payload: Vec<u8>) -> Signed {
        Signed { kind: kind.into(), payload, signatures: Vec::new() }
    }

    /// Adds the key's signature, unless it stands there already.
    pub fn add(&mut self, key: &SigningKey) {
        let public = key.public();
        if !self.signatures.iter().any(|(signer, _)| *signer == public) {
            self.signatures.push((public, key.sign(&self.kind, &self.payload)));
        }
    }

    /// The name of what is signed: the same whoever signs.
    pub fn id(&self) -> Digest {
        Digest::of(&pre_authentication(&self.kind, &self.payload))
    }

    /// The distinct keys that signed; all of them, or none counts.
    ///
    /// # Errors
    /// [`SignError::WrongKind`], [`SignError::Unsigned`], [`SignError::TooMany`], [`SignError::Repeated`], [`SignError::BadSignature`].
    pub fn verify(&self, kind: &str) -> Result<Vec<PublicKey>, SignError> {
        if self.kind != kind {
            return Err(SignError::WrongKind { expected: kind.into(), found: self.kind.chars().take(80).collect() });
        }
        if self.signatures.is_empty() {
            return Err(SignError::Unsigned);
        }
        if self.signatures.len() > MAX_SIGNATURES {
            return Err(SignError::TooMany(self.signatures.len()));
        }
        let mut keys = Vec::with_capacity(self.signatures.len());
        for (key, signature) in &self.signatures {
            if keys.contains(key) {
                return Err(SignError::Repeated(*key));
            }
            if !key.verify(kind, &self.payload, signature) {
                return Err(SignError::BadSignature(*key));
            }
            keys.push(*key);
        }
        Ok(keys)
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.public())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ed25519:{}", URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signature({self})")
    }
}

impl TextError {
    fn new(given: &str, expected: &'static str) -> TextError {
        TextError { given: given.chars().take(80).collect(), expected }
    }
}

fn from_base64<const N: usize>(text: &str) -> Option<[u8; N]> {
    URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()
}

impl FromStr for Digest {
    type Err = TextError;

    /// 64 hexadecimal digits.
    fn from_str(text: &str) -> Result<Digest, TextError> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| TextError::new(text, "64 hexadecimal digits"))?;
        Ok(Digest(bytes))
    }
}

impl FromStr for PublicKey {
    type Err = TextError;

    /// `ed25519:BASE64`.
    fn from_str(text: &str) -> Result<PublicKey, TextError> {
        let key = text.strip_prefix("ed25519:").and_then(from_base64);
        key.map(PublicKey).ok_or_else(|| TextError::new(text, "`ed25519:` and 43 characters of URL-safe base64"))
    }
}

impl FromStr for Signature {
    type Err = TextError;

    /// 86 characters of URL-safe base64.
    fn from_str(text: &str) -> Result<Signature, TextError> {
        from_base64(text).map(Signature).ok_or_else(|| TextError::new(text, "86 characters of URL-safe base64"))
    }
}

/// Raw bytes where machines read, the displayed text where people do.
macro_rules! bytes_or_text {
    ($name:ident, $raw:ty, $to:expr, $from:expr) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    serializer.collect_str(self)
                } else {
                    $to(&self.0).serialize(serializer)
                }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                if deserializer.is_human_readable() {
                    String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
                } else {
                    <$raw>::deserialize(deserializer).map(|raw| $name($from(raw)))
                }
            }
        }
    };
}

bytes_or_text!(Digest, [u8; 32], |raw: &[u8; 32]| *raw, |raw| raw);
bytes_or_text!(PublicKey, [u8; 32], |raw: &[u8; 32]| *raw, |raw| raw);
bytes_or_text!(Signature, [[u8; 32]; 2], halves, joined);

/// serde knows arrays up to 32.
fn halves(raw: &[u8; 64]) -> [[u8; 32]; 2] {
    let (commitment, scalar) = raw.split_at(32);
    [commitment, scalar].map(|half| half.try_into().expect("half of 64 bytes"))
}

fn joined(halves: [[u8; 32]; 2]) -> [u8; 64] {
    halves.as_flattened().try_into().expect("twice 32 bytes")
}

#[cfg(test)]
mod tests;
