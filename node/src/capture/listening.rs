//! Which ports of applications other machines reach, as the kernel says who listens: a capture opens no port that was shut.

use crate::config::Service;
use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

/// A listening socket in /proc/net/tcp.
const LISTENS: &str = "0A";

/// Where programs of this machine listen.
#[must_use]
pub fn listening() -> Vec<SocketAddr> {
    let of = |file: &str| -> Vec<SocketAddr> {
        let text = fs::read_to_string(file).unwrap_or_default();
        text.lines().skip(1).filter_map(listener).collect()
    };
    [of("/proc/net/tcp"), of("/proc/net/tcp6")].concat()
}

/// The services' ports that other machines reach by themselves: the application listens at every address, or at the one that its
/// service names. Without an address (`0.0.0.0`) it is meant at each of them. Ports at which the node itself listens are not meant.
#[must_use]
pub fn targets(services: &[Service], listening: &[SocketAddr], own: &[SocketAddr]) -> Vec<SocketAddr> {
    let is_own = |port: u16| own.iter().any(|own| own.port() == port && !own.ip().to_canonical().is_loopback());
    let reached = |target: SocketAddr| {
        let is_here = |at: &SocketAddr| {
            at.port() == target.port()
                && (at.ip().is_unspecified() || at.ip().to_canonical() == target.ip().to_canonical())
        };
        listening.iter().any(is_here)
    };
    let ports = services.iter().flat_map(|service| service.ports.iter().map(|port| port.target));
    let meant = ports.filter(|target| !is_own(target.port())).filter_map(|target| {
        let unnamed = target.ip().is_loopback() || target.ip().is_unspecified();
        let anywhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, target.port()));
        let meant = if unnamed { anywhere } else { target };
        reached(meant).then_some(meant)
    });
    let mut all: Vec<SocketAddr> = meant.collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// A line of /proc/net/tcp or tcp6, if it is of a listener.
fn listener(line: &str) -> Option<SocketAddr> {
    let mut words = line.split_whitespace().skip(1);
    let (local, state) = (words.next()?, words.nth(1)?);
    if state != LISTENS {
        return None;
    }
    let (ip, port) = local.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    // Words of 32 bits, each in the machine's own order.
    let word = |at: usize| Some(u32::from_str_radix(ip.get(at * 8..at * 8 + 8)?, 16).ok()?.to_ne_bytes());
    let ip = match ip.len() {
        8 => IpAddr::from(word(0)?),
        32 => {
            let bytes: [u8; 16] = [word(0)?, word(1)?, word(2)?, word(3)?].concat().try_into().ok()?;
            IpAddr::V6(Ipv6Addr::from(bytes))
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn services(targets: &[&str]) -> Vec<Service> {
        let ports: Vec<String> = targets
            .iter()
            .enumerate()
            .map(|(index, target)| format!("{{ name = \"p{index}\", port = {}, target = \"{target}\" }}", index + 1))
            .collect();
        let text = format!("[[service]]\nname = \"a\"\nports = [{}]\n", ports.join(", "));
        vec![config::service_from_toml(std::path::Path::new("a.toml"), &text).unwrap()]
    }

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn lines_of_the_kernel_are_read() {
        if cfg!(target_endian = "little") {
            let line = |local: &str, state: &str| format!("  0: {local} 00000000:0000 {state} 00000000:00000000 00:0");
            assert_eq!(listener(&line("0500000A:1F90", "0A")), "10.0.0.5:8080".parse().ok());
            assert_eq!(listener(&line("00000000:0050", "0A")), "0.0.0.0:80".parse().ok());
            assert_eq!(listener(&line("0500000A:1F90", "01")), None, "a connection");
            let v6 = line("000000FD000000000000000005000000:1F90", "0A");
            assert_eq!(listener(&v6), "[fd00::5]:8080".parse().ok());
        }
        for bad in ["", "0: x", "0: 0500000A:1F90", "0: 05:1F90 0 0A", "0: 0500000A:ZZ 0 0A", "0: ÄÄÄÄ:1 0 0A"] {
            assert_eq!(listener(bad), None, "{bad}");
        }
        let here = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(listening().contains(&here.local_addr().unwrap()));
    }

    #[test]
    fn what_only_the_machine_itself_reaches_stays_so() {
        let of = |services: &[Service], listening: &[&str], own: &[&str]| {
            targets(services, &addresses(listening), &addresses(own))
        };
        let web = services(&["127.0.0.1:80", "10.0.0.5:81", "127.0.0.1:82"]);
        let all = addresses(&["0.0.0.0:80", "0.0.0.0:82", "10.0.0.5:81"]);
        assert_eq!(of(&web, &["0.0.0.0:80", "10.0.0.5:81", "[::]:82"], &[]), all);
        assert_eq!(of(&web, &["127.0.0.1:80", "10.0.0.6:81", "[::1]:82"], &[]), [], "at loopback, or elsewhere");
        assert_eq!(of(&web, &["0.0.0.0:81", "0.0.0.0:83"], &[]), addresses(&["10.0.0.5:81"]), "others are nobody's");
        let own = ["0.0.0.0:80", "127.0.0.1:82"];
        assert_eq!(of(&web, &["0.0.0.0:80", "0.0.0.0:82"], &own), addresses(&["0.0.0.0:82"]), "the node's own");
    }
}
