//! Opens and closes the ports of this node's gateways, as documents and configuration want them. What cannot be opened is told and
//! tried again; the rest of the node does not feel it.

use super::{
    Door,
    door::{ServerKey, Spoken, key_of},
    tls::{self, Configured, Material},
};
use crate::{
    clock,
    config::{Gateway, Place, SpeakerName},
    proxy::{
        listen,
        local::Local,
        outbound::Speaker,
        plane::{DataPlane, Listen, Serves},
        reading::Reading,
    },
    secrets::Secrets,
    snapshot::{Doors, OpenDoor, Snapshot, Trouble},
};
use policy::{
    DocumentId,
    compile::{self, LeftOut, TlsServer},
    kinds::Bind,
};
use std::{
    collections::{BTreeMap, HashMap},
    io,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

/// The first pause before what could not be opened is tried again: another listener there may be about to close.
const RETRY: Duration = Duration::from_millis(200);
/// The longest such pause.
const LONGEST_RETRY: Duration = Duration::from_secs(10);
/// How long what came in at a port goes on that the documents want no more: Istio's `drainDuration`.
pub const DRAIN: Duration = Duration::from_secs(45);
/// How often files of certificates are looked at.
const RELOAD: Duration = Duration::from_secs(2);

/// Identifies a listener: keys that differ in any field are different listeners.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Key {
    listen: SocketAddr,
    service: SpeakerName,
    bind: Option<Bind>,
    port: u16,
    spoken: Spoken,
}

/// What is open.
#[derive(Debug)]
struct Opened {
    door: Arc<Door>,
    bound: SocketAddr,
}

/// A port as it is told.
#[derive(Debug)]
struct Described {
    documents: Vec<DocumentId>,
    protocol: &'static str,
    hosts: Vec<String>,
}

/// What the documents want, and what of it cannot be.
#[derive(Debug, Default)]
struct Wanted {
    doors: BTreeMap<Key, Described>,
    troubles: Vec<Trouble>,
}

/// Keeps the doors of a data plane until the node drains. What came in goes on for `drain` when the documents want its port no more.
pub async fn keep_doors(plane: Arc<DataPlane>, secrets: Secrets, drain: Duration) {
    let mut snapshots = plane.shared.current.spaced();
    let mut reloads = plane.shared.reloads.subscribe();
    let mut changes = secrets.changes();
    let mut draining = plane.shared.draining.subscribe();
    let mut open: HashMap<Key, Opened> = HashMap::new();
    let (mut retry, mut reading) = (RETRY, Reading::default());
    loop {
        snapshots.mark_unchanged();
        reloads.mark_unchanged();
        changes.mark_unchanged();
        let failed = look((&plane, drain), (&secrets, &mut reading), &mut open).await;
        let met = open.keys().any(|key| key.spoken == Spoken::Tls);
        retry = if failed { (retry * 2).min(LONGEST_RETRY) } else { RETRY };
        let again = async {
            match (failed, met) {
                (true, _) => tokio::time::sleep(retry.min(RELOAD)).await,
                (false, true) => tokio::time::sleep(RELOAD).await,
                (false, false) => std::future::pending().await,
            }
        };
        let drained = async { drop(draining.wait_for(|draining| *draining).await) };
        let goes_on = tokio::select! {
            // Errors mean that the node ends.
            changed = snapshots.changed() => changed.is_ok(),
            changed = reloads.changed() => changed.is_ok(),
            changed = changes.changed() => changed.is_ok(),
            () = drained => false,
            () = again => true,
        };
        if !goes_on {
            return std::future::pending().await;
        }
    }
}

