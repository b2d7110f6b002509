//! Sets of keys (RFC 7517), and signatures by them.

use aws_lc_rs::{
    hmac,
    signature::{
        self, ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ECDSA_P521_SHA512_FIXED, ED25519,
        RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256,
        RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512, RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey,
    },
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::Value;

use super::{
    Refusal,
    jws::{Algorithm, Jws},
};

/// Bytes of a shared secret at least: as many as the shortest hash that is keyed with it has (RFC 7518, 3.2).
const SHORTEST_SECRET: usize = 32;
/// What a key has by which one signs: a shared secret, the parts of a private key (RFC 7518, 6).
const SIGNING: [&str; 8] = ["k", "d", "p", "q", "dp", "dq", "qi", "oth"];
/// Keys of one set at most.
const MAX_KEYS: usize = 256;

/// The keys of an issuer.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct KeySet {
    keys: Vec<Key>,
    /// Those that can verify nothing here: another type or curve, or for encryption.
    unusable: usize,
    /// Those that sign as well.
    signing: usize,
}

#[derive(Debug, PartialEq, Eq)]
struct Key {
    /// `kid`; empty if it has none.
    name: String,
    /// `alg`, if it is for one alone.
    only: Option<Algorithm>,
    public: Public,
}

#[derive(PartialEq, Eq)]
enum Public {
    Rsa {
        modulus: Vec<u8>,
        exponent: Vec<u8>,
    },
    /// The uncompressed point.
    P256(Vec<u8>),
    P384(Vec<u8>),
    P521(Vec<u8>),
    Ed25519(Vec<u8>),
    /// Whoever verifies with it can sign with it, too.
    Secret(Vec<u8>),
}

impl std::fmt::Debug for Public {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Rsa { .. } => "RSA",
            Self::P256(_) => "P-256",
            Self::P384(_) => "P-384",
            Self::P521(_) => "P-521",
            Self::Ed25519(_) => "Ed25519",
            Self::Secret(_) => "oct",
        })
    }
}

impl KeySet {
    /// Reads a set, or one key. Keys of types that are not known are left out, as RFC 7517, 5 asks.
    ///
    /// # Errors
    /// It is no set of keys; the text says why.
    pub fn read(text: &str) -> Result<Self, String> {
        let json: Value = serde_json::from_str(text).map_err(|_| "not JSON".to_owned())?;
        let keys = match json.get("keys") {
            Some(keys) => keys.as_array().ok_or("`keys` is not a list")?.as_slice(),
            None => std::slice::from_ref(&json),
        };
        if keys.len() > MAX_KEYS {
            return Err(format!("more than {MAX_KEYS} keys"));
        }
        let mut set = Self::default();
        for key in keys {
            if !key.get("kty").is_some_and(Value::is_string) {
                return Err("a key has no `kty`".to_owned());
            }
            set.signing += usize::from(SIGNING.iter().any(|part| key.get(part).is_some()));
            match Key::read(key) {
                Some(key) => set.keys.push(key),
                None => set.unusable += 1,
            }
        }
        Ok(set)
    }

    /// Keys that can verify a token.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// True if no token can be verified.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Keys of types, curves or uses that verify nothing here.
    #[must_use]
    pub fn unusable(&self) -> usize {
        self.unusable
    }

    /// Keys by which whoever reads the set can sign: shared secrets, and private keys beside their public halves.
    #[must_use]
    pub fn signing(&self) -> usize {
        self.signing
    }

    /// Verifies a signature by the keys that fit its name and algorithm.
    pub(super) fn verify(&self, jws: &Jws<'_>) -> Result<(), Refusal> {
        let mut result = Err(Refusal::NoSuchKey);
        for key in &self.keys {
            let named = jws.key.is_empty() || key.name.is_empty() || jws.key == key.name;
            if !named || key.only.is_some_and(|only| only != jws.algorithm) {
                continue;
            }
            match key.public.verify(jws) {
                Some(true) => return Ok(()),
                Some(false) => result = Err(Refusal::Signature),
                None => {}
            }
        }
        result
    }
}

/// A set of keys, or one key, without what signs; `None` if it has nothing of that, or is no JSON.
#[must_use]
pub fn public_part(text: &str) -> Option<String> {
    let mut json: Value = serde_json::from_str(text).ok()?;
    let keys = match json.get_mut("keys") {
        Some(keys) => keys.as_array_mut()?.as_mut_slice(),
        None => std::slice::from_mut(&mut json),
    };
    let mut is_public = true;
    for key in keys.iter_mut().filter_map(Value::as_object_mut) {
        for part in SIGNING {
            is_public &= key.remove(part).is_none();
        }
    }
    (!is_public).then(|| json.to_string())
}

