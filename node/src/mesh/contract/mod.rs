//! What both carriers promise: one suite, run over QUIC and over TLS/TCP, between real nodes on loopback.

mod data;
mod leftovers;
mod links;
mod paths;
mod reauthentication;
mod relay;
mod silence;

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use certs::{
    ca::{CaKey, Enroller, NodeCa},
    codec::Millis,
    grant::{GrantedService, NodeGrant},
    id::{NodeId, ServiceAccount, ServiceName, SpiffeId, TrustDomain},
    root::Root,
    sign::SigningKey,
    tls::{Leafs, Tls},
    verify::Authority,
};
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming as IncomingBody, service::service_fn};
use hyper_util::rt::TokioIo;

use super::{
    Config, Mesh, Preface, Protocol, Transport,
    data::{Call, Incoming, Worker},
    lease::{Body, LeasedBody, SendError},
    peer::PeerNetwork,
    steer,
};
use crate::{
    clock::{Clock, wall},
    tasks::Tasks,
};

/// Longest time for anything in these tests.
const PATIENCE: Duration = Duration::from_secs(30);

/// Milliseconds.
const HOUR: Millis = 3_600_000;

/// A root with one enroller, and what all nodes under it believe.
struct Trust {
    trust_domain: TrustDomain,
    enroller: Enroller,
    authority: Arc<ArcSwap<Authority>>,
}

impl Trust {
    fn new() -> Trust {
        let trust_domain = TrustDomain::new("test.example").unwrap();
        let (root, key) = (Root::generate(&trust_domain, wall()), CaKey::generate());
        let node = node_id("enroller");
        let certificate = root.issue_enroller(&node, 1, &key.spki(), wall()).unwrap();
        let mut authority = Authority::new(trust_domain.clone(), vec![root.certificate()]);
        authority.grants.insert(node.clone(), Arc::new(grant(&node, &[], true)));
        Trust {
            enroller: Enroller::new(&trust_domain, vec![certificate], key).unwrap(),
            authority: Arc::new(ArcSwap::from_pointee(authority)),
            trust_domain,
        }
    }

    /// The TLS of a node that may be these accounts of namespace `default`.
    fn tls(&self, name: &str, accounts: &[&str]) -> Tls {
        self.tls_under(name, accounts, &self.authority)
    }

    /// The same, of a node that believes another authority.
    fn tls_under(&self, name: &str, accounts: &[&str], believed: &Arc<ArcSwap<Authority>>) -> Tls {
        let leafs = Arc::<ArcSwap<Leafs>>::default();
        self.ca(name, accounts).renew(&leafs, HOUR);
        Tls::new(believed.clone(), leafs, self.node(name), Arc::new(Clock))
    }

    /// A node that these operators granted these accounts.
    fn ca(&self, name: &str, accounts: &[&str]) -> Certified {
        let (node, key) = (node_id(name), CaKey::generate());
        let grant = grant(&node, accounts, false);
        let certified = grant.certified(SigningKey::generate().public());
        let chain = self.enroller.issue_node_unchecked(&key.spki(), &certified, wall()).unwrap();
        let ca = NodeCa::new(&self.trust_domain, chain, key).unwrap();
        self.authority.rcu(|authority| {
            let mut authority = Authority::clone(authority);
            authority.grants.insert(node.clone(), Arc::new(grant.clone()));
            authority
        });
        let ids = accounts.iter().map(|account| self.service(account)).chain([self.node(name)]).collect();
        Certified { ca, ids }
    }

    fn service(&self, account: &str) -> SpiffeId {
        SpiffeId::service(self.trust_domain.clone(), ServiceAccount::new("default", account).unwrap())
    }

    fn node(&self, name: &str) -> SpiffeId {
        SpiffeId::node(self.trust_domain.clone(), node_id(name))
    }
}

/// A node's CA, and whose leafs it issues.
struct Certified {
    ca: NodeCa,
    ids: Vec<SpiffeId>,
}

impl Certified {
    /// New leafs in the place of what there is.
    fn renew(&self, leafs: &ArcSwap<Leafs>, life: Millis) {
        let mut new = Leafs::default();
        for id in &self.ids {
            new.insert(&self.ca.leaf_for(id, life, wall()).unwrap());
        }
        leafs.store(Arc::new(new));
    }
}

