//! rustls configurations for both sides, for QUIC and for TLS over TCP.
//!
//! TLS 1.3 only, X25519MLKEM768 first; no tickets, no resumption, no early data: each would skip the verification of a peer.

use std::{collections::HashMap, fmt, sync::Arc};

use arc_swap::ArcSwap;
use rustls::{
    ClientConfig, ServerConfig,
    client::{ResolvesClientCert, Resumption},
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::{ClientHello, NoServerSessionStorage, ResolvesServerCert},
    sign::CertifiedKey,
    time_provider::TimeProvider,
    version::TLS13,
};

use crate::{
    ca::Leaf,
    codec::Millis,
    handshake::{AnyChain, PeerVerifier, SUPPORTED},
    id::{NodeId, SpiffeId, Subject, TrustDomain},
    verify::{Authority, Peer, Scope, VerifyError},
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
    held: HashMap<SpiffeId, Held>,
}

#[derive(Debug, Clone)]
struct Held {
    key: Arc<CertifiedKey>,
    not_after: Millis,
    enroller: Arc<[u8]>,
}

impl Leafs {
    /// Adds a leaf, or puts it in its predecessor's place.
    pub fn insert(&mut self, leaf: &Leaf) {
        let enroller = leaf.chain.last().map(|der| der.as_ref()).unwrap_or_default().into();
        self.held.insert(leaf.id.clone(), Held { key: leaf.key.clone(), not_after: leaf.not_after, enroller });
    }

    /// Takes an identity's leaf away.
    pub fn remove(&mut self, id: &SpiffeId) {
        self.held.remove(id);
    }

    /// Chain and key to show as `id`.
    pub fn get(&self, id: &SpiffeId) -> Option<Arc<CertifiedKey>> {
        self.held.get(id).map(|held| held.key.clone())
    }
}

/// Makes configurations; cheap to clone. Authority and leafs are looked up at each handshake, so renewals need no new configuration.
#[derive(Debug, Clone)]
pub struct Tls {
    authority: Arc<ArcSwap<Authority>>,
    leafs: Arc<ArcSwap<Leafs>>,
    own_node: SpiffeId,
    clock: Arc<dyn Clock>,
    provider: Arc<CryptoProvider>,
}

impl Tls {
    /// The node's TLS: `own_node` is the identity shown in peer, join and admin conversations.
    pub fn new(
        authority: Arc<ArcSwap<Authority>>,
        leafs: Arc<ArcSwap<Leafs>>,
        own_node: SpiffeId,
        clock: Arc<dyn Clock>,
    ) -> Tls {
        Tls { authority, leafs, own_node, clock, provider: provider() }
    }

    /// A client that shows `own` (data: a service's leaf; peer: the node's; join and admin show none) and takes only `expect`.
    /// `None` takes any node of the mesh; in a data conversation, which always has an addressee, it takes nobody.
    /// Connect with [`server_name`] of the same `expect`.
    pub fn client(&self, conversation: Conversation, own: &SpiffeId, expect: Option<&SpiffeId>) -> Arc<ClientConfig> {
        let verifier = PeerVerifier {
            conversation,
            authority: self.authority.clone(),
            scope: Scope::Policy,
            expect: expect.cloned(),
            addressed: true,
        };
        let config = client_builder(&self.provider, &self.clock).with_custom_certificate_verifier(Arc::new(verifier));
        let config = match conversation {
            Conversation::Data | Conversation::Peer => {
                config.with_client_cert_resolver(Arc::new(Shown { leafs: self.leafs.clone(), id: own.clone() }))
            }
            Conversation::Join | Conversation::Admin => config.with_no_client_auth(),
        };
        finish_client(config, conversation)
    }