/// Brings what is open in line with what is wanted; true if something is to be tried again.
async fn look(
    (plane, drain): (&DataPlane, Duration),
    (secrets, reading): (&Secrets, &mut Reading<Material>),
    open: &mut HashMap<Key, Opened>,
) -> bool {
    let (snapshot, local) = (plane.shared.current.load(), plane.shared.local.load_full());
    let Wanted { doors, mut troubles } = wanted(plane, &snapshot, &local);
    open.retain(|key, opened| {
        let stays = doors.contains_key(key);
        if !stays {
            tracing::info!(listen = %opened.bound, "a gateway's port closes");
            close(plane, &opened.door, drain);
        }
        stays
    });
    let mut told = Vec::new();
    let mut failed = false;
    for (key, Described { documents, protocol, hosts }) in doors {
        let speaker = |port| Speaker::new(&local, &snapshot, &plane.shared.locality, &key.service, None, port);
        let bound = match open.get(&key) {
            Some(opened) => {
                if let Some(speaker) = speaker(opened.bound.port()).filter(|new| differs(&opened.door, new)) {
                    opened.door.speaker.store(Arc::new(speaker));
                }
                opened.bound
            }
            None => {
                match start(plane, &key, speaker, open.values().any(|opened| share(opened.bound, key.listen))).await {
                    Ok(opened) => {
                        tracing::info!(listen = %opened.bound, service = %key.service, "a gateway's port is open");
                        let bound = opened.bound;
                        open.insert(key.clone(), opened);
                        bound
                    }
                    Err(error) => {
                        failed = true;
                        troubles.push(not_opened(&key, &documents, &error, &plane.shared.gateway.load()));
                        continue;
                    }
                }
            }
        };
        told.push(OpenDoor {
            listen: bound,
            port: key.port,
            service: key.service.to_string(),
            documents,
            protocol,
            hosts,
        });
    }
    for opened in open.values().filter(|opened| opened.door.spoken == Spoken::Tls) {
        certify((plane, drain), (secrets, reading), &snapshot, &opened.door, &mut troubles).await;
    }
    reading.settle();
    troubles.sort_by(|a, b| (a.code, &a.message).cmp(&(b.code, &b.message)));
    troubles.dedup();
    plane.shared.current.tell_doors(Doors { open: told, troubles });
    failed
}

/// Nobody comes in any more, and after a while what is there ends.
fn close(plane: &DataPlane, door: &Arc<Door>, drain: Duration) {
    door.close.cancel();
    let door = Arc::clone(door);
    later(plane, drain, move || door.over.store(true, Relaxed));
}

/// Does what ends connections once their time to drain is over, and has them look.
fn later(plane: &DataPlane, drain: Duration, end: impl FnOnce() + Send + 'static) {
    let evictions = plane.shared.evictions.clone();
    plane.shared.tasks.detach("drain of a gateway", async move {
        tokio::time::sleep(drain).await;
        end();
        evictions.send_modify(|count| *count += 1);
    });
}

/// The configuration of the service changed, or the identity that it has.
fn differs(door: &Door, new: &Speaker) -> bool {
    let old = door.speaker.load();
    old.source != new.source || old.identity != new.identity
}

/// True if one of two addresses is within the other: the same port of one address and of all.
fn share(one: SocketAddr, other: SocketAddr) -> bool {
    let holds = |all: SocketAddr, one: SocketAddr| all.ip().is_unspecified() && (all.is_ipv6() || one.is_ipv4());
    one.port() == other.port() && (holds(one, other) || holds(other, one))
}

async fn start(
    plane: &DataPlane,
    key: &Key,
    speaker: impl FnOnce(u16) -> Option<Speaker>,
    beside_own: bool,
) -> io::Result<Opened> {
    let bind = if beside_own { listen::bind_beside } else { listen::bind };
    let (bound, sockets) = bind(key.listen, plane.workers.len())?;
    let speaker = speaker(bound.port()).ok_or(io::ErrorKind::NotFound)?;
    let door = Arc::new(Door::new(speaker, key.bind.clone(), key.port, key.spoken));
    for (worker, socket) in plane.workers.iter().zip(sockets) {
        let listen = Listen { socket, serves: Serves::Clients(Arc::clone(&door)), close: door.close.clone() };
        worker.send(listen).await.map_err(|_| io::ErrorKind::BrokenPipe)?;
    }
    Ok(Opened { door, bound })
}

/// Reads the certificates of a door's servers anew, and gives the servers those that differ. One that cannot be read any more goes on
/// with what it had.
async fn certify(
    (plane, drain): (&DataPlane, Duration),
    (secrets, reading): (&Secrets, &mut Reading<Material>),
    snapshot: &Snapshot,
    door: &Door,
    troubles: &mut Vec<Trouble>,
) {
    let seen = door.look(snapshot);
    let Some(listener) = seen.doors.listener(door.bind.as_ref(), door.port) else { return };
    let compile::Serves::Tls(servers) = &listener.serves else { return };
    let before = door.servers.load_full();
    let mut after: HashMap<ServerKey, Arc<Configured>> = HashMap::new();
    for server in servers.iter().filter(|server| !server.tls.mode.is_passthrough()) {
        let key = key_of(server);
        let (settings, secrets) = (server.tls.clone(), secrets.clone());
        let namespace = door.speaker.load().service.namespace().to_owned();
        let of = format!("{namespace} {settings:?}");
        let of_namespace = namespace.clone();
        let read = reading.read(&of_namespace, &of, move || tls::load(&settings, &namespace, &secrets)).await;
        let had = before.get(&key);
        let made = read.and_then(|material| renewed(had, server, material));
        match made {
            Ok(configured) => {
                if configured.not_after < clock::wall() {
                    troubles.push(uncertified(server, "its certificate has ended"));
                }
                after.insert(key, configured);
            }
            Err(why) => {
                let usable = had.filter(|had| had.admits_for(server));
                let goes_on =
                    if usable.is_some() { "; it goes on with what it had" } else { "; its clients are refused" };
                troubles.push(uncertified(server, &format!("{why}{goes_on}")));
                after.extend(usable.map(|had| (key, Arc::clone(had))));
            }
        }
    }
    let is_kept = |(key, had): (&ServerKey, &Arc<Configured>)| after.get(key).is_some_and(|now| had.admits_as(now));
    let gone: Vec<Arc<Configured>> =
        before.iter().filter(|one| !is_kept(*one)).map(|(_, had)| Arc::clone(had)).collect();
    door.servers.store(Arc::new(after));
    if !gone.is_empty() {
        gone.iter().for_each(|had| had.end.replaced.store(true, Relaxed));
        plane.shared.evictions.send_modify(|count| *count += 1);
        // A list of revoked ones that is signed anew every day must not break downloads off.
        later(plane, drain, move || gone.iter().for_each(|had| had.end.over.store(true, Relaxed)));
    }
}

