//! Endpoints of ServiceEntries: names are resolved here, by the machine's own resolver, long before a request asks for them, and again
//! and again. What a name meant last counts until it means something else: a resolver that is down takes nobody's endpoints away.

mod asked;
mod fold;
mod forbidden;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, ToSocketAddrs as _},
    sync::Arc,
    time::Duration,
};

use certs::{codec::Millis, id::NodeId};
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use policy::compile::Entries;

use super::{resolver::Resolver, whereabouts::way, world::World};
use crate::{clock, snapshot::Services};

use fold::names;
pub(super) use fold::{Facts, foreign};
pub(super) use forbidden::{OwnPorts, machine, refused};

/// Between two looks at a name that resolves, milliseconds. The machine's resolver does not say how long its answers hold.
const REFRESH: Millis = 30_000;
/// After the first failure in a row; doubled with each.
const RETRY: Millis = 1_000;
/// Names that are looked up at once.
const AT_ONCE: usize = 4;
static RESOLVER: Resolver = Resolver::new("names of documents", AT_ONCE);
/// Between two looks at where this node listens and at its machine's addresses, milliseconds.
const OWN_PORTS: Millis = 5_000;
/// Nothing is sent there: a way is looked for, which no port changes.
const ANY_PORT: u16 = 9;
/// Addresses of one name that are used.
const MAX_ADDRESSES: usize = 256;

/// What is known of a name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Answer {
    /// In the order of the answer; the last that there was.
    pub(super) addresses: Vec<IpAddr>,
    /// Why the last look gave none.
    pub(super) failure: Option<String>,
}

/// When names are looked up. Pure.
#[derive(Debug, Default)]
struct Schedule {
    names: BTreeMap<Arc<str>, Entry>,
}

#[derive(Debug, Default)]
struct Entry {
    /// Uptime of the next look.
    next: Millis,
    /// In a row.
    failures: u32,
    /// Namespaces whose documents name it.
    namespaces: BTreeSet<Arc<str>>,
    /// While it is looked up: on whose account.
    account: Option<Arc<str>>,
}

/// Names, and the namespaces whose documents name them.
pub(super) type Names = BTreeMap<Arc<str>, BTreeSet<Arc<str>>>;

impl Schedule {
    /// Follows what is wanted now.
    fn follow(&mut self, wanted: Names, now: Millis) {
        self.names.retain(|name, _| wanted.contains_key(name));
        for (name, namespaces) in wanted {
            let entry = self.names.entry(name).or_insert_with(|| Entry { next: now, ..Entry::default() });
            entry.namespaces = namespaces;
        }
    }

    /// Names to look up now, so many at most. They are due again once they were [`Schedule::looked`] up. Every place goes to the namespace
    /// that has the fewest looks under way, and there to the name that is due for longest: however many names somebody has whose servers
    /// are slow, others wait for one look at most.
    fn take_due(&mut self, now: Millis, most: usize) -> Vec<Arc<str>> {
        let mut taken = Vec::new();
        let mut busy: BTreeMap<Arc<str>, usize> = BTreeMap::new();
        for account in self.names.values().filter_map(|entry| entry.account.clone()) {
            *busy.entry(account).or_default() += 1;
        }
        while taken.len() < most {
            let load = |namespace: &Arc<str>| busy.get(namespace).copied().unwrap_or(0);
            let due = self.names.iter_mut().filter(|(_, entry)| entry.next <= now);
            let next = due.min_by_key(|(_, entry)| (entry.namespaces.iter().map(load).min(), entry.next));
            let Some((name, entry)) = next else { break };
            entry.next = Millis::MAX;
            entry.account = entry.namespaces.iter().min_by_key(|namespace| load(namespace)).cloned();
            if let Some(account) = &entry.account {
                *busy.entry(account.clone()).or_default() += 1;
            }
            taken.push(name.clone());
        }
        taken
    }

    /// Milliseconds to the next look; `None` if there is nothing to look up.
    fn pause(&self, now: Millis) -> Option<Millis> {
        let waiting = self.names.values().filter(|entry| entry.next < Millis::MAX);
        waiting.map(|entry| entry.next.saturating_sub(now)).min()
    }

