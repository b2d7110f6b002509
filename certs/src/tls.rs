//! rustls configurations for both sides, for QUIC and for TLS over TCP.

use std::sync::Arc;

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

// API (rustls 0.23, aws-lc-rs provider with X25519MLKEM768 first; TLS 1.3 only; no tickets, no resumption, no 0-RTT):
// Conversation::alpn() -> &'static [u8], from_alpn(&[u8]) -> Option<Self>
// trait Clock: Send + Sync + Debug { fn now(&self) -> Millis }    (node::clock implements it)
// Leafs: the node's current leafs. Leafs::get(&SpiffeId) -> Option<Arc<rustls::sign::CertifiedKey>>; held in an ArcSwap so renewals swap without dropping connections
// Tls::new(authority: Arc<ArcSwap<Authority>>, leafs: Arc<ArcSwap<Leafs>>, own_node: SpiffeId, clock: Arc<dyn Clock>) -> Tls  (cheap to clone)
// Tls::client(&self, Conversation, own: &SpiffeId /*leaf shown*/, expect: Option<&SpiffeId>) -> Arc<rustls::ClientConfig>
//    expect None = any node identity of the mesh. Server name to use = tls::server_name(expect, td) (DNS image; for None `any._node.TD`).
// Tls::server(&self, Conversation) -> Arc<rustls::ServerConfig>  Data/Peer demand a client certificate; Join/Admin none. SNI picks the leaf for Data.
// Tls::joiner(&self-less) -> Arc<ClientConfig>: client for Join before anything is known: accepts any chain, which the caller verifies after the RoleSet chain.
// Tls::peer(&self, Conversation, certificates: &[CertificateDer]) -> Result<Peer, VerifyError>: the verified peer of a finished handshake, class checked against the ALPN.
/// Placeholder so the module compiles until its owner fills it.
pub type Shared<T> = Arc<T>;