fn renewed(had: Option<&Arc<Configured>>, server: &TlsServer, material: Material) -> Result<Arc<Configured>, String> {
    if let Some(had) = had.filter(|had| had.is_of(server) && had.material == material) {
        return Ok(Arc::clone(had));
    }
    let mut fresh = Configured::new(server, material)?;
    // The connections of one whose certificate alone was renewed are ended when the next of its conditions changes.
    if let Some(had) = had.filter(|had| had.admits_as(&fresh)) {
        fresh.end = Arc::clone(&had.end);
    }
    Ok(Arc::new(fresh))
}

fn uncertified(TlsServer { document, server, .. }: &TlsServer, why: &str) -> Trouble {
    Trouble {
        code: "gateway_certificate",
        message: format!("servers[{server}] of {document}: {why}"),
        hint: "put the certificate with its key where the Gateway says, or `skein secret put`; it is then taken by itself",
    }
}

fn wanted(plane: &DataPlane, snapshot: &Snapshot, local: &Local) -> Wanted {
    let settings = plane.shared.gateway.load();
    let mut wanted = Wanted::default();
    for service in local.services() {
        let doors = snapshot.compiled.doors(service.name.namespace(), &service.labels);
        wanted.troubles.extend(doors.left_out.iter().map(left_out));
        for listener in &doors.listeners {
            let address = match &listener.bind {
                None => settings.listen,
                Some(Bind::Ip(address)) => *address,
                // Refused at push.
                Some(Bind::Unix(_)) => continue,
            };
            let port = settings.ports.get(&listener.port).copied().unwrap_or(listener.port);
            let (documents, hosts) = (listener.documents.clone(), hosts(&listener.serves));
            let described = Described { documents, protocol: protocol(listener), hosts };
            let key = Key {
                listen: SocketAddr::new(address, port),
                service: SpeakerName::of(service),
                bind: listener.bind.clone(),
                port: listener.port,
                spoken: Spoken::of(&listener.serves),
            };
            let other = wanted.doors.keys().find(|other| other.listen == key.listen && port != 0);
            if let Some(other) = other {
                wanted.troubles.push(claimed(&key, &listener.documents, other, &settings));
            } else {
                wanted.doors.insert(key, described);
            }
        }
    }
    wanted
}

fn hosts(serves: &compile::Serves) -> Vec<String> {
    let of = |hosts: &compile::Hosts| hosts.all().iter().map(|host| host.name.to_string()).collect::<Vec<_>>();
    match serves {
        compile::Serves::Plain(hosts) => of(hosts),
        compile::Serves::Tls(servers) => servers.iter().flat_map(|server| server.names.iter().cloned()).collect(),
        compile::Serves::Bytes(_) => Vec::new(),
    }
}

fn protocol(listener: &compile::Listener) -> &'static str {
    match &listener.serves {
        compile::Serves::Plain(_) if listener.of_mesh => "https",
        compile::Serves::Bytes(_) if listener.of_mesh => "tls",
        compile::Serves::Plain(_) => "http",
        compile::Serves::Tls(servers) if servers.iter().any(tls::has_requests) => "https",
        compile::Serves::Tls(_) => "tls",
        compile::Serves::Bytes(_) => "tcp",
    }
}