    /// A server: data and peer demand a client certificate, join and admin ask for none. SNI picks the leaf of data.
    pub fn server(&self, conversation: Conversation) -> Arc<ServerConfig> {
        let builder = ServerConfig::builder_with_details(self.provider.clone(), Arc::new(Time(self.clock.clone())))
            .with_protocol_versions(&[&TLS13])
            .expect("aws-lc-rs speaks TLS 1.3");
        let builder = match conversation {
            Conversation::Data | Conversation::Peer => builder.with_client_cert_verifier(Arc::new(PeerVerifier {
                conversation,
                authority: self.authority.clone(),
                scope: Scope::Policy,
                expect: None,
                addressed: false,
            })),
            Conversation::Join | Conversation::Admin => builder.with_no_client_auth(),
        };
        let (leafs, own_node) = (self.leafs.clone(), self.own_node.clone());
        let mut config = builder.with_cert_resolver(Arc::new(ByName { conversation, leafs, own_node }));
        config.alpn_protocols = vec![conversation.alpn().to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.max_early_data_size = 0;
        Arc::new(config)
    }

    /// True if this node can show `id` now.
    pub fn has_leaf(&self, id: &SpiffeId) -> bool {
        self.leafs.load().held.contains_key(id)
    }

    /// Until when the leaf counts that this node shows as `id`, and DER of the enroller CA that it rests on; none if it has none now.
    pub fn leaf_rests(&self, id: &SpiffeId) -> Option<(Millis, Arc<[u8]>)> {
        self.leafs.load().held.get(id).map(|held| (held.not_after, held.enroller.clone()))
    }

    /// The verified peer of a finished handshake, its class checked against the conversation. Call it again with the kept
    /// certificates when the authority changes.
    pub fn peer(&self, conversation: Conversation, certificates: &[CertificateDer<'_>]) -> Result<Peer, VerifyError> {
        let verifier = PeerVerifier {
            conversation,
            authority: self.authority.clone(),
            scope: Scope::Policy,
            expect: None,
            addressed: false,
        };
        verifier.verify(certificates, self.clock.now())
    }
}

/// A join client before anything is known: it takes any chain, which the caller verifies under the RoleSet chain
/// ([`crate::join::Token::verify_enroller`]) before it proves the token. The server still proves the key of the chain it shows.
pub fn joiner(clock: Arc<dyn Clock>) -> Arc<ClientConfig> {
    let builder = client_builder(&provider(), &clock).with_custom_certificate_verifier(Arc::new(AnyChain));
    finish_client(builder.with_no_client_auth(), Conversation::Join)
}

/// An operator's admin client: the server must show a node identity (this node's, if `expect` names one) under the roots of
/// `authority`, and not be known by it to be out. NodeGrants are not consulted: the operator's machine need not know them, and its signature is
/// bound to this connection.
pub fn operator(authority: Authority, expect: Option<&NodeId>, clock: Arc<dyn Clock>) -> Arc<ClientConfig> {
    let expect = expect.map(|node| SpiffeId::node(authority.trust_domain.clone(), node.clone()));
    let verifier = PeerVerifier {
        conversation: Conversation::Admin,
        authority: Arc::new(ArcSwap::from_pointee(authority)),
        scope: Scope::Roots,
        expect,
        addressed: true,
    };
    let builder = client_builder(&provider(), &clock).with_custom_certificate_verifier(Arc::new(verifier));
    finish_client(builder.with_no_client_auth(), Conversation::Admin)
}

/// The SNI that asks for `expect`: its DNS image; `any._node.TD` for whatever node answers.
pub fn server_name(expect: Option<&SpiffeId>, trust_domain: &TrustDomain) -> ServerName<'static> {
    let name = expect.map_or_else(|| any_node(trust_domain), SpiffeId::dns_name);
    name.try_into().expect("the name grammar stays within that of DNS names")
}

fn any_node(trust_domain: &TrustDomain) -> String {
    format!("any._node.{trust_domain}")
}

/// aws-lc-rs, with the one signature algorithm that the mesh's certificates use, and AES-128 first: as strong as the
/// mesh's P-256 keys, and cheaper than AES-256.
fn provider() -> Arc<CryptoProvider> {
    let mut provider = CryptoProvider { signature_verification_algorithms: SUPPORTED, ..aws_lc_rs::default_provider() };
    provider.cipher_suites.sort_by_key(|suite| suite.suite() != rustls::CipherSuite::TLS13_AES_128_GCM_SHA256);
    Arc::new(provider)
}

type ClientBuilder = rustls::client::danger::DangerousClientConfigBuilder;

fn client_builder(provider: &Arc<CryptoProvider>, clock: &Arc<dyn Clock>) -> ClientBuilder {
    ClientConfig::builder_with_details(provider.clone(), Arc::new(Time(clock.clone())))
        .with_protocol_versions(&[&TLS13])
        .expect("aws-lc-rs speaks TLS 1.3")
        .dangerous()
}

fn finish_client(mut config: ClientConfig, conversation: Conversation) -> Arc<ClientConfig> {
    config.alpn_protocols = vec![conversation.alpn().to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    Arc::new(config)
}

/// Our clock as rustls wants it.
#[derive(Debug)]
struct Time(Arc<dyn Clock>);

impl TimeProvider for Time {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(std::time::Duration::from_millis(self.0.now())))
    }
}

/// A client's leaf, as it is at the handshake.
#[derive(Debug)]
struct Shown {
    leafs: Arc<ArcSwap<Leafs>>,
    id: SpiffeId,
}

impl ResolvesClientCert for Shown {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[rustls::SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.leafs.load().get(&self.id)
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// A server's leaf: by SNI in data conversations, else the node's own. Who asks for a name that is not here gets no handshake.
#[derive(Debug)]
struct ByName {
    conversation: Conversation,
    leafs: Arc<ArcSwap<Leafs>>,
    own_node: SpiffeId,
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name()?;
        let id = match self.conversation {
            Conversation::Data => SpiffeId::from_dns_name(&self.own_node.trust_domain, name)
                .filter(|id| matches!(id.subject, Subject::Service(_)))?,
            Conversation::Peer | Conversation::Join | Conversation::Admin => {
                let own = name == self.own_node.dns_name() || name == any_node(&self.own_node.trust_domain);
                own.then(|| self.own_node.clone())?
            }
        };
        self.leafs.load().get(&id)
    }
}
