//! Where others are told that this node is: as configured; else at the address that its machine has towards other nodes now, whatever it
//! had on the day on which it joined.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::Arc,
    time::Duration,
};

use certs::codec::Millis;
use membership::body::{Address, Body};

use super::{
    addresses::Addresses,
    error::{Error, fail},
    members::Members,
    outside::machine,
    state_dir::{Owner, StateDir},
};
use crate::{clock, tasks::Tasks};

/// Time between two looks at the machine's addresses.
const INTERVAL: Duration = Duration::from_secs(5);
/// For how long an address must be missed, milliseconds, before the node tells another one for good: a lease that is renewed, or an
/// interface that starts again, is no move.
const PATIENCE: Millis = 60_000;
/// Nodes towards which a way is looked for.
const LOOKED_FOR: usize = 16;
/// An address of documentation (RFC 5737): nothing is sent there, it only picks the route.
const ANYWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 9);
/// The same of IPv6 (RFC 3849).
const ANYWHERE_BY_IPV6: SocketAddr = SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 9)), 9);

/// By what the address is found.
pub struct Whereabouts {
    /// Where what was found is kept.
    pub dir: Arc<StateDir>,
    /// Whose address it is, and what others were told last.
    pub owner: Owner,
    /// `[mesh] advertise`.
    pub advertise: Option<SocketAddr>,
    /// Where the mesh port listens.
    pub bound: SocketAddr,
    /// Where other nodes are.
    pub addresses: Arc<Addresses>,
}

impl Whereabouts {
    /// Whether the configuration says it for as long as the process runs.
    pub fn is_fixed(&self) -> bool {
        self.advertise.is_some() || !self.bound.ip().is_unspecified()
    }

    /// What others are to be told now.
    pub fn told(&self) -> SocketAddr {
        if let Some(address) = self.advertise {
            return address;
        }
        if self.is_fixed() {
            return self.bound;
        }
        let machine = machine();
        // A machine whose network is not up has no way to anybody: what was told last stands until it is.
        let last = || {
            let last = self.owner.found.or(self.owner.address)?;
            Some(last.ip()).filter(|ip| takes(self.bound, ip))
        };
        let ip = self.noted(&machine).or_else(|| found(self.bound, &self.addresses.known(), way)).or_else(last);
        SocketAddr::new(ip.unwrap_or(Ipv4Addr::LOCALHOST.into()), self.bound.port())
    }

    /// Tells others, and the next run, whenever that has changed. Runs until the process ends.
    pub async fn follow(mut self, mut address: Address, members: Members, tasks: Tasks) {
        let mut missing = Missing::default();
        loop {
            let machine = machine();
            let before = address.addresses.first().copied().unwrap_or(self.bound);
            let towards = || found(self.bound, &self.addresses.known(), way);
            let (ip, is_lasting) = missing.look(before.ip(), self.noted(&machine), &machine, clock::uptime(), towards);
            let told = SocketAddr::new(ip, self.bound.port());
            if address.addresses != [told] {
                tracing::info!(before = ?address.addresses, now = %told, "the machine's address has changed: others are told");
                address.addresses = vec![told];
                members.publish(Body::Address(address.clone())).await;
            }
            if is_here(&ip, &machine) && (is_lasting || self.first().is_none()) {
                self.keep(told).await;
            }
            tokio::select! {
                () = tokio::time::sleep(INTERVAL) => {}
                () = tasks.stopping() => return,
            }
        }
    }

    /// The address that was noted first, if it is one by which others reach a machine.
    fn first(&self) -> Option<SocketAddr> {
        self.owner.address.filter(|first| !first.ip().is_loopback() && takes(self.bound, &first.ip()))
    }

    /// What is noted and the machine has: rather the first address than one that was found instead of it.
    fn noted(&self, machine: &[IpAddr]) -> Option<IpAddr> {
        let mut noted = [self.owner.address, self.owner.found].into_iter().flatten().map(|address| address.ip());
        noted.find(|ip| is_here(ip, machine) && takes(self.bound, ip))
    }

