//! Join tokens and the enrolment exchange: pure, bytes in and out.
//!
//! `Hello -> Chain -> Prove -> Reply | Refusal`. The joiner believes the RoleSet chain only if it starts at the token's genesis and
//! reaches the token's number; under it the TLS peer must be the token's enroller; only then it sends `Prove`. That message reveals
//! the secret, so that the enroller needs only the hash of the NodeGrant, and binds it by HMAC to this TLS session and to the keys.
//!
//! Envelope and refusal are the same in every version of the exchange: whoever speaks another one is told so.

use std::{fmt, str::FromStr, sync::Arc};

use aws_lc_rs::{
    constant_time::verify_slices_are_equal,
    hmac::{self, HMAC_SHA256},
    rand::{SecureRandom, SystemRandom},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use rcgen::SigningKey as _;
use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use zeroize::{Zeroize, Zeroizing};

use crate::{
    ca::{CaKey, requested_key},
    certificate::{Certificate, signature_holds},
    codec::{self, CodecError, Envelope, Millis, length_prefixed},
    grant::NodeGrant,
    id::{NodeId, SpiffeId, TrustDomain},
    sign::{Digest, PublicKey, Signature, SigningKey},
    verify::{Authority, Link, Peer, VerifyError, verify, verify_lapsed_ca},
};

/// Version of the exchange that this build speaks.
pub const VERSION: u8 = 1;

/// Kind of [`Message::Refusal`].
const REFUSAL: u16 = 6;

/// Most bytes of a message that carries policy: a chain or a reply.
pub const MAX_MESSAGE: usize = 8 << 20;

/// Most bytes of the joiner's messages.
pub const MAX_REQUEST_MESSAGE: usize = 64 << 10;

/// Most bytes of a token, decoded.
const MAX_TOKEN: usize = 4096;

/// What a token begins with.
const PREFIX: &str = "skein1.";

/// What a renewing node signs.
const RENEWAL: &str = "skein.renew/1";

/// The secret of a token; zeroized on drop, hidden from `Debug`.
#[derive(Clone, Serialize, Deserialize)]
pub struct Secret([u8; 32]);

impl Secret {
    /// A fresh secret.
    pub fn generate() -> Secret {
        let mut bytes = [0; 32];
        SystemRandom::new().fill(&mut bytes).expect("the system's random source works");
        Secret(bytes)
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
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = codec::encode_secret(self);
        let text = Zeroizing::new(URL_SAFE_NO_PAD.encode(&*bytes));
        write!(f, "{PREFIX}{}", *text)
    }
}

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Token, TokenError> {
        let text = text.trim();
        if text.strip_prefix("skein").is_some_and(|rest| rest.starts_with(|first| matches!(first, '2'..='9'))) {
            return Err(TokenError("a newer skein made it; join with that version"));
        }
        let encoded = text.strip_prefix(PREFIX).ok_or(TokenError("it does not begin with `skein1.`"))?;
        if encoded.len() > MAX_TOKEN * 4 / 3 {
            return Err(TokenError("too long"));
        }
        let bytes = URL_SAFE_NO_PAD.decode(encoded).map(Zeroizing::new);
        let bytes = bytes.map_err(|_| TokenError("not base64; was it copied whole?"))?;
        codec::decode::<Token, MAX_TOKEN>(&bytes).map_err(|_| TokenError("damaged; was it copied whole?"))
    }
}

