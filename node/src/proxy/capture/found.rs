//! What the destination of a captured connection is found by: its address, a name, and the ports at which names tell.

use super::{Destination, HTTP, Place};
use crate::snapshot::{Names, Services, Snapshot};
use policy::{
    compile::{At, Entries, Scope},
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

pub(super) fn by_host(snapshot: &Snapshot, source: &Source, authority: &str, port: u16) -> Option<Place> {
    let (host, _) = hosts::split_authority(authority);
    let scope = snapshot.compiled.scope(source);
    if let Some(Called::Service(_)) = route::called(&snapshot.compiled, &*snapshot.services, source, host) {
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

/// The hosts of ServiceEntries in whose network an address lies that has TLS at its port.
pub(super) fn in_networks<'s>(snapshot: &'s Snapshot, source: &Source, original: SocketAddr) -> Option<At<'s>> {
    let (ip, scope) = (original.ip().to_canonical(), snapshot.compiled.scope(source));
    let at = snapshot.compiled.entries().at(ip, original.port(), scope, |_| false);
    at.filter(|at| matches!(at, At::Named(_)))
}

/// The service that a name means, if it has such a port that may be called so.
pub(super) fn service(services: &Services, name: &str, scope: Scope<'_>, port: u16, spoken: Protocol) -> Option<Place> {
    let name = hosts::named(name, scope.namespace)?;
    let service = services.get(&name)?;
    let has = service.ports.iter().any(|own| own.number == port && fits(own.protocol, spoken));
    let has = has && scope.imported_at(&name)(port);
    has.then_some(Place::Known(Called::Service(name), port))
}

/// As [`service`], of a host of a ServiceEntry.
pub(super) fn entry(entries: &Entries, name: &str, scope: Scope<'_>, port: u16, spoken: Protocol) -> Option<Place> {
    let made = entries.named(name, scope.at(port))?;
    let has = made.ports.iter().any(|own| own.number == port && fits(own.protocol, spoken));
    let host = || {
        let asked = || name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase().into();
        if made.host.starts_with('*') { asked() } else { Arc::clone(&made.host) }
    };
    has.then(|| Place::Known(Called::Host(host()), port))
}

/// Whether what is spoken may be what a port declares.
fn fits(own: Protocol, spoken: Protocol) -> bool {
    own == Protocol::Sniffed || own != Protocol::Tcp && own.is_http() == spoken.is_http()
}
