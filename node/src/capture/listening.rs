//! Which ports of applications other machines reach, as the kernel says who listens: a capture opens no port that was shut.

use crate::{clock, config::Service, tasks::Tasks};
use std::{
    fs,
    io::{self, BufRead},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::Mutex;

/// A listening socket in /proc/net/tcp.
const LISTENS: &str = "0A";
/// How long it is believed who listens.
const LATELY: Duration = Duration::from_millis(100);

/// Where programs of this machine listen.
///
/// # Errors
/// The kernel's list cannot be read; the error names it.
pub fn listening() -> io::Result<Vec<SocketAddr>> {
    let mut all = of_file(Path::new("/proc/net/tcp"))?;
    match of_file(Path::new("/proc/net/tcp6")) {
        Ok(v6) => all.extend(v6),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {} // a kernel without IPv6
        Err(error) => return Err(error),
    }
    Ok(all)
}

fn of_file(path: &Path) -> io::Result<Vec<SocketAddr>> {
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let file = io::BufReader::new(fs::File::open(path).map_err(named)?);
    listeners(file).map_err(named)
}

/// The kernel lists listeners first: where they end the rest, which may be long, is not even made.
fn listeners(list: impl BufRead) -> io::Result<Vec<SocketAddr>> {
    let mut all = Vec::new();
    for line in list.lines().skip(1) {
        let line = line?;
        if line.split_whitespace().nth(3) != Some(LISTENS) {
            break;
        }
        all.extend(listener(&line));
    }
    Ok(all)
}

/// The services' ports at which connections of other machines are meant, of each family: at every address (`0.0.0.0`, `[::]`) or at one.
/// Where nobody listens it is every address of both: an application that is started again must not be reached by another way for the
/// moment that it takes. Where it listens for this machine only, none. Ports at which the node itself listens are not meant.
#[must_use]
pub fn targets(services: &[Service], listening: &[SocketAddr], own: &[SocketAddr]) -> Vec<SocketAddr> {
    let is_own = |port: u16| own.iter().any(|own| own.port() == port && !own.ip().to_canonical().is_loopback());
    let ports = services.iter().flat_map(|service| service.ports.iter().map(|port| port.target));
    let meant = ports.filter(|target| !is_own(target.port())).flat_map(|target| {
        let everywhere = || anywhere(target.port()).into();
        reached(target, listening).unwrap_or_else(everywhere)
    });
    let mut all: Vec<SocketAddr> = meant.collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// True if other machines reach the application of this target by themselves at this address.
#[must_use]
pub fn is_open(target: SocketAddr, at: SocketAddr, listening: &[SocketAddr]) -> bool {
    let at = at.ip().to_canonical();
    let holds = |place: SocketAddr| match place.ip().to_canonical() {
        ip if ip.is_unspecified() => ip.is_ipv4() == at.is_ipv4(),
        ip => ip == at,
    };
    reached(target, listening).is_some_and(|places| places.into_iter().any(holds))
}

/// Where other machines reach the application of a target; `None` if nobody listens at its port.
fn reached(target: SocketAddr, listening: &[SocketAddr]) -> Option<Vec<SocketAddr>> {
    let here = |at: &&SocketAddr| at.port() == target.port();
    let heard: Vec<IpAddr> = listening.iter().filter(here).map(|at| at.ip().to_canonical()).collect();
    if heard.is_empty() {
        return None;
    }
    // Where this node calls it.
    let called = match target.ip().to_canonical() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip @ (IpAddr::V4(_) | IpAddr::V6(_)) => ip,
    };
    let itself = || if called.is_loopback() { Vec::new() } else { vec![target] };
    if heard.contains(&called) {
        return Some(itself());
    }
    let [v4, v6] = anywhere(target.port());
    // One of IPv6 takes IPv4, too, unless somebody else could listen there.
    let by_v6 = heard.contains(&v6.ip());
    let by_v4 = heard.contains(&v4.ip()) || by_v6 && !heard.iter().any(IpAddr::is_ipv4);
    let is_its = if called.is_ipv4() { by_v4 } else { by_v6 };
    Some(if is_its { [by_v4.then_some(v4), by_v6.then_some(v6)].into_iter().flatten().collect() } else { itself() })
}

fn anywhere(port: u16) -> [SocketAddr; 2] {
    [(Ipv4Addr::UNSPECIFIED, port).into(), (Ipv6Addr::UNSPECIFIED, port).into()]
}

/// Who listens, as lately looked.
#[derive(Debug, Default)]
pub struct Listeners(Mutex<Option<(Instant, Arc<[SocketAddr]>)>>);

impl Listeners {
    /// As [`listening`], from a moment ago at most.
    ///
    /// # Errors
    /// As [`listening`].
    pub async fn lately(&self, tasks: &Tasks) -> io::Result<Arc<[SocketAddr]>> {
        let mut kept = self.0.lock().await;
        if let Some((looked, known)) = &*kept
            && clock::monotonic().duration_since(*looked) < LATELY
        {
            return Ok(Arc::clone(known));
        }
        let looked = clock::monotonic();
        let known: Arc<[SocketAddr]> = tasks.blocking(listening).await.map_err(io::Error::other)??.into();
        *kept = Some((looked, Arc::clone(&known)));
        Ok(known)
    }
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
        assert!(listening().unwrap().contains(&here.local_addr().unwrap()));
    }

    #[test]
    fn what_cannot_be_read_is_told_and_what_comes_after_the_listeners_is_left() {
        let error = of_file(Path::new("/nowhere/tcp")).unwrap_err().to_string();
        assert!(error.starts_with("/nowhere/tcp: "), "{error}");
        struct Once<'a>(&'a [u8]);
        impl io::Read for Once<'_> {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                if self.0.is_empty() {
                    return Err(io::Error::other("too far"));
                }
                self.0.read(buffer)
            }
        }
        let line = |state: &str| format!(" 0: 00000000:0050 00000000:0000 {state} 0\n");
        let text = |lines: &[&str]| format!("sl\n{}", lines.iter().map(|state| line(state)).collect::<String>());
        let read = |text: &str| listeners(io::BufReader::new(Once(text.as_bytes())));
        assert_eq!(read(&text(&["0A", "0A", "01"])).unwrap().len(), 2, "not read to its end");
        assert!(read(&text(&["0A"])).is_err(), "a list that breaks off is none");
    }

    fn of(services: &[Service], listening: &[&str]) -> Vec<String> {
        targets(services, &addresses(listening), &[]).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_only_the_machine_itself_reaches_stays_so() {
        let web = services(&["127.0.0.1:80"]);
        for hidden in [&["127.0.0.1:80"][..], &["[::1]:80"], &["10.0.0.5:80"], &["[::ffff:127.0.0.1]:80"]] {
            assert_eq!(of(&web, hidden), [""; 0], "{hidden:?}");
        }
        assert_eq!(of(&web, &["127.0.0.1:80", "[::]:80"]), [""; 0], "another program is at IPv6");
        assert_eq!(of(&services(&["[::1]:80"]), &["0.0.0.0:80"]), [""; 0], "this node does not reach it itself");
        let own = targets(&web, &addresses(&["0.0.0.0:80"]), &addresses(&["0.0.0.0:80"]));
        assert_eq!(own, [], "the node's own");
    }

    #[test]
    fn a_family_at_which_nobody_listens_is_left_alone() {
        let web = services(&["127.0.0.1:80"]);
        assert_eq!(of(&web, &["0.0.0.0:80"]), ["0.0.0.0:80"]);
        assert_eq!(of(&web, &["[::]:80"]), ["0.0.0.0:80", "[::]:80"]);
        assert_eq!(of(&web, &["0.0.0.0:80", "[::]:80"]), ["0.0.0.0:80", "[::]:80"]);
    }

    #[test]
    fn a_port_stays_aimed_at_while_its_application_is_started_again() {
        let web = services(&["127.0.0.1:80", "10.0.0.5:81"]);
        let all = ["0.0.0.0:80", "0.0.0.0:81", "[::]:80", "[::]:81"];
        assert_eq!(
            (of(&web, &[]), of(&web, &["0.0.0.0:83"])),
            (all.map(str::to_owned).into(), all.map(str::to_owned).into())
        );
        assert_eq!(of(&web, &["127.0.0.1:80", "10.0.0.6:81"]), ["10.0.0.5:81"], "another one is elsewhere");
        let (target, at) = ("127.0.0.1:80".parse().unwrap(), "10.0.0.5:80".parse().unwrap());
        let open = |listening: &[&str]| is_open(target, at, &addresses(listening));
        assert!(!open(&[]) && !open(&["127.0.0.1:80"]) && open(&["0.0.0.0:80"]) && open(&["[::]:80"]));
        assert!(!is_open(target, "[fd00::5]:80".parse().unwrap(), &addresses(&["0.0.0.0:80"])));
    }

    #[test]
    fn an_application_at_every_address_is_captured_at_each_though_its_target_names_one() {
        let web = services(&["10.0.0.5:81"]);
        assert_eq!(of(&web, &["0.0.0.0:81"]), ["0.0.0.0:81"]);
        assert_eq!(of(&web, &["10.0.0.5:81"]), ["10.0.0.5:81"]);
    }
}
