//! Who calls which service here, and what that means for every request: looked up once per stream, and again when it changes
//! ([`super::recognized`]), instead of once per request.

use super::{
    super::{
        context::{Basis, Context},
        http::Bounds,
        local::Local,
        outbound::Speaker,
    },
    limits,
    pool::Pool,
    told::IsGateway,
};
use crate::lock::lock;
use crate::{
    config::Service,
    mesh::{self, Preface},
    proxy::failure::Cause,
    snapshot::{Endpoint, Snapshot},
    telemetry::{Pair, Recorder, Reporter, Security, Workload},
};
use certs::{
    id::{NodeId, ServiceAccount, ServiceName, SpiffeId},
    sign::Digest,
};
use http::HeaderValue;
use policy::{authorize, compile, kinds::MutualTls, route};
use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, Mutex},
};

/// Who calls, as far as it is proven.
pub(in crate::proxy) struct Peer<'a> {
    pub(in crate::proxy) identity: &'a SpiffeId,
    pub(in crate::proxy) node: &'a NodeId,
    pub(in crate::proxy) address: IpAddr,
    /// SHA-256 of the certificate that it showed; within a node none is shown.
    pub(in crate::proxy) certificate: Option<Digest>,
}

/// See the module.
#[derive(Debug)]
pub(in crate::proxy) struct Caller {
    pub(super) who: Arc<Who>,
    /// `None` if the caller presented no certificate.
    pub(super) client_cert: Option<HeaderValue>,
    pub(super) address: HeaderValue,
    pub(super) recorder: Arc<Recorder>,
    /// Only its worker's requests take the locks, so they are always free.
    seen: Mutex<Option<Seen>>,
    pub(super) gateway: Mutex<IsGateway>,
}

/// The facts that policy looks at, and which service is called.
#[derive(Debug)]
pub(in crate::proxy) struct Who {
    pub(in crate::proxy) service: ServiceName,
    pub(super) instance: Option<String>,
    pub(super) port: u16,
    /// What the caller says that it carries.
    pub(super) carries: mesh::Protocol,
    /// The account whose identity this node showed: only a service that has it may be reached.
    pub(super) account: ServiceAccount,
    /// What TLS proves of the caller; nothing of a client outside the mesh, who calls a gateway.
    pub(super) identity: Option<SpiffeId>,
    came: Came,
    pub(in crate::proxy) address: IpAddr,
    /// Where it came in.
    pub(super) destination: IpAddr,
    /// The server name by which the caller asked for this account, or that a client asked a gateway for.
    pub(super) server_name: Option<String>,
    /// Its namespace and account as proven; labels as the registry knows those of the service that it says it is.
    pub(super) source: route::Source,
    /// Labels of the workloads that it may be, for limits. What it says that it is, another node may claim of any workload there
    /// with its account. None: nothing is known of it.
    pub(super) labels: Vec<Arc<BTreeMap<String, String>>>,
}

/// By which way a caller came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Came {
    /// From another node: a handshake has judged its identity.
    Node,
    /// From this node: no handshake judges its identity.
    Here,
    /// In at a gateway, from outside the mesh.
    Gateway,
    /// Straight to the service in plaintext, from outside the mesh.
    Plaintext,
}

/// What a caller outside the mesh calls in plaintext, and how.
#[derive(Debug)]
pub(super) struct Plain<'a> {
    pub(super) service: &'a Service,
    /// The service's port.
    pub(super) port: u16,
    /// From where and to where its connection goes.
    pub(super) ends: (IpAddr, IpAddr),
    pub(super) carries: mesh::Protocol,
    /// The name that it asks the application's own TLS for.
    pub(super) server_name: Option<String>,
}

/// What the documents said of the service when they were last looked at.
#[derive(Debug)]
struct Seen {
    basis: Basis,
    rules: Rules,
}

/// What the documents say of the called service, and where its limits are counted.
#[derive(Debug)]
pub(super) struct Rules {
    /// Nothing is let in, whatever the documents say.
    pub(super) barred: Option<Cause>,
    pub(super) workload: Arc<compile::Workload>,
    pub(super) counted: Vec<limits::Counted>,
    /// Of the connections to the application.
    pub(super) pool: Arc<Pool>,
}

