//! Connections that the kernel brought here (`skein capture on`) in place of where applications meant to go: to a service of the mesh,
//! if the destination is one, and else on to where they meant to go.
//!
//! By address: a service's loopback address, or that of one host of a ServiceEntry. By what the client says first, where several hosts have
//! the address and at ports at which the mesh has services: the Host of its first request, or the server name of its ClientHello. One
//! connection is one decision: what later requests on it mean elsewhere is answered 421, and asked again on a connection of its own. By
//! HTTP/2 each request is decided for itself, by its authority.
//!
//! Connections of other machines to the ports of applications come here, too: to the service whose port that is.

mod found;

use super::{
    context::{self, Context},
    detect::{self, Spoken},
    failure::Cause,
    http::Bounds,
    inbound, listen,
    outbound::{self, Speaker},
    plane::{ApplyError, DataPlane, Listen, Serves},
    tcp::{Account, End, Side, Spans, relay},
};
use crate::lock::lock;
use crate::{
    capture::{Listeners, is_open},
    config,
    snapshot::{Captures, Snapshot},
};
use arc_swap::{ArcSwap, ArcSwapOption};
use certs::id::ServiceAccount;
use found::{at_address, by_address, by_host, by_server_name, told_by_names, unnamed};
use http::{Request, header::HOST, uri::Authority};
use policy::{
    compile::{At, EntryService},
    hosts::Protocol,
    route::{Called, Source},
};
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, Weak},
    time::Duration,
};
use tokio::{net::TcpStream, time::timeout};
use tokio_util::sync::CancellationToken;

/// Speakers that are kept for places that were called.
const SPEAKERS: usize = 4096;
/// How long reaching a place outside the mesh may take (Istio's connectTimeout).
const CONNECT: Duration = Duration::from_secs(10);
/// How long a connection that is passed on may be silent (Istio's idleTimeout).
const IDLE: Duration = Duration::from_secs(3600);
/// The port of names that are no service.
const HTTP: u16 = 80;

/// The door for captured connections, one for all workers.
#[derive(Debug)]
pub(super) struct Captured {
    name: config::SpeakerName,
    /// Requests at addresses of names may have a Host that the mesh does not know.
    any_host: bool,
    speakers: Mutex<HashMap<Place, Kept>>,
    ports: ArcSwapOption<Ports>,
}

/// Where a captured connection leads.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Place {
    Known(Called, u16),
    /// The same, by the loopback address of its name: what comes there must mean it.
    AtName(Called, u16),
    /// A host of a VirtualService that is no service, at this port.
    Name(u16),
    Outside,
}

#[derive(Debug)]
struct Kept {
    /// The configuration that it was made of.
    local: Weak<super::local::Local>,
    speaker: Arc<ArcSwap<Speaker>>,
}

/// Ports at which what a client says first tells which service it means.
#[derive(Debug)]
struct Ports {
    of: Weak<Snapshot>,
    /// The services beside this node, of which one speaks.
    local: Weak<super::local::Local>,
    numbers: HashSet<u16>,
}

/// What is to be done with a connection.
#[derive(Debug, PartialEq, Eq)]
enum Destination {
    Mesh(Place),
    /// Found by the Host of the first request.
    Named(Meant),
    /// Found by the authority of each request.
    ByRequest,
    /// Where the application meant to go.
    Original,
    /// Nobody has that address.
    Nowhere,
}

/// How requests of a captured connection say where they lead.
#[derive(Debug)]
pub(super) enum LedBy {
    /// All as the first one.
    First(Meant),
    /// Each by itself, on a connection that meant to go to this address: HTTP/2. Many clients of it wait for their server's settings before
    /// their first request, so that nobody can look at that beforehand.
    Each(Arc<Captured>, SocketAddr),
}

/// What the first request of a connection meant.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Meant {
    authority: String,
    /// Where its connection meant to go.
    original: SocketAddr,
    place: Place,
}

impl Meant {
    /// True if a later request of this caller means the same place by this authority.
    pub(super) fn is(&self, snapshot: &Snapshot, source: &Source, authority: &str) -> bool {
        let same = self.authority.eq_ignore_ascii_case(authority);
        same || by_host(snapshot, source, authority, self.original).as_ref() == Some(&self.place)
    }
}

