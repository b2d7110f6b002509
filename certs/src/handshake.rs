//! Our path verification in the places where rustls asks for one.

use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, PeerIncompatible, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};

use crate::{
    codec::Millis,
    id::{SpiffeId, Subject},
    tls::Conversation,
    verify::{Authority, Peer, Scope, VerifyError, verify_leaf},
};

/// ECDSA P-256 with SHA-256, and nothing else.
pub(crate) const SUPPORTED: WebPkiSupportedAlgorithms = WebPkiSupportedAlgorithms {
    all: &[webpki::aws_lc_rs::ECDSA_P256_SHA256],
    mapping: &[(SignatureScheme::ECDSA_NISTP256_SHA256, &[webpki::aws_lc_rs::ECDSA_P256_SHA256])],
};

/// What one side of a conversation demands of the other.
#[derive(Debug)]
pub(crate) struct PeerVerifier {
    pub(crate) conversation: Conversation,
    pub(crate) authority: Arc<ArcSwap<Authority>>,
    pub(crate) scope: Scope,
    /// The only identity taken.
    pub(crate) expect: Option<SpiffeId>,
    /// True for a client, which in data conversations must know whom it calls.
    pub(crate) addressed: bool,
}

/// On which side of a connection a peer stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It called.
    Client,
    /// It was called.
    Server,
}

/// The verdict of a handshake on a chain, by the roots and who is known to be out: what a node adds to it are NodeGrants. Services stand
/// in data conversations, nodes in peer conversations; a server must be whom `expect` names, if it names somebody.
pub fn judge(
    chain: &[CertificateDer<'_>],
    role: Role,
    expect: Option<&SpiffeId>,
    authority: &Authority,
    now: Millis,
) -> Result<Peer, VerifyError> {
    let id = verify_leaf(chain, authority, now, Scope::Roots)?.id;
    let conversation = match id.subject {
        Subject::Service(_) => Conversation::Data,
        Subject::Node(_) => Conversation::Peer,
    };
    let verifier = PeerVerifier {
        conversation,
        authority: Arc::new(ArcSwap::from_pointee(authority.clone())),
        scope: Scope::Roots,
        expect: expect.cloned(),
        addressed: role == Role::Server && expect.is_some(),
    };
    verifier.verify(chain, now)
}

impl PeerVerifier {
    /// Path, class and identity of a peer.
    pub(crate) fn verify(&self, chain: &[CertificateDer<'_>], now: Millis) -> Result<Peer, VerifyError> {
        let peer = verify_leaf(chain, &self.authority.load(), now, self.scope)?;
        let class = match (self.conversation, &peer.id.subject) {
            (Conversation::Data, Subject::Service(_)) => !self.addressed || self.expect.is_some(),
            (Conversation::Peer | Conversation::Join | Conversation::Admin, Subject::Node(_)) => true,
            (Conversation::Data, Subject::Node(_))
            | (Conversation::Peer | Conversation::Join | Conversation::Admin, Subject::Service(_)) => false,
        };
        if !class {
            return Err(VerifyError::WrongClass(peer.id));
        }
        match &self.expect {
            Some(expected) if *expected != peer.id => {
                Err(VerifyError::WrongIdentity { expected: expected.clone(), found: peer.id })
            }
            _ => Ok(peer),
        }
    }

    fn judge(&self, leaf: &CertificateDer<'_>, rest: &[CertificateDer<'_>], now: UnixTime) -> Result<(), Error> {
        let chain: Vec<CertificateDer<'_>> = std::iter::once(leaf).chain(rest).cloned().collect();
        let verdict = self.verify(&chain, now.as_secs().saturating_mul(1000));
        verdict.map(drop).map_err(|e| CertificateError::Other(OtherError(Arc::new(e))).into())
    }
}

/// The part that all three verifiers share: who shows a chain proves its leaf's key, by the one algorithm, in TLS 1.3.
macro_rules! signature_rules {
    () => {
        fn verify_tls12_signature(
            &self,
            _message: &[u8],
            _leaf: &CertificateDer<'_>,
            _signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            // A configuration without TLS 1.2 never asks; if it did, the answer is no.
            Err(PeerIncompatible::Tls12NotOffered.into())
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            leaf: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls13_signature(message, leaf, signature, &SUPPORTED)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            SUPPORTED.supported_schemes()
        }
    };
}

impl ServerCertVerifier for PeerVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.judge(leaf, rest, now).map(|()| ServerCertVerified::assertion())
    }

    signature_rules!();
}

impl ClientCertVerifier for PeerVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.judge(leaf, rest, now).map(|()| ClientCertVerified::assertion())
    }

    signature_rules!();
}

/// Takes any chain, yet demands proof of the leaf's key. For joiners only.
#[derive(Debug)]
pub(crate) struct AnyChain;

impl ServerCertVerifier for AnyChain {
    fn verify_server_cert(
        &self,
        _leaf: &CertificateDer<'_>,
        _rest: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    signature_rules!();
}