impl Who {
    /// A client outside the mesh that came in at this port of a gateway, which speaks for `speaker`'s service.
    pub(in crate::proxy) fn client(
        speaker: &Speaker,
        port: u16,
        server_name: Option<&str>,
        (remote, local): (IpAddr, IpAddr),
    ) -> Self {
        Self {
            service: speaker.service.clone(),
            instance: speaker.instance.clone(),
            port,
            carries: mesh::Protocol::Http1,
            account: speaker.source.account.clone(),
            identity: None,
            came: Came::Gateway,
            address: remote.to_canonical(),
            destination: local.to_canonical(),
            server_name: server_name.map(str::to_owned),
            // It has no namespace and no labels, which is known.
            source: route::Source {
                namespace: String::new(),
                labels: BTreeMap::new(),
                account: speaker.source.account.clone(),
            },
            labels: vec![Arc::default()],
        }
    }

    /// What authorization reads of it, at this port of the application; `original` is the client for which a gateway speaks.
    pub(in crate::proxy) fn peer(&self, port: u16, original: Option<IpAddr>) -> authorize::Peer<'_> {
        authorize::Peer {
            identity: self.identity.as_ref(),
            address: Some(self.address),
            original_address: original,
            server_name: self.server_name.as_deref(),
            destination: Some(self.destination),
            port,
        }
    }

    /// The service that it calls, and the port. What comes in at a gateway has yet to find one.
    pub(super) fn called(&self) -> Option<(&ServiceName, u16)> {
        (self.came != Came::Gateway).then_some((&self.service, self.port))
    }

    /// Its identity as logs name it.
    pub(super) fn name(&self) -> String {
        self.identity.as_ref().map_or_else(|| "client".to_owned(), SpiffeId::uri)
    }
}

impl Who {
    /// Why operators do not let this node serve it, or its caller beside this node speak, as things are. What holds of callers on
    /// other nodes, handshakes judge, and again when it changes.
    pub(super) fn barred(&self, snapshot: &Snapshot) -> Option<Cause> {
        let account = || self.identity.as_ref().and_then(SpiffeId::account);
        let speaks = match self.came {
            Came::Node | Came::Gateway => account().is_some(),
            Came::Here => account().is_some_and(|account| snapshot.speaks_as(account)),
            // It speaks as nobody.
            Came::Plaintext => true,
        };
        if !speaks {
            return Some(Cause::NoIdentity);
        }
        (!snapshot.serves(&self.service, &self.account)).then_some(Cause::NotServedHere)
    }

    /// Why PeerAuthentication keeps it from this port of the application, if it does.
    pub(super) fn kept_out(&self, workload: &compile::Workload, port: u16) -> Option<Cause> {
        let strict = || workload.mutual_tls.on(port) == MutualTls::Strict;
        (self.came == Came::Plaintext && strict()).then_some(Cause::PlaintextRefused)
    }

    /// What judges it again after it was let in before its application, and the application's port; nothing where its service is gone, which
    /// says nothing of the connections that it still has.
    ///
    /// # Errors
    /// It would not get as far as that now.
    pub(super) fn judged_again(
        &self,
        snapshot: &Snapshot,
        local: &Local,
    ) -> Result<Option<(Arc<compile::Workload>, u16)>, Cause> {
        if let Some(cause) = self.barred(snapshot) {
            return Err(cause);
        }
        let found = local.port(&self.service, self.instance.as_deref(), &self.account, self.port);
        let Some((service, port)) = found else { return Ok(None) };
        let (workload, port) = (workload(snapshot, service), port.target.port());
        self.kept_out(&workload, port).map_or(Ok(Some((workload, port))), Err)
    }

    /// True if it has an identity of the mesh. Whoever this node led to a gateway's port need not have one.
    pub(in crate::proxy) const fn is_of_mesh(&self) -> bool {
        self.identity.is_some()
    }