/// Listens for what the kernel brings: connections of this machine on loopback, and where the configuration says so those of other
/// machines on all addresses. `any_host`: as `[dns]` says it, for connections to addresses of names.
///
/// # Errors
/// A port is in use.
pub async fn open_capture(
    plane: &DataPlane,
    settings: &config::Capture,
    any_host: bool,
) -> Result<Captures, ApplyError> {
    let captured = Arc::new(Captured {
        name: settings.speaker.clone(),
        any_host,
        speakers: Mutex::default(),
        ports: ArcSwapOption::empty(),
    });
    let loopback = (Ipv4Addr::LOCALHOST, Ipv6Addr::LOCALHOST);
    let listen = listen_at(plane, loopback, settings.port, &Serves::Captured(captured)).await?;
    let all = (Ipv4Addr::UNSPECIFIED, Ipv6Addr::UNSPECIFIED);
    let incoming = match settings.inbound_port {
        Some(port) => listen_at(plane, all, port, &Serves::Incoming(Arc::default())).await?,
        None => Vec::new(),
    };
    let captures = Captures { listen, incoming };
    plane.shared.current.tell_captures(captures.clone());
    Ok(captures)
}

async fn listen_at(
    plane: &DataPlane,
    at: (Ipv4Addr, Ipv6Addr),
    port: u16,
    serves: &Serves,
) -> Result<Vec<SocketAddr>, ApplyError> {
    let bound = listen::bind_both(at, port, plane.workers.len());
    let bound = bound.map_err(|source| ApplyError::Listen { address: (at.0, port).into(), source })?;
    let mut addresses = Vec::new();
    for (address, sockets) in bound {
        addresses.push(address);
        for (worker, socket) in plane.workers.iter().zip(sockets) {
            let listen = Listen { socket, serves: serves.clone(), close: CancellationToken::new() };
            worker.send(listen).await.map_err(|_| ApplyError::Stopped)?;
        }
    }
    Ok(addresses)
}

/// Serves one connection of another machine, which called a port of an application here.
pub(super) async fn serve_incoming(
    context: Arc<Context>,
    listeners: Arc<Listeners>,
    stream: TcpStream,
    remote: SocketAddr,
) {
    let original = match original(&stream) {
        Ok(original) => original,
        Err(error) => {
            tracing::debug!(%error, %remote, "a connection to the inbound capture port that was not captured");
            return stream.reset();
        }
    };
    // The rules follow the configuration a moment later: what belongs to no service any more is nobody's.
    let Some(called) = context.local.load().at(original) else {
        tracing::debug!(%remote, %original, "a captured connection to no service's port");
        return stream.reset();
    };
    // The kernel sends here what comes while nobody listens, too: an application that opens its port to this machine only stays shut.
    let listening = match listeners.lately(&context.tasks).await {
        Ok(listening) => listening,
        Err(error) => {
            tracing::warn!(%error, %remote, "refused a captured connection: who listens cannot be read");
            return stream.reset();
        }
    };
    let target = context.local.load().find(&called).map(|(_, port)| port.target);
    if !target.is_some_and(|target| is_open(target, original, &listening)) {
        tracing::debug!(%remote, %original, "a captured connection to a port that other machines do not reach");
        return stream.reset();
    }
    inbound::serve_plaintext(context, &called, stream, (remote, original), &CancellationToken::new()).await;
}

/// Serves one captured connection.
pub(super) async fn serve(context: Arc<Context>, captured: Arc<Captured>, stream: TcpStream, remote: SocketAddr) {
    let original = match original(&stream) {
        Ok(original) => original,
        Err(error) => {
            tracing::debug!(%error, %remote, "a connection to the capture port that was not captured");
            return stream.reset();
        }
    };
    let destination = tokio::select! {
        destination = captured.destination(&context, &stream, original) => destination,
        () = context.draining() => return,
    };
    let (place, led_by) = match destination {
        Ok(Destination::Mesh(place)) => (place, None),
        Ok(Destination::Named(meant)) => (meant.place.clone(), Some(Arc::new(LedBy::First(meant)))),
        Ok(Destination::ByRequest) => {
            (Place::Name(original.port()), Some(Arc::new(LedBy::Each(Arc::clone(&captured), original))))
        }
        Ok(Destination::Original) => return captured.pass(&context, stream, (remote, original)).await,
        Ok(Destination::Nowhere) => return stream.reset(),
        Err(error) => {
            return tracing::debug!(%error, "a captured connection ended before it was known where it goes");
        }
    };
    match captured.speaker(&context, place) {
        Some(speaker) => outbound::serve(context, speaker, stream, remote, Some((original, led_by))).await,
        None => stream.reset(),
    }
}