    /// A look has ended. True if that is news: it failed for the first time, or went well again.
    fn looked(&mut self, name: &str, well: bool, now: Millis) -> bool {
        let Some(entry) = self.names.get_mut(name) else { return false };
        let failed = entry.failures > 0;
        entry.account = None;
        if well {
            (entry.next, entry.failures) = (now + REFRESH, 0);
            failed
        } else {
            entry.next = now + (RETRY << entry.failures.min(20)).min(REFRESH);
            entry.failures = entry.failures.saturating_add(1);
            !failed
        }
    }
}

/// Runs for ever.
pub async fn run(world: Arc<World>) {
    let asked = asked::answer(Arc::clone(&world), asked::look_up);
    tokio::join!(resolve(world, look_up), asked);
}

async fn look_up(name: Arc<str>) -> io::Result<Vec<IpAddr>> {
    RESOLVER.run(move || resolved(&name)).await
}

/// What the machine's resolver says. Blocks.
fn resolved(name: &str) -> io::Result<Vec<IpAddr>> {
    Ok((name, 0).to_socket_addrs()?.map(|address| address.ip()).collect())
}

async fn resolve<F>(world: Arc<World>, look_up: impl Fn(Arc<str>) -> F)
where
    F: Future<Output = io::Result<Vec<IpAddr>>>,
{
    let mut changes = world.current().spaced();
    let mut schedule = Schedule::default();
    let mut looks = FuturesUnordered::new();
    loop {
        changes.mark_unchanged();
        world.look_at_own_ports();
        let snapshot = world.current().load();
        schedule.follow(wanted(snapshot.compiled.entries(), &snapshot.services, &snapshot.node), clock::uptime());
        drop(snapshot);
        for name in schedule.take_due(clock::uptime(), AT_ONCE - looks.len()) {
            let look = look_up(name.clone());
            // A look is not given up: it would keep its thread all the same.
            looks.push(async move { (answered(look.await), name) });
        }
        // Where all places are taken the next look begins when one has ended.
        let pause = schedule.pause(clock::uptime()).filter(|_| looks.len() < AT_ONCE);
        let pause = Duration::from_millis(pause.map_or(OWN_PORTS, |pause| pause.min(OWN_PORTS)));
        tokio::select! {
            Some((result, name)) = looks.next() => {
                let news = schedule.looked(&name, result.is_ok(), clock::uptime());
                match &result {
                    Ok(_) if news => tracing::info!(%name, "a name resolves again"),
                    Err(why) if news => tracing::warn!(%name, "a name does not resolve: {why}; tried again and again"),
                    Ok(_) | Err(_) => {}
                }
                world.resolved(&name, result);
            }
            changed = changes.changed() => {
                if changed.is_err() {
                    return std::future::pending().await;
                }
            }
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// The names that services beside this node may call.
pub(super) fn wanted(entries: &Entries, services: &Services, node: &NodeId) -> Names {
    names(entries, &services.on(node).map(|endpoint| endpoint.id.service.namespace()).collect())
}

/// Addresses without repetition, in the order in which they came: those to which a way leads from this machine.
fn answered(look: io::Result<Vec<IpAddr>>) -> Result<Vec<IpAddr>, String> {
    let found = look.map_err(|error| error.to_string())?;
    let mut addresses: Vec<IpAddr> = Vec::new();
    for address in found.into_iter().map(|address| address.to_canonical()) {
        if !addresses.contains(&address) && addresses.len() < MAX_ADDRESSES {
            addresses.push(address);
        }
    }
    if addresses.is_empty() {
        return Err("it has no address".to_owned());
    }
    Ok(reachable(addresses, |address| way((address, ANY_PORT).into()).is_some()))
}

/// Those of the families towards which there is a way: a machine without IPv6 is told of addresses of IPv6 all the same. Where there is no
/// way at all, as while its network is down, all stay.
fn reachable(mut addresses: Vec<IpAddr>, has_way: impl Fn(IpAddr) -> bool) -> Vec<IpAddr> {
    let leads = |is_ipv4| addresses.iter().filter(|address| address.is_ipv4() == is_ipv4).any(|at| has_way(*at));
    let (by_ipv4, by_ipv6) = (leads(true), leads(false));
    if by_ipv4 != by_ipv6 {
        addresses.retain(|address| address.is_ipv4() == by_ipv4);
    }
    addresses
}
