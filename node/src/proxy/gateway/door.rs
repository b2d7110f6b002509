//! An open port of a gateway, and a connection that came in there.

use super::{forwarded, forwarded::Address, tls::Configured, within::Within};
use crate::{
    mesh::crowd::{Crowd, Place},
    proxy::{
        context::{self, Context},
        failure::Cause,
        http::ResponseBody,
        inbound::{self, Counted, Who},
        outbound::Speaker,
    },
    snapshot::Snapshot,
    telemetry::{Counter, Telemetry},
};
use arc_swap::{ArcSwap, ArcSwapOption};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header::LOCATION};
use policy::{
    DocumentId,
    compile::{Behind, Compiled, Doors, Hosts, Listener, Serves, TlsServer, Workload},
    hosts,
    kinds::{Bind, GatewayTopology, Limits},
    route::{self, Entered, Routed},
};
use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// What is spoken at a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Spoken {
    /// HTTP/1.1, or HTTP/2 with prior knowledge.
    Http,
    /// TLS, whatever is in it.
    Tls,
    /// Nothing that is looked at.
    Bytes,
}

impl Spoken {
    pub(super) const fn of(serves: &Serves) -> Self {
        match serves {
            Serves::Plain(_) => Self::Http,
            Serves::Tls(_) => Self::Tls,
            Serves::Bytes(_) => Self::Bytes,
        }
    }
}

/// One open port.
#[derive(Debug)]
pub(in crate::proxy) struct Door {
    /// The gateway's service.
    pub(super) speaker: Arc<ArcSwap<Speaker>>,
    /// The address as documents name it.
    pub(super) bind: Option<Bind>,
    /// The port as documents name it.
    pub(super) port: u16,
    pub(super) spoken: Spoken,
    /// The documents want it no more.
    pub(super) close: CancellationToken,
    /// Set once the drain period after `close` is over: remaining connections are cut.
    pub(super) over: AtomicBool,
    /// The servers that meet TLS here, as far as their certificates could be read.
    pub(super) servers: ArcSwap<HashMap<ServerKey, Arc<Configured>>>,
    seen: ArcSwapOption<Seen>,
}

/// A server: its Gateway, and the name of its port, which no other server there has.
pub(super) type ServerKey = (DocumentId, String);

pub(super) fn key_of(server: &TlsServer) -> ServerKey {
    (server.document.clone(), server.port_name.clone())
}

/// What the documents last said of a door.
#[derive(Debug)]
pub(super) struct Seen {
    /// Which documents, and who speaks: the same ones say the same.
    compiled: Weak<Compiled>,
    speaker: u64,
    pub(super) doors: Arc<Doors>,
    pub(super) workload: Arc<Workload>,
    /// Where the workload's limits are counted.
    pub(super) counted: Vec<Counted>,
}

impl Door {
    pub(super) fn new(speaker: Speaker, bind: Option<Bind>, port: u16, spoken: Spoken) -> Self {
        Self {
            speaker: Arc::new(ArcSwap::from_pointee(speaker)),
            bind,
            port,
            spoken,
            close: CancellationToken::new(),
            over: AtomicBool::new(false),
            servers: ArcSwap::default(),
            seen: ArcSwapOption::empty(),
        }
    }

    /// True if some server here passes TLS on: then the name that a client asks for is looked at before anybody answers it.
    pub(super) fn passes_tls_on(&self, snapshot: &Snapshot) -> bool {
        let seen = self.look(snapshot);
        match seen.doors.listener(self.bind.as_ref(), self.port).map(|listener| &listener.serves) {
            Some(Serves::Tls(servers)) => servers.iter().any(|server| matches!(server.behind, Behind::Unopened(_))),
            Some(Serves::Plain(_) | Serves::Bytes(_)) | None => false,
        }
    }

    /// True if the server that a client means by the name that it asks for passes TLS on.
    pub(super) fn passes_on(&self, snapshot: &Snapshot, name: Option<&str>) -> bool {
        self.as_passed(snapshot, name).unwrap_or_default()
    }

    /// True if TLS that was passed on by this name would be met, or by nobody, if it came now. A port that the documents want no more closes,
    /// and takes its time.
    pub(super) fn passes_no_more(&self, snapshot: &Snapshot, name: Option<&str>) -> bool {
        self.as_passed(snapshot, name).is_some_and(|passes| !passes)
    }