/// Where the application meant to go.
///
/// # Errors
/// It meant to come here.
fn original(stream: &TcpStream) -> io::Result<SocketAddr> {
    let socket = socket2::SockRef::from(stream);
    let local = stream.local_addr()?;
    let original = if local.is_ipv4() { socket.original_dst_v4() } else { socket.original_dst_v6() };
    let original = original?.as_socket().ok_or(io::ErrorKind::Unsupported)?;
    if original == local {
        return Err(io::Error::other("it was meant for this port"));
    }
    Ok(original)
}

impl Captured {
    async fn destination(
        &self,
        context: &Context,
        stream: &TcpStream,
        original: SocketAddr,
    ) -> io::Result<Destination> {
        let source = self.source(context);
        if let Some(found) = self.by_address(context, &source, original) {
            return Ok(found);
        }
        // Whoever speaks first is the client here, as in Istio: servers that speak first must have ports of their own.
        let bounds = Bounds::of_applications(&context.limits());
        // Where a name tells and nothing else may be meant, it is waited for as at any port of a declared protocol.
        let patience = {
            let snapshot = context.current.load();
            let is_told_by_name = at_address(&snapshot, &source, original).is_some_and(|named| !named.may_be_bytes());
            snapshot.compiled.config().protocol_detection_timeout.filter(|_| !is_told_by_name)
        };
        let found = match detect::detect(stream, Protocol::Sniffed, patience, &bounds).await? {
            Spoken::Http1 => {
                let host = detect::host(stream, &bounds).await?;
                let snapshot = context.current.load();
                let found = match host {
                    Some(authority) => by_host(&snapshot, &source, &authority, original)
                        .map(|place| Destination::Named(Meant { authority, original, place })),
                    None => unnamed(&snapshot, &source, original).map(Destination::Mesh),
                };
                if let Some(found) = found {
                    return Ok(found);
                }
                // As Istio's ports of requests do, it answers what may not leave the mesh.
                snapshot.stays_inside(&source).then_some(Place::Name(original.port()))
            }
            Spoken::Tls(name) => {
                let spoken = (Some(Protocol::Tls), name.as_deref());
                by_server_name(&context.current.load(), &source, spoken, original)
            }
            Spoken::Bytes => by_server_name(&context.current.load(), &source, (None, None), original),
            Spoken::Http2 => return Ok(Destination::ByRequest),
        };
        Ok(found.map_or(Destination::Original, Destination::Mesh))
    }

    /// What the destination's address tells, if nothing that a client says could tell more.
    fn by_address(&self, context: &Context, source: &Source, original: SocketAddr) -> Option<Destination> {
        let snapshot = context.current.load();
        let (ip, port) = (original.ip().to_canonical(), original.port());
        if let Some(found) = by_address(&snapshot.services, &context.current.names(), original) {
            return Some(found);
        }
        let is_at = |made: &EntryService| snapshot.foreign.get(made).is_some_and(|foreign| foreign.is_at(ip));
        match snapshot.compiled.entries().at(ip, port, snapshot.compiled.scope(source), is_at) {
            Some(At::Host(made)) => {
                return Some(Destination::Mesh(Place::Known(Called::Host(Arc::clone(&made.host)), port)));
            }
            // Its name tells, which is yet to come.
            Some(At::Named(_)) => return None,
            None => {}
        }
        (!self.speaks_names(context, &snapshot, port)).then_some(Destination::Original)
    }

    /// True if a client at this port may say which service it means.
    fn speaks_names(&self, context: &Context, snapshot: &Arc<Snapshot>, port: u16) -> bool {
        let local = context.local.load_full();
        let known = self.ports.load();
        if let Some(known) = &*known
            && context::is(&known.of, snapshot)
            && context::is(&known.local, &local)
        {
            return known.numbers.contains(&port);
        }
        let numbers = told_by_names(snapshot, &self.source_in(&local));
        let speaks = numbers.contains(&port);
        self.ports.store(Some(Arc::new(Ports {
            of: Arc::downgrade(snapshot),
            local: Arc::downgrade(&local),
            numbers,
        })));
        speaks
    }