impl Key {
    /// `None` if it verifies nothing here.
    fn read(json: &Value) -> Option<Self> {
        let text = |name: &str| json.get(name).and_then(Value::as_str);
        let bytes = |name: &str| URL_SAFE_NO_PAD.decode(text(name)?.trim_end_matches('=')).ok();
        if text("use").is_some_and(|purpose| purpose != "sig") {
            return None;
        }
        let point = |length: usize| {
            let (x, y) = (bytes("x")?, bytes("y")?);
            (x.len() == length && y.len() == length).then(|| [&[4], &x[..], &y[..]].concat())
        };
        let public = match (text("kty")?, text("crv")) {
            ("RSA", _) => Public::Rsa { modulus: bytes("n")?, exponent: bytes("e")? },
            ("EC", Some("P-256")) => Public::P256(point(32)?),
            ("EC", Some("P-384")) => Public::P384(point(48)?),
            ("EC", Some("P-521")) => Public::P521(point(66)?),
            ("OKP", Some("Ed25519")) => Public::Ed25519(bytes("x")?),
            ("oct", _) => Public::Secret(bytes("k").filter(|secret| secret.len() >= SHORTEST_SECRET)?),
            _ => return None,
        };
        let only = match text("alg") {
            None => None,
            Some(name) => Some(Algorithm::by_name(name)?),
        };
        Some(Self { name: text("kid").unwrap_or_default().to_owned(), only, public })
    }
}

impl Public {
    /// Whether the key made the signature; `None` if it is for other algorithms.
    fn verify(&self, jws: &Jws<'_>) -> Option<bool> {
        let (message, signature) = (jws.signed.as_bytes(), &jws.signature[..]);
        let by = |algorithm: &'static dyn signature::VerificationAlgorithm, key: &[u8]| {
            UnparsedPublicKey::new(algorithm, key).verify(message, signature).is_ok()
        };
        match self {
            Self::Rsa { modulus, exponent } => {
                let parameters = *of(&RSA, jws.algorithm)?;
                let key = RsaPublicKeyComponents { n: trimmed(modulus), e: trimmed(exponent) };
                Some(key.verify(parameters, message, signature).is_ok())
            }
            Self::P256(point) => (jws.algorithm == Algorithm::Es256).then(|| by(&ECDSA_P256_SHA256_FIXED, point)),
            Self::P384(point) => (jws.algorithm == Algorithm::Es384).then(|| by(&ECDSA_P384_SHA384_FIXED, point)),
            Self::P521(point) => (jws.algorithm == Algorithm::Es512).then(|| by(&ECDSA_P521_SHA512_FIXED, point)),
            Self::Ed25519(key) => (jws.algorithm == Algorithm::EdDsa).then(|| by(&ED25519, key)),
            Self::Secret(secret) => {
                let algorithm = of(&SECRET, jws.algorithm)?;
                Some(hmac::verify(&hmac::Key::new(*algorithm, secret), message, signature).is_ok())
            }
        }
    }
}

/// What the algorithms of RSA mean.
const RSA: [(Algorithm, &RsaParameters); 6] = [
    (Algorithm::Rs256, &RSA_PKCS1_2048_8192_SHA256),
    (Algorithm::Rs384, &RSA_PKCS1_2048_8192_SHA384),
    (Algorithm::Rs512, &RSA_PKCS1_2048_8192_SHA512),
    (Algorithm::Ps256, &RSA_PSS_2048_8192_SHA256),
    (Algorithm::Ps384, &RSA_PSS_2048_8192_SHA384),
    (Algorithm::Ps512, &RSA_PSS_2048_8192_SHA512),
];

/// What those of a shared secret mean.
const SECRET: [(Algorithm, hmac::Algorithm); 3] = [
    (Algorithm::Hs256, hmac::HMAC_SHA256),
    (Algorithm::Hs384, hmac::HMAC_SHA384),
    (Algorithm::Hs512, hmac::HMAC_SHA512),
];

fn of<T>(known: &'static [(Algorithm, T)], algorithm: Algorithm) -> Option<&'static T> {
    known.iter().find(|(one, _)| *one == algorithm).map(|(_, meaning)| meaning)
}

/// Without zeros at the front, which some issuers write and no number needs.
fn trimmed(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    &number[zeros..]
}

/// base64url without padding.
pub(super) fn encode(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}