    /// Keeps for the next run what others are told, beside the first address if that is another one. A disk that refuses is told of
    /// elsewhere, and tried again.
    async fn keep(&mut self, told: SocketAddr) {
        let owner = match self.first().filter(|first| first.ip() != told.ip()) {
            Some(_) => Owner { found: Some(told), ..self.owner.clone() },
            None => Owner { address: Some(told), found: None, ..self.owner.clone() },
        };
        if self.owner == owner {
            return;
        }
        let dir = self.dir.clone();
        let written = tokio::task::spawn_blocking(move || dir.own(&owner).map(|()| owner)).await;
        match written {
            Ok(Ok(owner)) => self.owner = owner,
            Ok(Err(error)) => tracing::debug!(code = %error.code, "the machine's address is not on disk: {error}"),
            Err(error) => tracing::debug!("the machine's address is not on disk: {error}"),
        }
    }
}

/// Since when addresses are missed, by uptime.
#[derive(Debug, Default)]
struct Missing {
    /// What others are told.
    told: Option<Millis>,
    /// All that is noted.
    noted: Option<Millis>,
    /// What others are told was there once in this run: only such an address may come back at any moment.
    seen: bool,
}

impl Missing {
    /// What others are to be told after a look at the `machine`'s addresses, and whether the next run shall know of it: `told` is what
    /// they are told, `noted` what is noted and there, `found` looks for another one.
    fn look(
        &mut self,
        told: IpAddr,
        noted: Option<IpAddr>,
        machine: &[IpAddr],
        now: Millis,
        found: impl FnOnce() -> Option<IpAddr>,
    ) -> (IpAddr, bool) {
        let stands = is_here(&told, machine);
        self.seen |= stands;
        let is_lost = is_over(&mut self.told, stands, now) || told.is_loopback() || !self.seen;
        let is_away = is_over(&mut self.noted, noted.is_some(), now);
        let next = noted.unwrap_or_else(|| if stands || !is_lost { told } else { found().unwrap_or(told) });
        (next, noted.is_some() || is_away)
    }
}

/// Whether something has been missed for long enough.
fn is_over(since: &mut Option<Millis>, is_there: bool, now: Millis) -> bool {
    if is_there {
        *since = None;
        return false;
    }
    now.saturating_sub(*since.get_or_insert(now)) >= PATIENCE
}

/// Whether an address is one of `machine`'s by which others reach it. A machine that does not say what it has is no reason to doubt.
fn is_here(ip: &IpAddr, machine: &[IpAddr]) -> bool {
    !ip.is_loopback() && (machine.is_empty() || machine.contains(ip))
}

/// Whether a socket that is bound there can be reached at this address: one of IPv6 takes IPv4, too.
pub(super) fn takes(bound: SocketAddr, ip: &IpAddr) -> bool {
    ip.is_ipv4() || bound.is_ipv6()
}

/// The address by which `way` leads from this machine to known nodes, else to anywhere. Loopback only where all that is known lies there.
fn found(bound: SocketAddr, known: &[SocketAddr], way: impl Fn(SocketAddr) -> Option<IpAddr>) -> Option<IpAddr> {
    let way = |to: SocketAddr| way(to).filter(|ip| takes(bound, ip));
    let ways: Vec<IpAddr> = known.iter().take(LOOKED_FOR).filter_map(|at| way(*at)).collect();
    let outside = ways.iter().find(|ip| !ip.is_loopback());
    outside.or(ways.first()).copied().or_else(|| way(ANYWHERE)).or_else(|| way(ANYWHERE_BY_IPV6))
}

