//! What the destination of a captured connection is found by: its address, a name, and the ports at which names tell.

use super::{Destination, HTTP, Place};
use crate::snapshot::{Names, Services, Snapshot};
use policy::{
    compile::{At, Entries, EntryService, Named, Scope},
    hosts::{self, Protocol, ServicePort},
    route::{self, Called, NoRoute, Source},
};
use std::{
    collections::HashSet,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

/// The ports at which a service or host that this caller may call is found by name. What its Sidecar leaves out makes nobody wait for the
/// first word of a client whose server speaks first.
pub(super) fn told_by_names(snapshot: &Snapshot, source: &Source) -> HashSet<u16> {
    let (entries, scope) = (snapshot.compiled.entries(), snapshot.compiled.scope(source));
    let is_told = |port: &&ServicePort| port.protocol != Protocol::Tcp;
    let services = snapshot.services.iter().flat_map(|service| {
        let imported = scope.imported_at(&service.name);
        service.ports.iter().filter(is_told).map(|port| port.number).filter(move |port| imported(*port))
    });
    let hosts = entries.all().iter().flat_map(|made| {
        made.ports.iter().filter(is_told).map(|port| port.number).filter(|port| made.is_seen(scope.at(*port)))
    });
    let mut numbers: HashSet<u16> = services.chain(hosts).collect();
    if !snapshot.compiled.hosts().is_empty() {
        numbers.insert(HTTP);
    }
    numbers
}

/// Where a request leads by its authority, on a connection to `original`: to whom of the address's own or of its network that names, else to
/// what it means anywhere, else to whose address it is.
pub(super) fn by_host(snapshot: &Snapshot, source: &Source, authority: &str, original: SocketAddr) -> Option<Place> {
    let (host, _) = hosts::split_authority(authority);
    let (port, spoken) = (original.port(), Protocol::Http);
    let Some(having) = at_address(snapshot, source, original) else {
        return anywhere(snapshot, source, authority, port);
    };
    let scope = snapshot.compiled.scope(source);
    if let Some(made) = having.by_name(host, spoken) {
        return Some(asked(snapshot.compiled.entries(), made, host, scope, port));
    }
    anywhere(snapshot, source, authority, port).or_else(|| {
        let made = having.otherwise(Some(spoken), is_address(host))?;
        Some(Place::Known(Called::Host(Arc::clone(&made.host)), port))
    })
}

/// Where a TLS connection leads by its server name; where bytes lead, which have none.
pub(super) fn by_server_name(
    snapshot: &Snapshot,
    source: &Source,
    (spoken, name): (Option<Protocol>, Option<&str>),
    original: SocketAddr,
) -> Option<Place> {
    let (entries, scope, port) = (snapshot.compiled.entries(), snapshot.compiled.scope(source), original.port());
    let named = spoken.zip(name);
    let Some(having) = at_address(snapshot, source, original) else {
        let (spoken, name) = named?;
        return service(&snapshot.services, name, scope, port, spoken)
            .or_else(|| entry(entries, name, scope, port, spoken));
    };
    if let Some((spoken, name)) = named
        && let Some(made) = having.by_name(name, spoken)
    {
        return Some(asked(entries, made, name, scope, port));
    }
    let made = having.otherwise(spoken, false)?;
    Some(Place::Known(Called::Host(Arc::clone(&made.host)), port))
}

/// Where a request leads that names no host.
pub(super) fn unnamed(snapshot: &Snapshot, source: &Source, original: SocketAddr) -> Option<Place> {
    let having = at_address(snapshot, source, original)?;
    let made = having.otherwise(Some(Protocol::Http), true)?;
    Some(Place::Known(Called::Host(Arc::clone(&made.host)), original.port()))
}

/// What an authority means, whatever address is called.
fn anywhere(snapshot: &Snapshot, source: &Source, authority: &str, port: u16) -> Option<Place> {
    let (host, _) = hosts::split_authority(authority);
    let scope = snapshot.compiled.scope(source);
    if let Some(Called::Service(_)) = route::called(&snapshot.compiled, &*snapshot.services, source, (host, None)) {
        return service(&snapshot.services, host, scope, port, Protocol::Http);
    }
    if let Some(found) = entry(snapshot.compiled.entries(), host, scope, port, Protocol::Http) {
        return Some(found);
    }
    let asked = route::Request {
        method: &http::Method::GET,
        uri: &http::Uri::from_static("/"),
        authority,
        scheme: "http",
        headers: &http::HeaderMap::new(),
        source,
        fixed: None,
        token: None,
        own_port: Some(port),
    };
    let routed = route::route(&snapshot.compiled, &*snapshot.services, &asked);
    matches!(routed, Ok(_) | Err(NoRoute::NoMatch { .. })).then_some(Place::Name(port))
}

/// The service at an address, or that nobody is.
pub(super) fn by_address(services: &Services, names: &Names, original: SocketAddr) -> Option<Destination> {
    // The rules leave loopback alone but for addresses of services; whoever comes for another one was not sent by them.
    let address = match original.ip().to_canonical() {
        IpAddr::V4(address) if address.is_loopback() => address,
        IpAddr::V6(address) if address.is_loopback() => return Some(Destination::Nowhere),
        IpAddr::V4(_) | IpAddr::V6(_) => return None,
    };
    let place = names.called(address).and_then(|called| {
        let has = match called {
            Called::Service(name) => services.get(name)?.ports.iter().any(|port| port.number == original.port()),
            // What it does not serve there leads nowhere.
            Called::Host(_) => true,
        };
        has.then(|| Place::AtName(called.clone(), original.port()))
    });
    Some(place.map_or(Destination::Nowhere, Destination::Mesh))
}

/// The hosts of ServiceEntries that have an address, or in whose network it lies, if what is said there tells which is meant.
pub(super) fn at_address<'s>(snapshot: &'s Snapshot, source: &Source, original: SocketAddr) -> Option<Named<'s>> {
    let (ip, scope) = (original.ip().to_canonical(), snapshot.compiled.scope(source));
    match snapshot.compiled.entries().having(ip, original.port(), scope)? {
        At::Named(named) => Some(named),
        At::Host(_) => None,
    }
}

