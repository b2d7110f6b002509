//! Destinations whose place is told by the name that a request or connection brings (`resolution: DYNAMIC_DNS`, wildcards with NONE).

use super::Speaker;
use crate::{
    clock,
    proxy::{context::Context, failure::Cause},
    snapshot::{Asked, Snapshot, Wanted},
};
use policy::{
    compile::EntryService,
    kinds::Resolution,
    route::{Called, Destination},
};
use std::{net::SocketAddr, time::Duration};
use tokio::time::timeout;

/// How long a request waits for the first answer on its name (Envoy's `dns_query_timeout`).
const PATIENCE: Duration = Duration::from_secs(5);

/// What a request or connection brings.
#[derive(Debug, Clone, Copy)]
pub(in crate::proxy) struct Brought<'a> {
    /// The port that it arrived for.
    pub(in crate::proxy) port: u16,
    /// Of what the kernel brought here: where the caller meant to go.
    pub(in crate::proxy) dialled: Option<SocketAddr>,
    /// Hosts that it names; the first of which the destination's document speaks counts.
    pub(in crate::proxy) names: [Option<&'a str>; 2],
    /// The namespace on whose account names are looked up, where that is not the speaker's: of the caller for whom a gateway speaks.
    pub(in crate::proxy) account: Option<&'a str>,
}

/// Where something goes that is bound for a destination.
#[derive(Debug, Default)]
pub(in crate::proxy) struct Placed {
    /// If that is one place: there.
    pub(in crate::proxy) at: Option<SocketAddr>,
    /// What was looked up to know it.
    pub(in crate::proxy) by: Option<Wanted>,
}

/// Where something goes, or what is still asked for.
enum Place {
    Found(Option<SocketAddr>),
    Asked(Asked, Wanted),
}

impl Context {
    /// Where what is bound for this destination goes, if that is one place: where its caller had dialled, or what its name means. Waits
    /// for a name that nobody asked for lately.
    ///
    /// # Errors
    /// The name has no address that may be used, or is none of the destination's.
    pub(super) async fn place(
        &self,
        snapshot: &Snapshot,
        speaker: &Speaker,
        destination: &Destination,
        brought: Brought<'_>,
    ) -> Result<Placed, Cause> {
        if !snapshot.compiled.entries().any_by_name() {
            return Ok(Placed { at: brought.dialled, by: None });
        }
        // Boxed, so that the many requests to other places need no room for it.
        Box::pin(async {
            let found = async {
                loop {
                    match self.look(snapshot, speaker, destination, brought)? {
                        Place::Found(at) => return Ok(Placed { at, by: None }),
                        Place::Asked(Asked::Wait(mut ended), _) => {
                            ended.changed().await.map_err(|_| Cause::Unresolved)?;
                        }
                        Place::Asked(asked, wanted) => return known(asked, wanted),
                    }
                }
            };
            timeout(PATIENCE, found).await.unwrap_or(Err(Cause::Unresolved))
        })
        .await
    }

    /// As [`Context::place`], for what does not wait.
    pub(super) fn place_now(
        &self,
        snapshot: &Snapshot,
        speaker: &Speaker,
        destination: &Destination,
        brought: Brought<'_>,
    ) -> Result<Placed, Cause> {
        match self.look(snapshot, speaker, destination, brought)? {
            Place::Found(at) => Ok(Placed { at, by: None }),
            Place::Asked(asked, wanted) => known(asked, wanted),
        }
    }

    fn look(
        &self,
        snapshot: &Snapshot,
        speaker: &Speaker,
        destination: &Destination,
        brought: Brought<'_>,
    ) -> Result<Place, Cause> {
        let namespace = speaker.source.namespace.as_str();
        let Some(made) = by_name(snapshot, destination, namespace) else { return Ok(Place::Found(brought.dialled)) };
        if made.entry.resolution == Resolution::None && brought.dialled.is_some() {
            return Ok(Place::Found(brought.dialled));
        }
        let port = destination.port(&*snapshot.services, snapshot.compiled.entries(), namespace, brought.port);
        let Some(declared) = made.declared(port) else { return Err(Cause::NoCluster) };
        let own = declared.target.unwrap_or(port);
        let written = Some(&*destination.host).filter(|host| !host.starts_with('*'));
        let mut names = written.into_iter().chain(brought.names.into_iter().flatten());
        let name = names.find_map(|name| made.name(name)).ok_or(Cause::NoCluster)?;
        let wanted = Wanted { name: name.into(), port: own, may_be_here: made.host.ends_with("localhost") };
        let account = brought.account.unwrap_or(namespace);
        Ok(Place::Asked(self.current.lookups().ask(&wanted, account, clock::uptime()), wanted))
    }
}

/// The host of a ServiceEntry to which a destination leads, if its place is told by name. A registered service goes before it.
fn by_name<'s>(snapshot: &'s Snapshot, destination: &Destination, namespace: &str) -> Option<&'s EntryService> {
    let is_service = destination.service.as_ref().is_some_and(|name| snapshot.services.get(name).is_some());
    let made = || snapshot.compiled.entries().find(&destination.host, namespace).filter(|made| made.is_by_name());
    if is_service { None } else { made().map(|made| &**made) }
}

fn known(asked: Asked, wanted: Wanted) -> Result<Placed, Cause> {
    match asked {
        Asked::Known(address) => Ok(Placed { at: Some((address, wanted.port).into()), by: Some(wanted) }),
        Asked::Nothing | Asked::Wait(_) => Err(Cause::Unresolved),
        Asked::Full => Err(Cause::Overflow),
    }
}

/// The host that is called, unless it is a service's.
pub(super) fn host(called: &Called) -> Option<&str> {
    match called {
        Called::Service(_) => None,
        Called::Host(host) => Some(host),
    }
}

impl Speaker {
    /// The host to which all of its requests and connections go.
    pub(super) fn fixed_host(&self) -> Option<&str> {
        self.fixed.as_ref().and_then(|(called, _)| host(called))
    }
}
