//! Join tokens and the enrolment exchange: pure, bytes in and out.
//!
//! `Hello -> Chain -> Prove -> Reply | Refusal`. The joiner believes the RoleSet chain only if it starts at the token's genesis and
//! reaches the token's number; under it the TLS peer must be the token's enroller; only then it sends `Prove`. That message reveals
//! the secret, so that the enroller needs only the hash of the NodeGrant, and binds it by HMAC to this TLS session and to the keys.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

use crate::{
    codec::{CodecError, Millis},
    grant::NodeGrant,
    id::{NodeId, TrustDomain},
    sign::{Digest, PublicKey},
};

/// The secret of a token; zeroized on drop, hidden from `Debug`.
#[derive(Clone, Serialize, Deserialize)]
pub struct Secret([u8; 32]);

impl Secret {
    /// A fresh secret.
    pub fn generate() -> Secret {
        todo!()
    }
    /// Its SHA-256: the NodeGrant's `token_hash`.
    pub fn hash(&self) -> Digest {
        Digest::of(&self.0)
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// What `skein invite` prints: `skein1.` and URL-safe base64.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Token {
    /// The mesh.
    pub trust_domain: TrustDomain,
    /// The genesis RoleSet's changeset.
    pub genesis: Digest,
    /// The RoleSet number at the time of the invite; the chain shown must reach it.
    pub role_set: u64,
    /// The node invited.
    pub node: NodeId,
    /// What proves the invite.
    pub secret: Secret,
    /// The one enroller that redeems it.
    pub enroller: NodeId,
    /// Where that enroller listens, `HOST:PORT`.
    pub addresses: Vec<String>,
    /// When it ends.
    pub expires: Millis,
}

/// A text that is no token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a join token: {0}")]
pub struct TokenError(&'static str);

impl fmt::Display for Token {
    fn fmt(&self, _f: &mut fmt::Formatter<'_>) -> fmt::Result {
        todo!()
    }
}

impl FromStr for Token {
    type Err = TokenError;
    fn from_str(_text: &str) -> Result<Token, TokenError> {
        todo!()
    }
}

/// The steps of the exchange; each travels as one length-framed [`crate::codec::Envelope`].
#[derive(Debug, Clone)]
pub enum Message {
    /// Joiner: let us begin.
    Hello(Hello),
    /// Enroller: what it is trusted by.
    Chain(Chain),
    /// Joiner: the proof.
    Prove(JoinRequest),
    /// Joiner whose node CA ended: renew it.
    Renew(RenewRequest),
    /// Enroller: the certificate.
    Reply(JoinReply),
    /// Enroller: no.
    Refusal(JoinRefusal),
}

/// Opens the exchange.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Version of the exchange.
    pub version: u8,
}

/// The policy that makes the enroller believable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chain {
    /// Changesets with the RoleSets from the genesis on, as they came.
    pub role_sets: Vec<Vec<u8>>,
    /// Changesets with the NodeGrants (and revocations) that concern enroller and joiner.
    pub grants: Vec<Vec<u8>>,
}

/// Proves the token and asks for a node CA.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct JoinRequest {
    /// The name invited.
    pub node: NodeId,
    /// PKCS#10 request of the CA key.
    pub request: Vec<u8>,
    /// The key that will sign the node's records.
    pub record_key: PublicKey,
    /// The token's secret, shown to the verified enroller only.
    pub secret: Secret,
    /// HMAC over TLS exporter, request and record key.
    pub proof: [u8; 32],
}

/// Asks for a new node CA in the place of one that has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenewRequest {
    /// Node CA, enroller CA, as they were.
    pub chain: Vec<Vec<u8>>,
    /// PKCS#10 request of the same CA key.
    pub request: Vec<u8>,
    /// By the record key of the old certificate, over exporter and request.
    pub signature: crate::sign::Signature,
}

/// The node's certificate, and what it needs to start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinReply {
    /// Node CA, enroller CA.
    pub chain: Vec<Vec<u8>>,
    /// Changesets; more come over peer links.
    pub changesets: Vec<Vec<u8>>,
}

/// A refusal with its stable code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message} ({code})")]
pub struct JoinRefusal {
    /// `token_spent`, `token_expired`, `token_invalid`, `wrong_enroller`, `not_granted`, `bad_request`...
    pub code: String,
    /// For people.
    pub message: String,
}

impl Message {
    /// The message as an envelope's bytes.
    pub fn encode(&self) -> Vec<u8> {
        todo!()
    }
    /// Reads a message.
    pub fn decode(_bytes: &[u8]) -> Result<Message, CodecError> {
        todo!()
    }
}

/// HMAC-SHA256 by the secret over the length-prefixed parts.
pub fn proof(_secret: &Secret, _exporter: &[u8], _request: &[u8], _record_key: &PublicKey) -> [u8; 32] {
    todo!()
}

impl JoinRequest {
    /// The request of a joiner that has verified its enroller. `exporter` is [`crate::tls::EXPORTER_JOIN`]'s of this session.
    pub fn new(_token: &Token, _exporter: &[u8], _request: Vec<u8>, _record_key: PublicKey) -> JoinRequest {
        todo!()
    }

    /// The enroller's check, all but "spent", which its store knows. Returns the CA key's SubjectPublicKeyInfo to certify.
    pub fn check(
        &self,
        _grant: &NodeGrant,
        _enroller: &NodeId,
        _exporter: &[u8],
        _now: Millis,
    ) -> Result<Vec<u8>, JoinRefusal> {
        todo!()
    }
}

impl RenewRequest {
    /// The request of a node whose CA has ended.
    pub fn new(
        _chain: Vec<Vec<u8>>,
        _request: Vec<u8>,
        _record_key: &crate::sign::SigningKey,
        _exporter: &[u8],
    ) -> RenewRequest {
        todo!()
    }

    /// The enroller's check under its authority. Returns what to certify: the CA key and the grant, as policy has it now.
    pub fn check(
        &self,
        _authority: &crate::verify::Authority,
        _exporter: &[u8],
        _now: Millis,
    ) -> Result<(Vec<u8>, crate::grant::Grant), JoinRefusal> {
        todo!()
    }
}