    /// The namespace that is proven of it.
    pub(in crate::proxy) fn namespace(&self) -> Option<&str> {
        Some(self.identity.as_ref()?.account()?.namespace())
    }

    /// True if it is outside the mesh and came straight to the service.
    pub(super) fn is_plaintext(&self) -> bool {
        self.came == Came::Plaintext
    }
}

impl Caller {
    /// A caller on this node. `account` is the identity that this node shows.
    pub(in crate::proxy) fn new(
        context: &Context,
        snapshot: &Snapshot,
        peer: &Peer<'_>,
        account: &ServiceAccount,
        preface: &Preface,
    ) -> Self {
        Self::at(peer.address, context, snapshot, peer, account, preface)
    }

    /// A caller whose stream came in at `destination`.
    pub(super) fn at(
        destination: IpAddr,
        context: &Context,
        snapshot: &Snapshot,
        peer: &Peer<'_>,
        account: &ServiceAccount,
        preface: &Preface,
    ) -> Self {
        let local = context.local.load();
        let trust_domain = &snapshot.trust_domain;
        let called = match local.service(&preface.service, preface.instance.as_deref()) {
            Some(service) => Workload::of_service(trust_domain, &service.name, account, &service.labels),
            None => Workload::of_account(trust_domain, account),
        };
        let known = known(snapshot, peer, preface);
        let pair = Pair {
            reporter: Reporter::Destination,
            source: Arc::new(workload_of(snapshot, peer, known)),
            destination: Arc::new(called),
            service: policy::hosts::full_name(&preface.service).into(),
            service_name: preface.service.name().into(),
            service_namespace: preface.service.namespace().into(),
            security: Security::MutualTls,
        };
        let by = SpiffeId::service(trust_domain.clone(), account.clone());
        let who = Who {
            service: preface.service.clone(),
            instance: preface.instance.clone(),
            port: preface.port,
            carries: preface.protocol,
            account: account.clone(),
            identity: Some(peer.identity.clone()),
            came: if peer.certificate.is_some() { Came::Node } else { Came::Here },
            address: peer.address,
            destination,
            server_name: Some(by.dns_name()),
            source: source(peer, account, known),
            labels: labels(snapshot, peer, known),
        };
        Self::of(context, who, Some(client_cert(&by, peer)), pair)
    }

    /// A caller outside the mesh, of whom nothing is proven.
    pub(super) fn plaintext(context: &Context, snapshot: &Snapshot, plain: Plain<'_>) -> Self {
        let Plain { service, port, ends: (remote, local), carries, server_name } = plain;
        let (name, account) = (&service.name, &service.account);
        let called = Workload::of_service(&snapshot.trust_domain, name, account, &service.labels);
        let pair = Pair {
            reporter: Reporter::Destination,
            source: Arc::new(Workload::unknown()),
            destination: Arc::new(called),
            service: policy::hosts::full_name(name).into(),
            service_name: name.name().into(),
            service_namespace: name.namespace().into(),
            security: Security::Plain,
        };
        let who = Who {
            service: name.clone(),
            instance: service.instance.clone(),
            port,
            carries,
            account: account.clone(),
            identity: None,
            came: Came::Plaintext,
            address: remote.to_canonical(),
            destination: local.to_canonical(),
            server_name,
            // It has no namespace and no labels, which is known.
            source: route::Source { namespace: String::new(), labels: BTreeMap::new(), account: account.clone() },
            labels: vec![Arc::default()],
        };
        Self::of(context, who, None, pair)
    }

    fn of(context: &Context, who: Who, client_cert: Option<HeaderValue>, pair: Pair) -> Self {
        Self {
            client_cert,
            address: header(&who.address.to_string()),
            who: Arc::new(who),
            recorder: Arc::new(context.telemetry.recorder(context.worker, Arc::new(pair))),
            seen: Mutex::default(),
            gateway: Mutex::default(),
        }
    }

    /// True if nothing that the registry and the configuration say tells them apart.
    pub(super) fn is_as(&self, other: &Self) -> bool {
        let (who, others) = (&self.who, &other.who);
        self.recorder.pair() == other.recorder.pair() && who.source == others.source && who.labels == others.labels
    }

