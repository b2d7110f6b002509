//! Addresses to which this node connects for nobody: what a name may not mean (attack cases R8, A107), and the node's own ports.

use crate::capture::MACHINE_SERVICES;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// IPv4 inside IPv6 by NAT64 (RFC 6052).
const NAT64: [u16; 6] = [0x64, 0xff9b, 0, 0, 0, 0];
/// The same by 6to4 (RFC 3056), where the IPv4 address follows.
const SIX_TO_FOUR: u16 = 0x2002;

/// Listeners of this node that are no application's: administration, the mesh, and ports at which requests would come back to it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(in crate::agent) struct OwnPorts {
    /// Where it listens.
    pub(in crate::agent) listeners: Vec<SocketAddr>,
    /// Loopback addresses that mean services of the mesh to programs of this machine.
    pub(in crate::agent) services: Vec<IpAddr>,
    /// Addresses of this machine.
    pub(in crate::agent) machine: Vec<IpAddr>,
}

impl OwnPorts {
    /// Of this machine.
    pub(in crate::agent) fn of(listeners: Vec<SocketAddr>, services: Vec<IpAddr>) -> Self {
        Self { listeners, services, machine: machine() }
    }

    /// True if one of them is reached there.
    pub(in crate::agent) fn contains(&self, to: SocketAddr) -> bool {
        let ip = to.ip().to_canonical();
        if self.services.contains(&ip) {
            return true;
        }
        let of_machine = ip.is_loopback() || ip.is_unspecified() || self.machine.contains(&ip);
        self.listeners.iter().any(|own| {
            let bound = own.ip().to_canonical();
            // Linux takes the unspecified address for the machine itself.
            let here = if bound.is_unspecified() { of_machine } else { bound == ip || ip.is_unspecified() };
            own.port() == to.port() && own.port() != 0 && here
        })
    }
}

/// Addresses of this machine; none if it does not say.
pub(in crate::agent) fn machine() -> Vec<IpAddr> {
    let all = nix::ifaddrs::getifaddrs().into_iter().flatten();
    let ip = |address: nix::ifaddrs::InterfaceAddress| {
        let address = address.address?;
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
    };
    all.filter_map(ip).collect()
}

/// Why a name may not mean this address; `None` if it may. Whoever writes `localhost` has written this machine.
pub(in crate::agent) fn refused(name: &str, address: IpAddr) -> Option<&'static str> {
    refused_of(address, is_localhost(name))
}

/// True if a name means this machine to everybody (RFC 6761, 6.3).
pub(in crate::agent) fn is_localhost(name: &str) -> bool {
    name == "localhost" || name.ends_with(".localhost")
}

/// The same of a name that some document names, or does not, as one of this machine.
pub(in crate::agent) fn refused_of(address: IpAddr, may_be_here: bool) -> Option<&'static str> {
    let address = embedded(address).unwrap_or_else(|| address.to_canonical());
    let what = match address {
        address if MACHINE_SERVICES.contains(&address) => "a cloud's metadata service",
        IpAddr::V4(v4) if v4.is_loopback() => "this machine",
        IpAddr::V4(v4) if v4.octets()[0] == 0 => "no machine, or this one",
        IpAddr::V4(v4) if v4.is_link_local() => "a link-local address",
        IpAddr::V4(v4) if v4.is_multicast() || v4.is_broadcast() => "no single machine",
        IpAddr::V6(v6) if v6.is_loopback() => "this machine",
        IpAddr::V6(v6) if v6.is_unspecified() => "no machine, or this one",
        IpAddr::V6(v6) if v6.segments()[0] & 0xffc0 == 0xfe80 => "a link-local address",
        IpAddr::V6(v6) if v6.is_multicast() => "no single machine",
        IpAddr::V4(_) | IpAddr::V6(_) => return None,
    };
    (!may_be_here || !address.is_loopback()).then_some(what)
}

fn embedded(address: IpAddr) -> Option<IpAddr> {
    let IpAddr::V6(v6) = address else { return None };
    let segments = v6.segments();
    // `::a.b.c.d` is not used any more, and some stacks still take it; `::` and `::1` are no such address.
    let compatible = segments[..6] == [0; 6] && segments[6] != 0;
    let octets = v6.octets();
    if segments[0] == SIX_TO_FOUR {
        let [_, _, a, b, c, d, ..] = octets;
        return Some(IpAddr::V4(Ipv4Addr::new(a, b, c, d)));
    }
    let [.., a, b, c, d] = octets;
    (segments[..6] == NAT64 || compatible).then(|| IpAddr::V4(Ipv4Addr::new(a, b, c, d)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a107_names_mean_no_machine_of_the_callers_own() {
        for address in [
            "127.0.0.1",
            "127.9.9.9",
            "::1",
            "0.0.0.0",
            "0.1.2.3",
            "::",
            "169.254.169.254",
            "fe80::1",
            "febf::1",
            "fd00:ec2::254",
            "::ffff:169.254.169.254",
            "::ffff:127.0.0.1",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b::7f00:1",
            "::127.0.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "ff02::1",
            "100.100.100.200",
            "::ffff:100.100.100.200",
            "168.63.129.16",
            "192.0.0.192",
            "2002:7f00:1::1",
            "2002:a9fe:a9fe::",
        ] {
            assert!(refused("rebind.example", address.parse().unwrap()).is_some(), "{address}");
        }
        for address in [
            "93.184.216.34",
            "10.0.0.1",
            "192.168.1.1",
            "2001:db8::1",
            "fd00::1",
            "64:ff9b::102:304",
            "2002:102:304::1",
        ] {
            assert_eq!(refused("api.example", address.parse().unwrap()), None, "{address}");
        }
        for (name, address, fine) in [
            ("localhost", "127.0.0.1", true),
            ("app.localhost", "::1", true),
            ("localhost", "169.254.169.254", false),
            ("localhost.example", "127.0.0.1", false),
            ("notlocalhost", "127.0.0.1", false),
        ] {
            assert_eq!(refused(name, address.parse().unwrap()).is_none(), fine, "{name} {address}");
        }
    }

    #[test]
    fn own_ports_are_known_by_every_address_of_the_machine() {
        let own = OwnPorts {
            listeners: ["127.0.0.1:15000", "0.0.0.0:15008", "127.0.0.1:0"].map(|text| text.parse().unwrap()).to_vec(),
            services: vec!["127.240.0.9".parse().unwrap()],
            machine: vec!["10.0.0.5".parse().unwrap()],
        };
        for (address, is_own) in [
            ("127.0.0.1:15000", true),
            ("[::ffff:127.0.0.1]:15000", true),
            ("0.0.0.0:15000", true),
            ("10.0.0.5:15000", false),
            ("10.0.0.5:15008", true),
            ("127.0.0.2:15008", true),
            ("10.0.0.6:15008", false),
            ("127.0.0.1:80", false),
            ("127.0.0.1:0", false),
            ("127.240.0.9:80", true),
            ("127.240.0.8:80", false),
        ] {
            assert_eq!(own.contains(address.parse().unwrap()), is_own, "{address}");
        }
    }
}
