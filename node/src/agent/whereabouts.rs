//! Where others are told that this node is: as configured; else at the address that its machine has towards other nodes now, whatever it
//! had on the day on which it joined.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    sync::Arc,
    time::Duration,
};

use membership::body::{Address, Body};

use super::{
    addresses::Addresses,
    error::{Error, fail},
    members::Members,
    outside::machine,
    state_dir::{Owner, StateDir},
};
use crate::tasks::Tasks;

/// Time between two looks at the machine's addresses.
const INTERVAL: Duration = Duration::from_secs(5);
/// Nodes towards which a way is looked for.
const LOOKED_FOR: usize = 16;
/// An address of documentation (RFC 5737): nothing is sent there, it only picks the route.
const ANYWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 9);

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
        let last = self.owner.address.map(|address| address.ip());
        // A machine whose network is not up has no way to anybody: what was told last stands until it is.
        let ip = found(last, &machine(), &self.addresses.known(), way).or(last);
        SocketAddr::new(ip.unwrap_or(Ipv4Addr::LOCALHOST.into()), self.bound.port())
    }

    /// Tells others, and the next run, whenever that has changed. Runs until the process ends.
    pub async fn follow(mut self, mut address: Address, members: Members, tasks: Tasks) {
        loop {
            self.keep(address.addresses.first().copied()).await;
            tokio::select! {
                () = tokio::time::sleep(INTERVAL) => {}
                () = tasks.stopping() => return,
            }
            let told = self.told();
            if address.addresses != [told] {
                tracing::info!(before = ?address.addresses, now = %told, "the machine's address has changed: others are told");
                address.addresses = vec![told];
                members.publish(Body::Address(address.clone())).await;
            }
        }
    }

    /// Keeps for the next run what others are told. A disk that refuses is told of elsewhere, and tried again.
    async fn keep(&mut self, told: Option<SocketAddr>) {
        if self.owner.address == told {
            return;
        }
        let (dir, owner) = (self.dir.clone(), Owner { address: told, ..self.owner.clone() });
        let written = tokio::task::spawn_blocking(move || dir.own(&owner).map(|()| owner)).await;
        match written {
            Ok(Ok(owner)) => self.owner = owner,
            Ok(Err(error)) => tracing::debug!(code = %error.code, "the machine's address is not on disk: {error}"),
            Err(error) => tracing::debug!("the machine's address is not on disk: {error}"),
        }
    }
}

/// The address by which others reach this machine: the one that they were told `last` while it is one of `machine`'s, else the one by
/// which `way` leads to known nodes, else to anywhere. Loopback only where all that is known lies there.
fn found(
    last: Option<IpAddr>,
    machine: &[IpAddr],
    known: &[SocketAddr],
    way: impl Fn(SocketAddr) -> Option<IpAddr>,
) -> Option<IpAddr> {
    // A machine that does not say what it has is no reason to doubt.
    let is_here = |ip: &IpAddr| !ip.is_loopback() && (machine.is_empty() || machine.contains(ip));
    last.filter(is_here).or_else(|| {
        let ways: Vec<IpAddr> = known.iter().take(LOOKED_FOR).filter_map(|at| way(*at)).collect();
        let outside = ways.iter().find(|ip| !ip.is_loopback());
        outside.or(ways.first()).copied().or_else(|| way(ANYWHERE))
    })
}

/// The address by which this machine speaks to `remote`, if there is a way. Sends nothing.
pub(super) fn way(remote: SocketAddr) -> Option<IpAddr> {
    let any: IpAddr = if remote.is_ipv4() { [0, 0, 0, 0].into() } else { [0u16; 8].into() };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect(remote).ok()?;
    Some(socket.local_addr().ok()?.ip())
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
    fn what_others_were_told_stands_as_long_as_the_machine_has_it() {
        let machine = [ip("127.0.0.1"), ip("10.0.0.7"), ip("10.9.0.1")];
        let (enroller, tunnel) = (at("10.0.0.1:15008"), at("127.0.0.1:15008"));
        let way = |to: SocketAddr| match to {
            to if to == enroller => Some(ip("10.0.0.7")),
            to if to == tunnel => Some(ip("127.0.0.1")),
            _ => None,
        };
        let found = |last: Option<&str>, known: &[SocketAddr]| found(last.map(ip), &machine, known, way);
        assert_eq!(found(Some("10.9.0.1"), &[enroller]), Some(ip("10.9.0.1")));
        assert_eq!(found(Some("10.0.0.6"), &[enroller]), Some(ip("10.0.0.7")), "of another day");
        assert_eq!(found(Some("127.0.0.1"), &[enroller]), Some(ip("10.0.0.7")), "there was no route when it joined");
        assert_eq!(found(None, &[tunnel, enroller]), Some(ip("10.0.0.7")), "by a tunnel others are not reached");
        assert_eq!(found(Some("127.0.0.1"), &[tunnel]), Some(ip("127.0.0.1")), "a mesh on one machine");
        assert_eq!(found(Some("10.0.0.6"), &[]), None, "no way to anybody");
        let anywhere = |to| (to == ANYWHERE).then(|| ip("10.9.0.1"));
        assert_eq!(super::found(None, &machine, &[], anywhere), Some(ip("10.9.0.1")), "the first node");
        assert_eq!(super::found(Some(ip("10.0.0.6")), &[], &[enroller], way), Some(ip("10.0.0.6")), "nothing is known");
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

    #[tokio::test]
    async fn a_node_whose_machine_has_another_address_than_on_the_day_it_joined_tells_that() {
        let folder = tempfile::tempdir().unwrap();
        let dir = Arc::new(StateDir::open(&folder.path().join("state")).unwrap());
        let owner = Owner {
            node: NodeId::new("a").unwrap(),
            trust_domain: TrustDomain::new("t.example").unwrap(),
            address: Some(at("192.0.2.77:15008")),
            enroller: Some(at("127.0.0.1:15008")),
        };
        dir.own(&owner).unwrap();
        let enroller = owner.enroller.iter().map(ToString::to_string).collect();
        let addresses = Arc::new(Addresses::load(dir.clone(), enroller));
        let mut here = Whereabouts { dir: dir.clone(), owner, advertise: None, bound: at("0.0.0.0:15009"), addresses };
        assert!(!here.is_fixed());
        assert_eq!(here.told(), at("127.0.0.1:15009"));
        here.keep(Some(here.told())).await;
        assert_eq!(dir.owner().unwrap().unwrap().address, Some(at("127.0.0.1:15009")));
        here.bound = at("127.0.0.2:15009");
        assert_eq!((here.is_fixed(), here.told()), (true, here.bound));
        here.advertise = Some(at("203.0.113.5:15008"));
        assert_eq!(here.told(), at("203.0.113.5:15008"));
    }
}