    /// Whether TLS is passed on by this name; `None` if the documents do not want the port.
    fn as_passed(&self, snapshot: &Snapshot, name: Option<&str>) -> Option<bool> {
        let seen = self.look(snapshot);
        let server = seen.doors.listener(self.bind.as_ref(), self.port)?.tls_server(name);
        Some(server.is_some_and(|server| matches!(server.behind, Behind::Unopened(_))))
    }

    /// True if only callers with an identity of the mesh are served here.
    pub(super) fn is_of_mesh(&self, snapshot: &Snapshot) -> bool {
        let seen = self.look(snapshot);
        seen.doors.listener(self.bind.as_ref(), self.port).is_some_and(|listener| listener.of_mesh)
    }

    /// The server that a client means by the name that it asks for, if it can be met.
    pub(super) fn server(&self, snapshot: &Snapshot, name: Option<&str>) -> Option<Arc<Configured>> {
        let seen = self.look(snapshot);
        let server = seen.doors.listener(self.bind.as_ref(), self.port)?.tls_server(name)?;
        let configured = self.servers.load().get(&key_of(server)).cloned();
        // Who is let in is what the document says now, not what is about to be replaced.
        configured.filter(|configured| configured.admits_for(server))
    }

    /// What the documents say of it now.
    pub(super) fn look(&self, snapshot: &Snapshot) -> Arc<Seen> {
        let speaker = self.speaker.load();
        let seen = self.seen.load();
        if let Some(known) = &*seen
            && known.speaker == speaker.id
            && context::is(&known.compiled, &snapshot.compiled)
        {
            return Arc::clone(known);
        }
        let (namespace, labels) = (speaker.service.namespace(), &speaker.source.labels);
        let workload = snapshot.compiled.workload(&snapshot.trust_domain, namespace, labels);
        let fresh = Arc::new(Seen {
            compiled: Arc::downgrade(&snapshot.compiled),
            speaker: speaker.id,
            doors: snapshot.compiled.doors(namespace, labels),
            counted: inbound::counted(snapshot, &speaker.service, speaker.instance.as_deref(), &workload),
            workload,
        });
        self.seen.store(Some(Arc::clone(&fresh)));
        fresh
    }

    /// Resolves when connections are to end after what is under way.
    pub(super) async fn closed(&self) {
        self.close.cancelled().await;
    }

    /// True if a client that was let in must go: whoever comes now must show something else, or the name that it asked TLS for means another
    /// server. A port that the documents want no more closes, and takes its time.
    pub(super) fn is_replaced(&self, snapshot: &Snapshot, met: &Met) -> bool {
        met.configured.end.replaced.load(Relaxed) || self.asks_otherwise(snapshot, met)
    }

    /// True if the documents ask something else of a client than it was let in by.
    fn asks_otherwise(&self, snapshot: &Snapshot, met: &Met) -> bool {
        let seen = self.look(snapshot);
        let listener = seen.doors.listener(self.bind.as_ref(), self.port);
        listener.is_some_and(|listener| met.server(listener).is_none())
    }

    /// True if the port has been closed for so long that what was let in ends.
    pub(super) fn is_over(&self) -> bool {
        self.over.load(Relaxed)
    }

    /// Resolves when a client must go although the port is open.
    async fn replaced(&self, context: &Context, met: &Met) {
        let mut changes = context.rules.subscribe();
        // What the documents said is not kept while nothing changes.
        while !self.is_replaced(&context.current.load(), met) {
            if changes.changed().await.is_err() {
                // No rules come any more.
                return std::future::pending().await;
            }
        }
    }
}

/// A connection of a client: where it came in, and what is known of who opened it.
#[derive(Debug)]
pub(in crate::proxy) struct Entrance {
    pub(super) door: Arc<Door>,
    pub(super) met: Option<Met>,
    /// Whence the connection itself comes: a balancer, where that says who its client is.
    pub(super) peer: IpAddr,
    /// The peer who called the gateway's service on this node, where that led here.
    pub(super) sender: Option<Arc<Who>>,
    /// Who opened it, in the eyes of the gateway's speaker with this number.
    pub(super) client: ArcSwapOption<(u64, Arc<Who>)>,
    /// Whence its first request came, as headers tell it.
    address: OnceLock<Address>,
    /// The answer that is being made is the last.
    last: Notify,
}