    /// The bounds of its requests, by what holds now.
    pub(super) fn bounds(&self, context: &Context) -> Bounds {
        if self.who.is_plaintext() { Bounds::of_applications(&context.limits()) } else { context.bounds_of_nodes() }
    }

    /// Looks at what the documents say of the called service now; `local` and `service` are of the same configuration.
    pub(super) fn look<T>(
        &self,
        context: &Context,
        snapshot: &Snapshot,
        local: &Arc<Local>,
        service: &Service,
        look: impl FnOnce(&Rules) -> T,
    ) -> T {
        let mut seen = lock(&self.seen);
        match &*seen {
            Some(known) if known.basis.is_of(snapshot, local) => look(&known.rules),
            Some(_) | None => {
                let workload = workload(snapshot, service);
                let counted = limits::counted(snapshot, &self.who.service, self.who.instance.as_deref(), &workload);
                let pool = Arc::new(Pool::of(&context.circuits, snapshot, &self.who, &service.labels));
                let called = service.ports.iter().find(|port| port.number == self.who.port);
                let kept_out = || self.who.kept_out(&workload, called?.target.port());
                let barred = self.who.barred(snapshot).or_else(kept_out);
                let rules = Rules { barred, workload, counted, pool };
                let answer = look(&rules);
                *seen = Some(Seen { basis: Basis::of(snapshot, local), rules });
                answer
            }
        }
    }
}

/// What the documents say of a service beside this node.
pub(super) fn workload(snapshot: &Snapshot, service: &Service) -> Arc<compile::Workload> {
    snapshot.compiled.workload(&snapshot.trust_domain, service.name.namespace(), &service.labels)
}

/// The caller as the registry knows it, if it knows the claimed service there.
fn known<'s>(snapshot: &'s Snapshot, peer: &Peer<'_>, preface: &Preface) -> Option<&'s Arc<Endpoint>> {
    let endpoints = snapshot.services.of_peer(peer.node, peer.identity.account()?);
    endpoints.iter().find(|endpoint| Some(&endpoint.id.service) == preface.source.as_ref())
}

fn labels(snapshot: &Snapshot, peer: &Peer<'_>, known: Option<&Arc<Endpoint>>) -> Vec<Arc<BTreeMap<String, String>>> {
    // Of its own services a node knows which one speaks.
    if let Some(known) = known.filter(|_| *peer.node == snapshot.node) {
        return vec![Arc::clone(&known.labels)];
    }
    let Some(account) = peer.identity.account() else { return Vec::new() };
    snapshot.services.of_peer(peer.node, account).iter().map(|endpoint| Arc::clone(&endpoint.labels)).collect()
}

fn workload_of(snapshot: &Snapshot, peer: &Peer<'_>, known: Option<&Arc<Endpoint>>) -> Workload {
    match (peer.identity.account(), known) {
        (None, _) => Workload::unknown(),
        (Some(account), None) => Workload::of_account(&snapshot.trust_domain, account),
        (Some(account), Some(known)) => {
            Workload::of_service(&snapshot.trust_domain, &known.id.service, account, &known.labels)
        }
    }
}

/// Data streams are between services only: a peer without an account never comes here, and would be taken for the called one's.
fn source(peer: &Peer<'_>, called: &ServiceAccount, known: Option<&Arc<Endpoint>>) -> route::Source {
    let account = peer.identity.account().unwrap_or(called);
    route::Source {
        namespace: account.namespace().to_owned(),
        labels: known.map(|known| BTreeMap::clone(&known.labels)).unwrap_or_default(),
        account: account.clone(),
    }
}

/// Envoy's `x-forwarded-client-cert`.
fn client_cert(by: &SpiffeId, peer: &Peer<'_>) -> HeaderValue {
    let hash = peer.certificate.map(|digest| format!("Hash={digest};")).unwrap_or_default();
    header(&format!("By={by};{hash}Subject=\"\";URI={}", peer.identity))
}

fn header(text: &str) -> HeaderValue {
    // Names, identities and addresses are ASCII.
    HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static("-"))
}
