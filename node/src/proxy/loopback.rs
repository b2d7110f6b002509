//! Listens at the loopback addresses of services and hosts, at their own ports: an application that resolves a name gets there, and
//! what it says goes as by an `[[upstream]]`. What cannot be opened is told and tried again; the rest does not feel it.

use super::{
    listen,
    local::Local,
    outbound::Speaker,
    plane::{DataPlane, Listen, Serves},
};
use crate::{
    config,
    dns::Addresses,
    snapshot::{Names, Snapshot, Trouble},
};
use arc_swap::ArcSwap;
use policy::{
    compile::{EntryService, Scope},
    hosts,
    kinds::Resolution,
    route::Called,
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// Sockets that are opened at most, all workers' together.
const SOCKETS: usize = 8192;
/// The first pause before what could not be opened is tried again.
const RETRY: Duration = Duration::from_millis(500);
/// The longest such pause.
const LONGEST_RETRY: Duration = Duration::from_secs(10);
/// Never opened, as capture never takes it: SSH has it at all addresses, and could not be started again.
const SSH: u16 = 22;
/// How many services a sentence names.
const NAMED: usize = 3;

/// A service or host, and one of its ports.
type Key = (Called, u16);

/// What is open.
#[derive(Debug)]
struct Opened {
    address: Ipv4Addr,
    speaker: Arc<ArcSwap<Speaker>>,
    close: CancellationToken,
}

/// Keeps a data plane's names until the node drains. Call it where `[dns]` is on.
pub async fn keep_names(plane: Arc<DataPlane>, settings: config::Dns) {
    let mut snapshots = plane.shared.current.spaced();
    let mut reloads = plane.shared.reloads.subscribe();
    let mut draining = plane.shared.draining.subscribe();
    let mut keeper = Keeper {
        plane,
        speaker: settings.speaker,
        excluded: settings.exclude_ports,
        any_host: settings.any_host,
        addresses: Addresses::new(settings.addresses),
        open: HashMap::new(),
    };
    let mut retry = RETRY;
    loop {
        snapshots.mark_unchanged();
        reloads.mark_unchanged();
        let complete = keeper.look().await;
        retry = if complete { RETRY } else { (retry * 2).min(LONGEST_RETRY) };
        let again = async { if complete { std::future::pending().await } else { tokio::time::sleep(retry).await } };
        let drained = async { drop(draining.wait_for(|draining| *draining).await) };
        let goes_on = tokio::select! {
            // Errors mean that the node ends.
            changed = snapshots.changed() => changed.is_ok(),
            changed = reloads.changed() => changed.is_ok(),
            () = drained => false,
            () = again => true,
        };
        if !goes_on {
            return std::future::pending().await;
        }
    }
}

struct Keeper {
    plane: Arc<DataPlane>,
    speaker: config::SpeakerName,
    /// Ports that the operator leaves to other programs.
    excluded: BTreeSet<u16>,
    /// Requests may have a Host that the mesh does not know.
    any_host: bool,
    addresses: Addresses,
    open: HashMap<Key, Opened>,
}

/// What could not be opened, by port and reason.
#[derive(Default)]
struct Shut(BTreeMap<(u16, Why), Vec<Called>>);

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Why {
    Spared,
    Taken,
    Denied,
    Full,
    Other(String),
}

impl Keeper {
    /// Brings what is open in line with the services that there are; false if something is to be tried again.
    async fn look(&mut self) -> bool {
        let (snapshot, local) = (self.plane.shared.current.load(), self.plane.shared.local.load_full());
        let source = local.source(&self.speaker);
        let mut called = called(&snapshot, source.as_ref().map(|source| snapshot.compiled.scope(source)));
        for ports in called.values_mut() {
            ports.retain(|port| !self.excluded.contains(port));
        }
        let present: BTreeSet<&Called> = called.keys().collect();
        let mut given = BTreeMap::new();
        let mut without = Vec::new();
        for name in called.keys() {
            match self.addresses.assign(name, &present) {
                Some(address) => drop(given.insert(name.clone(), address)),
                None => without.push(name),
            }
        }
        let wanted = |(name, port): &Key| {
            let ports = called.get(name).filter(|ports| ports.contains(port));
            ports.and_then(|_| given.get(name).copied())
        };
        self.open.retain(|key, opened| {
            let stays = wanted(key) == Some(opened.address);
            if !stays {
                opened.close.cancel();
            }
            stays
        });
        let awaited = awaited(&snapshot, &local);
        let (mut shut, mut complete) = (Shut::default(), true);
        for (name, ports) in &called {
            let Some(address) = given.get(name).copied() else { continue };
            for port in ports.iter().copied() {
                if port == SSH {
                    shut.0.entry((port, Why::Spared)).or_default().push(name.clone());
                    continue;
                }
                match self.keep((name.clone(), port), address, (&snapshot, &local), &awaited).await {
                    Ok(true) => {}
                    Ok(false) => complete = false,
                    Err(why) => {
                        complete = false;
                        shut.0.entry((port, why)).or_default().push(name.clone());
                    }
                }
            }
        }
        let mut troubles = shut.troubles();
        troubles.extend(no_room(&without));
        let mut names = Names::new(given, troubles);
        names.speaker = source;
        if names != *self.plane.shared.current.names() {
            self.plane.shared.current.tell_names(names);
        }
        complete
    }

    /// Opens one port, or sees that it speaks as whom it should; false if it must wait.
    async fn keep(
        &mut self,
        key: Key,
        address: Ipv4Addr,
        (snapshot, local): (&Snapshot, &Local),
        awaited: &HashSet<u16>,
    ) -> Result<bool, Why> {
        let port = key.1;
        let locality = &self.plane.shared.locality;
        let any_host = self.any_host;
        let speaker = || {
            Speaker::new(local, snapshot, locality, &self.speaker, Some(key.clone()), port)
                .map(|made| if any_host { made } else { made.at_name() })
                .ok_or_else(|| Why::Other(format!("{} is no service of this node any more", self.speaker)))
        };
        if let Some(opened) = self.open.get(&key) {
            let (old, new) = (opened.speaker.load(), speaker()?);
            if old.source != new.source || old.identity != new.identity {
                opened.speaker.store(Arc::new(new));
            }
            return Ok(true);
        }
        if awaited.contains(&port) {
            return Ok(false);
        }
        let workers = self.plane.workers.len();
        if (self.open.len() + 1) * workers > SOCKETS {
            return Err(Why::Full);
        }
        let speaker = Arc::new(ArcSwap::from_pointee(speaker()?));
        let (_, sockets) = listen::bind(SocketAddr::new(address.into(), port), workers).map_err(|error| why(&error))?;
        let close = CancellationToken::new();
        for (worker, socket) in self.plane.workers.iter().zip(sockets) {
            let listen = Listen { socket, serves: Serves::Applications(Arc::clone(&speaker)), close: close.clone() };
            worker.send(listen).await.map_err(|_| Why::Other("the workers are gone".to_owned()))?;
        }
        self.open.insert(key, Opened { address, speaker, close });
        Ok(true)
    }
}

/// What has a name and ports for whoever speaks here: services, and hosts of ServiceEntries that have no address of their own. What the
/// Sidecar of who speaks does not import has neither name nor port.
fn called(snapshot: &Snapshot, scope: Option<Scope<'_>>) -> BTreeMap<Called, Vec<u16>> {
    let services = snapshot.services.iter().map(|service| {
        let imported = scope.map(|scope| scope.imported_at(&service.name));
        let ports = service.ports.iter().map(|port| port.number);
        let ports = ports.filter(|port| imported.as_ref().is_none_or(|imported| imported(*port)));
        (Called::Service(service.name.clone()), ports.collect::<Vec<u16>>())
    });
    let entries = snapshot.compiled.entries();
    let hosts = entries.all().iter().filter(|made| needs_address(snapshot, made)).map(|made| {
        let seen = |port: &u16| {
            let found = scope.and_then(|scope| entries.find(&made.host, scope.at(*port)));
            found.is_some_and(|found| Arc::ptr_eq(found, made))
        };
        let ports = made.ports.iter().map(|port| port.number).filter(seen);
        (Called::Host(Arc::clone(&made.host)), ports.collect())
    });
    // Of several entries for a host one is seen at a port.
    let mut called: BTreeMap<Called, Vec<u16>> = BTreeMap::new();
    for (name, ports) in services.chain(hosts).filter(|(_, ports)| !ports.is_empty()) {
        called.entry(name).or_default().extend(ports);
    }
    called
}

/// True of a host whose own document gives it no address, and which this node never has looked up: where it asks for the host itself
/// (`resolution: DNS` without endpoints), the machine's resolver, which may be this node, must tell where that is.
fn needs_address(snapshot: &Snapshot, made: &EntryService) -> bool {
    let (entry, host) = (&made.entry, &made.host);
    let known_by = match entry.resolution {
        Resolution::Static => true,
        Resolution::Dns | Resolution::DnsRoundRobin => !entry.endpoints.is_empty() || entry.selector.is_some(),
        Resolution::None | Resolution::DynamicDns => false,
    };
    let is_service = || hosts::named(host, &made.namespace).is_some_and(|name| snapshot.services.get(&name).is_some());
    known_by && entry.addresses.is_empty() && !host.starts_with('*') && !is_service()
}

/// Ports at which applications of this machine will listen and do not yet. They may do so at all addresses: who were there before them
/// would keep them from starting.
fn awaited(snapshot: &Snapshot, local: &Local) -> HashSet<u16> {
    let waits = |service: &config::Service| {
        let mut here = snapshot.services.on(&snapshot.node);
        !here.any(|endpoint| endpoint.id.service == service.name && endpoint.healthy)
    };
    let is_here = |ip: IpAddr| ip.is_loopback() || ip.is_unspecified();
    let services = local.services().into_iter().filter(|service| waits(service));
    let targets = services.flat_map(|service| service.ports.iter().map(|port| port.target));
    targets.filter(|target| is_here(target.ip())).map(|target| target.port()).collect()
}

fn why(error: &io::Error) -> Why {
    if error.kind() == io::ErrorKind::AddrInUse {
        Why::Taken
    } else if error.kind() == io::ErrorKind::PermissionDenied {
        Why::Denied
    } else {
        Why::Other(error.to_string())
    }
}

impl Shut {
    fn troubles(&self) -> Vec<Trouble> {
        self.0.iter().map(|((port, why), services)| shut(*port, why, services)).collect()
    }
}

fn shut(port: u16, why: &Why, services: &[Called]) -> Trouble {
    let at = format!("port {port} is not open at the addresses of {}", named(services.iter()));
    let (message, hint) = match why {
        Why::Spared => (
            format!("{at}: it is left to SSH, which could not be started again"),
            "call these services by an [[upstream]] port; [dns] exclude_ports = [22] ends this complaint",
        ),
        Why::Taken => (
            format!("{at}: another process listens there, at all addresses perhaps"),
            "let it listen at one address, such as 127.0.0.1; or leave the port to it ([dns] exclude_ports) and call these services by an [[upstream]] or [[outbound]] port",
        ),
        Why::Denied => (
            format!("{at}: this process may not listen at ports this low"),
            "give it CAP_NET_BIND_SERVICE, or lower the sysctl net.ipv4.ip_unprivileged_port_start",
        ),
        Why::Full => (
            format!("{at}: {SOCKETS} sockets are open, which is the most"),
            "call these services by an [[upstream]] or [[outbound]] port, or run fewer workers",
        ),
        Why::Other(error) => (format!("{at}: {error}"), "see the log of this node"),
    };
    Trouble { code: "names_not_open", message, hint }
}

fn no_room(without: &[&Called]) -> Option<Trouble> {
    (!without.is_empty()).then(|| Trouble {
        code: "names_not_open",
        message: format!("there is no address left for {}", named(without.iter().copied())),
        hint: "widen [dns] addresses and restart the node",
    })
}

fn named<'a>(services: impl ExactSizeIterator<Item = &'a Called>) -> String {
    let count = services.len();
    let first: Vec<String> = services.take(NAMED).map(ToString::to_string).collect();
    let more = count - first.len();
    if more > 0 { format!("{} and {more} more", first.join(", ")) } else { first.join(", ") }
}