impl Token {
    /// The joiner's check of its TLS peer, under the authority that the RoleSet chain gave: only the token's enroller will do.
    ///
    /// # Errors
    /// As [`verify`]; [`VerifyError::WrongIdentity`]: it is somebody else.
    pub fn verify_enroller(
        &self,
        certificates: &[CertificateDer<'_>],
        authority: &Authority,
        now: Millis,
    ) -> Result<Peer, VerifyError> {
        let peer = verify(certificates, authority, now)?;
        let expected = SpiffeId::node(self.trust_domain.clone(), self.enroller.clone());
        if peer.id == expected { Ok(peer) } else { Err(VerifyError::WrongIdentity { expected, found: peer.id }) }
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

/// Why bytes are no message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unread {
    /// Damaged or too long.
    #[error("what is no message of an enrolment: {0}")]
    Damaged(#[from] CodecError),
    /// Of this version of the exchange, which is not [`VERSION`].
    #[error("version {0} of the enrolment instead of {own}", own = VERSION)]
    Version(u8),
    /// Of a kind that this build does not know.
    #[error("an unknown message of an enrolment, of kind {0}")]
    Kind(u16),
}

/// Opens the exchange.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Version of the exchange that the joiner speaks.
    pub version: u8,
}

/// The policy that makes the enroller believable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chain {
    /// Changesets with the RoleSets from the genesis on, as they came.
    pub role_sets: Vec<Vec<u8>>,
    /// Changesets with revocations and with the NodeGrants of this enroller and of the one that certified it
    /// ([`crate::ca::NodeCa::enroller`]): without both its identity does not hold.
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
    /// By the record key of the old certificate, over exporter, request and that key.
    pub signature: Signature,
    /// By the CA key, over the same: ECDSA P-256 with SHA-256, DER. The request alone is public and shows nothing of who sends it.
    pub ca_signature: Vec<u8>,
}

/// What a renewal certifies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renewal {
    /// The CA key's SubjectPublicKeyInfo.
    pub spki: Vec<u8>,
    /// The key of the node's records.
    pub record_key: PublicKey,
    /// What operators let it be now.
    pub signed: Arc<NodeGrant>,
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
    /// The message as an envelope's bytes, wiped on drop: a proof holds the token's secret.
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        let (kind, mut body) = match self {
            Message::Hello(body) => (1, codec::encode_secret(body)),
            Message::Chain(body) => (2, codec::encode_secret(body)),
            Message::Prove(body) => (3, codec::encode_secret(body)),
            Message::Renew(body) => (4, codec::encode_secret(body)),
            Message::Reply(body) => (5, codec::encode_secret(body)),
            Message::Refusal(body) => (REFUSAL, codec::encode_secret(body)),
        };
        let mut envelope = Envelope { version: VERSION, kind, body: std::mem::take(&mut *body) };
        let bytes = codec::encode_secret(&envelope);
        envelope.body.zeroize();
        bytes
    }

    /// Reads a message of at most [`MAX_MESSAGE`] bytes; those of the joiner have at most [`MAX_REQUEST_MESSAGE`].
    ///
    /// # Errors
    /// Too long, damaged, or of a version or kind that this build does not know.
    pub fn decode(bytes: &[u8]) -> Result<Message, Unread> {
        fn small<T: DeserializeOwned>(body: &[u8]) -> Result<T, CodecError> {
            codec::decode::<T, MAX_REQUEST_MESSAGE>(body)
        }
        let Envelope { version, kind, body } = codec::decode::<Envelope, MAX_MESSAGE>(bytes)?;
        let body = Zeroizing::new(body);
        if version != VERSION && kind != REFUSAL {
            return Err(Unread::Version(version));
        }
        let message = match kind {
            1 => small(&body).map(Message::Hello),
            2 => codec::decode::<Chain, MAX_MESSAGE>(&body).map(Message::Chain),
            3 => small(&body).map(Message::Prove),
            4 => small(&body).map(Message::Renew),
            5 => codec::decode::<JoinReply, MAX_MESSAGE>(&body).map(Message::Reply),
            REFUSAL => small(&body).map(Message::Refusal),
            _ => return Err(Unread::Kind(kind)),
        };
        Ok(message?)
    }
}

/// HMAC-SHA256 by the secret over the length-prefixed parts.
pub fn proof(secret: &Secret, exporter: &[u8], request: &[u8], record_key: &PublicKey) -> [u8; 32] {
    let tag = hmac::sign(&proof_key(secret), &length_prefixed(&[b"skein-join/1", exporter, request, &record_key.0]));
    tag.as_ref().try_into().expect("HMAC-SHA256 has 32 bytes")
}

/// What both keys of a renewing node sign; no certificate and no request begins so.
fn renewal(exporter: &[u8], request: &[u8], record_key: &PublicKey) -> Vec<u8> {
    length_prefixed(&[RENEWAL.as_bytes(), exporter, request, &record_key.0])
}

fn proof_key(secret: &Secret) -> hmac::Key {
    hmac::Key::new(HMAC_SHA256, &secret.0)
}

impl JoinRefusal {
    /// A refusal by its stable code.
    pub fn new(code: &str, message: impl Into<String>) -> JoinRefusal {
        JoinRefusal { code: code.into(), message: message.into() }
    }
}

impl JoinRequest {
    /// The request of a joiner that has verified its enroller. `exporter` is [`crate::tls::EXPORTER_JOIN`]'s of this session,
    /// `request` from [`crate::ca::CaKey::request`].
    pub fn new(token: &Token, exporter: &[u8], request: Vec<u8>, record_key: PublicKey) -> JoinRequest {
        let proof = proof(&token.secret, exporter, &request, &record_key);
        JoinRequest { node: token.node.clone(), request, record_key, secret: token.secret.clone(), proof }
    }

    /// Whether the secret is that of the invite with this `token_hash`, in time that tells nothing of either.
    pub fn holds(&self, token_hash: &Digest) -> bool {
        verify_slices_are_equal(&self.secret.hash().0, &token_hash.0).is_ok()
    }