/// How TLS was met.
#[derive(Debug)]
pub(super) struct Met {
    pub(super) configured: Arc<Configured>,
    /// The name that the client asked for.
    pub(super) name: Option<String>,
    /// The client's certificate, as it is told.
    pub(super) client: Option<HeaderValue>,
}

/// What becomes of a request.
pub(in crate::proxy) enum Way {
    /// It goes on.
    Route(Routed),
    /// The gateway answers it.
    Answer(Box<Response<ResponseBody>>),
}

impl Met {
    /// The server that the name means which the client asked for, as the documents have it now. Who was let in under other conditions than
    /// that server's finds none: its connection ends.
    pub(super) fn server<'l>(&self, listener: &'l Listener) -> Option<&'l TlsServer> {
        let server = listener.tls_server(self.name.as_deref())?;
        self.configured.admits_for(server).then_some(server)
    }
}

impl Entrance {
    /// Of a connection, with TLS or without.
    pub(super) fn new(door: Arc<Door>, met: Option<Met>, peer: IpAddr, sender: Option<Arc<Who>>) -> Self {
        Self { door, met, peer, sender, client: ArcSwapOption::empty(), address: OnceLock::new(), last: Notify::new() }
    }

    /// In whose name its requests go on.
    pub(in crate::proxy) fn speaker(&self) -> &Arc<ArcSwap<Speaker>> {
        &self.door.speaker
    }

    /// Ends the connection after this answer if the node is leaving: a client hears that in answers, and none is refused.
    pub(in crate::proxy) fn answered(&self, context: &Context) {
        if context.current.is_leaving() {
            self.last.notify_one();
        }
    }

    /// Resolves when the connection is to end after what is under way.
    pub(in crate::proxy) async fn closed(&self, context: &Context) {
        match &self.met {
            None => tokio::select! {
                () = self.door.closed() => {}
                () = self.last.notified() => {}
            },
            Some(met) => tokio::select! {
                () = self.door.closed() => {}
                () = self.last.notified() => {}
                () = self.door.replaced(context, met) => {}
            },
        }
    }

    /// True if nobody would be let in as its client was, and that has had its time.
    pub(in crate::proxy) fn is_over(&self, snapshot: &Snapshot) -> bool {
        let is_over = |met: &Met| met.configured.end.over.load(Relaxed) || self.door.asks_otherwise(snapshot, met);
        self.door.is_over() || self.met.as_ref().is_some_and(is_over)
    }

    /// True if only callers with an identity of the mesh are served there.
    pub(in crate::proxy) fn is_of_mesh(&self, snapshot: &Snapshot) -> bool {
        self.door.is_of_mesh(snapshot)
    }

    /// The name that the client asked TLS for.
    pub(in crate::proxy) fn server_name(&self) -> Option<&str> {
        self.met.as_ref()?.name.as_deref()
    }

    /// Says in a request's headers who sent it and how, in place of what the client said.
    pub(in crate::proxy) fn receive(&self, headers: &mut HeaderMap, remote: IpAddr, topology: &GatewayTopology) {
        let client = self.met.as_ref().and_then(|met| met.client.as_ref());
        let mut told = |address: &Address| forwarded::receive(headers, (address, self.met.is_some(), client), topology);
        let known = self.address.get_or_init(|| Address::new(remote));
        if known.address == remote { told(known) } else { told(&Address::new(remote)) }
    }

    /// The client's address, as far as the proxies before the gateway are believed, of a request that was received.
    pub(in crate::proxy) fn external(&self, headers: &HeaderMap) -> Option<IpAddr> {
        forwarded::external(headers)
    }