/// The service that a name means, if it has such a port that may be called so.
pub(super) fn service(services: &Services, name: &str, scope: Scope<'_>, port: u16, spoken: Protocol) -> Option<Place> {
    let name = hosts::named(name, scope.namespace)?;
    let service = services.get(&name)?;
    let has = service.ports.iter().any(|own| own.number == port && own.protocol.may_be(spoken));
    let has = has && scope.imported_at(&name)(port);
    has.then_some(Place::Known(Called::Service(name), port))
}

/// As [`service`], of a host of a ServiceEntry.
fn entry(entries: &Entries, name: &str, scope: Scope<'_>, port: u16, spoken: Protocol) -> Option<Place> {
    let made = entries.named(name, scope.at(port))?;
    let has = made.ports.iter().any(|own| own.number == port && own.protocol.may_be(spoken));
    has.then(|| asked(entries, made, name, scope, port))
}

/// A host as it is called by name. Of a wildcard that is the name: rules may speak of the host itself.
fn asked(entries: &Entries, made: &Arc<EntryService>, name: &str, scope: Scope<'_>, port: u16) -> Place {
    let written = || name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    // Another entry may have the host itself, and none of this one's addresses.
    let is_its = |name: &str| entries.find(name, scope.at(port)).is_some_and(|found| Arc::ptr_eq(found, made));
    let name = made.host.starts_with('*').then(written).filter(|name| is_its(name));
    Place::Known(Called::Host(name.map_or_else(|| Arc::clone(&made.host), Arc::from)), port)
}

/// True if what a request names is no host but an address.
fn is_address(host: &str) -> bool {
    let inner = host.strip_prefix('[').and_then(|inner| inner.strip_suffix(']'));
    inner.unwrap_or(host).parse::<IpAddr>().is_ok()
}