/// The address by which this machine speaks to `remote`, if there is a way. Sends nothing.
pub(super) fn way(remote: SocketAddr) -> Option<IpAddr> {
    let any: IpAddr = if remote.is_ipv4() { [0, 0, 0, 0].into() } else { [0u16; 8].into() };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect(remote).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

/// Whether nobody hears at an address of IPv6, unless another device translates: the mesh port takes IPv4 only.
pub fn needs_translation(told: SocketAddr, bound: SocketAddr) -> bool {
    told.ip().to_canonical().is_ipv6() && bound.is_ipv4()
}

/// What is wrong with an address that was configured, if it is the `machine`'s own, so that nobody else translates.
pub(super) fn deaf(told: SocketAddr, bound: SocketAddr, machine: &[IpAddr]) -> Option<Error> {
    let message =
        format!("others are told {told}, an address of this machine, and the mesh port at {bound} takes IPv4 only");
    let hint =
        format!("write listen = \"[::]:{}\" into [mesh]: it takes IPv4, too; and restart the node", bound.port());
    (needs_translation(told, bound) && machine.contains(&told.ip())).then(|| fail("address_not_here", message, hint))
}

/// What is wrong with an address that was not configured; `others` are those of other nodes.
pub(super) fn trouble(
    told: SocketAddr,
    machine: &[IpAddr],
    mut others: impl Iterator<Item = SocketAddr>,
) -> Option<Error> {
    let hint = "write an address by which others reach this machine into [mesh] advertise, and restart the node";
    if told.ip().is_loopback() {
        let other = others.find(|other| !other.ip().is_loopback() && !machine.contains(&other.ip()))?;
        let message = format!("others are told {told}, which leads nowhere from where they are, e.g. {other}");
        return Some(fail("address_not_here", message, hint));
    }
    let is_here = machine.is_empty() || machine.contains(&told.ip());
    let message = format!("others are told {told}, which is no address of this machine");
    (!is_here).then(|| fail("address_not_here", message, hint))
}

#[cfg(test)]
mod tests {
    use super::*;
    use certs::id::{NodeId, TrustDomain};

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_is_found_by_the_way_to_others() {
        let (enroller, tunnel, sixth) = (at("10.0.0.1:15008"), at("127.0.0.1:15008"), at("[2001:db8::1]:15008"));
        let way = |to: SocketAddr| match to {
            to if to == enroller => Some(ip("10.0.0.7")),
            to if to == tunnel => Some(ip("127.0.0.1")),
            to if to == sixth => Some(ip("2001:db8::7")),
            _ => None,
        };
        let any = at("0.0.0.0:15008");
        let found = |bound: SocketAddr, known: &[SocketAddr]| super::found(bound, known, way);
        assert_eq!(found(any, &[enroller]), Some(ip("10.0.0.7")));
        assert_eq!(found(any, &[tunnel, enroller]), Some(ip("10.0.0.7")), "by a tunnel others are not reached");
        assert_eq!(found(any, &[tunnel]), Some(ip("127.0.0.1")), "a mesh on one machine");
        assert_eq!(found(any, &[]), None, "no way to anybody");
        assert_eq!(found(any, &[sixth, enroller]), Some(ip("10.0.0.7")), "nobody reaches it by IPv6");
        assert_eq!(found(at("[::]:15008"), &[sixth, enroller]), Some(ip("2001:db8::7")));
        assert_eq!(found(at("[::]:15008"), &[enroller]), Some(ip("10.0.0.7")), "it takes IPv4, too");
        let anywhere = |to| (to == ANYWHERE).then(|| ip("10.9.0.1"));
        assert_eq!(super::found(any, &[], anywhere), Some(ip("10.9.0.1")), "the first node");
        let by_ipv6 = |to| (to == ANYWHERE_BY_IPV6).then(|| ip("2001:db8::7"));
        assert_eq!(super::found(at("[::]:15008"), &[], by_ipv6), Some(ip("2001:db8::7")), "a machine without IPv4");
        assert_eq!(super::found(any, &[], by_ipv6), None, "nobody would hear there");
    }

    #[test]
    fn an_address_is_given_up_only_when_it_was_missed_for_a_minute() {
        let (home, other) = (ip("10.0.0.7"), ip("10.9.0.1"));
        let (both, without) = ([home, other], [other]);
        let found = || Some(other);
        let mut missing = Missing::default();
        assert_eq!(missing.look(home, Some(home), &both, 0, found), (home, true), "it stands while it is there");
        assert_eq!(missing.look(home, None, &without, 5_000, found), (home, false));
        assert_eq!(missing.look(home, None, &without, 60_000, found), (home, false));
        assert_eq!(missing.look(home, Some(home), &both, 62_000, found), (home, true), "it came back");
        assert_eq!(missing.look(home, None, &without, 70_000, found), (home, false));
        assert_eq!(missing.look(home, None, &without, 130_000, || None), (home, true), "no way to anybody");
        assert_eq!(missing.look(home, None, &without, 135_000, found), (other, true));
        assert_eq!(missing.look(other, Some(home), &both, 140_000, found), (home, true), "what was first is preferred");
        let mut started = Missing::default();
        assert_eq!(started.look(other, None, &without, 0, found), (other, false), "not yet for the next run");
        assert_eq!(started.look(other, None, &without, 60_000, found), (other, true));
        let mut early = Missing::default();
        assert_eq!(early.look(home, None, &without, 3_000, found).0, other, "this run has not seen it at all");
        let mut alone = Missing::default();
        let loopback = ip("127.0.0.1");
        assert_eq!(alone.look(loopback, None, &both, 0, found).0, other, "there was no route when it started");
        assert_eq!(alone.look(home, None, &[], 5_000, found).0, home, "a machine that does not say what it has");
    }

    #[test]
    fn an_address_that_leads_nowhere_is_told() {
        let machine = [ip("127.0.0.1"), ip("10.0.0.7")];
        let told = |told: &str, others: &[SocketAddr]| {
            trouble(at(told), &machine, others.iter().copied()).map(|error| error.message)
        };
        let other = at("10.0.0.1:15008");
        assert_eq!(told("10.0.0.7:15008", &[other]), None);
        assert!(told("10.0.0.6:15008", &[]).unwrap().contains("no address of this machine"));
        assert_eq!(told("127.3.0.9:15008", &[at("127.3.0.1:15008")]), None);
        assert_eq!(told("127.0.0.1:15008", &[at("10.0.0.7:15009")]), None, "two nodes of one machine");
        assert!(told("127.0.0.1:15008", &[at("127.0.0.1:1"), other]).unwrap().contains("10.0.0.1:15008"));
    }

    #[test]
    fn an_own_address_of_ipv6_needs_a_port_that_takes_it() {
        let machine = [ip("::1"), ip("2001:db8::7")];
        let told = |told: &str, bound: &str| deaf(at(told), at(bound), &machine).map(|error| error.hint);
        let hint = told("[2001:db8::7]:16001", "0.0.0.0:16001").unwrap();
        assert!(hint.contains("listen = \"[::]:16001\""), "{hint}");
        assert_eq!(told("[2001:db8::7]:16001", "[::]:16001"), None);
        assert_eq!(told("[2001:db8::8]:16001", "0.0.0.0:16001"), None, "another device may translate");
        assert_eq!(told("10.0.0.7:16001", "0.0.0.0:16001"), None);
    }

    #[tokio::test]
    async fn a_node_whose_machine_has_another_address_than_on_the_day_it_joined_tells_that() {
        let folder = tempfile::tempdir().unwrap();
        let dir = Arc::new(StateDir::open(&folder.path().join("state")).unwrap());
        let owner = Owner {
            node: NodeId::new("a").unwrap(),
            trust_domain: TrustDomain::new("t.example").unwrap(),
            address: Some(at("192.0.2.77:15008")),
            enroller: Some(at("127.0.0.1:15008")),
            found: None,
            later: serde_json::Map::default(),
        };
        dir.own(&owner).unwrap();
        let enroller = owner.enroller.iter().map(ToString::to_string).collect();
        let addresses = Arc::new(Addresses::load(dir.clone(), enroller));
        let mut here = Whereabouts { dir: dir.clone(), owner, advertise: None, bound: at("0.0.0.0:15009"), addresses };
        assert!(!here.is_fixed());
        assert_eq!(here.told(), at("127.0.0.1:15009"));
        let noted = || dir.owner().unwrap().map(|owner| (owner.address, owner.found)).unwrap();
        here.keep(at("198.51.100.7:15009")).await;
        assert_eq!(noted(), (Some(at("192.0.2.77:15008")), Some(at("198.51.100.7:15009"))));
        assert_eq!(here.noted(&[ip("198.51.100.7")]), Some(ip("198.51.100.7")));
        assert_eq!(here.noted(&[ip("198.51.100.7"), ip("192.0.2.77")]), Some(ip("192.0.2.77")), "the first");
        here.keep(at("192.0.2.77:15009")).await;
        assert_eq!(noted(), (Some(at("192.0.2.77:15009")), None));
        here.bound = at("127.0.0.2:15009");
        assert_eq!((here.is_fixed(), here.told()), (true, here.bound));
        here.advertise = Some(at("203.0.113.5:15008"));
        assert_eq!(here.told(), at("203.0.113.5:15008"));
    }
}