    /// By what a request came that was received.
    pub(in crate::proxy) fn scheme(&self, headers: &HeaderMap) -> &'static str {
        forwarded::scheme(headers)
    }

    /// The way of a request that was received and admitted.
    ///
    /// # Errors
    /// Nothing is there, or not on this connection any more.
    pub(in crate::proxy) fn enter(&self, snapshot: &Snapshot, request: &route::Request<'_>) -> Result<Way, Cause> {
        let seen = self.door.look(snapshot);
        let listener = seen.doors.listener(self.door.bind.as_ref(), self.door.port).ok_or(Cause::Misdirected)?;
        let hosts = self.hosts(listener).ok_or(Cause::Misdirected)?;
        match route::enter(hosts, request, self.door.port) {
            Entered::Nothing => Err(Cause::NoRoute),
            Entered::Route(_) | Entered::ToHttps if self.evades(listener, request.authority) => Err(Cause::Misdirected),
            Entered::Route(routed) => Ok(Way::Route(routed)),
            Entered::ToHttps => Ok(Way::Answer(Box::new(to_https(request)))),
        }
    }

    /// True if a request names a host whose own server asks for certificates that this connection was not asked for: TLS's name was that of a
    /// server which has the host among its hosts, too. Its client may ask again by the host's own name.
    fn evades(&self, listener: &Listener, authority: &str) -> bool {
        let (Serves::Tls(servers), Some(met)) = (&listener.serves, &self.met) else { return false };
        if servers.len() < 2 {
            return false;
        }
        let (host, _) = hosts::split_authority(authority);
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        listener.tls_server(Some(&host)).is_some_and(|own| met.configured.asks_less_than(own))
    }

    fn hosts<'l>(&self, listener: &'l Listener) -> Option<&'l Hosts> {
        match (&listener.serves, &self.met) {
            (Serves::Plain(hosts), None) => Some(hosts),
            (Serves::Tls(_), Some(met)) => match &met.server(listener)?.behind {
                Behind::Requests(hosts) => Some(hosts),
                Behind::Bytes(_) | Behind::Unopened(_) => None,
            },
            (Serves::Plain(_) | Serves::Tls(_) | Serves::Bytes(_), _) => None,
        }
    }
}

/// 301 to the same by https, as Envoy has it: the authority stays as it was sent.
fn to_https(request: &route::Request<'_>) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::full(Bytes::new()));
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    let path = request.uri.path_and_query().map_or("/", |path| path.as_str());
    if let Ok(location) = HeaderValue::try_from(format!("https://{}{path}", request.authority)) {
        response.headers_mut().insert(LOCATION, location);
    }
    response
}

/// The connections of clients, by where they come from.
#[derive(Debug)]
pub(in crate::proxy) struct Clients {
    /// What comes from this node itself.
    pub(super) within: Within,
    connected: Arc<Crowd>,
    /// Those of them that have not finished their handshake, or their balancer's header.
    greeting: Arc<Crowd>,
    refused: [Counter; Refused::ALL.len()],
}

/// Why a client's connection was closed before it was served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// Too many connections.
    Connections,
    /// Too many handshakes under way.
    Handshakes,
    /// No header of the PROXY protocol, or of no balancer that is trusted.
    ProxyProtocol,
    /// It did not begin in time.
    TimedOut,
}

impl Refused {
    const ALL: [(Self, &str); 4] = [
        (Self::Connections, "connections"),
        (Self::Handshakes, "handshakes"),
        (Self::ProxyProtocol, "proxy_protocol"),
        (Self::TimedOut, "timeout"),
    ];
}

impl Clients {
    /// None so far.
    pub(in crate::proxy) fn new(telemetry: &Telemetry) -> Self {
        let crowd = || Crowd::new(usize::MAX, usize::MAX);
        let help = "Connections of clients outside the mesh that were closed before they were served";
        let counter = |(_, reason)| telemetry.counter("skein_clients_refused_total", help, &[("reason", reason)]);
        let refused = Refused::ALL.map(counter);
        Self { within: Within::default(), connected: crowd(), greeting: crowd(), refused }
    }

    /// A place for a connection; `None`, which is counted, if its address has too many, or all have.
    pub(in crate::proxy) fn admit(&self, from: IpAddr, limits: &Limits) -> Option<Place> {
        let place = self.connected.enter_within(from, limits.connections, limits.connections_per_address);
        self.counted(place, Refused::Connections)
    }

    /// A place for a handshake; one address gets half of them.
    pub(super) fn greet(&self, from: IpAddr, limits: &Limits) -> Option<Place> {
        let (all, each) = (limits.pending_handshakes, limits.pending_handshakes.div_ceil(2));
        self.counted(self.greeting.enter_within(from, all, each), Refused::Handshakes)
    }

    fn counted(&self, place: Option<Place>, reason: Refused) -> Option<Place> {
        if place.is_none() {
            self.count(reason);
        }
        place
    }

    /// One more was refused.
    pub(super) fn count(&self, reason: Refused) {
        for (counter, (counted, _)) in self.refused.iter().zip(Refused::ALL) {
            if counted == reason {
                counter.add(1);
            }
        }
    }
}
