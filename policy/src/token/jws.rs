//! A signed token in its compact form (RFC 7515, 3.1), read but not verified.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Map, Value};

use super::Refusal;

/// How a token is signed (RFC 7518, 3.1; RFC 8037). `none` is not among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Algorithm {
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Es256,
    Es384,
    Es512,
    EdDsa,
    Hs256,
    Hs384,
    Hs512,
}

/// Names of the algorithms.
const NAMES: [(&str, Algorithm); 13] = [
    ("RS256", Algorithm::Rs256),
    ("RS384", Algorithm::Rs384),
    ("RS512", Algorithm::Rs512),
    ("PS256", Algorithm::Ps256),
    ("PS384", Algorithm::Ps384),
    ("PS512", Algorithm::Ps512),
    ("ES256", Algorithm::Es256),
    ("ES384", Algorithm::Es384),
    ("ES512", Algorithm::Es512),
    ("EdDSA", Algorithm::EdDsa),
    ("HS256", Algorithm::Hs256),
    ("HS384", Algorithm::Hs384),
    ("HS512", Algorithm::Hs512),
];

impl Algorithm {
    pub(super) fn by_name(name: &str) -> Option<Self> {
        NAMES.iter().find(|(known, _)| *known == name).map(|(_, algorithm)| *algorithm)
    }
}

/// A token's parts.
#[derive(Debug)]
pub(super) struct Jws<'t> {
    pub(super) algorithm: Algorithm,
    /// The key's name; empty if it has none.
    pub(super) key: String,
    pub(super) claims: Map<String, Value>,
    /// What is signed.
    pub(super) signed: &'t str,
    pub(super) signature: Vec<u8>,
}

impl<'t> Jws<'t> {
    pub(super) fn read(token: &'t str) -> Result<Self, Refusal> {
        let mut sections = token.split('.');
        let (Some(header), Some(payload), Some(signature), None) =
            (sections.next(), sections.next(), sections.next(), sections.next())
        else {
            return Err(Refusal::Form);
        };
        let header = object(header, Refusal::HeaderBase64, Refusal::HeaderJson)?;
        let name = header.get("alg").and_then(Value::as_str).ok_or(Refusal::HeaderAlg)?;
        let algorithm = Algorithm::by_name(name).ok_or(Refusal::UnknownAlg)?;
        if header.contains_key("crit") {
            return Err(Refusal::Critical);
        }
        let key = match header.get("kid") {
            None => String::new(),
            Some(kid) => kid.as_str().ok_or(Refusal::HeaderKid)?.to_owned(),
        };
        let claims = object(payload, Refusal::PayloadBase64, Refusal::PayloadJson)?;
        let signed = &token[..token.len() - signature.len() - 1];
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| Refusal::SignatureBase64)?;
        Ok(Self { algorithm, key, claims, signed, signature })
    }
}

fn object(section: &str, base64: Refusal, json: Refusal) -> Result<Map<String, Value>, Refusal> {
    let bytes = URL_SAFE_NO_PAD.decode(section).map_err(|_| base64)?;
    serde_json::from_slice(&bytes).map_err(|_| json)
}