fn names(documents: &[DocumentId]) -> String {
    documents.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn left_out(left_out: &LeftOut) -> Trouble {
    let LeftOut { document, server, why } = left_out;
    Trouble {
        code: "gateway_conflict",
        message: format!("servers[{server}] of {document} is not opened: {why}"),
        hint: "give it another port or other hosts, or put it into that Gateway",
    }
}

fn claimed(key: &Key, documents: &[DocumentId], other: &Key, settings: &Gateway) -> Trouble {
    let (by, at) = (names(documents), key.listen);
    let (message, hint) = if (&key.service, key.port) == (&other.service, other.port) {
        let message = format!("{by}: {at} is open already for another `bind` that is the same address");
        (message, "name the address once, in one `bind` or in [gateway] listen")
    } else if key.service == other.service {
        let from = settings.port_places.get(&key.port).map(|place| format!(" ({place})")).unwrap_or_default();
        let message = format!("{by}: port {} is not opened, for {at} is port {} already{from}", key.port, other.port);
        (message, "give each port that Gateways name one of its own in [gateway] ports")
    } else {
        let message = format!("{by} opens {at} for {} already, and not for {}", other.service, key.service);
        (message, "let the Gateway's selector mean one service of the node, or `bind` the ports to different addresses")
    };
    Trouble { code: "gateway_conflict", message, hint }
}

fn not_opened(key: &Key, documents: &[DocumentId], error: &io::Error, settings: &Gateway) -> Trouble {
    let (at, by) = (key.listen, names(documents));
    let said = |place: Option<&Place>| place.map(|place| format!(" ({place})")).unwrap_or_default();
    // The line that moves the port to this one, if one does.
    let from = said(settings.port_places.get(&key.port));
    let kind = error.kind();
    let (message, hint) = if kind == io::ErrorKind::AddrInUse {
        let message = format!("{by}: {at} is in use by another process or listener{from}");
        (message, "stop what listens there, or map the port to another one in [gateway] ports")
    } else if kind == io::ErrorKind::PermissionDenied {
        let message = format!("{by}: this process may not listen at {at}{from}");
        (message, "give it CAP_NET_BIND_SERVICE, or map the port to one above 1023 in [gateway] ports")
    } else if kind == io::ErrorKind::AddrNotAvailable {
        match &key.bind {
            Some(_) => (format!("{by}: {at} is no address of this machine"), "correct `bind` of the Gateway's server"),
            None => {
                let from = said(settings.listen_place.as_ref());
                (format!("{by}: {at} is no address of this machine{from}"), "correct [gateway] listen")
            }
        }
    } else {
        (format!("{by}: cannot listen at {at}: {error}{from}"), "see the log of this node")
    };
    Trouble { code: "gateway_not_open", message, hint }
}

#[cfg(test)]
mod tests {
    use super::*;
    use certs::id::ServiceName;

    #[test]
    fn a_port_of_one_address_is_within_that_of_all() {
        for (one, other, shared) in [
            ("0.0.0.0:80", "10.0.0.5:80", true),
            ("10.0.0.5:80", "0.0.0.0:80", true),
            ("[::]:80", "10.0.0.5:80", true),
            ("[::]:80", "0.0.0.0:80", true),
            ("0.0.0.0:80", "[::1]:80", false),
            ("0.0.0.0:80", "10.0.0.5:81", false),
            ("10.0.0.6:80", "10.0.0.5:80", false),
        ] {
            assert_eq!(share(one.parse().unwrap(), other.parse().unwrap()), shared, "{one} {other}");
        }
    }

    #[test]
    fn what_keeps_a_port_closed_points_at_the_line_that_made_it() {
        let place = |line, key: &str| Place { file: "s.toml".into(), line, column: 1, key: key.into() };
        let settings = Gateway {
            ports: BTreeMap::from([(80, 8080)]),
            listen_place: Some(place(5, "[gateway] listen")),
            port_places: BTreeMap::from([(80, place(7, "[gateway] ports"))]),
            ..Gateway::default()
        };
        let told = |port: u16, bind: Option<&str>, error: io::ErrorKind| {
            let key = Key {
                listen: SocketAddr::from(([10, 0, 0, 5], port)),
                service: SpeakerName { service: ServiceName::new("shop", "edge").unwrap(), instance: None },
                bind: bind.map(|at| Bind::Ip(at.parse().unwrap())),
                port,
                spoken: Spoken::Http,
            };
            not_opened(&key, &[], &error.into(), &settings).message
        };
        let (used, away) = (io::ErrorKind::AddrInUse, io::ErrorKind::AddrNotAvailable);
        assert!(told(80, None, used).ends_with("(s.toml:7:1: [gateway] ports)"));
        assert!(told(443, None, used).ends_with("in use by another process or listener"), "nothing moved it");
        assert!(told(80, None, away).ends_with("(s.toml:5:1: [gateway] listen)"));
        assert!(told(80, Some("10.0.0.5"), away).ends_with("no address of this machine"), "its Gateway says it");
        assert!(told(80, None, io::ErrorKind::PermissionDenied).ends_with("(s.toml:7:1: [gateway] ports)"));
    }
}
