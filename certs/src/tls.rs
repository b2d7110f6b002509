//! rustls configurations for both sides, for QUIC and for TLS over TCP.
//!
//! TLS 1.3 only, X25519MLKEM768 first; no tickets, no resumption, no early data: each would skip the verification of a peer.

use std::{collections::HashMap, fmt, sync::Arc};

use arc_swap::ArcSwap;
use rustls::{
    ClientConfig, ServerConfig,
    pki_types::{CertificateDer, ServerName},
    sign::CertifiedKey,
};

use crate::{
    ca::Leaf,
    codec::Millis,
    id::{NodeId, SpiffeId, TrustDomain},
    verify::{Authority, Peer, VerifyError},
};

/// Label of the TLS exporter that an enrolment proof covers.
pub const EXPORTER_JOIN: &[u8] = b"EXPORTER-skein-join";

/// Label of the TLS exporter that an operator signs.
pub const EXPORTER_ADMIN: &[u8] = b"EXPORTER-skein-admin";

/// What is spoken on a connection: picks ALPN, the leaf that is shown and the class of identity demanded of the peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Conversation {
    /// `skein-data/1`: service identities both ways.
    Data,
    /// `skein-peer/1`: node identities both ways.
    Peer,
    /// `skein-join/1`: the server shows its node identity; the client has none.
    Join,
    /// `skein-admin/1`: the server shows its node identity; the client signs the exporter.
    Admin,
}

impl Conversation {
    /// The protocol name on the wire.
    pub const fn alpn(self) -> &'static [u8] {
        match self {
            Conversation::Data => b"skein-data/1",
            Conversation::Peer => b"skein-peer/1",
            Conversation::Join => b"skein-join/1",
            Conversation::Admin => b"skein-admin/1",
        }
    }

    /// The conversation of a protocol name.
    pub fn from_alpn(alpn: &[u8]) -> Option<Conversation> {
        use Conversation::{Admin, Data, Join, Peer};
        [Data, Peer, Join, Admin].into_iter().find(|conversation| conversation.alpn() == alpn)
    }
}

/// Where the time comes from; rustls gets it too.
pub trait Clock: Send + Sync + fmt::Debug {
    /// Unix time in milliseconds.
    fn now(&self) -> Millis;
}

/// The node's current leafs by identity.
#[derive(Debug, Clone, Default)]
pub struct Leafs {
    keys: HashMap<SpiffeId, Arc<CertifiedKey>>,
}

impl Leafs {
    /// Adds a leaf, or puts it in its predecessor's place.
    pub fn insert(&mut self, leaf: &Leaf) {
        self.keys.insert(leaf.id.clone(), leaf.key.clone());
    }

    /// Takes an identity's leaf away.
    pub fn remove(&mut self, id: &SpiffeId) {
        self.keys.remove(id);
    }

    /// Chain and key to show as `id`.
    pub fn get(&self, id: &SpiffeId) -> Option<Arc<CertifiedKey>> {
        self.keys.get(id).cloned()
    }
}

/// Makes configurations; cheap to clone. Authority and leafs are looked up at each handshake, so renewals need no new configuration.
#[derive(Debug, Clone)]
pub struct Tls {}

impl Tls {
    /// The node's TLS: `own_node` is the identity shown in peer, join and admin conversations.
    pub fn new(
        _authority: Arc<ArcSwap<Authority>>,
        _leafs: Arc<ArcSwap<Leafs>>,
        _own_node: SpiffeId,
        _clock: Arc<dyn Clock>,
    ) -> Tls {
        todo!()
    }

    /// A client that shows `own` (data: a service's leaf; peer: the node's; join and admin show none) and takes only `expect`;
    /// `None` is any node of the mesh. Connect with [`server_name`] of the same `expect`.
    pub fn client(
        &self,
        _conversation: Conversation,
        _own: &SpiffeId,
        _expect: Option<&SpiffeId>,
    ) -> Arc<ClientConfig> {
        todo!()
    }

    /// A server: data and peer demand a client certificate, join and admin ask for none. SNI picks the leaf of data.
    pub fn server(&self, _conversation: Conversation) -> Arc<ServerConfig> {
        todo!()
    }

    /// The verified peer of a finished handshake, its class checked against the conversation. Call it again with the kept
    /// certificates when the authority changes.
    pub fn peer(&self, _conversation: Conversation, _certificates: &[CertificateDer<'_>]) -> Result<Peer, VerifyError> {
        todo!()
    }
}

/// A join client before anything is known: it takes any chain, which the caller verifies under the RoleSet chain before it proves
/// the token.
pub fn joiner(_clock: Arc<dyn Clock>) -> Arc<ClientConfig> {
    todo!()
}

/// An operator's admin client: the server must show a node identity (this node's, if `expect` names one) under the roots.
/// NodeGrants are not consulted: the operator's machine need not know them, and its signature is bound to this connection.
pub fn operator(
    _trust_domain: &TrustDomain,
    _roots: Vec<Vec<u8>>,
    _expect: Option<&NodeId>,
    _clock: Arc<dyn Clock>,
) -> Arc<ClientConfig> {
    todo!()
}

/// The SNI that asks for `expect`: its DNS image; `any._node.TD` for whatever node answers.
pub fn server_name(_expect: Option<&SpiffeId>, _trust_domain: &TrustDomain) -> ServerName<'static> {
    todo!()
}