fn node_id(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

fn grant(node: &NodeId, accounts: &[&str], enroller: bool) -> NodeGrant {
    let granted = |account: &&str| GrantedService {
        service: ServiceName::new("default", account).unwrap(),
        account: ServiceAccount::new("default", account).unwrap(),
    };
    NodeGrant {
        node: node.clone(),
        epoch: 1,
        services: accounts.iter().map(granted).collect(),
        token_hash: None,
        redeemer: Some(node_id("enroller")),
        token_expires: None,
        enroller,
        retired: false,
    }
}

/// A node with all its workers on the test's runtime.
struct Node {
    id: NodeId,
    mesh: Mesh,
    workers: Vec<Worker>,
    peers: PeerNetwork,
    tasks: Tasks,
    /// Streams accepted by its echo.
    accepted: Arc<AtomicUsize>,
}

impl Node {
    fn start(trust: &Trust, name: &str, accounts: &[&str], transport: Transport) -> Node {
        Node::with(trust, trust.tls(name, accounts), name, transport, 1, steer::attach)
    }

    fn with(trust: &Trust, tls: Tls, name: &str, transport: Transport, workers: usize, attach: steer::Attach) -> Node {
        let listen = "127.0.0.1:0".parse().unwrap();
        let config = Config { listen, workers, transport, reset_secret: rand::random() };
        Node::configured(trust, tls, name, &config, attach)
    }

    fn configured(trust: &Trust, tls: Tls, name: &str, config: &Config, attach: steer::Attach) -> Node {
        let tasks = Tasks::new();
        let (mesh, sockets, control) =
            Mesh::bind_steered(config, trust.node(name), tls, tasks.clone(), attach).unwrap();
        let workers = sockets.into_iter().map(|sockets| Worker::start(&mesh, sockets).unwrap()).collect();
        let peers = PeerNetwork::start(&mesh, control).unwrap();
        Node { id: node_id(name), mesh, workers, peers, tasks, accepted: Arc::default() }
    }

    fn worker(&self) -> &Worker {
        &self.workers[0]
    }

    /// Answers every stream on every worker: tunnels by an echo, HTTP by [`respond`].
    fn echo(&self) {
        for worker in &self.workers {
            let (worker, tasks, accepted) = (worker.clone(), self.tasks.clone(), self.accepted.clone());
            self.tasks.detach("echo", async move {
                while let Some(incoming) = worker.accept().await {
                    accepted.fetch_add(1, Relaxed);
                    tasks.detach("echo stream", serve(incoming));
                }
            });
        }
    }

    fn address(&self) -> SocketAddr {
        self.mesh.local_addr()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.tasks.stop();
    }
}

async fn serve(incoming: Incoming) {
    let mut stream = incoming.stream;
    if incoming.preface.protocol == Protocol::Tcp {
        let (mut reader, mut writer) = tokio::io::split(&mut stream);
        if tokio::io::copy(&mut reader, &mut writer).await.is_ok() {
            let _ = tokio::io::AsyncWriteExt::shutdown(&mut writer).await;
        }
        return;
    }
    let http = hyper::server::conn::http1::Builder::new();
    let _ = http.serve_connection(TokioIo::new(stream), service_fn(respond)).await;
}

/// `/echo` gives the body back, `/never` no response, `/early` a response before it has read the body.
async fn respond(
    request: Request<IncomingBody>,
) -> Result<Response<http_body_util::Either<IncomingBody, Full<Bytes>>>, Infallible> {
    use http_body_util::Either::{Left, Right};
    Ok(match request.uri().path() {
        "/echo" => Response::new(Left(request.into_body())),
        "/never" => std::future::pending().await,
        "/early" => Response::builder().status(413).body(Right(Full::default())).unwrap(),
        _ => Response::new(Right(Full::from("hello"))),
    })
}

/// What a client of account `web` says to account `api` of another node.
struct Caller {
    source: SpiffeId,
    identity: SpiffeId,
    node: NodeId,
    address: SocketAddr,
    preface: Preface,
}

impl Caller {
    fn new(trust: &Trust, to: &Node, protocol: Protocol) -> Caller {
        Caller {
            source: trust.service("web"),
            identity: trust.service("api"),
            node: to.id.clone(),
            address: to.address(),
            preface: Preface {
                service: ServiceName::new("default", "api").unwrap(),
                instance: None,
                port: 80,
                source: None,
                protocol,
                extensions: Vec::new(),
            },
        }
    }

    fn call(&self) -> Call<'_> {
        Call {
            source: &self.source,
            node: &self.node,
            address: self.address,
            identity: &self.identity,
            preface: &self.preface,
            patience: PATIENCE,
            pings: None,
        }
    }

    async fn request(&self, worker: &Worker, path: &str, body: Body) -> Result<Response<LeasedBody>, SendError> {
        let lease = worker.open(&self.call()).await.map_err(|error| SendError { error, body: None })?;
        let request = Request::post(path).header("host", "api").body(body).unwrap();
        let (head, body) = request.into_parts();
        lease.send(&head, body).await
    }

    async fn text(&self, worker: &Worker, path: &str, text: &str) -> String {
        let response = self.request(worker, path, full(text)).await.unwrap();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        String::from_utf8(bytes.to_vec()).unwrap()
    }
}

fn full(text: &str) -> Body {
    Body::new(Full::new(Bytes::from(text.to_owned())).map_err(Into::into))
}

/// Waits until something holds.
async fn until(what: &str, holds: impl Fn() -> bool) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    assert!(waited.await.is_ok(), "never: {what}");
}

/// Runs a case of the suite over both carriers.
macro_rules! over_both {
    ($($name:ident)*) => {
        mod quic {
            $(#[tokio::test]
            async fn $name() {
                super::$name(crate::mesh::Transport::Quic).await;
            })*
        }
        mod tcp {
            $(#[tokio::test]
            async fn $name() {
                super::$name(crate::mesh::Transport::Tcp).await;
            })*
        }
    };
}
use over_both;