    /// The enroller's check, all but whether the token is spent, which its store knows, or too old ([`Self::is_in_time`]): what was
    /// redeemed in time may be asked for again later. Returns the CA key's SubjectPublicKeyInfo to certify, by
    /// [`NodeGrant::certified`] of the request's record key.
    ///
    /// Codes: `bad_request`, `not_granted`, `wrong_enroller`, `token_invalid`, `bad_proof`.
    pub fn check(&self, grant: &NodeGrant, enroller: &NodeId, exporter: &[u8]) -> Result<Vec<u8>, JoinRefusal> {
        let refuse = |code, message: String| Err(JoinRefusal::new(code, message));
        if self.node != grant.node {
            return refuse("bad_request", format!("the grant is of {}, not of {}", grant.node, self.node));
        }
        if grant.retired {
            return refuse("not_granted", format!("{} is retired", self.node));
        }
        let (Some(token_hash), Some(redeemer)) = (&grant.token_hash, &grant.redeemer) else {
            return refuse("not_granted", format!("{} has no open invite", self.node));
        };
        if redeemer != enroller {
            return refuse("wrong_enroller", format!("this invite is redeemed by {redeemer}"));
        }
        if !self.holds(token_hash) {
            return refuse("token_invalid", format!("not the latest token of {}", self.node));
        }
        let proven = length_prefixed(&[b"skein-join/1", exporter, &self.request, &self.record_key.0]);
        if hmac::verify(&proof_key(&self.secret), &proven, &self.proof).is_err() {
            return refuse("bad_proof", "the proof belongs to another connection or another key".into());
        }
        requested_key(&self.request, &self.node).map_err(|e| JoinRefusal::new("bad_request", e.to_string()))
    }

    /// Whether the invite may be redeemed at `now` still. Code: `token_expired`.
    pub fn is_in_time(&self, grant: &NodeGrant, now: Millis) -> Result<(), JoinRefusal> {
        let is_open = grant.token_expires.is_some_and(|end| now < end);
        let expired = || JoinRefusal::new("token_expired", format!("the token of {} has expired", self.node));
        is_open.then_some(()).ok_or_else(expired)
    }
}

impl RenewRequest {
    /// The request of a node whose CA has ended, by the keys that the old chain certifies.
    pub fn new(
        node: &NodeId,
        chain: Vec<Vec<u8>>,
        (ca_key, record_key): (&CaKey, &SigningKey),
        exporter: &[u8],
    ) -> RenewRequest {
        let request = ca_key.request(node);
        let proven = renewal(exporter, &request, &record_key.public());
        let ca_signature = ca_key.sign(&proven).expect("a key that exists signs");
        RenewRequest { chain, request, signature: record_key.sign(RENEWAL, &proven), ca_signature }
    }

    /// The node that the chain names, whether it holds or not.
    pub fn claims(&self) -> Option<NodeId> {
        let node = Certificate::parse(self.chain.first()?, Link::NodeCa).ok()?;
        Some(node.grant().node.clone())
    }

    /// The enroller's check under its authority. Returns what to certify.
    ///
    /// Codes: `not_granted` (the old path does not hold), `bad_proof`, `bad_request`.
    pub fn check(&self, authority: &Authority, exporter: &[u8], now: Millis) -> Result<Renewal, JoinRefusal> {
        let chain: Vec<CertificateDer<'_>> = self.chain.iter().map(|der| der.as_slice().into()).collect();
        let facts =
            verify_lapsed_ca(&chain, authority, now).map_err(|e| JoinRefusal::new("not_granted", e.to_string()))?;
        let proven = renewal(exporter, &self.request, &facts.record_key);
        let unproven =
            |key| JoinRefusal::new("bad_proof", format!("not signed by the node's {key} key on this connection"));
        if !facts.record_key.verify(RENEWAL, &proven, &self.signature) {
            return Err(unproven("record"));
        }
        let bad = |message: String| JoinRefusal::new("bad_request", message);
        let spki = requested_key(&self.request, &facts.node).map_err(|e| bad(e.to_string()))?;
        if Digest::of(&spki) != facts.ca_key {
            return Err(bad(format!("{} is known with another CA key", facts.node)));
        }
        if !signature_holds(&spki, &proven, &self.ca_signature) {
            return Err(unproven("CA"));
        }
        let no_grant = || JoinRefusal::new("not_granted", format!("no NodeGrant for {}", facts.node));
        let signed = authority.grants.get(&facts.node).cloned().ok_or_else(no_grant)?;
        Ok(Renewal { spki, record_key: facts.record_key, signed })
    }
}