    /// Who speaks by captured connections.
    fn source(&self, context: &Context) -> Source {
        self.source_in(&context.local.load())
    }

    fn source_in(&self, local: &super::local::Local) -> Source {
        let nobody = || Source {
            namespace: self.name.service.namespace().to_owned(),
            labels: BTreeMap::new(),
            account: ServiceAccount::default_of(&self.name.service),
        };
        local.source(&self.name).unwrap_or_else(nobody)
    }

    /// Who speaks to a place: kept, so that what is known of its clusters is kept.
    fn speaker(&self, context: &Context, place: Place) -> Option<Arc<ArcSwap<Speaker>>> {
        let local = context.local.load_full();
        let mut speakers = lock(&self.speakers);
        let kept = speakers.get(&place);
        if let Some(kept) = kept.filter(|kept| context::is(&kept.local, &local)) {
            return Some(Arc::clone(&kept.speaker));
        }
        let (fixed, port) = match &place {
            Place::Known(called, port) | Place::AtName(called, port) => (Some((called.clone(), *port)), *port),
            Place::Name(port) => (None, *port),
            Place::Outside => (None, 0),
        };
        let made = Speaker::new(&local, &context.current.load(), &context.locality, &self.name, fixed, port)?;
        let made = if matches!(place, Place::AtName(..)) && !self.any_host { made.at_name() } else { made };
        let speaker = match kept {
            // Connections that are kept open follow.
            Some(kept) => {
                kept.speaker.store(Arc::new(made));
                Arc::clone(&kept.speaker)
            }
            None => Arc::new(ArcSwap::from_pointee(made)),
        };
        if speakers.len() >= SPEAKERS {
            speakers.clear();
        }
        speakers.insert(place, Kept { local: Arc::downgrade(&local), speaker: Arc::clone(&speaker) });
        Some(speaker)
    }

    /// Who speaks to what a request on a connection to `original` means by its authority; `None` if that is nothing of the mesh, and nobody
    /// if the service as which this node speaks is gone.
    pub(super) fn speaker_of<B>(
        &self,
        context: &Context,
        request: &Request<B>,
        original: SocketAddr,
    ) -> Option<Option<Arc<Speaker>>> {
        let authority = request.uri().authority().map(Authority::as_str);
        let authority = authority.or_else(|| request.headers().get(HOST)?.to_str().ok())?;
        let source = self.source(context);
        let place = by_host(&context.current.read(), &source, authority, original)?;
        Some(self.speaker(context, place).map(|speaker| speaker.load_full()))
    }

    /// Takes a connection where it meant to go, unless nothing may leave the mesh.
    async fn pass(&self, context: &Context, stream: TcpStream, (remote, original): (SocketAddr, SocketAddr)) {
        let Some(speaker) = self.speaker(context, Place::Outside) else { return stream.reset() };
        let speaker = speaker.load_full();
        let snapshot = context.current.load();
        let ends = outbound::Ends { remote, local: original, dialled: Some(original) };
        let mut account = Account::new(outbound::begin_connection(context, &speaker, &snapshot, ends, None));
        let refused = speaker.stays_inside(&snapshot);
        let pair = if refused { speaker.to_nothing() } else { speaker.to_outside() };
        account.between(context.recorder(pair));
        drop(snapshot);
        account.takes("", if refused { "BlackHoleCluster" } else { "PassthroughCluster" });
        if refused {
            account.failed(Cause::NoRoute, None);
            return stream.reset();
        }
        account.reaches(original);
        let reached = tokio::select! {
            reached = timeout(CONNECT, TcpStream::connect(original)) => reached,
            () = context.cut() => return,
        };
        let outside = match reached.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok(outside) => outside,
            Err(error) => {
                account.transport(Some(error.to_string().into()));
                account.failed(Cause::ConnectFailure, None);
                return stream.reset();
            }
        };
        drop((stream.set_nodelay(true), outside.set_nodelay(true)));
        account.opened();
        let stopped = async {
            context.cut().await;
            End::Stopped
        };
        relay(&context.budget, (stream, outside), &mut [account], Spans { idle: Some(IDLE), whole: None }, stopped)
            .await;
    }
}

#[cfg(test)]
mod tests;
